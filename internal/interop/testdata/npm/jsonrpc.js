// It answers in any order: what it is asked, and how often it was told to add something.
const [directory, port] = process.argv.slice(2);
const load = require('module').createRequire(directory + '/');
const rpc = load('vscode-jsonrpc/node');
const added = new Map();

const later = (result) => new Promise((resolve) => {
  if (Math.random() < 0.5) setImmediate(resolve, result);
  else resolve(result);
});

require('net').createServer((socket) => {
  socket.setNoDelay();
  socket.on('error', () => {}); // it has ended
  const connection = rpc.createMessageConnection(new rpc.SocketMessageReader(socket), new rpc.SocketMessageWriter(socket));
  connection.onError(() => {});
  connection.onRequest('ask', ({ text }) => later(text));
  connection.onRequest('add', ({ n }) => {
    added.set(n, (added.get(n) || 0) + 1);
    return later(n);
  });
  connection.onRequest('count', ({ n }) => added.get(n) || 0);
  connection.listen();
}).listen(port, '127.0.0.1');
