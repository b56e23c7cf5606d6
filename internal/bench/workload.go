package main

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// A workload is what all contenders do alike.
type workload struct {
	name   string // first the word that contender.does has
	size   int
	conc   int  // goroutines, or connections
	one    bool // client and server share one processor: round trips
	quick  bool // part of -quick
	calls  bool
	long   bool // measured for four spans: one is no more than the time in which a client learns
	prefix bool // only for contenders whose server is that of the length prefix
	trips  int  // of each connection, however long they take; 0: as many as fill a span
	procs  int  // GOMAXPROCS of a client that is not pinned; 0: 1, and pinned
	work   func(j *job, c client) (phase, error)
}

// A phase does n units of work. It tells the server what comes, prepares, and calls start: what
// is before that is not measured.
type phase func(n int, start func()) error

// A job is one measurement in a client process.
type job struct {
	workload
	floor bool
	env   environment
	dial  func(*environment) (client, error)
	noted [][]int64 // latencies, one slice for each goroutine; nil: not asked for
}

var workloads = slices.Concat(
	[]workload{{name: "pingpong/size=64", size: 64, one: true, quick: true, work: pingpong}},
	sizes("in", 64, in, 64, 1<<10, 64<<10, 1<<20),
	sizes("out", 64, out, 64, 1<<10, 64<<10, 1<<20),
	sizes("both", 1<<10, both, 1<<10, 64<<10),
	conc("send", 64, send, 1, 8, 64, 512),
	[]workload{
		{name: "send/size=65536/conc=1", size: 64 << 10, conc: 1, quick: true, prefix: true, work: send},
		{name: "send/size=1048576/conc=1", size: 1 << 20, conc: 1, prefix: true, work: send},
	},
	conc("call", 64, call, 1, 2, 4, 8, 16, 64, 512),
	oneProcessor(conc("call", 0, call, 2, 4, 8, 16)),
	conc("work", 4, callWork, 2, 4, 8, 16),
	oneProcessor(conc("work", 0, callWork, 4, 8, 16)),
	conns(1, 10, 100, 1000, 10000),
	[]workload{
		{name: "idle/conns=1000", conc: 1000, one: true, quick: true},
		{name: "idle/conns=10000", conc: 10000, one: true, prefix: true},
	},
)

func sizes(name string, quick int, work func(*job, client) (phase, error), sizes ...int) (all []workload) {
	for _, size := range sizes {
		all = append(all, workload{name: fmt.Sprintf("%s/size=%d", name, size), size: size, quick: size == quick, work: work})
	}
	return all
}

func conc(name string, quick int, work func(*job, client) (phase, error), conc ...int) (all []workload) {
	for _, k := range conc {
		all = append(all, workload{
			name: fmt.Sprintf("%s/size=64/conc=%d", name, k), size: 64, conc: k,
			one: name == "call" && k == 1, quick: k == quick, calls: name != "send", long: name == "work", work: work,
		})
	}
	return all
}

const oneProcessorSuffix = "/cpus=1"

// oneProcessor has client and server share one: nothing overlaps there. It is for those who share
// the server, too.
func oneProcessor(all []workload) []workload {
	for i := range all {
		all[i].name += oneProcessorSuffix
		all[i].one, all[i].prefix = true, true
	}
	return all
}

const procsSuffix = "/procs="

// withProcs returns w for a client that is not pinned and has that GOMAXPROCS.
func (w workload) withProcs(procs int) workload {
	w.name += procsSuffix + fmt.Sprint(procs)
	w.procs = procs
	return w
}

// base is the name without what withProcs has added to it.
func (w workload) base() string {
	name, _, _ := strings.Cut(w.name, procsSuffix)
	return name
}

func conns(counts ...int) (all []workload) {
	trips := map[int]int{1000: 20, 10000: 5}
	for _, k := range counts {
		all = append(all, workload{
			name: fmt.Sprintf("conns/size=64/conns=%d", k), size: 64, conc: k, one: true, quick: k == 10, trips: trips[k], work: manyConns,
		})
	}
	return all
}

// roundTripper is for contenders whose Receive does not get what they Send.
type roundTripper interface {
	RoundTrip(msg []byte) ([]byte, error)
}

// pingpong sends a message when the answer to the one before has come.
func pingpong(j *job, c client) (phase, error) {
	msg := make([]byte, j.size)
	trip := func() error {
		if err := c.Send(always, msg); err != nil {
			return err
		}
		_, err := c.Receive()
		return err
	}
	if c, ok := c.(roundTripper); ok {
		trip = func() error {
			_, err := c.RoundTrip(msg)
			return err
		}
	}
	return func(n int, start func()) error {
		if err := begin(c, order{opEcho, j.size, n}); err != nil {
			return err
		}
		start()
		return j.repeat(0, n, trip)
	}, nil
}

// repeat calls f n times for goroutine g, and notes how long each takes if asked to.
func (j *job) repeat(g, n int, f func() error) error {
	if j.noted == nil {
		for range n {
			if err := f(); err != nil {
				return err
			}
		}
		return nil
	}
	for range n {
		start := time.Now()
		if err := f(); err != nil {
			return err
		}
		j.noted[g] = append(j.noted[g], int64(time.Since(start)))
	}
	return nil
}

// in receives a stream.
func in(j *job, c client) (phase, error) {
	return func(n int, start func()) error {
		start() // the server begins at once
		if err := begin(c, order{opSource, j.size, n}); err != nil {
			return err
		}
		bytes, err := c.In(n)
		if err == nil && bytes != n*j.size {
			err = fmt.Errorf("%d bytes in %d messages of %d", bytes, n, j.size)
		}
		return err
	}, nil
}

// out writes a stream and waits until the server has it.
func out(j *job, c client) (phase, error) {
	msg := make([]byte, j.size)
	return func(n int, start func()) error {
		if err := begin(c, order{opSink, j.size, n}); err != nil {
			return err
		}
		start()
		if err := c.Out(msg, n); err != nil {
			return err
		}
		return acknowledged(c)
	}, nil
}

// both sends a stream and receives its echo at the same time.
func both(j *job, c client) (phase, error) {
	msg := make([]byte, j.size)
	return func(n int, start func()) error {
		if err := begin(c, order{opEcho, j.size, n}); err != nil {
			return err
		}
		start()
		sent := make(chan error, 1)
		go func() { sent <- c.Out(msg, n) }()
		_, err := c.In(n)
		return errors.Join(err, <-sent)
	}, nil
}

// send has many goroutines Send on one connection.
func send(j *job, c client) (phase, error) {
	msg := make([]byte, j.size)
	return func(n int, start func()) error {
		if err := begin(c, order{opSink, j.size, n}); err != nil {
			return err
		}
		var err error
		if b, ok := c.(batcher); ok && j.floor {
			start()
			for ; n > 0 && err == nil; n -= j.conc {
				err = b.SendBatch(msg, min(n, j.conc))
			}
		} else {
			// Nothing is between the loop and Send: after a switch of goroutines each return is one
			// that the processor did not foresee.
			err = j.share(n, start, func(_, k int) error {
				for range k {
					if err := c.Send(always, msg); err != nil {
						return err
					}
				}
				return nil
			})
		}
		if err != nil {
			return err
		}
		return acknowledged(c)
	}, nil
}

// call has many goroutines Call on one connection.
func call(j *job, c client) (phase, error) { return callTo(opEcho, j, c) }

// callWork is call where the server works on each request.
func callWork(j *job, c client) (phase, error) { return callTo(opWork, j, c) }

func callTo(op byte, j *job, c client) (phase, error) {
	msg := make([]byte, j.size)
	return func(n int, start func()) error {
		if err := begin(c, order{op, j.size + 8, n}); err != nil {
			return err
		}
		if b, ok := c.(batcher); ok && j.floor {
			start()
			for n > 0 {
				k := min(n, j.conc)
				n -= k
				if err := j.repeat(0, 1, func() error { return b.CallBatch(msg, k) }); err != nil {
					return err
				}
			}
			return nil
		}
		caller, ok := c.(caller)
		if !ok {
			return errUnfit
		}
		return j.share(n, start, func(g, k int) error {
			return j.repeat(g, k, func() error {
				_, err := caller.Call(msg)
				return err
			})
		})
	}, nil
}

// share divides n units of work among the goroutines: f does k of them for goroutine g.
func (j *job) share(n int, start func(), f func(g, k int) error) error {
	return together(j.conc, start, func(int) error { return nil }, func(g int) error {
		k := n / j.conc
		if g < n%j.conc {
			k++
		}
		return f(g, k)
	})
}

// together has k goroutines prepare, calls start, and has them work.
func together(k int, start func(), prepare, work func(g int) error) error {
	var ready, done sync.WaitGroup
	var failed atomic.Pointer[error]
	begin := make(chan struct{})
	ready.Add(k)
	for g := range k {
		done.Go(func() {
			err := prepare(g)
			ready.Done()
			<-begin
			if err == nil {
				err = work(g)
			}
			if err != nil {
				failed.Store(&err)
			}
		})
	}
	ready.Wait()
	start()
	close(begin)
	done.Wait()
	if err := failed.Load(); err != nil {
		return *err
	}
	return nil
}

// manyConns plays ping-pong on many connections at once, a goroutine each. The order to the
// server and a first trip, for which stacks and buffers grow, are not measured.
func manyConns(j *job, first client) (phase, error) {
	clients := []client{first}
	for len(clients) < j.conc {
		c, err := j.dial(&j.env)
		if err != nil {
			return nil, err
		}
		clients = append(clients, c)
	}
	msg := make([]byte, j.size)
	trip := func(c client) error {
		if err := c.Send(always, msg); err != nil {
			return err
		}
		_, err := c.Receive()
		return err
	}
	return func(n int, start func()) error {
		per := max(1, n/len(clients))
		return together(len(clients), start, func(g int) error {
			if err := begin(clients[g], order{opEcho, j.size, 1 + per}); err != nil {
				return err
			}
			return trip(clients[g])
		}, func(g int) error {
			return j.repeat(g, per, func() error { return trip(clients[g]) })
		})
	}, nil
}
