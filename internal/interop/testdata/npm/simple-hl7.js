// It accepts each message, and answers a QRY with how often it has accepted the message of that control id.
const [directory, port] = process.argv.slice(2);
const load = require('module').createRequire(directory + '/');
const net = require('net');
const { Server } = load('simple-hl7');
const accepted = new Map();

// The package listens on all addresses.
const { listen } = net.Server.prototype;
net.Server.prototype.listen = function (port) {
  return listen.call(this, port, '127.0.0.1');
};
Server.createTcpServer((err, req, res) => {
  if (err) return; // the connection has ended
  const id = req.msg.header.getField(8).toString();
  if (req.type === 'QRY') res.ack.getSegment('MSA').addField(String(accepted.get(id) || 0));
  else accepted.set(id, (accepted.get(id) || 0) + 1);
  res.end();
}).start(Number(port));
