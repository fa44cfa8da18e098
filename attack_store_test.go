package main

// attack_store_test.go reads what somebody else has put into the store.

import (
	"bytes"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode"
)

// Whatever is in the files of the store: nothing panics or waits, an initialize that is answered from there is one valid
// line, a credential can stand in a header, and a terminal gets only what prints.
func FuzzStore(f *testing.F) {
	f.Add(`{"access_token":"a","token_type":"Bearer","refresh_token":"r","expires_at":1,"issuer":"https://as.example"}`, `{"client_id":"c","issuer":"https://as.example"}`,
		`{"protocolVersion":"2025-11-25","capabilities":{"tools":{}},"serverInfo":{"name":"s","version":"1"}}`, `{"pid":1,"nonce":"n","at":9999999999999}`, `{"pid":1,"host":"h","server":"https://a","state":"ready"}`)
	f.Add(`{"access_token":"a\nb","expires_in":"1e300","id_token":"a.e30.b"}`, `{"client_id":7}`, "{\"protocolVersion\":\"1\\n\",\"capabilities\":\n[1,\n2],\"serverInfo\":null}", `{"pid":-1}`, `{"lastError":"\u001b[2J\u202e"}`)
	f.Add("[]", "null", `{"protocolVersion":"x","capabilities":{"a":1,"a":2}}`, "", "\x00")
	dir := f.TempDir()
	s, err := openStore(dir, slog.New(slog.DiscardHandler))
	if err != nil {
		f.Fatal(err)
	}
	defer s.root.Close()
	u, _ := url.Parse("https://mcp.example.com/mcp")
	f.Fuzz(func(t *testing.T, token, registered, shaken, lease, running string) {
		a, err := newAuthorizer(authOptions{server: u, serverURL: u.String(), useIDToken: len(token)%2 > 0}, s, nil, s.log)
		if err != nil {
			t.Fatal(err)
		}
		for name, text := range map[string]string{a.file("tokens.json"): token, a.file("client_info.json"): registered, a.file("handshake.json"): shaken, "lease": lease, thisBridge("").file(): running} {
			if err := os.WriteFile(filepath.Join(dir, storeFolder, name), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if b := a.bearer(a.inUse()); b != "" && (!presentable(b) || strings.ContainsAny(b, " \r\n")) {
			t.Errorf("the credential is %q", b)
		}
		d := &discovery{Server: serverMetadata{Issuer: "https://as.example"}}
		if c, err := a.client(t.Context(), d, ""); err == nil && (c.ID == "" || c.Issuer != d.Server.Issuer) {
			t.Errorf("registered as %+v", c)
		}
		if h := newKeeper(a, "").load(); h != nil {
			m := newResult("1", h.result())
			if _, err := scan(m.raw); err != nil || bytes.ContainsAny(m.raw, "\r\n") {
				t.Errorf("initialize is answered %q, %v", m.raw, err)
			}
			h.has("tools", "listChanged")
		}
		if release, ours := s.lease("lease"); ours {
			release()
		}
		var out bytes.Buffer
		status(s, false, &out)
		for line := range strings.Lines(out.String()) {
			if i := strings.IndexFunc(strings.TrimSuffix(line, "\n"), func(r rune) bool { return !unicode.IsPrint(r) }); i >= 0 {
				t.Errorf("status prints %q", line)
			}
		}
		if files, _ := filepath.Glob(filepath.Join(dir, "*")); len(files) != 1 {
			t.Errorf("beside the store there are %v", files)
		}
	})
}
