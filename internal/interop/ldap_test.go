package interop

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/seed-d0aa0aa7/tcpclient"
	"github.com/seed-d0aa0aa7/tcpclient/internal/testkit"
	"github.com/stretchr/testify/require"
)

// Tags of LDAP: RFC 4511, section 4.
const (
	berInteger, berOctets, berEnumerated, berSequence = 0x02, 0x04, 0x0a, 0x30

	ldapBind, ldapSearch, ldapExtended                      = 0x60, 0x63, 0x77
	ldapBound, ldapEntry, ldapDone, ldapReference           = 0x61, 0x64, 0x65, 0x73
	ldapExtendedDone, ldapIntermediate, ldapPresent, ldapEq = 0x78, 0x79, 0x87, 0xa3
)

// ber makes a value of its parts.
func ber[part string | []byte](tag byte, parts ...part) []byte {
	n := 0
	for _, p := range parts {
		n += len(p)
	}
	b := []byte{tag, 0x84, byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)} // a length may have more bytes than it needs
	for _, p := range parts {
		b = append(b, p...)
	}
	return b
}

func berInt(tag byte, n uint64) []byte {
	return []byte{tag, 4, byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)}
}

// cutBER cuts the first value off b.
func cutBER(b []byte) (tag byte, value, rest []byte, err error) {
	if len(b) == 0 {
		return 0, nil, nil, errors.New("no value of BER")
	}
	size, err := testkit.SizeBER(b)
	if err != nil || size == 0 || size > len(b) {
		return 0, nil, nil, fmt.Errorf("no value of BER: %x (%v)", b, err)
	}
	header := 2
	if b[1] > 0x80 {
		header += int(b[1] & 0x7f)
	}
	return b[0], b[header:size], b[size:], nil
}

// cutMessage cuts an LDAPMessage into its id and what follows.
func cutMessage(msg []byte) (id uint64, op []byte, err error) {
	_, body, _, err := cutBER(msg)
	if err != nil {
		return 0, nil, err
	}
	tag, number, op, err := cutBER(body)
	if err != nil || tag != berInteger || len(number) > 4 || len(op) == 0 {
		return 0, nil, fmt.Errorf("no LDAPMessage: %x (%v)", msg, err)
	}
	for _, c := range number {
		id = id<<8 | uint64(c)
	}
	return id, op, nil
}

// ldapMessages puts a request, which is an operation, into an LDAPMessage with the id. A request that
// is an LDAPMessage already has chosen its own, so that another request can name it.
type ldapMessages struct {
	changes *atomic.Int64 // how often a reply was to another request than the one before it
	last    *atomic.Uint64
}

func newLDAPMessages() ldapMessages { return ldapMessages{new(atomic.Int64), new(atomic.Uint64)} }

func (ldapMessages) MaxID() uint64 { return 1<<31 - 1 }

func (ldapMessages) RequestID(request []byte) (id uint64, ok bool) {
	if request[0] != berSequence {
		return 0, false
	}
	id, _, err := cutMessage(request)
	return id, err == nil
}

func (ldapMessages) AppendRequest(dst []byte, id uint64, request []byte) ([]byte, error) {
	if request[0] == berSequence {
		return append(dst, request...), nil
	}
	return append(dst, ldapMessage(id, request)...), nil
}

// SplitReply returns id 0 for an unsolicited notification: no Call has it.
func (m ldapMessages) SplitReply(msg []byte) (id uint64, reply []byte, ok bool) {
	id, op, err := cutMessage(msg)
	if err == nil && m.last.Swap(id) != id {
		m.changes.Add(1)
	}
	return id, op, err == nil
}

func ldapMessage(id uint64, op []byte) []byte { return ber(berSequence, berInt(berInteger, id), op) }

// search asks for the entries whose cn is name; "" is for all that have one.
func search(name string) []byte {
	filter := ber(ldapPresent, "cn")
	if name != "" {
		filter = ber(ldapEq, ber(berOctets, "cn"), ber(berOctets, name))
	}
	return ber(ldapSearch, ber(berOctets, "dc=test"), berInt(berEnumerated, 2), berInt(berEnumerated, 0), // the subtree
		berInt(berInteger, 0), berInt(berInteger, 0), []byte{1, 1, 0}, filter, ber[string](berSequence))
}

// extended makes an extended request.
func extended(oid string) []byte { return ber(ldapExtended, ber(0x80, oid)) }

var whoAmI = extended("1.3.6.1.4.1.4203.1.11.3") // RFC 4532

// cancelLDAP makes a request to end that with the id: RFC 3909.
func cancelLDAP(id uint64) []byte {
	return ber(ldapExtended, ber(0x80, "1.3.6.1.1.8"), ber(0x81, ber(berSequence, berInt(berInteger, id))))
}

// An ldapError is a code of a result: RFC 4511, section 4.1.9.
type ldapError byte

func (e ldapError) Error() string { return fmt.Sprintf("result %d", byte(e)) }

// ldapResult returns the error that a final reply tells.
func ldapResult(reply []byte) error {
	_, body, _, err := cutBER(reply)
	if err != nil {
		return err
	}
	_, code, _, err := cutBER(body)
	switch {
	case err != nil:
		return err
	case len(code) != 1:
		return fmt.Errorf("no result: %x", reply)
	case code[0] != 0:
		return ldapError(code[0])
	}
	return nil
}

// ldapDialer is for connections that go through TLS and are logged in.
func ldapDialer(config *tls.Config, ids ldapMessages) tcpclient.Dialer {
	return tcpclient.Dialer{
		Framer:     tcpclient.Sized{Size: testkit.SizeBER},
		Correlator: ids,
		More: func(reply []byte) bool {
			return reply[0] == ldapEntry || reply[0] == ldapReference || reply[0] == ldapIntermediate
		},
		Handshake: func(ctx context.Context, conn *tcpclient.Conn) error {
			do := func(op []byte) error { // one at a time: the ids need not differ
				if err := conn.Send(ctx, ldapMessage(1, op)); err != nil {
					return err
				}
				msg, err := conn.Receive(ctx)
				if err != nil {
					return err
				}
				_, reply, err := cutMessage(msg)
				if err == nil {
					err = ldapResult(reply)
				}
				return err
			}
			if err := do(extended("1.3.6.1.4.1.1466.20037")); err != nil { // StartTLS, section 4.14
				return err
			}
			if err := conn.StartTLS(ctx, config); err != nil {
				return err
			}
			return do(ber(ldapBind, berInt(berInteger, 3), ber(berOctets, "cn=admin,dc=test"), ber(0x80, "secret")))
		},
	}
}

const ldapEntries = 1000

// prepareLDAP makes the directory of a slapd that has so many entries, each with a name of six
// characters and a number, executions, that is zero. args are of the server.
func prepareLDAP(t *testing.T, entries int) (args func(port string) []string, client *tls.Config) {
	t.Helper()
	dir := t.TempDir()
	certFile, keyFile, client := selfSigned(t, dir, nil)
	config, ldif := filepath.Join(dir, "slapd.conf"), filepath.Join(dir, "entries.ldif")
	data := filepath.Join(dir, "data")
	require.NoError(t, os.Mkdir(data, 0o700))
	require.NoError(t, os.WriteFile(config, fmt.Appendf(nil, `
include /etc/ldap/schema/core.schema
attributetype ( 1.3.6.1.4.1.4203.666.100.1 NAME 'executions' EQUALITY integerMatch SYNTAX 1.3.6.1.4.1.1466.115.121.1.27 SINGLE-VALUE )
objectclass ( 1.3.6.1.4.1.4203.666.100.2 NAME 'counted' SUP top AUXILIARY MAY executions )
modulepath /usr/lib/ldap
moduleload back_mdb
pidfile %s/slapd.pid
TLSCertificateFile %s
TLSCertificateKeyFile %s
database mdb
suffix "dc=test"
rootdn "cn=admin,dc=test"
rootpw secret
maxsize 67108864
dbnosync
directory %s
`, dir, certFile, keyFile, data), 0o600))

	var text bytes.Buffer
	text.WriteString("dn: dc=test\nobjectClass: dcObject\nobjectClass: organization\no: test\ndc: test\n\n")
	for n := range entries {
		fmt.Fprintf(&text, "dn: cn=%s,dc=test\nobjectClass: person\nobjectClass: counted\ncn: %[1]s\nsn: %[1]s\nexecutions: 0\ndescription: %0100[2]d\n\n", ldapName(n), n)
	}
	require.NoError(t, os.WriteFile(ldif, text.Bytes(), 0o600))
	output, err := exec.Command(find(t, "slapadd"), "-q", "-f", config, "-l", ldif).CombinedOutput()
	require.NoError(t, err, "slapadd: %s", output)

	return func(port string) []string {
		return []string{"-h", "ldap://127.0.0.1:" + port, "-f", config, "-d", "0"}
	}, client
}

func startLDAP(t *testing.T) (address string, client *tls.Config) {
	t.Helper()
	args, client := prepareLDAP(t, ldapEntries)
	return startServer(t, "slapd", args).address, client
}

func ldapName(n int) string { return fmt.Sprintf("e%05d", n) }

// ldapNames are the entries that a search has found, in any order.
func ldapNames(ctx context.Context, c *tcpclient.Client, request []byte, each func(n int)) (names map[string]bool, err error) {
	names = make(map[string]bool)
	done := false
	for reply, err := range c.Replies(ctx, request) {
		switch {
		case err != nil:
			return names, err
		case done:
			return names, errors.New("a reply after the last")
		case reply[0] == ldapDone:
			if err := ldapResult(reply); err != nil {
				return names, err
			}
			done = true
			continue
		case reply[0] != ldapEntry:
			return names, fmt.Errorf("not for a search: %x", reply)
		}
		_, entry, _, err := cutBER(reply)
		if err != nil {
			return names, err
		}
		_, dn, _, err := cutBER(entry)
		if err != nil {
			return names, err
		}
		names[string(dn)] = true
		if each != nil {
			each(len(names))
		}
	}
	if !done {
		return names, errors.New("no searchResDone")
	}
	return names, nil
}

func TestLDAP(t *testing.T) {
	address, config := startLDAP(t)

	t.Run("a search has its replies, and others come between", func(t *testing.T) { // B3
		d := ldapDialer(config, newLDAPMessages())
		d.Inbox = 1 << 20 // else the reply to the Call might wait behind entries that the loop does not read meanwhile
		c := dial(t, d, address)
		names, err := ldapNames(bounded(t), c, search(""), func(n int) {
			if n == 1 {
				reply, err := c.Call(bounded(t), whoAmI)
				require.NoError(t, err)
				require.NoError(t, ldapResult(reply))
				require.Contains(t, string(reply), "dn:cn=admin,dc=test")
			}
		})
		require.NoError(t, err)
		require.Len(t, names, ldapEntries)
		require.True(t, names["cn="+ldapName(ldapEntries-1)+",dc=test"])
	})

	t.Run("a Call has all replies to a search", func(t *testing.T) { // B3
		c := dial(t, ldapDialer(config, newLDAPMessages()), address)
		reply, err := c.Call(bounded(t), search(ldapName(17)))
		require.NoError(t, err)
		tag, _, rest, err := cutBER(reply)
		require.NoError(t, err)
		require.Equal(t, byte(ldapEntry), tag)
		require.NotEmpty(t, rest)
		require.Equal(t, byte(ldapDone), rest[0])
		require.NoError(t, ldapResult(rest))
	})

	t.Run("several searches at once have each their own", func(t *testing.T) { // B3, P3
		const searches = 16
		ids := newLDAPMessages()
		c := dial(t, ldapDialer(config, ids), address)
		round := func() {
			var group sync.WaitGroup
			for n := range searches {
				group.Go(func() {
					request, want := search(""), ldapEntries
					if n%2 == 1 {
						request, want = search(ldapName(n)), 1
					}
					names, err := ldapNames(bounded(t), c, request, nil)
					if err != nil || len(names) != want || !names["cn="+ldapName(n)+",dc=test"] {
						t.Errorf("search %d: %d entries, %v", n, len(names), err)
					}
				})
			}
			group.Wait()
		}
		rounds := 0
		for ; ids.changes.Load() <= int64(rounds*searches) && !t.Failed(); rounds++ { // until the server has mixed replies
			require.Less(t, rounds, 20)
			round()
		}
		require.Zero(t, c.Stats().LateReplies)
		t.Logf("%d searches, and %d changes from one to another", rounds*searches, ids.changes.Load())
	})

	t.Run("one given up in the middle leaves the others alone", func(t *testing.T) { // B3, B4
		d := ldapDialer(config, newLDAPMessages())
		var late atomic.Int64
		d.Trace = &tcpclient.Trace{LateReply: func([]byte) { late.Add(1) }}
		c := dial(t, d, address)
		var group sync.WaitGroup
		group.Go(func() {
			if names, err := ldapNames(bounded(t), c, search(""), nil); err != nil || len(names) != ldapEntries {
				t.Errorf("the other search: %d entries, %v", len(names), err)
			}
		})
		n := 0
		for _, err := range c.Replies(bounded(t), search("")) {
			require.NoError(t, err)
			if n++; n == 10 {
				break
			}
		}
		group.Wait()
		waitFor(t, func() bool { return c.Stats().InFlight == 0 })
		waitFor(t, func() bool { return uint64(late.Load()) == c.Stats().LateReplies })
		require.LessOrEqual(t, late.Load(), int64(ldapEntries+1-10))
		reply, err := c.Call(bounded(t), whoAmI)
		require.NoError(t, err)
		require.NoError(t, ldapResult(reply))
	})

	// Who chooses the id of a search can end it on the server. Cancel (RFC 3909) makes the server answer the
	// search, too. After Abandon no reply comes, and the place of the search stays taken.
	t.Run("a search given up is canceled by the id that the application chose", func(t *testing.T) { // B5
		c := dial(t, ldapDialer(config, newLDAPMessages()), address)
		for id := uint64(70_000); id < 70_010; id++ {
			n := 0
			for _, err := range c.Replies(bounded(t), ldapMessage(id, search(""))) {
				require.NoError(t, err)
				if n++; n == 10 {
					break
				}
			}
			reply, err := c.Call(bounded(t), cancelLDAP(id))
			require.NoError(t, err)
			if err := ldapResult(reply); err != nil {
				require.Contains(t, []error{ldapError(119), ldapError(120)}, err, "noSuchOperation, tooLate: the search has just ended")
			}
			waitFor(t, func() bool { return c.Stats().InFlight == 0 })
		}
		require.EqualValues(t, 1, c.Stats().Connects)
	})

	t.Run("a notice of disconnection reaches Receive before the end", func(t *testing.T) { // P1
		c := dial(t, ldapDialer(config, newLDAPMessages()), address)
		require.NoError(t, c.Send(bounded(t), ldapMessage(1, ber(0x5f, "nonsense"))))
		notice, err := c.Receive(bounded(t))
		require.NoError(t, err)
		require.Contains(t, string(notice), "1.3.6.1.4.1.1466.20036")
		_, err = c.Receive(bounded(t))
		require.ErrorIs(t, err, tcpclient.ErrDisconnected)
	})
}
