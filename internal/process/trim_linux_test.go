package process

import (
	"os"
	"strconv"
	"strings"
	"testing"
)

// What was mapped of this program's file is given back, and the program goes on: also
// when its file is not there any more.
func TestTrimCode(t *testing.T) {
	before := residentFile(t)
	if err := TrimCode(); err != nil {
		t.Fatal(err)
	}
	after := residentFile(t)
	if after > before*3/4 {
		t.Errorf("%d kB of files resident before, %d kB after", before, after)
	}
	// What is run again is there again.
	if strings.ToUpper("still here") != "STILL HERE" {
		t.Error("it does not run any more")
	}
}

func residentFile(t *testing.T) int {
	t.Helper()
	text, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(text), "RssFile:")
	n, err := strconv.Atoi(strings.Fields(rest)[0])
	if err != nil {
		t.Fatal(err)
	}
	return n
}
