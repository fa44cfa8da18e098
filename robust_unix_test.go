//go:build !windows

package main

import (
	"encoding/json"
	"fmt"
	"net/http"
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

// Without a descriptor left a call is held like one whose server is away; what is on its way goes on, and when there are
// descriptors again the next call works.
func TestRobustDescriptors(t *testing.T) {
	t.Parallel()
	program, _ := strings.CutPrefix(shipped(t)[0], "PROGRAM=")
	release := make(chan struct{})
	url := hostile(t, func(w http.ResponseWriter, r *http.Request, method, id string) {
		if r.Method == http.MethodGet {
			w.WriteHeader(http.StatusMethodNotAllowed)
			return
		}
		<-release
		w.Header().Set("Content-Type", jsonType)
		fmt.Fprintf(w, okResult, id)
	})
	v := attack(t, []string{"PROGRAM=/bin/sh"}, "-c", `ulimit -n 20 && exec "$@"`, "sh", program, url, "--silent", "--hold-timeout", "1s")
	v.hello()
	const crowd = 40
	for i := range crowd {
		v.say(fmt.Sprintf(`{"jsonrpc":"2.0","id":"c%d","method":"tools/call","params":{"name":"x"}}`, i))
	}
	refused, results := 0, 0
	for line := range v.lines {
		switch {
		case strings.Contains(line, `"result"`):
			results++
		case strings.Contains(line, "-31001") && strings.Contains(line, "too many open files") && strings.Contains(line, `"mayHaveRun":false`):
			if refused++; refused == 1 {
				close(release)
			}
		default:
			t.Errorf("answered %s", line)
		}
		if results+refused == crowd {
			break
		}
	}
	if refused == 0 || results == 0 {
		t.Errorf("%d calls have a result, %d had no descriptor", results, refused)
	}
	for range 20 {
		if got := v.ask("tools/list", "{}"); !strings.Contains(got, `"result"`) {
			t.Errorf("afterwards: %s", got)
		}
	}
	if code := v.end(); code != 0 {
		t.Errorf("exit %d\n%s", code, v.stderr())
	}
}

// On a full disk calls go on without a log, or are refused where an audit is required; with room again both go on, and a
// record that was cut off stands alone.
func TestRobustFullDisk(t *testing.T) {
	program, _ := strings.CutPrefix(shipped(t)[0], "PROGRAM=")
	unshare, err := exec.LookPath("unshare")
	if err != nil || exec.Command(unshare, "-m", "mount", "-t", "tmpfs", "none", t.TempDir()).Run() != nil {
		t.Skip("no file system of its own can be mounted here")
	}
	url := answering(t)
	v := attack(t, []string{"PROGRAM=" + unshare, "PATH=/usr/sbin:/usr/bin:/sbin:/bin"}, "-m", "sh", "-c",
		`mount -t tmpfs -o size=64k none "$HOME" && head -c 57344 /dev/zero >"$HOME/fill"; exec "$@" --debug --log-file "$HOME/log" --audit-file "$HOME/audit" --audit-required`, "sh", program, url)
	v.hello()
	until := func(what string) {
		t.Helper()
		for range 10000 {
			if strings.Contains(v.ask("tools/call", `{"name":"x"}`), what) {
				return
			}
		}
		t.Fatalf("no call is ever answered with %s", what)
	}
	until("-31009")
	if got := v.ask("tools/list", "{}"); !strings.Contains(got, `"result"`) {
		t.Errorf("answered %s", got)
	}
	disk := fmt.Sprintf("/proc/%d/root%s/", v.cmd.Process.Pid, v.home)
	if err := os.Remove(disk + "fill"); err != nil {
		t.Fatal(err)
	}
	until(`"result"`)
	until(`"result"`)
	audit, err := os.ReadFile(disk + "audit")
	if err != nil {
		t.Fatal(err)
	}
	torn, whole := 0, 0
	for line := range strings.Lines(string(audit)) {
		if json.Valid([]byte(line)) {
			whole++
		} else {
			torn++
		}
		if strings.Count(line, `{"time"`) > 1 {
			t.Errorf("two records in one line: %s", line)
		}
	}
	t.Logf("%d records are whole, %d not", whole, torn)
	if torn > 1 || whole < 5 {
		t.Errorf("%d records are whole, %d not\n%s", whole, torn, audit)
	}
	if code := v.end(); code != 0 {
		t.Errorf("exit %d", code)
	}
}

// In a home that is read only everything works but remembering, and that is said.
func TestRobustReadOnlyHome(t *testing.T) {
	program, _ := strings.CutPrefix(shipped(t)[0], "PROGRAM=")
	unshare, err := exec.LookPath("unshare")
	if err != nil || exec.Command(unshare, "-m", "mount", "-t", "tmpfs", "none", t.TempDir()).Run() != nil {
		t.Skip("no file system of its own can be mounted here")
	}
	for _, folder := range []string{":", `mkdir -m 700 "$HOME/` + storeFolder + `"`} { // there was never a store, and there is one
		v := attack(t, []string{"PROGRAM=" + unshare, "PATH=/usr/sbin:/usr/bin:/sbin:/bin"}, "-m", "sh", "-c",
			`mount -t tmpfs none "$HOME" && `+folder+` && mount -o remount,ro "$HOME" || exit 9; exec "$@"`, "sh", program, answering(t))
		v.hello()
		if got := v.ask("tools/list", "{}"); !strings.Contains(got, `"result"`) {
			t.Errorf("answered %s", got)
		}
		if folder == ":" {
			v.tells("nothing will be stored")
		}
		if code := v.end(); code != 0 {
			t.Errorf("exit %d\n%s", code, v.stderr())
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

// Each signal that ends the program ends it in order: on a line that stands, while it dials, and with input open.
func TestRobustSignals(t *testing.T) {
	up := answering(t)
	for _, s := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP} {
		for name, url := range map[string]string{"ready": up, "dialling": "http://127.0.0.1:1/mcp"} {
			t.Run(fmt.Sprintf("%v %s", s, name), func(t *testing.T) {
				t.Parallel()
				v := attack(t, nil, url)
				if url == up {
					v.hello()
				} else {
					v.say(`{"jsonrpc":"2.0","id":1,"method":"initialize","params":` + victimHello + `}`)
					v.tells("the line was lost")
				}
				signalTo(t, v.cmd.Process, s)
				if code := v.ended(); code != 0 || strings.Count(v.stdout(), `"id":1,`) != 1 { // the held request gets its error
					t.Errorf("exit %d\n%s%s", code, v.stdout(), v.stderr())
				}
			})
		}
	}
}
