package main

// robust_test.go does to the process what systems do: closed, full and blocked pipes, no place to write, stops,
// crowds, and time.

import (
	"errors"
	goflag "flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

var (
	soakTime  = goflag.Duration("soak", 10*time.Minute/slowdown, "time that TestRobustSoak lasts in its bubble; where it is more than that, TestRobustSoakProcess lasts as long, in real time")
	crowdSize = goflag.Int("crowd", 20, "bridges that TestRobustCrowd runs at once")
)

// answering is a server that does what it is asked.
func answering(t *testing.T) string {
	t.Helper()
	return hostile(t, func(w http.ResponseWriter, r *http.Request, method, id string) {
		if r.Method == http.MethodGet {
			w.WriteHeader(http.StatusMethodNotAllowed)
			return
		}
		w.Header().Set("Content-Type", jsonType)
		fmt.Fprintf(w, okResult, id)
	})
}

// ended waits for cmd and returns its exit code; a program that hangs is killed and fails the test.
func ended(t *testing.T, cmd *exec.Cmd) int {
	t.Helper()
	late := time.AfterFunc(hung, func() {
		t.Error("the program hangs")
		cmd.Process.Kill()
	})
	defer late.Stop()
	cmd.Wait()
	return cmd.ProcessState.ExitCode()
}

func TestRobustPipes(t *testing.T) {
	t.Parallel()
	if runtime.GOOS == "windows" {
		t.Skip("the pipes are set up by a shell")
	}
	url := answering(t)
	hello := `{"jsonrpc":"2.0","id":1,"method":"initialize","params":` + victimHello + `}` + "\n"
	// pipes starts the program with its pipes arranged by a shell: "$@" is the program.
	pipes := func(arranged string) *exec.Cmd {
		cmd := victimCommand(t.TempDir(), nil, url, "--debug")
		shell := exec.Command("/bin/sh", append([]string{"-c", arranged, "sh"}, cmd.Args...)...)
		shell.Env = append(cmd.Env, "PATH=/usr/bin:/bin")
		return shell
	}
	t.Run("no standard input", func(t *testing.T) {
		cmd := pipes(`exec "$@" <&-`)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		if code := ended(t, cmd); code != 0 {
			t.Errorf("exit %d", code)
		}
	})
	t.Run("empty standard input", func(t *testing.T) {
		cmd := pipes(`exec "$@" </dev/null`)
		if out, err := cmd.Output(); err != nil || len(out) > 0 {
			t.Errorf("%v %s", err, out)
		}
	})
	t.Run("no standard output", func(t *testing.T) {
		cmd := pipes(`exec "$@" >&-`)
		cmd.Stdin = strings.NewReader(hello)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		if code := ended(t, cmd); code != 0 {
			t.Errorf("exit %d", code)
		}
	})
	t.Run("standard output that is closed later", func(t *testing.T) {
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		cmd := victimCommand(t.TempDir(), nil, url)
		cmd.Stdout = w
		in, err := cmd.StdinPipe()
		if err == nil {
			err = cmd.Start()
		}
		if err != nil {
			t.Fatal(err)
		}
		w.Close()
		r.Close()
		io.WriteString(in, hello)
		code := ended(t, cmd) // standard input is still open
		in.Close()
		if code != 0 {
			t.Errorf("exit %d", code)
		}
	})
	t.Run("a full disk for standard output", func(t *testing.T) {
		if _, err := os.Stat("/dev/full"); err != nil {
			t.Skip(err)
		}
		cmd := pipes(`exec "$@" >/dev/full`)
		cmd.Stdin = strings.NewReader(hello)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		if code := ended(t, cmd); code != 0 {
			t.Errorf("exit %d", code)
		}
	})
	t.Run("no standard error", func(t *testing.T) {
		cmd := pipes(`exec "$@" 2>&-`)
		cmd.Stdin = strings.NewReader(hello)
		if out, err := cmd.Output(); err != nil || !strings.Contains(string(out), `"result"`) {
			t.Errorf("%v %s", err, out)
		}
	})
	t.Run("standard error that is closed later", func(t *testing.T) {
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		cmd := victimCommand(t.TempDir(), nil, url, "--debug")
		cmd.Stderr = w
		cmd.Stdin = strings.NewReader(strings.Repeat("no JSON\n", 100) + hello)
		r.Close()
		out, err := cmd.Output()
		w.Close()
		if err != nil || !strings.Contains(string(out), `"result"`) {
			t.Errorf("%v %s", err, out)
		}
	})
	t.Run("standard error that nobody reads", func(t *testing.T) {
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		defer w.Close()
		cmd := victimCommand(t.TempDir(), nil, "http://127.0.0.1:1/mcp", "--debug", "--initial-retry-delay", "1ms", "--max-retry-delay", "1ms", "--max-retries", "-1")
		cmd.Stderr = w
		cmd.Stdin = strings.NewReader(strings.Repeat(`{"jsonrpc":"2.0","id":1}`+"\n", 3000) + hello)
		out, err := cmd.Output()
		if err != nil || strings.Count(string(out), "\n") != 3001 {
			t.Errorf("%v, %d lines", err, strings.Count(string(out), "\n"))
		}
	})
}

func TestRobustPlaces(t *testing.T) {
	t.Parallel()
	url := answering(t)
	for name, c := range map[string]struct {
		env  []string
		args []string
		code int
		want string
	}{
		"a home that is no folder":  {[]string{"HOME=" + os.DevNull, "MCP_REMOTE_CONFIG_DIR="}, nil, 0, "nothing will be stored"},
		"a place that is no folder": {[]string{"MCP_REMOTE_CONFIG_DIR=" + os.DevNull}, nil, 0, "nothing will be stored"},
		"no home":                   {[]string{"HOME=", "USERPROFILE=", "MCP_REMOTE_CONFIG_DIR="}, nil, 2, "--token-store memory"},
		"no home, nothing stored":   {[]string{"HOME=", "USERPROFILE=", "MCP_REMOTE_CONFIG_DIR="}, []string{"--token-store", "memory"}, 0, ""},
		"a log that cannot be":      {nil, []string{"--log-file", filepath.Join(os.DevNull, "x")}, 2, "where you may write"},
	} {
		t.Run(name, func(t *testing.T) {
			v := attack(t, c.env, append(c.args, url)...)
			if c.code == 0 {
				v.hello()
				if got := v.ask("tools/list", "{}"); !strings.Contains(got, `"result"`) {
					t.Errorf("answered %s", got)
				}
			}
			if code := v.end(); code != c.code || !strings.Contains(v.stderr(), c.want) {
				t.Errorf("exit %d, want %d with %q\n%s", code, c.code, c.want, v.stderr())
			}
		})
	}
	t.Run("a full disk for the audit", func(t *testing.T) {
		if _, err := os.Stat("/dev/full"); err != nil {
			t.Skip(err)
		}
		v := attack(t, nil, url, "--audit-file", "/dev/full", "--audit-required")
		if code := v.end(); code == 0 {
			t.Errorf("an audit file that is a device was accepted\n%s", v.stderr())
		}
	})
}

// A call outlives the process being stopped for a while.
func TestRobustStopped(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("there is no such signal")
	}
	asked, release := make(chan struct{}), make(chan struct{})
	var once sync.Once
	url := hostile(t, func(w http.ResponseWriter, r *http.Request, method, id string) {
		if r.Method == http.MethodGet {
			w.WriteHeader(http.StatusMethodNotAllowed)
			return
		}
		once.Do(func() { close(asked) })
		<-release
		w.Header().Set("Content-Type", jsonType)
		fmt.Fprintf(w, okResult, id)
	})
	v := attack(t, nil, url)
	v.hello()
	v.say(`{"jsonrpc":"2.0","id":"q","method":"tools/call","params":{"name":"x"}}`)
	<-asked
	stop(t, v.cmd.Process)
	close(release)
	v.say(`{"jsonrpc":"2.0","id":"r","method":"tools/list"}`)
	resume(t, v.cmd.Process)
	for left := 2; left > 0; {
		line, ok := <-v.lines
		if !ok {
			t.Fatalf("the program ended\n%s", v.stderr())
		}
		if strings.Contains(line, `"id":"q"`) || strings.Contains(line, `"id":"r"`) {
			left--
			if !strings.Contains(line, `"result"`) {
				t.Errorf("answered %s", line)
			}
		}
	}
	if code := v.end(); code != 0 {
		t.Errorf("exit %d", code)
	}
}

// A lease that says that it was taken in the future, since a clock jumped or somebody wrote so, is held by nobody: waiting
// for it would never end.
func TestRobustClock(t *testing.T) {
	for name, plant := range map[string]func(s *store, dir string) error{
		"lease": func(s *store, dir string) error {
			return s.create("lease", []byte(fmt.Sprintf(`{"pid":1,"nonce":"n","at":%d}`, time.Now().Add(time.Hour).UnixMilli())))
		},
		"guard": func(s *store, dir string) error {
			future := time.Now().Add(time.Hour)
			return errors.Join(s.create("lease", []byte(`{"pid":1,"nonce":"n","at":0}`)), s.create("lease.takeover", nil), os.Chtimes(filepath.Join(dir, "lease.takeover"), future, future))
		},
	} {
		t.Run(name, func(t *testing.T) {
			s, dir := testStore(t)
			if err := plant(s, dir); err != nil {
				t.Fatal(err)
			}
			if _, ours := s.lease("lease"); !ours {
				t.Error("nobody will ever get it")
			}
		})
	}
}

// Many bridges of one user share a folder and a machine.
func TestRobustCrowd(t *testing.T) {
	url := answering(t)
	home := t.TempDir()
	var all []*victim
	for range *crowdSize {
		all = append(all, attack(t, []string{"MCP_REMOTE_CONFIG_DIR=" + home}, url, "--silent"))
	}
	for _, v := range all {
		v.say(`{"jsonrpc":"2.0","id":1,"method":"initialize","params":` + victimHello + `}`)
	}
	for _, v := range all {
		if got := v.answer("1"); !strings.Contains(got, `"result"`) {
			t.Errorf("answered %s", got)
		}
		v.say(`{"jsonrpc":"2.0","method":"notifications/initialized"}`)
		v.next = 1
		if got := v.ask("tools/list", "{}"); !strings.Contains(got, `"result"`) {
			t.Errorf("answered %s", got)
		}
	}
	out := ""
	for begun := time.Now(); strings.Count(out, "\n") != *crowdSize && time.Since(begun) < hung; { // it is written beside the line
		_, out, _ = runCommand(t, home, "status")
	}
	if strings.Count(out, "\n") != *crowdSize {
		t.Errorf("status knows of %d of %d\n%s", strings.Count(out, "\n"), *crowdSize, out)
	}
	for _, v := range all {
		if code := v.end(); code != 0 || v.stderr() != "" {
			t.Errorf("exit %d\n%s", code, v.stderr())
		}
	}
	if _, out, _ := runCommand(t, home, "status"); !strings.HasPrefix(out, "no bridge") {
		t.Errorf("afterwards there are\n%s", out)
	}
}

// A drop every second, in the middle of a call that may be repeated, for as long as one likes: each call has its result,
// and at the end there are as many goroutines, and as much is in use, as at the beginning.
func TestRobustSoak(t *testing.T) {
	for name, s := range map[string]*fakeServer{"Streamable HTTP": {streams: true, ids: true}, "JSON": {}, "HTTP+SSE": {kind: fakeSSE}, "2026-07-28": {kind: fakeStateless}} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := newMemNet()
				s.start(t, n.listen("mcp.test:80"))
				h := newQuietHost(t, n, testOptions())
				h.hello()
				h.list()
				turn := func(seconds int) (calls int) {
					for range seconds {
						h.list() // a new session knows nothing of the tools
						id := h.call("look", `"key":"k","ms":100`)
						time.Sleep(50 * time.Millisecond)
						n.reset()
						if got := h.answer(id, time.Minute); !strings.Contains(got, `"result"`) {
							t.Fatalf("drop %d: %s", calls, got)
						}
						calls++
						time.Sleep(900 * time.Millisecond)
						synctest.Wait()
						s.set(func() { // what the server itself remembers is not what is looked at
							s.seen = nil
							for _, x := range s.sessions {
								for i := range max(0, len(x.streams)-8) {
									if x.streams[i] != x.get {
										x.streams[i] = nil
									}
								}
							}
						})
					}
					return calls
				}
				measure := func() (goroutines int, heap uint64) {
					time.Sleep(2*time.Minute + 10*time.Second) // for idle connections to go: a few lines of three goroutines each may stay
					synctest.Wait()
					runtime.GC()
					runtime.GC()
					var m runtime.MemStats
					runtime.ReadMemStats(&m)
					return runtime.NumGoroutine() - 3*n.open(), m.HeapAlloc // how many lines are kept idle is chance
				}
				turn(60)
				g0, h0 := measure()
				calls := turn(int(soakTime.Seconds()))
				g1, h1 := measure()
				t.Logf("%d drops; goroutines %d, then %d; heap %d KiB, then %d KiB; %d lines open", calls, g0, g1, h0>>10, h1>>10, n.open())
				if g1 > g0+12 || h1 > h0+1<<20 || n.open() > 8 {
					t.Errorf("goroutines %d, then %d; heap %d, then %d; %d lines open", g0, g1, h0, h1, n.open())
				}
			})
		})
	}
}

// A call whose exchange ends only after its session was lost, and the bridge dormant, still gets its try.
func TestRobustStranded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newMemNet()
		s := &fakeServer{kind: fakeSSE}
		s.start(t, n.listen("mcp.test:80"))
		o := testOptions()
		o.maxRetries = 0
		h := newQuietHost(t, n, o)
		h.hello()
		for range quickLosses + 2 {
			n.reset()
			time.Sleep(quickSpread + time.Millisecond)
		}
		h.list() // wakes it
		s.fail(fault{on: "look", answer: answerNever})
		id := h.call("look", `"key":"k"`)
		time.Sleep(50 * time.Millisecond)
		s.cut()
		time.Sleep(50 * time.Millisecond)
		n.reset()
		if got := h.answer(id, time.Minute); !strings.Contains(got, `"result"`) {
			t.Errorf("answered %s", got)
		}
	})
}

// A dropping listener resets all its connections when it is told to.
type dropping struct {
	net.Listener
	mu    sync.Mutex
	conns []net.Conn
}

func (d *dropping) Accept() (net.Conn, error) {
	c, err := d.Listener.Accept()
	if err == nil {
		d.mu.Lock()
		d.conns = append(d.conns, c)
		d.mu.Unlock()
	}
	return c, err
}

func (d *dropping) drop() {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, c := range d.conns {
		if c, ok := c.(*net.TCPConn); ok {
			c.SetLinger(0)
		}
		c.Close()
	}
	d.conns = nil
}

// The same from outside: three bridges as they are shipped, real lines that are reset, calls that go on meanwhile. What
// the system sees of each process is as much at the end as it was after the first tenth.
func TestRobustSoakProcess(t *testing.T) {
	env := shipped(t)
	drops, pause := 12, 100*time.Millisecond
	if *soakTime > 10*time.Minute {
		drops, pause = int(soakTime.Seconds()), time.Second
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	for name, s := range map[string]*fakeServer{
		"Streamable HTTP": {streams: true, ids: true},
		"HTTP+SSE":        {kind: fakeSSE},
		"2026-07-28":      {kind: fakeStateless, streams: true},
	} {
		wg.Go(func() { // all at once, however many processors there are
			t.Run(name, func(t *testing.T) { soak(t, env, s, drops, pause) })
		})
	}
}

// soak drops the line of one bridge so many times, a pause after each. Between the drops the client makes calls, of
// which every other one may not be repeated.
func soak(t *testing.T, env []string, s *fakeServer, drops int, pause time.Duration) {
	l := &dropping{Listener: onLoopback(t)}
	s.resets = true
	s.start(t, l)
	v := attack(t, env, "http://"+l.Addr().String()+"/mcp", "--silent")
	v.hello()
	v.ask("tools/list", "{}")
	counts := map[string]int{}
	begun := time.Now()
	var first, last [3]int
	for i := range drops {
		next := begun.Add(time.Duration(i+1) * pause)
		for turn := 0; turn == 0 || time.Now().Before(next); turn++ {
			tool := []string{"look", "slow"}[turn%2]
			got := v.ask("tools/call", fmt.Sprintf(`{"name":%q,"arguments":{"key":"%s-%d-%d","ms":%d}}`, tool, tool, i, turn, pause.Milliseconds()/8))
			switch {
			case strings.Contains(got, `"result"`):
				counts["answered"]++
			case strings.Contains(got, "outcome-unknown") && (tool == "slow" || s.kind == fakeSSE): // in a new session nothing is known of tools
				counts["outcome-unknown"]++
			default:
				counts["other"]++
				t.Errorf("drop %d: %s is answered %s", i, tool, got)
			}
			if turn == i/2%4 { // while a call runs, or between two
				time.AfterFunc(time.Duration(i%2)*pause/16, l.drop)
			}
		}
		s.set(func() { // what the server itself remembers is not what is looked at
			s.seen = nil
			for _, x := range s.sessions {
				for i := range max(0, len(x.streams)-64) {
					if x.streams[i] != x.get {
						x.streams[i] = nil
					}
				}
			}
		})
		all, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", v.cmd.Process.Pid))
		last = [3]int{len(all), v.memory("Threads"), v.memory("VmRSS")}
		if i == drops/10 {
			first = last
		}
		if i == drops/10 || i == 59 || (i+1)%600 == 0 || i == drops-1 {
			t.Logf("%v: %d descriptors, %d threads, %d MiB; %v, %d run twice", time.Since(begun).Round(time.Second), last[0], last[1], last[2], counts, len(s.twice()))
		}
	}
	if last[0] > first[0]+8 || last[1] > first[1]+8 || last[2] > first[2]+16 {
		t.Errorf("at the end %v, at first %v", last, first)
	}
	if twice := s.twice(); len(twice) > 0 {
		t.Errorf("run twice: %v", twice)
	}
	for _, v := range s.violations() {
		if !strings.Contains(v, "was used twice") { // net/http itself repeats what may be repeated on a line that was just reset
			t.Errorf("protocol violated: %s", v)
		}
	}
	// The system knows nothing of goroutines: the program lists them when it dies of SIGQUIT.
	v.cmd.Process.Signal(syscall.SIGQUIT)
	<-v.gone
	if n := strings.Count(v.stderr(), "\ngoroutine "); n == 0 || n > 40 {
		t.Errorf("%d goroutines\n%s", n, v.stderr())
	} else {
		t.Logf("%d goroutines", n)
	}
}
