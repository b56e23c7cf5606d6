// Package tcpclienttest helps to test programs that use tcpclient. It has servers, a
// network without sockets, connections with faults, and conformance suites for a Framer and
// a Correlator.
//
// It takes no [testing.TB], so it serves Examples and small programs as well as tests.
//
//	server := tcpclienttest.NewServer(tcpclient.Lines{}, tcpclienttest.Echo)
//	defer server.Close()
//
//	dialer := tcpclient.Dialer{Framer: tcpclient.Lines{}}
//	client, err := dialer.Dial(ctx, "tcp", server.Addr)
//
// # Servers
//
// A [Server] listens on loopback, or on the listener given to [NewServerOn], and runs a
// [Handler] for each connection. The Handler exchanges whole messages, or misbehaves as the
// test needs: it may send half a frame through [Conn.NetConn], reset the connection, or
// stay silent. [Echo], [Discard] and [Ignore] are ready made. [Script] is a dialogue that is
// written down, and [Refuse] a server that is not there yet.
//
// # A network without sockets
//
// A [Network] is in memory. Inside a bubble of package testing/synctest, a program that
// uses it meets its timeouts in fake time: an hour of backing off takes a millisecond.
//
//	synctest.Test(t, func(t *testing.T) {
//		var network tcpclienttest.Network
//		listener, err := network.Listen("server:9000")
//		server := tcpclienttest.NewServerOn(listener, nil, tcpclienttest.Discard)
//		defer server.Close()
//
//		dialer := tcpclient.Dialer{
//			DialContext: network.DialContext,
//			Heartbeat:   tcpclient.Heartbeat{Interval: time.Minute},
//		}
//		client, err := dialer.Dial(t.Context(), "tcp", server.Addr)
//		defer client.Close()
//		_, err = client.Receive(t.Context()) // two fake minutes, no real ones
//	})
//
// A real socket cannot be used in a bubble: its goroutines are never durably blocked.
package tcpclienttest
