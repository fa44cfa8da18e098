package main

// stateless.go speaks Streamable HTTP of 2026-07-28: every request is a POST of its own whose headers mirror
// the body, nothing is resumed, and closing a response is its cancellation. There is no session: what is
// remembered is only which arguments of a tool this server wants mirrored (x-mcp-header).
//
// It opens no connection of its own. It repeats an exchange in two cases only, where the server has proved
// with 400 that it did not act (MCP 2026-07-28 streamable-http, Error handling): -32020 to a tools/call after
// the tools have been listed again, and -32022 with the version that both sides know; once each.

import (
	"context"
	"errors"
)

const modernVersion = "2026-07-28"

// newStateless returns a transport for a server of 2026-07-28.
//
// post takes the protocol version from the message's own _meta, and the names and arguments to mirror from its
// params. A notification is posted like a request (the loop never posts notifications/cancelled or a
// response: the era has none; ending the exchange cancels it). A 4xx with a JSON-RPC body, 404 with -32601
// among them, is an *exchangeError with that body like any other status; a stream that ends before the
// response is unknown. Tools whose x-mcp-header is against the rules are taken out of every tools/list
// result that passes, with a warning.
//
// listen always fails with final: subscriptions/listen is an ordinary request whose stream stays open. hangup
// has nothing to end.
func newStateless(w *wire) transport { return &stateless{wire: w} }

type stateless struct{ *wire }

func (s *stateless) post(ctx context.Context, m message, p *progress, recv receive) error {
	return errors.New("not written yet")
}

func (s *stateless) listen(context.Context, string, *progress, func(), receive) error {
	return &exchangeError{fate: final, err: errors.New("opening a stream of the server's own: a server of " + modernVersion + " has none")}
}

func (s *stateless) hangup(context.Context) error { return nil }
