package e2e

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"baton/internal/load"
	"baton/internal/testkit"
)

// A program with several servers gets a slot for each, and none of them loses anything.
func TestANodeProgramOfSeveralListenersSwaps(t *testing.T) {
	program(t, "node")
	testkit.Leaks(t)
	dir := shortDir(t)
	path := filepath.Join(dir, "s")
	write(t, filepath.Join(dir, "several.cjs"), `
const http = require('http')
const at = [Number(process.env.WEB), Number(process.env.ADMIN), process.env.FILE]
let left = at.length
for (const where of at) {
  http.createServer((request, response) => {
    response.setHeader('X-Generation', process.env.BATON_GENERATION)
    response.end('hello')
  }).listen(where, () => { if (--left === 0) process.send('ready') })
}
`)
	a := run(t, config(t, []string{"node", "several.cjs"},
		fmt.Sprintf("directory = %q\nenv = { WEB = '{{port \"web\"}}', ADMIN = '{{port \"admin\"}}', FILE = %q }", dir, path), quick,
		listen("web", fmt.Sprintf("127.0.0.1:%d", testkit.FreePort(t))), listen("admin", fmt.Sprintf("127.0.0.1:%d", testkit.FreePort(t))),
		listen("file", "unix://"+path)))
	var runs []*load.Runner
	names := []string{"web", "admin", "file"}
	for _, name := range names {
		runs = append(runs, begun(t, load.Options{Targets: []load.Target{a.address(name)}, Clients: 2}))
	}
	met := func() {
		t.Helper()
		for i, r := range runs {
			testkit.Wait(t, func() bool { return r.Result().ByGeneration[fmt.Sprint(a.last)] > 0 },
				fmt.Sprintf("generation %d to answer on %s", a.last, names[i]))
		}
	}
	for range 10 {
		met()
		a.swap()
	}
	met()
	for i, r := range runs {
		none(t, names[i], r.Stop(), 50)
	}
	a.Stop()
}

// certificate makes one for localhost, as two files of dir.
func certificate(t testing.TB, dir string) *x509.CertPool {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), DNSNames: []string{"localhost"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	public, err := x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	cert := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: public})
	write(t, filepath.Join(dir, "cert.pem"), string(cert))
	write(t, filepath.Join(dir, "key.pem"), string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret})))
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(cert)
	return roots
}

// An https server is swapped without loss; who was there before resumes his session
// with the next generation, on a ticket of the last one; and a probe over TLS lets in
// whoever answers it well, and nobody else.
func TestANodeProgramOverTLSSwaps(t *testing.T) {
	program(t, "node")
	testkit.Leaks(t)
	dir := t.TempDir()
	roots := certificate(t, dir)
	write(t, filepath.Join(dir, "secure.cjs"), `
const fs = require('fs')
const options = { cert: fs.readFileSync('cert.pem'), key: fs.readFileSync('key.pem') }
require('https').createServer(options, (request, response) => {
  response.setHeader('X-Generation', process.env.BATON_GENERATION)
  if (request.url === '/healthz' && process.env.ILL) response.statusCode = 503
  response.end('hello')
}).listen(Number(process.env.PORT))
`)
	web := listen("web", fmt.Sprintf("127.0.0.1:%d", testkit.FreePort(t)))
	path := filepath.Join(dir, "baton.toml")
	configure := func(env string) {
		rewrite(t, path, []string{"node", "secure.cjs"}, fmt.Sprintf("directory = %q\nenv = { PORT = '{{port \"web\"}}'%s }", dir, env), quick,
			web, "[health.ready]\nprobe = \"https\"\npath = \"/healthz\"\ninterval = \"50ms\"\n"+patient)
	}
	configure("")
	a := run(t, path)

	// Each ticket is used once, and the next one taken with the answer.
	cache := tls.NewLRUClientSessionCache(1)
	secure := func(config *tls.Config, resumed *atomic.Int64) load.Dialer {
		return func(ctx context.Context, network, address string) (net.Conn, error) {
			c, err := (&tls.Dialer{Config: config}).DialContext(ctx, network, address)
			if err == nil && c.(*tls.Conn).ConnectionState().DidResume {
				resumed.Add(1)
			}
			return c, err
		}
	}
	var resumed, others atomic.Int64
	to := []load.Target{a.address("web")}
	ask := func() { // once, by whoever serves
		t.Helper()
		r := begun(t, load.Options{Targets: to, Dial: secure(&tls.Config{ServerName: "localhost", RootCAs: roots, ClientSessionCache: cache}, &resumed)})
		testkit.Wait(t, func() bool { return r.Result().Requests > 0 }, "an answer over TLS")
		if got := r.Stop(); got.Lost > 0 || got.ByGeneration[fmt.Sprint(a.last)] != got.Requests {
			t.Errorf("generation %d: %v; by %v", a.last, got, got.ByGeneration)
		} else if want := int64(got.Requests); resumed.Swap(0) != want && a.last > 1 {
			t.Errorf("generation %d did not resume each of %d sessions, the first of them of another", a.last, want)
		}
	}
	ask()
	fresh := begun(t, load.Options{Targets: to, Clients: 3, Dial: secure(&tls.Config{ServerName: "localhost", RootCAs: roots}, &others)})
	for range 5 {
		a.swap()
		ask()
	}
	configure(`, ILL = "1"`)
	from := a.Next()
	a.HUP()
	message, _ := a.WaitEvent(from, "rolledback").Event()["msg"].(string)
	if !strings.Contains(message, "https GET /healthz") || !strings.Contains(message, "503") {
		t.Errorf("the log says %q", message)
	}
	r := fresh.Stop()
	none(t, "over TLS", r, 50)
	if r.ByGeneration["7"] > 0 {
		t.Error("users met the generation whose probe failed")
	}
	a.Stop()
}

// A tcp probe lets in who accepts, and not who only listens, though it says ready.
func TestATCPProbeIsAGate(t *testing.T) {
	testkit.Leaks(t)
	file := t.TempDir() + "/behaviours"
	testkit.Behave(t, file, "ready=notify")
	path := filepath.Join(t.TempDir(), "baton.toml")
	listeners := four(t)
	configure := func(timeout string) {
		rewrite(t, path, testkit.Target("@"+file), append([]string{quick, `ready = "notify"`,
			"[health.ready]\nprobe = \"tcp\"\ninterval = \"50ms\"\n" + timeout}, listeners...)...)
	}
	configure(patient)
	a := run(t, path)
	users := let(t, a)
	a.swap()
	a.swap()
	testkit.Behave(t, file, "ready=notify", "hang")
	configure(`timeout = "1s"`)
	from := a.Next()
	a.HUP()
	message, _ := a.WaitEvent(from, "rolledback").Event()["msg"].(string)
	for _, want := range []string{"probe", "tcp", "generation 3 serves on"} {
		if !strings.Contains(message, want) {
			t.Errorf("the log says %q, without %q", message, want)
		}
	}
	none(t, "strangers", users.stop(t), 100)
	a.Stop()
}

// The preload is there unless it is not wanted.
func TestThePreloadIsLeftOutOnRequest(t *testing.T) {
	testkit.Together(t)
	program(t, "node")
	for more, want := range map[string]string{"": "preloaded: true", "[node]\npreload = true": "preloaded: true", "[node]\npreload = false": "preloaded: false"} {
		t.Run(want+" "+strings.TrimPrefix(more, "[node]\n"), func(t *testing.T) {
			testkit.Leaks(t)
			dir := nodeDir(t, `{}`)
			write(t, filepath.Join(dir, "tell.cjs"), `
console.log('preloaded:', Object.keys(require.cache).some((name) => /drain\.cjs$/.test(name)))
require('./server.cjs')
`)
			a := run(t, config(t, []string{"node", "tell.cjs"}, fmt.Sprintf("directory = %q\nenv = { PORT = '{{port \"web\"}}' }", dir), quick,
				listen("web", fmt.Sprintf("127.0.0.1:%d", testkit.FreePort(t))), more))
			a.WaitLog("^" + want + "$")
			a.swap()
			a.Stop()
		})
	}
}

// What a wrapper will keep from node is said before anybody waits for it.
func TestAWrapperIsNamedAtTheStart(t *testing.T) {
	testkit.Leaks(t)
	nodemon := filepath.Join(t.TempDir(), "nodemon")
	write(t, nodemon, "#!/bin/sh\nexec \"$@\"\n")
	a := run(t, config(t, append([]string{nodemon}, testkit.Target()...), quick, listen("web", "127.0.0.1:0")))
	a.WaitLog(`"level":"WARN".*nodemon starts node as a child`)
	a.Stop()
}
