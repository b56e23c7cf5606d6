// Calls shows many requests in flight on one connection: a client shared by many
// goroutines, and a server that answers in any order. The id in front of each message,
// tcpclient.IDPrefix, brings every reply to its caller.
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

	// A caller who has waited long enough goes away. The connection lives on, and the
	// answer that comes too late is dropped.
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
