// DNS asks a name server over TCP, where a length of two bytes precedes each message (RFC
// 1035, 4.2.2). It sends all questions at once. The answers come in any order; it matches
// them by id.
//
//	go run ./examples/dns                                        # a server of its own
//	go run ./examples/dns -server 9.9.9.9:53 example.com go.dev
package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"log"
	"math/rand/v2"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/seed-d0aa0aa7/tcpclient"
	"github.com/seed-d0aa0aa7/tcpclient/tcpclienttest"
)

var framer = tcpclient.LengthPrefix{Width: 2}

func main() {
	address := flag.String("server", "", "`host:port` of a name server; empty: one of our own")
	flag.Parse()
	names := flag.Args()
	if len(names) == 0 {
		names = []string{"a.test", "b.test", "nobody.test"}
	}
	if err := lookUp(*address, names); err != nil {
		log.Fatal(err)
	}
}

func lookUp(address string, names []string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if address == "" {
		server := tcpclienttest.NewServer(framer, serve)
		defer server.Close()
		address = server.Addr
	}

	d := tcpclient.Dialer{Framer: framer}
	client, err := d.Dial(ctx, "tcp", address)
	if err != nil {
		return err
	}
	defer client.Close()

	open := make(map[uint16]string) // questions without an answer, by id
	for i, name := range names {
		id := uint16(i + 1)
		msg, err := question(id, name)
		if err != nil {
			return err
		}
		if err := client.Write(ctx, msg); err != nil {
			return err
		}
		open[id] = name
	}
	if err := client.Flush(ctx); err != nil {
		return err
	}
	for len(open) > 0 {
		msg, err := client.Receive(ctx)
		if err != nil {
			return err
		}
		id, addresses, err := answer(msg)
		name, ok := open[id]
		switch {
		case !ok:
			return fmt.Errorf("answer %d to no question", id)
		case err != nil:
			fmt.Printf("%s: %v\n", name, err)
		default:
			fmt.Printf("%s: %v\n", name, addresses)
		}
		delete(open, id)
	}
	return nil
}

// headerSize is the size of the header: id, flags, and the numbers of questions, answers,
// authorities and additional records that follow.
const headerSize = 12

const (
	isResponse       = 1 << 15
	wantsRecursion   = 1 << 8
	codeMask         = 1<<4 - 1
	codeFormatError  = 1
	codeNoSuchName   = 3
	typeA, classINET = 1, 1
)

// question makes a message that asks for the IPv4 addresses of name.
func question(id uint16, name string) ([]byte, error) {
	msg := header(id, wantsRecursion, 1, 0)
	for label := range strings.SplitSeq(strings.TrimSuffix(name, "."), ".") {
		if len(label) == 0 || len(label) > 63 {
			return nil, fmt.Errorf("not a name: %q", name)
		}
		msg = append(msg, byte(len(label)))
		msg = append(msg, label...)
	}
	return append(msg, 0, 0, typeA, 0, classINET), nil
}

// header makes the header of a message.
func header(id, flags, questions, answers uint16) []byte {
	var msg []byte
	for _, field := range []uint16{id, flags, questions, answers, 0, 0} {
		msg = binary.BigEndian.AppendUint16(msg, field)
	}
	return msg
}

// answer returns the id of an answer and the addresses in it.
func answer(msg []byte) (id uint16, addresses []netip.Addr, err error) {
	r := &reader{rest: msg}
	id = r.uint16()
	flags, questions, answers := r.uint16(), r.uint16(), r.uint16()
	r.take(4) // the other counts
	switch {
	case flags&isResponse == 0:
		return id, nil, errors.New("not an answer")
	case flags&codeMask == codeNoSuchName:
		return id, nil, errors.New("no such name")
	case flags&codeMask != 0:
		return id, nil, fmt.Errorf("the server refuses: code %d", flags&codeMask)
	}
	for range questions {
		r.name()
		r.take(4)
	}
	for range answers {
		r.name()
		kind := r.uint16()
		r.take(6) // class, time to live
		data := r.take(int(r.uint16()))
		if kind == typeA && len(data) == 4 {
			addresses = append(addresses, netip.AddrFrom4([4]byte(data)))
		}
	}
	if r.short {
		return id, nil, errors.New("the answer is cut off")
	}
	return id, addresses, nil
}

// A reader takes a message apart. After the end of the message it reads zeros.
type reader struct {
	rest  []byte
	short bool // the message ended too soon
}

func (r *reader) take(n int) []byte {
	if n > len(r.rest) {
		r.short, r.rest = true, make([]byte, n)
	}
	head := r.rest[:n]
	r.rest = r.rest[n:]
	return head
}

func (r *reader) uint16() uint16 { return binary.BigEndian.Uint16(r.take(2)) }

// name skips a name: labels up to an empty one, or up to a pointer to the rest.
func (r *reader) name() {
	for {
		switch n := r.take(1)[0]; {
		case n == 0:
			return
		case n >= 0xC0:
			r.take(1)
			return
		default:
			r.take(int(n))
		}
	}
}

// zone is what our own server knows.
var zone = map[string]netip.Addr{
	"a.test": netip.MustParseAddr("192.0.2.1"),
	"b.test": netip.MustParseAddr("192.0.2.2"),
}

// serve is a name server. It answers each query after a random time, so the answers come in
// any order.
func serve(conn *tcpclienttest.Conn) {
	var answering sync.WaitGroup
	defer answering.Wait()
	for {
		query, err := conn.Receive()
		if err != nil {
			return
		}
		answering.Go(func() {
			time.Sleep(rand.N(20 * time.Millisecond))
			conn.Send(respond(query))
		})
	}
}

// respond makes the answer to a query with one question.
func respond(query []byte) []byte {
	r := &reader{rest: query}
	id := r.uint16()
	r.take(headerSize - 2)
	asked := r.rest
	r.name()
	r.take(4)
	if r.short {
		return header(id, isResponse|codeFormatError, 0, 0)
	}
	asked = asked[:len(asked)-len(r.rest)]
	for name, address := range zone {
		known, err := question(id, name)
		if err != nil || !bytes.Equal(known[headerSize:], asked) {
			continue
		}
		msg := append(header(id, isResponse, 1, 1), asked...)
		msg = append(msg, 0xC0, headerSize, 0, typeA, 0, classINET, 0, 0, 0, 60, 0, 4) // the name is in the question; 60 s; 4 bytes
		return append(msg, address.AsSlice()...)
	}
	return append(header(id, isResponse|codeNoSuchName, 1, 0), asked...)
}
