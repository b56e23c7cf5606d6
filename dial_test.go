package tcpclient_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"strings"
	"sync/atomic"
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

func TestDialPermanentError(t *testing.T) {
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

	t.Run("is not what a Handshake says after Timeout, but its error is found", testkit.InBubble(func(t *testing.T) { // P9
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

func TestDialTimeout(t *testing.T) {
	inMemory := func(t *testing.T, d tcpclient.Dialer, wait func(ctx context.Context)) error {
		n := tcpclienttest.NewNetwork()
		d.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
			wait(ctx)
			return n.DialContext(context.Background(), network, address)
		}
		_, err := testkit.ListenNetwork(t, n).TryDial(t.Context(), d)
		return err
	}

	t.Run("that is over when DialContext returns leaves nothing to the Handshake", testkit.InBubble(func(t *testing.T) { // P2
		err := inMemory(t, tcpclient.Dialer{
			Timeout: time.Second,
			Handshake: func(context.Context, *tcpclient.Conn) error {
				assert.Fail(t, "the Handshake was called")
				return nil
			},
		}, func(ctx context.Context) { <-ctx.Done() })
		require.ErrorIs(t, err, os.ErrDeadlineExceeded)
		require.Equal(t, "dial", testkit.OpError(t, err).Op)
	}))

	t.Run("that passes in the Handshake counts, however soon that returns nil", func(t *testing.T) { // P2
		for range 20 {
			err := inMemory(t, tcpclient.Dialer{
				Timeout: time.Millisecond,
				Handshake: func(ctx context.Context, _ *tcpclient.Conn) error {
					for ctx.Err() == nil { // sees it before those that wait for it are woken
					}
					return nil
				},
			}, func(context.Context) {})
			require.ErrorIs(t, err, os.ErrDeadlineExceeded)
		}
	})

	t.Run("makes a timeout of what a hook says then, ErrClosed included", testkit.InBubble(func(t *testing.T) { // P9
		_, err := testkit.ListenMemory(t).TryDial(t.Context(), tcpclient.Dialer{
			Timeout: time.Second,
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				<-ctx.Done()
				return nil, net.ErrClosed
			},
		})
		require.ErrorIs(t, err, os.ErrDeadlineExceeded)
		require.ErrorIs(t, err, net.ErrClosed)
	}))

	t.Run("makes a timeout of a deadline that has passed a moment before", testkit.InBubble(func(t *testing.T) { // P9
		_, err := testkit.ListenMemory(t).TryDial(t.Context(), tcpclient.Dialer{
			Timeout:     time.Second,
			DialContext: func(context.Context, string, string) (net.Conn, error) { return nil, os.ErrDeadlineExceeded },
		})
		require.ErrorIs(t, err, os.ErrDeadlineExceeded)
		require.ErrorContains(t, err, "connecting")
	}))

	t.Run("in the moment of the connection leaves none behind", func(t *testing.T) { // P2, P6
		l := testkit.ListenMemory(t)
		for range 1000 {
			ctx, cancel := context.WithCancel(t.Context())
			c, err := l.TryDial(ctx, tcpclient.Dialer{Handshake: func(context.Context, *tcpclient.Conn) error {
				go cancel()
				return nil
			}})
			p := l.AcceptPeer(t)
			if err == nil {
				require.NoError(t, c.Close())
			}
			testkit.RequireFast(t, "the end", func() { _, err = p.Next() })
			require.ErrorIs(t, err, io.EOF)
		}
	})

	t.Run("is not what ends an attempt that is cancelled", testkit.InBubble(func(t *testing.T) { // P2, P9
		rec := testkit.NewRecorder()
		ctx, cancel := context.WithCancel(t.Context())
		_, err := testkit.ListenMemory(t).TryDial(ctx, tcpclient.Dialer{
			Trace: rec.Trace(),
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				cancel()
				<-ctx.Done()
				return nil, errors.New("interrupted")
			},
		})
		require.ErrorIs(t, err, context.Canceled)
		failed := rec.All("ConnectFailed")
		require.Len(t, failed, 1)
		require.Equal(t, context.Canceled, testkit.OpError(t, failed[0].Err).Err)
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

func TestDialCallsTheControlOfTheNetDialer(t *testing.T) {
	boo := errors.New("boo")
	for name, dialer := range map[string]*net.Dialer{
		"Control":        {Control: func(string, string, syscall.RawConn) error { return boo }},
		"ControlContext": {ControlContext: func(context.Context, string, string, syscall.RawConn) error { return boo }},
	} {
		_, err := testkit.ListenTCP(t).TryDial(t.Context(), tcpclient.Dialer{NetDialer: dialer})
		require.ErrorIs(t, err, boo, name)
	}
}

func TestDialToItself(t *testing.T) {
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

func TestDialPanic(t *testing.T) {
	t.Run("of a method of the connection closes the connection", testkit.InBubble(func(t *testing.T) { // P6
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

	t.Run("of two of its methods is the first", testkit.InBubble(func(t *testing.T) { // P6
		n := tcpclienttest.NewNetwork()
		_, err := testkit.ListenNetwork(t, n).TryDial(t.Context(), tcpclient.Dialer{
			DialContext: testkit.Wrapping(n.DialContext, func(conn net.Conn) net.Conn {
				return &testkit.HookedConn{Conn: conn, OnDeadline: func() error { panic("no deadlines here") }, OnClose: func() {
					conn.Close()
					panic("no Close either")
				}}
			}),
		})
		require.ErrorContains(t, err, "no deadlines here")
	}))
}

func TestDialWithWrongSettings(t *testing.T) {
	t.Run("names all of them in one line", func(t *testing.T) { // P9
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

func TestDialDoesNotRetryAnAddressThatCannotBe(t *testing.T) {
	for name, address := range map[string]string{"empty": "", "of an unknown service": "127.0.0.1:nosuchservice"} {
		t.Run(name, func(t *testing.T) { // P8: they are not tried again
			d := tcpclient.Dialer{Reconnect: &tcpclient.Backoff{FirstDial: true}}
			_, err := d.Dial(testkit.Within(t, testkit.Patience), "tcp", address)
			require.Error(t, err)
			require.NotErrorIs(t, err, context.DeadlineExceeded)
			require.Equal(t, tcpclient.ClassPermanent, tcpclient.Classify(err))
		})
	}
}

func TestDialRefusesANilConnectionOfAnyType(t *testing.T) {
	for name, conn := range map[string]net.Conn{"nil": nil, "*tls.Conn": (*tls.Conn)(nil), "*net.TCPConn": (*net.TCPConn)(nil)} {
		t.Run(name, func(t *testing.T) {
			d := tcpclient.Dialer{DialContext: func(context.Context, string, string) (net.Conn, error) { return conn, nil }}
			_, err := d.Dial(t.Context(), "tcp", "server:1")
			require.ErrorContains(t, err, "DialContext")
		})
	}
}

// noDialing is a DialContext that must not be called.
func noDialing(t testing.TB) func(context.Context, string, string) (net.Conn, error) {
	return func(context.Context, string, string) (net.Conn, error) {
		t.Error("dialed with wrong settings")
		return nil, net.ErrClosed
	}
}

func TestSettings(t *testing.T) {
	for _, test := range []struct {
		name string
		d    tcpclient.Dialer
		want []string // in the error: fields and values
	}{
		{"negative FlushDelay", tcpclient.Dialer{FlushDelay: -time.Second}, []string{"FlushDelay", "-1s"}},
		{"negative UserTimeout", tcpclient.Dialer{UserTimeout: -time.Second}, []string{"UserTimeout", "-1s"}},
		{"negative Heartbeat.Interval", tcpclient.Dialer{Heartbeat: tcpclient.Heartbeat{Interval: -1}}, []string{"Heartbeat.Interval", "-1ns"}},
		{"negative Heartbeat.Timeout", tcpclient.Dialer{Heartbeat: tcpclient.Heartbeat{Interval: 1, Timeout: -1}}, []string{"Heartbeat.Timeout", "-1ns"}},
		{"Heartbeat.Timeout without Interval", tcpclient.Dialer{Heartbeat: tcpclient.Heartbeat{Timeout: time.Second}}, []string{"Heartbeat.Timeout", "1s", "Interval"}},
		{"Heartbeat.Timeout that does not exceed Interval", tcpclient.Dialer{Heartbeat: tcpclient.Heartbeat{Interval: 2 * time.Second, Timeout: 2 * time.Second}}, []string{"Heartbeat.Timeout", "2s", "Interval"}},
		{"UserTimeout below Heartbeat.Timeout", tcpclient.Dialer{UserTimeout: 19 * time.Second, Heartbeat: tcpclient.Heartbeat{Interval: 10 * time.Second}}, []string{"UserTimeout", "19s", "20s"}},
		{"negative ReadBuffer", tcpclient.Dialer{ReadBuffer: -7}, []string{"ReadBuffer", "-7"}},
		{"negative WriteBuffer", tcpclient.Dialer{WriteBuffer: -7}, []string{"WriteBuffer", "-7"}},
		{"negative Inbox", tcpclient.Dialer{Inbox: -7}, []string{"Inbox", "-7"}},
		{"LengthPrefix.Width", tcpclient.Dialer{Framer: tcpclient.LengthPrefix{Width: 9}}, []string{"LengthPrefix", "Width", "9"}},
		{"LengthPrefix.MaxSize", tcpclient.Dialer{Framer: tcpclient.LengthPrefix{MaxSize: -9}}, []string{"MaxSize", "-9"}},
		{"a Framer by pointer", tcpclient.Dialer{Framer: &tcpclient.LengthPrefix{Width: 9}}, []string{"LengthPrefix", "Width", "9"}},
		{"IDField.Width", tcpclient.Dialer{Correlator: tcpclient.IDField{Width: 9}}, []string{"Correlator", "Width", "9"}},
		{"Backoff.Min", tcpclient.Dialer{Reconnect: &tcpclient.Backoff{Min: -1}}, []string{"Reconnect.Min", "-1ns"}},
		{"Backoff.Max", tcpclient.Dialer{Reconnect: &tcpclient.Backoff{Max: -1}}, []string{"Reconnect.Max", "-1ns"}},
		{"Backoff.Max below Min", tcpclient.Dialer{Reconnect: &tcpclient.Backoff{Min: 2 * time.Second, Max: time.Second}}, []string{"Reconnect.Max", "1s", "2s"}},
		{"Backoff.MaxAttempts", tcpclient.Dialer{Reconnect: &tcpclient.Backoff{MaxAttempts: -3}}, []string{"Reconnect.MaxAttempts", "-3"}},
		{"several at once", tcpclient.Dialer{ReadBuffer: -1, Inbox: -2, FlushDelay: -3, Framer: tcpclient.LengthPrefix{Width: 10}, Reconnect: &tcpclient.Backoff{Min: -4}}, []string{"ReadBuffer", "-1", "Inbox", "-2", "FlushDelay", "-3ns", "Width", "10", "Reconnect.Min", "-4ns"}},
	} {
		t.Run("refuses "+test.name, func(t *testing.T) { // section 2: refused at once, naming field and value
			d := test.d
			d.DialContext = noDialing(t)
			c, err := d.Dial(t.Context(), "tcp", "server:9")
			require.Error(t, err)
			require.Nil(t, c)
			require.Equal(t, "dial", testkit.OpError(t, err).Op)
			require.Equal(t, tcpclient.ClassPermanent, tcpclient.Classify(err))
			for _, want := range test.want {
				assert.ErrorContains(t, err, want)
			}
			require.Equal(t, 1, strings.Count(err.Error(), "tcpclient: "))
		})
	}

	t.Run("negative is off for the timeouts", func(t *testing.T) {
		c, p := testkit.ConnectMemory(t, tcpclient.Dialer{Timeout: -1, WriteTimeout: -1, FrameTimeout: -1})
		testkit.RequireAlive(t, c, p)
	})

	t.Run("wrong ones are told before a context that is done", func(t *testing.T) {
		_, err := (&tcpclient.Dialer{Inbox: -1}).Dial(testkit.Canceled(t), "tcp", "server:9")
		require.ErrorContains(t, err, "Inbox")
	})

	t.Run("TLS needs a name to check", func(t *testing.T) {
		for network, address := range map[string]string{"tcp": ":9", "unix": "/run/server"} {
			_, err := (&tcpclient.Dialer{TLSConfig: &tls.Config{}, DialContext: noDialing(t)}).Dial(t.Context(), network, address)
			require.ErrorContains(t, err, "ServerName")
			require.Equal(t, tcpclient.ClassPermanent, tcpclient.Classify(err))
		}
	})

	t.Run("TLS needs no name with InsecureSkipVerify", func(t *testing.T) {
		_, err := (&tcpclient.Dialer{
			TLSConfig:   &tls.Config{InsecureSkipVerify: true},
			DialContext: func(context.Context, string, string) (net.Conn, error) { return nil, testkit.ErrRefused },
		}).Dial(t.Context(), "unix", "/run/server")
		require.ErrorIs(t, err, testkit.ErrRefused)
	})

	t.Run("the smallest buffers work", func(t *testing.T) { // FAULTS S4
		for _, size := range []int{1, 2, 15, 16, 17} {
			c, p := testkit.ConnectMemory(t, tcpclient.Dialer{ReadBuffer: size, WriteBuffer: size, Inbox: size})
			go p.Echo()
			for _, n := range []int{0, 1, 15, 16, 17, 5000} {
				require.NoError(t, c.Write(t.Context(), testkit.Pattern(n)))
				require.NoError(t, c.Write(t.Context(), testkit.Pattern(n)))
				require.NoError(t, c.Flush(t.Context()))
				for range 2 {
					msg, err := c.Receive(t.Context())
					require.NoError(t, err)
					require.Equal(t, testkit.PatternText(n), string(msg))
				}
			}
		}
	})

	t.Run("on and off work for Nagle", func(t *testing.T) {
		for _, nagle := range []bool{false, true} {
			c, p := testkit.TransportNamed("tcp").Connect(t, tcpclient.Dialer{Nagle: nagle})
			testkit.RequireAlive(t, c, p)
		}
	})
}

func TestDialErrorText(t *testing.T) {
	t.Run("of attempts that are used up is that of one OpError", testkit.InBubble(func(t *testing.T) { // P9
		l := testkit.ListenMemory(t)
		address := l.Addr().String()
		l.Close()
		_, err := l.TryDial(t.Context(), tcpclient.Dialer{
			Reconnect: &tcpclient.Backoff{Min: time.Second, Max: time.Second, FirstDial: true, MaxAttempts: 3},
		})
		var op *tcpclient.OpError
		require.IsType(t, op, err)
		require.ErrorAs(t, err, &op)
		require.Equal(t, "dial", op.Op)
		require.Equal(t, address, op.Addr)
		require.Regexp(t, `^tcpclient: dial \S+: gave up after 3 attempts: dial [^\n]+$`, err.Error())
		require.NotRegexp(t, "tcpclient: .*tcpclient: ", err.Error())
	}))

	t.Run("does not say of one address that it was tried", func(t *testing.T) { // P9
		l := testkit.ListenTCP(t)
		l.Close()
		_, err := new(tcpclient.Dialer).Dial(t.Context(), "tcp", l.Addr().String())
		require.Error(t, err)
		require.NotContains(t, err.Error(), "tried")
	})
}

// A namelessConn is a connection that does not know its peer's address, and maybe not its own.
type namelessConn struct {
	net.Conn
	local, remote net.Addr
}

func (c namelessConn) LocalAddr() net.Addr  { return c.local }
func (c namelessConn) RemoteAddr() net.Addr { return c.remote }

func TestDialContextConnectionWithoutAddress(t *testing.T) {
	zero := &net.TCPAddr{IP: net.IPv4zero} // what an SSH channel says of both
	for name, c := range map[string]namelessConn{
		"of either end":                {},
		"of the peer":                  {local: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 1}},
		"that says something":          {local: zero, remote: zero},
		"but nil ones in an interface": {local: (*net.TCPAddr)(nil), remote: (*net.TCPAddr)(nil)},
	} {
		t.Run(name+" is used as any other", testkit.InBubble(func(t *testing.T) {
			n := tcpclienttest.NewNetwork()
			l := testkit.ListenNetwork(t, n)
			client, p := l.Connect(t, tcpclient.Dialer{DialContext: testkit.Wrapping(n.DialContext, func(conn net.Conn) net.Conn {
				c.Conn = conn
				return c
			})})
			testkit.RequireAlive(t, client, p)
			require.Equal(t, c.remote, client.RemoteAddr())
		}))
	}

	for name, handshake := range map[string]func(context.Context, *tcpclient.Conn) error{
		"":                   nil,
		", with a Handshake": testkit.Login,
	} {
		t.Run("of a socket that was reset before is one that failed"+name+", and the next is used", func(t *testing.T) { // P8, F5, C7
			stale := resetSocket(t)
			l := testkit.ListenTCP(t)
			l.Each(func(conn net.Conn) {
				p := testkit.NewPeer(t, conn)
				if handshake != nil {
					assert.Equal(t, "login", p.Receive())
					p.Send("welcome")
				}
				p.Send("hello")
			})
			backoff := testkit.FastBackoff()
			backoff.FirstDial = true
			rec := testkit.NewRecorder()
			attempts := 0
			c := l.Dial(t, tcpclient.Dialer{
				DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
					if attempts++; attempts == 1 {
						return stale, nil
					}
					return new(net.Dialer).DialContext(ctx, network, address)
				},
				Handshake: handshake, Reconnect: backoff, Trace: rec.Trace(),
			})
			var losses []error // without a Handshake the first read of it may be the one that fails
			msg, err := c.Receive(testkit.Within(t, testkit.Patience))
			if err != nil {
				losses = append(losses, err)
				msg, err = c.Receive(testkit.Within(t, testkit.Patience))
			}
			require.NoError(t, err)
			require.Equal(t, "hello", string(msg))
			require.NoError(t, c.Close())
			require.Equal(t, 2, attempts)
			for _, e := range rec.All("ConnectFailed") {
				losses = append(losses, e.Err)
			}
			require.Len(t, losses, 1)
			require.Equal(t, tcpclient.ClassDisconnected, tcpclient.Classify(losses[0]))
			if handshake != nil {
				require.Len(t, rec.All("Connected"), 1, "the attempt failed")
			}
		})
	}
}

// resetSocket returns a connection that its peer has reset before it was made of its socket: it has no
// remote address.
func resetSocket(t *testing.T) net.Conn {
	t.Helper()
	if runtime.GOOS == "windows" {
		t.Skip("Windows has no net.FileConn")
	}
	l := testkit.ListenTCP(t)
	near, err := net.Dial("tcp", l.Addr().String())
	require.NoError(t, err)
	defer near.Close()
	far := l.AcceptPeer(t)
	file, err := near.(*net.TCPConn).File()
	require.NoError(t, err)
	defer file.Close()
	far.Reset()
	var conn net.Conn
	testkit.Eventually(t, "the reset has come", func() bool {
		conn, err = net.FileConn(file)
		require.NoError(t, err)
		if conn.RemoteAddr() == nil {
			return true
		}
		require.NoError(t, conn.Close())
		return false
	})
	return conn
}

func TestHookThatReturnsErrClosed(t *testing.T) {
	// Such as a tunnel that was closed: it is no word on our own connection.
	for name, hook := range map[string]func(d *tcpclient.Dialer, fail func() error){
		"DialContext": func(d *tcpclient.Dialer, fail func() error) {
			dial := d.DialContext
			d.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
				if err := fail(); err != nil {
					return nil, err
				}
				return dial(ctx, network, address)
			}
		},
		"Handshake": func(d *tcpclient.Dialer, fail func() error) {
			d.Handshake = func(context.Context, *tcpclient.Conn) error { return fail() }
		},
	} {
		t.Run(name+" has failed in that attempt, and the next succeeds", testkit.InBubble(func(t *testing.T) { // P8
			n := tcpclienttest.NewNetwork()
			l := testkit.ListenNetwork(t, n)
			d := tcpclient.Dialer{DialContext: n.DialContext, Reconnect: &tcpclient.Backoff{}}
			calls := 0
			hook(&d, func() error {
				if calls++; calls == 2 {
					return fmt.Errorf("tunnel: %w", net.ErrClosed)
				}
				return nil
			})
			c, p := l.Connect(t, d)
			testkit.HangUp(p)
			_, err := c.Receive(t.Context())
			require.Equal(t, tcpclient.ClassDisconnected, tcpclient.Classify(err))
			p = l.AcceptPeer(t)
			if name == "Handshake" { // the one that failed has ended its connection
				_, err := p.Next()
				require.ErrorIs(t, err, io.EOF)
				p = l.AcceptPeer(t)
			}
			synctest.Wait()
			require.Equal(t, 3, calls)
			require.EqualValues(t, 2, c.Stats().Connects)
			testkit.RequireAlive(t, c, p)
		}))
	}

	t.Run("is the error of a Dial without Reconnect, to be tried again", func(t *testing.T) { // P9
		d := tcpclient.Dialer{DialContext: func(context.Context, string, string) (net.Conn, error) { return nil, net.ErrClosed }}
		_, err := d.Dial(t.Context(), "tcp", "x:1")
		require.ErrorIs(t, err, net.ErrClosed)
		require.Equal(t, tcpclient.ClassDisconnected, tcpclient.Classify(err))
	})
}

func TestDialContextValues(t *testing.T) {
	t.Run("are there in every later DialContext and Handshake, and the end of the context is not", testkit.InBubble(func(t *testing.T) { // P2, C8
		type key struct{}
		n := tcpclienttest.NewNetwork()
		l := testkit.ListenNetwork(t, n)
		values := make(chan any, 4)
		d := tcpclient.Dialer{
			DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
				values <- ctx.Value(key{})
				return n.DialContext(ctx, network, address)
			},
			Reconnect: &tcpclient.Backoff{},
			Handshake: func(ctx context.Context, _ *tcpclient.Conn) error {
				values <- ctx.Value(key{})
				return ctx.Err()
			},
		}
		ctx, cancel := context.WithCancel(context.WithValue(t.Context(), key{}, "trace"))
		c, err := d.Dial(ctx, "tcp", l.Addr().String())
		require.NoError(t, err)
		defer c.Close()
		p := l.AcceptPeer(t)
		cancel()
		testkit.HangUp(p)
		p = l.AcceptPeer(t)
		for range 4 {
			require.Equal(t, "trace", <-values)
		}
		_, err = c.Receive(t.Context())
		require.ErrorIs(t, err, tcpclient.ErrDisconnected)
		testkit.RequireAlive(t, c, p)
	}))
}

func TestDialRefusesTLSToAnAddressThatNamesNoHost(t *testing.T) {
	for _, address := range []string{"device", ":9000", ""} {
		d := tcpclient.Dialer{TLSConfig: new(tls.Config), DialContext: func(context.Context, string, string) (net.Conn, error) {
			require.Fail(t, "dialed")
			return nil, nil
		}, Reconnect: &tcpclient.Backoff{FirstDial: true}}
		_, err := d.Dial(t.Context(), "tcp", address)
		require.ErrorContains(t, err, "names no host", "%q", address)
		require.Equal(t, tcpclient.ClassPermanent, tcpclient.Classify(err))
	}
}

func TestDialRefusesANilFramer(t *testing.T) {
	require.NotPanics(t, func() {
		_, err := (&tcpclient.Dialer{Framer: (*tcpclient.Sized)(nil)}).Dial(t.Context(), "tcp", "127.0.0.1:1")
		require.Equal(t, tcpclient.ClassPermanent, tcpclient.Classify(err))
	})
}

func TestDialRefusesMethodsOfThePointer(t *testing.T) {
	d := tcpclient.Dialer{Correlator: shy{}, Reconnect: &tcpclient.Backoff{OnDemand: true}}
	c, err := d.Dial(t.Context(), "tcp", "127.0.0.1:1")
	if err == nil {
		c.Close()
	}
	require.ErrorContains(t, err, "RequestID")
}
