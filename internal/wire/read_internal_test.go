package wire

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestReadDeadline(t *testing.T) {
	epoch := time.Date(2024, 1, 1, 0, 0, 0, 0, time.UTC)
	at := func(seconds int) time.Time { return epoch.Add(time.Duration(seconds) * time.Second) }

	t.Run("is not set while none is needed", func(t *testing.T) { // P12
		var d readDeadline
		for range 100 {
			require.False(t, d.move(time.Time{}, false))
		}
	})

	t.Run("is set only when it has to come sooner", func(t *testing.T) { // P12
		var d readDeadline
		require.True(t, d.move(at(5), false))
		require.False(t, d.move(at(5), false))
		require.False(t, d.move(at(6), false))
		require.True(t, d.move(at(4), false))
	})

	t.Run("is set anew once it has expired", func(t *testing.T) {
		var d readDeadline
		require.True(t, d.move(at(5), false))
		require.True(t, d.move(at(6), true))
		require.True(t, d.move(time.Time{}, true))
		require.False(t, d.move(time.Time{}, false))
	})

	t.Run("is taken back when many reads in a row did not need it", func(t *testing.T) { // P12
		var d readDeadline
		require.True(t, d.move(at(5), false))
		for range maxNeedless - 1 {
			require.False(t, d.move(time.Time{}, false))
		}
		require.False(t, d.move(at(5), false), "this one needs it")
		for range maxNeedless - 1 {
			require.False(t, d.move(time.Time{}, false))
		}
		require.True(t, d.move(time.Time{}, false))
		require.True(t, d.at.IsZero())
	})

	t.Run("under a read that is under way only becomes sooner", func(t *testing.T) { // P5
		var d readDeadline
		require.True(t, d.sooner(at(5)))
		require.False(t, d.sooner(at(6)))
		require.True(t, d.sooner(at(4)))
		require.Equal(t, at(4), d.at)
	})

	t.Run("stays as another goroutine has asked, though the next read begins without knowing of it", func(t *testing.T) { // P5
		for name, set := range map[string]func(d *readDeadline){
			"set by it": func(*readDeadline) {},
			"set before, and earlier": func(d *readDeadline) {
				require.True(t, d.move(at(4), false))
				for range maxNeedless - 1 {
					require.False(t, d.move(time.Time{}, false))
				}
			},
		} {
			for expired, reads := range map[bool]int{false: maxNeedless, true: 1} {
				for _, stale := range []time.Time{{}, at(9)} {
					var d readDeadline
					set(&d)
					d.sooner(at(5))
					was := d.at
					require.False(t, d.move(stale, expired), name)
					require.Equal(t, was, d.at, name)
					moved := false
					for range reads {
						moved = moved || d.move(time.Time{}, expired)
					}
					require.True(t, moved, "%s: the next but one knows", name)
				}
			}
		}
	})
}
