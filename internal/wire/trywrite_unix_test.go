//go:build unix

package wire_test

import (
	"net"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestTryWriteOfSocket(t *testing.T) {
	t.Run("works on a Unix socket, too", func(t *testing.T) { // P2
		l, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
		require.NoError(t, err)
		defer l.Close()
		near, err := net.Dial("unix", l.Addr().String())
		require.NoError(t, err)
		far, err := l.Accept()
		require.NoError(t, err)
		defer far.Close()
		c := newConn(t, near, 0)
		p := pattern(16 << 20)
		n, err := c.TryWrite(p)
		require.NoError(t, err)
		require.Greater(t, n, 0)
		require.Less(t, n, len(p))
		got := readAll(far)
		_, err = c.Write(p[n:])
		require.NoError(t, err)
		require.NoError(t, c.CloseWrite())
		require.True(t, string(p) == string(<-got), "the peer got other bytes")
	})

	t.Run("that was reset before it was a net.Conn, and has no remote address, fails as any other", func(t *testing.T) { // P9, F5
		near, far := onTCP(t)
		file, err := near.File()
		require.NoError(t, err)
		defer file.Close()
		require.NoError(t, far.SetLinger(0))
		require.NoError(t, far.Close())
		var again net.Conn
		for deadline := time.Now().Add(10 * time.Second); ; { // until the reset has come
			again, err = net.FileConn(file)
			require.NoError(t, err)
			if again.RemoteAddr() == nil || time.Now().After(deadline) {
				break
			}
			again.Close()
		}
		require.Nil(t, again.RemoteAddr())
		c := newConn(t, again, 0)
		_, err = c.TryWrite([]byte("hello"))
		require.ErrorIs(t, err, syscall.ECONNRESET)
		require.Contains(t, err.Error(), "connection reset by peer")
	})

	t.Run("that is closed is left to Write", func(t *testing.T) {
		near, _ := onTCP(t)
		c := newConn(t, near, 0)
		require.NoError(t, c.Close())
		n, err := c.TryWrite([]byte("hello"))
		require.NoError(t, err)
		require.Zero(t, n)
		_, err = c.Write([]byte("hello"))
		require.ErrorIs(t, err, net.ErrClosed)
	})
}
