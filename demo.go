package main

// demo.go shows a person that the line heals: it runs a small MCP server on loopback that breaks its
// streams and forgets its sessions every second or so, and two bridges with their usual settings against
// it, one over each of the older transports, whose client is this program. It listens on 127.0.0.1 only,
// writes nothing but its report (plain text, for terminals and files alike), and lasts less than 15 seconds.

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

const (
	demoLasts   = 8 * time.Second // then no new calls are made
	demoPatient = 4 * time.Second // then those without an answer are lost
	demoCalls   = 4               // in the air at once on each line
)

// demo returns the exit code: 1 if a call was lost or a tool ran twice.
func demo(ctx context.Context, o options, w io.Writer) int {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		fmt.Fprintf(w, "opening a port for the demo's server: %v\n", err)
		return 1
	}
	s := &demoServer{sessions: map[string]chan string{}, cut: make(chan bool), ran: map[string]bool{}}
	server := &http.Server{Handler: s}
	go server.Serve(l)
	defer server.Close()
	u := url.URL{Scheme: "http", Host: l.Addr().String()}
	again, once, _, err := newClients(clientOptions{server: &u})
	if err != nil {
		fmt.Fprintln(w, err)
		return 1
	}
	fmt.Fprintf(w, "The server on %s breaks the line and forgets its sessions, again and again.\n", l.Addr())

	ctx, cancel := context.WithTimeout(ctx, demoLasts+demoPatient)
	defer cancel()
	a, b, end := &demoLine{path: "/mcp"}, &demoLine{path: "/sse"}, time.Now().Add(demoLasts)
	var wg sync.WaitGroup
	for _, d := range []*demoLine{a, b} {
		mem := newBudget(o.maxMemory, o.maxMessage)
		at := &wire{url: u.ResolveReference(&url.URL{Path: d.path}), again: again, once: once, max: o.maxMessage, mem: mem, log: slog.New(slog.DiscardHandler)}
		wg.Go(func() { d.run(ctx, o, at, end) })
	}
	finished := make(chan bool)
	go func() { wg.Wait(); close(finished) }()
	tick, drops := time.NewTicker(900*time.Millisecond), 0
	defer tick.Stop()
	for running := true; running; {
		select {
		case <-tick.C:
			if time.Until(end) > time.Second { // the last calls are answered in peace
				drops++
				s.drop(drops%2 == 0)
			}
			fmt.Fprintf(w, "  %d calls answered, the line dropped %d times\n", a.answered.Load()+b.answered.Load(), drops)
		case <-finished:
			running = false
		}
	}
	for _, r := range [][3]any{
		{"", "Streamable HTTP", "HTTP+SSE"},
		{"calls made", a.made, b.made},
		{"answered", a.answered.Load(), b.answered.Load()},
		{"  of them “may have run”", a.unknown, b.unknown},
		{"drops survived", drops, drops},
		{"longest wait", a.longest.Round(time.Millisecond), b.longest.Round(time.Millisecond)},
		{"tools run twice", s.twice.Load(), s.twice.Load()},
		{"calls lost", a.lost(), b.lost()},
	} {
		for i := range r {
			if r[i] == 0 || r[i] == int64(0) {
				r[i] = "none"
			}
		}
		fmt.Fprintf(w, "%-26s%16v%12v\n", r[0], r[1], r[2])
	}
	if s.twice.Load() > 0 || a.lost() != 0 || b.lost() != 0 {
		return 1
	}
	return 0
}

// A demoLine is one bridge and its client. Its counts are read when run has returned.
type demoLine struct {
	path          string
	made, unknown int
	answered      atomic.Int64 // also read meanwhile
	longest       time.Duration
}

// lost is also not 0 when something was answered twice.
func (d *demoLine) lost() int { return d.made - int(d.answered.Load()) }

// run makes calls until end, and returns when they are settled and the bridge has ended.
func (d *demoLine) run(ctx context.Context, o options, at *wire, end time.Time) {
	say, hear := within(ctx, o, outside{connect: at.connect}, at)
	lines := bufio.NewScanner(hear)
	d.ask(say, lines, "initialize", `"protocolVersion":"2025-06-18","capabilities":{},"clientInfo":{"name":"demo","version":"1"}`)
	fmt.Fprintln(say, `{"jsonrpc":"2.0","method":"notifications/initialized"}`)
	d.ask(say, lines, "tools/list", "")
	for time.Now().Before(end) && d.lost() == 0 {
		var calls []string
		for i := range demoCalls {
			tool := []string{"look", "pay"}[i%2]
			calls = append(calls, fmt.Sprintf(`"name":%q,"arguments":{"key":"%s %s %d"}`, tool, d.path, tool, d.made+i))
		}
		d.ask(say, lines, "tools/call", calls...)
	}
	say.Close()
	io.Copy(io.Discard, hear)
}

// ask makes one request for each of params and waits until all are answered or the bridge has ended.
func (d *demoLine) ask(say io.Writer, lines *bufio.Scanner, method string, params ...string) {
	open, began := map[int]bool{}, time.Now()
	for _, p := range params {
		d.made++
		open[d.made] = true
		fmt.Fprintf(say, `{"jsonrpc":"2.0","id":%d,"method":%q,"params":{%s}}`+"\n", d.made, method, p)
	}
	for len(open) > 0 && lines.Scan() {
		var m struct {
			ID    int
			Error struct{ Code faultKind }
		}
		if json.Unmarshal(lines.Bytes(), &m) != nil || m.ID == 0 {
			continue
		}
		switch m.Error.Code {
		case faultOutcomeUnknown:
			d.unknown++
			fallthrough
		case 0:
			d.answered.Add(1)
		}
		delete(open, m.ID)
		d.longest = max(d.longest, time.Since(began))
	}
}

// A demoServer is an unreliable MCP server of two tools, look (readOnlyHint) and pay.
type demoServer struct {
	mu       sync.Mutex
	sessions map[string]chan string // HTTP+SSE: what its stream is to send
	cut      chan bool              // closed by drop, and replaced
	ran      map[string]bool        // by key
	twice    atomic.Int64           // calls of pay
	made     int
}

// drop breaks every stream and every answer that is due.
func (s *demoServer) drop(forget bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if forget {
		clear(s.sessions)
	}
	close(s.cut)
	s.cut = make(chan bool)
}

func (s *demoServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var m struct {
		ID     json.RawMessage
		Method string
		Params struct{ Arguments struct{ Key string } }
	}
	json.NewDecoder(r.Body).Decode(&m) // GET and DELETE have none
	id, sse := r.Header.Get("Mcp-Session-Id"), r.URL.Path == "/sse"
	if sse {
		id = r.URL.RawQuery
	}
	s.mu.Lock()
	cut := s.cut
	stream, known := s.sessions[id]
	if sse && r.Method == http.MethodGet || !sse && m.Method == "initialize" {
		s.made++
		id, stream, known = strconv.Itoa(s.made), make(chan string, demoCalls), true
		s.sessions[id] = stream
	}
	s.mu.Unlock()
	switch {
	case sse && r.Method == http.MethodPost && id == "":
		w.WriteHeader(http.StatusMethodNotAllowed) // this address takes no Streamable HTTP
	case !known:
		w.WriteHeader(http.StatusNotFound)
	case r.Method == http.MethodGet:
		w.Header().Set("Content-Type", "text/event-stream")
		if sse {
			fmt.Fprintf(w, "event: endpoint\ndata: /sse?%s\n\n", id)
		}
		for {
			http.NewResponseController(w).Flush()
			select {
			case answer := <-stream:
				fmt.Fprintf(w, "data: %s\n\n", answer)
			case <-cut:
				panic(http.ErrAbortHandler)
			case <-r.Context().Done():
				return
			}
		}
	case m.ID == nil:
		w.WriteHeader(http.StatusAccepted)
	default:
		answer := fmt.Sprintf(`{"jsonrpc":"2.0","id":%s,"result":%s}`, m.ID, s.execute(m.Method, m.Params.Arguments.Key))
		select {
		case <-cut:
			panic(http.ErrAbortHandler)
		default:
		}
		if sse {
			w.WriteHeader(http.StatusAccepted)
			stream <- answer
			return
		}
		w.Header().Set("Mcp-Session-Id", id)
		w.Header().Set("Content-Type", "application/json")
		io.WriteString(w, answer)
	}
}

func (s *demoServer) execute(method, key string) string {
	switch method {
	case "initialize":
		return `{"protocolVersion":"2025-06-18","capabilities":{"tools":{}},"serverInfo":{"name":"demo","version":"1"}}`
	case "tools/list":
		return `{"tools":[{"name":"look","inputSchema":{"type":"object"},"annotations":{"readOnlyHint":true}},{"name":"pay","inputSchema":{"type":"object"}}]}`
	}
	s.mu.Lock()
	if s.ran[key] && strings.Contains(key, "pay") {
		s.twice.Add(1)
	}
	s.ran[key] = true
	s.mu.Unlock()
	time.Sleep(rand.N(60 * time.Millisecond)) // work
	return `{"content":[{"type":"text","text":"done"}]}`
}
