package interop

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"

	"github.com/seed-d0aa0aa7/tcpclient"
	"github.com/stretchr/testify/require"
)

func databaseKinds() []kind {
	return []kind{postgresKind(), mariadbKind(), slapdKind(), zookeeperKind()}
}

// postgresKind is logged in through TLS.
func postgresKind() kind {
	var login pgLogin
	return kind{
		name: "postgres",
		start: func(t *testing.T) *host {
			runAs, args, given := preparePostgres(t)
			login = given
			h := startHostAs(t, runAs, "postgres", func(port string) []string {
				return append(args(port), "-c", "max_connections=100")
			})
			t.Cleanup(func() {
				h.process.Signal(syscall.SIGQUIT) // at once, and its shared memory goes with it
				<-h.exited
			})
			execute(t, login.dialer(), h.address, pgMessage('Q', "create table ledger (n int); create index on ledger (n)"))
			return h
		},
		dialer: func() tcpclient.Dialer { return login.pinging() },
		ask: func(n int) ([]byte, func([]byte) error) {
			word := fmt.Sprint("question ", n, fill(n))
			return pgSized('Q', "select '"+word+"'\x00"), func(reply []byte) error {
				row, err := pgOneRow(reply)
				if err == nil {
					err = want(word)(row)
				}
				return err
			}
		},
		add: func(n int) []byte {
			return pgSized('Q', fmt.Sprintf("insert into ledger values (%d) /*%s*/\x00", n, fill(n)))
		},
		executed: func(t *testing.T, c *tcpclient.Client, n int) int {
			row, err := pgOneRow(mustCall(t, c, pgSized('Q', fmt.Sprintf("select count(*) from ledger where n = %d\x00", n))))
			require.NoError(t, err)
			return atoi(t, row)
		},
	}
}

// pgOneRow returns the only column of the only row of the answer to a query.
func pgOneRow(reply []byte) (column []byte, err error) {
	var kinds []byte
	for len(reply) > 0 {
		n := 1 + int(binary.BigEndian.Uint32(reply[1:]))
		msg := reply[:n]
		reply = reply[n:]
		kinds = append(kinds, msg[0])
		switch msg[0] {
		case 'D':
			column = pgRow(nil, msg)[0]
		case 'E':
			return nil, parsePGError(msg)
		}
	}
	if string(kinds) != "TDCZ" { // RowDescription, DataRow, CommandComplete, ReadyForQuery
		err = fmt.Errorf("no answer to one query: %q", kinds)
	}
	return column, err
}

// execute makes requests over a connection of its own.
func execute(t *testing.T, d tcpclient.Dialer, address string, requests ...[]byte) {
	t.Helper()
	d.Heartbeat = tcpclient.Heartbeat{} // the answer to "create table" looks like that to a ping of MariaDB
	c := dial(t, d, address)
	for _, request := range requests {
		mustCall(t, c, request)
	}
	require.NoError(t, c.Close())
}

// Of the protocol of MariaDB and MySQL.
const (
	mysqlOK, mysqlEOF, mysqlError = 0x00, 0xfe, 0xff
	mysqlQuery, mysqlPing         = 3, 14
)

// mysqlPacket returns the payload of the packet at p[at:], and the packet's end, 0 if it is not whole. The
// packets of an answer are numbered from 1.
func mysqlPacket(p []byte, at, number int) (payload []byte, end int, err error) {
	if len(p) < at+4 {
		return nil, 0, nil
	}
	if p[at+3] != byte(number) {
		return nil, 0, fmt.Errorf("packet number %d instead of %d", p[at+3], number)
	}
	end = at + 4 + (int(p[at]) | int(p[at+1])<<8 | int(p[at+2])<<16)
	if len(p) < end {
		return nil, 0, nil
	}
	return p[at+4 : end], end, nil
}

// sizeMySQL is that of a whole answer, for tcpclient.Sized. An answer is one packet, or the packets of a
// table: the number of columns, each column, an end, the rows, and an end.
func sizeMySQL(p []byte) (size int, err error) {
	first, end, err := mysqlPacket(p, 0, 1)
	if err != nil || end == 0 {
		return 0, err
	}
	if len(first) == 0 {
		return 0, fmt.Errorf("empty packet")
	}
	if first[0] == mysqlOK || first[0] == mysqlError {
		return end, nil
	}
	for number, ends := 2, 0; ends < 2; number++ {
		var payload []byte
		if payload, end, err = mysqlPacket(p, end, number); err != nil || end == 0 {
			return 0, err
		}
		switch {
		case len(payload) > 0 && payload[0] == mysqlError:
			return end, nil
		case len(payload) > 0 && len(payload) < 9 && payload[0] == mysqlEOF:
			ends++
		}
	}
	return end, nil
}

// mysqlRequest makes the packet of a command. It is the first of its exchange.
func mysqlRequest(command byte, text string) []byte {
	n := 1 + len(text)
	return append([]byte{byte(n), byte(n >> 8), byte(n >> 16), 0, command}, text...)
}

// mysqlLogin logs in to a server that asks for no password.
func mysqlLogin(ctx context.Context, conn *tcpclient.Conn) error {
	greeting, err := conn.Receive(ctx)
	if err != nil {
		return err
	}
	if greeting[4] != 10 { // the version of the protocol
		return fmt.Errorf("refused: %q", greeting[4:])
	}
	login := []byte{0, 0, 0, 1, 0x00, 0x82, 0x08, 0, 0, 0, 0, 1, 45} // number 1, 4.1 protocol, utf8mb4
	login = append(append(login, make([]byte, 23)...), "root\x00\x00mysql_native_password\x00"...)
	if err := conn.Send(ctx, login); err != nil {
		return err
	}
	reply, err := conn.Receive(ctx)
	if err != nil {
		return err
	}
	if reply[4] != mysqlOK {
		return fmt.Errorf("not logged in: %q", reply[4:])
	}
	return conn.SetFramer(asIs{tcpclient.Sized{Size: sizeMySQL}})
}

// mariadbKind makes a whole answer one message, so that many goroutines can share a connection.
func mariadbKind() kind {
	dialer := func() tcpclient.Dialer {
		return tcpclient.Dialer{
			Framer:    tcpclient.LengthPrefix{Width: 3, LittleEndian: true, Adjust: 1, KeepHeader: true},
			Handshake: mysqlLogin,
			Heartbeat: pinging(string(mysqlRequest(mysqlPing, "")), func(msg []byte) bool {
				return len(msg) > 5 && msg[4] == mysqlOK && msg[5] == 0 // no row was changed
			}),
		}
	}
	return kind{
		name: "mariadb",
		start: func(t *testing.T) *host {
			dir := t.TempDir()
			data := filepath.Join(dir, "data")
			require.NoError(t, os.Mkdir(data, 0o700))
			h := startHost(t, "mariadbd", func(port string) []string {
				args := []string{"--no-defaults", "--datadir=" + data, "--bind-address=127.0.0.1", "--port=" + port,
					"--socket=" + filepath.Join(dir, "socket"), "--pid-file=" + filepath.Join(dir, "pid"), "--skip-grant-tables",
					"--innodb-buffer-pool-size=8M", "--innodb-log-file-size=4M", "--innodb-flush-log-at-trx-commit=2",
					"--innodb-flush-method=nosync", "--performance-schema=off"}
				if os.Getuid() == 0 {
					args = append(args, "--user=root") // else it refuses to run
				}
				return args
			})
			execute(t, dialer(), h.address, mysqlRequest(mysqlQuery, "create database books"),
				mysqlRequest(mysqlQuery, "create table books.ledger (n int, key (n))"))
			return h
		},
		dialer: dialer,
		ask: func(n int) ([]byte, func([]byte) error) {
			word := fmt.Sprint("question ", n, fill(n))
			return mysqlRequest(mysqlQuery, "select '"+word+"' as word"), func(reply []byte) error {
				column, err := mysqlOneRow(reply)
				if err == nil {
					err = want(word)(column)
				}
				return err
			}
		},
		add: func(n int) []byte {
			return mysqlRequest(mysqlQuery, fmt.Sprintf("insert into books.ledger values (%d) /*%s*/", n, fill(n)))
		},
		executed: func(t *testing.T, c *tcpclient.Client, n int) int {
			column, err := mysqlOneRow(mustCall(t, c, mysqlRequest(mysqlQuery, fmt.Sprintf("select count(*) from books.ledger where n = %d", n))))
			require.NoError(t, err)
			return atoi(t, column)
		},
	}
}

// mysqlOneRow returns the only column of the only row of an answer.
func mysqlOneRow(reply []byte) (column []byte, err error) {
	var payloads [][]byte
	for end := 0; end < len(reply); {
		var payload []byte
		if payload, end, err = mysqlPacket(reply, end, len(payloads)+1); err != nil {
			return nil, err
		}
		payloads = append(payloads, payload)
	}
	if len(payloads) != 5 || !bytes.Equal(payloads[0], []byte{1}) {
		return nil, fmt.Errorf("no answer of one row: %d packets", len(payloads))
	}
	// The column has its length in front: a byte, or two after 0xfc.
	row := payloads[3]
	switch {
	case len(row) > 0 && row[0] < 0xfb && int(row[0]) == len(row)-1:
		return row[1:], nil
	case len(row) > 2 && row[0] == 0xfc && int(binary.LittleEndian.Uint16(row[1:])) == len(row)-3:
		return row[3:], nil
	}
	return nil, fmt.Errorf("no column: %.20q", row)
}

// slapdKind has a number in each entry. An add increments it: RFC 4525.
func slapdKind() kind {
	const entries = 10_000
	var config *tls.Config
	return kind{
		name: "slapd",
		start: func(t *testing.T) *host {
			var args func(port string) []string
			args, config = prepareLDAP(t, entries)
			return startHost(t, "slapd", args)
		},
		dialer: func() tcpclient.Dialer {
			const pingID = 1<<31 - 1
			d := ldapDialer(config, newLDAPMessages())
			d.Heartbeat = pinging(string(ldapMessage(pingID, whoAmI)), func(msg []byte) bool {
				id, _, err := cutMessage(msg)
				return err == nil && id == pingID
			})
			return d
		},
		ask: func(n int) ([]byte, func([]byte) error) {
			name := ldapName(n % entries)
			return lookUp(name), func(reply []byte) error {
				_, err := ldapExecutions(reply, name)
				return err
			}
		},
		add: func(n int) []byte {
			const increment = 3
			change := ber(berSequence, berInt(berEnumerated, increment), ber(berSequence, ber(berOctets, "executions"), ber(0x31, ber(berOctets, "1"))))
			request := ber(0x66, ber(berOctets, "cn="+ldapName(n)+",dc=test"), ber(berSequence, change))
			// A control that the server does not know, and may ignore.
			return append(request, ber(0xa0, ber(berSequence, ber(berOctets, "1.3.6.1.4.1.4203.666.100.3"), ber(berOctets, fill(n))))...)
		},
		executed: func(t *testing.T, c *tcpclient.Client, n int) int {
			count, err := ldapExecutions(mustCall(t, c, lookUp(ldapName(n))), ldapName(n))
			require.NoError(t, err)
			return count
		},
	}
}

// lookUp asks for one entry by its name, which needs no index.
func lookUp(name string) []byte {
	return ber(ldapSearch, ber(berOctets, "cn="+name+",dc=test"), berInt(berEnumerated, 0), berInt(berEnumerated, 0), // it alone
		berInt(berInteger, 0), berInt(berInteger, 0), []byte{1, 1, 0}, ber(ldapPresent, "objectClass"), ber[string](berSequence))
}

// ldapExecutions reads the answer to a search for an entry: that, and the end.
func ldapExecutions(reply []byte, name string) (n int, err error) {
	tag, entry, rest, err := cutBER(reply)
	if err != nil {
		return 0, err
	}
	if want := "cn=" + name + ",dc=test"; tag != ldapEntry || !bytes.Contains(entry, []byte(want)) {
		return 0, fmt.Errorf("want %s, got %q", want, reply)
	}
	if len(rest) == 0 || rest[0] != ldapDone {
		return 0, fmt.Errorf("want the end, got %q", rest)
	}
	if err := ldapResult(rest); err != nil {
		return 0, err
	}
	_, after, found := bytes.Cut(entry, []byte("executions"))
	if !found || len(after) < 4 || after[0] != 0x31 || after[2] != berOctets {
		return 0, fmt.Errorf("no executions in %q", entry)
	}
	return strconv.Atoi(string(after[4 : 4+int(after[3])]))
}
