package soak

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"math/rand/v2"
	"time"

	"github.com/seed-d0aa0aa7/tcpclient"
	"github.com/seed-d0aa0aa7/tcpclient/pool"
)

// A soakPool is a Pool as a soakCaller.
type soakPool struct {
	*pool.Pool
	w *soakWorker
}

// drawPool chooses the settings of a Pool, over both addresses.
func (s *soakCase) drawPool(r *rand.Rand) {
	s.name += fmt.Sprintf(" pool of %d", 2*s.perAddress)
	s.addresses = make([]string, 2)
	s.dialer.Reconnect = &tcpclient.Backoff{Min: time.Millisecond, Max: 20 * time.Millisecond, FirstDial: r.IntN(2) == 0}
}

// pooled reports whether the case is about a Pool.
func (s *soakCase) pooled() bool { return s.perAddress > 0 }

// nextOfPool does what comes next with a Pool.
func (w *soakWorker) nextOfPool() error {
	switch n := w.random.IntN(20); {
	case n < 16:
		return w.ask(soakPool{w.pool, w})
	case n < 18:
		client, err := w.pool.Pick()
		if err != nil {
			w.check(context.Background(), "pick", err)
			return err
		}
		return w.transaction(soakClient{client, w})
	case w.switches && w.random.IntN(20) == 0:
		w.disconnect(w.clients[w.random.IntN(len(w.clients))])
	default:
		pause(time.Duration(w.random.IntN(5))*time.Millisecond, w.stop)
	}
	return nil
}

// Replies is that of a Client of the Pool's choice.
func (p soakPool) Replies(ctx context.Context, request []byte) iter.Seq2[[]byte, error] {
	client, err := p.Pick()
	if err != nil {
		return func(yield func([]byte, error) bool) { yield(nil, err) }
	}
	return client.Replies(ctx, request)
}

func (p soakPool) place() (conn, session int) { return 0, 0 }

// expect wants no request to be lost while a connection is up. A Call fails unsent only if it may not be
// sent any more, and with another error only if a connection has ended.
func (p soakPool) expect(op string) func(ctx context.Context, took time.Duration, err error) {
	w := p.w
	before := w.up()
	return func(ctx context.Context, _ time.Duration, err error) {
		if op == "call" {
			w.totals.pooled.Add(1)
		}
		if err == nil || errors.Is(err, tcpclient.ErrClosed) {
			return
		}
		still := 0
		after := w.up()
		for client, conn := range before {
			if after[client] == conn {
				still++
			}
		}
		var e *tcpclient.OpError
		unsent := errors.As(err, &e) && e.Unsent
		switch {
		case errors.Is(err, pool.ErrNoConnection) && still > 0:
			w.fail("P8: %s by a Pool finds no connection, there are %d: %v", op, still, err)
		case op != "call" || ctx.Err() != nil || errors.Is(err, tcpclient.ErrInboxFull):
		case unsent:
			w.fail("P4: a request to a Pool is unsent, and was not sent elsewhere: %v", err)
		case still == len(w.clients):
			w.fail("P4: a request to a Pool is lost, no connection is: %v", err)
		}
	}
}

// up returns the Clients that have a connection, and which: counted from 1.
func (s *soakCase) up() map[*tcpclient.Client]uint64 {
	conns := map[*tcpclient.Client]uint64{}
	for _, c := range s.clients {
		before := c.Stats()
		if !before.Connected {
			continue // a Session would ask for one
		}
		if _, err := c.Session(); err == nil && c.Stats().Connects == before.Connects {
			conns[c] = before.Connects
		}
	}
	return conns
}
