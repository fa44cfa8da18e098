package main

// readme_test.go holds the README to the program: every configuration in it is read, every flag listed; and the
// commands of all documents to what there is.

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

func readme(t *testing.T) string {
	t.Helper()
	b, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// readmeMachine has what the README's examples take from the environment, and no policy.
var readmeMachine = machine{getenv: func(name string) (string, bool) { return "search", name == "TEAM" }}

// TestReadmeFlags compares the table of flags with the one that parses them.
func TestReadmeFlags(t *testing.T) {
	var want strings.Builder
	want.WriteString("| flag | |\n|---|---|\n")
	for _, f := range new(draft).flags() {
		if f.name == "" {
			want.WriteString("| **" + f.help + "** | |\n")
			continue
		}
		arg, many := strings.CutSuffix(f.arg, "...")
		text := strings.TrimSpace("--" + f.name + " " + arg)
		want.WriteString("| `" + strings.ReplaceAll(text, "|", `\|`) + "` | " + f.help)
		if many {
			want.WriteString(" (repeatable)")
		}
		want.WriteString(" |\n")
	}
	if !strings.Contains(readme(t), "\n\n"+want.String()+"\n") {
		t.Errorf("the README's table of flags is not this:\n%s", want.String())
	}
}

// TestReadmeFlagsExist finds flags that are spoken of anywhere and that there are none of.
func TestReadmeFlagsExist(t *testing.T) {
	var known []string
	for _, f := range new(draft).flags() {
		known = append(known, "--"+f.name)
	}
	for _, flag := range regexp.MustCompile("--[a-z][a-z0-9-]*").FindAllString(readme(t), -1) {
		if !slices.Contains(known, flag) && flag != "--flag" {
			t.Errorf("the README speaks of %s", flag)
		}
	}
}

// TestDocumentedCommands goes through the shell blocks of all documents, and through what stands between backquotes and
// is a command. Those of the program are parsed, with the README's own file for FILE. The others are run by .ci/run or by
// a test; what takes longer than anybody waits is made of flags and tests that there are.
func TestDocumentedCommands(t *testing.T) {
	ci := regexp.MustCompile(`-timeout \S+ `).ReplaceAllString(document(t, ".ci/run"), "") // for machines that are slower than a reader's
	var tests, flags []string
	files, _ := filepath.Glob("*_test.go")
	for _, f := range files {
		text := document(t, f)
		for _, m := range regexp.MustCompile(`(?m)^func ((?:Test|Fuzz|Benchmark)\w+)\(`).FindAllStringSubmatch(text, -1) {
			tests = append(tests, m[1])
		}
		for _, m := range regexp.MustCompile(`flag\.\w+\("(\w+)"`).FindAllStringSubmatch(text, -1) {
			flags = append(flags, "-"+m[1])
		}
	}
	config := filepath.Join(t.TempDir(), "servers.json")
	blocks := regexp.MustCompile("(?s)```json\n(.*?)```").FindAllStringSubmatch(readme(t), -1)
	if err := os.WriteFile(config, []byte(blocks[len(blocks)-1][1]), 0o600); err != nil {
		t.Fatal(err)
	}
	problem := func(line string) string {
		_, args, ours := strings.Cut(" "+line, " mcp-redial ")
		words := strings.Fields(line)
		for len(words) > 1 && strings.Contains(words[0], "=") { // variables
			words = words[1:]
		}
		rest := strings.Join(words, " ")
		switch {
		case ours:
			args = strings.NewReplacer("URL", exampleURL, "FILE", config).Replace(args)
			if _, err := parse(strings.Fields(args), readmeMachine); err != nil {
				return err.Error()
			}
		case words[0] == ".ci/run":
			for _, step := range words[1:] {
				if !strings.Contains(ci, "\nstep_"+step+"()") {
					return "there is no step " + step
				}
			}
		case rest == "./release.sh VERSION": // TestReleaseSame
		case strings.HasPrefix(rest, "go install -trimpath ") && strings.Contains(document(t, "release.sh"), line): // TestReleaseSame
		case rest == "go install "+testModule+"@latest": // TestSupplyChainInstall
		case strings.HasPrefix(rest, "go test -") && words[len(words)-1] == ".":
			for i, w := range words[2:] {
				value := strings.Trim(words[min(i+3, len(words)-1)], "'")
				if strings.HasPrefix(w, "-") && !slices.Contains(append(flags, "-v", "-run", "-parallel", "-timeout", "-fuzz", "-fuzztime"), w) {
					return "there is no flag " + w
				}
				if pattern, err := regexp.Compile(value); (w == "-run" || w == "-fuzz") && value != "^$" && (err != nil || !slices.ContainsFunc(tests, pattern.MatchString)) {
					return "there is no test " + value
				}
			}
		case words[0] == "go" && strings.Contains(ci, rest):
		default:
			return "nothing runs it"
		}
		return ""
	}
	checked := 0
	for _, doc := range []string{"README.md", "SECURITY.md", "CONTRIBUTING.md", "CHANGELOG.md"} {
		text, lines := document(t, doc), []string{}
		for _, block := range regexp.MustCompile("(?s)```(?:sh|bash|shell|console)\n(.*?)```").FindAllStringSubmatch(text, -1) {
			lines = append(lines, strings.Split(strings.TrimSpace(block[1]), "\n")...)
		}
		text = regexp.MustCompile("(?s)```.*?```").ReplaceAllString(text, "")
		for _, span := range regexp.MustCompile("`((?:mcp-redial|go|\\.ci/run|\\./\\S+|[A-Z0-9_]+=\\S+ go) [^`]+)`").FindAllStringSubmatch(text, -1) {
			lines = append(lines, span[1])
		}
		for _, line := range lines {
			checked++
			if p := problem(line); p != "" {
				t.Errorf("%s: %s: %s", doc, line, p)
			}
		}
	}
	if checked < 20 {
		t.Errorf("only %d commands found", checked)
	}
	for line, want := range map[string]string{"mcp-redial --nonsense": "unknown flag --nonsense", ".ci/run nonsense": "there is no step nonsense", "go test -run TestNonsense .": "there is no test TestNonsense",
		"go test -nonsense 1 .": "there is no flag -nonsense", "rm -rf /": "nothing runs it", "go vet ./nonsense": "nothing runs it"} {
		if got := problem(line); got != want {
			t.Errorf("%s: %q, want %q", line, got, want)
		}
	}
}

// TestReadmeConfigurations starts from its configuration files.
func TestReadmeConfigurations(t *testing.T) {
	blocks := regexp.MustCompile("(?s)```json\n(.*?)```").FindAllStringSubmatch(readme(t), -1)
	if len(blocks) != 3 {
		t.Fatalf("%d configurations found", len(blocks))
	}
	for _, block := range blocks {
		var file map[string]map[string]struct {
			Command string
			Args    []string
		}
		if err := json.Unmarshal([]byte(block[1]), &file); err != nil {
			t.Errorf("%v in\n%s", err, block[1])
			continue
		}
		for _, servers := range file {
			for name, s := range servers {
				args := s.Args
				if s.Command == "" { // the kind that --config reads
					path := filepath.Join(t.TempDir(), "servers.json")
					if err := os.WriteFile(path, []byte(block[1]), 0o600); err != nil {
						t.Fatal(err)
					}
					args = []string{"--config", path, "--server", name}
				} else if s.Command != "mcp-redial" {
					t.Errorf("the command is %q", s.Command)
				}
				c, err := parse(args, readmeMachine)
				if err != nil {
					t.Errorf("%q: %v", args, err)
				} else if c.url.String() != "https://mcp.example.com/mcp" {
					t.Errorf("%q: the URL is %s", args, c.url)
				}
			}
		}
	}
}

// TestContributing plays the scenario that CONTRIBUTING.md shows.
func TestContributing(t *testing.T) {
	b, err := os.ReadFile("CONTRIBUTING.md")
	if err != nil {
		t.Fatal(err)
	}
	_, scenario, _ := strings.Cut(string(b), "```\n# ")
	scenario, _, ok := strings.Cut(scenario, "```")
	if !ok {
		t.Fatal("no scenario found")
	}
	playScenario(t, "CONTRIBUTING.md", "# "+scenario)
}
