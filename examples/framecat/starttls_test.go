package main

import (
	"crypto/tls"
	"io"
	"net"
	"strings"
	"testing"

	"github.com/seed-d0aa0aa7/tcpclient/tcpclienttest"
	"github.com/stretchr/testify/require"
)

// upgrade has a dialogue, what the server says and what it expects in turn, and then echoes over TLS.
func upgrade(t *testing.T, dialogue ...string) (addr string) {
	settings, _ := tcpclienttest.NewTLSConfig()
	return serve(t, "tcp", "127.0.0.1:0", func(conn net.Conn) {
		for i, text := range dialogue {
			if i%2 == 0 {
				io.WriteString(conn, text)
				continue
			}
			got := make([]byte, len(text))
			if _, err := io.ReadFull(conn, got); err != nil || string(got) != text {
				io.WriteString(conn, "what?\r\n")
				return
			}
		}
		secure := tls.Server(conn, settings)
		io.Copy(secure, secure)
		secure.Close()
	})
}

func TestStartTLS(t *testing.T) { // E6
	const ehlo, start = "EHLO localhost\r\n", "STARTTLS\r\n"
	for protocol, dialogue := range map[string][]string{
		"smtp":     {"220-mail\r\n220 ready\r\n", ehlo, "250-mail\r\n250 STARTTLS\r\n", start, "220 go ahead\r\n"},
		"imap":     {"* OK ready\r\n", "a STARTTLS\r\n", "* CAPABILITY IMAP4rev2\r\na OK begin\r\n"},
		"postgres": {"", "\x00\x00\x00\x08\x04\xd2\x16\x2f", "S"},
	} {
		t.Run(protocol, func(t *testing.T) {
			exit, out, errOut := framecat(t, "hello\nworld\n", "-frame", "netstring", "-starttls", protocol, "-insecure", upgrade(t, dialogue...))
			require.Equal(t, exitOK, exit, errOut)
			require.Equal(t, "hello\nworld\n", out)
		})
	}

	for name, test := range map[string]struct{ protocol, dialogue, reason string }{
		"SMTP without TLS":              {"smtp", "220 ready\r\n|" + ehlo + "|250 mail\r\n|" + start + "|502 no\r\n", "502 no"},
		"an SMTP server that is busy":   {"smtp", "421 busy\r\n", "421 busy"},
		"IMAP without TLS":              {"imap", "* OK\r\n|a STARTTLS\r\n|a BAD no\r\n", "a BAD no"},
		"an IMAP server that hangs up":  {"imap", "* BYE\r\n", "* BYE"},
		"PostgreSQL without TLS":        {"postgres", "|\x00\x00\x00\x08\x04\xd2\x16\x2f|N", "no TLS"},
		"words in the clear before TLS": {"smtp", "220 ready\r\n|" + ehlo + "|250 mail\r\n|" + start + "|220 go\r\n250 evil\r\n", "in the clear"},
		"an unknown certificate":        {"imap", "* OK\r\n|a STARTTLS\r\n|a OK\r\n", "certificate"},
	} {
		t.Run("refuses "+name, func(t *testing.T) {
			args := []string{"-frame", "lines", "-starttls", test.protocol}
			exit, out, errOut := framecat(t, "secret\n", append(args, upgrade(t, strings.Split(test.dialogue, "|")...))...)
			require.Equal(t, exitError, exit)
			require.Empty(t, out)
			require.Contains(t, errOut, test.reason)
		})
	}
}
