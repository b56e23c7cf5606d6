package interop

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/seed-d0aa0aa7/tcpclient"
	"github.com/stretchr/testify/require"
)

// The two framings of PostgreSQL: PostgreSQL 15, chapter 55.2. The first messages of a client have no type.
var (
	pgStartup  = tcpclient.LengthPrefix{Adjust: -4}
	pgMessages = tcpclient.LengthPrefix{Offset: 1, Adjust: -4, KeepHeader: true}
)

const pgPassword = "secret"

// A pgLogin is how a connection begins.
type pgLogin struct {
	tls      *tls.Config
	password string
	first    string // what to ask before all else, such as LISTEN
}

func (l pgLogin) dialer() tcpclient.Dialer {
	return tcpclient.Dialer{
		Framer:    pgStartup,
		Handshake: l.handshake,
		IsPush:    pgIsPush,
		More:      func(reply []byte) bool { return reply[0] != 'Z' }, // ReadyForQuery
		Inbox:     256 << 10,
		Reconnect: &tcpclient.Backoff{Min: 10 * time.Millisecond, Max: 100 * time.Millisecond, FirstDial: true},
	}
}

// pgIsPush reports whether a message comes at any time: notices, notifications, changed parameters.
func pgIsPush(msg []byte) bool { return bytes.IndexByte([]byte("NAS"), msg[0]) >= 0 }

func (l pgLogin) handshake(ctx context.Context, conn *tcpclient.Conn) error {
	if err := conn.Send(ctx, binary.BigEndian.AppendUint32(nil, 80877103)); err != nil { // SSLRequest
		return err
	}
	agreed := make([]byte, 1) // no frame
	if _, err := io.ReadFull(conn.NetConn(), agreed); err != nil {
		return err
	}
	if agreed[0] != 'S' {
		return tcpclient.Permanent(fmt.Errorf("no TLS: %q", agreed))
	}
	if err := conn.StartTLS(ctx, l.tls); err != nil {
		return err
	}
	startup := append(binary.BigEndian.AppendUint32(nil, 3<<16), "user\x00postgres\x00database\x00postgres\x00\x00"...)
	if err := conn.Send(ctx, startup); err != nil {
		return err
	}
	if err := conn.SetFramer(pgMessages); err != nil {
		return err
	}
	if err := l.untilReady(ctx, conn); err != nil || l.first == "" {
		return err
	}
	if err := conn.Send(ctx, pgMessage('Q', l.first)); err != nil {
		return err
	}
	return l.untilReady(ctx, conn)
}

// untilReady answers the request for a password, and delivers what is not for the Handshake.
func (l pgLogin) untilReady(ctx context.Context, conn *tcpclient.Conn) error {
	for {
		msg, err := conn.Receive(ctx)
		if err != nil {
			return err
		}
		switch msg[0] {
		case 'Z':
			return nil
		case 'R':
			if binary.BigEndian.Uint32(msg[5:]) == 3 { // AuthenticationCleartextPassword
				if err := conn.Send(ctx, pgMessage('p', l.password)); err != nil {
					return err
				}
			}
		case 'E':
			if err := parsePGError(msg); err.code == "57P03" { // the database system is starting up
				return err
			}
			return tcpclient.Permanent(parsePGError(msg))
		case 'A':
			conn.Deliver(msg)
		}
	}
}

// pgPing closes a statement that does not exist, and has the answer sent: Close and Flush, PostgreSQL 15,
// section 55.2.3. That answer, CloseComplete, is one message and answers nothing else here. The messages
// that answer an empty query or a Sync would also end the answer to a Call's query.
var pgPing = append(pgSized('C', "S\x00"), pgSized('H', "")...)

// pgSized makes a message with its length filled in: pgPing is two.
func pgSized(kind byte, body string) []byte {
	return append(binary.BigEndian.AppendUint32([]byte{kind}, uint32(4+len(body))), body...)
}

// pinging is dialer with a Heartbeat.
func (l pgLogin) pinging() tcpclient.Dialer {
	d := l.dialer()
	d.Handshake = func(ctx context.Context, conn *tcpclient.Conn) error {
		if err := l.handshake(ctx, conn); err != nil {
			return err
		}
		return conn.SetFramer(asIs{pgMessages})
	}
	d.Heartbeat = pinging(string(pgPing), func(msg []byte) bool { return msg[0] == '3' })
	return d
}

// pgMessage makes a message with one string. The Framer fills its length in.
func pgMessage(kind byte, s string) []byte {
	return append(append([]byte{kind, 0, 0, 0, 0}, s...), 0)
}

type pgError struct{ code, text string }

func (e *pgError) Error() string { return e.code + ": " + e.text }

// parsePGError reads an ErrorResponse or a NoticeResponse.
func parsePGError(msg []byte) *pgError {
	var e pgError
	for field := range bytes.SplitSeq(msg[5:], []byte{0}) {
		switch {
		case len(field) == 0:
		case field[0] == 'C':
			e.code = string(field[1:])
		case field[0] == 'M':
			e.text = string(field[1:])
		}
	}
	return &e
}

// pgRow cuts a DataRow into its columns, which it appends to row.
func pgRow(row [][]byte, msg []byte) [][]byte {
	for rest := msg[7:]; len(rest) > 0; {
		n := int(int32(binary.BigEndian.Uint32(rest)))
		rest = rest[4:]
		row = append(row, rest[:max(n, 0)])
		rest = rest[max(n, 0):]
	}
	return row
}

// A caller is a Client or a Session.
type caller interface {
	Call(ctx context.Context, request []byte) (reply []byte, err error)
}

// pgQuery returns the rows of a query, each with blanks between its columns.
func pgQuery(ctx context.Context, c caller, query string) (rows []string, err error) {
	reply, err := c.Call(ctx, pgMessage('Q', query))
	if err != nil {
		return nil, err
	}
	for len(reply) > 0 {
		n := 1 + int(binary.BigEndian.Uint32(reply[1:]))
		msg := reply[:n]
		reply = reply[n:]
		switch msg[0] {
		case 'D':
			rows = append(rows, string(bytes.Join(pgRow(nil, msg), []byte(" "))))
		case 'E':
			err = parsePGError(msg)
		case 'N', 'A', 'S':
			err = errors.Join(err, fmt.Errorf("a push was taken for a reply: %q", msg))
		}
	}
	return rows, err
}

// mustQuery is pgQuery for what has to succeed.
func mustQuery(t *testing.T, c caller, query string) (rows []string) {
	t.Helper()
	rows, err := pgQuery(bounded(t), c, query)
	require.NoError(t, err)
	return rows
}

// mustValue is mustQuery for a query with one row.
func mustValue(t *testing.T, c caller, query string) (row string) {
	t.Helper()
	rows := mustQuery(t, c, query)
	require.Len(t, rows, 1)
	return rows[0]
}

// preparePostgres makes the data of a server with TLS and a password, which has to run as runAs, with args.
func preparePostgres(t *testing.T) (runAs *syscall.Credential, args func(port string) []string, login pgLogin) {
	t.Helper()
	// It refuses to run as root.
	if os.Getuid() == 0 {
		account, err := user.Lookup("postgres")
		require.NoError(t, err)
		uid, _ := strconv.Atoi(account.Uid)
		gid, _ := strconv.Atoi(account.Gid)
		runAs = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
	}
	dir := directoryOf(t, runAs)
	login.password = pgPassword
	var certFile, keyFile string
	certFile, keyFile, login.tls = selfSigned(t, dir, runAs)
	passwordFile, data := filepath.Join(dir, "password"), filepath.Join(dir, "data")
	require.NoError(t, os.WriteFile(passwordFile, []byte(pgPassword+"\n"), 0o644))

	initdb := exec.Command(find(t, "initdb"), "-D", data, "-U", "postgres", "-A", "password", "--pwfile", passwordFile, "-N", "-E", "UTF8", "--locale", "C")
	initdb.Dir, initdb.SysProcAttr = dir, &syscall.SysProcAttr{Credential: runAs}
	output, err := initdb.CombinedOutput()
	require.NoError(t, err, "initdb: %s", output)

	return runAs, func(port string) []string {
		return []string{"-D", data, "-p", port, "-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories=" + dir,
			"-c", "ssl=on", "-c", "ssl_cert_file=" + certFile, "-c", "ssl_key_file=" + keyFile,
			"-c", "fsync=off", "-c", "shared_buffers=16MB", "-c", "max_connections=20", "-c", "autovacuum=off"}
	}, login
}

// startPostgres runs a server with TLS and a password.
func startPostgres(t *testing.T) (address string, login pgLogin) {
	t.Helper()
	runAs, args, login := preparePostgres(t)
	server := startServerAs(t, runAs, "postgres", args)
	t.Cleanup(func() {
		server.process.Signal(syscall.SIGQUIT) // at once, and its shared memory goes with it
		<-server.exited
	})
	return server.address, login
}

func TestPostgres(t *testing.T) {
	address, login := startPostgres(t)

	t.Run("a login goes through TLS", func(t *testing.T) { // E6
		c := dial(t, login.dialer(), address)
		require.Equal(t, "t", mustValue(t, c, "select ssl from pg_stat_ssl where pid = pg_backend_pid()"))
	})
	t.Run("a wrong password ends Dial", func(t *testing.T) { // P9
		wrong := login
		wrong.password = "guess"
		d := wrong.dialer()
		_, err := d.Dial(bounded(t), "tcp", address)
		var refused *pgError
		require.ErrorAs(t, err, &refused)
		require.Equal(t, "28P01", refused.code)
		require.Equal(t, tcpclient.ClassPermanent, tcpclient.Classify(err))
	})
	t.Run("a certificate of nobody's ends Dial", func(t *testing.T) { // P9
		wrong := login
		wrong.tls = &tls.Config{}
		d := wrong.dialer()
		_, err := d.Dial(bounded(t), "tcp", address)
		var unknown *tls.CertificateVerificationError
		require.ErrorAs(t, err, &unknown)
		require.Equal(t, tcpclient.ClassPermanent, tcpclient.Classify(err))
	})
	t.Run("100 000 rows take bounded memory", func(t *testing.T) { testPostgresRows(t, dial(t, login.dialer(), address)) })
	t.Run("a query given up in the middle", func(t *testing.T) { testPostgresGivenUp(t, dial(t, login.dialer(), address)) })
	t.Run("rows before the end of their backend come before the error", func(t *testing.T) {
		testPostgresCutOff(t, dial(t, login.dialer(), address), dial(t, login.dialer(), address))
	})
	t.Run("a query may take longer than the Heartbeat's Timeout", func(t *testing.T) { testPostgresSleep(t, login.pinging(), address) })
	t.Run("a transaction dies with its Session", func(t *testing.T) {
		testPostgresTransaction(t, dial(t, login.dialer(), address), dial(t, login.dialer(), address))
	})
	t.Run("notifications reach Receive", func(t *testing.T) {
		listening := login
		listening.first = "LISTEN news; NOTIFY news, 'first'"
		testPostgresNotify(t, dial(t, listening.dialer(), address), dial(t, login.dialer(), address))
	})
}

// heap returns how much of the heap is in use.
func heap() int {
	var stats runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&stats)
	return int(stats.HeapAlloc)
}

// mallocCount returns how many allocations there have been.
func mallocCount() uint64 {
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	return stats.Mallocs
}

func testPostgresRows(t *testing.T, c *tcpclient.Client) { // P6, B3
	const rows, kib = 100_000, 1 << 10
	request := pgMessage('Q', fmt.Sprintf("select i, repeat('x', 100) from generate_series(1, %d) i", rows))
	before, most, n := heap(), 0, 0
	mallocs := mallocCount()
	var row [][]byte
	number := make([]byte, 0, 20)
	last := byte(0)
	for msg, err := range c.Replies(bounded(t), request) {
		require.NoError(t, err)
		if last = msg[0]; last != 'D' {
			continue
		}
		n++
		row = pgRow(row[:0], msg)
		if number = strconv.AppendInt(number[:0], int64(n), 10); !bytes.Equal(row[0], number) || len(row[1]) != 100 {
			t.Fatalf("row %d is %q", n, row)
		}
		switch {
		case n == 1000: // the server has to wait for us
			waitFor(t, func() bool { return c.Stats().InboxBytes > 200*kib })
			require.LessOrEqual(t, c.Stats().InboxBytes, 300*kib)
			require.Less(t, c.Stats().BytesReceived, uint64(1<<20))
		case n%10_000 == 0:
			most = max(most, heap()-before)
		}
	}
	require.Equal(t, byte('Z'), last)
	require.Equal(t, rows, n)
	t.Logf("%d bytes of rows, at most %d KiB of heap more than before, %d allocations", c.Stats().BytesReceived, most/kib, mallocCount()-mallocs)
	require.Less(t, most, 4*256*kib+256*kib, "four times the Inbox, and what else there is")
	require.Equal(t, "42", mustValue(t, c, "select 42"))
}

func testPostgresGivenUp(t *testing.T, c *tcpclient.Client) { // P3, B3
	n := 0
	for _, err := range c.Replies(bounded(t), pgMessage('Q', "select i, repeat('x', 100) from generate_series(1, 20000) i")) {
		require.NoError(t, err)
		if n++; n == 10 {
			break
		}
	}
	require.Equal(t, "42", mustValue(t, c, "select 42"), "the rest is not for the next query")
	require.Zero(t, c.Stats().InFlight)
	require.Positive(t, c.Stats().LateReplies)
	require.EqualValues(t, 1, c.Stats().Connects)
}

// The server works one request at a time, and answers a ping when it is done.
func testPostgresSleep(t *testing.T, d tcpclient.Dialer, address string) { // P5, A3
	request := pgSized('Q', "select pg_sleep(1.5), 'awake'\x00")
	c := dial(t, d, address)
	_, err := c.Call(bounded(t), request)
	require.ErrorIs(t, err, tcpclient.ErrHeartbeatTimeout, "without ReplyTimeout the Heartbeat knows no better")

	d.ReplyTimeout = patience
	c = dial(t, d, address)
	reply, err := c.Call(bounded(t), request)
	require.NoError(t, err)
	require.Contains(t, string(reply), "awake")
	require.EqualValues(t, 1, c.Stats().Connects)
}

func testPostgresCutOff(t *testing.T, c, other *tcpclient.Client) { // P1, P4
	s, err := c.Session()
	require.NoError(t, err)
	pid := mustValue(t, s, "select pg_backend_pid()")
	rows, end := 0, error(nil)
	for msg, err := range s.Replies(bounded(t), pgMessage('Q', "select i, repeat('x', 100) from generate_series(1, 1000000) i")) {
		require.NoError(t, end, "the error is the last")
		switch {
		case err != nil:
			end = err
		case msg[0] == 'D':
			rows++
			require.Equal(t, strconv.Itoa(rows), string(pgRow(nil, msg)[0]))
			if rows == 10 {
				mustQuery(t, other, "select pg_terminate_backend("+pid+")")
			}
		case msg[0] == 'E': // its last word, if there was room for it
			require.Equal(t, "57P01", parsePGError(msg).code)
		}
	}
	require.ErrorIs(t, end, tcpclient.ErrDisconnected)
	var op *tcpclient.OpError
	require.ErrorAs(t, end, &op)
	require.False(t, op.Unsent)
	require.Less(t, rows, 1_000_000)
	require.GreaterOrEqual(t, rows, 10)
	require.NotEqual(t, pid, mustValue(t, c, "select pg_backend_pid()"), "the Client goes on")
}

// The same three requests, first on a Session, then on the Client: only the former is safe.
func testPostgresTransaction(t *testing.T, c, other *tcpclient.Client) { // B7
	mustQuery(t, other, "create table ledger (entry text)")
	kill := func(pid string) { mustQuery(t, other, "select pg_terminate_backend("+pid+")") }
	begin := func(on caller) (pid string) {
		mustQuery(t, on, "begin")
		mustQuery(t, on, "insert into ledger values ('debit')")
		return mustValue(t, on, "select pg_backend_pid()")
	}
	lost := func() {
		t.Helper()
		for { // the backend's last word may come first
			if _, err := c.Receive(bounded(t)); err != nil {
				require.ErrorIs(t, err, tcpclient.ErrDisconnected)
				return
			}
		}
	}

	s, err := c.Session()
	require.NoError(t, err)
	kill(begin(s))
	lost()
	for _, query := range []string{"insert into ledger values ('credit')", "commit"} {
		_, err := pgQuery(bounded(t), s, query)
		require.ErrorIs(t, err, tcpclient.ErrDisconnected)
		var op *tcpclient.OpError
		require.ErrorAs(t, err, &op)
		require.True(t, op.Unsent)
	}
	require.Equal(t, "0", mustValue(t, c, "select count(*) from ledger"), "on the next connection")

	kill(begin(c))
	lost()
	mustQuery(t, c, "insert into ledger values ('credit')")
	mustQuery(t, c, "rollback")
	require.Equal(t, "credit", mustValue(t, c, "select entry from ledger"),
		"through the Client half of a transaction is committed: that is what Session is for")
}

func testPostgresNotify(t *testing.T, c, other *tcpclient.Client) { // E5, B6
	const callers, each = 16, 50
	ctx := bounded(t)
	receive := func(kind byte) string {
		t.Helper()
		for {
			msg, err := c.Receive(ctx)
			require.NoError(t, err)
			if msg[0] == kind {
				return string(msg[5:])
			}
		}
	}
	require.Contains(t, receive('A'), "news\x00first\x00", "delivered by the Handshake")

	// Each request makes the server say something that is no reply to it.
	var group sync.WaitGroup
	for n := range callers {
		group.Go(func() {
			for i := range each {
				word := fmt.Sprintf("%d-%d", n, i)
				rows, err := pgQuery(ctx, c, fmt.Sprintf("do $$ begin raise notice 'said %s'; end $$; set application_name = '%s'; notify news, '%[1]s'; select '%[1]s'", word, word))
				if err != nil || len(rows) != 1 || rows[0] != word {
					t.Errorf("%s: %q, %v", word, rows, err)
					return
				}
			}
		})
	}
	mustQuery(t, other, "notify news, 'from another'")
	got := map[byte]int{}
	words := map[string]bool{}
	for got['N'] < callers*each || got['A'] < callers*each+1 || got['S'] < callers*each {
		msg, err := c.Receive(ctx)
		require.NoError(t, err, "so far: %v", got)
		got[msg[0]]++
		if msg[0] == 'A' {
			words[strings.Split(string(msg[9:]), "\x00")[1]] = true
		}
	}
	group.Wait()
	require.Len(t, words, callers*each+1, "each notification once")
	require.True(t, words["from another"])

	// LISTEN belongs in the Handshake: the next connection listens, too.
	mustQuery(t, other, "select pg_terminate_backend("+mustValue(t, c, "select pg_backend_pid()")+")")
	for {
		if _, err := c.Receive(ctx); err != nil {
			require.ErrorIs(t, err, tcpclient.ErrDisconnected)
			break
		}
	}
	require.Contains(t, receive('A'), "news\x00first\x00")
	mustQuery(t, other, "notify news, 'after'")
	require.Contains(t, receive('A'), "news\x00after\x00")
}
