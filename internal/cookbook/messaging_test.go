package cookbook

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/seed-d0aa0aa7/tcpclient"
	"github.com/stretchr/testify/require"
)

// mqttSize is that of a control packet: a type, the size of the rest in one to four bytes, the rest.
func mqttSize(p []byte) (int, error) {
	rest := 0
	for i := 1; i < len(p); i++ {
		if i > 4 {
			return 0, errors.New("size of more than four bytes")
		}
		rest |= int(p[i]&0x7f) << (7 * (i - 1))
		if p[i] < 0x80 {
			return 1 + i + rest, nil
		}
	}
	return 0, nil // more bytes have to come
}

func mqttPacket(kind byte, body string) []byte {
	return append(binary.AppendUvarint([]byte{kind}, uint64(len(body))), body...)
}

// mqttText has its length in front.
func mqttText(s string) string {
	return string([]byte{byte(len(s) >> 8), byte(len(s))}) + s
}

func mqtt(clientID, topic string) *tcpclient.Dialer {
	return &tcpclient.Dialer{
		Framer:     tcpclient.Sized{Size: mqttSize},
		Correlator: mqttIDs{},
		Heartbeat: tcpclient.Heartbeat{
			Interval: 30 * time.Second, // half of what CONNECT promises
			Timeout:  75 * time.Second,
			Ping:     func() []byte { return []byte{0xc0, 0} },
			IsPong:   func(msg []byte) bool { return msg[0] == 0xd0 },
		},
		Reconnect: &tcpclient.Backoff{},
		Handshake: func(ctx context.Context, conn *tcpclient.Conn) error {
			connect := mqttText("MQTT") + "\x04\x00\x00\x3c" + mqttText(clientID) // 3.1.1, keep the session, 60 s
			if err := conn.Send(ctx, mqttPacket(0x10, connect)); err != nil {
				return err
			}
			reply, err := conn.Receive(ctx)
			if err != nil {
				return err
			}
			if len(reply) != 4 || reply[0] != 0x20 || reply[3] != 0 {
				return fmt.Errorf("no CONNACK: % x", reply)
			}
			return mqttSubscribe(ctx, conn, topic)
		},
	}
}

func mqttSubscribe(ctx context.Context, conn *tcpclient.Conn, topic string) error {
	const id = "\xff\xff" // which no Call gets soon
	if err := conn.Send(ctx, mqttPacket(0x82, id+mqttText(topic)+"\x01")); err != nil {
		return err
	}
	for {
		msg, err := conn.Receive(ctx)
		switch {
		case err != nil:
			return err
		case msg[0] != 0x90:
			conn.Deliver(msg) // a PUBLISH that was kept for us comes before the SUBACK
		case msg[len(msg)-1] == 0x80:
			return tcpclient.Permanent(fmt.Errorf("subscription to %s refused", topic))
		default:
			return nil
		}
	}
}

// An mqttIDs writes the packet identifier of a PUBLISH with QoS 1, and finds it in the PUBACK.
type mqttIDs struct{}

func (mqttIDs) MaxID() uint64 { return 0xfffe }

func (mqttIDs) AppendRequest(dst []byte, id uint64, request []byte) ([]byte, error) {
	_, n := binary.Uvarint(request[1:])
	topic := int(binary.BigEndian.Uint16(request[1+n:]))
	at := len(dst) + 1 + n + 2 + topic
	dst = append(dst, request...)
	binary.BigEndian.PutUint16(dst[at:], uint16(id))
	return dst, nil
}

func (mqttIDs) SplitReply(msg []byte) (id uint64, reply []byte, ok bool) {
	if msg[0] != 0x40 || len(msg) < 4 {
		return 0, nil, false
	}
	return uint64(binary.BigEndian.Uint16(msg[2:])), msg, true
}

// publish returns when the broker has the message.
func publish(ctx context.Context, c *tcpclient.Client, topic, payload string) error {
	_, err := c.Call(ctx, mqttPacket(0x32, mqttText(topic)+"\x00\x00"+payload)) // the id is filled in
	return err
}

func TestMQTT(t *testing.T) {
	d := mqtt("me", "a/#")
	kept := hx("32 09 0003") + "a/b" + hx("0007") + "hi"
	talk(t, d, []exchange{
		{want: hx("10 0e 0004") + "MQTT" + hx("04 00 003c 0002") + "me", say: hx("20 02 01 00")},
		{want: hx("82 08 ffff 0003") + "a/#" + hx("01"), say: kept + hx("90 03 ffff 01")},
		{want: hx("40 02 0007")},
		{want: hx("32 09 0003") + "c/d" + hx("0001") + "on", say: hx("30 08 0003") + "a/x" + "yes" + hx("40 02 0001")},
		{want: hx("c0 00"), say: hx("d0 00")},
	}, func(t *testing.T, ctx context.Context, c *tcpclient.Client) {
		require.Equal(t, kept, next(t, ctx, c))
		require.NoError(t, c.Send(ctx, []byte(hx("40 02 0007")))) // PUBACK
		require.NoError(t, publish(ctx, c, "c/d", "on"))
		require.Equal(t, hx("30 08 0003")+"a/xyes", next(t, ctx, c))
		idle(d)
	})
}

// natsSize is that of what the server sends: a line, and the payload of MSG and HMSG.
func natsSize(p []byte) (int, error) {
	line, _, whole := bytes.Cut(p, []byte("\r\n"))
	if !whole {
		return 0, nil // more bytes have to come
	}
	words := bytes.Fields(line)
	if len(words) < 4 || string(words[0]) != "MSG" && string(words[0]) != "HMSG" {
		return len(line) + 2, nil
	}
	n, err := strconv.Atoi(string(words[len(words)-1]))
	if err != nil || n < 0 || n > 1<<30 {
		return 0, fmt.Errorf("size of %q", line)
	}
	return len(line) + 2 + n + 2, nil
}

func nats(subject string) *tcpclient.Dialer {
	return &tcpclient.Dialer{
		Framer: asIs{tcpclient.Sized{Size: natsSize}}, // of "Requests that are not framed like replies"
		Heartbeat: tcpclient.Heartbeat{
			Interval: time.Minute,
			Ping:     func() []byte { return []byte("PING\r\n") },
			IsPong:   func(msg []byte) bool { return string(msg) == "PONG\r\n" },
			Answer:   func(msg []byte) ([]byte, bool) { return []byte("PONG\r\n"), string(msg) == "PING\r\n" },
		},
		Reconnect: &tcpclient.Backoff{},
		Handshake: func(ctx context.Context, conn *tcpclient.Conn) error {
			if _, err := conn.Receive(ctx); err != nil { // INFO {…}
				return err
			}
			// PONG is the answer to all three, or -ERR.
			connect := fmt.Sprintf("CONNECT {\"verbose\":false,\"pedantic\":false}\r\nSUB %s 1\r\nPING\r\n", subject)
			if err := conn.Send(ctx, []byte(connect)); err != nil {
				return err
			}
			reply, err := conn.Receive(ctx)
			if err == nil && string(reply) != "PONG\r\n" {
				err = tcpclient.Permanent(fmt.Errorf("nats: %q", reply))
			}
			return err
		},
	}
}

func TestNATS(t *testing.T) {
	d := nats("news.>")
	talk(t, d, []exchange{
		{say: "INFO {\"server_id\":\"x\",\"max_payload\":1048576}\r\n"},
		{want: "CONNECT {\"verbose\":false,\"pedantic\":false}\r\nSUB news.> 1\r\nPING\r\n", say: "PONG\r\nPING\r\n"},
		{want: "PONG\r\nPUB news.a 4\r\n\r\nhi\r\n", say: "MSG news.a 1 4\r\n\r\nhi\r\n"},
		{want: "PING\r\n", say: "PONG\r\n"},
	}, func(t *testing.T, ctx context.Context, c *tcpclient.Client) {
		time.Sleep(time.Second)
		require.NoError(t, c.Send(ctx, []byte("PUB news.a 4\r\n\r\nhi\r\n")))
		require.Equal(t, "MSG news.a 1 4\r\n\r\nhi\r\n", next(t, ctx, c))
		idle(d)
	})
}

func kafka() *tcpclient.Dialer {
	return &tcpclient.Dialer{
		Framer:       tcpclient.LengthPrefix{MaxSize: 100 << 20},
		Correlator:   tcpclient.IDField{Offset: 4, Width: 4, ReplyOffset: 0, Max: 0x7fffffff},
		MaxInFlight:  5, // as Kafka's own clients
		ReplyTimeout: 30 * time.Second,
		Reconnect:    &tcpclient.Backoff{OnDemand: true}, // brokers close connections that are idle
	}
}

// kafkaRequest makes a request with header version 1. The correlation id is filled in.
func kafkaRequest(key, version uint16, clientID string, body []byte) []byte {
	request := binary.BigEndian.AppendUint16(nil, key)
	request = binary.BigEndian.AppendUint16(request, version)
	request = append(request, 0, 0, 0, 0)
	request = binary.BigEndian.AppendUint16(request, uint16(len(clientID)))
	return append(append(request, clientID...), body...)
}

func TestKafka(t *testing.T) {
	talk(t, kafka(), []exchange{
		{want: hx("0000000c 0012 0000 00000001 0002") + "me", say: hx("00000010 00000001 0000 00000001 0012 0000 0003")},
		{want: hx("00000010 0003 0000 00000002 0002") + "me" + hx("00000000"), say: hx("0000000c 00000002 00000000 00000000")},
	}, func(t *testing.T, ctx context.Context, c *tcpclient.Client) {
		require.Equal(t, hx("00000001 0000 00000001 0012 0000 0003"), call(t, ctx, c, string(kafkaRequest(18, 0, "me", nil)))) // ApiVersions
		require.Equal(t, hx("00000002 00000000 00000000"), call(t, ctx, c, string(kafkaRequest(3, 0, "me", make([]byte, 4))))) // Metadata
	})
}

func amqp(user, password string) *tcpclient.Dialer {
	return &tcpclient.Dialer{
		Framer: tcpclient.LengthPrefix{Offset: 3, Adjust: 1, KeepHeader: true},
		Heartbeat: tcpclient.Heartbeat{
			Interval: 30 * time.Second, // half of what tune-ok promises
			Timeout:  75 * time.Second,
			Ping:     func() []byte { return []byte{8, 0, 0, 0, 0, 0, 0, 0xce} },
			IsPong:   func(msg []byte) bool { return msg[0] == 8 }, // the server's own heartbeat
		},
		Handshake: func(ctx context.Context, conn *tcpclient.Conn) error {
			if _, err := conn.NetConn().Write([]byte("AMQP\x00\x00\x09\x01")); err != nil {
				return err
			}
			login := "\x00" + user + "\x00" + password
			startOK := "\x00\x00\x00\x00\x05PLAIN" + string(binary.BigEndian.AppendUint32(nil, uint32(len(login)))) + login + "\x05en_US"
			for _, step := range []struct{ answers, method, arguments string }{
				{"\x00\x0a\x00\x0a", "\x00\x0a\x00\x0b", startOK},
				{"\x00\x0a\x00\x1e", "\x00\x0a\x00\x1f", "\x07\xff\x00\x02\x00\x00\x00\x3c"}, // tune-ok: 2047 channels, 128 KiB, 60 s
				{"", "\x00\x0a\x00\x28", "\x01/\x00\x00"},                                    // open
				{"\x00\x0a\x00\x29", "\x00\x14\x00\x0a", "\x00"},                             // open-ok: open channel 1
				{"\x00\x14\x00\x0b", "", ""},                                                 // channel open-ok
			} {
				if err := amqpStep(ctx, conn, step.answers, step.method, step.arguments); err != nil {
					return err
				}
			}
			return nil
		},
	}
}

// amqpStep waits for a method and calls another. Either may be "".
func amqpStep(ctx context.Context, conn *tcpclient.Conn, answers, method, arguments string) error {
	if answers != "" {
		msg, err := conn.Receive(ctx)
		if err != nil {
			return err
		}
		if !strings.HasPrefix(string(msg[7:]), answers) {
			return fmt.Errorf("amqp: %q instead of %q", msg[7:], answers)
		}
	}
	if method == "" {
		return nil
	}
	channel := byte(0)
	if method[1] != 10 {
		channel = 1
	}
	return conn.Send(ctx, amqpFrame(1, channel, method+arguments))
}

// amqpFrame makes a frame: 1 is a method, 2 a content header, 3 content. The size is filled in.
func amqpFrame(kind, channel byte, payload string) []byte {
	return append(append([]byte{kind, 0, channel, 0, 0, 0, 0}, payload...), 0xce)
}

func TestAMQP(t *testing.T) {
	d := amqp("guest", "guest")
	method := func(channel, size, body string) string { return hx("01"+channel+size) + body + "\xce" }
	talk(t, d, []exchange{
		{want: "AMQP" + hx("00000901"), say: method("0000", "0000001c", hx("000a000a 00 09 00000000 00000005")+"PLAIN"+hx("00000005")+"en_US")},
		{want: method("0000", "00000024", hx("000a000b 00000000 05")+"PLAIN"+hx("0000000c")+"\x00guest\x00guest"+"\x05en_US"),
			say: method("0000", "0000000c", hx("000a001e 07ff 00020000 003c"))},
		{want: method("0000", "0000000c", hx("000a001f 07ff 00020000 003c")) + method("0000", "00000008", hx("000a0028 01 2f 00 00")), say: method("0000", "00000005", hx("000a0029 00"))},
		{want: method("0001", "00000005", hx("0014000a 00")), say: method("0001", "00000008", hx("0014000b 00000000"))},
		{want: hx("08 0000 00000000 ce"), say: hx("08 0000 00000000 ce")},
	}, func(*testing.T, context.Context, *tcpclient.Client) { idle(d) })
}

// stompSize is that of a frame, or of the line end that is STOMP's heart-beat.
func stompSize(p []byte) (int, error) {
	switch {
	case p[0] == '\n':
		return 1, nil
	case p[0] == '\r' && len(p) > 1:
		return 2, nil
	}
	head := bytes.Index(p, []byte("\n\n")) + 2
	if crlf := bytes.Index(p, []byte("\n\r\n")) + 3; crlf > 2 && (head < 2 || crlf < head) {
		head = crlf
	}
	if head < 2 {
		return 0, nil // more bytes have to come
	}
	if _, after, ok := bytes.Cut(p[:head], []byte("\ncontent-length:")); ok {
		digits, _, _ := bytes.Cut(after, []byte("\n"))
		n, err := strconv.Atoi(strings.TrimSpace(string(digits)))
		if err != nil || n < 0 || n > 1<<30 {
			return 0, fmt.Errorf("content-length of %q", digits)
		}
		return head + n + 1, nil
	}
	if end := bytes.IndexByte(p[head:], 0); end >= 0 {
		return head + end + 1, nil
	}
	return 0, nil
}

func stomp(host, destination string) *tcpclient.Dialer {
	return &tcpclient.Dialer{
		Framer: tcpclient.Sized{Size: stompSize},
		Heartbeat: tcpclient.Heartbeat{
			Interval: 10 * time.Second, // as in heart-beat below
			Timeout:  25 * time.Second,
			Ping:     func() []byte { return []byte("\n") },
			IsPong:   func(msg []byte) bool { return len(bytes.TrimSpace(msg)) == 0 },
		},
		Reconnect: &tcpclient.Backoff{},
		Handshake: func(ctx context.Context, conn *tcpclient.Conn) error {
			connect := fmt.Sprintf("CONNECT\naccept-version:1.2\nhost:%s\nheart-beat:15000,10000\n\n\x00", host)
			if err := conn.Send(ctx, []byte(connect)); err != nil {
				return err
			}
			reply, err := conn.Receive(ctx)
			if err != nil {
				return err
			}
			if !bytes.HasPrefix(reply, []byte("CONNECTED")) {
				return fmt.Errorf("stomp: %q", reply)
			}
			return conn.Send(ctx, fmt.Appendf(nil, "SUBSCRIBE\nid:0\ndestination:%s\nack:client-individual\n\n\x00", destination))
		},
	}
}

func TestSTOMP(t *testing.T) {
	d := stomp("example.com", "/queue/a")
	message := "MESSAGE\nsubscription:0\nmessage-id:1\nack:7\ndestination:/queue/a\ncontent-length:5\n\nhe\x00lo\x00"
	talk(t, d, []exchange{
		{want: "CONNECT\naccept-version:1.2\nhost:example.com\nheart-beat:15000,10000\n\n\x00", say: "CONNECTED\nversion:1.2\nheart-beat:10000,15000\n\n\x00\n"},
		{want: "SUBSCRIBE\nid:0\ndestination:/queue/a\nack:client-individual\n\n\x00", say: message + "\n\r\n"},
		{want: "ACK\nid:7\n\n\x00", say: "RECEIPT\r\nreceipt-id:1\r\n\r\n\x00"},
		{want: "\n", say: "\n"},
	}, func(t *testing.T, ctx context.Context, c *tcpclient.Client) {
		require.Equal(t, message, next(t, ctx, c))
		require.NoError(t, c.Send(ctx, []byte("ACK\nid:7\n\n\x00")))
		require.Equal(t, "RECEIPT\r\nreceipt-id:1\r\n\r\n\x00", next(t, ctx, c))
		idle(d)
	})
}

// beanstalkSize is that of a reply: a line, and the body of those that have one.
func beanstalkSize(p []byte) (int, error) {
	line, _, whole := bytes.Cut(p, []byte("\r\n"))
	if !whole {
		return 0, nil // more bytes have to come
	}
	switch words := strings.Fields(string(line)); {
	case len(words) == 3 && (words[0] == "RESERVED" || words[0] == "FOUND"), len(words) == 2 && words[0] == "OK":
		n, err := strconv.Atoi(words[len(words)-1])
		if err != nil || n < 0 || n > 1<<30 {
			return 0, fmt.Errorf("size of %q", line)
		}
		return len(line) + 2 + n + 2, nil
	}
	return len(line) + 2, nil
}

// beanstalkWorker reserves jobs. Others that put jobs need a Client of their own.
func beanstalkWorker(tube string) *tcpclient.Dialer {
	return &tcpclient.Dialer{
		Framer:       asIs{tcpclient.Sized{Size: beanstalkSize}}, // of "Requests that are not framed like replies"
		ReplyTimeout: 40 * time.Second,                           // more than reserve-with-timeout
		Reconnect:    &tcpclient.Backoff{},
		Handshake: func(ctx context.Context, conn *tcpclient.Conn) error {
			if err := conn.Send(ctx, []byte("watch "+tube+"\r\n")); err != nil {
				return err
			}
			reply, err := conn.Receive(ctx)
			if err == nil && !bytes.HasPrefix(reply, []byte("WATCHING ")) {
				err = fmt.Errorf("beanstalkd: %q", reply)
			}
			return err
		},
	}
}

// work takes one job. The job belongs to the connection that has reserved it.
func work(ctx context.Context, c *tcpclient.Client, do func(job []byte) error) error {
	session, err := c.Session()
	if err != nil {
		return err
	}
	reply, err := session.Call(ctx, []byte("reserve-with-timeout 30\r\n"))
	if err != nil {
		return err
	}
	if !bytes.HasPrefix(reply, []byte("RESERVED ")) {
		return fmt.Errorf("reserve: %q", reply) // TIMED_OUT: there was no job
	}
	line, body, _ := bytes.Cut(reply, []byte("\r\n"))
	if err := do(body[:len(body)-2]); err != nil {
		return err // after its time to run the server gives the job to another
	}
	reply, err = session.Call(ctx, fmt.Appendf(nil, "delete %s\r\n", bytes.Fields(line)[1]))
	if err == nil && string(reply) != "DELETED\r\n" {
		err = fmt.Errorf("delete: %q", reply) // its time to run was over
	}
	return err
}

func TestBeanstalk(t *testing.T) {
	talk(t, beanstalkWorker("mail"), []exchange{
		{want: "watch mail\r\n", say: "WATCHING 2\r\n"},
		{want: "reserve-with-timeout 30\r\n", say: "RESERVED 88 6\r\nto\r\nme\r\n"},
		{want: "delete 88\r\n", say: "DELETED\r\n"},
		{want: "reserve-with-timeout 30\r\n", say: "TIMED_OUT\r\n"},
	}, func(t *testing.T, ctx context.Context, c *tcpclient.Client) {
		var jobs []string
		do := func(job []byte) error { jobs = append(jobs, string(job)); return nil }
		require.NoError(t, work(ctx, c, do))
		require.ErrorContains(t, work(ctx, c, do), "TIMED_OUT")
		require.Equal(t, []string{"to\r\nme"}, jobs)
	})
}

// gearmanPacket makes a request. Its size is filled in. Arguments have NUL between them.
func gearmanPacket(kind byte, arguments string) []byte {
	return append([]byte{0, 'R', 'E', 'Q', 0, 0, 0, kind, 0, 0, 0, 0}, arguments...)
}

func gearman() *tcpclient.Dialer {
	const jobCreated, echoRes, optionRes, errorRes = 8, 17, 27, 19
	return &tcpclient.Dialer{
		Framer: tcpclient.LengthPrefix{Offset: 8, KeepHeader: true},
		IsPush: func(msg []byte) bool { // WORK_COMPLETE and others come when they come
			return msg[7] != jobCreated && msg[7] != errorRes && msg[7] != optionRes
		},
		ReplyTimeout: 10 * time.Second,
		Reconnect:    &tcpclient.Backoff{},
		Heartbeat: tcpclient.Heartbeat{
			Interval: 20 * time.Second,
			Ping:     func() []byte { return gearmanPacket(16, "?") }, // ECHO_REQ
			IsPong:   func(msg []byte) bool { return msg[7] == echoRes },
		},
	}
}

func TestGearman(t *testing.T) {
	d := gearman()
	work := "\x00RES" + hx("0000000d 00000008") + "H:a:1\x00ok"
	talk(t, d, []exchange{
		{want: "\x00REQ" + hx("00000007 00000009") + "reverse\x00\x00", say: "\x00RES" + hx("00000008 00000005") + "H:a:1" + work},
		{want: "\x00REQ" + hx("00000010 00000001") + "?", say: "\x00RES" + hx("00000011 00000001") + "?"},
	}, func(t *testing.T, ctx context.Context, c *tcpclient.Client) {
		require.Equal(t, "H:a:1", call(t, ctx, c, string(gearmanPacket(7, "reverse\x00\x00")))[12:]) // SUBMIT_JOB: function, id, data
		require.Equal(t, work, next(t, ctx, c))
		idle(d)
	})
}

func irc(nick, channel string) *tcpclient.Dialer {
	return &tcpclient.Dialer{
		Framer: tcpclient.Lines{CRLF: true, MaxSize: 8191 + 512}, // tags, message
		Heartbeat: tcpclient.Heartbeat{
			Interval: time.Minute,
			Timeout:  3 * time.Minute,
			Ping:     func() []byte { return []byte("PING tick") },
			IsPong: func(msg []byte) bool {
				return bytes.Contains(msg, []byte(" PONG ")) && bytes.HasSuffix(msg, []byte("tick"))
			},
			Answer: func(msg []byte) ([]byte, bool) {
				token, ok := bytes.CutPrefix(msg, []byte("PING "))
				return append([]byte("PONG "), token...), ok
			},
		},
		Reconnect: &tcpclient.Backoff{Min: 5 * time.Second, Max: 5 * time.Minute}, // servers throttle
		Handshake: func(ctx context.Context, conn *tcpclient.Conn) error {
			for _, line := range []string{"NICK " + nick, "USER " + nick + " 0 * :" + nick} {
				if err := conn.Send(ctx, []byte(line)); err != nil {
					return err
				}
			}
			return ircWelcome(ctx, conn, channel)
		},
	}
}

func ircWelcome(ctx context.Context, conn *tcpclient.Conn, channel string) error {
	for {
		msg, err := conn.Receive(ctx)
		if err != nil {
			return err
		}
		words := strings.Fields(string(msg))
		switch {
		case len(words) < 2:
		case words[0] == "PING": // may come before the welcome: the Heartbeat does not run yet
			err = conn.Send(ctx, []byte("PONG "+words[1]))
		case words[1] == "001":
			return conn.Send(ctx, []byte("JOIN "+channel))
		case words[0] == "ERROR" || words[1] == "433": // nickname in use
			return fmt.Errorf("irc: %s", msg)
		}
		if err != nil {
			return err
		}
	}
}

func TestIRC(t *testing.T) {
	d := irc("bot", "#go")
	talk(t, d, []exchange{
		{want: "NICK bot\r\nUSER bot 0 * :bot\r\n", say: "PING :cookie\r\n"},
		{want: "PONG :cookie\r\n", say: ":irc.example.com 001 bot :Welcome\r\n"},
		{want: "JOIN #go\r\n", say: "PING :1\r\n:a!b@c PRIVMSG #go :hi\r\n"},
		{want: "PONG :1\r\n"},
		{want: "PING tick\r\n", say: ":irc.example.com PONG irc.example.com :tick\r\n"},
	}, func(t *testing.T, ctx context.Context, c *tcpclient.Client) {
		require.Equal(t, ":a!b@c PRIVMSG #go :hi", next(t, ctx, c))
		idle(d)
	})
}

func mpd() *tcpclient.Dialer {
	return &tcpclient.Dialer{
		Framer: tcpclient.Lines{},
		More: func(line []byte) bool { // a reply ends with one of these
			return string(line) != "OK" && !bytes.HasPrefix(line, []byte("ACK ["))
		},
		ReplyTimeout: 10 * time.Second,
		Reconnect:    &tcpclient.Backoff{OnDemand: true}, // MPD closes connections that are idle
		Handshake: func(ctx context.Context, conn *tcpclient.Conn) error {
			greeting, err := conn.Receive(ctx)
			if err == nil && !bytes.HasPrefix(greeting, []byte("OK MPD ")) {
				err = fmt.Errorf("no MPD: %q", greeting)
			}
			return err
		},
	}
}

// mpdCommand returns the pairs of a reply.
func mpdCommand(ctx context.Context, c *tcpclient.Client, command string) (map[string]string, error) {
	pairs := make(map[string]string)
	for line, err := range c.Replies(ctx, []byte(command)) {
		if err != nil {
			return nil, err
		}
		if bytes.HasPrefix(line, []byte("ACK [")) {
			return nil, errors.New(string(line))
		}
		if key, value, ok := strings.Cut(string(line), ": "); ok {
			pairs[key] = value
		}
	}
	return pairs, nil
}

func TestMPD(t *testing.T) {
	talk(t, mpd(), []exchange{
		{say: "OK MPD 0.23.5\n"},
		{want: "status\n", say: "volume: 50\nstate: play\nOK\n"},
		{want: "play 99\n", say: "ACK [2@0] {play} Bad song index\n"},
	}, func(t *testing.T, ctx context.Context, c *tcpclient.Client) {
		_, err := c.Session() // on demand: there is none yet
		require.ErrorIs(t, err, tcpclient.ErrDisconnected)
		pairs, err := mpdCommand(ctx, c, "status")
		require.NoError(t, err)
		require.Equal(t, map[string]string{"volume": "50", "state": "play"}, pairs)
		_, err = mpdCommand(ctx, c, "play 99")
		require.ErrorContains(t, err, "Bad song index")
	})
}
