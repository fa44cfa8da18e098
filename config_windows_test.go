package main

import (
	"path/filepath"
	"strings"
	"testing"
)

// TestPolicyPath holds that the environment does not say where the policy is.
func TestPolicyPath(t *testing.T) {
	before := policyPath()
	if !filepath.IsAbs(before) || !strings.HasSuffix(before, `:\ProgramData\mcp-redial\policy`) {
		t.Errorf("the policy is at %s", before)
	}
	t.Setenv("ProgramData", `C:\Users\somebody`)
	if policyPath() != before {
		t.Error("a variable moves the policy")
	}
}
