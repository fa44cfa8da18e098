package main

// streamable.go speaks Streamable HTTP with sessions: 2025-03-26, 2025-06-18 and 2025-11-25. Every message is
// a POST; its answer is JSON or an event stream, which can be resumed by GET when the server numbered its
// events. Nothing is ever posted again from here, and a session id goes nowhere but into our own requests.

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"time"
)

// streamable carries one session. Its fields are written while initialize is the only exchange there is,
// before its answer is handed on, and never again; so they need no lock.
type streamable struct {
	w        *wire
	greeting bool // initialize has been posted, and its answer has not passed by yet
	session  secret
	version  string      // as negotiated, if it is one whose requests name it
	posting  http.Header // copied for each request
	getting  http.Header // of GET and DELETE
}

func newStreamable(w *wire) transport { return (&streamable{w: w}).settle() }

// settle prepares the headers of the requests to come (MCP 2025-11-25 transports, Session Management and
// Protocol Version Header).
func (s *streamable) settle() *streamable {
	s.getting = http.Header{"Accept": {eventStream}}
	if !s.session.empty() {
		s.getting["Mcp-Session-Id"] = []string{s.session.reveal()}
	}
	if s.version != "" {
		s.getting["Mcp-Protocol-Version"] = []string{s.version}
	}
	s.posting = maps.Clone(s.getting)
	s.posting["Accept"] = []string{jsonType + ", " + eventStream}
	s.posting["Content-Type"] = []string{jsonType}
	return s
}

func (s *streamable) post(ctx context.Context, m message, p *progress, recv receive) error {
	hello := m.kind == request && m.method == "initialize"
	if hello {
		s.greeting, s.session, s.version = true, secret{}, ""
		s.settle()
	}
	return s.w.exchange(ctx, http.MethodPost, s.w.url, maps.Clone(s.posting), &m, !s.session.empty(), p, func(resp *http.Response) error {
		if hello {
			id := resp.Header.Get("Mcp-Session-Id")
			if !visible(id) {
				return &exchangeError{fate: final, status: resp.StatusCode, err: errors.New("the server gave a session id with characters that none may have")}
			}
			s.session = hide(id)
			s.settle()
		}
		if m.kind != request || resp.StatusCode == http.StatusAccepted || resp.StatusCode == http.StatusNoContent {
			return accepted(resp)
		}
		return s.w.answer(ctx, resp, s.note(recv))
	})
}

// note looks for the answer to initialize among what passes by, whichever exchange it comes on.
func (s *streamable) note(recv receive) receive {
	if !s.greeting {
		return recv
	}
	return func(m message, more bool) error {
		if s.greeting && m.kind == response {
			s.greeting = false
			v := string(bytes.Trim(peek(m.raw, "result", "protocolVersion"), `"`))
			if v >= "2025-06-18" && visible(v) { // older ones have no such header
				s.version = v
				s.settle()
			}
		}
		return recv(m, more)
	}
}

// answer hands what the server sends back on the exchange of a request to recv. A stream that ends before the
// response is cut if it can be resumed.
func (w *wire) answer(ctx context.Context, resp *http.Response, recv receive) error {
	answered := false
	noting := func(m message, more bool) error {
		answered = answered || m.kind == response
		return recv(m, more)
	}
	kind, body := sniffed(resp)
	switch kind {
	case eventStream:
		err := w.events(ctx, body, "", noting, nil, unknown)
		var e *exchangeError
		if errors.As(err, &e) {
			if answered {
				return nil
			}
			if e.fate == unknown && e.after != "" {
				e.fate = cut
			}
		}
		return err
	case jsonType:
		data, c, err := readAll(ctx, body, resp.ContentLength, w.max, w.mem)
		if err != nil {
			return readError(ctx, err, "", 0)
		}
		if len(data) == 0 {
			break
		}
		batch, err := split(data, c, w.mem)
		if len(batch) == 0 {
			return &exchangeError{fate: unknown, status: resp.StatusCode, err: fmt.Errorf("%w: %w", errBadAnswer, err)}
		}
		for i, m := range batch {
			if err := noting(m, i < len(batch)-1); err != nil {
				if i < len(batch)-1 {
					w.mem.free(c)
				}
				return wanted(err)
			}
		}
	default:
		return notExpected(resp, kind)
	}
	if !answered {
		return &exchangeError{fate: unknown, status: resp.StatusCode, err: errNoAnswer}
	}
	return nil
}

// visible says that s is visible ASCII throughout: all that a session id may be.
func visible(s string) bool {
	for _, c := range []byte(s) {
		if c < 0x21 || c > 0x7e {
			return false
		}
	}
	return true
}

func (s *streamable) listen(ctx context.Context, after string, p *progress, opened func(), recv receive) error {
	h := maps.Clone(s.getting)
	if after != "" {
		h["Last-Event-ID"] = []string{after}
	}
	return s.w.exchange(ctx, http.MethodGet, s.w.url, h, nil, !s.session.empty(), p, func(resp *http.Response) error {
		kind, body := sniffed(resp)
		if kind != eventStream {
			return notExpected(resp, kind)
		}
		opened()
		return s.w.events(ctx, body, after, s.note(recv), nil, cut)
	})
}

// hangup tells the server that the session is over. Servers that do not let clients end sessions say 405.
func (s *streamable) hangup(ctx context.Context) error {
	if s.session.empty() {
		return nil
	}
	p := &progress{start: time.Now()}
	return s.w.exchange(ctx, http.MethodDelete, s.w.url, maps.Clone(s.getting), nil, true, p, accepted)
}
