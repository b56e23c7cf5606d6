package soak

import (
	"crypto/tls"
	"errors"
	"math/rand/v2"
	"time"

	"github.com/seed-d0aa0aa7/tcpclient/tcpclienttest"
)

// A soakFault is what the server does to one connection.
type soakFault struct {
	name   string
	gentle bool                 // it leaves the end of the connection to the client
	whole  bool                 // it ends its stream in order, after all that it has written
	among  bool                 // it does so between the replies to one call, if there are several
	lanes  tcpclienttest.Faults // below TLS, also in the middle of a frame
	slow   time.Duration        // pause after each frame that was read, at random
	work   time.Duration        // pause before each reply that is given in order, at random
	mute   bool                 // it never says a word, as accept-then-hang
	after  time.Duration        // when strike comes, between two frames of the server; 0: at once
	strike func(c *soakConn)    // nil: nothing
}

// attentive reports whether the server takes in at once what arrives.
func (f *soakFault) attentive() bool { return f.lanes == (tcpclienttest.Faults{}) && f.slow == 0 }

// drawFault chooses what happens to a connection: more, and sooner, where others follow.
func drawFault(r *rand.Rand, others bool) soakFault {
	kinds, soon := 24, 300
	if others {
		kinds, soon = 17, 50
	}
	f := soakFault{after: time.Duration(r.IntN(soon)) * time.Millisecond}
	bytes := int64(r.IntN(3000))
	if r.IntN(2) == 0 {
		bytes = int64(r.IntN(100_000))
	}
	end := []tcpclienttest.Action{tcpclienttest.Cut, tcpclienttest.Reset, tcpclienttest.Stall, tcpclienttest.Drop}[r.IntN(4)]
	switch r.IntN(kinds) {
	case 0:
		f.name, f.gentle = "dribble", true
		f.lanes.Write = tcpclienttest.Fault{Chunk: 20 + r.IntN(200), Pause: time.Duration(r.IntN(1000)) * time.Microsecond}
	case 1:
		f.name, f.gentle, f.slow = "slow reader", true, time.Duration(1+r.IntN(20))*time.Millisecond
	case 2:
		f.name, f.gentle = "pause", true
		f.strike = func(c *soakConn) { c.pause(soakTimeout / 3) }
	case 3, 4:
		f.name = "written: " + end.String()
		f.lanes.Write = tcpclienttest.Fault{After: bytes, Then: end}
	case 5, 6:
		f.name = "read: " + end.String()
		f.lanes.Read = tcpclienttest.Fault{After: bytes, Then: end}
		if r.IntN(2) == 0 { // with the client in the middle of a write, most likely
			f.name = "slowly " + f.name
			f.lanes.Read.Chunk, f.lanes.Read.Pause = 200+r.IntN(4000), time.Duration(r.IntN(3000))*time.Microsecond
		}
	case 7:
		f.name, f.strike = "reset", (*soakConn).reset
	case 8:
		f.name, f.strike = "close", (*soakConn).hangUp
	case 9:
		f.name, f.whole, f.strike = "half-close", true, (*soakConn).halfClose
	case 10:
		f.name, f.strike = "no frame", (*soakConn).garbage
	case 11:
		f.name, f.strike = "silence", func(c *soakConn) { c.silent = true }
	case 12:
		f.name, f.after, f.strike = "accept, then close", 0, (*soakConn).hangUp
	case 13:
		f.name, f.mute = "accept, then nothing", true
	case 14:
		f.name, f.gentle, f.work = "slow worker", true, time.Duration(1+r.IntN(10))*time.Millisecond
	case 15:
		f.name, f.whole, f.among, f.strike = "half-close among replies", true, true, (*soakConn).halfClose
		f.after += 2 * soakTimeout // there may be no such call
	default:
		f.name, f.gentle = "none", true
	}
	switch {
	case f.strike != nil:
	case !f.gentle: // the client may be content: there is more to come
		f.after += 2 * soakTimeout
		f.strike = (*soakConn).hangUp
	case others && r.IntN(3) > 0:
		f.name, f.gentle, f.strike = f.name+", then close", false, (*soakConn).hangUp
	}
	return f
}

func (c *soakConn) reset() {
	if abrupt, ok := c.raw.(interface{ SetLinger(int) error }); ok {
		abrupt.SetLinger(0)
	}
	c.hangUp()
}

func (c *soakConn) hangUp() {
	c.silent = true
	c.below.Close()
}

func (c *soakConn) garbage() {
	c.conn.Write([]byte("\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"))
	c.silent = true
}

func (c *soakConn) halfClose() {
	c.silent = true
	if secure, ok := c.conn.(*tls.Conn); ok {
		if secure.CloseWrite() != nil {
			return
		}
	}
	if half, ok := c.below.(interface{ CloseWrite() error }); ok && !errors.Is(half.CloseWrite(), errors.ErrUnsupported) {
		return
	}
	c.hangUp()
}
