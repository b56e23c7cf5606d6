package faults

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"math/big"
	"math/rand/v2"
	"strconv"
	"strings"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"github.com/seed-d0aa0aa7/tcpclient"
	"github.com/seed-d0aa0aa7/tcpclient/internal/testkit"
	"github.com/stretchr/testify/require"
)

// framingFaults are the rows F of FAULTS.md as a Client meets them. TestFraming has the
// same ones, and more of each, for the Framers alone.
var framingFaults = map[string]func(t *testing.T){
	"F1 length 0xFFFFFFFF":               ends(tcpclient.LengthPrefix{}, "\xff\xff\xff\xff", tooLarge(math.MaxUint32)),
	"F2 length 0x7FFFFFFF":               ends(tcpclient.LengthPrefix{}, "\x7f\xff\xff\xff", tooLarge(math.MaxInt32)),
	"F2 length 0x80000000":               ends(tcpclient.LengthPrefix{}, "\x80\x00\x00\x00", tooLarge(1<<31)),
	"F3 length 2^63":                     ends(tcpclient.LengthPrefix{Width: 8}, "\x80\x00\x00\x00\x00\x00\x00\x00", tooLarge(1<<63)),
	"F3 length 2^64-1":                   ends(tcpclient.LengthPrefix{Width: 8}, "\xff\xff\xff\xff\xff\xff\xff\xff", tooLarge(math.MaxUint64)),
	"F4 negative length":                 ends(bulkString{}, "$-2\r\n", invalidFrame),
	"F4 null that only the Framer knows": delivers(bulkString{}, "$-1\r\n$2\r\nok\r\n", "", "ok"),
	"F5 empty frames":                    delivers(tcpclient.LengthPrefix{}, "\x00\x00\x00\x00\x00\x00\x00\x01x\x00\x00\x00\x00", "", "x", ""),
	"F5 length below its own header":     ends(tcpclient.LengthPrefix{Adjust: -4}, "\x00\x00\x00\x03", invalidFrame),
	"F6 overflow after adjustment":       faultAdjustment,
	"F7 flood of empty frames":           faultEmptyFrames,
	"F8 varint of eleven bytes":          ends(tcpclient.Varint{}, strings.Repeat("\xff", 10)+"\x01", tooLong),
	"F8 varint above 64 bits":            ends(tcpclient.Varint{}, strings.Repeat("\xff", 9)+"\x02", tooLong),
	"F8 varint that is padded":           delivers(tcpclient.Varint{}, "\x83\x00abc", "abc"),
	"F9 leading zero":                    ends(tcpclient.Netstring(), "05:hello,", invalidFrame),
	"F9 sign":                            ends(tcpclient.Netstring(), "+5:hello,", invalidFrame),
	"F9 space":                           ends(tcpclient.OctetCounting(), " 5 hello", invalidFrame),
	"F9 100 digits":                      ends(tcpclient.OctetCounting(), strings.Repeat("9", 100), tooLong),
	"F9 no terminator":                   ends(tcpclient.Netstring(), "5:hello;", invalidFrame),
	"F10 stream without delimiter":       ends(tcpclient.Lines{}, strings.Repeat("a", 1<<20), tooLarge(0)),
	"F12 delimiter that nearly matches":  faultNearMatches,
	"F13 delimiters that overlap":        delivers(tcpclient.Delimiter{Delim: []byte("\r\r\n")}, "a\r\r\r\nb\r\n\r\r\n", "a\r", "b\r\n"),
	"F14 LF and CRLF mixed":              delivers(tcpclient.Lines{}, "a\r\nb\nc\rd\n", "a", "b", "c\rd"),
	"F17 message above the prefix":       refuses(tcpclient.LengthPrefix{Width: 2}, string(make([]byte, 70_000)), tooLarge(70_000)),
	"F17 message above MaxSize":          refuses(tcpclient.LengthPrefix{MaxSize: 3}, "four", tooLarge(4)),
	"F18 message with a delimiter":       refuses(tcpclient.Lines{}, "a\r\nb", invalidFrame),
	"F19 HTTP":                           ends(tcpclient.LengthPrefix{}, "HTTP/1.1 400 Bad Request\r\n\r\n", says(`"HTTP": is this an HTTP server?`)),
	"F19 SSH":                            ends(tcpclient.LengthPrefix{}, "SSH-2.0-OpenSSH_9.2\r\n", says("is this an SSH server?")),
	"F19 TLS alert":                      ends(tcpclient.LengthPrefix{}, "\x15\x03\x03\x00\x02\x02\x28", says("TLS alert")),
	"F21 random bytes":                   faultRandomBytes,
	"F22 good frame behind a bad one":    ends(tcpclient.LengthPrefix{}, "\xff\xff\xff\xff\x00\x00\x00\x01b", tooLarge(math.MaxUint32)),
}

func tooLarge(size uint64) func(*testing.T, error) {
	return func(t *testing.T, err error) {
		var e *tcpclient.FrameTooLargeError
		require.ErrorAs(t, err, &e)
		require.Equal(t, size, e.Size)
	}
}

// tooLong is tooLarge for a length of many digits or bits: the Size depends on how much of it
// has arrived.
func tooLong(t *testing.T, err error) {
	require.ErrorAs(t, err, new(*tcpclient.FrameTooLargeError))
}

func invalidFrame(t *testing.T, err error) { require.ErrorIs(t, err, tcpclient.ErrInvalidFrame) }

func says(text string) func(*testing.T, error) {
	return func(t *testing.T, err error) { require.ErrorContains(t, err, text) }
}

// bulkString is a Framer for the bulk strings of RESP, where a length of -1 means null:
// what a Framer makes of a negative length is its own decision.
type bulkString struct{}

func (bulkString) ReadFrame(r *bufio.Reader, dst []byte) ([]byte, error) {
	line, err := tcpclient.Lines{}.ReadFrame(r, nil)
	if err != nil {
		return nil, err
	}
	n, err := strconv.Atoi(strings.TrimPrefix(string(line), "$"))
	switch {
	case err != nil || n < -1:
		return nil, fmt.Errorf("%w: bulk string %q", tcpclient.ErrInvalidFrame, line)
	case n == -1:
		return dst, nil
	}
	rest := make([]byte, n+2)
	if _, err := io.ReadFull(r, rest); err != nil {
		return nil, io.ErrUnexpectedEOF
	}
	return append(dst, rest[:n]...), nil
}

func (bulkString) WriteFrame(w *bufio.Writer, msg []byte) error {
	_, err := fmt.Fprintf(w, "$%d\r\n%s\r\n", len(msg), msg)
	return err
}

// encoded is a message as f writes it.
func encoded(t testing.TB, f tcpclient.Framer, msg string) string {
	t.Helper()
	return string(testkit.Encode(t, f, []byte(msg)))
}

// ends returns a test of a stream that ends a connection. What came before is
// delivered, what comes after is not, and all callers get the error, for good.
func ends(f tcpclient.Framer, stream string, want func(*testing.T, error)) func(t *testing.T) {
	return testkit.InBubble(func(t *testing.T) {
		for _, step := range []int{len(stream), 1 + len(stream)/100} {
			c, p := testkit.ConnectMemory(t, tcpclient.Dialer{Framer: f})
			good := encoded(t, f, "good")
			go func() {
				p.Write([]byte(good))
				for rest := stream; rest != ""; rest = rest[min(step, len(rest)):] {
					if _, err := p.Write([]byte(rest[:min(step, len(rest))])); err != nil {
						return // the Client has seen enough
					}
				}
				p.Write([]byte(good))
			}()
			got, err := testkit.ReceiveAll(t, c)
			require.Equal(t, []string{"good"}, got)
			want(t, err)
			for method, err := range testkit.EveryMethod(t, t.Context(), c) {
				want(t, err)
				require.ErrorIs(t, err, tcpclient.ErrDisconnected, method)
				require.Equal(t, tcpclient.ClassDisconnected, tcpclient.Classify(err), method)
			}
			require.NoError(t, c.Close())
		}
	})
}

// delivers returns a test of a stream that is legal, in one piece and byte by byte.
func delivers(f tcpclient.Framer, stream string, want ...string) func(t *testing.T) {
	return testkit.InBubble(func(t *testing.T) {
		for _, step := range []int{len(stream), 1} {
			c, p := testkit.ConnectMemory(t, tcpclient.Dialer{Framer: f})
			for rest := stream; rest != ""; rest = rest[step:] {
				p.Raw([]byte(rest[:step]))
				synctest.Wait() // it was read
			}
			p.Close()
			got, err := testkit.ReceiveAll(t, c)
			require.Equal(t, want, got)
			require.ErrorIs(t, err, io.EOF)
		}
	})
}

// refuses returns a test of a message that is refused before a byte of it is buffered,
// after which the connection is as good as before.
func refuses(f tcpclient.Framer, msg string, want func(*testing.T, error)) func(t *testing.T) {
	return testkit.InBubble(func(t *testing.T) {
		c, p := testkit.ConnectMemory(t, tcpclient.Dialer{Framer: f})
		for _, send := range []func(context.Context, []byte) error{c.Send, c.Write} {
			err := send(t.Context(), []byte(msg))
			want(t, err)
			require.True(t, testkit.OpError(t, err).Unsent)
			require.Equal(t, tcpclient.ClassPermanent, tcpclient.Classify(err), "this message will never do")
		}
		require.NoError(t, c.Send(t.Context(), []byte("ok")))
		require.NoError(t, c.Close())
		sent, err := io.ReadAll(p)
		require.NoError(t, err)
		require.Equal(t, encoded(t, f, "ok"), string(sent))
	})
}

func faultAdjustment(t *testing.T) {
	// All extremes, against numbers that do not overflow.
	for _, width := range []int{1, 2, 3, 4, 7, 8} {
		largest := uint64(math.MaxUint64) >> (64 - 8*width)
		for _, value := range []uint64{0, 1, largest / 2, largest/2 + 1, largest} {
			for _, adjust := range []int{math.MinInt, math.MinInt32, -width - 2, -1, 0, 1, 1<<20 - 20, math.MaxInt - 20} {
				for _, keep := range []bool{false, true} {
					f := tcpclient.LengthPrefix{Width: width, Offset: 2, Adjust: adjust, KeepHeader: keep, MaxSize: 1 << 20}
					if adjust > f.MaxSize {
						f.MaxSize = math.MaxInt
					}
					field := binary.BigEndian.AppendUint64(nil, value)[8-width:]
					_, err := testkit.Decode(f, io.MultiReader(strings.NewReader("xx"), bytes.NewReader(field)), 64)

					rest := new(big.Int).Add(new(big.Int).SetUint64(value), big.NewInt(int64(adjust)))
					size := new(big.Int).Set(rest)
					if keep {
						size.Add(size, big.NewInt(int64(2+width)))
					}
					want := "unexpected_eof"
					switch {
					case rest.Sign() < 0:
						want = "invalid"
					case size.Cmp(big.NewInt(int64(f.MaxSize))) > 0:
						want = "too_large"
					case rest.Sign() == 0:
						want = "none"
					}
					require.Equal(t, want, testkit.ErrorKind(err), "%#v, field % x: %v", f, field, err)
				}
			}
		}
	}
	ends(tcpclient.LengthPrefix{Width: 8, Adjust: 1}, strings.Repeat("\xff", 8), tooLarge(math.MaxUint64))(t)
}

func faultEmptyFrames(t *testing.T) {
	n := 1_000_000
	if testkit.RaceEnabled || testing.Short() {
		n = 100_000
	}
	// While they come, pings are answered, and contexts end waits.
	h := testkit.Pinging()
	h.Answer = func(msg []byte) ([]byte, bool) { return []byte("PONG"), string(msg) == "PING" }
	c, p := testkit.TransportNamed("tcp").Connect(t, tcpclient.Dialer{Heartbeat: h})
	flood := make([]byte, 4*n/2)
	sent := testkit.Start(t, func() (err error) {
		for range 2 {
			p.Write(flood)
			_, err = p.Write(testkit.Frame("PING"))
		}
		p.Finish("end")
		return err
	})
	answered := testkit.Start(t, func() error {
		for range 2 {
			if msg, err := p.Next(); err != nil || msg != "PONG" {
				return fmt.Errorf("%q, %w", msg, err)
			}
		}
		return nil
	})
	ended := 0
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	for received := 0; ; {
		msg, err := c.Receive(ctx)
		switch {
		case errors.Is(err, context.Canceled):
			ended++
			ctx = t.Context()
			continue
		case received == n/4:
			cancel()
		}
		require.NoError(t, err)
		if string(msg) == "end" {
			require.Equal(t, n, received)
			break
		}
		require.Empty(t, msg)
		received++
	}
	require.Equal(t, 1, ended)
	require.NoError(t, sent())
	require.NoError(t, answered())
}

func faultNearMatches(t *testing.T) {
	// The worst that a delimiter can be: each byte might be in the middle of it.
	delim := []byte(strings.Repeat("a", 100) + "b")
	took := func(size int) time.Duration {
		stream := append(bytes.Repeat([]byte("a"), size), delim...)
		best := time.Hour
		for range 3 {
			began := time.Now()
			got, err := testkit.Decode(tcpclient.Delimiter{Delim: delim, MaxSize: size}, iotest.HalfReader(bytes.NewReader(stream)), 4096)
			require.Equal(t, io.EOF, err)
			require.Len(t, got, 1)
			require.Len(t, got[0], size)
			best = min(best, time.Since(began))
		}
		return best
	}
	small, large := took(64<<10), took(512<<10)
	require.Less(t, large, 32*small+100*time.Millisecond, "8 times as many bytes")
	require.Less(t, large, testkit.Patience/4)
}

func faultRandomBytes(t *testing.T) {
	// The fuzz targets look deeper; this is about the Client: it delivers what the Framer
	// finds, and ends as it does, or because the stream ends.
	seed := [32]byte{1}
	random := rand.New(rand.NewChaCha8(seed))
	for name, f := range testkit.Framers {
		for range 30 {
			synctest.Test(t, func(t *testing.T) {
				stream := testkit.Encode(t, f, []byte("first"), []byte("second"), []byte("third"))
				for range random.IntN(4) {
					stream[random.IntN(len(stream))] = byte(random.Uint32())
				}
				messages, end := testkit.Decode(f, bytes.NewReader(stream), 4096)
				var want []string
				for _, msg := range messages {
					want = append(want, string(msg))
				}
				c, p := testkit.ConnectMemory(t, tcpclient.Dialer{Framer: f})
				go func() {
					for rest := stream; len(rest) > 0; {
						n := 1 + random.IntN(len(rest))
						if _, err := p.Write(rest[:n]); err != nil {
							break
						}
						rest = rest[n:]
					}
					p.Close()
				}()
				got, err := testkit.ReceiveAll(t, c)
				require.Equal(t, want, got, "%s: %q", name, stream)
				require.ErrorIs(t, err, tcpclient.ErrDisconnected)
				require.Equal(t, testkit.ErrorKind(end), testkit.ErrorKind(bare(err)), "%s: %q: %v", name, stream, err)
				require.NoError(t, c.Close())
			})
		}
	}
}

// bare is the end of a stream without what the Client says of it.
func bare(err error) error {
	for _, end := range []error{io.EOF, io.ErrUnexpectedEOF} {
		if errors.Is(err, end) {
			return end
		}
	}
	return err
}
