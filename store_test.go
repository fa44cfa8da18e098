package main

import "testing"

// The sums are those of mcp-remote 0.15.1 for the same flags.
func TestIdentityHash(t *testing.T) {
	const url = "https://mcp.example.com/mcp"
	for _, tt := range []struct {
		name            string
		url, resource   string
		params, headers map[string]string
		metadata, token string
		want            string
		port            int
	}{
		{name: "the address alone", url: url, want: "94baabe3c3fadb285b26c035e4e86046", port: 41409},
		{name: "the published example", url: "http://127.0.0.1:4731/mcp", headers: map[string]string{"X-A": "1", "X-B": "${FOO}"},
			want: "56beebfff35f35424875a19452b842d1", port: 3335 + 0x56be},
		{name: "with headers, not expanded", url: url, headers: map[string]string{"X-B": "${FOO}", "X-A": "1"},
			want: "f75164d709d26196c99f8dee76ff6e0f", port: 20832},
		{name: "with a resource", url: url, resource: "https://r.example/", want: "f19c8894fae76e49efe7d4e4c023c8bc", port: 19371},
		{name: "with everything", url: url, resource: "https://r.example/",
			params:   map[string]string{"prompt": "<login> & \"x\"\u007f\x01\t", "audience": "é"},
			headers:  map[string]string{"x-b": "2", "X-A": "a:b", "A1": "${T}"},
			metadata: "https://c.example/id.json", token: "https://as.example/token",
			want: "e7b6ebe222780182e5518c3f713128bb", port: 16837},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := identityHash(tt.url, tt.resource, tt.params, tt.headers, tt.metadata, tt.token)
			if got != tt.want {
				t.Errorf("identityHash = %s, want %s", got, tt.want)
			}
			if p := defaultPort(got); p != tt.port {
				t.Errorf("defaultPort = %d, want %d", p, tt.port)
			}
		})
	}
}
