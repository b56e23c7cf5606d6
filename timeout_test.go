package tcpclient_test

import (
	"context"
	"os"
	"testing"
	"testing/synctest"
	"time"

	"github.com/seed-d0aa0aa7/tcpclient"
	"github.com/seed-d0aa0aa7/tcpclient/internal/testkit"
	"github.com/seed-d0aa0aa7/tcpclient/tcpclienttest"
	"github.com/stretchr/testify/require"
)

// Timers, in fake time.

func TestFrameTimeout(t *testing.T) {
	t.Run("ends a connection whose frame does not end", func(t *testing.T) { // FAULTS S17
		for setting, want := range map[time.Duration]time.Duration{0: 30 * time.Second, time.Minute: time.Minute} {
			synctest.Test(t, func(t *testing.T) {
				c, p := testkit.ConnectMemory(t, tcpclient.Dialer{FrameTimeout: setting})
				p.Send("whole")
				time.Sleep(time.Hour) // between frames the peer may be silent
				p.Raw(testkit.Frame("torn")[:6])
				began := time.Now()
				got, err := testkit.ReceiveAll(t, c)
				require.Equal(t, []string{"whole"}, got)
				require.Equal(t, want, time.Since(began))
				require.ErrorIs(t, err, tcpclient.ErrFrameTimeout)
				require.ErrorContains(t, err, "; 6 bytes of the frame have come")
				require.ErrorIs(t, err, tcpclient.ErrDisconnected)
				require.NotErrorIs(t, err, os.ErrDeadlineExceeded)
				require.NotErrorIs(t, err, context.DeadlineExceeded)
				require.True(t, testkit.OpError(t, err).Timeout())
				require.Equal(t, tcpclient.ClassDisconnected, tcpclient.Classify(err))
			})
		}
	})

	t.Run("is not impressed by trickling bytes", func(t *testing.T) { // P5, FAULTS S17
		synctest.Test(t, func(t *testing.T) {
			c, p := testkit.ConnectMemory(t, tcpclient.Dialer{})
			began := time.Now()
			sender := testkit.Start(t, func() error {
				stream := testkit.Frame(testkit.PatternText(1 << 20))
				for i := range stream {
					if _, err := p.Write(stream[i : i+1]); err != nil {
						return err
					}
					time.Sleep(time.Second)
				}
				return nil
			})
			_, err := c.Receive(t.Context())
			require.ErrorIs(t, err, tcpclient.ErrFrameTimeout)
			require.Equal(t, 30*time.Second, time.Since(began))
			require.Error(t, sender())
		})
	})

	t.Run("begins anew with each frame", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			c, p := testkit.ConnectMemory(t, tcpclient.Dialer{})
			stream := testkit.Frames("aaaa", "bbbb", "cccc", "dddd")
			for sent, cut := range []int{5, 13, 21, 29} { // one byte after each length
				p.Raw(stream[max(0, cut-8)*min(sent, 1) : cut])
				time.Sleep(29 * time.Second)
			}
			stream = stream[29:]
			p.Raw(stream)
			for _, want := range []string{"aaaa", "bbbb", "cccc", "dddd"} {
				msg, err := c.Receive(t.Context())
				require.NoError(t, err)
				require.Equal(t, want, string(msg))
			}
		})
	})

	t.Run("is off when negative", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			c, p := testkit.ConnectMemory(t, tcpclient.Dialer{FrameTimeout: -1})
			p.Raw(testkit.Frame("late")[:6])
			time.Sleep(1000 * time.Hour)
			p.Raw(testkit.Frame("late")[6:])
			msg, err := c.Receive(t.Context())
			require.NoError(t, err)
			require.Equal(t, "late", string(msg))
		})
	})

	t.Run("does not run while the Inbox is full", func(t *testing.T) { // P5: no peer is declared dead because we were slow
		synctest.Test(t, func(t *testing.T) {
			c, p := testkit.ConnectMemory(t, tcpclient.Dialer{Inbox: 200, ReadBuffer: 256})
			want := testkit.Numbered(50, 100)
			p.Send(want...)
			time.Sleep(time.Hour)
			for i := range want {
				msg, err := c.Receive(t.Context())
				require.NoError(t, err)
				require.Equal(t, want[i], string(msg))
				time.Sleep(time.Minute)
			}
			p.Send("on")
			msg, err := c.Receive(t.Context())
			require.NoError(t, err)
			require.Equal(t, "on", string(msg))
		})
	})

	t.Run("is not stopped by a Receive whose context ends", func(t *testing.T) { // P2
		synctest.Test(t, func(t *testing.T) {
			c, p := testkit.ConnectMemory(t, tcpclient.Dialer{})
			p.Raw(testkit.Frame("torn")[:6])
			began := time.Now()
			for time.Since(began) < 30*time.Second {
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				_, err := c.Receive(ctx)
				cancel()
				if err != nil && ctx.Err() == nil {
					break
				}
			}
			_, err := c.Receive(t.Context())
			require.ErrorIs(t, err, tcpclient.ErrFrameTimeout)
			require.Equal(t, 30*time.Second, time.Since(began))
		})
	})
}

func TestWriteTimeout(t *testing.T) {
	t.Run("ends a connection whose peer takes no byte", func(t *testing.T) { // P4, FAULTS S15
		for setting, want := range map[time.Duration]time.Duration{0: 10 * time.Second, time.Minute: time.Minute, 20 * time.Millisecond: 20 * time.Millisecond} {
			synctest.Test(t, func(t *testing.T) {
				c, p := testkit.ConnectNarrow(t, 1000, tcpclient.Dialer{WriteTimeout: setting})
				received := testkit.Start(t, func() error { _, err := c.Receive(context.Background()); return err })
				began := time.Now()
				err := c.Send(t.Context(), testkit.Pattern(5000))
				require.InDelta(t, want, time.Since(began), float64(10*time.Millisecond))
				require.ErrorIs(t, err, tcpclient.ErrWriteTimeout)
				require.ErrorIs(t, err, tcpclient.ErrDisconnected)
				require.NotErrorIs(t, err, os.ErrDeadlineExceeded)
				require.NotErrorIs(t, err, context.DeadlineExceeded)
				require.False(t, testkit.OpError(t, err).Unsent)
				require.True(t, testkit.OpError(t, err).Timeout())
				require.Equal(t, tcpclient.ClassDisconnected, tcpclient.Classify(err))
				require.ErrorIs(t, received(), tcpclient.ErrWriteTimeout, "the first error is that of all callers")
				for name, err := range testkit.EveryMethod(t, t.Context(), c) {
					require.ErrorIs(t, err, tcpclient.ErrWriteTimeout, name)
				}
				p.In.Discard(1000)
				n, err := p.In.Read(make([]byte, 10))
				require.Zero(t, n, "no later byte: %v", err)
			})
		}
	})

	t.Run("begins anew with each byte that the peer takes", func(t *testing.T) { // FAULTS S16
		synctest.Test(t, func(t *testing.T) {
			c, p := testkit.ConnectNarrow(t, 1000, tcpclient.Dialer{})
			result := make(chan error, 1)
			go func() { result <- c.Send(context.Background(), testkit.Pattern(20_000)) }()
			buf := make([]byte, 1)
			for range 10 {
				time.Sleep(9 * time.Second)
				p.Read(buf)
			}
			began := time.Now()
			require.ErrorIs(t, <-result, tcpclient.ErrWriteTimeout)
			require.InDelta(t, 10*time.Second, time.Since(began), float64(100*time.Millisecond))
		})
	})

	t.Run("leaves a slow reader alone", func(t *testing.T) { // P2, FAULTS S16
		synctest.Test(t, func(t *testing.T) {
			c, p := testkit.ConnectNarrow(t, 1000, tcpclient.Dialer{})
			want := testkit.PatternText(20_000)
			got := make(chan string, 1)
			go func() {
				var all []byte
				buf := make([]byte, 300)
				for len(all) < len(want)+4 {
					time.Sleep(9 * time.Second)
					n, _ := p.Read(buf)
					all = append(all, buf[:n]...)
				}
				got <- string(all[4:])
			}()
			err := c.Send(testkit.Within(t, time.Minute), []byte(want))
			require.ErrorIs(t, err, context.DeadlineExceeded, "the caller's context bounds the whole")
			require.True(t, want == <-got)
			require.NoError(t, c.Flush(t.Context()))
		})
	})

	t.Run("is off when negative", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			c, p := testkit.ConnectNarrow(t, 1000, tcpclient.Dialer{WriteTimeout: -1})
			wait := make(chan error, 1)
			go func() { wait <- c.Send(context.Background(), testkit.Pattern(5000)) }()
			time.Sleep(10 * time.Minute)
			require.Equal(t, testkit.PatternText(5000), p.Receive())
			require.NoError(t, <-wait)
		})
	})

	t.Run("runs on when the callers have gone", func(t *testing.T) { // P2, P4
		synctest.Test(t, func(t *testing.T) {
			c, _ := testkit.ConnectNarrow(t, 1000, tcpclient.Dialer{})
			began := time.Now()
			require.ErrorIs(t, c.Send(testkit.Within(t, time.Second), testkit.Pattern(5000)), context.DeadlineExceeded)
			require.Equal(t, time.Second, time.Since(began))
			_, err := c.Receive(t.Context())
			require.ErrorIs(t, err, tcpclient.ErrWriteTimeout)
			require.InDelta(t, 10*time.Second, time.Since(began), float64(100*time.Millisecond))
		})
	})

	t.Run("ends the connection also while the Inbox is full", func(t *testing.T) { // P5
		synctest.Test(t, func(t *testing.T) {
			c, p := testkit.ConnectNarrow(t, 1000, tcpclient.Dialer{Inbox: 100})
			go p.Write(testkit.Frames(testkit.Numbered(100, 100)...))
			began := time.Now()
			require.ErrorIs(t, c.Send(t.Context(), testkit.Pattern(5000)), tcpclient.ErrWriteTimeout)
			require.ErrorIs(t, c.Send(t.Context(), testkit.Pattern(5000)), tcpclient.ErrWriteTimeout)
			require.InDelta(t, 10*time.Second, time.Since(began), float64(100*time.Millisecond))
			testkit.Eventually(t, "the Client has noticed", func() bool { return !c.Stats().Connected })
			require.Less(t, time.Since(began), 12*time.Second)
		})
	})

	t.Run("ends a connection over TLS, too", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			l := testkit.ListenNetwork(t, &tcpclienttest.Network{Buffer: 8000})
			testkit.Secure(l)
			c, p := l.Connect(t, tcpclient.Dialer{})
			began := time.Now()
			require.ErrorIs(t, c.Send(t.Context(), testkit.Pattern(50_000)), tcpclient.ErrWriteTimeout)
			require.InDelta(t, 10*time.Second, time.Since(began), float64(100*time.Millisecond))
			testkit.HangUp(p.Conn)
		})
	})
}
