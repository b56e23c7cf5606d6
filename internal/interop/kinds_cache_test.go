package interop

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/seed-d0aa0aa7/tcpclient"
	"github.com/seed-d0aa0aa7/tcpclient/internal/testkit"
	"github.com/stretchr/testify/require"
)

// cacheKinds are caches.
func cacheKinds() []kind { return []kind{redisKind(), memcachedKind(), memcachedBinaryKind()} }

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

// An asIs reads frames as another Framer does, and writes messages as they are: requests that are
// not framed like replies.
type asIs struct{ tcpclient.Framer }

func (asIs) WriteFrame(w *bufio.Writer, msg []byte) error {
	_, err := w.Write(msg)
	return err
}

// Redis answers in order, also what is no command, and may push.
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

func startMemcached(t *testing.T) *host {
	return startHost(t, "memcached", func(port string) []string {
		return []string{"-u", "nobody", "-l", "127.0.0.1", "-p", port, "-U", "0"}
	})
}

// memcachedSize is that of replies: a line, or values up to END.
func memcachedSize(p []byte) (int, error) {
	for at := 0; at < len(p); {
		line, _, whole := bytes.Cut(p[at:], []byte("\r\n"))
		if !whole {
			return 0, nil // more bytes have to come
		}
		at += len(line) + 2
		words := bytes.Fields(line)
		if len(words) != 4 || string(words[0]) != "VALUE" {
			return at, nil
		}
		n, err := strconv.Atoi(string(words[3])) // key, flags, size
		if err != nil || n < 0 || n > 1<<30 {
			return 0, fmt.Errorf("size of %q", line)
		}
		at += n + 2
	}
	return 0, nil
}

// memcached answers in order, and two commands in one request with one reply. ReplyTimeout takes
// the place of the Heartbeat while requests are outstanding.
func memcachedKind() kind {
	return kind{
		name:  "memcached, text",
		start: startMemcached,
		dialer: func() tcpclient.Dialer {
			return tcpclient.Dialer{
				Framer:       asIs{tcpclient.Sized{Size: memcachedSize}},
				ReplyTimeout: time.Second,
				Heartbeat:    pinging("version\r\n", func(msg []byte) bool { return bytes.HasPrefix(msg, []byte("VERSION ")) }),
			}
		},
		ask: func(n int) ([]byte, func([]byte) error) {
			if n%2 == 0 {
				return fmt.Appendf(nil, "mg nothing k O%d\r\n", n), want(fmt.Sprintf("EN knothing O%d\r\n", n))
			}
			value := fmt.Sprint("value\r\n", n, "\r\nEND\r\n", fill(n))
			request := fmt.Appendf(nil, "set key%d 0 0 %d noreply\r\n%s\r\nget key%d\r\n", n, len(value), value, n)
			return request, want(fmt.Sprintf("VALUE key%d 0 %d\r\n%s\r\nEND\r\n", n, len(value), value))
		},
		// Meta arithmetic makes the number that is not there, with 1, and adds 1 to that which is.
		add: func(n int) []byte { return fmt.Appendf(nil, "ma once%d N0 J1\r\n", n) },
		executed: func(t *testing.T, c *tcpclient.Client, n int) int {
			reply, err := c.Call(t.Context(), fmt.Appendf(nil, "get once%d\r\n", n))
			require.NoError(t, err)
			if string(reply) == "END\r\n" {
				return 0
			}
			times, err := strconv.Atoi(strings.Split(string(reply), "\r\n")[1])
			require.NoError(t, err)
			return times
		},
	}
}

// memcachedRequest makes a request of the binary protocol. Its size is filled in.
func memcachedRequest(opcode byte, extras, key string) []byte {
	header := make([]byte, 24)
	header[0], header[1], header[4] = 0x80, opcode, byte(len(extras))
	binary.BigEndian.PutUint16(header[2:], uint16(len(key)))
	return append(append(header, extras...), key...)
}

// counter makes a request that adds step to a number. If there is none, it is first.
func counter(key string, step, first uint64) []byte {
	extras := binary.BigEndian.AppendUint64(nil, step)
	extras = binary.BigEndian.AppendUint64(extras, first)
	return memcachedRequest(0x05, string(extras)+"\x00\x00\x00\x00", key)
}

// memcached's binary protocol has ids.
func memcachedBinaryKind() kind {
	const getK, noop = 0x0c, 0x0a
	return kind{
		name:  "memcached, binary",
		start: startMemcached,
		dialer: func() tcpclient.Dialer {
			return tcpclient.Dialer{
				Framer:     tcpclient.LengthPrefix{Offset: 8, Adjust: 12, KeepHeader: true},
				Correlator: tcpclient.IDField{Offset: 12, Width: 4, ReplyOffset: 12},
				Heartbeat:  pinging(string(memcachedRequest(noop, "", "")), func(msg []byte) bool { return msg[1] == noop }),
			}
		},
		ask: func(n int) ([]byte, func([]byte) error) {
			if n%2 == 0 { // a number that is not there: the first is the answer
				answer := want(string(binary.BigEndian.AppendUint64(nil, uint64(n))))
				return counter(fmt.Sprint("key", n), 1, uint64(n)), func(reply []byte) error { return answer(reply[24:]) }
			}
			key := fmt.Sprint("nothing", n)
			answer := want("\x00\x01" + key) // "key not found"
			return memcachedRequest(getK, "", key), func(reply []byte) error {
				return answer(append(reply[6:8:8], reply[24:]...))
			}
		},
		add: func(n int) []byte { return counter(fmt.Sprint("once", n), 1, 1) },
		executed: func(t *testing.T, c *tcpclient.Client, n int) int {
			reply, err := c.Call(t.Context(), memcachedRequest(0x00, "", fmt.Sprint("once", n)))
			require.NoError(t, err)
			if reply[7] == 1 {
				return 0
			}
			times, err := strconv.Atoi(strings.TrimSpace(string(reply[28:]))) // after the flags
			require.NoError(t, err)
			return times
		},
	}
}
