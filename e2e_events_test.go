package main

import (
	"bytes"
	"encoding/json"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// TestE2EEvents compares our reader of event streams with the npm package eventsource-parser, on what the fuzzer has
// kept and on streams that are put together at random.
func TestE2EEvents(t *testing.T) {
	needNode(t)
	var streams [][]byte
	corpus, err := filepath.Glob("testdata/fuzz/FuzzEventReader/*")
	if err != nil || len(corpus) < 20 {
		t.Fatalf("%d streams in the corpus, %v", len(corpus), err)
	}
	for _, name := range corpus {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		_, quoted, _ := strings.Cut(string(text), "[]byte(")
		quoted, _, _ = strings.Cut(quoted, ")\n")
		stream, err := strconv.Unquote(quoted)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		streams = append(streams, []byte(stream))
	}
	pieces := []string{"data", "data:", "data: ", "event: ", "event:", "id: ", "id", "retry: ", "retry:", ":", ": hello", " ", "\n", "\n", "\n", "\n\n", "\r", "\r\n", "\r\n\r\n",
		"x", "{\"a\":1}", "1500", "0", "é", "😀", "\xff", "\xe2\x82", "\x00", "\ufeff", "endpoint", "Data: ", "\t",
		"data: a\n", "data: b\r\n", "data\n", "data:c\r", "event: ping\n", "id: 7\n", "id: 8\r\n", "data: {}\n\n", "data: {}\r\n\r\n", "data: {}\r\r", "retry: 10\n"}
	rng := rand.New(rand.NewPCG(1, 2))
	for range 20000 {
		var b bytes.Buffer
		for range 1 + rng.IntN(30) {
			b.WriteString(pieces[rng.IntN(len(pieces))])
		}
		streams = append(streams, b.Bytes())
	}

	in, out := filepath.Join(t.TempDir(), "streams"), filepath.Join(t.TempDir(), "events")
	text, err := json.Marshal(streams)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(in, text, 0o600); err != nil {
		t.Fatal(err)
	}
	runDriver(t, "events.mjs", in, out)
	if text, err = os.ReadFile(out); err != nil {
		t.Fatal(err)
	}
	type theirs struct {
		Events []struct {
			Name, Data string
			ID         *string // only where the block itself has one
		}
		Retry float64 // milliseconds
	}
	var all []theirs
	if err := json.Unmarshal(text, &all); err != nil || len(all) != len(streams) {
		t.Fatalf("%d answers, %v", len(all), err)
	}
	events := 0
	for i, stream := range streams {
		if len(stream) > maxField { // longer ids and names are not kept whole
			continue
		}
		got, _ := readStream(t, bytes.NewReader(stream), 1<<20)
		want := seenStream{ID: got.ID, Retry: time.Duration(min(all[i].Retry, float64(maxWait.Milliseconds()))) * time.Millisecond}
		for n, e := range all[i].Events {
			id := ""
			if e.ID != nil {
				id = *e.ID
			} else if n < len(got.Events) {
				id = got.Events[n].ID
			}
			want.Events = append(want.Events, seenEvent{e.Name, e.Data, id})
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("%q: %s", stream, d)
		}
		events += len(got.Events)
	}
	if events < len(streams)/2 {
		t.Errorf("only %d events in %d streams", events, len(streams))
	}
}
