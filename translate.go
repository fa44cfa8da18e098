package main

// translate.go lets a client of the initialize era (up to 2025-11-25) work on a server of 2026-07-28. It stands
// at the client's edge of the loop, which below it runs in the server's era. It is pure: no I/O, no time, no
// goroutine; what it holds is bounded.
//
// What the eras have no word for is refused with -31007. A server's own error passes as it is.

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
)

const (
	metaClient       = "io.modelcontextprotocol/clientInfo"
	metaCan          = "io.modelcontextprotocol/clientCapabilities"
	metaLevel        = "io.modelcontextprotocol/logLevel"
	metaServer       = "io.modelcontextprotocol/serverInfo"
	metaSubscription = "io.modelcontextprotocol/subscriptionId"
	tasksExtension   = "io.modelcontextprotocol/tasks"

	maxRounds  = 10       // times that one call may ask for input
	maxAsks    = 100      // questions to the client that are open at once
	maxParked  = 64 << 20 // bytes of calls and answers that wait for the rest of their answers
	maxURIs    = 1 << 20  // bytes of all subscribed URIs
	maxReopens = 10       // streams in a row that the server may end without having told anything on them
)

const tooMuch = "the server asks the client for more at once than can be kept"

// A translator turns one client's messages into the server's era and back. The owner of the loop calls it; it
// is not safe for concurrent use.
//
// Both ways it returns up, messages that go to the server as if the client had written them (its own requests
// have ids of its own), and down, messages that go to the client, each in order. Every response to a
// request that it handed up comes back through fromServer with the id that it went up with, an error that the
// loop made itself too; a request that it cancelled upwards with notifications/cancelled needs none.
//
// Charges: of the messages returned at most one, which may share raw bytes with the one handed in, carries
// that one's charge; the caller frees the charge of a message of which none does. All others have none.
type translator struct {
	prefix   string
	serial   int
	up, down []message // what the event at hand has brought so far

	// The handshake.
	client string // id of the client's initialize
	hello  string // id of the server/discover in its place; "" once it is answered
	told   string // the protocol version that the client is promised
	meta   []byte // _meta of every request
	can    []byte // the client's capabilities, as the server sees them
	offers []byte // the server's, as the client sees them

	// The client's calls. One that the server has asked back about has no place in calls until its next round.
	calls  map[string]*pending // by the id they went up with
	asks   map[string]ask      // by the id of the request to the client
	parked int                 // bytes held for asks

	// The one stream of change notifications. A changed set needs a new one, which replaces open when the
	// server acknowledges it (MCP 2026-07-28 subscriptions).
	ready         bool     // notifications/initialized was seen
	uris          []string // subscribed, or asked for
	open, opening *stream
	missed        bool // something may have changed while no stream was open
	reopens       int
}

// A pending is a request of the client's that the server has not answered for good.
type pending struct {
	id      string // the client's
	method  string
	raw     []byte // as it went up first
	rounds  int
	size    int      // what it adds to parked
	state   []byte   // requestState to echo; nil for none
	waiting int      // for so many answers of the client
	answers [][]byte // members of inputResponses
}

// An ask is an entry of inputRequests, put to the client.
type ask struct {
	call   *pending
	key    string
	method string
}

type stream struct {
	id      string
	waiting []waiter
}

func (s *stream) is(id string) bool { return s != nil && s.id == id }

// A waiter is a resources/subscribe that the acknowledgement answers.
type waiter struct{ id, uri string }

// newTranslator returns a translator whose own ids are strings that begin with prefix, which must be random
// and not the beginning of anybody else's ids.
func newTranslator(prefix string) *translator {
	t := &translator{prefix: prefix, calls: map[string]*pending{}, asks: map[string]ask{}}
	t.introduce(nil, []byte("{}"))
	return t
}

// fromClient takes a message that the client wrote. The client's initialize goes up as server/discover, whose
// answer comes down as its result.
func (t *translator) fromClient(m message) (up, down []message) {
	t.reopens = 0
	switch m.kind {
	case request:
		t.clientAsks(m)
	case notification:
		t.clientNotes(m)
	case response:
		t.clientAnswers(m)
	}
	return t.brought()
}

// fromServer takes a message that the server sent, or a response that the loop made in its place.
func (t *translator) fromServer(m message) (up, down []message) {
	switch m.kind {
	case request: // the era has none, and no way to answer one
	case notification:
		t.serverNotes(m)
	case response:
		t.serverAnswers(m)
	}
	return t.brought()
}

// lost is to be called when the server answers again after an outage: the stream is opened anew, and when it
// is, the client is told what may have changed meanwhile. What was in flight is the loop's business.
func (t *translator) lost() (up, down []message) {
	if t.open != nil || t.opening != nil {
		t.missed = true
		t.listen()
	}
	return t.brought()
}

func (t *translator) brought() (up, down []message) {
	up, down = t.up, t.down
	t.up, t.down = nil, nil
	return up, down
}

func (t *translator) clientAsks(m message) {
	id, params := m.token(), peek(m.raw, "params")
	switch {
	case bytes.HasPrefix(params, []byte{'['}):
		t.fail(id, -32602, "params is not an object")
	case m.method == "initialize":
		t.initialize(id, params)
	case m.method == "ping":
		t.done(id)
	case m.method == "logging/setLevel":
		t.setLevel(id, peek(params, "level"))
	case m.method == "resources/subscribe", m.method == "resources/unsubscribe":
		t.subscribe(m.method, id, params)
	case strings.HasPrefix(m.method, "tasks/"):
		t.fail(id, -32601, "the server has no tasks as this client's protocol version knows them")
	default:
		raw := set(m.raw, t.metaOver(peek(params, "_meta")), "params", "_meta")
		if m.method == "tools/call" {
			raw = set(raw, nil, "params", "task")
		}
		m = m.rewritten(raw)
		t.calls[id] = &pending{id: id, method: m.method, raw: raw}
		t.up = append(t.up, m)
	}
}

// metaOver is the _meta of a request that had old.
func (t *translator) metaOver(old []byte) []byte {
	for _, key := range [...]string{metaVersion, metaCan, metaClient, metaLevel} {
		old = set(old, peek(t.meta, key), key)
	}
	return old
}

// initialize asks the server for what a handshake would have told.
func (t *translator) initialize(id string, params []byte) {
	version, ok := unquote(peek(params, "protocolVersion"))
	if !ok {
		t.fail(id, -32602, "initialize says no protocolVersion")
		return
	}
	t.told = "2025-11-25"
	if slices.Contains([]string{"2024-11-05", "2025-03-26", "2025-06-18"}, version) {
		t.told = version
	}
	can := object(peek(params, "capabilities"))
	t.can = withoutTasks(can)
	if peek(can, "roots") != nil {
		t.can = set(t.can, []byte("{}"), "roots") // its changes cannot be told
	}
	t.introduce(peek(params, "clientInfo"), t.can)
	t.client, t.hello = id, t.next()
	t.up = append(t.up, newRequest(t.hello, "server/discover", set([]byte("{}"), t.meta, "_meta")))
}

// introduce says who the client is, and what it can, in every request from now on.
func (t *translator) introduce(info, can []byte) {
	t.meta = set(set(set([]byte("{}"), info, metaClient), can, metaCan), quote(modernVersion), metaVersion)
}

// discovered turns the server's answer to server/discover into the result of initialize.
func (t *translator) discovered(m message) {
	t.hello = ""
	if m.failed {
		t.down = append(t.down, m.under(t.client))
		return
	}
	found := peek(m.raw, "result")
	t.offers = withoutTasks(object(peek(found, "capabilities")))
	server := peek(found, "_meta", metaServer)
	if server == nil {
		server = peek(found, "serverInfo")
	}
	if peek(server, "name") == nil || peek(server, "version") == nil {
		server = []byte(`{"name":"unknown","version":"unknown"}`)
	}
	result := fmt.Appendf(nil, `{"protocolVersion":%q,"capabilities":%s,"serverInfo":%s}`, t.told, t.offers, server)
	t.down = append(t.down, newResult(t.client, set(result, peek(found, "instructions"), "instructions")))
}

func (t *translator) setLevel(id string, level []byte) {
	name, _ := unquote(level)
	switch {
	case peek(t.offers, "logging") == nil:
		t.fail(id, -32601, "the server does not log to its clients")
	case !slices.Contains([]string{"debug", "info", "notice", "warning", "error", "critical", "alert", "emergency"}, name):
		t.fail(id, -32602, "no such log level")
	default:
		t.meta = set(t.meta, level, metaLevel)
		t.done(id)
	}
}

func (t *translator) clientNotes(m message) {
	switch m.method {
	case "notifications/initialized":
		t.ready = true
		t.listen()
	case "notifications/cancelled":
		t.clientCancels(m)
	case "notifications/roots/list_changed", "notifications/progress", "notifications/tasks/status": // the era has none
	default:
		t.up = append(t.up, m)
	}
}

// clientCancels ends a call wherever it is. A round in between needs no word to the server.
func (t *translator) clientCancels(m message) {
	id, _ := idToken(peek(m.raw, "params", "requestId"))
	for at, c := range t.calls {
		if c.id == id {
			delete(t.calls, at)
			t.up = append(t.up, m.rewritten(set(m.raw, []byte(at), "params", "requestId")))
			return
		}
	}
	for _, a := range t.asks {
		if a.call.id == id {
			t.drop(a.call)
			return
		}
	}
	if t.opening != nil {
		t.opening.waiting = slices.DeleteFunc(t.opening.waiting, func(w waiter) bool { return w.id == id })
	}
}

func (t *translator) serverNotes(m message) {
	id := string(peek(m.raw, "params", "_meta", metaSubscription))
	acknowledged := m.method == "notifications/subscriptions/acknowledged"
	switch {
	case acknowledged && t.opening.is(id):
		t.opened(true, peek(m.raw, "params", "notifications", "resourceSubscriptions"))
	case acknowledged && t.open.is(id): // once more, so it was lost in between
		t.missed = true
		t.catchUp()
	case acknowledged, m.method == "notifications/cancelled": // which only announces the end of a stream
	case id != "":
		t.reopens = 0
		t.down = append(t.down, m.rewritten(set(m.raw, nil, "params", "_meta", metaSubscription)))
	default:
		t.down = append(t.down, m)
	}
}

func (t *translator) serverAnswers(m message) {
	id := m.token()
	switch c := t.calls[id]; {
	case c != nil:
		delete(t.calls, id)
		t.answered(c, m)
	case id == t.hello && id != "":
		t.discovered(m)
	case t.opening.is(id):
		t.opened(false, nil)
	case t.open.is(id):
		t.open, t.missed = nil, true
		if t.reopens++; t.reopens <= maxReopens {
			t.listen()
		}
	default: // asked before there was a translator
		t.down = append(t.down, m)
	}
}

// answered brings the server's answer to c into the client's era.
func (t *translator) answered(c *pending, m message) {
	kind := peek(m.raw, "result", "resultType")
	switch name, _ := unquote(kind); {
	case m.failed:
		if c.method == "resources/read" && string(peek(m.raw, "error", "code")) == "-32602" && peek(m.raw, "error", "data", "uri") != nil {
			m = m.rewritten(set(m.raw, []byte("-32002"), "error", "code")) // resource not found, until 2025-11-25
		}
	case name == "input_required":
		t.ask(c, m)
		return
	case name == "task":
		t.refuse(c, "the server made a task of the request, which this client's protocol version cannot follow")
		return
	case kind != nil && name != "complete":
		t.fail(c.id, -32603, "the server's answer is of a type that is not known here: "+clean(string(kind)))
		return
	default:
		m = oldForm(c.method, m)
	}
	t.down = append(t.down, m.under(c.id))
}

// oldForm is a complete result without what clients of the era do not know or would reject.
func oldForm(method string, m message) message {
	raw := set(m.raw, nil, "result", "resultType")
	if s := peek(raw, "result", "structuredContent"); method == "tools/call" && s != nil && s[0] != '{' {
		raw = set(raw, nil, "result", "structuredContent")
	}
	m = m.rewritten(raw)
	if method != "tools/list" {
		return m
	}
	return editTools(m, func(tool []byte) []byte {
		if string(peek(tool, "outputSchema", "type")) == `"object"` {
			return tool
		}
		return set(tool, nil, "outputSchema")
	})
}

// ask puts what the server wants to know to the client (MCP 2026-07-28 mrtr). A server that wants nothing but to
// be asked again is.
func (t *translator) ask(c *pending, m message) {
	wants := object(peek(m.raw, "result", "inputRequests"))
	c.state, c.answers, c.waiting = peek(m.raw, "result", "requestState"), nil, 0
	c.rounds++
	t.park(c, len(c.raw)+len(m.raw))
	var asked []message
	asks, trouble := map[string]ask{}, ""
	each(wants, func(key []byte, from, to int) {
		if len(t.asks)+len(asks) == maxAsks {
			trouble = tooMuch
		}
		if trouble != "" {
			return
		}
		method, _ := unquote(peek(wants[from:to], "method"))
		params := object(peek(wants[from:to], "params"))
		capability, _ := answerOf(method)
		link := string(peek(params, "mode")) == `"url"`
		if capability == "" || peek(t.can, capability) == nil || link && peek(t.can, capability, "url") == nil {
			trouble = "the server asks the client for what it has not declared: " + clean(method)
			return
		}
		id := t.next()
		if link {
			params = set(params, []byte(id), "elicitationId") // required until 2025-11-25
		}
		asks[id] = ask{c, string(key), method}
		asked = append(asked, newRequest(id, method, params))
	})
	switch c.waiting = len(asked); {
	case trouble != "":
	case c.method != "tools/call" && c.method != "prompts/get" && c.method != "resources/read":
		trouble = "the server asks for input to a request for which its protocol version does not allow it"
	case c.rounds > maxRounds:
		trouble = fmt.Sprintf("the server asked for input more than %d times", maxRounds)
	case at(c.state, 0) != '"' && (c.state != nil || asked == nil):
		trouble = "the server asks for input in a form that is not valid"
	case t.parked > maxParked:
		trouble = tooMuch
	}
	switch {
	case trouble != "":
		t.refuse(c, trouble)
	case asked == nil:
		t.retry(c, m.charge)
	default:
		maps.Copy(t.asks, asks)
		t.down = asked
	}
}

// answerOf says which capability lets the server ask for method, and what the answer must hold.
func answerOf(method string) (capability string, holds []string) {
	switch method {
	case "elicitation/create":
		return "elicitation", []string{"action"}
	case "sampling/createMessage":
		return "sampling", []string{"role", "content", "model"}
	case "roots/list":
		return "roots", []string{"roots"}
	}
	return "", nil
}

// clientAnswers takes what the client says to an ask. Only of an elicitation can the server be told that it failed.
func (t *translator) clientAnswers(m message) {
	a, found := t.asks[m.id]
	if !found {
		return // too late
	}
	delete(t.asks, m.id)
	c, answer, trouble := a.call, peek(m.raw, "result"), ""
	if m.failed && a.method == "elicitation/create" {
		answer = []byte(`{"action":"cancel"}`)
	}
	_, needed := answerOf(a.method)
	for _, name := range needed {
		if peek(answer, name) == nil {
			trouble = "the server needs " + a.method + ", and the client's answer to that is an error or not valid"
		}
	}
	if t.park(c, len(answer)); t.parked > maxParked {
		trouble = tooMuch
	}
	c.answers = append(c.answers, slices.Concat([]byte(a.key), []byte{':'}, answer))
	c.waiting--
	switch {
	case trouble != "":
		t.refuse(c, trouble)
	case c.waiting == 0:
		t.retry(c, m.charge)
	}
}

// retry sends c again with what this round brought, as the independent request that a round is.
func (t *translator) retry(c *pending, held charge) {
	t.park(c, -c.size)
	id := t.next()
	raw := set(c.raw, []byte(id), "id")
	if c.answers != nil {
		raw = set(raw, slices.Concat([]byte{'{'}, bytes.Join(c.answers, []byte{','}), []byte{'}'}), "params", "inputResponses")
	}
	if c.state != nil {
		raw = set(raw, c.state, "params", "requestState")
	}
	m := message{charge: held}.rewritten(raw)
	if m.raw == nil { // the answers stand deeper here than they did
		t.refuse(c, "the client's answers are nested too deeply")
		return
	}
	t.calls[id] = c
	t.up = append(t.up, m)
}

func (t *translator) park(c *pending, n int) {
	c.size += n
	t.parked += n
}

// drop forgets c between two rounds and takes back what the client is still asked for it.
func (t *translator) drop(c *pending) {
	t.park(c, -c.size)
	for id, a := range t.asks {
		if a.call == c {
			delete(t.asks, id)
			t.down = append(t.down, cancelling(id))
		}
	}
}

// refuse answers c with what cannot be translated.
func (t *translator) refuse(c *pending, sentence string) {
	t.drop(c)
	t.down = append(t.down, errorReply(c.id, -31007, sentence, &errorData{Reason: "not-translatable"}))
}

// subscribe changes the set of URIs. The client is answered when the server has agreed.
func (t *translator) subscribe(method, id string, params []byte) {
	uri, ok := unquote(peek(params, "uri"))
	at := slices.Index(t.uris, uri)
	switch {
	case !ok:
		t.fail(id, -32602, "uri is not a string")
	case string(peek(t.offers, "resources", "subscribe")) != "true":
		t.fail(id, -32601, "the server offers no subscriptions to resources")
	case method == "resources/unsubscribe":
		t.done(id)
		if at >= 0 {
			t.uris = slices.Delete(t.uris, at, at+1)
			t.listen()
		}
	case at >= 0 && t.opening == nil:
		t.done(id)
	case len(uri)+len(strings.Join(t.uris, "")) > maxURIs:
		t.fail(id, -32602, "more subscriptions than can be kept")
	default:
		if at < 0 {
			t.uris = append(t.uris, uri)
		}
		t.listen()
		t.opening.waiting = append(t.opening.waiting, waiter{id, uri})
	}
}

// listen opens a stream for all that the client is to be told of now, in place of one that is being opened.
func (t *translator) listen() {
	next := &stream{}
	if t.opening != nil {
		next.waiting = t.opening.waiting
		t.up = append(t.up, cancelling(t.opening.id))
		t.opening = nil
	}
	filter := map[string]any{}
	for _, list := range t.promised() {
		filter[list+"ListChanged"] = true
	}
	if len(t.uris) > 0 {
		filter["resourceSubscriptions"] = t.uris
	}
	if len(filter) > 0 {
		next.id, t.opening = t.next(), next
		wish, _ := json.Marshal(filter) // strings and booleans cannot fail
		t.up = append(t.up, newRequest(next.id, "subscriptions/listen", set(set([]byte("{}"), wish, "notifications"), t.meta, "_meta")))
	} else if t.open != nil {
		t.up = append(t.up, cancelling(t.open.id))
		t.open = nil
	}
}

// promised names the lists of whose changes the client expects to hear.
func (t *translator) promised() (lists []string) {
	for _, list := range [...]string{"tools", "prompts", "resources"} {
		if t.ready && string(peek(t.offers, list, "listChanged")) == "true" {
			lists = append(lists, list)
		}
	}
	return lists
}

// opened makes the new stream the one, or gives it up if the server answered in place of acknowledging it.
func (t *translator) opened(acknowledged bool, agreed []byte) {
	for _, w := range t.opening.waiting {
		if acknowledged && holds(agreed, w.uri) {
			t.done(w.id)
			continue
		}
		t.uris = slices.DeleteFunc(t.uris, func(uri string) bool { return uri == w.uri })
		t.fail(w.id, -32602, "the server does not agree to tell of changes of this resource")
	}
	if acknowledged {
		if t.open != nil {
			t.up = append(t.up, cancelling(t.open.id))
		}
		t.open = t.opening
	}
	t.opening = nil
	t.catchUp()
}

// catchUp tells the client of all that may have changed while nobody would have told.
func (t *translator) catchUp() {
	if !t.missed {
		return
	}
	t.missed = false
	for _, list := range t.promised() {
		t.down = append(t.down, newNotification("notifications/"+list+"/list_changed", nil))
	}
	for _, uri := range t.uris {
		t.down = append(t.down, newNotification("notifications/resources/updated", set([]byte("{}"), quote(uri), "uri")))
	}
}

// next makes an id token.
func (t *translator) next() string {
	t.serial++
	return fmt.Sprintf(`"%s%d"`, t.prefix, t.serial)
}

func (t *translator) done(id string) {
	t.down = append(t.down, newResult(id, []byte("{}")))
}

func (t *translator) fail(id string, code int, sentence string) {
	t.down = append(t.down, errorReply(id, code, sentence, nil))
}

// under is a response as the answer to the request with that id.
func (m message) under(id string) message {
	m.as, m.id = id, id
	return m
}

func cancelling(id string) message {
	return newNotification("notifications/cancelled", set([]byte("{}"), []byte(id), "requestId"))
}

// withoutTasks is capabilities less those that differ between the eras.
func withoutTasks(capabilities []byte) []byte {
	return set(set(capabilities, nil, "tasks"), nil, "extensions", tasksExtension)
}

// object is a token that is an object, or an empty one in its place.
func object(token []byte) []byte {
	if !bytes.HasPrefix(token, []byte{'{'}) {
		return []byte("{}")
	}
	return token
}
