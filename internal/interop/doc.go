// Package interop holds tests of tcpclient against real servers; against a payment host of its own;
// and through connections that are no sockets: streams of yamux and smux, a WebSocket, and a SOCKS5 proxy by
// golang.org/x/net/proxy. The latter pass the tests of internal/transporttest, as sockets do, but for
// those that the variable without names. It is a module of its own, so that what the tests need is no requirement of those who
// import tcpclient.
//
// A test whose server is not installed fails. ZooKeeper, which needs Java, and RabbitMQ, which takes up to a minute to
// start, are run only if the environment has TCPCLIENT_TEST_HEAVY=1, as in the workflow.
//
// # Servers
//
// TestServers gives each of these the same treatment, in six parts: 64 goroutines whose answers
// repeat their questions; idle under Heartbeat; Shutdown under load; Unsent, held against what the
// server has executed while connections are cut; SIGSTOP; SIGKILL and restart under load. TestPools
// does four of them through package pool, with two servers of redis, memcached and beanstalkd. The
// versions are those that the treatment was written with.
//
//	server             version   not run
//	redis              7.0.15
//	memcached, text    1.6.18
//	memcached, binary  1.6.18
//	beanstalkd         1.12
//	nats-server        2.9.10
//	mosquitto          2.0.11
//	gearmand           1.1.20
//	rabbitmq           3.10.8    SIGKILL and restart under load
//	postgres           15.18
//	mariadb            10.11.19
//	slapd              2.5.13
//	zookeeper          3.8.0
//	go-smtp            0.25.1
//	rsyslog            8.2302.0  idle
//	vscode-jsonrpc     10.0.0
//	gopls              0.20.0    Unsent
//	unbound            1.17.1    Unsent
//	dnsmasq            2.90      64 goroutines, Shutdown under load, Unsent, SIGSTOP
//	modbus             1.6.4
//	smpp               0.5.1
//	simple-hl7         3.3.0     idle
//	erlang             25.2.3
//
// The connections to postgres, slapd and go-smtp go over to TLS. go-smtp (github.com/emersion/go-smtp) and
// modbus (github.com/simonvetter/modbus) run in the test binary, started once more, which also runs a gopls for
// each connection. vscode-jsonrpc, which has the framing of language servers and debuggers, smpp and simple-hl7
// come from npm, gopls from the Go module proxy: each is installed once, in the user's cache. dnsmasq ends a
// connection after 100 questions, rsyslog answers nothing.
//
// redis, postgres, slapd, go-smtp, unbound, dnsmasq, gopls, zookeeper and rabbitmq have tests of their own, too, and so
// has node-hl7-server 2.5.0 of npm, which acknowledges messages again and again.
package interop
