package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/binary"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// An authority is a CA of its own for one test.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  []byte
}

func newAuthority(t *testing.T) *authority {
	a := &authority{}
	a.cert, a.key, a.pem = certificate(t, nil, &x509.Certificate{Subject: pkix.Name{CommonName: "test CA"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign})
	return a
}

// issue makes a certificate for 127.0.0.1, localhost and the names, good for servers and clients.
func (a *authority) issue(t *testing.T, names ...string) (cert, key []byte) {
	_, k, c := certificate(t, a, &x509.Certificate{Subject: pkix.Name{CommonName: "leaf"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, DNSNames: append(names, "localhost"),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}})
	der, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	return c, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
}

func certificate(t *testing.T, by *authority, c *x509.Certificate) (*x509.Certificate, *ecdsa.PrivateKey, []byte) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c.SerialNumber, _ = rand.Int(rand.Reader, big.NewInt(1<<60))
	c.NotBefore, c.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	parent, signer := c, key
	if by != nil {
		parent, signer = by.cert, by.key
	}
	der, err := x509.CreateCertificate(rand.Reader, c, parent, key.Public(), signer)
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return parsed, key, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

// serveTLS starts an https server of the authority on loopback.
func (a *authority) serve(t *testing.T, conf *tls.Config, h http.HandlerFunc, names ...string) *url.URL {
	t.Helper()
	cert, key := a.issue(t, names...)
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	if conf == nil {
		conf = &tls.Config{}
	}
	conf.Certificates = []tls.Certificate{pair}
	s := httptest.NewUnstartedServer(h)
	s.TLS, s.EnableHTTP2 = conf, true
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.StartTLS()
	t.Cleanup(s.Close)
	return parseURL(t, s.URL)
}

func serveHTTP(t *testing.T, h http.HandlerFunc) *url.URL {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return parseURL(t, s.URL)
}

func parseURL(t *testing.T, s string) *url.URL {
	t.Helper()
	u, err := url.Parse(s)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

func clients(t *testing.T, o clientOptions) (again, once, auth *http.Client) {
	t.Helper()
	again, once, auth, err := newClients(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, c := range []*http.Client{again, once, auth} {
			c.CloseIdleConnections()
		}
	})
	return again, once, auth
}

// fetchURL gives the body, or the error as the transports and the sign-in see it.
func fetchURL(c *http.Client, u string) (string, error) {
	resp, err := c.Get(u)
	if err != nil {
		return "", connectionError(err, false)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return string(body), err
}

// finalText is the error's text, if it is one that is final.
func finalText(err error) string {
	var e *exchangeError
	if errors.As(err, &e) && e.fate == final {
		return e.Error()
	}
	return fmt.Sprintf("no refusal: %v", err)
}

func TestTLS(t *testing.T) {
	ours, other := newAuthority(t), newAuthority(t)
	hello := func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "%s %x", r.Proto, r.TLS.Version)
		for _, c := range r.TLS.PeerCertificates {
			fmt.Fprint(w, " "+c.Subject.CommonName)
		}
	}
	pool := x509.NewCertPool()
	pool.AddCert(ours.cert)
	cert, key := ours.issue(t)
	for _, c := range []struct {
		name   string
		server *tls.Config
		o      clientOptions
		want   string // of the body, or "cert" for a refused certificate, or "unsent"
	}{
		{"added root", nil, clientOptions{roots: []pemFile{{"other", other.pem}, {"ours", ours.pem}}}, "HTTP/2.0 304"},
		{"only root", nil, clientOptions{roots: []pemFile{{"ours", ours.pem}}, caOnly: true}, "HTTP/2.0 304"},
		{"unknown root", nil, clientOptions{}, "cert"},
		{"another root", nil, clientOptions{roots: []pemFile{{"other", other.pem}}}, "cert"},
		{"another root only", nil, clientOptions{roots: []pemFile{{"other", other.pem}}, caOnly: true}, "cert"},
		{"server of 1.2", &tls.Config{MaxVersion: tls.VersionTLS12}, clientOptions{roots: []pemFile{{"ours", ours.pem}}}, "HTTP/2.0 303"},
		{"server of 1.2, 1.3 wanted", &tls.Config{MaxVersion: tls.VersionTLS12}, clientOptions{roots: []pemFile{{"ours", ours.pem}}, tls13: true}, "unsent"},
		{"server of 1.1", &tls.Config{MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11}, clientOptions{roots: []pemFile{{"ours", ours.pem}}}, "unsent"},
		{"client certificate", &tls.Config{ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: pool}, clientOptions{roots: []pemFile{{"ours", ours.pem}}, cert: cert, key: key}, "HTTP/2.0 304 leaf"},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.o.server = ours.serve(t, c.server, hello)
			again, once, auth := clients(t, c.o)
			for _, client := range []*http.Client{again, once, auth} {
				body, err := fetchURL(client, c.o.server.String())
				var e *exchangeError
				switch {
				case c.want == "cert":
					if !errors.As(err, &e) || !e.cert || e.fate != final {
						t.Errorf("got %q, %v", body, err)
					}
				case c.want == "unsent":
					if !errors.As(err, &e) || e.fate != unsent {
						t.Errorf("got %q, %v", body, err)
					}
				case body != c.want || err != nil:
					t.Errorf("got %q, %v, want %q", body, err, c.want)
				}
			}
		})
	}
}

func TestTLSErrors(t *testing.T) {
	a, b := newAuthority(t), newAuthority(t)
	cert, key := a.issue(t)
	_, otherKey := b.issue(t)
	for _, c := range []struct {
		name string
		o    clientOptions
		want string
	}{
		{"CA without certificate", clientOptions{roots: []pemFile{{"corp.der", []byte("s3cret")}}},
			"corp.der holds no certificate in PEM form | convert it: openssl x509 -inform der -in FILE -out FILE.pem"},
		{"encrypted PKCS#8", clientOptions{cert: cert, key: []byte("-----BEGIN ENCRYPTED PRIVATE KEY-----\nczNjcmV0\n-----END ENCRYPTED PRIVATE KEY-----\n")},
			"the key of --client-key is encrypted | decrypt it into a file that only you can read: openssl pkey -in KEY -out PLAIN"},
		{"encrypted the old way", clientOptions{cert: cert, key: []byte("-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n\nczNjcmV0\n-----END RSA PRIVATE KEY-----\n")},
			"the key of --client-key is encrypted"},
		{"key of another", clientOptions{cert: cert, key: otherKey},
			"reading --client-cert and --client-key: private key does not match public key | both are PEM files, and the key is the one of the certificate"},
		{"swapped", clientOptions{cert: key, key: cert}, "reading --client-cert and --client-key: failed to find certificate PEM data in certificate input, but did find a private key; PEM inputs may have been switched"},
		{"no PEM", clientOptions{cert: []byte("s3cret"), key: key}, "reading --client-cert and --client-key: failed to find any PEM data in certificate input"},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.o.server = parseURL(t, exampleURL)
			_, _, _, err := newClients(c.o)
			wants(t, err, c.want)
			if err != nil && strings.Contains(err.Error(), "s3cret") {
				t.Error("the file's text is in the error")
			}
		})
	}
}

// TestPinned holds what travels to the MCP server, and that it travels nowhere else.
func TestPinned(t *testing.T) {
	show := func(w http.ResponseWriter, r *http.Request) {
		for _, name := range []string{"Authorization", "Cookie", "X-Custom", "Accept", "Accept-Encoding", "User-Agent", "Content-Type"} {
			fmt.Fprintf(w, "%s=%s;", name, strings.Join(r.Header[name], "|"))
		}
	}
	home, elsewhere := serveHTTP(t, show), serveHTTP(t, show)
	static := func(lines ...string) *headerSource {
		var o headerOptions
		for _, l := range lines {
			o.args = append(o.args, headerArg{line: hide(l)})
		}
		s, err := newHeaderSource(o)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	token := func(v string, err error) func(context.Context) (secret, error) {
		return func(context.Context) (secret, error) { return hide(v), err }
	}
	for _, c := range []struct {
		name string
		o    clientOptions
		want string
	}{
		{"nothing", clientOptions{}, "Authorization=;Cookie=;X-Custom=;Accept=ours;Accept-Encoding=;User-Agent=mcp-redial/test;Content-Type=application/json;"},
		{"token", clientOptions{token: token("tok", nil)}, "Authorization=Bearer tok;Cookie=;X-Custom=;Accept=ours;Accept-Encoding=;User-Agent=mcp-redial/test;Content-Type=application/json;"},
		{"no token yet", clientOptions{token: token("", nil)}, "Authorization=;Cookie=;X-Custom=;Accept=ours;Accept-Encoding=;User-Agent=mcp-redial/test;Content-Type=application/json;"},
		{"headers", clientOptions{token: token("tok", nil), headers: static("X-Custom: c", "Accept: theirs", "Content-Type: text/plain", "User-Agent: own")},
			"Authorization=Bearer tok;Cookie=;X-Custom=c;Accept=ours;Accept-Encoding=;User-Agent=own;Content-Type=application/json;"},
		{"static authorization", clientOptions{token: token("", errors.New("not asked")), headers: static("authorization: Basic abc", "Cookie: a=b")},
			"Authorization=Basic abc;Cookie=a=b;X-Custom=;Accept=ours;Accept-Encoding=;User-Agent=mcp-redial/test;Content-Type=application/json;"},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.o.server, c.o.userAgent = home, "mcp-redial/test"
			again, once, _ := clients(t, c.o)
			for _, client := range []*http.Client{again, once} {
				req, _ := http.NewRequest("POST", home.String(), strings.NewReader("{}"))
				req.Header = http.Header{"Accept": {"ours"}, "Content-Type": {"application/json"}}
				resp, err := client.Do(req)
				if err != nil {
					t.Fatal(err)
				}
				body, _ := io.ReadAll(resp.Body)
				resp.Body.Close()
				if string(body) != c.want {
					t.Errorf("got  %s\nwant %s", body, c.want)
				}
				if len(req.Header) != 2 {
					t.Errorf("the caller's request was changed: %v", req.Header)
				}
				_, err = fetchURL(client, elsewhere.String())
				if want := "refusing to send to " + origin(elsewhere) + " what is meant for " + origin(home); finalText(err) != want {
					t.Errorf("got  %v\nwant %s", err, want)
				}
			}
		})
	}
	t.Run("sign-in fails", func(t *testing.T) {
		failed := &signInError{err: errors.New("down"), outage: true}
		again, _, _ := clients(t, clientOptions{server: home, token: token("", failed)})
		_, err := fetchURL(again, home.String())
		if got := (*signInError)(nil); !errors.As(err, &got) || got != failed {
			t.Errorf("got %v", err)
		}
	})
	t.Run("allow-origin", func(t *testing.T) {
		again, _, auth := clients(t, clientOptions{server: home, allowOrigins: []string{"https://other.example.com"}})
		for _, client := range []*http.Client{again, auth} {
			if _, err := fetchURL(client, home.String()); finalText(err) != "refusing to contact "+origin(home)+": --allow-origin does not name it" {
				t.Errorf("got %v", err)
			}
		}
	})
}

func TestCookies(t *testing.T) {
	u := serveHTTP(t, func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, "has "+r.Header.Get("Cookie"))
	})
	home := serveHTTP(t, func(w http.ResponseWriter, r *http.Request) {
		http.SetCookie(w, &http.Cookie{Name: "route", Value: "7"})
		io.WriteString(w, "has "+r.Header.Get("Cookie"))
	})
	for kept, want := range map[bool]string{true: "has route=7", false: "has "} {
		again, once, auth := clients(t, clientOptions{server: home, cookies: kept})
		if body, err := fetchURL(again, home.String()); body != "has " || err != nil {
			t.Errorf("at first: %q, %v", body, err)
		}
		for _, client := range []*http.Client{again, once} {
			if body, err := fetchURL(client, home.String()); body != want || err != nil {
				t.Errorf("kept %v: %q, %v", kept, body, err)
			}
		}
		for _, to := range []*url.URL{home, u} {
			if body, err := fetchURL(auth, to.String()); body != "has " || err != nil {
				t.Errorf("sign-in: %q, %v", body, err)
			}
		}
	}
}

func TestRedirects(t *testing.T) {
	elsewhere := serveHTTP(t, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "elsewhere") })
	home := serveHTTP(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		var code int
		if n, _ := fmt.Sscanf(r.URL.Path, "/same/%d", &code); n == 1 {
			http.Redirect(w, r, "/end?s3cret", code)
		} else if n, _ := fmt.Sscanf(r.URL.Path, "/cross/%d", &code); n == 1 {
			http.Redirect(w, r, elsewhere.String()+"/s3cret", code)
		} else if n, _ := fmt.Sscanf(r.URL.Path, "/loop/%d", &code); n == 1 {
			http.Redirect(w, r, fmt.Sprintf("/loop/%d", code+1-2*(code%2)), http.StatusTemporaryRedirect)
		} else {
			fmt.Fprintf(w, "%s %s %s", r.Method, body, r.Header.Get("X-Custom"))
		}
	})
	s, _ := newHeaderSource(headerOptions{args: []headerArg{{line: hide("X-Custom: c")}}})
	again, once, auth := clients(t, clientOptions{server: home, headers: s})
	post := func(c *http.Client, path string) (string, error) {
		resp, err := c.Post(home.String()+path, "application/json", strings.NewReader("{}"))
		if err != nil {
			return "", connectionError(err, true)
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		return string(b), err
	}
	for _, code := range []int{301, 302, 303, 307, 308} {
		for _, client := range []*http.Client{again, once} {
			path := fmt.Sprintf("/same/%d", code)
			posted, err := post(client, path)
			got, getErr := fetchURL(client, home.String()+path)
			if code >= 307 {
				if posted != "POST {} c" || err != nil || got != "GET  c" || getErr != nil {
					t.Errorf("%d: %q %v, %q %v", code, posted, err, got, getErr)
				}
			} else if want := fmt.Sprintf("the server redirects (%d) to another path on %s; give that address as the URL", code, origin(home)); finalText(err) != want || finalText(getErr) != want {
				t.Errorf("%d: %v, %v", code, err, getErr)
			}
			_, err = post(client, fmt.Sprintf("/cross/%d", code))
			if want := fmt.Sprintf("the server redirects (%d) to %s; if that is right, give its address there as the URL", code, origin(elsewhere)); finalText(err) != want {
				t.Errorf("%d: %v", code, err)
			}
		}
		// Metadata may move, documents with credentials may not.
		if got, err := fetchURL(auth, fmt.Sprintf("%s/cross/%d", home, code)); got != "elsewhere" || err != nil {
			t.Errorf("metadata, %d: %q, %v", code, got, err)
		}
		if _, err := post(auth, fmt.Sprintf("/same/%d", code)); finalText(err) != fmt.Sprintf("refusing to follow a redirect (%d) to %s with credentials", code, origin(home)) {
			t.Errorf("posting for sign-in, %d: %v", code, err)
		}
	}
	for _, client := range []*http.Client{again, once} {
		if _, err := fetchURL(client, home.String()+"/loop/2"); finalText(err) != "the server redirects for ever" {
			t.Errorf("a loop: %v", err)
		}
	}
	if _, err := fetchURL(auth, home.String()+"/loop/2"); finalText(err) != origin(home)+" redirects for ever" {
		t.Errorf("a loop of metadata: %v", err)
	}
}

// A recorder is a proxy on loopback that writes down what it is asked for.
type recorder struct {
	mu     sync.Mutex
	asked  []string // "CONNECT host:port credentials"
	answer func(http.ResponseWriter) bool
	where  map[string]string // where a name leads; without it, to itself
}

func (p *recorder) list() []string { p.mu.Lock(); defer p.mu.Unlock(); return slices.Clone(p.asked) }

func (p *recorder) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	user, password := "", ""
	if b, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(r.Header.Get("Proxy-Authorization"), "Basic ")); err == nil {
		user, password, _ = strings.Cut(string(b), ":")
	}
	p.mu.Lock()
	p.asked = append(p.asked, fmt.Sprintf("%s %s %s/%s", r.Method, r.Host, user, password))
	p.mu.Unlock()
	if p.answer != nil && p.answer(w) {
		return
	}
	to := r.Host
	if p.where != nil {
		to = p.where[r.Host]
	}
	up, err := net.Dial("tcp", to)
	if err != nil {
		http.Error(w, "no", http.StatusBadGateway)
		return
	}
	defer up.Close()
	if r.Method != http.MethodConnect {
		r.Header.Del("Proxy-Authorization")
		r.Write(up)
		resp, err := http.ReadResponse(bufio.NewReader(up), r)
		if err != nil {
			return
		}
		defer resp.Body.Close()
		w.WriteHeader(resp.StatusCode)
		io.Copy(w, resp.Body)
		return
	}
	w.WriteHeader(http.StatusOK)
	down, buffered, err := w.(http.Hijacker).Hijack()
	if err != nil {
		return
	}
	defer down.Close()
	go func() { io.Copy(up, buffered); up.Close() }()
	io.Copy(down, up)
}

func TestProxy(t *testing.T) {
	ca := newAuthority(t)
	hello := func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, "hello"+r.Header.Get("Proxy-Authorization"))
	}
	secure, plain := ca.serve(t, nil, hello), serveHTTP(t, hello)
	for _, c := range []struct {
		name   string
		target *url.URL
		user   *url.Userinfo
		auth   secret
		want   string
	}{
		{"https", secure, nil, secret{}, "CONNECT " + secure.Host + " /"},
		{"http", plain, nil, secret{}, "GET " + plain.Host + " /"},
		{"credentials in the URL", secure, url.UserPassword("u", "s3cret"), secret{}, "CONNECT " + secure.Host + " u/s3cret"},
		{"credentials in a file", secure, nil, hide("u:s3:cret"), "CONNECT " + secure.Host + " u/s3:cret"},
		{"the file wins", plain, url.UserPassword("x", "y"), hide("u:s3cret"), "GET " + plain.Host + " u/s3cret"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := &recorder{}
			proxy := serveHTTP(t, p.ServeHTTP)
			proxy.User = c.user
			o := clientOptions{server: c.target, proxy: http.ProxyURL(proxy), proxyAuth: c.auth, roots: []pemFile{{"ca", ca.pem}}}
			again, once, auth := clients(t, o)
			for _, client := range []*http.Client{again, once, auth} {
				if body, err := fetchURL(client, c.target.String()); body != "hello" || err != nil {
					t.Errorf("got %q, %v", body, err)
				}
			}
			if got := p.list(); len(got) != 3 || got[0] != c.want || got[1] != c.want || got[2] != c.want {
				t.Errorf("the proxy was asked for %q, want %q", got, c.want)
			}
		})
	}
}

func TestProxyRefuses(t *testing.T) {
	ca := newAuthority(t)
	secure := ca.serve(t, nil, nil)
	plain := parseURL(t, "http://127.0.0.1:1/")
	const helper = "; it wants Negotiate or NTLM, which mcp-redial does not speak: run a local helper (px or cntlm) and give its address with --proxy"
	for _, c := range []struct {
		name    string
		status  int
		headers []string
		want    string
		fate    fate
	}{
		{"basic", 407, []string{`Basic realm="s3cret"`}, "407 Proxy Authentication Required; give the credentials with --proxy-auth-file", final},
		{"negotiate", 407, []string{"Negotiate", "NTLM"}, "407 Proxy Authentication Required" + helper, final},
		{"ntlm", 407, []string{"NTLM s3cret"}, "407 Proxy Authentication Required" + helper, final},
		{"a choice", 407, []string{"Negotiate", `Basic realm="x"`}, "407 Proxy Authentication Required; give the credentials with --proxy-auth-file", final},
		{"forbidden", 403, nil, "403 Forbidden", final},
		{"bad gateway", 502, nil, "502 Bad Gateway", unsent},
		{"unavailable", 503, nil, "503 Service Unavailable", unsent},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := &recorder{answer: func(w http.ResponseWriter) bool {
				w.Header()["Proxy-Authenticate"] = c.headers
				w.WriteHeader(c.status)
				io.WriteString(w, "s3cret")
				return true
			}}
			proxy := serveHTTP(t, p.ServeHTTP)
			targets := []*url.URL{secure}
			if c.status == 407 {
				targets = append(targets, plain) // other statuses are the server's there
			}
			for _, target := range targets {
				again, _, auth := clients(t, clientOptions{server: target, proxy: http.ProxyURL(proxy), proxyAuth: hide("u:s3cret")})
				for _, client := range []*http.Client{again, auth} {
					_, err := fetchURL(client, target.String())
					var e *exchangeError
					if want := fmt.Sprintf("the proxy %s answered %s", origin(proxy), c.want); !errors.As(err, &e) || e.Error() != want || e.fate != c.fate {
						t.Errorf("%s: got  %v\nwant %s, %v", target.Scheme, err, want, c.fate)
					}
				}
			}
		})
	}
	t.Run("not there", func(t *testing.T) {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		l.Close()
		proxy := &url.URL{Scheme: "http", Host: l.Addr().String(), User: url.UserPassword("u", "s3cret")}
		again, _, _ := clients(t, clientOptions{server: secure, proxy: http.ProxyURL(proxy)})
		_, err = fetchURL(again, secure.String())
		var e *exchangeError
		if !errors.As(err, &e) || e.fate != unsent || !strings.Contains(err.Error(), "through the proxy http://"+l.Addr().String()+": ") || strings.Contains(err.Error(), "s3cret") {
			t.Errorf("got %v", err)
		}
	})
	t.Run("bad environment", func(t *testing.T) {
		again, _, auth := clients(t, clientOptions{server: secure, proxy: func(*http.Request) (*url.URL, error) {
			return nil, errors.New(`invalid proxy address "http://u:s3cret@%%"`)
		}})
		for _, client := range []*http.Client{again, auth} {
			if _, err := fetchURL(client, secure.String()); finalText(err) != "the proxy of the environment is no address" {
				t.Errorf("got %v", err)
			}
		}
	})
}

// TestHostsContacted runs the whole program, with a sign-in, behind a recording proxy and among names that nothing
// else can look up: what the proxy was asked for is all that was contacted.
func TestHostsContacted(t *testing.T) {
	ca := newAuthority(t)
	as := newFakeAS("https://as.test")
	asAt := ca.serve(t, nil, as.ServeHTTP, "as.test")
	home := ca.serve(t, nil, func(w http.ResponseWriter, r *http.Request) {
		switch {
		case strings.HasPrefix(r.URL.Path, "/.well-known/"):
			writeJSON(w, http.StatusOK, map[string]any{"resource": "https://mcp.test/mcp", "authorization_servers": []string{as.issuer}})
		case as.valid(strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")) == nil:
			w.Header().Set("WWW-Authenticate", `Bearer resource_metadata="https://mcp.test/.well-known/oauth-protected-resource/mcp"`)
			w.WriteHeader(http.StatusUnauthorized)
		case r.Method != http.MethodPost:
			w.WriteHeader(http.StatusMethodNotAllowed)
		default:
			writeJSON(w, http.StatusOK, map[string]any{"jsonrpc": "2.0", "id": 1, "result": map[string]any{"protocolVersion": "2025-06-18", "capabilities": map[string]any{}, "serverInfo": map[string]any{"name": "s", "version": "1"}}})
		}
	}, "mcp.test")
	p := &recorder{where: map[string]string{"mcp.test:443": home.Host, "as.test:443": asAt.Host}}
	proxy := serveHTTP(t, p.ServeHTTP)

	m := bareMachine(t)
	m.getenv = variables(map[string]string{"MCP_REMOTE_CONFIG_DIR": t.TempDir()})
	m.proxy = http.ProxyURL(proxy)
	in, line, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	answers, stdout := io.Pipe()
	errs, stderr := io.Pipe()
	var wg sync.WaitGroup
	var code int
	wg.Go(func() {
		code = command([]string{"https://mcp.test/mcp", "--no-browser", "--ca-file", writeFile(t, "ca.pem", string(ca.pem))}, m, in, stdout, stderr)
		stdout.Close()
		stderr.Close()
	})
	wg.Go(func() { // the person, whose browser is behind the same proxy
		_, _, auth, err := newClients(clientOptions{server: parseURL(t, as.issuer), proxy: http.ProxyURL(serveHTTP(t, (&recorder{where: p.where}).ServeHTTP)), roots: []pemFile{{"ca", ca.pem}}})
		if err != nil {
			t.Error(err)
			return
		}
		auth.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
		for s := bufio.NewScanner(errs); s.Scan(); {
			if m := addressInText.FindStringSubmatch(s.Text()); m != nil {
				resp, err := auth.Get(m[1])
				if err != nil {
					t.Error(err)
					continue
				}
				resp.Body.Close()
				if back, err := http.Get(resp.Header.Get("Location")); err == nil {
					back.Body.Close()
				}
			}
		}
	})
	io.WriteString(line, `{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-06-18","capabilities":{},"clientInfo":{"name":"c","version":"1"}}}`+"\n")
	s := bufio.NewScanner(answers)
	if !s.Scan() || !strings.Contains(s.Text(), `"result"`) {
		t.Errorf("the answer is %q", s.Text())
	}
	line.Close()
	for s.Scan() {
	}
	wg.Wait()
	asked := p.list()
	slices.Sort(asked)
	if got := slices.Compact(asked); code != 0 || len(got) != 2 || got[0] != "CONNECT as.test:443 /" || got[1] != "CONNECT mcp.test:443 /" {
		t.Errorf("exit code %d, contacted %q", code, got)
	}
}

// TestEnvironment holds what the environment of the process says of proxies and certificates.
func TestEnvironment(t *testing.T) {
	ca, other := newAuthority(t), newAuthority(t)
	home := ca.serve(t, nil, func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(http.StatusNotFound) }, "mcp.test")
	plain := serveHTTP(t, func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(http.StatusNotFound) })
	proxy := serveHTTP(t, (&recorder{where: map[string]string{"mcp.test:443": home.Host, "mcp.test": plain.Host}}).ServeHTTP)
	path, otherPath := writeFile(t, "ca.pem", string(ca.pem)), writeFile(t, "other.pem", string(other.pem))
	through, accepted := "through the proxy "+proxy.String(), "accepted by "
	for _, c := range []struct {
		env  string // separated by spaces
		args string
		exit int // of check; a good handshake goes on to the server's 404
		want string
	}{
		{"", home.String(), 1, "FAIL  TLS"},
		{"SSL_CERT_FILE=" + path, home.String(), 4, accepted},
		{"SSL_CERT_DIR=" + filepath.Dir(path) + " SSL_CERT_FILE=" + otherPath, home.String(), 4, accepted},
		{"NODE_EXTRA_CA_CERTS=" + path, home.String(), 4, accepted + path},
		{"NODE_EXTRA_CA_CERTS=" + path, home.String() + " --ca-only --ca-file " + otherPath, 1, "FAIL  TLS"},
		{"NODE_TLS_REJECT_UNAUTHORIZED=0", home.String(), 1, "FAIL  TLS"},
		{"HTTPS_PROXY=" + proxy.String(), "https://mcp.test --ca-file " + path, 4, through},
		{"https_proxy=" + proxy.Host, "https://mcp.test --ca-file " + path, 4, through},
		{"HTTP_PROXY=" + proxy.String(), "http://mcp.test --allow-http", 4, through},
		{"HTTP_PROXY=" + proxy.String(), "https://mcp.test --connect-timeout 1", 1, "https://mcp.test, directly"},
		{"HTTPS_PROXY=" + proxy.String() + " NO_PROXY=.test", "https://mcp.test --connect-timeout 1", 1, "https://mcp.test, directly"},
		{"HTTPS_PROXY=" + proxy.String(), "https://mcp.test --no-proxy --connect-timeout 1", 1, "https://mcp.test, directly"},
		{"HTTPS_PROXY=http://127.0.0.1:1", "https://mcp.test --ca-file " + path + " --proxy " + proxy.String(), 4, through},
	} {
		cmd := victimCommand(t.TempDir(), strings.Fields(c.env), append([]string{"check"}, strings.Fields(c.args)...)...)
		out, err := cmd.Output()
		if code := cmd.ProcessState.ExitCode(); code != c.exit || !strings.Contains(string(out), c.want) {
			t.Errorf("%s, %s: exit %d, want %d with %q, %v\n%s", c.env, c.args, code, c.exit, c.want, err, out)
		}
	}
}

// TestSOCKS speaks with a SOCKS5 proxy (RFC 1928, 1929) that resolves names itself.
func TestSOCKS(t *testing.T) {
	ca := newAuthority(t)
	secure := ca.serve(t, nil, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "hello") })
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	asked := make(chan string, 9)
	var wg sync.WaitGroup
	t.Cleanup(func() { l.Close(); wg.Wait() })
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { defer c.Close(); socks(c, secure.Host, asked) })
		}
	})
	_, port, _ := net.SplitHostPort(secure.Host)
	target := parseURL(t, "https://localhost:"+port)
	proxy := &url.URL{Scheme: "socks5h", Host: l.Addr().String()}
	again, _, _ := clients(t, clientOptions{server: target, proxy: http.ProxyURL(proxy), proxyAuth: hide("u:pw"), roots: []pemFile{{"ca", ca.pem}}})
	body, err := fetchURL(again, target.String())
	if want := "localhost:" + port + " u:pw"; body != "hello" || err != nil || <-asked != want {
		t.Errorf("got %q, %v", body, err)
	}
	again.CloseIdleConnections()
}

func socks(c net.Conn, to string, asked chan<- string) {
	b := make([]byte, 512)
	read := func(n int) []byte { io.ReadFull(c, b[:n]); return b[:n] }
	read(int(read(2)[1]))
	c.Write([]byte{5, 2})
	user := string(read(int(read(2)[1])))
	password := string(read(int(read(1)[0])))
	c.Write([]byte{1, 0})
	if read(4)[3] != 3 {
		asked <- "an address instead of a name"
		return
	}
	host := string(read(int(read(1)[0])))
	asked <- fmt.Sprintf("%s:%d %s:%s", host, binary.BigEndian.Uint16(read(2)), user, password)
	up, err := net.Dial("tcp", to)
	if err != nil {
		return
	}
	defer up.Close()
	c.Write([]byte{5, 0, 0, 1, 0, 0, 0, 0, 0, 0})
	go func() { io.Copy(up, c); up.Close() }()
	io.Copy(c, up)
}

// TestSignInAddresses is the table of what a server may point us at.
func TestSignInAddresses(t *testing.T) {
	addr := netip.MustParseAddr
	public, private, loopback, none := addr("203.0.113.9"), addr("10.0.0.9"), addr("127.0.0.1"), netip.Addr{}
	for _, c := range []struct {
		a      string
		server netip.Addr
		named  bool
		ok     bool
	}{
		{"93.184.216.34", public, false, true},
		{"2606:2800:220:1::1", none, false, true},
		{"127.0.0.1", public, false, false}, {"127.8.9.1", none, true, false}, {"127.0.0.1", private, true, false}, {"127.0.0.1", loopback, false, true},
		{"::1", public, false, false}, {"::1", loopback, false, true}, {"127.0.0.1", addr("::1"), false, true},
		{"::ffff:127.0.0.1", public, false, false}, {"::ffff:10.0.0.1", public, false, false}, {"::ffff:93.184.216.34", public, false, true},
		{"0.0.0.0", public, true, false}, {"0.1.2.3", none, false, false}, {"::", public, true, false},
		{"169.254.169.254", public, false, false}, {"169.254.169.254", private, true, false}, {"169.254.169.254", loopback, false, false},
		{"fe80::1", public, false, false}, {"fe80::1%eth0", private, true, false}, {"::ffff:169.254.169.254", private, false, false},
		{"10.1.2.3", public, false, false}, {"10.1.2.3", none, false, false}, {"10.1.2.3", private, false, true}, {"10.1.2.3", public, true, true}, {"10.1.2.3", loopback, false, false},
		{"172.16.0.1", public, false, false}, {"172.15.0.1", public, false, true}, {"192.168.1.1", addr("fd00::1"), false, true}, {"192.168.1.1", public, false, false},
		{"100.64.0.1", public, false, false}, {"100.127.255.255", public, false, false}, {"100.128.0.1", public, false, true}, {"100.64.0.1", public, true, true},
		{"fc00::1", public, false, false}, {"fd12::1", private, false, true}, {"fec0::1", public, false, false},
		{"64:ff9b::10.0.0.1", public, false, false}, {"64:ff9b::127.0.0.1", private, true, false}, {"64:ff9b::169.254.169.254", private, false, false}, {"64:ff9b::93.184.216.34", public, false, true},
		{"64:ff9b:1::a00:1", public, false, false}, {"2002:7f00:1::1", public, false, false}, {"2001:0:1::1", public, false, false}, {"::10.0.0.1", public, false, false},
		{"192.0.0.192", public, false, false}, {"198.18.0.1", public, false, false}, {"198.18.0.1", addr("198.19.0.1"), false, true}, {"240.0.0.1", public, false, false},
		{"168.63.129.16", public, false, false}, {"168.63.129.17", public, false, true}, {"2001:1::1", public, false, true},
		{"224.0.0.1", private, true, false}, {"255.255.255.255", loopback, true, false}, {"ff02::1", public, false, false},
	} {
		err := trust{server: c.server, named: c.named}.vet(addr(c.a))
		if (err == nil) != c.ok {
			t.Errorf("%s, server %v, named %v: %v", c.a, c.server, c.named, err)
		}
		if b := addr(c.a).Unmap(); err != nil && b.IsGlobalUnicast() && isPrivate(b) && !strings.Contains(err.Error(), "--auth-server") {
			t.Errorf("the error for %s does not name --auth-server: %v", c.a, err)
		}
		if (trust{any: true}).vet(addr(c.a)) != nil {
			t.Errorf("%s is refused although the person chose it", c.a)
		}
	}
	for host, ok := range map[string]bool{
		"as.example.com": true, "AS.EXAMPLE.COM.": true, "x.127": false, "2130706433": false, "0x7f000001": false, "127.1": false, "0177.0.0.1": false,
		"localhost": false, "LOCALHOST.": false, "a.localhost": false, "127.0.0.1": false, "::1": false, "10.0.0.1": false, "169.254.169.254": false,
		"93.184.216.34": true, "notlocalhost": true, "localhost.example.com": true, "1and1.com": true,
		"①②⑦.⓪.⓪.①": false, "１０.0.0.1": false, "ｌｏｃａｌｈｏｓｔ": false, "localhost。": false, "xn--bcher-kva.example": true,
	} {
		if err := (trust{server: public}).vetName(host); (err == nil) != ok {
			t.Errorf("through a proxy, %s: %v", host, err)
		}
	}
}

// TestSignInDial holds the same on real dials: on the address, whatever the name, and only for sign-in.
func TestSignInDial(t *testing.T) {
	ca := newAuthority(t)
	var seen []string
	show := func(w http.ResponseWriter, r *http.Request) {
		seen = append(seen, r.Header.Get("X-Gate")+r.Header.Get("X-Custom")+r.Header.Get("Cookie")+r.Header.Get("Authorization")+r.Header.Get("Referer"))
		io.WriteString(w, "metadata")
	}
	as := ca.serve(t, nil, show)
	_, port, _ := net.SplitHostPort(as.Host)
	named := parseURL(t, "https://localhost:"+port)
	roots := []pemFile{{"ca", ca.pem}}
	refused := "an address of this machine or its link, named by a remote server"

	_, _, auth := clients(t, clientOptions{server: parseURL(t, exampleURL), roots: roots})
	for _, u := range []*url.URL{as, named} {
		if _, err := fetchURL(auth, u.String()); !strings.HasSuffix(finalText(err), refused) {
			t.Errorf("a remote server pointing at %s: %v", u, err)
		}
	}
	_, _, auth = clients(t, clientOptions{server: parseURL(t, exampleURL), roots: roots, authServers: []string{origin(named)}})
	if _, err := fetchURL(auth, named.String()); !strings.HasSuffix(finalText(err), refused) {
		t.Errorf("named by --auth-server: %v", err)
	}
	if _, err := fetchURL(auth, "http://as.example.com/"); finalText(err) != "refusing to contact http://as.example.com for sign-in: not https" {
		t.Errorf("http: %v", err)
	}

	// A dial alone says nothing of where the server is: its name may lead anywhere for a moment.
	impostor := newAuthority(t).serve(t, nil, show)
	again, _, auth := clients(t, clientOptions{server: parseURL(t, strings.Replace(impostor.String(), "127.0.0.1", "localhost", 1)), roots: roots})
	if _, err := fetchURL(again, strings.Replace(impostor.String(), "127.0.0.1", "localhost", 1)); err == nil {
		t.Error("an impostor was believed")
	}
	if _, err := fetchURL(auth, as.String()); !strings.HasSuffix(finalText(err), refused) {
		t.Errorf("after an impostor was dialled on loopback: %v", err)
	}

	// A server that was reached on loopback may have its authorization server there.
	mcp := ca.serve(t, nil, show)
	_, mcpPort, _ := net.SplitHostPort(mcp.Host)
	home := parseURL(t, "https://localhost:"+mcpPort)
	s, _ := newHeaderSource(headerOptions{args: []headerArg{{line: hide("X-Custom: s3cret")}}})
	token := func(context.Context) (secret, error) { return hide("s3cret"), nil }
	again, _, auth = clients(t, clientOptions{server: home, roots: roots, headers: s, token: token, cookies: true,
		authServers: []string{origin(as)}, oauthHeaders: http.Header{"X-Gate": {"gate"}}})
	if _, err := fetchURL(auth, as.String()); !strings.HasSuffix(finalText(err), refused) {
		t.Errorf("before the server was reached: %v", err)
	}
	if _, err := fetchURL(again, home.String()); err != nil {
		t.Fatal(err)
	}
	seen = nil
	for _, u := range []*url.URL{as, named, home} {
		if body, err := fetchURL(auth, u.String()); body != "metadata" || err != nil {
			t.Errorf("%s: %q, %v", u, body, err)
		}
	}
	if got := fmt.Sprintf("%q", seen); got != `["gate" "" ""]` {
		t.Errorf("what travelled for sign-in: %s", got)
	}
}

// TestSignInThroughProxy holds that names of this machine and special addresses are refused where a proxy looks up.
func TestSignInThroughProxy(t *testing.T) {
	p := &recorder{answer: func(w http.ResponseWriter) bool { w.WriteHeader(http.StatusTeapot); return true }}
	proxy := serveHTTP(t, p.ServeHTTP)
	_, _, auth := clients(t, clientOptions{server: parseURL(t, exampleURL), proxy: http.ProxyURL(proxy)})
	for _, u := range []string{"https://localhost/", "https://127.0.0.1/", "https://10.0.0.1/", "https://[::1]/", "https://2130706433/", "http://localhost/", "https://①②⑦.⓪.⓪.①/"} {
		if _, err := fetchURL(auth, u); !strings.HasPrefix(finalText(err), "refusing to contact") {
			t.Errorf("%s: %v", u, err)
		}
	}
	if got := p.list(); len(got) != 0 {
		t.Errorf("the proxy was asked for %q", got)
	}
	for _, u := range []string{"https://as.example.com/", exampleURL} {
		if _, err := fetchURL(auth, u); !strings.Contains(finalText(err), "418") {
			t.Errorf("%s: %v", u, err)
		}
	}
}

func TestSignInBounds(t *testing.T) {
	u := serveHTTP(t, func(w http.ResponseWriter, r *http.Request) {
		w.Write(bytes.Repeat([]byte("x"), maxMetadata))
		if r.URL.Path == "/more" {
			w.Write([]byte("x"))
		}
	})
	_, _, auth := clients(t, clientOptions{server: u})
	if body, err := fetchURL(auth, u.String()); len(body) != maxMetadata || err != nil {
		t.Errorf("at the bound: %d bytes, %v", len(body), err)
	}
	if body, err := fetchURL(auth, u.String()+"/more"); len(body) != maxMetadata || err == nil {
		t.Errorf("one past the bound: %d bytes, %v", len(body), err)
	}
	if auth.Timeout != signInLimit {
		t.Errorf("an exchange may take %v", auth.Timeout)
	}
}

func TestHeaderBound(t *testing.T) {
	u := serveHTTP(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Big", strings.Repeat("x", maxHeaders))
	})
	again, _, auth := clients(t, clientOptions{server: u})
	for _, client := range []*http.Client{again, auth} {
		if _, err := fetchURL(client, u.String()); err == nil {
			t.Error("headers beyond the bound were accepted")
		}
	}
}

func TestFamily(t *testing.T) {
	u := serveHTTP(t, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "hello") })
	again, _, _ := clients(t, clientOptions{server: u, family: "tcp4"})
	if body, err := fetchURL(again, u.String()); body != "hello" || err != nil {
		t.Errorf("IPv4: %q, %v", body, err)
	}
	again, _, _ = clients(t, clientOptions{server: u, family: "tcp6"})
	if _, err := fetchURL(again, u.String()); err == nil {
		t.Error("an IPv4 address was dialled with --ipv6")
	}
}

// overMemory lets the clients' own transports dial a network in memory, so that their timers run in a bubble.
func overMemory(n *memNet, cs ...*http.Client) {
	for _, c := range cs {
		c.Transport.(*pinned).t.DialContext = n.dial
	}
}

func dialled(n *memNet) int { all, _ := n.dialled(); return all }

// TestPoolLife holds that once gives up an idle connection after 1 s, and again does not.
func TestPoolLife(t *testing.T) {
	for _, c := range []struct {
		pause time.Duration
		once  int // dials for two requests
		again int
	}{{900 * time.Millisecond, 1, 1}, {1100 * time.Millisecond, 2, 1}, {89 * time.Second, 2, 1}, {91 * time.Second, 2, 2}} {
		synctest.Test(t, func(t *testing.T) {
			n := newMemNet()
			srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {})}
			l := n.listen("mcp.test:80")
			go srv.Serve(l)
			defer srv.Close()
			again, once, _ := clients(t, clientOptions{server: parseURL(t, "http://mcp.test")})
			overMemory(n, again, once)
			for client, want := range map[*http.Client]int{once: c.once, again: c.again} {
				before := dialled(n)
				for range 2 {
					if _, err := fetchURL(client, "http://mcp.test/"); err != nil {
						t.Fatal(err)
					}
					time.Sleep(c.pause)
				}
				if got := dialled(n) - before; got != want {
					t.Errorf("%v: %d dials, want %d", c.pause, got, want)
				}
			}
		})
	}
}

func TestTimeouts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newMemNet()
		srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/late" {
				time.Sleep(61 * time.Second)
			}
			w.WriteHeader(200)
			for i := range 5 {
				fmt.Fprint(w, i)
				http.NewResponseController(w).Flush()
				time.Sleep(time.Duration(i) * 10 * time.Second)
			}
		})}
		l := n.listen("mcp.test:80")
		go srv.Serve(l)
		defer srv.Close()
		defer time.Sleep(time.Hour) // for handlers to end
		patient, _, _ := clients(t, clientOptions{server: parseURL(t, "http://mcp.test")})
		hasty, _, _ := clients(t, clientOptions{server: parseURL(t, "http://mcp.test"), headersTimeout: time.Minute, bodyTimeout: 25 * time.Second})
		overMemory(n, patient, hasty)
		if body, err := fetchURL(patient, "http://mcp.test/late"); body != "01234" || err != nil {
			t.Errorf("without limits: %q, %v", body, err)
		}
		start := time.Now()
		if _, err := fetchURL(hasty, "http://mcp.test/late"); err == nil || time.Since(start) != time.Minute {
			t.Errorf("late headers: %v after %v", err, time.Since(start))
		}
		start = time.Now()
		body, err := fetchURL(hasty, "http://mcp.test/")
		if body != "0123" || err == nil || err.Error() != "no byte of the answer for 25s (--body-timeout)" || time.Since(start) != 55*time.Second {
			t.Errorf("a slow body: %q, %v after %v", body, err, time.Since(start))
		}
		resp, err := hasty.Get("http://mcp.test/")
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour) // our own pause is not the server's
		if b, err := io.ReadAll(resp.Body); string(b) != "01234" || err != nil {
			t.Errorf("after our own pause: %q, %v", b, err)
		}
		resp.Body.Close()
	})
}

// TestNothingElse holds what a security reviewer looks for in a transport.
func TestNothingElse(t *testing.T) {
	again, once, auth := clients(t, clientOptions{server: parseURL(t, exampleURL)})
	c := auth.Transport.(*careful)
	for name, tr := range map[string]*http.Transport{"again": again.Transport.(*pinned).t, "once": once.Transport.(*pinned).t, "known": c.known(), "strange": c.strange()} {
		if tr.TLSClientConfig.InsecureSkipVerify || tr.TLSClientConfig.MinVersion < tls.VersionTLS12 || !tr.DisableCompression ||
			tr.MaxResponseHeaderBytes != maxHeaders || tr.TLSHandshakeTimeout != 10*time.Second || tr.HTTP2.SendPingTimeout == 0 || tr.HTTP2.PingTimeout == 0 {
			t.Errorf("%s: %+v", name, tr)
		}
	}
	if auth.Jar != nil {
		t.Error("the client for sign-in keeps cookies")
	}
}
