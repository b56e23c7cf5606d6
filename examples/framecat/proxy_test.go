package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"time"

	"github.com/seed-d0aa0aa7/tcpclient"
	"github.com/seed-d0aa0aa7/tcpclient/tcpclienttest"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// A proxyRun is framecat with -listen.
type proxyRun struct {
	addr      string
	interrupt context.CancelFunc
	exit      chan int
	out       bytes.Buffer // to be read after stop
}

// startProxy runs framecat as a proxy to a server, until the test ends.
func startProxy(t *testing.T, server string, args ...string) *proxyRun {
	t.Helper()
	ctx, interrupt := context.WithCancel(t.Context())
	p := &proxyRun{interrupt: interrupt, exit: make(chan int, 1)}
	notices, w := io.Pipe()
	args = append(args, "-listen", "127.0.0.1:0", "-to", server)
	go func() {
		p.exit <- run(ctx, args, strings.NewReader(""), &p.out, w)
		w.Close()
	}()
	r := bufio.NewReader(notices)
	line, err := r.ReadString('\n')
	require.NoError(t, err)
	go io.Copy(io.Discard, r)
	p.addr = strings.TrimSpace(strings.TrimPrefix(line, "framecat: listening on "))
	t.Cleanup(func() { interrupt() })
	return p
}

// stop interrupts the proxy and returns what it has printed, without the lines that say who is connected.
func (p *proxyRun) stop(t *testing.T) (lines []string) {
	t.Helper()
	p.interrupt()
	require.Equal(t, exitInterrupted, <-p.exit)
	for line := range strings.Lines(p.out.String()) {
		if !strings.Contains(line, "127.0.0.1:") {
			lines = append(lines, strings.TrimSuffix(line, "\n"))
		}
	}
	return lines
}

func (p *proxyRun) dial(t *testing.T) *net.TCPConn {
	t.Helper()
	conn, err := net.Dial("tcp", p.addr)
	require.NoError(t, err)
	t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(30 * time.Second))
	return conn.(*net.TCPConn)
}

// exchange sends text and FIN, and returns what comes until the server's.
func (p *proxyRun) exchange(t *testing.T, text string) string {
	t.Helper()
	conn := p.dial(t)
	_, err := io.WriteString(conn, text)
	require.NoError(t, err)
	require.NoError(t, conn.CloseWrite())
	got, err := io.ReadAll(conn)
	require.NoError(t, err)
	return string(got)
}

func echo(conn net.Conn) { io.Copy(conn, conn) }

func TestProxy(t *testing.T) {
	t.Run("prints a request before its reply, and the ends", func(t *testing.T) {
		server := tcpclienttest.NewServer(nil, tcpclienttest.Echo)
		defer server.Close()
		p := startProxy(t, server.Addr)
		conn := p.dial(t)
		for _, msg := range []string{"one", "two", ""} {
			frame := fmt.Appendf(nil, "\x00\x00\x00%c%s", len(msg), msg)
			conn.Write(frame)
			got := make([]byte, len(frame))
			_, err := io.ReadFull(conn, got)
			require.NoError(t, err)
			require.Equal(t, frame, got)
		}
		conn.CloseWrite()
		_, err := conn.Read(make([]byte, 1))
		require.Equal(t, io.EOF, err)
		require.Equal(t, []string{
			`1 > "one"`, `1 < "one"`, `1 > "two"`, `1 < "two"`, `1 > ""`, `1 < ""`, `1 > -- end`, `1 < -- end`,
		}, p.stop(t))
	})

	t.Run("passes on a frame that is not whole", func(t *testing.T) {
		p := startProxy(t, serve(t, "tcp", "127.0.0.1:0", func(conn net.Conn) {
			begun := make([]byte, 7)
			io.ReadFull(conn, begun)
			fmt.Fprintf(conn, "%q\n", begun)
			io.Copy(io.Discard, conn)
		}), "-frame", "netstring")
		conn := p.dial(t)
		io.WriteString(conn, "5:hello") // and no comma
		answer, err := bufio.NewReader(conn).ReadString('\n')
		require.NoError(t, err)
		require.Equal(t, "\"5:hello\"\n", answer)
	})

	t.Run("goes on raw after what is no frame", func(t *testing.T) {
		p := startProxy(t, serve(t, "tcp", "127.0.0.1:0", echo), "-frame", "netstring")
		conn := p.dial(t)
		r := bufio.NewReader(conn)
		for _, text := range []string{"2:hi,HTTP/1.1\n", "3:abc,\n"} {
			io.WriteString(conn, text)
			got, err := r.ReadString('\n')
			require.NoError(t, err)
			require.Equal(t, text, got)
		}
		conn.CloseWrite()
		_, err := r.ReadByte()
		require.Equal(t, io.EOF, err)
		lines := strings.Join(p.stop(t), "\n")
		for _, arrow := range []string{">", "<"} {
			require.Contains(t, lines, `1 `+arrow+` "hi"`+"\n")
			require.Contains(t, lines, `; from here on raw`)
			require.Contains(t, lines, `1 `+arrow+` raw "HTTP/1.1\n"`+"\n")
			require.Contains(t, lines, `1 `+arrow+` raw "3:abc,\n"`+"\n")
		}
	})

	t.Run("prints a frame that the end has cut", func(t *testing.T) {
		p := startProxy(t, serve(t, "tcp", "127.0.0.1:0", func(conn net.Conn) { io.Copy(io.Discard, conn) }), "-frame", "u16", "-hex")
		require.Empty(t, p.exchange(t, "\x00\x01a\x00\x05b"))
		require.Equal(t, []string{"1 > 61", "1 > raw 000562", "1 > -- end", "1 < -- end"}, p.stop(t))
	})

	t.Run("prints text as text, and of other bytes the escapes", func(t *testing.T) {
		p := startProxy(t, serve(t, "tcp", "127.0.0.1:0", func(conn net.Conn) { io.Copy(io.Discard, conn) }), "-frame", "lines")
		require.Empty(t, p.exchange(t, "h\u00e9\t\nh\u00e9\xff\n"))
		require.Equal(t, []string{"1 > \"h\u00e9\\t\"", `1 > "h\u00e9\xff"`, "1 > -- end", "1 < -- end"}, p.stop(t))
	})

	t.Run("lets one direction go on after the end of the other", func(t *testing.T) {
		ended := make(chan string, 1)
		p := startProxy(t, serve(t, "tcp", "127.0.0.1:0", func(conn net.Conn) {
			io.WriteString(conn, "bye\n")
			conn.(*net.TCPConn).CloseWrite()
			rest, _ := io.ReadAll(conn)
			ended <- string(rest)
		}), "-frame", "lines")
		conn := p.dial(t)
		got, err := io.ReadAll(conn)
		require.NoError(t, err)
		require.Equal(t, "bye\n", string(got))
		io.WriteString(conn, "last words\n")
		conn.CloseWrite()
		require.Equal(t, "last words\n", <-ended)
		require.Equal(t, []string{`1 < "bye"`, "1 < -- end", `1 > "last words"`, "1 > -- end"}, p.stop(t))
	})

	t.Run("passes on a reset", func(t *testing.T) {
		ended := make(chan error, 1)
		p := startProxy(t, serve(t, "tcp", "127.0.0.1:0", func(conn net.Conn) {
			bufio.NewReader(conn).ReadString('\n')
			conn.Write([]byte("ready\n"))
			_, err := io.Copy(io.Discard, conn)
			ended <- err
		}), "-frame", "lines")
		conn := p.dial(t)
		io.WriteString(conn, "hello\n")
		_, err := bufio.NewReader(conn).ReadString('\n')
		require.NoError(t, err)
		conn.SetLinger(0)
		conn.Close()
		require.Error(t, <-ended) // io.EOF would be nil
	})

	t.Run("says that there is no server, and hangs up", func(t *testing.T) {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		l.Close()
		p := startProxy(t, l.Addr().String())
		_, err = p.dial(t).Read(make([]byte, 1))
		require.Error(t, err)
		p.stop(t)
		require.Contains(t, p.out.String(), "no connection: ")
	})

	t.Run("uses TLS to the server alone", func(t *testing.T) {
		server := tcpclienttest.NewTLSServer(nil, tcpclienttest.Echo)
		defer server.Close()
		p := startProxy(t, server.Addr, "-tls", "-insecure")
		require.Equal(t, "\x00\x00\x00\x02hi", p.exchange(t, "\x00\x00\x00\x02hi"))
		require.Contains(t, p.stop(t), `1 > "hi"`)
	})

	t.Run("knows the single bytes of PostgreSQL before its messages", func(t *testing.T) {
		dialogue := []struct{ request, reply string }{
			{"\x00\x00\x00\x08\x04\xd2\x16\x30", "N"}, // GSSENCRequest
			{"\x00\x00\x00\x08\x04\xd2\x16\x2f", "N"}, // SSLRequest
			{"\x00\x00\x00\x09\x00\x03\x00\x00\x00", "R\x00\x00\x00\x08\x00\x00\x00\x00N\x00\x00\x00\x05\x00"},
		}
		p := startProxy(t, serve(t, "tcp", "127.0.0.1:0", func(conn net.Conn) {
			for _, step := range dialogue {
				if _, err := io.ReadFull(conn, make([]byte, len(step.request))); err == nil {
					io.WriteString(conn, step.reply)
				}
			}
		}), "-frame", "postgres", "-hex")
		conn := p.dial(t)
		for _, step := range dialogue {
			io.WriteString(conn, step.request)
			reply := make([]byte, len(step.reply))
			_, err := io.ReadFull(conn, reply)
			require.NoError(t, err)
			require.Equal(t, step.reply, string(reply))
		}
		_, err := conn.Read(make([]byte, 1))
		require.Equal(t, io.EOF, err)
		conn.CloseWrite()
		require.Equal(t, []string{
			"1 > 0000000804d21630", "1 < 4e", "1 > 0000000804d2162f", "1 < 4e",
			"1 > 000000090003000000", "1 < 520000000800000000", "1 < 4e0000000500",
		}, p.stop(t)[:7])
	})

	t.Run("ends when it cannot print", func(t *testing.T) {
		full := errors.New("disk full")
		failing := writerFunc(func([]byte) (int, error) { return 0, full })
		notices, w := io.Pipe()
		ended := make(chan error, 1)
		c, err := parse([]string{"-frame", "lines", "-listen", "127.0.0.1:0", "-to", serve(t, "tcp", "127.0.0.1:0", echo)}, io.Discard)
		require.NoError(t, err)
		go func() { ended <- c.proxy(t.Context(), failing, w) }()
		line, err := bufio.NewReader(notices).ReadString('\n')
		require.NoError(t, err)
		conn, err := net.Dial("tcp", strings.TrimSpace(strings.TrimPrefix(line, "framecat: listening on ")))
		require.NoError(t, err)
		defer conn.Close()
		require.Equal(t, full, <-ended)
	})
}

func TestProxyChangesNoByte(t *testing.T) { // P1
	streams := make([]string, 8)
	for n := range streams {
		stream := make([]byte, 30_000)
		random := rand.New(rand.NewPCG(uint64(n), 0))
		for i := range stream {
			stream[i] = byte(random.Uint32N(4) * random.Uint32N(80)) // many small numbers, and also CR, LF and digits
		}
		streams[n] = string(stream)
	}
	for _, kind := range []string{"u8", "u16,offset=4,keep", "u32", "varint", "lines", `delim=\r\n,start=\x0b`, "fixed=7", "netstring", "content-length", "mqtt", "ber", "resp", "smtp", "websocket", "nats"} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			p := startProxy(t, serve(t, "tcp", "127.0.0.1:0", echo), "-frame", kind, "-hex")
			var clients sync.WaitGroup
			for _, stream := range streams { // at once
				clients.Go(func() { assert.Equal(t, stream, p.exchange(t, stream)) })
			}
			clients.Wait()
			p.stop(t)
		})
	}
}

func TestProxyJSON(t *testing.T) {
	p := startProxy(t, serve(t, "tcp", "127.0.0.1:0", echo), "-frame", "lines", "-json")
	before := time.Now()
	require.Equal(t, "h\u00e9llo\n\xff\n", p.exchange(t, "h\u00e9llo\n\xff\n"))
	p.stop(t)
	found := make(map[string]int)
	for line := range strings.Lines(p.out.String()) {
		var e struct {
			Time                        time.Time
			Conn                        int
			From, Kind, Text, Hex, Note string
		}
		d := json.NewDecoder(strings.NewReader(line))
		d.DisallowUnknownFields()
		require.NoError(t, d.Decode(&e), line)
		require.WithinRange(t, e.Time, before.Add(-time.Second), time.Now().Add(time.Second))
		require.Equal(t, 1, e.Conn)
		if strings.Contains(e.Note, "127.0.0.1") {
			e.Note = "connected"
		}
		found[fmt.Sprint(e.From, " ", e.Kind, " ", e.Text, e.Hex, e.Note)]++
	}
	require.Equal(t, map[string]int{
		"client note connected":   1,
		"client frame h\u00e9llo": 1, "client frame ff": 1, "client note end": 1,
		"server frame h\u00e9llo": 1, "server frame ff": 1, "server note end": 1,
	}, found)
}

func TestTap(t *testing.T) {
	t.Run("passes on what comes together with the end", func(t *testing.T) {
		here, there := net.Pipe()
		defer there.Close()
		got := make(chan string, 1)
		go func() {
			all, _ := io.ReadAll(there)
			got <- string(all)
		}()
		src := endingConn{here, iotest.DataErrReader(strings.NewReader("last"))}
		tunnel := &tunnel{number: 1, printer: &printer{out: io.Discard}}
		tunnel.pass(fromClient, tcpclient.Fixed{Size: 4}, src, here)
		here.Close()
		require.Equal(t, "last", <-got)
	})
}

// An endingConn reads from another reader.
type endingConn struct {
	net.Conn
	r io.Reader
}

func (c endingConn) Read(p []byte) (int, error) { return c.r.Read(p) }
