package cookbook

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/seed-d0aa0aa7/tcpclient"
	"github.com/stretchr/testify/require"
)

func ownProtocol() *tcpclient.Dialer {
	return &tcpclient.Dialer{
		Framer:     tcpclient.LengthPrefix{MaxSize: 1 << 20}, // more ends the connection
		Correlator: tcpclient.IDPrefix{},                     // the server returns the 8 bytes
		Heartbeat: tcpclient.Heartbeat{
			Interval: 15 * time.Second,
			Timeout:  40 * time.Second,
			Ping:     func() []byte { return []byte("ping") },
			IsPong:   func(msg []byte) bool { return string(msg) == "pong" },
		},
		ReplyTimeout: 30 * time.Second,
		Reconnect:    &tcpclient.Backoff{},
	}
}

func TestOwnProtocol(t *testing.T) {
	d := ownProtocol()
	talk(t, d, []exchange{
		{want: hx("0000000d 0000000000000001") + "hello", say: hx("00000004") + "news" + hx("0000000d 0000000000000001") + "world"},
		{want: hx("00000004") + "ping", say: hx("00000004") + "pong"},
	}, func(t *testing.T, ctx context.Context, c *tcpclient.Client) {
		require.Equal(t, "world", call(t, ctx, c, "hello"))
		require.Equal(t, "news", next(t, ctx, c))
		idle(d)
	})
}

// A jsonRPC gives requests their ids. A request is an object without "jsonrpc" and "id".
type jsonRPC struct{}

func (jsonRPC) AppendRequest(dst []byte, id uint64, request []byte) ([]byte, error) {
	if len(request) < 3 || request[0] != '{' {
		return dst, errors.New("request is no JSON object")
	}
	return append(fmt.Appendf(dst, `{"jsonrpc":"2.0","id":%d,`, id), request[1:]...), nil
}

func (jsonRPC) SplitReply(msg []byte) (id uint64, reply []byte, ok bool) {
	var head struct {
		ID     *uint64 `json:"id"`
		Method string  `json:"method"`
	}
	if json.Unmarshal(msg, &head) != nil || head.ID == nil || head.Method != "" {
		return 0, nil, false // a notification, or a request of the server: for Receive
	}
	return *head.ID, msg, true
}

func jsonLines() *tcpclient.Dialer {
	return &tcpclient.Dialer{
		Framer:     tcpclient.Lines{MaxSize: 1 << 20},
		Correlator: jsonRPC{}, // without ids: nil, and the replies come in order
		Heartbeat: tcpclient.Heartbeat{
			Interval: time.Minute,
			Ping:     func() []byte { return []byte(`{"jsonrpc":"2.0","id":0,"method":"server.ping"}`) },
			IsPong: func(msg []byte) bool {
				id, _, ok := jsonRPC{}.SplitReply(msg)
				return ok && id == 0 // Calls have ids from 1
			},
		},
		Reconnect: &tcpclient.Backoff{},
	}
}

func TestJSONLines(t *testing.T) {
	d := jsonLines()
	push := `{"jsonrpc":"2.0","method":"blockchain.headers.subscribe","params":[{"height":1}]}`
	talk(t, d, []exchange{
		{want: `{"jsonrpc":"2.0","id":1,"method":"server.version","params":["me","1.4"]}` + "\n", say: push + "\n" + `{"id":1,"jsonrpc":"2.0","result":["ElectrumX 1.16","1.4"]}` + "\r\n"},
		{want: `{"jsonrpc":"2.0","id":0,"method":"server.ping"}` + "\n", say: `{"id":0,"jsonrpc":"2.0","result":null}` + "\n"},
	}, func(t *testing.T, ctx context.Context, c *tcpclient.Client) {
		require.Contains(t, call(t, ctx, c, `{"method":"server.version","params":["me","1.4"]}`), "ElectrumX")
		require.Equal(t, push, next(t, ctx, c))
		idle(d)
	})
}

func protobufStream() *tcpclient.Dialer {
	return &tcpclient.Dialer{
		Framer:    tcpclient.Varint{MaxSize: 1 << 20},
		Reconnect: &tcpclient.Backoff{},
		Heartbeat: tcpclient.Heartbeat{
			Interval: 30 * time.Second,
			Timeout:  90 * time.Second,
			Ping:     func() []byte { return []byte{} },              // a message of no fields
			IsPong:   func(msg []byte) bool { return len(msg) == 0 }, // which the server returns
		},
	}
}

// requestProto sends a message that proto.Marshal has made, and returns one for proto.Unmarshal.
func requestProto(ctx context.Context, c *tcpclient.Client, marshaled []byte) ([]byte, error) {
	return c.Call(ctx, marshaled)
}

func TestProtobufStream(t *testing.T) {
	d := protobufStream()
	talk(t, d, []exchange{
		{want: hx("03 08 96 01"), say: hx("09 12 07") + "testing"},
		{want: hx("00"), say: hx("00")},
	}, func(t *testing.T, ctx context.Context, c *tcpclient.Client) {
		reply, err := requestProto(ctx, c, []byte{0x08, 0x96, 0x01}) // Test1 of the encoding guide
		require.NoError(t, err)
		require.Equal(t, "\x12\x07testing", string(reply))
		idle(d)
	})
}

func languageServer(initialize []byte) *tcpclient.Dialer {
	return &tcpclient.Dialer{
		Framer:     tcpclient.ContentLength{MaxSize: 64 << 20}, // completion lists are large
		Correlator: jsonRPC{},                                  // of "JSON-RPC in lines"
		Inbox:      4 << 20,
		Handshake: func(ctx context.Context, conn *tcpclient.Conn) error {
			// With an id that no Call gets: {"jsonrpc":"2.0","id":0,"method":"initialize","params":{…}}
			if err := conn.Send(ctx, initialize); err != nil {
				return err
			}
			for {
				msg, err := conn.Receive(ctx)
				if err != nil {
					return err
				}
				if id, _, ok := (jsonRPC{}).SplitReply(msg); ok && id == 0 {
					return conn.Send(ctx, []byte(`{"jsonrpc":"2.0","method":"initialized","params":{}}`))
				}
				conn.Deliver(msg) // a log message that came first
			}
		},
	}
}

func TestLanguageServer(t *testing.T) {
	initialize := `{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"capabilities":{}}}`
	frame := func(s string) string { return fmt.Sprintf("Content-Length: %d\r\n\r\n%s", len(s), s) }
	log := `{"jsonrpc":"2.0","method":"window/logMessage","params":{"type":3,"message":"hi"}}`
	ask := `{"jsonrpc":"2.0","id":1,"method":"workspace/configuration","params":{"items":[]}}`
	talk(t, languageServer([]byte(initialize)), []exchange{
		{want: frame(initialize), say: frame(log) + frame(`{"jsonrpc":"2.0","result":{"capabilities":{}},"id":0}`)},
		{want: frame(`{"jsonrpc":"2.0","method":"initialized","params":{}}`), say: frame(ask)},
		{want: frame(`{"jsonrpc":"2.0","id":1,"result":[]}`)},
		{want: frame(`{"jsonrpc":"2.0","id":1,"method":"shutdown"}`), say: frame(`{"jsonrpc":"2.0","result":null,"id":1}`)},
	}, func(t *testing.T, ctx context.Context, c *tcpclient.Client) {
		require.Equal(t, log, next(t, ctx, c))
		require.Equal(t, ask, next(t, ctx, c), "its id is none of ours")
		require.NoError(t, c.Send(ctx, []byte(`{"jsonrpc":"2.0","id":1,"result":[]}`)))
		require.Contains(t, call(t, ctx, c, `{"method":"shutdown"}`), `"result":null`)
	})
}

func netstrings() *tcpclient.Dialer {
	return &tcpclient.Dialer{
		Framer:       tcpclient.Netstring(),
		ReplyTimeout: 10 * time.Second, // replies come in order: see that none is missing
		Reconnect:    &tcpclient.Backoff{},
	}
}

// postfixMap asks a socketmap_table of Postfix: "OK value", "NOTFOUND ", "TEMP reason" and so on.
func postfixMap(ctx context.Context, c *tcpclient.Client, table, key string) (value string, err error) {
	reply, err := c.Call(ctx, []byte(table+" "+key))
	if err != nil {
		return "", err
	}
	if value, ok := strings.CutPrefix(string(reply), "OK "); ok {
		return value, nil
	}
	return "", fmt.Errorf("%s: %s", key, reply)
}

func TestNetstrings(t *testing.T) {
	talk(t, netstrings(), []exchange{
		{want: "11:virtual bob,", say: "18:OK bob@example.com,"},
		{want: "11:virtual eve,", say: "9:NOTFOUND ,"},
	}, func(t *testing.T, ctx context.Context, c *tcpclient.Client) {
		value, err := postfixMap(ctx, c, "virtual", "bob")
		require.NoError(t, err)
		require.Equal(t, "bob@example.com", value)
		_, err = postfixMap(ctx, c, "virtual", "eve")
		require.ErrorContains(t, err, "NOTFOUND")
	})
}

func erlangPacket() *tcpclient.Dialer {
	return &tcpclient.Dialer{
		Framer:      tcpclient.LengthPrefix{Width: 4}, // {packet,4}; Width 2 or 1 for {packet,2} and {packet,1}
		MaxInFlight: 100,                              // a gen_server's mailbox has no bound of its own
		Reconnect:   &tcpclient.Backoff{},
		Heartbeat: tcpclient.Heartbeat{
			Interval: 20 * time.Second,
			Timeout:  50 * time.Second,
			Ping:     func() []byte { return []byte{131, 100, 0, 4, 'p', 'i', 'n', 'g'} }, // term_to_binary(ping)
			IsPong:   func(msg []byte) bool { return string(msg) == "\x83\x64\x00\x04pong" },
		},
	}
}

func TestErlangPacket(t *testing.T) {
	d := erlangPacket()
	talk(t, d, []exchange{
		{want: hx("00000003 83 61 2a"), say: hx("00000006 83 62 000007e4")}, // 42, 2020
		{want: hx("00000008 83 64 0004") + "ping", say: hx("00000008 83 64 0004") + "pong"},
	}, func(t *testing.T, ctx context.Context, c *tcpclient.Client) {
		require.Equal(t, hx("83 62 000007e4"), call(t, ctx, c, hx("83 61 2a")))
		idle(d)
	})
}
