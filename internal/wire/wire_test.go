package wire_test

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/seed-d0aa0aa7/tcpclient/internal/wire"
	"github.com/seed-d0aa0aa7/tcpclient/tcpclienttest"
)

func TestKill(t *testing.T) {
	t.Run("gives the reason that everybody gets", func(t *testing.T) { // P9
		c := newConn(t, newFake(), 0)
		require.NoError(t, c.Cause())
		require.False(t, c.IsDead())
		err := c.Kill(io.ErrUnexpectedEOF)
		require.ErrorIs(t, err, wire.ErrDisconnected)
		require.ErrorIs(t, err, io.ErrUnexpectedEOF)
		require.True(t, c.IsDead())
		<-c.Dead()
		require.Equal(t, err, c.Cause())
		require.Equal(t, err, c.Kill(wire.ErrClosed), "the first error wins")
		c.FailWrite(io.EOF)
		require.Equal(t, err, c.Cause(), "the first error wins")
		require.Zero(t, c.ReadUntil())
	})

	t.Run("by our own will is no disconnection", func(t *testing.T) { // P9
		c := newConn(t, newFake(), 0)
		require.Equal(t, wire.ErrClosed, c.Kill(wire.ErrClosed))
		_, err := c.TryWrite([]byte("x"))
		require.Equal(t, wire.ErrClosed, err)
	})

	t.Run("after a failed write keeps its reason, and ends the reading", func(t *testing.T) { // P9
		f := newFake()
		c := newConn(t, f, 0)
		c.FailWrite(io.ErrClosedPipe)
		cause := c.Cause()
		require.ErrorIs(t, cause, io.ErrClosedPipe)
		require.False(t, c.ReadUntil().IsZero())
		require.Equal(t, cause, c.Kill(wire.ErrClosed))
		require.Zero(t, c.ReadUntil())
		c.Join()
		<-f.closed
	})

	t.Run("is final: a Watch that comes after it changes nothing", func(t *testing.T) { // P9
		c := newConn(t, newFake(), 0)
		c.FailWrite(io.ErrClosedPipe)
		c.Kill(wire.ErrClosed)
		c.Watch(new(monitor), false)
		require.Zero(t, c.ReadUntil())
	})

	t.Run("wakes the reader and the writer", func(t *testing.T) { // P7
		synctest.Test(t, func(t *testing.T) {
			for _, kind := range []func(net.Conn) net.Conn{
				func(c net.Conn) net.Conn { return c },
				func(c net.Conn) net.Conn { return bare{c} },
			} {
				near, _ := inMemory(t, 1000)
				c := newConn(t, kind(near), 0)
				read := begin(func() (int, error) { return c.Read(make([]byte, 10)) })
				write := begin(func() (int, error) { return c.Write(pattern(2000)) })
				synctest.Wait()
				c.Kill(wire.ErrClosed)
				r, w := <-read, <-write
				require.ErrorIs(t, r.err, net.ErrClosed)
				require.Zero(t, r.took)
				require.Equal(t, wire.ErrClosed, w.err)
				require.Zero(t, w.took)
			}
		})
	})

	t.Run("closes once, and does not wait for that; Join does", func(t *testing.T) { // P7
		synctest.Test(t, func(t *testing.T) {
			f := newFake()
			closes := make(chan struct{}, 9)
			f.close = func() { closes <- struct{}{}; time.Sleep(time.Minute) }
			c := wire.New(f, 0, 64<<10, new(monitor))
			began := time.Now()
			var all sync.WaitGroup
			for range 10 {
				all.Go(func() { c.Kill(io.EOF); c.FailWrite(io.EOF) })
			}
			all.Wait()
			require.Zero(t, time.Since(began))
			c.Join()
			require.Equal(t, time.Minute, time.Since(began))
			require.Len(t, closes, 1)
		})
	})
}

func TestConn(t *testing.T) {
	t.Run("passes on its connection and its addresses", func(t *testing.T) {
		near, _ := onTCP(t)
		c := newConn(t, near, 0)
		require.Same(t, near, c.Raw())
		require.Equal(t, near.LocalAddr(), c.LocalAddr())
		require.Equal(t, near.RemoteAddr(), c.RemoteAddr())
	})

	t.Run("ignores deadlines from above", func(t *testing.T) { // P2
		synctest.Test(t, func(t *testing.T) {
			near, far := inMemory(t, 1000)
			c := newConn(t, near, 0)
			past := time.Now().Add(-time.Hour)
			require.NoError(t, c.SetDeadline(past))
			require.NoError(t, c.SetReadDeadline(past))
			require.NoError(t, c.SetWriteDeadline(past))
			_, err := c.Write([]byte("hello"))
			require.NoError(t, err)
			_, err = far.Write([]byte("hello"))
			require.NoError(t, err)
			_, err = c.Read(make([]byte, 10))
			require.NoError(t, err)
		})
	})

	t.Run("Close closes without a cause", func(t *testing.T) {
		f := newFake()
		c := newConn(t, f, 0)
		require.NoError(t, c.Close())
		<-f.closed
		require.NoError(t, c.Cause())
	})

	t.Run("knows of no byte that is not acknowledged where there is no TCP", func(t *testing.T) {
		near, _ := inMemory(t, 1000)
		c := newConn(t, near, 0)
		_, err := c.Write([]byte("hello"))
		require.NoError(t, err)
		require.Zero(t, c.Unacknowledged())
	})
}

func TestUnderTLS(t *testing.T) {
	server, client := tcpclienttest.NewTLSConfig()
	client.ServerName = "127.0.0.1"

	t.Run("carries a handshake and what follows", func(t *testing.T) { // P1
		near, far := onTCP(t)
		c := newConn(t, near, time.Minute)
		top := tls.Client(c, client)
		echo := make(chan error, 1)
		go func() {
			peer := tls.Server(far, server)
			_, err := io.Copy(peer, peer)
			peer.Close()
			echo <- err
		}()
		require.NoError(t, top.HandshakeContext(t.Context()))
		p := pattern(100_000)
		_, err := top.Write(p)
		require.NoError(t, err)
		got := make([]byte, len(p))
		_, err = io.ReadFull(top, got)
		require.NoError(t, err)
		require.Equal(t, p, got)
		require.NoError(t, top.CloseWrite())
		_, err = top.Read(got)
		require.Equal(t, io.EOF, err)
		require.NoError(t, <-echo)
	})

	t.Run("lets a context end the handshake", func(t *testing.T) { // P2
		near, _ := onTCP(t)
		c := newConn(t, near, time.Minute)
		ctx, cancel := context.WithCancel(t.Context())
		done := begin(func() (int, error) { return 0, tls.Client(c, client).HandshakeContext(ctx) })
		cancel()
		require.ErrorIs(t, (<-done).err, context.Canceled)
	})
}
