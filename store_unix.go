//go:build !windows

package main

import (
	"fmt"
	"io/fs"
	"os"
	"strings"
	"syscall"
)

// owned says whether a file is that user's.
func owned(info fs.FileInfo, uid int) bool {
	s, ok := info.Sys().(*syscall.Stat_t)
	return ok && int(s.Uid) == uid
}

// birth is when a process was started, in the system's own words; "" where there is no /proc to tell.
func birth(pid int) string {
	stat, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	_, rest, _ := strings.Cut(string(stat[strings.LastIndexByte(string(stat), ')')+1:]), " ")
	if f := strings.Fields(rest); len(f) > 19 { // proc_pid_stat(5): field 22; the name before may hold anything
		return f[19]
	}
	return ""
}
