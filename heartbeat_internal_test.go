package tcpclient

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

const sec, ms = time.Second, time.Millisecond

func TestHeartbeatTimeout(t *testing.T) {
	require.Equal(t, 20*sec, (&Heartbeat{Interval: 10 * sec}).timeout(), "twice the interval")
	require.Equal(t, 11*sec, (&Heartbeat{Interval: 10 * sec, Timeout: 11 * sec}).timeout())
	require.Greater(t, (&Heartbeat{Interval: 1<<63 - 1}).timeout(), time.Duration(0), "never must not become at once")
}
