package tcpclient

// A reader is the reading side of a connection in use: it brings each message to the one that
// it is for. The Client's goroutine owns it.
type reader struct {
	frames   *frameReader
	watch    *heartbeatWatch
	calls    *calls
	out      *outbox // for answers to the peer's pings
	hooks    *Heartbeat
	watched  bool // messages may belong to the heartbeat
	producer *producer
	origin   *origin
	count    *counters
	trace    *tracer
	slabs    bool // the Inbox has room for slabs of directSlab
}

// beforeRead makes receivable what has come, before the socket is waited for.
func (r *reader) beforeRead(inFrame bool) {
	r.producer.publish()
	r.watch.beforeRead(inFrame)
}

func (r *reader) arrived() { r.watch.arrived() }

// run takes in messages until the connection has ended, and returns why it has.
func (r *reader) run() (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = panicked(p) // in a Framer or a hook of the user
		}
	}()
	// A dying connection before this one may have left more than the Inbox holds.
	if err := r.producer.makeRoom(0, r.origin); err != nil {
		return err
	}
	for {
		if r.frames.framing.largest > 0 {
			if err := r.takeWhole(); err != nil {
				return err
			}
			if r.frames.in.Buffered() == 0 {
				continue
			}
		}
		msg, err := r.frames.readFrame(r.producer.storage())
		if err != nil {
			return err
		}
		if r.isRouted(msg) {
			continue
		}
		if err := r.producer.add(msg, r.frames.framing.builtin, r.origin); err != nil {
			return err
		}
	}
}

// takeWhole takes in the messages of LengthPrefix{} that it can without the Framer. What is
// odd is left to ReadFrame.
func (r *reader) takeWhole() error {
	if err := r.frames.await(); err != nil {
		return err
	}
	if err := r.takeBuffered(); err != nil {
		return err
	}
	if r.mayReadDirectly() {
		return r.readDirectly()
	}
	return nil
}

// takeBuffered takes in the messages that lie whole in the read buffer. That it knows their
// framing, by far the most common one, saves the calls to bufio.Reader: for small messages
// they are half the cost.
func (r *reader) takeBuffered() error {
	p := r.frames.buffered()
	largest := r.frames.framing.largest
	forReceive := !r.watched && !r.calls.used.Load()
	taken := 0
	for len(p) >= taken+frameHeader {
		if forReceive {
			if n := r.producer.addRun(p[taken:], min(largest, maxRun)); n > 0 {
				taken += n
				continue
			}
		}
		size := frameSize(p[taken:])
		if size > largest || size > uint64(len(p)-taken-frameHeader) {
			break
		}
		msg := p[taken+frameHeader : taken+frameHeader+int(size)]
		taken += frameHeader + int(size)
		if r.isRouted(msg) {
			continue
		}
		if err := r.producer.copy(msg, r.origin); err != nil {
			return err
		}
	}
	if taken > 0 {
		r.frames.in.Discard(taken)
		r.frames.arrived()
	}
	return nil
}

// isRouted takes the messages that are not for Receive: those of the heartbeat, and the
// replies to calls. It does not keep msg.
func (r *reader) isRouted(msg []byte) bool {
	if r.watched && r.isHeartbeat(msg) {
		return true
	}
	if r.calls.used.Load() && r.calls.answer(msg) {
		r.producer.answered()
		return true
	}
	return false
}

// isHeartbeat swallows pongs, and swallows and answers the pings of the peer.
func (r *reader) isHeartbeat(msg []byte) bool {
	if r.hooks.IsPong != nil && r.hooks.IsPong(msg) {
		if rtt, ok := r.watch.pong(); ok {
			r.count.rtt.Store(int64(rtt))
			r.trace.pong(rtt)
		}
		return true
	}
	if r.hooks.Answer == nil {
		return false
	}
	reply, ok := r.hooks.Answer(msg)
	if ok && reply != nil {
		if err := r.out.writeControl(reply); err != nil {
			r.origin.Kill(err)
		}
	}
	return ok
}
