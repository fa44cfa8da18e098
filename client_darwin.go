package main

import "syscall"

const tcpConnectionDropTime = 0x80 // TCP_RXT_CONNDROPTIME of netinet/tcp.h, in seconds; package syscall does not name it

// setUserTimeout: see client_linux.go.
func setUserTimeout(fd uintptr) {
	_ = syscall.SetsockoptInt(int(fd), syscall.IPPROTO_TCP, tcpConnectionDropTime, int(userTimeout.Seconds()))
}
