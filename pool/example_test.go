package pool_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

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

// While no server is there, Pick says so at once. Call waits for one as long as it may.
func ExamplePool_Pick_noConnection() {
	server := tcpclienttest.NewServer(nil, tcpclienttest.Echo)
	ctx := context.Background()
	servers, err := pool.Dial(ctx, nil, "tcp", 1, server.Addr)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer servers.Close()

	server.Close()
	servers.Clients()[0].Receive(ctx) // until the loss is known

	_, err = servers.Pick()
	fmt.Println("no connection:", errors.Is(err, pool.ErrNoConnection))

	impatient, cancel := context.WithTimeout(ctx, 10*time.Millisecond)
	defer cancel()
	_, err = servers.Call(impatient, []byte("hello"))
	fmt.Println("gave up:", errors.Is(err, context.DeadlineExceeded), "no connection:", errors.Is(err, pool.ErrNoConnection))
	// Output:
	// no connection: true
	// gave up: true no connection: true
}

// The end of a program: requests in flight get their replies, and no other is taken.
func ExamplePool_Shutdown() {
	arrived := make(chan bool, 2)
	server := tcpclienttest.NewServer(nil, func(conn *tcpclienttest.Conn) {
		for request := range conn.Messages() {
			arrived <- true
			time.Sleep(10 * time.Millisecond) // its work
			conn.Send(request)
		}
	})
	defer server.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	servers, err := pool.Dial(ctx, nil, "tcp", 2, server.Addr)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer servers.Close()

	var calls sync.WaitGroup
	for range 2 {
		calls.Go(func() {
			reply, err := servers.Call(ctx, []byte("hello"))
			fmt.Println(string(reply), err)
		})
		<-arrived
	}
	fmt.Println("shutdown:", servers.Shutdown(ctx))
	calls.Wait()
	_, err = servers.Call(ctx, []byte("hello"))
	fmt.Println("closed:", errors.Is(err, tcpclient.ErrClosed))
	// Unordered output:
	// hello <nil>
	// hello <nil>
	// shutdown: <nil>
	// closed: true
}
