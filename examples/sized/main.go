// Sized subscribes to a broker of MQTT 3.1.1, whose packets have a length that no other Framer
// reads. It shows Sized with a function for that, a Handshake that logs in and subscribes on every
// new connection, what comes ahead of the answer there, and a Heartbeat.
//
//	go run ./examples/sized                                  # a broker of its own
//	go run ./examples/sized -addr localhost:1883 -topic 'a/#' # until interrupted
package main

import (
	"context"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"log"
	"os"
	"os/signal"
	"time"

	"github.com/seed-d0aa0aa7/tcpclient"
	"github.com/seed-d0aa0aa7/tcpclient/tcpclienttest"
)

// The first bytes of packets.
const (
	connect, connAck, publish, pubAck    = 0x10, 0x20, 0x30, 0x40
	subscribe, subAck, pingReq, pingResp = 0x82, 0x90, 0xc0, 0xd0
)

var framer = tcpclient.Sized{Size: size, MaxSize: 1 << 20}

// size returns the size of the packet that p begins: one byte, 1 to 4 bytes of length, the rest.
func size(p []byte) (int, error) {
	rest, n := binary.Uvarint(p[1:])
	switch {
	case n > 4 || n <= 0 && len(p) > 4:
		return 0, errors.New("length of more than 4 bytes")
	case n == 0:
		return 0, nil // ask again with more bytes
	}
	return 1 + n + int(rest), nil
}

func main() {
	address := flag.String("addr", "", "`host:port` of a broker; empty: one of our own")
	topic := flag.String("topic", "#", "what to subscribe to")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	interval, limit := 20*time.Second, 0
	if *address == "" {
		server := tcpclienttest.NewServer(framer, serve)
		defer server.Close()
		*address, interval, limit = server.Addr, 100*time.Millisecond, 4
	}
	if err := run(ctx, *address, *topic, interval, limit); err != nil && ctx.Err() == nil {
		log.Fatal(err)
	}
}

// run prints messages: limit of them, or until ctx is done if that is 0.
func run(ctx context.Context, address, topic string, interval time.Duration, limit int) error {
	d := tcpclient.Dialer{
		Framer:    framer,
		Handshake: func(ctx context.Context, conn *tcpclient.Conn) error { return login(ctx, conn, topic) },
		Heartbeat: tcpclient.Heartbeat{
			Interval: interval,
			Timeout:  interval + 10*time.Second,
			Ping:     func() []byte { return []byte{pingReq, 0} },
			IsPong:   func(msg []byte) bool { return msg[0] == pingResp },
		},
		Reconnect: &tcpclient.Backoff{},
		Trace:     &tcpclient.Trace{Pong: func(time.Duration) { fmt.Println("(pong)") }},
	}
	client, err := d.Dial(ctx, "tcp", address)
	if err != nil {
		return err
	}
	defer client.Close()
	for n := 0; limit == 0 || n < limit; {
		msg, err := client.Receive(ctx)
		switch {
		case errors.Is(err, tcpclient.ErrDisconnected) && tcpclient.Classify(err) == tcpclient.ClassDisconnected:
			fmt.Printf("(%v)\n", err) // the next connection subscribes again
		case err != nil:
			return err
		case msg[0]&0xf0 == publish:
			if err := show(ctx, client, msg); err != nil {
				return err
			}
			n++
		}
	}
	return nil
}

// login connects, with a session that the broker keeps, and subscribes. With such a session the broker
// sends what it has kept, and that may come before its answer.
func login(ctx context.Context, conn *tcpclient.Conn, topic string) error {
	hello := append([]byte("\x00\x04MQTT\x04\x00\x00\x3c"), text("example-sized")...) // 60 s of silence are allowed
	if _, err := exchange(ctx, conn, packet(connect, hello), connAck); err != nil {
		return err
	}
	filter := append([]byte{0, 1}, append(text(topic), 1)...) // packet 1, at least once
	answer, err := exchange(ctx, conn, packet(subscribe, filter), subAck)
	if err == nil && answer[len(answer)-1] == 0x80 {
		err = tcpclient.Permanent(fmt.Errorf("not allowed to subscribe to %s", topic))
	}
	return err
}

// exchange sends a packet and returns the answer of a kind. What comes before it is for Receive.
func exchange(ctx context.Context, conn *tcpclient.Conn, msg []byte, kind byte) ([]byte, error) {
	if err := conn.Send(ctx, msg); err != nil {
		return nil, err
	}
	for {
		answer, err := conn.Receive(ctx)
		switch {
		case err != nil:
			return nil, err
		case answer[0] != kind:
			conn.Deliver(answer)
		case kind == connAck && answer[len(answer)-1] != 0:
			return nil, tcpclient.Permanent(fmt.Errorf("refused with code %d", answer[len(answer)-1]))
		default:
			return answer, nil
		}
	}
}

// show prints a PUBLISH, and acknowledges it if the broker wants that.
func show(ctx context.Context, client *tcpclient.Client, msg []byte) error {
	_, n := binary.Uvarint(msg[1:])
	body := msg[1+n:]
	if len(body) < 2 || len(body) < 2+int(binary.BigEndian.Uint16(body)) {
		return errors.New("PUBLISH without a topic, or too short")
	}
	end := 2 + int(binary.BigEndian.Uint16(body))
	topic, payload := body[2:end], body[end:]
	if msg[0]&0x06 == 0 { // at most once
		fmt.Printf("%s: %s\n", topic, payload)
		return nil
	}
	if len(payload) < 2 {
		return errors.New("PUBLISH without a number")
	}
	fmt.Printf("%s: %s\n", topic, payload[2:])
	return client.Send(ctx, packet(pubAck, payload[:2])) // its number
}

func packet(kind byte, rest []byte) []byte {
	return append(binary.AppendUvarint([]byte{kind}, uint64(len(rest))), rest...)
}

func text(s string) []byte {
	return append(binary.BigEndian.AppendUint16(nil, uint16(len(s))), s...)
}
