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
	bareMeta         = `{"` + metaCan + `":{},"` + metaVersion + `":"` + modernVersion + `"}`

	maxRounds  = 10       // times that one call may ask for input
	maxAsks    = 100      // questions to the client that are open at once
	maxParked  = 64 << 20 // bytes of calls and answers that wait for the rest of their answers
	maxURIs    = 1 << 20  // bytes of all subscribed URIs; twice that wait for the server to agree
	waitSize   = 64       // bytes of one that waits, besides its id and URI
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
	newID    func() string // makes id tokens that neither side has used
	up, down []message     // what the event at hand has brought so far

	meta   []byte // _meta of every request: who the client is, and what it can
	offers []byte // the server's capabilities, as the client sees them

	// The client's calls. One that the server has asked back about has no place in calls until its next round.
	calls  map[string]*pending // by the id they went up with
	asks   map[string]ask      // by the id of the request to the client
	parked int                 // bytes held for asks

	// The one stream of change notifications, known by its request. A changed set needs a new one, which replaces
	// open when the server acknowledges it (MCP 2026-07-28 subscriptions).
	uris          []string          // subscribed, or asked for
	wants         map[string]string // the uri of each resources/subscribe that the acknowledgement answers, by id
	open, opening string            // ids; "" for none
	missed        bool              // something may have changed while no stream was open
	reopens       int
}

// A pending is a request of the client's that the server has not answered for good.
type pending struct {
	id      string // the client's
	method  string
	raw     []byte // as it went up first; initialize as it came
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

// newTranslator returns a translator whose own ids are those of newID.
func newTranslator(newID func() string) *translator {
	return &translator{
		newID: newID,
		meta:  []byte(bareMeta),
		calls: map[string]*pending{},
		asks:  map[string]ask{},
		wants: map[string]string{},
	}
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
	case notification:
		t.serverNotes(m)
	case response:
		t.serverAnswers(m)
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
		t.initialize(m, params)
	case m.method == "ping":
		t.done(id)
	case m.method == "logging/setLevel":
		t.setLevel(id, peek(params, "level"))
	case m.method == "resources/subscribe", m.method == "resources/unsubscribe":
		t.subscribe(m.method, id, params)
	case strings.HasPrefix(m.method, "tasks/"):
		t.fail(id, -32601, "the server has no tasks as this client's protocol version knows them")
	default:
		raw := withMeta(m.raw, t.meta)
		if m.method == "tools/call" {
			raw = set(raw, nil, "params", "task")
		}
		m = m.rewritten(raw)
		t.calls[id] = &pending{id: id, method: m.method, raw: raw}
		t.up = append(t.up, m)
	}
}

// withMeta is a request whose _meta says of this era what meta does; nil: nothing.
func withMeta(raw, meta []byte) []byte {
	own := peek(raw, "params", "_meta")
	for _, key := range [...]string{metaVersion, metaCan, metaClient, metaLevel} {
		own = set(own, peek(meta, key), key)
	}
	return set(raw, own, "params", "_meta")
}

// initialize asks the server for what a handshake would have told.
func (t *translator) initialize(m message, params []byte) {
	if _, ok := unquote(peek(params, "protocolVersion")); !ok {
		t.fail(m.token(), -32602, "initialize says no protocolVersion")
		return
	}
	can := set(withoutTasks(object(peek(params, "capabilities"))), nil, "roots", "listChanged") // which cannot be told
	t.meta = set(set([]byte(bareMeta), can, metaCan), peek(params, "clientInfo"), metaClient)
	id := t.newID()
	t.calls[id] = &pending{id: m.token(), method: m.method, raw: m.raw}
	t.up = append(t.up, newRequest(id, "server/discover", set([]byte("{}"), t.meta, "_meta")))
}

// welcome makes of the result of server/discover that of initialize.
func (t *translator) welcome(initialize, found []byte) []byte {
	version, _ := unquote(peek(initialize, "params", "protocolVersion"))
	if !slices.Contains([]string{"2024-11-05", "2025-03-26", "2025-06-18"}, version) {
		version = "2025-11-25"
	}
	t.offers = withoutTasks(object(peek(found, "capabilities")))
	server := []byte(`{"name":"unknown","version":"unknown"}`)
	for _, s := range [][]byte{peek(found, "serverInfo"), peek(found, "_meta", metaServer)} {
		if peek(s, "name") != nil && peek(s, "version") != nil {
			server = s
		}
	}
	result := fmt.Appendf(nil, `{"protocolVersion":%q,"capabilities":%s,"serverInfo":%s}`, version, t.offers, server)
	return set(result, peek(found, "instructions"), "instructions")
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
	delete(t.wants, id)
	for at, c := range t.calls {
		if c.id == id && c.method != "initialize" {
			delete(t.calls, at)
			t.up = append(t.up, m.rewritten(set(m.raw, []byte(at), "params", "requestId")))
			return
		}
	}
	for _, a := range t.asks {
		if a.call.id == id {
			t.drop(a.call)
		}
	}
}

func (t *translator) serverNotes(m message) {
	id, acknowledged := string(peek(m.raw, "params", "_meta", metaSubscription)), m.method == "notifications/subscriptions/acknowledged"
	switch {
	case acknowledged && id == t.opening && id != "":
		t.leave(&t.open)
		t.open, t.opening = id, ""
		t.agreed(peek(m.raw, "params", "notifications", "resourceSubscriptions"))
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
	case id == "" || id != t.open && id != t.opening: // asked before there was a translator
		t.down = append(t.down, m)
	case id == t.opening: // in place of acknowledging it
		t.opening = ""
		t.agreed(nil)
	default:
		t.open, t.missed = "", true
		if t.reopens++; t.reopens <= maxReopens {
			t.listen()
		}
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
	case c.method == "initialize":
		m = newResult(c.id, t.welcome(c.raw, peek(m.raw, "result")))
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
	if m = m.rewritten(raw); method == "tools/list" {
		m = editTools(m, func(tool []byte) []byte {
			if string(peek(tool, "outputSchema", "type")) == `"object"` {
				return tool
			}
			return set(tool, nil, "outputSchema")
		})
	}
	return m
}

// ask puts what the server wants to know to the client (MCP 2026-07-28 mrtr). A server that wants nothing but to
// be asked again is.
func (t *translator) ask(c *pending, m message) {
	wants := object(peek(m.raw, "result", "inputRequests"))
	c.state, c.answers, c.waiting = peek(m.raw, "result", "requestState"), nil, 0
	c.rounds++
	t.park(c, len(c.raw)+len(m.raw))
	var asked []message
	trouble := ""
	each(wants, func(key []byte, from, to int) {
		method, _ := unquote(peek(wants[from:to], "method"))
		params := object(peek(wants[from:to], "params"))
		capability := askable[method].capability
		link := string(peek(params, "mode")) == `"url"`
		switch {
		case trouble != "":
		case len(t.asks) == maxAsks:
			trouble = tooMuch
		case capability == "" || peek(t.meta, metaCan, capability) == nil || link && peek(t.meta, metaCan, capability, "url") == nil:
			trouble = "the server asks the client for what it has not declared: " + clean(method)
		default:
			id := t.newID()
			if link {
				params = set(params, []byte(id), "elicitationId") // required until 2025-11-25
			}
			t.asks[id] = ask{c, string(key), method}
			asked = append(asked, newRequest(id, method, params))
		}
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
		for _, m := range asked { // of which the client never hears
			delete(t.asks, m.id)
		}
		t.refuse(c, trouble)
	case asked == nil:
		t.retry(c, m.charge)
	default:
		t.down = asked
	}
}

// askable says which capability lets the server ask for a method, and what the answer must hold.
var askable = map[string]struct{ capability, holds string }{
	"elicitation/create":     {"elicitation", "action"},
	"sampling/createMessage": {"sampling", "role content model"},
	"roots/list":             {"roots", "roots"},
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
	for _, name := range strings.Fields(askable[a.method].holds) {
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
	id := t.newID()
	raw := set(set(c.raw, []byte(id), "id"), c.state, "params", "requestState")
	if c.answers != nil {
		raw = set(raw, slices.Concat([]byte{'{'}, bytes.Join(c.answers, []byte{','}), []byte{'}'}), "params", "inputResponses")
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

// back is what went up as m, as the client wrote it, for a server that has gone back to the client's era. It reports
// false if the client did not write it, or not so.
func (t *translator) back(m message) (message, bool) {
	c := t.calls[m.id]
	return m.rewritten(withMeta(m.raw, nil)), c != nil && c.id == m.id
}

// end gives up what waits for answers of the client: only a server of this era can go on with it. What the server has
// not agreed to is asked of it again, as the client did.
func (t *translator) end() (up, down []message) {
	for _, a := range t.asks {
		t.refuse(a.call, "the server has gone back to an MCP revision before 2026-07-28, and forgotten what it asked")
	}
	for id, uri := range t.wants {
		params, _ := json.Marshal(map[string]string{"uri": uri}) // cannot fail
		t.up = append(t.up, newRequest(id, "resources/subscribe", params))
	}
	return t.brought()
}

// subscribe changes the set of URIs. The client is answered when the server has agreed.
func (t *translator) subscribe(method, id string, params []byte) {
	uri, ok := unquote(peek(params, "uri"))
	at, waiting := slices.Index(t.uris, uri), 0
	for id, uri := range t.wants {
		waiting += len(id) + len(uri) + waitSize
	}
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
	case at >= 0 && t.opening == "":
		t.done(id)
	case len(uri)+len(strings.Join(t.uris, "")) > maxURIs, waiting+len(id)+len(uri)+waitSize > 2*maxURIs:
		t.fail(id, -32602, "more subscriptions than can be kept")
	default:
		if at < 0 {
			t.uris = append(t.uris, uri)
		}
		t.wants[id] = uri
		t.listen()
	}
}

// listen opens a stream for all that the client is to be told of now, in place of one that is being opened.
func (t *translator) listen() {
	t.leave(&t.opening)
	if filter := expected(t.offers, t.uris); string(filter) != "{}" {
		t.opening = t.newID()
		t.up = append(t.up, newRequest(t.opening, "subscriptions/listen", set(set([]byte("{}"), filter, "notifications"), t.meta, "_meta")))
		return
	}
	t.agreed(nil)
	t.leave(&t.open)
}

// leave ends a stream, if there is one.
func (t *translator) leave(id *string) {
	if *id != "" {
		t.up = append(t.up, cancelling(*id))
		*id = ""
	}
}

// agreed answers those who wait for the server to agree, and tells the client of all that may have changed while
// nobody would have told.
func (t *translator) agreed(uris []byte) {
	var told []string
	_ = json.Unmarshal(uris, &told) // nothing, if it is nothing of the kind
	for id, uri := range t.wants {
		if slices.Contains(told, uri) {
			t.done(id)
			continue
		}
		t.uris = slices.DeleteFunc(t.uris, func(u string) bool { return u == uri })
		t.fail(id, -32602, "the server does not agree to tell of changes of this resource")
	}
	clear(t.wants)
	if t.missed {
		t.missed = false
		t.down = append(t.down, changed(expected(t.offers, t.uris))...)
	}
}

// expected is what a client expects to hear of that was offered these capabilities and subscribes to these
// resources, as the filter of subscriptions/listen.
func expected(offers []byte, uris []string) []byte {
	filter := map[string]any{}
	for _, list := range [...]string{"tools", "prompts", "resources"} {
		if string(peek(offers, list, "listChanged")) == "true" {
			filter[list+"ListChanged"] = true
		}
	}
	if len(uris) > 0 {
		filter["resourceSubscriptions"] = uris
	}
	b, _ := json.Marshal(filter) // strings and booleans cannot fail
	return b
}

// changed are the notifications for a client that may have missed some of those that it expects.
func changed(filter []byte) (ms []message) {
	for _, list := range [...]string{"tools", "prompts", "resources"} {
		if string(peek(filter, list+"ListChanged")) == "true" {
			ms = append(ms, newNotification("notifications/"+list+"/list_changed", nil))
		}
	}
	uris := peek(filter, "resourceSubscriptions")
	each(uris, func(_ []byte, from, to int) {
		ms = append(ms, newNotification("notifications/resources/updated", set([]byte("{}"), uris[from:to], "uri")))
	})
	return ms
}

func (t *translator) done(id string) {
	t.down = append(t.down, newResult(id, []byte("{}")))
}

func (t *translator) fail(id string, code int, sentence string) {
	t.down = append(t.down, errorReply(id, code, sentence, nil))
}

func cancelling(id string) message {
	return newNotification("notifications/cancelled", set([]byte("{}"), []byte(id), "requestId"))
}

// withoutTasks is capabilities less those that differ between the eras.
func withoutTasks(capabilities []byte) []byte {
	return set(set(capabilities, nil, "tasks"), nil, "extensions", tasksExtension)
}
