package main

// callback.go sends a person's browser to an authorization server and takes it back. It listens on loopback
// only, and only while a sign-in runs; the bound port is also the mutex by which all instances for one server,
// and mcp-remote's, agree on one leader. Whatever answers on such a port is a hint, never evidence: the
// store alone is believed. The browser is started without a shell.

import (
	"bufio"
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"html"
	"io"
	"net"
	"net/http"
	"net/url"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

const (
	idPath   = "/.mcp-remote/id" // who listens here
	waitPath = "/wait-for-auth"  // a long poll that ends with the sign-in

	portCandidates = 8 // the derived port and those after it
)

// listenOptions is what the listener has to know. What is empty has a default.
type listenOptions struct {
	identity     string        // of the server: instances with the same one share a sign-in
	site         string        // its origin, for the page
	host         string        // in the redirect address; "" is localhost, 127.0.0.1 on Windows
	port         int           // the first candidate; 0 is the port derived from the identity
	fixed        bool          // and the only one
	callbackPath string        // of the redirect address; "" is /oauth/callback
	successURL   string        // where the browser goes at the end, instead of our own page
	authTimeout  time.Duration // of /wait-for-auth and of the page that waits for the end; 0 is 30 s
}

// A redirect is what the browser, or a person's paste, brings back.
type redirect struct {
	query url.Values
	shown chan error    // buffered: what came of it, sent once; nil is success
	seen  chan struct{} // closed once the page that says so is on its way
}

// A callback is the listener of one sign-in.
type callback struct {
	o       listenOptions
	hosts   []string
	back    chan<- redirect // the handlers send; nobody closes it
	ended   chan struct{}   // closed by close
	ok      bool            // the sign-in succeeded; written before ended is closed
	servers sync.WaitGroup
	server  *http.Server
}

// listen binds the port on 127.0.0.1. The host in the redirect address may be localhost, which browsers also look for
// at ::1: where there is such an address, a port that somebody else has there is taken.
func listen(ctx context.Context, o listenOptions, port int, back chan<- redirect) (*callback, error) {
	c := &callback{o: o, back: back, ended: make(chan struct{})}
	c.server = &http.Server{Handler: c, ReadHeaderTimeout: 10 * time.Second, MaxHeaderBytes: 32 << 10}
	for _, host := range []string{"127.0.0.1", "localhost", o.host} {
		c.hosts = append(c.hosts, strings.ToLower(net.JoinHostPort(host, strconv.Itoa(port)))) // as browsers write it
	}
	for i, host := range []string{"127.0.0.1", "::1"} {
		l, err := new(net.ListenConfig).Listen(ctx, "tcp", net.JoinHostPort(host, strconv.Itoa(port)))
		if err == nil {
			c.servers.Go(func() { c.server.Serve(l) })
		} else if spare, none := new(net.ListenConfig).Listen(ctx, "tcp", net.JoinHostPort(host, "0")); i == 0 || none == nil {
			if none == nil {
				spare.Close()
			}
			c.close(false)
			return nil, fmt.Errorf("listening for the browser: %w", err)
		}
	}
	return c, nil
}

// close ends the sign-in for whoever waits on it. It does not wait long: browsers open connections that they then
// do not use.
func (c *callback) close(ok bool) {
	c.ok = ok
	close(c.ended)
	ctx, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
	defer cancel()
	if c.server.Shutdown(ctx) != nil {
		c.server.Close()
	}
	c.servers.Wait()
}

// takePort makes this instance the leader of the sign-in, or names the port of the instance that is. A port held
// by another program is passed over, unless there is no choice.
func takePort(ctx context.Context, o listenOptions, back chan<- redirect) (*callback, int, error) {
	first, last := o.port, o.port
	if !o.fixed {
		last += portCandidates - 1
	}
	var taken error
	for port := first; port <= last; port++ {
		c, err := listen(ctx, o, port, back)
		if err != nil {
			if taken = err; leads(ctx, port, o.identity) {
				return nil, port, nil
			}
			continue
		}
		for earlier := first; earlier < port; earlier++ { // two may have passed over different ports
			if leads(ctx, earlier, o.identity) {
				c.close(false)
				return nil, earlier, nil
			}
		}
		return c, port, nil
	}
	return nil, 0, &signInError{err: fmt.Errorf("finding a free callback port from %d to %d: %w", first, last, taken),
		hint: "Close the program that holds the port, or give another one after the server's address."}
}

// leads asks whether a port is held by an instance that signs in to the same server.
func leads(ctx context.Context, port int, identity string) bool {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	req, _ := http.NewRequestWithContext(ctx, http.MethodGet, fmt.Sprintf("http://127.0.0.1:%d%s", port, idPath), nil) // cannot fail
	t := &http.Transport{DisableKeepAlives: true}                                                                      // and no proxy
	resp, err := t.RoundTrip(req)
	if err != nil {
		return false
	}
	defer resp.Body.Close()
	var id struct {
		Ours bool   `json:"mcpRemote"`
		Hash string `json:"serverUrlHash"`
	}
	return json.NewDecoder(io.LimitReader(resp.Body, 4<<10)).Decode(&id) == nil && id.Ours && id.Hash == identity
}

func (c *callback) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Cache-Control", "no-store")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("X-Content-Type-Options", "nosniff")
	switch path := r.URL.Path; {
	case !slices.Contains(c.hosts, strings.ToLower(r.Host)): // a name that was rebound to loopback
		http.Error(w, "this is not that host", http.StatusForbidden)
	case r.Method != http.MethodGet:
		http.Error(w, "GET only", http.StatusMethodNotAllowed)
	case path == idPath && len(r.Header.Values("Origin")) > 0: // a web page has no business here
		http.Error(w, "not for web pages", http.StatusForbidden)
	case path == idPath:
		h.Set("Content-Type", "application/json")
		fmt.Fprintf(w, `{"mcpRemote":true,"serverUrlHash":"%s"}`, c.o.identity)
	case path == waitPath:
		limit := c.o.authTimeout
		if r.URL.Query().Get("poll") == "false" {
			limit = 0
		}
		status := http.StatusAccepted
		select {
		case <-c.ended:
			if status = http.StatusInternalServerError; c.ok {
				status = http.StatusOK
			}
		case <-time.After(limit):
		case <-r.Context().Done():
		}
		w.WriteHeader(status)
	case path == c.o.callbackPath:
		c.returned(w, r)
	default:
		http.NotFound(w, r)
	}
}

// returned hands a redirect to the sign-in and shows the person what came of it.
func (c *callback) returned(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), c.o.authTimeout)
	defer cancel()
	back := redirect{r.URL.Query(), make(chan error, 1), make(chan struct{})}
	defer close(back.seen)
	select {
	case c.back <- back:
	case <-c.ended:
		showPage(w, http.StatusGone, "This sign-in is over", "Close this tab. If your program still asks you to sign in, use the newest address.")
		return
	case <-ctx.Done():
	}
	select {
	case err := <-back.shown:
		if err != nil {
			showPage(w, http.StatusBadRequest, "Not signed in", "What went wrong: "+err.Error()+". Close this tab, go back to your program and try again.")
		} else if c.o.successURL != "" {
			http.Redirect(w, r, c.o.successURL, http.StatusSeeOther)
			http.NewResponseController(w).Flush()
		} else {
			showPage(w, http.StatusOK, "Signed in", "You are signed in to "+c.o.site+". Close this tab and go back to your program.")
		}
	case <-ctx.Done():
		showPage(w, http.StatusGatewayTimeout, "Still waiting", "The authorization server is slow. Go back to your program; it will say whether the sign-in worked.")
	}
}

const pageStyle = `:root{color-scheme:light dark}body{font:1.1rem/1.5 system-ui,sans-serif;margin:15vh auto;max-width:32rem;padding:0 1.5rem}h1{font-size:1.6rem}footer{opacity:.7;font-size:.9rem;margin-top:3rem}`

// showPage writes a page that needs nothing else and can do nothing. Both texts may come from outside.
func showPage(w http.ResponseWriter, status int, title, text string) {
	nonce := rand.Text()
	w.Header().Set("Content-Security-Policy", "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; style-src 'nonce-"+nonce+"'")
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	title, text = html.EscapeString(title), html.EscapeString(text)
	page := fmt.Sprintf(`<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>%s – mcp-redial</title><style nonce="%s">%s</style><main><h1>%s</h1><p>%s</p><footer>mcp-redial</footer></main></html>`, title, nonce, pageStyle, title, text)
	w.Header().Set("Content-Length", strconv.Itoa(len(page)))
	w.WriteHeader(status)
	io.WriteString(w, page)
	http.NewResponseController(w).Flush() // whole, before the listener closes
}

// pasted reads what a person pastes: the address that their browser could not open. Lines that are no such
// address are skipped. It ends with the terminal, or one line after ctx.
func pasted(ctx context.Context, from io.Reader, to chan<- redirect) {
	seen := make(chan struct{})
	close(seen) // there is no page
	for lines := bufio.NewScanner(from); lines.Scan() && ctx.Err() == nil; {
		if u, err := url.Parse(strings.TrimSpace(lines.Text())); err == nil && u.Query().Has("state") {
			select {
			case to <- redirect{u.Query(), make(chan error, 1), seen}:
			case <-ctx.Done():
			}
		}
	}
}

// openBrowser starts the system's browser with u as its one argument (CVE-2025-6514: an address must never
// meet a shell). It waits for nothing: some launchers run as long as the browser does.
func openBrowser(u *url.URL) error {
	if u.Scheme != "https" && (u.Scheme != "http" || !isLocalName(u.Hostname())) || u.Host == "" || strings.ContainsAny(u.Host, "!\"$&'()*+,;<=>") {
		return errors.New("only https addresses of a proper host, or http on this machine, are opened in a browser")
	}
	launcher := strings.Fields(cmp.Or(map[string]string{"darwin": "open", "windows": "rundll32.exe url.dll,FileProtocolHandler"}[runtime.GOOS], "xdg-open"))
	cmd := exec.Command(launcher[0], append(launcher[1:], u.String())...) // re-serialised: no control characters, begins with http
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("starting the browser: %w", err)
	}
	go cmd.Wait() // ends with the launcher, or with us
	return nil
}

// isLocalName says whether a host is this machine by its name or literal address.
func isLocalName(host string) bool {
	host = strings.TrimSuffix(strings.ToLower(host), ".")
	return host == "localhost" || strings.HasSuffix(host, ".localhost") || net.ParseIP(host).IsLoopback()
}

// defaultHost is what mcp-remote has in its redirect address.
func defaultHost() string {
	return cmp.Or(map[string]string{"windows": "127.0.0.1"}[runtime.GOOS], "localhost")
}
