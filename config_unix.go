//go:build unix

package main

import (
	"os"
	"syscall"
)

func policyPath() string { return "/etc/mcp-redial/policy" }

// administrators says that a file belongs to root and that nobody else may write to it.
func administrators(fi os.FileInfo) bool {
	st, ok := fi.Sys().(*syscall.Stat_t)
	return ok && st.Uid == 0 && fi.Mode().Perm()&0o022 == 0
}
