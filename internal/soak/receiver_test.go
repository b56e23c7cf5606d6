package soak

import (
	"context"
	"errors"
	"runtime"
	"sync"
	"time"

	"github.com/seed-d0aa0aa7/tcpclient"
)

// receive takes what comes until the Client has ended, by all three methods.
func (w *soakWorker) receive() {
	stream := w.model.newStream()
	var owned []byte // by us: no other goroutine writes there
	var buf []byte
	var last error
	taken := func(msg []byte, err error) (more bool) {
		if err == nil {
			stream.received(msg)
			switch n := w.random.IntN(1000); {
			case n < 2:
				w.doze(time.Duration(w.random.IntN(1500)) * time.Millisecond)
			case n < 200:
				runtime.Gosched()
			}
			if _, err := unpack(w.prefix, msg); err != nil {
				w.fail("P1: a message was overwritten before the next was asked for: %v", err)
			}
			return true
		}
		if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
			return true // it may say, too, why there is no connection
		}
		if !errors.Is(err, tcpclient.ErrDisconnected) {
			return !errors.Is(err, tcpclient.ErrClosed)
		}
		reason := errors.Unwrap(err)
		if reason == last { //nolint:errorlint // the same error, not one that wraps it
			return false // once more: it stays
		}
		last = reason
		stream.lost(err)
		return true
	}
	for more := true; more; {
		switch w.random.IntN(3) {
		case 0:
			w.attempt(nil, "receive", func(ctx context.Context) error {
				msg, err := w.client.Receive(ctx)
				if owned != nil {
					if _, err := unpack(w.prefix, owned); err != nil {
						w.fail("a message that Receive has returned was overwritten: %v", err)
					}
				}
				owned = msg
				more = taken(msg, err)
				return err
			})
		case 1:
			w.attempt(nil, "receive", func(ctx context.Context) (err error) {
				buf, err = w.client.ReceiveInto(ctx, buf)
				more = taken(buf, err)
				return err
			})
		default:
			w.attempt(nil, "receive", func(ctx context.Context) error {
				left := w.random.IntN(100)
				for msg, err := range w.client.Messages(ctx) {
					more = taken(msg, err)
					if err != nil || left == 0 {
						return err
					}
					left--
				}
				return nil
			})
		}
	}
}

// doze lets the Inbox fill.
func (w *soakWorker) doze(d time.Duration) {
	w.dozes.during(func() { pause(d, w.ended) })
}

// soakDozes are the times in which one that receives, or reads replies, does not, so that the
// Inbox may be full.
type soakDozes struct {
	mu     sync.Mutex // guards following
	dozers int
	since  time.Time // there are some
	before time.Duration
}

// during calls f, which is a doze.
func (d *soakDozes) during(f func()) {
	d.add(1)
	defer d.add(-1)
	f()
}

func (d *soakDozes) add(n int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	now := time.Now()
	if d.dozers > 0 {
		d.before += now.Sub(d.since)
	}
	d.dozers += n
	d.since = now
}

// sum returns how long it has been so.
func (d *soakDozes) sum() time.Duration {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.dozers == 0 {
		return d.before
	}
	return d.before + time.Since(d.since)
}

// A soakStream is what one Client receives: all pushes of a connection from the first one on, and a
// loss between those of two.
type soakStream struct {
	m *soakModel

	// Guarded by m.mu.
	from       int         // the connection of the last push; -1: there was none
	pushed     map[int]int // pushes received, by connection
	lossBefore bool        // there was a loss since the last push
}

func (m *soakModel) newStream() *soakStream {
	return &soakStream{m: m, from: -1, pushed: map[int]int{}}
}

// received checks what comes from Receive.
func (t *soakStream) received(msg []byte) {
	m := t.m
	p, err := unpack(m.s.prefix, msg)
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case err != nil:
		m.s.fail("P1: Receive got %v", err)
	case p.kind != parcelPush:
		m.s.fail("Receive got %c %+v", p.kind, p)
	case p.number != t.pushed[p.from]:
		m.s.fail("P1, P3: Receive got push %d of connection %d, want %d", p.number, p.from+1, t.pushed[p.from])
	case p.from < t.from, p.from > t.from && t.from >= 0 && !t.lossBefore:
		m.s.fail("P8: Receive got push %d of connection %d after one of connection %d (loss reported: %v)",
			p.number, p.from+1, t.from+1, t.lossBefore)
	}
	t.from, t.lossBefore = p.from, false
	t.pushed[p.from] = p.number + 1
	m.s.totals.pushes.Add(1)
}

// lost notes a loss that Receive has told of.
func (t *soakStream) lost(err error) {
	m := t.m
	m.rounds.told(err)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.seen++
	t.lossBefore = true
}

// pause lets d pass, or less when ended is closed: load, not a way to wait for something.
func pause(d time.Duration, ended <-chan struct{}) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ended:
	}
}
