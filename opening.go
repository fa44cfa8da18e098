package main

// opening.go is how a line begins: which transport, which era of the protocol, the handshake, its replay
// for a server that has forgotten us, and signing in. It is part of the loop (reconnect.go): it runs in its
// goroutine and does no I/O.

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

const (
	discoverTimeout = 10*time.Second - tickEvery // for the verdict on the server's era: then server/discover is answered -32601
	maxSignIns      = 3                          // for one call
)

// begin takes the client's initialize: the start of its session, and the way back to the old era.
func (b *bridge) begin(c *call) {
	if before := b.byID[b.hello.id]; before != nil && before != c && before.m.method == "initialize" {
		b.fail(before, faultNotSent, "the client has begun anew", nil)
	}
	b.ours = ours{hello: c.m.keep()}
	b.kinds, b.failures = nil, 0
	if b.sess != nil {
		b.discard(b.sess, &exchangeError{fate: gone, err: errors.New("the client began anew")})
	}
	if b.tr == nil && b.kind == kindStateless {
		b.kind = 0
	}
	b.set(idle)
}

// open puts one message in the air.
func (b *bridge) open() {
	b.set(opening)
	b.attempts++
	b.begun = time.Now()
	b.talked = b.begun // the silence that ends an opening begins here
	if b.sess == nil {
		kind := b.choose()
		b.sess = &session{kind: kind, t: b.world.connect(kind), live: map[*exchange]bool{}}
		if kind == kindSSE { // the hello follows once the endpoint is known
			b.listen(&exchange{s: b.sess}, "", 0)
			return
		}
	}
	b.greet()
}

// opened notes that a stream can be relied on.
func (b *bridge) opened(x *exchange) {
	x.opened = time.Now()
	b.heard = x.opened
	x.s.streamOpen = x.s.streamOpen || x.c == nil
	if x.c == nil && x.s == b.sess && x.s.kind == kindSSE && b.state == opening {
		b.greet()
	}
}

// choose says which transport to try: the one that was learnt, or else the next that the era of the client's
// first request and the options allow.
func (b *bridge) choose() transportKind {
	if b.kind != 0 {
		return b.kind
	}
	if len(b.kinds) == 0 {
		b.refusal = nil
		b.kinds = map[string][]transportKind{
			"http-first": {kindStreamable, kindSSE},
			"http-only":  {kindStreamable},
			"sse-first":  {kindSSE, kindStreamable},
			"sse-only":   {kindSSE},
		}[b.transport]
		if c := b.oldest(); b.protocol == "modern" || b.protocol == "auto" && c != nil && c.modern() {
			b.kinds = []transportKind{kindStateless}
		}
	}
	return b.kinds[0]
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

// greet sends what proves the path: a knock if the session stands, else the hello of its era, in the
// client's own words where it has said one.
func (b *bridge) greet() {
	s, first, began := b.sess, b.oldest(), b.begun
	switch {
	case s.established || s.kind == kindStateless:
		knock := b.knock(first)
		if first != nil && first.m.method == "server/discover" {
			knock = first.m.keep()
		}
		b.send(&call{m: knock, then: func(m message, e *exchangeError) {
			switch {
			case e != nil && e.status == 0 && !began.Equal(b.begun): // another is in the air
			case s.kind == kindStateless:
				b.discovered(first, m, e)
			case b.doubtful(m):
				b.lost(s, &exchangeError{fate: gone, err: errForgotten})
			default:
				b.knocked(m, e)
			}
		}})
	case b.hello.raw == nil: // a client without a handshake: its first line is the probe
		s.established = true
		b.gate()
	default:
		hello := b.hello
		if b.byID[hello.id] == nil {
			hello = hello.withID(b.newID())
		}
		b.send(&call{m: hello, then: b.welcomed})
	}
}

// knock is the request that any server of the session's era answers; like is what it takes its metadata from.
func (b *bridge) knock(like *call) message {
	if b.sess.kind == kindStateless {
		return newRequest(b.newID(), "server/discover", set([]byte("{}"), modernMeta(like), "_meta"))
	}
	return newRequest(b.newID(), "ping", nil)
}

// welcomed takes what became of initialize.
func (b *bridge) welcomed(m message, e *exchangeError) {
	s, again := b.sess, b.promise != nil
	h, ok := readHandshake(m)
	switch {
	case e != nil && e.fate != final:
		b.noEntry(e)
		return
	case e == nil && !ok:
		e = &exchangeError{fate: final, status: 200, body: m.raw, err: errors.New("the server refused initialize")}
		fallthrough
	case e != nil:
		b.mem.free(m.charge)
		b.unwelcome(e)
		return
	case again && b.promise.ProtocolVersion != h.ProtocolVersion:
		b.mem.free(m.charge)
		b.discard(s, &exchangeError{fate: gone, err: errOver})
		b.giveUp(faultServerRefused, fmt.Sprintf("%s now speaks MCP %s, but the client was promised %s: restart the connection", b.server, clean(h.ProtocolVersion), clean(b.promise.ProtocolVersion)), nil)
		return
	case again && string(b.promise.Capabilities) != string(h.Capabilities):
		b.log.Warn("the server's capabilities differ from those that the client was told", "server", b.server)
	case !again:
		b.promise = h
	}
	h.Asked = b.asks()
	b.replays = again && b.met // what was answered from memory is no session
	s.established, b.kind, b.met, b.notModern, b.remembered = true, s.kind, true, false, h
	b.filter.reset()
	if init := b.byID[b.hello.id]; init != nil && init.m.method == "initialize" {
		b.answer(init, m)
	} else {
		b.mem.free(m.charge)
	}
	b.toSay = b.replay(b.newID)
	b.say()
}

// noEntry handles a hello, a knock or a step of the replay that met no answer.
func (b *bridge) noEntry(e *exchangeError) {
	switch {
	case errors.Is(e, errSilent): // we ended it ourselves, and there may be another attempt by now
	case e.challenged():
		b.challenged(nil, e)
	case e.fate == gone, b.sess.established && e.status == 503 && e.fate == unknown && b.kind != kindStateless: // some say "no such session" so
		b.lost(b.sess, e)
	default:
		b.down(e)
	}
}

// knocked takes what became of a knock: any answer is an answer.
func (b *bridge) knocked(m message, e *exchangeError) {
	b.mem.free(m.charge)
	if e != nil && (e.fate != final || e.status == 0) {
		b.noEntry(e)
	} else if b.state == opening {
		b.say()
	}
}

// say sends the next line of the replay, which is done when it is answered; with none left the gate opens.
func (b *bridge) say() {
	switch {
	case b.saying.state != settled: // a second knock was answered
	case len(b.toSay) == 0:
		b.gate()
	default:
		m := b.toSay[0]
		if m.kind == request { // it may be said a second time
			m = m.withID(b.newID())
		}
		b.saying = &call{m: m, then: func(m message, e *exchangeError) {
			if e == nil || e.fate == final && e.status > 0 {
				b.toSay = b.toSay[1:]
			}
			b.knocked(m, e)
		}}
		b.send(b.saying)
	}
}

// gate opens: the session stands, and held lines go out.
func (b *bridge) gate() {
	now, s := time.Now(), b.sess
	recovered := !b.outage.IsZero()
	if recovered {
		b.reconnects++
		b.log.Info("reconnected", "server", b.server, "after", now.Sub(b.outage).Round(time.Millisecond), "attempts", b.attempts, "newSession", b.replays, "heldCalls", len(b.queue))
	} else if b.attempts > 0 {
		b.log.Info("connected", "server", b.server, "transport", s.kind.String())
	}
	b.heard, b.outage, b.attempts, b.lastError = now, time.Time{}, 0, ""
	b.set(ready)
	if b.replays {
		b.replays = false
		for _, m := range b.changes() {
			b.write(m)
		}
	}
	for _, c := range b.byID {
		if c.state == parked && !c.scope {
			b.page(c, nil)
		}
	}
	if s.kind == kindStreamable && b.initialized.raw != nil && s.stream == nil {
		b.listen(&exchange{s: s}, "", 0)
	}
}

// unwelcome decides what a refused hello means: another era, another transport, or no entry.
func (b *bridge) unwelcome(e *exchangeError) {
	b.discard(b.sess, e)
	b.kinds = b.kinds[min(1, len(b.kinds)):]
	code := errorCode(e.body)
	modern := isModernError(code) || code == -32601 || e.status == 400 && code == -32602
	init := b.byID[b.hello.id]
	switch {
	case modern && b.protocol == "auto" && !b.notModern && (b.promise != nil || init != nil): // perhaps upgraded meanwhile
		b.refusal = e
		b.translate(init)
	case b.kind == 0 && e.unknownHere() && len(b.kinds) > 0:
		b.refusal = e
		b.open()
	case b.promise != nil || init == nil || b.kind != 0: // it knew us once: whatever this is, it passes
		b.kind, b.notModern = 0, false
		b.down(e)
	default:
		if b.refusal != nil { // what the preferred transport said tells more
			e = b.refusal
		}
		b.kinds = nil
		b.set(idle)
		if m := e.reply(); m.kind == response {
			b.answer(init, m)
		} else {
			b.refused(init, e)
		}
	}
}

// translate makes an old client understand a new server from here on. init is its initialize; if that was
// answered long ago, what the client has said since is said again, under ids of ours.
func (b *bridge) translate(init *call) {
	b.log.Info("the server speaks MCP 2026-07-28 only: translating for a client of an earlier revision", "server", b.server)
	b.tr, b.kind = newTranslator(b.newID), kindStateless
	b.set(idle)
	said := []message{b.hello}
	if init != nil {
		b.drop(init)
	} else {
		said[0], b.tr.offers = b.hello.withID(b.newID()), b.promise.Capabilities
		said = append(said, b.replay(b.newID)...)
		b.tr.missed = b.initialized.raw != nil
	}
	for _, c := range slices.Clone(b.queue) {
		said = append(said, c.m)
		c.m.charge = charge{}
		b.drop(c)
	}
	for _, m := range said {
		up, down := b.tr.fromClient(m)
		b.carry(m, up, down)
	}
}

// discovered takes what became of server/discover: the verdict on the server's era. first is the held
// request that waits for it.
func (b *bridge) discovered(first *call, m message, e *exchangeError) {
	code, met := errorCode(m.raw), b.sess.established
	switch {
	case e != nil && (e.fate != final || met && e.status == 0):
		b.noEntry(e)
		return
	case b.state != opening: // there was a second knock
		b.mem.free(m.charge)
		return
	case e == nil && !m.failed, isModernError(code), b.protocol == "modern":
	case !met || code == -32601 || e != nil && e.unknownHere():
		b.mem.free(m.charge)
		b.old()
		return
	}
	b.sess.established, b.kind, b.met, b.notModern = true, kindStateless, true, false
	if !met {
		b.filter.reset()
	}
	switch {
	case first == nil || first.state != held || first.m.method != "server/discover":
		b.mem.free(m.charge)
	case m.kind != response:
		b.refused(first, e)
	default:
		b.answer(first, m)
	}
	b.gate()
}

// old is the verdict that the server knows no 2026-07-28, or no longer. Nothing is pinned by it: a client that
// knows both eras goes on with initialize, and one that was translated goes back to the handshake that it said.
func (b *bridge) old() {
	b.discard(b.sess, &exchangeError{fate: gone, err: errOver})
	b.set(idle)
	b.kind, b.kinds = 0, nil
	if b.tr == nil {
		for _, c := range b.byID {
			if c.modern() {
				b.wrongEra(c)
			}
		}
		return
	}
	b.log.Info("the server speaks an MCP revision before 2026-07-28: not translating any more", "server", b.server)
	for _, uri := range b.tr.uris {
		params, _ := json.Marshal(map[string]string{"uri": uri}) // cannot fail
		b.note(&call{m: newRequest(b.newID(), "resources/subscribe", params)})
	}
	for _, c := range b.byID {
		if m, ok := b.tr.back(c.m); ok {
			c.m = m
		} else if c.standing() || c.m.method == "server/discover" {
			b.drop(c)
		} else {
			b.fail(c, faultNotTranslatable, "the server has gone back to an MCP revision before 2026-07-28 in the middle of this call", nil)
		}
	}
	up, down := b.tr.end()
	b.carry(message{}, up, down)
	b.tr, b.notModern = nil, true
	if b.promise == nil { // it did not want our initialize, but is not modern either
		b.accept(b.hello)
	} else {
		b.open()
	}
}

// wrongEra answers a request of 2026-07-28 where the server knows only earlier revisions, or does not say.
func (b *bridge) wrongEra(c *call) {
	const text = "the server does not speak MCP 2026-07-28, or has not said so in time: begin with initialize"
	if c.m.method == "server/discover" {
		b.answer(c, errorReply(c.m.id, -32601, text, nil))
	} else {
		b.fail(c, faultNotTranslatable, text, nil)
	}
}

// unknownHere says whether the server answered as one does that has nothing of the kind at this address.
func (e *exchangeError) unknownHere() bool {
	return e.status == 400 || e.status == 404 || e.status == 405
}

// isModernError says whether only a server of 2026-07-28 answers with this code.
func isModernError(code int) bool { return code <= -32020 && code >= -32022 }

// modernMeta is the metadata of a request of the bridge's own in 2026-07-28: what the client sent in c.
func modernMeta(c *call) json.RawMessage {
	meta := []byte(bareMeta)
	for _, key := range [...]string{metaVersion, metaCan, metaClient} {
		if c != nil && peek(c.m.facts.meta, key) != nil {
			meta = set(meta, peek(c.m.facts.meta, key), key)
		}
	}
	return meta
}

// challenged holds a call until there is a credential for it. c is nil where a call of the bridge's own met the
// challenge.
func (b *bridge) challenged(c *call, e *exchangeError) {
	if c != nil {
		c.signIns++
		if c.signIns > maxSignIns {
			b.fail(c, faultAuthorization, b.server+" keeps refusing the credential", e)
			return
		}
		if e.status == 403 && b.state == ready { // the others may go on meanwhile
			c.state, c.scope = parked, true
			b.landed(c)
		} else {
			b.hold(c)
		}
		if e.status == 401 && e.challenge == "" && !c.gone && c.sess == b.sess && c.sess.kind != kindStateless {
			c.gone = true // some servers say so when they have forgotten a session: a new hello tells
			b.lost(c.sess, e)
			return
		}
	}
	if c == nil || !c.scope {
		b.lastError = e.Error()
		b.set(signingIn)
	}
	if b.signing {
		return
	}
	b.signing = true
	ctx, cancel := b.child()
	b.spawn(func() {
		defer cancel(nil)
		err := b.world.signIn(ctx, e.challenge, e.status, func(hint string) {
			_ = b.tell(ctx, event{do: func() { b.hint = hint }})
		})
		_ = b.tell(ctx, event{do: func() { b.signed(err) }})
	})
}

// signed takes the end of a sign-in.
func (b *bridge) signed(err error) {
	b.signing, b.hint = false, ""
	failure, known := errors.AsType[*signInError](err)
	if !known {
		failure = &signInError{}
	}
	text := strings.TrimSpace(fmt.Sprintf("signing in failed: %v. %s", err, failure.hint))
	for _, c := range b.byID {
		switch {
		case !c.scope:
		case err == nil:
			c.scope = false
			b.hold(c)
		default:
			b.fail(c, faultAuthorization, text, err)
		}
	}
	switch {
	case b.state != signingIn:
	case err == nil && b.sess != nil && b.sess.established:
		b.set(opening)
		b.say()
	case err == nil:
		b.open()
	case failure.outage:
		b.down(&exchangeError{fate: unsent, err: err, wait: failure.wait})
	default:
		b.giveUp(faultAuthorization, text, err)
	}
}
