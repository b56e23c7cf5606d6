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

// With each message node-hl7-server 2.5.0 acknowledges all messages before it once more. It loses a message
// that comes before the last is acknowledged. Ids keep the answers apart, MaxInFlight the requests.
func TestHL7(t *testing.T) { // P3, B2, B5
	const messages, callers = 40, 8
	h := startNode(t, "hl7.js")
	d := tcpclient.Dialer{
		Framer:      tcpclient.Delimiter{Start: []byte("\x0b"), Delim: []byte("\x1c\r")},
		Correlator:  hl7IDs{},
		MaxInFlight: 1,
	}
	var late atomic.Int64
	d.Trace = &tcpclient.Trace{LateReply: func([]byte) { late.Add(1) }}
	c := dial(t, d, h.address)

	var next atomic.Int64
	var group sync.WaitGroup
	for range callers {
		group.Go(func() {
			for n := next.Add(1); n <= messages; n = next.Add(1) {
				reply, err := c.Call(bounded(t), fmt.Appendf(nil, "MSH|^~\\&|LAB|H|EPR|H|20260101120000||ADT^A01^ADT_A01|%d|P|2.5.1\rPID|1||%[1]d\r", n))
				if err != nil {
					t.Errorf("message %d: %v", n, err)
					return
				}
				if code, id := hl7Field(reply, "MSA", 1), hl7Field(reply, "MSA", 2); code != "AA" || id != strconv.FormatInt(n, 10) {
					t.Errorf("message %d: acknowledged as %q with %s", n, id, code)
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
