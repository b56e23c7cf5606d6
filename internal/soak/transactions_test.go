package soak

import (
	"context"
	"errors"
	"time"

	"github.com/seed-d0aa0aa7/tcpclient"
)

// A soakTransaction is a Session of one worker. All that it sends has to arrive on one connection.
type soakTransaction struct {
	*tcpclient.Session
	w      *soakWorker
	number int
	conn   int   // its connection, counted from 1 by the client; 0: unknown
	end    error // of that, as it was told; nil: it was not
}

// begin returns a transaction on the present connection, for which it must not wait.
func (w *soakWorker) begin(client soakClient) (t *soakTransaction, err error) {
	var session *tcpclient.Session
	before, _ := client.place()
	w.timed("P8: Session", soakTimeout, func() { session, err = client.Session() })
	conn, _ := client.place()
	if conn != before {
		conn = 0
	}
	if err == nil {
		return &soakTransaction{Session: session, w: w, number: w.model.begins(), conn: conn}, nil
	}
	w.check(context.Background(), "session", err)
	var e *tcpclient.OpError
	if errors.As(err, &e) && !e.Unsent {
		w.fail("P4: a Session that there is not is not unsent: %v", err)
	}
	return nil, err
}

// transaction uses a Session some times, and the Client beside it.
func (w *soakWorker) transaction(client soakClient) error {
	t, err := w.begin(client)
	if err != nil {
		return err
	}
	w.totals.transactions.Add(1)
	for range 1 + w.random.IntN(10) {
		switch n := w.random.IntN(20); {
		case n < 16:
			err = w.operate(t)
		case n == 16 && w.switches:
			w.disconnect(client.Client)
		default:
			err = w.operate(client)
		}
		if w.final(err) {
			break
		}
	}
	if t.hasEnded() {
		w.totals.transactionsLost.Add(1)
		t.useAll()
		w.begin(client) // there may be no connection, or another
	}
	return err
}

// useAll calls each method.
func (t *soakTransaction) useAll() {
	for _, f := range []func(){
		func() { t.w.send(t, "send", parcel{kind: parcelSent}, t.Send) },
		func() { t.w.write(t) },
		func() { t.w.attempt(t, "flush", t.Flush) },
		func() { t.w.call(t) },
		func() { t.w.replies(t) },
	} {
		f()
	}
}

func (t *soakTransaction) place() (conn, session int) { return t.conn, t.number }

// hasEnded reports whether its connection is known to have ended.
func (t *soakTransaction) hasEnded() bool {
	return t.end != nil || t.conn > 0 && t.w.model.hasEnded(t.conn)
}

// learn takes note of err, if that is the end of the connection. A loss may be that of one before, and
// who gives up may see that the connection is about to end.
func (t *soakTransaction) learn(err error) {
	if errors.Is(err, tcpclient.ErrDisconnected) && !errors.As(err, new(*tcpclient.LossError)) &&
		!errors.Is(err, context.Canceled) && !errors.Is(err, context.DeadlineExceeded) {
		t.end = err
	}
}

// expect wants each method to fail at once after the end of the connection.
func (t *soakTransaction) expect(op string) func(ctx context.Context, took time.Duration, err error) {
	ended := t.hasEnded()
	return func(_ context.Context, took time.Duration, err error) {
		t.learn(err)
		if !ended {
			return
		}
		var e *tcpclient.OpError
		switch {
		case err == nil:
			t.w.fail("P8: %s by a Session whose connection had ended did not fail (the end: %v)", op, t.end)
		case took > soakTimeout:
			t.w.fail("P8: %s by a Session whose connection had ended took %v: %v", op, took, err)
		case op != "flush" && errors.As(err, &e) && !e.Unsent:
			t.w.fail("P4: %s by a Session whose connection had ended is not unsent: %v", op, err)
		}
	}
}

// begins counts a transaction.
func (m *soakModel) begins() (number int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.transactions = append(m.transactions, 0)
	return len(m.transactions)
}

// hasEnded reports whether Trace has told of the end of a connection, counted from 1 by the client.
func (m *soakModel) hasEnded(conn int) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.ends >= conn
}

// checkPlaceLocked wants a message of a transaction on the connection of the first.
func (m *soakModel) checkPlaceLocked(p parcel, session, conn int) {
	if session == 0 {
		return
	}
	switch first := &m.transactions[session-1]; *first {
	case 0:
		*first = conn
	case conn:
	default:
		m.s.fail("P8: %+v of a Session arrived on connection %d, others on %d", p, conn, *first)
	}
}
