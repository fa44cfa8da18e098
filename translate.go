package main

// translate.go lets a client of the initialize era (up to 2025-11-25) work on a server of 2026-07-28. It stands
// at the client's edge of the loop, which below it runs in the server's era. It is pure: no I/O, no time, no
// goroutine; what it holds is bounded.

// A translator turns one client's messages into the server's era and back. The owner of the loop calls it; it
// is not safe for concurrent use.
//
// Both ways it returns up, messages that go to the server as if the client had written them (its own requests
// have ids of its own), and down, messages that go to the client, each in order. Every response to a
// request that it handed up comes back through fromServer, an error that the loop made itself too; a request
// that it cancelled upwards with notifications/cancelled needs none.
//
// Charges: of the messages returned at most one, which may share raw bytes with the one handed in, carries
// that one's charge; the caller frees the charge of a message of which none does. All others have none.
type translator struct{}

// newTranslator returns a translator whose own ids are strings that begin with prefix, which must be random
// and not the beginning of anybody else's ids.
func newTranslator(prefix string) *translator { return &translator{} }

// fromClient takes a message that the client wrote. The client's initialize goes up as server/discover, whose
// answer comes down as its result.
func (t *translator) fromClient(m message) (up, down []message) { return []message{m}, nil }

// fromServer takes a message that the server sent, or a response that the loop made in its place.
func (t *translator) fromServer(m message) (up, down []message) { return nil, []message{m} }

// lost is to be called when the server answers again after an outage: the subscriptions are asked for anew
// and the client is told what may have changed meanwhile. What was in flight is the loop's business.
func (t *translator) lost() (up, down []message) { return nil, nil }
