package wire_test

import (
	"crypto/tls"
	"net"
	"runtime"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/seed-d0aa0aa7/tcpclient/internal/wire"
	"github.com/seed-d0aa0aa7/tcpclient/tcpclienttest"
)

// An embedding is a wrapper as users write it.
type embedding struct {
	name string
	net.Conn
}

// A lean embeds the type that it wraps.
type lean struct{ *net.TCPConn }

// A closedBox keeps what it wraps to itself.
type closedBox struct{ inner net.Conn }

func (c closedBox) NetConn() net.Conn { return c.inner }

// A hidden has no way in.
type hidden struct {
	bare
	inner net.Conn
}

// A circle is its own inside.
type circle struct{ bare }

func (c *circle) NetConn() net.Conn { return c }

type layered struct {
	bare
	closedBox
}

func TestSocket(t *testing.T) {
	near, _ := onTCP(t)
	memory, _ := inMemory(t, 10)
	box := layered{closedBox: closedBox{near}}
	for name, test := range map[string]struct {
		conn net.Conn
		want *net.TCPConn
	}{
		"a socket is itself":                        {near, near},
		"it is found below an embedded interface":   {embedding{"x", near}, near},
		"also by a pointer":                         {&embedding{"x", near}, near},
		"and below an embedded socket":              {lean{near}, near},
		"it is found by NetConn":                    {box, near},
		"it is found below TLS":                     {tls.Client(embedding{"x", near}, &tls.Config{}), near},
		"it is found below several wrappers":        {&embedding{"x", lean{near}}, near},
		"a field that is not embedded is no way in": {hidden{inner: near}, nil},
		"an embedded nil is no socket":              {&embedding{}, nil},
		"a nil pointer is none":                     {(*embedding)(nil), nil},
		"memory is none":                            {memory, nil},
		"a circle is left":                          {&circle{}, nil},
	} {
		t.Run(name, func(t *testing.T) { // D3
			require.Same(t, test.want, wire.Socket(test.conn))
		})
	}
}

func TestWriteDeadlinesHold(t *testing.T) {
	near, _ := onTCP(t)
	memory, _ := inMemory(t, 10)
	sockets := runtime.GOOS != "windows"
	for name, test := range map[string]struct {
		conn net.Conn
		want bool
	}{
		"of a TCP socket":                        {near, sockets},
		"of a TCP socket below a wrapper":        {embedding{"x", near}, sockets},
		"of a Unix socket":                       {new(net.UnixConn), sockets},
		"of a Unix socket below a wrapper":       {embedding{"x", new(net.UnixConn)}, sockets},
		"of a Unix socket below several":         {&embedding{"x", embedding{"y", new(net.UnixConn)}}, sockets},
		"of a connection that is not a socket's": {memory, true},
	} {
		t.Run(name, func(t *testing.T) { // P1, D2
			require.Equal(t, test.want, wire.WriteDeadlinesHold(test.conn))
		})
	}
}

// An opted is a wrapper whose author knows its deadlines.
type opted struct {
	net.Conn
	real bool
}

func (o opted) RealDeadlines() bool { return o.real }

func TestHasRealDeadlines(t *testing.T) {
	near, _ := onTCP(t)
	memory, _ := inMemory(t, 10)
	unix := new(net.UnixConn)
	pipe, _ := net.Pipe()
	for name, test := range map[string]struct {
		conn net.Conn
		want bool
	}{
		"a TCP socket":                   {near, true},
		"a Unix socket":                  {unix, true},
		"memory":                         {memory, true},
		"faults on memory":               {tcpclienttest.Faults{}.Wrap(memory), true},
		"faults on a socket":             {tcpclienttest.Faults{}.Wrap(near), runtime.GOOS != "windows"},
		"faults on a foreign connection": {tcpclienttest.Faults{}.Wrap(pipe), false},
		"a net.Pipe":                     {pipe, false},
		"TLS":                            {tls.Client(near, &tls.Config{}), false},
		"a wrapper":                      {embedding{"x", near}, false},
		"a wrapper of a socket's type":   {lean{near}, false},
		"a wrapper that says so":         {opted{pipe, true}, true},
		"a wrapper that says no":         {opted{near, false}, false},
	} {
		t.Run(name, func(t *testing.T) { // P1, D1
			require.Equal(t, test.want, wire.HasRealDeadlines(test.conn))
		})
	}
}
