package tcpclient

import (
	"context"
	"iter"
)

// An access is a way to a connection: that of a Client, which may be any, or that of a Session,
// which is one.
type access interface {
	// mostRounds returns how many rounds, counted since Dial, may be over while a call that begins now
	// waits for a connection.
	mostRounds() int

	// connected returns a connection that may take messages. over is the one that it returned before
	// and that takes none, or nil; most is the mostRounds of the call.
	connected(ctx context.Context, over *link, most int) (*link, error)

	// opError makes an error of err for the user; nil stays nil.
	opError(op string, unsent bool, err error) error
}

// A Session is one connection of a [Client], for protocols with state on the server between
// requests: a transaction, a selected database, a cursor. The Client may be on another connection
// at the next request, where that state is gone. A Session never is.
//
// When its connection has ended, the methods of a Session fail at once with the end, which Is
// [ErrDisconnected]. What the server has done until then, only the protocol can say. Begin another
// Session for another try. If it was the Client's Close or Shutdown that has ended it, the error is
// [ErrClosed]. A Write in the moment of the end, or that waits then, may still be taken, and is then
// reported as lost; and the first call of all may report what was lost with the connection before, as a
// [LossError].
//
// Others may use the connection meanwhile, by the Client or by Sessions of their own: a Session
// does not reserve it. For a dialogue that no other call is to come between, use a Client of its own.
//
// A Session costs no goroutine and needs no Close. Its methods may be called concurrently.
type Session struct {
	client *Client
	link   *link
}

// Session returns the present connection. It never waits: if there is none, it returns an error
// that Is [ErrDisconnected] and says why. On demand (see [Backoff].OnDemand) it then asks for one.
func (c *Client) Session() (*Session, error) {
	l, err := c.present()
	if err != nil {
		return nil, c.opError(opSession, true, err)
	}
	return &Session{client: c, link: l}, nil
}

// present returns the connection in use, or why there is none.
func (c *Client) present() (*link, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	l := c.link.Load()
	switch {
	case c.err != nil:
		return nil, c.err
	case c.phase != clientRunning:
		return nil, ErrClosed
	case l != nil && l.wire.Cause() == nil:
		return l, nil
	}
	c.connector.demand.ask()
	if l != nil {
		return nil, l.wire.Cause()
	}
	return nil, c.notConnectedLocked()
}

// mostRounds returns 0: there is no other connection to wait for.
func (s *Session) mostRounds() int { return 0 }

// connected returns the one connection, or how it has ended.
func (s *Session) connected(ctx context.Context, over *link, _ int) (*link, error) {
	if err := ctx.Err(); err != nil {
		return nil, withReason(err, s.link.wire.Cause())
	}
	if over == nil {
		return s.link, nil
	}
	if loss := s.client.takeAnyLoss(); loss != nil {
		return nil, loss
	}
	if end := s.link.wire.Cause(); end != nil {
		return nil, end
	}
	return nil, ErrClosed // Shutdown or Close has sealed it
}

func (s *Session) opError(op string, unsent bool, err error) error {
	if err == nil {
		return nil
	}
	return &OpError{Op: op, Addr: s.link.addr, Unsent: unsent, Err: err}
}

// Write is [Client.Write] on this connection. When it has ended, messages that were written and
// are lost are reported as the Client reports them: once, by the first call that follows.
func (s *Session) Write(ctx context.Context, msg []byte) error { return write(ctx, s, msg) }

// Flush is [Client.Flush] on this connection.
func (s *Session) Flush(ctx context.Context) error { return flush(ctx, s, true) }

// Send is [Client.Send] on this connection.
func (s *Session) Send(ctx context.Context, msg []byte) error { return send(ctx, s, s.link, msg) }

// Call is [Client.Call] on this connection.
func (s *Session) Call(ctx context.Context, request []byte) (reply []byte, err error) {
	return exchange(ctx, s, request)
}

// Replies is [Client.Replies] on this connection.
func (s *Session) Replies(ctx context.Context, request []byte) iter.Seq2[[]byte, error] {
	return replies(ctx, s, request)
}
