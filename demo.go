package main

// demo.go shows a person that the line heals: it runs a small MCP server on loopback that breaks its
// streams and forgets its sessions every second or so, and two bridges with their usual settings against
// it, one over each of the older transports, whose client is this program. It listens on 127.0.0.1 only,
// writes nothing but its report (plain text, for terminals and files alike), and lasts less than 15 seconds.

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
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
	s := &demoServer{sessions: map[string]chan []byte{}, cut: make(chan bool), ran: map[string]bool{}}
	server := &http.Server{Handler: s}
	go server.Serve(l)
	defer server.Close()
	u := url.URL{Scheme: "http", Host: l.Addr().String()}
	again, once, _, _ := newClients(clientOptions{server: &u}) // only certificates could be wrong, and there are none
	fmt.Fprintf(w, "The server on %s breaks the line and forgets its sessions, again and again.\n", l.Addr())

	ctx, cancel := context.WithTimeout(ctx, demoLasts+demoPatient)
	defer cancel()
	lines, end := []*demoLine{{name: "Streamable HTTP", path: "/mcp"}, {name: "HTTP+SSE", path: "/sse"}}, time.Now().Add(demoLasts)
	var wg sync.WaitGroup
	for _, d := range lines {
		mem := newBudget(o.maxMemory, o.maxMessage)
		at := &wire{url: u.ResolveReference(&url.URL{Path: d.path}), again: again, once: once, max: o.maxMessage, mem: mem, log: slog.New(slog.DiscardHandler)}
		wg.Go(func() { d.run(ctx, o, at, end) })
	}
	drops := 0
	for time.Now().Before(end) && ctx.Err() == nil {
		time.Sleep(900 * time.Millisecond)
		if time.Until(end) > time.Second { // the last calls are answered in peace
			drops++
			s.drop(drops%2 == 0)
		}
		fmt.Fprintf(w, "  %d calls answered, the line dropped %d times\n", lines[0].answered.Load()+lines[1].answered.Load(), drops)
	}
	wg.Wait()
	const row = "%-15s%12v%10v%16v%16v%14v%17v%12v\n"
	fmt.Fprintf(w, row, "", "calls made", "answered", "“may have run”", "drops survived", "longest wait", "tools run twice", "calls lost")
	trouble := int(s.twice.Load())
	for _, d := range lines {
		fmt.Fprintf(w, row, d.name, d.made, d.answered.Load(), d.unknown, drops, d.longest.Round(time.Millisecond), s.twice.Load(), d.lost())
		trouble += max(d.lost(), -d.lost())
	}
	return min(trouble, 1)
}

// A demoLine is one bridge and its client. Its counts are read when run has returned.
type demoLine struct {
	name, path    string
	made, unknown int
	answered      atomic.Int64 // also read meanwhile
	longest       time.Duration
}

// lost is also not 0 when something was answered twice.
func (d *demoLine) lost() int { return d.made - int(d.answered.Load()) }

// run makes calls until end, and returns when they are settled and the bridge has ended.
func (d *demoLine) run(ctx context.Context, o options, at *wire, end time.Time) {
	g := within(ctx, o, outside{connect: at.connect}, at)
	defer g.leave()
	d.ask(g, "initialize", introduction("demo"))
	g.tell(newNotification("notifications/initialized", nil))
	d.ask(g, "tools/list", map[string]any{})
	for time.Now().Before(end) && d.lost() == 0 {
		var calls []any
		for i := range demoCalls {
			tool := []string{"look", "pay"}[i%2]
			calls = append(calls, map[string]any{"name": tool, "arguments": map[string]any{"key": fmt.Sprint(d.path, d.made+i)}})
		}
		d.ask(g, "tools/call", calls...)
	}
}

// ask makes a request of each of params, and counts what comes of them.
func (d *demoLine) ask(g *guest, method string, params ...any) {
	began := time.Now()
	d.made += len(params)
	g.ask(method, func(m message) {
		switch faultKind(errorCode(m.raw)) {
		case faultOutcomeUnknown:
			d.unknown++
			fallthrough
		case 0:
			d.answered.Add(1)
		}
		d.longest = max(d.longest, time.Since(began))
	}, params...)
}

// A demoServer is an unreliable MCP server of two tools, look (readOnlyHint) and pay.
type demoServer struct {
	mu       sync.Mutex
	sessions map[string]chan []byte // HTTP+SSE: what its stream is to send
	cut      chan bool              // closed by drop, and replaced
	ran      map[string]bool        // by key
	twice    atomic.Int64           // calls of pay
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
	body, _ := io.ReadAll(r.Body)
	m, _ := scan(body) // GET and DELETE have none
	id, sse := cmp.Or(r.Header.Get("Mcp-Session-Id"), r.URL.RawQuery), r.URL.Path == "/sse"
	s.mu.Lock()
	if sse && r.Method == http.MethodGet || !sse && m.method == "initialize" {
		id = fmt.Sprint(rand.Uint64())
		s.sessions[id] = make(chan []byte, demoCalls)
	}
	cut, stream := s.cut, s.sessions[id]
	s.mu.Unlock()
	switch {
	case stream == nil: // forgotten, or Streamable HTTP where there is none
		w.WriteHeader(http.StatusNotFound)
	case r.Method == http.MethodGet:
		w.Header().Set("Content-Type", eventStream)
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
	case m.kind != request:
		w.WriteHeader(http.StatusAccepted)
	default:
		answer := newResult(m.id, s.execute(m)).raw
		select {
		case <-cut: // it has acted, and nobody hears of it
			panic(http.ErrAbortHandler)
		case <-time.After(rand.N(60 * time.Millisecond)):
		}
		if sse {
			w.WriteHeader(http.StatusAccepted)
			stream <- answer
			return
		}
		w.Header().Set("Mcp-Session-Id", id)
		w.Header().Set("Content-Type", jsonType)
		w.Write(answer)
	}
}

func (s *demoServer) execute(m message) []byte {
	switch m.method {
	case "initialize":
		return []byte(`{"protocolVersion":"2025-06-18","capabilities":{"tools":{}},"serverInfo":{"name":"demo","version":"1"}}`)
	case "tools/list":
		return []byte(`{"tools":[{"name":"look","inputSchema":{"type":"object"},"annotations":{"readOnlyHint":true}},{"name":"pay","inputSchema":{"type":"object"}}]}`)
	}
	key := string(peek(m.raw, "params", "arguments", "key"))
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ran[key] && m.facts.name == "pay" {
		s.twice.Add(1)
	}
	s.ran[key] = true
	return []byte(`{"content":[{"type":"text","text":"done"}]}`)
}
