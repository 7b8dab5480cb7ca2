// A bare broadcaster and echo on Node's `ws`: as little as a straightforward application would write.
// It checks nothing and bounds nothing; it is the yardstick for what framing, parsing and sending cost on Node.
'use strict';
const { WebSocketServer } = require('ws');

const channels = new Map(); // channel -> Map(socket -> id of its subscription)

const server = new WebSocketServer({ host: '127.0.0.1', port: 0, perMessageDeflate: false });

server.on('connection', (socket) => {
  socket.on('message', (data) => {
    const message = JSON.parse(data);
    switch (message.type) {
      case 'request':
        socket.send(JSON.stringify({ type: 'result', id: message.id, data: message.data }));
        break;
      case 'publish':
        for (const [subscriber, id] of channels.get(message.channel) ?? []) {
          subscriber.send(JSON.stringify({ type: 'event', id, data: message.data }));
        }
        socket.send(JSON.stringify({ type: 'result', id: message.id }));
        break;
      case 'subscribe':
        if (!channels.has(message.channel)) channels.set(message.channel, new Map());
        channels.get(message.channel).set(socket, message.id);
        socket.send(JSON.stringify({ type: 'open', id: message.id }));
        break;
      case 'hello':
        socket.send(JSON.stringify({ type: 'welcome' }));
        break;
    }
  });
  socket.on('close', () => {
    for (const subscribers of channels.values()) subscribers.delete(socket);
  });
});

server.on('listening', () => console.log(`ws://127.0.0.1:${server.address().port}/`));
process.on('SIGTERM', () => process.exit(0));
