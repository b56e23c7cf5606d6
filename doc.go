// Package tcpclient exchanges whole messages with a server over one TCP connection.
//
// TCP delivers a stream of bytes: what was written at once may arrive in pieces or glued
// to its neighbours, and a peer that has gone may go unnoticed for a quarter of an hour. A
// [Client] sends and receives messages, and reports when the other side is gone.
//
//	client, err := tcpclient.Dial(ctx, "tcp", "10.0.0.7:9000")
//	if err != nil {
//		return err
//	}
//	defer client.Close()
//	if err := client.Send(ctx, []byte("hello")); err != nil {
//		return err
//	}
//	reply, err := client.Receive(ctx)
//
// A [Dialer] holds the settings. Its zero value is ready to use.
//
// # Framing
//
// A [Framer] marks where a message begins and ends. The default puts a length of four
// bytes, big-endian, in front of each message:
//
//	00 00 00 05  h e l l o  00 00 00 02  h i
//	└─ length ─┘ └message┘  └─ length ─┘ └─┘
//
// [LengthPrefix] describes nearly every binary header with a length in it. [Varint],
// [Delimiter], [Lines], [Fixed], [Decimal] and [ContentLength] are the other Framers. [Sized]
// takes a function that finds the size of a message in its first bytes, as MQTT needs it. For
// any other protocol, write a type with two methods; package tcpclienttest checks it.
//
// A message arrives whole or not at all. Memory follows the bytes that have arrived, never
// a length that the peer announces. Bytes that are no frame end the connection; the Client
// does not search for the next frame.
//
// # Writing
//
// [Client.Write] puts a message into a buffer, [Client.Flush] hands the buffer to the
// operating system, and [Client.Send] does both. Concurrent Sends share system calls. A
// message that was handed over has not necessarily arrived: only a reply proves that, which
// [Client.Call] waits for.
//
// The Client never sends a message twice. When a call fails, [OpError].Unsent says whether
// the peer has certainly not seen the message, so that it is safe to repeat. If written
// messages are lost with their connection, the next Write, Flush, Send, Call, Replies, Shutdown or
// Close reports that loss, once, as a [*LossError].
//
// # Dialogues
//
// A Call brings one reply. If a server answers a request with several messages, [Dialer].More
// says whether another one follows: then [Client.Replies] is a loop over them, and Call joins
// them. [Dialer].IsPush tells messages that are no replies from those that are. A [Correlator]
// that is a [RequestIdentifier] leaves the choice of ids to the application. A [Session] is one
// connection, for requests that depend on those before: a transaction must not go on with another.
//
// A [Dialer].Handshake talks on a [Conn] before the Client does: it can log in, change to TLS
// with [Conn.StartTLS] or to another framing with [Conn.SetFramer], and hand what the server has
// pushed meanwhile to Receive with [Conn.Deliver].
//
// Package pool spreads Calls over several Clients.
//
// # Contexts
//
// Every call that can block, but Close, takes a context, which ends the wait and nothing else: no
// frame is torn, no received byte is lost, and the shared connection lives on. A context
// that is already done does no I/O. Only during a [Dialer].Handshake, when no other
// goroutine uses the connection, does the end of a context end it.
//
// # The dead peer
//
// A FIN or RST is noticed immediately, even if no goroutine is in Receive, as long as the
// Inbox has room. A [Heartbeat] finds a peer that vanished in silence: a pulled cable, a
// firewall that forgot the connection, a hung process. WriteTimeout finds a peer that takes
// no data, FrameTimeout one that does not finish its frame, ReplyTimeout one that does not
// answer a Call. Without it, Calls that were given up and never answered end the connection once
// they take all places: see [Dialer].MaxInFlight.
//
// A peer is never taken for dead because this side was slow: not while the application does
// not receive, and not after the process was suspended.
//
// # Reconnecting
//
// Without [Dialer].Reconnect a Client ends with its connection: every call returns the
// first error, for good. With it the Client dials again, after a random wait that grows
// with each failure (see [Backoff]). Meanwhile calls that write wait for the next
// connection. [Client.Receive] returns one error that Is [ErrDisconnected] for each lost
// connection, in stream order; without a receiver, losses after the 16th are merged. The
// application decides which messages to repeat.
//
// A Client with Reconnect ends when it is closed, when an error is permanent, or when its
// attempts are used up. That last error is of [ClassPermanent], and every call returns it:
//
//	for {
//		msg, err := client.Receive(ctx)
//		switch {
//		case err == nil:
//			handle(msg)
//		case tcpclient.Classify(err) == tcpclient.ClassDisconnected:
//			log.Print(err) // the next message is from another connection
//		default:
//			return err
//		}
//	}
//
// A program that only Calls need not Receive, if the server sends nothing but replies. What
// else it sends waits in the Inbox: see [ErrInboxFull].
//
// # Errors
//
// Methods return an [*OpError] with the operation and the address. [errors.Is] and
// [errors.As] find the cause: io.EOF, syscall.ECONNRESET (on Windows
// syscall.WSAECONNRESET), [ErrHeartbeatTimeout], a [*FrameTooLargeError] and so on. The
// end of a connection also Is ErrDisconnected, unless we closed it. [Classify] says what
// to do: try again on the same connection, dial again, or give up.
//
// # Panics
//
// A panic in a Framer that reads, or that writes a ping or an answer, in SplitReply, IsPush or More, in
// a function of a Heartbeat, in a Handshake or in a DialContext becomes an error. That error ends the
// connection or the attempt; a Handshake or DialContext that panicked is not called again. For a
// message of yours, WriteFrame, AppendRequest and RequestID run on your goroutine: a panic there
// reaches you, and nothing of the message stays in the buffer. A panic in a function of a Trace ends
// the program.
//
// # Goroutines and memory
//
// A Client has one goroutine from Dial to Close. It has a second one while it dials, or
// while the network has not taken all that was written, another while functions of a
// [Trace] run, and at times with TLS, or while a connection is being closed, one more. Each call of
// a connection without real deadlines has one, too (see [Dialer].DialContext). [Client.Close]
// returns within a second, after the last has ended. The
// garbage collector closes nothing: a Client that is not closed stays connected. Buffers
// begin small and grow with use, up to ReadBuffer, twice WriteBuffer and Inbox, or to the
// largest message if that is more. What large messages have needed inbound is given up when they
// do not come any more. When the Inbox is full, TCP makes the peer wait.
//
// # Watching
//
// The package does not log. [Trace] reports connections made and lost; [SlogTrace] logs
// them. [Client.Stats] returns counters and is cheap enough to be polled, so any metrics
// library can read it. For Prometheus, register functions that are called on each scrape:
//
//	promauto.NewCounterFunc(prometheus.CounterOpts{Name: "upstream_messages_received_total"},
//		func() float64 { return float64(client.Stats().MessagesReceived) })
//	promauto.NewGaugeFunc(prometheus.GaugeOpts{Name: "upstream_rtt_seconds"},
//		func() float64 { return client.Stats().RTT.Seconds() })
//
// For OpenTelemetry, observe the counters in a callback:
//
//	received, _ := meter.Int64ObservableCounter("upstream.messages.received")
//	meter.RegisterCallback(func(ctx context.Context, o metric.Observer) error {
//		o.ObserveInt64(received, int64(client.Stats().MessagesReceived))
//		return nil
//	}, received)
//
// Measure the latency of a call around the call. Count reconnects in Trace.Connected.
//
// # Testing
//
// Package tcpclienttest has a server for tests, a network in memory that works with
// testing/synctest, connections with faults, and conformance suites for Framers and Correlators.
package tcpclient
