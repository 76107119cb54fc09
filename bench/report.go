package main

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"os"
	"runtime"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// row is one figure: its samples, and what was wanted of their median.
type row struct {
	Part    string    `json:"part"`
	Name    string    `json:"name"`
	Unit    string    `json:"unit"` // "ms", "ratio", "1/s", "MB", "lost"
	Samples []float64 `json:"samples"`
	Median  float64   `json:"median"`
	P95     float64   `json:"p95"`
	Min     float64   `json:"min"`
	Max     float64   `json:"max"`
	Want    string    `json:"want,omitempty"`
	Met     *bool     `json:"met,omitempty"`
}

// report is what a run found, and on what.
type report struct {
	Date    time.Time `json:"date"`
	Command string    `json:"command"`
	Kernel  string    `json:"kernel"`
	CPU     string    `json:"cpu"`
	CPUs    int       `json:"cpus"`
	Go      string    `json:"go"`
	Load    string    `json:"load"` // /proc/loadavg before the run
	Rows    []row     `json:"rows"`
	Notes   []string  `json:"notes,omitempty"`
}

func newReport(args []string) report {
	return report{
		Date: time.Now().UTC(), Command: strings.Join(append([]string{"go run ./bench"}, args...), " "),
		Kernel: oneLine("/proc/sys/kernel/osrelease"), CPU: processor(), CPUs: runtime.NumCPU(),
		Go: runtime.Version(), Load: oneLine("/proc/loadavg"),
	}
}

func (r *report) machine() string {
	return fmt.Sprintf("%s: %d x %s, Linux %s, %s; load before: %s\n%s",
		r.Date.Format("2006-01-02 15:04 MST"), r.CPUs, r.CPU, r.Kernel, r.Go, r.Load, r.Command)
}

// add files samples under a name. want is "" or a bound on the median such as
// "<= 1.25" or ">= 0.99".
func (r *report) add(part, name, unit string, samples []float64, want string) {
	f := row{Part: part, Name: name, Unit: unit, Samples: samples, Want: want,
		Median: quantile(samples, 0.5), P95: quantile(samples, 0.95),
		Min: quantile(samples, 0), Max: quantile(samples, 1)}
	var sign string
	var bound float64
	if n, err := fmt.Sscanf(want, "%s %g", &sign, &bound); n == 2 && err == nil {
		met := sign == "<=" && f.Median <= bound || sign == ">=" && f.Median >= bound
		f.Met = &met
	}
	r.Rows = append(r.Rows, f)
}

func (r *report) note(format string, args ...any) {
	r.Notes = append(r.Notes, fmt.Sprintf(format, args...))
}

func (r *report) print(w io.Writer) {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "\npart\tfigure\tunit\tn\tmedian\tp95\tmin\tmax\twanted\t")
	for _, f := range r.Rows {
		met := ""
		if f.Met != nil {
			met = map[bool]string{true: "met", false: "MISSED"}[*f.Met]
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%d\t%s\t%s\t%s\t%s\t%s\t%s\n", f.Part, f.Name, f.Unit, len(f.Samples),
			number(f.Median), number(f.P95), number(f.Min), number(f.Max), f.Want, met)
	}
	_ = t.Flush() // to the terminal: there is nowhere to report its failure
	for _, n := range r.Notes {
		fmt.Fprintln(w, "-", n)
	}
}

func (r *report) write(file string) error {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	if err := e.Encode(r); err != nil {
		return err
	}
	return os.WriteFile(file, b.Bytes(), 0o644)
}

// quantile of samples: the smallest that at least the q-th part of them does not
// exceed; of an even number, the median is the mean of the two in the middle.
func quantile(samples []float64, q float64) float64 {
	if len(samples) == 0 {
		return math.NaN()
	}
	s := slices.Sorted(slices.Values(samples))
	if n := len(s); q == 0.5 && n%2 == 0 {
		return (s[n/2-1] + s[n/2]) / 2
	}
	i := int(math.Ceil(q*float64(len(s)))) - 1
	return s[min(max(i, 0), len(s)-1)]
}

func number(x float64) string {
	switch a := math.Abs(x); {
	case a >= 1000:
		return fmt.Sprintf("%.0f", x)
	case a >= 10:
		return fmt.Sprintf("%.1f", x)
	case x == math.Trunc(x):
		return fmt.Sprintf("%.0f", x)
	default:
		return fmt.Sprintf("%.3f", x)
	}
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

func oneLine(file string) string {
	text, err := os.ReadFile(file)
	if err != nil {
		return "unknown"
	}
	return strings.TrimSpace(string(text))
}

func processor() string {
	for line := range strings.Lines(oneLine("/proc/cpuinfo")) {
		if name, ok := strings.CutPrefix(line, "model name"); ok {
			return cmp.Or(strings.Trim(name, "\t\n :"), "unknown")
		}
	}
	return "unknown"
}
