package tcpclient

import "encoding/binary"

// read takes in messages until conn has ended, and returns why it has.
func (c *Client) read(conn *Conn) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = panicked(r) // in a Framer or a hook of the user
		}
	}()
	// A dying connection before this one may have left more than the Inbox holds.
	if err := c.intake.makeRoom(0, conn); err != nil {
		return err
	}
	for {
		if conn.plain > 0 {
			if err := conn.await(); err != nil {
				return err
			}
			if err := c.cut(conn); err != nil {
				return err
			}
			if c.direct(conn) {
				if err := c.readDirect(conn); err != nil {
					return err
				}
			}
			if conn.in.Buffered() == 0 {
				continue
			}
		}
		msg, err := conn.readFrame(c.intake.storage())
		if err != nil {
			return err
		}
		if c.routed(conn, msg) {
			continue
		}
		if err := c.intake.add(msg, conn); err != nil {
			return err
		}
	}
}

// cut takes in the messages that lie whole in the read buffer. It knows the framing of
// LengthPrefix{}, by far the most common one, and saves it the calls to bufio.Reader: for
// small messages they are half the cost. What is odd is left to ReadFrame.
func (c *Client) cut(conn *Conn) error {
	p := conn.buffered()
	forReceive := !c.watched && !conn.calls.used.Load()
	taken := 0
	for len(p) >= taken+prefix {
		if forReceive {
			if n := c.intake.run(p[taken:], uint32(min(conn.plain, maxRun))); n > 0 {
				taken += n
				continue
			}
		}
		size := uint64(binary.BigEndian.Uint32(p[taken:]))
		if size > conn.plain || size > uint64(len(p)-taken-prefix) {
			break
		}
		msg := p[taken+prefix : taken+prefix+int(size)]
		taken += prefix + int(size)
		if c.routed(conn, msg) {
			continue
		}
		if err := c.intake.copy(msg, conn); err != nil {
			return err
		}
	}
	if taken > 0 {
		conn.in.Discard(taken)
		conn.arrived()
	}
	return nil
}

// routed takes the messages that are not for Receive: those of the heartbeat, and the
// replies to calls. It does not keep msg.
func (c *Client) routed(conn *Conn, msg []byte) bool {
	if c.watched && c.isHeartbeat(conn, msg) {
		return true
	}
	if conn.calls.used.Load() && conn.calls.answer(msg) {
		c.intake.replies++
		return true
	}
	return false
}

// isHeartbeat swallows pongs, and swallows and answers the pings of the peer.
func (c *Client) isHeartbeat(conn *Conn, msg []byte) bool {
	h := &c.settings.Heartbeat
	if h.IsPong != nil && h.IsPong(msg) {
		if rtt, ok := conn.vigil.pong(); ok {
			c.count.rtt.Store(int64(rtt))
			c.trace.pong(rtt)
		}
		return true
	}
	if h.Answer == nil {
		return false
	}
	reply, ok := h.Answer(msg)
	if ok && reply != nil {
		if err := conn.out.urge(reply); err != nil {
			conn.wire.kill(err)
		}
	}
	return ok
}
