package transporttest

import (
	"context"
	"io"
	"testing"
	"time"

	"github.com/seed-d0aa0aa7/tcpclient"
	"github.com/seed-d0aa0aa7/tcpclient/internal/testkit"
	"github.com/stretchr/testify/require"
)

// cutShutdown returns the error of a Shutdown whose context ends when it waits: it has waited for longer than Close
// would.
func cutShutdown(t *testing.T, c *tcpclient.Client, awaitBegun func()) error {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	over := make(chan error, 1)
	go func() { over <- c.Shutdown(ctx) }()
	awaitBegun()
	select {
	case err := <-over:
		require.FailNow(t, "it has not waited", "%v", err)
	case <-time.After(300 * time.Millisecond):
	}
	watch := testkit.StartStopwatch(t)
	cancel()
	err := <-over
	require.Less(t, watch.Ran(), testkit.CloseTime)
	require.ErrorIs(t, err, context.Canceled)
	return err
}

// Shutdown is for Client.Shutdown, on connections that can be half-closed.
func Shutdown(t *testing.T, tr testkit.Transport) {
	t.Run("sends FIN after all messages and takes in the answers", func(t *testing.T) { // P7, FAULTS S21
		c, p := tr.Connect(t, tcpclient.Dialer{})
		require.NoError(t, c.Write(t.Context(), []byte("one")))
		require.NoError(t, c.Write(t.Context(), []byte("two")))
		wait := testkit.Start(t, func() error { return c.Shutdown(t.Context()) })
		msgs, err := p.All()
		require.Equal(t, []string{"one", "two"}, msgs)
		require.Equal(t, io.EOF, err)
		p.Send("answer one", "answer two")
		p.HalfClose()
		require.NoError(t, wait())
		got, err := testkit.ReceiveAll(t, c)
		require.Equal(t, []string{"answer one", "answer two"}, got)
		require.ErrorIs(t, err, tcpclient.ErrClosed)
		require.NotErrorIs(t, err, tcpclient.ErrDisconnected)
		require.NoError(t, c.Close())
	})

	t.Run("does not wait for a call of Receive", func(t *testing.T) { // FAULTS S21
		c, p := tr.Connect(t, tcpclient.Dialer{Inbox: 1000})
		want := testkit.Numbered(500, 2000)
		wait := testkit.Start(t, func() error { return c.Shutdown(t.Context()) })
		_, err := p.Next()
		require.Equal(t, io.EOF, err)
		p.Send(want...)
		p.HalfClose()
		require.NoError(t, wait())
		got, err := testkit.ReceiveAll(t, c)
		require.Equal(t, want, got)
		require.ErrorIs(t, err, tcpclient.ErrClosed)
	})

	t.Run("frees a reader that waits for room already", func(t *testing.T) {
		c, p := tr.Connect(t, tcpclient.Dialer{Inbox: 1000})
		want := testkit.Numbered(500, 1000)
		sent := testkit.Start(t, func() error { _, err := p.Write(testkit.Frames(want...)); return err })
		testkit.WaitBlocked(t, "(*producer).makeRoom")
		wait := testkit.Start(t, func() error { return c.Shutdown(t.Context()) })
		_, err := p.Next()
		require.Equal(t, io.EOF, err)
		require.NoError(t, sent())
		p.HalfClose()
		require.NoError(t, wait())
		got, err := testkit.ReceiveAll(t, c)
		require.Equal(t, want, got)
		require.ErrorIs(t, err, tcpclient.ErrClosed)
	})

	t.Run("closes hard when its context ends before the peer does", func(t *testing.T) { // P2, P7
		testkit.SkipIfShort(t)
		c, p := tr.Connect(t, tcpclient.Dialer{})
		p.Send("before")
		require.NoError(t, c.Write(t.Context(), []byte("last")))
		testkit.Eventually(t, "the message has come", func() bool { return c.Stats().MessagesReceived == 1 })
		err := cutShutdown(t, c, func() {
			msgs, err := p.All()
			require.Equal(t, []string{"last"}, msgs)
			require.Equal(t, io.EOF, err)
		})
		require.Equal(t, "close", testkit.OpError(t, err).Op)
		require.False(t, c.Stats().Connected)
		got, err := testkit.ReceiveAll(t, c)
		require.Equal(t, []string{"before"}, got)
		require.ErrorIs(t, err, tcpclient.ErrClosed)
		require.NoError(t, c.Close())
	})

	t.Run("does not wait for ever for a peer that goes on sending", func(t *testing.T) {
		c, p := tr.Connect(t, tcpclient.Dialer{})
		go func() {
			for {
				if _, err := p.Write(testkit.Frame("more")); err != nil {
					return
				}
				time.Sleep(time.Millisecond) // the peer's pace
			}
		}()
		ctx, cancel := context.WithCancel(t.Context())
		fin := testkit.Start(t, func() error {
			defer cancel()
			_, err := p.Next()
			return err
		})
		require.ErrorIs(t, c.Shutdown(ctx), context.Canceled)
		require.Equal(t, io.EOF, fin(), "it waits for the peer, having sent FIN")
		_, err := testkit.ReceiveAll(t, c)
		require.ErrorIs(t, err, tcpclient.ErrClosed)
	})

	t.Run("bounds what a flooding peer can make it keep", func(t *testing.T) { // P6
		c, p := tr.Connect(t, tcpclient.Dialer{Inbox: 1000})
		go func() {
			b := testkit.Frames(testkit.Numbered(100, 10_000)...)
			for {
				if _, err := p.Write(b); err != nil {
					return
				}
			}
		}()
		require.Error(t, c.Shutdown(testkit.Within(t, testkit.Patience)))
		msgs, _ := testkit.ReceiveAll(t, c)
		require.Less(t, len(msgs), 20<<20/10_000)
	})

	t.Run("refuses further messages, and Receive goes on", func(t *testing.T) {
		c, p := tr.Connect(t, tcpclient.Dialer{})
		wait := testkit.Start(t, func() error { return c.Shutdown(t.Context()) })
		_, err := p.Next()
		require.Equal(t, io.EOF, err)
		err = c.Write(t.Context(), []byte("late"))
		require.ErrorIs(t, err, tcpclient.ErrClosed)
		require.True(t, testkit.OpError(t, err).Unsent)
		err = c.Send(t.Context(), []byte("late"))
		require.ErrorIs(t, err, tcpclient.ErrClosed)
		require.True(t, testkit.OpError(t, err).Unsent)
		p.Send("still")
		msg, err := c.Receive(t.Context())
		require.NoError(t, err)
		require.Equal(t, "still", string(msg))
		p.HalfClose()
		require.NoError(t, wait())
		_, err = c.Receive(t.Context())
		require.ErrorIs(t, err, tcpclient.ErrClosed)
	})

	t.Run("delivers to a peer that is slow to read", func(t *testing.T) {
		testkit.SkipIfShort(t)
		c, p := tr.ConnectSmall(t, tcpclient.Dialer{})
		sent := testkit.Stall(t, c)
		wait := testkit.Start(t, func() error { return c.Shutdown(t.Context()) })
		testkit.WaitBlocked(t, "(*Client).Shutdown")
		msgs, err := p.All()
		require.Equal(t, sent, msgs)
		require.Equal(t, io.EOF, err)
		p.HalfClose()
		require.NoError(t, wait())
	})

	t.Run("ends with its context while the peer does not read, and tells of the loss", func(t *testing.T) { // P2, P4
		testkit.SkipIfShort(t)
		c, _ := tr.ConnectSmall(t, tcpclient.Dialer{})
		testkit.Stall(t, c)
		require.NoError(t, c.Write(t.Context(), []byte("never")))
		err := cutShutdown(t, c, func() { testkit.WaitBlocked(t, "(*Client).Shutdown") })
		require.ErrorContains(t, err, "are lost")
		require.NoError(t, c.Close(), "Shutdown has told of the loss already")
	})

	t.Run("with a context that is done does nothing", func(t *testing.T) { // P2, FAULTS L9
		c, p := tr.Connect(t, tcpclient.Dialer{})
		err := c.Shutdown(testkit.Canceled(t))
		require.ErrorIs(t, err, context.Canceled)
		testkit.RequireAlive(t, c, p)
	})

	t.Run("returns ErrClosed when Close comes before the peer's FIN", func(t *testing.T) { // P7
		c, p := tr.Connect(t, tcpclient.Dialer{})
		wait := testkit.Start(t, func() error { return c.Shutdown(t.Context()) })
		_, err := p.Next()
		require.Equal(t, io.EOF, err)
		require.NoError(t, c.Close())
		require.ErrorIs(t, wait(), tcpclient.ErrClosed, "nil would say that the peer's FIN has come")
	})

	t.Run("returns the end of a connection that has died", func(t *testing.T) { // P9
		c, p := tr.Connect(t, tcpclient.Dialer{})
		p.Raw(testkit.Frame("torn")[:6])
		p.HalfClose()
		_, err := c.Receive(t.Context())
		require.ErrorIs(t, err, io.ErrUnexpectedEOF)
		require.ErrorIs(t, c.Shutdown(t.Context()), io.ErrUnexpectedEOF)
		require.NoError(t, c.Close())
	})

	t.Run("returns the error of a peer that ends inside a frame", func(t *testing.T) { // P1
		c, p := tr.Connect(t, tcpclient.Dialer{})
		wait := testkit.Start(t, func() error { return c.Shutdown(t.Context()) })
		_, err := p.Next()
		require.Equal(t, io.EOF, err)
		p.Raw(append(testkit.Frame("whole"), testkit.Frame("torn")[:6]...))
		p.HalfClose()
		require.ErrorIs(t, wait(), io.ErrUnexpectedEOF)
		got, err := testkit.ReceiveAll(t, c)
		require.Equal(t, []string{"whole"}, got)
		require.ErrorIs(t, err, io.ErrUnexpectedEOF)
	})
}
