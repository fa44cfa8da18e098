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
	"text/tabwriter"
	"time"
)

// The exit codes of check, besides 0 and that of usage errors.
const (
	exitNoWay    = 1 // not reachable
	exitSignIn   = 3 // sign-in needed
	exitProtocol = 4 // reachable, but not as an MCP server
)

const (
	checkLimit  = 45 * time.Second // for each answer
	streamLimit = 3 * time.Second  // for the answer to the GET that opens the server's own stream
)

// checked is what check needs of the program: nobody else uses it any more.
type checked struct {
	options
	outside
	client clientOptions
	wire   *wire
	auth   *authorizer
	json   bool
}

// A step is one line of the report.
type step struct {
	Step   string `json:"step"`
	Mark   string `json:"mark"` // "ok", "FAIL", or "-" where there is nothing to try
	Ms     int64  `json:"ms"`
	Detail string `json:"detail"`
	Cause  string `json:"cause,omitempty"` // the likely one
	Next   string `json:"next,omitempty"`  // what to try
}

// A checkup is one run of check.
type checkup struct {
	checked
	out   io.Writer
	steps []step
	exit  int

	// The client's end of the bridge.
	ctx   context.Context // of the whole run
	stop  func()
	to    io.Writer
	from  *lineReader
	asked int
	can   map[string]json.RawMessage // the server's capabilities

	// What the network showed. The loop and net/http's goroutines write it, with mu held.
	mu      sync.Mutex
	kind    transportKind
	begun   map[string]time.Time // by step
	network []step               // of the first connection
	answers []*http.Response     // never their bodies
	broken  error                // how the last exchange without an answer ended
	stream  chan int             // status of the answer to the first GET
}

// check goes through the connection step by step, prints what it finds, and returns the exit code.
func check(ctx context.Context, c checked, out io.Writer) int {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	k := &checkup{checked: c, out: out, ctx: ctx, stop: stop, begun: map[string]time.Time{}, stream: make(chan int, 1)}
	k.wire.again.Transport = &watched{k, k.wire.again.Transport}
	k.wire.once.Transport = &watched{k, k.wire.once.Transport}
	k.autoReconnect, k.offlineStart = false, false
	in, to := io.Pipe()
	from, w := io.Pipe()
	k.to, k.from = to, newLineReader(from, k.maxMessage, newBudget(k.maxMemory, k.maxMessage))
	b := newBridge(k.options, outside{k.dial, k.signIn, func(snapshot) {}}, k.wire.log, k.wire.mem)
	var wg sync.WaitGroup
	wg.Go(func() {
		b.run(httptrace.WithClientTrace(ctx, k.trace()), in, w)
		in.Close()
		w.Close()
	})
	if k.connection() {
		k.session()
		for _, what := range []string{"tools", "resources", "prompts"} {
			k.count(what)
		}
		k.ping()
	}
	to.Close()
	io.Copy(io.Discard, from)
	wg.Wait()
	if k.json {
		text, _ := json.MarshalIndent(map[string]any{"server": k.server, "exit": k.exit, "steps": k.steps}, "", "  ") // cannot fail
		fmt.Fprintf(out, "%s\n", text)
	}
	return k.exit
}

// say reports a step. One with a cause failed, and exit is what that means.
func (k *checkup) say(s step, exit int) {
	s.Mark = cmp.Or(s.Mark, "ok")
	if s.Cause != "" {
		s.Mark, k.exit = "FAIL", exit
	}
	s.Detail, s.Cause, s.Next = clean(s.Detail), clean(s.Cause), clean(s.Next)
	k.steps = append(k.steps, s)
	if k.json {
		return
	}
	fmt.Fprintf(k.out, "%-4s  %-14s  %5d ms  %s\n", s.Mark, s.Step, s.Ms, s.Detail)
	if s.Cause != "" {
		fmt.Fprintf(k.out, "      cause: %s\n      next:  %s\n", s.Cause, s.Next)
	}
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
	if err != nil {
		w.k.broken = err
		return nil, err
	}
	w.k.answers = append(w.k.answers, resp)
	if req.Method == http.MethodGet {
		select {
		case w.k.stream <- resp.StatusCode:
		default:
		}
	}
	return resp, nil
}

func (k *checkup) trace() *httptrace.ClientTrace {
	return &httptrace.ClientTrace{
		DNSStart: func(httptrace.DNSStartInfo) { k.begin("DNS") },
		DNSDone: func(i httptrace.DNSDoneInfo) {
			var all []string
			for _, a := range i.Addrs {
				all = append(all, a.String())
			}
			k.note(step{Step: "DNS", Detail: strings.Join(all, ", ")}, i.Err)
		},
		ConnectStart:      func(_, address string) { k.begin("TCP") },
		ConnectDone:       func(_, address string, err error) { k.note(step{Step: "TCP", Detail: address}, err) },
		TLSHandshakeStart: func() { k.begin("TLS") },
		TLSHandshakeDone:  func(s tls.ConnectionState, err error) { k.note(step{Step: "TLS", Detail: k.believed(s)}, err) },
	}
}

func (k *checkup) begin(name string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.begun[name] = time.Now()
}

// note takes a step of the first connection. Where several addresses are tried, one that works is enough.
func (k *checkup) note(s step, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	s.Ms = time.Since(k.begun[s.Step]).Milliseconds()
	if err != nil {
		s.Cause, s.Next = advice(err)
	}
	i := slices.IndexFunc(k.network, func(o step) bool { return o.Step == s.Step })
	switch {
	case len(k.answers) > 0:
	case i < 0:
		k.network = append(k.network, s)
	case err == nil:
		k.network[i] = s
	}
}

// believed describes a TLS connection: who vouches for the server, until when, and why we believe it.
func (k *checkup) believed(s tls.ConnectionState) string {
	if len(s.VerifiedChains) == 0 {
		return ""
	}
	chain := s.VerifiedChains[0]
	source, others := "the system's store", x509.NewCertPool()
	for _, c := range chain[1:] {
		others.AddCert(c)
	}
	for _, f := range k.client.roots {
		pool := x509.NewCertPool()
		pool.AppendCertsFromPEM(f.data)
		if _, err := chain[0].Verify(x509.VerifyOptions{Roots: pool, Intermediates: others}); err == nil {
			source = f.name
		}
	}
	text := fmt.Sprintf("%s, issued by %s, until %s, accepted by %s", tls.VersionName(s.Version), chain[0].Issuer, chain[0].NotAfter.Format(time.DateOnly), source)
	if k.client.cert != nil {
		text += ", with your client certificate at hand"
	}
	return text
}

// advice is what a network error likely means, and what to try.
func advice(err error) (cause, next string) {
	var (
		name      *net.DNSError
		authority x509.UnknownAuthorityError
		host      x509.HostnameError
		invalid   x509.CertificateInvalidError
		alert     tls.AlertError
		record    tls.RecordHeaderError
		refusal   *exchangeError
		network   net.Error
	)
	switch {
	case errors.As(err, &refusal):
		return refusal.Error(), "follow that hint, or ask whoever runs it"
	case errors.As(err, &name) && name.IsNotFound:
		cause, next = "there is no such name here", "check the spelling and the VPN; where only a proxy knows outside names, give --proxy"
	case errors.As(err, &name):
		cause, next = "the name server does not answer", "check the network and the VPN"
	case errors.As(err, &authority):
		cause, next = "its issuer is not trusted here: a private CA, or a proxy that opens TLS", "give the certificate of that CA with --ca-file"
	case errors.As(err, &host):
		cause, next = "the certificate is for another name", "use the name that it was issued for"
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		cause, next = "the certificate is out of date, or the clock of this machine is wrong", "check the clock; otherwise the server needs a new certificate"
	case errors.As(err, &alert):
		cause, next = "the server ended the handshake", "if it wants a client certificate, give --client-cert and --client-key"
	case errors.As(err, &record):
		cause, next = "that port does not speak TLS", "check the port, or give an http: address"
	case errors.As(err, &network) && network.Timeout():
		cause, next = "nothing answers: a firewall in between, or a wrong address", "behind a company proxy, give --proxy or set HTTPS_PROXY"
	default:
		cause, next = "nothing listens there, or something in between ends the connection", "check host and port, and that the server runs"
	}
	return fmt.Sprintf("%s (%v)", cause, err), next
}

// ---- being the client

// ask sends a request through the bridge and waits for the answer to it.
func (k *checkup) ask(method string, params any) (message, time.Duration) {
	begun := time.Now()
	defer time.AfterFunc(checkLimit, k.stop).Stop()
	k.asked++
	id := strconv.Itoa(k.asked)
	raw, _ := json.Marshal(params) // cannot fail: maps of strings and scanned values
	k.tell(newRequest(id, method, raw))
	for {
		line, c, err := k.from.next(k.ctx)
		k.from.mem.free(c)
		if err != nil {
			return errorReply(id, int(faultClosing), fmt.Sprintf("no answer within %v", checkLimit), &errorData{}), time.Since(begun)
		}
		if m, err := scan(line); err == nil && m.kind == response && m.id == id {
			return m, time.Since(begun)
		}
	}
}

func (k *checkup) tell(m message) { k.to.Write(append(m.raw, '\n')) } // an error shows when nothing answers

// said is the text of an error answer, with the cause if the bridge made it.
func said(m message) string {
	text, _ := unquote(peek(m.raw, "error", "message"))
	if cause, ok := unquote(peek(m.raw, "error", "data", "cause")); ok && !strings.Contains(text, cause) {
		text += ": " + cause
	}
	return text
}

func (k *checkup) dial(kind transportKind) transport {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.kind, k.stream = kind, make(chan int, 1)
	return k.connect(kind)
}

// connection reports everything up to the handshake, and says whether there is one.
func (k *checkup) connection() bool {
	m, took := k.ask("initialize", map[string]any{"protocolVersion": "2025-11-25", "capabilities": map[string]any{}, "clientInfo": map[string]string{"name": "mcp-redial check", "version": "1"}})
	k.mu.Lock()
	defer k.mu.Unlock()
	way := ", directly"
	if proxy, _ := k.client.proxyFor(&http.Request{URL: k.wire.url}); proxy != nil {
		way = " through the proxy " + origin(proxy)
	}
	k.say(step{Step: "address", Detail: k.server + way}, 0)
	for _, s := range k.network {
		k.say(s, exitNoWay)
	}
	if len(k.answers) == 0 {
		if k.exit == 0 {
			cause, next := advice(cmp.Or(k.broken, errors.New(said(m))))
			k.say(step{Step: "connection", Cause: cause, Next: next}, exitNoWay)
		}
		return false
	}
	last := k.answers[len(k.answers)-1]
	hops := 0
	for _, a := range k.answers {
		if a.StatusCode/100 == 3 {
			hops++
		}
	}
	s := step{Step: "redirects", Detail: strconv.Itoa(hops)}
	if last.StatusCode/100 == 3 {
		s.Cause, s.Next = said(m), "give the address that it names as the URL, if you trust it"
	}
	if k.say(s, exitProtocol); s.Cause != "" {
		return false
	}
	s = step{Step: "authentication", Detail: k.credential()}
	if last.StatusCode == http.StatusUnauthorized || last.StatusCode == http.StatusForbidden || errorCode(m.raw) == int(faultAuthorization) {
		s.Cause, s.Next = said(m), "mcp-redial login URL; or give the server's API key with --header"
	}
	if k.say(s, exitSignIn); s.Cause != "" {
		return false
	}
	s = step{Step: "transport", Detail: k.kind.String() + " on " + last.Proto}
	if h, ok := readHandshake(m); ok {
		var server struct{ Name, Version string }
		_ = json.Unmarshal(h.ServerInfo, &server)
		_ = json.Unmarshal(h.Capabilities, &k.can) // what is missing is not offered
		era := h.ProtocolVersion
		if k.kind == kindStateless {
			era = modernVersion + ", translated to " + era
		}
		k.say(step{Step: s.Step, Detail: s.Detail + ", MCP " + era}, 0)
		k.say(step{Step: "handshake", Ms: took.Milliseconds(), Detail: fmt.Sprintf("%s %s; capabilities: %s", server.Name, server.Version,
			strings.Join(slices.Sorted(maps.Keys(k.can)), ", "))}, 0)
		k.tell(newNotification("notifications/initialized", nil))
		return true
	}
	exit := exitProtocol
	s.Cause, s.Next = said(m), "check the path of the URL (often /mcp or /sse), and --transport"
	if last.StatusCode >= 500 {
		exit, s.Next = exitNoWay, "the server, or a gateway before it, is in trouble: try later, or ask whoever runs it"
	}
	k.say(s, exit)
	return false
}

// credential says what proved who we are.
func (k *checkup) credential() string {
	if h := k.client.headers; h != nil && h.authorized() {
		return "your own Authorization header"
	}
	t := k.auth.stored()
	if d := k.auth.found; d != nil && k.auth.bearer(t) == "" {
		return fmt.Sprintf("asked for, by %s, scopes %q", d.Issuer, d.Scope)
	}
	if k.auth.bearer(t) == "" {
		return "not asked for"
	}
	until := "with no known end"
	if at := k.auth.expiry(t); !at.IsZero() {
		until = "until " + at.Format(time.DateTime)
	}
	return fmt.Sprintf("signed in at %s, scopes %q, %s", cmp.Or(t.Issuer, "an issuer that was not noted"), t.Scope, until)
}

// session reports the session and the server's own stream.
func (k *checkup) session() {
	k.mu.Lock()
	kind, stream, id := k.kind, k.stream, ""
	for _, a := range k.answers {
		id += a.Header.Get("Mcp-Session-Id")
	}
	k.mu.Unlock()
	switch {
	case kind == kindStateless:
		k.say(step{Step: "session", Mark: "-", Detail: "none: each request stands alone"}, 0)
		return
	case kind == kindSSE:
		k.say(step{Step: "session", Detail: "the stream, which is open"}, 0)
		return
	case id == "":
		k.say(step{Step: "session", Mark: "-", Detail: "the server keeps none"}, 0)
	default:
		k.say(step{Step: "session", Detail: "one; ended with this check"}, 0)
	}
	begun := time.Now()
	s := step{Step: "stream", Mark: "-", Detail: fmt.Sprintf("no answer within %v", streamLimit)}
	select {
	case status := <-stream:
		if s.Detail = fmt.Sprintf("not offered (%d)", status); status == http.StatusOK {
			s.Mark, s.Detail = "ok", "open"
		}
	case <-time.After(streamLimit):
	}
	s.Ms = time.Since(begun).Milliseconds()
	k.say(s, 0)
}

// count reports how many tools, resources or prompts there are for the client: less what the filters hide.
func (k *checkup) count(what string) {
	s, n, params := step{Step: what}, 0, map[string]json.RawMessage{}
	if k.can[what] == nil {
		k.say(step{Step: what, Mark: "-", Detail: "not offered"}, 0)
		return
	}
	for range maxToolPages {
		m, took := k.ask(what+"/list", params)
		s.Ms += took.Milliseconds()
		if m.failed {
			s.Cause, s.Next = said(m), "ask whoever runs the server: it offers them"
			break
		}
		var page []json.RawMessage
		_ = json.Unmarshal(peek(m.raw, "result", what), &page)
		n += len(page)
		if params["cursor"] = peek(m.raw, "result", "nextCursor"); len(params["cursor"]) == 0 || params["cursor"][0] != '"' {
			break
		}
	}
	s.Detail = strconv.Itoa(n)
	k.say(s, exitProtocol)
}

// ping reports a round trip. Any answer of the server's will do.
func (k *checkup) ping() {
	s := step{Step: "ping"}
	method := "ping"
	if k.kind == kindStateless {
		method = "server/discover"
	}
	m, took := k.ask(method, map[string]any{})
	if s.Ms = took.Milliseconds(); peek(m.raw, "error", "data", "reason") != nil {
		s.Cause, s.Next = said(m), "ask whoever runs the server, or what lies between"
	}
	k.say(s, exitProtocol)
}

// ---- status

const maxStatus = 4 << 10 // bytes of a status file

// A running is what a bridge tells of itself: origins only, nothing secret.
type running struct {
	Pid     int       `json:"pid"`
	Host    string    `json:"host"`
	Birth   string    `json:"birth,omitempty"` // of the process, as its system counts; pids repeat
	Server  string    `json:"server"`
	Started time.Time `json:"started"`
	snapshot
}

// A statusFile is where a bridge tells it.
type statusFile struct {
	store *store
	said  running
}

func newStatusFile(s *store, server string) *statusFile {
	return &statusFile{s, running{Pid: os.Getpid(), Host: hostname(), Birth: birth(os.Getpid()), Server: server, Started: time.Now()}}
}

func (f *statusFile) name() string { return fmt.Sprintf("redial_%d_status.json", f.said.Pid) }

// write replaces what was told before.
func (f *statusFile) write(s snapshot) error {
	f.said.snapshot = s
	f.said.LastError = clean(s.LastError)
	return f.store.writeJSON(f.name(), f.said)
}

func (f *statusFile) remove() { f.store.remove(f.name()) }

// status prints the bridges of this user on this machine. The files of those that have died are swept.
func status(s *store, asJSON bool, out io.Writer) int {
	files, err := s.list("redial_")
	if err != nil {
		fmt.Fprintln(out, err)
		return 1
	}
	all := []running{}
	for _, f := range files {
		var r running
		data, err := s.own(f.name, maxStatus)
		mine := statusFile{s, running{}}
		if err != nil || json.Unmarshal(data, &r) != nil || r.Host != hostname() {
			continue
		}
		if mine.said = r; mine.name() != f.name {
			continue
		}
		if !alive(r.Pid) || birth(r.Pid) != r.Birth {
			mine.remove()
			continue
		}
		all = append(all, r)
	}
	if asJSON {
		text, _ := json.MarshalIndent(all, "", "  ") // cannot fail
		fmt.Fprintf(out, "%s\n", text)
		return 0
	}
	if len(all) == 0 {
		fmt.Fprintln(out, "no bridge is running")
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	for i, r := range all {
		if i == 0 {
			fmt.Fprintln(w, "PID\tSERVER\tSTATE\tSINCE\tRECONNECTS\tHELD\tLAST ERROR")
		}
		fmt.Fprintf(w, "%d\t%s\t%s\t%s\t%d\t%d\t%s\n", r.Pid, clean(r.Server), clean(r.State), r.Since.Format(time.DateTime), r.Reconnects, r.Held, clean(r.LastError))
	}
	w.Flush()
	return 0
}
