package tcpclienttest_test

import (
	"context"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/seed-d0aa0aa7/tcpclient"
	"github.com/seed-d0aa0aa7/tcpclient/internal/testkit"
	"github.com/seed-d0aa0aa7/tcpclient/tcpclienttest"
	"github.com/stretchr/testify/require"
)

// withFaults runs test in a bubble with a connection whose near end has the faults, and
// without one on TCP.
func withFaults(t *testing.T, faults tcpclienttest.Faults, test func(t *testing.T, near, far net.Conn)) {
	run := func(pair func(*testing.T) (near, far net.Conn)) func(*testing.T) {
		return func(t *testing.T) {
			near, far := pair(t)
			near = faults.Wrap(near)
			defer near.Close()
			defer far.Close()
			test(t, near, far)
		}
	}
	t.Run("memory", func(t *testing.T) { synctest.Test(t, run(memoryPair)) })
	t.Run("tcp", run(tcpPair))
}

func TestFaults_Chunk(t *testing.T) {
	faults := tcpclienttest.Faults{Read: tcpclienttest.Fault{Chunk: 2}, Write: tcpclienttest.Fault{Chunk: 3}}
	withFaults(t, faults, func(t *testing.T, near, far net.Conn) {
		_, err := far.Write([]byte("hello"))
		require.NoError(t, err)
		var got []string
		for len(strings.Join(got, "")) < 5 {
			buf := make([]byte, 10)
			n, err := near.Read(buf)
			require.NoError(t, err)
			got = append(got, string(buf[:n]))
		}
		require.Equal(t, []string{"he", "ll", "o"}, got)

		counting := &countingConn{Conn: far}
		n, err := faults.Wrap(counting).Write([]byte("goodbye"))
		require.NoError(t, err)
		require.Equal(t, 7, n)
		require.Equal(t, []string{"goo", "dby", "e"}, counting.writes)
	})
}

type countingConn struct {
	net.Conn
	writes []string
}

func (c *countingConn) Write(p []byte) (int, error) {
	c.writes = append(c.writes, string(p))
	return c.Conn.Write(p)
}

func TestFaults_Pause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := memoryPair(t)
		trickle := tcpclienttest.Fault{Chunk: 1, Pause: time.Second}
		near = tcpclienttest.Faults{Read: trickle, Write: trickle}.Wrap(near)
		defer far.Close()
		defer near.Close()

		_, err := far.Write([]byte("hello"))
		require.NoError(t, err)
		began := time.Now()
		_, err = io.ReadFull(near, make([]byte, 3))
		require.NoError(t, err)
		require.Equal(t, 2*time.Second, time.Since(began))

		// A deadline does not start the pause anew.
		require.NoError(t, near.SetReadDeadline(time.Now().Add(700*time.Millisecond)))
		_, err = near.Read(make([]byte, 1))
		requireTimeout(t, err)
		require.NoError(t, near.SetReadDeadline(time.Time{}))
		_, err = near.Read(make([]byte, 1))
		require.NoError(t, err)
		require.Equal(t, 3*time.Second, time.Since(began))

		began = time.Now()
		require.NoError(t, near.SetWriteDeadline(began.Add(2500*time.Millisecond)))
		n, err := near.Write([]byte("hello"))
		requireTimeout(t, err)
		require.Equal(t, 3, n)
		require.Equal(t, 2500*time.Millisecond, time.Since(began))
	})
}

func TestFaults_Cut(t *testing.T) {
	t.Run("of reads", func(t *testing.T) {
		withFaults(t, tcpclienttest.Faults{Read: tcpclienttest.Fault{After: 3, Then: tcpclienttest.Cut}}, func(t *testing.T, near, far net.Conn) {
			_, err := far.Write([]byte("hello"))
			require.NoError(t, err)
			got, err := io.ReadAll(near)
			require.NoError(t, err)
			require.Equal(t, "hel", string(got))
			_, err = near.Write([]byte("x"))
			require.ErrorIs(t, err, syscall.EPIPE)
			require.NoError(t, near.SetDeadline(time.Now()))
			_, err = far.Read(make([]byte, 1))
			require.Equal(t, io.EOF, err, "also where something was left to read")
			require.NoError(t, near.Close())
			_, err = near.Read(make([]byte, 1))
			require.ErrorIs(t, err, net.ErrClosed)
			require.ErrorIs(t, near.Close(), net.ErrClosed)
		})
	})
	t.Run("of writes", func(t *testing.T) {
		withFaults(t, tcpclienttest.Faults{Write: tcpclienttest.Fault{After: 3, Then: tcpclienttest.Cut}}, func(t *testing.T, near, far net.Conn) {
			reading := async(read(near, 1))
			n, err := near.Write([]byte("he"))
			require.NoError(t, err)
			require.Equal(t, 2, n)
			n, err = near.Write([]byte("llo"))
			require.ErrorIs(t, err, syscall.EPIPE)
			require.Equal(t, 1, n)
			require.Equal(t, result{0, io.EOF}, <-reading)
			got, err := io.ReadAll(far)
			require.NoError(t, err)
			require.Equal(t, "hel", string(got))
		})
	})
	t.Run("from the beginning", func(t *testing.T) {
		withFaults(t, tcpclienttest.Faults{Write: tcpclienttest.Fault{Then: tcpclienttest.Cut}}, func(t *testing.T, near, far net.Conn) {
			_, err := far.Read(make([]byte, 1))
			require.Equal(t, io.EOF, err)
			_, err = near.Read(make([]byte, 1))
			require.Equal(t, io.EOF, err)
		})
	})
}

func TestFaults_Reset(t *testing.T) {
	withFaults(t, tcpclienttest.Faults{Write: tcpclienttest.Fault{After: 3, Then: tcpclienttest.Reset}}, func(t *testing.T, near, far net.Conn) {
		reading, farReading := async(read(near, 1)), async(func() (int, error) { return io.ReadFull(far, make([]byte, 4)) })
		n, err := near.Write([]byte("hello"))
		require.Equal(t, 3, n)
		require.Equal(t, syscall.ECONNRESET, requireOpError(t, "write", err))
		require.Equal(t, syscall.ECONNRESET, requireOpError(t, "read", (<-reading).err))
		testkit.RequireErrno(t, (<-farReading).err, syscall.ECONNRESET)
	})
}

// A nameless connection has no addresses.
type nameless struct{ net.Conn }

func (nameless) LocalAddr() net.Addr  { return nil }
func (nameless) RemoteAddr() net.Addr { return nil }

func TestFaults_withoutAddresses(t *testing.T) {
	near, far := net.Pipe()
	defer far.Close()
	conn := tcpclienttest.Faults{Write: tcpclienttest.Fault{Then: tcpclienttest.Reset}}.Wrap(nameless{near})
	_, err := conn.Write([]byte("x"))
	require.ErrorIs(t, err, syscall.ECONNRESET)
	require.NoError(t, conn.Close())
}

func TestFaults_CloseWrite(t *testing.T) {
	for action, want := range map[tcpclienttest.Action]error{tcpclienttest.Cut: nil, tcpclienttest.Reset: syscall.ENOTCONN} {
		withFaults(t, tcpclienttest.Faults{Write: tcpclienttest.Fault{After: 3, Then: action}}, func(t *testing.T, near, far net.Conn) {
			_, err := near.Write([]byte("abc"))
			require.NoError(t, err)
			require.ErrorIs(t, near.(interface{ CloseWrite() error }).CloseWrite(), want, action)
		})
	}

	synctest.Test(t, func(t *testing.T) {
		network := tcpclienttest.NewNetwork()
		l, err := network.Listen("server:1")
		require.NoError(t, err)
		server := tcpclienttest.NewServerOn(l, nil, tcpclienttest.Echo)
		defer server.Close()
		for range 100 {
			dialer := tcpclient.Dialer{DialContext: tcpclienttest.Faults{
				Write: tcpclienttest.Fault{After: 9, Then: tcpclienttest.Reset},
			}.DialContext(network.DialContext)}
			c, err := dialer.Dial(t.Context(), "tcp", server.Addr)
			require.NoError(t, err)
			require.NoError(t, c.Write(t.Context(), []byte("hello")))
			require.ErrorIs(t, c.Shutdown(t.Context()), syscall.ECONNRESET)
		}
	})
}

// requireText reads as many bytes as want has, and compares them.
func requireText(t *testing.T, conn net.Conn, want string) {
	t.Helper()
	got := make([]byte, len(want))
	_, err := io.ReadFull(conn, got)
	require.NoError(t, err)
	require.Equal(t, want, string(got))
}

func TestFaults_Stall(t *testing.T) {
	stall := tcpclienttest.Fault{After: 3, Then: tcpclienttest.Stall}
	withFaults(t, tcpclienttest.Faults{Read: stall, Write: stall}, func(t *testing.T, near, far net.Conn) {
		_, err := far.Write([]byte("hello"))
		require.NoError(t, err)
		requireText(t, near, "hel")
		require.NoError(t, near.SetDeadline(time.Now().Add(50*time.Millisecond)))
		got, err := io.ReadAll(near)
		requireTimeout(t, err)
		require.Empty(t, got)
		n, err := near.Write([]byte("hello"))
		requireTimeout(t, err)
		if n == 0 { // this machine was slow
			require.NoError(t, near.SetDeadline(time.Time{}))
			n, _ = near.Write([]byte("hel"))
		}
		require.Equal(t, 3, n)

		require.NoError(t, near.SetDeadline(time.Time{}))
		n, err = near.Write(nil)
		require.NoError(t, err)
		require.Zero(t, n)
		reading, writing, another := async(read(near, 1)), async(write(near, 1)), async(write(near, 1))
		require.NoError(t, near.SetReadDeadline(time.Unix(1, 0)))
		requireTimeout(t, (<-reading).err)
		require.NoError(t, near.(interface{ CloseWrite() error }).CloseWrite())
		require.NoError(t, near.Close())
		require.ErrorIs(t, (<-writing).err, net.ErrClosed)
		require.ErrorIs(t, (<-another).err, net.ErrClosed)
	})
}

func TestFaults_Drop(t *testing.T) {
	drop := tcpclienttest.Fault{After: 3, Then: tcpclienttest.Drop}
	withFaults(t, tcpclienttest.Faults{Read: drop, Write: drop}, func(t *testing.T, near, far net.Conn) {
		for _, text := range []string{"he", "llo", "more"} {
			n, err := near.Write([]byte(text))
			require.NoError(t, err)
			require.Equal(t, len(text), n)
		}
		_, err := far.Write([]byte("hello"))
		require.NoError(t, err)
		require.NoError(t, far.(interface{ CloseWrite() error }).CloseWrite())
		requireText(t, near, "hel")
		require.NoError(t, near.SetReadDeadline(time.Now().Add(50*time.Millisecond)))
		got, err := io.ReadAll(near)
		requireTimeout(t, err)
		require.Empty(t, got)
		require.NoError(t, near.SetReadDeadline(time.Time{}))
		reading := async(read(near, 1))
		require.NoError(t, near.Close())
		require.ErrorIs(t, (<-reading).err, net.ErrClosed)
		got, err = io.ReadAll(far)
		require.NoError(t, err)
		require.Equal(t, "hel", string(got))
	})
}

// P2, P5: a Client meets a host that vanished in silence.
func TestFaults_DialContext_and_Listener(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := tcpclienttest.NewNetwork()
		l, err := network.Listen("server:1")
		require.NoError(t, err)
		slow := tcpclienttest.Faults{Read: tcpclienttest.Fault{Chunk: 1, Pause: time.Millisecond}}
		server := tcpclienttest.NewServerOn(slow.Listener(l), nil, tcpclienttest.Echo)
		gone := tcpclienttest.Faults{
			Read:  tcpclienttest.Fault{After: 9, Then: tcpclienttest.Drop},
			Write: tcpclienttest.Fault{After: 9, Then: tcpclienttest.Drop},
		}
		dialer := tcpclient.Dialer{
			DialContext: gone.DialContext(network.DialContext),
			Heartbeat:   tcpclient.Heartbeat{Interval: time.Minute, Ping: func() []byte { return []byte("ping") }},
		}
		c, err := dialer.Dial(t.Context(), "tcp", server.Addr)
		require.NoError(t, err)
		require.NoError(t, c.Send(t.Context(), []byte("hello")))
		began := time.Now()
		msg, err := c.Receive(t.Context())
		require.NoError(t, err)
		require.Equal(t, "hello", string(msg))
		require.Equal(t, 8*time.Millisecond, time.Since(began))
		_, err = c.Receive(t.Context())
		require.ErrorIs(t, err, tcpclient.ErrHeartbeatTimeout)
		c.Close()
		server.ResetConnections()
		require.NoError(t, server.Close())
		_, err = gone.DialContext(network.DialContext)(t.Context(), "tcp", server.Addr)
		require.ErrorIs(t, err, syscall.ECONNREFUSED)
	})
	dial := tcpclienttest.Faults{}.DialContext(nil)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := dial(ctx, "tcp", "127.0.0.1:1")
	require.ErrorIs(t, err, context.Canceled)
}

func TestAction_String(t *testing.T) {
	var names []string
	for a := range tcpclienttest.Drop + 2 {
		names = append(names, a.String())
	}
	require.Equal(t, []string{"nothing", "cut", "reset", "stall", "drop", "action 5"}, names)
}

// listenUnix listens on a socket in a directory with a short name: that of t.TempDir may be
// longer than a socket's.
func listenUnix(t *testing.T) net.Listener {
	t.Helper()
	testkit.SkipUnderWine(t, "Unix sockets")
	dir, err := os.MkdirTemp("", "kit")
	require.NoError(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	l, err := net.Listen("unix", filepath.Join(dir, "s"))
	require.NoError(t, err)
	t.Cleanup(func() { l.Close() })
	return l
}

// unixPair is a connection over a Unix socket.
func unixPair(t *testing.T) (near, far net.Conn) {
	l := listenUnix(t)
	near, err := net.Dial("unix", l.Addr().String())
	require.NoError(t, err)
	far, err = l.Accept()
	require.NoError(t, err)
	return near, far
}

func TestFaults_Cut_with_unread_data(t *testing.T) {
	for name, pair := range map[string]func(*testing.T) (near, far net.Conn){"tcp": tcpPair, "unix": unixPair} {
		// cut has a peer that has said a thousand bytes, and cuts after seven of them.
		cut := func(t *testing.T) (near, far net.Conn) {
			near, far = pair(t)
			t.Cleanup(func() { near.Close(); far.Close() })
			near = tcpclienttest.Faults{Read: tcpclienttest.Fault{After: 7, Then: tcpclienttest.Cut}}.Wrap(near)
			_, err := far.Write(make([]byte, 1000))
			require.NoError(t, err)
			return near, far
		}

		t.Run("the peer reads what was written, then io.EOF: "+name, func(t *testing.T) {
			near, far := cut(t)
			_, err := near.Write([]byte("before"))
			require.NoError(t, err)
			got, err := io.ReadAll(near)
			require.NoError(t, err)
			require.Len(t, got, 7)
			got, err = io.ReadAll(far)
			require.NoError(t, err)
			require.Equal(t, "before", string(got))
			require.NoError(t, near.Close())
		})

		t.Run("so does a peer that reads when all is closed: "+name, func(t *testing.T) {
			near, far := cut(t)
			_, err := near.Write(make([]byte, 50_000))
			require.NoError(t, err)
			_, err = io.ReadAll(near)
			require.NoError(t, err)
			require.NoError(t, near.Close())
			got, err := io.ReadAll(far)
			require.NoError(t, err)
			require.Len(t, got, 50_000)
		})

		t.Run("the deadlines of the program do not matter: "+name, func(t *testing.T) {
			near, far := pair(t)
			defer near.Close()
			defer far.Close()
			near = tcpclienttest.Faults{Write: tcpclienttest.Fault{After: 6, Then: tcpclienttest.Cut}}.Wrap(near)
			_, err := far.Write(make([]byte, 1000))
			require.NoError(t, err)
			require.NoError(t, near.SetReadDeadline(time.Now().Add(-time.Second)))
			_, err = near.Write([]byte("before, and not this"))
			require.ErrorIs(t, err, syscall.EPIPE)
			got, err := io.ReadAll(far)
			require.NoError(t, err)
			require.Equal(t, "before", string(got))
		})
	}
}

func TestFaults_Cut_of_a_peer_that_goes_on_sending(t *testing.T) {
	near, far := tcpPair(t)
	defer far.Close()
	near = tcpclienttest.Faults{Read: tcpclienttest.Fault{After: 1 << 20, Then: tcpclienttest.Cut}}.Wrap(near)
	defer near.Close()
	_, err := near.Write([]byte("before"))
	require.NoError(t, err)
	sending := async(func() (n int, err error) {
		for err == nil {
			_, err = far.Write(make([]byte, 64<<10))
		}
		return 0, err
	})
	got, err := io.Copy(io.Discard, near)
	require.NoError(t, err)
	require.EqualValues(t, 1<<20, got)
	require.Error(t, (<-sending).err, "the peer's writes fail")
	said := make([]byte, 6)
	_, err = io.ReadFull(far, said)
	require.NoError(t, err)
	require.Equal(t, "before", string(said))
}
