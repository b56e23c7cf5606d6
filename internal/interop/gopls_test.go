package interop

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/seed-d0aa0aa7/tcpclient"
	"github.com/stretchr/testify/require"
)

const (
	goplsModule = "golang.org/x/tools/gopls@v0.20.0"

	// goplsConstants are in the only file of the server's workspace, one a line.
	goplsConstants = 500
)

// installGopls builds gopls in the user's cache, once, and returns its path.
func installGopls(t *testing.T) string {
	t.Helper()
	dir := cached(t, strings.ReplaceAll(filepath.Base(goplsModule), "@", "-"), func(dir string) *exec.Cmd {
		install := exec.Command("go", "install", goplsModule)
		install.Env = append(os.Environ(), "GOBIN="+dir, "GOFLAGS=")
		return install
	})
	return filepath.Join(dir, "gopls")
}

// startGopls runs gopls with a workspace, whose URI it returns too, and with nothing of the user's.
func startGopls(t *testing.T) (h *host, workspace string) {
	t.Helper()
	gopls := installGopls(t)
	dir := t.TempDir()
	var constants bytes.Buffer
	fmt.Fprint(&constants, "package questions\n\n")
	for n := range goplsConstants {
		fmt.Fprintf(&constants, "const C%d = %[1]d // %s\n", n, padding(n))
	}
	for name, content := range map[string]string{
		"workspace/go.mod":         "module questions.test\n\ngo 1.24\n",
		"workspace/questions.go":   constants.String(),
		"config/go/telemetry/mode": "off",
	} {
		name = filepath.Join(dir, name)
		require.NoError(t, os.MkdirAll(filepath.Dir(name), 0o755))
		require.NoError(t, os.WriteFile(name, []byte(content), 0o644))
	}
	t.Setenv("GOPLSCACHE", filepath.Join(dir, "cache"))
	t.Setenv("XDG_CONFIG_HOME", filepath.Join(dir, "config"))
	return startChild(t, "serve-program", gopls, "serve"), "file://" + filepath.Join(dir, "workspace")
}

// serveProgram runs a program for each connection, which is its standard input and output, as inetd(8) does.
// A gopls that listens itself may panic when one of its sessions begins while another ends
// (AddService reads the list of clients without its lock).
func serveProgram(address string, commandLine []string) {
	listener, err := net.Listen("tcp", address)
	if err != nil {
		panic(err)
	}
	for {
		conn, err := listener.Accept()
		if err != nil {
			panic(err)
		}
		socket, err := conn.(*net.TCPConn).File()
		if err != nil {
			panic(err)
		}
		program := exec.Command(commandLine[0], commandLine[1:]...)
		program.Stdin, program.Stdout, program.Stderr = socket, socket, os.Stderr
		if err := program.Start(); err != nil {
			panic(err)
		}
		go program.Wait()
		socket.Close()
		conn.Close()
	}
}

// receiveUntil receives up to the message that is the last, and delivers what comes before.
func receiveUntil(ctx context.Context, conn *tcpclient.Conn, isLast func(msg []byte) bool, deliver func(msg []byte)) error {
	for {
		msg, err := conn.Receive(ctx)
		if err != nil || isLast(msg) {
			return err
		}
		deliver(msg)
	}
}

// goplsInitialized ends the handshake of language servers.
const goplsInitialized = `{"jsonrpc":"2.0","method":"initialized","params":{}}`

// goplsSession is a Dialer with that handshake, but for its last message.
func goplsSession(ids tcpclient.Correlator, workspace, capabilities string) tcpclient.Dialer {
	isAnswer := func(msg []byte) bool {
		id, _, ok := jsonrpcIDs{}.SplitReply(msg)
		return ok && id == 0 // which no Call has
	}
	return tcpclient.Dialer{
		Framer:     tcpclient.ContentLength{},
		Correlator: ids,
		Handshake: func(ctx context.Context, conn *tcpclient.Conn) error {
			initialize := fmt.Appendf(nil, `{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"processId":null,"rootUri":%q,"capabilities":%s}}`, workspace, capabilities)
			if err := conn.Send(ctx, initialize); err != nil {
				return err
			}
			return receiveUntil(ctx, conn, isAnswer, conn.Deliver)
		},
	}
}

// goplsHover asks for the constant C<n>, and checks the answer.
func goplsHover(workspace string, n int) (request []byte, check func(reply []byte) error) {
	n %= goplsConstants
	request = fmt.Appendf(nil, `{"method":"textDocument/hover","params":{"textDocument":{"uri":"%s/questions.go"},"position":{"line":%d,"character":6}}}`, workspace, 2+n)
	return request, func(reply []byte) error {
		var answer struct {
			Result struct{ Contents struct{ Value string } }
		}
		if err := json.Unmarshal(reply, &answer); err != nil {
			return err
		}
		if want := fmt.Sprintf("const C%d untyped int = %[1]d\n", n); !strings.Contains(answer.Result.Contents.Value, want) {
			return fmt.Errorf("want %q", want)
		}
		return nil
	}
}

// goplsKind asks gopls for constants and, more often, for methods that it does not know: it repeats their names.
// The ping is such a method, too.
func goplsKind() kind {
	var workspace string
	k := kind{name: "gopls", saysMore: true} // it logs what takes long
	k.start = func(t *testing.T) (h *host) {
		h, workspace = startGopls(t)
		return h
	}
	k.dialer = func() tcpclient.Dialer {
		d := goplsSession(jsonrpcIDs{}, workspace, "{}")
		d.Heartbeat = jsonrpcKind().dialer().Heartbeat
		initialize := d.Handshake
		d.Handshake = func(ctx context.Context, conn *tcpclient.Conn) error {
			if err := initialize(ctx, conn); err != nil {
				return err
			}
			if err := conn.Send(ctx, []byte(goplsInitialized)); err != nil {
				return err
			}
			// In this state a connection that ends cuts no message in two: gopls writes header and content apart.
			left := []string{"Created View", "go/packages.Load", "Finished loading packages."}
			isReady := func(msg []byte) bool {
				left = slices.DeleteFunc(left, func(text string) bool { return bytes.Contains(msg, []byte(text)) })
				return len(left) == 0
			}
			return receiveUntil(ctx, conn, isReady, func([]byte) {})
		}
		return d
	}
	k.ask = func(n int) ([]byte, func([]byte) error) {
		if n%16 == 0 {
			return goplsHover(workspace, n)
		}
		method := fmt.Sprint("question/", n, padding(n))
		return fmt.Appendf(nil, `{"method":%q,"params":{}}`, method), func(reply []byte) error {
			var answer struct{ Error struct{ Message string } }
			if err := json.Unmarshal(reply, &answer); err != nil {
				return err
			}
			return want(fmt.Sprintf("JSON RPC method not found: %q", method))([]byte(answer.Error.Message))
		}
	}
	return k
}

// jsonrpcChosenIDs leave the ids to the application, which can name them in $/cancelRequest.
type jsonrpcChosenIDs struct{ jsonrpcIDs }

func (jsonrpcChosenIDs) RequestID(request []byte) (id uint64, ok bool) {
	var head struct{ ID uint64 }
	err := json.Unmarshal(request, &head)
	return head.ID, err == nil
}

func (jsonrpcChosenIDs) AppendRequest(dst []byte, _ uint64, request []byte) ([]byte, error) {
	return append(dst, request...), nil
}

// withID is a request with an id that the application has chosen.
func withID(id int, request []byte) []byte {
	return append(fmt.Appendf(nil, `{"jsonrpc":"2.0","id":%d,`, id), request[1:]...)
}

// jsonrpcError returns the code of the error in a reply, 0 if there is none.
func jsonrpcError(reply []byte) (code int) {
	var answer struct{ Error struct{ Code int } }
	_ = json.Unmarshal(reply, &answer)
	return answer.Error.Code
}

// receiveMethod receives until the server calls a method, of which it returns the id and the parameters.
func receiveMethod(t *testing.T, c *tcpclient.Client, method string) (id int, params []byte) {
	t.Helper()
	for ctx := bounded(t); ; {
		msg, err := c.Receive(ctx)
		require.NoError(t, err, method)
		var call struct {
			ID     int
			Method string
			Params json.RawMessage
		}
		require.NoError(t, json.Unmarshal(msg, &call))
		if call.Method == method {
			return call.ID, call.Params
		}
	}
}

// gopls answers nothing until we have answered a question of its own, whose id one of our Calls has, too. Meanwhile
// one Call is cancelled, and another is given up and then cancelled. What it finds in a document it says unasked.
func TestGopls(t *testing.T) { // P2, P3
	const cancelled = -32800
	const givenUp, told, kept = 1, 2, 3 // ids of Calls
	h, workspace := startGopls(t)
	d := goplsSession(jsonrpcChosenIDs{}, workspace, `{"workspace":{"configuration":true}}`)
	late := make(chan []byte, 1)
	d.Trace = &tcpclient.Trace{LateReply: func(msg []byte) { late <- bytes.Clone(msg) }}
	c := dial(t, d, h.address)
	ctx := bounded(t)
	send := func(format string, arguments ...any) {
		require.NoError(t, c.Send(ctx, fmt.Appendf(nil, `{"jsonrpc":"2.0",`+format, arguments...)))
	}
	hover, check := goplsHover(workspace, 17)
	short, giveUp := context.WithCancel(ctx)
	defer giveUp()
	var calls sync.WaitGroup
	replies, errs := make([][]byte, 4), make([]error, 4)
	call := func(ctx context.Context, id int) {
		calls.Go(func() { replies[id], errs[id] = c.Call(ctx, withID(id, hover)) })
	}
	require.NoError(t, c.Write(ctx, []byte(goplsInitialized))) // leaves with the Call
	call(short, givenUp)
	question, _ := receiveMethod(t, c, "workspace/configuration")
	require.Equal(t, givenUp, question, "the server counts its questions from 1 on")
	call(ctx, told)
	call(ctx, kept)
	waitFor(t, func() bool { return c.Stats().MessagesSent == 4 })
	giveUp()
	send(`"method":"$/cancelRequest","params":{"id":%d}}`, givenUp)
	send(`"method":"$/cancelRequest","params":{"id":%d}}`, told)
	require.Equal(t, 3, c.Stats().InFlight, "it waits for our answer")
	send(`"id":%d,"result":[null]}`, question)
	calls.Wait()
	require.ErrorIs(t, errs[givenUp], context.Canceled)
	require.NoError(t, errs[told])
	require.Equal(t, cancelled, jsonrpcError(replies[told]))
	require.NoError(t, errs[kept])
	require.NoError(t, check(replies[kept]))
	reply := <-late
	id, _, _ := jsonrpcIDs{}.SplitReply(reply)
	require.EqualValues(t, givenUp, id)
	require.Equal(t, cancelled, jsonrpcError(reply))
	require.NoError(t, check(mustCall(t, c, withID(givenUp, hover))), "the id is free again")

	send(`"method":"textDocument/didOpen","params":{"textDocument":{"uri":"%s/wrong.go","languageId":"go","version":1,"text":"package questions\n\nvar x int = C\n"}}}`, workspace)
	_, found := receiveMethod(t, c, "textDocument/publishDiagnostics")
	require.Contains(t, string(found), "undefined: C")

	require.Zero(t, jsonrpcError(mustCall(t, c, []byte(`{"jsonrpc":"2.0","id":4,"method":"shutdown"}`))))
	send(`"method":"exit"}`)
	var err error
	for err == nil {
		_, err = c.Receive(ctx)
	}
	// It may have begun something else, whose header and content it writes apart.
	require.True(t, errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF), err)
}
