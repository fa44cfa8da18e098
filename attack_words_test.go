package main

// attack_words_test.go attacks with words: what a server says must not command a terminal, what is secret must not be
// written anywhere, and what a server names must not be opened, contacted or waited for.

import (
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
	"unicode"
)

// records are the flags for everything that can be written, at the most talkative level, and where it goes.
func records(t *testing.T) (dir string, args []string) {
	dir = t.TempDir()
	return dir, []string{"--debug", "--log-file", filepath.Join(dir, "log"), "--audit-file", filepath.Join(dir, "audit")}
}

// everything is all that lies below dir.
func everything(t *testing.T, dir string) string {
	t.Helper()
	var all strings.Builder
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		data, err := os.ReadFile(p)
		fmt.Fprintf(&all, "%s:\n%s\n", p, data)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all.String()
}

// A server puts a terminal's commands wherever it may write: nothing of it is printed, but in standard output's
// JSON, where it is escaped.
func TestAttackEscapes(t *testing.T) {
	t.Parallel()
	const evil = "\x1b]0;owned\x07\x1b[2J\r\nmcp-redial: error: forged\u202e\u0085"
	inJSON := string(quote(evil))
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		m, _ := scan(body)
		raw := func(head string) { // what net/http would not let a server say
			c, _, err := http.NewResponseController(w).Hijack()
			if err == nil {
				io.WriteString(c, head)
				c.Close()
			}
		}
		w.Header().Set("Content-Type", jsonType)
		switch {
		case m.method == "initialize":
			fmt.Fprintf(w, `{"jsonrpc":"2.0","id":%s,"result":{"protocolVersion":"2025-11-25","capabilities":{"tools":{},%s:{}},"serverInfo":{"name":%s,"version":%s}}}`, m.id, inJSON, inJSON, inJSON)
		case m.method == "tools/list":
			fmt.Fprintf(w, `{"jsonrpc":"2.0","id":%s,"error":{"code":-32000,"message":%s,"data":%s}}`, m.id, inJSON, inJSON)
		case r.Method == http.MethodGet:
			raw("HTTP/1.1 405 " + "\x1b[2J" + "\r\nContent-Length: 0\r\n\r\n")
		case m.kind == request:
			switch name, _ := unquote(peek(body, "params", "name")); name {
			case "status":
				raw("HTTP/1.1 418 \x1b[2Jowned\r\nContent-Length: 0\r\n\r\n")
			case "type":
				raw("HTTP/1.1 200 OK\r\nContent-Type: text/\x1b[2Jowned\r\nContent-Length: 2\r\n\r\n{}")
			case "malformed":
				raw("\x1b[2Jowned HTTP\r\n\r\n")
			case "header":
				raw("HTTP/1.1 200 OK\r\nX-\x1b[2J: owned\r\n\r\n")
			case "challenge":
				raw("HTTP/1.1 403 No\r\nWWW-Authenticate: Bearer error=\"\x1b[2Jowned\", scope=\"\x1b[2Jowned\"\r\nContent-Length: 0\r\n\r\n")
			case "location":
				raw("HTTP/1.1 307 No\r\nLocation: http://\x1b[2Jowned.example/\r\nContent-Length: 0\r\n\r\n")
			case "host":
				raw("HTTP/1.1 307 No\r\nLocation: http://%1b%5b2Jowned.example/\r\nContent-Length: 0\r\n\r\n")
			case "body":
				w.WriteHeader(http.StatusBadRequest)
				io.WriteString(w, evil)
			case "html":
				w.Header().Set("Content-Type", "text/html")
				io.WriteString(w, evil)
			}
		default:
			w.WriteHeader(http.StatusAccepted)
		}
	}))
	t.Cleanup(s.Close)
	harmless := func(t *testing.T, where, text string) {
		t.Helper()
		for line := range strings.Lines(text) {
			if i := strings.IndexFunc(strings.TrimSuffix(line, "\n"), func(r rune) bool { return !unicode.IsPrint(r) }); i >= 0 {
				t.Errorf("%s holds %q", where, line)
			}
			if strings.HasPrefix(line, "mcp-redial: error: forged") {
				t.Errorf("%s holds a line that the server made: %q", where, line)
			}
		}
	}
	for _, format := range []string{"text", "json"} {
		t.Run(format, func(t *testing.T) {
			dir, args := records(t)
			v := attack(t, nil, append(args, s.URL+"/mcp", "--log-format", format, "--no-auto-reconnect")...)
			v.hello()
			v.ask("tools/list", "{}")
			for _, name := range []string{"status", "type", "malformed", "header", "challenge", "location", "host", "body", "html", evil} {
				v.ask("tools/call", fmt.Sprintf(`{"name":%s}`, quote(name)))
			}
			v.ask("resources/read", fmt.Sprintf(`{"uri":%s}`, inJSON))
			if code := v.end(); code != 0 {
				t.Errorf("exit %d", code)
			}
			harmless(t, "standard error", v.stderr())
			harmless(t, "what was written", everything(t, dir))
			for line := range strings.Lines(v.stdout()) {
				if strings.ContainsAny(strings.TrimSuffix(line, "\n"), "\x1b\x07\r") {
					t.Errorf("standard output holds %q", line)
				}
			}
		})
	}
	for _, format := range []string{"--json", "--debug"} {
		_, out, errs := runCommand(t, t.TempDir(), "check", s.URL+"/mcp", format)
		if !strings.Contains(out, "owned") {
			t.Errorf("check does not show what the server is called: %s", out)
		}
		harmless(t, "check", out+errs)
	}
}

// What only the log keeps from the terminal: a proxy's answer that net/http quotes as it stands, and the address at which
// an authorization server wants a code to be entered.
func TestAttackEscapesElsewhere(t *testing.T) {
	harmless := func(t *testing.T, v *victim, dir string) {
		t.Helper()
		for line := range strings.Lines(v.stderr() + everything(t, dir)) {
			if strings.ContainsFunc(strings.TrimSuffix(line, "\n"), func(r rune) bool { return !unicode.IsPrint(r) }) {
				t.Errorf("written is %q", line)
			}
		}
	}
	t.Run("proxy", func(t *testing.T) {
		l := onLoopback(t)
		t.Cleanup(func() { l.Close() })
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				c.Read(make([]byte, 4096))
				io.WriteString(c, "HTTP/1.1 200 OK\r\n\x1b[2Jowned\u202e\r\n\r\n")
				c.Close()
			}
		}()
		dir, args := records(t)
		v := attack(t, nil, append(args, "https://mcp.example/mcp", "--proxy", "http://"+l.Addr().String(), "--hold-timeout", "1s", "--max-retries", "1")...)
		v.say(`{"jsonrpc":"2.0","id":1,"method":"tools/list"}`)
		v.tells(`owned`)
		v.answer("1")
		v.end()
		harmless(t, v, dir)
	})
	t.Run("device code", func(t *testing.T) {
		w := newWorld(t)
		w.as.device = map[string]any{"verification_uri": w.as.issuer + "/device?\u202eowned\u0085"}
		dir, args := records(t)
		v := attack(t, nil, append(args, "--device-code", w.server.url, fmt.Sprint(freePort(t)))...)
		v.say(`{"jsonrpc":"2.0","id":1,"method":"initialize","params":` + victimHello + `}`)
		v.tells(`owned`)
		v.end()
		harmless(t, v, dir)
	})
}

// One secret of each kind is planted, a sign-in made, and everything done that can go wrong. Then everything that the
// program wrote, in any mode, is searched; only the stored credentials may hold any, and the person's address
// what belongs there.
func TestAttackSecrets(t *testing.T) {
	for _, format := range []string{"text", "json"} {
		t.Run(format, func(t *testing.T) {
			w := newWorld(t)
			mcp, err := url.Parse(w.server.url)
			if err != nil {
				t.Fatal(err)
			}
			fails := []int{500, 0, 302, 404, 503, 200}
			var mu sync.Mutex
			calls := 0
			front := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
				if r.URL.Path != mcp.Path || w.as.valid(strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")) == nil {
					w.server.ServeHTTP(rw, r)
					return
				}
				body, _ := io.ReadAll(r.Body)
				m, _ := scan(body)
				rw.Header().Set("Content-Type", jsonType)
				switch {
				case m.method == "initialize":
					rw.Header().Set("Mcp-Session-Id", "planted-session")
					rw.Header().Set("Set-Cookie", "c=planted-cookie")
					fmt.Fprintf(rw, `{"jsonrpc":"2.0","id":%s,"result":{"protocolVersion":"2025-11-25","capabilities":{},"serverInfo":{"name":"s","version":"1"}}}`, m.id)
				case m.method == "tools/call":
					mu.Lock()
					status := fails[calls%len(fails)]
					calls++
					mu.Unlock()
					rw.Header().Set("Location", "https://elsewhere.example/planted-location")
					if status == 0 {
						panic(http.ErrAbortHandler)
					}
					rw.WriteHeader(status)
					io.WriteString(rw, "planted-body")
				case m.kind == request:
					fmt.Fprintf(rw, okResult, m.id)
				case r.Method == http.MethodGet:
					rw.WriteHeader(http.StatusMethodNotAllowed)
				default:
					rw.WriteHeader(http.StatusAccepted)
				}
			}))
			front.Config.ErrorLog = nil
			t.Cleanup(front.Close)
			w.server.url = front.URL + mcp.Path
			dir, args := records(t)
			args = append(args, w.server.url+"?key=planted-query", "--log-format", format, "--no-browser", "--header", "X-Api-Key: planted-header",
				"--header", "X-More: ${PLANTED}", "--no-auto-reconnect", fmt.Sprint(freePort(t)))
			w.server.metadata = map[string]any{"resource": front.URL + mcp.Path, "authorization_servers": []string{w.as.issuer}}
			v := attack(t, []string{"PLANTED=planted-variable"}, args...)
			v.next++
			v.say(`{"jsonrpc":"2.0","id":1,"method":"initialize","params":` + victimHello + `}`)
			address := v.tells(`http://\S+/authorize[^\s"\\]*`)
			w.client = &http.Client{}
			w.browse(address)
			if got := v.answer("1"); !strings.Contains(got, `"result"`) {
				t.Fatalf("after the sign-in: %s\n%s", got, v.stderr())
			}
			v.say(`{"jsonrpc":"2.0","method":"notifications/initialized"}`)
			for range len(fails) {
				v.ask("tools/call", `{"name":"x","arguments":{"a":"planted-argument"}}`)
			}
			w.as.revokeAccess()
			v.ask("tools/list", `{}`)
			outs := []string{}
			for _, more := range [][]string{{"status"}, {"status", "--json"}} {
				_, out, errs := runCommand(t, v.home, more...)
				outs = append(outs, out+errs)
			}
			if code := v.end(); code != 0 {
				t.Errorf("exit %d", code)
			}
			for _, more := range [][]string{{"check"}, {"check", "--json"}} {
				_, out, errs := runCommand(t, v.home, append(more, w.server.url+"?key=planted-query", "--header", "X-Api-Key: planted-header", "--debug")...)
				outs = append(outs, out+errs)
			}
			w.as.mu.Lock()
			secrets := append([]string{"planted-"}, w.as.secrets...)
			w.as.mu.Unlock()
			if len(secrets) < 5 {
				t.Fatalf("the authorization server gave only %d secrets", len(secrets))
			}
			talk := map[string]string{"standard error": v.stderr(), "standard output": v.stdout(), "the records": everything(t, dir), "check and status": strings.Join(outs, "\n")}
			for where, text := range talk {
				for _, s := range secrets {
					if i := strings.Index(text, s); s != "" && i >= 0 {
						t.Errorf("%s: %s", where, text[max(0, i-200):min(len(text), i+60)])
					}
				}
			}
			if len(talk["the records"]) < 500 {
				t.Errorf("hardly anything was recorded:\n%s", talk["the records"])
			}
			u, err := url.Parse(address)
			if err != nil {
				t.Fatal(err)
			}
			if strings.Contains(talk["the records"], u.Query().Get("state")) {
				t.Error("the state of the sign-in was recorded")
			}
			files, err := filepath.Glob(filepath.Join(v.home, storeFolder, "*"))
			if err != nil {
				t.Fatal(err)
			}
			for _, f := range files {
				info, err := os.Stat(f)
				if err != nil || info.Mode().Perm() != 0o600 && runtime.GOOS != "windows" {
					t.Errorf("%s: %v %v", f, info.Mode(), err)
				}
				if name := filepath.Base(f); strings.HasSuffix(name, "_tokens.json") || strings.HasSuffix(name, "_client_info.json") {
					continue
				}
				data, err := os.ReadFile(f)
				for _, s := range secrets {
					if err != nil || strings.Contains(string(data), s) {
						t.Errorf("%s holds a secret, %v", f, err)
					}
				}
			}
		})
	}
}

// The secrets of other ways in: what a header file and a header command hold, a proxy's password, the address of a session
// on HTTP+SSE. Everything goes wrong that can, and nothing of them is written.
func TestAttackSecretsElsewhere(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("the header command is a shell script")
	}
	for _, kind := range []fakeKind{fakeStreamable, fakeSSE, fakeStateless} {
		t.Run(fmt.Sprint(kind), func(t *testing.T) {
			t.Parallel()
			s := &fakeServer{kind: kind, streams: true, ids: true, endpoint: "/messages?sessionId=%s&key=planted-endpoint"}
			var shown atomic.Int64 // requests that carried all
			front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.Header.Get("X-File") == "planted-file" && r.Header.Get("X-Command") == "planted-command" && r.Header.Get("Proxy-Authorization") != "" {
					shown.Add(1)
				}
				s.ServeHTTP(w, r)
			}))
			s.start(t, onLoopback(t))
			t.Cleanup(func() { front.CloseClientConnections(); front.Close() })
			dir, args := records(t)
			given := t.TempDir()
			for name, text := range map[string]string{"headers": "X-File: planted-file\n", "proxy": "user:planted-password\n", "command": "#!/bin/sh\necho 'X-Command: planted-command'\n"} {
				if err := os.WriteFile(filepath.Join(given, name), []byte(text), 0o700); err != nil {
					t.Fatal(err)
				}
			}
			args = append(args, "http://mcp.example/mcp?key=planted-query", "--allow-http", "--proxy", front.URL, "--proxy-auth-file", filepath.Join(given, "proxy"),
				"--header-file", filepath.Join(given, "headers"), "--header-command", filepath.Join(given, "command"), "--hold-timeout", "1s", "--transport",
				map[bool]string{true: "sse-only", false: "http-only"}[kind == fakeSSE])
			v := attack(t, []string{"PATH=/usr/bin:/bin"}, args...)
			v.hello()
			v.ask("tools/list", "{}")
			for i, f := range []fault{{on: "add", act: true}, {on: "add", answer: answerStatus(500)}, {on: "add", answer: answerStatus(407)}, {on: "add", answer: answerStatus(401)},
				{on: "add", answer: answerStatus(302, "Location", "http://elsewhere.example/planted-location")}, {on: "add", answer: answerWith(400, "text/planted-type", "planted-body")}} {
				s.fail(f)
				v.ask("tools/call", fmt.Sprintf(`{"name":"add","arguments":{"key":"planted-argument-%d"}}`, i))
				s.heal()
			}
			s.restart()
			for range 3 {
				v.ask("tools/list", "{}")
			}
			front.Listener.Close() // the proxy itself is away
			front.CloseClientConnections()
			v.ask("tools/list", "{}")
			v.end()
			if shown.Load() == 0 {
				t.Error("the secrets were not used")
			}
			all := map[string]string{"standard error": v.stderr(), "the records": everything(t, dir), "the store": everything(t, v.home)}
			for where, text := range all {
				for line := range strings.Lines(text) {
					if strings.Contains(strings.ReplaceAll(line, "planted-type", ""), "planted") {
						t.Errorf("%s: %s", where, line)
					}
				}
			}
			for line := range strings.Lines(v.stdout()) {
				if !strings.Contains(line, `"result"`) && strings.Contains(strings.ReplaceAll(line, "planted-type", ""), "planted") {
					t.Errorf("standard output: %s", line)
				}
			}
			if len(all["the records"]) < 500 {
				t.Errorf("hardly anything was recorded:\n%s", all["the records"])
			}
		})
	}
}

// Whatever an authorization server names, the browser gets one argument, an address of the web; and nobody gets
// contacted on this machine's behalf who is not meant to be.
func TestAttackSignIn(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("the browser's stand-in is a shell script named xdg-open")
	}
	secret := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("somebody inside was contacted") }))
	t.Cleanup(secret.Close)
	for name, c := range map[string]struct {
		endpoint string
		opened   bool
	}{
		"in order":      {"", true},
		"query":         {"?x=$(touch owned)`touch owned`;touch owned&y=' \" | > <", true},
		"file":          {"file:///etc/passwd", false},
		"script":        {"javascript:alert(1)", false},
		"handler":       {"ms-msdt:/id", false},
		"flag":          {"--help", false},
		"no host":       {"https:///x", false},
		"plain":         {"http://evil.example/authorize", false},
		"command":       {"$(touch owned)", false},
		"line feed":     {"https://evil.example/\ntouch owned", false},
		"control":       {"https://evil.example/\x1b[2J", false},
		"empty":         {"", true},
		"user":          {"http://localhost@evil.example/", false},
		"data":          {"data:text/html,<script>", false},
		"windows share": {`\\evil.example\share`, false},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			if c.endpoint != "" {
				endpoint := c.endpoint
				if strings.HasPrefix(endpoint, "?") {
					endpoint = w.as.issuer + "/authorize" + endpoint
				}
				w.as.metadata["authorization_endpoint"] = endpoint
			}
			home := t.TempDir()
			log := filepath.Join(home, "opened")
			if out, err := exec.Command("mkfifo", log).CombinedOutput(); err != nil {
				t.Fatalf("%v %s", err, out)
			}
			opened, err := os.OpenFile(log, os.O_RDWR, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer opened.Close()
			script := "#!/bin/sh\nprintf '%s\\n' \"$#\" \"$@\" >" + log + "\n"
			if err := os.WriteFile(filepath.Join(home, "xdg-open"), []byte(script), 0o700); err != nil {
				t.Fatal(err)
			}
			v := attack(t, []string{"PATH=" + home}, w.server.url, fmt.Sprint(freePort(t)))
			v.say(`{"jsonrpc":"2.0","id":1,"method":"initialize","params":` + victimHello + `}`)
			if !c.opened {
				if got := v.answer("1"); !strings.Contains(got, "-31003") {
					t.Errorf("answered %s", got)
				}
			}
			if !c.opened { // what it got, it got before that
				io.WriteString(opened, "nothing\n")
			}
			opened.SetReadDeadline(time.Now().Add(hung))
			data := make([]byte, 4096) // printf writes all at once
			n, _ := opened.Read(data)
			if want := map[bool]string{true: "1\nhttp://127.0.0.1:", false: "nothing\n"}[c.opened]; !strings.HasPrefix(string(data[:n]), want) {
				t.Errorf("the browser got %q\n%s", data[:n], v.stderr())
			}
			if _, err := os.Stat("owned"); err == nil {
				t.Error("a command was run")
			}
		})
	}
	t.Run("metadata that points inside", func(t *testing.T) {
		// The server itself is on this machine here, so that this machine is allowed; the link, and with it
		// the metadata of a cloud, never is.
		for _, inside := range []string{"http://169.254.169.254/latest/", "https://169.254.169.254/", "http://[fe80::1]/", "http://0x7f000001/", "gopher://127.0.0.1/"} {
			w := newWorld(t)
			w.server.metadata = map[string]any{"resource": w.server.url, "authorization_servers": []string{inside}}
			v := attack(t, nil, w.server.url, "--no-browser", fmt.Sprint(freePort(t)))
			if got := v.ask("initialize", victimHello); !strings.Contains(got, "-31003") {
				t.Errorf("%s: answered %s", inside, got)
			}
		}
	})
}

// A server that sends a byte a second holds up itself and nobody else.
func TestAttackSlow(t *testing.T) {
	drip := func(w http.ResponseWriter, r *http.Request, text string) {
		for i := range len(text) {
			if _, err := io.WriteString(w, text[i:i+1]); err != nil {
				return
			}
			w.(http.Flusher).Flush()
			select {
			case <-time.After(time.Second):
			case <-r.Context().Done():
				return
			}
		}
	}
	for _, kind := range []string{jsonType, eventStream} {
		t.Run(kind, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := newMemNet()
				memServe(t, n, "mcp.test:80", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					body, _ := io.ReadAll(r.Body)
					m, _ := scan(body)
					w.Header().Set("Content-Type", jsonType)
					switch {
					case m.method == "initialize":
						w.Header().Set("Mcp-Session-Id", "s")
						fmt.Fprintf(w, `{"jsonrpc":"2.0","id":%s,"result":{"protocolVersion":"2025-11-25","capabilities":{},"serverInfo":{"name":"h","version":"1"}}}`, m.id)
					case r.Method == http.MethodGet:
						w.WriteHeader(http.StatusMethodNotAllowed)
					case m.method == "tools/call":
						w.Header().Set("Content-Type", kind)
						text := fmt.Sprintf(okResult, m.id)
						if kind == eventStream {
							text = "data: " + text + "\n\n"
						}
						drip(w, r, text)
					case m.kind == request:
						fmt.Fprintf(w, okResult, m.id)
					default:
						w.WriteHeader(http.StatusAccepted)
					}
				}))
				h := newQuietHost(t, n, testOptions())
				h.hello()
				h.say(`{"jsonrpc":"2.0","id":"slow","method":"tools/call","params":{"name":"x"}}`)
				begun := time.Now()
				for i := range 10 {
					h.say(fmt.Sprintf(`{"jsonrpc":"2.0","id":"q%d","method":"tools/list"}`, i))
					h.answer(fmt.Sprintf(`"q%d"`, i), time.Second)
					time.Sleep(time.Second)
				}
				if got := h.answer(`"slow"`, 2*time.Minute); !strings.Contains(got, `"result"`) {
					t.Errorf("the slow one is answered %s after %v", got, time.Since(begun))
				}
			})
		})
	}
	t.Run("HTTP+SSE", func(t *testing.T) { // the one stream is slow, but alive, though a ping waits behind what comes
		synctest.Test(t, func(t *testing.T) {
			n := newMemNet()
			s := &fakeServer{kind: fakeSSE}
			s.start(t, n.listen("unused:80"))
			var on, sent atomic.Bool
			memServe(t, n, "mcp.test:80", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				s.ServeHTTP(&dripper{w, r, on.Load, &sent, time.Second}, r)
			}))
			h := newQuietHost(t, n, testOptions())
			h.hello()
			h.list() // so that the server is known to answer at once
			time.Sleep(10 * time.Second)
			id := h.call("slow", `"key":"k","ms":5000`)
			time.Sleep(2 * time.Second)
			h.list()
			on.Store(true)
			if got := h.answer(id, 10*time.Minute); !strings.Contains(got, `"result"`) {
				t.Errorf("the slow one is answered %s", got)
			}
			on.Store(false)
		})
	})
	t.Run("metadata", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w := newMemWorld(t)
			w.as.always[w.as.wellKnown] = func(rw http.ResponseWriter, r *http.Request) { drip(rw, r, strings.Repeat(" ", 1<<20)) }
			a := w.instance(nil)
			begun := time.Now()
			err := a.signIn(t.Context(), "", http.StatusUnauthorized, func(string) {})
			if took := time.Since(begun); err == nil || took > 2*signInLimit {
				t.Errorf("%v after %v", err, took)
			}
		})
	})
}

// A server cannot put a client to sleep: however long it says to wait, a call has its answer when holding it has
// no more sense.
func TestAttackRetry(t *testing.T) {
	for name, answer := range map[string]func(w http.ResponseWriter, id string){
		"Retry-After": func(w http.ResponseWriter, id string) {
			w.Header().Set("Retry-After", strings.Repeat("9", 300))
			w.WriteHeader(http.StatusServiceUnavailable)
		},
		"retry": func(w http.ResponseWriter, id string) {
			w.Header().Set("Content-Type", eventStream)
			fmt.Fprintf(w, "retry: %s\nid: 1\ndata:\n\n", strings.Repeat("9", 300))
		},
		"retry 0": func(w http.ResponseWriter, id string) {
			w.Header().Set("Content-Type", eventStream)
			io.WriteString(w, "retry: 0\nid: 1\ndata:\n\n")
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				asked := 0
				var mu sync.Mutex
				n := newMemNet()
				memServe(t, n, "mcp.test:80", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					body, _ := io.ReadAll(r.Body)
					m, _ := scan(body)
					switch {
					case m.method == "initialize":
						w.Header().Set("Mcp-Session-Id", "s")
						w.Header().Set("Content-Type", jsonType)
						fmt.Fprintf(w, `{"jsonrpc":"2.0","id":%s,"result":{"protocolVersion":"2025-11-25","capabilities":{},"serverInfo":{"name":"h","version":"1"}}}`, m.id)
					case r.Method == http.MethodGet && r.Header.Get("Last-Event-ID") == "":
						w.WriteHeader(http.StatusMethodNotAllowed)
					case m.kind == notification:
						w.WriteHeader(http.StatusAccepted)
					default:
						mu.Lock()
						asked++
						mu.Unlock()
						answer(w, m.id)
					}
				}))
				h := newQuietHost(t, n, testOptions())
				h.hello()
				begun := time.Now()
				h.say(`{"jsonrpc":"2.0","id":"q","method":"tools/call","params":{"name":"x"}}`)
				got := h.answer(`"q"`, 10*time.Minute)
				mu.Lock()
				defer mu.Unlock()
				if !strings.Contains(got, `"error"`) || time.Since(begun) > 3*time.Minute || asked > 50 {
					t.Errorf("after %v and %d requests: %s", time.Since(begun), asked, got)
				}
			})
		})
	}
}
