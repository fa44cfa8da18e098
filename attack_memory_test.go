package main

// attack_memory_test.go holds small things against the program that would grow: what is read into something larger
// than itself, and what is kept although nobody says until when.

import (
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestAttackAmplification(t *testing.T) {
	env := shipped(t)
	deep := func(inner string, depth int) string {
		return strings.Repeat("[", depth) + inner + strings.Repeat("]", depth)
	}
	over := func(t *testing.T, s *fakeServer) *victim {
		l := onLoopback(t)
		s.start(t, l)
		return attack(t, env, "http://"+l.Addr().String()+"/mcp", "--silent", "--max-message-size", "8MiB", "--max-memory", "16MiB")
	}
	t.Run("capabilities that are indented", func(t *testing.T) {
		t.Parallel()
		s := &fakeServer{}
		s.fail(fault{on: "initialize", act: true, edit: func(b []byte) [][]byte {
			return [][]byte{set(b, []byte(deep(strings.Repeat("0,", 100_000)+"0", 900)), "result", "capabilities", "x")}
		}})
		v := over(t, s)
		v.hello()
		for begun, there := time.Now(), 0; there == 0; time.Sleep(10 * time.Millisecond) { // of another process: nothing tells
			files, _ := filepath.Glob(filepath.Join(v.home, storeFolder, "*_handshake.json"))
			if there = len(files); time.Since(begun) > hung {
				t.Fatal("the handshake was never remembered")
			}
		}
		v.wantPeak(64)
	})
	t.Run("capabilities that do not fit into a file", func(t *testing.T) {
		t.Parallel()
		s := &fakeServer{}
		s.fail(fault{on: "initialize", act: true, edit: func(b []byte) [][]byte {
			return [][]byte{set(b, quote(strings.Repeat("c", 4<<20)), "result", "capabilities", "x")}
		}})
		v := over(t, s)
		v.hello()
		v.ask("tools/list", "{}")
		v.wantPeak(64)
		v.end()
		if files, _ := filepath.Glob(filepath.Join(v.home, storeFolder, "*")); len(files) > 0 {
			t.Errorf("left behind: %v", files)
		}
	})
	t.Run("a schema of nothing", func(t *testing.T) {
		t.Parallel()
		s := &fakeServer{kind: fakeStateless}
		s.fail(fault{on: "tools/list", act: true, edit: func(b []byte) [][]byte {
			return [][]byte{set(b, []byte(`[{"name":"evil","inputSchema":{"type":"object","properties":{"a":{"type":"string","x-mcp-header":"A","examples":[`+
				strings.Repeat("{},", 2<<20)+`0]}}}},{"name":"good","inputSchema":{"type":"object"}}]`), "result", "tools")}
		}})
		v := over(t, s)
		v.hello()
		if got := v.ask("tools/list", "{}"); !strings.Contains(got, `"good"`) || strings.Contains(got, `"evil"`) {
			t.Errorf("listed %.300s", got)
		}
		v.wantPeak(80) // six megabytes in a handful of copies
	})
	t.Run("cookies", func(t *testing.T) {
		t.Parallel()
		n := 0
		url := hostile(t, func(w http.ResponseWriter, r *http.Request, method, id string) {
			if r.Method == http.MethodGet {
				w.WriteHeader(http.StatusMethodNotAllowed)
				return
			}
			if c, err := r.Cookie("kept"); n > 0 && (err != nil || c.Value != fmt.Sprint(n)) {
				t.Errorf("after %d answers the newest cookie is %v, %v", n, c, err)
			}
			n++
			for i := range 20 {
				w.Header().Add("Set-Cookie", fmt.Sprintf("c%d=%s; Path=/%d-%d", i, strings.Repeat("x", 2900), n, i))
			}
			w.Header().Add("Set-Cookie", fmt.Sprintf("kept=%d; Path=/", n))
			w.Header().Set("Content-Type", jsonType)
			fmt.Fprintf(w, okResult, id)
		})
		v := attack(t, env, url, "--silent")
		v.hello()
		for range 1500 {
			v.ask("tools/list", "{}")
		}
		v.wantPeak(64)
	})
	t.Run("questions that nobody answers", func(t *testing.T) {
		t.Parallel()
		const many = 50_000
		url := hostile(t, func(w http.ResponseWriter, r *http.Request, method, id string) {
			if r.Method == http.MethodGet {
				w.WriteHeader(http.StatusMethodNotAllowed)
				return
			}
			w.Header().Set("Content-Type", eventStream)
			for i := range many {
				fmt.Fprintf(w, "data: {\"jsonrpc\":\"2.0\",\"id\":\"%01000d\",\"method\":\"ping\"}\n\n", i)
			}
			fmt.Fprintf(w, "data: "+okResult+"\n\n", id)
		})
		v := attack(t, env, url, "--silent")
		v.hello()
		v.next++
		v.say(fmt.Sprintf(`{"jsonrpc":"2.0","id":%d,"method":"tools/call","params":{"name":"x"}}`, v.next))
		asked := 0
		for line := range v.lines {
			if strings.Contains(line, `"result"`) {
				break
			}
			asked++
		}
		if asked < 100 || asked == many {
			t.Errorf("%d questions came through", asked)
		}
		v.wantPeak(64)
	})
}

// Lines that arrive together, and of which the second has no room beside the first: the first is handed over, or nothing
// would ever make room.
func TestAttackLinesTogether(t *testing.T) {
	mem := newBudget(64<<10, 64<<10)
	line := `{"jsonrpc":"2.0","method":"` + strings.Repeat("m", 40<<10) + `"}` + "\n"
	lines := make(chan []input)
	go readLines(t.Context(), strings.NewReader(line+line), 64<<10, mem, lines)
	for range 2 {
		select {
		case ins := <-lines:
			if len(ins) != 1 || ins[0].err != nil {
				t.Fatalf("%d lines together", len(ins))
			}
			mem.free(ins[0].charge)
		case <-time.After(hung):
			t.Fatal("the line that was read is kept back")
		}
	}
}
