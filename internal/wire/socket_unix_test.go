//go:build unix

package wire_test

import (
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/seed-d0aa0aa7/tcpclient/internal/testkit"
	"github.com/seed-d0aa0aa7/tcpclient/internal/wire"
)

func TestTryWriteOfSocket(t *testing.T) {
	t.Run("takes what there is room for, and leaves the rest to Write", func(t *testing.T) { // P1, P2
		near, far := onTCP(t)
		shrink(t, near, far)
		c := newConn(t, near, 0)
		p := pattern(4 << 20)
		require.True(t, c.CanTryWrite())
		n, err := c.TryWrite(p)
		require.NoError(t, err)
		require.Greater(t, n, 0)
		require.Less(t, n, len(p), "it waited for a peer that does not read")
		require.Equal(t, int64(n), c.Handed())
		all := readAll(far, len(p))
		k, err := c.Write(p[n:])
		require.NoError(t, err)
		require.Equal(t, len(p)-n, k)
		require.Equal(t, int64(len(p)), c.Handed())
		require.NoError(t, c.CloseWrite())
		require.True(t, string(p) == string(<-all), "the peer got other bytes")
	})

	t.Run("works on a Unix socket, too", func(t *testing.T) { // P2
		l, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
		require.NoError(t, err)
		defer l.Close()
		near, err := net.Dial("unix", l.Addr().String())
		require.NoError(t, err)
		far, err := l.Accept()
		require.NoError(t, err)
		defer far.Close()
		c := newConn(t, near, 0)
		p := pattern(4 << 20)
		require.True(t, c.CanTryWrite())
		n, err := c.TryWrite(p)
		require.NoError(t, err)
		require.Greater(t, n, 0)
		require.Less(t, n, len(p))
		got := readAll(far, len(p))
		_, err = c.Write(p[n:])
		require.NoError(t, err)
		require.NoError(t, c.CloseWrite())
		require.True(t, string(p) == string(<-got), "the peer got other bytes")
	})

	t.Run("mixed with Write loses no byte and sends none twice", func(t *testing.T) { // P1, P4
		for seed := range uint64(5) {
			rng := rand.New(rand.NewPCG(seed, 7))
			near, far := onTCP(t)
			require.NoError(t, near.SetWriteBuffer(64<<10))
			c := newConn(t, near, time.Minute)
			p := pattern(4 << 20)
			got := readAll(far, len(p))
			for rest := p; len(rest) > 0; {
				n := min(1+rng.IntN(200_000), len(rest))
				k := 0
				if rng.IntN(3) > 0 {
					var err error
					k, err = c.TryWrite(rest[:n])
					require.NoError(t, err, "seed %d", seed)
				}
				n = min(n+rng.IntN(100), len(rest)) // others may have added to it meanwhile
				m, err := c.Write(rest[k:n])
				require.NoError(t, err, "seed %d", seed)
				require.Equal(t, n-k, m, "seed %d", seed)
				rest = rest[n:]
				require.Equal(t, int64(len(p)-len(rest)), c.Handed(), "seed %d", seed)
			}
			require.NoError(t, c.CloseWrite())
			require.True(t, string(p) == string(<-got), "seed %d", seed)
		}
	})

	t.Run("that was reset before it was a net.Conn, and has no remote address, fails as any other", func(t *testing.T) { // P9, F5
		near, far := onTCP(t)
		file, err := near.File()
		require.NoError(t, err)
		defer file.Close()
		require.NoError(t, far.SetLinger(0))
		require.NoError(t, far.Close())
		var again net.Conn
		for deadline := time.Now().Add(10 * time.Second); ; { // until the reset has come
			again, err = net.FileConn(file)
			require.NoError(t, err)
			if again.RemoteAddr() == nil || time.Now().After(deadline) {
				break
			}
			again.Close()
		}
		require.Nil(t, again.RemoteAddr())
		c := newConn(t, again, 0)
		_, err = c.TryWrite([]byte("hello"))
		require.ErrorIs(t, err, syscall.ECONNRESET)
		require.Contains(t, err.Error(), "connection reset by peer")
	})

	t.Run("that is closed is left to Write", func(t *testing.T) {
		near, _ := onTCP(t)
		c := newConn(t, near, 0)
		require.NoError(t, c.Close())
		n, err := c.TryWrite([]byte("hello"))
		require.NoError(t, err)
		require.Zero(t, n)
		_, err = c.Write([]byte("hello"))
		require.ErrorIs(t, err, net.ErrClosed)
	})

	t.Run("allocates nothing", func(t *testing.T) { // P12
		near, far := onTCP(t)
		c := newConn(t, near, time.Minute)
		p := pattern(64)
		require.Zero(t, testing.AllocsPerRun(100, func() {
			if n, err := c.TryWrite(p); err != nil || n < len(p) {
				t.Fatal(n, err)
			}
			if n, err := far.Write(p); err != nil || n < len(p) {
				t.Fatal(n, err)
			}
			if _, err := c.Read(p); err != nil {
				t.Fatal(err)
			}
		}))
	})

	t.Run("learns of a reset", func(t *testing.T) { // P9
		near, far := onTCP(t)
		c := newConn(t, near, 0)
		require.NoError(t, far.SetLinger(0))
		require.NoError(t, far.Close())
		var err error
		for deadline := time.Now().Add(10 * time.Second); err == nil && time.Now().Before(deadline); {
			_, err = c.TryWrite([]byte("x"))
		}
		require.ErrorIs(t, err, syscall.ECONNRESET)
		var op *net.OpError
		require.ErrorAs(t, err, &op)
		require.Equal(t, near.RemoteAddr(), op.Addr)
	})
}

func TestReset(t *testing.T) {
	t.Run("has one reason, whoever learns of it first", func(t *testing.T) { // P9
		for range 200 {
			near, far := onTCP(t)
			c := newConn(t, near, time.Minute)
			read := begin(func() (int, error) {
				_, err := c.Read(make([]byte, 1))
				return 0, c.Kill(err)
			})
			wrote := begin(func() (int, error) {
				p := pattern(1 << 10)
				for {
					n, err := c.TryWrite(p)
					if err == nil && n < len(p) {
						_, err = c.Write(p[n:])
					}
					if err != nil {
						return 0, err
					}
				}
			})
			_, err := io.ReadFull(far, make([]byte, 4<<10))
			require.NoError(t, err)
			require.NoError(t, far.SetLinger(0))
			require.NoError(t, far.Close())
			o := <-wrote
			require.ErrorIs(t, o.err, syscall.ECONNRESET)
			require.Equal(t, o.err, (<-read).err)
		}
	})
}

func TestAheadOfSocket(t *testing.T) {
	for name, connect := range map[string]func(t testing.TB) (near, far net.Conn){
		"tcp": func(t testing.TB) (net.Conn, net.Conn) { return onTCP(t) },
		"unix": func(t testing.TB) (net.Conn, net.Conn) {
			l, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
			require.NoError(t, err)
			defer l.Close()
			near, err := net.Dial("unix", l.Addr().String())
			require.NoError(t, err)
			far, err := l.Accept()
			require.NoError(t, err)
			t.Cleanup(func() { far.Close() })
			return near, far
		},
	} {
		t.Run(name+": is what has arrived, and stays there", func(t *testing.T) {
			near, far := connect(t)
			c := newConn(t, near, 0)
			require.Empty(t, c.Ahead(), "nothing has arrived")
			_, err := far.Write(pattern(1000))
			require.NoError(t, err)
			testkit.Eventually(t, "it has arrived", func() bool { return len(c.Ahead()) == 512 })
			require.Equal(t, pattern(1000)[:512], c.Ahead())
			p := make([]byte, 1000)
			_, err = io.ReadFull(c, p)
			require.NoError(t, err)
			require.Equal(t, pattern(1000), p)
			require.NoError(t, far.Close())
			_, err = c.Read(p)
			require.Equal(t, io.EOF, err)
			require.Empty(t, c.Ahead(), "after the end")
			c.Kill(io.EOF)
			c.Join()
			require.Empty(t, c.Ahead(), "of a closed socket")
		})

		t.Run(name+": is not looked for below a wrapper, which may read something else from it", func(t *testing.T) {
			near, far := connect(t)
			wrapped := newConn(t, struct{ net.Conn }{near}, 0)
			_, err := far.Write(pattern(10))
			require.NoError(t, err)
			bare := newConn(t, near, 0)
			testkit.Eventually(t, "it has arrived", func() bool { return len(bare.Ahead()) == 10 })
			require.Empty(t, wrapped.Ahead())
		})
	}
}

func TestTryWriteBoth(t *testing.T) {
	t.Run("loses no byte and sends none twice, wherever the network stops", func(t *testing.T) { // P1, P4
		for seed := range uint64(5) {
			rng := rand.New(rand.NewPCG(seed, 16))
			near, far := onTCP(t)
			require.NoError(t, near.SetWriteBuffer(64<<10))
			c := newConn(t, near, time.Minute)
			p := pattern(4 << 20)
			got := readAll(far, len(p))
			for rest := p; len(rest) > 0; {
				head := min(rng.IntN(300)*rng.IntN(300), len(rest))
				tail := min(rng.IntN(400_000), len(rest)-head)
				wait := time.Duration(rng.IntN(3)) * time.Millisecond
				n, err := c.TryWriteBoth(rest[:head], rest[head:head+tail], wait)
				require.NoError(t, err, "seed %d", seed)
				rest = rest[n:]
				require.Equal(t, int64(len(p)-len(rest)), c.Handed(), "seed %d", seed)
			}
			require.NoError(t, c.CloseWrite())
			require.True(t, string(p) == string(<-got), "seed %d", seed)
		}
	})

	t.Run("waits for a peer that does not read, but not for long, and then is as good as before", func(t *testing.T) { // P2, P4
		near, far := onTCP(t)
		shrink(t, near, far)
		c := newConn(t, near, time.Minute)
		p := pattern(4 << 20)
		const wait = 20 * time.Millisecond
		began, n := time.Now(), 0
		for idle := false; !idle; {
			began := time.Now()
			k, err := c.TryWriteBoth(p[n:n+10], p[n+10:], wait)
			require.NoError(t, err)
			if idle = k == 0; idle {
				require.GreaterOrEqual(t, time.Since(began), wait)
			}
			n += k
		}
		require.Less(t, n, len(p))
		require.False(t, c.IsDead())
		require.True(t, c.Progress().After(began), "Close sees that the network has taken some")
		k, err := c.TryWriteBoth(p[n:n+10], p[n+10:], 0)
		require.NoError(t, err)
		n += k // little, if anything: the peer's TCP may have found some room
		all := readAll(far, len(p))
		testkit.Eventually(t, "there is room again, and the deadline is none", func() bool {
			k, err = c.TryWrite(p[n:])
			n += k
			return k > 0
		})
		require.NoError(t, err)
		_, err = c.Write(p[n:])
		require.NoError(t, err)
		require.NoError(t, c.CloseWrite())
		require.True(t, string(p) == string(<-all), "the peer got other bytes")
	})

	t.Run("of a connection that is reset meanwhile ends the writing side, and counts what was taken", func(t *testing.T) { // P4, P9
		near, far := onTCP(t)
		c := newConn(t, near, time.Minute)
		p := pattern(32 << 20)
		n, err := c.TryWriteBoth(p[:10], p[10:], 0)
		require.NoError(t, err)
		require.NoError(t, far.SetLinger(0))
		time.AfterFunc(10*time.Millisecond, func() { far.Close() })
		k, err := c.TryWriteBoth(nil, p[n:], time.Minute)
		require.ErrorIs(t, err, syscall.ECONNRESET)
		require.Equal(t, err, c.Cause())
		require.Equal(t, int64(n+k), c.Handed())
		again, err := c.TryWriteBoth(nil, p[:1], 0)
		require.Zero(t, again)
		require.Equal(t, c.Cause(), err)
	})

	t.Run("allocates nothing", func(t *testing.T) { // P12
		near, far := onTCP(t)
		c := newConn(t, near, time.Minute)
		go io.Copy(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{far})
		p := pattern(1 << 20)
		require.Zero(t, testing.AllocsPerRun(50, func() {
			for n := 0; n < len(p); {
				k, err := c.TryWriteBoth(p[n:min(n+100, len(p))], p[min(n+100, len(p)):], time.Second)
				if err != nil {
					panic(err)
				}
				n += k
			}
		}))
	})
}

// A countedMemory is memory of one size. It knows whether it is there.
type countedMemory struct {
	mu       sync.Mutex // guards following
	mem      []byte     // nil: it is not
	releases int
}

func (m *countedMemory) Take() []byte {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.mem == nil {
		m.mem = make([]byte, 100)
	}
	return m.mem
}

func (m *countedMemory) Release() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.mem = nil
	m.releases++
}

func (m *countedMemory) state() (isThere bool, releases int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.mem != nil, m.releases
}

func TestReadInto(t *testing.T) {
	t.Run("has no memory while it waits, and asks the socket no more often than Read", func(t *testing.T) { // P6, P12
		near, far := onTCP(t)
		c := newConn(t, near, 0)
		m := new(countedMemory)
		for range 3 {
			_, before := m.state()
			read := begin(func() (int, error) { return c.ReadInto(m) })
			testkit.WaitBlocked(t, "wire.(*readyReader).read", "poll.(*FD).RawRead")
			isThere, releases := m.state()
			require.False(t, isThere)
			require.Equal(t, before+1, releases)
			_, err := far.Write([]byte("hello"))
			require.NoError(t, err)
			got := <-read
			require.NoError(t, got.err)
			require.Equal(t, "hello", string(m.mem[:got.n]))
		}
	})

	t.Run("keeps its memory when bytes are there already", func(t *testing.T) { // P12
		near, far := onTCP(t)
		c := newConn(t, near, 0)
		m := new(countedMemory)
		_, err := far.Write(pattern(250))
		require.NoError(t, err)
		for got := 0; got < 250; {
			n, err := c.ReadInto(m)
			require.NoError(t, err)
			require.Equal(t, string(pattern(250)[got:got+n]), string(m.mem[:n]))
			got += n
		}
	})

	t.Run("looks up at a deadline, and reads on after it", func(t *testing.T) { // P5
		near, far := onTCP(t)
		looked := make(chan struct{})
		begun := time.Now()
		w := &monitor{
			next: func() time.Time {
				select {
				case <-looked:
					return time.Time{}
				default:
					return begun.Add(10 * time.Millisecond)
				}
			},
			expired: func(time.Time, time.Time) error { close(looked); return nil },
		}
		c := wire.New(near, 0, 64<<10, w)
		defer requireEnds(t, c)
		m := new(countedMemory)
		read := begin(func() (int, error) { return c.ReadInto(m) })
		<-looked
		_, err := far.Write([]byte("late"))
		require.NoError(t, err)
		got := <-read
		require.NoError(t, got.err)
		require.Equal(t, "late", string(m.mem[:got.n]))
	})

	t.Run("ends as Read does", func(t *testing.T) { // P9
		for name, end := range map[string]func(c *wire.Conn, far *net.TCPConn){
			"FIN":  func(_ *wire.Conn, far *net.TCPConn) { far.CloseWrite() },
			"RST":  func(_ *wire.Conn, far *net.TCPConn) { far.SetLinger(0); far.Close() },
			"Kill": func(c *wire.Conn, _ *net.TCPConn) { c.Kill(wire.ErrClosed) },
		} {
			ends := func(read func(*wire.Conn) (int, error)) (text string, err error) {
				near, far := onTCP(t)
				c := newConn(t, near, 0)
				done := begin(func() (int, error) { return read(c) })
				testkit.WaitBlocked(t, "wire.(*Conn).read(", "poll.(*pollDesc).wait")
				end(c, far)
				got := <-done
				require.Zero(t, got.n)
				return strings.NewReplacer(near.LocalAddr().String(), "near", near.RemoteAddr().String(), "far").Replace(got.err.Error()), got.err
			}
			want, _ := ends(func(c *wire.Conn) (int, error) { return c.Read(make([]byte, 100)) })
			got, err := ends(func(c *wire.Conn) (int, error) { return c.ReadInto(new(countedMemory)) })
			require.Equal(t, want, got, name)
			require.Equal(t, name == "FIN", err == io.EOF)
			require.Equal(t, name == "RST", errors.Is(err, syscall.ECONNRESET))
		}
	})

	t.Run("has no memory while a connection without deadlines is waited for", func(t *testing.T) { // P6, D4
		near, far := inMemory(t, 1000)
		c := newConn(t, bare{near}, 0)
		m := new(countedMemory)
		m.Take()
		read := begin(func() (int, error) { return c.ReadInto(m) })
		testkit.WaitBlocked(t, "wire.(*pendingRead).readInto")
		isThere, _ := m.state()
		require.False(t, isThere)
		_, err := far.Write(pattern(250))
		require.NoError(t, err)
		got := <-read
		require.NoError(t, got.err)
		require.Equal(t, string(pattern(250)[:got.n]), string(m.mem[:got.n]))
	})
}
