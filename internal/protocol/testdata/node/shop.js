// A server with everything that makes a drain hard: a handler for "shutdown" if asked,
// headers set by itself, requests held until another releases them, an upgrade, and timers that never end.
const http = require(process.env.MODULE || 'http');
const options = process.env.CERT ? { cert: require('fs').readFileSync(process.env.CERT), key: require('fs').readFileSync(process.env.KEY) } : {};
const held = [];
const server = http.createServer(options, (request, response) => {
  const { searchParams, pathname } = new URL(request.url, 'http://x');
  if (pathname === '/hold') return held.push(response);
  if (pathname === '/release') held.forEach((one) => one.end('ok'));
  setTimeout(() => {
    switch (pathname) {
      case '/object': return response.writeHead(200, { connection: 'keep-alive' }).end('ok');
      case '/reason': return response.writeHead(200, 'Fine', { Connection: 'keep-alive', 'Content-Length': 2 }).end('ok');
      case '/array': return response.writeHead(200, ['Connection', 'keep-alive', 'Content-Length', '2']).end('ok');
      case '/set': response.setHeader('Connection', 'keep-alive');
    }
    response.end('ok');
  }, Number(searchParams.get('wait') || 0));
});
server.on('upgrade', (request, socket) => {
  socket.write('HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n');
  socket.pipe(socket);
});
server.listen(Number(process.env.PORT), () => process.send('ready'));
setInterval(() => {}, 1000);
process.on('exit', () => console.log('exits'));
const { worker } = require('cluster');
if (worker) worker.on('disconnect', () => console.log('disconnects'));
if (process.env.ON === 'shutdown') {
  process.on('message', (message) => {
    if (message !== 'shutdown') return;
    console.log('shutdown');
    server.close(() => process.exit(0));
  });
}
if (process.env.ON === 'other') process.on('message', (message) => console.log('message', message));
