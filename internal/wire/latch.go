package wire

import (
	"sync"
	"sync/atomic"
)

// A Latch is closed once, as a channel may be. Unlike that it costs little as long as no one waits.
// Its zero value is open.
type Latch struct {
	closed atomic.Bool

	mu   sync.Mutex    // guards following
	wait chan struct{} // closed when the Latch is; nil: no one waits
}

// Close closes the Latch. It is called once.
func (l *Latch) Close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed.Store(true)
	if l.wait != nil {
		close(l.wait)
	}
}

// IsClosed reports whether the Latch is closed. It takes no lock.
func (l *Latch) IsClosed() bool { return l.closed.Load() }

// Wait returns a channel that is closed when the Latch is.
func (l *Latch) Wait() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.wait == nil {
		l.wait = make(chan struct{})
		if l.closed.Load() {
			close(l.wait)
		}
	}
	return l.wait
}
