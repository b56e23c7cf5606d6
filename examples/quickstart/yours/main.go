// Yours is the quickstart for a server of your own: say how its messages are framed.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log"
	"time"

	"github.com/seed-d0aa0aa7/tcpclient"
)

func main() {
	addr := flag.String("addr", "localhost:7000", "of your server")
	flag.Parse()
	d := tcpclient.Dialer{
		Framer: tcpclient.Lines{}, // or LengthPrefix{Width: 2}, Varint{}, Delimiter{…}, Sized{…}
		// Correlator: tcpclient.IDField{Width: 4}, // if requests have ids; without, replies come in order
		// Heartbeat:  tcpclient.Heartbeat{Interval: 15 * time.Second, Ping: …}, // if it is idle now and then
		ReplyTimeout: 30 * time.Second,
		Reconnect:    &tcpclient.Backoff{Max: 5 * time.Second},
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	client, err := d.Dial(ctx, "tcp", *addr)
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()
	reply, err := client.Call(ctx, []byte("hello"))
	if err != nil {
		var e *tcpclient.OpError
		log.Fatalf("%v; certainly not sent: %t", err, errors.As(err, &e) && e.Unsent)
	}
	fmt.Printf("%s\n", reply)
}
