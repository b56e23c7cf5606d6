package tcpclienttest_test

import (
	"context"
	"io"
	"net"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/seed-d0aa0aa7/tcpclient/tcpclienttest"
	"github.com/stretchr/testify/require"
)

func TestNetwork_addresses(t *testing.T) {
	network := tcpclienttest.NewNetwork()
	first, err := network.Listen("server:0")
	require.NoError(t, err)
	second, err := network.Listen("server:0")
	require.NoError(t, err)
	require.NotEqual(t, first.Addr().String(), second.Addr().String())
	defer second.Close()

	_, err = network.Listen(first.Addr().String())
	require.ErrorIs(t, err, syscall.EADDRINUSE)
	require.NoError(t, first.Close())
	require.ErrorIs(t, first.Close(), net.ErrClosed)
	_, err = first.Accept()
	require.ErrorIs(t, err, net.ErrClosed)
	again, err := network.Listen(first.Addr().String())
	require.NoError(t, err)
	require.NoError(t, again.Close())

	_, err = network.DialContext(context.Background(), "tcp", first.Addr().String())
	require.ErrorIs(t, err, syscall.ECONNREFUSED)
	require.EqualError(t, err, "dial tcp server:1: connect: connection refused")
}

func TestNetwork_dial_ends_with_its_context(t *testing.T) {
	network := tcpclienttest.NewNetwork()
	l, err := network.Listen("server:1")
	require.NoError(t, err)
	defer l.Close()
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_, err = network.DialContext(ctx, "tcp", "server:1")
	require.ErrorIs(t, err, context.Canceled)
}

func TestNetwork_a_full_backlog_blocks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := tcpclienttest.NewNetwork()
		l, err := network.Listen("server:1")
		require.NoError(t, err)
		var conns []net.Conn
		for range 128 {
			conn, err := network.DialContext(t.Context(), "tcp", "server:1")
			require.NoError(t, err)
			conns = append(conns, conn)
		}

		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		began := time.Now()
		_, err = network.DialContext(ctx, "tcp", "server:1")
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.Equal(t, time.Minute, time.Since(began))

		dialed := make(chan error, 1)
		dial := func() {
			conn, err := network.DialContext(t.Context(), "tcp", "server:1")
			if err == nil {
				conns = append(conns, conn)
			}
			dialed <- err
		}
		go dial()
		synctest.Wait()
		require.Empty(t, dialed)
		conn, err := l.Accept()
		require.NoError(t, err)
		defer conn.Close()
		require.NoError(t, <-dialed)

		go dial()
		synctest.Wait()
		require.NoError(t, l.Close())
		require.ErrorIs(t, <-dialed, syscall.ECONNREFUSED)
		for i, conn := range conns {
			if i > 0 { // the first was accepted
				_, err := conn.Read(make([]byte, 1))
				require.ErrorIs(t, err, syscall.ECONNRESET)
			}
			require.NoError(t, conn.Close())
		}
	})
}

func TestNetwork_a_partition_tells_nobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := &tcpclienttest.Network{Buffer: 100}
		l, err := network.Listen("server:1")
		require.NoError(t, err)
		defer l.Close()
		near, err := network.DialContext(t.Context(), "tcp", "server:1")
		require.NoError(t, err)
		defer near.Close()
		far, err := l.Accept()
		require.NoError(t, err)

		network.Partition()
		network.Partition()
		n, err := far.Write([]byte("last words"))
		require.NoError(t, err)
		require.Equal(t, 10, n)
		require.NoError(t, far.Close())

		require.NoError(t, near.SetDeadline(time.Now().Add(time.Minute)))
		_, err = near.Read(make([]byte, 1))
		requireTimeout(t, err)
		require.NoError(t, near.SetDeadline(time.Now().Add(time.Minute)))
		n, err = near.Write(make([]byte, 101))
		requireTimeout(t, err)
		require.Equal(t, 100, n)

		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		_, err = network.DialContext(ctx, "tcp", "server:1")
		require.ErrorIs(t, err, context.DeadlineExceeded)

		dialed := make(chan net.Conn, 1)
		go func() {
			conn, err := network.DialContext(t.Context(), "tcp", "server:1")
			require.NoError(t, err)
			dialed <- conn
		}()
		synctest.Wait()
		require.NoError(t, near.SetDeadline(time.Time{}))
		time.AfterFunc(time.Hour, network.Heal)
		began := time.Now()
		got, err := io.ReadAll(near)
		require.NoError(t, err)
		require.Equal(t, "last words", string(got))
		require.Equal(t, time.Hour, time.Since(began))
		require.NoError(t, (<-dialed).Close())
		_, err = near.Write([]byte("x"))
		require.ErrorIs(t, err, syscall.EPIPE)
		network.Heal()
	})
}
