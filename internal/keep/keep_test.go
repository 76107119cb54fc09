package keep_test

import (
	"errors"
	"os"
	"strings"
	"syscall"
	"testing"

	"baton/internal/keep"
)

func descriptor(t *testing.T) int {
	t.Helper()
	fd, err := syscall.Open(os.DevNull, syscall.O_RDONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Close(fd) }) // it may have been closed
	return fd
}

// closed says whether the number leads to nothing.
func closed(fd int) bool {
	var st syscall.Stat_t
	return errors.Is(syscall.Fstat(fd, &st), syscall.EBADF)
}

func TestWhatIsTakenIsGoneAndTheRestIsClosed(t *testing.T) {
	var f keep.Files
	if _, err := f.Take("l1"); !errors.Is(err, keep.ErrMissing) || f.Has("l1") {
		t.Errorf("of nothing: %v", err)
	}
	taken, left := descriptor(t), descriptor(t)
	f.Put("l2", left)
	f.Put("l1", left)
	f.Put("l1", taken)
	var names []string
	f.Each(func(name string, fd int) { names = append(names, name) })
	if strings.Join(names, " ") != "l1 l2" || f.Len() != 2 {
		t.Errorf("names %v", names)
	}
	if fd, err := f.Take("l1"); err != nil || fd != taken {
		t.Fatalf("took %d, %v; want %d", fd, err, taken)
	}
	if _, err := f.Take("l1"); !errors.Is(err, keep.ErrMissing) {
		t.Errorf("taken twice: %v", err)
	}
	f.Close()
	if closed(taken) || !closed(left) {
		t.Errorf("closed: the one that was taken %v, the other %v", closed(taken), closed(left))
	}
}

func TestCopiesAreDescriptorsOfTheirOwn(t *testing.T) {
	var f keep.Files
	own := descriptor(t)
	f.Put("one", own)
	dups, err := f.Dup()
	if err != nil {
		t.Fatal(err)
	}
	copied, err := dups.Take("one")
	if err != nil || copied == own {
		t.Fatalf("%d, %v", copied, err)
	}
	if err := syscall.Close(own); err != nil || closed(copied) {
		t.Errorf("%v; the copy is closed: %v", err, closed(copied))
	}
	if dups, err := f.Dup(); err == nil || dups != nil {
		t.Errorf("of one that is closed: %v, %v", dups, err)
	}
	if err := syscall.Close(copied); err != nil {
		t.Error(err)
	}
}

func TestNamesThatSystemdKeeps(t *testing.T) {
	for name, valid := range map[string]bool{
		"l1.s2": true, "w17.pid_x-y": true, strings.Repeat("a", keep.MaxName): true,
		"": false, "a:b": false, "A": false, "a b": false, strings.Repeat("a", keep.MaxName+1): false,
	} {
		if keep.Valid(name) != valid {
			t.Errorf("%q: valid %v, want %v", name, !valid, valid)
		}
	}
}
