package testkit

import (
	"sync"
	"testing"
	"time"
)

// A Stopwatch measures how long this process has run. What a busy machine gives to others in the meantime is no
// fault of the library: it counts in no bound of a test.
type Stopwatch struct {
	mu    sync.Mutex // guards following
	began time.Time
	ran   time.Duration // up to last
	last  time.Time
}

const (
	stopwatchBeat = 5 * time.Millisecond

	// stopwatchMost is how much passes between two beats of a process that runs.
	stopwatchMost = 2 * stopwatchBeat
)

// StartStopwatch starts one, which goes on until the test ends.
func StartStopwatch(t testing.TB) *Stopwatch {
	now := time.Now()
	s := &Stopwatch{began: now, last: now}
	over := make(chan struct{})
	var beating sync.WaitGroup
	beating.Go(func() {
		beat := time.NewTicker(stopwatchBeat)
		defer beat.Stop()
		for {
			select {
			case <-beat.C:
				s.Ran()
			case <-over:
				return
			}
		}
	})
	t.Cleanup(func() {
		close(over)
		beating.Wait()
	})
	return s
}

// Ran is how long the process has run since the start.
func (s *Stopwatch) Ran() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	s.ran += min(now.Sub(s.last), stopwatchMost)
	s.last = now
	return s.ran
}

// Elapsed is how much time has passed since the start.
func (s *Stopwatch) Elapsed() time.Duration { return time.Since(s.began) }
