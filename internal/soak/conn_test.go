package soak

import (
	"bufio"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"time"

	"github.com/seed-d0aa0aa7/tcpclient/internal/testkit"
)

// A soakConn is the server's end of a connection. One goroutine reads, one writes.
type soakConn struct {
	server  *soakServer
	index   int
	fault   soakFault
	raw     net.Conn
	below   net.Conn       // raw with faults
	conn    net.Conn       // with TLS, if there is any
	out     chan soakReply // to be written; closed by the reader at its end
	broken  chan struct{}  // closed by the writer at its end
	orderly bool           // the client has ended the stream, and all of it has come
	debts   soakDebts

	// Owned by the writer.
	random   *rand.Rand
	welcomed bool // the handshake is over
	silent   bool
	pushes   int
	late     []soakReply // calls whose (further) replies take their time
	lastID   []byte      // of the last call that was answered
}

// A soakReply is a message that the client waits for, or the replies to a call.
type soakReply struct {
	msg   []byte // where it is no reply to a call
	to    parcel // the call; zero: none
	id    []byte // of the call, as it came
	given int    // replies to the call
}

func (c *soakConn) serve() {
	wrote := make(chan error, 1)
	go func() { wrote <- c.write() }()
	err := c.read()
	close(c.out)
	// A reset is told once, to the first who asks. If that was the writer, the reader has
	// seen the end of the stream, but not what was lost before it. Wine tells of none that comes
	// between two reads.
	c.orderly = <-wrote == nil && errors.Is(err, io.EOF) && c.fault.gentle && !testkit.UnderWine()
	c.below.Close()
}

// read takes in what the client sends until the connection ends.
func (c *soakConn) read() error {
	s := c.server.s
	random := s.random(2000 + c.index)
	in := bufio.NewReader(c.conn)
	for greeted := !s.handshake; ; {
		msg, err := s.dialer.Framer.ReadFrame(in, nil)
		if err != nil {
			return err
		}
		switch {
		case !greeted:
			if string(msg) != "hello" {
				s.fail("P8: %.20q came before the handshake", msg)
			}
			greeted = true
			c.post(soakReply{msg: []byte("welcome")})
			continue
		case string(msg) == "ping":
			c.post(soakReply{msg: []byte("pong")})
			continue
		case string(msg) == "pong": // our own ping was answered
			continue
		}
		p, err := unpack(s.prefix, msg)
		if err != nil {
			s.fail("P1: the server got %v", err)
			return err
		}
		s.model.arrived(c, p)
		if p.kind == parcelCall {
			c.debts.owe(p)
			c.post(soakReply{to: p, id: msg[:s.prefix]})
		}
		if c.fault.slow > 0 && random.IntN(4) == 0 {
			c.pause(c.fault.slow)
		}
	}
}

// post gives a reply to the writer.
func (c *soakConn) post(reply soakReply) {
	select {
	case c.out <- reply:
	case <-c.broken:
	}
}

// write sends what the reader posts, and pushes, until the connection ends.
func (c *soakConn) write() error {
	defer close(c.broken)
	c.welcomed = !c.server.s.handshake
	w := bufio.NewWriter(c.conn)
	var struck <-chan time.Time
	if c.fault.strike != nil {
		timer := time.NewTimer(c.fault.after)
		defer timer.Stop()
		struck = timer.C
	}
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case reply, more := <-c.out:
			if !more {
				c.flushLate(w)
				err := w.Flush()
				if err == nil && c.fault.gentle {
					c.halfClose()
				}
				return err
			}
			c.reply(w, reply)
		case <-tick.C:
			c.flushLate(w)
			c.push(w)
			if c.fault.attentive() && !c.server.s.crowded() {
				c.debts.checkDue()
			}
		case <-struck:
			w.Flush()
			c.fault.strike(c)
		}
		if len(c.out) > 0 {
			continue
		}
		if err := w.Flush(); err != nil {
			c.below.Close()
			return err
		}
	}
}

// reply sends a message, or the replies to a call. Those that have ids it may give later, or the
// last of them twice, or never.
func (c *soakConn) reply(w *bufio.Writer, r soakReply) {
	if c.server.s.delivers && !c.welcomed {
		c.put(w, parcel{kind: parcelPush, from: c.index, number: c.pushes}.pack(c.server.s.prefix, parcelFiller(c.random)))
		c.pushes++
	}
	c.welcomed = true
	if r.to.kind != parcelCall {
		c.put(w, r.msg)
		return
	}
	for more := true; more; {
		if c.server.s.mode == soakIDs && c.random.IntN(50*r.to.part) == 0 {
			return
		}
		if c.server.s.mode == soakIDs && c.random.IntN(8) == 0 {
			c.late = append(c.late, r)
			return
		}
		if c.server.s.mode == soakInOrder && (r.given == 0 || c.random.IntN(8) == 0) {
			c.work(w)
		}
		more = c.give(w, &r)
		if more && c.fault.among && c.random.IntN(8) == 0 {
			w.Flush()
			c.halfClose()
		}
	}
}

// work takes the time that a call takes.
func (c *soakConn) work(w *bufio.Writer) {
	if c.random.IntN(4) == 0 {
		c.push(w)
	}
	if c.fault.work > 0 {
		w.Flush() // what has been done is not to wait for that
		c.pause(time.Duration(c.random.Int64N(int64(c.fault.work))))
	}
}

// give writes the next reply to a call, and reports whether there are others.
func (c *soakConn) give(w *bufio.Writer, r *soakReply) (more bool) {
	p := r.to.reply(r.given)
	r.given++
	c.lastID = r.id
	times := 1
	if more = p.kind == parcelMore; !more && c.server.s.mode == soakIDs && !c.server.s.choosesIDs && c.random.IntN(20) == 0 {
		times = 2
	}
	for range times {
		msg := p.pack(len(r.id), parcelFiller(c.random))
		copy(msg, r.id)
		if !c.silent && !c.fault.mute {
			c.debts.pay(r.to, more)
			c.server.s.model.gives(p, len(msg)-len(r.id))
		}
		c.put(w, msg)
	}
	return more
}

// flushLate gives replies to calls of which some were kept.
func (c *soakConn) flushLate(w *bufio.Writer) {
	for len(c.late) > 0 && c.random.IntN(4) > 0 {
		i := c.random.IntN(len(c.late))
		for range 1 + c.random.IntN(8) {
			if !c.give(w, &c.late[i]) {
				c.late = append(c.late[:i], c.late[i+1:]...)
				break
			}
		}
	}
}

// push sends what the client has not asked for: a burst of messages, or a ping. It does
// not push where that would be taken for the reply to a call.
func (c *soakConn) push(w *bufio.Writer) {
	s := c.server.s
	if !c.welcomed {
		return
	}
	if s.dialer.Heartbeat.Answer != nil && c.random.IntN(10) == 0 {
		c.put(w, []byte("ping"))
	}
	if !s.pushes() || c.random.IntN(3) > 0 {
		return
	}
	burst := 1 + c.random.IntN(4)
	if c.random.IntN(30) == 0 {
		burst = 100
	}
	for range burst {
		msg := parcel{kind: parcelPush, from: c.index, number: c.pushes}.pack(s.prefix, parcelFiller(c.random))
		if s.dialer.IsPush != nil {
			copy(msg, c.lastID) // of a call that may still wait: IsPush has to tell
		}
		c.put(w, msg)
		c.pushes++
	}
}

// put writes one frame, unless the server has fallen silent.
func (c *soakConn) put(w *bufio.Writer, msg []byte) {
	if !c.silent && !c.fault.mute {
		c.server.s.dialer.Framer.WriteFrame(w, msg)
	}
}

// pause lets d pass, or less if the case ends.
func (c *soakConn) pause(d time.Duration) { pause(d, c.server.ending) }
