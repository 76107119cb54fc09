// What the bench runs under PM2 and under baton alike: an Express server as PM2's
// users write it. Nothing in it knows of baton, but for the name of a header by
// which the load tells one process from another.

const express = require('express')

const app = express()

app.use((request, response, next) => {
  response.set('X-Baton-Pid', process.pid)
  next()
})

app.get('/', (request, response) => response.send('hello, world\n'))

app.get('/slow', (request, response) => {
  setTimeout(() => response.send('hello, world\n'), 300)
})

const server = app.listen(process.env.PORT, () => process.send('ready'))

process.on('message', (message) => {
  if (message === 'shutdown') shutdown()
})

function shutdown() {
  server.close(() => process.exit(0))
}

module.exports = shutdown
