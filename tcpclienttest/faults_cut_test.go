package tcpclienttest_test

import (
	"io"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/seed-d0aa0aa7/tcpclient/internal/testkit"
	"github.com/seed-d0aa0aa7/tcpclient/tcpclienttest"
	"github.com/stretchr/testify/require"
)

// listenUnix listens on a socket in a directory with a short name: that of t.TempDir may be
// longer than a socket's.
func listenUnix(t *testing.T) net.Listener {
	t.Helper()
	testkit.SkipUnderWine(t, "Unix sockets")
	dir, err := os.MkdirTemp("", "kit")
	require.NoError(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	l, err := net.Listen("unix", filepath.Join(dir, "s"))
	require.NoError(t, err)
	t.Cleanup(func() { l.Close() })
	return l
}

// unixPair is a connection over a Unix socket.
func unixPair(t *testing.T) (near, far net.Conn) {
	l := listenUnix(t)
	near, err := net.Dial("unix", l.Addr().String())
	require.NoError(t, err)
	far, err = l.Accept()
	require.NoError(t, err)
	return near, far
}

func TestFaults_Cut_with_unread_data(t *testing.T) {
	for name, pair := range map[string]func(*testing.T) (near, far net.Conn){"tcp": tcpPair, "unix": unixPair} {
		// cut has a peer that has said a thousand bytes, and cuts after seven of them.
		cut := func(t *testing.T) (near, far net.Conn) {
			near, far = pair(t)
			t.Cleanup(func() { near.Close(); far.Close() })
			near = tcpclienttest.Faults{Read: tcpclienttest.Fault{After: 7, Then: tcpclienttest.Cut}}.Wrap(near)
			_, err := far.Write(make([]byte, 1000))
			require.NoError(t, err)
			return near, far
		}

		t.Run("the peer reads what was written, then io.EOF: "+name, func(t *testing.T) {
			near, far := cut(t)
			_, err := near.Write([]byte("before"))
			require.NoError(t, err)
			got, err := io.ReadAll(near)
			require.NoError(t, err)
			require.Len(t, got, 7)
			got, err = io.ReadAll(far)
			require.NoError(t, err)
			require.Equal(t, "before", string(got))
			require.NoError(t, near.Close())
		})

		t.Run("so does a peer that reads when all is closed: "+name, func(t *testing.T) {
			near, far := cut(t)
			_, err := near.Write(make([]byte, 50_000))
			require.NoError(t, err)
			_, err = io.ReadAll(near)
			require.NoError(t, err)
			require.NoError(t, near.Close())
			got, err := io.ReadAll(far)
			require.NoError(t, err)
			require.Len(t, got, 50_000)
		})

		t.Run("the deadlines of the program do not matter: "+name, func(t *testing.T) {
			near, far := pair(t)
			defer near.Close()
			defer far.Close()
			near = tcpclienttest.Faults{Write: tcpclienttest.Fault{After: 6, Then: tcpclienttest.Cut}}.Wrap(near)
			_, err := far.Write(make([]byte, 1000))
			require.NoError(t, err)
			require.NoError(t, near.SetReadDeadline(time.Now().Add(-time.Second)))
			_, err = near.Write([]byte("before, and not this"))
			require.ErrorIs(t, err, syscall.EPIPE)
			got, err := io.ReadAll(far)
			require.NoError(t, err)
			require.Equal(t, "before", string(got))
		})
	}
}

func TestFaults_Cut_of_a_peer_that_goes_on_sending(t *testing.T) {
	near, far := tcpPair(t)
	defer far.Close()
	near = tcpclienttest.Faults{Read: tcpclienttest.Fault{After: 1 << 20, Then: tcpclienttest.Cut}}.Wrap(near)
	defer near.Close()
	_, err := near.Write([]byte("before"))
	require.NoError(t, err)
	sending := async(func() (n int, err error) {
		for err == nil {
			_, err = far.Write(make([]byte, 64<<10))
		}
		return 0, err
	})
	got, err := io.Copy(io.Discard, near)
	require.NoError(t, err)
	require.EqualValues(t, 1<<20, got)
	require.Error(t, (<-sending).err, "the peer's writes fail")
	said := make([]byte, 6)
	_, err = io.ReadFull(far, said)
	require.NoError(t, err)
	require.Equal(t, "before", string(said))
}
