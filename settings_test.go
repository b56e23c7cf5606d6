package tcpclient_test

import (
	"context"
	"crypto/tls"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/seed-d0aa0aa7/tcpclient"
	"github.com/seed-d0aa0aa7/tcpclient/internal/testkit"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// noDialing is a DialContext that must not be called.
func noDialing(t testing.TB) func(context.Context, string, string) (net.Conn, error) {
	return func(context.Context, string, string) (net.Conn, error) {
		t.Error("dialed with wrong settings")
		return nil, net.ErrClosed
	}
}

func TestSettings(t *testing.T) {
	for _, test := range []struct {
		name string
		d    tcpclient.Dialer
		want []string // in the error: fields and values
	}{
		{"negative FlushDelay", tcpclient.Dialer{FlushDelay: -time.Second}, []string{"FlushDelay", "-1s"}},
		{"negative UserTimeout", tcpclient.Dialer{UserTimeout: -time.Second}, []string{"UserTimeout", "-1s"}},
		{"negative Heartbeat.Interval", tcpclient.Dialer{Heartbeat: tcpclient.Heartbeat{Interval: -1}}, []string{"Heartbeat.Interval", "-1ns"}},
		{"negative Heartbeat.Timeout", tcpclient.Dialer{Heartbeat: tcpclient.Heartbeat{Interval: 1, Timeout: -1}}, []string{"Heartbeat.Timeout", "-1ns"}},
		{"Heartbeat.Timeout without Interval", tcpclient.Dialer{Heartbeat: tcpclient.Heartbeat{Timeout: time.Second}}, []string{"Heartbeat.Timeout", "1s", "Interval"}},
		{"Heartbeat.Timeout that does not exceed Interval", tcpclient.Dialer{Heartbeat: tcpclient.Heartbeat{Interval: 2 * time.Second, Timeout: 2 * time.Second}}, []string{"Heartbeat.Timeout", "2s", "Interval"}},
		{"UserTimeout below Heartbeat.Timeout", tcpclient.Dialer{UserTimeout: 19 * time.Second, Heartbeat: tcpclient.Heartbeat{Interval: 10 * time.Second}}, []string{"UserTimeout", "19s", "20s"}},
		{"negative ReadBuffer", tcpclient.Dialer{ReadBuffer: -7}, []string{"ReadBuffer", "-7"}},
		{"negative WriteBuffer", tcpclient.Dialer{WriteBuffer: -7}, []string{"WriteBuffer", "-7"}},
		{"negative Inbox", tcpclient.Dialer{Inbox: -7}, []string{"Inbox", "-7"}},
		{"LengthPrefix.Width", tcpclient.Dialer{Framer: tcpclient.LengthPrefix{Width: 9}}, []string{"LengthPrefix", "Width", "9"}},
		{"LengthPrefix.MaxSize", tcpclient.Dialer{Framer: tcpclient.LengthPrefix{MaxSize: -9}}, []string{"MaxSize", "-9"}},
		{"a Framer by pointer", tcpclient.Dialer{Framer: &tcpclient.LengthPrefix{Width: 9}}, []string{"LengthPrefix", "Width", "9"}},
		{"IDField.Width", tcpclient.Dialer{Correlator: tcpclient.IDField{Width: 9}}, []string{"Correlator", "Width", "9"}},
		{"Backoff.Min", tcpclient.Dialer{Reconnect: &tcpclient.Backoff{Min: -1}}, []string{"Reconnect.Min", "-1ns"}},
		{"Backoff.Max", tcpclient.Dialer{Reconnect: &tcpclient.Backoff{Max: -1}}, []string{"Reconnect.Max", "-1ns"}},
		{"Backoff.Max below Min", tcpclient.Dialer{Reconnect: &tcpclient.Backoff{Min: 2 * time.Second, Max: time.Second}}, []string{"Reconnect.Max", "1s", "2s"}},
		{"Backoff.MaxAttempts", tcpclient.Dialer{Reconnect: &tcpclient.Backoff{MaxAttempts: -3}}, []string{"Reconnect.MaxAttempts", "-3"}},
		{"several at once", tcpclient.Dialer{ReadBuffer: -1, Inbox: -2, FlushDelay: -3, Framer: tcpclient.LengthPrefix{Width: 10}, Reconnect: &tcpclient.Backoff{Min: -4}}, []string{"ReadBuffer", "-1", "Inbox", "-2", "FlushDelay", "-3ns", "Width", "10", "Reconnect.Min", "-4ns"}},
	} {
		t.Run(test.name, func(t *testing.T) { // section 2: refused at once, naming field and value
			d := test.d
			d.DialContext = noDialing(t)
			c, err := d.Dial(t.Context(), "tcp", "server:9")
			require.Error(t, err)
			require.Nil(t, c)
			require.Equal(t, "dial", testkit.OpError(t, err).Op)
			require.Equal(t, tcpclient.ClassPermanent, tcpclient.Classify(err))
			for _, want := range test.want {
				assert.ErrorContains(t, err, want)
			}
			require.Equal(t, 1, strings.Count(err.Error(), "tcpclient: "))
		})
	}

	t.Run("negative is off for the timeouts", func(t *testing.T) {
		c, p := testkit.ConnectMemory(t, tcpclient.Dialer{Timeout: -1, WriteTimeout: -1, FrameTimeout: -1})
		testkit.RequireAlive(t, c, p)
	})

	t.Run("wrong ones win against a context that is done", func(t *testing.T) {
		_, err := (&tcpclient.Dialer{Inbox: -1}).Dial(testkit.Canceled(t), "tcp", "server:9")
		require.ErrorContains(t, err, "Inbox")
	})

	t.Run("TLS needs a name to check", func(t *testing.T) {
		for network, address := range map[string]string{"tcp": ":9", "unix": "/run/server"} {
			_, err := (&tcpclient.Dialer{TLSConfig: &tls.Config{}, DialContext: noDialing(t)}).Dial(t.Context(), network, address)
			require.ErrorContains(t, err, "ServerName")
			require.Equal(t, tcpclient.ClassPermanent, tcpclient.Classify(err))
		}
	})

	t.Run("the smallest work", func(t *testing.T) { // FAULTS S4
		for _, size := range []int{1, 2, 15, 16, 17} {
			c, p := testkit.ConnectMemory(t, tcpclient.Dialer{ReadBuffer: size, WriteBuffer: size, Inbox: size})
			go p.Echo()
			for _, n := range []int{0, 1, 15, 16, 17, 5000} {
				require.NoError(t, c.Write(t.Context(), testkit.Pattern(n)))
				require.NoError(t, c.Write(t.Context(), testkit.Pattern(n)))
				require.NoError(t, c.Flush(t.Context()))
				for range 2 {
					msg, err := c.Receive(t.Context())
					require.NoError(t, err)
					require.Equal(t, string(testkit.Pattern(n)), string(msg))
				}
			}
		}
	})

	t.Run("Nagle", func(t *testing.T) {
		for _, nagle := range []bool{false, true} {
			c, p := testkit.TransportNamed("tcp").Connect(t, tcpclient.Dialer{Nagle: nagle})
			testkit.RequireAlive(t, c, p)
		}
	})
}
