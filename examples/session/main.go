// Session shows a transaction. That is state on the server between requests, and is gone with its
// connection. Here the server drops the connection in the middle of one. With Client.Call the
// requests that follow would go to the next connection, and half of it would be done. A
// Session stays on its connection: the rest fails, too, and the whole can be tried again.
//
//	go run ./examples/session
package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/seed-d0aa0aa7/tcpclient"
	"github.com/seed-d0aa0aa7/tcpclient/tcpclienttest"
)

func main() {
	server := tcpclienttest.NewServer(tcpclient.Lines{}, new(ledger).serve)
	defer server.Close()
	if err := run(server.Addr); err != nil {
		log.Fatal(err)
	}
}

func run(address string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	dialer := tcpclient.Dialer{
		Framer:    tcpclient.Lines{},
		Reconnect: &tcpclient.Backoff{Min: 10 * time.Millisecond},
	}
	client, err := dialer.Dial(ctx, "tcp", address)
	if err != nil {
		return err
	}
	defer client.Close()

	for done := false; !done; {
		err := transfer(ctx, client)
		switch {
		case err == nil:
			done = true
		case errors.Is(err, errCommit) || !errors.Is(err, tcpclient.ErrDisconnected):
			return err
		default:
			fmt.Println("once more:", err)
		}
		// Any connection will do for this. Call waits for one; Session would not.
		entries, err := client.Call(ctx, []byte("LIST"))
		if err != nil {
			return err
		}
		fmt.Printf("entries: [%s]\n", entries)
	}
	return nil
}

// errCommit: the transaction may have been done. Look at the entries before another try.
var errCommit = errors.New("no answer to COMMIT")

// transfer moves money in a transaction. Unless the error is errCommit, an error means that nothing
// was moved: the server forgets a transaction whose connection has ended.
func transfer(ctx context.Context, client *tcpclient.Client) error {
	session, err := client.Session()
	if err != nil {
		return err
	}
	for _, request := range []string{"BEGIN", "alice -10", "bob +10"} {
		if _, err := session.Call(ctx, []byte(request)); err != nil {
			return fmt.Errorf("%s: %w", request, err)
		}
	}
	_, err = session.Call(ctx, []byte("COMMIT"))
	var failed *tcpclient.OpError
	if errors.As(err, &failed) && !failed.Unsent {
		return fmt.Errorf("%w: %w", errCommit, err)
	}
	return err
}

// A ledger is what the server has.
type ledger struct {
	dropped atomic.Bool // a connection, in the middle of a transaction

	mu      sync.Mutex // guards following
	entries []string
}

// serve handles a connection. It answers each line.
func (l *ledger) serve(conn *tcpclienttest.Conn) {
	var begun []string // the transaction; nil: none
	for line := range conn.Messages() {
		answer := "OK"
		switch entry := string(line); {
		case entry == "LIST":
			answer = strings.Join(l.add(), ", ")
		case entry == "BEGIN":
			begun = []string{}
		case entry == "COMMIT":
			l.add(begun...)
			begun = nil
		case begun == nil:
			l.add(entry)
		default:
			begun = append(begun, entry)
			if l.dropped.CompareAndSwap(false, true) {
				return
			}
		}
		if conn.Send([]byte(answer)) != nil {
			return
		}
	}
}

// add adds entries and returns all.
func (l *ledger) add(entries ...string) []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.entries = append(l.entries, entries...)
	return l.entries
}
