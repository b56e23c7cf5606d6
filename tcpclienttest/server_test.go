package tcpclienttest_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"sync"
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

// A client is a plain connection with the frames of LengthPrefix.
type client struct {
	net.Conn
	r *bufio.Reader
}

func dial(t *testing.T, network, addr string) *client {
	conn, err := net.Dial(network, addr)
	require.NoError(t, err)
	t.Cleanup(func() { conn.Close() })
	return &client{conn, bufio.NewReader(conn)}
}

func (c *client) send(msgs ...string) error {
	w := bufio.NewWriter(c.Conn)
	for _, msg := range msgs {
		if err := (tcpclient.LengthPrefix{}).WriteFrame(w, []byte(msg)); err != nil {
			return err
		}
	}
	return w.Flush()
}

func (c *client) receive() (string, error) {
	msg, err := tcpclient.LengthPrefix{}.ReadFrame(c.r, nil)
	return string(msg), err
}

func requireEcho(t *testing.T, c *client) {
	t.Helper()
	require.NoError(t, c.send("hello"))
	msg, err := c.receive()
	require.NoError(t, err)
	require.Equal(t, "hello", msg)
}

func TestServer_Echo(t *testing.T) {
	server := tcpclienttest.NewServer(nil, tcpclienttest.Echo)
	c := dial(t, "tcp", server.Addr)
	requireEcho(t, c)
	require.NoError(t, c.send("", "one", "two"))
	for _, want := range []string{"", "one", "two"} {
		msg, err := c.receive()
		require.NoError(t, err)
		require.Equal(t, want, msg)
	}

	// One and a half frames: the echo of the first does not wait for the rest.
	var out bytes.Buffer
	w := bufio.NewWriter(&out)
	tcpclient.LengthPrefix{}.WriteFrame(w, []byte("first"))
	tcpclient.LengthPrefix{}.WriteFrame(w, []byte("second"))
	w.Flush()
	_, err := c.Write(out.Next(12))
	require.NoError(t, err)
	msg, err := c.receive()
	require.NoError(t, err)
	require.Equal(t, "first", msg)
	_, err = c.Write(out.Bytes())
	require.NoError(t, err)
	require.NoError(t, c.Conn.(*net.TCPConn).CloseWrite())
	msg, err = c.receive()
	require.NoError(t, err)
	require.Equal(t, "second", msg)
	_, err = c.receive()
	require.Equal(t, io.EOF, err)
	require.NoError(t, server.Close())
	require.NoError(t, server.Close())
}

func TestServer_echoes_without_allocating(t *testing.T) {
	if testkit.RaceEnabled {
		t.Skip("the race detector allocates")
	}
	var network tcpclienttest.Network
	l, err := network.Listen("server:1")
	require.NoError(t, err)
	server := tcpclienttest.NewServerOn(l, nil, tcpclienttest.Echo)
	conn, err := network.DialContext(t.Context(), "tcp", server.Addr)
	require.NoError(t, err)
	frame := []byte("\x00\x00\x00\x05hello")
	round := func() {
		conn.Write(frame)
		io.ReadFull(conn, frame)
	}
	round()
	require.Zero(t, testing.AllocsPerRun(100, round))
	require.NoError(t, conn.Close())
	require.NoError(t, server.Close())
}

func TestServer_TLS(t *testing.T) {
	server := tcpclienttest.NewTLSServer(nil, tcpclienttest.Echo)
	require.Nil(t, tcpclienttest.NewServerOn(closedListener{}, nil, tcpclienttest.Echo).ClientTLSConfig())
	for _, name := range []string{"", "localhost", "example.com"} {
		config := server.ClientTLSConfig()
		config.ServerName = name
		dialer := tcpclient.Dialer{TLSConfig: config}
		c, err := dialer.Dial(t.Context(), "tcp", server.Addr)
		require.NoError(t, err)
		require.NoError(t, c.Send(t.Context(), []byte("hello")))
		msg, err := c.Receive(t.Context())
		require.NoError(t, err)
		require.Equal(t, "hello", string(msg))
		require.NoError(t, c.Close())
	}
	config := server.ClientTLSConfig()
	config.ServerName = "example.org"
	dialer := tcpclient.Dialer{TLSConfig: config}
	_, err := dialer.Dial(t.Context(), "tcp", server.Addr)
	require.ErrorContains(t, err, "certificate is valid for localhost, example.com, not example.org")
	require.NoError(t, server.Close())
}

func TestNewTLSConfig_numbers_its_certificates(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // all at one instant
		first, _ := tcpclienttest.NewTLSConfig()
		second, _ := tcpclienttest.NewTLSConfig()
		require.NotEqual(t, first.Certificates[0].Leaf.SerialNumber, second.Certificates[0].Leaf.SerialNumber)
	})
}

func TestServer_TLS_reset(t *testing.T) {
	server := tcpclienttest.NewTLSServer(nil, tcpclienttest.Echo)
	defer server.Close()
	dialer := tcpclient.Dialer{TLSConfig: server.ClientTLSConfig()}
	c, err := dialer.Dial(t.Context(), "tcp", server.Addr)
	require.NoError(t, err)
	defer c.Close()
	require.Equal(t, 1, server.ResetConnections())
	_, err = c.Receive(t.Context())
	testkit.RequireErrno(t, err, syscall.ECONNRESET)
	c.Close()
	require.NoError(t, server.Close())
}

func TestServer_on_a_Unix_socket(t *testing.T) {
	server := tcpclienttest.NewServerOn(listenUnix(t), nil, tcpclienttest.Echo)
	c := dial(t, "unix", server.Addr)
	requireEcho(t, c)
	require.Equal(t, 1, server.ResetConnections(), "a Unix socket cannot be reset, only closed")
	_, err := c.receive()
	require.Error(t, err)
	require.NoError(t, server.Close())
}

func TestServer_resets_connections(t *testing.T) {
	server := tcpclienttest.NewServer(nil, tcpclienttest.Echo)
	defer server.Close()
	require.Zero(t, server.ResetConnections())
	c := dial(t, "tcp", server.Addr)
	requireEcho(t, c)
	require.Equal(t, 1, server.ResetConnections())
	_, err := c.receive()
	testkit.RequireErrno(t, err, syscall.ECONNRESET)
	requireEcho(t, dial(t, "tcp", server.Addr)) // it goes on
	server.CloseConnections()
	require.NoError(t, server.Close())
}

func TestServer_closes_connections(t *testing.T) {
	server := tcpclienttest.NewServer(nil, tcpclienttest.Echo)
	require.Zero(t, server.CloseConnections())

	closed := dial(t, "tcp", server.Addr)
	requireEcho(t, closed)
	require.Equal(t, 1, server.CloseConnections())
	_, err := closed.receive()
	require.Equal(t, io.EOF, err)

	requireEcho(t, dial(t, "tcp", server.Addr)) // it goes on
	server.CloseConnections()
	require.NoError(t, server.Close())
	_, err = net.Dial("tcp", server.Addr)
	require.Error(t, err)
}

// inBubble runs test on an in-memory network with a server.
func inBubble(t *testing.T, handler tcpclienttest.Handler, test func(t *testing.T, network *tcpclienttest.Network, server *tcpclienttest.Server)) {
	synctest.Test(t, func(t *testing.T) {
		network := tcpclienttest.NewNetwork()
		l, err := network.Listen("server:1")
		require.NoError(t, err)
		server := tcpclienttest.NewServerOn(l, nil, handler)
		require.Equal(t, "server:1", server.Addr)
		test(t, network, server)
	})
}

func connect(t *testing.T, network *tcpclienttest.Network) *client {
	conn, err := network.DialContext(t.Context(), "tcp", "server:1")
	require.NoError(t, err)
	return &client{conn, bufio.NewReader(conn)}
}

func TestServer_Close_waits_for_handlers(t *testing.T) {
	handler := func(conn *tcpclienttest.Conn) {
		msg, _ := conn.Receive()
		time.Sleep(time.Second)
		conn.Send(msg)
	}
	inBubble(t, handler, func(t *testing.T, network *tcpclienttest.Network, server *tcpclienttest.Server) {
		c := connect(t, network)
		require.NoError(t, c.send("hello"))
		synctest.Wait()
		began := time.Now()
		var group sync.WaitGroup
		for range 2 {
			group.Go(func() { assert.NoError(t, server.Close()) })
		}
		group.Wait()
		require.Equal(t, time.Second, time.Since(began))
		msg, err := c.receive()
		require.NoError(t, err)
		require.Equal(t, "hello", msg)
		_, err = c.receive()
		require.Equal(t, io.EOF, err)
	})
}

func TestServer_Close_ends_handlers_that_wait_for_their_clients(t *testing.T) {
	var last atomic.Value
	handlers := map[string]tcpclienttest.Handler{
		"in Receive": func(conn *tcpclienttest.Conn) {
			for {
				if _, err := conn.Receive(); err != nil {
					last.Store(err)
					return
				}
			}
		},
		"in a loop over Messages": tcpclienttest.Discard,
		"in Echo":                 tcpclienttest.Echo,
		"in a read of its own": func(conn *tcpclienttest.Conn) {
			io.Copy(io.Discard, conn.NetConn())
		},
	}
	for name, handler := range handlers {
		t.Run(name, func(t *testing.T) {
			inBubble(t, handler, func(t *testing.T, network *tcpclienttest.Network, server *tcpclienttest.Server) {
				c := connect(t, network)
				require.NoError(t, c.send("hello"))
				synctest.Wait()
				began := time.Now()
				require.NoError(t, server.Close())
				require.Equal(t, 50*time.Millisecond, time.Since(began))
				_, err := c.receive()
				if name == "in Echo" {
					require.NoError(t, err)
					_, err = c.receive()
				}
				require.Equal(t, io.EOF, err)
			})
		})
	}
	require.ErrorIs(t, last.Load().(error), net.ErrClosed)

	t.Run("of a client that goes on sending", func(t *testing.T) {
		inBubble(t, tcpclienttest.Discard, func(t *testing.T, network *tcpclienttest.Network, server *tcpclienttest.Server) {
			c := connect(t, network)
			sending := make(chan struct{})
			go func() {
				defer close(sending)
				for c.send("on and on") == nil {
					time.Sleep(10 * time.Millisecond)
				}
			}()
			synctest.Wait()
			began := time.Now()
			require.NoError(t, server.Close())
			require.Equal(t, time.Second, time.Since(began))
			<-sending
		})
	})

	t.Run("over TLS", func(t *testing.T) {
		server := tcpclienttest.NewTLSServer(nil, tcpclienttest.Echo)
		dialer := tcpclient.Dialer{TLSConfig: server.ClientTLSConfig()}
		c, err := dialer.Dial(t.Context(), "tcp", server.Addr)
		require.NoError(t, err)
		defer c.Close()
		require.NoError(t, server.Close())
		_, err = c.Receive(t.Context())
		require.ErrorIs(t, err, io.EOF)
	})
}

func TestServer_Close_lets_handlers_receive_what_has_arrived(t *testing.T) {
	var received atomic.Int64
	slow := func(conn *tcpclienttest.Conn) {
		for range conn.Messages() {
			received.Add(1)
			time.Sleep(90 * time.Millisecond)
		}
	}
	inBubble(t, slow, func(t *testing.T, network *tcpclienttest.Network, server *tcpclienttest.Server) {
		c := connect(t, network)
		for range 10 {
			require.NoError(t, c.send("hello"))
			synctest.Wait() // each is a read of its own
		}
		require.NoError(t, server.Close())
		require.Equal(t, int64(10), received.Load())
	})
}

func TestServer_Close_names_stuck_connections(t *testing.T) {
	handler := func(conn *tcpclienttest.Conn) {
		msg, _ := conn.Receive()
		switch string(msg) {
		case "receive":
			for {
				conn.NetConn().SetReadDeadline(time.Time{}) // it insists
				if _, err := conn.NetConn().Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
					return
				}
			}
		case "send":
			conn.Send(make([]byte, 1<<20))
		case "think":
			time.Sleep(5500 * time.Millisecond)
		}
	}
	for doing, said := range map[string]string{
		"receive": "is in its handler",
		"send":    "waits for the client to read",
		"think":   "is in its handler",
	} {
		t.Run(doing, func(t *testing.T) {
			inBubble(t, handler, func(t *testing.T, network *tcpclienttest.Network, server *tcpclienttest.Server) {
				c := connect(t, network)
				defer c.Close()
				require.NoError(t, c.send(doing))
				synctest.Wait()
				err := server.Close()
				require.EqualError(t, err, fmt.Sprintf("tcpclienttest: server server:1: handlers still running after 5s: client:1 %s", said))
				require.Equal(t, err, server.Close())
			})
		})
	}
	t.Run("think too long", func(t *testing.T) {
		inBubble(t, func(*tcpclienttest.Conn) { time.Sleep(time.Minute) }, func(t *testing.T, network *tcpclienttest.Network, server *tcpclienttest.Server) {
			c := connect(t, network)
			defer c.Close()
			synctest.Wait()
			began := time.Now()
			require.ErrorContains(t, server.Close(), "after 5s, some even after their connections were closed: client:1 is in its handler")
			require.Equal(t, 6*time.Second, time.Since(began))
			time.Sleep(time.Minute)
		})
	})
}

func TestServer_Close_lets_handlers_go_that_wait_for_it(t *testing.T) {
	inBubble(t, tcpclienttest.Ignore, func(t *testing.T, network *tcpclienttest.Network, server *tcpclienttest.Server) {
		c := connect(t, network)
		require.NoError(t, c.send("hello"))
		synctest.Wait() // it is accepted, else Close resets it
		require.NoError(t, server.Close())
		_, err := c.receive()
		require.Equal(t, io.EOF, err)
		require.NoError(t, c.Close())
	})
}

func TestServer_Discard(t *testing.T) {
	inBubble(t, tcpclienttest.Discard, func(t *testing.T, network *tcpclienttest.Network, server *tcpclienttest.Server) {
		c := connect(t, network)
		for range 10 {
			require.NoError(t, c.send(string(make([]byte, 100_000))))
		}
		require.NoError(t, c.SetReadDeadline(time.Now().Add(time.Hour)))
		_, err := c.receive()
		require.ErrorIs(t, err, os.ErrDeadlineExceeded)
		require.NoError(t, c.Close())
		require.NoError(t, server.Close())
	})
}

func TestServer_survives_a_failing_Accept_and_an_exiting_handler(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := tcpclienttest.NewNetwork()
		l, err := network.Listen("server:1")
		require.NoError(t, err)
		server := tcpclienttest.NewServerOn(&failing{Listener: l, left: 3}, nil, func(conn *tcpclienttest.Conn) {
			conn.Write([]byte("flushed all the same"))
			runtime.Goexit() // as testing.T.FailNow does
		})
		c := connect(t, network)
		msg, err := c.receive()
		require.NoError(t, err)
		require.Equal(t, "flushed all the same", msg)
		_, err = c.receive()
		require.Equal(t, io.EOF, err)
		require.NoError(t, c.Close())
		require.NoError(t, server.Close())
	})
}

type failing struct {
	net.Listener
	left int
}

func (l *failing) Accept() (net.Conn, error) {
	if l.left > 0 {
		l.left--
		return nil, syscall.EMFILE
	}
	return l.Listener.Accept()
}

type closedListener struct{}

func (closedListener) Accept() (net.Conn, error) { return nil, net.ErrClosed }
func (closedListener) Close() error              { return nil }
func (closedListener) Addr() net.Addr            { return &net.UnixAddr{Name: "closed"} }

func TestServer_conn(t *testing.T) {
	for _, test := range []struct {
		does    string
		handler tcpclienttest.Handler
		check   func(t *testing.T, c *client)
	}{
		{"batches", func(conn *tcpclienttest.Conn) {
			conn.Write([]byte("one"))
			conn.Write([]byte("two"))
			conn.Flush()
			conn.Receive()
		}, func(t *testing.T, c *client) {
			for _, want := range []string{"one", "two"} {
				msg, err := c.receive()
				require.NoError(t, err)
				require.Equal(t, want, msg)
			}
		}},
		{"half a frame", func(conn *tcpclienttest.Conn) {
			conn.Send([]byte("whole"))
			conn.NetConn().Write([]byte("\x00\x00\x00\x05he"))
		}, func(t *testing.T, c *client) {
			msg, err := c.receive()
			require.NoError(t, err)
			require.Equal(t, "whole", msg)
			_, err = c.receive()
			require.Equal(t, io.ErrUnexpectedEOF, err)
		}},
		{"a half-close", func(conn *tcpclienttest.Conn) {
			conn.Write([]byte("last"))
			conn.CloseWrite()
			msg, err := conn.Receive()
			if err != nil || string(msg) != "still heard" {
				panic(fmt.Sprint(string(msg), err))
			}
		}, func(t *testing.T, c *client) {
			msg, err := c.receive()
			require.NoError(t, err)
			require.Equal(t, "last", msg)
			_, err = c.receive()
			require.Equal(t, io.EOF, err)
			require.NoError(t, c.send("still heard"))
		}},
		{"a reset", func(conn *tcpclienttest.Conn) {
			conn.Send([]byte("last"))
			conn.Reset()
			<-conn.Context().Done()
		}, func(t *testing.T, c *client) {
			msg, err := c.receive()
			require.NoError(t, err)
			require.Equal(t, "last", msg)
			_, err = c.receive()
			require.ErrorIs(t, err, syscall.ECONNRESET)
		}},
		{"pushes and echoes", func(conn *tcpclienttest.Conn) {
			ctx, cancel := context.WithCancel(conn.Context())
			var group sync.WaitGroup
			group.Go(func() {
				for ctx.Err() == nil && conn.Send([]byte("push")) == nil {
				}
			})
			tcpclienttest.Echo(conn)
			cancel()
			conn.NetConn().Close()
			group.Wait()
		}, func(t *testing.T, c *client) {
			seen := make(map[string]int)
			for i := range 100 {
				require.NoError(t, c.send("echo"))
				for seen["echo"] <= i {
					msg, err := c.receive()
					require.NoError(t, err)
					seen[msg]++
				}
			}
			for seen["push"] == 0 {
				msg, err := c.receive()
				require.NoError(t, err)
				seen[msg]++
			}
			require.Equal(t, 100, seen["echo"])
			require.Len(t, seen, 2, "frames do not interleave")
		}},
	} {
		t.Run(test.does, func(t *testing.T) {
			inBubble(t, test.handler, func(t *testing.T, network *tcpclienttest.Network, server *tcpclienttest.Server) {
				c := connect(t, network)
				test.check(t, c)
				require.NoError(t, c.Close())
				require.NoError(t, server.Close())
			})
		})
	}
}

// A whole Client in a bubble, over TLS, with a Server: what the kit is for.
func TestServer_with_a_Client_and_TLS_in_a_bubble(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := tcpclienttest.NewNetwork()
		l, err := network.Listen("example.com:1")
		require.NoError(t, err)
		serverTLS, clientTLS := tcpclienttest.NewTLSConfig()
		server := tcpclienttest.NewServerOn(tls.NewListener(l, serverTLS), nil, tcpclienttest.Echo)
		dialer := tcpclient.Dialer{
			DialContext: network.DialContext,
			TLSConfig:   clientTLS,
			Heartbeat:   tcpclient.Heartbeat{Interval: time.Minute},
		}
		c, err := dialer.Dial(t.Context(), "tcp", server.Addr)
		require.NoError(t, err)
		require.NoError(t, c.Send(t.Context(), []byte("hello")))
		msg, err := c.Receive(t.Context())
		require.NoError(t, err)
		require.Equal(t, "hello", string(msg))
		network.Partition()
		began := time.Now()
		_, err = c.Receive(t.Context())
		require.ErrorIs(t, err, tcpclient.ErrHeartbeatTimeout)
		require.Equal(t, 2*time.Minute, time.Since(began))
		network.Heal()
		c.Close()
		require.NoError(t, server.Close())
	})
}
