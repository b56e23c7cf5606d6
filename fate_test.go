package tcpclient_test

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/seed-d0aa0aa7/tcpclient"
	"github.com/seed-d0aa0aa7/tcpclient/internal/testkit"
	"github.com/seed-d0aa0aa7/tcpclient/internal/transporttest"
	"github.com/seed-d0aa0aa7/tcpclient/tcpclienttest"
	"github.com/stretchr/testify/require"
)

// What became of a message, and what the Client says about it.

// A fate is what a call has said about its message.
type fate struct {
	msg string
	err error
}

func TestUnsent(t *testing.T) {
	t.Parallel() // it waits for real time

	t.Run("is exact for each message of a batch that was cut off", func(t *testing.T) { // P4, FAULTS S18
		// The first message keeps the network busy while the others gather in a batch, of
		// which the network takes cut bytes.
		msgs := testkit.Numbered(10, 20)
		total := len(testkit.Frames(msgs...))
		for cut := 0; cut <= total; cut++ {
			if cut%24 > 2 && cut%24 < 22 && cut%7 != 0 {
				continue
			}
			synctest.Test(t, func(t *testing.T) {
				gate := make(chan struct{})
				calls, batch := 0, ""
				c, p, w := testkit.ConnectHooked(t, tcpclient.Dialer{}, nil)
				w.OnWrite = func(b []byte) (int, error) {
					if calls++; calls == 1 {
						<-gate
						return w.Conn.Write(b)
					}
					batch = string(b)
					n, _ := w.Conn.Write(b[:cut])
					return n, syscall.EPIPE
				}
				first := testkit.Start(t, func() error { return c.Send(t.Context(), []byte("first")) })
				synctest.Wait()
				fates := make(chan fate, len(msgs))
				for _, msg := range msgs {
					go func() { fates <- fate{msg, c.Send(t.Context(), []byte(msg))} }()
				}
				synctest.Wait()
				close(gate)
				require.NoError(t, first())
				unsent := make(map[string]bool)
				for range msgs {
					f := <-fates
					at := strings.Index(batch, f.msg) - 4
					require.GreaterOrEqual(t, at, 0)
					if at+24 <= cut && cut == total {
						// All was handed over; the error came just after it.
						continue
					}
					require.Error(t, f.err, f.msg)
					require.ErrorIs(t, f.err, syscall.EPIPE)
					require.ErrorIs(t, f.err, tcpclient.ErrDisconnected)
					require.Equal(t, at >= cut, testkit.OpError(t, f.err).Unsent, "message at %d, cut at %d", at, cut)
					unsent[f.msg] = testkit.OpError(t, f.err).Unsent
				}
				require.Equal(t, 2, calls, "no further byte")
				require.NoError(t, c.Close())
				got, _ := p.All()
				for _, msg := range got {
					require.False(t, unsent[msg], msg)
				}
			})
		}
	})

	t.Run("is exact when the network takes a batch bit by bit", func(t *testing.T) { // P4
		for _, cut := range []int{0, 1, 23, 24, 25, 100, 239, 240} {
			synctest.Test(t, func(t *testing.T) {
				msgs := testkit.Numbered(10, 20)
				n := &tcpclienttest.Network{Buffer: 9 + max(cut, 1)}
				var w *testkit.HookedConn
				d := tcpclient.Dialer{WriteTimeout: 3 * time.Second, DialContext: testkit.Wrapping(n.DialContext, func(conn net.Conn) net.Conn {
					w = &testkit.HookedConn{Conn: conn}
					return w
				})}
				c, p := testkit.ListenNetwork(t, n).Connect(t, d)
				// "first" and a part of the batch fit.
				gate := make(chan struct{})
				batch := ""
				w.OnWrite = func(b []byte) (int, error) {
					if gate != nil {
						<-gate
						gate = nil
					} else if batch == "" {
						batch = string(b)
					}
					if cut == 0 {
						return w.Conn.Write(b[:min(len(b), 9-w.Writes()/2*9)])
					}
					return w.Conn.Write(b)
				}
				if cut == 0 {
					w.OnWrite = func(b []byte) (int, error) {
						if gate != nil {
							<-gate
							gate = nil
							return w.Conn.Write(b)
						}
						if batch == "" {
							batch = string(b)
						}
						<-time.After(time.Second) // the deadlines are shorter
						return 0, context.DeadlineExceeded
					}
				}
				first := testkit.Start(t, func() error { return c.Send(t.Context(), []byte("first")) })
				synctest.Wait()
				fates := make(chan fate, len(msgs))
				for _, msg := range msgs {
					go func() { fates <- fate{msg, c.Send(t.Context(), []byte(msg))} }()
				}
				synctest.Wait()
				close(gate)
				require.NoError(t, first())
				for range msgs {
					f := <-fates
					at := strings.Index(batch, f.msg) - 4
					if cut == 240 {
						require.NoError(t, f.err)
						continue
					}
					require.Error(t, f.err)
					require.Equal(t, at >= cut, testkit.OpError(t, f.err).Unsent, "message at %d, cut at %d: %v", at, cut, f.err)
				}
				c.Close()
				got, _ := p.All()
				require.Len(t, got, 1+cut/24)
			})
		}
	})

	t.Run("is known to a record over TLS", func(t *testing.T) { // P4
		msgs := testkit.Numbered(10, 10_000)
		for cut := 0; cut <= 110_000; cut += 5_500 {
			synctest.Test(t, func(t *testing.T) {
				n := &tcpclienttest.Network{Buffer: 1 << 20}
				l := testkit.ListenNetwork(t, n)
				testkit.Secure(l)
				var w *testkit.HookedConn
				c, p := l.Connect(t, tcpclient.Dialer{WriteBuffer: 1 << 20, DialContext: testkit.Wrapping(n.DialContext, func(conn net.Conn) net.Conn {
					w = &testkit.HookedConn{Conn: conn}
					return w
				})})
				gate := make(chan struct{})
				calls, left := 0, cut
				w.OnWrite = func(b []byte) (int, error) {
					if calls++; calls == 1 {
						<-gate
						return w.Conn.Write(b)
					}
					k, _ := w.Conn.Write(b[:min(left, len(b))])
					if left -= k; k < len(b) {
						return k, syscall.EPIPE
					}
					return k, nil
				}
				first := testkit.Start(t, func() error { return c.Send(t.Context(), []byte("first")) })
				synctest.Wait()
				fates := make(chan fate, len(msgs))
				for _, msg := range msgs {
					go func() { fates <- fate{msg, c.Send(t.Context(), []byte(msg))} }()
					synctest.Wait() // in this order
				}
				close(gate)
				require.NoError(t, first())
				synctest.Wait()
				c.Close()
				got, _ := p.All()
				require.Equal(t, msgs[:len(got)-1], got[1:])
				for range msgs {
					f := <-fates
					at := slices.Index(msgs, f.msg)
					if f.err == nil {
						require.Less(t, at, len(got)-1)
						continue
					}
					require.ErrorIs(t, f.err, syscall.EPIPE)
					unsent := testkit.OpError(t, f.err).Unsent
					require.False(t, unsent && at*10_004 < cut-2000, "message at %d, cut at %d: its record was begun", at*10_004, cut)
					require.False(t, unsent && at < len(got)-1, "Unsent and received")
					require.True(t, unsent || cut > 0, "no byte was handed over")
					require.True(t, unsent || at*10_004 < cut+16<<10, "message at %d, cut at %d: its record was not begun", at*10_004, cut)
				}
			})
		}
	})

	t.Run("holds against a server that reads, resets and reads the rest", func(t *testing.T) { // P4
		testkit.SkipIfShort(t)
		testkit.EachTransportParallel(t, transporttest.Unsent)
	})

	t.Run("is true for all after a record of TLS that was not begun", func(t *testing.T) { // P4
		l := testkit.ListenTCP(t)
		testkit.Secure(l)
		c, p := l.ConnectSmall(t, tcpclient.Dialer{WriteTimeout: 100 * time.Millisecond, WriteBuffer: 4 << 20})
		testkit.Stall(t, c)
		fates := make(chan fate, 40)
		var wg sync.WaitGroup
		for _, msg := range testkit.Numbered(40, 30_000) {
			wg.Go(func() { fates <- fate{msg, c.Send(t.Context(), []byte(msg))} })
		}
		testkit.RequireFast(t, "Send", wg.Wait)
		close(fates)
		got, _ := p.All()
		n := 0
		for f := range fates {
			require.ErrorIs(t, f.err, tcpclient.ErrWriteTimeout)
			if testkit.OpError(t, f.err).Unsent {
				n++
			}
			require.NotContains(t, got, f.msg)
		}
		require.Equal(t, 40, n)
	})
}

func TestLoss(t *testing.T) {
	t.Parallel() // it waits for real time

	testkit.EachTransportParallel(t, transporttest.Loss)

	t.Run("is told next to a Send that fails with the same batch", func(t *testing.T) { // P4
		synctest.Test(t, func(t *testing.T) {
			c, _, _ := testkit.ConnectHooked(t, tcpclient.Dialer{}, func(w *testkit.HookedConn) {
				w.OnWrite = func([]byte) (int, error) { return 0, syscall.ECONNRESET }
			})
			require.NoError(t, c.Write(t.Context(), []byte("lost")))
			err := c.Send(t.Context(), []byte("own"))
			require.ErrorIs(t, err, syscall.ECONNRESET)
			require.True(t, testkit.OpError(t, err).Unsent)
			require.ErrorIs(t, c.Flush(t.Context()), syscall.ECONNRESET)
			require.NoError(t, c.Close())
		})
	})
}

func TestUnsentOnBothWaysThroughSend(t *testing.T) {
	t.Run("is exact for the one who writes, after messages of Writes", func(t *testing.T) { // P4
		before := len(testkit.Frame("written"))
		sendWays(t, func(t *testing.T, d tcpclient.Dialer) {
			for cut := range before + len(testkit.Frame("sent")) {
				c, _, w := testkit.ConnectHooked(t, d, nil)
				w.OnWrite = func(p []byte) (int, error) { return cut, syscall.ECONNRESET }
				require.NoError(t, c.Write(t.Context(), []byte("written")))
				err := c.Send(t.Context(), []byte("sent"))
				require.ErrorIs(t, err, syscall.ECONNRESET)
				require.Equal(t, cut <= before, testkit.OpError(t, err).Unsent, "cut at %d", cut)
				c.Close()
			}
		})
	})

	t.Run("is exact for each who follows", func(t *testing.T) { // P4
		msgs := []string{"one", "two", "three"}
		sendWays(t, func(t *testing.T, d tcpclient.Dialer) {
			for cut := range len(testkit.Frames(msgs...)) {
				c, _, w := testkit.ConnectHooked(t, d, nil)
				gate, calls := make(chan struct{}), 0
				w.OnWrite = func(p []byte) (int, error) {
					if calls++; calls > 1 {
						return cut, syscall.ECONNRESET
					}
					<-gate
					return len(p), nil
				}
				first := testkit.Start(t, func() error { return c.Send(t.Context(), []byte("first")) })
				synctest.Wait()
				var results []func() error
				for _, msg := range msgs {
					results = append(results, testkit.Start(t, func() error { return c.Send(t.Context(), []byte(msg)) }))
					synctest.Wait() // in this order
				}
				close(gate)
				require.NoError(t, first())
				at := 0
				for i, msg := range msgs {
					err := results[i]()
					require.ErrorIs(t, err, syscall.ECONNRESET, msg)
					require.Equal(t, cut <= at, testkit.OpError(t, err).Unsent, "%s at %d, cut at %d", msg, at, cut)
					at += len(testkit.Frame(msg))
				}
				c.Close()
			}
		})
	})
}

func TestWritingToADeadConnection(t *testing.T) {
	for name, call := range map[string]func(c *tcpclient.Client) error{
		"Send": func(c *tcpclient.Client) error { return c.Send(context.Background(), []byte("lost")) },
		"Call": func(c *tcpclient.Client) error {
			_, err := c.Call(context.Background(), []byte("lost"))
			return err
		},
		"Write and Flush": func(c *tcpclient.Client) error {
			if err := c.Write(context.Background(), []byte("lost")); err != nil {
				return err
			}
			return c.Flush(context.Background())
		},
		"Write and Close": func(c *tcpclient.Client) error {
			if err := c.Write(context.Background(), []byte("lost")); err != nil {
				return err
			}
			return c.Close()
		},
		"Write and Shutdown": func(c *tcpclient.Client) error {
			if err := c.Write(context.Background(), []byte("lost")); err != nil {
				return err
			}
			return c.Shutdown(context.Background())
		},
	} {
		t.Run("is no success when the end came during the call: "+name, testkit.InBubble(func(t *testing.T) { // P4
			n := tcpclienttest.NewNetwork()
			l := testkit.ListenNetwork(t, n)
			closed, first := make(chan struct{}), true
			var p *testkit.Peer
			d := tcpclient.Dialer{
				Framer: testkit.FuncFramer{Write: func(w *bufio.Writer, msg []byte) error {
					if first {
						first = false
						p.Close() // the peer's FIN comes in the middle of the call,
						<-closed  // and the reader has seen it
					}
					return tcpclient.LengthPrefix{}.WriteFrame(w, msg)
				}},
				DialContext: testkit.Wrapping(n.DialContext, func(conn net.Conn) net.Conn {
					return &testkit.HookedConn{Conn: conn, OnClose: sync.OnceFunc(func() { close(closed) })}
				}),
			}
			c := l.Dial(t, d)
			p = l.AcceptPeer(t)
			err := call(c)
			require.ErrorIs(t, err, tcpclient.ErrDisconnected)
			if name == "Send" || name == "Call" {
				require.True(t, testkit.OpError(t, err).Unsent)
			}
		}))
	}
}

func TestLossText(t *testing.T) {
	t.Run("says that messages which were written are lost, and why", testkit.InBubble(func(t *testing.T) { // P4, P9
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

// What a Send that has given up has left in the buffer is lost like what a Write has left there.
func TestLossOfWhatASendHasLeftIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // P4
		c, p := narrowly(t, tcpclient.Dialer{WriteTimeout: -1})
		require.ErrorIs(t, c.Send(testkit.Within(t, time.Second), testkit.Pattern(1000)), context.DeadlineExceeded)
		p.Reset()
		synctest.Wait()
		err := c.Send(t.Context(), []byte("x"))
		require.ErrorContains(t, err, "messages that were written are lost")
		require.True(t, testkit.OpError(t, err).Unsent)
		err = c.Send(t.Context(), []byte("x"))
		require.ErrorIs(t, err, tcpclient.ErrDisconnected)
		require.NotContains(t, err.Error(), "lost")
	})
}

// The loss belongs to the Flush from its start, also before it waits. TestLoss has the Flush that
// finds no writer.
func TestLossThatAFlushReportsIsNotToldAgain(t *testing.T) {
	for name, call := range transporttest.LossCalls {
		for when, waits := range map[string]bool{"waited": true, "did not wait yet": false} {
			t.Run("if it "+when+" for a writer that failed, by "+name, testkit.InBubble(func(t *testing.T) { // P4
				gate := make(chan struct{})
				c, _, _ := testkit.ConnectHooked(t, tcpclient.Dialer{}, func(w *testkit.HookedConn) {
					w.OnWrite = func([]byte) (int, error) { <-gate; return 0, syscall.ECONNRESET }
				})
				under := testkit.Start(t, func() error { return c.Send(t.Context(), []byte("under way")) })
				synctest.Wait()
				require.NoError(t, c.Write(t.Context(), []byte("lost")))
				flush := func() error { return c.Flush(t.Context()) }
				if waits {
					flush = testkit.Start(t, flush)
					synctest.Wait()
				}
				close(gate) // with one processor the writer runs when the Flush yields, before it waits
				err := flush()
				require.ErrorIs(t, err, syscall.ECONNRESET)
				require.ErrorContains(t, err, "messages that were written are lost")
				err = under()
				require.ErrorIs(t, err, syscall.ECONNRESET)
				require.NotContains(t, err.Error(), "are lost", "it has a message of its own")
				transporttest.RequireNotToldAgain(t, name, call(t.Context(), c))
				require.NoError(t, c.Close(), "the loss was told already")
			}))
		}
	}
}

func TestLossIsToldToOneOfManyWritesThatWaitForRoom(t *testing.T) { // P4
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
				if errors.As(err, new(*tcpclient.LossError)) {
					told++
				}
			}
		}
		require.GreaterOrEqual(t, refused, 4)
		require.LessOrEqual(t, told, 2) // of the flight, and of the frame of a Write that got room after it
		require.Positive(t, told)
	})
}

func TestLossError(t *testing.T) {
	lossIn := func(t *testing.T, err error) *tcpclient.LossError {
		t.Helper()
		var loss *tcpclient.LossError
		require.ErrorAs(t, err, &loss)
		return loss
	}

	t.Run("says how many messages are lost, and why, and Stats count them", testkit.InBubble(func(t *testing.T) { // P4
		c, p := testkit.ConnectMemory(t, tcpclient.Dialer{Reconnect: &tcpclient.Backoff{}})
		for range 3 {
			require.NoError(t, c.Write(t.Context(), []byte("lost")))
		}
		testkit.HangUp(p)
		synctest.Wait()
		loss := lossIn(t, c.Write(t.Context(), []byte("not taken")))
		require.Equal(t, 3, loss.Messages)
		require.ErrorIs(t, loss, io.EOF)
		require.ErrorIs(t, loss, tcpclient.ErrDisconnected)
		require.EqualValues(t, 3, c.Stats().MessagesLost)
	}))

	t.Run("counts what was being written and what waited after it, a Send that gave up included", testkit.InBubble(func(t *testing.T) { // P4
		c, p := testkit.ConnectNarrow(t, 10, tcpclient.Dialer{WriteTimeout: -1})
		require.ErrorIs(t, c.Send(testkit.Within(t, time.Second), testkit.Pattern(100)), context.DeadlineExceeded)
		for range 4 {
			require.NoError(t, c.Write(t.Context(), []byte("lost")))
		}
		testkit.HangUp(p)
		synctest.Wait()
		require.Equal(t, 5, lossIn(t, c.Flush(t.Context())).Messages)
		require.EqualValues(t, 5, c.Stats().MessagesLost)
	}))

	t.Run("of our own Close counts all that was not flushed", testkit.InBubble(func(t *testing.T) { // P4, P7
		c, _ := testkit.ConnectNarrow(t, 10, tcpclient.Dialer{})
		send := testkit.Start(t, func() error { return c.Send(context.Background(), testkit.Pattern(100)) })
		synctest.Wait()
		require.NoError(t, c.Write(t.Context(), []byte("lost")))
		loss := lossIn(t, c.Close())
		require.Equal(t, 2, loss.Messages)
		require.ErrorIs(t, loss, tcpclient.ErrClosed)
		require.ErrorIs(t, send(), tcpclient.ErrClosed)
	}))
}
