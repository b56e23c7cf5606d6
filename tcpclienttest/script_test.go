package tcpclienttest_test

import (
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/seed-d0aa0aa7/tcpclient"
	"github.com/seed-d0aa0aa7/tcpclient/internal/testkit"
	"github.com/seed-d0aa0aa7/tcpclient/tcpclienttest"
	"github.com/stretchr/testify/require"
)

func TestScript(t *testing.T) {
	login := []tcpclienttest.Step{
		{Reply: []string{"welcome"}},
		{Expect: "login", Reply: []string{"who?", "you?"}},
		{Expect: "me"},
		{Expect: "bye", Reply: []string{"bye"}},
	}
	for _, test := range []struct {
		name  string
		steps []tcpclienttest.Step
		sends []string
		finds string // "": nothing
	}{
		{"finds nothing when the client does as expected", login, []string{"login", "me", "bye"}, ""},
		{"finds another message", login, []string{"login", "you"}, `client:1: step 3 of 4: received "you", expected "me"`},
		{"finds a client that closes too soon", login, []string{"login"}, `client:1: step 3 of 4: the client has closed, expected "me"`},
		{"finds a message too many", login, []string{"login", "me", "bye", "bye"}, `client:1: after the last step: received "bye", expected no more`},
		{"quotes the beginning of a long message", login, []string{strings.Repeat("x", 1000)},
			`client:1: step 2 of 4: received "` + strings.Repeat("x", 100) + `"... (1000 bytes), expected "login"`},
		{"without steps expects nothing", nil, nil, ""},
		{"without steps finds any message", nil, []string{"hello"}, `client:1: after the last step: received "hello", expected no more`},
	} {
		t.Run(test.name, func(t *testing.T) {
			inBubble(t, tcpclienttest.Script(test.steps...), func(t *testing.T, network *tcpclienttest.Network, server *tcpclienttest.Server) {
				c := connect(t, network)
				require.NoError(t, c.send(test.sends...))
				require.NoError(t, c.Conn.(interface{ CloseWrite() error }).CloseWrite())
				var replies []string
				for {
					msg, err := c.receive()
					if err != nil {
						require.Equal(t, io.EOF, err, "Script closes the connection")
						break
					}
					replies = append(replies, msg)
				}
				if test.finds == "" {
					require.NoError(t, server.Close())
					if len(test.steps) > 0 {
						require.Equal(t, []string{"welcome", "who?", "you?", "bye"}, replies)
					}
					return
				}
				err := server.Close()
				require.EqualError(t, err, "tcpclienttest: server server:1: "+test.finds)
				require.Equal(t, err, server.Close())
			})
		})
	}
}

func TestScriptFindsAMissingMessageWhenTheServerCloses(t *testing.T) {
	inBubble(t, tcpclienttest.Script(tcpclienttest.Step{Expect: "hello"}), func(t *testing.T, network *tcpclienttest.Network, server *tcpclienttest.Server) {
		connect(t, network)
		synctest.Wait()
		require.EqualError(t, server.Close(), `tcpclienttest: server server:1: client:1: step 1 of 1: tcpclienttest: the server is closing: use of closed network connection, expected "hello"`)
	})
}

func TestScriptDoesNotFindWhatTheServerHasCut(t *testing.T) {
	steps := []tcpclienttest.Step{{Expect: "hello"}, {Expect: "never"}}
	inBubble(t, tcpclienttest.Script(steps...), func(t *testing.T, network *tcpclienttest.Network, server *tcpclienttest.Server) {
		c := connect(t, network)
		require.NoError(t, c.send("hello"))
		synctest.Wait()
		require.Equal(t, 1, server.CloseConnections())
		_, err := c.receive()
		require.Equal(t, io.EOF, err)
		require.NoError(t, server.Close())
	})
	steps[0].Then = func(conn *tcpclienttest.Conn) { conn.Reset() }
	inBubble(t, tcpclienttest.Script(steps...), func(t *testing.T, network *tcpclienttest.Network, server *tcpclienttest.Server) {
		c := connect(t, network)
		require.NoError(t, c.send("hello"))
		_, err := c.receive()
		require.Error(t, err)
		require.NoError(t, server.Close())
	})
}

func TestScriptThenServesTheConnectionAfterTheLastStep(t *testing.T) {
	step := tcpclienttest.Step{Expect: "login", Reply: []string{"welcome"}, Then: tcpclienttest.Echo}
	inBubble(t, tcpclienttest.Script(step), func(t *testing.T, network *tcpclienttest.Network, server *tcpclienttest.Server) {
		c := connect(t, network)
		require.NoError(t, c.send("login"))
		msg, err := c.receive()
		require.NoError(t, err)
		require.Equal(t, "welcome", msg)
		requireEcho(t, c)
		require.NoError(t, c.Close())
		require.NoError(t, server.Close())
	})
}

func TestScriptTellsOfTenFindings(t *testing.T) {
	inBubble(t, tcpclienttest.Script(), func(t *testing.T, network *tcpclienttest.Network, server *tcpclienttest.Server) {
		for range 13 {
			require.NoError(t, connect(t, network).send("hello"))
			synctest.Wait()
		}
		err := server.Close()
		for i := range 10 {
			require.ErrorContains(t, err, fmt.Sprintf("client:%d: after the last step", i+1))
		}
		require.NotContains(t, err.Error(), "client:11")
		require.ErrorContains(t, err, "; and 3 more")
	})
}

func TestRefuse(t *testing.T) {
	inBubble(t, tcpclienttest.Refuse(2, tcpclienttest.Echo), func(t *testing.T, network *tcpclienttest.Network, server *tcpclienttest.Server) {
		for range 2 {
			_, err := connect(t, network).receive()
			require.ErrorContains(t, err, "connection reset")
		}
		requireEcho(t, connect(t, network))
		require.NoError(t, server.Close())
	})
	inBubble(t, tcpclienttest.Refuse(0, tcpclienttest.Echo), func(t *testing.T, network *tcpclienttest.Network, server *tcpclienttest.Server) {
		requireEcho(t, connect(t, network))
		require.NoError(t, server.Close())
	})
}

func TestRefuseWithAClientThatReconnects(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := tcpclienttest.NewNetwork()
		l, err := network.Listen("server:1")
		require.NoError(t, err)
		step := tcpclienttest.Step{Expect: "login", Reply: []string{"welcome"}, Then: tcpclienttest.Echo}
		server := tcpclienttest.NewServerOn(l, nil, tcpclienttest.Refuse(3, tcpclienttest.Script(step)))
		failed := 0
		dialer := tcpclient.Dialer{
			DialContext: network.DialContext,
			Reconnect:   &tcpclient.Backoff{FirstDial: true},
			Handshake:   testkit.Login,
			Trace:       &tcpclient.Trace{ConnectFailed: func(string, int, error) { failed++ }},
		}
		began := time.Now()
		c, err := dialer.Dial(t.Context(), "tcp", server.Addr)
		require.NoError(t, err)
		require.Less(t, time.Since(began), time.Second)
		reply, err := c.Call(t.Context(), []byte("hello"))
		require.NoError(t, err)
		require.Equal(t, "hello", string(reply))
		require.NoError(t, c.Close())
		require.Equal(t, 3, failed)
		require.NoError(t, server.Close())
	})
}
