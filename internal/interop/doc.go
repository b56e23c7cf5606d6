// Package interop holds tests of tcpclient against real servers: Redis, dnsmasq and
// unbound. It is a module of its own, so that what the tests need is no requirement of
// those who import tcpclient.
//
// A test whose server is not installed is skipped, and fails where CI or
// TCPCLIENT_INTEROP_REQUIRED is set in the environment.
package interop
