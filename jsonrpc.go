package main

// jsonrpc.go is the framing: lines and bodies in, messages out, and back. It reads and writes what it is
// given, and opens nothing. A message's envelope is scanned by hand, in one pass that validates the whole
// text and decodes none of the payload; the bytes that arrived are the bytes that go on.
//
// What is refused here is what two parsers could read differently: a repeated envelope member, one that
// differs from an envelope member only in case or is written with escapes, ids that are not strings or
// integers, text after the message, text that is not UTF-8. Everything that is held is bounded in bytes,
// and charged to the budget before it is held.

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/bits"
	"slices"
	"strings"
	"sync"
	"unicode/utf8"
)

const (
	maxDepth = 1000     // arrays and objects within each other, the message included
	maxToken = 1 << 10  // bytes of an id or a method as written: they are kept apart from the message
	maxBatch = 10_000   // elements of a batch: each costs more than its bytes
	maxHead  = 64 << 10 // bytes kept of a line that is too large, for the sake of its id
)

type kind uint8

const (
	request kind = iota + 1
	notification
	response
)

// A message is one JSON-RPC message whose payload nobody has decoded.
type message struct {
	raw         []byte // the exact bytes of one JSON object, on one line; never written to again
	kind        kind
	id          string // the id token in its canonical spelling, so that == compares type and value; "" if none or null
	idAt, idEnd int    // where the id stands in raw as it was spelt; equal if there is none
	method      string
	failed      bool   // a response that carries error, not result
	as          string // when not "", what is written in place of raw[idAt:idEnd]
	safe        bool   // set by the loop: may be sent again without proof that it was not
	charge      charge // what it holds of the memory budget
}

// A badMessage says why a text is no message: -32700 where it is not JSON, -32600 where it is.
type badMessage struct {
	code int
	id   string // of the request that it was meant to be; "" if that cannot be told
	text string
}

func (e *badMessage) Error() string { return e.text }

// A field is one member of the envelope; several make a set.
type field uint8

const (
	hasVersion field = 1 << iota
	hasID
	hasMethod
	hasParams
	hasResult
	hasError
	ambiguous
)

// fieldOf names the envelope member that key, a string token, stands for; 0 if none.
func fieldOf(key []byte) field {
	switch string(key) {
	case `"jsonrpc"`:
		return hasVersion
	case `"id"`:
		return hasID
	case `"method"`:
		return hasMethod
	case `"params"`:
		return hasParams
	case `"result"`:
		return hasResult
	case `"error"`:
		return hasError
	}
	for _, name := range [...]string{"jsonrpc", "id", "method", "params", "result", "error"} {
		if _, alike := sameName(key, name); alike {
			return ambiguous
		}
	}
	return 0
}

// sameName compares key, a string token, with a name: same is JSON's answer, alike that of a parser that
// ignores case, as Go's does.
func sameName(key []byte, name string) (same, alike bool) {
	key = key[1 : len(key)-1]
	if string(key) == name {
		return true, true
	}
	if bytes.IndexByte(key, '\\') >= 0 {
		s, _ := unquote([]byte(`"` + string(key) + `"`))
		return s == name, strings.EqualFold(s, name)
	}
	return false, bytes.EqualFold(key, []byte(name))
}

// scan reads one message, which may have white space around it, and keeps a part of line as its raw. Its
// errors are *badMessage. The text is valid by RFC 8259 and UTF-8, or refused (JSON-RPC 2.0; MCP, base
// protocol, Messages).
func scan(line []byte) (message, error) {
	m, err := scanEnvelope(line)
	if err == nil && !utf8.Valid(line) {
		err = &badMessage{-32700, m.id, "the message is not valid UTF-8"}
	}
	return m, err
}

// scanEnvelope is scan for a text that is known to be UTF-8.
func scanEnvelope(b []byte) (message, error) {
	var (
		m       message
		seen    field
		trouble string
	)
	start := skipSpace(b, 0)
	if at(b, start) != '{' {
		if end := skipText(b); end < 0 {
			return m, notJSON(^end, "")
		}
		return m, &badMessage{-32600, "", "the message is not an object"}
	}
	end := members(b, start, 1, func(key []byte, from, to int) {
		val, f, ok := b[from:to], fieldOf(key), true
		if f == ambiguous || seen&f != 0 {
			trouble, m.id = "an envelope member is repeated, or not spelt plainly", ""
			return
		}
		seen |= f
		switch f {
		case hasVersion:
			ok = string(val) == `"2.0"`
		case hasID:
			m.idAt, m.idEnd = from-start, to-start
			if string(val) != "null" {
				m.id, ok = idToken(val)
			}
		case hasMethod:
			m.method, ok = methodName(val)
		case hasParams: // null is not allowed, but is common and harmless
			ok = val[0] == '{' || val[0] == '[' || val[0] == 'n'
		case hasError:
			ok = val[0] == '{'
		}
		if !ok && trouble == "" {
			trouble = "the value of " + string(key) + " is not what JSON-RPC 2.0 allows"
		}
	})
	id := m.id
	if seen&(hasResult|hasError) != 0 {
		id = "" // an answer: the id is the other side's
	}
	if end >= 0 {
		m.raw = b[start:end:end]
		if end = skipSpace(b, end); end != len(b) {
			end = ^end
		}
	}
	if end < 0 {
		if seen&hasMethod == 0 || trouble != "" {
			id = ""
		}
		return message{}, notJSON(^end, id)
	}
	switch outcome := seen & (hasMethod | hasResult | hasError); {
	case trouble != "":
	case seen&hasVersion == 0:
		trouble = `the member "jsonrpc" is missing`
	case outcome == hasMethod && seen&hasID == 0:
		m.kind = notification
	case outcome == hasMethod && m.id != "":
		m.kind = request
	case outcome == hasResult && m.id != "", outcome == hasError:
		m.kind, m.failed = response, outcome == hasError
	case outcome == hasMethod, outcome == hasResult:
		trouble = "the id is missing or null"
	default:
		trouble = "the message needs exactly one of method, result and error"
	}
	if trouble != "" {
		return message{}, &badMessage{-32600, id, trouble}
	}
	return m, nil
}

func notJSON(at int, id string) error {
	return &badMessage{-32700, id, fmt.Sprintf("not valid JSON, or nested more than %d deep, at byte %d", maxDepth, at)}
}

// idToken returns the canonical spelling of an id token. Ids are strings or integers (MCP, base protocol,
// Requests) of at most maxToken bytes; false for anything else.
func idToken(token []byte) (string, bool) {
	switch {
	case len(token) == 0 || len(token) > maxToken:
		return "", false
	case token[0] != '"':
		if string(token) == "-0" {
			return "0", true
		}
		return string(token), (token[0] == '-' || token[0]-'0' < 10) && !bytes.ContainsAny(token, ".eE")
	case !bytes.ContainsAny(token, `\<>&`) && !slices.ContainsFunc(token, func(c byte) bool { return c > '~' }):
		return string(token), true
	}
	// What encoding/json would escape has more than one spelling: its own is the canonical one.
	s, ok := unquote(token)
	canonical, _ := json.Marshal(s)
	return string(canonical), ok
}

// methodName decodes a method; the frequent ones cost no allocation.
func methodName(token []byte) (string, bool) {
	switch string(token) {
	case `"tools/call"`:
		return "tools/call", true
	case `"notifications/progress"`:
		return "notifications/progress", true
	case `"notifications/message"`:
		return "notifications/message", true
	case `"notifications/cancelled"`:
		return "notifications/cancelled", true
	case `"ping"`:
		return "ping", true
	case `"tools/list"`:
		return "tools/list", true
	case `"resources/read"`:
		return "resources/read", true
	case `"prompts/get"`:
		return "prompts/get", true
	case `"completion/complete"`:
		return "completion/complete", true
	}
	if len(token) > maxToken {
		return "", false
	}
	return unquote(token)
}

// unquote decodes a JSON string token; false if it is none.
func unquote(token []byte) (string, bool) {
	if skipString(token, 0) != len(token) {
		return "", false
	}
	if bytes.IndexByte(token, '\\') < 0 {
		return string(token[1 : len(token)-1]), true
	}
	var s string
	err := json.Unmarshal(token, &s)
	return s, err == nil
}

// peek returns the token that path leads to through objects, without decoding anything; nil if there is
// none, or if a name on the way is there twice or differs from another only in case: whoever decides by
// what peek returns must not decide by another value than the one a server takes.
func peek(raw []byte, path ...string) []byte {
	for _, name := range path {
		var found []byte
		var n int
		end := members(raw, skipSpace(raw, 0), 1, func(key []byte, from, to int) {
			same, alike := sameName(key, name)
			if same {
				found = raw[from:to:to]
			}
			if alike {
				n++
			}
		})
		if end < 0 || n != 1 || found == nil {
			return nil
		}
		raw = found
	}
	return raw
}

// The functions that follow step over one part of a JSON text (RFC 8259) that begins at b[i] and return
// the index after it. Where the text is not valid they return ^j, which is negative, with the offending index j.

// at is b[i], and NUL past the end, which is valid nowhere.
func at(b []byte, i int) byte {
	if i < len(b) {
		return b[i]
	}
	return 0
}

func skipSpace(b []byte, i int) int {
	for i < len(b) && (b[i] == ' ' || b[i] == '\n' || b[i] == '\r' || b[i] == '\t') {
		i++
	}
	return i
}

// skipText steps over a value with white space around it that is all of b.
func skipText(b []byte) int {
	end := skipValue(b, skipSpace(b, 0), 0)
	if end < 0 {
		return end
	}
	if end = skipSpace(b, end); end != len(b) {
		return ^end
	}
	return end
}

// skipValue steps over a value that depth arrays and objects enclose.
func skipValue(b []byte, i, depth int) int {
	switch c := at(b, i); c {
	case '"':
		return skipString(b, i)
	case '{':
		return members(b, i, depth+1, nil)
	case '[':
		return elements(b, i, depth+1, nil)
	case 't':
		return skipWord(b, i, "true")
	case 'f':
		return skipWord(b, i, "false")
	case 'n':
		return skipWord(b, i, "null")
	}
	return skipNumber(b, i)
}

// members steps over an object, itself the depth-th, and calls f, unless nil, with each key token and
// where its value stands.
func members(b []byte, i, depth int, f func(key []byte, from, to int)) int {
	if at(b, i) != '{' || depth > maxDepth {
		return ^i
	}
	if i = skipSpace(b, i+1); at(b, i) == '}' {
		return i + 1
	}
	for {
		key := i
		if i = skipString(b, i); i < 0 {
			return i
		}
		keyEnd := i
		if i = skipSpace(b, i); at(b, i) != ':' {
			return ^i
		}
		from := skipSpace(b, i+1)
		if i = skipValue(b, from, depth); i < 0 {
			return i
		}
		if f != nil {
			f(b[key:keyEnd], from, i)
		}
		i = skipSpace(b, i)
		switch at(b, i) {
		case '}':
			return i + 1
		case ',':
			i = skipSpace(b, i+1)
		default:
			return ^i
		}
	}
}

// elements is members for an array.
func elements(b []byte, i, depth int, f func(from, to int)) int {
	if at(b, i) != '[' || depth > maxDepth {
		return ^i
	}
	if i = skipSpace(b, i+1); at(b, i) == ']' {
		return i + 1
	}
	for {
		from := i
		if i = skipValue(b, i, depth); i < 0 {
			return i
		}
		if f != nil {
			f(from, i)
		}
		i = skipSpace(b, i)
		switch at(b, i) {
		case ']':
			return i + 1
		case ',':
			i = skipSpace(b, i+1)
		default:
			return ^i
		}
	}
}

func skipWord(b []byte, i int, word string) int {
	if !bytes.HasPrefix(b[i:], []byte(word)) {
		return ^i
	}
	return i + len(word)
}

func skipNumber(b []byte, i int) int {
	if at(b, i) == '-' {
		i++
	}
	end := i + 1
	if at(b, i) != '0' {
		if end = skipDigits(b, i); end == i {
			return ^i
		}
	}
	i = end
	if at(b, i) == '.' {
		if end = skipDigits(b, i+1); end == i+1 {
			return ^end
		}
		i = end
	}
	if at(b, i)|0x20 == 'e' {
		i++
		if c := at(b, i); c == '+' || c == '-' {
			i++
		}
		if end = skipDigits(b, i); end == i {
			return ^end
		}
	}
	return end
}

func skipDigits(b []byte, i int) int {
	for at(b, i)-'0' < 10 {
		i++
	}
	return i
}

func skipString(b []byte, i int) int {
	if at(b, i) != '"' {
		return ^i
	}
	for i++; ; {
		i = skipPlain(b, i)
		switch at(b, i) {
		case '"':
			return i + 1
		case '\\':
			switch at(b, i+1) {
			case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
				i += 2
			case 'u':
				for end := i + 6; i < end; i++ { // the first two are known
					if c := at(b, i); i >= end-4 && c-'0' >= 10 && (c|0x20)-'a' >= 6 {
						return ^i
					}
				}
			default:
				return ^i
			}
		default:
			return ^i
		}
	}
}

// skipPlain steps over the bytes of a string that mean themselves, eight at a time: a byte of stop has
// its high bit set where x has a control character, a quote or a backslash. Lower bytes are exact; a
// borrow can spoil only what follows the first hit.
func skipPlain(b []byte, i int) int {
	const ones, highs = 0x0101010101010101, 0x8080808080808080
	for len(b)-i >= 8 {
		x := binary.LittleEndian.Uint64(b[i:])
		stop := ((x - ones*' ') | ((x ^ ones*'"') - ones) | ((x ^ ones*'\\') - ones)) &^ x & highs
		if stop != 0 {
			return i + bits.TrailingZeros64(stop)/8
		}
		i += 8
	}
	for i < len(b) && b[i] >= ' ' && b[i] != '"' && b[i] != '\\' {
		i++
	}
	return i
}

// isBatch says whether text, if it is JSON at all, is an array.
func isBatch(text []byte) bool { return at(text, skipSpace(text, 0)) == '[' }

// scanBatch splits an array into its messages (MCP 2025-03-26, base protocol, Batching). Elements that are no
// message are left out and reported in bad; err is for the array as a whole: it is not valid, empty, or
// has more than maxBatch elements. All are *badMessage.
func scanBatch(text []byte) (msgs []message, bad []error, err error) {
	if end := skipText(text); end < 0 {
		return nil, nil, notJSON(^end, "")
	}
	if !utf8.Valid(text) {
		return nil, nil, &badMessage{-32700, "", "the batch is not valid UTF-8"}
	}
	n := 0
	elements(text, skipSpace(text, 0), 1, func(from, to int) {
		if n++; n > maxBatch {
			return
		}
		m, err := scanEnvelope(text[from:to])
		if err != nil {
			bad = append(bad, err)
			return
		}
		msgs = append(msgs, m)
	})
	if n == 0 || n > maxBatch {
		return nil, nil, &badMessage{-32600, "", fmt.Sprintf("a batch is an array of 1 to %d messages", maxBatch)}
	}
	return msgs, bad, nil
}

// scanBody splits a body from a server into its messages: one object, or a batch in order. It owns body:
// newlines and carriage returns between tokens become spaces, so that every raw is one line, and bytes that
// are not UTF-8 become question marks (servers do send them, inside strings). Of a batch, messages are
// returned also when others in it are bad. The charge of body belongs to the last of its messages.
func scanBody(body []byte) ([]message, error) {
	for i, n := 0, 0; i < len(body) && (i > 0 || !utf8.Valid(body)); i += n {
		var r rune
		if r, n = utf8.DecodeRune(body[i:]); r == utf8.RuneError && n == 1 {
			body[i] = '?'
		}
	}
	var msgs []message
	var err error
	if isBatch(body) {
		var bad []error
		if msgs, bad, err = scanBatch(body); len(bad) > 0 {
			err = bad[0]
		}
	} else {
		var m message
		if m, err = scanEnvelope(body); err == nil {
			msgs = []message{m}
		}
	}
	// In valid JSON a raw newline can only stand between tokens.
	for _, c := range []byte("\n\r") {
		for i := bytes.IndexByte(body, c); i >= 0; {
			body[i] = ' '
			n := bytes.IndexByte(body[i:], c)
			i += n
		}
	}
	return msgs, err
}

// withID returns m as it is written with another id token, whether it had one or not; raw is shared, not
// copied.
func (m message) withID(id string) message {
	m.as = id
	if m.idAt == m.idEnd {
		m.idAt, m.idEnd, m.as = 1, 1, `"id":`+id+","
	}
	return m
}

// size is the number of bytes that body yields.
func (m message) size() int {
	if m.as == "" {
		return len(m.raw)
	}
	return len(m.raw) - (m.idEnd - m.idAt) + len(m.as)
}

// body reads the message as it goes over the wire, without a final newline.
func (m message) body() io.Reader {
	if m.as == "" {
		return bytes.NewReader(m.raw)
	}
	return io.MultiReader(bytes.NewReader(m.raw[:m.idAt]), strings.NewReader(m.as), bytes.NewReader(m.raw[m.idEnd:]))
}

// writeLine writes the message and a newline.
func (m message) writeLine(w *bufio.Writer) error {
	if m.as == "" {
		w.Write(m.raw)
	} else {
		w.Write(m.raw[:m.idAt])
		w.WriteString(m.as)
		w.Write(m.raw[m.idEnd:])
	}
	return w.WriteByte('\n') // a bufio.Writer keeps its first error
}

// newRequest makes a request with an id token; params may be nil, and are one line of JSON.
func newRequest(id, method string, params json.RawMessage) message {
	return compose(message{kind: request, id: id, method: method}, "params", params)
}

func newNotification(method string, params json.RawMessage) message {
	return compose(message{kind: notification, method: method}, "params", params)
}

func newResult(id string, result json.RawMessage) message {
	return compose(message{kind: response, id: id}, "result", result)
}

// An errorData is the data of an error that the bridge itself makes, for programs.
type errorData struct {
	Source     string `json:"source"` // set by errorReply
	Reason     string `json:"reason"`
	MayHaveRun bool   `json:"mayHaveRun"`
	Attempts   int    `json:"attempts"`
	ElapsedMs  int64  `json:"elapsedMs"`
	Server     string `json:"server,omitempty"` // its origin
	Cause      string `json:"cause,omitempty"`
}

// errorReply makes an error response; id "" is written as null, and data may be nil.
func errorReply(id string, code int, text string, data *errorData) message {
	if data != nil {
		data.Source = "mcp-redial"
	}
	e, _ := json.Marshal(struct {
		Code    int        `json:"code"`
		Message string     `json:"message"`
		Data    *errorData `json:"data,omitempty"`
	}{code, text, data})
	return compose(message{kind: response, id: id, failed: true}, "error", e)
}

func compose(m message, name string, value []byte) message {
	b := []byte(`{"jsonrpc":"2.0"`)
	if m.kind != notification {
		id := m.id
		if id == "" {
			id = "null"
		}
		b = append(b, `,"id":`...)
		m.idAt, m.idEnd = len(b), len(b)+len(id)
		b = append(b, id...)
	}
	if m.method != "" {
		b = append(b, `,"method":"`+m.method+`"`...)
	}
	if value != nil {
		b = append(append(b, `,"`+name+`":`...), value...)
	}
	m.raw = append(b, '}')
	return m
}

// A charge is what one message, complete or being assembled, holds of a budget.
type charge struct {
	bytes   int
	reserve bool
}

// A budget bounds, in bytes, what is held, in flight and being assembled. Beyond its limit there is a
// reserve, for one charge at a time, so that at most limit plus one message of maximum size is held.
type budget struct {
	limit int

	// The readers of stdin and of every response charge from goroutines of their own, for bytes that the
	// loop does not know yet: asking the loop would cost two wake-ups a message, and stop where the loop
	// itself is held up. Nothing is done under the lock but counting.
	mu       sync.Mutex
	used     int
	reserved bool     // somebody holds the reserve
	waiting  []*claim // first come, first served
}

type claim struct {
	bytes   int
	urgent  bool
	reserve bool          // set before granted is closed
	granted chan struct{} // closed by settle
}

func newBudget(limit, maxMessage int) *budget { return &budget{limit: max(limit, maxMessage)} }

// grow adds n bytes to c, waiting until they fit; its only error is the context's. A charge must not come
// to more than one message of maximum size. An urgent charge (one from the server) may use the reserve,
// so that something can always move.
func (b *budget) grow(ctx context.Context, c *charge, n int, urgent bool) error {
	b.mu.Lock()
	if c.reserve || len(b.waiting) == 0 && b.used+n <= b.limit {
		b.used += n
		b.mu.Unlock()
		c.bytes += n
		return nil
	}
	w := &claim{bytes: n, urgent: urgent, granted: make(chan struct{})}
	b.waiting = append(b.waiting, w)
	b.settle()
	b.mu.Unlock()
	select {
	case <-w.granted:
	case <-ctx.Done():
		b.mu.Lock()
		i := slices.Index(b.waiting, w)
		if i >= 0 {
			b.waiting = slices.Delete(b.waiting, i, i+1)
			b.settle()
		}
		b.mu.Unlock()
		if i >= 0 {
			return context.Cause(ctx)
		}
	}
	c.bytes += n
	c.reserve = w.reserve
	return nil
}

// free returns what c holds. It must be called once per charge.
func (b *budget) free(c charge) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.used -= c.bytes
	if c.reserve {
		b.reserved = false
	}
	b.settle()
}

// settle grants what can be granted.
func (b *budget) settle() {
	for i := 0; i < len(b.waiting); {
		w := b.waiting[i]
		fits := i == 0 && b.used+w.bytes <= b.limit
		w.reserve = !fits && w.urgent && !b.reserved
		if !fits && !w.reserve {
			i++
			continue
		}
		b.reserved = b.reserved || w.reserve
		b.used += w.bytes
		close(w.granted)
		b.waiting = slices.Delete(b.waiting, i, i+1)
	}
}

var errTooLarge = errors.New("message larger than the limit")

// A message of unknown size is read in pieces of these sizes, each four times the last, and joined once,
// when it is whole: for that moment it is there twice, and never more than that.
const (
	firstPiece = 4 << 10
	linePiece  = 64 << 10 // what a pipe holds
	lastPiece  = 1 << 20
)

// A lineReader reads lines that end with LF, CRLF, or the stream. It belongs to one goroutine.
type lineReader struct {
	r   io.Reader
	max int // bytes in one line, without its LF
	mem *budget

	buf            []byte
	from, seen, to int // buf[from:to] is not consumed, and has no LF before seen
	err            error
}

func newLineReader(r io.Reader, max int, mem *budget) *lineReader {
	return &lineReader{r: r, max: max, mem: mem, buf: make([]byte, linePiece)}
}

// more says that another whole line has already been read.
func (l *lineReader) more() bool { return bytes.IndexByte(l.buf[l.seen:l.to], '\n') >= 0 }

// next returns the next line that is not blank, without its end, and what it has been charged. For a line
// of more than max bytes it returns errTooLarge and the first maxHead bytes, once the rest has been read
// and dropped, and can be called again. Other errors are the context's and the reader's, io.EOF at the end.
func (l *lineReader) next(ctx context.Context) (line []byte, c charge, err error) {
	pieces, held := make([][]byte, 0, 1), 0
	for {
		part, whole, err := l.piece()
		if held += len(part); err != nil && (err != io.EOF || held == 0) {
			l.mem.free(c)
			return nil, charge{}, err
		}
		if held > l.max {
			if line == nil {
				first := append(pieces, part)[0]
				line = bytes.Clone(first[:min(len(first), maxHead)])
			}
			l.mem.free(c)
			pieces, c = nil, charge{}
			if whole {
				return line, c, errTooLarge
			}
			continue
		}
		if whole && held == len(part) && skipSpace(part, 0) == held {
			held = 0 // blank
			continue
		}
		if err := l.mem.grow(ctx, &c, len(part), false); err != nil {
			l.mem.free(c)
			return nil, charge{}, err
		}
		if pieces = append(pieces, part); whole {
			return bytes.TrimSuffix(slices.Concat(pieces...), []byte("\r")), c, nil
		}
	}
}

// piece returns the rest of the line, in memory that the next call uses again (whole), or as much of it as
// fills a buffer, which is the caller's. When the reader has failed it returns what was left, and the error.
func (l *lineReader) piece() (part []byte, whole bool, err error) {
	for {
		if i := bytes.IndexByte(l.buf[l.seen:l.to], '\n'); i >= 0 {
			part = l.buf[l.from : l.seen+i]
			l.from = l.seen + i + 1
			l.seen = l.from
			return part, true, nil
		}
		l.seen = l.to
		switch {
		case l.err != nil:
			part, l.from = l.buf[l.from:l.to], l.to
			return part, true, l.err
		case l.from == l.to && len(l.buf) > linePiece:
			l.buf, l.from, l.to = make([]byte, linePiece), 0, 0
		case l.from == l.to || l.to == len(l.buf) && l.from > len(l.buf)/2:
			l.from, l.to = 0, copy(l.buf, l.buf[l.from:l.to])
		case l.to == len(l.buf):
			part = l.buf[l.from:]
			l.buf, l.from, l.seen, l.to = make([]byte, min(4*len(l.buf), lastPiece)), 0, 0, 0
			return part, false, nil
		}
		l.seen = l.to
		var n int
		n, l.err = l.r.Read(l.buf[l.to:])
		l.to += n
	}
}

// readAll reads one message body of at most max bytes, growing in pieces, charged to mem as urgent. size is
// the announced length, -1 if unknown; no more than lastPiece is held on its word alone. More than max
// is errTooLarge; other errors are the context's and the reader's.
func readAll(ctx context.Context, r io.Reader, size int64, max int, mem *budget) (_ []byte, c charge, err error) {
	if size > int64(max) {
		return nil, charge{}, errTooLarge
	}
	defer func() {
		if err != nil {
			mem.free(c)
			c = charge{}
		}
	}()
	n := min(firstPiece, max+1)
	if size >= 0 {
		n = min(int(size)+1, lastPiece) // one more, in which the end of the stream can show
	}
	if err := mem.grow(ctx, &c, n, true); err != nil {
		return nil, c, err
	}
	buf := make([]byte, 0, n)
	pieces, held := [][]byte(nil), 0 // the pieces before buf, and the bytes in them
	for {
		n, err := r.Read(buf[len(buf):cap(buf)])
		buf = buf[:len(buf)+n]
		switch total := held + len(buf); {
		case total > max:
			return nil, c, errTooLarge
		case err == io.EOF:
			if held > 0 || cap(buf) > 2*len(buf) {
				buf = slices.Concat(append(pieces, buf)...)
			}
			mem.free(charge{bytes: c.bytes - cap(buf)})
			c.bytes = cap(buf)
			return buf, c, nil
		case err != nil:
			return nil, c, err
		case len(buf) < cap(buf):
		case int64(total) <= size: // enough has come to believe in the rest
			n = int(size) + 1
			if err := mem.grow(ctx, &c, n-c.bytes, true); err != nil {
				return nil, c, err
			}
			buf = append(make([]byte, 0, n), buf...)
		default:
			pieces, held = append(pieces, buf), total
			n = min(4*cap(buf), lastPiece, max+1-held)
			if err := mem.grow(ctx, &c, n, true); err != nil {
				return nil, c, err
			}
			buf = make([]byte, 0, n)
		}
	}
}
