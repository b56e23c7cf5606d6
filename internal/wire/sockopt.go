package wire

import (
	"net"
	"reflect"
)

// maxLayers is how many connections deep a socket is looked for: a NetConn method may return
// its own connection.
const maxLayers = 16

// Socket returns the TCP socket below conn, nil if none is found. It looks through wrappers
// that have a method NetConn, as a *tls.Conn has, and through structs that embed a connection in
// an exported field, as most do.
func Socket(conn net.Conn) *net.TCPConn {
	socket, _ := lowest(conn).(*net.TCPConn) // maybe nil
	return socket
}

// lowest returns the socket below conn, or the last connection that can be seen there.
func lowest(conn net.Conn) net.Conn {
	for range maxLayers {
		switch conn.(type) {
		case *net.TCPConn, *net.UnixConn:
			return conn
		}
		inner := wrapped(conn)
		if inner == nil {
			return conn
		}
		conn = inner
	}
	return conn
}

// wrapped returns the connection that conn is a wrapper of, nil if it is none that can be seen
// through.
func wrapped(conn net.Conn) net.Conn {
	if layer, ok := conn.(interface{ NetConn() net.Conn }); ok {
		return layer.NetConn()
	}
	v := reflect.ValueOf(conn)
	if v.Kind() == reflect.Pointer {
		v = v.Elem()
	}
	if v.Kind() != reflect.Struct {
		return nil
	}
	for i := range v.NumField() {
		if f := v.Type().Field(i); !f.Anonymous || !f.IsExported() {
			continue
		}
		if inner, ok := v.Field(i).Interface().(net.Conn); ok {
			return inner
		}
	}
	return nil
}

// below returns the connection that conn, if it is a layer with a method NetConn, is on top of,
// else conn itself.
func below(conn net.Conn) net.Conn {
	if layer, ok := conn.(interface{ NetConn() net.Conn }); ok {
		if lower := layer.NetConn(); lower != nil {
			return lower
		}
	}
	return conn
}
