package main

// discovery.go finds out who may issue credentials for the MCP server, and is all that reads what strangers wrote: a
// challenge, metadata, the answers of an authorization server. Every address in them must be https (http is for this
// machine), every document is bounded, and of what they say in words only an error code passes.

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// The documents of authorization, as far as we look at them, with the names that mcp-remote stores them under.
type (
	resourceMetadata struct { // RFC 9728
		Resource string   `json:"resource"`
		Servers  []string `json:"authorization_servers"`
		Scopes   []string `json:"scopes_supported,omitempty"`
	}
	serverMetadata struct { // RFC 8414
		Issuer        string   `json:"issuer"`
		Authorization string   `json:"authorization_endpoint"`
		Token         string   `json:"token_endpoint"`
		Registration  string   `json:"registration_endpoint,omitempty"`
		Revocation    string   `json:"revocation_endpoint,omitempty"`
		Device        string   `json:"device_authorization_endpoint,omitempty"`
		ResponseTypes []string `json:"response_types_supported"`
		Scopes        []string `json:"scopes_supported,omitempty"`
		Challenges    []string `json:"code_challenge_methods_supported,omitempty"`
		AuthMethods   []string `json:"token_endpoint_auth_methods_supported,omitempty"`
		AuthAlgs      []string `json:"token_endpoint_auth_signing_alg_values_supported,omitempty"`
		ISS           bool     `json:"authorization_response_iss_parameter_supported,omitempty"`
		CIMD          bool     `json:"client_id_metadata_document_supported,omitempty"`
	}
	discovery struct {
		Issuer   string           `json:"authorizationServerUrl"`
		Location string           `json:"resourceMetadataUrl,omitempty"`
		Resource resourceMetadata `json:"resourceMetadata,omitzero"`
		Server   serverMetadata   `json:"authorizationServerMetadata"`
		Redirect string           `json:"redirectUri,omitempty"` // ours alone, like the next two
		Scope    string           `json:"scope,omitempty"`
		Device   *deviceCode      `json:"deviceAuthorization,omitempty"`
	}
)

// A challenge holds the parameters of a Bearer challenge.
type challenge map[string]string

// bearerChallenge finds the Bearer challenges in WWW-Authenticate (RFC 9110, 11.6.1), which may hold several in
// one line. Of a parameter given twice the first counts; what cannot be read is skipped.
func bearerChallenge(header string) challenge {
	const token = digitsAndLetters + "!#$%&'*+-.^_|~"
	c, bearer := challenge{}, false
	for header != "" {
		after := strings.TrimLeft(header, token)
		name := strings.ToLower(header[:len(header)-len(after)])
		value, given := strings.CutPrefix(strings.TrimLeft(after, blanks), "=")
		switch _, twice := c[name]; {
		case header[0] == '"': // nobody's
			_, header = headerWord(header)
		case name == "":
			header = header[1:]
		case !given:
			bearer, header = name == "bearer", after
		default:
			value, header = headerWord(strings.TrimLeft(value, blanks))
			if bearer && !twice {
				c[name] = value
			}
		}
	}
	return c
}

const blanks = " \t\r\n\f"

// headerWord takes a quoted string (RFC 9110, 5.6.4) from the beginning of s, or what stands there without quotes.
func headerWord(s string) (word, rest string) {
	if !strings.HasPrefix(s, `"`) {
		if end := strings.IndexAny(s, blanks+`,"`); end >= 0 {
			return s[:end], s[end:]
		}
		return s, ""
	}
	var b strings.Builder
	for i := 1; i < len(s); i++ {
		switch {
		case s[i] == '"':
			return b.String(), s[i+1:]
		case s[i] == '\\' && i+1 < len(s):
			i++
		}
		b.WriteByte(s[i])
	}
	return b.String(), "" // not closed
}

// discover finds out who may issue credentials for the MCP server (MCP authorization, Discovery).
func (a *authorizer) discover(ctx context.Context, c challenge) (*discovery, error) {
	if a.o.tokenEndpoint != "" {
		return &discovery{Server: serverMetadata{Issuer: a.o.tokenEndpoint, Token: a.o.tokenEndpoint}}, nil
	}
	server, path := a.o.server, a.o.server.EscapedPath()
	if path == "/" {
		path = ""
	}
	if server.RawQuery != "" {
		path += "?" + server.RawQuery
	}
	addresses := []string{c["resource_metadata"]}
	if addresses[0] == "" {
		const name = "/.well-known/oauth-protected-resource" // RFC 9728, 3.1
		addresses = slices.Compact([]string{origin(server) + name + path, origin(server) + name})
	}
	d := new(discovery)
	var err error
	d.Location, err = a.document(ctx, "resource metadata", addresses, &d.Resource)
	switch {
	case err != nil:
		return nil, err
	case d.Location == "" && c["resource_metadata"] != "":
		return nil, errors.New("there is no resource metadata where the server says it is")
	case d.Location == "": // MCP 2025-03-26: the server's own origin is the authorization server
		d.Resource = resourceMetadata{Servers: []string{origin(server)}}
	case !covers(d.Resource.Resource, server):
		return nil, errors.New("the resource metadata is about another resource than this server")
	case len(d.Resource.Servers) == 0:
		return nil, errors.New("the resource metadata names no authorization server")
	}
	// If none of them is named, describe refuses the first.
	d.Issuer = d.Resource.Servers[max(0, slices.IndexFunc(d.Resource.Servers, a.named))]
	d.Server, err = a.describe(ctx, d.Issuer, d.Location == "")
	return d, err
}

// covers says whether a resource identifier stands for the server: its address, or a parent of it.
func covers(resource string, server *url.URL) bool {
	u, err := url.Parse(resource)
	if err != nil || u.Host == "" || u.Fragment != "" || origin(u) != origin(server) {
		return false
	}
	parent := strings.TrimSuffix(u.EscapedPath(), "/")
	return strings.HasPrefix(strings.TrimSuffix(server.EscapedPath(), "/")+"/", parent+"/")
}

// named says whether a person trusts this issuer. Without --auth-server the MCP server is believed.
func (a *authorizer) named(issuer string) bool {
	same := func(s string) bool { return strings.TrimSuffix(s, "/") == strings.TrimSuffix(issuer, "/") }
	return len(a.o.authServers) == 0 || slices.ContainsFunc(a.o.authServers, same)
}

// describe reads what an authorization server says of itself. With no document at all, legacy means that of
// MCP 2025-03-26.
func (a *authorizer) describe(ctx context.Context, issuer string, legacy bool) (m serverMetadata, err error) {
	u, err := a.endpoint("authorization server", issuer)
	if err != nil {
		return m, err
	}
	if !a.named(issuer) {
		return m, fmt.Errorf("the server names the authorization server %s; if that is right, say so with --auth-server", clean(origin(u)))
	}
	const oauth, openID = "/.well-known/oauth-authorization-server", "/.well-known/openid-configuration"
	base, path := origin(u), strings.TrimSuffix(u.EscapedPath(), "/")
	addresses := slices.Compact([]string{base + oauth + path, base + openID + path, base + path + openID}) // RFC 8414, 3.1 and 5
	m.ResponseTypes = []string{"code"}                                                                     // mcp-remote wants it said
	at, err := a.document(ctx, "authorization server metadata", addresses, &m)
	chosen := len(a.o.authServers) > 0 && strings.TrimSuffix(m.Issuer, "/") == strings.TrimSuffix(issuer, "/")
	switch {
	case err != nil:
	case at == "" && legacy:
		m.Issuer, m.Authorization, m.Token, m.Registration, m.Challenges = base, base+"/authorize", base+"/token", base+"/register", []string{"S256"}
	case at == "":
		err = fmt.Errorf("%s publishes no authorization server metadata", base)
	case m.Issuer != issuer && !chosen: // RFC 8414, 3.3: identical; a slash too many only if a person vouches for it
		err = fmt.Errorf("the metadata of the authorization server %s is that of another issuer; if only a final slash differs, --auth-server accepts it", base)
	}
	return m, err
}

// known is the discovery for the issuer of a stored credential. Nobody else gets to see that.
func (a *authorizer) known(ctx context.Context, t *tokens) (*discovery, error) {
	if a.found != nil && a.found.Server.Issuer == t.Issuer {
		return a.found, nil
	}
	d, err := a.discover(ctx, challenge{"resource_metadata": t.Location})
	if err == nil && d.Server.Issuer != t.Issuer {
		err = errors.New("what is stored is from another authorization server")
	}
	return d, err
}

// resource is the RFC 8707 parameter: the same in every request; "" is to send none.
func (a *authorizer) resource(d *discovery) string {
	if a.o.noResource {
		return ""
	}
	return cmp.Or(a.o.resource, d.Resource.Resource)
}

// document reads the first of several addresses that holds a JSON object into v, and says which it was; "" if none.
func (a *authorizer) document(ctx context.Context, what string, addresses []string, v any) (string, error) {
	for _, raw := range addresses {
		u, err := a.endpoint("address of the "+what, raw)
		if err != nil {
			return "", err
		}
		resp, body, err := a.ask(ctx, "reading the "+what, http.MethodGet, u, http.Header{"Accept": {"application/json"}}, "")
		var object map[string]json.RawMessage
		switch {
		case err != nil:
			return "", err
		case resp.StatusCode != http.StatusOK || json.Unmarshal(body, &object) != nil: // nothing, or a web page for everything
			continue
		case json.Unmarshal(body, v) != nil:
			return "", fmt.Errorf("the %s at %s has a field of the wrong type", what, origin(u))
		}
		return raw, nil
	}
	return "", nil
}

// endpoint is an address that a document named. It must be https; http is for a server on this machine.
func (a *authorizer) endpoint(what, raw string) (*url.URL, error) {
	u, err := url.Parse(raw)
	switch {
	case err != nil || u.Host == "" || u.User != nil || u.Fragment != "":
		return nil, fmt.Errorf("the %s is not an absolute address without user or fragment", what)
	case u.Scheme != "https" && (u.Scheme != "http" || !isLocalName(u.Hostname()) || !isLocalName(a.o.server.Hostname())):
		return nil, fmt.Errorf("the %s is at %s, which is not https", what, clean(origin(u)))
	}
	return u, nil
}

// ask performs one exchange with an authorization server, or for metadata with the MCP server. An error is a
// *signInError: an outage unless it was our own policy or a certificate that stood in the way.
func (a *authorizer) ask(ctx context.Context, what, method string, u *url.URL, h http.Header, body string) (*http.Response, []byte, error) {
	req, err := http.NewRequestWithContext(ctx, method, u.String(), strings.NewReader(body))
	if err != nil {
		return nil, nil, fmt.Errorf("%s: the address is malformed", what)
	}
	req.Header = h
	resp, err := a.http.Do(req)
	var data []byte
	if err == nil {
		defer resp.Body.Close()
		data, err = io.ReadAll(resp.Body)
	}
	if ctx.Err() != nil {
		return nil, nil, context.Cause(ctx)
	}
	if tooLarge, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return nil, nil, fmt.Errorf("%s at %s: the answer is larger than %d bytes", what, origin(u), tooLarge.Limit)
	}
	if err != nil {
		e, _ := errors.AsType[*exchangeError](connectionError(err, true))
		return nil, nil, &signInError{err: fmt.Errorf("%s at %s: %w", what, origin(u), e), outage: e.fate != final}
	}
	a.log.Debug("sign-in", "step", what, "at", origin(u), "status", resp.StatusCode)
	if s := resp.StatusCode; s >= 500 || s == http.StatusTooManyRequests || s == http.StatusRequestTimeout {
		return nil, nil, &signInError{err: fmt.Errorf("%s: %s answered %d %s", what, origin(u), s, http.StatusText(s)), outage: true,
			wait: retryAfter(resp.Header.Get("Retry-After"), time.Now())}
	}
	return resp, data, nil
}

// submit posts to an address that an authorization server named, and reads its answer into v unless that is nil.
func (a *authorizer) submit(ctx context.Context, what, address string, h http.Header, body string, v any) error {
	u, err := a.endpoint("address for "+what, address)
	if err != nil {
		return err
	}
	h.Set("Accept", "application/json") // without it some answer in form encoding
	resp, data, err := a.ask(ctx, what, http.MethodPost, u, h, body)
	if err != nil {
		return err
	}
	var answer struct {
		Error string `json:"error"`
	}
	json.Unmarshal(data, &answer)
	switch status := resp.StatusCode; {
	case answer.Error != "": // some servers send errors with a success status
		return refusal(what, answer.Error)
	case status/100 != 2: // a gateway or captive portal: nothing has been decided
		return &signInError{err: fmt.Errorf("%s: the answer was %d %s", what, status, http.StatusText(status)), outage: true}
	case v != nil && json.Unmarshal(data, v) != nil:
		return fmt.Errorf("%s: the answer is not the JSON that it should be", what)
	}
	return nil
}

// refusal is the error that an error code means; of what is no proper code nothing is repeated.
func refusal(what, code string) error {
	switch {
	case code == "temporarily_unavailable" || code == "server_error":
		return &signInError{err: &denial{what, code}, outage: true}
	case code == "" || len(code) > 64 || strings.Trim(code, "abcdefghijklmnopqrstuvwxyz_-") != "":
		return &denial{what, "an error without a proper code"}
	}
	return &denial{what, code}
}

// A denial is an OAuth error (RFC 6749, 5.2): the authorization server has decided.
type denial struct{ what, code string }

func (v *denial) Error() string { return v.what + ": the authorization server answered " + v.code }

// outage says whether an error may be gone later; decided is the code of one by which the authorization server has
// said no, "" for all others.
func outage(err error) bool {
	e, ok := errors.AsType[*signInError](err)
	return ok && e.outage
}

func decided(err error) string {
	if e, ok := errors.AsType[*denial](err); ok && !outage(err) {
		return e.code
	}
	return ""
}

// loose is a number that some servers write as a string.
type loose float64

func (s *loose) UnmarshalJSON(b []byte) error {
	f, err := strconv.ParseFloat(strings.Trim(string(b), `"`), 64)
	if err == nil && f > 0 && f < 1e15 {
		*s = loose(f)
	}
	return nil // what makes no sense counts as not said
}
