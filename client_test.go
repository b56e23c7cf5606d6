package tcpclient_test

import (
	"testing"

	"github.com/seed-d0aa0aa7/tcpclient/internal/testkit"
	"github.com/seed-d0aa0aa7/tcpclient/internal/transporttest"
)

func TestDial(t *testing.T) {
	testkit.EachTransport(t, transporttest.Dial)
}

func TestReceive(t *testing.T) {
	testkit.EachTransport(t, transporttest.Receive)
}

func TestReceiveInto(t *testing.T) {
	testkit.EachTransport(t, transporttest.ReceiveInto)
}

func TestMessages(t *testing.T) {
	testkit.EachTransport(t, transporttest.Messages)
}

func TestWrite(t *testing.T) {
	testkit.EachTransport(t, transporttest.Write)
}
