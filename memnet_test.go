package main

// memnet_test.go is a network in memory, made for testing/synctest bubbles: everything that waits here waits
// durably, so that virtual time moves on. It has the faults of a real network: refused connections, resets,
// orderly ends, lines that go silent, lines that break after a number of bytes, latency. net/http's Server
// listens on it and net/http's Transport dials it. Nothing here knows about HTTP or MCP.

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// memWindow is how many undelivered bytes one direction holds before a write waits, like a TCP window.
const memWindow = 64 << 10

// A memNet is one network. All its methods may be called at any time from any goroutine of the bubble.
type memNet struct {
	mu        sync.Mutex
	listeners map[string]*memListener
	lines     map[*memLine]bool // open ones
	refusing  bool
	dropping  bool // a dial gets no answer at all
	delay     time.Duration
	toServer  int // bytes after which the next line breaks; -1: never
	toClient  int
	dials     int
	failed    int
}

func newMemNet() *memNet {
	return &memNet{listeners: map[string]*memListener{}, lines: map[*memLine]bool{}, toServer: -1, toClient: -1}
}

// listen opens addr ("host:port"). Closing the listener frees it again; open lines stay.
func (n *memNet) listen(addr string) net.Listener {
	l := &memListener{net: n, addr: memAddr(addr), accept: make(chan net.Conn), closed: make(chan struct{})}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.listeners[addr] != nil {
		panic("memnet: " + addr + " is taken")
	}
	n.listeners[addr] = l
	return l
}

// dial is for http.Transport.DialContext. A connection that is refused fails as on Linux.
func (n *memNet) dial(ctx context.Context, _, addr string) (net.Conn, error) {
	n.mu.Lock()
	n.dials++
	l, dropping, refusing, delay := n.listeners[addr], n.dropping, n.refusing, n.delay
	n.mu.Unlock()
	failed := func(err error) (net.Conn, error) {
		n.mu.Lock()
		defer n.mu.Unlock()
		n.failed++
		return nil, &net.OpError{Op: "dial", Net: "tcp", Addr: memAddr(addr), Err: err}
	}
	if dropping {
		ctx, cancel := context.WithTimeout(ctx, 10*time.Second) // as client.go has it
		defer cancel()
		<-ctx.Done()
		return failed(ctx.Err())
	}
	if delay > 0 {
		select {
		case <-time.After(2 * delay):
		case <-ctx.Done():
			return failed(ctx.Err())
		}
	}
	if refusing || l == nil {
		return failed(os.NewSyscallError("connect", syscall.ECONNREFUSED))
	}
	n.mu.Lock()
	line := newMemLine(n, addr, n.toServer, n.toClient)
	n.toServer, n.toClient = -1, -1
	n.lines[line] = true
	n.mu.Unlock()
	select {
	case l.accept <- line.server:
		return line.client, nil
	case <-l.closed:
		line.end(syscall.ECONNREFUSED)
		return failed(os.NewSyscallError("connect", syscall.ECONNREFUSED))
	case <-ctx.Done():
		line.end(syscall.ECONNRESET)
		return failed(ctx.Err())
	}
}

// refuse makes new connections fail at once, or work again. Open ones stay.
func (n *memNet) refuse(on bool) { n.mu.Lock(); n.refusing = on; n.mu.Unlock() }

// drop makes dialling hang without any answer until its context or ten seconds end, or work again. Open lines stay.
func (n *memNet) drop(on bool) { n.mu.Lock(); n.dropping = on; n.mu.Unlock() }

// latency delays every byte written from now on, and takes twice as long to dial.
func (n *memNet) latency(d time.Duration) { n.mu.Lock(); n.delay = d; n.mu.Unlock() }

// breakNext makes the next line that is dialled break (reset) after so many bytes in a direction; a negative
// number is no limit. The byte at the limit is still delivered.
func (n *memNet) breakNext(toServer, toClient int) {
	n.mu.Lock()
	n.toServer, n.toClient = toServer, toClient
	n.mu.Unlock()
}

// reset breaks all open lines: both sides get ECONNRESET, undelivered bytes are lost.
func (n *memNet) reset() { n.each(func(l *memLine) { l.end(syscall.ECONNRESET) }) }

// fin ends all open lines in order: both sides read what was written, then io.EOF.
func (n *memNet) fin() { n.each(func(l *memLine) { l.up.finish(); l.down.finish() }) }

// freeze makes all open lines silent for ever: nothing that is or will be written arrives, no end is seen.
// New connections work.
func (n *memNet) freeze() { n.each(func(l *memLine) { l.up.freeze(true); l.down.freeze(true) }) }

// vanish is freeze, and after 25 s without an answer to its probes TCP gives the lines up on both sides, as
// client.go asks it to.
func (n *memNet) vanish() {
	n.freeze()
	n.each(func(l *memLine) {
		time.AfterFunc(25*time.Second, func() {
			l.up.freeze(false)
			l.down.freeze(false)
			l.end(syscall.ETIMEDOUT)
		})
	})
}

// thaw undoes freeze; what was written meanwhile arrives.
func (n *memNet) thaw() { n.each(func(l *memLine) { l.up.freeze(false); l.down.freeze(false) }) }

func (n *memNet) each(f func(*memLine)) {
	n.mu.Lock()
	var lines []*memLine
	for l := range n.lines {
		lines = append(lines, l)
	}
	n.mu.Unlock()
	for _, l := range lines {
		f(l)
	}
}

// open is how many lines are open on at least one side.
func (n *memNet) open() int { n.mu.Lock(); defer n.mu.Unlock(); return len(n.lines) }

// dialled is how many connections were tried, and how many of them failed.
func (n *memNet) dialled() (all, failed int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.dials, n.failed
}

// client is an HTTP client on this network, as patient in dialling as client.go. Its idle connections are closed when the test ends.
func (n *memNet) client(t testing.TB) *http.Client {
	tr := &http.Transport{DisableCompression: true, DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
		ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
		defer cancel()
		return n.dial(ctx, network, addr)
	}}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr}
}

// wire is what a transport needs to reach rawURL on this network.
func (n *memNet) wire(t testing.TB, rawURL string) *wire {
	u, err := url.Parse(rawURL)
	if err != nil {
		t.Fatal(err)
	}
	const most = 64 << 20
	return &wire{
		url: u, again: n.client(t), once: n.client(t),
		max: most, mem: newBudget(256<<20, most), log: slog.New(slog.DiscardHandler),
	}
}

type memAddr string

func (memAddr) Network() string  { return "tcp" }
func (a memAddr) String() string { return string(a) }

type memListener struct {
	net    *memNet
	addr   memAddr
	accept chan net.Conn // nobody closes it
	once   sync.Once
	closed chan struct{} // closed by Close
}

func (l *memListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.accept:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *memListener) Close() error {
	l.once.Do(func() {
		close(l.closed)
		l.net.mu.Lock()
		delete(l.net.listeners, string(l.addr))
		l.net.mu.Unlock()
	})
	return nil
}

func (l *memListener) Addr() net.Addr { return l.addr }

// A memLine is one TCP connection: two directions and the two ends that hold them.
type memLine struct {
	net            *memNet
	mu             sync.Mutex
	up, down       *memWay // to the server, to the client
	client, server *memConn
}

func newMemLine(n *memNet, addr string, toServer, toClient int) *memLine {
	l := &memLine{net: n}
	l.up, l.down = newMemWay(l, toServer), newMemWay(l, toClient)
	l.client = &memConn{line: l, in: l.down, out: l.up, local: "client:0", remote: memAddr(addr)}
	l.server = &memConn{line: l, in: l.up, out: l.down, local: memAddr(addr), remote: "client:0"}
	return l
}

// end breaks both directions.
func (l *memLine) end(err error) {
	l.up.fail(err)
	l.down.fail(err)
	l.forget()
}

func (l *memLine) forget() {
	l.net.mu.Lock()
	delete(l.net.lines, l)
	l.net.mu.Unlock()
}

// A memWay is one direction of a line.
type memWay struct {
	line   *memLine
	cond   *sync.Cond // on the line's lock, which guards everything here
	chunks []memChunk
	held   int // bytes in chunks
	limit  int // bytes left until the line breaks; -1: no limit
	fin    bool
	frozen bool
	err    error // the line broke
	deadR  memDeadline
	deadW  memDeadline
	gone   bool // the reading end has closed: what is written is answered by a reset
}

type memChunk struct {
	at   time.Time // when it arrives
	data []byte
}

func newMemWay(l *memLine, limit int) *memWay {
	w := &memWay{line: l, limit: limit}
	w.cond = sync.NewCond(&l.mu)
	return w
}

// A memDeadline wakes a way when it has passed.
type memDeadline struct {
	at    time.Time
	timer *time.Timer
}

func (d *memDeadline) passed() bool { return !d.at.IsZero() && !time.Now().Before(d.at) }

func (w *memWay) setDeadline(d *memDeadline, at time.Time) {
	w.line.mu.Lock()
	defer w.line.mu.Unlock()
	if d.timer != nil {
		d.timer.Stop()
		d.timer = nil
	}
	if d.at = at; !at.IsZero() && time.Until(at) > 0 {
		d.timer = time.AfterFunc(time.Until(at), w.wake)
	}
	w.cond.Broadcast()
}

func (w *memWay) wake() { w.line.mu.Lock(); w.cond.Broadcast(); w.line.mu.Unlock() }

func (w *memWay) fail(err error) { w.line.mu.Lock(); w.failLocked(err); w.line.mu.Unlock() }

func (w *memWay) failLocked(err error) {
	if w.err == nil {
		w.err, w.chunks, w.held = err, nil, 0
	}
	w.cond.Broadcast()
}

func (w *memWay) other() *memWay {
	if w == w.line.up {
		return w.line.down
	}
	return w.line.up
}

func (w *memWay) finish() { w.line.mu.Lock(); w.fin = true; w.cond.Broadcast(); w.line.mu.Unlock() }

func (w *memWay) freeze(on bool) {
	w.line.mu.Lock()
	w.frozen = on
	w.cond.Broadcast()
	w.line.mu.Unlock()
}

func (w *memWay) read(c *memConn, p []byte) (int, error) {
	w.line.mu.Lock()
	defer w.line.mu.Unlock()
	for {
		switch {
		case c.closed:
			return 0, net.ErrClosed
		case w.deadR.passed():
			return 0, os.ErrDeadlineExceeded
		case len(p) == 0:
			return 0, nil
		case w.frozen:
		case w.err != nil:
			return 0, w.err
		case len(w.chunks) > 0:
			first := &w.chunks[0]
			if early := time.Until(first.at); early > 0 {
				t := time.AfterFunc(early, w.wake)
				w.cond.Wait()
				t.Stop()
				continue
			}
			n := copy(p, first.data)
			if first.data = first.data[n:]; len(first.data) == 0 {
				w.chunks = w.chunks[1:]
			}
			w.held -= n
			w.cond.Broadcast()
			return n, nil
		case w.fin && w.limit != 0:
			return 0, io.EOF
		case w.limit == 0:
			return 0, syscall.ECONNRESET
		}
		w.cond.Wait()
	}
}

func (w *memWay) write(c *memConn, p []byte) (n int, err error) {
	w.line.net.mu.Lock()
	at := time.Now().Add(w.line.net.delay)
	w.line.net.mu.Unlock()
	w.line.mu.Lock()
	defer w.line.mu.Unlock()
	for len(p) > 0 {
		switch {
		case c.closed:
			return n, net.ErrClosed
		case w.deadW.passed():
			return n, os.ErrDeadlineExceeded
		case w.err != nil && !w.frozen:
			return n, w.err
		case w.fin && !w.frozen, w.gone && !w.frozen:
			return n, syscall.EPIPE
		case w.limit == 0:
			return n, syscall.ECONNRESET
		case w.held < memWindow:
			k := min(len(p), memWindow-w.held)
			if w.limit > 0 {
				k = min(k, w.limit)
				if w.limit -= k; w.limit == 0 { // these bytes arrive, the other direction is dead at once
					w.other().failLocked(syscall.ECONNRESET)
				}
			}
			w.chunks = append(w.chunks, memChunk{at, append([]byte(nil), p[:k]...)})
			w.held += k
			n += k
			p = p[k:]
			w.cond.Broadcast()
			continue
		}
		w.cond.Wait()
	}
	return n, nil
}

// A memConn is one end of a line.
type memConn struct {
	line          *memLine
	in, out       *memWay
	local, remote memAddr
	closed        bool // guarded by the line's lock
}

func (c *memConn) Read(p []byte) (int, error) {
	n, err := c.in.read(c, p)
	return n, c.wrap("read", err)
}
func (c *memConn) Write(p []byte) (int, error) {
	n, err := c.out.write(c, p)
	return n, c.wrap("write", err)
}

func (c *memConn) wrap(op string, err error) error {
	if err == nil || errors.Is(err, io.EOF) {
		return err
	}
	return &net.OpError{Op: op, Net: "tcp", Source: c.local, Addr: c.remote, Err: err}
}

// Close ends this end: the other reads what was written and then io.EOF, and gets EPIPE when it writes.
func (c *memConn) Close() error {
	c.line.mu.Lock()
	closed := c.closed
	c.closed = true
	c.in.gone, c.out.fin = true, true
	c.in.cond.Broadcast()
	c.out.cond.Broadcast()
	both := c.in.fin || c.in.err != nil
	c.line.mu.Unlock()
	if closed {
		return net.ErrClosed
	}
	if both {
		c.line.forget()
	}
	return nil
}

func (c *memConn) LocalAddr() net.Addr                { return c.local }
func (c *memConn) RemoteAddr() net.Addr               { return c.remote }
func (c *memConn) SetReadDeadline(t time.Time) error  { c.in.setDeadline(&c.in.deadR, t); return nil }
func (c *memConn) SetWriteDeadline(t time.Time) error { c.out.setDeadline(&c.out.deadW, t); return nil }
func (c *memConn) SetDeadline(t time.Time) error {
	c.in.setDeadline(&c.in.deadR, t)
	c.out.setDeadline(&c.out.deadW, t)
	return nil
}

// memServe serves h on addr of n until the test ends. It must be called inside the bubble.
func memServe(t testing.TB, n *memNet, addr string, h http.Handler) *http.Server {
	t.Helper()
	srv := &http.Server{Handler: h}
	l := n.listen(addr)
	var wg sync.WaitGroup
	wg.Go(func() { srv.Serve(l) })
	t.Cleanup(func() {
		srv.Close()
		wg.Wait()
		time.Sleep(time.Second) // net/http lingers for half a second before it closes a connection
	})
	return srv
}

func TestMemNetHTTP(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newMemNet()
		memServe(t, n, "mcp.test:80", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			b, _ := io.ReadAll(r.Body)
			w.Write(b)
		}))
		c := n.client(t)
		big := strings.Repeat("x", 300<<10) // more than both windows
		for range 3 {
			resp, err := c.Post("http://mcp.test/", "text/plain", strings.NewReader(big))
			if err != nil {
				t.Fatal(err)
			}
			b, err := io.ReadAll(resp.Body)
			resp.Body.Close()
			if err != nil || string(b) != big {
				t.Fatalf("echo of %d bytes gave %d, %v", len(big), len(b), err)
			}
		}
		if all, failed := n.dialled(); all != 1 || failed != 0 {
			t.Errorf("dialled %d times, %d failed; want 1 kept alive", all, failed)
		}
	})
}

// memPair is a line whose two ends are in the test's hands.
func memPair(t *testing.T, n *memNet) (client, server net.Conn) {
	t.Helper()
	l := n.listen("pair.test:1")
	defer l.Close()
	got := make(chan net.Conn, 1)
	go func() { c, _ := l.Accept(); got <- c }()
	client, err := n.dial(t.Context(), "tcp", "pair.test:1")
	if err != nil {
		t.Fatal(err)
	}
	return client, <-got
}

func TestMemNetFaults(t *testing.T) {
	tests := []struct {
		name  string
		fault func(*memNet)
		read  string // what the client can still read of "hello"
		want  error
	}{
		{"none", func(*memNet) {}, "hello", os.ErrDeadlineExceeded},
		{"fin", (*memNet).fin, "hello", io.EOF},
		{"reset", (*memNet).reset, "", syscall.ECONNRESET},
		{"freeze", (*memNet).freeze, "", os.ErrDeadlineExceeded},
		{"thaw", func(n *memNet) { n.freeze(); n.thaw() }, "hello", os.ErrDeadlineExceeded},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := newMemNet()
				c, s := memPair(t, n)
				io.WriteString(s, "hello")
				test.fault(n)
				c.SetReadDeadline(time.Now().Add(time.Minute))
				start := time.Now()
				b, err := io.ReadAll(c)
				if err == nil {
					err = io.EOF
				}
				if string(b) != test.read || !errors.Is(err, test.want) {
					t.Errorf("read %q, %v; want %q, %v", b, err, test.read, test.want)
				}
				if test.want == os.ErrDeadlineExceeded && time.Since(start) != time.Minute {
					t.Errorf("the deadline of a minute came after %v", time.Since(start))
				}
				c.Close()
				s.Close()
				if n.open() != 0 {
					t.Errorf("%d lines are open", n.open())
				}
			})
		})
	}
}

func TestMemNetDial(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newMemNet()
		if _, err := n.dial(t.Context(), "tcp", "nobody.test:1"); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("nobody listens: %v", err)
		}
		l := n.listen("a.test:1")
		defer l.Close()
		n.refuse(true)
		if _, err := n.dial(t.Context(), "tcp", "a.test:1"); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("refusing: %v", err)
		}
		n.refuse(false)
		n.drop(true)
		ctx, cancel := context.WithTimeout(t.Context(), 7*time.Second)
		defer cancel()
		start := time.Now()
		if _, err := n.dial(ctx, "tcp", "a.test:1"); !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != 7*time.Second {
			t.Errorf("dropping: %v after %v", err, time.Since(start))
		}
	})
}

func TestMemNetBreaksAfterBytes(t *testing.T) {
	for limit := range 8 {
		t.Run(fmt.Sprint(limit), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := newMemNet()
				n.breakNext(-1, limit)
				c, s := memPair(t, n)
				k, err := io.WriteString(s, "0123456789")
				if k != limit || !errors.Is(err, syscall.ECONNRESET) {
					t.Errorf("wrote %d, %v", k, err)
				}
				b, err := io.ReadAll(c)
				if !bytes.Equal(b, []byte("0123456789")[:limit]) || !errors.Is(err, syscall.ECONNRESET) {
					t.Errorf("read %q, %v", b, err)
				}
				if limit > 0 {
					if _, err := c.Write([]byte("x")); !errors.Is(err, syscall.ECONNRESET) {
						t.Errorf("the other direction lives: %v", err)
					}
				}
			})
		})
	}
}

func TestMemNetLatency(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newMemNet()
		n.latency(30 * time.Millisecond)
		start := time.Now()
		c, s := memPair(t, n)
		if d := time.Since(start); d != 60*time.Millisecond {
			t.Errorf("dialling took %v", d)
		}
		start = time.Now()
		io.WriteString(c, "x")
		if _, err := s.Read(make([]byte, 1)); err != nil || time.Since(start) != 30*time.Millisecond {
			t.Errorf("one way took %v, %v", time.Since(start), err)
		}
	})
}
