package transporttest

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/seed-d0aa0aa7/tcpclient"
	"github.com/seed-d0aa0aa7/tcpclient/internal/testkit"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// Write is for Client.Write and Flush.
func Write(t *testing.T, tr testkit.Transport) {
	t.Run("sends nothing before a flush", func(t *testing.T) { // P12
		c, p := tr.Connect(t, tcpclient.Dialer{})
		require.NoError(t, c.Write(t.Context(), []byte("later")))
		p.RequireSilence(20 * time.Millisecond)
		require.NoError(t, c.Flush(t.Context()))
		require.Equal(t, "later", p.Receive())
	})

	t.Run("borrows the message until it returns", func(t *testing.T) {
		c, p := tr.Connect(t, tcpclient.Dialer{})
		for _, size := range []int{3, 600, 5000, 100_000} {
			msg := testkit.Pattern(size)
			wait := testkit.Start(t, func() string { return p.Receive() })
			require.NoError(t, c.Write(t.Context(), msg))
			for i := range msg {
				msg[i] = '!'
			}
			require.NoError(t, c.Flush(t.Context()))
			require.True(t, testkit.PatternText(size) == wait())
		}
	})

	t.Run("writes messages of every size around the buffers", func(t *testing.T) { // P1, FAULTS S4
		c, p := tr.Connect(t, tcpclient.Dialer{WriteBuffer: 16 << 10})
		var want []string
		for _, n := range boundaries(16<<10, 64<<10) {
			want = append(want, testkit.PatternText(n))
		}
		type result struct {
			got []string
			err error
		}
		wait := testkit.Start(t, func() result { got, err := p.All(); return result{got, err} })
		for i, msg := range want {
			require.NoError(t, c.Write(t.Context(), []byte(msg)))
			if i%3 == 0 {
				require.NoError(t, c.Flush(t.Context()))
			}
		}
		require.NoError(t, c.Close())
		r := wait()
		require.Equal(t, len(want), len(r.got))
		for i := range want {
			require.True(t, want[i] == r.got[i], "message %d of %d bytes", i, len(want[i]))
		}
		require.ErrorIs(t, r.err, io.EOF)
	})

	t.Run("flushes by itself when WriteBuffer is full", func(t *testing.T) { // P6
		c, p := tr.Connect(t, tcpclient.Dialer{WriteBuffer: 1000})
		for range 100 {
			require.NoError(t, c.Write(t.Context(), testkit.Pattern(100)))
		}
		for range 90 {
			require.Equal(t, testkit.PatternText(100), p.Receive())
		}
	})

	t.Run("keeps the order of one goroutine and never interleaves frames", func(t *testing.T) { // P3
		writers, each := 16, 200
		c, p := tr.Connect(t, tcpclient.Dialer{WriteBuffer: 4000})
		var wg sync.WaitGroup
		for g := range writers {
			wg.Go(func() {
				for i := range each {
					msg := make([]byte, 4+i*13%300)
					msg[0], msg[1], msg[2] = byte(g), byte(i>>8), byte(i)
					for j := range msg[3:] {
						msg[3+j] = byte(g)
					}
					var err error
					switch i % 3 {
					case 0:
						err = c.Write(t.Context(), msg)
					case 1:
						err = c.Send(t.Context(), msg)
					case 2:
						if err = c.Write(t.Context(), msg); err == nil {
							err = c.Flush(t.Context())
						}
					}
					assert.NoError(t, err)
				}
			})
		}
		next := make([]int, writers)
		for range writers * each {
			msg := p.Receive()
			g := int(msg[0])
			require.Equal(t, next[g], int(msg[1])<<8|int(msg[2]))
			next[g]++
			require.Equal(t, strings.Repeat(string(msg[0]), len(msg)-3), msg[3:])
		}
		wg.Wait()
	})
}

// Helper is for messages that a connection does not take at once.
func Helper(t *testing.T, tr testkit.Transport) {
	c, p := tr.ConnectSmall(t, tcpclient.Dialer{WriteTimeout: -1})
	msg := testkit.Pattern(4 << 20)
	ctx, cancel := context.WithCancel(t.Context())
	sent := testkit.Start(t, func() error { return c.Send(ctx, msg) })
	testkit.WaitBlocked(t, "(*outbox).help(")
	cancel()
	require.ErrorIs(t, sent(), context.Canceled, "the caller does not write")
	require.Equal(t, 1, testkit.Helpers())
	got, err := p.NextInto(make([]byte, 0, len(msg)))
	require.NoError(t, err)
	require.True(t, bytes.Equal(msg, got), "another message")
	testkit.Eventually(t, "the helper has ended", func() bool { return testkit.Helpers() == 0 })
	testkit.RequireAlive(t, c, p)
}

// FrameWithoutBytes is for a message that its Framer writes nothing for: it is written like any
// other, in a batch without bytes, and what comes after it goes on.
func FrameWithoutBytes(t *testing.T, tr testkit.Transport) { // P7
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
			testkit.RequireFast(t, "Send and Close after it", func() {
				assert.NoError(t, c.Send(t.Context(), []byte("x")))
				assert.NoError(t, c.Close())
			})
			b, err := p.In.ReadByte()
			require.NoError(t, err)
			require.Equal(t, byte('x'), b)
		})
	}
}

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
