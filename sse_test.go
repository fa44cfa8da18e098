package main

import (
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"
)

// next is the next event, however many reads it takes.
func (r *eventReader) next(ctx context.Context) (streamEvent, error) {
	for {
		e, ok, err := r.buffered(ctx)
		if ok || err != nil {
			return e, err
		}
		if err := r.fill(); err != nil {
			return e, err
		}
	}
}

// An event as the tables write it.
type wantEvent struct{ Name, Data, ID string }

func readEvents(t testing.TB, src io.Reader, max int) (got []wantEvent, r *eventReader, err error) {
	t.Helper()
	r = newEventReader(src, max, newBudget(1<<30, max), "")
	for {
		e, err := r.next(t.Context())
		if err != nil {
			return got, r, err
		}
		got = append(got, wantEvent{e.name, string(e.data), string(r.lastID)})
	}
}

func TestEventReader(t *testing.T) {
	const msg = "message"
	tests := []struct {
		name, stream string
		want         []wantEvent
		lastID       string
	}{
		{"empty", "", nil, ""},
		{"one", "data: x\n\n", []wantEvent{{msg, "x", ""}}, ""},
		{"CR", "data: x\r\r", []wantEvent{{msg, "x", ""}}, ""},
		{"CRLF", "data: x\r\n\r\n", []wantEvent{{msg, "x", ""}}, ""},
		{"BOM", "\xef\xbb\xbfdata: x\n\n", []wantEvent{{msg, "x", ""}}, ""},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			for _, wrap := range []func(io.Reader) io.Reader{
				func(r io.Reader) io.Reader { return r }, iotest.OneByteReader, iotest.HalfReader, iotest.DataErrReader,
			} {
				got, r, err := readEvents(t, wrap(strings.NewReader(test.stream)), 1<<20)
				if !errors.Is(err, io.EOF) {
					t.Fatal(err)
				}
				if d := cmp.Diff(test.want, got); d != "" {
					t.Error(d)
				}
				if string(r.lastID) != test.lastID {
					t.Errorf("cursor %q, want %q", r.lastID, test.lastID)
				}
			}
		})
	}
}
