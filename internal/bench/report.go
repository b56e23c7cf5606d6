package main

import (
	"bufio"
	"cmp"
	"fmt"
	"io"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"time"
)

// A summary is what the rounds of one pair come to.
type summary struct {
	measurement              // medians
	ratio, low, high float64 // to the floor of the same round: median, smallest, largest
}

// summarize takes medians; ok is false if there is no good measurement.
func (r *results) summarize(workload, contender string) (s summary, ok bool) {
	if len(r.values(workload, contender, cost)) == 0 {
		return s, false
	}
	of := func(f field) float64 { return median(r.values(workload, contender, f)) }
	s.Nanos = of(func(m measurement) float64 { return m.Nanos })
	s.CPU = of(cpu)
	s.Allocs = of(allocations)
	s.P50 = of(func(m measurement) float64 { return m.P50 })
	s.P99 = of(p99)
	s.Memory = of(func(m measurement) float64 { return m.Memory })
	s.Stack = of(func(m measurement) float64 { return m.Stack })
	s.Goroutines = of(goroutines)
	s.Writes = math.NaN()
	if c, _ := contenderNamed(contender); systemCounts && !c.sends {
		s.Writes = of(func(m measurement) float64 { return m.Writes })
	}
	if ratios := r.versus(workload, contender, floorName, cost); len(ratios) > 0 {
		s.ratio, s.low, s.high = median(ratios), slices.Min(ratios), slices.Max(ratios)
	}
	return s, true
}

// systemCounts reports whether the system counts the write calls of a process.
var _, systemCounts = writeCalls()

// median is the middle one, or the upper of two.
func median[T cmp.Ordered](all []T) T {
	all = slices.Sorted(slices.Values(all))
	return all[len(all)/2]
}

// titles say what the workloads are.
var titles = map[string]string{
	"pingpong": "Ping-pong: one message, its answer, the next",
	"in":       "Stream in: the server sends as fast as it can",
	"out":      "Stream out: written in one go, flushed at the end",
	"both":     "Both directions at once: a stream and its echo",
	"send":     "Send: each returns when its message was written",
	"call":     "Call from many goroutines: request and reply",
	"work":     "Call from a few goroutines to a server that works 5 µs on each request",
	"conns":    "Many connections, ping-pong on each",
	"idle":     "Idle clients, after one round trip",
}

// writeTables writes one table for each workload.
func writeTables(out io.Writer, p *plan, r *results) {
	last := ""
	for _, w := range p.workloads {
		word, detail, _ := strings.Cut(w.name, "/")
		var rows []string
		for _, c := range p.contenders {
			if s, ok := r.summarize(w.name, c.name); ok {
				rows = append(rows, w.row(c, s))
			}
		}
		if len(rows) == 0 {
			continue
		}
		if word != last {
			fmt.Fprintf(out, "\n### %s\n", titles[word])
		}
		last = word
		fmt.Fprintf(out, "\n**%s**\n\n%s\n", detail, strings.Join(append(w.header(), rows...), "\n"))
	}
}

func (w workload) header() []string {
	switch {
	case w.work == nil:
		return []string{"| | KiB per client | of these stacks | goroutines |", "|---|--:|--:|--:|"}
	case w.latencies():
		return []string{
			"| | ns | × floor | least – most | client CPU ns | allocations | write calls | p50 µs | p99 µs |",
			"|---|--:|--:|--:|--:|--:|--:|--:|--:|",
		}
	}
	return []string{
		"| | ns | × floor | least – most | client CPU ns | allocations | write calls |",
		"|---|--:|--:|--:|--:|--:|--:|",
	}
}

// latencies reports whether each unit of work is timed.
func (w workload) latencies() bool { return w.one || w.calls }

func (w workload) row(c contender, s summary) string {
	name := c.name
	if name == oursContender.name {
		name = "**" + name + "**"
	}
	if w.work == nil {
		return fmt.Sprintf("| %s | %s | %s | %.0f |", name, number(s.Memory/1024), few(s.Stack/1024), s.Goroutines)
	}
	row := fmt.Sprintf("| %s | %s | %s | %s – %s | %s | %s | %s |", name,
		number(s.Nanos), number(s.ratio), number(s.low), number(s.high), number(s.CPU), few(s.Allocs), few(s.Writes))
	if !w.latencies() {
		return row
	}
	if c.family() == floorName && w.conc > 1 && w.calls {
		return row + " | |" // its time is that of a batch
	}
	return row + fmt.Sprintf(" %s | %s |", number(s.P50/1e3), number(s.P99/1e3))
}

// few writes a number that is often zero.
func few(x float64) string {
	switch {
	case math.IsNaN(x):
		return "–"
	case x < 0.0005:
		return "0"
	}
	return number(x)
}

// overview are the columns of the first table.
var overview = []struct{ title, workload string }{
	{"ping-pong", "pingpong/size=64"},
	{"stream in", "in/size=64"},
	{"stream out", "out/size=64"},
	{"Send ×64", "send/size=64/conc=64"},
	{"Send ×512", "send/size=64/conc=512"},
	{"Call ×64", "call/size=64/conc=64"},
	{"Call ×512", "call/size=64/conc=512"},
	{"idle, KiB", "idle/conns=1000"},
}

// meanings are the rows of the table that comes first.
var meanings = []struct{ title, workload string }{
	{"round trips, one after the other", "pingpong/size=64"},
	{"messages in, a stream", "in/size=64"},
	{"messages out, a stream", "out/size=64"},
	{"`Send` from 64 goroutines", "send/size=64/conc=64"},
	{"`Call` from 64 goroutines", "call/size=64/conc=64"},
	{"`Call` from 512 goroutines", "call/size=64/conc=512"},
}

// writeMeaning says in messages a second, microseconds and processor time what a program gets.
func writeMeaning(out io.Writer, r *results) {
	fmt.Fprint(out, `| | messages a second | beside naive | processor time each | beside naive | half within, 99 % within | naive |
|---|--:|--:|--:|--:|--:|--:|
`)
	var workloads []string
	for _, row := range meanings {
		ours, ok := r.summarize(row.workload, oursContender.name)
		naive, there := r.summarize(row.workload, naiveContender.name)
		if !ok || !there {
			continue
		}
		workloads = append(workloads, row.workload)
		within := func(s summary) string {
			if s.P50 == 0 {
				return ""
			}
			return fmt.Sprintf("%s, %s µs", number(s.P50/1e3), number(s.P99/1e3))
		}
		faster := median(r.versus(row.workload, naiveContender.name, oursContender.name, cost))
		fmt.Fprintf(out, "| %s | %s | × %s | %s ns | × %s | %s | %s |\n", row.title, thousands(int(1e9/ours.Nanos)), number(faster),
			number(ours.CPU), number(median(r.versus(row.workload, oursContender.name, naiveContender.name, cpu))), within(ours), within(naive))
	}
	fmt.Fprintf(out, "\n%s", r.noise(workloads))
}

func writeOverview(out io.Writer, p *plan, r *results) {
	fmt.Fprint(out, "|")
	for _, column := range overview {
		fmt.Fprintf(out, " | %s", column.title)
	}
	fmt.Fprint(out, " |\n|---|", strings.Repeat("--:|", len(overview)), "\n")
	for _, c := range p.contenders {
		name := c.name
		if name == oursContender.name {
			name = "**" + name + "**"
		}
		fmt.Fprintf(out, "| %s", name)
		for _, column := range overview {
			s, ok := r.summarize(column.workload, c.name)
			switch {
			case !ok:
				fmt.Fprint(out, " |")
			case s.Memory > 0:
				fmt.Fprintf(out, " | %s", number(s.Memory/1024))
			case c.name == floorName && s.Nanos >= 5e3:
				fmt.Fprintf(out, " | %s µs", number(s.Nanos/1e3))
			case c.name == floorName:
				fmt.Fprintf(out, " | %s ns", number(s.Nanos))
			default:
				fmt.Fprintf(out, " | %s", number(s.ratio))
			}
		}
		fmt.Fprintln(out, " |")
	}
	var workloads []string
	for _, column := range overview {
		workloads = append(workloads, column.workload)
	}
	fmt.Fprintf(out, "\n%s", r.noise(workloads))
}

// Why a contender may be ahead.
const (
	readsItself = "the caller reads the socket itself, alone, and cannot be interrupted"
	loopReads   = "its event loop reads, and wakes the caller: one switch of goroutines less"
	oneWriter   = "no lock and no context: one goroutine may write, and one may read"
	cProgram    = "its server is a C program"
	givesBack   = "no contexts, deadlines and limits to look after, and 13 KiB of each client's own, where here buffers are taken and given back with each message"
	nothingMore = "no contexts, no limits, no end in order"
	writesEach  = "each request is written by itself, and the server begins with the first at once; here that is tried now and then, and kept while it takes a tenth less time"
)

// reasons are why a contender may be ahead of tcpclient: the first whose patterns match.
var reasons = []struct{ workload, contender, why string }{
	{`^pingpong`, `^rueidis$`, cProgram},
	{`^pingpong`, `^rueidis 20µs$`, cProgram + "; alone it does not wait for the delay"},
	{`^(pingpong|conns)`, `^naive$`, givesBack},
	{`^(pingpong|conns)`, `^netpoll$`, loopReads},
	{`^(pingpong|in)`, `^go-msgio$`, readsItself},
	{`^in`, `^netpoll$`, "messages are read in place by the only reader there may be: no hand-over between goroutines, no context"},
	{`^in`, `^yamux$`, "bytes, not messages: the frames are cut as the floor cuts them"},
	{`^(out|both)`, `^netpoll$`, oneWriter},
	{`^out`, `^yamux$`, "bufio in front of the stream takes the frames, without a lock or a context, by one goroutine only"},
	{`^out`, `^go-msgio$`, "without a context; errors are found at the end"},
	{`^send`, `^nats\.go$`, "Publish queues: it returns before anything is written, and its error, if there is one, is never the caller's"},
	{`^send/size=64/conc=1$`, `^(naive|hand-made|go-msgio|netpoll|websocket)$`, "one goroutine gains nothing from sharing system calls"},
	{`^call/.*conc=1$`, `^(naive|hand-made|go-msgio|netpoll)$`, "one call at a time gains nothing from sharing system calls"},
	{`^call/.*conc=1$`, `^rueidis`, cProgram},
	{`^call`, `^rueidis$`, cProgram + ", and each request is written by itself: few of them overlap with it"},
	{`^(send/size=64/|call|work)`, `^hand-made$`, nothingMore},
	{`^work.*conc=(2|4|8|16)$`, `^(naive|go-msgio|netpoll)$`, writesEach},
	{`^idle`, `^go-msgio$`, "it is a framing: no goroutine watches the connection"},
	{`^idle`, `^websocket$`, "no goroutine reads while none receives: a dead connection goes unnoticed"},
	{`^idle`, `^netpoll$`, "one event loop for all connections instead of a goroutine each"},
	{`^idle`, `^naive$`, "no inbox, no heartbeat, nothing to reconnect with"},
}

func reason(workload, contender string) string {
	for _, r := range reasons {
		if regexp.MustCompile(r.workload).MatchString(workload) && regexp.MustCompile(r.contender).MatchString(contender) {
			return r.why
		}
	}
	return ""
}

// writeAhead names the rows in which a peer does better.
func writeAhead(out io.Writer, p *plan, r *results) {
	for _, w := range p.workloads {
		ours, ok := r.summarize(w.name, oursContender.name)
		if !ok {
			continue
		}
		for _, c := range p.contenders {
			s, ok := r.summarize(w.name, c.name)
			if !ok || c.family() == oursContender.name || c.family() == floorName {
				continue
			}
			pairs := r.versus(w.name, oursContender.name, c.name, cost)
			if len(pairs) == 0 || median(pairs) < 1/0.97 {
				continue
			}
			mine, other, unit := ours.Nanos, s.Nanos, "ns"
			if w.work == nil {
				mine, other, unit = ours.Memory/1024, s.Memory/1024, "KiB"
			}
			why := reason(w.name, c.name)
			switch low := slices.Min(pairs); {
			case why == "" && low < 1:
				why = "not in all rounds: noise, or not known"
			case why == "":
				why = "not known"
				fmt.Fprintf(os.Stderr, "bench: no reason for %s, %s: look for one before this is published\n", w.name, c.name)
			}
			fmt.Fprintf(out, "| %s | %s | %s %s | %s %s | %s (%s – %s) | %s |\n", w.name, c.name, number(other), unit, number(mine), unit,
				number(median(pairs)), number(slices.Min(pairs)), number(slices.Max(pairs)), why)
		}
	}
}

// machines compares two kinds of machine. Neither is this one: their numbers were taken once.
const machines = `## Two kinds of machine

What is shared among goroutines depends on how long a processor takes to wake another. This command was run once, in November 2026, for
commit 58d2600, on two machines: A, two processors of a virtual machine (Intel Xeon), and B, whose switch from one processor to another takes twice as
long and whose model was not noted. Neither is the one of the other tables. Multiples of the floor of each, if nothing else is said:

| | A, 58d2600 | B, 58d2600 | beside it on B |
|---|--:|--:|---|
| ping-pong | 1.11 | 1.21 | naive 1.15, netpoll 1.32 |
| stream in, Messages | 1.43 | 1.02 | netpoll 0.93 |
| stream out | 1.69 | 0.78 | netpoll 0.75 |
| Send ×64 | 3.00 | 2.06 | hand-made 2.07 |
| Send ×512 | 8.93 | 3.46 | hand-made 2.60 |
| Call ×8, of naive | – | 1.41 | |
| Call ×64 | 2.75 | 1.67 | rueidis with its delay 0.93 |
| Call ×512 | 8.44 | 3.81 | rueidis with its delay 4.80 |
| an idle client | 11.2 KiB | 11.2 KiB | |
`

// report writes BENCHMARKS.md into dir, and the charts below it.
func report(dir string, p *plan, r *results) error {
	const folder = "internal/bench/charts"
	names, err := charts(filepath.Join(dir, folder), p, r)
	if err != nil {
		return err
	}
	f, err := os.Create(filepath.Join(dir, "BENCHMARKS.md"))
	if err != nil {
		return err
	}
	defer f.Close()
	out := bufio.NewWriter(f)
	image := func(name, alt string) {
		if slices.Contains(names, name) {
			fmt.Fprintf(out, "\n![%s](%s/%s)\n", alt, folder, name)
		}
	}

	fmt.Fprintf(out, `# Benchmarks

What a program gets, then the same work beside a hand-written loop, the floor, and beside what one might use instead. This
file is written by one command, from [internal/bench](internal/bench); how to repeat it is [at the end](#how-to-repeat).

## What it means for a program

One connection, messages of 64 bytes, a server on the same machine, one processor for the client. Naive is what most programs have: a
mutex around write and flush, a goroutine that reads and a channel. Processor time is that of the client, user and system.

`)
	writeMeaning(out, r)
	fmt.Fprintf(out, `
On a real network the round trip comes on top; processor time and what one connection can carry stay.

## Targets

What the library is to reach, and whether it does on this machine. A multiple is the median of those of each round, in which both were measured
one after the other; so is what stands beside it. Where not all rounds agree, their number follows. What stands in the way is said as far as
it is known ([DESIGN.md](DESIGN.md) has the measurements).

`)
	writeTargets(out, r)
	fmt.Fprintf(out, `
That nothing became slower by more than 3 %% is shown by pairs of two commits, not here.

## Multiples of the floor

64-byte messages. Less is better; idle clients are in KiB of heap and stack. Quote these ratios, not digits: each is the median of the
ratio to the floor in the same round.

`)
	writeOverview(out, p.main(), r)
	image("send.svg", "Time of one Send against the number of goroutines that send")
	image("call.svg", "Time of one Call against the number of goroutines that call")
	image("in.svg", "Time of one message of a stream in")
	image("out.svg", "Time of one message of a stream out")
	image("pingpong.svg", "Time of one round trip")
	image("conns.svg", "Time of one round trip against the number of connections")
	image("idle.svg", "Memory of an idle client")
	fmt.Fprintf(out, "\n%s", machines)

	fmt.Fprint(out, "\n## Who promises less\n\nContenders do the same work here, and some do less for it.\n\n| | version | what it does not promise |\n|---|---|---|\n")
	for _, c := range p.contenders {
		if c.less != "" {
			fmt.Fprintf(out, "| %s | %s | %s |\n", c.name, version(c), c.less)
		}
	}
	fmt.Fprint(out, `
Where a library has no Call, one is built upon it as one does by hand: an id in front, a table of channels under a
mutex, a goroutine that reads. tcpclient gets a context that can be cancelled in every call.

## Where a peer is ahead

More than 3 % better than tcpclient by the median of the rounds, and why, as far as that is known.

| work | peer | its value | tcpclient | which is × (least – most) | why |
|---|---|--:|--:|--:|---|
`)
	writeAhead(out, p, r)
	fmt.Fprint(out, `
## All results

"floor again" is the floor a second time: what differs between the two is noise. Time and allocations are per message, on the client's side; client CPU is user and system time of the client
process. "Least – most" is the spread of the ratio over the rounds. Write calls are those of the client process that the system has counted
(syscw of /proc/self/io); – where it does not: it leaves out sendmsg, with which netpoll writes.
`)
	writeTables(out, p, r)
	fmt.Fprintf(out, `
## How to repeat

`+"```sh"+`
cd internal/bench
go run . -all                                # all of this, and this file
go run . -quick                              # does everything still work?
go run . -run '^in/' -only tcpclient,netpoll # some of it, on the terminal

# More processors than there are, and what waits for locks then; the client is not pinned.
go run . -run '(send|call)/.*conc=64$|call/.*conc=512$' -procs 1,4,8 -only tcpclient,naive,hand-made -profiles /tmp/profiles
go tool pprof -top /tmp/profiles/call-size=64-conc=64-procs=8-tcpclient.mutex

# What an idle client with a heartbeat has on the heap; the table says what its stacks take.
go run . -run idle/conns=10000 -only 'tcpclient +heartbeat' -rounds 1 -profiles /tmp/profiles
go tool pprof -sample_index=inuse_space -top /tmp/profiles/idle-conns=10000-tcpclient-+heartbeat.heap
`+"```"+`

It needs redis-server for rueidis and, for pinning, taskset; both are in Debian. Leave the machine alone meanwhile.

- Client and server are two processes, the program itself in another role; for Redis, a redis-server. Each measurement
  has a fresh pair. Every process starts at a random offset of heap and stack: an unlucky alignment changes a tight
  loop by more than what is measured here.
- Pinned%s, but with -procs: for round trips and at /cpus=1 client and server on one processor, for streams and concurrent use one each, GOMAXPROCS=1
  both. Unpinned, the time of a wake-up across processors would be most of what is seen.
- Contenders take turns in a new order each round: %d rounds of %v each, after a warm-up of an eighth of that; calls to a server that works
  take %v, in which a client may learn. On each of 1000 connections there are 20 trips, on each of 10 000 there are 5, however long that takes. Goroutines, the
  order to the server and, with many connections, a first trip are not measured.
- The floor is [floor.go](internal/bench/floor.go): net.Conn and bufio, one goroutine, no locks, no contexts. At ×k
  it writes k messages per flush and, for calls, reads as many answers. In that it
  does not overlap with a server that works, so less than 1 is possible there.
- Servers of the length-prefixed contenders are one and the same, which sends prepared blocks and counts what it
  takes; yamux, WebSocket, NATS, gob and Redis have servers of their own kinds.

%s
`, pinning(), p.rounds, p.span, longSpans*p.span, machine())
	if err := out.Flush(); err != nil {
		return err
	}
	return f.Close()
}

func pinning() string {
	if taskset == "" {
		return " it would be, but taskset is missing"
	}
	return ""
}

// version returns the version of the library of c.
func version(c contender) string {
	if c.module == "" {
		if c.wire == "netrpc" {
			return runtime.Version()
		}
		return ""
	}
	v := moduleVersion(c.module)
	switch c.wire {
	case "nats":
		if out, err := exec.Command("go", "list", "-m", "-f", "{{.Version}}", "github.com/nats-io/nats-server/v2").Output(); err == nil {
			v += ", nats-server " + strings.TrimSpace(string(out))
		}
	case "redis":
		if out, err := exec.Command("redis-server", "--version").Output(); err == nil {
			for _, field := range strings.Fields(string(out)) {
				if number, ok := strings.CutPrefix(field, "v="); ok {
					v += ", redis-server " + number
				}
			}
		}
	}
	return v
}

func moduleVersion(path string) string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return ""
	}
	for _, module := range info.Deps {
		if module.Path == path {
			return module.Version
		}
	}
	return ""
}

// machine describes where it ran.
func machine() string {
	model, kernel := "unknown processor", runtime.GOOS
	if text, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		for line := range strings.Lines(string(text)) {
			if key, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(key) == "model name" {
				model = strings.TrimSpace(value)
				break
			}
		}
	}
	if text, err := os.ReadFile("/proc/sys/kernel/osrelease"); err == nil {
		version, _, _ := strings.Cut(string(text), "-")
		kernel = "Linux " + strings.TrimSpace(version)
	}
	return fmt.Sprintf("Measured with %s on %d processors of a virtual machine (%s), %s, loopback, %s.",
		runtime.Version(), runtime.NumCPU(), model, kernel, time.Now().Format("January 2006"))
}
