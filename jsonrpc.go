package main

// jsonrpc.go is the framing: texts in, messages out, and back. It does no I/O but to write what it is told to.
// A message's envelope is scanned by hand, in one pass that validates the whole text and decodes none of the
// payload; the bytes that arrived are the bytes that go on.
//
// What two parsers could read differently is refused: an envelope member that is there twice or in
// another case, an id that is neither string nor integer, text after the message,
// text that is not UTF-8.

import (
	"bufio"
	"bytes"
	"cmp"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"math/bits"
	"slices"
	"strings"
	"unicode/utf8"
)

const (
	maxDepth = 1000    // arrays and objects within each other, the message included
	maxToken = 1 << 10 // bytes of an id or a method as written: they are kept apart from the message
	maxBatch = 10_000  // elements of a batch: each costs more than its bytes
)

type kind uint8

const (
	request kind = iota + 1
	notification
	response
)

// A message is one JSON-RPC message whose payload nobody has decoded.
type message struct {
	raw         []byte  // the exact bytes of one JSON object, on one line; never written to again
	rest        []piece // what follows raw in a large result: nil where whole has been called, and in all else
	id          string  // the id token, spelt as idToken does, so that == compares type and value; "" if none or null
	idAt, idEnd int     // where the id stands in raw as it came; equal if there is none
	method      string
	as          string // when not "", the id token that is written instead
	facts       *facts // of a request
	charge      charge // what it holds of the memory budget
	kind        kind
	failed      bool // a response that carries error, not result
	safe        bool // set by the loop: may be sent again without proof that it was not
}

// facts are what the loop decides by in the params of a request, read while they are scanned: they can be large.
type facts struct {
	name  string // the tool, prompt or resource
	meta  []byte // _meta
	bound bool   // it continues an earlier exchange: inputResponses or requestState
}

// A badMessage says why a text is no message: code is -32700 where it is not JSON, -32600 where it is.
type badMessage struct {
	code int
	id   string // of the request that it was meant to be; "" if that cannot be told
	text string
}

func (e *badMessage) Error() string { return e.text }

func notJSON(at int, id string) error {
	return &badMessage{-32700, id, fmt.Sprintf("not valid JSON in UTF-8, or nested more than %d deep, at byte %d", maxDepth, at)}
}

// scan reads one message, which may have white space around it, and keeps a part of line as its raw. Its
// errors are *badMessage. The text is valid by RFC 8259 and UTF-8, or refused (JSON-RPC 2.0; MCP, base
// protocol, Messages).
func scan(line []byte) (message, error) { return scanText(stepper{b: line}) }

// scanText is scan of what s steps over. A message in several pieces has no raw yet, and nothing that was read of it
// counts but that it is a result, and its id.
func scanText(s stepper) (message, error) {
	const version, id, method, params, result, failure = 0, 1, 2, 3, 4, 5
	line := s.b
	envelope := members{names: [...]string{"jsonrpc", "id", "method", "params", "result", "error"}}
	inner := members{names: [...]string{"name", "uri", "_meta", "inputResponses", "requestState", ""}}
	end := s.all(func(key []byte, from, to int) { envelope.add(s.b, key, from, to) }, func(key []byte, from, to int) { inner.add(s.b, key, from, to) })

	var m message
	token, start := envelope.found, (&stepper{b: line}).space(0)
	odd := slices.Contains(envelope.odd[:], true)
	outcomes := min(len(token[method]), 1) + min(len(token[result]), 1) + min(len(token[failure]), 1) // each says what kind it is
	m.idAt = max(envelope.at[id]-start, 0)
	m.idEnd = m.idAt + len(token[id])
	var idOK, methodOK bool
	m.id, idOK = idToken(token[id])
	if len(token[method]) <= maxToken {
		m.method, methodOK = unquote(token[method])
	}
	m.failed = token[failure] != nil
	asked := m.id // an answer's id is the other side's, and of no use to this one
	if odd || token[result] != nil || m.failed || end < 0 && !methodOK {
		asked = ""
	}
	var trouble string
	switch {
	case end < 0:
		return message{}, notJSON(^end, asked)
	case at(line, start) != '{':
		trouble = "the message is not an object"
	case odd:
		trouble = "a member of the envelope is there twice, or in another case"
	case string(token[version]) != `"2.0"`:
		trouble = `the member "jsonrpc" is not "2.0"`
	case outcomes != 1:
		trouble = "the message needs exactly one of method, result and error"
	case m.failed && token[failure][0] != '{':
		trouble = "the error is not an object"
	case m.failed && (idOK || token[id] == nil || token[id][0] == 'n'), token[result] != nil && idOK:
		m.kind = response
	case token[method] != nil && !methodOK:
		trouble = "the method is not a string of reasonable length"
	case token[params] != nil && bytes.IndexByte([]byte("{[n"), token[params][0]) < 0: // null is common, and harmless
		trouble = "the params are neither object nor array"
	case methodOK && token[id] == nil:
		m.kind = notification
	case methodOK && idOK:
		m.kind = request
	default:
		trouble = "the id is not a string or integer of reasonable length"
	}
	if trouble != "" {
		return message{}, &badMessage{-32600, asked, trouble}
	}
	if m.kind == request {
		m.facts = &facts{meta: inner.get(2), bound: inner.get(3) != nil || inner.get(4) != nil}
		var named bool
		if m.facts.name, named = unquote(inner.get(0)); !named {
			m.facts.name, _ = unquote(inner.get(1))
		}
	}
	if !s.turned {
		for line[end-1] != '}' { // white space
			end--
		}
		m.raw = line[start:end:end]
	}
	return m, nil
}

// idToken returns the one spelling of an id that stands for all. Ids are strings or integers (MCP, base
// protocol, Requests); false for anything else, and for more than maxToken bytes.
func idToken(token []byte) (string, bool) {
	if len(token) == 0 || len(token) > maxToken || token[0] != '"' && len(bytes.Trim(token, "-0123456789")) > 0 || string(token) == `"` {
		return "", false
	}
	if bytes.IndexByte(token, '\\') < 0 {
		return string(token), true
	}
	s, ok := unquote(token)
	if !strings.ContainsFunc(s, func(c rune) bool { return c < ' ' || c == '"' || c == '\\' }) {
		return `"` + s + `"`, ok
	}
	canonical, _ := json.Marshal(s)
	return string(canonical), ok
}

// unquote decodes a string token; false if it is none.
func unquote(token []byte) (string, bool) {
	if len(token) < 2 || token[0] != '"' {
		return "", false
	}
	if bytes.IndexByte(token, '\\') < 0 {
		return string(token[1 : len(token)-1]), true
	}
	var s string
	err := json.Unmarshal(token, &s)
	return s, err == nil
}

// sameName compares a key, as a token, with an ASCII name: same is JSON's answer, alike that of a parser that
// ignores case, as Go's does.
func sameName(key []byte, name string) (same, alike bool) {
	if len(key) == len(name)+2 && string(key[1:len(key)-1]) == name {
		return true, true
	}
	s, _ := unquote(key)
	return s == name, strings.EqualFold(s, name)
}

// members are those of an object that have certain names.
type members struct {
	names [6]string
	found [6][]byte
	at    [6]int  // where they stand
	odd   [6]bool // there twice, or in another case
}

// add takes a member of an object in b.
func (s *members) add(b, key []byte, from, to int) {
	c := at(key, 1)
	for i, name := range s.names {
		if c < utf8.RuneSelf && c != '\\' && c != '"' && (name == "" || c|0x20 != name[0]|0x20) {
			continue // the quick answer, of nearly all
		}
		if same, alike := sameName(key, name); alike {
			s.odd[i] = s.odd[i] || s.found[i] != nil || !same
			s.found[i], s.at[i] = b[from:to:to], from
			return
		}
	}
}

// get is a member, nil if there is none, or two that are alike: who decides by it must not see another value than
// the server does.
func (s *members) get(i int) []byte {
	if s.odd[i] {
		return nil
	}
	return s.found[i]
}

// peek returns the token that path leads to through objects, without decoding anything; nil if there is none that
// is alone of its name.
func peek(raw []byte, path ...string) []byte {
	for _, name := range path {
		m := members{names: [6]string{name}}
		if each(raw, func(key []byte, from, to int) { m.add(raw, key, from, to) }) < 0 {
			return nil
		}
		raw = m.get(0)
	}
	return raw
}

// each steps over the value that b is, with white space around it, and calls f with each key token (nil in an
// array) and where its value stands. It returns len(b), or what the skip functions return for an error.
func each(b []byte, f visit) int { return (&stepper{b: b}).all(f, nil) }

type visit func(key []byte, from, to int)

// The skip functions step over one part of a JSON text (RFC 8259) that begins at b[i], and return the index
// after it. Where the text is not valid they return ^j, which is negative: j is the index of the offence.

// A stepper has those that go through what is nested. The text may be in several pieces: then the indices are those of
// the piece that it has come to.
type stepper struct {
	b      []byte
	own    bool                     // b may be changed: every line end between tokens becomes a space
	more   func(left []byte) []byte // the piece after b, with the end of b that is left before it; nil if there is none
	turned bool                     // b is not the first piece
}

// turn goes over to the next piece, and says whether there was one: what stood at i stands at 0.
func (s *stepper) turn(i int) bool {
	if s.more == nil {
		return false
	}
	next := s.more(s.b[i:])
	if next != nil {
		s.b, s.turned = next, true
	}
	return next != nil
}

// all is each, and calls inner with what is in the member "params".
func (s *stepper) all(f, inner visit) int {
	i := s.value(s.space(0), 0, f, inner)
	if i < 0 {
		return i
	}
	if i = s.space(i); i < len(s.b) {
		return ^i
	}
	return i
}

// at is b[i]; past the end it is NUL, which is valid nowhere.
func at(b []byte, i int) byte {
	if i < len(b) {
		return b[i]
	}
	return 0
}

func (s *stepper) space(i int) int {
	if i < len(s.b) && s.b[i] > ' ' {
		return i // nearly always
	}
	return s.blanks(i)
}

func (s *stepper) blanks(i int) int {
	for b := s.b; i < len(b) && (b[i] == ' ' || b[i] == '\n' || b[i] == '\r' || b[i] == '\t'); i++ {
		if s.own && b[i] != '\t' {
			b[i] = ' '
		}
	}
	if i == len(s.b) && s.turn(i) {
		return s.space(0)
	}
	return i
}

// value steps over a value within depth arrays and objects; f and inner, unless nil, are for all.
func (s *stepper) value(i, depth int, f, inner visit) int {
	switch at(s.b, i) {
	case '"':
		end := skipString(s.b, i)
		for end < 0 && len(s.b)-^end < escapeSize && s.turn(^end) {
			end = skipRest(s.b, 0)
		}
		return end
	case '{', '[':
		return s.nested(i, depth+1, f, inner)
	case 't', 'f', 'n':
		for _, word := range [...]string{"true", "false", "null"} {
			if bytes.HasPrefix(s.b[i:], []byte(word)) {
				return i + len(word)
			}
		}
		return ^i
	}
	return skipNumber(s.b, i)
}

func (s *stepper) nested(i, depth int, f, inner visit) int {
	if depth > maxDepth {
		return ^i
	}
	object, closing := s.b[i] == '{', s.b[i]+2
	if i = s.space(i + 1); at(s.b, i) == closing {
		return i + 1
	}
	for {
		for s.more != nil && len(s.b)-i < headroom && s.turn(i) { // what follows is in one piece then, unless it is long
			i = 0
		}
		var key []byte
		if object {
			end := skipString(s.b, i)
			if end < 0 {
				return end
			}
			key = s.b[i:end]
			if i = s.space(end); at(s.b, i) != ':' {
				return ^i
			}
			i = s.space(i + 1)
		}
		below := inner
		if string(key) != `"params"` {
			below = nil
		}
		piece := s.b
		end := s.value(i, depth, below, nil)
		if end < 0 {
			return end
		}
		if f != nil {
			if &piece[0] != &s.b[0] {
				i = end - 1 // of a value in several pieces, the last byte
			}
			f(key, i, end)
		}
		switch i = s.space(end); at(s.b, i) {
		case closing:
			return i + 1
		case ',':
			i = s.space(i + 1)
		default:
			return ^i
		}
	}
}

func skipNumber(b []byte, i int) int {
	if at(b, i) == '-' {
		i++
	}
	end := skipDigits(b, i)
	if at(b, i) == '0' {
		end = i + 1
	}
	if end > i && at(b, end) == '.' {
		i = end + 1
		end = skipDigits(b, i)
	}
	if end > i && at(b, end)|0x20 == 'e' {
		i = end + 1
		if c := at(b, i); c == '+' || c == '-' {
			i++
		}
		end = skipDigits(b, i)
	}
	if end == i {
		return ^i
	}
	return end
}

func skipDigits(b []byte, i int) int {
	for at(b, i)-'0' < 10 {
		i++
	}
	return i
}

// skipString accepts a string that is valid UTF-8 only, which RFC 8259 asks for and few parsers check. Where b ends
// before the string does, the offence is a character or an escape that begins in the last escapeSize-1 bytes.
func skipString(b []byte, i int) int {
	if at(b, i) != '"' {
		return ^i
	}
	return skipRest(b, i+1)
}

const escapeSize = 6 // bytes of the longest part of a string that is not to be taken apart: \uXXXX

// skipRest is skipString from the middle of the string.
func skipRest(b []byte, i int) int {
	for {
		i = skipPlain(b, i)
		switch c := at(b, i); {
		case c == '"':
			return i + 1
		case c >= utf8.RuneSelf:
			for at(b, i) >= utf8.RuneSelf {
				r, n := utf8.DecodeRune(b[i:])
				if r == utf8.RuneError && n == 1 {
					return ^i
				}
				i += n
			}
		case c != '\\':
			return ^i
		case at(b, i+1) == 'u':
			for j := i + 2; j < i+escapeSize; j++ {
				if c := at(b, j); c-'0' >= 10 && (c|0x20)-'a' >= 6 {
					return ^i
				}
			}
			i += escapeSize
		case strings.IndexByte(`"\/bfnrt`, at(b, i+1)) < 0:
			return ^i
		default:
			i += 2
		}
	}
}

// skipPlain steps over the bytes of a string that mean themselves, eight at a time, and over most short escapes and
// characters of two or three bytes among them.
func skipPlain(b []byte, i int) int {
	for len(b)-i >= 8 {
		x := binary.LittleEndian.Uint64(b[i:])
		stop := stops(x)
		if stop == 0 {
			i += 8
			continue
		}
		if n := bits.TrailingZeros64(stop) / 8; byte(x>>(8*n)) == '"' {
			return i + n // nearly always, in what is short
		}
		n := plainFrom(x, stop)
		if n == 0 {
			return i
		}
		i += n
	}
	for i < len(b) && plain(b[i]) {
		i++
	}
	return i
}

// stops has the high bit of each byte set where x has a control character, a quote, a backslash or what is not ASCII.
// A borrow sets some more, but only behind one of these, and clears none.
func stops(x uint64) uint64 {
	const ones, highs = 0x0101010101010101, 0x8080808080808080
	return (((x ^ ones*2) - ones*('"'-1)) | ((x ^ ones*'\\') - ones) | x) & highs // 2 makes a quote a blank, the next to the controls
}

// plainFrom is how many of the eight bytes skipPlain steps over.
func plainFrom(x, stop uint64) int {
	for stop != 0 {
		at := bits.TrailingZeros64(stop) &^ 7
		stop &= stop - 1
		switch c := x >> at; {
		case c&0xffff == '\\'|'n'<<8, c&0xffff == '\\'|'t'<<8, c&0xffff == '\\'|'r'<<8:
		case c&0xffff == '\\'|'"'<<8, c&0xffff == '\\'|'\\'<<8, // what is escaped is a stop itself
			c&0xc0e0 == 0x80c0 && c&0x1e != 0: // U+0080 to U+07FF
			stop &= stop - 1
		case c&0xc0c0f0 == 0x8080e0 && byte(c) != 0xe0 && byte(c) != 0xed: // most of U+1000 to U+FFFF
			stop &= stop - 1
			stop &= stop - 1
		case !plain(byte(c)): // it may be complete in the next eight
			return at / 8
		}
	}
	return 8
}

func plain(c byte) bool { return c >= ' ' && c < utf8.RuneSelf && c != '"' && c != '\\' }

// isBatch says whether text, if it is JSON at all, is an array.
func isBatch(text []byte) bool { return at(text, (&stepper{b: text}).space(0)) == '[' }

// scanAll reads one message, or an array of messages (MCP 2025-03-26, base protocol, Batching). bad has a
// *badMessage for each element that is none, or one for the whole: not valid, empty, or more than maxBatch
// elements.
func scanAll(text []byte, own bool) (msgs []message, bad []error) {
	take := func(text []byte) {
		if m, err := scanText(stepper{b: text, own: own}); err != nil {
			bad = append(bad, err)
		} else {
			msgs = append(msgs, m)
		}
	}
	if !isBatch(text) {
		take(text)
		return msgs, bad
	}
	n := 0
	end := (&stepper{b: text, own: own}).all(func(_ []byte, from, to int) {
		if n++; n <= maxBatch {
			take(text[from:to])
		}
	}, nil)
	switch {
	case end < 0:
		return nil, []error{notJSON(^end, "")}
	case n == 0 || n > maxBatch:
		return nil, []error{&badMessage{-32600, "", fmt.Sprintf("a batch has 1 to %d messages", maxBatch)}}
	}
	return msgs, bad
}

// withID returns m as it is written with another id token, whether it has one or not; raw is shared.
func (m message) withID(id string) message {
	m.as = id
	return m
}

// token is the id token under which m is written.
func (m message) token() string { return cmp.Or(m.as, m.id) }

// parts are what is written of m, one after the other.
func (m message) parts() (before []byte, id string, after []byte) {
	switch {
	case m.as == "":
		return m.raw, "", nil
	case m.idAt == m.idEnd:
		return m.raw[:1], `"id":` + m.as + ",", m.raw[1:]
	}
	return m.raw[:m.idAt], m.as, m.raw[m.idEnd:]
}

// size is the number of bytes that body yields.
func (m message) size() int {
	before, id, after := m.parts()
	return len(before) + len(id) + len(after)
}

// body reads the message as it goes over the wire, without a final newline. It is whole.
func (m message) body() io.Reader {
	if m.as == "" {
		return bytes.NewReader(m.raw) // net/http copies what has several parts through buffers of 32 KiB
	}
	before, id, after := m.parts()
	return io.MultiReader(bytes.NewReader(before), strings.NewReader(id), bytes.NewReader(after))
}

// writeLine writes the message and a newline.
func (m message) writeLine(w *bufio.Writer) error {
	before, id, after := m.parts()
	w.Write(before)
	w.WriteString(id)
	w.Write(after)
	for _, p := range m.rest {
		w.Flush() // so that the piece is not copied into what is left of the buffer
		w.Write(p.bytes())
	}
	return w.WriteByte('\n') // a bufio.Writer keeps its first error
}

// newRequest makes a request with an id token; params may be nil, and are valid JSON on one line.
func newRequest(id, method string, params json.RawMessage) message {
	return compose(id, method, "params", params)
}

// newNotification makes a notification; params as with newRequest.
func newNotification(method string, params json.RawMessage) message {
	return compose("", method, "params", params)
}

// newResult makes a response that succeeded.
func newResult(id string, result json.RawMessage) message { return compose(id, "", "result", result) }

// compose makes a message of what is not empty, all of which is valid.
func compose(id, method, name string, value []byte) message {
	b := []byte(`{"jsonrpc":"2.0"`)
	if id != "" {
		b = append(b, `,"id":`+id...)
	}
	if method != "" {
		b = append(b, `,"method":"`+method+`"`...)
	}
	if value != nil {
		b = append(append(b, `,"`+name+`":`...), value...)
	}
	m, _ := scan(append(b, '}'))
	return m
}
