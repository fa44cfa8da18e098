package main

// sse.go reads event streams as WHATWG HTML 9.2.5 and 9.2.6 have it, and speaks the 2024-11-05 transport
// (HTTP with SSE) on them. One reader serves a body for its whole life. Nothing here waits for a byte that
// it does not need, keeps more of an event than its bound, or trusts an address that a server sends.

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"
)

const (
	minBuffer    = 4 << 10          // bytes a reader starts with: most streams are idle
	maxBuffer    = 128 << 10        // bytes it goes on with; a line that is longer is taken in parts
	maxField     = 4 << 10          // bytes of an event's name or id
	maxEndpoint  = 64 << 10         // bytes of the address to post to
	endpointWait = 10 * time.Second // from opening the stream to the endpoint event
)

// A streamEvent is one dispatched event.
type streamEvent struct {
	name string // "message" if the stream gave none
	data pile   // lines joined by LF; not decoded; whoever gets the event may keep and change it, and frees it
}

// An eventReader parses one event stream, for one goroutine.
type eventReader struct {
	src    *bufio.Reader
	begun  bool // a byte order mark may not follow any more
	cr     bool // a line has just ended with CR, to which a LF may belong
	inside bool // the beginning of a line that is longer than the buffer has been parsed
	inData bool // it is a line of data

	// the block that is being parsed
	name []byte
	id   []byte // stays for the blocks that follow; longer than maxField if it was too long
	pile        // its data

	// where and when to go on after the stream has ended
	lastID []byte
	retry  time.Duration // at most maxWait; 0 if the server gave none
}

// newEventReader reads src, whose events may have max bytes of data each, charged to mem. after is the
// cursor that the stream was opened with.
func newEventReader(src io.Reader, max int, mem *budget, after string) *eventReader {
	return &eventReader{src: bufio.NewReaderSize(src, minBuffer), pile: pile{mem: mem, max: max, urgent: true}, id: []byte(after), lastID: []byte(after)}
}

// buffered returns the next event that has arrived whole. ok is false if there is none: fill, and ask again.
// After errTooLarge or an error of the budget, the reader is of no more use.
func (r *eventReader) buffered(ctx context.Context) (e streamEvent, ok bool, err error) {
	arrived, _ := r.src.Peek(r.src.Buffered())
	left := arrived
	defer func() { r.src.Discard(len(arrived) - len(left)) }()
	for !ok && err == nil && len(left) > 0 {
		if r.cr && left[0] == '\n' {
			left = left[1:]
		}
		r.cr = false
		line := left
		n := lineEnd(left)
		switch {
		case n >= 0:
			r.cr = left[n] == '\r'
			line, left = left[:n], left[n+1:]
		case r.inside || len(left) == maxBuffer:
			left = nil
		default:
			return e, false, nil
		}
		if !r.begun {
			line = bytes.TrimPrefix(line, []byte("\xef\xbb\xbf"))
			r.begun = true
		}
		if len(line) == 0 && !r.inside {
			e, ok = r.dispatch()
		} else {
			err = r.line(ctx, line, n >= 0)
		}
	}
	return e, ok, err
}

// fill reads once, into a larger buffer if the first was too small. Its error is that of src.
func (r *eventReader) fill() error {
	if r.src.Buffered() == r.src.Size() {
		r.src = bufio.NewReaderSize(r.src, maxBuffer)
	}
	_, err := r.src.Peek(r.src.Buffered() + 1)
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
			if r.head == nil {
				r.head = []byte{} // data that is empty is data
			} else if err := r.add(ctx, []byte{'\n'}); err != nil {
				return err
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

// dispatch ends a block. ok is false if it had no data.
func (r *eventReader) dispatch() (e streamEvent, ok bool) {
	r.lastID = append(r.lastID[:0], r.id...)
	e.name, ok = "message", r.head != nil
	if len(r.name) > 0 && string(r.name) != e.name {
		e.name = string(validUTF8(r.name))
	}
	r.name = r.name[:0]
	e.data = r.pile
	r.pile.empty()
	return e, ok
}

// events hands every message of an event stream to recv, in order, and every event of another name to
// other, until the stream ends. The error is that of recv, other or the context, or an
// *exchangeError that is unknown, with the place to go on, or final where an event exceeds the bound.
func (w *wire) events(ctx context.Context, body io.Reader, after string, recv receive, other func(name string, data []byte) error) error {
	r := newEventReader(body, w.max, w.mem, after)
	defer r.drop()
	for {
		e, ok, err := r.buffered(ctx)
		if !ok && err == nil {
			if stop := recv(message{}); stop != nil {
				return stop
			}
			err = r.fill()
		}
		if err != nil {
			return readError(ctx, err, string(r.lastID), r.retry)
		}
		size := e.data.size
		if ok && e.name == "message" {
			err = w.hand(ctx, &e.data, recv)
		} else if ok {
			data, c := e.data.take()
			w.mem.free(c)
			err = other(e.name, data)
		}
		if errors.As(err, new(*badMessage)) {
			w.log.Debug("skipping an event that is no message", "bytes", size)
		} else if err != nil {
			return err
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
		cancel(&exchangeError{fate: unsent, err: fmt.Errorf("the server sent no endpoint event within %v", endpointWait)}) // silence is not its word that it is there
	})
	defer late.Stop()
	h := http.Header{"Accept": {eventStream}}
	return s.w.exchange(ctx, http.MethodGet, s.w.url, h, nil, false, p, func(resp *http.Response) error {
		if kind := mediaType(resp.Header); kind != eventStream && kind != "" {
			return notExpected(resp, kind)
		}
		err := s.w.events(ctx, resp.Body, "", recv, func(name string, data []byte) (err error) {
			if name != "endpoint" || s.endpoint != nil {
				return nil
			}
			if s.endpoint, err = endpoint(s.w.url, string(validUTF8(data[:min(len(data), maxEndpoint+1)]))); err == nil && late.Stop() {
				opened()
			}
			return err
		})
		if end, ok := errors.AsType[*exchangeError](err); ok && end.fate == unknown {
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
	case err != nil, len(data) > maxEndpoint:
		return nil, &exchangeError{fate: final, err: errors.New("the server sent a malformed endpoint address")}
	case origin(u) != origin(stream):
		return nil, &exchangeError{fate: final, err: fmt.Errorf("the server wants messages posted to another origin, %s", clean(origin(u)))}
	}
	u.User, u.Fragment = stream.User, ""
	return u, nil
}

func (s *sse) post(ctx context.Context, m message, p *progress, _ receive) error {
	h := http.Header{"Accept": {jsonType + ", " + eventStream}, "Content-Type": {jsonType}}
	return s.w.exchange(ctx, http.MethodPost, s.endpoint, h, &m, true, p, accepted)
}

func (s *sse) id() secret { return hide(s.endpoint.RequestURI()) }

func (s *sse) hangup(context.Context) error { return nil } // the session ends with the stream
