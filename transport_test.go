package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"testing/iotest"
	"time"
	"unicode/utf8"
)

func (f fate) String() string {
	return [...]string{"unsent", "refused", "gone", "cut", "unknown", "final"}[f]
}

func TestRetryAfter(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	date := func(d time.Duration) string { return now.Add(d).Format(http.TimeFormat) }
	for v, want := range map[string]time.Duration{
		"":                               0,
		"0":                              0,
		"7":                              7 * time.Second,
		"007":                            7 * time.Second,
		"300":                            maxWait,
		"301":                            maxWait,
		"4294967296":                     maxWait,
		"99999999999999999999":           maxWait,
		strings.Repeat("9", 999):         maxWait,
		"-1":                             0,
		"+1":                             0,
		"1.5":                            0,
		"1 s":                            0,
		"٣":                              0,
		"soon":                           0,
		date(9 * time.Second):            9 * time.Second,
		date(-9 * time.Second):           0,
		date(9 * time.Hour):              maxWait,
		"Fri, 31 Dec 9999 23:59:59 GMT":  maxWait,
		"Sunday, 01-Mar-26 12:00:05 GMT": 5 * time.Second,
		"Sun Mar  1 12:00:05 2026":       5 * time.Second,
	} {
		if got := retryAfter(v, now); got != want {
			t.Errorf("%q: %v, want %v", v, got, want)
		}
	}
}

func TestMediaType(t *testing.T) {
	for v, want := range map[string]string{
		"":                                 "",
		"application/json":                 "application/json",
		"Text/Event-Stream; charset=utf-8": "text/event-stream",
		"text/event-stream;charset":        "text/event-stream",
		"text/event-stream; a=b; a=c":      "",
		" application/json ":               "application/json",
		";":                                "",
		"a b":                              "",
	} {
		if got := mediaType(http.Header{"Content-Type": {v}}); got != want {
			t.Errorf("%q: %q, want %q", v, got, want)
		}
	}
}

func TestStatusFates(t *testing.T) {
	tests := []struct {
		status  int
		header  string // name and value
		body    string
		session bool
		want    string
	}{
		{400, "", "Bad Request: No valid session ID provided", true, "gone 400"},
		{400, "", "Bad Request: No valid session ID provided", false, "final 400"},
		{400, "", "No such tool", true, "final 400"},
		{401, "", "", true, "refused 401"},
		{403, "", "", true, "final 403"},
		{403, "WWW-Authenticate: Bearer", "", true, "refused 403"},
		{404, "", "", true, "gone 404"},
		{404, "", "", false, "final 404"},
		{405, "", "", true, "final 405"},
		{408, "", "", true, "unknown 408"},
		{410, "", "", true, "gone 410"},
		{413, "", "", true, "final 413"},
		{425, "", "", true, "refused 425"},
		{429, "", "", true, "refused 429"},
		{429, "Retry-After: 7", "", true, "refused 429 wait 7s"},
		{429, "Retry-After: 99999999999", "", true, "refused 429 wait 5m0s"},
		{500, "", "", true, "unknown 500"},
		{500, "Retry-After: 7", "", true, "unknown 500 wait 7s"},
		{501, "", "", true, "final 501"},
		{502, "", "", true, "unknown 502"},
		{503, "", "", true, "unknown 503"},
		{503, "Retry-After: 7", "", true, "refused 503 wait 7s"},
		{503, "Retry-After: soon", "", true, "refused 503"},
		{504, "", "", true, "unknown 504"},
		{302, "", "", true, "final 302"},
		{304, "", "", true, "final 304"},
	}
	for _, test := range tests {
		h := http.Header{}
		if name, value, ok := strings.Cut(test.header, ": "); ok {
			h.Set(name, value)
		}
		resp := &http.Response{StatusCode: test.status, Header: h, Body: io.NopCloser(strings.NewReader(test.body))}
		err := statusError(resp, test.session)
		if o := outcome(err); o != test.want {
			t.Errorf("%d %s %q, session %v: %s, want %s", test.status, test.header, test.body, test.session, o, test.want)
		}
		var e *exchangeError
		if errors.As(err, &e); string(e.body) != test.body || test.body != "" && strings.Contains(err.Error(), test.body) {
			t.Errorf("%d: body %q, error %v", test.status, e.body, err)
		}
	}
	h := http.Header{"Www-Authenticate": {`Bearer realm="a"`, "DPoP"}}
	var e *exchangeError
	errors.As(statusError(&http.Response{StatusCode: 401, Header: h, Body: io.NopCloser(strings.NewReader(strings.Repeat("x", maxErrorBody+1)))}, false), &e)
	if e.challenge != `Bearer realm="a", DPoP` || len(e.body) != maxErrorBody {
		t.Errorf("challenge %q, body of %d bytes", e.challenge, len(e.body))
	}
}

func TestConnectionErrors(t *testing.T) {
	deny := &exchangeError{fate: final, err: errors.New("denied")}
	tests := []struct {
		err       error
		connected bool
		want      string
	}{
		{io.EOF, true, "unknown"},
		{io.EOF, false, "unsent"},
		{errors.New("sesame"), true, "unknown"},
		{fmt.Errorf("proxy: %w", deny), false, "final"},
		{deny, true, "final"},
		{&signInError{err: errors.New("signed out"), outage: true, wait: time.Second}, false, "unsent wait 1s"},
		{&signInError{err: errors.New("signed out")}, false, "refused 401"},
		{&tls.CertificateVerificationError{Err: errors.New("unknown authority")}, false, "final"},
	}
	for _, test := range tests {
		err := connectionError(&url.Error{Op: "Post", URL: "https://h/path?key=sesame", Err: test.err}, test.connected)
		if o := outcome(err); o != test.want || strings.Contains(err.Error(), "sesame") {
			t.Errorf("%v, connected %v: %s (%v), want %s", test.err, test.connected, o, err, test.want)
		}
	}
}

// TestExchangeTLS meets real certificates and a server that is not what it should be.
func TestExchangeTLS(t *testing.T) {
	plain := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(202) }))
	defer plain.Close()
	sealed := httptest.NewUnstartedServer(plain.Config.Handler)
	sealed.EnableHTTP2 = true
	sealed.Config.ErrorLog = log.New(io.Discard, "", 0)
	sealed.StartTLS()
	defer sealed.Close()
	for _, test := range []struct {
		name, url string
		trust     bool
		want      string
		cert      bool
	}{
		{"trusted, HTTP/2", sealed.URL, true, "ok", false},
		{"not trusted", sealed.URL, false, "final", true},
		{"no TLS there", strings.Replace(plain.URL, "http:", "https:", 1), true, "unsent", false},
		{"TLS there", strings.Replace(sealed.URL, "https:", "http:", 1), true, "final 400", false},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := testWire()
			w.url, _ = url.Parse(test.url + "/?key=sesame")
			w.once = &http.Client{Transport: &http.Transport{}}
			if test.trust {
				w.once = sealed.Client()
			}
			err := newStreamable(w).post(t.Context(), testMessage(t, testInitialized, false), began(), nil)
			var e *exchangeError
			errors.As(err, &e)
			if o := outcome(err); o != test.want || e != nil && e.cert != test.cert || err != nil && strings.Contains(err.Error(), "sesame") {
				t.Errorf("%s (%v), want %s", o, err, test.want)
			}
		})
	}
}

func TestExchangeCompressed(t *testing.T) {
	for coding, want := range map[string]string{"": "ok", "identity": "ok", "Identity": "ok", "gzip": "final 202", "br": "final 202"} {
		w := testWire()
		w.url = &url.URL{Scheme: "http", Host: "mcp.test"}
		w.again = &http.Client{Transport: roundTrip(func(*http.Request) (*http.Response, error) {
			return &http.Response{StatusCode: 202, Body: http.NoBody, Header: http.Header{"Content-Encoding": {coding}}}, nil
		})}
		if o := outcome(newStreamable(w).post(t.Context(), testMessage(t, testInitialized, true), began(), nil)); o != want {
			t.Errorf("%q: %s, want %s", coding, o, want)
		}
	}
}

func TestProgress(t *testing.T) {
	w, _ := loopback(t, nil)
	release := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		w.Header().Set("Content-Type", eventStream)
		say(w, "data: "+testProgress+"\n\n")
		<-release
		say(w, "data: "+testAnswer+"\n\n")
	}))
	defer server.Close()
	w.url, _ = url.Parse(server.URL)
	for _, reused := range []bool{false, true} {
		p := began()
		if p.headers.Load() || p.heard.Load() != 0 {
			t.Error("heard before anything was said")
		}
		var first int64
		err := newStreamable(w).post(t.Context(), testMessage(t, testCall, true), p, func(m message) error {
			if m.raw == nil {
				return nil
			}
			if m.kind == notification {
				if first = p.heard.Load(); first == 0 || !p.headers.Load() {
					t.Error("nothing heard")
				}
				go func() { release <- struct{}{} }()
			} else if p.heard.Load() <= first {
				t.Error("the second message was not heard")
			}
			return nil
		})
		if err != nil || p.reused.Load() != reused {
			t.Errorf("%v, reused %v, want %v", err, p.reused.Load(), reused)
		}
	}
}

// TestHandOwns says who frees what when a batch is refused in the middle.
func TestHandOwns(t *testing.T) {
	body := []byte("[" + testNote(1) + "," + testNote(2) + "]")
	for refuse := range 3 {
		w := testWire()
		var c charge
		if err := w.mem.grow(context.Background(), &c, len(body), true); err != nil {
			t.Fatal(err)
		}
		n := 0
		err := w.hand(t.Context(), &pile{mem: w.mem, max: w.max, urgent: true, head: bytes.Clone(body), charge: c}, func(m message) error {
			w.mem.free(m.charge)
			if n++; n > refuse {
				return errEnough
			}
			return nil
		})
		if (err != nil) != (refuse < 2) || w.mem.used != 0 {
			t.Errorf("refused after %d: %v, %d bytes stay charged", refuse, err, w.mem.used)
		}
	}
}

// TestHandDecodes says what becomes of a message that is not UTF-8 in its strings: U+FFFD is longer, and is charged.
func TestHandDecodes(t *testing.T) {
	const body = "{\"jsonrpc\":\"2.0\",\"method\":\"m\",\"params\":{\"t\":\"caf\xe9 \xe2\x82|\xff\xfe ü\"}}"
	const want = "{\"jsonrpc\":\"2.0\",\"method\":\"m\",\"params\":{\"t\":\"caf\ufffd \ufffd|\ufffd\ufffd ü\"}}"
	for over := range 2 {
		w := testWire()
		w.max = len(want) - over
		var c charge
		if err := w.mem.grow(t.Context(), &c, len(body), true); err != nil {
			t.Fatal(err)
		}
		got := ""
		err := w.hand(t.Context(), &pile{mem: w.mem, max: w.max, urgent: true, head: []byte(body), charge: c}, func(m message) error {
			got = string(m.raw)
			if m.charge.bytes != len(want) {
				t.Errorf("%d bytes are charged for %d", m.charge.bytes, len(want))
			}
			w.mem.free(m.charge)
			return nil
		})
		if over == 0 && (err != nil || got != want) || over == 1 && (!errors.Is(err, errTooLarge) || got != "") || w.mem.used != 0 {
			t.Errorf("a limit of %d for %d bytes: %q, %v, %d bytes stay charged", w.max, len(want), got, err, w.mem.used)
		}
	}
}

// TestHandLarge takes answers of every size around the ends of pieces, as bodies whose length is known and as events,
// and reuses the buffers of each for the next. What is not a plain result is looked into, and comes in one part.
func TestHandLarge(t *testing.T) {
	const max = small + 2*pieceSize
	w := &wire{max: max, mem: newBudget(64<<20, max), log: slog.New(slog.DiscardHandler)}
	text := func(size int, head, tail string) string {
		filling := fmt.Sprintf(`%d\n“%d” `, size, size*size)
		filling = strings.Repeat(filling, size/len(filling)+1)
		rest := size - len(head) - len(tail)
		for !utf8.ValidString(filling[:rest]) || strings.HasSuffix(filling[:rest], `\`) {
			rest--
		}
		return head + filling[:rest] + strings.Repeat("x", size-len(head)-len(tail)-rest) + tail
	}
	for _, form := range []struct{ head, tail, id string }{
		{`{"jsonrpc":"2.0","id":7,"result":{"text":"`, `"}}`, "7"},
		{`{"result":["`, `"],"id":"a","jsonrpc":"2.0"}`, `"a"`},
		{`{"jsonrpc":"2.0","id":7,"error":{"code":1,"message":"`, `"}}`, "7"},
		{`{"jsonrpc":"2.0","method":"m","params":["`, `"]}`, ""},
		{`{"jsonrpc":"2.0","id":7,"method":"m","params":{"name":"n","a":"`, `"}}`, "7"},
		{`[{"jsonrpc":"2.0","id":7,"result":"`, `"}]`, "7"},
		{`{"jsonrpc":"2.0","id":7,"result":"`, `"`, "bad"},
		{`{"jsonrpc":"2.0","id":7,"result":"`, `"} x`, "bad"},
		{`{"jsonrpc":"2.0","id":7,"result":"`, "\xff\"}", "7"},
	} {
		for _, size := range []int{small, small + 1, small + pieceSize - headroom, small + pieceSize - headroom + 1, max} {
			body := text(size, form.head, form.tail)
			want := strings.ToValidUTF8(body, "\ufffd")
			line, bad := strings.Trim(want, "[]"), len(want) > max
			chunks := func(text string) io.Reader { return &chunks{s: text, sizes: []int{70_000, 1}} }
			read := func(size int) *pile {
				p := &pile{mem: w.mem, max: max, urgent: true}
				p.err = p.read(t.Context(), chunks(body), int64(size))
				return p
			}
			for how, come := range map[string]func() *pile{
				"known":   func() *pile { return read(size) },
				"unknown": func() *pile { return read(-1) },
				"event": func() *pile {
					for r := newEventReader(chunks("data: "+body+"\n\n"), max, w.mem, ""); ; {
						if e, ok, err := r.buffered(t.Context()); ok || err != nil {
							return &e.data
						}
						r.fill()
					}
				},
			} {
				p := come()
				got := ""
				err := w.hand(t.Context(), p, func(m message) error {
					plain := m.kind == response && !m.failed && strings.HasPrefix(form.head, "{") && utf8.ValidString(body)
					if m.id != form.id || m.charge.bytes < len(want) || m.rest == nil && m.charge.bytes != len(want) || (m.rest != nil) != (plain && size > small) || string(m.whole().raw) != line {
						t.Errorf("%s, %d bytes of %s…: %+.300v", how, size, form.head, m)
					}
					var out bytes.Buffer
					bw := bufio.NewWriter(&out)
					m.writeLine(bw)
					bw.Flush()
					w.mem.recycle(m.rest)
					w.mem.free(m.charge)
					got = strings.TrimSuffix(out.String(), "\n")
					return nil
				})
				if refused := form.id == "bad" || bad; refused != (err != nil) || !refused && got != line || w.mem.used != 0 {
					t.Errorf("%s, %d bytes of %s…: %v, %d bytes written, %d stay charged", how, size, form.head, err, len(got), w.mem.used)
				}
			}
		}
	}
}

// TestHandCut ends a large answer whose length was announced, in each of its pieces.
func TestHandCut(t *testing.T) {
	body := `{"jsonrpc":"2.0","id":7,"result":"` + strings.Repeat("x", 3*pieceSize) + `"}`
	for _, at := range []int{0, 10, small, small + 1, small + pieceSize, len(body) - 1} {
		w := testWire()
		p := pile{mem: w.mem, max: w.max, urgent: true}
		p.err = p.read(t.Context(), io.MultiReader(strings.NewReader(body[:at]), iotest.ErrReader(io.ErrUnexpectedEOF)), int64(len(body)))
		err := w.hand(t.Context(), &p, func(message) error { t.Error("a message"); return nil })
		if outcome(err) != "unknown" || w.mem.used != 0 {
			t.Errorf("cut after %d bytes: %v, %d stay charged", at, err, w.mem.used)
		}
	}
}
