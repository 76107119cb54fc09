package protocol

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// listenAll listens on what its arguments say, as JSON, one after the other, and
// answers each connection with the argument's number.
const listenAll = `
const { createServer } = require('net');
const wanted = process.argv.slice(2).map((a) => JSON.parse(a));
(function next(i) {
  if (i === wanted.length) return process.send('ready');
  const server = createServer((socket) => socket.end(String(i)));
  server.on('error', (error) => { console.log(i, error.code); next(i + 1); });
  server.listen(wanted[i], () => {
    console.log(i, 'listens');
    if (wanted[i].thenClose) return server.close(() => next(i + 1));
    next(i + 1);
  });
})(0);
`

// dial reads what the server on the other end says until it ends the connection.
func dial(t *testing.T, network, address string) string {
	t.Helper()
	c, err := net.DialTimeout(network, address, 10*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(time.Minute)) // a fresh connection takes one
	data := make([]byte, 16)
	n, _ := c.Read(data) // nothing is an answer too
	return string(data[:n])
}

func TestEachListenGetsTheListenerItMeans(t *testing.T) {
	node := needsNode(t)
	one := listening(t, "tcp", "127.0.0.1:0")
	two := listening(t, "tcp", fmt.Sprintf("127.0.0.2:%d", one.port(t))) // the same port
	three := listening(t, "tcp6", "[::]:0")
	dir := t.TempDir()
	path := listening(t, "unix", filepath.Join(dir, "app.sock"))
	byNumber := listening(t, "tcp", "127.0.0.1:0")
	s := newStand(t, HubOptions{}, one, two, three, path, byNumber)
	p := s.start(nil, node, script(t, "all.js", listenAll),
		fmt.Sprintf(`{"port":%d,"host":"127.0.0.2"}`, one.port(t)),
		fmt.Sprintf(`{"port":%d,"host":"127.0.0.1"}`, one.port(t)),
		fmt.Sprintf(`{"port":%d}`, three.port(t)),
		fmt.Sprintf(`{"path":%q}`, path.Address),
		`{"fd":7}`,
		`{"fd":8}`,
		fmt.Sprintf(`{"port":%d,"host":"127.0.0.1"}`, one.port(t)),
	).ready()
	for want, at := range []Socket{two, one, three, path, byNumber} {
		network := strings.TrimRight(at.Network, "6")
		if got := dial(t, network, at.Address); got != fmt.Sprint(want) {
			t.Errorf("%s is served by listen() %q, want %d", at.Address, got, want)
		}
	}
	for _, line := range []string{"5 EBADF", "6 EADDRINUSE"} {
		p.says(line)
	}
	if s.log.count("WARN") != 0 {
		t.Errorf("log: %s", s.log)
	}
}

func TestAClosedServerMayListenAgain(t *testing.T) {
	node := needsNode(t)
	web := listening(t, "tcp", "127.0.0.1:0")
	s := newStand(t, HubOptions{}, web)
	again := fmt.Sprintf(`{"port":%d}`, web.port(t))
	s.start(nil, node, script(t, "all.js", listenAll),
		fmt.Sprintf(`{"port":%d,"thenClose":true}`, web.port(t)), again).ready()
	if got := dial(t, "tcp", web.Address); got != "1" {
		t.Errorf("served by listen() %q", got)
	}
}

func TestAnyPortTakesTheListenersInOrder(t *testing.T) {
	node := needsNode(t)
	one, two := listening(t, "tcp", "127.0.0.1:0"), listening(t, "tcp", "127.0.0.1:0")
	opened := newOpener(t)
	s := newStand(t, HubOptions{Listen: opened.listen}, one, two)
	s.settings.NodeAnyPort = true
	s.start(nil, node, script(t, "all.js", listenAll),
		`{"port":3999}`, fmt.Sprintf(`{"port":%d}`, two.port(t)), `{"port":0}`).ready()
	if got := dial(t, "tcp", one.Address) + dial(t, "tcp", two.Address); got != "01" {
		t.Errorf("served by listen() %q", got)
	}
	if got := opened.list(); len(got) != 1 || got[0] != "tcp :0" {
		t.Errorf("opened %q", got)
	}
}

// opener is HubOptions.Listen for tests: it opens on a free port whatever is asked.
type opener struct {
	t        *testing.T
	mu       sync.Mutex
	open     map[string]Socket
	asked    []string
	released []string
	fail     error
}

func newOpener(t *testing.T) *opener { return &opener{t: t, open: map[string]Socket{}} }

func (o *opener) listen(network, address string) (int, func(), error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	key := network + " " + address
	o.asked = append(o.asked, key)
	if o.fail != nil {
		return -1, nil, o.fail
	}
	s, ok := o.open[key]
	if !ok {
		if network == "unix" {
			s = listening(o.t, network, address)
		} else {
			_, port, _ := net.SplitHostPort(address) // the test's own
			s = listening(o.t, network, "127.0.0.1:"+port)
		}
		o.open[key] = s
	}
	return s.FD, sync.OnceFunc(func() {
		o.mu.Lock()
		defer o.mu.Unlock()
		o.released = append(o.released, key)
	}), nil
}

func (o *opener) list() []string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return slices.Clone(o.asked)
}

func (o *opener) given() []string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return slices.Clone(o.released)
}

func TestAnAddressThatIsNoListenerIsSharedAndSaid(t *testing.T) {
	node := needsNode(t)
	web, free := listening(t, "tcp", "127.0.0.1:0"), listening(t, "tcp", "127.0.0.1:0")
	opened := newOpener(t)
	admin := free.port(t)
	unix.Close(free.FD) // its number is free from now on, as good as certainly
	s := newStand(t, HubOptions{Listen: opened.listen}, web)
	all := script(t, "all.js", listenAll)
	ask := fmt.Sprintf(`{"port":%d}`, admin)
	pipe := fmt.Sprintf(`{"path":%q,"thenClose":true}`, filepath.Join(t.TempDir(), "own.pipe"))
	first := s.start(nil, node, all, ask, pipe).ready()
	eventually(t, "the closed pipe to be given back", func() bool { return len(opened.given()) == 1 })
	second := s.start(nil, node, all, ask).ready()
	if got := dial(t, "tcp", fmt.Sprintf("127.0.0.1:%d", admin)); got != "0" {
		t.Errorf("served by listen() %q", got)
	}
	if n := s.log.count("it is not steered"); n != 1 || s.log.count(fmt.Sprintf("listener_to_add=tcp://:%d", admin)) != 1 {
		t.Errorf("said %d times: %s", n, s.log)
	}
	if len(opened.given()) != 1 {
		t.Errorf("given back while the workers live: %q", opened.given())
	}
	first.end()
	second.end()
	key := fmt.Sprintf("tcp :%d", admin)
	if got := opened.given(); len(got) != 3 || got[1] != key || got[2] != key {
		t.Errorf("given back %q", got)
	}
}

func TestAnAddressThatCannotBeOpenedIsTheProgramsError(t *testing.T) {
	node := needsNode(t)
	opened := newOpener(t)
	opened.fail = fmt.Errorf("listen tcp :81: %w", unix.EACCES)
	s := newStand(t, HubOptions{Listen: opened.listen}, listening(t, "tcp", "127.0.0.1:0"))
	p := s.start(nil, node, script(t, "all.js", listenAll), `{"port":81}`).ready()
	p.says("0 EACCES")
	if s.log.count("listen tcp :81: permission denied") != 1 {
		t.Errorf("log: %s", s.log)
	}
	if hint := p.link.Hint(); hint != "node was refused :81: permission denied" {
		t.Errorf("hint %q", hint)
	}
}

func TestDatagramsArriveAtTheProgram(t *testing.T) {
	node := needsNode(t)
	dns := listening(t, "udp4", "127.0.0.1:0")
	s := newStand(t, HubOptions{}, dns)
	s.start([]string{port(dns.port(t))}, node, script(t, "udp.js", `
const socket = require('dgram').createSocket('udp4');
socket.on('message', (text, from) => socket.send('got ' + text, from.port, from.address));
socket.bind(Number(process.env.PORT), () => process.send('ready'));
`)).ready()
	c, err := net.Dial("udp4", dns.Address)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(time.Minute)) // a fresh socket takes one
	if _, err := c.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	data := make([]byte, 16)
	n, err := c.Read(data)
	if got := string(data[:n]); got != "got x" {
		t.Errorf("%q, %v", got, err)
	}
}

// certificate makes one for localhost, in two files.
func certificate(t *testing.T) (cert, key string) {
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
	return script(t, "cert.pem", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: public}))),
		script(t, "key.pem", string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret})))
}

func TestATLSSessionIsResumedByTheNextGeneration(t *testing.T) {
	node := needsNode(t)
	web := listening(t, "tcp", "127.0.0.1:0")
	s := newStand(t, HubOptions{}, web)
	cert, key := certificate(t)
	server := script(t, "https.js", `
const fs = require('fs');
const options = { cert: fs.readFileSync(process.argv[2]), key: fs.readFileSync(process.argv[3]) };
const server = require(process.argv[4]).createServer(options, (request, response) => response.end('hello'));
server.listen(Number(process.env.PORT), () => process.send('ready'));
`)
	pem, err := os.ReadFile(cert)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	config := &tls.Config{ServerName: "localhost", RootCAs: roots, ClientSessionCache: tls.NewLRUClientSessionCache(4)}
	resumed := func() bool {
		t.Helper()
		c, err := tls.DialWithDialer(&net.Dialer{Timeout: time.Minute}, "tcp", web.Address, config)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		// Reading takes the ticket, which comes after the handshake.
		if _, err := fmt.Fprint(c, "GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Read(make([]byte, 512)); err != nil {
			t.Fatal(err)
		}
		return c.ConnectionState().DidResume
	}
	// One that speaks no TLS comes first, with nothing to share: it must not stand in
	// the way of those that do.
	s.start([]string{port(web.port(t))}, node, server, cert, key, "http").ready().end()
	p := s.start([]string{port(web.port(t))}, node, server, cert, key, "https").ready()
	if resumed() {
		t.Fatal("a first session is resumed")
	}
	p.end()
	s.start([]string{port(web.port(t))}, node, server, cert, key, "https").ready()
	if !resumed() {
		t.Error("the next generation does not know the ticket")
	}
}
