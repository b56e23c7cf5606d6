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
	index     int
	random    *rand.Rand
	client    *tcpclient.Client
	lastCause *soakCauseError // of its last Disconnect; nil: none
}

// run sends and calls until it is told to stop or the Client has ended.
func (w *soakWorker) run() {
	for {
		select {
		case <-w.stop:
			return
		default:
		}
		err := w.next()
		if err != nil && w.failsFast() {
			pause(time.Millisecond, w.stop)
		}
		if w.final(err) {
			return
		}
	}
}

// next does what comes next.
func (w *soakWorker) next() error {
	if w.pooled() {
		return w.nextOfPool()
	}
	client := soakClient{w.client, w}
	switch n := w.random.IntN(20); {
	case n < 18:
		return w.operate(client)
	case n == 18:
		return w.transaction(client)
	case w.switches && w.random.IntN(20) == 0:
		w.disconnect(w.client)
	default:
		pause(time.Duration(w.random.IntN(5))*time.Millisecond, w.stop)
	}
	return nil
}

// attempt makes one call with a context that may end at any time. to is nil for Receive.
func (w *soakWorker) attempt(to soakCaller, op string, f func(ctx context.Context) error) error {
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
	check := func(context.Context, time.Duration, error) {}
	if to != nil {
		check = to.expect(op)
	}
	var err error
	starved := w.totals.starved.Load()
	took := w.timed("P2: "+op, budget+soakMargin, func() { err = f(ctx) })
	w.check(ctx, op, err)
	check(ctx, took-5*time.Duration(w.totals.starved.Load()-starved), err)
	return err
}

// disconnect ends the connection that there is.
func (w *soakWorker) disconnect(client *tcpclient.Client) {
	cause := &soakCauseError{}
	before := client.Stats()
	client.Disconnect(cause)
	conn := 0
	if before.Connected && client.Stats().Connects == before.Connects && !w.closing.Load() && !w.pooled() {
		conn = int(before.Connects)
	}
	w.model.rounds.gave(cause, conn)
	w.lastCause = cause
}

// send sends one parcel by one of the methods of to, and takes note of its fate.
func (w *soakWorker) send(to soakCaller, op string, p parcel, method func(ctx context.Context, msg []byte) error) error {
	before, session := to.place()
	p.from, p.number = w.index, w.model.sending(w.index, p, session)
	msg := p.pack(w.prefix, parcelFiller(w.random))
	if p.kind == parcelCall {
		msg = msg[w.prefix:] // the Correlator has a prefix of its own
	}
	err := w.attempt(to, op, func(ctx context.Context) error { return method(ctx, msg) })
	conn, _ := to.place()
	if conn != before {
		conn = 0 // one of several
	}
	for i := range msg {
		msg[i] = 0xEE // it was only borrowed
	}
	var e *tcpclient.OpError
	switch {
	case err == nil && op == "write":
		w.model.told(p, soakWritten, conn)
	case err == nil:
		w.totals.sent.Add(1)
		w.model.told(p, soakHanded, conn)
	case errors.As(err, &e) && e.Unsent:
		w.totals.unsent.Add(1)
		w.model.told(p, soakUnsent, 0)
	default:
		w.totals.unknown.Add(1)
		w.model.told(p, soakUnknown, 0)
	}
	return err
}

// operate uses one of the methods of to, if the case has it.
func (w *soakWorker) operate(to soakSender) error {
	switch n := w.random.IntN(19); {
	case n < 8:
		return w.send(to, "send", parcel{kind: parcelSent}, to.Send)
	case n < 14 && w.mode != soakPushes:
		return w.ask(to)
	default:
		return w.burst(to)
	}
}

func (w *soakWorker) write(to soakSender) error {
	return w.send(to, "write", parcel{kind: parcelSent}, to.Write)
}

// burst writes some parcels and, mostly, flushes.
func (w *soakWorker) burst(to soakSender) error {
	before, _ := to.place()
	first := w.model.sentBy(w.index)
	for range 1 + w.random.IntN(20) {
		if err := w.write(to); err != nil {
			return err
		}
	}
	if w.random.IntN(5) == 0 {
		return nil
	}
	err := w.attempt(to, "flush", to.Flush)
	if conn, _ := to.place(); err == nil && conn == before {
		n := w.model.flushed(w.index, first)
		w.totals.sent.Add(int64(n))
	}
	return err
}
