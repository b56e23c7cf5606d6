package tcpclient

import (
	"io"
	"net"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestCloseBetweenTheEndsOfConnectionAndClient(t *testing.T) {
	t.Run("the first error stays", func(t *testing.T) { // P9
		config := new(Dialer).config()
		c := newClient(t.Context(), config, "tcp", []string{"x"})
		here, there := net.Pipe()
		defer there.Close()
		reason := c.detach(c.attach(newConn(here, "x", config.framing, config)), io.EOF)
		close(c.done)
		require.NoError(t, c.Close())
		c.finish(reason.reason)
		_, err := c.Receive(t.Context())
		require.ErrorIs(t, err, io.EOF)
		require.ErrorIs(t, c.Send(t.Context(), nil), io.EOF)
	})
}
