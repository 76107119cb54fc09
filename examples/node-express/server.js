// An Express server as PM2's users write it. Nothing in it knows of baton.

const express = require('express')

const PORT = process.env.PORT || 3000
const app = express()

app.use((request, response, next) => {
  response.set('X-Generation', process.env.BATON_GENERATION)
  next()
})

app.get('/', (request, response) => response.send('hello from express\n'))

app.get('/slow', (request, response) => {
  setTimeout(() => response.send('hello, late, from express\n'), 300)
})

const server = app.listen(PORT, () => process.send('ready'))

process.on('message', (message) => {
  if (message === 'shutdown') {
    server.close(() => process.exit(0))
  }
})
