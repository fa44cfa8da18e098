package main

import "syscall"

const tcpUserTimeout = 18 // TCP_USER_TIMEOUT of linux/tcp.h, in milliseconds; package syscall does not name it

// setUserTimeout bounds how long sent bytes may stay unacknowledged: keep-alive does not probe meanwhile.
// A kernel that refuses it still works.
func setUserTimeout(fd uintptr) {
	_ = syscall.SetsockoptInt(int(fd), syscall.IPPROTO_TCP, tcpUserTimeout, int(userTimeout.Milliseconds()))
}
