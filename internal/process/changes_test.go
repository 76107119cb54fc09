package process

import (
	"slices"
	"testing"
)

func TestChangesNamesAndNoValues(t *testing.T) {
	got := Changes([]string{"SAME=1", "GONE=secret", "OTHER=secret", "TWICE=1", "TWICE=2", "junk"}, []string{"NEW=secret", "OTHER=", "SAME=1", "TWICE=2", "=x"})
	if want := []string{"-GONE", "+NEW", "~OTHER"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	if got := Changes(nil, nil); len(got) != 0 {
		t.Errorf("of nothing: %q", got)
	}
}
