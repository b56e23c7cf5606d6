package tcpclient_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"os"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/seed-d0aa0aa7/tcpclient"
	"github.com/seed-d0aa0aa7/tcpclient/internal/testkit"
	"github.com/seed-d0aa0aa7/tcpclient/tcpclienttest"
	"github.com/stretchr/testify/require"
)

func TestDialPermanent(t *testing.T) {
	rejected := errors.New("rejected")
	for name, timeout := range map[string]error{
		"context.DeadlineExceeded": context.DeadlineExceeded,
		"os.ErrDeadlineExceeded":   os.ErrDeadlineExceeded,
	} {
		err := tcpclient.Permanent(fmt.Errorf("%w: the server says: %w", rejected, timeout))
		for hook, d := range map[string]tcpclient.Dialer{
			"a Handshake":   {Handshake: func(context.Context, *tcpclient.Conn) error { return err }},
			"a DialContext": {DialContext: func(context.Context, string, string) (net.Conn, error) { return nil, err }},
		} {
			t.Run("of "+hook+" ends the Client though it wraps "+name, testkit.InBubble(func(t *testing.T) { // P8
				d.Reconnect = &tcpclient.Backoff{Min: 1, Max: 1, FirstDial: true}
				_, err := testkit.ListenMemory(t).TryDial(testkit.Within(t, time.Minute), d)
				require.ErrorIs(t, err, rejected)
				require.Equal(t, tcpclient.ClassPermanent, tcpclient.Classify(err))
			}))
		}
	}

	t.Run("of a Handshake ends the Client though it comes after Timeout", testkit.InBubble(func(t *testing.T) { // P8
		d := tcpclient.Dialer{
			Timeout:   time.Second,
			Reconnect: &tcpclient.Backoff{Min: 1, Max: 1, FirstDial: true},
			Handshake: func(ctx context.Context, conn *tcpclient.Conn) error {
				<-ctx.Done()
				return tcpclient.Permanent(rejected)
			},
		}
		_, err := testkit.ListenMemory(t).TryDial(testkit.Within(t, time.Minute), d)
		require.ErrorIs(t, err, rejected)
		require.Equal(t, tcpclient.ClassPermanent, tcpclient.Classify(err))
	}))

	t.Run("is not what a Handshake says after Timeout, which is found all the same", testkit.InBubble(func(t *testing.T) { // P9
		_, err := testkit.ListenMemory(t).TryDial(testkit.Within(t, time.Minute), tcpclient.Dialer{
			Timeout: time.Second,
			Handshake: func(ctx context.Context, conn *tcpclient.Conn) error {
				<-ctx.Done()
				return rejected
			},
		})
		require.ErrorIs(t, err, rejected)
		require.ErrorIs(t, err, os.ErrDeadlineExceeded)
		require.NotErrorIs(t, err, context.DeadlineExceeded, "that is for the caller's")
		require.Equal(t, tcpclient.ClassDisconnected, tcpclient.Classify(err))
	}))
}

func TestDialCopies(t *testing.T) {
	t.Run("the Backoff and the Trace", testkit.InBubble(func(t *testing.T) {
		backoff := &tcpclient.Backoff{Min: time.Second, Max: time.Second}
		trace := &tcpclient.Trace{}
		l := testkit.ListenMemory(t)
		c, p := l.Connect(t, tcpclient.Dialer{Reconnect: backoff, Trace: trace})
		// Both are of no use to it: it would not try again, and it would panic.
		*backoff = tcpclient.Backoff{MaxAttempts: 1, Min: -1, Max: -1}
		*trace = tcpclient.Trace{Connecting: func(string, int) { panic("not this one") }}
		testkit.HangUp(p.Conn)
		p = l.AcceptPeer(t)
		_, err := c.Receive(t.Context())
		require.ErrorIs(t, err, tcpclient.ErrDisconnected)
		testkit.RequireAlive(t, c, p)
	}))

	t.Run("the net.Dialer", func(t *testing.T) {
		l, dialer := testkit.ListenTCP(t), &net.Dialer{}
		d := tcpclient.Dialer{NetDialer: dialer, Reconnect: &tcpclient.Backoff{Min: 1, Max: 1}}
		c, p := l.Connect(t, d)
		dialer.LocalAddr = &net.UnixAddr{} // not for TCP
		testkit.HangUp(p.Conn)
		l.AcceptPeer(t)
		_, err := c.Receive(t.Context())
		require.ErrorIs(t, err, tcpclient.ErrDisconnected)
	})
}

func TestDialItself(t *testing.T) {
	t.Run("is refused whatever the connection is wrapped in", func(t *testing.T) { // P8
		l := testkit.ListenTCP(t)
		port := l.Addr().(*net.TCPAddr) // free, and known to be, when closed
		l.Close()
		_, err := (&tcpclient.Dialer{DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			conn, err := (&net.Dialer{LocalAddr: port}).DialContext(ctx, network, address)
			if err != nil {
				return nil, err
			}
			return struct{ net.Conn }{conn}, nil
		}}).Dial(t.Context(), "tcp", port.String())
		require.ErrorIs(t, err, syscall.ECONNREFUSED)
		require.ErrorContains(t, err, "itself")
	})
}

func TestDialWhosePanic(t *testing.T) {
	t.Run("is that of its connection closes it", testkit.InBubble(func(t *testing.T) { // P6
		n := tcpclienttest.NewNetwork()
		var closes atomic.Int32
		_, err := testkit.ListenNetwork(t, n).TryDial(t.Context(), tcpclient.Dialer{
			DialContext: testkit.Wrapping(n.DialContext, func(conn net.Conn) net.Conn {
				return &testkit.HookedConn{Conn: conn, OnDeadline: func() error { panic("no deadlines here") }, OnClose: func() { closes.Add(1) }}
			}),
		})
		require.Error(t, err)
		require.EqualValues(t, 1, closes.Load())
	}))
}

func TestDialWithWrongSettings(t *testing.T) {
	t.Run("names them all in one line", func(t *testing.T) { // P9
		d := tcpclient.Dialer{Inbox: -1, ReadBuffer: -2, Reconnect: &tcpclient.Backoff{Min: 2, Max: 1}}
		_, err := d.Dial(t.Context(), "udp", "127.0.0.1:1")
		require.EqualError(t, err, "tcpclient: dial 127.0.0.1:1: unknown network udp; Dialer.ReadBuffer -2 is negative; "+
			"Dialer.Inbox -1 is negative; Dialer.Reconnect.Max 1ns is below Min 2ns")
		require.ErrorAs(t, err, new(net.UnknownNetworkError))
		require.Equal(t, tcpclient.ClassPermanent, tcpclient.Classify(err))
	})
}

// A Dial that has tried in vain until its context has ended says why.
func TestFirstDialTellsWhatHasFailed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // P9
		d := tcpclient.Dialer{
			Reconnect: &tcpclient.Backoff{FirstDial: true},
			DialContext: func(context.Context, string, string) (net.Conn, error) {
				return nil, os.NewSyscallError("connect", syscall.ECONNREFUSED)
			},
		}
		_, err := d.Dial(testkit.Within(t, time.Minute), "tcp", "server:1")
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.ErrorIs(t, err, syscall.ECONNREFUSED)
		require.Equal(t, tcpclient.ClassTemporary, tcpclient.Classify(err))
		require.ErrorContains(t, err, "refused")
	})
}

func TestAddressesThatCannotBe(t *testing.T) {
	for _, address := range []string{"", "127.0.0.1:nosuchservice"} {
		t.Run(address, func(t *testing.T) { // P8: they are not tried again
			d := tcpclient.Dialer{Reconnect: &tcpclient.Backoff{FirstDial: true}}
			_, err := d.Dial(testkit.Within(t, testkit.Patience), "tcp", address)
			require.Error(t, err)
			require.NotErrorIs(t, err, context.DeadlineExceeded)
			require.Equal(t, tcpclient.ClassPermanent, tcpclient.Classify(err))
		})
	}
}

func TestNilConnectionsOfAllKinds(t *testing.T) {
	for name, conn := range map[string]net.Conn{"nil": nil, "*tls.Conn": (*tls.Conn)(nil), "*net.TCPConn": (*net.TCPConn)(nil)} {
		t.Run(name, func(t *testing.T) {
			d := tcpclient.Dialer{DialContext: func(context.Context, string, string) (net.Conn, error) { return conn, nil }}
			_, err := d.Dial(t.Context(), "tcp", "server:1")
			require.ErrorContains(t, err, "DialContext")
		})
	}
}
