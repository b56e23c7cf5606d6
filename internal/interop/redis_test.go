package interop

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/seed-d0aa0aa7/tcpclient"
	"github.com/stretchr/testify/require"
)

// redisArgs are for a Redis that keeps nothing.
func redisArgs(more ...string) func(port string) []string {
	return func(port string) []string {
		return append([]string{"--port", port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"}, more...)
	}
}

func startRedis(t *testing.T, more ...string) (address string) {
	return startServer(t, "redis-server", redisArgs(more...)).address
}

// ask sends request and returns the next message as the reply.
func ask(t *testing.T, c *tcpclient.Client, request string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	require.NoError(t, c.Send(ctx, []byte(request)))
	reply, err := c.Receive(ctx)
	require.NoError(t, err)
	return string(reply)
}

func TestRedisLines(t *testing.T) {
	address := startRedis(t)
	lines := tcpclient.Dialer{Framer: tcpclient.Lines{CRLF: true}}

	t.Run("answers inline commands", func(t *testing.T) {
		c := dial(t, lines, address)
		require.Equal(t, "+PONG", ask(t, c, "PING"))
		require.Equal(t, "+OK", ask(t, c, "SET greeting hello"))
		require.Equal(t, "$5", ask(t, c, "GET greeting"))
		value, err := c.Receive(t.Context())
		require.NoError(t, err)
		require.Equal(t, "hello", string(value))
		require.Contains(t, ask(t, c, "NONSENSE"), "-ERR unknown command")
	})

	t.Run("accepts lines that end in LF only", func(t *testing.T) {
		c := dial(t, tcpclient.Dialer{Framer: tcpclient.Lines{}}, address)
		require.Equal(t, "+PONG", ask(t, c, "PING"))
	})

	t.Run("answers a pipeline in order", func(t *testing.T) { // P3
		const n = 10_000
		c := dial(t, lines, address)
		var writer sync.WaitGroup
		writer.Go(func() {
			for range n {
				if err := c.Write(t.Context(), []byte("INCR pipeline")); err != nil {
					t.Error(err)
					return
				}
			}
			if err := c.Flush(t.Context()); err != nil {
				t.Error(err)
			}
		})
		got := 0
		for msg, err := range c.Messages(t.Context()) {
			require.NoError(t, err)
			got++
			require.Equal(t, fmt.Sprintf(":%d", got), string(msg))
			if got == n {
				break
			}
		}
		writer.Wait()
	})

	t.Run("refuses a line break inside a command and stays usable", func(t *testing.T) {
		c := dial(t, lines, address)
		err := c.Send(t.Context(), []byte("SET a b\r\nFLUSHALL"))
		require.ErrorIs(t, err, tcpclient.ErrInvalidFrame)
		require.Equal(t, tcpclient.ClassPermanent, tcpclient.Classify(err))
		require.Equal(t, "+PONG", ask(t, c, "PING"))
	})

	t.Run("reports the end after QUIT", func(t *testing.T) { // P9
		c := dial(t, lines, address)
		require.Equal(t, "+OK", ask(t, c, "QUIT"))
		_, err := c.Receive(t.Context())
		require.ErrorIs(t, err, tcpclient.ErrDisconnected)
		require.ErrorIs(t, err, io.EOF)
		require.Equal(t, tcpclient.ClassDisconnected, tcpclient.Classify(err))
	})

	t.Run("delivers what still arrives after Shutdown has sent FIN", func(t *testing.T) {
		c := dial(t, lines, address)
		require.NoError(t, c.Write(t.Context(), []byte("PING")))
		require.NoError(t, c.Write(t.Context(), []byte("QUIT")))
		require.NoError(t, c.Shutdown(t.Context()))
		for _, want := range []string{"+PONG", "+OK"} {
			msg, err := c.Receive(t.Context())
			require.NoError(t, err)
			require.Equal(t, want, string(msg))
		}
		_, err := c.Receive(t.Context())
		require.ErrorIs(t, err, tcpclient.ErrClosed)
	})
}

func TestRedisRefusal(t *testing.T) {
	address := startRedis(t, "--maxclients", "1")
	d := tcpclient.Dialer{Framer: tcpclient.Lines{CRLF: true}}
	first := dial(t, d, address)
	// The connection that waited for the server to start may still count.
	waitFor(t, func() bool {
		reply, err := exchange(t, first, "PING")
		if err != nil {
			first = dial(t, d, address)
		}
		return reply == "+PONG"
	})

	second := dial(t, d, address)
	msg, err := second.Receive(t.Context()) // P1: the reason comes before the end
	require.NoError(t, err)
	require.Contains(t, string(msg), "-ERR max number of clients reached")
	_, err = second.Receive(t.Context())
	require.ErrorIs(t, err, tcpclient.ErrDisconnected)
}

// exchange is ask for a connection that may be lost.
func exchange(t *testing.T, c *tcpclient.Client, request string) (reply string, err error) {
	if err := c.Send(t.Context(), []byte(request)); err != nil {
		return "", err
	}
	msg, err := c.Receive(t.Context())
	if err == nil && bytes.HasPrefix(msg, []byte("-ERR max number")) {
		err = tcpclient.ErrDisconnected
	}
	return string(msg), err
}

func TestRedisRESP(t *testing.T) {
	address := startRedis(t)
	resp := tcpclient.Dialer{Framer: respFramer{}}
	do := func(t *testing.T, c *tcpclient.Client, words ...string) string {
		t.Helper()
		return ask(t, c, string(command(words...)))
	}

	t.Run("keeps a binary value as it was", func(t *testing.T) { // P1
		c := dial(t, resp, address)
		random := rand.NewChaCha8([32]byte{1})
		for _, size := range []int{0, 1, 100, 5_000, 70_000, 3 << 20} {
			value := make([]byte, size)
			random.Read(value)
			require.Equal(t, "+OK\r\n", do(t, c, "SET", "value", string(value)))
			want := fmt.Sprintf("$%d\r\n%s\r\n", size, value)
			require.True(t, do(t, c, "GET", "value") == want, "the value of %d bytes came back changed", size)
		}
		require.Equal(t, "$-1\r\n", do(t, c, "GET", "no such key"))
	})

	t.Run("takes an array for one message", func(t *testing.T) {
		c := dial(t, resp, address)
		require.Equal(t, ":3\r\n", do(t, c, "RPUSH", "list", "a", "", "c\r\n"))
		require.Equal(t, "*3\r\n$1\r\na\r\n$0\r\n\r\n$3\r\nc\r\n\r\n", do(t, c, "LRANGE", "list", "0", "-1"))
		require.Equal(t, "+OK\r\n", do(t, c, "MULTI"))
		require.Equal(t, "+QUEUED\r\n", do(t, c, "LRANGE", "list", "0", "0"))
		require.Equal(t, "+QUEUED\r\n", do(t, c, "LLEN", "list"))
		require.Equal(t, "*2\r\n*1\r\n$1\r\na\r\n:3\r\n", do(t, c, "EXEC"))
	})

	t.Run("speaks RESP 3", func(t *testing.T) {
		c := dial(t, resp, address)
		hello := do(t, c, "HELLO", "3")
		require.Equal(t, byte('%'), hello[0])
		require.Contains(t, hello, "$5\r\nredis\r\n")
		require.Equal(t, "_\r\n", do(t, c, "GET", "no such key"))
	})

	t.Run("receives what is published", func(t *testing.T) {
		subscriber, publisher := dial(t, resp, address), dial(t, resp, address)
		require.Equal(t, "*3\r\n$9\r\nsubscribe\r\n$4\r\nnews\r\n:1\r\n", do(t, subscriber, "SUBSCRIBE", "news"))
		for i := range 100 {
			require.Equal(t, ":1\r\n", do(t, publisher, "PUBLISH", "news", fmt.Sprintf("%02d", i)))
		}
		for i := range 100 {
			msg, err := subscriber.Receive(t.Context())
			require.NoError(t, err)
			require.Equal(t, fmt.Sprintf("*3\r\n$7\r\nmessage\r\n$4\r\nnews\r\n$2\r\n%02d\r\n", i), string(msg))
		}
	})

	t.Run("shares a connection between goroutines", func(t *testing.T) { // P3
		const senders, each = 50, 100
		c := dial(t, resp, address)
		var group sync.WaitGroup
		for range senders {
			group.Go(func() {
				for range each {
					if err := c.Send(t.Context(), command("INCR", "shared")); err != nil {
						t.Error(err)
						return
					}
				}
			})
		}
		for i := range senders * each {
			msg, err := c.Receive(t.Context())
			require.NoError(t, err)
			require.Equal(t, fmt.Sprintf(":%d\r\n", i+1), string(msg))
		}
		group.Wait()
	})

	t.Run("gives concurrent Calls their own replies", func(t *testing.T) {
		const callers, each = 50, 40
		c := dial(t, resp, address)
		var group sync.WaitGroup
		for caller := range callers {
			group.Go(func() {
				for i := range each {
					word := fmt.Sprintf("%03d-%03d", caller, i)
					reply, err := c.Call(t.Context(), command("ECHO", word))
					if want := "$7\r\n" + word + "\r\n"; err != nil || string(reply) != want {
						t.Errorf("ECHO %s: %q, %v", word, reply, err)
						return
					}
				}
			})
		}
		group.Wait()
	})

	t.Run("notices being killed while idle", func(t *testing.T) { // P5
		victim, killer := dial(t, resp, address), dial(t, resp, address)
		require.Equal(t, "+PONG\r\n", do(t, victim, "PING"))
		require.Equal(t, ":1\r\n", do(t, killer, "CLIENT", "KILL", "ADDR", victim.LocalAddr().String()))
		_, err := victim.Receive(t.Context())
		require.ErrorIs(t, err, tcpclient.ErrDisconnected)
		err = victim.Send(t.Context(), command("PING"))
		var op *tcpclient.OpError
		require.ErrorAs(t, err, &op)
		require.True(t, op.Unsent, "a message after the end of the connection cannot have been seen")
	})
}

func TestRedisReconnect(t *testing.T) { // P8
	address := startRedis(t)
	killer := dial(t, tcpclient.Dialer{Framer: respFramer{}}, address)
	c := dial(t, tcpclient.Dialer{
		Framer:    respFramer{},
		Reconnect: &tcpclient.Backoff{Min: time.Millisecond, Max: 10 * time.Millisecond},
		Handshake: func(ctx context.Context, conn *tcpclient.Conn) error {
			if err := conn.Send(ctx, command("SELECT", "3")); err != nil {
				return err
			}
			reply, err := conn.Receive(ctx)
			if err == nil && string(reply) != "+OK\r\n" {
				err = tcpclient.Permanent(fmt.Errorf("no database 3: %q", reply))
			}
			return err
		},
	}, address)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for life := range 5 {
		key := fmt.Sprint("life ", life)
		reply, err := c.Call(ctx, command("SET", key, "lived"))
		require.NoError(t, err)
		require.Equal(t, "+OK\r\n", string(reply))
		require.Equal(t, ":1\r\n", ask(t, killer, string(command("CLIENT", "KILL", "ADDR", c.LocalAddr().String()))))
		_, err = c.Receive(ctx) // one error for each connection lost
		require.ErrorIs(t, err, tcpclient.ErrDisconnected)
	}
	require.Equal(t, "+OK\r\n", ask(t, killer, string(command("SELECT", "3"))))
	require.Equal(t, ":5\r\n", ask(t, killer, string(command("DBSIZE"))), "every connection should have selected database 3")
}

func TestRedisHeartbeat(t *testing.T) { // P5
	server := startServer(t, "redis-server", redisArgs())
	c := dial(t, tcpclient.Dialer{
		Framer: respFramer{},
		Heartbeat: tcpclient.Heartbeat{
			Interval: 50 * time.Millisecond,
			Timeout:  500 * time.Millisecond,
			Ping:     func() []byte { return command("PING") },
			IsPong:   func(msg []byte) bool { return string(msg) == "+PONG\r\n" },
		},
	}, server.address)
	waitFor(t, func() bool { return c.Stats().RTT > 0 })
	require.Equal(t, "$5\r\nalive\r\n", ask(t, c, string(command("ECHO", "alive"))))

	// A stopped process is the peer that TCP cannot tell from a live one: its kernel
	// goes on acknowledging.
	require.NoError(t, server.process.Signal(syscall.SIGSTOP))
	stopped := time.Now()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	_, err := c.Receive(ctx)
	require.ErrorIs(t, err, tcpclient.ErrHeartbeatTimeout)
	require.GreaterOrEqual(t, time.Since(stopped), 400*time.Millisecond)
}
