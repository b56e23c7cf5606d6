// Lines talks to a server whose messages are lines of text. It sends several lines at once
// and prints the answer to each.
//
//	go run ./examples/lines                                    # a server of its own, in capitals
//	go run ./examples/lines -addr localhost:6379 PING "SET k v" # Redis understands lines, too
package main

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"log"
	"time"

	"github.com/seed-d0aa0aa7/tcpclient"
	"github.com/seed-d0aa0aa7/tcpclient/tcpclienttest"
)

func main() {
	address := flag.String("addr", "", "`host:port` of a server; empty: one of our own")
	flag.Parse()
	requests := flag.Args()
	if len(requests) == 0 {
		requests = []string{"PING", "hello", "good-bye"}
	}
	if err := talk(*address, requests); err != nil {
		log.Fatal(err)
	}
}

func talk(address string, requests []string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	framer := tcpclient.Lines{CRLF: true} // sends \r\n; accepts \r\n and \n
	if address == "" {
		server := tcpclienttest.NewServer(framer, shout)
		defer server.Close()
		address = server.Addr
	}

	d := tcpclient.Dialer{Framer: framer}
	client, err := d.Dial(ctx, "tcp", address)
	if err != nil {
		return err
	}
	defer client.Close()

	// Write only fills a buffer. Flush sends all requests together.
	for _, request := range requests {
		if err := client.Write(ctx, []byte(request)); err != nil {
			return err
		}
	}
	if err := client.Flush(ctx); err != nil {
		return err
	}
	for _, request := range requests {
		answer, err := client.Receive(ctx)
		if err != nil {
			return err
		}
		fmt.Printf("%s -> %s\n", request, answer)
	}
	return nil
}

// shout handles a connection of the server: it answers in capitals.
func shout(conn *tcpclienttest.Conn) {
	for line := range conn.Messages() {
		if conn.Send(bytes.ToUpper(line)) != nil {
			return
		}
	}
}
