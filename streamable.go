package main

// streamable.go speaks Streamable HTTP with sessions: 2025-03-26, 2025-06-18 and 2025-11-25. Every message is
// a POST; its answer is JSON or an event stream, which can be resumed by GET when the server numbered its
// events. Nothing is ever posted again from here, and a session id goes nowhere but into our own requests.

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"strings"
	"time"
	"unicode"
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
	return func(m message) error {
		if s.greeting && m.kind == response {
			s.greeting = false
			m = m.whole()
			v := string(bytes.Trim(peek(m.raw, "result", "protocolVersion"), `"`))
			if v >= "2025-06-18" && visible(v) { // older ones have no such header
				s.version = v
				s.settle()
			}
		}
		return recv(m)
	}
}

// answer hands what the server sends back on the exchange of a request to recv. A stream that ends before the
// response is cut if it can be resumed.
func (w *wire) answer(ctx context.Context, resp *http.Response, recv receive) error {
	answered := false
	noting := func(m message) error {
		answered = answered || m.kind == response
		return recv(m)
	}
	var err error
	switch kind, body := sniffed(resp); kind {
	case eventStream:
		err = resumable(w.events(ctx, body, "", noting, ignore))
	case jsonType:
		err = w.answerJSON(ctx, body, resp.ContentLength, noting)
	default:
		err = notExpected(resp, kind)
	}
	if e, ok := errors.AsType[*exchangeError](err); ok {
		if answered {
			return nil // what follows a response may be lost
		}
		e.status = resp.StatusCode
		if e.fate == cut && e.after == "" {
			e.fate = unknown
		}
	}
	if err == nil && !answered {
		return &exchangeError{fate: unknown, status: resp.StatusCode, err: errors.New("the server's answer holds no response")}
	}
	return err
}

func (w *wire) answerJSON(ctx context.Context, body io.Reader, size int64, recv receive) error {
	p := pile{mem: w.mem, max: w.max, urgent: true}
	p.err = p.read(ctx, body, size)
	err := w.hand(ctx, &p, recv)
	if errors.As(err, new(*badMessage)) {
		return &exchangeError{fate: unknown, err: fmt.Errorf("reading the answer: %w", err)}
	}
	return err
}

// ignore is for events of names that mean nothing to Streamable HTTP: servers send heartbeats.
func ignore(string, []byte) error { return nil }

// resumable makes the end of an event stream a cut, and its cursor one that can be sent: net/http refuses
// control characters and strips spaces, and another cursor than the server's own is worse than none.
func resumable(err error) error {
	if e, ok := errors.AsType[*exchangeError](err); ok && e.fate == unknown {
		e.fate = cut
		if strings.TrimSpace(e.after) != e.after || strings.ContainsFunc(e.after, unicode.IsControl) || len(e.after) > maxField {
			e.after = ""
		}
	}
	return err
}

// sniffed returns the media type of an answer and its body. Where the type is missing, or only says that it
// is text, the first bytes decide.
func sniffed(resp *http.Response) (string, io.Reader) {
	kind := mediaType(resp.Header)
	if kind != "" && kind != "text/plain" {
		return kind, resp.Body
	}
	first := make([]byte, 512)
	n, err := io.ReadAtLeast(resp.Body, first, 1)
	body := io.MultiReader(bytes.NewReader(first[:n]), resp.Body)
	switch first = bytes.TrimSpace(first[:n]); {
	case err != nil, bytes.HasPrefix(first, []byte{'{'}), bytes.HasPrefix(first, []byte{'['}):
		return jsonType, body // which says by itself what is wrong if there is nothing
	case kind == "" && !bytes.HasPrefix(first, []byte{'<'}):
		return eventStream, body
	}
	return kind, body
}

// visible says that s is visible ASCII throughout: all that a session id may be.
func visible(s string) bool {
	return !strings.ContainsFunc(s, func(c rune) bool { return c < 0x21 || c > 0x7e })
}

func (s *streamable) listen(ctx context.Context, after string, p *progress, opened func(), recv receive) error {
	h := maps.Clone(s.getting)
	if after != "" {
		h["Last-Event-ID"] = []string{after}
	}
	err := s.w.exchange(ctx, http.MethodGet, s.w.url, h, nil, !s.session.empty(), p, func(resp *http.Response) error {
		kind, body := sniffed(resp)
		if kind != eventStream {
			return notExpected(resp, kind)
		}
		opened()
		return resumable(s.w.events(ctx, body, after, s.note(recv), ignore))
	})
	if e, ok := errors.AsType[*exchangeError](err); ok && e.fate != cut {
		e.after = after // for the next attempt
	}
	return err
}

func (s *streamable) id() secret { return s.session }

// hangup tells the server that the session is over. Servers that do not let clients end sessions say 405.
func (s *streamable) hangup(ctx context.Context) error {
	if s.session.empty() {
		return nil
	}
	p := &progress{start: time.Now()}
	return s.w.exchange(ctx, http.MethodDelete, s.w.url, maps.Clone(s.getting), nil, true, p, accepted)
}
