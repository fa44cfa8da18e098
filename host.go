package main

// host.go is the client's side of the line: the goroutines that own standard input and output, what the loop
// makes of the client's lines, and how each of them gets its one answer. It is part of the loop (reconnect.go):
// but for those two goroutines it runs in the loop's and does no I/O.

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
)

const (
	eofGrace     = 4500 * time.Millisecond // for what is held or in flight at the end of input
	eofGraceDown = 2 * time.Second         // the same while the server is known to be down
	maxToolPages = 50                      // of a tool list that the bridge reads itself
	maxTogether  = 64                      // lines that travel together between goroutines
	maxAsked     = 10_000                  // questions of the server that the client has not answered; more are dropped
)

// input is what readLines has read.
type input struct {
	line   []byte
	charge charge
	err    error // errTooLarge; the line is lost
}

// readLines is the goroutine that owns in. It ends, closing lines, at the end of input or of ctx.
func readLines(ctx context.Context, in io.Reader, maxLine int, mem *budget, lines chan<- []input) {
	defer close(lines)
	r := newLineReader(in, maxLine, mem)
	for err := error(nil); err == nil || errors.Is(err, errTooLarge); {
		var batch []input
		for more := true; more && len(batch) < maxTogether; more = err == nil && r.more() {
			var i input
			if i.line, i.charge, err = r.next(ctx); err == nil || errors.Is(err, errTooLarge) {
				i.err = err
				batch = append(batch, i)
			}
		}
		select {
		case lines <- batch:
		case <-ctx.Done():
			return
		}
	}
}

// writeLines is the goroutine that owns w, and empties what it is given. It returns when out is closed or w fails.
func writeLines(w io.Writer, out <-chan []message, mem *budget) {
	bw := bufio.NewWriterSize(w, 64<<10)
	for ms := range out {
		var done charge
		for _, m := range ms {
			_ = m.writeLine(bw) // bw keeps its first error
			mem.recycle(m.rest)
			done.bytes += m.charge.bytes
			done.reserve = done.reserve || m.charge.reserve
		}
		clear(ms)
		mem.free(done)
		if bw.Flush() != nil {
			return
		}
	}
}

// closed notes the end of input.
func (b *bridge) closed() {
	grace := eofGrace
	if b.state == waiting || b.state == dormant {
		grace = eofGraceDown
	}
	b.deadline = time.Now().Add(grace)
}

// finished says whether the client is gone and nothing is left to do for it.
func (b *bridge) finished(now time.Time) bool {
	if b.deadline.IsZero() {
		return false
	}
	busy := b.waiting() || slices.ContainsFunc(b.queue, func(c *call) bool { return !c.standing() })
	for c := range b.inflight {
		busy = busy || c.m.kind != request
	}
	return !busy || !now.Before(b.deadline)
}

// read takes one line of the client.
func (b *bridge) read(i input) {
	if i.err != nil {
		m, err := scan(i.line) // its beginning may tell which request it is
		if bad := (*badMessage)(nil); errors.As(err, &bad) {
			m.id = bad.id
		}
		b.write(errorReply(m.id, int(faultTooLarge), fmt.Sprintf("the message is larger than %d bytes (--max-message-size)", b.maxMessage), &errorData{Reason: faultTooLarge.reason()}))
		return
	}
	ms, bad, batch := []message(nil), []error(nil), isBatch(i.line)
	if batch && b.spoken() != "2025-03-26" {
		bad = []error{&badMessage{-32600, "", "arrays of messages are part of MCP 2025-03-26 only"}}
		batch = false
	} else {
		ms, bad = scanAll(i.line, false)
	}
	if len(ms) > 0 {
		ms[len(ms)-1].charge = i.charge
	} else {
		b.mem.free(i.charge)
	}
	var g *group
	if batch { // answered as one array
		g = &group{open: len(bad)}
		for _, m := range ms {
			if m.kind == request && b.byID[m.id] == nil && b.batch[m.id] == nil {
				b.batch[m.id] = g
				g.open++
			}
		}
	}
	for _, err := range bad {
		b.put(malformed(err), g)
	}
	for _, m := range ms {
		if m.method == "notifications/cancelled" { // an array need not wait for that answer
			id, _ := idToken(peek(m.raw, "params", "requestId"))
			b.write(message{kind: response, id: id})
		}
		if b.tr == nil {
			b.accept(m)
			continue
		}
		switch m.method { // kept for a server that goes back to an earlier revision
		case "initialize":
			b.ours = ours{hello: m.keep()}
		case "notifications/initialized":
			b.initialized = m.keep()
		case "logging/setLevel":
			b.level = m.keep()
		}
		up, down := b.tr.fromClient(m)
		b.carry(m, up, down)
	}
}

// toClient passes m through the translator, where there is one.
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
	taken := false
	for _, o := range up {
		taken = taken || o.charge == m.charge
		b.accept(o)
	}
	for _, o := range down {
		taken = taken || o.charge == m.charge
		if h, ok := readHandshake(o); ok && b.promise == nil {
			b.promise = h
		}
		b.write(o)
	}
	if !taken {
		b.mem.free(m.charge)
	}
}

// spoken is the protocol version that the client was told; "" if none yet.
func (b *bridge) spoken() string {
	if b.promise == nil {
		return ""
	}
	return b.promise.ProtocolVersion
}

// write sends m to the client, or into the array that it is awaited in.
func (b *bridge) write(m message) {
	if m.kind == response && strings.HasPrefix(m.id, `"`+b.prefix) { // to what was said again in the client's name
		b.mem.free(m.charge)
		return
	}
	g := b.batch[m.id]
	if m.kind != response {
		g = nil
	}
	if g != nil {
		delete(b.batch, m.id)
	}
	b.put(m, g)
}

func (b *bridge) put(m message, g *group) {
	if g != nil {
		whole := g.add(m.whole())
		b.mem.free(m.charge)
		m = message{raw: whole}
	}
	if m.raw == nil {
		return
	}
	b.outbox = append(b.outbox, m)
	b.outBytes += max(len(m.raw), m.charge.bytes)
}

// accept takes a message of the client's, or of the translator's in its name.
func (b *bridge) accept(m message) {
	c := &call{m: m, arrived: time.Now()}
	switch m.kind {
	case notification:
		switch m.method {
		case "notifications/cancelled":
			b.cancelled(m)
			return
		case "notifications/initialized":
			b.mem.free(m.charge)
			b.initialized = m.keep()
			if s := b.sess; s != nil && s.established && s.kind != kindStateless { // accepted before anything else is released
				b.toSay = append(b.toSay, b.initialized)
				if b.state == ready {
					b.set(opening)
					b.say()
				}
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
		b.record(&call{m: message{id: m.id, method: sr.method, raw: m.raw, facts: new(facts)}, sess: sr.sess, arrived: sr.at}, "to-client", m.outcome())
	case request:
		if b.byID[m.id] != nil {
			b.mem.free(m.charge)
			b.write(errorReply("", -32600, "the id "+clean(m.id)+" belongs to a request that is not answered yet", nil))
			return
		}
		b.enter(c)
		if !b.admit(c) {
			return
		}
	}
	b.hold(c)
	b.stir()
	if !b.outage.IsZero() {
		b.comfort(c)
	}
}

// admit applies what is decided about a request before it is sent anywhere: era, filter, audit.
func (b *bridge) admit(c *call) bool {
	switch {
	case c.m.method == "initialize" && !c.modern():
		b.begin(c)
		if b.protocol == "modern" && b.tr == nil {
			b.translate(c)
			return false
		}
		return true
	case c.modern() && (b.protocol == "legacy" || b.kind != 0 && b.kind != kindStateless):
		b.wrongEra(c)
		return false
	case c.m.method != "tools/call":
		return true
	}
	switch b.filter.call(c.m.facts.name) {
	case denied:
		b.fail(c, faultNotPermitted, "this tool is not permitted by --ignore-tool, --allow-tool, --read-only or the policy file", nil)
		return false
	case lookup:
		c.state = parked
		b.page(c, nil)
		return false
	}
	return true
}

// page reads a page of the tool list, unless one is being read, for calls of tools that no list has named yet.
func (b *bridge) page(c *call, cursor json.RawMessage) {
	if b.paging.state != settled {
		return
	}
	if cursor == nil {
		b.pages = 0
	}
	b.pages++
	params := set([]byte("{}"), cursor, "cursor")
	if c.modern() {
		params = set(params, modernMeta(c), "_meta")
	}
	b.paging = &call{m: newRequest(b.newID(), "tools/list", params), arrived: c.arrived, then: b.listed}
	b.hold(b.paging)
	b.stir()
}

// listed takes a page of the tool list: there is another, or every call that waited for it is decided.
func (b *bridge) listed(m message, e *exchangeError) {
	if e != nil && (e.fate != final || e.status == 0) {
		b.noEntry(e) // the search begins anew when the line is back
		return
	}
	cursor := peek(m.raw, "result", "nextCursor")
	if !m.failed {
		m = b.filter.list(m)
	}
	b.mem.free(m.charge)
	for _, c := range b.byID {
		switch {
		case c.state != parked || c.scope:
		case b.filter.call(c.m.facts.name) == allowed:
			b.hold(c)
		case len(cursor) > 2 && cursor[0] == '"' && b.pages < maxToolPages:
			b.page(c, cursor)
			return
		default:
			b.fail(c, faultNotPermitted, "the server does not list this tool as read-only", nil)
		}
	}
}

// cancelled carries out the client's notifications/cancelled. A cut or a re-send never revives the call.
func (b *bridge) cancelled(m message) {
	defer b.mem.free(m.charge)
	token, _ := idToken(peek(m.raw, "params", "requestId"))
	c := b.byID[token]
	if c == nil || c.m.method == "initialize" {
		return
	}
	b.record(c, "to-server", "cancelled")
	if x := c.x; b.drop(c) && x != nil {
		x.cancel(errCancelled)
	}
	if c.sendings > 0 && c.sess == b.sess && c.sess.kind != kindStateless {
		b.send(&call{m: m.keep().rewritten(set(m.raw, []byte(c.up), "params", "requestId")), then: func(message, *exchangeError) {}})
	}
}

// drop forgets c without an answer. It reports false if that had happened already.
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
	if !b.drop(c) {
		b.mem.free(m.charge)
		return
	}
	if m.id != c.m.id {
		m = m.under(c.m.id)
	}
	b.record(c, "to-server", m.outcome())
	b.toClient(m)
}

// fail answers c with an error of the bridge's own.
func (b *bridge) fail(c *call, k faultKind, text string, cause error) {
	if c.unsure && k == faultNotSent { // not the last time, but before
		k, text = faultOutcomeUnknown, text+" after the request was sent once"
	}
	var e *exchangeError
	sent := c.state == flying || c.state == resuming
	if errors.As(cause, &e) { // with another status than success the server has declined
		sent = sent && (e.fate == unknown || e.fate == cut || e.status/100 == 2)
	}
	f := &errorData{Reason: k.reason(), Attempts: c.sendings, ElapsedMs: time.Since(c.arrived).Milliseconds(), Server: b.server, MayHaveRun: c.unsure || sent}
	if cause != nil {
		f.Cause = clean(cause.Error())
	}
	if f.MayHaveRun {
		text += "; it may have run: check before repeating it"
	} else if k == faultNotSent {
		text += "; it was not sent"
	}
	if b.drop(c) && c.m.kind == request && c.then == nil {
		b.record(c, "to-server", k.reason())
		b.toClient(errorReply(c.m.id, int(k), escape(text, maxLine), f))
	}
}

// outcome is what a response says of its request.
func (m message) outcome() string {
	if m.failed {
		return "error"
	}
	return "ok"
}

// record writes the audit record of a request that was settled.
func (b *bridge) record(c *call, direction, outcome string) {
	if b.audit != nil {
		b.audit.record(b.entry(c, direction, outcome))
	}
}

func (b *bridge) entry(c *call, direction, outcome string) auditRecord {
	r := auditRecord{
		Time: time.Now(), Server: b.server, Direction: direction, Method: c.m.method, Name: c.m.facts.name, ID: c.m.id,
		Outcome: outcome, DurationMs: time.Since(c.arrived).Milliseconds(), Bytes: len(c.m.raw), Reconnects: b.reconnects,
	}
	if c.sess != nil && c.sess.established && !c.sess.t.id().empty() {
		r.Session = shortHash(c.sess.t.id())
	}
	return r
}

// audited is send for a call that may not go out unrecorded: first its record is written, and if that fails it is
// refused.
func (b *bridge) audited(c *call, send func(context.Context, receive) error) func(context.Context, receive) error {
	if !b.auditRequired || c.m.method != "tools/call" {
		return send
	}
	r := b.entry(c, "to-server", "sent")
	return func(ctx context.Context, recv receive) error {
		err := b.audit.before(ctx, r)
		if err == nil {
			return send(ctx, recv)
		}
		return b.tell(ctx, event{do: func() {
			if c.state == flying { // not so: nothing has left
				c.state = held
			}
			b.fail(c, faultNotPermitted, "the audit file cannot be written, and --audit-required forbids calls without it", err)
		}})
	}
}
