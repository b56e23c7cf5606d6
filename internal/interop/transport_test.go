package interop

import (
	"context"
	"io"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/yamux"
	"github.com/seed-d0aa0aa7/tcpclient"
	"github.com/seed-d0aa0aa7/tcpclient/internal/testkit"
	"github.com/seed-d0aa0aa7/tcpclient/internal/transporttest"
	"github.com/stretchr/testify/require"
)

// without says which of the tests a tunnel cannot pass, by what it is.
var without = map[string]map[string]string{
	"yamux": {
		"Shutdown":               "a client's stream has no CloseWrite",
		"HalfClose":              "a client's stream has no CloseWrite",
		"LargeMessagesBeforeFIN": "a client's stream has no CloseWrite",
		"DataAfterClose":         "the peer's Write fails at no Close of the client's: it waits for its window to open",
	},
	"smux": {
		"DataAfterClose": "the peer's Write fails at no Close of the client's: it waits for its window to open",
	},
	"socks5": {
		"Shutdown":               "the connection of golang.org/x/net/proxy has no CloseWrite",
		"HalfClose":              "the connection of golang.org/x/net/proxy has no CloseWrite",
		"LargeMessagesBeforeFIN": "the connection of golang.org/x/net/proxy has no CloseWrite",
	},
	"websocket": {
		"Shutdown":               "no half-close",
		"HalfClose":              "no half-close",
		"LargeMessagesBeforeFIN": "no half-close",
		"AnswersBeforeFIN":       "no half-close: after the peer's close frame nothing can be sent",
	},
}

func TestTransport(t *testing.T) { // D1
	for _, tr := range tunnels {
		t.Run(tr.Name, func(t *testing.T) {
			for name, test := range transporttest.Tests {
				if without[tr.Name][name] == "" {
					t.Run(name, func(t *testing.T) { test(t, tr) })
				}
			}
		})
	}
}

// eachTunnel runs test on each of the tunnels.
func eachTunnel(t *testing.T, test func(t *testing.T, tr testkit.Transport)) {
	for _, tr := range tunnels {
		t.Run(tr.Name, func(t *testing.T) { test(t, tr) })
	}
}

func TestShutdownOfTunnel(t *testing.T) {
	for _, tr := range tunnels {
		if without[tr.Name]["Shutdown"] == "" {
			continue
		}
		t.Run(tr.Name+" closes it after the flush", func(t *testing.T) { // P7, D1
			c, p := tr.Connect(t, tcpclient.Dialer{})
			require.NoError(t, c.Write(t.Context(), []byte("last")))
			require.NoError(t, c.Shutdown(t.Context()))
			got, err := p.All()
			require.Equal(t, []string{"last"}, got)
			require.Equal(t, io.EOF, err)
			require.NoError(t, c.Close())
		})
	}
}

func TestHeartbeatThroughTunnel(t *testing.T) {
	beat := testkit.RealHeartbeat(50*time.Millisecond, 500*time.Millisecond)

	t.Run("a peer that answers lives", func(t *testing.T) { // P5, D1
		eachTunnel(t, func(t *testing.T, tr testkit.Transport) {
			c, p := tr.Connect(t, tcpclient.Dialer{Heartbeat: beat})
			go p.Answer()
			_, err := c.Receive(testkit.Within(t, 700*time.Millisecond))
			require.ErrorIs(t, err, context.DeadlineExceeded)
			reply, err := c.Call(t.Context(), []byte("hello"))
			require.NoError(t, err)
			require.Equal(t, "hello", string(reply))
		})
	})

	t.Run("the verdict on a silent one comes in time, and the next connection is made", func(t *testing.T) { // P5, P8, D1
		eachTunnel(t, func(t *testing.T, tr testkit.Transport) {
			l := tr.Listen(t)
			c, _ := l.Connect(t, tcpclient.Dialer{Heartbeat: beat, Reconnect: testkit.FastBackoff()})
			watch := testkit.StartStopwatch(t)
			_, err := c.Receive(t.Context())
			testkit.RequireHeartbeatTimeout(t, err)
			require.Less(t, watch.Ran(), 900*time.Millisecond)
			go l.AcceptPeer(t).Answer()
			reply, err := c.Call(t.Context(), []byte("hello"))
			require.NoError(t, err)
			require.Equal(t, "hello", string(reply))
			watch = testkit.StartStopwatch(t)
			require.NoError(t, c.Close())
			require.Less(t, watch.Ran(), testkit.CloseTime)
		})
	})
}

func TestFrameThroughTunnel(t *testing.T) {
	t.Run("in two pieces is one message", func(t *testing.T) { // P1, D1
		eachTunnel(t, func(t *testing.T, tr testkit.Transport) {
			c, p := tr.Connect(t, tcpclient.Dialer{FrameTimeout: 10 * time.Second})
			whole := testkit.Frame("in two pieces")
			p.Raw(whole[:7])
			_, err := c.Receive(testkit.Within(t, 100*time.Millisecond))
			require.ErrorIs(t, err, context.DeadlineExceeded)
			p.Raw(whole[7:])
			msg, err := c.Receive(t.Context())
			require.NoError(t, err)
			require.Equal(t, "in two pieces", string(msg))
			testkit.RequireAlive(t, c, p)
		})
	})

	t.Run("that stops in the middle ends the connection in time", func(t *testing.T) { // P5, D1
		eachTunnel(t, func(t *testing.T, tr testkit.Transport) {
			c, p := tr.Connect(t, tcpclient.Dialer{FrameTimeout: 300 * time.Millisecond})
			p.Raw(testkit.Frame("half")[:6])
			watch := testkit.StartStopwatch(t)
			_, err := c.Receive(t.Context())
			require.ErrorIs(t, err, tcpclient.ErrFrameTimeout)
			require.Less(t, watch.Ran(), 800*time.Millisecond)
		})
	})
}

func TestBurstThroughTunnel(t *testing.T) {
	t.Run("to a slow reader arrives once and in order", func(t *testing.T) { // P1, P4, D1, D2
		eachTunnel(t, func(t *testing.T, tr testkit.Transport) {
			c, p := tr.Connect(t, tcpclient.Dialer{})
			msgs := testkit.Numbered(40, 100_000)
			sent := testkit.Start(t, func() (err error) {
				for _, msg := range msgs {
					if err == nil {
						err = c.Send(t.Context(), []byte(msg))
					}
				}
				return err
			})
			testkit.WaitBlocked(t, "wire.(*Conn).Write") // it looks up every 50 ms
			_, err := c.Receive(testkit.Within(t, 300*time.Millisecond))
			require.ErrorIs(t, err, context.DeadlineExceeded)
			for i, want := range msgs {
				require.True(t, want == p.Receive(), "message %d", i)
			}
			require.NoError(t, sent())
		})
	})

	t.Run("to one that does not read ends with the WriteTimeout", func(t *testing.T) { // P5, D1
		eachTunnel(t, func(t *testing.T, tr testkit.Transport) {
			c, _ := tr.Connect(t, tcpclient.Dialer{WriteTimeout: 300 * time.Millisecond})
			require.ErrorIs(t, c.Send(t.Context(), testkit.Pattern(4<<20)), tcpclient.ErrWriteTimeout)
			watch := testkit.StartStopwatch(t)
			require.NoError(t, c.Close())
			require.Less(t, watch.Ran(), testkit.CloseTime)
		})
	})
}

// A stream of yamux reads on after its Close, as long as the peer does not close it.
func TestCloseOfYamux(t *testing.T) {
	t.Run("leaves nothing in its Read", func(t *testing.T) { // P6, P7, D1
		reading := make(chan struct{}, 1)
		var reads readCounter
		l := tunnel("yamux").Listen(t)
		var d tcpclient.Dialer
		l.Setup(&d)
		dial := d.DialContext
		d.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
			conn, err := dial(ctx, network, address)
			if err == nil {
				reads.Stream = conn.(*yamux.Stream)
				reads.begun = reading
			}
			return &reads, err
		}
		c, _ := l.Connect(t, d)
		<-reading
		watch := testkit.StartStopwatch(t)
		require.NoError(t, c.Close())
		require.Less(t, watch.Ran(), testkit.CloseTime)
		require.Zero(t, reads.under.Load(), "Close returns after the last goroutine")
		_, err := c.Receive(t.Context())
		require.ErrorIs(t, err, tcpclient.ErrClosed)
	})
}

// A readCounter counts the Reads of a stream that are under way.
type readCounter struct {
	*yamux.Stream
	under atomic.Int32
	begun chan struct{} // one slot
}

func (r *readCounter) Read(p []byte) (int, error) {
	r.under.Add(1)
	defer r.under.Add(-1)
	select {
	case r.begun <- struct{}{}:
	default:
	}
	return r.Stream.Read(p)
}
