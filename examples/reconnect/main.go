// Reconnect shows a client that survives its server, which is killed and restarted while
// the client sends orders. If an order fails, the error says whether it is safe to send it
// again.
package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"net"
	"time"

	"github.com/seed-d0aa0aa7/tcpclient"
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

	// This server is killed when it has received the second order, before it confirms it.
	fatal := make(chan struct{})
	server := tcpclienttest.NewServer(nil, func(conn *tcpclienttest.Conn) {
		for order := range conn.Messages() {
			if string(order) == "order 2" {
				close(fatal)
				<-conn.Context().Done()
				return
			}
			conn.Send(order)
		}
	})
	killed := make(chan error, 1)
	go func() {
		<-fatal
		fmt.Println("the server is killed")
		killed <- server.Close()
	}()

	dialer := tcpclient.Dialer{
		Reconnect: &tcpclient.Backoff{Min: 20 * time.Millisecond, Max: 500 * time.Millisecond},
		Trace: &tcpclient.Trace{
			Connected: func(_ string, attempt int, _ time.Duration) { fmt.Printf("  connected, attempt %d\n", attempt) },
			Waiting: func(attempt int, delay time.Duration) {
				fmt.Printf("  attempt %d in %v\n", attempt, delay.Round(time.Millisecond))
			},
		},
	}
	client, err := dialer.Dial(ctx, "tcp", server.Addr)
	if err != nil {
		return err
	}
	defer client.Close()

	order(ctx, client, "order 1")
	order(ctx, client, "order 2")
	if err := <-killed; err != nil {
		return err
	}

	// Receive reports each lost connection, in stream order.
	_, err = client.Receive(ctx)
	if !errors.Is(err, tcpclient.ErrDisconnected) {
		return err
	}
	fmt.Println("lost:", err)

	// While there is no connection, calls wait for the next one, or until their context ends.
	short, stop := context.WithTimeout(ctx, 50*time.Millisecond)
	defer stop()
	order(short, client, "order 3")

	fmt.Println("the server is back")
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", server.Addr)
	if err != nil {
		return err
	}
	server = tcpclienttest.NewServerOn(listener, nil, tcpclienttest.Echo)
	defer server.Close()
	order(ctx, client, "order 3")
	return client.Shutdown(ctx)
}

// order sends an order and waits for the answer, and says what a failure means.
func order(ctx context.Context, client *tcpclient.Client, text string) {
	_, err := client.Call(ctx, []byte(text))
	var op *tcpclient.OpError
	switch {
	case err == nil:
		fmt.Printf("%s: confirmed\n", text)
	case errors.As(err, &op) && op.Unsent:
		fmt.Printf("%s: not sent, safe to repeat: %v\n", text, err)
	default:
		fmt.Printf("%s: perhaps executed, ask before repeating: %v\n", text, err)
	}
}
