package main

import (
	"bytes"
	"context"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"baton/internal/event"
)

//go:embed express/*.js express/*.json
var programs embed.FS

// express is the folder that both sides serve, with what npm installed there.
type express struct {
	dir                string
	node, pm2, express string // versions
}

// installExpress writes the program and lets npm install what the lock file names.
// lacking says why that cannot be done here.
func (b *bench) installExpress(ctx context.Context) (x *express, lacking string, err error) {
	for _, tool := range []string{"node", "npm"} {
		if _, missing := exec.LookPath(tool); missing != nil {
			return nil, tool + " is not installed", nil //nolint:nilerr // a note, not a failure
		}
	}
	if err := os.CopyFS(b.dir, programs); err != nil {
		return nil, "", err
	}
	x = &express{dir: filepath.Join(b.dir, "express")}
	npm := command(ctx, "npm", "ci", "--prefer-offline", "--ignore-scripts", "--no-audit", "--no-fund")
	npm.Dir = x.dir
	if out, err := npm.CombinedOutput(); err != nil {
		return nil, fmt.Sprintf("npm ci: %v: %s", err, lastLines(out, 3)), ctx.Err()
	}
	out, err := command(ctx, "node", "--version").Output()
	if err != nil {
		return nil, "", err
	}
	x.node = strings.TrimSpace(string(out))
	if x.pm2, err = x.version("pm2"); err == nil {
		x.express, err = x.version("express")
	}
	return x, "", err
}

func (x *express) version(name string) (string, error) {
	text, err := os.ReadFile(filepath.Join(x.dir, "node_modules", name, "package.json"))
	if err != nil {
		return "", err
	}
	var manifest struct {
		Version string `json:"version"`
	}
	err = json.Unmarshal(text, &manifest)
	return manifest.Version, err
}

func lastLines(out []byte, n int) string {
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "; ")
}

// pm2Side is the program under a PM2 of its own, with a home of its own.
type pm2Side struct {
	dir, home string
	address   string
	env       []string
	seen      []process // the daemon and its workers, of all reloads
}

func (b *bench) pm2Side(x *express, r rivalry) (side, string, error) {
	address, port, err := freePort()
	if err != nil {
		return nil, "", err
	}
	home, err := os.MkdirTemp(b.dir, "pm2-home-")
	if err != nil {
		return nil, "", err
	}
	env := append(os.Environ(), "PM2_HOME="+home, "PM2_DISABLE_VERSION_CHECK=true", // it would ask a server
		"BENCH_SCRIPT="+r.script, "BENCH_PORT="+port, "BENCH_INSTANCES="+strconv.Itoa(r.instances))
	return &pm2Side{dir: x.dir, home: home, address: address, env: env}, address, nil
}

// run gives PM2 a command, and lets it finish whatever interrupts the bench: a start
// cut short may leave a daemon that nobody knows of.
func (p *pm2Side) run(ctx context.Context, args ...string) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), patience)
	defer cancel()
	cmd := command(ctx, filepath.Join(p.dir, "node_modules", ".bin", "pm2"), args...)
	cmd.Dir, cmd.Env = p.dir, p.env
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // away from the terminal's interrupt
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("pm2 %s: %w\n%s\n%s", strings.Join(args, " "), err, out, p.log())
	}
	return nil
}

// log is the end of what PM2's daemon has written.
func (p *pm2Side) log() string {
	text, err := os.ReadFile(filepath.Join(p.home, "pm2.log"))
	if err != nil {
		return err.Error()
	}
	return lastLines(text, 20)
}

func (p *pm2Side) start(ctx context.Context) error {
	if err := p.run(ctx, "start", "ecosystem.config.js"); err != nil {
		return err
	}
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", p.address)
	if err != nil {
		return fmt.Errorf("%w\n%s", err, p.log())
	}
	return conn.Close()
}

func (p *pm2Side) reload(ctx context.Context) error {
	before, err := p.processes()
	if err != nil {
		return err
	}
	if err := p.run(ctx, "reload", "bench"); err != nil {
		return err
	}
	after, err := p.processes()
	if err != nil {
		return err
	}
	// The command says "done" also when the newcomer died.
	for _, old := range before[1:] {
		if slices.Contains(after, old) {
			return fmt.Errorf("pm2 reload: pid %d is still there\n%s", old.pid, p.log())
		}
	}
	if len(after) != len(before) {
		return fmt.Errorf("pm2 reload: %d workers before, %d after\n%s", len(before)-1, len(after)-1, p.log())
	}
	return nil
}

func (p *pm2Side) command(ctx context.Context) error { return p.run(ctx, "ping") }

func (p *pm2Side) processes() ([]process, error) {
	text, err := os.ReadFile(filepath.Join(p.home, "pm2.pid"))
	if err != nil {
		return nil, err
	}
	daemon, err := strconv.Atoi(string(bytes.TrimSpace(text)))
	if err != nil {
		return nil, fmt.Errorf("pm2.pid: %w", err)
	}
	all, err := tree(daemon)
	for _, one := range all {
		if !slices.Contains(p.seen, one) {
			p.seen = append(p.seen, one)
		}
	}
	return all, err
}

// stop ends the daemon, and with KILL whatever of it is left: that is an error.
func (p *pm2Side) stop(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	_, gone := p.processes() // for seen; a daemon that never came up has no pid file
	if errors.Is(gone, os.ErrNotExist) {
		return nil
	}
	err := p.run(ctx, "kill")
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		left := slices.DeleteFunc(slices.Clone(p.seen), func(one process) bool { return !one.alive() })
		if len(left) == 0 {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			for _, one := range left {
				err = errors.Join(err, fmt.Errorf("pid %d is left of PM2", one.pid), syscall.Kill(one.pid, syscall.SIGKILL))
			}
			return err
		}
	}
}

// batonSide is the program under baton.
type batonSide struct {
	b          *bench
	dir, file  string
	address    string
	l          *launched
	generation int
}

func (b *bench) batonSide(x *express, r rivalry) (side, string, error) {
	address, port, err := freePort()
	if err != nil {
		return nil, "", err
	}
	file := filepath.Join(x.dir, "baton-"+port+".toml")
	return &batonSide{b: b, dir: x.dir, file: file, address: address}, address,
		os.WriteFile(file, fmt.Appendf(nil, batonConfig, r.script, port, port), 0o644)
}

// batonConfig is baton's defaults but for what PM2's wait_ready is: the program
// says when it is ready. PORT is a listener's, on all addresses as the program has it.
const batonConfig = `name = "bench"
[command]
exec = ["node", %q]
env = { PORT = %q, NODE_ENV = "production" }
[[listen]]
address = ":%s"
[handoff]
ready = "notify"
`

func (s *batonSide) start(ctx context.Context) (err error) {
	cmd := command(context.WithoutCancel(ctx), s.b.baton, "run", "--config", s.file, "--log", "json")
	cmd.Dir, cmd.Env = s.dir, append(os.Environ(), "BATON_HOME="+filepath.Join(s.dir, "home"))
	if s.l, err = s.b.launch(ctx, cmd, s.address, ""); err != nil {
		return err
	}
	s.generation = 1
	_, err = s.l.awaitEvent(ctx, event.Serving, s.generation)
	return err
}

func (s *batonSide) reload(ctx context.Context) error {
	began := time.Now()
	if err := s.l.hup(); err != nil {
		return err
	}
	s.generation++
	if _, err := s.l.awaitEvent(ctx, event.Serving, s.generation); err != nil {
		return err
	}
	_, err := s.l.awaitEvent(ctx, event.Gone, s.generation-1)
	if took := time.Since(began); took > long {
		s.b.report.note("pm2: a reload of baton's took %v: %s", took.Round(time.Millisecond), s.l.logged(began))
	}
	return err
}

// long is a reload whose log is worth a look: the program's longest request takes 300 ms.
const long = 5 * time.Second

// logged is what the launcher has logged since, in a line.
func (l *launched) logged(since time.Time) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	var all []string
	for _, e := range l.events {
		if after := e.Time.Sub(since); after >= 0 {
			all = append(all, fmt.Sprintf("+%v %s", after.Round(time.Millisecond), e.Message))
		}
	}
	return strings.Join(all, "; ")
}

// command is nothing: a reload is a signal.
func (s *batonSide) command(context.Context) error { return nil }

func (s *batonSide) processes() ([]process, error) { return tree(s.l.cmd.Process.Pid) }

// stop lets the launcher end what it started, and looks whether it did.
func (s *batonSide) stop(context.Context) error {
	if s.l == nil {
		return nil
	}
	all, err := s.processes()
	if errors.Is(err, os.ErrNotExist) {
		err = nil // it ended by itself, and stopAll says how
	}
	err = errors.Join(err, s.b.stopAll())
	for _, one := range all {
		if one.alive() {
			err = errors.Join(err, fmt.Errorf("pid %d is left of baton", one.pid))
		}
	}
	return err
}

// freePort is an address on loopback whose port nobody has on any address.
func freePort() (address, port string, err error) {
	l, err := net.Listen("tcp", ":0")
	if err != nil {
		return "", "", err
	}
	defer l.Close()
	_, port, err = net.SplitHostPort(l.Addr().String())
	return net.JoinHostPort("127.0.0.1", port), port, err
}
