// Package pool has several [tcpclient.Client]s, to one server or more, take the Calls of a program
// together. Each request goes to the less loaded of two of them.
//
//	dialer := tcpclient.Dialer{Correlator: tcpclient.IDPrefix{}}
//	servers, err := pool.Dial(ctx, &dialer, "tcp", 2, "10.0.0.1:9000", "10.0.0.2:9000") // 2 + 2 connections
//	if err != nil {
//		return err
//	}
//	defer servers.Close()
//	reply, err := servers.Call(ctx, request)
//
// # One Client or a Pool
//
// One Client takes requests of any number of goroutines, in common system calls, and mostly one is
// enough. A Pool is for several servers that do the same work; for servers that answer in order and
// take their time, where on one connection each reply waits for the one before it; and for large
// messages, of which one holds up all that follow on its connection.
//
// # What is tried again
//
// Call never sends a request to a second server if the first may have seen it. Only if a request
// is certain not to have been sent ([tcpclient.OpError].Unsent) it goes out on another connection.
//
// # Connections that are lost
//
// Each Client reconnects by itself, as the Dialer's Reconnect has it. Meanwhile the others take the
// Calls. If there is none, Call waits for one, and [Pool.Pick] returns [ErrNoConnection]. A server
// that is lost, or that could not be reached by Dial, has its share again when it is back.
//
// # Messages that are no replies
//
// Each Client has an Inbox of its own. If the servers send messages that are no replies, receive
// them from each of [Pool.Clients], or an Inbox fills, and Calls on its Client end with
// [tcpclient.ErrInboxFull].
package pool
