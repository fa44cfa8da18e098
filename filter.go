package main

// filter.go decides which tools the client may see and call, and knows which of them may be called twice. It is
// pure. What a server says of its tools (annotations) is its claim; it holds for one session.

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
type filter struct{ filterOptions }

// newFilter takes patterns in which * stands for any number of characters; they match whole names, in any
// case of letters.
func newFilter(o filterOptions) *filter { return &filter{o} }

// list takes a response to tools/list on its way to the client, notes what it says of each tool, and returns
// it without the tools that may not be seen. m itself is returned if nothing has to go; if not, the new
// message carries m's charge, and all that stays in it is byte for byte the same.
func (f *filter) list(m message) message { return m }

// call says whether the named tool may be called. Where it says lookup even after all pages have been
// listed, the tool does not exist or was removed: denied.
func (f *filter) call(tool string) verdict { return allowed }

// repeatable says whether this session's list marks the tool readOnlyHint or idempotentHint.
func (f *filter) repeatable(tool string) bool { return false }

// reset forgets the lists of the session before.
func (f *filter) reset() {}
