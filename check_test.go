package main

import (
	"bytes"
	"net"
	"os"
	"testing"
)

// checkURL runs mcp-redial check as a person does, and returns its exit code and what it printed.
func checkURL(t *testing.T, args ...string) (int, string) {
	t.Helper()
	m := machine{getenv: func(name string) (string, bool) {
		return map[string]string{"MCP_REMOTE_CONFIG_DIR": t.TempDir()}[name], name == "MCP_REMOTE_CONFIG_DIR"
	}, policy: "", proxy: nil}
	var out, errs bytes.Buffer
	in, err := devNull()
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	code := command(append([]string{"check"}, args...), m, in, &out, &errs)
	return code, out.String() + errs.String()
}

func onLoopback(t testing.TB) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func TestCheck(t *testing.T) {
	for _, s := range []*fakeServer{{}, {kind: fakeSSE}, {kind: fakeStateless}, {noStream: true, sessionless: true, streams: true}} {
		l := onLoopback(t)
		s.start(t, l)
		code, out := checkURL(t, "http://"+l.Addr().String()+"/mcp")
		t.Log(code, "\n"+out)
	}
}

func devNull() (*os.File, error) { return os.Open(os.DevNull) }
