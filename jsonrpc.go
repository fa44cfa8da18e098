package main

// jsonrpc.go is the framing: lines and bodies in, messages out, and back. It reads and writes what it is
// given, and opens nothing. A message's envelope is scanned by hand, in one pass that validates the whole
// text and decodes none of the payload; the bytes that arrived are the bytes that go on.
//
// What two parsers could read differently is refused: an envelope member that is there twice or in
// another case, an id that is neither string nor integer, text after the message,
// text that is not UTF-8. Everything that is held is bounded in bytes and charged before it is held.

import (
	"bufio"
	"bytes"
	"cmp"
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
	raw         []byte // the exact bytes of one JSON object, on one line; never written to again
	kind        kind
	id          string // the id token, spelt as idToken does, so that == compares type and value; "" if none or null
	idAt, idEnd int    // where the id stands in raw as it came; equal if there is none
	method      string
	failed      bool   // a response that carries error, not result
	as          string // when not "", what is written in place of raw[idAt:idEnd]
	safe        bool   // set by the loop: may be sent again without proof that it was not
	charge      charge // what it holds of the memory budget
}

// A badMessage says why a text is no message: code is -32700 where it is not JSON, -32600 where it is.
type badMessage struct {
	code int
	id   string // of the request that it was meant to be; "" if that cannot be told
	text string
}

func (e *badMessage) Error() string { return e.text }

func notJSON(at int, id string) error {
	return &badMessage{-32700, id, fmt.Sprintf("not valid JSON, or nested more than %d deep, at byte %d", maxDepth, at)}
}

// scan reads one message, which may have white space around it, and keeps a part of line as its raw. Its
// errors are *badMessage. The text is valid by RFC 8259 and UTF-8, or refused (JSON-RPC 2.0; MCP, base
// protocol, Messages).
func scan(line []byte) (message, error) {
	m, err := scanEnvelope(line)
	if utf8.Valid(line) {
		return m, err
	}
	bad := &badMessage{code: -32700, text: "the message is not valid UTF-8"}
	if m.kind == request {
		bad.id = m.id
	}
	return message{}, bad
}

// scanEnvelope is scan without the check for UTF-8.
func scanEnvelope(b []byte) (message, error) {
	const version, id, method, params, result, failure = 0, 1, 2, 3, 4, 5
	var (
		m     message
		token [6][]byte // the members of the envelope
		odd   bool
	)
	start := skipSpace(b, 0)
	end := each(b, func(key []byte, from, to int) {
		for i, name := range [...]string{"jsonrpc", "id", "method", "params", "result", "error"} {
			same, alike := sameName(key, name)
			if !alike {
				continue
			}
			odd = odd || !same || token[i] != nil
			token[i] = b[from:to]
			if i == id {
				m.idAt, m.idEnd = from-start, to-start
			}
			return
		}
	})

	var idOK, methodOK bool
	m.id, idOK = idToken(token[id])
	m.method, methodOK = methodName(token[method])
	m.failed = token[failure] != nil
	outcomes := 0
	for _, t := range [...][]byte{token[method], token[result], token[failure]} {
		if t != nil {
			outcomes++
		}
	}
	asked := m.id // an answer's id is the other side's, and of no use to this one
	if odd || token[result] != nil || m.failed || end < 0 && !methodOK {
		asked = ""
	}
	var trouble string
	switch {
	case end < 0:
		return message{}, notJSON(^end, asked)
	case b[start] != '{':
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
	m.raw = bytes.TrimRight(b[start:end:end], " \t\r\n")
	return m, nil
}

// idToken returns the one spelling of an id that stands for all. Ids are strings or integers (MCP, base
// protocol, Requests); false for anything else, and for more than maxToken bytes.
func idToken(token []byte) (string, bool) {
	if len(token) == 0 || len(token) > maxToken || token[0] != '"' && len(bytes.Trim(token, "-0123456789")) > 0 {
		return "", false
	}
	if bytes.IndexByte(token, '\\') < 0 {
		return string(token), true
	}
	s, ok := unquote(token)
	if skipPlain([]byte(s), 0) == len(s) {
		return `"` + s + `"`, ok
	}
	canonical, _ := json.Marshal(s)
	return string(canonical), ok
}

// methodName decodes a method; the frequent ones cost no allocation.
func methodName(token []byte) (string, bool) {
	for _, s := range [...]string{`"tools/call"`, `"notifications/progress"`, `"notifications/message"`, `"ping"`, `"tools/list"`} {
		if string(token) == s {
			return s[1 : len(s)-1], true
		}
	}
	if len(token) > maxToken {
		return "", false
	}
	return unquote(token)
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
	if c := at(key, 1); c < utf8.RuneSelf && c != '\\' && (name == "" || c|0x20 != name[0]|0x20) {
		return false, false // the quick answer
	}
	s, _ := unquote(key)
	return s == name, strings.EqualFold(s, name)
}

// peek returns the token that path leads to through objects, without decoding anything; nil if there is
// none, or two that are alike: who decides by peek must not see another value than the server does.
func peek(raw []byte, path ...string) []byte {
	for _, name := range path {
		raw = peekAll(raw, name)[0]
	}
	return raw
}

// peekAll is peek for several members of one object, in one pass.
func peekAll(raw []byte, names ...string) (found [5][]byte) {
	var seen, odd [len(found)]bool
	end := each(raw, func(key []byte, from, to int) {
		for i, name := range names {
			if same, alike := sameName(key, name); alike {
				odd[i] = odd[i] || seen[i] || !same
				seen[i], found[i] = true, raw[from:to:to]
			}
		}
	})
	for i := range found {
		if end < 0 || odd[i] {
			found[i] = nil
		}
	}
	return found
}

// each steps over the value that b is, with white space around it, and calls f with each key token (nil in an
// array) and where its value stands. It returns len(b), or what the skip functions return for an error.
func each(b []byte, f func(key []byte, from, to int)) int {
	i := skipValue(b, skipSpace(b, 0), 0, f)
	if i < 0 {
		return i
	}
	if i = skipSpace(b, i); i < len(b) {
		return ^i
	}
	return i
}

// The skip functions step over one part of a JSON text (RFC 8259) that begins at b[i], and return the index
// after it. Where the text is not valid they return ^j, which is negative: j is the index of the offence.

// at is b[i]; past the end it is NUL, which is valid nowhere.
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

// skipValue steps over a value within depth arrays and objects; f, unless nil, is for each.
func skipValue(b []byte, i, depth int, f func(key []byte, from, to int)) int {
	switch at(b, i) {
	case '"':
		return skipString(b, i)
	case '{', '[':
		return skipNested(b, i, depth+1, f)
	case 't', 'f', 'n':
		for _, word := range [...]string{"true", "false", "null"} {
			if len(b)-i >= len(word) && string(b[i:i+len(word)]) == word {
				return i + len(word)
			}
		}
		return ^i
	}
	return skipNumber(b, i)
}

func skipNested(b []byte, i, depth int, f func(key []byte, from, to int)) int {
	if depth > maxDepth {
		return ^i
	}
	object, closing := b[i] == '{', b[i]+2
	if i = skipSpace(b, i+1); at(b, i) == closing {
		return i + 1
	}
	for {
		var key []byte
		if object {
			end := skipString(b, i)
			if end < 0 {
				return end
			}
			key = b[i:end]
			if i = skipSpace(b, end); at(b, i) != ':' {
				return ^i
			}
			i = skipSpace(b, i+1)
		}
		end := skipValue(b, i, depth, nil)
		if end < 0 {
			return end
		}
		if f != nil {
			f(key, i, end)
		}
		switch i = skipSpace(b, end); at(b, i) {
		case closing:
			return i + 1
		case ',':
			i = skipSpace(b, i+1)
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

func skipString(b []byte, i int) int {
	if at(b, i) != '"' {
		return ^i
	}
	for i++; ; {
		i = skipPlain(b, i)
		switch {
		case at(b, i) == '"':
			return i + 1
		case at(b, i) != '\\':
			return ^i
		case at(b, i+1) == 'u':
			for end := i + 6; i < end; i++ {
				if c := at(b, i); i >= end-4 && c-'0' >= 10 && (c|0x20)-'a' >= 6 {
					return ^i
				}
			}
		case strings.IndexByte(`"\/bfnrt`, at(b, i+1)) < 0:
			return ^i
		default:
			i += 2
		}
	}
}

// skipPlain steps over the bytes of a string that mean themselves, eight at a time: a byte of stop has its
// high bit set where x has a control character, a quote or a backslash. A borrow spoils only what follows
// the first of them.
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

// scanBatch splits an array into its messages (MCP 2025-03-26, base protocol, Batching). bad has an error for
// each element that is none; err is for the whole: not valid, empty, or more than maxBatch elements. All
// are *badMessage.
func scanBatch(text []byte) (msgs []message, bad []error, err error) {
	n := 0
	end := each(text, func(key []byte, from, to int) {
		if n++; n > maxBatch {
			return
		}
		if m, err := scan(text[from:to]); err != nil {
			bad = append(bad, err)
		} else {
			msgs = append(msgs, m)
		}
	})
	if end < 0 {
		return nil, nil, notJSON(^end, "")
	}
	if n == 0 || n > maxBatch {
		return nil, nil, &badMessage{-32600, "", fmt.Sprintf("a batch has 1 to %d messages", maxBatch)}
	}
	return msgs, bad, nil
}

// scanBody splits a body from a server into its messages: one object, or a batch in order. It owns body:
// newlines and carriage returns between tokens become spaces, so that every raw is one line, and bytes that
// are not UTF-8 become question marks (servers do send them, inside strings). Of a batch, messages are
// returned also when others in it are bad. What body was charged belongs to the last of its messages.
func scanBody(body []byte) (msgs []message, err error) {
	for i, n := 0, 0; i < len(body) && (i > 0 || !utf8.Valid(body)); i += n {
		var r rune
		if r, n = utf8.DecodeRune(body[i:]); r == utf8.RuneError && n == 1 {
			body[i] = '?'
		}
	}
	if isBatch(body) {
		var bad []error
		if msgs, bad, err = scanBatch(body); len(bad) > 0 {
			err = bad[0]
		}
	} else if m, bad := scanEnvelope(body); bad != nil {
		err = bad
	} else {
		msgs = []message{m}
	}
	for _, c := range []byte("\n\r") { // valid JSON has them raw only between tokens
		for rest := body; ; {
			i := bytes.IndexByte(rest, c)
			if i < 0 {
				break
			}
			rest[i] = ' '
			rest = rest[i+1:]
		}
	}
	return msgs, err
}

// withID returns m as it is written with another id token, whether it has one or not; raw is shared.
func (m message) withID(id string) message {
	if m.as = id; m.idAt == m.idEnd {
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

// newRequest makes a request with an id token; params may be nil, and are valid JSON on one line.
func newRequest(id, method string, params json.RawMessage) message {
	return compose(message{kind: request, id: id, method: method}, "params", params)
}

// newNotification makes a notification; params as with newRequest.
func newNotification(method string, params json.RawMessage) message {
	return compose(message{kind: notification, method: method}, "params", params)
}

// newResult makes a response that succeeded.
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
		b = append(b, `,"id":`...)
		m.idAt = len(b)
		b = append(b, cmp.Or(m.id, "null")...)
		m.idEnd = len(b)
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

// A budget bounds, in bytes, what is held, in flight and being assembled.
//
// Urgent charges are the server's. They stop at three quarters of the limit, so that a flood of theirs leaves
// the client room to speak; but one at a time may go over the limit, into a reserve of one message of
// maximum size, so that something can always move. That is all that is ever held.
type budget struct {
	limit int

	// The readers of stdin and of every response charge from goroutines of their own, for bytes that the
	// loop does not know yet: asking the loop would cost two wake-ups a message, and stop where the loop
	// itself is held up. Only counting is done under the lock.
	mu       sync.Mutex
	used     int
	reserved bool          // a charge has the reserve
	freed    chan struct{} // closed by the next free; nil if nobody waits
}

func newBudget(limit, maxMessage int) *budget { return &budget{limit: max(limit, maxMessage)} }

// grow adds n bytes to c, which stays within one message of maximum size, waiting until they fit. Its only
// error is the context's.
func (b *budget) grow(ctx context.Context, c *charge, n int, urgent bool) error {
	for {
		b.mu.Lock()
		limit := b.limit
		if urgent {
			limit -= limit / 4
		}
		if b.used+n > limit && urgent && !b.reserved {
			b.reserved, c.reserve = true, true
		}
		if b.used+n <= limit || c.reserve {
			b.used += n
			c.bytes += n
			b.mu.Unlock()
			return nil
		}
		if b.freed == nil {
			b.freed = make(chan struct{})
		}
		freed := b.freed
		b.mu.Unlock()
		select {
		case <-freed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// free returns what c holds. It is called once per charge.
func (b *budget) free(c charge) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.used -= c.bytes
	b.reserved = b.reserved && !c.reserve
	if b.freed != nil {
		close(b.freed)
		b.freed = nil
	}
}

var errTooLarge = errors.New("message larger than the limit")

// A body of unknown size is read in pieces, each four times as large as the one before, and joined once, when
// it is whole: for that moment it is there twice, and never more than that. So are lines.
const (
	linePiece  = 128 << 10
	firstPiece = 4 << 10
	lastPiece  = 1 << 20
)

// A lineReader reads lines that end with LF, CRLF, or the stream. It belongs to one goroutine.
type lineReader struct {
	r   *bufio.Reader
	max int // bytes in one line, without its LF
	mem *budget
}

func newLineReader(r io.Reader, max int, mem *budget) *lineReader {
	return &lineReader{bufio.NewReaderSize(r, linePiece), max, mem}
}

// more says that another whole line has already been read.
func (l *lineReader) more() bool {
	b, _ := l.r.Peek(l.r.Buffered())
	return bytes.IndexByte(b, '\n') >= 0
}

// next returns the next line that is not blank, without its end, and what it has been charged. For a line
// of more than max bytes it returns errTooLarge and the first bytes, from which scan may tell the id, once
// the rest has been read and dropped; then it can be called again. Other errors are the context's and the
// reader's, io.EOF at the end.
func (l *lineReader) next(ctx context.Context) (line []byte, c charge, err error) {
	pieces, held := make([][]byte, 0, 1), 0
	for {
		part, err := l.r.ReadSlice('\n')
		whole := err != bufio.ErrBufferFull
		part = bytes.TrimSuffix(part, []byte("\n"))
		if held += len(part); whole && err != nil && (err != io.EOF || held == 0) {
			l.mem.free(c)
			return nil, charge{}, err
		}
		switch {
		case held > l.max:
			if line == nil {
				line = bytes.Clone(append(pieces, part)[0])
			}
			l.mem.free(c)
			pieces, c = nil, charge{}
			if whole {
				return line, c, errTooLarge
			}
			continue
		case whole && held == len(part) && skipSpace(part, 0) == held: // blank
			held = 0
			continue
		}
		if err := l.mem.grow(ctx, &c, len(part), false); err != nil {
			l.mem.free(c)
			return nil, charge{}, err
		}
		if whole {
			return bytes.TrimSuffix(slices.Concat(append(pieces, part)...), []byte("\r")), c, nil
		}
		pieces = append(pieces, bytes.Clone(part))
	}
}

// readAll reads one message body of at most max bytes, growing in pieces, charged to mem as urgent. size is
// the announced length, -1 if unknown; no more than lastPiece is held on its word alone. More than max
// is errTooLarge; other errors are the context's and the reader's.
func readAll(ctx context.Context, r io.Reader, size int64, max int, mem *budget) (body []byte, c charge, err error) {
	defer func() {
		held := c
		if c = (charge{len(body), c.reserve && err == nil}); err == nil {
			held = charge{bytes: held.bytes - c.bytes}
		}
		mem.free(held)
	}()
	if size > int64(max) {
		return nil, c, errTooLarge
	}
	n := firstPiece
	if size >= 0 {
		n = min(int(size)+1, lastPiece) // one more, in which the end of the stream can show
	}
	var pieces [][]byte
	for held := 0; held <= max; n = min(4*n, lastPiece, max+1-held) {
		var buf []byte
		if held > 0 && int64(held) <= size { // enough has come to believe in the rest
			n, buf, pieces = int(size)+1, pieces[0], nil
		}
		if err = mem.grow(ctx, &c, n-len(buf), true); err != nil {
			return nil, c, err
		}
		buf = append(make([]byte, 0, n), buf...)
		for len(buf) < n && err == nil {
			var k int
			k, err = r.Read(buf[len(buf):n])
			buf = buf[:len(buf)+k]
			held += k
		}
		switch pieces = append(pieces, buf); {
		case held > max:
		case err == io.EOF && len(pieces) == 1 && held > n/2:
			return buf, c, nil
		case err == io.EOF:
			return slices.Concat(pieces...), c, nil
		case err != nil:
			return nil, c, err
		}
	}
	return nil, c, errTooLarge
}
