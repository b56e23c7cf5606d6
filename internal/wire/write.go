package wire

import "time"

const (
	// firstSlice is how long a Write waits before it looks up for the first time. What the
	// network takes, it mostly takes at once; a Write that noted this only after a
	// writeSlice would count the time without progress from there.
	firstSlice = 2 * time.Millisecond

	// writeSlice is how often a blocked Write looks up after that.
	writeSlice = 50 * time.Millisecond

	// lateBy is how late a deadline may end a write and still be on time. Beyond that we
	// were slow, not the peer.
	lateBy = 2 * time.Millisecond
)

// CanTryWrite reports whether TryWrite can take anything: on Unix, TCP and Unix sockets can be
// asked to take what they take at once. It is always the same for a Conn.
func (c *Conn) CanTryWrite() bool { return c.try != nil }

// TryWrite hands over what the network takes at once, and never waits. Without CanTryWrite that
// is nothing.
//
// When it returns less than len(p) and no error, the rest is for Write, with the same bytes in
// front. That is so, too, when the connection says EPIPE, which is no reason: Write, on a goroutine
// that may wait for the reader to say more, will learn it again. Any other error ends the
// writing side, as FailWrite does.
func (c *Conn) TryWrite(p []byte) (n int, err error) {
	if !c.CanTryWrite() {
		return 0, c.Cause()
	}
	if err := c.beginWrite(); err != nil {
		return 0, err
	}
	n, err = c.try.tryWrite(p, nil)
	return n, c.tried(n, len(p), err)
}

// TryWriteBoth is TryWrite of head and then tail, as one. Unlike TryWrite it gives the network some
// time to take more: wait. It is for connections with deadlines of their own.
func (c *Conn) TryWriteBoth(head, tail []byte, wait time.Duration) (n int, err error) {
	if err := c.beginWrite(); err != nil {
		return 0, err
	}
	size := len(head) + len(tail)
	if c.CanTryWrite() {
		n, err = c.try.tryWrite(head, tail)
	}
	if err == nil && n < size {
		var k int
		k, err = c.writeUntil(time.Now().Add(wait), head[min(n, len(head)):], tail[max(n-len(head), 0):])
		n += k
	}
	if n > 0 {
		c.moved()
	}
	return n, c.tried(n, size, err)
}

// writeUntil writes what the network takes of head and tail until due.
func (c *Conn) writeUntil(due time.Time, head, tail []byte) (n int, err error) {
	c.conn.SetWriteDeadline(due)
	defer c.conn.SetWriteDeadline(time.Time{}) // tryWrite would fail at one that has passed
	if len(head) > 0 {
		n, err = c.conn.Write(head)
	}
	if err == nil {
		var k int
		k, err = c.conn.Write(tail)
		n += k
	}
	if err == errExpired {
		err = nil
	}
	return n, err
}

// moved records that the network has taken something for one who waits.
func (c *Conn) moved() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.stall.moved(time.Now())
}

// tried records what came of a try to write size bytes: n of them, and err. It returns why
// there must be no other.
func (c *Conn) tried(n, size int, err error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.handed += int64(n)
	if c.timesAll && n > 0 {
		c.handedAt = time.Now()
	}
	if err != nil && !isBrokenPipe(err) {
		c.failWriteLocked(err)
	}
	c.endWriteLocked()
	if err == nil && n == size {
		return nil // also if the connection has ended since
	}
	return c.cause
}

// Write blocks until the network has taken all of p, or the connection is dead. A write
// timeout without progress kills the connection. Write borrows p until it returns, and takes its
// own deadline back.
//
// Progress is that the network has taken a byte of p, or the peer's TCP acknowledged one of
// those before: the kernel takes more only when a good part of its buffer is free.
func (c *Conn) Write(p []byte) (n int, err error) {
	if len(p) == 0 {
		return 0, c.Cause()
	}
	unacked := c.Unacknowledged()
	if err = c.beginWrite(); err != nil {
		return 0, err
	}
	for due := c.beginStall(unacked); n < len(p) && err == nil; {
		var k int
		c.conn.SetWriteDeadline(due)
		k, err = c.conn.Write(p[n:])
		n += k
		if isBrokenPipe(err) {
			c.awaitReader()
		}
		due, err = c.wrote(k, err, due)
	}
	c.conn.SetWriteDeadline(time.Time{}) // tryWrite would fail at one that has passed
	c.endWrite()
	return n, err
}

// beginWrite returns the cause if there is one; else the caller is now the writer.
func (c *Conn) beginWrite() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cause != nil {
		return c.cause
	}
	c.writer = writing
	return nil
}

// endWrite says that the caller is no longer the writer.
func (c *Conn) endWrite() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.endWriteLocked()
}

func (c *Conn) endWriteLocked() {
	c.writer = notWriting
	c.returnedLocked()
}

// beginStall begins to count the time without progress, and returns when to look first.
func (c *Conn) beginStall(unacked int) (due time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	c.stall.begin(now, unacked)
	return c.stall.due(now, firstSlice)
}

// wrote records what came of a write until due: k bytes, and err. It returns when the next
// is to end, or why there must be none.
func (c *Conn) wrote(k int, err error, due time.Time) (time.Time, error) {
	unacked := 0
	if err != nil {
		unacked = c.Unacknowledged()
	}
	now := time.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.handed += int64(k)
	if k > 0 {
		c.handedAt = now
	}
	if err == nil {
		c.stall.moved(now)
		return time.Time{}, nil // all was written, also if the connection has ended since
	}
	if err != errExpired {
		c.failWriteLocked(err)
	} else if c.stall.note(now, due, k, unacked) {
		c.killLocked(ErrWriteTimeout)
	}
	if c.cause == nil && c.conn.inFlight() == 0 {
		c.returnedLocked()
	}
	return c.stall.due(now, writeSlice), c.cause
}

// AwaitsReader reports whether a Write waits for the reader to say why the connection is gone.
func (c *Conn) AwaitsReader() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.writer == knowsLess
}

// Handed returns how many bytes may have been handed over since the connection was made: those
// that the network took, and those of a write that goes on past its emulated deadline. While a
// TryWrite or a Write is under way, what this one has handed over may be missing.
func (c *Conn) Handed() int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.handed + int64(c.conn.inFlight())
}

// HandedAt returns when bytes were last handed over, as far as that was noted: by Write always,
// by TryWrite since a Watch that has asked for it. Zero: none were.
func (c *Conn) HandedAt() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.handedAt
}

// Progress returns when the network last took a byte for a Write, or the peer's TCP was last
// seen to have acknowledged one; or when that Write began.
func (c *Conn) Progress() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.stall.progress
}

// CloseWrite sends FIN. Without half-close it reports errors.ErrUnsupported. On a connection
// that has ended it returns the cause.
func (c *Conn) CloseWrite() error {
	if err := c.Cause(); err != nil {
		return err
	}
	return c.conn.CloseWrite()
}

// A stallWatch decides when a Write has made no progress for too long. It reads no clock.
type stallWatch struct {
	timeout    time.Duration // 0: never
	progress   time.Time     // the last progress, moved on by what does not count against the peer
	unacked    int           // as of the last look
	graceCount int           // how often a late deadline was put off since the last progress
}

// begin begins to count.
func (s *stallWatch) begin(now time.Time, unacked int) {
	s.unacked = unacked
	s.moved(now)
}

// moved records progress.
func (s *stallWatch) moved(now time.Time) { s.progress, s.graceCount = now, 0 }

// due returns when a write that begins at now is to end: after slice, or in time for the
// verdict.
func (s *stallWatch) due(now time.Time, slice time.Duration) time.Time {
	due := now.Add(slice)
	if verdict := s.progress.Add(s.timeout); s.timeout > 0 && verdict.Before(due) {
		due = verdict
	}
	return due
}

// note records a write that was to end at due and has ended at now, after n bytes. It reports
// whether that was the last: the peer has taken nothing for too long.
//
// A deadline that fires late tells that this process did not run for a while. That time
// was ours, not the peer's, and the network deserves another try. Each time it takes
// twice as much to be put off again, so that on a machine that is always late there is a
// verdict in the end.
func (s *stallWatch) note(now, due time.Time, n, unacked int) (expired bool) {
	acked := unacked < s.unacked
	s.unacked = unacked
	if n > 0 || acked {
		s.moved(now)
	} else if late := now.Sub(due); late > lateBy<<min(s.graceCount, 20) {
		s.progress = s.progress.Add(late + min(writeSlice, s.timeout))
		s.graceCount++
	}
	return s.timeout > 0 && now.Sub(s.progress) >= s.timeout
}
