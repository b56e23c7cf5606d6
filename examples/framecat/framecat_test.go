package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/seed-d0aa0aa7/tcpclient/internal/testkit"
	"github.com/seed-d0aa0aa7/tcpclient/tcpclienttest"
	"github.com/stretchr/testify/require"
)

// framecat runs the program with input and returns what it printed.
func framecat(t *testing.T, input string, args ...string) (exit int, out, errOut string) {
	t.Helper()
	var stdout, stderr bytes.Buffer
	exit = run(t.Context(), args, strings.NewReader(input), &stdout, &stderr)
	return exit, stdout.String(), stderr.String()
}

// serve calls handle with each connection to address, until the test ends.
func serve(t *testing.T, network, address string, handle func(net.Conn)) (addr string) {
	t.Helper()
	l, err := net.Listen(network, address)
	require.NoError(t, err)
	var connections sync.WaitGroup
	connections.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			connections.Go(func() {
				defer conn.Close()
				handle(conn)
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		connections.Wait()
	})
	return l.Addr().String()
}

func TestFrames(t *testing.T) {
	for _, kind := range []string{
		"u8", "u16", "u24", "u32", "u64", "u8le", "u16le", "u24le", "u32le", "u64le",
		"varint", "line", "crlf", "netstring", "octet", "content-length", "fixed:5", "fixed=5", `delim=\x1c\r,start=\x0b`, "decimal=|",
		"resp",
	} {
		t.Run(kind, func(t *testing.T) {
			f, err := parseFraming(kind)
			require.NoError(t, err)
			server := tcpclienttest.NewServer(f, tcpclienttest.Echo)
			defer server.Close()
			exit, out, errOut := framecat(t, "hello\r\nworld", "-frame", kind, server.Addr)
			require.Equal(t, exitOK, exit, errOut)
			require.Equal(t, "hello\nworld\n", out)
		})
	}

	t.Run("on the wire", func(t *testing.T) {
		address := serve(t, "tcp", "127.0.0.1:0", func(conn net.Conn) {
			got, _ := io.ReadAll(conn)
			fmt.Fprintf(conn, "%c%x", 2*len(got), got)
		})
		exit, out, errOut := framecat(t, "hi\n", "-frame", "u8", address)
		require.Equal(t, exitOK, exit, errOut)
		require.Equal(t, "026869\n", out)
	})
}

func TestHex(t *testing.T) {
	f, err := parseFraming("u16")
	require.NoError(t, err)
	server := tcpclienttest.NewServer(f, tcpclienttest.Echo)
	defer server.Close()

	exit, out, errOut := framecat(t, "00 ff 0A\n\n7f\n", "-frame", "u16", "-hex", server.Addr)
	require.Equal(t, exitOK, exit, errOut)
	require.Equal(t, "00ff0a\n\n7f\n", out)

	t.Run("prints the answers to the lines before a wrong one", func(t *testing.T) {
		exit, out, errOut := framecat(t, "01\nxy\n02\n", "-frame", "u16", "-hex", server.Addr)
		require.Equal(t, exitError, exit)
		require.Equal(t, "01\n", out)
		require.Contains(t, errOut, `"xy"`)
	})
}

func TestJSON(t *testing.T) {
	server := tcpclienttest.NewServer(nil, tcpclienttest.Echo)
	defer server.Close()
	exit, out, errOut := framecat(t, "hello\n\xff\n", "-json", server.Addr)
	require.Equal(t, exitOK, exit, errOut)
	require.Regexp(t, `^\{"time":"[^"]+","from":"server","kind":"frame","text":"hello"\}\n\{"time":"[^"]+","from":"server","kind":"frame","hex":"ff"\}\n$`, out)
}

func TestNewlines(t *testing.T) {
	address := serve(t, "tcp", "127.0.0.1:0", func(conn net.Conn) {
		got, _ := io.ReadAll(conn)
		fmt.Fprintf(conn, "$%d\r\n%s\r\n", len(got), got)
	})
	exit, out, errOut := framecat(t, "SET k v\r\nGET k\n", "-frame", "resp", address)
	require.Equal(t, exitOK, exit, errOut)
	require.Equal(t, "$16\r\nSET k v\r\nGET k\r\n\n", out) // one CR LF less, for the LF of the line
}

func TestEnd(t *testing.T) {
	t.Run("prints what arrives after the end of the input", func(t *testing.T) {
		address := serve(t, "tcp", "127.0.0.1:0", func(conn net.Conn) {
			lines, _ := io.ReadAll(conn) // up to our FIN
			fmt.Fprintf(conn, "%d lines\nbye\n", bytes.Count(lines, []byte("\n")))
		})
		exit, out, errOut := framecat(t, strings.Repeat("line\n", 10_000), "-frame", "line", address)
		require.Equal(t, exitOK, exit, errOut)
		require.Equal(t, "10000 lines\nbye\n", out)
	})

	t.Run("ends when the server does, though the input is open", func(t *testing.T) {
		address := serve(t, "tcp", "127.0.0.1:0", func(conn net.Conn) {
			io.WriteString(conn, "bye\n")
		})
		input, typing := io.Pipe()
		defer typing.Close()
		var out, errOut bytes.Buffer
		exit := run(t.Context(), []string{"-frame", "line", address}, input, &out, &errOut)
		require.Equal(t, exitOK, exit, errOut.String())
		require.Equal(t, "bye\n", out.String())
	})

	t.Run("fails when the server ends inside a message", func(t *testing.T) {
		address := serve(t, "tcp", "127.0.0.1:0", func(conn net.Conn) {
			bufio.NewReader(conn).ReadString('\n')
			io.WriteString(conn, "whole\nhalf")
		})
		exit, out, errOut := framecat(t, "hello\n", "-frame", "line", address)
		require.Equal(t, exitError, exit)
		require.Equal(t, "whole\n", out)
		require.Contains(t, errOut, "unexpected EOF")
	})

	t.Run("does not wait for ever", func(t *testing.T) {
		address := serve(t, "tcp", "127.0.0.1:0", func(conn net.Conn) {
			io.Copy(io.Discard, conn) // ends with our FIN
			for err := error(nil); err == nil; {
				_, err = io.WriteString(conn, "still here\n")
			}
		})
		exit, _, errOut := framecat(t, "hello\n", "-frame", "line", "-timeout", "100ms", address)
		require.Equal(t, exitError, exit)
		require.Contains(t, errOut, "deadline exceeded")
	})

	t.Run("ends in silence when it is interrupted", func(t *testing.T) {
		address := serve(t, "tcp", "127.0.0.1:0", func(conn net.Conn) {
			io.WriteString(conn, "listen\n")
			io.Copy(io.Discard, conn)
		})
		input, typing := io.Pipe()
		defer typing.Close()
		ctx, interrupt := context.WithCancel(t.Context())
		defer interrupt()
		var out, errOut bytes.Buffer
		printed := writerFunc(func(p []byte) (int, error) {
			interrupt()
			return out.Write(p)
		})
		exit := run(ctx, []string{"-frame", "line", address}, input, printed, &errOut)
		require.Equal(t, exitInterrupted, exit)
		require.Equal(t, "listen\n", out.String())
		require.Empty(t, errOut.String())
	})

	t.Run("fails when no server listens", func(t *testing.T) {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		l.Close()
		exit, _, errOut := framecat(t, "hello\n", l.Addr().String())
		require.Equal(t, exitError, exit)
		require.Contains(t, errOut, l.Addr().String())
	})
}

// A writerFunc is a Writer.
type writerFunc func(p []byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

func TestUnix(t *testing.T) {
	testkit.SkipUnderWine(t, "Unix sockets")
	path := serve(t, "unix", filepath.Join(t.TempDir(), "s"), func(conn net.Conn) { io.Copy(conn, conn) })
	exit, out, errOut := framecat(t, "hello\n", "-unix", path)
	require.Equal(t, exitOK, exit, errOut)
	require.Equal(t, "hello\n", out)
}

func TestTLS(t *testing.T) {
	server := tcpclienttest.NewTLSServer(nil, tcpclienttest.Echo)
	defer server.Close()

	exit, _, errOut := framecat(t, "hello\n", "-tls", server.Addr)
	require.Equal(t, exitError, exit)
	require.Contains(t, errOut, "certificate")

	exit, out, errOut := framecat(t, "hello\n", "-tls", "-insecure", server.Addr)
	require.Equal(t, exitOK, exit, errOut)
	require.Equal(t, "hello\n", out)
}

func TestUsage(t *testing.T) {
	for _, args := range []string{
		"-frame morse :1", "-frame u12 :1", "-frame fixed:0 :1", "-frame fixed:x :1", "-timeout 0s :1",
		"-insecure :1", "-servername a :1", "-nonsense :1", ":1 :2",
		"-tls -starttls smtp :1", "-starttls pop3 :1", "-listen :0", "-to :1", "-listen :0 -to :1 :2", "-listen :0 -to :1 -starttls smtp",
	} {
		exit, out, errOut := framecat(t, "", strings.Fields(args)...)
		require.Equal(t, exitUsage, exit, args)
		require.Empty(t, out)
		require.NotEmpty(t, errOut)
	}

	t.Run("-help", func(t *testing.T) {
		exit, _, errOut := framecat(t, "", "-help")
		require.Equal(t, exitOK, exit)
		require.Contains(t, errOut, "-servername")
	})

	t.Run("without arguments", func(t *testing.T) {
		exit, out, errOut := framecat(t, "")
		require.Equal(t, exitOK, exit, errOut)
		require.Contains(t, out, "usage: framecat")
		require.True(t, strings.HasSuffix(out, "\nhello\nframed\nworld\n"))
	})
}
