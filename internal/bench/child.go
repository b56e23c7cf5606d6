package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"os"
	"runtime"
	"runtime/debug"
	"runtime/pprof"
	"slices"
	"sync/atomic"
	"time"
)

// roleVariable makes a process of this program a server or a client.
const roleVariable = "TCPCLIENT_BENCH_ROLE"

// An assignment is what a child process is to do, on its standard input.
type assignment struct {
	Contender string
	Workload  string
	Addr      string
	Small     bool // servers: small buffers
	Span      time.Duration
	Idle      int  // clients of the idle workload; 0: as many as it says
	Count     bool // count system calls instead of time
	Profile   string
}

// A measurement is what a client has found.
type measurement struct {
	N          int
	Nanos      float64 // per message, wall time
	CPU        float64 // per message, of the client process, user and system
	Allocs     float64
	Bytes      float64
	P50, P99   float64 `json:",omitempty"` // nanoseconds
	Writes     float64 `json:",omitempty"` // system calls per message
	Goroutines float64 `json:",omitempty"` // per idle client
	Memory     float64 `json:",omitempty"` // bytes of heap and stack per idle client
	Unfit      bool    `json:",omitempty"`
	Err        string  `json:",omitempty"`
}

// play is the main function of a child process.
func play(role string) {
	var a assignment
	in := json.NewDecoder(os.Stdin)
	if err := in.Decode(&a); err != nil {
		fatal(err)
	}
	keep := shake()
	if role == "server" {
		go func() {
			io.Copy(io.Discard, os.Stdin)
			os.Exit(0)
		}()
		var err error
		descend(rand.IntN(64), func() { err = serve(a.wire(), a.Small, os.Stdout) })
		fatal(err)
	}
	var m measurement
	var err error
	descend(rand.IntN(64), func() { m, err = a.measure() })
	if errors.Is(err, errUnfit) {
		m.Unfit = true
	} else if err != nil {
		m.Err = err.Error()
	}
	json.NewEncoder(os.Stdout).Encode(m)
	runtime.KeepAlive(keep)
}

// shake moves the heap by a random distance.
func shake() (keep [][]byte) {
	for range 8 {
		keep = append(keep, make([]byte, rand.IntN(16<<10)))
	}
	return keep
}

// descend moves the stack by depth frames.
func descend(depth int, f func()) {
	var frame [64]byte
	if depth > 0 {
		descend(depth-1, f)
	} else {
		f()
	}
	runtime.KeepAlive(&frame)
}

func (a *assignment) wire() string {
	c, _ := contenderNamed(a.Contender)
	return c.wire
}

func contenderNamed(name string) (contender, bool) {
	i := slices.IndexFunc(contenders, func(c contender) bool { return c.name == name })
	if i < 0 {
		return contender{}, false
	}
	return contenders[i], true
}

func (a *assignment) measure() (m measurement, err error) {
	c, ok := contenderNamed(a.Contender)
	if !ok {
		return m, fmt.Errorf("no contender %q", a.Contender)
	}
	i := slices.IndexFunc(workloads, func(w workload) bool { return w.name == a.Workload })
	if i < 0 {
		return m, fmt.Errorf("no workload %q", a.Workload)
	}
	j := &job{workload: workloads[i], floor: c.family() == floorName, dial: c.dial}
	j.env = environment{addr: a.Addr, calls: j.calls && c.family() != floorName}
	if a.Count {
		j.env.writes = new(atomic.Int64)
	}
	if j.work == nil {
		if a.Idle > 0 {
			j.conc = a.Idle
		}
		return j.idle()
	}
	cl, err := c.dial(&j.env)
	if err != nil {
		return m, err
	}
	defer cl.Close()
	run, err := j.work(j, cl)
	if err != nil {
		return m, err
	}
	n, err := j.calibrate(run, a.Span)
	if err != nil {
		return m, err
	}
	if a.Profile != "" {
		f, err := os.Create(a.Profile)
		if err != nil {
			return m, err
		}
		defer f.Close()
		pprof.StartCPUProfile(f)
		defer pprof.StopCPUProfile()
	}
	m, err = j.time(run, n)
	if err != nil || a.Count || !(j.one || j.calls) {
		return m, err
	}
	// Once more for the latencies, since to look at the clock costs something.
	n = min(n, 1<<16)
	j.latencies = make([][]int64, max(1, j.conc))
	for g := range j.latencies {
		j.latencies[g] = make([]int64, 0, n/len(j.latencies)+1)
	}
	if err := run(n); err != nil {
		return m, err
	}
	all := slices.Concat(j.latencies...)
	slices.Sort(all)
	m.P50, m.P99 = quantile(all, 0.50), quantile(all, 0.99)
	return m, nil
}

func quantile(sorted []int64, q float64) float64 {
	if len(sorted) == 0 {
		return 0
	}
	return float64(sorted[int(q*float64(len(sorted)-1))])
}

// calibrate warms up and returns how many units of work take about span.
func (j *job) calibrate(run phase, span time.Duration) (int, error) {
	warm := max(8, j.conc, min(1<<12, (1<<20)/j.size))
	if j.one {
		warm = max(64, j.conc)
	}
	if err := run(warm); err != nil {
		return 0, err
	}
	for n := warm; ; n *= 2 {
		start := time.Now()
		if err := run(n); err != nil {
			return 0, err
		}
		took := time.Since(start)
		if took >= span/4 || n > 1<<28 {
			n = int(math.Ceil(float64(n) * float64(span) / float64(max(took, 1))))
			k := max(1, j.conc)
			return (n + k - 1) / k * k, nil
		}
	}
}

// time measures n units of work.
func (j *job) time(run phase, n int) (m measurement, err error) {
	runtime.GC()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	if j.env.writes != nil {
		j.env.writes.Store(0)
	}
	cpu, start := cpuTime(), time.Now()
	err = run(n)
	wall, used := time.Since(start), cpuTime()-cpu
	runtime.ReadMemStats(&after)
	per := func(x float64) float64 { return x / float64(n) }
	m = measurement{
		N:      n,
		Nanos:  per(float64(wall)),
		CPU:    per(float64(used)),
		Allocs: per(float64(after.Mallocs - before.Mallocs)),
		Bytes:  per(float64(after.TotalAlloc - before.TotalAlloc)),
	}
	if j.env.writes != nil {
		m.Writes = per(float64(j.env.writes.Load()))
	}
	return m, err
}

// idle measures clients that have exchanged one message and then do nothing.
func (j *job) idle() (m measurement, err error) {
	first, err := j.idler() // what is made once for all is not counted
	if err != nil {
		return m, err
	}
	defer first.Close()
	before, goroutines := memory(), runtime.NumGoroutine()
	clients := make([]client, j.conc)
	before += int64(16 * len(clients))
	for i := range clients {
		if clients[i], err = j.idler(); err != nil {
			return m, err
		}
	}
	n := float64(len(clients))
	m = measurement{
		N:          len(clients),
		Memory:     float64(memory()-before) / n,
		Goroutines: float64(runtime.NumGoroutine()-goroutines) / n,
	}
	runtime.KeepAlive(clients)
	return m, nil
}

// idler dials a client and makes one round trip.
func (j *job) idler() (client, error) {
	c, err := j.dial(&j.env)
	if err != nil {
		return nil, err
	}
	msg := make([]byte, 64)
	if b, ok := c.(brief); ok {
		return c, b.Brief()
	}
	if trip, ok := c.(roundTripper); ok {
		_, err := trip.RoundTrip(msg)
		return c, err
	}
	if err := begin(c, order{opEcho, len(msg), 1}); err != nil {
		return nil, err
	}
	if err := c.Send(always, msg); err != nil {
		return nil, err
	}
	_, err = c.Receive()
	return c, err
}

// brief is for contenders that have a round trip of less consequence for their memory than
// Send and Receive.
type brief interface{ Brief() error }

// memory returns the bytes of heap and stack in use.
func memory() int64 {
	time.Sleep(20 * time.Millisecond) // for goroutines that are about to end
	runtime.GC()
	debug.FreeOSMemory()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc + m.StackInuse)
}
