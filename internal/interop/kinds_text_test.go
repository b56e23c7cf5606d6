package interop

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/emersion/go-smtp"
	"github.com/seed-d0aa0aa7/tcpclient"
	"github.com/stretchr/testify/require"
)

func textKinds() []kind {
	return []kind{smtpKind(), rsyslogKind(), jsonrpcKind(), goplsKind()}
}

// A countingSession is one connection to a postOffice.
type countingSession struct {
	office *postOffice
	to     []string
}

// A postOffice counts the mails to each recipient.
type postOffice struct {
	mu    sync.Mutex // guards following
	mails map[string]int
}

func (s *countingSession) Reset()                               { s.to = nil }
func (s *countingSession) Logout() error                        { return nil }
func (s *countingSession) Mail(string, *smtp.MailOptions) error { return nil }
func (s *countingSession) Rcpt(to string, _ *smtp.RcptOptions) error {
	if asked, ok := strings.CutPrefix(to, "count-"); ok {
		s.office.mu.Lock()
		defer s.office.mu.Unlock()
		return &smtp.SMTPError{Code: 551, EnhancedCode: smtp.EnhancedCode{5, 7, 1}, Message: strconv.Itoa(s.office.mails[asked])}
	}
	s.to = append(s.to, to)
	return nil
}

func (s *countingSession) Data(r io.Reader) error {
	if _, err := io.Copy(io.Discard, r); err != nil {
		return err
	}
	s.office.mu.Lock()
	defer s.office.mu.Unlock()
	for _, to := range s.to {
		s.office.mails[to]++
	}
	return nil
}

// serveSMTP takes the files of its certificate.
func serveSMTP(address string, files []string) {
	cert, err := tls.LoadX509KeyPair(files[0], files[1])
	if err != nil {
		panic(err)
	}
	office := &postOffice{mails: make(map[string]int)}
	server := smtp.NewServer(smtp.BackendFunc(func(*smtp.Conn) (smtp.Session, error) { return &countingSession{office: office}, nil }))
	server.Addr, server.Domain = address, "server.test"
	server.TLSConfig = &tls.Config{Certificates: []tls.Certificate{cert}}
	panic(server.ListenAndServe())
}

// smtpKind asks for recipients of one mail that is never sent. An add is a whole mail: five commands in one
// request, sent ahead of their replies as RFC 2920 and, for the text, RFC 3030 allow.
func smtpKind() kind {
	var config *tls.Config
	const begin = "MAIL FROM:<asks@client.test>\r\n"
	steps := []string{"Session reset", "<adds@", "<add-", "OK: queued"} // of an add, all but the last
	return kind{
		name: "go-smtp",
		start: func(t *testing.T) *host {
			var certFile, keyFile string
			certFile, keyFile, config = selfSigned(t, t.TempDir(), nil)
			return startChild(t, "serve-smtp", certFile, keyFile)
		},
		dialer: func() tcpclient.Dialer {
			d := smtpDialer(config)
			d.Heartbeat = pinging("NOOP\r\n", func(msg []byte) bool { return string(msg) == "250 2.0.0 I have successfully done nothing\r\n" })
			d.More = func(reply []byte) bool {
				return slices.ContainsFunc(steps, func(step string) bool { return bytes.Contains(reply, []byte(step)) })
			}
			greet := d.Handshake
			d.Handshake = func(ctx context.Context, conn *tcpclient.Conn) error {
				if err := greet(ctx, conn); err != nil {
					return err
				}
				if err := conn.Send(ctx, []byte(begin)); err != nil {
					return err
				}
				reply, err := conn.Receive(ctx)
				if err == nil && !bytes.HasPrefix(reply, []byte("250 ")) {
					err = fmt.Errorf("%q", reply)
				}
				return err
			}
			return d
		},
		ask: func(n int) ([]byte, func([]byte) error) {
			who := fmt.Sprintf("<ask-%d%s@server.test>", n, padding(n)[:len(padding(n))/2])
			return fmt.Appendf(nil, "RCPT TO:%s\r\n", who), want("250 2.0.0 I'll make sure " + who + " gets this\r\n")
		},
		add: func(n int) []byte {
			body := fmt.Sprintf("Subject: %d\r\n\r\n%s\r\n", n, padding(n))
			return fmt.Appendf(nil, "RSET\r\nMAIL FROM:<adds@client.test>\r\nRCPT TO:<add-%d@server.test>\r\nBDAT %d LAST\r\n%s%s", n, len(body), body, begin)
		},
		executed: func(t *testing.T, c *tcpclient.Client, n int) int {
			reply := mustCall(t, c, fmt.Appendf(nil, "RCPT TO:<count-add-%d@server.test>\r\n", n))
			count, ok := bytes.CutPrefix(bytes.TrimSpace(reply), []byte("551 5.7.1 "))
			require.True(t, ok, "%q", reply)
			return atoi(t, count)
		},
	}
}

const syslogHeader = "<14>1 2026-01-01T00:00:00Z host test - - - "

// rsyslogKind answers nothing. What it has taken is in its file.
func rsyslogKind() kind {
	var lines string // the path of the file
	var counter *tcpclient.Client
	var counts map[int]int // as counter has counted them
	add := func(n int) []byte { return fmt.Appendf(nil, "%sadd %d %s.", syslogHeader, n, fill(n)) }
	return kind{
		name:   "rsyslog",
		oneWay: true,
		start: func(t *testing.T) *host {
			dir := t.TempDir()
			lines = filepath.Join(dir, "lines")
			return startHost(t, "rsyslogd", func(port string) []string {
				config := filepath.Join(dir, "rsyslog.conf")
				require.NoError(t, os.WriteFile(config, fmt.Appendf(nil, `
global(workDirectory="%s" maxMessageSize="64k")
module(load="imtcp")
input(type="imtcp" address="127.0.0.1" port="%s" supportOctetCountedFraming="on")
template(name="text" type="string" string="%%msg%%\n")
action(type="omfile" file="%s" template="text")
`, dir, port, lines), 0o600))
				return []string{"-n", "-iNONE", "-f", config}
			})
		},
		dialer: func() tcpclient.Dialer { return tcpclient.Dialer{Framer: tcpclient.OctetCounting()} },
		ask:    func(n int) ([]byte, func([]byte) error) { return add(n), nil },
		add:    add,
		executed: func(t *testing.T, c *tcpclient.Client, n int) int {
			if c != counter {
				counter, counts = c, countLines(t, c, lines)
			}
			return counts[n]
		},
	}
}

// countLines returns how often the file has the line of each add. It waits for a line that c sends now:
// the server writes that after all it had taken before.
func countLines(t *testing.T, c *tcpclient.Client, path string) map[int]int {
	t.Helper()
	mark := "mark " + c.LocalAddr().String() + "\n"
	require.NoError(t, c.Send(bounded(t), []byte(syslogHeader+strings.TrimSpace(mark))))
	var text []byte
	waitFor(t, func() bool {
		text, _ = os.ReadFile(path) // not there yet
		return bytes.Contains(text, []byte(mark))
	})
	counts := make(map[int]int)
	for line := range strings.Lines(string(text)) {
		if added, ok := strings.CutPrefix(line, "add "); ok {
			digits, rest, _ := strings.Cut(strings.TrimSpace(added), " ")
			n := atoi(t, []byte(digits))
			require.Equal(t, fill(n)+".", rest, "message %d", n)
			counts[n]++
		}
	}
	return counts
}

// jsonrpcIDs give requests, which are objects without "jsonrpc" and "id", their ids.
type jsonrpcIDs struct{}

func (jsonrpcIDs) AppendRequest(dst []byte, id uint64, request []byte) ([]byte, error) {
	return append(fmt.Appendf(dst, `{"jsonrpc":"2.0","id":%d,`, id), request[1:]...), nil
}

func (jsonrpcIDs) SplitReply(msg []byte) (id uint64, reply []byte, ok bool) {
	var head struct {
		ID     *uint64
		Method string
	}
	if json.Unmarshal(msg, &head) != nil || head.ID == nil || head.Method != "" {
		return 0, nil, false
	}
	return *head.ID, msg, true
}

// jsonrpcResult returns the result in a reply, a string or a number.
func jsonrpcResult(reply []byte) (result string, err error) {
	var object struct {
		Result json.RawMessage
		Error  json.RawMessage
	}
	if err := json.Unmarshal(reply, &object); err != nil {
		return "", err
	}
	if object.Error != nil {
		return "", fmt.Errorf("error %s", object.Error)
	}
	return strings.Trim(string(object.Result), `"`), nil
}

// jsonrpcKind is a server with the framing of language servers and debuggers. The ping is a method that the
// server does not know: it answers with an error.
func jsonrpcKind() kind {
	return kind{
		name:  "vscode-jsonrpc",
		start: func(t *testing.T) *host { return startNode(t, "jsonrpc.js") },
		dialer: func() tcpclient.Dialer {
			return tcpclient.Dialer{
				Framer:     tcpclient.ContentLength{},
				Correlator: jsonrpcIDs{}, // from 1 on: 0 is for pings
				Heartbeat: pinging(`{"jsonrpc":"2.0","id":0,"method":"ping"}`, func(msg []byte) bool {
					id, _, ok := jsonrpcIDs{}.SplitReply(msg)
					return ok && id == 0
				}),
			}
		},
		ask: func(n int) ([]byte, func([]byte) error) {
			text := fmt.Sprint("question ", n, fill(n))
			return fmt.Appendf(nil, `{"method":"ask","params":{"text":%q}}`, text), func(reply []byte) error {
				got, err := jsonrpcResult(reply)
				if err == nil {
					err = want(text)([]byte(got))
				}
				return err
			}
		},
		add: func(n int) []byte {
			return fmt.Appendf(nil, `{"method":"add","params":{"n":%d,"fill":%q}}`, n, fill(n))
		},
		executed: func(t *testing.T, c *tcpclient.Client, n int) int {
			count, err := jsonrpcResult(mustCall(t, c, fmt.Appendf(nil, `{"method":"count","params":{"n":%d}}`, n)))
			require.NoError(t, err)
			return atoi(t, []byte(count))
		},
	}
}
