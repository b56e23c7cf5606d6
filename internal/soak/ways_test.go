package soak

import (
	"context"
	"errors"
	"iter"
	"time"

	"github.com/seed-d0aa0aa7/tcpclient"
)

// A soakCaller is a way to make calls: a Client, a Session or a Pool.
type soakCaller interface {
	Call(ctx context.Context, request []byte) ([]byte, error)
	Replies(ctx context.Context, request []byte) iter.Seq2[[]byte, error]

	// place returns the connection, counted from 1 by the client, and the number of the Session,
	// from 1. 0: unknown, or none.
	place() (conn, session int)

	// expect returns a check of how an operation ends that begins now. took is without the time in
	// which this process did not run.
	expect(op string) func(ctx context.Context, took time.Duration, err error)
}

// A soakSender is a way to send as well.
type soakSender interface {
	soakCaller
	Write(ctx context.Context, msg []byte) error
	Flush(ctx context.Context) error
	Send(ctx context.Context, msg []byte) error
}

// A soakClient is a Client as a soakSender.
type soakClient struct {
	*tcpclient.Client
	w *soakWorker
}

func (c soakClient) place() (conn, session int) {
	if c.w.pooled() {
		return 0, 0 // Trace tells of all of them
	}
	return int(c.Stats().Connects), 0
}

func (c soakClient) expect(op string) func(ctx context.Context, took time.Duration, err error) {
	w, before := c.w, c.Stats()
	without := w.failsFast() && !w.dialer.Reconnect.OnDemand && !w.pooled() && w.model.paired(before)
	gone := w.lastCause
	if gone != nil && !w.model.rounds.hasEnded(gone) {
		gone = nil
	}
	return func(ctx context.Context, took time.Duration, err error) {
		if without && c.Stats().Connects == before.Connects {
			w.checkFast(ctx, op, took, err)
		}
		if gone != nil {
			w.checkMovedOn(ctx, op, gone, err)
		}
	}
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

// checkMovedOn wants a Client not to fail because of a connection that had ended before. Only what was lost with
// it is to be reported.
func (s *soakCase) checkMovedOn(ctx context.Context, op string, gone *soakCauseError, err error) {
	if s.dialer.Reconnect == nil || s.failsFast() || s.pooled() || ctx.Err() != nil || s.closing.Load() {
		return
	}
	if causeOf(err) == gone && !errors.As(err, new(*tcpclient.LossError)) {
		s.fail("P8: %s by the Client after the end of a connection fails with that: %v", op, err)
	}
}
