package tcpclient_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/seed-d0aa0aa7/tcpclient"
	"github.com/seed-d0aa0aa7/tcpclient/tcpclienttest"
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
	closed := start(t, server.Close)
	eventually(t, "the port is closed", func() bool {
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
		rec := newRecorder()
		server := tcpclienttest.NewServer(nil, tcpclienttest.Echo)
		defer func() { server.Close() }()
		d := tcpclient.Dialer{Reconnect: fast(), Trace: rec.trace()}
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
		rec.requireOrder(t, 1)
		require.Len(t, rec.all("Disconnected"), int(s.Connects))
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
		d := tcpclient.Dialer{Reconnect: fast(), TLSConfig: &tls.Config{RootCAs: pool, VerifyConnection: func(s tls.ConnectionState) error {
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
		rec := newRecorder()
		d := tcpclient.Dialer{Reconnect: fast(), TLSConfig: trust, Trace: rec.trace()}
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
		require.True(t, opError(t, err).Unsent)
		require.NoError(t, c.Close())
		failed := rec.all("ConnectFailed")
		require.ErrorAs(t, failed[len(failed)-1].err, &untrusted)
		for _, e := range failed[:len(failed)-1] {
			require.False(t, errors.As(e.err, &untrusted), "not tried again")
		}
	},

	"L19 unclosed Client is garbage": func(t *testing.T) {
		// Its goroutine keeps it alive, and so the connection: nothing magic happens.
		l := listenTCP(t)
		pings := make(chan struct{}, 100)
		conns := make(chan net.Conn, 1)
		l.each(func(conn net.Conn) {
			conns <- conn
			p := newPeer(t, conn)
			for {
				if _, err := p.next(); err != nil {
					close(pings)
					return
				}
				p.Write(frame("pong"))
				pings <- struct{}{}
			}
		})
		func() {
			h := pinging()
			h.Interval, h.Timeout = 10*time.Millisecond, 10*time.Second
			_, err := (&tcpclient.Dialer{Heartbeat: h}).Dial(t.Context(), "tcp", l.Addr().String())
			require.NoError(t, err)
		}()
		for range 5 {
			runtime.GC()
			_, ok := <-pings
			require.True(t, ok)
		}
		hangUp(<-conns) // and without Reconnect that is its end
	},

	"B2 goroutines, descriptors and timers after 10 000 reconnects": faultReconnects, // B3, B4
}

// faultReconnects lets a client reconnect 10 000 times to servers that fail in all
// ways, and wants nothing of that to be left.
func faultReconnects(t *testing.T) {
	reconnects := uint64(10_000)
	if testing.Short() || raceEnabled {
		reconnects = 2000
	}
	inNamespace(t, func(t *testing.T) { // where the ports in TIME_WAIT are nobody's
		l := listenTCP(t)
		var n atomic.Int32
		l.each(func(conn net.Conn) {
			defer hangUp(conn)
			switch n.Add(1) % 8 {
			case 0: // at once
			case 1:
				conn.(*net.TCPConn).SetLinger(0)
			case 2: // inside the handshake's frame
				conn.Write(frame("welcome")[:6])
			case 3: // after a bad one
				conn.Write([]byte("HTTP/1.1 503 Service Unavailable\r\n"))
				io.Copy(io.Discard, conn)
			case 4: // behind the handshake
				conn.Write(frame("welcome"))
			case 5: // with messages
				conn.Write(frames("welcome", "hello", "hello"))
			case 6: // with half of one
				conn.Write(append(frame("welcome"), 0, 0, 0, 9, 'x'))
			case 7: // reset
				conn.Write(frame("welcome"))
				conn.(*net.TCPConn).SetLinger(0)
			}
		})
		run := func(reconnects uint64) {
			h := pinging()
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
			eventually(t, "it has reconnected often", func() bool { return c.Stats().Connects+failed.Load() >= reconnects })
			cancel()
			wg.Wait()
			c.Close()
			require.Greater(t, c.Stats().Connects, reconnects/4)
			require.Greater(t, failed.Load(), reconnects/4)
		}
		run(200) // what is made once
		settled := func() (objects uint64) {
			eventually(t, "the server's goroutines have ended", func() bool { return runtime.NumGoroutine() <= 6 })
			runtime.GC()
			runtime.GC()
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			return m.HeapObjects
		}
		objects, goroutines, files := settled(), runtime.NumGoroutine(), openFiles(t)
		run(reconnects)
		after := settled()
		require.LessOrEqual(t, runtime.NumGoroutine(), goroutines, stacks())
		require.LessOrEqual(t, openFiles(t), files)
		require.Less(t, int64(after)-int64(objects), int64(1500), "a timer or anything else is left of each connection") // also B4
		require.NotContains(t, stacks(), strings.TrimPrefix(module, "github.com/")+".(*Client)")
	})
}
