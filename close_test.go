package tcpclient_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"io"
	"net"
	"slices"
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

func TestClose(t *testing.T) {
	testkit.EachTransportParallel(t, func(t *testing.T, tr testkit.Transport) {
		t.Run("returns nil, also again and concurrently", func(t *testing.T) { // P7
			c, _ := tr.Connect(t, tcpclient.Dialer{})
			var wg sync.WaitGroup
			for range 10 {
				wg.Go(func() { assert.NoError(t, c.Close()) })
			}
			testkit.RequireFast(t, "Close", wg.Wait)
			require.NoError(t, c.Close())
		})

		t.Run("shows the peer an orderly end", func(t *testing.T) {
			c, p := tr.Connect(t, tcpclient.Dialer{})
			require.NoError(t, c.Close())
			_, err := p.All()
			require.Equal(t, io.EOF, err)
		})

		t.Run("shows the peer an orderly end behind messages", func(t *testing.T) {
			c, p := tr.Connect(t, tcpclient.Dialer{})
			require.NoError(t, c.Send(t.Context(), []byte("one")))
			require.NoError(t, c.Write(t.Context(), []byte("two")))
			wait := testkit.Start(t, c.Close)
			msgs, err := p.All()
			require.Equal(t, []string{"one", "two"}, msgs)
			require.Equal(t, io.EOF, err)
			require.NoError(t, wait())
		})

		t.Run("delivers what a short-lived client wrote", func(t *testing.T) {
			l := tr.Listen(t)
			for _, size := range []int{5, 30_000} {
				done := make(chan error, 1)
				go func() {
					c, err := l.TryDial(t.Context(), tcpclient.Dialer{})
					if err == nil {
						err = c.Write(t.Context(), testkit.Pattern(size))
					}
					if err == nil {
						err = c.Close()
					}
					done <- err
				}()
				p := l.AcceptPeer(t)
				msgs, err := p.All()
				require.Equal(t, io.EOF, err)
				require.Equal(t, []string{string(testkit.Pattern(size))}, msgs)
				require.NoError(t, <-done)
			}
		})

		t.Run("delivers what it wrote to a peer that has said things nobody received", func(t *testing.T) {
			// Closing a socket with unread data on it sends RST, which may overtake
			// what was flushed.
			c, p := tr.Connect(t, tcpclient.Dialer{Inbox: 1})
			wait := testkit.Start(t, func() error {
				_, err := p.Write(testkit.Frames(testkit.Numbered(100, 300)...))
				return err
			})
			require.NoError(t, wait())
			require.NoError(t, c.Write(t.Context(), testkit.Pattern(20_000)))
			closed := testkit.Start(t, c.Close)
			require.Equal(t, string(testkit.Pattern(20_000)), p.Receive())
			_, err := p.Next()
			require.Equal(t, io.EOF, err)
			require.NoError(t, closed())
		})

		t.Run("wakes all who wait with ErrClosed", func(t *testing.T) { // P7, FAULTS L1, L2
			c, _ := tr.Connect(t, tcpclient.Dialer{WriteBuffer: 1000})
			testkit.Stall(t, c)
			var wg sync.WaitGroup
			wake := func(what string, f func() error) {
				for range 2 {
					wg.Go(func() {
						err := f()
						assert.ErrorIs(t, err, tcpclient.ErrClosed, what)
						assert.ErrorIs(t, err, net.ErrClosed, what)
						assert.NotErrorIs(t, err, tcpclient.ErrDisconnected, what)
						assert.NotErrorIs(t, err, io.EOF, what)
						assert.Equal(t, tcpclient.ClassPermanent, tcpclient.Classify(err), what)
					})
				}
			}
			wake("Receive", func() error { _, err := c.Receive(t.Context()); return err })
			wake("ReceiveInto", func() error { _, err := c.ReceiveInto(t.Context(), nil); return err })
			wake("Messages", func() (end error) {
				for _, err := range c.Messages(t.Context()) {
					end = err
				}
				return end
			})
			wake("Send", func() error { return c.Send(t.Context(), testkit.Pattern(2000)) })
			wake("Write", func() (err error) {
				for err == nil { // until the buffer is full
					err = c.Write(t.Context(), testkit.Pattern(2000))
				}
				return err
			})
			wake("Flush", func() error { return c.Flush(t.Context()) })
			testkit.WaitBlocked(t, "(*Client).Flush", "(*outbox).await")
			testkit.WaitBlocked(t, "(*Client).Write", "(*outbox).await")
			testkit.WaitBlocked(t, "(*Client).Messages")
			began := time.Now()
			testkit.RequireFast(t, "Close", func() { c.Close() })
			assert.Less(t, time.Since(began), testkit.CloseTime, "P7: within a second")
			testkit.RequireFast(t, "the others", wg.Wait)
		})

		t.Run("returns within a second when the peer has stopped reading, and tells of the loss", func(t *testing.T) { // P4, P7
			c, p := tr.Connect(t, tcpclient.Dialer{})
			sent := testkit.Stall(t, c)
			require.NoError(t, c.Write(t.Context(), []byte("never")))
			began := time.Now()
			err := c.Close()
			require.Less(t, time.Since(began), testkit.CloseTime)
			require.Error(t, err, "what was written could not be flushed")
			require.Equal(t, "close", testkit.OpError(t, err).Op)
			require.NoError(t, c.Close())
			msgs, _ := p.All()
			require.Less(t, len(msgs), len(sent)+1)
			require.NotContains(t, msgs, "never")
		})

		t.Run("flushes to a peer that is slow but reads", func(t *testing.T) {
			c, p := tr.Connect(t, tcpclient.Dialer{})
			sent := testkit.Stall(t, c)
			require.NoError(t, c.Write(t.Context(), []byte("last")))
			first, err := p.Next() // that it reads is to be seen in 200 ms
			require.NoError(t, err)
			msgs := []string{first}
			read := testkit.Start(t, func() error {
				rest, err := p.All()
				msgs = append(msgs, rest...)
				return err
			})
			require.NoError(t, c.Close())
			require.Equal(t, io.EOF, read())
			require.True(t, msgs[len(msgs)-1] == "last")
			require.Len(t, msgs, len(sent)+1)
		})

		t.Run("drops the Inbox, and everything says ErrClosed from then on", func(t *testing.T) { // P7, FAULTS L24
			c, p := tr.Connect(t, tcpclient.Dialer{})
			p.Send("unreceived", "too")
			testkit.Eventually(t, "the messages are in the Inbox", func() bool { return c.Stats().MessagesReceived == 2 })
			require.NoError(t, c.Close())
			for name, err := range testkit.EveryMethod(t, t.Context(), c) {
				require.ErrorIs(t, err, tcpclient.ErrClosed, name)
				require.NotErrorIs(t, err, tcpclient.ErrDisconnected, name)
			}
			require.False(t, c.Stats().Connected)
			require.NotNil(t, c.LocalAddr())
			require.NotNil(t, c.RemoteAddr())
		})

		t.Run("returns nil after a connection that died without a loss", func(t *testing.T) { // P4, P9
			c, p := tr.Connect(t, tcpclient.Dialer{})
			p.HalfClose()
			_, first := c.Receive(t.Context())
			require.ErrorIs(t, first, io.EOF)
			require.NoError(t, c.Close())
			for name, err := range testkit.EveryMethod(t, t.Context(), c) {
				require.ErrorIs(t, err, io.EOF, "%s: the first error stays, also after Close", name)
				require.NotErrorIs(t, err, tcpclient.ErrClosed, name)
			}
		})

		t.Run("while others write, loses nothing in silence", func(t *testing.T) { // P4
			for range 20 {
				c, p := tr.Connect(t, tcpclient.Dialer{})
				got := testkit.Start(t, func() []string { msgs, _ := p.All(); return msgs })
				var mu sync.Mutex
				taken, unsent := map[string]bool{}, map[string]bool{}
				var wg sync.WaitGroup
				for g := range 4 {
					wg.Go(func() {
						for i := range 10_000 {
							msg := string(rune('a'+g)) + testkit.Numbered(i+1, 0)[i]
							var err error
							if i%3 == 0 {
								err = c.Send(t.Context(), []byte(msg))
							} else {
								err = c.Write(t.Context(), []byte(msg))
							}
							mu.Lock()
							switch {
							case err == nil:
								taken[msg] = true
							case testkit.OpError(t, err).Unsent:
								unsent[msg] = true
							}
							mu.Unlock()
							if err != nil {
								assert.ErrorIs(t, err, tcpclient.ErrClosed)
								return
							}
						}
					})
				}
				err := c.Close()
				testkit.RequireFast(t, "writers", wg.Wait)
				msgs := got()
				for _, msg := range msgs {
					require.False(t, unsent[msg], "%s is Unsent and was received", msg)
				}
				if err == nil {
					for msg := range taken {
						require.True(t, slices.Contains(msgs, msg), "Close returned nil, but %q did not arrive", msg)
					}
				}
			}
		})
	})

	for version, name := range map[uint16]string{tls.VersionTLS12: "TLS 1.2", tls.VersionTLS13: "TLS 1.3"} {
		t.Run("says close_notify over "+name, func(t *testing.T) {
			for _, last := range []string{"", "flushed by Close"} {
				l := testkit.ListenMemory(t)
				testkit.Secure(l)
				d := tcpclient.Dialer{}
				l.Setup(&d)
				d.TLSConfig.MaxVersion = version
				c, p := l.Connect(t, d)
				var stream bytes.Buffer
				raw := p.Conn.(*tls.Conn).NetConn()
				if last != "" {
					require.NoError(t, c.Write(t.Context(), []byte(last)))
				}
				wait := testkit.Start(t, c.Close)
				_, err := io.Copy(&stream, raw)
				require.NoError(t, err)
				testkit.HangUp(raw)
				require.NoError(t, wait())
				typ, length := lastRecord(t, stream.Bytes())
				if version == tls.VersionTLS12 {
					require.Equal(t, byte(21), typ, "the last record is no alert")
				} else {
					require.Equal(t, 2+1+16, length, "the last record has not the length of an alert")
				}
			}
		})
	}

	t.Run("wakes all who receive, also while a hook holds the Client's goroutine", func(t *testing.T) { // P7
		synctest.Test(t, func(t *testing.T) {
			stuck := make(chan struct{})
			c, p := testkit.ConnectMemory(t, tcpclient.Dialer{Heartbeat: tcpclient.Heartbeat{IsPong: func(msg []byte) bool {
				if string(msg) == "stuck" {
					<-stuck
				}
				return false
			}}})
			p.Send("one") // leaves memory in the Inbox that is not full
			_, err := c.Receive(t.Context())
			require.NoError(t, err)
			var woken atomic.Int32
			for range 3 {
				go func() {
					_, err := c.Receive(t.Context())
					assert.ErrorIs(t, err, tcpclient.ErrClosed)
					woken.Add(1)
				}()
			}
			p.Send("stuck")
			synctest.Wait()
			go c.Close()
			synctest.Wait()
			assert.EqualValues(t, 3, woken.Load())
			close(stuck)
			require.NoError(t, c.Close())
		})
	})

	t.Run("returns when the connection's own Close is all that helps", func(t *testing.T) { // P7
		// Neither reading nor writing heeds a deadline.
		stuck := make(chan struct{})
		var once sync.Once
		c, _, _ := testkit.ConnectHooked(t, tcpclient.Dialer{}, func(w *testkit.HookedConn) {
			w.OnWrite = func([]byte) (int, error) { <-stuck; return 0, net.ErrClosed }
			w.OnRead = func([]byte) (int, error) { <-stuck; return 0, net.ErrClosed }
			w.OnClose = func() { once.Do(func() { close(stuck) }) }
		})
		wait := testkit.Start(t, func() error { return c.Send(t.Context(), []byte("stuck")) })
		testkit.WaitBlocked(t, "wire.(*Conn).Write")
		began := time.Now()
		testkit.RequireFast(t, "Close", func() { c.Close() })
		require.Less(t, time.Since(began), testkit.CloseTime)
		require.ErrorIs(t, wait(), tcpclient.ErrClosed)
	})

	t.Run("tells of a loss that the last words of the peer keep from sight", func(t *testing.T) { // P4
		synctest.Test(t, func(t *testing.T) {
			c, _, w := testkit.ConnectHooked(t, tcpclient.Dialer{}, func(w *testkit.HookedConn) {
				w.OnWrite = func([]byte) (int, error) { return 0, io.ErrClosedPipe }
			})
			require.NoError(t, c.Write(t.Context(), []byte("lost")))
			require.ErrorIs(t, c.Send(t.Context(), []byte("knows")), io.ErrClosedPipe)
			require.Equal(t, 1, w.Writes())
			require.ErrorIs(t, c.Close(), io.ErrClosedPipe, "of the first message nobody was told")
			require.NoError(t, c.Close())
		})
	})
}

// lastRecord returns type and length of the last of some TLS records.
func lastRecord(t testing.TB, stream []byte) (typ byte, length int) {
	t.Helper()
	require.NotEmpty(t, stream, "no record at all")
	for len(stream) > 0 {
		require.GreaterOrEqual(t, len(stream), 5)
		typ, length = stream[0], int(stream[3])<<8|int(stream[4])
		require.GreaterOrEqual(t, len(stream), 5+length)
		stream = stream[5+length:]
	}
	return typ, length
}

func TestShutdown(t *testing.T) {
	testkit.EachTransportParallel(t, func(t *testing.T, tr testkit.Transport) {
		t.Run("sends FIN behind all messages and takes in the answers", func(t *testing.T) { // P7, FAULTS S21
			c, p := tr.Connect(t, tcpclient.Dialer{})
			require.NoError(t, c.Write(t.Context(), []byte("one")))
			require.NoError(t, c.Write(t.Context(), []byte("two")))
			wait := testkit.Start(t, func() error { return c.Shutdown(t.Context()) })
			msgs, err := p.All()
			require.Equal(t, []string{"one", "two"}, msgs)
			require.Equal(t, io.EOF, err)
			p.Send("answer one", "answer two")
			p.HalfClose()
			require.NoError(t, wait())
			got, err := testkit.ReceiveAll(t, c)
			require.Equal(t, []string{"answer one", "answer two"}, got)
			require.ErrorIs(t, err, tcpclient.ErrClosed)
			require.NotErrorIs(t, err, tcpclient.ErrDisconnected)
			require.NoError(t, c.Close())
		})

		t.Run("waits for nobody to receive", func(t *testing.T) { // FAULTS S21
			c, p := tr.Connect(t, tcpclient.Dialer{Inbox: 1000})
			want := testkit.Numbered(500, 2000)
			wait := testkit.Start(t, func() error { return c.Shutdown(t.Context()) })
			_, err := p.Next()
			require.Equal(t, io.EOF, err)
			p.Send(want...)
			p.HalfClose()
			require.NoError(t, wait())
			got, err := testkit.ReceiveAll(t, c)
			require.Equal(t, want, got)
			require.ErrorIs(t, err, tcpclient.ErrClosed)
		})

		t.Run("frees a reader that waits for room already", func(t *testing.T) {
			c, p := tr.Connect(t, tcpclient.Dialer{Inbox: 1000})
			want := testkit.Numbered(500, 1000)
			sent := testkit.Start(t, func() error { _, err := p.Write(testkit.Frames(want...)); return err })
			testkit.WaitBlocked(t, "(*producer).makeRoom")
			wait := testkit.Start(t, func() error { return c.Shutdown(t.Context()) })
			_, err := p.Next()
			require.Equal(t, io.EOF, err)
			require.NoError(t, sent())
			p.HalfClose()
			require.NoError(t, wait())
			got, err := testkit.ReceiveAll(t, c)
			require.Equal(t, want, got)
			require.ErrorIs(t, err, tcpclient.ErrClosed)
		})

		t.Run("closes hard when its context ends before the peer does", func(t *testing.T) { // P2, P7
			c, p := tr.Connect(t, tcpclient.Dialer{})
			p.Send("before")
			require.NoError(t, c.Write(t.Context(), []byte("last")))
			began := time.Now()
			err := c.Shutdown(testkit.Within(t, 500*time.Millisecond)) // long enough to flush
			require.Less(t, time.Since(began), 500*time.Millisecond+testkit.CloseTime)
			require.ErrorIs(t, err, context.DeadlineExceeded)
			require.Equal(t, "close", testkit.OpError(t, err).Op)
			msgs, _ := p.All()
			require.Equal(t, []string{"last"}, msgs)
			got, err := testkit.ReceiveAll(t, c)
			require.Equal(t, []string{"before"}, got)
			require.ErrorIs(t, err, tcpclient.ErrClosed)
			require.NoError(t, c.Close())
		})

		t.Run("does not wait for ever for a peer that goes on sending", func(t *testing.T) {
			c, p := tr.Connect(t, tcpclient.Dialer{})
			go func() {
				for {
					if _, err := p.Write(testkit.Frame("more")); err != nil {
						return
					}
					time.Sleep(time.Millisecond) // the peer's pace
				}
			}()
			ctx, cancel := context.WithCancel(t.Context())
			fin := testkit.Start(t, func() error {
				defer cancel()
				_, err := p.Next()
				return err
			})
			require.ErrorIs(t, c.Shutdown(ctx), context.Canceled)
			require.Equal(t, io.EOF, fin(), "it waits for the peer, having sent FIN")
			_, err := testkit.ReceiveAll(t, c)
			require.ErrorIs(t, err, tcpclient.ErrClosed)
		})

		t.Run("bounds what a flooding peer can make it keep", func(t *testing.T) { // P6
			c, p := tr.Connect(t, tcpclient.Dialer{Inbox: 1000})
			go func() {
				b := testkit.Frames(testkit.Numbered(100, 10_000)...)
				for {
					if _, err := p.Write(b); err != nil {
						return
					}
				}
			}()
			require.Error(t, c.Shutdown(testkit.Within(t, testkit.Patience)))
			msgs, _ := testkit.ReceiveAll(t, c)
			require.Less(t, len(msgs), 20<<20/10_000)
		})

		t.Run("refuses further messages, and Receive goes on", func(t *testing.T) {
			c, p := tr.Connect(t, tcpclient.Dialer{})
			wait := testkit.Start(t, func() error { return c.Shutdown(t.Context()) })
			_, err := p.Next()
			require.Equal(t, io.EOF, err)
			err = c.Write(t.Context(), []byte("late"))
			require.ErrorIs(t, err, tcpclient.ErrClosed)
			require.True(t, testkit.OpError(t, err).Unsent)
			err = c.Send(t.Context(), []byte("late"))
			require.ErrorIs(t, err, tcpclient.ErrClosed)
			require.True(t, testkit.OpError(t, err).Unsent)
			p.Send("still")
			msg, err := c.Receive(t.Context())
			require.NoError(t, err)
			require.Equal(t, "still", string(msg))
			p.HalfClose()
			require.NoError(t, wait())
			_, err = c.Receive(t.Context())
			require.ErrorIs(t, err, tcpclient.ErrClosed)
		})

		t.Run("delivers to a peer that is slow to read", func(t *testing.T) {
			c, p := tr.Connect(t, tcpclient.Dialer{})
			sent := testkit.Stall(t, c)
			wait := testkit.Start(t, func() error { return c.Shutdown(t.Context()) })
			testkit.WaitBlocked(t, "(*Client).Shutdown")
			msgs, err := p.All()
			require.Equal(t, sent, msgs)
			require.Equal(t, io.EOF, err)
			p.HalfClose()
			require.NoError(t, wait())
		})

		t.Run("ends with its context while the peer does not read, and tells of the loss", func(t *testing.T) { // P2, P4
			c, _ := tr.Connect(t, tcpclient.Dialer{})
			testkit.Stall(t, c)
			require.NoError(t, c.Write(t.Context(), []byte("never")))
			began := time.Now()
			err := c.Shutdown(testkit.Within(t, 500*time.Millisecond)) // it is not to be over before Shutdown begins
			require.Less(t, time.Since(began), 500*time.Millisecond+testkit.CloseTime)
			require.ErrorIs(t, err, context.DeadlineExceeded)
			require.NoError(t, c.Close(), "Shutdown has told of the loss already")
		})

		t.Run("with a context that is done does nothing", func(t *testing.T) { // P2, FAULTS L9
			c, p := tr.Connect(t, tcpclient.Dialer{})
			err := c.Shutdown(testkit.Canceled(t))
			require.ErrorIs(t, err, context.Canceled)
			testkit.RequireAlive(t, c, p)
		})

		t.Run("returns ErrClosed when Close comes before the peer's FIN", func(t *testing.T) { // P7
			c, p := tr.Connect(t, tcpclient.Dialer{})
			wait := testkit.Start(t, func() error { return c.Shutdown(t.Context()) })
			_, err := p.Next()
			require.Equal(t, io.EOF, err)
			require.NoError(t, c.Close())
			require.ErrorIs(t, wait(), tcpclient.ErrClosed, "nil would say that the peer's FIN has come")
		})

		t.Run("returns the end of a connection that has died", func(t *testing.T) { // P9
			c, p := tr.Connect(t, tcpclient.Dialer{})
			p.Raw(testkit.Frame("torn")[:6])
			p.HalfClose()
			_, err := c.Receive(t.Context())
			require.ErrorIs(t, err, io.ErrUnexpectedEOF)
			require.ErrorIs(t, c.Shutdown(t.Context()), io.ErrUnexpectedEOF)
			require.NoError(t, c.Close())
		})

		t.Run("returns the error of a peer that ends inside a frame", func(t *testing.T) { // P1
			c, p := tr.Connect(t, tcpclient.Dialer{})
			wait := testkit.Start(t, func() error { return c.Shutdown(t.Context()) })
			_, err := p.Next()
			require.Equal(t, io.EOF, err)
			p.Raw(append(testkit.Frame("whole"), testkit.Frame("torn")[:6]...))
			p.HalfClose()
			require.ErrorIs(t, wait(), io.ErrUnexpectedEOF)
			got, err := testkit.ReceiveAll(t, c)
			require.Equal(t, []string{"whole"}, got)
			require.ErrorIs(t, err, io.ErrUnexpectedEOF)
		})
	})

	t.Run("over TLS waits as long as its context for room for the close_notify", func(t *testing.T) { // P4
		// The messages just fit the peer's buffer, what TLS says at the end does not.
		n := &tcpclienttest.Network{Buffer: 4 << 10}
		l := testkit.ListenNetwork(t, n)
		testkit.Secure(l)
		filled := make(chan struct{})
		var w *testkit.HookedConn
		d := tcpclient.Dialer{DialContext: testkit.Wrapping(n.DialContext, func(conn net.Conn) net.Conn {
			w = &testkit.HookedConn{Conn: conn}
			return w
		})}
		l.Setup(&d)
		d.TLSConfig.DynamicRecordSizingDisabled = true
		c, p := l.Connect(t, d)
		full := 0
		w.SetOnWrite(func(b []byte) (int, error) {
			n, err := w.Conn.Write(b)
			if full += n; err != nil {
				select {
				case <-filled:
				default:
					close(filled)
				}
			}
			return n, err
		})
		// A record of n bytes costs 22 more.
		require.NoError(t, c.Send(t.Context(), testkit.Pattern(4<<10-22-4)))
		require.Equal(t, 4<<10, full, "the buffer is exactly full")
		wait := testkit.Start(t, func() error { return c.Shutdown(t.Context()) })
		<-filled
		time.Sleep(300 * time.Millisecond) // the peer's: it is slow
		msgs, err := p.All()
		require.Equal(t, []string{string(testkit.Pattern(4<<10 - 26))}, msgs)
		require.Equal(t, io.EOF, err)
		p.Send("answer")
		p.HalfClose()
		require.NoError(t, wait())
		got, err := testkit.ReceiveAll(t, c)
		require.Equal(t, []string{"answer"}, got)
		require.ErrorIs(t, err, tcpclient.ErrClosed)
	})
}
