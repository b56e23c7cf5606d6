package soak

import (
	"crypto/tls"
	"net"
	"sync"
	"time"

	"github.com/seed-d0aa0aa7/tcpclient/internal/testkit"
)

// A soakServer serves one Client, with faults, and tells the model what arrives.
type soakServer struct {
	s         *soakCase
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
