package tcpclient_test

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/seed-d0aa0aa7/tcpclient"
	"github.com/seed-d0aa0aa7/tcpclient/internal/testkit"
	"github.com/seed-d0aa0aa7/tcpclient/tcpclienttest"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// While Shutdown flushes to a slow peer pings go on, or it would be declared dead that takes
// bytes all the time. Flush is the control.
func TestShutdownFlushesToASlowPeer(t *testing.T) {
	for name, flush := range map[string]bool{"behind a Flush": true, "by itself": false} {
		t.Run(name, testkit.InBubble(func(t *testing.T) { // P5
			c, p := narrowly(t, tcpclient.Dialer{Heartbeat: tcpclient.Heartbeat{
				Interval: 5 * time.Second, Timeout: 10 * time.Second,
				Ping:   func() []byte { return []byte("ping") },
				IsPong: func(msg []byte) bool { return string(msg) == "pong" },
			}})
			require.NoError(t, c.Write(t.Context(), testkit.Pattern(2996)))
			slow := testkit.Start(t, func() bool { p.ReadSlowly(3000); return true })
			defer slow()
			if flush {
				require.NoError(t, c.Flush(t.Context()))
			}
			assert.NoError(t, c.Shutdown(testkit.Within(t, time.Hour)))
			testkit.HangUp(p.Conn)
		}))
	}
}

// A round over several addresses that our own Shutdown or Close has ended is no loss, also if one
// of the addresses was lost in its handshake: ErrClosed is final.
func TestClosedDuringARoundOverSeveralAddresses(t *testing.T) {
	for name, end := range map[string]func(*tcpclient.Client) error{
		"Shutdown": func(c *tcpclient.Client) error { return c.Shutdown(context.Background()) },
		"Close":    (*tcpclient.Client).Close,
	} {
		t.Run(name, testkit.InBubble(func(t *testing.T) { // P7, P9
			var n tcpclienttest.Network
			l, err := n.Listen("a:1")
			require.NoError(t, err)
			defer l.Close()
			welcome := make(chan bool, 2)
			welcome <- true
			welcome <- false
			go func() {
				for ok := range welcome {
					conn, err := l.Accept()
					if err != nil {
						return
					}
					if ok {
						conn.Write(testkit.Frame("welcome"))
						time.Sleep(time.Second)
					}
					conn.Close()
				}
			}()
			defer close(welcome)
			d := tcpclient.Dialer{
				Reconnect: &tcpclient.Backoff{Min: time.Millisecond, Max: time.Millisecond},
				DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
					if address == "b:1" {
						<-ctx.Done() // a host that does not answer
						return nil, ctx.Err()
					}
					return n.DialContext(ctx, network, address)
				},
				Handshake: func(ctx context.Context, conn *tcpclient.Conn) error {
					_, err := conn.Receive(ctx)
					return err
				},
			}
			c, err := d.Dial(t.Context(), "tcp", "a:1", "b:1")
			require.NoError(t, err)
			defer c.Close()
			time.Sleep(2 * time.Second) // now it is in the second round, at b:1
			assert.NoError(t, end(c))
			err = c.Send(t.Context(), []byte("x"))
			assert.ErrorIs(t, err, tcpclient.ErrClosed)
			assert.Equal(t, tcpclient.ClassPermanent, tcpclient.Classify(err), "%v", err)
			if name == "Shutdown" {
				_, err = c.Receive(t.Context())
				assert.ErrorIs(t, err, tcpclient.ErrDisconnected, "the loss")
			}
			_, err = c.Receive(t.Context())
			assert.ErrorIs(t, err, tcpclient.ErrClosed)
			assert.NotErrorIs(t, err, tcpclient.ErrDisconnected)
		}))
	}
}

// With Reconnect, a Goexit in a Framer or a hook of the reader ends the Client with an error that
// the loop of the package documentation gives up on.
func TestGoexitEndsTheDocumentedLoop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // P9
		c, p := testkit.ConnectMemory(t, tcpclient.Dialer{Framer: goexit, Reconnect: &tcpclient.Backoff{}})
		p.Send("x")
		for range 100 {
			_, err := c.Receive(testkit.Within(t, time.Minute))
			require.Error(t, err)
			if tcpclient.Classify(err) != tcpclient.ClassDisconnected {
				return
			}
		}
		require.Fail(t, "Receive returns the end of the connection for ever, and there will be no other")
	})
}

// That its context has ended does not keep Shutdown from telling of a loss.
func TestShutdownWhoseContextEndsTellsOfALoss(t *testing.T) {
	t.Run("that was there before", testkit.InBubble(func(t *testing.T) { // P4
		c, _, _ := testkit.ConnectHooked(t, tcpclient.Dialer{FlushDelay: time.Millisecond}, func(w *testkit.HookedConn) {
			w.OnWrite = func([]byte) (int, error) { return 0, syscall.ECONNRESET }
		})
		require.NoError(t, c.Write(t.Context(), []byte("lost")))
		time.Sleep(10 * time.Millisecond) // the write has failed; the reader waits for last words
		down := c.Shutdown(testkit.Within(t, 100*time.Millisecond))
		require.ErrorIs(t, down, context.DeadlineExceeded)
		closed := c.Close()
		assert.True(t, errors.Is(down, syscall.ECONNRESET) || errors.Is(closed, syscall.ECONNRESET),
			"the loss is told to nobody: Shutdown %v, Close %v", down, closed)
	}))

	t.Run("that it causes", testkit.InBubble(func(t *testing.T) { // P4
		c, _ := narrowly(t, tcpclient.Dialer{WriteTimeout: -1})
		require.NoError(t, c.Write(t.Context(), testkit.Pattern(1000)))
		down := c.Shutdown(testkit.Within(t, 100*time.Millisecond))
		require.ErrorIs(t, down, context.DeadlineExceeded)
		closed := c.Close()
		assert.Contains(t, down.Error()+errorText(closed), "messages that were written are lost")
	}))
}

func errorText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// A connection, a tunnel, may fail with an error that Is context.DeadlineExceeded. Close does not
// take it for a deadline of its own.
func TestCloseTellsOfALossThatIsADeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // P4, P7
		c, _, _ := testkit.ConnectHooked(t, tcpclient.Dialer{}, func(w *testkit.HookedConn) {
			w.OnWrite = func([]byte) (int, error) { return 0, context.DeadlineExceeded }
		})
		require.NoError(t, c.Write(t.Context(), []byte("lost")))
		require.Error(t, c.Close())
	})
}

// Shutdown's context bounds the wait for the Trace, too.
func TestShutdownWithATraceThatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // P2
		hanging := newHook(t)
		c, p := testkit.ConnectMemory(t, tcpclient.Dialer{Trace: &tcpclient.Trace{Disconnected: func(string, error) { hanging.hang() }}})
		p.HalfClose()
		began := time.Now()
		c.Shutdown(testkit.Within(t, 10*time.Millisecond))
		require.Less(t, time.Since(began), 200*time.Millisecond)
	})
}

// Shutdown's own goroutine may be the one that writes to a connection whose deadlines do nothing.
func TestShutdownWithDeadlinesThatDoNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // P2
		c, _, _ := testkit.ConnectHooked(t, tcpclient.Dialer{}, func(w *testkit.HookedConn) {
			w.OnDeadline = func() error { return nil }
		})
		require.NoError(t, c.Write(t.Context(), testkit.Pattern(60<<10)))
		require.NoError(t, c.Flush(t.Context()))
		require.NoError(t, c.Write(t.Context(), testkit.Pattern(60<<10)))
		down := make(chan error, 1)
		go func() { down <- c.Shutdown(testkit.Within(t, time.Second)) }()
		select {
		case err := <-down:
			require.ErrorIs(t, err, context.DeadlineExceeded)
		case <-time.After(10 * time.Second):
			c.Close()
			require.Fail(t, "Shutdown does not return with its context", "%v", <-down)
		}
	})
}

// A ping that was never handed over does not count as sent.
func TestStatsOfAPingThatWasNotSent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, p := narrowly(t, tcpclient.Dialer{WriteTimeout: -1, Heartbeat: tcpclient.Heartbeat{
			Interval: time.Second, Timeout: time.Hour, Ping: func() []byte { return testkit.Pattern(1000) },
		}})
		time.Sleep(1500 * time.Millisecond) // a tenth of it has left
		p.Reset()
		_, err := c.Receive(t.Context())
		require.Error(t, err)
		require.Zero(t, c.Stats().MessagesSent)
		require.Zero(t, c.Stats().BytesSent)
	})
}

// While Close waits for a connection that was dying already, what calls say does not change.
func TestTheFirstErrorStaysDuringClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // P9
		hanging := newHook(t)
		c, p := testkit.ConnectMemory(t, tcpclient.Dialer{Framer: hanging.reading()})
		p.Send("x")
		<-hanging.inside
		p.Reset()
		require.ErrorIs(t, c.Send(t.Context(), []byte("x")), tcpclient.ErrDisconnected)
		require.ErrorIs(t, c.Send(t.Context(), []byte("x")), tcpclient.ErrDisconnected)
		closed := testkit.Start(t, c.Close)
		synctest.Wait()
		assert.ErrorIs(t, c.Send(t.Context(), []byte("x")), tcpclient.ErrDisconnected)
		_, err := c.Receive(t.Context())
		assert.ErrorIs(t, err, tcpclient.ErrDisconnected)
		closed()
	})
}

// An unwilling connection says that it has no half to close in words of its own.
type unwilling struct{ net.Conn }

func (unwilling) CloseWrite() error { return errors.New("half-close: not here") }

// A connection whose CloseWrite fails, in whatever words, cannot be half-closed: Shutdown does
// not wait for the answer to a FIN that was not sent.
func TestShutdownWhoseFINFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := tcpclienttest.NewNetwork()
		c, _ := testkit.ListenNetwork(t, n).Connect(t, tcpclient.Dialer{
			DialContext: testkit.Wrapping(n.DialContext, func(conn net.Conn) net.Conn { return unwilling{conn} }),
		})
		require.NoError(t, c.Shutdown(testkit.Within(t, time.Hour)))
	})
}

// The peer's own pings are answered, too, while Shutdown flushes.
func TestShutdownAnswersWhileItFlushes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // P5
		c, p := narrowly(t, tcpclient.Dialer{WriteTimeout: -1, Heartbeat: tcpclient.Heartbeat{
			Answer: func(msg []byte) ([]byte, bool) { return []byte("pong"), string(msg) == "ping" },
		}})
		require.NoError(t, c.Write(t.Context(), testkit.Pattern(1000)))
		down := testkit.Start(t, func() error { return c.Shutdown(context.Background()) })
		synctest.Wait()
		p.Send("ping")
		synctest.Wait()
		msgs, _ := p.All()
		p.HalfClose()
		require.NoError(t, down())
		require.Equal(t, []string{string(testkit.Pattern(1000)), "pong"}, msgs)
	})
}

// Close tells of all that it has not flushed, whoever was told of it, too.
func TestCloseTellsOfWhatItHasNotFlushed(t *testing.T) {
	for name, leave := range map[string]func(t *testing.T, c *tcpclient.Client){
		"a Write": func(t *testing.T, c *tcpclient.Client) {
			require.NoError(t, c.Write(t.Context(), testkit.Pattern(2000)))
		},
		"a Send that has given up": func(t *testing.T, c *tcpclient.Client) {
			require.ErrorIs(t, c.Send(testkit.Within(t, time.Second), testkit.Pattern(2000)), context.DeadlineExceeded)
		},
		"a Call that has given up": func(t *testing.T, c *tcpclient.Client) {
			_, err := c.Call(testkit.Within(t, time.Second), testkit.Pattern(2000))
			require.ErrorIs(t, err, context.DeadlineExceeded)
		},
		"a Write, and a Write that waits behind it": func(t *testing.T, c *tcpclient.Client) {
			require.NoError(t, c.Write(t.Context(), testkit.Pattern(2000)))
			testkit.Start(t, func() error { return c.Write(context.Background(), testkit.Pattern(2000)) })
		},
		"a Send that waits": func(t *testing.T, c *tcpclient.Client) {
			testkit.Start(t, func() error { return c.Send(context.Background(), testkit.Pattern(2000)) })
		},
		"a Flush that waits": func(t *testing.T, c *tcpclient.Client) {
			require.NoError(t, c.Write(t.Context(), testkit.Pattern(2000)))
			testkit.Start(t, func() error { return c.Flush(context.Background()) })
		},
	} {
		t.Run(name, testkit.InBubble(func(t *testing.T) { // P4, P7
			c, _ := narrowly(t, tcpclient.Dialer{WriteTimeout: -1, WriteBuffer: 1000})
			leave(t, c)
			synctest.Wait()
			err := c.Close()
			require.ErrorContains(t, err, "messages that were written are lost")
			require.ErrorIs(t, err, tcpclient.ErrClosed)
		}))
	}
}

// What a Send that has given up has left in the buffer is lost like what a Write has left there.
func TestTheLossOfWhatASendHasLeftIsTold(t *testing.T) {
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

// The peer's FIN is what Shutdown waits for, and may have come before.
func TestShutdownBehindThePeersFIN(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, wait := range []bool{false, true} {
			c, p := testkit.ConnectMemory(t, tcpclient.Dialer{})
			bye := testkit.Start(t, func() error { _, err := c.Call(t.Context(), []byte("quit")); return err })
			require.Equal(t, "quit", p.Receive())
			p.Finish("bye")
			require.NoError(t, bye())
			if wait {
				synctest.Wait()
			}
			require.NoError(t, c.Shutdown(t.Context()))
		}
	})
}

// What Shutdown says of one loss it says once.
func TestShutdownSaysALossOnce(t *testing.T) {
	for i := range 60 {
		synctest.Test(t, func(t *testing.T) { // P9
			c, _ := narrowly(t, tcpclient.Dialer{WriteTimeout: -1})
			require.NoError(t, c.Write(t.Context(), testkit.Pattern(1000)))
			down := c.Shutdown(testkit.Within(t, 100*time.Millisecond))
			require.ErrorIs(t, down, context.DeadlineExceeded)
			require.Equal(t, 1, strings.Count(down.Error(), "are lost"), "%d: %v", i, down)
		})
	}
}

// Where a Call fails because the peer hangs up, Shutdown is not fine.
func TestShutdownWhoseCallIsNotAnswered(t *testing.T) {
	for i := range 60 {
		synctest.Test(t, func(t *testing.T) { // P4
			c, p := narrowly(t, tcpclient.Dialer{WriteTimeout: -1})
			call := testkit.Start(t, func() error {
				_, err := c.Call(t.Context(), testkit.Pattern(1000)) // of which a tenth is sent
				return err
			})
			synctest.Wait()
			down := testkit.Start(t, func() error { return c.Shutdown(t.Context()) })
			synctest.Wait()
			p.HalfClose()
			require.Error(t, call())
			require.Error(t, down(), "%d", i)
		})
	}
}

// What Close has told of, later calls do not tell again.
func TestLossThatCloseHasToldIsToldOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // P4, P7
		hanging := make(chan struct{})
		c, _, _ := testkit.ConnectHooked(t, tcpclient.Dialer{}, func(w *testkit.HookedConn) {
			w.OnDeadline = func() error { return nil }
			w.OnWrite = func([]byte) (int, error) { <-hanging; return 0, io.ErrClosedPipe }
		})
		require.NoError(t, c.Write(t.Context(), []byte("lost")))
		flush := testkit.Start(t, func() error { return c.Flush(context.Background()) })
		synctest.Wait()
		require.ErrorContains(t, c.Close(), "are lost")
		close(hanging)
		require.Error(t, flush())
		synctest.Wait()
		err := c.Send(t.Context(), []byte("x"))
		require.ErrorIs(t, err, tcpclient.ErrClosed)
		require.NotContains(t, err.Error(), "are lost")
	})
}

// That the loss Is the end of Shutdown's context, too, does not hide it.
func TestShutdownTellsOfALossThatIsADeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // P4
		c, _, _ := testkit.ConnectHooked(t, tcpclient.Dialer{}, func(w *testkit.HookedConn) {
			w.OnWrite = func([]byte) (int, error) { return 0, context.DeadlineExceeded }
		})
		require.NoError(t, c.Write(t.Context(), []byte("lost")))
		down := c.Shutdown(testkit.Within(t, 100*time.Millisecond)) // the reader waits for last words
		require.ErrorIs(t, down, context.DeadlineExceeded)
		require.Contains(t, down.Error()+errorText(c.Close()), "are lost")
	})
}
