package wire_test

import (
	"bytes"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/seed-d0aa0aa7/tcpclient/internal/wire"
	"github.com/seed-d0aa0aa7/tcpclient/tcpclienttest"
)

// A monitor is what a test wants it to be; the zero value never says a word.
type monitor struct {
	next    func() time.Time
	expired func(now, due time.Time) error
	arrived int
}

func (m *monitor) Next() time.Time {
	if m.next == nil {
		return time.Time{}
	}
	return m.next()
}

func (m *monitor) Arrived() { m.arrived++ }

func (m *monitor) Expired(now, due time.Time) error { return m.expired(now, due) }

// A fake is a connection that does what a test gives it to do. What the test does not give
// blocks until Close.
type fake struct {
	read, write func(p []byte) (int, error)
	close       func()

	once   sync.Once
	closed chan struct{}

	mu            sync.Mutex // guards following
	readDeadline  []time.Time
	writeDeadline []time.Time
}

func newFake() *fake { return &fake{closed: make(chan struct{})} }

func (f *fake) Read(p []byte) (int, error) {
	if f.read != nil {
		return f.read(p)
	}
	<-f.closed
	return 0, net.ErrClosed
}

func (f *fake) Write(p []byte) (int, error) {
	if f.write != nil {
		return f.write(p)
	}
	<-f.closed
	return 0, net.ErrClosed
}

func (f *fake) Close() error {
	if f.close != nil {
		f.close()
	}
	f.once.Do(func() { close(f.closed) })
	return nil
}

func (*fake) LocalAddr() net.Addr         { return nil }
func (*fake) RemoteAddr() net.Addr        { return nil }
func (*fake) SetDeadline(time.Time) error { return nil }
func (*fake) RealDeadlines() bool         { return true }

func (f *fake) SetReadDeadline(t time.Time) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.readDeadline = append(f.readDeadline, t)
	return nil
}

func (f *fake) SetWriteDeadline(t time.Time) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.writeDeadline = append(f.writeDeadline, t)
	return nil
}

// lastWriteDeadline returns the one that counts.
func (f *fake) lastWriteDeadline() time.Time {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.writeDeadline[len(f.writeDeadline)-1]
}

// A bare is a connection that refuses deadlines and cannot half-close, as an SSH channel is
// and does.
type bare struct{ net.Conn }

func (bare) SetDeadline(time.Time) error      { return net.ErrClosed }
func (bare) SetReadDeadline(time.Time) error  { return net.ErrClosed }
func (bare) SetWriteDeadline(time.Time) error { return net.ErrClosed }

// inMemory returns the two ends of a connection in memory that holds size bytes for each
// direction.
func inMemory(t testing.TB, size int) (near, far net.Conn) {
	t.Helper()
	n := &tcpclienttest.Network{Buffer: size}
	l, err := n.Listen("peer")
	require.NoError(t, err)
	near, err = n.DialContext(t.Context(), "tcp", "peer")
	require.NoError(t, err)
	far, err = l.Accept()
	require.NoError(t, err)
	require.NoError(t, l.Close())
	t.Cleanup(func() { near.Close(); far.Close() })
	return near, far
}

// onTCP returns the two ends of a connection of the system's.
func onTCP(t testing.TB) (near, far *net.TCPConn) {
	t.Helper()
	l, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	require.NoError(t, err)
	defer l.Close()
	near, err = net.DialTCP("tcp", nil, l.Addr().(*net.TCPAddr))
	require.NoError(t, err)
	far, err = l.AcceptTCP()
	require.NoError(t, err)
	t.Cleanup(func() { near.Close(); far.Close() })
	return near, far
}

// shrink lets the kernel hold little between near and far: it may be many MiB otherwise, and what
// is to be more than that takes the race detector long.
func shrink(t testing.TB, near, far *net.TCPConn) {
	t.Helper()
	require.NoError(t, near.SetWriteBuffer(64<<10))
	require.NoError(t, far.SetReadBuffer(64<<10))
}

// newConn returns raw in use: its handshake is over.
func newConn(t testing.TB, raw net.Conn, writeTimeout time.Duration) *wire.Conn {
	t.Helper()
	m := new(monitor)
	c := wire.New(raw, writeTimeout, 64<<10, m)
	c.Watch(m, false)
	t.Cleanup(func() { requireEnds(t, c) })
	return c
}

// requireEnds wants c to end without waiting.
func requireEnds(t testing.TB, c *wire.Conn) {
	t.Helper()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		c.Kill(wire.ErrClosed)
		c.Join()
	}()
	select {
	case <-ended:
	case <-time.After(time.Minute):
		require.FailNow(t, "Join hangs")
	}
}

// An outcome is what a call returned, and when that was since the test asked for it.
type outcome struct {
	n    int
	err  error
	took time.Duration
}

// begin calls f on a goroutine of its own.
func begin(f func() (int, error)) <-chan outcome {
	began := time.Now()
	done := make(chan outcome, 1)
	go func() {
		n, err := f()
		done <- outcome{n, err, time.Since(began)}
	}()
	return done
}

// pattern returns n bytes in which a piece that is missing or comes twice can be seen.
func pattern(n int) []byte {
	block := make([]byte, 4099) // a prime number
	for i := range block {
		block[i] = byte(i * 7 >> (i % 3))
	}
	return bytes.Repeat(block, n/len(block)+1)[:n]
}

// readAll reads all that r has, on a goroutine of its own. Memory for size bytes is there from
// the beginning: io.ReadAll would copy them again and again while its own grows.
func readAll(r io.Reader, size int) <-chan []byte {
	done := make(chan []byte, 1)
	go func() {
		all := bytes.NewBuffer(make([]byte, 0, size+bytes.MinRead))
		all.ReadFrom(r)
		done <- all.Bytes()
	}()
	return done
}
