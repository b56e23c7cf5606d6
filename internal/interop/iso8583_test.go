package interop

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/seed-d0aa0aa7/tcpclient"
	"github.com/seed-d0aa0aa7/tcpclient/internal/testkit"
	"github.com/stretchr/testify/require"
)

// isoFraming is a length of four ASCII digits, which the message includes here. LengthPrefix counts in
// binary. Decimal takes digits without leading zeros, up to a separator: neither is so in "0064".
var isoFraming = tcpclient.Sized{Size: func(p []byte) (int, error) {
	if len(p) < 4 {
		return 0, nil
	}
	n, err := strconv.ParseUint(string(p[:4]), 10, 16) // takes no sign
	return 4 + int(n), err
}}

// Fields of ISO 8583 that the tests need, all of fixed length.
const (
	isoAmount, isoSTAN, isoResponse, isoFunction, isoOriginal = 4, 11, 39, 70, 90
)

var isoLengths = map[int]int{isoAmount: 12, isoSTAN: 6, isoResponse: 2, isoFunction: 3, isoOriginal: 42}

// An isoMessage has a type of four digits, and fields.
type isoMessage struct {
	mti    string
	fields map[int]string
}

// encode makes a frame: length, type, bitmaps in hexadecimal digits, fields.
func (m isoMessage) encode() []byte {
	var bitmap [2]uint64
	var fields []byte
	for _, n := range slices.Sorted(maps.Keys(m.fields)) {
		bitmap[(n-1)/64] |= 1 << (63 - (n-1)%64)
		fields = append(fields, m.fields[n]...)
	}
	body := []byte(m.mti)
	if bitmap[1] != 0 {
		bitmap[0] |= 1 << 63
		body = fmt.Appendf(body, "%016X%016X", bitmap[0], bitmap[1])
	} else {
		body = fmt.Appendf(body, "%016X", bitmap[0])
	}
	body = append(body, fields...)
	return append(fmt.Appendf(nil, "%04d", len(body)), body...)
}

func parseISO(frame []byte) (m isoMessage, err error) {
	defer func() {
		if recover() != nil {
			err = fmt.Errorf("no message of ISO 8583: %q", frame)
		}
	}()
	m = isoMessage{string(frame[4:8]), make(map[int]string)}
	rest := frame[8:]
	bitmap := make([]uint64, 1, 2)
	for i := 0; i < len(bitmap); i++ {
		if bitmap[i], err = strconv.ParseUint(string(rest[:16]), 16, 64); err != nil {
			return m, err
		}
		rest = rest[16:]
		if i == 0 && bitmap[0]>>63 == 1 {
			bitmap = bitmap[:2]
		}
	}
	for n := 2; n <= 64*len(bitmap); n++ {
		if bitmap[(n-1)/64]>>(63-(n-1)%64)&1 == 0 {
			continue
		}
		length := isoLengths[n]
		if length == 0 {
			return m, fmt.Errorf("field %d is not known", n)
		}
		m.fields[n], rest = string(rest[:length]), rest[length:]
	}
	if len(rest) > 0 {
		err = fmt.Errorf("%d bytes too many", len(rest))
	}
	return m, err
}

// isoIDs takes the STAN, which the application chooses and has written down before it calls, as the id.
type isoIDs struct{}

func (isoIDs) MaxID() uint64 { return 999_999 }

func (isoIDs) RequestID(request []byte) (id uint64, ok bool) {
	m, err := parseISO(request)
	if err != nil {
		return 0, false
	}
	id, err = strconv.ParseUint(m.fields[isoSTAN], 10, 64)
	return id, err == nil
}

func (k isoIDs) AppendRequest(dst []byte, _ uint64, request []byte) ([]byte, error) {
	if _, ok := k.RequestID(request); !ok {
		return dst, errors.New("request without a STAN")
	}
	return append(dst, request...), nil
}

// SplitReply tells answers (0110) from requests of the host's (0800) by the third digit.
func (k isoIDs) SplitReply(msg []byte) (id uint64, reply []byte, ok bool) {
	id, ok = k.RequestID(msg)
	return id, msg, ok && msg[6]%2 == 1
}

// An isoHost approves all that it is asked, in no certain order.
type isoHost struct {
	address string
	held    string        // the STAN that is not answered before release is closed
	arrived chan struct{} // gets one when that has come
	release chan struct{}

	mu    sync.Mutex // guards following
	conns []net.Conn
	seen  []isoMessage
}

func startISO(t *testing.T, held string) *isoHost {
	t.Helper()
	l := testkit.ListenTCP(t)
	h := &isoHost{address: l.Addr().String(), held: held, arrived: make(chan struct{}, 1), release: make(chan struct{})}
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			h.mu.Lock()
			h.conns = append(h.conns, conn)
			h.mu.Unlock()
			serving.Go(func() { h.serve(conn, &serving) })
		}
	})
	t.Cleanup(func() {
		l.Close()
		h.hangUp()
		h.letGo()
		serving.Wait()
	})
	return h
}

func (h *isoHost) hangUp() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, conn := range h.conns {
		conn.Close()
	}
	h.conns = nil
}

func (h *isoHost) letGo() {
	select {
	case <-h.release:
	default:
		close(h.release)
	}
}

// serve reads with bufio and Sscanf what Sized is to have written.
func (h *isoHost) serve(conn net.Conn, serving *sync.WaitGroup) {
	defer conn.Close()
	var writing sync.Mutex
	write := func(m isoMessage) {
		writing.Lock()
		defer writing.Unlock()
		conn.Write(m.encode())
	}
	r := bufio.NewReader(conn)
	for {
		frame := make([]byte, 4)
		if _, err := io.ReadFull(r, frame); err != nil {
			return
		}
		n, err := strconv.Atoi(string(frame))
		if err != nil {
			return
		}
		frame = append(frame, make([]byte, n)...)
		if _, err := io.ReadFull(r, frame[4:]); err != nil {
			return
		}
		m, err := parseISO(frame)
		if err != nil {
			return
		}
		h.mu.Lock()
		h.seen = append(h.seen, m)
		h.mu.Unlock()
		serving.Go(func() {
			if m.fields[isoSTAN] == h.held {
				h.arrived <- struct{}{}
				<-h.release
			}
			if m.mti == "0800" { // and asks whether we are there, under a STAN of its own
				write(isoMessage{"0800", map[int]string{isoSTAN: "000001", isoFunction: "301"}})
			}
			answer := isoMessage{m.mti[:2] + string(m.mti[2]+1) + m.mti[3:], maps.Clone(m.fields)}
			answer.fields[isoResponse] = "00"
			write(answer)
		})
	}
}

func (h *isoHost) count(mti string) (n int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, m := range h.seen {
		if m.mti == mti {
			n++
		}
	}
	return n
}

func isoRequest(mti string, stan int, more ...string) isoMessage {
	m := isoMessage{mti, map[int]string{isoSTAN: fmt.Sprintf("%06d", stan)}}
	if mti == "0800" {
		m.fields[isoFunction] = "001" // sign-on
	} else {
		m.fields[isoAmount] = fmt.Sprintf("%012d", stan)
	}
	if len(more) > 0 {
		m.fields[isoOriginal] = more[0]
	}
	return m
}

// isoCall asks, and checks that the answer is to this request.
func isoCall(ctx context.Context, c caller, m isoMessage) error {
	reply, err := c.Call(ctx, m.encode())
	if err != nil {
		return err
	}
	answer, err := parseISO(reply)
	if err == nil && (answer.fields[isoSTAN] != m.fields[isoSTAN] || answer.fields[isoAmount] != m.fields[isoAmount] || answer.fields[isoResponse] != "00") {
		err = fmt.Errorf("%s was answered by %q", m.fields[isoSTAN], reply)
	}
	return err
}

func isoDialer() tcpclient.Dialer {
	return tcpclient.Dialer{
		Framer:     isoFraming,
		Correlator: isoIDs{},
		Reconnect:  &tcpclient.Backoff{Min: time.Millisecond, Max: 10 * time.Millisecond},
	}
}

func TestISO8583Framing(t *testing.T) {
	frame := []byte("0064")
	_, err := tcpclient.Netstring().ReadFrame(bufio.NewReader(bytes.NewReader(frame)), nil)
	require.ErrorIs(t, err, tcpclient.ErrInvalidFrame, "a leading zero")
	var tooLarge *tcpclient.FrameTooLargeError
	_, err = tcpclient.LengthPrefix{}.ReadFrame(bufio.NewReader(bytes.NewReader(frame)), nil)
	require.ErrorAs(t, err, &tooLarge)
	require.EqualValues(t, 0x30303634, tooLarge.Size)
}

func TestISO8583(t *testing.T) {
	t.Run("answers in any order go to those who asked", func(t *testing.T) { // P3, B5
		ctx := bounded(t)
		h := startISO(t, "")
		c := dial(t, isoDialer(), h.address)
		var stan atomic.Int64
		var group sync.WaitGroup
		for range callers {
			group.Go(func() {
				for range 20 {
					if err := isoCall(ctx, c, isoRequest("0100", int(stan.Add(1)))); err != nil {
						t.Error(err)
						return
					}
				}
			})
		}
		group.Wait()
		require.Equal(t, callers*20, h.count("0100"))
	})

	t.Run("STANs go on after a reconnect", func(t *testing.T) { // B5
		h := startISO(t, "")
		c := dial(t, isoDialer(), h.address)
		for stan := 1; stan <= 3; stan++ {
			require.NoError(t, isoCall(bounded(t), c, isoRequest("0100", stan)))
			h.hangUp()
			_, err := c.Receive(bounded(t))
			require.ErrorIs(t, err, tcpclient.ErrDisconnected)
		}
		h.mu.Lock()
		defer h.mu.Unlock()
		var stans []string
		for _, m := range h.seen {
			stans = append(stans, m.fields[isoSTAN])
		}
		require.Equal(t, []string{"000001", "000002", "000003"}, stans)
	})

	t.Run("a request of the host's with the STAN of a Call is none of its answers", func(t *testing.T) { // B5
		h := startISO(t, "")
		c := dial(t, isoDialer(), h.address)
		require.NoError(t, isoCall(bounded(t), c, isoRequest("0800", 1)))
		msg, err := c.Receive(bounded(t))
		require.NoError(t, err)
		asked, err := parseISO(msg)
		require.NoError(t, err)
		require.Equal(t, isoMessage{"0800", map[int]string{isoSTAN: "000001", isoFunction: "301"}}, asked)
	})

	t.Run("a request without a STAN, or with 0, is refused", func(t *testing.T) { // B5
		h := startISO(t, "")
		c := dial(t, isoDialer(), h.address)
		require.ErrorContains(t, isoCall(bounded(t), c, isoMessage{"0100", map[int]string{isoAmount: fmt.Sprintf("%012d", 1)}}), "without a STAN")
		requireRefused(t, isoCall(bounded(t), c, isoRequest("0100", 0)), " 0")
		require.NoError(t, isoCall(bounded(t), c, isoRequest("0100", 1)))
		require.Equal(t, 1, h.count("0100"))
	})

	t.Run("a late approval is logged", testISO8583Late)
}

// A terminal gives up an authorisation, and reverses it; the approval comes afterwards.
func testISO8583Late(t *testing.T) { // B4, B5
	h := startISO(t, "000042")
	journal := make(chan string, 10)
	d := isoDialer()
	d.Trace = &tcpclient.Trace{LateReply: func(reply []byte) {
		m, err := parseISO(reply)
		journal <- fmt.Sprint(m.mti, " ", m.fields[isoSTAN], " ", m.fields[isoResponse], " ", err)
	}}
	c := dial(t, d, h.address)

	ctx, cancel := context.WithCancel(bounded(t))
	given := make(chan error, 1)
	go func() { given <- isoCall(ctx, c, isoRequest("0100", 42)) }()
	<-h.arrived
	requireRefused(t, isoCall(bounded(t), c, isoRequest("0100", 42)), "42") // while it is waited for
	cancel()
	err := <-given
	require.ErrorIs(t, err, context.Canceled)
	var op *tcpclient.OpError
	require.ErrorAs(t, err, &op)
	require.False(t, op.Unsent, "so it has to be reversed")

	requireRefused(t, isoCall(bounded(t), c, isoRequest("0100", 42)), "42") // after it was given up
	require.Equal(t, 1, h.count("0100"), "the host has seen it once")
	require.Equal(t, 1, c.Stats().InFlight)

	// The reversal has a STAN of its own, and names the original.
	original := "0100" + "000042" + fmt.Sprintf("%032d", 0)
	require.NoError(t, isoCall(bounded(t), c, isoRequest("0400", 43, original)))
	h.mu.Lock()
	require.Equal(t, original, h.seen[len(h.seen)-1].fields[isoOriginal])
	h.mu.Unlock()

	h.letGo()
	select {
	case entry := <-journal:
		require.Equal(t, "0110 000042 00 <nil>", entry)
	case <-time.After(patience):
		require.Fail(t, "no late reply")
	}
	require.EqualValues(t, 1, c.Stats().LateReplies)
	waitFor(t, func() bool { return c.Stats().InFlight == 0 })
	require.NoError(t, isoCall(bounded(t), c, isoRequest("0120", 42)), "the STAN is free again")
	<-h.arrived
}

// requireRefused checks the error of a request that is refused for its id.
func requireRefused(t *testing.T, err error, id string) {
	t.Helper()
	var op *tcpclient.OpError
	require.ErrorAs(t, err, &op)
	require.True(t, op.Unsent)
	require.Equal(t, tcpclient.ClassPermanent, tcpclient.Classify(err))
	require.ErrorContains(t, err, id)
}
