package main

// faults.go is every error that the bridge itself makes: its codes, what it tells programs, and how it is written.
// What a server sent never gets into one.

import (
	"cmp"
	"encoding/json"
	"errors"
	"strconv"
)

// A faultKind is one of the errors that the bridge itself makes. Their codes lie outside the range that
// JSON-RPC reserves, so that nobody takes them for the server's.
type faultKind int

const (
	faultNotSent         faultKind = -31001
	faultOutcomeUnknown  faultKind = -31002
	faultAuthorization   faultKind = -31003
	faultServerRefused   faultKind = -31004
	faultBadAnswer       faultKind = -31005
	faultTooLarge        faultKind = -31006
	faultNotTranslatable faultKind = -31007
	faultClosing         faultKind = -31008
	faultNotPermitted    faultKind = -31009
)

func (k faultKind) reason() string {
	return [...]string{"not-sent", "outcome-unknown", "authorization-required", "server-refused", "bad-answer",
		"too-large", "not-translatable", "closing", "not-permitted"}[-31001-k]
}

// errorCode is the code of a JSON-RPC error, 0 if it is none.
func errorCode(raw []byte) int {
	n, _ := strconv.Atoi(string(peek(raw, "error", "code")))
	return n
}

// malformed is the reply to a line that is no message.
func malformed(err error) message {
	bad, _ := errors.AsType[*badMessage](err)
	return errorReply(bad.id, bad.code, bad.text, nil)
}

// An errorData is the data of an error that the bridge itself makes, for programs.
type errorData struct {
	Source     string `json:"source"` // set by errorReply
	Reason     string `json:"reason"`
	MayHaveRun bool   `json:"mayHaveRun"`
	Attempts   int    `json:"attempts"`
	ElapsedMs  int64  `json:"elapsedMs"`
	Server     string `json:"server,omitempty"` // its origin
	Cause      string `json:"cause,omitempty"`
}

// errorReply makes an error response; id "" is written as null, and data may be nil.
func errorReply(id string, code int, text string, data *errorData) message {
	if data != nil {
		data.Source = "mcp-redial"
	}
	e, _ := json.Marshal(struct {
		Code    int        `json:"code"`
		Message string     `json:"message"`
		Data    *errorData `json:"data,omitempty"`
	}{code, text, data})
	return compose(cmp.Or(id, "null"), "", "error", e)
}
