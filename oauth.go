package main

// oauth.go holds the sign-in: registration, grants and refresh, as every revision of MCP asks for them (OAuth
// 2.1, RFC 9728, 8414, 7591, 8707, 9207, 8628). It uses the http.Client that client.go made for
// it: one that carries no credential, cookie or header of the MCP server. Nothing secret enters an error or
// a log, and of what an authorization server wrote only its error code does. Only a verdict on the grant itself
// makes a person sign in again: an outage never opens a browser and never costs a token.

import (
	"cmp"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"time"
)

const (
	personLimit = 10 * time.Minute       // that a leader waits for a person; also how long a begun sign-in is good
	settleLimit = 2 * time.Second        // that instances may take to agree on a leader
	followLimit = 3 * time.Minute        // that a follower waits for its leader
	renewAhead  = time.Minute            // before a token expires
	stormLimit  = 4                      // within a minute
	lastMoment  = 300 * time.Millisecond // for what has been begun, when its caller gives up
	quietTab    = 2 * time.Minute        // a sign-in begun so recently has its tab; no second one is opened
)

// authOptions is what the flags say about signing in.
type authOptions struct {
	untold
	server    *url.URL          // the MCP server
	serverURL string            // as it was typed: the identity of the stored credentials hangs on it
	headers   map[string]string // --header and --header-file as typed, before ${VAR}: part of the identity

	// The browser and the listener that it comes back to.
	listenOptions
	noBrowser bool      // print the address, open nothing
	paste     io.Reader // a terminal where the redirected address may be pasted; nil if there is none

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
	unattended        bool // nobody is there to sign in: what can be done without a person is done
	deviceCode        bool
	clientCredentials bool
	tokenEndpoint     string // --token-endpoint: no discovery

	authServers []string // --auth-server; once given, any other issuer is refused
}

// untold keeps a struct that holds secrets from printing itself, as secret does for a string.
type untold struct{}

func (untold) Format(f fmt.State, _ rune) { io.WriteString(f, hidden) }
func (untold) LogValue() slog.Value       { return slog.StringValue(hidden) }

// Who we are to an authorization server, and what it gave us, with the names that mcp-remote stores them under.
type (
	registration struct { // RFC 7591
		untold
		ID        string   `json:"client_id"`
		Secret    string   `json:"client_secret,omitempty"`
		Expires   float64  `json:"client_secret_expires_at,omitempty"` // seconds since 1970; 0 is never
		Method    string   `json:"token_endpoint_auth_method,omitempty"`
		Redirects []string `json:"redirect_uris,omitempty"`
		Issuer    string   `json:"issuer,omitempty"`
	}
	tokens struct {
		untold
		Access    string `json:"access_token"`
		Type      string `json:"token_type"`
		ID        string `json:"id_token,omitempty"`
		Lifetime  loose  `json:"expires_in,omitempty"`
		Scope     string `json:"scope,omitempty"`
		Refresh   string `json:"refresh_token,omitempty"`
		Expires   loose  `json:"expires_at,omitempty"`      // milliseconds since 1970
		Requested string `json:"requested_scope,omitempty"` // only if a person chose it
		Issuer    string `json:"issuer,omitempty"`
		Location  string `json:"resourceMetadataUrl,omitempty"` // ours alone

		renewAt time.Time // zero is never
		renewed time.Time // when we got it by a refresh; zero if we did not
	}
)

// An authorizer holds the sign-in of one MCP server. Its methods may be called concurrently.
type authorizer struct {
	o        authOptions
	static   *registration
	metadata map[string]any
	key      crypto.Signer
	store    *store
	http     *http.Client
	log      *slog.Logger

	// One refresh or sign-in runs at a time; who holds the turn owns these.
	turn    chan struct{}         // full while nobody has it
	found   *discovery            // the newest
	asked   string                // the scopes of the last sign-in
	signIns [stormLimit]time.Time // when the last ones began, the newest first

	current  atomic.Pointer[tokens] // never changed, only replaced; nil until the store has been looked at
	rejected atomic.Pointer[secret] // the newest credential that the MCP server refused
}

// newAuthorizer checks what the flags say together; its errors are usage errors. Nothing is sent or read yet.
func newAuthorizer(o authOptions, s *store, c *http.Client, log *slog.Logger) (*authorizer, error) {
	o.identity = identityHash(o.serverURL, o.resource, o.authorizeParams, o.headers, o.metadataURL, o.tokenEndpoint)
	o.site, o.fixed = origin(o.server), o.port != 0 || o.staticInfo != nil || o.metadataURL != ""
	o.host = strings.Trim(cmp.Or(o.host, defaultHost()), "[]") // of an IPv6 address as mcp-remote takes it
	o.port = cmp.Or(o.port, defaultPort(o.identity))
	o.callbackPath, o.authTimeout = cmp.Or(o.callbackPath, "/oauth/callback"), cmp.Or(o.authTimeout, 30*time.Second)
	a := &authorizer{store: s, http: c, log: log, turn: make(chan struct{}, 1)}
	a.give()
	if o.staticInfo != nil {
		a.static = new(registration)
		if json.Unmarshal(o.staticInfo, a.static) != nil || a.static.ID == "" {
			return nil, &usageError{"--static-oauth-client-info is not a JSON object with a client_id", `for example {"client_id":"…","client_secret":"${SECRET}"}`}
		}
	}
	if o.staticMetadata != nil {
		if json.Unmarshal(o.staticMetadata, &a.metadata) != nil || a.metadata == nil {
			return nil, &usageError{"--static-oauth-client-metadata is not a JSON object", `for example {"scope":"read write"}`}
		}
		chosen, _ := a.metadata["scope"].(string)
		o.scope = cmp.Or(o.scope, strings.TrimSpace(chosen))
	}
	if block, _ := pem.Decode(o.privateKeyPEM); block != nil {
		key, _ := x509.ParsePKCS8PrivateKey(block.Bytes)
		a.key, _ = key.(crypto.Signer)
	}
	if ec, ok := a.key.(*ecdsa.PrivateKey); o.privateKeyPEM != nil && a.key == nil || ok && ec.Curve != elliptic.P256() {
		return nil, &usageError{"--client-private-key is not a PKCS#8 key (PEM) for RSA, P-256 or Ed25519", "convert it: openssl pkcs8 -topk8 -nocrypt -in KEY -out KEY.pem"}
	}
	if o.clientCredentials && (a.static == nil || a.static.Secret == "" && a.key == nil) {
		return nil, &usageError{"--client-credentials needs a client id, and a secret or key", "give --static-oauth-client-info with client_id and client_secret, or with client_id and --client-private-key"}
	}
	a.o = o
	return a, nil
}

func (a *authorizer) file(name string) string { return a.o.identity + "_" + name }

// await waits for c, or ends with ctx and its cause.
func await[T any](ctx context.Context, c <-chan T) error {
	select {
	case <-c:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// pause waits for a time, in the same way.
func pause(ctx context.Context, d time.Duration) error { return await(ctx, time.After(d)) }

// take waits for the turn; the caller gives it back.
func (a *authorizer) take(ctx context.Context) error { return await(ctx, a.turn) }

func (a *authorizer) give() { a.turn <- struct{}{} }

// bearer is what is presented to the MCP server.
func (a *authorizer) bearer(t *tokens) string {
	if a.o.useIDToken && t.ID != "" {
		return t.ID
	}
	return t.Access
}

// token is the credential for the MCP server's origin: empty if there is none. One that is about to expire is
// refreshed first. The error is a *signInError, or the context's.
func (a *authorizer) token(ctx context.Context) (secret, error) {
	t := a.inUse()
	// Somebody who has the turn may be signing in for a larger scope, and that takes a person's time.
	if t.good() || len(a.turn) == 0 && time.Now().Before(a.expiry(t)) {
		return hide(a.bearer(t)), nil
	}
	if err := a.take(ctx); err != nil {
		return secret{}, err
	}
	defer a.give()
	if t = a.inUse(); !t.good() { // nobody has seen to it meanwhile
		switch err := a.renew(ctx, nil, t); {
		case ctx.Err() != nil:
			return secret{}, context.Cause(ctx)
		case outage(err) && time.Now().After(a.expiry(t)):
			return secret{}, err
		case err != nil: // the old one does while it lasts; after that the server's 401 decides
			a.log.Warn("refreshing the token", "err", err)
			if later := *a.inUse(); !later.good() {
				later.renewAt = time.Now().Add(10 * time.Second)
				a.current.Store(&later)
			}
		}
	}
	return hide(a.bearer(a.inUse())), nil
}

// inUse is the current credential; its fields are empty if there is none.
func (a *authorizer) inUse() *tokens {
	if t := a.current.Load(); t != nil {
		return t
	}
	a.current.CompareAndSwap(nil, a.timed(a.stored()))
	return a.current.Load()
}

func (t *tokens) good() bool { return t.renewAt.IsZero() || time.Now().Before(t.renewAt) }

// refreshAt is when token should be called again even if nobody needs one, so that a stream that is
// open never outlives its credential; zero if there is nothing to refresh.
func (a *authorizer) refreshAt() time.Time { return a.inUse().renewAt }

// refused notes that the MCP server answered 401 or 403 to this credential, so that signIn can tell news from
// the late echo of a credential that has been replaced meanwhile.
func (a *authorizer) refused(t secret) { a.rejected.Store(&t) }

// stored reads the credential that all instances share; the zero value if there is none.
func (a *authorizer) stored() *tokens {
	t := new(tokens)
	if a.store.readJSON(a.file("tokens.json"), t) != nil || !presentable(a.bearer(t)) || a.o.scope != "" && t.Requested != "" && t.Requested != a.o.scope {
		return new(tokens)
	}
	return t
}

// adopt takes over what another instance has stored, if that is still good and not what we have already.
func (a *authorizer) adopt(old *tokens) bool {
	t := a.stored()
	expiry := a.expiry(t)
	if a.bearer(t) == "" || a.bearer(t) == a.bearer(old) || !expiry.IsZero() && time.Now().After(expiry) {
		return false
	}
	a.use(t)
	return true
}

// presentable says whether a credential can stand in a header (RFC 6750, 2.1).
func presentable(s string) bool {
	return s != "" && len(s) < 64<<10 && !strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r > '~' })
}

// use makes t the current credential.
func (a *authorizer) use(t *tokens) { a.current.Store(a.timed(t)) }

// timed decides when t is to be renewed.
func (a *authorizer) timed(t *tokens) *tokens {
	t.renewAt = time.Time{}
	if expiry := a.expiry(t); !expiry.IsZero() && (t.Refresh != "" || a.o.clientCredentials) {
		ahead := renewAhead
		if t.Lifetime > 0 {
			ahead = time.Duration(min(loose(ahead), t.Lifetime*loose(time.Second)/4))
		}
		t.renewAt = expiry.Add(-ahead)
		if soon := t.renewed.Add(10 * time.Second); t.renewAt.Before(soon) {
			t.renewAt = soon // the clocks disagree: an id token says that it has expired already
		}
	}
	return t
}

// expiry is when the credential that is presented ends; zero if nobody said.
func (a *authorizer) expiry(t *tokens) time.Time {
	if parts := strings.Split(t.ID, "."); a.o.useIDToken && len(parts) == 3 {
		var claims struct {
			Exp loose `json:"exp"`
		}
		if b, err := base64.RawURLEncoding.DecodeString(parts[1]); err == nil && json.Unmarshal(b, &claims) == nil && claims.Exp > 0 {
			return time.Unix(int64(claims.Exp), 0)
		}
	}
	if t.Expires == 0 {
		return time.Time{}
	}
	return time.UnixMilli(int64(t.Expires))
}

// signIn obtains a credential after the MCP server answered status (401 or 403) with this challenge. It
// returns nil once a request may be tried again. waiting is called once a person is needed, with a sentence
// for that person. The error is a *signInError, or the context's.
func (a *authorizer) signIn(ctx context.Context, challenge string, status int, waiting func(hint string)) error {
	if err := a.take(ctx); err != nil {
		return err
	}
	defer a.give()
	err := a.answer(ctx, bearerChallenge(challenge), status, waiting)
	if _, known := errors.AsType[*signInError](err); err == nil || known {
		return err
	} else if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return &signInError{err: fmt.Errorf("signing in to %s: %w", a.o.site, err)}
}

// answer does the least that can satisfy a challenge.
func (a *authorizer) answer(ctx context.Context, c challenge, status int, waiting func(hint string)) error {
	if status == http.StatusForbidden && c["error"] != "insufficient_scope" {
		return errors.New("the server forbids this, whatever the scope")
	}
	old := a.inUse()
	if rejected := a.rejected.Load(); rejected != nil && !rejected.empty() && rejected.reveal() != a.bearer(old) {
		return nil // the credential that was refused has been replaced since
	}
	if a.adopt(old) {
		return nil // another instance has signed in or refreshed
	}
	d, err := a.discover(ctx, c)
	if err != nil {
		return err
	}
	a.found = d
	// A refresh helps if the token is too old, not if its scope is too small or if it has just been tried.
	if status == http.StatusUnauthorized && old.Refresh != "" && old.Issuer == d.Server.Issuer && time.Since(old.renewed) > time.Minute {
		if err := a.renew(ctx, d, old); decided(err) == "" {
			return err
		}
	}
	d.Scope = a.wanted(d, c, old, status)
	if status == http.StatusForbidden && d.Scope == a.asked && time.Since(a.signIns[0]) < personLimit {
		return fmt.Errorf("the server wants more than the scope %q that was just granted", clean(d.Scope))
	}
	if time.Since(a.signIns[stormLimit-1]) < time.Minute {
		return &signInError{err: fmt.Errorf("signing in to %s: stopped after %d sign-ins within a minute: the server refuses what its authorization server grants", a.o.site, stormLimit), wait: time.Minute}
	}
	copy(a.signIns[1:], a.signIns[:])
	a.asked, a.signIns[0] = d.Scope, time.Now()
	switch {
	case a.o.clientCredentials:
		return a.renew(ctx, d, old)
	case a.o.unattended:
		return &signInError{err: errors.New("a person has to sign in"), hint: "Run: mcp-redial login URL"}
	case a.o.deviceCode:
		return a.device(ctx, d, old, waiting)
	}
	return a.authorize(ctx, d, old, waiting)
}

// wanted is the scope to ask for: a person's choice, else the challenge's, else all that the resource names, else
// nothing at all; with what was granted before if this is a step-up.
func (a *authorizer) wanted(d *discovery, c challenge, old *tokens, status int) string {
	if a.o.scope != "" {
		return a.o.scope
	}
	all := strings.Fields(cmp.Or(c["scope"], strings.Join(d.Resource.Scopes, " ")))
	if status == http.StatusForbidden {
		all = append(strings.Fields(old.Scope), all...)
	}
	// A refresh token is worth asking for, but only where the authorization server knows the word.
	if len(all) > 0 && !a.o.clientCredentials && slices.Contains(d.Server.Scopes, "offline_access") {
		all = append(all, "offline_access")
	}
	seen := map[string]bool{}
	return strings.Join(slices.DeleteFunc(all, func(s string) bool { again := seen[s]; seen[s] = true; return again }), " ")
}

// login signs in ahead of time: it asks the MCP server for its challenge, with what is stored, and then does
// what signIn does.
func (a *authorizer) login(ctx context.Context, waiting func(hint string)) error {
	t, err := a.token(ctx)
	if err != nil {
		return err
	}
	h := http.Header{"Accept": {"application/json, text/event-stream"}, "Content-Type": {"application/json"}}
	if !t.empty() {
		h.Set("Authorization", "Bearer "+t.reveal())
	}
	resp, _, err := a.ask(ctx, "asking the server for its challenge", http.MethodPost, a.o.server, h, `{"jsonrpc":"2.0","id":1,"method":"ping"}`)
	if err != nil {
		return err
	}
	challenge := strings.Join(resp.Header.Values("WWW-Authenticate"), ", ")
	if resp.StatusCode == http.StatusUnauthorized {
		a.refused(t)
	} else if !t.empty() {
		person(a.log, "Already signed in to %s.", a.o.site)
		return nil
	} else if d, err := a.discover(ctx, bearerChallenge(challenge)); err != nil || d.Location == "" {
		return errors.Join(fmt.Errorf("%s does not ask for a sign-in", a.o.site), err)
	}
	if err := a.signIn(ctx, challenge, http.StatusUnauthorized, waiting); err != nil {
		return err
	}
	person(a.log, "Signed in to %s.", a.o.site)
	return nil
}

// logout revokes the tokens where the authorization server offers it (RFC 7009) and deletes everything that is
// stored about this server, remembered handshakes included.
func (a *authorizer) logout(ctx context.Context) error {
	if err := a.take(ctx); err != nil {
		return err
	}
	defer a.give()
	revoked := a.revoke(ctx, a.stored())
	files, err := a.store.list(a.o.identity + "_")
	for _, f := range files {
		err = errors.Join(err, a.store.remove(f.name))
	}
	a.use(new(tokens))
	return errors.Join(revoked, err)
}

func (a *authorizer) revoke(ctx context.Context, t *tokens) error {
	if t.Issuer == "" {
		return nil
	}
	d, err := a.known(ctx, t)
	if err != nil || d.Server.Revocation == "" {
		return err
	}
	c, err := a.client(ctx, d, "")
	if err != nil {
		return err
	}
	for hint, token := range map[string]string{"refresh_token": t.Refresh, "access_token": t.Access} {
		if token != "" {
			e := a.post(ctx, "revoking a token", d, c, d.Server.Revocation, map[string]string{"token": token, "token_type_hint": hint}, nil)
			err = errors.Join(err, e)
		}
	}
	return err
}

// client is who we are to an authorization server: given, described by a document, or registered there. A
// registration is bound to its issuer and its redirect address; with redirect "" any will do, and none is made.
func (a *authorizer) client(ctx context.Context, d *discovery, redirect string) (*registration, error) {
	if c := a.static; c != nil {
		if c.Issuer != "" && c.Issuer != d.Server.Issuer {
			return nil, errors.New("--static-oauth-client-info is for another authorization server than the one that the server names")
		}
		return c, nil
	}
	if a.o.metadataURL != "" && d.Server.CIMD {
		return &registration{ID: a.o.metadataURL}, nil
	}
	c := new(registration)
	if a.store.readJSON(a.file("client_info.json"), c) == nil && c.ID != "" && c.Issuer == d.Server.Issuer &&
		(c.Expires == 0 || time.Now().Before(time.Unix(int64(c.Expires), 0))) && (redirect == "" || slices.Contains(c.Redirects, redirect)) {
		return c, nil
	}
	if redirect == "" {
		return nil, &denial{"looking for our registration", "invalid_client"}
	}
	return a.register(ctx, d, redirect)
}

// register registers dynamically (RFC 7591). What the server answers rules over what we asked for.
func (a *authorizer) register(ctx context.Context, d *discovery, redirect string) (*registration, error) {
	if d.Server.Registration == "" {
		return nil, errors.New("the authorization server registers nobody by itself: get a client id from its operator and give it with --static-oauth-client-info")
	}
	doc := map[string]any{"client_name": "mcp-redial", "client_uri": "https://github.com/mcp-redial/mcp-redial", "redirect_uris": []string{redirect},
		"application_type": "native", "grant_types": []string{"authorization_code", "refresh_token"}, "response_types": []string{"code"},
		"token_endpoint_auth_method": pick(d.Server.AuthMethods, "none", "client_secret_post", "client_secret_basic")}
	if a.o.deviceCode {
		doc["grant_types"] = []string{deviceGrant, "refresh_token"}
	}
	if d.Scope != "" {
		doc["scope"] = d.Scope
	}
	maps.Copy(doc, a.metadata)
	body, _ := json.Marshal(doc)              // strings, and what came as JSON: cannot fail
	delete(doc, "token_endpoint_auth_method") // what goes without saying in the answer is the default, not our wish
	var answer map[string]any                 // which null leaves nil
	if err := a.submit(ctx, "registering", d.Server.Registration, http.Header{"Content-Type": {"application/json"}}, string(body), &answer); err != nil {
		return nil, err
	}
	maps.Copy(doc, answer)
	doc["issuer"], doc["redirect_uris"] = d.Server.Issuer, []string{redirect}
	body, _ = json.Marshal(doc)
	c := new(registration)
	if json.Unmarshal(body, c) != nil || c.ID == "" {
		return nil, errors.New("registering: the answer holds no client_id")
	}
	return c, a.store.writeJSON(a.file("client_info.json"), doc)
}

// pick is the first of our choices that a server lists; the very first if it lists none of them.
func pick(listed []string, ours ...string) string {
	return ours[max(0, slices.IndexFunc(ours, func(s string) bool { return slices.Contains(listed, s) }))]
}

// post sends a form to an authorization server, authenticated as c in exactly one way, and reads the answer into v.
func (a *authorizer) post(ctx context.Context, what string, d *discovery, c *registration, endpoint string, form map[string]string, v any) error {
	h := http.Header{"Content-Type": {"application/x-www-form-urlencoded"}}
	chosen, _ := a.metadata["token_endpoint_auth_method"].(string)
	method := cmp.Or(c.Method, chosen, pick(d.Server.AuthMethods, "client_secret_basic", "client_secret_post"))
	switch {
	case a.key != nil:
		assertion, err := a.assertion(c.ID, d)
		if err != nil {
			return err
		}
		form["client_assertion_type"], form["client_assertion"] = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer", assertion
	case c.Secret == "" || method == "none":
		form["client_id"] = c.ID
	case method == "client_secret_post":
		form["client_id"], form["client_secret"] = c.ID, c.Secret
	default: // RFC 6749, 2.3.1
		h.Set("Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte(url.QueryEscape(c.ID)+":"+url.QueryEscape(c.Secret))))
	}
	return a.submit(ctx, what, endpoint, h, params(form).Encode(), v)
}

// assertion is a JWT that proves who we are (RFC 7523, 2.2), good for five minutes. Its audience is the issuer.
func (a *authorizer) assertion(id string, d *discovery) (string, error) {
	alg, opts := "EdDSA", crypto.SignerOpts(crypto.Hash(0))
	switch a.key.(type) {
	case *ecdsa.PrivateKey:
		alg, opts = "ES256", crypto.SHA256
	case *rsa.PrivateKey:
		if alg, opts = pick(d.Server.AuthAlgs, "RS256", "PS256"), crypto.SHA256; alg == "PS256" {
			opts = &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash, Hash: crypto.SHA256}
		}
	}
	now := time.Now().Unix()
	part := func(v map[string]any) string {
		b, _ := json.Marshal(v) // strings and numbers: cannot fail
		return base64.RawURLEncoding.EncodeToString(b)
	}
	text := part(map[string]any{"alg": alg, "typ": "JWT"}) + "." + part(map[string]any{"iss": id, "sub": id, "aud": d.Server.Issuer, "iat": now, "exp": now + 300, "jti": rand.Text()})
	var sig []byte
	var err error
	if key, ok := a.key.(*ecdsa.PrivateKey); !ok {
		sig, err = crypto.SignMessage(a.key, rand.Reader, []byte(text), opts)
	} else { // JWS wants r and s side by side (RFC 7518, 3.4)
		sum := sha256.Sum256([]byte(text))
		r, s, e := ecdsa.Sign(rand.Reader, key, sum[:])
		if err = e; err == nil {
			sig = append(r.FillBytes(make([]byte, 32)), s.FillBytes(make([]byte, 32))...)
		}
	}
	if err != nil {
		return "", fmt.Errorf("signing with --client-private-key: %w", err)
	}
	return text + "." + base64.RawURLEncoding.EncodeToString(sig), nil
}

// grant asks the token endpoint for a credential, and keeps it: in the store first, because a rotated refresh
// token that is lost loses the sign-in.
func (a *authorizer) grant(ctx context.Context, d *discovery, c *registration, form map[string]string, old *tokens) error {
	form["resource"] = a.resource(d)
	t := new(tokens)
	if err := a.post(ctx, "asking for a token", d, c, d.Server.Token, form, t); err != nil {
		return err
	}
	switch {
	case a.o.useIDToken && t.ID == "":
		a.log.Warn("there is no id token to present; it takes the scope openid")
	case t.Type != "" && !strings.EqualFold(t.Type, "bearer"):
		return fmt.Errorf("the authorization server issues tokens of the type %q, not bearer tokens", clean(t.Type))
	}
	if !presentable(a.bearer(t)) {
		return errors.New("the authorization server issued no token that can be sent")
	}
	t.Issuer, t.Location, t.Requested = d.Server.Issuer, d.Location, a.o.scope
	t.Scope, t.Refresh = cmp.Or(t.Scope, d.Scope), cmp.Or(t.Refresh, old.Refresh)
	if t.Expires = 0; t.Lifetime > 0 {
		t.Expires = loose(time.Now().UnixMilli()) + t.Lifetime*1000
	}
	if err := a.store.writeJSON(a.file("tokens.json"), t); err != nil {
		a.log.Warn("storing the token", "err", err)
	}
	if old.Refresh != "" {
		t.renewed = time.Now()
	}
	a.use(t)
	return nil
}

// renew gets a credential without a person; d may be nil. All instances agree on one that does it, which then has
// one exchange to make: less than a lease is good for.
func (a *authorizer) renew(ctx context.Context, d *discovery, old *tokens) (err error) {
	if d == nil {
		if d, err = a.known(ctx, old); err != nil {
			return err
		}
	}
	c, err := a.client(ctx, d, "")
	if err == nil {
		err = a.alone(ctx, old, func(ctx context.Context) error {
			if newest := a.stored(); newest.Refresh != "" && newest.Issuer == old.Issuer {
				old = newest
			}
			form := map[string]string{"grant_type": "refresh_token", "refresh_token": old.Refresh, "scope": old.Scope} // Entra wants the scope
			if a.o.clientCredentials {
				form = map[string]string{"grant_type": "client_credentials", "scope": cmp.Or(d.Scope, old.Scope)}
			}
			return a.grant(ctx, d, c, form, old)
		})
	}
	switch {
	case decided(err) == "":
		return err
	case a.adopt(old):
		return nil
	}
	a.disown(err)
	spent := *old
	spent.Refresh, spent.renewed = "", time.Time{}
	a.use(&spent)
	return errors.Join(err, a.store.remove(a.file("tokens.json")))
}

// alone does what only one instance at a time may do. What another has stored instead of old meanwhile is taken over. What
// has been begun is brought to its end, within signInLimit, also for a caller who gives up and after a moment gets the
// cause: a token that was rotated and is not kept would lose the sign-in.
func (a *authorizer) alone(ctx context.Context, old *tokens, do func(context.Context) error) error {
	for {
		release, ours := a.store.lease(a.file("refresh_in_progress.json"))
		if a.adopt(old) {
			release()
			return nil
		}
		if ours {
			ended := make(chan error, 2)
			go func() {
				err := do(context.WithoutCancel(ctx))
				release()
				ended <- err
			}()
			defer context.AfterFunc(ctx, func() {
				time.Sleep(lastMoment)
				ended <- context.Cause(ctx)
			})()
			return <-ended
		}
		if err := pause(ctx, 200*time.Millisecond); err != nil {
			return err
		}
	}
}

// disown forgets our registration if that was what the authorization server did not like.
func (a *authorizer) disown(err error) {
	if code := decided(err); code == "invalid_client" || code == "unauthorized_client" {
		a.store.remove(a.file("client_info.json"))
	}
}
