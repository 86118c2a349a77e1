// The `ws` library of Node.js as a peer: `peer.mjs server CERT KEY` or `peer.mjs client URL CA`.
//
// A server prints the addresses of ws:// and wss://, a client one line a case. The cases are those of peer.py and of
// tests/examples/interop.rs. The library is looked for where the variable WS says.

import assert from 'node:assert/strict';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import http from 'node:http';
import https from 'node:https';
import { createRequire } from 'node:module';

const { WebSocket, WebSocketServer } = createRequire(process.env.WS + '/')('ws');
const MEBIBYTE = Buffer.from(Array.from({ length: 1024 * 1024 }, (_, n) => n % 251));

function serveOne(socket, path) {
  socket.on('error', () => {});
  socket.on('message', (data, isBinary) => {
    if (path === '/close') socket.close(4001, 'server');
    else socket.send(data, { binary: isBinary });
  });
  if (path === '/ping') {
    socket.on('pong', (data) => data.toString() === 'are you there' && socket.send('pong'));
    socket.ping('are you there');
  } else if (path === '/fragments') {
    fragments(socket);
  } else if (path === '/subprotocol') {
    socket.send(socket.protocol);
  }
}

function fragments(socket) {
  socket.send('frag', { fin: false });
  socket.send('men', { fin: false });
  socket.send('ted', { fin: true });
}

async function server(cert, key) {
  const handleProtocols = (offered) => (offered.has('v2') ? 'v2' : false);
  const sockets = new WebSocketServer({ noServer: true, handleProtocols, maxPayload: 2 ** 22 });
  const listeners = [http.createServer(), https.createServer({ cert: readFileSync(cert), key: readFileSync(key) })];
  for (const listener of listeners) {
    listener.on('upgrade', (request, stream, head) => {
      if (request.url === '/refuse') {
        stream.end('HTTP/1.1 401 Unauthorized\r\nConnection: close\r\nContent-Length: 9\r\n\r\nno token\n');
      } else {
        sockets.handleUpgrade(request, stream, head, (socket) => serveOne(socket, request.url));
      }
    });
    listener.listen(0, '127.0.0.1');
    await once(listener, 'listening');
  }
  const [plain, secure] = listeners.map((listener) => listener.address().port);
  console.log(`ws://127.0.0.1:${plain} wss://127.0.0.1:${secure}`);
}

async function client(url, ca) {
  const open = async (path, subprotocols = []) => {
    const options = { ca: url.startsWith('wss') ? readFileSync(ca) : undefined, maxPayload: 2 ** 22 };
    const socket = new WebSocket(url + path, subprotocols, options);
    socket.messages = [];
    socket.on('message', (data, isBinary) => socket.messages.push(isBinary ? data : data.toString()));
    await once(socket, 'open');
    return socket;
  };
  const message = async (socket) => {
    while (socket.messages.length === 0) await Promise.race([once(socket, 'message'), gone(socket)]);
    return socket.messages.shift();
  };
  const gone = async (socket) => {
    const [code] = await once(socket, 'close');
    throw new Error(`closed with ${code}`);
  };
  const end = async (socket) => {
    socket.close(1000);
    const [code] = await once(socket, 'close');
    assert.equal(code, 1000);
  };
  const echo = async (expected, send = (socket) => socket.send(expected)) => {
    const socket = await open('/echo');
    send(socket);
    assert.deepEqual(await message(socket), expected);
    await end(socket);
  };
  const cases = {
    text: () => echo('grüße'),
    binary: () => echo(Buffer.from(Array.from({ length: 256 }, (_, n) => n))),
    '1 MiB': () => echo(MEBIBYTE),
    fragmented: () => echo('fragmented', fragments),
    'ping to server': async () => {
      const socket = await open('/echo');
      socket.ping('hello?');
      const [payload] = await once(socket, 'pong');
      assert.equal(payload.toString(), 'hello?');
      await end(socket);
    },
    'ping from server': async () => {
      const socket = await open('/ping');
      assert.equal(await message(socket), 'pong');
      await end(socket);
    },
    'close by client': async () => {
      const socket = await open('/echo');
      socket.close(4000, 'client');
      const [code] = await once(socket, 'close');
      assert.equal(code, 4000);
    },
    'close by server': async () => {
      const socket = await open('/close');
      socket.send('now');
      const [code, reason] = await once(socket, 'close');
      assert.deepEqual([code, reason.toString()], [4001, 'server']);
    },
    subprotocol: async () => {
      const socket = await open('/subprotocol', ['v1', 'v2']);
      assert.deepEqual([socket.protocol, await message(socket)], ['v2', 'v2']);
      await end(socket);
    },
    401: async () => {
      const socket = new WebSocket(url + '/refuse', { ca: url.startsWith('wss') ? readFileSync(ca) : undefined });
      socket.on('error', () => {});
      const [, response] = await once(socket, 'unexpected-response');
      assert.equal(response.statusCode, 401);
    },
  };
  // Whole numbers come first among an object's keys.
  const names = Object.keys(cases).sort((a, b) => (a === '401') - (b === '401'));
  for (const name of names) {
    const late = new Promise((_, reject) => setTimeout(reject, 20_000, new Error('timed out')).unref());
    try {
      await Promise.race([cases[name](), late]);
      console.log(`${name}\tok`);
    } catch (error) {
      console.log(`${name}\t${String(error).split('\n').join(' ')}`);
    }
  }
  process.exit();
}

await { server, client }[process.argv[2]](...process.argv.slice(3));
