package tcpclient

import (
	"bytes"
	"context"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// A deaf is a connection with deadlines that do nothing, over one end of a net.Pipe, for
// its addresses.
type deaf struct{ net.Conn }

func newDeaf(t testing.TB) deaf {
	near, far := net.Pipe()
	t.Cleanup(func() { near.Close(); far.Close() })
	return deaf{near}
}

func (deaf) SetDeadline(time.Time) error      { return nil }
func (deaf) SetReadDeadline(time.Time) error  { return nil }
func (deaf) SetWriteDeadline(time.Time) error { return nil }

// A gated is a connection whose writes of what begins with "gate" wait, and may fail.
type gated struct {
	deaf
	inside, open chan struct{}
	err          error

	mu    sync.Mutex // guards following
	taken bytes.Buffer
}

func (g *gated) Write(p []byte) (int, error) {
	if bytes.HasPrefix(p, []byte("gate")) {
		close(g.inside)
		<-g.open
		if g.err != nil {
			return 0, g.err
		}
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.taken.Write(p)
}

func (g *gated) written() string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.taken.String()
}

// layered is TLS in small: after its first Write, the reader writes.
type layered struct {
	net.Conn
	after func()
}

func (l *layered) Write(p []byte) (int, error) {
	n, err := l.Conn.Write(p)
	if after := l.after; after != nil {
		l.after = nil
		after()
	}
	return n, err
}

// attached is a connection of d as a Client uses it, without a reader. The layer is what
// lies on top of the wire, if that is not nil.
func attached(d *Dialer, raw net.Conn, layer *layered) *Conn {
	conn := d.newConn(raw, "x")
	conn.wire.stable = false // as with TLS
	if layer != nil {
		layer.Conn, conn.top = conn.wire, layer
	}
	conn.calls = newCalls(nil, new(counters))
	conn.out = newOutbox(d, conn, new(counters))
	return conn
}

func TestReadersOwnWrite(t *testing.T) {
	// TLS answers a key update, and reports a bad record, from within Read. A leader that
	// meets such a write under way leaves its flight to whoever ends it.
	for name, fault := range map[string]error{"is done": nil, "fails": io.ErrClosedPipe} {
		t.Run("that a leader meets lets it land when it "+name, func(t *testing.T) { // P2, P4, P7
			synctest.Test(t, func(t *testing.T) {
				g := &gated{deaf: newDeaf(t), inside: make(chan struct{}), open: make(chan struct{}), err: fault}
				layer := new(layered)
				conn := attached(&Dialer{}, g, layer)
				reader := make(chan error, 1)
				layer.after = func() {
					go func() {
						_, err := conn.wire.Write([]byte("gate: a key update"))
						reader <- err
					}()
					<-g.inside
				}
				sent := make(chan error, 1)
				go func() {
					_, err := conn.out.send(context.Background(), []byte("hello"))
					sent <- err
				}()
				synctest.Wait() // the leader has gone
				require.Empty(t, sent)
				close(g.open)
				if fault == nil {
					require.NoError(t, <-reader)
				} else {
					require.ErrorIs(t, <-reader, fault)
				}
				select {
				case err := <-sent:
					if fault == nil {
						require.NoError(t, err)
						_, err = conn.out.send(t.Context(), []byte("again"))
						require.NoError(t, err)
						require.Contains(t, g.written(), "again")
					} else if err != nil { // its bytes were taken before
						require.ErrorIs(t, err, fault)
					}
				case <-time.After(time.Minute):
					require.FailNow(t, "nobody leads: Send would wait for ever")
				}
				requireEnds(t, conn)
			})
		})
	}
}

// A punctual is a connection that takes all, but nothing behind its deadline.
type punctual struct {
	gated
	due time.Time
}

func (p *punctual) SetWriteDeadline(t time.Time) error {
	p.due = t
	return nil
}

func (p *punctual) Write(b []byte) (int, error) {
	if !p.due.IsZero() && !time.Now().Before(p.due) {
		return 0, os.ErrDeadlineExceeded
	}
	return p.gated.Write(b)
}

func TestWriteBehindOneThatEnds(t *testing.T) {
	t.Run("has the whole WriteTimeout before it", func(t *testing.T) { // P5, FAULTS Y13
		p := &punctual{gated: gated{deaf: newDeaf(t)}}
		conn := attached(&Dialer{WriteTimeout: time.Second}, p, nil)
		w := conn.wire
		w.mu.Lock()
		w.busy, w.notify = true, true // the reader answers a key update, and a leader has met that
		w.doneLocked()
		n, _, err := w.writeLocked([]byte("hello")) // before drain has looked
		require.NoError(t, err)
		require.Equal(t, len("hello"), n)
		<-w.quiet()
		require.NoError(t, w.reason())
		require.Equal(t, "hello", p.written())
		requireEnds(t, conn)
	})
}

func TestBrokenPipe(t *testing.T) {
	gate := func(t *testing.T) (conn *Conn, g *gated, wrote chan error) {
		g = &gated{deaf: newDeaf(t), inside: make(chan struct{}), open: make(chan struct{}), err: syscall.EPIPE}
		conn = attached(&Dialer{}, g, nil)
		conn.wire.begin(inlineWrite)
		wrote = make(chan error, 1)
		go func() {
			_, err := conn.wire.Write([]byte("gate"))
			wrote <- err
		}()
		<-g.inside
		return conn, g, wrote
	}

	t.Run("of a connection that has ended is not waited for", func(t *testing.T) { // P7, P9
		synctest.Test(t, func(t *testing.T) {
			conn, g, wrote := gate(t)
			conn.wire.kill(ErrClosed)
			close(g.open)
			require.Equal(t, ErrClosed, <-wrote)
			requireEnds(t, conn)
		})
	})

	t.Run("is not waited for by a reader when there is a reason", func(t *testing.T) { // P9
		synctest.Test(t, func(t *testing.T) {
			conn, g, wrote := gate(t)
			conn.wire.failWrite(io.ErrNoProgress)
			began := time.Now()
			conn.wire.awaitWriter(io.EOF)
			require.Zero(t, time.Since(began))
			close(g.open)
			require.ErrorIs(t, <-wrote, io.ErrNoProgress)
			requireEnds(t, conn)
		})
	})

	t.Run("fails a handshake at once, which reads on the same goroutine", func(t *testing.T) { // P9
		synctest.Test(t, func(t *testing.T) {
			g := &gated{deaf: newDeaf(t), inside: make(chan struct{}), open: make(chan struct{}), err: syscall.EPIPE}
			close(g.open)
			conn := (&Dialer{}).newConn(g, "x")
			began := time.Now()
			_, err := conn.wire.Write([]byte("gate"))
			require.ErrorIs(t, err, syscall.EPIPE)
			require.Zero(t, time.Since(began))
			requireEnds(t, conn)
		})
	})
}

// requireEnds wants conn to end without waiting.
func requireEnds(t testing.TB, conn *Conn) {
	t.Helper()
	ended := make(chan struct{})
	go func() { defer close(ended); conn.end(ErrClosed) }()
	select {
	case <-ended:
	case <-time.After(time.Minute):
		require.FailNow(t, "end hangs")
	}
}

// A suspended is a connection that takes nothing while its deadlines pass. After some time
// the process, and with it a write, sleeps through one of them; then all is taken.
type suspended struct {
	deaf
	from time.Time // when the process is suspended
	over bool

	mu  sync.Mutex // guards following
	due time.Time
}

func (s *suspended) SetWriteDeadline(t time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.due = t
	return nil
}

func (s *suspended) Write(p []byte) (int, error) {
	if s.over {
		return len(p), nil
	}
	s.mu.Lock()
	due := s.due
	s.mu.Unlock()
	time.Sleep(time.Until(due))
	if time.Now().After(s.from) {
		time.Sleep(time.Hour)
		s.over = true
	}
	return 0, os.ErrDeadlineExceeded
}

func TestWriteTimeoutOfSuspendedProcess(t *testing.T) {
	for _, timeout := range []time.Duration{time.Second, 50 * time.Millisecond, 10 * time.Millisecond} {
		for _, from := range []time.Duration{0, timeout / 2, timeout - 5*time.Millisecond} {
			t.Run("is no verdict without another try: "+from.String()+" of "+timeout.String(), func(t *testing.T) { // P5
				synctest.Test(t, func(t *testing.T) {
					d := &Dialer{WriteTimeout: timeout}
					conn := attached(d, &suspended{deaf: newDeaf(t), from: time.Now().Add(from)}, nil)
					_, err := conn.out.send(context.Background(), []byte("hello"))
					require.NoError(t, err)
					requireEnds(t, conn)
				})
			})
		}
	}

	t.Run("that is always late is bounded all the same", func(t *testing.T) { // P5
		synctest.Test(t, func(t *testing.T) {
			conn := attached(&Dialer{WriteTimeout: time.Second}, &sluggish{deaf: newDeaf(t)}, nil)
			_, err := conn.out.send(t.Context(), []byte("hello"))
			require.ErrorIs(t, err, ErrWriteTimeout)
			requireEnds(t, conn)
		})
	})
}

// A sluggish takes nothing, and is late with each deadline.
type sluggish struct{ deaf }

func (s *sluggish) Write(p []byte) (int, error) {
	time.Sleep(10 * time.Second)
	return 0, os.ErrDeadlineExceeded
}

func TestCloseBetweenTheEndsOfConnectionAndClient(t *testing.T) {
	t.Run("the first error stays", func(t *testing.T) { // P9
		settings := new(Dialer)
		c := newClient(settings, "tcp", []string{"x"})
		here, there := net.Pipe()
		defer there.Close()
		conn := settings.newConn(here, "x")
		c.attach(conn)
		reason := c.detach(conn, io.EOF)
		close(c.done)
		require.NoError(t, c.Close())
		c.finish(reason)
		_, err := c.Receive(t.Context())
		require.ErrorIs(t, err, io.EOF)
		require.ErrorIs(t, c.Send(t.Context(), nil), io.EOF)
	})
}
