package logs

import "testing"

// The last lines of a newcomer that failed are shown on the terminal of whoever deployed
// it, as text.
func TestTheTailCannotDriveATerminal(t *testing.T) {
	for text, want := range map[string]string{
		"\x1b[2Jgone\x1b]0;title\a": "[2Jgone]0;title",
		"a\rb\x07c\u009b2Jd\x7f\r":  "abc2Jd",
		"tab\tand \xff":             "tab\tand \uFFFD",
		"世界 \u00e9 \u00a0":          "世界 \u00e9 \u00a0",
	} {
		if got := clean([]byte(text)); got != want {
			t.Errorf("%q became %q, want %q", text, got, want)
		}
	}
}
