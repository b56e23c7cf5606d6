package transporttest

import (
	"errors"
	"io"
	"testing"
	"time"

	"github.com/seed-d0aa0aa7/tcpclient"
	"github.com/seed-d0aa0aa7/tcpclient/internal/testkit"
	"github.com/stretchr/testify/require"
)

// FIN is for one between frames.
func FIN(t *testing.T, tr testkit.Transport) {
	c, p := tr.Connect(t, tcpclient.Dialer{})
	p.Send("one", "two")
	p.HalfClose()
	got, err := testkit.ReceiveAll(t, c)
	require.Equal(t, []string{"one", "two"}, got)
	require.ErrorIs(t, err, io.EOF)
	require.NotErrorIs(t, err, io.ErrUnexpectedEOF)
	require.Equal(t, tcpclient.ClassDisconnected, tcpclient.Classify(err))
}

// FINInside is for one inside a frame.
func FINInside(t *testing.T, tr testkit.Transport) {
	l := tr.Listen(t)
	stream := testkit.Frames("one", "two!")
	for cut := range stream {
		c, p := l.Connect(t, tcpclient.Dialer{})
		p.Raw(stream[:cut])
		p.HalfClose()
		got, err := testkit.ReceiveAll(t, c)
		if cut >= 7 {
			require.Equal(t, []string{"one"}, got)
		} else {
			require.Empty(t, got)
		}
		if cut == 0 || cut == 7 {
			require.ErrorIs(t, err, io.EOF)
		} else {
			require.ErrorIs(t, err, io.ErrUnexpectedEOF, "cut at %d", cut)
			require.NotErrorIs(t, err, io.EOF)
		}
		require.Equal(t, tcpclient.ClassDisconnected, tcpclient.Classify(err))
		require.NoError(t, c.Close())
	}
}

// StalledPeer is for one that has stopped reading.
func StalledPeer(t *testing.T, tr testkit.Transport) {
	c, p := tr.ConnectSmall(t, tcpclient.Dialer{WriteTimeout: 100 * time.Millisecond})
	testkit.Stall(t, c)
	err := c.Send(t.Context(), []byte("more"))
	require.ErrorIs(t, err, tcpclient.ErrWriteTimeout)
	require.True(t, testkit.OpError(t, err).Unsent, "it lay after what was stuck")
	go io.Copy(io.Discard, p) // too late
	for range 3 {
		require.ErrorIs(t, c.Send(t.Context(), []byte("again")), tcpclient.ErrWriteTimeout)
	}
	_, err = c.Receive(t.Context())
	require.ErrorIs(t, err, tcpclient.ErrWriteTimeout)
}

// PeerHalfClose is for what the peer closes of the connection.
func PeerHalfClose(t *testing.T, tr testkit.Transport) {
	c, p := tr.Connect(t, tcpclient.Dialer{})
	p.HalfClose()
	_, err := c.Receive(t.Context())
	require.ErrorIs(t, err, io.EOF)
	testkit.Eventually(t, "the connection is over both ways", func() bool {
		return errors.Is(c.Send(t.Context(), []byte("late")), io.EOF)
	})
}

// HalfClose is for a Shutdown, after which messages still come.
func HalfClose(t *testing.T, tr testkit.Transport) {
	c, p := tr.Connect(t, tcpclient.Dialer{})
	done := testkit.Start(t, func() error { return c.Shutdown(t.Context()) })
	_, err := p.Next()
	require.Equal(t, io.EOF, err, "FIN, after a close_notify with TLS")
	want := testkit.Numbered(500, 1000)
	p.Send(want...)
	p.HalfClose()
	require.NoError(t, done())
	got, err := testkit.ReceiveAll(t, c)
	require.Equal(t, want, got)
	require.ErrorIs(t, err, tcpclient.ErrClosed)
}

// DataAfterClose is for a peer that sends on.
func DataAfterClose(t *testing.T, tr testkit.Transport) {
	c, p := tr.Connect(t, tcpclient.Dialer{})
	sender := testkit.Start(t, func() error {
		for {
			if _, err := p.Write(testkit.Frame("more")); err != nil {
				return err
			}
		}
	})
	_, err := c.Receive(t.Context())
	require.NoError(t, err)
	require.NoError(t, c.Close())
	for range 3 {
		_, err := c.Receive(t.Context())
		require.ErrorIs(t, err, tcpclient.ErrClosed)
		require.NotErrorIs(t, err, tcpclient.ErrDisconnected)
	}
	require.Error(t, sender())
}

// GonePeer is for a peer that has hung up.
func GonePeer(t *testing.T, tr testkit.Transport) {
	for range 10 {
		c, p := tr.Connect(t, tcpclient.Dialer{})
		go testkit.HangUp(p.Conn)
		// The first ones may be handed over, which does not mean that they arrive.
		for {
			err := c.Send(t.Context(), []byte("anybody there?"))
			if err == nil {
				continue
			}
			require.ErrorIs(t, err, tcpclient.ErrDisconnected)
			break
		}
		require.ErrorIs(t, c.Send(t.Context(), []byte("again")), tcpclient.ErrDisconnected)
		require.NoError(t, c.Close(), "what was handed over is not lost in our hands")
	}
}
