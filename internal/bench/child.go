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
	"strconv"
	"strings"
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
	Idle      int    // clients of the idle workload; 0: as many as it says
	Profiles  string // the first part of the names of files for profiles; "": none
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
	Stack      float64 `json:",omitempty"` // bytes of stack among them
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
	if j.work == nil {
		if a.Idle > 0 {
			j.conc = a.Idle
		}
		return j.idle(a.Profiles)
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
	stop, err := profile(a.Profiles)
	if err != nil {
		return m, err
	}
	if j.trips > 0 {
		j.note(n) // what it costs to look at the clock is nothing beside a trip among so many
	}
	if m, err = j.time(run, n); err != nil {
		return m, err
	}
	if err := stop(); err != nil {
		return m, err
	}
	if !j.latencies() {
		return m, nil
	}
	if j.trips == 0 { // once more, since to look at the clock costs something
		n = max(j.conc, min(n/2, 1<<14))
		j.note(n)
		if err := run(n, func() {}); err != nil {
			return m, err
		}
	}
	all := slices.Concat(j.noted...)
	slices.Sort(all)
	m.P50, m.P99 = quantile(all, 0.50), quantile(all, 0.99)
	return m, nil
}

// note has the next phase note latencies, n of them.
func (j *job) note(n int) {
	j.noted = make([][]int64, max(1, j.conc))
	for g := range j.noted {
		j.noted[g] = make([]int64, 0, n/len(j.noted)+1)
	}
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
	if err := run(warm, func() {}); err != nil {
		return 0, err
	}
	if j.trips > 0 {
		return j.trips * j.conc, nil
	}
	for n := warm; ; n *= 2 {
		var began time.Time
		if err := run(n, func() { began = time.Now() }); err != nil {
			return 0, err
		}
		took := time.Since(began)
		if took >= span/8 || n > 1<<28 {
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
	var writes int64
	var cpu time.Duration
	var began time.Time
	err = run(n, func() {
		runtime.ReadMemStats(&before)
		writes, _ = writeCalls()
		cpu, began = cpuTime(), time.Now()
	})
	wall, used := time.Since(began), cpuTime()-cpu
	written, _ := writeCalls()
	runtime.ReadMemStats(&after)
	per := func(x float64) float64 { return x / float64(n) }
	return measurement{
		N:      n,
		Nanos:  per(float64(wall)),
		CPU:    per(float64(used)),
		Allocs: per(float64(after.Mallocs - before.Mallocs)),
		Bytes:  per(float64(after.TotalAlloc - before.TotalAlloc)),
		Writes: per(float64(written - writes)),
	}, err
}

// writeCalls returns how many write and writev this process has made; ok is false if the system
// does not say.
func writeCalls() (calls int64, ok bool) {
	text, err := os.ReadFile("/proc/self/io")
	if err != nil {
		return 0, false
	}
	_, rest, _ := strings.Cut(string(text), "syscw: ")
	line, _, _ := strings.Cut(rest, "\n")
	calls, err = strconv.ParseInt(line, 10, 64)
	return calls, err == nil
}

// idle measures clients that have exchanged one message and then do nothing.
func (j *job) idle(profiles string) (m measurement, err error) {
	if profiles != "" {
		runtime.MemProfileRate = 1 // each allocation
	}
	first, err := j.idler() // what is made once for all is not counted
	if err != nil {
		return m, err
	}
	defer first.Close()
	clients := make([]client, j.conc)
	before, goroutines := memory(), runtime.NumGoroutine()
	for i := range clients {
		if clients[i], err = j.idler(); err != nil {
			return m, err
		}
	}
	after := memory()
	n := float64(len(clients))
	stack := float64(after.StackInuse) - float64(before.StackInuse)
	m = measurement{
		N:          len(clients),
		Memory:     (float64(after.HeapAlloc) - float64(before.HeapAlloc) + stack) / n,
		Stack:      stack / n,
		Goroutines: float64(runtime.NumGoroutine()-goroutines) / n,
	}
	if profiles != "" {
		err = writeProfile("heap", profiles)
	}
	runtime.KeepAlive(clients)
	return m, err
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

// memory returns what is in use.
func memory() (m runtime.MemStats) {
	time.Sleep(20 * time.Millisecond) // for goroutines that are about to end
	runtime.GC()
	debug.FreeOSMemory()
	runtime.ReadMemStats(&m)
	return m
}

// profile begins profiles of processor time and of what waits for locks; stop writes them to files
// whose names begin so.
func profile(files string) (stop func() error, err error) {
	if files == "" {
		return func() error { return nil }, nil
	}
	f, err := os.Create(files + ".cpu")
	if err != nil {
		return nil, err
	}
	runtime.SetMutexProfileFraction(1)
	runtime.SetBlockProfileRate(int(time.Microsecond))
	if err := pprof.StartCPUProfile(f); err != nil {
		return nil, err
	}
	return func() error {
		pprof.StopCPUProfile()
		return errors.Join(f.Close(), writeProfile("mutex", files), writeProfile("block", files))
	}, nil
}

// writeProfile writes what the runtime has of that name.
func writeProfile(name, files string) error {
	f, err := os.Create(files + "." + name)
	if err != nil {
		return err
	}
	return errors.Join(pprof.Lookup(name).WriteTo(f, 0), f.Close())
}
