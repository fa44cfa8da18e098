package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func variables(m map[string]string) func(string) (string, bool) {
	return func(name string) (string, bool) { v, ok := m[name]; return v, ok }
}

func writeFile(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestHeaders(t *testing.T) {
	file := writeFile(t, "headers", "# a comment\r\n\r\nX-File: from file\r\n  X-Twice: file\n")
	getenv := variables(map[string]string{"TOKEN": "t0k", "EMPTY": "", "a b": "odd", "NEWLINE": "v\n"})
	s, err := newHeaderSource(headerOptions{getenv: getenv, args: []headerArg{
		{line: hide("Authorization:Bearer ${TOKEN}")}, {line: hide("X-Twice: first")}, {file: file}, {line: hide("X-Empty:")},
		{line: hide("X-Odd:   ${a b}$TOKEN${EMPTY} ")}, {line: hide("x-odd: lower")}, {line: hide("X-Newline: ${NEWLINE}")}, {line: hide("X_Under: 1")},
	}})
	if err != nil {
		t.Fatal(err)
	}
	got, err := s.current(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	want := http.Header{"Authorization": {"Bearer t0k"}, "X-Twice": {"file"}, "X-File": {"from file"}, "X-Empty": {""},
		"X-Odd": {"odd$TOKEN", "lower"}, "X-Newline": {"v"}, "X_under": {"1"}}
	if !maps.EqualFunc(got, want, slices.Equal[[]string]) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
	// The identity of a stored sign-in has the headers as they were typed.
	typed := map[string]string{"Authorization": "Bearer ${TOKEN}", "X-Twice": "file", "X-File": "from file", "X-Empty": "",
		"X-Odd": "${a b}$TOKEN${EMPTY} ", "x-odd": "lower", "X-Newline": "${NEWLINE}", "X_Under": "1"}
	if !maps.Equal(s.typed, typed) {
		t.Errorf("typed are %q, want %q", s.typed, typed)
	}
	if !s.authorized() {
		t.Error("an Authorization header was not noticed")
	}
}

// TestHeaderErrors holds every wrong value to its exact message, which never repeats the value.
func TestHeaderErrors(t *testing.T) {
	file := writeFile(t, "headers", "X-A: 1\n# fine\nsecret value\n")
	missing := filepath.Join(t.TempDir(), "none")
	_, noFile := os.Open(missing)
	for _, c := range []struct {
		arg  headerArg
		want string
	}{
		{headerArg{line: hide("no colon s3cret")}, "--header is not a header on one line"},
		{headerArg{line: hide(" X-Lead: s3cret")}, "--header is not a header on one line"},
		{headerArg{line: hide("X-A: s3cret\r\nX-B: 2")}, "--header is not a header on one line"},
		{headerArg{line: hide("X-A: s3cret\n")}, "--header is not a header on one line"},
		{headerArg{line: hide("X A: s3cret")}, "--header is not a header on one line"},
		{headerArg{line: hide(": s3cret")}, "--header is not a header on one line"},
		{headerArg{line: hide("X-A: s3cret\x00")}, "the header X-A has a line break or control character in its value"},
		{headerArg{line: hide("X-A: ${TWO}")}, "the header X-A has a line break or control character in its value"},
		{headerArg{line: hide("X-A: s3cret ${UNSET}")}, "the header X-A needs the variable UNSET, which is not set"},
		{headerArg{line: hide("X-A: ${UN\x1bSET}")}, `the header X-A needs the variable UN\x1bSET, which is not set`},
		{headerArg{file: file}, file + " line 3 is not a header on one line"},
		{headerArg{file: missing}, "reading --header-file: " + noFile.Error()},
		{headerArg{line: hide("host: s3cret")}, "--header sets host, which the bridge or HTTP itself must set"},
	} {
		_, err := newHeaderSource(headerOptions{args: []headerArg{c.arg}, getenv: variables(map[string]string{"TWO": "s3cret\r\nX-B: 1"})})
		u := (*usageError)(nil)
		if !errors.As(err, &u) || u.hint == "" {
			t.Errorf("%q: no usage error with a hint: %v", c.arg.line.reveal(), err)
			continue
		}
		if u.text != c.want {
			t.Errorf("%q:\ngot  %s\nwant %s", c.arg.line.reveal(), u.text, c.want)
		}
		if strings.Contains(u.text+u.hint, "s3cret") {
			t.Errorf("the value is in the error: %s", u.text)
		}
	}
	for _, name := range strings.Fields("Host Content-Length Content-Encoding Accept-Encoding Connection Keep-Alive Transfer-Encoding TE Trailer " +
		"Upgrade Expect Proxy-Authorization Proxy-Connection Last-Event-ID Mcp-Session-Id MCP-Protocol-Version Mcp-Method Mcp-Name Mcp-Param-X Idempotency-Key X-Idempotency-Key") {
		for _, spelled := range []string{name, strings.ToLower(name), strings.ToUpper(name)} {
			if _, _, err := parseHeader("--header", spelled+": x"); err == nil {
				t.Errorf("%s was accepted", spelled)
			}
		}
	}
	for _, name := range strings.Fields("Authorization Cookie X-Mcp-Thing Mcp-Api-Key Accept User-Agent Hostname") {
		if _, _, err := parseHeader("--header", name+": x"); err != nil {
			t.Errorf("%s was refused: %v", name, err)
		}
	}
}

func TestHeaderFileReadAgain(t *testing.T) {
	path := writeFile(t, "headers", "Authorization: Bearer one\n")
	s, err := newHeaderSource(headerOptions{args: []headerArg{{file: path}}})
	if err != nil {
		t.Fatal(err)
	}
	value := func() string {
		h, err := s.current(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return h.Get("Authorization")
	}
	rewrite := func(text string) {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	rewrite("Authorization: Bearer two\n")
	if value() != "Bearer one" {
		t.Error("read again without a 401")
	}
	if err := s.refresh(t.Context()); err != nil || value() != "Bearer two" {
		t.Errorf("after a 401: %v, %s", err, value())
	}
	var signIn *signInError
	if err := s.refresh(t.Context()); !errors.As(err, &signIn) || signIn.outage || signIn.hint == "" {
		t.Errorf("nothing new after a 401: %v", err)
	}
	rewrite("nonsense\n")
	if err := s.refresh(t.Context()); !errors.As(err, &signIn) || value() != "Bearer two" {
		t.Errorf("a bad file after a 401: %v, %s", err, value())
	}
}

// script makes a program of the system's shell. It runs with no arguments.
func script(t *testing.T, text string) string {
	t.Helper()
	if runtime.GOOS == "windows" {
		t.Skip("the programs of this test are shell scripts")
	}
	path := writeFile(t, "command", "#!/bin/sh\n"+text)
	if err := os.Chmod(path, 0o700); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestHeaderCommand(t *testing.T) {
	path := script(t, `echo x >> "$0.runs"; echo "Authorization: Bearer $(wc -l < "$0.runs" | tr -d ' ')"; echo; echo "X-Args: $#"; echo "Expires-In: 60"`)
	synctest.Test(t, func(t *testing.T) {
		s, err := newHeaderSource(headerOptions{command: path, args: []headerArg{{line: hide("X-Static: 1")}, {line: hide("Authorization: replaced")}}})
		if err != nil {
			t.Fatal(err)
		}
		expect := func(when, want string) {
			t.Helper()
			h, err := s.current(t.Context())
			if err != nil || h.Get("Authorization") != want || h.Get("X-Static") != "1" || h.Get("X-Args") != "0" || h.Get("Expires-In") != "" {
				t.Errorf("%s: %v, %v", when, h, err)
			}
		}
		if s.authorized() {
			t.Error("authorized before the command has run")
		}
		expect("at start", "Bearer 1")
		expect("again", "Bearer 1")
		if !s.authorized() {
			t.Error("not authorized by the command's output")
		}
		var signIn *signInError
		if err := s.refresh(t.Context()); !errors.As(err, &signIn) || signIn.wait != commandPause {
			t.Errorf("a 401 right after a run: %v", err)
		}
		time.Sleep(commandPause)
		if err := s.refresh(t.Context()); err != nil {
			t.Errorf("a 401 later: %v", err)
		}
		expect("after the 401", "Bearer 2")
		time.Sleep(time.Minute - time.Nanosecond)
		expect("just before it expires", "Bearer 2")
		time.Sleep(time.Nanosecond)
		expect("when it has expired", "Bearer 3")
	})
}

// TestHeaderCommandOnce holds that many requests at once run the command once.
func TestHeaderCommandOnce(t *testing.T) {
	path := script(t, `echo x >> "$0.runs"; echo "X-A: 1"`)
	s, err := newHeaderSource(headerOptions{command: path})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error)
	for range 20 {
		go func() { _, err := s.current(t.Context()); done <- err }()
	}
	for range 20 {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	if runs, _ := os.ReadFile(path + ".runs"); string(runs) != "x\n" {
		t.Errorf("%d runs", len(runs)/2)
	}
}

func TestHeaderCommandErrors(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ text, want string }{
		"fails":        {"echo s3cret; exit 3", "running --header-command: exit status 3"},
		"no header":    {"echo s3cret", "the output of --header-command is not a header on one line"},
		"taken":        {"echo Mcp-Session-Id: s3cret", "the output of --header-command sets Mcp-Session-Id, which the bridge or HTTP itself must set"},
		"bad expiry":   {"echo Expires-In: s3cret", "the Expires-In of --header-command is no number of seconds"},
		"too much":     {"head -c 65536 /dev/zero; echo x; cat", "running --header-command: more than 65536 bytes of output"},
		"control byte": {`printf 'X-A: s3cret\033[2J\n'`, "the header X-A has a line break or control character in its value"},
	} {
		t.Run(name, func(t *testing.T) {
			s, err := newHeaderSource(headerOptions{command: script(t, c.text)})
			if err != nil {
				t.Fatal(err)
			}
			_, err = s.current(t.Context())
			var signIn *signInError
			if !errors.As(err, &signIn) || !signIn.outage {
				t.Fatalf("got %v", err)
			}
			if err.Error() != c.want {
				t.Errorf("got  %v\nwant %s", err, c.want)
			}
		})
	}
	t.Run("hangs", func(t *testing.T) {
		s, err := newHeaderSource(headerOptions{command: script(t, "sleep 1000 & wait")})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond) // of the 10 s that a command has
		defer cancel()
		if _, err := s.current(ctx); err == nil || !strings.Contains(err.Error(), context.DeadlineExceeded.Error()) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("at the bound", func(t *testing.T) {
		s, err := newHeaderSource(headerOptions{command: script(t, fmt.Sprintf("printf 'X-A: '; head -c %d /dev/zero | tr '\\0' a; echo", commandOutput-6))})
		if err != nil {
			t.Fatal(err)
		}
		if h, err := s.current(t.Context()); err != nil || len(h.Get("X-A")) != commandOutput-6 {
			t.Errorf("%d bytes: %v", len(h.Get("X-A")), err)
		}
	})
}

// TestHeaderCommandAtStart holds that the command runs when the program starts, and delays nothing else.
func TestHeaderCommandAtStart(t *testing.T) {
	mkfifo, err := exec.LookPath("mkfifo")
	if err != nil {
		t.Skip(err)
	}
	var asked atomic.Int64
	url := hostile(t, func(w http.ResponseWriter, r *http.Request, method, id string) {
		asked.Add(1)
		if r.Method == http.MethodGet {
			w.WriteHeader(http.StatusMethodNotAllowed)
			return
		}
		w.Header().Set("Content-Type", jsonType)
		fmt.Fprintf(w, `{"jsonrpc":"2.0","id":%s,"result":{"run":%q}}`, id, r.Header.Get("X-Run"))
	})
	// start runs the program with a command, and returns when the command has come to its text.
	start := func(t *testing.T, text string) *victim {
		path := script(t, `echo x >> "$0.runs"; echo x > "$0.begun"; `+text)
		if out, err := exec.Command(mkfifo, path+".begun").CombinedOutput(); err != nil {
			t.Fatalf("%v %s", err, out)
		}
		f, err := os.OpenFile(path+".begun", os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		f.SetReadDeadline(time.Now().Add(hung))
		v := attack(t, nil, url, "--header-command", path)
		if _, err := f.Read(make([]byte, 1)); err != nil {
			t.Fatalf("the command does not run at the start: %v\n%s", err, v.stderr())
		}
		if n := asked.Load(); n > 0 {
			t.Errorf("%d requests went out before the client said anything", n)
		}
		return v
	}
	t.Run("its output is used", func(t *testing.T) {
		v := start(t, `while read x; do n=x$n; done < "$0.runs"; echo "X-Run: $n"`)
		v.hello()
		if got := v.ask("tools/list", "{}"); v.end() != 0 || !strings.Contains(got, `"run":"x"`) {
			t.Errorf("answered %s\n%s", got, v.stderr())
		}
	})
	asked.Store(0)
	t.Run("it fails", func(t *testing.T) {
		v := start(t, "echo s3cret >&2; exit 3")
		told := "mcp-redial: error: running --header-command: exit status 3: it is run again when a request needs it; run it by hand to see why\n"
		v.tells(regexp.QuoteMeta(told))
		if code := v.end(); code != 0 || strings.Contains(v.stderr(), "s3cret") {
			t.Errorf("exit %d\n%s", code, v.stderr())
		}
	})
	t.Run("it hangs, and input ends", func(t *testing.T) {
		if v := start(t, "exec /bin/sleep 1000"); v.end() != 0 {
			t.Errorf("stderr:\n%s", v.stderr())
		}
	})
	t.Run("it hangs, and a signal comes", func(t *testing.T) {
		v := start(t, "exec /bin/sleep 1000")
		if err := v.cmd.Process.Signal(os.Interrupt); err != nil {
			t.Fatal(err)
		}
		<-v.gone
		if code := v.cmd.ProcessState.ExitCode(); code != 0 {
			t.Errorf("exit %d\n%s", code, v.stderr())
		}
	})
	t.Run("it hangs, and the client speaks", func(t *testing.T) {
		v := start(t, "exec /bin/sleep 1000")
		v.say("no JSON")
		if got := <-v.lines; !strings.Contains(got, "-32700") { // in no hurry, but it does not wait for the command
			t.Errorf("answered %s", got)
		}
	})
}

// TestHeaderCommandFailed holds that what went wrong is still told while it is too early for another run.
func TestHeaderCommandFailed(t *testing.T) {
	path := script(t, `[ -e "$0.good" ] || exit 3; echo "X-A: 1"`)
	synctest.Test(t, func(t *testing.T) {
		s, err := newHeaderSource(headerOptions{command: path})
		if err != nil {
			t.Fatal(err)
		}
		var signIn *signInError
		for _, after := range []time.Duration{0, time.Second, 8 * time.Second} {
			time.Sleep(after)
			if _, err := s.current(t.Context()); !errors.As(err, &signIn) || signIn.Error() != "running --header-command: exit status 3" {
				t.Errorf("got %v", err)
			}
		}
		if signIn.wait != time.Second || !signIn.outage {
			t.Errorf("wait %v", signIn.wait)
		}
		if err := os.WriteFile(path+".good", nil, 0o600); err != nil {
			t.Fatal(err)
		}
		time.Sleep(signIn.wait)
		if h, err := s.current(t.Context()); err != nil || h.Get("X-A") != "1" {
			t.Errorf("later: %v, %v", h, err)
		}
	})
}

// TestHeaderCommandForOneWhoIsGone holds that a request that is cancelled while the command runs for it makes
// nobody else wait for another run, or believe that the command is broken.
func TestHeaderCommandForOneWhoIsGone(t *testing.T) {
	path := script(t, `[ -e "$0.good" ] || exec sleep 1000; echo "X-A: 1"`)
	s, err := newHeaderSource(headerOptions{command: path})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := s.current(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
	if err := os.WriteFile(path+".good", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if h, err := s.current(t.Context()); err != nil || h.Get("X-A") != "1" {
		t.Errorf("the next gets %v, %v", h, err)
	}
}

// Headers and variables are told as regular expressions would tell them.
func FuzzHeaderText(f *testing.F) {
	form := regexp.MustCompile(`^([A-Za-z0-9_-]+):[ \t]*([^\r\n\x{2028}\x{2029}]*)$`)
	taken := regexp.MustCompile(`(?i)^(host|content-length|content-encoding|accept-encoding|connection|keep-alive|transfer-encoding|te|trailer|upgrade|expect|` +
		`proxy-.*|last-event-id|mcp-session-id|mcp-protocol-version|mcp-method|mcp-name|idempotency-key|x-idempotency-key|mcp-param-.*)$`)
	variable := regexp.MustCompile(`\$\{([^}]+)}`)
	f.Fuzz(func(t *testing.T, line string) {
		name, value, err := parseHeader("--header", line)
		m := form.FindStringSubmatch(line)
		if m == nil || taken.MatchString(m[1]) {
			m = nil
		}
		if (m == nil) != (err != nil) || m != nil && (name != m[1] || value != m[2]) {
			t.Errorf("%q is %q, %q, %v; want %q", line, name, value, err, m)
		}
		set := func(name string) (string, bool) { return "<" + name + ">", !strings.HasPrefix(name, "un") }
		unset := false
		want := variable.ReplaceAllStringFunc(line, func(v string) string {
			value, ok := set(v[2 : len(v)-1])
			unset = unset || !ok
			return value
		})
		if got, err := expand("it", line, set); (err != nil) != unset || !unset && got != want {
			t.Errorf("%q becomes %q, %v; want %q", line, got, err, want)
		}
	})
}
