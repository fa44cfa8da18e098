//go:build !linux && !darwin

package main

// setUserTimeout does nothing here: no such option, or none that package syscall reaches. Keep-alive and the
// loop's own probes remain.
func setUserTimeout(uintptr) {}
