package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// A wholeEvent is an event whose data is in one part.
type wholeEvent struct {
	name   string
	data   []byte
	charge charge
}

// next is the next event, however many reads it takes.
func (r *eventReader) next(ctx context.Context) (wholeEvent, error) {
	for {
		e, ok, err := r.buffered(ctx)
		if ok || err != nil {
			data, c := e.data.take()
			return wholeEvent{e.name, data, c}, err
		}
		if err := r.fill(); err != nil {
			return wholeEvent{}, err
		}
	}
}

// A seenEvent is an event and the cursor after it.
type seenEvent struct{ Name, Data, ID string }

// A seenStream is all that a stream says.
type seenStream struct {
	Events []seenEvent
	ID     string
	Retry  time.Duration
}

func readStream(t testing.TB, src io.Reader, most int) (seenStream, error) {
	t.Helper()
	mem := newBudget(1<<30, most)
	r := newEventReader(src, most, mem, "")
	var s seenStream
	for {
		e, err := r.next(t.Context())
		if err != nil {
			s.ID, s.Retry = string(r.lastID), r.retry
			mem.free(r.charge)
			if mem.used != 0 {
				t.Errorf("%d bytes stay charged", mem.used)
			}
			return s, err
		}
		if e.charge.bytes != len(e.data) {
			t.Errorf("an event of %d bytes is charged %d", len(e.data), e.charge.bytes)
		}
		mem.free(e.charge)
		s.Events = append(s.Events, seenEvent{e.name, string(validUTF8(e.data)), string(r.lastID)})
	}
}

// referenceStream is the algorithm of WHATWG HTML 9.2.6, line by line on the whole text.
func referenceStream(stream []byte) seenStream {
	text := strings.TrimPrefix(referenceDecode(stream), "\ufeff")
	text = strings.ReplaceAll(text, "\r\n", "\n")
	text = strings.ReplaceAll(text, "\r", "\n")
	lines := strings.Split(text, "\n")
	var s seenStream
	var data, name, id string
	for _, line := range lines[:len(lines)-1] {
		if line == "" {
			s.ID = id
			if data != "" {
				if name == "" {
					name = "message"
				}
				s.Events = append(s.Events, seenEvent{name, strings.TrimSuffix(data, "\n"), id})
			}
			data, name = "", ""
			continue
		}
		field, value, _ := strings.Cut(line, ":")
		value = strings.TrimPrefix(value, " ")
		switch field {
		case "data":
			data += value + "\n"
		case "event":
			name = value
		case "id":
			if !strings.Contains(value, "\x00") {
				id = value
			}
		case "retry":
			if value != "" && strings.Trim(value, "0123456789") == "" {
				s.Retry = maxWait
				if value = strings.TrimLeft(value, "0"); len(value) < 9 {
					ms, _ := strconv.Atoi("0" + value)
					s.Retry = min(time.Duration(ms)*time.Millisecond, maxWait)
				}
			}
		}
	}
	return s
}

// referenceDecode is the UTF-8 decoder of the WHATWG Encoding Standard.
func referenceDecode(b []byte) string {
	var out strings.Builder
	var c rune
	needed, seen := 0, 0
	lower, upper := byte(0x80), byte(0xbf)
	for i := 0; i < len(b); i++ {
		x := b[i]
		if needed == 0 {
			switch {
			case x <= 0x7f:
				out.WriteByte(x)
			case x >= 0xc2 && x <= 0xdf:
				needed, c = 1, rune(x&0x1f)
			case x >= 0xe0 && x <= 0xef:
				if x == 0xe0 {
					lower = 0xa0
				}
				if x == 0xed {
					upper = 0x9f
				}
				needed, c = 2, rune(x&0xf)
			case x >= 0xf0 && x <= 0xf4:
				if x == 0xf0 {
					lower = 0x90
				}
				if x == 0xf4 {
					upper = 0x8f
				}
				needed, c = 3, rune(x&7)
			default:
				out.WriteRune('\ufffd')
			}
			continue
		}
		if x < lower || x > upper {
			needed, seen, lower, upper = 0, 0, 0x80, 0xbf
			out.WriteRune('\ufffd')
			i--
			continue
		}
		lower, upper = 0x80, 0xbf
		c = c<<6 | rune(x&0x3f)
		if seen++; seen == needed {
			out.WriteRune(c)
			needed, seen = 0, 0
		}
	}
	if needed > 0 {
		out.WriteRune('\ufffd')
	}
	return out.String()
}

// chopped is a reader that gives at random between one byte and all that fits.
type chopped struct {
	b   []byte
	rng *rand.Rand
}

func (c *chopped) Read(p []byte) (int, error) {
	if len(c.b) == 0 {
		return 0, io.EOF
	}
	n := min(len(c.b), len(p), 1<<c.rng.IntN(18))
	n = 1 + c.rng.IntN(n)
	copy(p, c.b[:n])
	c.b = c.b[n:]
	return n, nil
}

// checkStream compares what the reader makes of a stream, however it arrives, with the reference.
func checkStream(t *testing.T, stream []byte, seed uint64) seenStream {
	t.Helper()
	want := referenceStream(stream)
	for name, src := range map[string]io.Reader{
		"whole":        bytes.NewReader(stream),
		"with EOF":     iotest.DataErrReader(bytes.NewReader(stream)),
		"byte by byte": iotest.OneByteReader(bytes.NewReader(stream)),
		"chopped":      &chopped{stream, rand.New(rand.NewPCG(seed, 1))},
	} {
		got, err := readStream(t, src, 64<<20)
		if err != io.EOF {
			t.Errorf("%s: %v", name, err)
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("%s:\n%s", name, d)
		}
	}
	return want
}

func TestEventReader(t *testing.T) {
	unraced(t)
	t.Parallel()
	message := func(data ...string) (es []seenEvent) {
		for _, d := range data {
			es = append(es, seenEvent{"message", d, ""})
		}
		return es
	}
	long := strings.Repeat("é", maxBuffer/2+1000) // over the buffer, and cut inside a character
	tests := []struct {
		name, stream string
		want         seenStream
	}{
		{"empty", "", seenStream{}},
		{"LF", "data: x\n\ndata: y\n\n", seenStream{Events: message("x", "y")}},
		{"CR", "data: x\r\rdata: y\r\r", seenStream{Events: message("x", "y")}},
		{"CRLF", "data: x\r\n\r\ndata: y\r\n\r\n", seenStream{Events: message("x", "y")}},
		{"mixed ends", "data: x\r\ndata: y\n\rdata: z\r\n\n", seenStream{Events: message("x\ny", "z")}},
		{"LF CR is two", "data: x\n\rdata: y\n\n", seenStream{Events: message("x", "y")}},
		{"byte order mark", "\ufeffdata: x\n\n", seenStream{Events: message("x")}},
		{"only one mark", "\ufeff\ufeffdata: x\n\n", seenStream{}},
		{"mark later", "data: x\n\n\ufeffdata: y\n\n", seenStream{Events: message("x")}},
		{"mark alone", "\ufeff\n\ndata: x\n\n", seenStream{Events: message("x")}},
		{"half a mark", "\xef\xbbdata: x\n\n", seenStream{}},
		{"comment", ": hello\n:\ndata: x\n: in between\n\n", seenStream{Events: message("x")}},
		{"no colon", "data\n\n", seenStream{Events: message("")}},
		{"no colon, twice", "data\ndata\n\n", seenStream{Events: message("\n")}},
		{"one space is stripped", "data:  x\n\ndata:x\n\ndata:\tx\n\n", seenStream{Events: message(" x", "x", "\tx")}},
		{"colons in data", "data:a:b\n\n", seenStream{Events: message("a:b")}},
		{"case matters", "Data: x\nDATA: x\n\n", seenStream{}},
		{"spaces matter", " data: x\ndata : x\n\n", seenStream{}},
		{"unknown fields", "foo: 1\ndata: x\nbar\n\n", seenStream{Events: message("x")}},
		{"event", "event: ping\ndata: x\n\ndata: y\n\n", seenStream{Events: []seenEvent{{"ping", "x", ""}, {"message", "y", ""}}}},
		{"last event name", "event: a\nevent: b\ndata: x\n\n", seenStream{Events: []seenEvent{{"b", "x", ""}}}},
		{"empty event name", "event: a\nevent\ndata: x\n\n", seenStream{Events: message("x")}},
		{"event name without data", "event: a\n\ndata: x\n\n", seenStream{Events: message("x")}},
		{"id", "id: 1\ndata: x\n\n", seenStream{Events: []seenEvent{{"message", "x", "1"}}, ID: "1"}},
		{"id stays", "id: 1\ndata: x\n\ndata: y\n\n", seenStream{Events: []seenEvent{{"message", "x", "1"}, {"message", "y", "1"}}, ID: "1"}},
		{"id alone advances", "id: 1\ndata: x\n\nid: 2\n\n", seenStream{Events: []seenEvent{{"message", "x", "1"}}, ID: "2"}},
		{"priming event", "id: 1\ndata:\n\n", seenStream{Events: []seenEvent{{"message", "", "1"}}, ID: "1"}},
		{"id is cleared", "id: 1\n\nid\ndata: x\n\n", seenStream{Events: message("x")}},
		{"id with NUL", "id: 1\n\nid: 2\x003\ndata: x\n\n", seenStream{Events: []seenEvent{{"message", "x", "1"}}, ID: "1"}},
		{"id of an unfinished block", "id: 1\n\nid: 2\ndata: x\n", seenStream{ID: "1"}},
		{"id with spaces", "id:  1 \n\n", seenStream{ID: " 1 "}},
		{"retry", "retry: 1500\n\n", seenStream{Retry: 1500 * time.Millisecond}},
		{"retry counts at once", "retry: 7\n", seenStream{Retry: 7 * time.Millisecond}},
		{"retry is digits", "retry: 5\nretry: -1\nretry: 1.5\nretry: +1\nretry: 1e3\nretry:  1\nretry: \nretry\nretry: ٣\n\n", seenStream{Retry: 5 * time.Millisecond}},
		{"retry of a thousand years", "retry: 31557600000000000000000000\n", seenStream{Retry: maxWait}},
		{"retry 0 takes back", "retry: 5\nretry: 0\n", seenStream{}},
		{"unfinished block", "data: x\n\ndata: y\n", seenStream{Events: message("x")}},
		{"unfinished line", "data: x\n\ndata: y\n\ndata", seenStream{Events: message("x", "y")}},
		{"blank lines", "\n\n\n\ndata: x\n\n\n\n", seenStream{Events: message("x")}},
		{"bad UTF-8", "data: a\xffb\n\n", seenStream{Events: message("a\ufffdb")}},
		{"one for each beginning", "data: \xe2\x82|\xf0\x80|\xed\xa0\x80|\xf0\x9f\x98|\xc3\n\n", seenStream{Events: message("\ufffd|\ufffd\ufffd|\ufffd\ufffd\ufffd|\ufffd|\ufffd")}},
		{"bad UTF-8 elsewhere", "event: \xff\nid: \xff\ndata: x\n\n", seenStream{Events: []seenEvent{{"\ufffd", "x", "\ufffd"}}, ID: "\ufffd"}},
		{"long line", "data: " + long + "\n\ndata: x\n\n", seenStream{Events: message(long, "x")}},
		{"long lines", "data: " + long + "\r\ndata: " + long + "\r\n\r\n", seenStream{Events: message(long + "\n" + long)}},
		{"long comment", ":" + long + "\ndata: x\n\n", seenStream{Events: message("x")}},
		{"long unknown field", long + "\ndata: x\n\n", seenStream{Events: message("x")}},
		{"ends at the edges of the buffer", "data: " + strings.Repeat("x", minBuffer-7) + "\r\n\r\ndata: " + strings.Repeat("y", maxBuffer-6) + "\r\n\r\n",
			seenStream{Events: message(strings.Repeat("x", minBuffer-7), strings.Repeat("y", maxBuffer-6))}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			got := checkStream(t, []byte(test.stream), 1)
			if d := cmp.Diff(test.want, got); d != "" {
				t.Errorf("the reference differs from the table:\n%s", d)
			}
		})
	}
}

func FuzzEventReader(f *testing.F) {
	for _, s := range []string{
		"data: x\n\n", "\ufeffid: 1\r\ndata:\r\n\r\n", "event: endpoint\rdata: /m?s=1\r\rretry: 10\r", ": c\ndata\ndata: \xff\xe2\x82\n\nid: \x00\n\n",
	} {
		f.Add([]byte(s), uint64(len(s)))
	}
	f.Fuzz(func(t *testing.T, stream []byte, seed uint64) {
		if len(stream) <= maxField { // longer ids and names are not kept whole
			checkStream(t, stream, seed)
		}
	})
}

// A partsReader is a reader that fails the test when it is read beyond its parts.
type partsReader struct {
	parts []string
	over  func() error
}

func (s *partsReader) Read(p []byte) (int, error) {
	if len(s.parts) == 0 {
		return 0, s.over()
	}
	n := copy(p, s.parts[0])
	if s.parts[0] = s.parts[0][n:]; s.parts[0] == "" {
		s.parts = s.parts[1:]
	}
	return n, nil
}

func TestEventReaderNeverWaits(t *testing.T) {
	for _, stream := range []string{"data: x\n\n", "data: x\r\n\r", "data: x\r\r", "\xef\xbb\xbfdata: x\r\r", "id: 7\r\rdata: x\r\n\r"} {
		src := &partsReader{strings.Split(stream, ""), func() error { t.Errorf("%q: read on although an event was there", stream); return io.EOF }}
		r := newEventReader(src, 1<<20, newBudget(1<<20, 1<<20), "")
		if e, err := r.next(t.Context()); err != nil || string(e.data) != "x" {
			t.Errorf("%q: %q, %v", stream, e.data, err)
		}
	}
}

func TestEventReaderBounds(t *testing.T) {
	unraced(t)
	t.Parallel()
	for _, most := range []int{1, 100, minBuffer, maxBuffer - 1, maxBuffer, maxBuffer + 1, 1 << 20} {
		for _, over := range []int{0, 1} {
			n := most + over
			streams := map[string]string{
				"one line":      "data:" + strings.Repeat("x", n) + "\n\n",
				"empty lines":   strings.Repeat("data\n", n+1) + "\n",
				"an empty line": "data\ndata:" + strings.Repeat("x", n-1) + "\n\n",
			}
			for name, stream := range streams {
				s, err := readStream(t, strings.NewReader(stream), most)
				if over == 0 && (err != io.EOF || len(s.Events) != 1 || len(s.Events[0].Data) != most) {
					t.Errorf("%s of %d bytes: %d events, %v", name, n, len(s.Events), err)
				}
				if over == 1 && (!errors.Is(err, errTooLarge) || len(s.Events) != 0) {
					t.Errorf("%s of %d bytes, %d allowed: %d events, %v", name, n, most, len(s.Events), err)
				}
			}
		}
	}
}

func TestEventReaderBoundsFields(t *testing.T) {
	for n, want := range map[int]int{maxField: maxField, maxField + 1: 0, 3 * maxBuffer: 0} {
		stream := "id: " + strings.Repeat("i", n) + "\nevent: " + strings.Repeat("e", n) + "\ndata: x\n\n"
		s, err := readStream(t, strings.NewReader(stream), 10)
		if err != io.EOF || len(s.Events) != 1 || s.Events[0].Data != "x" || len(s.Events[0].Name) > maxField+1 || len(s.ID) > maxField+1 {
			t.Errorf("%d bytes: id of %d, %d events, %v", n, len(s.ID), len(s.Events), err)
		}
		var e *exchangeError
		if errors.As(resumable(readError(t.Context(), io.EOF, s.ID, 0)), &e); len(e.after) != want {
			t.Errorf("an id of %d bytes gives a cursor of %d", n, len(e.after))
		}
	}
}

func TestEventReaderMemory(t *testing.T) {
	const most = 1 << 20
	r := newEventReader(strings.NewReader(strings.Repeat("event: message\nid: 12\ndata: 0123456789\n\n", 20)), most, newBudget(most, most), "")
	for {
		if _, err := r.next(t.Context()); err != nil {
			break
		}
	}
	if r.src.Size() != minBuffer {
		t.Errorf("small events made the buffer %d bytes", r.src.Size())
	}
	r = newEventReader(strings.NewReader("data: "+strings.Repeat("x", most)+"\n\n"), most, newBudget(most, most), "")
	e, err := r.next(t.Context())
	if err != nil || r.src.Size() != maxBuffer || len(e.data) != most || cap(e.data) > most+most/8 {
		t.Errorf("a large event: %v, buffer of %d, data of %d in %d", err, r.src.Size(), len(e.data), cap(e.data))
	}
	stream := strings.Repeat("event: message\nid: 12\ndata: 0123456789\n\n", 1100)
	r = newEventReader(strings.NewReader(stream), most, newBudget(1<<30, most), "")
	for range 50 { // until the buffer has grown and the scratch is there
		if _, err := r.next(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	r.fill()
	if n := testing.AllocsPerRun(100, func() {
		if _, err := r.next(t.Context()); err != nil {
			t.Fatal(err)
		}
	}); n > 1 {
		t.Errorf("an event costs %v allocations, want the one that it keeps", n)
	}
}

// A taken is what recv got.
type taken struct {
	Raw  string
	More bool
}

func testWire() *wire {
	const most = 1 << 20
	return &wire{max: most, mem: newBudget(64<<20, most), log: slog.New(slog.DiscardHandler)}
}

func testNote(n int) string { return fmt.Sprintf(`{"jsonrpc":"2.0","method":"n%d"}`, n) }

func TestEventsHandOn(t *testing.T) {
	event := func(n int) string { return "data: " + testNote(n) + "\n\n" }
	one, two, three := taken{testNote(1), false}, taken{testNote(2), false}, taken{testNote(3), false}
	more := func(m taken) taken { m.More = true; return m }
	tests := []struct {
		name  string
		parts []string
		want  []taken
	}{
		{"together", []string{event(1) + event(2)}, []taken{more(one), two}},
		{"apart", []string{event(1), event(2)}, []taken{one, two}},
		{"half of the next", []string{event(1) + event(2)[:9], event(2)[9:]}, []taken{one, two}},
		{"a comment follows", []string{event(1) + ": x\n\n"}, []taken{one}},
		{"nonsense follows", []string{event(1) + "data: ping\n\ndata: [}\n\ndata\n\n" + event(2) + "event: ping\ndata: {}\n\nid: 8\n\n"}, []taken{more(one), two}},
		{"a batch", []string{"data: [" + testNote(1) + "," + testNote(2) + "]\n\n" + event(3)}, []taken{more(one), more(two), three}},
		{"a batch with nonsense", []string{"data: [" + testNote(1) + ",7]\n\n"}, []taken{one}},
		{"lines become one", []string{"data: {\"jsonrpc\":\"2.0\",\ndata: \"method\":\"n1\"}\n\n"}, []taken{{`{"jsonrpc":"2.0", "method":"n1"}`, false}}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			w := testWire()
			var got []taken
			err := w.events(t.Context(), &partsReader{test.parts, func() error { return io.EOF }}, "", func(m message) error {
				if m.raw == nil {
					if len(got) > 0 {
						got[len(got)-1].More = false
					}
					return nil
				}
				got = append(got, taken{string(m.raw), true})
				w.mem.free(m.charge)
				return nil
			}, ignore)
			var e *exchangeError
			if !errors.As(err, &e) || e.fate != unknown {
				t.Errorf("ended with %v", err)
			}
			if d := cmp.Diff(test.want, got); d != "" {
				t.Error(d)
			}
			if w.mem.used != 0 {
				t.Errorf("%d bytes stay charged", w.mem.used)
			}
		})
	}
}

// TestEventsFree ends a stream in every way while something is charged.
func TestEventsFree(t *testing.T) {
	stop := errors.New("stop")
	batch := "data: [" + testNote(1) + "," + testNote(2) + "," + testNote(3) + "]\n\n"
	for _, stream := range []string{batch, batch + batch, batch + "data: unfinished\n", batch + "event: bad\ndata: x\n\n", batch + "data:" + strings.Repeat("x", 2<<20)} {
		for enough := 1; enough < 8; enough++ {
			w := testWire()
			n := 0
			err := w.events(t.Context(), strings.NewReader(stream), "", func(m message) error {
				if m.raw == nil {
					return nil
				}
				w.mem.free(m.charge)
				if n++; n == enough {
					return stop
				}
				return nil
			}, func(string, []byte) error { return stop })
			if err == nil || n > enough {
				t.Errorf("handed on %d messages, ended with %v", n, err)
			}
			if w.mem.used != 0 {
				t.Errorf("%.40q, stopped after %d: %d bytes stay charged", stream, enough, w.mem.used)
			}
		}
	}
}

func TestEventsBackPressure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := testWire()
		r, server := io.Pipe()
		sent := 0
		go func() {
			for {
				n, err := fmt.Fprintf(server, "data: {\"jsonrpc\":\"2.0\",\"method\":\"n\",\"params\":{\"x\":%q}}\n\n", strings.Repeat("x", 1000))
				if err != nil {
					return
				}
				sent += n
			}
		}()
		release := make(chan struct{})
		ctx, cancel := context.WithCancelCause(t.Context())
		done := make(chan error)
		go func() {
			done <- w.events(ctx, r, "", func(m message) error {
				if m.raw == nil {
					return nil
				}
				defer w.mem.free(m.charge)
				<-release
				return nil
			}, ignore)
		}()
		synctest.Wait()
		first := sent
		if first > maxBuffer {
			t.Errorf("took %d bytes before anybody wanted them", first)
		}
		for range 10 {
			release <- struct{}{}
		}
		synctest.Wait()
		if sent <= first || sent > first+maxBuffer {
			t.Errorf("took %d bytes, then %d", first, sent-first)
		}
		why := errors.New("why")
		cancel(why)
		close(release)
		r.CloseWithError(errors.New("closed"))
		if err := <-done; err != why {
			t.Errorf("ended with %v, want the context's cause", err)
		}
	})
}

func TestEndpoint(t *testing.T) {
	const stream = "https://mcp.example.com/a/sse?key=1"
	tests := []struct{ data, want, trouble string }{
		{"/messages?sessionId=7", "https://mcp.example.com/messages?sessionId=7", ""},
		{" \tmessages?s=7\n", "https://mcp.example.com/a/messages?s=7", ""},
		{"?s=a%2Fb&s=%20", "https://mcp.example.com/a/sse?s=a%2Fb&s=%20", ""},
		{"../m", "https://mcp.example.com/m", ""},
		{"https://mcp.example.com/m#f", "https://mcp.example.com/m", ""},
		{"https://MCP.example.com:443/m", "https://MCP.example.com:443/m", ""},
		{"//mcp.example.com/m", "https://mcp.example.com/m", ""},
		{"https://u:p@mcp.example.com/m", "https://mcp.example.com/m", ""},
		{"http://mcp.example.com/m", "", "another origin, http://mcp.example.com"},
		{"https://mcp.example.com:8443/m", "", "another origin, https://mcp.example.com:8443"},
		{"https://evil.example/m?token=1", "", "another origin, https://evil.example"},
		{"//evil.example/m", "", "another origin"},
		{"https://mcp.example.com.evil.example/", "", "another origin"},
		{"javascript:alert(1)", "", "another origin"},
		{"https://mcp.example.com\n.evil/", "", "malformed"},
		{"http://[::1", "", "malformed"},
		{"%zz", "", "malformed"},
		{"/" + strings.Repeat("m", maxEndpoint-1), "https://mcp.example.com/" + strings.Repeat("m", maxEndpoint-1), ""},
		{"/" + strings.Repeat("m", maxEndpoint), "", "malformed"},
	}
	u, err := url.Parse(stream)
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range tests {
		got, err := endpoint(u, test.data)
		var e *exchangeError
		switch {
		case test.trouble == "" && (err != nil || got.String() != test.want):
			t.Errorf("%q gives %v, %v; want %s", test.data, got, err, test.want)
		case test.trouble != "" && (!errors.As(err, &e) || e.fate != final || !strings.Contains(err.Error(), test.trouble)):
			t.Errorf("%q gives %v, %v", test.data, got, err)
		case err != nil && strings.Contains(err.Error(), "token"):
			t.Errorf("the query is in the error: %v", err)
		}
	}
}

// serveSSE plays a server of 2024-11-05: get writes the stream, and post answers.
func serveSSE(get, post http.HandlerFunc) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /sse", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		get(w, r)
	})
	if post != nil {
		mux.HandleFunc("POST /m", post)
	}
	return mux
}

func say(w http.ResponseWriter, text string) {
	io.WriteString(w, text)
	w.(http.Flusher).Flush()
}

// heard is a receive that keeps what it gets.
func heard(into *[]string) receive {
	return func(m message) error {
		if m.raw == nil {
			return nil
		}
		*into = append(*into, string(m.raw))
		return nil
	}
}

func began() *progress { return &progress{start: time.Now()} }

func testMessage(t testing.TB, line string, safe bool) message {
	t.Helper()
	m, err := scan([]byte(line))
	if err != nil {
		t.Fatal(err)
	}
	m.safe = safe
	return m
}

const (
	testCall   = `{"jsonrpc":"2.0","id":1,"method":"tools/call"}`
	testAnswer = `{"jsonrpc":"2.0","id":1,"result":{}}`
)

func TestSSEAnswerBeforePostReturns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newMemNet()
		posted, answered := make(chan string), make(chan struct{})
		memServe(t, n, "mcp.test:80", serveSSE(func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("Accept") != eventStream || len(r.Header["Mcp-Session-Id"]) > 0 {
				t.Errorf("GET with %v", r.Header)
			}
			say(w, ": hello\n\nevent: endpoint\ndata: /m?s=1\n\nevent: endpoint\ndata: https://evil.example/\n\n")
			say(w, "data: "+strings.Replace(testAnswer, "1", <-posted, 1)+"\n\n")
			<-answered
		}, func(w http.ResponseWriter, r *http.Request) {
			body, _ := io.ReadAll(r.Body)
			if r.URL.RawQuery != "s=1" || string(body) != testCall || r.Header.Get("Content-Type") != jsonType {
				t.Errorf("POST ?%s of %s with %v", r.URL.RawQuery, body, r.Header)
			}
			posted <- "1"
			<-answered
			w.WriteHeader(http.StatusAccepted)
			io.WriteString(w, "Accepted")
		}))
		s := newSSE(n.wire(t, "http://mcp.test/sse"))
		opened, ended := make(chan struct{}), make(chan error)
		go func() {
			ended <- s.listen(t.Context(), "", began(), func() { close(opened) }, func(m message) error {
				if m.raw == nil {
					return nil
				}
				if string(m.raw) != testAnswer {
					t.Errorf("got %s", m.raw)
				}
				close(answered)
				return nil
			})
		}()
		<-opened
		time.Sleep(2 * endpointWait) // the limit for the endpoint is over once it has come
		p := began()
		if err := s.post(t.Context(), testMessage(t, testCall, false), p, nil); err != nil {
			t.Error(err)
		}
		if !p.headers.Load() || p.reused.Load() {
			t.Errorf("headers %v, reused %v", p.headers.Load(), p.reused.Load())
		}
		var e *exchangeError
		if err := <-ended; !errors.As(err, &e) || e.fate != gone {
			t.Errorf("the end of the stream: %v", err)
		}
	})
}

func TestSSEListenFails(t *testing.T) {
	tests := []struct {
		name  string
		serve http.HandlerFunc
		want  fate
		text  string
		after time.Duration
	}{
		{"no endpoint", func(w http.ResponseWriter, r *http.Request) { say(w, ": x\n\n"); <-r.Context().Done() }, unsent, "no endpoint event within 10s", endpointWait},
		{"no headers", func(w http.ResponseWriter, r *http.Request) { <-r.Context().Done() }, unsent, "no endpoint event within 10s", endpointWait},
		{"another origin", func(w http.ResponseWriter, r *http.Request) {
			say(w, "event: endpoint\ndata: https://evil.example/m\n\n")
			<-r.Context().Done()
		}, final, "another origin, https://evil.example", 0},
		{"ends before the endpoint", func(w http.ResponseWriter, r *http.Request) {}, gone, "reading the answer", 0},
		{"breaks before the endpoint", func(w http.ResponseWriter, r *http.Request) { say(w, ":"); panic(http.ErrAbortHandler) }, gone, "reading the answer", 0},
		{"HTML", func(w http.ResponseWriter, r *http.Request) { w.Header().Set("Content-Type", "text/html") }, final, `"text/html"`, 0},
		{"404", func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(404) }, final, "404", 0},
		{"503", func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(503) }, unknown, "503", 0},
		{"429", func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(429) }, refused, "429", 0},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := newMemNet()
				memServe(t, n, "mcp.test:80", serveSSE(test.serve, nil))
				start := time.Now()
				err := newSSE(n.wire(t, "http://mcp.test/sse")).listen(t.Context(), "", began(), func() { t.Error("opened") }, heard(new([]string)))
				var e *exchangeError
				if !errors.As(err, &e) || e.fate != test.want || !strings.Contains(err.Error(), test.text) || time.Since(start) != test.after {
					t.Errorf("%v (%+v) after %v", err, e, time.Since(start))
				}
			})
		})
	}
}

func TestSSEPostStatuses(t *testing.T) {
	tests := []struct {
		status  int
		body    string
		header  string
		want    fate
		success bool
	}{
		{200, "", "", 0, true},
		{200, "Accepted", "", 0, true},
		{202, "Accepted", "", 0, true},
		{204, "", "", 0, true},
		{404, "Could not find session", "", gone, false},
		{410, "", "", gone, false},
		{400, "No valid session ID provided", "", gone, false},
		{400, "Bad Request", "", final, false},
		{401, "", "", refused, false},
		{403, "", "", final, false},
		{429, "", "", refused, false},
		{500, "", "", unknown, false},
		{502, "", "", unknown, false},
		{503, "", "", unknown, false},
		{503, "", "3", refused, false},
	}
	for _, test := range tests {
		t.Run(fmt.Sprint(test.status, test.body, test.header), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := newMemNet()
				memServe(t, n, "mcp.test:80", serveSSE(func(w http.ResponseWriter, r *http.Request) {
					say(w, "event: endpoint\ndata: m\n\n")
					<-r.Context().Done()
				}, func(w http.ResponseWriter, r *http.Request) {
					if test.header != "" {
						w.Header().Set("Retry-After", test.header)
					}
					w.WriteHeader(test.status)
					io.WriteString(w, test.body)
				}))
				s := newSSE(n.wire(t, "http://mcp.test/sse"))
				ctx, cancel := context.WithCancel(t.Context())
				opened, ended := make(chan struct{}), make(chan error)
				go func() { ended <- s.listen(ctx, "", began(), func() { close(opened) }, heard(new([]string))) }()
				<-opened
				err := s.post(t.Context(), testMessage(t, testCall, false), began(), nil)
				var e *exchangeError
				errors.As(err, &e)
				if test.success != (err == nil) || err != nil && (e.fate != test.want || e.status != test.status) {
					t.Errorf("%v (%+v)", err, e)
				}
				if test.header != "" && e.wait != 3*time.Second {
					t.Errorf("to wait: %v", e.wait)
				}
				cancel()
				if err := <-ended; err != context.Canceled {
					t.Errorf("cancelled: %v", err)
				}
			})
		})
	}
}

func BenchmarkEventReader(b *testing.B) {
	for _, bench := range []struct {
		name  string
		event string
	}{
		{"tiny", "event: message\nid: 17\ndata: " + testAnswer + "\n\n"},
		{"64KiB", "data: " + strings.Repeat("x", 64<<10) + "\n\n"},
		{"16MiB", "data: " + strings.Repeat("x", 16<<20) + "\n\n"},
		{"pretty", strings.Repeat("data:   \"a\": 1,\n", 4096) + "\n"},
	} {
		b.Run(bench.name, func(b *testing.B) {
			mem := newBudget(1<<30, 64<<20)
			r := newEventReader(&repeating{text: bench.event}, 64<<20, mem, "")
			b.ReportAllocs()
			b.SetBytes(int64(len(bench.event)))
			for b.Loop() {
				e, err := r.next(b.Context())
				if err != nil {
					b.Fatal(err)
				}
				mem.free(e.charge)
			}
		})
	}
}

// repeating repeats a text.
type repeating struct {
	text string
	at   int
}

func (e *repeating) Read(p []byte) (int, error) {
	n := 0
	for n < len(p) {
		k := copy(p[n:], e.text[e.at:])
		n += k
		e.at = (e.at + k) % len(e.text)
	}
	return n, nil
}
