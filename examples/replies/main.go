// Replies shows requests that the server answers with several messages. Two searches share a
// connection: their hits come interleaved, and each loop gets its own, as they come. A third search
// is given up in the middle.
//
//	go run ./examples/replies
package main

import (
	"context"
	"fmt"
	"log"
	"strings"
	"sync"
	"time"

	"github.com/seed-d0aa0aa7/tcpclient"
	"github.com/seed-d0aa0aa7/tcpclient/tcpclienttest"
)

func main() {
	server := tcpclienttest.NewServer(nil, search)
	defer server.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()

	dialer := tcpclient.Dialer{
		Correlator: tcpclient.IDPrefix{},
		// Reports whether other replies follow this one.
		More: func(reply []byte) bool { return len(reply) > 0 },
	}
	client, err := dialer.Dial(ctx, "tcp", server.Addr)
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()

	var searches sync.WaitGroup
	for _, word := range []string{"an", "er"} {
		searches.Go(func() {
			for hit, err := range client.Replies(ctx, []byte(word)) {
				if err != nil {
					log.Fatal(err) // the last: the connection has ended, or ctx
				}
				if len(hit) > 0 {
					fmt.Printf("%s: %s\n", word, hit)
				}
			}
		})
	}
	searches.Wait()

	// After break, what still comes of this search is dropped. The connection lives on.
	for hit, err := range client.Replies(ctx, []byte("e")) {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Printf("first hit for e: %s\n", hit)
		break
	}

	// Call takes all replies together. There is no hit for this, and the end is empty.
	all, err := client.Call(ctx, []byte("xyz"))
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("xyz: %q\n", all)
}

// search handles a connection of the server. It answers each word with the fruits that contain it,
// and an empty message at the end; the searches take their time, and turns.
func search(conn *tcpclienttest.Conn) {
	var searches sync.WaitGroup
	defer searches.Wait()
	for request := range conn.Messages() {
		id, search, ok := tcpclient.IDPrefix{}.SplitReply(request)
		if !ok {
			return
		}
		word := string(search)
		searches.Go(func() {
			for _, fruit := range []string{"banana", "cherry", "cranberry", "elderberry", "mango", "orange", ""} {
				if !strings.Contains(fruit, word) && fruit != "" {
					continue
				}
				time.Sleep(5 * time.Millisecond)
				reply, _ := tcpclient.IDPrefix{}.AppendRequest(nil, id, []byte(fruit))
				if conn.Send(reply) != nil {
					return
				}
			}
		})
	}
}
