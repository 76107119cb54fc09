// The same server with the handler for SIGINT that PM2's documentation asks for.

const shutdown = require('./server.js')

process.on('SIGINT', shutdown)
