// Command natsd is the nats-server that bench starts. It is a program of its own since the
// package sets a timer as soon as it is linked in, and while a program has a timer the scheduler
// asks for the time at each switch of goroutines.
//
// It announces its address on standard output and serves until its standard input ends.
package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
)

func main() {
	if err := serve(); err != nil {
		fmt.Fprintln(os.Stderr, "natsd:", err)
		os.Exit(1)
	}
}

func serve() error {
	s, err := server.NewServer(&server.Options{
		Host: "127.0.0.1", Port: server.RANDOM_PORT, NoLog: true, NoSigs: true, MaxPayload: 4 << 20, MaxPending: 1 << 30,
	})
	if err != nil {
		return err
	}
	s.Start()
	if !s.ReadyForConnections(10 * time.Second) {
		return errors.New("the server does not start")
	}
	nc, err := nats.Connect("", nats.InProcessServer(s))
	if err != nil {
		return err
	}
	if _, err := nc.Subscribe("echo", func(m *nats.Msg) { m.Respond(m.Data) }); err != nil {
		return err
	}
	if _, err := nc.Subscribe("source", func(m *nats.Msg) { stream(nc, m) }); err != nil {
		return err
	}
	if err := nc.Flush(); err != nil {
		return err
	}
	fmt.Println(s.Addr())
	_, err = io.Copy(io.Discard, os.Stdin)
	return err
}

// stream sends the messages that were ordered: how many, and how large, is behind the first byte.
func stream(nc *nats.Conn, order *nats.Msg) {
	if len(order.Data) != 13 {
		return
	}
	msg := make([]byte, binary.BigEndian.Uint32(order.Data[1:]))
	for range binary.BigEndian.Uint64(order.Data[5:]) {
		nc.Publish(order.Reply, msg)
	}
	nc.Flush()
}
