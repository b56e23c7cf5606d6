package tcpclient_test

import (
	"io"
	"testing"
	"testing/synctest"

	"github.com/seed-d0aa0aa7/tcpclient"
	"github.com/seed-d0aa0aa7/tcpclient/internal/testkit"
	"github.com/stretchr/testify/require"
)

func TestLossOfMessages(t *testing.T) {
	t.Run("says that it is one, and why", testkit.InBubble(func(t *testing.T) { // P4, P9
		c, p := testkit.ConnectMemory(t, tcpclient.Dialer{})
		require.NoError(t, c.Write(t.Context(), []byte("lost")))
		p.Close()
		synctest.Wait()
		err := c.Send(t.Context(), []byte("x"))
		require.ErrorContains(t, err, ": messages that were written are lost: disconnected: EOF")
		require.ErrorIs(t, err, tcpclient.ErrDisconnected)
		require.ErrorIs(t, err, io.EOF)
		require.Equal(t, tcpclient.ClassDisconnected, tcpclient.Classify(err))
		require.NotContains(t, c.Send(t.Context(), []byte("x")).Error(), "lost", "it is told once")
	}))
}
