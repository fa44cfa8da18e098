package main

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func testListener(t *testing.T, edit func(*listenOptions)) *callback {
	t.Helper()
	o := listenOptions{identity: "0123456789abcdef", host: "localhost", port: freePort(t), fixed: true, callbackPath: "/oauth/callback", authTimeout: 30 * time.Second, site: "https://mcp.example.com"}
	if edit != nil {
		edit(&o)
	}
	c, err := listen(t.Context(), o, o.port, nil)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestCallbackRoutes(t *testing.T) {
	c := testListener(t, func(o *listenOptions) { o.host = "My.laptop" })
	defer c.close(false)
	for _, tt := range []struct {
		name, method, host, path, origin string
		status                           int
	}{
		{name: "who is there", path: idPath, status: 200},
		{name: "by another name of loopback", host: "localhost", path: idPath, status: 200},
		{name: "by the name that was chosen", host: "my.laptop", path: idPath, status: 200},
		{name: "in capitals", host: "LOCALHOST", path: idPath, status: 200},
		{name: "a web page asks", path: idPath, origin: "https://evil.example.com", status: 403},
		{name: "our own page asks", path: idPath, origin: "null", status: 403},
		{name: "a name that was rebound", host: "evil.example.com", path: idPath, status: 403},
		{name: "a name that was rebound, at the callback", host: "evil.example.com", path: "/oauth/callback?code=x&state=y", status: 403},
		{name: "without the port", host: "-", path: idPath, status: 403},
		{name: "not yet", path: waitPath + "?poll=false", status: 202},
		{name: "elsewhere", path: "/", status: 404},
		{name: "favicon", path: "/favicon.ico", status: 404},
		{name: "POST", method: "POST", path: "/oauth/callback", status: 405},
	} {
		t.Run(tt.name, func(t *testing.T) {
			base := fmt.Sprintf("127.0.0.1:%d", c.o.port)
			req, err := http.NewRequest(tt.method, "http://"+base+tt.path, nil)
			if err != nil {
				t.Fatal(err)
			}
			switch tt.host {
			case "":
			case "-":
				req.Host = "127.0.0.1"
			default:
				req.Host = fmt.Sprintf("%s:%d", tt.host, c.o.port)
			}
			if tt.origin != "" {
				req.Header.Set("Origin", tt.origin)
			}
			resp, err := http.DefaultClient.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			body, _ := io.ReadAll(resp.Body)
			resp.Body.Close()
			if resp.StatusCode != tt.status {
				t.Errorf("status %d, want %d: %s", resp.StatusCode, tt.status, body)
			}
			if h := resp.Header; h.Get("Cache-Control") != "no-store" || h.Get("Referrer-Policy") != "no-referrer" {
				t.Errorf("headers %v", h)
			}
			if want := `{"mcpRemote":true,"serverUrlHash":"0123456789abcdef"}`; tt.path == idPath && tt.status == 200 && string(body) != want {
				t.Errorf("id %s", body)
			}
		})
	}
}

// The host is taken as mcp-remote takes it, and as a person would write it.
func TestRedirectAddress(t *testing.T) {
	u, _ := url.Parse("https://mcp.example.com/mcp")
	for host, want := range map[string]string{
		"":          "http://" + defaultHost() + ":4711/oauth/callback",
		"My.laptop": "http://My.laptop:4711/oauth/callback",
		"::1":       "http://[::1]:4711/oauth/callback",
		"[::1]":     "http://[::1]:4711/oauth/callback",
	} {
		a, err := newAuthorizer(authOptions{server: u, serverURL: u.String(), listenOptions: listenOptions{host: host}}, nil, nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		if got := a.redirectTo(4711); got != want {
			t.Errorf("%q becomes %s, want %s", host, got, want)
		}
	}
}

// The long poll ends with the sign-in, and says how it went.
func TestWaitForAuth(t *testing.T) {
	for ok, want := range map[bool]int{true: 200, false: 500} {
		c := testListener(t, nil)
		r := httptest.NewRequest(http.MethodGet, fmt.Sprintf("http://127.0.0.1:%d%s", c.o.port, waitPath), nil)
		w := httptest.NewRecorder()
		var wg sync.WaitGroup
		wg.Go(func() { c.ServeHTTP(w, r) })
		c.close(ok)
		wg.Wait()
		if w.Code != want {
			t.Errorf("status %d, want %d", w.Code, want)
		}
	}
}

func TestPageIsInert(t *testing.T) {
	w := httptest.NewRecorder()
	showPage(w, 200, `<b>"'&`, `<script>alert(1)</script>`)
	csp, body := w.Header().Get("Content-Security-Policy"), w.Body.String()
	if strings.Contains(body, "<script") || strings.Contains(body, "<b>") {
		t.Errorf("not escaped: %s", body)
	}
	_, nonce, _ := strings.Cut(csp, "'nonce-")
	nonce, _, _ = strings.Cut(nonce, "'")
	if !strings.HasPrefix(csp, "default-src 'none'; ") || len(nonce) < 20 || !strings.Contains(body, `<style nonce="`+nonce+`">`) {
		t.Errorf("policy %q for %s", csp, body)
	}
	for _, need := range []string{"color-scheme:light dark", "<!doctype html>", `lang="en"`, "<title>", "viewport"} {
		if !strings.Contains(body, need) {
			t.Errorf("the page has no %s", need)
		}
	}
	if strings.Contains(body, "http") || strings.Contains(body, "src=") {
		t.Errorf("the page loads something: %s", body)
	}
}

func TestSuccessURL(t *testing.T) {
	w := newWorld(t)
	thanks := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if r.URL.RawQuery != "" {
			t.Errorf("the page learns %q", r.URL.RawQuery)
		}
		io.WriteString(rw, "thanks")
	}))
	defer thanks.Close()
	w.person()
	w.mustCall(w.instance(func(o *authOptions) { o.successURL = thanks.URL + "/done" }))
	if page := <-w.paged; page != "200 thanks" {
		t.Errorf("page %q", page)
	}
}

// What belongs to no sign-in changes nothing: the real answer still counts, once.
func TestStrayRedirects(t *testing.T) {
	w := newWorld(t)
	a := w.instance(nil)
	done := make(chan error, 1)
	go func() { _, err := w.call(t.Context(), a); done <- err }()
	address := <-w.shown
	u, _ := url.Parse(address)
	back := u.Query().Get("redirect_uri")
	state := u.Query().Get("state")
	for _, q := range []string{"", "?code=x", "?code=x&state=", "?code=x&state=unknown", "?code=x&state=../../x", "?error=access_denied", "?error=access_denied&state=unknown",
		"?code=a&code=b&state=" + state, "?code=a&state=" + state + "&state=" + state, "?code=a&state=" + strings.Repeat("a", 65)} {
		w.browse(back + q)
		if page := <-w.paged; !strings.HasPrefix(page, "400 ") {
			t.Errorf("%s: page %q", q, page)
		}
	}
	select {
	case err := <-done:
		t.Fatalf("the sign-in ended: %v", err)
	default:
	}
	w.browse(address)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if n := w.as.count("POST /tenant/token"); n != 1 {
		t.Errorf("%d token requests", n)
	}
}

// A sign-in that is busy does not keep the browser for ever.
func TestSlowSignIn(t *testing.T) {
	for _, taken := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			back := make(chan redirect)
			c := &callback{o: listenOptions{callbackPath: "/oauth/callback", authTimeout: 30 * time.Second}, hosts: []string{"localhost:1"}, back: back}
			r := httptest.NewRequest(http.MethodGet, "http://localhost:1/oauth/callback?state=x&code=y", nil)
			w := httptest.NewRecorder()
			if taken {
				go func() { <-back }()
			}
			start := time.Now()
			c.ServeHTTP(w, r)
			if w.Code != http.StatusGatewayTimeout || !strings.Contains(w.Body.String(), "Still waiting") || time.Since(start) != 30*time.Second {
				t.Errorf("%d after %v: %s", w.Code, time.Since(start), w.Body)
			}
		})
	}
}

// With a terminal the answer can be pasted, even while another instance leads.
func TestPaste(t *testing.T) {
	for _, led := range []bool{false, true} {
		t.Run(fmt.Sprint(led), func(t *testing.T) {
			w := newWorld(t)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			leader := make(chan error, 1)
			if led {
				a := w.instance(nil)
				go func() { _, err := w.call(ctx, a); leader <- err }()
				<-w.shown // nobody opens it
			}
			terminal, keyboard := io.Pipe()
			defer keyboard.Close()
			a := w.instance(func(o *authOptions) { o.paste = terminal })
			done := make(chan error, 1)
			go func() { done <- a.login(ctx, func(string) {}) }()
			address := <-w.shown
			c := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
			resp, err := c.Get(address)
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			fmt.Fprintf(keyboard, "what?\n\nhttp://localhost/?state=wrong&code=1\n  %s  \n", resp.Header.Get("Location"))
			if err := <-done; err != nil {
				t.Fatal(err)
			}
			if led {
				if err := <-leader; err != nil {
					t.Errorf("the leader: %v", err)
				}
			}
			w.mustCall(w.instance(nil))
		})
	}
}

// A sign-in that the person has begun is not lost with the process: the next instance completes it.
func TestInterruptedSignIn(t *testing.T) {
	w := newWorld(t)
	ctx, cancel := context.WithCancel(t.Context())
	first := w.instance(nil)
	done := make(chan error, 1)
	go func() { _, err := w.call(ctx, first); done <- err }()
	address := <-w.shown
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Fatalf("the first: %v", err)
	}
	second := w.instance(nil)
	go func() { _, err := w.call(t.Context(), second); done <- err }()
	<-w.shown // its own address, which the person does not see
	w.browse(address)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if page := <-w.paged; !strings.HasPrefix(page, "200") {
		t.Errorf("page %q", page)
	}
}

// The one of mcp-remote is completed too: it knows no field that is ours alone.
func TestInterruptedSignInOfMCPRemote(t *testing.T) {
	w := newWorld(t)
	a := w.instance(nil)
	done := make(chan error, 1)
	go func() { _, err := w.call(t.Context(), a); done <- err }()
	u, _ := url.Parse(<-w.shown)
	q := u.Query()
	from, state := q.Get("state"), "0b1c5b0e-6f0d-4c55-9d55-6d1f4b3f7c11"
	var doc map[string]any
	if err := a.store.readJSON(a.file("discovery_state_"+from+".json"), &doc); err != nil {
		t.Fatal(err)
	}
	delete(doc, "redirectUri")
	delete(doc, "scope")
	verifier, err := a.store.read(a.file("code_verifier_" + from + ".txt"))
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(a.store.writeJSON(a.file("discovery_state_"+state+".json"), doc), a.store.write(a.file("code_verifier_"+state+".txt"), verifier)); err != nil {
		t.Fatal(err)
	}
	q.Set("state", state)
	u.RawQuery = q.Encode()
	w.browse(u.String())
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

// One that is older than ten minutes is not.
func TestStaleSignIn(t *testing.T) {
	w := newWorld(t)
	a := w.instance(nil)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { _, err := w.call(ctx, a); done <- err }()
	address := <-w.shown
	old := time.Now().Add(-personLimit - time.Second)
	files, err := a.store.list(a.file("code_verifier_"))
	if err != nil || len(files) != 1 {
		t.Fatal(files, err)
	}
	if err := a.store.root.Chtimes(files[0].name, old, old); err != nil {
		t.Fatal(err)
	}
	if err := a.store.write(a.file("code_verifier_another.txt"), []byte("fresh")); err != nil {
		t.Fatal(err)
	}
	w.browse(address)
	if page := <-w.paged; !strings.HasPrefix(page, "400") {
		t.Errorf("page %q", page)
	}
	cancel()
	<-done
}

// What another instance has begun at an authorization server that is not named here is not completed.
func TestInterruptedSignInElsewhere(t *testing.T) {
	w := newWorld(t)
	ctx, cancel := context.WithCancel(t.Context())
	first := w.instance(nil)
	done := make(chan error, 1)
	go func() { _, err := w.call(ctx, first); done <- err }()
	u, _ := url.Parse(<-w.shown)
	q := url.Values{"state": {u.Query().Get("state")}, "code": {"x"}, "iss": {w.as.issuer}}
	named := w.instance(func(o *authOptions) { o.authServers = []string{"https://login.example.com"} })
	if ours, err := named.complete(t.Context(), q); ours || err == nil || w.as.count("POST /tenant/token") != 0 {
		t.Errorf("completed: %v, %v", ours, err)
	}
	cancel()
	<-done
}

// tabs puts a stand-in for xdg-open first on PATH. What it is given comes out of the channel.
func tabs(t *testing.T) <-chan string {
	t.Helper()
	if runtime.GOOS != "linux" {
		t.Skip("the stand-in for the browser is a shell script named xdg-open")
	}
	dir := t.TempDir()
	fifo := filepath.Join(dir, "tabs")
	if out, err := exec.Command("mkfifo", fifo).CombinedOutput(); err != nil {
		t.Fatalf("mkfifo: %v: %s", err, out)
	}
	script := "#!/bin/sh\nfor a; do printf '%s\\n' \"$a\"; done >>'" + fifo + "'\n"
	if err := os.WriteFile(filepath.Join(dir, "xdg-open"), []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	f, err := os.OpenFile(fifo, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	lines := make(chan string, 64)
	var wg sync.WaitGroup
	wg.Go(func() {
		for s := bufio.NewScanner(f); s.Scan(); {
			lines <- s.Text()
		}
	})
	t.Cleanup(func() { f.Close(); wg.Wait() })
	return lines
}

// Ten instances started together open one tab, and all connect.
func TestTenSignInOnce(t *testing.T) {
	opened := tabs(t)
	w := newWorld(t)
	ids := make(chan error, 10)
	for range 10 {
		a := w.instance(func(o *authOptions) { o.noBrowser = false })
		go func() {
			status, err := w.call(t.Context(), a)
			if err == nil && status != 200 {
				err = fmt.Errorf("status %d", status)
			}
			ids <- err
		}()
	}
	w.browse(<-opened)
	for range 10 {
		if err := <-ids; err != nil {
			t.Error(err)
		}
	}
	if len(opened) != 0 || w.as.count("GET /tenant/authorize") != 1 || w.as.count("POST /tenant/token") != 1 || w.as.count("POST /tenant/register") != 1 {
		t.Errorf("%d more tabs, requests %q", len(opened), w.as.asked())
	}
	if opened := len(w.shown); opened != 1 {
		t.Errorf("%d addresses were shown", opened)
	}
}

// The address is one argument, whatever is in it.
func TestOpenBrowser(t *testing.T) {
	opened := tabs(t)
	for _, tt := range []struct {
		address string
		ok      bool
	}{
		{"https://login.example.com/a?b=c&d=$(touch /tmp/x)&e=`id`;f|g \"h\" 'i'", true},
		{"http://localhost:8080/x", true},
		{"http://127.0.0.1/x", true},
		{"http://[::1]/x", true},
		{"http://login.example.com/x", false},
		{"http://localhost.evil.example.com/x", false},
		{"file:///etc/passwd", false},
		{"javascript:alert(1)", false},
		{"https:login", false},
		{"ms-settings:display", false},
		{"https://a\"--b&c.example.com/x", false}, // what net/url lets stand in a host
		{"https://$(id);.example.com/x", false},
		{"https://'a'.example.com/x", false},
		{"https://[fe80::1%25\"x]/x", false},
		{"https://b\u00fccher.example.com:8443/x", true},
	} {
		u, err := url.Parse(tt.address)
		if err != nil {
			t.Errorf("%s: %v", tt.address, err)
			continue
		}
		if err := openBrowser(u); (err == nil) != tt.ok {
			t.Errorf("%s: %v", tt.address, err)
		} else if err == nil {
			if got := <-opened; got != u.String() {
				t.Errorf("%s became %s", tt.address, got)
			}
		}
	}
	if len(opened) != 0 {
		t.Error("more was opened")
	}
	for _, bad := range []string{"https://x/\n-e", "https://x/\x00"} {
		if _, err := url.Parse(bad); err == nil {
			t.Errorf("%q is an address", bad)
		}
	}
}

// instanceProcess is one instance in a process of its own: the test binary itself.
func (w *signInWorld) instanceProcess(t *testing.T) (*exec.Cmd, *bufio.Scanner) {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^TestInstanceProcess$", "-test.count=1")
	cmd.Env = append(os.Environ(), "SIGN_IN_INSTANCE="+fmt.Sprintf("%s %s %d", w.dir, w.server.url, w.port))
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return cmd, bufio.NewScanner(out)
}

// TestInstanceProcess is the other side of instanceProcess.
func TestInstanceProcess(t *testing.T) {
	given := os.Getenv("SIGN_IN_INSTANCE")
	if given == "" {
		t.Skip("run by other tests in a process of its own")
	}
	w := &signInWorld{t: t, as: newFakeAS("http://127.0.0.1"), server: &fakeResource{}, shown: make(chan string, 64), hints: make(chan string, 64)}
	fmt.Sscan(given, &w.dir, &w.server.url, &w.port)
	w.client = w.authClient()
	go func() {
		for address := range w.shown {
			fmt.Println("address", address)
		}
	}()
	status, err := w.call(t.Context(), w.instance(nil))
	fmt.Println("done", status, err)
}

// A leader that is killed is replaced by a follower, which completes what the person has begun.
func TestKilledLeader(t *testing.T) {
	w := newWorld(t)
	leader, out := w.instanceProcess(t)
	var address string
	for out.Scan() {
		if _, err := fmt.Sscanf(out.Text(), "address %s", &address); err == nil {
			break
		}
	}
	a := w.instance(nil)
	done := make(chan error, 1)
	go func() { _, err := w.call(t.Context(), a); done <- err }()
	select {
	case err := <-done:
		t.Fatalf("the follower ended: %v", err)
	case hint := <-w.hints:
		if !strings.Contains(hint, "Another instance is signing in") {
			t.Fatal(hint)
		}
	}
	if err := leader.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	leader.Wait()
	<-w.shown // the follower leads now
	w.browse(address)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

// A leader whose person said no takes its followers with it: they do not ask again.
func TestDeniedLeader(t *testing.T) {
	w := newWorld(t)
	w.as.deny = "access_denied"
	done := make(chan error, 3)
	for range 3 {
		a := w.instance(nil)
		go func() { _, err := w.call(t.Context(), a); done <- err }()
	}
	for range 3 { // one leads, two have found that out
		<-w.hints
	}
	w.browse(<-w.shown)
	denied := 0
	for range 3 {
		err := <-done
		switch {
		case err == nil:
			t.Error("signed in")
		case strings.Contains(err.Error(), "access_denied"):
			denied++
		case !strings.Contains(err.Error(), "in another instance"):
			t.Error(err)
		}
	}
	if denied != 1 || len(w.shown) != 0 {
		t.Errorf("%d were denied, %d more addresses", denied, len(w.shown))
	}
}

// Any program can sit on the port. One that says nothing is passed over; one that claims to be an instance is a
// hint, and after the wait the error names the port.
func TestSquatter(t *testing.T) {
	mute, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer mute.Close()
	go func() {
		for {
			c, err := mute.Accept()
			if err != nil {
				return
			}
			c.Close()
		}
	}()
	port := mute.Addr().(*net.TCPAddr).Port
	o := listenOptions{identity: "0123456789abcdef", host: "localhost", port: port, authTimeout: time.Second}
	if six, err := net.Listen("tcp", "[::1]:0"); err == nil { // where the browser may look first
		at := six.Addr().(*net.TCPAddr).Port
		if c, err := listen(t.Context(), o, at, nil); err == nil {
			t.Error("the port was shared with whoever has it at ::1")
			c.close(false)
		}
		six.Close()
		if c, err := listen(t.Context(), o, at, nil); err != nil {
			t.Errorf("once it is free: %v", err)
		} else {
			c.close(false)
		}
	}
	c, got, err := takePort(t.Context(), o, nil)
	if err != nil || c == nil || got == port {
		t.Fatalf("a port that is not derived from choice: %d, %v", got, err)
	}
	if _, leader, err := takePort(t.Context(), o, nil); err != nil || leader != got {
		t.Errorf("the second instance follows %d, %v; want %d", leader, err, got)
	}
	c.close(false)
	o.fixed = true
	if _, _, err := takePort(t.Context(), o, nil); err == nil || !strings.Contains(err.Error(), fmt.Sprint(port)) {
		t.Errorf("a chosen port: %v", err)
	}
	forged := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, `{"mcpRemote":true,"serverUrlHash":"0123456789abcdef"}`+strings.Repeat(" ", 1<<20))
	}))
	defer forged.Close()
	u, _ := url.Parse(forged.URL)
	fmt.Sscan(u.Port(), &o.port)
	if c, leader, err := takePort(t.Context(), o, nil); c != nil || leader != o.port || err != nil {
		t.Errorf("%v, %d, %v", c, leader, err)
	}
	o.identity = "another"
	if _, _, err := takePort(t.Context(), o, nil); err == nil {
		t.Error("an instance for another server was followed")
	}
}

// Whoever holds the port and claims to be one of us is waited for, but not for ever: then the error names the port.
// And nobody waits longer than ten minutes for a person.
func TestSignInEnds(t *testing.T) {
	var identity atomic.Pointer[string]
	var asked atomic.Int32
	forged := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if asked.Add(1)%10 == 0 { // one of ten answers gets lost: a leader may be busy, or just have ended
			panic(http.ErrAbortHandler)
		}
		fmt.Fprintf(w, `{"mcpRemote":true,"serverUrlHash":%q}`, *identity.Load())
	}))
	defer forged.Close()
	u, _ := url.Parse(forged.URL)
	for _, tt := range []struct {
		terminal bool
		want     string
		after    time.Duration
	}{
		{false, "another program holds port " + u.Port(), followLimit},
		{true, "nobody signed in within ten minutes", personLimit},
	} {
		synctest.Test(t, func(t *testing.T) {
			w := newMemWorld(t)
			fmt.Sscan(u.Port(), &w.port)
			terminal, keyboard := io.Pipe()
			defer keyboard.Close()
			a := w.instance(func(o *authOptions) {
				if tt.terminal {
					o.paste = terminal
				}
			})
			identity.Store(&a.o.identity)
			start := time.Now()
			_, err := w.call(t.Context(), a)
			wantError(t, err, tt.want)
			if took := time.Since(start); took < tt.after || took > tt.after+time.Second {
				t.Errorf("after %v, want %v", took, tt.after)
			}
		})
	}
}

func TestIsLocalName(t *testing.T) {
	for host, want := range map[string]bool{"localhost": true, "LOCALHOST.": true, "a.localhost": true, "127.0.0.1": true, "127.1.2.3": true, "::1": true,
		"::ffff:127.0.0.1": true, "10.0.0.1": false, "localhost.example.com": false, "": false, "0.0.0.0": false, "example.com": false} {
		if isLocalName(host) != want {
			t.Errorf("isLocalName(%q) = %v", host, !want)
		}
	}
}

func FuzzRedirectQuery(f *testing.F) {
	s, err := openStore("", nil)
	if err != nil {
		f.Fatal(err)
	}
	u, _ := url.Parse("https://mcp.example.com/mcp")
	a, err := newAuthorizer(authOptions{server: u, serverURL: u.String()}, s, nil, nil)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, query string) {
		q, _ := url.ParseQuery(query)
		if ours, err := a.complete(t.Context(), q); ours || err == nil {
			t.Errorf("%q was taken for an answer", query)
		}
		if q.Del("state"); q.Has("error") || !q.Has("code") { // an answer that was waited for, and is none
			d := &discovery{Server: serverMetadata{Issuer: "https://as.example"}}
			if err := errors.Join(s.write(a.file("code_verifier_known.txt"), []byte("v")), s.writeJSON(a.file("discovery_state_known.json"), d)); err != nil {
				t.Fatal(err)
			}
			q.Set("state", "known")
			if _, err := a.complete(t.Context(), q); err == nil {
				t.Errorf("%q was taken for a success", query)
			}
		}
	})
}

func FuzzMetadata(f *testing.F) {
	u, _ := url.Parse("https://mcp.example.com/mcp")
	a := &authorizer{o: authOptions{server: u}}
	f.Fuzz(func(t *testing.T, b []byte) {
		var r resourceMetadata
		if json.Unmarshal(b, &r) == nil && covers(r.Resource, u) {
			v, err := url.Parse(r.Resource)
			if err != nil || origin(v) != origin(u) {
				t.Errorf("%q covers %s", r.Resource, u)
			}
		}
		var m serverMetadata
		if json.Unmarshal(b, &m) != nil {
			return
		}
		for _, raw := range []string{m.Issuer, m.Authorization, m.Token, m.Registration, m.Device, m.Revocation} {
			if e, err := a.endpoint("endpoint", raw); err == nil && (e.Scheme != "https" || e.Host == "" || e.User != nil) {
				t.Errorf("%q passed", raw)
			} else if err != nil && len(err.Error()) > 400 {
				t.Errorf("a long error: %v", err)
			}
		}
		var k tokens
		json.Unmarshal(b, &k)
		a.expiry(&k)
	})
}

// referenceChallenge is bearerChallenge in regular expressions, which say less of a string that ends within an escape.
func referenceChallenge(header string) challenge {
	const token, quoted = `[\w!#$%&'*+.^|~-]+`, `"((?:[^"\\]|\\.)*)(?:"|$)`
	c, bearer := challenge{}, false
	for _, m := range regexp.MustCompile(`(?s)(`+token+`)(?:\s*(=)\s*(?:`+quoted+`|([^\s,"]*)))?|`+quoted).FindAllStringSubmatch(header, -1) {
		name, value := strings.ToLower(m[1]), cmp.Or(regexp.MustCompile(`(?s)\\(.)`).ReplaceAllString(m[3], "$1"), m[4])
		if _, twice := c[name]; name != "" && m[2] == "" {
			bearer = name == "bearer"
		} else if name != "" && bearer && !twice {
			c[name] = value
		}
	}
	return c
}

func FuzzChallenge(f *testing.F) {
	f.Fuzz(func(t *testing.T, header string) {
		for name, value := range bearerChallenge(header) {
			if name == "" || name != strings.ToLower(name) || len(name)+len(value) > len(header) {
				t.Errorf("%q gave %q=%q", header, name, value)
			}
		}
		if got, want := bearerChallenge(header), referenceChallenge(header); !strings.HasSuffix(header, `\`) && !maps.Equal(got, want) {
			t.Errorf("%q gave %q, want %q", header, got, want)
		}
	})
}

var challenges = []struct {
	name, header string
	want         map[string]string
}{
	{"none", "", nil},
	{"bare", "Bearer", nil},
	{"one", `Bearer realm="x", scope="a b"`, map[string]string{"realm": "x", "scope": "a b"}},
	{"names and scheme in any case", `bEARER SCOPE=a,Error="invalid_token"`, map[string]string{"scope": "a", "error": "invalid_token"}},
	{"commas and quotes inside", `Bearer realm="a, \"Bearer scope=x\"", scope=y`, map[string]string{"realm": `a, "Bearer scope=x"`, "scope": "y"}},
	{"several in one line", `Basic realm="b", Bearer scope="s", Digest scope="d", nonce="n"`, map[string]string{"scope": "s"}},
	{"token68 before", `Negotiate YWJj/+==, Bearer scope=s`, map[string]string{"scope": "s"}},
	{"token68 after", `Bearer scope=s, Negotiate YWJj==`, map[string]string{"scope": "s"}},
	{"blanks around", "Bearer  scope = \"s\" ,\t error\t=\te", map[string]string{"scope": "s", "error": "e"}},
	{"empty elements", `,, Bearer ,scope=s,,error=e,`, map[string]string{"scope": "s", "error": "e"}},
	{"twice: the first", `Bearer scope=a, scope=b, Bearer scope=c`, map[string]string{"scope": "a"}},
	{"not closed", `Bearer scope="abc`, map[string]string{"scope": "abc"}},
	{"a parameter of nobody", `scope=x, Bearer error=e`, map[string]string{"error": "e"}},
	{"empty value", `Bearer scope="", error=`, map[string]string{"scope": "", "error": ""}},
	{"another scheme", `DPoP algs="ES256", scope=x`, nil},
	{"rubbish", `@@@ "", Bearer scope=s`, map[string]string{"scope": "s"}},
	{"an address", `Bearer resource_metadata="https://a.example/.well-known/x?y=z,1"`, map[string]string{"resource_metadata": "https://a.example/.well-known/x?y=z,1"}},
}

func TestBearerChallenge(t *testing.T) {
	for _, tt := range challenges {
		t.Run(tt.name, func(t *testing.T) {
			got := bearerChallenge(tt.header)
			if fmt.Sprint(map[string]string(got)) != fmt.Sprint(tt.want) {
				t.Errorf("%v, want %v", got, tt.want)
			}
		})
	}
}
