package tcpclient

import "bufio"

// A Framer marks where a message begins and ends in a stream. It is stateless: one
// value serves any number of connections.
type Framer interface {
	// ReadFrame reads one frame from r and appends its message to dst.
	// io.EOF: the stream ended between frames; io.ErrUnexpectedEOF: inside one.
	ReadFrame(r *bufio.Reader, dst []byte) ([]byte, error)

	// WriteFrame writes msg to w as one frame and does not flush. If it refuses msg
	// it has written nothing. It does not keep msg. It runs under the Client's write
	// lock and must not call the Client.
	WriteFrame(w *bufio.Writer, msg []byte) error
}
