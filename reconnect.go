package main

// reconnect.go is the owner of everything: one goroutine, run, holds all protocol state and decides what is
// sent, held, sent again or answered with an error. It does no I/O itself: readLines feeds it, writeLines
// drains it, and each exchange with the server is a goroutine that reports by events. It uses the clock and
// chance, and nothing else of the machine.

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"strings"
	"sync"
	"time"
)

type transportKind uint8

const (
	kindStreamable transportKind = iota + 1 // MCP 2025-03-26 to 2025-11-25
	kindSSE                                 // MCP 2024-11-05
	kindStateless                           // MCP 2026-07-28
)

func (k transportKind) String() string {
	return [...]string{"none", "Streamable HTTP", "HTTP+SSE", "stateless HTTP"}[k]
}

// options are the loop's settings, as the command line has them.
type options struct {
	server        string // origin, for texts
	transport     string // http-first, sse-first, http-only, sse-only
	protocol      string // auto, legacy, modern
	autoReconnect bool   // off: a lost line ends held calls; only the client's next line dials
	maxRetries    int    // failed attempts before the bridge is dormant; -1: no end
	initialDelay  time.Duration
	maxDelay      time.Duration
	multiplier    float64
	holdTimeout   time.Duration
	pingInterval  time.Duration // 0: no keep-alive
	retryCalls    string        // never, safe, always
	offlineStart  bool
	silent        bool // no talk beyond what a person must act on
	maxMessage    int  // bytes
	maxMemory     int  // bytes
	tools         filterOptions
	remembered    *handshake // what the server said when it was last met; nil if never
	audit         *auditLog  // nil: none
	auditRequired bool
}

// outside is everything that the loop may set in motion.
type outside struct {
	// connect makes the transport for a new session. It does no I/O.
	connect func(kind transportKind) transport
	// signIn obtains a credential after a 401 or 403; waiting is called once a person is needed. A failure
	// is a *signInError.
	signIn func(ctx context.Context, challenge string, status int, waiting func(hint string)) error
	// remember takes the newest state for status files and offline starts. It must not block.
	remember func(snapshot)
}

// A snapshot is what others may know of a running bridge. It holds nothing secret.
type snapshot struct {
	State      string    `json:"state"`
	Since      time.Time `json:"since"`
	Reconnects int       `json:"reconnects"`
	LastError  string    `json:"lastError,omitempty"`
	Held       int       `json:"held"`

	handshake *handshake // what the server said last; nil if nothing yet
}

// The state machine:
//
//	      first line            answered
//	idle ────────────► opening ──────────► ready
//	                    ▲ │ ▲                │
//	              timer │ │ │ signed in      │
//	                    │ │ └── signing in ◄─┤ 401 (from opening too)
//	                    │ ▼                  │
//	    dormant ◄───── waiting ◄─────────────┘ unsent, gone, 429, 503, silent
//
// opening has one message in the air (the hello, then the replay, or a knock where the session still
// stands), so that after an outage one probe dials and not fifty calls. From dormant the client's next line
// leads back to opening. End of input is a deadline over every state.
type state uint8

const (
	idle state = iota
	opening
	ready
	signingIn
	waiting
	dormant
)

func (s state) String() string {
	return [...]string{"idle", "opening", "ready", "signing in", "waiting", "dormant"}[s]
}

const (
	initializeTimeout = 45 * time.Second // clients give up at 60
	offlineAfter      = 10 * time.Second // then a remembered handshake answers initialize
	discoverTimeout   = 10 * time.Second // then a modern client's server/discover is answered -32601
	lateHold          = 5 * time.Second  // a call that arrives in a long outage is held at least so long
	acceptedTimeout   = 10 * time.Second // for the answer to a request that was answered 202
	silence           = 10 * time.Second // with a call waiting: then probe
	probeTimeout      = 10 * time.Second
	deadSilence       = 5 * time.Minute // condemns a server that may be single-threaded and busy
	health            = 10 * time.Second
	quickSpread       = 250 * time.Millisecond
	quickLosses       = 5
	lingering         = 5 * time.Second // an exchange may stay open so long after its answer
	eofGrace          = 4500 * time.Millisecond
	eofGraceDown      = 2 * time.Second
	hangupGrace       = 400 * time.Millisecond
	tickEvery         = 250 * time.Millisecond
	maxOut            = 256 << 10 // bytes towards the client that may wait before events have to
	maxSignIns        = 3         // for one call
	maxToolPages      = 50
)

// A session is one generation of state at the server. Old ones are recognised by not being bridge.sess.
type session struct {
	kind        transportKind
	t           transport
	live        map[*exchange]bool
	established bool // the handshake was answered, or there is none
	initialized bool // notifications/initialized was sent
	shaken      bool // the line was lost since: loose signs of a lost session count

	stream      *exchange // the server's own stream
	streamOpen  bool
	streamFails int
}

// An exchange is one goroutine's work with the server. The loop owns every field but p.
type exchange struct {
	s      *session
	c      *call // nil for the server's own stream
	stream bool
	resume bool
	p      progress
	cancel context.CancelCauseFunc
	stray  bool      // it delivered an answer that belongs to nobody
	done   time.Time // when its call was settled
	opened time.Time // when its stream was opened
}

// An event is news from an exchange or from the sign-in.
type event struct {
	x      *exchange
	ms     []message
	opened bool
	done   bool // the last event of x
	err    error
	signIn bool
	hint   string // a person has to act
}

// input is what readLines has read.
type input struct {
	line   []byte
	charge charge
	err    error
}

var (
	errSilent    = errors.New("the line is silent")
	errCancelled = errors.New("the client cancelled the request")
	errOver      = errors.New("the session is over")
)

// A bridge is one client's line to one server.
type bridge struct {
	options
	world outside
	log   *slog.Logger
	mem   *budget

	// Owned by run.
	ledger
	ours
	filter *filter
	tr     *translator // not nil: an old client on a new server
	batch  map[string]*group

	state     state
	since     time.Time
	sess      *session
	kind      transportKind   // learnt; 0 if not yet
	kinds     []transportKind // still to be tried in this round
	refuse    *exchangeError  // what the preferred transport said to the hello: the answer if nothing works
	refusal   message         // the JSON-RPC error that came with it, if any
	notModern bool            // translating was tried, and was wrong
	toSay     []message       // replay that is still to be sent
	replays   bool            // this opening makes an old session anew

	met        bool // a handshake succeeded once: a bad certificate is an outage now
	chatty     bool // the server was seen to answer while a call was waiting
	heard      time.Time
	talked     time.Time // the last probe or message we sent
	readyAt    time.Time
	probing    *call
	discoverBy time.Time
	offline    bool // the client's initialize was answered from memory
	pages      int

	outage     time.Time // since when; zero: none
	attempts   int       // in this outage
	failures   int       // the exponent of the backoff
	quick      []time.Time
	redialAt   time.Time
	floor      time.Time // the server asked not to be called before
	hurried    time.Time
	lastError  string
	reconnects int
	signing    bool
	hint       string

	outbox   []message
	outBytes int
	eof      time.Time // zero: the client still talks
	deadline time.Time
	wall     time.Time // for noticing that the machine slept

	// Set by run; launch starts an exchange's goroutine.
	events chan event // sent by exchanges and the sign-in; never closed
	launch func(x *exchange, do func(ctx context.Context, recv receive) error)
	spawn  func(func(ctx context.Context))
}

func newBridge(o options, world outside, log *slog.Logger, mem *budget) *bridge {
	return &bridge{
		options: o,
		world:   world,
		log:     log,
		mem:     mem,
		ledger:  newLedger(randomPrefix()),
		filter:  newFilter(o.tools),
		batch:   map[string]*group{},
		events:  make(chan event, 64),
	}
}

// run carries the client's line until the client has closed in and everything is settled, until ctx is
// cancelled (a signal: straight to the end), or until w fails. It returns nil in all these cases; nothing
// that the server does ends it. The goroutine that reads in is left behind if in cannot be interrupted.
func (b *bridge) run(ctx context.Context, in io.Reader, w io.Writer) error {
	work, stop := context.WithCancelCause(context.WithoutCancel(ctx))
	var wg sync.WaitGroup
	b.spawn = func(f func(context.Context)) { wg.Go(func() { f(work) }) }
	b.launch = func(x *exchange, do func(context.Context, receive) error) { b.fly(work, &wg, x, do) }

	inputs := make(chan []input) // readLines sends and closes
	go readLines(work, in, b.maxMessage, b.mem, inputs)
	out := make(chan []message) // run sends and closes
	wrote := make(chan error, 1)
	go func() { wrote <- writeLines(w, out, b.mem) }()

	now := time.Now()
	b.since, b.heard, b.wall = now, now, now
	b.report()
	timer := time.NewTimer(0)
	broken := false
	for !broken && ctx.Err() == nil && !b.finished(time.Now()) {
		lines, events, sink := inputs, b.events, out
		if b.outBytes >= maxOut { // the client does not read: everything waits for it
			lines, events = nil, nil
		}
		if !b.eof.IsZero() {
			lines = nil
		}
		if len(b.outbox) == 0 {
			sink = nil
		}
		timer.Reset(time.Until(b.nextWake(time.Now())))
		select {
		case ins, ok := <-lines:
			if !ok {
				b.ended()
				break
			}
			for _, i := range ins {
				b.read(i)
			}
		case e := <-events:
			b.news(e)
			for range len(events) { // the writer gets together what arrived together
				b.news(<-events)
			}
		case sink <- b.outbox:
			b.outbox, b.outBytes = nil, 0
		case <-timer.C:
			b.tick(time.Now())
		case <-wrote:
			broken = true
		case <-ctx.Done():
		}
		b.pump(time.Now())
	}

	// The end: what is open gets its answer, the server its DELETE, the client everything that was said.
	for _, c := range b.byID {
		b.fail(c, faultClosing, "the bridge was shutting down", nil)
	}
	var last transport
	if b.sess != nil && b.sess.established {
		last = b.sess.t
	}
	stop(errOver)
	end, cancel := context.WithTimeout(context.Background(), hangupGrace)
	defer cancel()
	if last != nil {
		wg.Go(func() {
			if err := last.hangup(end); err != nil {
				b.log.Debug("ending the session", "err", err)
			}
		})
	}
	if !broken {
		select {
		case out <- b.outbox:
		case <-wrote:
		case <-end.Done():
		}
		close(out)
		select {
		case <-wrote:
		case <-end.Done():
		}
	}
	wg.Wait()
	return nil
}

// readLines is the goroutine that owns in. It ends, closing lines, at the end of input or of ctx.
func readLines(ctx context.Context, in io.Reader, maxLine int, mem *budget, lines chan<- []input) {
	defer close(lines)
	r := newLineReader(in, maxLine, mem)
	for {
		var batch []input
		for {
			line, c, err := r.next(ctx)
			if err != nil && !errors.Is(err, errTooLarge) {
				if len(batch) > 0 {
					select {
					case lines <- batch:
					case <-ctx.Done():
					}
				}
				return
			}
			batch = append(batch, input{line, c, err})
			if !r.more() || len(batch) == 64 {
				break
			}
		}
		select {
		case lines <- batch:
		case <-ctx.Done():
			return
		}
	}
}

// writeLines is the goroutine that owns w. It returns when out is closed or w fails.
func writeLines(w io.Writer, out <-chan []message, mem *budget) error {
	bw := bufio.NewWriterSize(w, 64<<10)
	for ms := range out {
		for _, m := range ms {
			err := m.writeLine(bw)
			mem.free(m.charge)
			if err != nil {
				return err
			}
		}
		if err := bw.Flush(); err != nil {
			return err
		}
	}
	return nil
}

// fly starts the goroutine of x. It sends what arrives together as one event, and exactly one event that
// is done.
func (b *bridge) fly(work context.Context, wg *sync.WaitGroup, x *exchange, do func(context.Context, receive) error) {
	ctx, cancel := context.WithCancelCause(work)
	x.cancel, x.p.start = cancel, time.Now()
	x.s.live[x] = true
	wg.Go(func() {
		defer cancel(nil)
		var batch []message
		size := 0
		err := do(ctx, func(m message, more bool) error {
			batch = append(batch, m)
			size += len(m.raw)
			if more && len(batch) < 64 && size < 64<<10 {
				return nil
			}
			e := event{x: x, ms: batch}
			batch, size = nil, 0
			select {
			case b.events <- e:
				return nil
			case <-ctx.Done():
				for _, m := range e.ms {
					b.mem.free(m.charge)
				}
				return context.Cause(ctx)
			}
		})
		select {
		case b.events <- event{x: x, ms: batch, done: true, err: err}:
		case <-work.Done():
		}
	})
}

// ended notes the end of input.
func (b *bridge) ended() {
	b.eof = time.Now()
	b.deadline = b.eof.Add(eofGrace)
	if b.state == waiting || b.state == dormant {
		b.deadline = b.eof.Add(eofGraceDown)
	}
}

// finished says whether the client is gone and nothing is left to do for it.
func (b *bridge) finished(now time.Time) bool {
	if b.eof.IsZero() {
		return false
	}
	busy := b.waiting() || len(b.queue) > 0
	for c := range b.inflight {
		busy = busy || c.m.kind != request || c.then == nil && !c.standing()
	}
	return !busy || !now.Before(b.deadline)
}

// ---- from the client

// read takes one line of the client.
func (b *bridge) read(i input) {
	if i.err != nil {
		b.write(errorReply("", -32600, fmt.Sprintf("the message is larger than %d bytes (--max-message-size)", b.maxMessage), &errorData{Reason: "too-large"}))
		return
	}
	if isBatch(i.line) {
		b.array(i)
		return
	}
	m, err := scan(i.line)
	if err != nil {
		b.mem.free(i.charge)
		b.write(malformed(err))
		return
	}
	m.charge = i.charge
	b.fromClient(m)
}

// array takes a batch, which only 2025-03-26 knows. It is answered as one array.
func (b *bridge) array(i input) {
	defer b.mem.free(i.charge)
	if b.promise == nil || b.promise.ProtocolVersion != "2025-03-26" {
		b.write(errorReply("", -32600, "arrays of messages are part of MCP 2025-03-26 only", nil))
		return
	}
	ms, bad, err := scanBatch(i.line)
	if err != nil {
		b.write(malformed(err))
		return
	}
	g := &group{open: len(bad)}
	for _, m := range ms {
		if m.kind == request && b.byID[m.id] == nil && b.batch[m.id] == nil {
			b.batch[m.id] = g
			g.open++
		}
	}
	for _, err := range bad {
		if g.add(malformed(err)) {
			b.write(message{raw: g.raw})
		}
	}
	for _, m := range ms {
		b.fromClient(m)
	}
}

// fromClient passes m through the translator, where there is one.
func (b *bridge) fromClient(m message) {
	if b.tr == nil {
		b.accept(m)
		return
	}
	up, down := b.tr.fromClient(m)
	b.carry(m, up, down)
}

// toClient is fromClient's counterpart.
func (b *bridge) toClient(m message) {
	if b.tr == nil {
		b.write(m)
		return
	}
	up, down := b.tr.fromServer(m)
	b.carry(m, up, down)
}

// carry delivers what the translator made of m, and frees m where nothing took its charge over.
func (b *bridge) carry(m message, up, down []message) {
	taken := m.charge.bytes == 0
	for _, o := range up {
		taken = taken || o.charge == m.charge
		b.accept(o)
	}
	for _, o := range down {
		taken = taken || o.charge == m.charge
		b.write(o)
	}
	if !taken {
		b.mem.free(m.charge)
	}
}

// write puts m into the outbox, or into the array that it is awaited in.
func (b *bridge) write(m message) {
	if m.kind == response && len(b.batch) > 0 {
		if g := b.batch[m.id]; g != nil {
			delete(b.batch, m.id)
			done := g.add(m)
			b.mem.free(m.charge)
			if !done {
				return
			}
			m = message{raw: g.raw}
		}
	}
	b.outbox = append(b.outbox, m)
	b.outBytes += len(m.raw)
}

// accept takes a message of the client's, or of the translator's in its name.
func (b *bridge) accept(m message) {
	now := time.Now()
	c := &call{m: m, arrived: now}
	switch m.kind {
	case notification:
		switch m.method {
		case "notifications/cancelled":
			b.cancelled(m)
			return
		case "notifications/initialized":
			k := m.keep()
			b.initialized = &k
			b.mem.free(m.charge)
			if b.state == ready && !b.sess.initialized { // accepted before anything else is released
				b.set(opening)
				b.say()
			}
			return
		}
	case response:
		sr, ok := b.asked[m.id]
		if delete(b.asked, m.id); !ok || sr.sess != b.sess {
			b.mem.free(m.charge) // the session that asked is gone
			return
		}
		c.m, c.sess = m.withID(sr.id), sr.sess
	case request:
		if b.byID[m.id] != nil {
			b.mem.free(m.charge)
			b.write(errorReply("", -32600, "the id "+clean(m.id)+" belongs to a request that is not answered yet", nil))
			return
		}
		b.byID[m.id] = c
		if t := string(peek(m.raw, "params", "_meta", "progressToken")); t != "" {
			c.token = t
			b.byToken[t] = c
		}
		if !b.admit(c) {
			return
		}
	}
	b.hold(c)
	b.stir(now)
	if b.outage != (time.Time{}) {
		b.comfort(c, now)
	}
}

// admit applies what is decided about a request before it is sent anywhere: era, filter, audit.
func (b *bridge) admit(c *call) bool {
	switch {
	case c.m.method == "initialize":
		b.begin(c)
		return true
	case b.kind != 0 && b.kind != kindStateless && isModern(c.m):
		b.wrongEra(c)
		return false
	case c.m.method != "tools/call":
		return true
	case b.auditRequired && b.audit.failed():
		b.fail(c, faultNotPermitted, "the audit file cannot be written, and --audit-required forbids calls without it", nil)
		return false
	}
	switch b.filter.call(c.name()) {
	case denied:
		b.fail(c, faultNotPermitted, "this tool is not permitted by --ignore-tool, --allow-tool, --read-only or the policy file", nil)
		return false
	case lookup:
		c.state = parked
		if b.pages == 0 {
			b.page(c, "")
		}
		return false
	}
	return true
}

// begin takes the client's initialize: the start of its session, and the way back to the old era.
func (b *bridge) begin(c *call) {
	k := c.m.keep()
	b.hello, b.initialized, b.promise, b.level, b.subscribed = &k, nil, nil, nil, nil
	b.offline = false
	if b.sess != nil {
		b.discard(b.sess)
	}
	if b.kind == kindStateless && b.tr == nil {
		b.kind = 0
	}
	b.kinds = nil
	b.set(idle)
}

// isModern says whether a request carries the per-request metadata of 2026-07-28.
func isModern(m message) bool {
	return peek(m.raw, "params", "_meta", "io.modelcontextprotocol/protocolVersion") != nil
}

// cancelled carries out the client's notifications/cancelled.
func (b *bridge) cancelled(m message) {
	defer b.mem.free(m.charge)
	token := peek(m.raw, "params", "requestId")
	c := b.byID[string(token)]
	if c == nil || c.m.method == "initialize" {
		return
	}
	b.log.Debug("cancelled by the client", "method", clean(c.m.method))
	x, sess, state := c.x, c.sess, c.state
	b.record(c, "cancelled")
	b.drop(c)
	if state != flying && state != resuming {
		return
	}
	if sess == b.sess && sess.kind != kindStateless {
		b.send(&call{m: splice(m.keep(), token, c.up), then: func(message, *exchangeError) {}})
	}
	if x != nil {
		x.cancel(errCancelled)
	}
}

// drop forgets c without an answer.
func (b *bridge) drop(c *call) bool {
	if !b.settle(c) {
		return false
	}
	if c.x != nil {
		c.x.done = time.Now()
	}
	if c.doubt != nil {
		b.mem.free(c.doubt.charge)
	}
	b.mem.free(c.m.charge)
	return true
}

// answer settles c with m, which the client gets under the id that it knows.
func (b *bridge) answer(c *call, m message) {
	if c.doubt != nil && c.doubt.charge == m.charge {
		c.doubt = nil
	}
	if !b.drop(c) {
		b.mem.free(m.charge)
		return
	}
	if m.id != c.m.id {
		m = m.withID(c.m.id)
		m.id = c.m.id
	}
	outcome := "ok"
	if m.failed {
		outcome = "error"
	}
	b.record(c, outcome)
	b.toClient(m)
}

// ---- opening

// stir lets a line of the client wake the bridge or cut a wait short, at most once a second.
func (b *bridge) stir(now time.Time) {
	switch b.state {
	case idle, dormant:
		b.failures = 0
		b.open()
	case waiting:
		if b.failures == b.maxRetries { // the last try of this round: the line begins another, as from dormant
			b.failures = 0
		}
		if now.Sub(b.hurried) >= time.Second && b.redialAt.After(now) {
			b.hurried = now
			b.redialAt = now
			if b.floor.After(now) {
				b.redialAt = b.floor
			}
		}
	}
}

// open puts one message in the air.
func (b *bridge) open() {
	b.set(opening)
	b.attempts++
	if b.sess == nil {
		kind := b.choose()
		b.sess = &session{kind: kind, t: b.world.connect(kind), live: map[*exchange]bool{}}
		if kind == kindSSE { // the hello follows once the endpoint is known
			b.listen(b.sess, "", 0)
			return
		}
	}
	b.greet()
}

// choose says which transport to try: the one that was learnt, or else the next that the client's era and
// the options allow.
func (b *bridge) choose() transportKind {
	if b.kind != 0 {
		return b.kind
	}
	if len(b.kinds) == 0 {
		b.refuse = nil
		b.kinds = b.order()
	}
	k := b.kinds[0]
	b.kinds = b.kinds[1:]
	return k
}

func (b *bridge) order() []transportKind {
	modern := b.protocol == "modern"
	for _, c := range b.queue {
		if c.m.kind == request {
			modern = modern || b.protocol == "auto" && isModern(c.m)
			break
		}
	}
	if modern {
		return []transportKind{kindStateless}
	}
	switch b.transport {
	case "sse-only":
		return []transportKind{kindSSE}
	case "http-only":
		return []transportKind{kindStreamable}
	case "sse-first":
		return []transportKind{kindSSE, kindStreamable}
	}
	return []transportKind{kindStreamable, kindSSE}
}

// greet sends what proves the path: a knock if the session stands, else the hello of its era. The hello
// repeats the client's own words.
func (b *bridge) greet() {
	s := b.sess
	first := b.oldest()
	own := &call{then: b.stepped}
	switch {
	case s.kind == kindStateless:
		own.m = newRequest(b.newID(), "server/discover", modernParams(first))
		if !s.established {
			b.discoverBy = time.Now().Add(discoverTimeout)
			own.then = func(m message, e *exchangeError) { b.discovered(first, m, e) }
			if first != nil && first.m.method == "server/discover" {
				own.m = first.m.keep()
			}
		}
	case s.established:
		own.m = newRequest(b.newID(), "ping", nil)
	case b.hello == nil: // a client without a handshake: its first line is the probe
		s.established = true
		b.settleReady()
		return
	default:
		own.m, own.then = *b.hello, b.welcomed
		if b.byID[b.hello.id] == nil {
			own.m = own.m.withID(b.newID())
		}
	}
	b.send(own)
}

// oldest is the first held request.
func (b *bridge) oldest() *call {
	for _, c := range b.queue {
		if c.m.kind == request {
			return c
		}
	}
	return nil
}

// modernParams are the params of a request of the bridge's own in 2026-07-28, with the metadata that the
// client sent in c.
func modernParams(c *call) json.RawMessage {
	meta := map[string]json.RawMessage{
		"io.modelcontextprotocol/protocolVersion":    json.RawMessage(`"2026-07-28"`),
		"io.modelcontextprotocol/clientCapabilities": json.RawMessage(`{}`),
	}
	if c != nil {
		for _, k := range []string{"protocolVersion", "clientCapabilities", "clientInfo"} {
			k = "io.modelcontextprotocol/" + k
			if v := peek(c.m.raw, "params", "_meta", k); v != nil {
				meta[k] = v
			}
		}
	}
	params, _ := json.Marshal(map[string]any{"_meta": meta}) // cannot fail: every value was scanned
	return params
}

// welcomed takes what became of initialize.
func (b *bridge) welcomed(m message, e *exchangeError) {
	s := b.sess
	h, ok := readHandshake(m)
	switch {
	case e != nil && (e.fate != final || e.cert && b.met):
		b.mem.free(m.charge)
		b.openingFailed(e)
		return
	case e != nil || !ok:
		b.unwelcome(m, e)
		return
	}
	again := b.promise != nil
	if !again {
		b.promise = h
	} else if b.promise.ProtocolVersion != h.ProtocolVersion {
		b.mem.free(m.charge)
		b.discard(s)
		b.giveUp(faultServerRefused, fmt.Sprintf("%s now speaks MCP %s, but the client was promised %s: restart the connection", b.server, clean(h.ProtocolVersion), clean(b.promise.ProtocolVersion)), nil)
		return
	} else if string(b.promise.Capabilities) != string(h.Capabilities) {
		b.log.Warn("the server's capabilities differ from those that the client was told", "server", b.server)
	}
	s.established, b.kind, b.met, b.remembered = true, s.kind, true, h
	b.filter.reset()
	b.replays, b.offline = again && !b.offline, false
	if init := b.byID[b.hello.id]; init != nil && init.m.method == "initialize" {
		b.answer(init, m)
	} else {
		b.mem.free(m.charge)
	}
	if again {
		if b.level != nil {
			b.toSay = append(b.toSay, b.level.withID(b.newID()))
		}
		for _, sub := range b.subscribed {
			b.toSay = append(b.toSay, sub.withID(b.newID()))
		}
	}
	b.say()
}

// openingFailed handles a hello, a knock or a step of the replay that met no answer.
func (b *bridge) openingFailed(e *exchangeError) {
	switch {
	case e.fate == refused && (e.status == 401 || e.status == 403):
		b.challenged(nil, e)
	case e.fate == gone:
		b.lost(b.sess, e)
	default:
		b.down(e)
	}
}

// stepped takes what became of a knock or of a step of the replay: any answer is an answer.
func (b *bridge) stepped(m message, e *exchangeError) {
	b.mem.free(m.charge)
	if e != nil && m.raw == nil && !(e.fate == final && e.status != 0) {
		b.openingFailed(e)
	} else if b.state == opening {
		b.say()
	}
}

// say sends the next line of the replay; with none left the session is ready.
func (b *bridge) say() {
	s := b.sess
	if b.initialized != nil && !s.initialized && s.kind != kindStateless {
		s.initialized = true
		b.send(&call{m: *b.initialized, then: b.stepped})
		return
	}
	if len(b.toSay) > 0 {
		m := b.toSay[0]
		b.toSay = b.toSay[1:]
		b.send(&call{m: m, then: b.stepped})
		return
	}
	b.settleReady()
}

// settleReady opens the gate: the session stands, and held lines go out.
func (b *bridge) settleReady() {
	now := time.Now()
	s := b.sess
	b.set(ready)
	b.readyAt, b.heard = now, now
	recovered := !b.outage.IsZero()
	if recovered {
		b.reconnects++
		b.log.Info("reconnected", "server", b.server, "after", now.Sub(b.outage).Round(time.Millisecond), "attempts", b.attempts, "newSession", b.replays)
	} else if b.attempts > 0 {
		b.log.Info("connected", "server", b.server, "transport", s.kind.String())
	}
	b.outage, b.attempts, b.lastError = time.Time{}, 0, ""
	if b.replays {
		b.replays = false
		for _, m := range b.changes() {
			b.write(m)
		}
	}
	if recovered && b.tr != nil {
		up, down := b.tr.lost()
		b.carry(message{}, up, down)
	}
	if s.kind == kindStreamable && s.initialized && s.stream == nil {
		b.listen(s, "", 0)
	}
	b.report()
}

// discovered takes what became of server/discover: the verdict on the server's era. first is the held
// request that waits for it.
func (b *bridge) discovered(first *call, m message, e *exchangeError) {
	code := errorCode(m)
	switch {
	case e != nil && (e.fate != final || e.cert && b.met):
		b.mem.free(m.charge)
		b.openingFailed(e)
		return
	case m.raw == nil, m.failed && (code > -32020 || code < -32022):
		b.mem.free(m.charge)
		b.old()
		return
	}
	b.sess.established, b.kind, b.met = true, kindStateless, true
	b.filter.reset()
	if first != nil && first.state == held && first.m.method == "server/discover" {
		b.answer(first, m)
	} else {
		b.mem.free(m.charge)
	}
	b.settleReady()
}

// old is the verdict that the server knows no 2026-07-28, or the lack of one in time. Nothing is pinned by
// it: a client that knows both eras goes on with initialize.
func (b *bridge) old() {
	b.discard(b.sess)
	b.set(idle)
	if b.tr != nil { // it did not want our initialize, but is not modern either
		b.tr, b.notModern, b.kind = nil, true, 0
		for _, c := range b.byID {
			b.drop(c)
		}
		b.accept(*b.hello)
		return
	}
	for _, c := range b.byID {
		if !isModern(c.m) && c.m.method != "server/discover" {
			continue
		}
		b.wrongEra(c)
	}
}

// wrongEra answers a request of 2026-07-28 where the server knows only earlier revisions.
func (b *bridge) wrongEra(c *call) {
	const text = "the server speaks an MCP revision before 2026-07-28: begin with initialize"
	if c.m.method == "server/discover" {
		b.answer(c, errorReply(c.m.id, -32601, text, nil))
	} else {
		b.fail(c, faultNotTranslatable, text, nil)
	}
}

// unwelcome decides what a refused hello means: another era, another transport, or no entry. m is the
// JSON-RPC error that came with it, if any.
func (b *bridge) unwelcome(m message, e *exchangeError) {
	s := b.sess
	code := errorCode(m)
	first := b.promise == nil
	modern := code <= -32020 && code >= -32022 || code == -32601 || e.status == 400 && code == -32602
	init := b.byID[b.hello.id]
	b.discard(s)
	switch {
	case modern && b.protocol == "auto" && b.tr == nil && !b.notModern && first && init != nil:
		b.refuse, b.refusal = e, m
		b.translate(init)
	case first && (e.status == 400 || e.status == 404 || e.status == 405) && len(b.kinds) > 0:
		b.refuse, b.refusal = e, m
		b.open()
	case first && init != nil:
		if b.refuse != nil { // what the preferred transport said tells more
			b.mem.free(m.charge)
			e, m = b.refuse, b.refusal
			b.refuse, b.refusal = nil, message{}
		}
		b.kinds = nil
		b.set(idle)
		if m.raw != nil {
			b.answer(init, m)
		} else {
			b.refused(init, e)
		}
	default: // it knew us once: whatever this is, it passes, or the client hears of it
		b.mem.free(m.charge)
		b.kind = 0
		b.down(e)
	}
}

// translate makes an old client understand a new server from here on.
func (b *bridge) translate(init *call) {
	b.log.Info("the server speaks MCP 2026-07-28 only: translating for a client of an earlier revision", "server", b.server)
	b.tr = newTranslator(b.prefix + "-t")
	b.kind = kindStateless
	b.set(idle)
	m := init.m
	m.charge = charge{}
	b.drop(init)
	b.fromClient(m)
}

// discard ends a session that will not be used again. Calls that fly in it stay with their exchanges.
func (b *bridge) discard(s *session) {
	if b.sess == s {
		b.sess = nil
	}
	b.toSay = nil
	for x := range s.live {
		if x.stream || x.c.then != nil {
			x.cancel(errOver)
		} else if s.kind == kindSSE { // what the POST says tells whether the server has the call
			time.AfterFunc(lingering, func() { x.cancel(errOver) })
		}
	}
	for id, sr := range b.asked {
		if sr.sess == s {
			delete(b.asked, id)
			b.write(newNotification("notifications/cancelled", json.RawMessage(`{"requestId":`+id+`,"reason":"the session with the server was lost"}`)))
		}
	}
}

// ---- to the server

// pump sends what may be sent.
func (b *bridge) pump(now time.Time) {
	for b.state == ready && len(b.queue) > 0 {
		c := b.queue[0]
		b.queue = b.queue[1:]
		if c.m.kind == response && c.sess != b.sess {
			b.drop(c)
			continue
		}
		b.send(c)
	}
	if b.state == idle && b.oldest() != nil {
		b.open()
	}
}

// send starts the exchange that carries c in the present session.
func (b *bridge) send(c *call) {
	s := b.sess
	now := time.Now()
	m := c.m
	up := m.id
	if m.as != "" {
		up = m.as
	}
	if m.kind == request && c.sendings > 0 && (c.sess == s || s.kind == kindStateless) {
		up = b.newID()
	}
	if m.kind == request && up != m.id {
		m = m.withID(up)
	}
	c.again = b.mayRepeat(c)
	m.safe = c.again && !c.fresh && c != b.probing
	x := &exchange{s: s, c: c}
	c.sess, c.x, c.state, c.sentAt, c.accepted = s, x, flying, now, time.Time{}
	c.sendings++
	if m.kind != request {
		up = ""
	}
	b.sent(c, up)
	b.talked = now
	b.launch(x, func(ctx context.Context, recv receive) error { return s.t.post(ctx, m, &x.p, recv) })
}

// mayRepeat says whether c may be sent again although an earlier sending may have been acted on.
func (b *bridge) mayRepeat(c *call) bool {
	if c.then != nil || c.m.kind == response {
		return true
	}
	if c.m.kind != request || peek(c.m.raw, "params", "inputResponses") != nil || peek(c.m.raw, "params", "requestState") != nil {
		return false
	}
	if c.m.method != "tools/call" {
		return repeatable(c.m.method)
	}
	return b.retryCalls == "always" || b.retryCalls == "safe" && b.filter.repeatable(c.name())
}

// listen opens the server's own stream, after a pause.
func (b *bridge) listen(s *session, after string, pause time.Duration) {
	x := &exchange{s: s, stream: true}
	s.stream = x
	b.launch(x, func(ctx context.Context, recv receive) error { return b.resumeAfter(ctx, x, after, pause, recv) })
}

// resume continues the cut stream of c from its cursor, after a pause.
func (b *bridge) resume(c *call, pause time.Duration) {
	x := &exchange{s: c.sess, c: c, resume: true}
	c.state, c.x = resuming, x
	after := c.after
	b.launch(x, func(ctx context.Context, recv receive) error { return b.resumeAfter(ctx, x, after, pause, recv) })
}

func (b *bridge) resumeAfter(ctx context.Context, x *exchange, after string, pause time.Duration, recv receive) error {
	if pause > 0 {
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	opened := func() {
		select {
		case b.events <- event{x: x, opened: true}:
		case <-ctx.Done():
		}
	}
	return x.s.t.listen(ctx, after, &x.p, opened, recv)
}

// ---- from the server

// news takes an event.
func (b *bridge) news(e event) {
	now := time.Now()
	if e.signIn {
		b.signed(e)
		return
	}
	if len(e.ms) > 0 || e.opened {
		b.heard = now
	}
	for _, m := range e.ms {
		b.fromServer(e.x, m)
	}
	if e.opened {
		b.opened(e.x, now)
	}
	if e.done {
		delete(e.x.s.live, e.x)
		b.over(e.x, e.err)
	}
}

// opened notes that a stream can be relied on.
func (b *bridge) opened(x *exchange, now time.Time) {
	x.opened = now
	if c := x.c; c != nil {
		c.failing = time.Time{}
		return
	}
	x.s.streamOpen = true
	if x.s == b.sess && x.s.kind == kindSSE && b.state == opening {
		b.greet()
	}
}

// fromServer takes one message that arrived on x.
func (b *bridge) fromServer(x *exchange, m message) {
	if m.kind == response {
		c := b.answered(x, m)
		if c == nil {
			x.stray = true
			b.log.Debug("dropping an answer that nobody waits for", "server", b.server)
			b.mem.free(m.charge)
			return
		}
		b.reply(c, m)
		return
	}
	if x.s != b.sess { // of a lost session only answers count
		b.mem.free(m.charge)
		return
	}
	if c := x.c; c != nil {
		c.resumes = 0
	}
	if m.kind == request {
		id := b.newID()
		b.asked[id] = serverRequest{x.s, m.id}
		b.toClient(m.withID(id))
		return
	}
	switch m.method {
	case "notifications/cancelled":
		token := peek(m.raw, "params", "requestId")
		for id, sr := range b.asked {
			if sr.sess == x.s && sr.id == string(token) {
				m = splice(m, token, id)
				delete(b.asked, id)
				break
			}
		}
	case "notifications/progress":
		if !b.rises(m) {
			b.mem.free(m.charge)
			return
		}
	case "notifications/subscriptions/acknowledged":
		if c := x.c; c != nil {
			if c.acked {
				b.mem.free(m.charge)
				return
			}
			c.acked = true
		}
	}
	if x.c != nil && x.c.up != x.c.m.id && x.s.kind == kindStateless {
		m = withSubscription(m, x.c)
	}
	b.toClient(m)
}

// withSubscription gives a message of a subscription that was opened again the id that the client knows.
func withSubscription(m message, c *call) message {
	root := "params"
	if m.kind == response {
		root = "result"
	}
	if token := peek(m.raw, root, "_meta", "io.modelcontextprotocol/subscriptionId"); string(token) == c.up {
		return splice(m, token, c.m.id)
	}
	return m
}

// rises keeps progress rising for the client: a resent call begins again, and its first steps are known.
func (b *bridge) rises(m message) bool {
	c := b.byToken[string(peek(m.raw, "params", "progressToken"))]
	if c == nil {
		return true
	}
	var v float64
	if json.Unmarshal(peek(m.raw, "params", "progress"), &v) != nil || c.sendings > 1 && v <= c.progress {
		return false
	}
	c.progress = v
	return true
}

// reply takes the answer to c.
func (b *bridge) reply(c *call, m message) {
	b.notice(c)
	switch {
	case c.then != nil:
		b.drop(c)
		c.then(m, nil)
		return
	case b.kind != kindStateless && c.sess == b.sess && !c.gone && b.doubtful(m):
		c.doubt = &m
		b.send(&call{m: newRequest(b.newID(), "ping", nil), then: func(pong message, e *exchangeError) {
			b.mem.free(pong.charge)
			b.verified(c, e != nil && e.fate == gone || b.doubtful(pong))
		}})
		return
	case m.failed:
	case c.m.method == "tools/list":
		m = b.filter.list(m)
	default:
		b.note(c)
	}
	if c.up != c.m.id && b.kind == kindStateless {
		m = withSubscription(m, c)
	}
	b.answer(c, m)
}

// verified ends the doubt about an answer that looked as if the session was lost.
func (b *bridge) verified(c *call, lost bool) {
	if c.state == settled {
		return
	}
	m, s := *c.doubt, c.sess
	if lost && s == b.sess && c.again {
		c.gone, c.doubt = true, nil
		b.mem.free(m.charge)
		b.hold(c)
	} else {
		b.answer(c, m) // never a re-send of what a tool itself may have said
	}
	if lost {
		b.lost(s, &exchangeError{fate: gone, err: errors.New("the server has forgotten the session")})
	}
}

// doubtful says whether an error may only mean that the session is lost. Such signs are checked by a ping.
func (b *bridge) doubtful(m message) bool {
	if !m.failed {
		return false
	}
	code := errorCode(m)
	text := strings.ToLower(string(peek(m.raw, "error", "message")))
	return strings.Contains(text, "session") || strings.Contains(text, "initializ") ||
		b.sess != nil && b.sess.shaken && (code == -32600 || code == -32602)
}

func errorCode(m message) int {
	var code int
	_ = json.Unmarshal(peek(m.raw, "error", "code"), &code) // 0 if there is none
	return code
}

// ---- what a failure means

// over is the end of an exchange.
func (b *bridge) over(x *exchange, err error) {
	c := x.c
	switch {
	case x.stream:
		b.streamOver(x, asExchangeError(err))
		return
	case c.x != x || c.state != flying && c.state != resuming:
		return // answered, cancelled, or sent again meanwhile
	case c.then != nil && x.s != b.sess:
		b.drop(c)
		return
	}
	c.x = nil
	if err == nil {
		b.taken(c, x)
		return
	}
	e := asExchangeError(err)
	var m message
	if ms, err := scanBody(e.body); err == nil {
		m = ms[0]
	}
	answered := m.kind == response && c.m.kind == request && (e.fate == final || e.fate == unknown)
	if !answered {
		m = message{}
	}
	switch {
	case c.then != nil:
		b.drop(c)
		c.then(m, e)
	case answered:
		b.reply(c, m)
	case x.resume && e.fate != cut && e.fate != gone && e.fate != final && x.s == b.sess:
		b.resumeFailed(c, e)
	default:
		b.failed(c, x, e)
	}
}

func asExchangeError(err error) *exchangeError {
	var e *exchangeError
	if errors.As(err, &e) {
		return e
	}
	return &exchangeError{fate: unknown, err: err}
}

// taken handles an exchange that ended well without having settled its call.
func (b *bridge) taken(c *call, x *exchange) {
	switch {
	case c.m.kind != request:
		b.drop(c)
		if c.then != nil {
			c.then(message{}, nil)
		}
	case x.s.kind == kindSSE && x.s == b.sess: // the answer comes on the stream
	case x.s.kind == kindSSE:
		b.failed(c, x, &exchangeError{fate: unknown, err: errors.New("the stream that was to bring the answer was lost")})
	case x.stray:
		b.fail(c, faultBadAnswer, "the server answered with the id of another request", nil)
	case x.s.streamOpen && x.s == b.sess:
		c.accepted = time.Now()
	default:
		b.failed(c, x, &exchangeError{fate: unknown, err: errors.New("the server accepted the request and offers no stream for the answer")})
	}
}

// failed is the table of fates.
func (b *bridge) failed(c *call, x *exchange, e *exchangeError) {
	if errors.Is(e, errTooLarge) {
		b.fail(c, faultTooLarge, fmt.Sprintf("the answer is larger than %d bytes (--max-message-size)", b.maxMessage), e)
		return
	}
	switch {
	case e.fate == refused && (e.status == 401 || e.status == 403):
		b.challenged(c, e)
	case e.fate == unsent || e.fate == refused || e.cert && b.met:
		b.hold(c)
		b.down(e)
	case e.fate == gone && !c.gone:
		c.gone = true
		b.hold(c)
		b.lost(x.s, e)
	case e.fate == cut && x.s == b.sess && c.m.kind == request:
		b.cut(c, x, e)
	case e.fate == gone || e.fate == final:
		if x.resume { // the cursor was refused
			b.unsure(c, e)
			return
		}
		b.refused(c, e)
	default:
		b.unsure(c, e)
	}
}

// unsure handles a call that may have been acted on.
func (b *bridge) unsure(c *call, e *exchangeError) {
	switch {
	case c.m.kind == notification:
		b.drop(c)
	case b.autoReconnect && c.again:
		c.unsure, c.after = true, ""
		b.hold(c)
		b.down(e)
	default:
		c.unsure = true
		b.fail(c, faultOutcomeUnknown, "the connection to "+b.server+" was lost after the request was sent; it may have run: check before repeating it", e)
	}
}

// cut resumes the stream of a call: at first exactly when the server says, and after failures under the
// backoff, until no stream could be opened for the hold timeout.
func (b *bridge) cut(c *call, x *exchange, e *exchangeError) {
	now := time.Now()
	c.failing = time.Time{}
	if e.after != "" && e.after != c.after {
		c.after, c.resumes = e.after, 0
	} else {
		c.resumes++
	}
	pause := e.wait
	if pause == 0 {
		pause = b.jitter(c.resumes)
	}
	if pause > b.holdTimeout || b.maxRetries >= 0 && c.resumes > b.maxRetries {
		b.unsure(c, e)
		return
	}
	b.log.Debug("resuming a stream", "server", b.server, "after", now.Sub(c.sentAt))
	b.resume(c, pause)
}

// resumeFailed keeps the cursor and tries again, until the hold timeout.
func (b *bridge) resumeFailed(c *call, e *exchangeError) {
	now := time.Now()
	if c.failing.IsZero() {
		c.failing = now
	}
	c.resumes++
	pause := e.wait + b.jitter(c.resumes)
	if now.Add(pause).Sub(c.failing) > b.holdTimeout || c.sess != b.sess {
		b.unsure(c, e)
		return
	}
	b.resume(c, pause)
}

// jitter is a random pause: up to 250 ms at first, then full jitter under the ceiling of the nth failure.
func (b *bridge) jitter(n int) time.Duration {
	if n <= quickLosses {
		return rand.N(quickSpread)
	}
	return backoff(b.initialDelay, b.maxDelay, b.multiplier, n-quickLosses-1)
}

// backoff is full jitter: a random share of min(max, initial × multiplier^n).
func backoff(initial, max time.Duration, multiplier float64, n int) time.Duration {
	ceiling := float64(initial)
	for range n {
		if ceiling *= multiplier; ceiling >= float64(max) {
			break
		}
	}
	return rand.N(min(max, time.Duration(ceiling)) + 1)
}

// streamOver is the end of the server's own stream.
func (b *bridge) streamOver(x *exchange, e *exchangeError) {
	s := x.s
	if s.stream == x {
		s.stream, s.streamOpen = nil, false
	}
	if s != b.sess {
		return
	}
	lived := !x.opened.IsZero() && time.Since(x.opened) >= health
	if lived {
		s.streamFails = 0
	}
	s.streamFails++
	switch {
	case e.fate == refused && (e.status == 401 || e.status == 403):
		b.challenged(nil, e)
	case s.kind == kindSSE && b.state == opening && x.opened.IsZero() && e.fate == final && !(e.cert && b.met):
		b.unwelcome(message{}, e)
	case s.kind == kindSSE && !s.established:
		b.discard(s)
		b.down(e)
	case s.kind == kindSSE, e.fate == gone:
		b.lost(s, e)
	case e.fate == final: // no stream offered
	default:
		b.listen(s, e.after, e.wait+b.jitter(s.streamFails))
	}
}

// lost begins anew after the server has forgotten s. Concurrent news of one session make one new session.
func (b *bridge) lost(s *session, e *exchangeError) {
	if s != b.sess {
		return
	}
	b.discard(s)
	for c := range b.inflight {
		if c.sess != s || c.then != nil {
			continue
		}
		if c.m.kind != request { // answers to requests of that session are worthless now
			b.drop(c)
		} else if c.state == resuming || c.x == nil {
			if c.x != nil {
				c.x.cancel(errOver)
			}
			b.unsure(c, e)
		}
	}
	b.down(e)
}

// down begins or continues an outage: it counts once, however many calls notice it.
func (b *bridge) down(e *exchangeError) {
	now := time.Now()
	b.lastError = e.Error()
	if b.state == waiting || b.state == dormant {
		b.raise(now.Add(e.wait))
		return
	}
	if b.outage.IsZero() {
		b.outage, b.attempts = now, 0
		b.log.Warn("the line was lost", "server", b.server, "cause", e.Error())
	}
	if b.sess != nil {
		b.sess.shaken = true
	}
	if now.Sub(b.readyAt) >= health && b.state == ready {
		b.failures = 0
	}
	pause := time.Duration(0)
	if b.quickly(now, e.fate == gone) {
		pause = rand.N(quickSpread)
	} else {
		pause = backoff(b.initialDelay, b.maxDelay, b.multiplier, b.failures)
		b.failures++
	}
	if !b.autoReconnect || b.maxRetries >= 0 && b.failures > b.maxRetries {
		b.giveUp(faultNotSent, fmt.Sprintf("%s could not be reached in %d attempts", b.server, b.attempts), e)
		return
	}
	b.set(waiting)
	b.redialAt, b.floor = now.Add(pause), time.Time{}
	b.raise(now.Add(e.wait))
	if e.wait > 0 {
		b.redialAt = b.redialAt.Add(pause)
	}
	for _, c := range b.queue {
		b.comfort(c, now)
	}
}

// quickly says whether this loss may redial at once: it followed an answered handshake, or is the server's own
// word that it is there and has forgotten us, and there were few such losses lately.
func (b *bridge) quickly(now time.Time, forgotten bool) bool {
	if b.state != ready && !forgotten {
		return false
	}
	kept := b.quick[:0]
	for _, t := range b.quick {
		if now.Sub(t) < 10*time.Second {
			kept = append(kept, t)
		}
	}
	b.quick = append(kept, now)
	if len(b.quick) > quickLosses {
		b.quick = b.quick[1:]
		return false
	}
	return true
}

// raise keeps the redial from coming before floor, and answers at once what cannot wait so long.
func (b *bridge) raise(floor time.Time) {
	if !floor.After(b.redialAt) {
		return
	}
	b.redialAt, b.floor = floor, floor
	b.expire(time.Now(), floor)
}

// giveUp is the way to dormant: everything held gets its error, and nothing is dialled until the client's
// next line.
func (b *bridge) giveUp(f faultKind, text string, e *exchangeError) {
	b.set(dormant)
	for len(b.queue) > 0 {
		c := b.queue[0]
		if c.m.kind == request {
			b.fail(c, f, text, e)
		} else {
			b.drop(c)
		}
	}
}

// ---- signing in

// challenged holds a call until there is a credential for it.
func (b *bridge) challenged(c *call, e *exchangeError) {
	if c != nil {
		c.signIns++
		if c.signIns > maxSignIns {
			b.fail(c, faultAuthorization, "the server refused the credential", e)
			return
		}
		b.hold(c)
		if e.status == 401 && e.challenge == "" && !c.gone && c.sess == b.sess && c.sess.kind != kindStateless {
			c.gone = true // some servers say 401 when they have forgotten a session: a new hello tells
			b.lost(c.sess, e)
			return
		}
	}
	b.lastError = e.Error()
	b.set(signingIn)
	if b.signing {
		return
	}
	b.signing = true
	b.spawn(func(ctx context.Context) {
		tell := func(n event) {
			select {
			case b.events <- n:
			case <-ctx.Done():
			}
		}
		err := b.world.signIn(ctx, e.challenge, e.status, func(hint string) { tell(event{signIn: true, hint: hint}) })
		tell(event{signIn: true, done: true, err: err})
	})
}

// signed takes news of the sign-in.
func (b *bridge) signed(e event) {
	if !e.done {
		b.hint = e.hint
		return
	}
	b.signing, b.hint = false, ""
	if b.state != signingIn {
		return
	}
	var failure *signInError
	switch {
	case e.err == nil && b.sess != nil && b.sess.established:
		b.say()
	case e.err == nil:
		b.open()
	case errors.As(e.err, &failure) && failure.outage:
		b.down(&exchangeError{fate: unsent, err: e.err, wait: failure.wait})
	default:
		if errors.As(e.err, &failure) {
			b.hint = failure.hint
		}
		b.giveUp(faultAuthorization, strings.TrimSpace("signing in failed: "+e.err.Error()+". "+b.hint), nil)
	}
}

// ---- time

// nextWake is when tick has something to do at the earliest.
func (b *bridge) nextWake(now time.Time) time.Time {
	next := now.Add(time.Hour)
	if b.pingInterval > 0 && b.sess != nil && b.streaming() {
		next = b.talked.Add(b.pingInterval)
	}
	if len(b.byID) > 0 || b.probing != nil || len(b.queue) > 0 {
		next = now.Add(tickEvery)
	}
	for _, t := range []time.Time{b.deadline, b.redialAt} {
		if t.After(now) && t.Before(next) {
			next = t
		}
	}
	if b.state == waiting && !b.redialAt.After(now) {
		next = now
	}
	return next
}

// streaming says whether a stream of the server is open.
func (b *bridge) streaming() bool {
	if b.sess.streamOpen {
		return true
	}
	for c := range b.inflight {
		if c.standing() {
			return true
		}
	}
	return false
}

// tick does what time asks for.
func (b *bridge) tick(now time.Time) {
	if b.state == waiting && !now.Before(b.redialAt) {
		b.open()
	}
	if b.outBytes >= maxOut { // we hold the streams up ourselves
		return
	}
	b.expire(now, now)
	if b.state == opening && b.sess != nil && b.sess.kind == kindStateless && !b.sess.established && now.After(b.discoverBy) && !b.discoverBy.IsZero() {
		b.old()
	}
	b.watch(now)
	for s := b.sess; s != nil; s = nil {
		for x := range s.live {
			if !x.done.IsZero() && now.Sub(x.done) > lingering {
				x.cancel(errEnough)
			}
		}
	}
}

// expire answers the lines that have been held as long as they may be at the time at.
func (b *bridge) expire(now, at time.Time) {
	for _, c := range b.byID {
		var limit time.Time
		switch {
		case c.standing():
			continue
		case !c.accepted.IsZero():
			if now.Sub(c.accepted) > acceptedTimeout {
				b.unsure(c, &exchangeError{fate: unknown, err: errors.New("the server accepted the request and never answered")})
			}
			continue
		case c.state != held && c.state != parked:
			continue
		case c.m.method == "initialize":
			if b.remembered != nil && b.offlineStart && b.promise == nil && now.Sub(c.arrived) >= offlineAfter && b.state != signingIn {
				b.startOffline(c)
				continue
			}
			limit = c.arrived.Add(initializeTimeout)
		default:
			limit = b.heard.Add(b.holdTimeout)
			if late := c.arrived.Add(lateHold); late.After(limit) {
				limit = late
			}
		}
		if at.Before(limit) {
			continue
		}
		if b.state == signingIn {
			b.fail(c, faultAuthorization, strings.TrimSpace("signing in to "+b.server+" is not finished. "+b.hint), nil)
		} else {
			b.fail(c, faultNotSent, fmt.Sprintf("%s could not be reached for %v (%d attempts)", b.server, now.Sub(c.arrived).Round(time.Second), b.attempts), errors.New(b.lastError))
		}
	}
}

// startOffline answers initialize from memory. The real hello goes on.
func (b *bridge) startOffline(c *call) {
	b.offline, b.promise = true, b.remembered
	result, _ := json.Marshal(b.remembered) // its parts were scanned when they came
	b.log.Warn("the server cannot be reached: answering initialize with what it said last", "server", b.server)
	b.answer(c, newResult(c.m.id, result))
}

// watch finds out whether a silent line is alive.
func (b *bridge) watch(now time.Time) {
	slept := now.Round(0).Sub(b.wall) - now.Sub(b.wall) // wall clock against monotonic clock
	b.wall = now
	if b.state != ready {
		return
	}
	if p := b.probing; p != nil {
		if quiet := now.Sub(b.lastByte()); now.Sub(p.sentAt) >= probeTimeout && (b.chatty || quiet >= deadSilence) {
			b.dead()
		}
		return
	}
	due := b.pingInterval > 0 && b.streaming() && now.Sub(b.talked) >= b.pingInterval
	for c := range b.inflight {
		due = due || c.then == nil && c.m.kind == request && !c.standing() && now.Sub(c.sentAt) >= silence && now.Sub(b.lastByte()) >= silence
	}
	if due || slept > 5*time.Second && len(b.sess.live) > 0 {
		m := newRequest(b.newID(), "ping", nil)
		if b.sess.kind == kindStateless {
			m = newRequest(b.newID(), "server/discover", modernParams(nil))
		}
		p := &call{m: m}
		p.then = func(m message, e *exchangeError) { b.mem.free(m.charge); b.probed(p, e) }
		b.probing = p
		b.send(p)
	}
}

// lastByte is when the server was last heard on any exchange that is still open, or earlier on others.
func (b *bridge) lastByte() time.Time {
	last := b.heard
	for x := range b.sess.live {
		if t := x.p.start.Add(time.Duration(x.p.heard.Load())); t.After(last) && x.p.heard.Load() > 0 {
			last = t
		}
	}
	return last
}

// probed takes what became of a probe. Any answer says that the server is there; then a repeatable call whose
// reused connection has not brought so much as headers is sent once more, on a fresh one, and everything
// else waits, for hours if need be.
func (b *bridge) probed(p *call, e *exchangeError) {
	if b.probing != p {
		return
	}
	b.probing = nil
	switch {
	case e != nil && e.fate == gone:
		b.lost(p.sess, e)
		return
	case e != nil && e.status == 0:
		b.dead()
		return
	}
	for c := range b.inflight {
		if x := c.x; c.then == nil && c.again && !c.fresh && x != nil && !x.resume && p.sentAt.Sub(c.sentAt) >= silence && x.p.reused.Load() && !x.p.headers.Load() {
			c.fresh = true
			x.cancel(errSilent)
			b.send(c)
		}
	}
}

// dead condemns the line: everything that is open on it ends with an unknown outcome.
func (b *bridge) dead() {
	s := b.sess
	if b.probing != nil {
		b.drop(b.probing)
		b.probing = nil
	}
	e := &exchangeError{fate: unknown, err: errSilent}
	for x := range s.live {
		x.cancel(errSilent)
	}
	if s.kind == kindSSE {
		b.lost(s, e)
		return
	}
	b.down(e)
}

// notice learns from an answer whether this server answers while a call is waiting. Only an answer to
// something that was sent well after that call proves it.
func (b *bridge) notice(c *call) {
	if b.chatty {
		return
	}
	for o := range b.inflight {
		if o != c && o.m.kind == request && !o.standing() && c.sentAt.Sub(o.sentAt) >= time.Second {
			b.chatty = true
			return
		}
	}
}

// ---- tools that the filter has not seen

// page reads a page of the tool list for calls of tools that no list has named yet.
func (b *bridge) page(c *call, cursor string) {
	b.pages++
	params := map[string]json.RawMessage{}
	if cursor != "" {
		params["cursor"] = json.RawMessage(cursor)
	}
	if isModern(c.m) {
		params["_meta"] = peek(modernParams(c), "_meta")
	}
	raw, _ := json.Marshal(params) // cannot fail: every value was scanned
	b.hold(&call{m: newRequest(b.newID(), "tools/list", raw), then: b.listed})
	b.stir(time.Now())
}

// listed takes a page of the tool list: there is another, or every call that waited for it is decided.
func (b *bridge) listed(m message, e *exchangeError) {
	cursor := peek(m.raw, "result", "nextCursor")
	if m.raw != nil && !m.failed {
		m = b.filter.list(m)
	}
	b.mem.free(m.charge)
	for _, c := range b.byID {
		switch {
		case c.state != parked:
		case b.filter.call(c.name()) == allowed:
			b.hold(c)
		case e == nil && len(cursor) > 2 && cursor[0] == '"' && b.pages < maxToolPages:
			b.page(c, string(cursor))
			return
		default:
			b.fail(c, faultNotPermitted, "the server does not list this tool as read-only", nil)
		}
	}
	b.pages = 0
}

// ---- what others are told

// set changes the state.
func (b *bridge) set(s state) {
	if b.state != s {
		b.state, b.since = s, time.Now()
		b.report()
	}
}

func (b *bridge) report() {
	b.world.remember(snapshot{
		State: b.state.String(), Since: b.since, Reconnects: b.reconnects, LastError: b.lastError, Held: len(b.queue),
		handshake: b.remembered,
	})
}

// comfort tells a client whose call is held, and who asked for progress, that it is not forgotten: many
// clients begin their time limit anew on it. The values are tiny, so that the server's own can follow.
func (b *bridge) comfort(c *call, now time.Time) {
	if c.token == "" || c.state != held {
		return
	}
	c.progress += 1e-6
	text := fmt.Sprintf("reconnecting to %s, attempt %d", b.server, b.attempts+1)
	if next := b.redialAt.Sub(now); next > time.Second {
		text += fmt.Sprintf(", next in %v", next.Round(time.Second))
	}
	params, _ := json.Marshal(map[string]any{"progressToken": json.RawMessage(c.token), "progress": c.progress, "message": text})
	b.toClient(newNotification("notifications/progress", params))
}

// refused answers c with what the server said outside JSON-RPC.
func (b *bridge) refused(c *call, e *exchangeError) {
	b.fail(c, faultServerRefused, b.server+": "+e.Error(), e)
}

// fail answers c with an error of the bridge's own.
func (b *bridge) fail(c *call, k faultKind, text string, cause error) {
	f := &errorData{Reason: k.reason(), Attempts: c.sendings, ElapsedMs: time.Since(c.arrived).Milliseconds(), Server: b.server}
	if k == faultBadAnswer || k == faultTooLarge || c.unsure || c.state == flying || c.state == resuming {
		f.MayHaveRun = true
	}
	if cause != nil {
		f.Cause = clean(cause.Error())
	}
	id := c.m.id
	if b.drop(c) && c.m.kind == request {
		b.record(c, k.reason())
		b.toClient(errorReply(id, int(k), text, f))
	}
}

// record writes the audit record of a call that was settled.
func (b *bridge) record(c *call, outcome string) {
	if b.audit == nil || c.then != nil {
		return
	}
	b.audit.record(auditRecord{
		Time: time.Now(), Server: b.server, Direction: "to-server", Method: c.m.method, Name: c.name(), ID: c.m.id,
		Outcome: outcome, DurationMs: time.Since(c.arrived).Milliseconds(), Bytes: len(c.m.raw), Reconnects: b.reconnects,
	})
}

// malformed is the reply to a line that is no message.
func malformed(err error) message {
	var bad *badMessage
	errors.As(err, &bad)
	return errorReply(bad.id, bad.code, bad.text, nil)
}
