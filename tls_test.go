package tcpclient_test

import (
	"bytes"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/tls"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/seed-d0aa0aa7/tcpclient"
	"github.com/seed-d0aa0aa7/tcpclient/internal/testkit"
	"github.com/seed-d0aa0aa7/tcpclient/tcpclienttest"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// What TLS makes the reader write, and what it makes a writer wait for.

// A recordSide is one direction of a TLS connection with AES_128_GCM_SHA256: it makes records,
// or opens them. RFC 8446, 5 and 7; RFC 5246, 6, with RFC 5288.
type recordSide struct {
	t      testing.TB
	tls12  bool
	secret []byte // TLS 1.3: the traffic secret
	aead   cipher.AEAD
	iv     []byte
	seq    uint64
}

func (s *recordSide) setKey(key, iv []byte) {
	block, err := aes.NewCipher(key)
	require.NoError(s.t, err)
	s.aead, err = cipher.NewGCM(block)
	require.NoError(s.t, err)
	s.iv, s.seq = iv, 0
}

// setSecret begins a generation of TLS 1.3 keys.
func (s *recordSide) setSecret(secret []byte) {
	s.secret = secret
	s.setKey(s.expand("key", 16), s.expand("iv", 12))
}

// expand is HKDF-Expand-Label with an empty context.
func (s *recordSide) expand(label string, length int) []byte {
	label = "tls13 " + label
	info := fmt.Sprintf("\x00%c%c%s\x00", length, len(label), label)
	key, err := hkdf.Expand(sha256.New, s.secret, info, length)
	require.NoError(s.t, err)
	return key
}

func (s *recordSide) nonce() []byte {
	nonce := binary.BigEndian.AppendUint64(make([]byte, 4, 12), s.seq)
	if s.tls12 {
		return append(bytes.Clone(s.iv), nonce[4:]...)
	}
	for i := range nonce {
		nonce[i] ^= s.iv[i]
	}
	return nonce
}

// seal is content as one record.
func (s *recordSide) seal(kind byte, content ...byte) []byte {
	defer func() { s.seq++ }()
	if s.tls12 {
		header := binary.BigEndian.AppendUint16([]byte{kind, 3, 3}, uint16(8+len(content)+s.aead.Overhead()))
		data := binary.BigEndian.AppendUint64(nil, s.seq)
		data = binary.BigEndian.AppendUint16(append(data, kind, 3, 3), uint16(len(content)))
		return s.aead.Seal(append(header, s.nonce()[4:]...), s.nonce(), content, data)
	}
	inner := append(bytes.Clone(content), kind)
	header := binary.BigEndian.AppendUint16([]byte{dataType, 3, 3}, uint16(len(inner)+s.aead.Overhead()))
	return append(header, s.aead.Seal(nil, s.nonce(), inner, header)...)
}

// keyUpdate is the record that changes our keys, and may ask the peer to change its own.
func (s *recordSide) keyUpdate(request byte) []byte {
	record := s.seal(handshakeType, 24, 0, 0, 1, request)
	s.setSecret(s.expand("traffic upd", sha256.Size))
	return record
}

func (s *recordSide) closeNotify() []byte { return s.seal(alertType, 1, 0) }

// next opens the next record of TLS 1.3 that r has, and follows the peer's key updates.
func (s *recordSide) next(r io.Reader) (kind byte, content []byte, err error) {
	header := make([]byte, 5)
	if _, err := io.ReadFull(r, header); err != nil {
		return 0, nil, err
	}
	sealed := make([]byte, binary.BigEndian.Uint16(header[3:]))
	if _, err := io.ReadFull(r, sealed); err != nil {
		return 0, nil, err
	}
	inner, err := s.aead.Open(nil, s.nonce(), sealed, header)
	if err != nil {
		return 0, nil, err
	}
	s.seq++
	inner = bytes.TrimRight(inner, "\x00")
	kind, content = inner[len(inner)-1], inner[:len(inner)-1]
	if kind == handshakeType && content[0] == 24 {
		s.setSecret(s.expand("traffic upd", sha256.Size))
	}
	return kind, content, nil
}

const (
	alertType     = 21
	handshakeType = 22
	dataType      = 23
)

// A tapped is the connection of a listener, which keeps what is written on it.
type tapped struct {
	net.Conn
	wrote bytes.Buffer
}

func (t *tapped) Write(p []byte) (int, error) {
	t.wrote.Write(p)
	return t.Conn.Write(p)
}

// A recordPeer is a TLS server that has made the handshake, and from then on writes and reads
// records of its own making.
type recordPeer struct {
	*testkit.Peer
	out, in *recordSide
}

// connectTLS makes a Client on TLS of that version, with a recordPeer. Of d's TLSConfig it takes
// Renegotiation.
func connectTLS(t testing.TB, version uint16, l *testkit.Listener, d tcpclient.Dialer) (*tcpclient.Client, *recordPeer) {
	t.Helper()
	return connectTLSBy(t, version, l, d, func(d *tcpclient.Dialer, config *tls.Config) { d.TLSConfig = config })
}

// connectTLSBy is connectTLS with another way to use a configuration.
func connectTLSBy(t testing.TB, version uint16, l *testkit.Listener, d tcpclient.Dialer, use func(d *tcpclient.Dialer, config *tls.Config)) (*tcpclient.Client, *recordPeer) {
	t.Helper()
	var keys bytes.Buffer
	server, client := tcpclienttest.NewTLSConfig()
	server.KeyLogWriter = &keys
	server.MaxVersion = version
	server.SessionTicketsDisabled = true // they would be the first records
	server.CipherSuites = []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256}
	client.ServerName = "localhost"
	if d.TLSConfig != nil {
		client.Renegotiation = d.TLSConfig.Renegotiation
		d.TLSConfig = nil
	}
	use(&d, client)

	accepted := make(chan *tapped, 1)
	go func() {
		defer close(accepted)
		raw, err := l.Accept()
		if err != nil {
			return
		}
		tap := &tapped{Conn: raw}
		if tls.Server(tap, server).Handshake() != nil {
			raw.Close()
			return
		}
		accepted <- tap
	}()
	c := l.Dial(t, d)
	tap := <-accepted
	require.NotNil(t, tap, "the server's handshake failed")
	p := &recordPeer{Peer: testkit.NewPeer(t, tap.Conn), out: &recordSide{t: t}, in: &recordSide{t: t}}
	secrets := make(map[string][]string)
	for line := range strings.Lines(keys.String()) {
		words := strings.Fields(line)
		secrets[words[0]] = words[1:]
	}
	secret := func(label string) []byte {
		require.Len(t, secrets[label], 2, "%s in %s", label, keys.String())
		return fromHex(t, secrets[label][1])
	}
	if version == tls.VersionTLS13 {
		p.out.setSecret(secret("SERVER_TRAFFIC_SECRET_0"))
		p.in.setSecret(secret("CLIENT_TRAFFIC_SECRET_0"))
		return c, p
	}
	master := secret("CLIENT_RANDOM")
	serverRandom := tap.wrote.Bytes()[11:43] // record, message and version come before it
	block := prf12(master, "key expansion", append(serverRandom[:32:32], fromHex(t, secrets["CLIENT_RANDOM"][0])...), 40)
	p.out.tls12 = true
	p.out.setKey(block[16:32], block[36:40])
	p.out.seq = 1 // after Finished
	return c, p
}

func fromHex(t testing.TB, s string) []byte {
	b, err := hex.DecodeString(s)
	require.NoError(t, err)
	return b
}

// prf12 is the PRF of TLS 1.2.
func prf12(secret []byte, label string, seed []byte, length int) (out []byte) {
	mac := func(parts ...[]byte) []byte {
		h := hmac.New(sha256.New, secret)
		for _, p := range parts {
			h.Write(p)
		}
		return h.Sum(nil)
	}
	seed = append([]byte(label), seed...)
	for a := mac(seed); len(out) < length; a = mac(a) {
		out = append(out, mac(a, seed)...)
	}
	return out[:length]
}

// skipUnlessAES skips where these records cannot be made.
func skipUnlessAES(t testing.TB) {
	var suite uint16
	l := testkit.ListenTLS(t)
	c, p := l.Connect(t, tcpclient.Dialer{})
	suite = p.Conn.(*tls.Conn).ConnectionState().CipherSuite
	require.NoError(t, c.Close())
	if suite != tls.TLS_AES_128_GCM_SHA256 {
		t.Skipf("this system prefers %s, which these records are not made with", tls.CipherSuiteName(suite))
	}
}

// helloRequest begins a renegotiation (RFC 5246, 7.4.1.1).
func (p *recordPeer) helloRequest() { p.Raw(p.out.seal(handshakeType, 0, 0, 0, 0)) }

// sendRecord writes messages as one record.
func (p *recordPeer) sendRecord(msgs ...string) {
	p.Raw(p.out.seal(dataType, testkit.Frames(msgs...)...))
}

// awaitRecord waits until the client has sent another record of TLS 1.2.
func (p *recordPeer) awaitRecord(t testing.TB, kind byte) {
	t.Helper()
	header := make([]byte, 5)
	_, err := io.ReadFull(p.In, header)
	require.NoError(t, err)
	require.Equal(t, kind, header[0])
}

func TestRenegotiation(t *testing.T) {
	testkit.SkipIfShort(t)
	stalled := func(t *testing.T, d tcpclient.Dialer) (*tcpclient.Client, *recordPeer) {
		d.TLSConfig = &tls.Config{Renegotiation: tls.RenegotiateFreelyAsClient}
		c, p := connectTLS(t, tls.VersionTLS12, testkit.ListenTCP(t), d)
		p.sendRecord("before")
		msg, err := c.Receive(t.Context())
		require.NoError(t, err)
		require.Equal(t, "before", string(msg))
		p.helloRequest()
		p.awaitRecord(t, handshakeType) // its ClientHello
		return c, p
	}

	t.Run("that stalls is no proof of life, and ends with the heartbeat's verdict", func(t *testing.T) { // P5, FIELD F3
		const timeout = 200 * time.Millisecond
		watch := testkit.StartStopwatch(t)
		c, _ := stalled(t, tcpclient.Dialer{Heartbeat: tcpclient.Heartbeat{
			Interval: timeout / 2, Timeout: timeout, Ping: func() []byte { return []byte("ping") },
		}})
		_, err := c.Receive(t.Context())
		require.ErrorIs(t, err, tcpclient.ErrHeartbeatTimeout)
		require.GreaterOrEqual(t, watch.Elapsed(), timeout)
		require.Less(t, watch.Ran(), testkit.CloseTime, "the verdict is late")
		testkit.RequireFast(t, "Close", func() { require.NoError(t, c.Close()) })
		testkit.RequireNoGoroutines(t)
	})

	t.Run("that stalls lets Send return with its context", func(t *testing.T) { // P2, FIELD F3
		c, _ := stalled(t, tcpclient.Dialer{})
		const patience = 50 * time.Millisecond
		fastest := time.Hour
		watch := testkit.StartStopwatch(t)
		for range 5 {
			began := watch.Ran()
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			err := c.Send(ctx, []byte("x"))
			fastest = min(fastest, watch.Ran()-began)
			cancel()
			require.ErrorIs(t, err, context.DeadlineExceeded)
			require.False(t, testkit.OpError(t, err).Unsent, "it is still sent when the handshake is over")
		}
		require.Less(t, fastest, patience+20*time.Millisecond)
	})

	for name, write := range map[string]func(t *testing.T, c *tcpclient.Client) (lost bool){
		"with nothing to write": func(*testing.T, *tcpclient.Client) bool { return false },
		"after a Write": func(t *testing.T, c *tcpclient.Client) bool {
			require.NoError(t, c.Write(t.Context(), []byte("x")))
			return true
		},
		"after a Send that waits": func(t *testing.T, c *tcpclient.Client) bool {
			c.Send(testkit.Within(t, 10*time.Millisecond), []byte("x"))
			return true
		},
	} {
		t.Run("that stalls does not hold up Close "+name, func(t *testing.T) { // P4, P7, FIELD F3
			c, _ := stalled(t, tcpclient.Dialer{})
			lost := write(t, c)
			watch := testkit.StartStopwatch(t)
			err := c.Close()
			require.Less(t, watch.Ran(), time.Second)
			if lost {
				require.ErrorContains(t, err, "are lost")
			} else {
				require.NoError(t, err)
			}
			testkit.RequireNoGoroutines(t)
		})
	}

	t.Run("that stalls does not hold up Shutdown after its context", func(t *testing.T) { // P2, P7
		c, _ := stalled(t, tcpclient.Dialer{})
		require.NoError(t, c.Write(t.Context(), []byte("x")))
		watch := testkit.StartStopwatch(t)
		err := c.Shutdown(testkit.Within(t, 50*time.Millisecond))
		require.Less(t, watch.Ran(), time.Second)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.ErrorContains(t, err, "are lost")
		testkit.RequireNoGoroutines(t)
	})

	t.Run("that stalls makes no end in order of a Shutdown that has nothing to flush", func(t *testing.T) { // P2, P9
		c, _ := stalled(t, tcpclient.Dialer{})
		require.ErrorIs(t, c.Shutdown(testkit.Within(t, 50*time.Millisecond)), context.DeadlineExceeded)
		testkit.RequireNoGoroutines(t)
	})

	t.Run("that fails ends the connection with what TLS says", func(t *testing.T) { // P9
		c, p := stalled(t, tcpclient.Dialer{})
		sent := testkit.Start(t, func() error { return c.Send(t.Context(), []byte("x")) })
		p.Raw(p.out.seal(alertType, 2, 40)) // handshake_failure
		err := sent()
		require.ErrorIs(t, err, tcpclient.ErrDisconnected)
		require.ErrorContains(t, err, "handshake failure")
		require.True(t, testkit.OpError(t, err).Unsent)
		_, end := testkit.ReceiveAll(t, c)
		require.ErrorContains(t, end, "handshake failure")
	})

	t.Run("that is off ends the connection, and the server learns why", func(t *testing.T) { // P9
		c, p := connectTLS(t, tls.VersionTLS12, testkit.ListenTCP(t), tcpclient.Dialer{})
		p.helloRequest()
		_, err := c.Receive(t.Context())
		require.ErrorIs(t, err, tcpclient.ErrDisconnected)
		require.ErrorContains(t, err, "no renegotiation")
		p.awaitRecord(t, alertType)
	})
}

// linked runs test on the ways that bytes take below TLS: a socket that is asked what it takes at
// once, and a connection in memory, where a helper writes all.
func linked(t *testing.T, test func(t *testing.T, l *testkit.Listener)) {
	t.Run("tcp", func(t *testing.T) { test(t, testkit.ListenTCP(t)) })
	t.Run("memory", func(t *testing.T) { test(t, testkit.ListenMemory(t)) })
}

// connectTLS13 is connectTLS for TLS 1.3, with wrap around the client's connection.
func connectTLS13(t testing.TB, l *testkit.Listener, d tcpclient.Dialer, wrap func(net.Conn) net.Conn) (*tcpclient.Client, *recordPeer) {
	t.Helper()
	if wrap != nil {
		l.Setup(&d)
		d.DialContext = testkit.Wrapping(d.DialContext, wrap)
	}
	return connectTLS(t, tls.VersionTLS13, l, d)
}

// requireRecord wants the next record to be of that kind, and returns its content.
func (p *recordPeer) requireRecord(kind byte) []byte {
	p.out.t.Helper()
	got, content, err := p.in.next(p.In)
	require.NoError(p.out.t, err)
	require.Equal(p.out.t, kind, got, "content % x", content)
	return content
}

// data returns the application data until the end of the stream, and the kinds of the records.
func (p *recordPeer) data() (data []byte, kinds []byte, end error) {
	for {
		kind, content, err := p.in.next(p.In)
		if err != nil {
			return data, kinds, err
		}
		kinds = append(kinds, kind)
		if kind == dataType {
			data = append(data, content...)
		}
	}
}

func TestKeyUpdate(t *testing.T) {
	skipUnlessAES(t)

	t.Run("is answered at once by a client that has nothing else to write", func(t *testing.T) { // P5
		linked(t, func(t *testing.T, l *testkit.Listener) {
			c, p := connectTLS13(t, l, tcpclient.Dialer{}, nil)
			p.Raw(p.out.keyUpdate(1))
			p.requireRecord(handshakeType)
			require.NoError(t, c.Send(t.Context(), []byte("with new keys")))
			require.Equal(t, testkit.Frame("with new keys"), p.requireRecord(dataType))
			p.sendRecord("here, too")
			msg, err := c.Receive(t.Context())
			require.NoError(t, err)
			require.Equal(t, "here, too", string(msg))
		})
	})

	t.Run("does not flush what was written, and stays in order with it", func(t *testing.T) { // P3
		linked(t, func(t *testing.T, l *testkit.Listener) {
			c, p := connectTLS13(t, l, tcpclient.Dialer{}, nil)
			require.NoError(t, c.Write(t.Context(), []byte("written")))
			p.Raw(p.out.keyUpdate(1))
			p.requireRecord(handshakeType)
			require.Zero(t, c.Stats().Flushes)
			require.NoError(t, c.Flush(t.Context()))
			require.Equal(t, testkit.Frame("written"), p.requireRecord(dataType))
		})
	})

	t.Run("is answered between two records of a batch that is being written", func(t *testing.T) { // P1, P3
		const records = 12 // three rounds of encrypting
		msg := testkit.Pattern(records << 14)
		var w *testkit.HookedConn
		inside, letGo := make(chan struct{}), make(chan struct{})
		c, p := connectTLS13(t, testkit.ListenTCP(t), tcpclient.Dialer{}, func(conn net.Conn) net.Conn {
			w = &testkit.HookedConn{Conn: conn}
			return w
		})
		calls := 0
		w.OnWrite = func(b []byte) (int, error) {
			if calls++; calls == 1 {
				close(inside)
				<-letGo
			}
			return w.Conn.Write(b)
		}
		sent := testkit.Start(t, func() error { return c.Send(t.Context(), msg) })
		<-inside
		p.Raw(p.out.keyUpdate(1))
		p.sendRecord("the reader goes on") // and so it has answered
		got, err := c.Receive(t.Context())
		require.NoError(t, err)
		require.Equal(t, "the reader goes on", string(got))
		close(letGo)
		var data, kinds []byte
		read := testkit.Start(t, func() error {
			data, kinds, err = p.data()
			return err
		})
		require.NoError(t, sent())
		require.NoError(t, c.Close())
		require.Equal(t, io.EOF, read())
		require.Equal(t, testkit.Frame(string(msg)), data)
		at := bytes.IndexByte(kinds, handshakeType)
		require.Positive(t, at, "kinds of records: %v", kinds)
		require.Equal(t, dataType, int(kinds[at+1]), "kinds of records: %v", kinds)
	})

	for name, fault := range map[string]error{"is done": nil, "fails": syscall.ECONNRESET} {
		t.Run("that meets a write under way lets it go on when that "+name, func(t *testing.T) { // P2, P4, P7
			synctest.Test(t, func(t *testing.T) {
				var w *testkit.HookedConn
				c, p := connectTLS13(t, testkit.ListenMemory(t), tcpclient.Dialer{}, func(conn net.Conn) net.Conn {
					w = &testkit.HookedConn{Conn: conn}
					return w
				})
				letGo := make(chan struct{})
				w.OnWrite = func(b []byte) (int, error) {
					<-letGo
					if fault != nil {
						return 0, fault
					}
					return w.Conn.Write(b)
				}
				sent := testkit.Start(t, func() error { return c.Send(context.Background(), []byte("hello")) })
				synctest.Wait()
				p.Raw(p.out.keyUpdate(1))
				p.sendRecord("meanwhile")
				msg, err := c.Receive(t.Context())
				require.NoError(t, err, "the reader waits for no write")
				require.Equal(t, "meanwhile", string(msg))
				close(letGo)
				err = sent()
				if fault != nil {
					require.ErrorIs(t, err, fault)
					require.True(t, testkit.OpError(t, err).Unsent, "no byte was taken")
					return
				}
				require.NoError(t, err)
				require.Equal(t, testkit.Frame("hello"), p.requireRecord(dataType))
				p.requireRecord(handshakeType)
				require.NoError(t, c.Send(t.Context(), []byte("again")))
				require.Equal(t, testkit.Frame("again"), p.requireRecord(dataType))
				require.NoError(t, c.Close())
			})
		})
	}
}

// recordVersions runs test in virtual time for the versions of TLS whose records these are.
func recordVersions(t *testing.T, d tcpclient.Dialer, test func(t *testing.T, c *tcpclient.Client, p *recordPeer)) {
	for name, version := range map[string]uint16{"TLS 1.2": tls.VersionTLS12, "TLS 1.3": tls.VersionTLS13} {
		t.Run(name, testkit.InBubble(func(t *testing.T) {
			c, p := connectTLS(t, version, testkit.ListenMemory(t), d)
			test(t, c, p)
		}))
	}
}

// record is the record with these messages.
func (p *recordPeer) record(msgs ...string) []byte {
	return p.out.seal(dataType, testkit.Frames(msgs...)...)
}

func TestUnfinishedRecord(t *testing.T) {
	skipUnlessAES(t)

	h := testkit.RealHeartbeat(2*time.Second, 5*time.Second)
	t.Run("is a frame that is arriving, and no silence", func(t *testing.T) { // P5, F1
		recordVersions(t, tcpclient.Dialer{Heartbeat: h}, func(t *testing.T, c *tcpclient.Client, p *recordPeer) {
			msg := testkit.PatternText(16000)
			for rest := p.record(msg); len(rest) > 0; rest = rest[min(25, len(rest)):] {
				p.Raw(rest[:min(25, len(rest))])
				time.Sleep(25 * time.Millisecond) // 1 KB/s: the record takes 16 s
			}
			got, err := c.Receive(t.Context())
			require.NoError(t, err)
			require.Equal(t, msg, string(got))
			require.True(t, c.Stats().Connected)
		})
	})

	t.Run("whose bytes stop ends with the heartbeat's verdict", func(t *testing.T) { // P5, F1
		recordVersions(t, tcpclient.Dialer{Heartbeat: h}, func(t *testing.T, c *tcpclient.Client, p *recordPeer) {
			record := p.record("never whole")
			p.Raw(record[:10])
			time.Sleep(4 * time.Second)
			p.Raw(record[10:20])
			last := time.Now()
			_, err := c.Receive(t.Context())
			testkit.RequireHeartbeatTimeout(t, err)
			require.Equal(t, 5*time.Second, time.Since(last))
		})
	})

	for _, cut := range []int{1, 4, 5, 6, 100} {
		t.Run(fmt.Sprintf("of %d bytes ends with ErrFrameTimeout", cut), func(t *testing.T) { // P5, F2
			recordVersions(t, tcpclient.Dialer{FrameTimeout: 200 * time.Millisecond}, func(t *testing.T, c *tcpclient.Client, p *recordPeer) {
				began := time.Now()
				p.Raw(append(p.record("one"), append(p.record("two"), p.record(testkit.PatternText(200))[:cut]...)...))
				got, err := testkit.ReceiveAll(t, c)
				require.Equal(t, []string{"one", "two"}, got)
				require.ErrorIs(t, err, tcpclient.ErrFrameTimeout)
				require.ErrorIs(t, err, tcpclient.ErrDisconnected)
				require.Equal(t, 200*time.Millisecond, time.Since(began))
			})
		})
	}

	t.Run("that grows by a byte a minute ends with ErrFrameTimeout", func(t *testing.T) { // P5, F2
		recordVersions(t, tcpclient.Dialer{FrameTimeout: 5 * time.Minute}, func(t *testing.T, c *tcpclient.Client, p *recordPeer) {
			began := time.Now()
			sent := make(chan error, 1)
			go func() {
				var err error
				for record := p.record("too slow"); err == nil && len(record) > 0; record = record[1:] {
					_, err = p.Write(record[:1])
					time.Sleep(time.Minute)
				}
				sent <- err
			}()
			_, err := c.Receive(t.Context())
			require.ErrorIs(t, err, tcpclient.ErrFrameTimeout)
			require.Equal(t, 5*time.Minute, time.Since(began))
			require.Error(t, <-sent)
		})
	})

	t.Run("does not end while FrameTimeout is off", func(t *testing.T) {
		recordVersions(t, tcpclient.Dialer{FrameTimeout: -1}, func(t *testing.T, c *tcpclient.Client, p *recordPeer) {
			record := p.record("late")
			p.Raw(record[:8])
			time.Sleep(1000 * time.Hour)
			p.Raw(record[8:])
			msg, err := c.Receive(t.Context())
			require.NoError(t, err)
			require.Equal(t, "late", string(msg))
		})
	})

	t.Run("does not give the frame in it more time than it had", func(t *testing.T) { // P5, F2
		recordVersions(t, tcpclient.Dialer{}, func(t *testing.T, c *tcpclient.Client, p *recordPeer) {
			began := time.Now()
			sent := testkit.Start(t, func() (err error) {
				frame := testkit.Frame("in three records")
				for _, part := range [][]byte{frame[:3], frame[3:8], frame[8:]} {
					record := p.out.seal(dataType, part...)
					p.Write(record[:7])
					time.Sleep(11 * time.Second)
					_, err = p.Write(record[7:])
				}
				return err
			})
			_, err := c.Receive(t.Context())
			require.ErrorIs(t, err, tcpclient.ErrFrameTimeout)
			require.Equal(t, 30*time.Second, time.Since(began))
			require.Error(t, sent())
		})
	})

	t.Run("that ends a message leaves the next one all its time", func(t *testing.T) { // P5, F1
		recordVersions(t, tcpclient.Dialer{}, func(t *testing.T, c *tcpclient.Client, p *recordPeer) {
			frames := testkit.Frames("one", "two", "three")
			for cut := 10; len(frames) > 0; cut = min(cut, len(frames)) { // each cuts a message
				record := p.out.seal(dataType, frames[:cut]...)
				p.Raw(record[:9])
				time.Sleep(20 * time.Second)
				p.Raw(record[9:])
				frames = frames[cut:]
			}
			for _, want := range []string{"one", "two", "three"} {
				msg, err := c.Receive(t.Context())
				require.NoError(t, err)
				require.Equal(t, want, string(msg))
			}
		})
	})

	t.Run("is waited for only while the reader reads", func(t *testing.T) { // P5: no peer is declared dead because we were slow
		recordVersions(t, tcpclient.Dialer{Inbox: 200, ReadBuffer: 256}, func(t *testing.T, c *tcpclient.Client, p *recordPeer) {
			want := testkit.Numbered(10, 100)
			p.sendRecord(want[:9]...)
			last := p.record(want[9])
			p.Raw(last[:20])
			time.Sleep(time.Hour)
			for i := range want {
				if i == 8 {
					p.Raw(last[20:])
				}
				msg, err := c.Receive(t.Context())
				require.NoError(t, err)
				require.Equal(t, want[i], string(msg))
			}
		})
	})
}

func TestRecordWithoutData(t *testing.T) {
	skipUnlessAES(t)

	t.Run("that is whole is no frame", func(t *testing.T) { // P5, F1
		recordVersions(t, tcpclient.Dialer{}, func(t *testing.T, c *tcpclient.Client, p *recordPeer) {
			for range 3 {
				empty := p.out.seal(dataType)
				p.Raw(empty[:7])
				time.Sleep(29 * time.Second)
				p.Raw(empty[7:])
				time.Sleep(time.Hour)
				require.True(t, c.Stats().Connected)
			}
			p.sendRecord("alive")
			msg, err := c.Receive(t.Context())
			require.NoError(t, err)
			require.Equal(t, "alive", string(msg))
		})
	})

	t.Run("that changes keys is no frame", testkit.InBubble(func(t *testing.T) { // P5, F1
		c, p := connectTLS13(t, testkit.ListenMemory(t), tcpclient.Dialer{}, nil)
		for range 3 {
			update := p.out.keyUpdate(0)
			p.Raw(update[:3])
			time.Sleep(29 * time.Second)
			p.Raw(update[3:])
			time.Sleep(time.Hour)
			require.True(t, c.Stats().Connected)
		}
		p.sendRecord("alive")
		msg, err := c.Receive(t.Context())
		require.NoError(t, err)
		require.Equal(t, "alive", string(msg))
	}))

	t.Run("is no life", func(t *testing.T) { // P5, F1
		recordVersions(t, tcpclient.Dialer{Heartbeat: testkit.Pinging()}, func(t *testing.T, c *tcpclient.Client, p *recordPeer) {
			began := time.Now()
			for range 8 {
				time.Sleep(3 * time.Second)
				p.Raw(p.out.seal(dataType))
			}
			_, err := c.Receive(t.Context())
			testkit.RequireHeartbeatTimeout(t, err)
			require.Equal(t, 25*time.Second, time.Since(began))
		})
	})

	t.Run("of a renegotiation is a frame only while it is cut", testkit.InBubble(func(t *testing.T) { // P5, F2
		c, p := connectTLS(t, tls.VersionTLS12, testkit.ListenMemory(t), tcpclient.Dialer{
			TLSConfig: &tls.Config{Renegotiation: tls.RenegotiateFreelyAsClient},
		})
		p.helloRequest()
		p.awaitRecord(t, handshakeType) // its ClientHello
		time.Sleep(time.Hour)
		require.True(t, c.Stats().Connected, "a slow server is no torn frame")
		began := time.Now()
		p.Raw(p.out.seal(handshakeType, make([]byte, 50)...)[:30])
		_, err := c.Receive(t.Context())
		require.ErrorIs(t, err, tcpclient.ErrFrameTimeout)
		require.Equal(t, 30*time.Second, time.Since(began))
	}))
}

// A short is a connection that loses all but the first left bytes written to it.
type short struct {
	net.Conn
	left int
}

func (s *short) Write(p []byte) (int, error) {
	n := min(s.left, len(p))
	s.left -= n
	_, err := s.Conn.Write(p[:n])
	return len(p), err
}

func TestUnfinishedRecordInAHandshake(t *testing.T) {
	for _, cut := range []int{3, 100} {
		t.Run(fmt.Sprintf("of %d bytes ends with ErrFrameTimeout", cut), testkit.InBubble(func(t *testing.T) { // P5, F2
			l := testkit.ListenMemory(t)
			server, client := tcpclienttest.NewTLSConfig()
			client.ServerName = "localhost"
			server.SessionTicketsDisabled = true
			go func() {
				raw, err := l.Accept()
				if err != nil {
					return
				}
				defer raw.Close()
				conn := &short{Conn: raw, left: 1 << 20}
				secure := tls.Server(conn, server)
				if secure.Handshake() == nil {
					conn.left = cut
					secure.Write(make([]byte, 1000))
					io.Copy(io.Discard, raw)
				}
			}()
			began := time.Now()
			_, err := l.TryDial(t.Context(), tcpclient.Dialer{
				TLSConfig: client, Timeout: -1,
				Handshake: func(ctx context.Context, conn *tcpclient.Conn) error {
					_, err := conn.Receive(ctx)
					return err
				},
			})
			require.ErrorIs(t, err, tcpclient.ErrFrameTimeout)
			require.Equal(t, "handshake", testkit.OpError(t, err).Op)
			require.Equal(t, 30*time.Second, time.Since(began))
		}))
	}
}

func TestWriteAfterOneThatEnds(t *testing.T) {
	skipUnlessAES(t)
	t.Run("has the whole WriteTimeout before it", func(t *testing.T) { // P5, FAULTS Y13
		// The connections of the network in memory take nothing after their deadline.
		synctest.Test(t, func(t *testing.T) {
			c, p := connectTLS13(t, testkit.ListenMemory(t), tcpclient.Dialer{WriteTimeout: time.Second}, nil)
			for range 3 {
				p.Raw(p.out.keyUpdate(1))
				p.requireRecord(handshakeType)
				time.Sleep(time.Minute) // the deadline of the answer has passed
				require.NoError(t, c.Send(t.Context(), []byte("hello")))
				require.Equal(t, testkit.Frame("hello"), p.requireRecord(dataType))
				time.Sleep(time.Minute) // and that of the Send
			}
			require.NoError(t, c.Close())
		})
	})
}

func TestBadRecord(t *testing.T) {
	skipUnlessAES(t)
	for name, bad := range map[string]func(p *recordPeer) []byte{
		"that was changed on the way": func(p *recordPeer) []byte {
			record := p.out.seal(dataType, 1, 2, 3)
			record[7] ^= 1
			return record
		},
		"of no known kind": func(p *recordPeer) []byte { return p.out.seal(99, 1, 2, 3) },
	} {
		t.Run(name+" ends the connection, and the server learns why", func(t *testing.T) { // P9, P1
			linked(t, func(t *testing.T, l *testkit.Listener) {
				for range 10 {
					c, p := connectTLS13(t, l, tcpclient.Dialer{}, nil)
					p.sendRecord("whole")
					p.Raw(bad(p))
					msgs, err := testkit.ReceiveAll(t, c)
					require.Equal(t, []string{"whole"}, msgs)
					require.ErrorIs(t, err, tcpclient.ErrDisconnected)
					require.ErrorContains(t, err, "tls:")
					p.requireRecord(alertType)
					require.NoError(t, c.Close())
				}
			})
		})
	}
}

func TestAfterFIN(t *testing.T) {
	skipUnlessAES(t)

	// finished is a client that has sent FIN in a Shutdown, which waits, and its number of writes.
	finished := func(t *testing.T, l *testkit.Listener, wrap bool) (c *tcpclient.Client, p *recordPeer, down func() error, writes func() int) {
		var w *testkit.HookedConn
		around := func(conn net.Conn) net.Conn {
			w = &testkit.HookedConn{Conn: conn}
			return w
		}
		if !wrap {
			around = nil
		}
		c, p = connectTLS13(t, l, tcpclient.Dialer{}, around)
		require.NoError(t, c.Write(t.Context(), []byte("bye")))
		down = testkit.Start(t, func() error { return c.Shutdown(t.Context()) })
		data, kinds, end := p.data()
		require.Equal(t, testkit.Frame("bye"), data)
		require.Equal(t, []byte{dataType, alertType}, kinds)
		require.Equal(t, io.EOF, end)
		return c, p, down, func() int {
			if w == nil {
				return 0
			}
			return w.Writes()
		}
	}

	for name, wrap := range map[string]bool{"a socket": false, "a connection without tries": true} {
		t.Run("TLS writes nothing more, and the last words arrive: "+name, func(t *testing.T) { // P5, FIELD F4
			linked(t, func(t *testing.T, l *testkit.Listener) {
				c, p, down, writes := finished(t, l, wrap)
				before := writes()
				for range 3 {
					p.Raw(p.out.keyUpdate(1))
					p.sendRecord("last words") // a read later: it is after the answer, if there was one
					msg, err := c.Receive(t.Context())
					require.NoError(t, err)
					require.Equal(t, "last words", string(msg))
				}
				require.Equal(t, before, writes())
				p.Raw(p.out.closeNotify())
				p.HalfClose()
				require.NoError(t, down())
				_, err := c.Receive(t.Context())
				require.ErrorIs(t, err, tcpclient.ErrClosed)
			})
		})
	}

	t.Run("nothing is lost if the server takes its time", func(t *testing.T) { // P5, FIELD F4
		synctest.Test(t, func(t *testing.T) {
			c, p, down, writes := finished(t, testkit.ListenMemory(t), true)
			before := writes()
			p.Raw(p.out.keyUpdate(1))
			time.Sleep(1500 * time.Millisecond) // longer than one reads on after a failed write
			p.sendRecord("last words")
			p.Raw(p.out.closeNotify())
			p.HalfClose()
			require.NoError(t, down())
			require.Equal(t, before, writes())
			msg, err := c.Receive(t.Context())
			require.NoError(t, err)
			require.Equal(t, "last words", string(msg))
		})
	})

	t.Run("pings and answers are not written either", func(t *testing.T) { // P5
		synctest.Test(t, func(t *testing.T) {
			c, p := testkit.ConnectMemory(t, tcpclient.Dialer{Heartbeat: tcpclient.Heartbeat{
				Interval: time.Second, Timeout: time.Hour,
				Ping:   func() []byte { return []byte("ping") },
				Answer: func(msg []byte) ([]byte, bool) { return []byte("answer"), string(msg) == "ping?" },
			}})
			down := testkit.Start(t, func() error { return c.Shutdown(t.Context()) })
			_, end := p.Next()
			require.Equal(t, io.EOF, end)
			time.Sleep(10 * time.Second)
			p.Send("ping?", "last words")
			p.HalfClose()
			require.NoError(t, down())
			msg, err := c.Receive(t.Context())
			require.NoError(t, err)
			require.Equal(t, "last words", string(msg))
		})
	})
}

// clientTLS returns configurations with which a client trusts the server at an address of tr.
func clientTLS(tr testkit.Transport) (server, client *tls.Config) {
	server, client = tcpclienttest.NewTLSConfig()
	if tr.Name != "tcp" {
		client.ServerName = "localhost"
	}
	return server, client
}

// startTLS is a Handshake that asks for TLS, and what the server does then.
func startTLS(config *tls.Config, then func(ctx context.Context, conn *tcpclient.Conn) error) func(ctx context.Context, conn *tcpclient.Conn) error {
	return func(ctx context.Context, conn *tcpclient.Conn) error {
		if err := conn.Send(ctx, []byte("STARTTLS")); err != nil {
			return err
		}
		msg, err := conn.Receive(ctx)
		if err != nil {
			return err
		}
		if string(msg) != "go ahead" {
			return fmt.Errorf("no TLS: %s", msg)
		}
		if err := conn.StartTLS(ctx, config); err != nil {
			return err
		}
		return then(ctx, conn)
	}
}

// upgraded is p after the handshake of TLS on its connection.
func upgraded(t *testing.T, p *testkit.Peer, config *tls.Config) *testkit.Peer {
	secure := tls.Server(p.Conn, config)
	if !assert.NoError(t, secure.Handshake()) {
		p.Close()
	}
	return testkit.NewPeer(t, secure)
}

func TestConnStartTLS(t *testing.T) {
	t.Parallel() // it waits for real time

	t.Run("talks through TLS from then on, in the Handshake and after it", func(t *testing.T) { // E6
		overRaw(t, func(t *testing.T, tr testkit.Transport) {
			server, client := clientTLS(tr)
			name := client.ServerName
			handshake := startTLS(client, func(ctx context.Context, conn *tcpclient.Conn) error {
				secure, ok := conn.NetConn().(*tls.Conn)
				if assert.True(t, ok, "NetConn is a %T", conn.NetConn()) {
					assert.Len(t, secure.ConnectionState().PeerCertificates, 1)
				}
				return testkit.Login(ctx, conn)
			})
			c, err := tr.ShakeHands(t, tcpclient.Dialer{Handshake: handshake}, func(p *testkit.Peer) {
				assert.Equal(t, "STARTTLS", p.Receive())
				p.Send("go ahead")
				p = upgraded(t, p, server)
				assert.Equal(t, "login", p.Receive())
				p.Send("welcome", "read ahead")
				p.Echo()
				p.HalfClose()
			})
			require.NoError(t, err)
			require.Equal(t, name, client.ServerName, "the caller's tls.Config was modified")
			large := testkit.PatternText(1 << 20)
			sent := testkit.Start(t, func() error { return c.Send(t.Context(), []byte(large)) })
			for _, want := range []string{"read ahead", large} {
				msg, err := c.Receive(t.Context())
				require.NoError(t, err)
				require.True(t, want == string(msg))
			}
			require.NoError(t, sent())
			require.NoError(t, c.Shutdown(t.Context()))
		})
	})

	t.Run("refuses what came in the clear after the message that agreed to it", func(t *testing.T) { // CVE-2021-23222, E6
		overRaw(t, func(t *testing.T, tr testkit.Transport) {
			for _, injected := range []string{"\x00", "injected", string(testkit.Frame("injected"))} {
				_, client := clientTLS(tr)
				hello := make(chan error, 1)
				_, err := tr.ShakeHands(t, tcpclient.Dialer{Handshake: startTLS(client, nil)}, func(p *testkit.Peer) {
					p.Receive()
					p.Raw(append(testkit.Frame("go ahead"), injected...))
					_, err := p.In.ReadByte()
					hello <- err
				})
				require.ErrorContains(t, err, "in the clear")
				require.ErrorContains(t, err, fmt.Sprintf("%d bytes", len(injected)))
				require.ErrorContains(t, err, fmt.Sprintf("%q", injected))
				require.Equal(t, "handshake", testkit.OpError(t, err).Op)
				require.Equal(t, tcpclient.ClassDisconnected, tcpclient.Classify(err))
				require.Error(t, <-hello, "it has sent something")
			}
		})
	})

	t.Run("refuses it wherever reads have put it", func(t *testing.T) { // CVE-2021-23222, E6
		overRaw(t, func(t *testing.T, tr testkit.Transport) {
			_, client := clientTLS(tr)
			for size := 1; size < 9000; size += 331 {
				_, err := tr.ShakeHands(t, tcpclient.Dialer{Handshake: func(ctx context.Context, conn *tcpclient.Conn) error {
					if _, err := conn.Receive(ctx); err != nil {
						return err
					}
					return conn.StartTLS(ctx, client)
				}}, func(p *testkit.Peer) {
					p.Raw(append(testkit.Frame(testkit.PatternText(size)), strings.Repeat("injected", 8<<10)[:20<<10]...))
					io.Copy(io.Discard, p)
				})
				require.ErrorContains(t, err, "injec", "size %d", size)
				if tr.Name == "foreign" { // else it may lie where only TLS sees it
					require.ErrorContains(t, err, "in the clear", "size %d", size)
				}
			}
		})
	})

	t.Run("refuses what came later and waits in the socket", func(t *testing.T) { // CVE-2021-23222, E6
		_, client := tcpclienttest.NewTLSConfig()
		asked, arrived := make(chan struct{}), make(chan struct{})
		_, err := testkit.TransportNamed("tcp").ShakeHands(t, tcpclient.Dialer{Handshake: func(ctx context.Context, conn *tcpclient.Conn) error {
			if _, err := conn.Receive(ctx); err != nil {
				return err
			}
			close(asked)
			<-arrived
			return conn.StartTLS(ctx, client)
		}}, func(p *testkit.Peer) {
			p.Send("go ahead")
			<-asked
			p.Raw([]byte("injected"))
			close(arrived)
			io.Copy(io.Discard, p)
		})
		if runtime.GOOS == "windows" {
			require.ErrorContains(t, err, "TLS") // which has got it
		} else {
			require.ErrorContains(t, err, `begin with "injected"`)
		}
	})

	t.Run("has the wire's time limits", func(t *testing.T) { // P5, E6
		testkit.SkipIfShort(t)
		overRaw(t, func(t *testing.T, tr testkit.Transport) {
			for name, limit := range map[string]tcpclient.Dialer{
				"FrameTimeout": {Timeout: -1, FrameTimeout: 50 * time.Millisecond},
				"Timeout":      {Timeout: 2 * time.Second, FrameTimeout: -1},
			} {
				_, client := clientTLS(tr)
				limit.Handshake = func(ctx context.Context, conn *tcpclient.Conn) error {
					return startTLS(client, nil)(context.Background(), conn)
				}
				_, err := tr.ShakeHands(t, limit, func(p *testkit.Peer) {
					p.Receive()
					p.Send("go ahead")
					p.In.ReadByte()
					p.Raw([]byte{handshakeType, 3, 3}) // a record that stops
					io.Copy(io.Discard, p)
				})
				if name == "Timeout" {
					require.ErrorIs(t, err, os.ErrDeadlineExceeded)
				} else {
					require.ErrorIs(t, err, tcpclient.ErrFrameTimeout)
				}
				require.Equal(t, tcpclient.ClassDisconnected, tcpclient.Classify(err), name)
			}
		})
	})

	t.Run("says that a server has rejected the client's certificate", testkit.InBubble(func(t *testing.T) { // P9
		tr := testkit.TransportNamed("memory")
		server, client := clientTLS(tr)
		server.ClientAuth = tls.RequireAnyClientCert
		_, err := tr.ShakeHands(t, tcpclient.Dialer{Handshake: startTLS(client, func(ctx context.Context, conn *tcpclient.Conn) error {
			_, err := conn.Receive(ctx)
			return err
		})}, func(p *testkit.Peer) {
			p.Receive()
			p.Send("go ahead")
			assert.Error(t, tls.Server(p.Conn, server).Handshake())
			p.Close()
		})
		require.ErrorContains(t, err, "TLS handshake rejected by the server")
	}))

	t.Run("heeds Renegotiation of its own tls.Config", func(t *testing.T) { // P2, F3, E6
		c, p := connectTLSBy(t, tls.VersionTLS12, testkit.ListenTCP(t), tcpclient.Dialer{}, func(d *tcpclient.Dialer, config *tls.Config) {
			config.Renegotiation = tls.RenegotiateFreelyAsClient
			d.Handshake = func(ctx context.Context, conn *tcpclient.Conn) error { return conn.StartTLS(ctx, config) }
		})
		p.helloRequest()
		p.awaitRecord(t, handshakeType) // its ClientHello, and then nothing
		testkit.RequireFast(t, "Send", func() {
			require.ErrorIs(t, c.Send(testkit.Within(t, 50*time.Millisecond), []byte("x")), context.DeadlineExceeded)
		})
	})

	t.Run("fails after the Handshake, which the connection survives", testkit.InBubble(func(t *testing.T) {
		_, client := tcpclienttest.NewTLSConfig()
		var kept *tcpclient.Conn
		c, p := testkit.ConnectMemory(t, tcpclient.Dialer{Handshake: func(_ context.Context, conn *tcpclient.Conn) error {
			kept = conn
			return nil
		}})
		require.ErrorIs(t, kept.StartTLS(t.Context(), client), tcpclient.ErrClosed)
		testkit.RequireAlive(t, c, p)
	}))
}

func TestConnStartTLSThatFails(t *testing.T) {
	server, client := tcpclienttest.NewTLSConfig()
	client.ServerName = "localhost"
	_, stranger := tcpclienttest.NewTLSConfig()
	stranger.ServerName = "localhost"
	answers := func(bytes string) func(t *testing.T, p *testkit.Peer) {
		return func(t *testing.T, p *testkit.Peer) {
			p.In.ReadByte()
			p.Write([]byte(bytes))
			io.Copy(io.Discard, p)
		}
	}
	for name, test := range map[string]struct {
		config  *tls.Config
		twice   bool
		ctx     func(t *testing.T) context.Context
		address string
		server  func(t *testing.T, p *testkit.Peer)
		text    string
		is      error
		class   tcpclient.Class
	}{
		"no config":             {text: "the tls.Config is nil", class: tcpclient.ClassPermanent},
		"an untrusted server":   {config: stranger, text: "certificate", class: tcpclient.ClassPermanent},
		"a server without TLS":  {config: client, server: answers("500 what?\r\n"), text: `it answered "500 w": a server without TLS?`, class: tcpclient.ClassDisconnected},
		"a server that refuses": {config: client, server: answers("\x15\x03\x03\x00\x02\x02\x28"), text: "handshake failure", class: tcpclient.ClassDisconnected},
		"a server that hangs up": {config: client, is: io.EOF, class: tcpclient.ClassDisconnected, server: func(t *testing.T, p *testkit.Peer) {
			p.In.ReadByte()
			p.Close()
		}},
		"TLS already":               {config: client, twice: true, text: "TLS already", class: tcpclient.ClassPermanent},
		"an address without a host": {config: &tls.Config{}, address: "socket", text: `"socket" names no host`, class: tcpclient.ClassPermanent},
		"a context that is done":    {config: client, ctx: func(t *testing.T) context.Context { return testkit.Canceled(t) }, is: context.Canceled, class: tcpclient.ClassTemporary},
		"a context that ends": {config: client, ctx: func(t *testing.T) context.Context { return testkit.Within(t, time.Second) }, is: context.DeadlineExceeded,
			class: tcpclient.ClassTemporary, server: answers("\x16\x03")},
	} {
		t.Run("because of "+name+" ends the Conn and the attempt", testkit.InBubble(func(t *testing.T) { // P4, E6
			n := tcpclienttest.NewNetwork()
			address := test.address
			if address == "" {
				address = "server:1"
			}
			listener, err := n.Listen(address)
			require.NoError(t, err)
			defer listener.Close()
			l := &testkit.Listener{Listener: listener, Network: "tcp", Setup: func(d *tcpclient.Dialer) { d.DialContext = n.DialContext }}
			l.Each(func(conn net.Conn) {
				p := testkit.NewPeer(t, conn)
				if test.server != nil {
					test.server(t, p)
				} else {
					secure := tls.Server(conn, server)
					secure.Handshake()
					io.Copy(io.Discard, secure)
				}
				p.Close()
			})
			ended := false
			var first error
			_, err = l.TryDial(t.Context(), tcpclient.Dialer{
				Framer: tcpclient.Lines{},
				Handshake: func(ctx context.Context, conn *tcpclient.Conn) error {
					if test.twice {
						assert.NoError(t, conn.StartTLS(ctx, test.config))
					}
					own := ctx
					if test.ctx != nil {
						own = test.ctx(t)
					}
					first = conn.StartTLS(own, test.config)
					require.Error(t, first)
					for _, err := range []error{
						conn.Send(ctx, []byte("in the clear")),
						conn.SetFramer(nil),
						conn.StartTLS(ctx, client),
						func() error { _, err := conn.Receive(ctx); return err }(),
					} {
						assert.ErrorIs(t, err, tcpclient.ErrDisconnected)
						assert.ErrorIs(t, err, errors.Unwrap(testkit.OpError(t, first).Err))
					}
					ended = true
					return nil // as if nothing had happened
				},
			})
			require.True(t, ended)
			require.Equal(t, "handshake", testkit.OpError(t, first).Op)
			require.Equal(t, test.class, tcpclient.Classify(first), "%v", first)
			require.ErrorContains(t, first, "StartTLS failed: ")
			require.ErrorContains(t, first, test.text)
			if test.is != nil {
				require.ErrorIs(t, first, test.is)
			}
			require.Error(t, err, "the attempt has not failed")
			require.ErrorContains(t, err, test.text)
			if test.ctx == nil { // else it was not Dial's
				require.Equal(t, test.class, tcpclient.Classify(err), "%v", err)
			}
		}))
	}
}
