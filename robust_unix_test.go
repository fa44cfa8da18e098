//go:build !windows

package main

import (
	"os"
	"syscall"
	"testing"
)

func stop(t *testing.T, p *os.Process)   { signalTo(t, p, syscall.SIGSTOP) }
func resume(t *testing.T, p *os.Process) { signalTo(t, p, syscall.SIGCONT) }

func signalTo(t *testing.T, p *os.Process, s syscall.Signal) {
	t.Helper()
	if err := p.Signal(s); err != nil {
		t.Fatal(err)
	}
}
