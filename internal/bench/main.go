// Command bench measures tcpclient beside a hand-written loop and beside what one might
// use instead, each doing the same work, and writes the tables and charts of
// BENCHMARKS.md.
//
//	go run . -all                        everything, into ../../BENCHMARKS.md and charts/
//	go run . -quick                      a look at whether all still works
//	go run . -run 'in/' -only tcpclient,netpoll -rounds 3
//	go run . -run 'call/.*conc=64$' -procs 1,4,8 -profiles /tmp/profiles
//
// The floor is a net.Conn with bufio, without locks and contexts. Results are multiples
// of the floor of the same round: contenders take turns, each measurement in a fresh pair
// of processes, client and server, which are this program again, but for natsd and
// redis-server. On Linux the two are pinned: to one processor for round trips, to one each
// for streams, GOMAXPROCS=1 for both. Every process starts at a random offset of heap and
// stack, since an unlucky alignment changes a tight loop by more than what is to be
// measured.
package main

import (
	"flag"
	"fmt"
	"os"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"time"
)

func main() {
	if role := os.Getenv(roleVariable); role != "" {
		play(role)
		return
	}
	var p plan
	all := flag.Bool("all", false, "run everything and write BENCHMARKS.md and the charts")
	quick := flag.Bool("quick", false, "one short round")
	run := flag.String("run", "", "`regexp` of the workloads to run, such as in/size=64")
	only := flag.String("only", "", "comma-separated `contenders`; the floor is always there, twice")
	out := flag.String("out", "", "`directory` to write BENCHMARKS.md and internal/bench/charts into")
	flag.IntVar(&p.rounds, "rounds", 9, "measurements of each contender")
	flag.DurationVar(&p.span, "span", 150*time.Millisecond, "length of one measurement")
	flag.StringVar(&p.profiles, "profiles", "", "`directory` for profiles of each client in its last round: cpu, mutex, block; heap of idle ones")
	procs := flag.String("procs", "", "comma-separated `numbers`: each workload once for each, with a client that is not pinned and has that GOMAXPROCS")
	list := flag.Bool("list", false, "list workloads and contenders")
	flag.Parse()

	if *quick {
		p.rounds, p.span, p.idle = 1, 5*time.Millisecond, 20
	}
	if *all && *out == "" {
		*out = "../.."
	}
	match, err := regexp.Compile(*run)
	if err != nil {
		fatal(err)
	}
	for _, w := range workloads {
		if !match.MatchString(w.name) || *quick && !w.quick && *run == "" {
			continue
		}
		if *procs == "" {
			p.workloads = append(p.workloads, w)
			continue
		}
		for number := range strings.SplitSeq(*procs, ",") {
			k, err := strconv.Atoi(number)
			if err != nil || k < 1 {
				fatal(fmt.Errorf("-procs %s: a number of 1 or more is wanted", *procs))
			}
			p.workloads = append(p.workloads, w.withProcs(k))
		}
	}
	for _, c := range contenders {
		if *only == "" || c.family() == floorName || contains(strings.Split(*only, ","), c) {
			p.contenders = append(p.contenders, c)
		}
	}
	if *list {
		for _, w := range p.workloads {
			fmt.Println(w.name)
		}
		for _, c := range p.contenders {
			fmt.Println(c.name)
		}
		return
	}
	if !*all && !*quick && *run == "" && *only == "" {
		flag.Usage()
		os.Exit(2)
	}
	if p.profiles != "" {
		if err := os.MkdirAll(p.profiles, 0o777); err != nil {
			fatal(err)
		}
	}
	began := time.Now()
	results, err := p.execute(os.Stderr)
	if err != nil {
		fatal(err)
	}
	if *out != "" {
		if err := report(*out, &p, results); err != nil {
			fatal(err)
		}
	} else {
		writeTables(os.Stdout, &p, results)
	}
	fmt.Fprintf(os.Stderr, "%d measurements in %v, %s\n", results.count, time.Since(began).Round(time.Second), runtime.Version())
	if results.failures > 0 {
		fatal(fmt.Errorf("%d measurements failed", results.failures))
	}
}

// contains reports whether c is among names, by its own name or by that of its library.
func contains(names []string, c contender) bool {
	for _, name := range names {
		if name == c.name || name == c.family() {
			return true
		}
	}
	return false
}

func fatal(err error) {
	fmt.Fprintln(os.Stderr, "bench:", err)
	os.Exit(1)
}
