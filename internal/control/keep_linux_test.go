package control

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"testing"

	"baton/internal/event"
	"baton/internal/keep"
)

// again is what another image of the process would have: the same open files.
func again(t *testing.T, f *keep.Files) *keep.Files {
	t.Helper()
	dups, err := f.Dup()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(dups.Close)
	return dups
}

func TestAClaimThatIsKeptStaysHeldAndAnswersWhoeverCameMeanwhile(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "run")
	first, err := Take(dir, "web")
	if err != nil {
		t.Fatal(err)
	}
	l, err := first.Listen()
	if err != nil {
		t.Fatal(err)
	}
	var f keep.Files
	if err := first.Keep(&f); err != nil {
		t.Fatal(err)
	}
	kept := again(t, &f)
	// The image before is gone, with all that was its own.
	_ = l.Close()
	_ = first.lock.Close()

	waiting, err := dial(filepath.Join(dir, "web"+socketSuffix))
	if err != nil {
		t.Fatalf("in between: %v", err)
	}
	defer waiting.Close()
	var taken *TakenError
	if c, err := Take(dir, "web"); !errors.As(err, &taken) {
		t.Fatalf("somebody else has the name in between: %v, %v", c, err)
	}
	second, err := Resume(dir, "web", kept)
	if err != nil {
		t.Fatal(err)
	}
	l, err = second.Listen()
	if err != nil {
		t.Fatal(err)
	}
	conn, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	_ = conn.Close()
	if err := second.Share(-1); err != nil {
		t.Errorf("it is not its socket: %v", err)
	}
	_ = l.Close()
	if err := second.Close(); err != nil {
		t.Fatal(err)
	}
	for _, suffix := range []string{lockSuffix, socketSuffix} {
		if _, err := os.Lstat(second.Beside(suffix)); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("web%s is left: %v", suffix, err)
		}
	}
}

func TestAClaimWhosePathIsGoneMakesAnotherSocket(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "run")
	first, err := Take(dir, "web")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Resume(dir, "web", new(keep.Files)); !errors.Is(err, keep.ErrMissing) {
		t.Errorf("of nothing: %v", err)
	}
	l, err := first.Listen()
	if err != nil {
		t.Fatal(err)
	}
	var f keep.Files
	if err := first.Keep(&f); err != nil {
		t.Fatal(err)
	}
	kept := again(t, &f)
	_, _ = l.Close(), first.lock.Close()
	if err := os.Remove(first.Beside(socketSuffix)); err != nil {
		t.Fatal(err)
	}
	second, err := Resume(dir, "web", kept)
	if second == nil || err == nil {
		t.Fatalf("%v, %v; want a claim, and to be told", second, err)
	}
	if l, err = second.Listen(); err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	var d net.Dialer
	conn, err := d.DialContext(context.Background(), "unix", second.Beside(socketSuffix))
	if err != nil {
		t.Fatal(err)
	}
	_ = conn.Close()
	if err := second.Close(); err != nil {
		t.Error(err)
	}
}

func TestTheLastEvents(t *testing.T) {
	var f Feed
	for i := range 300 {
		f.Add(event.Event{Worker: i})
	}
	if last := f.Last(2); len(last) != 2 || last[0].Worker != 298 || last[1].Worker != 299 {
		t.Errorf("%+v", last)
	}
	if all := f.Last(1000); len(all) != keptEvents {
		t.Errorf("%d events, want %d", len(all), keptEvents)
	}
}
