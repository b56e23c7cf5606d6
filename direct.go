package tcpclient

import "encoding/binary"

// This file is how streams of messages of some size are read: from the socket straight into
// the memory of the Inbox, where the frames are cut in place. It saves the copy out of the
// read buffer, a third of the cost of messages of 1 KiB.

const (
	// minDirect and maxDirect are the sizes of messages that are worth it. Of smaller ones a
	// slab takes too few bytes, and larger ones do not fill it well.
	minDirect = 512
	maxDirect = 8 << 10

	// directSlab is the memory for them: offsets in it fit slab.starts.
	directSlab = 1<<16 - 1
)

// direct reports whether the next read of conn may be a direct one. That takes a peer who
// has just sent enough at once: memory follows what was received.
func (c *Client) direct(conn *Conn) bool {
	t := &c.intake
	return t.typical >= minDirect && conn.got >= directSlab/4 && conn.maxRead > directSlab && t.direct &&
		len(conn.carry) == 0 && conn.carried == nil && !c.watched && !conn.calls.used.Load() &&
		conn.in.Buffered() < maxDirect && conn.isDirect(conn.buffered())
}

// isDirect reports whether p may be the start of a frame that is read directly.
func (c *Conn) isDirect(p []byte) bool {
	return len(p) < prefix || uint64(binary.BigEndian.Uint32(p)) <= min(c.plain, maxDirect)
}

// readDirect takes in messages until something comes for which this is not the way: a Call,
// of which the reply may be the next message, or messages of other sizes. That is left to conn's
// read buffer.
func (c *Client) readDirect(conn *Conn) error {
	t := &c.intake
	defer func() { conn.got, conn.filled = 0, false }() // for the next time, too, it takes such a peer
	t.turn(nil)
	rest := copy(t.slab.data[:directSlab], conn.buffered()) // bytes of an unfinished frame, behind the messages in the slab
	conn.in.Discard(rest)
	for {
		conn.midFrame = rest > 0
		s := t.slab
		free := s.data[len(s.data):cap(s.data)]
		fill := min((slabMessages-s.n)*(t.typical+prefix), len(free)) // what is beyond has to be moved
		n, err := (*source)(conn).Read(free[rest:max(fill, rest+minSlab)])
		if err != nil {
			conn.carried = err // behind the rest
		}
		if rest += n; conn.calls.used.Load() {
			conn.unread(free[:rest])
			return nil
		}
		left, over := t.cut(rest, conn)
		if left < rest {
			conn.arrived()
		}
		s, rest = t.slab, left
		p := s.data[len(s.data) : len(s.data)+rest]
		switch {
		case over != nil:
			return over
		case conn.carried != nil || t.typical < minDirect || !conn.isDirect(p):
			conn.unread(p)
			return nil
		case s.n > slabMessages/4*3 || cap(s.data)-len(s.data) < directSlab/4:
			t.turn(p)
		}
	}
}

// cut takes the frames that lie whole at the start of the rest that was read behind the slab's
// messages, and returns what is left of that. It stops where messages have become small: they
// are not to have slabs of this size.
func (t *intake) cut(rest int, conn *Conn) (left int, err error) {
	for rest >= prefix && err == nil && t.typical >= minDirect {
		s := t.slab
		p := s.data[len(s.data) : len(s.data)+rest]
		size := binary.BigEndian.Uint32(p)
		if uint64(size) > conn.plain || int64(size) > int64(rest-prefix) {
			break
		}
		err = t.admit(int(size), conn)
		s.data = s.data[:len(s.data)+prefix+int(size)]
		t.record(s, int(size))
		if rest -= prefix + int(size); s.n == slabMessages {
			t.turn(s.data[len(s.data) : len(s.data)+rest])
		}
	}
	return rest, err
}

// turn makes a new slab the one that takes messages, with rest behind them, which was read behind
// those of the old one.
func (t *intake) turn(rest []byte) {
	old := t.slab
	s := t.fresh()
	if cap(s.data) != directSlab { // or larger, for a large message: offsets would not fit
		s.data = make([]byte, 0, directSlab)
	}
	copy(s.data[:directSlab], rest) // before the old one is anybody else's
	t.slab = old
	t.roll()
	t.slab = s
}

// unread gives bytes that were read to the read buffer, which is empty.
func (c *Conn) unread(p []byte) {
	c.carry = append(c.spill[:0], p...)
	c.total -= int64(len(p))
	if len(p) <= prefix+maxDirect { // the start of a frame, as nearly always
		c.spill = c.carry
	}
}
