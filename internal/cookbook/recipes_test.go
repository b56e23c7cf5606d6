package cookbook

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/seed-d0aa0aa7/tcpclient"
	"github.com/seed-d0aa0aa7/tcpclient/internal/testkit"
	"github.com/seed-d0aa0aa7/tcpclient/pool"
	"github.com/seed-d0aa0aa7/tcpclient/tcpclienttest"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// askByHand is what many programs have.
func askByHand(conn net.Conn, r *bufio.Reader, request []byte) ([]byte, error) {
	conn.SetDeadline(time.Now().Add(5 * time.Second)) // when it passes inside a frame, the stream is lost
	frame := binary.BigEndian.AppendUint32(nil, uint32(len(request)))
	if _, err := conn.Write(append(frame, request...)); err != nil {
		return nil, err // has the server seen it?
	}
	header := make([]byte, 4)
	if _, err := io.ReadFull(r, header); err != nil {
		return nil, err // is this the reply to the request before?
	}
	reply := make([]byte, binary.BigEndian.Uint32(header)) // up to 4 GiB, if the peer says so
	_, err := io.ReadFull(r, reply)
	return reply, err
}

// ask is the same with a Client, for any number of goroutines.
func ask(ctx context.Context, c *tcpclient.Client, request []byte) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	return c.Call(ctx, request) // an OpError says whether the server may have seen it
}

func TestByHand(t *testing.T) {
	server := tcpclienttest.NewServer(nil, tcpclienttest.Echo)
	defer server.Close()
	conn, err := net.Dial("tcp", server.Addr)
	require.NoError(t, err)
	defer conn.Close()
	reply, err := askByHand(conn, bufio.NewReader(conn), []byte("hello"))
	require.NoError(t, err)
	require.Equal(t, "hello", string(reply))
	c, err := tcpclient.Dial(t.Context(), "tcp", server.Addr)
	require.NoError(t, err)
	defer c.Close()
	reply, err = ask(t.Context(), c, []byte("hello"))
	require.NoError(t, err)
	require.Equal(t, "hello", string(reply))
}

// A contextDialer is what proxy.SOCKS5 of golang.org/x/net/proxy returns, after a type assertion, and
// what *ssh.Client of golang.org/x/crypto/ssh is.
type contextDialer interface {
	DialContext(ctx context.Context, network, address string) (net.Conn, error)
}

func through(tunnel contextDialer) *tcpclient.Dialer {
	return &tcpclient.Dialer{
		DialContext: tunnel.DialContext, // gets the address as it was given to Dial: the tunnel looks it up
		Heartbeat:   tcpclient.Heartbeat{Interval: 15 * time.Second, Ping: func() []byte { return []byte("ping") }},
		Reconnect:   &tcpclient.Backoff{},
	}
}

func TestThrough(t *testing.T) {
	server := tcpclienttest.NewServer(nil, tcpclienttest.Echo)
	defer server.Close()
	c, err := through(new(net.Dialer)).Dial(t.Context(), "tcp", server.Addr)
	require.NoError(t, err)
	defer c.Close()
	require.Equal(t, "hello", call(t, t.Context(), c, "hello"))
}

// connectVia returns a DialContext that goes through an HTTP proxy: RFC 9110, section 9.3.6.
func connectVia(proxy string) func(ctx context.Context, network, address string) (net.Conn, error) {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := new(net.Dialer).DialContext(ctx, network, proxy)
		if err != nil {
			return nil, err
		}
		stop := context.AfterFunc(ctx, func() { conn.Close() }) // ends what follows
		_, err = fmt.Fprintf(conn, "CONNECT %s HTTP/1.1\r\nHost: %[1]s\r\n\r\n", address)
		var head []byte
		for b := make([]byte, 1); err == nil && !bytes.HasSuffix(head, []byte("\r\n\r\n")); head = append(head, b...) {
			_, err = io.ReadFull(conn, b) // byte by byte: what follows the head is the server's
			if len(head) > 8<<10 {
				err = errors.New("the proxy's answer is too long")
			}
		}
		var status int
		if err == nil {
			_, err = fmt.Sscanf(string(head), "HTTP/1.%d %d", new(int), &status)
		}
		if err == nil && status != http.StatusOK {
			err = fmt.Errorf("the proxy refuses: %d", status)
		}
		if !stop() || err != nil {
			conn.Close()
			return nil, errors.Join(ctx.Err(), err)
		}
		return conn, nil
	}
}

func TestConnectVia(t *testing.T) {
	proxy := func(status string) string {
		l := testkit.ListenTCP(t)
		done := make(chan struct{})
		go func() {
			defer close(done)
			conn, err := l.Accept()
			if err != nil {
				return
			}
			defer conn.Close()
			request, err := http.ReadRequest(bufio.NewReader(conn))
			assert.NoError(t, err)
			assert.Equal(t, "CONNECT plc.test:502", request.Method+" "+request.Host)
			fmt.Fprintf(conn, "HTTP/1.1 %s\r\nVia: test\r\n\r\n%shi", status, hx("00000002"))
			io.Copy(io.Discard, conn)
		}()
		t.Cleanup(func() { l.Close(); <-done })
		return l.Addr().String()
	}
	d := tcpclient.Dialer{DialContext: connectVia(proxy("200 Connection established"))}
	c, err := d.Dial(t.Context(), "tcp", "plc.test:502")
	require.NoError(t, err)
	require.Equal(t, "hi", next(t, t.Context(), c), "what came with the answer")
	require.NoError(t, c.Close())

	d.DialContext = connectVia(proxy("403 Forbidden"))
	_, err = d.Dial(t.Context(), "tcp", "plc.test:502")
	require.ErrorContains(t, err, "the proxy refuses: 403")
}

// withProxyHeader says who the client behind us is: version 1 of the PROXY protocol.
func withProxyHeader(client, server *net.TCPAddr, config *tls.Config) *tcpclient.Dialer {
	family := "TCP4"
	if client.IP.To4() == nil {
		family = "TCP6"
	}
	header := fmt.Sprintf("PROXY %s %s %s %d %d\r\n", family, client.IP, server.IP, client.Port, server.Port)
	return &tcpclient.Dialer{
		Handshake: func(ctx context.Context, conn *tcpclient.Conn) error {
			if _, err := io.WriteString(conn.NetConn(), header); err != nil {
				return err
			}
			if config == nil {
				return nil
			}
			return conn.StartTLS(ctx, config) // the header goes ahead of TLS: not by TLSConfig
		},
	}
}

func TestProxyHeader(t *testing.T) {
	server, client := tcpclienttest.NewTLSConfig()
	at := &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 5000}
	to := &net.TCPAddr{IP: net.IPv4(192, 0, 2, 2), Port: 443}
	header := "PROXY TCP4 192.0.2.1 192.0.2.2 5000 443\r\n"
	for name, config := range map[string]*tls.Config{"in the clear": nil, "with TLS": client} {
		t.Run(name, func(t *testing.T) {
			first := exchange{want: header}
			if config != nil {
				first.tls = server
			}
			talk(t, withProxyHeader(at, to, config), []exchange{first, {want: hx("00000002") + "hi"}}, func(t *testing.T, ctx context.Context, c *tcpclient.Client) {
				require.NoError(t, c.Send(ctx, []byte("hi")))
			})
		})
	}
}

// acceptDevices serves devices that dial us: each is a Client of its own, until it hangs up.
func acceptDevices(ctx context.Context, l net.Listener, serve func(ctx context.Context, name string, c *tcpclient.Client)) error {
	var group sync.WaitGroup
	defer group.Wait()
	for {
		conn, err := l.Accept()
		if err != nil {
			return err
		}
		var name string
		dialer := tcpclient.Dialer{
			DialContext: func(context.Context, string, string) (net.Conn, error) { return conn, nil },
			Heartbeat:   tcpclient.Heartbeat{Interval: time.Minute}, // ends a silent one after two
			Handshake: func(ctx context.Context, conn *tcpclient.Conn) error { // within Dialer.Timeout
				hello, err := conn.Receive(ctx) // a device says first who it is
				name = string(hello)
				return err
			},
		}
		group.Go(func() {
			if c, err := dialer.Dial(ctx, "tcp", conn.RemoteAddr().String()); err == nil {
				defer c.Close()
				serve(ctx, name, c)
			}
		})
	}
}

func TestAcceptDevices(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var network tcpclienttest.Network
		l, err := network.Listen("platform:1")
		require.NoError(t, err)
		said := make(chan string, 2)
		served := make(chan error, 1)
		go func() {
			served <- acceptDevices(t.Context(), l, func(ctx context.Context, name string, c *tcpclient.Client) {
				reply, err := c.Call(ctx, []byte("status?"))
				said <- fmt.Sprint(name, ": ", string(reply), " ", err)
				_, err = c.Receive(ctx)
				said <- fmt.Sprint(name, " silent: ", errors.Is(err, tcpclient.ErrHeartbeatTimeout))
			})
		}()
		device, err := network.DialContext(t.Context(), "tcp", "platform:1")
		require.NoError(t, err)
		defer device.Close()
		r := bufio.NewReader(device)
		io.WriteString(device, hx("00000007")+"pump 17")
		status, err := tcpclient.LengthPrefix{}.ReadFrame(r, nil)
		require.NoError(t, err)
		require.Equal(t, "status?", string(status))
		io.WriteString(device, hx("00000002")+"ok")
		require.Equal(t, "pump 17: ok <nil>", <-said)
		began := time.Now()
		require.Equal(t, "pump 17 silent: true", <-said)
		require.InDelta(t, 120, time.Since(began).Seconds(), 1)
		l.Close()
		require.ErrorIs(t, <-served, net.ErrClosed)
	})
}

// rotating reads the certificate anew for each connection.
func rotating(certFile, keyFile string) *tcpclient.Dialer {
	return &tcpclient.Dialer{
		TLSConfig: &tls.Config{
			GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
				cert, err := tls.LoadX509KeyPair(certFile, keyFile)
				return &cert, err
			},
		},
		Reconnect: &tcpclient.Backoff{},
	}
}

// renew makes a connection with the new certificate. Calls in flight end with that error, and are not
// Unsent: choose a quiet moment.
func renew(c *tcpclient.Client) { c.Disconnect(errRotated) }

var errRotated = errors.New("the certificate has changed")

func TestRotating(t *testing.T) {
	dir, err := os.MkdirTemp("", "rotating") // Wine cannot do what t.TempDir does in the end
	require.NoError(t, err)
	certFile, keyFile := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	t.Cleanup(func() {
		for _, path := range []string{certFile, keyFile, dir} {
			require.NoError(t, os.Remove(path))
		}
	})
	serverConfig, clientConfig := tcpclienttest.NewTLSConfig()
	serverConfig.ClientAuth = tls.RequireAnyClientCert
	first := writeCertificate(t, certFile, keyFile)

	seen := make(chan string, 2)
	l := testkit.ListenTCP(t)
	server := tcpclienttest.NewServerOn(tls.NewListener(l.Listener, serverConfig), nil, func(conn *tcpclienttest.Conn) {
		msg, err := conn.Receive()
		if err != nil {
			return
		}
		seen <- string(conn.NetConn().(*tls.Conn).ConnectionState().PeerCertificates[0].Raw)
		conn.Send(msg)
		tcpclienttest.Echo(conn)
	})
	defer server.Close()
	d := rotating(certFile, keyFile)
	d.TLSConfig.RootCAs = clientConfig.RootCAs
	c, err := d.Dial(t.Context(), "tcp", server.Addr)
	require.NoError(t, err)
	defer c.Close()
	require.Equal(t, "a", call(t, t.Context(), c, "a"))
	require.Equal(t, first, <-seen)

	second := writeCertificate(t, certFile, keyFile)
	renew(c)
	_, err = c.Receive(t.Context())
	require.ErrorIs(t, err, errRotated)
	require.Equal(t, "b", call(t, t.Context(), c, "b"))
	require.Equal(t, second, <-seen)
}

// A dump writes all bytes of a connection to a log, in hexadecimal digits.
type dump struct {
	net.Conn
	mu  *sync.Mutex // of log
	log io.Writer
}

func (d dump) Read(p []byte) (int, error) {
	n, err := d.Conn.Read(p)
	d.print("<", p[:n])
	return n, err
}

func (d dump) Write(p []byte) (int, error) {
	n, err := d.Conn.Write(p)
	d.print(">", p[:n])
	return n, err
}

func (d dump) print(direction string, p []byte) {
	d.mu.Lock()
	defer d.mu.Unlock()
	fmt.Fprintf(d.log, "%s %s\n%s", time.Now().Format("15:04:05.000000"), direction, hex.Dump(p))
}

// RealDeadlines says that the wrapper keeps what a socket keeps.
func (d dump) RealDeadlines() bool { return runtime.GOOS != "windows" }

// NetConn leads to the socket, for Nagle and UserTimeout.
func (d dump) NetConn() net.Conn { return d.Conn }

func dumping(log io.Writer) *tcpclient.Dialer {
	var mu sync.Mutex
	return &tcpclient.Dialer{
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			conn, err := new(net.Dialer).DialContext(ctx, network, address)
			if err != nil {
				return nil, err
			}
			return dump{conn, &mu, log}, nil
		},
	}
}

// A printer prints whole messages, with TLS in the clear.
type printer struct {
	tcpclient.Framer
	print func(direction string, msg []byte) // borrows msg, and must be fast: it runs under a lock
}

func (p printer) ReadFrame(r *bufio.Reader, dst []byte) ([]byte, error) {
	msg, err := p.Framer.ReadFrame(r, dst)
	if err == nil {
		p.print("<", msg[len(dst):])
	}
	return msg, err
}

func (p printer) WriteFrame(w *bufio.Writer, msg []byte) error {
	err := p.Framer.WriteFrame(w, msg)
	if err == nil {
		p.print(">", msg)
	}
	return err
}

func TestDump(t *testing.T) {
	server := tcpclienttest.NewServer(nil, tcpclienttest.Echo)
	defer server.Close()
	var bytes, messages strings.Builder
	d := dumping(&bytes)
	d.Framer = printer{tcpclient.LengthPrefix{}, func(direction string, msg []byte) {
		fmt.Fprintf(&messages, "%s%s ", direction, msg)
	}}
	c, err := d.Dial(t.Context(), "tcp", server.Addr)
	require.NoError(t, err)
	require.Equal(t, "hello", call(t, t.Context(), c, "hello"))
	require.NoError(t, c.Close())
	require.Equal(t, 2, strings.Count(bytes.String(), "00 00 00 05 68 65 6c 6c  6f"), bytes.String())
	require.Equal(t, ">hello <hello ", messages.String())
	require.NoError(t, tcpclienttest.TestFramer(printer{tcpclient.LengthPrefix{}, func(string, []byte) {}}, []byte("a"), []byte("bc")))
}

// callSafely repeats a request as long as the server has certainly not seen it.
func callSafely(ctx context.Context, c *tcpclient.Client, request []byte) ([]byte, error) {
	for {
		reply, err := c.Call(ctx, request) // waits for the next connection
		var op *tcpclient.OpError
		switch {
		case err == nil:
			return reply, nil
		case !errors.As(err, &op) || !op.Unsent: // the server may have done it: ask before you repeat it
			return nil, err
		case tcpclient.Classify(err) != tcpclient.ClassDisconnected: // your context, or a request that is refused
			return nil, err
		}
	}
}

func TestCallSafely(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var network tcpclienttest.Network
		l, err := network.Listen("bank:1")
		require.NoError(t, err)
		server := tcpclienttest.NewServerOn(l, nil, func(conn *tcpclienttest.Conn) {
			for msg := range conn.Messages() {
				if string(msg) == "crash" {
					return
				}
				conn.Send(msg)
			}
		})
		defer server.Close()
		d := tcpclient.Dialer{DialContext: network.DialContext, Reconnect: &tcpclient.Backoff{}}
		c, err := d.Dial(t.Context(), "tcp", server.Addr)
		require.NoError(t, err)
		defer c.Close()

		require.NoError(t, c.Write(t.Context(), []byte("never flushed")))
		synctest.Wait()
		server.CloseConnections()
		synctest.Wait()
		_, err = c.Receive(t.Context())
		require.ErrorIs(t, err, tcpclient.ErrDisconnected)
		reply, err := callSafely(t.Context(), c, []byte("pay")) // its first attempt reports the loss
		require.NoError(t, err)
		require.Equal(t, "pay", string(reply))

		_, err = callSafely(t.Context(), c, []byte("crash"))
		var op *tcpclient.OpError
		require.ErrorAs(t, err, &op)
		require.False(t, op.Unsent)
		require.EqualValues(t, 2, c.Stats().Connects)
	})
}

// journaling tells of replies that came after their callers had given up.
func journaling(late func(reply []byte)) *tcpclient.Dialer {
	return &tcpclient.Dialer{
		Correlator:   tcpclient.IDPrefix{},
		MaxInFlight:  1000,             // given up or not: lost replies cannot take all memory
		ReplyTimeout: 30 * time.Second, // then the connection ends, and with it the doubt
		Reconnect:    &tcpclient.Backoff{},
		Trace:        &tcpclient.Trace{LateReply: late}, // without the 8 bytes of the id
	}
}

func TestJournaling(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var network tcpclienttest.Network
		l, err := network.Listen("bank:1")
		require.NoError(t, err)
		server := tcpclienttest.NewServerOn(l, nil, func(conn *tcpclienttest.Conn) {
			for msg := range conn.Messages() {
				time.Sleep(3 * time.Second)
				conn.Send(append(msg, " approved"...))
			}
		})
		defer server.Close()
		journal := make(chan string, 1)
		d := journaling(func(reply []byte) { journal <- string(reply) })
		d.DialContext = network.DialContext
		c, err := d.Dial(t.Context(), "tcp", server.Addr)
		require.NoError(t, err)
		defer c.Close()
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		_, err = c.Call(ctx, []byte("4711"))
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.Equal(t, "4711 approved", <-journal)
		require.EqualValues(t, 1, c.Stats().LateReplies)
	})
}

// A shipper takes log lines and never blocks its program: what finds no room is counted.
type shipper struct {
	lines   chan []byte
	Dropped atomic.Uint64 // no room
	Lost    atomic.Uint64 // written, and lost with a connection
}

func newShipper(room int) *shipper { return &shipper{lines: make(chan []byte, room)} }

// Log never blocks.
func (s *shipper) Log(line []byte) {
	select {
	case s.lines <- bytes.Clone(line):
	default:
		s.Dropped.Add(1)
	}
}

// Run ships until ctx ends. The Dialer has a FlushDelay and Reconnect.
func (s *shipper) Run(ctx context.Context, c *tcpclient.Client) error {
	for {
		select {
		case line := <-s.lines:
			if err := s.write(ctx, c, line); err != nil {
				return err
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (s *shipper) write(ctx context.Context, c *tcpclient.Client, line []byte) error {
	for {
		err := c.Write(ctx, line) // when it fails, the line was not taken
		if loss := (*tcpclient.LossError)(nil); errors.As(err, &loss) {
			s.Lost.Add(uint64(loss.Messages))
		}
		switch tcpclient.Classify(err) {
		case tcpclient.ClassDisconnected: // again: waits for the next connection
		case tcpclient.ClassPermanent:
			if !errors.Is(err, tcpclient.ErrInvalidFrame) {
				return err
			}
			s.Dropped.Add(1) // a line with a line end in it
			return nil
		default:
			return err // nil, or that of ctx
		}
	}
}

func TestShipper(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var network tcpclienttest.Network
		l, err := network.Listen("logs:1")
		require.NoError(t, err)
		received := make(chan string, 100)
		server := tcpclienttest.NewServerOn(l, tcpclient.Lines{}, func(conn *tcpclienttest.Conn) {
			for msg := range conn.Messages() {
				received <- string(msg)
			}
		})
		defer server.Close()
		d := tcpclient.Dialer{DialContext: network.DialContext, Framer: tcpclient.Lines{}, FlushDelay: 100 * time.Millisecond, Reconnect: &tcpclient.Backoff{}}
		c, err := d.Dial(t.Context(), "tcp", server.Addr)
		require.NoError(t, err)
		defer c.Close()
		s := newShipper(2)
		ctx, cancel := context.WithCancel(t.Context())
		ran := make(chan error, 1)
		for i := range 3 {
			s.Log(fmt.Appendf(nil, "line %d", i))
		}
		require.EqualValues(t, 1, s.Dropped.Load())
		go func() { ran <- s.Run(ctx, c) }()
		require.Equal(t, "line 0", <-received)
		require.Equal(t, "line 1", <-received)
		s.Log([]byte("two\nlines"))
		s.Log([]byte("lost"))
		synctest.Wait()
		require.EqualValues(t, 2, s.Dropped.Load())
		server.CloseConnections() // before the FlushDelay
		synctest.Wait()
		s.Log([]byte("after"))
		require.Equal(t, "after", <-received)
		require.EqualValues(t, 1, s.Lost.Load())
		cancel()
		require.ErrorIs(t, <-ran, context.Canceled)
	})
}

// metrics are functions for any library: monotonic counters and gauges by name.
func metrics(c *tcpclient.Client) (counters, gauges map[string]func() float64) {
	count := func(n func(s tcpclient.Stats) uint64) func() float64 {
		return func() float64 { return float64(n(c.Stats())) }
	}
	counters = map[string]func() float64{
		"messages_received_total": count(func(s tcpclient.Stats) uint64 { return s.MessagesReceived }),
		"messages_sent_total":     count(func(s tcpclient.Stats) uint64 { return s.MessagesSent }),
		"messages_lost_total":     count(func(s tcpclient.Stats) uint64 { return s.MessagesLost }),
		"connects_total":          count(func(s tcpclient.Stats) uint64 { return s.Connects }),
		"late_replies_total":      count(func(s tcpclient.Stats) uint64 { return s.LateReplies }),
	}
	gauges = map[string]func() float64{
		"rtt_seconds": func() float64 { return c.Stats().RTT.Seconds() },
		"in_flight":   func() float64 { return float64(c.Stats().InFlight) },
		"inbox_bytes": func() float64 { return float64(c.Stats().InboxBytes) },
	}
	return counters, gauges
}

func TestMetrics(t *testing.T) {
	server := tcpclienttest.NewServer(nil, tcpclienttest.Echo)
	defer server.Close()
	c, err := tcpclient.Dial(t.Context(), "tcp", server.Addr)
	require.NoError(t, err)
	defer c.Close()
	require.Equal(t, "hello", call(t, t.Context(), c, "hello"))
	counters, gauges := metrics(c)
	require.EqualValues(t, 1, counters["messages_received_total"]())
	require.EqualValues(t, 1, counters["messages_sent_total"]())
	require.EqualValues(t, 1, counters["connects_total"]())
	require.Zero(t, gauges["in_flight"]())
}

// thermometer is a device that answers "T?" and is slow now and then.
func thermometer(conn *tcpclienttest.Conn) {
	readings := 0
	for request := range conn.Messages() {
		if string(request) != "T?" {
			conn.Send([]byte("ERR"))
			continue
		}
		if readings++; readings%10 == 0 {
			time.Sleep(5 * time.Second) // it calibrates itself
		}
		conn.Send(fmt.Appendf(nil, "%.1f", 20+float64(readings)/10))
	}
}

// badLine is a radio link: 4 bytes at a time, and dead after 20 bytes.
var badLine = tcpclienttest.Faults{
	Read: tcpclienttest.Fault{Chunk: 4, Pause: 50 * time.Millisecond, After: 20, Then: tcpclienttest.Drop},
}

// A login that is written down. Server.Close returns an error if the client says anything else.
var loginScript = tcpclienttest.Script(
	tcpclienttest.Step{Reply: []string{"READY"}},
	tcpclienttest.Step{Expect: "LOGIN me", Reply: []string{"OK"}, Then: thermometer},
)

// readings is the program under test: it reads a temperature every minute, and gives up after 3 s.
func readings(ctx context.Context, c *tcpclient.Client, n int, report func(string)) {
	for range n {
		call, cancel := context.WithTimeout(ctx, 3*time.Second)
		reply, err := c.Call(call, []byte("T?"))
		cancel()
		if err != nil {
			reply = []byte("no reading")
		}
		report(string(reply))
		time.Sleep(time.Minute)
	}
}

func TestReadingsInVirtualTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // twelve minutes that take no time
		var network tcpclienttest.Network
		listener, err := network.Listen("device:1")
		require.NoError(t, err)
		server := tcpclienttest.NewServerOn(listener, tcpclient.Lines{}, thermometer)
		defer server.Close()
		dialer := tcpclient.Dialer{DialContext: network.DialContext, Framer: tcpclient.Lines{}}
		client, err := dialer.Dial(t.Context(), "tcp", server.Addr)
		require.NoError(t, err)
		defer client.Close()

		var got []string
		readings(t.Context(), client, 12, func(s string) { got = append(got, s) })
		require.Equal(t, "20.9 no reading 21.1", strings.Join(got[8:11], " "))
		require.EqualValues(t, 1, client.Stats().LateReplies)
	})
}

func TestDevice(t *testing.T) {
	t.Run("a login by script", func(t *testing.T) {
		server := tcpclienttest.NewServer(tcpclient.Lines{}, loginScript)
		d := tcpclient.Dialer{Framer: tcpclient.Lines{}, Handshake: func(ctx context.Context, conn *tcpclient.Conn) error {
			_, err := conn.Receive(ctx)
			if err == nil {
				err = conn.Send(ctx, []byte("LOGIN me"))
			}
			if err == nil {
				_, err = conn.Receive(ctx)
			}
			return err
		}}
		c, err := d.Dial(t.Context(), "tcp", server.Addr)
		require.NoError(t, err)
		require.Equal(t, "20.1", call(t, t.Context(), c, "T?"))
		require.NoError(t, c.Close())
		require.NoError(t, server.Close())
	})
	t.Run("a bad line", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			var network tcpclienttest.Network
			l, err := network.Listen("device:1")
			require.NoError(t, err)
			server := tcpclienttest.NewServerOn(l, tcpclient.Lines{}, thermometer)
			defer server.Close()
			d := tcpclient.Dialer{
				DialContext:  badLine.DialContext(network.DialContext),
				Framer:       tcpclient.Lines{},
				ReplyTimeout: 10 * time.Second,
			}
			c, err := d.Dial(t.Context(), "tcp", server.Addr)
			require.NoError(t, err)
			defer c.Close()
			for range 4 {
				call(t, t.Context(), c, "T?")
			}
			_, err = c.Call(t.Context(), []byte("T?"))
			require.ErrorIs(t, err, tcpclient.ErrReplyTimeout)
		})
	})
}

// slowServers spreads requests over four connections to each of the servers that answer in order.
func slowServers(ctx context.Context, addresses ...string) (*pool.Pool, error) {
	dialer := tcpclient.Dialer{
		Framer:       tcpclient.Lines{},
		MaxInFlight:  1, // on each connection: what has to wait, waits in the program
		ReplyTimeout: time.Minute,
		Reconnect:    &tcpclient.Backoff{Max: 10 * time.Second},
	}
	return pool.Dial(ctx, &dialer, "tcp", 4, addresses...)
}

func TestSlowServers(t *testing.T) {
	a, b := tcpclienttest.NewServer(tcpclient.Lines{}, tcpclienttest.Echo), tcpclienttest.NewServer(tcpclient.Lines{}, tcpclienttest.Echo)
	defer a.Close()
	defer b.Close()
	p, err := slowServers(t.Context(), a.Addr, b.Addr)
	require.NoError(t, err)
	defer p.Close()
	require.Len(t, p.Clients(), 2*4)
	var group sync.WaitGroup
	for i := range 64 {
		group.Go(func() {
			reply, err := p.Call(t.Context(), fmt.Appendf(nil, "%d", i))
			assert.NoError(t, err)
			assert.Equal(t, fmt.Sprint(i), string(reply))
		})
	}
	group.Wait()
}

// writeCertificate makes a new one and returns it in DER.
func writeCertificate(t *testing.T, certFile, keyFile string) string {
	t.Helper()
	config, _ := tcpclienttest.NewTLSConfig()
	cert, key := encodeCertificate(t, config.Certificates[0])
	require.NoError(t, os.WriteFile(certFile, cert, 0o600))
	require.NoError(t, os.WriteFile(keyFile, key, 0o600))
	return string(config.Certificates[0].Certificate[0])
}

func encodeCertificate(t *testing.T, cert tls.Certificate) (certPEM, keyPEM []byte) {
	t.Helper()
	key, err := x509.MarshalPKCS8PrivateKey(cert.PrivateKey)
	require.NoError(t, err)
	certPEM = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Certificate[0]})
	return certPEM, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key})
}
