package main

// attack_issuer_test.go is an authorization server that answers each of our questions with each thing that it should not.

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
)

// Whatever an authorization server answers, to whichever question: the client is told that there is no sign-in, nothing
// raw is printed, no secret is, nobody else gets our request, and nothing is kept as a credential.
func TestAttackAuthorizationServer(t *testing.T) {
	env := shipped(t)
	var contacted atomic.Int64
	other := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { contacted.Add(1) }))
	t.Cleanup(other.Close)
	t.Cleanup(func() {
		if n := contacted.Load(); n > 0 {
			t.Errorf("somebody else was contacted %d times", n)
		}
	})
	const escapes = `\u001b]0;owned\u0007\u001b[2J\r\nmcp-redial: error: forged\u202e`
	says := func(status int, contentType, body string, header ...string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			answerWith(status, contentType, body, header...)(w, r, fakeRequest{})
		}
	}
	everywhere := map[string]http.HandlerFunc{
		"too much":                 says(200, jsonType, `{"a":"`+strings.Repeat("a", maxMetadata)+`"}`),
		"nothing but brackets":     says(200, jsonType, strings.Repeat("[", 1<<19)),
		"a page":                   says(200, "text/html", "<script>\x1b[2J</script>"),
		"what is not an object":    says(200, jsonType, `["`+escapes+`"]`),
		"null":                     says(200, jsonType, `null`),
		"an error with a command":  says(400, jsonType, `{"error":"`+escapes+`","error_description":"`+escapes+`"}`),
		"an error that is a lie":   says(200, jsonType, `{"error":"invalid_client","access_token":"planted-token","token_type":"Bearer","client_id":"c"}`),
		"a redirect":               says(307, "text/plain", "", "Location", "https://169.254.169.254/"),
		"a redirect without end":   says(307, "text/plain", "", "Location", "?again"),
		"a redirect to a file":     says(302, "text/plain", "", "Location", "file:///etc/passwd"),
		"a redirect to a program":  says(303, "text/plain", "", "Location", "javascript:alert(1)"),
		"an answer of other types": says(200, jsonType, `{"issuer":7,"client_id":{},"access_token":[],"device_code":false,"verification_uri":1}`),
	}
	secret := []string{"--client-credentials", "--static-oauth-client-info", `{"client_id":"id","client_secret":"planted-secret"}`}
	for _, at := range []struct {
		question, path string
		args           []string
		more           map[string]http.HandlerFunc
	}{
		{"metadata", "/.well-known/oauth-authorization-server/tenant", nil, map[string]http.HandlerFunc{
			"another issuer":   says(200, jsonType, `{"issuer":"https://other.example"}`),
			"without PKCE":     nil,
			"a host of tricks": nil,
		}},
		{"registration", "/register", nil, map[string]http.HandlerFunc{
			"a redirect with our request": says(308, "text/plain", "", "Location", other.URL),
		}},
		{"token", "/token", secret, map[string]http.HandlerFunc{
			"a redirect with our secret":    says(307, "text/plain", "", "Location", other.URL),
			"a token with a header in it":   says(200, jsonType, `{"access_token":"planted-a\r\nX-Evil: 1","token_type":"Bearer"}`),
			"a token that is none":          says(200, jsonType, `{"access_token":"","token_type":"Bearer"}`),
			"a token of the wrong kind":     says(200, jsonType, `{"access_token":"planted-a","token_type":"`+escapes+`"}`),
			"a token of a hundred thousand": says(200, jsonType, `{"access_token":"`+strings.Repeat("p", 100_000)+`","token_type":"Bearer"}`),
		}},
		{"device code", "/device", []string{"--device-code"}, map[string]http.HandlerFunc{
			"an address that runs":        says(200, jsonType, `{"device_code":"d","user_code":"`+escapes+`","verification_uri":"javascript:alert(1)"}`),
			"an address that is a share":  says(200, jsonType, `{"device_code":"d","user_code":"u","verification_uri":"\\\\evil.example\\share"}`),
			"a redirect with our request": says(307, "text/plain", "", "Location", other.URL),
		}},
	} {
		for _, answers := range []map[string]http.HandlerFunc{everywhere, at.more} {
			for name, answer := range answers {
				t.Run(at.question+"/"+name, func(t *testing.T) {
					t.Parallel()
					w := newWorld(t)
					w.as.clients["id"] = map[string]any{"client_secret": "planted-secret"}
					switch name {
					case "without PKCE":
						w.as.metadata["code_challenge_methods_supported"] = []string{"plain"}
					case "a host of tricks":
						w.server.metadata = map[string]any{"resource": w.server.url, "authorization_servers": []string{"http://%e2%80%ae.example/"}}
					default:
						w.as.always[at.path] = answer
					}
					dir, args := records(t)
					args = append(args, at.args...)
					v := attack(t, env, append(args, w.server.url, "--no-browser", fmt.Sprint(freePort(t)))...)
					got := v.ask("initialize", victimHello)
					if !strings.Contains(got, "-31003") {
						t.Errorf("answered %.300s\n%s", got, v.stderr())
					}
					if code := v.end(); code != 0 {
						t.Errorf("exit %d", code)
					}
					for where, text := range map[string]string{"standard error": v.stderr(), "standard output": v.stdout(), "what was written": everything(t, dir)} {
						if i := strings.IndexAny(text, "\x1b\x07\r\u202e"); i >= 0 {
							t.Errorf("%s holds %.100q", where, text[i:])
						}
						if strings.Contains(text, "planted") || strings.Contains(text, "\nmcp-redial: error: forged") {
							t.Errorf("%s holds a secret, or what others wrote: %s", where, text)
						}
					}
					if files, _ := filepath.Glob(filepath.Join(v.home, storeFolder, "*_tokens.json")); len(files) > 0 {
						t.Errorf("kept %s", everything(t, v.home))
					}
				})
			}
		}
	}
}
