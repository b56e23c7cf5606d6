package soak

import (
	"context"
	"errors"
	"io"
	"runtime"
	"time"

	"github.com/seed-d0aa0aa7/tcpclient"
)

// Those who make calls, and look at what they get.

// soakStall is less than an Inbox has to be full for a call to end of that.
const soakStall = 700 * time.Millisecond

// ask makes a Call, or reads its replies in a loop.
func (w *soakWorker) ask(to soakCaller) error {
	if w.random.IntN(2) == 0 {
		return w.call(to)
	}
	return w.replies(to)
}

// wanted draws how many replies a call has.
func (w *soakWorker) wanted() int {
	if w.dialer.More == nil {
		return 1
	}
	switch n := w.random.IntN(20); {
	case n < 8:
		return 1
	case n < 18:
		return 2 + w.random.IntN(10)
	}
	return 2 + w.random.IntN(200)
}

// call makes a Call and looks at the replies: all, or an error.
func (w *soakWorker) call(to soakCaller) error {
	return w.send(to, "call", parcel{kind: parcelCall, part: w.wanted()}, func(ctx context.Context, msg []byte) error {
		call, _ := unpack(0, msg)
		began := time.Now()
		reply, err := to.Call(ctx, msg)
		if err != nil {
			w.checkFull(call, time.Since(began), err)
			return err
		}
		w.totals.calls.Add(1)
		parts := 0
		for rest := reply; len(rest) > 0; parts++ { // the Correlator has taken the id off
			var p parcel
			if p, rest, err = unpackFirst(rest); err != nil {
				w.fail("P1: a Call got %v", err)
				return nil
			}
			w.model.reads(call, p)
		}
		if parts != call.part {
			w.fail("P1: a Call got %d of %d replies", parts, call.part)
		}
		if most := w.inbox(); parts > 1 && len(reply) > most {
			w.fail("P6: a Call got %d bytes, the Inbox has %d", len(reply), most)
		}
		return nil
	})
}

// inbox returns how many bytes there are for Receive, and for one Call.
func (s *soakCase) inbox() int {
	if s.dialer.Inbox > 0 {
		return s.dialer.Inbox
	}
	return 256 << 10
}

// checkFull wants a call that ends because the Inbox is full to have waited for long, or to have got
// too much.
func (w *soakWorker) checkFull(call parcel, took time.Duration, err error) {
	var e *tcpclient.OpError
	if !errors.Is(err, tcpclient.ErrInboxFull) || took > soakStall || errors.As(err, &e) && e.Unsent {
		return // if it was not sent, others have waited for longer
	}
	w.model.mu.Lock()
	defer w.model.mu.Unlock()
	if a := w.model.answersLocked(call); a.wanted == 1 || a.bytes <= w.inbox() {
		w.fail("P6: after %v: %v, but there were %d bytes of %+v", took, err, a.bytes, call)
	}
}

// replies reads replies in a loop, which it may leave.
func (w *soakWorker) replies(to soakCaller) error {
	return w.send(to, "replies", parcel{kind: parcelCall, part: w.wanted()}, func(ctx context.Context, msg []byte) (failure error) {
		call, _ := unpack(0, msg)
		leave := 0 // after so many; 0: it does not
		if w.random.IntN(4) == 0 {
			leave = 1 + w.random.IntN(call.part)
		}
		read := 0
		began := time.Now()
		for reply, err := range to.Replies(ctx, msg) {
			switch {
			case failure != nil:
				w.fail("P9: a loop over Replies goes on after %v", failure)
			case err != nil:
				failure = err
				w.checkEnd(call, read, reply, time.Since(began), err)
				continue
			}
			clear(msg) // it was only borrowed until the loop began
			w.look(to, call, reply)
			if read++; read == leave {
				w.totals.left.Add(1)
				return nil
			}
		}
		if failure == nil && read != call.part {
			w.fail("P1: a loop over Replies ended after %d of %d replies without an error", read, call.part)
		}
		return failure
	})
}

// look takes the time that it takes to work with a reply, or to make another call.
func (w *soakWorker) look(to soakCaller, call parcel, reply []byte) {
	p, err := unpack(0, reply)
	if err != nil {
		w.fail("P1: a loop over Replies got %v", err)
		return
	}
	w.model.reads(call, p)
	switch n := w.random.IntN(1000); {
	case n < 5:
		w.doze(time.Duration(w.random.IntN(300)) * time.Millisecond)
	case n < 100: // so that others have come, and the end
		w.doze(time.Duration(w.random.IntN(5)) * time.Millisecond)
	case n < 110 && w.dialer.MaxInFlight == 0: // else it may have taken the last place itself
		w.dozes.during(func() { w.call(to) })
	case n < 200:
		runtime.Gosched()
	}
	if again, err := unpack(0, reply); err != nil || again != p {
		w.fail("P1: a reply was overwritten before the next was asked for: %v", err)
	}
}

// checkEnd looks at the error that a loop over Replies has ended with, after so many replies.
func (w *soakWorker) checkEnd(call parcel, read int, reply []byte, took time.Duration, err error) {
	var e *tcpclient.OpError
	switch {
	case reply != nil:
		w.fail("P9: a loop over Replies got %.20q and %v", reply, err)
	case read == call.part:
		w.fail("P9: a loop over Replies got all %d, and then %v", read, err)
	case read > 0 && errors.As(err, &e) && e.Unsent:
		w.fail("P4: unsent, and %d replies have come: %v", read, err)
	case read == 0:
		w.checkFull(call, took, err)
	}
	if errors.Is(err, tcpclient.ErrDisconnected) && errors.Is(err, io.EOF) {
		w.model.endsInOrder(call)
	}
}
