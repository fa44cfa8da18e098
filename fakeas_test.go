package main

// fakeas_test.go is an authorization server and a protected MCP server for tests: complete, strict, and
// scriptable. It refuses what a strict server would refuse, counts everything, and remembers every secret that it
// gave out, so that a test can look for them where they must not be.

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"math/big"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"
)

// A fakeAS serves under the path of its issuer. Fields are set before it is used, or under mu.
type fakeAS struct {
	mu sync.Mutex

	// What it says of itself and does.
	issuer      string
	wellKnown   string                           // path of the metadata
	metadata    map[string]any                   // replaces fields of the metadata; nil removes one
	script      map[string][]http.HandlerFunc    // by path: each handler serves one request; then the normal one does
	always      map[string]http.HandlerFunc      // by path
	onAuthorize func(q url.Values) (back string) // "" goes on as usual
	iss         string                           // in the redirect: "" is the issuer, "-" none
	deny        string                           // error instead of a code
	lifetime    int                              // of access tokens in seconds, 0 is not said
	rotate      bool                             // refresh tokens, with reuse detection
	noRefresh   bool                             // gives no refresh token
	idTokenLife time.Duration                    // gives id tokens that end so much later
	narrow      string                           // grants only this scope
	publicKey   crypto.PublicKey                 // of the client that uses private_key_jwt
	pendings    int                              // device polls that are answered authorization_pending
	device      map[string]any                   // replaces fields of the answer that holds a device code
	jtis        map[string]bool

	// What has happened.
	requests  []string // "GET /path"
	forms     []url.Values
	queries   []url.Values // of authorization requests
	regs      []map[string]any
	clients   map[string]map[string]any
	codes     map[string]url.Values // the authorization request
	tokens    map[string]*fakeToken // live access (and id) tokens
	refreshes map[string]*fakeFamily
	secrets   []string
	n         int
	reused    int // refresh tokens that were shown twice: the family is revoked
}

type fakeToken struct {
	scope  string
	issued time.Time
	family *fakeFamily
}

type fakeFamily struct {
	client, scope, resource string
	current                 string
	revoked                 bool
}

func newFakeAS(issuer string) *fakeAS {
	u, err := url.Parse(issuer)
	if err != nil {
		panic(err)
	}
	return &fakeAS{issuer: issuer, wellKnown: "/.well-known/oauth-authorization-server" + strings.TrimSuffix(u.Path, "/"), lifetime: 3600,
		script: map[string][]http.HandlerFunc{}, always: map[string]http.HandlerFunc{}, metadata: map[string]any{}, jtis: map[string]bool{},
		clients: map[string]map[string]any{}, codes: map[string]url.Values{}, tokens: map[string]*fakeToken{}, refreshes: map[string]*fakeFamily{}}
}

func (f *fakeAS) secret(kind string) string {
	f.n++
	s := fmt.Sprintf("planted-%s-%d-%x", kind, f.n, sha256.Sum256(fmt.Appendf(nil, "%s%s%d", f.issuer, kind, f.n)))[:40]
	f.secrets = append(f.secrets, s)
	return s
}

// count is how often a request was made: "POST /token".
func (f *fakeAS) count(request string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := 0
	for _, r := range f.requests {
		if r == request {
			n++
		}
	}
	return n
}

func (f *fakeAS) asked() []string { f.mu.Lock(); defer f.mu.Unlock(); return slices.Clone(f.requests) }

// once has the next request for path served by h.
func (f *fakeAS) once(path string, h http.HandlerFunc) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.script[path] = append(f.script[path], h)
}

// form is the newest request to the token endpoint.
func (f *fakeAS) form() url.Values {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.forms) == 0 {
		return nil
	}
	return f.forms[len(f.forms)-1]
}

func (f *fakeAS) query() url.Values {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.queries) == 0 {
		return nil
	}
	return f.queries[len(f.queries)-1]
}

// revokeAccess makes every access token of now invalid.
func (f *fakeAS) revokeAccess() {
	f.mu.Lock()
	defer f.mu.Unlock()
	clear(f.tokens)
}

// valid looks an access token up, as the MCP server would.
func (f *fakeAS) valid(token string) *fakeToken {
	f.mu.Lock()
	defer f.mu.Unlock()
	t := f.tokens[token]
	if t == nil || t.family != nil && t.family.revoked || f.lifetime > 0 && time.Since(t.issued) > time.Duration(f.lifetime)*time.Second {
		return nil
	}
	return t
}

func (f *fakeAS) document() map[string]any {
	doc := map[string]any{
		"issuer": f.issuer, "authorization_endpoint": f.issuer + "/authorize?tenant=1", "token_endpoint": f.issuer + "/token",
		"registration_endpoint": f.issuer + "/register", "revocation_endpoint": f.issuer + "/revoke", "device_authorization_endpoint": f.issuer + "/device",
		"response_types_supported": []string{"code"}, "code_challenge_methods_supported": []string{"S256"},
		"token_endpoint_auth_methods_supported": []string{"none"}, "authorization_response_iss_parameter_supported": true,
	}
	for k, v := range f.metadata {
		if doc[k] = v; v == nil {
			delete(doc, k)
		}
	}
	return doc
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(v)
}

// oauthError answers with an error, and with a description that nobody may repeat.
func oauthError(status int, code string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		writeJSON(w, status, map[string]any{"error": code, "error_description": "planted-description \x1b[31m" + r.FormValue("refresh_token") + r.FormValue("code")})
	}
}

func (f *fakeAS) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	base, _ := url.Parse(f.issuer)
	path := strings.TrimPrefix(r.URL.Path, strings.TrimSuffix(base.Path, "/"))
	f.mu.Lock()
	f.requests = append(f.requests, r.Method+" "+r.URL.Path)
	h := f.always[path]
	if s := f.script[path]; len(s) > 0 {
		h, f.script[path] = s[0], s[1:]
	}
	f.mu.Unlock()
	switch {
	case path == "/mcp" && h != nil: // both servers in one
		h(w, r)
	case r.Header.Get("Cookie") != "" || r.Header.Get("Mcp-Session-Id") != "" || strings.HasPrefix(r.Header.Get("Authorization"), "Bearer"):
		http.Error(w, "what is this doing here", http.StatusTeapot)
	case h != nil:
		h(w, r)
	case r.URL.Path == f.wellKnown:
		f.mu.Lock()
		defer f.mu.Unlock()
		writeJSON(w, http.StatusOK, f.document())
	case path == "/register" && r.Method == http.MethodPost:
		f.register(w, r)
	case path == "/authorize" && r.Method == http.MethodGet:
		f.authorize(w, r)
	case path == "/token" && r.Method == http.MethodPost:
		f.token(w, r)
	case path == "/device" && r.Method == http.MethodPost:
		f.mu.Lock()
		defer f.mu.Unlock()
		r.ParseForm()
		if r.Form.Get("client_id") == "" {
			oauthError(http.StatusBadRequest, "invalid_request")(w, r)
			return
		}
		code := f.secret("device")
		f.codes[code] = r.Form
		answer := map[string]any{"device_code": code, "user_code": "WDJB-MJHT", "verification_uri": f.issuer + "/activate", "expires_in": 600, "interval": 2}
		maps.Copy(answer, f.device)
		writeJSON(w, http.StatusOK, answer)
	case path == "/revoke" && r.Method == http.MethodPost:
		f.mu.Lock()
		defer f.mu.Unlock()
		if family := f.refreshes[r.FormValue("token")]; family != nil {
			family.revoked = true
		}
		delete(f.tokens, r.FormValue("token"))
	default:
		http.NotFound(w, r)
	}
}

func (f *fakeAS) register(w http.ResponseWriter, r *http.Request) {
	var doc map[string]any
	if json.NewDecoder(r.Body).Decode(&doc) != nil || doc["application_type"] != "native" || doc["redirect_uris"] == nil {
		oauthError(http.StatusBadRequest, "invalid_client_metadata")(w, r)
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.regs = append(f.regs, maps.Clone(doc))
	f.n++
	doc["client_id"] = fmt.Sprintf("client-%d", f.n)
	if doc["token_endpoint_auth_method"] != "none" {
		doc["client_secret"] = f.secret("client") + ":%/é"
		f.secrets = append(f.secrets, doc["client_secret"].(string))
	}
	f.clients[doc["client_id"].(string)] = doc
	writeJSON(w, http.StatusCreated, doc)
}

func (f *fakeAS) authorize(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	f.mu.Lock()
	defer f.mu.Unlock()
	f.queries = append(f.queries, q)
	if f.onAuthorize != nil {
		if back := f.onAuthorize(q); back != "" {
			http.Redirect(w, r, back, http.StatusFound)
			return
		}
	}
	client := f.clients[q.Get("client_id")]
	redirects, _ := client["redirect_uris"].([]any)
	if client == nil || redirects != nil && !slices.Contains(redirects, any(q.Get("redirect_uri"))) || q.Get("code_challenge_method") != "S256" ||
		q.Get("response_type") != "code" || q.Get("tenant") != "1" {
		http.Error(w, "this request is not right", http.StatusBadRequest)
		return
	}
	back := url.Values{"state": {q.Get("state")}}
	if f.iss == "" {
		back.Set("iss", f.issuer)
	} else if f.iss != "-" {
		back.Set("iss", f.iss)
	}
	if f.deny != "" {
		back.Set("error", f.deny)
		back.Set("error_description", "planted-description <script>")
	} else {
		code := f.secret("code")
		f.codes[code] = q
		back.Set("code", code)
	}
	http.Redirect(w, r, q.Get("redirect_uri")+"?"+back.Encode(), http.StatusFound)
}

// who authenticates the client, in exactly one way.
func (f *fakeAS) who(r *http.Request) (id string, ok bool) {
	ways := 0
	if user, pass, basic := r.BasicAuth(); basic {
		ways++
		id, _ = url.QueryUnescape(user)
		pass, _ = url.QueryUnescape(pass)
		ok = f.clients[id] != nil && f.clients[id]["client_secret"] == pass && f.clients[id]["token_endpoint_auth_method"] != "client_secret_post"
	}
	if s := r.PostForm.Get("client_secret"); s != "" {
		ways++
		id = r.PostForm.Get("client_id")
		ok = f.clients[id] != nil && f.clients[id]["client_secret"] == s && f.clients[id]["token_endpoint_auth_method"] == "client_secret_post"
	}
	if s := r.PostForm.Get("client_assertion"); s != "" {
		ways++
		f.secrets = append(f.secrets, s)
		id, ok = f.assertion(s)
	}
	if ways == 0 {
		ways++
		id = r.PostForm.Get("client_id")
		ok = f.clients[id] != nil && f.clients[id]["client_secret"] == nil
	}
	return id, ok && ways == 1
}

// assertion verifies a JWT by hand.
func (f *fakeAS) assertion(s string) (id string, ok bool) {
	parts := strings.Split(s, ".")
	if len(parts) != 3 {
		return "", false
	}
	var head struct{ Alg string }
	var claims struct {
		Iss, Sub, Aud, Jti string
		Iat, Exp           int64
	}
	var raw [3][]byte
	for i, p := range parts {
		b, err := base64.RawURLEncoding.DecodeString(p)
		if err != nil {
			return "", false
		}
		raw[i] = b
	}
	if json.Unmarshal(raw[0], &head) != nil || json.Unmarshal(raw[1], &claims) != nil {
		return "", false
	}
	now := time.Now().Unix()
	if claims.Iss != claims.Sub || claims.Aud != f.issuer || claims.Jti == "" || f.jtis[claims.Jti] || claims.Iat > now || claims.Exp <= now || claims.Exp > now+600 {
		return "", false
	}
	f.jtis[claims.Jti] = true
	input := []byte(parts[0] + "." + parts[1])
	sum := sha256.Sum256(input)
	switch key := f.publicKey.(type) {
	case *ecdsa.PublicKey:
		ok = head.Alg == "ES256" && len(raw[2]) == 64 && ecdsa.Verify(key, sum[:], new(big.Int).SetBytes(raw[2][:32]), new(big.Int).SetBytes(raw[2][32:]))
	case *rsa.PublicKey:
		ok = head.Alg == "RS256" && rsa.VerifyPKCS1v15(key, crypto.SHA256, sum[:], raw[2]) == nil ||
			head.Alg == "PS256" && rsa.VerifyPSS(key, crypto.SHA256, sum[:], raw[2], nil) == nil
		if algs, _ := f.metadata["token_endpoint_auth_signing_alg_values_supported"].([]string); algs != nil && !slices.Contains(algs, head.Alg) {
			ok = false
		}
	case ed25519.PublicKey:
		ok = head.Alg == "EdDSA" && ed25519.Verify(key, input, raw[2])
	}
	return claims.Sub, ok
}

func (f *fakeAS) token(w http.ResponseWriter, r *http.Request) {
	r.ParseForm()
	f.mu.Lock()
	defer f.mu.Unlock()
	form := maps.Clone(r.PostForm)
	f.forms = append(f.forms, form)
	client, ok := f.who(r)
	if !ok || r.URL.RawQuery != "" || r.Header.Get("Accept") != "application/json" {
		oauthError(http.StatusUnauthorized, "invalid_client")(w, r)
		return
	}
	family := &fakeFamily{client: client, scope: form.Get("scope"), resource: form.Get("resource")}
	switch form.Get("grant_type") {
	case "authorization_code":
		asked := f.codes[form.Get("code")]
		delete(f.codes, form.Get("code"))
		f.secrets = append(f.secrets, form.Get("code_verifier"))
		sum := sha256.Sum256([]byte(form.Get("code_verifier")))
		if asked == nil || asked.Get("client_id") != client || asked.Get("redirect_uri") != form.Get("redirect_uri") || asked.Get("resource") != form.Get("resource") ||
			len(form.Get("code_verifier")) < 43 || asked.Get("code_challenge") != base64.RawURLEncoding.EncodeToString(sum[:]) {
			oauthError(http.StatusBadRequest, "invalid_grant")(w, r)
			return
		}
		family.scope = asked.Get("scope")
	case "refresh_token":
		old := f.refreshes[form.Get("refresh_token")]
		if old == nil || old.revoked || old.client != client || old.resource != form.Get("resource") {
			oauthError(http.StatusBadRequest, "invalid_grant")(w, r)
			return
		}
		if old.current != form.Get("refresh_token") {
			old.revoked = true
			f.reused++
			oauthError(http.StatusBadRequest, "invalid_grant")(w, r)
			return
		}
		family = old
	case deviceGrant:
		switch {
		case f.codes[form.Get("device_code")] == nil:
			oauthError(http.StatusBadRequest, "expired_token")(w, r)
			return
		case f.pendings > 0:
			f.pendings--
			oauthError(http.StatusBadRequest, "authorization_pending")(w, r)
			return
		case f.deny != "":
			oauthError(http.StatusBadRequest, f.deny)(w, r)
			return
		}
		family.scope = f.codes[form.Get("device_code")].Get("scope")
		delete(f.codes, form.Get("device_code"))
	case "client_credentials":
	default:
		oauthError(http.StatusBadRequest, "unsupported_grant_type")(w, r)
		return
	}
	if f.narrow != "" {
		family.scope = f.narrow
	}
	access := f.secret("access")
	answer := map[string]any{"access_token": access, "token_type": "bearer", "scope": family.scope}
	f.tokens[access] = &fakeToken{family.scope, time.Now(), family}
	if f.lifetime > 0 {
		answer["expires_in"] = f.lifetime
	}
	if family.scope == "" {
		delete(answer, "scope")
	}
	if f.idTokenLife != 0 {
		enc := base64.RawURLEncoding.EncodeToString
		id := enc([]byte(`{"alg":"none"}`)) + "." + enc(fmt.Appendf(nil, `{"exp":%d}`, time.Now().Add(f.idTokenLife).Unix())) + "." + f.secret("idsig")
		f.secrets = append(f.secrets, id)
		answer["id_token"] = id
		f.tokens[id] = f.tokens[access]
	}
	if !f.noRefresh && form.Get("grant_type") != "client_credentials" && (f.rotate || family.current == "") {
		family.current = f.secret("refresh")
		f.refreshes[family.current] = family
		answer["refresh_token"] = family.current
	}
	writeJSON(w, http.StatusOK, answer)
}

// A fakeResource is a protected MCP server, as far as signing in is concerned.
type fakeResource struct {
	mu        sync.Mutex
	url       string // of the MCP endpoint
	as        *fakeAS
	metadata  map[string]any               // the whole document; nil is the usual one
	at        string                       // its path; "" is the path-based one
	noHeader  bool                         // the challenge does not say where it is
	scope     string                       // in the challenge
	needs     func(r *http.Request) string // scope that a request takes
	requests  []string
	bearers   []string
	refuseAll bool // every token
}

// location is where its metadata lies.
func (f *fakeResource) location() string {
	base, err := url.Parse(f.url)
	if err != nil {
		panic(err)
	}
	path := f.at
	if path == "" {
		path = "/.well-known/oauth-protected-resource" + base.Path
	}
	return base.Scheme + "://" + base.Host + path
}

func (f *fakeResource) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.requests = append(f.requests, r.Method+" "+r.URL.Path)
	base, _ := url.Parse(f.url)
	if r.URL.Path != base.Path {
		if !strings.HasSuffix(f.location(), "//"+base.Host+r.URL.Path) || r.Header.Get("Authorization") != "" {
			http.NotFound(w, r)
			return
		}
		doc := f.metadata
		if doc == nil {
			doc = map[string]any{"resource": f.url, "authorization_servers": []string{f.as.issuer}}
		}
		writeJSON(w, http.StatusOK, doc)
		return
	}
	bearer := strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
	f.bearers = append(f.bearers, bearer)
	params := []string{`realm="a, \"b\""`}
	if !f.noHeader && f.at != "-" {
		params = append(params, `resource_metadata="`+f.location()+`"`)
	}
	status := http.StatusUnauthorized
	if t := f.as.valid(bearer); t != nil && !f.refuseAll {
		need := ""
		if f.needs != nil {
			need = f.needs(r)
		}
		have := strings.Fields(t.scope)
		if !slices.ContainsFunc(strings.Fields(need), func(s string) bool { return !slices.Contains(have, s) }) {
			w.Write([]byte("ok"))
			return
		}
		status = http.StatusForbidden
		params = append(params, `error="insufficient_scope"`, `scope="`+need+`"`)
	} else if f.scope != "" {
		params = append(params, `scope="`+f.scope+`"`)
	}
	w.Header().Add("WWW-Authenticate", `Basic realm="x"`)
	w.Header().Add("WWW-Authenticate", "Bearer "+strings.Join(params, ", "))
	w.WriteHeader(status)
}
