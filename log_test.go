package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// TestSecretNeverPrints holds that no way of printing a secret, or what holds one, shows its value.
func TestSecretNeverPrints(t *testing.T) {
	const planted = "s3cr3t-value"
	s := hide(planted)
	type holder struct {
		Public  secret
		private secret
		list    []secret
		byName  map[string]secret
		pointer *secret
	}
	h := holder{s, s, []secret{s}, map[string]secret{"a": s}, &s}
	var out strings.Builder
	for _, v := range []any{s, &s, h, &h, []any{s}, map[secret]int{s: 1}, fmt.Errorf("wrapping: %v", s), struct{ any }{s}} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%t", "%T", "%p", "%U", "%c", "%10.3s"} {
			fmt.Fprintf(&out, verb+"\n", v)
		}
		fmt.Fprintln(&out, v)
		if b, err := json.Marshal(v); err == nil {
			out.Write(b)
		}
		for _, handler := range []slog.Handler{slog.NewTextHandler(&out, nil), slog.NewJSONHandler(&out, nil)} {
			slog.New(handler).With("with", v).Info("text", "v", v, slog.Group("g", "v", v))
		}
		for _, asJSON := range []bool{false, true} {
			var stderr bytes.Buffer
			log, flush, err := newLogger(logOptions{json: asJSON, debug: true}, &stderr)
			if err != nil {
				t.Fatal(err)
			}
			log.With("with", v).Debug("text", "v", v)
			person(log, "%v %+v", v, v)
			flush()
			out.Write(stderr.Bytes())
		}
	}
	hex := fmt.Sprintf("%x", planted)
	for _, leak := range []string{planted, hex, strings.ToUpper(hex), planted[:5]} {
		if strings.Contains(out.String(), leak) {
			t.Errorf("%q was printed", leak)
		}
	}
	if s.reveal() != planted || s.empty() || !(secret{}).empty() || (secret{}).reveal() != "" || !hide("").empty() {
		t.Error("the value is not what was hidden")
	}
}

func TestClean(t *testing.T) {
	for _, c := range []struct{ in, want string }{
		{"", ""},
		{"plain text, with ünïcödé and 漢字", "plain text, with ünïcödé and 漢字"},
		{"a\nb\r\tc", `a\nb\r\tc`},
		{"\x1b[31mred\x1b]0;title\a", `\x1b[31mred\x1b]0;title\a`},
		{"C1: \u009b31m \u0085", `C1: \u009b31m \u0085`},
		{"bidi: \u202etxt.exe\u2066\u200f", `bidi: \u202etxt.exe\u2066\u200f`},
		{"\u2028\u2029\ufeff\u00ad\x00\x7f", `\u2028\u2029\ufeff\u00ad\x00\x7f`},
		{"bad \xff utf-8", "bad \uFFFD utf-8"},
		{`C:\path`, `C:\path`},
		{strings.Repeat("x", 200), strings.Repeat("x", 200)},
		{strings.Repeat("x", 201), strings.Repeat("x", 200) + "…"},
	} {
		got := clean(c.in)
		if got != c.want {
			t.Errorf("clean(%q) = %q, want %q", c.in, got, c.want)
		}
		if len(c.in) <= 200 && clean(got) != got {
			t.Errorf("cleaning %q twice gives %q", c.in, clean(got))
		}
	}
}

func TestOrigin(t *testing.T) {
	for in, want := range map[string]string{
		"https://Example.COM/path?token=x#f": "https://example.com",
		"https://example.com:443/":           "https://example.com",
		"http://example.com:80":              "http://example.com",
		"http://example.com:443":             "http://example.com:443",
		"https://example.com:8443":           "https://example.com:8443",
		"https://user:pw@example.com":        "https://example.com",
		"https://[::1]:8443/x":               "https://[::1]:8443",
		"HTTPS://[2001:DB8::1]":              "https://[2001:db8::1]",
		"https://example.com:":               "https://example.com",
		"http://[FE80::1%25eth0]:80/":        "http://[fe80::1%eth0]",
		"https://[::443]":                    "https://[::443]",
		"socks5://example.com:1080":          "socks5://example.com:1080",
	} {
		u, err := url.Parse(in)
		if err != nil {
			t.Fatal(err)
		}
		if got := origin(u); got != want {
			t.Errorf("origin(%s) = %s, want %s", in, got, want)
		}
	}
}

func TestLogLevels(t *testing.T) {
	emit := func(log *slog.Logger) {
		log.Debug("one", "from", "the\nserver")
		log.Info("two")
		log.Warn("three")
		log.Error("four")
		person(log, "open %s", "https://as.example.com/?state=abc")
	}
	const address = "mcp-redial: open https://as.example.com/?state=abc\n"
	for _, c := range []struct {
		name string
		o    logOptions
		want string
	}{
		{"default", logOptions{}, "mcp-redial: two\nmcp-redial: warn: three\nmcp-redial: error: four\n" + address},
		{"silent", logOptions{silent: true}, "mcp-redial: error: four\n" + address},
		{"debug", logOptions{debug: true}, "mcp-redial: debug: one from=the\\nserver\nmcp-redial: two\nmcp-redial: warn: three\nmcp-redial: error: four\n" + address},
		{"both", logOptions{debug: true, silent: true}, "mcp-redial: debug: one from=the\\nserver\nmcp-redial: two\nmcp-redial: warn: three\nmcp-redial: error: four\n" + address},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.o.file = filepath.Join(t.TempDir(), "log")
			var stderr bytes.Buffer
			log, flush, err := newLogger(c.o, &stderr)
			if err != nil {
				t.Fatal(err)
			}
			emit(log)
			flush()
			if stderr.String() != c.want {
				t.Errorf("stderr has\n%swant\n%s", stderr.String(), c.want)
			}
			file, err := os.ReadFile(c.o.file)
			if err != nil {
				t.Fatal(err)
			}
			if !strings.Contains(string(file), fmt.Sprintf("[%d] two\n", os.Getpid())) || strings.Contains(string(file), "one") != c.o.debug {
				t.Errorf("the file has\n%s", file)
			}
			if strings.Contains(string(file), "state=") {
				t.Error("a sign-in address is in the log file")
			}
		})
	}
}

func TestLogJSON(t *testing.T) {
	var stderr bytes.Buffer
	log, flush, err := newLogger(logOptions{json: true}, &stderr)
	if err != nil {
		t.Fatal(err)
	}
	log.With("server", "https://a").Info("line\nlost", "err", errors.New("reset\x1b[2J"), "n", 3)
	flush()
	var got map[string]any
	if err := json.Unmarshal(stderr.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	if got["msg"] != `line\nlost` || got["err"] != `reset\x1b[2J` || got["n"] != "3" || got["server"] != "https://a" || got["level"] != "INFO" || got["time"] == nil {
		t.Errorf("got %v", got)
	}
}

// TestStderrBlocked holds that a client that never reads our stderr stops nobody, and that losses are told.
func TestStderrBlocked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, w := io.Pipe()
		log, flush, err := newLogger(logOptions{}, w)
		if err != nil {
			t.Fatal(err)
		}
		for i := range 10_000 {
			log.Info("line", "i", i)
		}
		start := time.Now()
		flush()
		if waited := time.Since(start); waited != 200*time.Millisecond {
			t.Errorf("flush waited %v", waited)
		}
		r.Close()
	})
	synctest.Test(t, func(t *testing.T) {
		r, w := io.Pipe()
		log, flush, _ := newLogger(logOptions{}, w)
		for i := range 1000 {
			log.Info("line", "i", i)
		}
		var out bytes.Buffer
		go io.Copy(&out, r)
		synctest.Wait()
		log.Info("after")
		flush()
		w.Close()
		synctest.Wait()
		arrived, lost := strings.Count(out.String(), "line i="), 0
		for _, m := range regexp.MustCompile(`lines_lost=(\d+)`).FindAllStringSubmatch(out.String(), -1) {
			n, _ := strconv.Atoi(m[1])
			lost += n
		}
		if arrived < 256 || lost == 0 || arrived+lost != 1000 || !strings.Contains(out.String(), "mcp-redial: after") {
			t.Errorf("%d lines arrived and %d were told to be lost", arrived, lost)
		}
	})
}

func TestAppendFile(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "log")
	if err := os.WriteFile(path, []byte("old\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	a, err := openAppend(path, 20)
	if err != nil {
		t.Fatal(err)
	}
	other, err := openAppend(path, 20) // a second bridge with the same file
	if err != nil {
		t.Fatal(err)
	}
	read := func(path string) string {
		b, _ := os.ReadFile(path)
		return string(b)
	}
	defer func() { a.f.Close(); other.f.Close() }() // Windows does not remove open files
	io.WriteString(a, "1234567890 12345\n")         // 4 + 16 = 20 bytes is one too many
	if runtime.GOOS != "windows" {
		if read(path) != "1234567890 12345\n" || read(path+".1") != "old\n" {
			t.Errorf("after the bound: %q and %q", read(path), read(path+".1"))
		}
		fi, _ := os.Stat(path)
		old, _ := os.Stat(path + ".1")
		if fi.Mode().Perm() != 0o600 || old.Mode().Perm() != 0o600 {
			t.Errorf("modes %v and %v, want 0600", fi.Mode(), old.Mode())
		}
		io.WriteString(other, "filling it up to it\n") // its file has become .1, which it must not move over the new one
		if got := read(path); got != "filling it up to it\n" && got != "1234567890 12345\nfilling it up to it\n" {
			t.Errorf("the other's line went to %q", got)
		}
		if all := read(path) + read(path+".1"); !strings.Contains(all, "1234567890") {
			t.Errorf("the second bridge moved the log away: %q", all)
		}
	}
	if _, err := openAppend(dir, 0); err == nil || !strings.Contains(err.Error(), "not a regular file") {
		t.Errorf("a folder as log file: %v", err)
	}
	link, own := filepath.Join(dir, "link"), filepath.Join(dir, "profile")
	if err := os.WriteFile(own, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if os.Symlink(own, link) == nil { // by somebody who may write there
		if _, err := openAppend(link, 0); err == nil || !strings.Contains(err.Error(), "not a regular file") {
			t.Errorf("a link as log file: %v", err)
		}
	}
	if _, err := openAppend(filepath.Join(dir, "none", "log"), 0); err == nil {
		t.Error("a file in a folder that is missing was opened")
	}
}

func TestAppendFileBound(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	a, err := openAppend(path, 8)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { a.f.Close() }()
	io.WriteString(a, "1234\n")
	io.WriteString(a, "67\n") // 8 bytes fit
	if _, err := os.Stat(path + ".1"); err == nil {
		t.Error("moved at the bound")
	}
	io.WriteString(a, "\n")
	if _, err := os.Stat(path + ".1"); err != nil {
		t.Error("not moved one past the bound")
	}
}

// TestAppendFileReopened holds that a log goes on once there is a way again to open its next file.
func TestAppendFileReopened(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("a folder is not closed by its mode there")
	}
	dir := t.TempDir()
	path := filepath.Join(dir, "log")
	a, err := openAppend(path, 8)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { a.f.Close() }()
	io.WriteString(a, "1234567\n")
	if err := os.Rename(path, path+".kept"); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(path, 0o700); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if _, err := io.WriteString(a, "lost\n"); err == nil || !strings.Contains(err.Error(), "not a regular file") {
			t.Errorf("a folder in the place of the next file: %v", err)
		}
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	_, err = io.WriteString(a, "again\n")
	if got, _ := os.ReadFile(path); err != nil || string(got) != "again\n" {
		t.Errorf("once the folder is gone the file has %q: %v", got, err)
	}
}

// A chatty value logs a line of its own while it is being printed.
type chatty struct{ log *slog.Logger }

func (c chatty) LogValue() slog.Value { c.log.Info("beside"); return slog.StringValue("v") }

// TestLinesLostOnce holds that lines that are made at the same time do not both tell of the same loss.
func TestLinesLostOnce(t *testing.T) {
	to := newSink(io.Discard)
	defer to.close(time.Second)
	log := slog.New(&lineHandler{to: to, max: levelPerson})
	to.dropped.Store(5)
	log.Info("outer", "value", chatty{log})
	if left := to.dropped.Load(); left != 0 {
		t.Errorf("after the loss of 5 lines was told, the next is told as %d more", left)
	}
}

func TestAudit(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit")
	a, err := newAuditLog(path)
	if err != nil {
		t.Fatal(err)
	}
	at := time.Date(2026, 3, 1, 12, 0, 0, 5e8, time.UTC)
	a.record(auditRecord{Time: at, Server: "https://a", Session: "0a1b2c3d", Direction: "to-server", Method: "tools/call",
		Name: "evil\x1b[2J\ntool", ID: `"7"`, Outcome: "ok", DurationMs: 12, Bytes: 345, Reconnects: 1})
	a.close(time.Second)
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	want := fmt.Sprintf(`{"time":"2026-03-01T12:00:00.5Z","pid":%d,"server":"https://a","session":"0a1b2c3d","direction":"to-server",`+
		`"method":"tools/call","name":"evil\\x1b[2J\\ntool","id":"\"7\"","outcome":"ok","durationMs":12,"bytes":345,"reconnects":1}`+"\n", os.Getpid())
	if string(got) != want {
		t.Errorf("got  %swant %s", got, want)
	}
}

// TestAuditRequired holds that a tool is called only when the record of that very call is in the file.
func TestAuditRequired(t *testing.T) {
	for _, kind := range []fakeKind{fakeStreamable, fakeSSE, fakeStateless} {
		synctest.Test(t, func(t *testing.T) {
			n, s := newMemNet(), &fakeServer{kind: kind}
			s.start(t, n.listen("mcp.test:80"))
			w := &brittle{full: true}
			o := testOptions()
			o.audit, o.auditRequired = &auditLog{newSink(w)}, true
			defer o.audit.close(time.Second)
			h := newHost(t, n, o)
			h.hello()
			h.list()
			refused := `-31009,"message":"the audit file cannot be written, and --audit-required forbids calls without it","data":{"source":"mcp-redial","reason":"not-permitted","mayHaveRun":false`
			if got := h.answer(h.call("add", `"key":"full"`), time.Minute); !strings.Contains(got, refused) || s.runs("full") != 0 {
				t.Errorf("with a full disk: %s, run %d times", got, s.runs("full"))
			}
			w.set(false, nil)
			if got := h.answer(h.call("add", `"key":"good"`), time.Minute); !strings.Contains(got, `"result"`) || s.runs("good") != 1 {
				t.Errorf("with room again: %s, run %d times", got, s.runs("good"))
			}
			synctest.Wait()
			if got := w.text(); strings.Count(got, `"outcome":"sent"`) != 1 || !strings.Contains(got, `"name":"add","id":"2","outcome":"ok"`) {
				t.Errorf("the records are\n%s", got)
			}
			stuck := make(chan bool)
			w.set(false, stuck)
			id := h.call("add", `"key":"stuck"`)
			if got := h.answer(id, time.Minute); !strings.Contains(got, refused) || s.runs("stuck") != 0 {
				t.Errorf("with a disk that hangs: %s, run %d times", got, s.runs("stuck"))
			}
			id = h.call("add", `"key":"gone"`)
			h.say(`{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":` + id + `}}`)
			if got := h.hear(time.Minute); got != "" || s.runs("gone") != 0 {
				t.Errorf("cancelled while its record waited: %s, run %d times", got, s.runs("gone"))
			}
			close(stuck)
			h.in.Close()
			<-h.ended
		})
	}
}

// TestAuditRecords goes through what is recorded of a line.
func TestAuditRecords(t *testing.T) {
	for _, kind := range []fakeKind{fakeStreamable, fakeSSE} {
		synctest.Test(t, func(t *testing.T) {
			n, s := newMemNet(), &fakeServer{kind: kind, streams: true}
			s.start(t, n.listen("mcp.test:80"))
			w := &brittle{}
			o := testOptions()
			o.audit, o.tools.ignore = &auditLog{newSink(w)}, []string{"image"}
			defer o.audit.close(time.Second)
			h := newHost(t, n, o)
			h.hello()
			h.answer(h.call("echo", `"text":"hush"`), time.Minute)
			h.answer(h.call("refuses", `"code":-32000`), time.Minute)
			h.answer(h.call("image", ``), time.Minute)
			h.say(`{"jsonrpc":"2.0","id":"r","method":"resources/read","params":{"uri":"mem:\u001b[2J"}}`)
			h.answer(`"r"`, time.Minute)
			id := h.call("slow", `"ms":60000`)
			time.Sleep(time.Second)
			h.say(`{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":` + id + `}}`)
			id = h.call("ask", `"method":"sampling/createMessage"`)
			asked := h.hear(time.Minute)
			m, err := scan([]byte(asked))
			if err != nil || m.kind != request {
				t.Fatalf("the server asks %s, %v", asked, err)
			}
			time.Sleep(2 * time.Second)
			h.say(`{"jsonrpc":"2.0","id":` + m.id + `,"result":{"role":"assistant","content":{"type":"text","text":"hush"},"model":"m"}}`)
			h.answer(id, time.Minute)
			s.restart()
			h.answer(h.call("echo", `"text":"again"`), time.Minute)
			h.in.Close()
			<-h.ended
			synctest.Wait() // for the last record
			var got []string
			sessions := map[string]bool{}
			for line := range strings.Lines(w.text()) {
				var r auditRecord
				if err := json.Unmarshal([]byte(line), &r); err != nil || r.Server != o.server || r.Pid != os.Getpid() || r.Bytes == 0 || time.Since(r.Time) > time.Hour {
					t.Fatalf("%v in %s", err, line)
				}
				if r.Session != "" {
					sessions[r.Session] = true
				}
				got = append(got, fmt.Sprintf("%s %s %s %s %d s, %d", r.Direction, r.Method, r.Name, r.Outcome, r.DurationMs/1000, r.Reconnects))
			}
			want := []string{"to-server initialize  ok 0 s, 0", "to-server tools/call echo ok 0 s, 0", "to-server tools/call refuses error 0 s, 0",
				"to-server tools/call image not-permitted 0 s, 0", `to-server resources/read mem:\x1b[2J ok 0 s, 0`, "to-server tools/call slow cancelled 1 s, 0",
				"to-client sampling/createMessage  ok 2 s, 0", "to-server tools/call ask ok 2 s, 0", "to-server tools/call echo ok 0 s, 1"}
			if d := cmp.Diff(want, got); d != "" {
				t.Errorf("%v: %s", kind, d)
			}
			if len(sessions) != 2 || strings.Contains(w.text(), "hush") {
				t.Errorf("%v: sessions %v in\n%s", kind, sessions, w.text())
			}
		})
	}
}

// TestAuditFails holds that a record that cannot be written is noticed.
func TestAuditFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, w := io.Pipe()
		a := &auditLog{newSink(w)}
		for range 300 { // more than the queue holds
			a.record(auditRecord{})
		}
		if err := a.before(t.Context(), auditRecord{}); err == nil || err.Error() != "too many records wait for the disk" {
			t.Errorf("a full queue: %v", err)
		}
		r.Close()
		a.close(time.Second)
	})
}

// A brittle disk keeps what is written to it.
type brittle struct {
	mu    sync.Mutex
	full  bool
	stuck chan bool // not nil: until it is closed
	told  strings.Builder
}

func (b *brittle) set(full bool, stuck chan bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.full, b.stuck = full, stuck
}

func (b *brittle) text() string { b.mu.Lock(); defer b.mu.Unlock(); return b.told.String() }

func (b *brittle) Write(p []byte) (int, error) {
	b.mu.Lock()
	stuck := b.stuck
	b.mu.Unlock()
	if stuck != nil {
		<-stuck
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.full {
		return 0, errors.New("disk full")
	}
	return b.told.Write(p)
}
