package interop

import (
	"context"
	"errors"
	"net"
	"syscall"
	"testing"
	"time"

	"github.com/seed-d0aa0aa7/tcpclient"
	"github.com/seed-d0aa0aa7/tcpclient/internal/testkit"
	"github.com/seed-d0aa0aa7/tcpclient/internal/wire"
	"github.com/stretchr/testify/require"
)

const tcpUserTimeout = 18 // TCP_USER_TIMEOUT, linux/tcp.h

// option returns an option of TCP.
func option(t *testing.T, conn *net.TCPConn, name int) (value int) {
	t.Helper()
	raw, err := conn.SyscallConn()
	require.NoError(t, err)
	require.NoError(t, raw.Control(func(fd uintptr) {
		value, err = syscall.GetsockoptInt(int(fd), syscall.IPPROTO_TCP, name)
	}))
	require.NoError(t, err)
	return value
}

func TestSocketOptionsThroughTunnel(t *testing.T) {
	t.Run("are set on the socket to a proxy", func(t *testing.T) { // D3
		for _, nagle := range []bool{false, true} {
			l := tunnel("socks5").Listen(t)
			d := tcpclient.Dialer{UserTimeout: 12 * time.Second, Nagle: nagle}
			l.Setup(&d)
			dial := d.DialContext
			var socket *net.TCPConn
			d.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
				conn, err := dial(ctx, network, address)
				socket = wire.Socket(conn)
				return conn, err
			}
			l.Connect(t, d)
			require.NotNil(t, socket)
			require.Equal(t, 12_000, option(t, socket, tcpUserTimeout))
			require.Equal(t, nagle, option(t, socket, syscall.TCP_NODELAY) == 0)
		}
	})

	t.Run("are refused where there is no socket to be seen", func(t *testing.T) { // P9, D3
		for _, name := range []string{"yamux", "smux", "websocket"} {
			for _, d := range []tcpclient.Dialer{{UserTimeout: time.Minute}, {Nagle: true}} {
				l := tunnel(name).Listen(t)
				accepted := testkit.Start(t, func() net.Conn { conn, _ := l.Accept(); return conn })
				_, err := l.TryDial(t.Context(), d)
				if conn := accepted(); conn != nil {
					conn.Close()
				}
				require.True(t, errors.Is(err, errors.ErrUnsupported), "%s: %v", name, err)
				require.Equal(t, tcpclient.ClassPermanent, tcpclient.Classify(err))
			}
		}
	})
}
