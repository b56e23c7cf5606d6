package wire_test

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/seed-d0aa0aa7/tcpclient/internal/wire"
)

func TestSentinels(t *testing.T) {
	t.Run("have the texts that users know", func(t *testing.T) { // P9
		require.EqualError(t, wire.ErrClosed, "client closed")
		require.EqualError(t, wire.ErrDisconnected, "disconnected")
		require.EqualError(t, wire.ErrWriteTimeout, "write timeout: the peer takes no data")
	})

	t.Run("join the standard ones", func(t *testing.T) { // P9
		require.ErrorIs(t, wire.ErrClosed, net.ErrClosed)
		require.NotErrorIs(t, wire.ErrDisconnected, net.ErrClosed)
		var timeout interface{ Timeout() bool }
		require.ErrorAs(t, wire.ErrWriteTimeout, &timeout)
		require.True(t, timeout.Timeout())
		require.NotErrorIs(t, wire.ErrWriteTimeout, os.ErrDeadlineExceeded)
	})
}

func TestDisconnected(t *testing.T) {
	t.Run("Is ErrDisconnected and its cause", func(t *testing.T) { // P9
		err := wire.Disconnected(io.EOF)
		require.EqualError(t, err, "disconnected: EOF")
		require.ErrorIs(t, err, wire.ErrDisconnected)
		require.ErrorIs(t, err, io.EOF)
		var d *wire.DisconnectedError
		require.ErrorAs(t, err, &d)
		require.Equal(t, io.EOF, d.Cause)
	})

	t.Run("leaves what is marked and our own will as they are", func(t *testing.T) { // P9
		marked := fmt.Errorf("read: %w", wire.Disconnected(io.EOF))
		require.Equal(t, marked, wire.Disconnected(marked))
		require.Equal(t, wire.ErrClosed, wire.Disconnected(wire.ErrClosed))
		require.NotErrorIs(t, wire.Disconnected(wire.ErrClosed), wire.ErrDisconnected)
	})
}

func TestIsTimeout(t *testing.T) {
	t.Run("is true for a deadline, not for a connection that timed out", func(t *testing.T) { // P9
		require.True(t, wire.IsTimeout(&net.OpError{Op: "read", Err: os.ErrDeadlineExceeded}))
		require.False(t, wire.IsTimeout(&net.OpError{Op: "read", Err: os.NewSyscallError("read", syscall.ETIMEDOUT)}))
		require.False(t, wire.IsTimeout(wire.ErrWriteTimeout))
		require.False(t, wire.IsTimeout(errors.New("i/o timeout")))
		require.False(t, wire.IsTimeout(nil))
	})
}
