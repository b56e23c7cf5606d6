package pool_test

import (
	"context"
	"fmt"

	"github.com/seed-d0aa0aa7/tcpclient"
	"github.com/seed-d0aa0aa7/tcpclient/pool"
	"github.com/seed-d0aa0aa7/tcpclient/tcpclienttest"
)

func Example() {
	first := tcpclienttest.NewServer(nil, tcpclienttest.Echo)
	defer first.Close()
	second := tcpclienttest.NewServer(nil, tcpclienttest.Echo)
	defer second.Close()

	ctx := context.Background()
	dialer := tcpclient.Dialer{Correlator: tcpclient.IDPrefix{}}
	servers, err := pool.Dial(ctx, &dialer, "tcp", 2, first.Addr, second.Addr)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer servers.Close()

	reply, err := servers.Call(ctx, []byte("hello"))
	fmt.Println(string(reply), err)
	fmt.Println(len(servers.Clients()), "connections")
	// Output:
	// hello <nil>
	// 4 connections
}

// Requests that belong together go to one server, by Pick or by a key.
func ExamplePool_Pick() {
	server := tcpclienttest.NewServer(nil, tcpclienttest.Echo)
	defer server.Close()

	ctx := context.Background()
	servers, err := pool.Dial(ctx, nil, "tcp", 3, server.Addr)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer servers.Close()

	client, err := servers.Pick()
	if err != nil {
		fmt.Println(err) // says what all the connections lack
		return
	}
	transaction, err := client.Session()
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, request := range []string{"begin", "insert", "commit"} {
		reply, err := transaction.Call(ctx, []byte(request))
		if err != nil {
			fmt.Println(err) // the transaction has ended with its connection
			return
		}
		fmt.Println(string(reply))
	}
	// Output:
	// begin
	// insert
	// commit
}
