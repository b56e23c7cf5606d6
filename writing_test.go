package tcpclient_test

import (
	"bytes"
	"context"
	"io"
	"net"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/seed-d0aa0aa7/tcpclient"
	"github.com/seed-d0aa0aa7/tcpclient/internal/testkit"
	"github.com/seed-d0aa0aa7/tcpclient/internal/transporttest"
	"github.com/seed-d0aa0aa7/tcpclient/tcpclienttest"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestControlFrames(t *testing.T) {
	t.Run("a ping takes its place after what was written before it", func(t *testing.T) { // P3, FIELD A4
		testkit.EachTransport(t, transporttest.PingsKeepTheirPlace)
	})

	t.Run("an answer takes its place after what was written before it", func(t *testing.T) { // P3, FIELD A4
		testkit.EachTransport(t, transporttest.AnswersKeepTheirPlace)
	})

	for name, framer := range waysToSend {
		t.Run("go into a full WriteBuffer, and no message overtakes them: "+name, testkit.InBubble(func(t *testing.T) { // P3, P6
			c, p := testkit.ConnectNarrow(t, 10, tcpclient.Dialer{
				Framer: framer, WriteBuffer: 100, WriteTimeout: -1, Heartbeat: testkit.AnsweringPings([]byte("answer")),
			})
			flight, full := testkit.PatternText(90), testkit.PatternText(96)
			require.NoError(t, c.Write(t.Context(), []byte(flight)))
			flush := testkit.Start(t, func() error { return c.Flush(t.Context()) })
			synctest.Wait()
			require.NoError(t, c.Write(t.Context(), []byte(full)))
			waiting := testkit.Start(t, func() error { return c.Write(t.Context(), []byte("waiting")) })
			synctest.Wait()
			p.Send("ping?")
			synctest.Wait()
			for _, want := range []string{flight, full, "answer"} {
				require.Equal(t, want, p.Receive())
			}
			require.NoError(t, flush())
			require.NoError(t, waiting())
			flush = testkit.Start(t, func() error { return c.Flush(t.Context()) })
			require.Equal(t, "waiting", p.Receive())
			require.NoError(t, flush())
		}))
	}

	t.Run("are dropped beyond 16 KiB that the peer does not read, and the connection goes on", func(t *testing.T) { // P3, P5, P6
		const size = 1000
		synctest.Test(t, func(t *testing.T) {
			var answers byte
			hooks := tcpclient.Heartbeat{Answer: func(msg []byte) ([]byte, bool) {
				if string(msg) != "ping?" {
					return nil, false
				}
				answers++
				return bytes.Repeat([]byte{answers}, size), true
			}}
			c, p := testkit.ConnectNarrow(t, 100, tcpclient.Dialer{Heartbeat: hooks, WriteTimeout: -1})
			for range 2 { // it is as good as new afterwards
				answers = 0
				ping := func() {
					p.Send("ping?")
					synctest.Wait()
				}
				ping() // its answer is the flight
				ping()
				require.NoError(t, c.Write(t.Context(), []byte("a message is not dropped")))
				for range 100 {
					ping()
				}
				sent := testkit.Start(t, func() error { return c.Send(t.Context(), []byte("nor this one")) })
				synctest.Wait()
				ping()

				want := []byte{1, 2, 'a'}
				for i := range 16 { // all that begin within 16 KiB
					want = append(want, byte(3+i))
				}
				want = append(want, 'n')
				var got []byte
				for range want {
					got = append(got, p.Receive()[0])
				}
				require.Equal(t, want, got)
				require.NoError(t, sent())
				require.EqualValues(t, 103, answers, "each was asked for")
			}
			testkit.RequireAlive(t, c, p)
		})
	})

	t.Run("come after a Send that is stuck, and before one that comes later", func(t *testing.T) { // P3
		synctest.Test(t, func(t *testing.T) {
			c, p := testkit.ConnectNarrow(t, 10, tcpclient.Dialer{WriteTimeout: -1, Heartbeat: testkit.AnsweringPings([]byte("answer"))})
			stuck := testkit.Start(t, func() error { return c.Send(t.Context(), testkit.Pattern(100)) })
			synctest.Wait()
			p.Send("ping?")
			synctest.Wait()
			late := testkit.Start(t, func() error { return c.Send(t.Context(), []byte("late")) })
			synctest.Wait()
			for _, want := range []string{testkit.PatternText(100), "answer", "late"} {
				require.Equal(t, want, p.Receive())
			}
			require.NoError(t, stuck())
			require.NoError(t, late())
		})
	})
}

func TestHelper(t *testing.T) {
	t.Run("writes what the socket does not take at once, and ends", func(t *testing.T) { // P2, P6
		testkit.EachTransport(t, transporttest.Helper)
	})

	for name, write := range map[string]func(t *testing.T, c *tcpclient.Client, p *testkit.Peer){
		"a Send": func(t *testing.T, c *tcpclient.Client, _ *testkit.Peer) {
			require.NoError(t, c.Send(t.Context(), []byte("x")))
		},
		"a Write, for FlushDelay": func(t *testing.T, c *tcpclient.Client, _ *testkit.Peer) {
			require.NoError(t, c.Write(t.Context(), []byte("x")))
		},
		"a Call": func(t *testing.T, c *tcpclient.Client, p *testkit.Peer) {
			go func() {
				p.Receive()
				p.Send("reply")
			}()
			_, err := c.Call(t.Context(), []byte("x"))
			require.NoError(t, err)
		},
		"an answer": func(t *testing.T, _ *tcpclient.Client, p *testkit.Peer) { p.Send("ping?") },
	} {
		t.Run("ends when it has written "+name, func(t *testing.T) { // P6
			testkit.Eventually(t, "the helpers of other tests have ended", func() bool { return testkit.Helpers() == 0 })
			synctest.Test(t, func(t *testing.T) {
				c, p, w := testkit.ConnectHooked(t, tcpclient.Dialer{FlushDelay: time.Second, Heartbeat: testkit.AnsweringPings([]byte("answer"))}, nil)
				for range 3 {
					before := w.Writes()
					write(t, c, p)
					time.Sleep(time.Minute)
					synctest.Wait()
					require.Equal(t, before+1, w.Writes())
					require.Zero(t, testkit.Helpers())
				}
				require.NoError(t, c.Close())
				testkit.RequireNoGoroutines(t)
			})
		})
	}

	for name, end := range map[string]func(c *tcpclient.Client) error{
		"Close":    (*tcpclient.Client).Close,
		"Shutdown": func(c *tcpclient.Client) error { return c.Shutdown(context.Background()) },
	} {
		t.Run("flushes and sends FIN for "+name+", and ends", testkit.InBubble(func(t *testing.T) { // P7
			c, p := testkit.ConnectNarrow(t, 10, tcpclient.Dialer{})
			require.NoError(t, c.Write(t.Context(), testkit.Pattern(100)))
			ended := testkit.Start(t, func() error { return end(c) })
			msgs, fin := p.All()
			require.Equal(t, []string{testkit.PatternText(100)}, msgs)
			require.Equal(t, io.EOF, fin)
			p.HalfClose()
			require.NoError(t, ended())
			testkit.RequireNoGoroutines(t)
		}))
	}

	t.Run("is the only one that writes, whoever wants something written", func(t *testing.T) { // P1, P3
		for name, secured := range map[string]bool{"plain": false, "TLS": true} {
			t.Run(name, func(t *testing.T) {
				n := tcpclienttest.NewNetwork()
				l := testkit.ListenNetwork(t, n)
				if secured {
					testkit.Secure(l)
				}
				var inside atomic.Int32
				d := tcpclient.Dialer{
					WriteBuffer: 100, FlushDelay: time.Microsecond, Heartbeat: testkit.AnsweringPings([]byte("answer")),
					Correlator: tcpclient.IDPrefix{},
				}
				d.DialContext = testkit.Wrapping(n.DialContext, func(conn net.Conn) net.Conn {
					w := &testkit.HookedConn{Conn: conn}
					w.OnWrite = func(b []byte) (int, error) {
						defer inside.Add(-1)
						assert.EqualValues(t, 1, inside.Add(1), "two write at once")
						half, err := conn.Write(b[:len(b)/2]) // and the other is between
						if err != nil {
							return half, err
						}
						rest, err := conn.Write(b[len(b)/2:])
						return half + rest, err
					}
					return w
				})
				c, p := l.Connect(t, d)
				served := testkit.Start(t, func() error {
					for {
						msg, err := p.Next()
						if err != nil {
							return err
						}
						if strings.HasSuffix(msg, "call") {
							p.Write(testkit.Frames(msg, "ping?"))
						}
					}
				})
				var users []func() error
				for _, use := range []func() error{
					func() error { return c.Send(context.Background(), []byte("send")) },
					func() error { return c.Write(context.Background(), []byte("write")) },
					func() error { return c.Flush(context.Background()) },
					func() error { _, err := c.Call(context.Background(), []byte("call")); return err },
				} {
					for range 2 {
						users = append(users, testkit.Start(t, func() error {
							for range 100 {
								if err := use(); err != nil {
									return err
								}
							}
							return nil
						}))
					}
				}
				for _, user := range users {
					require.NoError(t, user())
				}
				require.NoError(t, c.Close())
				require.Equal(t, io.EOF, served())
			})
		}
	})
}

func TestWriteThatFailsWithAllBytesTaken(t *testing.T) {
	t.Run("is no success, and the peer may have seen the message", testkit.InBubble(func(t *testing.T) { // P4
		c, _, _ := testkit.ConnectHooked(t, tcpclient.Dialer{}, func(w *testkit.HookedConn) {
			w.OnWrite = func(p []byte) (int, error) { return len(p), io.ErrClosedPipe }
		})
		err := c.Send(t.Context(), []byte("taken?"))
		require.ErrorIs(t, err, io.ErrClosedPipe)
		require.False(t, testkit.OpError(t, err).Unsent)
	}))
}

func TestFateOfTwoBatches(t *testing.T) {
	const lost = "messages that were written are lost"

	// inFlight makes a client whose Write, and maybe a Flush that has given up, has a frame in the
	// flight, of which the peer takes ten bytes.
	inFlight := func(t *testing.T) (*tcpclient.Client, *testkit.Peer) {
		c, p := testkit.ConnectNarrow(t, 10, tcpclient.Dialer{WriteTimeout: -1})
		require.NoError(t, c.Write(t.Context(), testkit.Pattern(100)))
		require.ErrorIs(t, c.Flush(testkit.Within(t, time.Second)), context.DeadlineExceeded)
		return c, p
	}
	begin := func(t *testing.T, f func() error) (wait func() error) {
		wait = testkit.Start(t, f)
		synctest.Wait()
		return wait
	}

	sendWays(t, func(t *testing.T, d tcpclient.Dialer) { // P4
		d.WriteTimeout = -1
		c, p := testkit.ConnectNarrow(t, 10, d)
		flight := begin(t, func() error { return c.Send(t.Context(), testkit.Pattern(100)) })
		open := begin(t, func() error { return c.Send(t.Context(), []byte("open")) })
		call := begin(t, func() error { _, err := c.Call(t.Context(), []byte("call")); return err })
		p.Reset()
		for name, fate := range map[string]struct {
			wait   func() error
			unsent bool
		}{"in the flight": {flight, false}, "in the open batch": {open, true}, "of a Call": {call, true}} {
			err := fate.wait()
			require.ErrorIs(t, err, syscall.ECONNRESET, name)
			require.Equal(t, fate.unsent, testkit.OpError(t, err).Unsent, name)
			require.NotContains(t, err.Error(), lost, "%s: each says this of its own", name)
		}
		require.NoError(t, c.Close())
	})

	t.Run("a Flush that waits for the open batch reports the loss of the flight, too, and no other does", testkit.InBubble(func(t *testing.T) { // P4
		c, p := inFlight(t)
		require.NoError(t, c.Write(t.Context(), []byte("open")))
		flush := begin(t, func() error { return c.Flush(t.Context()) })
		send := begin(t, func() error { return c.Send(t.Context(), []byte("send")) })
		p.Reset()
		require.ErrorContains(t, flush(), lost)
		for name, err := range map[string]error{"a Send that waited": send(), "the next": c.Send(t.Context(), nil)} {
			require.ErrorIs(t, err, tcpclient.ErrDisconnected, name)
			require.NotContains(t, err.Error(), lost, name)
		}
		require.NoError(t, c.Close())
	}))

	t.Run("a Flush reports the loss of the flight also if the open batch has nothing to lose", testkit.InBubble(func(t *testing.T) { // P4
		c, p := inFlight(t)
		send := begin(t, func() error { return c.Send(t.Context(), []byte("send")) })
		flush := begin(t, func() error { return c.Flush(t.Context()) })
		p.Reset()
		require.ErrorContains(t, flush(), lost)
		require.NotContains(t, send().Error(), lost)
		require.NoError(t, c.Close())
	}))

	t.Run("of two Flushes that wait one reports the loss", testkit.InBubble(func(t *testing.T) { // P4
		for _, second := range []string{"", "in the open batch"} {
			c, p := inFlight(t)
			flushes := []func() error{begin(t, func() error { return c.Flush(t.Context()) })}
			if second != "" {
				require.NoError(t, c.Write(t.Context(), []byte(second)))
			}
			flushes = append(flushes, begin(t, func() error { return c.Flush(t.Context()) }))
			p.Reset()
			reports := 0
			for _, flush := range flushes {
				err := flush()
				require.ErrorIs(t, err, tcpclient.ErrDisconnected)
				reports += strings.Count(err.Error(), lost)
			}
			if second == "" {
				require.Equal(t, 1, reports)
			} else {
				require.Equal(t, 2, reports, "there are two losses, one for each")
			}
			require.NoError(t, c.Close())
		}
	}))

	t.Run("a Flush whose context ends leaves the loss to the next call", testkit.InBubble(func(t *testing.T) { // P2, P4
		for name, next := range map[string]func(c *tcpclient.Client) error{
			"Write": func(c *tcpclient.Client) error { return c.Write(context.Background(), []byte("x")) },
			"Send":  func(c *tcpclient.Client) error { return c.Send(context.Background(), []byte("x")) },
			"Flush": func(c *tcpclient.Client) error { return c.Flush(context.Background()) },
			"Call":  func(c *tcpclient.Client) error { _, err := c.Call(context.Background(), nil); return err },
			"Close": (*tcpclient.Client).Close,
		} {
			c, p := inFlight(t)
			require.NoError(t, c.Write(t.Context(), []byte("open")))
			require.ErrorIs(t, c.Flush(testkit.Within(t, time.Second)), context.DeadlineExceeded)
			p.Reset()
			synctest.Wait()
			require.ErrorContains(t, next(c), lost, name)
			require.NotContains(t, c.Send(t.Context(), nil).Error(), lost, name)
			require.NoError(t, c.Close())
		}
	}))

	t.Run("Close after a Shutdown whose context has ended reports nothing twice", testkit.InBubble(func(t *testing.T) { // P4, P7
		for _, open := range []bool{false, true} {
			c, _ := inFlight(t)
			if open {
				require.NoError(t, c.Write(t.Context(), []byte("open")))
			}
			down := c.Shutdown(testkit.Within(t, time.Second))
			require.ErrorIs(t, down, context.DeadlineExceeded)
			require.Equal(t, 1, strings.Count(down.Error(), lost), down.Error())
			require.NoError(t, c.Close())
			require.NotContains(t, c.Send(t.Context(), nil).Error(), lost)
		}
	}))
}

func TestCallAmongWriters(t *testing.T) {
	t.Run("returns with its reply though the write that carried it has not returned", testkit.InBubble(func(t *testing.T) { // P5
		c, p, w := testkit.ConnectHooked(t, tcpclient.Dialer{}, nil)
		handedOver, letGo := make(chan struct{}, 10), make(chan struct{})
		w.OnWrite = func(b []byte) (int, error) {
			n, err := w.Conn.Write(b)
			handedOver <- struct{}{}
			<-letGo
			return n, err
		}
		begin := func(f func() error) func() error {
			wait := testkit.Start(t, f)
			synctest.Wait()
			return wait
		}
		first := begin(func() error { return c.Send(t.Context(), []byte("first")) })
		<-handedOver
		send := begin(func() error { return c.Send(t.Context(), []byte("send")) })
		call := begin(func() error { _, err := c.Call(t.Context(), []byte("call")); return err })
		letGo <- struct{}{}
		require.NoError(t, first())
		<-handedOver
		for _, want := range []string{"first", "send", "call"} {
			require.Equal(t, want, p.Receive())
		}
		p.Send("reply")
		require.NoError(t, call(), "the write that carried it is still under way")
		require.Zero(t, len(letGo))
		close(letGo)
		require.NoError(t, send())
		require.NoError(t, c.Close())
	}))
}

func TestCallThatOutlivesTheHandshake(t *testing.T) {
	for name, call := range map[string]func(ctx context.Context, conn *tcpclient.Conn) error{
		"Receive": func(ctx context.Context, conn *tcpclient.Conn) error { _, err := conn.Receive(ctx); return err },
		"Send":    func(ctx context.Context, conn *tcpclient.Conn) error { return conn.Send(ctx, testkit.Pattern(100)) },
	} {
		t.Run("makes the attempt fail, and says so: "+name, testkit.InBubble(func(t *testing.T) { // P8, P9
			l := testkit.ListenNetwork(t, &tcpclienttest.Network{Buffer: 10})
			outlived := make(chan error, 1)
			_, err := l.TryDial(t.Context(), tcpclient.Dialer{Handshake: func(_ context.Context, conn *tcpclient.Conn) error {
				go func() { outlived <- call(context.Background(), conn) }()
				synctest.Wait() // it is under way
				return nil
			}})
			require.ErrorContains(t, err, "a call on the Conn has outlived the Handshake")
			require.Equal(t, "handshake", testkit.OpError(t, err).Op)
			require.Error(t, <-outlived, "the connection has ended")
			_, end := l.AcceptPeer(t).Next()
			require.Error(t, end)
		}))
	}

	t.Run("is tried again with Reconnect, as any failure of a Handshake", testkit.InBubble(func(t *testing.T) { // P8
		l := testkit.ListenMemory(t)
		attempts := 0
		c := l.Dial(t, tcpclient.Dialer{
			Reconnect: &tcpclient.Backoff{FirstDial: true, Min: time.Second, Max: time.Second},
			Handshake: func(_ context.Context, conn *tcpclient.Conn) error {
				if attempts++; attempts == 1 {
					go conn.Receive(context.Background())
					synctest.Wait()
				}
				return nil
			},
		})
		require.Equal(t, 2, attempts)
		l.AcceptPeer(t)
		testkit.RequireAlive(t, c, l.AcceptPeer(t))
		require.NoError(t, c.Close())
	}))
}
