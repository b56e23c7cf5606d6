// An SMSC. It answers submit_sm with an id that says which message it was and how long, and query_sm
// with how often it has taken that message.
const [directory, port] = process.argv.slice(2);
const load = require('module').createRequire(directory + '/');
const smpp = load('smpp');
const taken = new Map();

const answers = {
  bind_transceiver: (pdu) => pdu.response({ system_id: 'smsc' }),
  enquire_link: (pdu) => pdu.response(),
  submit_sm: (pdu) => {
    const { message } = pdu.message_payload || pdu.short_message;
    const number = message.split(' ', 1)[0];
    taken.set(number, (taken.get(number) || 0) + 1);
    return pdu.response({ message_id: number + ':' + message.length });
  },
  query_sm: (pdu) => pdu.response({ message_id: pdu.message_id, message_state: taken.get(pdu.message_id) || 0 }),
};

smpp.createServer((session) => {
  session.on('error', () => {}); // the connection has ended
  session.on('pdu', (pdu) => {
    if (answers[pdu.command]) session.send(answers[pdu.command](pdu));
  });
}).listen(port, '127.0.0.1');
