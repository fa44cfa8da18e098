package main

// faults_test.go proves the promise fault by fault: testdata/faults/*.txt are scenarios as in scenario_test.go, one a
// fault, whose first line says what it is. What text cannot say (every byte of an answer, fifty bridges, hours of
// keep-alive) follows as code.

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
)

// TestReconnect plays every fault on every transport where it makes sense, and prints how that went. With -run
// Reconnect -v the table is at the end.
func TestReconnect(t *testing.T) {
	files, err := filepath.Glob("testdata/faults/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no faults: %v", err)
	}
	kinds := []string{"sse", "json", "streams", "ids", "modern", "stateless"}
	titles := []string{"HTTP+SSE", "JSON", "streams", "with ids", "2026-07-28", "translated"}
	var table strings.Builder
	fmt.Fprintf(&table, "%-72s", "fault")
	for _, title := range titles {
		fmt.Fprintf(&table, " %-10s", title)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		first, _, _ := strings.Cut(string(text), "\n")
		fmt.Fprintf(&table, "\n%-72s", strings.TrimPrefix(first, "# "))
		on := scenarioKinds(string(text))
		for _, kind := range kinds {
			result := "-"
			if on[kind] {
				result = "FAILED"
				if t.Run(strings.TrimSuffix(filepath.Base(file), ".txt")+"/"+kind, func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) { newPlayer(t, file, kind).play(string(text)) })
				}) {
					result = "ok"
				}
			}
			fmt.Fprintf(&table, " %-10s", result)
		}
	}
	t.Logf("\n%s", table.String())
}

// scenarioKinds are the servers that a scenario names.
func scenarioKinds(text string) map[string]bool {
	on := map[string]bool{}
	for line := range strings.Lines(text) {
		if list, ok := strings.CutPrefix(line, "on:"); ok {
			for kind := range strings.FieldsSeq(list) {
				on[kind] = true
			}
		}
	}
	return on
}
