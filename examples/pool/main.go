// Pool shows requests shared among three servers. One is slow and gets less. Another is
// killed and restarted meanwhile. A request that it was working on fails, since nobody knows whether
// it was executed; all others are answered by another server.
package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"net"
	"sync"
	"time"

	"github.com/seed-d0aa0aa7/tcpclient"
	"github.com/seed-d0aa0aa7/tcpclient/pool"
	"github.com/seed-d0aa0aa7/tcpclient/tcpclienttest"
)

func main() {
	if err := run(); err != nil {
		log.Fatal(err)
	}
}

func run() error {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()

	fastServer := tcpclienttest.NewServer(nil, worker("fast", 2*time.Millisecond))
	defer fastServer.Close()
	slowServer := tcpclienttest.NewServer(nil, worker("slow", 20*time.Millisecond))
	defer slowServer.Close()
	frailServer := tcpclienttest.NewServer(nil, worker("frail", 2*time.Millisecond))

	// Two connections to each. Ids tell which reply is for which request.
	dialer := tcpclient.Dialer{
		Correlator: tcpclient.IDPrefix{},
		Reconnect:  &tcpclient.Backoff{Max: 100 * time.Millisecond},
	}
	servers, err := pool.Dial(ctx, &dialer, "tcp", 2, fastServer.Addr, slowServer.Addr, frailServer.Addr)
	if err != nil {
		return err
	}
	defer servers.Close()

	work(ctx, servers, "all are up")

	killed := make(chan error, 1)
	time.AfterFunc(50*time.Millisecond, func() {
		frailServer.ResetConnections()
		killed <- frailServer.Close()
	})
	work(ctx, servers, "one is killed")
	if err := <-killed; err != nil {
		return err
	}

	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", frailServer.Addr)
	if err != nil {
		return err
	}
	server := tcpclienttest.NewServerOn(listener, nil, worker("frail", 2*time.Millisecond))
	defer server.Close()
	for connected := 0; connected < 6 && ctx.Err() == nil; time.Sleep(10 * time.Millisecond) {
		connected = 0
		for _, client := range servers.Clients() {
			if client.Stats().Connected {
				connected++
			}
		}
	}
	work(ctx, servers, "it is back")
	return servers.Shutdown(ctx)
}

// work has 16 goroutines send 50 requests each, and prints who has answered them.
func work(ctx context.Context, servers *pool.Pool, situation string) {
	var wg sync.WaitGroup
	var mu sync.Mutex
	answered, unknown := make(map[string]int), 0
	for range 16 {
		wg.Go(func() {
			for range 50 {
				name, err := servers.Call(ctx, []byte("work"))
				mu.Lock()
				var op *tcpclient.OpError
				switch {
				case err == nil:
					answered[string(name)]++
				case errors.As(err, &op) && !op.Unsent:
					unknown++ // perhaps executed: ask before repeating
				default:
					log.Fatal(err)
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	fmt.Printf("%s: %v, unknown %d\n", situation, answered, unknown)
}

// worker answers each request with its name after a while, any number at a time.
func worker(name string, takes time.Duration) tcpclienttest.Handler {
	return func(conn *tcpclienttest.Conn) {
		var wg sync.WaitGroup
		defer wg.Wait()
		for request := range conn.Messages() {
			id, _, ok := (tcpclient.IDPrefix{}).SplitReply(request)
			if !ok {
				return
			}
			wg.Go(func() {
				time.Sleep(takes)
				reply, _ := tcpclient.IDPrefix{}.AppendRequest(nil, id, []byte(name))
				conn.Send(reply)
			})
		}
	}
}
