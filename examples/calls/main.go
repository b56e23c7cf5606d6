// Calls shows many requests in flight on one connection. Many goroutines share a client,
// and the server answers in any order. Each goroutine gets its own reply, by the id that
// tcpclient.IDPrefix puts in front of each message.
package main

import (
	"context"
	"fmt"
	"log"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/seed-d0aa0aa7/tcpclient"
	"github.com/seed-d0aa0aa7/tcpclient/tcpclienttest"
)

func main() {
	server := tcpclienttest.NewServer(tcpclient.LengthPrefix{}, answerInAnyOrder)
	defer server.Close()

	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	dialer := tcpclient.Dialer{Correlator: tcpclient.IDPrefix{}}
	client, err := dialer.Dial(ctx, "tcp", server.Addr)
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()

	var wg sync.WaitGroup
	for i := range 10 {
		wg.Go(func() {
			question := fmt.Sprintf("question %d", i)
			answer, err := client.Call(ctx, []byte(question))
			if err != nil {
				log.Fatal(err)
			}
			fmt.Printf("%s: %s\n", question, answer)
		})
	}
	wg.Wait()

	// The end of a context ends its Call. The connection lives on, and the late answer is
	// dropped.
	impatient, stop := context.WithTimeout(ctx, time.Millisecond)
	defer stop()
	_, err = client.Call(impatient, []byte("something slow"))
	fmt.Printf("impatient: %v\n", err)

	answer, err := client.Call(ctx, []byte("one more"))
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("one more: %s\n", answer)
}

// answerInAnyOrder answers each request after a random time.
func answerInAnyOrder(conn *tcpclienttest.Conn) {
	var wg sync.WaitGroup
	defer wg.Wait()
	for request := range conn.Messages() {
		id, question, ok := (tcpclient.IDPrefix{}).SplitReply(request)
		if !ok {
			return
		}
		answer := fmt.Appendf(nil, "answer to %q", question)
		wg.Go(func() {
			time.Sleep(5*time.Millisecond + rand.N(20*time.Millisecond))
			reply, _ := tcpclient.IDPrefix{}.AppendRequest(nil, id, answer)
			conn.Send(reply)
		})
	}
}
