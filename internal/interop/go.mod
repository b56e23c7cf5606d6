module github.com/seed-d0aa0aa7/tcpclient/internal/interop

go 1.25.0

replace github.com/seed-d0aa0aa7/tcpclient => ../..

require (
	github.com/coder/websocket v1.8.15
	github.com/emersion/go-smtp v0.25.1
	github.com/hashicorp/yamux v0.1.2
	github.com/seed-d0aa0aa7/tcpclient v0.0.0-00010101000000-000000000000
	github.com/simonvetter/modbus v1.6.4
	github.com/stretchr/testify v1.12.1
	github.com/xtaci/smux v1.5.58
	go.uber.org/goleak v1.3.0
	golang.org/x/net v0.58.0
)

require (
	github.com/emersion/go-sasl v0.0.0-20241020182733-b788ff22d5a6 // indirect
	github.com/goburrow/serial v0.1.0 // indirect
	go.yaml.in/yaml/v3 v3.0.5 // indirect
)
