package main

// headers.go holds the headers that a person adds: from arguments, files and a command. It reads those files
// and runs that command, without arguments and without a shell. What a header says goes to the MCP origin
// only (client.go sees to that) and never into an error or a log.

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

type headerOptions struct {
	args    []headerArg // in the order of the command line
	locked  int         // how many of them, at the end, are the policy's: their names take no other value
	command string      // --header-command, an absolute path; "" for none
	getenv  func(string) (string, bool)
}

// A headerArg is a "Name: value" with ${VAR} not yet expanded, or a file of such lines.
type headerArg struct {
	line secret
	file string
}

const (
	commandLimit  = 10 * time.Second
	commandPause  = 10 * time.Second // between two runs, at least
	commandOutput = 64 << 10         // bytes
)

// A headerSource is the current set of added headers. Its methods may be called concurrently.
type headerSource struct {
	o     headerOptions
	typed map[string]string // as written, before ${VAR}; mcp-remote's identity of the stored sign-in has them

	turn   chan struct{} // of capacity 1; held by the one that reads the sources, and guards ran and failed
	ran    time.Time     // the start of the last run that was not cut short
	failed error         // what went wrong then
	set    atomic.Pointer[headerSet]
}

type headerSet struct {
	header http.Header
	until  time.Time // zero: until the server refuses it
}

// newHeaderSource reads arguments and files, and looks whether there is such a command. An error is a *usageError.
func newHeaderSource(o headerOptions) (*headerSource, error) {
	s := &headerSource{o: o, turn: make(chan struct{}, 1)}
	if _, err := exec.LookPath(o.command); o.command != "" && err != nil {
		return nil, &usageError{"--header-command: " + err.Error(), "give the path of a program that you may run"}
	}
	header, typed, err := o.written()
	if err != nil {
		return nil, err
	}
	if s.typed = typed; o.command == "" {
		s.set.Store(&headerSet{header: header})
	}
	return s, nil
}

// begin runs the command at the start of the program, before anything is sent. What goes wrong is told at once and
// ends nothing: a command that needs the network may work a moment later, when a request asks for it again.
func (s *headerSource) begin(ctx context.Context, log *slog.Logger) {
	if _, err := s.current(ctx); err != nil && ctx.Err() == nil {
		log.Error(err.Error() + ": it is run again when a request needs it; run it by hand to see why")
	}
}

// current is the set to send now: the caller must not change it. The command runs where it has not run yet or
// its Expires-In has passed. Errors are *signInError, or the context's.
func (s *headerSource) current(ctx context.Context) (http.Header, error) {
	set := s.set.Load()
	if set == nil || !set.until.IsZero() && !time.Now().Before(set.until) {
		return s.read(ctx, set)
	}
	return set.header, nil
}

// authorized says that the person gave an Authorization header, so that there is no sign-in.
func (s *headerSource) authorized() bool {
	set := s.set.Load()
	return set != nil && set.header.Get("Authorization") != ""
}

// refresh reads the sources again after the server has refused what they gave. It returns nil if there is
// something new to try; otherwise a *signInError, or the context's error.
func (s *headerSource) refresh(ctx context.Context) error {
	old := s.set.Load()
	header, err := s.read(ctx, old)
	if err == nil && old != nil && maps.EqualFunc(header, old.header, slices.Equal[[]string]) {
		err = &signInError{err: errors.New("the server refuses the headers that it was given"), hint: "renew the value of --header, --header-file or --header-command"}
	}
	return err
}

// read makes a new set, unless somebody else has replaced old meanwhile.
func (s *headerSource) read(ctx context.Context, old *headerSet) (http.Header, error) {
	select {
	case s.turn <- struct{}{}:
		defer func() { <-s.turn }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if set := s.set.Load(); set != old {
		return set.header, nil
	}
	header, _, err := s.o.written()
	if err != nil {
		return nil, &signInError{err: err}
	}
	set := &headerSet{header: header}
	if s.o.command != "" {
		var life time.Duration
		err := cmp.Or(s.failed, errors.New("waiting to run --header-command again"))
		if start := time.Now(); start.Sub(s.ran) >= commandPause {
			life, err = s.run(ctx, header)
			if err != nil && ctx.Err() != nil { // it was cut short: the next one runs it again
				return nil, ctx.Err()
			}
			s.ran, s.failed = start, err
		}
		if err != nil {
			return nil, &signInError{err: err, outage: true, wait: time.Until(s.ran.Add(commandPause)), hint: "run the command of --header-command by hand"}
		}
		if life > 0 {
			set.until = s.ran.Add(max(life, commandPause))
		}
	}
	s.set.Store(set)
	return header, nil
}

// written reads the arguments and the files. A later line replaces an earlier one of the same spelling.
func (o headerOptions) written() (http.Header, map[string]string, error) {
	typed, header := map[string]string{}, http.Header{}
	for n, a := range o.args {
		lines, where := []string{a.line.reveal()}, "--header"
		if a.file != "" {
			text, err := load(a.file)
			if err != nil {
				return nil, nil, &usageError{"reading --header-file: " + err.Error(), "give the path of a file with a line Name: value for each header"}
			}
			lines = strings.Split(string(text), "\n")
		}
		for i, line := range lines {
			if a.file != "" {
				line, where = strings.TrimSpace(line), fmt.Sprintf("%s line %d", a.file, i+1)
				if line == "" || line[0] == '#' {
					continue
				}
			}
			name, value, err := parseHeader(where, line)
			if err != nil {
				return nil, nil, err
			}
			if n >= len(o.args)-o.locked {
				maps.DeleteFunc(typed, func(other, _ string) bool { return strings.EqualFold(other, name) })
			}
			typed[name] = value
		}
	}
	for _, name := range slices.Sorted(maps.Keys(typed)) {
		value, err := expand("the header "+name, typed[name], o.getenv)
		if err == nil {
			value, err = oneLine(name, value)
		}
		if err != nil {
			return nil, nil, err
		}
		header.Add(name, value)
	}
	return header, typed, nil
}

const headersTaken = "host content-length content-encoding accept-encoding connection keep-alive transfer-encoding te trailer upgrade " +
	"expect last-event-id mcp-session-id mcp-protocol-version mcp-method mcp-name " +
	"idempotency-key x-idempotency-key" // net/http takes them for leave to send a call twice

// parseHeader takes a line apart. Errors name where it stands and never repeat it.
func parseHeader(where, line string) (name, value string, err error) {
	name, value, ok := strings.Cut(line, ":")
	if !ok || !consists(name, digitsAndLetters+"_-") || strings.ContainsAny(value, "\r\n\u2028\u2029") {
		return "", "", &usageError{where + " is not a header on one line", "write it as 'Name: value'"}
	}
	lower := strings.ToLower(name)
	if slices.Contains(strings.Fields(headersTaken), lower) || strings.HasPrefix(lower, "proxy-") || strings.HasPrefix(lower, "mcp-param-") {
		return "", "", &usageError{where + " sets " + name + ", which the bridge or HTTP itself must set", "leave it out"}
	}
	return name, strings.TrimLeft(value, " \t"), nil
}

// oneLine is value without the spaces around it, if nothing in it could end a line.
func oneLine(name, value string) (string, error) {
	value = strings.TrimSpace(value)
	if strings.ContainsFunc(value, func(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f }) {
		return "", &usageError{"the header " + name + " has a line break or control character in its value", "give it as one line"}
	}
	return value, nil
}

// expand replaces each ${NAME} in s. A variable that is not set is an error: the text itself is never sent.
func expand(where, s string, getenv func(string) (string, bool)) (string, error) {
	var b strings.Builder
	for {
		before, rest, _ := strings.Cut(s, "${")
		name, after, closed := strings.Cut(rest, "}")
		b.WriteString(before)
		if !closed {
			return b.String() + s[len(before):], nil
		}
		value, set := "${}", true
		if name != "" {
			value, set = getenv(name)
		}
		if !set {
			return "", &usageError{where + " needs the variable " + clean(name) + ", which is not set", "set it in the environment of the client, or in env of its configuration"}
		}
		b.WriteString(value)
		s = after
	}
}

// run adds what the command prints to header. life is its Expires-In line, 0 if there is none.
func (s *headerSource) run(ctx context.Context, header http.Header) (life time.Duration, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, commandLimit, fmt.Errorf("it did not end within %v", commandLimit))
	defer cancel()
	cmd := exec.CommandContext(ctx, s.o.command)
	cmd.WaitDelay = time.Second
	var out output
	cmd.Stdout = &out
	if err = cmd.Run(); err != nil {
		return 0, fmt.Errorf("running --header-command: %w", cmp.Or(context.Cause(ctx), err))
	}
	for line := range strings.Lines(string(out.text)) {
		if line = strings.TrimSpace(line); line == "" {
			continue
		}
		name, value, err := parseHeader("the output of --header-command", line)
		if err != nil {
			return 0, err
		}
		if strings.EqualFold(name, "Expires-In") {
			seconds, err := strconv.ParseUint(value, 10, 31)
			if err != nil {
				return 0, errors.New("the Expires-In of --header-command is no number of seconds")
			}
			life = time.Duration(seconds) * time.Second
			continue
		}
		if value, err = oneLine(name, value); err != nil {
			return 0, err
		}
		header.Set(name, value)
	}
	return life, nil
}

// output holds what the command prints, up to its bound.
type output struct{ text []byte }

func (o *output) Write(p []byte) (int, error) {
	if len(o.text)+len(p) > commandOutput {
		return 0, fmt.Errorf("more than %d bytes of output", commandOutput)
	}
	o.text = append(o.text, p...)
	return len(p), nil
}

const maxFile = 1 << 20 // bytes of a file that a flag names

// load reads a file that a person named. The mark that editors on Windows put before UTF-8 is no part of it.
func load(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err == nil && len(data) > maxFile {
		err = fmt.Errorf("%s is larger than %d bytes", path, maxFile)
	}
	return bytes.TrimPrefix(data, []byte("\uFEFF")), err
}
