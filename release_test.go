package main

// release_test.go holds what a reviewer has to be able to rely on before he reads a line: that the program is made
// of its own files and the standard library, builds without a network, and comes out the same wherever it is
// built. The long tests run where CI is set: .ci/run release.

import (
	"archive/zip"
	"bytes"
	"crypto/fips140"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"testing"
)

const (
	testModule  = "github.com/mcp-redial/mcp-redial"
	testVersion = "v0.0.1"
)

// inCI skips what takes minutes, unless CI is set.
func inCI(t *testing.T) {
	t.Helper()
	if os.Getenv("CI") == "" {
		t.Skip("takes minutes: set CI=true, or run .ci/run release")
	}
	if _, err := exec.LookPath("git"); err != nil {
		t.Skip("git is needed")
	}
}

// tool runs a command in dir, with these settings more, and returns its standard output.
func tool(t *testing.T, dir string, env []string, name string, args ...string) string {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), env...)
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s\n%s", name, strings.Join(args, " "), err, out, errs.Bytes())
	}
	return string(out)
}

// offline are the settings of a machine with a Go toolchain and nothing else. Its module cache is empty.
func offline(t *testing.T) []string {
	t.Helper()
	dir := t.TempDir()
	t.Cleanup(func() { // a module cache is read-only
		filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
			if err == nil && d.IsDir() {
				return os.Chmod(p, 0o700)
			}
			return err
		})
	})
	return []string{"GOPROXY=off", "GOSUMDB=off", "GOENV=off", "GOWORK=off", "GOTOOLCHAIN=local", "CGO_ENABLED=0",
		"GOPATH=" + filepath.Join(dir, "path"), "GOMODCACHE=" + filepath.Join(dir, "modules"), "GOBIN=" + filepath.Join(dir, "bin")}
}

// copyTree copies what would be committed of this folder to dir.
func copyTree(t *testing.T, dir string) {
	t.Helper()
	err := filepath.WalkDir(".", func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (d.Name() == ".git" || d.Name() == "dist" || d.Name() == "node_modules" || d.Name() == "vendor") {
			return filepath.SkipDir
		}
		if !d.Type().IsRegular() || regexp.MustCompile(`^mcp-redial(\.exe)?$|\.(test|pprof|orig)$`).MatchString(d.Name()) {
			return nil
		}
		data, err := os.ReadFile(p)
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		to := filepath.Join(dir, p)
		return errors.Join(os.MkdirAll(filepath.Dir(to), 0o755), os.WriteFile(to, data, info.Mode().Perm()))
	})
	if err != nil {
		t.Fatal(err)
	}
}

// checkout makes a git repository of this folder as it is, in dir. Its commit is the same each time.
func checkout(t *testing.T, dir string) {
	t.Helper()
	copyTree(t, dir)
	const when = "2026-01-02T03:04:05Z"
	env := []string{"GIT_CONFIG_GLOBAL=" + os.DevNull, "GIT_CONFIG_SYSTEM=" + os.DevNull, "GIT_AUTHOR_DATE=" + when, "GIT_COMMITTER_DATE=" + when,
		"GIT_AUTHOR_NAME=a", "GIT_AUTHOR_EMAIL=a@b", "GIT_COMMITTER_NAME=a", "GIT_COMMITTER_EMAIL=a@b"}
	for _, args := range []string{"init -q", "add -A", "commit -q -m release"} {
		tool(t, dir, env, "git", strings.Fields(args)...)
	}
}

// moduleProxy makes a file-system module proxy of this folder, by other means than release.sh, and returns its address.
func moduleProxy(t *testing.T) string {
	t.Helper()
	tree, proxy := t.TempDir(), t.TempDir()
	copyTree(t, tree)
	at := filepath.Join(proxy, testModule, "@v")
	mod, err := os.ReadFile("go.mod")
	if err = errors.Join(err, os.MkdirAll(at, 0o755), os.WriteFile(filepath.Join(at, testVersion+".mod"), mod, 0o644),
		os.WriteFile(filepath.Join(at, "list"), []byte(testVersion+"\n"), 0o644),
		os.WriteFile(filepath.Join(at, testVersion+".info"), []byte(`{"Version":"`+testVersion+`"}`), 0o644)); err != nil {
		t.Fatal(err)
	}
	f, err := os.Create(filepath.Join(at, testVersion+".zip"))
	if err != nil {
		t.Fatal(err)
	}
	z := zip.NewWriter(f)
	err = filepath.WalkDir(tree, func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		name, err := filepath.Rel(tree, p)
		if err != nil {
			return err
		}
		data, err := os.ReadFile(p)
		if err != nil {
			return err
		}
		w, err := z.Create(testModule + "@" + testVersion + "/" + filepath.ToSlash(name))
		if err != nil {
			return err
		}
		_, err = w.Write(data)
		return err
	})
	if err := errors.Join(err, z.Close(), f.Close()); err != nil {
		t.Fatal(err)
	}
	return "file://" + filepath.ToSlash(proxy)
}

func fileSum(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

// The program consists of this module and the standard library.
func TestSupplyChainDependencies(t *testing.T) {
	unraced(t)
	deps := tool(t, ".", nil, "go", "list", "-deps", "-f", "{{if not .Standard}}{{.ImportPath}}{{end}}", ".")
	if got := strings.TrimSpace(deps); got != testModule {
		t.Errorf("it depends on:\n%s", got)
	}
}

// A site without a network needs the source and a Go toolchain.
func TestSupplyChainOffline(t *testing.T) {
	unraced(t)
	t.Parallel()
	tree := t.TempDir()
	copyTree(t, tree)
	env := append(offline(t), "GOFLAGS=-mod=mod")
	tool(t, tree, env, "go", "build", "-o", filepath.Join(tree, "out"), ".")
	tool(t, tree, env, "go", "install", ".")
	text := tool(t, tree, nil, filepath.Join(tree, "out"), "--version")
	if !strings.Contains(text, runtime.Version()) {
		t.Errorf("--version says %q", text)
	}
}

// Or a module proxy of its own, which nobody's checksum database knows.
func TestSupplyChainInstall(t *testing.T) {
	unraced(t)
	t.Parallel()
	env := append(offline(t), "GOPROXY="+moduleProxy(t), "GOSUMDB=", "GONOSUMDB="+testModule, "GOFLAGS=")
	bin := ""
	for _, e := range env {
		if dir, ok := strings.CutPrefix(e, "GOBIN="); ok {
			bin = filepath.Join(dir, "mcp-redial")
		}
	}
	tool(t, t.TempDir(), env, "go", "install", "-trimpath", testModule+"@"+testVersion)
	text := tool(t, ".", nil, bin, "--version")
	want := fmt.Sprintf(`^mcp-redial %s\nsum h1:[A-Za-z0-9+/]{43}=\n%s %s/%s\nFIPS 140-3 mode: %t\n$`,
		testVersion, regexp.QuoteMeta(runtime.Version()), runtime.GOOS, runtime.GOARCH, fips140.Enabled())
	if !regexp.MustCompile(want).MatchString(text) {
		t.Errorf("--version says %q, want %s", text, want)
	}
	if text := tool(t, ".", []string{"GODEBUG=fips140=on"}, bin, "--version"); !strings.Contains(text, "FIPS 140-3 mode: true") {
		t.Errorf("under fips140=on, --version says %q", text)
	}
}

// A checkout with its one test dependency vendored tests without a network.
func TestReleaseVendored(t *testing.T) {
	inCI(t)
	tree := t.TempDir()
	copyTree(t, tree)
	tool(t, tree, []string{"GOFLAGS="}, "go", "mod", "vendor")
	tool(t, tree, append(offline(t), "GOFLAGS="), "go", "vet", ".")
	if out := tool(t, tree, append(offline(t), "GOFLAGS="), "go", "test", "-v", "-run", "^Test(Check|Module|Imports)$", "."); strings.Count(out, "\n--- PASS") != 3 {
		t.Errorf("not all was tested:\n%s", out)
	}
}

// Two builds in two folders are the same, whatever is set; what is published is what anybody installs.
func TestReleaseSame(t *testing.T) {
	inCI(t)
	host := runtime.GOOS + "/" + runtime.GOARCH
	var sums [2]string
	var dist string
	for i, env := range [][]string{nil, {"GOFLAGS=-tags=other", "GOAMD64=v3", "GOOS=plan9", "CGO_ENABLED=1", "GODEBUG=http2client=0", "GO111MODULE=off",
		"GOPRIVATE=github.com/*", "GOFIPS140=v1.0.0", "GIT_DIR=/nowhere", "LC_ALL=C.UTF-8", "TZ=Asia/Tokyo"}} {
		tree := filepath.Join(t.TempDir(), strings.Repeat("deep/", 5*i)+"source")
		checkout(t, tree)
		tool(t, tree, append(env, "TARGETS="+host+" windows/arm64"), "./release.sh", testVersion)
		out, commit := filepath.Join(t.TempDir(), "out"), tool(t, tree, nil, "git", "rev-parse", "HEAD")
		tool(t, tree, []string{"GOFLAGS=", "CGO_ENABLED=0"}, "go", "build", "-buildvcs=true", "-o", out, ".")
		if text := tool(t, tree, nil, out, "--version"); !strings.Contains(text, "\ncommit "+commit) {
			t.Errorf("from a checkout of %s--version says %q", commit, text)
		}
		dist = filepath.Join(tree, "dist")
		data, err := os.ReadFile(filepath.Join(dist, "SHA256SUMS"))
		if err != nil {
			t.Fatal(err)
		}
		sums[i] = string(data)
	}
	if sums[0] != sums[1] || strings.Count(sums[0], "\n") != 4 {
		t.Fatalf("the first build gives\n%sthe second\n%s", sums[0], sums[1])
	}
	for line := range strings.Lines(sums[0]) {
		f := strings.Fields(line)
		if got := fileSum(t, filepath.Join(dist, f[1])); got != f[0] {
			t.Errorf("%s has the sum %s, published is %s", f[1], got, f[0])
		}
	}
	published := filepath.Join(dist, fmt.Sprintf("mcp-redial_%s_%s_%s", testVersion, runtime.GOOS, runtime.GOARCH))

	// By anybody's one-liner, from a zip that was made by other means.
	env := append(offline(t), "GOPROXY="+moduleProxy(t), "GOSUMDB=", "GONOSUMDB="+testModule, "GOFLAGS=")
	tool(t, t.TempDir(), env, "go", "install", "-trimpath", testModule+"@"+testVersion)
	installed := filepath.Join(strings.TrimPrefix(env[len(env)-5], "GOBIN="), "mcp-redial")
	if a, b := fileSum(t, installed), fileSum(t, published); a != b {
		t.Errorf("go install gives %s, published is %s", a, b)
	}

	// The SBOM is about this very binary, and the source archive builds without a network.
	var sbom struct {
		BOMFormat, SpecVersion string
		Metadata               struct {
			Component struct {
				Name, Version string
				Properties    []struct{ Name, Value string }
			}
		}
		Components []struct{ Name, Version string }
	}
	data, err := os.ReadFile(filepath.Join(dist, "mcp-redial-"+testVersion+".cdx.json"))
	if err == nil {
		err = json.Unmarshal(data, &sbom)
	}
	if err != nil || sbom.BOMFormat != "CycloneDX" || sbom.SpecVersion != "1.6" || len(sbom.Components) != 1 || "go"+sbom.Components[0].Version != runtime.Version() {
		t.Errorf("the SBOM: %v\n%s", err, data)
	}
	if text := tool(t, ".", nil, published, "--version"); !strings.Contains(text, "sum "+sbom.Metadata.Component.Properties[0].Value+"\n") {
		t.Errorf("the SBOM says %+v, the binary %s", sbom.Metadata.Component, text)
	}
	source := t.TempDir()
	tool(t, source, nil, "tar", "xzf", filepath.Join(dist, "mcp-redial-"+testVersion+".tar.gz"))
	tool(t, filepath.Join(source, "mcp-redial-"+testVersion), append(offline(t), "GOFLAGS=-mod=mod"), "go", "build", "-o", filepath.Join(source, "out"), ".")
}

func TestReleaseRefuses(t *testing.T) {
	inCI(t)
	tree := t.TempDir()
	checkout(t, tree)
	for name, c := range map[string]struct {
		args []string
		dirt bool
		want string
	}{
		"no version":  {nil, false, "usage: ./release.sh VERSION"},
		"uncommitted": {[]string{testVersion}, true, "changes that are not committed"},
	} {
		t.Run(name, func(t *testing.T) {
			if c.dirt {
				if err := os.WriteFile(filepath.Join(tree, "main.go"), []byte("package main\n"), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			cmd := exec.Command("./release.sh", c.args...)
			cmd.Dir = tree
			if out, err := cmd.CombinedOutput(); err == nil || !strings.Contains(string(out), c.want) {
				t.Errorf("%v: %s", err, out)
			}
		})
	}
}

// A cross-build equals a native one: this toolchain is compared with itself as a program for 32-bit x86, which
// shares no cache with it.
func TestReleaseCross(t *testing.T) {
	inCI(t)
	if runtime.GOOS != "linux" || runtime.GOARCH != "amd64" {
		t.Skip("needs a machine that runs the programs of another: linux/amd64")
	}
	other, root := t.TempDir(), strings.TrimSpace(tool(t, ".", nil, "go", "env", "GOROOT"))
	for _, name := range []string{"src", "lib", "VERSION", "go.env", "pkg/include"} {
		to := filepath.Join(other, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(to), 0o755), os.Symlink(filepath.Join(root, name), to)); err != nil {
			t.Fatal(err)
		}
	}
	base := []string{"GOFLAGS=", "GOENV=off", "GOTOOLCHAIN=local", "CGO_ENABLED=0", "GOOS=linux"}
	for name, to := range map[string]string{"go": "bin", "compile": "pkg/tool/linux_386", "asm": "pkg/tool/linux_386", "link": "pkg/tool/linux_386"} {
		tool(t, ".", append(base, "GOARCH=386"), "go", "build", "-trimpath", "-o", filepath.Join(other, to)+"/", "cmd/"+name)
	}
	native, cross := filepath.Join(other, "native"), filepath.Join(other, "cross")
	build := []string{"build", "-trimpath", "-buildvcs=false", "-o"}
	tool(t, ".", append(base, "GOARCH=amd64"), "go", append(build, native, ".")...)
	env := append(base, "GOARCH=amd64", "GOROOT="+other, "GOCACHE="+filepath.Join(other, "cache"))
	if host := tool(t, ".", env, filepath.Join(other, "bin/go"), "env", "GOHOSTARCH"); host != "386\n" {
		t.Fatalf("the other toolchain is for %s", host)
	}
	tool(t, ".", env, filepath.Join(other, "bin/go"), append(build, cross, ".")...)
	if a, b := fileSum(t, native), fileSum(t, cross); a != b {
		t.Errorf("linux/amd64 gives %s, linux/386 gives %s for it", a, b)
	}
}

// In FIPS 140-3 mode entropy comes from the jitter of the clock, which stands still in a bubble of testing/synctest:
// the first random bytes must be drawn outside.
var _ = rand.Text()

// With nothing but what FIPS 140-3 approves of, everything works: TLS, PKCE, client assertions, the store. It is the
// standard library that refuses the rest in that mode.
func TestFIPSOnly(t *testing.T) {
	if fips140.Enforced() {
		t.Skip("this is that mode")
	}
	const which = "^Test(TLS|SignIn|RefreshOn401|ClientCredentials|Registration|IdentityHash|Store|HeaderCommand)$"
	cmd := exec.Command(os.Args[0], "-test.v", "-test.run", which)
	cmd.Env = append(os.Environ(), "GODEBUG=fips140=only")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, name := range strings.Split(which[len("^Test("):len(which)-len(")$")], "|") {
		if !bytes.Contains(out, []byte("--- PASS: Test"+name+" ")) {
			t.Errorf("Test%s did not run", name)
		}
	}
}
