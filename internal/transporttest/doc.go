// Package transporttest has the tests that a Client passes on every kind of connection: those
// of testkit.Transports, which the module's own tests use, and those of connections that are no
// sockets, in module internal/interop.
package transporttest

import (
	"testing"

	"github.com/seed-d0aa0aa7/tcpclient/internal/testkit"
)

// Tests are all of them, by what each is about.
var Tests = map[string]func(t *testing.T, tr testkit.Transport){
	"Dial":                     Dial,
	"Handshake":                Handshake,
	"Receive":                  Receive,
	"ManyReceivers":            ManyReceivers,
	"ReceiveInto":              ReceiveInto,
	"Messages":                 Messages,
	"Write":                    Write,
	"FrameWithoutBytes":        FrameWithoutBytes,
	"LargeMessages":            LargeMessages,
	"LargeMessagesBeforeFIN":   LargeMessagesBeforeFIN,
	"Helper":                   Helper,
	"Context":                  Context,
	"Call":                     Call,
	"CallFate":                 CallFate,
	"CallsAndPushes":           CallsAndPushes,
	"ReplyTimeout":             ReplyTimeout,
	"Session":                  Session,
	"PingsKeepTheirPlace":      PingsKeepTheirPlace,
	"PingsWhilePeerTalks":      PingsWhilePeerTalks,
	"AnswersKeepTheirPlace":    AnswersKeepTheirPlace,
	"AnswersBeforeFIN":         AnswersBeforeFIN,
	"FirstError":               FirstError,
	"FIN":                      FIN,
	"FINInside":                FINInside,
	"PeerHalfClose":            PeerHalfClose,
	"GonePeer":                 GonePeer,
	"StalledPeer":              StalledPeer,
	"Loss":                     Loss,
	"Unsent":                   Unsent,
	"Reconnect":                Reconnect,
	"Disconnect":               Disconnect,
	"Close":                    Close,
	"CloseTwice":               CloseTwice,
	"CloseWhileReceiving":      CloseWhileReceiving,
	"CloseWhileFlushing":       CloseWhileFlushing,
	"DataAfterClose":           DataAfterClose,
	"EndWhileAWriteFrameHangs": EndWhileAWriteFrameHangs,
	"Shutdown":                 Shutdown,
	"HalfClose":                HalfClose,
	"OwnEnd":                   OwnEnd,
}
