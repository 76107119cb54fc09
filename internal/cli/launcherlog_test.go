package cli

import (
	"os"
	"path/filepath"
	"testing"
)

// An empty log has no last lines, not one that is empty.
func TestLastLines(t *testing.T) {
	path := filepath.Join(t.TempDir(), "baton.log")
	for text, want := range map[string]int{"": 0, "one\n": 1, "one\ntwo": 2, "1\n2\n3\n4\n5\n6\n7\n8\n9\n10\n11\n": 10} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := lastLines(path, 0); len(got) != want {
			t.Errorf("%q: %q", text, got)
		}
	}
}

// The file is emptied when it is too large, its end stays beside, and who has it open goes
// on at its beginning. One that was moved away is another's.
func TestTheLogIsCut(t *testing.T) {
	path := filepath.Join(t.TempDir(), "baton.log")
	out, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close() // the test's own
	step := func(text string) {
		t.Helper()
		if _, err := out.WriteString(text); err != nil {
			t.Fatal(err)
		}
		if err := cutLog(out, path, 8); err != nil {
			t.Error(err)
		}
	}
	has := func(path, want string) {
		t.Helper()
		if got, err := os.ReadFile(path); err != nil && want != "" || string(got) != want {
			t.Errorf("%s has %q, %v; want %q", path, got, err, want)
		}
	}
	step("12345678")
	has(path, "12345678")
	has(path+".1", "")
	step("9a")
	has(path, "")
	has(path+".1", "3456789a")
	step("after")
	has(path, "after")
	if err := os.Rename(path, path+".moved"); err != nil {
		t.Fatal(err)
	}
	step(" and much more")
	has(path+".moved", "after and much more")
}
