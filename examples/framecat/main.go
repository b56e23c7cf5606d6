// Framecat is netcat for framed protocols: it sends the lines of its input as messages, and
// prints the messages that arrive as lines. It shows how a program uses tcpclient: settings
// from flags, concurrent writing and receiving, a graceful end with Shutdown, and an exit
// code from an error.
//
//	go run ./examples/framecat                                  # explains and demonstrates itself
//	echo PING | go run ./examples/framecat -frame crlf localhost:6379
//	go run ./examples/framecat -frame u16 -hex -tls 9.9.9.9:853 <queries.hex # DNS over TLS
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
	"strconv"
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

Sends the lines of standard input (LF or CR LF) as messages and prints the messages that
arrive as lines. At the end of the input it sends FIN and prints what still arrives.

-frame is one of
  u8 u16 u24 u32 u64     length in front, big-endian; u16le and so on: little-endian
  varint                 length in front, as protocol buffers write it
  line crlf              lines; crlf: sends CR LF
  netstring octet        5:hello,   5 hello
  content-length         Content-Length: 5, an empty line, hello
  fixed:N                messages of N bytes each

Exit code: 0 all went well, 1 the connection or the protocol failed, 2 wrong usage,
130 interrupted.

`

// A config holds the settings of the flags.
type config struct {
	dialer  tcpclient.Dialer
	network string
	address string // empty: demonstrate
	hex     bool
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
	flags.BoolVar(&c.hex, "hex", false, "lines are messages in hexadecimal")
	unix := flags.Bool("unix", false, "the address is the path of a socket")
	useTLS := flags.Bool("tls", false, "use TLS")
	insecure := flags.Bool("insecure", false, "with -tls: accept any certificate")
	name := flags.String("servername", "", "with -tls: the `name` in the certificate, if not that of the address")
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
	if c.dialer.Framer, err = framer(*frame); err != nil {
		return nil, err
	}
	if c.timeout <= 0 {
		return nil, fmt.Errorf("-timeout %v: must be positive", c.timeout)
	}
	c.dialer.Timeout = c.timeout
	switch {
	case *useTLS:
		c.dialer.TLSConfig = &tls.Config{ServerName: *name, InsecureSkipVerify: *insecure}
	case *insecure || *name != "":
		return nil, errors.New("-insecure and -servername need -tls")
	}
	if *unix {
		c.network = "unix"
	}
	if flags.NArg() > 1 {
		return nil, fmt.Errorf("one address, not %d (flags come first)", flags.NArg())
	}
	c.address = flags.Arg(0)
	return c, nil
}

// framer returns the Framer that is called kind.
func framer(kind string) (tcpclient.Framer, error) {
	switch kind {
	case "varint":
		return tcpclient.Varint{}, nil
	case "line":
		return tcpclient.Lines{}, nil
	case "crlf":
		return tcpclient.Lines{CRLF: true}, nil
	case "netstring":
		return tcpclient.Netstring(), nil
	case "octet":
		return tcpclient.OctetCounting(), nil
	case "content-length":
		return tcpclient.ContentLength{}, nil
	}
	if size, ok := strings.CutPrefix(kind, "fixed:"); ok {
		n, err := strconv.Atoi(size)
		if err != nil || n < 1 {
			return nil, fmt.Errorf("-frame %s: not a size: %q", kind, size)
		}
		return tcpclient.Fixed{Size: n}, nil
	}
	bits, littleEndian := strings.CutSuffix(kind, "le")
	switch bits {
	case "u8", "u16", "u24", "u32", "u64":
		n, err := strconv.Atoi(bits[1:])
		return tcpclient.LengthPrefix{Width: n / 8, LittleEndian: littleEndian}, err
	}
	return nil, fmt.Errorf("-frame %s: unknown; framecat -help lists what there is", kind)
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
	for msg, err := range client.Messages(ctx) {
		if errors.Is(err, tcpclient.ErrClosed) || errors.Is(err, io.EOF) {
			return nil // we ended the connection, or the server did between two messages
		}
		if err != nil {
			return err
		}
		if _, err := out.Write(c.line(msg)); err != nil {
			return err
		}
	}
	return nil
}

// message returns the message that a line of input stands for.
func (c *config) message(line []byte) ([]byte, error) {
	if !c.hex {
		return line, nil
	}
	msg, err := hex.DecodeString(string(bytes.Join(bytes.Fields(line), nil)))
	if err != nil {
		return nil, fmt.Errorf("-hex: %q: %w", line, err)
	}
	return msg, nil
}

// line returns the line of output that stands for a message.
func (c *config) line(msg []byte) []byte {
	if c.hex {
		return append(hex.AppendEncode(nil, msg), '\n')
	}
	return append(bytes.Clone(msg), '\n')
}

// demonstrate talks to its own server, which echoes every message.
func demonstrate(ctx context.Context, c *config, out io.Writer) error {
	fmt.Fprint(out, usage, "Without an address, this happens with an echo server:\n\n")
	server := tcpclienttest.NewServer(c.dialer.Framer, tcpclienttest.Echo)
	defer server.Close()
	c.address = server.Addr
	return c.cat(ctx, strings.NewReader("hello\nframed\nworld\n"), out)
}
