package main

// watch.go is what the loop does by the clock: it ends what was held too long, finds out whether a silent line
// is alive, and comforts clients that wait. It is part of the loop (reconnect.go): it runs in its goroutine and does
// no I/O.

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"
)

const (
	initializeTimeout = 45 * time.Second // clients give up at 60
	offlineAfter      = 10 * time.Second // then a remembered handshake answers initialize
	lateHold          = 5 * time.Second  // a call that arrives in a long outage is held at least so long
	acceptedTimeout   = 10 * time.Second // for the answer to a request that was answered 202
	openTimeout       = 30 * time.Second // for a hello, a knock or a step of the replay, in total silence
	silence           = 10 * time.Second // with a call waiting: then probe
	probeTimeout      = 10 * time.Second
	flowing           = 2 * time.Second // no line is condemned on which bytes came so lately
	deadSilence       = 5 * time.Minute // condemns a server that may be single-threaded and busy
	tickEvery         = 250 * time.Millisecond
	sleptJump         = 5 * time.Second // of the wall clock against the monotonic clock: the machine slept
)

// nextWake is when tick has something to do at the earliest.
func (b *bridge) nextWake(now time.Time) time.Time {
	next := now.Add(time.Hour)
	if b.pingInterval > 0 && b.streaming() && b.outBytes < maxOut { // while we hold the streams up, tick does not ping
		next = b.talked.Add(b.pingInterval)
	}
	if b.waiting() || b.probing != nil || b.state == opening {
		next = now.Add(tickEvery)
	}
	if !b.deadline.IsZero() && b.deadline.Before(next) {
		next = b.deadline
	}
	if b.state == waiting && b.redialAt.Before(next) {
		next = b.redialAt
	}
	return next
}

// streaming says whether a stream of the server is open.
func (b *bridge) streaming() bool {
	if b.state != ready || b.sess.streamOpen {
		return b.state == ready
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
	b.expire(now)
	switch {
	case b.state == ready:
		b.watch(now)
	case b.state == opening && now.Sub(later(b.talked, b.lastByte())) >= openTimeout:
		b.dead()
	}
	b.drift = drift(b.start, now)
}

// limit is until when c is held at most. An outage may be found out late.
func (b *bridge) limit(c *call) time.Time {
	if c.m.method == "initialize" {
		return c.arrived.Add(initializeTimeout)
	}
	heard := b.heard
	if c.state == held && (b.state == opening || b.state == waiting && b.owed(c)) { // the word of the server is still out
		heard = later(heard, c.arrived)
	}
	return later(heard.Add(b.holdTimeout), later(c.arrived, b.outage).Add(lateHold))
}

// owed says whether c still waits for an attempt to reach the server that began after it came: only the failure
// of such a one tells that the server is away.
func (b *bridge) owed(c *call) bool {
	return c.awaited() && c.arrived.After(b.begun)
}

// lastChance brings the redial forward where a held call would get its error before it: in the last seconds of
// each hold there is an attempt, at a time left to chance.
func (b *bridge) lastChance(now time.Time) {
	before := rand.N(lateHold)
	for _, c := range b.queue {
		if last := b.limit(c).Add(-before); !c.standing() && last.After(now) && last.Before(b.redialAt) {
			b.redialAt = later(last, b.floor)
		}
	}
}

// expire answers the lines that have been held as long as they may be, or will have been when the server lets us
// come again.
func (b *bridge) expire(now time.Time) {
	next := now
	if b.state == waiting {
		next = later(now, b.floor)
	}
	for _, c := range b.byID {
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
			if h := b.remembered; h != nil && b.offlineStart && b.promise == nil && b.state != signingIn && h.Asked == b.asks() && time.Since(c.arrived) >= offlineAfter {
				b.startOffline(c)
				continue
			}
		case c.m.method == "server/discover" && b.kind == 0: // whatever it is that takes so long, a sign-in too
			if now.Sub(c.arrived) >= discoverTimeout {
				b.wrongEra(c)
			}
			continue
		}
		switch {
		case next.Before(b.limit(c)):
		case b.state == signingIn || c.scope:
			b.fail(c, faultAuthorization, strings.TrimSpace("signing in to "+b.server+" is not finished. "+b.hint), nil)
		default:
			b.fail(c, faultNotSent, fmt.Sprintf("%s could not be reached for %v (%d attempts)", b.server, time.Since(c.arrived).Round(time.Second), b.attempts), errors.New(b.lastError))
		}
	}
}

// startOffline answers initialize from memory. The real hello goes on.
func (b *bridge) startOffline(c *call) {
	b.promise = b.remembered
	b.log.Warn("the server cannot be reached: answering initialize with what it said last", "server", b.server)
	b.answer(c, newResult(c.m.id, b.remembered.result()))
}

// drift is by how much more the wall clock has gone on since start than the monotonic clock, which stands still
// while the machine sleeps.
func drift(start, now time.Time) time.Duration {
	return now.Round(0).Sub(start.Round(0)) - now.Sub(start)
}

// slept says whether the machine has slept since the last tick.
func (b *bridge) slept(now time.Time) bool { return drift(b.start, now)-b.drift > sleptJump }

// watch finds out whether a silent line is alive, by a ping on a connection of its own.
func (b *bridge) watch(now time.Time) {
	quiet, oldest := now.Sub(b.lastByte()), now
	for c := range b.inflight {
		if c.then == nil && c.awaited() && c.sentAt.Before(oldest) {
			oldest = c.sentAt
		}
	}
	if p := b.probing; p != nil { // a server that had no call of ours before it is not busy with one; and it may wait behind bytes that flow
		if now.Sub(p.sentAt) >= probeTimeout && quiet >= flowing && (b.chatty || !oldest.Before(p.sentAt) || quiet >= deadSilence) {
			b.dead()
		}
		return
	}
	due := b.slept(now) && len(b.sess.live) > 0 || min(quiet, now.Sub(oldest)) >= silence ||
		b.pingInterval > 0 && b.streaming() && now.Sub(b.talked) >= b.pingInterval
	for x := range b.sess.live {
		switch {
		case !x.done.IsZero() && now.Sub(x.done) > lingering:
			x.cancel(errOver)
		case x.resume && !x.opened.IsZero() && now.Sub(x.lastByte()) >= b.holdTimeout:
			x.cancel(&exchangeError{fate: cut, err: errSilent}) // it was accepted, and brings nothing: another
		}
	}
	if !due {
		return
	}
	p := &call{m: b.knock(nil)}
	p.then = func(m message, e *exchangeError) {
		b.mem.free(m.charge)
		b.probed(p, e)
	}
	b.probing = p
	b.send(p)
}

// lastByte is when the server was last heard, on any exchange.
func (b *bridge) lastByte() time.Time {
	last := b.heard
	for x := range b.sess.live {
		if x.p.heard.Load() > 0 {
			last = later(last, x.lastByte())
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
			b.landed(c)
			b.send(c)
		}
	}
}

// dead condemns the line: everything that is open on it ends, with an unknown outcome.
func (b *bridge) dead() {
	s, e := b.sess, &exchangeError{fate: unknown, err: errSilent}
	b.probing = nil
	for x := range s.live {
		x.cancel(errSilent)
	}
	for c := range b.inflight { // in earlier sessions too
		if c.x != nil {
			c.x.cancel(errSilent)
		}
	}
	b.drop(b.saying)
	if s.kind == kindSSE {
		b.lost(s, e)
	} else {
		b.down(e)
	}
}

// proves learns from an answer whether this server answers while a call is waiting. Only the answer to
// something that was sent well after that call proves it.
func (b *bridge) proves(c *call) {
	if b.chatty || c.sentAt.Sub(b.busy) < time.Second {
		return
	}
	for o := range b.inflight {
		if o != c && o.m.kind == request && !o.standing() && c.sentAt.Sub(o.sentAt) >= time.Second {
			b.chatty = true
			return
		}
	}
}

// comfort tells a client whose call is held, and who asked for progress, that it is not forgotten: many
// clients begin their time limit anew on it. The values are tiny, so that the server's own can follow.
func (b *bridge) comfort(c *call) {
	if c.token == "" || c.state != held {
		return
	}
	c.progress += 1e-6
	params, _ := json.Marshal(map[string]any{"progressToken": json.RawMessage(c.token), "progress": c.progress, "message": b.redialling()})
	b.toClient(newNotification("notifications/progress", params))
}

// announce tells a client that was promised log messages of an outage, once: when the first redial has failed,
// so that idle streams which end say nothing.
func (b *bridge) announce() {
	level, _ := unquote(peek(b.level.raw, "params", "level"))
	if b.silent || b.attempts != 1 || b.promise == nil || !b.promise.has("logging") || slices.Contains([]string{"error", "critical", "alert", "emergency"}, level) {
		return
	}
	params, _ := json.Marshal(map[string]any{"level": "warning", "logger": "mcp-redial", "data": b.redialling()})
	b.toClient(newNotification("notifications/message", params))
}

func (b *bridge) redialling() string {
	text := fmt.Sprintf("reconnecting to %s, attempt %d", b.server, b.attempts+1)
	if next := time.Until(b.redialAt).Round(time.Second); next > 0 {
		text += fmt.Sprintf(", next in %v", next)
	}
	return text
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
