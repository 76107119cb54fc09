package protocol

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"
)

// order is that of the layout: tableflip's extra sockets follow the sockets, and
// s6's descriptor has a number of its own, for which room is left on the way.
var order = []Kind{
	KindTableflip, KindSystemd, KindServerStarter, KindEinhorn, KindSocketmaster, KindEndless, KindNode, KindS6,
}

// Variables that a program carries in its text when it speaks a protocol, and no
// other program does. They are written with hyphens so that baton's own executable,
// and others that have this package in them, do not carry them.
const (
	tableflipVariable     = "TABLEFLIP-HAS-PARENT-7DIU3"
	serverStarterVariable = "SERVER-STARTER-PORT"
	einhornVariable       = "EINHORN-FD-COUNT"
	einhornParentVariable = "EINHORN-MASTER-PID"
	socketmasterVariable  = "EINHORN-FDS"
	endlessVariable       = "ENDLESS-CONTINUE"
)

// variable is one of those as it is.
func variable(hyphened string) string { return strings.ReplaceAll(hyphened, "-", "_") }

// mark is what a program is searched for.
type mark struct {
	kind Kind
	text string
}

func marks() []mark {
	return []mark{
		{KindTableflip, variable(tableflipVariable)},
		{KindServerStarter, variable(serverStarterVariable)},
		{KindEinhorn, variable(einhornVariable)},
		{KindEinhorn, variable(einhornParentVariable)},
		{KindSocketmaster, variable(socketmasterVariable)},
		{KindEndless, variable(endlessVariable)},
	}
}

// blindly are the protocols for a program that cannot be looked into. They are
// variables, and do nothing to a program that does not know them. endless is not
// one of them: a program that is told of it signals its parent.
var blindly = []Kind{KindServerStarter, KindEinhorn, KindSocketmaster}

// runners are programs that execute the next of their arguments.
var runners = []string{
	"env", "nice", "ionice", "chrt", "taskset", "numactl", "setpriv", "setsid", "stdbuf", "chroot", "unshare", "nsenter",
	"sudo", "su", "doas", "gosu", "su-exec", "runuser", "chpst", "envdir", "tini", "dumb-init", "catatonit", "strace",
}

// blind are executables of which another program than their own text decides
// what is spoken: interpreters, and runners.
var blind = append([]string{
	"perl", "ruby", "python", "pypy", "php", "sh", "bash", "dash", "zsh", "ksh", "mksh", "ash", "busybox", "fish",
	"lua", "luajit", "tclsh", "java", "bun", "deno", "dotnet", "mono", "erl", "beam.smp", "guile", "Rscript",
}, runners...)

// excluded are the protocols that expect their sockets where tableflip has its
// pipes.
var excluded = []Kind{KindServerStarter, KindEinhorn, KindSocketmaster, KindEndless, KindNode}

// Choose says what a program's workers are to speak. An error names the protocol,
// and the way out.
//
// Where nothing is configured the executable is looked into, which reads all of
// it: about 50 ms for 100 MB.
func Choose(s Settings, p Program) (*Choice, error) {
	c := &Choice{Settings: s, Why: make(map[Kind]string)}
	for _, k := range s.Kinds {
		if !slices.Contains(order, k) {
			return nil, unknown(k)
		}
		c.add(k, "configured")
	}
	if len(s.Kinds) == 0 {
		c.look(p)
	}
	if s.ReadyFD != 0 {
		c.add(KindS6, fmt.Sprintf("ready_fd is %d", s.ReadyFD))
	}
	c.add(KindSystemd, "always")
	slices.SortFunc(c.Kinds, func(a, b Kind) int { return slices.Index(order, a) - slices.Index(order, b) })
	if err := c.sound(); err != nil {
		return nil, err
	}
	c.Says = c.speaks(KindTableflip) || c.speaks(KindS6) || slices.Contains(s.Kinds, KindEinhorn)
	return c, nil
}

func (c *Choice) add(k Kind, why string) {
	if !c.speaks(k) {
		c.Kinds = append(c.Kinds, k)
		c.Why[k] = why
	}
}

func (c *Choice) speaks(k Kind) bool { return slices.Contains(c.Kinds, k) }

// sound holds the choice to what can go together.
func (c *Choice) sound() error {
	for _, k := range excluded {
		if c.speaks(KindTableflip) && c.speaks(k) {
			return fmt.Errorf("protocols %s and %s: they exclude each other: tableflip has pipes where %s expects sockets; name one of them",
				KindTableflip, k, k)
		}
	}
	if c.speaks(KindS6) && c.Settings.ReadyFD == 0 {
		return fmt.Errorf("protocol %s: on which descriptor does the program write its newline? set ready_fd, as in %d",
			KindS6, c.firstSocket()+1)
	}
	return c.room(nil)
}

func unknown(k Kind) error {
	names := make([]string, len(order))
	for i, o := range order {
		names[i] = string(o)
	}
	return fmt.Errorf("protocol %q: there is none of that name%s", string(k), instead(string(k), names))
}

// look chooses by the program.
func (c *Choice) look(p Program) {
	if by := c.Settings.NodeInside; by != "" {
		c.add(KindNode, by+" runs it with node")
		return
	}
	for _, path := range []string{p.Path, p.Real} {
		if isNode(filepath.Base(path)) {
			c.add(KindNode, "it is "+filepath.Base(path))
			return
		}
	}
	for _, path := range []string{p.Path, p.Real} {
		if name := filepath.Base(path); isBlind(name) {
			c.addBlindly(name + " cannot be looked into")
			return
		}
	}
	if err := c.read(p); err != nil {
		c.addBlindly("it cannot be read: " + err.Error())
	}
}

// read looks into the executable.
func (c *Choice) read(p Program) error {
	f, err := p.Open()
	if err != nil {
		return err
	}
	defer f.Close() // read only
	head := make([]byte, 256)
	n, err := io.ReadFull(f, head)
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		return err
	}
	head = head[:n]
	switch name, ok := interpreter(head); {
	case ok && isNode(name):
		c.add(KindNode, "it is a script for "+name)
		return nil
	case ok:
		c.addBlindly("a script for " + name + " cannot be looked into")
		return nil
	}
	found, err := scan(io.MultiReader(bytes.NewReader(head), f), marks())
	if err != nil {
		return err
	}
	if len(found) > 0 && found[0].kind == KindTableflip {
		if own, err := isBaton(p); err != nil || own {
			return err
		}
	}
	for _, m := range found {
		if !c.speaks(KindTableflip) || !slices.Contains(excluded, m.kind) {
			c.add(m.kind, "it carries "+m.text)
		}
	}
	return nil
}

// isBaton says whether the program is baton, as in its demonstration, which uses tableflip
// for itself and not for what it runs: a function of baton's is in its table of
// functions.
func isBaton(p Program) (bool, error) {
	f, err := p.Open()
	if err != nil {
		return false, err
	}
	defer f.Close() // read only
	found, err := scan(f, []mark{{text: strings.ReplaceAll(batonFunction, " ", "/")}})
	return len(found) > 0, err
}

// batonFunction has blanks for the slashes, so that other programs with this package in them
// do not carry it.
const batonFunction = "baton internal upgrade.(*Prover).prove"

func (c *Choice) addBlindly(why string) {
	for _, k := range blindly {
		c.add(k, why)
	}
}

func isNode(name string) bool { return slices.Contains([]string{"node", "nodejs"}, versionless(name)) }

func isBlind(name string) bool {
	return slices.Contains(blind, name) || slices.Contains(blind, versionless(name))
}

// versionless is "python" for python3.12, "node" for node-20.
func versionless(name string) string { return strings.TrimRight(name, "0123456789.-") }

// interpreter is the base name of what runs the script that begins with head; not
// ok: it is no script. "#!/usr/bin/env -S NAME=x node --flag" is node's.
func interpreter(head []byte) (name string, ok bool) {
	line, ok := strings.CutPrefix(string(head), "#!")
	if !ok {
		return "", false
	}
	line, _, _ = strings.Cut(line, "\n")
	words := strings.Fields(line)
	if len(words) == 0 {
		return "an unknown interpreter", true // exec will refuse it
	}
	name = filepath.Base(words[0])
	if name != "env" {
		return name, true
	}
	for _, w := range words[1:] {
		w = strings.TrimPrefix(w, "-S")
		if w != "" && !strings.HasPrefix(w, "-") && !strings.Contains(w, "=") {
			return filepath.Base(w), true
		}
	}
	return name, true
}
