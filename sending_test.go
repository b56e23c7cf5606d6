package tcpclient_test

import (
	"bufio"
	"context"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/seed-d0aa0aa7/tcpclient"
	"github.com/seed-d0aa0aa7/tcpclient/internal/testkit"
	"github.com/seed-d0aa0aa7/tcpclient/tcpclienttest"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// asItIs is a Framer whose frames are the bytes of their messages: of an empty message
// there is nothing.
type asItIs struct{}

func (asItIs) WriteFrame(w *bufio.Writer, msg []byte) error {
	_, err := w.Write(msg)
	return err
}

func (asItIs) ReadFrame(r *bufio.Reader, dst []byte) ([]byte, error) {
	b, err := r.ReadByte()
	return append(dst, b), err
}

// A Framer may have nothing to write for a message. Whoever sends that leads a flight
// without bytes, and what comes behind it goes on.
func TestAFrameWithoutBytesIsSentLikeAnyOther(t *testing.T) { // P7
	ops := map[string]func(ctx context.Context, c *tcpclient.Client) error{
		"Send": func(ctx context.Context, c *tcpclient.Client) error { return c.Send(ctx, nil) },
		"Call": func(ctx context.Context, c *tcpclient.Client) error {
			_, err := c.Call(ctx, nil)
			return err
		},
		"Write and Flush": func(ctx context.Context, c *tcpclient.Client) error {
			if err := c.Write(ctx, nil); err != nil {
				return err
			}
			return c.Flush(ctx)
		},
	}
	for name, op := range ops {
		testkit.EachTransport(t, func(t *testing.T, tr testkit.Transport) {
			t.Run(name, func(t *testing.T) {
				l := tr.Listen(t)
				accepted := make(chan *testkit.Peer, 1)
				go func() { accepted <- l.AcceptPeer(t) }()
				c, err := l.TryDial(t.Context(), tcpclient.Dialer{Framer: asItIs{}})
				require.NoError(t, err)
				p := <-accepted
				done := testkit.Start(t, func() (err error) {
					assert.NotPanics(t, func() { err = op(t.Context(), c) })
					return err
				})
				if name == "Call" {
					testkit.Eventually(t, "the request is written", func() bool { return c.Stats().MessagesSent > 0 })
					p.Raw([]byte("y"))
				}
				assert.NoError(t, done())
				testkit.RequireFast(t, "Send and Close behind it", func() {
					assert.NoError(t, c.Send(t.Context(), []byte("x")))
					assert.NoError(t, c.Close())
				})
				b, err := p.In.ReadByte()
				require.NoError(t, err)
				require.Equal(t, byte('x'), b)
			})
		})
	}
}

func TestOfManyWritesThatWaitForRoomOneIsToldOfEachLoss(t *testing.T) { // P4
	synctest.Test(t, func(t *testing.T) {
		c, p := testkit.ListenNetwork(t, &tcpclienttest.Network{Buffer: 8}).Connect(t, tcpclient.Dialer{WriteBuffer: 1})
		require.NoError(t, c.Write(t.Context(), make([]byte, 100)))
		var results []func() error
		for range 5 { // one may get the room that the flight has left, the others wait
			results = append(results, testkit.Start(t, func() error { return c.Write(t.Context(), []byte("x")) }))
		}
		synctest.Wait()
		p.Reset()
		told, refused := 0, 0
		for _, result := range results {
			if err := result(); err != nil {
				require.True(t, testkit.OpError(t, err).Unsent)
				refused++
				if strings.Contains(err.Error(), "are lost") {
					told++
				}
			}
		}
		require.GreaterOrEqual(t, refused, 4)
		require.LessOrEqual(t, told, 2) // of the flight, and of the frame of a Write that got room behind it
		require.Positive(t, told)
	})
}

// Those who lead may have no patience either. Whoever gives up leading does not leave it to the
// next, who may be gone, too: nobody would ever write.
func TestImpatientSendersDoNotStarveEachOther(t *testing.T) { // P2, P5
	for name, op := range map[string]func(ctx context.Context, c *tcpclient.Client){
		"Send": func(ctx context.Context, c *tcpclient.Client) { c.Send(ctx, nil) },
		"Call": func(ctx context.Context, c *tcpclient.Client) { c.Call(ctx, nil) },
	} {
		t.Run(name, func(t *testing.T) {
			l := testkit.ListenTCP(t)
			go func() { l.AcceptPeer(t).All() }()
			c, err := l.TryDial(t.Context(), tcpclient.Dialer{})
			require.NoError(t, err)
			var enough atomic.Bool
			var senders sync.WaitGroup
			for range 1024 {
				senders.Go(func() {
					for !enough.Load() && c.Stats().MessagesSent < 50_000 { // there is room for 65536 Calls
						ctx, cancel := context.WithTimeout(context.Background(), 5*time.Millisecond)
						op(ctx, c)
						cancel()
					}
				})
			}
			for range 5 {
				last := c.Stats()
				testkit.Eventually(t, "something is written", func() bool {
					now := c.Stats()
					return now.Flushes > last.Flushes || now.MessagesSent >= 50_000
				})
			}
			enough.Store(true)
			senders.Wait()
			c.Close()
		})
	}
}
