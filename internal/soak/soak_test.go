package soak

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"net"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/seed-d0aa0aa7/tcpclient"
	"github.com/seed-d0aa0aa7/tcpclient/internal/testkit"
	"github.com/seed-d0aa0aa7/tcpclient/pool"
	"github.com/seed-d0aa0aa7/tcpclient/tcpclienttest"
	"github.com/stretchr/testify/require"
)

var (
	soakFor  = flag.Duration("soak", 0, "how long TestSoak runs; 0: 1.5 s, or 200 ms with -short")
	soakSeed = flag.Uint64("seed", 0, "what TestSoak draws its faults from; 0: at random")
)

const (
	soakLanes   = 6                      // cases at a time
	soakTimeout = 300 * time.Millisecond // WriteTimeout, FrameTimeout and so on
	soakGrace   = 500 * time.Millisecond // for a connection to end in which a reply is overdue
	soakMargin  = 5 * time.Second        // for a call to return after its context has ended
	soakEnough  = 200                    // cases, of which some are about each thing
	soakClose   = 2 * time.Second        // for Close, which promises one
)

// TestSoak runs cases, each a Client or a Pool with a server of its own and faults drawn at
// random, and compares what its callers were told with what has arrived. It goes on until Calls, loops
// over Replies, Sessions and Pools have had a part:
//
//	go test -race ./internal/soak -run '^TestSoak$' -soak=1m -seed=N
//
// The seed decides on settings, faults, sizes and contexts. The scheduler has its part in
// what comes of them, so that a failure may take more than one run to come again; with
// -run '^TestSoak$/^17_' a run is one of case 17 alone.
func TestSoak(t *testing.T) {
	seed := *soakSeed
	if seed == 0 {
		seed = rand.Uint64()
	}
	length := *soakFor
	switch {
	case length == 0 && testing.Short():
		length = 200 * time.Millisecond
	case length == 0:
		length = 1500 * time.Millisecond
	}
	t.Logf("-soak=%v -seed=%d", length, seed)
	totals := soakTotals{length: length}
	done := make(chan struct{})
	var watching sync.WaitGroup
	watching.Go(func() { totals.watch(done) })
	defer watching.Wait()
	defer close(done)
	soakRun(t, seed, 0, &totals) // whatever is allocated once is not a leak
	alive, files, memory := runtime.NumGoroutine(), testkit.OpenFiles(t), testkit.MemoryInUse()

	var next atomic.Int64
	var lanes sync.WaitGroup
	deadline := time.Now().Add(length)
	for range soakLanes {
		lanes.Go(func() {
			for totals.failed.Load() < 3 && (time.Now().Before(deadline) || !totals.complete() && next.Load() < soakEnough) {
				soakRun(t, seed, int(next.Add(1)), &totals)
			}
		})
	}
	lanes.Wait()
	t.Log(totals.String())
	require.True(t, totals.complete() || totals.ran.Load() < soakEnough, "everything had a part")
	testkit.RequireNoGoroutines(t)
	testkit.Eventually(t, "all goroutines have ended", func() bool { return runtime.NumGoroutine() <= alive })
	testkit.Eventually(t, "all descriptors are closed", func() bool { return testkit.OpenFiles(t) <= files })
	require.Less(t, testkit.MemoryInUse(), memory+8<<20, "P6: bytes in use after %d cases", next.Load())
}

// A soakCase is a Client or a Pool, its server, those who use it, and the model of both.
type soakCase struct {
	t          *testing.T
	seed       uint64
	number     int
	name       string
	transport  string
	mode       string
	prefix     int  // bytes in front of a parcel
	choosesIDs bool // the application does, of some calls
	handshake  bool
	delivers   bool // the server's first push comes before its answer to the handshake
	tunnel     bool
	switches   bool     // there are calls of Disconnect
	addresses  []string // one or two
	perAddress int      // Clients of a Pool; 0: there is none
	dialer     tcpclient.Dialer
	model      *soakModel
	totals     *soakTotals

	clients  []*tcpclient.Client // one, or those of the Pool
	pool     *pool.Pool          // nil: none
	user     soakUser            // the one or the other
	stop     chan struct{}       // closed when the workers are to leave
	closing  atomic.Bool         // Close or Shutdown may have been called
	ended    chan struct{}       // closed with the Client
	failures atomic.Int64
	dozes    soakDozes

	mu     sync.Mutex // guards following
	dialed []net.Conn // the Client's connections, where DialContext makes them
}

// soakRun runs one case as a subtest.
func soakRun(t *testing.T, seed uint64, number int, totals *soakTotals) {
	s := &soakCase{seed: seed, number: number, totals: totals, stop: make(chan struct{}), ended: make(chan struct{})}
	s.draw()
	totals.cases.Add(1)
	if !t.Run(s.name, func(t *testing.T) {
		s.t = t
		totals.ran.Add(1)
		s.run()
	}) {
		totals.failed.Add(1)
	}
}

// random returns a source of its own for each part of the case.
func (s *soakCase) random(part int) *rand.Rand {
	return rand.New(rand.NewPCG(s.seed, uint64(s.number)<<16+uint64(part)))
}

// excused returns for how long replies that were due did not count.
func (s *soakCase) excused() time.Duration {
	return time.Duration(2*s.totals.starved.Load()) + s.dozes.sum()
}

// fail reports what must not happen.
func (s *soakCase) fail(format string, args ...any) {
	if s.failures.Add(1) > 5 {
		return // one thing leads to another
	}
	s.t.Errorf("-seed=%d, case %s: %s", s.seed, s.name, fmt.Sprintf(format, args...))
}

func (s *soakCase) run() {
	listen := testkit.ListenTCP
	if s.transport == "unix" {
		listen = testkit.ListenUnix
	}
	server := &soakServer{s: s, shut: -1, ending: s.ended}
	var network string
	for i := range s.addresses {
		l := listen(s.t)
		network, s.addresses[i] = l.Network, l.Addr().String()
		server.listeners = append(server.listeners, l)
	}
	if r := s.random(4); len(s.addresses) > 1 && s.dialer.Reconnect != nil && r.IntN(2) == 0 {
		server.shut = r.IntN(2)
	}
	if s.transport == "tls" {
		server.tls, s.dialer.TLSConfig = tcpclienttest.NewTLSConfig()
	}
	for i := range s.addresses {
		server.running.Go(func() { server.accept(i) })
	}

	ctx, cancel := context.WithTimeout(context.Background(), 4*soakTimeout)
	defer cancel()
	var err error
	s.timed("Dial", 4*soakTimeout+soakMargin, func() { err = s.dial(ctx, network) })
	if err != nil {
		s.totals.failedDials.Add(1)
		s.check(ctx, "dial", err)
	} else {
		if s.dialer.Reconnect != nil && s.dialer.Reconnect.OnDemand {
			s.rest()
		}
		s.use(s.random(1))
	}
	s.checkForgotten()
	server.close()
	s.model.verify(server.conns)
}

// A soakUser is a Client or a Pool.
type soakUser interface {
	Shutdown(ctx context.Context) error
	Close() error
}

// dial makes the Client or the Pool.
func (s *soakCase) dial(ctx context.Context, network string) error {
	if s.pooled() {
		p, err := pool.Dial(ctx, &s.dialer, network, s.perAddress, s.addresses...)
		if err == nil {
			s.user, s.pool, s.clients = p, p, p.Clients()
		}
		return err
	}
	c, err := s.dialer.Dial(ctx, network, s.addresses...)
	if err == nil {
		s.user, s.clients = c, []*tcpclient.Client{c}
	}
	return err
}

// stats returns the Stats of all Clients together.
func (s *soakCase) stats() (all tcpclient.Stats) {
	for _, c := range s.clients {
		one := c.Stats()
		all.Connects += one.Connects
		all.Connected = all.Connected || one.Connected
		all.LateReplies += one.LateReplies
		all.TraceDropped += one.TraceDropped
	}
	return all
}
