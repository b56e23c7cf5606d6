package transporttest

import (
	"io"
	"sync"
	"testing"

	"github.com/seed-d0aa0aa7/tcpclient"
	"github.com/seed-d0aa0aa7/tcpclient/internal/testkit"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// FirstError is for what everybody gets when the connection has ended.
func FirstError(t *testing.T, tr testkit.Transport) {
	t.Run("is the same for all callers, and stays", func(t *testing.T) { // P9
		c, p := tr.Connect(t, tcpclient.Dialer{})
		var wg sync.WaitGroup
		for range 3 {
			wg.Go(func() {
				_, err := c.Receive(t.Context())
				assert.ErrorIs(t, err, io.ErrUnexpectedEOF)
			})
		}
		p.Raw([]byte{0, 0})
		p.HalfClose()
		testkit.RequireFast(t, "Receive", wg.Wait)
		for range 2 {
			for name, err := range testkit.EveryMethod(t, t.Context(), c) {
				require.ErrorIs(t, err, io.ErrUnexpectedEOF, name)
				require.ErrorIs(t, err, tcpclient.ErrDisconnected, name)
				require.NotErrorIs(t, err, tcpclient.ErrClosed, name)
				require.Equal(t, tcpclient.ClassDisconnected, tcpclient.Classify(err), name)
			}
			require.NoError(t, c.Close())
		}
	})
}
