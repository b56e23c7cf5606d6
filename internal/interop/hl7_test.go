package interop

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/seed-d0aa0aa7/tcpclient"
	"github.com/stretchr/testify/require"
)

// hl7IDs take the message control id, which the application chooses, for the id.
type hl7IDs struct{}

func (hl7IDs) MaxID() uint64 { return 1<<40 - 1 }

// hl7Field returns a field of the first segment of that name.
func hl7Field(msg []byte, segment string, n int) string {
	for line := range bytes.SplitSeq(msg, []byte("\r")) {
		if fields := bytes.Split(line, []byte("|")); string(fields[0]) == segment && len(fields) > n {
			return string(fields[n])
		}
	}
	return ""
}

func (hl7IDs) RequestID(request []byte) (id uint64, ok bool) {
	id, err := strconv.ParseUint(hl7Field(request, "MSH", 9), 10, 64) // MSH-10: the separator counts as MSH-1
	return id, err == nil
}

func (k hl7IDs) AppendRequest(dst []byte, _ uint64, request []byte) ([]byte, error) {
	if _, ok := k.RequestID(request); !ok {
		return dst, errors.New("no message control id")
	}
	return append(dst, request...), nil
}

func (hl7IDs) SplitReply(msg []byte) (id uint64, reply []byte, ok bool) {
	id, err := strconv.ParseUint(hl7Field(msg, "MSA", 2), 10, 64)
	return id, msg, err == nil
}

func hl7Dialer() tcpclient.Dialer {
	return tcpclient.Dialer{
		Framer:      tcpclient.Delimiter{Start: []byte("\x0b"), Delim: []byte("\x1c\r")},
		Correlator:  hl7IDs{},
		MaxInFlight: 1, // either server loses a message that comes before the last is acknowledged
	}
}

// hl7Message makes a message of the type. The answer repeats from.
func hl7Message(kind, from string, n int) []byte {
	return fmt.Appendf(nil, "MSH|^~\\&|%s|H|EPR|H|20260101120000||%s|%d|P|2.5.1\rPID|1||%[3]d%[4]s\r", from, kind, n, fill(n))
}

// hl7Accepted checks that a reply accepts message n.
func hl7Accepted(reply []byte, n int) error {
	if code, id := hl7Field(reply, "MSA", 1), hl7Field(reply, "MSA", 2); code != "AA" || id != strconv.Itoa(n) {
		return fmt.Errorf("%q for message %s", code, id)
	}
	return nil
}

// hl7Kind has no ping and, with one request at a time, no ReplyTimeout: on a server that hangs each of 64 callers
// would wait for one in turn.
func hl7Kind() kind {
	const admit, query = "ADT^A01", "QRY^Q01"
	return kind{
		name:   "simple-hl7",
		start:  func(t *testing.T) *host { return startNode(t, "simple-hl7.js") },
		dialer: hl7Dialer,
		ask: func(n int) ([]byte, func([]byte) error) {
			from := fmt.Sprint("LAB-", n, padding(n))
			return hl7Message(admit, from, n), func(reply []byte) error {
				if err := hl7Accepted(reply, n); err != nil {
					return err
				}
				return want(from)([]byte(hl7Field(reply, "MSH", 4)))
			}
		},
		add: func(n int) []byte { return hl7Message(admit, "LAB", n) },
		executed: func(t *testing.T, c *tcpclient.Client, n int) int {
			reply := mustCall(t, c, hl7Message(query, "LAB", n))
			require.NoError(t, hl7Accepted(reply, n))
			return atoi(t, []byte(hl7Field(reply, "MSA", 3)))
		},
	}
}

// node-hl7-server 2.5.0 keeps all that a connection has sent. With each message it takes all messages before it once more,
// and acknowledges them: 2000 messages would be two millions, and none is executed once. So it does not take the treatment.
// Ids keep the answers apart, MaxInFlight the requests.
func TestHL7(t *testing.T) { // P3, B2, B5
	const messages, callers = 40, 8
	h := startNode(t, "hl7.js")
	d := hl7Dialer()
	var late atomic.Int64
	d.Trace = &tcpclient.Trace{LateReply: func([]byte) { late.Add(1) }}
	c := dial(t, d, h.address)

	var next atomic.Int64
	var group sync.WaitGroup
	for range callers {
		group.Go(func() {
			for n := next.Add(1); n <= messages; n = next.Add(1) {
				reply, err := c.Call(bounded(t), fmt.Appendf(nil, "MSH|^~\\&|LAB|H|EPR|H|20260101120000||ADT^A01^ADT_A01|%d|P|2.5.1\rPID|1||%[1]d\r", n))
				if err == nil {
					err = hl7Accepted(reply, int(n))
				}
				if err != nil {
					t.Errorf("message %d: %v", n, err)
					return
				}
			}
		})
	}

	again := 0
	for ctx := bounded(t); again < messages*(messages-1)/2; again++ {
		msg, err := c.Receive(ctx)
		require.NoError(t, err, "%d acknowledged again", again)
		require.Equal(t, "AA", hl7Field(msg, "MSA", 1))
	}
	group.Wait()
	require.Zero(t, late.Load())
	stats := c.Stats()
	require.EqualValues(t, messages, stats.MessagesSent)
	require.EqualValues(t, messages+again, stats.MessagesReceived)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := c.Receive(ctx)
	require.ErrorIs(t, err, context.Canceled, "nothing else has come")
}
