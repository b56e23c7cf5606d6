package wire

import (
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
)

func TestResultThatIsHereIsNotLate(t *testing.T) { // P1
	for range 100 {
		var calls callGroup
		calls.init()
		close(calls.closed)
		var p pendingIO
		p.init(&calls, nil)
		p.done <- result{n: 1}
		res, again, err := p.waitUntil(time.Time{})
		assert.NoError(t, err)
		assert.False(t, again)
		assert.Equal(t, 1, res.n)
	}
}

func TestQuestions(t *testing.T) {
	t.Run("that are said to take no lock take none", func(t *testing.T) { // P2
		near, far := net.Pipe()
		defer far.Close()
		c := New(near, 0, 64<<10, silent{})
		c.mu.Lock()
		asked := make(chan struct{})
		go func() {
			defer close(asked)
			c.Unacknowledged()
			c.IsDead()
			c.Cause()
			c.CanTryWrite()
		}()
		select {
		case <-asked:
		case <-time.After(10 * time.Second):
			t.Error("a question waits for the lock")
		}
		c.mu.Unlock()
		<-asked
		c.Kill(ErrClosed)
		c.Join()
	})

	t.Run("may be asked while the connection ends", func(t *testing.T) { // P9
		for range 100 {
			near, far := net.Pipe()
			c := New(near, 0, 64<<10, silent{})
			var all sync.WaitGroup
			for range 4 {
				all.Go(func() {
					for !c.IsDead() {
						if err := c.Cause(); err != nil {
							assert.ErrorIs(t, err, io.EOF)
						}
					}
					assert.ErrorIs(t, c.Cause(), io.EOF)
				})
			}
			c.Kill(io.EOF)
			all.Wait()
			c.Join()
			far.Close()
		}
	})
}
