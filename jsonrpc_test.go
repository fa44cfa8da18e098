package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
)

func TestScan(t *testing.T) {
	for _, test := range []struct {
		line   string
		kind   kind
		id     string
		method string
		failed bool
	}{
		{`{"jsonrpc":"2.0","id":1,"method":"ping"}`, request, `1`, "ping", false},
		{`{"method":"tools/call","params":{"a":[1,{}]},"jsonrpc":"2.0","id":"x"}`, request, `"x"`, "tools/call", false},
		{" \t\r\n{ \"jsonrpc\" : \"2.0\" , \"id\" : -7 , \"method\" : \"a\" } \n", request, `-7`, "a", false},
		{`{"jsonrpc":"2.0","id":12345678901234567890,"method":"m"}`, request, `12345678901234567890`, "m", false},
		{`{"jsonrpc":"2.0","id":"a\u0062","method":"tools\/call"}`, request, `"ab"`, "tools/call", false},
		{`{"json\u0072pc":"2.0","\u0069d":1,"m\u0065thod":"m"}`, request, `1`, "m", false},
		{`{"jsonrpc":"2.0","id":"","method":""}`, request, `""`, "", false},
		{`{"jsonrpc":"2.0","id":1,"method":"m","params":null}`, request, `1`, "m", false},
		{`{"jsonrpc":"2.0","id":1,"method":"m","params":[]}`, request, `1`, "m", false},
		{`{"jsonrpc":"2.0","method":"notifications/initialized"}`, notification, ``, "notifications/initialized", false},
		{`{"jsonrpc":"2.0","id":"x","result":{}}`, response, `"x"`, "", false},
		{`{"jsonrpc":"2.0","id":"x","result":null}`, response, `"x"`, "", false},
		{`{"jsonrpc":"2.0","id":1,"error":{}}`, response, `1`, "", true},
		{`{"jsonrpc":"2.0","id":null,"error":{"code":-1,"message":""}}`, response, ``, "", true},
		{`{"jsonrpc":"2.0","error":{"code":-1,"message":""}}`, response, ``, "", true},
		{`{"jsonrpc":"2.0","id":1,"method":"m","_meta":{},"x":"\ud83d\ude00 ü","param":1,"":2,"i\u0064x":3}`, request, `1`, "m", false},
	} {
		m, err := scan([]byte(test.line))
		if err != nil || m.kind != test.kind || m.id != test.id || m.method != test.method || m.failed != test.failed {
			t.Errorf("%s: %+v, %v", test.line, m, err)
		}
		if want := strings.Trim(test.line, " \t\r\n"); string(m.raw) != want {
			t.Errorf("%s: raw %q", test.line, m.raw)
		}
	}
}

func TestScanRefused(t *testing.T) {
	for _, test := range []struct {
		line string
		code int
		id   string
	}{
		// no JSON
		{``, -32700, ``},
		{`ping`, -32700, ``},
		{`{`, -32700, ``},
		{`{"jsonrpc":"2.0","id":1,"method":"m"`, -32700, `1`},
		{`{"jsonrpc":"2.0","id":1,"method":"m","params":{"a":tru}}`, -32700, `1`},
		{`{"jsonrpc":"2.0","id":1,"params":{"a":tru},"method":"m"}`, -32700, ``}, // may be an answer
		{`{"jsonrpc":"2.0","id":1,"result":{"a":tru},"method":"m"}`, -32700, ``},
		{`{"jsonrpc":"2.0","id":1,"id":2,"method":"m",}`, -32700, ``},
		{`{"jsonrpc":"2.0","id":1,"method":"m"} x`, -32700, `1`},
		{`{"jsonrpc":"2.0","id":1,"method":"m"}{}`, -32700, `1`},
		{"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"m\",\"params\":{\"\xff\":1}}", -32700, `1`},
		{"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"m\",\"\xc3\":1}", -32700, `1`},
		{"\ufeff" + `{"jsonrpc":"2.0","id":1,"method":"m"}`, -32700, ``},
		{`{"jsonrpc":"2.0","id":01,"method":"m"}`, -32700, ``},
		{`{"jsonrpc":"2.0","id":'1',"method":"m"}`, -32700, ``},
		{`{jsonrpc:"2.0","id":1,"method":"m"}`, -32700, ``},

		// no message
		{`[]`, -32600, ``},
		{`1`, -32600, ``},
		{`null`, -32600, ``},
		{`"x"`, -32600, ``},
		{`{}`, -32600, ``},
		{`{"id":1,"method":"m"}`, -32600, `1`},
		{`{"jsonrpc":2.0,"id":1,"method":"m"}`, -32600, `1`},
		{`{"jsonrpc":"2.1","id":1,"method":"m"}`, -32600, `1`},
		{`{"jsonrpc":"2.0","id":1}`, -32600, `1`},
		{`{"jsonrpc":"2.0","id":1,"method":1}`, -32600, `1`},
		{`{"jsonrpc":"2.0","id":1,"method":null}`, -32600, `1`},
		{`{"jsonrpc":"2.0","id":1,"method":"m","params":"x"}`, -32600, `1`},
		{`{"jsonrpc":"2.0","id":1,"method":"m","params":1}`, -32600, `1`},
		{`{"jsonrpc":"2.0","id":1,"method":"m","params":false}`, -32600, `1`},

		// odd ids
		{`{"jsonrpc":"2.0","id":null,"method":"m"}`, -32600, ``},
		{`{"jsonrpc":"2.0","id":1.0,"method":"m"}`, -32600, ``},
		{`{"jsonrpc":"2.0","id":1e2,"method":"m"}`, -32600, ``},
		{`{"jsonrpc":"2.0","id":true,"method":"m"}`, -32600, ``},
		{`{"jsonrpc":"2.0","id":{},"method":"m"}`, -32600, ``},
		{`{"jsonrpc":"2.0","id":[1],"method":"m"}`, -32600, ``},
		{`{"jsonrpc":"2.0","id":1.5,"error":{}}`, -32600, ``},
		{`{"jsonrpc":"2.0","id":null,"result":{}}`, -32600, ``},
		{`{"jsonrpc":"2.0","result":{}}`, -32600, ``},

		// two readings
		{`{"jsonrpc":"2.0","id":1,"id":2,"method":"m"}`, -32600, ``},
		{`{"jsonrpc":"2.0","id":1,"method":"m","method":"n"}`, -32600, ``},
		{`{"jsonrpc":"2.0","id":1,"method":"m","Method":"n"}`, -32600, ``},
		{`{"jsonrpc":"2.0","id":1,"method":"m","param\u017f":{}}`, -32600, ``}, // a long s, which encoding/json folds
		{"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"m\",\"\\u0069d\":2}", -32600, ``},
		{`{"jsonrpc":"2.0","id":1,"method":"m","params":{},"params":{}}`, -32600, ``},
		{`{"jsonrpc":"2.0","jsonrpc":"2.0","id":1,"method":"m"}`, -32600, ``},
		{`{"jsonrpc":"2.0","id":1,"result":{},"error":{}}`, -32600, ``},
		{`{"jsonrpc":"2.0","id":1,"method":"m","result":{}}`, -32600, ``},
		{`{"jsonrpc":"2.0","id":1,"method":"m","error":{}}`, -32600, ``},
		{`{"jsonrpc":"2.0","id":1,"result":{},"result":{}}`, -32600, ``},
		{`{"jsonrpc":"2.0","id":1,"error":"x"}`, -32600, ``},
		{`{"jsonrpc":"2.0","id":1,"error":null}`, -32600, ``},
	} {
		m, err := scan([]byte(test.line))
		var bad *badMessage
		if !errors.As(err, &bad) || bad.code != test.code || bad.id != test.id || bad.text == "" {
			t.Errorf("%s: %+v, %+v", test.line, m, err)
		}
		if valid := json.Valid([]byte(test.line)) && utf8.ValidString(test.line); valid != (test.code == -32600) {
			t.Errorf("%s: the test is wrong: encoding/json says %v", test.line, valid)
		}
	}
}

func TestScanLimits(t *testing.T) {
	nested := func(depth int) string { // the message and params are two of them
		return `{"jsonrpc":"2.0","id":1,"method":"m","params":[` + strings.Repeat("[", depth-2) + strings.Repeat("]", depth-2) + `]}`
	}
	objects := func(depth int) string {
		return `{"jsonrpc":"2.0","id":1,"method":"m","params":` + strings.Repeat(`{"a":`, depth-1) + "1" + strings.Repeat("}", depth-1) + `}`
	}
	id := func(n int) string { return `{"jsonrpc":"2.0","id":"` + strings.Repeat("i", n-2) + `","method":"m"}` }
	number := func(n int) string { return `{"jsonrpc":"2.0","id":` + strings.Repeat("1", n) + `,"method":"m"}` }
	method := func(n int) string { return `{"jsonrpc":"2.0","id":1,"method":"` + strings.Repeat("m", n-2) + `"}` }
	for _, test := range []struct {
		name  string
		make  func(n int) string
		limit int
		code  int
	}{
		{"arrays", nested, maxDepth, -32700},
		{"objects", objects, maxDepth, -32700},
		{"id", id, maxToken, -32600},
		{"number", number, maxToken, -32600},
		{"method", method, maxToken, -32600},
	} {
		if _, err := scan([]byte(test.make(test.limit))); err != nil {
			t.Errorf("%s at the limit: %v", test.name, err)
		}
		_, err := scan([]byte(test.make(test.limit + 1)))
		var bad *badMessage
		if !errors.As(err, &bad) || bad.code != test.code {
			t.Errorf("%s one past the limit: %v", test.name, err)
		}
	}
	// An attack: it must cost no stack, and no time.
	for _, s := range []string{"[", `{"a":`, `[{"a":`} {
		if _, err := scan(bytes.Repeat([]byte(s), 1<<20)); err == nil {
			t.Errorf("a million %s accepted", s)
		}
	}
}

// Each byte that ends a plain run must be found at every offset of the eight that are looked at together.
func TestSkipString(t *testing.T) {
	unraced(t)
	t.Parallel()
	for before := range 20 {
		for _, after := range []int{0, 1, 6, 7, 8, 9, 15, 16, 19} { // around the words that are looked at together
			for c := range 256 {
				for _, prior := range []byte{'a', 0x80, 0xc3, 0xff, '!', '#', '[', ']', '\\'} {
					b := []byte(`"` + strings.Repeat(string(rune('b')), before) + "x" + strings.Repeat("y", after) + `"`)
					b[1+before] = byte(c)
					if before > 0 {
						b[before] = prior
					}
					if got, want := skipString(b, 0) == len(b), json.Valid(b) && utf8.Valid(b); got != want {
						t.Fatalf("%q: %v, encoding/json and utf8 say %v", b, got, want)
					}
				}
			}
		}
	}
}

func TestIDToken(t *testing.T) {
	for _, test := range []struct {
		a, b string
		same bool
	}{
		{`"a"`, `"\u0061"`, true},
		{`"/"`, `"\/"`, true},
		{`"a<b"`, `"a\u003cb"`, true},
		{`"ü"`, `"\u00fc"`, true},
		{`"😀"`, `"\ud83d\ude00"`, true},
		{`"\n"`, `"\u000a"`, true},
		{`"\""`, `"\u0022"`, true},
		{`"\\"`, `"\u005C"`, true},
		{"\"\u2028\"", `"\u2028"`, true},
		{`1`, `"1"`, false},
		{`1`, `2`, false},
		{`"a"`, `"A"`, false},
		{`9007199254740993`, `9007199254740992`, false},
		{`""`, `" "`, false},
	} {
		a, aOK := idToken([]byte(test.a))
		b, bOK := idToken([]byte(test.b))
		if !aOK || !bOK || (a == b) != test.same {
			t.Errorf("%s is %s, %s is %s", test.a, a, test.b, b)
		}
		var x, y any
		if json.Unmarshal([]byte(a), &x) != nil || json.Unmarshal([]byte(test.a), &y) != nil || x != y {
			t.Errorf("%s became %s", test.a, a)
		}
	}
	for _, s := range []string{"", "null", "true", "1.0", "1e1", "-1E2", "{}", "[]"} {
		if id, ok := idToken([]byte(s)); ok {
			t.Errorf("%s is an id: %s", s, id)
		}
	}
}

func TestPeek(t *testing.T) {
	for _, test := range []struct{ raw, path, want string }{
		{`{"params":{"name":"x"}}`, "params.name", `"x"`},
		{` { "params" : { "a" : [ { "name" : 1 } ] , "name" : { } } } `, "params.name", `{ }`},
		{`{"params":{"name":"x"}}`, "params", `{"name":"x"}`},
		{`{"params":{"name":null}}`, "params.name", `null`},
		{`{"params":{"_meta":{"progressToken":7}}}`, "params._meta.progressToken", `7`},
		{`{"params":{"a":{"name":"x"}}}`, "params.name", ``},
		{`{"params":[{"name":"x"}]}`, "params.name", ``},
		{`{"params":"name"}`, "params.name", ``},
		{`{"params":{}}`, "params.name", ``},
		{`{}`, "params.name", ``},
		{`[]`, "params", ``},
		{``, "params", ``},
		{`{"params":{"name":"x"`, "params.name", ``},

		// two readings
		{`{"params":{"name":"safe","name":"danger"}}`, "params.name", ``},
		{`{"params":{"name":"safe","Name":"danger"}}`, "params.name", ``},
		{`{"params":{"Name":"danger"}}`, "params.name", ``},
		{`{"params":{"n\u0061me":"x"}}`, "params.name", `"x"`},
		{`{"params":{"name":"safe","n\u0061me":"danger"}}`, "params.name", ``},
		{`{"params":{"name":"safe","\u006eame":"danger"}}`, "params.name", ``},
		{`{"params":{"name":"safe"},"params":{"name":"danger"}}`, "params.name", ``},
		{`{"tasks":1,"task\u017f":2}`, "tasks", ``},
		{`{"k":1,"` + "\u212a" + `":2}`, "k", ``}, // the Kelvin sign, which encoding/json folds
		{`{"name":1,"names":2,"nam":3,"":4}`, "name", `1`},
	} {
		if got := peek([]byte(test.raw), strings.Split(test.path, ".")...); string(got) != test.want {
			t.Errorf("%s in %s: %s, want %s", test.path, test.raw, got, test.want)
		}
	}
}

func TestUnquote(t *testing.T) {
	for _, test := range []struct {
		token, want string
		ok          bool
	}{
		{`"a b"`, "a b", true},
		{`""`, "", true},
		{`"\ud83d\ude00\t\/"`, "😀\t/", true},
		{`"`, "", false},
		{``, "", false},
		{`1`, "", false},
		{`null`, "", false},
		{`{}`, "", false},
		{`"\x"`, "", false},
	} {
		if got, ok := unquote([]byte(test.token)); got != test.want || ok != test.ok {
			t.Errorf("%s: %q, %v", test.token, got, ok)
		}
	}
}

func TestWithID(t *testing.T) {
	for _, test := range []struct{ line, id, want string }{
		{`{"jsonrpc":"2.0","id":1,"method":"m"}`, ``, `{"jsonrpc":"2.0","id":1,"method":"m"}`},
		{`{"jsonrpc":"2.0","id":1,"method":"m"}`, `"abc-1"`, `{"jsonrpc":"2.0","id":"abc-1","method":"m"}`},
		{` {"id" : "\u0061" , "jsonrpc":"2.0","result":{"id":1}} `, `7`, `{"id" : 7 , "jsonrpc":"2.0","result":{"id":1}}`},
		{`{"jsonrpc":"2.0","error":{},"id":null}`, `7`, `{"jsonrpc":"2.0","error":{},"id":7}`},
		{`{"jsonrpc":"2.0","error":{}}`, `7`, `{"id":7,"jsonrpc":"2.0","error":{}}`},
	} {
		line := []byte(test.line)
		m, err := scan(line)
		if err != nil {
			t.Fatal(test.line, err)
		}
		if test.id != "" {
			m = m.withID(`"before"`).withID(test.id)
		}
		got, _ := io.ReadAll(m.body())
		if string(got) != test.want || m.size() != len(test.want) {
			t.Errorf("%s: %s, size %d", test.line, got, m.size())
		}
		var out bytes.Buffer
		w := bufio.NewWriter(&out)
		if err := m.writeLine(w); err != nil || w.Flush() != nil || out.String() != test.want+"\n" {
			t.Errorf("%s: %q, %v", test.line, out.String(), err)
		}
		if string(line) != test.line {
			t.Errorf("%s was changed", test.line)
		}
	}
	failing := bufio.NewWriterSize(writerFunc(func([]byte) (int, error) { return 0, io.ErrClosedPipe }), 16)
	m, _ := scan([]byte(`{"jsonrpc":"2.0","id":1,"method":"m"}`))
	if err := m.withID("2").writeLine(failing); err != io.ErrClosedPipe {
		t.Error(err)
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(b []byte) (int, error) { return f(b) }

// What the bridge composes must look like what it would have scanned.
func TestCompose(t *testing.T) {
	for _, test := range []struct {
		m    message
		want string
	}{
		{newRequest(`"a-1"`, "ping", nil), `{"jsonrpc":"2.0","id":"a-1","method":"ping"}`},
		{newRequest(`2`, "tools/list", json.RawMessage(`{"cursor":"x"}`)), `{"jsonrpc":"2.0","id":2,"method":"tools/list","params":{"cursor":"x"}}`},
		{newNotification("notifications/initialized", nil), `{"jsonrpc":"2.0","method":"notifications/initialized"}`},
		{newNotification("notifications/progress", json.RawMessage(`{}`)), `{"jsonrpc":"2.0","method":"notifications/progress","params":{}}`},
		{newResult(`3`, json.RawMessage(`{}`)), `{"jsonrpc":"2.0","id":3,"result":{}}`},
		{errorReply("", -32700, "a\nb \x1b", nil), `{"jsonrpc":"2.0","id":null,"error":{"code":-32700,"message":"a\nb \u001b"}}`},
		{errorReply(`"x"`, -31002, "lost", &errorData{Reason: "outcome-unknown", MayHaveRun: true, Attempts: 1, ElapsedMs: 5, Server: "https://a.example", Cause: "reset"}),
			`{"jsonrpc":"2.0","id":"x","error":{"code":-31002,"message":"lost","data":{"source":"mcp-redial","reason":"outcome-unknown","mayHaveRun":true,"attempts":1,"elapsedMs":5,"server":"https://a.example","cause":"reset"}}}`},
	} {
		scanned, err := scan([]byte(test.want))
		if err != nil {
			t.Fatal(test.want, err)
		}
		if diff := cmp.Diff(scanned, test.m, cmp.AllowUnexported(message{}, facts{}, charge{})); diff != "" {
			t.Errorf("%s: %s", test.want, diff)
		}
	}
}

// scanBody is scanAll of what a server sent, and the first of its errors.
func scanBody(body []byte) ([]message, error) {
	msgs, bad := scanAll(body, true)
	return msgs, errors.Join(bad...)
}

func TestScanBody(t *testing.T) {
	batch := func(n int) string {
		return "[" + strings.TrimSuffix(strings.Repeat(`{"jsonrpc":"2.0","method":"m"},`, n), ",") + "]"
	}
	for _, test := range []struct {
		body string
		want []string
		err  bool
	}{
		{`{"jsonrpc":"2.0","id":1,"result":{}}`, []string{`{"jsonrpc":"2.0","id":1,"result":{}}`}, false},
		{"{\r\n  \"jsonrpc\": \"2.0\",\n  \"id\": 1,\r  \"result\": {\n\t\"a\": \"\\n\"\n  }\n}\n", []string{"{    \"jsonrpc\": \"2.0\",   \"id\": 1,   \"result\": { \t\"a\": \"\\n\"   } }"}, false},
		{"[{\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{}},\n{\"jsonrpc\":\"2.0\",\n\"method\":\"m\"}]", []string{`{"jsonrpc":"2.0","id":1,"result":{}}`, `{"jsonrpc":"2.0", "method":"m"}`}, false},
		{`[{"jsonrpc":"2.0","id":1,"result":{}},{},7,[],{"jsonrpc":"2.0","method":"m"}]`, []string{`{"jsonrpc":"2.0","id":1,"result":{}}`, `{"jsonrpc":"2.0","method":"m"}`}, true},
		{"{\"jsonrpc\":\"2.0\",\"id\":1,\"result\":\"caf\xe9\"}", nil, true},
		{"{\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{}}\xff", nil, true},
		{`[]`, nil, true},
		{``, nil, true},
		{` `, nil, true},
		{`[{"jsonrpc":"2.0","method":"m"}`, nil, true},
		{`[{"jsonrpc":"2.0","method":"m"}] x`, nil, true},
		{"<!doctype html>\n", nil, true},
		{"{\"jsonrpc\":\"2.0\",\"id\":1,\"result\":\"a\nb\"}", nil, true},
		{batch(maxBatch + 1), nil, true},
	} {
		msgs, err := scanBody([]byte(test.body))
		var got []string
		for _, m := range msgs {
			got = append(got, string(m.raw))
		}
		if diff := cmp.Diff(test.want, got); diff != "" || (err != nil) != test.err {
			t.Errorf("%.200q: %v %s", test.body, err, diff)
		}
	}
	if msgs, err := scanBody([]byte(batch(maxBatch))); len(msgs) != maxBatch || err != nil {
		t.Errorf("%d messages, %v", len(msgs), err)
	}
}

func TestScanAll(t *testing.T) {
	msgs, bad := scanAll([]byte(` [ {"jsonrpc":"2.0","id":1,"method":"a"}, {"jsonrpc":"2.0","id":2}, 3, {"jsonrpc":"2.0","method":"b"} ] `), false)
	if len(msgs) != 2 || msgs[0].method != "a" || msgs[1].method != "b" || len(bad) != 2 {
		t.Fatal(msgs, bad)
	}
	for i, id := range []string{"2", ""} {
		var e *badMessage
		if !errors.As(bad[i], &e) || e.code != -32600 || e.id != id {
			t.Errorf("%+v", bad[i])
		}
	}
	for _, test := range []struct {
		text string
		code int
	}{
		{`[]`, -32600},
		{`[1,]`, -32700},
		{`[{"jsonrpc":"2.0","id":1,"method":"a"}`, -32700},
		{`[{"jsonrpc":"2.0","id":1,"method":"a"}],`, -32700},
	} {
		msgs, bad := scanAll([]byte(test.text), false)
		var e *badMessage
		if len(msgs) != 0 || len(bad) != 1 || !errors.As(bad[0], &e) || e.code != test.code {
			t.Errorf("%s: %v %v", test.text, msgs, bad)
		}
	}
	if !isBatch([]byte(" [")) || isBatch([]byte(" {[")) || isBatch(nil) {
		t.Error("isBatch")
	}
}

// envelope is what encoding/json makes of a text: ok says whether the text is one message by the rules of
// scan, where that can be told from the decoded members.
func envelope(b []byte) (members map[string]json.RawMessage, ok bool) {
	if !utf8.Valid(b) || !json.Valid(b) || json.Unmarshal(b, &members) != nil || members == nil {
		return nil, false
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.Token()
	seen := map[string]bool{}
	for d.More() {
		key, _ := d.Token()
		name := key.(string)
		for _, member := range []string{"jsonrpc", "id", "method", "params", "result", "error"} {
			if strings.EqualFold(name, member) && (name != member || seen[name]) {
				return nil, false
			}
		}
		seen[name] = true
		var skip json.RawMessage
		if err := d.Decode(&skip); err != nil {
			return nil, false
		}
	}
	var method string
	id, hasID := members["id"]
	_, hasResult := members["result"]
	failure, failed := members["error"]
	_, asks := members["method"]
	goodID := hasID && len(id) <= maxToken && (id[0] == '"' || !strings.ContainsAny(string(id), ".eEntf{["))
	switch {
	case string(members["jsonrpc"]) != `"2.0"`,
		asks && (hasResult || failed), hasResult && failed, !asks && !hasResult && !failed,
		failed && failure[0] != '{',
		asks && (json.Unmarshal(members["method"], &method) != nil || string(members["method"]) == "null" || len(members["method"]) > maxToken),
		asks && members["params"] != nil && strings.IndexByte("{[n", members["params"][0]) < 0,
		asks && hasID && !goodID, hasResult && !goodID, failed && hasID && !goodID && string(id) != "null":
		return nil, false
	}
	return members, true
}

func FuzzScan(f *testing.F) {
	f.Fuzz(func(t *testing.T, b []byte) {
		before := bytes.Clone(b)
		valid := json.Valid(b) && utf8.Valid(b)
		if got := each(b, nil) == len(b) && len(b) > 0; got != valid {
			if depth := strings.Count(string(b), "[") + strings.Count(string(b), "{"); depth <= maxDepth {
				t.Fatalf("%q: valid is %v, encoding/json and utf8 say %v", b, got, valid)
			}
		}
		m, err := scan(b)
		members, ok := envelope(b)
		if ok != (err == nil) && strings.Count(string(b), "[")+strings.Count(string(b), "{") <= maxDepth {
			t.Fatalf("%q: %v, but its envelope is %v", b, err, members)
		}
		if !bytes.Equal(b, before) {
			t.Fatalf("%q became %q", before, b)
		}
		if err != nil {
			var bad *badMessage
			if !errors.As(err, &bad) || (bad.code == -32700) == valid || m.raw != nil {
				t.Fatalf("%q: %+v", b, err)
			}
			return
		}
		if !bytes.Equal(m.raw, bytes.Trim(b, " \t\r\n")) {
			t.Fatalf("%q: raw %q", b, m.raw)
		}
		var method string
		json.Unmarshal(members["method"], &method)
		if m.method != method || m.failed != (members["error"] != nil) || (m.kind == response) != (members["method"] == nil) || (m.kind == notification) != (members["method"] != nil && members["id"] == nil) {
			t.Fatalf("%q: %+v", b, m)
		}
		if id := members["id"]; string(id) != string(m.raw[m.idAt:m.idEnd]) {
			t.Fatalf("%q: id %s", b, m.raw[m.idAt:m.idEnd])
		} else if (m.id != "") != (id != nil && id[0] != 'n') {
			t.Fatalf("%q: id %s", b, m.id)
		} else if m.id != "" {
			var x, y any
			decode(t, m.id, &x)
			decode(t, string(id), &y)
			if x != y {
				t.Fatalf("%q: id %s", b, m.id)
			}
		}
		if m.kind == notification {
			return
		}
		// Another id changes nothing else.
		out, _ := io.ReadAll(m.withID(`"bridge"`).body())
		n, err := scan(out)
		if err != nil || n.id != `"bridge"` || n.kind != m.kind || n.method != m.method || len(out) != m.withID(`"bridge"`).size() {
			t.Fatalf("%q became %q: %v", b, out, err)
		}
		back, _ := io.ReadAll(n.withID(string(m.raw[m.idAt:m.idEnd])).body())
		if m.idAt < m.idEnd && !bytes.Equal(back, m.raw) {
			t.Fatalf("%q came back as %q", m.raw, back)
		}
	})
}

func decode(t *testing.T, s string, v any) {
	d := json.NewDecoder(strings.NewReader(s))
	d.UseNumber()
	if err := d.Decode(v); err != nil {
		t.Fatal(s, err)
	}
}

// member is peek for one name, by encoding/json.
func member(b []byte, name string) (value []byte) {
	d := json.NewDecoder(bytes.NewReader(b))
	if open, err := d.Token(); err != nil || open != json.Delim('{') {
		return nil
	}
	alike := 0
	for d.More() {
		key, _ := d.Token()
		var v json.RawMessage
		if err := d.Decode(&v); err != nil {
			return nil
		}
		if strings.EqualFold(key.(string), name) {
			alike++
		}
		if key == name {
			value = v
		}
	}
	if alike != 1 {
		return nil
	}
	return value
}

// inPieces scans text that comes in pieces of the given sizes, over and over, and returns what has been made of the
// text; turned says that there was more than one.
func inPieces(text []byte, sizes ...int) (m message, after []byte, turned bool, err error) {
	cut := func() (part []byte) {
		n := min(max(sizes[0], 1), len(text))
		part, text = bytes.Clone(text[:n]), text[n:]
		sizes = append(sizes[1:], sizes[0])
		return part
	}
	var before []byte
	piece := cut()
	m, err = scanText(stepper{b: piece, own: true, more: func(left []byte) []byte {
		if len(text) == 0 {
			return nil
		}
		turned = true
		before = append(before, piece[:len(piece)-len(left)]...)
		piece = append(bytes.Clone(left), cut()...)
		return piece
	}})
	return m, slices.Concat(before, piece, text), turned, err
}

// A result is read in pieces as it is in one, wherever they are cut.
func TestScanPieces(t *testing.T) {
	long := strings.Repeat(`He said \"no\", \\ \u00fc\/ üüü €€€ 😀😀 and a\tlot more of it; `, 15)
	value := `{"s":"` + long + `","n":[-0.5e+10,12345,true,false,null,{}],"` + strings.Repeat("k", 300) + `":  [ ] ` + strings.Repeat(" ", 1500) + `,"e":"","u":"` + strings.Repeat("€", 500) + `"}`
	for _, text := range []string{
		`{"jsonrpc":"2.0","id":17,"result":` + value + "}",
		`{"result":` + value + `,"jsonrpc":"2.0","id":"abc"}`,
		" \r\n{\"result\":[" + value + ",\n" + value + "]\t,\"id\" :-7,\"jsonrpc\":\"2.0\"}" + strings.Repeat(" \n", 1000),
	} {
		line := []byte(text)
		want, err := scanText(stepper{b: line, own: true})
		if err != nil {
			t.Fatal(err)
		}
		for at := strings.IndexByte(text, '{') + 1; at < len(text); at += 3 { // what is before is never as long as a piece
			for _, sizes := range [][]int{{at, len(text)}, {at, 1500, 7}}[:1+at%2] {
				m, after, turned, err := inPieces([]byte(text), sizes...)
				if err != nil || !turned || m.kind != response || m.failed || m.id != want.id || !bytes.Equal(after, line) {
					t.Fatalf("cut into %v, %.40q…: %+v, %v", sizes, text, m, err)
				}
			}
		}
	}
}

// What is refused in one piece is refused in several. What is accepted in several is what it is in one.
func FuzzScanPieces(f *testing.F) {
	f.Fuzz(func(t *testing.T, text string, stretch uint16, first, second uint16) {
		text = strings.Replace(text, "~", strings.Repeat("~", int(stretch%5000)), 1)
		if text == "" {
			return
		}
		line := []byte(text)
		want, wantErr := scanText(stepper{b: line, own: true})
		m, after, turned, err := inPieces([]byte(text), int(first), int(second))
		switch {
		case err != nil && turned: // it may only be that a name or a number is too long
		case (err != nil) != (wantErr != nil):
			t.Fatalf("%q: %v in pieces, %v in one", text, err, wantErr)
		case err == nil && m.kind == response && !m.failed && (want.kind != response || want.failed || m.id != want.id || !bytes.Equal(after, line)):
			t.Fatalf("%q: %+v in pieces, %+v in one, %q", text, m, want, after)
		}
	})
}

func FuzzPeek(f *testing.F) {
	f.Fuzz(func(t *testing.T, b []byte, name, inner string) {
		got := peek(b, name, inner)
		for _, c := range name + inner {
			if c >= utf8.RuneSelf {
				return // names are ASCII
			}
		}
		if !json.Valid(b) || !utf8.Valid(b) || strings.Count(string(b), "[")+strings.Count(string(b), "{") > maxDepth {
			return
		}
		if want := member(member(b, name), inner); !bytes.Equal(got, want) || (got == nil) != (want == nil) {
			t.Fatalf("%q: %q.%q is %q, encoding/json says %q", b, name, inner, got, want)
		}
	})
}

func FuzzUnquote(f *testing.F) {
	f.Fuzz(func(t *testing.T, token []byte) {
		got, ok := unquote(token)
		var want string
		if skipString(token, 0) != len(token) || !utf8.Valid(token) {
			return // unquote is for tokens that have been scanned; it may not panic on others
		}
		if err := json.Unmarshal(token, &want); !ok || err != nil || got != want {
			t.Fatalf("%q: %q, %v, encoding/json says %q, %v", token, got, ok, want, err)
		}
	})
}

func FuzzScanBody(f *testing.F) {
	f.Fuzz(func(t *testing.T, b []byte) {
		before := bytes.Clone(b)
		msgs, err := scanBody(b)
		for _, m := range msgs {
			if len(m.raw) > len(before) || bytes.ContainsAny(m.raw, "\r\n") || !utf8.Valid(m.raw) {
				t.Fatalf("%q became %q", before, m.raw)
			}
			if n, err := scan(m.raw); err != nil || n.kind != m.kind || n.id != m.id || n.method != m.method || n.idAt != m.idAt || n.idEnd != m.idEnd || len(n.raw) != len(m.raw) {
				t.Fatalf("%q: %+v, and once more %+v, %v", before, m, n, err)
			}
		}
		if !utf8.Valid(before) || strings.Count(string(b), "[")+strings.Count(string(b), "{") > maxDepth {
			return
		}
		// What encoding/json takes apart has the same messages, up to spacing.
		var elements []json.RawMessage
		if !isBatch(b) {
			elements = []json.RawMessage{before}
		} else if json.Unmarshal(before, &elements) != nil {
			elements = nil
		}
		var want []string
		bad := len(elements) == 0
		for _, e := range elements {
			if _, ok := envelope(e); ok {
				want = append(want, strings.NewReplacer("\r", " ", "\n", " ").Replace(strings.Trim(string(e), " \t\r\n")))
			} else {
				bad = true
			}
		}
		var got []string
		for _, m := range msgs {
			got = append(got, string(m.raw))
		}
		if diff := cmp.Diff(want, got); diff != "" || bad != (err != nil) {
			t.Fatalf("%q: %v %s", before, err, diff)
		}
	})
}

func benchmarkScan(b *testing.B, line []byte) {
	b.SetBytes(int64(len(line)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := scan(line); err != nil {
			b.Fatal(err)
		}
	}
}

func benchmarkValid(b *testing.B, line []byte) {
	b.SetBytes(int64(len(line)))
	for b.Loop() {
		if !json.Valid(line) {
			b.Fatal("not valid")
		}
	}
}

// Lines as they come: a call, prose with escapes, structure, and base64.
func benchmarkLines() map[string][]byte {
	prose := strings.Repeat(`He said \"no\", twice.\nThe naïve Ärzte were not amused, nor \u00fcberzeugt; `, 900)
	structure := strings.Repeat(`{"name":"a","value":-12.5e3,"tags":["x","y"],"ok":true,"none":null},`, 1000)
	result := func(s string) []byte {
		return []byte(`{"jsonrpc":"2.0","id":17,"result":{"content":[{"type":"text","text":"` + s + `"}],"isError":false}}`)
	}
	return map[string][]byte{
		"tiny":      []byte(`{"jsonrpc":"2.0","id":17,"method":"tools/call","params":{"name":"add","arguments":{"a":1,"b":2}}}`),
		"64K":       result(strings.Repeat("abcdefgh", 8<<10)),
		"16M":       result(strings.Repeat("abcdefgh", 2<<20)),
		"prose":     result(prose),
		"structure": []byte(`{"jsonrpc":"2.0","id":17,"result":[` + structure + `0]}`),
	}
}

func BenchmarkScan(b *testing.B) {
	for name, line := range benchmarkLines() {
		b.Run(name, func(b *testing.B) { benchmarkScan(b, line) })
		b.Run(name+"/encoding-json", func(b *testing.B) { benchmarkValid(b, line) })
	}
}

func BenchmarkPeek(b *testing.B) {
	line := benchmarkLines()["tiny"]
	b.ReportAllocs()
	for b.Loop() {
		if peek(line, "params", "name") == nil {
			b.Fatal("nothing there")
		}
	}
}

func BenchmarkWriteLine(b *testing.B) {
	m, err := scan(benchmarkLines()["tiny"])
	if err != nil {
		b.Fatal(err)
	}
	for name, m := range map[string]message{"raw": m, "with another id": m.withID(`"bridge-17"`)} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			w := bufio.NewWriterSize(io.Discard, 64<<10)
			for b.Loop() {
				if err := m.writeLine(w); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
