package faults

import (
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"net"
	"runtime"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/seed-d0aa0aa7/tcpclient"
	"github.com/seed-d0aa0aa7/tcpclient/internal/testkit"
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
	// One byte per read: searching must go on where it stopped.
	if testkit.RaceEnabled {
		t.Skip("the race detector makes the reads so slow that the search could hide behind them")
	}
	took := func(size int) time.Duration {
		stream := append(bytes.Repeat([]byte("a"), size), '\n')
		c, _, _ := testkit.ConnectHooked(t, tcpclient.Dialer{Framer: tcpclient.Delimiter{Delim: []byte("\r\n\n"), MaxSize: 8 << 20}}, func(w *testkit.HookedConn) {
			source := iotest.OneByteReader(io.MultiReader(bytes.NewReader(stream[:size]), strings.NewReader("\r\n\n"), iotest.ErrReader(io.EOF)))
			w.OnRead = source.Read
		})
		began := time.Now()
		msg, err := c.Receive(t.Context())
		require.NoError(t, err)
		require.Len(t, msg, size)
		return time.Since(began)
	}
	small, large := time.Hour, time.Hour
	for range 5 {
		small, large = min(small, took(128<<10)), min(large, took(1<<20))
		if large < 16*small {
			return
		}
	}
	require.Less(t, large, 16*small, "8 times as many bytes")
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
