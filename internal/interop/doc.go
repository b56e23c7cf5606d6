// Package interop holds tests of tcpclient against real servers; against a payment host of its own;
// and through connections that are no sockets: streams of yamux and smux, a WebSocket, and a SOCKS5 proxy by
// golang.org/x/net/proxy. The latter pass the tests of internal/transporttest, as sockets do. It
// is a module of its own, so that what the tests need is no requirement of those who
// import tcpclient.
//
// A test whose server is not installed fails.
//
// # Servers
//
// TestServers gives each of these the same treatment, in six parts: 64 goroutines whose answers
// repeat their questions; idle under Heartbeat; Shutdown under load; Unsent, held against what the
// server has executed while connections are cut; SIGSTOP; SIGKILL and restart under load. TestPools
// does four of them through package pool, with two servers of redis, memcached and beanstalkd. The versions are those that the treatment was written with.
//
//	server             version  not run
//	redis              7.0.15
//	memcached, text    1.6.18
//	memcached, binary  1.6.18
//	beanstalkd         1.12
//	nats-server        2.9.10
//	mosquitto          2.0.11
//	gearmand           1.1.20
//
// Others have tests of their own only: dnsmasq, unbound, PostgreSQL, slapd, and the SMTP server of
// github.com/emersion/go-smtp.
package interop
