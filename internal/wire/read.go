package wire

import (
	"fmt"
	"io"
	"time"
)

const (
	// maxNeedless is how many reads in a row a deadline may stay that none of them needs.
	maxNeedless = 16

	// maxEmptyReads is how many reads without a byte or an error make an error.
	maxEmptyReads = 100
)

// A Memory is that of a reader, which is given up while nothing comes.
type Memory interface {
	// Take returns the memory: the same one as before, unless it was released meanwhile.
	Take() []byte

	// Release says that it is not needed for now: there is nothing to read. It may be said again.
	Release()
}

// Read returns when bytes have come, the connection has ended, or the monitor says that it
// has. It sees no timeout that is not final. One goroutine at a time may call it.
func (c *Conn) Read(p []byte) (int, error) { return c.read(p, nil) }

// ReadInto is Read into memory that is released, as far as that is possible, while nothing comes.
// With bytes it was taken last.
func (c *Conn) ReadInto(m Memory) (int, error) { return c.read(nil, m) }

// read is Read into p, or with a Memory into that.
func (c *Conn) read(p []byte, m Memory) (int, error) {
	expired := false
	for empty := 0; ; {
		due := c.monitor.Next()
		c.arm(due, expired)
		n, err := c.readOnce(p, m)
		if n < 0 {
			return 0, err
		}
		if n > 0 {
			c.monitor.Arrived()
			if err == errExpired {
				err = nil
			}
			return n, err
		}
		expired = err == errExpired
		switch {
		case err == nil:
			if empty++; empty == maxEmptyReads {
				return 0, io.ErrNoProgress
			}
		case !expired:
			c.awaitWriter(err)
			return 0, err
		default:
			if err := c.readExpired(time.Now(), due); err != nil {
				return 0, err
			}
		}
	}
}

// readOnce reads the connection once. If it breaks the contract of io.Reader, n is below 0.
func (c *Conn) readOnce(p []byte, m Memory) (n int, err error) {
	if m != nil {
		n, err = c.conn.readInto(m)
	} else {
		n, err = c.conn.Read(p)
	}
	if m != nil && n != 0 {
		p = m.Take()
	}
	if n < 0 || n > len(p) {
		return -1, badRead(n, len(p))
	}
	return n, err
}

// Ahead returns the first bytes that have come and that no Read has returned, as far as they can be seen
// without a read: those that a read of an emulated connection has brought, and on Unix those that wait in
// a TCP or Unix socket. The caller owns them. Only the reading goroutine may call it.
func (c *Conn) Ahead() []byte { return c.conn.ahead() }

// readExpired returns an error if a read that has ended at its deadline was the last.
func (c *Conn) readExpired(now, due time.Time) error {
	if reason := c.readOnOver(now); reason != nil {
		return reason
	}
	if !due.IsZero() && !now.Before(due) {
		return c.monitor.Expired(now, due)
	}
	return nil
}

// readOnOver returns why the connection ended once a write has failed and the time
// to read on is over.
func (c *Conn) readOnOver(now time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.readUntil.IsZero() || now.Before(c.readUntil) {
		return nil
	}
	return c.cause
}

// arm makes the read deadline fire at due at the latest, zero meaning never, and at readUntil
// once a write has failed. expired says that the deadline that was set has passed.
func (c *Conn) arm(due time.Time, expired bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.readUntil.IsZero() && (due.IsZero() || c.readUntil.Before(due)) {
		due = c.readUntil
	}
	if c.reads.move(due, expired) {
		c.conn.SetReadDeadline(due)
	}
}

// ReadBy makes a Read look up at due at the latest, also one that is under way: it asks the
// Monitor again. Any goroutine may call it, when it has changed what Next returns.
func (c *Conn) ReadBy(due time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.reads.sooner(due) {
		c.conn.SetReadDeadline(due)
	}
}

// badRead is the error of a connection that breaks the contract of io.Reader.
func badRead(n, size int) error {
	return fmt.Errorf("connection claims to have read %d bytes into %d", n, size)
}

// A readDeadline decides when the deadline of the next read has to be set.
//
// An earlier one that has not expired may stay: that costs one idle turn of Read's loop
// when it fires, where setting it anew would cost something on every read. It does not stay
// when it has not been needed for maxNeedless reads: as long as there is a timer anywhere, the
// scheduler asks for the time whenever it looks for something to run.
type readDeadline struct {
	at       time.Time // as set; zero: none
	needless int       // reads in a row that needed none
	asked    bool      // by sooner: what the next move is told may be older than that
}

// move reports whether the deadline must be set to due, zero meaning none. Then it counts as
// set.
func (d *readDeadline) move(due time.Time, expired bool) bool {
	if due.IsZero() && !d.at.IsZero() {
		d.needless++
	} else {
		d.needless = 0
	}
	later := due.IsZero() || !d.at.IsZero() && !due.Before(d.at)
	keep := d.asked || !expired && d.needless < maxNeedless
	d.asked = false
	if later && keep {
		return false
	}
	d.at = due
	return true
}

// sooner is move for a deadline under a read that may be under way: an earlier one stays. Whoever
// is about to move it has not heard of this one yet, and leaves it as it is.
func (d *readDeadline) sooner(due time.Time) bool {
	d.asked = true
	if !d.at.IsZero() && !due.Before(d.at) {
		return false
	}
	d.at = due
	return true
}
