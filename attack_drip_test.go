package main

// attack_drip_test.go answers a byte at a time: headers, bodies, events, the stream itself, what comes before a session
// and what comes before a sign-in. TestAttackSlow has the same in virtual time; here it is the program as it is shipped.

import (
	"bytes"
	goflag "flag"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

var dripPause = goflag.Duration("drip", 2*time.Millisecond, "time between two bytes that TestAttackDrip sends")

// A dripper writes a byte at a time while it is on.
type dripper struct {
	http.ResponseWriter
	r    *http.Request
	on   func() bool
	sent *atomic.Bool // a byte was, alone
	rest time.Duration
}

func (d *dripper) Unwrap() http.ResponseWriter { return d.ResponseWriter }

func (d *dripper) Write(b []byte) (int, error) {
	for i := range b {
		if !d.on() {
			n, err := d.ResponseWriter.Write(b[i:])
			return i + n, err
		}
		if _, err := d.ResponseWriter.Write(b[i : i+1]); err != nil {
			return i, err
		}
		http.NewResponseController(d.ResponseWriter).Flush()
		d.sent.Store(true)
		select {
		case <-time.After(d.rest):
		case <-d.r.Context().Done():
			return i, d.r.Context().Err()
		}
	}
	return len(b), nil
}

// dripAll is the answer of h, status line and headers included, a byte at a time.
func dripAll(w http.ResponseWriter, r *http.Request, h http.Handler) {
	whole := httptest.NewRecorder()
	h.ServeHTTP(whole, r)
	var text bytes.Buffer
	whole.Result().Write(&text)
	c, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	defer c.Close()
	for _, b := range text.Bytes() {
		if _, err := c.Write([]byte{b}); err != nil {
			return
		}
		<-time.After(*dripPause)
	}
}

// awaited is the answer without a limit, as how long it takes is what is looked at. It may have come already.
func (v *victim) awaited(id string) string {
	v.t.Helper()
	for line := range strings.Lines(v.stdout()) {
		if m, err := scan([]byte(strings.TrimSuffix(line, "\n"))); err == nil && m.kind == response && m.id == id {
			return line
		}
	}
	for line := range v.lines {
		if m, err := scan([]byte(strings.TrimSuffix(line, "\n"))); err == nil && m.kind == response && m.id == id {
			return line
		}
	}
	v.t.Fatalf("the program ended before the answer to %s\n%s", id, v.stderr())
	return ""
}

// A server that sends a byte at a time holds up itself and nobody else: who waits for it has his answer in the end, or an
// error while it still makes sense.
func TestAttackDrip(t *testing.T) {
	env := shipped(t)
	const slow = `{"name":"add","arguments":{"key":"slow"}}`
	for _, what := range []string{"the body of an answer", "an answer with its headers", "the stream that all share", "everything from the start"} {
		for name, s := range fakeTransports(true) {
			if what == "the stream that all share" && s.noStream {
				continue
			}
			t.Run(name+"/"+what, func(t *testing.T) {
				t.Parallel()
				s.start(t, onLoopback(t))
				var on, dripped atomic.Bool
				on.Store(what == "everything from the start")
				front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					stream := r.Method == http.MethodGet || r.Header.Get("Mcp-Method") == "subscriptions/listen"
					body, _ := io.ReadAll(r.Body)
					r.Body = io.NopCloser(bytes.NewReader(body))
					d := &dripper{w, r, on.Load, &dripped, *dripPause}
					switch called := bytes.Contains(body, []byte(`"slow"`)); {
					case what == "an answer with its headers" && called:
						dripped.Store(true)
						dripAll(w, r, s)
						return
					case what == "the body of an answer" && called:
						d.on = func() bool { return true }
						s.ServeHTTP(d, r)
					case what == "the stream that all share" && stream, what == "everything from the start":
						s.ServeHTTP(d, r)
					default:
						s.ServeHTTP(w, r)
					}
				}))
				t.Cleanup(func() { front.CloseClientConnections(); front.Close() })
				v := attack(t, env, front.URL+"/mcp", "--silent")
				begun := time.Now()
				if what == "everything from the start" {
					v.say(`{"jsonrpc":"2.0","id":"hello","method":"initialize","params":` + victimHello + `}`)
					got := v.awaited(`"hello"`)
					if took := time.Since(begun); *dripPause < 100*time.Millisecond && !strings.Contains(got, `"result"`) || *dripPause >= time.Second && took > hung {
						t.Errorf("after %v: %.300s", took, got)
					}
					t.Logf("after %v: %.100s", time.Since(begun).Round(time.Millisecond), got)
					on.Store(false)
				} else {
					v.hello()
					v.ask("tools/list", "{}")
					apart := what == "the stream that all share" && s.kind != fakeSSE // no answer comes on it
					news := func() int { return strings.Count(v.stdout(), "list_changed") }
					for apart && news() == 0 { // until it is open
						s.notify("notifications/tools/list_changed", nil)
						select {
						case <-v.lines:
						case <-time.After(10 * time.Millisecond):
						}
					}
					before := news()
					on.Store(true)
					if apart {
						s.notify("notifications/tools/list_changed", nil)
					}
					v.say(`{"jsonrpc":"2.0","id":"slow","method":"tools/call","params":` + slow + `}`)
					for i := range 10 { // nobody else is held up, but who has no other stream for his answer
						key := fmt.Sprintf("quick-%d", i)
						if s.kind == fakeSSE && what == "the stream that all share" {
							v.say(`{"jsonrpc":"2.0","id":"nonsense"}`)
							v.awaited(`"nonsense"`)
							break
						}
						if got := v.ask("tools/call", fmt.Sprintf(`{"name":"add","arguments":{"key":%q}}`, key)); !strings.Contains(got, `"result"`) || s.runs(key) != 1 {
							t.Errorf("a quick one is answered %.300s, and was run %d times", got, s.runs(key))
						}
					}
					got := v.awaited(`"slow"`)
					if !strings.Contains(got, `"result"`) || s.runs("slow") != 1 {
						t.Errorf("the slow one is answered %.300s, and was run %d times", got, s.runs("slow"))
					}
					for apart && (!dripped.Load() || news() == before) {
						<-v.lines
					}
					t.Logf("after %v: %.100s", time.Since(begun).Round(time.Millisecond), got)
				}
				if !dripped.Load() {
					t.Error("nothing came slowly")
				}
				if code := v.end(); code != 0 {
					t.Errorf("exit %d", code)
				}
			})
		}
	}
	for _, path := range []string{"metadata", "token"} {
		t.Run("sign-in/"+path, func(t *testing.T) {
			t.Parallel()
			begun := time.Now()
			got := padded(t, env, func(w *signInWorld) {
				slowly := func(h http.Handler) http.HandlerFunc {
					return func(rw http.ResponseWriter, r *http.Request) {
						h.ServeHTTP(&dripper{rw, r, func() bool { return true }, new(atomic.Bool), *dripPause}, r)
					}
				}
				switch path {
				case "metadata":
					doc := w.as.document()
					w.as.always[w.as.wellKnown] = slowly(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) { writeJSON(rw, 200, doc) }))
				case "token":
					w.as.tokens["planted-pad"] = &fakeToken{issued: time.Now()}
					w.as.always["/token"] = slowly(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
						answerWith(200, jsonType, `{"access_token":"planted-pad","token_type":"Bearer"}`)(rw, r, fakeRequest{})
					}))
				}
			})
			t.Logf("after %v: %v", time.Since(begun).Round(time.Millisecond), got)
			if *dripPause < 10*time.Millisecond && !got || *dripPause >= time.Second && got {
				t.Errorf("signed in: %v", got)
			}
		})
	}
}
