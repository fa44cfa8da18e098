package main

// e2e_front_test.go puts the bridge, which speaks stdio, behind HTTP again, so that the conformance suite's server side
// can look through it at a real server. The front does what belongs to HTTP alone: sessions, streams and statuses.
// Everything else comes from the server, by way of the bridge.

import (
	"bufio"
	"bytes"
	"cmp"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// A front is an HTTP server whose every session is a bridge of its own; 2026-07-28 has one for all.
type front struct {
	t          *testing.T
	bridge     string
	target     string
	mu         sync.Mutex
	lines      map[string]*frontLine // by session; "" is that of 2026-07-28
	lastNumber int
}

// A frontLine is one bridge.
type frontLine struct {
	modern bool
	cmd    *exec.Cmd
	in     io.WriteCloser
	ended  chan struct{}

	mu   sync.Mutex
	open []*frontPost // POSTs whose answer is to come
	get  chan []byte  // the stream of GET; nil if there is none
}

// A frontPost is one request on its way.
type frontPost struct {
	id, as   string // the suite's id, and the one it has on the line
	token    string
	listen   bool
	messages chan []byte // closed after the response
}

func newFront(t *testing.T, bridge, target string) *httptest.Server {
	f := &front{t: t, bridge: bridge, target: target, lines: map[string]*frontLine{}}
	srv := httptest.NewServer(f)
	t.Cleanup(func() {
		f.mu.Lock()
		for _, l := range f.lines {
			l.in.Close()
			<-l.ended
		}
		f.mu.Unlock()
		srv.Close()
	})
	return srv
}

// start runs a bridge; the front's lock is held.
func (f *front) start(modern bool) *frontLine {
	args := []string{f.target, "--silent"}
	if modern {
		args = append(args, "--protocol", "modern")
	}
	l := &frontLine{modern: modern, cmd: exec.Command(f.bridge, args...), ended: make(chan struct{})}
	l.cmd.Env = append(l.cmd.Environ(), "MCP_REMOTE_CONFIG_DIR="+f.t.TempDir())
	var err error
	if l.in, err = l.cmd.StdinPipe(); err != nil {
		panic(err)
	}
	out, err := l.cmd.StdoutPipe()
	if err != nil {
		panic(err)
	}
	if err := l.cmd.Start(); err != nil {
		panic(err)
	}
	go func() {
		defer close(l.ended)
		r := bufio.NewReader(out)
		for {
			line, err := r.ReadBytes('\n')
			if err != nil {
				break
			}
			l.deliver(bytes.TrimSpace(line))
		}
		l.cmd.Wait()
	}()
	return l
}

// deliver gives a line of the bridge to the stream that it belongs to. What does not say so goes, as a server's own
// requests do, with the newest request.
func (l *frontLine) deliver(line []byte) {
	m, err := scan(line)
	if err != nil {
		panic(fmt.Sprintf("%v: %s", err, line))
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	token := string(peek(m.raw, "params", "progressToken"))
	root := "params"
	if m.kind == response {
		root = "result"
	}
	sub := string(peek(m.raw, root, "_meta", metaSubscription))
	var to *frontPost
	for _, p := range l.open {
		switch {
		case m.kind == response && p.as == m.id, token != "" && p.token == token, sub != "" && p.as == sub:
			to = p
		case m.kind != response && token == "" && sub == "" && !p.listen && (to == nil || to.listen):
			to = p
		}
	}
	switch {
	case to == nil && l.get != nil:
		l.get <- m.raw
		return
	case to == nil:
		return
	}
	raw := m.raw
	if sub != "" {
		raw = set(raw, []byte(to.id), root, "_meta", metaSubscription)
	}
	if m.kind == response {
		raw = set(raw, []byte(to.id), "id")
	}
	to.messages <- raw
	if m.kind == response {
		l.drop(to)
	}
}

// drop forgets p; the line's lock is held.
func (l *frontLine) drop(p *frontPost) {
	if i := slices.Index(l.open, p); i >= 0 {
		l.open = slices.Delete(l.open, i, i+1)
		close(p.messages)
	}
}

func (l *frontLine) write(raw []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.in.Write(append(slices.Clip(raw), '\n'))
}

func (f *front) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	session := r.Header.Get("Mcp-Session-Id")
	ms, err := scanBody(body)
	refuse := func(status, code int, id, text string) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		fmt.Fprintf(w, `{"jsonrpc":"2.0","id":%s,"error":{"code":%d,"message":%q}}`, cmp.Or(id, "null"), code, text)
	}
	if r.Method == http.MethodPost && (err != nil || len(ms) != 1) {
		refuse(400, -32700, "", "not one message")
		return
	}
	f.mu.Lock()
	line := f.lines[session]
	var m message
	if len(ms) == 1 {
		m = ms[0]
	}
	named := r.Header.Get("Mcp-Protocol-Version")
	said, claims := unquote(peek(m.raw, "params", "_meta", metaVersion))
	switch modern := named >= modernVersion || claims || r.Header.Get("Mcp-Method") != ""; {
	case r.Method == http.MethodPost && modern && session == "":
		if claims && named != said { // stdio has no headers, so nobody else can see this
			f.mu.Unlock()
			refuse(400, -32020, m.id, "MCP-Protocol-Version is not the version in the body")
			return
		}
		if line == nil {
			line = f.start(true)
			f.lines[""] = line
		}
	case r.Method == http.MethodPost && session == "" && m.method == "initialize":
		f.lastNumber++
		session = "session-" + strconv.Itoa(f.lastNumber)
		line = f.start(false)
		f.lines[session] = line
		w.Header().Set("Mcp-Session-Id", session)
	case session == "":
		f.mu.Unlock()
		refuse(400, -32000, "", "no session")
		return
	}
	if r.Method == http.MethodDelete {
		delete(f.lines, session)
	}
	f.lastNumber++
	number := strconv.Itoa(f.lastNumber)
	f.mu.Unlock()
	switch {
	case line == nil:
		refuse(404, -32001, "", "unknown session")
	case r.Method == http.MethodGet:
		line.stream(w, r)
	case r.Method == http.MethodDelete:
		line.in.Close()
		<-line.ended
	case m.kind != request:
		line.write(m.raw)
		w.WriteHeader(http.StatusAccepted)
	default:
		line.carry(w, r, m, number)
	}
}

// carry writes a request to the bridge and what comes back to the client.
func (l *frontLine) carry(w http.ResponseWriter, r *http.Request, m message, number string) {
	p := &frontPost{id: m.id, as: m.id, token: string(peek(m.raw, "params", "_meta", "progressToken")),
		listen: m.method == "subscriptions/listen", messages: make(chan []byte, 1000)}
	if l.modern { // several of the suite's clients share the line
		p.as = number
		m = parsedRaw(set(m.raw, []byte(number), "id"))
	}
	l.mu.Lock()
	l.open = append(l.open, p)
	l.mu.Unlock()
	l.write(m.raw)
	streaming := false
	for {
		select {
		case raw, ok := <-p.messages:
			if !ok {
				return
			}
			answer := parsedRaw(raw)
			if !streaming && answer.kind == response {
				w.Header().Set("Content-Type", "application/json")
				w.WriteHeader(l.status(answer))
				w.Write(raw)
				continue
			}
			if !streaming {
				w.Header().Set("Content-Type", "text/event-stream")
				streaming = true
			}
			fmt.Fprintf(w, "data: %s\n\n", raw)
			w.(http.Flusher).Flush()
		case <-r.Context().Done():
			if l.modern { // leaving is cancelling
				l.write([]byte(`{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":` + p.as + `}}`))
			}
			l.mu.Lock()
			l.drop(p)
			l.mu.Unlock()
			return
		}
	}
}

// status is what 2026-07-28 says with an error besides its code (streamable-http, Server Validation).
func (l *frontLine) status(answer message) int {
	if code := string(peek(answer.raw, "error", "code")); l.modern && answer.failed {
		switch code {
		case "-32601":
			return http.StatusNotFound
		case "-32020", "-32021", "-32022", "-32602":
			return http.StatusBadRequest
		}
	}
	return http.StatusOK
}

// stream is GET: what belongs to no request.
func (l *frontLine) stream(w http.ResponseWriter, r *http.Request) {
	l.mu.Lock()
	l.get = make(chan []byte, 1000)
	get := l.get
	l.mu.Unlock()
	w.Header().Set("Content-Type", "text/event-stream")
	w.(http.Flusher).Flush()
	for {
		select {
		case raw := <-get:
			fmt.Fprintf(w, "data: %s\n\n", raw)
			w.(http.Flusher).Flush()
		case <-r.Context().Done():
			return
		}
	}
}

// parsedRaw is a message that was valid before.
func parsedRaw(raw []byte) message {
	m, err := scan(raw)
	if err != nil {
		panic(err)
	}
	return m
}

// TestE2EPassThrough compares what the suite says of a server with what it says of the same server behind the bridge.
func TestE2EPassThrough(t *testing.T) {
	s := newSuite(t)
	bridge := builtBridge(t)
	server := exec.Command(s.node, filepath.Join(s.run, "suite-server.mjs"))
	out, err := server.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.Process.Kill(); server.Wait() })
	port, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatalf("the server did not start: %v", err)
	}
	direct := "http://127.0.0.1:" + strings.TrimSpace(port) + "/mcp"
	for _, version := range []string{"2025-11-25", "2026-07-28"} {
		t.Run(version, func(t *testing.T) {
			verdicts := func(url string) (map[string][]string, int) {
				begun := time.Now()
				checks, output, _ := s.play(t, nil, "server", "--url", url, "--suite", "all", "--spec-version", version)
				said, passed := map[string][]string{}, 0
				for _, c := range checks {
					if frontsOwn(c.scenario) {
						continue
					}
					if c.Status == "SUCCESS" {
						passed++
					}
					said[c.scenario] = append(said[c.scenario], c.ID+" "+c.Status+" "+c.ErrorMessage)
				}
				if passed == 0 {
					t.Fatal(output)
				}
				t.Logf("%d checks of %d scenarios passed in %v", passed, len(said), time.Since(begun).Round(time.Second))
				return said, passed
			}
			want, _ := verdicts(direct)
			got, _ := verdicts(newFront(t, bridge, direct).URL + "/mcp")
			for scenario, checks := range want {
				for i, c := range checks {
					if strings.Contains(c, " FAILURE ") {
						t.Errorf("%s: fails without the bridge: %s", scenario, c)
					}
					if i >= len(got[scenario]) || !strings.HasPrefix(got[scenario][i], strings.Join(strings.SplitN(c, " ", 3)[:2], " ")) {
						t.Errorf("%s: without the bridge\n  %s, and with it\n  %s", scenario, c, strings.Join(got[scenario], "\n  "))
						break
					}
				}
			}
		})
	}
}

// frontsOwn names the scenarios that test nothing but the HTTP side of a server: here, of the front.
func frontsOwn(scenario string) bool {
	return slices.Contains([]string{"dns-rebinding-protection", "http-header-validation", "http-custom-header-server-validation",
		"server-sse-polling", "server-sse-multiple-streams"}, scenario)
}
