package cookbook

import (
	"context"
	"crypto/tls"
	"encoding/hex"
	"io"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/seed-d0aa0aa7/tcpclient"
	"github.com/seed-d0aa0aa7/tcpclient/internal/testkit"
	"github.com/seed-d0aa0aa7/tcpclient/tcpclienttest"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestMain(m *testing.M) { testkit.Main(m, nil) }

// An exchange is what a server expects, byte by byte, and what it then says. Either may be
// empty.
type exchange struct {
	want, say string
	tls       *tls.Config // the server goes over to TLS then
}

// hx returns the bytes that are written in hexadecimal digits.
func hx(digits string) string {
	b, err := hex.DecodeString(strings.ReplaceAll(digits, " ", ""))
	if err != nil {
		panic(err)
	}
	return string(b)
}

// talk has a Client of d talk to a server that has this dialogue, in virtual time. No message may be
// left over.
func talk(t *testing.T, d *tcpclient.Dialer, dialogue []exchange, use func(t *testing.T, ctx context.Context, c *tcpclient.Client)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		var network tcpclienttest.Network
		l, err := network.Listen("example.com:1")
		require.NoError(t, err)
		over := false
		server := tcpclienttest.NewServerOn(l, nil, func(conn *tcpclienttest.Conn) {
			over = play(t, conn.NetConn(), dialogue)
		})
		defer server.Close()
		d.DialContext = network.DialContext
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		c, err := d.Dial(ctx, "tcp", server.Addr)
		require.NoError(t, err)
		defer c.Close()
		use(t, ctx, c)
		synctest.Wait()
		assert.Zero(t, c.Stats().InboxBytes, "messages that were not received")
		require.NoError(t, c.Close())
		require.NoError(t, server.Close())
		require.True(t, over, "the dialogue has gone on to its end")
	})
}

// play is the server's part of a dialogue. It reports whether that has gone on to its end.
func play(t *testing.T, conn net.Conn, dialogue []exchange) bool {
	for i, e := range dialogue {
		got := make([]byte, len(e.want))
		if n, err := io.ReadFull(conn, got); string(got) != e.want {
			t.Errorf("exchange %d: received %q (% x), %v, expected %q (% x)", i+1, got[:n], got[:n], err, e.want, e.want)
			return false
		}
		if _, err := io.WriteString(conn, e.say); err != nil {
			t.Errorf("exchange %d: %v", i+1, err)
			return false
		}
		if e.tls != nil {
			conn = tls.Server(conn, e.tls)
		}
	}
	rest, _ := io.ReadAll(conn)
	return assert.Empty(t, string(rest), "after the end of the dialogue")
}

// idle lets the time for a ping pass.
func idle(d *tcpclient.Dialer) {
	time.Sleep(d.Heartbeat.Interval + time.Second)
}

// next returns the next message that is no reply.
func next(t *testing.T, ctx context.Context, c *tcpclient.Client) string {
	t.Helper()
	msg, err := c.Receive(ctx)
	require.NoError(t, err)
	return string(msg)
}

// call returns the reply to a request.
func call(t *testing.T, ctx context.Context, c *tcpclient.Client, request string) string {
	t.Helper()
	reply, err := c.Call(ctx, []byte(request))
	require.NoError(t, err)
	return string(reply)
}

// Parts that each section has, by the heading above it.
var parts = map[string][]string{
	"Protocols": {"```text\n", "```go\n", "\n**Pings.** ", "\n**Ids.** ", "\n**Traps.** ", "\n**Tested with** "},
	"Recipes":   {"```go\n", "\n**Tested with** "},
}

func TestDocument(t *testing.T) {
	text := testkit.ReadFile(t, "../../COOKBOOK.md")
	blocks := regexp.MustCompile("(?ms)^```go\n(.*?)^```$").FindAllStringSubmatch(text, -1)
	sections := map[string]int{}

	t.Run("each block of Go stands in a tested file", func(t *testing.T) {
		code := testedCode(t)
		for _, block := range blocks {
			first, _, _ := strings.Cut(block[1], "\n")
			assert.True(t, strings.Contains(code, "\n"+dedent(block[1])), "in no tested file: the block that begins %q", first)
		}
	})
	t.Run("types have all their methods", func(t *testing.T) {
		var shown strings.Builder
		for _, block := range blocks {
			shown.WriteString("\n" + dedent(block[1]))
		}
		methods := regexp.MustCompile(`(?m)^func \((?:\w+ )?\*?(\w+)\) \w+\(`).FindAllStringSubmatch(testedCode(t), -1)
		require.NotEmpty(t, methods)
		for _, method := range methods {
			if strings.Contains(shown.String(), "\ntype "+method[1]+" ") {
				assert.True(t, strings.Contains(shown.String(), "\n"+method[0]), "only in the test: %s", method[0])
			}
		}
	})
	t.Run("each block is of at most 30 lines", func(t *testing.T) {
		for _, block := range blocks {
			first, _, _ := strings.Cut(block[1], "\n")
			assert.LessOrEqual(t, strings.Count(block[1], "\n"), 30, "the block that begins %q", first)
		}
	})
	t.Run("each section has its parts", func(t *testing.T) {
		for _, chapter := range strings.Split(text, "\n## ")[1:] {
			heading, rest, _ := strings.Cut(chapter, "\n")
			for _, section := range strings.Split(rest, "\n### ")[1:] {
				name, _, _ := strings.Cut(section, "\n")
				sections[heading]++
				for _, part := range parts[heading] {
					assert.True(t, strings.Contains(section, part), "%s: no %q", name, part)
				}
			}
		}
		require.GreaterOrEqual(t, sections["Protocols"], 30)
		require.GreaterOrEqual(t, sections["Recipes"], 13)
	})
	t.Run("links lead somewhere, and to each section", func(t *testing.T) {
		anchors := map[string]bool{}
		for _, heading := range regexp.MustCompile(`(?m)^#{2,} (.+)$`).FindAllStringSubmatch(text, -1) {
			assert.False(t, anchors[anchor(heading[1])], "two headings %q", heading[1])
			anchors[anchor(heading[1])] = true
		}
		linked := map[string]bool{}
		for _, link := range regexp.MustCompile(`\]\(([^)\s]+)\)`).FindAllStringSubmatch(text, -1) {
			file, fragment, _ := strings.Cut(link[1], "#")
			switch {
			case strings.Contains(file, "://"):
			case file != "":
				assert.True(t, exists("../../"+file), "no file %s", file)
			default:
				linked[fragment] = true
				assert.True(t, anchors[fragment], "no heading for #%s", fragment)
			}
		}
		delete(anchors, "contents")
		for a := range anchors {
			assert.True(t, linked[a], "no link to #%s", a)
		}
	})
}

// testedCode returns the text of all test files of this package, each line without the
// indentation of its function.
func testedCode(t *testing.T) string {
	t.Helper()
	files, err := filepath.Glob("*_test.go")
	require.NoError(t, err)
	var code strings.Builder
	for _, file := range files {
		text := "\n" + testkit.ReadFile(t, file)
		code.WriteString(text + strings.ReplaceAll(text, "\n\t", "\n"))
	}
	return code.String()
}

// dedent removes the indentation that all lines have.
func dedent(block string) string {
	for {
		for line := range strings.Lines(block) {
			if line != "\n" && line[0] != '\t' {
				return block
			}
		}
		block = strings.ReplaceAll("\n"+block, "\n\t", "\n")[1:]
	}
}

// anchor returns the name that GitHub gives a heading.
func anchor(heading string) string {
	kept := strings.Map(func(r rune) rune {
		if r == '-' || r == ' ' || r == '_' || '0' <= r && r <= '9' || 'a' <= r && r <= 'z' {
			return r
		}
		return -1
	}, strings.ToLower(heading))
	return strings.ReplaceAll(kept, " ", "-")
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
