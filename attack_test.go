package main

// attack_test.go and its companions attack the program as it runs: a process of its own, with hostile servers
// around it. SECURITY.md says which class of attack each test stands for.

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// hung is when a test ends what does not end by itself. Nothing else is decided by it, however slow the machine.
const hung = 2 * time.Minute

// A victim is the program in a process of its own.
type victim struct {
	t     *testing.T
	cmd   *exec.Cmd
	in    io.WriteCloser
	lines chan string   // of its standard output
	gone  chan struct{} // closed when it has ended
	home  string
	next  int

	deaf sync.Mutex // held by who has the test not read standard output

	mu   sync.Mutex
	said *sync.Cond   // on mu: there is more in errs, or no more will come
	outs bytes.Buffer // the first mebibyte of standard output
	errs bytes.Buffer // everything on standard error
	mute bool         // errs is complete
}

// TestVictim is the program where a test runs itself as that.
func TestVictim(t *testing.T) {
	given, ok := os.LookupEnv("VICTIM_ARGS")
	if !ok {
		t.Skip("run by other tests in a process of its own")
	}
	var args []string
	if err := json.Unmarshal([]byte(given), &args); err != nil {
		t.Fatal(err)
	}
	os.Exit(command(args, thisMachine(), os.Stdin, os.Stdout, os.Stderr))
}

// victimCommand is the program with args: this test binary, or the one that the environment names by PROGRAM.
func victimCommand(home string, env []string, args ...string) *exec.Cmd {
	given, _ := json.Marshal(args)
	cmd := exec.Command(os.Args[0], "-test.run=^TestVictim$")
	cmd.Env = []string{"VICTIM_ARGS=" + string(given)}
	for _, e := range env {
		if program, ok := strings.CutPrefix(e, "PROGRAM="); ok {
			cmd = exec.Command(program, args...)
			cmd.Env = nil
		}
	}
	cmd.Env = append(cmd.Env, "GORACE=atexit_sleep_ms=0") // the race detector would have each process sleep for a second before it ends
	cmd.Env = append(cmd.Env, "MCP_REMOTE_CONFIG_DIR="+home, "HOME="+home, "PATH="+home, "GOTRACEBACK=all", "SYSTEMROOT="+os.Getenv("SYSTEMROOT"))
	cmd.Env = append(cmd.Env, env...)
	return cmd
}

// attack starts the program. It is killed with the test if it has not ended by then.
func attack(t *testing.T, env []string, args ...string) *victim {
	t.Helper()
	v := &victim{t: t, lines: make(chan string, 1<<16), gone: make(chan struct{}), home: t.TempDir()}
	v.cmd, v.said = victimCommand(v.home, env, args...), sync.NewCond(&v.mu)
	var err error
	if v.in, err = v.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := v.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	errs, err := v.cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := v.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		r := bufio.NewReader(out)
		for {
			v.hearing()
			line, err := r.ReadString('\n')
			if err != nil {
				close(v.lines)
				return
			}
			v.mu.Lock()
			if v.outs.Len() < 1<<20 {
				v.outs.WriteString(line)
			}
			v.mu.Unlock()
			v.lines <- line
		}
	})
	wg.Go(func() {
		part := make([]byte, 4096)
		for {
			n, err := errs.Read(part)
			v.mu.Lock()
			v.errs.Write(part[:n])
			v.mute = err != nil
			v.said.Broadcast()
			v.mu.Unlock()
			if err != nil {
				return
			}
		}
	})
	go func() { wg.Wait(); v.cmd.Wait(); close(v.gone) }()
	t.Cleanup(func() {
		v.in.Close()
		v.cmd.Process.Kill()
		for range v.lines { // until its reader has ended
		}
		<-v.gone
	})
	return v
}

func (v *victim) hearing()       { v.deaf.Lock(); defer v.deaf.Unlock() } // waits until the test reads standard output
func (v *victim) stderr() string { v.mu.Lock(); defer v.mu.Unlock(); return v.errs.String() }
func (v *victim) stdout() string { v.mu.Lock(); defer v.mu.Unlock(); return v.outs.String() }

// tells waits for what matches on standard error, and returns it.
func (v *victim) tells(pattern string) string {
	v.t.Helper()
	late := time.AfterFunc(hung, func() { v.cmd.Process.Kill() })
	defer late.Stop()
	v.mu.Lock()
	defer v.mu.Unlock()
	for {
		if found := regexp.MustCompile(pattern).Find(v.errs.Bytes()); found != nil {
			return string(found)
		}
		if v.mute {
			v.t.Fatalf("nothing like %s was said:\n%s", pattern, v.errs.String())
		}
		v.said.Wait()
	}
}

func (v *victim) say(line string) {
	v.t.Helper()
	if _, err := io.WriteString(v.in, line+"\n"); err != nil {
		v.t.Fatalf("writing to the program: %v\n%s", err, v.stderr())
	}
}

// answer waits for the response to a request with this id token.
func (v *victim) answer(id string) string {
	v.t.Helper()
	late := time.After(hung)
	for {
		select {
		case line, ok := <-v.lines:
			if !ok {
				v.t.Fatalf("the program ended before the answer to %s\n%s", id, v.stderr())
			}
			m, err := scan([]byte(strings.TrimSuffix(line, "\n")))
			if err != nil {
				v.t.Fatalf("no JSON-RPC on standard output: %.200q", line)
			}
			if m.kind == response && m.id == id {
				return line
			}
		case <-late:
			v.t.Fatalf("no answer to %s\n%s", id, v.stderr())
		}
	}
}

// ask sends a request and returns the response.
func (v *victim) ask(method, params string) string {
	v.t.Helper()
	v.next++
	v.say(fmt.Sprintf(`{"jsonrpc":"2.0","id":%d,"method":%q,"params":%s}`, v.next, method, params))
	return v.answer(strconv.Itoa(v.next))
}

const victimHello = `{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"c","version":"1"}}`

func (v *victim) hello() {
	v.t.Helper()
	if got := v.ask("initialize", victimHello); !strings.Contains(got, `"result"`) {
		v.t.Fatalf("initialize: %s\n%s", got, v.stderr())
	}
	v.say(`{"jsonrpc":"2.0","method":"notifications/initialized"}`)
}

// end closes standard input and returns the exit code.
func (v *victim) end() int {
	v.t.Helper()
	v.in.Close()
	return v.ended()
}

// ended waits for the end of the program and returns the exit code. There is a limit, because a program that hangs
// is one of the things that are looked for.
func (v *victim) ended() int {
	v.t.Helper()
	late := time.After(hung)
	for {
		select {
		case _, open := <-v.lines:
			if !open {
				v.lines = nil
			}
		case <-v.gone:
			v.lines = make(chan string)
			close(v.lines)
			return v.cmd.ProcessState.ExitCode()
		case <-late:
			v.t.Fatalf("the program hangs\n%s", v.stderr())
		}
	}
}

// memory is a field of its /proc/PID/status: in MiB VmRSS, or VmHWM for the peak of it; Threads. Elsewhere it is 0.
func (v *victim) memory(field string) int {
	text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", v.cmd.Process.Pid))
	for line := range strings.Lines(string(text)) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == field+":" {
			n, _ := strconv.Atoi(f[1])
			if len(f) > 2 { // in kB
				n /= 1024
			}
			return n
		}
	}
	return 0
}

// wantPeak fails where the program ever held more than most MiB.
func (v *victim) wantPeak(most int) {
	v.t.Helper()
	peak := v.memory("VmHWM")
	v.t.Logf("at most %d MiB", peak)
	if peak > most {
		v.t.Errorf("at most %d MiB were resident, allowed are %d", peak, most)
	}
}

// A hostile server is what h answers to each message, after a handshake that is in order.
func hostile(t *testing.T, h func(w http.ResponseWriter, r *http.Request, method, id string)) string {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		m, _ := scan(body)
		switch {
		case m.method == "initialize":
			w.Header().Set("Mcp-Session-Id", "s")
			w.Header().Set("Content-Type", jsonType)
			fmt.Fprintf(w, `{"jsonrpc":"2.0","id":%s,"result":{"protocolVersion":"2025-11-25","capabilities":{"tools":{},"logging":{}},"serverInfo":{"name":"h","version":"1"}}}`, m.id)
		case r.Method == http.MethodPost && m.kind != request:
			w.WriteHeader(http.StatusAccepted)
		case r.Method == http.MethodDelete:
		default:
			h(w, r, m.method, m.id)
		}
	}))
	t.Cleanup(func() { s.CloseClientConnections(); s.Close() })
	return s.URL + "/mcp"
}

const (
	okResult = `{"jsonrpc":"2.0","id":%s,"result":{}}`
	noteLine = `{"jsonrpc":"2.0","method":"notifications/message","params":{"level":"info","data":"%s"}}`
)

// unraced ends a test in which the race detector would see nothing: what it tests is another program, or has one goroutine.
func unraced(t *testing.T) {
	t.Helper()
	if slowdown > 1 {
		t.Skip("there is nothing in it for the race detector")
	}
}

// shipped is the program as it is shipped: for tests of its memory, which a test binary has more of. It is built once.
func shipped(t *testing.T) []string {
	t.Helper()
	unraced(t)
	if runtime.GOOS != "linux" {
		t.Skip("the memory of another process is looked up in /proc")
	}
	name, err := build()
	if err != nil {
		t.Fatal(err)
	}
	return []string{"PROGRAM=" + name}
}

var (
	built string // the folder where it lies, removed after the last test; "" while there is none
	build = sync.OnceValues(buildShipped)
)

func TestMain(m *testing.M) {
	code := m.Run()
	if built != "" {
		os.RemoveAll(built)
	}
	os.Exit(code)
}

func buildShipped() (name string, err error) {
	if built, err = os.MkdirTemp("", "mcp-redial-test"); err != nil {
		return "", err
	}
	name = filepath.Join(built, "mcp-redial.exe") // as Windows wants it, and nobody else minds
	cmd := exec.Command("go", "build", "-trimpath", "-o", name, ".")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build: %v\n%s", err, out)
	}
	return name, nil
}

// A megabyte of nothing but brackets is an error, wherever it comes from.
func TestAttackNesting(t *testing.T) {
	t.Parallel()
	deep := strings.Repeat("[", 1<<20)
	for name, c := range map[string]struct{ kind, before, after string }{
		"json":     {jsonType, `{"jsonrpc":"2.0","id":%s,"result":`, "}"},
		"event":    {eventStream, `data: {"jsonrpc":"2.0","id":%s,"result":`, "}\n\n"},
		"batch":    {jsonType, "", ""},
		"balanced": {jsonType, `{"jsonrpc":"2.0","id":%s,"result":`, strings.Repeat("]", 1<<20) + "}"},
	} {
		t.Run(name, func(t *testing.T) {
			url := hostile(t, func(w http.ResponseWriter, r *http.Request, method, id string) {
				if r.Method == http.MethodGet {
					w.WriteHeader(http.StatusMethodNotAllowed)
					return
				}
				w.Header().Set("Content-Type", c.kind)
				io.WriteString(w, strings.Replace(c.before, "%s", id, 1)+deep+c.after)
			})
			v := attack(t, nil, url, "--silent", "--no-auto-reconnect")
			v.hello()
			if got := v.ask("tools/call", `{"name":"x"}`); !strings.Contains(got, "-31005") && !strings.Contains(got, "-31002") {
				t.Errorf("answered %.200s", got)
			}
			v.say(`{"jsonrpc":"2.0","id":99,"method":"x","params":` + deep)
			if got := v.answer("99"); !strings.Contains(got, "-32700") {
				t.Errorf("the client's own is answered %.200s", got)
			}
			if code := v.end(); code != 0 {
				t.Errorf("exit %d\n%s", code, v.stderr())
			}
		})
	}
}

// A server that redirects for ever, or elsewhere, gets neither a second thought nor anybody's headers.
func TestAttackRedirects(t *testing.T) {
	var mu sync.Mutex
	elsewhere := 0
	other := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { mu.Lock(); elsewhere++; mu.Unlock() }))
	t.Cleanup(other.Close)
	for name, to := range map[string]string{"for ever": "/mcp", "elsewhere": other.URL + "/mcp", "by name": strings.Replace(other.URL, "127.0.0.1", "localhost", 1),
		"file": "file:///etc/passwd", "nonsense": "http://[::1"} {
		for _, kind := range []string{"http-only", "sse-only"} {
			for _, code := range []int{301, 302, 303, 307, 308} {
				t.Run(fmt.Sprintf("%s %s %d", name, kind, code), func(t *testing.T) {
					t.Parallel()
					asked := 0
					s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
						mu.Lock()
						asked++
						mu.Unlock()
						w.Header().Set("Location", to)
						w.WriteHeader(code)
					}))
					t.Cleanup(s.Close)
					v := attack(t, nil, s.URL+"/mcp", "--transport", kind, "--header", "Authorization: hush", "--no-auto-reconnect")
					got := v.ask("initialize", victimHello)
					mu.Lock()
					defer mu.Unlock()
					if !strings.Contains(got, `"error"`) || asked > 8 || strings.Contains(got+v.stderr(), "hush") {
						t.Errorf("asked %d times, answered %s", asked, got)
					}
				})
			}
		}
	}
	t.Cleanup(func() {
		if elsewhere > 0 {
			t.Errorf("the other server was contacted %d times", elsewhere)
		}
	})
}

// Ten thousand event ids are one cursor: the last.
func TestAttackEventIDs(t *testing.T) {
	t.Parallel()
	const many = 10000
	id := func(n int) string { return fmt.Sprintf("%0*d", 1000, n) }
	resumed := make(chan string, 1)
	url := hostile(t, func(w http.ResponseWriter, r *http.Request, method, call string) {
		if r.Method == http.MethodGet {
			if r.Header.Get("Last-Event-ID") == "" {
				w.WriteHeader(http.StatusMethodNotAllowed)
				return
			}
			resumed <- r.Header.Get("Last-Event-ID")
			w.Header().Set("Content-Type", eventStream)
			fmt.Fprintf(w, "data: "+okResult+"\n\n", "2")
			return
		}
		w.Header().Set("Content-Type", eventStream)
		for n := range many {
			fmt.Fprintf(w, "id: %s\nretry: 1\ndata: "+noteLine+"\n\n", id(n), "x")
		}
	})
	v := attack(t, nil, url, "--silent")
	v.hello()
	if got := v.ask("tools/call", `{"name":"x"}`); !strings.Contains(got, `"result"`) {
		t.Errorf("answered %s", got)
	}
	if got := <-resumed; got != id(many-1) {
		t.Errorf("resumed after %.30s… of %d bytes", got, len(got))
	}
}
