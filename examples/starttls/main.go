// StartTLS logs in to a mail server as SMTP has it (RFC 3207): greeting and EHLO in the clear, then
// TLS on the same connection, and EHLO again. All of that is the Handshake, and so it happens on every
// new connection, before the first request of the program.
//
//	go run ./examples/starttls                        # a server of its own
//	go run ./examples/starttls -addr mail.example.com:587
package main

import (
	"context"
	"crypto/tls"
	"errors"
	"flag"
	"fmt"
	"log"
	"slices"
	"strings"
	"time"

	"github.com/seed-d0aa0aa7/tcpclient"
	"github.com/seed-d0aa0aa7/tcpclient/tcpclienttest"
)

var framer = tcpclient.Lines{CRLF: true}

func main() {
	address := flag.String("addr", "", "`host:port` of a server; empty: one of our own")
	flag.Parse()
	trust := &tls.Config{} // the authorities of the system, and the name that is dialed
	if *address == "" {
		var own *tls.Config
		own, trust = tcpclienttest.NewTLSConfig() // a new certificate, which no authority has signed
		server := tcpclienttest.NewServer(framer, func(conn *tcpclienttest.Conn) { serve(conn, own) })
		defer server.Close()
		*address = server.Addr
	}
	if err := run(*address, trust); err != nil {
		log.Fatal(err)
	}
}

func run(address string, trust *tls.Config) error {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	dialer := tcpclient.Dialer{
		Framer:    framer,
		Handshake: func(ctx context.Context, conn *tcpclient.Conn) error { return upgrade(ctx, conn, trust) },
	}
	client, err := dialer.Dial(ctx, "tcp", address)
	if err != nil {
		return err
	}
	defer client.Close()
	for _, request := range []string{"NOOP", "QUIT"} {
		reply, err := client.Call(ctx, []byte(request))
		if err != nil {
			return err
		}
		fmt.Printf("%s -> %s\n", request, reply)
	}
	return nil
}

// upgrade begins TLS. Nothing that was said in the clear counts after that, so EHLO comes again.
func upgrade(ctx context.Context, conn *tcpclient.Conn, trust *tls.Config) error {
	if _, err := exchange(ctx, conn, "", "220"); err != nil {
		return err
	}
	features, err := exchange(ctx, conn, "EHLO localhost", "250")
	if err != nil {
		return err
	}
	if !slices.Contains(features, "STARTTLS") {
		return tcpclient.Permanent(errors.New("the server has no STARTTLS")) // do not go on in the clear
	}
	if _, err := exchange(ctx, conn, "STARTTLS", "220"); err != nil {
		return err
	}
	if err := conn.StartTLS(ctx, trust); err != nil {
		return err
	}
	state := conn.NetConn().(*tls.Conn).ConnectionState()
	fmt.Println(tls.VersionName(state.Version), "with", state.PeerCertificates[0].Subject)
	_, err = exchange(ctx, conn, "EHLO localhost", "250")
	return err
}

// exchange sends a command, or nothing if it is empty, and returns the lines of the reply without
// its code.
func exchange(ctx context.Context, conn *tcpclient.Conn, command, code string) (lines []string, err error) {
	if command != "" {
		if err := conn.Send(ctx, []byte(command)); err != nil {
			return nil, err
		}
	}
	for {
		msg, err := conn.Receive(ctx)
		if err != nil {
			return nil, err
		}
		line := string(msg)
		if !strings.HasPrefix(line, code) {
			return nil, fmt.Errorf("answer to %q: %s", command, line)
		}
		rest := line[len(code):]
		lines = append(lines, strings.TrimLeft(rest, "- "))
		if !strings.HasPrefix(rest, "-") { // the last
			return lines, nil
		}
	}
}
