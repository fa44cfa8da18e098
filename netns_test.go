package main

// netns_test.go holds the bridge against lines that are really half-open: the program in a network namespace of its
// own, a server in another, and packets that vanish between them. It takes real time, and needs root and ip(8), on
// Linux.

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// TestNetnsServer is no test: it is the server that TestNetns starts in its namespace.
func TestNetnsServer(t *testing.T) {
	addr := os.Getenv("MCP_REDIAL_NETNS_SERVER")
	if addr == "" {
		t.Skip("part of TestNetns")
	}
	l, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	s := &fakeServer{streams: true}
	if os.Getenv("MCP_REDIAL_NETNS_KIND") == "sse" {
		s.kind = fakeSSE
	}
	s.start(t, l)
	_, _ = io.Copy(io.Discard, os.Stdin) // until TestNetns is over
}

func TestNetns(t *testing.T) {
	if os.Getenv("CI") != "true" || os.Getuid() != 0 {
		t.Skip("skipped: CI=true go test -run Netns runs it, as root, in two minutes")
	}
	if _, err := exec.LookPath("ip"); err != nil {
		t.Skip("skipped: ip of iproute2 is needed")
	}
	bridge := builtBridge(t)
	n := 0
	for _, kind := range []string{"streamable", "sse"} {
		for _, fault := range []string{"the address changed", "packets vanish for 12 s", "packets vanish for 40 s"} {
			n++
			a, b := fmt.Sprintf("redial-%d-a%d", os.Getpid(), n), fmt.Sprintf("redial-%d-b%d", os.Getpid(), n)
			t.Run(kind+"/"+fault, func(t *testing.T) {
				t.Parallel()
				sh := func(format string, args ...any) {
					t.Helper()
					f := strings.Fields(fmt.Sprintf(format, args...))
					if out, err := exec.Command(f[0], f[1:]...).CombinedOutput(); err != nil {
						t.Fatalf("%v: %v: %s", f, err, out)
					}
				}
				for _, ns := range []string{a, b} {
					if out, err := exec.Command("ip", "netns", "add", ns).CombinedOutput(); err != nil {
						t.Skipf("skipped: no network namespaces here: %s", out)
					}
					t.Cleanup(func() { _ = exec.Command("ip", "netns", "del", ns).Run() })
				}
				sh("ip -n %s link add eth0 type veth peer name eth0 netns %s", a, b)
				sh("ip -n %s addr add 10.77.0.1/24 dev eth0", a)
				sh("ip -n %s addr add 10.77.0.2/24 dev eth0", b)
				sh("ip -n %s link set eth0 up", a)
				sh("ip -n %s link set eth0 up", b)
				run := func(ns, program string, args ...string) (*exec.Cmd, io.WriteCloser, io.ReadCloser) {
					t.Helper()
					c := exec.Command("ip", append([]string{"netns", "exec", ns, program}, args...)...)
					in, _ := c.StdinPipe()
					out, _ := c.StdoutPipe()
					c.Env = append(os.Environ(), "MCP_REDIAL_NETNS_SERVER=10.77.0.2:8080", "MCP_REDIAL_NETNS_KIND="+kind, "MCP_REDIAL_CONFIG_DIR="+t.TempDir(), "HOME="+t.TempDir())
					if err := c.Start(); err != nil {
						t.Fatal(err)
					}
					t.Cleanup(func() {
						in.Close()
						late := time.AfterFunc(10*time.Second, func() { _ = c.Process.Kill() })
						_ = c.Wait()
						late.Stop()
					})
					return c, in, out
				}
				run(b, os.Args[0], "-test.run=^TestNetnsServer$")
				_, in, out := run(a, bridge, "http://10.77.0.2:8080/mcp", "--allow-http", "--transport", map[string]string{"streamable": "http-only", "sse": "sse-only"}[kind])
				lines := make(chan string, 1000) // closed by the reader
				go func() {
					defer close(lines)
					for r := bufio.NewScanner(out); r.Scan(); {
						lines <- r.Text()
					}
				}()
				say := func(line string) { _, _ = io.WriteString(in, line+"\n") }
				answer := func(id string, within time.Duration) string {
					t.Helper()
					limit := time.After(within)
					for {
						select {
						case l, ok := <-lines:
							if !ok {
								t.Fatal("the bridge ended")
							}
							if strings.Contains(l, `"id":`+id+`,`) || strings.Contains(l, `"id":`+id+`}`) {
								return l
							}
						case <-limit:
							t.Fatalf("no answer to %s within %v", id, within)
						}
					}
				}
				good := func(id string, within time.Duration) {
					t.Helper()
					if got := answer(id, within); !strings.Contains(got, `"result"`) {
						t.Fatalf("%s: %s", id, got)
					}
				}
				say(`{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"c","version":"1"}}}`)
				good("0", hung)
				say(`{"jsonrpc":"2.0","method":"notifications/initialized"}`)
				say(`{"jsonrpc":"2.0","id":1,"method":"tools/list"}`)
				good("1", hung)
				start := time.Now()
				say(fakeCallLine(2, "look", `"ms":4000,"key":"a"`))
				time.Sleep(time.Second)
				switch fault {
				case "the address changed":
					sh("ip -n %s addr del 10.77.0.1/24 dev eth0", a)
					sh("ip -n %s addr add 10.77.0.3/24 dev eth0", a)
					good("2", hung)
				default:
					// Frames for a neighbour that does not exist vanish without a word, and need no kernel module.
					sh("ip -n %s neigh replace 10.77.0.2 lladdr 02:00:00:00:00:99 nud permanent dev eth0", a)
					sh("ip -n %s neigh replace 10.77.0.1 lladdr 02:00:00:00:00:99 nud permanent dev eth0", b)
					d := 12 * time.Second
					if strings.Contains(fault, "40") {
						d = 40 * time.Second
					}
					time.Sleep(d)
					sh("ip -n %s neigh del 10.77.0.2 dev eth0", a)
					sh("ip -n %s neigh del 10.77.0.1 dev eth0", b)
					if d < 25*time.Second {
						good("2", hung)
					} else {
						answer("2", 15*time.Second) // held as long as promised: it is there, or this machine is very slow
					}
				}
				t.Logf("the call made before was settled after %v", time.Since(start).Round(100*time.Millisecond))
				start = time.Now()
				say(fakeCallLine(3, "add", `"key":"b"`))
				good("3", hung)
				t.Logf("the next call was answered after %v", time.Since(start).Round(10*time.Millisecond))
			})
		}
	}
}
