package main

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"strings"
	"testing"
	"testing/iotest"
	"unicode/utf8"
)

func FuzzScan(f *testing.F) {
	for _, s := range []string{`{"jsonrpc":"2.0","id":1,"method":"ping"}`, `{"jsonrpc":"2.0","id":"a\u0062","result":{"a":[1,-2.5e+7,true,false,null,"\"\\x\n"]}}`, `[1,2`, `{"a":"\u12g4"}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		valid := json.Valid(b)
		if got := skipText(b) >= 0; got != valid {
			t.Fatalf("%q: valid %v, want %v", b, got, valid)
		}
		m, err := scan(b)
		if err == nil && !(valid && utf8.Valid(b)) {
			t.Fatalf("%q accepted", b)
		}
		_ = m
	})
}

func TestSmoke(t *testing.T) {
	m, err := scan([]byte(` {"jsonrpc":"2.0","id":"x","method":"tools\/call","params":{"name":"n","arguments":{}}} `))
	if err != nil || m.id != `"x"` || m.method != "tools/call" || m.kind != request {
		t.Fatal(m, err)
	}
	if string(peek(m.raw, "params", "name")) != `"n"` {
		t.Fatal()
	}
	b, _ := io.ReadAll(m.withID("7").body())
	t.Logf("%s", b)
	mem := newBudget(1<<20, 1<<20)
	in := strings.Repeat("abc\r\n", 1000) + strings.Repeat("x", 300000) + "\n\n" + strings.Repeat("y", 600000) + "\n" + "last"
	l := newLineReader(iotest.OneByteReader(strings.NewReader(in)), 500000, mem)
	n := 0
	for {
		line, c, err := l.next(context.Background())
		if err == io.EOF {
			break
		}
		n++
		if err == errTooLarge {
			t.Log("large", len(line))
			continue
		}
		if n > 1000 {
			t.Log(len(line))
		}
		mem.free(c)
	}
	for _, size := range []int64{-1, 300000} {
		b, c, err := readAll(context.Background(), bytes.NewReader(make([]byte, 300000)), size, 300000, mem)
		t.Log(len(b), c, err)
		mem.free(c)
	}
	t.Log(n, mem.used)
	t.Logf("%s", errorReply("", -31001, "hm", &errorData{Reason: "x"}).raw)
}
