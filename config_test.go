package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"
)

const exampleURL = "https://mcp.example.com/mcp"

// bareMachine has nothing but a home directory.
func bareMachine(t testing.TB) machine {
	return machine{
		getenv: variables(map[string]string{"MCP_REMOTE_CONFIG_DIR": "/store", "NAME": "value"}),
		proxy: func(*http.Request) (*url.URL, error) {
			return url.Parse("http://environment.example.com:3128")
		},
		policy:  filepath.Join(t.TempDir(), "policy"),
		trusted: func(os.FileInfo) bool { return true },
	}
}

// wants compares a usage error with "text | hint"; without a hint only the text.
func wants(t *testing.T, err error, want string) {
	t.Helper()
	u := (*usageError)(nil)
	if !errors.As(err, &u) {
		t.Errorf("got %v, want the usage error %q", err, want)
		return
	}
	text, hint, both := strings.Cut(want, " | ")
	if u.text != text || both && u.hint != hint {
		t.Errorf("got  %s | %s\nwant %s", u.text, u.hint, want)
	}
	if u.hint == "" {
		t.Errorf("%q has no hint", u.text)
	}
}

// TestFlags goes through every flag: what it is without it, and what it makes of its value.
func TestFlags(t *testing.T) {
	ca := writeFile(t, "ca.pem", "pem text")
	auth := writeFile(t, "auth", "user:pass word\r\n")
	object := writeFile(t, "object", `{"client_id":"from file"}`)
	abs, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	headerFile := writeFile(t, "headers", "X-A: 1\n")
	proxyOf := func(c *config) any {
		u, err := c.client.proxyFor(&http.Request{URL: c.url})
		if err != nil || u == nil {
			return "none"
		}
		return origin(u)
	}
	tested := map[string]bool{"config": true, "server": true, "json": true, "help": true, "version": true} // in tests of their own
	for _, c := range []struct {
		flag   string // with its value
		get    func(c *config) any
		before any
		after  any
	}{
		{"--header=X-A: ${NAME}", func(c *config) any { h, _ := c.client.headers.current(t.Context()); return h.Get("X-A") }, "", "value"},
		{"--header-file=" + headerFile, func(c *config) any { return c.auth.headers["X-A"] }, "", "1"},
		{"--header-command=" + abs, func(c *config) any { return c.client.headers.o.command }, "", abs},
		{"--transport=sse-only", func(c *config) any { return c.bridge.transport }, "http-first", "sse-only"},
		{"--protocol=legacy", func(c *config) any { return c.bridge.protocol }, "auto", "legacy"},
		{"--allow-http", func(c *config) any { return c.bridge.server }, "https://mcp.example.com", "https://mcp.example.com"},
		{"--allow-origin=https://MCP.example.com:443", func(c *config) any { return strings.Join(c.client.allowOrigins, " ") }, "", "https://mcp.example.com"},
		{"--disable-cookies", func(c *config) any { return c.client.cookies }, true, false},
		{"--max-retries=-1", func(c *config) any { return c.bridge.maxRetries }, 10, -1},
		{"--initial-retry-delay=500ms", func(c *config) any { return c.bridge.initialDelay }, 2 * time.Second, 500 * time.Millisecond},
		{"--max-retry-delay=1m", func(c *config) any { return c.bridge.maxDelay }, 30 * time.Second, time.Minute},
		{"--backoff-multiplier=2.5", func(c *config) any { return c.bridge.multiplier }, 1.5, 2.5},
		{"--hold-timeout=0s", func(c *config) any { return c.bridge.holdTimeout }, 25 * time.Second, time.Duration(0)},
		{"--retry-calls=never", func(c *config) any { return c.bridge.retryCalls }, "safe", "never"},
		{"--no-auto-reconnect", func(c *config) any { return c.bridge.autoReconnect }, true, false},
		{"--no-offline-start", func(c *config) any { return c.bridge.offlineStart }, true, false},
		{"--keep-alive", func(c *config) any { return c.bridge.pingInterval }, 30 * time.Second, 30 * time.Second},
		{"--ping-interval=0", func(c *config) any { return c.bridge.pingInterval }, 30 * time.Second, time.Duration(0)},
		{"--allow-tool=read_*", func(c *config) any { return strings.Join(c.bridge.tools.allow, " ") }, "", "read_*"},
		{"--ignore-tool=*delete*", func(c *config) any { return strings.Join(c.bridge.tools.ignore, " ") }, "", "*delete*"},
		{"--read-only", func(c *config) any { return c.bridge.tools.readOnly }, false, true},
		{"--proxy=socks5://user:pw@proxy.example.com:1080", proxyOf, "http://environment.example.com:3128", "socks5://proxy.example.com:1080"},
		{"--no-proxy", proxyOf, "http://environment.example.com:3128", "none"},
		{"--enable-proxy", proxyOf, "http://environment.example.com:3128", "http://environment.example.com:3128"},
		{"--proxy-auth-file=" + auth, func(c *config) any { return c.client.proxyAuth.reveal() }, "", "user:pass word"},
		{"--ca-file=" + ca, func(c *config) any { return fmt.Sprintf("%q", c.client.roots) }, "[]", fmt.Sprintf(`[{%q "pem text"}]`, ca)},
		{"--ca-only --ca-file=" + ca, func(c *config) any { return c.client.caOnly }, false, true},
		{"--client-cert=" + ca + " --client-key=" + auth, func(c *config) any { return string(c.client.cert) + string(c.client.key) }, "", "pem textuser:pass word\r\n"},
		{"--client-key=" + ca + " --client-cert=" + auth, func(c *config) any { return string(c.client.key) }, "", "pem text"},
		{"--tls-min=1.3", func(c *config) any { return c.client.tls13 }, false, true},
		{"--ipv4", func(c *config) any { return c.client.family }, "", "tcp4"},
		{"--ipv6", func(c *config) any { return c.client.family }, "", "tcp6"},
		{"--connect-timeout=2.5", func(c *config) any { return c.client.connectTimeout }, time.Duration(0), 2500 * time.Millisecond},
		{"--headers-timeout=300", func(c *config) any { return c.client.headersTimeout }, time.Duration(0), 300 * time.Second},
		{"--body-timeout=0", func(c *config) any { return c.client.bodyTimeout }, time.Duration(0), time.Duration(0)},
		{"--max-message-size=8MiB", func(c *config) any { return c.bridge.maxMessage }, 64 << 20, 8 << 20},
		{"--max-memory=1GiB", func(c *config) any { return c.bridge.maxMemory }, 256 << 20, 1 << 30},
		{"--host=127.0.0.1", func(c *config) any { return c.auth.host }, "", "127.0.0.1"},
		{"--host=[::1]", func(c *config) any { return c.auth.host }, "", "[::1]"},
		{"--callback-path=/cb", func(c *config) any { return c.auth.callbackPath }, "", "/cb"},
		{"--auth-success-url=https://example.com/done", func(c *config) any { return c.auth.successURL }, "", "https://example.com/done"},
		{"--auth-timeout=90", func(c *config) any { return c.auth.authTimeout }, 30 * time.Second, 90 * time.Second},
		{"--no-browser", func(c *config) any { return c.auth.noBrowser }, false, true},
		{"--device-code", func(c *config) any { return c.auth.deviceCode }, false, true},
		{"--client-credentials --client-private-key=" + ca, func(c *config) any { return c.auth.clientCredentials }, false, true},
		{"--client-private-key=" + ca + " --client-credentials", func(c *config) any { return string(c.auth.privateKeyPEM) }, "", "pem text"},
		{"--token-endpoint=https://AS.example.com:443/token?a=b --client-credentials --client-private-key=" + ca, func(c *config) any { return c.auth.tokenEndpoint }, "", "https://as.example.com/token?a=b"},
		{`--static-oauth-client-info={"client_id":"${NAME}","n":1}`, func(c *config) any { return string(c.auth.staticInfo) }, "", `{"client_id":"value","n":1}`},
		{"--static-oauth-client-info=@" + object, func(c *config) any { return string(c.auth.staticInfo) }, "", `{"client_id":"from file"}`},
		{`--static-oauth-client-metadata={"scope":"${NAME}"}`, func(c *config) any { return string(c.auth.staticMetadata) }, "", `{"scope":"${NAME}"}`},
		{"--client-metadata-url=https://example.com/client.json", func(c *config) any { return c.auth.metadataURL }, "", "https://example.com/client.json"},
		{"--scope=read write", func(c *config) any { return c.auth.scope }, "", "read write"},
		{"--resource=urn:example:mcp", func(c *config) any { return c.auth.resource }, "", "urn:example:mcp"},
		{"--resource=", func(c *config) any { return c.auth.noResource }, false, true},
		{"--disable-resource-parameter", func(c *config) any { return c.auth.noResource }, false, true},
		{"--authorize-param=audience=a=b", func(c *config) any { return c.auth.authorizeParams["audience"] }, "", "a=b"},
		{"--use-id-token", func(c *config) any { return c.auth.useIDToken }, false, true},
		{"--auth-server=https://AS.example.com/tenant", func(c *config) any { return strings.Join(append(c.auth.authServers, c.client.authServers...), " ") }, "",
			"https://AS.example.com/tenant https://as.example.com"},
		{"--oauth-header=X-Gate: ${NAME} --auth-server=https://as.example.com", func(c *config) any { return c.client.oauthHeaders.Get("X-Gate") }, "", "value"},
		{"--token-store=memory", func(c *config) any { return c.storeDir }, "/store", ""},
		{"--silent", func(c *config) any { return c.log.silent && c.bridge.silent }, false, true},
		{"--debug", func(c *config) any { return c.log.debug }, false, true},
		{"--log-file=/tmp/x y", func(c *config) any { return c.log.file }, "", "/tmp/x y"},
		{"--log-format=json", func(c *config) any { return c.log.json }, false, true},
		{"--audit-file=/tmp/a", func(c *config) any { return c.audit }, "", "/tmp/a"},
		{"--audit-required --audit-file=/tmp/a", func(c *config) any { return c.bridge.auditRequired }, false, true},
	} {
		var equals, spaced []string // both forms of the same
		for _, word := range strings.Split(" "+c.flag, " --")[1:] {
			name, value, hasValue := strings.Cut("--"+word, "=")
			equals = append(equals, "--"+word)
			if spaced = append(spaced, name); hasValue {
				spaced = append(spaced, value)
			}
		}
		for _, args := range [][]string{append([]string{exampleURL}, equals...), append(spaced, exampleURL, "3334")} {
			got, err := parse(args, bareMachine(t))
			if err != nil {
				t.Errorf("%q: %v %s", args, err, errors.Unwrap(err))
				continue
			}
			if v := c.get(got); v != c.after {
				t.Errorf("%q gives %v, want %v", args, v, c.after)
			}
			if got.auth.serverURL != exampleURL || got.url.String() != exampleURL {
				t.Errorf("%q: the URL is %s", args, got.auth.serverURL)
			}
		}
		plain, err := parse([]string{exampleURL}, bareMachine(t))
		if err != nil {
			t.Fatal(err)
		}
		if v := c.get(plain); v != c.before {
			t.Errorf("without %s it is %v, want %v", c.flag, v, c.before)
		}
		tested[strings.TrimPrefix(strings.FieldsFunc(c.flag, func(r rune) bool { return r == '=' || r == ' ' })[0], "--")] = true
	}
	for _, f := range new(draft).flags() {
		if f.name != "" && !tested[f.name] {
			t.Errorf("--%s is not tested", f.name)
		}
	}
}

func TestGrammar(t *testing.T) {
	for _, c := range []struct {
		args string // separated by spaces
		get  func(c *config) any
		want any
	}{
		{"-y mcp-remote https://a.example.com/x", func(c *config) any { return c.auth.serverURL }, "https://a.example.com/x"},
		{"--yes mcp-remote@latest https://a.example.com/x 9000", func(c *config) any { return c.auth.port }, 9000},
		{"mcp-remote@0.15.1 https://a.example.com/x", func(c *config) any { return c.auth.serverURL }, "https://a.example.com/x"},
		{"https://a.example.com/x 0", func(c *config) any { return c.auth.port }, 0},
		{"--header X-A:1 --debug https://a.example.com/x --silent 9000", func(c *config) any { return c.auth.port }, 9000},
		{"https://a.example.com/x --transport sse-only --transport http-only", func(c *config) any { return c.bridge.transport }, "sse-only"},
		{"https://a.example.com/x --transport sse-only --transport nonsense", func(c *config) any { return c.bridge.transport }, "sse-only"},
		{"https://a.example.com/x --host --debug", func(c *config) any { return c.auth.host }, "--debug"},
		{"https://a.example.com/x --host --debug", func(c *config) any { return c.log.debug }, false},
		{"https://a.example.com/x --ignore-tool a --ignore-tool=b", func(c *config) any { return strings.Join(c.bridge.tools.ignore, ",") }, "a,b"},
		{"https://a.example.com/x --authorize-param=a=1 --authorize-param a=2", func(c *config) any { return c.auth.authorizeParams["a"] }, "2"},
		{"https://a.example.com/x --disable-resource-parameter --resource urn:a", func(c *config) any { return c.auth.resource }, ""},
		{"check https://a.example.com/x --json", func(c *config) any { return c.command + fmt.Sprint(c.json) }, "checktrue"},
		{"--debug login https://a.example.com/x", func(c *config) any { return c.command }, "login"},
		{"logout https://a.example.com/x 9000", func(c *config) any { return c.command }, "logout"},
		{"status --json", func(c *config) any { return c.command }, "status"},
		{"demo", func(c *config) any { return c.command }, "demo"},
		{"https://a.example.com/x --nonsense --help", func(c *config) any { return c.command }, "help"},
		{"-h", func(c *config) any { return c.command }, "help"},
		{"--version https://a.example.com/x", func(c *config) any { return c.command }, "version"},
		{"http://localhost:8080/mcp", func(c *config) any { return c.bridge.server }, "http://localhost:8080"},
		{"http://127.0.0.1:8080/mcp", func(c *config) any { return c.bridge.server }, "http://127.0.0.1:8080"},
		{"http://[::1]:8080/mcp", func(c *config) any { return c.bridge.server }, "http://[::1]:8080"},
		{"http://mcp.example.com/mcp --allow-http", func(c *config) any { return c.bridge.server }, "http://mcp.example.com"},
		{"https://a.example.com/x --auth-success-url http://b.example.com --allow-http", func(c *config) any { return c.auth.successURL }, "http://b.example.com"},
		{"https://a.example.com/x?tenant=1", func(c *config) any { return c.auth.serverURL }, "https://a.example.com/x?tenant=1"},
	} {
		got, err := parse(strings.Split(c.args, " "), bareMachine(t))
		if err != nil {
			t.Errorf("%s: %v", c.args, err)
		} else if v := c.get(got); v != c.want {
			t.Errorf("%s gives %v, want %v", c.args, v, c.want)
		}
	}
}

// TestFlagErrors holds every wrong value and contradiction to its exact message.
func TestFlagErrors(t *testing.T) {
	file := writeFile(t, "file", "two\nlines\n")
	large := writeFile(t, "large", strings.Repeat("x", maxFile+1))
	absent := filepath.Join(t.TempDir(), "none")
	_, err := os.Open(absent)
	noFile := err.Error()
	_, noProgram := exec.LookPath(file)
	_, noFileThere := exec.LookPath(absent)
	const explained = " | mcp-redial --help explains the flags"
	for _, c := range []struct {
		args []string // after the URL, unless the first is "only"
		want string
	}{
		{[]string{"only"}, "no URL of an MCP server | give it as the first word, for example https://mcp.example.com/mcp"},
		{[]string{"only", ""}, "no URL of an MCP server"},
		{[]string{"only", "check"}, "no URL of an MCP server"},
		{[]string{"only", "mcp.example.com/mcp"}, "the first word is not a URL | give the URL of the MCP server, for example https://mcp.example.com/mcp"},
		{[]string{"only", "https://a b/"}, "the first word is not a URL"},
		{[]string{"only", "mailto:x@example.com"}, "the first word is not a URL"},
		{[]string{"only", "ftp://example.com/?s3cret"}, "the URL begins with ftp:, which is not supported | give an https URL, for example https://mcp.example.com/mcp"},
		{[]string{"only", "https:///x"}, "the URL has no host | give it in full, for example https://mcp.example.com/mcp"},
		{[]string{"only", "https://example.com/x#s3cret"}, "the URL has a fragment (#…), which is never sent | leave out what follows the #"},
		{[]string{"only", "https://example.com/x#"}, "the URL has a fragment (#…), which is never sent"},
		{[]string{"only", "https://user:s3cret@example.com/x"}, "the URL holds a user name or password | send them as a header: --header 'Authorization: Basic ${CREDENTIALS}'"},
		{[]string{"only", "http://example.com/x"}, "the URL begins with http:, so that everybody on the way can read and change what is sent | use https, or add --allow-http for a network that you trust"},
		{[]string{"only", "http://localhost.example.com/x"}, "the URL begins with http:, so that everybody on the way can read and change what is sent"},
		{[]string{"port"}, "the second word, the callback port, is no port | give a number from 1 to 65535, or leave it out"},
		{[]string{"8080abc"}, "the second word, the callback port, is no port"},
		{[]string{"65536"}, "the second word, the callback port, is no port"},
		{[]string{"-1"}, "the second word, the callback port, is no port"},
		{[]string{"9000", "extra", "words"}, "2 words too many after URL and port | put values with spaces in quotes, or into variables"},
		{[]string{"only", "status", exampleURL}, "status takes no URL | mcp-redial status"},
		{[]string{"only", "demo", exampleURL}, "demo takes no URL | mcp-redial demo"},
		{[]string{"--ignore-tol", "x"}, "unknown flag --ignore-tol | did you mean --ignore-tool?"},
		{[]string{"--haeder", "x"}, "unknown flag --haeder | did you mean --header?"},
		{[]string{"--"}, "unknown flag -- | did you mean --help?"},
		{[]string{"--\x1b[2J"}, `unknown flag --\x1b[2J | did you mean --help?`},
		{[]string{"-x"}, "unknown flag -x | flags begin with two dashes; see mcp-redial --help"},
		{[]string{"--debug=true"}, "--debug takes no value | leave out what follows it"},
		{[]string{"--host"}, "--host needs a value | write --host NAME"},
		{[]string{"--header"}, "--header needs a value | write --header 'NAME: VALUE'"},
		{[]string{"--header", "s3cret"}, "--header is not a header on one line | write it as 'Name: value'"},
		{[]string{"--header", "X-A: ${NONE}"}, "the header X-A needs the variable NONE, which is not set | set it in the environment of the client, or in env of its configuration"},
		{[]string{"--header-file", ""}, "--header-file: expected a path" + explained},
		{[]string{"--header-file", absent}, "reading --header-file: " + noFile},
		{[]string{"--header-command", file}, "--header-command: " + noProgram.Error() + " | give the path of a program that you may run"},
		{[]string{"--header-command", absent}, "--header-command: " + noFileThere.Error()},
		{[]string{"--header-command", "helper"}, "--header-command: expected the absolute path of a program, without arguments" + explained},
		{[]string{"--transport", "s3cret"}, "--transport: expected http-first, sse-first, http-only, sse-only" + explained},
		{[]string{"--transport", ""}, "--transport: expected http-first, sse-first, http-only, sse-only"},
		{[]string{"--protocol", "new"}, "--protocol: expected auto, legacy, modern"},
		{[]string{"--retry-calls", "sometimes"}, "--retry-calls: expected never, safe, always"},
		{[]string{"--token-store", "keychain"}, "--token-store: expected disk, memory"},
		{[]string{"--log-format", "xml"}, "--log-format: expected text, json"},
		{[]string{"--tls-min", "1.1"}, "--tls-min: expected 1.2, 1.3"},
		{[]string{"--allow-origin", "https://mcp.example.com/path"}, "--allow-origin: expected an origin such as https://mcp.example.com"},
		{[]string{"--allow-origin", "mcp.example.com"}, "--allow-origin: expected an origin such as https://mcp.example.com"},
		{[]string{"--allow-origin", "https://"}, "--allow-origin: expected an origin such as https://mcp.example.com"},
		{[]string{"--allow-origin", "https://other.example.com"}, "--allow-origin does not name https://mcp.example.com | add --allow-origin https://mcp.example.com"},
		{[]string{"--max-retries", "-2"}, "--max-retries: expected a whole number of at least -1"},
		{[]string{"--max-retries", "1.5"}, "--max-retries: expected a whole number of at least -1"},
		{[]string{"--max-retries", "99999999999"}, "--max-retries: expected a whole number of at least -1"},
		{[]string{"--initial-retry-delay", "2"}, "--initial-retry-delay: expected a duration with its unit, such as 500ms or 2s"},
		{[]string{"--initial-retry-delay", "-2s"}, "--initial-retry-delay: expected a duration with its unit, such as 500ms or 2s"},
		{[]string{"--max-retry-delay", "9000h"}, "--max-retry-delay: expected a duration with its unit, such as 500ms or 2s"},
		{[]string{"--max-retry-delay", "1s"}, "the longest wait, 1s, is below the first, 2s | raise --max-retry-delay or lower --initial-retry-delay"},
		{[]string{"--initial-retry-delay", "31s"}, "the longest wait, 30s, is below the first, 31s"},
		{[]string{"--hold-timeout", "soon"}, "--hold-timeout: expected a duration with its unit, such as 500ms or 2s"},
		{[]string{"--backoff-multiplier", "0.9"}, "--backoff-multiplier: expected a number from 1 to 1000"},
		{[]string{"--backoff-multiplier", "NaN"}, "--backoff-multiplier: expected a number from 1 to 1000"},
		{[]string{"--backoff-multiplier", "1e9"}, "--backoff-multiplier: expected a number from 1 to 1000"},
		{[]string{"--ping-interval", "30s"}, "--ping-interval: expected a number of seconds without a unit, 0 for none"},
		{[]string{"--ping-interval", "-1"}, "--ping-interval: expected a number of seconds without a unit, 0 for none"},
		{[]string{"--connect-timeout", "0"}, "--connect-timeout: expected a number of seconds without a unit"},
		{[]string{"--connect-timeout", "Inf"}, "--connect-timeout: expected a number of seconds without a unit"},
		{[]string{"--headers-timeout", "x"}, "--headers-timeout: expected a number of seconds without a unit, 0 for no limit"},
		{[]string{"--body-timeout", "NaN"}, "--body-timeout: expected a number of seconds without a unit, 0 for no limit"},
		{[]string{"--max-message-size", "64MB"}, "--max-message-size: expected a size such as 8MiB"},
		{[]string{"--max-message-size", "0"}, "--max-message-size: expected a size such as 8MiB"},
		{[]string{"--max-memory", "99999999999GiB"}, "--max-memory: expected a size such as 8MiB"},
		{[]string{"--allow-tool", ""}, "--allow-tool: expected a value"},
		{[]string{"--ignore-tool="}, "--ignore-tool: expected a value"},
		{[]string{"--proxy", "proxy.example.com:3128"}, "--proxy: expected a URL such as http://proxy.example.com:3128, of http, https or socks5"},
		{[]string{"--proxy", "ftp://user:s3cret@proxy"}, "--proxy: expected a URL such as http://proxy.example.com:3128, of http, https or socks5"},
		{[]string{"--proxy-auth-file", file}, "--proxy-auth-file: expected a file with one line user:password"},
		{[]string{"--proxy-auth-file", absent}, "--proxy-auth-file: " + noFile},
		{[]string{"--ca-file", absent}, "--ca-file: " + noFile},
		{[]string{"--ca-file", large}, fmt.Sprintf("--ca-file: %s is larger than 1048576 bytes", large)},
		{[]string{"--client-cert", absent}, "--client-cert: " + noFile},
		{[]string{"--client-cert", file}, "--client-cert needs --client-key | give both, or neither"},
		{[]string{"--client-key", file}, "--client-key needs --client-cert | give both, or neither"},
		{[]string{"--ca-only"}, "--ca-only needs --ca-file | give both, or neither"},
		{[]string{"--host", "a b"}, "--host: expected a host name"},
		{[]string{"--host", "a/b"}, "--host: expected a host name"},
		{[]string{"--callback-path", "cb"}, "--callback-path: expected a path such as /oauth/callback that is not one of our own"},
		{[]string{"--callback-path", "/wait-for-auth"}, "--callback-path: expected a path such as /oauth/callback that is not one of our own"},
		{[]string{"--callback-path", "/.mcp-remote/id"}, "--callback-path: expected a path such as /oauth/callback that is not one of our own"},
		{[]string{"--auth-success-url", "https://example.com/?s3cret"}, "--auth-success-url: expected an https URL without credentials, query and fragment"},
		{[]string{"--auth-success-url", "https://u@example.com/"}, "--auth-success-url: expected an https URL without credentials, query and fragment"},
		{[]string{"--auth-success-url", "http://example.com/"}, "--auth-success-url begins with http: | use https, or add --allow-http for a network that you trust"},
		{[]string{"--auth-success-url", "https://example.com/", "--auth-success-url", "https://example.com/"}, "--auth-success-url is given twice | give it once"},
		{[]string{"--auth-timeout", "0"}, "--auth-timeout: expected a number of seconds without a unit"},
		{[]string{"--auth-timeout", "1m"}, "--auth-timeout: expected a number of seconds without a unit"},
		{[]string{"--client-private-key", file}, "--client-private-key needs --client-credentials | give both, or neither"},
		{[]string{"--token-endpoint", "https://as.example.com/token"}, "--token-endpoint needs --client-credentials | give both, or neither"},
		{[]string{"--token-endpoint", "http://as.example.com/token"}, "--token-endpoint: expected an https URL without credentials and fragment"},
		{[]string{"--token-endpoint", "https://u:s3cret@as.example.com/token"}, "--token-endpoint: expected an https URL without credentials and fragment"},
		{[]string{"--token-endpoint", "https://as.example.com/token", "--client-credentials", "--client-private-key", file, "--auth-server", "https://other.example.com"},
			"--auth-server does not name https://as.example.com, where --token-endpoint is | add --auth-server https://as.example.com"},
		{[]string{"--token-endpoint", ":"}, "--token-endpoint: expected an https URL without credentials and fragment"},
		{[]string{"--static-oauth-client-info", `{"client_secret":"s3cret"`}, "--static-oauth-client-info: expected a JSON object, or @ and the path of a file with one"},
		{[]string{"--static-oauth-client-info", `["s3cret"]`}, "--static-oauth-client-info: expected a JSON object, or @ and the path of a file with one"},
		{[]string{"--static-oauth-client-info", "null"}, "--static-oauth-client-info: expected a JSON object, or @ and the path of a file with one"},
		{[]string{"--static-oauth-client-info", "@" + absent}, "--static-oauth-client-info: " + noFile},
		{[]string{"--static-oauth-client-info", `{"client_id":"${NONE}"}`}, "--static-oauth-client-info needs the variable NONE, which is not set"},
		{[]string{"--static-oauth-client-metadata", "x"}, "--static-oauth-client-metadata: expected a JSON object, or @ and the path of a file with one"},
		{[]string{"--client-metadata-url", "https://example.com/"}, "--client-metadata-url: expected an https URL with a path"},
		{[]string{"--client-metadata-url", "http://localhost/x"}, "--client-metadata-url: expected an https URL with a path"},
		{[]string{"--resource", "relative"}, "--resource: expected an absolute URI"},
		{[]string{"--authorize-param", "novalue"}, "--authorize-param: expected KEY=VALUE, with a key that is not one of our own"},
		{[]string{"--authorize-param", "state=x"}, "--authorize-param: expected KEY=VALUE, with a key that is not one of our own"},
		{[]string{"--auth-server", "as.example.com"}, "--auth-server: expected an https URL without credentials and fragment"},
		{[]string{"--oauth-header", "X-A: s3cret"}, "--oauth-header needs --auth-server | give both, or neither"},
		{[]string{"--oauth-header", "s3cret"}, "--oauth-header is not a header on one line"},
		{[]string{"--oauth-header", "X-A: ${NONE}", "--auth-server", "https://as.example.com"}, "the header X-A needs the variable NONE, which is not set"},
		{[]string{"--audit-required"}, "--audit-required needs --audit-file | give both, or neither"},
		{[]string{"--server", "x"}, "--server needs --config | give both, or neither"},
		{[]string{"--json"}, "--json is for check and status | leave it out"},
		{[]string{"--proxy", "http://p:1", "--no-proxy"}, "--proxy contradicts --no-proxy | give one of them"},
		{[]string{"--enable-proxy", "--no-proxy"}, "--enable-proxy contradicts --no-proxy | give one of them"},
		{[]string{"--ipv4", "--ipv6"}, "--ipv4 contradicts --ipv6 | give one of them"},
		{[]string{"--device-code", "--client-credentials"}, "--device-code contradicts --client-credentials | give one of them"},
		{[]string{"--log-file", ""}, "--log-file: expected a value"},
	} {
		args := append([]string{exampleURL}, c.args...)
		if c.args[0] == "only" {
			args = c.args[1:]
		}
		_, err := parse(args, bareMachine(t))
		wants(t, err, c.want)
		if u := (*usageError)(nil); errors.As(err, &u) && strings.Contains(u.text+u.hint, "s3cret") {
			t.Errorf("%q: the error repeats a value: %s", args, u.text)
		}
	}
}

func TestWarnings(t *testing.T) {
	ca := writeFile(t, "extra.pem", "-----BEGIN CERTIFICATE-----\n")
	other := writeFile(t, "note.txt", "no certificate")
	absent := filepath.Join(t.TempDir(), "none")
	m := bareMachine(t)
	m.getenv = variables(map[string]string{"MCP_REMOTE_CONFIG_DIR": "/store", "NODE_TLS_REJECT_UNAUTHORIZED": "0",
		"NODE_EXTRA_CA_CERTS": absent, "SSL_CERT_FILE": ca, "SSL_CERT_DIR": filepath.Dir(ca) + string(filepath.ListSeparator) + filepath.Dir(other)})
	c, err := parse([]string{exampleURL, "--resource", "urn:a", "--disable-resource-parameter"}, m)
	if err != nil {
		t.Fatal(err)
	}
	if len(c.warnings) != 3 || !strings.HasPrefix(c.warnings[0], "NODE_TLS_REJECT_UNAUTHORIZED is ignored") ||
		c.warnings[1] != "--disable-resource-parameter overrides --resource" || !strings.Contains(c.warnings[2], absent) {
		t.Errorf("warnings: %q", c.warnings)
	}
	named := 0
	if runtime.GOOS == "windows" || runtime.GOOS == "darwin" {
		named = 3 // other is added, too, and holds none
	}
	if roots := c.client.roots; len(roots) != named || named > 0 && roots[0].name != ca {
		t.Errorf("roots: %v", roots)
	}
	c, err = parse([]string{exampleURL, "--ca-only", "--ca-file", other}, m)
	if err != nil || len(c.client.roots) != 1 || c.client.roots[0].name != other {
		t.Errorf("--ca-only leaves %v: %v", c.client.roots, err)
	}
}

func TestPolicy(t *testing.T) {
	const policy = "# what this company wants\r\n\r\n--read-only\r\n--allow-tool read_*\n--allow-tool=search\n  --max-retries   5 \n" +
		"--header 'X-Company: yes please'\n--ignore-tool secret_*\n--allow-origin https://mcp.example.com\n--allow-origin https://as.example.com\n--no-proxy\n"
	m := bareMachine(t)
	m.policy = writeFile(t, "policy", policy)
	c, err := parse([]string{exampleURL}, m)
	if err != nil {
		t.Fatal(err)
	}
	if b := c.bridge; !b.tools.readOnly || b.maxRetries != 5 || strings.Join(b.tools.allow, " ") != "read_* search" ||
		c.auth.headers["X-Company"] != "yes please" || len(c.client.allowOrigins) != 2 {
		t.Errorf("the policy gives %+v", b)
	}
	c, err = parse(strings.Fields(exampleURL+" --max-retries 5 --allow-tool READ_one --allow-tool read_t* --ignore-tool more --allow-origin https://mcp.example.com --read-only"), m)
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(c.bridge.tools.allow, " ") + " / " + strings.Join(c.bridge.tools.ignore, " "); got != "READ_one read_t* / secret_* more" || len(c.client.allowOrigins) != 1 {
		t.Errorf("narrowed lists are %s, %v", got, c.client.allowOrigins)
	}
	for _, args := range []string{"--max-retries 6", "--max-retries 5 --max-retries 6", "--allow-tool write", "--allow-tool *", "--allow-tool read_a --allow-tool *_b",
		"--header X-Company:no", "--header X-Other:1", "--allow-origin https://evil.example.com"} {
		_, err := parse(strings.Fields(exampleURL+" "+args), m)
		wants(t, err, strings.Fields(args)[0]+" contradicts the policy of this machine | leave it out, or see "+m.policy)
	}
	n := bareMachine(t)
	n.policy = writeFile(t, "policy", "--scope read\n--resource https://mcp.example.com/\n")
	for _, args := range []string{"--authorize-param scope=write", "--authorize-param resource=urn:all", "--disable-resource-parameter"} {
		_, err := parse(strings.Fields(exampleURL+" "+args), n)
		wants(t, err, strings.Fields(args)[0]+" contradicts the policy of this machine | leave it out, or see "+n.policy)
	}
	if c, err = parse(strings.Fields(exampleURL+" --authorize-param audience=a --scope read"), n); err != nil || c.auth.scope != "read" || c.auth.resource != "https://mcp.example.com/" {
		t.Errorf("%v, %+v", err, c)
	}
	// What has to be sent is sent, whatever a file or a command says.
	n.policy = writeFile(t, "policy", "--header X-Company:1\n")
	if c, err = parse([]string{exampleURL, "--header-file", writeFile(t, "headers", "x-company: 2\nX-Key: 3\n")}, n); err != nil {
		t.Fatal(err)
	}
	if got, _ := c.client.headers.current(t.Context()); fmt.Sprint(got) != "map[X-Company:[1] X-Key:[3]]" {
		t.Errorf("beside a header that is locked, a file gives %v", got)
	}
	_, err = parse([]string{exampleURL, "--header-command", "/bin/true"}, n)
	wants(t, err, "--header-command contradicts the policy of this machine | leave it out, or see "+n.policy)
	n.policy = writeFile(t, "policy", "--header-file "+writeFile(t, "locked", "X-Company: 1\n")+"\n")
	if c, err = parse([]string{exampleURL, "--header", "X-COMPANY: 2"}, n); err != nil {
		t.Fatal(err)
	}
	if got, _ := c.client.headers.current(t.Context()); fmt.Sprint(got) != "map[X-Company:[1]]" {
		t.Errorf("beside a file of headers that is locked, an argument gives %v", got)
	}
	// And nothing of it is dropped by naming the rest.
	n.policy = writeFile(t, "policy", "--header X-Audit:1\n--header X-Bank:1\n--authorize-param a=1\n--authorize-param b=2\n")
	if c, err = parse(strings.Fields(exampleURL+" --header X-Bank:1 --authorize-param a=1"), n); err != nil {
		t.Fatal(err)
	}
	if got, _ := c.client.headers.current(t.Context()); len(got) != 2 || len(c.auth.authorizeParams) != 2 {
		t.Errorf("of what is locked there are %v and %v", got, c.auth.authorizeParams)
	}
	_, err = parse(strings.Fields(exampleURL+" --proxy http://p:1"), m)
	wants(t, err, "--proxy contradicts --no-proxy | give one of them; the other may be in the policy "+m.policy)
	_, err = parse([]string{"https://other.example.com/mcp"}, m)
	wants(t, err, "--allow-origin does not name https://other.example.com")

	c, err = parse([]string{"--help"}, m)
	if err != nil {
		t.Fatal(err)
	}
	_, end, _ := strings.Cut(c.manual(), "\nLocked by the policy of this machine, ")
	want := policyPath() + "\n  --read-only\n  --allow-tool read_*\n  --allow-tool=search\n  --max-retries   5\n  --header 'X-Company: yes please'\n" +
		"  --ignore-tool secret_*\n  --allow-origin https://mcp.example.com\n  --allow-origin https://as.example.com\n  --no-proxy\n"
	if end != want {
		t.Errorf("the manual ends with\n%swant\n%s", end, want)
	}
}

func TestPolicyErrors(t *testing.T) {
	for text, want := range map[string]string{
		"--debug\n--nonsense":  "line 2: unknown flag --nonsense",
		"https://example.com":  "line 1: not a flag",
		"--transport":          "line 1: --transport needs a value",
		"--debug yes":          "line 1: not a flag that can be locked",
		"--config x":           "line 1: not a flag that can be locked",
		"--help":               "line 1: not a flag that can be locked",
		"-y":                   "line 1: not a flag",
		"--ignore-tool a* # b": "line 1: a comment has a line of its own; a value that holds ' #' wants quotes",
		"--read-only\t #":      "line 1: a comment has a line of its own; a value that holds ' #' wants quotes",
	} {
		m := bareMachine(t)
		m.policy = writeFile(t, "policy", text)
		_, err := parse([]string{exampleURL}, m)
		wants(t, err, m.policy+" "+want+" | ask the administrator of this machine")
	}
	m := bareMachine(t)
	m.policy = writeFile(t, "policy", "--transport nonsense")
	_, err := parse([]string{exampleURL}, m)
	wants(t, err, "--transport: expected http-first, sse-first, http-only, sse-only")
	m.trusted = func(fi os.FileInfo) bool { return fi.IsDir() }
	foreign := "the policy " + m.policy + " or its folder does not belong to the administrator alone | it must be owned by root and writable by nobody else"
	for _, args := range [][]string{{exampleURL}, {"--help"}, {"--version"}, {"status"}} {
		_, err = parse(args, m)
		wants(t, err, foreign)
	}
	m.trusted = func(fi os.FileInfo) bool { return !fi.IsDir() }
	_, err = parse([]string{exampleURL}, m)
	wants(t, err, foreign)
	m = bareMachine(t)
	m.policy = t.TempDir() // a folder
	if _, err = parse([]string{exampleURL}, m); err == nil {
		t.Error("a folder as policy was accepted")
	}
	if runtime.GOOS != "windows" && os.Getuid() != 0 {
		m.policy = writeFile(t, "policy", "--debug")
		if err := os.Chmod(m.policy, 0); err != nil {
			t.Fatal(err)
		}
		if _, err = parse([]string{exampleURL}, m); err == nil {
			t.Error("a policy that cannot be read was passed over")
		}
	}
}

func TestAdministrators(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("Windows has access lists instead")
	}
	path := writeFile(t, "policy", "--debug")
	is := func(mode os.FileMode) bool {
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		fi, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		return administrators(fi)
	}
	root := os.Getuid() == 0
	if is(0o644) != root || is(0o600) != root || is(0o664) || is(0o646) || is(0o666) {
		t.Error("the owner or the mode of a policy was judged wrongly")
	}
	if root {
		if err := os.Chown(path, 12345, 0); err != nil {
			t.Skip("cannot give a file away here:", err)
		}
		if is(0o644) {
			t.Error("a user's file passes for a policy")
		}
	}
}

func TestEntry(t *testing.T) {
	const one = `{"mcpServers":{"work":{"command":"/bin/false","args":["--allow-http","--ca-file","/x"],"type":"http","url":"https://work.example.com/mcp",
		"headers":{"Authorization":"Bearer ${KEY} ${NAME}","X-B":"2"},"env":{"KEY":"k","HTTPS_PROXY":"http://evil:1","NODE_EXTRA_CA_CERTS":"/dev/null","MCP_REMOTE_CONFIG_DIR":"/elsewhere","NODE_TLS_REJECT_UNAUTHORIZED":"0"},
		"autoReconnect":{"enabled":true,"maxRetries":-1,"initialRetryDelay":250,"maxRetryDelay":60000,"backoffMultiplier":2,"silent":true}}}}`
	two := strings.Replace(one, `"mcpServers":{`, `"mcpServers":{"off":{"autoReconnect":{"enabled":false}},`, 1)
	file := func(text string) string { return writeFile(t, "client.json", text) }

	c, err := parse([]string{"--config", file("\uFEFF" + one)}, bareMachine(t))
	if err != nil {
		t.Fatal(err)
	}
	h, _ := c.client.headers.current(t.Context())
	if b := c.bridge; c.auth.serverURL != "https://work.example.com/mcp" || h.Get("Authorization") != "Bearer k value" || h.Get("X-B") != "2" ||
		!b.autoReconnect || b.maxRetries != -1 || b.initialDelay != 250*time.Millisecond || b.maxDelay != time.Minute || b.multiplier != 2 || !b.silent {
		t.Errorf("got %+v, %v", b, h)
	}
	if u, _ := c.client.proxyFor(&http.Request{URL: c.url}); origin(u) != "http://environment.example.com:3128" || len(c.client.roots)+len(c.warnings) > 0 || c.storeDir != "/store" {
		t.Errorf("the file set a proxy, a CA or the store: %v, %q, %s", c.client.roots, c.warnings, c.storeDir)
	}
	// Flags win, and with a URL only autoReconnect is read.
	c, err = parse([]string{exampleURL, "--config", file(two), "--server", "work", "--max-retries", "3"}, bareMachine(t))
	if err != nil {
		t.Fatal(err)
	}
	if h, _ := c.client.headers.current(t.Context()); c.bridge.maxRetries != 3 || c.bridge.initialDelay != 250*time.Millisecond || c.auth.serverURL != exampleURL || len(h) > 0 {
		t.Errorf("got %+v, %v", c.bridge, h)
	}
	c, err = parse([]string{exampleURL, "--server=off", "--config=" + file(two)}, bareMachine(t))
	if err != nil || c.bridge.autoReconnect || c.bridge.silent {
		t.Errorf("enabled:false gives %+v, %v", c.bridge, err)
	}

	// What stands in the entries of other servers does not matter.
	odd := strings.Replace(one, `"mcpServers":{`, `"mcpServers":{"local":{"command":"npx","env":{"PORT":8080},"headers":[]},"off":7,`, 1)
	c, err = parse([]string{"--config", file(odd), "--server", "work"}, bareMachine(t))
	if err != nil || c.auth.serverURL != "https://work.example.com/mcp" {
		t.Errorf("beside an odd entry: %v", err)
	}
	_, err = parse([]string{"--config", file(odd), "--server", "off"}, bareMachine(t))
	if err == nil || !strings.HasSuffix(err.Error(), ": mcpServers is a number, which it may not be") {
		t.Errorf("an entry that is none: %v", err)
	}

	c, err = parse([]string{"--config", file(one), "--header", "X-B: flag"}, bareMachine(t))
	if err != nil || c.auth.headers["X-B"] != "flag" {
		t.Errorf("a header of the file beats the flag: %v, %v", c.auth.headers, err)
	}
	m := bareMachine(t)
	m.policy = writeFile(t, "policy", "--header X-Company:1")
	path := file(one)
	_, err = parse([]string{"--config", path}, m)
	wants(t, err, "the headers in "+path+" contradict the policy of this machine | leave them out, or see "+m.policy)

	const hint = " | correct the file; mcp-redial --help names what is read of it"
	for _, e := range []struct{ text, server, want string }{
		{"{", "", ": not JSON: unexpected end of JSON input" + hint},
		{"{}", "", `: mcpServers has no entry ""; it has ` + hint},
		{two, "", `: mcpServers has no entry ""; it has off, work`},
		{two, "home", `: mcpServers has no entry "home"; it has off, work`},
		{`{"mcpServers":[]}`, "", ": mcpServers is a array, which it may not be"},
		{`{"mcpServers":{"a":{"url":7}}}`, "", ": mcpServers.url is a number, which it may not be"},
		{`{"mcpServers":{"a":{"autoReconnect":true}}}`, "", ": mcpServers.autoReconnect is a bool, which it may not be"},
		{`{"mcpServers":{"a":{"autoReconnect":{"maxRetry":1}}}}`, "", `: autoReconnect has no "maxRetry"`},
		{`{"mcpServers":{"a":{"autoReconnect":{"enabled":"yes"}}}}`, "", ": autoReconnect.enabled must be true or false"},
		{`{"mcpServers":{"a":{"autoReconnect":{"silent":1}}}}`, "", ": autoReconnect.silent must be true or false"},
		{`{"mcpServers":{"a":{"autoReconnect":{"enabled":null}}}}`, "", ": autoReconnect.enabled must be true or false"},
		{`{"mcpServers":{"a":{"autoReconnect":{"maxRetries":"5"}}}}`, "", ": autoReconnect.maxRetries must be a whole number of at least -1"},
		{`{"mcpServers":{"a":{"autoReconnect":{"maxRetries":-2}}}}`, "", ": autoReconnect.maxRetries must be a whole number of at least -1"},
		{`{"mcpServers":{"a":{"autoReconnect":{"initialRetryDelay":-1}}}}`, "", ": autoReconnect.initialRetryDelay must be a number of milliseconds"},
		{`{"mcpServers":{"a":{"autoReconnect":{"maxRetryDelay":"1s"}}}}`, "", ": autoReconnect.maxRetryDelay must be a number of milliseconds"},
		{`{"mcpServers":{"a":{"autoReconnect":{"backoffMultiplier":0.5}}}}`, "", ": autoReconnect.backoffMultiplier must be a number from 1 to 1000"},
	} {
		path := file(e.text)
		args := []string{"--config", path}
		if e.server != "" {
			args = append(args, "--server", e.server)
		}
		_, err := parse(args, bareMachine(t))
		wants(t, err, path+e.want)
	}
	_, err = parse([]string{"--config", file(`{"mcpServers":{"a":{"autoReconnect":{"initialRetryDelay":5000,"maxRetryDelay":1000}}}}`), exampleURL}, bareMachine(t))
	wants(t, err, "the longest wait, 1s, is below the first, 5s")
	_, err = parse([]string{"--config", file(`{"mcpServers":{"a":{"command":"npx"}}}`)}, bareMachine(t))
	wants(t, err, "no URL of an MCP server")
	_, err = parse([]string{"--config", file(`{"mcpServers":{"a":{"url":"http://work.example.com"}}}`)}, bareMachine(t))
	wants(t, err, "the URL begins with http:, so that everybody on the way can read and change what is sent")
	_, err = parse([]string{"--config", file(`{"mcpServers":{"a":{"url":"https://a","headers":{"X-A":"1\r\nX-B: s3cret"}}}}`)}, bareMachine(t))
	wants(t, err, "--header is not a header on one line")
}

// TestWindowsForms holds what arguments and files look like there: spaces and backslashes, quotes, CRLF, a mark
// before the text, and variables that are set on no other system.
func TestWindowsForms(t *testing.T) {
	mark := func(text string) string { return "\uFEFF" + strings.ReplaceAll(text, "\n", "\r\n") }
	m := bareMachine(t)
	m.getenv = variables(map[string]string{"USERPROFILE": `C:\Users\A Person`, "APPDATA": `C:\Users\A Person\AppData\Roaming`,
		"MCP_REMOTE_CONFIG_DIR": `C:\a store`, "AUTH": "Bearer a b"})
	m.policy = writeFile(t, "policy", mark("# locked\n--audit-file \"C:\\Program Files\\audit log\"\n--header 'X-Company: a b'\n--read-only\n"))
	client := writeFile(t, "client.json", mark(`{"mcpServers":{"a":{"url":"https://work.example.com/mcp",`+"\n"+`"autoReconnect":{"maxRetries":3}}}}`+"\n"))
	object := writeFile(t, "an object", mark("{\"client_id\":\n\"${APPDATA}\"}\n"))
	headers := writeFile(t, "the headers", mark("X-File: 1\n# no header\n\nX-Dir: ${APPDATA}\n"))
	_, err := parse([]string{"--config", client, "--header", "X-Company: other"}, m)
	wants(t, err, "--header contradicts the policy of this machine")
	c, err := parse([]string{"--config", client, "--header-file", headers, `--log-file=C:\Program Files\a log.txt`, "--static-oauth-client-info", "@" + object,
		"--proxy-auth-file", writeFile(t, "auth", mark("user:pass word\n"))}, m)
	if err != nil {
		t.Fatal(err)
	}
	h, err := c.client.headers.current(t.Context())
	for what, is := range map[string]bool{
		"policy":       c.audit == `C:\Program Files\audit log` && h.Get("X-Company") == "a b" && c.bridge.tools.readOnly,
		"config":       c.url.Host == "work.example.com" && c.bridge.maxRetries == 3,
		"header file":  err == nil && h.Get("X-File") == "1" && h.Get("X-Dir") == `C:\Users\A Person\AppData\Roaming`,
		"argument":     c.log.file == `C:\Program Files\a log.txt`,
		"object":       string(c.auth.staticInfo) == `{"client_id":"C:\\Users\\A Person\\AppData\\Roaming"}`,
		"proxy's file": c.client.proxyAuth.reveal() == "user:pass word",
		"store":        c.storeDir == `C:\a store`,
	} {
		if !is {
			t.Errorf("%s: %+v", what, c)
		}
	}
	// Some clients there take arguments apart at spaces: said plainly, and a variable helps.
	m.policy = filepath.Join(t.TempDir(), "none")
	_, err = parse([]string{exampleURL, "--header", "Authorization:", "Bearer", "a", "b"}, m)
	wants(t, err, "2 words too many after URL and port | put values with spaces in quotes, or into variables")
	c, err = parse([]string{exampleURL, "--header", "Authorization:${AUTH}"}, m)
	if err != nil {
		t.Fatal(err)
	}
	if h, err := c.client.headers.current(t.Context()); err != nil || h.Get("Authorization") != "Bearer a b" {
		t.Errorf("from a variable: %v, %v", h, err)
	}
}

// TestCommandLine holds exit codes, and the form in which a person is told what is wrong.
func TestCommandLine(t *testing.T) {
	absent := filepath.Join(t.TempDir(), "none", "log")
	_, noFile := os.OpenFile(absent, os.O_WRONLY, 0)
	folder := t.TempDir()
	bad := writeFile(t, "ca.pem", "s3cret")
	for _, c := range []struct {
		args         string
		code         int
		out, problem string // beginnings
	}{
		{"--help", 0, "mcp-redial connects an MCP client", ""},
		{"status --help", 0, "mcp-redial connects an MCP client", ""},
		{"--version", 0, "mcp-redial ", ""},
		{"status", 0, "", ""},
		{"status --json", 0, "", ""},
		{"", 2, "", "mcp-redial: error: no URL of an MCP server\nmcp-redial: hint: give it as the first word, for example https://mcp.example.com/mcp\n"},
		{"https://mcp.example.com --no-prox", 2, "", "mcp-redial: error: unknown flag --no-prox\nmcp-redial: hint: did you mean --no-proxy?\n"},
		{exampleURL + " --ca-file " + bad, 2, "", "mcp-redial: error: " + bad + " holds no certificate in PEM form\nmcp-redial: hint: convert it: openssl x509 -inform der -in FILE -out FILE.pem\n"},
		{exampleURL + " --log-file " + absent, 2, "", "mcp-redial: error: " + noFile.Error() + "\nmcp-redial: hint: give a path where you may write\n"},
		{exampleURL + " --log-file " + folder, 2, "", "mcp-redial: error: opening " + folder + ": not a regular file\nmcp-redial: hint: give the path of a file to append to\n"},
		{exampleURL + " --audit-file " + absent, 2, "", "mcp-redial: error: " + noFile.Error() + "\nmcp-redial: hint: give a path where you may write\n"},
		{exampleURL, 0, "", ""}, // standard input is at its end
	} {
		m := bareMachine(t)
		m.getenv = variables(map[string]string{"MCP_REMOTE_CONFIG_DIR": t.TempDir()})
		in, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		w.Close()
		var out, errs bytes.Buffer
		code := command(strings.Fields(c.args), m, in, &out, &errs)
		in.Close()
		if code != c.code || !strings.HasPrefix(out.String(), c.out) || !strings.HasPrefix(errs.String(), c.problem) {
			t.Errorf("%s: exit code %d, stdout %q, stderr %q", c.args, code, out.String(), errs.String())
		}
	}
}

// TestManual holds that the manual and the README name every flag, in the words of the one table.
func TestManual(t *testing.T) {
	manual := (&config{}).manual()
	for i, line := range strings.Split(manual, "\n") {
		if len([]rune(line)) > 120 {
			t.Errorf("line %d of the manual is %d columns wide: %s", i+1, len([]rune(line)), line)
		}
	}
	readme, err := os.ReadFile("README.md")
	for _, f := range new(draft).flags() {
		if f.name == "" {
			continue
		}
		if strings.Count(manual, "  --"+f.name+" ") != 1 {
			t.Errorf("--%s is not in the manual once", f.name)
		}
		if row := flagRow(f); err == nil && !bytes.Contains(readme, []byte(row)) {
			t.Errorf("the README has no row\n%s", row)
		}
	}
	if err != nil {
		t.Skip("there is no README yet")
	}
}

// flagRow is a flag's row in the README's table.
func flagRow(f flag) string {
	escape := strings.NewReplacer("|", `\|`, "<", "&lt;").Replace
	repeated := ""
	if f.many() {
		repeated = " (repeatable)"
	}
	return "| `" + strings.TrimSpace("--"+f.name+" "+escape(strings.TrimSuffix(f.arg, "..."))) + "` | " + escape(f.help) + repeated + " |"
}

// FuzzConfig holds that no arguments and no file make the parser panic, hang or give an error without advice.
func FuzzConfig(f *testing.F) {
	f.Add("https://example.com/mcp\n--header\nX-A: ${NAME}", `{"mcpServers":{"a":{"url":"https://a","autoReconnect":{"maxRetries":1}}}}`, "--allow-tool a*\n")
	f.Add("-y\nmcp-remote\nhttp://[::1]:80/\n3334\n--allow-tool=b", `{"mcpServers":{"a":{"headers":{"X":"\r"},"autoReconnect":{"silent":null}}}}`, "# x\n--proxy 'http://p:1'\n--ipv4")
	f.Add("--config\nFILE\n--server\na", `{"mcpServers":{"a":{"url":"https://a","env":{"A":"b"}}}}`, "")
	f.Add("https://a\n--static-oauth-client-info\n{\"client_id\":\"${A}\"}\n--max-memory=9GiB\n--hold-timeout=1h1ms", "[]", "--max-retries -1")
	dir := f.TempDir()
	m := bareMachine(f)
	f.Fuzz(func(t *testing.T, args, file, policy string) {
		m.policy = filepath.Join(dir, "policy")
		path := filepath.Join(dir, "client.json")
		if os.WriteFile(path, []byte(file), 0o600) != nil || os.WriteFile(m.policy, []byte(policy), 0o600) != nil {
			t.Fatal("cannot write")
		}
		words := strings.Split(strings.ReplaceAll(args, "FILE", path), "\n")
		c, err := parse(words, m)
		if err != nil {
			var told strings.Builder
			if u := (*usageError)(nil); !errors.As(err, &u) || u.hint == "" || complain(&told, err) != 2 || strings.Count(told.String(), "\n") != 2 || strings.ContainsAny(told.String(), "\x1b\x00") {
				t.Errorf("%q: %q", words, told.String())
			}
		}
		if err != nil || c.url == nil {
			return
		}
		if c.url.Host == "" || c.url.User != nil || c.bridge.maxDelay < c.bridge.initialDelay || c.bridge.maxMessage < 1 || c.bridge.multiplier < 1 || c.bridge.holdTimeout < 0 {
			t.Errorf("%q was accepted: %+v", words, c.bridge)
		}
		if c.auth.staticInfo != nil && !json.Valid(c.auth.staticInfo) {
			t.Errorf("%q makes %s", words, c.auth.staticInfo)
		}
		if len(c.locked) == 0 {
			return
		}
		// What the policy names holds whatever the arguments say.
		alone, err := parse([]string{c.auth.serverURL}, m)
		if err != nil {
			return
		}
		for name, is := range map[string]bool{
			"read-only":    !alone.bridge.tools.readOnly || c.bridge.tools.readOnly,
			"max-retries":  !strings.Contains(policy, "--max-retries") || alone.bridge.maxRetries == c.bridge.maxRetries,
			"allow-tool":   len(alone.bridge.tools.allow) == 0 || len(c.bridge.tools.allow) > 0,
			"allow-origin": len(alone.client.allowOrigins) == 0 || len(c.client.allowOrigins) > 0,
		} {
			if !is {
				t.Errorf("%q loosens --%s of %q", words, name, policy)
			}
		}
	})
}
