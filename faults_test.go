package main

// faults_test.go proves the promise fault by fault: testdata/faults/*.txt are scenarios as in scenario_test.go, one a
// fault, whose first line says what it is. What text cannot say (every byte of an answer, fifty bridges, hours of
// keep-alive) follows as code.

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// TestReconnect plays every fault on every transport where it makes sense, and prints how that went. With -run
// Reconnect -v the table is at the end.
func TestReconnect(t *testing.T) {
	files, err := filepath.Glob("testdata/faults/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no faults: %v", err)
	}
	kinds := []string{"sse", "json", "streams", "ids", "modern", "stateless"}
	titles := []string{"HTTP+SSE", "JSON", "streams", "with ids", "2026-07-28", "translated"}
	rows := make([][]string, len(files)) // a subtest writes its own cell
	for i, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		first, _, _ := strings.Cut(string(text), "\n")
		rows[i] = append(rows[i], strings.TrimPrefix(first, "# "))
		on := scenarioKinds(string(text))
		for k, kind := range kinds {
			rows[i] = append(rows[i], "-")
			if !on[kind] {
				continue
			}
			rows[i][k+1] = "FAILED"
			t.Run(strings.TrimSuffix(filepath.Base(file), ".txt")+"/"+kind, func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) { newPlayer(t, file, kind).play(string(text)) })
				if !t.Failed() {
					rows[i][k+1] = "ok"
				}
			})
		}
	}
	t.Cleanup(func() { // when all have been played
		var table strings.Builder
		for _, row := range slices.Concat([][]string{append([]string{"fault"}, titles...)}, rows) {
			fmt.Fprintf(&table, "\n%-72s", row[0])
			for _, cell := range row[1:] {
				fmt.Fprintf(&table, " %-10s", cell)
			}
		}
		t.Log(table.String())
	})
}

// scenarioKinds are the servers that a scenario names.
func scenarioKinds(text string) map[string]bool {
	on := map[string]bool{}
	for line := range strings.Lines(text) {
		if list, ok := strings.CutPrefix(line, "on:"); ok {
			for kind := range strings.FieldsSeq(list) {
				on[kind] = true
			}
		}
	}
	return on
}

// TestEndInEveryState ends the input, or sends a signal, in every state of the machine, with and without calls that
// are open: each has its answer, the session its end, and the bridge is gone in time.
func TestEndInEveryState(t *testing.T) {
	const ready = "host ignores list_changed\nhost> hello\nhost< answer 0\nhost> ready\nhost> request 1 tools/list\nhost< answer 1\n"
	const closing = "host< within 200ms {\"id\":2,\"error\":{\"code\":-31008}}\n"
	for _, tt := range []struct{ name, bridge, before, eof, signal string }{
		{"idle", "", "", "exit within 10ms", "exit within 10ms"},
		{"opening", "", "net: drop\nhost> hello\nsleep 1s\n", "host< nothing for 4400ms\nhost< within 200ms error 0 -31008\nexit within 500ms", "host< within 100ms error 0 -31008\nexit within 500ms"},
		{"opening, and answered in time", "", "net: latency 200ms\nhost> hello\nsleep 100ms\n", "host< within 4500ms answer 0\nexit within 500ms", "host< {\"id\":0}\nexit within 500ms"},
		{"ready", "", ready, "exit within 10ms\n@json,streams,ids server: lost 1", "exit within 10ms\n@json,streams,ids server: lost 1"},
		{"ready, with a short call", "", ready + "host> call 2 slow {\"ms\":3000,\"key\":\"a\"}\nsleep 1s\n", "host< within 3s answer 2\nexit within 500ms\n@json,streams,ids server: lost 1", closing + "exit within 500ms\n@json,streams,ids server: lost 1"},
		{"ready, with a long call", "", ready + "host> call 2 slow {\"ms\":60000,\"key\":\"a\"}\nsleep 1s\n", "host< nothing for 4400ms\n" + closing + "exit within 500ms\n@json,streams,ids server: lost 1", closing + "exit within 500ms\n@json,streams,ids server: lost 1"},
		{"resuming", "max-retry-delay=1s", ready + "host ignores progress\n@ids server: on progress acts and cuts after 1\n@ids server: always on GET answers 503\nhost> call 2 progress {\"steps\":60,\"ms\":1000,\"key\":\"a\"} token 7\nsleep 5s\nserver: ran a 1\n@ids log: resuming a stream\n", "host< nothing for 4400ms\n" + closing + "exit within 500ms", closing + "exit within 500ms"},
		{"signing in", "nobody-signs-in", ready + "server: always on add answers 401 WWW-Authenticate: Bearer\nhost> call 2 add {\"key\":\"a\"}\nsleep 1s\n", "host< nothing for 4400ms\n" + closing + "exit within 500ms", closing + "exit within 500ms"},
		{"waiting", "max-retries=-1", ready + "net: refuse\nnet: reset\nhost> call 2 add {\"key\":\"a\"}\nsleep 1s\n", "host< nothing for 1900ms\nhost< within 2700ms error 2 -31008\nexit within 500ms", closing + "exit within 500ms"},
		{"waiting, and answered in time", "initial-retry-delay=1ms max-retry-delay=1ms max-retries=-1", ready + "net: refuse\nnet: reset\nhost> call 2 add {\"key\":\"a\"}\nsleep 1s\nnet: accept\n", "host< within 1s answer 2\nexit within 500ms", "host< {\"id\":2}\nexit within 500ms"},
		{"dormant", "no-auto-reconnect", ready + "net: refuse\nnet: reset\nhost> call 2 add {\"key\":\"a\"}\nhost< within 1s error 2 not-sent\nsleep 1h\n", "exit within 10ms", "exit within 10ms"},
	} {
		for _, end := range []string{"eof", "signal"} {
			text := "on: json streams ids sse modern stateless\n" + tt.before + end + "\n" + map[string]string{"eof": tt.eof, "signal": tt.signal}[end]
			if tt.bridge != "" {
				text = "bridge: " + tt.bridge + "\n" + text
			}
			t.Run(tt.name+", "+end, func(t *testing.T) { playScenario(t, "this", text) })
		}
	}
}

// TestDrift reads both clocks of a time that has them, and of one that has only a wall clock.
func TestDrift(t *testing.T) {
	start := time.Now()
	for _, tt := range []struct {
		name       string
		start, now time.Time
	}{
		{"nothing", start, start},
		{"both go on", start, start.Add(time.Hour)},
		{"both go back", start, start.Add(-time.Hour)},
		{"there is no monotonic clock", start.Round(0), start.Round(0).Add(time.Hour)},
	} {
		if got := drift(tt.start, tt.now); got != 0 {
			t.Errorf("%s: %v", tt.name, got)
		}
	}
}

// TestCutAnywhere cuts the line after every byte of an answer, on the transport that can resume and on those that
// cannot: a call runs once, and a tool that may be repeated is answered wherever the cut was.
func TestCutAnywhere(t *testing.T) {
	t.Parallel()
	for name, ids := range map[string]bool{"with ids": true, "without": false} {
		t.Run(name, func(t *testing.T) {
			for at := 1; at < 700; at += 7 {
				synctest.Test(t, func(t *testing.T) {
					n := newMemNet()
					s := &fakeServer{streams: true, ids: ids, noStream: !ids}
					s.start(t, n.listen("mcp.test:80"))
					h := newQuietHost(t, n, testOptions())
					h.hello()
					h.list()
					time.Sleep(5 * time.Second)
					n.fin() // so that the next call dials
					synctest.Wait()
					n.breakNext(-1, at)
					one := h.call("look", `"key":"safe"`)
					if got := h.answer(one, time.Minute); !strings.Contains(got, `"result"`) {
						t.Errorf("cut after %d bytes: %s", at, got)
					}
					n.fin()
					synctest.Wait()
					n.breakNext(-1, at)
					two := h.call("add", `"key":"unsafe"`)
					if got := h.answer(two, time.Minute); !strings.Contains(got, `"result"`) && !strings.Contains(got, "-31002") {
						t.Errorf("cut after %d bytes: %s", at, got)
					}
					if got := s.runs("unsafe"); got > 1 {
						t.Errorf("cut after %d bytes: ran %d times", at, got)
					}
					s.check(t)
				})
			}
		})
	}
}

// TestFiftyBridges restarts the server of fifty: their redials are spread, and stay so.
func TestFiftyBridges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newMemNet()
		s := &fakeServer{kind: fakeSSE}
		s.start(t, n.listen("mcp.test:80"))
		var hosts []*host
		o := testOptions()
		o.maxRetries = -1
		for range 50 {
			h := newQuietHost(t, n, o)
			h.hello()
			hosts = append(hosts, h)
		}
		time.Sleep(65 * time.Second) // not at the time of a ping
		for _, h := range hosts {
			for len(h.lines) > 0 {
				<-h.lines
			}
		}
		dialled := func(from, to time.Duration) (tries int, most int) {
			time.Sleep(from)
			before, _ := n.dialled()
			start := before
			const slot = 50 * time.Millisecond
			for range (to - from) / slot {
				time.Sleep(slot)
				now, _ := n.dialled()
				most = max(most, now-before)
				before = now
			}
			return before - start, most
		}
		s.restart()
		n.refuse(true)
		n.reset()
		first, most := dialled(0, 250*time.Millisecond)
		t.Logf("first attempts: %d within 250 ms, at most %d in 50 ms", first, most)
		if first < 50 || most > 30 {
			t.Errorf("%d first attempts within 250 ms, %d of them within 50 ms", first, most)
		}
		later, most := dialled(0, 30*time.Second)
		t.Logf("later attempts: %d in 30 s, at most %d in 50 ms", later, most)
		if most > 12 {
			t.Errorf("%d of %d later attempts within 50 ms", most, later)
		}
		n.refuse(false)
		time.Sleep(time.Minute)
		if s.sessionsMade() != 100 {
			t.Errorf("%d sessions in the end, want 100", s.sessionsMade())
		}
	})
}

// TestClientPauses holds that a client which does not read bounds the bridge's memory, and stops the server.
func TestClientPauses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newMemNet()
		s := &fakeServer{streams: true}
		s.start(t, n.listen("mcp.test:80"))
		o := testOptions()
		o.maxMemory, o.maxMessage = 2<<20, 256<<10
		h := newQuietHost(t, n, o)
		h.hello()
		n.latency(time.Second)
		const calls = 40
		for range calls { // nobody takes their answers: the channel of lines is filled below
			h.call("big", `"bytes":250000,"key":"k"`)
		}
		for len(h.lines) < cap(h.lines) {
			h.lines <- "{}"
		}
		time.Sleep(time.Minute)
		h.b.mem.mu.Lock()
		used := h.b.mem.used
		h.b.mem.mu.Unlock()
		if most := int64(o.maxMemory + o.maxMessage); int64(used) > most {
			t.Errorf("%d bytes are held, of %d", used, most)
		}
		if n.open() < calls/2 {
			t.Errorf("%d lines are open: the server was not held up", n.open())
		}
		for range cap(h.lines) {
			<-h.lines
		}
		for range calls {
			if got := h.hear(time.Minute); !strings.Contains(got, `"result"`) {
				t.Errorf("after the pause: %.200s", got)
			}
		}
		h.in.Close()
		<-h.ended
		time.Sleep(10 * time.Second) // for dials of which nobody waits any more
	})
}

// TestOutageIsTwoLines holds what a person sees of an outage: that the line is lost, and that it is back.
func TestOutageIsTwoLines(t *testing.T) {
	for _, s := range []*fakeServer{{}, {kind: fakeSSE}} {
		synctest.Test(t, func(t *testing.T) {
			n := newMemNet()
			s.start(t, n.listen("mcp.test:80"))
			var log strings.Builder
			o := testOptions()
			o.maxDelay, o.initialDelay = 2*time.Second, time.Second
			o.maxRetries = -1
			h := newHostLog(t, n, o, &log)
			h.hello()
			time.Sleep(time.Second)
			log.Reset()
			n.refuse(true)
			s.restart()
			n.reset()
			id := h.call("add", `"key":"a"`)
			time.Sleep(15 * time.Second)
			n.refuse(false)
			got := h.answer(id, 30*time.Second)
			synctest.Wait()
			var shown []string
			for line := range strings.Lines(log.String()) {
				if !strings.Contains(line, "level=DEBUG") {
					shown = append(shown, line)
				}
			}
			if len(shown) != 2 || !strings.Contains(shown[0], "the line was lost") || !strings.Contains(shown[1], "reconnected") ||
				!strings.Contains(shown[1], "after=") || !strings.Contains(shown[1], "newSession=true") || !strings.Contains(shown[1], "heldCalls=1") {
				t.Errorf("an outage showed %q before %s", shown, got)
			}
		})
	}
}

// BenchmarkRedial measures in virtual time, where only the waits of the bridge count: from "the server is back" to
// "the held call is answered", over restarts with outages of up to ten seconds; and from an idle cut to a new session.
func BenchmarkRedial(b *testing.B) {
	for b.Loop() {
		var back, cut []time.Duration
		b.StopTimer()
		// testing/synctest wants a T; the figures are printed by it.
		testing.RunTests(func(string, string) (bool, error) { return true, nil }, []testing.InternalTest{{Name: "redial", F: func(t *testing.T) {
			for range 50 {
				synctest.Test(t, func(t *testing.T) { back = append(back, heldFor(t)) })
				synctest.Test(t, func(t *testing.T) { cut = append(cut, idleCut(t)) })
			}
		}}})
		b.StartTimer()
		slices.Sort(back)
		slices.Sort(cut)
		b.ReportMetric(float64(back[25].Milliseconds()), "ms/back-p50")
		b.ReportMetric(float64(back[49].Milliseconds()), "ms/back-p99")
		b.ReportMetric(float64(cut[25].Milliseconds()), "ms/idle-cut-p50")
		b.ReportMetric(float64(cut[49].Milliseconds()), "ms/idle-cut-p99")
	}
}

// heldFor is how long a call that was made in an outage waits for its answer once the server is back.
func heldFor(t *testing.T) time.Duration {
	n := newMemNet()
	s := &fakeServer{}
	o := testOptions()
	o.holdTimeout = time.Minute // so that every call is held until the server is back
	s.start(t, n.listen("mcp.test:80"))
	h := newQuietHost(t, n, o)
	h.hello()
	time.Sleep(time.Second)
	n.refuse(true)
	s.restart()
	n.reset()
	id := h.call("add", `"key":"a"`)
	time.Sleep(rand.N(10 * time.Second))
	n.refuse(false)
	start := time.Now()
	if got := h.answer(id, time.Minute); !strings.Contains(got, `"result"`) {
		t.Errorf("the held call was not answered: %s", got)
	}
	return time.Since(start)
}

// idleCut is how long a healthy HTTP+SSE server waits for the new session after it has ended the idle stream.
func idleCut(t *testing.T) time.Duration {
	n := newMemNet()
	s := &fakeServer{kind: fakeSSE}
	s.start(t, n.listen("mcp.test:80"))
	h := newQuietHost(t, n, testOptions())
	h.hello()
	time.Sleep(20 * time.Second)
	n.fin()
	start := time.Now()
	h.hear(time.Minute) // list_changed: the session stands
	return time.Since(start)
}

// TestIdleCut holds the first reconnect after an idle cut to 300 ms; round trips take no time here.
func TestIdleCut(t *testing.T) {
	for range 20 {
		synctest.Test(t, func(t *testing.T) {
			if d := idleCut(t); d > 300*time.Millisecond {
				t.Errorf("the line was back after %v", d)
			}
		})
	}
}
