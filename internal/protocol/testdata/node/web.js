// A web server as anybody writes it. It answers with what it knows of itself.
const http = require('http');
const server = http.createServer((request, response) => {
  setTimeout(() => {
    response.end(JSON.stringify({
      pid: process.pid,
      instance: process.env.NODE_APP_INSTANCE,
      id: require('cluster').worker.id,
      options: process.env.NODE_OPTIONS,
      url: request.url,
    }));
  }, Number(new URL(request.url, 'http://x').searchParams.get('wait') || 0));
});
server.on('error', (error) => console.log('error', error.code));
server.listen(Number(process.env.PORT), process.env.HOST, () => process.send('ready'));
if (process.env.TIMERS) setInterval(() => {}, 1000); // something that never ends
