package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

const (
	testHello       = `{"jsonrpc":"2.0","id":0,"method":"initialize","params":{}}`
	testInitialized = `{"jsonrpc":"2.0","method":"notifications/initialized"}`
	testProgress    = `{"jsonrpc":"2.0","method":"notifications/progress"}`
)

func testWelcome(version string) string {
	return `{"jsonrpc":"2.0","id":0,"result":{"protocolVersion":"` + version + `"}}`
}

// An answer is what a handler sends back.
type answer struct {
	status int
	kind   string // Content-Type; "" for none
	body   string
}

func (a answer) write(w http.ResponseWriter) {
	w.Header()["Content-Type"] = nil // net/http would guess
	if a.kind != "" {
		w.Header().Set("Content-Type", a.kind)
	}
	w.WriteHeader(max(a.status, 200))
	io.WriteString(w, a.body)
}

// outcome puts an error in one line: the fate, the status, and the cursor and time to resume with.
func outcome(err error) string {
	var e *exchangeError
	switch {
	case err == nil:
		return "ok"
	case !errors.As(err, &e):
		return err.Error()
	}
	s := fmt.Sprint(e.fate)
	if e.status != 0 && e.status != 200 {
		s += fmt.Sprint(" ", e.status)
	}
	if e.after != "" {
		s += " after " + e.after
	}
	if e.wait != 0 {
		s += fmt.Sprint(" wait ", e.wait)
	}
	return s
}

func TestStreamableAnswers(t *testing.T) {
	const n, r = testProgress, testAnswer
	wrong := strings.Replace(r, "1", `"1"`, 1)
	tests := []struct {
		name    string
		request string
		answer
		want string
		got  []string
	}{
		{"JSON", testCall, answer{200, "application/json", r}, "ok", []string{r}},
		{"JSON with parameters, in capitals", testCall, answer{200, "Application/JSON; charset=UTF-8", " " + r + "\n"}, "ok", []string{r}},
		{"pretty JSON", testCall, answer{200, "application/json", "{\r\n \"jsonrpc\":\"2.0\",\n\"id\":1,\"result\":\n{}}"}, "ok", []string{`{   "jsonrpc":"2.0", "id":1,"result": {}}`}},
		{"a batch", testCall, answer{200, "application/json", "[" + n + "," + r + "]"}, "ok", []string{n, r}},
		{"an error", testCall, answer{200, "application/json", `{"jsonrpc":"2.0","id":null,"error":{"code":1,"message":"x"}}`}, "ok", []string{`{"jsonrpc":"2.0","id":null,"error":{"code":1,"message":"x"}}`}},
		{"another id", testCall, answer{200, "application/json", wrong}, "ok", []string{wrong}},
		{"201", testCall, answer{201, "application/json", r}, "ok", []string{r}},
		{"a stream", testCall, answer{200, "text/event-stream", "data: " + n + "\n\ndata: " + r + "\n\n"}, "ok", []string{n, r}},
		{"a stream with parameters", testCall, answer{200, "TEXT/EVENT-STREAM;charset=utf-8", "data: " + r + "\n\n"}, "ok", []string{r}},
		{"a stream that goes on", testCall, answer{200, "text/event-stream", "data: " + r + "\n\ndata: " + n + "\n\nid: 7\n\n"}, "ok", []string{r, n}},
		{"heartbeats", testCall, answer{200, "text/event-stream", ": x\n\nevent: ping\ndata: {}\n\ndata: ping\n\ndata: " + r + "\n\n"}, "ok", []string{r}},
		{"no type, JSON", testCall, answer{200, "", r}, "ok", []string{r}},
		{"no type, a stream", testCall, answer{200, "", "id: 3\ndata: " + r + "\n\n"}, "ok", []string{r}},
		{"bad type, a stream", testCall, answer{200, ";", "\ufeffdata: " + r + "\n\n"}, "ok", []string{r}},
		{"text, JSON", testCall, answer{200, "text/plain; charset=utf-8", r}, "ok", []string{r}},
		{"202", testCall, answer{202, "application/json", ""}, "ok", nil},
		{"204", testCall, answer{204, "", ""}, "ok", nil},

		{"HTML", testCall, answer{200, "text/html", "<html>"}, "final", nil},
		{"HTML without type", testCall, answer{200, "", " <html>"}, "final", nil},
		{"text", testCall, answer{200, "text/plain", "Accepted"}, "final", nil},
		{"empty", testCall, answer{200, "application/json", ""}, "unknown", nil},
		{"empty without type", testCall, answer{200, "", ""}, "unknown", nil},
		{"cut JSON", testCall, answer{200, "application/json", r[:20]}, "unknown", nil},
		{"no JSON", testCall, answer{200, "application/json", "Hello"}, "unknown", nil},
		{"no response", testCall, answer{200, "application/json", n}, "unknown", []string{n}},
		{"an empty batch", testCall, answer{200, "application/json", "[]"}, "unknown", nil},
		{"a stream without a response", testCall, answer{200, "text/event-stream", "data: " + n + "\n\n"}, "unknown", []string{n}},
		{"an empty stream", testCall, answer{200, "text/event-stream", ""}, "unknown", nil},
		{"polling", testCall, answer{200, "text/event-stream", "id: 7\nretry: 500\ndata:\n\n"}, "cut after 7 wait 500ms", nil},
		{"a cut stream", testCall, answer{200, "text/event-stream", "id: 7\ndata: " + n + "\n\nid: 8\n"}, "cut after 7", []string{n}},
		{"a cursor that cannot be sent", testCall, answer{200, "text/event-stream", "id: \x01\ndata: " + n + "\n\n"}, "unknown", []string{n}},
		{"a cursor that would change", testCall, answer{200, "text/event-stream", "id:  7\ndata: " + n + "\n\n"}, "unknown", []string{n}},

		{"a notification, 202", testInitialized, answer{202, "", ""}, "ok", nil},
		{"a notification, 200", testInitialized, answer{200, "application/json", ""}, "ok", nil},
		{"a notification, null", testInitialized, answer{200, "application/json", "null"}, "ok", nil},
		{"a notification, text", testInitialized, answer{202, "text/plain", "Accepted"}, "ok", nil},
		{"a notification, HTML", testInitialized, answer{204, "text/html", ""}, "ok", nil},
		{"a notification, 400", testInitialized, answer{400, "application/json", `{}`}, "final 400", nil},
		{"a response, 202", testAnswer, answer{202, "", ""}, "ok", nil},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				mn := newMemNet()
				memServe(t, mn, "mcp.test:80", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { test.write(w) }))
				w := mn.wire(t, "http://mcp.test/mcp?key=sesame")
				var got []string
				err := newStreamable(w).post(t.Context(), testMessage(t, test.request, false), began(), func(m message) error {
					if m.raw == nil {
						return nil
					}
					got = append(got, string(m.raw))
					w.mem.free(m.charge)
					return nil
				})
				if o := outcome(err); o != test.want {
					t.Errorf("%s (%v), want %s", o, err, test.want)
				}
				if d := cmp.Diff(test.got, got); d != "" {
					t.Error(d)
				}
				if w.mem.used != 0 {
					t.Errorf("%d bytes stay charged", w.mem.used)
				}
				if test.want == "final" && !strings.Contains(err.Error(), `media type "`) {
					t.Errorf("the error does not name the media type: %v", err)
				}
			})
		})
	}
}

func TestStreamableTooLarge(t *testing.T) {
	const most = 100 << 10
	for over := range 2 {
		big := `{"jsonrpc":"2.0","id":1,"result":"`
		big += strings.Repeat("x", most+over-len(big)-2) + `"}`
		for kind, body := range map[string]string{"application/json": big, "text/event-stream": "id: 1\ndata: " + big + "\n\n"} {
			synctest.Test(t, func(t *testing.T) {
				n := newMemNet()
				memServe(t, n, "mcp.test:80", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { answer{200, kind, body}.write(w) }))
				w := n.wire(t, "http://mcp.test/")
				w.max = most
				var got []string
				err := newStreamable(w).post(t.Context(), testMessage(t, testCall, false), began(), heard(&got))
				if over == 0 && (err != nil || len(got) != 1 || got[0] != big) {
					t.Errorf("%s of %d bytes: %v, %d messages", kind, most, err, len(got))
				}
				if over == 1 && (!errors.Is(err, errTooLarge) || outcome(err) != "final" || len(got) != 0) {
					t.Errorf("%s of %d bytes: %v, %d messages", kind, most+1, err, len(got))
				}
			})
		}
	}
}

// TestStreamableCutAnywhere ends and breaks an answer after each of its bytes.
func TestStreamableCutAnywhere(t *testing.T) {
	stream := "retry: 20\nid: a\ndata:\n\n: x\n\nid: b\ndata: " + testProgress + "\n\nid: c\n\nid: d\r\ndata: " + testAnswer + "\r\n\r\ndata: " + testProgress + "\n\n"
	synctest.Test(t, func(t *testing.T) {
		n := newMemNet()
		var kind string
		var at, size int
		var broken bool
		memServe(t, n, "mcp.test:80", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", kind)
			if size > 0 {
				w.Header().Set("Content-Length", fmt.Sprint(size))
			}
			if kind == jsonType {
				say(w, testAnswer[:at])
			} else {
				say(w, stream[:at])
			}
			if broken {
				panic(http.ErrAbortHandler)
			}
		}))
		for at = range len(stream) + 1 {
			for _, broken = range []bool{false, true} {
				kind, size = eventStream, 0
				before := referenceStream([]byte(stream[:at]))
				want := "unknown"
				var wantGot []string
				if before.ID != "" {
					want = "cut after " + before.ID
				}
				if before.Retry != 0 {
					want += " wait 20ms"
				}
				for _, e := range before.Events {
					if e.Data != "" {
						wantGot = append(wantGot, e.Data)
					}
					if e.Data == testAnswer {
						want = "ok"
					}
				}
				var got []string
				err := newStreamable(n.wire(t, "http://mcp.test/")).post(t.Context(), testMessage(t, testCall, false), began(), heard(&got))
				if o := outcome(err); o != want {
					t.Errorf("after %q, broken %v: %s, want %s", stream[:at], broken, o, want)
				}
				if d := cmp.Diff(wantGot, got); d != "" {
					t.Errorf("after %q, broken %v:\n%s", stream[:at], broken, d)
				}
			}
		}
		for at = range len(testAnswer) {
			for _, size = range []int{0, len(testAnswer)} {
				kind, broken = jsonType, size == 0
				err := newStreamable(n.wire(t, "http://mcp.test/")).post(t.Context(), testMessage(t, testCall, false), began(), heard(new([]string)))
				if o := outcome(err); o != "unknown" {
					t.Errorf("JSON cut after %d: %s (%v)", at, o, err)
				}
			}
		}
	})
}

func TestStreamableSession(t *testing.T) {
	tests := []struct {
		name, version, session string
		wantVersion            string
		stream                 bool
	}{
		{"2025-03-26", "2025-03-26", "s1", "", false},
		{"2025-06-18", "2025-06-18", "s1", "2025-06-18", false},
		{"2025-11-25", "2025-11-25", "!~", "2025-11-25", false},
		{"on a stream", "2025-11-25", "s1", "2025-11-25", true},
		{"no session", "2025-06-18", "", "2025-06-18", false},
		{"no version", "", "s1", "", false},
		{"a version that cannot be sent", "2025-11-25 x", "s1", "", false},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := newMemNet()
				var requests []string
				release := make(chan struct{})
				memServe(t, n, "mcp.test:80", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					h := r.Header
					requests = append(requests, fmt.Sprintf("%s %s v=%s s=%s after=%s", r.Method, h.Get("Accept"), h.Get("Mcp-Protocol-Version"), h.Get("Mcp-Session-Id"), h.Get("Last-Event-ID")))
					for _, name := range []string{"Idempotency-Key", "Origin"} {
						if _, there := h[name]; there {
							t.Errorf("%s was sent", name)
						}
					}
					body, _ := io.ReadAll(r.Body)
					switch {
					case r.Method == "GET":
						w.Header().Set("Mcp-Session-Id", "other")
						w.WriteHeader(405)
					case string(body) != testHello:
						w.Header().Set("Mcp-Session-Id", "other") // must not be taken
						w.WriteHeader(202)
					default:
						if test.session != "" {
							w.Header().Set("Mcp-Session-Id", test.session)
						}
						if test.stream {
							w.Header().Set("Content-Type", eventStream)
							say(w, "data: "+testWelcome(test.version)+"\n\n")
							<-release
							return
						}
						answer{200, jsonType, testWelcome(test.version)}.write(w)
					}
				}))
				s := newStreamable(n.wire(t, "http://mcp.test/"))
				welcome, done := make(chan struct{}), make(chan error, 1)
				go func() {
					done <- s.post(t.Context(), testMessage(t, testHello, true), began(), func(m message) error {
						if m.raw == nil {
							return nil
						}
						close(welcome)
						return nil
					})
				}()
				<-welcome
				for range 2 {
					if err := s.post(t.Context(), testMessage(t, testInitialized, true), began(), heard(new([]string))); err != nil {
						t.Error(err)
					}
				}
				close(release)
				if err := <-done; err != nil {
					t.Error(err)
				}
				if o := outcome(s.listen(t.Context(), "e7", began(), nil, heard(new([]string)))); o != "final 405 after e7" {
					t.Errorf("GET: %s", o)
				}
				if err := s.hangup(t.Context()); err != nil {
					t.Error(err)
				}
				if err := s.post(t.Context(), testMessage(t, testHello, true), began(), func(m message) error {
					if m.raw == nil {
						return nil
					}
					return nil
				}); err != nil {
					t.Error(err)
				}
				const both = "application/json, text/event-stream"
				facts := fmt.Sprintf("v=%s s=%s", test.wantVersion, test.session)
				want := []string{
					"POST " + both + " v= s= after=",
					"POST " + both + " " + facts + " after=",
					"POST " + both + " " + facts + " after=",
					"GET text/event-stream " + facts + " after=e7",
				}
				if test.session != "" {
					want = append(want, "DELETE text/event-stream "+facts+" after=")
				}
				want = append(want, want[0]) // a new session begins without the facts of the old
				if d := cmp.Diff(want, requests); d != "" {
					t.Error(d)
				}
			})
		})
	}
}

func TestStreamableBadSession(t *testing.T) {
	for _, id := range []string{"a b", "a\tb", "ä", "a\x7f"} {
		synctest.Test(t, func(t *testing.T) {
			n := newMemNet()
			memServe(t, n, "mcp.test:80", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				w.Header()["Mcp-Session-Id"] = []string{id}
				answer{200, jsonType, testWelcome("2025-11-25")}.write(w)
			}))
			err := newStreamable(n.wire(t, "http://mcp.test/")).post(t.Context(), testMessage(t, testHello, true), began(), heard(new([]string)))
			if outcome(err) == "ok" || strings.Contains(err.Error(), id) {
				t.Errorf("%q: %v", id, err)
			}
		})
	}
}

// TestStreamableWelcomeOnResume has the answer to initialize come on a resumed stream.
func TestStreamableWelcomeOnResume(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newMemNet()
		memServe(t, n, "mcp.test:80", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			switch {
			case r.Method == "POST" && r.Header.Get("Mcp-Session-Id") == "":
				w.Header().Set("Mcp-Session-Id", "s1")
				answer{200, eventStream, "id: 1\ndata:\n\n"}.write(w)
			case r.Method == "GET" && r.Header.Get("Last-Event-ID") == "1" && r.Header.Get("Mcp-Session-Id") == "s1":
				answer{200, eventStream, "id: 2\ndata: " + testWelcome("2025-11-25") + "\n\n"}.write(w)
			case r.Header.Get("Mcp-Protocol-Version") == "2025-11-25":
				w.WriteHeader(202)
			default:
				t.Errorf("%s with %v", r.Method, r.Header)
			}
		}))
		s := newStreamable(n.wire(t, "http://mcp.test/"))
		if o := outcome(s.post(t.Context(), testMessage(t, testHello, true), began(), heard(new([]string)))); o != "cut after 1" {
			t.Fatal(o)
		}
		var got []string
		if o := outcome(s.listen(t.Context(), "1", began(), func() {}, heard(&got))); o != "cut after 2" || len(got) != 1 {
			t.Fatal(o, got)
		}
		if err := s.post(t.Context(), testMessage(t, testInitialized, true), began(), heard(new([]string))); err != nil {
			t.Error(err)
		}
	})
}

func TestStreamableListen(t *testing.T) {
	tests := []struct {
		name  string
		after string
		answer
		session bool
		want    string
		opened  bool
		got     int
	}{
		{"a stream", "", answer{200, "text/event-stream", "id: 4\ndata: " + testProgress + "\n\nretry: 70\n"}, true, "cut after 4 wait 70ms", true, 1},
		{"without ids", "", answer{200, "text/event-stream", "data: " + testProgress + "\n\n"}, true, "cut", true, 1},
		{"resumed, nothing new", "3", answer{200, "text/event-stream", ": x\n\n"}, true, "cut after 3", true, 0},
		{"resumed, an event without id", "3", answer{200, "text/event-stream", "data: " + testProgress + "\n\n"}, true, "cut after 3", true, 1},
		{"resumed, advanced", "3", answer{200, "text/event-stream", "id: 4\n\n"}, true, "cut after 4", true, 0},
		{"resumed, id cleared", "3", answer{200, "text/event-stream", "id\n\n"}, true, "cut", true, 0},
		{"no type", "", answer{200, "", ": x\n\n"}, true, "cut", true, 0},
		{"405", "", answer{405, "", ""}, true, "final 405", false, 0},
		{"404 in a session", "", answer{404, "", ""}, true, "gone 404", false, 0},
		{"404 without one", "", answer{404, "", ""}, false, "final 404", false, 0},
		{"410 in a session", "", answer{410, "", ""}, true, "gone 410", false, 0},
		{"400", "", answer{400, "", "Bad Request"}, true, "final 400", false, 0},
		{"400, the session", "", answer{400, "", "Invalid session ID"}, true, "gone 400", false, 0},
		{"406", "", answer{406, "", ""}, true, "final 406", false, 0},
		{"501", "", answer{501, "", ""}, true, "final 501", false, 0},
		{"503 keeps the cursor", "3", answer{503, "", ""}, true, "unknown 503 after 3", false, 0},
		{"JSON", "", answer{200, "application/json", "{}"}, true, "final", false, 0},
		{"HTML", "", answer{200, "text/html", "<html>"}, true, "final", false, 0},
		{"204", "", answer{204, "", ""}, true, "final 204", false, 0},
		{"empty", "", answer{200, "", ""}, true, "final", false, 0},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := newMemNet()
				memServe(t, n, "mcp.test:80", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					if r.Method == "GET" {
						if r.Header.Get("Last-Event-ID") != test.after {
							t.Errorf("resumed after %q", r.Header.Get("Last-Event-ID"))
						}
						test.write(w)
						return
					}
					if test.session {
						w.Header().Set("Mcp-Session-Id", "s1")
					}
					answer{200, jsonType, testWelcome("2025-11-25")}.write(w)
				}))
				s := newStreamable(n.wire(t, "http://mcp.test/"))
				var got []string
				if err := s.post(t.Context(), testMessage(t, testHello, true), began(), heard(&got)); err != nil {
					t.Fatal(err)
				}
				opened := false
				err := s.listen(t.Context(), test.after, began(), func() { opened = true }, heard(&got))
				if o := outcome(err); o != test.want || opened != test.opened || len(got) != 1+test.got {
					t.Errorf("%s (%v), opened %v, %d messages; want %s", o, err, opened, len(got)-1, test.want)
				}
			})
		})
	}
}

// TestStreamableSlowBody has answers that never end where nobody wants them.
func TestStreamableSlowBody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newMemNet()
		for i, status := range []int{202, 500} {
			host := fmt.Sprintf("h%d.test", i)
			memServe(t, n, host+":80", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				io.Copy(io.Discard, r.Body)
				w.WriteHeader(status)
				say(w, "session")
				<-r.Context().Done()
			}))
			start := time.Now()
			err := newStreamable(n.wire(t, "http://"+host+"/")).post(t.Context(), testMessage(t, testInitialized, false), began(), heard(new([]string)))
			if (err == nil) != (status == 202) || time.Since(start) != restTime {
				t.Errorf("%d: %v after %v", status, err, time.Since(start))
			}
		}
	})
}

func TestStreamableCancel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newMemNet()
		memServe(t, n, "mcp.test:80", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			io.Copy(io.Discard, r.Body) // net/http notices the end of a connection only then
			if r.URL.Path != "/silent" {
				w.Header().Set("Content-Type", strings.TrimPrefix(r.URL.Path, "/"))
				say(w, "  \n")
			}
			<-r.Context().Done()
		}))
		for _, path := range []string{"silent", eventStream, jsonType} {
			why := errors.New("why")
			ctx, cancel := context.WithCancelCause(t.Context())
			go func() { synctest.Wait(); cancel(why) }()
			if err := newStreamable(n.wire(t, "http://mcp.test/"+path)).post(ctx, testMessage(t, testCall, false), began(), heard(new([]string))); err != why {
				t.Errorf("%s: %v", path, err)
			}
		}
		memServe(t, n, "enough.test:80", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			io.Copy(io.Discard, r.Body) // net/http notices the end of a connection only then
			w.Header().Set("Content-Type", eventStream)
			say(w, "data: "+testProgress+"\n\n")
			<-r.Context().Done()
		}))
		why := errors.New("why")
		for stop, want := range map[error]error{errEnough: nil, why: why} { // recv ends it
			err := newStreamable(n.wire(t, "http://enough.test/")).post(t.Context(), testMessage(t, testCall, false), began(), func(m message) error {
				if m.raw == nil {
					return nil
				}
				return stop
			})
			if err != want {
				t.Errorf("recv ended it with %v: %v", stop, err)
			}
		}
	})
}

// loopback is a wire to a server that is played connection by connection on a real socket.
func loopback(t *testing.T, serve func(conn int, c net.Conn)) (*wire, *atomic.Int32) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var count atomic.Int32
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			i := int(count.Add(1))
			wg.Go(func() {
				defer c.Close()
				serve(i, c)
			})
		}
	})
	again, once := &http.Transport{DisableCompression: true}, &http.Transport{DisableCompression: true}
	t.Cleanup(func() {
		again.CloseIdleConnections()
		once.CloseIdleConnections()
		l.Close()
		wg.Wait()
	})
	w := testWire()
	w.url = &url.URL{Scheme: "http", Host: l.Addr().String(), Path: "/secret-path", RawQuery: "key=sesame"}
	w.again, w.once = &http.Client{Transport: again}, &http.Client{Transport: once}
	return w, &count
}

// readRequest reads one request; false at the end of the connection.
func readRequest(r *bufio.Reader) bool {
	req, err := http.ReadRequest(r)
	if err != nil {
		return false
	}
	_, err = io.Copy(io.Discard, req.Body)
	return err == nil
}

const rawAccepted = "HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n"

func TestFateOfConnections(t *testing.T) {
	tests := []struct {
		name  string
		safe  bool
		serve func(conn int, c net.Conn)
		posts int
		want  string // of the last post
		conns int32
	}{
		{"works", false, func(_ int, c net.Conn) {
			for r := bufio.NewReader(c); readRequest(r); {
				io.WriteString(c, rawAccepted)
			}
		}, 3, "ok", 1},
		{"closed after accepting", false, func(int, net.Conn) {}, 1, "unknown", 1},
		{"closed after accepting, repeatable", true, func(int, net.Conn) {}, 1, "unknown", 1},
		{"closed after the request", false, func(_ int, c net.Conn) { readRequest(bufio.NewReader(c)) }, 1, "unknown", 1},
		{"closed within the headers", true, func(_ int, c net.Conn) { readRequest(bufio.NewReader(c)); io.WriteString(c, "HTTP/1.1 202 Acc") }, 1, "unknown", 1},
		{"not HTTP", true, func(_ int, c net.Conn) { readRequest(bufio.NewReader(c)); io.WriteString(c, "SSH-2.0-secret\r\n\r\n") }, 1, "unknown", 1},
		// The second request on a connection finds it dead: net/http sends again what it may.
		{"stale", false, func(_ int, c net.Conn) {
			r := bufio.NewReader(c)
			readRequest(r)
			io.WriteString(c, rawAccepted)
			readRequest(r)
		}, 2, "unknown", 1},
		{"stale, repeatable", true, func(conn int, c net.Conn) {
			r := bufio.NewReader(c)
			readRequest(r)
			io.WriteString(c, rawAccepted)
			readRequest(r)
		}, 2, "ok", 2},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			w, conns := loopback(t, test.serve)
			s := newStreamable(w)
			var err error
			for range test.posts {
				err = s.post(t.Context(), testMessage(t, testInitialized, test.safe), began(), heard(new([]string)))
			}
			if o := outcome(err); o != test.want || conns.Load() != test.conns {
				t.Errorf("%s (%v) on %d connections; want %s on %d", o, err, conns.Load(), test.want, test.conns)
			}
			if err != nil && (strings.Contains(err.Error(), "sesame") || strings.Contains(err.Error(), "secret")) {
				t.Errorf("the error tells too much: %v", err)
			}
		})
	}
}

func TestFateUnsent(t *testing.T) {
	w, _ := loopback(t, nil)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w.url.Host = l.Addr().String()
	l.Close() // now the port refuses
	for _, safe := range []bool{false, true} {
		err := newStreamable(w).post(t.Context(), testMessage(t, testCall, safe), began(), heard(new([]string)))
		if outcome(err) != "unsent" || strings.Contains(err.Error(), "sesame") {
			t.Errorf("a port that refuses: %s (%v)", outcome(err), err)
		}
	}
	// A server that goes away between two exchanges: the stale connection is noticed, the new one refused.
	synctest.Test(t, func(t *testing.T) {
		n, act := newMemNet(), func() {}
		memServe(t, n, "mcp.test:80", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { act(); w.WriteHeader(202) }))
		for _, safe := range []bool{false, true} {
			s := newStreamable(n.wire(t, "http://mcp.test/"))
			m := testMessage(t, testInitialized, safe)
			if err := s.post(t.Context(), m, began(), heard(new([]string))); err != nil {
				t.Fatal(err)
			}
			n.refuse(true)
			n.fin()
			synctest.Wait()
			if o := outcome(s.post(t.Context(), m, began(), heard(new([]string)))); o != "unsent" {
				t.Errorf("safe %v: %s", safe, o)
			}
			n.refuse(false)
		}
		// The line breaks when the server has acted. Of the repeatable one net/http makes a second try,
		// which is refused; that proves nothing of the first.
		for _, safe := range []bool{false, true} {
			s := newStreamable(n.wire(t, "http://mcp.test/"))
			m := testMessage(t, testInitialized, safe)
			if err := s.post(t.Context(), m, began(), heard(new([]string))); err != nil {
				t.Fatal(err)
			}
			act = func() { n.refuse(true); n.reset() }
			if o := outcome(s.post(t.Context(), m, began(), heard(new([]string)))); o != "unknown" {
				t.Errorf("broken in flight, safe %v: %s", safe, o)
			}
			n.refuse(false)
			act = func() {}
		}
	})
}

// TestPools says which of the two clients carries what.
func TestPools(t *testing.T) {
	var used []string
	client := func(name string) *http.Client {
		return &http.Client{Transport: roundTrip(func(r *http.Request) (*http.Response, error) {
			_, again := r.Header["Idempotency-Key"]
			used = append(used, fmt.Sprint(name, " ", r.Method, " ", again))
			return &http.Response{StatusCode: 202, Body: http.NoBody, Header: http.Header{"Mcp-Session-Id": {"s"}}}, nil
		})}
	}
	w := testWire()
	w.url, w.again, w.once = &url.URL{Scheme: "http", Host: "mcp.test"}, client("again"), client("once")
	s := newStreamable(w)
	s.post(t.Context(), testMessage(t, testHello, true), began(), heard(new([]string)))
	s.post(t.Context(), testMessage(t, testCall, false), began(), heard(new([]string)))
	s.listen(t.Context(), "", began(), nil, heard(new([]string)))
	s.hangup(t.Context())
	if d := cmp.Diff([]string{"again POST true", "once POST false", "once GET true", "again DELETE true"}, used); d != "" {
		t.Error(d)
	}
}

// TestFateOfTries plays what net/http does by itself, through the hooks that tell of it.
func TestFateOfTries(t *testing.T) {
	for _, test := range []struct {
		tries        string // of each whether it was connected
		safe, unsafe string
	}{
		{"-", "unsent", "unsent"},
		{"+", "unknown", "unknown"},
		{"--", "unsent", "unsent"},
		{"-+", "unknown", "unknown"},
		{"+-", "unknown", "unsent"}, // what is not safe is tried again only when the first try cannot count
		{"++-", "unknown", "unsent"},
	} {
		for _, safe := range []bool{true, false} {
			w := testWire()
			w.url = &url.URL{Scheme: "http", Host: "mcp.test"}
			w.again = &http.Client{Transport: roundTrip(func(r *http.Request) (*http.Response, error) {
				hooks := httptrace.ContextClientTrace(r.Context())
				for _, try := range test.tries {
					if hooks.GetConn(""); try == '+' {
						hooks.GotConn(httptrace.GotConnInfo{})
					}
				}
				return nil, io.EOF
			})}
			w.once = w.again
			want := test.unsafe
			if safe {
				want = test.safe
			}
			if o := outcome(newStreamable(w).post(t.Context(), testMessage(t, testCall, safe), began(), heard(new([]string)))); o != want {
				t.Errorf("%s, safe %v: %s, want %s", test.tries, safe, o, want)
			}
		}
	}
}

func BenchmarkStreamablePost(b *testing.B) {
	for kind, body := range map[string]string{jsonType: testAnswer, eventStream: "event: message\ndata: " + testAnswer + "\n\n"} {
		b.Run(kind, func(b *testing.B) {
			w := testWire()
			w.url = &url.URL{Scheme: "http", Host: "mcp.test"}
			h := http.Header{"Content-Type": {kind}}
			w.once = &http.Client{Transport: roundTrip(func(r *http.Request) (*http.Response, error) {
				return &http.Response{StatusCode: 200, Header: h, ContentLength: int64(len(body)), Body: io.NopCloser(strings.NewReader(body))}, nil
			})}
			s, m := newStreamable(w), testMessage(b, testCall, false)
			b.ReportAllocs()
			for b.Loop() {
				err := s.post(b.Context(), m, began(), func(m message) error {
					if m.raw == nil {
						return nil
					}
					w.mem.free(m.charge)
					return nil
				})
				if err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }
