package main

// readme_test.go holds the README to the program: every command line in it is parsed, every configuration
// read, every flag listed, every build line run by .ci/run.

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

// TestReadmeCommands parses the lines of its shell blocks.
func TestReadmeCommands(t *testing.T) {
	ci, err := os.ReadFile(".ci/run")
	if err != nil {
		t.Fatal(err)
	}
	ci = regexp.MustCompile(`-timeout \S+ `).ReplaceAll(ci, nil) // for machines that are slower than a reader's
	blocks := regexp.MustCompile("(?s)```sh\n(.*?)```").FindAllStringSubmatch(readme(t), -1)
	commands := 0
	for _, block := range blocks {
		for _, line := range strings.Split(strings.TrimSpace(block[1]), "\n") {
			_, args, ours := strings.Cut(" "+line, " mcp-redial ")
			switch words := strings.Fields(line); {
			case ours:
				commands++
				if _, err := parse(strings.Fields(args), readmeMachine); err != nil {
					t.Errorf("%s: %v", line, err)
				}
			case slices.Contains(words, "go"):
				if i := slices.Index(words, "go"); !strings.Contains(string(ci), strings.Join(words[i:], " ")) {
					t.Errorf("nothing runs %q", line)
				}
			default:
				t.Errorf("nothing tests %q", line)
			}
		}
	}
	if commands < 2 {
		t.Errorf("%d command lines found", commands)
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

// TestContributing plays the scenario that CONTRIBUTING.md shows and looks for the steps that it names.
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
	ci, err := os.ReadFile(".ci/run")
	if err != nil {
		t.Fatal(err)
	}
	for _, step := range []string{"test", "race"} {
		if !strings.Contains(string(ci), "step_"+step+"()") {
			t.Errorf(".ci/run has no step %s", step)
		}
	}
}
