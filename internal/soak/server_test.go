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
