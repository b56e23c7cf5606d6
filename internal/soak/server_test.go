package soak

import (
	"bufio"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"time"

	"github.com/seed-d0aa0aa7/tcpclient/internal/testkit"
	"github.com/seed-d0aa0aa7/tcpclient/tcpclienttest"
)

// The server's side of the soak test: parcels, faults, server.

// A parcel is a message that tells what it is, whose, and whether it is whole.
//
//	kind 1 | from 2 | number 4 | filler | CRC-32 4
type parcel struct {
	kind   byte
	from   int // the sender: a worker of the client, or a connection of the server
	number int // the sender's parcels count from 0
}

const (
	parcelSent  = 'S' // wants no answer
	parcelCall  = 'C'
	parcelReply = 'R' // has from and number of the call
	parcelPush  = 'P'

	parcelSize = 1 + 2 + 4 + 4 // the smallest
)

// pack makes a message of the parcel, after a prefix of zeros: an id that no call has.
func (p parcel) pack(prefix, size int) []byte {
	msg := make([]byte, prefix, prefix+parcelSize+size)
	msg = append(msg, p.kind)
	msg = binary.BigEndian.AppendUint16(msg, uint16(p.from))
	msg = binary.BigEndian.AppendUint32(msg, uint32(p.number))
	for i := range size {
		msg = append(msg, byte(i+p.number))
	}
	return binary.BigEndian.AppendUint32(msg, crc32.ChecksumIEEE(msg[prefix:]))
}

func unpack(prefix int, msg []byte) (parcel, error) {
	if len(msg) < prefix+parcelSize {
		return parcel{}, fmt.Errorf("a message of %d bytes is none that was sent: %.20q", len(msg), msg)
	}
	body, sum := msg[prefix:len(msg)-4], binary.BigEndian.Uint32(msg[len(msg)-4:])
	if crc32.ChecksumIEEE(body) != sum {
		return parcel{}, fmt.Errorf("a message of %d bytes is not as it was sent: %.20q", len(msg), msg)
	}
	return parcel{
		kind:   body[0],
		from:   int(binary.BigEndian.Uint16(body[1:])),
		number: int(binary.BigEndian.Uint32(body[3:])),
	}, nil
}

// parcelFiller draws the size of a filler: most are small, few need many reads.
func parcelFiller(r *rand.Rand) int {
	switch n := r.IntN(200); {
	case n == 0:
		return r.IntN(200 << 10)
	case n < 10:
		return r.IntN(10 << 10)
	case n < 60:
		return r.IntN(500)
	}
	return r.IntN(60)
}

// A soakFault is what the server does to one connection.
type soakFault struct {
	name   string
	gentle bool                 // it leaves the end of the connection to the client
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
	kinds, soon := 23, 300
	if others {
		kinds, soon = 16, 50
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
		f.name, f.strike = "half-close", (*soakConn).halfClose
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

// A soakServer serves one Client, with faults, and tells the model what arrives.
type soakServer struct {
	s         *soakSession
	listeners []net.Listener // one for each address
	shut      int            // one of them hangs up on everybody; -1: none
	tls       *tls.Config    // nil: none
	ending    chan struct{}  // closed when the Client is closed
	running   sync.WaitGroup

	mu    sync.Mutex // guards following
	conns []*soakConn
}

// accept takes what connects to one of the addresses.
func (s *soakServer) accept(address int) {
	for {
		raw, err := s.listeners[address].Accept()
		if err != nil {
			return
		}
		s.mu.Lock()
		c := &soakConn{server: s, index: len(s.conns), raw: raw, out: make(chan soakReply, 64), broken: make(chan struct{})}
		c.debts = soakDebts{s: s.s, owed: map[parcel]soakDebt{}}
		c.random = s.s.random(1000 + c.index)
		c.fault = drawFault(c.random, s.s.dialer.Reconnect != nil)
		if address == s.shut {
			c.fault = soakFault{name: "shut", strike: (*soakConn).hangUp}
		}
		if c.fault.lanes.Read.Chunk > 0 {
			raw.(interface{ SetReadBuffer(int) error }).SetReadBuffer(4 << 10)
		}
		c.below = c.fault.lanes.Wrap(raw)
		c.conn = c.below
		if s.tls != nil {
			c.conn = tls.Server(c.below, s.tls)
		}
		s.conns = append(s.conns, c)
		s.mu.Unlock()
		s.running.Go(c.serve)
	}
}

// close ends the server after its client: connections without a fault have to end by
// themselves, since no descriptor of the client is left.
func (s *soakServer) close() {
	close(s.ending)
	for _, l := range s.listeners {
		l.Close()
	}
	s.mu.Lock()
	for _, c := range s.conns {
		if !c.fault.gentle {
			c.below.Close()
		}
	}
	s.mu.Unlock()
	done := make(chan struct{})
	go func() { defer close(done); s.running.Wait() }()
	select {
	case <-done:
	case <-time.After(testkit.Patience):
		s.s.fail("P7: the server still sees connections after Close\n%s", testkit.Stacks())
		for _, c := range s.conns {
			c.below.Close()
		}
		<-done
	}
}

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
	late     []soakReply // replies that take their time
}

// A soakReply is a message that the client waits for.
type soakReply struct {
	msg []byte
	to  parcel // the call; zero: none
}

func (c *soakConn) serve() {
	wrote := make(chan error, 1)
	go func() { wrote <- c.write() }()
	err := c.read()
	close(c.out)
	// A reset is told once, to the first who asks. If that was the writer, the reader has
	// seen the end of the stream, but not what was lost before it.
	c.orderly = <-wrote == nil && errors.Is(err, io.EOF) && c.fault.gentle
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
			reply := parcel{parcelReply, p.from, p.number}.pack(s.prefix, parcelFiller(random))
			copy(reply, msg[:s.prefix]) // the id
			c.post(soakReply{reply, p})
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
			if c.fault.attentive() {
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

// reply sends a message, or, where replies have ids, later, or twice, or never.
func (c *soakConn) reply(w *bufio.Writer, reply soakReply) {
	c.welcomed = true
	if c.fault.work > 0 && c.server.s.mode == soakInOrder {
		c.pause(time.Duration(c.random.Int64N(int64(c.fault.work))))
	}
	if c.server.s.mode == soakIDs && reply.to.kind == parcelCall {
		switch n := c.random.IntN(100); {
		case n < 2:
			return
		case n < 15:
			c.late = append(c.late, reply)
			return
		case n < 20:
			c.pay(w, reply)
		}
	}
	c.pay(w, reply)
}

// pay writes a reply, unless the server has fallen silent.
func (c *soakConn) pay(w *bufio.Writer, reply soakReply) {
	if !c.silent && !c.fault.mute {
		c.debts.pay(reply.to)
	}
	c.put(w, reply.msg)
}

func (c *soakConn) flushLate(w *bufio.Writer) {
	for len(c.late) > 0 && c.random.IntN(3) > 0 {
		i := c.random.IntN(len(c.late))
		c.pay(w, c.late[i])
		c.late = append(c.late[:i], c.late[i+1:]...)
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
	if s.mode == soakInOrder || c.random.IntN(3) > 0 {
		return
	}
	burst := 1 + c.random.IntN(4)
	if c.random.IntN(30) == 0 {
		burst = 100
	}
	for range burst {
		c.put(w, parcel{parcelPush, c.index, c.pushes}.pack(s.prefix, parcelFiller(c.random)))
		c.pushes++
	}
}

// put writes one frame, unless the server has fallen silent.
func (c *soakConn) put(w *bufio.Writer, msg []byte) {
	if !c.silent && !c.fault.mute {
		c.server.s.dialer.Framer.WriteFrame(w, msg)
	}
}

// pause lets d pass, or less if the session ends.
func (c *soakConn) pause(d time.Duration) { pause(d, c.server.ending) }

func (c *soakConn) reset() {
	if abrupt, ok := c.raw.(interface{ SetLinger(int) error }); ok {
		abrupt.SetLinger(0)
	}
	c.hangUp()
}

func (c *soakConn) hangUp() { c.below.Close() }

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
