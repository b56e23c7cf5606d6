package interop

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"log"
	"sync"
	"testing"

	"github.com/seed-d0aa0aa7/tcpclient"
	"github.com/simonvetter/modbus"
	"github.com/stretchr/testify/require"
)

func industryKinds() []kind { return []kind{modbusKind(), smppKind(), hl7Kind(), erlangKind()} }

// modbusRegisters is a device whose holding registers have their addresses as values. An input register tells
// how often the holding register of that address was written.
type modbusRegisters struct {
	mu     sync.Mutex // guards following
	writes map[uint16]uint16
}

func (r *modbusRegisters) HandleHoldingRegisters(req *modbus.HoldingRegistersRequest) (values []uint16, err error) {
	for i := range req.Quantity {
		if req.IsWrite {
			r.mu.Lock()
			r.writes[req.Addr+i]++
			r.mu.Unlock()
		}
		values = append(values, req.Addr+i)
	}
	return values, nil
}

func (r *modbusRegisters) HandleInputRegisters(req *modbus.InputRegistersRequest) (values []uint16, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i := range req.Quantity {
		values = append(values, r.writes[req.Addr+i])
	}
	return values, nil
}

func (*modbusRegisters) HandleCoils(*modbus.CoilsRequest) ([]bool, error) {
	return nil, modbus.ErrIllegalFunction
}

func (*modbusRegisters) HandleDiscreteInputs(*modbus.DiscreteInputsRequest) ([]bool, error) {
	return nil, modbus.ErrIllegalFunction
}

func serveModbus(address string, _ []string) {
	server, err := modbus.NewServer(&modbus.ServerConfiguration{URL: "tcp://" + address, MaxClients: 100, Logger: log.New(io.Discard, "", 0)},
		&modbusRegisters{writes: make(map[uint16]uint16)})
	if err == nil {
		err = server.Start()
	}
	if err != nil {
		panic(err)
	}
	select {}
}

// modbusKind reads registers from n on, a number of them that depends on n. The server takes one request
// after the other.
func modbusKind() kind {
	const readHolding, readInput, writeOne = 3, 4, 6
	request := func(function byte, address, value int) []byte {
		// Id and length are filled in.
		return []byte{0, 0, 0, 0, 0, 0, 1, function, byte(address >> 8), byte(address), byte(value >> 8), byte(value)}
	}
	return kind{
		name:  "modbus",
		start: func(t *testing.T) *host { return startChild(t, "serve-modbus") },
		dialer: func() tcpclient.Dialer {
			return tcpclient.Dialer{
				Framer:     tcpclient.LengthPrefix{Offset: 4, Width: 2, KeepHeader: true, MaxSize: 260},
				Correlator: tcpclient.IDField{Width: 2}, // from 1 on: 0 is for pings
				Heartbeat:  pinging(string(request(readHolding, 0, 1)), func(msg []byte) bool { return msg[0] == 0 && msg[1] == 0 }),
			}
		},
		ask: func(n int) ([]byte, func([]byte) error) {
			count := 1 + n%97
			return request(readHolding, n, count), func(reply []byte) error {
				if len(reply) != 9+2*count || reply[7] != readHolding {
					return fmt.Errorf("%d registers from %d: % x", count, n, reply)
				}
				for i := range count {
					if got := binary.BigEndian.Uint16(reply[9+2*i:]); int(got) != n+i {
						return fmt.Errorf("register %d has %d", n+i, got)
					}
				}
				return nil
			}
		},
		add: func(n int) []byte { return request(writeOne, n, n) },
		executed: func(t *testing.T, c *tcpclient.Client, n int) int {
			reply := mustCall(t, c, request(readInput, n, 1))
			require.True(t, len(reply) == 11 && reply[7] == readInput, "% x", reply)
			return int(binary.BigEndian.Uint16(reply[9:]))
		},
	}
}

// Commands of SMPP 3.4, section 5.1.2.1. The answer to one has the highest bit, too.
const (
	smppBindTransceiver, smppEnquireLink = 0x09, 0x15
	smppQuery, smppSubmit                = 0x03, 0x04
	smppAnswer                           = 1 << 31
)

// smppPDU makes a PDU with an id that no Call has. Its length is filled in.
func smppPDU(command uint32, body string) []byte {
	pdu := binary.BigEndian.AppendUint32(make([]byte, 4, 16+len(body)), command)
	pdu = append(pdu, 0, 0, 0, 0, 0x7f, 0xff, 0xff, 0xff)
	return append(pdu, body...)
}

// smppSubmitted makes a message whose text begins with its number. A long text is an optional parameter.
func smppSubmitted(n int) (pdu []byte, text string) {
	const before = "\x00" + "\x01\x01" + "123\x00" + "\x01\x01" + "456\x00" + "\x00\x00\x00" + "\x00\x00" + "\x00\x00\x00\x00"
	text = fmt.Sprint(n, " ", padding(n))
	if n%8 != 0 {
		return smppPDU(smppSubmit, before+string([]byte{byte(len(text))})+text), text
	}
	text += fill(n)[:10_000] // the server takes no more than 16 KiB
	return smppPDU(smppSubmit, before+"\x00"+"\x04\x24"+string([]byte{byte(len(text) >> 8), byte(len(text))})+text), text
}

// smppKind has a server that answers a message with its number and its length.
func smppKind() kind {
	command := func(msg []byte) uint32 { return binary.BigEndian.Uint32(msg[4:]) }
	return kind{
		name:  "smpp",
		start: func(t *testing.T) *host { return startNode(t, "smpp.js") },
		dialer: func() tcpclient.Dialer {
			return tcpclient.Dialer{
				Framer:     tcpclient.LengthPrefix{Adjust: -4, KeepHeader: true, MaxSize: 64 << 10},
				Correlator: tcpclient.IDField{Offset: 12, Width: 4, ReplyOffset: 12, Max: 0x7ffffffe},
				IsPush:     func(msg []byte) bool { return command(msg)&smppAnswer == 0 },
				Heartbeat:  pinging(string(smppPDU(smppEnquireLink, "")), func(msg []byte) bool { return command(msg) == smppEnquireLink|smppAnswer }),
				Handshake: func(ctx context.Context, conn *tcpclient.Conn) error {
					if err := conn.Send(ctx, smppPDU(smppBindTransceiver, "test\x00secret\x00\x00\x34\x00\x00\x00")); err != nil {
						return err
					}
					reply, err := conn.Receive(ctx)
					if err == nil && (command(reply) != smppBindTransceiver|smppAnswer || binary.BigEndian.Uint32(reply[8:]) != 0) {
						err = fmt.Errorf("not bound: % x", reply)
					}
					return err
				},
			}
		},
		ask: func(n int) ([]byte, func([]byte) error) {
			request, text := smppSubmitted(n)
			return request, func(reply []byte) error {
				if command(reply) != smppSubmit|smppAnswer {
					return fmt.Errorf("command %x", command(reply))
				}
				return want(fmt.Sprintf("%d:%d\x00", n, len(text)))(reply[16:])
			}
		},
		add: func(n int) []byte {
			request, _ := smppSubmitted(n)
			return request
		},
		executed: func(t *testing.T, c *tcpclient.Client, n int) int {
			reply := mustCall(t, c, smppPDU(smppQuery, fmt.Sprint(n, "\x00\x00\x00\x00")))
			id, rest, _ := bytes.Cut(reply[16:], []byte{0})
			require.Equal(t, fmt.Sprint(n), string(id))
			require.Len(t, rest, 3) // no date, the state, no error
			return int(rest[1])
		},
	}
}

// erlangServer answers each request from a process of its own, so that answers overtake each other. The first
// eight bytes of a request are its id, which the answer repeats.
const erlangServer = `
	{ok, L} = gen_tcp:listen(%s, [binary, {ip, {127,0,0,1}}, {packet, 4}, {active, false}, {nodelay, true}, {reuseaddr, true}, {backlog, 128}]),
	Counts = ets:new(counts, [public]),
	Answer = fun
		(<<"add ", N/binary>>) -> ets:update_counter(Counts, N, 1, {N, 0}), <<"added ", N/binary>>;
		(<<"count ", N/binary>>) -> integer_to_binary(ets:lookup_element(Counts, N, 2));
		(Question) -> Question
	end,
	Counted = fun(R) -> try Answer(R) catch error:badarg -> <<"0">> end end,
	Serve = fun Serve(S) ->
		case gen_tcp:recv(S, 0) of
			{ok, <<Id:8/binary, R/binary>>} -> spawn(fun() -> gen_tcp:send(S, [Id, Counted(R)]) end), Serve(S);
			_ -> gen_tcp:close(S)
		end
	end,
	Accept = fun Accept() ->
		case gen_tcp:accept(L) of
			{ok, S} ->
				P = spawn(fun() -> receive go -> Serve(S) end end),
				gen_tcp:controlling_process(S, P), P ! go;
			_ -> again
		end,
		Accept()
	end,
	Accept().`

func erlangKind() kind {
	const ping = "\x00\x00\x00\x00\x00\x00\x00\x00ping" // with an id that no Call has
	return kind{
		name: "erlang",
		start: func(t *testing.T) *host {
			return startHost(t, "erl", func(port string) []string {
				// Schedulers that wait busily get no processor in time when there are others who want it.
				return []string{"+S", "2", "+sbwt", "none", "+sbwtdcpu", "none", "+sbwtdio", "none",
					"-noshell", "-noinput", "-eval", fmt.Sprintf(erlangServer, port)}
			})
		},
		dialer: func() tcpclient.Dialer {
			return tcpclient.Dialer{
				Framer:     tcpclient.LengthPrefix{}, // {packet, 4}
				Correlator: tcpclient.IDPrefix{},
				Heartbeat:  pinging(ping, func(msg []byte) bool { return string(msg) == ping }),
			}
		},
		ask: func(n int) ([]byte, func([]byte) error) {
			question := fmt.Sprint("question ", n, fill(n))
			return []byte(question), want(question)
		},
		add: func(n int) []byte { return fmt.Append(nil, "add ", n) },
		executed: func(t *testing.T, c *tcpclient.Client, n int) int {
			return atoi(t, mustCall(t, c, fmt.Append(nil, "count ", n)))
		},
	}
}
