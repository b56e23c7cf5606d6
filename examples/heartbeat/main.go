// Heartbeat shows how a client notices that its peer has gone silent when TCP does not. The
// server answers three pings, then hangs, like a stopped process whose kernel still
// acknowledges.
package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"time"

	"github.com/seed-d0aa0aa7/tcpclient"
	"github.com/seed-d0aa0aa7/tcpclient/tcpclienttest"
)

func main() {
	server := tcpclienttest.NewServer(tcpclient.Lines{}, func(conn *tcpclienttest.Conn) {
		for range 3 {
			if _, err := conn.Receive(); err != nil {
				return
			}
			conn.Send([]byte("PONG"))
		}
		<-conn.Context().Done() // connected, and silent
	})
	defer server.Close()

	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	start := time.Now()
	dialer := tcpclient.Dialer{
		Framer: tcpclient.Lines{},
		Heartbeat: tcpclient.Heartbeat{
			Interval: 200 * time.Millisecond, // silence before a ping
			Timeout:  500 * time.Millisecond, // silence before the end of the connection
			Ping:     func() []byte { return []byte("PING") },
			IsPong:   func(msg []byte) bool { return string(msg) == "PONG" },
		},
		Trace: &tcpclient.Trace{
			Pong: func(rtt time.Duration) { fmt.Printf("%4d ms: a pong\n", time.Since(start).Milliseconds()) },
		},
	}
	client, err := dialer.Dial(ctx, "tcp", server.Addr)
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()

	// No message arrives. Receive returns when the peer is found dead.
	_, err = client.Receive(ctx)
	fmt.Printf("%4d ms: %v\n", time.Since(start).Milliseconds(), err)
	if !errors.Is(err, tcpclient.ErrHeartbeatTimeout) {
		log.Fatal("that is not what was to be shown")
	}
}
