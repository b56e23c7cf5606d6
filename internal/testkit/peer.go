package testkit

import (
	"bufio"
	"crypto/tls"
	"encoding/binary"
	"io"
	"net"
	"testing"
	"time"

	"github.com/seed-d0aa0aa7/tcpclient"
	"github.com/stretchr/testify/require"
)

// A Peer is the other end of a Client's connection, and speaks LengthPrefix{}.
type Peer struct {
	net.Conn
	t    testing.TB
	In   *bufio.Reader
	last []byte // memory for Next
}

// Send writes the messages in one piece.
func (p *Peer) Send(msgs ...string) { p.Raw(Frames(msgs...)) }

// Raw writes bytes as they are.
func (p *Peer) Raw(b []byte) {
	p.t.Helper()
	_, err := p.Write(b)
	require.NoError(p.t, err)
}

// Receive returns the next message.
func (p *Peer) Receive() string {
	p.t.Helper()
	msg, err := p.Next()
	require.NoError(p.t, err)
	return msg
}

// Next returns the next message, or how the stream ends.
func (p *Peer) Next() (string, error) {
	msg, err := p.NextInto(p.last)
	if p.last = msg; cap(msg) > 64<<10 {
		p.last = nil // tests look at what is held
	}
	return string(msg), err
}

// NextInto is Next in the memory of dst, if that is large enough: for large messages.
func (p *Peer) NextInto(dst []byte) ([]byte, error) {
	return tcpclient.LengthPrefix{MaxSize: 1 << 30}.ReadFrame(p.In, dst[:0])
}

// All returns the messages until the end of the stream, and how that ends.
func (p *Peer) All() (msgs []string, end error) {
	for {
		msg, err := p.Next()
		if err != nil {
			return msgs, err
		}
		msgs = append(msgs, msg)
	}
}

// Echo sends back what comes until the stream ends.
func (p *Peer) Echo() { io.Copy(p, p.In) }

// HalfClose sends FIN, with TLS after a close_notify, unless the client was faster.
func (p *Peer) HalfClose() {
	if secure, ok := p.Conn.(*tls.Conn); ok {
		secure.CloseWrite()
	}
	RawConn(p.Conn).(interface{ CloseWrite() error }).CloseWrite()
}

// Finish sends the messages and FIN, as far as the client takes them: for goroutines for
// which no test waits.
func (p *Peer) Finish(msgs ...string) {
	p.Write(Frames(msgs...))
	p.HalfClose()
}

// Reset sends RST, where there is such a thing.
func (p *Peer) Reset() {
	p.t.Helper()
	raw := RawConn(p.Conn)
	if abrupt, ok := raw.(interface{ SetLinger(int) error }); ok {
		require.NoError(p.t, abrupt.SetLinger(0))
	}
	raw.Close()
}

// RequireSilence wants the peer to be sent nothing for d.
func (p *Peer) RequireSilence(d time.Duration) {
	p.t.Helper()
	p.SetReadDeadline(time.Now().Add(d))
	defer p.SetReadDeadline(time.Time{})
	b, err := p.In.Peek(1)
	require.ErrorContains(p.t, err, "timeout", "got %q", b)
}

// ReadSlowly takes size bytes, 100 a second, and then answers pings until the stream ends.
func (p *Peer) ReadSlowly(size int) {
	for taken := 0; taken < size; taken += 100 {
		time.Sleep(time.Second)
		if _, err := p.In.Discard(min(100, size-taken)); err != nil {
			return
		}
	}
	for {
		msg, err := p.Next()
		switch {
		case err != nil:
			p.Close()
			return
		case msg == "ping":
			p.Write(Frame("pong"))
		}
	}
}

// Answer answers pings and sends back all else, until the stream ends.
func (p *Peer) Answer() {
	for {
		msg, err := p.Next()
		if err != nil {
			return
		}
		if msg == "ping" {
			msg = "pong"
		}
		p.Write(Frame(msg))
	}
}

// PushEvery sends a message every d, until the test or the connection ends.
func (p *Peer) PushEvery(t testing.TB, d time.Duration) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			if _, err := p.Write(Frame("push")); err != nil {
				return
			}
			time.Sleep(d)
		}
	}()
	t.Cleanup(func() {
		HangUp(p.Conn)
		<-done
	})
}

// NewPeer makes a Peer of a connection, which is closed with the test.
func NewPeer(t testing.TB, conn net.Conn) *Peer {
	t.Cleanup(func() { HangUp(conn) })
	return &Peer{Conn: conn, t: t, In: bufio.NewReader(conn)}
}

// Frame is msg as LengthPrefix{} writes it.
func Frame(msg string) []byte { return Frames(msg) }

// Frames are all messages as one stream.
func Frames(msgs ...string) []byte {
	size := 0
	for _, msg := range msgs {
		size += 4 + len(msg)
	}
	b := make([]byte, 0, size)
	for _, msg := range msgs {
		b = AppendFrame(b, msg)
	}
	return b
}

// AppendFrame appends Frame(msg) to b.
func AppendFrame[T string | []byte](b []byte, msg T) []byte {
	return append(binary.BigEndian.AppendUint32(b, uint32(len(msg))), msg...)
}

// HangUp closes the raw connection.
func HangUp(conn net.Conn) { RawConn(conn).Close() }

// RawConn returns what is below TLS.
func RawConn(conn net.Conn) net.Conn {
	if secure, ok := conn.(*tls.Conn); ok {
		return secure.NetConn()
	}
	return conn
}
