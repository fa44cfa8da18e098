package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
)

// A signInWorld is an authorization server and an MCP server on loopback, or on a network in memory, and
// everything that instances write there.
type signInWorld struct {
	t      *testing.T
	as     *fakeAS
	server *fakeResource
	client *http.Client
	dir    string // of the store
	port   int

	mu      sync.Mutex
	written bytes.Buffer // logs at debug level, hints, errors
	shown   chan string  // sign-in addresses, as a person sees them
	pages   []string     // what the browser showed in the end
	paged   chan string  // the same
	hints   chan string  // what the client is told meanwhile
}

// newWorld serves on real sockets: there is a listener in the program under test.
func newWorld(t *testing.T) *signInWorld {
	w := &signInWorld{t: t, dir: t.TempDir(), shown: make(chan string, 64), paged: make(chan string, 64), hints: make(chan string, 64), port: freePort(t)}
	asServer := httptest.NewUnstartedServer(nil)
	w.as = newFakeAS("http://" + asServer.Listener.Addr().String() + "/tenant")
	mcp := httptest.NewUnstartedServer(nil)
	w.server = &fakeResource{as: w.as, url: "http://" + mcp.Listener.Addr().String() + "/mcp"}
	asServer.Config.Handler, mcp.Config.Handler = w.as, w.server
	asServer.Start()
	t.Cleanup(asServer.Close)
	mcp.Start()
	t.Cleanup(mcp.Close)
	w.client = w.authClient()
	t.Cleanup(w.noLeaks)
	return w
}

// newMemWorld is for a bubble: nobody listens but the servers.
func newMemWorld(t *testing.T) *signInWorld {
	n := newMemNet()
	w := &signInWorld{t: t, dir: t.TempDir(), shown: make(chan string, 64), paged: make(chan string, 64), hints: make(chan string, 64), port: 1}
	w.as = newFakeAS("http://localhost:8081/tenant")
	w.server = &fakeResource{as: w.as, url: "http://localhost:8080/mcp"}
	memServe(t, n, "localhost:8081", w.as)
	memServe(t, n, "localhost:8080", w.server)
	w.client = n.client(t)
	w.client.Timeout = signInLimit
	t.Cleanup(w.noLeaks)
	return w
}

// authClient is what main.go would make.
func (w *signInWorld) authClient() *http.Client {
	u, err := url.Parse(w.server.url)
	if err != nil {
		w.t.Fatal(err)
	}
	_, _, auth, err := newClients(clientOptions{server: u})
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(auth.CloseIdleConnections)
	return auth
}

// ports begins where no system takes ports by itself, so that nobody gets one that a test was promised.
var ports atomic.Int32

// freePort is the first of a few ports that nobody listens on, and that no other test is given.
func freePort(t *testing.T) int {
	ports.CompareAndSwap(0, 10000+10*rand.Int32N(1000))
	for range 1000 {
		port := int(ports.Add(portCandidates + 2))
		if l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port)); err == nil {
			l.Close()
			return port
		}
	}
	t.Fatal("no port is free")
	return 0
}

var addressInText = regexp.MustCompile(`in a browser: (\S+) `)

// Write takes the log.
func (w *signInWorld) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if m := addressInText.FindSubmatch(p); m != nil && !bytes.HasPrefix(p, []byte("hint:")) {
		w.shown <- string(m[1])
	}
	return w.written.Write(p)
}

func (w *signInWorld) options() authOptions {
	u, _ := url.Parse(w.server.url)
	return authOptions{server: u, serverURL: w.server.url, listenOptions: listenOptions{port: w.port}, noBrowser: true}
}

// instance is one mcp-redial; edit may change its options.
func (w *signInWorld) instance(edit func(*authOptions)) *authorizer {
	w.t.Helper()
	o := w.options()
	if edit != nil {
		edit(&o)
	}
	log := slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: slog.LevelDebug, ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey {
			return slog.Attr{}
		}
		return a
	}}))
	s, err := openStore(w.dir, log)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { s.root.Close() })
	a, err := newAuthorizer(o, s, w.client, log)
	if err != nil {
		w.t.Fatal(err)
	}
	return a
}

// call does one call of the MCP server as the bridge would: with the token, and signing in when asked to. It
// returns the last status.
func (w *signInWorld) call(ctx context.Context, a *authorizer) (int, error) {
	return w.callOp(ctx, a, "")
}

func (w *signInWorld) callOp(ctx context.Context, a *authorizer, op string) (status int, err error) {
	defer func() {
		if err != nil {
			fmt.Fprintf(w, "error: %v %+v\n", err, err)
		}
	}()
	for range 6 {
		t, err := a.token(ctx)
		if err != nil {
			return 0, err
		}
		req, _ := http.NewRequestWithContext(ctx, http.MethodPost, w.server.url+op, nil)
		if !t.empty() {
			req.Header.Set("Authorization", "Bearer "+t.reveal())
		}
		resp, err := w.plain().Do(req)
		if err != nil {
			return 0, err
		}
		io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
		if status = resp.StatusCode; status == http.StatusOK {
			return status, nil
		}
		a.refused(t)
		challenge := strings.Join(resp.Header.Values("WWW-Authenticate"), ", ")
		err = a.signIn(ctx, challenge, status, func(hint string) { fmt.Fprintf(w, "hint: %s\n", hint); w.hints <- hint })
		var known *signInError
		if err != nil && ctx.Err() == nil && !errors.As(err, &known) {
			w.t.Errorf("signIn returned an error of type %T: %v", err, err)
		}
		if err != nil {
			return status, err
		}
	}
	return status, nil
}

func (w *signInWorld) plain() *http.Client { return &http.Client{Transport: w.client.Transport} }

// browse is a person with a browser: it follows the address to its end.
func (w *signInWorld) browse(address string) {
	resp, err := http.Get(address)
	if err != nil {
		w.t.Errorf("the browser: %v", err)
		return
	}
	defer resp.Body.Close()
	page, _ := io.ReadAll(resp.Body)
	w.mu.Lock()
	text := fmt.Sprintf("%d %s", resp.StatusCode, page)
	w.pages = append(w.pages, text)
	w.mu.Unlock()
	w.paged <- text
}

// person opens every address that is shown, until ctx ends.
func (w *signInWorld) person() {
	done := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			select {
			case address := <-w.shown:
				wg.Go(func() { w.browse(address) })
			case <-done:
				return
			}
		}
	})
	w.t.Cleanup(func() { close(done); wg.Wait() })
}

func (w *signInWorld) log() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.written.String()
}

// noLeaks looks for every secret of this world in everything that was written or shown.
func (w *signInWorld) noLeaks() {
	w.as.mu.Lock()
	secrets := slices.Clone(w.as.secrets)
	w.as.mu.Unlock()
	secrets = append(secrets, "planted-description")
	w.mu.Lock()
	text := w.written.String() + strings.Join(w.pages, "\n")
	w.mu.Unlock()
	for _, s := range secrets {
		if s != "" && strings.Contains(text, s) {
			w.t.Errorf("a secret was written: %s\n%s", s, text)
		}
	}
}

func wantError(t *testing.T, err error, text string) {
	t.Helper()
	if text == "" && err != nil {
		t.Errorf("error: %v", err)
	} else if text != "" && (err == nil || !strings.Contains(err.Error(), text)) {
		t.Errorf("error %v, want one that speaks of %q", err, text)
	}
}

func TestSignIn(t *testing.T) {
	w := newWorld(t)
	w.server.scope = "mcp:read"
	w.person()
	a := w.instance(nil)
	if status, err := w.call(t.Context(), a); err != nil || status != 200 {
		t.Fatalf("call: %d, %v", status, err)
	}
	if hint := <-w.hints; !strings.Contains(hint, w.as.issuer+"/authorize?") || !strings.Contains(hint, "mcp-redial login URL") {
		t.Errorf("the client is told %q", hint)
	}
	q, f := w.as.query(), w.as.form()
	for name, want := range map[string]string{"resource": w.server.url, "scope": "mcp:read", "code_challenge_method": "S256", "response_type": "code",
		"redirect_uri": fmt.Sprintf("http://%s:%d/oauth/callback", defaultHost(), w.port), "tenant": "1"} {
		if q.Get(name) != want {
			t.Errorf("%s in the authorization request is %q, want %q", name, q.Get(name), want)
		}
	}
	if f.Get("resource") != w.server.url || f.Get("client_id") == "" {
		t.Errorf("the token request lacks something: %v", f)
	}
	wantOrder := []string{"GET /.well-known/oauth-authorization-server/tenant", "POST /tenant/register", "GET /tenant/authorize", "POST /tenant/token"}
	if asked := w.as.asked(); !slices.Equal(asked, wantOrder) {
		t.Errorf("requests %q, want %q", asked, wantOrder)
	}
	if page := <-w.paged; !strings.HasPrefix(page, "200 ") || !strings.Contains(page, "You are signed in") {
		t.Errorf("page %q", page)
	}
	files, _ := filepath.Glob(filepath.Join(w.dir, storeFolder, "*"))
	var names []string
	for _, f := range files {
		names = append(names, strings.TrimPrefix(filepath.Base(f), a.o.identity+"_"))
	}
	if !slices.Equal(names, []string{"client_info.json", "tokens.json"}) {
		t.Errorf("the store holds %q", names)
	}
	// The next instance needs nobody.
	if status, err := w.call(t.Context(), w.instance(nil)); err != nil || status != 200 {
		t.Errorf("the next instance: %d, %v", status, err)
	}
	if n := w.as.count("POST /tenant/token"); n != 1 {
		t.Errorf("%d token requests", n)
	}
}

// Where metadata may lie, and what it may say (MCP 2025-11-25 and 2026-07-28, Discovery).
func TestDiscovery(t *testing.T) {
	const prm, asm, oidc = "/.well-known/oauth-protected-resource", "/.well-known/oauth-authorization-server", "/.well-known/openid-configuration"
	for _, tt := range []struct {
		name   string
		edit   func(*signInWorld)
		opts   func(*signInWorld, *authOptions)
		want   string // in the error; "" is success
		asked  []string
		denied []string // must not have been asked for
	}{
		{name: "the header says where", edit: func(w *signInWorld) { w.server.at = "/custom/place.json" }, asked: []string{"GET /custom/place.json"}, denied: []string{"GET " + prm, "GET " + prm + "/mcp"}},
		{name: "path-based", edit: func(w *signInWorld) { w.server.noHeader = true }, asked: []string{"GET " + prm + "/mcp"}, denied: []string{"GET " + prm}},
		{name: "at the root, with the origin as resource", edit: func(w *signInWorld) {
			w.server.noHeader, w.server.at = true, prm
			w.server.metadata = map[string]any{"resource": strings.TrimSuffix(w.server.url, "/mcp"), "authorization_servers": []string{w.as.issuer}}
		}, asked: []string{"GET " + prm + "/mcp", "GET " + prm}},
		{name: "OpenID, inserted", edit: func(w *signInWorld) { w.as.wellKnown = oidc + "/tenant" }},
		{name: "OpenID, appended", edit: func(w *signInWorld) { w.as.wellKnown = "/tenant" + oidc }, denied: []string{"GET " + asm, "GET " + oidc}},
		{name: "only at the root, although the issuer has a path", edit: func(w *signInWorld) { w.as.wellKnown = asm }, want: "no authorization server metadata", denied: []string{"GET " + asm}},
		{name: "2025-03-26: no resource metadata", edit: func(w *signInWorld) {
			w.server.at, w.as.issuer, w.as.wellKnown = "-", strings.TrimSuffix(w.as.issuer, "/tenant"), asm
			w.as.metadata["authorization_endpoint"] = w.as.issuer + "/authorize?tenant=1"
			w.server.url = w.as.issuer + "/mcp"
			w.as.always["/mcp"] = w.server.ServeHTTP
		}},
		{name: "2025-03-26: nothing at all", edit: func(w *signInWorld) {
			w.server.at, w.as.issuer, w.as.wellKnown = "-", strings.TrimSuffix(w.as.issuer, "/tenant"), "/nowhere"
			w.server.url = w.as.issuer + "/mcp"
			w.as.always["/mcp"] = w.server.ServeHTTP
			w.as.onAuthorize = func(q url.Values) string { q.Set("tenant", "1"); return "" }
		}, asked: []string{"GET " + asm, "GET " + oidc}},
		{name: "a web page for everything", edit: func(w *signInWorld) {
			w.server.noHeader = true
			w.as.always["/.well-known/oauth-authorization-server/tenant"] = func(rw http.ResponseWriter, _ *http.Request) { rw.Write([]byte("<!doctype html>")) }
			w.as.wellKnown = "/tenant" + oidc
		}},
		{name: "another issuer", edit: func(w *signInWorld) { w.as.metadata["issuer"] = "https://attacker.example.com" }, want: "another issuer"},
		{name: "a slash too many", edit: func(w *signInWorld) { w.as.metadata["issuer"] = w.as.issuer + "/" }, want: "another issuer"},
		{name: "a slash too many, vouched for", edit: func(w *signInWorld) { w.as.metadata["issuer"], w.as.iss = w.as.issuer+"/", w.as.issuer+"/" },
			opts: func(w *signInWorld, o *authOptions) { o.authServers = []string{w.as.issuer} }},
		{name: "not the one that was chosen", opts: func(w *signInWorld, o *authOptions) { o.authServers = []string{"https://login.example.com"} }, want: "--auth-server"},
		{name: "the one that was chosen of several", edit: func(w *signInWorld) {
			w.server.metadata = map[string]any{"resource": w.server.url, "authorization_servers": []string{"https://other.example.com", w.as.issuer}}
		}, opts: func(w *signInWorld, o *authOptions) { o.authServers = []string{w.as.issuer} }},
		{name: "a foreign resource", edit: func(w *signInWorld) {
			w.server.metadata = map[string]any{"resource": "https://evil.example.com/mcp", "authorization_servers": []string{w.as.issuer}}
		}, want: "another resource"},
		{name: "a neighbour as resource", edit: func(w *signInWorld) {
			w.server.metadata = map[string]any{"resource": w.server.url[:len(w.server.url)-1], "authorization_servers": []string{w.as.issuer}}
		}, want: "another resource"},
		{name: "no resource", edit: func(w *signInWorld) {
			w.server.metadata = map[string]any{"authorization_servers": []string{w.as.issuer}}
		}, want: "another resource"},
		{name: "no authorization server", edit: func(w *signInWorld) { w.server.metadata = map[string]any{"resource": w.server.url} }, want: "names no authorization server"},
		{name: "a field of the wrong type", edit: func(w *signInWorld) {
			w.server.metadata = map[string]any{"resource": w.server.url, "authorization_servers": 7}
		}, want: "wrong type"},
		{name: "metadata larger than the limit", edit: func(w *signInWorld) { w.as.metadata["x"] = strings.Repeat("x", maxMetadata) }, want: "larger than"},
		{name: "no PKCE", edit: func(w *signInWorld) { w.as.metadata["code_challenge_methods_supported"] = nil }, want: "PKCE"},
		{name: "plain PKCE", edit: func(w *signInWorld) { w.as.metadata["code_challenge_methods_supported"] = []string{"plain"} }, want: "PKCE"},
		{name: "an issuer over http", edit: func(w *signInWorld) {
			w.server.metadata = map[string]any{"resource": w.server.url, "authorization_servers": []string{"http://login.example.com"}}
		}, want: "not https"},
		{name: "an endpoint over http", edit: func(w *signInWorld) { w.as.metadata["token_endpoint"] = "http://login.example.com/token" }, want: "not https"},
		{name: "an endpoint for a shell", edit: func(w *signInWorld) { w.as.metadata["authorization_endpoint"] = "file:///etc/passwd" }, want: "not an absolute address"},
		{name: "an endpoint with a user", edit: func(w *signInWorld) { w.as.metadata["authorization_endpoint"] = "https://a:b@login.example.com/" }, want: "without user"},
		{name: "metadata behind a redirect elsewhere", edit: func(w *signInWorld) {
			w.as.always["/.well-known/oauth-authorization-server/tenant"] = func(rw http.ResponseWriter, r *http.Request) {
				http.Redirect(rw, r, "https://169.254.169.254/latest", http.StatusFound)
			}
		}, want: "refusing"},
		{name: "a token endpoint that redirects", edit: func(w *signInWorld) {
			w.as.always["/token"] = func(rw http.ResponseWriter, r *http.Request) {
				http.Redirect(rw, r, "/token2", http.StatusTemporaryRedirect)
			}
		}, want: "refusing to follow a redirect"},
		{name: "no registration", edit: func(w *signInWorld) { w.as.metadata["registration_endpoint"] = nil }, want: "--static-oauth-client-info"},
		{name: "registration refused", edit: func(w *signInWorld) { w.as.always["/register"] = oauthError(400, "invalid_redirect_uri") }, want: "invalid_redirect_uri"},
		{name: "a DPoP token", edit: func(w *signInWorld) {
			w.as.always["/token"] = func(rw http.ResponseWriter, r *http.Request) {
				writeJSON(rw, 200, map[string]any{"access_token": "x", "token_type": "DPoP"})
			}
		}, want: "DPoP"},
		{name: "a token that is no token", edit: func(w *signInWorld) {
			w.as.always["/token"] = func(rw http.ResponseWriter, r *http.Request) {
				writeJSON(rw, 200, map[string]any{"access_token": "x\r\nX-Evil: 1", "token_type": "Bearer"})
			}
		}, want: "no token that can be sent"},
		{name: "an error with status 200", edit: func(w *signInWorld) { w.as.always["/token"] = oauthError(200, "invalid_grant") }, want: "invalid_grant"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t)
			if tt.edit != nil {
				tt.edit(w)
				w.client = w.authClient()
			}
			w.person()
			a := w.instance(func(o *authOptions) {
				if tt.opts != nil {
					tt.opts(w, o)
				}
			})
			status, err := w.call(t.Context(), a)
			wantError(t, err, tt.want)
			if tt.want == "" && status != 200 {
				t.Errorf("status %d", status)
			}
			w.server.mu.Lock()
			asked := append(w.as.asked(), w.server.requests...)
			w.server.mu.Unlock()
			for _, r := range tt.asked {
				if !slices.Contains(asked, r) {
					t.Errorf("%s was not requested: %q", r, asked)
				}
			}
			for _, r := range tt.denied {
				if slices.Contains(asked, r) {
					t.Errorf("%s was requested: %q", r, asked)
				}
			}
		})
	}
}

// What comes back from the browser (RFC 9207; MCP 2026-07-28, Redirect validation).
func TestRedirect(t *testing.T) {
	for _, tt := range []struct {
		name     string
		unlisted bool // the metadata does not promise iss
		iss      string
		deny     string
		want     string
		code     string // what the person sees
	}{
		{name: "promised and right", code: "200"},
		{name: "promised and missing", iss: "-", want: "not from the authorization server"},
		{name: "promised and wrong", iss: "https://evil.example.com", want: "not from the authorization server"},
		{name: "not promised and right", unlisted: true, code: "200"},
		{name: "not promised and missing", unlisted: true, iss: "-", code: "200"},
		{name: "not promised and wrong", unlisted: true, iss: "https://evil.example.com", want: "not from the authorization server"},
		{name: "with a final slash", iss: "/", want: "not from the authorization server"},
		{name: "denied", deny: "access_denied", want: "access_denied"},
		{name: "denied by another", deny: "access_denied", iss: "https://evil.example.com", want: "not from the authorization server"},
		{name: "an error that is no code", deny: "<script>planted", want: "without a proper code"},
		{name: "an error that is no text", deny: "\x01", want: "without a proper code"},
		{name: "an error that is no UTF-8", deny: "\xff", want: "without a proper code"},
		{name: "an outage that the browser reports", deny: "temporarily_unavailable", want: "temporarily_unavailable"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t)
			if w.as.iss = tt.iss; tt.iss == "/" {
				w.as.iss = w.as.issuer + "/"
			}
			if w.as.deny = tt.deny; tt.unlisted {
				w.as.metadata["authorization_response_iss_parameter_supported"] = nil
			}
			w.person()
			status, err := w.call(t.Context(), w.instance(nil))
			wantError(t, err, tt.want)
			if tt.want == "" && status != 200 {
				t.Errorf("status %d", status)
			}
			if tt.want != "" && w.as.count("POST /tenant/token") != 0 {
				t.Error("the code was sent")
			}
			if page := <-w.paged; !strings.HasPrefix(page, cmp.Or(tt.code, "400")) || strings.Contains(page, "<script") {
				t.Errorf("page %q", page)
			}
		})
	}
}

func readStore(t *testing.T, w *signInWorld, a *authorizer, name string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(w.dir, storeFolder, a.o.identity+"_"+name))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	return string(b)
}
