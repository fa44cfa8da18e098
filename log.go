package main

// log.go is everything that is written for people and for the record: lines on stderr, the log file, the
// audit file. It opens files for appending and touches nothing else. Its rules: a secret cannot be printed;
// text from outside reaches a terminal escaped and bounded; and nothing here ever blocks a caller, because a
// client that does not read our stderr, or a full disk, must not stop the bridge.

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

// A secret is a string that cannot print itself: fmt with any verb, slog and encoding/json all get a
// placeholder. The value stands behind a pointer because fmt does not call the methods of an unexported
// field: of a struct that holds a secret it prints an address. The zero value is the empty secret.
type secret struct{ value *string }

const hidden = "[secret]"

func hide(s string) secret                  { return secret{&s} }
func (secret) Format(f fmt.State, _ rune)   { io.WriteString(f, hidden) }
func (secret) LogValue() slog.Value         { return slog.StringValue(hidden) }
func (secret) MarshalText() ([]byte, error) { return []byte(hidden), nil }
func (s secret) empty() bool                { return s.reveal() == "" }

// reveal is the only way to the value.
func (s secret) reveal() string {
	if s.value == nil {
		return ""
	}
	return *s.value
}

const digitsAndLetters = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"

// consists says that s is made of these characters, and not empty.
func consists(s, of string) bool { return s != "" && strings.Trim(s, of) == "" }

// origin is the scheme, host and port of u in one spelling (RFC 6454: lower case, no default port): all of a
// URL that may be logged, and what two URLs must share to be the same server.
func origin(u *url.URL) string {
	scheme, host := strings.ToLower(u.Scheme), strings.ToLower(u.Host)
	usual := map[string]string{"https": ":443", "http": ":80"}[scheme]
	return scheme + "://" + strings.TrimSuffix(strings.TrimSuffix(host, usual), ":") // a port may be empty
}

const (
	maxText = 200     // runes of a text from outside
	maxLine = 4 << 10 // runes of one of our own lines, which may hold a sign-in address
)

// clean makes text from outside fit for a terminal: whatever does not print (control characters with their
// escape sequences, newlines, the overrides of writing direction) becomes a visible escape, and at most
// maxText runes are kept. Cleaning twice changes nothing.
func clean(s string) string { return escape(s, maxText) }

func escape(s string, limit int) string {
	var b strings.Builder
	n := 0
	for _, r := range s {
		if n++; n > limit {
			b.WriteRune('…')
			break
		}
		if strconv.IsPrint(r) {
			b.WriteRune(r)
		} else {
			b.WriteString(strings.Trim(strconv.QuoteRuneToASCII(r), "'"))
		}
	}
	return b.String()
}

// A usageError is what a person got wrong, and the next step. main.go prints it as error and hint; exit 2.
type usageError struct{ text, hint string }

func (e *usageError) Error() string { return e.text }

// A sink writes lines in a goroutine of its own, which ends at close. A line that finds the queue full is
// dropped.
type sink struct {
	lines   chan line
	closing chan struct{} // closed by close
	done    chan struct{} // closed by the goroutine once everything queued is written
	dropped atomic.Int64  // lines that were lost
}

type line struct {
	text  []byte
	wrote chan<- error // buffered; told what came of it, if not nil
}

// newSink writes to w, which it closes in the end if it is an appendFile.
func newSink(w io.Writer) *sink {
	s := &sink{lines: make(chan line, 256), closing: make(chan struct{}), done: make(chan struct{})}
	go func() {
		defer close(s.done)
		for {
			select {
			case l := <-s.lines:
				if _, err := w.Write(l.text); l.wrote != nil {
					l.wrote <- err
				}
			case <-s.closing:
				if len(s.lines) > 0 {
					continue
				}
				if f, ok := w.(*appendFile); ok {
					f.f.Close()
				}
				return
			}
		}
	}()
	return s
}

// put says whether the line was queued.
func (s *sink) put(l line) bool {
	select {
	case s.lines <- l:
		return true
	default:
		s.dropped.Add(1)
		return false
	}
}

// close waits at most d until what is queued has been written. Lines put later are lost.
func (s *sink) close(d time.Duration) {
	close(s.closing)
	select {
	case <-s.done:
	case <-time.After(d):
	}
}

// An appendFile is a file of mode 0600 that several processes may append lines to.
type appendFile struct {
	path string
	max  int64 // bytes, beyond which it is moved to path.1; 0 for never
	f    *os.File
	torn bool // the disk was full in the middle of the last line
}

// openAppend makes the file if there is none. An error is a *usageError.
func openAppend(path string, max int64) (*appendFile, error) {
	if fi, err := os.Lstat(path); err == nil && !fi.Mode().IsRegular() { // nor a link to what somebody else chose
		return nil, &usageError{"opening " + path + ": not a regular file", "give the path of a file to append to"}
	}
	f, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err == nil {
		if err = f.Chmod(0o600); errors.Is(err, errors.ErrUnsupported) {
			err = nil
		}
	}
	if err != nil {
		f.Close()
		return nil, &usageError{err.Error(), "give a path where you may write"}
	}
	return &appendFile{path: path, max: max, f: f}, nil
}

func (a *appendFile) Write(line []byte) (int, error) {
	if ours, err := a.f.Stat(); err != nil || a.max > 0 && ours.Size() > 0 && ours.Size()+int64(len(line)) > a.max {
		a.f.Close() // Windows does not rename an open file; where the next could not be opened, it is closed already
		if now, err := os.Stat(a.path); err == nil && os.SameFile(ours, now) {
			os.Rename(a.path, a.path+".1") // else another bridge was first
		}
		fresh, err := openAppend(a.path, a.max)
		if err != nil {
			return 0, err
		}
		a.f = fresh.f
	}
	if a.torn {
		line = append([]byte{'\n'}, line...)
	}
	n, err := a.f.Write(line)
	a.torn = err != nil && (a.torn || n > 0)
	return n, err
}

type logOptions struct {
	silent, debug bool   // debug wins
	file          string // "" for none
	json          bool
}

const (
	maxLog      = 10 << 20       // bytes in the log file
	levelPerson = slog.Level(12) // what a person must see or act on, on stderr only: it may hold a sign-in address
)

// person prints a line for the person at the keyboard, whatever the level: a sign-in address, a fatal error.
// It does not go to the log file.
func person(log *slog.Logger, format string, args ...any) {
	log.Log(context.Background(), levelPerson, fmt.Sprintf(format, args...))
}

// newLogger logs to stderr and, if o names one, to a file. flush waits a moment for what is queued.
func newLogger(o logOptions, stderr io.Writer) (log *slog.Logger, flush func(), err error) {
	min, fileMin := slog.LevelInfo, slog.LevelInfo
	if o.silent {
		min = slog.LevelError
	}
	if o.debug {
		min, fileMin = slog.LevelDebug, slog.LevelDebug
	}
	sinks := []*sink{newSink(stderr)}
	handlers := []slog.Handler{&lineHandler{to: sinks[0], min: min, max: levelPerson, json: o.json}}
	if o.file != "" {
		f, err := openAppend(o.file, maxLog)
		if err != nil {
			return nil, nil, err
		}
		sinks = append(sinks, newSink(f))
		handlers = append(handlers, &lineHandler{to: sinks[1], min: fileMin, max: levelPerson - 1, json: o.json, stamp: true})
	}
	return slog.New(slog.NewMultiHandler(handlers...)), func() {
		for _, s := range sinks {
			s.close(200 * time.Millisecond)
		}
	}, nil
}

// A lineHandler makes one line of one record. Groups are not used in this program.
type lineHandler struct {
	to       *sink
	min, max slog.Level
	json     bool
	stamp    bool // a text line begins with time and process id
	attrs    []slog.Attr
}

func (h *lineHandler) Enabled(_ context.Context, l slog.Level) bool { return h.min <= l && l <= h.max }
func (h *lineHandler) WithGroup(string) slog.Handler                { return h }
func (h *lineHandler) WithAttrs(more []slog.Attr) slog.Handler {
	c := *h
	c.attrs = slices.Concat(h.attrs, more)
	return &c
}

func (h *lineHandler) Handle(_ context.Context, r slog.Record) error {
	attrs := slices.AppendSeq(slices.Clone(h.attrs), r.Attrs)
	lost := h.to.dropped.Swap(0) // told by one line alone
	if lost > 0 {
		attrs = append(attrs, slog.Int64("lines_lost", lost))
	}
	if !h.to.put(line{text: h.line(r, attrs)}) {
		h.to.dropped.Add(lost)
	}
	return nil
}

func (h *lineHandler) line(r slog.Record, attrs []slog.Attr) []byte {
	text := escape(r.Message, maxLine)
	if h.json {
		fields := map[string]any{"time": r.Time, "pid": os.Getpid(), "level": r.Level.String(), "msg": text}
		for _, a := range attrs {
			fields[a.Key] = clean(a.Value.Resolve().String())
		}
		var line bytes.Buffer
		e := json.NewEncoder(&line)
		e.SetEscapeHTML(false) // an address is copied from here into a browser
		_ = e.Encode(fields)   // cannot fail: strings and a time
		return line.Bytes()
	}
	prefix := "mcp-redial: "
	if h.stamp {
		prefix = fmt.Sprintf("%s [%d] ", r.Time.Format("2006-01-02T15:04:05.000Z07:00"), os.Getpid())
	}
	if r.Level != slog.LevelInfo && r.Level != levelPerson {
		prefix += strings.ToLower(r.Level.String()) + ": "
	}
	for _, a := range attrs {
		text += " " + a.Key + "=" + clean(a.Value.Resolve().String())
	}
	return []byte(prefix + text + "\n")
}

// An auditRecord is one message that mattered. It never holds arguments or results.
type auditRecord struct {
	Time       time.Time `json:"time"`
	Pid        int       `json:"pid"`               // set by record
	Server     string    `json:"server"`            // origin
	Session    string    `json:"session,omitempty"` // a short hash of the session id
	Direction  string    `json:"direction"`         // of the request: "to-server" or "to-client"
	Method     string    `json:"method"`
	Name       string    `json:"name,omitempty"` // of the tool, prompt or resource
	ID         string    `json:"id,omitempty"`
	Outcome    string    `json:"outcome"` // "sent", "ok", "error", "cancelled" or a reason of the bridge's own errors
	DurationMs int64     `json:"durationMs"`
	Bytes      int       `json:"bytes"`
	Reconnects int       `json:"reconnects"` // since the bridge started
}

const auditWait = 5 * time.Second // for a record that a call waits for

// An auditLog is the audit file. Its methods do no I/O.
type auditLog struct{ *sink }

func newAuditLog(path string) (*auditLog, error) {
	f, err := openAppend(path, 0)
	if err != nil {
		return nil, err
	}
	return &auditLog{newSink(f)}, nil
}

func (a *auditLog) record(r auditRecord) { a.put(line{text: r.line()}) }

// before writes r and waits until it is in the file.
func (a *auditLog) before(ctx context.Context, r auditRecord) error {
	wrote := make(chan error, 1)
	if !a.put(line{r.line(), wrote}) {
		return errors.New("too many records wait for the disk")
	}
	select {
	case err := <-wrote:
		return err
	case <-time.After(auditWait):
		return fmt.Errorf("the disk has not taken a record for %v", auditWait)
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (r auditRecord) line() []byte {
	r.Pid = os.Getpid()
	r.Method, r.Name, r.ID = clean(r.Method), clean(r.Name), clean(r.ID)
	text, _ := json.Marshal(r) // cannot fail: strings and numbers
	return append(text, '\n')
}

// shortHash tells sessions apart in the records.
func shortHash(s secret) string { return fmt.Sprintf("%x", sha256.Sum256([]byte(s.reveal())))[:8] }
