package tcpclient_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/seed-d0aa0aa7/tcpclient"
	"github.com/seed-d0aa0aa7/tcpclient/internal/testkit"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// Slabs of any memory are recycled: that of large messages, and what was traded for them.
// Offsets in what is read directly must fit all the same.
func TestStreamOfKiBBetweenLargeMessages(t *testing.T) {
	for name, receive := range map[string]func(*testing.T, *tcpclient.Client, func([]byte)) error{
		"ReceiveInto": func(t *testing.T, c *tcpclient.Client, each func([]byte)) error {
			for buf := make([]byte, 0, 180<<10); ; each(buf) {
				var err error
				if buf, err = c.ReceiveInto(t.Context(), buf); err != nil {
					return err
				}
			}
		},
		"Messages": func(t *testing.T, c *tcpclient.Client, each func([]byte)) error {
			for msg, err := range c.Messages(t.Context()) {
				if err != nil {
					return err
				}
				each(msg)
			}
			return nil
		},
	} {
		t.Run(name, testkit.InBubble(func(t *testing.T) { // P1
			var msgs []string
			for range 50 {
				msgs = append(msgs, string(testkit.Pattern(180<<10)))
				msgs = append(msgs, testkit.Numbered(200, 2000)...)
			}
			s := script{data: testkit.Frames(msgs...), size: bursts, end: io.EOF}
			c, _ := s.play(t, tcpclient.Dialer{Inbox: 4 << 20})
			i := 0
			err := receive(t, c, func(msg []byte) {
				require.Less(t, i, len(msgs), "one too many")
				require.True(t, msgs[i] == string(msg), "message %d of %d bytes came as one of %d", i, len(msgs[i]), len(msg))
				i++
			})
			require.ErrorIs(t, err, io.EOF)
			require.NotErrorIs(t, err, io.ErrUnexpectedEOF)
			require.Equal(t, len(msgs), i)
		}))
	}
}

// A frame above a MaxSize that is itself below 8 KiB is refused from its header alone.
func TestStreamOfKiBAndAFrameThatIsTooLarge(t *testing.T) {
	for name, more := range map[string]int{"header alone": 0, "that comes": 5000, "that is followed by others": 200 << 10} {
		t.Run(name, testkit.InBubble(func(t *testing.T) { // P1, P6
			stream := testkit.Numbered(300, 1<<10)
			data := append(testkit.Frames(stream...), 0, 0, 5000>>8, 5000&0xff)
			data = append(data, make([]byte, more)...)
			s := script{data: data, size: bursts}
			c, _ := s.play(t, tcpclient.Dialer{Framer: tcpclient.LengthPrefix{MaxSize: 2000}})
			began := time.Now()
			msgs, err := testkit.ReceiveAll(t, c)
			require.Equal(t, stream, msgs)
			require.ErrorAs(t, err, new(*tcpclient.FrameTooLargeError))
			require.Less(t, time.Since(began), time.Second)
		}))
	}
}

// Small messages behind a stream of KiBs, in the same read, do not get the memory of large ones.
func TestSmallMessagesBehindAStreamOfKiB(t *testing.T) {
	ramp, empties := testkit.Frames(testkit.Numbered(60, 1<<10)...), make([]byte, 4*11_000)
	t.Run("fill the Inbox", testkit.InBubble(func(t *testing.T) { // P6
		s := script{data: append(bytes.Clone(ramp), empties...), size: bursts, end: io.EOF, begin: make(chan struct{})}
		c, _ := s.play(t, tcpclient.Dialer{})
		requireHeap(t, 2<<20, func() { close(s.begin); synctest.Wait() })
		msgs, err := testkit.ReceiveAll(t, c)
		require.ErrorIs(t, err, io.EOF)
		require.Len(t, msgs, 60+11_000)
	}))
	t.Run("during Shutdown", testkit.InBubble(func(t *testing.T) { // P6
		s := script{data: bytes.Repeat(append(bytes.Clone(ramp), empties...), 15), size: bursts, begin: make(chan struct{})}
		c, p := s.play(t, tcpclient.Dialer{})
		down := testkit.Start(t, func() error { return c.Shutdown(context.Background()) })
		synctest.Wait()
		requireHeap(t, 64<<20, func() { close(s.begin); p.HalfClose(); down() })
	}))
}

var checkableBytes = func() []byte {
	p := make([]byte, 300<<10)
	for i := range p {
		p[i] = byte(i + i/251)
	}
	return p
}()

// checkable returns a message of that size whose content follows from its number.
func checkable(i, size int) []byte {
	msg := make([]byte, max(size, 8))
	copy(msg, checkableBytes[i%251:])
	binary.BigEndian.PutUint32(msg, uint32(i))
	binary.BigEndian.PutUint32(msg[4:], uint32(len(msg)))
	return msg
}

func check(msg []byte) (i int, err error) {
	if len(msg) < 8 {
		return 0, fmt.Errorf("%d bytes", len(msg))
	}
	i = int(binary.BigEndian.Uint32(msg))
	if want := int(binary.BigEndian.Uint32(msg[4:])); want != len(msg) || !bytes.Equal(checkable(i, want), msg) {
		return i, fmt.Errorf("message %d of %d bytes came as %d others", i, want, len(msg))
	}
	return i, nil
}

// Calls begin at any moment of a stream of pushes: each message goes where it belongs.
func TestCallsInTheMiddleOfStreams(t *testing.T) {
	testkit.EachTransport(t, func(t *testing.T, tr testkit.Transport) {
		l := tr.Listen(t)
		for seed := range uint64(3) {
			r := rand.New(rand.NewPCG(seed, 66))
			const pushes = 1500
			c, p := l.Connect(t, tcpclient.Dialer{Correlator: tcpclient.IDPrefix{}})
			var mu sync.Mutex // of writes of the peer
			var wg sync.WaitGroup
			size := 600 + r.IntN(7000)
			wg.Go(func() {
				for i := 0; i < pushes; {
					var b []byte
					for range 40 {
						if i < pushes {
							b = append(b, testkit.Frame(string(append(make([]byte, 8), checkable(i, size)...)))...)
							i++
						}
					}
					mu.Lock()
					p.Write(b)
					mu.Unlock()
				}
			})
			wg.Go(func() {
				for {
					msg, err := p.Next()
					if err != nil {
						return
					}
					mu.Lock()
					p.Write(testkit.Frame(msg))
					mu.Unlock()
				}
			})
			var calls sync.WaitGroup
			at := r.IntN(pushes)
			for i := range pushes {
				msg, err := c.Receive(t.Context())
				require.NoError(t, err)
				k, err := check(msg[8:])
				require.NoError(t, err)
				require.Equal(t, i, k)
				if i == at {
					for j := range 3 {
						calls.Go(func() {
							for n := range 20 {
								req := checkable(j*100+n, 600+n*100)
								reply, err := c.Call(t.Context(), req)
								assert.NoError(t, err)
								assert.True(t, bytes.Equal(req, reply))
							}
						})
					}
				}
			}
			calls.Wait()
			c.Close()
			testkit.HangUp(p.Conn)
			wg.Wait()
		}
	})
}

// The peer hangs up anywhere in a stream; with Reconnect the next connection goes on, and Close comes
// at any moment.
func TestReconnectInTheMiddleOfStreams(t *testing.T) {
	for _, inbox := range []int{0, 140 << 10, 1} {
		for seed := range uint64(8) {
			synctest.Test(t, func(t *testing.T) {
				r := rand.New(rand.NewPCG(seed, 666))
				l := testkit.ListenMemory(t)
				var d tcpclient.Dialer
				d.Inbox = inbox
				d.Reconnect = &tcpclient.Backoff{Min: time.Millisecond, Max: time.Millisecond}
				d.FrameTimeout = time.Second
				done := make(chan struct{})
				whole := make(chan int, 1000)
				go func() {
					defer close(done)
					r := rand.New(rand.NewPCG(seed, 6666))
					next := 0
					for {
						conn, err := l.Accept()
						if err != nil {
							return
						}
						var b []byte
						size := 600 + r.IntN(7000)
						for range 50 + r.IntN(150) {
							b = append(b, testkit.Frame(string(checkable(next, size/2+r.IntN(size/2))))...)
							next++
						}
						whole <- next
						conn.Write(append(b, testkit.Frame(string(checkable(0, 6000)))[:r.IntN(5000)]...))
						if r.IntN(4) > 0 {
							conn.Close()
						}
					}
				}()
				c := l.Dial(t, d)
				want, losses := 0, 0
				buf := make([]byte, 0, r.IntN(200<<10))
				for stop := 2 + r.IntN(5); losses < stop; {
					var err error
					if r.IntN(2) == 0 {
						buf, err = c.ReceiveInto(t.Context(), buf)
						if err == nil {
							k, err := check(buf)
							require.NoError(t, err)
							require.Equal(t, want, k)
							want++
						}
					} else {
						n := 0
						for msg, e := range c.Messages(t.Context()) {
							if err = e; e != nil {
								break
							}
							k, err := check(msg)
							require.NoError(t, err)
							require.Equal(t, want, k)
							want++
							if n++; n == 23 {
								break
							}
						}
					}
					if err != nil {
						require.ErrorIs(t, err, tcpclient.ErrDisconnected)
						require.Equal(t, <-whole, want)
						losses++
					}
				}
				time.Sleep(time.Duration(r.IntN(3)) * time.Millisecond)
				for range r.IntN(60) {
					c.Receive(t.Context())
				}
				require.NoError(t, c.Close())
				l.Close()
				<-done
			})
			if t.Failed() {
				t.Fatal(inbox, seed)
			}
		}
	}
}
