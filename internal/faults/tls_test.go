package faults

import (
	"bufio"
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"crypto/tls"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/seed-d0aa0aa7/tcpclient"
	"github.com/seed-d0aa0aa7/tcpclient/internal/testkit"
	"github.com/seed-d0aa0aa7/tcpclient/tcpclienttest"
	"github.com/stretchr/testify/require"
)

// tlsFaults are what a TLS server can do to a connection after the handshake.
var tlsFaults = map[string]func(t *testing.T){
	"Y13 close_notify inside a frame":            faultCloseNotify,
	"Y13 end without close_notify":               faultNoCloseNotify,
	"Y13 key updates between messages":           faultKeyUpdates,
	"Y13 key updates while our writes are stuck": beside(faultKeyUpdatesStuck),
	"Y13 key updates while a Framer hangs":       faultKeyUpdatesFramer,
	"Y13 floods of records that say nothing":     faultUselessRecords,
}

const (
	alertRecord     = 21
	handshakeRecord = 22
	dataRecord      = 23
)

// A recordWriter writes records of TLS 1.3 (RFC 8446, 5) as a server that misbehaves.
type recordWriter struct {
	t      testing.TB
	secret []byte // the server's application traffic secret
	aead   cipher.AEAD
	iv     []byte
	seq    uint64
}

// connectRecords makes a Client on TLS whose peer writes records of its own making.
func connectRecords(t testing.TB, d tcpclient.Dialer) (*tcpclient.Client, *testkit.Peer, *recordWriter) {
	t.Helper()
	var keys bytes.Buffer
	server, trusting := tcpclienttest.NewTLSConfig()
	server.KeyLogWriter = &keys
	server.SessionTicketsDisabled = true // they would be the first records
	l := testkit.ListenTCP(t)
	l.Listener = tls.NewListener(l.Listener, server)
	d.TLSConfig = trusting
	c, p := l.ConnectSmall(t, d)
	if suite := p.Conn.(*tls.Conn).ConnectionState().CipherSuite; suite != tls.TLS_AES_128_GCM_SHA256 {
		t.Skipf("this system prefers %s, which these records are not made with", tls.CipherSuiteName(suite))
	}
	w := &recordWriter{t: t}
	for line := range strings.Lines(keys.String()) {
		if words := strings.Fields(line); words[0] == "SERVER_TRAFFIC_SECRET_0" {
			secret, err := hex.DecodeString(words[2])
			require.NoError(t, err)
			w.rekey(secret)
		}
	}
	require.NotNil(t, w.aead, "no secret: %s", keys.String())
	return c, testkit.NewPeer(t, testkit.RawConn(p.Conn)), w
}

// rekey begins a new generation of keys.
func (w *recordWriter) rekey(secret []byte) {
	w.secret, w.seq = secret, 0
	w.iv = w.expand("iv", 12)
	block, err := aes.NewCipher(w.expand("key", 16))
	require.NoError(w.t, err)
	w.aead, err = cipher.NewGCM(block)
	require.NoError(w.t, err)
}

// expand is HKDF-Expand-Label with an empty context (RFC 8446, 7.1).
func (w *recordWriter) expand(label string, length int) []byte {
	label = "tls13 " + label
	info := fmt.Sprintf("\x00%c%c%s\x00", length, len(label), label)
	key, err := hkdf.Expand(sha256.New, w.secret, info, length)
	require.NoError(w.t, err)
	return key
}

// record is content as one record.
func (w *recordWriter) record(kind byte, content ...byte) []byte {
	inner := append(bytes.Clone(content), kind)
	header := binary.BigEndian.AppendUint16([]byte{dataRecord, 3, 3}, uint16(len(inner)+w.aead.Overhead()))
	nonce := binary.BigEndian.AppendUint64(make([]byte, 4), w.seq)
	for i := range nonce {
		nonce[i] ^= w.iv[i]
	}
	w.seq++
	return append(header, w.aead.Seal(nil, nonce, inner, header)...)
}

// keyUpdate is a record that changes our keys, and may ask the client to change its own.
func (w *recordWriter) keyUpdate(request byte) []byte {
	record := w.record(handshakeRecord, 24, 0, 0, 1, request)
	w.rekey(w.expand("traffic upd", sha256.Size))
	return record
}

func (w *recordWriter) closeNotify() []byte { return w.record(alertRecord, 1, 0) }

// requireEnd wants messages and then the end of the connection.
func requireEnd(t testing.TB, c *tcpclient.Client, want []string, end error) {
	t.Helper()
	got, err := testkit.ReceiveAll(t, c)
	require.Equal(t, want, got)
	require.ErrorIs(t, err, tcpclient.ErrDisconnected)
	require.Equal(t, tcpclient.ClassDisconnected, tcpclient.Classify(err))
	if end != nil {
		require.ErrorIs(t, err, end)
		require.Equal(t, end == io.EOF, testkit.ErrorKind(bare(err)) == "none", err)
	}
}

func faultCloseNotify(t *testing.T) {
	for half, want := range map[int]error{0: io.EOF, 2: io.ErrUnexpectedEOF, 6: io.ErrUnexpectedEOF} {
		c, p, w := connectRecords(t, tcpclient.Dialer{})
		p.Raw(w.record(dataRecord, append(testkit.Frame("whole"), testkit.Frame("torn")[:half]...)...))
		p.Raw(w.closeNotify())
		requireEnd(t, c, []string{"whole"}, want)
	}
}

func faultNoCloseNotify(t *testing.T) {
	// Many servers end so. Between frames nothing is missing; a frame tells its length,
	// so that one which was cut is noticed without the help of TLS.
	for half, want := range map[int]error{0: io.EOF, 2: io.ErrUnexpectedEOF, 6: io.ErrUnexpectedEOF} {
		c, p, w := connectRecords(t, tcpclient.Dialer{})
		p.Raw(w.record(dataRecord, append(testkit.Frame("whole"), testkit.Frame("torn")[:half]...)...))
		p.HalfClose()
		requireEnd(t, c, []string{"whole"}, want)
	}
	c, p, w := connectRecords(t, tcpclient.Dialer{})
	p.Raw(w.record(dataRecord, testkit.Frame("whole")...))
	record := w.record(dataRecord, testkit.Frame("in a torn record")...)
	p.Raw(record[:len(record)-1])
	p.HalfClose()
	requireEnd(t, c, []string{"whole"}, io.ErrUnexpectedEOF)
}

func faultKeyUpdates(t *testing.T) {
	c, p, w := connectRecords(t, tcpclient.Dialer{})
	go io.Copy(io.Discard, p) // the answers
	want := testkit.Numbered(300, 100)
	for i, msg := range want {
		b := testkit.Frame(msg)
		p.Raw(w.record(dataRecord, b[:50]...))
		p.Raw(w.keyUpdate(byte(i % 2)))
		p.Raw(w.record(dataRecord, b[50:]...))
		if i%10 == 0 {
			require.NoError(t, c.Send(t.Context(), []byte("beside")))
		}
	}
	p.Raw(w.closeNotify())
	requireEnd(t, c, want, io.EOF)
}

func faultKeyUpdatesStuck(t *testing.T) {
	// The reader has to answer, and cannot; it must go on all the same.
	c, p, w := connectRecords(t, tcpclient.Dialer{})
	testkit.Stall(t, c)
	want := testkit.Numbered(100, 100)
	for _, msg := range want {
		p.Raw(w.keyUpdate(1))
		p.Raw(w.record(dataRecord, testkit.Frame(msg)...))
	}
	requireNext(t, c, want)
	require.True(t, c.Stats().Connected)
	testkit.HangUp(p.Conn)
}

func faultKeyUpdatesFramer(t *testing.T) { // P2, P5
	// The reader has to answer, while code of the user holds the writing side. It must go on all
	// the same, and the answer follows.
	inside, leave := make(chan struct{}), make(chan struct{})
	letGo := sync.OnceFunc(func() { close(leave) })
	defer letGo() // before the Client is closed
	c, p, w := connectRecords(t, tcpclient.Dialer{Framer: testkit.FuncFramer{Write: func(w *bufio.Writer, msg []byte) error {
		close(inside)
		<-leave
		return tcpclient.LengthPrefix{}.WriteFrame(w, msg)
	}}})
	write := testkit.Start(t, func() error { return c.Write(t.Context(), []byte("hang")) })
	<-inside
	p.Raw(w.record(dataRecord, testkit.Frame("before")...))
	p.Raw(w.keyUpdate(1))
	p.Raw(w.record(dataRecord, testkit.Frame("after")...))
	requireNext(t, c, []string{"before", "after"})
	letGo()
	require.NoError(t, write())
	answer := make([]byte, 5+5+1+16) // header, message, type and tag
	p.SetReadDeadline(time.Now().Add(testkit.Patience))
	_, err := io.ReadFull(p, answer)
	require.NoError(t, err, "no answer to the key update")
	require.Equal(t, []byte{dataRecord, 3, 3, 0, byte(len(answer) - 5)}, answer[:5])
	require.True(t, c.Stats().Connected)
	testkit.HangUp(p.Conn)
}

func faultUselessRecords(t *testing.T) {
	for name, useless := range map[string]func(w *recordWriter) []byte{
		"key updates":   func(w *recordWriter) []byte { return w.keyUpdate(0) },
		"empty records": func(w *recordWriter) []byte { return w.record(dataRecord) },
		"alerts":        func(w *recordWriter) []byte { return w.record(alertRecord, 1, 90) }, // user_canceled
	} {
		c, p, w := connectRecords(t, tcpclient.Dialer{})
		go io.Copy(io.Discard, p)
		p.Raw(w.record(dataRecord, testkit.Frame("whole")...))
		sent := 0
		for ; sent < 1_000_000; sent++ {
			if _, err := p.Write(useless(w)); err != nil {
				break // the Client has seen enough
			}
		}
		require.Less(t, sent, 1_000_000, name)
		requireEnd(t, c, []string{"whole"}, nil)
	}
}
