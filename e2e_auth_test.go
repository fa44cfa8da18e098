package main

// e2e_auth_test.go signs in as a person would, with nothing of ours on the other side: the authorization scenarios of
// the official conformance suite, and an OpenID provider that knows nothing of MCP. A stand-in for the browser
// follows every address to its end.

import (
	"os/exec"
	"path/filepath"
	"testing"
)

// TestE2EConformanceAuth is what concerns authorization in the suite's client side, at every revision whose wire it
// applies to. Left out are four extensions that the program does not have: dpop, dpop-nonce, wif-jwt-bearer
// and enterprise-managed-authorization.
func TestE2EConformanceAuth(t *testing.T) {
	s := newSuite(t)
	bridge := builtBridge(t)
	both := []string{
		"metadata-default", "metadata-var1", "metadata-var2", "metadata-var3", "basic-cimd", "scope-from-www-authenticate",
		"scope-from-scopes-supported", "scope-omitted-when-undefined", "scope-step-up", "scope-retry-limit", "token-endpoint-auth-basic",
		"token-endpoint-auth-post", "token-endpoint-auth-none", "pre-registration",
	}
	modern := []string{
		"resource-mismatch", "offline-access-scope", "offline-access-not-supported", "authorization-server-migration", "iss-supported",
		"iss-not-advertised", "iss-supported-missing", "iss-wrong-issuer", "iss-unexpected", "iss-normalized", "metadata-issuer-mismatch",
	}
	for _, wire := range []struct {
		name, version, era string
		scenarios          []string
	}{
		{"2025-03-26", "2025-03-26", "old", []string{"2025-03-26-oauth-metadata-backcompat", "2025-03-26-oauth-endpoint-fallback"}},
		{"2025-11-25", "2025-11-25", "old", both},
		{"2026-07-28", "2026-07-28", "new", append(modern, both...)},
		{"2026-07-28 for an old client", "2026-07-28", "old", []string{"metadata-default", "scope-step-up", "authorization-server-migration"}},
		{"extensions", "", "old", []string{"client-credentials-jwt", "client-credentials-basic"}},
	} {
		for _, scenario := range wire.scenarios {
			t.Run(wire.name+"/"+scenario, func(t *testing.T) {
				t.Parallel()
				args := []string{"client", "--command", s.node + " " + filepath.Join(s.run, "conformance-auth.mjs"), "--scenario", "auth/" + scenario, "--timeout", suiteLimit}
				if wire.version != "" {
					args = append(args, "--spec-version", wire.version)
				}
				checks, output, err := s.play(t, []string{"BRIDGE=" + bridge, "CLIENT_ERA=" + wire.era}, args...)
				good := 0
				for _, c := range checks {
					switch c.Status {
					case "SUCCESS":
						good++
					case "FAILURE", "WARNING":
						t.Errorf("%s %s: %s", c.Status, c.ID, c.ErrorMessage)
					}
				}
				if err != nil || good == 0 {
					t.Errorf("%d checks passed: %v", good, err)
				}
				if t.Failed() {
					t.Log(output)
				} else {
					t.Logf("%d checks passed", good)
				}
			})
		}
	}
}

// TestE2EOIDCProvider is a protected MCP server behind an OpenID provider: browser, refresh with rotation, revocation,
// device code, and a program with a key.
func TestE2EOIDCProvider(t *testing.T) { newSuite(t).drive(t, "oidc.mjs") }

// TestE2ESharedSignIn has mcp-remote and mcp-redial use one store.
func TestE2ESharedSignIn(t *testing.T) { newSuite(t).drive(t, "shared.mjs") }

func (s *suite) drive(t *testing.T, script string) {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), s.node, filepath.Join(s.run, script), builtBridge(t)).CombinedOutput()
	if t.Logf("%s", out); err != nil {
		t.Error(err)
	}
}
