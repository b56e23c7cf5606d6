package tcpclient_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"

	"github.com/seed-d0aa0aa7/tcpclient"
	"github.com/seed-d0aa0aa7/tcpclient/internal/testkit"
	"github.com/seed-d0aa0aa7/tcpclient/tcpclienttest"
	"github.com/stretchr/testify/require"
)

// What becomes of a Call whose request is not written yet.

// gateWrites makes each write of w wait for a token, and hands it to write then.
func gateWrites(w *testkit.HookedConn, write func(n int, b []byte) (int, error)) (tokens chan struct{}) {
	tokens = make(chan struct{}, 100)
	n := 0
	w.OnWrite = func(b []byte) (int, error) {
		<-tokens
		n++
		return write(n, b)
	}
	return tokens
}

// passing lets a write through as it is.
func passing(w *testkit.HookedConn) func(int, []byte) (int, error) {
	return func(_ int, b []byte) (int, error) { return w.Conn.Write(b) }
}

// startCall starts a Call in a bubble and returns when it waits.
func startCall(t *testing.T, ctx context.Context, c *tcpclient.Client, request string) (wait func() (string, error)) {
	var reply []byte
	ended := testkit.Start(t, func() (err error) {
		reply, err = c.Call(ctx, []byte(request))
		return err
	})
	synctest.Wait()
	return func() (string, error) { err := ended(); return string(reply), err }
}

// holding is IDPrefix that is held up by "hold", on the reading goroutine.
type holding struct {
	tcpclient.IDPrefix
	release chan struct{}
}

func (h holding) SplitReply(msg []byte) (uint64, []byte, bool) {
	if string(msg) == "hold" {
		<-h.release
	}
	return h.IDPrefix.SplitReply(msg)
}

func TestCallWhoseRequestIsLost(t *testing.T) {
	t.Run("ends also while the reader is held up, and no other does", testkit.InBubble(func(t *testing.T) { // P4, P5
		hold := holding{release: make(chan struct{})}
		c, p, w := testkit.ConnectHooked(t, tcpclient.Dialer{Correlator: hold}, nil)
		tokens := gateWrites(w, func(n int, b []byte) (int, error) {
			if n == 1 {
				return w.Conn.Write(b)
			}
			return 0, syscall.ECONNRESET
		})
		tokens <- struct{}{}
		asked := startCall(t, t.Context(), c, "asked")
		request := p.Receive()
		p.Send("hold", request) // the reply is here, behind what holds the reader up
		synctest.Wait()

		flight := startCall(t, t.Context(), c, "flight")
		first := startCall(t, t.Context(), c, "first of the next batch")
		second := startCall(t, t.Context(), c, "second of the next batch")
		tokens <- struct{}{}
		for _, lost := range []func() (string, error){flight, first, second} {
			_, err := lost()
			require.ErrorIs(t, err, syscall.ECONNRESET)
			require.ErrorIs(t, err, tcpclient.ErrDisconnected)
			require.True(t, testkit.OpError(t, err).Unsent)
		}
		close(hold.release)
		reply, err := asked()
		require.NoError(t, err)
		require.Equal(t, "asked", reply)
		require.NoError(t, c.Close(), "each was told")
	}))

	t.Run("is told exactly what was sent of it", func(t *testing.T) { // P4
		requests := testkit.Numbered(5, 20)
		for cut := 0; cut < 5*24; cut += 6 {
			for _, more := range []bool{false, true} {
				synctest.Test(t, func(t *testing.T) {
					batch := ""
					c, _, w := testkit.ConnectHooked(t, tcpclient.Dialer{}, nil)
					tokens := gateWrites(w, func(n int, b []byte) (int, error) {
						if n == 1 {
							return w.Conn.Write(b)
						}
						batch = string(b)
						k, _ := w.Conn.Write(b[:cut])
						return k, syscall.ECONNRESET
					})
					first := testkit.Start(t, func() error { return c.Send(t.Context(), []byte("first")) })
					synctest.Wait()
					var calls []func() (string, error)
					for _, request := range requests {
						calls = append(calls, startCall(t, t.Context(), c, request))
					}
					tokens <- struct{}{}
					require.NoError(t, first())
					synctest.Wait() // they are on their way
					if more {
						requests := []string{"behind", "them"}
						for _, request := range requests {
							wait := startCall(t, t.Context(), c, request)
							defer func() {
								_, err := wait()
								require.True(t, testkit.OpError(t, err).Unsent)
							}()
						}
					}
					tokens <- struct{}{}
					for i, wait := range calls {
						_, err := wait()
						require.ErrorIs(t, err, syscall.ECONNRESET)
						at := strings.Index(batch, requests[i]) - 4
						require.Equal(t, at >= cut, testkit.OpError(t, err).Unsent, "request at %d, cut at %d", at, cut)
					}
				})
			}
		}
	})
}

func TestCallThatGivesUp(t *testing.T) {
	t.Run("leaves its request, and those behind it, to somebody", func(t *testing.T) { // P2, P4
		for _, others := range []string{"nobody", "a Send", "a Call", "a Write"} {
			t.Run(others, testkit.InBubble(func(t *testing.T) {
				c, p, w := testkit.ConnectHooked(t, tcpclient.Dialer{}, nil)
				tokens := gateWrites(w, passing(w))
				first := testkit.Start(t, func() error { return c.Send(t.Context(), []byte("first")) })
				synctest.Wait()
				ctx, cancel := context.WithCancel(t.Context())
				impatient := startCall(t, ctx, c, "impatient")
				other := func() error { return nil }
				switch others {
				case "a Send":
					other = testkit.Start(t, func() error { return c.Send(t.Context(), []byte("other")) })
				case "a Call":
					other = testkit.Start(t, func() error { _, err := c.Call(t.Context(), []byte("other")); return err })
				case "a Write":
					require.NoError(t, c.Write(t.Context(), []byte("other")))
				}
				synctest.Wait()
				cancel()
				_, err := impatient()
				require.ErrorIs(t, err, context.Canceled)
				require.False(t, testkit.OpError(t, err).Unsent)
				again := startCall(t, t.Context(), c, "again") // what was recycled is in use again
				close(tokens)
				require.NoError(t, first())
				require.Equal(t, "first", p.Receive())
				require.Equal(t, "impatient", p.Receive())
				p.Send("late")
				if others != "nobody" {
					require.Equal(t, "other", p.Receive())
				}
				if others == "a Call" {
					p.Send("reply")
				}
				require.NoError(t, other())
				require.Equal(t, "again", p.Receive())
				p.Send("reply to again")
				reply, err := again()
				require.NoError(t, err)
				require.Equal(t, "reply to again", reply)
			}))
		}
	})

	t.Run("has its request's loss told to the next", func(t *testing.T) { // P4, P7
		for _, where := range []string{"on its way", "in the open batch", "behind others in the open batch"} {
			t.Run(where, testkit.InBubble(func(t *testing.T) {
				n := &tcpclienttest.Network{Buffer: 100}
				c, p := testkit.ListenNetwork(t, n).Connect(t, tcpclient.Dialer{DialContext: n.DialContext, WriteTimeout: -1})
				ctx, cancel := context.WithCancel(t.Context())
				var told []func() (string, error)
				if where != "on its way" {
					told = append(told, startCall(t, t.Context(), c, strings.Repeat("!", 200)))
				}
				if where == "behind others in the open batch" {
					told = append(told, startCall(t, t.Context(), c, "before"))
				}
				impatient := startCall(t, ctx, c, strings.Repeat("?", 200))
				cancel()
				_, err := impatient()
				require.ErrorIs(t, err, context.Canceled)
				require.False(t, testkit.OpError(t, err).Unsent)
				p.Reset()
				for i, wait := range told {
					_, err := wait()
					require.ErrorIs(t, err, tcpclient.ErrDisconnected)
					require.Equal(t, i > 0, testkit.OpError(t, err).Unsent)
				}
				synctest.Wait()
				err = c.Close()
				require.ErrorIs(t, err, tcpclient.ErrDisconnected)
				require.ErrorContains(t, err, "lost")
			}))
		}
	})

	t.Run("at the moment of the loss is told, or the next is", testkit.InBubble(func(t *testing.T) { // P4, P7
		n := &tcpclienttest.Network{Buffer: 100}
		c, p := testkit.ListenNetwork(t, n).Connect(t, tcpclient.Dialer{DialContext: n.DialContext, WriteTimeout: -1})
		ctx := &slowToEnd{Context: t.Context(), done: make(chan struct{})}
		ctx.asked = sync.OnceFunc(func() {
			p.Reset() // behind the look for a reply, before the Call is given up
			synctest.Wait()
		})
		call := startCall(t, ctx, c, strings.Repeat("?", 200))
		close(ctx.done)
		_, err := call()
		require.False(t, testkit.OpError(t, err).Unsent)
		if lost := c.Close(); !errors.Is(err, tcpclient.ErrDisconnected) {
			require.ErrorIs(t, err, context.Canceled)
			require.ErrorContains(t, lost, "lost")
		}
	}))

	t.Run("is certain of nothing once its request has landed, and of all once that was lost", testkit.InBubble(func(t *testing.T) { // P4
		c, p := testkit.ConnectMemory(t, tcpclient.Dialer{})
		ctx, cancel := context.WithCancel(t.Context())
		call := startCall(t, ctx, c, "x")
		p.Receive()
		cancel()
		_, err := call()
		require.ErrorIs(t, err, context.Canceled)
		require.False(t, testkit.OpError(t, err).Unsent)
		p.Close()
		synctest.Wait()
		require.NoError(t, c.Close(), "the network took it: it is not lost")
	}))
}

// slowToEnd is a context during whose Err, once it is done, something happens.
type slowToEnd struct {
	context.Context
	done  chan struct{}
	asked func()
}

func (c *slowToEnd) Done() <-chan struct{} { return c.done }

func (c *slowToEnd) Err() error {
	select {
	case <-c.done:
		c.asked()
		return context.Canceled
	default:
		return nil
	}
}

func TestCallAnsweredTooSoon(t *testing.T) {
	// A server that answers before it was asked ends a Call whose request is still to be written.
	for n := range 3 {
		t.Run(fmt.Sprint("leaves its request to somebody: ", n, " behind it"), testkit.InBubble(func(t *testing.T) { // P2
			c, p, w := testkit.ConnectHooked(t, tcpclient.Dialer{}, nil)
			tokens := gateWrites(w, passing(w))
			first := testkit.Start(t, func() error { return c.Send(t.Context(), []byte("first")) })
			synctest.Wait()
			hasty := startCall(t, t.Context(), c, "hasty")
			var sends []func() error
			for range n {
				sends = append(sends, testkit.Start(t, func() error { return c.Send(t.Context(), []byte("other")) }))
				synctest.Wait()
			}
			p.Send("too soon")
			reply, err := hasty()
			require.NoError(t, err)
			require.Equal(t, "too soon", reply)
			close(tokens)
			require.NoError(t, first())
			require.Equal(t, "first", p.Receive())
			require.Equal(t, "hasty", p.Receive())
			for _, send := range sends {
				require.Equal(t, "other", p.Receive())
				require.NoError(t, send())
			}
		}))
	}
}
