package main

// client.go makes the only HTTP clients of the program: it alone opens connections to servers. Whom we talk
// to and what travels there is decided here: the headers, cookies, client certificate and token of a person
// go to the MCP origin only, nothing switches certificate checks off, and what a server names for sign-in
// cannot point us into the person's own network.

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptrace"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

type clientOptions struct {
	// Whom we may talk to.
	server       *url.URL // the MCP server
	allowOrigins []string // if any, the only origins that are contacted
	authServers  []string // origins of --auth-server, which may have a private address
	family       string   // "tcp4" or "tcp6"; "" is both

	// What travels: all but oauthHeaders to the MCP origin only.
	userAgent    string
	headers      *headerSource                         // may be nil
	token        func(context.Context) (secret, error) // may be nil; not asked if headers hold an Authorization
	refused      func(secret)                          // told of a token that met 401 or 403; may be nil
	cookies      bool
	cert, key    []byte      // PEM of the client certificate, also shown to authServers; nil for none
	oauthHeaders http.Header // sent to authServers only

	// Whom to believe.
	roots  []pemFile // added to the system's roots
	caOnly bool      // instead of the system's roots
	tls13  bool

	// The way there.
	proxy     func(*http.Request) (*url.URL, error) // nil for none
	proxyAuth secret                                // "user:password", instead of what the proxy's URL says

	// Limits; 0 is 10 s for connect and none for the others.
	connectTimeout time.Duration // of the address lookup and TCP, and again of TLS
	headersTimeout time.Duration // between a request and the headers of its answer
	bodyTimeout    time.Duration // between two reads of an answer
}

// A pemFile without data is read when somebody needs it.
type pemFile struct {
	name string
	data []byte
}

func (f pemFile) text() []byte {
	if f.data == nil {
		f.data, _ = load(f.name) // it was there at the start
	}
	return f.data
}

const (
	maxHeaders   = 64 << 10 // bytes of response headers
	maxCookies   = 1 << 20  // bytes of cookies, before old ones go
	maxMetadata  = 1 << 20  // bytes of an answer of an authorization server
	maxRedirects = 3
	signInLimit  = 20 * time.Second // for one exchange with an authorization server; less than a lease is good for
	userTimeout  = 30 * time.Second // that sent bytes may stay unacknowledged before the line counts as dead
)

// newClients makes the three clients. again and once are pinned to the MCP origin; once keeps an idle
// connection for 1 s only, because a call that may not be repeated must not die on one that has gone stale.
// auth is for sign-in: it carries nothing of the person, and its answers are bounded in size and time.
func newClients(o clientOptions) (again, once, auth *http.Client, err error) {
	bare, err := newTLS(o)
	if err != nil {
		return nil, nil, nil, err
	}
	// Certificates take longer to read, and hold more memory, than all the rest: they wait for whom they concern.
	full := sync.OnceValue(func() *tls.Config {
		c := bare.Clone()
		c.RootCAs = o.pool()
		return c
	})
	conf := bare
	if o.server.Scheme == "https" || !isLocalName(o.server.Hostname()) {
		conf = full()
	}
	seen := new(atomic.Pointer[netip.Addr])
	main := newTransport(o, conf, nil)
	brief := main.Clone()
	brief.IdleConnTimeout = time.Second
	again = &http.Client{Transport: &pinned{o, main, seen}, CheckRedirect: sameOrigin}
	once = &http.Client{Transport: &pinned{o, brief, seen}, CheckRedirect: sameOrigin}
	if o.cookies {
		all, _ := cookiejar.New(nil) // never fails
		again.Jar = &jar{all: all}
		once.Jar = again.Jar
	}
	a := &careful{o: o, known: sync.OnceValue(func() *http.Transport { return newTransport(o, full(), vetDial) }), seen: seen}
	a.strange = sync.OnceValue(func() *http.Transport {
		t := a.known().Clone()
		t.TLSClientConfig.Certificates = nil
		return t
	})
	return again, once, &http.Client{Transport: a, CheckRedirect: nextHop, Timeout: signInLimit}, nil
}

// A jar keeps cookies, in bounds: when there are too many, only some stay, of those that go where the last came from.
type jar struct {
	mu   sync.Mutex // two clients share it
	all  http.CookieJar
	size int // bytes that were put in
}

func (j *jar) Cookies(u *url.URL) []*http.Cookie {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.all.Cookies(u)
}

func (j *jar) SetCookies(u *url.URL, cookies []*http.Cookie) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, c := range cookies {
		j.size += len(c.Raw)
	}
	if j.size > maxCookies {
		kept := j.all.Cookies(u)
		kept = kept[:min(len(kept), 50)] // as many as RFC 6265, 6.1 expects of a browser
		for _, c := range kept {
			c.Path = "/"
		}
		j.all, _ = cookiejar.New(nil) // never fails
		j.all.SetCookies(u, kept)
		j.size = 0
	}
	j.all.SetCookies(u, cookies)
}

// pool is whom we believe: the system's roots unless o.caOnly, and those that are added.
func (o clientOptions) pool() *x509.CertPool {
	pool, err := x509.SystemCertPool()
	if err != nil || o.caOnly {
		pool = x509.NewCertPool()
	}
	for _, f := range o.roots {
		pool.AppendCertsFromPEM(f.text())
	}
	return pool
}

// newTLS is TLS 1.2 at least and the client's certificate, without roots.
func newTLS(o clientOptions) (*tls.Config, error) {
	conf := &tls.Config{MinVersion: tls.VersionTLS12}
	if o.tls13 {
		conf.MinVersion = tls.VersionTLS13
	}
	for _, f := range o.roots {
		if f.data != nil && !x509.NewCertPool().AppendCertsFromPEM(f.data) {
			return nil, &usageError{f.name + " holds no certificate in PEM form", "convert it: openssl x509 -inform der -in FILE -out FILE.pem"}
		}
	}
	if o.cert == nil {
		return conf, nil
	}
	if bytes.Contains(o.key, []byte("ENCRYPTED")) { // PKCS#8 says so in its first line, older forms in Proc-Type
		return nil, &usageError{"the key of --client-key is encrypted", "decrypt it into a file that only you can read: openssl pkey -in KEY -out PLAIN"}
	}
	pair, err := tls.X509KeyPair(o.cert, o.key)
	if err != nil {
		return nil, &usageError{"reading --client-cert and --client-key: " + strings.TrimPrefix(err.Error(), "tls: "), "both are PEM files, and the key is the one of the certificate"}
	}
	conf.Certificates = []tls.Certificate{pair}
	return conf, nil
}

// newTransport has the machine's part of noticing a dead line: TCP keep-alive where it is idle, the user
// timeout where bytes are on the way, and pings on HTTP/2. vet may refuse an address before it is dialled.
func newTransport(o clientOptions, conf *tls.Config, vet func(ctx context.Context, address string) error) *http.Transport {
	limit := cmp.Or(o.connectTimeout, 10*time.Second)
	dialer := &net.Dialer{
		Timeout:         limit,
		KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 10 * time.Second, Interval: 5 * time.Second, Count: 3},
		ControlContext: func(ctx context.Context, _, address string, c syscall.RawConn) error {
			if vet != nil {
				if err := vet(ctx, address); err != nil {
					return err
				}
			}
			return c.Control(setUserTimeout)
		},
	}
	return &http.Transport{
		Proxy: o.proxyFor,
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			return dialer.DialContext(ctx, cmp.Or(o.family, network), address)
		},
		TLSClientConfig:        conf,
		TLSHandshakeTimeout:    limit,
		ResponseHeaderTimeout:  o.headersTimeout,
		DisableCompression:     true,
		MaxIdleConnsPerHost:    1000, // a crowd of calls must not dial anew for each
		IdleConnTimeout:        90 * time.Second,
		MaxResponseHeaderBytes: maxHeaders,
		ForceAttemptHTTP2:      true,
		HTTP2:                  &http.HTTP2Config{SendPingTimeout: 10 * time.Second, PingTimeout: 10 * time.Second},
		OnProxyConnectResponse: proxyRefused,
	}
}

// proxyFor is the proxy for req, with our credentials; an error if the origin may not be contacted at all. The
// environment's own text, which may hold a password, does not get into the error.
func (o clientOptions) proxyFor(req *http.Request) (*url.URL, error) {
	if to := req.URL; len(o.allowOrigins) > 0 && !slices.Contains(o.allowOrigins, origin(to)) {
		return nil, deny("refusing to contact %s: --allow-origin does not name it", origin(to))
	}
	if o.proxy == nil {
		return nil, nil
	}
	u, err := o.proxy(req)
	if err != nil {
		return nil, deny("the proxy of the environment is no address")
	}
	if u == nil || o.proxyAuth.empty() {
		return u, nil
	}
	c := *u
	user, password, _ := strings.Cut(o.proxyAuth.reveal(), ":")
	c.User = url.UserPassword(user, password)
	return &c, nil
}

// proxyRefused is what to tell of a proxy's own answer, unless that is a success. Nothing has reached the server.
func proxyRefused(_ context.Context, proxy *url.URL, _ *http.Request, resp *http.Response) error {
	asked := strings.ToLower(strings.Join(resp.Header.Values("Proxy-Authenticate"), ","))
	code, known, hint := resp.StatusCode, final, ""
	switch {
	case code/100 == 2:
		return nil
	case code >= 500, code == http.StatusTooManyRequests:
		known = unsent
	case code != http.StatusProxyAuthRequired:
	case !strings.Contains(asked, "basic") && (strings.Contains(asked, "negotiate") || strings.Contains(asked, "ntlm")):
		hint = "; it wants Negotiate or NTLM, which mcp-redial does not speak: run a local helper (px or cntlm) and give its address with --proxy"
	default:
		hint = "; give the credentials with --proxy-auth-file"
	}
	err := fmt.Errorf("the proxy %s answered %d %s%s", origin(proxy), code, http.StatusText(code), hint)
	return &exchangeError{fate: known, err: err}
}

// deny is the error for what is never sent.
func deny(format string, args ...any) error {
	return &exchangeError{fate: final, err: fmt.Errorf(format, args...)}
}

// send performs a checked request. One that reaches the MCP server notes in seen where that is, once: the
// connection has proven itself by then, where a mere dial proves only what some name server says.
func (o clientOptions) send(t *http.Transport, req *http.Request, proxy *url.URL, seen *atomic.Pointer[netip.Addr]) (*http.Response, error) {
	if proxy == nil && seen.Load() == nil && origin(req.URL) == origin(o.server) {
		req = req.WithContext(httptrace.WithClientTrace(req.Context(), &httptrace.ClientTrace{GotConn: func(i httptrace.GotConnInfo) {
			if a, err := netip.ParseAddrPort(i.Conn.RemoteAddr().String()); err == nil {
				addr := a.Addr().Unmap()
				seen.CompareAndSwap(nil, &addr)
			}
		}}))
	}
	resp, err := t.RoundTrip(req)
	if err == nil && proxy != nil && resp.StatusCode == http.StatusProxyAuthRequired {
		resp.Body.Close()
		resp, err = nil, proxyRefused(req.Context(), proxy, req, resp)
	}
	if err != nil && proxy != nil {
		err = fmt.Errorf("through the proxy %s: %w", origin(proxy), err)
	}
	if err == nil && o.bodyTimeout > 0 {
		resp.Body = &impatientBody{resp.Body, o.bodyTimeout}
	}
	return resp, err
}

// An impatientBody gives up when a single read takes longer than limit. Time between reads is ours.
type impatientBody struct {
	io.ReadCloser
	limit time.Duration
}

func (b *impatientBody) Read(p []byte) (int, error) {
	late := time.AfterFunc(b.limit, func() { b.Close() })
	n, err := b.ReadCloser.Read(p)
	if !late.Stop() && err != nil {
		err = fmt.Errorf("no byte of the answer for %v (--body-timeout)", b.limit)
	}
	return n, err
}

// fail keeps RoundTripper's promise to close the body.
func fail(req *http.Request, err error) (*http.Response, error) {
	if req.Body != nil {
		req.Body.Close()
	}
	return nil, err
}

// pinned speaks with the MCP origin only, and adds what a person gave for it.
type pinned struct {
	o    clientOptions
	t    *http.Transport
	seen *atomic.Pointer[netip.Addr] // where the MCP server was first reached, on no proxy
}

func (p *pinned) RoundTrip(req *http.Request) (*http.Response, error) {
	to, home := req.URL, p.o.server
	if (to.Scheme != home.Scheme || to.Host != home.Host) && origin(to) != origin(home) {
		return fail(req, deny("refusing to send to %s what is meant for %s", origin(to), origin(home)))
	}
	proxy, err := p.o.proxyFor(req)
	if err != nil {
		return fail(req, err)
	}
	ctx := req.Context()
	req = req.WithContext(ctx) // a RoundTripper leaves the caller's as it is
	req.Header = maps.Clone(req.Header)
	req.Header.Set("User-Agent", p.o.userAgent)
	if p.o.headers != nil {
		h, err := p.o.headers.current(ctx)
		if err != nil {
			return fail(req, err)
		}
		for name, values := range h {
			if name != "Accept" && name != "Content-Type" { // ours are what the transport needs
				req.Header[name] = values
			}
		}
	}
	var t secret
	if p.o.token != nil && req.Header.Get("Authorization") == "" {
		if t, err = p.o.token(ctx); err != nil {
			return fail(req, err)
		}
		if !t.empty() {
			req.Header.Set("Authorization", "Bearer "+t.reveal())
		}
	}
	resp, err := p.o.send(p.t, req, proxy, p.seen)
	if err == nil && p.o.refused != nil && (resp.StatusCode == http.StatusUnauthorized || resp.StatusCode == http.StatusForbidden) {
		p.o.refused(t)
	}
	return resp, err
}

func (p *pinned) CloseIdleConnections() { p.t.CloseIdleConnections() }

// sameOrigin follows a redirect that keeps method, body and origin (RFC 9110, 15.4.8 and 15.4.9).
func sameOrigin(req *http.Request, via []*http.Request) error {
	code, to := req.Response.StatusCode, origin(req.URL)
	switch {
	case to != origin(via[0].URL):
		return deny("the server redirects (%d) to %s; if that is right, give its address there as the URL", code, to)
	case code != http.StatusTemporaryRedirect && code != http.StatusPermanentRedirect:
		return deny("the server redirects (%d) to another path on %s; give that address as the URL", code, to)
	case len(via) > maxRedirects:
		return deny("the server redirects for ever")
	}
	return nil
}

// nextHop follows the redirects of metadata. Each hop then passes careful like a first request.
func nextHop(req *http.Request, via []*http.Request) error {
	switch {
	case via[0].Method != http.MethodGet:
		return deny("refusing to follow a redirect (%d) to %s with credentials", req.Response.StatusCode, origin(req.URL))
	case via[len(via)-1].URL.Scheme != req.URL.Scheme:
		return deny("refusing to follow a redirect from %s to %s", via[len(via)-1].URL.Scheme, req.URL.Scheme)
	case len(via) > maxRedirects:
		return deny("%s redirects for ever", origin(req.URL))
	}
	req.Header.Del("Referer") // the path of a metadata document is nobody else's business
	return nil
}

// careful is for addresses that a server named. The MCP server's own origin is the person's choice and exempt.
type careful struct {
	o              clientOptions
	known, strange func() *http.Transport // with and without the client certificate
	seen           *atomic.Pointer[netip.Addr]
}

// A trust is what a dial for sign-in may do; it travels in the context, and the zero value trusts nobody.
type trust struct {
	any    bool       // an origin that the person chose, or a proxy
	named  bool       // by --auth-server
	server netip.Addr // where the MCP server is, if known
}

type trustKey struct{}

func (c *careful) RoundTrip(req *http.Request) (*http.Response, error) {
	to, own := origin(req.URL), origin(req.URL) == origin(c.o.server)
	proxy, err := c.o.proxyFor(req)
	if err != nil {
		return fail(req, err)
	}
	t := trust{any: own, named: slices.Contains(c.o.authServers, to)}
	if a := c.seen.Load(); a != nil {
		t.server = *a
	} else if a, err := netip.ParseAddr(c.o.server.Hostname()); err == nil {
		t.server = a.Unmap()
	}
	if !own && req.URL.Scheme != "https" && !isLocalName(req.URL.Hostname()) {
		return fail(req, deny("refusing to contact %s for sign-in: not https", to))
	}
	if proxy != nil && !own {
		if err := t.vetName(req.URL.Hostname()); err != nil {
			return fail(req, err)
		}
		t.any = true // the proxy polices the rest
	}
	req = req.Clone(context.WithValue(req.Context(), trustKey{}, t))
	next := c.strange
	if own || t.named {
		next = c.known
	}
	req.Header.Set("User-Agent", c.o.userAgent)
	if t.named {
		maps.Copy(req.Header, c.o.oauthHeaders)
	}
	resp, err := c.o.send(next(), req, proxy, c.seen)
	if err != nil {
		return nil, err
	}
	resp.Body = http.MaxBytesReader(nil, resp.Body, maxMetadata)
	return resp, nil
}

// vetDial refuses the address that is about to be dialled, after the lookup, so that no name can lie about it.
func vetDial(ctx context.Context, address string) error {
	t, _ := ctx.Value(trustKey{}).(trust)
	a, err := netip.ParseAddrPort(address)
	if err != nil {
		return deny("refusing to dial for sign-in: no address")
	}
	return t.vet(a.Addr())
}

// vetName judges what a proxy would look up: literal addresses, in any spelling, and names of this machine.
func (t trust) vetName(host string) error {
	if a, err := netip.ParseAddr(host); err == nil {
		return t.vet(a)
	}
	label := host[strings.LastIndexByte(strings.TrimSuffix(host, "."), '.')+1:]
	if isLocalName(host) {
		return t.vet(netip.AddrFrom4([4]byte{127, 0, 0, 1}))
	} else if label != "" && label[0] >= '0' && label[0] <= '9' || strings.ContainsFunc(host, func(r rune) bool { return r > '~' }) {
		return deny("refusing to contact %s for sign-in: a number is no name, nor is what becomes one on the way: write it in ASCII", clean(host))
	}
	return nil
}

// vet says whether a server that is not trusted further may point us at a (protocol.md's SSRF rules).
func (t trust) vet(a netip.Addr) error {
	a = a.Unmap().WithZone("")
	if nat64 := netip.MustParsePrefix("64:ff9b::/96"); nat64.Contains(a) {
		b := a.As16()
		a = netip.AddrFrom4([4]byte(b[12:]))
	}
	switch {
	case t.any, isThisHost(a) && isThisHost(t.server):
	case isThisHost(a), a.IsLinkLocalUnicast():
		return deny("refusing to contact %s for sign-in: an address of this machine or its link, named by a remote server", a)
	case !a.IsGlobalUnicast():
		return deny("refusing to contact %s for sign-in", a)
	case isPrivate(a) && !isPrivate(t.server) && !t.named:
		return deny("refusing to contact the private address %s for sign-in; if it is right, name the server with --auth-server", a)
	}
	return nil
}

func isThisHost(a netip.Addr) bool {
	return a.IsLoopback() || a.IsUnspecified() || netip.MustParsePrefix("0.0.0.0/8").Contains(a)
}

// isPrivate knows the networks of organisations and carriers, and what is set aside for other uses than the internet or
// leads somewhere else than it says: benchmarks and those who borrow them, tunnels, the address of a cloud's own service.
func isPrivate(a netip.Addr) bool {
	const others = "100.64.0.0/10 192.0.0.0/24 198.18.0.0/15 240.0.0.0/4 168.63.129.16/32 ::/96 64:ff9b:1::/48 2001::/32 2002::/16 fec0::/10"
	return a.IsPrivate() || slices.ContainsFunc(strings.Fields(others), func(p string) bool { return netip.MustParsePrefix(p).Contains(a) })
}
