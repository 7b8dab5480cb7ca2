/** A Holdfast server: `node server.js [--host 127.0.0.1] [--port 0] [--log]`. */

import { once } from 'node:events';
import { STATUS_CODES, createServer } from 'node:http';
import { parseArgs } from 'node:util';
import { WebSocketServer } from 'ws';
import { Broker } from './broker.js';
import { Connection } from './connection.js';
import { SUBPROTOCOL } from './protocol.js';
import { Sessions } from './sessions.js';
import { CLOSE_MS, DRAIN_MS, LIMITS, authenticate } from './settings.js';

const { values: options } = parseArgs({
  options: {
    host: { type: 'string', default: '127.0.0.1' },
    port: { type: 'string', default: '0' },
    log: { type: 'boolean', default: false },
  },
});

/** @param {string} line */
const log = (line) => {
  if (options.log) process.stderr.write(`${new Date().toISOString()} ${line}\n`);
};

const sessions = new Sessions({ broker: new Broker(), log });
/** @type {Set<Connection>} */
const connections = new Set();
let draining = false;

const http = createServer((_request, response) => {
  response.writeHead(426, { Connection: 'Upgrade', Upgrade: 'websocket' }).end();
});

const wss = new WebSocketServer({
  noServer: true,
  handleProtocols: () => SUBPROTOCOL,
  maxPayload: LIMITS.max_frame,
  maxFragments: 1024,
  maxBufferedChunks: 0,
  autoPong: false, // the connection counts the pongs that wait
  closeTimeout: CLOSE_MS,
});

/** The identity that the cookie `conf_token` carries. @param {import('node:http').IncomingMessage} request */
function ambientIdentity({ headers: { cookie = '' } }) {
  const token = /(?:^|;)\s*conf_token=([^;\s]*)/.exec(cookie)?.[1];
  return token === undefined ? null : authenticate({ token });
}

/** The HTTP status that refuses an upgrade request, if one does. @param {import('node:http').IncomingMessage} request */
function refusal({ headers }) {
  if (draining) return 503;
  const origin = headers.origin?.toLowerCase();
  if (origin !== undefined && origin !== `http://${headers.host}`.toLowerCase()) return 403;
  const offered = headers['sec-websocket-protocol']?.split(',').map((name) => name.trim()) ?? [];
  return offered.includes(SUBPROTOCOL) ? undefined : 400;
}

http.on('upgrade', (request, socket, head) => {
  const status = refusal(request);
  if (status) {
    log(`upgrade refused ${status}`);
    socket.on('error', () => socket.destroy());
    socket.end(`HTTP/1.1 ${status} ${STATUS_CODES[status]}\r\nConnection: close\r\nContent-Length: 0\r\n\r\n`);
    return;
  }
  wss.handleUpgrade(request, socket, head, (ws) => {
    const ambient = ambientIdentity(request);
    const connection = new Connection(ws, /** @type {import('node:net').Socket} */ (socket), { sessions, ambient, log });
    connections.add(connection);
    ws.once('close', () => connections.delete(connection));
  });
});

/** Drains every connection and leaves when the last one has ended. */
async function stop() {
  if (draining) return;
  draining = true;
  for (const connection of connections) connection.drain(DRAIN_MS);
  await Promise.all([...wss.clients].map((ws) => once(ws, 'close')));
  process.exit(0);
}

process.on('SIGTERM', stop);
process.on('SIGINT', stop);

http.listen(Number(options.port), options.host, () => {
  const { address, family, port } = /** @type {import('node:net').AddressInfo} */ (http.address());
  process.stdout.write(`ws://${family === 'IPv6' ? `[${address}]` : address}:${port}/\n`);
});
