package tcpclient_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
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

func TestClassify(t *testing.T) { // P9
	const (
		temporary    = tcpclient.ClassTemporary
		disconnected = tcpclient.ClassDisconnected
		permanent    = tcpclient.ClassPermanent
	)
	op := func(op string, err error) error { return &tcpclient.OpError{Op: op, Addr: "a:1", Err: err} }
	netOp := func(err error) error { return &net.OpError{Op: "dial", Net: "tcp", Err: err} }
	for _, test := range []struct {
		err  error
		want tcpclient.Class
	}{
		{nil, 0},
		{context.Canceled, temporary},
		{context.DeadlineExceeded, temporary},
		{op("send", context.Canceled), temporary},
		{op("dial", context.DeadlineExceeded), temporary},
		{fmt.Errorf("wrapped: %w", context.Canceled), temporary},
		{op("call", tcpclient.ErrInboxFull), temporary},
		{io.EOF, disconnected},
		{io.ErrUnexpectedEOF, disconnected},
		{syscall.ECONNRESET, disconnected},
		{syscall.EPIPE, disconnected},
		{syscall.ETIMEDOUT, disconnected},
		{netOp(os.NewSyscallError("connect", syscall.ECONNREFUSED)), disconnected},
		{netOp(&net.DNSError{IsNotFound: true}), disconnected},
		{netOp(&net.DNSError{IsTimeout: true}), disconnected},
		{syscall.EMFILE, disconnected},
		{syscall.EADDRNOTAVAIL, disconnected},
		{os.ErrDeadlineExceeded, disconnected},
		{tcpclient.ErrDisconnected, disconnected},
		{tcpclient.ErrHeartbeatTimeout, disconnected},
		{tcpclient.ErrWriteTimeout, disconnected},
		{tcpclient.ErrFrameTimeout, disconnected},
		{op("handshake", errors.New("not ready yet")), disconnected},
		{op("dial", errors.New("proxy says no")), disconnected},
		{tcpclient.ErrClosed, permanent},
		{net.ErrClosed, permanent},
		{op("send", tcpclient.ErrClosed), permanent},
		{errors.New("unknown"), permanent},
		{op("send", errors.New("unknown")), permanent},
		{tcpclient.ErrInvalidFrame, permanent},
		{op("write", tcpclient.ErrInvalidFrame), permanent},
		{op("write", &tcpclient.FrameTooLargeError{}), permanent},
		{&net.AddrError{Err: "missing port"}, permanent},
		{netOp(net.UnknownNetworkError("tpc")), permanent},
		{&tls.CertificateVerificationError{Err: errors.New("x")}, permanent},
		{x509.UnknownAuthorityError{}, permanent},
		{errors.ErrUnsupported, permanent},
		{tcpclient.Permanent(io.EOF), permanent},
		{op("handshake", tcpclient.Permanent(errors.New("bad password"))), permanent},
		{op("handshake", fmt.Errorf("login: %w", tcpclient.Permanent(io.EOF))), permanent},
		// The outermost verdict counts.
		{tcpclient.Permanent(context.Canceled), permanent},
		// Of several, the most hopeful.
		{errors.Join(tcpclient.ErrClosed, io.EOF), disconnected},
		{op("dial", errors.Join(tcpclient.Permanent(io.EOF), syscall.ECONNREFUSED)), disconnected},
		{op("dial", errors.Join(tcpclient.Permanent(io.EOF), &net.AddrError{})), permanent},
	} {
		assert.Equal(t, test.want, tcpclient.Classify(test.err), "%v", test.err)
	}
}

func TestOpError(t *testing.T) { // P9
	tooLarge := &tcpclient.FrameTooLargeError{Size: 2097152, Max: 1048576}
	for _, test := range []struct {
		err  error
		want string
	}{
		{&tcpclient.OpError{Op: "send", Addr: "10.0.0.7:9000", Err: tooLarge}, "tcpclient: send 10.0.0.7:9000: frame too large: 2097152 bytes, limit 1048576"},
		{&tcpclient.OpError{Op: "receive", Err: io.EOF}, "tcpclient: receive: EOF"},
		{&tcpclient.OpError{Op: "dial", Addr: "a:1", Err: &tcpclient.OpError{Op: "handshake", Addr: "a:1", Err: io.EOF}}, "tcpclient: dial a:1: handshake a:1: EOF"},
	} {
		require.EqualError(t, test.err, test.want)
	}

	for err, want := range map[error]bool{
		tcpclient.ErrHeartbeatTimeout: true,
		tcpclient.ErrWriteTimeout:     true,
		tcpclient.ErrFrameTimeout:     true,
		context.DeadlineExceeded:      true,
		context.Canceled:              false,
		syscall.ETIMEDOUT:             true,
		io.EOF:                        false,
		tcpclient.ErrClosed:           false,
	} {
		require.Equal(t, want, (&tcpclient.OpError{Err: err}).Timeout(), "%v", err)
	}

	refused, silent := &tcpclient.OpError{Err: syscall.ECONNREFUSED}, &tcpclient.OpError{Err: os.ErrDeadlineExceeded}
	for _, errs := range [][]*tcpclient.OpError{{refused, silent}, {silent, refused}} { // P9
		i := -1
		d := tcpclient.Dialer{DialContext: func(context.Context, string, string) (net.Conn, error) {
			i++
			return nil, errs[i]
		}}
		_, err := d.Dial(t.Context(), "tcp", "a:1", "b:1")
		require.ErrorIs(t, err, os.ErrDeadlineExceeded)
		require.True(t, testkit.OpError(t, err).Timeout(), "of whichever address: %v", err)
	}

	var timeout net.Error
	require.False(t, errors.As(error(&tcpclient.OpError{Err: io.EOF}), &timeout) && timeout.Timeout())
}

func TestOpErrorNamesTheAddressInUse(t *testing.T) {
	testkit.InBubble(func(t *testing.T) { // P9
		n := tcpclienttest.NewNetwork()
		gone, l := testkit.ListenNetwork(t, n), testkit.ListenNetwork(t, n)
		gone.Close()
		c := dialMemory(t, n, tcpclient.Dialer{Framer: tcpclient.LengthPrefix{MaxSize: 1}}, gone, l)
		err := c.Send(t.Context(), []byte("too long"))
		require.Equal(t, l.Addr().String(), testkit.OpError(t, err).Addr)
	})(t)
}

func TestSentinels(t *testing.T) { // P9
	require.ErrorIs(t, tcpclient.ErrClosed, net.ErrClosed)
	require.NotErrorIs(t, tcpclient.ErrClosed, tcpclient.ErrDisconnected)
	for _, err := range []error{tcpclient.ErrHeartbeatTimeout, tcpclient.ErrWriteTimeout, tcpclient.ErrFrameTimeout} {
		require.NotErrorIs(t, err, os.ErrDeadlineExceeded, "that means that the connection is fine")
		require.NotErrorIs(t, err, context.DeadlineExceeded)
	}
	require.NoError(t, tcpclient.Permanent(nil))
	require.ErrorIs(t, tcpclient.Permanent(io.EOF), io.EOF)
	require.EqualError(t, tcpclient.Permanent(io.EOF), "EOF")
	for class, want := range map[tcpclient.Class]string{0: "none", 1: "temporary", 2: "disconnected", 3: "permanent", 9: "class 9"} {
		require.Equal(t, want, class.String())
	}
}

func TestFrameTooLargeError(t *testing.T) { // FAULTS F19
	for _, test := range []struct {
		size uint64
		head string
		want []string
	}{
		{0x48545450, "HTTP/1.1 400 Bad", []string{"1213486160", `"HTTP"`, "is this an HTTP server?"}},
		{0x5353482d, "SSH-2.0-OpenSSH_", []string{`"SSH-2.0`, "SSH"}},
		{0x15030100, "\x15\x03\x01\x00\x02\x02\x28", []string{"15 03 01", "TLS"}},
		{0xffffffff, "\xff\xff\xff\xff\x00", []string{"4294967295", "limit 1000"}},
		{0x0a0a0a0a, "\n\n\n\n\x1b[31m", []string{"168430090"}},
	} {
		err := &tcpclient.FrameTooLargeError{Size: test.size, Max: 1000, Header: []byte(test.head)}
		for _, want := range test.want {
			assert.ErrorContains(t, err, want)
		}
		assert.NotContains(t, err.Error(), "\x1b", "what a peer sends does not reach the terminal")
		assert.NotContains(t, err.Error(), "\n")
	}
}

func TestFirstErrorOfReaderAndWriter(t *testing.T) { // P9
	// The kernel tells the reason of a reset once, to the reader or to the writer. The other,
	// woken at the same time, learns EOF or EPIPE. Who has the reason may get no processor for
	// a while.
	const late, starved = true, 99 * time.Millisecond
	for name, test := range map[string]struct {
		late          bool // a write has timed out before: this one waits for the peer
		writer        error
		writerStarved time.Duration
		reader        error
		readerStarved time.Duration
		want          error
		within        time.Duration
	}{
		"is the writer's, who knows the reason":                                {false, syscall.ECONNRESET, starved, io.EOF, 0, syscall.ECONNRESET, starved},
		"is the writer's, who knows the reason, after a timeout":               {late, syscall.ETIMEDOUT, starved, io.EOF, 0, syscall.ETIMEDOUT, starved},
		"is the reader's, who knows the reason":                                {false, syscall.EPIPE, 0, syscall.ETIMEDOUT, starved, syscall.ETIMEDOUT, starved},
		"is the reader's, who knows the reason, after a timeout of the writer": {late, syscall.EPIPE, 0, syscall.ETIMEDOUT, starved, syscall.ETIMEDOUT, starved},
		"is EOF when neither knows, and the reader is late":                    {false, syscall.EPIPE, 0, io.EOF, time.Millisecond, io.EOF, time.Millisecond},
		"is EOF when neither knows, and the reader is late, after a timeout":   {late, syscall.EPIPE, 0, io.EOF, time.Millisecond, io.EOF, time.Millisecond},
		"is EOF when neither knows, and the writer is late":                    {false, syscall.EPIPE, time.Millisecond, io.EOF, 0, io.EOF, time.Millisecond},
		"is EOF when neither knows, and the writer is late, after a timeout":   {late, syscall.EPIPE, time.Millisecond, io.EOF, 0, io.EOF, time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				reset := make(chan struct{})
				timesOut := test.late
				c, _, _ := testkit.ConnectHooked(t, tcpclient.Dialer{}, func(w *testkit.HookedConn) {
					w.OnWrite = func([]byte) (int, error) {
						if timesOut {
							timesOut = false
							return 0, os.ErrDeadlineExceeded
						}
						<-reset
						time.Sleep(test.writerStarved)
						return 0, test.writer
					}
					w.OnRead = func([]byte) (int, error) {
						<-reset
						time.Sleep(test.readerStarved)
						return 0, test.reader
					}
				})
				sent := make(chan error, 1)
				go func() { sent <- c.Send(t.Context(), []byte("x")) }()
				synctest.Wait()
				began := time.Now()
				close(reset)
				_, err := c.Receive(t.Context())
				require.ErrorIs(t, err, test.want)
				require.LessOrEqual(t, time.Since(began), test.within)
				require.ErrorIs(t, <-sent, test.want)
			})
		})
	}

	t.Run("is the writer's, who knows the reason, on a connection without deadlines", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			reset := make(chan struct{})
			c, _, _ := testkit.ConnectHooked(t, tcpclient.Dialer{}, func(w *testkit.HookedConn) {
				w.OnDeadline = func() error { return errors.ErrUnsupported }
				w.OnWrite = func([]byte) (int, error) {
					<-reset
					time.Sleep(starved)
					return 0, syscall.ECONNRESET
				}
				w.OnRead = func([]byte) (int, error) {
					<-reset
					return 0, io.EOF
				}
			})
			sent := testkit.Start(t, func() error { return c.Send(t.Context(), []byte("x")) })
			time.Sleep(time.Second) // fake
			close(reset)
			_, err := c.Receive(t.Context())
			require.ErrorIs(t, err, syscall.ECONNRESET)
			require.ErrorIs(t, sent(), syscall.ECONNRESET)
		})
	})

	t.Run("is EOF soon after a peer hangs up that does not read", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			c, p, _ := testkit.ConnectHooked(t, tcpclient.Dialer{}, nil)
			sent := testkit.Start(t, func() error { return c.Send(t.Context(), testkit.Pattern(1<<20)) })
			time.Sleep(1003 * time.Millisecond) // fake, and not when a write ends anyway
			began := time.Now()
			p.HalfClose()
			_, err := c.Receive(t.Context())
			require.ErrorIs(t, err, io.EOF)
			require.LessOrEqual(t, time.Since(began), 50*time.Millisecond, "a write looks up that often")
			require.ErrorIs(t, sent(), io.EOF)
		})
	})
}

func TestFirstError(t *testing.T) {
	testkit.EachTransport(t, transporttest.FirstError)

	t.Run("of writing is told to those who receive, after the last words of the peer", func(t *testing.T) { // P1, P4, P9
		synctest.Test(t, func(t *testing.T) {
			c, p, w := testkit.ConnectHooked(t, tcpclient.Dialer{}, func(w *testkit.HookedConn) {
				w.OnWrite = func([]byte) (int, error) { return 0, syscall.EPIPE }
			})
			want := testkit.Numbered(50, 100)
			require.ErrorIs(t, c.Send(t.Context(), []byte("refused")), syscall.EPIPE)
			p.Send(want...)
			p.HalfClose()
			got, err := testkit.ReceiveAll(t, c)
			require.Equal(t, want, got)
			require.ErrorIs(t, err, syscall.EPIPE)
			require.NotErrorIs(t, err, io.EOF)
			require.Equal(t, 1, w.Writes(), "no further byte")
		})
	})

	t.Run("of writing ends the connection though the peer goes on sending", func(t *testing.T) { // P4
		synctest.Test(t, func(t *testing.T) {
			c, p, _ := testkit.ConnectHooked(t, tcpclient.Dialer{}, func(w *testkit.HookedConn) {
				w.OnWrite = func([]byte) (int, error) { return 0, syscall.EPIPE }
			})
			sender := testkit.Start(t, func() error {
				for {
					if _, err := p.Write(testkit.Frame("more")); err != nil {
						return err
					}
					time.Sleep(10 * time.Millisecond) // fake
				}
			})
			began := time.Now()
			require.ErrorIs(t, c.Send(t.Context(), []byte("refused")), syscall.EPIPE)
			_, err := testkit.ReceiveAll(t, c)
			require.ErrorIs(t, err, syscall.EPIPE)
			require.LessOrEqual(t, time.Since(began), 2*time.Second)
			require.Error(t, sender())
		})
	})

	t.Run("of writing leaves what has arrived to a slow receiver with a full Inbox", func(t *testing.T) { // P1
		synctest.Test(t, func(t *testing.T) {
			want := testkit.Numbered(100, 100)
			c, p, _ := testkit.ConnectHooked(t, tcpclient.Dialer{Inbox: 1000}, func(w *testkit.HookedConn) {
				w.OnWrite = func([]byte) (int, error) { return 0, syscall.EPIPE }
			})
			p.Send(want...) // all of it is in the read buffer soon
			synctest.Wait()
			require.ErrorIs(t, c.Send(t.Context(), []byte("refused")), syscall.EPIPE)
			synctest.Wait()
			got, err := testkit.ReceiveAll(t, c)
			require.Equal(t, len(want), len(got), "frames that arrived before an error are delivered before the error")
			require.ErrorIs(t, err, syscall.EPIPE)
		})
	})
}

func TestErrClosedOfOthers(t *testing.T) {
	t.Run("is the end of a connection, not our own Close", testkit.InBubble(func(t *testing.T) { // P9
		// Such as a tunnel through another Client may return.
		c, p := testkit.ConnectMemory(t, tcpclient.Dialer{Framer: testkit.FuncFramer{Read: func(r *bufio.Reader, dst []byte) ([]byte, error) {
			if _, err := r.ReadByte(); err != nil {
				return dst, err
			}
			return dst, tcpclient.ErrClosed
		}}})
		p.Send("x")
		_, err := c.Receive(t.Context())
		require.ErrorIs(t, err, tcpclient.ErrDisconnected)
		require.ErrorIs(t, c.Send(t.Context(), []byte("x")), tcpclient.ErrDisconnected)
	}))

	t.Run("in a write is the end of a connection too", testkit.InBubble(func(t *testing.T) { // P9
		c, _, _ := testkit.ConnectHooked(t, tcpclient.Dialer{}, func(w *testkit.HookedConn) {
			w.OnWrite = func([]byte) (int, error) { return 0, tcpclient.ErrClosed }
		})
		require.ErrorIs(t, c.Send(t.Context(), []byte("x")), tcpclient.ErrDisconnected)
	}))
}
