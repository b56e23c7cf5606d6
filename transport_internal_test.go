package tcpclient

import (
	"bytes"
	"context"
	"crypto/tls"
	"io"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/seed-d0aa0aa7/tcpclient/internal/wire"
	"github.com/stretchr/testify/require"
)

// newTestBuffer is a tlsBuffer over raw, of a connection that ends with the test.
func newTestBuffer(t testing.TB, raw net.Conn) *tlsBuffer {
	watch := newFrameWatch(0)
	w := wire.New(raw, 0, defaultBuffer, watch)
	t.Cleanup(func() {
		w.Kill(ErrClosed)
		w.Join()
	})
	return newTLSBuffer(w, watch)
}

// mustWrite writes what a tlsBuffer always takes.
func mustWrite(t testing.TB, b *tlsBuffer, p string) {
	t.Helper()
	n, err := b.Write([]byte(p))
	require.NoError(t, err)
	require.Equal(t, len(p), n)
}

func TestTLSBuffer(t *testing.T) {
	t.Run("during a Handshake writes through, and blocks", func(t *testing.T) { // P4
		synctest.Test(t, func(t *testing.T) {
			near, far := net.Pipe() // takes a byte when it is read
			b := newTestBuffer(t, near)
			written := make(chan error, 1)
			go func() {
				_, err := b.Write([]byte("hello"))
				written <- err
			}()
			synctest.Wait()
			require.Empty(t, written, "it waits for the peer")
			require.Zero(t, b.size())
			got := make([]byte, 5)
			_, err := io.ReadFull(far, got)
			require.NoError(t, err)
			require.Equal(t, "hello", string(got))
			require.NoError(t, <-written)
		})
	})

	t.Run("keeps what is written, and calls without its lock", func(t *testing.T) { // P5
		raw := newCutOff(t, 1<<20)
		b := newTestBuffer(t, raw)
		var sizes []int
		b.start(func() { sizes = append(sizes, b.size()) }, b.watcher)
		mustWrite(t, b, "key update")
		mustWrite(t, b, ", record")
		require.Equal(t, []int{10, 18}, sizes)
		require.Len(t, b.added, 1, "one signal for both")
		require.Empty(t, raw.written(), "that is for the one who writes")
		require.True(t, b.handOver(b.Conn.Write))
		require.Equal(t, "key update, record", raw.written())
		require.Zero(t, b.size())
	})

	t.Run("hands over in order what was written while a part was", func(t *testing.T) { // P1, P3
		b := newTestBuffer(t, newCutOff(t, 1<<20))
		b.start(func() {}, b.watcher)
		var got []byte
		take := func(most int) func(p []byte) (int, error) {
			return func(p []byte) (int, error) {
				n := min(len(p), most)
				got = append(got, p[:n]...)
				return n, nil
			}
		}
		mustWrite(t, b, "first")
		require.False(t, b.handOver(take(2)))
		mustWrite(t, b, "second")
		require.Equal(t, len("rstsecond"), b.size())
		require.False(t, b.handOver(take(0)))
		require.False(t, b.handOver(take(3)), "the second is not taken whole")
		mustWrite(t, b, "third")
		require.True(t, b.handOver(take(100)))
		require.Equal(t, "firstsecondthird", string(got))
		require.Zero(t, b.size())
		require.True(t, b.handOver(func([]byte) (int, error) { panic("there is nothing") }))
	})

	t.Run("once closed drops what it has, and what is written", func(t *testing.T) { // P5
		raw := newCutOff(t, 1<<20)
		b := newTestBuffer(t, raw)
		added := 0
		b.start(func() { added++ }, b.watcher)
		mustWrite(t, b, "half")
		require.False(t, b.handOver(func([]byte) (int, error) { return 1, nil }))
		mustWrite(t, b, "whole")
		b.close()
		require.Zero(t, b.size())
		mustWrite(t, b, "after FIN")
		require.Equal(t, 2, added, "there is nothing to hand over")
		require.Zero(t, b.size())
		require.True(t, b.handOver(b.Conn.Write))
		require.Empty(t, raw.written())
	})

	for name, start := range map[string]func(b *tlsBuffer){
		"during a Handshake": func(*tlsBuffer) {},
		"in use":             func(b *tlsBuffer) { b.start(func() {}, b.watcher) },
		"closed":             func(b *tlsBuffer) { b.start(func() {}, b.watcher); b.close() },
	} {
		t.Run(name+" takes nothing for a connection that has ended", func(t *testing.T) { // P4
			raw := newCutOff(t, 1<<20)
			b := newTestBuffer(t, raw)
			start(b)
			reason := b.Kill(io.ErrUnexpectedEOF)
			n, err := b.Write([]byte("late"))
			require.Zero(t, n)
			require.Equal(t, reason, err)
			require.Zero(t, b.size())
			require.Empty(t, raw.written())
		})
	}

	t.Run("ends a connection with more to answer than 1 MiB to a peer that takes no data", func(t *testing.T) { // P6
		b := newTestBuffer(t, newCutOff(t, 1<<20))
		b.start(func() {}, b.watcher)
		answer := make([]byte, 64)
		var err error
		most := 0
		for err == nil {
			most = b.size()
			_, err = b.Write(answer)
		}
		require.Equal(t, maxTLSBuffer, most)
		require.ErrorIs(t, err, errTLSFlood)
		require.ErrorIs(t, b.Cause(), errTLSFlood)
		require.ErrorIs(t, b.Cause(), ErrDisconnected)
		require.LessOrEqual(t, b.size(), maxTLSBuffer+len(answer))
		size := b.size()
		_, err = b.Write(answer)
		require.ErrorIs(t, err, errTLSFlood)
		require.Equal(t, size, b.size(), "it grows no more")
	})

	t.Run("does not take a write for done that fails with all bytes taken", func(t *testing.T) { // P4
		b := newTestBuffer(t, newCutOff(t, 1<<20))
		b.start(func() {}, b.watcher)
		mustWrite(t, b, "all")
		require.False(t, b.handOver(func(p []byte) (int, error) { return len(p), io.ErrClosedPipe }))
	})

	t.Run("gives up the memory of a flood, and keeps that of records", func(t *testing.T) { // P6, P12
		b := newTestBuffer(t, newCutOff(t, 1<<30))
		b.start(func() {}, b.watcher)
		for _, size := range []int{maxTLSBuffer, 1, 1, 1} {
			mustWrite(t, b, string(make([]byte, size)))
			require.True(t, b.handOver(b.Conn.Write))
		}
		require.LessOrEqual(t, cap(b.handing), 2*maxRecords*record)
		require.LessOrEqual(t, cap(b.waiting), 2*maxRecords*record)

		records := make([]byte, maxRecords*record)
		handOver := func() {
			b.Write(records)
			b.handOver(func(p []byte) (int, error) { return len(p), nil })
		}
		handOver()
		handOver() // both halves have their memory now
		require.Zero(t, testing.AllocsPerRun(100, handOver))
	})

	t.Run("knows that the reader owes something that comes just when all is handed over", func(t *testing.T) { // P9
		near, _ := net.Pipe()
		b := newTestBuffer(t, near)
		b.start(func() {}, b.watcher)
		stop, stopped := make(chan struct{}), make(chan struct{})
		go func() {
			defer close(stopped)
			for !isClosed(stop) {
				b.handOver(func(p []byte) (int, error) { return len(p), nil })
			}
		}()
		for range 10_000 {
			mustWrite(t, b, "alert")
			if !b.readerOwes() {
				require.Zero(t, b.size())
			}
		}
		close(stop)
		<-stopped
		b.handOver(func(p []byte) (int, error) { return len(p), nil })
		require.False(t, b.readerOwes())
	})
}

// TLS may refuse a write, of which the network learns nothing: after an alert, or a handshake that
// cannot be.
func TestWriteThatTLSRefuses(t *testing.T) {
	t.Run("ends the writing side, and is no success of a Send", func(t *testing.T) { // P4
		raw := newCutOff(t, 1<<20)
		o := newTestOutbox(new(Dialer), raw, func(p *plainTransport) transport {
			b := newTLSBuffer(p.wire, newFrameWatch(0))
			b.start(func() {}, b.watcher)
			return &tlsTransport{wire: p.wire, conn: tls.Client(b, new(tls.Config)), buffer: b} // it has no name to ask for
		})
		defer requireOutboxEnds(t, o)
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		_, err := o.send(ctx, []byte("never sent"))
		require.ErrorIs(t, err, ErrDisconnected)
		require.ErrorContains(t, err, "tls: ")
		require.Equal(t, err, o.wire.Cause())
		require.Empty(t, raw.written())
		require.Zero(t, o.count.messagesSent.Load())
	})
}

func TestRecordsAreFollowedHoweverTheyAreCut(t *testing.T) { // P5, F1
	// Records of 0, 1, 300 and 70 bytes, and where in the stream each ends.
	var stream []byte
	ends := map[int]bool{0: true}
	for _, size := range []int{0, 1, 300, 0, 70} {
		stream = append(stream, 23, 3, 3, byte(size>>8), byte(size))
		stream = append(stream, bytes.Repeat([]byte{23}, size)...)
		ends[len(stream)] = true
	}
	began := func(end int) (at int) { // the record with the byte before end
		for at = end - 1; !ends[at]; at-- {
		}
		return at
	}
	for size := 1; size <= len(stream); size++ {
		var r records
		before := 0
		for at := 0; ; before, at = at, min(at+size, len(stream)) {
			want := recordGoing
			switch {
			case ends[at]:
				want = recordWhole
			case began(at) >= before:
				want = recordBegun
			}
			require.Equal(t, want, r.next(), "reads of %d bytes, at %d", size, at)
			if at == len(stream) {
				break
			}
			r.follow(stream[at:min(at+size, len(stream))])
		}
	}
}
