package main

// differential_test.go starts the real npm package mcp-remote and the bridge with the same arguments, one after
// the other, against the same recording servers, and compares what arrives there and what the client is told.
// What may differ is on a list that says why; anything else that differs is a bug in one of them.

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// A crossing is an MCP server and an authorization server that both programs are run against.
type crossing struct {
	t      *testing.T
	server *fakeServer
	front  *httptest.Server // before the MCP server
	mcp    string           // its origin
	back   *httptest.Server // the authorization server
	as     *fakeAS
	locked bool // the MCP server wants a token
	cookie bool // it sets one

	mu   sync.Mutex
	seen []crossed
	runs int
}

// A crossed request is one that arrived.
type crossed struct {
	at     string // "mcp" or "as"
	method string
	url    *url.URL
	header http.Header
	body   []byte
}

func newCrossing(t *testing.T) *crossing {
	x := &crossing{t: t, server: &fakeServer{streams: true}, front: httptest.NewUnstartedServer(nil), back: httptest.NewUnstartedServer(nil)}
	x.mcp = "http://" + x.front.Listener.Addr().String()
	x.as = newFakeAS("http://" + x.back.Listener.Addr().String() + "/tenant")
	x.front.Config.Handler, x.back.Config.Handler = x.record("mcp", http.HandlerFunc(x.guard)), x.record("as", x.as)
	return x
}

func (x *crossing) start() {
	l, err := net.Listen("tcp", "127.0.0.1:0") // not used: requests come through guard
	if err != nil {
		x.t.Fatal(err)
	}
	x.server.start(x.t, l)
	for _, s := range []*httptest.Server{x.front, x.back} {
		s.Start()
		x.t.Cleanup(func() { s.CloseClientConnections(); s.Close() })
	}
}

func (x *crossing) record(at string, h http.Handler) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		r.Body = io.NopCloser(bytes.NewReader(body))
		x.mu.Lock()
		x.seen = append(x.seen, crossed{at, r.Method, r.URL, r.Header.Clone(), body})
		x.mu.Unlock()
		h.ServeHTTP(w, r)
	}
}

// guard stands in front of the MCP server.
func (x *crossing) guard(w http.ResponseWriter, r *http.Request) {
	const metadata = "/.well-known/oauth-protected-resource/mcp"
	if x.locked && r.URL.Path == metadata {
		writeJSON(w, http.StatusOK, map[string]any{"resource": x.mcp + "/mcp", "authorization_servers": []string{x.as.issuer}})
		return
	}
	if strings.HasPrefix(r.URL.Path, "/.well-known/") {
		http.NotFound(w, r)
		return
	}
	if x.locked && x.as.valid(strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")) == nil {
		w.Header().Set("WWW-Authenticate", `Bearer resource_metadata="`+x.mcp+metadata+`"`)
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	if x.cookie {
		http.SetCookie(w, &http.Cookie{Name: "route", Value: "7", Path: "/"})
	}
	x.server.ServeHTTP(w, r)
}

// A talk is one run of one program.
type talk struct {
	facts   []string          // about what arrived, sorted, each once
	answers map[string]string // by id, in one spelling
	ran     int               // executions of the tool that counts
	stderr  string
	code    int
}

var anyAddress = regexp.MustCompile(`https?://[^\s"']+`)

// run starts a program with the client's lines; each waits for the answer to the one before.
func (x *crossing) run(argv, env []string) talk {
	x.t.Helper()
	x.mu.Lock()
	x.seen = nil
	x.mu.Unlock()
	x.runs++
	key := fmt.Sprintf("key-%d", x.runs)
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Env = append(slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.Contains(strings.ToLower(v), "proxy=") }), env...)
	cmd.Env = append(cmd.Env, "PATH="+x.t.TempDir()) // where no browser is found
	cmd.WaitDelay = 5 * time.Second
	in, err := cmd.StdinPipe()
	if err != nil {
		x.t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		x.t.Fatal(err)
	}
	errs, err := cmd.StderrPipe()
	if err != nil {
		x.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		x.t.Fatal(err)
	}
	hang := time.AfterFunc(90*time.Second, func() { cmd.Process.Kill() }) // ends a hang, decides nothing else
	defer hang.Stop()
	var wg sync.WaitGroup
	var talked strings.Builder
	wg.Go(func() {
		opened := false
		for s := bufio.NewScanner(errs); s.Scan(); {
			talked.WriteString(s.Text() + "\n")
			for _, a := range anyAddress.FindAllString(s.Text(), -1) {
				if opened || !strings.Contains(a, "code_challenge=") {
					continue
				}
				opened = true
				wg.Go(func() { // the person's browser
					if resp, err := http.Get(a); err == nil {
						io.Copy(io.Discard, resp.Body)
						resp.Body.Close()
					}
				})
			}
		}
	})
	k := talk{answers: map[string]string{}}
	answers := bufio.NewScanner(out)
	answers.Buffer(nil, 1<<20)
	for _, line := range crossLines() {
		if _, err := io.WriteString(in, strings.ReplaceAll(line, "KEY", key)+"\n"); err != nil {
			break
		}
		var sent struct{ ID any }
		json.Unmarshal([]byte(line), &sent)
		for sent.ID != nil && answers.Scan() {
			var got map[string]any
			if err := json.Unmarshal(answers.Bytes(), &got); err != nil {
				x.t.Errorf("%s wrote %q", argv[0], answers.Text())
			}
			if id, ok := got["id"]; ok && got["method"] == nil {
				k.answers[fmt.Sprint(id)] = x.spell(answers.Bytes())
				if id == sent.ID {
					break
				}
			}
		}
	}
	in.Close()
	for answers.Scan() {
	}
	wg.Wait()
	cmd.Wait()
	k.stderr, k.code, k.ran = talked.String(), cmd.ProcessState.ExitCode(), x.server.runs(key)
	x.mu.Lock()
	defer x.mu.Unlock()
	k.facts = x.facts()
	return k
}

var changing = regexp.MustCompile(`(session|client|key|planted-[a-z]+)-[0-9]+(-[0-9a-f]+)?`)

// spell gives a text without what is different in each run; JSON in one spelling.
func (x *crossing) spell(text []byte) string {
	var v any
	if json.Unmarshal(text, &v) == nil {
		text, _ = json.Marshal(v)
	}
	s := strings.NewReplacer(x.mcp, "MCP", strings.TrimSuffix(x.as.issuer, "/tenant"), "AS", `\u003c`, "<", `\u003e`, ">", `\u0026`, "&").Replace(string(text))
	return changing.ReplaceAllString(s, "$1")
}

// facts are what can be said of the requests: that they came, their headers, parameters and bodies. The session
// that mcp-remote opens before it opens the client's own is left out.
func (x *crossing) facts() []string {
	session := func(r crossed) string { return r.header.Get("Mcp-Session-Id") + r.url.Query().Get("sessionId") }
	own := ""
	for _, r := range x.seen {
		if bytes.Contains(r.body, []byte(`"tools/list"`)) {
			own = session(r)
		}
	}
	var all []string
	for _, r := range x.seen {
		if bytes.Contains(r.body, []byte("mcp-remote-fallback-test")) || session(r) != "" && session(r) != own {
			continue
		}
		what := r.at + " " + r.method + " " + x.spell([]byte(r.url.Path))
		all = append(all, what)
		var rpc struct{ Method string }
		json.Unmarshal(r.body, &rpc)
		form, err := url.ParseQuery(string(r.body))
		switch {
		case rpc.Method != "":
			what += " " + rpc.Method
			all = append(all, what+" body "+x.spell(r.body))
		case len(r.body) > 0 && r.header.Get("Content-Type") == "application/x-www-form-urlencoded" && err == nil:
			all = append(all, x.parameters(what, form)...)
		case len(r.body) > 0:
			all = append(all, what+" body "+x.spell(r.body))
		}
		all = append(all, x.parameters(what, r.url.Query())...)
		if strings.HasSuffix(r.url.Path, "/authorize") {
			continue // the headers are the browser's
		}
		for name, values := range r.header {
			if name != "Content-Length" {
				all = append(all, what+" header "+name+": "+x.spell([]byte(strings.Join(values, ", "))))
			}
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}

func (x *crossing) parameters(what string, q url.Values) (all []string) {
	for name, values := range q {
		value := strings.Join(values, ", ")
		if slices.Contains([]string{"state", "code_challenge", "code_verifier"}, name) {
			value = "#"
		}
		all = append(all, what+" "+name+"="+x.spell([]byte(value)))
	}
	return all
}

// A crossCase is what both programs are started with.
type crossCase struct {
	name   string
	args   []string // after the URL; "BEFORE" in front puts the URL behind them, PORT, FILE and AS are replaced
	path   string   // of the URL; "" is /mcp
	setup  func(x *crossing)
	stored bool     // a token lies in the folder, under the identity of URL and args
	share  bool     // each program is then run again with the other's store
	differ []string // ids of calls whose errors are worded in their own way
}

// crossLines are what the client says.
func crossLines() []string {
	return []string{
		`{"jsonrpc":"2.0","id":"c-1","method":"initialize","params":{"protocolVersion":"2025-06-18","capabilities":{"roots":{}},"clientInfo":{"name":"client","version":"1"}}}`,
		`{"jsonrpc":"2.0","method":"notifications/initialized"}`,
		`{"jsonrpc":"2.0","id":2,"method":"tools/list","params":{"_meta":{"x":[1.0,"\u00e9"]}}}`,
		`{"jsonrpc":"2.0","id":"c-3","method":"tools/call","params":{"name":"echo","arguments":{"text":"hé","key":"KEY"}}}`,
		`{"jsonrpc":"2.0","id":4,"method":"tools/call","params":{"name":"add","arguments":{"key":"KEY"}}}`,
	}
}

func crossCases() []crossCase {
	locked := func(x *crossing) { x.locked = true }
	static := func(x *crossing) {
		x.locked = true
		x.as.clients["static"] = map[string]any{"client_secret": "static-secret", "token_endpoint_auth_method": "client_secret_post"}
		x.as.metadata["token_endpoint_auth_methods_supported"] = []string{"client_secret_post"}
	}
	const info = `{"client_id":"static","client_secret":"${SECRET}"}`
	return []crossCase{
		{name: "plain"},
		{name: "headers", args: []string{"--header", "X-A:${VAR}", "--header", "X-B: two  words", "--header-file", "FILE", "--header", "Authorization: Bearer ${VAR}"}},
		{name: "flags before the URL", args: []string{"BEFORE", "--header", "X-A: ${VAR}"}},
		{name: "sse-only", args: []string{"--transport", "sse-only"}, path: "/sse", setup: func(x *crossing) { x.server.kind = fakeSSE }},
		{name: "an SSE server, http-first", path: "/sse", setup: func(x *crossing) { x.server.kind = fakeSSE }},
		{name: "http-only", args: []string{"--transport", "http-only", "--silent"}},
		{name: "JSON answers, no stream", setup: func(x *crossing) { x.server.streams, x.server.noStream = false, true }},
		{name: "no session", setup: func(x *crossing) { x.server.sessionless = true }},
		{name: "ignored tools", args: []string{"--ignore-tool", "ADD", "--ignore-tool", "*o*"}, differ: []string{"c-3", "4"}},
		{name: "cookies", setup: func(x *crossing) { x.cookie = true }},
		{name: "no cookies", args: []string{"--disable-cookies"}, setup: func(x *crossing) { x.cookie = true }},
		{name: "stored token", setup: locked, stored: true},
		{name: "stored token, headers", args: []string{"--header", "X-A: ${VAR}", "--header", "x-b:1"}, setup: locked, stored: true},
		{name: "stored token, resource and parameters", args: []string{"--resource", "urn:example:a", "--authorize-param", "b=2", "--authorize-param", "a=<1>&é"}, setup: locked, stored: true},
		{name: "signing in", setup: locked, share: true},
		{name: "signing in, all said", args: []string{"PORT", "--host", "127.0.0.1", "--callback-path", "/cb", "--resource", "urn:example:a", "--authorize-param", "audience=b c",
			"--static-oauth-client-metadata", `{"scope":"read write"}`, "--auth-timeout", "5", "--header", "X-A: ${VAR}"}, setup: locked, share: true},
		{name: "signing in, no resource", args: []string{"--disable-resource-parameter"}, setup: locked},
		{name: "static client", args: []string{"--static-oauth-client-info", info}, setup: static},
		{name: "client credentials", args: []string{"--client-credentials", "--static-oauth-client-info", info}, setup: static},
		{name: "client credentials, token endpoint", args: []string{"--client-credentials", "--static-oauth-client-info", info, "--token-endpoint", "AS/token"}, setup: func(x *crossing) {
			static(x)
			x.as.clients["static"]["token_endpoint_auth_method"] = "client_secret_basic"
		}},
		{name: "device code", args: []string{"--device-code"}, setup: locked},
	}
}

// A difference is one that is meant: in whose facts alone it stands, and why.
type difference struct {
	only string // "remote" or "ours"
	fact string // a regular expression
	why  string
}

func differences() []difference {
	return []difference{
		{"remote", `^mcp GET /\S+( header Accept: application/json, text/event-stream)?$`, "it probes the server before anybody has asked: our probe is the client's own initialize"},
		{"remote", `^mcp GET /(\S+/)?\.well-known/`, "it looks for an authorization server where nobody has asked for a token"},
		{"remote", ` header (User-Agent|Accept-Encoding|Accept-Language|Sec-Fetch-Mode|Connection): `, "what the fetch of Node adds; we do not ask for compression"},
		{"ours", ` header User-Agent: mcp-redial/`, "our name"},
		{"remote", `^mcp GET /sse header (Cache-Control|Pragma): no-cache$`, "what its EventSource adds"},
		{"remote", `^mcp POST /messages \S+ header (Accept: \*/\*|Mcp-Protocol-Version: 2024-11-05)$`, "2024-11-05 asks for neither header"},
		{"ours", `^mcp POST /messages \S+ header Accept: application/json, text/event-stream$`, "the same headers on every POST"},
		{"ours", `^mcp POST /sse( initialize .*)?$`, "the client's own initialize finds out what the server speaks; there it is a session thrown away"},
		{"remote", ` notifications/initialized header Mcp-Protocol-Version: 2025-11-25$`, "the session thrown away, where the server gives no id to know it by"},
		{"remote", `^mcp POST /mcp initialize header Cookie: route=7$`, "its probes got the cookie"},
		{"remote", `^as GET /.well-known/oauth-authorization-server/tenant( header Accept: application/json)?$`, "it looks for the authorization server at every start, also with a token"},
		{"remote", `^mcp POST \S+ \S+ header Mcp-(Method|Name): `, "headers of the revision 2026-07-28, which the other revisions do not know"},
		{"remote", ` body .*"client \(via mcp-remote 0\.15\.1\)"`, "clientInfo is rewritten there; here it passes untouched"},
		{"ours", ` body .*"clientInfo":\{"name":"client",`, "clientInfo is rewritten there; here it passes untouched"},
		{"ours", `^mcp DELETE `, "we end the session"},
		{"remote", `^(as|mcp) \S+ \S+ header (X-A|X-B): `, "it sends added headers to authorization servers and metadata, too: they are for the MCP server"},
		{"remote", `^(as|mcp) \S+ \S+ header Mcp-Protocol-Version: `, "authorization has no use for the protocol's version"},
		{"remote", `^as \S+ \S+ header Accept: \*/\*`, "we say that we want JSON"},
		{"ours", `^as \S+ \S+ header Accept: application/json`, "we say that we want JSON"},
		{"remote", ` (scope=openid email profile|body .*"scope":"openid email profile".*)$`, "where nobody names a scope it asks for three of OpenID Connect; the specification says to leave it out"},
		{"remote", `^as POST /tenant/register body `, "it registers under its own name"},
		{"ours", `^as POST /tenant/register body `, "we register under our own name"},
	}
}

// arguments are the URL and the case's.
func (x *crossing) arguments(c crossCase) []string {
	path := c.path
	if path == "" {
		path = "/mcp"
	}
	args := []string{x.mcp + path}
	for _, a := range c.args {
		switch {
		case a == "PORT":
			a = fmt.Sprint(freePort(x.t))
		case a == "FILE":
			a = writeFile(x.t, "headers", "# a comment\n\nX-File: ${VAR}\r\n")
		case strings.HasPrefix(a, "AS/"):
			a = x.as.issuer + strings.TrimPrefix(a, "AS")
		}
		args = append(args, a)
	}
	if len(c.args) > 0 && c.args[0] == "BEFORE" {
		return append(args[2:], args[0])
	}
	return args
}

// environment has a store of its own, which holds a token if the case says so.
func (x *crossing) environment(c crossCase, args []string) []string {
	dir := x.t.TempDir()
	env := map[string]string{"MCP_REMOTE_CONFIG_DIR": dir, "VAR": "value", "SECRET": "static-secret"}
	if c.stored {
		m := bareMachine(x.t)
		m.getenv = variables(env)
		parsed, err := parse(args, m)
		if err != nil {
			x.t.Fatal(err)
		}
		a := parsed.auth
		name := identityHash(a.serverURL, a.resource, a.authorizeParams, a.headers, a.metadataURL, a.tokenEndpoint) + "_tokens.json"
		x.as.mu.Lock()
		x.as.tokens["stored-token"] = &fakeToken{issued: time.Now()}
		x.as.mu.Unlock()
		if err := os.Mkdir(filepath.Join(dir, storeFolder), 0o700); err != nil {
			x.t.Fatal(err)
		}
		text := fmt.Sprintf(`{"access_token":"stored-token","token_type":"Bearer","expires_in":3600,"expires_at":%d}`, time.Now().Add(time.Hour).UnixMilli())
		if err := os.WriteFile(filepath.Join(dir, storeFolder, name), []byte(text), 0o600); err != nil {
			x.t.Fatal(err)
		}
	}
	var list []string
	for name, value := range env {
		list = append(list, name+"="+value)
	}
	return list
}

func TestE2EDifferential(t *testing.T) {
	dir := needNode(t)
	node, err := exec.LookPath("node")
	if err != nil {
		t.Fatal(err)
	}
	remote, ours := []string{node, filepath.Join(dir, "node_modules", "mcp-remote", "dist", "proxy.js")}, []string{builtBridge(t)}
	meant, met := differences(), map[int]bool{}
	for _, c := range crossCases() {
		t.Run(c.name, func(t *testing.T) {
			x := newCrossing(t)
			if c.setup != nil {
				c.setup(x)
			}
			x.start()
			args := x.arguments(c)
			remoteStore, ourStore := x.environment(c, args), x.environment(c, args)
			a, b := x.run(slices.Concat(remote, args), remoteStore), x.run(slices.Concat(ours, args), ourStore)
			for _, fact := range slices.Concat(a.facts, b.facts) {
				only := "remote"
				if !slices.Contains(a.facts, fact) {
					only = "ours"
				} else if slices.Contains(b.facts, fact) {
					continue
				}
				at := slices.IndexFunc(meant, func(m difference) bool { return m.only == only && regexp.MustCompile(m.fact).MatchString(fact) })
				if met[at] = true; at < 0 {
					t.Errorf("%s: %s", only, fact)
				}
			}
			for id, want := range a.answers {
				if got := b.answers[id]; slices.Contains(c.differ, id) {
					if !strings.Contains(want, `"error"`) || !strings.Contains(got, `"error"`) {
						t.Errorf("the answers to %s are not both errors:\nremote %s\nours   %s", id, want, got)
					}
				} else if got != want {
					t.Errorf("the answer to %s differs:\nremote %s\nours   %s", id, want, got)
				}
			}
			if len(a.answers) != 4 || len(b.answers) != 4 || a.code != 0 || b.code != 0 || a.ran != b.ran {
				t.Errorf("answers %d and %d, exit codes %d and %d, tools run %d and %d", len(a.answers), len(b.answers), a.code, b.code, a.ran, b.ran)
			}
			if c.share {
				for _, k := range []talk{x.run(slices.Concat(remote, args), ourStore), x.run(slices.Concat(ours, args), remoteStore)} {
					if len(k.answers) != 4 || slices.ContainsFunc(k.facts, func(f string) bool { return strings.Contains(f, "/tenant/authorize") }) {
						t.Errorf("a sign-in of the other program was not found:\n%s\n%s", strings.Join(k.facts, "\n"), k.stderr)
					}
				}
			}
			if t.Failed() {
				t.Logf("remote:\n%s\nours:\n%s", a.stderr, b.stderr)
			}
		})
	}
	for i, m := range meant {
		if !met[i] && !t.Failed() {
			t.Errorf("the difference %q of %s does not exist", m.fact, m.only)
		}
	}
}

// TestE2EDifferentialExits compares how both end when nothing can be started. Codes differ on purpose: mistakes
// in the arguments are 2 here and 1 there.
func TestE2EDifferentialExits(t *testing.T) {
	dir := needNode(t)
	ours, remote := builtBridge(t), filepath.Join(dir, "node_modules", "mcp-remote", "dist", "proxy.js")
	absent := filepath.Join(t.TempDir(), "none")
	for _, c := range []struct {
		args string
		code int // 0, or 2 which is 1 there
	}{
		{"--help", 0}, {"-h", 0}, {"https://mcp.example.com/mcp --help", 0}, {"--version", 0},
		{"", 2}, {"http://mcp.example.com/mcp", 2}, {"not-a-url", 2},
		{"https://mcp.example.com/mcp --header-file " + absent, 2},
		{"https://mcp.example.com/mcp --authorize-param nothing", 2}, {"https://mcp.example.com/mcp --authorize-param state=x", 2},
		{"https://mcp.example.com/mcp --resource relative", 2}, {"https://mcp.example.com/mcp --token-endpoint https://as.example.com/token", 2},
		{"https://mcp.example.com/mcp --client-credentials --token-endpoint http://as.example.com/token", 2},
		{"https://mcp.example.com/mcp --auth-success-url https://example.com/?x", 2}, {"https://mcp.example.com/mcp --auth-success-url", 2},
		{"https://mcp.example.com/mcp --static-oauth-client-info {", 2}, {"https://mcp.example.com/mcp --static-oauth-client-metadata @" + absent, 2},
	} {
		for _, argv := range [][]string{{"node", remote}, {ours}} {
			cmd := exec.Command(argv[0], append(argv[1:], strings.Fields(c.args)...)...)
			cmd.Env = append(os.Environ(), "MCP_REMOTE_CONFIG_DIR="+t.TempDir())
			var out, errs bytes.Buffer
			cmd.Stdout, cmd.Stderr = &out, &errs
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			hang := time.AfterFunc(time.Minute, func() { cmd.Process.Kill() }) // ends a hang, decides nothing else
			cmd.Wait()
			hang.Stop()
			want := c.code
			if want == 2 && argv[0] == "node" {
				want = 1
			}
			if got := cmd.ProcessState.ExitCode(); got != want || (want == 0) != (out.Len() > 0) {
				t.Errorf("%s %s: exit code %d, want %d; stdout %q, stderr %q", filepath.Base(argv[0]), c.args, got, want, out.String(), errs.String())
			}
		}
	}
}
