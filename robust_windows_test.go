package main

import (
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"testing"
)

func stop(t *testing.T, _ *os.Process) { t.Skip("there is no such signal") }
func resume(*testing.T, *os.Process)   {}

// Ctrl+Break ends the program in order. Ctrl+C comes the same way, as an interrupt; a console that is closed comes as
// SIGTERM (os/signal, Windows), which the program takes, too, and which no program can send.
func TestRobustConsole(t *testing.T) {
	caught := make(chan os.Signal, 1) // in case that the event comes to us as well
	signal.Notify(caught, os.Interrupt)
	defer signal.Stop(caught)
	cmd := victimCommand(t.TempDir(), nil, answering(t))
	cmd.SysProcAttr = &syscall.SysProcAttr{CreationFlags: syscall.CREATE_NEW_PROCESS_GROUP}
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close() // it is open while the event comes
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	io.WriteString(in, `{"jsonrpc":"2.0","id":1,"method":"initialize","params":`+victimHello+"}\n")
	answer := make([]byte, 4096)
	if n, err := out.Read(answer); err != nil || !strings.Contains(string(answer[:n]), `"result"`) {
		t.Errorf("answered %s, %v", answer[:n], err)
	}
	send := syscall.NewLazyDLL("kernel32.dll").NewProc("GenerateConsoleCtrlEvent")
	if ok, _, err := send.Call(syscall.CTRL_BREAK_EVENT, uintptr(cmd.Process.Pid)); ok == 0 {
		in.Close()
		ended(t, cmd)
		t.Skipf("there is no console: %v", err)
	}
	if code := ended(t, cmd); code != 0 {
		t.Errorf("exit %d", code)
	}
}
