package main

// attack_retry_test.go has a server decide when it is called again: never, or at once and for ever.

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// A server that ends the stream of a call, and wants a client to wait for centuries before it comes back: the call has
// its answer while that makes sense, and where the session stands so has the next.
func TestAttackRetryNever(t *testing.T) {
	env := shipped(t)
	const never = "retry: 999999999999999999999999\nid: 1\ndata:\n\n"
	for name, s := range fakeTransports(true) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := onLoopback(t)
			s.start(t, l)
			v := attack(t, env, "http://"+l.Addr().String()+"/mcp", "--silent", "--hold-timeout", "1s")
			v.hello()
			f := fault{on: "add", act: true, answer: answerWith(200, eventStream, never)}
			if s.kind == fakeSSE {
				f.answer, f.edit = nil, func([]byte) [][]byte { return [][]byte{[]byte("{}\n\n" + strings.TrimSuffix(never, "\n\n"))} }
			}
			s.fail(f)
			v.say(`{"jsonrpc":"2.0","id":"q","method":"tools/call","params":{"name":"add","arguments":{"key":"k"}}}`)
			for s.kind == fakeSSE && s.runs("k") == 0 {
				<-time.After(time.Millisecond)
			}
			if s.kind == fakeSSE {
				<-time.After(100 * time.Millisecond) // for the stream to have said so; the line is cut in any case
				s.cut()
			}
			if got := v.answer(`"q"`); !strings.Contains(got, "-31002") || s.runs("k") != 1 {
				t.Errorf("answered %s, and run %d times", got, s.runs("k"))
			}
			want := `"result"`
			if s.kind == fakeSSE { // the line is gone, and it asked to be left alone
				want = `"result"|-31001`
			}
			if got := v.ask("tools/list", "{}"); !matches(want, got) {
				t.Errorf("the next is answered %s", got)
			}
			if code := v.end(); code != 0 {
				t.Errorf("exit %d", code)
			}
		})
	}
}

func matches(alternatives, text string) bool {
	for one := range strings.SplitSeq(alternatives, "|") {
		if strings.Contains(text, one) {
			return true
		}
	}
	return false
}

// A server that ends each stream at once, numbers on, and wants to be asked again in a millisecond, for ever, is asked ten
// times a second: nobody else is held up, nothing is kept, and the client's word ends it.
func TestAttackRetryAtOnce(t *testing.T) {
	env := shipped(t)
	const often = 40
	var asked atomic.Int64
	reached := make(chan struct{})
	url := hostile(t, func(w http.ResponseWriter, r *http.Request, method, id string) {
		if r.Method == http.MethodGet && r.Header.Get("Last-Event-ID") == "" {
			w.WriteHeader(http.StatusMethodNotAllowed)
			return
		}
		if method == "tools/list" {
			w.Header().Set("Content-Type", jsonType)
			fmt.Fprintf(w, okResult, id)
			return
		}
		n := asked.Add(1)
		if n == often {
			close(reached)
		}
		w.Header().Set("Content-Type", eventStream)
		io.WriteString(w, fmt.Sprintf("retry: 1\nid: %01000d\ndata:\n\n", n))
	})
	v := attack(t, env, url, "--silent")
	v.hello()
	began := time.Now()
	v.say(`{"jsonrpc":"2.0","id":"q","method":"tools/call","params":{"name":"x"}}`)
	for range 20 {
		if got := v.ask("tools/list", "{}"); !strings.Contains(got, `"result"`) {
			t.Errorf("answered %s", got)
		}
	}
	<-reached
	if took := time.Since(began); took < (often-1)*resumeFloor {
		t.Errorf("asked %d times in %v", often, took)
	}
	v.wantPeak(64)
	v.say(`{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":"q"}}`)
	for last := int64(-1); last != asked.Load(); <-time.After(300 * time.Millisecond) {
		last = asked.Load()
	}
	if got := v.ask("tools/list", "{}"); !strings.Contains(got, `"result"`) {
		t.Errorf("afterwards: %s", got)
	}
	if code := v.end(); code != 0 {
		t.Errorf("exit %d", code)
	}
}
