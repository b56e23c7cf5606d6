package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"strings"
)

const floorName = "floor"

// A contender is one way to exchange messages with a server.
type contender struct {
	name   string // of the library, and behind a blank which of its ways
	module string // whose version is reported; "": the standard library or this one
	wire   string // the kind of server that it needs
	does   string // the workloads it takes part in: the first words of their names
	less   string // what it does not promise, for the tables
	heavy  bool   // an idle client takes so much that fewer are measured
	aside  bool   // in the tables of all results only
	sends  bool   // with sendmsg, which is not among the write calls that the system counts
	dial   func(env *environment) (client, error)
}

// family is the name of the library.
func (c contender) family() string {
	name, _, _ := strings.Cut(c.name, " ")
	return name
}

// always is the context of every call: it can be cancelled, and is not. All clients share it, as in most
// programs, so that it is no memory of an idle one.
var always, _ = context.WithCancel(context.Background())

// A client does the work. All messages of a phase have one size. Only one goroutine calls
// it at once, except for Send and Call, and except that In and Out may run together.
type client interface {
	// Send hands one message to the network before it returns. It is the library's own where
	// that has such a method, since after a switch of goroutines each frame between costs.
	Send(ctx context.Context, msg []byte) error
	// Receive waits for one message, which is valid until the next call.
	Receive() ([]byte, error)
	// In receives n messages in the fastest way there is and returns their bytes.
	In(n int) (bytes int, err error)
	// Out writes n messages in the fastest way there is, flushing at the end.
	Out(msg []byte, n int) error
	Close() error
}

// A caller can have many requests in flight. Any number of goroutines use it.
type caller interface {
	Call(request []byte) (reply []byte, err error)
}

// A batcher does in one goroutine, without locks, what k goroutines ask for at once: the
// floor under concurrent use.
type batcher interface {
	SendBatch(msg []byte, k int) error
	CallBatch(msg []byte, k int) error
}

// A controller has its own way to tell the server what comes next.
type controller interface {
	Begin(o order) error
	Acknowledged() error
}

// An order is the first message of a phase: what the server does with the following.
type order struct {
	op    byte
	size  int
	count int
}

const (
	opEcho   = 'e' // returns count messages
	opWork   = 'w' // returns count messages, and works on each
	opSource = 's' // sends count messages of that size
	opSink   = 'd' // takes count messages of that size, then sends one
)

func (o order) encode() []byte {
	b := []byte{o.op}
	b = binary.BigEndian.AppendUint32(b, uint32(o.size))
	return binary.BigEndian.AppendUint64(b, uint64(o.count))
}

func decodeOrder(b []byte) (order, error) {
	if len(b) != 13 {
		return order{}, fmt.Errorf("an order of %d bytes", len(b))
	}
	return order{b[0], int(binary.BigEndian.Uint32(b[1:])), int(binary.BigEndian.Uint64(b[5:]))}, nil
}

// begin tells the server what comes next.
func begin(c client, o order) error {
	if c, ok := c.(controller); ok {
		return c.Begin(o)
	}
	return c.Send(always, o.encode())
}

// acknowledged waits until the server has taken all of an opSink.
func acknowledged(c client) error {
	if c, ok := c.(controller); ok {
		return c.Acknowledged()
	}
	_, err := c.Receive()
	return err
}

// An environment is what a contender dials in.
type environment struct {
	addr      string
	calls     bool // the client is there for Call
	heartbeat bool // with a heartbeat, where there is one
}

// conn dials the server.
func (e *environment) conn() (net.Conn, error) { return net.Dial("tcp", e.addr) }

// errUnfit is the answer of a contender that cannot do a workload.
var errUnfit = errors.New("not in this contender's repertoire")

var contenders = []contender{
	floorContender, floorAgain,
	naiveContender, handmadeContender,
	oursContender, oursInto, oursReceive, oursHeartbeat,
	oursSession, oursReplies, oursPool,
	msgioContender,
	netpollContender,
	yamuxContender,
	websocketContender,
	natsContender,
	netrpcContender,
	rueidisContender, rueidisDelayed,
}
