package main

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"sync"
	"time"
	"unicode/utf8"
)

// An event is something that has happened on a connection of the proxy, or a message for a client.
type event struct {
	Time time.Time `json:"time"`
	Conn int       `json:"conn,omitempty"` // connections are numbered from 1; 0: the only one
	From side      `json:"from"`
	Kind kind      `json:"kind"`
	data []byte    // of a frame, or raw
	Note string    `json:"note,omitempty"`
}

// A side is one of the two that talk.
type side string

const (
	fromClient side = "client"
	fromServer side = "server"
)

// A kind says what an event is about.
type kind string

const (
	kindFrame kind = "frame" // a message
	kindRaw   kind = "raw"   // bytes that are no message
	kindNote  kind = "note"  // no bytes
)

// A printer prints each event as a line. Its methods may be called concurrently.
type printer struct {
	hex, json bool
	newline   string // see framing

	mu  sync.Mutex // guards following
	out io.Writer
}

// print prints an event. Its data is borrowed.
func (p *printer) print(e event) error {
	e.Time = time.Now()
	line, err := p.line(e)
	if err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	_, err = p.out.Write(append(line, '\n'))
	return err
}

func (p *printer) line(e event) ([]byte, error) {
	switch {
	case p.json:
		return p.object(e)
	case e.Conn > 0:
		return p.traced(e), nil
	case p.hex:
		return hex.AppendEncode(nil, e.data), nil
	}
	return bytes.Clone(bytes.TrimSuffix(e.data, []byte(p.newline))), nil
}

// object returns an event in JSON: the data is text if that can be, and not -hex, and else hex.
func (p *printer) object(e event) ([]byte, error) {
	var o struct {
		event
		Text *string `json:"text,omitempty"`
		Hex  *string `json:"hex,omitempty"`
	}
	o.event = e
	switch {
	case e.Kind == kindNote:
	case p.hex || !utf8.Valid(e.data):
		s := hex.EncodeToString(e.data)
		o.Hex = &s
	default:
		s := string(e.data)
		o.Text = &s
	}
	return json.Marshal(o)
}

// traced returns an event of the proxy.
func (p *printer) traced(e event) []byte {
	arrow := ">"
	if e.From == fromServer {
		arrow = "<"
	}
	line := fmt.Appendf(nil, "%d %s ", e.Conn, arrow)
	switch e.Kind {
	case kindNote:
		return append(line, "-- "+e.Note...)
	case kindRaw:
		line = append(line, "raw "...)
	}
	switch {
	case p.hex:
		return hex.AppendEncode(line, e.data)
	case utf8.Valid(e.data):
		return strconv.AppendQuote(line, string(e.data))
	}
	return strconv.AppendQuoteToASCII(line, string(e.data)) // no accidental letters
}
