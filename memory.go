package main

// memory.go is what is held, in bytes: the budget, and the readers that charge it. Everything that is held is
// bounded and charged before it is held. It reads from what it is given, and opens nothing.

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"runtime"
	"sync"
	"unicode/utf8"
)

// A charge is what one message, complete or being assembled, holds of a budget.
type charge struct {
	bytes   int
	reserve bool
}

// A budget bounds, in bytes, what is held, in flight and being assembled.
//
// Urgent charges are the server's. They stop at three quarters of the limit, so that a flood of theirs leaves
// the client room to speak; but one at a time may go over the limit, into a reserve of one message of
// maximum size, so that something can always move. That is all that is ever held.
type budget struct {
	limit int

	// The readers of stdin and of every response charge from goroutines of their own, for bytes that the
	// loop does not know yet: asking the loop would cost two wake-ups a message, and stop where the loop
	// itself is held up. Only counting is done under the lock.
	mu       sync.Mutex
	used     int
	reserved bool      // a charge has the reserve
	freed    sync.Cond // whenever there may be more room

	buffers sync.Pool // of *[pieceSize]byte: fresh pages cost more than all that is done with their bytes
}

func newBudget(limit, maxMessage int) *budget {
	b := &budget{limit: max(limit, maxMessage)}
	b.freed.L = &b.mu
	return b
}

// grow adds n bytes to c, which stays within one message of maximum size, waiting until they fit. Its only
// error is the context's.
func (b *budget) grow(ctx context.Context, c *charge, n int, urgent bool) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	limit := b.limit
	if urgent {
		limit -= limit / 4
	}
	for waited := false; b.used+n > limit && !c.reserve; waited = true {
		switch {
		case urgent && !b.reserved:
			b.reserved, c.reserve = true, true
			continue
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case !waited:
			defer context.AfterFunc(ctx, func() { b.free(charge{}) })() // which wakes us
		}
		b.freed.Wait()
	}
	b.used += n
	c.bytes += n
	return nil
}

// free returns what c holds. It is called once per charge.
func (b *budget) free(c charge) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.used -= c.bytes
	b.reserved = b.reserved && !c.reserve
	b.freed.Broadcast()
}

var errTooLarge = errors.New("message larger than the limit")

const (
	readPiece = 16 << 10  // bytes of a body of unknown size that are read at once
	linePiece = 128 << 10 // of a line
	small     = 256 << 10 // of a message that is in one part
	pieceSize = 256 << 10 // in one piece of a larger one
	headroom  = 1 << 10   // at the beginning of each piece, for the end of what is before it
	large     = 4 << 20   // of a message that takes the place of the one before when it is joined
)

// A piece is a part of a large message, in a buffer that is used again.
type piece struct {
	buffer   *[pieceSize]byte
	from, to int
}

func (p piece) bytes() []byte { return p.buffer[p.from:p.to] }

// join makes one text, of size bytes, of parts.
func join(size int, head []byte, pieces []piece) []byte {
	if size >= large { // the one before is garbage by now, and its pages are at hand
		runtime.GC()
	}
	b := append(make([]byte, 0, size), head...)
	for _, p := range pieces {
		b = append(b, p.bytes()...)
	}
	return b
}

// recycle takes buffers back. Nobody may have a part of them any more.
func (b *budget) recycle(pieces []piece) {
	for _, p := range pieces {
		b.buffers.Put(p.buffer)
	}
}

// A pile is a message being put together of parts. A large one grows by pieces.
type pile struct {
	mem    *budget
	max    int // bytes in one message
	urgent bool

	head   []byte // nil: nothing yet
	pieces []piece
	size   int    // bytes that were added
	charge charge // of head, and of whole buffers: the last takes the room of one too

	// Of a body whose length is known.
	src     io.Reader
	left    int   // bytes to come
	stepped int   // pieces that next has returned
	err     error // why the rest does not come
}

// add appends a copy of b. Its errors are errTooLarge and the context's; the pile stays as it was.
func (p *pile) add(ctx context.Context, b []byte) error {
	size, n, first := p.size+len(b), len(b), len(p.head) == 0
	if size > p.max {
		return errTooLarge
	}
	if !first && size > small {
		buffers := (size - len(p.head) + pieceSize - headroom - 1) / (pieceSize - headroom)
		n = min(len(p.head)+buffers*pieceSize, p.max) - p.charge.bytes
	}
	if err := p.mem.grow(ctx, &p.charge, n, p.urgent); err != nil {
		return err
	}
	if p.size = size; first || size <= small {
		p.head = append(p.head, b...)
		return nil
	}
	for len(b) > 0 {
		n := copy(p.room(), b)
		p.pieces[len(p.pieces)-1].to += n
		b = b[n:]
	}
	return nil
}

// room is where the next bytes go, in the last piece.
func (p *pile) room() []byte {
	i := len(p.pieces) - 1
	if i < 0 || p.pieces[i].to == pieceSize {
		buffer, ok := p.mem.buffers.Get().(*[pieceSize]byte)
		if !ok {
			buffer = new([pieceSize]byte)
		}
		p.pieces = append(p.pieces, piece{buffer, headroom, headroom})
		i++
	}
	return p.pieces[i].buffer[p.pieces[i].to:]
}

// addValid is add for text that is not UTF-8: what takes the place of its invalid parts is longer, and is charged and
// bounded while it grows.
func (p *pile) addValid(ctx context.Context, b []byte) error {
	for len(b) > 0 {
		n := min(len(b), readPiece)
		for end := min(len(b), n+utf8.UTFMax-1); n < end && !utf8.RuneStart(b[n]); n++ { // a character stays whole
		}
		if err := p.add(ctx, validUTF8(b[:n])); err != nil {
			return err
		}
		b = b[n:]
	}
	return nil
}

// take returns the message in one part, and what it is charged. The pile is empty again.
func (p *pile) take() (b []byte, c charge) {
	b, c = p.head, p.charge
	if len(p.pieces) > 0 {
		b = join(p.size, p.head, p.pieces)
		p.mem.recycle(p.pieces)
		c.bytes = len(b)
		p.mem.free(charge{bytes: p.charge.bytes - len(b)})
	}
	p.empty()
	return b, c
}

// drop empties the pile.
func (p *pile) drop() {
	p.mem.free(p.charge)
	p.empty()
}

func (p *pile) empty() { *p = pile{mem: p.mem, max: p.max, urgent: p.urgent} }

// A lineReader reads lines that end with LF, CRLF, or the stream. It belongs to one goroutine.
type lineReader struct {
	r    *bufio.Reader
	pile // the line; max is without its LF
}

func newLineReader(r io.Reader, max int, mem *budget) *lineReader {
	return &lineReader{bufio.NewReaderSize(r, linePiece), pile{mem: mem, max: max}}
}

// more says that another whole line has already been read, and that next need not wait for room.
func (l *lineReader) more() bool {
	b, _ := l.r.Peek(l.r.Buffered())
	n := bytes.IndexByte(b, '\n')
	l.mem.mu.Lock()
	defer l.mem.mu.Unlock()
	return n >= 0 && l.mem.used+n <= l.mem.limit
}

// next returns the next line that is not blank, without its end, and what it has been charged. For a line
// of more than max bytes it returns errTooLarge and the first bytes, from which scan may tell the id, once
// the rest has been read and dropped; then it can be called again. Other errors are the context's and the
// reader's, io.EOF at the end.
func (l *lineReader) next(ctx context.Context) (line []byte, c charge, err error) {
	for {
		part, end := l.r.ReadSlice('\n')
		more := end == bufio.ErrBufferFull
		if end != nil && !more && (end != io.EOF || l.size+len(part) == 0) {
			l.drop()
			return nil, c, end
		}
		part = bytes.TrimSuffix(part, []byte("\n"))
		if err = l.add(ctx, part); err == errTooLarge {
			line = append(l.head, part...)
			for more {
				_, end = l.r.ReadSlice('\n')
				more = end == bufio.ErrBufferFull
			}
		}
		if err != nil {
			l.drop()
			return line, c, err
		}
		if more {
			continue
		}
		line, c := l.take()
		if len(bytes.Trim(line, " \t\r")) > 0 {
			return bytes.TrimSuffix(line, []byte("\r")), c, nil
		}
		l.mem.free(c)
	}
}

// lineEnd is the index of the first CR or LF in b, or -1. It looks at a little at a time: lines that
// end with CR alone must not cost a search for LF through everything that follows.
func lineEnd(b []byte) int {
	const window = 1 << 10
	for at := 0; at < len(b); at += window {
		part := b[at:min(at+window, len(b))]
		lf := bytes.IndexByte(part, '\n')
		if lf >= 0 {
			part = part[:lf]
		}
		if cr := bytes.IndexByte(part, '\r'); cr >= 0 {
			return at + cr
		}
		if lf >= 0 {
			return at + lf
		}
	}
	return -1
}

// validUTF8 returns b with every invalid part replaced by U+FFFD, as the WHATWG decoder does it: one for
// each longest beginning of a character (bytes.ToValidUTF8 would make one of several).
func validUTF8(b []byte) []byte {
	if utf8.Valid(b) {
		return b
	}
	var out []byte
	for len(b) > 0 {
		c, n := utf8.DecodeRune(b)
		out = utf8.AppendRune(out, c)
		for c == utf8.RuneError && n < len(b) && !utf8.FullRune(b[:n+1]) {
			n++
		}
		b = b[n:]
	}
	return out
}

// read takes one message body of size bytes, -1 if that is unknown. Of a large one it takes the beginning, and leaves
// the rest to more. More than max is errTooLarge; other errors are the context's and the reader's.
func (p *pile) read(ctx context.Context, r io.Reader, size int64) error {
	switch {
	case size > int64(p.max):
		return errTooLarge
	case size < 0:
		return p.readRest(ctx, r)
	}
	p.src, p.left, p.size = r, int(size), int(size)
	p.head = make([]byte, min(p.left, small))
	return p.fill(ctx, p.head, len(p.head))
}

// fill reads all of b, which is charged n.
func (p *pile) fill(ctx context.Context, b []byte, n int) error {
	if err := p.mem.grow(ctx, &p.charge, n, p.urgent); err != nil {
		return err
	}
	p.left -= len(b)
	_, err := io.ReadFull(p.src, b)
	return err
}

// more reads the next piece of what is left, and says whether there was one.
func (p *pile) more(ctx context.Context) bool {
	if p.left == 0 || p.err != nil {
		return false
	}
	b := p.room()
	b = b[:min(len(b), p.left)]
	p.err = p.fill(ctx, b, min(pieceSize, p.max-p.charge.bytes))
	p.pieces[len(p.pieces)-1].to += len(b)
	return p.err == nil
}

// next goes through the pieces: it takes left, the end of the one before, over to the next, and returns that; nil if
// there is none. left is not longer than headroom.
func (p *pile) next(ctx context.Context, left []byte) []byte {
	if p.stepped == len(p.pieces) && !p.more(ctx) {
		return nil
	}
	if p.stepped == 0 {
		p.head = p.head[:len(p.head)-len(left)]
	} else {
		p.pieces[p.stepped-1].to -= len(left)
	}
	piece := &p.pieces[p.stepped]
	piece.from -= copy(piece.buffer[piece.from-len(left):], left)
	p.stepped++
	return piece.bytes()
}

// readRest adds all that r has.
func (p *pile) readRest(ctx context.Context, r io.Reader) error {
	for buf := make([]byte, readPiece); ; {
		n, err := r.Read(buf)
		if full := p.add(ctx, buf[:n]); full != nil || err == io.EOF {
			return full
		}
		if err != nil {
			return err
		}
	}
}
