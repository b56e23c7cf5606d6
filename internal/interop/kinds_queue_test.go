package interop

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/seed-d0aa0aa7/tcpclient"
	"github.com/seed-d0aa0aa7/tcpclient/internal/testkit"
	"github.com/stretchr/testify/require"
)

// queueKinds are queues and brokers.
func queueKinds() []kind {
	return []kind{beanstalkKind(), natsKind(), mosquittoKind(), gearmanKind(), rabbitmqKind()}
}

// counting makes the function executed of a kind whose server tells of all requests together. collect adds what is
// new to times, once for each connection.
func counting(collect func(t *testing.T, c *tcpclient.Client, times map[int]int)) func(*testing.T, *tcpclient.Client, int) int {
	times := make(map[int]int)
	var last *tcpclient.Client
	return func(t *testing.T, c *tcpclient.Client, n int) int {
		if c != last {
			collect(t, c, times)
			last = c
		}
		return times[n]
	}
}

// numberIn returns the number at the end of a name.
func numberIn(name string) (n int, ok bool) {
	digits := name[len(strings.TrimRight(name, "0123456789")):]
	n, err := strconv.Atoi(digits)
	return n, err == nil
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

// beanstalkd answers in order, one request at a time.
func beanstalkKind() kind {
	return kind{
		name: "beanstalkd",
		start: func(t *testing.T) *host {
			return startHost(t, "beanstalkd", func(port string) []string { return []string{"-l", "127.0.0.1", "-p", port} })
		},
		dialer: func() tcpclient.Dialer {
			return tcpclient.Dialer{
				Framer: asIs{tcpclient.Sized{Size: beanstalkSize}},
				// There is no ping. This has been watched from the beginning.
				Heartbeat: pinging("watch default\r\n", func(msg []byte) bool { return string(msg) == "WATCHING 1\r\n" }),
			}
		},
		ask: func(n int) ([]byte, func([]byte) error) {
			tube := fmt.Sprint("tube-", n, filler[:n%150])
			return fmt.Appendf(nil, "use %s\r\n", tube), want("USING " + tube + "\r\n")
		},
		add: func(n int) []byte {
			job := fmt.Sprint(fill(n), " ", n)
			return fmt.Appendf(nil, "put 0 0 60 %d\r\n%s\r\n", len(job), job)
		},
		executed: counting(func(t *testing.T, c *tcpclient.Client, times map[int]int) {
			for {
				reply, err := c.Call(t.Context(), []byte("reserve-with-timeout 0\r\n"))
				require.NoError(t, err)
				if string(reply) == "TIMED_OUT\r\n" {
					return
				}
				line, body, _ := strings.Cut(string(reply), "\r\n")
				n, ok := numberIn(strings.TrimSpace(body))
				require.True(t, ok, "%.100q", reply)
				times[n]++
				reply, err = c.Call(t.Context(), fmt.Appendf(nil, "delete %s\r\n", strings.Fields(line)[1]))
				require.NoError(t, err)
				require.Equal(t, "DELETED\r\n", string(reply))
			}
		}),
	}
}

// natsIDs are the numbers at the end of the subjects echo.*, to which an answer comes. The requests
// choose them, and use none again: what a lost connection has published may be heard on the next.
type natsIDs struct{}

func (natsIDs) RequestID(request []byte) (id uint64, ok bool) {
	for _, word := range bytes.Fields(request[:bytes.IndexByte(request, '\r')]) {
		if digits, is := bytes.CutPrefix(word, []byte("echo.")); is {
			id, err := strconv.ParseUint(string(digits), 10, 64)
			return id, err == nil
		}
	}
	return 0, false
}

func (natsIDs) AppendRequest(dst []byte, _ uint64, request []byte) ([]byte, error) {
	return append(dst, request...), nil
}

func (ids natsIDs) SplitReply(msg []byte) (id uint64, reply []byte, ok bool) {
	if !bytes.HasPrefix(msg, []byte("MSG echo.")) {
		return 0, nil, false
	}
	id, ok = ids.RequestID(msg)
	return id, msg, ok
}

// NATS has pings in both directions, and answers by subject. A stream of JetStream, in memory, keeps
// what is published to once.*.
func natsKind() kind {
	k := kind{
		name: "nats-server",
		dialer: func() tcpclient.Dialer {
			h := pinging("PING\r\n", func(msg []byte) bool { return string(msg) == "PONG\r\n" })
			h.Answer = func(msg []byte) ([]byte, bool) { return []byte("PONG\r\n"), string(msg) == "PING\r\n" }
			return tcpclient.Dialer{
				Framer:     asIs{tcpclient.Sized{Size: testkit.SizeNATS}},
				Correlator: natsIDs{},
				Heartbeat:  h,
				Handshake: func(ctx context.Context, conn *tcpclient.Conn) error {
					if _, err := conn.Receive(ctx); err != nil { // INFO
						return err
					}
					if err := conn.Send(ctx, []byte("CONNECT {\"verbose\":false}\r\nSUB echo.* 1\r\nPING\r\n")); err != nil {
						return err
					}
					reply, err := conn.Receive(ctx)
					if err == nil && string(reply) != "PONG\r\n" {
						err = fmt.Errorf("nats: %q", reply)
					}
					return err
				},
			}
		},
		ask: func(n int) ([]byte, func([]byte) error) {
			text := fmt.Sprint("text ", n, "\r\n", fill(n))
			return fmt.Appendf(nil, "PUB echo.%d %d\r\n%s\r\n", n, len(text), text), want(fmt.Sprintf("MSG echo.%d 1 %d\r\n%s\r\n", n, len(text), text))
		},
		add: func(n int) []byte {
			text := "once" + fill(n)
			return fmt.Appendf(nil, "PUB once.%d echo.%d %d\r\n%s\r\n", n, n, len(text), text)
		},
	}
	stream := func(t *testing.T, c *tcpclient.Client, verb, arguments string) string {
		t.Helper()
		reply, err := c.Call(t.Context(), fmt.Appendf(nil, "PUB $JS.API.STREAM.%s.ONCE echo.1000000000 %d\r\n%s\r\n", verb, len(arguments), arguments))
		require.NoError(t, err)
		require.NotContains(t, string(reply), `"error"`)
		_, body, _ := strings.Cut(string(reply), "\r\n")
		return body
	}
	k.start = func(t *testing.T) *host {
		h := startHost(t, "nats-server", func(port string) []string { return []string{"-a", "127.0.0.1", "-p", port, "-js", "-sd", t.TempDir()} })
		stream(t, dial(t, k.dialer(), h.address), "CREATE", `{"name":"ONCE","subjects":["once.*"],"storage":"memory"}`)
		return h
	}
	k.executed = counting(func(t *testing.T, c *tcpclient.Client, times map[int]int) {
		var info struct {
			State struct{ Subjects map[string]int }
		}
		require.NoError(t, json.Unmarshal([]byte(stream(t, c, "INFO", `{"subjects_filter":"once.*"}`)), &info))
		for subject, count := range info.State.Subjects {
			n, ok := numberIn(subject)
			require.True(t, ok, subject)
			times[n] = count
		}
	})
	return k
}

func mqttPacket(kind byte, body string) []byte {
	return append(binary.AppendUvarint([]byte{kind}, uint64(len(body))), body...)
}

// mqttText has its length in front.
func mqttText(s string) string {
	return string([]byte{byte(len(s) >> 8), byte(len(s))}) + s
}

const (
	mqttConnack = 0x20
	mqttPublish = 0x30
	mqttPuback  = 0x40
	mqttSuback  = 0x90
	mqttQoS1    = 0x02 // of a PUBLISH
)

// mqttTopic returns the number in the topic of a PUBLISH, and what follows the topic.
func mqttTopic(msg []byte) (prefix string, n int, rest []byte, err error) {
	_, size := binary.Uvarint(msg[1:])
	body := msg[1+size:]
	end := 2 + int(binary.BigEndian.Uint16(body))
	prefix, digits, _ := strings.Cut(string(body[2:end]), "/")
	n, err = strconv.Atoi(digits)
	return prefix, n, body[end:], err
}

// mqttIDs are those of PUBACK for a PUBLISH with QoS 1. One with QoS 0 to echo/n comes back, and its id is
// n, above those. The requests choose them.
type mqttIDs struct{}

func (mqttIDs) RequestID(request []byte) (id uint64, ok bool) {
	_, n, rest, err := mqttTopic(request)
	if request[0]&mqttQoS1 != 0 {
		return uint64(binary.BigEndian.Uint16(rest)), err == nil
	}
	return 1<<16 + uint64(n), err == nil
}

func (mqttIDs) AppendRequest(dst []byte, _ uint64, request []byte) ([]byte, error) {
	return append(dst, request...), nil
}

func (ids mqttIDs) SplitReply(msg []byte) (id uint64, reply []byte, ok bool) {
	switch {
	case msg[0] == mqttPuback && len(msg) == 4:
		return uint64(binary.BigEndian.Uint16(msg[2:])), msg, true
	case msg[0] == mqttPublish:
		id, ok = ids.RequestID(msg)
		return id, msg, ok
	}
	return 0, nil, false
}

// mqttSession is a Dialer for a session. topic is subscribed to.
func mqttSession(clientID string, flags byte, topic string, qos byte) tcpclient.Dialer {
	return tcpclient.Dialer{
		Framer:     tcpclient.Sized{Size: testkit.SizeMQTT},
		Correlator: mqttIDs{},
		Heartbeat:  pinging("\xc0\x00", func(msg []byte) bool { return string(msg) == "\xd0\x00" }),
		Handshake: func(ctx context.Context, conn *tcpclient.Conn) error {
			connect := mqttPacket(0x10, mqttText("MQTT")+"\x04"+string(flags)+"\x00\x05"+mqttText(clientID)) // 3.1.1, keep-alive 5 s
			subscribe := mqttPacket(0x82, "\xff\xff"+mqttText(topic)+string(qos))
			for _, step := range []struct {
				request []byte
				reply   byte
			}{{connect, mqttConnack}, {subscribe, mqttSuback}} {
				if err := conn.Send(ctx, step.request); err != nil {
					return err
				}
				for reply, err := conn.Receive(ctx); reply == nil || reply[0] != step.reply; reply, err = conn.Receive(ctx) {
					if err != nil {
						return err
					}
					conn.Deliver(reply) // a PUBLISH that was kept
				}
			}
			return nil
		},
	}
}

// mosquitto acknowledges by id. What is published to once/n a session keeps that outlives its
// connections.
func mosquittoKind() kind {
	counter := func() tcpclient.Dialer { return mqttSession("counter", 0, "once/+", 1) }
	k := kind{
		name:   "mosquitto",
		dialer: func() tcpclient.Dialer { return mqttSession("", 0x02, "echo/+", 0) },
		ask: func(n int) ([]byte, func([]byte) error) {
			request := mqttPacket(mqttPublish, mqttText(fmt.Sprint("echo/", n))+fmt.Sprint("text ", n, fill(n)))
			return request, want(string(request))
		},
		add: func(n int) []byte {
			id := string(binary.BigEndian.AppendUint16(nil, uint16(1+n%0xfffe)))
			return mqttPacket(mqttPublish|mqttQoS1, mqttText(fmt.Sprint("once/", n))+id+fill(n))
		},
	}
	k.start = func(t *testing.T) *host {
		h := startHost(t, "mosquitto", func(port string) []string {
			config := filepath.Join(t.TempDir(), "mosquitto.conf")
			require.NoError(t, os.WriteFile(config, []byte("listener "+port+" 127.0.0.1\nuser root\nallow_anonymous true\npersistence false\nmax_queued_messages 0\n"), 0o600))
			return []string{"-c", config}
		})
		require.NoError(t, dial(t, counter(), h.address).Close())
		return h
	}
	k.executed = counting(func(t *testing.T, c *tcpclient.Client, times map[int]int) {
		const end = 0
		_, err := c.Call(t.Context(), k.add(end))
		require.NoError(t, err)
		session := dial(t, counter(), c.RemoteAddr().String())
		for {
			msg, err := session.Receive(t.Context())
			require.NoError(t, err)
			_, n, rest, err := mqttTopic(msg)
			require.NoError(t, err)
			require.NoError(t, session.Send(t.Context(), append([]byte{mqttPuback, 2}, rest[:2]...)))
			if n == end {
				break
			}
			times[n]++
		}
		require.NoError(t, session.Send(t.Context(), []byte{0xe0, 0})) // DISCONNECT
		_, err = session.Receive(t.Context())
		require.ErrorIs(t, err, tcpclient.ErrDisconnected)
	})
	return k
}

// gearmanPacket makes a request. Its size is filled in. Arguments have NUL between them.
func gearmanPacket(kind byte, arguments string) []byte {
	return append([]byte{0, 'R', 'E', 'Q', 0, 0, 0, kind, 0, 0, 0, 0}, arguments...)
}

// gearmand answers in order, with answers of different kinds.
func gearmanKind() kind {
	const submitJobBG, getStatus, echoReq, echoRes, statusRes = 18, 15, 16, 17, 20
	answer := func(kind byte, arguments string) func([]byte) error {
		b := gearmanPacket(kind, arguments)
		copy(b[1:], "RES")
		binary.BigEndian.PutUint32(b[8:], uint32(len(arguments)))
		return want(string(b))
	}
	return kind{
		name: "gearmand",
		start: func(t *testing.T) *host {
			return startHost(t, "gearmand", func(port string) []string { return []string{"-L", "127.0.0.1", "-p", port, "--log-file", "stderr"} })
		},
		dialer: func() tcpclient.Dialer {
			return tcpclient.Dialer{
				Framer: tcpclient.LengthPrefix{Offset: 8, KeepHeader: true},
				Heartbeat: pinging(string(gearmanPacket(echoReq, "?")), func(msg []byte) bool {
					return msg[7] == echoRes && string(msg[12:]) == "?"
				}),
			}
		},
		ask: func(n int) ([]byte, func([]byte) error) {
			if n%2 == 0 {
				job := fmt.Sprint("H:nothing:", n)
				return gearmanPacket(getStatus, job), answer(statusRes, job+"\x000\x000\x000\x000")
			}
			text := fmt.Sprint("text ", n, filler[:7*n%len(filler)])
			return gearmanPacket(echoReq, text), answer(echoRes, text)
		},
		// A function for each, which no one works for, and no unique id: jobs with the same become one.
		add: func(n int) []byte { return gearmanPacket(submitJobBG, fmt.Sprint("once", n, "\x00\x00", fill(n))) },
		executed: counting(func(t *testing.T, c *tcpclient.Client, times map[int]int) {
			admin := dial(t, tcpclient.Dialer{
				Framer: tcpclient.Lines{},
				More:   func(line []byte) bool { return string(line) != "." },
			}, c.RemoteAddr().String())
			for line, err := range admin.Replies(t.Context(), []byte("status")) {
				require.NoError(t, err)
				if string(line) == "." {
					break
				}
				function, jobs, _ := strings.Cut(string(line), "\t")
				n, ok := numberIn(function)
				require.True(t, ok, "%q", line)
				times[n], err = strconv.Atoi(strings.Split(jobs, "\t")[0])
				require.NoError(t, err)
			}
		}),
	}
}
