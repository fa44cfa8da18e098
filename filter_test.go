package main

import (
	"fmt"
	"regexp"
	"strings"
	"testing"
	"unicode/utf8"
)

func TestFilterPatterns(t *testing.T) {
	for _, test := range []struct {
		pattern, name string
		want          bool
	}{
		{"", "", true},
		{"", "a", false},
		{"read", "read", true},
		{"read", "Read", true},
		{"READ", "read", true},
		{"read", "read2", false},
		{"read", "aread", false},
		{"*", "", true},
		{"*", "anything", true},
		{"read*", "read", true},
		{"read*", "read_file", true},
		{"read*", "a_read", false},
		{"*file", "read_file", true},
		{"*file", "file_read", false},
		{"r*e", "re", true},
		{"r*e", "r", false},
		{"r*d*e", "read_file", true},
		{"r*d*e", "rfile", false},
		{"*ab", "aab", true},
		{"a*ab", "ab", false},
		{"a*b*b", "abb", true},
		{"a*b*b", "ab", false},
		{"**", "x", true},
		{"a?c", "abc", false},
		{"É*", "éa", true},
		{"a.c", "abc", false},
		{"*", "two\nlines", true},
		{"\xff*", "\xff", true},
	} {
		if got := matchesAny([]string{"another", test.pattern}, test.name); got != test.want {
			t.Errorf("%q matches %q: %v, want %v", test.pattern, test.name, got, test.want)
		}
	}
}

// A pattern is what a regular expression would be.
func FuzzFilterPatterns(f *testing.F) {
	f.Fuzz(func(t *testing.T, pattern, name string) {
		if !utf8.ValidString(pattern) || !utf8.ValidString(name) {
			return
		}
		want := regexp.MustCompile("(?is)^" + strings.ReplaceAll(regexp.QuoteMeta(pattern), `\*`, ".*") + "$").MatchString(name)
		if got := matchesAny([]string{pattern}, name); got != want {
			t.Errorf("%q matches %q: %v, want %v", pattern, name, got, want)
		}
	})
}

func TestFilter(t *testing.T) {
	const tools = `{"name":"read","annotations":{"readOnlyHint":true},"x":1.0},` +
		`{ "name" : "write" },` +
		`{"name":"put","annotations":{"readOnlyHint":false,"idempotentHint":true}},` +
		`{"name":"odd","annotations":{"readOnlyHint":"true"}},` +
		`{"title":"nameless"}`
	const page = `{"jsonrpc":"2.0","id":1,"result":{"nextCursor":"c","tools":[` + tools + `],"y":2.50}}`
	const everything = "read write put odd nameless"
	for _, test := range []struct {
		name    string
		o       filterOptions
		list    string // what is left
		before  string // verdicts for read, write, put, odd, other, "" before a list was seen
		verdict string // and after
	}{
		{"nothing set", filterOptions{}, everything, "yes yes yes yes yes yes", "yes yes yes yes yes yes"},
		{"ignore", filterOptions{ignore: []string{"wr*", "PUT"}}, "read odd", "yes no no yes yes no", "yes no no yes yes no"},
		{"allow", filterOptions{allow: []string{"read", "o*"}}, "read odd", "yes no no yes yes no", "yes no no yes yes no"},
		{"both", filterOptions{allow: []string{"*"}, ignore: []string{"read"}}, "write put odd", "no yes yes yes yes no", "no yes yes yes yes no"},
		{"read-only", filterOptions{readOnly: true}, "read", "ask ask ask ask ask no", "yes no no no ask no"},
		{"read-only, but ignored", filterOptions{readOnly: true, ignore: []string{"read"}}, "", "no ask ask ask ask no", "no no no no ask no"},
	} {
		t.Run(test.name, func(t *testing.T) {
			f := newFilter(test.o)
			verdicts := func() string {
				var v []string
				for _, tool := range []string{"read", "write", "put", "odd", "other", ""} {
					v = append(v, map[verdict]string{allowed: "yes", denied: "no", lookup: "ask"}[f.call(tool)])
				}
				return strings.Join(v, " ")
			}
			if got := verdicts(); got != test.before {
				t.Errorf("before the list: %s, want %s", got, test.before)
			}
			m := parsed(t, page)
			m.charge = charge{bytes: 7}
			got := f.list(m)
			want := page
			for _, tool := range []string{"read", "write", "put", "odd", "nameless"} {
				if !strings.Contains(test.list, tool) {
					for part := range strings.SplitSeq(tools, "},{") {
						if strings.Contains(part, `"`+tool+`"`) {
							whole := "{" + strings.Trim(part, "{}") + "}"
							for strings.Count(whole, "{") != strings.Count(whole, "}") {
								whole += "}"
							}
							if !strings.Contains(want, whole) {
								t.Fatalf("%s is not in %s", whole, want)
							}
							want = strings.NewReplacer(whole+",", "", ","+whole, "", whole, "").Replace(want)
						}
					}
				}
			}
			if string(got.raw) != want {
				t.Errorf("list\n %s, want\n %s", got.raw, want)
			}
			if got.charge != m.charge {
				t.Errorf("charge %v", got.charge)
			}
			if test.list == everything && &got.raw[0] != &m.raw[0] {
				t.Error("copied without need")
			}
			if got := verdicts(); got != test.verdict {
				t.Errorf("after the list: %s, want %s", got, test.verdict)
			}
			for tool, want := range map[string]bool{"read": true, "write": false, "put": true, "odd": false, "other": false} {
				if f.repeatable(tool) != want {
					t.Errorf("repeatable(%s) is not %v", tool, want)
				}
			}
			f.list(parsed(t, strings.ReplaceAll(page, "true", "false")))
			if f.repeatable("read") || f.repeatable("put") {
				t.Error("a newer list does not count")
			}
			f.list(m)
			f.reset()
			if f.repeatable("read") || verdicts() != test.before {
				t.Error("not forgotten")
			}
		})
	}
}

func TestFilterOddLists(t *testing.T) {
	f := newFilter(filterOptions{ignore: []string{"bad"}})
	for _, page := range []string{
		`{"jsonrpc":"2.0","id":1,"result":{}}`,
		`{"jsonrpc":"2.0","id":1,"result":{"tools":{"name":"bad"}}}`,
		`{"jsonrpc":"2.0","id":1,"result":{"tools":[]}}`,
		`{"jsonrpc":"2.0","id":1,"error":{"code":1,"message":"m"}}`,
	} {
		m := parsed(t, page)
		if got := f.list(m); string(got.raw) != page {
			t.Errorf("%s becomes %s", page, got.raw)
		}
	}
	for page, want := range map[string]string{
		`{"jsonrpc":"2.0","id":1,"result":{"tools":["bad",{"name":"bad"},null,{"name":"b\u0061d"},{"name":"good"}]}}`: `[{"name":"good"}]`,
		`{"jsonrpc":"2.0","id":1,"result":{"tools":[{"name":"good","Name":"bad"},{"name":"good","name":"bad"}]}}`:     `[]`,
		`{"jsonrpc":"2.0","id":1,"result":{"tools":[],"tools":[{"name":"bad"}]}}`:                                     `[]`,
		`{"jsonrpc":"2.0","id":1,"result":{"Tools":[{"name":"bad"}]}}`:                                                `[]`,
	} {
		if got := f.list(parsed(t, page)); string(peek(got.raw, "result", "tools")) != want {
			t.Errorf("%s becomes %s", page, got.raw)
		}
	}
}

func TestFilterBound(t *testing.T) {
	f := newFilter(filterOptions{readOnly: true})
	list := func(name string) {
		f.list(parsed(t, fmt.Sprintf(`{"jsonrpc":"2.0","id":1,"result":{"tools":[{"name":"%s","annotations":{"readOnlyHint":true}}]}}`, name)))
	}
	long := strings.Repeat("a", maxNoted-noteSize)
	list(long)
	if f.call(long) != allowed {
		t.Error("not noted at the bound")
	}
	list("b")
	if f.call("b") != lookup || f.repeatable("b") {
		t.Error("noted past the bound")
	}
	list(long)
	if f.call(long) != allowed {
		t.Error("forgotten")
	}
}
