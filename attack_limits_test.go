package main

// attack_limits_test.go meets each limit of SECURITY.md that a stranger can meet, at its value and one past it.

import (
	"bytes"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// calls is a hostile server that answers calls with h, and has no stream of its own.
func calls(t *testing.T, h func(w http.ResponseWriter, id string)) string {
	t.Helper()
	return hostile(t, func(w http.ResponseWriter, r *http.Request, method, id string) {
		if r.Method == http.MethodGet {
			w.WriteHeader(http.StatusMethodNotAllowed)
			return
		}
		h(w, id)
	})
}

// verbatim answers with text as it stands, headers and all, and with nothing that net/http adds.
func verbatim(w http.ResponseWriter, text string) {
	c, _, err := http.NewResponseController(w).Hijack()
	if err == nil {
		io.WriteString(c, text)
		c.Close()
	}
}

// fill is a message of exactly n bytes; format has the id, and a text that is filled up.
func fill(format, id string, n int) string {
	return fmt.Sprintf(format, id, strings.Repeat("a", n-len(fmt.Sprintf(format, id, ""))))
}

// At its value a limit lets through, one past it it does not.
func TestAttackLimits(t *testing.T) {
	env := shipped(t)
	const most = 64 << 10
	const result = `{"jsonrpc":"2.0","id":%s,"result":{"t":"%s"}}`
	// tried makes one call of a server that answers with h; what has to be refused has to be refused so.
	tried := func(refused string, h func(w http.ResponseWriter, id string, over int)) func(t *testing.T, over int) bool {
		return func(t *testing.T, over int) bool {
			url := calls(t, func(w http.ResponseWriter, id string) { h(w, id, over) })
			v := attack(t, env, url, "--silent", "--no-auto-reconnect", "--max-message-size", strconv.Itoa(most))
			v.hello()
			got := v.ask("tools/call", `{"name":"x"}`)
			if !strings.Contains(got, `"result"`) && !strings.Contains(got, refused) {
				t.Errorf("answered %.300s", got)
			}
			return strings.Contains(got, `"result"`)
		}
	}
	// head is a response whose header block, from the status line to the empty line, has maxHeaders bytes and as many
	// as are over. What net/http counts of HTTP/1 is what it reads before it has the whole block, and it reads no
	// further than the limit: the block may have exactly so many bytes, whatever comes behind it.
	head := func(w http.ResponseWriter, id string, over int, fields func(room int) string) {
		body := fmt.Sprintf(okResult, id)
		begin := fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n", len(body))
		verbatim(w, begin+fields(maxHeaders+over-len(begin)-len("\r\n"))+"\r\n"+body)
	}
	for name, through := range map[string]func(t *testing.T, over int) bool{
		"message, as JSON": tried("-31006", func(w http.ResponseWriter, id string, over int) {
			w.Header().Set("Content-Type", jsonType)
			io.WriteString(w, fill(result, id, most+over))
		}),
		"message, as JSON of a length that is not said": tried("-31006", func(w http.ResponseWriter, id string, over int) {
			w.Header().Set("Content-Type", jsonType)
			text := fill(result, id, most+over)
			io.WriteString(w, text[:17])
			w.(http.Flusher).Flush()
			io.WriteString(w, text[17:])
		}),
		"message, as an event": tried("-31006", func(w http.ResponseWriter, id string, over int) {
			w.Header().Set("Content-Type", eventStream)
			io.WriteString(w, "data: "+fill(result, id, most+over)+"\n\n")
		}),
		"message, as an event of two lines": tried("-31006", func(w http.ResponseWriter, id string, over int) {
			w.Header().Set("Content-Type", eventStream)
			text := fill(result, id, most+over-1) // the line feed between them counts
			io.WriteString(w, "data: "+text[:17]+"\ndata: "+text[17:]+"\n\n")
		}),
		"message, as a line of the client": func(t *testing.T, over int) bool {
			v := attack(t, env, calls(t, func(w http.ResponseWriter, id string) { fmt.Fprintf(w, okResult, id) }), "--silent", "--max-message-size", strconv.Itoa(most))
			v.hello()
			v.say(fill(`{"jsonrpc":"2.0","id":%s,"method":"tools/list","params":{"t":"%s"}}`, "9", most+over))
			if over == 0 {
				return strings.Contains(v.answer("9"), `"result"`)
			}
			for line := range v.lines {
				if strings.Contains(line, `"error"`) {
					return !strings.Contains(line, "-31006")
				}
			}
			return true
		},
		"header": tried("-31002", func(w http.ResponseWriter, id string, over int) {
			head(w, id, over, func(room int) string { return "X: " + strings.Repeat("h", room-len("X: \r\n")) + "\r\n" })
		}),
		"header count": tried("-31002", func(w http.ResponseWriter, id string, over int) {
			head(w, id, over, func(room int) string { // X1000: and so on, of eight bytes: as many as there is room for
				var fields strings.Builder
				for n := 0; room-fields.Len() >= 16; n++ {
					fmt.Fprintf(&fields, "X%04d:\r\n", n)
				}
				return fields.String() + "Y:" + strings.Repeat("h", room-fields.Len()-len("Y:\r\n")) + "\r\n"
			})
		}),
		"headers, those of interim answers included": tried("-31002", func(w http.ResponseWriter, id string, over int) {
			const hints = "HTTP/1.1 103 Early Hints\r\n\r\n"
			body := fmt.Sprintf(okResult, id)
			begin := strings.Repeat(hints, 1000) + fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n", len(body))
			verbatim(w, begin+"X: "+strings.Repeat("h", maxHeaders+over-len(begin)-len("X: \r\n\r\n"))+"\r\n\r\n"+body)
		}),
		"headers, of HTTP/2": func(t *testing.T, over int) bool { return overHTTP2(t, env, over, 1) },
		"header count, of HTTP/2": func(t *testing.T, over int) bool {
			return overHTTP2(t, env, over, (maxHeaders-1000)/(32+len("x0000")))
		},
		"metadata of the resource": func(t *testing.T, over int) bool {
			return padded(t, env, func(w *signInWorld) {
				doc := map[string]any{"resource": w.server.url, "authorization_servers": []string{w.as.issuer}, "x": ""}
				doc["x"] = strings.Repeat("x", maxMetadata+over-len(fakeJSON(doc))-len("\n"))
				w.server.metadata = doc
			})
		},
		"metadata of the authorization server": func(t *testing.T, over int) bool {
			return padded(t, env, func(w *signInWorld) {
				doc := fakeJSON(w.as.document())
				w.as.always[w.as.wellKnown] = func(rw http.ResponseWriter, r *http.Request) {
					answerWith(200, jsonType, string(doc)+strings.Repeat(" ", maxMetadata+over-len(doc)))(rw, r, fakeRequest{})
				}
			})
		},
		"answer that holds a token": func(t *testing.T, over int) bool {
			return padded(t, env, func(w *signInWorld) {
				const doc = `{"access_token":"planted-pad","token_type":"Bearer"}`
				w.as.tokens["planted-pad"] = &fakeToken{issued: time.Now()}
				w.as.always["/token"] = func(rw http.ResponseWriter, r *http.Request) {
					answerWith(200, jsonType, doc+strings.Repeat(" ", maxMetadata+over-len(doc)))(rw, r, fakeRequest{})
				}
			})
		},
		"error answer that is looked at": func(t *testing.T, over int) bool {
			v := attack(t, env, calls(t, func(w http.ResponseWriter, id string) {
				w.Header().Set("Content-Type", jsonType)
				w.WriteHeader(http.StatusBadRequest)
				io.WriteString(w, fill(`{"jsonrpc":"2.0","id":%s,"error":{"code":-32000,"message":"%s"}}`, id, maxErrorBody+over))
			}), "--silent")
			v.hello()
			got := v.ask("tools/call", `{"name":"x"}`)
			if over > 0 && !strings.Contains(got, "-31004") {
				t.Errorf("answered %.300s", got)
			}
			return strings.Contains(got, "-32000")
		},
		"nesting, of the server": tried("-31002", func(w http.ResponseWriter, id string, over int) {
			deep := maxDepth - 1 + over // the message is one
			w.Header().Set("Content-Type", jsonType)
			fmt.Fprintf(w, `{"jsonrpc":"2.0","id":%s,"result":%s%s}`, id, strings.Repeat("[", deep), strings.Repeat("]", deep))
		}),
		"nesting, of the client": func(t *testing.T, over int) bool {
			v := attack(t, env, calls(t, func(w http.ResponseWriter, id string) { fmt.Fprintf(w, okResult, id) }), "--silent")
			v.hello()
			deep := maxDepth - 1 + over
			return strings.Contains(v.ask("tools/list", strings.Repeat("[", deep)+strings.Repeat("]", deep)), `"result"`)
		},
		"event id": func(t *testing.T, over int) bool { // one that is too long is no place to go on from
			id := strings.Repeat("i", maxField+over)
			url := hostile(t, func(w http.ResponseWriter, r *http.Request, method, call string) {
				switch {
				case r.Method != http.MethodGet:
					w.Header().Set("Content-Type", eventStream)
					fmt.Fprintf(w, "id: %s\nretry: 1\ndata: "+noteLine+"\n\n", id, "x")
				case r.Header.Get("Last-Event-ID") == "":
					w.WriteHeader(http.StatusMethodNotAllowed)
				default:
					if r.Header.Get("Last-Event-ID") != id {
						t.Errorf("resumed after %.30s", r.Header.Get("Last-Event-ID"))
					}
					w.Header().Set("Content-Type", eventStream)
					fmt.Fprintf(w, "data: "+okResult+"\n\n", "2")
				}
			})
			v := attack(t, env, url, "--silent")
			v.hello()
			got := v.ask("tools/call", `{"name":"x"}`)
			if over > 0 && !strings.Contains(got, "-31002") {
				t.Errorf("answered %.300s", got)
			}
			return strings.Contains(got, `"result"`)
		},
		"queue of held calls": func(t *testing.T, over int) bool {
			// The last line tells at once what is wrong with it, if there is room to read it beside what is held.
			last := `{"jsonrpc":"2.0","id":"last"}`
			hold := []string{"10m", "1s"}[over]
			v := attack(t, env, "http://127.0.0.1:1/mcp", "--silent", "--hold-timeout", hold, "--max-retries", "-1",
				"--max-message-size", strconv.Itoa(most), "--max-memory", strconv.Itoa(most))
			lines, room := "", most+over-len(last)
			for i := 0; room > 0; i++ {
				n := min(room, 8<<10)
				if room-n < 100 { // too little for one more
					n = room
				}
				lines += fill(`{"jsonrpc":"2.0","id":%s,"method":"tools/call","params":{"name":"x","arguments":{"t":"%s"}}}`, strconv.Itoa(i), n) + "\n"
				room -= n
			}
			v.say(lines + last)
			late := time.AfterFunc(hung, func() { v.cmd.Process.Kill() })
			defer late.Stop()
			first, ok := <-v.lines
			if !ok {
				t.Error("what is held is never answered")
			}
			return strings.Contains(first, `"id":"last"`)
		},
		"queue of questions": func(t *testing.T, over int) bool {
			v := attack(t, env, calls(t, func(w http.ResponseWriter, id string) {
				w.Header().Set("Content-Type", eventStream)
				for i := range maxAsked + over {
					fmt.Fprintf(w, "data: {\"jsonrpc\":\"2.0\",\"id\":%d,\"method\":\"ping\"}\n\n", i)
				}
				fmt.Fprintf(w, "data: "+okResult+"\n\n", id)
			}), "--silent")
			v.hello()
			v.say(`{"jsonrpc":"2.0","id":"q","method":"tools/call","params":{"name":"x"}}`)
			asked := 0
			for line := range v.lines {
				if strings.Contains(line, `"result"`) {
					break
				}
				asked++
			}
			if asked != maxAsked {
				t.Errorf("%d questions came through", asked)
			}
			return asked == maxAsked+over
		},
		"log file": func(t *testing.T, over int) bool {
			size, moved := logged(t, env, over)
			if want := []int64{maxLog, maxLog + 1}[over]; size != want {
				t.Errorf("the log would have had %d bytes, want %d", size, want)
			}
			return !moved
		},
		"text of others in a record": func(t *testing.T, over int) bool {
			dir, args := records(t)
			v := attack(t, env, append(args, calls(t, func(w http.ResponseWriter, id string) { fmt.Fprintf(w, okResult, id) }))...)
			v.hello()
			name := strings.Repeat("n", maxText+over)
			v.ask("tools/call", fmt.Sprintf(`{"name":%q}`, name))
			v.end()
			audit, err := os.ReadFile(filepath.Join(dir, "audit"))
			if err != nil || !bytes.Contains(audit, []byte(name[:maxText])) {
				t.Errorf("recorded %s, %v", audit, err)
			}
			return bytes.Contains(audit, []byte(`"`+name+`"`))
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if !through(t, 0) {
				t.Error("it does not let through what has its value")
			}
			if through(t, 1) {
				t.Error("it lets through what is one past it")
			}
		})
	}
}

// overHTTP2 makes a call whose answer has as large a header list as it may have, and as many bytes as are over, in so
// many fields and a few. What is counted there is names and values, not compressed, and 32 bytes for each field (RFC
// 9113, 6.5.2); net/http allows ten fields' 32 bytes beyond what is allowed of HTTP/1.
func overHTTP2(t *testing.T, env []string, over, fields int) bool {
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		m, _ := scan(body)
		if r.ProtoMajor != 2 {
			t.Errorf("asked by %s", r.Proto)
		}
		h := w.Header()
		h.Set("Content-Type", jsonType)
		switch {
		case r.Method == http.MethodGet:
			w.WriteHeader(http.StatusMethodNotAllowed)
		case m.method == "initialize":
			fmt.Fprintf(w, `{"jsonrpc":"2.0","id":%s,"result":{"protocolVersion":"2025-11-25","capabilities":{},"serverInfo":{"name":"h","version":"1"}}}`, m.id)
		case m.kind == request:
			body := fmt.Sprintf(okResult, m.id)
			h["Date"] = nil
			h.Set("Content-Length", strconv.Itoa(len(body)))
			for n := range fields - 1 {
				h.Set(fmt.Sprintf("X%04d", n), "")
			}
			room := maxHeaders + 10*32 + over - len(":status"+"200") - 32 - len("y") - 32
			for name, values := range h {
				if values != nil {
					room -= len(name) + len(values[0]) + 32
				}
			}
			h.Set("Y", strings.Repeat("h", room))
			io.WriteString(w, body)
		default:
			w.WriteHeader(http.StatusAccepted)
		}
	}))
	s.EnableHTTP2 = true
	s.StartTLS()
	defer s.Close()
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	v := attack(t, env, s.URL+"/mcp", "--silent", "--no-auto-reconnect", "--ca-file", ca)
	v.hello()
	got := v.ask("tools/call", `{"name":"x"}`)
	if over > 0 && !strings.Contains(got, "-31002") {
		t.Errorf("answered %.300s", got)
	}
	v.end()
	return strings.Contains(got, `"result"`)
}

// padded signs in where make has made a document as large as it may be, and says whether a token came of it.
func padded(t *testing.T, env []string, change func(w *signInWorld)) bool {
	w := newWorld(t)
	w.as.clients["id"] = map[string]any{"client_secret": "planted-secret"}
	w.as.metadata["token_endpoint_auth_methods_supported"] = []string{"client_secret_basic"}
	change(w)
	v := attack(t, env, "--client-credentials", "--static-oauth-client-info", `{"client_id":"id","client_secret":"planted-secret"}`, w.server.url, "--no-browser")
	got := v.ask("initialize", victimHello)
	w.server.mu.Lock()
	defer w.server.mu.Unlock()
	shown := strings.Join(w.server.bearers, "") != ""
	if shown == strings.Contains(got, "-31003") {
		t.Errorf("shown are the tokens %q, and the answer is %.300s", w.server.bearers, got)
	}
	return shown
}

// logged has a log of which the first new line makes maxLog bytes, and as many as are over. It returns what that is, and
// whether the old lines have been moved away.
func logged(t *testing.T, env []string, over int) (size int64, moved bool) {
	url := calls(t, func(w http.ResponseWriter, id string) { fmt.Fprintf(w, okResult, id) })
	program, _ := strings.CutPrefix(env[0], "PROGRAM=")
	line := 0 // bytes of the first line without the process id, which is known before the program starts
	for _, first := range []bool{true, false} {
		log := filepath.Join(t.TempDir(), "log")
		v := attack(t, []string{"PROGRAM=/bin/sh"}, "-c", `read go; exec "$@"`, "sh", program, url, "--log-file", log)
		pid := len(strconv.Itoa(v.cmd.Process.Pid))
		var before int64
		if !first {
			before = int64(maxLog - line - pid + over)
			if err := os.WriteFile(log, bytes.Repeat([]byte("\n"), int(before)), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		v.say("go")
		v.hello()
		v.end()
		data, err := os.ReadFile(log)
		if err != nil {
			t.Fatal(err)
		}
		told, _, _ := bytes.Cut(bytes.TrimLeft(data, "\n"), []byte("\n"))
		if line = len(told) + 1 - pid; first {
			continue
		}
		old, err := os.ReadFile(log + ".1")
		size, moved = before+int64(line+pid), err == nil
		if moved && int64(len(old)) != before || !moved && !bytes.HasPrefix(data, bytes.Repeat([]byte("\n"), int(before))) {
			t.Errorf("of %d bytes there are %d in the old log and %d in the new one", before, len(old), len(data))
		}
	}
	return size, moved
}

// So many redirects in a row are followed, and no more: on the MCP server's own origin by each exchange of each transport,
// and on the way to a metadata document.
func TestAttackRedirectsInARow(t *testing.T) {
	env := shipped(t)
	hops := func(r *http.Request) int { n, _ := strconv.Atoi(r.URL.Query().Get("hop")); return n }
	further := func(w http.ResponseWriter, r *http.Request) {
		u := *r.URL
		q := u.Query()
		q.Set("hop", strconv.Itoa(hops(r)+1))
		u.RawQuery = q.Encode()
		w.Header().Set("Location", u.RequestURI())
		w.WriteHeader([]int{http.StatusTemporaryRedirect, http.StatusPermanentRedirect}[hops(r)%2])
	}
	for name, s := range map[string]func() *fakeServer{
		"JSON":          func() *fakeServer { return &fakeServer{} },
		"event streams": func() *fakeServer { return &fakeServer{streams: true, ids: true} },
		"HTTP+SSE":      func() *fakeServer { return &fakeServer{kind: fakeSSE} },
		"2026-07-28":    func() *fakeServer { return &fakeServer{kind: fakeStateless, streams: true} },
	} {
		for _, c := range []struct {
			over    int
			calling bool // what is posted once the line stands, instead of everything from the start
		}{{0, false}, {0, true}, {1, false}, {1, true}} {
			over, calling := c.over, c.calling
			t.Run(fmt.Sprintf("%s %+d %v", name, over, calling), func(t *testing.T) {
				t.Parallel()
				s := s()
				s.start(t, onLoopback(t))
				var mu sync.Mutex
				asked, on := map[string]int{}, !calling
				front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					mu.Lock()
					away := on && !(calling && r.Method == http.MethodGet) && hops(r) < maxRedirects+over
					if on {
						asked[fmt.Sprintf("%s at hop %d", r.Method, hops(r))]++
					}
					mu.Unlock()
					if away {
						further(w, r)
					} else {
						s.ServeHTTP(w, r)
					}
				}))
				t.Cleanup(func() { front.CloseClientConnections(); front.Close() })
				transport := "http-only"
				if s.kind == fakeSSE {
					transport = "sse-only"
				}
				v := attack(t, env, front.URL+"/mcp", "--silent", "--no-auto-reconnect", "--transport", transport)
				got := v.ask("initialize", victimHello)
				if over == 0 || calling {
					v.say(`{"jsonrpc":"2.0","method":"notifications/initialized"}`)
					v.ask("tools/list", "{}")
					mu.Lock()
					on = true
					mu.Unlock()
					got = v.ask("tools/call", `{"name":"add","arguments":{"key":"k"}}`)
				}
				if over == 0 && !strings.Contains(got, `"result"`) || over > 0 && !strings.Contains(got, "-31004") || s.runs("k") != 1-over {
					t.Errorf("answered %.300s, and run %d times", got, s.runs("k"))
				}
				v.end()
				mu.Lock()
				defer mu.Unlock()
				method := http.MethodPost
				if s.kind == fakeSSE && !calling {
					method = http.MethodGet
				}
				if asked[fmt.Sprintf("%s at hop %d", method, maxRedirects)] == 0 {
					t.Errorf("the last hop was not followed: %v", asked)
				}
				for what := range asked {
					if strings.HasSuffix(what, fmt.Sprint(maxRedirects+1)) {
						t.Errorf("followed too far: %v", asked)
					}
				}
			})
		}
	}
	for _, over := range []int{0, 1} {
		t.Run(fmt.Sprintf("metadata %+d", over), func(t *testing.T) {
			last := 0
			got := padded(t, env, func(w *signInWorld) {
				doc := w.as.document()
				w.as.always[w.as.wellKnown] = func(rw http.ResponseWriter, r *http.Request) {
					if last = hops(r); last < maxRedirects+over {
						further(rw, r)
					} else {
						writeJSON(rw, http.StatusOK, doc)
					}
				}
			})
			if got != (over == 0) || last != maxRedirects {
				t.Errorf("signed in: %v, at hop %d", got, last)
			}
		})
	}
}
