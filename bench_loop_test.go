package main

// bench_loop_test.go measures the loop alone: lines in and out through pipes in memory, and a transport that
// answers at once.

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"testing"
)

// A loopTransport answers a request at once; tools/call is preceded by some notifications.
type loopTransport struct{ news int }

func (l *loopTransport) post(ctx context.Context, m message, _ *progress, recv receive) error {
	if m.kind != request {
		return nil
	}
	if m.method == "tools/call" {
		for range l.news {
			if err := recv(newNotification("notifications/message", []byte(`{"level":"info","data":"x"}`))); err != nil {
				return err
			}
		}
	}
	return recv(newResult(m.id, []byte(`{"protocolVersion":"2025-06-18","capabilities":{},"serverInfo":{"name":"loop","version":"1"}}`)))
}

func (l *loopTransport) listen(ctx context.Context, _ string, _ *progress, _ func(), _ receive) error {
	<-ctx.Done()
	return context.Cause(ctx)
}

func (l *loopTransport) id() secret                   { return secret{} }
func (l *loopTransport) hangup(context.Context) error { return nil }

func BenchmarkLoop(b *testing.B) {
	for _, news := range []int{0, 1000} {
		b.Run(fmt.Sprintf("news=%d", news), func(b *testing.B) {
			o := testOptions()
			bridge := newBridge(o, outside{
				connect:  func(transportKind) transport { return &loopTransport{news} },
				remember: func(snapshot) {},
			}, slog.New(slog.DiscardHandler), newBudget(o.maxMemory, o.maxMessage))
			in, client := io.Pipe()
			answers, out := io.Pipe()
			over := make(chan bool)
			go func() { bridge.run(context.Background(), in, out); close(over) }()
			r := bufio.NewReader(answers)
			read := func(lines int) {
				for range lines {
					if _, err := r.ReadSlice('\n'); err != nil {
						b.Fatal(err)
					}
				}
			}
			io.WriteString(client, `{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":"2025-06-18","capabilities":{}}}`+"\n")
			read(1)
			io.WriteString(client, `{"jsonrpc":"2.0","method":"notifications/initialized"}`+"\n")
			line := []byte(`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"echo","arguments":{}}}` + "\n")
			b.ReportAllocs()
			for b.Loop() {
				client.Write(line)
				read(1 + news)
			}
			client.Close()
			go io.Copy(io.Discard, answers)
			<-over
		})
	}
}
