package tcpclienttest_test

import (
	"bufio"
	"io"
	"sync"
	"testing"

	"github.com/seed-d0aa0aa7/tcpclient"
	"github.com/seed-d0aa0aa7/tcpclient/tcpclienttest"
	"github.com/stretchr/testify/require"
)

// A trusting is a Framer of three bytes of length that allocates what they announce, up to
// a limit.
type trusting struct {
	tcpclient.LengthPrefix // for WriteFrame
	limit                  int
	scratch                int // bytes that each ReadFrame allocates beside
}

func newTrusting(littleEndian bool, limit, scratch int) trusting {
	return trusting{tcpclient.LengthPrefix{Width: 3, LittleEndian: littleEndian}, limit, scratch}
}

// wasted keeps the compiler from leaving a Framer's scratch out.
var wasted sync.Map

func (f trusting) ReadFrame(r *bufio.Reader, dst []byte) ([]byte, error) {
	wasted.Store("scratch", make([]byte, f.scratch))
	head, err := r.Peek(3)
	if err != nil {
		return dst, eofInside(err, len(head))
	}
	size := int(head[0])<<16 | int(head[1])<<8 | int(head[2])
	if f.LittleEndian {
		size = int(head[2])<<16 | int(head[1])<<8 | int(head[0])
	}
	if size > f.limit {
		return dst, tcpclient.ErrInvalidFrame
	}
	r.Discard(3)
	start := len(dst)
	if cap(dst)-start < size {
		dst = append(make([]byte, 0, start+size), dst...)
	}
	n, err := io.ReadFull(r, dst[start:start+size])
	return dst[:start+n], eofInside(err, 3)
}

func TestTestFramer_memory(t *testing.T) {
	test := func(f tcpclient.Framer) error {
		return tcpclienttest.TestFramer(f, []byte("hello"), []byte("x"), make([]byte, 300))
	}
	for name, littleEndian := range map[string]bool{"big-endian": false, "little-endian": true} {
		t.Run("a trusted length of three bytes is found, "+name, func(t *testing.T) {
			require.ErrorContains(t, test(newTrusting(littleEndian, 1<<24, 0)), "it believes an announced length")
		})
		t.Run("a limit of a megabyte may be trusted, "+name, func(t *testing.T) {
			require.NoError(t, test(newTrusting(littleEndian, 1<<20, 0)))
		})
	}
	t.Run("memory that each message takes is none that was announced", func(t *testing.T) {
		require.NoError(t, test(newTrusting(false, 1<<20, 512<<10)))
	})
}
