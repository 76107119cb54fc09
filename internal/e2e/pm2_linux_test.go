package e2e

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"baton/internal/load"
	"baton/internal/testkit"
)

// A server as PM2's users write it, with its ecosystem file: what baton makes of that runs
// it, in a crew and by its profile, and a reload loses nothing.
func TestAnEcosystemIsTakenOver(t *testing.T) {
	program(t, "node")
	testkit.Leaks(t)
	dir := t.TempDir()
	port, other := testkit.FreePort(t), testkit.FreePort(t)
	write(t, filepath.Join(dir, "server.js"), `
const http = require('http')
const server = http.createServer((request, response) => {
  setTimeout(() => {
    response.setHeader('X-Generation', process.env.BATON_GENERATION)
    response.end('hello from ' + process.env.NODE_ENV + '\n')
  }, 20)
})
server.listen(process.env.PORT || 3000, () => process.send && process.send('ready'))
process.on('SIGINT', () => server.close(() => process.exit(0)))
`)
	write(t, filepath.Join(dir, "ecosystem.config.js"), fmt.Sprintf(`
module.exports = {
  apps: [{
    name: 'shop',
    script: './server.js',
    instances: 2,
    exec_mode: 'cluster',
    wait_ready: true,
    kill_timeout: 8000,
    env: { NODE_ENV: 'development', PORT: %d },
    env_production: { NODE_ENV: 'production', PORT: %d },
  }],
}
`, port, other))
	importer := testkit.NewBaton(t, "import", "pm2", filepath.Join(dir, "ecosystem.config.js"))
	importer.Start()
	if code := importer.Wait(); code != 0 {
		t.Fatalf("exit code %d", code)
	}
	path := filepath.Join(dir, "shop.toml")
	for _, c := range []struct {
		args []string
		port int
		says string
	}{
		{nil, port, "hello from development"},
		{[]string{"--env", "production"}, other, "hello from production"},
	} {
		a := run(t, path, append(c.args, "--drain-delay", "100ms")...)
		to := a.address("http")
		if !strings.HasSuffix(to.Address, fmt.Sprintf(":%d", c.port)) {
			t.Errorf("it listens on %s, want port %d", to.Address, c.port)
		}
		if got := page(t, to.Address); got != c.says+"\n" {
			t.Errorf("%v: %q", c.args, got)
		}
		fresh := begun(t, load.Options{Targets: []load.Target{to}, Clients: 4})
		kept := begun(t, load.Options{Targets: []load.Target{to}, Clients: 2, Kind: load.KeepAlive})
		for range 3 {
			if code, out, errs := a.baton("reload", "shop"); code != 0 {
				t.Errorf("exit code %d, %s%s", code, out, errs)
			}
			a.serving(a.last + 1)
		}
		a.gone(1)
		none(t, "fresh", fresh.Stop(), 20)
		none(t, "keep-alive", kept.Stop(), 20)
		a.Stop()
	}
	if _, err := os.Stat(path); err != nil {
		t.Error(err)
	}
}

// page is what a server on this machine answers.
func page(t *testing.T, address string) string {
	t.Helper()
	r, err := http.Get("http://" + address + "/")
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close() // read whole
	text, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	http.DefaultClient.CloseIdleConnections()
	return string(text)
}
