// Package interop holds tests of tcpclient against real servers, Redis, dnsmasq, unbound, PostgreSQL,
// slapd, and the SMTP server of github.com/emersion/go-smtp; against a payment host of its own;
// and through connections that are no sockets: streams of yamux and smux, a WebSocket, and a SOCKS5 proxy by
// golang.org/x/net/proxy. The latter pass the tests of internal/transporttest, as sockets do. It
// is a module of its own, so that what the tests need is no requirement of those who
// import tcpclient.
//
// A test whose server is not installed fails.
package interop
