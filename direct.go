package tcpclient

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

// mayReadDirectly reports whether the next read of the socket may be a direct one. That takes
// a peer who has just sent enough at once: memory follows what was received.
func (r *reader) mayReadDirectly() bool {
	f := r.frames
	return r.producer.typical >= minDirect && f.lastRead >= directSlab/4 && f.maxRead > directSlab && r.slabs &&
		len(f.unread) == 0 && f.unreadErr == nil && !r.watched && !r.calls.used.Load() &&
		f.in.Buffered() < maxDirect && r.isDirect(f.buffered())
}

// isDirect reports whether p may be the start of a frame that is read directly.
func (r *reader) isDirect(p []byte) bool {
	return len(p) < frameHeader || frameSize(p) <= min(r.frames.framing.largest, maxDirect)
}

// readDirectly takes in messages until something comes for which this is not the way: a Call,
// of which the reply may be the next message, or messages of other sizes. That is left to the
// read buffer.
func (r *reader) readDirectly() error {
	t, f := r.producer, r.frames
	defer f.doubt() // for the next time, too, it takes such a peer
	t.rotate(nil)
	rest := t.slab.lay(f.buffered()) // bytes of an unfinished frame, after the messages in the slab
	f.in.Discard(rest)
	for {
		s := t.slab
		fill := min((slabMessages-s.n)*(t.typical+frameHeader), s.room()) // what comes after that has to be moved
		n := f.readInto(s.free(), rest, max(fill, rest+minSlab))
		if rest += n; r.calls.used.Load() {
			f.giveBack(s.free()[:rest])
			return nil
		}
		left, over := t.cut(rest, f.framing.largest, r.origin)
		if left < rest {
			f.arrived()
		}
		s, rest = t.slab, left
		p := s.free()[:rest]
		switch {
		case over != nil:
			return over
		case f.unreadErr != nil || t.typical < minDirect || !r.isDirect(p):
			f.giveBack(p)
			return nil
		case s.n > slabMessages/4*3 || s.room() < directSlab/4:
			t.rotate(p)
		}
	}
}

// readInto reads the socket once, into what is between rest and end in p; the first rest
// bytes there are of an unfinished frame. An error comes after what was read.
func (r *frameReader) readInto(p []byte, rest, end int) (n int) {
	r.inFrame = rest > 0
	n, err := r.Read(p[rest:end])
	if err != nil {
		r.unreadErr = err
	}
	return n
}

// doubt forgets how much the last read has brought.
func (r *frameReader) doubt() { r.lastRead, r.bufferFilled = 0, false }

// cut takes the frames that lie whole at the start of the rest that was read after the slab's
// messages, and returns what is left of that. It stops where messages have become small: they
// are not to have slabs of this size.
func (t *producer) cut(rest int, largest uint64, from upstream) (left int, err error) {
	for rest >= frameHeader && err == nil && t.typical >= minDirect {
		p := t.slab.free()[:rest]
		size := frameSize(p)
		if size > largest || size > uint64(rest-frameHeader) {
			break
		}
		err = t.admit(int(size), from)
		t.record(frameHeader+int(size), int(size))
		if rest -= frameHeader + int(size); t.slab.n == slabMessages {
			t.rotate(t.slab.free()[:rest])
		}
	}
	return rest, err
}

// rotate makes a new slab the one that takes messages, with rest after them, which was read
// after those of the old one.
func (t *producer) rotate(rest []byte) {
	next := t.inbox.newSlab()
	if cap(next.data) != directSlab { // or larger, for a large message: offsets would not fit
		next.trade(make([]byte, 0, directSlab))
	}
	next.lay(rest) // before the old one is anybody else's
	t.closeSlab()
	t.slab = next
}

// lay copies p after the messages, without making one of it.
func (s *slab) lay(p []byte) int { return copy(s.free(), p) }
