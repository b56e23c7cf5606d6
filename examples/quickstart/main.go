// Quickstart sends a message to a server and prints the answer.
package main

import (
	"context"
	"fmt"
	"log"

	"github.com/seed-d0aa0aa7/tcpclient"
	"github.com/seed-d0aa0aa7/tcpclient/tcpclienttest"
)

func main() {
	server := tcpclienttest.NewServer(nil, tcpclienttest.Echo) // stands in for yours
	client, err := tcpclient.Dial(context.Background(), "tcp", server.Addr)
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()
	reply, err := client.Call(context.Background(), []byte("hello"))
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%s\n", reply)
}
