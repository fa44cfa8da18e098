package main

import (
	"context"
	"errors"
	"io"
)

type kind uint8

const (
	request kind = iota + 1
	notification
	response
)

// A message is one JSON-RPC message whose payload nobody has decoded.
type message struct {
	raw         []byte // the exact bytes of one JSON object, on one line; never written to again
	kind        kind
	id          string // the raw id token as it stands in raw; "" if none
	idAt, idEnd int    // where the id stands in raw
	method      string
	failed      bool   // a response that carries error, not result
	as          string // when not "", the id token that is written in place of id
	safe        bool   // set by the loop: may be sent again without proof that it was not
	charge      charge // what it holds of the memory budget
}

func scan(line []byte) (message, error) { return message{}, errors.New("stub") }

func peek(raw []byte, path ...string) []byte { return nil }

// withID returns m as it is written with another id token; raw is shared, not copied.
func (m message) withID(id string) message { m.as = id; return m }

// size is the number of bytes that body yields.
func (m message) size() int { return len(m.raw) }

// body reads the message as it goes over the wire, without a final newline.
func (m message) body() io.Reader { return nil }

// A charge is what one message, complete or being assembled, holds of a budget.
type charge struct {
	bytes   int
	reserve bool
}

// A budget bounds, in bytes, what is held, in flight and being assembled.
type budget struct{}

func newBudget(limit, maxMessage int) *budget { return &budget{} }

// grow adds n bytes to c, waiting until they fit. An urgent charge (one from the server) may use the
// reserve for one message of maximum size, so that something can always move.
func (b *budget) grow(ctx context.Context, c *charge, n int, urgent bool) error { return nil }

// free returns what c holds. It is safe to call once per charge.
func (b *budget) free(c charge) {}

var errTooLarge = errors.New("message larger than the limit")

// readAll reads one message body of at most max bytes, growing in pieces, charged to mem as urgent.
// size is the announced length, -1 if unknown. More than max is errTooLarge.
func readAll(ctx context.Context, r io.Reader, size int64, max int, mem *budget) ([]byte, charge, error) {
	return nil, charge{}, nil
}

// scanBody splits a body into its messages: one object, or a batch (an array) in order. Newlines and
// carriage returns between tokens become spaces, so that every raw is one line.
func scanBody(body []byte) ([]message, error) { return nil, nil }
