package interop

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/seed-d0aa0aa7/tcpclient"
	"github.com/seed-d0aa0aa7/tcpclient/internal/testkit"
	"github.com/stretchr/testify/require"
)

// Frames of AMQP 0-9-1 are a type, a channel, the size of the payload, the payload, and an end.
const (
	amqpMethodFrame, amqpHeaderFrame, amqpBodyFrame, amqpHeartbeatFrame = 1, 2, 3, 8

	amqpHead = 1 + 2 + 4
	amqpEnd  = 0xce
)

// Methods, with their class in front.
const (
	amqpStart, amqpStartOK             = "\x00\x0a\x00\x0a", "\x00\x0a\x00\x0b"
	amqpTune, amqpTuneOK               = "\x00\x0a\x00\x1e", "\x00\x0a\x00\x1f"
	amqpOpen, amqpOpenOK               = "\x00\x0a\x00\x28", "\x00\x0a\x00\x29"
	amqpChannelOpen, amqpChannelOpenOK = "\x00\x14\x00\x0a", "\x00\x14\x00\x0b"
	amqpDeclare, amqpDeclareOK         = "\x00\x32\x00\x0a", "\x00\x32\x00\x0b" // a queue
	amqpConsume, amqpConsumeOK         = "\x00\x3c\x00\x14", "\x00\x3c\x00\x15"
	amqpCancel, amqpCancelOK           = "\x00\x3c\x00\x1e", "\x00\x3c\x00\x1f"
	amqpPublish, amqpReturn            = "\x00\x3c\x00\x28", "\x00\x3c\x00\x32"
	amqpDeliver                        = "\x00\x3c\x00\x3c"
	amqpGet, amqpGetOK, amqpGetEmpty   = "\x00\x3c\x00\x46", "\x00\x3c\x00\x47", "\x00\x3c\x00\x48"
	amqpAck                            = "\x00\x3c\x00\x50"
	amqpConfirm, amqpConfirmOK         = "\x00\x55\x00\x0a", "\x00\x55\x00\x0b"
)

func amqpFrame(kind, channel byte, payload string) string {
	return string(binary.BigEndian.AppendUint32([]byte{kind, 0, channel}, uint32(len(payload)))) + payload + string([]byte{amqpEnd})
}

// amqpCall makes the frame of a method on channel 1.
func amqpCall(method string, arguments ...string) string {
	return amqpFrame(amqpMethodFrame, 1, method+strings.Join(arguments, ""))
}

// amqpContent makes the frames that follow a method which has content. There are no properties.
func amqpContent(body string) string {
	header := binary.BigEndian.AppendUint64([]byte{0, 60, 0, 0}, uint64(len(body)))
	return amqpFrame(amqpHeaderFrame, 1, string(header)+"\x00\x00") + amqpFrame(amqpBodyFrame, 1, body)
}

// amqpText has its length in front: up to 255 bytes.
func amqpText(s string) string { return string([]byte{byte(len(s))}) + s }

// amqpPublishing publishes body to the queue of that name. One that is mandatory comes back if there is no such queue.
func amqpPublishing(queue string, mandatory bool, body string) string {
	bits := "\x00"
	if mandatory {
		bits = "\x01"
	}
	return amqpCall(amqpPublish, "\x00\x00", amqpText(""), amqpText(queue), bits) + amqpContent(body)
}

// amqpDeclaring declares a queue that a restart of the server removes, and if it is exclusive the end of the connection, too.
func amqpDeclaring(queue string, exclusive bool) string {
	bits := "\x00"
	if exclusive {
		bits = "\x04"
	}
	return amqpCall(amqpDeclare, "\x00\x00", amqpText(queue), bits, "\x00\x00\x00\x00")
}

// cutAMQP returns the frame that p begins, and its size, 0 if it is not whole.
func cutAMQP(p []byte) (kind byte, payload []byte, size int, err error) {
	if len(p) < amqpHead {
		return 0, nil, 0, nil
	}
	end := amqpHead + int(binary.BigEndian.Uint32(p[3:]))
	if len(p) <= end {
		return 0, nil, 0, nil
	}
	if p[end] != amqpEnd {
		return 0, nil, 0, fmt.Errorf("%#x at the end of a frame", p[end])
	}
	return p[0], p[amqpHead:end], end + 1, nil
}

// sizeAMQP is that of a frame, or of all frames of a method with content, for tcpclient.Sized. RabbitMQ sends
// nothing else between them.
func sizeAMQP(p []byte) (size int, err error) {
	kind, payload, size, err := cutAMQP(p)
	if err != nil || kind != amqpMethodFrame || !amqpHasContent(payload) {
		return size, err
	}
	kind, payload, n, err := cutAMQP(p[size:])
	if err != nil || n == 0 {
		return 0, err
	}
	if kind != amqpHeaderFrame || len(payload) < 12 {
		return 0, fmt.Errorf("no header, but a frame of type %d", kind)
	}
	size += n
	for left := int(binary.BigEndian.Uint64(payload[4:])); left > 0; left -= len(payload) {
		if kind, payload, n, err = cutAMQP(p[size:]); err != nil || n == 0 {
			return 0, err
		}
		if kind != amqpBodyFrame {
			return 0, fmt.Errorf("no content, but a frame of type %d", kind)
		}
		size += n
	}
	return size, nil
}

func amqpHasContent(method []byte) bool {
	switch string(method[:4]) {
	case amqpReturn, amqpDeliver, amqpGetOK:
		return true
	}
	return false
}

// amqpIs reports whether msg begins with that method.
func amqpIs(msg []byte, method string) bool {
	return msg[0] == amqpMethodFrame && bytes.HasPrefix(msg[amqpHead:], []byte(method))
}

func isAMQPHeartbeat(msg []byte) bool { return msg[0] == amqpHeartbeatFrame }

// amqpBody returns the content of a message that has it all in one frame.
func amqpBody(t *testing.T, msg []byte) string {
	t.Helper()
	var kind byte
	var payload []byte
	for len(msg) > 0 {
		var size int
		var err error
		kind, payload, size, err = cutAMQP(msg)
		require.NoError(t, err)
		msg = msg[size:]
	}
	require.EqualValues(t, amqpBodyFrame, kind)
	return string(payload)
}

// amqpLogin takes a heartbeat of a second, the shortest there is, and opens channel 1.
func amqpLogin(ctx context.Context, conn *tcpclient.Conn) error {
	if _, err := conn.NetConn().Write([]byte("AMQP\x00\x00\x09\x01")); err != nil {
		return err
	}
	const password = "\x00guest\x00guest"
	startOK := amqpStartOK + "\x00\x00\x00\x00" + amqpText("PLAIN") + "\x00\x00\x00" + amqpText(password) + amqpText("en_US")
	for _, step := range []struct{ awaits, request string }{
		{amqpStart, amqpFrame(amqpMethodFrame, 0, startOK)},
		{amqpTune, amqpFrame(amqpMethodFrame, 0, amqpTuneOK+"\x00\x01\x00\x02\x00\x00\x00\x01") + // 1 channel, 128 KiB
			amqpFrame(amqpMethodFrame, 0, amqpOpen+amqpText("/")+"\x00\x00")},
		{amqpOpenOK, amqpCall(amqpChannelOpen, "\x00")},
		{amqpChannelOpenOK, ""},
	} {
		msg, err := conn.Receive(ctx)
		for err == nil && isAMQPHeartbeat(msg) { // a server that is slow today
			msg, err = conn.Receive(ctx)
		}
		if err != nil {
			return err
		}
		if !amqpIs(msg, step.awaits) {
			return fmt.Errorf("amqp: want % x, got %.60q", step.awaits, msg)
		}
		if step.request == "" {
			continue
		}
		if err := conn.Send(ctx, []byte(step.request)); err != nil {
			return err
		}
	}
	return nil
}

func amqpDialer() tcpclient.Dialer {
	h := pinging(amqpFrame(amqpHeartbeatFrame, 0, ""), isAMQPHeartbeat)
	h.Interval, h.Timeout = 500*time.Millisecond, 2500*time.Millisecond // the server sends one a second
	return tcpclient.Dialer{
		Framer:    asIs{tcpclient.Sized{Size: sizeAMQP}},
		Handshake: amqpLogin,
		Heartbeat: h,
	}
}

// startRabbitMQ runs a server that knows nothing of others, and the epmd that it wants.
func startRabbitMQ(t *testing.T) *host {
	t.Helper()
	script := find(t, "/usr/lib/rabbitmq/bin/rabbitmq-server") // that in the PATH keeps its data where only one user may
	epmd := startHost(t, "epmd", func(port string) []string { return []string{"-address", "127.0.0.1", "-port", port} })
	_, epmdPort, err := net.SplitHostPort(epmd.address)
	require.NoError(t, err)
	dir := t.TempDir()
	h := startSlowHost(t, nil, 6*patience, "env", func(port string) []string {
		home := filepath.Join(dir, port)
		return []string{"HOME=" + dir, // for the file .erlang.cookie
			"ERL_EPMD_PORT=" + epmdPort, "RABBITMQ_DIST_PORT=" + freePort(t), "RABBITMQ_NODENAME=interop" + port + "@localhost",
			"RABBITMQ_NODE_IP_ADDRESS=127.0.0.1", "RABBITMQ_NODE_PORT=" + port,
			"RABBITMQ_MNESIA_BASE=" + home, "RABBITMQ_LOG_BASE=" + home, "RABBITMQ_LOGS=-", "RABBITMQ_PID_FILE=" + home + ".pid",
			"RABBITMQ_ENABLED_PLUGINS_FILE=" + home + ".plugins", "RABBITMQ_CONF_ENV_FILE=/dev/null",
			"RABBITMQ_CONFIG_FILE=" + home, "RABBITMQ_ADVANCED_CONFIG_FILE=" + home + ".config",
			// Schedulers that wait busily get no processor in time when there are others who want it.
			"RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS=+S 2 +sbwt none +sbwtdcpu none +sbwtdio none -kernel inet_dist_use_interface {127,0,0,1}",
			script}
	})
	execute(t, amqpDialer(), h.address, []byte(amqpDeclaring("once", false)))
	return h
}

// rabbitmqKind asks on one channel, where answers come in order. A message that no queue takes comes back whole,
// and to cancel what is no consumer is answered with its name.
func rabbitmqKind() kind {
	cancel := func(name string) string { return amqpCall(amqpCancel, amqpText(name), "\x00") }
	cancelled := func(name string) func([]byte) error { return want(amqpCall(amqpCancelOK, amqpText(name))) }
	return kind{
		name:     "rabbitmq",
		heavy:    true,
		saysMore: true, // heartbeats of its own
		resets:   true, // also after Connection.Close
		start:    startRabbitMQ,
		dialer:   amqpDialer,
		ask: func(n int) ([]byte, func([]byte) error) {
			name := fmt.Sprint("question ", n, padding(n))
			if n%2 != 0 {
				return []byte(cancel(name)), cancelled(name)
			}
			body := fmt.Sprint("text ", n, fill(n))
			const noRoute = "\x01\x38" // 312
			return []byte(amqpPublishing(name, true, body)),
				want(amqpCall(amqpReturn, noRoute, amqpText("NO_ROUTE"), amqpText(""), amqpText(name)) + amqpContent(body))
		},
		// A publishing has no answer. That to what follows on the channel comes when it has been executed.
		add: func(n int) []byte {
			return []byte(amqpPublishing("once", false, fmt.Sprint(fill(n), " ", n)) + cancel("nothing"))
		},
		executed: counting(func(t *testing.T, c *tcpclient.Client, times map[int]int) {
			get := []byte(amqpCall(amqpGet, "\x00\x00", amqpText("once"), "\x01")) // and forget
			for {
				msg := mustCall(t, c, get)
				if amqpIs(msg, amqpGetEmpty) {
					return
				}
				n, ok := numberIn(amqpBody(t, msg))
				require.True(t, ok, "%.100q", msg)
				times[n]++
			}
		}),
		without: map[string]string{"SIGKILL and restart under load": "it takes up to a minute to start"},
	}
}

// RabbitMQ confirms what it takes, and delivers it, on the same channel. An idle connection lives by its heartbeats;
// one without them ends.
func TestRabbitMQ(t *testing.T) { // P3, P5
	testkit.SkipUnlessHeavy(t)
	const letters = 500
	h := startRabbitMQ(t)
	d := amqpDialer()
	d.IsPush = func(msg []byte) bool { return amqpIs(msg, amqpDeliver) }
	d.MaxInFlight = 1 // else one basic.ack may confirm several
	c := dial(t, d, h.address)
	for _, step := range []struct{ request, reply string }{
		{amqpCall(amqpConfirm, "\x00"), amqpCall(amqpConfirmOK)},
		{amqpDeclaring("letters", true), amqpCall(amqpDeclareOK, amqpText("letters"), "\x00\x00\x00\x00", "\x00\x00\x00\x00")},
		{amqpCall(amqpConsume, "\x00\x00", amqpText("letters"), amqpText("reader"), "\x02", "\x00\x00\x00\x00"), // no acknowledgements of ours
			amqpCall(amqpConsumeOK, amqpText("reader"))},
	} {
		require.Equal(t, step.reply, string(mustCall(t, c, []byte(step.request))))
	}
	ctx := bounded(t)
	deliveries := testkit.Start(t, func() []string { return receiveMany(ctx, c, letters) })
	requireConfirmed(t, c, letters)
	requireDelivered(t, deliveries(), letters)
	requireKeptAlive(t, c, h.address)

	h.signal(t, syscall.SIGSTOP)
	defer h.signal(t, syscall.SIGCONT)
	at := time.Now()
	_, err := c.Receive(bounded(t))
	require.ErrorIs(t, err, tcpclient.ErrHeartbeatTimeout)
	require.Less(t, time.Since(at), d.Heartbeat.Interval+d.Heartbeat.Timeout+slack)
}

// requireConfirmed publishes so many letters on 64 goroutines. Each is confirmed alone.
func requireConfirmed(t *testing.T, c *tcpclient.Client, count int) {
	t.Helper()
	ctx := bounded(t)
	var tags sync.Map
	(&trial{}).each(count, func(n int) {
		reply, err := c.Call(ctx, []byte(amqpPublishing("letters", true, fmt.Sprint("letter ", n, fill(n)))))
		if err != nil {
			t.Errorf("letter %d: %v", n, err)
			return
		}
		tags.Store(string(reply), true)
	})
	for tag := 1; tag <= count; tag++ {
		const alone = "\x00"
		_, confirmed := tags.Load(amqpCall(amqpAck, string(binary.BigEndian.AppendUint64(nil, uint64(tag))), alone))
		require.True(t, confirmed, "delivery tag %d", tag)
	}
}

// receiveMany receives count messages, or fewer if c ends.
func receiveMany(ctx context.Context, c *tcpclient.Client, count int) (msgs []string) {
	for len(msgs) < count {
		msg, err := c.Receive(ctx)
		if err != nil {
			break
		}
		msgs = append(msgs, string(msg))
	}
	return msgs
}

// requireDelivered wants each letter once, in the order of the delivery tags.
func requireDelivered(t *testing.T, msgs []string, count int) {
	t.Helper()
	require.Equal(t, count, len(msgs)) // they are too many to print
	letters := make(map[string]bool)
	for i, msg := range msgs {
		const first = "\x00" // delivery of it
		tag := string(binary.BigEndian.AppendUint64(nil, uint64(i+1)))
		method := amqpCall(amqpDeliver, amqpText("reader"), tag, first, amqpText(""), amqpText("letters"))
		require.True(t, strings.HasPrefix(msg, method), "%.80q", msg)
		letters[amqpBody(t, []byte(msg))] = true
	}
	for n := 1; n <= count; n++ {
		require.True(t, letters[fmt.Sprint("letter ", n, fill(n))], "letter %d", n)
	}
}

// requireKeptAlive waits until the server hangs up on a Client that only listens. That hears heartbeats till then.
// c has sent some.
func requireKeptAlive(t *testing.T, c *tcpclient.Client, address string) {
	t.Helper()
	d := amqpDialer()
	d.Heartbeat = tcpclient.Heartbeat{}
	listener, ctx := dial(t, d, address), bounded(t)
	heard := 0
	for {
		msg, err := listener.Receive(ctx)
		if err != nil {
			require.Equal(t, tcpclient.ClassDisconnected, tcpclient.Classify(err), "%v", err)
			break
		}
		require.True(t, isAMQPHeartbeat(msg), "%q", msg)
		heard++
	}
	require.Positive(t, heard)
	require.Equal(t, amqpCall(amqpConfirmOK), string(mustCall(t, c, []byte(amqpCall(amqpConfirm, "\x00")))))
	require.EqualValues(t, 1, c.Stats().Connects)
	require.Positive(t, c.Stats().RTT)
}
