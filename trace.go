package tcpclient

import (
	"context"
	"log/slog"
	"sync"
	"time"
)

// A Trace watches a Client connect and lose connections. Every field may be nil.
//
// The functions are called one at a time, in the order of the events, without any lock
// held, and on a goroutine of their own that lives while there are events: a slow one
// delays nothing but those after it. They may call the Client, Close included. Close
// waits for them, up to its second: for all of it if it is called by one of them. What they write
// and others read takes a lock.
//
// After each Connected comes exactly one Disconnected.
type Trace struct {
	// Connecting: an attempt begins. Attempts are counted from 1, until a connection
	// has lasted (see [Backoff]); several addresses are tried within one.
	Connecting func(address string, attempt int)

	// Connected: the connection is ready for messages, TLS and Handshake included.
	Connected func(address string, attempt int, took time.Duration)

	// ConnectFailed: it is not. err is an [*OpError] with Op "dial" or "handshake".
	ConnectFailed func(address string, attempt int, err error)

	// Disconnected: the connection has ended; with ErrClosed if that was our own
	// Close or Shutdown, else with an error that Is ErrDisconnected and its cause.
	Disconnected func(address string, err error)

	// Waiting: the next attempt, with this number, begins after delay.
	Waiting func(attempt int, delay time.Duration)

	// Pong: a ping was answered after rtt.
	Pong func(rtt time.Duration)
}

// SlogTrace returns a Trace that logs to l: failures and losses as warnings, what is in
// order as information, and pongs and attempts for debugging. The attributes are
// "address", "attempt", "took", "delay", "rtt" and "error".
func SlogTrace(l *slog.Logger) *Trace {
	log := func(level slog.Level, msg string, attrs ...slog.Attr) {
		l.LogAttrs(context.Background(), level, msg, attrs...)
	}
	return &Trace{
		Connecting: func(address string, attempt int) {
			log(slog.LevelDebug, "connecting", slog.String("address", address), slog.Int("attempt", attempt))
		},
		Connected: func(address string, attempt int, took time.Duration) {
			log(slog.LevelInfo, "connected", slog.String("address", address), slog.Int("attempt", attempt), slog.Duration("took", took))
		},
		ConnectFailed: func(address string, attempt int, err error) {
			log(slog.LevelWarn, "connect failed", slog.String("address", address), slog.Int("attempt", attempt), slog.Any("error", err))
		},
		Disconnected: func(address string, err error) {
			level := slog.LevelWarn
			if err == ErrClosed {
				level = slog.LevelInfo
			}
			log(level, "disconnected", slog.String("address", address), slog.Any("error", err))
		},
		Waiting: func(attempt int, delay time.Duration) {
			log(slog.LevelInfo, "waiting to reconnect", slog.Int("attempt", attempt), slog.Duration("delay", delay))
		},
		Pong: func(rtt time.Duration) {
			log(slog.LevelDebug, "pong", slog.Duration("rtt", rtt))
		},
	}
}

// A tracer calls the functions of a Trace, on a goroutine that lives while there are
// events.
type tracer struct {
	to *Trace // nil: nobody watches

	mu    sync.Mutex    // guards following
	queue []func()      // events not yet delivered, in order
	idle  chan struct{} // closed when the goroutine ends; nil: there is none
}

func (t *tracer) connecting(address string, attempt int) {
	if t.to != nil && t.to.Connecting != nil {
		t.post(func() { t.to.Connecting(address, attempt) })
	}
}

func (t *tracer) connected(address string, attempt int, took time.Duration) {
	if t.to != nil && t.to.Connected != nil {
		t.post(func() { t.to.Connected(address, attempt, took) })
	}
}

func (t *tracer) connectFailed(address string, attempt int, err error) {
	if t.to != nil && t.to.ConnectFailed != nil {
		t.post(func() { t.to.ConnectFailed(address, attempt, err) })
	}
}

func (t *tracer) disconnected(address string, err error) {
	if t.to != nil && t.to.Disconnected != nil {
		t.post(func() { t.to.Disconnected(address, err) })
	}
}

func (t *tracer) waiting(attempt int, delay time.Duration) {
	if t.to != nil && t.to.Waiting != nil {
		t.post(func() { t.to.Waiting(attempt, delay) })
	}
}

func (t *tracer) pong(rtt time.Duration) {
	if t.to != nil && t.to.Pong != nil {
		t.post(func() { t.to.Pong(rtt) })
	}
}

// post puts an event behind the others.
func (t *tracer) post(event func()) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.queue = append(t.queue, event)
	if t.idle == nil {
		t.idle = make(chan struct{})
		go t.deliver(t.idle)
	}
}

// deliver is the tracer's goroutine. It ends when there are no events. If one of them ends it
// by runtime.Goexit, as t.FailNow does, another goroutine goes on.
func (t *tracer) deliver(idle chan struct{}) {
	defer func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		if len(t.queue) > 0 {
			go t.deliver(idle)
			return
		}
		t.queue, t.idle = nil, nil
		close(idle)
	}()
	for {
		t.mu.Lock()
		if len(t.queue) == 0 {
			t.mu.Unlock()
			return
		}
		event := t.queue[0]
		t.queue = t.queue[1:]
		t.mu.Unlock()
		event()
	}
}

// wait waits until all events are delivered, or it is late.
func (t *tracer) wait(late <-chan time.Time) {
	t.mu.Lock()
	idle := t.idle
	t.mu.Unlock()
	if idle == nil {
		return
	}
	select {
	case <-idle:
	case <-late:
	}
}
