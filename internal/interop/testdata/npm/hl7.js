// It accepts each message.
const [directory, port] = process.argv.slice(2);
const load = require('module').createRequire(directory + '/');
const net = require('net');
const { Server } = load('node-hl7-server');

// The package listens on all addresses, whatever bindAddress says.
const { listen } = net.Server.prototype;
net.Server.prototype.listen = function (options, ...rest) {
  return listen.call(this, { ...options, host: '127.0.0.1' }, ...rest);
};
new Server().createInbound({ port: Number(port) }, (req, res) => res.sendResponse('AA'));
