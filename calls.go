package main

// calls.go is what the loop knows about the client's requests and about the session: plain data, without
// goroutines, channels or I/O. reconnect.go's loop is its only user.

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"strconv"
	"strings"
	"time"
)

// callState says where a line of the client is.
type callState uint8

const (
	held     callState = iota // in the queue
	flying                    // an exchange carries it, or its answer is to come on a stream
	resuming                  // its stream was cut, and is being resumed
	parked                    // waits until the bridge has read the tool list
	settled                   // answered, dropped or cancelled
)

// A call is one line on its way to the server, with what is known of it.
type call struct {
	m       message // as the client (or the bridge) wrote it
	state   callState
	arrived time.Time

	// then takes what became of a line of the bridge's own: an answer, a failure, or a failure that came with
	// an answer (an error status with a JSON-RPC body). nil: the line is the client's.
	then func(m message, e *exchangeError)

	// The last sending.
	up       string    // id token it was sent under
	sess     *session  // in which it was sent; for a response, the only one it may go to
	x        *exchange // that carries it; nil once the server has accepted it
	sentAt   time.Time
	sendings int
	again    bool      // it may be sent again without proof: decided when it is sent
	accepted time.Time // when a request was answered 202 and the answer is to come on a stream

	// What went wrong so far.
	unsure  bool      // a sending may have been acted on
	gone    bool      // its session was lost once
	fresh   bool      // it was sent again on a fresh connection
	signIns int       // 401 and 403 challenges met
	doubt   *message  // an answer that may only mean that the session is lost
	after   string    // cursor of its stream
	resumes int       // resumptions in a row that brought no event
	failing time.Time // since when resuming has failed to connect; zero while it works

	token    string  // its progressToken; "" if none
	progress float64 // the last progress the client saw
	acked    bool    // a subscription whose acknowledgement the client has
}

// name is the tool, prompt or resource that a call is about, for the audit records.
func (c *call) name() string {
	for _, key := range []string{"name", "uri"} {
		if s, ok := unquote(peek(c.m.raw, "params", key)); ok {
			return s
		}
	}
	return ""
}

// standing says that nobody waits for the answer: a subscription stays open until it is cancelled.
func (c *call) standing() bool { return c.m.method == "subscriptions/listen" }

// A serverRequest is one that the client has not answered yet.
type serverRequest struct {
	sess *session
	id   string // the server's own id token
}

// The ledger holds every line on its way, in both directions.
type ledger struct {
	byID     map[string]*call         // the client's requests by the client's id
	byToken  map[string]*call         // those with a progress token
	byUp     map[string]*call         // lines in flight by the id they were sent under
	queue    []*call                  // held lines, first in first out
	inflight map[*call]bool           // flying and resuming
	asked    map[string]serverRequest // what the server asked of the client, by the id the client got
	prefix   string                   // random; begins every id of the bridge's own
	lastID   int
}

func newLedger(prefix string) ledger {
	return ledger{
		byID:     map[string]*call{},
		byToken:  map[string]*call{},
		byUp:     map[string]*call{},
		inflight: map[*call]bool{},
		asked:    map[string]serverRequest{},
		prefix:   prefix,
	}
}

// newID is an id token that neither side has used.
func (l *ledger) newID() string {
	l.lastID++
	return `"` + l.prefix + "-" + strconv.Itoa(l.lastID) + `"`
}

// sent notes that c goes out now, under the id token up.
func (l *ledger) sent(c *call, up string) {
	c.up = up
	l.inflight[c] = true
	if up != "" {
		l.byUp[up] = c
	}
}

// landed notes that c is no longer in flight.
func (l *ledger) landed(c *call) {
	delete(l.inflight, c)
	if l.byUp[c.up] == c {
		delete(l.byUp, c.up)
	}
}

// hold puts c into the queue, at its end or, when it has waited before, by its arrival.
func (l *ledger) hold(c *call) {
	l.landed(c)
	c.state, c.x = held, nil
	i := len(l.queue)
	for i > 0 && l.queue[i-1].arrived.After(c.arrived) {
		i--
	}
	l.queue = append(l.queue, nil)
	copy(l.queue[i+1:], l.queue[i:])
	l.queue[i] = c
}

// unhold takes c out of the queue, if it is there.
func (l *ledger) unhold(c *call) {
	for i, q := range l.queue {
		if q == c {
			l.queue = append(l.queue[:i], l.queue[i+1:]...)
			return
		}
	}
}

// settle forgets c, wherever it was. It reports false if that had happened already.
func (l *ledger) settle(c *call) bool {
	if c.state == settled {
		return false
	}
	if c.state == held {
		l.unhold(c)
	}
	l.landed(c)
	c.state = settled
	if l.byID[c.m.id] == c {
		delete(l.byID, c.m.id)
	}
	if c.token != "" && l.byToken[c.token] == c {
		delete(l.byToken, c.token)
	}
	return true
}

// waiting says whether a client waits for any answer.
func (l *ledger) waiting() bool {
	for _, c := range l.byID {
		if !c.standing() {
			return true
		}
	}
	return false
}

// answered finds the call that a response belongs to: on the exchange of a call that call, also when the
// server changed the id's type or left it out, which it does in errors; elsewhere by id and session.
func (l *ledger) answered(x *exchange, m message) *call {
	if c := x.c; c != nil && c.state != settled && (c.up == m.id || m.id == "" || m.id == "null" || strings.Trim(m.id, `"`) == strings.Trim(c.up, `"`)) {
		return c
	}
	if c := l.byUp[m.id]; c != nil && c.sess == x.s {
		return c
	}
	return nil
}

// repeatable is the closed list of methods that may be sent again although an earlier sending may have
// been acted on. Everything else, conservatively, may not; tools/call is decided by the tool.
func repeatable(method string) bool {
	switch method {
	case "initialize", "server/discover", "ping",
		"tools/list", "prompts/list", "resources/list", "resources/templates/list",
		"resources/read", "prompts/get", "completion/complete",
		"logging/setLevel", "resources/subscribe", "resources/unsubscribe", "subscriptions/listen",
		"tasks/get", "tasks/list", "tasks/result", "tasks/cancel":
		return true
	}
	return false
}

// What makes a session ours: everything that has to be said again to a server that has forgotten us, and
// everything that the client was promised.
type ours struct {
	hello       *message           // the client's initialize
	initialized *message           // its notifications/initialized
	level       *message           // its last logging/setLevel that was not refused
	subscribed  map[string]message // live resources/subscribe by uri token
	promise     *handshake         // what the client was told
}

// A handshake is the part of an initialize result that may be remembered.
type handshake struct {
	ProtocolVersion string          `json:"protocolVersion"`
	Capabilities    json.RawMessage `json:"capabilities"`
	ServerInfo      json.RawMessage `json:"serverInfo"`
}

// readHandshake reads the result of initialize. It reports false if that is no such result.
func readHandshake(m message) (*handshake, bool) {
	h := &handshake{
		Capabilities: peek(m.raw, "result", "capabilities"),
		ServerInfo:   peek(m.raw, "result", "serverInfo"),
	}
	v, ok := unquote(peek(m.raw, "result", "protocolVersion"))
	h.ProtocolVersion = v
	return h, ok && v != ""
}

// has says whether the server declared a capability, such as "tools", "listChanged".
func (h *handshake) has(path ...string) bool {
	v := string(peek(h.Capabilities, path...))
	return v != "" && v != "false" && v != "null"
}

// note keeps what a request of the client that succeeded changed in the session.
func (o *ours) note(c *call) {
	uri := string(peek(c.m.raw, "params", "uri"))
	switch c.m.method {
	case "logging/setLevel":
		m := c.m.keep()
		o.level = &m
	case "resources/subscribe":
		if o.subscribed == nil {
			o.subscribed = map[string]message{}
		}
		o.subscribed[uri] = c.m.keep()
	case "resources/unsubscribe":
		delete(o.subscribed, uri)
	}
}

// keep is m without its charge: small control messages that outlive their call.
func (m message) keep() message {
	m.charge = charge{}
	return m
}

// changes are the notifications that tell the client, after a new session, what may be different now.
func (o *ours) changes() []message {
	var ms []message
	for _, list := range []string{"tools", "prompts", "resources"} {
		if o.promise != nil && o.promise.has(list, "listChanged") {
			ms = append(ms, newNotification("notifications/"+list+"/list_changed", nil))
		}
	}
	for uri := range o.subscribed {
		ms = append(ms, newNotification("notifications/resources/updated", json.RawMessage(`{"uri":`+uri+`}`)))
	}
	return ms
}

// A group is an array from the client (2025-03-26), answered as one array when all is answered.
type group struct {
	open int
	raw  []byte
}

func (g *group) add(m message) (done bool) {
	if len(g.raw) == 0 {
		g.raw = append(g.raw, '[')
	} else {
		g.raw = append(g.raw, ',')
	}
	body := new(bytes.Buffer)
	body.ReadFrom(m.body())
	g.raw = append(g.raw, body.Bytes()...)
	g.open--
	if g.open == 0 {
		g.raw = append(g.raw, ']')
	}
	return g.open == 0
}

// A faultKind is one of the errors that the bridge itself makes. Their codes lie outside the range that
// JSON-RPC reserves, so that nobody takes them for the server's.
type faultKind int

const (
	faultNotSent         faultKind = -31001
	faultOutcomeUnknown  faultKind = -31002
	faultAuthorization   faultKind = -31003
	faultServerRefused   faultKind = -31004
	faultBadAnswer       faultKind = -31005
	faultTooLarge        faultKind = -31006
	faultNotTranslatable faultKind = -31007
	faultClosing         faultKind = -31008
	faultNotPermitted    faultKind = -31009
)

func (k faultKind) reason() string {
	return [...]string{"not-sent", "outcome-unknown", "authorization-required", "server-refused", "bad-answer",
		"too-large", "not-translatable", "closing", "not-permitted"}[-31001-k]
}

// splice replaces token, a part of m.raw that peek returned, by another token. Ids stay where they are only
// if the token stands behind them; m is scanned anew.
func splice(m message, token []byte, other string) message {
	at := cap(m.raw) - cap(token)
	raw := make([]byte, 0, len(m.raw)-len(token)+len(other))
	raw = append(append(append(raw, m.raw[:at]...), other...), m.raw[at+len(token):]...)
	n, err := scan(raw)
	if err != nil { // cannot happen: one valid token for another
		return m
	}
	n.charge, n.as = m.charge, m.as
	return n
}

func randomPrefix() string { return rand.Text()[:12] }
