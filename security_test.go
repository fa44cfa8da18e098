package main

// security_test.go holds SECURITY.md to the program: the tests that it names exist, the tables are what the code
// says, and what is written to disk is on its list. TestPowers compares the auditor's map.

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

func document(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// Every test and fuzz target that a document names exists.
func TestSecurityNames(t *testing.T) {
	files, err := filepath.Glob("*_test.go")
	if err != nil {
		t.Fatal(err)
	}
	known := map[string]bool{}
	for _, f := range files {
		for line := range strings.Lines(document(t, f)) {
			if name, ok := strings.CutPrefix(line, "func "); ok {
				name, _, _ = strings.Cut(name, "(")
				known[name] = true
			}
		}
	}
	named := 0
	for _, doc := range []string{"SECURITY.md", "CONTRIBUTING.md", "README.md"} {
		for _, name := range regexp.MustCompile(`\b(Test|Fuzz)[A-Z][A-Za-z0-9]*`).FindAllString(document(t, doc), -1) {
			named++
			if !known[name] {
				t.Errorf("%s names %s: there is no such test", doc, name)
			}
		}
	}
	if named < 30 {
		t.Errorf("only %d tests are named", named)
	}
}

// Every flag that it speaks of exists, and every file.
func TestSecurityFlags(t *testing.T) {
	doc := document(t, "SECURITY.md")
	known := map[string]bool{}
	for _, f := range new(draft).flags() {
		known["--"+f.name] = true
	}
	for _, flag := range regexp.MustCompile("--[a-z][a-z0-9-]*").FindAllString(doc, -1) {
		if !known[flag] {
			t.Errorf("there is no flag %s", flag)
		}
	}
	for _, file := range regexp.MustCompile(`\b[a-z][a-z_]*\.go\b`).FindAllString(doc, -1) {
		if _, err := os.Stat(file); err != nil {
			t.Error(err)
		}
	}
}

// The table of limits is that of the code.
func TestSecurityLimits(t *testing.T) {
	doc := document(t, "SECURITY.md")
	bytes := func(n int64) string {
		if n%(1<<20) == 0 {
			return fmt.Sprintf("%d MiB", n>>20)
		}
		return fmt.Sprintf("%d KiB", n>>10)
	}
	c, err := parse([]string{"https://mcp.example"}, readmeMachine)
	if err != nil {
		t.Fatal(err)
	}
	rows := [][2]string{
		{"one message, either way (`--max-message-size`)", bytes(int64(c.bridge.maxMessage))},
		{"all messages (`--max-memory`)", bytes(int64(c.bridge.maxMemory))},
		{"response headers", bytes(maxHeaders)},
		{"cookies, before old ones go", bytes(maxCookies)},
		{"questions of the server that the client has not answered", fmt.Sprint(maxAsked)},
		{"resources that are subscribed anew in a new session", fmt.Sprintf("%d, asked for in %s each", maxSubscribed, bytes(maxKept))},
		{"answers that wait for others of their array (2025-03-26)", bytes(maxArray) + ", and one message"},
		{"schemas that are searched for headers to mirror", bytes(maxSchemas)},
		{"an answer of an authorization server", bytes(maxMetadata)},
		{"redirects in a row", fmt.Sprint(maxRedirects)},
		{"an event's name or id", bytes(maxField)},
		{"the address in an `endpoint` event", bytes(maxEndpoint)},
		{"an error answer that is looked at", bytes(maxErrorBody)},
		{"nesting of JSON", fmt.Sprint(maxDepth)},
		{"a stored file", bytes(maxStoreFile)},
		{"a status file that is believed", bytes(maxStatus)},
		{"output of the header command", fmt.Sprintf("%s in %.0f s", bytes(commandOutput), commandLimit.Seconds())},
		{"the log file, before it is moved", bytes(maxLog)},
		{"text of others in one of our lines", fmt.Sprintf("%d characters", maxText)},
	}
	want := "| what | at most |\n|---|---|\n"
	for _, r := range rows {
		want += "| " + r[0] + " | " + r[1] + " |\n"
	}
	if !strings.Contains(doc, "\n"+want+"\n") {
		t.Errorf("its table of limits is not this:\n%s", want)
	}
}

// Every name of a stored file that stands in the code is on the list, and nothing but these.
func TestSecurityFiles(t *testing.T) {
	doc := document(t, "SECURITY.md")
	_, table, _ := strings.Cut(doc, "| holds | until |")
	table, _, _ = strings.Cut(table, "\n\n")
	listed := map[string]bool{}
	for _, m := range regexp.MustCompile("`([^`]+)`").FindAllStringSubmatch(table, -1) {
		name := strings.NewReplacer("HASH_", "", "STATE", "", "PID", "%d", "…", "").Replace(m[1])
		if strings.HasPrefix(m[1], "HASH_") || strings.HasPrefix(m[1], "redial_") || strings.HasPrefix(m[1], "…") {
			listed[name] = false
		}
	}
	_, all := sources(t)
	for _, s := range all {
		for _, m := range regexp.MustCompile(`"_?([a-z_%]*\.(?:json|txt)|[^"]*\.(?:tmp|takeover|corrupt))"|"((?:code_verifier|discovery_state)_)"\+state\+"(\.[a-z]+)"`).FindAllStringSubmatch(string(s.text), -1) {
			name := m[1] + m[2] + m[3]
			if i := strings.LastIndex(name, "."); strings.Contains(" .tmp .takeover .corrupt", name[i:]) {
				name = name[i:]
			}
			if _, ok := listed[name]; !ok && name != ".json" && name != ".txt" {
				t.Errorf("%s writes %q, which is not on the list", s.name, name)
			}
			listed[name] = true
		}
	}
	for name, found := range listed {
		if !found && name != "" {
			t.Errorf("%q is on the list, and not in the code", name)
		}
	}
}

// Every variable of the environment that the code names is told of.
func TestSecurityEnvironment(t *testing.T) {
	_, reads, _ := strings.Cut(document(t, "SECURITY.md"), "## What it reads")
	reads, _, _ = strings.Cut(reads, "\n## ")
	named := map[string]bool{}
	_, all := sources(t)
	for _, s := range all {
		for _, m := range regexp.MustCompile(`(?:getenv|variable|LookupEnv)\("(\w+)"\)`).FindAllStringSubmatch(string(s.text), -1) {
			named[m[1]] = true
		}
	}
	if len(named) < 5 {
		t.Errorf("the code names only %v", named)
	}
	for name := range named {
		if !strings.Contains(reads, "`"+name+"`") {
			t.Errorf("%s is read", name)
		}
	}
}
