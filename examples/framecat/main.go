// Framecat is netcat for framed protocols: it sends the lines of its input as messages, and
// prints the messages that arrive as lines. It shows how a program uses tcpclient: settings
// from flags, concurrent writing and receiving, a graceful end with Shutdown, and an exit
// code from an error. With -listen it is a proxy that prints what a client and a server say.
//
//	go run ./examples/framecat                                  # explains and demonstrates itself
//	echo PING | go run ./examples/framecat -frame resp localhost:6379
//	go run ./examples/framecat -frame u16 -hex -tls 9.9.9.9:853 <queries.hex # DNS over TLS
//	echo NOOP | go run ./examples/framecat -frame smtp -starttls smtp mail.example.com:587
//	go run ./examples/framecat -frame mqtt -listen localhost:1884 -to localhost:1883
package main

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"time"

	"github.com/seed-d0aa0aa7/tcpclient"
	"github.com/seed-d0aa0aa7/tcpclient/tcpclienttest"
)

// The exit codes.
const (
	exitOK          = 0
	exitError       = 1
	exitUsage       = 2
	exitInterrupted = 130 // as shells have it
)

const usage = `usage: framecat [flags] host:port
       framecat [flags] -listen host:port -to host:port

Sends the lines of standard input (LF or CR LF) as messages and prints the messages that
arrive as lines. At the end of the input it sends FIN and prints what still arrives.

With -listen it passes on what clients and the server of -to say, unchanged and at once, and
prints each frame on a line: the number of the connection, > from the client or < from the
server, the message as a Go string. What is no frame is said, and it and all that follows in
that direction is printed as it arrives, marked raw. Interrupt ends it.

` + frameUsage + `
Exit code: 0 all went well, 1 the connection or the protocol failed, 2 wrong usage,
130 interrupted.

`

// A config holds the settings of the flags.
type config struct {
	dialer  tcpclient.Dialer
	framing framing
	network string
	address string // of the server; empty: demonstrate
	listen  string // of the proxy; empty: none
	hex     bool
	json    bool
	timeout time.Duration
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	os.Exit(run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}

// run is main for tests: its input and output are arguments.
func run(ctx context.Context, args []string, in io.Reader, out, errOut io.Writer) (exit int) {
	c, err := parse(args, errOut)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return exitOK
	case err != nil:
		fmt.Fprintln(errOut, "framecat:", err)
		return exitUsage
	case c.listen != "":
		err = c.proxy(ctx, out, errOut)
	case c.address == "":
		err = demonstrate(ctx, c, out)
	default:
		err = c.cat(ctx, in, out)
	}
	switch {
	case ctx.Err() != nil && errors.Is(err, ctx.Err()):
		return exitInterrupted // without a message: the user did it
	case err != nil:
		fmt.Fprintln(errOut, "framecat:", err)
		return exitError
	}
	return exitOK
}

// parse makes a config of the arguments.
func parse(args []string, errOut io.Writer) (*config, error) {
	c := &config{network: "tcp"}
	flags := flag.NewFlagSet("framecat", flag.ContinueOnError)
	flags.SetOutput(io.Discard) // the caller prints errors, and help is printed below
	frame := flags.String("frame", "u32", "how messages are marked in the stream: `kind`, see above")
	flags.BoolVar(&c.hex, "hex", false, "messages are in hexadecimal")
	flags.BoolVar(&c.json, "json", false, "print a JSON object a line, with the time, who has sent it, and text, or hex if it is none")
	flags.StringVar(&c.listen, "listen", "", "be a proxy at this `address`")
	to := flags.String("to", "", "with -listen: the `address` of the server")
	unix := flags.Bool("unix", false, "the address of the server is the path of a socket")
	useTLS := flags.Bool("tls", false, "use TLS to the server")
	upgrade := flags.String("starttls", "", "ask for TLS in the clear as this `protocol` does: "+startTLSUsage())
	insecure := flags.Bool("insecure", false, "with TLS: accept any certificate")
	name := flags.String("servername", "", "with TLS: the `name` in the certificate, if not that of the address")
	flags.DurationVar(&c.timeout, "timeout", 10*time.Second, "for connecting, and for what arrives after the end of the input")
	if err := flags.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			fmt.Fprint(errOut, usage)
			flags.SetOutput(errOut)
			flags.PrintDefaults()
		}
		return nil, err
	}

	var err error
	if c.framing, err = parseFraming(*frame); err != nil {
		return nil, err
	}
	if c.timeout <= 0 {
		return nil, fmt.Errorf("-timeout %v: must be positive", c.timeout)
	}
	c.dialer.Framer, c.dialer.Timeout = c.framing.dialer(), c.timeout
	if *unix {
		c.network = "unix"
	}
	if c.address, err = c.server(flags.Args(), *to); err != nil {
		return nil, err
	}
	return c, c.secure(&tls.Config{ServerName: *name, InsecureSkipVerify: *insecure}, *useTLS, *upgrade)
}

// server returns the address of the server, which is empty if there is none.
func (c *config) server(args []string, to string) (string, error) {
	switch {
	case len(args) > 1:
		return "", fmt.Errorf("one address, not %d (flags come first)", len(args))
	case (c.listen == "") != (to == ""):
		return "", errors.New("-listen and -to need each other")
	case c.listen == "":
		return strings.Join(args, ""), nil
	case len(args) > 0:
		return "", fmt.Errorf("%s: with -listen the address is that of -to", args[0])
	}
	return to, nil
}

// secure sets up TLS, from the beginning or by upgrade.
func (c *config) secure(settings *tls.Config, fromTheBeginning bool, upgrade string) error {
	start, known := startTLS[upgrade]
	switch {
	case fromTheBeginning && upgrade != "":
		return errors.New("-tls or -starttls, not both")
	case fromTheBeginning:
		c.dialer.TLSConfig = settings
	case upgrade == "":
		if settings.InsecureSkipVerify || settings.ServerName != "" {
			return errors.New("-insecure and -servername need -tls or -starttls")
		}
	case !known:
		return fmt.Errorf("-starttls %s: want one of %s", upgrade, startTLSUsage())
	case c.listen != "":
		return errors.New("-starttls is not for a proxy")
	default:
		c.dialer.Handshake = func(ctx context.Context, conn *tcpclient.Conn) error {
			if err := start(ctx, conn); err != nil {
				return fmt.Errorf("-starttls %s: %w", upgrade, err)
			}
			if err := conn.StartTLS(ctx, settings); err != nil {
				return err
			}
			return conn.SetFramer(c.framing.dialer())
		}
	}
	return nil
}

// printer returns what prints to out.
func (c *config) printer(out io.Writer) *printer {
	return &printer{hex: c.hex, json: c.json, newline: c.framing.newline, out: out}
}

// cat connects, sends what in says and prints what arrives, until both directions have
// ended.
func (c *config) cat(ctx context.Context, in io.Reader, out io.Writer) error {
	client, err := c.dialer.Dial(ctx, c.network, c.address)
	if err != nil {
		return err
	}
	defer client.Close()

	sent := make(chan error, 1)
	go func() { sent <- c.send(ctx, client, in) }() // may outlive cat: a read of a terminal cannot be interrupted
	received := make(chan error, 1)
	go func() { received <- c.receive(ctx, client, out) }()

	select {
	case err := <-received: // the connection has ended, or out takes no more
		return err
	case err = <-sent:
	}
	if tcpclient.Classify(err) != tcpclient.ClassDisconnected {
		last, cancel := context.WithTimeout(ctx, c.timeout)
		defer cancel()
		err = cmp.Or(err, client.Shutdown(last)) // also after a refused line: earlier ones may still be answered
	}
	end := <-received
	if err == nil || tcpclient.Classify(err) == tcpclient.ClassDisconnected {
		return end // nil if the connection ended between two messages
	}
	return err
}

// send sends each line of in as a message.
func (c *config) send(ctx context.Context, client *tcpclient.Client, in io.Reader) error {
	lines := bufio.NewReader(in)
	for {
		line, err := lines.ReadBytes('\n')
		if len(line) > 0 {
			msg, err := c.message(bytes.TrimSuffix(bytes.TrimSuffix(line, []byte("\n")), []byte("\r")))
			if err != nil {
				return err
			}
			if err := client.Write(ctx, msg); err != nil {
				return err
			}
		}
		// A flush costs a system call or more, so it waits for a pause in the input.
		if lines.Buffered() == 0 {
			if err := client.Flush(ctx); err != nil {
				return err
			}
		}
		if err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
	}
}

// receive prints each message that arrives as a line.
func (c *config) receive(ctx context.Context, client *tcpclient.Client, out io.Writer) error {
	p := c.printer(out)
	for msg, err := range client.Messages(ctx) {
		if errors.Is(err, tcpclient.ErrClosed) || errors.Is(err, io.EOF) {
			return nil // we ended the connection, or the server did between two messages
		}
		if err != nil {
			return err
		}
		if err := p.print(event{From: fromServer, Kind: kindFrame, data: msg}); err != nil {
			return err
		}
	}
	return nil
}

// message returns the message that a line of input stands for.
func (c *config) message(line []byte) ([]byte, error) {
	if !c.hex {
		return append(line, c.framing.newline...), nil
	}
	msg, err := hex.DecodeString(string(bytes.Join(bytes.Fields(line), nil)))
	if err != nil {
		return nil, fmt.Errorf("-hex: %q: %w", line, err)
	}
	return msg, nil
}

// demonstrate talks to its own server, which echoes every message.
func demonstrate(ctx context.Context, c *config, out io.Writer) error {
	fmt.Fprint(out, usage, "Without an address, this happens with an echo server:\n\n")
	server := tcpclienttest.NewServer(c.dialer.Framer, tcpclienttest.Echo)
	defer server.Close()
	c.address = server.Addr
	return c.cat(ctx, strings.NewReader("hello\nframed\nworld\n"), out)
}
