package e2e

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"baton/internal/load"
	"baton/internal/testkit"
)

// rack is an application for Ruby's servers.
const rack = `run lambda { |env| [200, { 'content-type' => 'text/plain', 'content-length' => '5', 'X-Generation' => ENV['BATON_GENERATION'] }, ['hello']] }
`

// Servers that take the number of a descriptor in an argument or a variable are swapped
// as docs/programs.md says that they are configured. Tried with HAProxy 2.6, unicorn 6.0
// and puma 5.6.
func TestServersThatTakeANumberSwap(t *testing.T) {
	testkit.Together(t)
	for _, c := range []struct {
		name    string
		exec    []string
		env     string
		handoff string
		files   map[string]string
	}{
		{"haproxy", []string{"haproxy", "-f", "haproxy.cfg"}, `HTTP_FD = '{{fd "http"}}'`, `drain_signals = ["USR1"]`, map[string]string{"haproxy.cfg": `
defaults
  mode http
  timeout client 60s
  timeout http-request 60s
frontend http
  bind "fd@${HTTP_FD}"
  http-request return status 200 content-type text/plain hdr X-Generation "%[env(BATON_GENERATION)]" string hello
`}},
		{"unicorn", []string{"unicorn", "-l", "ADDRESS"}, `UNICORN_FD = '{{fd "http"}}'`, `drain_signals = ["QUIT"]`, map[string]string{"config.ru": rack}},
		{"puma", []string{"puma", "-b", "tcp://ADDRESS"}, ``, ``, map[string]string{"config.ru": rack}},
		{"puma-by-number", []string{"puma", "-b", "tcp://ADDRESS"}, `PUMA_INHERIT_0 = '{{fd "http"}}:tcp://ADDRESS'`, ``, map[string]string{"config.ru": rack}},
	} {
		t.Run(c.name, func(t *testing.T) {
			program(t, c.exec[0])
			testkit.Leaks(t)
			dir, address := t.TempDir(), fmt.Sprintf("127.0.0.1:%d", testkit.FreePort(t))
			for name, text := range c.files {
				write(t, filepath.Join(dir, name), text)
			}
			path := filepath.Join(dir, "baton.toml")
			rewrite(t, path, c.exec, fmt.Sprintf("directory = %q\nenv = { %s }", dir, c.env), quick, c.handoff, listen("http", "ADDRESS"))
			write(t, path, strings.ReplaceAll(contents(t, path), "ADDRESS", address))
			a := run(t, path)
			fresh := begun(t, load.Options{Targets: []load.Target{a.address("http")}, Clients: 4})
			for range 5 {
				testkit.Wait(t, func() bool { return fresh.Result().ByGeneration[fmt.Sprint(a.last)] > 0 },
					fmt.Sprintf("generation %d to answer", a.last))
				a.swap()
			}
			testkit.Wait(t, func() bool { return fresh.Result().ByGeneration[fmt.Sprint(a.last)] > 0 },
				fmt.Sprintf("generation %d to answer", a.last))
			none(t, c.name, fresh.Stop(), 100)
			a.gone(1)
			a.Stop()
		})
	}
}
