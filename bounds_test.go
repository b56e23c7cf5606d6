package tcpclient_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"math"
	"net"
	"runtime"
	"runtime/debug"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/seed-d0aa0aa7/tcpclient"
	"github.com/seed-d0aa0aa7/tcpclient/internal/testkit"
	"github.com/seed-d0aa0aa7/tcpclient/tcpclienttest"
	"github.com/stretchr/testify/require"
)

// What it costs, and what it can be made to cost.

func TestMemory(t *testing.T) {
	testkit.SkipIfShort(t)
	if testkit.RaceEnabled {
		t.Skip("the race detector needs memory of its own")
	}
	t.Run("of an idle Client is small", func(t *testing.T) { // section 5: ≤ 13 KiB
		const conns = 200
		n := tcpclienttest.NewNetwork()
		l := testkit.ListenNetwork(t, n)
		clients := make([]*tcpclient.Client, conns)
		var peers []net.Conn
		for range conns {
			near, err := n.DialContext(t.Context(), "tcp", l.Addr().String())
			require.NoError(t, err)
			far, err := l.Accept()
			require.NoError(t, err)
			peers = append(peers, near, far)
		}
		next := 0
		before := testkit.MemoryInUse()
		for i := range clients {
			c, err := (&tcpclient.Dialer{DialContext: func(context.Context, string, string) (net.Conn, error) {
				next += 2
				return peers[next-2], nil
			}}).Dial(t.Context(), "tcp", l.Addr().String())
			require.NoError(t, err)
			clients[i] = c
			defer c.Close()
		}
		each := (testkit.MemoryInUse() - before) / conns
		t.Logf("%d bytes per idle Client", each)
		limit := int64(13 << 10)
		if runtime.GOOS == "windows" {
			limit += 8 << 10 // stacks begin with 8 KiB there: 11 for each Client as measured, 5 elsewhere
		}
		require.Less(t, each, limit)
		runtime.KeepAlive(clients)
	})

	t.Run("of an idle Client on a socket is smaller, also after a burst", func(t *testing.T) { // P6
		const conns = 200
		clients, peers := make([]*tcpclient.Client, conns), make([]*testkit.Peer, conns)
		near := make([]net.Conn, conns)
		l := testkit.ListenTCP(t)
		for i := range conns {
			conn, err := net.Dial("tcp", l.Addr().String())
			require.NoError(t, err)
			near[i] = conn
			far, err := l.Accept()
			require.NoError(t, err)
			peers[i] = testkit.NewPeer(t, far)
		}
		dialed := 0
		d := tcpclient.Dialer{
			Heartbeat: tcpclient.Heartbeat{Interval: time.Hour, Ping: func() []byte { return []byte("ping") }},
			DialContext: func(context.Context, string, string) (net.Conn, error) {
				dialed++
				return near[dialed-1], nil
			},
		}
		before := testkit.MemoryInUse()
		requireSmall := func(after string) {
			t.Helper()
			var each int64
			defer func() { t.Logf("%d bytes per idle Client after %s", each, after) }()
			testkit.Eventually(t, "Clients are small after "+after, func() bool {
				each = (testkit.MemoryInUse() - before) / conns
				return each < 10<<10 || runtime.GOOS == "windows" // where a read takes its memory before it waits
			})
		}
		exchange := func(msg string) {
			t.Helper()
			for i, c := range clients {
				require.NoError(t, c.Send(t.Context(), []byte("hello")))
				require.Equal(t, "hello", peers[i].Receive())
				go peers[i].Send(msg)
				got, err := c.Receive(t.Context())
				require.NoError(t, err)
				require.Len(t, got, len(msg))
			}
		}
		for i := range clients {
			c, err := d.Dial(t.Context(), "tcp", l.Addr().String())
			require.NoError(t, err)
			defer c.Close()
			clients[i] = c
		}
		exchange("hello")
		requireSmall("a round trip")
		exchange(testkit.PatternText(300 << 10))
		requireSmall("a large message")
		for _, size := range []int{64, 1000, 5000} {
			msgs := testkit.Numbered(200_000/(size+64), size) // fit the Inbox
			for i, c := range clients {
				peers[i].Send(msgs...)
				for range msgs {
					_, err := c.Receive(t.Context())
					require.NoError(t, err)
				}
			}
			requireSmall(fmt.Sprintf("a burst of messages of %d bytes", size))
		}
		runtime.KeepAlive(clients)
	})

	t.Run("of a Client that was busy once comes back", func(t *testing.T) { // P6
		const conns = 50
		n := tcpclienttest.NewNetwork()
		l := testkit.ListenNetwork(t, n)
		clients := make([]*tcpclient.Client, conns)
		var wg sync.WaitGroup
		for i := range clients {
			c, p := l.Connect(t, tcpclient.Dialer{})
			clients[i] = c
			wg.Go(p.Echo)
		}
		before := testkit.MemoryInUse()
		big := testkit.Pattern(1 << 20)
		for _, c := range clients {
			require.NoError(t, c.Send(t.Context(), big))
			_, err := c.Receive(t.Context())
			require.NoError(t, err)
			for range 200 { // back to normal
				require.NoError(t, c.Send(t.Context(), []byte("small")))
				_, err := c.Receive(t.Context())
				require.NoError(t, err)
			}
		}
		each := (testkit.MemoryInUse() - before) / conns
		t.Logf("%d bytes per Client that has sent and received 1 MiB", each)
		require.Less(t, each, int64(512<<10))
		for _, c := range clients {
			c.Close()
		}
		wg.Wait()
	})
}

func TestInbox(t *testing.T) {
	t.Run("is bounded and pushes back", func(t *testing.T) { // P6
		for _, size := range []int{1, 164, 10_000, 100_000} {
			for _, msg := range []int{0, 100, 3000, 50_000} {
				synctest.Test(t, func(t *testing.T) {
					const readBuffer = 4096
					n := &tcpclienttest.Network{Buffer: 4096}
					c, p := testkit.ListenNetwork(t, n).Connect(t, tcpclient.Dialer{Inbox: size, ReadBuffer: readBuffer})
					sent := 0
					go func() {
						for range 400_000/(msg+64) + 3 {
							if _, err := p.Write(testkit.Frame(testkit.PatternText(msg))); err != nil {
								return
							}
							sent++
						}
						p.Close()
					}()
					synctest.Wait()
					// Beside the Inbox there are one message that waits for room, the
					// read buffer, the socket and the frame that is being written.
					inside := size/(msg+64) + 2 + (2*readBuffer+4096)/(msg+4)
					require.LessOrEqual(t, sent, inside+1, "Inbox %d, messages of %d", size, msg)
					require.LessOrEqual(t, int(c.Stats().MessagesReceived), max(1, size/(msg+64)), "Inbox %d, messages of %d", size, msg)
					if msg+64 <= size {
						require.Positive(t, c.Stats().MessagesReceived, "Inbox %d, messages of %d, %d sent", size, msg, sent)
					}
					got, err := testkit.ReceiveAll(t, c)
					require.ErrorIs(t, err, io.EOF)
					require.Len(t, got, 400_000/(msg+64)+3)
				})
			}
		}
	})

	t.Run("that a loop empties is filled again at once, also the first time", testkit.InBubble(func(t *testing.T) { // P6, P12
		for ahead := range 20 { // messages that the loop has taken when the reader begins to wait
			c, p := testkit.ConnectMemory(t, tcpclient.Dialer{Inbox: 2000})
			small, large := make([]string, 20), testkit.PatternText(1500)
			proceed := make(chan struct{})
			done := testkit.Start(t, func() (n int) {
				for range c.Messages(t.Context()) {
					if n++; n == ahead || n == len(small)+1 {
						proceed <- struct{}{}
					}
					if n > len(small) {
						break
					}
				}
				return n
			})
			p.Send(small[:max(ahead, 1)]...) // in one slab with those that follow
			if ahead > 0 {
				synctest.Wait()
			}
			p.Send(append(small[max(ahead, 1):], large)...)
			synctest.Wait()
			began := time.Now()
			if ahead > 0 {
				<-proceed
			}
			<-proceed
			require.Zero(t, time.Since(began), "%d messages ahead", ahead)
			require.Equal(t, len(small)+1, done())
			require.NoError(t, c.Close())
		}
	}))

	t.Run("takes one message of any size", func(t *testing.T) { // P6
		synctest.Test(t, func(t *testing.T) {
			c, p := testkit.ConnectMemory(t, tcpclient.Dialer{Inbox: 1})
			want := testkit.PatternText(1 << 20)
			go p.Write(testkit.Frames(want, want))
			time.Sleep(time.Second)
			require.Equal(t, uint64(1), c.Stats().MessagesReceived)
			for range 2 {
				msg, err := c.Receive(t.Context())
				require.NoError(t, err)
				require.True(t, want == string(msg))
			}
		})
	})
}

func TestWriteBuffer(t *testing.T) {
	t.Run("is bounded and pushes back on Write", func(t *testing.T) { // P6
		synctest.Test(t, func(t *testing.T) {
			c, _ := testkit.ConnectNarrow(t, 1000, tcpclient.Dialer{WriteBuffer: 5000, WriteTimeout: -1})
			written := 0
			var err error
			for err == nil {
				if err = c.Write(testkit.Within(t, time.Second), testkit.Pattern(96)); err == nil {
					written += 100
				}
			}
			require.ErrorIs(t, err, context.DeadlineExceeded)
			require.True(t, testkit.OpError(t, err).Unsent)
			// One buffer waits, one is under way.
			require.LessOrEqual(t, written, 1000+2*(5000+100))
		})
	})

	t.Run("is bounded and pushes back on Send", func(t *testing.T) { // P6
		synctest.Test(t, func(t *testing.T) {
			// Each Send that gives up leaves a frame in the buffer, but not for ever.
			c, p := testkit.ConnectNarrow(t, 500, tcpclient.Dialer{WriteBuffer: 5000, WriteTimeout: -1})
			left := 0
			for range 1000 {
				err := c.Send(testkit.Within(t, time.Millisecond), testkit.Pattern(996))
				require.ErrorIs(t, err, context.DeadlineExceeded)
				if !testkit.OpError(t, err).Unsent {
					left++
				}
			}
			require.LessOrEqual(t, left, 20, "1000 Sends in vain fill the buffer with as many frames")
			go p.Echo()
			for range left {
				_, err := c.Receive(t.Context())
				require.NoError(t, err)
			}
		})
	})

	t.Run("does not grow under many who Send and give up", func(t *testing.T) { // P6
		testkit.SkipIfShort(t)
		c, p := testkit.TransportNamed("tcp").ConnectSmall(t, tcpclient.Dialer{WriteTimeout: -1})
		testkit.Stall(t, c)
		before := testkit.MemoryInUse()
		big := testkit.Pattern(64 << 10)
		for range testkit.Rounds(1000) {
			c.Send(testkit.Within(t, 10*time.Microsecond), big)
			c.Send(canceledSoon(t), big)
		}
		require.Less(t, testkit.MemoryInUse()-before, int64(4<<20))
		testkit.HangUp(p.Conn)
	})
}

// canceledSoon returns a context that is canceled by another goroutine.
func canceledSoon(t testing.TB) context.Context {
	ctx, cancel := context.WithCancel(t.Context())
	go cancel()
	return ctx
}

func TestAllocations(t *testing.T) {
	if testkit.RaceEnabled {
		t.Skip("the race detector allocates")
	}
	// TLS has allocations of its own.
	sizes := []int{0, 64, 1000, 5000, 100_000, 1 << 20}
	if testing.Short() {
		sizes = []int{64}
	}
	for _, name := range []string{"tcp", "unix"} {
		for _, size := range sizes {
			t.Run(fmt.Sprintf("%s, messages of %d bytes", name, size), func(t *testing.T) { // P12, FAULTS B6
				tr := testkit.TransportNamed(name)
				for what, ctx := range map[string]context.Context{
					"background":  context.Background(),
					"cancellable": t.Context(),
					"deadline":    testkit.Within(t, time.Hour),
				} {
					t.Run(what, func(t *testing.T) { testAllocations(t, ctx, tr, testkit.Pattern(size)) })
				}
			})
		}
	}
}

func testAllocations(t *testing.T, ctx context.Context, tr testkit.Transport, msg []byte) {
	c, p := tr.Connect(t, tcpclient.Dialer{})
	// The peer must not allocate either.
	echo := make([]byte, 1<<20)
	go func() {
		for {
			n, err := p.Read(echo)
			if err != nil {
				return
			}
			if _, err := p.Write(echo[:n]); err != nil {
				return
			}
		}
	}()
	rounds := 300
	if len(msg) > 10_000 {
		rounds = 60
	}
	var buf []byte
	var err error
	check := func(err error) {
		if err != nil {
			t.Fatal(err)
		}
	}
	receive := func() {
		buf, err = c.ReceiveInto(ctx, buf)
		check(err)
	}
	measure := func(what string, rounds int, f func()) {
		t.Helper()
		for range rounds {
			f()
		}
		// A rare one, such as of a slice that grows for the last time, is not of each call.
		defer debug.SetGCPercent(debug.SetGCPercent(-1))
		if n := testing.AllocsPerRun(rounds, f); n >= 1 {
			t.Errorf("%s allocates %v times", what, n)
		}
	}
	measure("Send and ReceiveInto", rounds, func() {
		check(c.Send(ctx, msg))
		receive()
	})
	batch := max(1, min(100, 200_000/(len(msg)+64))) // as many as the Inbox takes
	measure("Write, Flush and ReceiveInto", rounds/6, func() {
		for range batch {
			check(c.Write(ctx, msg))
		}
		check(c.Flush(ctx))
		for range batch {
			receive()
		}
	})
	measure("Write, Flush and Messages", rounds/6, func() {
		for range batch {
			check(c.Write(ctx, msg))
		}
		check(c.Flush(ctx))
		i := 0
		for _, err := range c.Messages(ctx) {
			check(err)
			if i++; i == batch {
				break
			}
		}
	})
	// One loop that goes on.
	var n float64
	i := 0
	check(c.Send(ctx, msg))
	for _, err := range c.Messages(ctx) {
		check(err)
		if i++; i == 300 { // what it allocates once has to be little beside that
			break
		}
		if i == 2 {
			n = mallocs()
		}
		check(c.Send(ctx, msg))
	}
	if per := (mallocs() - n) / 298; per >= 0.5 {
		t.Errorf("a loop over Messages allocates %v times per message", per)
	}
}

func mallocs() float64 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return float64(m.Mallocs)
}

func TestSystemCalls(t *testing.T) {
	t.Run("of writing follow the flushes, not the messages", func(t *testing.T) { // P12
		synctest.Test(t, func(t *testing.T) {
			c, p, w := testkit.ConnectHooked(t, tcpclient.Dialer{}, nil)
			go io.Copy(io.Discard, p)
			for range 1000 {
				require.NoError(t, c.Write(t.Context(), testkit.Pattern(30)))
			}
			require.NoError(t, c.Flush(t.Context()))
			require.Equal(t, 1, w.Writes(), "one flush")
			require.NoError(t, c.Flush(t.Context()))
			require.Equal(t, 1, w.Writes(), "a flush of nothing")
			require.NoError(t, c.Send(t.Context(), testkit.Pattern(30)))
			require.Equal(t, 2, w.Writes(), "header and payload go together")
			require.NoError(t, c.Send(t.Context(), testkit.Pattern(50_000)))
			require.LessOrEqual(t, w.Writes(), 3, "also those of a large message")
			require.Equal(t, uint64(1002), c.Stats().MessagesSent)
			require.Equal(t, uint64(3), c.Stats().Flushes)
		})
	})

	t.Run("are shared by concurrent Sends", func(t *testing.T) { // P12
		synctest.Test(t, func(t *testing.T) {
			c, p, w := testkit.ConnectHooked(t, tcpclient.Dialer{}, nil)
			gate := make(chan struct{})
			calls := 0
			w.OnWrite = func(b []byte) (int, error) {
				if calls++; calls == 1 {
					<-gate
				}
				return w.Conn.Write(b)
			}
			go io.Copy(io.Discard, p)
			var wg sync.WaitGroup
			for range 500 {
				wg.Go(func() { c.Send(t.Context(), testkit.Pattern(30)) })
			}
			synctest.Wait()
			close(gate)
			wg.Wait()
			require.LessOrEqual(t, w.Writes(), 3)
		})
	})

	t.Run("of reading follow the bytes, not the messages", func(t *testing.T) { // P12
		c, p, w := testkit.ConnectHooked(t, tcpclient.Dialer{}, nil)
		const n = 100_000
		go func() {
			b := bufio.NewWriterSize(p, 64<<10)
			for range n {
				b.Write(testkit.Frame("0123456789"))
			}
			b.Flush()
			p.Close()
		}()
		count := 0
		for _, err := range c.Messages(t.Context()) {
			if err != nil {
				break
			}
			count++
		}
		require.Equal(t, n, count)
		require.Less(t, w.Reads(), n/100)
	})
}

// requireHeap wants f to leave no more than so many bytes more on the heap.
func requireHeap(t testing.TB, atMost int64, f func()) {
	t.Helper()
	heap := func() int64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.GC() // what a finalizer or a pool has held in the first
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	before := heap()
	f()
	require.Less(t, heap()-before, atMost, "bytes more on the heap")
}

func TestInboxMemory(t *testing.T) {
	// An Inbox of 256 KiB takes 3900 messages of a byte. However they are cut and
	// mixed, they must not have a slab of 8 KiB each.
	const many, atMost = 3900, 2 << 20

	for _, test := range []struct {
		name   string
		pieces []string // sent over and over, each for itself
		msgs   int      // in all pieces together
	}{
		{"a piece is a body and the next header", []string{"x\x00\x00\x00\x01"}, 1},
		{"a piece is a body and half a header", []string{"x\x00\x00", "\x00\x01"}, 1},
		{"a piece has two messages", []string{string(testkit.Frames("x", "y"))[4:] + "\x00\x00\x00\x01"}, 2},
		{"two in a piece and one", []string{"x\x00\x00\x00\x01x\x00\x00\x00\x01", "x\x00\x00\x00\x01"}, 3},
	} {
		t.Run("follows the bytes received: "+test.name, testkit.InBubble(func(t *testing.T) { // P6
			c, p := testkit.ConnectMemory(t, tcpclient.Dialer{})
			p.Raw([]byte{0, 0, 0, 1})
			synctest.Wait()
			requireHeap(t, atMost, func() {
				for range many / test.msgs {
					for _, piece := range test.pieces {
						p.Raw([]byte(piece))
						synctest.Wait()
					}
				}
			})
			for range many / test.msgs * test.msgs {
				msg, err := c.Receive(t.Context())
				require.NoError(t, err)
				require.Len(t, msg, 1)
			}
		}))
	}

	t.Run("follows the bytes received: two whole messages in a piece", testkit.InBubble(func(t *testing.T) { // P6
		c, p := testkit.ConnectMemory(t, tcpclient.Dialer{})
		requireHeap(t, atMost, func() {
			for range many / 2 {
				p.Send("x", "y")
				synctest.Wait()
			}
		})
		for range many / 2 {
			for _, want := range []string{"x", "y"} {
				msg, err := c.Receive(t.Context())
				require.NoError(t, err)
				require.Equal(t, want, string(msg))
			}
		}
	}))

	t.Run("follows the bytes received: empty and larger messages in turn", testkit.InBubble(func(t *testing.T) { // P6
		// One kind is copied in runs, the other is not.
		c, p := testkit.ConnectMemory(t, tcpclient.Dialer{})
		large := testkit.PatternText(513)
		requireHeap(t, atMost, func() {
			for range 400 {
				p.Send("", large)
				synctest.Wait()
			}
		})
		for range 400 {
			for _, want := range []string{"", large} {
				msg, err := c.Receive(t.Context())
				require.NoError(t, err)
				require.Equal(t, want, string(msg))
			}
		}
	}))
}

// With other Framers than LengthPrefix{}, too, slabs are filled, whatever the sizes of the messages
// and of the reads.
func TestInboxMemoryWithMixedSizes(t *testing.T) {
	testkit.SkipIfShort(t)
	small := func(n int) []int { return append([]int{4090}, make([]int, n)...) }
	framers := map[string]tcpclient.Framer{"Lines": tcpclient.Lines{}}
	if !testkit.RaceEnabled { // which has nothing to say about memory that is held
		framers["Netstring"] = tcpclient.Netstring()
		framers["a user's"] = testkit.FuncFramer{}
	}
	for framer, f := range framers {
		for name, sizes := range map[string][]int{
			"just below 4 KiB and empty ones in turn":        small(1),
			"just below 4 KiB and nine empty ones in turn":   small(9),
			"1 KiB and six of a byte in turn":                {1 << 10, 1, 1, 1, 1, 1, 1},
			"just below 4 KiB and one of 100 bytes in turn":  {4000, 100},
			"just below 4 KiB and ten of 20 bytes in turn":   {3700, 20, 20, 20, 20, 20, 20, 20, 20, 20, 20},
			"just below 4 KiB, as many as empty ones in row": append(small(4), 4090, 4090, 4090),
		} {
			for how, whole := range map[string]bool{"each in a read of its own": true, "in large reads": false} {
				t.Run(framer+", messages of "+name+", "+how, testkit.InBubble(func(t *testing.T) { // P6, F8
					var stream []byte
					var reads []int
					const many = 2000
					var frames [][]byte
					for _, size := range sizes {
						frames = append(frames, testkit.Encode(t, f, make([]byte, size)))
					}
					for i := range many {
						frame := frames[i%len(frames)]
						stream = append(stream, frame...)
						reads = append(reads, len(frame))
					}
					s := script{data: stream, size: bursts, begin: make(chan struct{})}
					if whole {
						s.size = func() int {
							n := reads[0]
							reads = reads[1:]
							return n
						}
					}
					const inbox, readBuffer = 256 << 10, 8 << 10
					c, _ := s.play(t, tcpclient.Dialer{Framer: f, Inbox: inbox, ReadBuffer: readBuffer})
					requireHeap(t, 2*inbox+readBuffer, func() { close(s.begin); synctest.Wait() })
					require.Positive(t, c.Stats().MessagesReceived)
					require.Less(t, c.Stats().MessagesReceived, uint64(many), "the Inbox is full")
				}))
			}
		}
	}
}

// Twice the length is no int where that has 32 bits.
func TestLargestLengthThatIsAnnounced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // P6, F15
		c, p := testkit.ConnectMemory(t, tcpclient.Dialer{Framer: tcpclient.LengthPrefix{MaxSize: math.MaxInt32}})
		p.Raw([]byte{0x7f, 0xff, 0xff, 0xff, 1, 2, 3})
		_, err := c.Receive(t.Context())
		require.ErrorIs(t, err, tcpclient.ErrFrameTimeout)
		require.ErrorContains(t, err, "7 bytes of the frame have come")
	})
}

// What is read between small messages is not for the Inbox, and must not close their slab.
func TestInboxMemoryBesideLargePongs(t *testing.T) {
	for name, wait := range map[string]func(){"": func() {}, ", one by one": synctest.Wait} {
		for _, size := range []int{1, 128} {
			if size > 1 && name != "" {
				continue // it is the small ones of which a slab holds too few
			}
			t.Run(fmt.Sprintf("messages of %d bytes%s", size, name), testkit.InBubble(func(t *testing.T) { // P6
				const inbox = 128 << 10
				c, p := testkit.ConnectMemory(t, tcpclient.Dialer{Inbox: inbox, Heartbeat: tcpclient.Heartbeat{
					Interval: time.Hour, IsPong: func(msg []byte) bool { return len(msg) >= 64<<10 },
				}})
				pong, small := testkit.Frames(string(make([]byte, 64<<10))), testkit.Frames(string(make([]byte, size)))
				p.Raw(small)
				p.Raw(pong)
				p.Raw(small)
				p.Raw(pong)
				synctest.Wait()
				many := inbox/(size+64) - 4
				requireHeap(t, 1<<20, func() {
					for range many {
						p.Raw(small)
						wait()
						p.Raw(pong)
						wait()
					}
					synctest.Wait()
				})
				runtime.KeepAlive(pong)
				runtime.KeepAlive(small)
				require.EqualValues(t, 2+many, c.Stats().MessagesReceived)
			}))
		}
	}
}

// What large messages have needed is given up when they do not come any more.
func TestMemoryOfLargeMessagesIsGivenUp(t *testing.T) {
	testkit.SkipIfShort(t)
	const large, small = 3, 2000
	loops := map[string]func(*testing.T, *tcpclient.Client) int{
		"Messages": func(t *testing.T, c *tcpclient.Client) (n int) {
			for _, err := range c.Messages(t.Context()) {
				require.NoError(t, err)
				if n++; n == large+small {
					break
				}
			}
			return n
		},
		"ReceiveInto memory that is larger still": func(t *testing.T, c *tcpclient.Client) (n int) {
			for ; n < large+small; n++ {
				var buf []byte
				if n < 2*large {
					buf = make([]byte, 0, 5<<20) // the Client may keep it
				}
				_, err := c.ReceiveInto(t.Context(), buf)
				require.NoError(t, err)
			}
			return n
		},
	}
	framers := map[string]tcpclient.Framer{"LengthPrefix": tcpclient.LengthPrefix{}}
	if !testkit.RaceEnabled { // which has nothing to say about memory that is held
		framers["a user's"] = testkit.FuncFramer{}
		framers["Netstring"] = tcpclient.Netstring()
		framers["Lines"] = tcpclient.Lines{MaxSize: 8 << 20}
	}
	for framer, f := range framers {
		var msgs [][]byte
		for i := range large + small {
			n := 100
			if i < large {
				n = 4<<20 - 1
			}
			msgs = append(msgs, make([]byte, n))
		}
		stream := testkit.Encode(t, f, msgs...)
		for loop, receive := range loops {
			for inbox, size := range map[string]int{"a small Inbox": 0, "an Inbox for all of them": 64 << 20} {
				for reads, most := range map[string]int{"small reads": 700, "large reads": bursts()} {
					t.Run(fmt.Sprintf("%s, %s, %s, %s", framer, loop, inbox, reads), testkit.InBubble(func(t *testing.T) { // P6, E2
						s := script{data: stream, size: func() int { return most }, begin: make(chan struct{})}
						c, _ := s.play(t, tcpclient.Dialer{Framer: f, Inbox: size})
						requireHeap(t, 1<<20, func() {
							close(s.begin)
							if size > 0 {
								synctest.Wait() // all are in the Inbox
							}
							require.Equal(t, large+small, receive(t, c))
						})
						runtime.KeepAlive(stream)
						runtime.KeepAlive(c)
					}))
				}
			}
		}
	}
}
