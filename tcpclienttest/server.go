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
	// quiet is how long a handler waits for its client once Close has begun.
	quiet = 50 * time.Millisecond

	// drainTime is how long Close lets handlers receive what their clients go on to send.
	drainTime = time.Second

	// grace is how long Close waits for the handlers.
	grace = 5 * time.Second

	// lastGrace is how long Close then waits for those whose connections it has closed.
	lastGrace = time.Second

	// acceptPause is the pause after a failed Accept, such as one that found no free file
	// descriptor.
	acceptPause = 5 * time.Millisecond

	// maxFindings is how much Close tells of what Scripts have found.
	maxFindings = 10
)

// A Handler is the server's part on one connection. It runs on a goroutine of its own. When
// it returns, the server flushes what it wrote and closes the connection.
type Handler func(conn *Conn)

// A Server accepts connections and runs its Handler on each. Its methods may be called
// concurrently.
type Server struct {
	// Addr is the address to dial: "127.0.0.1:54321", or that of the listener given to
	// NewServerOn.
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

	mu       sync.Mutex // guards following
	conns    map[*Conn]struct{}
	running  int           // goroutines that the server owns now
	ended    chan struct{} // closed when running is 0
	closing  bool
	findings []string // what Scripts have found
	more     int      // that were not kept
}

// NewServer starts a server on a free port of 127.0.0.1. A nil Framer is the Dialer's
// default, LengthPrefix{}. NewServer panics if it cannot listen.
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

// NewServerOn starts a server on a listener: a Unix socket, a listener of a [Network], one
// that [tls.NewListener] has wrapped. Close closes the listener. A nil Framer is
// LengthPrefix{}.
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
		ended:    make(chan struct{}),
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

// ClientTLSConfig returns a new configuration that trusts the certificate of this server,
// or nil if [NewTLSServer] did not make it.
func (s *Server) ClientTLSConfig() *tls.Config {
	if s.trust == nil {
		return nil
	}
	return s.trust.Clone()
}

// CloseConnections closes all current connections and returns how many there were. Clients
// see the end of the stream; over TLS there is no close_notify, so they see a truncated
// stream. CloseConnections does not wait for the handlers.
//
// A connection may not have been accepted yet when its dial has returned. To include it,
// exchange messages first.
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

// Close stops listening, cancels the contexts of the connections, and waits until all
// handlers have returned. Clients need not be closed first. A handler still receives what
// has arrived. Once it has waited for 50 ms, or a second after Close began if the client goes on
// sending, it receives an error that Is [net.ErrClosed]. What it sends until it returns is sent.
//
// A handler that does something else is waited for. After 5 s Close closes the remaining
// connections, waits for at most another second, and returns an error that names them and says
// what their handlers were doing.
//
// The error also tells what a [Script] has found. All calls of Close return the same error.
func (s *Server) Close() error {
	s.mu.Lock()
	first := !s.closing
	s.closing = true
	s.mu.Unlock()
	if first {
		s.err = s.close()
		close(s.closed)
	}
	<-s.closed // not a sync.Once: its mutex would stop the clock of a synctest bubble
	return s.err
}

func (s *Server) close() error {
	s.listener.Close()
	until := time.Now().Add(drainTime)
	s.each(func(c *Conn) { c.drain(until) })
	s.cancel()
	if s.waitEnded(grace) {
		return s.found("")
	}
	var stuck []string
	s.each(func(c *Conn) {
		stuck = append(stuck, c.remote()+" "+c.doing())
		c.hangUp()
	})
	sort.Strings(stuck)
	late := ""
	if !s.waitEnded(lastGrace) {
		late = ", some even after their connections were closed"
	}
	return s.found(fmt.Sprintf("handlers still running after %v%s: %s", grace, late, strings.Join(stuck, "; ")))
}

// report keeps what a Script has found, for Close.
func (s *Server) report(finding string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.findings) == maxFindings {
		s.more++
		return
	}
	s.findings = append(s.findings, finding)
}

// found returns the error of Close: what Scripts have found, and what is stuck, if anything is.
func (s *Server) found(stuck string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	said := s.findings
	if s.more > 0 {
		said = append(said, fmt.Sprintf("and %d more", s.more))
	}
	if stuck != "" {
		said = append(said, stuck)
	}
	if len(said) == 0 {
		return nil
	}
	return fmt.Errorf("tcpclienttest: server %s: %s", s.Addr, strings.Join(said, "; "))
}

// waitEnded waits for at most d until all goroutines have ended, and reports whether they
// have.
func (s *Server) waitEnded(d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-s.ended:
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
	// Deferred: a handler may end its goroutine, as testing.T.FailNow does.
	defer s.leave(c)
	defer c.finish()
	s.handler(c)
}

// join counts c and the goroutine that will serve it, unless the server is closing.
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

// leave uncounts the calling goroutine, and c if it served one.
func (s *Server) leave(c *Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.conns, c)
	if s.running--; s.running == 0 {
		close(s.ended)
	}
}
