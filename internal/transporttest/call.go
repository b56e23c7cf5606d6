package transporttest

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/seed-d0aa0aa7/tcpclient"
	"github.com/seed-d0aa0aa7/tcpclient/internal/testkit"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// Call is for Client.Call.
func Call(t *testing.T, tr testkit.Transport) {
	for _, k := range Correlators {
		t.Run(k.Name+" returns to each of many callers their own reply", func(t *testing.T) {
			c, p := tr.Connect(t, tcpclient.Dialer{Correlator: k.Correlator})
			go p.Echo()
			var wg sync.WaitGroup
			for g := range 16 {
				wg.Go(func() {
					for i := range 50 {
						request := append(make([]byte, k.Header), fmt.Sprintf("%d/%d", g, i)...)
						reply, err := c.Call(t.Context(), request)
						if assert.NoError(t, err) {
							assert.Equal(t, request[k.Header:], reply[k.Header:])
						}
					}
				})
			}
			wg.Wait()
		})
	}
}

// CallFate is for Calls whose connection ends.
func CallFate(t *testing.T, tr testkit.Transport) {
	c, p := tr.Connect(t, tcpclient.Dialer{Correlator: tcpclient.IDPrefix{}})
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			_, err := c.Call(t.Context(), []byte("x"))
			assert.ErrorIs(t, err, tcpclient.ErrDisconnected)
			assert.False(t, testkit.OpError(t, err).Unsent)
		})
	}
	for range 20 {
		p.Receive()
	}
	p.Close()
	wg.Wait()
}

// CallsAndPushes is for Calls that begin at any moment of a stream of pushes.
func CallsAndPushes(t *testing.T, tr testkit.Transport) {
	l := tr.Listen(t)
	for seed := range uint64(testkit.Rounds(3)) {
		r := rand.New(rand.NewPCG(seed, 66))
		const pushes = 1500
		c, p := l.Connect(t, tcpclient.Dialer{Correlator: tcpclient.IDPrefix{}})
		var mu sync.Mutex // of writes of the peer
		var wg sync.WaitGroup
		size := 600 + r.IntN(7000)
		wg.Go(func() {
			var b []byte
			for i := 0; i < pushes; {
				b = b[:0]
				for range 40 {
					if i < pushes {
						b = binary.BigEndian.AppendUint32(b, uint32(8+size))
						b = testkit.AppendCheckable(binary.BigEndian.AppendUint64(b, 0), i, size)
						i++
					}
				}
				mu.Lock()
				p.Write(b)
				mu.Unlock()
			}
		})
		wg.Go(func() {
			for {
				msg, err := p.Next()
				if err != nil {
					return
				}
				mu.Lock()
				p.Write(testkit.Frame(msg))
				mu.Unlock()
			}
		})
		var calls sync.WaitGroup
		at := r.IntN(pushes)
		for i := range pushes {
			msg, err := c.Receive(t.Context())
			if err != nil {
				require.NoError(t, err)
			}
			if k, err := testkit.Check(msg[8:]); err != nil || i != k {
				require.NoError(t, err)
				require.Equal(t, i, k)
			}
			if i == at {
				for j := range 3 {
					calls.Go(func() {
						for n := range 20 {
							req := testkit.Checkable(j*100+n, 600+n*100)
							reply, err := c.Call(t.Context(), req)
							assert.NoError(t, err)
							assert.True(t, bytes.Equal(req, reply))
						}
					})
				}
			}
		}
		calls.Wait()
		c.Close()
		testkit.HangUp(p.Conn)
		wg.Wait()
	}
}

// ReplyTimeout is for a Call whose reply does not come.
func ReplyTimeout(t *testing.T, tr testkit.Transport) { // P5, D1
	for _, k := range []tcpclient.Correlator{nil, tcpclient.IDPrefix{}} {
		c, p := tr.Connect(t, tcpclient.Dialer{Correlator: k, ReplyTimeout: 100 * time.Millisecond})
		go p.All()
		for range 20 { // what TLS sends by itself is no reason to begin later
			require.NoError(t, c.Send(t.Context(), make([]byte, 8)))
		}
		began := time.Now()
		_, err := c.Call(t.Context(), []byte("request"))
		testkit.RequireReplyTimeout(t, err)
		require.GreaterOrEqual(t, time.Since(began), 100*time.Millisecond)
	}
}

// Correlators are the ways to find a reply, with the bytes that a request and its echo
// have in front of what the test is about.
var Correlators = []struct {
	Name       string
	Correlator tcpclient.Correlator
	Header     int
}{
	{"in order", nil, 0},
	{"IDPrefix", tcpclient.IDPrefix{}, 0},
	{"IDField of one byte", tcpclient.IDField{Width: 1}, 1},
	{"IDField like DNS", tcpclient.IDField{Width: 2}, 2},
	{"IDField like SMPP", tcpclient.IDField{Offset: 12, Width: 4, ReplyOffset: 12}, 16},
	{"IDField, little-endian", tcpclient.IDField{Offset: 1, Width: 3, LittleEndian: true, ReplyOffset: 1}, 4},
}
