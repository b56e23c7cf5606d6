package testkit

import (
	"context"
	"crypto/tls"
	"net"
	"os"
	"path/filepath"
	"testing"

	"github.com/seed-d0aa0aa7/tcpclient"
	"github.com/seed-d0aa0aa7/tcpclient/tcpclienttest"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// A Transport is a kind of connection between a Client and its peer.
type Transport struct {
	Name   string
	Secure bool // TLS
	Real   bool // with sockets of the kernel
	Listen func(t testing.TB) *Listener
}

// Connect makes a Client on a transport, and the other end of its connection.
func (tr Transport) Connect(t testing.TB, d tcpclient.Dialer) (*tcpclient.Client, *Peer) {
	t.Helper()
	return tr.Listen(t).Connect(t, d)
}

// Transports are what all promises are tested on.
var Transports = []Transport{
	{Name: "tcp", Real: true, Listen: ListenTCP},
	{Name: "tls", Real: true, Secure: true, Listen: ListenTLS},
	{Name: "unix", Real: true, Listen: ListenUnix},
	{Name: "memory", Listen: ListenMemory},
}

// EachTransport runs test once for each transport.
func EachTransport(t *testing.T, test func(t *testing.T, tr Transport)) {
	for _, tr := range Transports {
		t.Run(tr.Name, func(t *testing.T) { test(t, tr) })
	}
}

// EachTransportParallel runs test once for each transport, all at the same time: for tests that spend
// theirs waiting. They must not count what the process has.
func EachTransportParallel(t *testing.T, test func(t *testing.T, tr Transport)) {
	EachTransport(t, func(t *testing.T, tr Transport) {
		t.Parallel()
		test(t, tr)
	})
}

// TransportNamed returns one of the transports.
func TransportNamed(name string) Transport {
	for _, tr := range Transports {
		if tr.Name == name {
			return tr
		}
	}
	panic("no transport " + name)
}

// A Listener waits for Clients, and knows how they get there.
type Listener struct {
	net.Listener
	Network string
	Setup   func(d *tcpclient.Dialer) // makes d dial this listener
}

// Dial makes a Client, which is closed with the test.
func (l *Listener) Dial(t testing.TB, d tcpclient.Dialer) *tcpclient.Client {
	t.Helper()
	c, err := l.TryDial(t.Context(), d)
	require.NoError(t, err)
	t.Cleanup(func() { c.Close() })
	return c
}

// TryDial makes a Client, which the caller closes.
func (l *Listener) TryDial(ctx context.Context, d tcpclient.Dialer) (*tcpclient.Client, error) {
	l.Setup(&d)
	return d.Dial(ctx, l.Network, l.Addr().String())
}

// AcceptPeer returns the next connection, after the handshake of TLS.
func (l *Listener) AcceptPeer(t testing.TB) *Peer {
	t.Helper()
	conn, err := l.Accept()
	require.NoError(t, err)
	if secure, ok := conn.(*tls.Conn); ok {
		require.NoError(t, secure.Handshake())
	}
	return NewPeer(t, conn)
}

// smallBuffer is the size of the buffers of ConnectSmall.
const smallBuffer = 64 << 10

// ConnectSmall is Connect with small buffers in the sockets, which the kernel does not
// enlarge: what Stall leaves does not find room in them later.
func (l *Listener) ConnectSmall(t testing.TB, d tcpclient.Dialer) (*tcpclient.Client, *Peer) {
	t.Helper()
	l.Setup(&d)
	overTCP := d.DialContext == nil && l.Network == "tcp"
	if overTCP {
		d.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
			conn, err := new(net.Dialer).DialContext(ctx, network, address)
			if err == nil {
				err = conn.(*net.TCPConn).SetWriteBuffer(smallBuffer)
			}
			return conn, err
		}
	}
	c, p := l.Connect(t, d)
	if overTCP {
		require.NoError(t, RawConn(p.Conn).(*net.TCPConn).SetReadBuffer(smallBuffer))
	}
	return c, p
}

// Connect makes a Client, and the other end of its connection.
func (l *Listener) Connect(t testing.TB, d tcpclient.Dialer) (*tcpclient.Client, *Peer) {
	t.Helper()
	accepted := make(chan net.Conn, 1)
	go func() {
		defer close(accepted)
		conn, err := l.Accept()
		if err != nil {
			return
		}
		if secure, ok := conn.(*tls.Conn); ok && secure.Handshake() != nil {
			conn.Close()
			return
		}
		accepted <- conn
	}()
	c := l.Dial(t, d)
	conn := <-accepted
	require.NotNil(t, conn, "the peer's side of the connection failed")
	return c, NewPeer(t, conn)
}

// Each hands every connection of l to handle, on a goroutine of its own.
func (l *Listener) Each(handle func(conn net.Conn)) {
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go handle(conn)
		}
	}()
}

// ListenTCP listens on loopback.
func ListenTCP(t testing.TB) *Listener { return ListenOn(t, "tcp", "127.0.0.1:0") }

// ListenUnix listens on a Unix socket.
func ListenUnix(t testing.TB) *Listener {
	SkipUnderWine(t, "Unix sockets")
	// t.TempDir has long names, and a socket's must not exceed 108 bytes.
	return ListenOn(t, "unix", filepath.Join(shortDir(t), "s"))
}

// ListenOn listens on an address of the system, until the test ends.
func ListenOn(t testing.TB, network, address string) *Listener {
	t.Helper()
	l, err := net.Listen(network, address)
	require.NoError(t, err)
	t.Cleanup(func() { l.Close() })
	return &Listener{Listener: l, Network: network, Setup: func(*tcpclient.Dialer) {}}
}

// ListenTLS listens on loopback, with TLS.
func ListenTLS(t testing.TB) *Listener {
	l := ListenTCP(t)
	Secure(l)
	return l
}

// Secure puts TLS on a listener.
func Secure(l *Listener) {
	server, client := tcpclienttest.NewTLSConfig()
	l.Listener = tls.NewListener(l.Listener, server)
	setup := l.Setup
	l.Setup = func(d *tcpclient.Dialer) {
		setup(d)
		if d.TLSConfig == nil {
			d.TLSConfig = client
			if _, _, err := net.SplitHostPort(l.Addr().String()); err != nil || l.Network != "tcp" || d.DialContext != nil {
				d.TLSConfig = client.Clone()
				d.TLSConfig.ServerName = "localhost"
			}
		}
	}
}

// ListenMemory listens on a network in memory of its own.
func ListenMemory(t testing.TB) *Listener {
	return ListenNetwork(t, tcpclienttest.NewNetwork())
}

// ListenNetwork listens on a network in memory.
func ListenNetwork(t testing.TB, n *tcpclienttest.Network) *Listener {
	t.Helper()
	l, err := n.Listen("server:0")
	require.NoError(t, err)
	t.Cleanup(func() { l.Close() })
	return &Listener{Listener: l, Network: "tcp", Setup: func(d *tcpclient.Dialer) {
		if d.DialContext == nil {
			d.DialContext = n.DialContext
		}
	}}
}

// ConnectSmall is Connect with small buffers in the sockets, for Stall.
func (tr Transport) ConnectSmall(t testing.TB, d tcpclient.Dialer) (*tcpclient.Client, *Peer) {
	t.Helper()
	return tr.Listen(t).ConnectSmall(t, d)
}

// ConnectMemory makes a Client on a network in memory, for tests in a synctest bubble.
func ConnectMemory(t testing.TB, d tcpclient.Dialer) (*tcpclient.Client, *Peer) {
	t.Helper()
	return TransportNamed("memory").Connect(t, d)
}

// ConnectNarrow connects in memory, with that much room each way.
func ConnectNarrow(t testing.TB, room int, d tcpclient.Dialer) (*tcpclient.Client, *Peer) {
	t.Helper()
	return ListenNetwork(t, &tcpclienttest.Network{Buffer: room}).Connect(t, d)
}

// shortDir is t.TempDir with a short name.
func shortDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "tcp")
	require.NoError(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// StartDial dials in the background, for an AcceptPeer in the foreground.
func (l *Listener) StartDial(t *testing.T, ctx context.Context, d tcpclient.Dialer) (wait func() *tcpclient.Client) {
	t.Helper()
	w := Start(t, func() *tcpclient.Client {
		c, err := l.TryDial(ctx, d)
		assert.NoError(t, err)
		return c
	})
	return func() *tcpclient.Client {
		t.Helper()
		c := w()
		require.NotNil(t, c)
		t.Cleanup(func() { c.Close() })
		return c
	}
}

// ShakeHands makes a Client whose Handshake is d's, and hands the other end of its connection
// to server.
func (tr Transport) ShakeHands(t testing.TB, d tcpclient.Dialer, server func(p *Peer)) (*tcpclient.Client, error) {
	t.Helper()
	l := tr.Listen(t)
	done := make(chan struct{})
	go func() {
		defer close(done)
		conn, err := l.Accept()
		if err != nil {
			return
		}
		if secure, ok := conn.(*tls.Conn); ok && secure.Handshake() != nil {
			conn.Close()
			return
		}
		server(NewPeer(t, conn))
	}()
	t.Cleanup(func() { l.Close(); <-done })
	c, err := l.TryDial(t.Context(), d)
	if c != nil {
		t.Cleanup(func() { c.Close() })
	}
	return c, err
}
