package tcpclient

import (
	"encoding/binary"
	"io"
	"testing"

	"github.com/stretchr/testify/require"
)

// A cutOff is a connection that takes so many bytes and then fails.
type cutOff struct {
	deaf
	left  int
	taken []byte
}

func (c *cutOff) Write(p []byte) (int, error) {
	n := min(len(p), c.left)
	c.left -= n
	c.taken = append(c.taken, p[:n]...)
	if c.left == 0 {
		return n, io.ErrClosedPipe
	}
	return n, nil
}

// joinBoth lets a leader and then a follower join, as Client.Send does, and holds the leader where
// it yields: what is a matter of luck between goroutines is certain here.
func joinBoth(t testing.TB, o *outbox, leader, follower string) (number uint64, first, second int) {
	t.Helper()
	number, first, leads := o.join([]byte(leader))
	require.True(t, leads)
	require.False(t, o.mu.TryLock(), "who leads holds the lock")
	o.leading = true
	o.mu.Unlock() // it yields

	same, second, leads := o.join([]byte(follower))
	require.False(t, leads, "somebody leads")
	require.True(t, o.mu.TryLock(), "who does not lead leaves the lock")
	require.Equal(t, number, same, "one batch")
	return number, first, second // with the lock, for leadLocked
}

func TestJoin(t *testing.T) {
	t.Run("says in which batch a frame is, and where", func(t *testing.T) { // P3, P4
		raw := &cutOff{deaf: newDeaf(t), left: 1 << 20}
		conn := attached(&Dialer{}, raw, nil)
		o := conn.out
		for i := range uint64(2) { // the second time in memory that was used
			number, first, second := joinBoth(t, o, "leader", "follower")
			require.Equal(t, i+1, number)
			require.Zero(t, first)
			require.Equal(t, 4+len("leader"), second)
			require.Equal(t, i, o.landed.Load(), "nothing of it was written")
			_, err := o.leadLocked(t.Context(), first)
			require.NoError(t, err)
			require.Equal(t, number, o.landed.Load(), "the batch was")
			_, err = o.settle(t.Context(), number, second) // and so it is for who looks again
			require.NoError(t, err)
		}
		const both = "\x00\x00\x00\x06leader\x00\x00\x00\x08follower"
		require.Equal(t, both+both, string(raw.taken))
		requireEnds(t, conn)
	})

	t.Run("lets a follower who looks when all is over learn its own fate", func(t *testing.T) { // P4
		for cut := range 4 + len("leader") + 4 + len("follower") + 1 {
			conn := attached(&Dialer{}, &cutOff{deaf: newDeaf(t), left: cut}, nil)
			o := conn.out
			number, first, second := joinBoth(t, o, "leader", "follower")
			unsent, err := o.leadLocked(t.Context(), first)
			require.ErrorIs(t, err, io.ErrClosedPipe)
			require.Equal(t, cut <= first, unsent, "the leader's, cut at %d", cut)
			unsent, err = o.settle(t.Context(), number, second)
			require.ErrorIs(t, err, io.ErrClosedPipe)
			require.Equal(t, cut <= second, unsent, "the follower's, cut at %d", cut)
			requireEnds(t, conn)
		}
	})

	for name, test := range map[string]struct {
		d       Dialer
		prepare func(o *outbox)
		msg     string
	}{
		"is too large":                {d: Dialer{Framer: LengthPrefix{MaxSize: 3}}, msg: "four"},
		"is for another Framer":       {d: Dialer{Framer: LengthPrefix{Width: 2}}, msg: "x"},
		"is empty, for another":       {d: Dialer{Framer: Lines{}}},
		"comes to a full WriteBuffer": {d: Dialer{WriteBuffer: 4}, prepare: func(o *outbox) { o.write(t.Context(), nil) }},
		"comes behind Shutdown":       {prepare: (*outbox).seal},
		"has a loss to tell":          {prepare: func(o *outbox) { o.lost = &lossError{io.EOF} }},
	} {
		t.Run("leaves all as it is for a message that "+name, func(t *testing.T) { // P4, P6
			conn := attached(&test.d, newDeaf(t), nil)
			o := conn.out
			if test.prepare != nil {
				test.prepare(o)
			}
			size, held, lost := o.open.size(), o.open.frames, o.lost
			number, start, leads := o.join([]byte(test.msg))
			require.Zero(t, number)
			require.Zero(t, start)
			require.False(t, leads)
			require.True(t, o.mu.TryLock(), "the lock is free")
			require.Equal(t, size, o.open.size())
			require.Equal(t, held, o.open.frames)
			require.Equal(t, lost, o.lost, "that is for the long way to tell")
			require.False(t, o.leading)
			o.mu.Unlock()
			requireEnds(t, conn)
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
			for size := range len(msg) {
				before := append(make([]byte, 0, room), msg[:min(room, 70)]...)
				for i := len(before); i < room; i++ {
					before[:room][i] = 0xff // of the batch before
				}
				want := append(binary.BigEndian.AppendUint32(append([]byte(nil), before...), uint32(size)), msg[:size]...)
				b := batch{bytes: before}
				if start := b.prefixed(msg[:size]); start != len(before) || string(b.bytes) != string(want) {
					require.FailNow(t, "not a frame", "%d bytes, room for %d: % x at %d", size, room, b.bytes, start)
				}
			}
		}
	})
}
