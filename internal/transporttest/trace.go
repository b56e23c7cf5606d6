package transporttest

import (
	"testing"

	"github.com/seed-d0aa0aa7/tcpclient"
	"github.com/seed-d0aa0aa7/tcpclient/internal/testkit"
	"github.com/stretchr/testify/require"
)

// OwnEnd is for what a Trace is told of our own end.
func OwnEnd(t *testing.T, tr testkit.Transport) {
	for name, end := range map[string]func(c *tcpclient.Client) error{
		"Close":                         func(c *tcpclient.Client) error { return c.Close() },
		"Shutdown":                      func(c *tcpclient.Client) error { return c.Shutdown(t.Context()) },
		"Close with something to flush": func(c *tcpclient.Client) error { c.Write(t.Context(), []byte("last")); return c.Close() },
	} {
		rec := testkit.NewRecorder()
		c, p := tr.Connect(t, tcpclient.Dialer{Trace: rec.Trace(), Reconnect: testkit.FastBackoff()})
		done := make(chan struct{})
		go func() { defer close(done); p.All(); testkit.HangUp(p) }()
		require.NoError(t, end(c), name)
		require.NoError(t, c.Close()) // which waits for the callbacks
		<-done
		lost := rec.All("Disconnected")
		require.Len(t, lost, 1, name)
		require.True(t, lost[0].Err == tcpclient.ErrClosed, "%s: %v", name, lost[0].Err)
	}
}
