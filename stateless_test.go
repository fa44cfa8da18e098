package main

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestHeaderValue(t *testing.T) {
	for _, test := range []struct{ value, want string }{
		{"", ""},
		{"us-west1", "us-west1"},
		{"Hello, world!", "Hello, world!"},
		{"~", "~"},
		{"\x7f", "=?base64?fw==?="},
		{"Hello, 世界", "=?base64?SGVsbG8sIOS4lueVjA==?="},
		{" padded ", "=?base64?IHBhZGRlZCA=?="},
		{"a\tb", "=?base64?YQli?="},
		{"line1\nline2", "=?base64?bGluZTEKbGluZTI=?="},
		{"x\r\nAuthorization: Bearer evil", "=?base64?eA0KQXV0aG9yaXphdGlvbjogQmVhcmVyIGV2aWw=?="},
		{"=?base64?SGVsbG8=?=", "=?base64?PT9iYXNlNjQ/U0dWc2JHOD0/PQ==?="},
		{"=?base64?", "=?base64?"},
		{"=?BASE64?x?=", "=?BASE64?x?="},
		{"\xff", "=?base64?/w==?="},
	} {
		if got := headerValue(test.value); got != test.want {
			t.Errorf("headerValue(%q) = %q, want %q", test.value, got, test.want)
		}
	}
}

func FuzzHeaderValue(f *testing.F) {
	for _, s := range []string{"", "a", " ", "世界", "a\r\nB: c", "=?base64?eA==?=", "=?base64??=", "\x00", "a\tb", "é"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, v string) {
		got := headerValue(v)
		for _, c := range []byte(got) {
			if c < ' ' || c > '~' {
				t.Fatalf("%q becomes %q", v, got)
			}
		}
		if strings.TrimSpace(got) != got {
			t.Fatalf("%q becomes %q, which is trimmed on the way", v, got)
		}
		back := got
		if inner, ok := strings.CutPrefix(got, "=?base64?"); ok && strings.HasSuffix(inner, "?=") {
			b, err := base64.StdEncoding.DecodeString(strings.TrimSuffix(inner, "?="))
			if err != nil {
				t.Fatal(err)
			}
			back = string(b)
		}
		if back != v {
			t.Fatalf("%q comes back as %q", v, back)
		}
	})
}

func TestStatelessHeaders(t *testing.T) {
	const meta = `"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28"}`
	s := newStateless(&wire{log: slog.New(slog.DiscardHandler)}).(*stateless)
	s.learn(parsed(t, `{"jsonrpc":"2.0","id":1,"result":{"tools":[{"name":"t","inputSchema":{"type":"object","properties":{
		"s":{"type":"string","x-mcp-header":"Str"},"i":{"type":"integer","x-mcp-header":"int"},"b":{"type":"boolean","x-mcp-header":"Bo-ol"},
		"deep":{"type":"object","properties":{"er":{"type":"string","x-mcp-header":"Deep.Er"}}}}}}]}}`), true)
	for _, test := range []struct {
		name, message string
		want          map[string]string
	}{
		{"a list", `"method":"tools/list","params":{` + meta + `}`, map[string]string{"Mcp-Method": "tools/list"}},
		{"a prompt", `"method":"prompts/get","params":{"name":"p",` + meta + `}`, map[string]string{"Mcp-Method": "prompts/get", "Mcp-Name": "p"}},
		{"a resource", `"method":"resources/read","params":{"uri":"file:///ä",` + meta + `}`,
			map[string]string{"Mcp-Method": "resources/read", "Mcp-Name": "=?base64?ZmlsZTovLy/DpA==?="}},
		{"a task", `"method":"tasks/get","params":{"taskId":"77",` + meta + `}`, map[string]string{"Mcp-Method": "tasks/get", "Mcp-Name": "77"}},
		{"a task's update", `"method":"tasks/update","params":{"taskId":"77",` + meta + `}`, map[string]string{"Mcp-Method": "tasks/update", "Mcp-Name": "77"}},
		{"a task's end", `"method":"tasks/cancel","params":{"taskId":"77",` + meta + `}`, map[string]string{"Mcp-Method": "tasks/cancel", "Mcp-Name": "77"}},
		{"another tool", `"method":"tools/call","params":{"name":"u","arguments":{"s":"x"},` + meta + `}`, map[string]string{"Mcp-Method": "tools/call", "Mcp-Name": "u"}},
		{"no name", `"method":"tools/call","params":{"name":5,` + meta + `}`, map[string]string{"Mcp-Method": "tools/call"}},
		{"two names", `"method":"tools/call","params":{"name":"t","name":"u",` + meta + `}`, map[string]string{"Mcp-Method": "tools/call"}},
		{"no arguments", `"method":"tools/call","params":{"name":"t",` + meta + `}`, map[string]string{"Mcp-Method": "tools/call", "Mcp-Name": "t"}},
		{"arguments", `"method":"tools/call","params":{"name":"t","arguments":{"s":"v","i":42,"b":false,"deep":{"er":"x"}},` + meta + `}`,
			map[string]string{"Mcp-Method": "tools/call", "Mcp-Name": "t", "Mcp-Param-Str": "v", "Mcp-Param-Int": "42", "Mcp-Param-Bo-Ol": "false", "Mcp-Param-Deep.er": "x"}},
		{"odd arguments", `"method":"tools/call","params":{"name":"t","arguments":{"s":"","i":null,"b":[true],"deep":{"er":{}}},` + meta + `}`,
			map[string]string{"Mcp-Method": "tools/call", "Mcp-Name": "t", "Mcp-Param-Str": ""}},
		{"hostile arguments", `"method":"tools/call","params":{"name":"t","arguments":{"s":"a\r\nX: y"},` + meta + `}`,
			map[string]string{"Mcp-Method": "tools/call", "Mcp-Name": "t", "Mcp-Param-Str": "=?base64?YQ0KWDogeQ==?="}},
		{"the largest integer", `"method":"tools/call","params":{"name":"t","arguments":{"i":-9007199254740991},` + meta + `}`,
			map[string]string{"Mcp-Method": "tools/call", "Mcp-Name": "t", "Mcp-Param-Int": "-9007199254740991"}},
		{"a larger one", `"method":"tools/call","params":{"name":"t","arguments":{"i":9007199254740992},` + meta + `}`,
			map[string]string{"Mcp-Method": "tools/call", "Mcp-Name": "t"}},
		{"integers in other spellings", `"method":"tools/call","params":{"name":"t","arguments":{"i":4.20e1},` + meta + `}`,
			map[string]string{"Mcp-Method": "tools/call", "Mcp-Name": "t", "Mcp-Param-Int": "42"}},
		{"no integer", `"method":"tools/call","params":{"name":"t","arguments":{"i":1.5},` + meta + `}`, map[string]string{"Mcp-Method": "tools/call", "Mcp-Name": "t"}},
		{"no metadata", `"method":"tools/list"`, map[string]string{"Mcp-Method": "tools/list"}},
		{"a hostile version", `"method":"tools/list","params":{"_meta":{"io.modelcontextprotocol/protocolVersion":"1\nX: y"}}`,
			map[string]string{"Mcp-Method": "tools/list", "Mcp-Protocol-Version": "=?base64?MQpYOiB5?="}},
		{"a hostile method", `"method":"a\nX: y"`, map[string]string{"Mcp-Method": "=?base64?YQpYOiB5?="}},
	} {
		t.Run(test.name, func(t *testing.T) {
			want := map[string]string{"Content-Type": "application/json", "Accept": "application/json, text/event-stream", "Mcp-Protocol-Version": "2026-07-28"}
			for k, v := range test.want {
				want[k] = v
			}
			got := map[string]string{}
			for k, v := range s.headers(parsed(t, `{"jsonrpc":"2.0","id":1,`+test.message+`}`)) {
				if k != http.CanonicalHeaderKey(k) || len(v) != 1 {
					t.Errorf("header %s: %q", k, v)
				}
				got[k] = v[0]
			}
			if d := cmp.Diff(want, got); d != "" {
				t.Error(d)
			}
		})
	}
}

var schemas = []struct {
	name, schema string
	bad          string // what the warning says; "": valid
	want         []string
}{
	{"none", `{"type":"object","properties":{"a":{"type":"string"}}}`, "", nil},
	{"one", `{"properties":{"a":{"type":"string","x-mcp-header":"A"}}}`, "", []string{"Mcp-Param-A a"}},
	{"nested", `{"properties":{"a":{"properties":{"b":{"type":"boolean","x-mcp-header":"b"}}}}}`, "", []string{"Mcp-Param-B a.b"}},
	{"escaped", `{"properties":{"a":{"type":"string","x\u002dmcp-header":"A"}}}`, "", []string{"Mcp-Param-A a"}},
	{"an argument called x-mcp-header", `{"properties":{"x-mcp-header":{"type":"string"}}}`, "", nil},
	{"an argument called properties", `{"properties":{"properties":{"type":"string","x-mcp-header":"A"}}}`, "", []string{"Mcp-Param-A properties"}},
	{"in values", `{"properties":{"a":{"const":{"x-mcp-header":""},"enum":[{"x-mcp-header":""}],"default":{"x-mcp-header":""},"examples":[{"x-mcp-header":""}]}}}`, "", nil},
	{"all characters of a token", "{\"properties\":{\"a\":{\"type\":\"integer\",\"x-mcp-header\":\"!#$%&'*+-.^_`|~09azAZ\"}}}", "", []string{"Mcp-Param-!#$%&'*+-.^_`|~09azaz a"}},
	{"empty", `{"properties":{"a":{"type":"string","x-mcp-header":""}}}`, "it is not a header name", nil},
	{"no string", `{"properties":{"a":{"type":"string","x-mcp-header":1}}}`, "it is not a header name", nil},
	{"space", `{"properties":{"a":{"type":"string","x-mcp-header":"a b"}}}`, "it is not a header name", nil},
	{"colon", `{"properties":{"a":{"type":"string","x-mcp-header":"a:b"}}}`, "it is not a header name", nil},
	{"injection", `{"properties":{"a":{"type":"string","x-mcp-header":"a\r\nX: y"}}}`, "it is not a header name", nil},
	{"not ASCII", `{"properties":{"a":{"type":"string","x-mcp-header":"ä"}}}`, "it is not a header name", nil},
	{"number", `{"properties":{"a":{"type":"number","x-mcp-header":"A"}}}`, "it stands at an argument that is no string, integer or boolean", nil},
	{"object", `{"properties":{"a":{"type":"object","x-mcp-header":"A"}}}`, "it stands at an argument that is no string, integer or boolean", nil},
	{"array", `{"properties":{"a":{"type":"array","x-mcp-header":"A"}}}`, "it stands at an argument that is no string, integer or boolean", nil},
	{"null", `{"properties":{"a":{"type":"null","x-mcp-header":"A"}}}`, "it stands at an argument that is no string, integer or boolean", nil},
	{"two types", `{"properties":{"a":{"type":["string","null"],"x-mcp-header":"A"}}}`, "it stands at an argument that is no string, integer or boolean", nil},
	{"no type", `{"properties":{"a":{"x-mcp-header":"A"}}}`, "it stands at an argument that is no string, integer or boolean", nil},
	{"twice", `{"properties":{"a":{"type":"string","x-mcp-header":"A"},"b":{"type":"string","x-mcp-header":"a"}}}`, "it names the same header twice", nil},
	{"at the root", `{"type":"string","x-mcp-header":"A"}`, "it stands where no argument can be read", nil},
	{"in items", `{"properties":{"a":{"items":{"type":"string","x-mcp-header":"A"}}}}`, "it stands where no argument can be read", nil},
	{"in prefixItems", `{"properties":{"a":{"prefixItems":[{"type":"string","x-mcp-header":"A"}]}}}`, "it stands where no argument can be read", nil},
	{"in oneOf", `{"oneOf":[{"properties":{"a":{"type":"string","x-mcp-header":"A"}}}]}`, "it stands where no argument can be read", nil},
	{"in anyOf of an argument", `{"properties":{"a":{"anyOf":[{"type":"string","x-mcp-header":"A"}]}}}`, "it stands where no argument can be read", nil},
	{"in not", `{"not":{"properties":{"a":{"type":"string","x-mcp-header":"A"}}}}`, "it stands where no argument can be read", nil},
	{"in if", `{"if":{"properties":{"a":{"type":"string","x-mcp-header":"A"}}}}`, "it stands where no argument can be read", nil},
	{"in $defs", `{"$defs":{"d":{"type":"string","x-mcp-header":"A"}},"properties":{"a":{"$ref":"#/$defs/d"}}}`, "it stands where no argument can be read", nil},
	{"in additionalProperties", `{"additionalProperties":{"type":"string","x-mcp-header":"A"}}`, "it stands where no argument can be read", nil},
	{"in patternProperties", `{"patternProperties":{"x":{"type":"string","x-mcp-header":"A"}}}`, "it stands where no argument can be read", nil},
	{"a cycle of references", `{"$defs":{"d":{"$ref":"#/$defs/d"}},"properties":{"a":{"$ref":"#/$defs/d"},"b":{"type":"string","x-mcp-header":"B"}}}`, "", []string{"Mcp-Param-B b"}},
	{"no schema", `[1,"x-mcp-header"]`, "", nil},
	{"deep", strings.Repeat(`{"properties":{"a":`, 400) + `{"type":"string","x-mcp-header":"A"}` + strings.Repeat("}}", 400), "",
		[]string{"Mcp-Param-A " + strings.TrimSuffix(strings.Repeat("a.", 400), ".")}},
}

// learned is what learn makes of a page with one tool of that schema between two others.
func learned(t testing.TB, schema string) (kept []string, found map[string][]string, log string) {
	m, err := scan(bytes.ReplaceAll([]byte(`{"jsonrpc":"2.0","id":1,"result":{"tools":[ {"name":"a"} ,{"inputSchema":`+schema+`,"name":"t"},{"name":"z"} ],"nextCursor":"c"}}`), []byte("\n"), []byte(" ")))
	if err != nil {
		t.Skip(err)
	}
	var buf bytes.Buffer
	s := newStateless(&wire{log: slog.New(slog.NewTextHandler(&buf, nil))}).(*stateless)
	m = s.learn(m, true)
	var list struct {
		Result struct {
			Tools      []struct{ Name string }
			NextCursor string
		}
	}
	if err := json.Unmarshal(m.raw, &list); err != nil {
		t.Fatalf("%v: %s", err, m.raw)
	}
	if list.Result.NextCursor != "c" {
		t.Errorf("the cursor is gone: %s", m.raw)
	}
	for _, tool := range list.Result.Tools {
		kept = append(kept, tool.Name)
	}
	return kept, mirrors((*s.schemas.Load())["t"]).found, buf.String()
}

func TestSchemaWalk(t *testing.T) {
	for _, test := range schemas {
		t.Run(test.name, func(t *testing.T) {
			kept, mirrors, log := learned(t, test.schema)
			want := "[a t z]"
			if test.bad != "" {
				want = "[a z]"
				if !strings.Contains(log, test.bad) || !strings.Contains(log, "tool=t") {
					t.Errorf("the log says %q, not %q", log, test.bad)
				}
			} else if log != "" {
				t.Errorf("warned of a valid tool: %s", log)
			}
			if fmt.Sprint(kept) != want {
				t.Errorf("tools %v, want %s", kept, want)
			}
			var got []string
			for header, path := range mirrors {
				got = append(got, header+" "+strings.Join(path, "."))
			}
			if d := cmp.Diff(test.want, got); d != "" {
				t.Error(d)
			}
		})
	}
}

func TestSchemaWalkBound(t *testing.T) {
	schema := func(n int) string {
		var props []string
		for i := range n {
			props = append(props, fmt.Sprintf(`"p%d":{"type":"string","x-mcp-header":"p%d"}`, i, i))
		}
		return `{"properties":{` + strings.Join(props, ",") + `}}`
	}
	if kept, mirrors, _ := learned(t, schema(maxMirrors)); len(kept) != 3 || len(mirrors) != maxMirrors {
		t.Errorf("at the bound: %v, %d", kept, len(mirrors))
	}
	if kept, mirrors, _ := learned(t, schema(maxMirrors+1)); len(kept) != 2 || len(mirrors) != 0 {
		t.Errorf("past the bound: %v, %d", kept, len(mirrors))
	}
	padded := func(n int) string {
		return `{"properties":{"p":{"type":"string","x-mcp-header":"p"}},"title":"` + strings.Repeat("x", n-len(`{"properties":{"p":{"type":"string","x-mcp-header":"p"}},"title":""}`)) + `"}`
	}
	if kept, mirrors, _ := learned(t, padded(maxSchemas-len("t"))); len(kept) != 3 || len(mirrors) != 1 {
		t.Errorf("of the largest size: %v, %d", kept, len(mirrors))
	}
	for _, size := range []int{maxSchemas, maxSchemas + 1} {
		if kept, mirrors, _ := learned(t, padded(size)); len(kept) != 2 || len(mirrors) != 0 {
			t.Errorf("of %d bytes: %v, %d", size, kept, len(mirrors))
		}
	}
}

// A deep schema costs its size for every level: what is large and deep is not read to its end.
func TestSchemaWalkWork(t *testing.T) {
	for size, want := range map[int]int{1 << 10: 1, 1 << 16: 0} {
		w := mirrors([]byte(strings.Repeat(`{"properties":{"a":`, 300) + `{"type":"string","x-mcp-header":"A","title":"` + strings.Repeat("t", size) + `"}` + strings.Repeat("}}", 300)))
		if len(w.found) != want || (w.bad == "") != (want > 0) {
			t.Errorf("%d bytes: %d found, %s", size, len(w.found), w.bad)
		}
	}
}

func FuzzSchemaWalk(f *testing.F) {
	for _, test := range schemas {
		f.Add(test.schema)
	}
	f.Fuzz(func(t *testing.T, schema string) {
		if !json.Valid([]byte(schema)) {
			return
		}
		kept, mirrors, _ := learned(t, schema)
		if len(kept) < 2 || kept[0] != "a" || kept[len(kept)-1] != "z" {
			t.Fatalf("tools %v", kept)
		}
		for header, path := range mirrors {
			name, ok := strings.CutPrefix(header, "Mcp-Param-")
			if !ok || name == "" || strings.ContainsFunc(name, func(c rune) bool { return c <= ' ' || c > '~' || strings.ContainsRune(`"(),/:;<=>?@[\]{}`, c) }) {
				t.Fatalf("header %q", header)
			}
			if len(path) == 0 {
				t.Fatalf("%q of nowhere", header)
			}
		}
	})
}

func TestSet(t *testing.T) {
	for _, test := range []struct{ raw, value, path, want string }{
		{`{}`, `1`, "a", `{"a":1}`},
		{`{ }`, `1`, "a", `{"a":1}`},
		{`{"b": 2}`, `1`, "a", `{"b":2,"a":1}`},
		{`{"b": 2.0, "a" : [3 ] , "c":[ 4 ]}`, `1`, "a", `{"b":2.0,"a":1,"c":[ 4 ]}`},
		{`{"b":1.50}`, `1`, "a/c", `{"b":1.50,"a":{"c":1}}`},
		{`{"a":{"x":"é\u00e9"},"b":2}`, `1`, "a/c", `{"a":{"x":"é\u00e9","c":1},"b":2}`},
		{`{"a":null}`, `1`, "a/c", `{"a":{"c":1}}`},
		{`{"\u0061":5}`, `1`, "a", `{"\u0061":1}`},
		{`{"a":1,"b":2,"a":3}`, `4`, "a", `{"a":4,"b":2}`},
		{`{"a":1,"b":2,"c":3}`, ``, "a", `{"b":2,"c":3}`},
		{`{"a":1 , "\u0062":2,"c":3}`, ``, "b", `{"a":1,"c":3}`},
		{`{"a":1,"b":2, "c":3 }`, ``, "c", `{"a":1,"b":2}`},
		{`{ "a": 1 }`, ``, "a", `{}`},
		{`{"a":{"b":1,"c":2}}`, ``, "a/b", `{"a":{"c":2}}`},
		{`{"a":1}`, ``, "b", `{"a":1}`},
		{`{"a":1}`, ``, "a/b", `{"a":1}`},
		{``, `1`, "a/b", `{"a":{"b":1}}`},
	} {
		var value []byte
		if test.value != "" {
			value = []byte(test.value)
		}
		before := strings.Clone(test.raw)
		raw := []byte(test.raw)
		if got := string(set(raw, value, strings.Split(test.path, "/")...)); got != test.want {
			t.Errorf("set(%s, %s, %s) = %s, want %s", test.raw, test.value, test.path, got, test.want)
		}
		if string(raw) != before {
			t.Errorf("%s was written to: %s", before, raw)
		}
	}
}

// An httpAnswer is what a test's server says to one request.
type httpAnswer struct {
	status int
	kind   string
	body   string
}

func jsonAnswer(status int, body string) httpAnswer {
	return httpAnswer{status, "application/json", body}
}

// statelessTalk posts line to a server that gives the answers, in order, and returns what the server saw and what came of it.
func statelessTalk(t *testing.T, line string, answers ...httpAnswer) (seen []string, got []string, err error) {
	t.Helper()
	n := newMemNet()
	var mu sync.Mutex
	memServe(t, n, "mcp.test:80", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		body, _ := io.ReadAll(r.Body)
		said := fmt.Sprintf("%s %s %s", r.Method, r.Header.Get("Mcp-Protocol-Version"), body)
		for k, v := range r.Header {
			if strings.HasPrefix(k, "Mcp-Param-") {
				said += " " + k + ": " + v[0]
			}
		}
		seen = append(seen, said)
		if len(answers) == 0 {
			t.Errorf("one request too many: %s", said)
			return
		}
		a := answers[0]
		answers = answers[1:]
		if a.status == 0 {
			panic(http.ErrAbortHandler)
		}
		if a.kind != "" {
			w.Header().Set("Content-Type", a.kind)
		}
		w.WriteHeader(a.status)
		io.WriteString(w, a.body)
	}))
	s := newStateless(n.wire(t, "http://mcp.test/mcp"))
	m, bad := scan([]byte(line))
	if bad != nil {
		t.Fatal(bad)
	}
	err = s.post(t.Context(), m, &progress{start: time.Now()}, func(m message) error {
		if m.raw == nil {
			return nil
		}
		got = append(got, written(t, m))
		return nil
	})
	mu.Lock()
	defer mu.Unlock()
	if len(answers) > 0 {
		t.Errorf("%d answers were not asked for", len(answers))
	}
	return seen, got, err
}

func TestStatelessPost(t *testing.T) {
	const (
		meta   = `"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","progressToken":3}`
		call   = `{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"t","arguments":{"r":"x"},` + meta + `}}`
		list   = `{"jsonrpc":"2.0","id":7,"method":"tools/list","params":{"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28"}}}`
		done   = `{"jsonrpc":"2.0","id":7,"result":{"resultType":"complete"}}`
		stream = "text/event-stream"
		page1  = `{"jsonrpc":"2.0","id":7,"result":{"tools":[{"name":"o"}],"nextCursor":"p\u00322"}}`
		page2  = `{"jsonrpc":"2.0","id":7,"result":{"tools":[{"name":"t","inputSchema":{"properties":{"r":{"type":"string","x-mcp-header":"R"}}}}],"nextCursor":null}}`
	)
	said := func(version, line string) string { return "POST " + version + " " + line }
	rejected := func(code int, data string) httpAnswer {
		return jsonAnswer(400, fmt.Sprintf(`{"jsonrpc":"2.0","id":7,"error":{"code":%d,"message":"no"%s}}`, code, data))
	}
	supported := `,"data":{"supported":["2025-11-25","2026-07-28"],"requested":"?"}`
	for _, test := range []struct {
		name    string
		line    string
		answers []httpAnswer
		seen    []string
		got     []string
		fate    fate
		status  int // of the error; 0: none
		code    string
	}{
		{name: "json", line: call, answers: []httpAnswer{jsonAnswer(200, done)}, seen: []string{said(modernVersion, call)}, got: []string{done}},
		{name: "stream", line: call, seen: []string{said(modernVersion, call)},
			answers: []httpAnswer{{200, stream, ": hi\n\ndata: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/progress\"}\n\ndata: " + done + "\n\ndata: " + done + "\n\n"}},
			got:     []string{`{"jsonrpc":"2.0","method":"notifications/progress"}`, done}},
		{name: "an answer under another id", line: call, seen: []string{said(modernVersion, call)},
			answers: []httpAnswer{jsonAnswer(200, strings.Replace(done, "7", `"7"`, 1))}, got: []string{done}},
		{name: "an error without an id", line: call, seen: []string{said(modernVersion, call)},
			answers: []httpAnswer{jsonAnswer(200, `{"jsonrpc":"2.0","error":{"code":1,"message":"m"}}`)}, got: []string{`{"id":7,"jsonrpc":"2.0","error":{"code":1,"message":"m"}}`}},
		{name: "a notification", line: `{"jsonrpc":"2.0","method":"notifications/x"}`, answers: []httpAnswer{{status: 202}},
			seen: []string{said(modernVersion, `{"jsonrpc":"2.0","method":"notifications/x"}`)}},
		{name: "a request of the server, which that revision has not", line: call, seen: []string{said(modernVersion, call)},
			answers: []httpAnswer{{200, stream, "data: {\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"roots/list\"}\n\ndata: " + done + "\n\n"}}, got: []string{done}},
		{name: "a stream without an answer", line: call, seen: []string{said(modernVersion, call)},
			answers: []httpAnswer{{200, stream, "data: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/progress\"}\n\n"}},
			got:     []string{`{"jsonrpc":"2.0","method":"notifications/progress"}`}, fate: unknown, status: -1},
		{name: "event ids mean nothing", line: call, seen: []string{said(modernVersion, call)},
			answers: []httpAnswer{{200, stream, "id: 5\ndata:\n\n"}}, fate: unknown, status: -1},
		{name: "cut", line: call, seen: []string{said(modernVersion, call)}, answers: []httpAnswer{{}}, fate: unknown, status: -1},
		{name: "accepted, but never answered", line: call, seen: []string{said(modernVersion, call)}, answers: []httpAnswer{{status: 202}}, fate: unknown, status: 202},
		{name: "unknown method", line: call, seen: []string{said(modernVersion, call)},
			answers: []httpAnswer{jsonAnswer(404, `{"jsonrpc":"2.0","id":7,"error":{"code":-32601,"message":"no"}}`)}, fate: final, status: 404, code: "-32601"},
		{name: "missing capability", line: call, seen: []string{said(modernVersion, call)}, answers: []httpAnswer{rejected(-32021, "")}, fate: final, status: 400, code: "-32021"},
		{name: "not JSON-RPC", line: call, seen: []string{said(modernVersion, call)}, answers: []httpAnswer{{400, "text/html", "<p>"}}, fate: final, status: 400},
		{name: "the version that was asked for", line: list, answers: []httpAnswer{rejected(-32022, supported), jsonAnswer(200, done)},
			seen: []string{said(modernVersion, list), said(modernVersion, list)}, got: []string{done}},
		{name: "another version", line: strings.Replace(list, modernVersion, "2099-01-01", 1), answers: []httpAnswer{rejected(-32022, supported)},
			seen: []string{said("2099-01-01", strings.Replace(list, modernVersion, "2099-01-01", 1))}, fate: final, status: 400, code: "-32022"},
		{name: "a version that is never right", line: list, answers: []httpAnswer{rejected(-32022, supported), rejected(-32022, supported)},
			seen: []string{said(modernVersion, list), said(modernVersion, list)}, fate: final, status: 400, code: "-32022"},
		{name: "no common version", line: list, answers: []httpAnswer{rejected(-32022, `,"data":{"supported":["2027-01-01"]}`)},
			seen: []string{said(modernVersion, list)}, fate: final, status: 400, code: "-32022"},
		{name: "a mismatch that listing repairs", line: call, got: []string{done},
			answers: []httpAnswer{rejected(-32020, ""), jsonAnswer(200, page1), jsonAnswer(200, page2), jsonAnswer(200, done)},
			seen: []string{
				said(modernVersion, call),
				said(modernVersion, `{"jsonrpc":"2.0","id":7,"method":"tools/list","params":{"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28"}}}`),
				said(modernVersion, `{"jsonrpc":"2.0","id":7,"method":"tools/list","params":{"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28"},"cursor":"p\u00322"}}`),
				said(modernVersion, call+" Mcp-Param-R: x"),
			}},
		{name: "a mismatch that stays", line: call, answers: []httpAnswer{rejected(-32020, ""), jsonAnswer(200, page2), rejected(-32020, "")},
			seen: []string{said(modernVersion, call), said(modernVersion, list), said(modernVersion, call+" Mcp-Param-R: x")}, fate: final, status: 400, code: "-32020"},
		{name: "a mismatch, and no list", line: call, answers: []httpAnswer{rejected(-32020, ""), {500, "text/plain", ""}},
			seen: []string{said(modernVersion, call), said(modernVersion, list)}, fate: final, status: 400, code: "-32020"},
		{name: "a mismatch of a list", line: list, answers: []httpAnswer{rejected(-32020, "")}, seen: []string{said(modernVersion, list)}, fate: final, status: 400, code: "-32020"},
		{name: "both repairs", line: call, got: []string{done},
			answers: []httpAnswer{rejected(-32022, supported), rejected(-32020, ""), jsonAnswer(200, page2), jsonAnswer(200, done)},
			seen:    []string{said(modernVersion, call), said(modernVersion, call), said(modernVersion, list), said(modernVersion, call+" Mcp-Param-R: x")}},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				seen, got, err := statelessTalk(t, test.line, test.answers...)
				if d := cmp.Diff(test.seen, seen); d != "" {
					t.Errorf("the server saw (- wanted):\n%s", d)
				}
				if d := cmp.Diff(test.got, got); d != "" {
					t.Errorf("handed over (- wanted):\n%s", d)
				}
				var e *exchangeError
				switch errors.As(err, &e); {
				case test.status == 0 && err != nil:
					t.Error(err)
				case test.status == 0:
				case e == nil:
					t.Errorf("error %v, want fate %v", err, test.fate)
				case e.fate != test.fate || test.status > 0 && e.status != test.status || string(peek(e.body, "error", "code")) != test.code:
					t.Errorf("%v: fate %v, status %d, body %s", err, e.fate, e.status, e.body)
				}
			})
		})
	}
}

// TestStatelessList is F3a: a tool with a bad annotation is hidden, the others stay and can be called.
func TestStatelessList(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newMemNet()
		var region string
		memServe(t, n, "mcp.test:80", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			region = r.Header.Get("Mcp-Param-Region")
			w.Header().Set("Content-Type", "application/json")
			io.WriteString(w, `{"jsonrpc":"2.0","id":1,"result":{"tools":[{"name":"bad","inputSchema":{"properties":{"n":{"type":"number","x-mcp-header":"N"}}}},`+
				`{"name":"good","inputSchema":{"properties":{"r":{"type":"string","x-mcp-header":"Region"}}}}],"ttlMs":1.0}}`)
		}))
		w := n.wire(t, "http://mcp.test/mcp")
		var log bytes.Buffer
		w.log = slog.New(slog.NewTextHandler(&log, nil))
		s := newStateless(w)
		var got, id string
		post := func(line string) {
			t.Helper()
			if err := s.post(t.Context(), parsed(t, line), &progress{start: time.Now()}, func(m message) error {
				if m.raw == nil {
					return nil
				}
				got, id = written(t, m), m.id
				return nil
			}); err != nil {
				t.Fatal(err)
			}
		}
		post(`{"jsonrpc":"2.0","id":5,"method":"tools/list"}`)
		if id != "5" { // the exchange tells what it answers, whatever the server calls it
			t.Errorf("the answer's id is %s", id)
		}
		post(`{"jsonrpc":"2.0","id":1,"method":"tools/list"}`)
		if want := `{"jsonrpc":"2.0","id":1,"result":{"tools":[{"name":"good","inputSchema":{"properties":{"r":{"type":"string","x-mcp-header":"Region"}}}}],"ttlMs":1.0}}`; got != want {
			t.Errorf("got %s", got)
		}
		if !strings.Contains(log.String(), "tool=bad") {
			t.Errorf("no warning: %s", &log)
		}
		post(`{"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"name":"good","arguments":{"r":"eu"}}}`)
		if region != "eu" {
			t.Errorf("Mcp-Param-Region %q", region)
		}
	})
}

// TestStatelessSubscription says that a subscription is a request whose stream stays, and that leaving ends it.
func TestStatelessSubscription(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newMemNet()
		f := &fakeServer{kind: fakeStateless}
		f.start(t, n.listen("mcp.test:80"))
		s := newStateless(n.wire(t, "http://mcp.test/mcp"))
		ctx, cancel := context.WithCancel(t.Context())
		var got []string
		ended := make(chan error, 1)
		go func() {
			ended <- s.post(ctx, parsed(t, `{"jsonrpc":"2.0","id":"s","method":"subscriptions/listen","params":{"notifications":{"toolsListChanged":true},"_meta":`+
				`{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}}}}`),
				&progress{start: time.Now()}, func(m message) error {
					if m.raw == nil {
						return nil
					}
					got = append(got, m.method)
					return nil
				})
		}()
		synctest.Wait()
		f.notify("notifications/tools/list_changed", nil)
		time.Sleep(time.Hour)
		f.notify("notifications/tools/list_changed", nil)
		synctest.Wait()
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		if d := cmp.Diff([]string{"notifications/subscriptions/acknowledged", "notifications/tools/list_changed", "notifications/tools/list_changed"}, got); d != "" {
			t.Error(d)
		}
		f.check(t)

		var e *exchangeError
		if err := s.listen(t.Context(), "", &progress{}, func() { t.Error("opened") }, nil); !errors.As(err, &e) || e.fate != final {
			t.Error(err)
		}
		if err := s.hangup(t.Context()); err != nil {
			t.Error(err)
		}
	})
}
