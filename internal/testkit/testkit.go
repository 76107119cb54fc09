// Package testkit is what the tests of a launcher need and the launcher does
// not: a real HTTP server with named behaviours to be the target, the real
// baton binary with its log, waiting with a deadline, and a look at what was
// left behind.
//
// It keeps one invariant: all that it starts ends with the test, or the test
// fails and says what it was. It fakes nothing, never sleeps for luck, and is
// never part of the shipped program.
//
// A package that uses the target or the launcher begins its tests so:
//
//	func TestMain(m *testing.M) {
//		process.Main() // the shim, when this binary is re-executed as that
//		testkit.Main() // the target, likewise
//		os.Exit(m.Run())
//	}
package testkit

import (
	"bufio"
	"fmt"
	"os"
	"strings"
	"testing"
)

const (
	// targetArg as first argument makes a test binary the target.
	targetArg = "testkit-target"
	// holderArg makes it a process that holds its descriptors and does nothing.
	holderArg = "testkit-holder"
	// EnvTarget in the environment makes a test binary the target too, whatever
	// its arguments are; its value is behaviours separated by spaces.
	EnvTarget = "BATON_TESTKIT_TARGET"
)

// Main makes this process the target when it was executed as such, and does not
// return then. It is called first in TestMain, after process.Main.
func Main() {
	words, ok := os.LookupEnv(EnvTarget)
	switch {
	case len(os.Args) > 1 && os.Args[1] == holderArg:
		hold(os.Args[2:])
	case len(os.Args) > 1 && os.Args[1] == targetArg:
		os.Exit(target(os.Args[2:]))
	case ok:
		os.Exit(target(strings.Fields(words)))
	}
}

// Target is the command line that runs the target: this test binary, or with the race
// detector one without it. It is a stock net/http
// server on the sockets that it finds in LISTEN_FDS, with behaviours:
//
//	server=http|minimal|serial
//	                      minimal is an accept loop with no shutdown code; serial is one
//	                      that holds a single connection at a time
//	ready=none            says nothing of being ready (the default)
//	ready=notify          sends READY=1 when it serves
//	ready=late:D          serves at once, and sends READY=1 after D
//	ready=file:PATH       likewise, once there is such a file
//	ready=never           never says so and never accepts
//	delay=D               does nothing at all for D first
//	lines=N               prints N numbered lines on each of stdout and stderr
//	exit=CODE             ends before it is ready
//	words=TEXT            its last words on stderr before exit or crash
//	crash=D               panics D after it was ready
//	term=shutdown         TERM is Server.Shutdown (the default)
//	term=slow:D           likewise, but only D after the signal
//	term=ignore           TERM does nothing
//	term=die              TERM's default action
//	record=NAME,NAME      does nothing on these signals (QUIT, TERM, USR1, USR2) but print
//	                      each: "pid P got NAME"
//	watchdog=D            sends WATCHDOG=1 every D, until /abuse?what=silence
//	shutdown=D            the deadline of Shutdown; default 30s
//	hang                  listens and never accepts
//	stay                  goes on when it cannot accept any more; otherwise it ends
//	unlink                unlinks the paths of unix sockets when it closes them
//	port=ADDR             listens on ADDR as well, by itself; ends if it cannot
//	child=sockets|pipes|both
//	                      leaves a child that holds the sockets, or its stdout and
//	                      stderr; with ",session" it is in a session of its own
//	notify=hostile        sends what no launcher wants before it says ready
//	health=N              /healthz answers 503 N times and then 200; "never": always 503;
//	                      "hang": never answers; default 200. Each question is printed:
//	                      "healthz of generation G asked"
//	greet                 prints each connection that it accepts: "generation G met ADDRESS",
//	                      the client's
//	leak=BYTES            allocates so much every 10 ms for ever
//	listen=ADDR           listens there when it was given no sockets
//	@FILE                 reads more of them from FILE, one per line, at each start
//
// D is as time.ParseDuration reads it. The last word of a kind wins. With @FILE
// a test decides what the next generation will be like.
func Target(behaviours ...string) []string {
	return append([]string{targetProgram(), targetArg}, behaviours...)
}

// Behave writes a file of behaviours for @FILE, as one rename, so that a target
// that starts meanwhile reads either the old or the new ones.
func Behave(t testing.TB, file string, behaviours ...string) {
	t.Helper()
	text := strings.Join(behaviours, "\n") + "\n"
	if err := os.WriteFile(file+".new", []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(file+".new", file); err != nil {
		t.Fatal(err)
	}
}

// behaviours are the words of a target, by key; a word without a value is "".
type behaviours map[string]string

func parse(words []string) (behaviours, error) {
	b := behaviours{}
	for _, w := range words {
		if file, ok := strings.CutPrefix(w, "@"); ok {
			if err := b.read(file); err != nil {
				return nil, err
			}
			continue
		}
		key, value, _ := strings.Cut(w, "=")
		if !known[key] {
			return nil, fmt.Errorf("behaviour %q: unknown", w)
		}
		b[key] = value
	}
	return b, nil
}

var known = map[string]bool{"server": true, "ready": true, "delay": true, "lines": true, "exit": true,
	"words": true, "crash": true, "term": true, "shutdown": true, "hang": true, "unlink": true, "port": true,
	"child": true, "notify": true, "leak": true, "listen": true, "record": true, "watchdog": true,
	"stay": true, "health": true, "greet": true}

func (b behaviours) read(file string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	var words []string
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		if w := strings.TrimSpace(lines.Text()); w != "" {
			words = append(words, w)
		}
	}
	if err := lines.Err(); err != nil {
		return err
	}
	more, err := parse(words)
	for k, v := range more {
		b[k] = v
	}
	return err
}
