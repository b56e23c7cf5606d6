package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/seed-d0aa0aa7/tcpclient"
)

// startTLS are the dialogues in the clear after which a server expects TLS, by protocol.
var startTLS = map[string]func(context.Context, *tcpclient.Conn) error{
	"smtp":     startSMTP,
	"imap":     startIMAP,
	"postgres": startPostgres,
}

func startTLSUsage() string { return strings.Join(slices.Sorted(maps.Keys(startTLS)), ", ") }

// startSMTP is of RFC 3207.
func startSMTP(ctx context.Context, conn *tcpclient.Conn) error {
	smtp, err := parseFraming("smtp")
	if err == nil {
		err = conn.SetFramer(smtp.dialer())
	}
	if err != nil {
		return err
	}
	for _, step := range []struct{ command, want string }{{"", "220"}, {"EHLO localhost", "250"}, {"STARTTLS", "220"}} {
		if step.command != "" {
			if err := conn.Send(ctx, []byte(step.command+"\r\n")); err != nil {
				return err
			}
		}
		reply, err := conn.Receive(ctx)
		if err != nil {
			return err
		}
		if !strings.HasPrefix(string(reply), step.want) {
			return fmt.Errorf("the answer to %q is %q", step.command, reply)
		}
	}
	return nil
}

// startIMAP is of RFC 9051, section 6.2.1.
func startIMAP(ctx context.Context, conn *tcpclient.Conn) error {
	if err := conn.SetFramer(tcpclient.Lines{CRLF: true}); err != nil {
		return err
	}
	greeting, err := conn.Receive(ctx)
	if err != nil {
		return err
	}
	if !strings.HasPrefix(string(greeting), "* OK") {
		return fmt.Errorf("the greeting is %q", greeting)
	}
	if err := conn.Send(ctx, []byte("a STARTTLS")); err != nil {
		return err
	}
	for {
		answer, err := conn.Receive(ctx)
		switch {
		case err != nil:
			return err
		case strings.HasPrefix(string(answer), "* "): // says something else
		case strings.HasPrefix(string(answer), "a OK"):
			return nil
		default:
			return fmt.Errorf("the answer is %q", answer)
		}
	}
}

// startPostgres sends an SSLRequest. The answer is a byte without a frame.
func startPostgres(_ context.Context, conn *tcpclient.Conn) error {
	if _, err := conn.NetConn().Write([]byte{0, 0, 0, 8, 4, 210, 22, 47}); err != nil {
		return err
	}
	answer := make([]byte, 1)
	if _, err := io.ReadFull(conn.NetConn(), answer); err != nil {
		return err
	}
	if answer[0] != 'S' {
		return errors.New("the server has no TLS")
	}
	return nil
}
