package main

// stateless.go speaks Streamable HTTP of 2026-07-28: every request is a POST of its own whose headers mirror
// the body, nothing is resumed, and closing a response is its cancellation. There is no session: what is
// remembered is only which arguments of a tool this server wants mirrored (x-mcp-header).
//
// It opens no connection of its own. It repeats an exchange in two cases only, once each, where the server has
// proved with 400 that it did not act (MCP 2026-07-28 streamable-http, Server Validation): -32020 to a
// tools/call, after the tools have been listed again, and -32022 that lists the very version asked for. With
// any other version the client may choose from the list itself.
//
// At its end stands the small surgery on JSON that leaves every other byte alone, for all who rewrite messages.

import (
	"bytes"
	"cmp"
	"context"
	"encoding/base64"
	"errors"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
)

const (
	modernVersion = "2026-07-28"
	metaVersion   = "io.modelcontextprotocol/protocolVersion"
	annotation    = "x-mcp-header"

	maxWalk      = 8 << 20 // bytes that are read of one: each level reads again all that is below
	maxSchemas   = 1 << 20 // bytes of input schemas that are remembered for mirroring
	maxMirrors   = 100     // arguments of one tool that are mirrored: servers take no more headers
	maxListPages = 50      // pages of tools/list that are read to repair one call
)

// newStateless returns a transport for a server of 2026-07-28.
//
// post takes the protocol version from the message's own _meta, and the names and arguments to mirror from its
// params. The loop never posts notifications/cancelled or a response: the era has none on HTTP; ending the
// exchange cancels it. A response always comes with the id that was posted, since it is the exchange that
// tells what it answers. A 4xx with a JSON-RPC body, 404 with -32601 among them, is an *exchangeError
// with that body like any other status; a stream that ends before the response is unknown. Tools whose
// x-mcp-header is against the rules are taken out of every tools/list result that passes, with a warning.
//
// listen always fails with final: subscriptions/listen is an ordinary request whose stream stays open. hangup
// has nothing to end.
func newStateless(w *wire) transport {
	s := &stateless{wire: w}
	s.schemas.Store(&map[string][]byte{})
	return s
}

type stateless struct {
	*wire

	// What the tool lists said, for the exchanges that run concurrently: replaced as a whole, never changed.
	schemas atomic.Pointer[map[string][]byte] // inputSchema of each tool that wants arguments in headers, by name
}

func (s *stateless) listen(context.Context, string, *progress, func(), receive) error {
	return &exchangeError{fate: final, err: errors.New("a server of " + modernVersion + " has no stream of its own")}
}

func (s *stateless) id() secret { return secret{} }

func (s *stateless) hangup(context.Context) error { return nil }

func (s *stateless) post(ctx context.Context, m message, p *progress, recv receive) error {
	err := s.send(ctx, m, p, recv)
	supported := peek(rejection(err, "-32022"), "data", "supported")
	if bytes.Contains(supported, []byte(`"`+modernVersion+`"`)) && versionOf(m) == modernVersion {
		err = s.send(ctx, m, p, recv)
	}
	if rejection(err, "-32020") != nil && m.method == "tools/call" && s.relist(ctx, m, p) == nil {
		err = s.send(ctx, m, p, recv)
	}
	return err
}

// rejection is the JSON-RPC error of a server that did not act, if it has that code; nil if not.
func rejection(err error, code string) []byte {
	e, ok := errors.AsType[*exchangeError](err)
	if ok && e.status == http.StatusBadRequest && string(peek(e.body, "error", "code")) == code {
		return peek(e.body, "error")
	}
	return nil
}

// versionOf is the protocol version that m says. The server says what it thinks of a message without one.
func versionOf(m message) string {
	version, _ := unquote(peek(m.raw, "params", "_meta", metaVersion))
	return cmp.Or(version, modernVersion)
}

// relist learns the tools anew on behalf of a call that was rejected. The call's id is free: it was answered.
func (s *stateless) relist(ctx context.Context, call message, p *progress) error {
	params := set([]byte(`{"_meta":{}}`), set(peek(call.raw, "params", "_meta"), nil, "progressToken"), "_meta")
	for range maxListPages {
		page := newRequest(call.token(), "tools/list", params)
		page.safe = true
		var cursor []byte
		err := s.send(ctx, page, p, func(m message) error {
			cursor = bytes.Clone(peek(m.raw, "result", "nextCursor"))
			s.mem.free(m.charge)
			return nil
		})
		if err != nil || at(cursor, 0) != '"' {
			return err
		}
		params = set(params, cursor, "cursor")
	}
	return nil
}

// send performs one exchange.
func (s *stateless) send(ctx context.Context, m message, p *progress, recv receive) error {
	return s.exchange(ctx, http.MethodPost, s.url, s.headers(m), &m, false, p, func(resp *http.Response) error {
		switch {
		case m.kind != request:
			return accepted(resp)
		case resp.StatusCode == http.StatusAccepted:
			return &exchangeError{fate: unknown, status: resp.StatusCode, err: errors.New("the server accepted the request, and answers nowhere else")}
		}
		err := s.answer(ctx, resp, func(got message) error {
			if got.kind == request { // the era has none, and no way to answer one
				s.mem.free(got.charge)
				return nil
			}
			if got.kind != response {
				return recv(got)
			}
			if m.method == "tools/list" {
				got = s.learn(got.whole(), at(peek(m.raw, "params", "cursor"), 0) != '"')
			}
			return cmp.Or(recv(got.under(m.token())), errEnough)
		})
		if e, ok := errors.AsType[*exchangeError](err); ok && e.fate == cut {
			e.fate = unknown // event ids mean nothing here: there is no resumption
		}
		return err
	})
}

// nameOf is the parameter that Mcp-Name mirrors; of tools/call and prompts/get it is name, and other methods have none.
var nameOf = map[string]string{"resources/read": "uri", "tasks/get": "taskId", "tasks/update": "taskId", "tasks/cancel": "taskId"}

// headers mirrors m as MCP 2026-07-28 streamable-http, Request Metadata wants it.
func (s *stateless) headers(m message) http.Header {
	h := http.Header{
		"Content-Type":         {jsonType},
		"Accept":               {jsonType + ", " + eventStream},
		"Mcp-Protocol-Version": {headerValue(versionOf(m))},
		"Mcp-Method":           {headerValue(m.method)},
	}
	name, ok := unquote(peek(m.raw, "params", cmp.Or(nameOf[m.method], "name")))
	if ok {
		h["Mcp-Name"] = []string{headerValue(name)}
	}
	if m.method == "tools/call" && ok {
		arguments := peek(m.raw, "params", "arguments")
		for header, path := range mirrors((*s.schemas.Load())[name]).found {
			if v, ok := argument(peek(arguments, path...)); ok {
				h[header] = []string{headerValue(v)}
			}
		}
	}
	return h
}

// argument is a tool's argument as a header holds it. null, objects, arrays and numbers that are no safe
// integers are not mirrored; the server says if it minds.
func argument(token []byte) (string, bool) {
	if s, ok := unquote(token); ok {
		return s, true
	}
	if t := string(token); t == "true" || t == "false" {
		return t, true
	}
	const safe = 1<<53 - 1 // of JavaScript
	f, err := strconv.ParseFloat(string(token), 64)
	if err != nil || f < -safe || f > safe || f != float64(int64(f)) {
		return "", false
	}
	return strconv.FormatInt(int64(f), 10), true
}

// headerValue encodes v so that it is safe in a header and comes back the same (streamable-http, Value
// Encoding). Tabs are encoded too, which the text leaves open and the conformance suite demands.
func headerValue(v string) string {
	const begin, end = "=?base64?", "?="
	odd := func(c rune) bool { return c < ' ' || c > '~' }
	if strings.ContainsFunc(v, odd) || strings.TrimSpace(v) != v || strings.HasPrefix(v, begin) && strings.HasSuffix(v, end) {
		return begin + base64.StdEncoding.EncodeToString([]byte(v)) + end
	}
	return v
}

// learn notes what a tools/list result wants mirrored and takes out the tools that want it wrongly. first says
// that a new listing begins, so that what was known is void.
func (s *stateless) learn(m message, first bool) message {
	schemas, size := map[string][]byte{}, 0
	if !first {
		schemas = maps.Clone(*s.schemas.Load())
	}
	for name, schema := range schemas {
		size += len(name) + len(schema)
	}
	m = editTools(m, func(tool []byte) []byte {
		if !bytes.Contains(tool, []byte(annotation)) && !bytes.Contains(tool, []byte(`\u`)) {
			return tool // neither by its name nor by an escape in it
		}
		name, _ := unquote(peek(tool, "name"))
		schema := peek(tool, "inputSchema")
		w := mirrors(schema)
		if len(w.found) > 0 {
			schemas[name] = bytes.Clone(schema)
			if size += len(name) + len(schema); size > maxSchemas {
				w.bad = "the tools of this server want too many headers"
			}
		}
		if w.bad != "" {
			delete(schemas, name)
			s.log.Warn("hiding a tool with a bad x-mcp-header", "tool", clean(name), "reason", w.bad)
			return nil
		}
		return tool
	})
	s.schemas.Store(&schemas)
	return m
}

// A walk goes through one inputSchema. References are not followed, so that there are no cycles, and scan has
// bounded the depth.
type walk struct {
	found map[string][]string // the arguments that the server wants to see in headers: paths of property names, by header
	bad   string              // what is against the rules; "" if nothing
	read  int                 // bytes
}

// mirrors finds what a schema wants mirrored.
func mirrors(schema []byte) walk {
	w := walk{found: map[string][]string{}}
	w.schema(schema, nil, true)
	return w
}

// schema looks at the schema, or list of schemas, at path; reachable says that only properties keywords lead
// there from the root (streamable-http, Schema Extension).
func (w *walk) schema(node []byte, path []string, reachable bool) {
	if w.read += len(node); w.read > maxWalk {
		w.bad = "its schema is too large"
		return
	}
	each(node, func(key []byte, from, to int) {
		value := node[from:to]
		switch keyword, _ := unquote(key); keyword {
		case annotation:
			kind, _ := unquote(peek(node, "type"))
			w.annotation(value, kind, path, reachable)
		case "const", "enum", "default", "examples":
		case "properties", "patternProperties", "$defs", "definitions", "dependentSchemas":
			each(value, func(name []byte, from, to int) { // these names are the server's, not keywords
				property, _ := unquote(name)
				w.schema(value[from:to], append(path, property), reachable && keyword == "properties")
			})
		default:
			w.schema(value, nil, false)
		}
	})
}

func (w *walk) annotation(value []byte, kind string, path []string, reachable bool) {
	const token = "!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
	name, _ := unquote(value)
	header := http.CanonicalHeaderKey("Mcp-Param-" + name)
	switch {
	case !reachable || len(path) == 0:
		w.bad = "it stands where no argument can be read"
	case strings.Trim(name, token) != "" || name == "":
		w.bad = "it is not a header name"
	case kind != "string" && kind != "integer" && kind != "boolean":
		w.bad = "it stands at an argument that is no string, integer or boolean"
	case w.found[header] != nil:
		w.bad = "it names the same header twice"
	case len(w.found) == maxMirrors:
		w.bad = "it is used too often"
	default:
		w.found[header] = slices.Clone(path)
	}
}

// editTools returns the response m with every tool of its result replaced by what edit makes of it, nil for
// nothing. m itself comes back if edit changed none. Of tools that are there twice, or in another case, none stay:
// two parsers could see different ones.
func editTools(m message, edit func(tool []byte) []byte) message {
	result, found := peek(m.raw, "result"), members{names: [6]string{"tools"}}
	each(result, func(key []byte, from, to int) { found.add(result, key, from, to) })
	tools := found.found[0]
	if found.odd[0] {
		return m.rewritten(set(m.raw, []byte(`{"tools":[]}`), "result"))
	}
	if at(tools, 0) != '[' {
		return m
	}
	var kept [][]byte
	changed := false
	each(tools, func(_ []byte, from, to int) {
		tool := edit(tools[from:to:to])
		changed = changed || !bytes.Equal(tool, tools[from:to])
		if tool != nil {
			kept = append(kept, tool)
		}
	})
	if !changed {
		return m
	}
	list := slices.Concat([]byte{'['}, bytes.Join(kept, []byte{','}), []byte{']'})
	return m.rewritten(set(m.raw, list, "result", "tools"))
}

// under is a response as the answer to the request with that id.
func (m message) under(id string) message {
	if m.token() != id {
		m = m.whole()
		m.as = id
	}
	m.id = id
	return m
}

// set returns an object in which the member at path has the given value, in a copy; objects that lead there are
// made where they are missing. Names are of letters, nil removes the member. The other members stay, byte for byte.
func set(raw, value []byte, path ...string) []byte {
	name := path[0]
	if value == nil && peek(raw, path...) == nil {
		return raw
	}
	if len(path) > 1 {
		value = set(peek(raw, name), value, path[1:]...)
	}
	raw = object(raw)
	out := append(make([]byte, 0, len(raw)+len(name)+len(value)+len(`{"":,}`)), '{')
	add := func(key, value []byte) {
		if len(out) > 1 {
			out = append(out, ',')
		}
		out = append(append(append(out, key...), ':'), value...)
	}
	each(raw, func(key []byte, from, to int) {
		here := raw[from:to]
		if same, _ := sameName(key, name); same {
			here, value = value, nil
		}
		if here != nil {
			add(key, here)
		}
	})
	if value != nil {
		add([]byte(`"`+name+`"`), value)
	}
	return append(out, '}')
}

// object is a token that is an object, or an empty one in its place.
func object(token []byte) []byte {
	if at(token, 0) != '{' {
		return []byte("{}")
	}
	return token
}

// connect makes the transport for a new session.
func (w *wire) connect(k transportKind) transport {
	return [...]func(*wire) transport{newStreamable, kindStreamable: newStreamable, kindSSE: newSSE, kindStateless: newStateless}[k](w)
}
