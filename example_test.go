package tcpclient_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"expvar"
	"fmt"
	"io"
	"log"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/seed-d0aa0aa7/tcpclient"
	"github.com/seed-d0aa0aa7/tcpclient/tcpclienttest"
)

// Settings for a connection that is to stay for months: it is made again when it is
// lost, and a server that is gone without a word is found out.
func ExampleDialer() {
	server := tcpclienttest.NewServer(nil, tcpclienttest.Echo)
	defer server.Close()

	dialer := tcpclient.Dialer{
		Timeout:      5 * time.Second, // for one attempt: name, TCP, TLS and login
		WriteTimeout: 5 * time.Second,
		Reconnect:    &tcpclient.Backoff{Max: 10 * time.Second, FirstDial: true},
		Heartbeat: tcpclient.Heartbeat{
			Interval: 15 * time.Second,
			Timeout:  40 * time.Second,
			Ping:     func() []byte { return []byte("ping") },
			IsPong:   func(msg []byte) bool { return string(msg) == "ping" }, // this server is an echo
		},
	}
	ctx := context.Background()
	client, err := dialer.Dial(ctx, "tcp", server.Addr)
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()
	reply, err := client.Call(ctx, []byte("hello"))
	fmt.Println(string(reply), err)

	server.CloseConnections()
	_, err = client.Receive(ctx) // each loss is reported once
	fmt.Println(errors.Is(err, tcpclient.ErrDisconnected))

	reply, err = client.Call(ctx, []byte("hello again")) // waits for the next connection
	fmt.Println(string(reply), err)
	// Output:
	// hello <nil>
	// true
	// hello again <nil>
}

// A login on every new connection. A password that was refused will be refused again:
// Permanent ends the Client, where any other error is followed by another attempt.
func ExampleDialer_handshake() {
	server := tcpclienttest.NewServer(tcpclient.Lines{}, func(conn *tcpclienttest.Conn) {
		login, err := conn.Receive()
		if err != nil || string(login) != "LOGIN secret" {
			conn.Send([]byte("DENIED"))
			return
		}
		conn.Send([]byte("OK"))
		tcpclienttest.Echo(conn)
	})
	defer server.Close()

	connect := func(password string) (*tcpclient.Client, error) {
		dialer := tcpclient.Dialer{
			Framer:    tcpclient.Lines{},
			Reconnect: &tcpclient.Backoff{FirstDial: true},
			Handshake: func(ctx context.Context, conn *tcpclient.Conn) error {
				if err := conn.Send(ctx, []byte("LOGIN "+password)); err != nil {
					return err
				}
				switch reply, err := conn.Receive(ctx); {
				case err != nil:
					return err
				case string(reply) == "DENIED":
					return tcpclient.Permanent(errors.New("the password was refused"))
				case string(reply) != "OK":
					return fmt.Errorf("strange reply to the login: %q", reply)
				}
				return nil
			},
		}
		return dialer.Dial(context.Background(), "tcp", server.Addr)
	}

	client, err := connect("secret")
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()
	reply, err := client.Call(context.Background(), []byte("hello"))
	fmt.Println(string(reply), err)

	_, err = connect("sesame")
	fmt.Println(errors.Unwrap(err))
	fmt.Println(tcpclient.Classify(err))
	// Output:
	// hello <nil>
	// the password was refused
	// permanent
}

// SMTP begins in the clear and goes on with TLS once both sides want it. When StartTLS fails, so
// does the attempt: the client never goes on in the clear.
func ExampleConn_StartTLS() {
	serverTLS, clientTLS := tcpclienttest.NewTLSConfig()
	server := tcpclienttest.NewServer(tcpclient.Lines{CRLF: true}, func(conn *tcpclienttest.Conn) {
		conn.Send([]byte("220 mail.example.com ready"))
		conn.Receive() // STARTTLS
		conn.Send([]byte("220 go ahead"))
		secure := tls.Server(conn.NetConn(), serverTLS)
		for in := bufio.NewScanner(secure); in.Scan(); {
			fmt.Fprintf(secure, "250 %s, through TLS\r\n", in.Text())
		}
	})
	defer server.Close()

	dialer := tcpclient.Dialer{
		Framer: tcpclient.Lines{CRLF: true},
		Handshake: func(ctx context.Context, conn *tcpclient.Conn) error {
			if _, err := conn.Receive(ctx); err != nil { // the greeting
				return err
			}
			if err := conn.Send(ctx, []byte("STARTTLS")); err != nil {
				return err
			}
			switch reply, err := conn.Receive(ctx); {
			case err != nil:
				return err
			case !bytes.HasPrefix(reply, []byte("220 ")):
				return fmt.Errorf("no TLS: %q", reply)
			}
			return conn.StartTLS(ctx, clientTLS)
		},
	}
	client, err := dialer.Dial(context.Background(), "tcp", server.Addr)
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()
	reply, err := client.Call(context.Background(), []byte("EHLO me"))
	fmt.Println(string(reply), err)
	// Output:
	// 250 EHLO me, through TLS <nil>
}

// RFB, the protocol of VNC, begins with a line for the version and goes on without lines. Here
// messages with a length follow it.
func ExampleConn_SetFramer() {
	server := tcpclienttest.NewServer(nil, func(conn *tcpclienttest.Conn) {
		fmt.Fprintf(conn.NetConn(), "RFB 003.008\n")
		version := make([]byte, len("RFB 003.008\n"))
		io.ReadFull(conn.NetConn(), version)
		tcpclienttest.Echo(conn)
	})
	defer server.Close()

	dialer := tcpclient.Dialer{
		Framer: tcpclient.Lines{}, // each connection begins with it
		Handshake: func(ctx context.Context, conn *tcpclient.Conn) error {
			version, err := conn.Receive(ctx)
			if err != nil {
				return err
			}
			fmt.Printf("server: %s\n", version)
			if err := conn.Send(ctx, version); err != nil {
				return err
			}
			return conn.SetFramer(tcpclient.LengthPrefix{})
		},
	}
	client, err := dialer.Dial(context.Background(), "tcp", server.Addr)
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()
	reply, err := client.Call(context.Background(), []byte("two\nlines"))
	fmt.Printf("%q %v\n", reply, err)
	// Output:
	// server: RFB 003.008
	// "two\nlines" <nil>
}

// A server that kept messages for us may send them before it answers the subscription.
func ExampleConn_Deliver() {
	server := tcpclienttest.NewServer(tcpclient.Lines{}, func(conn *tcpclienttest.Conn) {
		conn.Receive() // SUBSCRIBE
		conn.Send([]byte("NEWS kept for you"))
		conn.Send([]byte("SUBSCRIBED"))
		conn.Send([]byte("NEWS of today"))
		conn.Receive() // until the client hangs up
	})
	defer server.Close()

	dialer := tcpclient.Dialer{
		Framer: tcpclient.Lines{},
		Handshake: func(ctx context.Context, conn *tcpclient.Conn) error {
			if err := conn.Send(ctx, []byte("SUBSCRIBE")); err != nil {
				return err
			}
			for {
				msg, err := conn.Receive(ctx)
				if err != nil || string(msg) == "SUBSCRIBED" {
					return err
				}
				conn.Deliver(msg)
			}
		},
	}
	client, err := dialer.Dial(context.Background(), "tcp", server.Addr)
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()
	for range 2 {
		msg, err := client.Receive(context.Background())
		fmt.Println(string(msg), err)
	}
	// Output:
	// NEWS kept for you <nil>
	// NEWS of today <nil>
}

// A payment must not be made twice. What is Unsent may be repeated; all else has to be
// asked for.
func ExampleOpError_unsent() {
	server := tcpclienttest.NewServer(tcpclient.Lines{}, func(conn *tcpclienttest.Conn) {
		for msg := range conn.Messages() {
			if string(msg) == "pay 10" {
				return // hangs up: who knows whether it has paid?
			}
			conn.Send(append([]byte("done: "), msg...))
		}
	})
	defer server.Close()

	ctx := context.Background()
	dialer := tcpclient.Dialer{Framer: tcpclient.Lines{}}
	client, err := dialer.Dial(ctx, "tcp", server.Addr)
	if err != nil {
		log.Fatal(err)
	}
	defer func() { client.Close() }()

	for _, request := range []string{"pay 10", "pay 20"} {
		reply, err := client.Call(ctx, []byte(request))

		var op *tcpclient.OpError
		if errors.As(err, &op) && op.Unsent {
			fmt.Println(request, "was not sent: repeat it on a new connection")
			client.Close()
			if client, err = dialer.Dial(ctx, "tcp", server.Addr); err != nil {
				log.Fatal(err)
			}
			reply, err = client.Call(ctx, []byte(request))
		}
		if err != nil {
			fmt.Println(request, "may have been made: ask before you repeat it")
			continue
		}
		fmt.Println(string(reply))
	}
	// Output:
	// pay 10 may have been made: ask before you repeat it
	// pay 20 was not sent: repeat it on a new connection
	// done: pay 20
}

// What to do next depends on the class of an error, not on its text.
func ExampleClassify() {
	server := tcpclienttest.NewServer(nil, func(conn *tcpclienttest.Conn) {
		conn.Receive() // one message, then it hangs up
	})
	defer server.Close()
	ctx := context.Background()
	dialer := tcpclient.Dialer{Framer: tcpclient.LengthPrefix{MaxSize: 10}}
	client, err := dialer.Dial(ctx, "tcp", server.Addr)
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()

	classify := func(what string, err error) {
		switch tcpclient.Classify(err) {
		case tcpclient.ClassTemporary:
			fmt.Println(what+":", "try again on this connection")
		case tcpclient.ClassDisconnected:
			fmt.Println(what+":", "dial again")
		case tcpclient.ClassPermanent:
			fmt.Println(what+":", "give up this message, or this client")
		}
	}

	impatient, cancel := context.WithTimeout(ctx, time.Millisecond)
	defer cancel()
	_, err = client.Receive(impatient)
	classify("no message in time", err)

	classify("message too long", client.Send(ctx, []byte("more than ten bytes")))

	_, err = client.Call(ctx, []byte("bye"))
	classify("end of the connection", err)

	client.Close()
	_, err = tcpclient.Dial(ctx, "tcp", "127.0.0.1") // without a port
	classify("wrong address", err)
	// Output:
	// no message in time: try again on this connection
	// message too long: give up this message, or this client
	// end of the connection: dial again
	// wrong address: give up this message, or this client
}

// Any number of goroutines ask on one connection, and each gets its own answer.
func ExampleClient_Call() {
	server := tcpclienttest.NewServer(nil, tcpclienttest.Echo)
	defer server.Close()

	ctx := context.Background()
	dialer := tcpclient.Dialer{Correlator: tcpclient.IDPrefix{}} // without one: replies come in order
	client, err := dialer.Dial(ctx, "tcp", server.Addr)
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()

	var replies [3]string
	var group sync.WaitGroup
	for i := range replies {
		group.Go(func() {
			reply, err := client.Call(ctx, fmt.Appendf(nil, "question %d", i))
			if err != nil {
				replies[i] = err.Error()
				return
			}
			replies[i] = string(reply)
		})
	}
	group.Wait()
	for i, reply := range replies {
		fmt.Printf("%d: %s\n", i, reply)
	}
	// Output:
	// 0: question 0
	// 1: question 1
	// 2: question 2
}

// A server answers one request with several messages: each row as it comes, then the end.
func ExampleClient_Replies() {
	server := tcpclienttest.NewServer(tcpclient.Lines{}, func(conn *tcpclienttest.Conn) {
		for range conn.Messages() {
			for _, row := range []string{"+ apples 7", "+ pears 3", "+ plums 12", ". 3 rows"} {
				conn.Send([]byte(row))
			}
		}
	})
	defer server.Close()

	ctx := context.Background()
	dialer := tcpclient.Dialer{
		Framer: tcpclient.Lines{},
		More:   func(reply []byte) bool { return bytes.HasPrefix(reply, []byte("+")) },
	}
	client, err := dialer.Dial(ctx, "tcp", server.Addr)
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()

	for row, err := range client.Replies(ctx, []byte("LIST")) {
		if err != nil {
			log.Fatal(err) // the last: there is no other row
		}
		fmt.Printf("%s\n", row)
	}
	// Output:
	// + apples 7
	// + pears 3
	// + plums 12
	// . 3 rows
}

// A device that takes one request at a time, and now and then loses one. Without a limit of
// its own the next Calls would wait for ever: the lost request keeps its place.
func ExampleDialer_replyTimeout() {
	var requests atomic.Int32
	device := tcpclienttest.NewServer(nil, func(conn *tcpclienttest.Conn) {
		for request := range conn.Messages() {
			if requests.Add(1) > 1 { // the first is lost
				conn.Send(request)
			}
		}
	})
	defer device.Close()

	dialer := tcpclient.Dialer{
		MaxInFlight:  1,
		ReplyTimeout: 100 * time.Millisecond, // then a new connection
		Reconnect:    &tcpclient.Backoff{Min: time.Millisecond},
		Trace: &tcpclient.Trace{
			LateReply: func(reply []byte) { log.Printf("too late: %x", reply) },
		},
	}
	ctx := context.Background()
	client, err := dialer.Dial(ctx, "tcp", device.Addr)
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()

	impatient, cancel := context.WithTimeout(ctx, 10*time.Millisecond)
	defer cancel()
	_, err = client.Call(impatient, []byte("close valve 7"))
	fmt.Println("gave up:", errors.Is(err, context.DeadlineExceeded), "in flight:", client.Stats().InFlight)
	reply, err := client.Call(ctx, []byte("read valve 7")) // waits for its place, here on the next connection
	fmt.Printf("%s %v\n", reply, err)
	_, err = client.Receive(ctx)
	fmt.Println("lost its connection:", errors.Is(err, tcpclient.ErrReplyTimeout))
	// Output:
	// gave up: true in flight: 1
	// read valve 7 <nil>
	// lost its connection: true
}

// A server that answers in order, and tells between its replies that a cached value is stale. IsPush
// keeps the one apart from the other: without it, the message would be the reply.
func ExampleDialer_isPush() {
	server := tcpclienttest.NewServer(tcpclient.Lines{}, func(conn *tcpclienttest.Conn) {
		for request := range conn.Messages() {
			conn.Send([]byte(">invalidate price"))
			conn.Send(append([]byte("+"), request...))
		}
	})
	defer server.Close()

	ctx := context.Background()
	dialer := tcpclient.Dialer{
		Framer: tcpclient.Lines{},
		IsPush: func(msg []byte) bool { return bytes.HasPrefix(msg, []byte(">")) },
	}
	client, err := dialer.Dial(ctx, "tcp", server.Addr)
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()

	reply, err := client.Call(ctx, []byte("SET price 7"))
	fmt.Println(string(reply), err)
	push, err := client.Receive(ctx) // in a program: on a goroutine of its own
	fmt.Println(string(push), err)
	// Output:
	// +SET price 7 <nil>
	// >invalidate price <nil>
}

// A reply of SMTP may have several lines: "-" after the code says that another follows. Call returns
// all of them together. Replies yields each as it comes.
func ExampleDialer_more() {
	server := tcpclienttest.NewServer(tcpclient.Lines{CRLF: true}, func(conn *tcpclienttest.Conn) {
		for range conn.Messages() {
			for _, line := range []string{"250-mail.example.com", "250-PIPELINING", "250 8BITMIME"} {
				conn.Send([]byte(line))
			}
		}
	})
	defer server.Close()

	ctx := context.Background()
	dialer := tcpclient.Dialer{
		Framer: tcpclient.Delimiter{Delim: []byte("\r\n"), Keep: true}, // so that the lines stay apart
		More:   func(reply []byte) bool { return len(reply) > 3 && reply[3] == '-' },
	}
	client, err := dialer.Dial(ctx, "tcp", server.Addr)
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()

	reply, err := client.Call(ctx, []byte("EHLO me\r\n"))
	if err != nil {
		log.Fatal(err)
	}
	for line := range bytes.Lines(reply) {
		fmt.Printf("%q\n", line)
	}
	// Output:
	// "250-mail.example.com\r\n"
	// "250-PIPELINING\r\n"
	// "250 8BITMIME\r\n"
}

// A transaction is the business of one connection: a Session never goes on with it on another.
func ExampleClient_Session() {
	server := tcpclienttest.NewServer(tcpclient.LengthPrefix{}, func(conn *tcpclienttest.Conn) {
		var written []string // by the transaction, which ends with its connection
		for msg := range conn.Messages() {
			switch string(msg) {
			case "COMMIT":
				conn.Send(fmt.Appendf(nil, "committed %q", written))
			case "CRASH":
				return
			default:
				written = append(written, string(msg))
				conn.Send([]byte("ok"))
			}
		}
	})
	defer server.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	dialer := tcpclient.Dialer{Reconnect: &tcpclient.Backoff{}}
	client, err := dialer.Dial(ctx, "tcp", server.Addr)
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()

	session, err := client.Session()
	if err != nil {
		log.Fatal(err)
	}
	session.Call(ctx, []byte("UPDATE a"))
	session.Call(ctx, []byte("CRASH"))
	_, err = session.Call(ctx, []byte("UPDATE b")) // by the Client this would be on the next connection
	fmt.Println("session over:", errors.Is(err, tcpclient.ErrDisconnected))

	reply, err := client.Call(ctx, []byte("COMMIT"))
	fmt.Printf("%s %v\n", reply, err)
	// Output:
	// session over: true
	// committed [] <nil>
}

// A transaction of Modbus/TCP: two registers are read from a PLC.
//
//	+--- 2 ---+--- 2 ---+--- 2 ---+-- 1 --+----- 1 -----+-----------
//	|   id    |    0    | length  | unit  |  function   | data ...
//	+---------+---------+---------+-------+-------------+-----------
//
// The id belongs to the Correlator and the length to the Framer; the program leaves room
// for both.
func ExampleIDField() {
	framing := tcpclient.LengthPrefix{Offset: 4, Width: 2, KeepHeader: true, MaxSize: 260}
	plc := tcpclienttest.NewServer(framing, func(conn *tcpclienttest.Conn) {
		for request := range conn.Messages() {
			first, count := binary.BigEndian.Uint16(request[8:]), binary.BigEndian.Uint16(request[10:])
			reply := append(request[:8:8], byte(2*count)) // same id, unit and function
			for i := range count {
				reply = binary.BigEndian.AppendUint16(reply, 10*(first+i))
			}
			conn.Send(reply)
		}
	})
	defer plc.Close()

	ctx := context.Background()
	dialer := tcpclient.Dialer{
		Framer:     framing,
		Correlator: tcpclient.IDField{Offset: 0, Width: 2, ReplyOffset: 0},
	}
	client, err := dialer.Dial(ctx, "tcp", plc.Addr)
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()

	const readHoldingRegisters = 3
	request := []byte{0, 0, 0, 0, 0, 0, 1, readHoldingRegisters}
	request = binary.BigEndian.AppendUint16(request, 100) // the first register
	request = binary.BigEndian.AppendUint16(request, 2)   // how many
	reply, err := client.Call(ctx, request)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("header % x\n", reply[:7])
	if function := reply[7]; function != readHoldingRegisters || len(reply) != 9+2*2 {
		log.Fatalf("the PLC refuses: % x", reply[7:])
	}
	for i := range 2 {
		fmt.Printf("register %d: %d\n", 100+i, binary.BigEndian.Uint16(reply[9+2*i:]))
	}
	// Output:
	// header 00 01 00 00 00 07 01
	// register 100: 1000
	// register 101: 1010
}

func ExampleClient_Messages() {
	server := tcpclienttest.NewServer(tcpclient.Lines{}, func(conn *tcpclienttest.Conn) {
		for _, price := range []string{"tin 29", "lead 2", "zinc 3"} {
			conn.Write([]byte(price))
		}
	})
	defer server.Close()

	ctx := context.Background()
	dialer := tcpclient.Dialer{Framer: tcpclient.Lines{}}
	client, err := dialer.Dial(ctx, "tcp", server.Addr)
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()

	for msg, err := range client.Messages(ctx) {
		if err != nil { // comes once, at the end
			fmt.Println("end of the stream:", errors.Is(err, io.EOF))
			break
		}
		fmt.Printf("%s\n", msg) // msg is valid until the next one
	}
	// Output:
	// tin 29
	// lead 2
	// zinc 3
	// end of the stream: true
}

// The end of a batch: what was written is flushed, the server hears that no more will
// come, and what it has to say to that is still received.
func ExampleClient_Shutdown() {
	server := tcpclienttest.NewServer(tcpclient.Lines{}, func(conn *tcpclienttest.Conn) {
		records := 0
		for range conn.Messages() { // until the client's FIN
			records++
		}
		conn.Send(fmt.Appendf(nil, "%d records stored", records))
	})
	defer server.Close()

	ctx := context.Background()
	dialer := tcpclient.Dialer{Framer: tcpclient.Lines{}}
	client, err := dialer.Dial(ctx, "tcp", server.Addr)
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()
	for i := range 1000 {
		if err := client.Write(ctx, fmt.Appendf(nil, "record %d", i)); err != nil {
			log.Fatal(err)
		}
	}

	patience, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	if err := client.Shutdown(patience); err != nil {
		log.Fatal(err)
	}
	msg, err := client.Receive(ctx)
	fmt.Println(string(msg), err)
	_, err = client.Receive(ctx)
	fmt.Println(errors.Is(err, tcpclient.ErrClosed))
	// Output:
	// 1000 records stored <nil>
	// true
}

// The counters as a variable that package expvar serves at /debug/vars.
func ExampleClient_Stats() {
	server := tcpclienttest.NewServer(nil, tcpclienttest.Echo)
	defer server.Close()
	ctx := context.Background()
	client, err := tcpclient.Dial(ctx, "tcp", server.Addr)
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()

	upstream := expvar.Func(func() any { return client.Stats() })
	// In a program: expvar.Publish("upstream", upstream)

	if err := client.Send(ctx, []byte("hello")); err != nil {
		log.Fatal(err)
	}
	if _, err := client.Receive(ctx); err != nil {
		log.Fatal(err)
	}
	fmt.Println(upstream)
	// Output: {"MessagesReceived":1,"BytesReceived":5,"MessagesSent":1,"BytesSent":9,"Flushes":1,"Connects":1,"Connected":true,"RTT":0,"MessagesLost":0,"LateReplies":0,"InFlight":0,"InboxBytes":0,"TraceDropped":0}
}

// A terminal is a Correlator with an id of four bytes that is in the request already. A request
// with the id 0 gets one of the library's.
type terminal struct{ tcpclient.IDField }

func (t terminal) RequestID(request []byte) (id uint64, ok bool) {
	id, _, ok = t.SplitReply(request) // the field is at the same place there
	return id, ok && id != 0
}

// Numbers that are journaled before a request is sent, and used again in its reversal, as the
// system trace audit number of card payments.
func ExampleRequestIdentifier() {
	bank := tcpclienttest.NewServer(nil, func(conn *tcpclienttest.Conn) {
		for request := range conn.Messages() {
			if !bytes.HasSuffix(request, []byte("purchase")) { // these take long
				conn.Send(request)
			}
		}
	})
	defer bank.Close()

	ctx := context.Background()
	dialer := tcpclient.Dialer{Correlator: terminal{tcpclient.IDField{Width: 4, Max: 999_999}}}
	client, err := dialer.Dial(ctx, "tcp", bank.Addr)
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()

	request := func(stan uint32, what string) []byte {
		return append(binary.BigEndian.AppendUint32(nil, stan), what...)
	}
	impatient, cancel := context.WithTimeout(ctx, 10*time.Millisecond)
	defer cancel()
	_, err = client.Call(impatient, request(4711, "purchase"))
	fmt.Println("gave up:", errors.Is(err, context.DeadlineExceeded))
	_, err = client.Call(ctx, request(4711, "balance")) // its answer could be that to the purchase
	var op *tcpclient.OpError
	fmt.Println("refused:", errors.As(err, &op) && op.Unsent)
	reply, err := client.Call(ctx, request(4712, "reversal of 4711"))
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%d: %s\n", binary.BigEndian.Uint32(reply), reply[4:])
	// Output:
	// gave up: true
	// refused: true
	// 4712: reversal of 4711
}

// How often a connection was made and lost, for a metric or an alarm. Close waits for
// the functions, so that nothing is missing after it.
func ExampleTrace() {
	server := tcpclienttest.NewServer(nil, tcpclienttest.Echo)
	defer server.Close()

	var connected, lost int
	dialer := tcpclient.Dialer{
		Reconnect: &tcpclient.Backoff{Min: time.Millisecond},
		Trace: &tcpclient.Trace{
			Connected: func(string, int, time.Duration) { connected++ },
			Disconnected: func(_ string, err error) {
				if errors.Is(err, tcpclient.ErrDisconnected) { // else it was our own Close
					lost++
				}
			},
		},
	}
	ctx := context.Background()
	client, err := dialer.Dial(ctx, "tcp", server.Addr)
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()
	for range 2 {
		if _, err := client.Call(ctx, []byte("hello")); err != nil {
			log.Fatal(err)
		}
		server.CloseConnections()
		if _, err := client.Receive(ctx); !errors.Is(err, tcpclient.ErrDisconnected) {
			log.Fatal(err)
		}
	}
	if _, err := client.Call(ctx, []byte("hello again")); err != nil {
		log.Fatal(err)
	}
	client.Close()
	fmt.Printf("connected %d times, lost %d\n", connected, lost)
	// Output: connected 3 times, lost 2
}

func ExampleSlogTrace() {
	var network tcpclienttest.Network
	listener, err := network.Listen("server:9000")
	if err != nil {
		log.Fatal(err)
	}
	server := tcpclienttest.NewServerOn(listener, nil, tcpclienttest.Discard)
	defer server.Close()

	// Without what changes from one run to the next.
	logger := slog.New(slog.NewTextHandler(os.Stdout, &slog.HandlerOptions{
		ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
			if a.Key == slog.TimeKey || a.Key == "took" {
				return slog.Attr{}
			}
			return a
		},
	}))
	dialer := tcpclient.Dialer{
		DialContext: network.DialContext,
		Trace:       tcpclient.SlogTrace(logger),
	}
	client, err := dialer.Dial(context.Background(), "tcp", server.Addr)
	if err != nil {
		log.Fatal(err)
	}
	client.Close()
	// Output:
	// level=INFO msg=connected address=server:9000 attempt=1
	// level=INFO msg=disconnected address=server:9000 error="client closed"
}
