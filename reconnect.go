package main

// reconnect.go is the owner of everything: one goroutine, run, holds all protocol state and decides what is
// sent, held, sent again or answered with an error. It does no I/O itself: readLines feeds it, writeLines
// drains it, and each exchange with the server is a goroutine that reports by events. With host.go, opening.go and
// watch.go, which hold its methods for the client's side, for beginnings and for time, it uses the clock, chance
// and the scheduler, and nothing else of the machine.

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"
)

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
	// crowded is called whenever the number of lines in flight comes to crowd. It may be nil.
	crowded func()
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
type state string

const (
	idle      state = "idle"
	opening   state = "opening"
	ready     state = "ready"
	signingIn state = "signing in"
	waiting   state = "waiting"
	dormant   state = "dormant"
)

const (
	quickSpread = 250 * time.Millisecond // a first redial comes within it
	resumeFloor = 100 * time.Millisecond // between resumptions of a stream, however soon the server wants the next
	quickLosses = 5                      // so many losses within quickWindow redial at once
	quickWindow = 10 * time.Second
	health      = 10 * time.Second // of it, and the failures are forgotten
	lingering   = 5 * time.Second  // an exchange may stay open so long after its answer
	hangupGrace = 400 * time.Millisecond
	crowd       = 65        // lines in flight that are work for more than one processor
	maxOut      = 256 << 10 // bytes towards the client that may wait before events have to
)

// An event is news from an exchange, or anything else that the loop has to do.
type event struct {
	x  *exchange
	ms []message // what the server sent, in order
	do func()    // runs in the loop, after ms; nil: nothing
}

var (
	errSilent    = errors.New("the line is silent")
	errCancelled = errors.New("the client cancelled the request")
	errOver      = errors.New("the session is over")
	errForgotten = errors.New("the server has forgotten the session")
)

// A bridge is one client's line to one server.
type bridge struct {
	options
	world outside
	log   *slog.Logger
	mem   *budget

	// All that follows is owned by run.
	ledger
	ours
	filter *filter
	tr     *translator // not nil: an old client on a new server
	batch  map[string]*group
	paging *call // the newest page of the tool list that is read for the filter
	pages  int   // of this search

	state state
	since time.Time
	sess  *session

	// Beginnings (opening.go).
	kind      transportKind   // learnt; 0 if not yet
	kinds     []transportKind // still to be tried in this round
	refusal   *exchangeError  // what the preferred transport said to the hello: the answer if nothing works
	notModern bool            // translating was tried, and was wrong
	toSay     []message       // replay that is still to be answered
	saying    *call           // its first
	replays   bool            // this opening makes an old session anew
	met       bool            // a handshake succeeded once: a bad certificate is an outage now
	signing   bool
	hint      string // what a person has to do

	// The outage, and redialling.
	outage     time.Time // since when; zero: none
	attempts   int       // in this outage
	begun      time.Time // when the newest of them began
	failures   int       // the exponent of the backoff
	losses     time.Time // quick losses so far, as the time at which they are forgotten
	redialAt   time.Time
	floor      time.Time // the server asked not to be called before
	hurried    time.Time // the last redial that a line of the client asked for
	lastError  string
	reconnects int

	// Watching (watch.go).
	heard   time.Time // the last message of the server
	talked  time.Time // the last message to the server
	chatty  bool      // the server was seen to answer while a call was waiting
	probing *call
	start   time.Time
	drift   time.Duration // of the wall clock since start, against the monotonic clock

	// The client.
	outbox   []message
	written  []message // or being written; the next outbox
	outBytes int
	deadline time.Time // zero: the client still talks

	events chan event    // sent by exchanges and the sign-in; never closed
	ended  chan struct{} // closed by run when it takes no more events
	child  func() (context.Context, context.CancelCauseFunc)
	spawn  func(func())
}

func newBridge(o options, world outside, log *slog.Logger, mem *budget) *bridge {
	return &bridge{
		options: o,
		world:   world,
		log:     log,
		mem:     mem,
		ledger:  newLedger(),
		filter:  newFilter(o.tools),
		batch:   map[string]*group{},
		paging:  &call{state: settled},
		saying:  &call{state: settled},
		state:   idle,
		events:  make(chan event, 16),
		ended:   make(chan struct{}),
	}
}

// run carries the client's line until the client has closed in and everything is settled, until ctx is
// cancelled (a signal: straight to the end), or until w fails. Nothing that the server does ends it. The
// goroutine that reads in is left behind if in cannot be interrupted.
func (b *bridge) run(ctx context.Context, in io.Reader, w io.Writer) {
	work, stop := context.WithCancelCause(context.WithoutCancel(ctx))
	var wg sync.WaitGroup
	b.child = func() (context.Context, context.CancelCauseFunc) { return context.WithCancelCause(work) }
	rested := make(chan func()) // run sends and closes
	b.spawn = func(f func()) {
		select {
		case rested <- f: // to a goroutine whose stack has grown before: a tenth of what a small call costs
		default:
			wg.Go(func() {
				for do, more := f, true; more; do, more = <-rested { // while it waits it keeps nothing of what it did
					do()
				}
			})
		}
	}
	inputs := make(chan []input) // readLines sends and closes
	go readLines(work, in, b.maxMessage, b.mem, inputs)
	out := make(chan []message) // run sends and closes
	wrote := make(chan struct{})
	go func() { defer close(wrote); writeLines(w, out, b.mem) }()

	now := time.Now()
	b.since, b.heard, b.start = now, now, now
	b.report()
	timer := time.NewTimer(0)
	for broken := false; !broken && ctx.Err() == nil && !b.finished(time.Now()); {
		lines, events, sink := inputs, b.events, out
		if b.outBytes >= maxOut { // the client does not read: everything waits for it
			lines, events = nil, nil
		}
		if !b.deadline.IsZero() {
			lines = nil
		}
		if len(b.outbox) == 0 {
			sink = nil
		}
		timer.Reset(time.Until(b.nextWake(time.Now())))
		select {
		case ins, ok := <-lines:
			if !ok {
				b.closed()
			}
			if now := time.Now(); b.slept(now) { // what the client asks now must not be what tells of a dead line
				b.tick(now)
			}
			for _, i := range ins {
				b.read(i)
			}
		case e := <-events:
			b.news(e)
			if len(b.inflight) > 0 {
				runtime.Gosched() // what else has arrived comes first
			}
			for range len(events) { // the writer gets together what arrived together
				b.news(<-events)
			}
		case sink <- b.outbox: // the writer has emptied what it got before
			b.outbox, b.written, b.outBytes = b.written[:0], b.outbox, 0
		case <-timer.C:
			b.tick(time.Now())
		case <-wrote:
			broken = true
		case <-ctx.Done():
		}
		b.pump()
	}

	// The end: what is open gets its answer, the server its DELETE, the client everything that was said.
	for _, c := range b.byID {
		b.fail(c, faultClosing, "the bridge was shutting down", nil)
	}
	stop(errOver)
	close(b.ended)
	close(rested)
	end, cancel := context.WithTimeout(context.Background(), hangupGrace)
	defer cancel()
	if s := b.sess; s != nil && s.established {
		wg.Go(func() { _ = s.t.hangup(end) }) // best effort
	}
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
	wg.Wait()
}

// fly starts the goroutine of x. It sends what arrives together as one event, and exactly one that ends x.
func (b *bridge) fly(x *exchange, do func(context.Context, receive) error) {
	ctx, cancel := b.child()
	x.cancel, x.p.start = cancel, time.Now()
	x.s.live[x] = true
	b.spawn(func() {
		defer cancel(nil)
		var ms []message
		size := 0
		err := do(ctx, func(m message) error {
			if m.raw != nil {
				ms = append(ms, m)
				size += len(m.raw)
			}
			if len(ms) == 0 || m.raw != nil && len(ms) < maxTogether && size < 64<<10 {
				return nil
			}
			e := event{x: x, ms: ms}
			if ms, size = nil, 0; len(e.ms) == maxTogether { // there will be more
				ms = make([]message, 0, maxTogether)
			}
			return b.tell(ctx, e)
		})
		_ = b.tell(context.WithoutCancel(ctx), event{x: x, ms: ms, do: func() { delete(x.s.live, x); b.over(x, err) }})
	})
}

// tell sends e to the loop. It fails, and frees what e holds, when ctx is done first or the loop has ended.
func (b *bridge) tell(ctx context.Context, e event) error {
	select {
	case b.events <- e:
		return nil
	case <-ctx.Done():
	case <-b.ended:
	}
	for _, m := range e.ms {
		b.mem.free(m.charge)
	}
	return errOver
}

// ---- to the server

// pump sends what may be sent.
func (b *bridge) pump() {
	for b.state == ready && len(b.queue) > 0 {
		c := b.queue[0]
		b.queue = b.queue[1:]
		if c.m.kind == response && c.sess != b.sess {
			b.drop(c)
		} else {
			b.send(c)
		}
	}
	switch {
	case b.state == idle && b.oldest() != nil:
		b.open()
	case b.state == dormant && b.autoReconnect && slices.ContainsFunc(b.queue, (*call).awaited): // its exchange has ended only now
		b.stir()
	}
}

// send starts the exchange that carries c in the present session. A request keeps its id when it is sent in
// a session for the first time, and gets a new one with every re-sending there or in 2026-07-28.
func (b *bridge) send(c *call) {
	s, m := b.sess, c.m
	if m.kind == request {
		up := m.token()
		if c.sendings > 0 && (c.sess == s || s.kind == kindStateless) {
			up = b.newID()
		}
		if c.up = up; up != m.id {
			m = m.withID(up)
		}
	}
	x := &exchange{s: s, c: c}
	c.again = c.again || b.mayRepeat(c)
	m.safe = c.again && !c.fresh && c != b.probing && b.state != opening // those want a fresh connection
	c.sess, c.x, c.state, c.sentAt, c.accepted = s, x, flying, time.Now(), time.Time{}
	c.sendings++
	b.sent(c)
	if len(b.inflight) == crowd && b.world.crowded != nil {
		b.world.crowded()
	}
	b.talked = c.sentAt
	b.fly(x, b.audited(c, func(ctx context.Context, recv receive) error { return s.t.post(ctx, m, &x.p, recv) }))
}

// mayRepeat says whether c may be sent again although an earlier sending may have been acted on.
func (b *bridge) mayRepeat(c *call) bool {
	switch {
	case c.then != nil || c.m.kind == response:
		return true
	case c.m.kind == notification || c.m.facts.bound:
		return false
	case c.m.method != "tools/call":
		return repeatable(c.m.method)
	}
	return b.retryCalls == "always" || b.retryCalls == "safe" && b.filter.repeatable(c.m.facts.name)
}

// listen opens the server's own stream, or continues the cut stream of a call from its cursor, after a pause.
func (b *bridge) listen(x *exchange, after string, pause time.Duration) {
	if x.c != nil {
		x.c.state, x.c.x = resuming, x
	} else {
		x.s.stream = x
	}
	b.fly(x, func(ctx context.Context, recv receive) error {
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		return x.s.t.listen(ctx, after, &x.p, func() { _ = b.tell(ctx, event{x: x, do: func() { b.opened(x) }}) }, recv)
	})
}

// ---- from the server

// news takes an event.
func (b *bridge) news(e event) {
	if len(e.ms) > 0 {
		b.heard = time.Now()
	}
	for _, m := range e.ms {
		b.fromServer(e.x, m)
	}
	if e.do != nil {
		e.do()
	}
}

// fromServer takes one message that arrived on x.
func (b *bridge) fromServer(x *exchange, m message) {
	c := x.c
	if m.kind == response {
		if c = b.answered(x, m); c == nil || c.doubt != nil {
			x.stray = true
			b.log.Debug("dropping an answer that nobody waits for", "server", b.server)
			b.mem.free(m.charge)
		} else {
			b.reply(c, m)
		}
		return
	}
	if c != nil {
		c.resumes = 0
	}
	keep := x.s == b.sess && (m.kind != request || len(b.asked) < maxAsked) // of a lost session only answers count
	switch {
	case !keep:
	case m.kind == request:
		id := b.newID()
		b.asked[id] = serverRequest{x.s, m.id, m.method, time.Now()}
		m = m.withID(id)
	case m.method == "notifications/cancelled":
		m = b.withdrawn(x.s, m)
	case m.method == "notifications/progress":
		keep = b.rises(m)
	case m.method == "notifications/tools/list_changed":
		b.filter.reset() // what the server said of them may be different now
	case m.method == "notifications/subscriptions/acknowledged" && c != nil && c.acked:
		for _, o := range c.gap(m) {
			b.toClient(o)
		}
		keep = false
	case m.method == "notifications/subscriptions/acknowledged" && c != nil:
		c.acked = true
	}
	if !keep {
		b.mem.free(m.charge)
		return
	}
	if c != nil && c.up != c.m.id && x.s.kind == kindStateless {
		m = withSubscription(m, c)
	}
	b.toClient(m)
}

// reply takes the answer to c.
func (b *bridge) reply(c *call, m message) {
	b.proves(c)
	if c.m.method != "tools/call" || c.then != nil || b.tr != nil || c.up != c.m.id { // somebody may look into it
		m = m.whole()
	}
	switch {
	case c.then != nil:
		b.drop(c)
		c.then(m, nil)
		return
	case (b.kind != kindStateless || b.tr != nil) && c.sess == b.sess && !c.gone && b.doubtful(m):
		c.doubt, c.accepted = &m, time.Now()
		b.send(&call{m: b.knock(nil), then: func(pong message, e *exchangeError) {
			b.mem.free(pong.charge)
			b.verified(c, m, e != nil && e.fate == gone || b.doubtful(pong) || b.tr != nil && pong.failed)
		}})
		return
	case m.failed && c.m.method == "server/discover" && b.tr == nil && b.protocol != "modern" && !isModernError(errorCode(m.raw)):
		b.mem.free(m.charge) // it knew 2026-07-28 once
		b.old()
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

// doubtful says whether an error may only mean that the session is lost. Such signs are checked by a ping.
func (b *bridge) doubtful(m message) bool {
	if !m.failed {
		return false
	}
	code := errorCode(m.raw)
	text := strings.ToLower(string(peek(m.raw, "error", "message")))
	for _, word := range [...]string{"session", "initializ", "protocol version", "_meta"} { // the last of a server of 2026-07-28
		if strings.Contains(text, word) {
			return true
		}
	}
	return isModernError(code) || b.sess != nil && b.sess.shaken && (code == -32600 || code == -32602)
}

// verified ends the doubt about the answer m to c: what a tool itself may have said is never a reason to
// run it again.
func (b *bridge) verified(c *call, m message, lost bool) {
	if c.state == settled {
		return
	}
	s := c.sess
	c.doubt, c.gone = nil, true
	if lost && c.again {
		b.mem.free(m.charge)
		b.hold(c)
	} else {
		b.answer(c, m)
	}
	if lost {
		b.lost(s, &exchangeError{fate: gone, err: errForgotten})
	}
}

// ---- what a failure means

// over is the end of an exchange.
func (b *bridge) over(x *exchange, err error) {
	e, ok := errors.AsType[*exchangeError](err)
	if err != nil && !ok {
		e = &exchangeError{fate: unknown, err: err}
	}
	if e != nil && e.cert && b.met { // a captive portal or a VPN, and it passes
		e.fate = unsent
	}
	c := x.c
	switch {
	case c == nil:
		b.streamOver(x, e)
	case c.x != x || c.state == settled: // answered, cancelled, or sent again meanwhile
	case c.doubt != nil: // its answer is being verified
		c.x = nil
	case c.then != nil && (e != nil || c.m.kind != request || x.stray) && !(x.resume || e != nil && e.fate == cut):
		b.drop(c)
		c.then(e.reply(), e)
	case e == nil:
		c.x = nil
		b.taken(c, x)
	case c.m.kind == request && (e.fate == final || e.fate == unknown) && e.reply().kind == response:
		b.reply(c, e.reply())
	default:
		c.x = nil
		b.failed(c, x, e)
	}
	if b.state == waiting { // a call that has come back may be held for less time than was left
		b.lastChance(time.Now())
	}
}

// reply is the JSON-RPC answer that came with an error status, or no message.
func (e *exchangeError) reply() message {
	if e != nil {
		if ms, bad := scanAll(validUTF8(bytes.Clone(e.body)), true); len(bad) == 0 && ms[0].kind == response {
			return ms[0]
		}
	}
	return message{}
}

// taken handles an exchange that ended well without having settled its call.
func (b *bridge) taken(c *call, x *exchange) {
	switch {
	case c.m.kind != request:
		b.drop(c)
	case x.stray:
		b.fail(c, faultBadAnswer, "the server answered with the id of another request", nil)
	case x.s == b.sess && x.s.kind == kindSSE: // the answer comes on the stream
		b.chatty = b.chatty || c == b.probing // who takes a request does not sit over another one
	case x.s == b.sess && x.s.streamOpen:
		c.accepted = time.Now()
	default:
		b.unsure(c, &exchangeError{fate: unknown, err: errors.New("the server accepted the request, and no stream is open for its answer")})
	}
}

// failed is the table of fates, for the client's calls.
func (b *bridge) failed(c *call, x *exchange, e *exchangeError) {
	switch {
	case e.challenged():
		b.challenged(c, e)
	case x.s == b.sess && c.m.kind == request && (e.fate == cut || x.resume && e.fate != gone && e.fate != final):
		b.resume(c, e)
	case x.resume: // the cursor or the session was refused
		b.unsure(c, e)
	case e.fate == gone && c.gone: // a second time: it is the answer
		b.refused(c, e)
	case e.fate == gone:
		c.gone = true
		b.hold(c)
	case e.fate == unsent || e.fate == refused:
		b.missed(c, e)
	case e.fate == final && !errors.Is(e, errTooLarge):
		b.refused(c, e)
	default:
		b.unsure(c, e)
	}
	if e.fate == gone {
		b.lost(x.s, e)
	}
}

// refused answers c with what the server said outside JSON-RPC.
func (b *bridge) refused(c *call, e *exchangeError) {
	b.fail(c, faultServerRefused, b.server+": "+e.Error(), e)
}

// unsure handles a call that may have been acted on.
func (b *bridge) unsure(c *call, e *exchangeError) {
	c.unsure = true
	switch {
	case c.doubt != nil: // the ping came to nothing
		b.verified(c, *c.doubt, false)
	case c.then != nil:
		b.drop(c)
		c.then(message{}, e)
	case c.m.kind == notification:
		b.drop(c)
	case errors.Is(e, errTooLarge): // again would bring the same
		b.fail(c, faultTooLarge, fmt.Sprintf("an answer of the server is larger than %d bytes (--max-message-size)", b.maxMessage), e)
	case b.autoReconnect && c.again:
		c.after = ""
		b.missed(c, e)
	default:
		b.fail(c, faultOutcomeUnknown, "the connection to "+b.server+" was lost after the request was sent", e)
		if e.status >= 500 { // a gateway without its server, which would say so to the next call too
			b.suspect(c, e)
		}
	}
}

// missed holds a call for another sending, unless it fails again and again, and at once, while the line is well.
func (b *bridge) missed(c *call, e *exchangeError) {
	if c.standing() || c.sendings <= quickLosses || time.Since(c.sentAt) >= health || time.Since(c.arrived) < b.holdTimeout {
		b.hold(c)
	} else {
		b.fail(c, faultNotSent, fmt.Sprintf("%s did not take the request in %d attempts", b.server, c.sendings), e)
	}
	b.suspect(c, e)
}

// suspect takes the failure of c as news of the line, unless that is being opened, or was opened anew since.
func (b *bridge) suspect(c *call, e *exchangeError) {
	if c.sess == b.sess && b.state != opening && b.state != signingIn {
		b.down(e)
	}
}

// resume continues the cut stream of a call from its cursor: when the server says, else under the backoff.
// Too many resumptions without an event, and none possible for as long as calls are held, end the hope for an answer.
func (b *bridge) resume(c *call, e *exchangeError) {
	c.resumes++
	if e.fate == cut {
		c.failing = time.Now()
		if e.after != "" && e.after != c.after {
			c.after, c.resumes = e.after, 0
		}
	}
	pause, left := e.wait, b.holdTimeout-time.Since(c.failing)-e.wait
	if left <= 0 || e.fate == cut && b.maxRetries >= 0 && c.resumes > b.maxRetries {
		b.unsure(c, e)
		return
	}
	if pause == 0 || e.fate != cut {
		pause += min(b.pause(c.resumes), left)
	}
	b.log.Debug("resuming a stream", "server", b.server)
	b.listen(&exchange{s: c.sess, c: c, resume: true}, c.after, max(pause, resumeFloor))
}

// pause is how long to wait before the nth try in a row: a moment at first, then the backoff.
func (b *bridge) pause(n int) time.Duration {
	if n <= quickLosses {
		return rand.N(quickSpread)
	}
	return b.backoff(n - quickLosses - 1)
}

// backoff is full jitter: a random share of min(maxDelay, initialDelay × multiplier^n).
func (b *bridge) backoff(n int) time.Duration {
	ceiling := math.Min(float64(b.maxDelay), float64(b.initialDelay)*math.Pow(b.multiplier, float64(n)))
	return rand.N(time.Duration(ceiling) + 1)
}

// streamOver is the end of the server's own stream. On HTTP+SSE it is the session; elsewhere no outage at all.
func (b *bridge) streamOver(x *exchange, e *exchangeError) {
	s := x.s
	if s.stream == x {
		s.stream, s.streamOpen = nil, false
	}
	if s != b.sess {
		return
	}
	s.streamFails++
	if !x.opened.IsZero() && time.Since(x.opened) >= health {
		s.streamFails = 0
	}
	switch {
	case e.challenged():
		if s.kind == kindSSE { // it has no place to post to
			b.discard(s, e)
		}
		b.challenged(nil, e)
	case s.kind == kindSSE && e.fate == final && x.opened.IsZero() && !s.established:
		b.unwelcome(e)
	case s.kind == kindSSE, e.fate == gone:
		b.lost(s, e)
	case e.fate != final && b.state != dormant: // final: none is offered
		b.listen(&exchange{s: s}, e.after, e.wait+b.pause(s.streamFails))
	}
}

// lost begins anew after the server has forgotten s. Concurrent news of one session make one new session.
func (b *bridge) lost(s *session, e *exchangeError) {
	if s == b.sess {
		b.discard(s, e)
		b.down(e)
	}
}

// discard ends a session that will not be used again. Calls that fly in it stay with their exchanges, whose
// answers still count.
func (b *bridge) discard(s *session, e *exchangeError) {
	b.sess, b.toSay, b.probing = nil, nil, nil
	b.drop(b.paging)
	for x := range s.live {
		if x.c == nil || x.c.then != nil {
			x.cancel(errOver)
		} else if s.kind == kindSSE { // what the POST says tells whether the server has the call
			time.AfterFunc(lingering, func() { x.cancel(errOver) })
		}
	}
	for c := range b.inflight {
		switch {
		case c.sess != s:
		case c.then != nil, c.m.kind != request: // answers to requests of that session are worthless now
			b.drop(c)
		case c.doubt != nil: // its ping ends with the session
			b.verified(c, *c.doubt, true)
		case c.state == resuming:
			c.x.cancel(errOver)
			b.unsure(c, e)
		case c.x == nil, errors.Is(e, errTooLarge):
			b.unsure(c, e)
		}
	}
	for id, sr := range b.asked {
		if sr.sess == s {
			delete(b.asked, id)
			b.write(newNotification("notifications/cancelled", json.RawMessage(`{"requestId":`+id+`,"reason":"the session with the server was lost"}`)))
		}
	}
}

// down begins or continues an outage: it counts once, however many calls notice it.
func (b *bridge) down(e *exchangeError) {
	now := time.Now()
	b.lastError = e.Error()
	b.floor = later(b.floor, now.Add(e.wait))
	if b.state == waiting || b.state == dormant {
		b.redialAt = later(b.redialAt, b.floor)
		return
	}
	if b.outage.IsZero() {
		b.outage, b.attempts = now, 0
		b.log.Warn("the line was lost", "server", b.server, "cause", e.Error())
	}
	if b.sess != nil {
		b.sess.shaken = true
	}
	pause := rand.N(quickSpread)
	if b.state == ready && now.Sub(b.since) >= health {
		b.failures = 0
	}
	if b.state != ready && (e.fate != gone || b.replays) || !b.quick(now) { // gone is the server's own word that it is there
		pause = b.backoff(b.failures)
		b.failures++
	}
	late := b.state == opening && slices.ContainsFunc(b.queue, b.owed)
	if b.maxRetries >= 0 && b.failures > b.maxRetries && (late || slices.ContainsFunc(b.queue, func(c *call) bool { return c.m.method == "initialize" || now.Sub(c.arrived) < lateHold })) {
		b.failures-- // too early for an error: the round goes on
	}
	if !b.autoReconnect && !late && (e.fate != gone || len(b.queue) == 0) || b.maxRetries >= 0 && b.failures > b.maxRetries {
		b.giveUp(faultNotSent, fmt.Sprintf("%s could not be reached in %d attempts", b.server, b.attempts), e)
		return
	}
	b.set(waiting)
	b.redialAt = b.floor.Add(pause) // the server's floor is added to, never cut
	if late {
		b.hurry(now)
	}
	b.lastChance(now)
	b.announce()
	for _, c := range b.queue {
		b.comfort(c)
	}
}

// quick counts a loss that followed an answered handshake, and says whether there were few enough of them
// lately to redial at once.
func (b *bridge) quick(now time.Time) bool {
	b.losses = later(b.losses, now)
	if b.losses.Sub(now) > quickWindow-quickWindow/quickLosses {
		return false
	}
	b.losses = b.losses.Add(quickWindow / quickLosses)
	return true
}

// stir lets a line of the client wake the bridge or cut a wait short.
func (b *bridge) stir() {
	now := time.Now()
	switch {
	case b.state == dormant:
		b.failures, b.redialAt = 0, later(now, b.floor)
		b.set(waiting)
	case b.state == opening && b.sess.established && b.sess.shaken && now.Sub(b.hurried) >= time.Second: // the knock may meet silence: another
		b.hurried, b.begun = now, now
		b.greet()
	case b.state == waiting:
		b.hurry(now)
	}
}

// hurry cuts a wait short: at most once a second, never below the server's floor.
func (b *bridge) hurry(now time.Time) {
	if soon := later(later(now, b.hurried.Add(time.Second)), b.floor); soon.Before(b.redialAt) {
		b.hurried, b.redialAt = soon, soon
	}
}

// giveUp is the way to dormant: everything held gets its error, and nothing is dialled until the client's
// next line.
func (b *bridge) giveUp(k faultKind, text string, e error) {
	b.set(dormant)
	for _, c := range slices.Clone(b.queue) {
		if !c.standing() {
			b.fail(c, k, text, e)
		}
	}
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
		State: string(b.state), Since: b.since, Reconnects: b.reconnects, LastError: b.lastError, Held: len(b.queue),
		handshake: b.remembered,
	})
}
