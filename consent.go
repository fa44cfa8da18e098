package main

// consent.go is what takes a person: a browser that comes back to our listener, an address that is pasted, a code that
// is entered elsewhere. What is begun here is written down first, so that any instance can complete it within
// ten minutes; what comes back is believed only if it answers something that was begun.

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// A deviceCode is a sign-in that a person completes on any device (RFC 8628). It lies in the store: all instances show
// the same code and ask in turn whether it has been entered, and none of them is needed for that.
type deviceCode struct {
	untold
	Code     string    `json:"device_code"`
	UserCode string    `json:"user_code"`
	Address  string    `json:"verification_uri"`
	Lifetime loose     `json:"expires_in,omitempty"` // seconds, like the next
	Interval loose     `json:"interval,omitempty"`
	Until    time.Time `json:"until"` // ours alone, like the next
	Next     time.Time `json:"next"`
}

const (
	deviceGrant = "urn:ietf:params:oauth:grant-type:device_code"
	notYet      = "authorization_pending"
)

// device has a person enter a code on any device.
func (a *authorizer) device(ctx context.Context, found *discovery, old *tokens, waiting func(hint string)) error {
	if found.Server.Device == "" {
		return errors.New("the authorization server has no device flow; sign in without --device-code")
	}
	for shown := ""; ; {
		d := new(discovery)
		err := a.alone(ctx, old, func(ctx context.Context) error { return a.poll(ctx, found, d, shown != "") })
		if decided(err) != notYet || d.Device == nil {
			return err
		}
		sentence := fmt.Sprintf("To sign in to %s, open %s and enter the code %s", a.o.site, d.Device.Address, clean(d.Device.UserCode))
		if shown != sentence {
			shown = sentence
			a.tell(waiting, sentence)
		}
		if err := pause(ctx, min(time.Until(d.Device.Next), time.Until(d.Device.Until))); err != nil {
			return err
		}
	}
}

// poll asks, if it is time, whether the code in the store has been entered, and reads into d what is known of it. If
// there is none for what is found it gets one; but no second one for a person to whom one has been shown.
func (a *authorizer) poll(ctx context.Context, found, d *discovery, shown bool) error {
	c, err := a.client(ctx, found, a.redirectTo(a.o.port))
	if err != nil {
		return err
	}
	name := a.file("discovery_state_device.json")
	there := a.store.readJSON(name, d) == nil && d.Device != nil
	switch late := there && (!time.Now().Before(d.Device.Until) || time.Until(d.Device.Until) > personLimit); {
	case shown && late:
		return errors.New("the code was not entered in time")
	case shown && (!there || d.Server.Issuer != found.Server.Issuer):
		return errors.New("the sign-in ended without success in another instance")
	case !there || late || !shown && (d.Server.Issuer != found.Server.Issuer || d.Scope != found.Scope):
		v, form := new(deviceCode), map[string]string{"scope": found.Scope, "resource": a.resource(found)}
		if err := a.post(ctx, "asking for a device code", found, c, found.Server.Device, form, v); err != nil {
			return err
		}
		u, err := a.endpoint("verification address", v.Address)
		if err != nil {
			return err
		}
		*d = *found
		d.Device, v.Address, v.Interval = v, u.String(), min(max(cmp.Or(v.Interval, 5), 1), 60)
		v.Until = time.Now().Add(time.Duration(min(cmp.Or(v.Lifetime, 600), 600)) * time.Second)
	case time.Now().Before(d.Device.Next):
		return &denial{"", notYet}
	default:
		err := a.grant(ctx, d, c, map[string]string{"grant_type": deviceGrant, "device_code": d.Device.Code}, new(tokens))
		if code := decided(err); code == "slow_down" {
			d.Device.Interval += 5
		} else if code != notYet && !outage(err) {
			a.store.remove(name)
			return err
		}
	}
	d.Device.Next = time.Now().Add(time.Duration(d.Device.Interval) * time.Second)
	return cmp.Or[error](a.store.writeJSON(name, d), &denial{"", notYet})
}

// params are those that are not empty.
func params(all map[string]string) url.Values {
	q := url.Values{}
	for name, value := range all {
		if value != "" {
			q.Set(name, value)
		}
	}
	return q
}

// tell says to the person, on stderr whatever the log level and through the client, what is waited for.
func (a *authorizer) tell(waiting func(hint string), sentence string) {
	person(a.log, "%s", sentence)
	waiting(sentence)
}

func (a *authorizer) redirectTo(port int) string {
	return "http://" + net.JoinHostPort(a.o.host, strconv.Itoa(port)) + a.o.callbackPath
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
	arrived := make(chan redirect) // from the browser or the terminal
	if a.o.paste != nil {
		go pasted(ctx, a.o.paste, arrived) // ends with the terminal
	}
	var led *callback
	defer func() {
		if led != nil {
			led.close(err == nil)
		}
	}()
	begun, settled, followed := false, time.Now(), time.Time{}
	tick := time.NewTicker(250 * time.Millisecond)
	defer tick.Stop()
	for port := 0; ; {
		if led == nil {
			if led, port, err = takePort(ctx, a.o.listenOptions, arrived); err == nil {
				settled = time.Now()
			}
		}
		if a.adopt(old) { // looked at with the port in hand: whoever had it may have stored one just before
			return nil
		}
		switch pending := a.pending(); {
		case err != nil && time.Since(settled) > settleLimit:
			return err
		case err != nil || begun: // the port changes hands; a person is at it
		case led != nil && !followed.IsZero() && pending.IsZero():
			return errors.New("the sign-in ended without success in another instance")
		case led != nil || a.o.paste != nil:
			if err := a.begin(ctx, d, port, led != nil && time.Since(pending) > quietTab, waiting); err != nil {
				return err
			}
			begun = true
		case followed.IsZero():
			followed = time.Now()
			waiting(fmt.Sprintf("Another instance is signing in to %s: finish that in the browser, or run: mcp-redial login URL", a.o.site))
		case time.Since(followed) > max(followLimit, a.o.authTimeout):
			return &signInError{err: fmt.Errorf("signing in to %s: another program holds port %d and does not finish", a.o.site, port),
				hint: "Complete the sign-in that it has begun, or end that program."}
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-tick.C:
		case back := <-arrived:
			ours, err := a.complete(ctx, back.query)
			back.shown <- err
			if !ours {
				continue
			}
			select {
			case <-back.seen:
			case <-time.After(settleLimit):
			}
			if e, ok := errors.AsType[*signInError](err); ok { // the next try would open the next tab: that is for a person to decide
				err = e.err
			}
			return err
		}
	}
}

// pending is when the newest sign-in that nobody has finished was begun, by any instance; zero if there is none. What
// is too old goes, with what a process that was killed left half written.
func (a *authorizer) pending() (newest time.Time) {
	files, _ := a.store.list(a.file(""))
	for _, f := range files {
		begun, old := strings.HasPrefix(f.name, a.file("code_verifier_")), time.Since(f.at).Abs() > personLimit
		switch {
		case old && (begun || strings.HasPrefix(f.name, a.file("discovery_state_")) || strings.HasSuffix(f.name, ".tmp")):
			a.store.remove(f.name)
		case begun && f.at.After(newest):
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
	maps.Copy(q, params(map[string]string{"response_type": "code", "client_id": c.ID, "redirect_uri": d.Redirect, "state": state,
		"scope": d.Scope, "resource": a.resource(d),
		"code_challenge": base64.RawURLEncoding.EncodeToString(sum[:]), "code_challenge_method": "S256"}))
	if slices.Contains(strings.Fields(d.Scope), "offline_access") {
		q.Set("prompt", "consent") // OpenID Connect Core, 11
	}
	for name, value := range a.o.authorizeParams {
		q.Set(name, value)
	}
	u.RawQuery = q.Encode()
	a.tell(waiting, fmt.Sprintf("To sign in to %s, open this address in a browser: %s (if that browser is on another machine, run: mcp-redial login URL)", a.o.site, u))
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
	for _, name := range []string{"state", "code", "iss", "error"} {
		if len(q[name]) > 1 {
			return false, errors.New("the address holds a parameter twice")
		}
	}
	state, unknown := q.Get("state"), errors.New("it belongs to no sign-in that is waiting")
	if len(state) > 64 || !consists(state, digitsAndLetters+"-") {
		return false, unknown
	}
	a.pending() // what is too old goes
	d, names := new(discovery), []string{a.file("code_verifier_" + state + ".txt"), a.file("discovery_state_" + state + ".json")}
	verifier, err := a.store.read(names[0])
	if err != nil || a.store.readJSON(names[1], d) != nil || !a.named(d.Server.Issuer) {
		return false, unknown
	}
	for _, name := range names {
		a.store.remove(name)
	}
	iss, code := q.Get("iss"), q.Get("code")
	switch {
	case q.Has("iss") && iss != d.Server.Issuer || !q.Has("iss") && d.Server.ISS: // RFC 9207, before anything else is believed
		return true, errors.New("the answer is not from the authorization server that was asked")
	case q.Has("error"):
		return true, refusal("asking for your consent", q.Get("error"))
	case code == "":
		return true, errors.New("the authorization server sent no code")
	}
	if d.Redirect == "" { // begun by mcp-remote
		d.Redirect = a.redirectTo(a.o.port)
	}
	c, err := a.client(ctx, d, d.Redirect)
	if err != nil {
		return true, err
	}
	form := map[string]string{"grant_type": "authorization_code", "code": code, "redirect_uri": d.Redirect, "code_verifier": string(verifier)}
	for try := 1; ; try++ {
		err := a.grant(ctx, d, c, form, new(tokens))
		a.disown(err)
		if !outage(err) || try == 5 || pause(ctx, 2*time.Second) != nil {
			return true, err
		}
	}
}
