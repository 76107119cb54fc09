// A node program as it is written by people who know nothing of baton: it listens on
// PORT, or 3000. SAYS=ready: it says so; KEEP=1: a timer never ends.
const http = require('http')
const port = Number(process.env.PORT || 3000)
const server = http.createServer((request, response) => {
  response.setHeader('X-Generation', process.env.BATON_GENERATION)
  setTimeout(() => response.end('hello'), request.url.startsWith('/slow') ? 200 : 0)
})
server.listen(port, () => {
  console.log('listening on', port, 'instance', process.env.NODE_APP_INSTANCE, 'of', process.env.npm_lifecycle_event || 'nobody')
  if (process.env.SAYS === 'ready') process.send('ready')
})
if (process.env.KEEP) setInterval(() => {}, 1000)
