package main

// fakeserver_test.go is an MCP server for tests. It speaks every revision over every HTTP transport, runs a
// handful of tools whose executions it counts, notes what a client did against the protocol, and fails in
// every way that a test asks for. It works on any net.Listener: in a bubble on a memNet, or on loopback.
//
//	n := newMemNet()
//	s := &fakeServer{streams: true, ids: true}
//	s.start(t, n.listen("mcp.test:80"))
//	s.fail(fault{on: "tools/call", act: true}) // the next call is executed, and the line cut before its answer
//
// Tools (all take key, a string under which executions are counted):
//
//	echo {text}             answers with text
//	slow {ms}               answers after so many milliseconds
//	add {}                  answers with how often it ran under this key: not safe to repeat
//	look {ms}               the same, listed with readOnlyHint
//	put {ms}                the same, listed with idempotentHint
//	progress {steps, ms}    a notifications/progress every ms milliseconds, if there is a token
//	log {text}              a notifications/message with that text (2026-07-28: if the request has a log level)
//	ask {method}            sends that request (sampling/createMessage, elicitation/create, roots/list) to the client
//	big {bytes}             answers with so many bytes of text
//	image {}                answers with image content
//	fails {text}            a tool result with isError and that text
//	refuses {code, text}    a JSON-RPC error of that code
//	region {region}         listed with x-mcp-header on region (checked where the server is stateless)

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

type fakeKind int

const (
	fakeStreamable fakeKind = iota // 2025-03-26 to 2025-11-25
	fakeSSE                        // 2024-11-05
	fakeStateless                  // 2026-07-28
)

// A lostSign is how a server says that it does not know a session (any more).
type lostSign int

const (
	lost404     lostSign = iota // 404 and -32001, as the specification has it
	lost400                     // 400 and -32000 "Bad Request: No valid session ID provided"
	lost410                     // 410, text
	lost401                     // 401 without a challenge
	lost503                     // 503 without Retry-After
	lost200                     // 200 and a JSON-RPC error -32603 "Session not found"
	lostRequest                 // 200 and a JSON-RPC error -32600 "Invalid session"
	lostParams                  // 200 and a JSON-RPC error -32602 "… before initialization was complete"
)

// A fakeServer's first block of fields says what it is like: set before start, or later inside set.
type fakeServer struct {
	kind           fakeKind
	dual           bool          // a Streamable server that also answers 2026-07-28 requests
	version        string        // the one it speaks whatever the client asks for; "": what the client asks for
	streams        bool          // answers requests with event streams, not with JSON
	ids            bool          // event ids on all streams, kept for resumption
	polling        bool          // closes each stream of a request after its priming event (needs streams, ids)
	retry          time.Duration // sent with priming events
	sessionless    bool          // no Mcp-Session-Id
	noStream       bool          // GET is answered with 405
	oneStream      bool          // a second GET while one is open is answered with 409
	noPing         bool          // does not know ping
	singleThreaded bool          // does nothing at all while a tool runs (do not use ask)
	idleCut        time.Duration // ends a stream that was silent for so long; 0: never
	keepAlive      time.Duration // comments on silent streams; 0: none
	resets         bool          // the test resets its lines at any time: net/http itself repeats then what may be repeated, as it is
	lost           lostSign
	deaf           bool           // accepts a resumption and never delivers anything on it
	refuseResume   bool           // answers a resumption with 400
	endpoint       string         // HTTP+SSE: what the endpoint event says, %s is the session; "": /messages?sessionId=%s
	postStatus     int            // HTTP+SSE: the answer to a POST of the event stream's URL; 0: 405
	capabilities   map[string]any // nil: everything with listChanged and subscribe
	name           string         // serverInfo.name; "": fake
	instructions   string

	base     context.Context // ends with the test
	wg       sync.WaitGroup  // tools running
	one      chan struct{}   // holds one value while a single-threaded server is busy
	mu       sync.Mutex
	sessions map[string]*fakeSession
	made     int // sessions, also the counter for their names
	deleted  int
	faults   []*fault
	cutting  chan struct{} // closed by cut and end, then replaced
	clean    bool          // how the last of them was meant
	ran      map[string]int
	unsafe   map[string]bool // keys used with a tool that may not be repeated
	done     map[string]int
	stopped  map[string]int // executions ended early by cancellation or restart
	seen     []fakeRequest
	wrong    []string
	listens  map[*fakeListen]bool
}

// A fakeRequest is one HTTP request as the server saw it.
type fakeRequest struct {
	at      time.Time
	http    string // GET, POST, DELETE
	header  http.Header
	session string
	method  string // of the JSON-RPC message; "" if it is a response
	id      string
	tool    string // for tools/call
	key     string
	raw     []byte
}

// A fault is what goes wrong with the next requests that it fits, instead of or after their execution.
type fault struct {
	on    string // a JSON-RPC method, a tool's name, GET or DELETE; "": any JSON-RPC request
	times int    // how often; 0 is once, negative is for ever
	after int    // so many that fit pass first
	act   bool   // the request is executed; otherwise it is as if it had never come. HTTP+SSE: it is the event stream that is cut then

	// One of these says what happens; if none is given, the connection is cut (reset by the server).
	answer func(w http.ResponseWriter, r *http.Request, m fakeRequest) // written in place of any answer
	edit   func(response []byte) [][]byte                              // what is sent in place of the response; needs act
	events int                                                         // cut after so many events of the stream were sent, not counting the priming one; needs act
	clean  bool                                                        // the stream is ended in order, not cut
}

// Answers for faults.

// answerStatus answers with a status and headers given as name, value, name, value…
func answerStatus(code int, header ...string) func(http.ResponseWriter, *http.Request, fakeRequest) {
	return answerWith(code, "text/plain", http.StatusText(code)+"\n", header...)
}

// answerWith answers with a status, a content type and a body in which %ID% is the request's id.
func answerWith(code int, contentType, body string, header ...string) func(http.ResponseWriter, *http.Request, fakeRequest) {
	return func(w http.ResponseWriter, r *http.Request, m fakeRequest) {
		for i := 0; i+1 < len(header); i += 2 {
			w.Header().Set(header[i], header[i+1])
		}
		w.Header().Set("Content-Type", contentType)
		w.WriteHeader(code)
		io.WriteString(w, strings.ReplaceAll(body, "%ID%", m.id))
	}
}

// answerPortal answers like a hotel's network: 200 and a page.
func answerPortal(w http.ResponseWriter, r *http.Request, m fakeRequest) {
	answerWith(200, "text/html; charset=utf-8", "<!doctype html><title>Welcome to the Wi-Fi</title>")(w, r, m)
}

// answerNever answers nothing until the client gives up or the server ends.
func answerNever(_ http.ResponseWriter, r *http.Request, _ fakeRequest) { <-r.Context().Done() }

// Edits for faults.

func editTruncate(b []byte) [][]byte { return [][]byte{b[:len(b)/2]} }
func editTwice(b []byte) [][]byte    { return [][]byte{b, b} }
func editNothing([]byte) [][]byte    { return nil }

// editID replaces the response's id by a token; "" removes it.
func editID(token string) func([]byte) [][]byte {
	return func(b []byte) [][]byte {
		var m map[string]json.RawMessage
		fakeMust(json.Unmarshal(b, &m))
		if delete(m, "id"); token != "" {
			m["id"] = json.RawMessage(token)
		}
		return [][]byte{fakeJSON(m)}
	}
}

// editQuoteID turns a numeric id into a string.
func editQuoteID(b []byte) [][]byte {
	var m map[string]json.RawMessage
	fakeMust(json.Unmarshal(b, &m))
	return editID(strconv.Quote(string(m["id"])))(b)
}

// start serves on l until the test ends. In a bubble it must be called inside.
func (s *fakeServer) start(t testing.TB, l net.Listener) {
	t.Helper()
	base, cancel := context.WithCancel(context.Background())
	s.base, s.one, s.cutting = base, make(chan struct{}, 1), make(chan struct{})
	s.sessions, s.listens = map[string]*fakeSession{}, map[*fakeListen]bool{}
	s.ran, s.done, s.stopped, s.unsafe = map[string]int{}, map[string]int{}, map[string]int{}, map[string]bool{}
	stop := s.listen(l)
	t.Cleanup(func() {
		cancel()
		stop()
		s.wg.Wait()
	})
}

// fakeTransports has a server of each transport and revision that a bridge may meet. With resumable, one that answers with
// streams numbers its events, and one that answers with JSON has no stream of its own.
func fakeTransports(resumable bool) map[string]*fakeServer {
	return map[string]*fakeServer{
		"JSON":                    {noStream: resumable},
		"event streams":           {streams: true, ids: resumable},
		"HTTP+SSE":                {kind: fakeSSE},
		"2026-07-28, JSON":        {kind: fakeStateless},
		"2026-07-28, its streams": {kind: fakeStateless, streams: true},
	}
}

// listen serves on one more listener of a server that was started; the result ends that and its connections.
func (s *fakeServer) listen(l net.Listener) (stop func()) {
	srv := &http.Server{Handler: s, BaseContext: func(net.Listener) context.Context { return s.base }}
	var wg sync.WaitGroup
	wg.Go(func() { srv.Serve(l) })
	return func() {
		srv.Close()
		wg.Wait()
		time.Sleep(time.Second) // net/http lingers for half a second before it closes a connection
	}
}

// What a test does to the server.

// set changes the server's fields while it runs.
func (s *fakeServer) set(change func()) { s.mu.Lock(); change(); s.mu.Unlock() }

// fail adds faults; of several that fit a request, the first added is taken.
func (s *fakeServer) fail(f ...fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, f := range f {
		if f.times == 0 {
			f.times = 1
		}
		s.faults = append(s.faults, &f)
	}
}

// heal removes all faults.
func (s *fakeServer) heal() { s.mu.Lock(); s.faults = nil; s.mu.Unlock() }

// forget loses all sessions; streams that are open stay open and running tools go on.
func (s *fakeServer) forget() { s.mu.Lock(); clear(s.sessions); s.mu.Unlock() }

// cut breaks all event streams and answers in the air; end ends the streams in order.
func (s *fakeServer) cut() { s.endStreams(false) }
func (s *fakeServer) end() { s.endStreams(true) }

func (s *fakeServer) endStreams(clean bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.clean = clean
	close(s.cutting)
	s.cutting = make(chan struct{})
}

// restart is what a new process would be: sessions, streams and running tools are gone.
func (s *fakeServer) restart() {
	s.mu.Lock()
	for _, x := range s.sessions {
		for _, cancel := range x.running {
			cancel()
		}
	}
	clear(s.sessions)
	s.mu.Unlock()
	s.cut()
}

// notify sends a notification on the own stream of every session, and on every subscriptions/listen.
func (s *fakeServer) notify(method string, params map[string]any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, x := range s.sessions {
		x.get.add(fakeJSON(map[string]any{"jsonrpc": "2.0", "method": method, "params": params}))
	}
	for l := range s.listens {
		l.notify(method, params)
	}
}

// update sends resources/updated to whom has subscribed to uri.
func (s *fakeServer) update(uri string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	params := map[string]any{"uri": uri}
	for _, x := range s.sessions {
		if x.subscribed[uri] {
			x.get.add(fakeJSON(map[string]any{"jsonrpc": "2.0", "method": "notifications/resources/updated", "params": params}))
		}
	}
	for l := range s.listens {
		l.notify("notifications/resources/updated", params)
	}
}

// What a test asks the server.

// runs is how often tools were executed under key.
func (s *fakeServer) runs(key string) int { s.mu.Lock(); defer s.mu.Unlock(); return s.ran[key] }

// cancelled is how many executions under key were ended early.
func (s *fakeServer) cancelled(key string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.stopped[key]
}

// twice lists the keys under which a tool that may not be repeated was executed more than once.
func (s *fakeServer) twice() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var keys []string
	for k := range s.unsafe {
		if s.ran[k] > 1 {
			keys = append(keys, k)
		}
	}
	slices.Sort(keys)
	return keys
}

// sessionsMade and sessionsEnded count initialize requests answered and DELETEs obeyed.
func (s *fakeServer) sessionsMade() int  { s.mu.Lock(); defer s.mu.Unlock(); return s.made }
func (s *fakeServer) sessionsEnded() int { s.mu.Lock(); defer s.mu.Unlock(); return s.deleted }

// requests lists what arrived: by JSON-RPC method, by HTTP method for GET and DELETE, "" for all.
func (s *fakeServer) requests(of string) []fakeRequest {
	s.mu.Lock()
	defer s.mu.Unlock()
	var rs []fakeRequest
	for _, r := range s.seen {
		if of == "" || r.method == of || r.method == "" && r.http == of {
			rs = append(rs, r)
		}
	}
	return rs
}

// violations lists what clients did against the protocol.
func (s *fakeServer) violations() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.wrong)
}

// check fails the test if a client violated the protocol or an unsafe tool ran twice.
func (s *fakeServer) check(t testing.TB) {
	t.Helper()
	for _, v := range s.violations() {
		t.Errorf("protocol violated: %s", v)
	}
	for _, k := range s.twice() {
		t.Errorf("the tool call %q was executed %d times", k, s.runs(k))
	}
}

// Sessions and streams.

type fakeSession struct {
	id          string
	version     string
	initialized bool
	subscribed  map[string]bool
	level       string
	ids         map[string]bool // request ids used
	cut         []byte          // the last request whose line was cut
	running     map[string]context.CancelFunc
	get         *fakeStream // the server's own stream; HTTP+SSE: the only one
	streams     []*fakeStream
	asked       map[string]chan json.RawMessage // requests to the client without an answer
}

func (s *fakeServer) newSession(version string) *fakeSession {
	s.made++
	x := &fakeSession{
		id: fmt.Sprintf("session-%d", s.made), version: version,
		subscribed: map[string]bool{}, ids: map[string]bool{}, running: map[string]context.CancelFunc{},
		asked: map[string]chan json.RawMessage{},
	}
	x.get = x.newStream(s)
	s.sessions[x.id] = x
	return x
}

// A fakeStream is the messages of one event stream, whoever is reading them. Its fields are guarded by the
// server's lock.
type fakeStream struct {
	mu      *sync.Mutex
	no      int
	events  [][]byte
	done    bool
	changed chan struct{} // closed and replaced with every change
	readers int
	broken  *fault // ends the stream for its reader
}

func (x *fakeSession) newStream(s *fakeServer) *fakeStream {
	st := &fakeStream{mu: &s.mu, no: len(x.streams), changed: make(chan struct{})}
	x.streams = append(x.streams, st)
	return st
}

// add appends a message; the server's lock is held.
func (st *fakeStream) add(raw []byte) { st.events = append(st.events, raw); st.wake() }

func (st *fakeStream) wake() { close(st.changed); st.changed = make(chan struct{}) }

func (st *fakeStream) id(n int) string { return fmt.Sprintf("%d-%d", st.no, n) }

// pump writes st to the client from message number from on, until the stream is done or cut.
func (s *fakeServer) pump(w http.ResponseWriter, r *http.Request, st *fakeStream, from int, prime string, f *fault) {
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("Cache-Control", "no-store")
	flush := http.NewResponseController(w).Flush
	io.WriteString(w, prime)
	flush()
	s.mu.Lock()
	cutting, idleCut, keepAlive := s.cutting, s.idleCut, s.keepAlive
	st.readers++
	s.mu.Unlock()
	defer s.set(func() { st.readers-- })
	sent := 0
	for {
		s.mu.Lock()
		events, done, changed, ids := st.events[min(from, len(st.events)):], st.done, st.changed, s.ids
		broken := st.broken
		s.mu.Unlock()
		for _, e := range events {
			if f != nil && f.events == sent {
				leave(f.clean)
				return
			}
			if ids {
				fmt.Fprintf(w, "id: %s\n", st.id(from+1))
			}
			fmt.Fprintf(w, "event: message\ndata: %s\n\n", e)
			flush()
			from++
			sent++
		}
		if broken != nil {
			leave(broken.clean)
			return
		}
		if done {
			return
		}
		if f != nil && f.events == sent {
			leave(f.clean)
			return
		}
		var idle, alive <-chan time.Time
		if idleCut > 0 {
			idle = time.After(idleCut)
		}
		if keepAlive > 0 {
			alive = time.After(keepAlive)
		}
		select {
		case <-changed:
		case <-alive:
			io.WriteString(w, ": alive\n\n")
			flush()
		case <-idle:
			return
		case <-cutting:
			s.mu.Lock()
			clean := s.clean
			s.mu.Unlock()
			leave(clean)
			return
		case <-r.Context().Done():
			return
		}
	}
}

// leave cuts the connection, unless the stream is to end in order.
func leave(clean bool) {
	if !clean {
		panic(http.ErrAbortHandler)
	}
}

// ServeHTTP is the MCP endpoint, whatever its path.
func (s *fakeServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	m := s.note(r, body)
	if s.singleThreaded {
		select {
		case s.one <- struct{}{}:
		case <-r.Context().Done():
			return
		}
	}
	free := sync.OnceFunc(func() {
		if s.singleThreaded {
			<-s.one
		}
	})
	f := s.fault(m)
	if f != nil && !f.act {
		free()
		if f.answer == nil {
			leave(f.clean)
			return
		}
		f.answer(w, r, m)
		return
	}
	modern := s.kind == fakeStateless || s.dual && bytes.Contains(body, []byte(fakeMetaVersion))
	switch {
	case modern:
		s.serveStateless(w, r, m, f, free)
	case s.kind == fakeSSE:
		s.serveSSE(w, r, m, f, free)
	case r.Method == http.MethodPost:
		s.servePost(w, r, m, f, free)
	case r.Method == http.MethodGet:
		free()
		s.serveGet(w, r, m)
	case r.Method == http.MethodDelete:
		defer free()
		s.mu.Lock()
		_, ok := s.sessions[m.session]
		delete(s.sessions, m.session)
		if ok {
			s.deleted++
		}
		s.mu.Unlock()
		if !ok {
			s.sayLost(w, m)
			return
		}
		w.WriteHeader(http.StatusNoContent)
	default:
		free()
		w.WriteHeader(http.StatusMethodNotAllowed)
	}
}

// note records a request and checks what holds for all of them.
func (s *fakeServer) note(r *http.Request, body []byte) fakeRequest {
	m := fakeRequest{at: time.Now(), http: r.Method, header: r.Header.Clone(), session: r.Header.Get("Mcp-Session-Id"), raw: body}
	if s.kind == fakeSSE {
		m.session = r.URL.Query().Get("sessionId")
	}
	var e struct {
		ID     json.RawMessage
		Method string
		Params struct {
			Name      string
			Arguments struct{ Key string }
		}
	}
	if len(body) > 0 {
		if err := json.Unmarshal(body, &e); err != nil {
			s.violate("%s with a body that is no JSON-RPC message: %v", r.Method, err)
		}
		if bytes.ContainsAny(body, "\r\n") {
			s.violate("a message with a line break in it")
		}
		if ct := r.Header.Get("Content-Type"); ct != "application/json" {
			s.violate("POST with Content-Type %q", ct)
		}
	}
	m.method, m.id = e.Method, string(e.ID)
	if e.Method == "tools/call" {
		m.tool, m.key = e.Params.Name, e.Params.Arguments.Key
	}
	accept := r.Header.Get("Accept")
	if r.Method == http.MethodPost && s.kind != fakeSSE && !(strings.Contains(accept, "application/json") && strings.Contains(accept, "text/event-stream")) {
		s.violate("POST with Accept %q", accept)
	}
	if r.Method == http.MethodGet && !strings.Contains(accept, "text/event-stream") {
		s.violate("GET with Accept %q", accept)
	}
	if r.Header.Get("Origin") != "" {
		s.violate("an Origin header")
	}
	s.mu.Lock()
	s.seen = append(s.seen, m)
	s.mu.Unlock()
	return m
}

func (s *fakeServer) violate(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.wrong = append(s.wrong, fmt.Sprintf(format, args...))
}

// fault takes the fault that m meets, if any.
func (s *fakeServer) fault(m fakeRequest) *fault {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, f := range s.faults {
		switch {
		case f.on == "" && m.method != "" && m.id != "":
		case f.on != "" && (f.on == m.method || f.on == m.tool || m.method == "" && f.on == m.http):
		default:
			continue
		}
		if f.after > 0 {
			f.after--
			continue
		}
		if f.times--; f.times == 0 {
			s.faults = slices.Delete(s.faults, i, i+1)
		}
		return f
	}
	return nil
}

// servePost is Streamable HTTP's POST.
func (s *fakeServer) servePost(w http.ResponseWriter, r *http.Request, m fakeRequest, f *fault, free func()) {
	if m.method == "initialize" {
		if m.session != "" {
			s.violate("initialize with a session id")
		}
		s.serveInitialize(w, r, m, f, free)
		return
	}
	x := s.session(m)
	if x == nil {
		free()
		s.sayLost(w, m)
		return
	}
	s.checkVersion(m, x)
	if s.control(x, m) {
		free()
		if f != nil {
			s.afterActing(w, r, m, f)
			return
		}
		w.WriteHeader(http.StatusAccepted)
		return
	}
	s.mu.Lock()
	st := x.newStream(s)
	s.mu.Unlock()
	s.run(x, m, st, f, free)
	s.answer(w, r, m, st, f)
}

// afterActing is for a fault with act on what has no stream of its own.
func (s *fakeServer) afterActing(w http.ResponseWriter, r *http.Request, m fakeRequest, f *fault) {
	if f.answer == nil {
		leave(f.clean)
		return
	}
	f.answer(w, r, m)
}

// answer gives st to the client as the answer to m.
func (s *fakeServer) answer(w http.ResponseWriter, r *http.Request, m fakeRequest, st *fakeStream, f *fault) {
	if f != nil && f.edit == nil && f.events == 0 { // the answer is lost, but not what was done
		s.await(r, st)
		s.afterActing(w, r, m, f)
		return
	}
	if f != nil && f.edit != nil {
		f = nil // its edit is done by run
	}
	s.mu.Lock()
	streams, ids, polling, retry := s.streams, s.ids, s.polling, s.retry
	s.mu.Unlock()
	if !streams {
		if s.await(r, st) && len(st.events) > 0 {
			w.Header().Set("Content-Type", "application/json")
			last := st.events[len(st.events)-1]
			w.Header().Set("Content-Length", strconv.Itoa(len(last)))
			w.Write(last)
			return
		}
		leave(false)
	}
	prime := ""
	if ids {
		prime = "id: " + st.id(0) + "\n"
		if retry > 0 {
			prime += fmt.Sprintf("retry: %d\n", retry.Milliseconds())
		}
		prime += "data:\n\n"
	}
	if polling && ids && m.method != "initialize" {
		w.Header().Set("Content-Type", "text/event-stream")
		io.WriteString(w, prime)
		return
	}
	s.pump(w, r, st, 0, prime, f)
}

// await waits until st is done; false if it was cut or the client left before.
func (s *fakeServer) await(r *http.Request, st *fakeStream) bool {
	s.mu.Lock()
	cutting := s.cutting
	s.mu.Unlock()
	for {
		s.mu.Lock()
		done, changed := st.done, st.changed
		s.mu.Unlock()
		if done {
			return true
		}
		select {
		case <-changed:
		case <-cutting:
			return false
		case <-r.Context().Done():
			return false
		}
	}
}

func (s *fakeServer) serveInitialize(w http.ResponseWriter, r *http.Request, m fakeRequest, f *fault, free func()) {
	x := s.initialize(m)
	if !s.sessionless {
		w.Header().Set("Mcp-Session-Id", x.id)
	}
	s.mu.Lock()
	st := x.newStream(s)
	s.mu.Unlock()
	s.run(x, m, st, f, free)
	s.answer(w, r, m, st, f)
}

// initialize makes the session that the hello m asks for.
func (s *fakeServer) initialize(m fakeRequest) *fakeSession {
	var p struct {
		Params struct{ ProtocolVersion string }
	}
	fakeMust(json.Unmarshal(m.raw, &p))
	version := s.version
	if version == "" {
		version = p.Params.ProtocolVersion
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.newSession(version)
}

// session finds the session of m, nil if it is not known.
func (s *fakeServer) session(m fakeRequest) *fakeSession {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.sessionless {
		var x *fakeSession
		for _, x = range s.sessions { // any: there is no way to know
			break
		}
		return x
	}
	return s.sessions[m.session]
}

// checkVersion notes a wrong or missing version header (MCP 2025-06-18 transports, Protocol Version Header).
func (s *fakeServer) checkVersion(m fakeRequest, x *fakeSession) {
	got := m.header.Get("Mcp-Protocol-Version")
	if got != x.version && (got != "" || x.version >= "2025-06-18") {
		s.violate("%s %s with MCP-Protocol-Version %q in a session of %s", m.http, m.method, got, x.version)
	}
}

// sayLost answers a request whose session is not known.
func (s *fakeServer) sayLost(w http.ResponseWriter, m fakeRequest) {
	s.mu.Lock()
	sign := s.lost
	s.mu.Unlock()
	id := m.id
	if id == "" || m.method == "" {
		id = "null"
	}
	say := func(httpStatus, code int, text string) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(httpStatus)
		fmt.Fprintf(w, `{"jsonrpc":"2.0","error":{"code":%d,"message":%q},"id":%s}`, code, text, id)
	}
	switch sign {
	case lost404:
		say(404, -32001, "Session not found")
	case lost400:
		say(400, -32000, "Bad Request: No valid session ID provided")
	case lost410:
		http.Error(w, "gone", http.StatusGone)
	case lost401:
		http.Error(w, "unauthorized", http.StatusUnauthorized)
	case lost503:
		http.Error(w, "no such backend", http.StatusServiceUnavailable)
	case lost200:
		say(200, -32603, "Session not found")
	case lostRequest:
		say(200, -32600, "Invalid session")
	case lostParams:
		say(200, -32602, "Received request before initialization was complete")
	}
}

// serveGet is Streamable HTTP's GET: the server's own stream, or a resumption.
func (s *fakeServer) serveGet(w http.ResponseWriter, r *http.Request, m fakeRequest) {
	if s.noStream {
		w.Header().Set("Allow", "POST, DELETE")
		w.WriteHeader(http.StatusMethodNotAllowed)
		return
	}
	x := s.session(m)
	if x == nil {
		s.sayLost(w, m)
		return
	}
	s.checkVersion(m, x)
	s.mu.Lock()
	st, from := x.get, len(x.get.events)
	if last := m.header.Get("Last-Event-ID"); last != "" && s.ids {
		if s.refuseResume {
			s.mu.Unlock()
			http.Error(w, "cannot resume", http.StatusBadRequest)
			return
		}
		var no, n int
		if _, err := fmt.Sscanf(last, "%d-%d", &no, &n); err != nil || no >= len(x.streams) {
			s.wrong = append(s.wrong, fmt.Sprintf("GET with an unknown Last-Event-ID %q", last))
			s.mu.Unlock()
			http.Error(w, "unknown event", http.StatusBadRequest)
			return
		}
		st, from = x.streams[no], n
		if s.deaf {
			st = &fakeStream{mu: &s.mu, changed: make(chan struct{})}
			from = 0
		}
	} else if last != "" {
		s.wrong = append(s.wrong, "Last-Event-ID although there were no event ids")
	}
	busy := s.oneStream && st == x.get && st.readers > 0
	prime := ""
	if s.ids && st == x.get && from == len(st.events) {
		prime = "id: " + st.id(from) + "\ndata:\n\n"
	}
	s.mu.Unlock()
	if busy {
		http.Error(w, "only one stream", http.StatusConflict)
		return
	}
	s.pump(w, r, st, from, prime, nil)
}

// serveSSE is the transport of 2024-11-05.
func (s *fakeServer) serveSSE(w http.ResponseWriter, r *http.Request, m fakeRequest, f *fault, free func()) {
	if r.Method == http.MethodGet {
		free()
		if m.header.Get("Last-Event-ID") != "" {
			s.violate("Last-Event-ID on HTTP+SSE")
		}
		s.mu.Lock()
		x := s.newSession("2024-11-05")
		s.mu.Unlock()
		endpoint := s.endpoint
		if endpoint == "" {
			endpoint = "/messages?sessionId=%s"
		}
		defer s.set(func() { delete(s.sessions, x.id) })
		s.pump(w, r, x.get, 0, "event: endpoint\ndata: "+strings.ReplaceAll(endpoint, "%s", x.id)+"\n\n", nil)
		return
	}
	if r.Method != http.MethodPost || m.session == "" {
		free()
		w.WriteHeader(max(s.postStatus, http.StatusMethodNotAllowed))
		return
	}
	x := s.session(m)
	if x == nil {
		free()
		s.sayLost(w, m)
		return
	}
	if s.control(x, m) {
		free()
	} else {
		s.run(x, m, x.get, f, free)
	}
	if f != nil && f.answer != nil {
		f.answer(w, r, m)
		return
	}
	w.WriteHeader(http.StatusAccepted)
	io.WriteString(w, "Accepted")
}

// control takes notifications and responses; false if m is a request.
func (s *fakeServer) control(x *fakeSession, m fakeRequest) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case m.method == "": // a response
		var e struct{ ID json.RawMessage }
		fakeMust(json.Unmarshal(m.raw, &e))
		if ch := x.asked[string(e.ID)]; ch != nil {
			delete(x.asked, string(e.ID))
			ch <- m.raw
		} else {
			s.wrong = append(s.wrong, "a response to nothing that was asked: "+string(m.raw))
		}
		return true
	case m.id != "":
		return false
	}
	switch m.method {
	case "notifications/initialized":
		x.initialized = true
	case "notifications/cancelled":
		var e struct {
			Params struct{ RequestID json.RawMessage }
		}
		fakeMust(json.Unmarshal(m.raw, &e))
		if cancel := x.running[string(e.Params.RequestID)]; cancel != nil {
			cancel()
		}
	}
	return true
}

// run executes the request m and puts what it says on st, in a goroutine of its own: it outlives the
// exchange. free is called when it has ended.
func (s *fakeServer) run(x *fakeSession, m fakeRequest, st *fakeStream, f *fault, free func()) {
	ctx, cancel := context.WithCancel(s.base)
	s.mu.Lock()
	if x.ids[m.id] && !s.resets && !bytes.Equal(m.raw, x.cut) { // net/http itself repeats a request once whose connection was closed
		s.wrong = append(s.wrong, fmt.Sprintf("the id %s was used twice in one session", m.id))
	}
	if !x.initialized && m.method != "initialize" && m.method != "ping" {
		s.wrong = append(s.wrong, m.method+" before notifications/initialized")
	}
	x.ids[m.id], x.running[m.id], x.cut = true, cancel, nil
	if f != nil && f.answer == nil && f.edit == nil {
		x.cut = m.raw
	}
	s.mu.Unlock()
	s.wg.Go(func() {
		defer free()
		defer cancel()
		c := &fakeCall{s: s, x: x, st: st, m: m}
		result, bad := c.execute(ctx)
		response := map[string]any{"jsonrpc": "2.0", "id": json.RawMessage(m.id)}
		if bad != nil {
			response["error"] = bad
		} else {
			response["result"] = result
		}
		out := [][]byte{fakeJSON(response)}
		if f != nil && f.edit != nil {
			out = f.edit(out[0])
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(x.running, m.id)
		switch lost := f != nil && f.edit == nil && f.answer == nil; {
		case lost && st == x.get: // HTTP+SSE: the line is cut in place of the answer
			st.broken = f
			st.wake()
		case ctx.Err() == nil:
			for _, b := range out {
				st.add(b)
			}
		}
		if st != x.get {
			st.done = true
			st.wake()
		}
	})
}

// A fakeCall is one request being executed.
type fakeCall struct {
	s  *fakeServer
	x  *fakeSession
	st *fakeStream
	m  fakeRequest
}

type fakeError struct {
	Code    int    `json:"code"`
	Message string `json:"message"`
	Data    any    `json:"data,omitempty"`
}

func (e *fakeError) Error() string { return e.Message }

func (c *fakeCall) params(into any) {
	var e struct{ Params json.RawMessage }
	fakeMust(json.Unmarshal(c.m.raw, &e))
	if len(e.Params) > 0 {
		fakeMust(json.Unmarshal(e.Params, into))
	}
}

// send puts a message on the call's stream, or on the session's where answers are JSON.
func (c *fakeCall) send(m map[string]any) {
	m["jsonrpc"] = "2.0"
	c.s.mu.Lock()
	defer c.s.mu.Unlock()
	if st := c.st; c.s.streams || st == c.x.get {
		st.add(fakeJSON(m))
	} else {
		c.x.get.add(fakeJSON(m))
	}
}

// ask sends a request to the client and waits for the response, whose ids are small numbers as the client's
// own may be.
func (c *fakeCall) ask(ctx context.Context, method string, params any) (json.RawMessage, error) {
	ch := make(chan json.RawMessage, 1)
	c.s.mu.Lock()
	id := strconv.Itoa(len(c.x.ids))
	for c.x.asked[id] != nil {
		id += "0"
	}
	c.x.asked[id] = ch
	c.s.mu.Unlock()
	c.send(map[string]any{"id": json.RawMessage(id), "method": method, "params": params})
	select {
	case raw := <-ch:
		return raw, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (s *fakeServer) serverInfo() map[string]any {
	name := s.name
	if name == "" {
		name = "fake"
	}
	return map[string]any{"name": name, "version": "1"}
}

func (s *fakeServer) abilities() map[string]any {
	if s.capabilities != nil {
		return s.capabilities
	}
	return map[string]any{
		"tools": map[string]any{"listChanged": true}, "prompts": map[string]any{"listChanged": true},
		"resources": map[string]any{"listChanged": true, "subscribe": true},
		"logging":   map[string]any{}, "completions": map[string]any{},
	}
}

// execute runs the request and returns its result.
func (c *fakeCall) execute(ctx context.Context) (any, *fakeError) {
	s := c.s
	switch c.m.method {
	case "initialize":
		r := map[string]any{"protocolVersion": c.x.version, "capabilities": s.abilities(), "serverInfo": s.serverInfo()}
		if s.kind == fakeSSE && s.version != "" {
			r["protocolVersion"] = s.version
		}
		if s.instructions != "" {
			r["instructions"] = s.instructions
		}
		return r, nil
	case "ping":
		if !s.noPing {
			return struct{}{}, nil
		}
	case "tools/list":
		return map[string]any{"tools": fakeTools()}, nil
	case "resources/list":
		return map[string]any{"resources": []any{map[string]any{"uri": "test://a", "name": "a"}, map[string]any{"uri": "test://b", "name": "b"}}}, nil
	case "resources/templates/list":
		return map[string]any{"resourceTemplates": []any{map[string]any{"uriTemplate": "test://{name}", "name": "any"}}}, nil
	case "resources/read":
		var p struct{ URI string }
		c.params(&p)
		return map[string]any{"contents": []any{map[string]any{"uri": p.URI, "mimeType": "text/plain", "text": "content of " + p.URI}}}, nil
	case "resources/subscribe", "resources/unsubscribe":
		var p struct{ URI string }
		c.params(&p)
		s.set(func() { c.x.subscribed[p.URI] = c.m.method == "resources/subscribe" })
		return struct{}{}, nil
	case "prompts/list":
		return map[string]any{"prompts": []any{map[string]any{"name": "greet", "arguments": []any{map[string]any{"name": "who"}}}}}, nil
	case "prompts/get":
		return map[string]any{"messages": []any{map[string]any{"role": "user", "content": map[string]any{"type": "text", "text": "hello"}}}}, nil
	case "completion/complete":
		return map[string]any{"completion": map[string]any{"values": []string{"a", "b"}}}, nil
	case "logging/setLevel":
		var p struct{ Level string }
		c.params(&p)
		s.set(func() { c.x.level = p.Level })
		return struct{}{}, nil
	case "tools/call":
		return c.tool(ctx)
	}
	return nil, &fakeError{Code: -32601, Message: "Method not found"}
}

// fakeTools is the result of tools/list.
func fakeTools() []map[string]any {
	tool := func(name string, annotations map[string]any) map[string]any {
		t := map[string]any{"name": name, "inputSchema": map[string]any{"type": "object", "properties": map[string]any{"key": map[string]any{"type": "string"}}}}
		if annotations != nil {
			t["annotations"] = annotations
		}
		return t
	}
	region := tool("region", nil)
	region["inputSchema"].(map[string]any)["properties"].(map[string]any)["region"] = map[string]any{"type": "string", "x-mcp-header": "Region"}
	return []map[string]any{
		tool("echo", nil), tool("slow", nil), tool("add", nil), tool("progress", nil), tool("log", nil), tool("ask", nil),
		tool("look", map[string]any{"readOnlyHint": true}), tool("put", map[string]any{"idempotentHint": true}),
		tool("big", nil), tool("image", nil), tool("fails", nil), tool("refuses", nil), region,
	}
}

func fakeText(s string) map[string]any {
	return map[string]any{"content": []any{map[string]any{"type": "text", "text": s}}}
}

// tool executes a tools/call and counts it.
func (c *fakeCall) tool(ctx context.Context) (any, *fakeError) {
	var p struct {
		Name      string
		Arguments struct {
			Text   string
			MS     int
			Steps  int
			Method string
			Bytes  int
			Code   int
		}
		Meta struct {
			ProgressToken json.RawMessage
			LogLevel      string `json:"io.modelcontextprotocol/logLevel"`
		} `json:"_meta"`
	}
	c.params(&p)
	s, a, key := c.s, p.Arguments, c.m.key
	s.mu.Lock()
	s.ran[key]++
	n := s.ran[key]
	if p.Name != "look" && p.Name != "put" {
		s.unsafe[key] = true
	}
	s.mu.Unlock()
	pause := func() bool {
		select {
		case <-time.After(time.Duration(a.MS) * time.Millisecond):
			return true
		case <-ctx.Done():
			s.set(func() { s.stopped[key]++ })
			return false
		}
	}
	defer s.set(func() { s.done[key]++ })
	switch p.Name {
	case "echo":
		return fakeText(a.Text), nil
	case "slow":
		if !pause() {
			break
		}
		return fakeText("slept"), nil
	case "add", "look", "put":
		if !pause() {
			break
		}
		return fakeText(strconv.Itoa(n)), nil
	case "progress":
		for i := range a.Steps {
			if !pause() {
				return nil, &fakeError{Code: -32000, Message: "cancelled"}
			}
			if p.Meta.ProgressToken != nil {
				c.send(map[string]any{"method": "notifications/progress", "params": map[string]any{
					"progressToken": p.Meta.ProgressToken, "progress": i + 1, "total": a.Steps}})
			}
		}
		return fakeText("done"), nil
	case "log":
		if c.x.version != fakeModern || p.Meta.LogLevel != "" {
			c.send(map[string]any{"method": "notifications/message", "params": map[string]any{"level": "info", "data": a.Text}})
		}
		return fakeText("logged"), nil
	case "ask":
		raw, err := c.ask(ctx, a.Method, map[string]any{"message": "well?", "requestedSchema": map[string]any{"type": "object", "properties": map[string]any{}}})
		if err != nil {
			s.set(func() { s.stopped[key]++ })
			break
		}
		return fakeText("the client said " + string(raw)), nil
	case "big":
		return fakeText(strings.Repeat("x", a.Bytes)), nil
	case "image":
		return map[string]any{"content": []any{map[string]any{"type": "image", "data": "iVBORw0KGgo=", "mimeType": "image/png"}}}, nil
	case "fails":
		r := fakeText(a.Text)
		r["isError"] = true
		return r, nil
	case "refuses":
		return nil, &fakeError{Code: a.Code, Message: a.Text}
	case "region":
		return fakeText("in " + c.m.header.Get("Mcp-Param-Region")), nil
	default:
		return nil, &fakeError{Code: -32602, Message: "Unknown tool"}
	}
	return nil, &fakeError{Code: -32000, Message: "cancelled"}
}

// The stateless revision.

const (
	fakeMetaVersion = "io.modelcontextprotocol/protocolVersion"
	fakeMetaInfo    = "io.modelcontextprotocol/serverInfo"
	fakeMetaListen  = "io.modelcontextprotocol/subscriptionId"
	fakeModern      = "2026-07-28"
)

// A fakeListen is one open subscriptions/listen.
type fakeListen struct {
	id     json.RawMessage
	wanted map[string]bool // methods
	uris   []string
	st     *fakeStream
}

// notify sends what was subscribed to; the server's lock is held.
func (l *fakeListen) notify(method string, params map[string]any) {
	if !l.wanted[method] && !(method == "notifications/resources/updated" && slices.Contains(l.uris, fmt.Sprint(params["uri"]))) {
		return
	}
	p := maps.Clone(params)
	if p == nil {
		p = map[string]any{}
	}
	p["_meta"] = map[string]any{fakeMetaListen: l.id}
	l.st.add(fakeJSON(map[string]any{"jsonrpc": "2.0", "method": method, "params": p}))
}

// serveStateless is MCP 2026-07-28.
func (s *fakeServer) serveStateless(w http.ResponseWriter, r *http.Request, m fakeRequest, f *fault, free func()) {
	if r.Method != http.MethodPost {
		free()
		w.Header().Set("Allow", "POST")
		w.WriteHeader(http.StatusMethodNotAllowed)
		return
	}
	refuse := func(status int, e fakeError) {
		free()
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		w.Write(fakeJSON(map[string]any{"jsonrpc": "2.0", "id": json.RawMessage(cmp.Or(m.id, "null")), "error": e}))
	}
	var p struct {
		Params struct {
			Name          string
			URI           string
			Meta          map[string]json.RawMessage `json:"_meta"`
			Arguments     map[string]json.RawMessage
			Notifications fakeFilter
		}
	}
	if err := json.Unmarshal(m.raw, &p); err != nil {
		refuse(400, fakeError{Code: -32700, Message: "Parse error"})
		return
	}
	version := strings.Trim(string(p.Params.Meta[fakeMetaVersion]), `"`)
	switch {
	case m.id == "":
		s.violate("a client's %s over stateless HTTP", m.method)
		free()
		w.WriteHeader(http.StatusAccepted)
		return
	case m.session != "":
		s.violate("Mcp-Session-Id sent to a stateless server")
	}
	switch {
	case m.method == "initialize" || version != "" && version != fakeModern:
		refuse(400, fakeError{Code: -32022, Message: "Unsupported protocol version",
			Data: map[string]any{"supported": []string{fakeModern}, "requested": version}})
		return
	case version == "" || p.Params.Meta["io.modelcontextprotocol/clientCapabilities"] == nil:
		refuse(400, fakeError{Code: -32602, Message: "_meta lacks required fields"})
		return
	}
	mismatch := func(header, want string) bool {
		if got := m.header.Get(header); got != want {
			s.violate("%s with %s %q, want %q", m.method, header, got, want)
			refuse(400, fakeError{Code: -32020, Message: "Header mismatch: " + header})
			return true
		}
		return false
	}
	name := p.Params.Name
	if m.method == "resources/read" {
		name = p.Params.URI
	}
	if mismatch("Mcp-Protocol-Version", fakeModern) || mismatch("Mcp-Method", m.method) || name != "" && mismatch("Mcp-Name", name) {
		return
	}
	if m.tool == "region" && mismatch("Mcp-Param-Region", strings.Trim(string(p.Params.Arguments["region"]), `"`)) {
		return
	}
	x := &fakeSession{version: fakeModern, initialized: true, ids: map[string]bool{}, running: map[string]context.CancelFunc{}, subscribed: map[string]bool{}, asked: map[string]chan json.RawMessage{}}
	x.get = x.newStream(s)
	st := x.newStream(s)
	if m.method == "subscriptions/listen" {
		free()
		n := p.Params.Notifications
		l := &fakeListen{id: json.RawMessage(m.id), st: st, uris: n.ResourceSubscriptions, wanted: map[string]bool{
			"notifications/tools/list_changed": n.ToolsListChanged, "notifications/prompts/list_changed": n.PromptsListChanged,
			"notifications/resources/list_changed": n.ResourcesListChanged}}
		s.mu.Lock()
		s.listens[l] = true
		st.add(fakeJSON(map[string]any{"jsonrpc": "2.0", "method": "notifications/subscriptions/acknowledged", "params": map[string]any{
			"notifications": n, "_meta": map[string]any{fakeMetaListen: l.id}}}))
		s.mu.Unlock()
		defer s.set(func() { delete(s.listens, l) })
		s.pump(w, r, st, 0, "", f)
		return
	}
	// Leaving is cancelling (MCP 2026-07-28 streamable HTTP, Cancellation).
	s.runStateless(r.Context(), x, m, st, f, free)
	s.answer(w, r, m, st, f)
}

// A fakeFilter says what a subscription wants, or gets.
type fakeFilter struct {
	ToolsListChanged      bool     `json:"toolsListChanged,omitempty"`
	PromptsListChanged    bool     `json:"promptsListChanged,omitempty"`
	ResourcesListChanged  bool     `json:"resourcesListChanged,omitempty"`
	ResourceSubscriptions []string `json:"resourceSubscriptions,omitempty"`
}

// runStateless is run with a context that ends with the exchange and results as that revision has them.
func (s *fakeServer) runStateless(ctx context.Context, x *fakeSession, m fakeRequest, st *fakeStream, f *fault, free func()) {
	s.wg.Go(func() {
		defer free()
		c := &fakeCall{s: s, x: x, st: st, m: m}
		result, bad := c.stateless(ctx)
		response := map[string]any{"jsonrpc": "2.0", "id": json.RawMessage(m.id)}
		if bad != nil {
			response["error"] = bad
		} else {
			response["result"] = result
		}
		out := [][]byte{fakeJSON(response)}
		if f != nil && f.edit != nil {
			out = f.edit(out[0])
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		for _, b := range out {
			st.add(b)
		}
		st.done = true
		st.wake()
	})
}

func (c *fakeCall) stateless(ctx context.Context) (any, *fakeError) {
	var p struct {
		Name           string
		Arguments      struct{ Method string }
		InputResponses map[string]json.RawMessage
		RequestState   string
	}
	c.params(&p)
	var result any
	var bad *fakeError
	switch {
	case c.m.method == "server/discover":
		result = map[string]any{"supportedVersions": []string{fakeModern}, "capabilities": c.s.abilities()}
	case c.m.method == "ping" || strings.HasPrefix(c.m.method, "logging/") || strings.HasSuffix(c.m.method, "subscribe"):
		return nil, &fakeError{Code: -32601, Message: "Method not found"}
	case p.Name == "ask" && p.InputResponses == nil:
		c.s.mu.Lock()
		state := fmt.Sprintf("state-%d", len(c.s.seen))
		c.s.mu.Unlock()
		return map[string]any{"resultType": "input_required", "requestState": state, "inputRequests": map[string]any{
			"q": map[string]any{"method": p.Arguments.Method, "params": map[string]any{"mode": "form", "message": "well?", "requestedSchema": map[string]any{"type": "object", "properties": map[string]any{}}}},
		}}, nil
	case p.Name == "ask":
		if p.RequestState == "" {
			c.s.violate("inputResponses without the requestState")
		}
		c.s.set(func() { c.s.ran[c.m.key]++ })
		result = fakeText("the client said " + string(p.InputResponses["q"]))
	default:
		result, bad = c.execute(ctx)
	}
	if bad != nil {
		return nil, bad
	}
	var out map[string]any
	fakeMust(json.Unmarshal(fakeJSON(result), &out))
	out["resultType"] = "complete"
	if c.m.method == "server/discover" || strings.HasSuffix(c.m.method, "/list") || c.m.method == "resources/read" {
		out["ttlMs"], out["cacheScope"] = 0, "private"
	}
	out["_meta"] = map[string]any{fakeMetaInfo: c.s.serverInfo()}
	return out, nil
}

// Small things.

func fakeMust(err error) {
	if err != nil {
		panic(err)
	}
}

func fakeJSON(v any) []byte {
	b, err := json.Marshal(v)
	fakeMust(err)
	return b
}
