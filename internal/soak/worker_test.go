package soak

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"github.com/seed-d0aa0aa7/tcpclient"
)

// A soakWorker is one goroutine that uses the Client.
type soakWorker struct {
	*soakCase
	index  int
	random *rand.Rand
}

// run sends and calls until it is told to stop or the Client has ended.
func (w *soakWorker) run() {
	for {
		select {
		case <-w.stop:
			return
		default:
		}
		var err error
		switch n := w.random.IntN(20); {
		case n < 8:
			err = w.send("send", parcelSent, w.client.Send)
		case n < 14 && w.mode != soakPushes:
			err = w.call()
		case n < 19:
			err = w.burst()
		case w.switches && w.random.IntN(20) == 0:
			w.disconnect()
		default:
			pause(time.Duration(w.random.IntN(5))*time.Millisecond, w.stop)
		}
		if err != nil && w.failsFast() {
			pause(time.Millisecond, w.stop)
		}
		if w.final(err) {
			return
		}
	}
}

// attempt makes one call with a context that may end at any time.
func (w *soakWorker) attempt(op string, f func(ctx context.Context) error) error {
	budget := time.Second
	switch w.random.IntN(10) {
	case 0:
		budget = time.Duration(w.random.IntN(2000)) * time.Microsecond
	case 1:
		budget = time.Duration(w.random.IntN(100)) * time.Millisecond
	}
	ctx, cancel := context.WithTimeout(context.Background(), budget)
	defer cancel()
	if w.random.IntN(2) == 0 {
		ctx, cancel = context.WithCancel(context.Background())
		defer cancel()
		defer time.AfterFunc(budget, cancel).Stop()
	}
	var err error
	before, starved := w.client.Stats(), w.totals.starved.Load()
	without := op != "receive" && w.failsFast() && !w.dialer.Reconnect.OnDemand && w.model.paired(before)
	took := w.timed("P2: "+op, budget+soakMargin, func() { err = f(ctx) })
	w.check(ctx, op, err)
	if without && w.client.Stats().Connects == before.Connects {
		w.checkFast(ctx, op, took-5*time.Duration(w.totals.starved.Load()-starved), err)
	}
	return err
}

func (s *soakCase) failsFast() bool {
	return s.dialer.Reconnect != nil && s.dialer.Reconnect.FailFast
}

// checkFast wants a call for which there was no connection to have failed at once, and to say that
// the peer has seen nothing.
func (s *soakCase) checkFast(ctx context.Context, op string, took time.Duration, err error) {
	var e *tcpclient.OpError
	switch {
	case took > soakTimeout:
		s.fail("P8: %s took %v to find that there is no connection: %v", op, took, err)
	case op == "flush" || ctx.Err() != nil:
	case !errors.As(err, &e) || !e.Unsent:
		s.fail("P4: %s without a connection: not unsent: %v", op, err)
	}
}

// disconnect ends the connection that there is.
func (w *soakWorker) disconnect() {
	cause := &soakCauseError{}
	before := w.client.Stats()
	w.client.Disconnect(cause)
	conn := 0
	if before.Connected && w.client.Stats().Connects == before.Connects && !w.closing.Load() {
		conn = int(before.Connects)
	}
	w.model.rounds.gave(cause, conn)
}

// send sends one parcel by one of the Client's methods, and takes note of its fate.
func (w *soakWorker) send(op string, kind byte, method func(ctx context.Context, msg []byte) error) error {
	number := w.model.sending(w.index)
	msg := parcel{kind, w.index, number}.pack(w.prefix, parcelFiller(w.random))
	if kind == parcelCall {
		msg = msg[w.prefix:] // the Correlator has a prefix of its own
	}
	before := w.client.Stats().Connects
	err := w.attempt(op, func(ctx context.Context) error { return method(ctx, msg) })
	conn := int(before)
	if w.client.Stats().Connects != before {
		conn = 0 // one of several
	}
	for i := range msg {
		msg[i] = 0xEE // it was only borrowed
	}
	var e *tcpclient.OpError
	switch {
	case err == nil && op == "write":
		w.model.told(w.index, number, soakWritten, conn)
	case err == nil:
		w.totals.sent.Add(1)
		w.model.told(w.index, number, soakHanded, conn)
	case errors.As(err, &e) && e.Unsent:
		w.totals.unsent.Add(1)
		w.model.told(w.index, number, soakUnsent, 0)
	default:
		w.totals.unknown.Add(1)
		w.model.told(w.index, number, soakUnknown, 0)
	}
	return err
}

func (w *soakWorker) write() error { return w.send("write", parcelSent, w.client.Write) }

// call makes a Call and looks at the reply.
func (w *soakWorker) call() error {
	return w.send("call", parcelCall, func(ctx context.Context, msg []byte) error {
		want, _ := unpack(0, msg)
		want.kind = parcelReply
		reply, err := w.client.Call(ctx, msg)
		if err != nil {
			return err
		}
		w.totals.calls.Add(1)
		if got, err := unpack(0, reply); err != nil { // the Correlator has taken the id off
			w.fail("P1: a Call got %v", err)
		} else if got != want {
			w.fail("a Call got %+v, want %+v", got, want)
		}
		return nil
	})
}

// burst writes some parcels and, mostly, flushes.
func (w *soakWorker) burst() error {
	before := w.client.Stats().Connects
	first := w.model.sentBy(w.index)
	for range 1 + w.random.IntN(20) {
		if err := w.write(); err != nil {
			return err
		}
	}
	if w.random.IntN(5) == 0 {
		return nil
	}
	err := w.attempt("flush", w.client.Flush)
	if err == nil && w.client.Stats().Connects == before {
		n := w.model.flushed(w.index, first)
		w.totals.sent.Add(int64(n))
	}
	return err
}
