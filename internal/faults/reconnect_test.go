package faults

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"os"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/seed-d0aa0aa7/tcpclient"
	"github.com/seed-d0aa0aa7/tcpclient/internal/testkit"
	"github.com/seed-d0aa0aa7/tcpclient/tcpclienttest"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// systemFaults are the rows that need the kernel of one system. Other files add theirs.
var systemFaults = map[string]func(t *testing.T){}

// serverAgain starts a server at an address that one has just left.
func serverAgain(t testing.TB, address string, config *tls.Config, handler tcpclienttest.Handler) *tcpclienttest.Server {
	t.Helper()
	l, err := net.Listen("tcp", address)
	require.NoError(t, err)
	if config != nil {
		l = tls.NewListener(l, config)
	}
	return tcpclienttest.NewServerOn(l, nil, handler)
}

// leave ends a server: the listener first, so that its client meets a closed port, and
// then the connections by end.
func leave(t testing.TB, server *tcpclienttest.Server, end func() int) {
	t.Helper()
	closed := testkit.Start(t, server.Close)
	testkit.Eventually(t, "the port is closed", func() bool {
		conn, err := net.Dial("tcp", server.Addr)
		if err == nil {
			conn.Close()
		}
		return err != nil
	})
	end()
	require.NoError(t, closed())
}

// restartFaults are the rows R and L of FAULTS.md that need sockets.
var restartFaults = map[string]func(t *testing.T){
	"R12 server restarts on the same port": func(t *testing.T) {
		rec := testkit.NewRecorder()
		server := tcpclienttest.NewServer(nil, tcpclienttest.Echo)
		defer func() { server.Close() }()
		d := tcpclient.Dialer{Reconnect: testkit.FastBackoff(), Trace: rec.Trace()}
		c, err := d.Dial(t.Context(), "tcp", server.Addr)
		require.NoError(t, err)
		defer c.Close()
		const restarts = 20
		for i := range restarts {
			msg, err := c.Call(t.Context(), []byte("hello"))
			require.NoError(t, err)
			require.Equal(t, "hello", string(msg))
			if i%2 == 0 {
				leave(t, server, server.ResetConnections)
			} else {
				leave(t, server, server.CloseConnections)
			}
			_, err = c.Receive(t.Context())
			require.ErrorIs(t, err, tcpclient.ErrDisconnected)
			server = serverAgain(t, server.Addr, nil, tcpclienttest.Echo)
		}
		_, err = c.Call(t.Context(), []byte("hello"))
		require.NoError(t, err)
		s := c.Stats()
		require.NoError(t, c.Close())
		rec.RequireOrder(t, 1)
		require.Len(t, rec.All("Disconnected"), int(s.Connects))
		require.EqualValues(t, restarts+1, s.Connects)
	},

	"R13 certificate rotated on restart": func(t *testing.T) {
		first, _ := tcpclienttest.NewTLSConfig()
		second, _ := tcpclienttest.NewTLSConfig()
		pool := x509.NewCertPool()
		for _, config := range []*tls.Config{first, second} {
			cert, err := x509.ParseCertificate(config.Certificates[0].Certificate[0])
			require.NoError(t, err)
			pool.AddCert(cert)
		}
		server := serverAgain(t, "127.0.0.1:0", first, tcpclienttest.Echo)
		defer func() { server.Close() }()
		var seen []string
		d := tcpclient.Dialer{Reconnect: testkit.FastBackoff(), TLSConfig: &tls.Config{RootCAs: pool, VerifyConnection: func(s tls.ConnectionState) error {
			seen = append(seen, s.PeerCertificates[0].SerialNumber.String())
			return nil
		}}}
		c, err := d.Dial(t.Context(), "tcp", server.Addr)
		require.NoError(t, err)
		defer c.Close()
		_, err = c.Call(t.Context(), []byte("hello"))
		require.NoError(t, err)
		leave(t, server, server.CloseConnections)
		_, err = c.Receive(t.Context())
		require.ErrorIs(t, err, tcpclient.ErrDisconnected)
		server = serverAgain(t, server.Addr, second, tcpclienttest.Echo)
		_, err = c.Call(t.Context(), []byte("hello"))
		require.NoError(t, err)
		require.NotEqual(t, seen[0], seen[len(seen)-1], "the new certificate")
	},

	"R14 permanent error on reconnect": func(t *testing.T) {
		first, trust := tcpclienttest.NewTLSConfig()
		second, _ := tcpclienttest.NewTLSConfig()
		server := serverAgain(t, "127.0.0.1:0", first, tcpclienttest.Echo)
		defer func() { server.Close() }()
		rec := testkit.NewRecorder()
		d := tcpclient.Dialer{Reconnect: testkit.FastBackoff(), TLSConfig: trust, Trace: rec.Trace()}
		c, err := d.Dial(t.Context(), "tcp", server.Addr)
		require.NoError(t, err)
		defer c.Close()
		_, err = c.Call(t.Context(), []byte("hello"))
		require.NoError(t, err)
		leave(t, server, server.CloseConnections)
		_, err = c.Receive(t.Context())
		require.ErrorIs(t, err, tcpclient.ErrDisconnected)
		server = serverAgain(t, server.Addr, second, tcpclienttest.Echo)
		_, err = c.Receive(t.Context())
		var untrusted *tls.CertificateVerificationError
		require.ErrorAs(t, err, &untrusted)
		require.Equal(t, tcpclient.ClassPermanent, tcpclient.Classify(err))
		_, err = c.Call(t.Context(), []byte("hello"))
		require.ErrorAs(t, err, &untrusted)
		require.True(t, testkit.OpError(t, err).Unsent)
		require.NoError(t, c.Close())
		failed := rec.All("ConnectFailed")
		require.ErrorAs(t, failed[len(failed)-1].Err, &untrusted)
		for _, e := range failed[:len(failed)-1] {
			require.False(t, errors.As(e.Err, &untrusted), "not tried again")
		}
	},

	"L19 unclosed Client is garbage": func(t *testing.T) {
		// Its goroutine keeps it alive, and so the connection: nothing magic happens.
		l := testkit.ListenTCP(t)
		pings := make(chan struct{}, 100)
		conns := make(chan net.Conn, 1)
		l.Each(func(conn net.Conn) {
			conns <- conn
			p := testkit.NewPeer(t, conn)
			for {
				if _, err := p.Next(); err != nil {
					close(pings)
					return
				}
				p.Write(testkit.Frame("pong"))
				pings <- struct{}{}
			}
		})
		func() {
			h := testkit.Pinging()
			h.Interval, h.Timeout = 10*time.Millisecond, 10*time.Second
			_, err := (&tcpclient.Dialer{Heartbeat: h}).Dial(t.Context(), "tcp", l.Addr().String())
			require.NoError(t, err)
		}()
		for range 5 {
			runtime.GC()
			_, ok := <-pings
			require.True(t, ok)
		}
		testkit.HangUp(<-conns) // and without Reconnect that is its end
	},

	"B2 goroutines, descriptors and timers after 10 000 reconnects": beside(faultReconnects), // B3, B4
}

// faultReconnects lets a client reconnect 10 000 times to servers that fail in all
// ways, and wants nothing of that to be left.
func faultReconnects(t *testing.T) {
	reconnects := uint64(10_000)
	if testing.Short() || testkit.RaceEnabled {
		reconnects = 2000
	}
	testkit.InNamespace(t, func(t *testing.T) { // where the ports in TIME_WAIT are no other test's
		l := testkit.ListenTCP(t)
		var n atomic.Int32
		l.Each(func(conn net.Conn) {
			defer testkit.HangUp(conn)
			switch n.Add(1) % 8 {
			case 0: // at once
			case 1:
				conn.(*net.TCPConn).SetLinger(0)
			case 2: // inside the handshake's frame
				conn.Write(testkit.Frame("welcome")[:6])
			case 3: // after a bad one
				conn.Write([]byte("HTTP/1.1 503 Service Unavailable\r\n"))
				io.Copy(io.Discard, conn)
			case 4: // after the handshake
				conn.Write(testkit.Frame("welcome"))
			case 5: // with messages
				conn.Write(testkit.Frames("welcome", "hello", "hello"))
			case 6: // with half of one
				conn.Write(append(testkit.Frame("welcome"), 0, 0, 0, 9, 'x'))
			case 7: // reset
				conn.Write(testkit.Frame("welcome"))
				conn.(*net.TCPConn).SetLinger(0)
			}
		})
		run := func(reconnects uint64) {
			h := testkit.Pinging()
			h.Interval, h.Timeout = time.Hour, 2*time.Hour
			var failed atomic.Uint64
			d := tcpclient.Dialer{
				Reconnect: &tcpclient.Backoff{Min: time.Microsecond, Max: time.Microsecond, FirstDial: true},
				Heartbeat: h, FlushDelay: time.Hour,
				Handshake: func(ctx context.Context, conn *tcpclient.Conn) error {
					_, err := conn.Receive(ctx)
					return err
				},
				Trace: &tcpclient.Trace{ConnectFailed: func(string, int, error) { failed.Add(1) }},
			}
			c, err := d.Dial(t.Context(), "tcp", l.Addr().String())
			require.NoError(t, err)
			ctx, cancel := context.WithCancel(t.Context())
			var wg sync.WaitGroup
			wg.Go(func() {
				for ctx.Err() == nil {
					c.Receive(ctx)
				}
			})
			wg.Go(func() {
				for ctx.Err() == nil {
					c.Write(ctx, []byte("hello"))
					c.Send(ctx, []byte("hello"))
					time.Sleep(time.Millisecond) // half of the connections see none of it
				}
			})
			testkit.Eventually(t, "it has reconnected often", func() bool { return c.Stats().Connects+failed.Load() >= reconnects })
			cancel()
			wg.Wait()
			c.Close()
			require.Greater(t, c.Stats().Connects, reconnects/4)
			require.Greater(t, failed.Load(), reconnects/4)
		}
		run(200) // what is made once
		settled := func(goroutines int) (objects uint64) {
			testkit.Eventually(t, "the server's goroutines have ended", func() bool { return runtime.NumGoroutine() <= goroutines })
			runtime.GC()
			runtime.GC()
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			return m.HeapObjects
		}
		objects, goroutines, files := settled(6), runtime.NumGoroutine(), testkit.OpenFiles(t)
		run(reconnects)
		after := settled(goroutines)
		require.LessOrEqual(t, testkit.OpenFiles(t), files)
		require.Less(t, int64(after)-int64(objects), int64(1500), "a timer or anything else is left of each connection") // also B4
		require.Zero(t, testkit.Goroutines(), testkit.Stacks())
	})
}

// reconnectFaults are the rows R, L and B of FAULTS.md that are about reconnecting.
var reconnectFaults = map[string]func(t *testing.T){
	"R1 server down for an hour": testkit.InBubble(func(t *testing.T) {
		n := tcpclienttest.NewNetwork()
		l := testkit.ListenNetwork(t, n)
		rec := testkit.NewRecorder()
		c, p := l.Connect(t, tcpclient.Dialer{Reconnect: &tcpclient.Backoff{}, Trace: rec.Trace()})
		time.Sleep(time.Minute)
		l.Close()
		testkit.HangUp(p)
		time.Sleep(time.Hour)
		synctest.Wait()
		waits := rec.All("Waiting")
		require.Greater(t, len(waits), 150)
		require.Less(t, len(waits), 400)
		ceiling, longest := 100*time.Millisecond, time.Duration(0)
		for i, e := range waits {
			require.Equal(t, i+1, e.Attempt)
			require.GreaterOrEqual(t, e.Delay, time.Duration(0))
			require.LessOrEqual(t, e.Delay, ceiling, "attempt %d", e.Attempt)
			longest = max(longest, e.Delay)
			ceiling = min(2*ceiling, 30*time.Second)
		}
		require.Greater(t, longest, 25*time.Second, "the cap is reached")
		for i, e := range rec.All("Connecting")[1:] {
			require.Equal(t, waits[i].At+waits[i].Delay, e.At, "the attempt comes when Waiting said")
			require.Equal(t, waits[i].Attempt, e.Attempt)
		}
		again, err := n.Listen(l.Addr().String())
		require.NoError(t, err)
		defer again.Close()
		conn, err := again.Accept()
		require.NoError(t, err)
		testkit.RequireAliveAfterLoss(t, c, testkit.NewPeer(t, conn))
		require.NoError(t, c.Close())
		rec.RequireOrder(t, 1)
	}),

	"R2 flapping server": testkit.InBubble(func(t *testing.T) {
		var counts []int
		for range 100 {
			l := testkit.ListenMemory(t)
			l.Each(func(conn net.Conn) { conn.Close() })
			n := countAttempts(t, tcpclient.Dialer{Reconnect: &tcpclient.Backoff{}}, l, 10*time.Second)
			require.LessOrEqual(t, n, 20)
			counts = append(counts, n)
			l.Close()
		}
		slices.Sort(counts)
		require.LessOrEqual(t, counts[50], 10, "median of %v", counts)
		require.GreaterOrEqual(t, counts[50], 5, "median of %v", counts)

		// The same with a welcome, and with a reset.
		for name, handle := range map[string]func(conn net.Conn){
			"welcome": func(conn net.Conn) { conn.Write(testkit.Frame("welcome")); conn.Close() },
			"reset":   func(conn net.Conn) { conn.(interface{ SetLinger(int) error }).SetLinger(0); conn.Close() },
			"9 s":     func(conn net.Conn) { time.Sleep(9 * time.Second); conn.Close() },
		} {
			l := testkit.ListenMemory(t)
			l.Each(handle)
			n := countAttempts(t, tcpclient.Dialer{Reconnect: &tcpclient.Backoff{}}, l, 10*time.Minute)
			require.LessOrEqual(t, n, 100, name)
			l.Close()
			time.Sleep(10 * time.Second)
		}
	}),

	"R4 handshake returns an error": testkit.InBubble(func(t *testing.T) {
		refused := errors.New("not yet")
		l := testkit.ListenMemory(t)
		rec := testkit.NewRecorder()
		fails := 0
		d := tcpclient.Dialer{Reconnect: &tcpclient.Backoff{}, Trace: rec.Trace(), Handshake: func(context.Context, *tcpclient.Conn) error {
			if fails > 0 {
				fails--
				return fmt.Errorf("server says: %w", refused)
			}
			return nil
		}}
		c, p := l.Connect(t, d)
		fails = 3
		testkit.HangUp(p)
		for range 3 {
			_, end := l.AcceptPeer(t).All()
			require.Equal(t, io.EOF, end, "the connection is closed")
		}
		testkit.RequireAliveAfterLoss(t, c, l.AcceptPeer(t))
		require.NoError(t, c.Close())
		failed := rec.All("ConnectFailed")
		require.Len(t, failed, 3)
		for i, e := range failed {
			require.Equal(t, i+2, e.Attempt)
			require.ErrorIs(t, e.Err, refused)
			require.Equal(t, "handshake", testkit.OpError(t, e.Err).Op)
		}
		require.Len(t, rec.All("Connected"), 2, "a failed handshake is no Connected")
		rec.RequireOrder(t, 1)

		fails = 1
		_, err := l.TryDial(t.Context(), d)
		require.ErrorIs(t, err, refused)
		require.Equal(t, "handshake", testkit.OpError(t, err).Op)
		require.Equal(t, tcpclient.ClassDisconnected, tcpclient.Classify(err))

		d.Reconnect.FirstDial = true
		d.Handshake = func(context.Context, *tcpclient.Conn) error { return tcpclient.Permanent(refused) }
		start := time.Now()
		_, err = l.TryDial(t.Context(), d)
		require.ErrorIs(t, err, refused)
		require.Equal(t, tcpclient.ClassPermanent, tcpclient.Classify(err))
		require.Zero(t, time.Since(start))
	}),

	"R5 handshake hangs or ignores its context": testkit.InBubble(func(t *testing.T) {
		l := testkit.ListenMemory(t)
		l.Each(func(conn net.Conn) { io.Copy(io.Discard, conn); conn.Close() })
		for name, hang := range map[string]func(ctx context.Context, conn *tcpclient.Conn) error{
			"heeds its context": func(ctx context.Context, _ *tcpclient.Conn) error { <-ctx.Done(); return ctx.Err() },
			"receives for ever": func(_ context.Context, conn *tcpclient.Conn) error {
				_, err := conn.Receive(context.Background())
				return err
			},
			"sends for ever": func(_ context.Context, conn *tcpclient.Conn) error {
				for {
					if err := conn.Send(context.Background(), make([]byte, 1000)); err != nil {
						return err
					}
					time.Sleep(time.Millisecond)
				}
			},
			"reads the raw connection": func(_ context.Context, conn *tcpclient.Conn) error {
				_, err := conn.NetConn().Read(make([]byte, 1))
				return err
			},
			"hides the error": func(_ context.Context, conn *tcpclient.Conn) error {
				conn.Receive(context.Background())
				return nil
			},
		} {
			start := time.Now()
			_, err := l.TryDial(t.Context(), tcpclient.Dialer{Timeout: 3 * time.Second, Handshake: hang})
			require.ErrorIs(t, err, os.ErrDeadlineExceeded, name)
			require.NotErrorIs(t, err, context.DeadlineExceeded, name)
			require.Equal(t, "handshake", testkit.OpError(t, err).Op)
			require.True(t, testkit.OpError(t, err).Timeout())
			require.Equal(t, tcpclient.ClassDisconnected, tcpclient.Classify(err), name)
			require.InDelta(t, 3*time.Second, time.Since(start), float64(time.Millisecond), name)

			start = time.Now()
			_, err = l.TryDial(testkit.Within(t, 2*time.Second), tcpclient.Dialer{Timeout: 3 * time.Second, Handshake: hang})
			require.ErrorIs(t, err, context.DeadlineExceeded, name)
			require.InDelta(t, 2, time.Since(start).Seconds(), 0.002, name)
		}
		// Without any I/O only Dial itself can be saved.
		start := time.Now()
		_, err := l.TryDial(testkit.Within(t, 2*time.Second), tcpclient.Dialer{Handshake: func(context.Context, *tcpclient.Conn) error {
			time.Sleep(time.Hour)
			return nil
		}})
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.LessOrEqual(t, time.Since(start), 2200*time.Millisecond)
		time.Sleep(2 * time.Hour)
		l.Close()
		synctest.Wait()
	}),

	"R6 handshake reads past its own reply": testkit.InBubble(func(t *testing.T) {
		l := testkit.ListenMemory(t)
		l.Each(func(conn net.Conn) {
			p := testkit.NewPeer(t, conn)
			p.Next()
			rest := testkit.Frame("four")
			p.Write(append(testkit.Frames("welcome", "one", "two", "three"), rest[:3]...))
			time.Sleep(time.Second)
			p.Write(rest[3:])
			io.Copy(io.Discard, conn)
		})
		for _, buffer := range []int{1, 16, 20, 0} {
			c := l.Dial(t, tcpclient.Dialer{ReadBuffer: buffer, Handshake: testkit.Login})
			for _, want := range []string{"one", "two", "three", "four"} {
				msg, err := c.Receive(t.Context())
				require.NoError(t, err)
				require.Equal(t, want, string(msg))
			}
			require.NoError(t, c.Close())
		}
	}),

	"R7 thundering herd": testkit.InBubble(func(t *testing.T) {
		// 10 000 clients lose their server at one instant. With the race detector and
		// -short they are fewer, and the chance that the margins below leave is the same.
		const bucket = 100 * time.Millisecond
		clients := 10_000
		if testkit.RaceEnabled || testing.Short() {
			clients = 1000
		}
		n := tcpclienttest.NewNetwork()
		n.Buffer = 64
		l := testkit.ListenNetwork(t, n)
		var mu sync.Mutex
		var lost time.Time
		var conns []net.Conn
		l.Each(func(conn net.Conn) {
			mu.Lock()
			defer mu.Unlock()
			conns = append(conns, conn)
		})
		histogram := make(map[time.Duration]int)
		firsts := make(map[time.Duration]int)
		d := tcpclient.Dialer{
			Reconnect:  &tcpclient.Backoff{Min: time.Second, Max: 30 * time.Second},
			ReadBuffer: 16, WriteBuffer: 16,
			DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
				mu.Lock()
				if !lost.IsZero() {
					histogram[time.Since(lost)/bucket]++
				}
				mu.Unlock()
				return n.DialContext(ctx, network, address)
			},
			Trace: &tcpclient.Trace{Waiting: func(attempt int, delay time.Duration) {
				mu.Lock()
				defer mu.Unlock()
				if attempt == 2 {
					firsts[delay/bucket]++
				}
			}},
		}
		all := make([]*tcpclient.Client, clients)
		for i := range all {
			c, err := d.Dial(t.Context(), "tcp", l.Addr().String())
			require.NoError(t, err)
			all[i] = c
		}
		synctest.Wait()
		l.Close()
		lost = time.Now()
		for _, conn := range conns {
			conn.Close()
		}
		time.Sleep(120 * time.Second)
		synctest.Wait()
		mu.Lock()
		total, worst := 0, 0
		for at := 60 * time.Second / bucket; at < 120*time.Second/bucket; at++ {
			total += histogram[at]
			worst = max(worst, histogram[at])
		}
		mean := float64(total) / float64(60*time.Second/bucket)
		require.Greater(t, mean, float64(clients)/500, "they all go on")
		require.Less(t, float64(worst), mean+7*math.Sqrt(mean), "a minute later the attempts come in step: %d of %.0f", worst, mean)
		for at := time.Duration(0); at < time.Second/bucket; at++ {
			require.InDelta(t, clients/10, firsts[at], 8*math.Sqrt(float64(clients)/10), "the first waits are not even: %v", firsts)
		}
		mu.Unlock()
		var wg sync.WaitGroup
		for _, c := range all {
			wg.Go(func() { c.Close() })
		}
		wg.Wait()
	}),

	"R8 attempts used up": testkit.InBubble(func(t *testing.T) {
		for _, attempts := range []int{1, 2, 5} {
			l := testkit.ListenMemory(t)
			rec := testkit.NewRecorder()
			c, p := l.Connect(t, tcpclient.Dialer{Reconnect: &tcpclient.Backoff{MaxAttempts: attempts}, Trace: rec.Trace()})
			time.Sleep(time.Minute)
			l.Close()
			testkit.HangUp(p)
			_, err := c.Receive(t.Context())
			require.ErrorIs(t, err, io.EOF)
			_, err = c.Receive(t.Context())
			require.ErrorIs(t, err, testkit.ErrRefused)
			require.Equal(t, tcpclient.ClassPermanent, tcpclient.Classify(err))
			require.ErrorContains(t, err, fmt.Sprintf("%d attempts", attempts))
			synctest.Wait()
			require.Len(t, rec.All("ConnectFailed"), attempts)
			require.ErrorIs(t, c.Send(t.Context(), nil), testkit.ErrRefused)
			require.NoError(t, c.Close())
			rec.RequireOrder(t, 1)
		}
	}),

	"R10 address changes between attempts": testkit.InBubble(func(t *testing.T) {
		n := tcpclienttest.NewNetwork()
		a, b := testkit.ListenNetwork(t, n), testkit.ListenNetwork(t, n)
		target := a.Addr().String()
		var asked []string
		d := tcpclient.Dialer{Reconnect: &tcpclient.Backoff{}, DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			asked = append(asked, address)
			return n.DialContext(ctx, network, target)
		}}
		c, err := d.Dial(t.Context(), "tcp", "server.example:1")
		require.NoError(t, err)
		defer c.Close()
		p := a.AcceptPeer(t)
		testkit.RequireAlive(t, c, p)
		target = b.Addr().String()
		a.Close()
		testkit.HangUp(p)
		testkit.RequireAliveAfterLoss(t, c, b.AcceptPeer(t))
		require.Equal(t, []string{"server.example:1", "server.example:1"}, asked, "the name is asked for anew")
	}),

	"R11 one of several addresses hangs": testkit.InBubble(func(t *testing.T) {
		n := tcpclienttest.NewNetwork()
		l := testkit.ListenNetwork(t, n)
		rec := testkit.NewRecorder()
		d := tcpclient.Dialer{
			Timeout: 2 * time.Second, Reconnect: &tcpclient.Backoff{}, Trace: rec.Trace(),
			DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
				if address == "dead:1" {
					<-ctx.Done()
					return nil, ctx.Err()
				}
				return n.DialContext(ctx, network, address)
			},
		}
		start := time.Now()
		wait := func() *tcpclient.Client {
			c, err := d.Dial(t.Context(), "tcp", "dead:1", "dead:1", l.Addr().String())
			require.NoError(t, err)
			return c
		}
		c := wait()
		defer c.Close()
		require.Equal(t, 4*time.Second, time.Since(start))
		p := l.AcceptPeer(t)
		for range 3 {
			time.Sleep(time.Minute)
			start = time.Now()
			testkit.HangUp(p)
			p = l.AcceptPeer(t)
			require.LessOrEqual(t, time.Since(start), 4*time.Second+100*time.Millisecond)
			testkit.RequireAliveAfterLoss(t, c, p)
		}
		require.NoError(t, c.Close())
		rec.RequireOrder(t, 3)
		for _, e := range rec.All("ConnectFailed") {
			require.Equal(t, 1, e.Attempt, "one round is one attempt")
			require.ErrorIs(t, e.Err, os.ErrDeadlineExceeded)
		}
	}),

	"R15 many Sends wait for a connection": testkit.InBubble(func(t *testing.T) {
		n := tcpclienttest.NewNetwork()
		l := testkit.ListenNetwork(t, n)
		c, p := l.Connect(t, tcpclient.Dialer{Reconnect: &tcpclient.Backoff{}})
		l.Close()
		testkit.HangUp(p)
		_, err := c.Receive(t.Context())
		require.ErrorIs(t, err, tcpclient.ErrDisconnected)
		ctx := testkit.Within(t, time.Minute)
		var wg sync.WaitGroup
		var before, after runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		big := make([]byte, 1<<20)
		for range 1000 {
			wg.Go(func() {
				err := c.Send(ctx, big)
				assert.ErrorIs(t, err, context.DeadlineExceeded)
				assert.True(t, testkit.OpError(t, err).Unsent)
			})
		}
		kept := make(map[string]bool)
		for i := range 1000 {
			kept[fmt.Sprint("patient ", i)] = true
			wg.Go(func() { assert.NoError(t, c.Send(t.Context(), fmt.Append(nil, "patient ", i))) })
		}
		synctest.Wait()
		runtime.ReadMemStats(&after)
		require.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(32<<20), "1000 waiting messages of 1 MiB are not copied")
		time.Sleep(15 * time.Minute) // each attempt that fails wakes them all
		again, err := n.Listen(l.Addr().String())
		require.NoError(t, err)
		defer again.Close()
		conn, err := again.Accept()
		require.NoError(t, err)
		p = testkit.NewPeer(t, conn)
		for range 1000 {
			msg := p.Receive()
			require.True(t, kept[msg], "%.40q", msg)
			delete(kept, msg)
		}
		wg.Wait()
		require.NoError(t, c.Close())
		_, end := p.Next()
		require.Equal(t, io.EOF, end)
	}),

	"L4 Close while waiting to reconnect": testkit.InBubble(func(t *testing.T) {
		for _, end := range []func(c *tcpclient.Client) error{
			func(c *tcpclient.Client) error { return c.Close() },
			func(c *tcpclient.Client) error { return c.Shutdown(t.Context()) },
		} {
			l := testkit.ListenMemory(t)
			c, p := l.Connect(t, tcpclient.Dialer{Reconnect: &tcpclient.Backoff{Min: 30 * time.Minute, Max: time.Hour}})
			testkit.HangUp(p)
			_, err := c.Receive(t.Context())
			require.ErrorIs(t, err, tcpclient.ErrDisconnected)
			waiting := make(chan error, 4)
			go func() { _, err := c.Receive(t.Context()); waiting <- err }()
			go func() { waiting <- c.Send(t.Context(), nil) }()
			go func() { waiting <- c.Write(t.Context(), nil) }()
			go func() { waiting <- c.Flush(t.Context()) }()
			synctest.Wait()
			start := time.Now()
			require.NoError(t, end(c))
			for range 4 {
				err := <-waiting
				require.ErrorIs(t, err, tcpclient.ErrClosed)
				require.ErrorIs(t, err, net.ErrClosed)
			}
			require.Zero(t, time.Since(start))
			require.NoError(t, c.Close())
			l.Close()
		}
	}),

	"L12 reconnect while a frame is in the buffer": testkit.InBubble(func(t *testing.T) {
		l := testkit.ListenMemory(t)
		c, p := l.Connect(t, tcpclient.Dialer{Reconnect: &tcpclient.Backoff{}, WriteTimeout: -1})
		for i := range 200 {
			// Half of a frame is on the way, others follow it.
			sent := make(chan error, 1)
			go func() { sent <- c.Send(t.Context(), make([]byte, 100_000)) }()
			synctest.Wait()
			require.NoError(t, c.Write(t.Context(), []byte("lost")))
			if i%2 == 0 {
				p.Reset()
			} else {
				testkit.HangUp(p)
			}
			err := <-sent
			require.ErrorIs(t, err, tcpclient.ErrDisconnected)
			require.False(t, testkit.OpError(t, err).Unsent)
			p = l.AcceptPeer(t)
			err = c.Write(t.Context(), []byte("not taken"))
			require.ErrorIs(t, err, tcpclient.ErrDisconnected)
			require.True(t, testkit.OpError(t, err).Unsent)
			require.NoError(t, c.Send(t.Context(), []byte("whole")))
			require.Equal(t, "whole", p.Receive())
			_, err = c.Receive(t.Context())
			require.ErrorIs(t, err, tcpclient.ErrDisconnected)
		}
	}),

	"L13 reconnect while Receive waits": testkit.InBubble(func(t *testing.T) {
		l := testkit.ListenMemory(t)
		c, p := l.Connect(t, tcpclient.Dialer{Reconnect: &tcpclient.Backoff{}})
		type result struct {
			msg string
			err error
		}
		got := make(chan result)
		for range 4 {
			go func() {
				for {
					msg, err := c.Receive(t.Context())
					got <- result{string(msg), err}
					if errors.Is(err, tcpclient.ErrClosed) {
						return
					}
				}
			}()
		}
		for range 200 {
			synctest.Wait()
			testkit.HangUp(p)
			r := <-got
			require.ErrorIs(t, r.err, tcpclient.ErrDisconnected)
			p = l.AcceptPeer(t)
			p.Send("hello")
			r = <-got
			require.NoError(t, r.err)
			require.Equal(t, "hello", r.msg)
		}
		synctest.Wait()
		require.Empty(t, got)
		go c.Close()
		for range 4 {
			require.ErrorIs(t, (<-got).err, tcpclient.ErrClosed)
		}
	}),

	"L15 callbacks under flapping": func(t *testing.T) {
		l := testkit.ListenTCP(t)
		l.Each(func(conn net.Conn) { conn.Close() })
		rec := testkit.NewRecorder()
		var inside atomic.Int32
		trace := rec.Trace()
		flaps := make(chan struct{})
		count := 0
		next := trace.Disconnected
		trace.Disconnected = func(address string, err error) {
			assert.EqualValues(t, 1, inside.Add(1), "two callbacks at once")
			runtime.Gosched()
			next(address, err)
			inside.Add(-1)
			if count++; count == 1000 {
				close(flaps)
			}
		}
		nextUp := trace.Connected
		trace.Connected = func(address string, attempt int, took time.Duration) {
			assert.EqualValues(t, 1, inside.Add(1), "two callbacks at once")
			runtime.Gosched()
			nextUp(address, attempt, took)
			inside.Add(-1)
		}
		c := l.Dial(t, tcpclient.Dialer{Reconnect: &tcpclient.Backoff{Max: time.Microsecond}, Trace: trace})
		select {
		case <-flaps:
		case <-time.After(testkit.Patience):
			require.Fail(t, "1000 flaps take too long")
		}
		require.NoError(t, c.Close())
		rec.RequireOrder(t, 1)
		require.Equal(t, len(rec.All("Connected")), len(rec.All("Disconnected")))
	},

	"L16 slow callback": testkit.InBubble(func(t *testing.T) {
		l := testkit.ListenMemory(t)
		rec := testkit.NewRecorder()
		trace := rec.Trace()
		block := make(chan struct{})
		next := trace.Connected
		trace.Connected = func(address string, attempt int, took time.Duration) {
			<-block
			next(address, attempt, took)
		}
		pings := testkit.Pinging()
		c, p := l.Connect(t, tcpclient.Dialer{Reconnect: &tcpclient.Backoff{}, Heartbeat: pings, Trace: trace})
		testkit.RequireAlive(t, c, p)
		require.Equal(t, "ping", p.Receive())
		p.Send("pong")
		testkit.HangUp(p)
		p = l.AcceptPeer(t)
		testkit.RequireAliveAfterLoss(t, c, p)
		require.Equal(t, "ping", p.Receive())
		p.Send("pong")
		testkit.RequireAlive(t, c, p)
		require.Empty(t, rec.All("Connected"))
		close(block)
		synctest.Wait()
		require.NoError(t, c.Close())
		rec.RequireOrder(t, 1)
		require.Len(t, rec.All("Connected"), 2)
		require.Len(t, rec.All("Pong"), 2)
	}),

	"B4 timers after many reconnects": testkit.InBubble(func(t *testing.T) {
		// The bubble must end: a goroutine left over would fail the test. A timer left over would
		// let something happen later: nothing must.
		l := testkit.ListenMemory(t)
		dials := 0
		var pings atomic.Int32
		h := testkit.Pinging()
		h.Ping = func() []byte { pings.Add(1); return []byte("ping") }
		inner := new(tcpclient.Dialer)
		l.Setup(inner)
		c, p := l.Connect(t, tcpclient.Dialer{
			Heartbeat: h, FlushDelay: time.Hour, Reconnect: &tcpclient.Backoff{Max: time.Millisecond},
			DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
				dials++
				return inner.DialContext(ctx, network, address)
			},
		})
		reconnects := 10_000
		if testkit.RaceEnabled {
			reconnects = 2000
		}
		for i := range reconnects {
			if i%100 == 0 {
				c.Write(t.Context(), []byte("for the timer of FlushDelay"))
			}
			testkit.HangUp(p)
			p = l.AcceptPeer(t)
		}
		synctest.Wait()
		require.Equal(t, reconnects+1, dials)
		c.Close()
		before := pings.Load()
		time.Sleep(24 * time.Hour)
		synctest.Wait()
		require.Equal(t, reconnects+1, dials)
		require.Equal(t, before, pings.Load())
	}),

	"B10 callbacks in an outage": testkit.InBubble(func(t *testing.T) {
		l := testkit.ListenMemory(t)
		rec := testkit.NewRecorder()
		c, p := l.Connect(t, tcpclient.Dialer{Reconnect: &tcpclient.Backoff{}, Trace: rec.Trace()})
		l.Close()
		testkit.HangUp(p)
		before := len(rec.All())
		time.Sleep(24 * time.Hour)
		synctest.Wait()
		attempts, events := len(rec.All("Connecting")), len(rec.All())
		require.Greater(t, attempts, 4000)
		require.Less(t, attempts, 8000)
		require.LessOrEqual(t, events-before, 3*attempts+3)
		require.NoError(t, c.Close())
	}),
}

// countAttempts runs a Client against an address for some time and counts its attempts.
func countAttempts(t *testing.T, d tcpclient.Dialer, l *testkit.Listener, span time.Duration) int {
	t.Helper()
	attempts := 0
	d.Trace = &tcpclient.Trace{Connecting: func(string, int) { attempts++ }}
	c := l.Dial(t, d)
	time.Sleep(span)
	synctest.Wait()
	require.NoError(t, c.Close())
	return attempts
}
