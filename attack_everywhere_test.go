package main

// attack_everywhere_test.go tries each class of what a hostile server can say on each transport, against the program as
// it is shipped. What has to come of it is the same everywhere but where a transport cannot tell: the call has one
// answer, the next call works, nothing raw is printed, nobody else is contacted, and little memory was held.

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
)

// An offence is what a hostile server answers to a call.
type offence struct {
	name string

	// Either messages in place of the response, in which %ID% is its id and %OK% is it as it should be; or an answer
	// outside of JSON-RPC.
	says   []string
	stream string // or what an event stream holds before it
	answer func(w http.ResponseWriter, r *http.Request, m fakeRequest)

	// What the call is answered: a regular expression. Where a message on a stream that belongs to no single call cannot be
	// read, nothing is known of any call: there the good answer that follows counts.
	want string
	sse  string // on HTTP+SSE; "" is the same
}

func offences(elsewhere string) []offence {
	const unclear, refused, bad = `-31002`, `-31004`, `-31005|-31002`
	const ok = `"result"`
	escapes := `\u001b]0;owned\u0007\u001b[2J\r\nmcp-redial: error: forged`
	nested := strings.Repeat("[", 1<<20)
	many := make([]string, 3000)
	for i := range many {
		many[i] = fmt.Sprintf(`{"jsonrpc":"2.0","id":%d,"method":"ping"}`, i)
	}
	var ids strings.Builder
	for i := range 10_000 {
		fmt.Fprintf(&ids, "id: %01000d\nretry: 1\ndata: "+noteLine+"\n\n", i, "x")
	}
	redirect := func(code int, to string) func(http.ResponseWriter, *http.Request, fakeRequest) {
		return answerStatus(code, "Location", to)
	}
	return []offence{
		{name: "half a message", says: []string{`{"jsonrpc":"2.0","id":%ID%,"result":`}, want: bad, sse: ok},
		{name: "an open bracket a million times", says: []string{`{"jsonrpc":"2.0","id":%ID%,"result":` + nested + `}`}, want: bad, sse: ok},
		{name: "as many that are closed", says: []string{`{"jsonrpc":"2.0","id":%ID%,"result":` + nested + strings.Repeat("]", 1<<20) + `}`}, want: bad, sse: ok},
		{name: "an id twice", says: []string{`{"jsonrpc":"2.0","id":%ID%,"id":"other","result":{}}`}, want: bad, sse: ok},
		{name: "an id in another case", says: []string{`{"jsonrpc":"2.0","id":%ID%,"ID":"other","result":{}}`}, want: bad, sse: ok},
		{name: "result and error", says: []string{`{"jsonrpc":"2.0","id":%ID%,"result":{},"error":{"code":1,"message":""}}`}, want: bad, sse: ok},
		{name: "raw control characters", says: []string{`{"jsonrpc":"2.0","id":%ID%,"result":{"a":"` + "\x1b[2J\x07" + `"}}`}, want: bad, sse: ok},
		{name: "no array that may be", says: []string{`[]`}, want: bad, sse: ok},
		{name: "more than a message may have", says: []string{`{"jsonrpc":"2.0","id":%ID%,"result":{"a":"` + strings.Repeat("a", 1<<22) + `"}}`}, want: `-31006`, sse: `-31006|-31002`},
		{name: "escape sequences", says: []string{`{"jsonrpc":"2.0","id":%ID%,"error":{"code":-32000,"message":"` + escapes + `"}}`}, want: `-32000`},
		{name: "bytes that are no UTF-8", says: []string{`{"jsonrpc":"2.0","id":%ID%,"result":{"a":"` + "\xff\xfe" + `"}}`}, want: ok},
		{name: "two answers", says: []string{"%OK%", `{"jsonrpc":"2.0","id":%ID%,"result":{"second":true}}`}, want: ok},
		{name: "three thousand questions", says: append(many, "%OK%"), want: ok},
		{name: "an answer that it has not been asked for", says: []string{`{"jsonrpc":"2.0","id":"nobody","result":{}}`, "%OK%"}, want: ok},
		{name: "a cancellation of what the client asks", says: []string{`{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":%ID%}}`, "%OK%"}, want: ok},

		{name: "a page", answer: answerPortal, want: refused, sse: ok},
		{name: "a million bytes of error", answer: answerWith(400, "text/plain", strings.Repeat("\x1b[2J", 1<<18)), want: refused, sse: refused + "|" + ok},
		{name: "a status that does not exist", answer: answerStatus(799), want: unclear, sse: unclear + "|" + ok},
		{name: "a gzip bomb", answer: answerWith(200, jsonType, strings.Repeat("\x1f\x8b", 1<<19), "Content-Encoding", "gzip"), want: refused, sse: refused + "|" + ok},
		{name: "a redirect to another origin", answer: redirect(307, elsewhere), want: refused, sse: refused + "|" + ok},
		{name: "a redirect to a file", answer: redirect(308, "file:///etc/passwd"), want: refused, sse: refused + "|" + ok},
		{name: "a redirect as GET", answer: redirect(303, "/mcp"), want: refused, sse: refused + "|" + ok},
		{name: "redirects without end", answer: redirect(307, "?again"), want: refused, sse: refused + "|" + ok},
		{name: "too many bytes of headers", answer: answerStatus(200, "X-Large", strings.Repeat("h", maxHeaders)), want: unclear, sse: unclear + "|" + ok},
		{name: "too many headers", answer: func(w http.ResponseWriter, r *http.Request, m fakeRequest) {
			for i := range maxHeaders / 8 {
				w.Header().Set(fmt.Sprintf("X-%d", i), "")
			}
			w.WriteHeader(http.StatusOK)
		}, want: unclear, sse: unclear + "|" + ok},
		{name: "a stream that is compressed", answer: answerWith(200, eventStream, strings.Repeat("\x1f\x8b", 1<<19), "Content-Encoding", "gzip"), want: refused, sse: refused + "|" + ok},
		{name: "a challenge that points into the cloud", answer: answerStatus(401, "WWW-Authenticate", `Bearer resource_metadata="http://169.254.169.254/latest/", scope="\"`), want: `-31003`, sse: `-31003|` + ok},
		{name: "ten thousand event ids", stream: ids.String(), want: ok},
		{name: "a retry without end", stream: "retry: " + strings.Repeat("9", 300) + "\nid: 1\ndata:\n\n", want: ok},
		{name: "one for more scope, into the network", answer: answerStatus(403, "WWW-Authenticate", `Bearer error="insufficient_scope", resource_metadata="https://10.0.0.1/x"`), want: `-31003`, sse: `-31003|` + ok},
	}
}

func TestAttackEverywhere(t *testing.T) {
	env := shipped(t)
	var contacted atomic.Int64
	other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { contacted.Add(1) }))
	t.Cleanup(other.Close)
	for transport, s := range fakeTransports(false) {
		t.Run(transport, func(t *testing.T) {
			t.Parallel()
			l := onLoopback(t)
			s.start(t, l)
			dir, args := records(t)
			v := attack(t, env, append(args, "http://"+l.Addr().String()+"/mcp", "--max-message-size", "4MiB", "--no-browser", fmt.Sprint(freePort(t)))...)
			v.hello()
			for _, o := range offences(other.URL) {
				f := fault{on: "add", act: true, answer: o.answer, times: 10}
				switch {
				case o.stream != "" && !s.streams && s.kind != fakeSSE: // it is free to answer so
					f.answer = answerWith(200, eventStream, o.stream+"data: "+`{"jsonrpc":"2.0","id":%ID%,"result":{"resultType":"complete","content":[]}}`+"\n\n")
				case o.stream != "":
					f.edit = func(good []byte) [][]byte {
						return [][]byte{[]byte(fmt.Sprintf(noteLine, "x") + "\n\n" + strings.TrimSuffix(o.stream, "\n\n")), good}
					}
				case o.says != nil:
					f.edit = func(good []byte) (out [][]byte) {
						says := o.says
						if o.sse == `"result"` && s.kind == fakeSSE {
							says = append(says, "%OK%")
						}
						if len(says) > 1 && !s.streams && s.kind != fakeSSE { // there is room for one
							says = says[len(says)-1:]
						}
						for _, text := range says {
							text = strings.ReplaceAll(text, "%ID%", string(peek(good, "id")))
							out = append(out, []byte(strings.ReplaceAll(text, "%OK%", string(good))))
						}
						return out
					}
				}
				s.fail(f)
				got := v.ask("tools/call", fmt.Sprintf(`{"name":"add","arguments":{"key":%q}}`, o.name))
				s.heal()
				want := o.want
				if s.kind == fakeSSE && o.sse != "" {
					want = o.sse
				}
				if !regexp.MustCompile(want).MatchString(got) {
					t.Errorf("%s: answered %.400s, want %s", o.name, got, want)
				}
				if got := v.ask("tools/list", "{}"); !strings.Contains(got, `"result"`) {
					t.Errorf("after %s: answered %.400s", o.name, got)
				}
				if n := s.runs(o.name); n != 1 && !strings.HasPrefix(o.name, "redirects") { // there it is the server that says: once more
					t.Errorf("%s: the tool ran %d times", o.name, n)
				}
			}
			v.wantPeak(64)
			if code := v.end(); code != 0 {
				t.Errorf("exit %d", code)
			}
			if n := strings.Count(v.stdout(), `"data":"x"`); n < 1000 && s.kind != fakeStateless { // there nobody has asked for log messages
				t.Errorf("%d of the events with ids have arrived", n)
			}
			answers := map[string]int{}
			for line := range strings.Lines(v.stdout()) {
				if m, err := scan([]byte(line)); err != nil {
					t.Errorf("standard output holds %.200q", line)
				} else if m.kind == response {
					answers[m.id]++
				}
			}
			for id, n := range answers {
				if n != 1 {
					t.Errorf("%s is answered %d times", id, n)
				}
			}
			for where, text := range map[string]string{"standard error": v.stderr(), "what was written": everything(t, dir)} {
				if i := strings.IndexAny(text, "\x1b\x07\r\x7f"); i >= 0 {
					t.Errorf("%s holds %.100q", where, text[i:])
				}
			}
		})
	}
	t.Cleanup(func() {
		if n := contacted.Load(); n > 0 {
			t.Errorf("somebody else was contacted %d times", n)
		}
	})
}
