package cookbook

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha1"
	"crypto/tls"
	"encoding/binary"
	"fmt"
	"io"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/seed-d0aa0aa7/tcpclient"
	"github.com/seed-d0aa0aa7/tcpclient/tcpclienttest"
	"github.com/stretchr/testify/require"
)

// asIs writes messages as they are, and reads those of which Size says the size.
type asIs struct{ tcpclient.Sized }

func (asIs) WriteFrame(w *bufio.Writer, msg []byte) error {
	_, err := w.Write(msg)
	return err
}

// respSize returns the size of the reply or push that p begins.
func respSize(p []byte) (int, error) {
	at := 0
	for values := 1; values > 0; values-- {
		line, _, whole := bytes.Cut(p[min(at, len(p)):], []byte("\r\n"))
		if !whole {
			return 0, nil // more bytes have to come
		}
		at += len(line) + 2
		kind, rest := string(line[:min(1, len(line))]), string(line[min(1, len(line)):])
		if strings.ContainsAny(kind, "+-:_#,(") {
			continue // the line is the value
		}
		n, err := strconv.Atoi(rest)
		if err != nil || n < -1 || n > 512<<20 || !strings.ContainsAny(kind, "$=!*~>%") {
			return 0, fmt.Errorf("%q is no value", line)
		}
		switch {
		case n < 0: // null
		case kind == "*" || kind == "~" || kind == ">":
			values += n
		case kind == "%":
			values += 2 * n
		default:
			at += n + 2
		}
	}
	return at, nil
}

func redis() *tcpclient.Dialer {
	return &tcpclient.Dialer{
		Framer: tcpclient.Sized{Size: respSize},
		IsPush: func(msg []byte) bool { return msg[0] == '>' },
		Heartbeat: tcpclient.Heartbeat{
			Interval: 20 * time.Second,
			Timeout:  50 * time.Second,
			Ping:     func() []byte { return redisCommand("PING") },
			IsPong:   func(msg []byte) bool { return string(msg) == "+PONG\r\n" },
		},
		ReplyTimeout: 30 * time.Second,
		Reconnect:    &tcpclient.Backoff{},
		Handshake: func(ctx context.Context, conn *tcpclient.Conn) error {
			if err := conn.Send(ctx, redisCommand("HELLO", "3")); err != nil { // RESP3; "AUTH", user, password
				return err
			}
			reply, err := conn.Receive(ctx)
			if err == nil && reply[0] == '-' {
				err = tcpclient.Permanent(fmt.Errorf("redis: %q", reply))
			}
			return err
		},
	}
}

func redisCommand(words ...string) []byte {
	b := fmt.Appendf(nil, "*%d\r\n", len(words))
	for _, word := range words {
		b = fmt.Appendf(b, "$%d\r\n%s\r\n", len(word), word)
	}
	return b
}

func TestRedis(t *testing.T) {
	d := redis()
	push := ">2\r\n$10\r\ninvalidate\r\n*1\r\n$1\r\nk\r\n"
	talk(t, d, []exchange{
		{want: "*2\r\n$5\r\nHELLO\r\n$1\r\n3\r\n", say: "%2\r\n$6\r\nserver\r\n$5\r\nredis\r\n$5\r\nproto\r\n:3\r\n"},
		{want: "*2\r\n$3\r\nGET\r\n$1\r\nk\r\n", say: push + "$5\r\n+O\r\nK\r\n"},
		{want: "*1\r\n$4\r\nPING\r\n", say: "+PONG\r\n"},
	}, func(t *testing.T, ctx context.Context, c *tcpclient.Client) {
		require.Equal(t, "$5\r\n+O\r\nK\r\n", call(t, ctx, c, string(redisCommand("GET", "k"))))
		require.Equal(t, push, next(t, ctx, c))
		idle(d)
	})
}

func postgres(config *tls.Config, user, database, password string) *tcpclient.Dialer {
	return &tcpclient.Dialer{
		Framer:       tcpclient.LengthPrefix{Adjust: -4},                 // the first messages have no type
		More:         func(reply []byte) bool { return reply[0] != 'Z' }, // ReadyForQuery is the last
		IsPush:       func(msg []byte) bool { return msg[0] == 'A' || msg[0] == 'N' || msg[0] == 'S' },
		ReplyTimeout: time.Minute,
		Reconnect:    &tcpclient.Backoff{},
		Handshake: func(ctx context.Context, conn *tcpclient.Conn) error {
			if err := postgresTLS(ctx, conn, config); err != nil {
				return err
			}
			startup := fmt.Appendf([]byte{0, 3, 0, 0}, "user\x00%s\x00database\x00%s\x00\x00", user, database)
			if err := conn.Send(ctx, startup); err != nil {
				return err
			}
			if err := conn.SetFramer(tcpclient.LengthPrefix{Offset: 1, Adjust: -4, KeepHeader: true}); err != nil {
				return err
			}
			return postgresLogin(ctx, conn, password)
		},
	}
}

// postgresTLS asks for TLS. The answer is one byte, and no message.
func postgresTLS(ctx context.Context, conn *tcpclient.Conn, config *tls.Config) error {
	if err := conn.Send(ctx, binary.BigEndian.AppendUint32(nil, 80877103)); err != nil { // SSLRequest
		return err
	}
	agreed := make([]byte, 1)
	if _, err := io.ReadFull(conn.NetConn(), agreed); err != nil {
		return err
	}
	if agreed[0] != 'S' {
		return tcpclient.Permanent(fmt.Errorf("no TLS: %q", agreed))
	}
	return conn.StartTLS(ctx, config)
}

// pg makes a message of a type and one string. Its length is filled in.
func pg(kind byte, text string) []byte {
	return fmt.Appendf(nil, "%c\x00\x00\x00\x00%s\x00", kind, text)
}

func postgresLogin(ctx context.Context, conn *tcpclient.Conn, password string) error {
	for {
		msg, err := conn.Receive(ctx)
		if err != nil {
			return err
		}
		switch msg[0] {
		case 'Z':
			return nil
		case 'E':
			return tcpclient.Permanent(fmt.Errorf("postgres: %q", msg[5:]))
		case 'R':
			switch method := binary.BigEndian.Uint32(msg[5:]); method {
			case 0: // welcome
			case 3: // the password in the clear: through TLS
				err = conn.Send(ctx, pg('p', password))
			default:
				err = tcpclient.Permanent(fmt.Errorf("authentication method %d", method))
			}
		}
		if err != nil {
			return err
		}
	}
}

// rows calls row with each row of a query: columns with their lengths in front.
func rows(ctx context.Context, c *tcpclient.Client, query string, row func(data []byte)) (err error) {
	for msg, end := range c.Replies(ctx, pg('Q', query)) {
		switch {
		case end != nil:
			return end
		case msg[0] == 'D':
			row(msg[7:])
		case msg[0] == 'E':
			err = fmt.Errorf("postgres: %q", msg[5:]) // ReadyForQuery follows all the same
		}
	}
	return err
}

func TestPostgres(t *testing.T) {
	server, client := tcpclienttest.NewTLSConfig()
	notification := "A" + hx("00000010 0000002a") + "news\x00hi\x00"
	notice := "N" + hx("00000009") + "Mhi\x00\x00"
	talk(t, postgres(client, "me", "db", "secret"), []exchange{
		{want: hx("00000008 04d2162f"), say: "S", tls: server},
		{want: hx("0000001d 00030000") + "user\x00me\x00database\x00db\x00\x00", say: "R" + hx("00000008 00000003")},
		{want: "p" + hx("0000000b") + "secret\x00", say: "R" + hx("00000008 00000000") + "S" + hx("00000009") + "TZ\x00U\x00" + "Z" + hx("00000005") + "I"},
		{want: "Q" + hx("0000000d") + "select 1\x00", say: notice + "D" + hx("0000000b 0001 00000001") + "1" + "C" + hx("0000000d") + "SELECT 1\x00" + "Z" + hx("00000005") + "I" + notification},
		{want: "Q" + hx("00000009") + "oops\x00", say: "E" + hx("0000000a") + "Mbad\x00\x00" + "Z" + hx("00000005") + "I"},
	}, func(t *testing.T, ctx context.Context, c *tcpclient.Client) {
		n := 0
		require.NoError(t, rows(ctx, c, "select 1", func(data []byte) {
			n++
			require.Equal(t, hx("00000001")+"1", string(data))
		}))
		require.Equal(t, 1, n)
		require.Equal(t, notice, next(t, ctx, c))
		require.Equal(t, notification, next(t, ctx, c))
		require.ErrorContains(t, rows(ctx, c, "oops", nil), "bad")
	})
}

func mysql(user, password string) *tcpclient.Dialer {
	return &tcpclient.Dialer{
		Framer:       tcpclient.LengthPrefix{Width: 3, LittleEndian: true, Adjust: 1, KeepHeader: true, MaxSize: 1<<24 + 3},
		ReplyTimeout: time.Minute,
		Handshake: func(ctx context.Context, conn *tcpclient.Conn) error {
			greeting, err := conn.Receive(ctx) // the server speaks first
			if err != nil {
				return err
			}
			version := bytes.IndexByte(greeting[5:], 0) + 6 // after its end
			if greeting[4] != 10 || len(greeting) < version+44 {
				return fmt.Errorf("mysql: %q", greeting[4:])
			}
			// Of the scramble, 8 bytes are in front and 12 at the end.
			scramble := append(greeting[version+4:version+12:version+12], greeting[version+31:version+43]...)
			login := []byte{0, 0, 0, 1, 0x00, 0x82, 0x08, 0, 0, 0, 0, 1, 45} // number 1, 4.1 protocol, utf8mb4
			login = append(append(append(login, make([]byte, 23)...), user...), 0, 20)
			login = append(append(login, nativePassword(password, scramble)...), "mysql_native_password\x00"...)
			if err := conn.Send(ctx, login); err != nil {
				return err
			}
			reply, err := conn.Receive(ctx)
			if err == nil && reply[4] != 0 {
				err = fmt.Errorf("mysql: %q", reply[4:])
			}
			return err
		},
	}
}

func nativePassword(password string, scramble []byte) []byte {
	hash := sha1.Sum([]byte(password))
	twice := sha1.Sum(hash[:])
	mask := sha1.Sum(append(scramble[:len(scramble):len(scramble)], twice[:]...))
	for i := range mask {
		mask[i] ^= hash[i]
	}
	return mask[:]
}

// ping is COM_PING, the command whose answer is one packet.
func ping(ctx context.Context, c *tcpclient.Client) error {
	reply, err := c.Call(ctx, []byte{0, 0, 0, 0, 14})
	if err == nil && reply[4] != 0 {
		err = fmt.Errorf("mysql: %q", reply[4:])
	}
	return err
}

func TestMySQL(t *testing.T) {
	greeting := hx("4a000000") + "\x0a5.5.5-10.11\x00" // wants 74 bytes
	greeting += hx("01000000") + "abcdefgh\x00" + hx("fff7 2d 0200 ff81 15") + string(make([]byte, 10)) + "ijklmnopqrst\x00" + "mysql_native_password\x00"
	greeting = string([]byte{byte(len(greeting) - 4), 0, 0, 0}) + greeting[4:]
	login := hx("00820800 00000001 2d") + string(make([]byte, 23)) + "me\x00\x14" +
		string(nativePassword("secret", []byte("abcdefghijklmnopqrst"))) + "mysql_native_password\x00"
	talk(t, mysql("me", "secret"), []exchange{
		{say: greeting},
		{want: string([]byte{byte(len(login)), 0, 0, 1}) + login, say: hx("07000002 00 00 00 0200 0000")},
		{want: hx("01000000 0e"), say: hx("07000001 00 00 00 0200 0000")},
	}, func(t *testing.T, ctx context.Context, c *tcpclient.Client) {
		require.NoError(t, ping(ctx, c))
	})
}

func mongo() *tcpclient.Dialer {
	return &tcpclient.Dialer{
		Framer: tcpclient.LengthPrefix{LittleEndian: true, Adjust: -4, KeepHeader: true, MaxSize: 48_000_000},
		Correlator: tcpclient.IDField{ // requestID, and responseTo in the answer
			Offset: 4, Width: 4, ReplyOffset: 8, LittleEndian: true, Max: 0x7fffffff,
		},
		Heartbeat: tcpclient.Heartbeat{
			Interval: 10 * time.Second,
			Timeout:  30 * time.Second,
			Ping:     func() []byte { return mongoMessage(mongoPing) },
			IsPong: func(msg []byte) bool { // Calls have ids from 1
				return len(msg) >= 16 && binary.LittleEndian.Uint32(msg[8:]) == 0
			},
		},
		Reconnect: &tcpclient.Backoff{},
	}
}

// mongoPing is {ping: 1, $db: "admin"} in BSON.
const mongoPing = "\x1e\x00\x00\x00\x10ping\x00\x01\x00\x00\x00\x02$db\x00\x06\x00\x00\x00admin\x00\x00"

// mongoMessage makes an OP_MSG of one document. Length and id are filled in.
func mongoMessage(bson string) []byte {
	const opMsg = 2013
	msg := binary.LittleEndian.AppendUint32(make([]byte, 12, 64), opMsg)
	return append(append(msg, 0, 0, 0, 0, 0), bson...)
}

func TestMongo(t *testing.T) {
	d := mongo()
	hello := "\x1f\x00\x00\x00\x10hello\x00\x01\x00\x00\x00\x02$db\x00\x06\x00\x00\x00admin\x00\x00"
	ok := hx("11000000 01") + "ok\x00" + hx("000000000000f03f 00")
	talk(t, d, []exchange{
		{want: hx("34000000 01000000 00000000 dd070000 00000000 00") + hello, say: hx("26000000 63000000 01000000 dd070000 00000000 00") + ok},
		{want: hx("33000000 00000000 00000000 dd070000 00000000 00") + mongoPing, say: hx("26000000 64000000 00000000 dd070000 00000000 00") + ok},
	}, func(t *testing.T, ctx context.Context, c *tcpclient.Client) {
		require.Equal(t, ok, call(t, ctx, c, string(mongoMessage(hello)))[21:])
		idle(d)
	})
}

func cassandra() *tcpclient.Dialer {
	return &tcpclient.Dialer{
		Framer:     tcpclient.LengthPrefix{Offset: 5, KeepHeader: true, MaxSize: 256<<20 + 9},
		Correlator: tcpclient.IDField{Offset: 2, Width: 2, ReplyOffset: 2, Max: 0x7fff}, // the stream
		Heartbeat: tcpclient.Heartbeat{
			Interval: 30 * time.Second,
			Ping:     func() []byte { return cqlFrame(5, "") },     // OPTIONS, stream 0
			IsPong:   func(msg []byte) bool { return msg[4] == 6 }, // SUPPORTED
		},
		ReplyTimeout: 12 * time.Second,
		Reconnect:    &tcpclient.Backoff{},
		Handshake: func(ctx context.Context, conn *tcpclient.Conn) error {
			startup := cqlFrame(1, "\x00\x01\x00\x0bCQL_VERSION\x00\x053.0.0")
			if err := conn.Send(ctx, startup); err != nil {
				return err
			}
			reply, err := conn.Receive(ctx)
			if err == nil && reply[4] != 2 { // READY; 3 is AUTHENTICATE
				err = tcpclient.Permanent(fmt.Errorf("cassandra: %q", reply))
			}
			return err
		},
	}
}

// cqlFrame makes a frame of version 4. Stream and length are filled in.
func cqlFrame(opcode byte, body string) []byte {
	return append([]byte{4, 0, 0, 0, opcode, 0, 0, 0, 0}, body...)
}

func TestCassandra(t *testing.T) {
	d := cassandra()
	startup := hx("0001 000b") + "CQL_VERSION" + hx("0005") + "3.0.0"
	event := hx("84 00 ffff 0c 00000000")
	talk(t, d, []exchange{
		{want: hx("04 00 0000 01 00000016") + startup, say: hx("84 00 0000 02 00000000")},
		{want: hx("04 00 0001 07 0000000f 00000008") + "SELECT 1" + hx("0001 00"), say: event + hx("84 00 0001 08 00000004 00000001")},
		{want: hx("04 00 0000 05 00000000"), say: hx("84 00 0000 06 00000002 0000")},
	}, func(t *testing.T, ctx context.Context, c *tcpclient.Client) {
		require.Equal(t, hx("00000001"), call(t, ctx, c, string(cqlFrame(7, hx("00000008")+"SELECT 1"+hx("0001 00"))))[9:])
		require.Equal(t, event, next(t, ctx, c))
		idle(d)
	})
}

// memcachedSize is that of replies: a line, or values and statistics up to END.
func memcachedSize(p []byte) (int, error) {
	for at := 0; at < len(p); {
		line, _, whole := bytes.Cut(p[at:], []byte("\r\n"))
		if !whole {
			return 0, nil // more bytes have to come
		}
		at += len(line) + 2
		switch words := bytes.Fields(line); {
		case len(words) == 4 && string(words[0]) == "VALUE": // key, flags, size
			n, err := strconv.Atoi(string(words[3]))
			if err != nil || n < 0 || n > 1<<30 {
				return 0, fmt.Errorf("size of %q", line)
			}
			at += n + 2
		case len(words) > 0 && string(words[0]) == "STAT":
		default:
			return at, nil
		}
	}
	return 0, nil
}

func memcached() *tcpclient.Dialer {
	return &tcpclient.Dialer{
		Framer:       asIs{tcpclient.Sized{Size: memcachedSize}}, // of "Requests that are not framed like replies"
		ReplyTimeout: 2 * time.Second,
		Reconnect:    &tcpclient.Backoff{},
		Heartbeat: tcpclient.Heartbeat{
			Interval: 30 * time.Second,
			Ping:     func() []byte { return []byte("version\r\n") },
			IsPong:   func(msg []byte) bool { return bytes.HasPrefix(msg, []byte("VERSION ")) },
		},
	}
}

func TestMemcached(t *testing.T) {
	d := memcached()
	values := "VALUE a 0 5\r\nEND\r\n\r\nVALUE b 0 0\r\n\r\nEND\r\n"
	talk(t, d, []exchange{
		{want: "set a 0 0 5\r\nEND\r\n\r\n", say: "STORED\r\n"},
		{want: "get a b\r\n", say: values},
		{want: "version\r\n", say: "VERSION 1.6.18\r\n"},
	}, func(t *testing.T, ctx context.Context, c *tcpclient.Client) {
		require.Equal(t, "STORED\r\n", call(t, ctx, c, "set a 0 0 5\r\nEND\r\n\r\n"))
		require.Equal(t, values, call(t, ctx, c, "get a b\r\n"))
		idle(d)
	})
}

func memcachedBinary() *tcpclient.Dialer {
	noop := append([]byte{0x80, 0x0a}, make([]byte, 22)...)
	return &tcpclient.Dialer{
		Framer:     tcpclient.LengthPrefix{Offset: 8, Adjust: 12, KeepHeader: true},
		Correlator: tcpclient.IDField{Offset: 12, Width: 4, ReplyOffset: 12}, // opaque
		Reconnect:  &tcpclient.Backoff{},
		Heartbeat: tcpclient.Heartbeat{
			Interval: 30 * time.Second,
			Ping:     func() []byte { return noop },
			IsPong:   func(msg []byte) bool { return msg[1] == 0x0a },
		},
	}
}

func memcachedGet(ctx context.Context, c *tcpclient.Client, key string) (value []byte, err error) {
	request := append([]byte{0x80, 0, byte(len(key) >> 8), byte(len(key))}, make([]byte, 20)...)
	reply, err := c.Call(ctx, append(request, key...))
	if err != nil {
		return nil, err
	}
	if status := binary.BigEndian.Uint16(reply[6:]); status != 0 {
		return nil, fmt.Errorf("status %d: %s", status, reply[24:])
	}
	return reply[24+int(reply[4]):], nil // after the extras: flags
}

func TestMemcachedBinary(t *testing.T) {
	d := memcachedBinary()
	talk(t, d, []exchange{
		{want: hx("80 00 0005 00 00 0000 00000005 00000001 0000000000000000") + "Hello", say: hx("81 00 0000 04 00 0000 00000009 00000001 0000000000000001 deadbeef") + "World"},
		{want: hx("80 0a 0000 00 00 0000 00000000 00000000 0000000000000000"), say: hx("81 0a 0000 00 00 0000 00000000 00000000 0000000000000000")},
	}, func(t *testing.T, ctx context.Context, c *tcpclient.Client) {
		value, err := memcachedGet(ctx, c, "Hello")
		require.NoError(t, err)
		require.Equal(t, "World", string(value))
		idle(d)
	})
}

func zooKeeper(timeout time.Duration) *tcpclient.Dialer {
	return &tcpclient.Dialer{
		Correlator: tcpclient.IDField{Width: 4, Max: 0x7fffffff}, // the xid
		Heartbeat: tcpclient.Heartbeat{
			Interval: timeout / 3,
			Timeout:  timeout * 2 / 3,
			Ping:     func() []byte { return []byte{0xff, 0xff, 0xff, 0xfe, 0, 0, 0, 11} },
			IsPong:   func(msg []byte) bool { return bytes.HasPrefix(msg, []byte{0xff, 0xff, 0xff, 0xfe}) },
		},
		Reconnect: &tcpclient.Backoff{},
		Handshake: func(ctx context.Context, conn *tcpclient.Conn) error {
			connect := make([]byte, 12) // protocol version, last zxid seen
			connect = binary.BigEndian.AppendUint32(connect, uint32(timeout.Milliseconds()))
			connect = append(connect, make([]byte, 8)...)                         // session: a new one
			connect = append(append(connect, 0, 0, 0, 16), make([]byte, 16+1)...) // password, not read-only
			if err := conn.Send(ctx, connect); err != nil {
				return err
			}
			reply, err := conn.Receive(ctx)
			if err == nil && binary.BigEndian.Uint32(reply[4:]) != uint32(timeout.Milliseconds()) {
				err = fmt.Errorf("the server has another timeout: % x", reply) // set minSessionTimeout
			}
			return err
		},
	}
}

func TestZooKeeper(t *testing.T) {
	d := zooKeeper(30 * time.Second)
	event := hx("ffffffff ffffffffffffffff 00000000 00000003 00000003 00000002") + "/a"
	talk(t, d, []exchange{
		{want: hx("0000002d 00000000 0000000000000000 00007530 0000000000000000 00000010") + string(make([]byte, 17)),
			say: hx("00000025 00000000 00007530 0100000000000001 00000010") + string(make([]byte, 17))},
		{want: hx("0000000f 00000001 00000003 00000002") + "/a\x01", say: hx("0000001e") + event + hx("00000010 00000001 0000000000000002 ffffff9b")},
		{want: hx("00000008 fffffffe 0000000b"), say: hx("00000010 fffffffe 0000000000000002 00000000")},
	}, func(t *testing.T, ctx context.Context, c *tcpclient.Client) {
		reply := call(t, ctx, c, hx("00000000 00000003 00000002")+"/a\x01") // exists, with a watch
		require.Equal(t, hx("ffffff9b"), reply[12:], "no such node")
		require.Equal(t, event, next(t, ctx, c))
		idle(d)
	})
}
