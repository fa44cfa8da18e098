package main

// keeper.go does what has to happen beside the loop: it writes the status file and the remembered handshake, and
// keeps the token of an idle line fresh. It is one goroutine.

import (
	"context"
	"time"
)

// A keeper writes what others may know of this bridge, and refreshes the token of an idle one: all that has
// to happen beside the loop.
type keeper struct {
	auth   *authorizer
	name   string // of the file with the remembered handshake
	server string
	last   chan snapshot // the newest only
}

func newKeeper(auth *authorizer, server string) *keeper {
	return &keeper{auth, auth.file("handshake.json"), server, make(chan snapshot, 1)}
}

func (k *keeper) load() *handshake {
	h := new(handshake)
	if k.auth.store.readJSON(k.name, h) != nil || h.ProtocolVersion == "" || newResult("0", h.result()).raw == nil { // JSON by laxer rules than ours
		return nil
	}
	return h
}

// remember is the loop's; it never blocks.
func (k *keeper) remember(s snapshot) {
	select {
	case <-k.last:
	default:
	}
	k.last <- s
}

// run ends, and removes the status file, with ctx.
func (k *keeper) run(ctx context.Context) {
	// States follow each other faster than anybody reads them, and nothing is to hold up the first call.
	const rest = 100 * time.Millisecond
	if pause(ctx, rest) != nil {
		return
	}
	status := thisBridge(k.server)
	defer k.auth.store.remove(status.file())
	var known *handshake
	for more := true; more; more = pause(ctx, rest) == nil {
		wake := time.Hour
		if at := k.auth.refreshAt(); !at.IsZero() {
			wake = max(time.Second, time.Until(at))
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(wake):
			if _, err := k.auth.token(ctx); err != nil {
				k.auth.log.Debug("refreshing the token of an idle line", "err", err)
			}
		case s := <-k.last:
			s.LastError = clean(s.LastError)
			status.snapshot = s
			k.write(status.file(), status)
			if s.handshake != nil && s.handshake != known {
				known = s.handshake
				k.write(k.name, known)
			}
		}
	}
}

func (k *keeper) write(file string, v any) {
	if err := k.auth.store.writeJSON(file, v); err != nil {
		k.auth.log.Debug("writing a file about this line", "err", err)
	}
}
