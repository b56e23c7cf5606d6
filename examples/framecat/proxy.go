package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"github.com/seed-d0aa0aa7/tcpclient"
)

// proxy accepts connections, connects each to the server, passes on bytes as they come, and prints the
// frames that they are. It returns when ctx is done or printing fails.
func (c *config) proxy(ctx context.Context, out, errOut io.Writer) error {
	ctx, fail := context.WithCancelCause(ctx)
	var connections sync.WaitGroup
	defer connections.Wait()
	defer fail(nil) // ends the connections
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", c.listen)
	if err != nil {
		return err
	}
	fmt.Fprintln(errOut, "framecat: listening on", listener.Addr())
	defer context.AfterFunc(ctx, func() { listener.Close() })()

	p := c.printer(out)
	for n := 1; ; n++ {
		conn, err := listener.Accept()
		switch {
		case ctx.Err() != nil:
			if err == nil {
				conn.Close()
			}
			return context.Cause(ctx)
		case err != nil: // such as too many open files: that may pass
			fmt.Fprintln(errOut, "framecat:", err)
			select {
			case <-ctx.Done():
			case <-time.After(100 * time.Millisecond):
			}
			continue
		}
		t := &tunnel{number: n, printer: p, fail: fail, client: conn}
		connections.Go(func() { t.run(ctx, c) })
	}
}

// connect connects to the server of the proxy.
func (c *config) connect(ctx context.Context) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	if c.dialer.TLSConfig != nil {
		return (&tls.Dialer{Config: c.dialer.TLSConfig}).DialContext(ctx, c.network, c.address)
	}
	return new(net.Dialer).DialContext(ctx, c.network, c.address)
}

// A tunnel is one connection through the proxy. Each direction has a goroutine.
type tunnel struct {
	number         int
	printer        *printer
	fail           context.CancelCauseFunc // ends the proxy
	client, server net.Conn
}

// run connects to the server and returns when both directions have ended.
func (t *tunnel) run(ctx context.Context, c *config) {
	defer t.client.Close()
	var err error
	if t.server, err = c.connect(ctx); err != nil {
		t.note(fromServer, "no connection: %v", err)
		return
	}
	defer t.server.Close()
	defer context.AfterFunc(ctx, func() {
		t.client.Close()
		t.server.Close()
	})()
	t.note(fromClient, "%v to %v", t.client.RemoteAddr(), t.server.RemoteAddr())

	var directions sync.WaitGroup
	directions.Go(func() { t.pass(fromClient, c.framing.client(), t.client, t.server) })
	directions.Go(func() { t.pass(fromServer, c.framing.server(), t.server, t.client) })
	directions.Wait()
}

// pass passes on what from sends, until its end, and that too.
func (t *tunnel) pass(from side, framer tcpclient.Framer, src, dst net.Conn) {
	s := &tap{src: src, dst: dst}
	err := t.frames(from, framer, s)
	if s.err == nil { // not the stream's
		t.note(from, "%v; from here on raw", err)
		t.raw(from, s)
	} else if len(s.seen) > 0 {
		t.print(event{From: from, Kind: kindRaw, data: s.seen}) // the end has cut a frame
	}
	s.passOn() // when the end came together with bytes
	switch {
	case s.broken: // with that dst has ended, and the other direction will, after its last words
		t.note(from, "not passed on: %v", s.err)
	case s.err == io.EOF:
		t.note(from, "end")
		closeWrite(dst)
	default:
		if !errors.Is(s.err, net.ErrClosed) {
			t.note(from, "%v", s.err)
		}
		reset(dst)
	}
}

// frames prints the frames of one direction. It returns why there are no more.
func (t *tunnel) frames(from side, framer tcpclient.Framer, s *tap) error {
	r := bufio.NewReader(s)
	var buf []byte
	for {
		msg, err := framer.ReadFrame(r, buf[:0])
		if err != nil {
			return err
		}
		t.print(event{From: from, Kind: kindFrame, data: msg})
		buf = msg
		s.forget(r.Buffered())
	}
}

// raw prints what is no frame, and all that comes after it.
func (t *tunnel) raw(from side, s *tap) {
	buf := make([]byte, 32<<10)
	for {
		if len(s.seen) > 0 {
			t.print(event{From: from, Kind: kindRaw, data: s.seen})
			s.forget(0)
		}
		if s.err != nil {
			return
		}
		_, _ = s.Read(buf) // keeps its error
	}
}

func (t *tunnel) note(from side, format string, args ...any) {
	t.print(event{From: from, Kind: kindNote, Note: fmt.Sprintf(format, args...)})
}

func (t *tunnel) print(e event) {
	e.Conn = t.number
	if err := t.printer.print(e); err != nil {
		t.fail(err)
	}
}

// A tap passes on what is read through it, unchanged. It does so at the next Read: by then the frames that
// were whole have been printed, so a request is printed before its reply can be.
type tap struct {
	src     io.Reader
	dst     io.Writer
	pending []byte // read, and not passed on
	seen    []byte // read since the last whole frame
	err     error  // the end of src, or of dst
	broken  bool   // the end is that of dst
}

func (s *tap) Read(p []byte) (n int, err error) {
	if s.passOn(); s.err != nil {
		return 0, s.err
	}
	n, s.err = s.src.Read(p)
	s.pending = append(s.pending, p[:n]...)
	s.seen = append(s.seen, p[:n]...)
	return n, s.err
}

// passOn writes what is pending.
func (s *tap) passOn() {
	if s.broken || len(s.pending) == 0 {
		return
	}
	if _, err := s.dst.Write(s.pending); err != nil {
		s.err, s.broken = err, true
	}
	s.pending = s.pending[:0]
}

// forget takes all but the last rest bytes out of seen.
func (s *tap) forget(rest int) { s.seen = s.seen[len(s.seen)-rest:] }

// closeWrite sends FIN, or with TLS a close_notify.
func closeWrite(conn net.Conn) {
	if c, ok := conn.(interface{ CloseWrite() error }); ok {
		_ = c.CloseWrite() // fails if the connection has ended, which the other direction learns
	}
}

// reset closes the connection with RST: its peer learns that the stream was cut.
func reset(conn net.Conn) {
	if c, ok := conn.(*tls.Conn); ok {
		conn = c.NetConn()
	}
	if c, ok := conn.(*net.TCPConn); ok {
		c.SetLinger(0)
	}
	conn.Close()
}
