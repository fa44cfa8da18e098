package main

import (
	"encoding/json"
	goflag "flag"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

var chaosSeeds = goflag.Int("seeds", 24/slowdown, "how many seeds TestChaos plays")

// TestChaos plays calls, many at a time, against a server that cuts, resets, delays, refuses and forgets at
// random: each call is answered exactly once, no unsafe tool runs twice, and no byte of memory is kept.
func TestChaos(t *testing.T) {
	for seed := range *chaosSeeds {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) { chaos(t, rand.New(rand.NewPCG(uint64(seed), 1))) })
		})
	}
}

// chaos plays one seed. What the bridge does by chance differs from run to run.
func chaos(t *testing.T, r *rand.Rand) {
	n := newMemNet()
	s := []*fakeServer{
		{},
		{streams: true, ids: true},
		{streams: true, ids: true, polling: true, retry: 100 * time.Millisecond},
		{streams: true},
		{kind: fakeSSE},
		{kind: fakeStateless},
		{kind: fakeStateless, streams: true},
	}[r.IntN(7)]
	meta := "" // of a client of 2026-07-28
	s.lost = lostSign(r.IntN(3))
	s.start(t, n.listen("mcp.test:80"))
	h := newQuietHost(t, n, testOptions())
	if s.kind == fakeStateless && r.IntN(2) == 0 {
		meta = `,"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}`
		h.say(`{"jsonrpc":"2.0","id":0,"method":"server/discover","params":{"_meta":{` + meta[1:] + `}}}`)
		h.answer("0", time.Minute)
	} else {
		h.hello()
	}
	list := func(id string) { // what may be repeated has to be learnt, in each session anew
		h.say(fmt.Sprintf(`{"jsonrpc":"2.0","id":%q,"method":"tools/list","params":{"_meta":{"x":0%s}}}`, id, meta))
	}
	call := func(id, tool, args string) {
		h.say(fmt.Sprintf(`{"jsonrpc":"2.0","id":%s,"method":"tools/call","params":{"name":%q,"arguments":{%s},"_meta":{"progressToken":%s%s}}}`, id, tool, args, id, meta))
	}
	list("list")
	h.answer(`"list"`, time.Minute)

	asked := map[string]string{} // id token to tool
	answers := map[string][]string{}
	lists := 0
	take := func(wait time.Duration) bool {
		line := h.hear(wait)
		if line == "" {
			return false
		}
		var m struct {
			ID     json.RawMessage
			Method string
		}
		if err := json.Unmarshal([]byte(line), &m); err != nil {
			t.Fatalf("not JSON: %s", line)
		}
		switch m.Method {
		case "notifications/tools/list_changed":
			lists++
			list(fmt.Sprint("list-", lists))
		case "":
			answers[string(m.ID)] = append(answers[string(m.ID)], line)
		}
		return true
	}
	const calls = 400
	for i := range calls {
		id := fmt.Sprint(i + 1)
		if r.IntN(2) == 0 {
			id = fmt.Sprintf("%q", "c"+id)
		}
		tool := []string{"add", "look", "put", "echo", "slow", "progress"}[r.IntN(6)]
		asked[id] = tool
		call(id, tool, fmt.Sprintf(`"key":"k%d","text":"t","ms":%d,"steps":3`, i, r.IntN(2000)))
		if r.IntN(4) == 0 {
			mischief(r, n, s)
		}
		for take(time.Duration(r.IntN(300)) * time.Millisecond) {
		}
	}
	n.refuse(false)
	n.latency(0)
	n.breakNext(-1, -1)
	n.reset()
	s.heal()
	for range 40 {
		for take(30 * time.Second) {
		}
		if len(answers) >= calls+lists {
			break
		}
	}
	ok, unknown, others := 0, 0, map[string]int{}
	for id, tool := range asked {
		switch got := answers[id]; {
		case len(got) != 1:
			t.Errorf("call %s (%s) was answered %d times: %q", id, tool, len(got), got)
		case strings.Contains(got[0], `"result"`):
			ok++
		case strings.Contains(got[0], "-31002"):
			unknown++
		default:
			others[got[0][strings.Index(got[0], `"code"`)+7:][:6]]++
		}
	}
	if twice := s.twice(); len(twice) > 0 {
		t.Errorf("run twice: %v", twice)
	}
	call(`"last"`, "echo", `"text":"healthy again"`)
	if got := h.answer(`"last"`, time.Minute); !strings.Contains(got, "healthy again") {
		t.Errorf("after all that: %s", got)
	}
	h.in.Close()
	<-h.ended
	synctest.Wait()
	for range len(h.b.events) { // what came after the end
		for _, m := range (<-h.b.events).ms {
			h.b.mem.free(m.charge)
		}
	}
	if used := h.b.mem.used; used != 0 {
		t.Errorf("%d bytes of the memory budget were not returned", used)
	}
	t.Logf("%d answered, %d unknown, %v, %d reconnects, %d sessions", ok, unknown, others, h.b.reconnects, s.sessionsMade())
}

// mischief does one bad thing to the line.
func mischief(r *rand.Rand, n *memNet, s *fakeServer) {
	s.heal() // faults that found no victim do not add up to an outage
	switch r.IntN(11) {
	case 0:
		n.reset()
	case 1:
		n.fin()
	case 2:
		s.forget()
	case 3:
		s.restart()
	case 4:
		s.cut()
	case 5:
		s.end()
	case 6:
		n.breakNext(-1, 50+r.IntN(400))
	case 7:
		s.fail(fault{act: true})
	case 8:
		s.fail(fault{answer: answerStatus([]int{http.StatusServiceUnavailable, http.StatusBadGateway, http.StatusTooManyRequests}[r.IntN(3)], "Retry-After", "1")})
	case 9:
		n.refuse(true)
		time.AfterFunc(time.Duration(r.IntN(3000))*time.Millisecond, func() { n.refuse(false) })
	case 10:
		n.latency(time.Duration(r.IntN(200)) * time.Millisecond)
	}
}
