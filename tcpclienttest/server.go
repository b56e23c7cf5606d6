package tcpclienttest

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"sort"
	"strings"
	"sync"
	"time"

	"github.com/seed-d0aa0aa7/tcpclient"
)

const (
	// grace is how long Close waits for the handlers.
	grace = 5 * time.Second

	// lastGrace is how long it then waits for those whose connections it has closed.
	lastGrace = time.Second

	// acceptPause is how long the server waits after a failed Accept, such as one that
	// found no free file descriptor.
	acceptPause = 5 * time.Millisecond
)

// A Handler plays the server's part on one connection, on a goroutine of its own. When
// it returns, what it wrote is flushed and the connection is closed.
type Handler func(conn *Conn)

// A Server accepts connections and runs its Handler on each. Its methods may be called
// concurrently.
type Server struct {
	// Addr is what to dial: "127.0.0.1:54321", or the address of the listener given
	// to NewServerOn.
	Addr string

	// A Server owns one goroutine that accepts, until the listener is closed, and one
	// for each connection, until its Handler has returned. Close waits for all.

	listener net.Listener
	framer   tcpclient.Framer
	handler  Handler
	trust    *tls.Config     // for clients; nil without TLS
	ctx      context.Context // ends when Close begins
	cancel   context.CancelFunc
	closed   chan struct{} // closed when Close is over and err is set
	err      error

	mu      sync.Mutex // guards following
	conns   map[*Conn]struct{}
	running int           // goroutines
	quiet   chan struct{} // closed when there are none
	closing bool
}

// NewServer starts a server on a free port of 127.0.0.1. A nil Framer is the Dialer's
// default, [tcpclient.LengthPrefix]. NewServer panics if it cannot listen.
func NewServer(framer tcpclient.Framer, handler Handler) *Server {
	return NewServerOn(listen(), framer, handler)
}

// NewTLSServer is [NewServer] with TLS and a certificate of its own, made for 127.0.0.1,
// ::1, localhost and example.com. [Server.ClientTLSConfig] trusts it.
func NewTLSServer(framer tcpclient.Framer, handler Handler) *Server {
	server, client := NewTLSConfig()
	s := newServer(tls.NewListener(listen(), server), framer, handler)
	s.trust = client
	s.start()
	return s
}

// NewServerOn starts a server on a listener, which Close closes: a Unix socket, a
// listener of a [Network], one that [tls.NewListener] has wrapped.
func NewServerOn(listener net.Listener, framer tcpclient.Framer, handler Handler) *Server {
	s := newServer(listener, framer, handler)
	s.start()
	return s
}

func newServer(listener net.Listener, framer tcpclient.Framer, handler Handler) *Server {
	if framer == nil {
		framer = tcpclient.LengthPrefix{}
	}
	s := &Server{
		Addr:     listener.Addr().String(),
		listener: listener,
		framer:   framer,
		handler:  handler,
		closed:   make(chan struct{}),
		conns:    make(map[*Conn]struct{}),
		running:  1,
		quiet:    make(chan struct{}),
	}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	return s
}

func (s *Server) start() { go s.accept() }

func listen() net.Listener {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic("tcpclienttest: cannot listen: " + err.Error())
	}
	return l
}

// ClientTLSConfig returns a new configuration that trusts the certificate of a server
// made by [NewTLSServer], and nil for any other.
func (s *Server) ClientTLSConfig() *tls.Config {
	if s.trust == nil {
		return nil
	}
	return s.trust.Clone()
}

// CloseConnections closes all current connections, which clients see as the end of the
// stream, and returns how many there were. It does not wait for their handlers. Over TLS
// it sends no close_notify, so that clients see a truncated stream.
//
// A connection that was dialed a moment ago may not have been accepted yet, and is then
// not among them: an exchange of messages makes sure that it is.
func (s *Server) CloseConnections() int {
	return s.each(func(c *Conn) { c.hangUp() })
}

// ResetConnections is [Server.CloseConnections] with RST: clients see ECONNRESET.
func (s *Server) ResetConnections() int {
	return s.each(func(c *Conn) { c.Reset() })
}

// each calls f for each current connection and returns how many there are.
func (s *Server) each(f func(*Conn)) int {
	conns := s.current()
	for _, c := range conns {
		f(c)
	}
	return len(conns)
}

func (s *Server) current() []*Conn {
	s.mu.Lock()
	defer s.mu.Unlock()
	conns := make([]*Conn, 0, len(s.conns))
	for c := range s.conns {
		conns = append(conns, c)
	}
	return conns
}

// Close stops listening, cancels the contexts of the connections and waits until all
// handlers have returned. Handlers that talk return when their clients have closed:
// close those first.
//
// After 5 s Close closes the connections that are left, waits another second, and
// returns an error that names them and says what their handlers were doing. All calls
// of Close return the same.
func (s *Server) Close() error {
	s.mu.Lock()
	first := !s.closing
	s.closing = true
	s.mu.Unlock()
	if first {
		s.err = s.close()
		close(s.closed)
	}
	<-s.closed // rather than a sync.Once, whose mutex would stop the clock of a synctest bubble
	return s.err
}

func (s *Server) close() error {
	s.cancel()
	s.listener.Close()
	if s.waitQuiet(grace) {
		return nil
	}
	var stuck []string
	s.each(func(c *Conn) {
		stuck = append(stuck, c.remote()+" "+c.doing())
		c.hangUp()
	})
	sort.Strings(stuck)
	late := ""
	if !s.waitQuiet(lastGrace) {
		late = ", some even after their connections were closed"
	}
	return fmt.Errorf("tcpclienttest: server %s: handlers still running after %v%s: %s",
		s.Addr, grace, late, strings.Join(stuck, "; "))
}

// waitQuiet waits until all goroutines have ended and reports whether they have.
func (s *Server) waitQuiet(d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-s.quiet:
		return true
	case <-timer.C:
		return false
	}
}

func (s *Server) accept() {
	defer s.leave(nil)
	for {
		raw, err := s.listener.Accept()
		if err == nil {
			if c := newConn(s, raw); s.join(c) {
				go s.serve(c)
			} else {
				c.hangUp()
			}
			continue
		}
		if s.ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
			return
		}
		pause := time.NewTimer(acceptPause)
		select {
		case <-pause.C:
		case <-s.ctx.Done():
		}
		pause.Stop()
	}
}

func (s *Server) serve(c *Conn) {
	// Deferred, so that a handler may end its goroutine as testing.T.FailNow does.
	defer s.leave(c)
	defer c.finish()
	s.handler(c)
}

// join enters c into the books, unless the server is closing.
func (s *Server) join(c *Conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing {
		return false
	}
	s.conns[c] = struct{}{}
	s.running++
	return true
}

// leave takes the calling goroutine, and c if it has one, out of the books.
func (s *Server) leave(c *Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.conns, c)
	if s.running--; s.running == 0 {
		close(s.quiet)
	}
}
