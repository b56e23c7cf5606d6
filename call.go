package tcpclient

import "context"

// Call sends request and returns the reply to it, which is owned by the caller. Any
// number of goroutines may Call at once: their requests share system calls, and each gets
// its own reply.
//
// Without a [Dialer].Correlator each message that arrives is the reply to the oldest
// unanswered request. The server must then answer every request, in order, with one
// message. If a reply may be several lines, as with Redis, memcached and SMTP, the
// [Framer] has to make one message of them. With a Correlator the id decides, and a message
// that is no reply goes to Receive. If no goroutine receives and the Inbox stays full for a
// second, the Calls that have waited as long end with ErrInboxFull.
//
// Call blocks until the reply has arrived, ctx is done, the connection has ended or the
// Client is closed; while disconnected it waits for the next connection. It borrows
// request until it returns. When ctx ends, Call returns at once, the connection lives on,
// and the late reply is dropped.
//
// Call never repeats a request. When it fails, [errors.As] finds an [*OpError] whose
// Unsent field says whether the server has certainly not seen the request.
func (c *Client) Call(ctx context.Context, request []byte) (reply []byte, err error) {
	for over := (*link)(nil); ; {
		l, err := c.connected(ctx, over)
		if err != nil {
			return nil, c.opError(opCall, true, err)
		}
		reply, unsent, err := l.out.call(ctx, request)
		if err == errFull {
			if err = l.calls.wait(ctx); err == nil {
				continue
			}
		}
		switch err {
		case nil:
			return reply, nil
		case errOver:
			over = l
		default:
			return nil, c.opError(opCall, unsent, err)
		}
	}
}

// call frames request, marked with an id if there is a Correlator, and waits for the reply.
// It returns errFull when there are too many calls.
func (o *outbox) call(ctx context.Context, request []byte) (reply []byte, unsent bool, err error) {
	c, err := o.enterCall(ctx, request)
	if err != nil {
		return nil, true, err
	}
	if o.canWriteLocked() {
		o.writeInlineLocked() // a call waits for its reply, and not for its batch
	} else {
		o.requestFlushLocked()
		o.mu.Unlock()
	}
	select {
	case <-c.signal:
		err = c.err
	case <-ctx.Done():
		err = ctx.Err()
	}
	if err != nil {
		unsent, err = o.release(c, err)
	}
	reply = c.reply
	o.calls.recycle(c)
	return reply, unsent, err
}

// enterCall enters a call and frames its request, both under the lock, so that replies in
// order find the calls in order. The lock is held then; if enterCall fails, it is not.
func (o *outbox) enterCall(ctx context.Context, request []byte) (c *call, err error) {
	if err := o.lockRoom(ctx); err != nil {
		return nil, err
	}
	framed := false
	defer func() {
		if framed {
			return
		}
		if c != nil {
			o.calls.retract(c)
		}
		o.mu.Unlock() // also in a panic of the Correlator or the Framer
	}()
	if c = o.calls.enter(o.batches.number, o.batches.open.size()); c == nil {
		return nil, errFull
	}
	if request, err = o.markLocked(c, request); err != nil {
		return c, err
	}
	_, err = o.frameLocked(request)
	framed = err == nil
	return c, err
}

// markLocked returns request with the id of c in it, in memory that is good until the lock
// is released.
func (o *outbox) markLocked(c *call, request []byte) ([]byte, error) {
	correlator := o.calls.correlator
	if correlator == nil {
		return request, nil
	}
	marked, err := correlator.AppendRequest(o.marked[:0], c.id, request)
	if err != nil {
		return nil, &permanentError{err}
	}
	if o.marked = marked; cap(marked) > o.limit || overlap(marked, request) {
		o.marked = nil // too much to keep, or not ours
	}
	return marked, nil
}

// overlap reports whether p and q begin at the same byte.
func overlap(p, q []byte) bool { return len(p) > 0 && len(q) > 0 && &p[0] == &q[0] }

// release lets the outbox forget c, which has ended with err or whose caller gives up because
// of it. It returns how c has ended, and whether the request is certain not to have been sent.
func (o *outbox) release(c *call, err error) (unsent bool, _ error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	// Under the lock: who gives up has not been told of a loss, and is counted before there is one.
	if !o.calls.abandon(c) {
		err = c.err
	}
	switch {
	case err == nil || o.batches.written.Load() >= c.batch:
	case o.phase == phaseDead:
		unsent = o.batches.unsent(c.batch, c.start)
	default:
		o.batches.numbered(c.batch).unawaited++
	}
	return unsent, err
}
