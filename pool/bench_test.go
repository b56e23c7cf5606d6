package pool_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"sync"
	"testing"

	"github.com/seed-d0aa0aa7/tcpclient"
	"github.com/seed-d0aa0aa7/tcpclient/pool"
)

// benchEcho is a server that returns what it gets, in large pieces.
func benchEcho(b *testing.B) string {
	b.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	var conns sync.WaitGroup
	conns.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			conns.Go(func() {
				defer conn.Close()
				io.CopyBuffer(struct{ io.Writer }{conn}, struct{ io.Reader }{conn}, make([]byte, 64<<10))
			})
		}
	})
	b.Cleanup(func() {
		l.Close()
		conns.Wait()
	})
	return l.Addr().String()
}

func benchPool(b *testing.B, size int) *pool.Pool {
	b.Helper()
	p, err := pool.Dial(b.Context(), &tcpclient.Dialer{Correlator: tcpclient.IDPrefix{}}, "tcp", size, benchEcho(b))
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { p.Close() })
	return p
}

// BenchmarkCall compares one Client with a Pool of one and of four, to one server. The server does
// no work, so a Pool can only cost: requests that share a connection share system calls.
func BenchmarkCall(b *testing.B) {
	for _, conc := range []int{1, 64, 512} {
		for _, impl := range []string{"client", "pool1", "pool4"} {
			b.Run(fmt.Sprintf("impl=%s/size=64/conc=%d", impl, conc), func(b *testing.B) {
				size := 1
				if impl == "pool4" {
					size = 4
				}
				p := benchPool(b, size)
				call := p.Call
				if impl == "client" {
					call = p.Clients()[0].Call
				}
				benchCalls(b, conc, call)
			})
		}
	}
}

// benchCalls has conc goroutines call, b.N times together.
func benchCalls(b *testing.B, conc int, call func(context.Context, []byte) ([]byte, error)) {
	request := make([]byte, 64)
	var callers sync.WaitGroup
	b.ReportAllocs()
	b.ResetTimer()
	for i := range conc {
		callers.Go(func() {
			for range (b.N + conc - 1 - i) / conc {
				if _, err := call(b.Context(), request); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	callers.Wait()
}

// BenchmarkPick measures the choice alone.
func BenchmarkPick(b *testing.B) {
	for _, size := range []int{1, 4, 64} {
		b.Run(fmt.Sprintf("size=%d", size), func(b *testing.B) {
			p := benchPool(b, size)
			b.ReportAllocs()
			for b.Loop() {
				if _, err := p.Pick(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
