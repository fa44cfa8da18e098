package main

// filter.go decides which tools the client may see and call, and knows which of them may be called twice. It is
// pure. What a server says of its tools (annotations) is its claim; it holds for one session.

import (
	"slices"
	"strings"
	"unicode"
)

const (
	maxNoted = 4 << 20 // bytes of all tools that are noted; the server listed no others
	noteSize = 64      // bytes of one besides its name
)

type filterOptions struct {
	ignore   []string // --ignore-tool: patterns of tools that are hidden and refused
	allow    []string // --allow-tool: if there are any, all other tools are hidden and refused
	readOnly bool     // --read-only: only tools that the server lists with readOnlyHint true
}

type verdict uint8

const (
	allowed verdict = iota
	denied
	lookup // it depends on an annotation of a tool that has not been listed: page through tools/list first
)

// A filter belongs to the loop; it is not safe for concurrent use.
type filter struct {
	filterOptions
	tools map[string]hints // as this session's lists have them
	size  int              // bytes of them
}

type hints struct{ readOnly, repeatable bool }

// newFilter takes patterns in which * stands for any number of characters; they match whole names, in any
// case of letters.
func newFilter(o filterOptions) *filter {
	f := &filter{filterOptions: o}
	f.reset()
	return f
}

// list takes a response to tools/list on its way to the client, notes what it says of each tool, and returns
// it without the tools that may not be seen. m itself is returned if nothing has to go; if not, the new
// message carries m's charge, and all that stays in it is byte for byte the same.
func (f *filter) list(m message) message {
	return editTools(m, func(tool []byte) []byte {
		name, ok := unquote(peek(tool, "name"))
		if _, known := f.tools[name]; ok && (known || f.size+len(name)+noteSize <= maxNoted) {
			if !known {
				f.size += len(name) + noteSize
			}
			claims := func(hint string) bool { return string(peek(tool, "annotations", hint)) == "true" }
			f.tools[name] = hints{claims("readOnlyHint"), claims("readOnlyHint") || claims("idempotentHint")}
		}
		if f.call(name) != allowed {
			return nil
		}
		return tool
	})
}

// call says whether the named tool may be called; "" is a call that names none or more than one. Where it
// still says lookup after all pages have been listed, the server has no such tool: denied.
func (f *filter) call(tool string) verdict {
	restricted := f.readOnly || len(f.ignore) > 0 || len(f.allow) > 0
	hints, listed := f.tools[tool]
	switch {
	case tool == "" && restricted, matchesAny(f.ignore, tool), len(f.allow) > 0 && !matchesAny(f.allow, tool):
		return denied
	case f.readOnly && !listed:
		return lookup
	case f.readOnly && !hints.readOnly:
		return denied
	}
	return allowed
}

// repeatable says whether this session's list marks the tool readOnlyHint or idempotentHint.
func (f *filter) repeatable(tool string) bool { return f.tools[tool].repeatable }

// reset forgets the lists of the session before.
func (f *filter) reset() {
	f.tools, f.size = map[string]hints{}, 0
}

// matchesAny says whether one of the patterns stands for name, in any case of letters.
func matchesAny(patterns []string, name string) bool {
	return slices.ContainsFunc(patterns, func(pattern string) bool {
		parts := strings.Split(strings.Map(fold, pattern), "*")
		last := len(parts) - 1
		rest, ok := strings.CutPrefix(strings.Map(fold, name), parts[0])
		if last == 0 {
			return ok && rest == ""
		}
		for _, part := range parts[1:last] {
			if ok {
				_, rest, ok = strings.Cut(rest, part)
			}
		}
		return ok && strings.HasSuffix(rest, parts[last])
	})
}

// fold is the first of all letters that differ from r in their case alone.
func fold(r rune) rune {
	first := r
	for c := unicode.SimpleFold(r); c != r; c = unicode.SimpleFold(c) {
		first = min(first, c)
	}
	return first
}
