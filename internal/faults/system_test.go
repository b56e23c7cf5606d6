package faults

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"runtime"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/seed-d0aa0aa7/tcpclient"
	"github.com/seed-d0aa0aa7/tcpclient/internal/testkit"
	"github.com/seed-d0aa0aa7/tcpclient/tcpclienttest"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// portableFaults are rows Y and B of FAULTS.md that any system has.
var portableFaults = map[string]func(t *testing.T){
	"B5 memory that is used again":          faultReuse,
	"B9 10 000 idle clients":                faultIdleClients,
	"Y15 socket option that only Linux has": faultOption,
}

// requireNext wants these messages to arrive next.
func requireNext(t testing.TB, c *tcpclient.Client, want []string) {
	t.Helper()
	for i := range want {
		msg, err := c.Receive(testkit.Within(t, 3*testkit.Patience))
		require.NoError(t, err, "instead of message %d", i)
		require.True(t, want[i] == string(msg), "message %d: %.20q", i, msg)
	}
}

func faultOption(t *testing.T) {
	l := testkit.ListenTCP(t)
	c, err := l.TryDial(t.Context(), tcpclient.Dialer{UserTimeout: time.Minute})
	if runtime.GOOS == "linux" {
		require.NoError(t, err)
		require.NoError(t, c.Close())
		return
	}
	require.ErrorIs(t, err, errors.ErrUnsupported)
	require.ErrorContains(t, err, "UserTimeout")
	require.Equal(t, tcpclient.ClassPermanent, tcpclient.Classify(err))
}

func faultReuse(t *testing.T) {
	// Three ways to receive from one Client at once. Each writes over what it owns, once
	// it has seen that it is what the peer sent.
	c, p := testkit.TransportNamed("tcp").Connect(t, tcpclient.Dialer{})
	const n = 20_000
	sent := testkit.Start(t, func() error {
		var b []byte
		for i := range n {
			b = append(b, testkit.Frame(string(own(i)))...)
			if len(b) > 10_000 || i == n-1 {
				if _, err := p.Write(b); err != nil {
					return err
				}
				b = b[:0]
			}
		}
		p.Finish()
		return nil
	})
	var mu sync.Mutex
	seen := make(map[int]bool)
	check := func(msg []byte) {
		if t.Failed() {
			return // one is enough
		}
		number, _, found := bytes.Cut(msg, []byte("/"))
		i, err := strconv.Atoi(string(number))
		assert.True(t, found && err == nil, "%.20q", msg)
		assert.True(t, bytes.Equal(own(i), msg), "message %d was written over: %.20q", i, msg)
		mu.Lock()
		defer mu.Unlock()
		assert.False(t, seen[i], "message %d came twice", i)
		seen[i] = true
	}
	poison := func(msg []byte) {
		msg = msg[:cap(msg)]
		for i := range msg {
			msg[i] = '!'
		}
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		var kept [][]byte // for a while: others must not write to them
		for {
			msg, err := c.Receive(t.Context())
			if err != nil {
				break
			}
			if kept = append(kept, msg); len(kept) == 100 {
				for _, msg := range kept {
					check(msg)
					poison(msg)
				}
				kept = kept[:0]
			}
		}
		for _, msg := range kept {
			check(msg)
		}
	})
	wg.Go(func() {
		var buf []byte
		for {
			var err error
			if buf, err = c.ReceiveInto(t.Context(), buf); err != nil {
				return
			}
			check(buf)
			poison(buf)
		}
	})
	wg.Go(func() {
		for msg, err := range c.Messages(t.Context()) {
			if err != nil {
				return
			}
			check(msg)
			runtime.Gosched()
			poison(msg[:len(msg):len(msg)])
		}
	})
	testkit.RequireFast(t, "those who receive", wg.Wait)
	require.NoError(t, sent())
	require.Len(t, seen, n)
}

// own is message i: short, or of up to some 10 KB, so that slabs of all kinds are used.
func own(i int) []byte {
	size := i % 100
	if i%50 == 0 {
		size = i % 10_007
	}
	return append(fmt.Appendf(nil, "%d/", i), bytes.Repeat([]byte{byte('a' + i%26)}, size)...)
}

func faultIdleClients(t *testing.T) {
	n := 10_000
	if testkit.RaceEnabled || testing.Short() {
		n = 1000 // the race detector has a limit of 8128 goroutines
	}
	ends := make([]net.Conn, 0, 2*n)
	clients := make([]*tcpclient.Client, 0, n)
	defer func() {
		for _, c := range clients {
			c.Close()
		}
		for _, conn := range ends {
			conn.Close()
		}
	}()
	network := tcpclienttest.NewNetwork()
	l := testkit.ListenNetwork(t, network)
	d := tcpclient.Dialer{
		Heartbeat: testkit.Pinging(), Reconnect: &tcpclient.Backoff{},
		DialContext: func(ctx context.Context, _, address string) (net.Conn, error) {
			near, err := network.DialContext(ctx, "tcp", address)
			if err != nil {
				return nil, err
			}
			far, err := l.Accept()
			ends = append(ends, far)
			return near, err
		},
	}
	before, goroutines := testkit.MemoryInUse(), runtime.NumGoroutine()
	for range n {
		c, err := d.Dial(t.Context(), "tcp", l.Addr().String())
		require.NoError(t, err)
		clients = append(clients, c)
	}
	require.LessOrEqual(t, runtime.NumGoroutine()-goroutines, 2*n) // P6
	each := (testkit.MemoryInUse() - before) / int64(n)
	t.Logf("%d goroutines and %d bytes for %d Clients", runtime.NumGoroutine()-goroutines, each, n)
	if !testkit.RaceEnabled {
		require.Less(t, each, int64(16<<10), "with both ends of a connection in memory")
	}
}
