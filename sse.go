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
	"net/http"
	"net/url"
	"strings"
	"time"
	"unicode/utf8"
)

const (
	minBuffer    = 4 << 10          // bytes a reader starts with: most streams are idle
	maxBuffer    = 64 << 10         // bytes it grows to; a line that is longer is taken in parts
	maxField     = 4 << 10          // bytes of an event's name or id
	endpointWait = 10 * time.Second // from opening the stream to the endpoint event
)

// A streamEvent is one dispatched event.
type streamEvent struct {
	name   string // "message" if the stream gave none
	data   []byte // lines joined by LF; valid UTF-8; whoever gets the event may keep and change it
	charge charge // what data holds of the budget, freed by whoever gets the event
}

// An eventReader parses one event stream, for one goroutine.
type eventReader struct {
	src io.Reader
	max int // bytes of data in one event
	mem *budget

	// what has been read and not parsed, buf[at:end], and what came before it
	buf     []byte
	at, end int
	begun   bool // a byte order mark may not follow any more
	cr      bool // a line has just ended with CR, to which a LF may belong
	inside  bool // the beginning of a line that is longer than buf has been parsed
	inData  bool // it is a line of data

	// the block that is being parsed
	name   []byte
	id     []byte // stays for the blocks that follow; longer than maxField if it was too long
	pieces [][]byte
	size   int // bytes in pieces
	charge charge

	// where and when to go on after the stream has ended
	lastID []byte
	retry  time.Duration // at most maxWait; 0 if the server gave none
}

// newEventReader reads src, whose events may have max bytes of data each, charged to mem. after is the
// cursor that the stream was opened with.
func newEventReader(src io.Reader, max int, mem *budget, after string) *eventReader {
	return &eventReader{src: src, max: max, mem: mem, buf: make([]byte, minBuffer), id: []byte(after), lastID: []byte(after)}
}

// buffered returns the next event that has arrived whole. ok is false if there is none: fill, and ask again.
// After errTooLarge or an error of the budget, the reader is of no more use.
func (r *eventReader) buffered(ctx context.Context) (e streamEvent, ok bool, err error) {
	for !ok && err == nil && r.at < r.end {
		if r.cr && r.buf[r.at] == '\n' {
			r.at++
		}
		r.cr = false
		b := r.buf[r.at:r.end]
		n := lineEnd(b)
		switch {
		case n >= 0:
			r.cr = b[n] == '\r'
			r.at += n + 1
			b = b[:n]
		case r.inside || len(b) == maxBuffer:
			r.at = r.end
		default:
			return e, false, nil
		}
		if !r.begun {
			b = bytes.TrimPrefix(b, []byte("\xef\xbb\xbf"))
			r.begun = true
		}
		if len(b) == 0 && !r.inside {
			e, ok, err = r.dispatch(ctx)
		} else {
			err = r.line(ctx, b, n >= 0)
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
		if lf := bytes.IndexByte(w, '\n'); lf >= 0 {
			w = w[:lf+1]
		}
		if cr := bytes.IndexByte(w, '\r'); cr >= 0 {
			return at + cr
		}
		if w[len(w)-1] == '\n' {
			return at + len(w) - 1
		}
	}
	return -1
}

// fill reads once, into a larger buffer if the last one was too small. Its error is that of src.
func (r *eventReader) fill() error {
	if full := r.end == len(r.buf); full || r.at == r.end {
		to := r.buf
		if full && len(to) < maxBuffer {
			to = make([]byte, 4*len(to))
		}
		r.end = copy(to, r.buf[r.at:r.end])
		r.buf, r.at = to, 0
	}
	n, err := r.src.Read(r.buf[r.end:])
	r.end += n
	if n > 0 {
		return nil // src will repeat its error
	}
	return err
}

// line takes a line, or a part of one that is longer than the buffer; last says that the line ends here.
func (r *eventReader) line(ctx context.Context, b []byte, last bool) error {
	if !r.inside {
		name, value, _ := bytes.Cut(b, []byte{':'})
		b = bytes.TrimPrefix(value, []byte{' '})
		kept := b[:min(len(b), maxField+1)]
		r.inData = string(name) == "data"
		switch string(name) {
		case "data":
			if len(r.pieces) > 0 {
				if err := r.add(ctx, []byte{'\n'}); err != nil {
					return err
				}
			}
		case "event":
			r.name = append(r.name[:0], kept...)
		case "id":
			if bytes.IndexByte(b, 0) < 0 {
				r.id = append(r.id[:0], validUTF8(kept)...)
			}
		case "retry":
			if d, ok := parseWait(string(kept), time.Millisecond); ok {
				r.retry = d
			}
		}
	}
	r.inside = !last
	if r.inData {
		return r.add(ctx, b)
	}
	return nil
}

// add appends to the data of the block. Most events have one line, which costs one exact allocation.
func (r *eventReader) add(ctx context.Context, b []byte) error {
	if len(b) > r.max-r.size {
		return errTooLarge
	}
	if err := r.mem.grow(ctx, &r.charge, len(b), true); err != nil {
		return err
	}
	i := len(r.pieces) - 1
	if i < 0 || len(b) > cap(r.pieces[i])-len(r.pieces[i]) {
		r.pieces = append(r.pieces, make([]byte, 0, max(len(b), min(r.size, lastPiece))))
		i++
	}
	r.pieces[i] = append(r.pieces[i], b...)
	r.size += len(b)
	return nil
}

// dispatch ends a block. ok is false if it had no data.
func (r *eventReader) dispatch(ctx context.Context) (e streamEvent, ok bool, err error) {
	r.lastID = append(r.lastID[:0], r.id...)
	e.name, ok = "message", len(r.pieces) > 0
	if len(r.name) > 0 && string(r.name) != e.name {
		e.name = string(validUTF8(r.name))
	}
	if len(r.pieces) == 1 {
		e.data = r.pieces[0]
	} else {
		e.data = bytes.Join(r.pieces, nil)
	}
	if e.data = validUTF8(e.data); len(e.data) > r.max {
		return e, false, errTooLarge
	} else if n := len(e.data) - r.size; n > 0 {
		if err := r.mem.grow(ctx, &r.charge, n, true); err != nil {
			return e, false, err
		}
	}
	e.charge = r.charge
	clear(r.pieces)
	r.name, r.pieces, r.size, r.charge = r.name[:0], r.pieces[:0], 0, charge{}
	return e, ok, nil
}

// validUTF8 returns b with every invalid part replaced by U+FFFD, as the WHATWG decoder does it: one for
// each longest beginning of a character (bytes.ToValidUTF8 would make one of several).
func validUTF8(b []byte) []byte {
	if utf8.Valid(b) {
		return b
	}
	var out []byte
	for len(b) > 0 {
		c, n := utf8.DecodeRune(b)
		out = utf8.AppendRune(out, c)
		for c == utf8.RuneError && n < len(b) && !utf8.FullRune(b[:n+1]) {
			n++
		}
		b = b[n:]
	}
	return out
}

// events hands every message of an event stream to recv, in order, and every event of another name to
// other, until the stream ends. The error is that of recv, other or the context, or an
// *exchangeError that is unknown, with the place to go on, or final where an event exceeds the bound.
func (w *wire) events(ctx context.Context, body io.Reader, after string, recv receive, other func(streamEvent) error) error {
	r := newEventReader(body, w.max, w.mem, after)
	defer func() { w.mem.free(r.charge) }()
	var held []message // not handed on before it is known whether more have arrived
	for {
		e, ok, err := r.buffered(ctx)
		var batch []message
		if ok && e.name != "message" {
			w.mem.free(e.charge)
			if err = other(e); err != nil {
				w.drop(held)
				return err
			}
			continue
		}
		if ok {
			if batch, err = w.split(e.data, e.charge); err != nil && len(e.data) > 0 { // empty: there for its id
				w.log.Debug("skipping an event that is no message", "bytes", len(e.data))
			}
			if err = nil; len(batch) == 0 {
				continue
			}
		}
		if stop := w.hand(held, ok, recv); stop != nil {
			w.drop(batch)
			return stop
		}
		held = batch
		if !ok && err == nil {
			err = r.fill()
		}
		if err != nil {
			return readError(ctx, err, string(r.lastID), r.retry)
		}
	}
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
		cancel(&exchangeError{fate: gone, err: fmt.Errorf("the server sent no endpoint event within %v", endpointWait)})
	})
	defer late.Stop()
	h := http.Header{"Accept": {eventStream}}
	return s.w.exchange(ctx, http.MethodGet, s.w.url, h, nil, false, p, func(resp *http.Response) error {
		if kind := mediaType(resp.Header); kind != eventStream && kind != "" {
			return notExpected(resp, kind)
		}
		err := s.w.events(ctx, resp.Body, "", recv, func(e streamEvent) (err error) {
			if e.name != "endpoint" || s.endpoint != nil {
				return nil
			}
			if s.endpoint, err = endpoint(s.w.url, string(e.data)); err == nil && late.Stop() {
				opened()
			}
			return err
		})
		var end *exchangeError
		if errors.As(err, &end) && end.fate == unknown {
			end.fate = gone
		}
		return err
	})
}

// endpoint resolves what an endpoint event says against the address of the stream. Another origin would
// get our messages and tokens.
func endpoint(stream *url.URL, data string) (*url.URL, error) {
	u, err := stream.Parse(strings.TrimSpace(data))
	switch {
	case err != nil:
		return nil, &exchangeError{fate: final, err: errors.New("the server sent a malformed endpoint address")}
	case origin(u) != origin(stream):
		return nil, &exchangeError{fate: final, err: fmt.Errorf("the server wants messages posted to another origin, %s", clean(origin(u)))}
	}
	u.User, u.Fragment = stream.User, ""
	return u, nil
}

func (s *sse) post(ctx context.Context, m message, p *progress, _ receive) error {
	if s.endpoint == nil {
		panic("posting before the endpoint is known")
	}
	h := http.Header{"Accept": {jsonType + ", " + eventStream}, "Content-Type": {jsonType}}
	return s.w.exchange(ctx, http.MethodPost, s.endpoint, h, &m, true, p, accepted)
}

func (s *sse) hangup(context.Context) error { return nil } // the session ends with the stream
