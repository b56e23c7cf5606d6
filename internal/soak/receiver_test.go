package soak

import (
	"context"
	"errors"
	"runtime"
	"time"

	"github.com/seed-d0aa0aa7/tcpclient"
)

// receive takes what comes until the Client has ended, by all three methods.
func (w *soakWorker) receive() {
	var owned []byte // by us: no other goroutine writes there
	var buf []byte
	var last error
	taken := func(msg []byte, err error) (more bool) {
		if err == nil {
			w.model.received(msg)
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
		w.model.lost(err)
		return true
	}
	for more := true; more; {
		switch w.random.IntN(3) {
		case 0:
			w.attempt("receive", func(ctx context.Context) error {
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
			w.attempt("receive", func(ctx context.Context) (err error) {
				buf, err = w.client.ReceiveInto(ctx, buf)
				more = taken(buf, err)
				return err
			})
		default:
			w.attempt("receive", func(ctx context.Context) error {
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
	w.dozing.Store(true)
	defer w.dozing.Store(false)
	defer w.dozed.Add(int64(d))
	pause(d, w.ended)
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
