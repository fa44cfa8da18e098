package main

import (
	"bytes"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strings"
	"sync"
	"testing"
	"time"
)

// The sums are those of mcp-remote 0.15.1 for the same flags.
func TestIdentityHash(t *testing.T) {
	const url = "https://mcp.example.com/mcp"
	for _, tt := range []struct {
		name            string
		url, resource   string
		params, headers map[string]string
		metadata, token string
		want            string
		port            int
	}{
		{name: "the address alone", url: url, want: "94baabe3c3fadb285b26c035e4e86046", port: 41409},
		{name: "the published example", url: "http://127.0.0.1:4731/mcp", headers: map[string]string{"X-A": "1", "X-B": "${FOO}"},
			want: "56beebfff35f35424875a19452b842d1", port: 3335 + 0x56be},
		{name: "with headers, not expanded", url: url, headers: map[string]string{"X-B": "${FOO}", "X-A": "1"},
			want: "f75164d709d26196c99f8dee76ff6e0f", port: 20832},
		{name: "with a resource", url: url, resource: "https://r.example/", want: "f19c8894fae76e49efe7d4e4c023c8bc", port: 19371},
		{name: "with everything", url: url, resource: "https://r.example/",
			params:   map[string]string{"prompt": "<login> & \"x\"\u007f\x01\t", "audience": "é"},
			headers:  map[string]string{"x-b": "2", "X-A": "a:b", "A1": "${T}"},
			metadata: "https://c.example/id.json", token: "https://as.example/token",
			want: "e7b6ebe222780182e5518c3f713128bb", port: 16837},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := identityHash(tt.url, tt.resource, tt.params, tt.headers, tt.metadata, tt.token)
			if got != tt.want {
				t.Errorf("identityHash = %s, want %s", got, tt.want)
			}
			if p := defaultPort(got); p != tt.port {
				t.Errorf("defaultPort = %d, want %d", p, tt.port)
			}
		})
	}
}

func testStore(t *testing.T) (*store, string) {
	t.Helper()
	dir := t.TempDir()
	s, err := openStore(filepath.Join(dir, "a", "b"), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.root.Close() })
	return s, filepath.Join(dir, "a", "b", storeFolder)
}

// Both kinds of store keep the same promises.
func TestStore(t *testing.T) {
	disk, _ := testStore(t)
	memory, err := openStore("", slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	for name, s := range map[string]*store{"disk": disk, "memory": memory} {
		t.Run(name, func(t *testing.T) {
			if _, err := s.read("x"); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("reading nothing: %v", err)
			}
			release, ours := s.lease("lease")
			if _, twice := s.lease("lease"); !ours || twice {
				t.Errorf("lease %v, then %v", ours, twice)
			}
			release()
			if _, err := s.read("lease"); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("the lease that was given back: %v", err)
			}
			if err := s.write("x", []byte("3")); err != nil {
				t.Fatal(err)
			}
			if b, err := s.read("x"); err != nil || string(b) != "3" {
				t.Errorf("read %q, %v", b, err)
			}
			if err := s.writeJSON("y", map[string]int{"a": 1}); err != nil {
				t.Fatal(err)
			}
			v := map[string]int{}
			if err := s.readJSON("y", &v); err != nil || v["a"] != 1 {
				t.Errorf("read %v, %v", v, err)
			}
			if err := s.readJSON("x", &v); !errors.Is(err, fs.ErrNotExist) { // 3 is no object: set aside
				t.Errorf("a foreign file: %v", err)
			}
			if _, err := s.read("x"); s.root != nil && !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("the foreign file is still there: %v", err)
			}
			files, err := s.list("y")
			if err != nil || len(files) != 1 || files[0].name != "y" || time.Since(files[0].at) > time.Hour {
				t.Errorf("list %v, %v", files, err)
			}
			if err := errors.Join(s.remove("y"), s.remove("y")); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestStoreModes(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("Windows has access lists instead")
	}
	s, dir := testStore(t)
	if err := s.write("x", []byte("secret")); err != nil {
		t.Fatal(err)
	}
	if err := s.create("y", []byte("secret")); err != nil {
		t.Fatal(err)
	}
	mode := func(name string) fs.FileMode {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		return info.Mode().Perm()
	}
	if mode(".") != 0o700 || mode("..") != 0o700 || mode("x") != 0o600 || mode("y") != 0o600 {
		t.Errorf("modes %v %v %v %v", mode("."), mode(".."), mode("x"), mode("y"))
	}
	if err := errors.Join(os.Chmod(filepath.Join(dir, "x"), 0o644), os.Chmod(dir, 0o755)); err != nil {
		t.Fatal(err)
	}
	if _, err := s.read("x"); err != nil || mode("x") != 0o600 {
		t.Errorf("read: %v, mode %v", err, mode("x"))
	}
	again, err := openStore(filepath.Dir(dir), slog.New(slog.DiscardHandler))
	if err != nil || mode(".") != 0o700 {
		t.Errorf("%v, mode %v", err, mode("."))
	}
	again.root.Close()
}

// What is no plain file of ours is set aside, reported, and never followed.
func TestStoreDistrusts(t *testing.T) {
	for name, plant := range map[string]func(path string) error{
		"a link to a file outside": func(p string) error { return os.Symlink("/etc/passwd", p) },
		"a folder":                 func(p string) error { return os.Mkdir(p, 0o700) },
		"a huge file":              func(p string) error { return os.WriteFile(p, make([]byte, maxStoreFile+1), 0o600) },
		"damaged":                  func(p string) error { return os.WriteFile(p, []byte(`{"access_token":"x`), 0o600) },
		"somebody else's": func(p string) error {
			if runtime.GOOS == "windows" {
				return errors.New("there the access list says who may write")
			}
			return os.WriteFile(p, []byte(`{"access_token":"x"}`), 0o600)
		},
	} {
		t.Run(name, func(t *testing.T) {
			s, dir := testStore(t)
			var log bytes.Buffer
			s.log = slog.New(slog.NewTextHandler(&log, nil))
			if err := plant(filepath.Join(dir, "x_tokens.json")); err != nil {
				t.Skip(err)
			}
			if name == "somebody else's" {
				s.uid += 1 << 16
			}
			var v tokens
			if err := s.readJSON("x_tokens.json", &v); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("read %v", err)
			}
			if _, err := os.Lstat(filepath.Join(dir, "x_tokens.json.corrupt")); err != nil || !strings.Contains(log.String(), "aside") {
				t.Errorf("%v; log %s", err, log.String())
			}
			if err := s.write("x_tokens.json", []byte("{}")); err != nil {
				t.Error(err)
			}
		})
	}
	s, _ := testStore(t)
	if _, err := s.read("../../outside"); err == nil {
		t.Error("a name leads outside")
	}
	if err := s.write("../outside", nil); err == nil {
		t.Error("a name leads outside")
	}
}

// The size limit, at the bound and one past it.
func TestStoreBound(t *testing.T) {
	s, dir := testStore(t)
	for size, want := range map[int]bool{maxStoreFile: true, maxStoreFile + 1: false} {
		if err := s.write("w", make([]byte, size)); (err == nil) != want {
			t.Errorf("writing %d bytes: %v", size, err)
		}
		if err := os.WriteFile(filepath.Join(dir, "r"), make([]byte, size), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := s.read("r"); (err == nil) != want {
			t.Errorf("reading %d bytes: %v", size, err)
		}
	}
}

// A reader never sees half a file, whoever writes it meanwhile.
func TestStoreReplacesWhole(t *testing.T) {
	s, _ := testStore(t)
	a, b := bytes.Repeat([]byte("a"), 100<<10), bytes.Repeat([]byte("b"), 100<<10)
	if err := s.write("x", a); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for _, data := range [][]byte{a, b} {
		wg.Go(func() {
			for range 100 {
				if err := s.write("x", data); err != nil {
					t.Error(err)
				}
			}
		})
	}
	for range 200 {
		if got, err := s.read("x"); err != nil || !bytes.Equal(got, a) && !bytes.Equal(got, b) {
			t.Fatalf("read %d bytes, %v", len(got), err)
		}
	}
	wg.Wait()
	if files, _ := s.list(""); len(files) != 1 {
		t.Errorf("left behind: %v", files)
	}
}

// Who waits for a lease looks at its holder again and again, and keeps no descriptor of that.
func TestAliveKeepsNothing(t *testing.T) {
	defer debug.SetGCPercent(debug.SetGCPercent(-1)) // which would give them back, some day
	open := func() int {
		all, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Skip(err)
		}
		return len(all)
	}
	before := open()
	for range 100 {
		if !alive(os.Getpid()) {
			t.Fatal("we are not alive")
		}
	}
	if after := open(); after >= before+100 {
		t.Errorf("%d descriptors, then %d", before, after)
	}
}
