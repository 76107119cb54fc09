// What PM2's documentation recommends for a reload without loss ("Graceful
// Start/Shutdown", "Cluster Mode"): cluster mode, wait_ready, and both timeouts
// longer than anything here takes.

module.exports = {
  apps: [{
    name: 'bench',
    script: process.env.BENCH_SCRIPT,
    exec_mode: 'cluster',
    instances: Number(process.env.BENCH_INSTANCES),
    wait_ready: true,
    listen_timeout: 10000,
    kill_timeout: 3000,
    shutdown_with_message: true,
    env: { PORT: process.env.BENCH_PORT, NODE_ENV: 'production' }
  }]
}
