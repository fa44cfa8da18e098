package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func testOptions() options {
	return options{
		server: "http://mcp.test", transport: "http-first", protocol: "auto", autoReconnect: true,
		maxRetries: 10, initialDelay: 2 * time.Second, maxDelay: 30 * time.Second, multiplier: 1.5,
		holdTimeout: 25 * time.Second, pingInterval: 30 * time.Second, retryCalls: "safe", offlineStart: true,
		maxMessage: 64 << 20, maxMemory: 256 << 20,
	}
}

// A host is a client of the bridge: it writes lines and reads them, in a bubble.
type host struct {
	t     *testing.T
	b     *bridge
	in    *io.PipeWriter
	lines chan string
	stop  context.CancelFunc // a signal
	ended chan struct{}      // closed
	signs []func() error     // what sign-ins come to, in order; then success
	snaps []snapshot
	next  int
}

// newHost runs a bridge to a server on n. It is ended with the test.
func newHost(t *testing.T, n *memNet, o options) *host { return newHostLog(t, n, o, testWriter{t}) }

// newQuietHost keeps the log to itself.
func newQuietHost(t *testing.T, n *memNet, o options) *host { return newHostLog(t, n, o, io.Discard) }

func newHostLog(t *testing.T, n *memNet, o options, logTo io.Writer) *host {
	h := &host{t: t, lines: make(chan string, 10000), ended: make(chan struct{})}
	w := n.wire(t, "http://mcp.test/mcp")
	w.mem = newBudget(o.maxMemory, o.maxMessage)
	w.max = o.maxMessage
	log := slog.New(slog.NewTextHandler(logTo, &slog.HandlerOptions{Level: slog.LevelDebug}))
	h.b = newBridge(o, outside{
		connect: func(k transportKind) transport {
			switch k {
			case kindSSE:
				return newSSE(w)
			case kindStateless:
				return newStateless(w)
			}
			return newStreamable(w)
		},
		signIn: func(ctx context.Context, challenge string, status int, waiting func(string)) error {
			if len(h.signs) == 0 {
				return nil
			}
			f := h.signs[0]
			h.signs = h.signs[1:]
			return f()
		},
		remember: func(s snapshot) { h.snaps = append(h.snaps[max(0, len(h.snaps)-100):], s) }, // the newest
	}, log, w.mem)
	in, inw := io.Pipe()
	outr, out := io.Pipe()
	h.in = inw
	ctx, cancel := context.WithCancel(context.Background())
	h.stop = cancel
	go func() {
		h.b.run(ctx, in, out)
		close(h.ended)
		in.Close()
		out.Close()
	}()
	go func() {
		r := bufio.NewReader(outr)
		for {
			line, err := r.ReadString('\n')
			if err != nil {
				close(h.lines)
				return
			}
			h.lines <- strings.TrimSuffix(line, "\n")
		}
	}()
	t.Cleanup(func() {
		cancel()
		inw.Close()
		outr.Close()
		synctest.Wait()
	})
	return h
}

type testWriter struct{ t testing.TB }

func (w testWriter) Write(b []byte) (int, error) {
	if w.t.Context().Err() == nil {
		w.t.Logf("%s %s", time.Now().Format("05.000"), strings.TrimSpace(string(b)))
	}
	return len(b), nil
}

// look runs f in the loop, and waits for it.
func (h *host) look(f func()) {
	done := make(chan bool)
	h.b.events <- event{do: func() { f(); close(done) }}
	<-done
}

func (h *host) say(line string) {
	h.t.Helper()
	if _, err := io.WriteString(h.in, line+"\n"); err != nil {
		h.t.Fatalf("writing %s: %v", line, err)
	}
}

// hear is the next line within d of virtual time, "" if there is none.
func (h *host) hear(d time.Duration) string {
	select {
	case l := <-h.lines:
		return l
	case <-time.After(d):
		return ""
	}
}

// answer is the next response to id within d, with what came before it left out.
func (h *host) answer(id string, d time.Duration) string {
	h.t.Helper()
	limit := time.After(d)
	for {
		select {
		case l, ok := <-h.lines:
			if !ok {
				h.t.Fatalf("the bridge ended before the answer to %s", id)
			}
			var m struct {
				ID     json.RawMessage
				Method string
			}
			if err := json.Unmarshal([]byte(l), &m); err != nil {
				h.t.Fatalf("no JSON: %s", l)
			}
			if string(m.ID) == id && m.Method == "" {
				return l
			}
		case <-limit:
			h.t.Fatalf("no answer to %s within %v", id, d)
		}
	}
}

func (h *host) hello() {
	h.t.Helper()
	h.say(`{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"c","version":"1"}}}`)
	if got := h.answer("0", time.Minute); !strings.Contains(got, `"result"`) {
		h.t.Fatalf("initialize: %s", got)
	}
	h.say(`{"jsonrpc":"2.0","method":"notifications/initialized"}`)
	synctest.Wait()
}

func (h *host) list() {
	h.t.Helper()
	h.say(`{"jsonrpc":"2.0","id":"list","method":"tools/list"}`)
	h.answer(`"list"`, time.Minute)
}

func (h *host) call(tool, args string) string {
	h.t.Helper()
	h.next++
	h.say(fakeCallLine(h.next, tool, args))
	return fmt.Sprint(h.next)
}

func bridgeBubble(t *testing.T, s *fakeServer, f func(t *testing.T, n *memNet, h *host)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		n := newMemNet()
		s.start(t, n.listen("mcp.test:80"))
		f(t, n, newHost(t, n, testOptions()))
	})
}

func TestBridgeBasics(t *testing.T) {
	for name, s := range map[string]*fakeServer{
		"streamable json": {},
		"streamable sse":  {streams: true, ids: true},
		"sse":             {kind: fakeSSE},
	} {
		t.Run(name, func(t *testing.T) {
			bridgeBubble(t, s, func(t *testing.T, n *memNet, h *host) {
				h.hello()
				h.list()
				id := h.call("echo", `"text":"hi"`)
				if got := h.answer(id, time.Second); !strings.Contains(got, "hi") {
					t.Error(got)
				}
				s.restart()
				id = h.call("echo", `"text":"again"`)
				if got := h.answer(id, 10*time.Second); !strings.Contains(got, "again") {
					t.Error(got)
				}
				h.in.Close()
				<-h.ended
			})
		})
	}
}

// A tool whose answer only looks like a lost session gets through, also where no stream is open.
func TestDoubtWithoutStream(t *testing.T) {
	for _, kind := range []fakeKind{fakeStreamable, fakeSSE} {
		s := &fakeServer{kind: kind, noStream: true}
		bridgeBubble(t, s, func(t *testing.T, n *memNet, h *host) {
			h.hello()
			id := h.call("refuses", `"code":-32000,"text":"Session not found","key":"a"`)
			if got := h.answer(id, time.Second); !strings.Contains(got, "Session not found") || strings.Contains(got, "mcp-redial") {
				t.Error(got)
			}
			if s.runs("a") != 1 || s.sessionsMade() != 1 {
				t.Errorf("ran %d times in %d sessions", s.runs("a"), s.sessionsMade())
			}
		})
	}
}

// The answers to an array do not wait for its last where they are large.
func TestArrayBound(t *testing.T) {
	bridgeBubble(t, &fakeServer{}, func(t *testing.T, n *memNet, h *host) {
		h.say(`{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":"2025-03-26","capabilities":{},"clientInfo":{"name":"c","version":"1"}}}`)
		h.answer("0", time.Minute)
		h.say(`{"jsonrpc":"2.0","method":"notifications/initialized"}`)
		calls := []string{fakeCallLine(1, "slow", `"ms":60000,"key":"k"`)}
		for len(calls) < 30 {
			calls = append(calls, fakeCallLine(len(calls)+1, "big", `"bytes":250000,"key":"k"`))
		}
		h.say("[" + strings.Join(calls, ",") + "]")
		time.Sleep(time.Second)
		h.look(func() {
			for _, g := range h.b.batch {
				if g.raw.Len() >= maxArray {
					t.Errorf("%d bytes wait", g.raw.Len())
				}
			}
		})
		time.Sleep(time.Minute)
		synctest.Wait()
		answered := 0
		for len(h.lines) > 0 {
			var some []json.RawMessage
			if err := json.Unmarshal([]byte(<-h.lines), &some); err != nil {
				t.Fatal(err)
			}
			answered += len(some)
		}
		left := 0
		h.look(func() { left = len(h.b.batch) })
		if answered != len(calls) || left > 0 {
			t.Errorf("%d answers to %d calls, %d are awaited", answered, len(calls), left)
		}
	})
}

// What is said again in a new session is bounded, in number and in bytes.
func TestSubscribedBound(t *testing.T) {
	subscription := func(uri string) *call {
		return &call{m: newRequest("1", "resources/subscribe", []byte(`{"uri":"`+uri+`"}`))}
	}
	var o ours
	room := maxKept - len(subscription("").m.raw)
	o.note(subscription(strings.Repeat("x", room)))
	o.note(subscription(strings.Repeat("y", room+1)))
	if len(o.subscribed) != 1 {
		t.Errorf("%d are kept of one that is small enough and one that is not", len(o.subscribed))
	}
	for i := range maxSubscribed {
		o.note(subscription(fmt.Sprint(i)))
	}
	_, last := o.subscribed[fmt.Sprint(maxSubscribed-2)]
	if n := len(o.subscribed); n != maxSubscribed || !last {
		t.Errorf("%d are kept of %d, the last that fits: %v", n, maxSubscribed+1, last)
	}
	if n := len(o.replay(func() string { return `"i"` })); n != maxSubscribed {
		t.Errorf("%d are said again", n)
	}
}

// A crowd in flight is told of, and what is less is not.
func TestCrowd(t *testing.T) {
	bridgeBubble(t, &fakeServer{}, func(t *testing.T, _ *memNet, h *host) {
		h.hello()
		told := 0
		h.look(func() { h.b.world.crowded = func() { told++ } })
		for i := range crowd {
			if told != 0 {
				t.Fatalf("told of %d lines", i)
			}
			h.say(fakeCallLine(i+1, "slow", `"ms":1000`))
			synctest.Wait()
		}
		if told != 1 {
			t.Errorf("told %d times of %d lines", told, crowd)
		}
		time.Sleep(2 * time.Second)
	})
}

// A call that is sent again on a fresh connection leaves nothing behind.
func TestFreshForgets(t *testing.T) {
	s := &fakeServer{}
	bridgeBubble(t, s, func(t *testing.T, n *memNet, h *host) {
		h.hello()
		h.list()
		n.freeze()
		if got := h.answer(h.call("look", `"key":"a"`), time.Minute); !strings.Contains(got, `"result"`) {
			t.Error(got)
		}
		h.in.Close()
		<-h.ended
		if left := len(h.b.byUp) + len(h.b.byID) + len(h.b.inflight); left != 0 {
			t.Errorf("%d entries are left: %v", left, h.b.byUp)
		}
	})
}

// A line that is dead ends the calls of earlier sessions too.
func TestDeadEndsEarlierSessions(t *testing.T) {
	s := &fakeServer{}
	bridgeBubble(t, s, func(t *testing.T, n *memNet, h *host) {
		h.hello()
		first := h.call("slow", `"ms":7200000,"key":"a"`)
		time.Sleep(time.Second)
		s.forget()
		h.answer(h.call("echo", `"text":"x","key":"b"`), time.Minute)
		n.drop(true)
		n.freeze()
		h.call("echo", `"text":"x","key":"c"`)
		if got := h.answer(first, 10*time.Minute); !strings.Contains(got, "outcome-unknown") {
			t.Error(got)
		}
		h.in.Close()
		<-h.ended
		time.Sleep(10 * time.Second) // for dials of which nobody waits any more
	})
}

// A client that does not read gives the loop nothing to do by the clock.
func TestNextWakeOfPause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBridge(testOptions(), outside{remember: func(snapshot) {}}, slog.New(slog.DiscardHandler), newBudget(1<<20, 1<<20))
		now := time.Now()
		b.state, b.sess, b.talked, b.outBytes = ready, &session{streamOpen: true}, now.Add(-time.Hour), maxOut
		b.tick(now)
		if next := b.nextWake(now); !next.After(now) {
			t.Error("the loop spins")
		}
	})
}

// A call that needs wider permissions waits for them alone.
func TestStepUpHoldsOneCall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, s := newMemNet(), &fakeServer{}
		s.start(t, n.listen("mcp.test:80"))
		h := newHost(t, n, testOptions())
		granted := make(chan struct{})
		h.signs = []func() error{func() error { <-granted; return nil }}
		h.hello()
		s.fail(fault{on: "add", answer: answerStatus(http.StatusForbidden, "WWW-Authenticate", `Bearer error="insufficient_scope", scope="more"`)})
		id := h.call("add", `"key":"a"`)
		if got := h.answer(h.call("echo", `"text":"meanwhile"`), time.Second); !strings.Contains(got, "meanwhile") {
			t.Error(got)
		}
		close(granted)
		if got := h.answer(id, time.Second); !strings.Contains(got, `"result"`) {
			t.Error(got)
		}
		s.fail(fault{on: "add", answer: answerStatus(http.StatusForbidden, "WWW-Authenticate", `Bearer error="insufficient_scope"`)})
		h.signs = []func() error{func() error { return &signInError{err: errors.New("denied"), hint: "Ask for it."} }}
		if got := h.answer(h.call("add", `"key":"b"`), time.Second); !strings.Contains(got, "-31003") || !strings.Contains(got, "Ask for it.") {
			t.Error(got)
		}
		if s.runs("a") != 1 || s.runs("b") != 0 {
			t.Errorf("ran %d and %d times", s.runs("a"), s.runs("b"))
		}
	})
}

// A server that accepts a resumption and never delivers is noticed, and the caller told.
func TestDeafResumption(t *testing.T) {
	s := &fakeServer{streams: true, ids: true, deaf: true}
	bridgeBubble(t, s, func(t *testing.T, n *memNet, h *host) {
		h.hello()
		s.fail(fault{on: "progress", act: true, events: 1})
		h.next++
		h.say(`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"progress","arguments":{"key":"a","steps":3,"ms":10},"_meta":{"progressToken":"p"}}}`)
		if got := h.answer("1", 20*time.Minute); !strings.Contains(got, "outcome-unknown") {
			t.Error(got)
		}
		if s.runs("a") != 1 {
			t.Errorf("ran %d times", s.runs("a"))
		}
	})
}

// A line that is too long gets its error under its own id.
func TestTooLongFromClient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, s := newMemNet(), &fakeServer{}
		s.start(t, n.listen("mcp.test:80"))
		o := testOptions()
		o.maxMessage = 1000
		h := newHost(t, n, o)
		h.hello()
		line := func(size int) string {
			head := `{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"echo","arguments":{"text":"`
			return head + strings.Repeat("x", size-len(head)-4) + `"}}}`
		}
		h.say(line(1000))
		if got := h.answer("7", time.Second); !strings.Contains(got, `"result"`) {
			t.Error(got)
		}
		h.say(line(1001))
		if got := h.answer("7", time.Second); !strings.Contains(got, "-31006") || !strings.Contains(got, "1000 bytes") {
			t.Error(got)
		}
	})
}

// Tools that may not be called are neither shown nor sent, and a tool that no list has named is looked up first,
// also while the line drops.
func TestToolsFiltered(t *testing.T) {
	for _, kind := range []fakeKind{fakeStreamable, fakeSSE} {
		synctest.Test(t, func(t *testing.T) {
			n, s := newMemNet(), &fakeServer{kind: kind}
			s.start(t, n.listen("mcp.test:80"))
			o := testOptions()
			o.tools = filterOptions{readOnly: true, ignore: []string{"FAIL*"}}
			h := newHost(t, n, o)
			h.hello()
			h.call("look", `"key":"a"`)
			h.call("add", `"key":"b"`)
			h.call("fails", `"key":"c"`)
			got := h.hear(time.Minute) + h.hear(time.Minute) + h.hear(time.Minute)
			for _, want := range []string{`"id":1,`, `"result"`, `"id":2,`, `"id":3,`, "--ignore-tool", `"id":2,"error":{"code":-31009`} {
				if !strings.Contains(got, want) {
					t.Errorf("no %s in %s", want, got)
				}
			}
			h.say(`{"jsonrpc":"2.0","id":"list","method":"tools/list"}`)
			if got := h.answer(`"list"`, time.Minute); !strings.Contains(got, `"look"`) || strings.Contains(got, `"add"`) || strings.Contains(got, `"fails"`) {
				t.Error(got)
			}
			s.restart() // the new session has listed nothing yet
			synctest.Wait()
			if got := h.answer(h.call("add", `"key":"b"`), time.Minute); !strings.Contains(got, "-31009") {
				t.Error(got)
			}
			if got := h.answer(h.call("look", `"key":"d"`), time.Minute); !strings.Contains(got, `"result"`) {
				t.Error(got)
			}
			if s.runs("a") != 1 || s.runs("b")+s.runs("c") != 0 || s.runs("d") != 1 {
				t.Errorf("ran %d, %d, %d, %d times", s.runs("a"), s.runs("b"), s.runs("c"), s.runs("d"))
			}
		})
	}
}

// A call whose exchange ends when the line is already waited for has its attempt before its hold is over, as the calls
// that were held when the wait began.
func TestLastChanceOfLatecomer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBridge(testOptions(), outside{remember: func(snapshot) {}}, slog.New(slog.DiscardHandler), newBudget(1<<20, 1<<20))
		now := time.Now()
		b.heard, b.outage, b.state, b.redialAt = now, now, waiting, now.Add(time.Hour)
		m, err := scan([]byte(`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"add"}}`))
		if err != nil {
			t.Fatal(err)
		}
		x := &exchange{s: &session{live: map[*exchange]bool{}}}
		x.c = &call{m: m, arrived: now, sess: x.s, x: x}
		b.enter(x.c)
		b.sent(x.c)
		b.over(x, &exchangeError{fate: unsent, err: errSilent})
		if len(b.queue) != 1 || b.redialAt.After(b.limit(x.c)) {
			t.Errorf("%d calls are held until %v, and the next attempt comes after %v", len(b.queue), b.limit(x.c).Sub(now), b.redialAt.Sub(now))
		}
	})
}

// What is larger than a piece comes through whole, and what the loop looks into is looked into to its end: the tool that
// may not be seen is in a list that goes on for long, and an id that is not spelt as it was is put right.
func TestLargeAnswers(t *testing.T) {
	const much = 600 << 10
	inflate := func(edit func([]byte) [][]byte, path ...string) func([]byte) [][]byte {
		return func(b []byte) [][]byte {
			big := fakeJSON(strings.Repeat(`much "of" it `, much/13))
			return edit(set(b, big, append(path, "aaa")...))
		}
	}
	same := func(b []byte) [][]byte { return [][]byte{b} }
	for name, s := range fakeTransports(false) {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := newMemNet()
				s.start(t, n.listen("mcp.test:80"))
				o := testOptions()
				o.tools.ignore = []string{"look"}
				h := newQuietHost(t, n, o)
				greeting, misspell := "initialize", editQuoteID
				switch s.kind {
				case fakeStateless:
					greeting = "server/discover"
				case fakeSSE: // there the id alone tells
					misspell = same
				}
				s.fail(fault{on: greeting, act: true, edit: inflate(same, "result")},
					fault{on: "tools/list", act: true, edit: inflate(same, "result")},
					fault{on: "echo", act: true, edit: inflate(same, "result")},
					fault{on: "echo", act: true, edit: inflate(misspell, "result")},
					fault{on: "fails", act: true, edit: inflate(same, "result")},
					fault{on: "resources/read", act: true, edit: inflate(same, "result")})
				h.hello()
				h.say(`{"jsonrpc":"2.0","id":"list","method":"tools/list"}`)
				got := h.answer(`"list"`, time.Minute)
				if strings.Contains(got, `"look"`) || !strings.Contains(got, `"put"`) || len(got) < much {
					t.Errorf("a list of %d bytes: %.300s", len(got), got)
				}
				for _, tool := range []string{"echo", "echo", "fails"} {
					got = h.answer(h.call(tool, `"text":"hi"`), time.Minute)
					if len(got) < much || peek([]byte(got), "result", "content") == nil {
						t.Errorf("%s: %d bytes: %.300s", tool, len(got), got)
					}
				}
				h.say(`{"jsonrpc":"2.0","id":"read","method":"resources/read","params":{"uri":"file:///a"}}`)
				if got = h.answer(`"read"`, time.Minute); len(got) < much {
					t.Errorf("a resource of %d bytes: %.300s", len(got), got)
				}
				h.in.Close()
				<-h.ended
				if used := h.b.mem.used; used != 0 {
					t.Errorf("%d bytes stay charged", used)
				}
				for _, r := range s.seen {
					if s.kind == fakeStreamable && r.method == "tools/list" && r.header.Get("Mcp-Protocol-Version") != "2025-11-25" {
						t.Errorf("the version was not read: %v", r.header)
					}
				}
			})
		})
	}
}

// A large answer under another id than the client's is looked into as a small one is.
func TestReplySubscription(t *testing.T) {
	for _, size := range []int{10, small + 1} {
		w := testWire()
		b := newBridge(testOptions(), outside{remember: func(snapshot) {}}, w.log, w.mem)
		b.kind = kindStateless
		c := &call{m: newRequest("1", "tools/call", []byte(`{"name":"n"}`)), up: "9", arrived: time.Now()}
		b.enter(c)
		answer := func(id string) string {
			return `{"jsonrpc":"2.0","id":` + id + `,"result":{"_meta":{"` + metaSubscription + `":` + id + `},"text":"` + strings.Repeat("x", size) + `"}}`
		}
		p := pile{mem: w.mem, max: w.max, urgent: true}
		p.err = p.read(t.Context(), strings.NewReader(answer("9")), int64(len(answer("9"))))
		if err := w.hand(t.Context(), &p, func(m message) error { b.reply(c, m); return nil }); err != nil || len(b.outbox) != 1 {
			t.Fatalf("%d bytes: %v, %d messages", size, err, len(b.outbox))
		}
		if got, _ := io.ReadAll(b.outbox[0].whole().body()); string(got) != answer("1") {
			t.Errorf("%d bytes: %.150s…", size, got)
		}
	}
}
