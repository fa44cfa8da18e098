package main

// attack_flood_test.go pours: more than fits anywhere, as small messages and as one, on each transport. What the program
// holds of it is measured at its peak.

import (
	goflag "flag"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

var floodSize = goflag.String("flood", "16MiB", "bytes that TestAttackFlood and TestAttackHugeMessage send in each of their ways")

func flood(t *testing.T) int64 {
	t.Helper()
	var n int
	if err := size(&n)(*floodSize); err != nil {
		t.Fatal(err)
	}
	return int64(n)
}

// A pourer is a server that pours when its client calls a tool: on the stream of that call, or on the one that belongs
// to no call. It is a fakeServer with that one difference.
type pourer struct {
	name   string
	kind   fakeKind
	shared bool
}

var pourers = []pourer{
	{"Streamable HTTP", fakeStreamable, false},
	{"Streamable HTTP, the server's own stream", fakeStreamable, true},
	{"HTTP+SSE", fakeSSE, true},
	{"2026-07-28", fakeStateless, false},
	{"2026-07-28, a subscription", fakeStateless, true},
}

// A sharedStream is the stream that belongs to no call, for whoever writes on it.
type sharedStream struct {
	http.ResponseWriter
	mu    sync.Mutex
	over  bool // its request is
	begun func()
}

func (s *sharedStream) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ResponseWriter.Write(b)
}

func (s *sharedStream) Flush() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ResponseWriter.(http.Flusher).Flush()
	s.begun()
}

// start serves until the test ends. What pour writes to its stream follows, in order, what the server said before; then
// the call has its answer. Without a stream of its own, the call has what pour writes to w instead.
func (p pourer) start(t *testing.T, pour func(w http.ResponseWriter, id string)) (url string) {
	t.Helper()
	s := &fakeServer{kind: p.kind, noStream: !p.shared}
	open := make(chan *sharedStream, 100)
	s.start(t, onLoopback(t))
	s.fail(fault{on: "tools/call", answer: func(w http.ResponseWriter, r *http.Request, m fakeRequest) {
		if !p.shared {
			pour(w, m.id)
			return
		}
		var stream *sharedStream
		select {
		case stream = <-open:
		case <-r.Context().Done():
			return
		}
		if p.kind == fakeSSE {
			w.WriteHeader(http.StatusAccepted)
			http.NewResponseController(w).Flush()
		}
		stream.mu.Lock()
		if !stream.over {
			pour(stream.ResponseWriter, m.id)
		}
		if p.kind == fakeSSE && !stream.over {
			fmt.Fprintf(stream.ResponseWriter, "data: "+okResult+"\n\n", m.id)
			http.NewResponseController(stream.ResponseWriter).Flush()
		}
		stream.mu.Unlock()
		if p.kind != fakeSSE {
			answerWith(200, jsonType, fmt.Sprintf(okResult, m.id))(w, r, m)
		}
	}})
	front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !p.shared || r.Method != http.MethodGet && r.Header.Get("Mcp-Method") != "subscriptions/listen" {
			s.ServeHTTP(w, r)
			return
		}
		stream := &sharedStream{ResponseWriter: w}
		stream.begun = sync.OnceFunc(func() { open <- stream })
		s.ServeHTTP(stream, r)
		stream.mu.Lock() // after whoever pours on it
		stream.over = true
		stream.mu.Unlock()
	}))
	t.Cleanup(func() { front.CloseClientConnections(); front.Close() })
	return front.URL + "/mcp"
}

// However many small messages a server sends, they pass through, and none stays: as one stream, or as answers; and
// where the client does not read, the server has to wait.
func TestAttackFlood(t *testing.T) {
	env := shipped(t)
	total := flood(t)
	const note = "data: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/tools/list_changed\",\"params\":{\"pad\":\"%s\"}}\n\n"
	event := fmt.Sprintf(note, strings.Repeat("x", 400))
	many := []byte(strings.Repeat(event, 100))
	for _, p := range pourers {
		t.Run(p.name, func(t *testing.T) {
			t.Parallel()
			url := p.start(t, func(w http.ResponseWriter, id string) {
				w.Header().Set("Content-Type", eventStream)
				for sent := int64(0); sent < total; sent += int64(len(many)) {
					if _, err := w.Write(many); err != nil {
						return
					}
				}
				fmt.Fprintf(w, note, "last")
				if !p.shared {
					fmt.Fprintf(w, "data: "+okResult+"\n\n", id)
				}
				http.NewResponseController(w).Flush()
			})
			v := attack(t, env, url, "--silent")
			v.hello()
			v.say(`{"jsonrpc":"2.0","id":"flood","method":"tools/call","params":{"name":"x"}}`)
			notes, bytes, last := 0, int64(0), false
			begun := time.Now()
			for line := range v.lines {
				if strings.Contains(line, "xxxx") {
					notes++
					bytes += int64(len(line))
				}
				if last = strings.Contains(line, `"last"`); last {
					break
				}
			}
			took := time.Since(begun)
			t.Logf("%d messages of %d bytes in all, in %v", notes, bytes, took.Round(time.Millisecond))
			if want := (total + int64(len(many)) - 1) / int64(len(many)) * 100; !last || int64(notes) != want {
				t.Errorf("%d messages arrived of %d", notes, want)
			}
			if got := v.ask("tools/list", "{}"); !strings.Contains(got, `"result"`) {
				t.Errorf("afterwards: %s", got)
			}
			v.wantPeak(64)
		})
	}
	for name, kind := range map[string]fakeKind{"JSON": fakeStreamable, "JSON of 2026-07-28": fakeStateless} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			const small, together = 4 << 10, 16
			s := &fakeServer{kind: kind, noStream: true}
			l := onLoopback(t)
			s.start(t, l)
			s.fail(fault{on: "tools/call", times: -1, answer: func(w http.ResponseWriter, r *http.Request, m fakeRequest) {
				s.set(func() { s.seen = nil }) // what the server itself remembers is not what is looked at
				w.Header().Set("Content-Type", jsonType)
				io.WriteString(w, fill(`{"jsonrpc":"2.0","id":%s,"result":{"content":"%s"}}`, m.id, small))
			}})
			v := attack(t, env, "http://"+l.Addr().String()+"/mcp", "--silent")
			v.hello()
			calls := int(total / small)
			begun := time.Now()
			for asked, answered := 0, 0; answered < calls; {
				for asked < min(calls, answered+together) {
					v.say(fmt.Sprintf(`{"jsonrpc":"2.0","id":"c%d","method":"tools/call","params":{"name":"x"}}`, asked))
					asked++
				}
				line, ok := <-v.lines
				if !ok {
					t.Fatal("the program ended")
				}
				if !strings.Contains(line, `"result"`) {
					t.Fatalf("answered %.300s", line)
				}
				answered++
			}
			t.Logf("%d answers of %d bytes in %v", calls, small, time.Since(begun).Round(time.Millisecond))
			v.wantPeak(64)
		})
	}
	for _, p := range pourers {
		t.Run(p.name+", and nobody reads", func(t *testing.T) {
			t.Parallel()
			stuck := make(chan struct{})
			url := p.start(t, func(w http.ResponseWriter, id string) {
				defer close(stuck)
				w.Header().Set("Content-Type", eventStream)
				c := http.NewResponseController(w)
				for range 10 << 30 / len(many) { // more than all that is between us can hold
					c.SetWriteDeadline(time.Now().Add(2 * time.Second))
					if _, err := w.Write(many); err != nil { // it has to wait: back-pressure
						return
					}
				}
				t.Error("everything was taken from it")
			})
			v := attack(t, env, url, "--silent", "--max-memory", "16MiB", "--max-message-size", "1MiB")
			v.hello()
			v.deaf.Lock() // after one more line at most
			defer v.deaf.Unlock()
			v.say(`{"jsonrpc":"2.0","id":"flood","method":"tools/call","params":{"name":"x"}}`)
			<-stuck
			v.wantPeak(64)
		})
	}
}

// One message that is too large is refused as soon as that is known, in whatever form it comes and on whichever stream.
func TestAttackHugeMessage(t *testing.T) {
	env := shipped(t)
	total := flood(t)
	piece := []byte(strings.Repeat("z", 64<<10))
	pour := func(w io.Writer, sep string) (all bool) {
		for range total / int64(len(piece)) {
			if _, err := w.Write(append([]byte(sep), piece...)); err != nil {
				return false
			}
		}
		return true
	}
	for _, p := range pourers {
		for _, c := range []struct {
			name        string
			header      []string // of an answer that is a stream of its own
			status      int
			begin, each string
			want        string
		}{
			{"JSON", []string{"Content-Type", jsonType}, 200, `{"jsonrpc":"2.0","id":%s,"result":"`, "", "-31006"},
			{"JSON of a length that is said", []string{"Content-Type", jsonType, "Content-Length", strconv.Itoa(10 << 30)}, 200, `{"jsonrpc":"2.0","id":%s,"result":"`, "", "-31006"},
			{"one line", []string{"Content-Type", eventStream}, 200, `data: {"jsonrpc":"2.0","id":%s,"result":"`, "", "-31006"},
			{"many lines", []string{"Content-Type", eventStream}, 200, `data: {"jsonrpc":"2.0","id":%s,"result":"`, "\ndata: ", "-31006"},
			{"an error", []string{"Content-Type", "text/plain"}, 400, "", "", "-31004"},
			{"a gzip bomb", []string{"Content-Type", jsonType, "Content-Encoding", "gzip"}, 200, "\x1f\x8b", "", "-31004"},
		} {
			if p.shared && c.header[1] != eventStream {
				continue
			}
			t.Run(p.name+"/"+c.name, func(t *testing.T) {
				t.Parallel()
				refused := make(chan bool, 1)
				url := p.start(t, func(w http.ResponseWriter, id string) {
					if !p.shared {
						for i := 0; i < len(c.header); i += 2 {
							w.Header().Set(c.header[i], c.header[i+1])
						}
						w.WriteHeader(c.status)
					}
					io.WriteString(w, strings.Replace(c.begin, "%s", id, 1))
					refused <- !pour(w, c.each)
				})
				v := attack(t, env, url, "--silent", "--max-message-size", "8MiB", "--max-memory", "16MiB")
				v.hello()
				got := v.ask("tools/call", `{"name":"x"}`)
				want := c.want
				if p.shared {
					want = `"result"`
				}
				if p.kind == fakeSSE { // the call had only the stream for its answer
					want = "-31006"
				}
				if !strings.Contains(got, want) {
					t.Errorf("answered %.300s, want %s", got, want)
				}
				if !<-refused {
					t.Error("all of it was taken")
				}
				if got := v.ask("tools/list", "{}"); !strings.Contains(got, `"result"`) {
					t.Errorf("afterwards: %.300s", got)
				}
				v.wantPeak(40)
				if code := v.end(); code != 0 {
					t.Errorf("exit %d", code)
				}
			})
		}
	}
	t.Run("HTTP+SSE/what answers a POST", func(t *testing.T) { // nobody looks at it
		t.Parallel()
		s := &fakeServer{kind: fakeSSE}
		l := onLoopback(t)
		s.start(t, l)
		s.fail(fault{on: "add", act: true, answer: func(w http.ResponseWriter, r *http.Request, m fakeRequest) {
			w.Header().Set("Content-Type", jsonType)
			pour(w, "")
		}})
		v := attack(t, env, "http://"+l.Addr().String()+"/mcp", "--silent", "--max-message-size", "8MiB", "--max-memory", "16MiB")
		v.hello()
		if got := v.ask("tools/call", `{"name":"add","arguments":{"key":"k"}}`); !strings.Contains(got, `"result"`) {
			t.Errorf("answered %.300s", got)
		}
		v.wantPeak(40)
		v.end()
	})
	t.Run("from the client", func(t *testing.T) {
		t.Parallel()
		v := attack(t, env, calls(t, func(w http.ResponseWriter, id string) { fmt.Fprintf(w, okResult, id) }), "--silent", "--max-message-size", "8MiB", "--max-memory", "16MiB")
		v.hello()
		io.WriteString(v.in, `{"jsonrpc":"2.0","id":"huge","method":"tools/call","params":"`)
		pour(v.in, "")
		v.say(`"}`)
		if got := v.answer(`"huge"`); !strings.Contains(got, "-31006") {
			t.Errorf("answered %s", got)
		}
		if got := v.ask("tools/list", "{}"); !strings.Contains(got, `"result"`) {
			t.Errorf("afterwards: %s", got)
		}
		v.wantPeak(40)
	})
}
