// Package tcpclient exchanges whole messages with a server over one TCP connection.
//
// TCP delivers a stream of bytes: what was written at once may arrive in pieces or glued
// to its neighbours, and a peer that is gone may go unnoticed for a quarter of an hour. A
// [Client] sends and receives messages, and says when the other side is gone.
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
// The settings are in a [Dialer], of which the zero value works.
//
// # Framing
//
// A [Framer] marks where a message begins and ends. The default is a length of four
// bytes, big-endian, in front of each:
//
//	00 00 00 05  h e l l o  00 00 00 02  h i
//	└─ length ─┘ └message┘  └─ length ─┘ └─┘
//
// [LengthPrefix] has a field for nearly every protocol with a length in its header;
// [Varint], [Delimiter], [Lines], [Fixed], [Decimal] and [ContentLength] are the
// others. A protocol that none of them fits is two methods, which the package
// tcpclienttest checks.
//
// A message arrives whole or not at all. A length that the peer merely announces costs
// nothing: memory follows the bytes that came. After bytes that are no frame the
// connection is finished; there is no search for the next frame.
//
// # Writing
//
// [Client.Write] puts a message into a buffer, [Client.Flush] hands what is there to the
// operating system, and [Client.Send] does both. Goroutines that Send at the same time
// share one system call. That a message was handed over does not mean that it has
// arrived: only a reply proves that, which [Client.Call] waits for.
//
// A message is never sent twice. When a call fails, [OpError].Unsent says whether the
// peer is certain not to have seen the message, so that it is safe to repeat. Messages
// that were written and not flushed when their connection ended are not lost in
// silence: the next Write, Flush, Send, Call, Shutdown or Close returns that loss, once.
//
// # Contexts
//
// Every call that can block takes a context, which ends the wait and nothing else: no
// frame is torn, no byte that came is lost, and the connection, which others share, lives
// on. A context that is done already does no I/O. Only during a [Dialer].Handshake, when
// the connection is nobody else's, the end of a context ends it.
//
// # The dead peer
//
// A connection that is closed or reset by the peer is noticed at once, also while nobody
// receives. A peer that goes without a word, by a pulled cable, a firewall that forgets
// or a process that hangs, is found by a [Heartbeat]. WriteTimeout finds a peer that takes
// no data, FrameTimeout one that does not end its frame.
//
// Nobody is taken for dead because this side was slow: not while the application does
// not receive, not after the process was suspended.
//
// # Reconnecting
//
// Without [Dialer].Reconnect a Client ends with its connection: every call returns the
// first error, for good. With it, the Client dials again, with a [Backoff] that grows
// and is random. Then calls that write wait for the next connection, and [Client.Receive]
// returns one error that Is [ErrDisconnected] for each that was lost, in its
// place in the stream of messages. Whatever was on its way is the application's to
// repeat or not. The Client ends when it is closed, when an error is permanent or the
// attempts are used up; that last error is of [ClassPermanent], and stays:
//
//	for {
//		msg, err := client.Receive(ctx)
//		switch {
//		case err == nil:
//			handle(msg)
//		case tcpclient.Classify(err) == tcpclient.ClassDisconnected:
//			log.Print(err) // what comes next is from another connection
//		default:
//			return err
//		}
//	}
//
// A program that only Calls need not Receive.
//
// # Errors
//
// Errors are an [*OpError] with the operation and the address. The causes are found by
// [errors.Is] and [errors.As]: io.EOF, syscall.ECONNRESET, [ErrHeartbeatTimeout], a
// [*FrameTooLargeError] and so on; the end of a connection other than by ourselves also
// Is ErrDisconnected. [Classify] says what to do: try again on the same connection, dial
// again, or give up.
//
// # Panics
//
// A panic in a Framer that reads, in SplitReply, in the functions of a Heartbeat, in a
// Handshake or a DialContext becomes the error that ends the connection or the attempt; the
// last two are not tried again. In WriteFrame and AppendRequest, which run on the goroutine of
// the caller, it reaches the caller and leaves nothing behind. In the functions of a Trace it
// ends the program.
//
// # Goroutines and memory
//
// A Client has one goroutine from Dial to Close, and a second one while it dials or the
// network has not taken what was written. A third lives while functions of a [Trace] are
// called.
// [Client.Close] returns after the last has ended, within a second. Nothing is closed by
// the garbage collector: a Client that is not closed stays connected. Buffers begin
// small and grow with use, up to ReadBuffer, twice WriteBuffer and Inbox, or the largest
// message if that is more. When the Inbox is full, TCP makes the peer wait.
//
// # Watching
//
// The package does not log. [Trace] tells of connections made and lost, and [SlogTrace]
// makes log lines of that. [Client.Stats] returns counters that are cheap enough to be
// polled, so that they need no library here to get into the one of your choice. For
// Prometheus, register functions that read them when they are scraped:
//
//	promauto.NewCounterFunc(prometheus.CounterOpts{Name: "upstream_messages_received_total"},
//		func() float64 { return float64(client.Stats().MessagesReceived) })
//	promauto.NewGaugeFunc(prometheus.GaugeOpts{Name: "upstream_rtt_seconds"},
//		func() float64 { return client.Stats().RTT.Seconds() })
//
// For OpenTelemetry, observe them in a callback:
//
//	received, _ := meter.Int64ObservableCounter("upstream.messages.received")
//	meter.RegisterCallback(func(ctx context.Context, o metric.Observer) error {
//		o.ObserveInt64(received, int64(client.Stats().MessagesReceived))
//		return nil
//	}, received)
//
// Latencies of single calls are measured around the calls, reconnects are counted in
// Trace.Connected.
//
// # Testing
//
// The package tcpclienttest has a server for tests, a network in memory that works with
// testing/synctest, connections with faults, and a suite for Framers.
package tcpclient
