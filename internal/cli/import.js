// Given to node by baton import: loads the file named first, as PM2 does, and writes what
// it exports as JSON into the file named second.
const fs = require('fs')
const path = require('path')
const vm = require('vm')
const { pathToFileURL } = require('url')

const [file, into] = process.argv.slice(-2)

// What the file itself prints and leaves open is its own affair.
const load = async () => {
  if (path.extname(file) === '.json') {
    return vm.runInThisContext('(' + fs.readFileSync(file, 'utf8') + ')', { filename: file })
  }
  const module = await import(pathToFileURL(file).href)
  return module.default ?? module
}

const where = (error) => {
  const stack = String(error && error.stack)
  const escaped = file.replace(/[.*+?^${}()|[\]\\]/g, '\\$&')
  const at = stack.match(new RegExp(escaped + ':(\\d+)'))
  return at ? ' (line ' + at[1] + ')' : ''
}

load().then((exported) => {
  if (typeof exported === 'function') {
    throw new TypeError('it exports a function, and PM2 takes an object')
  }
  fs.writeFileSync(into, JSON.stringify(exported) ?? 'null')
  process.exit(0)
}).catch((error) => {
  const words = error instanceof Error ? error.name + ': ' + error.message : 'it threw ' + String(error)
  console.error('\n' + words.split('\n')[0] + where(error))
  process.exit(1)
})
