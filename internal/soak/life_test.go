package soak

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	"time"

	"github.com/seed-d0aa0aa7/tcpclient"
	"github.com/seed-d0aa0aa7/tcpclient/internal/testkit"
)

// rest wants that a Client on demand makes no connection while no call needs one: not after
// Dial, nor after a loss that nobody waits for.
func (s *soakCase) rest() {
	client := s.clients[0]
	w := &soakWorker{soakCase: s, index: 0, random: s.random(5), client: client}
	s.model.addWorkers(1)
	attempts := 0
	for range 2 {
		pause(time.Duration(w.random.IntN(20))*time.Millisecond, nil)
		if n := s.model.rounds.attempts(); n != attempts {
			s.fail("P8, C12: there were %d attempts to connect, %d of them without demand", n, n-attempts)
		}
		s.totals.rests.Add(1)
		if w.send(soakClient{client, w}, "send", parcel{kind: parcelSent}, client.Send) != nil {
			return // an attempt may be under way
		}
		w.disconnect(client)
		testkit.Eventually(s.t, "the connection has ended", func() bool { return s.model.paired(s.stats()) })
		attempts = s.model.rounds.attempts()
	}
}

// use lets workers loose on the Client, and ends it in one of several ways.
func (s *soakCase) use(r *rand.Rand) {
	workers := make([]*soakWorker, 1+r.IntN([]int{4, 4, 16}[r.IntN(3)]))
	var working, receiving sync.WaitGroup
	for i := range workers {
		workers[i] = &soakWorker{soakCase: s, index: i, random: s.random(10 + i), client: s.clients[0]}
	}
	s.model.addWorkers(len(workers))
	for _, w := range workers {
		working.Go(w.run)
	}
	for i, client := range s.clients {
		receiver := &soakWorker{soakCase: s, random: s.random(500 + i), client: client}
		receiving.Go(receiver.receive)
	}
	life := 1500 * time.Millisecond
	if s.dialer.Reconnect != nil {
		life = 4 * time.Second
	}
	pause(time.Duration(r.Float64()*float64(min(life, s.totals.length/4))), nil)

	calm, shut, twice := r.IntN(2) == 0, r.IntN(2) == 0, r.IntN(4) == 0
	if calm {
		close(s.stop)
		s.join("the workers", &working)
		last := workers[0]
		for range r.IntN(20) {
			if !s.pooled() {
				last.write(soakClient{last.client, last})
			}
		}
	}
	s.closing.Store(true)
	orderly := calm
	if twice {
		working.Go(func() { s.close() })
	}
	if shut {
		ctx, cancel := context.WithTimeout(context.Background(), time.Duration(r.IntN(1000))*time.Millisecond)
		err := s.user.Shutdown(ctx)
		s.check(ctx, "shutdown", err)
		cancel()
		orderly = orderly && err == nil
		if !twice && (err == nil || !s.pooled() && errors.Is(err, tcpclient.ErrDisconnected)) { // else it may not have begun
			s.join("the receivers", &receiving)
			s.model.allReceived = true
		}
	}
	starved, began := s.totals.starved.Load(), time.Now()
	err := s.close()
	if s.totals.starved.Load() > starved || time.Since(began) > time.Second { // after its second Close gives up
		testkit.Eventually(s.t, "the Client has ended", func() bool { return s.model.paired(s.stats()) && s.forgotten() == nil })
	}
	if !calm {
		close(s.stop)
	}
	s.join("the workers", &working)
	s.join("the receivers", &receiving)
	s.model.ended(s.stats(), orderly && err == nil && !twice)
}

// checkForgotten fails if a connection is not closed. Nobody waits for the Close of a tunnel that
// was lost.
func (s *soakCase) checkForgotten() {
	if s.tunnel {
		testkit.Eventually(s.t, "all tunnels are closed", func() bool { return s.forgotten() == nil })
	}
	if conn := s.forgotten(); conn != nil {
		s.fail("P6: connection %v was not closed", conn.LocalAddr())
	}
}

// forgotten returns a connection that is not closed. To count descriptors is not enough:
// the garbage collector closes those without a reference.
func (s *soakCase) forgotten() net.Conn {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, conn := range s.dialed {
		if !errors.Is(conn.SetDeadline(time.Time{}), net.ErrClosed) {
			return conn
		}
	}
	return nil
}

// close closes the Client.
func (s *soakCase) close() (err error) {
	took := s.timed("P7: Close", soakClose, func() { err = s.user.Close() })
	for old := s.totals.slowest.Load(); int64(took) > old && !s.totals.slowest.CompareAndSwap(old, int64(took)); {
		old = s.totals.slowest.Load()
	}
	return err
}

// timed fails if f takes longer than budget, or more on a machine that is busy otherwise:
// there each of the goroutines that f waits for is late.
func (s *soakCase) timed(what string, budget time.Duration, f func()) time.Duration {
	began, starved := time.Now(), s.totals.starved.Load()
	f()
	took := time.Since(began)
	budget += 5 * time.Duration(s.totals.starved.Load()-starved)
	if took > budget {
		s.fail("%s took %v, want at most %v", what, took, budget)
	}
	return took
}

// join waits for goroutines that have nothing to wait for. One that is stuck is the end
// of the run: its Client cannot be got rid of.
func (s *soakCase) join(what string, g *sync.WaitGroup) {
	done := make(chan struct{})
	go func() { defer close(done); g.Wait() }()
	select {
	case <-done:
	case <-time.After(testkit.Patience):
		panic(fmt.Sprintf("-seed=%d, case %s: %s did not return\n%s", s.seed, s.name, what, testkit.Stacks()))
	}
}

// check fails if err is not one that may come of op.
func (s *soakCase) check(ctx context.Context, op string, err error) {
	if err == nil {
		return
	}
	var e *tcpclient.OpError
	switch {
	case !errors.As(err, &e):
		s.fail("P9: %s: not an OpError: %v", op, err)
	case errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded):
		if ctx.Err() == nil || !errors.Is(err, ctx.Err()) {
			s.fail("P2: %s: %v, but its context says %v", op, err, ctx.Err())
		}
	case errors.Is(err, tcpclient.ErrClosed):
		if !s.closing.Load() {
			s.fail("P9: %s: %v, but we have not closed", op, err)
		}
	case (op == "call" || op == "replies") && errors.Is(err, tcpclient.ErrInboxFull), op == "dial":
	case !errors.Is(err, tcpclient.ErrDisconnected):
		s.fail("P9: %s: unexpected: %v", op, err)
	case tcpclient.Classify(err) != tcpclient.ClassDisconnected:
		s.fail("P9: %s: class %v: %v", op, tcpclient.Classify(err), err)
	}
}

// final reports whether the Client has ended.
func (s *soakCase) final(err error) bool {
	return errors.Is(err, tcpclient.ErrClosed) || s.dialer.Reconnect == nil && errors.Is(err, tcpclient.ErrDisconnected)
}
