package tcpclient_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/seed-d0aa0aa7/tcpclient"
	"github.com/stretchr/testify/require"
)

func TestSmokeCall(t *testing.T) {
	for _, corr := range []tcpclient.Correlator{nil, tcpclient.IDPrefix{}, tcpclient.IDField{Width: 1}, tcpclient.IDField{Width: 2, Offset: 1, ReplyOffset: 1}} {
		d := tcpclient.Dialer{Correlator: corr}
		c, err := d.Dial(t.Context(), "tcp", echoServer(t))
		require.NoError(t, err)
		var wg sync.WaitGroup
		for g := range 64 {
			wg.Go(func() {
				for i := range 200 {
					q := fmt.Sprintf("xxxx%d/%d", g, i)
					ctx := t.Context()
					if i%7 == 3 {
						var cancel context.CancelFunc
						ctx, cancel = context.WithTimeout(ctx, time.Duration(i)*time.Microsecond)
						defer cancel()
					}
					r, err := c.Call(ctx, []byte(q))
					if err != nil {
						if !errors.Is(err, context.DeadlineExceeded) {
							t.Error(err)
						}
						continue
					}
					skip := 0
					if _, ok := corr.(tcpclient.IDField); ok {
						skip = 4
					}
					if string(r[skip:]) != q[skip:] {
						t.Errorf("%q answered by %q", q, r)
					}
				}
			})
		}
		wg.Wait()
		require.NoError(t, c.Close())
	}
}

func TestSmokeReconnect(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	var n atomic.Int32
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				k := n.Add(1)
				io.CopyN(c, c, 9*int64(k))
				c.Close()
			}()
		}
	}()
	var events []string
	d := tcpclient.Dialer{Reconnect: &tcpclient.Backoff{Max: 20 * time.Millisecond}, Trace: &tcpclient.Trace{
		Connected:    func(a string, n int, took time.Duration) { events = append(events, fmt.Sprint("up ", n)) },
		Disconnected: func(a string, err error) { events = append(events, "down "+err.Error()) },
		Waiting:      func(n int, dl time.Duration) { events = append(events, fmt.Sprint("wait ", n, dl)) },
	}}
	c, err := d.Dial(t.Context(), "tcp", l.Addr().String())
	require.NoError(t, err)
	for i := range 10 {
		err := c.Send(t.Context(), []byte("hello"))
		fmt.Println(i, err)
		m, err := c.Receive(t.Context())
		fmt.Println(i, string(m), err)
	}
	require.NoError(t, c.Close())
	for _, e := range events {
		fmt.Println(e)
	}
}

func TestSmokeHeartbeat(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	go func() {
		c, err := l.Accept()
		if err != nil {
			return
		}
		io.CopyN(c, c, 3*8)
		io.Copy(io.Discard, c)
	}()
	d := tcpclient.Dialer{Heartbeat: tcpclient.Heartbeat{Interval: 50 * time.Millisecond, Ping: func() []byte { return []byte("ping") }, IsPong: func(m []byte) bool { return string(m) == "ping" }}}
	c, err := d.Dial(t.Context(), "tcp", l.Addr().String())
	require.NoError(t, err)
	start := time.Now()
	_, err = c.Receive(t.Context())
	fmt.Println(time.Since(start), err, c.Stats().RTT)
	require.ErrorIs(t, err, tcpclient.ErrHeartbeatTimeout)
	require.NoError(t, c.Close())
}
