package main

// sse.go reads event streams as WHATWG HTML 9.2.5 and 9.2.6 have it, and speaks the 2024-11-05 transport
// (HTTP with SSE) on them. One reader serves a body for its whole life. Nothing here waits for a byte that
// it does not need, keeps more of an event than its bound, or trusts an address that a server sends.

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"time"
	"unicode/utf8"
)

const (
	minBuffer    = 4 << 10          // bytes a reader starts with: most streams are idle
	maxBuffer    = 64 << 10         // bytes it may grow to; a longer line is taken in parts
	maxPiece     = 1 << 20          // bytes by which large data grows at most
	maxField     = 4 << 10          // bytes of an event's id, and of its name, that are kept
	endpointWait = 10 * time.Second // from the request to the endpoint event
)

// A streamEvent is one dispatched event.
type streamEvent struct {
	name   string // "message" if the stream gave none
	data   []byte // lines joined by LF; valid UTF-8; whoever gets the event may keep and change it
	charge charge // what data holds of the budget, freed by whoever gets the event
}

// An eventReader parses an event stream. It is for one goroutine.
type eventReader struct {
	src io.Reader
	max int // bytes of data in one event
	mem *budget

	// what has been read: buf[at:end] is unparsed, and no line ends in buf[at:seen]
	buf           []byte
	at, seen, end int
	err           error // of src, to be told once buf is parsed
	begun         bool  // past the place where a byte order mark may stand
	cr            bool  // the last line ended with CR, so that LF may follow as part of the same line end

	// the line that is too long for buf and of which some parts have been parsed
	inside bool
	field  string // its name; "" if nobody wants it

	// the block that is being parsed
	name    string
	id      []byte // outlives the block
	pieces  [][]byte
	size    int // bytes in pieces
	hasData bool
	charge  charge

	// where to go on after the stream has ended
	lastID []byte
	retry  time.Duration // at most maxWait; 0 if the server gave none
}

// newEventReader reads src, whose events may have max bytes of data each, charged to mem. after is the
// cursor that the stream was opened with.
func newEventReader(src io.Reader, max int, mem *budget, after string) *eventReader {
	return &eventReader{src: src, max: max, mem: mem, buf: make([]byte, minBuffer), id: []byte(after), lastID: []byte(after)}
}

// buffered returns the next event that has arrived whole. ok is false if there is none: fill, and ask again.
func (r *eventReader) buffered(ctx context.Context) (e streamEvent, ok bool, err error) {
	const mark = "\xef\xbb\xbf"
	if !r.begun {
		have := string(r.buf[:min(r.end, len(mark))])
		if len(have) < len(mark) && strings.HasPrefix(mark, have) {
			return e, false, nil
		}
		r.begun = true
		if have == mark {
			r.at, r.seen = len(mark), len(mark)
		}
	}
	for r.at < r.end && !ok && err == nil {
		if r.cr {
			r.cr = false
			if r.buf[r.at] == '\n' {
				r.at++
				r.seen = r.at
				continue
			}
		}
		i := lineEnd(r.buf[r.seen:r.end])
		if i < 0 {
			r.seen = r.end
			if r.end-r.at < maxBuffer {
				break
			}
			part := r.buf[r.at:r.end]
			r.at = r.end
			err = r.line(ctx, part, false)
			continue
		}
		line := r.buf[r.at : r.seen+i]
		r.cr = r.buf[r.seen+i] == '\r'
		r.at = r.seen + i + 1
		r.seen = r.at
		if len(line) == 0 && !r.inside {
			e, ok, err = r.dispatch(ctx)
		} else {
			err = r.line(ctx, line, true)
		}
	}
	return e, ok, err
}

// lineEnd is the index of the first CR or LF in b, or -1. It looks at a little at a time: lines that
// end with CR alone must not cost a search for LF through everything that follows.
func lineEnd(b []byte) int {
	const window = 1 << 10
	for at := 0; at < len(b); at += window {
		w := b[at:min(at+window, len(b))]
		lf := bytes.IndexByte(w, '\n')
		if lf >= 0 {
			w = w[:lf]
		}
		if cr := bytes.IndexByte(w, '\r'); cr >= 0 {
			return at + cr
		}
		if lf >= 0 {
			return at + lf
		}
	}
	return -1
}

// fill reads once. It returns the error of the source after everything before it has been parsed.
func (r *eventReader) fill() error {
	full := r.end == len(r.buf)
	if r.err != nil {
		return r.err
	}
	to := r.buf
	if full && len(r.buf) < maxBuffer {
		to = make([]byte, 4*len(r.buf))
	}
	if full || r.at == r.end {
		r.seen -= r.at
		r.end = copy(to, r.buf[r.at:r.end])
		r.buf, r.at = to, 0
	}
	n, err := r.src.Read(r.buf[r.end:])
	r.end += n
	r.err = err
	if n == 0 {
		return err
	}
	return nil
}

// line takes a line, or a part of a line that is longer than the buffer; last says that it ends here.
func (r *eventReader) line(ctx context.Context, b []byte, last bool) error {
	first := !r.inside
	r.inside = !last
	if first {
		name, value, _ := bytes.Cut(b, []byte{':'})
		b = bytes.TrimPrefix(value, []byte{' '})
		switch string(name) {
		case "data":
			r.field = "data"
			if r.hasData {
				if err := r.add(ctx, []byte{'\n'}); err != nil {
					return err
				}
			}
			r.hasData = true
		case "id":
			r.field = ""
			if !last || len(b) > maxField {
				r.id = r.id[:0] // an older cursor would deliver twice what came in between
			} else if bytes.IndexByte(b, 0) < 0 {
				r.id = append(r.id[:0], validUTF8(b)...)
			}
		case "event":
			r.field = ""
			if string(b) == "message" {
				r.name = "message" // saves the allocation
			} else {
				r.name = string(validUTF8(b[:min(len(b), maxField)]))
			}
		case "retry":
			r.field = ""
			if d, ok := parseWait(string(b), time.Millisecond); ok && last {
				r.retry = d
			}
		default:
			r.field = ""
		}
	}
	if r.field == "data" {
		return r.add(ctx, b)
	}
	return nil
}

// add appends to the data of the block: the first piece has the exact size, as most events have no other,
// later ones leave room.
func (r *eventReader) add(ctx context.Context, b []byte) error {
	if len(b) > r.max-r.size {
		return errTooLarge
	}
	if err := r.mem.grow(ctx, &r.charge, len(b), true); err != nil {
		return err
	}
	if n := len(r.pieces); n > 0 {
		p := r.pieces[n-1]
		fits := min(len(b), cap(p)-len(p))
		r.pieces[n-1] = append(p, b[:fits]...)
		r.size += fits
		b = b[fits:]
	}
	if len(b) > 0 {
		p := make([]byte, 0, max(len(b), min(r.size, maxPiece)))
		r.pieces = append(r.pieces, append(p, b...))
		r.size += len(b)
	}
	return nil
}

// dispatch ends a block. ok is false if the block had no data.
func (r *eventReader) dispatch(ctx context.Context) (e streamEvent, ok bool, err error) {
	r.lastID = append(r.lastID[:0], r.id...)
	e.name, e.charge, ok = r.name, r.charge, r.hasData
	if e.name == "" {
		e.name = "message"
	}
	if len(r.pieces) == 1 {
		e.data = r.pieces[0]
	} else if len(r.pieces) > 1 {
		e.data = bytes.Join(r.pieces, nil)
	}
	clear(r.pieces)
	r.pieces = r.pieces[:0]
	r.name, r.size, r.hasData, r.charge = "", 0, false, charge{}
	if was := len(e.data); !utf8.Valid(e.data) {
		e.data = validUTF8(e.data)
		err = r.mem.grow(ctx, &e.charge, len(e.data)-was, true)
		if len(e.data) > r.max {
			err = errTooLarge
		}
		if err != nil {
			r.mem.free(e.charge)
		}
	}
	return e, ok && err == nil, err
}

// validUTF8 returns b with every invalid part replaced by U+FFFD, as the WHATWG decoder does it: one for
// each longest beginning of a character (bytes.ToValidUTF8 would make one of several).
func validUTF8(b []byte) []byte {
	if utf8.Valid(b) {
		return b
	}
	out := make([]byte, 0, len(b)+len(b)/8)
	for len(b) > 0 {
		c, n := utf8.DecodeRune(b)
		out = utf8.AppendRune(out, c)
		for c == utf8.RuneError && n < len(b) && n < utf8.UTFMax && !utf8.FullRune(b[:n+1]) {
			n++
		}
		b = b[n:]
	}
	return out
}

// messages hands every message of the stream to recv, in order, and every event of another name to other,
// if that is not nil. It returns nil when recv wants no more, the error of recv, of other or of the
// context, or an *exchangeError with the place to go on: unknown, or final if an event exceeds the bound.
func (r *eventReader) messages(ctx context.Context, log *slog.Logger, recv receive, other func(streamEvent) error) error {
	defer func() { r.mem.free(r.charge) }()
	var held message // handed on when it is known whether another one has arrived
	var holding bool
	hand := func(more bool) error {
		if !holding {
			return nil
		}
		holding = false
		return recv(held, more)
	}
	for {
		e, ok, err := r.buffered(ctx)
		if !ok {
			if stop := hand(false); stop != nil {
				return wanted(stop)
			}
			if err == nil {
				err = r.fill()
			}
			if err != nil {
				return readError(ctx, err, cursor(r.lastID), r.retry)
			}
			continue
		}
		if e.name != "message" {
			if other != nil {
				err = other(e)
			}
			r.mem.free(e.charge)
			if err != nil {
				return err
			}
			continue
		}
		batch, err := split(e.data, e.charge, r.mem)
		if err != nil && len(e.data) > 0 { // empty: only there for its id
			log.Debug("skipping an event that is no JSON-RPC message", "bytes", len(e.data))
		}
		for _, m := range batch {
			if stop := hand(true); stop != nil {
				r.mem.free(batch[len(batch)-1].charge)
				return wanted(stop)
			}
			held, holding = m, true
		}
	}
}

// events hands the messages of an event stream to recv like messages. A stream that ends gets the fate
// end.
func (w *wire) events(ctx context.Context, body io.Reader, after string, recv receive, other func(streamEvent) error, end fate) error {
	err := newEventReader(body, w.max, w.mem, after).messages(ctx, w.log, recv, other)
	var e *exchangeError
	if errors.As(err, &e) && e.fate == unknown {
		e.fate = end
	}
	return err
}

// split makes messages of the data of an event or of a JSON answer. Several share c, which the last holds.
func split(data []byte, c charge, mem *budget) ([]message, error) {
	batch, err := scanBody(data)
	if len(batch) == 0 {
		mem.free(c)
		return nil, err
	}
	batch[len(batch)-1].charge = c
	return batch, err
}

// wanted is the result of an exchange that recv has ended.
func wanted(stop error) error {
	if errors.Is(stop, errEnough) {
		return nil
	}
	return stop
}

// cursor is id as it can be sent in Last-Event-ID, or "": net/http refuses control characters and
// strips spaces, and another cursor than the server's own is worse than none.
func cursor(id []byte) string {
	s := string(id)
	if s != strings.Trim(s, " \t") || strings.ContainsFunc(s, func(c rune) bool { return c < ' ' && c != '\t' || c == 0x7f }) {
		return ""
	}
	return s
}

// sse is the transport of 2024-11-05: a stream from the server, whose first event says where to post. The
// stream is the session.
type sse struct {
	w        *wire
	endpoint *url.URL // written once, before opened is called
}

func newSSE(w *wire) transport { return &sse{w: w} }

func (s *sse) listen(ctx context.Context, _ string, p *progress, opened func(), recv receive) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	late := time.AfterFunc(endpointWait, func() {
		cancel(&exchangeError{fate: unknown, err: fmt.Errorf("the server sent no endpoint event within %v", endpointWait)})
	})
	defer late.Stop()
	h := http.Header{"Accept": {eventStream}}
	return s.w.exchange(ctx, http.MethodGet, s.w.url, h, nil, false, p, func(resp *http.Response) error {
		kind, body := sniffed(resp)
		if kind != eventStream {
			return notExpected(resp, kind)
		}
		return s.w.events(ctx, body, "", recv, func(e streamEvent) (err error) {
			if e.name != "endpoint" || s.endpoint != nil {
				return nil
			}
			if s.endpoint, err = endpoint(s.w.url, string(e.data)); err != nil {
				return &exchangeError{fate: final, err: err}
			}
			if late.Stop() {
				opened()
			}
			return nil
		}, gone)
	})
}

// endpoint resolves what an endpoint event says against the address of the stream. Another origin would
// get our messages and tokens.
func endpoint(stream *url.URL, data string) (*url.URL, error) {
	u, err := stream.Parse(strings.TrimSpace(data))
	if err != nil {
		return nil, errors.New("the server sent a malformed endpoint address")
	}
	if origin(u) != origin(stream) {
		return nil, fmt.Errorf("the server of %s wants messages posted to another origin, %s", origin(stream), clean(origin(u)))
	}
	u.User, u.Fragment, u.RawFragment = stream.User, "", ""
	return u, nil
}

func (s *sse) post(ctx context.Context, m message, p *progress, _ receive) error {
	if s.endpoint == nil {
		panic("posting before the endpoint is known")
	}
	h := http.Header{"Content-Type": {jsonType}, "Accept": {jsonType + ", " + eventStream}}
	return s.w.exchange(ctx, http.MethodPost, s.endpoint, h, &m, true, p, accepted)
}

func (s *sse) hangup(context.Context) error { return nil } // the session ends with the stream
