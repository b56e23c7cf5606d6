package testkit

import (
	"context"
	"errors"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/seed-d0aa0aa7/tcpclient"
	"github.com/seed-d0aa0aa7/tcpclient/tcpclienttest"
)

// A HookedConn is a connection of which a test replaces what it wants.
type HookedConn struct {
	net.Conn
	OnRead     func(p []byte) (int, error)
	OnWrite    func(p []byte) (int, error)
	OnClose    func()
	OnDeadline func() error // of all three SetDeadlines, if it returns an error

	mu         sync.Mutex // guards following
	writeCalls int
	readCalls  int
}

// Read calls OnRead, if there is one.
func (w *HookedConn) Read(p []byte) (int, error) {
	w.mu.Lock()
	w.readCalls++
	w.mu.Unlock()
	if w.OnRead != nil {
		return w.OnRead(p)
	}
	return w.Conn.Read(p)
}

// Write calls OnWrite, if there is one.
func (w *HookedConn) Write(p []byte) (int, error) {
	w.mu.Lock()
	w.writeCalls++
	write := w.OnWrite
	w.mu.Unlock()
	if write != nil {
		return write(p)
	}
	return w.Conn.Write(p)
}

// Close calls OnClose, if there is one, and closes.
func (w *HookedConn) Close() error {
	if w.OnClose != nil {
		w.OnClose()
	}
	return w.Conn.Close()
}

// SetDeadline returns the error of OnDeadline, or sets the deadline.
func (w *HookedConn) SetDeadline(t time.Time) error {
	if w.OnDeadline != nil {
		return w.OnDeadline()
	}
	return w.Conn.SetDeadline(t)
}

// SetReadDeadline returns the error of OnDeadline, or sets the deadline.
func (w *HookedConn) SetReadDeadline(t time.Time) error {
	if w.OnDeadline != nil {
		return w.OnDeadline()
	}
	return w.Conn.SetReadDeadline(t)
}

// SetWriteDeadline returns the error of OnDeadline, or sets the deadline.
func (w *HookedConn) SetWriteDeadline(t time.Time) error {
	if w.OnDeadline != nil {
		return w.OnDeadline()
	}
	return w.Conn.SetWriteDeadline(t)
}

// RealDeadlines returns true, as OnDeadline may or may not have it: the Client takes the connection
// for a socket, unless its deadlines return an error.
func (w *HookedConn) RealDeadlines() bool { return true }

// SetOnWrite replaces OnWrite of a connection that is in use.
func (w *HookedConn) SetOnWrite(write func(p []byte) (int, error)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.OnWrite = write
}

// Writes returns how often Write was called.
func (w *HookedConn) Writes() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.writeCalls
}

// Reads returns how often Read was called.
func (w *HookedConn) Reads() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.readCalls
}

// CloseWrite sends FIN, if the connection below can.
func (w *HookedConn) CloseWrite() error {
	if half, ok := w.Conn.(interface{ CloseWrite() error }); ok && w.OnDeadline == nil {
		return half.CloseWrite()
	}
	return errors.ErrUnsupported
}

// Wrapping returns a DialContext whose connections are wrapped.
func Wrapping(dial func(ctx context.Context, network, address string) (net.Conn, error), wrap func(net.Conn) net.Conn) func(context.Context, string, string) (net.Conn, error) {
	if dial == nil {
		dial = new(net.Dialer).DialContext
	}
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := dial(ctx, network, address)
		if err != nil {
			return nil, err
		}
		return wrap(conn), nil
	}
}

// ConnectHooked connects in memory through a HookedConn.
func ConnectHooked(t testing.TB, d tcpclient.Dialer, prepare func(*HookedConn)) (*tcpclient.Client, *Peer, *HookedConn) {
	t.Helper()
	n := tcpclienttest.NewNetwork()
	var w *HookedConn
	d.DialContext = Wrapping(n.DialContext, func(conn net.Conn) net.Conn {
		w = &HookedConn{Conn: conn}
		if prepare != nil {
			prepare(w)
		}
		return w
	})
	c, p := ListenNetwork(t, n).Connect(t, d)
	return c, p, w
}
