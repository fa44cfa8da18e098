package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
)

// runCommand runs the program as main does, with a store below home, and returns the exit code, what it printed, and
// what it complained of.
func runCommand(t *testing.T, home string, args ...string) (code int, out, errs string) {
	t.Helper()
	m := machine{getenv: func(name string) (string, bool) { return home, name == "MCP_REMOTE_CONFIG_DIR" }, policy: filepath.Join(home, "no-policy")}
	stdin, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer stdin.Close()
	var o, e bytes.Buffer
	code = command(args, m, stdin, &o, &e)
	return code, o.String(), e.String()
}

func onLoopback(t testing.TB) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func TestCheck(t *testing.T) {
	for name, c := range map[string]struct {
		s    *fakeServer
		want string
	}{
		"streamable": {&fakeServer{}, `transport Streamable HTTP on HTTP/1.1, MCP 2025-11-25
handshake fake 1 can: completions, logging, prompts, resources, tools
session one, which ends with this check
tools {tools}
resources 2
prompts 1
ping a round trip
stream open`},
		"sse": {&fakeServer{kind: fakeSSE}, `transport HTTP+SSE on HTTP/1.1, MCP 2024-11-05
handshake fake 1 can: completions, logging, prompts, resources, tools
session one, which ends with this check
tools {tools}
resources 2
prompts 1
ping a round trip
stream open`},
		"stateless": {&fakeServer{kind: fakeStateless}, `transport stateless HTTP on HTTP/1.1, MCP 2026-07-28, translated
handshake fake 1 can: completions, logging, prompts, resources, tools
session none: the server keeps no state for us
tools {tools}
resources 2
prompts 1
ping a round trip
stream none`},
		"sessionless": {&fakeServer{noStream: true, sessionless: true, streams: true, noPing: true, capabilities: map[string]any{"tools": struct{}{}}, name: "odd\x1b[2J"},
			`transport Streamable HTTP on HTTP/1.1, MCP 2025-11-25
handshake odd\x1b[2J 1 can: tools
session none: the server keeps no state for us
tools {tools}
resources 2
prompts 1
ping a round trip
stream not offered (405)`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := onLoopback(t)
			c.s.start(t, l)
			code, out, errs := runCommand(t, t.TempDir(), "check", "http://"+l.Addr().String()+"/mcp?k=hush")
			if code != 0 || errs != "" {
				t.Fatalf("exit %d\n%s\n%s", code, out, errs)
			}
			var got []string
			for _, line := range strings.Split(strings.TrimSpace(out), "\n") {
				f := regexp.MustCompile(`^ok    (\S+) +\d+ ms  (.*)$`).FindStringSubmatch(line)
				if f == nil {
					t.Fatalf("the line %q", line)
				}
				got = append(got, f[1]+" "+f[2])
			}
			want := fmt.Sprintf("address http://%s, directly\nTCP %s\nredirects 0\nauthentication not asked for\n%s", l.Addr(), l.Addr(), c.want)
			want = strings.Replace(want, "{tools}", strconv.Itoa(len(fakeTools())), 1)
			if text := strings.Join(got, "\n"); text != want {
				t.Errorf("got\n%s\nwant\n%s", text, want)
			}
			if made, ended := c.s.sessionsMade(), c.s.sessionsEnded(); c.s.kind == fakeStreamable && !c.s.sessionless && (made != 1 || ended != 1) {
				t.Errorf("%d sessions made, %d ended", made, ended)
			}
			c.s.check(t)
		})
	}
}

// Every way to fail: the exit code, the step, and what a person should try next.
func TestCheckFails(t *testing.T) {
	answering := func(status int, header ...string) string {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			for i := 0; i < len(header); i += 2 {
				w.Header().Set(header[i], header[i+1])
			}
			w.WriteHeader(status)
			fmt.Fprint(w, "<html>hush</html>")
		}))
		t.Cleanup(s.Close)
		return s.URL + "/mcp?k=hush"
	}
	secure := httptest.NewTLSServer(http.NotFoundHandler())
	secure.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	t.Cleanup(secure.Close)
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: secure.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	failing, err := exec.LookPath("false")
	if err != nil {
		t.Skip(err)
	}
	const closed = "127.0.0.1:1" // a free port might be given to one of the servers here
	proxy := answering(http.StatusProxyAuthRequired, "Proxy-Authenticate", "Negotiate")
	proxy = strings.TrimSuffix(proxy, "/mcp?k=hush")
	echo := onLoopback(t)
	t.Cleanup(func() { echo.Close() })
	go func() {
		for c, err := echo.Accept(); err == nil; c, err = echo.Accept() {
			req, _ := http.ReadRequest(bufio.NewReader(c))
			fmt.Fprintf(c, "HTTP/1.1 200 OK\r\n%s %s\r\n\r\n", req.URL, req.Header["X-Key"])
			c.Close()
		}
	}()
	for name, c := range map[string]struct {
		args []string
		exit int
		want string // part of what is printed
	}{
		"refused":      {[]string{"http://" + closed}, 1, "FAIL  TCP"},
		"issuer":       {[]string{secure.URL}, 1, "that CA's certificate with --ca-file"},
		"name":         {[]string{strings.Replace(secure.URL, "127.0.0.1", "localhost", 1), "--ca-file", ca, "--ipv4"}, 1, "use the name that the certificate was issued for"},
		"no TLS":       {[]string{strings.Replace(answering(404), "http:", "https:", 1)}, 1, "does not speak TLS"},
		"TLS":          {[]string{secure.URL, "--ca-file", ca}, 4, "accepted by " + ca},
		"proxy":        {[]string{"https://mcp.example", "--proxy", proxy}, 1, "answered 407"},
		"the proxy":    {[]string{"https://mcp.example", "--proxy", proxy}, 1, "https://mcp.example, through the proxy " + proxy},
		"401":          {[]string{answering(401, "WWW-Authenticate", "Bearer")}, 3, "mcp-redial login"},
		"own key":      {[]string{answering(401), "--header", "Authorization: hush"}, 3, "your own Authorization header"},
		"403":          {[]string{answering(403)}, 3, "FAIL  authentication"},
		"404":          {[]string{answering(404)}, 4, "often /mcp or /sse"},
		"502":          {[]string{answering(502)}, 1, "a gateway before it"},
		"echo":         {[]string{"http://" + echo.Addr().String() + "/mcp?k=hush", "--header", "X-Key: hush"}, 1, "the connection broke"},
		"portal":       {[]string{answering(200, "Content-Type", "text/html")}, 4, "FAIL  transport"},
		"redirect":     {[]string{answering(307, "Location", "https://other.example/hush")}, 4, "https://other.example"},
		"redirect 302": {[]string{answering(302, "Location", "/hush")}, 4, "FAIL  redirects"},
		"loop":         {[]string{answering(308, "Location", "/mcp?k=hush")}, 4, "redirects for ever"},
		"no program":   {[]string{"https://mcp.example", "--header-command", failing}, 3, "FAIL  authentication"},
		"no URL":       {nil, 2, ""},
		"bad flag":     {[]string{secure.URL, "--ca-fil", ca}, 2, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			code, out, errs := runCommand(t, t.TempDir(), append([]string{"check"}, c.args...)...)
			if code != c.exit || !strings.Contains(out, c.want) || strings.Contains(out+errs, "hush") {
				t.Errorf("exit %d, want %d with %q\n%s\n%s", code, c.exit, c.want, out, errs)
			}
			if c.exit == 2 {
				return
			}
			if fails := strings.Count(out, "FAIL"); fails != 1 || !strings.Contains(out, "next: ") {
				t.Errorf("%d steps failed, want one, with what to try next:\n%s", fails, out)
			}
			code, out, _ = runCommand(t, t.TempDir(), append([]string{"check", "--json"}, c.args...)...)
			var report struct {
				Server string
				Exit   int
				Steps  []step
			}
			if err := json.Unmarshal([]byte(out), &report); err != nil || code != c.exit || report.Exit != code || report.Server == "" {
				t.Fatalf("exit %d, %v:\n%s", code, err, out)
			}
			if last := report.Steps[len(report.Steps)-1]; last.OK || last.Next == "" {
				t.Errorf("the last step is %+v", last)
			}
		})
	}
}

func TestDiagnose(t *testing.T) {
	for want, err := range map[string]error{
		"DNS": &net.OpError{Op: "dial", Err: &net.DNSError{IsNotFound: true}},
		"TCP": &net.OpError{Op: "dial", Err: os.ErrDeadlineExceeded},
	} {
		if name, next := diagnose(fmt.Errorf("wrapped: %w", err)); name != want || next == "" {
			t.Errorf("%v fails %s, want %s", err, name, want)
		}
	}
}

func TestStatus(t *testing.T) {
	home := t.TempDir()
	s, err := openStore(home, quietLog)
	if err != nil {
		t.Fatal(err)
	}
	status := func(args ...string) string {
		t.Helper()
		code, out, errs := runCommand(t, home, append([]string{"status"}, args...)...)
		if code != 0 || errs != "" {
			t.Fatalf("exit %d: %s", code, errs)
		}
		return out
	}
	if got := status(); got != "no bridge is running\n" {
		t.Errorf("with none running: %q", got)
	}
	if got := status("--json"); got != "[]\n" {
		t.Errorf("with none running: %q", got)
	}

	mine := thisBridge("https://mcp.example")
	since := time.Date(2026, 1, 2, 3, 4, 5, 0, time.Local)
	mine.snapshot = snapshot{State: "waiting", Since: since, Reconnects: 2, Held: 3, LastError: "no\x1b[2J\nluck"}
	if err := s.writeJSON(mine.file(), mine); err != nil {
		t.Fatal(err)
	}
	put := func(pid int, change func(*running)) string {
		f := mine
		f.Pid = pid
		change(&f)
		name := fmt.Sprintf("redial_%d_status.json", pid)
		if err := s.writeJSON(name, f); err != nil {
			t.Fatal(err)
		}
		return filepath.Join(home, storeFolder, name)
	}
	parent := os.Getppid()
	swept := []string{
		put(1<<30, func(*running) {}),
		put(parent, func(r *running) { r.Birth = "another" }),
	}
	ignored := []string{
		put(1, func(r *running) { r.Host = "elsewhere" }),
		put(2, func(r *running) { r.Pid = os.Getpid() }),
		put(3, func(r *running) { r.LastError = strings.Repeat("x", maxStatus) }),
	}
	link := filepath.Join(home, storeFolder, "redial_4_status.json")
	if err := os.Symlink(swept[0], link); err == nil {
		ignored = append(ignored, link)
	}
	if os.Getuid() == 0 {
		foreign := put(os.Getpid()+1, func(*running) {})
		if err := os.Chown(foreign, 12345, 12345); err != nil {
			t.Fatal(err)
		}
		ignored = append(ignored, foreign)
	}
	want := fmt.Sprintf("%d https://mcp.example waiting since 2026-01-02 03:04:05, 2 reconnects, 3 calls held, last error: no\\x1b[2J\\nluck\n", os.Getpid())
	if got := status(); got != want {
		t.Errorf("got  %q\nwant %q", got, want)
	}
	for _, path := range swept {
		if _, err := os.Lstat(path); err == nil {
			t.Errorf("%s was not swept", path)
		}
	}
	for _, path := range ignored {
		if _, err := os.Lstat(path); err != nil {
			t.Errorf("%s: %v; what is not believed is left alone", path, err)
		}
	}
	var all []running
	if err := json.Unmarshal([]byte(status("--json")), &all); err != nil || len(all) != 1 || all[0].Pid != os.Getpid() || all[0].Held != 3 {
		t.Errorf("%+v, %v", all, err)
	}
	if info, err := os.Stat(filepath.Join(home, storeFolder, mine.file())); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	s.remove(mine.file())
	if got := status(); got != "no bridge is running\n" {
		t.Errorf("after the end: %q", got)
	}
}

var quietLog = slog.New(slog.DiscardHandler)
