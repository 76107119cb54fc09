package health

import "testing"

func TestWhichSignMakesAWorkerReady(t *testing.T) {
	for _, c := range []struct {
		mode                            Mode
		expected                        bool
		said, accepted, passed, elapsed bool
	}{
		{mode: Auto, said: true, accepted: true},
		{mode: Auto, expected: true, said: true},
		{mode: Notify, said: true},
		{mode: Notify, expected: true, said: true},
		{mode: Accept, accepted: true},
		{mode: Accept, expected: true, accepted: true},
		{mode: HTTP, passed: true},
		{mode: HTTP, expected: true, passed: true},
		{mode: Exec, passed: true},
		{mode: Exec, expected: true, passed: true},
		{mode: Newline, said: true},
		{mode: Newline, expected: true, said: true},
		{mode: Delay, elapsed: true},
		{mode: Delay, expected: true, elapsed: true},
	} {
		r := Readiness{Mode: c.mode, Expected: c.expected}
		for sign, want := range map[Sign]bool{Said: c.said, Accepted: c.accepted, Passed: c.passed, Elapsed: c.elapsed} {
			if got := r.By(sign); got != want {
				t.Errorf("%+v by %s: %v, want %v", r, sign, got, want)
			}
		}
		if got := r.WantsProof(); got != c.accepted {
			t.Errorf("%+v wants a proof: %v, want %v", r, got, c.accepted)
		}
		if got := r.WantsProbe(); got != c.passed {
			t.Errorf("%+v wants a probe: %v, want %v", r, got, c.passed)
		}
	}
}

func TestAModeThatIsNotKnownIsNamed(t *testing.T) {
	for _, m := range Modes {
		if got, err := ParseMode(string(m)); got != m || err != nil {
			t.Errorf("ParseMode(%q) = %q, %v", m, got, err)
		}
	}
	_, err := ParseMode("soon")
	if want := `ready "soon": not one of ["auto" "notify" "accept" "http" "exec" "newline" "delay"]`; err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}
