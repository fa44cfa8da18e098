package main

// store.go keeps credentials, remembered handshakes and status files in one folder that it shares with
// mcp-remote. Every access goes through one os.Root, so that no name leads outside. Folders are 0700 and files
// 0600, made so and repaired; a file is replaced whole or not at all; what does not look right is set
// aside and reported, never trusted. It knows no format but JSON: names and shapes are the callers'.

import (
	"bytes"
	"crypto/fips140"
	"crypto/md5"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	storeFolder  = "mcp-remote-v1" // below the configuration folder
	maxStoreFile = 1 << 20         // bytes in one file
	leaseAge     = 30 * time.Second
)

// A store is a folder of small owner-only files; or, with no folder, a place in memory that ends with the
// process. Its methods may be called concurrently, and by other processes at the same time.
type store struct {
	root   *os.Root // nil: memory
	memory sync.Map // of memoryFile by name
	uid    int      // whose files are believed
	log    *slog.Logger
}

type memoryFile struct {
	data []byte
	at   time.Time
}

// openStore opens the store below dir, which is made if it is missing. With dir "" nothing is ever written
// to disk (--token-store memory).
func openStore(dir string, log *slog.Logger) (*store, error) {
	if dir == "" {
		return &store{log: log}, nil
	}
	dir = filepath.Join(dir, storeFolder)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("making the folder for credentials: %w", err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("opening the folder for credentials: %w", err)
	}
	uid := os.Getuid()
	if info, err := root.Stat("."); err != nil || uid != 0 && !owned(info, uid) {
		root.Close()
		return nil, errors.Join(errors.New("the folder for credentials belongs to another user, who could change what is in it"), err)
	}
	s := &store{root: root, uid: uid, log: log}
	s.tighten(".", 0o700)
	if home, err := os.UserHomeDir(); runtime.GOOS == "windows" && err == nil {
		if below, err := filepath.Rel(home, dir); err != nil || !filepath.IsLocal(below) {
			log.Warn("credentials are stored outside of your profile: check who may read that folder")
		}
	}
	return s, nil
}

// tighten gives name the mode that it should have. Windows has no such modes: there the folder
// inherits the access list of the user's profile.
func (s *store) tighten(name string, mode fs.FileMode) {
	info, err := s.root.Lstat(name)
	if runtime.GOOS == "windows" || err != nil || info.Mode().Perm()&^mode == 0 {
		return
	}
	s.log.Warn("others could read stored credentials; repairing the mode", "name", name, "mode", info.Mode().Perm())
	if err := s.root.Chmod(name, mode); err != nil {
		s.log.Warn("repairing the mode of stored credentials", "name", name, "err", err)
	}
}

// read returns a file's content, or an error that is fs.ErrNotExist. Only regular files of this user up to
// maxStoreFile are read.
func (s *store) read(name string) ([]byte, error) {
	if s.root == nil {
		if f, ok := s.memory.Load(name); ok {
			return f.(memoryFile).data, nil
		}
		return nil, fmt.Errorf("reading %s: %w", name, fs.ErrNotExist)
	}
	info, err := s.root.Lstat(name)
	if err != nil {
		return nil, fmt.Errorf("reading a stored file: %w", err)
	}
	if !info.Mode().IsRegular() || info.Size() > maxStoreFile || s.uid != 0 && !owned(info, s.uid) { // root works for whoever called sudo
		return nil, s.setAside(name, "it is not a regular file, too large, or somebody else's")
	}
	s.tighten(name, 0o600)
	data, err := s.root.ReadFile(name)
	if err != nil {
		return nil, fmt.Errorf("reading a stored file: %w", err)
	}
	return data, nil
}

// own reads a file of this user's, like read, but nothing is done about one that is not or has more than max bytes.
func (s *store) own(name string, max int64) ([]byte, error) {
	if s.root != nil {
		if info, err := s.root.Lstat(name); err != nil || !info.Mode().IsRegular() || info.Size() > max || !owned(info, s.uid) {
			return nil, fmt.Errorf("reading %s: %w", name, fs.ErrNotExist)
		}
	}
	return s.read(name)
}

func hostname() string {
	name, _ := os.Hostname()
	return name
}

// readJSON reads a file into v. A file that is not JSON of v's shape is set aside and counts as missing.
func (s *store) readJSON(name string, v any) error {
	data, err := s.read(name)
	if err != nil {
		return err
	}
	if json.Unmarshal(data, v) != nil { // its error may quote the content
		return s.setAside(name, "it is not what it should be")
	}
	return nil
}

// setAside renames a file that cannot be trusted, so that it is neither used nor lost. It counts as missing.
func (s *store) setAside(name, why string) error {
	s.log.Warn("setting a stored file aside", "name", name, "because", why)
	if s.root != nil {
		if err := s.root.Rename(name, strings.TrimSuffix(name, ".corrupt")+".corrupt"); err != nil {
			s.log.Warn("setting a stored file aside", "name", name, "err", err)
		}
	}
	return fmt.Errorf("reading %s: %w", name, fs.ErrNotExist)
}

// write replaces a file whole.
func (s *store) write(name string, data []byte) error {
	if len(data) > maxStoreFile {
		return fmt.Errorf("writing %s: it would be larger than %d bytes", name, maxStoreFile)
	}
	if s.root == nil {
		s.memory.Store(name, memoryFile{bytes.Clone(data), time.Now()})
		return nil
	}
	tmp := fmt.Sprintf("%s.%d.%s.tmp", name, os.Getpid(), rand.Text()[:8])
	if err := s.create(tmp, data); err != nil {
		return err
	}
	if err := s.root.Rename(tmp, name); err != nil {
		s.root.Remove(tmp)
		return fmt.Errorf("replacing a stored file: %w", err)
	}
	return nil
}

func (s *store) writeJSON(name string, v any) error {
	data, err := json.Marshal(v) // indenting what others nested would make much of little
	if err != nil {
		return fmt.Errorf("writing %s: %w", name, err)
	}
	return s.write(name, data)
}

// create writes a file that must not exist yet: otherwise the error is fs.ErrExist.
func (s *store) create(name string, data []byte) error {
	f, err := s.root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fmt.Errorf("creating a stored file: %w", err)
	}
	_, err = f.Write(data)
	if err = errors.Join(err, f.Close()); err != nil {
		s.root.Remove(name)
		return fmt.Errorf("writing a stored file: %w", err)
	}
	return nil
}

// remove deletes a file; one that is missing is no error.
func (s *store) remove(name string) error {
	if s.root == nil {
		s.memory.Delete(name)
		return nil
	}
	if err := s.root.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("removing a stored file: %w", err)
	}
	return nil
}

// A storedFile is one entry of list.
type storedFile struct {
	name string
	at   time.Time // last written
}

// list names the files that begin with prefix, in order.
func (s *store) list(prefix string) ([]storedFile, error) {
	var all []storedFile
	for name, f := range s.memory.Range {
		all = append(all, storedFile{name.(string), f.(memoryFile).at})
	}
	if s.root != nil {
		entries, err := fs.ReadDir(s.root.FS(), ".")
		if err != nil {
			return nil, fmt.Errorf("listing stored files: %w", err)
		}
		for _, e := range entries {
			if info, err := e.Info(); err == nil {
				all = append(all, storedFile{e.Name(), info.ModTime()})
			}
		}
	}
	return slices.DeleteFunc(all, func(f storedFile) bool { return !strings.HasPrefix(f.name, prefix) }), nil
}

// lease takes the right to do something that one process may do at a time, as mcp-remote does for refreshing;
// release gives it back, and does nothing if it is not ours. One whose owner has died, or that is older than
// leaseAge, is taken over.
func (s *store) lease(name string) (release func(), ours bool) {
	if s.root == nil {
		if _, held := s.memory.LoadOrStore(name, memoryFile{}); held {
			return func() {}, false
		}
		return func() { s.memory.Delete(name) }, true
	}
	type shape struct {
		PID   int    `json:"pid"`
		Nonce string `json:"nonce"`
		At    int64  `json:"at"` // milliseconds since 1970
	}
	removeIf := func(content []byte) {
		if now, _ := s.read(name); string(now) == string(content) {
			s.remove(name)
		}
	}
	mine, _ := json.Marshal(shape{os.Getpid(), rand.Text(), time.Now().UnixMilli()}) // cannot fail
	for range 2 {
		if err := s.create(name, mine); !errors.Is(err, fs.ErrExist) { // ours, or a store that cannot be written to
			return func() { removeIf(mine) }, true
		}
		held, err := s.read(name)
		if err != nil { // it has just been given back
			continue
		}
		var other shape
		damaged := json.Unmarshal(held, &other) != nil // or being written
		age := time.Since(time.UnixMilli(other.At)).Abs()
		if files, _ := s.list(name); damaged && len(files) > 0 {
			other.PID, age = os.Getpid(), time.Since(files[0].at)
		}
		if age < leaseAge && alive(other.PID) {
			break
		}
		// Several may come to this conclusion. Only one at a time may act on it, and only on what it has seen.
		guard := name + ".takeover"
		if files, _ := s.list(guard); len(files) > 0 && time.Since(files[0].at).Abs() > leaseAge {
			s.remove(guard)
		}
		if s.create(guard, nil) == nil {
			removeIf(held)
			s.remove(guard)
		}
	}
	return func() {}, false
}

func alive(pid int) bool {
	p, err := os.FindProcess(pid)
	if err != nil {
		return false
	}
	defer p.Release() // it is a descriptor on Linux, a handle on Windows
	return !errors.Is(p.Signal(syscall.Signal(0)), os.ErrProcessDone)
}

// identityHash names what is stored about one server, and from it comes the callback port. It must be what
// mcp-remote computes, so that both programs share one sign-in: the URL as typed, then whatever of the others
// is set. A name, not a secret: MD5 does no harm, and FIPS mode is told so.
func identityHash(serverURL, resource string, authorizeParams, headers map[string]string, metadataURL, tokenEndpoint string) string {
	name := serverURL
	for _, part := range []string{resource, sortedObject(authorizeParams), sortedObject(headers), metadataURL, tokenEndpoint} {
		if part != "" {
			name += "|" + part
		}
	}
	var sum [md5.Size]byte
	fips140.WithoutEnforcement(func() { sum = md5.Sum([]byte(name)) })
	return hex.EncodeToString(sum[:])
}

// sortedObject is m as JavaScript's JSON.stringify writes it with sorted keys; "" if m is empty.
func sortedObject(m map[string]string) string {
	if len(m) == 0 {
		return ""
	}
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.Encode(m) // a map of strings cannot fail, and its keys come out sorted
	return strings.TrimSuffix(b.String(), "\n")
}

// defaultPort is mcp-remote's callback port for an identity: 3335 to 49150.
func defaultPort(identity string) int {
	n, _ := strconv.ParseUint(identity[:4], 16, 16)
	return 3335 + int(n)%45816
}
