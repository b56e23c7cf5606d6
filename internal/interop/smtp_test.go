package interop

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"

	"github.com/emersion/go-smtp"
	"github.com/seed-d0aa0aa7/tcpclient"
	"github.com/seed-d0aa0aa7/tcpclient/internal/testkit"
	"github.com/stretchr/testify/require"
)

// smtpFraming reads replies, of one line or more. Commands and mails are written as they are.
type smtpFraming struct{ tcpclient.Sized }

func newSMTPFraming() smtpFraming { return smtpFraming{tcpclient.Sized{Size: testkit.SizeSMTP}} }

func (smtpFraming) WriteFrame(w *bufio.Writer, msg []byte) error {
	_, err := w.Write(msg)
	return err
}

// smtpDialer greets the server, goes over to TLS, and greets it again: RFC 3207.
func smtpDialer(config *tls.Config) tcpclient.Dialer {
	return tcpclient.Dialer{
		Framer: newSMTPFraming(),
		Handshake: func(ctx context.Context, conn *tcpclient.Conn) error {
			do := func(command, want string) (reply string, err error) {
				if command != "" {
					if err := conn.Send(ctx, []byte(command+"\r\n")); err != nil {
						return "", err
					}
				}
				msg, err := conn.Receive(ctx)
				if err == nil && !strings.HasPrefix(string(msg), want) {
					err = fmt.Errorf("%s: %q", command, msg)
				}
				return string(msg), err
			}
			if _, err := do("", "220"); err != nil {
				return err
			}
			offers, err := do("EHLO client.test", "250")
			if err != nil {
				return err
			}
			if !strings.Contains(offers, "STARTTLS\r\n") {
				return tcpclient.Permanent(fmt.Errorf("no STARTTLS: %q", offers))
			}
			if _, err := do("STARTTLS", "220"); err != nil {
				return err
			}
			if err := conn.StartTLS(ctx, config); err != nil {
				return err
			}
			_, err = do("EHLO client.test", "250")
			return err
		},
	}
}

// A mailbox is a server's: it keeps the mails that came through TLS.
type mailbox struct {
	mu    sync.Mutex // guards following
	mails []mail
}

type mail struct {
	from, body string
	to         []string
}

func (b *mailbox) last() (n int, last mail) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if n = len(b.mails); n > 0 {
		last = b.mails[n-1]
	}
	return n, last
}

// A mailSession is one connection to a mailbox.
type mailSession struct {
	conn    *smtp.Conn
	mailbox *mailbox
	mail    mail
}

func (s *mailSession) Reset()        { s.mail = mail{} }
func (s *mailSession) Logout() error { return nil }

func (s *mailSession) Mail(from string, _ *smtp.MailOptions) error {
	if _, ok := s.conn.TLSConnectionState(); !ok {
		return &smtp.SMTPError{Code: 530, Message: "Must issue a STARTTLS command first"}
	}
	s.mail.from = from
	return nil
}

func (s *mailSession) Rcpt(to string, _ *smtp.RcptOptions) error {
	if !strings.HasSuffix(to, "@server.test") {
		return &smtp.SMTPError{Code: 550, Message: "No such user here\nnor relaying"}
	}
	s.mail.to = append(s.mail.to, to)
	return nil
}

func (s *mailSession) Data(r io.Reader) error {
	body, err := io.ReadAll(r)
	s.mail.body = string(body)
	s.mailbox.mu.Lock()
	defer s.mailbox.mu.Unlock()
	s.mailbox.mails = append(s.mailbox.mails, s.mail)
	return err
}

// startSMTP runs a server until the test ends.
func startSMTP(t *testing.T) (address string, mails *mailbox, client *tls.Config) {
	t.Helper()
	certFile, keyFile, client := selfSigned(t, t.TempDir(), nil)
	cert, err := tls.LoadX509KeyPair(certFile, keyFile)
	require.NoError(t, err)
	mails = new(mailbox)
	server := smtp.NewServer(smtp.BackendFunc(func(conn *smtp.Conn) (smtp.Session, error) {
		return &mailSession{conn: conn, mailbox: mails}, nil
	}))
	server.Domain = "server.test"
	server.TLSConfig = &tls.Config{Certificates: []tls.Certificate{cert}}
	l := testkit.ListenTCP(t)
	var serving sync.WaitGroup
	serving.Go(func() { server.Serve(l.Listener) })
	t.Cleanup(func() {
		server.Close()
		serving.Wait()
	})
	return l.Addr().String(), mails, client
}

func TestSMTP(t *testing.T) { // E6
	address, mails, config := startSMTP(t)
	c := dial(t, smtpDialer(config), address)

	// A mail is a sequence of requests on one connection.
	s, err := c.Session()
	require.NoError(t, err)
	do := func(command, want string) {
		t.Helper()
		reply, err := s.Call(bounded(t), []byte(command+"\r\n"))
		require.NoError(t, err)
		require.Regexp(t, "^"+want, string(reply), command)
	}
	body := "Subject: hello\r\n\r\n.a line with a dot\r\n" + strings.Repeat(strings.Repeat("x", 70)+"\r\n", 1000)
	do("MAIL FROM:<a@client.test>", "250 ")
	do("RCPT TO:<b@elsewhere.test>", "550[- ]")
	do("RCPT TO:<b@server.test>", "250 ")
	do("RCPT TO:<c@server.test>", "250 ")
	do("DATA", "354 ")
	do(strings.ReplaceAll(body, "\r\n.", "\r\n..")+".", "250 ")
	n, got := mails.last()
	require.Equal(t, 1, n)
	require.Equal(t, mail{"a@client.test", body, []string{"b@server.test", "c@server.test"}}, got)

	do("QUIT", "221 ")
	_, err = c.Receive(bounded(t))
	require.ErrorIs(t, err, tcpclient.ErrDisconnected)
	_, err = s.Call(bounded(t), []byte("MAIL FROM:<late@client.test>\r\n"))
	require.ErrorIs(t, err, tcpclient.ErrDisconnected)
}

// CVE-2021-23222 and its kin: what was put after the agreement to TLS is no reply to what goes through TLS.
func TestSMTPBytesInTheClear(t *testing.T) { // E6
	certFile, keyFile, config := selfSigned(t, t.TempDir(), nil)
	cert, err := tls.LoadX509KeyPair(certFile, keyFile)
	require.NoError(t, err)
	for name, agree := range map[string][]string{
		"in the same segment": {"220 go ahead\r\n250 injected\r\n"},
		"in the next segment": {"220 go ahead\r\n", "250 injected\r\n"},
	} {
		t.Run(name, func(t *testing.T) {
			l := testkit.ListenTCP(t)
			var serving sync.WaitGroup
			protected := false
			serving.Go(func() {
				conn, err := l.Accept()
				if err != nil {
					return
				}
				defer conn.Close()
				lines := bufio.NewScanner(conn)
				io.WriteString(conn, "220 server.test\r\n")
				lines.Scan() // EHLO
				io.WriteString(conn, "250-server.test\r\n250 STARTTLS\r\n")
				lines.Scan() // STARTTLS
				for _, segment := range agree {
					io.WriteString(conn, segment)
				}
				server := tls.Server(conn, &tls.Config{Certificates: []tls.Certificate{cert}})
				if server.Handshake() == nil {
					n, _ := server.Read(make([]byte, 1))
					protected = n > 0
				}
			})
			c, err := (&tcpclient.Dialer{Framer: newSMTPFraming(), Handshake: smtpDialer(config).Handshake}).Dial(bounded(t), "tcp", l.Addr().String())
			if err == nil {
				c.Close()
			}
			l.Close()
			serving.Wait()
			require.Error(t, err)
			require.ErrorIs(t, err, tcpclient.ErrDisconnected)
			require.False(t, protected, "nothing is said through TLS")
			if len(agree) == 1 {
				require.ErrorContains(t, err, "in the clear")
				require.ErrorContains(t, err, "250 injected")
			}
		})
	}
}
