package protocol

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"baton/internal/testkit"
)

// executable is one at path, whose executable has the text.
func executable(path, text string) Program {
	return Program{
		Args: []string{filepath.Base(path)}, Path: path, Real: path,
		Open: func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader(text)), nil },
	}
}

// elf is an executable that carries the texts, far apart.
func elf(carries ...string) string {
	noise := make([]byte, 300<<10)
	r := rand.New(rand.NewPCG(1, 2))
	for i := range noise {
		noise[i] = byte(r.UintN(256))
	}
	var b strings.Builder
	b.WriteString("\x7fELF")
	for _, c := range carries {
		b.Write(noise)
		b.WriteString(c)
	}
	b.Write(noise)
	return b.String()
}

func choose(t *testing.T, s Settings, p Program) *Choice {
	t.Helper()
	c, err := Choose(s, p)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestAProgramIsChosenForByWhatItCarries(t *testing.T) {
	const flip, starter, count, master = "TABLEFLIP_HAS_PARENT_7DIU3", "SERVER_STARTER_PORT", "EINHORN_FD_COUNT", "EINHORN_MASTER_PID"
	blind := func(why string) map[Kind]string {
		return map[Kind]string{KindSystemd: "always", KindServerStarter: why, KindEinhorn: why, KindSocketmaster: why}
	}
	for name, test := range map[string]struct {
		p    Program
		want map[Kind]string
	}{
		"nothing":        {executable("/srv/app", elf()), map[Kind]string{KindSystemd: "always"}},
		"empty":          {executable("/srv/app", ""), map[Kind]string{KindSystemd: "always"}},
		"tableflip":      {executable("/srv/app", elf("x", flip)), map[Kind]string{KindSystemd: "always", KindTableflip: "it carries " + flip}},
		"tableflip last": {executable("/srv/app", elf(starter, count, flip)), map[Kind]string{KindSystemd: "always", KindTableflip: "it carries " + flip}},
		"nearly":         {executable("/srv/app", elf(flip[:20], starter[1:], "EINHORN_FD_COUN", "ENDLESS_CONTINU")), map[Kind]string{KindSystemd: "always"}},
		"server-starter": {executable("/srv/app", elf(starter)), map[Kind]string{KindSystemd: "always", KindServerStarter: "it carries " + starter}},
		"einhorn by fds": {executable("/srv/app", elf(count)), map[Kind]string{KindSystemd: "always", KindEinhorn: "it carries " + count}},
		"einhorn by pid": {executable("/srv/app", elf(master)), map[Kind]string{KindSystemd: "always", KindEinhorn: "it carries " + master}},
		"socketmaster":   {executable("/srv/app", elf("EINHORN_FDS")), map[Kind]string{KindSystemd: "always", KindSocketmaster: "it carries EINHORN_FDS"}},
		"endless": {executable("/srv/app", elf("ENDLESS_CONTINUE", starter)), map[Kind]string{
			KindSystemd: "always", KindEndless: "it carries ENDLESS_CONTINUE", KindServerStarter: "it carries " + starter}},
		"script":           {executable("/srv/app.pl", "#!/usr/bin/perl -w\nprint"), blind("a script for perl cannot be looked into")},
		"script by env":    {executable("/srv/app", "#!/usr/bin/env -S A=b python3 -u\n"), blind("a script for python3 cannot be looked into")},
		"script of env's":  {executable("/srv/app", "#! /usr/bin/env\n"), blind("a script for env cannot be looked into")},
		"interpreter":      {executable("/usr/bin/perl", elf(flip)), blind("perl cannot be looked into")},
		"version":          {executable("/usr/bin/python3.12", elf()), blind("python3.12 cannot be looked into")},
		"runs another":     {executable("/usr/bin/env", elf()), blind("env cannot be looked into")},
		"node":             {executable("/opt/bin/node", elf(starter)), map[Kind]string{KindSystemd: "always", KindNode: "it is node"}},
		"node's version":   {executable("/usr/bin/node-20", elf()), map[Kind]string{KindSystemd: "always", KindNode: "it is node-20"}},
		"node's script":    {executable("/srv/app", "#!/usr/bin/env node\nrequire"), map[Kind]string{KindSystemd: "always", KindNode: "it is a script for node"}},
		"node's by -S":     {executable("/srv/app", "#!/usr/bin/env -Snode --x\n"), map[Kind]string{KindSystemd: "always", KindNode: "it is a script for node"}},
		"php-fpm is a php": {executable("/usr/sbin/php-fpm8.2", elf(starter)), map[Kind]string{KindSystemd: "always", KindServerStarter: "it carries " + starter}},
	} {
		if diff := cmp.Diff(test.want, choose(t, Settings{}, test.p).Why); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
	real := executable("/usr/bin/js", elf())
	real.Real = "/usr/bin/nodejs"
	if c := choose(t, Settings{}, real); c.Why[KindNode] != "it is nodejs" {
		t.Errorf("behind a symlink: %v", c.Why)
	}
	closed := executable("/srv/app", "")
	closed.Open = func() (io.ReadCloser, error) { return nil, os.ErrPermission }
	if c := choose(t, Settings{}, closed); c.Why[KindEinhorn] != "it cannot be read: permission denied" {
		t.Errorf("not readable: %v", c.Why)
	}
}

func TestConfiguredProtocolsAreExactlyThose(t *testing.T) {
	unread := executable("/usr/bin/node", "")
	unread.Open = func() (io.ReadCloser, error) { return nil, errors.New("looked into") }
	for name, test := range map[string]struct {
		s    Settings
		want []Kind
		says bool
	}{
		"none of its sockets": {Settings{Kinds: []Kind{KindSystemd}}, []Kind{KindSystemd}, false},
		"systemd besides":     {Settings{Kinds: []Kind{KindServerStarter}}, []Kind{KindSystemd, KindServerStarter}, false},
		"in order":            {Settings{Kinds: []Kind{KindNode, KindEinhorn, KindNode}}, []Kind{KindSystemd, KindEinhorn, KindNode}, true},
		"tableflip":           {Settings{Kinds: []Kind{KindTableflip}}, []Kind{KindTableflip, KindSystemd}, true},
		"ready_fd is enough":  {Settings{Kinds: []Kind{KindSystemd}, ReadyFD: 9}, []Kind{KindSystemd, KindS6}, true},
		"s6":                  {Settings{Kinds: []Kind{KindS6}, ReadyFD: 3}, []Kind{KindSystemd, KindS6}, true},
	} {
		c := choose(t, test.s, unread)
		if diff := cmp.Diff(test.want, c.Kinds); diff != "" || c.Says != test.says {
			t.Errorf("%s: says %v, %s", name, c.Says, diff)
		}
		if len(c.Why) != len(c.Kinds) {
			t.Errorf("%s: %v", name, c.Why)
		}
	}
	for _, mark := range []string{"EINHORN_FD_COUNT", "nothing"} {
		if c := choose(t, Settings{}, executable("/srv/app", elf(mark))); c.Says {
			t.Errorf("a program that carries %s may be silent", mark)
		}
	}
	if c := choose(t, Settings{}, executable("/srv/app", elf("TABLEFLIP_HAS_PARENT_7DIU3"))); !c.Says {
		t.Error("tableflip always says it")
	}
}

func TestWhatCannotGoTogetherIsRefusedWithTheWayOut(t *testing.T) {
	for name, test := range map[string]struct {
		s    Settings
		want []string
	}{
		"unknown":       {Settings{Kinds: []Kind{"tablefilp"}}, []string{`protocol "tablefilp"`, `did you mean "tableflip"?`}},
		"far off":       {Settings{Kinds: []Kind{"pigeons-by-night"}}, []string{`"pigeons-by-night"`, "there are: tableflip, systemd, "}},
		"tableflip":     {Settings{Kinds: []Kind{KindTableflip, KindEinhorn}}, []string{"tableflip and einhorn", "name one"}},
		"tableflip too": {Settings{Kinds: []Kind{KindEndless, KindTableflip}}, []string{"tableflip and endless", "name one"}},
		"node":          {Settings{Kinds: []Kind{KindNode, KindTableflip}}, []string{"tableflip and node", "name one"}},
		"s6":            {Settings{Kinds: []Kind{KindS6}}, []string{"protocol s6", "set ready_fd, as in 4"}},
		"low":           {Settings{ReadyFD: 2}, []string{"ready_fd 2", "3 and above are free"}},
		"negative":      {Settings{ReadyFD: -2}, []string{"ready_fd -2", "3 and above are free"}},
		"a pipe":        {Settings{Kinds: []Kind{KindTableflip}, ReadyFD: 4}, []string{"ready_fd 4", "tableflip's pipes", "5 and above are free"}},
	} {
		c, err := Choose(test.s, executable("/srv/app", ""))
		if err == nil {
			t.Errorf("%s: chosen: %v", name, c.Kinds)
			continue
		}
		for _, w := range test.want {
			if !strings.Contains(err.Error(), w) {
				t.Errorf("%s: %q does not say %q", name, err, w)
			}
		}
	}
}

// Baton names all the variables itself, and uses tableflip for its own upgrade; its
// demonstration runs it as a target.
func TestBatonIsNotTakenForWhatItLooksFor(t *testing.T) {
	path := testkit.Binary(t)
	c := choose(t, Settings{}, Program{
		Args: []string{path}, Path: path, Real: path,
		Open: func() (io.ReadCloser, error) { return os.Open(path) },
	})
	if !slices.Equal(c.Kinds, []Kind{KindSystemd}) {
		t.Errorf("%v %v", c.Kinds, c.Why)
	}
}

func TestAMarkIsFoundWhereverItLies(t *testing.T) {
	all := marks()
	text := make([]byte, 2*scanBuffer+100)
	for _, m := range all {
		for _, at := range []int{0, 1, scanBuffer - len(m.text), scanBuffer - len(m.text) + 1, scanBuffer - 1, scanBuffer, scanBuffer + 1, len(text) - len(m.text)} {
			b := slices.Clone(text)
			copy(b[at:], m.text)
			// As files do it, and as pipes do.
			for _, r := range []io.Reader{bytes.NewReader(b), trickle{bytes.NewReader(b)}} {
				found, err := scan(r, all)
				if err != nil || !slices.Equal(found, []mark{m}) {
					t.Errorf("%s at %d: %v %v", m.text, at, found, err)
				}
			}
		}
	}
	if _, err := scan(io.MultiReader(bytes.NewReader(text), broken{}), all); !errors.Is(err, os.ErrPermission) {
		t.Errorf("a read that fails: %v", err)
	}
}

type trickle struct{ io.Reader }

func (t trickle) Read(b []byte) (int, error) { return t.Reader.Read(b[:min(len(b), 4093)]) }

type broken struct{}

func (broken) Read([]byte) (int, error) { return 0, os.ErrPermission }

// FuzzScan: what is found is what a plain search finds, however the text is cut.
func FuzzScan(f *testing.F) {
	f.Add([]byte("xEINHORN_FDEINHORN_FDSS"), 3)
	f.Add([]byte("SERVER_STARTER_PORTENDLESS_CONTINUE"), 0)
	f.Add([]byte("TABLEFLIP_HAS_PARENT_7DIU3"), scanBuffer-5)
	f.Fuzz(func(t *testing.T, text []byte, before int) {
		all := marks()
		text = append(make([]byte, min(max(before, 0), 2*scanBuffer)), text...)
		found, err := scan(bytes.NewReader(text), all)
		if err != nil {
			t.Fatal(err)
		}
		for i, m := range all {
			if want := bytes.Contains(text, []byte(m.text)); want != slices.Contains(found, m) {
				if i > 0 && slices.Contains(found, all[0]) {
					continue // it stopped there
				}
				t.Errorf("%s: %v", m.text, found)
			}
		}
	})
}

// BenchmarkScan reads a real program, which has nothing that it stops at.
func BenchmarkScan(b *testing.B) {
	path := testkit.Binary(b)
	info, err := os.Stat(path)
	if err != nil {
		b.Fatal(err)
	}
	b.SetBytes(info.Size())
	for b.Loop() {
		f, err := os.Open(path)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := scan(f, marks()); err != nil {
			b.Fatal(err)
		}
		f.Close()
	}
}
