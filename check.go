package main

// check.go answers a person who asks why it does not work (check) and what is running (status). A check is no
// second implementation: it runs the bridge itself, as its client, with redialling off, and watches the
// network under it. It signs nobody in. What it prints is escaped, and never a token, a path or a query.

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptrace"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// The exit codes of check, besides 0 and that of usage errors.
const (
	exitNoWay    = 1 // not reachable
	exitSignIn   = 3 // sign-in needed
	exitProtocol = 4 // reachable, but not as an MCP server
)

const signInAdvice = "run mcp-redial login with the same arguments, or give the server's key with --header"

const (
	checkLimit = 45 * time.Second // for each answer
	maxStatus  = 4 << 10          // bytes of a status file
)

// A step is one line of the report.
type step struct {
	Step   string `json:"step"`
	OK     bool   `json:"ok"`
	Ms     int64  `json:"ms"` // since the step before it
	Detail string `json:"detail"`
	Next   string `json:"next,omitempty"` // after a failure: what to try
}

// A checkup is one run of check. It has the program's parts for itself alone.
type checkup struct {
	options
	outside
	client clientOptions
	wire   *wire
	auth   *authorizer
	json   bool
	out    io.Writer

	*guest
	exit int // what a failed step made of it

	// What the bridge's goroutines write too, with mu held.
	mu    sync.Mutex
	steps []step
	last  time.Time // the last step
	sight
}

// A sight is what the network has shown so far.
type sight struct {
	kind    transportKind
	answers []*http.Response // never their bodies
	stream  int              // status of the answer to the last GET; 0 if there is none yet
	broken  error            // of the last exchange that had no answer
}

// run goes through the connection step by step, prints what it finds, and returns the exit code.
func (k *checkup) run(ctx context.Context) int {
	k.wire.again.Transport = &watched{k, k.wire.again.Transport}
	k.wire.once.Transport = &watched{k, k.wire.once.Transport}
	k.autoReconnect, k.offlineStart, k.last = false, false, time.Now()
	k.guest = within(httptrace.WithClientTrace(ctx, k.trace()), k.options, outside{connect: k.dial, signIn: k.signIn}, k.wire)
	// Each step is taken only if those before it went well.
	_ = k.reach() && k.count("tools") && k.count("resources") && k.count("prompts") && k.ping()
	k.leave()
	if k.json {
		printJSON(k.out, map[string]any{"server": k.server, "exit": k.exit, "steps": k.steps})
	}
	return k.exit
}

// A guest is the client of a bridge in this process.
type guest struct {
	say    io.WriteCloser
	hear   *lineReader // which ends when the bridge has
	stop   func()      // ends it at once
	serial int
}

// within starts a bridge, and ends it with ctx at the latest.
func within(ctx context.Context, o options, world outside, at *wire) *guest {
	world.remember = func(snapshot) {}
	in, say := io.Pipe()
	hear, out := io.Pipe()
	ctx, stop := context.WithCancel(ctx)
	go func() {
		newBridge(o, world, at.log, at.mem).run(ctx, in, out)
		in.Close()
		out.Close()
	}()
	return &guest{say: say, hear: newLineReader(hear, o.maxMessage, newBudget(o.maxMemory, o.maxMessage)), stop: stop}
}

// introduction is what initialize says of us.
func introduction(name string) any {
	return map[string]any{"protocolVersion": "2025-11-25", "capabilities": map[string]any{}, "clientInfo": map[string]string{"name": "mcp-redial " + name, "version": "1"}}
}

// ask makes a request of each of params, and hands the answers to take until all are there or the bridge has ended.
func (g *guest) ask(method string, take func(message), params ...any) {
	open := map[string]bool{}
	for _, p := range params {
		g.serial++
		id := strconv.Itoa(g.serial)
		open[id] = true
		raw, _ := json.Marshal(p) // cannot fail: maps of strings and scanned values
		g.tell(newRequest(id, method, raw))
	}
	for len(open) > 0 {
		line, c, err := g.hear.next(context.Background())
		g.hear.mem.free(c)
		if err != nil {
			return
		}
		if m, _ := scan(line); m.kind == response { // the bridge wrote it
			delete(open, m.id)
			take(m)
		}
	}
}

func (g *guest) tell(m message) { g.say.Write(append(m.raw, '\n')) } // an error shows when nothing answers

// leave ends the line, and waits for the bridge.
func (g *guest) leave() {
	g.say.Close()
	io.Copy(io.Discard, g.hear.r)
	g.stop()
}

func printJSON(out io.Writer, v any) {
	text, _ := json.MarshalIndent(v, "", "  ") // cannot fail: plain structs
	fmt.Fprintf(out, "%s\n", text)
}

// well reports a step that went well: true.
func (k *checkup) well(name, detail string) bool {
	return k.report(step{Step: name, OK: true, Detail: detail})
}

// fail reports one that did not, after which there is no other: false.
func (k *checkup) fail(exit int, name, cause, next string) bool {
	k.exit = exit
	return k.report(step{Step: name, Detail: cause, Next: next})
}

func (k *checkup) report(s step) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	s.Ms, k.last = time.Since(k.last).Milliseconds(), time.Now()
	s.Detail = escape(s.Detail, maxLine)
	k.steps = append(k.steps, s)
	mark, hint := "ok  ", ""
	if !s.OK {
		mark, hint = "FAIL", "\n      next: "+s.Next
	}
	if !k.json {
		fmt.Fprintf(k.out, "%s  %-14s  %5d ms  %s%s\n", mark, s.Step, s.Ms, s.Detail, hint)
	}
	return s.OK
}

// ---- watching the network

// watched is an http.RoundTripper that notes what comes of each exchange.
type watched struct {
	k    *checkup
	next http.RoundTripper
}

func (w *watched) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := w.next.RoundTrip(req)
	w.k.mu.Lock()
	defer w.k.mu.Unlock()
	if w.k.broken = err; err == nil {
		w.k.answers = append(w.k.answers, resp)
		if req.Method == http.MethodGet {
			w.k.stream = resp.StatusCode
		}
	}
	return resp, err
}

func (k *checkup) dial(kind transportKind) transport {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.kind = kind
	return k.connect(kind)
}

func (k *checkup) seen() sight { k.mu.Lock(); defer k.mu.Unlock(); return k.sight }

// trace reports the steps of the first connection that went well. What fails ends an exchange: see reach.
func (k *checkup) trace() *httptrace.ClientTrace {
	first := func(err error, name string, detail func() string) {
		if err == nil && len(k.seen().answers) == 0 {
			k.well(name, detail())
		}
	}
	return &httptrace.ClientTrace{
		DNSDone:          func(i httptrace.DNSDoneInfo) { first(i.Err, "DNS", func() string { return fmt.Sprint(i.Addrs) }) },
		ConnectDone:      func(_, address string, err error) { first(err, "TCP", func() string { return address }) },
		TLSHandshakeDone: func(s tls.ConnectionState, err error) { first(err, "TLS", func() string { return k.believed(s) }) },
	}
}

// believed describes a TLS connection: who vouches for the server, until when, and why we believe it.
func (k *checkup) believed(s tls.ConnectionState) string {
	chain, source, between := s.VerifiedChains[0], "the system's store", x509.NewCertPool()
	for _, c := range chain[1:] {
		between.AddCert(c)
	}
	for _, f := range k.client.roots {
		roots := x509.NewCertPool()
		roots.AppendCertsFromPEM(f.text())
		if _, err := chain[0].Verify(x509.VerifyOptions{Roots: roots, Intermediates: between}); err == nil {
			source = f.name
		}
	}
	text := fmt.Sprintf("%s, issued by %s, until %s, accepted by %s", tls.VersionName(s.Version), chain[0].Issuer, chain[0].NotAfter.Format(time.DateOnly), source)
	if k.client.cert != nil {
		text += "; a client certificate is at hand"
	}
	return text
}

// diagnose says at which step the network failed, and what to try.
func diagnose(err error) (name, next string) {
	switch {
	case errors.As(err, new(*exchangeError)): // of our own making
		return "connection", "do what it says, or ask whoever runs it"
	case errors.As(err, new(*net.DNSError)):
		return "DNS", "check the spelling and the VPN; where only a proxy knows outside names, give --proxy"
	case errors.As(err, new(x509.UnknownAuthorityError)):
		return "TLS", "a private CA, or a proxy that opens TLS: give that CA's certificate with --ca-file"
	case errors.As(err, new(x509.HostnameError)):
		return "TLS", "use the name that the certificate was issued for"
	case errors.As(err, new(*tls.CertificateVerificationError)):
		return "TLS", "check the clock of this machine; otherwise the server needs another certificate"
	case errors.As(err, new(tls.AlertError)):
		return "TLS", "if the server wants a client certificate, give --client-cert and --client-key"
	case errors.As(err, new(tls.RecordHeaderError)):
		return "TLS", "that port does not speak TLS: check the port, or give an http: address"
	}
	return "TCP", "check host and port, and that the server runs; behind a company proxy, give --proxy or set HTTPS_PROXY"
}

// ---- being the client

// try asks one thing, and returns the answer, with its text if it is an error.
func (k *checkup) try(method string, params any) (m message, failure string) {
	defer time.AfterFunc(checkLimit, k.stop).Stop()
	k.ask(method, func(answer message) { m = answer }, params)
	if m.raw == nil {
		return m, fmt.Sprintf("no answer within %v", checkLimit)
	}
	failure, _ = unquote(peek(m.raw, "error", "message"))
	if cause, ok := unquote(peek(m.raw, "error", "data", "cause")); ok && !strings.Contains(failure, cause) {
		failure += ": " + cause
	}
	return m, failure
}

// reach goes as far as a session that works.
func (k *checkup) reach() bool {
	way := "directly"
	if proxy, _ := k.client.proxyFor(&http.Request{URL: k.wire.url}); proxy != nil {
		way = "through the proxy " + origin(proxy)
	}
	k.well("address", k.server+", "+way)
	m, failure := k.try("initialize", introduction("check"))
	seen := k.seen()
	kind, answers := seen.kind, seen.answers
	if len(answers) == 0 {
		err := cmp.Or(seen.broken, errors.New(failure))
		if absent, ok := errors.AsType[*signInError](err); ok {
			return k.fail(exitSignIn, "authentication", err.Error(), cmp.Or(absent.hint, signInAdvice))
		}
		name, next := diagnose(err)
		if name != "connection" { // net/http quotes the server, which may quote us; the bridge does not
			cause, _ := unquote(peek(m.raw, "error", "data", "cause"))
			err = errors.New(cmp.Or(cause, failure))
		}
		return k.fail(exitNoWay, name, err.Error(), next)
	}
	last, hops, session := answers[len(answers)-1], 0, "none: the server keeps no state for us"
	for _, a := range answers {
		if a.StatusCode/100 == 3 {
			hops++
		}
		if a.Header.Get("Mcp-Session-Id") != "" || kind == kindSSE {
			session = "one, which ends with this check"
		}
	}
	code := last.StatusCode
	if code/100 == 3 {
		return k.fail(exitProtocol, "redirects", failure, "if you trust that address, give it as the URL")
	}
	k.well("redirects", fmt.Sprint(hops))
	if code == http.StatusUnauthorized || code == http.StatusForbidden || errorCode(m.raw) == int(faultAuthorization) {
		return k.fail(exitSignIn, "authentication", failure+k.credential(), signInAdvice)
	}
	k.well("authentication", strings.TrimPrefix(k.credential(), "; "))
	h, ok := readHandshake(m)
	switch {
	case code >= 500:
		return k.fail(exitNoWay, "transport", failure, "the server, or a gateway before it, is in trouble: try later, or ask whoever runs it")
	case !ok:
		return k.fail(exitProtocol, "transport", failure, "check the path of the URL (often /mcp or /sse), and --transport")
	}
	era := h.ProtocolVersion
	if kind == kindStateless {
		era = modernVersion + ", translated"
	}
	k.well("transport", fmt.Sprintf("%v on %s, MCP %s", kind, last.Proto, era))
	var server struct{ Name, Version string }
	var can map[string]json.RawMessage
	_ = json.Unmarshal(h.ServerInfo, &server) // for show
	_ = json.Unmarshal(h.Capabilities, &can)
	k.well("handshake", fmt.Sprintf("%s %s can: %s", server.Name, server.Version, strings.Join(slices.Sorted(maps.Keys(can)), ", ")))
	k.well("session", session)
	k.tell(newNotification("notifications/initialized", nil))
	return true
}

// credential says what proves who we are.
func (k *checkup) credential() string {
	t, d, h := k.auth.stored(), k.auth.found, k.client.headers
	switch {
	case h != nil && h.authorized():
		return "; by your own Authorization header"
	case k.auth.bearer(t) != "":
		return fmt.Sprintf("; signed in at %s, scopes %q, until %s", t.Issuer, t.Scope, k.auth.expiry(t).Format(time.DateTime))
	case d != nil:
		return fmt.Sprintf("; asked for by %s, scopes %q", d.Server.Issuer, d.Scope)
	}
	return "; not asked for"
}

// count reports how many tools, resources or prompts the client gets to see.
func (k *checkup) count(what string) bool {
	n, params := 0, map[string]json.RawMessage{}
	for range maxToolPages {
		m, failure := k.try(what+"/list", params)
		if errorCode(m.raw) == -32601 {
			return k.well(what, "not offered")
		} else if failure != "" {
			return k.fail(exitProtocol, what, failure, "ask whoever runs the server")
		}
		each(peek(m.raw, "result", what), func([]byte, int, int) { n++ })
		if params["cursor"] = peek(m.raw, "result", "nextCursor"); at(params["cursor"], 0) != '"' {
			break
		}
	}
	return k.well(what, fmt.Sprint(n))
}

// ping reports a round trip, for which any answer of the server's will do, and what became of its own stream.
func (k *checkup) ping() bool {
	method := "ping"
	if k.seen().kind == kindStateless {
		method = "server/discover"
	}
	m, failure := k.try(method, map[string]any{})
	if peek(m.raw, "error", "data", "reason") != nil || m.raw == nil {
		return k.fail(exitProtocol, "ping", failure, "ask whoever runs the server, or what lies between")
	}
	k.well("ping", "a round trip")
	for range 30 { // the GET that opens the stream runs beside us
		if seen := k.seen(); seen.stream != 0 || seen.kind != kindStreamable {
			break
		}
		time.Sleep(100 * time.Millisecond)
	}
	status, said := k.seen().stream, map[int]string{0: "none", http.StatusOK: "open"}
	return k.well("stream", cmp.Or(said[status], fmt.Sprintf("not offered (%d)", status)))
}

// ---- status

// A running is what a bridge tells of itself in a file: origins only, nothing secret.
type running struct {
	Pid     int       `json:"pid"`
	Host    string    `json:"host"`
	Birth   string    `json:"birth,omitempty"` // of the process, as its system counts: pids repeat
	Server  string    `json:"server"`
	Started time.Time `json:"started"`
	snapshot
}

func thisBridge(server string) running {
	return running{Pid: os.Getpid(), Host: hostname(), Birth: birth(os.Getpid()), Server: server, Started: time.Now()}
}

func (r running) file() string { return fmt.Sprintf("redial_%d_status.json", r.Pid) }

// status prints the bridges of this user on this machine. The files of those that have died are swept.
func status(s *store, asJSON bool, out io.Writer) int {
	files, err := s.list("redial_")
	if err != nil {
		fmt.Fprintln(out, clean(err.Error()))
		return 1
	}
	all := []running{}
	for _, file := range files {
		data, err := s.own(file.name, maxStatus)
		var r running
		switch {
		case err != nil, json.Unmarshal(data, &r) != nil, r.Host != hostname(), r.file() != file.name: // not to be believed
		case !alive(r.Pid), birth(r.Pid) != r.Birth:
			s.remove(file.name)
		default:
			all = append(all, r)
		}
	}
	if asJSON {
		printJSON(out, all)
		return 0
	}
	if len(all) == 0 {
		fmt.Fprintln(out, "no bridge is running")
	}
	for _, r := range all {
		fmt.Fprintf(out, "%d %s %s since %s, %d reconnects, %d calls held, last error: %s\n", r.Pid, clean(r.Server), clean(r.State),
			r.Since.Format(time.DateTime), r.Reconnects, r.Held, cmp.Or(clean(r.LastError), "none"))
	}
	return 0
}
