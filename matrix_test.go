package main

// matrix_test.go is the promise about protocol revisions as a table: every kind of client on every kind of server does
// everything that a client can want, or is told why it cannot. Only one combination cannot: a client that speaks
// nothing but 2026-07-28 on a server that does not.

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// A matrixClient is a client of one kind, that answers whatever it is asked.
type matrixClient struct {
	*host
	knowsOld, knowsNew bool
	modern             bool // it speaks 2026-07-28
	refused            bool // it knows no revision that the server speaks
	level              string
	last               int
	notes              []matrixMessage // notifications that came
	listID             string          // of its subscription
}

type matrixMessage struct {
	ID     json.RawMessage
	Method string
	Params struct {
		Meta          map[string]json.RawMessage `json:"_meta"`
		ProgressToken json.RawMessage
		Progress      float64
		Data, URI     string
	}
	Result json.RawMessage
	Error  *struct {
		Code    int
		Message string
		Data    struct{ Reason string }
	}
}

const matrixCan = `{"roots":{},"sampling":{},"elicitation":{"form":{}}}`

// begin is the client's handshake, or its probe and what follows from it.
func (c *matrixClient) begin() {
	c.t.Helper()
	if c.knowsNew {
		c.modern = true
		if r := c.await(c.request("server/discover", "")); r.Error == nil {
			return
		} else if r.Error.Code != -32601 {
			c.t.Fatalf("server/discover: %+v", *r.Error)
		}
		if !c.knowsOld {
			c.refused = true
			return
		}
		c.modern = false
	}
	if r := c.await(c.request("initialize", `"protocolVersion":"2025-11-25","capabilities":`+matrixCan+`,"clientInfo":{"name":"c","version":"1"}`)); r.Error != nil {
		c.t.Fatalf("initialize: %+v", *r.Error)
	}
	c.say(`{"jsonrpc":"2.0","method":"notifications/initialized"}`)
	time.Sleep(time.Second)
}

// request writes a request and returns its id.
func (c *matrixClient) request(method, params string) string {
	c.t.Helper()
	c.last++
	if c.modern {
		level := ""
		if c.level != "" {
			level = `,"io.modelcontextprotocol/logLevel":"` + c.level + `"`
		}
		if params != "" {
			params += ","
		}
		params += fmt.Sprintf(`"_meta":{"progressToken":"p%d","io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":%s%s}`, c.last, matrixCan, level)
	} else if method == "tools/call" {
		params += fmt.Sprintf(`,"_meta":{"progressToken":"p%d"}`, c.last)
	}
	c.say(fmt.Sprintf(`{"jsonrpc":"2.0","id":%d,"method":%q,"params":{%s}}`, c.last, method, params))
	return fmt.Sprint(c.last)
}

// await reads until the answer to id has come, and for a second if id is "".
func (c *matrixClient) await(id string) matrixMessage {
	c.t.Helper()
	limit := 2 * time.Minute
	if id == "" {
		limit = time.Second
	}
	end := time.Now().Add(limit)
	for time.Now().Before(end) {
		line := c.hear(time.Until(end))
		if line == "" {
			break
		}
		var m matrixMessage
		if err := json.Unmarshal([]byte(line), &m); err != nil {
			c.t.Fatalf("%v: %s", err, line)
		}
		switch {
		case m.Method != "" && m.ID != nil:
			if c.modern {
				c.t.Errorf("a client of 2026-07-28 was sent a request: %s", line)
			}
			c.say(`{"jsonrpc":"2.0","id":` + string(m.ID) + `,"result":` + matrixAnswer(m.Method) + `}`)
		case m.Method != "":
			c.notes = append(c.notes, m)
		case string(m.ID) == id:
			return m
		default:
			c.t.Errorf("an answer to nothing: %s", line)
		}
	}
	if id != "" {
		c.t.Fatalf("no answer to %s", id)
	}
	return matrixMessage{}
}

// matrixAnswer is what the client says when it is asked.
func matrixAnswer(method string) string {
	switch method {
	case "roots/list":
		return `{"roots":[{"uri":"file:///r"}]}`
	case "sampling/createMessage":
		return `{"role":"assistant","content":{"type":"text","text":"sampled"},"model":"m"}`
	case "elicitation/create":
		return `{"action":"accept","content":{"a":"elicited"}}`
	}
	return `{}`
}

// call calls a tool through all rounds and returns the text of the result.
func (c *matrixClient) call(tool, arguments string) (string, matrixMessage) {
	c.t.Helper()
	params := fmt.Sprintf(`"name":%q,"arguments":{%s}`, tool, arguments)
	r := c.await(c.request("tools/call", params))
	var result struct {
		ResultType    string
		RequestState  json.RawMessage
		InputRequests map[string]struct{ Method string }
	}
	for r.Error == nil && json.Unmarshal(r.Result, &result) == nil && result.ResultType == "input_required" {
		var answers []string
		for key, q := range result.InputRequests {
			answers = append(answers, fmt.Sprintf(`%q:%s`, key, matrixAnswer(q.Method)))
		}
		r = c.await(c.request("tools/call", fmt.Sprintf(`%s,"inputResponses":{%s},"requestState":%s`, params, strings.Join(answers, ","), result.RequestState)))
		result.ResultType = ""
	}
	if (result.ResultType == "complete") != (c.modern && r.Error == nil) && result.RequestState == nil {
		c.t.Errorf("resultType %q for this client: %s", result.ResultType, r.Result)
	}
	return string(r.Result), r
}

// subscribe asks to be told of changes of test://a, and of the lists.
func (c *matrixClient) subscribe() {
	c.t.Helper()
	if !c.modern {
		if r := c.await(c.request("resources/subscribe", `"uri":"test://a"`)); r.Error != nil {
			c.t.Fatalf("subscribing: %+v", *r.Error)
		}
		return
	}
	c.listID = c.request("subscriptions/listen", `"notifications":{"toolsListChanged":true,"resourceSubscriptions":["test://a"]}`)
	c.await("")
	if !c.noted("notifications/subscriptions/acknowledged") {
		c.t.Fatalf("not acknowledged: %v", c.notes)
	}
}

// noted says whether such a notification has come, and forgets all.
func (c *matrixClient) noted(method string) bool {
	c.t.Helper()
	found := false
	for _, n := range c.notes {
		found = found || n.Method == method
		id, tagged := n.Params.Meta["io.modelcontextprotocol/subscriptionId"]
		if tagged != c.modern && (strings.HasSuffix(n.Method, "changed") || strings.HasSuffix(n.Method, "updated")) || tagged && string(id) != c.listID {
			c.t.Errorf("subscriptionId %s in %s for a client whose subscription is %q", id, n.Method, c.listID)
		}
	}
	c.notes = nil
	return found
}

// matrixFeatures are what clients do. Each gets a client that has begun.
var matrixFeatures = []struct {
	name string
	do   func(c *matrixClient, s *fakeServer)
}{
	{"list", func(c *matrixClient, s *fakeServer) {
		if r := c.await(c.request("tools/list", "")); !strings.Contains(string(r.Result), `"echo"`) {
			c.t.Errorf("tools %s %v", r.Result, r.Error)
		}
	}},
	{"call", func(c *matrixClient, s *fakeServer) {
		if text, r := c.call("echo", `"text":"hi"`); !strings.Contains(text, "hi") {
			c.t.Errorf("%s %v", text, r.Error)
		}
	}},
	{"progress", func(c *matrixClient, s *fakeServer) {
		if text, r := c.call("progress", `"steps":3,"ms":10`); !strings.Contains(text, "done") {
			c.t.Errorf("%s %v", text, r.Error)
		}
		c.await("")
		var got []float64
		for _, n := range c.notes {
			if n.Method == "notifications/progress" && string(n.Params.ProgressToken) == fmt.Sprintf(`"p%d"`, c.last) {
				got = append(got, n.Params.Progress)
			}
		}
		if !slices.Equal(got, []float64{1, 2, 3}) {
			c.t.Errorf("progress %v", got)
		}
	}},
	{"log", func(c *matrixClient, s *fakeServer) {
		if !c.modern {
			if r := c.await(c.request("logging/setLevel", `"level":"info"`)); r.Error != nil {
				c.t.Fatalf("%+v", *r.Error)
			}
		}
		c.level = "info"
		c.call("log", `"text":"a line"`)
		c.await("")
		if !slices.ContainsFunc(c.notes, func(n matrixMessage) bool { return n.Method == "notifications/message" && n.Params.Data == "a line" }) {
			c.t.Errorf("no log: %v", c.notes)
		}
	}},
	{"subscribe", func(c *matrixClient, s *fakeServer) {
		c.subscribe()
		s.update("test://b")
		c.await("")
		if c.noted("notifications/resources/updated") {
			c.t.Error("told of a resource that was not subscribed")
		}
		s.update("test://a")
		c.await("")
		if !c.noted("notifications/resources/updated") {
			c.t.Error("not told of the resource")
		}
		s.notify("notifications/tools/list_changed", nil)
		c.await("")
		if !c.noted("notifications/tools/list_changed") {
			c.t.Error("not told of the tools")
		}
		if !c.modern {
			if r := c.await(c.request("resources/unsubscribe", `"uri":"test://a"`)); r.Error != nil {
				c.t.Fatalf("%+v", *r.Error)
			}
		} else {
			c.say(`{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":` + c.listID + `}}`)
		}
		c.await("")
		s.update("test://a")
		c.await("")
		if c.noted("notifications/resources/updated") {
			c.t.Error("told of the resource after leaving it")
		}
	}},
	{"elicitation", func(c *matrixClient, s *fakeServer) { c.asked("elicitation/create", "elicited") }},
	{"sampling", func(c *matrixClient, s *fakeServer) { c.asked("sampling/createMessage", "sampled") }},
	{"roots", func(c *matrixClient, s *fakeServer) { c.asked("roots/list", "file:///r") }},
	{"cancel", func(c *matrixClient, s *fakeServer) {
		id := c.request("tools/call", `"name":"slow","arguments":{"ms":3600000,"key":"k"}`)
		c.await("")
		c.say(`{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":` + id + `}}`)
		c.await("") // and no answer
		if s.cancelled("k") != 1 {
			c.t.Error("the tool still runs")
		}
	}},
	{"cancel after a cut", func(c *matrixClient, s *fakeServer) {
		c.await(c.request("tools/list", ""))
		id := c.request("tools/call", `"name":"look","arguments":{"ms":3600000,"key":"k"}`)
		c.await("")
		s.cut()
		time.Sleep(time.Minute)
		c.say(`{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":` + id + `}}`)
		c.await("") // and no answer
		want := 1
		if s.kind == fakeStateless || c.modern { // there the cut was a cancellation, too
			want = 2
		}
		if got := s.cancelled("k"); got != want {
			c.t.Errorf("ended early %d times, want %d", got, want)
		}
	}},
	{"cut", func(c *matrixClient, s *fakeServer) {
		c.await(c.request("tools/list", ""))
		c.subscribe()
		c.notes = nil
		safe := c.request("tools/call", `"name":"look","arguments":{"ms":5000,"key":"safe"}`)
		c.await("")
		s.cut()
		if r := c.await(safe); r.Error != nil {
			c.t.Errorf("a call that may be repeated: %+v", *r.Error)
		}
		time.Sleep(time.Minute)
		unsafe := c.request("tools/call", `"name":"add","arguments":{"ms":5000,"key":"unsafe"}`)
		c.await("")
		s.cut()
		if r := c.await(unsafe); r.Error != nil && r.Error.Code != -31002 {
			c.t.Errorf("a call that may not be repeated: %+v", *r.Error)
		}
		if n := s.runs("unsafe"); n != 1 {
			c.t.Errorf("it ran %d times", n)
		}
		if text, r := c.call("echo", `"text":"again"`); !strings.Contains(text, "again") {
			c.t.Errorf("after the cut: %s %v", text, r.Error)
		}
		time.Sleep(time.Minute)
		c.await("")
		c.notes = nil
		s.update("test://a")
		c.await("")
		if !c.noted("notifications/resources/updated") {
			c.t.Error("the subscription is gone")
		}
	}},
}

// asked calls a tool that asks the client.
func (c *matrixClient) asked(method, want string) {
	c.t.Helper()
	if text, r := c.call("ask", `"method":"`+method+`","key":"k"`); !strings.Contains(text, want) {
		c.t.Errorf("%s %v", text, r.Error)
	}
}

func TestMatrix(t *testing.T) {
	t.Parallel()
	servers := []struct {
		name string
		old  bool
		make func() *fakeServer
	}{
		{"2024-11-05", true, func() *fakeServer { return &fakeServer{kind: fakeSSE, version: "2024-11-05"} }},
		{"2025-03-26", true, func() *fakeServer { return &fakeServer{version: "2025-03-26", streams: true} }},
		{"2025-06-18", true, func() *fakeServer { return &fakeServer{version: "2025-06-18", streams: true} }},
		{"2025-11-25", true, func() *fakeServer {
			return &fakeServer{version: "2025-11-25", streams: true, ids: true, polling: true, retry: 500 * time.Millisecond}
		}},
		{"2026-07-28", false, func() *fakeServer { return &fakeServer{kind: fakeStateless, streams: true} }},
		{"dual", false, func() *fakeServer { return &fakeServer{dual: true, streams: true} }},
	}
	clients := []struct {
		name     string
		old, new bool
	}{{"old", true, false}, {"new", false, true}, {"dual", true, true}}
	for _, client := range clients {
		for _, server := range servers {
			for _, feature := range matrixFeatures {
				t.Run(client.name+" client/"+server.name+" server/"+feature.name, func(t *testing.T) {
					s := server.make()
					bridgeBubble(t, s, func(t *testing.T, n *memNet, h *host) {
						c := &matrixClient{host: h, knowsOld: client.old, knowsNew: client.new}
						c.begin()
						if want := server.old && !client.old; c.refused != want {
							t.Fatalf("refused: %v, want %v", c.refused, want)
						}
						if c.refused {
							c.goOn(feature.name)
						} else {
							feature.do(c, s)
						}
						s.check(t)
					})
				})
			}
		}
	}
}

// goOn is a client that was told to begin with initialize and does not.
func (c *matrixClient) goOn(feature string) {
	c.t.Helper()
	id := ""
	switch feature {
	case "list":
		id = c.request("tools/list", "")
	case "subscribe":
		id = c.request("subscriptions/listen", `"notifications":{"toolsListChanged":true}`)
	default:
		id = c.request("tools/call", `"name":"echo","arguments":{"text":"x","key":"k"}`)
	}
	r := c.await(id)
	if r.Error == nil || r.Error.Code != -31007 || r.Error.Data.Reason != "not-translatable" || !strings.Contains(r.Error.Message, "2026-07-28") {
		c.t.Errorf("%s %+v", r.Result, r.Error)
	}
	synctest.Wait()
}

// TestVerdict is the probe of a client of both eras: it is answered within ten seconds whatever the server does meanwhile, and
// what it was told is never held against the server.
func TestVerdict(t *testing.T) {
	always := func(answer func(http.ResponseWriter, *http.Request, fakeRequest)) func(*memNet, *fakeServer, *host) {
		return func(_ *memNet, s *fakeServer, _ *host) {
			s.fail(fault{on: "server/discover", times: -1, answer: answer})
		}
	}
	signedIn := make(chan struct{})
	for name, spoil := range map[string]func(*memNet, *fakeServer, *host){
		"away":        func(n *memNet, _ *fakeServer, _ *host) { n.refuse(true) },
		"silent":      always(answerNever),
		"overloaded":  always(answerStatus(http.StatusServiceUnavailable, "Retry-After", "3")),
		"for an hour": always(answerStatus(http.StatusServiceUnavailable, "Retry-After", "3600")),
		"broken":      always(answerStatus(http.StatusInternalServerError)),
		"sign-in": func(_ *memNet, s *fakeServer, h *host) {
			signedIn = make(chan struct{})
			h.signs = []func() error{func() error { <-signedIn; return nil }}
			s.fail(fault{on: "server/discover", answer: answerStatus(http.StatusUnauthorized, "WWW-Authenticate", "Bearer")})
		},
	} {
		for _, kind := range []fakeKind{fakeStateless, fakeStreamable} {
			t.Run(fmt.Sprintf("%s, kind %d", name, kind), func(t *testing.T) {
				s := &fakeServer{kind: kind}
				bridgeBubble(t, s, func(t *testing.T, n *memNet, h *host) {
					spoil(n, s, h)
					c := &matrixClient{host: h, modern: true}
					begun := time.Now()
					if r := c.await(c.request("server/discover", "")); r.Error == nil || r.Error.Code != -32601 || time.Since(begun) > 10*time.Second {
						t.Errorf("after %v: %s %+v", time.Since(begun), r.Result, r.Error)
					}
					n.refuse(false)
					s.heal()
					if name == "sign-in" {
						close(signedIn)
					}
					time.Sleep(maxWait) // the longest that a server may ask for
					c.modern = false
					c.begin()
					if text, r := c.call("echo", `"text":"hi"`); !strings.Contains(text, "hi") {
						t.Errorf("%s %v", text, r.Error)
					}
				})
			})
		}
	}
}

// TestProtocolFlag is --protocol: legacy never speaks 2026-07-28, modern nothing else.
func TestProtocolFlag(t *testing.T) {
	for _, test := range []struct {
		protocol string
		server   *fakeServer
		new      bool // the client
		want     int  // the error's code; 0: none
	}{
		{"legacy", &fakeServer{dual: true}, true, -32601},
		{"legacy", &fakeServer{dual: true}, false, 0},
		{"legacy", &fakeServer{kind: fakeStateless}, false, -32022},
		{"modern", &fakeServer{dual: true}, false, 0},
		{"modern", &fakeServer{dual: true}, true, 0},
		{"modern", &fakeServer{}, false, -32001},
	} {
		t.Run(fmt.Sprintf("%s, new %v, kind %d, dual %v", test.protocol, test.new, test.server.kind, test.server.dual), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n, s := newMemNet(), test.server
				s.start(t, n.listen("mcp.test:80"))
				o := testOptions()
				o.protocol = test.protocol
				c := &matrixClient{host: newHost(t, n, o), modern: test.new}
				method, params := "server/discover", ""
				if !test.new {
					method, params = "initialize", `"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"c","version":"1"}`
				}
				r, code := c.await(c.request(method, params)), 0
				if r.Error != nil {
					code = r.Error.Code
				}
				if code != test.want {
					t.Errorf("%s %+v, want %d", r.Result, r.Error, test.want)
				}
				modern := len(s.requests("initialize")) == 0
				if code == 0 && modern != (test.protocol == "modern") {
					t.Errorf("spoke of 2026-07-28: %v", modern)
				}
			})
		})
	}
}

// TestUpgrade is a server that another revision is deployed on while a client is connected.
func TestUpgrade(t *testing.T) {
	deploy := func(s *fakeServer, kind fakeKind) {
		s.restart()
		s.set(func() { s.kind = kind })
	}
	t.Run("an old client, and then a server that knows only the new", func(t *testing.T) {
		s := &fakeServer{streams: true}
		bridgeBubble(t, s, func(t *testing.T, n *memNet, h *host) {
			c := &matrixClient{host: h, knowsOld: true}
			c.begin()
			c.await(c.request("tools/list", ""))
			c.subscribe()
			if r := c.await(c.request("logging/setLevel", `"level":"info"`)); r.Error != nil {
				t.Fatal(*r.Error)
			}
			inFlight := c.request("tools/call", `"name":"look","arguments":{"ms":5000,"key":"k"}`)
			c.await("")
			deploy(s, fakeStateless)
			if r := c.await(inFlight); r.Error != nil {
				t.Errorf("%+v", *r.Error)
			}
			if text, r := c.call("echo", `"text":"hi","key":"echo"`); !strings.Contains(text, "hi") {
				t.Errorf("%s %v", text, r.Error)
			}
			c.await("")
			if !c.noted("notifications/tools/list_changed") {
				t.Error("not told that the tools may have changed")
			}
			s.update("test://a")
			c.await("")
			if !c.noted("notifications/resources/updated") {
				t.Error("the subscription is gone")
			}
			c.call("log", `"text":"a line"`)
			c.await("")
			if !c.noted("notifications/message") {
				t.Error("the log level is gone")
			}
			c.asked("roots/list", "file:///r")
			if got := s.twice(); len(got) > 0 {
				t.Errorf("executed twice: %v", got)
			}
		})
	})
	t.Run("an old client, and then back", func(t *testing.T) {
		s := &fakeServer{kind: fakeStateless, streams: true}
		bridgeBubble(t, s, func(t *testing.T, n *memNet, h *host) {
			c := &matrixClient{host: h, knowsOld: true}
			c.begin()
			c.await(c.request("tools/list", ""))
			c.subscribe()
			if r := c.await(c.request("logging/setLevel", `"level":"info"`)); r.Error != nil {
				t.Fatal(*r.Error)
			}
			works := func() {
				t.Helper()
				if text, r := c.call("echo", `"text":"hi"`); !strings.Contains(text, "hi") {
					t.Errorf("%s %v", text, r.Error)
				}
				c.await("")
				if !c.noted("notifications/tools/list_changed") {
					t.Error("not told that the tools may have changed")
				}
				s.update("test://a")
				c.await("")
				if !c.noted("notifications/resources/updated") {
					t.Error("the subscription is gone")
				}
				c.call("log", `"text":"a line"`)
				c.await("")
				if !c.noted("notifications/message") {
					t.Error("the log level is gone")
				}
				c.asked("roots/list", "file:///r")
			}
			for i, kind := range []fakeKind{fakeStreamable, fakeStateless, fakeStreamable, fakeStateless} {
				c.await(c.request("tools/list", ""))
				safe := c.request("tools/call", fmt.Sprintf(`"name":"look","arguments":{"ms":5000,"key":"safe %d"}`, i))
				unsafe := c.request("tools/call", fmt.Sprintf(`"name":"add","arguments":{"ms":5000,"key":"unsafe %d"}`, i))
				c.await("")
				deploy(s, kind)
				if r := c.await(unsafe); r.Error == nil || r.Error.Code != -31002 {
					t.Errorf("%s %+v", r.Result, r.Error)
				}
				if r := c.await(safe); r.Error != nil {
					t.Errorf("%+v", *r.Error)
				}
				works()
				if n := s.runs(fmt.Sprintf("unsafe %d", i)); n != 1 {
					t.Errorf("ran %d times", n)
				}
			}
		})
	})
	t.Run("an old client, and then back, without a cut", func(t *testing.T) {
		s := &fakeServer{kind: fakeStateless, streams: true}
		bridgeBubble(t, s, func(t *testing.T, n *memNet, h *host) {
			c := &matrixClient{host: h, knowsOld: true}
			c.begin()
			s.set(func() { s.kind = fakeStreamable })
			if r := c.await(c.request("tools/call", `"name":"add","arguments":{"key":"a"}`)); r.Error == nil || r.Error.Code > -32000 { // the server's own
				t.Errorf("%s %+v", r.Result, r.Error)
			}
			if r := c.await(c.request("tools/call", `"name":"add","arguments":{"key":"b"}`)); r.Error != nil {
				t.Errorf("%+v", *r.Error)
			}
			c.await(c.request("tools/list", ""))
			s.set(func() { s.kind = fakeStateless })
			if r := c.await(c.request("tools/call", `"name":"look","arguments":{"key":"c"}`)); r.Error != nil {
				t.Errorf("%+v", *r.Error)
			}
			c.await(c.request("tools/list", ""))
			s.set(func() { s.kind = fakeStreamable })
			if r := c.await(c.request("tools/call", `"name":"look","arguments":{"key":"d"}`)); r.Error != nil {
				t.Errorf("%+v", *r.Error)
			}
			if a, b := s.runs("a"), s.runs("b"); a != 0 || b != 1 {
				t.Errorf("ran %d and %d times", a, b)
			}
		})
	})
	t.Run("a client of both, and then a server that knows only the old", func(t *testing.T) {
		s := &fakeServer{kind: fakeStateless, streams: true}
		bridgeBubble(t, s, func(t *testing.T, n *memNet, h *host) {
			c := &matrixClient{host: h, knowsOld: true, knowsNew: true}
			c.begin()
			deploy(s, fakeStreamable)
			c.await("")
			if r := c.await(c.request("tools/call", `"name":"echo","arguments":{"text":"x"}`)); r.Error == nil { // the server's own, since it may have run
				t.Errorf("%s %+v", r.Result, r.Error)
			}
			c.begin()
			if c.modern {
				t.Fatal("still modern")
			}
			if text, r := c.call("echo", `"text":"hi"`); !strings.Contains(text, "hi") {
				t.Errorf("%s %v", text, r.Error)
			}
		})
	})
}

// TestUpgradeAsked is a server that goes back to an earlier revision while the client is asked something.
func TestUpgradeAsked(t *testing.T) {
	s := &fakeServer{kind: fakeStateless, capabilities: map[string]any{"tools": map[string]any{}}}
	bridgeBubble(t, s, func(t *testing.T, n *memNet, h *host) {
		h.say(`{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{"roots":{}},"clientInfo":{"name":"c","version":"1"}}}`)
		h.answer("0", time.Minute)
		h.say(fakeCallLine(1, "ask", `"method":"roots/list","key":"k"`))
		asked := parsed(t, h.hear(time.Minute))
		s.fail(fault{on: "echo", answer: answerStatus(http.StatusServiceUnavailable, "Retry-After", "1")})
		s.set(func() { s.kind = fakeStreamable })
		h.say(fakeCallLine(2, "echo", `"text":"hi"`))
		got := h.hear(time.Minute) + h.hear(time.Minute) + h.hear(time.Minute)
		for _, want := range []string{`"method":"notifications/cancelled","params":{"requestId":` + asked.id + `}`, `"id":1,"error":{"code":-31007,`, `"text":"hi"`} {
			if !strings.Contains(got, want) {
				t.Errorf("no %s in %s", want, got)
			}
		}
		h.say(`{"jsonrpc":"2.0","id":` + asked.id + `,"result":{"roots":[]}}`)
		if got := h.hear(time.Minute); got != "" {
			t.Error(got)
		}
	})
}

// TestUpgradeSubscribing is a server that goes back to an earlier revision before it has agreed to a subscription: it
// is asked again, and its answer is the client's.
func TestUpgradeSubscribing(t *testing.T) {
	s := &fakeServer{kind: fakeStateless}
	bridgeBubble(t, s, func(t *testing.T, n *memNet, h *host) {
		h.say(`{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"c","version":"1"}}}`)
		h.answer("0", time.Minute)
		h.say(`{"jsonrpc":"2.0","method":"notifications/initialized"}`)
		time.Sleep(time.Second)
		s.fail(fault{on: "subscriptions/listen", answer: answerStatus(http.StatusServiceUnavailable, "Retry-After", "1")})
		s.set(func() { s.kind = fakeStreamable })
		h.say(`{"jsonrpc":"2.0","id":"s","method":"resources/subscribe","params":{"uri":"test://a"}}`)
		if got := h.answer(`"s"`, time.Minute); !strings.Contains(got, `"result":{}`) {
			t.Error(got)
		}
		for h.hear(time.Minute) != "" { // what may have changed
		}
		s.update("test://a")
		if got := h.hear(time.Minute); !strings.Contains(got, "notifications/resources/updated") {
			t.Errorf("not told of the change: %s", got)
		}
	})
}

// TestUpgradeNot is a server of 2026-07-28 in whose place something else answers for a while.
func TestUpgradeNot(t *testing.T) {
	for name, answer := range map[string]func(http.ResponseWriter, *http.Request, fakeRequest){
		"nothing here":   answerStatus(http.StatusNotFound),
		"unknown method": answerWith(http.StatusNotFound, "application/json", `{"jsonrpc":"2.0","id":%ID%,"error":{"code":-32601,"message":"no"}}`),
		"something else": answerWith(http.StatusOK, "text/html", `<p>`),
	} {
		t.Run(name, func(t *testing.T) {
			s := &fakeServer{kind: fakeStateless}
			bridgeBubble(t, s, func(t *testing.T, n *memNet, h *host) {
				c := &matrixClient{host: h, knowsOld: true}
				c.begin()
				c.await(c.request("tools/list", ""))
				s.fail(fault{on: "look"}, fault{on: "server/discover", answer: answer}, fault{on: "initialize", times: 3, answer: answer})
				if r := c.await(c.request("tools/call", `"name":"look","arguments":{"key":"k"}`)); r.Error != nil {
					t.Errorf("%+v", *r.Error)
				}
				s.check(t)
			})
		})
	}
}

// TestGap is a client that misses nothing: it is told what may have changed if its stream was lost, and only then.
func TestGap(t *testing.T) {
	for _, modern := range []bool{false, true} {
		t.Run(fmt.Sprintf("modern %v", modern), func(t *testing.T) {
			s := &fakeServer{kind: fakeStateless, streams: true}
			bridgeBubble(t, s, func(t *testing.T, n *memNet, h *host) {
				c := &matrixClient{host: h, knowsOld: !modern, knowsNew: modern}
				c.begin()
				c.subscribe()
				told := func() (methods []string) {
					time.Sleep(10 * time.Second)
					c.await("")
					for _, n := range c.notes {
						if n.Method != "notifications/progress" { // of what is held
							methods = append(methods, n.Method)
						}
					}
					c.noted("")
					slices.Sort(methods)
					return methods
				}
				told()
				s.fail(fault{on: "tools/list", answer: answerStatus(http.StatusTooManyRequests, "Retry-After", "1")})
				c.await(c.request("tools/list", ""))
				if got := told(); got != nil {
					t.Errorf("after a refusal: %v", got)
				}
				s.cut()
				want := []string{"notifications/resources/updated", "notifications/tools/list_changed"}
				if !modern { // which is promised all lists by the handshake
					want = []string{"notifications/prompts/list_changed", "notifications/resources/list_changed", "notifications/resources/updated", "notifications/tools/list_changed"}
				}
				if got := told(); !slices.Equal(got, want) {
					t.Errorf("after a cut: %v", got)
				}
				s.check(t)
			})
		})
	}
}

// TestTasksPass says that tasks of both eras pass untouched between equals.
func TestTasksPass(t *testing.T) {
	const meta = `"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{"extensions":{"io.modelcontextprotocol/tasks":{}}}}`
	for _, test := range []struct{ line, name, result string }{
		{`"method":"server/discover","params":{` + meta + `}`, "", `{"resultType":"complete","supportedVersions":["2026-07-28"],"capabilities":{"extensions":{"io.modelcontextprotocol/tasks":{}}}}`},
		{`"method":"tools/call","params":{"name":"t","arguments":{},` + meta + `}`, "t", `{"resultType":"task","taskId":"7 7","status":"working","ttlMs":null}`},
		{`"method":"tasks/get","params":{"taskId":"7 7",` + meta + `}`, "7 7", `{"resultType":"complete","status":"input_required","inputRequests":{"q":{"method":"roots/list"}}}`},
		{`"method":"tasks/update","params":{"taskId":"7 7","inputResponses":{"q":{"roots":[]}},` + meta + `}`, "7 7", `{"resultType":"complete"}`},
		{`"method":"tasks/cancel","params":{"taskId":"7 7",` + meta + `}`, "7 7", `{"resultType":"complete"}`},
		{`"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{"tasks":{"list":{}}},"clientInfo":{"name":"c","version":"1"}}`, "", `{"protocolVersion":"2025-11-25","capabilities":{"tasks":{"requests":{"tools":{"call":{}}}}},"serverInfo":{"name":"s","version":"1"}}`},
		{`"method":"tools/call","params":{"name":"t","arguments":{},"task":{"ttl":5}}`, "", `{"task":{"taskId":"7","status":"working","ttl":5}}`},
		{`"method":"tasks/result","params":{"taskId":"7"}`, "", `{"content":[],"_meta":{"io.modelcontextprotocol/related-task":{"taskId":"7"}}}`},
	} {
		t.Run(test.line[:30], func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := newMemNet()
				seen := ""
				memServe(t, n, "mcp.test:80", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					body, _ := io.ReadAll(r.Body)
					m, _ := scan(body)
					result := test.result
					switch own := strings.HasPrefix(test.line, `"method":"`+m.method+`"`); {
					case own:
						seen = r.Header.Get("Mcp-Name") + " " + string(body)
					case m.method == "initialize":
						result = `{"protocolVersion":"2025-11-25","capabilities":{},"serverInfo":{"name":"s","version":"1"}}`
					case m.kind != request:
						w.WriteHeader(http.StatusAccepted)
						return
					}
					w.Header().Set("Content-Type", "application/json")
					fmt.Fprintf(w, `{"jsonrpc":"2.0","id":%s,"result":%s}`, m.id, result)
				}))
				h := newHost(t, n, testOptions())
				if !strings.Contains(test.line, meta) && !strings.Contains(test.line, "initialize") {
					h.hello()
				}
				line := `{"jsonrpc":"2.0","id":1,` + test.line + `}`
				h.say(line)
				if got, want := h.answer("1", time.Minute), `{"jsonrpc":"2.0","id":1,"result":`+test.result+`}`; got != want {
					t.Errorf("the client got %s", got)
				}
				if want := test.name + " " + line; seen != want {
					t.Errorf("the server saw %s", seen)
				}
			})
		})
	}
}

// TestMatrixArray is an array of 2025-03-26 on a server of 2026-07-28, which knows none.
func TestMatrixArray(t *testing.T) {
	bridgeBubble(t, &fakeServer{kind: fakeStateless}, func(t *testing.T, n *memNet, h *host) {
		h.say(`{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":"2025-03-26","capabilities":{},"clientInfo":{"name":"c","version":"1"}}}`)
		h.answer("0", time.Minute)
		h.say(`[{"jsonrpc":"2.0","id":1,"method":"ping"},{"jsonrpc":"2.0","method":"notifications/initialized"},` + fakeCallLine(2, "echo", `"text":"hi"`) + `]`)
		var got []matrixMessage
		if line := h.hear(time.Minute); json.Unmarshal([]byte(line), &got) != nil || len(got) != 2 || string(got[0].ID) != "1" || !strings.Contains(string(got[1].Result), "hi") {
			t.Errorf("answered with %s", line)
		}
	})
}
