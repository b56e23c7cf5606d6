package faults

import (
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"net"
	"runtime"
	"testing"
	"time"

	"github.com/seed-d0aa0aa7/tcpclient"
	"github.com/seed-d0aa0aa7/tcpclient/internal/testkit"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// boundFaults are the rows B of FAULTS.md that need no reconnecting.
var boundFaults = map[string]func(t *testing.T){
	"B1 memory under lengths that are only announced": faultAnnounced,
	"B1 memory under a line that does not end":        faultEndless,
	"F11 delimiter that trickles":                     faultTrickledLine,
}

func faultEndless(t *testing.T) {
	c, p := testkit.ConnectMemory(t, tcpclient.Dialer{Framer: tcpclient.Lines{MaxSize: 100_000}})
	before := testkit.MemoryInUse()
	sent := testkit.Start(t, func() (n int) {
		chunk := bytes.Repeat([]byte("a"), 10_000)
		for {
			k, err := p.Write(chunk)
			if n += k; err != nil {
				return n
			}
		}
	})
	_, err := c.Receive(t.Context())
	var tooLarge *tcpclient.FrameTooLargeError
	require.ErrorAs(t, err, &tooLarge)
	require.ErrorIs(t, err, tcpclient.ErrDisconnected)
	require.Less(t, sent(), 100_000+2*(64<<10)+64<<10, "it stops at MaxSize and what buffers hold")
	require.Less(t, testkit.MemoryInUse()-before, int64(1<<20))
}

func faultTrickledLine(t *testing.T) {
	testkit.SkipIfShort(t)
	// Hundreds of thousands of reads of a few bytes. Who searches from the beginning after each looks at
	// 4 million million bytes, for minutes; who goes on where the search has stopped looks at
	// each byte once.
	const size, delim = 16 << 20, "\r\n\n"
	piece := 32
	if testkit.RaceEnabled {
		piece = 128 // each read takes ten times as long, and so does each search
	}
	stream := append(bytes.Repeat([]byte("a"), size), delim...)
	c, _, w := testkit.ConnectHooked(t, tcpclient.Dialer{Framer: tcpclient.Delimiter{Delim: []byte(delim), MaxSize: 32 << 20}}, func(w *testkit.HookedConn) {
		rest := stream
		w.OnRead = func(p []byte) (n int, err error) {
			if len(rest) == 0 {
				return 0, io.EOF
			}
			n = copy(p, rest[:min(piece, len(rest))])
			rest = rest[n:]
			return n, nil
		}
	})
	testkit.RequireFast(t, "Receive", func() {
		msg, err := c.Receive(t.Context())
		assert.NoError(t, err)
		assert.Len(t, msg, size)
	})
	require.LessOrEqual(t, w.Reads(), size/piece+2, "the pieces, the delimiter and the end")
}

func faultAnnounced(t *testing.T) {
	const conns = 200
	l := testkit.ListenTCP(t)
	peers := make([]net.Conn, conns)
	clients := make([]*tcpclient.Client, conns)
	before := testkit.MemoryInUse()
	for i := range conns {
		done := make(chan struct{})
		go func() { defer close(done); peers[i], _ = l.Accept() }()
		var err error
		clients[i], err = tcpclient.Dial(t.Context(), "tcp", l.Addr().String())
		require.NoError(t, err)
		<-done
		defer peers[i].Close()
		defer clients[i].Close()
		peers[i].Write(append(binary.BigEndian.AppendUint32(nil, 4<<20), 'x'))
	}
	ctx := testkit.Within(t, 100*time.Millisecond)
	for _, c := range clients {
		_, err := c.Receive(ctx)
		require.ErrorIs(t, err, context.DeadlineExceeded)
	}
	each := (testkit.MemoryInUse() - before) / conns
	t.Logf("%d bytes per connection", each)
	require.Less(t, each, int64(64<<10))
	runtime.KeepAlive(clients)
}
