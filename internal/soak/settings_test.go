package soak

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"time"

	"github.com/seed-d0aa0aa7/tcpclient"
	"github.com/seed-d0aa0aa7/tcpclient/internal/testkit"
)

// The ways in which a case makes calls.
const (
	soakPushes  = "pushes" // none: the server pushes
	soakInOrder = "in order"
	soakIDs     = "ids"
)

// draw chooses the settings.
func (s *soakCase) draw() {
	r := s.random(0)
	s.model = &soakModel{s: s, rounds: soakRounds{s: s}, lastOf: map[[2]int]int{}}
	s.transport = []string{"tcp", "tls", "unix"}[r.IntN(3)]
	s.mode = []string{soakPushes, soakInOrder, soakIDs}[r.IntN(3)]
	if r.IntN(4) == 0 {
		s.mode = []string{soakInOrder, soakIDs}[r.IntN(2)]
		s.perAddress = 1 + r.IntN(3)
	}
	s.name = fmt.Sprintf("%d %s %s", s.number, s.transport, s.mode)
	chosen := func(name string) bool {
		yes := r.IntN(2) == 0
		if yes {
			s.name += " " + name
		}
		return yes
	}
	d := &s.dialer
	d.Timeout, d.WriteTimeout, d.FrameTimeout = 2*soakTimeout, soakTimeout, soakTimeout
	d.Framer = []tcpclient.Framer{tcpclient.LengthPrefix{}, tcpclient.Varint{}, testkit.FuncFramer{}}[r.IntN(3)]
	d.Trace = &tcpclient.Trace{
		Connecting:   func(address string, _ int) { s.model.rounds.connecting(address) },
		Connected:    func(string, int, time.Duration) { s.model.connected() },
		Disconnected: s.model.disconnected,
		LateReply:    s.model.late,
		Waiting:      func(_ int, delay time.Duration) { s.model.rounds.waiting(delay) },
	}
	if s.mode == soakIDs {
		d.Correlator, s.prefix = tcpclient.IDPrefix{}, 8
		if s.choosesIDs = chosen("ids of ours"); s.choosesIDs {
			d.Correlator = soakChooser{s: s}
		}
	}
	s.drawReplies(chosen)
	s.drawReturn(r, chosen)
	if chosen("heartbeat") {
		d.Heartbeat = tcpclient.Heartbeat{
			Interval: soakTimeout / 3,
			Timeout:  soakTimeout,
			Ping:     func() []byte { return []byte("ping") },
			IsPong:   func(msg []byte) bool { return string(msg) == "pong" },
			Answer:   func(msg []byte) ([]byte, bool) { return []byte("pong"), string(msg) == "ping" },
		}
	}
	if s.handshake = chosen("handshake"); s.handshake {
		s.delivers = s.pushes() && chosen("deliver")
		d.Handshake = func(ctx context.Context, conn *tcpclient.Conn) error {
			if err := conn.Send(ctx, []byte("hello")); err != nil {
				return err
			}
			msg, err := conn.Receive(ctx)
			if err == nil && s.delivers && string(msg) != "welcome" { // Receive wants it before all other pushes
				conn.Deliver(msg)
				s.totals.delivered.Add(1)
				msg, err = conn.Receive(ctx)
			}
			if err == nil && string(msg) != "welcome" {
				s.fail("the handshake got %.20q", msg)
			}
			return err
		}
	}
	if chosen("small buffers") {
		d.ReadBuffer, d.WriteBuffer, d.Inbox = 1<<10, 1<<10, 4<<10
	}
	s.drawDial(chosen("small socket buffers"), chosen("tunnel"))
	if chosen("flush delay") {
		d.FlushDelay = time.Millisecond
	}
}

// A soakChooser is IDPrefix with the ids of every other call chosen here, far above the library's.
type soakChooser struct {
	tcpclient.IDPrefix
	s *soakCase
}

func (k soakChooser) RequestID(request []byte) (id uint64, ok bool) {
	p, err := unpack(0, request)
	if err != nil || p.number%2 == 0 {
		return 0, false
	}
	k.s.totals.chosen.Add(1)
	return uint64(p.from+1)<<32 | uint64(p.number), true
}

// drawReplies chooses how many replies a call may have, and whether others may come between.
func (s *soakCase) drawReplies(chosen func(name string) bool) {
	if s.mode == soakPushes {
		return
	}
	if chosen("more") {
		s.dialer.More = func(reply []byte) bool { return len(reply) > 0 && reply[0] == parcelMore }
	}
	if chosen("pushes between") {
		s.dialer.IsPush = func(msg []byte) bool { return len(msg) > s.prefix && msg[s.prefix] == parcelPush }
	}
}

// pushes reports whether the server sends what is no reply.
func (s *soakCase) pushes() bool { return s.mode != soakInOrder || s.dialer.IsPush != nil }

// drawReturn chooses what ends a connection early, and what comes after it.
func (s *soakCase) drawReturn(r *rand.Rand, chosen func(name string) bool) {
	d := &s.dialer
	if s.mode != soakPushes && chosen("reply timeout") {
		d.ReplyTimeout = soakTimeout
	}
	if s.mode != soakPushes && chosen("few in flight") {
		d.MaxInFlight = 1 + r.IntN(8)
	}
	s.switches = chosen("disconnect")
	if s.pooled() {
		s.drawPool(r)
		return
	}
	if chosen("reconnect") {
		d.Reconnect = &tcpclient.Backoff{Min: time.Millisecond, Max: []time.Duration{20, 400}[r.IntN(2)] * time.Millisecond, FirstDial: r.IntN(2) == 0}
		d.Reconnect.OnDemand = chosen("on demand")
		d.Reconnect.FailFast = chosen("fail fast")
	}
	s.addresses = make([]string, 1)
	if chosen("two addresses") {
		s.addresses = make([]string, 2)
	}
}

// drawDial chooses what connections are made of.
func (s *soakCase) drawDial(small, foreign bool) {
	if !small && !foreign && len(s.addresses) == 1 {
		return // NetDialer
	}
	random := s.random(3)
	s.dialer.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
		s.model.rounds.dialing()
		conn, err := new(net.Dialer).DialContext(ctx, network, address)
		if err != nil {
			return nil, err
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		s.dialed = append(s.dialed, conn)
		if small { // writes have to wait
			conn.(interface{ SetWriteBuffer(int) error }).SetWriteBuffer(4 << 10)
		}
		if foreign {
			return newTunnel(s, conn, random), nil
		}
		return conn, nil
	}
	s.tunnel = foreign
}
