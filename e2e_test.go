package main

// e2e_test.go holds what the end-to-end tests share: the packages of testdata/e2e in a cache folder, the
// program built once, and drivers run by Node. Each driver is a script of its own that prints what it does
// and fails by its exit code.

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestE2EEverything(t *testing.T) {
	needNode(t)
	bridge := builtBridge(t)
	for _, mode := range []string{"streamableHttp", "sse"} {
		t.Run(mode, func(t *testing.T) { runDriver(t, "everything.mjs", bridge, mode) })
	}
}

// needNode skips a test that takes real peers from npm, and minutes, unless CI=true asks for it: then it must run.
func needNode(t *testing.T) (dir string) {
	t.Helper()
	if os.Getenv("CI") != "true" {
		t.Skip("skipped: CI=true go test -run E2E runs it, with Node 20 or newer and npm")
	}
	for _, command := range []string{"node", "npm"} {
		if _, err := exec.LookPath(command); err != nil {
			t.Fatalf("%s is needed", command)
		}
	}
	dir, err := nodeModules()
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// nodeModules returns a folder outside of the source whose node_modules holds what testdata/e2e pins,
// installing it first. Several processes may call it at once.
func nodeModules() (string, error) {
	hash := sha256.New()
	for _, name := range []string{"package.json", "package-lock.json"} {
		b, err := os.ReadFile(filepath.Join("testdata", "e2e", name))
		if err != nil {
			return "", err
		}
		hash.Write(b)
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		cache = os.TempDir()
	}
	cache = filepath.Join(cache, "mcp-redial-e2e")
	dir := filepath.Join(cache, fmt.Sprintf("%x", hash.Sum(nil)[:8]))
	if _, err := os.Stat(filepath.Join(dir, "node_modules")); err == nil {
		return dir, err
	}
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return "", err
	}
	fresh, err := os.MkdirTemp(cache, "new-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(fresh)
	for _, name := range []string{"package.json", "package-lock.json"} {
		if err := copyFile(filepath.Join(fresh, name), filepath.Join("testdata", "e2e", name)); err != nil {
			return "", err
		}
	}
	npm := exec.Command("npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts")
	npm.Dir = fresh
	if out, err := npm.CombinedOutput(); err != nil {
		return "", fmt.Errorf("npm ci: %v\n%s", err, out)
	}
	if err := os.Rename(fresh, dir); err != nil {
		if _, there := os.Stat(filepath.Join(dir, "node_modules")); there != nil {
			return "", err
		}
	}
	return dir, nil
}

func copyFile(to, from string) error {
	b, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return os.WriteFile(to, b, 0o644)
}

// runDriver runs a script of testdata/e2e beside its packages; its output is the test's log.
func runDriver(t *testing.T, script string, args ...string) {
	t.Helper()
	dir := needNode(t)
	run, err := os.MkdirTemp(dir, "run-") // below node_modules' parent: there Node finds the packages
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(run)
	scripts, err := filepath.Glob(filepath.Join("testdata", "e2e", "*.mjs"))
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range scripts {
		if err := copyFile(filepath.Join(run, filepath.Base(s)), s); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute) // ends a hang, decides nothing else
	defer cancel()
	var out bytes.Buffer
	node := exec.CommandContext(ctx, "node", append([]string{filepath.Join(run, script)}, args...)...)
	node.Env = append(os.Environ(), "MCP_REMOTE_CONFIG_DIR="+t.TempDir())
	node.Stdout, node.Stderr = &out, &out
	node.WaitDelay = 5 * time.Second
	err = node.Run()
	t.Logf("%s %s\n%s", script, strings.Join(args, " "), out.String())
	if err != nil {
		t.Fatal(err)
	}
}

// builtBridge is the program as users have it.
func builtBridge(t *testing.T) string {
	t.Helper()
	name, err := build()
	if err != nil {
		t.Fatal(err)
	}
	return name
}
