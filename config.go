package main

// config.go turns arguments, environment, the policy file and a client's own mcpServers file into the options
// of the other files. It alone reads the environment. One table of flags drives the parser, the manual, the
// README and the policy. What is wrong is a *usageError that says what, and what to do; a value that may be
// secret is never repeated in it.

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"
)

// A config is everything that a person decided.
type config struct {
	command string   // "" is the bridge; or check, status, demo, login, logout, help, version
	url     *url.URL // of the MCP server; nil where the command needs none

	bridge   options
	client   clientOptions // with the headers in it
	auth     authOptions
	log      logOptions
	audit    string // path of the audit file, "" for none
	storeDir string // holds the folder of credentials; "" keeps them in memory
	json     bool   // check and status answer a program

	locked   []string // the lines of the policy file
	warnings []string // for the log
}

// A machine is what the program reads of its surroundings.
type machine struct {
	getenv  func(string) (string, bool)
	proxy   func(*http.Request) (*url.URL, error) // what the environment says
	policy  string                                // path of the policy file
	trusted func(os.FileInfo) bool                // owned by the administrator and writable by nobody else
}

func thisMachine() machine {
	return machine{os.LookupEnv, http.ProxyFromEnvironment, policyPath(), administrators}
}

// A draft is a config in the making.
type draft struct {
	config
	machine
	table  []flag
	policy []setting       // what the policy file says
	given  map[string]bool // the flags that have been set

	headers, gate              headerOptions               // of --header and the like; of --oauth-header
	variable                   func(string) (string, bool) // for ${VAR}: the environment, and env of the entry
	file, entry, where, format string                      // of --config, --server, --token-store, --log-format
	proxyURL, tlsMin           string                      // of --proxy, --tls-min
}

// A flag is one row of the manual. A row without a name is a heading.
type flag struct {
	name string
	arg  string // what the value is; "" if there is none; "..." at its end: the flag may be repeated
	help string
	set  func(value string) error
}

func (f flag) many() bool { return strings.HasSuffix(f.arg, "...") }

// flags is the table, bound to the draft that it fills.
func (d *draft) flags() []flag {
	b, n, a := &d.bridge, &d.client, &d.auth
	return []flag{
		{"", "", "The server", nil},
		{"header", "'NAME: VALUE'...", "send this header to the MCP server; ${VAR} is taken from the environment", header(&d.headers, "--header")},
		{"header-file", "FILE...", "headers, one a line; read again when the server answers 401", want("a path", d.addHeaderFile)},
		{"header-command", "PATH", "a program that prints headers; run at the start, after a 401, and by its Expires-In", valid(&d.headers.command, "the absolute path of a program, without arguments", filepath.IsAbs)},
		{"transport", "KIND", "http-first (default), sse-first, http-only, sse-only", oneOf(&b.transport, "http-first", "sse-first", "http-only", "sse-only")},
		{"protocol", "ERA", "auto (default), legacy (2025-11-25 and older), modern (2026-07-28)", oneOf(&b.protocol, "auto", "legacy", "modern")},
		{"allow-http", "", "allow an http: URL that is not on this machine", none},
		{"allow-origin", "ORIGIN...", "contact no MCP or authorization server but these", more(&n.allowOrigins, "an origin such as https://mcp.example.com", isOrigin)},
		{"disable-cookies", "", "keep no cookies", is(&n.cookies, false)},
		{"config", "FILE", "read url, headers, env and autoReconnect from an mcpServers file", valid(&d.file, "a value", notEmpty)},
		{"server", "NAME", "the entry of --config", valid(&d.entry, "a value", notEmpty)},

		{"", "", "Reconnecting", nil},
		{"max-retries", "N", "attempts before going dormant until the client next asks (10; -1: for ever)", number(&b.maxRetries, "a whole number of at least -1", -1, math.MaxInt32)},
		{"initial-retry-delay", "DURATION", "ceiling of the first wait (2s)", duration(&b.initialDelay)},
		{"max-retry-delay", "DURATION", "ceiling of the longest wait (30s)", duration(&b.maxDelay)},
		{"backoff-multiplier", "FACTOR", "growth of the ceiling (1.5)", number(&b.multiplier, "a number from 1 to 1000", 1, 1000)},
		{"hold-timeout", "DURATION", "how long a call is held while the server is away (25s)", duration(&b.holdTimeout)},
		{"retry-calls", "WHICH", "tool calls sent again after a cut: never, safe (default: those marked so), always", oneOf(&b.retryCalls, "never", "safe", "always")},
		{"no-auto-reconnect", "", "dial again only when the client next asks", is(&b.autoReconnect, false)},
		{"no-offline-start", "", "never answer initialize while the server is away", is(&b.offlineStart, false)},
		{"keep-alive", "", "accepted; pings are on unless --ping-interval 0", none},
		{"ping-interval", "SECONDS", "between pings on an idle stream (30; 0: none)", seconds(&b.pingInterval, ", 0 for none")},

		{"", "", "Tools", nil},
		{"allow-tool", "PATTERN...", "hide and refuse all other tools; * stands for anything", more(&b.tools.allow, "a value", notEmpty)},
		{"ignore-tool", "PATTERN...", "hide and refuse these tools", more(&b.tools.ignore, "a value", notEmpty)},
		{"read-only", "", "only tools that the server marks readOnlyHint", is(&b.tools.readOnly, true)},

		{"", "", "Network", nil},
		{"proxy", "URL", "use this http, https or socks5 proxy for everything, whatever the environment says", valid(&d.proxyURL, "a URL such as http://proxy.example.com:3128, of http, https or socks5", link("http https socks5 socks5h", ""))},
		{"no-proxy", "", "use no proxy, whatever the environment says", is(&n.proxy, nil)},
		{"enable-proxy", "", "accepted; the proxies of the environment are used anyway", none},
		{"proxy-auth-file", "FILE", "one line user:password for the proxy", d.setProxyAuth},
		{"ca-file", "FILE...", "PEM certificates to trust besides the system's", d.addRoots},
		{"ca-only", "", "trust --ca-file alone", is(&n.caOnly, true)},
		{"client-cert", "FILE", "PEM certificate to show to the MCP server", content(&n.cert)},
		{"client-key", "FILE", "PEM key of --client-cert, not encrypted", content(&n.key)},
		{"tls-min", "VERSION", "1.2 (default) or 1.3", oneOf(&d.tlsMin, "1.2", "1.3")},
		{"ipv4", "", "use IPv4 only", is(&n.family, "tcp4")},
		{"ipv6", "", "use IPv6 only", is(&n.family, "tcp6")},
		{"connect-timeout", "SECONDS", "for TCP, and again for TLS (10)", seconds(&n.connectTimeout, "")},
		{"headers-timeout", "SECONDS", "for the headers of an answer (0: no limit)", seconds(&n.headersTimeout, ", 0 for no limit")},
		{"body-timeout", "SECONDS", "between two pieces of an answer (0: no limit)", seconds(&n.bodyTimeout, ", 0 for no limit")},
		{"max-message-size", "SIZE", "of one message, either way (64MiB)", size(&b.maxMessage)},
		{"max-memory", "SIZE", "for all messages at once (256MiB)", size(&b.maxMemory)},

		{"", "", "Signing in", nil},
		{"host", "NAME", "host in the redirect address (localhost; 127.0.0.1 on Windows)", valid(&a.host, "a host name", func(v string) bool { return consists(v, digitsAndLetters+"._:[]-") })},
		{"callback-path", "PATH", "path in the redirect address (/oauth/callback)", valid(&a.callbackPath, "a path such as /oauth/callback that is not one of our own", isCallbackPath)},
		{"auth-success-url", "URL", "where the browser ends up", valid(&a.successURL, "an https URL without credentials, query and fragment", link("https http", "?#"))},
		{"auth-timeout", "SECONDS", "how long other instances wait for a sign-in (30)", seconds(&a.authTimeout, "")},
		{"no-browser", "", "print the sign-in address, open nothing", is(&a.noBrowser, true)},
		{"device-code", "", "sign in with a code on another device", is(&a.deviceCode, true)},
		{"client-credentials", "", "sign in as the program itself", is(&a.clientCredentials, true)},
		{"client-private-key", "FILE", "PEM PKCS#8 key for private_key_jwt", content(&a.privateKeyPEM)},
		{"token-endpoint", "URL", "use this without discovery; with --client-credentials", valid(&a.tokenEndpoint, "an https URL without credentials and fragment", link("https local", "#"))},
		{"static-oauth-client-info", "JSON|@FILE", "client_id, client_secret; ${VAR} is taken from the environment", jsonObject(&a.staticInfo)},
		{"static-oauth-client-metadata", "JSON|@FILE", "overrides for registration", jsonObject(&a.staticMetadata)},
		{"client-metadata-url", "URL", "a client ID metadata document", valid(&a.metadataURL, "an https URL with a path", isDocument)},
		{"scope", "SCOPES", "ask for these scopes", valid(&a.scope, "a value", notEmpty)},
		{"resource", "URI", "resource to ask for; empty as --disable-resource-parameter", valid(&a.resource, "an absolute URI", isURI)},
		{"disable-resource-parameter", "", "send no resource parameter", is(&a.noResource, true)},
		{"authorize-param", "KEY=VALUE...", "extra parameter of the authorization request", want("KEY=VALUE, with a key that is not one of our own", d.addAuthorizeParam)},
		{"use-id-token", "", "present the id_token as the credential", is(&a.useIDToken, true)},
		{"auth-server", "ISSUER...", "the only authorization servers to trust; may have a private address", more(&a.authServers, "an https URL without credentials and fragment", link("https local", "#"))},
		{"oauth-header", "'NAME: VALUE'...", "send this header to --auth-server", header(&d.gate, "--oauth-header")},
		{"token-store", "PLACE", "disk (default, shared with mcp-remote) or memory", oneOf(&d.where, "disk", "memory")},

		{"", "", "Records", nil},
		{"silent", "", "only what a person must act on", func(string) error { d.log.silent, b.silent = true, true; return nil }},
		{"debug", "", "tell everything but secrets", is(&d.log.debug, true)},
		{"log-file", "FILE", "log here too; moved to FILE.1 beyond 10 MiB", valid(&d.log.file, "a value", notEmpty)},
		{"log-format", "FORMAT", "text (default) or json", oneOf(&d.format, "text", "json")},
		{"audit-file", "FILE", "one JSON line for each message that matters, without arguments and results", valid(&d.audit, "a value", notEmpty)},
		{"audit-required", "", "call no tool when the audit file cannot be written", is(&b.auditRequired, true)},
		{"json", "", "check and status answer in JSON", is(&d.json, true)},
		{"help", "", "print this", nil},
		{"version", "", "print the version", nil},
	}
}

// A setting is one occurrence of a flag.
type setting struct {
	flag
	value string
}

// parse reads the arguments, without the program's name. Errors are *usageError.
func parse(args []string, m machine) (*config, error) {
	d := &draft{machine: m, given: map[string]bool{}, variable: m.getenv}
	d.bridge = options{
		transport: "http-first", protocol: "auto", retryCalls: "safe",
		maxRetries: 10, initialDelay: 2 * time.Second, maxDelay: 30 * time.Second, multiplier: 1.5,
		holdTimeout: 25 * time.Second, pingInterval: 30 * time.Second, autoReconnect: true, offlineStart: true,
		maxMessage: 64 << 20, maxMemory: 256 << 20,
	}
	d.client = clientOptions{cookies: true, proxy: m.proxy}
	d.auth.authTimeout, d.auth.authorizeParams = 30*time.Second, map[string]string{}
	d.table = d.flags()
	if err := d.readPolicy(); err != nil {
		return nil, err
	}
	for _, command := range []string{"help", "version"} {
		if slices.Contains(args, "--"+command) || command == "help" && slices.Contains(args, "-h") {
			d.command = command
			return &d.config, nil
		}
	}
	for len(args) > 0 && (args[0] == "-y" || args[0] == "--yes" || strings.HasPrefix(args[0]+"@", "mcp-remote@")) {
		args = args[1:]
	}
	said, words, err := d.split(args)
	if err != nil {
		return nil, err
	}
	if err := d.apply(said); err != nil {
		return nil, err
	}
	if err := d.place(words); err != nil {
		return nil, err
	}
	return &d.config, d.finish()
}

// split tells flags from words. A value may begin with dashes, as for mcp-remote.
func (d *draft) split(args []string) (said []setting, words []string, err error) {
	for i := 0; i < len(args); i++ {
		name, isFlag := strings.CutPrefix(args[i], "--")
		if !isFlag {
			if strings.HasPrefix(args[i], "-") && len(args[i]) > 1 && !(args[i][1] >= '0' && args[i][1] <= '9') {
				return nil, nil, &usageError{"unknown flag " + clean(args[i]), "flags begin with two dashes; see mcp-redial --help"}
			}
			words = append(words, args[i])
			continue
		}
		name, value, hasValue := strings.Cut(name, "=")
		at := slices.IndexFunc(d.table, func(f flag) bool { return f.name == name && name != "" })
		if at < 0 {
			return nil, nil, &usageError{"unknown flag --" + clean(name), "did you mean --" + d.nearest(name) + "?"}
		}
		f := d.table[at]
		switch {
		case f.arg == "" && hasValue:
			return nil, nil, &usageError{"--" + name + " takes no value", "leave out what follows it"}
		case f.arg != "" && !hasValue:
			if i++; i == len(args) {
				return nil, nil, &usageError{"--" + name + " needs a value", "write --" + name + " " + strings.TrimSuffix(f.arg, "...")}
			}
			value = args[i]
		}
		said = append(said, setting{f, value})
	}
	return said, words, nil
}

// nearest is the flag that has most pairs of letters in common with name, for its length.
func (d *draft) nearest(name string) string {
	best, most := "help", 0.0
	for _, f := range d.table {
		shared := 0.0
		for i := range max(0, len(f.name)-1) {
			if strings.Contains(name, f.name[i:i+2]) {
				shared++
			}
		}
		if likeness := shared / float64(len(f.name)+len(name)); likeness > most {
			best, most = f.name, likeness
		}
	}
	return best
}

// unquoted is a value without the quotes around it.
func unquoted(v string) string {
	if n := len(v) - 1; n > 0 && v[0] == v[n] && (v[0] == '\'' || v[0] == '"') {
		return v[1:n]
	}
	return v
}

// readPolicy reads the file that arguments cannot loosen. One that others could have written stops the program.
func (d *draft) readPolicy() error {
	const ask = "ask the administrator of this machine"
	data, err := load(d.machine.policy)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	file, fileErr := os.Stat(d.machine.policy)
	folder, folderErr := os.Stat(filepath.Dir(d.machine.policy))
	if err := errors.Join(err, fileErr, folderErr); err != nil {
		return &usageError{"reading the policy: " + clean(err.Error()), ask}
	}
	if !d.trusted(file) || !d.trusted(folder) {
		return &usageError{"the policy " + d.machine.policy + " or its folder does not belong to the administrator alone", "it must be owned by root and writable by nobody else"}
	}
	for i, line := range strings.Split(string(data), "\n") {
		if line = strings.TrimSpace(line); line == "" || line[0] == '#' {
			continue
		}
		var said []setting
		var words []string
		err := errors.New("not a flag")
		name, value := line, ""
		if i := strings.IndexAny(line, " \t="); i > 0 {
			name, value = line[:i], strings.TrimLeft(line[i:], " \t=")
		}
		bare := unquoted(value)
		switch flag, dashes := strings.CutPrefix(name, "--"); {
		case !dashes || !consists(flag, digitsAndLetters+"-"):
		case bare == value && strings.Contains(" "+value, " #"): // a pattern with it would match nothing
			err = errors.New("a comment has a line of its own; a value that holds ' #' wants quotes")
		case bare == "":
			said, words, err = d.split([]string{name})
		default:
			said, words, err = d.split([]string{name, bare})
		}
		if err == nil && (len(words) > 0 || slices.Contains([]string{"config", "server", "json", "help", "version"}, said[0].name)) {
			err = errors.New("not a flag that can be locked")
		}
		if err != nil {
			return &usageError{fmt.Sprintf("%s line %d: %v", d.machine.policy, i+1, err), ask}
		}
		d.policy = append(d.policy, said...)
		d.locked = append(d.locked, line)
	}
	return nil
}

// undoes says which flags of the policy another one would override.
var undoes = map[string]string{"authorize-param resource": "resource", "authorize-param scope": "scope", "disable-resource-parameter": "resource", "header-command": "header header-file"}

// restrict joins the policy with what was said. Lists may only become narrower: those of what is allowed by
// naming some of what the policy names, --ignore-tool by naming more, the others not at all.
func (d *draft) restrict(said []setting) (all []setting, err error) {
	narrowed := map[string]bool{}
	for _, s := range said {
		locked, covered := false, false
		as, _, _ := strings.Cut(s.name+" "+s.value, "=")
		for _, l := range d.policy {
			same := l.name == s.name
			locked = locked || same && s.name != "ignore-tool" || slices.Contains(strings.Fields(undoes[as]+" "+undoes[s.name]), l.name)
			covered = covered || same && (l.value == s.value || s.name == "allow-tool" && newFilter(filterOptions{allow: []string{l.value}}).call(s.value) == allowed)
		}
		if locked && !covered {
			return nil, &usageError{"--" + s.name + " contradicts the policy of this machine", "leave it out, or see " + d.machine.policy}
		}
		narrowed[s.name] = locked && slices.Contains([]string{"allow-origin", "allow-tool", "auth-server", "ca-file"}, s.name)
	}
	var last []setting // headers: of those the last counts
	for _, l := range d.policy {
		if l.name == "header" || l.name == "header-file" {
			last = append(last, l)
		} else if !narrowed[l.name] {
			all = append(all, l)
		}
	}
	d.headers.locked = len(last)
	return slices.Concat(all, said, last), nil
}

// apply sets flags. Of those that may not be repeated, the first occurrence counts.
func (d *draft) apply(said []setting) error {
	all, err := d.restrict(said)
	if err != nil {
		return err
	}
	for _, s := range all {
		if d.given[s.name] && !s.many() {
			if s.name == "auth-success-url" {
				return &usageError{"--auth-success-url is given twice", "give it once"}
			}
			continue
		}
		d.given[s.name] = true
		err := s.set(s.value)
		if u := (*usageError)(nil); errors.As(err, &u) {
			return err
		} else if err != nil {
			return &usageError{"--" + s.name + ": " + err.Error(), "mcp-redial --help explains the flags"}
		}
	}
	return nil
}

// place gives the words their meaning: command, URL, port.
func (d *draft) place(words []string) error {
	if len(words) > 0 && slices.Contains([]string{"check", "status", "demo", "login", "logout"}, words[0]) {
		d.command, words = words[0], words[1:]
	}
	if d.file != "" {
		if err := d.readEntry(len(words) > 0); err != nil {
			return err
		}
	}
	if d.command == "status" || d.command == "demo" {
		if len(words) > 0 {
			return &usageError{d.command + " takes no URL", "mcp-redial " + d.command}
		}
		return nil
	}
	if len(words) > 0 {
		d.auth.serverURL = words[0]
	}
	if len(words) > 2 { // some clients take arguments apart at spaces
		return &usageError{fmt.Sprintf("%d words too many after URL and port", len(words)-2), "put values with spaces in quotes, or into variables"}
	}
	if len(words) > 1 {
		port, err := strconv.Atoi(words[1])
		if err != nil || port < 0 || port > 65535 {
			return &usageError{"the second word, the callback port, is no port", "give a number from 1 to 65535, or leave it out"}
		}
		d.auth.port = port
	}
	return d.setURL(d.auth.serverURL)
}

// An entry is one server of an mcpServers file. Nothing else in it is read: command and args are never followed.
type entry struct {
	URL           string                     `json:"url"`
	Headers       map[string]string          `json:"headers"`
	Env           map[string]string          `json:"env"`
	AutoReconnect map[string]json.RawMessage `json:"autoReconnect"`
}

// readEntry takes what --config says: of a server given as URL only how to reconnect. Flags win over it.
func (d *draft) readEntry(haveURL bool) error {
	data, err := load(d.file)
	if err != nil {
		return &usageError{"--config: " + err.Error(), "give the path of a file with mcpServers"}
	}
	wrong := func(what string) error {
		return &usageError{d.file + ": " + what, "correct the file; mcp-redial --help names what is read of it"}
	}
	shape := func(of string, err error) error {
		if t, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
			return wrong(clean(strings.Trim(of+"."+t.Field, ".")) + " is a " + t.Value + ", which it may not be")
		}
		return wrong("not JSON: " + clean(err.Error()))
	}
	var doc struct {
		Servers map[string]json.RawMessage `json:"mcpServers"` // what others have is their business
	}
	if err := json.Unmarshal(data, &doc); err != nil {
		return shape("", err)
	}
	names := slices.Sorted(maps.Keys(doc.Servers))
	name := d.entry
	if name == "" && len(names) == 1 {
		name = names[0]
	}
	raw, ok := doc.Servers[name]
	if !ok {
		return wrong(fmt.Sprintf("mcpServers has no entry %s; it has %s", clean(strconv.Quote(name)), clean(strings.Join(names, ", "))))
	}
	var e entry
	if err := json.Unmarshal(raw, &e); err != nil {
		return shape("mcpServers", err)
	}
	for _, key := range slices.Sorted(maps.Keys(e.AutoReconnect)) {
		value := string(e.AutoReconnect[key])
		k, known := reconnectKeys[key]
		at := slices.IndexFunc(d.table, func(f flag) bool { return f.name == k.flag })
		switch {
		case !known:
			return wrong("autoReconnect has no " + clean(strconv.Quote(key)))
		case d.given[k.flag], value == k.absent:
			continue
		case k.absent != "" && value != "true" && value != "false", d.table[at].set(value+k.unit) != nil:
			return wrong("autoReconnect." + key + " must be " + k.must)
		}
		d.given[k.flag] = true
	}
	if haveURL {
		return nil
	}
	d.auth.serverURL = e.URL
	if len(e.Headers) > 0 && slices.ContainsFunc(d.policy, func(l setting) bool { return l.name == "header" }) {
		return &usageError{"the headers in " + d.file + " contradict the policy of this machine", "leave them out, or see " + d.machine.policy}
	}
	for name, value := range e.Headers { // flags win, being later
		d.headers.args = slices.Insert(d.headers.args, 0, headerArg{line: hide(name + ": " + value)})
	}
	d.variable = func(name string) (string, bool) {
		if v, ok := e.Env[name]; ok {
			return v, true
		}
		return d.getenv(name)
	}
	return nil
}

// A reconnectKey says which flag a key of autoReconnect stands for, and which value stands for its absence.
type reconnectKey struct{ flag, unit, absent, must string }

var reconnectKeys = map[string]reconnectKey{
	"enabled":           {"no-auto-reconnect", "", "true", "true or false"},
	"silent":            {"silent", "", "false", "true or false"},
	"maxRetries":        {"max-retries", "", "", "a whole number of at least -1"},
	"initialRetryDelay": {"initial-retry-delay", "ms", "", "a number of milliseconds"},
	"maxRetryDelay":     {"max-retry-delay", "ms", "", "a number of milliseconds"},
	"backoffMultiplier": {"backoff-multiplier", "", "", "a number from 1 to 1000"},
}

// setURL checks the address of the MCP server. The text itself may hold a secret and is not repeated.
func (d *draft) setURL(s string) error {
	example := "for example https://mcp.example.com/mcp"
	if s == "" {
		return &usageError{"no URL of an MCP server", "give it as the first word, " + example}
	}
	u, err := url.Parse(s)
	switch {
	case err != nil || u.Scheme == "" || u.Opaque != "":
		return &usageError{"the first word is not a URL", "give the URL of the MCP server, " + example}
	case u.Scheme != "https" && u.Scheme != "http":
		return &usageError{"the URL begins with " + clean(u.Scheme) + ":, which is not supported", "give an https URL, " + example}
	case u.Hostname() == "":
		return &usageError{"the URL has no host", "give it in full, " + example}
	case strings.Contains(s, "#"):
		return &usageError{"the URL has a fragment (#…), which is never sent", "leave out what follows the #"}
	case u.User != nil:
		return &usageError{"the URL holds a user name or password", "send them as a header: --header 'Authorization: Basic ${CREDENTIALS}'"}
	case u.Scheme == "http" && !d.given["allow-http"] && !isLocalName(u.Hostname()):
		return &usageError{"the URL begins with http:, so that everybody on the way can read and change what is sent", "use https, or add --allow-http for a network that you trust"}
	}
	d.url = u
	return nil
}

// finish checks what flags say of each other, and makes of them what the other files want.
func (d *draft) finish() error {
	for _, c := range [][2]string{{"proxy", "no-proxy"}, {"enable-proxy", "no-proxy"}, {"ipv4", "ipv6"}, {"device-code", "client-credentials"}} {
		if d.given[c[0]] && d.given[c[1]] {
			hint := "give one of them"
			if len(d.locked) > 0 {
				hint += "; the other may be in the policy " + d.machine.policy
			}
			return &usageError{"--" + c[0] + " contradicts --" + c[1], hint}
		}
	}
	for _, c := range [][2]string{{"token-endpoint", "client-credentials"}, {"client-private-key", "client-credentials"}, {"oauth-header", "auth-server"},
		{"client-cert", "client-key"}, {"client-key", "client-cert"}, {"ca-only", "ca-file"}, {"audit-required", "audit-file"}, {"server", "config"}} {
		if d.given[c[0]] && !d.given[c[1]] {
			return &usageError{"--" + c[0] + " needs --" + c[1], "give both, or neither"}
		}
	}
	if d.json && d.command != "check" && d.command != "status" {
		return &usageError{"--json is for check and status", "leave it out"}
	}
	if d.bridge.maxDelay < d.bridge.initialDelay {
		return &usageError{fmt.Sprintf("the longest wait, %v, is below the first, %v", d.bridge.maxDelay, d.bridge.initialDelay), "raise --max-retry-delay or lower --initial-retry-delay"}
	}
	d.log.json = d.format == "json"
	if d.where != "memory" {
		if d.storeDir, _ = d.getenv("MCP_REMOTE_CONFIG_DIR"); d.storeDir == "" { // mcp-remote's place, as the variable is
			home, err := os.UserHomeDir()
			if err != nil {
				return &usageError{"finding the home directory: " + err.Error(), "set MCP_REMOTE_CONFIG_DIR, or give --token-store memory"}
			}
			d.storeDir = filepath.Join(home, ".mcp-auth")
		}
	}
	if v, _ := d.getenv("NODE_TLS_REJECT_UNAUTHORIZED"); v == "0" {
		d.warnings = append(d.warnings, "NODE_TLS_REJECT_UNAUTHORIZED is ignored: name the server's CA with --ca-file")
	}
	d.auth.noResource = d.auth.noResource || d.given["resource"] && d.auth.resource == ""
	if d.auth.noResource && d.auth.resource != "" {
		d.warnings = append(d.warnings, "--disable-resource-parameter overrides --resource")
		d.auth.resource = ""
	}
	if d.url == nil {
		return nil
	}
	return d.finishServer()
}

func (d *draft) finishServer() error {
	n, a := &d.client, &d.auth
	d.bridge.server = origin(d.url)
	for i, v := range n.allowOrigins {
		n.allowOrigins[i] = origin(urlOf(v))
	}
	for _, v := range a.authServers {
		n.authServers = append(n.authServers, origin(urlOf(v)))
	}
	if len(n.allowOrigins) > 0 && !slices.Contains(n.allowOrigins, d.bridge.server) {
		return &usageError{"--allow-origin does not name " + d.bridge.server, "add --allow-origin " + d.bridge.server}
	}
	if u := urlOf(a.tokenEndpoint); a.tokenEndpoint != "" {
		a.tokenEndpoint = origin(u) + u.RequestURI() // in one spelling: part of a sign-in's identity
		if len(n.authServers) > 0 && !slices.Contains(n.authServers, origin(u)) {
			return &usageError{"--auth-server does not name " + origin(u) + ", where --token-endpoint is", "add --auth-server " + origin(u)}
		}
	}
	d.headers.getenv, d.gate.getenv = d.variable, d.variable
	var err error
	if n.headers, err = newHeaderSource(d.headers); err != nil {
		return err
	}
	if n.oauthHeaders, _, err = d.gate.written(); err != nil {
		return err
	}
	n.server, n.tls13 = d.url, d.tlsMin == "1.3"
	if d.given["proxy"] {
		n.proxy = http.ProxyURL(urlOf(d.proxyURL))
	}
	d.environmentRoots()
	d.auth.server, d.auth.headers = d.url, n.headers.typed
	var info map[string]any
	if d.auth.staticInfo != nil && json.Unmarshal(d.auth.staticInfo, &info) == nil {
		for key, value := range info {
			if s, ok := value.(string); ok {
				if info[key], err = expand("--static-oauth-client-info", s, d.variable); err != nil {
					return err
				}
			}
		}
		d.auth.staticInfo, _ = json.Marshal(info) // it was JSON a moment ago
	}
	if a.successURL != "" && !link("https local", "")(a.successURL) && !d.given["allow-http"] {
		return &usageError{"--auth-success-url begins with http:", "use https, or add --allow-http for a network that you trust"}
	}
	return nil
}

// environmentRoots adds the certificates that the environment names for every program. What cannot be read is
// passed over with a warning, as those programs do.
func (d *draft) environmentRoots() {
	extra, _ := d.getenv("NODE_EXTRA_CA_CERTS")
	paths := []string{extra}
	if runtime.GOOS == "windows" || runtime.GOOS == "darwin" { // elsewhere they are what Go takes for the system's
		file, _ := d.getenv("SSL_CERT_FILE")
		dirs, _ := d.getenv("SSL_CERT_DIR")
		paths = append(paths, file)
		for _, dir := range filepath.SplitList(dirs) {
			files, _ := filepath.Glob(filepath.Join(dir, "*"))
			paths = append(paths, files...)
		}
	}
	for _, path := range paths {
		if _, err := os.Stat(path); err == nil && !d.client.caOnly {
			d.client.roots = append(d.client.roots, pemFile{path, nil})
		} else if path != "" && !d.client.caOnly {
			d.warnings = append(d.warnings, "passing over certificates that the environment names: "+err.Error())
		}
	}
}

const synopsis = `mcp-redial connects an MCP client with a remote MCP server, and dials again when the line drops.

  mcp-redial URL [callback-port] [flags]     what an MCP client starts
  mcp-redial --config FILE [--server NAME]   the same, with the URL from an mcpServers file
  mcp-redial check URL                       try the connection, step by step
  mcp-redial login URL, logout URL           sign in ahead of time, or forget the sign-in
  mcp-redial status                          the bridges that are running now
  mcp-redial demo                            watch it survive a server that keeps dropping the line
`

// manual is the text of --help.
func (c *config) manual() string {
	var b strings.Builder
	b.WriteString(synopsis)
	for _, f := range new(draft).flags() {
		if f.name == "" {
			fmt.Fprintf(&b, "\n%s\n", f.help)
			continue
		}
		fmt.Fprintf(&b, "  --%-29s %s\n", strings.TrimSpace(f.name+" "+strings.TrimSuffix(f.arg, "...")), f.help)
	}
	if len(c.locked) > 0 {
		fmt.Fprintf(&b, "\nLocked by the policy of this machine, %s\n  %s\n", policyPath(), strings.Join(c.locked, "\n  "))
	}
	return b.String()
}

// The makers of setters. What they expect is in their errors; the value, which may be secret, is not.

func want(what string, take func(v string) bool) func(string) error {
	return func(v string) error {
		if !take(v) {
			return errors.New("expected " + what)
		}
		return nil
	}
}

func none(string) error { return nil }

func is[T any](to *T, v T) func(string) error { return func(string) error { *to = v; return nil } }

// valid takes what ok accepts, and more takes it each time.
func valid(to *string, what string, ok func(string) bool) func(string) error {
	return want(what, func(v string) bool { *to = v; return ok(v) })
}

func more(to *[]string, what string, ok func(string) bool) func(string) error {
	return want(what, func(v string) bool { *to = append(*to, v); return ok(v) })
}

func oneOf(s *string, choices ...string) func(string) error {
	return valid(s, strings.Join(choices, ", "), func(v string) bool { return slices.Contains(choices, v) })
}

func number[T int | float64](to *T, what string, least, most float64) func(string) error {
	return want(what, func(v string) bool {
		x, err := strconv.ParseFloat(v, 64)
		*to = T(x)
		return err == nil && least <= x && x <= most && float64(*to) == x
	})
}

const maxDuration = 365 * 24 * time.Hour

func duration(d *time.Duration) func(string) error {
	return want("a duration with its unit, such as 500ms or 2s", func(v string) bool {
		x, err := time.ParseDuration(v)
		*d = x
		return err == nil && x >= 0 && x <= maxDuration
	})
}

// seconds is the form that mcp-remote has. more says what 0 is, if it is allowed.
func seconds(d *time.Duration, more string) func(string) error {
	return want("a number of seconds without a unit"+more, func(v string) bool {
		x, err := strconv.ParseFloat(v, 64)
		*d = time.Duration(x * float64(time.Second))
		return err == nil && x >= 0 && x <= maxDuration.Seconds() && (*d > 0 || more != "" && x == 0)
	})
}

func size(n *int) func(string) error {
	return want("a size such as 8MiB", func(v string) bool {
		digits := strings.TrimRight(v, "KMGiB")
		shift, ok := map[string]int{"": 0, "KiB": 10, "MiB": 20, "GiB": 30}[v[len(digits):]]
		x, err := strconv.Atoi(digits)
		*n = x << shift
		return ok && err == nil && x > 0 && x <= math.MaxInt>>shift
	})
}

func content(b *[]byte) func(string) error {
	return func(path string) (err error) {
		*b, err = load(path)
		return err
	}
}

// jsonObject takes a JSON object, or @ and the path of a file with one.
func jsonObject(m *json.RawMessage) func(string) error {
	return func(v string) (err error) {
		*m = json.RawMessage(v)
		if path, isFile := strings.CutPrefix(v, "@"); isFile {
			*m, err = load(path)
		}
		var o map[string]any
		if err == nil && (json.Unmarshal(*m, &o) != nil || o == nil) {
			err = errors.New("expected a JSON object, or @ and the path of a file with one")
		}
		return err
	}
}

// header notes a line, which is expanded when all flags are known.
func header(to *headerOptions, where string) func(string) error {
	return func(v string) error {
		to.args = append(to.args, headerArg{line: hide(v)})
		_, _, err := parseHeader(where, v)
		return err
	}
}

func (d *draft) addHeaderFile(v string) bool {
	d.headers.args = append(d.headers.args, headerArg{file: v})
	return v != ""
}

func (d *draft) setProxyAuth(v string) error {
	data, err := load(v)
	line := strings.TrimRight(string(data), "\r\n")
	if err == nil && (!strings.Contains(line, ":") || strings.ContainsAny(line, "\r\n")) {
		err = errors.New("expected a file with one line user:password")
	}
	d.client.proxyAuth = hide(line)
	return err
}

func (d *draft) addRoots(path string) error {
	data, err := load(path)
	d.client.roots = append(d.client.roots, pemFile{path, data})
	return err
}

func (d *draft) addAuthorizeParam(v string) bool {
	key, value, ok := strings.Cut(v, "=")
	d.auth.authorizeParams[key] = value
	return ok && key != "" && !slices.Contains([]string{"client_id", "redirect_uri", "response_type", "state", "code_challenge", "code_challenge_method"}, key)
}

// What is accepted as a value.

func notEmpty(v string) bool { return v != "" }

// link accepts a URL that has one of the schemes, a host, and none of the characters in without. The scheme local
// is http on this machine. Credentials are for proxies.
func link(schemes, without string) func(string) bool {
	return func(v string) bool {
		u, err := url.Parse(v)
		if err != nil || u.Hostname() == "" || strings.ContainsAny(v, without) || without != "" && u.User != nil {
			return false
		}
		all := strings.Fields(schemes)
		return slices.Contains(all, u.Scheme) || slices.Contains(all, "local") && u.Scheme == "http" && isLocalName(u.Hostname())
	}
}

func isOrigin(v string) bool {
	return link("https http", "?#")(v) && v == urlOf(v).Scheme+"://"+urlOf(v).Host
}

func isDocument(v string) bool {
	return link("https", "#")(v) && strings.Trim(urlOf(v).Path, "/") != ""
}

func isURI(v string) bool {
	u, err := url.Parse(v)
	return err == nil && (u.IsAbs() || v == "")
}

func isCallbackPath(v string) bool {
	return strings.HasPrefix(v, "/") && v != "/wait-for-auth" && v != "/.mcp-remote/id" && !strings.ContainsAny(v, "?# ")
}

// urlOf is a URL that was accepted.
func urlOf(v string) *url.URL {
	u, _ := url.Parse(v)
	return u
}
