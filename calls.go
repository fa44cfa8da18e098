package main

// calls.go is what the loop knows about the client's requests and about the session: plain data, without
// goroutines, channels or I/O. reconnect.go's loop is its only user.

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
)

const maxSubscribed, maxKept = 10_000, 4 << 10 // resources that are subscribed anew in a new session; bytes that ask for one
const maxArray = 1 << 20                       // bytes of answers that wait for others of their array

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
	scope   bool      // it alone waits for a sign-in, with wider permissions
	doubt   *message  // an answer that may only mean that the session is lost
	after   string    // cursor of its stream
	resumes int       // resumptions in a row that brought no event
	failing time.Time // since when its stream is cut and could not be resumed

	token    string  // its progressToken; "" if none
	progress float64 // the last progress the client saw
	acked    bool    // a subscription whose acknowledgement the client has
}

// modern says whether a request is of 2026-07-28.
func (c *call) modern() bool {
	return c.m.method == "server/discover" || peek(c.m.facts.meta, "io.modelcontextprotocol/protocolVersion") != nil
}

// standing says that nobody waits for the answer: a subscription stays open until it is cancelled.
func (c *call) standing() bool { return c.m.method == "subscriptions/listen" }

// awaited says that the client waits for the answer.
func (c *call) awaited() bool { return c.m.kind == request && !c.standing() }

// A session is one generation of state at the server. Old ones are recognised by not being bridge.sess.
type session struct {
	kind        transportKind
	t           transport
	live        map[*exchange]bool
	established bool // the handshake was answered, or there is none
	shaken      bool // the line was lost since: loose signs of a lost session count

	stream      *exchange // the server's own stream
	streamOpen  bool
	streamFails int
}

// An exchange is one goroutine's work with the server. The loop owns every field but p.
type exchange struct {
	s      *session
	c      *call // nil for the server's own stream
	resume bool  // it continues the cut stream of c
	p      progress
	cancel context.CancelCauseFunc
	stray  bool      // it delivered an answer that belongs to nobody
	done   time.Time // when its call was settled
	opened time.Time // when its stream was opened
}

// lastByte is when the server was last heard on x; its start, if never.
func (x *exchange) lastByte() time.Time { return x.p.start.Add(time.Duration(x.p.heard.Load())) }

// A serverRequest is one that the client has not answered yet.
type serverRequest struct {
	sess   *session
	id     string // the server's own id token
	method string
	at     time.Time // when it came
}

// The ledger holds every line on its way, in both directions.
type ledger struct {
	byID     map[string]*call         // the client's requests by the client's id
	byToken  map[string]*call         // those with a progress token
	byUp     map[string]*call         // lines in flight by the id they were sent under
	queue    []*call                  // held lines, first in first out
	inflight map[*call]bool           // flying and resuming
	busy     time.Time                // since when there is always one of them
	asked    map[string]serverRequest // what the server asked of the client, by the id the client got
	prefix   string                   // random; begins every id of the bridge's own
	lastID   int
}

func newLedger() ledger {
	return ledger{
		byID:     map[string]*call{},
		byToken:  map[string]*call{},
		byUp:     map[string]*call{},
		inflight: map[*call]bool{},
		asked:    map[string]serverRequest{},
		prefix:   rand.Text()[:12],
	}
}

// newID is an id token that neither side has used.
func (l *ledger) newID() string {
	l.lastID++
	return `"` + l.prefix + "-" + strconv.Itoa(l.lastID) + `"`
}

// enter notes a request of the client.
func (l *ledger) enter(c *call) {
	l.byID[c.m.id] = c
	if c.token = string(peek(c.m.facts.meta, "progressToken")); c.token != "" {
		l.byToken[c.token] = c
	}
}

// sent notes that c goes out now, under the id token c.up.
func (l *ledger) sent(c *call) {
	if len(l.inflight) == 0 {
		l.busy = c.sentAt
	}
	l.inflight[c] = true
	if c.up != "" {
		l.byUp[c.up] = c
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
	c.state, c.x, c.accepted = held, nil, time.Time{}
	i := len(l.queue)
	for i > 0 && l.queue[i-1].arrived.After(c.arrived) {
		i--
	}
	l.queue = slices.Insert(l.queue, i, c)
}

// settle forgets c, wherever it was. It reports false if that had happened already.
func (l *ledger) settle(c *call) bool {
	if c.state == settled {
		return false
	}
	if i := slices.Index(l.queue, c); i >= 0 && c.state == held {
		l.queue = slices.Delete(l.queue, i, i+1)
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

// withdrawn takes a server's notifications/cancelled for a request of its own, which the client knows under
// another id.
func (l *ledger) withdrawn(s *session, m message) message {
	token, _ := idToken(peek(m.raw, "params", "requestId"))
	for id, sr := range l.asked {
		if sr.sess == s && sr.id == token {
			delete(l.asked, id)
			return m.rewritten(set(m.raw, []byte(id), "params", "requestId"))
		}
	}
	return m
}

// rises keeps progress rising for the client: a resent call begins again, and its first steps are known.
func (l *ledger) rises(m message) bool {
	c := l.byToken[string(peek(m.raw, "params", "progressToken"))]
	if c == nil {
		return true
	}
	var v float64
	if json.Unmarshal(peek(m.raw, "params", "progress"), &v) != nil || c.progress > 0 && v <= c.progress {
		return false
	}
	c.progress = v
	return true
}

// withSubscription gives a message of a subscription that was opened again the id that the client knows.
func withSubscription(m message, c *call) message {
	root := "params"
	if m.kind == response {
		root = "result"
	}
	if token := peek(m.raw, root, "_meta", metaSubscription); string(token) == c.up {
		return m.rewritten(set(m.raw, []byte(c.m.id), root, "_meta", metaSubscription))
	}
	return m
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
	hello       message            // the client's initialize; raw is nil if it has said none
	initialized message            // its notifications/initialized, likewise
	level       message            // its last logging/setLevel that was not refused, likewise
	subscribed  map[string]message // live resources/subscribe by uri
	promise     *handshake         // what the client was told; nil: nothing yet
}

// A handshake is the part of an initialize result that may be remembered.
type handshake struct {
	Asked           string          `json:"asked,omitempty"` // the protocolVersion that the client asked for
	ProtocolVersion string          `json:"protocolVersion"`
	Capabilities    json.RawMessage `json:"capabilities"`
	ServerInfo      json.RawMessage `json:"serverInfo"`
}

// readHandshake reads the result of initialize. It reports false if that is no such result.
func readHandshake(m message) (*handshake, bool) {
	v, ok := unquote(peek(m.raw, "result", "protocolVersion"))
	return &handshake{
		ProtocolVersion: v,
		Capabilities:    bytes.Clone(peek(m.raw, "result", "capabilities")),
		ServerInfo:      bytes.Clone(peek(m.raw, "result", "serverInfo")),
	}, ok && v != ""
}

// result is h as the result of initialize.
func (h handshake) result() json.RawMessage {
	h.Asked = ""
	raw, _ := json.Marshal(h) // its parts were scanned when they came
	return raw
}

// has says whether the server declared a capability, such as "tools", "listChanged".
func (h *handshake) has(path ...string) bool {
	v := string(peek(h.Capabilities, path...))
	return v != "" && v != "false" && v != "null"
}

// asks is the protocolVersion that the client asked for.
func (o *ours) asks() string {
	v, _ := unquote(peek(o.hello.raw, "params", "protocolVersion"))
	return v
}

// note keeps what a request of the client that succeeded changed in the session.
func (o *ours) note(c *call) {
	var uri string
	if strings.HasPrefix(c.m.method, "resources/") { // the params of a tool can be large
		uri, _ = unquote(peek(c.m.raw, "params", "uri"))
	}
	switch c.m.method {
	case "logging/setLevel":
		o.level = c.m.keep()
	case "resources/subscribe":
		if o.subscribed == nil {
			o.subscribed = map[string]message{}
		}
		if len(o.subscribed) < maxSubscribed && len(c.m.raw) <= maxKept {
			o.subscribed[uri] = c.m.keep()
		}
	case "resources/unsubscribe":
		delete(o.subscribed, uri)
	}
}

// replay is what has to be said to a new session.
func (o *ours) replay(newID func() string) []message {
	var ms []message
	if o.initialized.raw != nil {
		ms = append(ms, o.initialized)
	}
	if o.level.raw != nil {
		ms = append(ms, o.level.withID(newID()))
	}
	for _, m := range o.subscribed {
		ms = append(ms, m.withID(newID()))
	}
	return ms
}

// changes are the notifications that tell the client, after a new session, what may be different now.
func (o *ours) changes() []message {
	return changed(expected(o.promise.Capabilities, slices.Collect(maps.Keys(o.subscribed))))
}

// gap are the notifications for a subscription that was opened anew: what was said in between is lost.
func (c *call) gap(acknowledged message) (ms []message) {
	for _, m := range changed(peek(acknowledged.raw, "params", "notifications")) {
		ms = append(ms, m.rewritten(set(m.raw, []byte(c.m.id), "params", "_meta", metaSubscription)))
	}
	return ms
}

// keep is m without its charge: small control messages that outlive their call.
func (m message) keep() message {
	m.charge = charge{}
	return m
}

// A group is an array from the client (2025-03-26), answered as one array when all is answered; as several, where one
// would be large.
type group struct {
	open int // answers still to come
	raw  bytes.Buffer
}

// add takes an answer, or that there will be none, and returns the array when it is to be said; nil if nothing is in it.
func (g *group) add(m message) []byte {
	if m.raw != nil {
		g.raw.WriteByte("[,"[min(g.raw.Len(), 1)])
		_, _ = g.raw.ReadFrom(m.body())
	}
	if g.open--; g.open > 0 && g.raw.Len() < maxArray || g.raw.Len() == 0 {
		return nil
	}
	whole := append(g.raw.Bytes(), ']')
	g.raw = bytes.Buffer{}
	return whole
}
