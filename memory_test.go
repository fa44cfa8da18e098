package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"
)

// chunks reads s in pieces of the given sizes, over and over.
type chunks struct {
	s     string
	sizes []int
	n     int
}

func (c *chunks) Read(b []byte) (int, error) {
	if c.s == "" {
		return 0, io.EOF
	}
	n := min(len(b), len(c.s), max(1, c.sizes[c.n%len(c.sizes)]))
	c.n++
	copy(b, c.s[:n])
	c.s = c.s[n:]
	return n, nil
}

// lines reads all of r, with what each line was charged.
func lines(t testing.TB, r io.Reader, max int, mem *budget) (got []string) {
	t.Helper()
	l := newLineReader(r, max, mem)
	for {
		line, c, err := l.next(t.Context())
		switch {
		case err == io.EOF:
			if mem.used != 0 {
				t.Errorf("%d bytes are still charged", mem.used)
			}
			return got
		case err == errTooLarge && c == charge{}:
			got = append(got, fmt.Sprintf("too large: %.3s", line))
		case err != nil:
			t.Fatal(err)
		case mem.used != c.bytes || c.bytes < len(line) || c.bytes > len(line)+1:
			t.Errorf("a line of %d bytes was charged %d, %d in all", len(line), c.bytes, mem.used)
			fallthrough
		default:
			mem.free(c)
			got = append(got, string(line))
		}
	}
}

func TestLineReader(t *testing.T) {
	long := func(c string, n int) string { return strings.Repeat(c, n) }
	const max = 3 << 20
	for _, test := range []struct {
		name, in string
		want     []string
	}{
		{"lines", "a\nb\n", []string{"a", "b"}},
		{"CRLF", "a\r\nb\r\n", []string{"a", "b"}},
		{"blank", "\n\r\n \t\n a \n\n", []string{" a "}},
		{"a last line without an end", "a\nb", []string{"a", "b"}},
		{"a last line with half an end", "a\nb\r", []string{"a", "b"}},
		{"blank at the end", "a\n ", []string{"a"}},
		{"nothing", "", nil},
		{"one buffer", long("x", linePiece-1) + "\n" + long("y", linePiece) + "\n" + long("z", linePiece+1) + "\nw\n", []string{long("x", linePiece-1), long("y", linePiece), long("z", linePiece+1), "w"}},
		{"an end across buffers", long("x", linePiece) + "\r\n" + long("y", linePiece-1) + "\r\nz", []string{long("x", linePiece), long("y", linePiece-1), "z"}},
		{"at the limit", "a\n" + long("x", max) + "\nb\n" + long("y", max), []string{"a", long("x", max), "b", long("y", max)}},
		{"one past the limit", "a\n" + long("x", max+1) + "\nb\n" + long("y", max+1), []string{"a", "too large: xxx", "b", "too large: yyy"}},
		{"far past the limit", long("x", 3*max) + "\r\nb\n", []string{"too large: xxx", "b"}},
	} {
		for _, sizes := range [][]int{{1 << 30}, {64 << 10}, {4000, 1, 70000}} {
			got := lines(t, &chunks{s: test.in, sizes: sizes}, max, newBudget(max, max))
			if !cmp.Equal(got, test.want) {
				t.Errorf("%s, read by %v: %.100q", test.name, sizes, got)
			}
		}
	}
	// The head that comes with errTooLarge is enough to tell the id.
	l := newLineReader(strings.NewReader(`{"jsonrpc":"2.0","id":7,"method":"m","params":{"a":"`+long("x", 1000)), 100, newBudget(100, 100))
	head, _, err := l.next(t.Context())
	_, bad := scan(head)
	var e *badMessage
	if err != errTooLarge || !errors.As(bad, &e) || e.id != "7" {
		t.Errorf("%v, %+v", err, bad)
	}
}

func TestLineReaderMore(t *testing.T) {
	l := newLineReader(&chunks{s: "a\nb\nc\nd\n", sizes: []int{5, 1}}, 100, newBudget(100, 100))
	for _, want := range []bool{true, false, false, false} {
		line, c, err := l.next(t.Context())
		l.mem.free(c)
		if err != nil || l.more() != want {
			t.Errorf("%s: more is %v, %v", line, l.more(), err)
		}
	}
}

func TestLineReaderFails(t *testing.T) {
	mem := newBudget(1<<20, 1<<20)
	l := newLineReader(io.MultiReader(strings.NewReader("a\nhalf"), iotest.ErrReader(io.ErrClosedPipe)), 1<<20, mem)
	if line, c, err := l.next(t.Context()); string(line) != "a" || err != nil {
		t.Fatal(err)
	} else {
		mem.free(c)
	}
	for range 2 {
		if line, _, err := l.next(t.Context()); line != nil || err != io.ErrClosedPipe || mem.used != 0 {
			t.Error(line, err, mem.used)
		}
	}
	synctest.Test(t, func(t *testing.T) {
		mem := newBudget(1<<20, 1<<20)
		var others charge
		mem.grow(t.Context(), &others, 1<<20-100_000, false)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() {
			_, c, err := newLineReader(strings.NewReader(strings.Repeat("x", 500_000)), 1<<20, mem).next(ctx)
			if c != (charge{}) {
				t.Error(c)
			}
			done <- err
		}()
		synctest.Wait()
		cancel()
		if err := <-done; err != context.Canceled || mem.used != others.bytes {
			t.Error(err, mem.used)
		}
	})
}

// readAll reads a body as answerJSON does, where its pieces are joined.
func readAll(ctx context.Context, r io.Reader, size int64, max int, mem *budget) ([]byte, charge, error) {
	p := pile{mem: mem, max: max, urgent: true}
	p.err = p.read(ctx, r, size)
	for p.more(ctx) {
	}
	if p.err != nil {
		err := p.err
		p.drop()
		return nil, charge{}, err
	}
	body, c := p.take()
	return body, c, nil
}

func TestReadAll(t *testing.T) {
	const max = 5 << 20
	for _, n := range []int{0, 1, readPiece - 1, readPiece, readPiece + 1, 5 * readPiece, small - 1, small, small + 1, small + pieceSize - headroom, small + pieceSize, max - 1, max} {
		body := bytes.Repeat([]byte("0123456"), n/7+1)[:n]
		for _, size := range []int64{-1, int64(n)} {
			mem := newBudget(max, max)
			got, c, err := readAll(t.Context(), &chunks{s: string(body), sizes: []int{1 << 20, 100}}, size, max, mem)
			if err != nil || !bytes.Equal(got, body) || c.bytes != n || mem.used != n {
				t.Fatalf("%d bytes announced as %d: %d, %v, charged %v, %d in all", n, size, len(got), err, c, mem.used)
			}
			if size == int64(n) && n > 0 && cap(got) > n+n/8+64 {
				t.Errorf("%d bytes stand in %d", n, cap(got))
			}
			mem.free(c)
			if mem.used != 0 || mem.reserved {
				t.Errorf("%+v", mem)
			}
		}
	}
	for _, test := range []struct {
		name string
		r    io.Reader
		size int64
		want error
	}{
		{"announced one past the limit", iotest.ErrReader(errors.New("read although it was announced as too large")), max + 1, errTooLarge},
		{"one past the limit", bytes.NewReader(make([]byte, max+1)), -1, errTooLarge},
		{"endless", endless{}, -1, errTooLarge},
		{"cut", io.MultiReader(strings.NewReader("abc"), iotest.ErrReader(io.ErrUnexpectedEOF)), 100, io.ErrUnexpectedEOF},
		{"cut late", io.MultiReader(bytes.NewReader(make([]byte, 2<<20)), iotest.ErrReader(io.ErrUnexpectedEOF)), 3 << 20, io.ErrUnexpectedEOF},
	} {
		mem := newBudget(max, max)
		if body, c, err := readAll(t.Context(), test.r, test.size, max, mem); err != test.want || body != nil || c != (charge{}) || mem.used != 0 || mem.reserved {
			t.Errorf("%s: %d bytes, %v, %v, %+v", test.name, len(body), c, err, mem)
		}
	}
}

// A byte more than fits into the head takes the room of a whole buffer, and a thousand streams that stop there must not
// hold three times what they are charged.
func TestPileChargesBuffers(t *testing.T) {
	const max = 1 << 20
	for n, want := range map[int]int{small: small, small + 1: small + pieceSize, small + pieceSize: small + 2*pieceSize, max: max} {
		for _, size := range []int64{-1, int64(n)} {
			p := pile{mem: newBudget(max, max), max: max, urgent: true}
			p.err = p.read(t.Context(), bytes.NewReader(make([]byte, n)), size)
			for p.more(t.Context()) {
			}
			if p.err != nil || p.charge.bytes != want || p.mem.used != want {
				t.Errorf("%d bytes announced as %d: %v, charged %d, want %d", n, size, p.err, p.charge.bytes, want)
			}
			if p.drop(); p.mem.used != 0 {
				t.Errorf("%d bytes stay charged", p.mem.used)
			}
		}
	}
}

type endless struct{}

func (endless) Read(b []byte) (int, error) { return len(b), nil }

// An attack: lengths that are announced and never sent must not hold the budget.
func TestReadAllBelievesWhatCame(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const max = 64 << 20
		mem := newBudget(4*max, max)
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		var pipes []*io.PipeWriter
		for range 20 {
			r, w := io.Pipe()
			pipes = append(pipes, w)
			wg.Go(func() {
				if _, _, err := readAll(ctx, r, max, max, mem); err == nil {
					t.Error("no error")
				}
			})
		}
		synctest.Wait()
		if mem.used > 20*small {
			t.Errorf("%d bytes are held for nothing", mem.used)
		}
		for _, w := range pipes {
			w.CloseWithError(io.ErrUnexpectedEOF)
		}
		wg.Wait()
		cancel()
		if mem.used != 0 {
			t.Error(mem.used)
		}
	})
}

func TestBudget(t *testing.T) {
	// try says whether a charge of n succeeds without waiting.
	try := func(t *testing.T, b *budget, c *charge, n int, urgent bool) bool {
		ctx, cancel := context.WithCancelCause(t.Context())
		impatient := errors.New("it would wait")
		cancel(impatient)
		// A context that has ended is looked at only when there is no room.
		err := b.grow(ctx, c, n, urgent)
		if err != nil && err != impatient {
			t.Fatal(err)
		}
		return err == nil
	}
	t.Run("limits", func(t *testing.T) {
		b := newBudget(1000, 100)
		var client, server, big, late charge
		if try(t, b, &client, 1001, false) || !try(t, b, &client, 1000, false) || try(t, b, &charge{}, 1, false) {
			t.Error("the client's limit")
		}
		// The reserve is there for one of the server's, which may grow in it.
		if !try(t, b, &server, 60, true) || !try(t, b, &server, 40, true) || !server.reserve || try(t, b, &late, 1, true) {
			t.Error("the reserve")
		}
		b.free(server)
		if !try(t, b, &late, 1, true) || !late.reserve {
			t.Error("the reserve was not given back")
		}
		b.free(late)
		b.free(client)
		// The server's stop at three quarters.
		if !try(t, b, &big, 750, true) || big.reserve || !try(t, b, &charge{}, 1, true) || try(t, b, &charge{}, 1, true) {
			t.Error("the server's limit")
		}
		if !try(t, b, &charge{}, 249, false) || try(t, b, &charge{}, 1, false) {
			t.Error("no room for the client")
		}
	})
	t.Run("at least one message", func(t *testing.T) {
		if b := newBudget(10, 100); !try(t, b, &charge{}, 100, false) {
			t.Error("a message of maximum size does not fit")
		}
	})
	t.Run("waiting", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			b := newBudget(100, 100)
			var first charge
			try(t, b, &first, 100, false)
			order := make(chan string, 10)
			var reserve charge
			try(t, b, &reserve, 50, true)
			var wg sync.WaitGroup
			for _, urgent := range []bool{false, true} {
				wg.Go(func() {
					var c charge
					if err := b.grow(t.Context(), &c, 70, urgent); err != nil {
						t.Error(err)
					}
					order <- fmt.Sprint(urgent, c.reserve)
					b.free(c)
				})
			}
			synctest.Wait()
			if len(order) != 0 {
				t.Error("nobody waited")
			}
			b.free(reserve)
			synctest.Wait()
			if len(order) != 1 || <-order != "true true" {
				t.Error("the server's did not get the reserve")
			}
			b.free(first)
			wg.Wait()
			if b.used != 0 || b.reserved {
				t.Errorf("%+v", b)
			}
		})
	})
}

// Many that need much get it one after the other, and the bound is never passed.
func TestBudgetCrowd(t *testing.T) {
	b := newBudget(1000, 400)
	var wg sync.WaitGroup
	for i := range 16 {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(1, uint64(i)))
			for range 300 {
				var c charge
				for size := 1 + r.IntN(400); size > 0; {
					n := min(size, 1+r.IntN(100))
					size -= n
					ctx, cancel := context.WithCancel(t.Context())
					if i%8 != 0 && r.IntN(10) == 0 {
						cancel()
					}
					err := b.grow(ctx, &c, n, i%8 != 0) // the others are stdin, which there is one of
					cancel()
					if err != nil {
						break
					}
					b.mu.Lock()
					if b.used > 1400 {
						t.Errorf("%d bytes are held", b.used)
					}
					b.mu.Unlock()
					if i%8 == 0 {
						b.free(c)
						c = charge{}
					}
				}
				b.free(c)
			}
		})
	}
	wg.Wait()
	if b.used != 0 || b.reserved {
		t.Errorf("%+v", b)
	}
}

func FuzzLineReader(f *testing.F) {
	f.Fuzz(func(t *testing.T, in string, sizes []byte, max uint16, stretch uint32) {
		if len(sizes) == 0 {
			return
		}
		// Long lines come of stretching one byte: the fuzzer would not find them.
		in = strings.Replace(in, "~", strings.Repeat("~", int(stretch%(3*linePiece))), 1)
		mem := newBudget(1<<20, 1<<20)
		limit := 1 + int(max)*8
		var steps []int
		for _, n := range sizes {
			steps = append(steps, int(n)*int(n)*2)
		}
		var want []string
		for _, line := range strings.Split(in, "\n") {
			blank := strings.Trim(line, " \t\r") == ""
			switch {
			case len(line) > limit:
				want = append(want, fmt.Sprintf("too large: %.3s", line))
			case !blank:
				want = append(want, strings.TrimSuffix(line, "\r"))
			case len(line) > 1000:
				return // so long a blank line may be returned, and is then refused as no JSON
			}
		}
		if got := lines(t, &chunks{s: in, sizes: steps}, limit, mem); !cmp.Equal(got, want) {
			t.Fatalf("%.200q by %v: %.200q, want %.200q", in, steps, got, want)
		}
	})
}

// again reads s over and over.
type again struct {
	s string
	i int
}

func (a *again) Read(b []byte) (n int, err error) {
	for n < len(b) && n < 64<<10 {
		k := copy(b[n:], a.s[a.i:])
		n += k
		a.i = (a.i + k) % len(a.s)
	}
	return n, nil
}

func BenchmarkLineReader(b *testing.B) {
	for name, line := range benchmarkLines() {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(line)) + 1)
			b.ReportAllocs()
			mem := newBudget(64<<20, 64<<20)
			l := newLineReader(&again{s: string(line) + "\n"}, 64<<20, mem)
			for b.Loop() {
				got, c, err := l.next(b.Context())
				if err != nil || len(got) != len(line) {
					b.Fatal(len(got), err)
				}
				mem.free(c)
			}
		})
	}
}

func BenchmarkReadAll(b *testing.B) {
	for name, line := range benchmarkLines() {
		for _, size := range []int{-1, len(line)} {
			b.Run(fmt.Sprintf("%s/%v", name, size > 0), func(b *testing.B) {
				b.SetBytes(int64(len(line)))
				b.ReportAllocs()
				mem := newBudget(64<<20, 64<<20)
				for b.Loop() {
					body, c, err := readAll(b.Context(), bytes.NewReader(line), int64(size), 64<<20, mem)
					if err != nil || len(body) != len(line) {
						b.Fatal(len(body), err)
					}
					mem.free(c)
				}
			})
		}
	}
}

// TestAddValid cuts text anywhere and gets what validUTF8 makes of the whole, and makes no more of it than is allowed.
func TestAddValid(t *testing.T) {
	for shift := range 8 {
		text := []byte(strings.Repeat("x", shift) + strings.Repeat("é€😀\xff\xe2\x82\xf0\x9f\x98\x80\x80\x80\xc3", 5000))
		mem := newBudget(1<<20, 1<<20)
		p := pile{mem: mem, max: 1 << 20, urgent: true}
		if err := p.addValid(t.Context(), text); err != nil {
			t.Fatal(err)
		}
		got, c := p.take()
		if want := validUTF8(text); !bytes.Equal(got, want) || c.bytes != len(want) {
			t.Errorf("after %d: %d bytes, %d charged, want %d", shift, len(got), c.bytes, len(want))
		}
	}
	const most = 8 << 20
	bad := bytes.Repeat([]byte{0xff}, most)
	p := pile{mem: newBudget(2*most, most), max: most, urgent: true}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	err := p.addValid(t.Context(), bad)
	runtime.ReadMemStats(&after)
	if made := after.TotalAlloc - before.TotalAlloc; err != errTooLarge || p.charge.bytes > most || p.charge.bytes < most-3*readPiece || made > 8*most {
		t.Errorf("%v: %d bytes charged, %d allocated", err, p.charge.bytes, made)
	}
}
