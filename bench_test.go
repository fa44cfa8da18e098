package main

// bench_test.go measures the bridge against the floor: a naive copier (testdata/naive) that does nothing but
// copy. Both are real processes in front of the same server, measured in turn within one round, and what is
// reported is the median of the rounds' ratios ("x-"), next to the medians of either side.
//
//	go test -run '^$' -bench Bridge [-short] [-benchtime 10x]
//
// Nothing here passes or fails by time; but the id and the content of every answer are checked. With
// REDIAL_BENCH_PROFILE=FILE the bridge is this very binary, and its last process leaves a CPU profile.

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"runtime/pprof"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// A bench is what all rows share.
type bench struct {
	dir     string
	server  string // its address
	orders  string // where it takes orders
	table   strings.Builder
	pattern []byte // the longest text
}

// A peer is a bridge, or the naive copier, in front of the server.
type peer struct {
	b      testing.TB
	x      *bench
	naive  bool
	kind   string // json, events, sse
	cmd    *exec.Cmd
	in     io.WriteCloser
	out    *os.File
	r      *bufio.Reader
	nextID int
	buf    []byte
}

// sample is what one side did in one round, by unit: us (microseconds), /s, MiB, cpu-ms (per 1,000 calls).
type sample map[string]float64

// A benchRow is one row of the table.
type benchRow struct {
	name  string
	goal  string
	kinds string // "" is all
	unit  string // whose ratio counts
	fresh bool   // each round has processes of its own
	run   func(p *peer) sample
}

func benchRows() []benchRow {
	calls := 400
	if testing.Short() {
		calls = 150
	}
	return []benchRow{
		{name: "startup", goal: "<= 1.3", unit: "us", fresh: true, run: func(p *peer) sample { return sample{} }},
		{name: "tiny", goal: "<= 1.15", unit: "us", run: func(p *peer) sample { return p.sequential("echo", 16, calls) }},
		{name: "64KiB", goal: "<= 1.05", unit: "us", run: func(p *peer) sample { return p.sequential("echo", 64<<10, calls/2) }},
		{name: "inflight32", goal: "/s >= 0.95, cpu <= 1.1", unit: "/s", run: func(p *peer) sample { return p.crowd(32, calls*10) }},
		{name: "result16MiB", goal: ">= 1.0, peak <= 40 MiB", unit: "/s", fresh: true, run: func(p *peer) sample { return p.bulk("echo", 16<<20, 3) }},
		{name: "results1MiBx100", goal: ">= 1.0", unit: "/s", run: func(p *peer) sample { return p.bulk("echo", 1<<20, 100) }},
		{name: "args1MiB", goal: ">= 1.0", unit: "/s", run: func(p *peer) sample { return p.bulk("take", 1<<20, 30) }},
		{name: "args16MiB", goal: ">= 1.0", unit: "/s", fresh: true, run: func(p *peer) sample { return p.bulk("take", 16<<20, 3) }},
		{name: "notifications", goal: ">= 200000/s, cpu <= 1 ms", unit: "/s", kinds: "events sse", run: func(p *peer) sample { return p.flood(100_000, 0) }},
		{name: "paused", goal: "peak <= 16 MiB", unit: "peak-MiB", kinds: "events sse", fresh: true, run: func(p *peer) sample { return p.flood(400_000, 2*time.Second) }},
		{name: "held1", unit: "us", fresh: true, run: func(p *peer) sample { return p.held(1) }},
		{name: "held10", unit: "us", fresh: true, run: func(p *peer) sample { return p.held(10) }},
		{name: "held100", unit: "us", fresh: true, run: func(p *peer) sample { return p.held(100) }},
		{name: "held1000", goal: "<= 1.3, rss <= 64 MiB", unit: "us", fresh: true, run: func(p *peer) sample { return p.held(1000) }},
		{name: "idle50", goal: "rss <= 10 MiB, pss <= 2 MiB", unit: "rss-MiB", kinds: "json sse", fresh: true, run: func(p *peer) sample { return p.idle(50) }},
		{name: "cut", unit: "answered", fresh: true, run: func(p *peer) sample { return p.recovers("/cut") }},
		{name: "stale", unit: "answered", fresh: true, run: func(p *peer) sample { return p.recovers("/stale") }},
		{name: "restart", unit: "answered", fresh: true, run: func(p *peer) sample { return p.recovers("/restart") }},
		{name: "down300ms", unit: "answered", fresh: true, run: func(p *peer) sample { return p.recovers("/restart?n=300") }},
	}
}

func BenchmarkBridge(b *testing.B) {
	x := newBench(b)
	if info, err := os.Stat(x.binary(false)); err == nil {
		fmt.Fprintf(&x.table, "%-24s %-26s %.2f MiB\n", "stripped binary", "<= 8 MiB", float64(info.Size())/(1<<20))
	}
	for _, kind := range []string{"json", "events", "sse"} {
		b.Run(kind, func(b *testing.B) {
			for _, row := range benchRows() {
				if row.kinds == "" || slices.Contains(strings.Fields(row.kinds), kind) {
					b.Run(row.name, func(b *testing.B) { x.measure(b, kind, row) })
				}
			}
		})
	}
	fmt.Printf("\nA row is the median of the rounds: ratio to naive, the bridge, naive.\n%s\n", x.table.String())
}

// newBench builds both programs and starts the server.
func newBench(b *testing.B) *bench {
	x := &bench{dir: b.TempDir(), pattern: benchText(16 << 20)}
	for path, naive := range map[string]bool{".": false, "./testdata/naive": true} {
		build := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", x.binary(naive), path)
		build.Env = append(os.Environ(), "CGO_ENABLED=0") // as it is released
		if text, err := build.CombinedOutput(); err != nil {
			b.Fatalf("building %s: %v\n%s", path, err, text)
		}
	}
	server := exec.Command(os.Args[0], "-test.run=^TestBenchServer$")
	server.Env = append(os.Environ(), "REDIAL_BENCH_SERVER=1")
	server.Stderr = os.Stderr
	stdin, _ := server.StdinPipe()
	stdout, _ := server.StdoutPipe()
	if err := server.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { stdin.Close(); server.Process.Kill(); server.Wait() })
	if _, err := fmt.Fscan(stdout, &x.server, &x.orders); err != nil {
		b.Fatalf("starting the server: %v", err)
	}
	return x
}

func (x *bench) binary(naive bool) string {
	name := map[bool]string{false: "mcp-redial", true: "naive"}[naive]
	if runtime.GOOS == "windows" {
		name += ".exe"
	}
	return filepath.Join(x.dir, name)
}

// order tells the server what to do, and returns what it says.
func (x *bench) order(b testing.TB, path string) string {
	resp, err := http.Get("http://" + x.orders + path)
	if err != nil {
		b.Fatal(err)
	}
	defer resp.Body.Close()
	text, _ := io.ReadAll(resp.Body)
	return string(text)
}

// measure runs one row and reports it.
func (x *bench) measure(b *testing.B, kind string, row benchRow) {
	samples := map[bool][]sample{}
	peers := map[bool]*peer{}
	sides := []bool{false, true}
	round := func(keep bool) {
		for _, naive := range sides {
			p := peers[naive]
			began := time.Now()
			if p == nil {
				p = x.dial(b, kind, naive)
				peers[naive] = p
			}
			up := time.Since(began)
			if !row.fresh && !keep {
				p.sequential("echo", 16, 100)
			}
			s := row.run(p)
			if row.name == "startup" {
				s["us"] = micro(up)
			}
			if row.fresh {
				p.hangup()
				delete(peers, naive)
			}
			if keep {
				samples[naive] = append(samples[naive], s)
			}
		}
		slices.Reverse(sides)
	}
	if !row.fresh {
		round(false)
	}
	for b.Loop() {
		round(true)
	}
	for _, p := range peers {
		p.hangup()
	}
	b.ReportMetric(0, "ns/op")
	var text strings.Builder
	for _, unit := range units(samples[false]) {
		ours, floors, ratios := []float64{}, []float64{}, []float64{}
		for i, s := range samples[false] {
			ours = append(ours, s[unit])
			if i < len(samples[true]) {
				floor := samples[true][i][unit]
				floors = append(floors, floor)
				if floor > 0 {
					ratios = append(ratios, s[unit]/floor)
				}
			}
		}
		b.ReportMetric(median(ours), unit)
		b.ReportMetric(median(floors), "naive-"+unit)
		if len(ratios) > 0 {
			b.ReportMetric(median(ratios), "x-"+unit)
		}
		mark := ""
		if unit == row.unit {
			mark = "*"
		}
		fmt.Fprintf(&text, "  %s%s %.2f (%.4g, %.4g)", mark, unit, median(ratios), median(ours), median(floors))
	}
	fmt.Fprintf(&x.table, "%-24s %-26s%s\n", kind+"/"+row.name, row.goal, text.String())
}

func units(s []sample) []string {
	if len(s) == 0 {
		return nil
	}
	var all []string
	for u := range s[0] {
		all = append(all, u)
	}
	slices.Sort(all)
	return all
}

func median(v []float64) float64 {
	if len(v) == 0 {
		return 0
	}
	v = slices.Sorted(slices.Values(v))
	return (v[(len(v)-1)/2] + v[len(v)/2]) / 2
}

func micro(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1e3 }

// dial starts a peer; it returns once initialize is answered.
func (x *bench) dial(b testing.TB, kind string, naive bool) *peer {
	p := x.start(b, kind, naive)
	p.greet()
	return p
}

func (x *bench) start(b testing.TB, kind string, naive bool) *peer {
	p := &peer{b: b, x: x, naive: naive, kind: kind}
	to := "http://" + x.server + "/" + kind
	switch {
	case naive && kind == "sse":
		p.cmd = exec.Command(x.binary(true), "sse", to)
	case naive:
		p.cmd = exec.Command(x.binary(true), "http", to)
	case kind == "sse":
		p.cmd = exec.Command(x.binary(false), to, "--transport", "sse-only")
	default:
		p.cmd = exec.Command(x.binary(false), to)
	}
	if os.Getenv("REDIAL_BENCH_PROFILE") != "" && !naive {
		p.cmd = exec.Command(os.Args[0], append([]string{"-test.run=^TestBenchProfile$", "--"}, p.cmd.Args[1:]...)...)
	}
	p.cmd.Env = append(os.Environ(), "MCP_REMOTE_CONFIG_DIR="+filepath.Join(x.dir, "config"))
	if !naive {
		p.cmd.Env = append(p.cmd.Env, strings.Fields(os.Getenv("REDIAL_BENCH_ENV"))...) // to try settings of the runtime
	}
	p.in, _ = p.cmd.StdinPipe()
	out, _ := p.cmd.StdoutPipe()
	p.out = out.(*os.File)
	p.r = bufio.NewReaderSize(p.out, 64<<10)
	if os.Getenv("REDIAL_BENCH_STDERR") != "" {
		p.cmd.Stderr = os.Stderr
	}
	if err := p.cmd.Start(); err != nil {
		b.Fatal(err)
	}
	return p
}

// greet says hello as clients do.
func (p *peer) greet() {
	p.say(`,"method":"initialize","params":{"protocolVersion":"2025-06-18","capabilities":{},"clientInfo":{"name":"bench","version":"1"}}}`)
	p.hear([]byte(benchHello))
}

// settle ends the handshake, and reads the list of tools as clients do.
func (p *peer) settle() {
	io.WriteString(p.in, `{"jsonrpc":"2.0","method":"notifications/initialized"}`+"\n")
	p.say(`,"method":"tools/list"}`)
	p.hear([]byte(benchTools))
}

func (p *peer) hangup() {
	p.in.Close()
	io.Copy(io.Discard, p.out)
	p.cmd.Wait()
}

// say writes a request with the next id; rest is what follows the id.
func (p *peer) say(rest ...string) int {
	p.nextID++
	p.buf = strconv.AppendInt(append(p.buf[:0], `{"jsonrpc":"2.0","id":`...), int64(p.nextID), 10)
	for _, r := range rest {
		p.buf = append(p.buf, r...)
	}
	p.buf = append(p.buf, '\n')
	if _, err := p.in.Write(p.buf); err != nil {
		p.b.Fatalf("writing: %v", err)
	}
	return p.nextID
}

func (p *peer) call(tool string, n int) int {
	return p.say(`,"method":"tools/call","params":{"name":"`, tool, `","arguments":{"n":`, strconv.Itoa(n), `}}}`)
}

// hear reads an answer, whose end is known, and returns its id.
func (p *peer) hear(end []byte) int {
	id, err := p.listen(end)
	if err != nil {
		p.b.Fatalf("%s: %v", map[bool]string{false: "the bridge", true: "naive"}[p.naive], err)
	}
	return id
}

func (p *peer) listen(end []byte) (int, error) {
	p.out.SetReadDeadline(time.Now().Add(30 * time.Second))
	return p.listenOn(end)
}

func (p *peer) listenOn(end []byte) (int, error) {
	const head = `{"jsonrpc":"2.0","id":`
	part, err := p.r.ReadSlice('\n')
	for bytes.HasPrefix(part, []byte(`{"jsonrpc":"2.0","method":`)) { // news after a recovery
		part, err = p.r.ReadSlice('\n')
	}
	if err != nil && err != bufio.ErrBufferFull {
		return 0, fmt.Errorf("reading an answer: %w", err)
	}
	rest, ok := bytes.CutPrefix(part, []byte(head))
	i := bytes.IndexByte(rest, ',')
	if !ok || i < 0 {
		return 0, fmt.Errorf("no answer: %.300s", part)
	}
	id, idErr := strconv.Atoi(string(rest[:i]))
	rest = rest[i:]
	for at := 0; ; {
		last := err == nil
		if last {
			rest = rest[:len(rest)-1]
		}
		if idErr != nil || !bytes.HasPrefix(end[min(at, len(end)):], rest) || last && at+len(rest) != len(end) {
			return 0, fmt.Errorf("a wrong answer, at byte %d of %d: %.300s", at, len(end), rest)
		}
		if at += len(rest); last {
			return id, nil
		}
		if rest, err = p.r.ReadSlice('\n'); err != nil && err != bufio.ErrBufferFull {
			return 0, fmt.Errorf("reading an answer: %w", err)
		}
	}
}

// expect hears the answer to the call id.
func (p *peer) expect(id int, end []byte) {
	if got := p.hear(end); got != id {
		p.b.Fatalf("the answer to %d came instead of that to %d", got, id)
	}
}

func (p *peer) result(n int) []byte { return benchResult(p.x.pattern[:len(benchText(n))]) }

// sequential is the median time of a call.
func (p *peer) sequential(tool string, n, calls int) sample {
	if p.nextID == 1 {
		p.settle()
	}
	want := p.result(n)
	times := make([]float64, calls)
	cpu := p.cpu()
	for i := range times {
		began := time.Now()
		p.expect(p.call(tool, n), want)
		times[i] = micro(time.Since(began))
	}
	return sample{"us": median(times), "cpu-ms/1000": (p.cpu() - cpu) / float64(calls) * 1000}
}

// crowd keeps calls in flight.
func (p *peer) crowd(width, calls int) sample {
	want := p.result(16)
	open := map[int]bool{}
	cpu, began := p.cpu(), time.Now()
	for said := 0; said < calls || len(open) > 0; {
		for said < calls && len(open) < width {
			open[p.call("echo", 16)] = true
			said++
		}
		id := p.hear(want)
		if !open[id] {
			p.b.Fatalf("an answer to %d, which is not open", id)
		}
		delete(open, id)
	}
	took := time.Since(began)
	return sample{"/s": float64(calls) / took.Seconds(), "cpu-ms/1000": (p.cpu() - cpu) / float64(calls) * 1000}
}

// bulk is sequential calls with large results or arguments.
func (p *peer) bulk(tool string, n, calls int) sample {
	if p.nextID == 1 {
		p.settle()
	}
	var args string
	want := p.result(n)
	if tool == "take" {
		args = string(p.x.pattern[:n/64*64])
	}
	p.resetPeak()
	cpu := p.cpu()
	var took time.Duration
	for range calls {
		var id int
		began := time.Now()
		if tool == "take" {
			id = p.say(`,"method":"tools/call","params":{"name":"take","arguments":{"text":"`, args, `"}}}`)
			took += time.Since(began)
			sum := crc32.ChecksumIEEE(p.buf[:len(p.buf)-1])
			if p.naive {
				sum = crc32.ChecksumIEEE(p.buf) // it sends the end of the line, too
			}
			want = []byte(fmt.Sprintf(`,"result":{"content":[],"crc":%d}}`, sum))
			began = time.Now()
		} else {
			id = p.call(tool, n)
		}
		p.expect(id, want)
		took += time.Since(began)
	}
	return sample{"/s": float64(calls) / took.Seconds(), "peak-MiB": p.peak(), "cpu-ms/1000": (p.cpu() - cpu) / float64(calls) * 1000}
}

// flood takes n notifications as fast as they come, after not reading for a while.
func (p *peer) flood(n int, pause time.Duration) sample {
	if p.nextID == 1 {
		p.settle()
	}
	p.x.order(p.b, "/sent")
	p.resetPeak()
	cpu, began := p.cpu(), time.Now()
	id := p.call("flood", n)
	s := sample{}
	if pause > 0 {
		time.Sleep(pause)
		sent, _ := strconv.Atoi(p.x.order(p.b, "/sent"))
		s["pushed-MiB"] = float64(sent) / (1 << 20)
	}
	p.out.SetReadDeadline(time.Now().Add(time.Minute))
	var want []byte
	for i := range n {
		line, err := p.r.ReadSlice('\n')
		want = append(benchNote(want[:0], i), '\n')
		if err != nil || !bytes.Equal(line, want) {
			p.b.Fatalf("notification %d: %v, %.200s", i, err, line)
		}
	}
	took := time.Since(began)
	p.expect(id, p.result(0))
	s["peak-MiB"] = p.peak()
	if pause == 0 {
		s["/s"] = float64(n) / took.Seconds()
		s["cpu-ms/1000"] = (p.cpu() - cpu) / float64(n) * 1000
	}
	return s
}

// held is n calls that the server holds at once.
func (p *peer) held(n int) sample {
	if p.nextID == 1 {
		p.settle()
	}
	want := p.result(16)
	p.resetPeak()
	began := time.Now()
	open := map[int]bool{}
	for range n {
		open[p.call("hold", 16)] = true
	}
	p.x.order(p.b, "/held?n="+strconv.Itoa(n))
	took := time.Since(began)
	rss := p.memory("status", "VmRSS")
	began = time.Now()
	p.x.order(p.b, "/release")
	for range n {
		id := p.hear(want)
		if !open[id] {
			p.b.Fatalf("an answer to %d, which is not open", id)
		}
		delete(open, id)
	}
	return sample{"us": micro(took + time.Since(began)), "rss-MiB": rss, "peak-MiB": p.peak()}
}

// idle is what one of n idle processes holds, after a first call and a second of rest.
func (p *peer) idle(n int) sample {
	all := []*peer{p}
	for len(all) < n {
		all = append(all, p.x.dial(p.b, p.kind, p.naive))
	}
	for _, q := range all {
		q.sequential("echo", 16, 1)
	}
	time.Sleep(2 * time.Second)
	var rss, pss, cpu []float64
	for _, q := range all {
		cpu = append(cpu, -q.cpu())
	}
	time.Sleep(time.Second)
	for i, q := range all {
		rss = append(rss, q.memory("status", "VmRSS"))
		pss = append(pss, q.memory("smaps_rollup", "Pss"))
		cpu[i] += q.cpu()
	}
	for _, q := range all[1:] {
		q.hangup()
	}
	return sample{"rss-MiB": median(rss), "pss-MiB": median(pss), "cpu-ms/s": median(cpu)}
}

// recovers is the time of the next call after something has happened to the line, and whether it was
// answered at all.
func (p *peer) recovers(order string) sample {
	p.sequential("read", 16, 10)
	p.x.order(p.b, order)
	began := time.Now()
	id := p.call("read", 16)
	p.out.SetReadDeadline(time.Now().Add(10 * time.Second))
	if p.naive {
		p.out.SetReadDeadline(time.Now().Add(time.Second))
	}
	got, err := p.listenOn(p.result(16))
	if errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, io.EOF) {
		return sample{"answered": 0, "us": 0}
	}
	if err != nil || got != id {
		p.b.Fatalf("after %s: %v, answer to %d instead of %d", order, err, got, id)
	}
	return sample{"answered": 1, "us": micro(time.Since(began))}
}

// cpu is the milliseconds of processor time that p has used; 0 where that cannot be told.
func (p *peer) cpu() float64 {
	total := 0.0
	tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", p.cmd.Process.Pid))
	for _, t := range tasks {
		text, _ := os.ReadFile(t)
		if f := strings.Fields(string(text)); len(f) > 0 {
			ns, _ := strconv.ParseFloat(f[0], 64)
			total += ns / 1e6
		}
	}
	return total
}

// memory is a field of a file in /proc, in MiB.
func (p *peer) memory(file, field string) float64 {
	text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/%s", p.cmd.Process.Pid, file))
	for line := range strings.Lines(string(text)) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == field+":" {
			kb, _ := strconv.ParseFloat(f[1], 64)
			return kb / 1024
		}
	}
	return 0
}

func (p *peer) resetPeak() {
	_ = os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", p.cmd.Process.Pid), []byte("5"), 0)
}

func (p *peer) peak() float64 { return p.memory("status", "VmHWM") }

// TestBenchProfile is the bridge of a benchmark that wants a profile.
func TestBenchProfile(t *testing.T) {
	file := os.Getenv("REDIAL_BENCH_PROFILE")
	dash := slices.Index(os.Args, "--")
	if file == "" || dash < 0 {
		t.Skip("the benchmark runs this as its bridge")
	}
	f, err := os.Create(file)
	if err != nil {
		t.Fatal(err)
	}
	runtime.SetCPUProfileRate(1000)
	pprof.StartCPUProfile(f)
	code := command(os.Args[dash+1:], thisMachine(), os.Stdin, os.Stdout, os.Stderr)
	pprof.StopCPUProfile()
	f.Close()
	if heap, err := os.Create(file + ".heap"); err == nil {
		pprof.Lookup("allocs").WriteTo(heap, 0)
		heap.Close()
	}
	os.Exit(code)
}
