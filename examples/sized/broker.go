package main

import "github.com/seed-d0aa0aa7/tcpclient/tcpclienttest"

// serve handles a connection of the broker: it publishes something before it answers SUBSCRIBE, and
// after the first ping, and hangs up.
func serve(conn *tcpclienttest.Conn) {
	for msg := range conn.Messages() {
		switch msg[0] {
		case connect:
			conn.Send(packet(connAck, []byte{1, 0}))
		case subscribe:
			kept := append(text("news"), "\x00\x07while you were away"...)
			conn.Send(packet(publish|2, kept)) // at least once, number 7
			conn.Send(packet(subAck, []byte{0, 1, 1}))
		case pingReq:
			conn.Send(packet(pingResp, nil))
			conn.Send(packet(publish, append(text("news"), "just in"...)))
			return
		}
	}
}
