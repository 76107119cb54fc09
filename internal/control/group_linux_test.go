package control

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// as runs connect as another user and returns what came of it.
func (s *served) as(t *testing.T, self string, gid int, groups ...uint32) string {
	t.Helper()
	cmd := exec.Command(self, "connect", s.path)
	cmd.Env = append(os.Environ(), "GORACE=atexit_sleep_ms=10")
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: uint32(gid), Groups: groups}}
	out, err := cmd.CombinedOutput()
	var code *exec.ExitError
	if err != nil && !errors.As(err, &code) {
		t.Fatal(err)
	}
	return string(out)
}

func TestAGroupIsLetInAsItsMembersAre(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root, to be another user")
	}
	const group = 54321
	s := serve(t)
	home := filepath.Dir(s.path)
	me := self(t)
	const served, refused, unreachable = `"name":"web"`, "; 0 bytes:", "permission denied"
	many := make([]uint32, 200) // more than fit at the first try
	for i := range many {
		many[i] = uint32(100000 + i)
	}
	expect := func(step, want string, gid int, groups ...uint32) {
		t.Helper()
		if got := s.as(t, me, gid, groups...); !strings.Contains(got, want) {
			t.Errorf("%s: %s", step, got)
		}
	}
	expect("before", unreachable, group)

	if err := s.claim.Share(group); err == nil || !strings.Contains(err.Error(), filepath.Dir(home)+" lets nobody of the group 54321 through") {
		t.Errorf("a directory that is in the way: %v", err)
	}
	if err := os.Chmod(filepath.Dir(home), 0o711); err != nil {
		t.Fatal(err)
	}
	if err := s.claim.Share(group); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]os.FileMode{home: 0o711, s.path: 0o660, filepath.Join(home, "web.lock"): 0o600} {
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != want {
			t.Errorf("%s: %v, %v, want %v", path, info.Mode(), err, want)
		}
	}
	expect("reached, not let in", refused, group)

	s.Admit(group)
	expect("by his first group", served, group)
	expect("by another of his", served, 65534, 7, group)
	expect("by the last of many", served, 65534, slices.Concat(many, []uint32{group})...)
	expect("of no such group", unreachable, 65534, 7)
	if err := os.Chmod(s.path, 0o666); err != nil {
		t.Fatal(err)
	}
	expect("of no such group, whatever the file says", refused, 65534, slices.Concat(many, []uint32{7})...)

	// The next launcher of the directory leaves it as it is.
	c, err := Take(home, "api")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close() // with the directory
	if info, err := os.Stat(home); err != nil || info.Mode().Perm() != 0o711 {
		t.Errorf("%v, %v", info.Mode(), err)
	}

	s.Admit(-1)
	expect("not any more, by the server", refused, 65534, group)
	if err := s.claim.Share(-1); err != nil {
		t.Fatal(err)
	}
	expect("not any more, by the file", unreachable, 65534, group)
}

func TestASocketThatIsSomebodyElsesIsNotShared(t *testing.T) {
	s := serve(t)
	if err := os.Rename(s.path, s.path+".away"); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(s.path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := s.claim.Share(os.Getegid()); err == nil || !strings.Contains(err.Error(), "is not this launcher's socket any more") {
		t.Errorf("shared: %v", err)
	}
	if info, err := os.Stat(s.path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
}
