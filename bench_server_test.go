package main

// bench_server_test.go is the server of the benchmark, a process of its own so that its work is not counted as
// anybody else's. It speaks Streamable HTTP with JSON answers on /json and with streams on /events, and
// HTTP+SSE on /sse, and does as little as it can: answers are made before they are asked for, and requests
// are looked at, not parsed. A second address takes the orders of the benchmark.

import (
	"bufio"
	"bytes"
	"fmt"
	"hash/crc32"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// benchText is n bytes of a JSON string as tools return them: source code, with a few escapes a line.
func benchText(n int) []byte {
	const line = `	if err := json.Unmarshal(data, &v); err != nil { // \"quoted\", an umlaut: ü\n`
	return bytes.Repeat([]byte(strings.Replace(line, "\t", `\t`, 1)), n/len(line)+1)[:n/len(line)*len(line)]
}

// benchNote is the n-th notification of a flood, appended to b.
func benchNote(b []byte, n int) []byte {
	b = append(b, `{"jsonrpc":"2.0","method":"notifications/message","params":{"level":"info","data":`...)
	b = strconv.AppendInt(b, int64(n), 10)
	return append(b, "}}"...)
}

// benchResult is a result whose text is about n bytes long: what follows the id of the answer.
func benchResult(text []byte) []byte {
	return []byte(`,"result":{"content":[{"type":"text","text":"` + string(text) + `"}]}}`)
}

const (
	benchSession = "b5e3f0a1c2d4"
	benchTools   = `,"result":{"tools":[{"name":"echo","inputSchema":{"type":"object"}},` +
		`{"name":"read","inputSchema":{"type":"object"},"annotations":{"readOnlyHint":true}}]}}`
	benchHello = `,"result":{"protocolVersion":"2025-06-18","capabilities":{"tools":{}},"serverInfo":{"name":"bench","version":"1"}}}`
)

type benchServer struct {
	results sync.Map // of benchResult by size
	floods  sync.Map // of flood by number
	lost    atomic.Bool
	stale   atomic.Bool
	sent    atomic.Int64 // bytes of notifications handed to the kernel

	mu      sync.Mutex
	held    int
	release chan struct{}
	cut     chan struct{} // closed to end the idle streams
	streams map[string]*benchStream
}

// A benchStream is the stream of an HTTP+SSE session.
type benchStream struct {
	frames chan [][]byte // written one after the other, then flushed
	gone   chan struct{}
}

func (s *benchServer) result(n int) []byte {
	if r, ok := s.results.Load(n); ok {
		return r.([]byte)
	}
	r, _ := s.results.LoadOrStore(n, benchResult(benchText(n)))
	return r.([]byte)
}

// flood is n notifications as events, in pieces of about 60 KiB.
func (s *benchServer) flood(n int) [][]byte {
	if f, ok := s.floods.Load(n); ok {
		return f.([][]byte)
	}
	var pieces [][]byte
	var b []byte
	for i := range n {
		b = append(benchNote(append(b, "event: message\ndata: "...), i), "\n\n"...)
		if len(b) > 60<<10 || i == n-1 {
			pieces = append(pieces, b)
			b = nil
		}
	}
	s.floods.Store(n, pieces)
	return pieces
}

// benchField is the token that follows key at the head of a message, "" if there is none.
func benchField(body []byte, key string) string {
	_, rest, ok := bytes.Cut(body[:min(len(body), 512)], []byte(`"`+key+`":`))
	if !ok {
		return ""
	}
	if rest[0] == '"' {
		return string(rest[:bytes.IndexByte(rest[1:], '"')+2])
	}
	return string(rest[:bytes.IndexAny(rest, ",}")])
}

// A benchSink writes the answer to one request in the manner of its transport.
type benchSink interface {
	send(parts ...[]byte) // a message
	raw(events []byte)    // ready-made events
}

type benchJSON struct{ w http.ResponseWriter }

func (j benchJSON) send(parts ...[]byte) {
	n := 0
	for _, p := range parts {
		n += len(p)
	}
	j.w.Header().Set("Content-Type", "application/json")
	j.w.Header().Set("Content-Length", strconv.Itoa(n))
	for _, p := range parts {
		j.w.Write(p)
	}
}
func (j benchJSON) raw([]byte) {}

type benchEvents struct{ w http.ResponseWriter }

func (e benchEvents) send(parts ...[]byte) {
	io.WriteString(e.w, "event: message\ndata: ")
	for _, p := range parts {
		e.w.Write(p)
	}
	io.WriteString(e.w, "\n\n")
	http.NewResponseController(e.w).Flush()
}
func (e benchEvents) raw(b []byte) { e.w.Write(b) }

type benchQueue struct{ st *benchStream }

func (q benchQueue) send(parts ...[]byte) {
	q.put(append(append([][]byte{[]byte("event: message\ndata: ")}, parts...), []byte("\n\n"))...)
}
func (q benchQueue) raw(b []byte) { q.put(b) }
func (q benchQueue) put(parts ...[]byte) {
	select {
	case q.st.frames <- parts:
	case <-q.st.gone:
	}
}

// act does what a request asks for.
func (s *benchServer) act(body []byte, to benchSink) {
	head := []byte(`{"jsonrpc":"2.0","id":` + benchField(body, "id"))
	n, _ := strconv.Atoi(benchField(body, "n"))
	switch benchField(body, "method") + benchField(body, "name") {
	case `"initialize"`, `"initialize""bench"`:
		to.send(head, []byte(benchHello))
	case `"tools/list"`:
		to.send(head, []byte(benchTools))
	case `"tools/call""echo"`, `"tools/call""read"`:
		to.send(head, s.result(n))
	case `"tools/call""take"`: // the whole request is vouched for
		to.send(head, []byte(fmt.Sprintf(`,"result":{"content":[],"crc":%d}}`, crc32.ChecksumIEEE(body))))
	case `"tools/call""hold"`:
		s.mu.Lock()
		s.held++
		free := s.release
		s.mu.Unlock()
		<-free
		to.send(head, s.result(n))
	case `"tools/call""flood"`:
		for _, b := range s.flood(n) {
			to.raw(b)
			s.sent.Add(int64(len(b)))
		}
		to.send(head, s.result(0))
	default:
		to.send(head, []byte(`,"result":{}}`))
	}
}

func (s *benchServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var body []byte
	if r.Method == http.MethodPost {
		body = make([]byte, r.ContentLength)
		if _, err := io.ReadFull(r.Body, body); err != nil {
			return
		}
		if s.stale.CompareAndSwap(true, false) {
			panic(http.ErrAbortHandler) // closed before anything was read, as far as a client can tell
		}
	}
	request := benchField(body, "method") != "" && benchField(body, "id") != ""
	hello := benchField(body, "method") == `"initialize"`
	switch {
	case r.URL.Path == "/message":
		s.mu.Lock()
		st := s.streams[r.URL.Query().Get("s")]
		s.mu.Unlock()
		if st == nil {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		w.WriteHeader(http.StatusAccepted)
		if request {
			go s.act(body, benchQueue{st})
		}
	case r.URL.Path == "/sse":
		s.serveStream(w, r)
	case !hello && s.lost.Load() && r.Header.Get("Mcp-Session-Id") != "":
		w.WriteHeader(http.StatusNotFound)
	case r.Method == http.MethodGet:
		w.Header().Set("Content-Type", "text/event-stream")
		http.NewResponseController(w).Flush()
		s.mu.Lock()
		cut := s.cut
		s.mu.Unlock()
		select {
		case <-cut:
			panic(http.ErrAbortHandler)
		case <-r.Context().Done():
		}
	case r.Method != http.MethodPost:
	case !request:
		w.WriteHeader(http.StatusAccepted)
	default:
		if hello {
			s.lost.Store(false)
			w.Header().Set("Mcp-Session-Id", benchSession)
		}
		if r.URL.Path == "/json" {
			s.act(body, benchJSON{w})
			return
		}
		w.Header().Set("Content-Type", "text/event-stream")
		s.act(body, benchEvents{w})
	}
}

func (s *benchServer) serveStream(w http.ResponseWriter, r *http.Request) {
	st := &benchStream{frames: make(chan [][]byte, 64), gone: make(chan struct{})}
	s.mu.Lock()
	id := strconv.Itoa(len(s.streams))
	s.streams[id] = st
	cut := s.cut
	s.mu.Unlock()
	defer func() {
		close(st.gone)
		s.mu.Lock()
		s.streams[id] = nil
		s.mu.Unlock()
	}()
	w.Header().Set("Content-Type", "text/event-stream")
	fmt.Fprintf(w, "event: endpoint\ndata: /message?s=%s\n\n", id)
	c := http.NewResponseController(w)
	c.Flush()
	for {
		select {
		case parts := <-st.frames:
			for _, p := range parts {
				if _, err := w.Write(p); err != nil {
					return
				}
			}
			if len(st.frames) == 0 {
				c.Flush()
			}
		case <-cut:
			panic(http.ErrAbortHandler)
		case <-r.Context().Done():
			return
		}
	}
}

// order carries out what the benchmark wants.
func (s *benchServer) order(w http.ResponseWriter, r *http.Request, restart func(down time.Duration)) {
	n, _ := strconv.Atoi(r.URL.Query().Get("n"))
	switch r.URL.Path {
	case "/held": // returns once n calls are held
		for held := -1; held < n; time.Sleep(100 * time.Microsecond) {
			s.mu.Lock()
			held = s.held
			s.mu.Unlock()
		}
	case "/release":
		s.mu.Lock()
		close(s.release)
		s.held, s.release = 0, make(chan struct{})
		s.mu.Unlock()
	case "/cut":
		s.mu.Lock()
		close(s.cut)
		s.cut = make(chan struct{})
		s.mu.Unlock()
	case "/stale":
		s.stale.Store(true)
	case "/sent":
		fmt.Fprint(w, s.sent.Swap(0))
	case "/restart": // for n milliseconds there is nobody
		s.lost.Store(true)
		restart(time.Duration(n) * time.Millisecond)
	}
}

// serveBench serves until stdin ends.
func serveBench() error {
	s := &benchServer{release: make(chan struct{}), cut: make(chan struct{}), streams: map[string]*benchStream{}}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	orders, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	addr := l.Addr().String()
	server := &http.Server{Handler: s}
	go server.Serve(l)
	go http.Serve(orders, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.order(w, r, func(down time.Duration) {
			server.Close()
			server = &http.Server{Handler: s}
			go func(server *http.Server) {
				time.Sleep(down)
				for {
					if l, err := net.Listen("tcp", addr); err == nil {
						server.Serve(l)
						return
					}
					time.Sleep(time.Millisecond)
				}
			}(server)
		})
	}))
	fmt.Printf("%s %s\n", addr, orders.Addr())
	_, err = bufio.NewReader(os.Stdin).ReadByte()
	return err
}

// TestBenchServer is the process of the benchmark's server.
func TestBenchServer(t *testing.T) {
	if os.Getenv("REDIAL_BENCH_SERVER") == "" {
		t.Skip("the benchmark runs this as its server")
	}
	if err := serveBench(); err != io.EOF {
		t.Fatal(err)
	}
}
