package logs

import (
	"bytes"
	"fmt"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func cpuTime(b *testing.B) time.Duration {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkCapture is from a worker's pipe to the file, rotation and all, of lines of 100
// bytes that come as fast as they are taken. The writer of the pipe is this process too,
// and part of the CPU time.
func BenchmarkCapture(b *testing.B) {
	line := append(bytes.Repeat([]byte("0123456789 abcdef "), 6)[:99], '\n')
	chunk := bytes.Repeat(line, 640)
	s, err := OpenStore(StoreOptions{Directory: b.TempDir(), MaxSize: 64 << 20, Keep: 4})
	if err != nil {
		b.Fatal(err)
	}
	c := NewCapture(s)
	o, err := c.Open(1, 0)
	if err != nil {
		b.Fatal(err)
	}
	fd, err := unix.Dup(o.Stdout())
	if err != nil {
		b.Fatal(err)
	}
	o.Started(os.Getpid())
	f := os.NewFile(uintptr(fd), "pipe")
	b.SetBytes(int64(len(line)))
	b.ReportAllocs()
	before := cpuTime(b)
	b.ResetTimer()
	for n := b.N; n > 0; n -= 640 {
		if _, err := f.Write(chunk[:min(n, 640)*len(line)]); err != nil {
			b.Fatal(err)
		}
	}
	f.Close()
	c.Close()
	s.Close()
	b.ReportMetric(float64(cpuTime(b)-before)/float64(b.N), "cpu-ns/line")
}

// BenchmarkSplit is the taking apart alone.
func BenchmarkSplit(b *testing.B) {
	for name, line := range map[string]string{
		"ascii":   "0123456789 abcdef 0123456789 abcdef 0123456789 abcdef 0123456789 abcdef 0123456789 abcdef 012345678",
		"json":    `{"level":"info","time":"2026-11-29T14:00:00Z","msg":"request done","path":"/index.html","status":200}`,
		"utf8":    "Grüße aus München: die Anfrage wurde in 12 ms beantwortet, und zwar völlig fehlerfrei, wie üblich hier",
		"binary":  "\xff\xfe binary and then some text that is plain but for these two bytes at its very beginning, alas",
		"colours": "\x1b[32minfo\x1b[39m: the request was answered in \x1b[1m12\x1b[22m ms and with nothing else to say about it",
	} {
		b.Run(name, func(b *testing.B) {
			s := &Store{buf: make([]byte, 0, 2*bufferSize)}
			src := &source{store: s, head: []byte(`","s":"out","g":3,"w":0,"pid":12345,"l":"`)}
			const lines = 640
			chunk := bytes.Repeat([]byte(line+"\n"), lines)
			b.SetBytes(int64(len(line) + 1))
			b.ReportAllocs()
			for n := 0; n < b.N; n += lines {
				s.buf = s.buf[:0]
				s.tick()
				src.split(chunk)
			}
			if len(s.buf) < lines*len(line) {
				b.Fatal(fmt.Sprint(len(s.buf), " bytes"))
			}
		})
	}
}
