package testkit

import (
	"sync"
	"testing"
	"time"
)

// A Stopwatch measures time in which this process gets its turns. While a busy machine keeps it waiting it can
// do nothing in time, which says nothing about the library.
type Stopwatch struct {
	began time.Time
	mu    sync.Mutex    // guards following
	ran   time.Duration // up to last
	last  time.Time
}

const (
	stopwatchBeat = 5 * time.Millisecond

	// stopwatchMost is what counts at most between two beats. Close counts as much between two looks.
	stopwatchMost = 20 * time.Millisecond
)

// StartStopwatch starts one, which goes on until the test ends. It is for real time: in a synctest bubble
// [time.Since] is exact.
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

// Ran is the time since the start, without the process's waits for its turn: for upper bounds.
func (s *Stopwatch) Ran() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	s.ran += min(now.Sub(s.last), stopwatchMost)
	s.last = now
	return s.ran
}

// Elapsed is all the time since the start: for lower bounds.
func (s *Stopwatch) Elapsed() time.Duration { return time.Since(s.began) }
