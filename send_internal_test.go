package tcpclient

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/seed-d0aa0aa7/tcpclient/internal/liveness"
	"github.com/seed-d0aa0aa7/tcpclient/internal/wire"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// What only the inside of an outbox can show: who writes, and the moment between a join and
// the write. Behaviour is tested in writing_test.go and tls_test.go.

// A cutOff is a connection that takes so many bytes and then fails.
type cutOff struct {
	net.Conn // one end of a net.Pipe, for its addresses and deadlines
	left     int

	mu    sync.Mutex // guards following
	taken []byte
}

// RealDeadlines returns true: what Write says that it has written can be relied on.
func (c *cutOff) RealDeadlines() bool { return true }

func newCutOff(t testing.TB, left int) *cutOff {
	near, far := net.Pipe()
	t.Cleanup(func() { near.Close(); far.Close() })
	return &cutOff{Conn: near, left: left}
}

func (c *cutOff) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := min(len(p), c.left)
	c.left -= n
	c.taken = append(c.taken, p[:n]...)
	if c.left == 0 {
		return n, io.ErrClosedPipe
	}
	return n, nil
}

func (c *cutOff) written() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return string(c.taken)
}

// A ready is a transport whose network can be asked what it takes at once, as a socket can. That
// is all.
type ready struct{ *plainTransport }

func (ready) canTry() bool                    { return true }
func (ready) readerCanTry() bool              { return true }
func (r ready) tryWrite(b *batch) (done bool) { return r.write(b) }

// A tried is ready, and the test says what its network takes at once.
type tried struct {
	ready
	try func(b *batch) (done bool)
}

func (t tried) tryWrite(b *batch) (done bool) { return t.try(b) }

// newTestOutbox is the writing side of a connection over raw, without a reader.
func newTestOutbox(d *Dialer, raw net.Conn, over func(*plainTransport) transport) *outbox {
	return newTestOutboxAfter(nil, d, raw, over)
}

// newTestOutboxAfter is newTestOutbox after a connection that has left a loss to report.
func newTestOutboxAfter(loss error, d *Dialer, raw net.Conn, over func(*plainTransport) transport) *outbox {
	c := d.config()
	w := wire.New(raw, c.writeTimeout, c.readBuffer, newFrameWatch(0))
	count := new(counters)
	return newOutbox(c, c.framing, w, over(newPlainTransport(w)), newCalls(&callSettings{}, count, new(tracer), w, newInbox(1<<20, nil)), count, loss)
}

func readyTransport(t *plainTransport) transport { return ready{t} }

// requireOutboxEnds wants o to end without waiting.
func requireOutboxEnds(t testing.TB, o *outbox) {
	t.Helper()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		o.wire.Kill(ErrClosed)
		o.end()
		o.wire.Join()
	}()
	select {
	case <-ended:
	case <-time.After(time.Minute):
		require.FailNow(t, "end hangs")
	}
}

// joinBoth lets a writer and then another join, as Client.Send does, and holds the writer where
// it yields: what is a matter of luck between goroutines is certain here.
func joinBoth(t testing.TB, o *outbox, writer, other string) (first, second ticket) {
	t.Helper()
	first, writes := o.join([]byte(writer))
	require.True(t, writes)
	require.False(t, o.mu.TryLock(), "the one who writes holds the lock")
	o.writer = writerInline
	o.mu.Unlock() // it yields

	second, writes = o.join([]byte(other))
	require.False(t, writes, "another writes")
	require.True(t, o.mu.TryLock(), "who does not write leaves the lock")
	require.Equal(t, first.batch, second.batch, "one batch")
	return first, second // with the lock, for writeInlineLocked
}

func TestJoin(t *testing.T) {
	t.Run("says in which batch a frame is, and where", func(t *testing.T) { // P3, P4
		raw := newCutOff(t, 1<<20)
		o := newTestOutbox(new(Dialer), raw, readyTransport)
		for i := range uint64(4) { // later in memory that was used
			first, second := joinBoth(t, o, "writer", "other")
			require.Equal(t, ticket{batch: i + 1}, first)
			require.Equal(t, ticket{batch: i + 1, start: 4 + len("writer")}, second)
			require.Equal(t, i, o.batches.written.Load(), "nothing of it was written")
			require.True(t, o.writeInlineLocked())
			require.Equal(t, i+1, o.batches.written.Load(), "the batch was")
			for _, frame := range []ticket{first, second} {
				_, err := o.await(t.Context(), frame)
				require.NoError(t, err)
			}
		}
		const both = "\x00\x00\x00\x06writer\x00\x00\x00\x05other"
		require.Equal(t, strings.Repeat(both, 4), raw.written())
		requireOutboxEnds(t, o)
	})

	t.Run("lets each who looks when all is over learn its own fate", func(t *testing.T) { // P4
		for cut := range 4 + len("writer") + 4 + len("other") {
			o := newTestOutbox(new(Dialer), newCutOff(t, cut), readyTransport)
			first, second := joinBoth(t, o, "writer", "other")
			require.False(t, o.writeInlineLocked())
			for _, frame := range []ticket{first, second} {
				unsent, err := o.await(t.Context(), frame)
				require.ErrorIs(t, err, io.ErrClosedPipe)
				require.Equal(t, cut <= frame.start, unsent, "of the frame at %d, cut at %d", frame.start, cut)
			}
			requireOutboxEnds(t, o)
		}
	})

	t.Run("is certain of a frame whose batch was sealed, and not begun when the connection died", func(t *testing.T) { // P4
		dies := false
		o := newTestOutbox(new(Dialer), newCutOff(t, 1<<20), func(p *plainTransport) transport {
			return tried{ready{p}, func(b *batch) (done bool) {
				if !dies {
					return p.write(b)
				}
				p.wire.Kill(io.ErrUnexpectedEOF)
				return false // and has not begun, like the helper that finds the wire dead
			}}
		})
		_, err := o.send(t.Context(), []byte("first"))
		require.NoError(t, err)
		dies = true
		first, second := joinBoth(t, o, "writer", "other")
		require.False(t, o.writeInlineLocked())
		for _, frame := range []ticket{first, second} {
			unsent, err := o.await(t.Context(), frame)
			require.ErrorIs(t, err, io.ErrUnexpectedEOF)
			require.True(t, unsent)
		}
		requireOutboxEnds(t, o)
	})

	for name, test := range map[string]struct {
		d       Dialer
		loss    error
		prepare func(o *outbox)
		msg     string
	}{
		"is too large":                {d: Dialer{Framer: LengthPrefix{MaxSize: 3}}, msg: "four"},
		"is for another Framer":       {d: Dialer{Framer: LengthPrefix{Width: 2}}, msg: "x"},
		"is empty, for another":       {d: Dialer{Framer: Lines{}}},
		"comes to a full WriteBuffer": {d: Dialer{WriteBuffer: 4}, prepare: func(o *outbox) { o.write(context.Background(), nil) }},
		"comes after Shutdown":        {prepare: (*outbox).seal},
		"has a loss to report":        {loss: &LossError{Messages: 1, Err: io.EOF}},
	} {
		t.Run("leaves all as it is for a message that "+name, func(t *testing.T) { // P4, P6
			o := newTestOutboxAfter(test.loss, &test.d, newCutOff(t, 1<<20), readyTransport)
			if test.prepare != nil {
				test.prepare(o)
			}
			open := o.batches.open
			size, frames, loss := open.size(), open.frames, o.loss
			none, writes := o.join([]byte(test.msg))
			require.Zero(t, none)
			require.False(t, writes)
			require.True(t, o.mu.TryLock(), "the lock is free")
			require.Equal(t, size, open.size())
			require.Equal(t, frames, open.frames)
			require.Equal(t, loss, o.loss, "that is for the long way to report")
			require.Equal(t, writerNone, o.writer)
			o.mu.Unlock()
			requireOutboxEnds(t, o)
		})
	}
}

func TestPrefixed(t *testing.T) {
	t.Run("appends frames of all sizes to memory of all sizes", func(t *testing.T) { // P1
		msg := make([]byte, 70)
		for i := range msg {
			msg[i] = byte(i + 1)
		}
		for room := range 150 {
			for size := range msg {
				before := append(make([]byte, 0, room), msg[:min(room, 70)]...)
				for i := len(before); i < room; i++ {
					before[:room][i] = 0xff // of the batch before
				}
				want := append(binary.BigEndian.AppendUint32(append([]byte(nil), before...), uint32(size)), msg[:size]...)
				b := frameBuffer{bytes: before}
				if start := b.appendLengthPrefixed(msg[:size]); start != len(before) || string(b.bytes) != string(want) {
					require.FailNow(t, "not a frame", "%d bytes, room for %d: % x at %d", size, room, b.bytes, start)
				}
			}
		}
	})
}

func TestBatch(t *testing.T) {
	t.Run("is as new for its next use, but for its memory", func(t *testing.T) { // P1, P4
		b := batch{
			frameBuffer: frameBuffer{bytes: []byte("used")},
			loan:        &loan{lent: []byte("lent")},
			frames:      1, unawaited: 2, control: 3, controls: 4, controlEnd: 5,
			waiters: waitList{first: new(waiter)}, flushing: 6, loss: io.EOF,
			base: 7, pieces: []int64{8}, given: 9,
		}
		for i, used := 0, reflect.ValueOf(b); i < used.NumField(); i++ {
			require.False(t, used.Field(i).IsZero(), "this test is to use each field: %s", used.Type().Field(i).Name)
		}
		memory := []int{cap(b.bytes), cap(b.pieces)}
		b.reset(1 << 10)
		require.Zero(t, b.size())
		require.Equal(t, batch{frameBuffer: b.frameBuffer, loan: &loan{}, pieces: []int64{}}, b)
		require.Equal(t, memory, []int{cap(b.bytes), cap(b.pieces)}, "the memory stays")
	})
}

// A heldTransport is ready, and holds each write until it is let go. The writes of the helper it
// holds apart.
type heldTransport struct {
	ready
	tries, writes chan chan struct{} // nil: these are not held
}

func (h *heldTransport) tryWrite(b *batch) (done bool) {
	hold(h.tries)
	return h.ready.tryWrite(b)
}

func (h *heldTransport) write(b *batch) (done bool) {
	hold(h.writes)
	return h.ready.write(b)
}

// hold says that a write is here, and waits until that is let go.
func hold(held chan chan struct{}) {
	if held == nil {
		return
	}
	letGo := make(chan struct{})
	held <- letGo
	<-letGo
}

// newBusyOutbox is newTestOutbox while someone writes: a Send of a frame of 5 bytes, which the network
// takes only after release. That returns when what others have asked for meanwhile is written, too.
func newBusyOutbox(t testing.TB, d *Dialer, raw net.Conn) (o *outbox, release func()) {
	held := &heldTransport{tries: make(chan chan struct{})}
	o = newTestOutbox(d, raw, func(p *plainTransport) transport {
		held.ready = ready{p}
		return held
	})
	sent := make(chan error, 1)
	go func() {
		_, err := o.send(context.Background(), []byte("1"))
		sent <- err
	}()
	letGo := <-held.tries
	held.tries = nil
	return o, func() {
		t.Helper()
		close(letGo)
		require.NoError(t, <-sent)
		o.running.Wait()
	}
}

func TestInlineWriter(t *testing.T) {
	for name, second := range map[string]func(o *outbox) error{
		"a Send":    func(o *outbox) error { _, err := o.send(context.Background(), []byte("2")); return err },
		"a control": func(o *outbox) error { _, err := o.writeControl([]byte("2")); return err },
		"a Flush": func(o *outbox) error {
			if _, err := o.write(context.Background(), []byte("2")); err != nil {
				return err
			}
			return o.flush(context.Background())
		},
	} {
		t.Run("returns when its own batch is written, and leaves to the helper "+name+" that has joined meanwhile", func(t *testing.T) { // P2, P3
			synctest.Test(t, func(t *testing.T) {
				held := &heldTransport{tries: make(chan chan struct{}), writes: make(chan chan struct{})}
				raw := newCutOff(t, 1<<20)
				o := newTestOutbox(new(Dialer), raw, func(p *plainTransport) transport {
					held.ready = ready{p}
					return held
				})
				send := func(f func(o *outbox) error) chan error {
					sent := make(chan error, 1)
					go func() { sent <- f(o) }()
					synctest.Wait()
					return sent
				}
				first := send(func(o *outbox) error { _, err := o.send(context.Background(), []byte("1")); return err })
				inline := <-held.tries
				other := send(second)
				close(inline)
				helper := <-held.writes // and no second try
				synctest.Wait()
				require.NoError(t, <-first, "the first does not wait for the second")
				require.Equal(t, "\x00\x00\x00\x011", raw.written())
				close(helper)
				require.NoError(t, <-other)
				synctest.Wait()
				require.Equal(t, "\x00\x00\x00\x011\x00\x00\x00\x012", raw.written())
				o.running.Wait() // the helper has ended

				third := send(func(o *outbox) error { _, err := o.send(context.Background(), []byte("3")); return err })
				close(<-held.tries) // it writes inline again
				require.NoError(t, <-third)
				requireOutboxEnds(t, o)
			})
		})
	}

	for name, send := range map[string]func(ctx context.Context, o *outbox) error{
		"Send": func(ctx context.Context, o *outbox) error {
			return (&Session{link: &link{out: o}}).Send(ctx, []byte("1"))
		},
		"a Send by the long way": func(ctx context.Context, o *outbox) error { _, err := o.send(ctx, []byte("1")); return err },
	} {
		t.Run("leaves to the helper what the network does not take at once of "+name, func(t *testing.T) { // P2
			synctest.Test(t, func(t *testing.T) {
				held := &heldTransport{writes: make(chan chan struct{})}
				o := newTestOutbox(new(Dialer), newCutOff(t, 1<<20), func(p *plainTransport) transport {
					held.ready = ready{p}
					return takesNothing{held}
				})
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				defer cancel()
				require.ErrorIs(t, send(ctx, o), context.DeadlineExceeded, "the caller waits for its context, too")
				close(<-held.writes)
				synctest.Wait()
				require.True(t, o.isFlushed())
				o.running.Wait()
				requireOutboxEnds(t, o)
			})
		})
	}
}

func TestSendOverASocket(t *testing.T) {
	t.Run("needs no helper for what the socket takes at once", func(t *testing.T) { // P12
		l, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		defer l.Close()
		c, err := Dial(t.Context(), "tcp", l.Addr().String())
		require.NoError(t, err)
		defer c.Close()
		p, err := l.Accept()
		require.NoError(t, err)
		defer p.Close()
		o := c.link.Load().out
		if !o.transport.canTry() {
			t.Skip("each write may wait on this system")
		}
		started := 0
		o.helper = func() { // before anything is written
			started++
			o.help()
		}
		for range 50 {
			require.NoError(t, c.Send(t.Context(), []byte("x")))
			require.NoError(t, c.Write(t.Context(), []byte("y")))
			require.NoError(t, c.Flush(t.Context()))
		}
		o.mu.Lock()
		defer o.mu.Unlock()
		require.Zero(t, started)
	})
}

func TestInlineWriterYields(t *testing.T) { // P12
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1)) // else others may join without that
	o := newTestOutbox(new(Dialer), newCutOff(t, 1<<20), readyTransport)
	const senders, each = 8, 10
	var all sync.WaitGroup
	for range senders {
		all.Go(func() {
			for range each {
				_, err := o.send(context.Background(), []byte("x"))
				assert.NoError(t, err)
			}
		})
	}
	all.Wait()
	require.Less(t, o.count.flushes.Load(), uint64(senders*each/2))
	requireOutboxEnds(t, o)
}

// A flushed is a transport that tells of a tryFlush.
type flushed struct {
	ready
	onFlush func()
}

func (f flushed) tryFlush() bool { f.onFlush(); return true }

func TestWhatTLSAddsHasOneWriter(t *testing.T) { // P1
	var o *outbox
	flushes := 0
	o = newTestOutbox(new(Dialer), newCutOff(t, 1<<20), func(p *plainTransport) transport {
		return flushed{ready{p}, func() {
			flushes++
			o.mu.Lock()
			defer o.mu.Unlock()
			assert.False(t, o.canWriteLocked(), "nobody else writes meanwhile")
		}}
	})
	o.tlsAdded()
	require.Equal(t, 1, flushes)
	o.mu.Lock()
	require.True(t, o.canWriteLocked())
	o.mu.Unlock()
	requireOutboxEnds(t, o)
}

// lendingTransport is a transport to which messages are lent. Its network can only be asked with time.
func lendingTransport(t *plainTransport) transport { return ready{t} }

// headedFramers are those that put something, or nothing, in front of a message of that size.
func headedFramers(size int) map[string]Framer {
	return map[string]Framer{
		"LengthPrefix{}":               LengthPrefix{},
		"LengthPrefix, two bytes":      &LengthPrefix{Width: 2, LittleEndian: true},
		"LengthPrefix with KeepHeader": LengthPrefix{Offset: 1, Adjust: -4, KeepHeader: true},
		"Varint":                       Varint{},
		"Fixed":                        Fixed{Size: size},
		"Sized":                        Sized{Size: func([]byte) (int, error) { return size, nil }},
		"ContentLength":                ContentLength{},
	}
}

// framed returns msgs as f frames them.
func framed(t *testing.T, f Framer, msgs ...[]byte) []byte {
	t.Helper()
	var all bytes.Buffer
	w := bufio.NewWriter(&all)
	for _, msg := range msgs {
		require.NoError(t, f.WriteFrame(w, msg))
	}
	require.NoError(t, w.Flush())
	return all.Bytes()
}

// louder is a Framer of a user that has one of ours inside.
type louder struct{ LengthPrefix }

func (f louder) WriteFrame(w *bufio.Writer, msg []byte) error {
	return f.LengthPrefix.WriteFrame(w, append(bytes.Clone(msg), '!'))
}

// lendTwice writes msg through an outbox by Write, and by Send. It returns what the network got, and
// whether that was from the caller's memory.
func lendTwice(t *testing.T, f Framer, msg []byte) (written []byte, lent bool) {
	t.Helper()
	raw := newCutOff(t, 1<<20)
	o := newTestOutbox(&Dialer{Framer: f, WriteBuffer: minLent - 1}, raw, lendingTransport)
	for _, method := range []func(context.Context, []byte) (bool, error){o.write, o.send} {
		mine := slices.Clone(msg)
		_, err := method(t.Context(), mine)
		require.NoError(t, err)
		clear(mine)
	}
	require.NoError(t, o.flush(t.Context()))
	lent = o.batches.open.loan != nil
	requireOutboxEnds(t, o)
	return []byte(raw.written()), lent
}

func TestLend(t *testing.T) {
	pattern := make([]byte, minLent)
	for i := range pattern {
		pattern[i] = byte(i + i/251)
	}

	for name, f := range headedFramers(65) {
		t.Run("keeps what was not handed over, as it was, wherever the network stops: "+name, func(t *testing.T) { // P1, P4
			first := pattern[65:130]
			begin := len(framed(t, f, first))
			size := len(framed(t, f, first, pattern[:65]))
			for given := range size {
				for again := range 5 {
					b, msg := new(batch), slices.Clone(pattern[:65])
					all := framed(t, f, first, msg)
					s := newFraming(f)
					_, err := s.write(&b.frameBuffer, first, 1000)
					require.NoError(t, err)
					start, err := b.lend(asHeaded(f), msg)
					require.NoError(t, err)
					require.Equal(t, begin, start)
					require.Equal(t, size, b.size())
					b.take(given)
					b.keep()
					clear(msg)
					own, kept := b.rest()
					require.Equal(t, string(all[given:]), string(own)+string(kept))
					b.take(min(again, size-given)) // the helper goes on
					own, kept = b.rest()
					require.Equal(t, string(all[b.given:]), string(own)+string(kept))
					require.Equal(t, size, b.size())
					b.reset(100)
					require.Zero(t, b.size())
					require.Nil(t, b.loan.lent)
					require.Positive(t, cap(b.loan.kept), "it may be needed again")
					b.reset(100)
					require.Zero(t, cap(b.loan.kept), "it was not")
				}
			}
		})
	}

	for name, f := range headedFramers(minLent) {
		t.Run("of a message that no Framer changes after its header: "+name, func(t *testing.T) { // P1, P12
			written, lent := lendTwice(t, f, pattern)
			require.Equal(t, framed(t, f, pattern, pattern), written)
			require.True(t, lent)
		})
	}

	for name, f := range map[string]Framer{
		"a Delimiter": Delimiter{Delim: []byte("\xff\xfe"), MaxSize: 1 << 20}, "a Framer of the user": louder{}, "a pointer to one": &louder{},
	} {
		t.Run("copies for "+name, func(t *testing.T) { // P1
			msg := bytes.ReplaceAll(pattern, []byte{0xff}, []byte{0})
			written, lent := lendTwice(t, f, msg)
			require.Equal(t, framed(t, f, msg, msg), written)
			require.False(t, lent)
		})
	}

	t.Run("ends with the error or the panic of a Framer, and nothing has happened", func(t *testing.T) { // P10
		refused := errors.New("refused")
		size := func([]byte) (int, error) { return 0, refused }
		raw := newCutOff(t, 1<<20)
		o := newTestOutbox(&Dialer{Framer: Sized{Size: func(p []byte) (int, error) { return size(p) }}}, raw, lendingTransport)
		unsent, err := o.send(t.Context(), pattern)
		require.ErrorIs(t, err, refused)
		require.Equal(t, ClassPermanent, Classify(err))
		require.True(t, unsent)
		size = func([]byte) (int, error) { panic("size") }
		require.PanicsWithValue(t, "size", func() { _, _ = o.send(t.Context(), pattern) })
		size = func(p []byte) (int, error) { return len(p), nil }
		_, err = o.send(t.Context(), pattern)
		require.NoError(t, err)
		require.Equal(t, string(pattern), raw.written())
		requireOutboxEnds(t, o)
	})

	t.Run("leaves exact fates, wherever the network stops", func(t *testing.T) { // P4
		const lentAt = 4 + len("written")
		for _, cut := range []int{0, 1, 4, lentAt - 1, lentAt, lentAt + 1, lentAt + 4, lentAt + 5, 10_000, lentAt + 4 + minLent} {
			for name, op := range map[string]func(o *outbox) (bool, error){
				"Send":  func(o *outbox) (bool, error) { return o.send(context.Background(), pattern) },
				"Write": func(o *outbox) (bool, error) { return o.write(context.Background(), pattern) },
			} {
				raw := newCutOff(t, cut)
				o := newTestOutbox(&Dialer{WriteBuffer: minLent - 1}, raw, lendingTransport)
				_, err := o.write(t.Context(), []byte("written"))
				require.NoError(t, err)
				unsent, err := op(o)
				lost := 1
				if name == "Write" {
					require.NoError(t, err, "it was taken")
					lost = 2
				} else {
					require.ErrorIs(t, err, io.ErrClosedPipe)
					require.Equal(t, cut <= lentAt, unsent, "cut at %d", cut)
				}
				o.running.Wait() // the helper has tried, too
				require.ErrorIs(t, o.wire.Cause(), io.ErrClosedPipe)
				o.end()
				var loss *LossError
				require.ErrorAs(t, o.takeLoss(), &loss, "cut at %d", cut)
				require.Equal(t, lost, loss.Messages)
				want := append(binary.BigEndian.AppendUint32([]byte("\x00\x00\x00\x07written"), minLent), pattern...)
				require.Equal(t, string(want[:cut]), raw.written())
				o.wire.Kill(ErrClosed)
				o.wire.Join()
			}
		}
	})

	for name, prepare := range map[string]func(t *testing.T, raw net.Conn) (o *outbox, release func()){
		"another writes": func(t *testing.T, raw net.Conn) (*outbox, func()) {
			return newBusyOutbox(t, &Dialer{WriteBuffer: minLent - 1}, raw)
		},
		"a Write would not fill a buffer": func(t *testing.T, raw net.Conn) (*outbox, func()) {
			return newTestOutbox(&Dialer{WriteBuffer: minLent + 1}, raw, lendingTransport), func() {}
		},
	} {
		t.Run("copies a message if "+name, func(t *testing.T) { // P3, P12
			o, release := prepare(t, newCutOff(t, 1<<20))
			_, err := o.write(t.Context(), pattern)
			require.NoError(t, err)
			o.mu.Lock()
			require.Nil(t, o.batches.open.loan)
			require.Equal(t, frameHeader+minLent, len(o.batches.open.bytes))
			o.mu.Unlock()
			release()
			require.NoError(t, o.flush(t.Context()))
			requireOutboxEnds(t, o)
		})
	}

	t.Run("goes on while the network takes a little, and copies nothing", func(t *testing.T) { // P12
		for _, op := range []func(*outbox, context.Context, []byte) (bool, error){(*outbox).send, (*outbox).write} {
			raw := &trickle{cutOff: newCutOff(t, 1<<20), onWrite: func(int) {}}
			o := newTestOutbox(&Dialer{WriteBuffer: minLent}, raw, lendingTransport)
			_, err := op(o, t.Context(), pattern)
			require.NoError(t, err)
			require.Equal(t, frameHeader+minLent, len(raw.written()))
			require.Zero(t, cap(o.batches.open.loan.kept))
			requireOutboxEnds(t, o)
		}
	})

	t.Run("waits for a network that takes nothing, but not for long", func(t *testing.T) { // P2, P4
		synctest.Test(t, func(t *testing.T) {
			o := newTestOutbox(&Dialer{WriteBuffer: minLent - 1}, &stuck{newCutOff(t, 1<<20)}, lendingTransport)
			began := time.Now()
			_, err := o.write(t.Context(), pattern)
			require.NoError(t, err)
			require.Equal(t, 2*time.Millisecond, time.Since(began))
			requireOutboxEnds(t, o)
			require.Equal(t, 1, o.batches.messages(), "it is kept")
		})
	})

	t.Run("ends with the context, however steadily the network takes a little", func(t *testing.T) { // P1, P2
		for name, op := range map[string]func(*outbox, context.Context, []byte) (bool, error){"Send": (*outbox).send, "Write": (*outbox).write} {
			ctx, cancel := context.WithCancel(t.Context())
			returned := make(chan struct{})
			raw := &trickle{cutOff: newCutOff(t, 1<<20), onWrite: func(n int) {
				switch n {
				case 5:
					cancel()
				case 6: // the helper's: if that had written all before Send looks, Send would return nil
					select {
					case <-returned:
					case <-time.After(10 * time.Second):
						t.Error("it is still the caller's")
					}
				}
			}}
			o := newTestOutbox(&Dialer{WriteBuffer: minLent - 1}, raw, lendingTransport)
			msg := slices.Clone(pattern)
			unsent, err := op(o, ctx, msg)
			close(returned)
			clear(msg)
			if name == "Send" {
				require.ErrorIs(t, err, context.Canceled)
			} else {
				require.NoError(t, err, "it was taken")
			}
			require.False(t, unsent)
			require.NoError(t, o.flush(t.Context()))
			require.Equal(t, string(binary.BigEndian.AppendUint32(nil, minLent))+string(pattern), raw.written())
			requireOutboxEnds(t, o)
		}
	})

	t.Run("of a message that the framing refuses is refused as any other is", func(t *testing.T) { // P4
		o := newTestOutbox(&Dialer{Framer: LengthPrefix{MaxSize: 1000}}, newCutOff(t, 1<<20), lendingTransport)
		for _, op := range []func(context.Context, []byte) (bool, error){o.send, o.write} {
			unsent, err := op(t.Context(), pattern)
			require.ErrorAs(t, err, new(*FrameTooLargeError))
			require.True(t, unsent)
		}
		requireOutboxEnds(t, o)
	})
}

// A trickle is a connection of which each Write ends at its deadline, after a few bytes.
type trickle struct {
	*cutOff
	writes  int
	onWrite func(n int)
}

func (c *trickle) Write(p []byte) (int, error) {
	c.writes++
	c.onWrite(c.writes)
	n, _ := c.cutOff.Write(p[:min(len(p), 100)])
	if n < len(p) {
		return n, os.ErrDeadlineExceeded
	}
	return n, nil
}

// A stuck is a connection that takes nothing.
type stuck struct{ *cutOff }

func (c *stuck) Write(p []byte) (int, error) { return c.Conn.Write(p) }

func TestLendToASocket(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	c, err := Dial(t.Context(), "tcp", l.Addr().String())
	require.NoError(t, err)
	defer c.Close()
	p, err := l.Accept()
	require.NoError(t, err)
	defer p.Close()
	o := c.link.Load().out
	if !o.transport.canTry() {
		t.Skip("each write may wait on this system")
	}

	t.Run("of a peer that reads keeps no copy", func(t *testing.T) { // P6, P12
		go io.Copy(struct{ io.Writer }{io.Discard}, p)
		msg := make([]byte, 1<<20)
		for range 50 {
			require.NoError(t, c.Send(t.Context(), msg))
		}
		for range 2 {
			require.NoError(t, c.Send(t.Context(), []byte("small"))) // the last large one may have been slow
		}
		o.mu.Lock()
		defer o.mu.Unlock()
		require.Nil(t, o.batches.flight)
		require.Nil(t, o.batches.spare)
		open := o.batches.open
		require.Less(t, cap(open.bytes), 1<<10)
		require.Zero(t, cap(open.loan.kept))
		require.Nil(t, open.loan.lent, "the caller's memory is forgotten")
	})
}

// takesNothing is a transport of which a try takes nothing.
type takesNothing struct{ *heldTransport }

func (takesNothing) tryWrite(b *batch) (done bool) { b.begin(0); return false }

// A soleTransport is ready, takes what luck wants, and notices two who use it at once.
type soleTransport struct {
	*plainTransport
	users atomic.Int32
	clash *atomic.Bool
}

func (s *soleTransport) canTry() bool       { return true }
func (s *soleTransport) readerCanTry() bool { return true }

func (s *soleTransport) use() (leave func()) {
	if s.users.Add(1) > 1 {
		s.clash.Store(true)
	}
	runtime.Gosched()
	return func() { s.users.Add(-1) }
}

func (s *soleTransport) tryWrite(b *batch) (done bool) {
	defer s.use()()
	p := b.seal()
	b.begin(s.handed)
	n := len(p)
	if rand.IntN(2) == 0 {
		n = rand.IntN(n + 1)
	}
	_, err := s.wire.Write(p[:n])
	return s.took(b, n, err) && b.given == len(p)
}

func (s *soleTransport) write(b *batch) (done bool) {
	defer s.use()()
	return s.plainTransport.write(b)
}

func (s *soleTransport) closeWrite() error {
	defer s.use()()
	return s.plainTransport.closeWrite()
}

func TestWriter(t *testing.T) {
	t.Run("is one at a time, and loses, cuts and overtakes no frame", func(t *testing.T) { // P1, P3
		const senders, each = 8, 60
		var clash atomic.Bool
		raw := newCutOff(t, 1<<30)
		o := newTestOutbox(&Dialer{WriteBuffer: 64, FlushDelay: time.Microsecond}, raw, func(p *plainTransport) transport {
			return &soleTransport{plainTransport: p, clash: &clash}
		})
		var all sync.WaitGroup
		errs := make(chan error, senders*each)
		for s := range senders {
			all.Go(func() {
				for i := range each {
					msg := fmt.Appendf(nil, "%d/%04d", s, i)
					var err error
					switch (s + i) % 4 {
					case 0:
						_, err = o.send(context.Background(), msg)
					case 1:
						_, err = o.write(context.Background(), msg)
					case 2:
						if _, err = o.write(context.Background(), msg); err == nil {
							err = o.flush(context.Background())
						}
					case 3:
						_, err = o.writeControl(msg)
					}
					if err != nil {
						errs <- err
					}
				}
			})
		}
		all.Wait()
		require.Empty(t, errs)
		o.finish()
		<-o.finished
		require.False(t, clash.Load(), "two writers at once")

		next := make([]int, senders)
		for rest := raw.written(); rest != ""; {
			size := binary.BigEndian.Uint32([]byte(rest))
			var s, i int
			_, err := fmt.Sscanf(rest[4:4+size], "%d/%d", &s, &i)
			require.NoError(t, err)
			require.Equal(t, next[s], i, "of sender %d", s)
			next[s]++
			rest = rest[4+size:]
		}
		require.Equal(t, slices.Repeat([]int{each}, senders), next)
		o.running.Wait() // no helper is left, nor the timer
		requireOutboxEnds(t, o)
	})
}

// What the monitor has to know: whether a ping waits after others, and whether the peer's TCP has
// acknowledged what came before it.
func TestOutbound(t *testing.T) {
	t.Run("says that a ping is not queued if the reader can write it, and nothing is under way", func(t *testing.T) { // P5
		fresh := newTestOutbox(new(Dialer), newCutOff(t, 1<<20), readyTransport)
		defer requireOutboxEnds(t, fresh)
		require.Equal(t, liveness.Outbound{}, fresh.outbound())
		o, release := newBusyOutbox(t, new(Dialer), newCutOff(t, 1<<20))
		defer requireOutboxEnds(t, o)
		assert.Equal(t, liveness.Outbound{Queued: true}, o.outbound())
		release()
		require.Equal(t, liveness.Outbound{Acked: 5, Handed: o.wire.HandedAt()}, o.outbound())
	})

	t.Run("says that a ping is queued if it takes the helper to write it", func(t *testing.T) { // P5
		o := newTestOutbox(new(Dialer), newCutOff(t, 1<<20), func(p *plainTransport) transport { return p })
		defer requireOutboxEnds(t, o)
		require.Equal(t, liveness.Outbound{Queued: true}, o.outbound())
	})

	t.Run("says that a ping is behind until it was handed over", func(t *testing.T) { // P5
		o, release := newBusyOutbox(t, new(Dialer), newCutOff(t, 1<<20))
		defer requireOutboxEnds(t, o)
		_, err := o.writeControl([]byte("ping"))
		assert.NoError(t, err)
		assert.Equal(t, liveness.Outbound{Queued: true, Behind: true}, o.outbound())
		release()
		require.Equal(t, liveness.Outbound{Acked: 5 + 8, Handed: o.wire.HandedAt()}, o.outbound())
	})

	t.Run("over a socket says that a ping is queued and behind until its bytes are acknowledged", func(t *testing.T) { // P5
		if runtime.GOOS != "linux" {
			return // what is not acknowledged is not known
		}
		l, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		defer l.Close()
		raw, err := net.Dial("tcp", l.Addr().String())
		require.NoError(t, err)
		require.NoError(t, raw.(*net.TCPConn).SetWriteBuffer(1<<20))
		peer, err := l.Accept()
		require.NoError(t, err)
		defer peer.Close()
		o := newTestOutbox(new(Dialer), raw, func(p *plainTransport) transport { return p })
		defer requireOutboxEnds(t, o)
		eventually := func(what string, holds func() bool) {
			t.Helper()
			for late := time.Now().Add(20 * time.Second); !holds(); runtime.Gosched() {
				require.True(t, time.Now().Before(late), "waited in vain until %s", what)
			}
		}
		// The peer does not read. Its window is shut when for a while nothing is acknowledged
		// any more; the kernel here has room for more all the same.
		stuck := func() bool {
			before := o.wire.Unacknowledged()
			for began := time.Now(); time.Since(began) < 50*time.Millisecond; {
				if o.wire.Unacknowledged() != before {
					return false
				}
			}
			return before > 0
		}
		for filled := 0; !stuck(); filled += 128 << 10 {
			require.Less(t, filled, 64<<20)
			_, err := o.write(t.Context(), make([]byte, 128<<10))
			require.NoError(t, err)
		}
		out := o.outbound()
		require.True(t, out.Queued)
		require.False(t, out.Behind, "there is no ping")
		require.Equal(t, o.wire.Handed()-int64(o.wire.Unacknowledged()), out.Acked)

		_, err = o.writeControl([]byte("ping"))
		require.NoError(t, err)
		eventually("the ping is handed over", func() bool { return o.control.left.Load() == 0 })
		out = o.outbound()
		require.True(t, out.Queued)
		require.True(t, out.Behind)

		go io.Copy(io.Discard, peer)
		eventually("the peer's TCP has all", func() bool {
			return o.outbound() == liveness.Outbound{Acked: o.wire.Handed(), Handed: o.wire.HandedAt()}
		})
	})
}

func TestHandedAtOfASocket(t *testing.T) {
	for name, ping := range map[string]func() []byte{"with a Ping": func() []byte { return []byte("ping") }, "without": nil} {
		t.Run("is noted only for a Ping: "+name, func(t *testing.T) { // P5, P12, A1
			l, err := net.Listen("tcp", "127.0.0.1:0")
			require.NoError(t, err)
			defer l.Close()
			c, err := (&Dialer{Heartbeat: Heartbeat{Interval: time.Hour, Ping: ping}}).Dial(t.Context(), "tcp", l.Addr().String())
			require.NoError(t, err)
			defer c.Close()
			w := c.link.Load().wire
			if !w.CanTryWrite() {
				t.Skip("this system has no way to write without waiting: all is noted")
			}
			require.True(t, w.HandedAt().IsZero())
			before := time.Now()
			require.NoError(t, c.Send(t.Context(), []byte("hello")))
			require.Equal(t, ping != nil, !w.HandedAt().Before(before))
		})
	}
}

func TestPingThatIsDropped(t *testing.T) {
	t.Run("is one that no pong answers", func(t *testing.T) { // P5, P6
		o, release := newBusyOutbox(t, new(Dialer), newCutOff(t, 1<<30)) // and the peer does not read
		defer requireOutboxEnds(t, o)
		defer release()
		h := &Heartbeat{Interval: time.Hour, Ping: func() []byte { return []byte("ping") }}
		w := newHeartbeatWatch(h, 0, o, o.calls)
		for taken := true; taken; {
			var err error
			taken, err = o.writeControl(make([]byte, 1<<10))
			require.NoError(t, err)
		}
		require.NoError(t, w.do(w.monitor.CheckUnread(time.Now().Add(time.Hour), liveness.Outbound{})))
		w.monitor.Arrived(time.Now().Add(2 * time.Hour))
		w.monitor.Message()
		_, ok := w.pong()
		require.False(t, ok)
	})
}
