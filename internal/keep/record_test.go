package keep_test

import (
	"bytes"
	"errors"

	"os"
	"path/filepath"
	"strings"
	"testing"

	"baton/internal/keep"
)

// cut is a file whose writer is killed after so many more bytes.
type cut struct {
	*os.File
	left int
}

var errKilled = errors.New("killed")

func (c *cut) WriteAt(b []byte, at int64) (int, error) {
	n := min(len(b), c.left)
	c.left -= n
	if n, err := c.File.WriteAt(b[:n], at); err != nil {
		return n, err
	}
	if n < len(b) {
		return n, errKilled
	}
	return n, nil
}

// text of one that is written whole or not at all is always one that was.
func TestAWriterThatIsKilledLeavesTheTextBefore(t *testing.T) {
	file, err := os.Create(filepath.Join(t.TempDir(), "state"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if _, err := keep.Read(file); !errors.Is(err, keep.ErrNone) {
		t.Fatalf("of an empty file: %v", err)
	}
	before := []byte("the first")
	if err := keep.NewRecord(file).Write(before); err != nil {
		t.Fatal(err)
	}
	for i := range 200 { // one byte more each time, of a text of about 80
		next := []byte(strings.Repeat("x", i%80) + "!")
		err := keep.NewRecord(&cut{file, i}).Write(next)
		got, rerr := keep.Read(file)
		if rerr != nil {
			t.Fatal(rerr)
		}
		switch {
		case err == nil:
			before = next
			if !bytes.Equal(got, next) {
				t.Fatalf("after a whole write of %q: %q", next, got)
			}
		case !errors.Is(err, errKilled):
			t.Fatal(err)
		case !bytes.Equal(got, before):
			t.Fatalf("killed after %d bytes of %q: %q, want %q", i, next, got, before)
		}
	}
}

func TestARecordGoesOnWhereTheLastWriterEnded(t *testing.T) {
	file, err := os.Create(filepath.Join(t.TempDir(), "state"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	for _, text := range []string{"one", "", "three", strings.Repeat("four", 1<<20), "five"} {
		if err := keep.NewRecord(file).Write([]byte(text)); err != nil {
			t.Fatal(err)
		}
		if got, err := keep.Read(file); err != nil || string(got) != text {
			t.Fatalf("%d bytes, %v; want %d", len(got), err, len(text))
		}
	}
	if err := keep.NewRecord(file).Write(make([]byte, 16<<20)); err == nil {
		t.Error("more than there is room for was written")
	}
	if got, err := keep.Read(file); err != nil || string(got) != "five" {
		t.Errorf("%q, %v after one that was refused", got, err)
	}
}

func FuzzReadOfAnything(f *testing.F) {
	f.Add([]byte("\x02\x00\x00\x00\x00\x00\x00\x00\x03\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00abc"))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		_, _ = keep.Read(bytes.NewReader(b)) // must not panic
	})
}
