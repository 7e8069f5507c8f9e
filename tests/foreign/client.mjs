// A full-mode client on Node's `ws`: syncs, sends one message, and prints what it gets as JSON lines until it has seen enough.
//
// Usage: node client.mjs URL CHAT CONTENT UNTIL   (`ws` is found from the folder in CONFAB_FOREIGN_NODE)
// Ends with 0 when a message with the content UNTIL has come and its own send is acked.
import { createRequire } from 'node:module';

const require = createRequire(process.env.CONFAB_FOREIGN_NODE + '/package.json');
const { WebSocket } = require('ws');

const [url, chat, content, until] = process.argv.slice(2);
const ws = new WebSocket(url, ['confab.v1.json']);
const left = new Set(['ack', 'until']);
const bound = setTimeout(() => fail('waited 30 s in vain for ' + [...left]), 30_000);

function fail(why) {
  console.error(why);
  process.exit(1);
}

ws.on('open', () => {
  ws.send(JSON.stringify({ type: 'sync', chats: { [chat]: 0 } }));
  ws.send(JSON.stringify({ type: 'message', chat_id: Number(chat), content, media_url: null, client_id: 'from-node' }));
});
ws.on('message', (data) => {
  console.log(data.toString());
  const frame = JSON.parse(data.toString());
  if (frame.type === 'ack' && frame.client_id === 'from-node') left.delete('ack');
  if (frame.type === 'message' && frame.content === until) left.delete('until');
  if (left.size === 0) {
    clearTimeout(bound);
    ws.close(1000);
  }
});
ws.on('error', (error) => fail(String(error)));
ws.on('close', (code) => process.exit(left.size === 0 ? 0 : fail('closed with ' + code)));
