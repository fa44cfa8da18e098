//go:build race

package main

// slowdown is about how many times longer the race detector makes things take: volumes are cut by it, not kinds.
const slowdown = 8
