// Reconnect shows a client that survives its server: the server is killed and started
// again while the client sends orders. For every order that fails the error says whether
// it is safe to send it again.
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
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	server := tcpclienttest.NewServer(tcpclient.LengthPrefix{}, tcpclienttest.Echo)

	dialer := tcpclient.Dialer{
		Reconnect: &tcpclient.Backoff{Min: 20 * time.Millisecond, Max: 500 * time.Millisecond},
		Trace: &tcpclient.Trace{
			Connected:    func(_ string, attempt int, _ time.Duration) { fmt.Printf("  connected, attempt %d\n", attempt) },
			Disconnected: func(_ string, err error) { fmt.Printf("  %v\n", err) },
		},
	}
	client, err := dialer.Dial(ctx, "tcp", server.Addr)
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()

	order(ctx, client, "order 1")

	fmt.Println("the server is killed")
	server.Close()
	for {
		// Receive tells of every connection that was lost, in its place in the stream.
		if _, err := client.Receive(ctx); errors.Is(err, tcpclient.ErrDisconnected) {
			break
		} else if err != nil {
			log.Fatal(err)
		}
	}

	// While there is no connection, calls wait for the next or for their context.
	short, stop := context.WithTimeout(ctx, 50*time.Millisecond)
	order(short, client, "order 2")
	stop()

	fmt.Println("the server is back")
	listener, err := net.Listen("tcp", server.Addr)
	if err != nil {
		log.Fatal(err)
	}
	server = tcpclienttest.NewServerOn(listener, tcpclient.LengthPrefix{}, tcpclienttest.Echo)
	defer server.Close()
	order(ctx, client, "order 2")
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
