package demo_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"baton/internal/demo"
	"baton/internal/load"
	"baton/internal/process"
	"baton/internal/testkit"
)

// serveArg makes this binary the demo's server, as the hidden flag makes baton.
const serveArg = "demo-server"

func TestMain(m *testing.M) {
	process.Main()
	if len(os.Args) > 1 && os.Args[1] == serveArg {
		if err := demo.Serve(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	testkit.Main()
	os.Exit(m.Run())
}

// options are those of a short demo of the real baton, which keeps its files in a
// directory that the test looks at afterwards.
func options(t *testing.T) (o demo.Options, dir string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "d") // short: unix sockets lie below it
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	t.Setenv("TMPDIR", dir)
	t.Setenv("GORACE", "atexit_sleep_ms=10") // else each server lingers for 1 s
	self, err := os.Executable()             // serves when it is called so
	if err != nil {
		t.Fatal(err)
	}
	return demo.Options{Swaps: 4, Time: 1500 * time.Millisecond, Clients: 8,
		Launcher: []string{testkit.Binary(t)}, Target: []string{self, serveArg}}, dir
}

// nothingLeft fails the test when the demo left a file, or a process that has the
// directory in its environment.
func nothingLeft(t *testing.T, dir string) {
	t.Helper()
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("files left behind: %v %v", left, err)
	}
	testkit.Wait(t, func() bool { return running(t, dir) == 0 }, "the end of every process of the demo")
}

// running counts the processes of the demo that has the directory.
func running(t *testing.T, dir string) (n int) {
	t.Helper()
	found, err := filepath.Glob("/proc/[0-9]*/environ")
	if err != nil {
		t.Fatal(err)
	}
	mine := fmt.Sprintf("/proc/%d/environ", os.Getpid())
	for _, path := range found {
		// One that has just ended has no environment.
		if environment, err := os.ReadFile(path); err == nil && path != mine && bytes.Contains(environment, []byte("TMPDIR="+dir+"\x00")) {
			n++
		}
	}
	return n
}

func TestSteeringLosesNothingInTheDemo(t *testing.T) {
	testkit.Leaks(t)
	o, dir := options(t)
	var begun []string
	o.Begun = func(round string) { begun = append(begun, round) }
	report, err := demo.Run(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if report.Steered.Lost != 0 || report.Steered.Mode != "steered" || report.Shared.Mode != "shared" {
		t.Errorf("%+v", report)
	}
	for _, r := range []demo.Round{report.Shared, report.Steered} {
		if r.Swaps != o.Swaps || r.Generations != o.Swaps+1 {
			t.Errorf("%s: %d swaps, %d generations answered, of %d swaps", r.Mode, r.Swaps, r.Generations, o.Swaps)
		}
		if r.Requests < 100 || r.Steady.Requests == 0 || r.During.Requests == 0 ||
			r.Steady.Requests+r.During.Requests+r.Lost != r.Requests {
			t.Errorf("%s: %+v", r.Mode, r)
		}
	}
	if strings.Join(begun, ", ") != "one shared socket, kernel steering" {
		t.Errorf("began with %q", begun)
	}
	nothingLeft(t, dir)
}

func TestADemoThatIsInterruptedLeavesNothing(t *testing.T) {
	testkit.Leaks(t)
	o, dir := options(t)
	o.Time, o.Swaps = time.Minute, 1000
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() {
		_, err := demo.Run(ctx, o)
		ended <- err
	}()
	testkit.Wait(t, func() bool { return running(t, dir) == 3 }, "a swap: the launcher and two generations")
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("ended with %v", err)
	}
	nothingLeft(t, dir)
}

func TestADemoWhoseServerFailsSaysWhy(t *testing.T) {
	testkit.Leaks(t)
	o, dir := options(t)
	o.Target = testkit.Target("exit=3", "words=no such database")
	_, err := demo.Run(t.Context(), o)
	if err == nil || !strings.Contains(err.Error(), "exit status 3") {
		t.Errorf("ended with %v", err)
	}
	nothingLeft(t, dir)
}

func TestTheServerRefusesToRunByItself(t *testing.T) {
	t.Setenv("LISTEN_FDS", "1")
	t.Setenv("LISTEN_PID", "1")
	if err := demo.Serve(); err == nil {
		t.Error("it served")
	}
}

var sample = demo.Report{
	Clients: 16,
	Shared: demo.Round{Mode: "shared", Requests: 1_463_650, Swaps: 20, Lost: 57, Seconds: 5,
		Reasons: map[load.Reason]int{load.EOF: 50, load.Reset: 7}, Generations: 21,
		Steady: demo.Latency{Requests: 30_000, P50: 1_110_000, P99: 7_670_000, Max: 12_840_000},
		During: demo.Latency{Requests: 16_308, P50: 1_180_000, P99: 9_180_000, Max: 3_037_830_000}},
	Steered: demo.Round{Mode: "steered", Requests: 41_266, Swaps: 20, Seconds: 5, Generations: 21,
		Steady: demo.Latency{Requests: 30_000, P50: 210_000, P99: 670_000, Max: 24_640_000},
		During: demo.Latency{Requests: 11_266, P50: 430_000, P99: 220_000, Max: 125_100_000}},
}

const sampleTable = `
                               one shared socket     kernel steering
requests                               1,463,650              41,266
requests per second                      292,730               8,253
swaps                                         20                  20
generations that answered                     21                  21
lost                                          57                   0
  eof                                         50                   0
  reset                                        7                   0
latency, steady        p50               1.11 ms             0.21 ms
                       p99               7.67 ms             0.67 ms
                       max              12.84 ms            24.64 ms
latency, during swaps  p50               1.18 ms             0.43 ms
                       p99               9.18 ms             0.22 ms
                       max            3037.83 ms           125.10 ms
`

func TestTheTableIsReadableIn80Columns(t *testing.T) {
	var b strings.Builder
	if err := sample.Table(&b); err != nil {
		t.Fatal(err)
	}
	if got := "\n" + b.String(); got != sampleTable {
		t.Errorf("printed%s", got)
	}
	for line := range strings.Lines(sampleTable) {
		if len(line) > 81 {
			t.Errorf("%d columns: %s", len(line)-1, line)
		}
	}
}

func TestTheJSONIsTheReport(t *testing.T) {
	b, err := sample.JSON()
	if err != nil {
		t.Fatal(err)
	}
	var back demo.Report
	if err := json.Unmarshal(b, &back); err != nil {
		t.Fatal(err)
	}
	if fmt.Sprint(back) != fmt.Sprint(sample) {
		t.Errorf("%+v", back)
	}
}
