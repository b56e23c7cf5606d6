package main

import (
	"bufio"
	"crypto/tls"
	"net"

	"github.com/seed-d0aa0aa7/tcpclient/tcpclienttest"
)

// serve handles a connection of the server: in the clear up to STARTTLS, then over TLS.
func serve(conn *tcpclienttest.Conn, settings *tls.Config) {
	conn.Send([]byte("220 mail.example.com ESMTP"))
	for line := range conn.Messages() {
		switch string(line) {
		case "EHLO localhost":
			conn.Send([]byte("250-mail.example.com"))
			conn.Send([]byte("250 STARTTLS"))
		case "STARTTLS":
			conn.Send([]byte("220 go ahead"))
			serveTLS(tls.Server(conn.NetConn(), settings))
			return
		default:
			conn.Send([]byte("530 STARTTLS first"))
		}
	}
}

func serveTLS(conn net.Conn) {
	defer conn.Close()
	r, w := bufio.NewReader(conn), bufio.NewWriter(conn)
	for {
		line, err := framer.ReadFrame(r, nil)
		if err != nil {
			return
		}
		answer := "250 OK"
		if string(line) == "QUIT" {
			answer = "221 bye"
		}
		if framer.WriteFrame(w, []byte(answer)) != nil || w.Flush() != nil || answer == "221 bye" {
			return
		}
	}
}
