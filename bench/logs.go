package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"baton/internal/event"
)

// writeRate is what the worker writes in a second, in lines of 100 bytes.
const writeRate = 100_000_000

// logs measures what it costs a launcher to capture what its worker writes: CPU, memory,
// and whether the worker gets rid of it.
func logs(ctx context.Context, b *bench) error {
	tools, lacking, err := b.installExpress(ctx)
	if err != nil {
		return err
	}
	sides := []struct {
		name  string
		start func() (writing, error)
	}{{"baton", b.batonWriting}}
	if lacking != "" {
		b.report.note("logs: %s, so there is nothing to compare with", lacking)
	} else {
		b.report.note("logs: node %s, pm2 %s", tools.node, tools.pm2)
		for _, name := range []string{"PM2", "PM2 --time"} {
			sides = append(sides, struct {
				name  string
				start func() (writing, error)
			}{name, func() (writing, error) { return b.pm2Writing(tools, name != "PM2") }})
		}
	}
	all := map[string][]capturing{}
	for i := range b.pairs {
		for j := range sides { // each has been first as often
			s := sides[(i+j)%len(sides)]
			c, err := b.captured(ctx, s.start)
			if err != nil {
				return fmt.Errorf("%s: %w", s.name, err)
			}
			all[s.name] = append(all[s.name], c)
		}
	}
	for _, s := range sides {
		for _, f := range figures {
			b.report.add("logs", s.name+": "+f.name, f.unit, samplesOfCapturing(all[s.name], f.of), "")
		}
	}
	for _, s := range sides[1:] {
		for _, f := range figures[1:] {
			b.report.add("logs", f.name+", baton / "+s.name, "ratio",
				ratios(samplesOfCapturing(all[s.name], f.of), samplesOfCapturing(all["baton"], f.of)), "")
		}
	}
	return nil
}

// capturing is what one half found.
type capturing struct {
	rate float64 // 10^6 bytes that the worker wrote each second
	cpu  float64 // of one CPU, percent
	peak float64 // MB resident, at most
	size         // at the end
}

var figures = []struct {
	name, unit string
	of         func(capturing) float64
}{
	{"written by the worker", "MB/s", func(c capturing) float64 { return c.rate }},
	{"launcher's CPU for each 100 MB", "ms", func(c capturing) float64 { return c.cpu * 10 * 100 / c.rate }},
	{"launcher, resident at most", "MB", func(c capturing) float64 { return c.peak }},
	{"launcher: PSS", "MB", func(c capturing) float64 { return c.pss }},
}

func samplesOfCapturing(all []capturing, of func(capturing) float64) (samples []float64) {
	for _, c := range all {
		samples = append(samples, of(c))
	}
	return samples
}

// writing is a side whose worker writes.
type writing interface {
	start(ctx context.Context) error
	processes() ([]process, error)
	stop(ctx context.Context) error
}

func (b *bench) captured(ctx context.Context, prepare func() (writing, error)) (c capturing, err error) {
	s, err := prepare()
	if err != nil {
		return c, err
	}
	defer func() { err = errors.Join(err, s.stop(context.WithoutCancel(ctx))) }()
	if err := s.start(ctx); err != nil {
		return c, err
	}
	if err := rest(ctx, calm); err != nil {
		return c, err
	}
	all, err := s.processes()
	if err != nil {
		return c, err
	}
	if len(all) != 2 {
		return c, fmt.Errorf("%d processes, and not a launcher and a worker", len(all))
	}
	launcher, worker := all[0].pid, all[1].pid
	began := time.Now()
	cpu, wrote, err := spent(launcher, worker)
	if err != nil {
		return c, err
	}
	if err := rest(ctx, b.seconds); err != nil {
		return c, err
	}
	cpu2, wrote2, err := spent(launcher, worker)
	if err != nil {
		return c, err
	}
	took := time.Since(began).Seconds()
	c.cpu, c.rate = 100*(cpu2-cpu).Seconds()/took, float64(wrote2-wrote)/took/1e6
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", launcher))
	if err != nil {
		return c, err
	}
	if c.size, err = rollup(string(text)); err != nil {
		return c, err
	}
	peak, err := valueOf(fmt.Sprintf("/proc/%d/status", launcher), "VmHWM:")
	c.peak = float64(peak) * 1024 / 1e6
	return c, err
}

// spent is the CPU time of one process and the bytes that another has written, so far.
func spent(launcher, worker int) (cpu time.Duration, wrote int64, err error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", launcher))
	if err != nil {
		return 0, 0, err
	}
	fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
	if len(fields) < 13 {
		return 0, 0, errors.New("too few fields in stat")
	}
	for _, f := range fields[11:13] { // utime and stime, of USER_HZ, which is 100 (proc_pid_stat(5), fields 14 and 15)
		n, err := strconv.ParseInt(f, 10, 64)
		if err != nil {
			return 0, 0, err
		}
		cpu += time.Duration(n) * 10 * time.Millisecond
	}
	wrote, err = valueOf(fmt.Sprintf("/proc/%d/io", worker), "wchar:")
	return cpu, wrote, err
}

// valueOf is the number behind a word of a file in /proc.
func valueOf(path, word string) (int64, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	fields := strings.Fields(string(text))
	i := slices.Index(fields, word)
	if i < 0 || i+1 == len(fields) {
		return 0, fmt.Errorf("%s: no %s", path, word)
	}
	return strconv.ParseInt(fields[i+1], 10, 64)
}

// batonWriting captures with baton's defaults.
func (b *bench) batonWriting() (writing, error) {
	address, port, err := freePort()
	if err != nil {
		return nil, err
	}
	file := filepath.Join(b.dir, "logs-"+port+".toml")
	return &batonWriter{batonSide{b: b, dir: b.dir, file: file, address: address}},
		os.WriteFile(file, fmt.Appendf(nil, batonWrites, b.server, strconv.Itoa(writeRate), address), 0o644)
}

const batonWrites = `name = "bench"
[command]
exec = [%q, "-write", %q]
[[listen]]
address = %q
[logs]
output = "capture"
`

type batonWriter struct{ batonSide }

func (s *batonWriter) start(ctx context.Context) error {
	if err := s.batonSide.start(ctx); err != nil {
		return err
	}
	_, err := s.l.awaitEvent(ctx, event.Serving, 1)
	return err
}

func (s *batonWriter) stop(ctx context.Context) error {
	return errors.Join(s.batonSide.stop(ctx), os.RemoveAll(filepath.Join(s.dir, "home")))
}

// pm2Writing captures with PM2's defaults, or with the time of each line.
func (b *bench) pm2Writing(x *express, times bool) (writing, error) {
	address, _, err := freePort()
	if err != nil {
		return nil, err
	}
	home, err := os.MkdirTemp(b.dir, "pm2-home-")
	if err != nil {
		return nil, err
	}
	env := append(os.Environ(), "PM2_HOME="+home, "PM2_DISABLE_VERSION_CHECK=true")
	args := []string{"start", b.server, "--name", "bench", "--interpreter", "none"}
	if times {
		args = append(args, "--time")
	}
	args = append(args, "--", "-listen", address, "-write", strconv.Itoa(writeRate))
	return &pm2Writer{pm2Side{dir: x.dir, home: home, address: address, env: env}, args}, nil
}

type pm2Writer struct {
	pm2Side
	args []string
}

func (p *pm2Writer) start(ctx context.Context) error { return p.run(ctx, p.args...) }

func (p *pm2Writer) stop(ctx context.Context) error {
	return errors.Join(p.pm2Side.stop(ctx), os.RemoveAll(p.home)) // a second of it is 100 MB
}
