package main

import (
	"context"
	"io"
)

func demo(ctx context.Context, stdout io.Writer) int         { return 0 }
func check(ctx context.Context, p any, stdout io.Writer) int { return 0 }
func status(s *store, asJSON bool, stdout io.Writer) int     { return 0 }

type statusFile struct{}

func newStatusFile(s *store, server string) *statusFile { return &statusFile{} }
func (*statusFile) write(s snapshot) error              { return nil }
func (*statusFile) remove()                             {}

func (p *program) checked() any { return nil }
