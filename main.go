// Mcp-redial lets an MCP client that starts its servers as child processes use a remote one, and keeps the
// line up: it speaks newline-delimited JSON-RPC on standard input and output, and HTTP+SSE or Streamable
// HTTP with the server. When the line drops it dials again, silently, with jittered exponential backoff.
// Every call is answered exactly once: by the server, or by an error that says what happened.
//
//	mcp-redial URL [flags]        carry a client's line to URL (in the client's configuration)
//	mcp-redial check URL [flags]  go through the connection step by step, for a person
//	mcp-redial login URL          sign in ahead of time; logout URL: revoke and forget
//	mcp-redial status             one line for each running bridge
//	mcp-redial demo               watch it survive a server that keeps dropping the line
//
// It takes the arguments of the npm package mcp-remote; mcp-redial --help has them all.
//
// What is retried: everything of which it is certain that the server did not act on it, and what is
// harmless to repeat (lists, reads, tools marked readOnlyHint or idempotentHint). What is not: every other
// call whose outcome is unknown; its answer says so, with code -31002.
//
// Where secrets lie: access and refresh tokens in ~/.mcp-auth/mcp-remote-v1 (MCP_REMOTE_CONFIG_DIR changes
// the folder, --token-store memory keeps nothing), in files that only the user can read. They are sent to
// the server that they were issued for and nowhere else, and never logged.
//
// Exit codes: 0 when the client has closed the line or a signal has come, 2 for usage errors; check has
// codes of its own: 1 not reachable, 3 sign-in needed, 4 protocol trouble.
package main

// main.go wires the parts, owns standard input and output, and sets the exit code.

import (
	"context"
	"crypto/fips140"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"sync"
	"syscall"
	"time"
)

func main() {
	os.Exit(command(os.Args[1:], thisMachine(), os.Stdin, os.Stdout, os.Stderr))
}

// command runs the program and returns its exit code.
func command(args []string, m machine, stdin *os.File, stdout, stderr io.Writer) int {
	c, err := parse(args, m)
	if err != nil {
		return complain(stderr, err)
	}
	if c.command == "" {
		stdin = smooth(stdin) // first of all: it is cheapest while nothing runs beside
	}
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE) // a client that closes our output gets an orderly end, not a killed process
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	context.AfterFunc(ctx, stop) // a second signal exits at once
	switch c.command {
	case "help":
		fmt.Fprint(stdout, c.manual())
		return 0
	case "version":
		fmt.Fprint(stdout, versionText())
		return 0
	case "demo":
		return demo(ctx, c.bridge, stdout)
	}
	p, err := newProgram(c, stdin, stderr)
	if err != nil {
		return complain(stderr, err)
	}
	defer p.flush()
	switch c.command {
	case "check":
		parts := outside{connect: p.wire.connect, signIn: p.signIn}
		return (&checkup{options: c.bridge, outside: parts, client: c.client, wire: p.wire, auth: p.auth, json: c.json, out: stdout}).run(ctx)
	case "status":
		return status(p.store, c.json, stdout)
	case "login":
		err = p.auth.login(ctx, func(string) {})
	case "logout":
		err = p.auth.logout(ctx)
	default:
		err = p.serve(ctx, stdin, stdout)
	}
	if err != nil {
		return complain(stderr, err)
	}
	return 0
}

// complain tells a person what is wrong and what to do next.
func complain(stderr io.Writer, err error) int {
	fmt.Fprintf(stderr, "mcp-redial: error: %s\n", escape(err.Error(), maxLine))
	if usage, ok := errors.AsType[*usageError](err); ok {
		fmt.Fprintf(stderr, "mcp-redial: hint: %s\n", escape(usage.hint, maxLine))
		return 2
	}
	if failed, ok := errors.AsType[*signInError](err); ok && failed.hint != "" {
		fmt.Fprintf(stderr, "mcp-redial: hint: %s\n", failed.hint)
	}
	return 1
}

// A program is the parts, wired.
type program struct {
	c     *config
	log   *slog.Logger
	flush func()
	store *store
	auth  *authorizer
	wire  *wire
}

func newProgram(c *config, stdin *os.File, stderr io.Writer) (*program, error) {
	if c.command == "check" { // it tells itself what happens, and signs nobody in
		c.log.silent, c.auth.unattended = true, true
	}
	log, flush, err := newLogger(c.log, stderr)
	if err != nil {
		return nil, err
	}
	p := &program{c: c, log: log, flush: flush}
	for _, w := range c.warnings {
		log.Warn(w)
	}
	p.store, err = openStore(c.storeDir, log)
	if err != nil && c.command == "" { // a line without a sign-in needs no place to keep one
		log.Warn("nothing will be stored", "err", err)
		p.store, err = openStore("", log)
	}
	if err != nil {
		return nil, err
	}
	if c.url == nil {
		return p, nil
	}
	c.client.userAgent = "mcp-redial/" + version()
	c.client.token = func(ctx context.Context) (secret, error) { return p.auth.token(ctx) }
	c.client.refused = func(t secret) { p.auth.refused(t) }
	again, once, oauth, err := newClients(c.client)
	if err != nil {
		return nil, err
	}
	if info, err := stdin.Stat(); c.command == "login" && err == nil && info.Mode()&os.ModeCharDevice != 0 {
		c.auth.paste = stdin
	}
	if p.auth, err = newAuthorizer(c.auth, p.store, oauth, log); err != nil {
		return nil, err
	}
	o := c.bridge
	p.wire = &wire{url: c.url, again: again, once: once, max: o.maxMessage, mem: newBudget(o.maxMemory, o.maxMessage), log: log}
	return p, nil
}

// signIn renews whatever proves who we are: the headers' sources, where an Authorization header is given,
// else the token.
func (p *program) signIn(ctx context.Context, challenge string, status int, waiting func(hint string)) error {
	if h := p.c.client.headers; h != nil && h.authorized() {
		return h.refresh(ctx)
	}
	return p.auth.signIn(ctx, challenge, status, waiting)
}

// serve carries the client's line. A closed standard output ends it quietly; an error is a *usageError.
func (p *program) serve(ctx context.Context, stdin *os.File, stdout io.Writer) error {
	o := p.c.bridge
	if p.c.audit != "" {
		audit, err := newAuditLog(p.c.audit)
		if err != nil {
			return err
		}
		defer audit.close(time.Second)
		o.audit = audit
	}
	k := newKeeper(p.auth, o.server)
	o.remembered = k.load()
	work, stop := context.WithCancel(context.Background())
	var beside sync.WaitGroup
	beside.Go(func() { k.run(work) })
	beside.Go(func() { p.c.client.headers.begin(work, p.log) })
	b := newBridge(o, outside{p.wire.connect, p.signIn, k.remember, runtime.SetDefaultGOMAXPROCS}, p.log, p.wire.mem)
	if f, ok := stdout.(*os.File); ok {
		stdout = smooth(f)
	}
	b.run(ctx, stdin, stdout)
	stop()
	beside.Wait()
	return nil
}

// version is that of the module, as the build recorded it.
func version() string {
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "(devel)"
}

// versionText says what exactly this binary is.
func versionText() string {
	text := "mcp-redial " + version() + "\n"
	if info, ok := debug.ReadBuildInfo(); ok {
		if info.Main.Sum != "" {
			text += "sum " + info.Main.Sum + "\n"
		}
		for _, s := range info.Settings {
			if s.Key == "vcs.revision" {
				text += "commit " + s.Value + "\n"
			}
		}
	}
	return text + fmt.Sprintf("%s %s/%s\nFIPS 140-3 mode: %v\n", runtime.Version(), runtime.GOOS, runtime.GOARCH, fips140.Enabled())
}
