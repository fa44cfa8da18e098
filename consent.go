package main

// consent.go is what takes a person: a browser that comes back to our listener, an address that is pasted, a code that
// is entered elsewhere. What is begun here is written down first, so that any instance can complete it within
// ten minutes; what comes back is believed only if it answers something that was begun.

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

const deviceGrant = "urn:ietf:params:oauth:grant-type:device_code"

// device has a person enter a code on any device (RFC 8628).
func (a *authorizer) device(ctx context.Context, d *discovery, waiting func(hint string)) error {
	if d.Server.Device == "" {
		return errors.New("the authorization server has no device flow; sign in without --device-code")
	}
	c, err := a.client(ctx, d, a.redirectTo(a.listen.port))
	if err != nil {
		return err
	}
	form := url.Values{}
	if d.Scope != "" {
		form.Set("scope", d.Scope)
	}
	if r := a.resource(d); r != "" {
		form.Set("resource", r)
	}
	var begun struct {
		Code     string `json:"device_code"`
		UserCode string `json:"user_code"`
		Address  string `json:"verification_uri"`
		Lifetime loose  `json:"expires_in"`
		Interval loose  `json:"interval"`
	}
	if err := a.post(ctx, "asking for a device code", d, c, d.Server.Device, form, &begun); err != nil {
		return err
	}
	u, err := a.endpoint("verification address", begun.Address)
	if err != nil {
		return err
	}
	a.tell(waiting, fmt.Sprintf("To sign in to %s, open %s and enter the code %s", origin(a.o.server), u, clean(begun.UserCode)))
	if begun.Lifetime == 0 {
		begun.Lifetime = 1800
	}
	pause := time.Duration(max(begun.Interval, 1)) * time.Second
	if begun.Interval == 0 {
		pause = 5 * time.Second
	}
	for deadline := time.Now().Add(time.Duration(begun.Lifetime) * time.Second); time.Now().Before(deadline); {
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		err := a.grant(ctx, d, c, url.Values{"grant_type": {deviceGrant}, "device_code": {begun.Code}}, new(tokens))
		switch code := decided(err); {
		case code == "slow_down":
			pause += 5 * time.Second
		case code != "authorization_pending" && !outage(err):
			return err
		}
	}
	return errors.New("the code was not entered in time")
}

// tell says to the person, on stderr whatever the log level and through the client, what is waited for.
func (a *authorizer) tell(waiting func(hint string), sentence string) {
	person(a.log, "%s", sentence)
	waiting(sentence)
}

func (a *authorizer) redirectTo(port int) string {
	return "http://" + net.JoinHostPort(a.listen.host, strconv.Itoa(port)) + a.listen.path
}

// authorize has a person sign in with a browser. One instance leads: it has the port, and opens the tab. The
// others wait for what it stores, and one of them takes its place if it dies. With a terminal at hand the person
// may paste the answer instead, whoever leads.
func (a *authorizer) authorize(ctx context.Context, d *discovery, old *tokens, waiting func(hint string)) (err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, personLimit, errors.New("nobody signed in within ten minutes"))
	defer cancel()
	if !slices.Contains(d.Server.Challenges, "S256") {
		return errors.New("the authorization server does not offer PKCE with S256, without which a sign-in can be stolen")
	}
	pastes := make(chan redirect)
	if a.o.paste != nil {
		go pasted(ctx, a.o.paste, pastes) // ends with the terminal
	}
	var led *callback
	defer func() {
		if led != nil {
			led.close(err == nil)
		}
	}()
	begun, started, followed := false, time.Now(), time.Time{}
	tick := time.NewTicker(250 * time.Millisecond)
	defer tick.Stop()
	for {
		var arrived chan redirect
		port := 0
		if led == nil {
			led, port, err = takePort(ctx, a.listen)
			switch pending := a.pending(""); {
			case a.adopt(old):
				return nil
			case err != nil && time.Since(started) > settleLimit:
				return err
			case err != nil: // the port changes hands
			case led != nil && !followed.IsZero() && pending.IsZero():
				return errors.New("the sign-in ended without success in another instance")
			case (led != nil || a.o.paste != nil) && !begun:
				if err := a.begin(ctx, d, port, led != nil && time.Since(pending) > quietTab, waiting); err != nil {
					return err
				}
				begun = true
			case led == nil && followed.IsZero():
				followed = time.Now()
				waiting(fmt.Sprintf("Another instance is signing in to %s: finish that in the browser, or run: mcp-redial login URL", origin(a.o.server)))
			case led == nil && !begun && time.Since(followed) > max(followLimit, a.listen.timeout):
				return &signInError{err: fmt.Errorf("signing in to %s: another program holds port %d and does not finish", origin(a.o.server), port),
					hint: "Complete the sign-in that it has begun, or end that program."}
			}
		}
		if led != nil {
			arrived = led.redirects
		}
		var back redirect
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-tick.C:
			if a.adopt(old) {
				return nil
			}
			continue
		case back = <-arrived:
		case back = <-pastes:
		}
		ours, err := a.complete(ctx, back.query)
		back.shown <- err
		if e, ok := errors.AsType[*signInError](err); ok { // the next try would open the next tab: that is for a person to decide
			err = e.err
		}
		if !ours {
			continue
		}
		select {
		case <-back.seen:
		case <-time.After(settleLimit):
		}
		return err
	}
}

// pending is when a sign-in that nobody has finished was begun, by any instance: the one with this state, or the
// newest; zero if there is none.
func (a *authorizer) pending(state string) (newest time.Time) {
	files, _ := a.store.list(a.file("code_verifier_" + state))
	for _, f := range files {
		if time.Since(f.at) < personLimit && f.at.After(newest) {
			newest = f.at
		}
	}
	return newest
}

// begin writes down what completes the sign-in, in this process or another, and shows the person the address.
func (a *authorizer) begin(ctx context.Context, d *discovery, port int, open bool, waiting func(hint string)) error {
	d.Redirect = a.redirectTo(port)
	c, err := a.client(ctx, d, d.Redirect)
	if err != nil {
		return err
	}
	u, err := a.endpoint("authorization endpoint", d.Server.Authorization)
	if err != nil {
		return err
	}
	state, verifier := rand.Text(), rand.Text()+rand.Text()
	if err := a.store.writeJSON(a.file("discovery_state_"+state+".json"), d); err != nil {
		return err
	}
	if err := a.store.write(a.file("code_verifier_"+state+".txt"), []byte(verifier)); err != nil {
		return err
	}
	sum := sha256.Sum256([]byte(verifier))
	q := u.Query() // RFC 6749, 3.1: an existing query is kept
	for name, value := range map[string]string{"response_type": "code", "client_id": c.ID, "redirect_uri": d.Redirect, "state": state,
		"code_challenge": base64.RawURLEncoding.EncodeToString(sum[:]), "code_challenge_method": "S256", "scope": d.Scope, "resource": a.resource(d)} {
		if value != "" {
			q.Set(name, value)
		}
	}
	if slices.Contains(strings.Fields(d.Scope), "offline_access") {
		q.Set("prompt", "consent") // OpenID Connect Core, 11
	}
	for name, value := range a.o.authorizeParams {
		q.Set(name, value)
	}
	u.RawQuery = q.Encode()
	a.tell(waiting, fmt.Sprintf("To sign in to %s, open this address in a browser: %s (if that browser is on another machine, run: mcp-redial login URL)", origin(a.o.server), u))
	if open && !a.o.noBrowser {
		if err := openBrowser(u); err != nil {
			a.log.Warn("opening the address", "err", err)
		}
	}
	return nil
}

// complete judges what came back and redeems it. ours is false for what belongs to no sign-in of this store; that
// changes nothing. Each state is good once.
func (a *authorizer) complete(ctx context.Context, q url.Values) (ours bool, err error) {
	state := q.Get("state")
	for _, name := range []string{"state", "code", "iss", "error"} {
		if len(q[name]) > 1 {
			return false, errors.New("the address holds a parameter twice")
		}
	}
	unknown := errors.New("it belongs to no sign-in that is waiting")
	if len(state) == 0 || len(state) > 64 || strings.ContainsFunc(state, func(r rune) bool { return r != '-' && (r < '0' || r > '9') && (r|32 < 'a' || r|32 > 'z') }) {
		return false, unknown
	}
	d := new(discovery)
	verifier, err := a.store.read(a.file("code_verifier_" + state + ".txt"))
	if err != nil || a.pending(state).IsZero() || a.store.readJSON(a.file("discovery_state_"+state+".json"), d) != nil {
		return false, unknown
	}
	a.forget(state)
	iss, code := q.Get("iss"), q.Get("code")
	switch {
	case q.Has("iss") && iss != d.Server.Issuer || !q.Has("iss") && d.Server.ISS: // RFC 9207, before anything else is believed
		return true, errors.New("the answer is not from the authorization server that was asked")
	case q.Has("error"):
		return true, refusal("asking for your consent", http.StatusOK, []byte(`{"error":`+strconv.Quote(q.Get("error"))+`}`))
	case code == "":
		return true, errors.New("the authorization server sent no code")
	}
	if d.Redirect == "" { // begun by mcp-remote
		d.Redirect = a.redirectTo(a.listen.port)
	}
	c, err := a.client(ctx, d, d.Redirect)
	if err != nil {
		return true, err
	}
	form := url.Values{"grant_type": {"authorization_code"}, "code": {code}, "redirect_uri": {d.Redirect}, "code_verifier": {string(verifier)}}
	for try := 1; ; try++ {
		err := a.grant(ctx, d, c, form, new(tokens))
		a.disown(err)
		if !outage(err) || try == 5 {
			return true, err
		}
		select {
		case <-time.After(2 * time.Second):
		case <-ctx.Done():
			return true, context.Cause(ctx)
		}
	}
}

// forget deletes one begun sign-in, all that are too old, and what a process that was killed left half written.
func (a *authorizer) forget(state string) {
	files, _ := a.store.list(a.file(""))
	for _, f := range files {
		begun := strings.HasPrefix(f.name, a.file("code_verifier_")) || strings.HasPrefix(f.name, a.file("discovery_state_"))
		if begun && strings.Contains(f.name, "_"+state+".") || time.Since(f.at) > personLimit && (begun || strings.HasSuffix(f.name, ".tmp")) {
			a.store.remove(f.name)
		}
	}
}
