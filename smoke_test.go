package tcpclient_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/seed-d0aa0aa7/tcpclient"
	"github.com/stretchr/testify/require"
)

func echoServer(t testing.TB) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() { io.Copy(c, c); c.Close() }()
		}
	}()
	return l.Addr().String()
}

func TestSmoke(t *testing.T) {
	c, err := tcpclient.Dial(t.Context(), "tcp", echoServer(t))
	require.NoError(t, err)
	require.NoError(t, c.Send(t.Context(), []byte("hello")))
	m, err := c.Receive(t.Context())
	require.NoError(t, err)
	require.Equal(t, "hello", string(m))
	for i := range 1000 {
		require.NoError(t, c.Write(t.Context(), fmt.Appendf(nil, "m%d", i)))
	}
	require.NoError(t, c.Flush(t.Context()))
	i := 0
	for m, err := range c.Messages(t.Context()) {
		require.NoError(t, err)
		require.Equal(t, fmt.Sprintf("m%d", i), string(m))
		if i++; i == 1000 {
			break
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	_, err = c.Receive(ctx)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	big := make([]byte, 3<<20)
	require.NoError(t, c.Send(t.Context(), big))
	m, err = c.Receive(t.Context())
	require.NoError(t, err)
	require.Len(t, m, len(big))
	var wg sync.WaitGroup
	for range 64 {
		wg.Go(func() {
			for range 100 {
				if err := c.Send(t.Context(), []byte("x")); err != nil {
					t.Error(err)
				}
			}
		})
	}
	var buf []byte
	for range 6400 {
		buf, err = c.ReceiveInto(t.Context(), buf)
		require.NoError(t, err)
	}
	wg.Wait()
	require.NoError(t, c.Write(t.Context(), []byte("last")))
	require.NoError(t, c.Shutdown(t.Context()))
	m, err = c.Receive(t.Context())
	require.NoError(t, err)
	require.Equal(t, "last", string(m))
	_, err = c.Receive(t.Context())
	require.ErrorIs(t, err, net.ErrClosed)
	require.NoError(t, c.Close())
	fmt.Println(err, c.Stats())
	_, err = tcpclient.Dial(t.Context(), "tcp", "127.0.0.1:1")
	fmt.Println(err, tcpclient.Classify(err), errors.Is(err, net.ErrClosed))
}

func BenchmarkPingPong(b *testing.B) {
	c, err := tcpclient.Dial(b.Context(), "tcp", echoServer(b))
	require.NoError(b, err)
	defer c.Close()
	msg := make([]byte, 64)
	var buf []byte
	b.ReportAllocs()
	ctx := b.Context()
	for b.Loop() {
		c.Send(ctx, msg)
		buf, _ = c.ReceiveInto(ctx, buf)
	}
}

func BenchmarkFloor(b *testing.B) {
	c, err := net.Dial("tcp", echoServer(b))
	require.NoError(b, err)
	defer c.Close()
	msg := make([]byte, 68)
	b.ReportAllocs()
	for b.Loop() {
		c.Write(msg)
		io.ReadFull(c, msg)
	}
}

func BenchmarkSend64(b *testing.B) {
	l, _ := net.Listen("tcp", "127.0.0.1:0")
	go func() { c, _ := l.Accept(); io.Copy(io.Discard, c) }()
	c, err := tcpclient.Dial(b.Context(), "tcp", l.Addr().String())
	require.NoError(b, err)
	defer c.Close()
	msg := make([]byte, 64)
	b.ReportAllocs()
	ctx := b.Context()
	var wg sync.WaitGroup
	for g := range 64 {
		wg.Go(func() {
			for i := g; i < b.N; i += 64 {
				c.Send(ctx, msg)
			}
		})
	}
	wg.Wait()
}
