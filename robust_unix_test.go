//go:build !windows

package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// A folder of another user's is no place for credentials: who has the folder can put other files into it.
func TestRobustForeignFolder(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("it takes root to be somebody else")
	}
	program, _ := strings.CutPrefix(shipped(t)[0], "PROGRAM=")
	dir, err := os.MkdirTemp("", "foreign")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	mine := filepath.Join(dir, "mine", storeFolder)
	roots := filepath.Join(dir, "roots", storeFolder)
	data, err := os.ReadFile(program)
	for _, e := range []error{err, os.WriteFile(filepath.Join(dir, "program"), data, 0o755), os.Chmod(dir, 0o755), os.MkdirAll(mine, 0o755), os.MkdirAll(roots, 0o755),
		os.Chown(mine, 65534, 65534), os.Chmod(roots, 0o777)} {
		if e != nil {
			t.Fatal(e)
		}
	}
	for name, want := range map[string]int{"mine": 0, "roots": 1} {
		cmd := exec.Command(filepath.Join(dir, "program"), "status")
		cmd.Env = []string{"MCP_REMOTE_CONFIG_DIR=" + filepath.Join(dir, name)}
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
		out, _ := cmd.CombinedOutput()
		if code := cmd.ProcessState.ExitCode(); code != want || strings.Contains(string(out), "another user") != (want > 0) {
			t.Errorf("%s: exit %d\n%s", name, code, out)
		}
	}
}

func stop(t *testing.T, p *os.Process)   { signalTo(t, p, syscall.SIGSTOP) }
func resume(t *testing.T, p *os.Process) { signalTo(t, p, syscall.SIGCONT) }

func signalTo(t *testing.T, p *os.Process, s syscall.Signal) {
	t.Helper()
	if err := p.Signal(s); err != nil {
		t.Fatal(err)
	}
}
