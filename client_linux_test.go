package main

import (
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"syscall"
	"testing"
)

// TestSocketOptions reads back what the kernel was told about a connection.
func TestSocketOptions(t *testing.T) {
	u := serveHTTP(t, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "hello") })
	again, _, _ := clients(t, clientOptions{server: u})
	got := map[string]int{}
	trace := &httptrace.ClientTrace{GotConn: func(i httptrace.GotConnInfo) {
		raw, err := i.Conn.(*net.TCPConn).SyscallConn()
		if err != nil {
			t.Error(err)
			return
		}
		raw.Control(func(fd uintptr) {
			read := func(name string, level, option int) {
				if got[name], err = syscall.GetsockoptInt(int(fd), level, option); err != nil {
					t.Errorf("%s: %v", name, err)
				}
			}
			read("user timeout in ms", syscall.IPPROTO_TCP, tcpUserTimeout)
			read("keep-alive", syscall.SOL_SOCKET, syscall.SO_KEEPALIVE)
			read("idle in s", syscall.IPPROTO_TCP, syscall.TCP_KEEPIDLE)
			read("interval in s", syscall.IPPROTO_TCP, syscall.TCP_KEEPINTVL)
			read("count", syscall.IPPROTO_TCP, syscall.TCP_KEEPCNT)
		})
	}}
	req, err := http.NewRequestWithContext(httptrace.WithClientTrace(t.Context(), trace), "GET", u.String(), nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := again.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	for name, want := range map[string]int{"user timeout in ms": 30_000, "keep-alive": 1, "idle in s": 10, "interval in s": 5, "count": 3} {
		if got[name] != want {
			t.Errorf("%s: %d, want %d", name, got[name], want)
		}
	}
}
