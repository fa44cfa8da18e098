package main

// scenario_test.go plays the text scenarios in testdata/*.txt: the bridge between a client, which the
// scenario writes out, and a fakeServer, in a synctest bubble with virtual time. One line is one step:
//
//	# text                  a comment
//	on: json streams ids sse
//	                        the servers to play it with, one bubble each. json and streams: Streamable HTTP that
//	                        answers so; ids: streams with event ids, kept for resumption; sse: HTTP+SSE;
//	                        stateless: 2026-07-28; modern: the same, and so does the client, whose hello is
//	                        server/discover
//	@json,sse STEP          a step for these servers only
//	bridge: max-retries=3 hold-timeout=25s
//	                        options of the bridge, by their flags' names; before the first step
//	server: is no-stream, no-ping, retry 500ms
//	                        what it is like: see traits
//	server: on METHOD EFFECT        what happens to the next request of that JSON-RPC method, tool, GET or DELETE:
//	                        cuts                     the line is cut before it acts
//	                        acts and cuts            …after it acted, before the answer
//	                        acts and cuts after 2    …after two messages of the answer's stream
//	                        acts and ends            the stream ends in order instead
//	                        answers 503 Retry-After: 3
//	                        answers 503 until 4s     Retry-After as a date
//	                        answers page             200 and HTML
//	                        answers session-lost     404
//	                        hangs                    accepted, never answered
//	                        acts and answers 202
//	                        acts and sends half | nothing | twice | no-id | quoted-id | id 77
//	                        "always on …" is for ever, "3 times on …" for so many
//	server: heals           nothing more goes wrong
//	server: becomes TRAITS  as "is", later
//	server: forgets [as 404|400|410|401|503|200|-32600|-32602]   all sessions, and how it says so
//	server: cuts | ends     its streams
//	server: restarts        sessions, streams and running tools are gone
//	server: notifies METHOD [PARAMS]
//	server: updates URI     to its subscribers
//	server: got METHOD N    expects to have received so many in all
//	server: ran KEY N       expects so many executions under that key
//	server: stopped KEY N   expects so many executions that were ended early
//	server: made N | made at most N | lost N sessions in all: made, ended by DELETE;
//	                        says nothing of a stateless server
//	net: fins | resets every 300ms for 60s   while the scenario goes on
//	net: refuse | accept | reset | fin | freeze | vanish | thaw | drop | pass | latency 50ms
//	sleep 3s
//	host> hello             the client's initialize, id 0; "hello VERSION" asks for that one
//	host> ready             notifications/initialized
//	host> call ID TOOL ARGS [token T]     tools/call
//	host> request ID METHOD [PARAMS]
//	host> notify METHOD [PARAMS]
//	host> reply ID RESULT   to a request of the server's; "reply last RESULT": to the newest
//	host> JSON              any line, as it stands
//	host< JSON              expects a line that holds this: members and values, in any order; "*" is any value, a
//	                        string that begins with ~ is a part of one. Lines may come in any order; it waits for
//	                        two hours at most, of a time that costs nothing. "host< within 300ms …" waits so long
//	host< answer ID [JSON]  a result; its text content if JSON is a string
//	host< error ID REASON   an error of the bridge's own with that reason, or with that code
//	host< nothing [for 3s]  no line that was not expected, now or for so long
//	host ignores WORD…      drops the lines that have one of these words, such as list_changed; what the bridge
//	                        itself says in notifications/message is dropped unless the scenario speaks of a logger
//	host pauses | reads     the client stops to take lines, goes on
//	machine sleeps 1h       for the clocks' difference only; put "net: vanish" before it, as the lines do not last
//	eof                     the client closes the bridge's input
//	signal                  what SIGTERM does
//	exit [within 2s]        expects the bridge to end
//
// In the end, whatever the scenario said: every request has exactly one answer, no line is left over, the
// server saw no violation of the protocol and nothing that must not run twice did.

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func TestScenarios(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no scenarios: %v", err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) { playScenario(t, file, string(text)) })
	}
}

// playScenario plays text with each server that its "on:" line names.
func playScenario(t *testing.T, file, text string) {
	kinds := []string{"json"}
	for line := range strings.Lines(text) {
		if on, ok := strings.CutPrefix(line, "on:"); ok {
			kinds = strings.Fields(on)
		}
	}
	for _, kind := range kinds {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) { newPlayer(t, file, kind).play(text) })
		})
	}
}

// A player plays one scenario with one server.
type player struct {
	t     *testing.T
	file  string
	kind  string
	line  int
	start time.Time

	server  *fakeServer
	net     *memNet
	options options
	running bool
	b       *bridge
	absent  bool // the person who would sign in
	present bool // who signs in within a second

	in     *io.PipeWriter
	signal context.CancelFunc
	ended  chan error

	mu         sync.Mutex
	cond       *sync.Cond
	paused     bool
	ignored    []string
	half       []byte
	lines      []heardLine // from the bridge, not yet expected
	transcript strings.Builder
	open       map[string]bool // the client's requests
	answered   map[string]int
	excused    map[string]bool // cancelled ones
	lastAsked  string          // the newest request of the server's
}

// A heardLine is what the bridge said, and that as encoding/json has it: nil if it has it not.
type heardLine struct {
	text  string
	value any
}

func newPlayer(t *testing.T, file, kind string) *player {
	p := &player{
		t: t, file: file, kind: kind, start: time.Now(), net: newMemNet(), server: &fakeServer{},
		open: map[string]bool{}, answered: map[string]int{}, excused: map[string]bool{},
		options: options{
			server: "http://mcp.test", transport: "http-first", protocol: "auto", autoReconnect: true,
			maxRetries: 10, initialDelay: 2 * time.Second, maxDelay: 30 * time.Second, multiplier: 1.5,
			holdTimeout: 25 * time.Second, pingInterval: 30 * time.Second, retryCalls: "safe",
			maxMessage: 64 << 20, maxMemory: 256 << 20,
		},
	}
	p.cond = sync.NewCond(&p.mu)
	switch kind {
	case "json":
	case "streams":
		p.server.streams = true
	case "ids":
		p.server.streams, p.server.ids = true, true
	case "sse":
		p.server.kind = fakeSSE
	case "stateless", "modern":
		p.server.kind, p.server.streams = fakeStateless, true
	default:
		t.Fatalf("%s: there is no server of the kind %q", file, kind)
	}
	return p
}

func (p *player) play(text string) {
	if !strings.Contains(text, "logger") {
		p.ignored = append(p.ignored, `"logger":"mcp-redial"`)
	}
	p.server.start(p.t, p.net.listen("mcp.test:80"))
	defer func() {
		if p.t.Failed() {
			p.mu.Lock()
			defer p.mu.Unlock()
			p.t.Logf("the transcript:\n%s", p.transcript.String())
		}
	}()
	for line := range strings.Lines(text) {
		p.line++
		if line = strings.TrimSpace(line); line == "" || strings.HasPrefix(line, "#") || strings.HasPrefix(line, "on:") {
			continue
		}
		if rest, ok := strings.CutPrefix(line, "@"); ok {
			kinds, step, _ := strings.Cut(rest, " ")
			if line = step; !slices.Contains(strings.Split(kinds, ","), p.kind) {
				continue
			}
		}
		p.say("%s", line)
		p.step(line)
	}
	p.finish()
}

// say adds a line to the transcript.
func (p *player) say(format string, args ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.sayLocked(format, args...)
}

func (p *player) sayLocked(format string, args ...any) {
	fmt.Fprintf(&p.transcript, "%10.3fs  %s\n", time.Since(p.start).Seconds(), fmt.Sprintf(format, args...))
}

func (p *player) errorf(format string, args ...any) {
	p.t.Helper()
	p.say("  ^ FAILED: %s", fmt.Sprintf(format, args...))
	p.t.Errorf("%s:%d: %s", p.file, p.line, fmt.Sprintf(format, args...))
}

// fatalf is for scenarios that make no sense.
func (p *player) fatalf(format string, args ...any) {
	p.t.Helper()
	p.shut()
	p.t.Fatalf("%s:%d: %s", p.file, p.line, fmt.Sprintf(format, args...))
}

func (p *player) step(line string) {
	word, rest, _ := strings.Cut(line, " ")
	rest = strings.TrimSpace(rest)
	switch word {
	case "bridge:":
		p.bridge(rest)
		return
	case "server:":
		if traits, ok := strings.CutPrefix(rest, "is "); ok {
			p.traits(traits)
			return
		}
	}
	p.run()
	switch word {
	case "server:":
		p.serverStep(rest)
	case "net:":
		p.netStep(rest)
	case "sleep":
		time.Sleep(p.duration(rest))
	case "host>":
		p.write(rest)
	case "host<":
		p.expect(rest)
	case "host":
		p.mu.Lock()
		if words, ok := strings.CutPrefix(rest, "ignores "); ok {
			p.ignored = append(p.ignored, strings.Fields(words)...)
			p.lines = slices.DeleteFunc(p.lines, func(l heardLine) bool { return p.ignores(l.text) })
		} else {
			p.paused = rest == "pauses"
		}
		p.cond.Broadcast()
		p.mu.Unlock()
	case "machine": // sleeps: its wall clock jumps, as far as the loop can tell
		by := p.duration(strings.TrimPrefix(rest, "sleeps "))
		p.b.events <- event{do: func() { p.b.drift -= by }}
		synctest.Wait()
	case "log:": // this was said to the person
		synctest.Wait()
		p.mu.Lock()
		said := slices.ContainsFunc(strings.Split(p.transcript.String(), "\n"), func(l string) bool {
			return strings.Contains(l, "log: level=") && strings.Contains(l, rest)
		})
		p.mu.Unlock()
		if !said {
			p.errorf("the log does not say %s", rest)
		}
	case "eof":
		p.in.Close()
	case "signal":
		p.signal()
	case "exit":
		within := 10 * time.Second
		if d, ok := strings.CutPrefix(rest, "within "); ok {
			within = p.duration(d)
		}
		p.exit(within)
	default:
		p.fatalf("unknown step %q", line)
	}
}

func (p *player) duration(s string) time.Duration {
	d, err := time.ParseDuration(s)
	if err != nil {
		p.fatalf("%v", err)
	}
	return d
}

func (p *player) number(s string) int {
	n, err := strconv.Atoi(s)
	if err != nil {
		p.fatalf("%v", err)
	}
	return n
}

// bridge sets options by the names of their flags.
func (p *player) bridge(settings string) {
	if p.running {
		p.fatalf("the bridge runs already")
	}
	for _, s := range strings.Fields(settings) {
		name, value, _ := strings.Cut(s, "=")
		switch name {
		case "max-retries":
			p.options.maxRetries = p.number(value)
		case "initial-retry-delay":
			p.options.initialDelay = p.duration(value)
		case "max-retry-delay":
			p.options.maxDelay = p.duration(value)
		case "hold-timeout":
			p.options.holdTimeout = p.duration(value)
		case "ping-interval":
			p.options.pingInterval = p.duration(value)
		case "retry-calls":
			p.options.retryCalls = value
		case "transport":
			p.options.transport = value
		case "protocol":
			p.options.protocol = value
		case "remembers": // a handshake of that version, asked for in that version
			p.options.offlineStart = true
			p.options.remembered = &handshake{
				Asked: "2025-11-25", ProtocolVersion: value,
				Capabilities: json.RawMessage(`{"tools":{"listChanged":true}}`), ServerInfo: json.RawMessage(`{"name":"remembered","version":"0"}`),
			}
		case "no-auto-reconnect":
			p.options.autoReconnect = false
		case "max-message-size":
			p.options.maxMessage = p.number(value)
		case "nobody-signs-in": // for ever; else it fails at once
			p.absent = true
		case "somebody-signs-in": // within a second, as often as asked
			p.present = true
		case "ignore-tool":
			p.options.tools.ignore = append(p.options.tools.ignore, value)
		case "read-only":
			p.options.tools.readOnly = true
		case "silent":
			p.options.silent = true
		default:
			p.fatalf("unknown option %q", name)
		}
	}
}

// traits says what the server is like.
func (p *player) traits(list string) {
	s := p.server
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, trait := range strings.Split(list, ",") {
		f := strings.Fields(trait)
		switch f[0] {
		case "no-stream":
			s.noStream = true
		case "one-stream":
			s.oneStream = true
		case "no-ping":
			s.noPing = true
		case "sessionless":
			s.sessionless = true
		case "single-threaded":
			s.singleThreaded = true
		case "polling":
			s.polling = true
		case "deaf":
			s.deaf = true
		case "modern-too":
			s.dual = true
		case "refuses-resumption":
			s.refuseResume = true
		case "retry":
			s.retry = p.duration(f[1])
		case "idle-cut":
			s.idleCut = p.duration(f[1])
		case "keep-alive":
			s.keepAlive = p.duration(f[1])
		case "version":
			s.version = f[1]
		case "streamable":
			s.kind = fakeStreamable
		case "sse":
			s.kind = fakeSSE
		default:
			s.mu.Unlock()
			p.fatalf("no server is %q", f[0])
		}
	}
}

// run starts the bridge, once.
func (p *player) run() {
	if p.running {
		return
	}
	p.running = true
	mem := newBudget(p.options.maxMemory, p.options.maxMessage)
	log := slog.New(slog.NewTextHandler(playerLog{p}, &slog.HandlerOptions{Level: slog.LevelDebug, ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey {
			return slog.Attr{}
		}
		return a
	}}))
	u, err := url.Parse("http://mcp.test/mcp")
	if err != nil {
		p.t.Fatal(err)
	}
	again, once := p.net.client(p.t), p.net.client(p.t)
	once.Transport.(*http.Transport).IdleConnTimeout = time.Second // as client.go has it
	w := &wire{url: u, again: again, once: once, max: p.options.maxMessage, mem: mem, log: log}
	world := outside{
		connect: func(kind transportKind) transport {
			switch kind {
			case kindSSE:
				return newSSE(w)
			case kindStateless:
				return newStateless(w)
			}
			return newStreamable(w)
		},
		signIn: func(ctx context.Context, _ string, _ int, _ func(string)) error {
			if p.absent {
				<-ctx.Done()
			} else if p.present {
				time.Sleep(time.Second)
				return nil
			}
			return &signInError{err: fmt.Errorf("nobody can sign in here")}
		},
		remember: func(snapshot) {},
	}
	in, out := io.Pipe()
	ctx, cancel := context.WithCancel(context.Background())
	p.in, p.signal, p.ended = out, cancel, make(chan error, 1)
	p.b = newBridge(p.options, world, log, mem)
	go func() {
		p.b.run(ctx, in, playerOut{p})
		in.Close()
		p.say("bridge: ended")
		p.ended <- nil
	}()
}

// playerLog writes the bridge's log into the transcript.
type playerLog struct{ p *player }

func (l playerLog) Write(b []byte) (int, error) {
	l.p.say("  log: %s", strings.TrimSpace(string(b)))
	return len(b), nil
}

// playerOut is the bridge's stdout.
type playerOut struct{ p *player }

func (o playerOut) Write(b []byte) (int, error) {
	p := o.p
	p.mu.Lock()
	defer p.mu.Unlock()
	for p.paused {
		p.cond.Wait()
	}
	p.half = append(p.half, b...)
	for {
		i := bytes.IndexByte(p.half, '\n')
		if i < 0 {
			return len(b), nil
		}
		p.took(string(p.half[:i]))
		p.half = p.half[i+1:]
	}
}

// took notes a line of the bridge's; p.mu is held.
func (p *player) took(line string) {
	short := line
	if len(short) > 400 {
		short = fmt.Sprintf("%s… (%d bytes)", short[:400], len(line))
	}
	p.sayLocked("  host< %s", short)
	if !p.ignores(line) {
		l := heardLine{text: line}
		_ = json.Unmarshal([]byte(line), &l.value) // what is no JSON is reported below
		p.lines = append(p.lines, l)
	}
	var m []json.RawMessage
	if json.Unmarshal([]byte(line), &m) != nil {
		m = []json.RawMessage{json.RawMessage(line)}
	}
	for _, raw := range m {
		var e struct {
			JSONRPC string `json:"jsonrpc"`
			ID      json.RawMessage
			Method  string
		}
		if err := json.Unmarshal(raw, &e); err != nil || e.JSONRPC != "2.0" {
			p.t.Errorf("%s:%d: stdout has a line that is no JSON-RPC: %s", p.file, p.line, short)
		}
		switch {
		case e.Method != "" && e.ID != nil:
			p.lastAsked = string(e.ID)
		case e.Method == "" && string(e.ID) != "null":
			if p.answered[string(e.ID)]++; len(m) == 1 && !p.open[string(e.ID)] || p.answered[string(e.ID)] > 1 {
				p.t.Errorf("%s:%d: an answer to nothing that is open: %s", p.file, p.line, short)
			}
		}
	}
	p.cond.Broadcast()
}

// ignores says whether a line has a word that is ignored; p.mu is held.
func (p *player) ignores(line string) bool {
	return slices.ContainsFunc(p.ignored, func(word string) bool { return strings.Contains(line, word) })
}

// write sends a line of the client's.
func (p *player) write(what string) {
	if what == "ready" && p.kind == "modern" {
		return
	}
	line := p.message(what)
	var e struct {
		ID     json.RawMessage
		Method string
		Params struct {
			RequestID json.RawMessage `json:"requestId"`
		}
	}
	if json.Unmarshal([]byte(line), &e) == nil {
		p.mu.Lock()
		if e.Method != "" && e.ID != nil {
			p.open[string(e.ID)] = true
			delete(p.answered, string(e.ID))
		}
		if e.Method == "notifications/cancelled" {
			p.excused[string(e.Params.RequestID)] = true
		}
		p.mu.Unlock()
	}
	if _, err := io.WriteString(p.in, line+"\n"); err != nil {
		p.errorf("the bridge does not read: %v", err)
	}
	synctest.Wait()
}

// message spells out the short forms.
func (p *player) message(what string) string {
	word, rest, _ := strings.Cut(what, " ")
	next := func() string {
		var s string
		s, rest, _ = strings.Cut(strings.TrimSpace(rest), " ")
		return s
	}
	params := func(s string) string {
		if s = strings.TrimSpace(s); s == "" {
			return ""
		}
		return `,"params":` + s
	}
	modern := p.kind == "modern"
	if modern {
		const meta = `"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}`
		params = func(s string) string {
			s = strings.TrimSuffix(strings.TrimPrefix(strings.TrimSpace(s), "{"), "}")
			return `,"params":{` + strings.TrimPrefix(s+",", ",") + `"_meta":{` + meta + `}}`
		}
	}
	switch word {
	case "hello":
		if modern {
			return `{"jsonrpc":"2.0","id":0,"method":"server/discover"` + params("") + `}`
		}
		version := next()
		if version == "" {
			version = "2025-11-25"
		}
		return `{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":"` + version +
			`","capabilities":{"sampling":{},"elicitation":{},"roots":{"listChanged":true}},"clientInfo":{"name":"host","version":"1"}}}`
	case "ready":
		return `{"jsonrpc":"2.0","method":"notifications/initialized"}`
	case "call":
		id, tool := next(), next()
		args, token, ok := strings.Cut(rest, " token ")
		line := `{"jsonrpc":"2.0","id":` + id + `,"method":"tools/call"` + params(`{"name":"`+tool+`","arguments":`+args+`}`) + `}`
		switch {
		case ok && modern:
			line = strings.Replace(line, `"_meta":{`, `"_meta":{"progressToken":`+token+`,`, 1)
		case ok:
			line = strings.TrimSuffix(line, "}}") + `,"_meta":{"progressToken":` + token + `}}}`
		}
		return line
	case "request":
		id, method := next(), next()
		return `{"jsonrpc":"2.0","id":` + id + `,"method":"` + method + `"` + params(rest) + `}`
	case "notify":
		method := next()
		return `{"jsonrpc":"2.0","method":"` + method + `"` + params(rest) + `}`
	case "reply":
		id := next()
		if id == "last" {
			p.mu.Lock()
			id = p.lastAsked
			p.mu.Unlock()
		}
		return `{"jsonrpc":"2.0","id":` + id + `,"result":` + rest + `}`
	}
	return what
}

// expect waits for a line of the bridge's.
func (p *player) expect(what string) {
	if rest, ok := strings.CutPrefix(what, "nothing"); ok {
		if d, ok := strings.CutPrefix(strings.TrimSpace(rest), "for "); ok {
			time.Sleep(p.duration(d))
		}
		synctest.Wait()
		p.mu.Lock()
		left := slices.Clone(p.lines)
		p.mu.Unlock()
		for _, l := range left {
			p.errorf("nothing was expected, but there is %s", l.text)
		}
		return
	}
	within := 2 * time.Hour
	if rest, ok := strings.CutPrefix(what, "within "); ok {
		d, rest, _ := strings.Cut(rest, " ")
		within, what = p.duration(d), strings.TrimSpace(rest)
	}
	want := p.pattern(what)
	late := time.AfterFunc(within, func() { p.mu.Lock(); p.cond.Broadcast(); p.mu.Unlock() })
	defer late.Stop()
	deadline := time.Now().Add(within)
	p.mu.Lock()
	for {
		for i, l := range p.lines {
			if l.value != nil && fits(l.value, want) {
				p.lines = slices.Delete(p.lines, i, i+1)
				p.mu.Unlock()
				return
			}
		}
		if !time.Now().Before(deadline) {
			break
		}
		p.cond.Wait()
	}
	left := ""
	for _, l := range p.lines {
		left += "\n\t" + l.text
	}
	p.mu.Unlock()
	p.errorf("no such line within %v; there is only:%s", within, left)
}

// pattern spells out what a line has to hold.
func (p *player) pattern(what string) (want any) {
	word, rest, _ := strings.Cut(what, " ")
	id, rest, _ := strings.Cut(rest, " ")
	switch word {
	case "answer":
		what = `{"id":` + id + `,"result":"*"}`
		if rest = strings.TrimSpace(rest); strings.HasPrefix(rest, `"`) {
			what = `{"id":` + id + `,"result":{"content":[{"text":` + rest + `}]}}`
		} else if rest != "" {
			what = `{"id":` + id + `,"result":` + rest + `}`
		}
	case "error":
		what = `{"id":` + id + `,"error":{"data":{"source":"mcp-redial","reason":"` + rest + `"}}}`
		if _, err := strconv.Atoi(rest); err == nil {
			what = `{"id":` + id + `,"error":{"code":` + rest + `}}`
		}
	}
	if err := json.Unmarshal([]byte(what), &want); err != nil {
		p.fatalf("what is expected is not JSON: %s", what)
	}
	return want
}

// fits says whether got has everything that want has.
func fits(got, want any) bool {
	switch want := want.(type) {
	case string:
		if want == "*" {
			return true
		}
		s, ok := got.(string)
		if part, is := strings.CutPrefix(want, "~"); is {
			return ok && strings.Contains(s, part)
		}
		return ok && s == want
	case map[string]any:
		m, ok := got.(map[string]any)
		if !ok {
			return false
		}
		for k, w := range want {
			if g, ok := m[k]; !ok || !fits(g, w) {
				return false
			}
		}
		return true
	case []any:
		a, ok := got.([]any)
		if !ok || len(a) != len(want) {
			return false
		}
		for i := range want {
			if !fits(a[i], want[i]) {
				return false
			}
		}
		return true
	}
	return got == want
}

func (p *player) netStep(what string) {
	word, rest, _ := strings.Cut(what, " ")
	switch word {
	case "refuse":
		p.net.refuse(true)
	case "accept":
		p.net.refuse(false)
	case "drop":
		p.net.drop(true)
	case "pass":
		p.net.drop(false)
	case "reset":
		p.net.reset()
	case "fin":
		p.net.fin()
	case "freeze":
		p.net.freeze()
	case "vanish":
		p.net.vanish()
	case "thaw":
		p.net.thaw()
	case "latency":
		p.net.latency(p.duration(rest))
	case "fins", "resets": // "every 300ms for 60s", while the scenario goes on
		f := strings.Fields(rest)
		every, end := p.duration(f[1]), time.Now().Add(p.duration(f[3]))
		var again func()
		again = func() {
			if word == "fins" {
				p.net.fin()
			} else {
				p.net.reset()
			}
			if time.Now().Before(end) {
				time.AfterFunc(every, again)
			}
		}
		time.AfterFunc(every, again)
		return
	default:
		p.fatalf("the network cannot %q", what)
	}
	synctest.Wait()
}

var playerSigns = map[string]lostSign{
	"404": lost404, "400": lost400, "410": lost410, "401": lost401, "503": lost503,
	"200": lost200, "-32600": lostRequest, "-32602": lostParams,
}

func (p *player) serverStep(what string) {
	s := p.server
	f := strings.Fields(what)
	count := func(name string, got int, want string) {
		synctest.Wait()
		if n := p.number(want); got != n {
			p.errorf("%s: %d, want %d", name, got, n)
		}
	}
	synctest.Wait()
	switch f[0] {
	case "on", "always":
		p.faults(what)
	case "heals":
		s.heal()
	case "forgets":
		if len(f) == 3 {
			s.set(func() { s.lost = playerSigns[f[2]] })
		}
		s.forget()
	case "cuts":
		s.cut()
	case "ends":
		s.end()
	case "restarts":
		s.restart()
	case "notifies":
		params := map[string]any{}
		if len(f) > 2 {
			if err := json.Unmarshal([]byte(strings.Join(f[2:], " ")), &params); err != nil {
				p.fatalf("%v", err)
			}
		}
		s.notify(f[1], params)
	case "updates":
		s.update(f[1])
	case "got":
		count("requests of "+f[1], len(s.requests(f[1])), f[2])
	case "ran":
		count("executions under "+f[1], s.runs(f[1]), f[2])
	case "stopped":
		count("executions stopped under "+f[1], s.cancelled(f[1]), f[2])
	case "made":
		if s.kind == fakeStateless { // there are none
			break
		}
		if f[1] == "at" { // at most
			if n := s.sessionsMade(); n > p.number(f[3]) {
				p.errorf("sessions made: %d, want at most %s", n, f[3])
			}
			break
		}
		count("sessions made", s.sessionsMade(), f[1])
	case "becomes":
		p.traits(strings.Join(f[1:], " "))
	case "lost":
		if s.kind == fakeStateless {
			break
		}
		count("sessions ended", s.sessionsEnded(), f[1])
	default:
		if len(f) > 1 && f[1] == "times" {
			p.faults(what)
			break
		}
		p.fatalf("the server cannot %q", what)
	}
	synctest.Wait()
}

// faults reads "[always|N times] on METHOD [acts and] EFFECT".
func (p *player) faults(what string) {
	w := strings.Fields(what)
	take := func(words ...string) bool {
		if len(w) < len(words) || !slices.Equal(w[:len(words)], words) {
			return false
		}
		w = w[len(words):]
		return true
	}
	var f fault
	if take("always") {
		f.times = -1
	} else if len(w) > 1 && w[1] == "times" {
		f.times = p.number(w[0])
		w = w[2:]
	}
	if !take("on") || len(w) < 2 {
		p.fatalf("what is %q", what)
	}
	if f.on, w = w[0], w[1:]; f.on == "any" {
		f.on = ""
	}
	f.act = take("acts", "and")
	switch {
	case take("cuts", "after"):
		f.events = p.number(w[0])
	case take("ends", "after"):
		f.events, f.clean = p.number(w[0]), true
	case take("cuts"):
	case take("ends"):
		f.clean = true
	case take("hangs"):
		f.answer = answerNever
	case take("answers", "session-lost"):
		f.answer = answerWith(404, "application/json", `{"jsonrpc":"2.0","id":%ID%,"error":{"code":-32001,"message":"Session not found"}}`)
	case take("answers", "page"):
		f.answer = answerPortal
	case take("answers"):
		code := p.number(w[0])
		var header []string
		if len(w) == 3 && w[1] == "until" {
			w[1], w[2] = "Retry-After:", time.Now().Add(p.duration(w[2])).UTC().Format(http.TimeFormat)
		}
		if len(w) == 3 {
			header = []string{strings.TrimSuffix(w[1], ":"), w[2]}
		}
		f.answer = answerStatus(code, header...)
	case take("sends", "half"):
		f.edit = editTruncate
	case take("sends", "latin-1"):
		f.edit = func(b []byte) [][]byte { return [][]byte{bytes.Replace(b, []byte(`"1"`), []byte("\"\xe9\""), 1)} }
	case take("sends", "nothing"):
		f.edit = editNothing
	case take("sends", "twice"):
		f.edit = editTwice
	case take("sends", "no-id"):
		f.edit = editID("")
	case take("sends", "quoted-id"):
		f.edit = editQuoteID
	case take("sends", "id"):
		f.edit = editID(w[0])
	default:
		p.fatalf("what is %q", what)
	}
	p.server.fail(f)
}

// exit expects the end of the bridge.
func (p *player) exit(within time.Duration) {
	p.in.Close()
	select {
	case err := <-p.ended:
		if err != nil {
			p.errorf("the bridge ended with %v", err)
		}
		p.ended <- err
	case <-time.After(within):
		p.errorf("the bridge has not ended %v later", within)
		p.shut()
	}
}

// shut ends the bridge in any case.
func (p *player) shut() {
	if p.running {
		p.in.Close()
		p.signal()
		err := <-p.ended
		p.ended <- err
	}
}

// finish checks what holds after every scenario.
func (p *player) finish() {
	p.run()
	p.mu.Lock()
	p.paused = false
	p.cond.Broadcast()
	p.mu.Unlock()
	p.exit(10 * time.Second)
	p.signal()
	for id := range p.open {
		if p.answered[id] != 1 && !p.excused[id] {
			p.errorf("the request %s has %d answers", id, p.answered[id])
		}
	}
	for _, l := range p.lines {
		p.errorf("a line that was not expected: %s", l.text)
	}
	for _, v := range p.server.violations() {
		p.errorf("the protocol was violated: %s", v)
	}
	for _, k := range p.server.twice() {
		p.errorf("the call %s ran %d times", k, p.server.runs(k))
	}
}
