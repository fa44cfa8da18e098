package main

// oauth.go signs in: discovery, registration, grants and refresh, as every revision of MCP asks for it (OAuth
// 2.1, RFC 9728, 8414, 7591, 8707, 9207, 8628). It uses the http.Client that client.go made for
// it: one that carries no credential, cookie or header of the MCP server. Nothing secret enters an error or
// a log, and nothing that an authorization server wrote gets there raw.

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"time"
)

// authOptions is what the flags say about signing in.
type authOptions struct {
	server    *url.URL          // the MCP server
	serverURL string            // as it was typed: the identity of the stored credentials hangs on it
	headers   map[string]string // --header and --header-file as typed, before ${VAR}: part of the identity

	// The browser and the listener that it comes back to.
	host         string        // in the redirect address; "" is localhost, 127.0.0.1 on Windows
	port         int           // 0 is the port derived from the identity
	callbackPath string        // "" is /oauth/callback
	successURL   string        // where the browser goes at the end, instead of our own page
	authTimeout  time.Duration // of /wait-for-auth and of the page that waits for the exchange
	noBrowser    bool          // print the address, open nothing
	tell         io.Writer     // stderr: what a person must see, whatever --silent says
	paste        io.Reader     // a terminal where the redirected address may be pasted; nil if there is none

	// What is asked for.
	resource        string            // --resource; "" is what the metadata says
	noResource      bool              // --disable-resource-parameter
	scope           string            // --scope; "" is what the server says
	authorizeParams map[string]string // --authorize-param
	useIDToken      bool

	// Who asks.
	staticInfo     json.RawMessage // --static-oauth-client-info, ${VAR} expanded
	staticMetadata json.RawMessage // --static-oauth-client-metadata
	metadataURL    string          // --client-metadata-url
	privateKeyPEM  []byte          // --client-private-key, the content of the file

	// How.
	deviceCode        bool
	clientCredentials bool
	tokenEndpoint     string // --token-endpoint: no discovery

	// Whom to trust.
	authServers  []string    // --auth-server; once given, any other issuer is refused
	oauthHeaders http.Header // --oauth-header, sent to authServers only
}

// An authorizer holds the sign-in of one MCP server. Its methods may be called concurrently.
type authorizer struct {
	o     authOptions
	store *store
	http  *http.Client
	log   *slog.Logger
}

// newAuthorizer checks what the flags say together; an error is a usage error. Nothing is sent or read yet.
func newAuthorizer(o authOptions, s *store, c *http.Client, log *slog.Logger) (*authorizer, error) {
	return &authorizer{o: o, store: s, http: c, log: log}, nil
}

// token is the credential for the MCP server's origin: "" if there is none. One that is about to expire is
// refreshed first. The error is a *signInError, or the context's.
func (a *authorizer) token(ctx context.Context) (secret, error) { return secret{}, nil }

// refreshAt is when token should be called again even if nobody needs one, so that a stream that is
// open never outlives its credential; zero if there is nothing to refresh.
func (a *authorizer) refreshAt() time.Time { return time.Time{} }

// signIn obtains a credential after the MCP server answered status (401 or 403) with this challenge. It
// returns nil once a request may be tried again. waiting is called once a person is needed, with a sentence
// for that person. The error is a *signInError, or the context's.
func (a *authorizer) signIn(ctx context.Context, challenge string, status int, waiting func(hint string)) error {
	return &signInError{err: errors.New("signing in is not possible yet")}
}

// login signs in ahead of time: it asks the MCP server for its challenge and then does what signIn does.
func (a *authorizer) login(ctx context.Context, waiting func(hint string)) error {
	return a.signIn(ctx, "", http.StatusUnauthorized, waiting)
}

// logout revokes the tokens where the authorization server offers it (RFC 7009) and deletes everything that is
// stored about this server, remembered handshakes included.
func (a *authorizer) logout(ctx context.Context) error { return nil }
