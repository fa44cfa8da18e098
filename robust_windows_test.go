package main

import (
	"os"
	"testing"
)

func stop(t *testing.T, _ *os.Process) { t.Skip("there is no such signal") }
func resume(*testing.T, *os.Process)   {}
