package main

import (
	"cmp"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
)

// A target is what tcpclient is to reach in a workload.
type target struct {
	what      string
	workload  string
	contender string   // "": tcpclient
	field     field    // nil: wall time
	per       string   // the value is a multiple of this contender's, of the same round; "": the value itself
	atLeast   bool     // instead: how many times as much that contender takes
	bound     float64  // the most, or the least
	unit      string   // of the value itself
	beside    []string // contenders whose values stand beside it
	why       string   // what stands in the way; "": no measurement says it
}

const (
	pingpong64 = "pingpong/size=64"
	call1      = "call/size=64/conc=1"
	call8      = "call/size=64/conc=8"
	call64     = "call/size=64/conc=64"
	call512    = "call/size=64/conc=512"

	readerWakes = "a message goes from the goroutine that reads to the caller's: a prototype in which the caller read the socket, without deadlines, Heartbeat or Close, took 0.94 to 0.96 of this"
	batchWaits  = "requests that share a write wait for each other; one by one they take 2.5 times as long from a server on the same processor"
	triedOut    = "to write each request by itself, so that the server begins with the first, is tried now and then, and kept while it takes a tenth less time"
	staysShared = "8 callers mostly share a write, on purpose: one by one they may take less time, and more processor time"
	noneOfThat  = "contexts, deadlines and limits, which naive has none of; buffers that are given back while nothing comes take 0.02 of it"
	manyReceive = "by profile a sixth goes into the copy to the Inbox, and a sixth into an atomic exchange for each message, since several may receive; netpoll, where one may, copies nothing"
	lockEach    = "by profile a quarter goes into the lock for each message, and a fifth into the copy to the Inbox; go-msgio has neither"
	aLittleMore = "contexts, limits and an end in order take 1.1 to 1.2 times what hand-made takes, which has none"
	copyOrNot   = "on a busy machine 64 KiB took 1.05 to 1.15 of naive's processor time, from the caller's memory or not"
)

// targets are those of the design (#16 among them).
var targets = []target{
	{what: "ping-pong", workload: pingpong64, per: floorName, bound: 1.05, beside: []string{"naive", "netpoll"}, why: readerWakes},
	{what: "ping-pong", workload: pingpong64, per: "naive", bound: 1.05, beside: []string{"go-msgio"}, why: noneOfThat},
	{what: "`Call` ×1", workload: call1, per: "naive", bound: 1.05, beside: []string{"hand-made", "go-msgio"}},
	{what: "stream in, `Messages`", workload: "in/size=64", per: floorName, bound: 1.5, beside: []string{"netpoll", "yamux"}, why: manyReceive},
	{what: "stream in, `ReceiveInto`", workload: "in/size=64", contender: oursInto.name, per: floorName, bound: 2.5, beside: []string{"go-msgio"}, why: lockEach},
	{what: "stream out", workload: "out/size=64", per: floorName, bound: 2, beside: []string{"yamux", "netpoll"}},
	{what: "both directions, 1 KiB", workload: "both/size=1024", per: floorName, bound: 1.05, beside: []string{"go-msgio"}},
	{what: "both directions, 64 KiB", workload: "both/size=65536", per: floorName, bound: 1.05, beside: []string{"go-msgio"}},

	{what: "`Send` ×64", workload: "send/size=64/conc=64", per: "naive", atLeast: true, bound: 13, beside: []string{"hand-made"}},
	{what: "`Send` ×512", workload: "send/size=64/conc=512", per: "naive", atLeast: true, bound: 18, beside: []string{"hand-made"}},
	{what: "`Call` ×64", workload: call64, per: floorName, bound: 1.25, beside: []string{"hand-made"}},
	{what: "`Call` ×512", workload: call512, per: floorName, bound: 3.2, beside: []string{"hand-made"}},
	{what: "`Call` ×64", workload: call64, per: "rueidis", atLeast: true, bound: 4, beside: []string{"hand-made"}},
	{what: "`Call` ×512", workload: call512, per: "rueidis", atLeast: true, bound: 4, beside: []string{"hand-made"}},
	{what: "`Call` ×64", workload: call64, per: "rueidis 20µs", atLeast: true, bound: 1.5, beside: []string{"hand-made"}},
	{what: "`Call` ×512", workload: call512, per: "rueidis 20µs", atLeast: true, bound: 1.5, beside: []string{"hand-made"}},
	{what: "`Call` ×64, on any machine", workload: call64, per: "rueidis 20µs", bound: 1, beside: []string{"hand-made"}},
	{what: "`Call` ×64, p99", workload: call64, field: p99, per: "rueidis", bound: 1, beside: []string{"hand-made", "naive"}},
	{what: "`Call` ×512, p99", workload: call512, field: p99, per: "rueidis", bound: 1, beside: []string{"hand-made", "naive"}},

	{what: "`Call` ×8", workload: call8, per: "naive", bound: 1, beside: []string{"hand-made", "go-msgio"}, why: batchWaits},
	{what: "`Call` ×8, processor time", workload: call8, field: cpu, per: "naive", bound: 1, beside: []string{"hand-made", "go-msgio"}},
	{what: "`Call` ×8, one processor for both", workload: call8 + oneProcessorSuffix, per: "naive", bound: 1, beside: []string{"hand-made", "go-msgio"}, why: batchWaits},
	{what: "`Call` ×8, one for both, processor time", workload: call8 + oneProcessorSuffix, field: cpu, per: "naive", bound: 1, beside: []string{"hand-made", "go-msgio"}},
	{what: "`Call` ×4, server works", workload: "work/size=64/conc=4", per: "naive", bound: 1, beside: []string{"hand-made", "go-msgio"}, why: triedOut},
	{what: "`Call` ×8, server works", workload: "work/size=64/conc=8", per: "naive", bound: 1, beside: []string{"hand-made", "go-msgio"}, why: staysShared},
	{what: "`Call` ×8, server works, one for both", workload: "work/size=64/conc=8" + oneProcessorSuffix, per: "naive", bound: 1, beside: []string{"hand-made", "go-msgio"}},

	{what: "`Send` of 64 KiB", workload: "send/size=65536/conc=1", per: "naive", bound: 1.05, beside: []string{"hand-made", "go-msgio"}, why: copyOrNot},
	{what: "`Send` of 1 MiB", workload: "send/size=1048576/conc=1", per: "naive", bound: 1.05, beside: []string{"hand-made", "go-msgio"}},
	{what: "`Write` of 64 KiB", workload: "out/size=65536", per: "naive", bound: 1.05, beside: []string{"go-msgio", "netpoll"}, why: copyOrNot},
	{what: "`Write` of 1 MiB", workload: "out/size=1048576", per: "naive", bound: 1.05, beside: []string{"go-msgio", "netpoll"}},
	{what: "64 KiB in, `Messages`", workload: "in/size=65536", per: "go-msgio", bound: 1.05, beside: []string{oursInto.name}},
	{what: "1 MiB in, `Messages`", workload: "in/size=1048576", per: "go-msgio", bound: 1.05, beside: []string{oursInto.name}},

	{what: "allocations, `Messages`", workload: "in/size=64", field: allocations, bound: noAllocation},
	{what: "allocations, `ReceiveInto`", workload: "in/size=64", contender: oursInto.name, field: allocations, bound: noAllocation},
	{what: "allocations, `Write`", workload: "out/size=64", field: allocations, bound: noAllocation},
	{what: "allocations, `Send` ×1", workload: "send/size=64/conc=1", field: allocations, bound: noAllocation},
	{what: "allocations, `Send` ×64", workload: "send/size=64/conc=64", field: allocations, bound: noAllocation},
	{what: "allocations, `Send` ×512", workload: "send/size=64/conc=512", field: allocations, bound: noAllocation},
	{what: "idle, with a heartbeat", workload: "idle/conns=10000", contender: oursHeartbeat.name, field: kibibytes, bound: 8.9, unit: " KiB", beside: []string{"naive", "netpoll"}},
	{what: "idle, with a heartbeat", workload: "idle/conns=10000", contender: oursHeartbeat.name, field: goroutines, bound: 2, unit: " goroutines", beside: []string{"naive", "netpoll"}},
}

// A field is what a target is about.
type field func(measurement) float64

func cpu(m measurement) float64         { return m.CPU }
func p99(m measurement) float64         { return m.P99 }
func allocations(m measurement) float64 { return m.Allocs }
func kibibytes(m measurement) float64   { return m.Memory / 1024 }
func goroutines(m measurement) float64  { return m.Goroutines }

// cost is the time of a message, or the memory of an idle client.
func cost(m measurement) float64 { return m.Nanos + m.Memory }

// noAllocation is the bound where none is wanted: what the runtime allocates now and then is not the library's.
const noAllocation = 0.002

// values returns what the contender's rounds have in that field.
func (r *results) values(workload, contender string, of field) (values []float64) {
	for _, m := range r.rounds[pair{workload, contender}] {
		if m.Err == "" {
			values = append(values, of(m))
		}
	}
	return values
}

// versus returns the contender's multiples of the peer, round by round.
func (r *results) versus(workload, contender, peer string, of field) (ratios []float64) {
	peers := r.rounds[pair{workload, peer}]
	for i, m := range r.rounds[pair{workload, contender}] {
		if i < len(peers) && m.Err == "" && peers[i].Err == "" && of(peers[i]) > 0 {
			ratios = append(ratios, of(m)/of(peers[i]))
		}
	}
	return ratios
}

// of returns the values of a contender that the target compares.
func (t *target) of(r *results, contender string) []float64 {
	of := t.field
	if of == nil {
		of = cost
	}
	switch {
	case t.per == "":
		return r.values(t.workload, contender, of)
	case t.atLeast:
		return r.versus(t.workload, t.per, contender, of)
	}
	return r.versus(t.workload, contender, t.per, of)
}

func (t *target) isMet(value float64) bool {
	if t.atLeast {
		return value >= t.bound
	}
	return value <= t.bound
}

// text says what is wanted.
func (t *target) text() string {
	switch {
	case t.bound == noAllocation:
		return "0"
	case t.per == "":
		return fmt.Sprintf("≤ %v%s", t.bound, t.unit)
	case t.atLeast:
		return fmt.Sprintf("%s takes ≥ %v ×", t.per, t.bound)
	}
	return fmt.Sprintf("≤ %v × %s", t.bound, t.per)
}

// verdict says whether it is met, in how many rounds if not in all or none, and what stands in the way.
func (t *target) verdict(r *results, values []float64) string {
	met := 0
	for _, v := range values {
		if t.isMet(v) {
			met++
		}
	}
	rounds := ""
	if met > 0 && met < len(values) {
		rounds = fmt.Sprintf(" (%d of %d rounds)", met, len(values))
	}
	switch least := t.of(r, handmadeContender.name); {
	case t.isMet(median(values)):
		return "yes" + rounds
	case t.why != "":
		return "no" + rounds + "; " + t.why
	case slices.Contains(t.beside, handmadeContender.name) && len(least) > 0 && !t.isMet(median(least)):
		return fmt.Sprintf("no%s; hand-made, the least that a group commit can be, is at %s itself", rounds, few(median(least)))
	case slices.Contains(t.beside, handmadeContender.name) && len(least) > 0:
		return "no" + rounds + "; " + aLittleMore
	}
	if met > 0 {
		return "no" + rounds + "; noise, or not known"
	}
	fmt.Fprintf(os.Stderr, "bench: %s, %s: not met, and no reason\n", t.workload, t.text())
	return "no" + rounds + "; what stands in the way is not known"
}

// writeTargets writes what is wanted, and what is reached.
func writeTargets(out io.Writer, r *results) {
	fmt.Fprint(out, "| | target | here | beside it | met? What stands in the way |\n|---|---|--:|---|---|\n")
	var workloads []string
	for _, t := range targets {
		values := t.of(r, cmp.Or(t.contender, oursContender.name))
		if len(values) == 0 {
			continue
		}
		workloads = append(workloads, t.workload)
		var beside []string
		for _, peer := range t.beside {
			if values := t.of(r, peer); len(values) > 0 {
				beside = append(beside, peer+" "+few(median(values)))
			}
		}
		fmt.Fprintf(out, "| %s | %s | %s | %s | %s |\n", t.what, t.text(), few(median(values)), strings.Join(beside, ", "), t.verdict(r, values))
	}
	fmt.Fprint(out, "| 10 000 reconnects | no goroutine, descriptor, timer left | | | tested: [FAULTS.md](FAULTS.md), B2 to B4 |\n")
	fmt.Fprintf(out, "\n%s", r.noise(workloads))
}

// noise says how far a second floor is from the first in these workloads.
func (r *results) noise(workloads []string) string {
	var medians, all []float64
	for _, w := range workloads {
		if ratios := r.versus(w, floorAgain.name, floorName, cost); len(ratios) > 0 {
			medians, all = append(medians, median(ratios)), append(all, ratios...)
		}
	}
	if len(all) == 0 {
		return ""
	}
	return fmt.Sprintf("Noise: in these rows the floor, measured a second time, takes %s to %s of the first, in single rounds %s to %s.\n",
		number(slices.Min(medians)), number(slices.Max(medians)), number(slices.Min(all)), number(slices.Max(all)))
}
