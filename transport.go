package main

// transport.go holds what the three transports share: the interface that the loop sees, what is known of a
// message whose exchange failed, and the one function that performs an HTTP exchange. It opens no
// connection of its own (client.go does), retries nothing and remembers nothing.

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"mime"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
	"unicode/utf8"
)

// fate is what is known of a message whose exchange failed.
type fate uint8

const (
	unsent  fate = iota // no connection was obtained: the server cannot have seen it
	refused             // declined without acting: 401, 403 with a challenge, 429, 503 with Retry-After
	gone                // the server rejected our session; this message was not acted on
	cut                 // the stream broke but the server keeps our place: cursor in after
	unknown             // it may have been acted on
	final               // hopeless: certificate, 400, 403, HTML, a cross-origin redirect
)

const (
	jsonType     = "application/json"
	eventStream  = "text/event-stream"
	maxErrorBody = 64 << 10        // bytes of an error answer that are kept for classification
	restTime     = 2 * time.Second // for what is left of a body that nobody waits for
	maxWait      = 5 * time.Minute // the longest floor a server can set with retry or Retry-After
)

// An exchangeError says how an exchange failed, as fields: nothing is ever matched in its text, which
// holds no body, path, query or header value.
type exchangeError struct {
	fate      fate
	err       error
	status    int           // 0 if no response headers arrived
	body      []byte        // at most maxErrorBody, for the loop's classification only
	after     string        // Last-Event-ID to resume with
	wait      time.Duration // SSE retry: or Retry-After; a floor under the backoff, at most maxWait
	challenge string        // WWW-Authenticate, all lines joined by ", "
	cert      bool          // the peer's certificate was refused
}

func (e *exchangeError) Error() string { return e.err.Error() }
func (e *exchangeError) Unwrap() error { return e.err }

// challenged says whether a credential may help.
func (e *exchangeError) challenged() bool {
	return e != nil && e.fate == refused && (e.status == http.StatusUnauthorized || e.status == http.StatusForbidden)
}

// A signInError says why there is no credential. It is made by oauth.go and headers.go.
type signInError struct {
	err    error
	outage bool          // a network fault, 5xx or timeout on the way: try again like any other outage
	wait   time.Duration // floor for the next try
	hint   string        // the next step for a person, with the address to open; "" if none
}

func (e *signInError) Error() string { return e.err.Error() }
func (e *signInError) Unwrap() error { return e.err }

// receive takes what a server sent, in order, and owns it from then on. A message without raw says that nothing
// more has arrived yet, so that the receiver may act on messages together. It blocks: that is the back-pressure.
// It ends the exchange by returning an error; errEnough ends it without one.
type receive func(m message) error

var errEnough = errors.New("nothing more is wanted of this exchange")

// progress is what the loop's watch may see of a running exchange; the exchange alone writes it.
type progress struct {
	start   time.Time
	reused  atomic.Bool  // the connection had served an exchange before
	headers atomic.Bool  // the response headers have arrived
	heard   atomic.Int64 // nanoseconds from start to the last byte of the answer; 0 if none
}

// A transport carries one session. It does one exchange a call, never retries, and lives as long as the
// session does. Its methods may be called concurrently once opened has been called or the first post has
// returned.
type transport interface {
	// post delivers m and hands everything that the server sends back on that exchange to recv. A nil
	// result means that the server accepted m and that recv has had all there was on this exchange: for a
	// request that may be nothing (202, or any success on HTTP+SSE), and the answer comes through listen.
	// Failures are *exchangeError, or the context's error.
	post(ctx context.Context, m message, p *progress, recv receive) error

	// listen holds the server's own stream open, or resumes one after a cursor; opened is called once the
	// stream can be relied on (HTTP+SSE: the endpoint is known). It always returns an error: the end of a
	// Streamable HTTP stream is cut, with the newest cursor in after ("" if the server gave none).
	listen(ctx context.Context, after string, p *progress, opened func(), recv receive) error

	// id is what the server calls the session, once the handshake is answered; empty if it keeps none.
	id() secret

	// hangup ends the session, best effort, within ctx.
	hangup(ctx context.Context) error
}

// A transportKind says which transport a session is on.
type transportKind uint8

const (
	kindStreamable transportKind = iota + 1 // MCP 2025-03-26 to 2025-11-25
	kindSSE                                 // MCP 2024-11-05
	kindStateless                           // MCP 2026-07-28
)

func (k transportKind) String() string {
	return [...]string{"none", "Streamable HTTP", "HTTP+SSE", "stateless HTTP"}[k]
}

// A wire is what every transport needs of the outside.
type wire struct {
	url   *url.URL     // of the MCP server
	again *http.Client // exchanges that may be repeated
	once  *http.Client // those that may not: a pool of its own whose connections idle for 1 s at most
	max   int          // bytes in one message
	mem   *budget
	log   *slog.Logger
}

// exchange performs one HTTP exchange and closes its body. m may be nil (GET, DELETE). A 2xx response goes
// to handle, with its body metered into p; any other becomes an *exchangeError, as does a response with a
// Content-Encoding, which nobody asked for. session says that the request carries our session, so
// that 404 and 410 mean that it is lost.
func (w *wire) exchange(ctx context.Context, method string, u *url.URL, h http.Header, m *message, session bool, p *progress, handle func(*http.Response) error) error {
	safe := m == nil || m.safe
	var connected bool // so that a server may have seen the message
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		// net/http may try again by itself; each try begins with GetConn. What is not safe it tries again
		// only if nothing was written, or the server said that it did not act. WroteRequest is of no use:
		// it fires before the flush.
		GetConn: func(string) { connected = connected && safe },
		GotConn: func(i httptrace.GotConnInfo) { connected = true; p.reused.Store(i.Reused) },
	})
	req := (&http.Request{Method: method, URL: u, Header: h}).WithContext(ctx)
	client := w.again
	if safe {
		h["Idempotency-Key"] = []string{} // net/http: may be retried on a stale connection; not sent
	}
	if m != nil {
		req.ContentLength = int64(m.size())
		req.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(m.body()), nil }
		req.Body, _ = req.GetBody()
	}
	if !safe || method == http.MethodGet { // a stream whose line may be dead must not wait for a second one
		client = w.once
	}
	resp, err := client.Do(req)
	if err != nil {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		return connectionError(err, connected)
	}
	defer resp.Body.Close()
	p.headers.Store(true)
	p.heard.Store(int64(time.Since(p.start)))
	resp.Body = &meteredBody{resp.Body, p}
	if resp.StatusCode/100 != 2 {
		return statusError(resp, session)
	}
	if enc := resp.Header.Get("Content-Encoding"); enc != "" && !strings.EqualFold(enc, "identity") {
		return &exchangeError{fate: final, status: resp.StatusCode, err: errors.New("the server compressed its answer although nobody asked for that")}
	}
	if err := handle(resp); !errors.Is(err, errEnough) {
		return err
	}
	return nil
}

type meteredBody struct {
	io.ReadCloser
	p *progress
}

func (b *meteredBody) Read(buf []byte) (int, error) {
	n, err := b.ReadCloser.Read(buf)
	if n > 0 {
		b.p.heard.Store(int64(time.Since(b.p.start)))
	}
	return n, err
}

// connectionError classifies an error of client.Do. net/http wraps it in the whole URL, which must not
// travel further.
func connectionError(err error, connected bool) error {
	if whole, ok := errors.AsType[*url.Error](err); ok {
		err = whole.Err
	}
	policy, denied := errors.AsType[*exchangeError](err) // client.go refused a redirect, an origin or an address
	absent, alone := errors.AsType[*signInError](err)
	cert, untrusted := errors.AsType[*tls.CertificateVerificationError](err)
	switch {
	case denied:
		return policy
	case alone && absent.outage:
		return &exchangeError{fate: unsent, err: absent, wait: absent.wait}
	case alone:
		return &exchangeError{fate: refused, err: absent, status: http.StatusUnauthorized} // as the server would
	case untrusted:
		return &exchangeError{fate: final, cert: true, err: fmt.Errorf("checking the server's certificate: %w", cert)}
	case !connected:
		return &exchangeError{fate: unsent, err: fmt.Errorf("connecting: %w", err)}
	}
	return &exchangeError{fate: unknown, err: fmt.Errorf("waiting for the answer: %w", shown(err))}
}

// readError classifies an error met while reading the body of an answer; after and wait say where and when
// its stream can be resumed.
func readError(ctx context.Context, err error, after string, wait time.Duration) error {
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case errors.Is(err, errTooLarge):
		return &exchangeError{fate: final, err: fmt.Errorf("reading the answer: %w", errTooLarge)}
	}
	return &exchangeError{fate: unknown, after: after, wait: wait, err: fmt.Errorf("reading the answer: %w", shown(err))}
}

// shown is what may be shown of an error of a connection in use. Others of net/http quote the server:
// malformed headers, the debug data of GOAWAY.
func shown(err error) error {
	if network, ok := errors.AsType[interface { // net.Error
		error
		Timeout() bool
	}](err); ok {
		return network
	}
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return errors.New("the server ended it")
	}
	return errors.New("the connection broke")
}

// statusError classifies a response that is no success.
func statusError(resp *http.Response, session bool) error {
	after := resp.Header.Get("Retry-After")
	e := &exchangeError{
		fate:      final,
		status:    resp.StatusCode,
		body:      rest(resp),
		wait:      retryAfter(after, time.Now()),
		challenge: strings.Join(resp.Header.Values("WWW-Authenticate"), ", "),
		err:       fmt.Errorf("the server answered %d %s", resp.StatusCode, http.StatusText(resp.StatusCode)),
	}
	switch code := resp.StatusCode; {
	case code == http.StatusUnauthorized,
		code == http.StatusForbidden && e.challenge != "",
		code == http.StatusTooManyRequests, code == http.StatusTooEarly,
		code == http.StatusServiceUnavailable && after != "":
		e.fate = refused
	case session && (code == http.StatusNotFound || code == http.StatusGone),
		session && code == http.StatusBadRequest && bytes.Contains(bytes.ToLower(e.body), []byte("session")):
		e.fate = gone
	case code >= 500 && code != http.StatusNotImplemented, code == http.StatusRequestTimeout:
		e.fate = unknown
	}
	return e
}

// rest reads what a body still has, in bounds of bytes and time: nobody waits for it.
func rest(resp *http.Response) []byte {
	late := time.AfterFunc(restTime, func() { resp.Body.Close() })
	defer late.Stop()
	body, _ := io.ReadAll(io.LimitReader(resp.Body, maxErrorBody))
	return body
}

// accepted ends an exchange whose answer says nothing more. A body that is read to its end leaves the
// connection fit for the next exchange.
func accepted(resp *http.Response) error {
	if resp.ContentLength != 0 && mediaType(resp.Header) != eventStream {
		rest(resp)
	}
	return nil
}

// retryAfter reads a Retry-After header: seconds or an HTTP date (RFC 9110, 10.2.3). Nonsense is 0.
func retryAfter(v string, now time.Time) time.Duration {
	if d, ok := parseWait(v, time.Second); ok {
		return d
	}
	t, _ := http.ParseTime(v) // of nonsense long ago
	return max(0, min(t.Sub(now), maxWait))
}

// parseWait reads ASCII digits as a number of units; whatever exceeds maxWait is maxWait.
func parseWait(digits string, unit time.Duration) (d time.Duration, ok bool) {
	n, err := strconv.ParseUint(digits, 10, 64) // the largest there is if that is too small
	return time.Duration(min(n, uint64(maxWait/unit))) * unit, err == nil || errors.Is(err, strconv.ErrRange)
}

// mediaType is the essence of a Content-Type, lower case, "" if there is none or it is malformed.
func mediaType(h http.Header) string {
	t, _, err := mime.ParseMediaType(h.Get("Content-Type"))
	if err != nil && !errors.Is(err, mime.ErrInvalidMediaParameter) {
		return ""
	}
	return t
}

// notExpected is the failure of an exchange whose answer has the media type kind, which is of no use.
func notExpected(resp *http.Response, kind string) error {
	return &exchangeError{fate: final, status: resp.StatusCode, err: fmt.Errorf("the server answered with the media type %q", clean(kind))}
}

// hand gives the messages in p, the data of an event or a JSON answer, to recv; what is charged goes with the last of
// them. Its error is that of recv, an *exchangeError, or a *badMessage if there are none.
func (w *wire) hand(ctx context.Context, p *pile, recv receive) error {
	text := stepper{b: p.head, own: true}
	if len(p.pieces) > 0 || p.left > 0 {
		text.more = func(left []byte) []byte { return p.next(ctx, left) }
	}
	m, err := scanText(text)
	for p.more(ctx) { // what the scan has not come to
	}
	switch {
	case p.err != nil:
		defer p.drop()
		return readError(ctx, p.err, "", 0)
	case err == nil && (len(p.pieces) == 0 || m.kind == response && !m.failed): // nearly always
		if len(p.pieces) > 0 {
			m.raw, m.rest = p.head, p.pieces
		}
		m.charge = p.charge
		p.empty()
		return recv(m)
	}
	data, c := p.take()
	batch, bad := scanAll(data, true)
	if len(bad) > 0 && !utf8.Valid(data) { // servers do send it, inside strings
		w.mem.free(c)
		if err := p.addValid(ctx, data); err != nil {
			p.drop()
			return readError(ctx, err, "", 0)
		}
		data, c = p.take()
		batch, bad = scanAll(data, true)
	}
	defer func() { w.mem.free(c) }() // unless the last has taken it over
	if len(batch) == 0 {
		return bad[0]
	}
	for i, m := range batch {
		if i == len(batch)-1 {
			m.charge, c = c, charge{}
		}
		if err := recv(m); err != nil {
			return err
		}
	}
	return nil
}

// rewritten is m with other bytes; what it is charged with stays.
func (m message) rewritten(raw []byte) message {
	n, err := scan(raw)
	if err != nil {
		return m // raw was put together from valid JSON: it can only be nested too deeply
	}
	n.safe, n.charge, n.as = m.safe, m.charge, m.as
	return n
}

// whole is m in one part, which alone can be looked into.
func (m message) whole() message {
	if m.rest == nil {
		return m
	}
	return m.rewritten(join(m.charge.bytes, m.raw, m.rest))
}
