package interop

import (
	"errors"
	"fmt"
	"testing"

	"github.com/seed-d0aa0aa7/tcpclient"
	"golang.org/x/net/dns/dnsmessage"
)

func dnsKinds() []kind { return []kind{unboundKind(), dnsmasqKind()} }

// unboundKind knows any name below redirect.test.
func unboundKind() kind {
	k := dnsKind("unbound")
	k.start = func(t *testing.T) *host {
		return startHost(t, "unbound", func(port string) []string {
			return []string{"-d", "-c", unboundConfig(t, port, "127.0.0.1:1", "  local-zone: \"redirect.test.\" redirect\n  local-data: \"redirect.test. A 192.0.2.78\"")}
		})
	}
	return k
}

// dnsmasqKind has a process for each connection, and ends it after 100 questions.
func dnsmasqKind() kind {
	const limit = "it ends a connection after 100 questions"
	k := dnsKind("dnsmasq")
	k.without = map[string]string{"64 goroutines": limit, "Shutdown under load": limit, "SIGSTOP": limit}
	k.start = func(t *testing.T) *host {
		return startHost(t, "dnsmasq", func(port string) []string {
			return []string{"-k", "-C", "/dev/null", "--listen-address=127.0.0.1", "--bind-interfaces", "--port=" + port,
				"--no-resolv", "--no-hosts", "--address=/redirect.test/192.0.2.78", "--user=root", "--pid-file"}
		})
	}
	return k
}

// dnsKind asks for the addresses of names. The answer repeats the question.
func dnsKind(name string) kind {
	question := func(n int) []byte {
		m := dnsmessage.Message{Header: dnsmessage.Header{RecursionDesired: true}, Questions: []dnsmessage.Question{{
			Name: dnsmessage.MustNewName(dnsName(n)), Type: dnsmessage.TypeA, Class: dnsmessage.ClassINET,
		}}}
		packed, err := m.Pack()
		if err != nil {
			panic(err)
		}
		return packed
	}
	return kind{
		name: name,
		dialer: func() tcpclient.Dialer {
			d := overTCP
			d.Correlator = tcpclient.IDField{Width: 2} // from 1 on: 0 is for pings
			d.Heartbeat = pinging(string(question(0)), func(msg []byte) bool { return msg[0] == 0 && msg[1] == 0 })
			return d
		},
		ask: func(n int) ([]byte, func([]byte) error) {
			return question(n), func(reply []byte) error {
				var m dnsmessage.Message
				if err := m.Unpack(reply); err != nil {
					return err
				}
				if len(m.Questions) != 1 || m.Questions[0].Name.String() != dnsName(n) || !m.Response {
					return fmt.Errorf("asked for %s, got the answer to %v", dnsName(n), m.Questions)
				}
				if len(m.Answers) != 1 {
					return errors.New(m.GoString())
				}
				if a, ok := m.Answers[0].Body.(*dnsmessage.AResource); !ok || a.A != ([4]byte{192, 0, 2, 78}) {
					return fmt.Errorf("%s: %v", dnsName(n), m.Answers[0].Body)
				}
				return nil
			}
		},
	}
}

func dnsName(n int) string {
	return fmt.Sprintf("n%d%s.redirect.test.", n, padding(n)[:len(padding(n))/2])
}
