package tcpclient_test

import (
	"bufio"
	"testing"
	"testing/synctest"

	"github.com/seed-d0aa0aa7/tcpclient"
	"github.com/seed-d0aa0aa7/tcpclient/internal/testkit"
	"github.com/stretchr/testify/require"
)

// A peeking is a Framer of a user that has its WriteFrame from one of ours. Its messages
// have a fixed size, and are what Peek shows: the memory of the bufio.Reader.
type peeking struct {
	tcpclient.LengthPrefix
	size int
}

func (f peeking) ReadFrame(r *bufio.Reader, dst []byte) ([]byte, error) {
	msg, err := r.Peek(f.size)
	if err != nil {
		return nil, err
	}
	r.Discard(f.size)
	return msg, nil
}

func TestEmbeddedFramer(t *testing.T) {
	for name, embed := range map[string]func(size int) tcpclient.Framer{
		"a value":   func(size int) tcpclient.Framer { return peeking{size: size} },
		"a pointer": func(size int) tcpclient.Framer { return &peeking{size: size} },
	} {
		t.Run(name+" may Peek at all of ReadBuffer", testkit.InBubble(func(t *testing.T) {
			c, p := testkit.ConnectMemory(t, tcpclient.Dialer{Framer: embed(1000), ReadBuffer: 1000})
			go p.Write(testkit.Pattern(1000))
			msg, err := c.Receive(t.Context())
			require.NoError(t, err)
			require.Equal(t, testkit.Pattern(1000), msg)
		}))

		t.Run(name+" may return the memory of its bufio.Reader", testkit.InBubble(func(t *testing.T) { // P1
			c, p := testkit.ConnectMemory(t, tcpclient.Dialer{Framer: embed(5)})
			want := []string{"aaaaa", "bbbbb", "ccccc"}
			for _, msg := range want {
				p.Raw([]byte(msg))
				synctest.Wait()
			}
			for _, want := range want {
				msg, err := c.Receive(t.Context())
				require.NoError(t, err)
				require.Equal(t, want, string(msg))
			}
		}))
	}

	t.Run("the settings of one of ours behind a pointer are checked", func(t *testing.T) {
		d := tcpclient.Dialer{Framer: &tcpclient.LengthPrefix{Width: 9}}
		_, err := d.Dial(t.Context(), "tcp", "127.0.0.1:1")
		require.ErrorContains(t, err, "Dialer.Framer: ")
		require.Equal(t, tcpclient.ClassPermanent, tcpclient.Classify(err))
	})
}
