package interop

import (
	"context"
	"fmt"
	"regexp"
	"sync"
	"testing"

	"github.com/seed-d0aa0aa7/tcpclient"
	"github.com/seed-d0aa0aa7/tcpclient/internal/testkit"
	"github.com/stretchr/testify/require"
)

// invalidation is a push of one key, or of several.
var invalidation = regexp.MustCompile(`^>2\r\n\$10\r\ninvalidate\r\n\*\d+\r\n((?:\$\d+\r\n[^\r]*\r\n)+)$`)

var bulk = regexp.MustCompile(`\$\d+\r\n([^\r]*)\r\n`)

// With CLIENT TRACKING the server tells of each key that was read and has changed, between the replies.
func TestRedisTracking(t *testing.T) { // B6
	const each = 100
	ctx := bounded(t)
	c := dial(t, tcpclient.Dialer{
		Framer: tcpclient.Sized{Size: testkit.SizeRESP},
		IsPush: func(msg []byte) bool { return msg[0] == '>' },
		Handshake: func(ctx context.Context, conn *tcpclient.Conn) error {
			for _, request := range [][]byte{command("HELLO", "3"), command("CLIENT", "TRACKING", "ON")} {
				if err := conn.Send(ctx, request); err != nil {
					return err
				}
				if reply, err := conn.Receive(ctx); err != nil || reply[0] == '-' {
					return fmt.Errorf("%q: %w", reply, err)
				}
			}
			return nil
		},
	}, startRedis(t))

	var group sync.WaitGroup
	for caller := range callers {
		group.Go(func() {
			for n := range each {
				key, old, changed := fmt.Sprintf("%02d-%04d", caller, n), fmt.Sprintf("old %d", n), fmt.Sprintf("new %d", n)
				for _, step := range []struct {
					request []byte
					want    string
				}{
					{command("SET", key, old), "+OK\r\n"},
					{command("GET", key), fmt.Sprintf("$%d\r\n%s\r\n", len(old), old)},
					{command("SET", key, changed), "+OK\r\n"}, // and the push
					{command("ECHO", key), fmt.Sprintf("$%d\r\n%s\r\n", len(key), key)},
				} {
					reply, err := c.Call(ctx, step.request)
					if err != nil || string(reply) != step.want {
						t.Errorf("%q: %q, %v", step.request, reply, err)
						return
					}
				}
			}
		})
	}

	keys := make(map[string]int)
	for len(keys) < callers*each {
		msg, err := c.Receive(ctx)
		require.NoError(t, err, "%d of %d keys", len(keys), callers*each)
		push := invalidation.FindSubmatch(msg)
		require.NotNil(t, push, "%q", msg)
		for _, key := range bulk.FindAllSubmatch(push[1], -1) {
			keys[string(key[1])]++
		}
	}
	group.Wait()
	for key, n := range keys {
		require.Equal(t, 1, n, key)
	}
	require.Zero(t, c.Stats().InboxBytes, "no push more")
}
