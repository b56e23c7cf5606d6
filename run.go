package tcpclient

import (
	"context"
	"errors"
	"io"
	"time"
)

// run is the Client's goroutine: it dials, reads until the connection has ended, and
// tells everybody. dialing is Dial's context.
func (c *Client) run(dialing context.Context) {
	defer close(c.done)
	conn, err := c.dial(dialing)
	if err == nil {
		c.attach(conn)
		err = c.detach(conn, c.read(conn))
	}
	c.finish(err)
}

// dial tries all addresses once, under the contexts of Dial and of the Client.
func (c *Client) dial(dialing context.Context) (*Conn, error) {
	ctx, cancel := context.WithCancel(dialing)
	defer cancel()
	defer context.AfterFunc(c.life, cancel)()

	var errs []error
	for _, address := range c.addresses {
		conn, err := c.settings.connect(ctx, c.network, address)
		if err == nil {
			return conn, nil
		}
		errs = append(errs, err)
		if ctx.Err() != nil {
			break
		}
	}
	if len(errs) == 1 {
		return nil, errs[0]
	}
	return nil, c.opError(opDial, false, errors.Join(errs...))
}

// attach puts conn to use.
func (c *Client) attach(conn *Conn) {
	conn.taken.Store(true)
	conn.beforeRead = c.intake.publish
	conn.out = newOutbox(c.settings, conn, &c.count)
	conn.vigil.start(time.Now())
	c.count.connects.Add(1)

	c.mu.Lock()
	defer c.mu.Unlock()
	conn.out.lost, c.lost = c.lost, nil
	c.last = conn
	c.link.Store(conn)
	c.changedLocked()
	if c.closing {
		conn.wire.kill(ErrClosed) // Close has not seen this one
	}
}

// detach ends conn, which err has made unreadable. It returns, when nobody uses conn any
// more, why it ended.
func (c *Client) detach(conn *Conn, err error) error {
	if c.isClosing() && errors.Is(err, io.EOF) {
		err = ErrClosed // the peer's answer to our FIN
	}
	reason := conn.wire.kill(err)
	conn.out.end()
	conn.wire.drains.Wait()

	c.mu.Lock()
	defer c.mu.Unlock()
	c.link.Store(nil)
	if lost := conn.out.loss(); lost != nil {
		c.lost = lost
	}
	c.changedLocked()
	return reason
}

// finish tells everybody that there will be no other connection.
func (c *Client) finish(err error) {
	c.intake.roll()
	c.mu.Lock()
	if c.err == nil {
		c.err = err
	}
	c.changedLocked()
	c.mu.Unlock()
	c.in.finish(err)
}

// changedLocked wakes all who wait for another state.
func (c *Client) changedLocked() {
	close(c.changed)
	c.changed = make(chan struct{})
}

func (c *Client) isClosing() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.closing
}

// read takes in messages until conn has ended.
func (c *Client) read(conn *Conn) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = panicked(r) // in a user's Framer: the goroutine is ours, so is the fate (DESIGN.md)
		}
	}()
	for {
		msg, err := conn.readFrame(c.intake.storage())
		if err != nil {
			return err
		}
		if err := c.intake.add(msg, conn.wire.dead); err != nil {
			return err
		}
	}
}
