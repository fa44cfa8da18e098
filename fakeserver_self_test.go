package main

import (
	"bufio"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// A rawClient talks to a fakeServer with nothing but net/http, so that the server can be tested alone.
type rawClient struct {
	t       *testing.T
	c       *http.Client
	url     string
	session string
	version string
}

func (c *rawClient) do(method, body string, header ...string) (*http.Response, error) {
	req, err := http.NewRequest(method, c.url, strings.NewReader(body))
	if err != nil {
		c.t.Fatal(err)
	}
	req.Header.Set("Accept", "application/json, text/event-stream")
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	if c.session != "" {
		req.Header.Set("Mcp-Session-Id", c.session)
	}
	if c.version != "" {
		req.Header.Set("Mcp-Protocol-Version", c.version)
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	return c.c.Do(req)
}

// post is the whole answer: status and body, or the error.
func (c *rawClient) post(body string, header ...string) string {
	resp, err := c.do("POST", body, header...)
	if err != nil {
		return "error"
	}
	defer resp.Body.Close()
	if id := resp.Header.Get("Mcp-Session-Id"); id != "" {
		c.session = id
	}
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		return fmt.Sprintf("%d %s then an error", resp.StatusCode, b)
	}
	return fmt.Sprintf("%d %s", resp.StatusCode, b)
}

func (c *rawClient) hello() {
	c.t.Helper()
	got := c.post(`{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"c","version":"1"}}}`)
	if !strings.Contains(got, `"protocolVersion":"2025-11-25"`) {
		c.t.Fatalf("initialize: %s", got)
	}
	c.version = "2025-11-25"
	if got := c.post(`{"jsonrpc":"2.0","method":"notifications/initialized"}`); got != "202 " {
		c.t.Fatalf("initialized: %s", got)
	}
}

func fakeCallLine(id int, tool, args string) string {
	return fmt.Sprintf(`{"jsonrpc":"2.0","id":%d,"method":"tools/call","params":{"name":%q,"arguments":{%s}}}`, id, tool, args)
}

func fakeBubble(t *testing.T, s *fakeServer, f func(t *testing.T, n *memNet, c *rawClient)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		n := newMemNet()
		s.start(t, n.listen("mcp.test:80"))
		f(t, n, &rawClient{t: t, c: n.client(t), url: "http://mcp.test/mcp"})
	})
}

func TestFakeServerFaults(t *testing.T) {
	const data = "event: message\ndata: "
	tests := []struct {
		name   string
		server *fakeServer
		fault  fault
		want   string
		runs   int
	}{
		{"json", &fakeServer{}, fault{on: "other"}, `200 {"id":1,"jsonrpc":"2.0","result":{"content":[{"text":"1","type":"text"}]}}`, 1},
		{"stream", &fakeServer{streams: true}, fault{on: "other"}, "200 " + data + `{"id":1,"jsonrpc":"2.0","result":{"content":[{"text":"1","type":"text"}]}}` + "\n\n", 1},
		{"status", &fakeServer{}, fault{answer: answerStatus(503, "Retry-After", "3")}, "503 Service Unavailable\n", 0},
		{"cut before acting", &fakeServer{}, fault{on: "add"}, "error", 0},
		{"cut after acting", &fakeServer{}, fault{on: "tools/call", act: true}, "error", 1},
		{"ended after acting", &fakeServer{streams: true}, fault{act: true, clean: true}, "200 ", 1},
		{"accepted", &fakeServer{}, fault{act: true, answer: answerStatus(202)}, "202 Accepted\n", 1},
		{"wrong id", &fakeServer{}, fault{act: true, edit: editID(`"x"`)}, `200 {"id":"x","jsonrpc":"2.0","result":{"content":[{"text":"1","type":"text"}]}}`, 1},
		{"quoted id", &fakeServer{}, fault{act: true, edit: editQuoteID}, `200 {"id":"1","jsonrpc":"2.0","result":{"content":[{"text":"1","type":"text"}]}}`, 1},
		{"no id", &fakeServer{}, fault{act: true, edit: editID("")}, `200 {"jsonrpc":"2.0","result":{"content":[{"text":"1","type":"text"}]}}`, 1},
		{"truncated", &fakeServer{}, fault{act: true, edit: editTruncate}, `200 {"id":1,"jsonrpc":"2.0","result":{"co`, 1},
		{"no answer", &fakeServer{streams: true}, fault{act: true, edit: editNothing}, `200 `, 1},
		{"portal", &fakeServer{}, fault{answer: answerPortal}, `200 <!doctype html><title>Welcome to the Wi-Fi</title>`, 0},
		{"second one", &fakeServer{}, fault{on: "tools/call", after: 1}, `200 {"id":1,"jsonrpc":"2.0","result":{"content":[{"text":"1","type":"text"}]}}`, 1},
		{"polling", &fakeServer{streams: true, ids: true, polling: true, retry: 500 * time.Millisecond}, fault{on: "other"}, "200 id: 2-0\nretry: 500\ndata:\n\n", 1},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			fakeBubble(t, test.server, func(t *testing.T, n *memNet, c *rawClient) {
				c.hello()
				test.server.fail(test.fault)
				got := c.post(fakeCallLine(1, "add", `"key":"k"`))
				synctest.Wait()
				if got != test.want || test.server.runs("k") != test.runs {
					t.Errorf("got %q and %d runs, want %q and %d", got, test.server.runs("k"), test.want, test.runs)
				}
				test.server.check(t)
			})
		})
	}
}

func TestFakeServerSigns(t *testing.T) {
	tests := map[lostSign]string{
		lost404: `404 {"jsonrpc":"2.0","error":{"code":-32001,"message":"Session not found"},"id":1}`,
		lost400: `400 {"jsonrpc":"2.0","error":{"code":-32000,"message":"Bad Request: No valid session ID provided"},"id":1}`,
		lost410: "410 gone\n", lost401: "401 unauthorized\n", lost503: "503 no such backend\n",
		lost200:     `200 {"jsonrpc":"2.0","error":{"code":-32603,"message":"Session not found"},"id":1}`,
		lostRequest: `200 {"jsonrpc":"2.0","error":{"code":-32600,"message":"Invalid session"},"id":1}`,
		lostParams:  `200 {"jsonrpc":"2.0","error":{"code":-32602,"message":"Received request before initialization was complete"},"id":1}`,
	}
	for sign, want := range tests {
		s := &fakeServer{lost: sign}
		fakeBubble(t, s, func(t *testing.T, n *memNet, c *rawClient) {
			c.hello()
			s.forget()
			if got := c.post(fakeCallLine(1, "add", `"key":"k"`)); got != want || s.runs("k") != 0 {
				t.Errorf("sign %d: got %q and %d runs, want %q and none", sign, got, s.runs("k"), want)
			}
		})
	}
}

// events reads a stream's data lines up to n of them.
func (c *rawClient) events(resp *http.Response, n int) (data []string) {
	b := bufio.NewScanner(resp.Body)
	for len(data) < n && b.Scan() {
		if d, ok := strings.CutPrefix(b.Text(), "data: "); ok {
			data = append(data, d)
		}
	}
	return data
}

func TestFakeServerResumes(t *testing.T) {
	s := &fakeServer{streams: true, ids: true}
	fakeBubble(t, s, func(t *testing.T, n *memNet, c *rawClient) {
		c.hello()
		s.fail(fault{on: "progress", act: true, events: 2})
		got := c.post(`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"progress","arguments":{"steps":3,"ms":1000,"key":"k"},"_meta":{"progressToken":"p"}}}`)
		if !strings.Contains(got, "id: 2-2\n") || strings.Contains(got, "id: 2-3\n") || !strings.HasSuffix(got, "then an error") {
			t.Fatalf("cut after two events: %s", got)
		}
		resp, err := c.do("GET", "", "Last-Event-ID", "2-2")
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		rest := c.events(resp, 10)
		if len(rest) != 2 || !strings.Contains(rest[0], `"progress":3`) || !strings.Contains(rest[1], "done") || s.runs("k") != 1 {
			t.Errorf("resumed with %q, %d runs", rest, s.runs("k"))
		}
		s.check(t)
	})
}

func TestFakeServerSSE(t *testing.T) {
	s := &fakeServer{kind: fakeSSE}
	fakeBubble(t, s, func(t *testing.T, n *memNet, c *rawClient) {
		resp, err := c.do("GET", "")
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		c.url = "http://mcp.test" + c.events(resp, 1)[0]
		if got := c.post(`{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":"2025-11-25"}}`); got != "202 Accepted" {
			t.Fatalf("initialize: %s", got)
		}
		if got := c.events(resp, 1)[0]; !strings.Contains(got, `"protocolVersion":"2024-11-05"`) {
			t.Errorf("initialize: %s", got)
		}
		c.post(`{"jsonrpc":"2.0","method":"notifications/initialized"}`)
		c.post(fakeCallLine(1, "ask", `"key":"k","method":"roots/list"`))
		if got := c.events(resp, 1)[0]; !strings.Contains(got, `"method":"roots/list"`) {
			t.Errorf("asked: %s", got)
		}
		c.post(`{"jsonrpc":"2.0","id":2,"result":{"roots":[]}}`)
		if got := c.events(resp, 1)[0]; !strings.Contains(got, `"id":1`) || !strings.Contains(got, "roots") {
			t.Errorf("answer: %s", got)
		}
		s.fail(fault{on: "add", act: true})
		c.post(fakeCallLine(3, "add", `"key":"lost"`))
		if got := c.events(resp, 1); len(got) != 0 || s.runs("lost") != 1 {
			t.Errorf("after the cut: %q, %d runs", got, s.runs("lost"))
		}
		if got := c.post(fakeCallLine(4, "add", "")); !strings.HasPrefix(got, "404 ") {
			t.Errorf("the session outlived its stream: %s", got)
		}
		s.check(t)
	})
}

func TestFakeServerStateless(t *testing.T) {
	s := &fakeServer{kind: fakeStateless}
	fakeBubble(t, s, func(t *testing.T, n *memNet, c *rawClient) {
		const meta = `"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}}`
		c.version = fakeModern
		got := c.post(`{"jsonrpc":"2.0","id":1,"method":"server/discover","params":{`+meta+`}}`, "Mcp-Method", "server/discover")
		if !strings.HasPrefix(got, "200 ") || !strings.Contains(got, `"supportedVersions":["2026-07-28"]`) {
			t.Errorf("discover: %s", got)
		}
		call := `{"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"name":"region","arguments":{"region":"eu","key":"k"},` + meta + `}}`
		if got := c.post(call, "Mcp-Method", "tools/call", "Mcp-Name", "region"); !strings.HasPrefix(got, "400 ") || !strings.Contains(got, "-32020") {
			t.Errorf("without the header: %s", got)
		}
		if got := c.post(call, "Mcp-Method", "tools/call", "Mcp-Name", "region", "Mcp-Param-Region", "eu"); !strings.Contains(got, "in eu") {
			t.Errorf("with the header: %s", got)
		}
		if v := s.violations(); len(v) != 1 {
			t.Errorf("violations noted: %q", v)
		}
	})
}
