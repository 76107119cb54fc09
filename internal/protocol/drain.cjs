'use strict';
// Given to node by baton, before the program itself. When a server is closed it ends
// its connections politely: the next response on each says "Connection: close", and
// a connection that is silent is left open until it speaks, or for five seconds.
// Without this, node resets connections that are kept alive, at a moment when their
// clients may be writing, and never tells those that are busy to go away.
//
// It also tells baton whether the program listens for messages from its parent.

const LAST_RESORT_MS = 5000;

// The program's own children are not baton's workers.
{
  const rest = (process.env.NODE_OPTIONS || '').replace(/^--require=("(?:[^"\\]|\\.)*"|\S*)\s*/, (option) =>
    /drain\.cjs"?\s*$/.test(option) ? '' : option);
  if (rest) process.env.NODE_OPTIONS = rest;
  else delete process.env.NODE_OPTIONS;
}

// Held, so that it is not collected with its subscription.
const starts = require('diagnostics_channel').channel('http.server.request.start');

const connections = new WeakMap(); // server -> Set of sockets
const draining = new WeakSet(); // servers
let watching = false;

const busy = (socket) => socket._httpMessage && !socket._httpMessage.writableFinished;

// Whoever took the socket over (WebSocket, CONNECT) has no parser on it any more.
const foreign = (socket) => !socket.parser;

const named = (name) => String(name).toLowerCase() === 'connection';

// As writeHead takes them, with "Connection: close" for whatever they say about it.
function closing(headers) {
  if (!Array.isArray(headers)) {
    return { ...Object.fromEntries(Object.entries(headers).filter(([name]) => !named(name))), Connection: 'close' };
  }
  if (Array.isArray(headers[0])) return [...headers.filter(([name]) => !named(name)), ['Connection', 'close']];
  return [...headers.filter((_, i) => !named(headers[i - (i % 2)])), 'Connection', 'close'];
}

// A program may set the header by itself (a proxy that passes on what it got), so it
// is put right where node writes it.
function lastResponse(response) {
  if (response.headersSent) return;
  response.shouldKeepAlive = false;
  const { writeHead } = response;
  response.writeHead = function (status, ...rest) {
    const i = rest.length - 1;
    if (this.headersSent) return writeHead.call(this, status, ...rest);
    if (rest[i] && typeof rest[i] === 'object') rest[i] = closing(rest[i]);
    else this.setHeader('Connection', 'close');
    return writeHead.call(this, status, ...rest);
  };
}

function remember(server, event) {
  if (connections.has(server)) return;
  const open = new Set();
  connections.set(server, open);
  server.prependListener(event, (socket) => {
    open.add(socket);
    socket.once('close', () => open.delete(socket));
  });
}

function drain(server) {
  draining.add(server);
  if (!watching) {
    watching = true;
    starts.subscribe(({ server, response }) => {
      if (draining.has(server)) lastResponse(response);
    });
  }
  const read = new Map();
  for (const socket of connections.get(server) || []) {
    if (busy(socket)) lastResponse(socket._httpMessage);
    read.set(socket, socket.bytesRead);
  }
  const timer = setInterval(() => {
    let left = 0;
    for (const socket of connections.get(server) || []) {
      if (foreign(socket)) continue;
      left++;
      if (busy(socket)) continue;
      // Silent since the last look: not in the middle of a request.
      if (read.get(socket) === socket.bytesRead) socket.destroy();
      else read.set(socket, socket.bytesRead);
    }
    if (left === 0 || !draining.has(server)) clearInterval(timer);
  }, LAST_RESORT_MS);
  timer.unref();
}

function polite(Server, event) {
  const { close } = Server.prototype;
  const parent = Object.getPrototypeOf(Server.prototype); // of net.Server, tls.Server
  Server.prototype.listen = function (...args) {
    draining.delete(this);
    remember(this, event);
    return parent.listen.apply(this, args);
  };
  Server.prototype.close = function (...args) {
    if (!this.listening) return close.apply(this, args);
    if (!draining.has(this)) drain(this);
    // close() calls this for connections that are silent; for the program it stays.
    Object.defineProperty(this, 'closeIdleConnections', { value() {}, configurable: true, writable: true });
    try {
      return close.apply(this, args);
    } finally {
      delete this.closeIdleConnections;
    }
  };
}

polite(require('http').Server, 'connection');
try {
  polite(require('https').Server, 'secureConnection');
} catch {
  // A node without TLS has no https.
}

if (process.send && require('worker_threads').isMainThread) {
  const { send } = process;
  const say = (message) => {
    if (process.connected) send.call(process, { cmd: 'NODE_BATON', ...message }, undefined, undefined, () => {});
  };
  const own = process.listenerCount('message'); // cluster's
  process.on('internalMessage', (message) => {
    if (message.cmd !== 'NODE_BATON' || message.act !== 'listeners') return;
    const { worker } = require('cluster');
    say({
      act: 'listeners',
      listeners: Math.max(0, process.listenerCount('message') - own) + (worker ? worker.listenerCount('message') : 0),
    });
  });
  say({ act: 'here' });
}
