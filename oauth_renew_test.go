package main

// Refresh, the grants without a browser, and what happens to a credential over time: in bubbles, with both servers
// on a network in memory and the store on disk.

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// signedIn has the store hold a credential, as if a person had signed in.
func (w *signInWorld) signedIn() *authorizer {
	w.t.Helper()
	a := w.instance(nil)
	w.as.mu.Lock()
	doc := map[string]any{"client_id": "client-0", "issuer": w.as.issuer, "redirect_uris": []any{a.redirectTo(w.port)}}
	w.as.clients["client-0"] = doc
	family := &fakeFamily{client: "client-0", scope: "mcp:read", resource: w.server.url, current: w.as.secret("refresh")}
	w.as.refreshes[family.current] = family
	access := w.as.secret("access")
	w.as.tokens[access] = &fakeToken{family.scope, time.Now(), family}
	w.as.mu.Unlock()
	t := &tokens{Access: access, Type: "Bearer", Lifetime: 3600, Expires: loose(time.Now().Add(time.Hour).UnixMilli()), Scope: family.scope,
		Refresh: family.current, Issuer: w.as.issuer, Location: w.server.location()}
	for name, v := range map[string]any{"tokens.json": t, "client_info.json": doc} {
		if err := a.store.writeJSON(a.file(name), v); err != nil {
			w.t.Fatal(err)
		}
	}
	return a
}

func (w *signInWorld) mustCall(a *authorizer) {
	w.t.Helper()
	if status, err := w.call(w.t.Context(), a); err != nil || status != 200 {
		w.t.Errorf("call: %d, %v", status, err)
	}
}

func TestRefreshBeforeExpiry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newMemWorld(t)
		w.as.rotate = true
		a := w.signedIn()
		w.mustCall(a)
		if at := time.Until(a.refreshAt()); at != 59*time.Minute {
			t.Errorf("refresh in %v, want 59m0s", at)
		}
		for range 5 { // each lives an hour, each is rotated
			time.Sleep(time.Until(a.refreshAt()) + time.Second)
			w.mustCall(a)
		}
		if n := w.as.count("POST /tenant/token"); n != 5 {
			t.Errorf("%d refreshes, want 5", n)
		}
		if f := w.as.form(); f.Get("resource") != w.server.url || f.Get("scope") != "mcp:read" {
			t.Errorf("the refresh request lacks something: %v", f)
		}
		if slices.Contains(w.server.bearers, "") || len(w.server.bearers) != 6 {
			t.Errorf("the server has seen %d requests", len(w.server.bearers))
		}
		if strings.Contains(w.log(), "hint:") {
			t.Error("a person was bothered")
		}
	})
}

// Who asks for a token may give up while it is refreshed, or the whole line may end: the server has rotated the refresh
// token by then, and the new one must not be lost.
func TestRefreshOutlivesItsCaller(t *testing.T) {
	for _, memory := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			w := newMemWorld(t)
			w.as.rotate = true
			w.signedIn()
			a := w.instance(func(o *authOptions) { o.unattended = true })
			if stored := a.stored(); memory {
				client, _ := a.store.read(a.file("client_info.json"))
				a.store = &store{log: a.log}
				if err := errors.Join(a.store.writeJSON(a.file("tokens.json"), stored), a.store.write(a.file("client_info.json"), client)); err != nil {
					t.Fatal(err)
				}
			}
			w.mustCall(a)
			time.Sleep(59*time.Minute + time.Second)
			for _, slow := range []time.Duration{lastMoment / 2, 10 * time.Second} {
				w.as.once("/token", func(rw http.ResponseWriter, r *http.Request) {
					answer := httptest.NewRecorder()
					w.as.token(answer, r)
					time.Sleep(slow)
					maps.Copy(rw.Header(), answer.Header())
					rw.Write(answer.Body.Bytes())
				})
				before, start := a.inUse().Refresh, time.Now()
				ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
				if _, err := a.token(ctx); err == nil || time.Since(start) > lastMoment+time.Second/10 {
					t.Errorf("%v after %v", err, time.Since(start))
				}
				cancel()
				w.mustCall(a) // meanwhile nobody asks again
				if a.inUse().Refresh == before || a.stored().Refresh != a.inUse().Refresh {
					t.Error("the new refresh token is not there")
				}
				time.Sleep(59*time.Minute + time.Second)
			}
			if n := w.as.count("POST /tenant/token"); n != 2 || w.as.reused != 0 {
				t.Errorf("%d refreshes, %d reuses", n, w.as.reused)
			}
			w.mustCall(a)
		})
	}
}

// An idle line has its token renewed too: a stream that is open must not outlive its credential.
func TestRefreshWhileIdle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newMemWorld(t)
		w.as.rotate = true
		a := w.signedIn()
		ctx, end := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() { newKeeper(a, "http://localhost:8080").run(ctx); close(ended) }()
		for range 100 {
			time.Sleep(10 * time.Minute)
			if w.as.valid(a.inUse().Access) == nil {
				t.Fatal("the token has expired")
			}
		}
		end()
		<-ended
		if n := w.as.count("POST /tenant/token"); n != 16 {
			t.Errorf("%d refreshes in 1000 minutes, want 16", n)
		}
	})
}

// The client's initialize is answered inside its 60 s, with what a person has to do, and the sign-in goes on.
func TestInitializeDuringSignIn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, s := newMemNet(), &fakeServer{}
		s.start(t, n.listen("mcp.test:80"))
		s.fail(fault{on: "initialize", answer: answerStatus(http.StatusUnauthorized, "WWW-Authenticate", "Bearer")})
		h := newHost(t, n, testOptions())
		signed := make(chan error)
		h.b.world.signIn = func(_ context.Context, _ string, _ int, waiting func(string)) error {
			waiting("Open https://login.example.com/authorize?x=1 or run: mcp-redial login URL")
			return <-signed
		}
		h.say(`{"jsonrpc":"2.0","id":1,"method":"initialize","params":` + victimHello + `}`)
		got := h.answer("1", 59*time.Second)
		for _, want := range []string{"-31003", "is not finished", "https://login.example.com/authorize?x=1", "mcp-redial login URL"} {
			if !strings.Contains(got, want) {
				t.Errorf("no %s in %s", want, got)
			}
		}
		time.Sleep(5 * time.Minute)
		signed <- nil
		h.hello()
	})
}

// A token that nobody said the lifetime of is used until it is refused.
func TestRefreshOn401(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newMemWorld(t)
		w.as.lifetime = 0
		a := w.signedIn()
		w.mustCall(a)
		time.Sleep(30 * time.Hour)
		w.as.revokeAccess()
		w.mustCall(a)
		time.Sleep(30 * time.Hour)
		w.as.revokeAccess()
		w.mustCall(a)
		if n := w.as.count("POST /tenant/token"); n != 2 {
			t.Errorf("%d refreshes, want 2", n)
		}
	})
}

// A lifetime of thousands of years, perhaps meant in milliseconds, is one.
func TestRefreshLifetimes(t *testing.T) {
	a := &authorizer{}
	for lifetime, want := range map[loose]time.Duration{1: 250 * time.Millisecond, 60: 15 * time.Second, 240: time.Minute, 3600: time.Minute,
		40e9: time.Minute, 1e12: time.Minute, 1e15 - 1: time.Minute} {
		expires := time.Now().UnixMilli()
		got := a.timed(&tokens{Refresh: "r", Lifetime: lifetime, Expires: loose(expires)})
		if ahead := time.UnixMilli(expires).Sub(got.renewAt); ahead != want {
			t.Errorf("after a lifetime of %.0f s the token is renewed %v ahead of its end, want %v", float64(lifetime), ahead, want)
		}
	}
}

// The echo of a request that was sent with the token before the last refresh means nothing.
func TestLate401(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newMemWorld(t)
		a := w.signedIn()
		old, err := a.token(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(59*time.Minute + time.Second)
		w.mustCall(a)
		for range 50 {
			a.refused(old)
			if err := a.signIn(t.Context(), "Bearer", 401, func(string) { t.Error("a person was asked") }); err != nil {
				t.Fatal(err)
			}
		}
		if n := w.as.count("POST /tenant/token"); n != 1 {
			t.Errorf("%d refreshes, want 1", n)
		}
	})
}

// A network fault, a 5xx or a gateway's page is an outage: the tokens are kept and nobody is asked.
func TestRefreshOutage(t *testing.T) {
	for _, tt := range []struct {
		name string
		down http.HandlerFunc
		wait time.Duration
	}{
		{"503 with Retry-After", func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Retry-After", "7")
			http.Error(w, "down", http.StatusServiceUnavailable)
		}, 7 * time.Second},
		{"a captive portal", func(w http.ResponseWriter, r *http.Request) {
			http.Error(w, "<html>log in to the hotel</html>", http.StatusForbidden)
		}, 0},
		{"429", func(w http.ResponseWriter, r *http.Request) { http.Error(w, "slow", http.StatusTooManyRequests) }, 0},
		{"a reset", func(w http.ResponseWriter, r *http.Request) { panic(http.ErrAbortHandler) }, 0},
		{"silence", func(w http.ResponseWriter, r *http.Request) { r.ParseForm(); <-r.Context().Done() }, 0},
		{"temporarily_unavailable", oauthError(http.StatusBadRequest, "temporarily_unavailable"), 0},
		{"server_error", oauthError(http.StatusInternalServerError, "server_error"), 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newMemWorld(t)
				a := w.signedIn()
				w.mustCall(a)
				w.as.mu.Lock()
				w.as.always["/token"] = tt.down
				w.as.mu.Unlock()
				time.Sleep(59*time.Minute + time.Second)
				w.mustCall(a) // the old one is still good
				for range 3 {
					time.Sleep(2 * time.Minute)
					_, err := w.call(t.Context(), a)
					var e *signInError
					if !errors.As(err, &e) || !e.outage || e.wait != tt.wait {
						t.Fatalf("error %v (%+v), want an outage that lasts %v", err, e, tt.wait)
					}
				}
				w.as.mu.Lock()
				delete(w.as.always, "/token")
				w.as.mu.Unlock()
				w.mustCall(a)
				if strings.Contains(w.log(), "hint:") {
					t.Error("a person was bothered")
				}
			})
		})
	}
}

// Only a verdict on the grant asks a person again; then everything that was judged is forgotten.
func TestRefreshVerdict(t *testing.T) {
	for code, keepsClient := range map[string]bool{"invalid_grant": true, "invalid_request": true, "invalid_client": false, "unauthorized_client": false} {
		t.Run(code, func(t *testing.T) {
			w := newWorld(t)
			a := w.signedIn()
			w.as.revokeAccess()
			w.as.once("/token", oauthError(http.StatusBadRequest, code))
			w.person()
			w.mustCall(a)
			if n := w.as.count("POST /tenant/register"); (n == 0) != keepsClient {
				t.Errorf("%d registrations", n)
			}
			if n := w.as.count("GET /tenant/authorize"); n != 1 {
				t.Errorf("%d authorizations, want 1", n)
			}
		})
	}
}

func TestPresentIDToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newMemWorld(t)
		w.as.idTokenLife = 10 * time.Minute
		w.signedIn()
		a := w.instance(func(o *authOptions) { o.useIDToken = true })
		w.mustCall(a) // the stored sign-in has none: the access token does
		time.Sleep(59*time.Minute + time.Second)
		w.mustCall(a)
		w.server.mu.Lock()
		last := w.server.bearers[len(w.server.bearers)-1]
		w.server.mu.Unlock()
		if strings.Count(last, ".") != 2 {
			t.Error("the id token was not presented")
		}
		if at := time.Until(a.refreshAt()); at != 9*time.Minute {
			t.Errorf("refresh in %v, want 9m0s: the id token's own expiry", at)
		}
		// A server whose clock is behind issues id tokens that have expired already: no refresh at every call.
		w.as.mu.Lock()
		w.as.idTokenLife = -time.Hour
		w.as.mu.Unlock()
		time.Sleep(10 * time.Minute)
		before := w.as.count("POST /tenant/token")
		for range 20 {
			w.mustCall(a)
		}
		if n := w.as.count("POST /tenant/token") - before; n != 1 {
			t.Errorf("%d refreshes, want 1", n)
		}
	})
}

// Ten instances whose token expires together refresh once, although the server detects reuse.
func TestTenRefreshOnce(t *testing.T) {
	for _, tt := range []struct {
		name string
		left func(a *authorizer) // what lies in the store
	}{
		{"nothing in the way", func(a *authorizer) {}},
		{"the lease of a process that died", func(a *authorizer) {
			a.store.write(a.file("refresh_in_progress.json"), []byte(`{"pid":999999999,"nonce":"n","at":99999999999999}`))
		}},
		{"a lease from the future", func(a *authorizer) {
			a.store.write(a.file("refresh_in_progress.json"), fmt.Appendf(nil, `{"pid":%d,"nonce":"n","at":99999999999999}`, os.Getpid()))
		}},
		{"a lease that is too old", func(a *authorizer) {
			a.store.write(a.file("refresh_in_progress.json"), []byte(`{"pid":1,"nonce":"n","at":1}`))
		}},
		{"a damaged lease", func(a *authorizer) { a.store.write(a.file("refresh_in_progress.json"), []byte(`{`)) }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorldWithoutBrowser(t)
			w.as.rotate = true
			first := w.signedIn()
			w.as.revokeAccess()
			tt.left(first)
			if tt.name == "a damaged lease" {
				old := time.Now().Add(-time.Hour)
				if err := first.store.root.Chtimes(first.file("refresh_in_progress.json"), old, old); err != nil {
					t.Fatal(err)
				}
			}
			var wg sync.WaitGroup
			for range 10 {
				a := w.instance(nil)
				wg.Go(func() { w.mustCall(a) })
			}
			wg.Wait()
			if n := w.as.count("POST /tenant/token"); n != 1 || w.as.reused != 0 {
				t.Errorf("%d refreshes, %d reuses; want 1 and 0", n, w.as.reused)
			}
			if left, _ := first.store.list(first.file("refresh_in_progress")); len(left) != 0 {
				t.Errorf("left behind: %v", left)
			}
		})
	}
}

// The lease has one owner at a time, even if many find the same abandoned one.
func TestLease(t *testing.T) {
	w := newWorldWithoutBrowser(t)
	var mu sync.Mutex
	owners := 0
	var wg sync.WaitGroup
	for range 8 {
		a := w.instance(nil)
		wg.Go(func() {
			for i := 0; i < 50; {
				if i%10 == 0 && mu.TryLock() { // nobody holds it: somebody dies with it
					if owners == 0 {
						a.store.create("lease", []byte(`{"pid":999999999,"nonce":"n","at":99999999999999}`))
					}
					mu.Unlock()
				}
				release, ours := a.store.lease("lease")
				if !ours {
					continue
				}
				mu.Lock()
				if owners++; owners != 1 {
					t.Errorf("%d owners", owners)
				}
				mu.Unlock()
				mu.Lock()
				owners--
				mu.Unlock()
				release()
				i++
			}
		})
	}
	wg.Wait()
}

// newWorldWithoutBrowser fails if a person is asked for anything.
func newWorldWithoutBrowser(t *testing.T) *signInWorld {
	w := newWorld(t)
	t.Cleanup(func() {
		if strings.Contains(w.log(), "hint:") || len(w.shown) > 0 {
			t.Error("a person was asked")
		}
	})
	return w
}

func keyPEM(t *testing.T, key any) []byte {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
}

func TestClientCredentials(t *testing.T) {
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	rs, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name    string
		info    string
		methods []string
		key     crypto.Signer
		algs    []string
		direct  bool // --token-endpoint
	}{
		{name: "basic", info: `{"client_id":"id &:","client_secret":"planted-secret %:+é"}`, methods: []string{"client_secret_basic"}},
		{name: "basic by default", info: `{"client_id":"id","client_secret":"planted-secret"}`},
		{name: "post", info: `{"client_id":"id","client_secret":"planted-secret"}`, methods: []string{"client_secret_post"}},
		{name: "post, said so", info: `{"client_id":"id","client_secret":"planted-secret","token_endpoint_auth_method":"client_secret_post"}`, methods: []string{"client_secret_basic", "client_secret_post"}},
		{name: "ES256", info: `{"client_id":"id"}`, key: ec},
		{name: "RS256", info: `{"client_id":"id"}`, key: rs, algs: []string{"PS256", "RS256"}},
		{name: "PS256", info: `{"client_id":"id"}`, key: rs, algs: []string{"PS256", "ES256"}},
		{name: "EdDSA", info: `{"client_id":"id"}`, key: ed},
		{name: "no discovery", info: `{"client_id":"id","client_secret":"planted-secret"}`, direct: true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newMemWorld(t)
				var client map[string]any
				if err := json.Unmarshal([]byte(tt.info), &client); err != nil {
					t.Fatal(err)
				}
				secret, _ := client["client_secret"].(string)
				w.as.secrets = append(w.as.secrets, secret)
				if tt.name == "post" {
					client["token_endpoint_auth_method"] = "client_secret_post"
				}
				w.as.clients[client["client_id"].(string)] = client
				w.as.metadata["token_endpoint_auth_methods_supported"] = tt.methods
				if tt.methods == nil {
					w.as.metadata["token_endpoint_auth_methods_supported"] = nil
				}
				if tt.algs != nil {
					w.as.metadata["token_endpoint_auth_signing_alg_values_supported"] = tt.algs
				}
				var private []byte
				if tt.key != nil {
					w.as.publicKey, private = tt.key.Public(), keyPEM(t, tt.key)
				}
				a := w.instance(func(o *authOptions) {
					o.clientCredentials, o.staticInfo, o.privateKeyPEM = true, json.RawMessage(tt.info), private
					if tt.direct {
						o.tokenEndpoint = w.as.issuer + "/token"
					}
				})
				w.mustCall(a)
				time.Sleep(59*time.Minute + time.Second)
				w.mustCall(a)
				if n := w.as.count("POST /tenant/token"); n != 2 {
					t.Errorf("%d grants, want 2", n)
				}
				if tt.direct && len(w.as.requests) != 2 {
					t.Errorf("requests %q", w.as.requests)
				}
				if strings.Contains(readStore(t, w, a, "client_info.json"), "planted") {
					t.Error("the secret was stored")
				}
			})
		})
	}
}

func TestDeviceCode(t *testing.T) {
	for _, tt := range []struct {
		name string
		edit func(*signInWorld)
		want string
		took time.Duration
	}{
		{name: "at once", took: 2 * time.Second},
		{name: "pending, then slow down", edit: func(w *signInWorld) {
			w.as.pendings = 2
			w.as.once("/token", oauthError(400, "slow_down"))
		}, took: 2*time.Second + 3*7*time.Second},
		{name: "an outage on the way", edit: func(w *signInWorld) {
			w.as.once("/token", func(rw http.ResponseWriter, r *http.Request) { rw.WriteHeader(503) })
		}, took: 4 * time.Second},
		{name: "denied", edit: func(w *signInWorld) { w.as.deny = "access_denied" }, want: "access_denied"},
		{name: "too late", edit: func(w *signInWorld) { w.as.pendings = 1e6 }, want: "not entered in time"},
		{name: "too late, whatever the server allows", edit: func(w *signInWorld) {
			w.as.pendings = 1e6
			w.as.device = map[string]any{"expires_in": 1e14, "interval": "1e14"}
		}, want: "not entered in time", took: 10 * time.Minute},
		{name: "no pause at all", edit: func(w *signInWorld) {
			w.as.pendings = 3
			w.as.device = map[string]any{"interval": -1}
		}, took: 4 * 5 * time.Second},
		{name: "not offered", edit: func(w *signInWorld) { w.as.metadata["device_authorization_endpoint"] = nil }, want: "no device flow"},
		{name: "an address for a shell", edit: func(w *signInWorld) {
			w.as.always["/device"] = func(rw http.ResponseWriter, r *http.Request) {
				writeJSON(rw, 200, map[string]any{"device_code": "d", "user_code": "u", "verification_uri": "javascript:alert(1)"})
			}
		}, want: "verification address"},
		{name: "an interval that overflows", edit: func(w *signInWorld) {
			polls := 0
			w.as.always["/token"] = func(rw http.ResponseWriter, r *http.Request) {
				if polls++; polls > 50 {
					oauthError(400, "access_denied")(rw, r)
				} else {
					oauthError(400, "authorization_pending")(rw, r)
				}
			}
			w.as.always["/device"] = func(rw http.ResponseWriter, r *http.Request) {
				writeJSON(rw, 200, map[string]any{"device_code": "d", "user_code": "u", "verification_uri": w.as.issuer + "/activate", "interval": 1e10})
			}
		}, want: "not entered in time"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newMemWorld(t)
				if tt.edit != nil {
					tt.edit(w)
				}
				a := w.instance(func(o *authOptions) { o.deviceCode = true })
				start := time.Now()
				status, err := w.call(t.Context(), a)
				wantError(t, err, tt.want)
				if tt.took != 0 && (tt.want == "" && status != 200 || time.Since(start) != tt.took || !strings.Contains(w.log(), "WDJB-MJHT")) {
					t.Errorf("status %d after %v, want 200 after %v", status, time.Since(start), tt.took)
				}
				left, err := a.store.list(a.file("discovery"))
				if tt.want != "not entered in time" && len(left) != 0 || err != nil {
					t.Errorf("left %v, %v", left, err)
				}
			})
		})
	}
}

// Ten instances show one code, and ask in turn whether it has been entered. None of them is needed for that: the one
// that has got the code ends before it is.
func TestTenDeviceCodes(t *testing.T) {
	for _, deny := range []string{"", "access_denied"} {
		t.Run(deny, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newMemWorld(t)
				w.as.pendings, w.as.deny = 5, deny
				device := func(o *authOptions) { o.deviceCode = true }
				ctx, end := context.WithCancel(t.Context())
				first := w.instance(device)
				ended := make(chan error, 10)
				go func() { _, err := w.call(ctx, first); ended <- err }()
				<-w.hints
				end()
				if err := <-ended; !errors.Is(err, context.Canceled) {
					t.Fatal(err)
				}
				for range 10 {
					a := w.instance(device)
					go func() { _, err := w.call(t.Context(), a); ended <- err }()
				}
				denied := 0
				for range 10 {
					switch err := <-ended; {
					case deny == "" && err != nil:
						t.Error(err)
					case deny != "" && strings.Contains(fmt.Sprint(err), deny):
						denied++
					case deny != "":
						wantError(t, err, "without success in another instance")
					}
				}
				if deny != "" && denied != 1 {
					t.Errorf("%d were denied", denied)
				}
				if codes, polls, clients := w.as.count("POST /tenant/device"), w.as.count("POST /tenant/token"), w.as.count("POST /tenant/register"); codes != 1 || polls != 6 || clients != 1 {
					t.Errorf("%d codes, asked for %d times, by %d clients; want 1, 6 and 1", codes, polls, clients)
				}
				if len(w.hints) != 10 {
					t.Errorf("%d were told", len(w.hints))
				}
			})
		})
	}
}

// A code is for the scopes that it was asked for.
func TestDeviceCodeOfAnotherScope(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newMemWorld(t)
		w.as.pendings = 1
		ctx, end := context.WithCancel(t.Context())
		w.server.scope = "mcp:read"
		a := w.instance(func(o *authOptions) { o.deviceCode = true })
		go func() { <-w.hints; end() }()
		if _, err := w.call(ctx, a); !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
		w.server.mu.Lock()
		w.server.scope = "mcp:write"
		w.server.mu.Unlock()
		w.mustCall(w.instance(func(o *authOptions) { o.deviceCode = true }))
		if got := a.stored().Scope; got != "mcp:write" || w.as.count("POST /tenant/device") != 2 {
			t.Errorf("granted %q", got)
		}
	})
}

// A code that is good for years, as only a damaged store has it, keeps nobody waiting.
func TestDeviceCodeForYears(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newMemWorld(t)
		w.as.pendings = 1
		ctx, end := context.WithCancel(t.Context())
		a := w.instance(func(o *authOptions) { o.deviceCode = true })
		go func() { <-w.hints; end() }()
		if _, err := w.call(ctx, a); !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
		name, d, years := a.file("discovery_state_device.json"), new(discovery), time.Now().Add(10000*time.Hour)
		if err := a.store.readJSON(name, d); err != nil {
			t.Fatal(err)
		}
		d.Device.Until, d.Device.Next = years, years
		if err := a.store.writeJSON(name, d); err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		w.mustCall(w.instance(func(o *authOptions) { o.deviceCode = true }))
		if took := time.Since(start); took > time.Minute {
			t.Errorf("it took %v", took)
		}
	})
}

// A code that somebody else got from another authorization server meanwhile is not asked for with our client secret.
func TestDeviceCodeOfAnotherIssuer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newMemWorld(t)
		w.as.pendings = 1e6
		a := w.instance(func(o *authOptions) {
			o.deviceCode, o.staticInfo = true, json.RawMessage(`{"client_id":"client-s","client_secret":"s3cret","token_endpoint_auth_method":"client_secret_post","issuer":"`+w.as.issuer+`"}`)
		})
		w.as.clients["client-s"] = map[string]any{"client_secret": "s3cret", "token_endpoint_auth_method": "client_secret_post"}
		go func() {
			<-w.hints
			d := new(discovery)
			if err := a.store.readJSON(a.file("discovery_state_device.json"), d); err != nil {
				t.Error(err)
			}
			d.Server.Issuer, d.Server.Token = "https://evil.example.com", w.as.issuer+"/elsewhere"
			if err := a.store.writeJSON(a.file("discovery_state_device.json"), d); err != nil {
				t.Error(err)
			}
		}()
		_, err := w.call(t.Context(), a)
		wantError(t, err, "without success in another instance")
		if n := w.as.count("POST /tenant/elsewhere"); n != 0 {
			t.Errorf("the client showed itself %d times", n)
		}
	})
}

func TestSignInCanBeCancelled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newMemWorld(t)
		w.as.pendings = 1e6
		a := w.instance(func(o *authOptions) { o.deviceCode = true })
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Minute, cancel)
		if _, err := w.call(ctx, a); !errors.Is(err, context.Canceled) {
			t.Errorf("error %v", err)
		}
		if _, err := a.token(t.Context()); err != nil {
			t.Errorf("the turn was not given back: %v", err)
		}
	})
}

// A server that refuses every token that is issued for it stops us soon (storm brake).
func TestStorm(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newMemWorld(t)
		w.server.refuseAll = true
		w.as.clients["id"] = map[string]any{"client_id": "id", "client_secret": "planted-s"}
		w.as.metadata["token_endpoint_auth_methods_supported"] = nil
		a := w.instance(func(o *authOptions) {
			o.clientCredentials, o.staticInfo = true, json.RawMessage(`{"client_id":"id","client_secret":"planted-s"}`)
		})
		var err error
		for range 100 {
			if _, err = w.call(t.Context(), a); err != nil {
				break
			}
		}
		wantError(t, err, "stopped after 4 sign-ins")
		if n := w.as.count("POST /tenant/token"); n > 4 {
			t.Errorf("%d tokens", n)
		}
		time.Sleep(time.Minute)
		w.server.mu.Lock()
		w.server.refuseAll = false
		w.server.mu.Unlock()
		w.mustCall(a)
	})
}

func TestLogout(t *testing.T) {
	for _, tt := range []struct {
		name    string
		edit    func(*signInWorld)
		want    string
		revoked bool
	}{
		{name: "revoked", revoked: true},
		{name: "revocation is not offered", edit: func(w *signInWorld) { w.as.metadata["revocation_endpoint"] = nil }},
		{name: "the authorization server is down", edit: func(w *signInWorld) {
			w.as.always["/revoke"] = func(rw http.ResponseWriter, r *http.Request) { rw.WriteHeader(502) }
		}, want: "502"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newMemWorld(t)
				if tt.edit != nil {
					tt.edit(w)
				}
				a := w.signedIn()
				a.store.write(a.file("handshake.json"), []byte("{}"))
				a.store.write("another_tokens.json", []byte("{}"))
				wantError(t, a.logout(t.Context()), tt.want)
				left, err := a.store.list("")
				if err != nil || len(left) != 1 || left[0].name != "another_tokens.json" {
					t.Errorf("left: %v, %v", left, err)
				}
				if len(w.as.tokens) == 0 != tt.revoked {
					t.Errorf("%d tokens live", len(w.as.tokens))
				}
				if s, err := a.token(t.Context()); err != nil || !s.empty() {
					t.Error("the token is still in use")
				}
			})
		})
	}
}

// After a 401 the resource's metadata is read again: a new authorization server gets nothing of the old one.
func TestMigration(t *testing.T) {
	w := newWorld(t)
	w.person()
	a := w.instance(nil)
	w.mustCall(a)
	old := w.as
	oldID := old.query().Get("client_id")
	next := newFakeAS(strings.TrimSuffix(old.issuer, "/tenant") + "/other")
	next.n = 100
	mux := http.HandlerFunc(next.ServeHTTP)
	for _, p := range []string{"/register", "/token", "/authorize"} { // both live behind one listener
		old.always["/other"+p] = mux
	}
	old.mu.Lock()
	old.always["/.well-known/oauth-authorization-server/other"] = mux
	old.mu.Unlock()
	w.server.mu.Lock()
	w.server.as = next
	w.server.mu.Unlock()
	w.mustCall(a)
	if len(next.regs) != 1 || next.query().Get("client_id") == oldID || next.form().Get("client_id") == oldID {
		t.Error("the new authorization server has seen what belongs to the old one")
	}
	if n := old.count("POST /tenant/token"); n != 1 {
		t.Errorf("the old one has been asked %d times", n)
	}
}

// Step-up: the union of scopes, and an end to it (MCP 2026-07-28, Scope challenge handling).
func TestStepUp(t *testing.T) {
	w := newWorld(t)
	w.server.scope = "mcp:basic"
	w.server.needs = func(r *http.Request) string {
		return map[string]string{"op=write": "mcp:write", "op=never": "mcp:never"}[r.URL.RawQuery]
	}
	w.person()
	a := w.instance(nil)
	w.mustCall(a)
	if status, err := w.callOp(t.Context(), a, "?op=write"); err != nil || status != 200 {
		t.Fatalf("%d, %v", status, err)
	}
	if scope := w.as.query().Get("scope"); scope != "mcp:basic mcp:write" {
		t.Errorf("asked for %q", scope)
	}
	w.as.mu.Lock()
	w.as.narrow = "mcp:basic mcp:write"
	w.as.mu.Unlock()
	before := w.as.count("GET /tenant/authorize")
	for range 3 {
		_, err := w.callOp(t.Context(), a, "?op=never")
		wantError(t, err, "wants more than the scope")
	}
	if n := w.as.count("GET /tenant/authorize") - before; n != 1 {
		t.Errorf("%d more authorizations, want 1", n)
	}
	if err := a.signIn(t.Context(), "Bearer", 403, func(string) {}); err == nil {
		t.Error("a 403 without insufficient_scope is no step-up")
	}
}

func TestScopes(t *testing.T) {
	for _, tt := range []struct {
		name                    string
		pinned, metadata        string
		challenge               string
		resource, server        []string
		want, prompt, requested string
	}{
		{name: "nothing said"},
		{name: "the challenge", challenge: "a b", resource: []string{"c"}, want: "a b"},
		{name: "the resource", resource: []string{"c", "d"}, want: "c d"},
		{name: "a person", pinned: "x", challenge: "a", want: "x", requested: "x"},
		{name: "a person, in the client's metadata", metadata: `{"scope":"y"}`, challenge: "a", want: "y", requested: "y"},
		{name: "offline_access where it is known", challenge: "a", server: []string{"offline_access"}, want: "a offline_access", prompt: "consent"},
		{name: "offline_access where nothing is asked for", server: []string{"offline_access"}},
		{name: "no scopes of the authorization server", server: []string{"a", "b"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t)
			w.server.scope = tt.challenge
			if tt.resource != nil {
				w.server.metadata = map[string]any{"resource": w.server.url, "authorization_servers": []string{w.as.issuer}, "scopes_supported": tt.resource}
			}
			if tt.server != nil {
				w.as.metadata["scopes_supported"] = tt.server
			}
			w.person()
			a := w.instance(func(o *authOptions) {
				if o.scope = tt.pinned; tt.metadata != "" {
					o.staticMetadata = json.RawMessage(tt.metadata)
				}
			})
			w.mustCall(a)
			q := w.as.query()
			if q.Get("scope") != tt.want || q.Has("scope") != (tt.want != "") || q.Get("prompt") != tt.prompt {
				t.Errorf("asked for %q with prompt %q", q.Get("scope"), q.Get("prompt"))
			}
			if got := readStore(t, w, a, "tokens.json"); strings.Contains(got, "requested_scope") != (tt.requested != "") {
				t.Errorf("stored %s", got)
			}
		})
	}
}

func TestResourceParameter(t *testing.T) {
	for name, tt := range map[string]struct {
		edit func(*authOptions)
		want func(w *signInWorld) string
	}{
		"as published": {func(o *authOptions) {}, func(w *signInWorld) string { return w.server.url }},
		"chosen":       {func(o *authOptions) { o.resource = "api://x" }, func(w *signInWorld) string { return "api://x" }},
		"none":         {func(o *authOptions) { o.noResource = true }, func(w *signInWorld) string { return "" }},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.person()
			w.mustCall(w.instance(tt.edit))
			if q, f := w.as.query(), w.as.form(); q.Get("resource") != tt.want(w) || f.Get("resource") != tt.want(w) || q.Has("resource") != (tt.want(w) != "") {
				t.Errorf("resource %q and %q", q.Get("resource"), f.Get("resource"))
			}
		})
	}
}

func TestRegistration(t *testing.T) {
	const document = "https://client.example.com/id.json"
	for _, tt := range []struct {
		name  string
		edit  func(*signInWorld)
		opts  func(*authOptions)
		id    string
		want  string
		check func(t *testing.T, w *signInWorld)
	}{
		{name: "public", check: func(t *testing.T, w *signInWorld) {
			doc := w.as.regs[0]
			if doc["token_endpoint_auth_method"] != "none" || doc["application_type"] != "native" || fmt.Sprint(doc["grant_types"]) != "[authorization_code refresh_token]" {
				t.Errorf("registered %v", doc)
			}
		}},
		{name: "with a secret, basic", edit: func(w *signInWorld) {
			w.as.metadata["token_endpoint_auth_methods_supported"] = []string{"client_secret_basic"}
		}},
		{name: "with a secret, post", edit: func(w *signInWorld) {
			w.as.metadata["token_endpoint_auth_methods_supported"] = []string{"client_secret_post", "private_key_jwt"}
		}},
		{name: "with a secret for a key that we have not", edit: func(w *signInWorld) {
			w.as.metadata["token_endpoint_auth_methods_supported"] = []string{"private_key_jwt"}
			w.as.always["/register"] = func(rw http.ResponseWriter, r *http.Request) {
				w.as.clients["x"] = map[string]any{"client_id": "x", "client_secret": "planted-x"}
				w.as.regs = append(w.as.regs, w.as.clients["x"])
				writeJSON(rw, 201, map[string]any{"client_id": "x", "client_secret": "planted-x", "token_endpoint_auth_method": "private_key_jwt"})
			}
		}},
		{name: "with a secret that nobody asked for", edit: func(w *signInWorld) {
			w.as.always["/register"] = func(rw http.ResponseWriter, r *http.Request) {
				w.as.clients["x"] = map[string]any{"client_id": "x", "client_secret": "planted-x"}
				w.as.regs = append(w.as.regs, w.as.clients["x"])
				writeJSON(rw, 200, map[string]any{"client_id": "x", "client_secret": "planted-x"})
			}
		}, check: func(t *testing.T, w *signInWorld) { // the next process knows it too
			w.as.revokeAccess()
			w.mustCall(w.instance(nil))
			if n := w.as.count("GET /tenant/authorize"); n != 1 {
				t.Errorf("%d authorizations", n)
			}
		}},
		{name: "a person's additions", opts: func(o *authOptions) {
			o.staticMetadata = json.RawMessage(`{"client_name":"Ours","contacts":["a@example.com"]}`)
		},
			check: func(t *testing.T, w *signInWorld) {
				if doc := w.as.regs[0]; doc["client_name"] != "Ours" || doc["contacts"] == nil {
					t.Errorf("registered %v", doc)
				}
			}},
		{name: "a document where it is understood", edit: func(w *signInWorld) {
			w.as.metadata["client_id_metadata_document_supported"] = true
			w.as.clients[document] = map[string]any{"client_id": document}
		}, opts: func(o *authOptions) { o.metadataURL = document }, id: document},
		{name: "a document where it is not", opts: func(o *authOptions) { o.metadataURL = document }},
		{name: "registered before", edit: func(w *signInWorld) { w.as.clients["mine"] = map[string]any{"client_id": "mine"} },
			opts: func(o *authOptions) { o.staticInfo = json.RawMessage(`{"client_id":"mine"}`) }, id: "mine"},
		{name: "registered elsewhere", opts: func(o *authOptions) {
			o.staticInfo = json.RawMessage(`{"client_id":"mine","issuer":"https://elsewhere.example.com"}`)
		}, want: "for another authorization server"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t)
			if tt.edit != nil {
				tt.edit(w)
			}
			w.person()
			a := w.instance(tt.opts)
			_, err := w.call(t.Context(), a)
			wantError(t, err, tt.want)
			if tt.want != "" {
				return
			}
			if id := w.as.query().Get("client_id"); tt.id != "" && id != tt.id {
				t.Errorf("client id %q, want %q", id, tt.id)
			}
			if n := len(w.as.regs); (n == 0) != (tt.id != "") {
				t.Errorf("%d registrations", n)
			}
			if tt.check != nil {
				tt.check(t, w)
			}
		})
	}
}

// A registration is used again for the same issuer and redirect address only, and not past its end.
func TestRegistrationIsBound(t *testing.T) {
	for _, tt := range []struct {
		name string
		edit func(doc map[string]any)
		used bool
	}{
		{"fits", func(doc map[string]any) {}, true},
		{"another issuer", func(doc map[string]any) { doc["issuer"] = "https://elsewhere.example.com" }, false},
		{"no issuer", func(doc map[string]any) { delete(doc, "issuer") }, false},
		{"another redirect address", func(doc map[string]any) { doc["redirect_uris"] = []string{"http://localhost:1/oauth/callback"} }, false},
		{"expired", func(doc map[string]any) { doc["client_secret_expires_at"] = 1 }, false},
		{"no id", func(doc map[string]any) { delete(doc, "client_id") }, false},
		{"not what it should be", func(doc map[string]any) { doc["redirect_uris"] = 7 }, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t)
			a := w.instance(nil)
			doc := map[string]any{"client_id": "stored", "issuer": w.as.issuer, "redirect_uris": []any{a.redirectTo(w.port)}}
			w.as.clients["stored"] = map[string]any{"client_id": "stored", "redirect_uris": doc["redirect_uris"]}
			tt.edit(doc)
			if err := a.store.writeJSON(a.file("client_info.json"), doc); err != nil {
				t.Fatal(err)
			}
			w.person()
			w.mustCall(a)
			if used := w.as.query().Get("client_id") == "stored"; used != tt.used {
				t.Errorf("used: %v, want %v", used, tt.used)
			}
		})
	}
}

func TestNewAuthorizerRefuses(t *testing.T) {
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	p256, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	u, _ := url.Parse("https://mcp.example.com/mcp")
	for name, o := range map[string]authOptions{
		"--static-oauth-client-info is not":     {staticInfo: json.RawMessage(`{"client_id":7}`)},
		"--static-oauth-client-info is not a":   {staticInfo: json.RawMessage(`{}`)},
		"--static-oauth-client-metadata is not": {staticMetadata: json.RawMessage(`null`)},
		"--client-private-key is not":           {privateKeyPEM: []byte("planted")},
		"--client-private-key":                  {privateKeyPEM: keyPEM(t, p384)},
		"--client-credentials needs a client":   {clientCredentials: true, staticInfo: json.RawMessage(`{"client_id":"x"}`)},
		"--client-credentials needs":            {clientCredentials: true, privateKeyPEM: keyPEM(t, p256)},
	} {
		o.server, o.serverURL = u, u.String()
		_, err := newAuthorizer(o, nil, nil, nil)
		var usage *usageError
		if wantError(t, err, name); !errors.As(err, &usage) || usage.hint == "" {
			t.Errorf("%s: %v is no usage error with a hint", name, err)
		}
	}
}

func TestLogin(t *testing.T) {
	w := newWorld(t)
	w.person()
	for range 2 { // the second time there is nothing to do
		if err := w.instance(nil).login(t.Context(), func(string) {}); err != nil {
			t.Fatal(err)
		}
	}
	if !strings.Contains(w.log(), "Already signed in") || w.as.count("GET /tenant/authorize") != 1 {
		t.Errorf("log %s", w.log())
	}
	w.as.revokeAccess() // what is stored is asked for its worth
	if err := w.instance(nil).login(t.Context(), func(string) {}); err != nil {
		t.Fatal(err)
	}
	if n := w.as.count("POST /tenant/token"); n != 2 {
		t.Errorf("%d token requests, want a refresh", n)
	}
	open := newWorld(t)
	open.server.at = "-"
	open.as.always["/mcp"] = func(rw http.ResponseWriter, r *http.Request) { rw.Write([]byte("{}")) }
	open.server.url = open.as.issuer + "/mcp"
	open.client = open.authClient()
	wantError(t, open.instance(nil).login(t.Context(), func(string) {}), "does not ask for a sign-in")
}

// What holds a secret cannot print itself, whoever tries.
func TestCredentialsNeverPrint(t *testing.T) {
	u, _ := url.Parse("https://mcp.example.com/mcp")
	o := authOptions{server: u, staticInfo: json.RawMessage("planted"), privateKeyPEM: []byte("planted")}
	var log strings.Builder
	text, structured := slog.New(slog.NewTextHandler(&log, nil)), slog.New(slog.NewJSONHandler(&log, nil))
	for _, v := range []any{o, &o, tokens{Access: "planted"}, &tokens{Refresh: "planted"}, registration{Secret: "planted"}, &registration{Secret: "planted"}, &deviceCode{Code: "planted"}, deviceCode{Code: "planted"},
		struct{ T tokens }{tokens{ID: "planted"}}, []tokens{{Access: "planted"}}} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
			if got := fmt.Sprintf(verb, v); strings.Contains(got, "planted") || strings.Contains(got, "706c616e746564") || strings.Contains(got, "112 108") {
				t.Errorf("%s prints %T: %s", verb, v, got)
			}
		}
		text.Info("x", "v", v)
	}
	structured.Info("x", "tokens", tokens{Access: "planted"}, "registration", &registration{Secret: "planted"}, "options", o)
	if strings.Contains(log.String(), "planted") {
		t.Error(log.String())
	}
}

// While a person signs in for a larger scope, the credential that there is goes on being used.
func TestTokenDuringStepUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newMemWorld(t)
		w.signedIn()
		w.as.pendings = 1e6
		a := w.instance(func(o *authOptions) { o.deviceCode = true })
		w.mustCall(a)
		time.Sleep(59*time.Minute + time.Second) // it is time to refresh, but not too late
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() {
			done <- a.signIn(ctx, `Bearer error="insufficient_scope", scope="more"`, 403, func(string) {})
		}()
		synctest.Wait()
		if s, err := a.token(t.Context()); err != nil || s.empty() {
			t.Errorf("token: %v", err)
		}
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
}

// What mcp-remote has stored does not say for which resource. If that cannot be found out without a challenge, the
// refresh token goes nowhere until there is one; it never goes to another than its issuer.
func TestRefreshOnlyAtItsIssuer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newMemWorld(t)
		w.server.at = "/custom/place.json"
		a := w.signedIn()
		stored := a.stored()
		stored.Location = ""
		if err := a.store.writeJSON(a.file("tokens.json"), stored); err != nil {
			t.Fatal(err)
		}
		time.Sleep(59*time.Minute + time.Second)
		w.mustCall(a) // still good
		time.Sleep(time.Hour)
		w.mustCall(a)
		if slices.Contains(w.server.requests, "POST /token") || w.as.count("POST /tenant/token") != 1 {
			t.Errorf("requests %q, %q", w.server.requests, w.as.asked())
		}
	})
}

// What a process that was killed left half written does not stay for ever.
func TestForgetsLeftovers(t *testing.T) {
	w := newWorld(t)
	w.person()
	a := w.instance(nil)
	old, never := time.Now().Add(-personLimit-time.Second), time.Now().Add(1000*time.Hour) // by a clock that was set back since
	if err := errors.Join(a.store.write(a.file("code_verifier_y.txt"), []byte("x")), a.store.root.Chtimes(a.file("code_verifier_y.txt"), never, never)); err != nil {
		t.Fatal(err)
	}
	if newest := a.pending(); !newest.IsZero() {
		t.Errorf("a sign-in was begun in the future, at %v", newest)
	}
	if _, err := a.store.read(a.file("code_verifier_y.txt")); err == nil {
		t.Error("what is from the future stays")
	}
	for name, left := range map[string]bool{"tokens.json.1.x.tmp": false, "code_verifier_x.txt": false, "discovery_state_x.json": false, "debug.log": true, "handshake.json": true} {
		if err := errors.Join(a.store.write(a.file(name), []byte("x")), a.store.root.Chtimes(a.file(name), old, old)); err != nil {
			t.Fatal(err)
		}
		defer func() {
			if _, err := a.store.read(a.file(name)); (err == nil) != left {
				t.Errorf("%s: %v", name, err)
			}
		}()
	}
	w.mustCall(a)
}

// With --token-store memory a sign-in of either kind works and leaves nothing behind.
func TestSignInInMemory(t *testing.T) {
	check := func(t *testing.T, w *signInWorld, edit func(*authOptions)) {
		a := w.instance(edit)
		var err error
		if a.store, err = openStore("", a.log); err != nil {
			t.Fatal(err)
		}
		w.mustCall(a)
		w.as.revokeAccess()
		w.mustCall(a) // a refresh
		if n := w.as.count("POST /tenant/token"); n != 2 {
			t.Errorf("%d token requests, want 2", n)
		}
		if err := a.logout(t.Context()); err != nil {
			t.Error(err)
		}
		if files, err := os.ReadDir(filepath.Join(w.dir, storeFolder)); err != nil || len(files) != 0 {
			t.Errorf("on disk: %v, %v", files, err)
		}
		if files, err := a.store.list(""); err != nil || len(files) != 0 {
			t.Errorf("in memory: %v, %v", files, err)
		}
	}
	w := newWorld(t)
	w.person()
	check(t, w, nil)
	synctest.Test(t, func(t *testing.T) { check(t, newMemWorld(t), func(o *authOptions) { o.deviceCode = true }) })
}
