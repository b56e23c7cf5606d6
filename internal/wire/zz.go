package wire

func (c *Conn) CanTryWrite() bool { s, ok := c.conn.(*socket); return ok && s.try != nil }
