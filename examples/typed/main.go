// Typed gives requests and replies Go types: a line of JSON each. That takes one generic
// function, and nothing of tcpclient that other programs do not use.
//
//	go run ./examples/typed
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"log"
	"time"

	"github.com/seed-d0aa0aa7/tcpclient"
	"github.com/seed-d0aa0aa7/tcpclient/tcpclienttest"
)

type question struct{ Numbers []int }

type answer struct{ Sum, Largest int }

// call sends a request and returns its reply.
func call[Reply, Request any](ctx context.Context, client *tcpclient.Client, request Request) (reply Reply, err error) {
	msg, err := json.Marshal(request) // has no line break
	if err != nil {
		return reply, err
	}
	if msg, err = client.Call(ctx, msg); err != nil {
		return reply, err
	}
	err = json.Unmarshal(msg, &reply)
	return reply, err
}

func main() {
	server := tcpclienttest.NewServer(tcpclient.Lines{}, serve)
	defer server.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	dialer := tcpclient.Dialer{Framer: tcpclient.Lines{}}
	client, err := dialer.Dial(ctx, "tcp", server.Addr)
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()

	a, err := call[answer](ctx, client, question{Numbers: []int{3, 9, 4}})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%+v\n", a)
}

// serve handles a connection of the server.
func serve(conn *tcpclienttest.Conn) {
	for line := range conn.Messages() {
		var q question
		if json.Unmarshal(line, &q) != nil {
			return
		}
		var a answer
		for _, n := range q.Numbers {
			a.Sum, a.Largest = a.Sum+n, max(a.Largest, n)
		}
		reply, _ := json.Marshal(a)
		conn.Send(reply)
	}
}
