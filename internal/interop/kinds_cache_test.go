package interop

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/seed-d0aa0aa7/tcpclient"
	"github.com/seed-d0aa0aa7/tcpclient/internal/testkit"
	"github.com/stretchr/testify/require"
)

// cacheKinds are caches, queues and brokers.
func cacheKinds() []kind { return []kind{redisKind()} }

// filler makes some requests long. It is never changed.
var filler = strings.Repeat("-", 20_000)

// fill returns nothing for most numbers, and filler for some.
func fill(n int) string {
	if n%8 == 0 {
		return filler
	}
	return ""
}

// pinging is a Heartbeat that finds a dead server soon.
func pinging(ping string, isPong func(msg []byte) bool) tcpclient.Heartbeat {
	return tcpclient.Heartbeat{
		Interval: 200 * time.Millisecond,
		Timeout:  time.Second,
		Ping:     func() []byte { return []byte(ping) },
		IsPong:   isPong,
	}
}

// want returns the check that a reply is that text.
func want(text string) func(reply []byte) error {
	return func(reply []byte) error {
		if string(reply) != text {
			return fmt.Errorf("want %.100q", text)
		}
		return nil
	}
}

// Answers in order, to ECHO and to what is no command, and pushes.
func redisKind() kind {
	list := func(n int) string { return fmt.Sprint("list ", n) }
	return kind{
		name:  "redis",
		start: func(t *testing.T) *host { return startHost(t, "redis-server", redisArgs()) },
		dialer: func() tcpclient.Dialer {
			return tcpclient.Dialer{
				Framer:    tcpclient.Sized{Size: testkit.SizeRESP},
				IsPush:    func(msg []byte) bool { return msg[0] == '>' },
				Heartbeat: pinging(string(command("PING")), func(msg []byte) bool { return string(msg) == "+PONG\r\n" }),
				Handshake: func(ctx context.Context, conn *tcpclient.Conn) error {
					if err := conn.Send(ctx, command("HELLO", "3")); err != nil {
						return err
					}
					reply, err := conn.Receive(ctx)
					if err == nil && reply[0] != '%' {
						err = fmt.Errorf("redis: %q", reply)
					}
					return err
				},
			}
		},
		ask: func(n int) ([]byte, func([]byte) error) {
			if n%3 == 0 {
				name := fmt.Sprint("nonsense", n)
				return command(name), want("-ERR unknown command '" + name + "', with args beginning with: \r\n")
			}
			word := fmt.Sprint("word ", n, fill(n))
			return command("ECHO", word), want(fmt.Sprintf("$%d\r\n%s\r\n", len(word), word))
		},
		add: func(n int) []byte { return command("RPUSH", list(n), "once"+fill(n)) },
		executed: func(t *testing.T, c *tcpclient.Client, n int) int {
			reply, err := c.Call(t.Context(), command("LLEN", list(n)))
			require.NoError(t, err)
			length, err := strconv.Atoi(strings.Trim(string(reply), ":\r\n"))
			require.NoError(t, err)
			return length
		},
	}
}
