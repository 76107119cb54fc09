package protocol

import (
	"bytes"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
)

func newline(fd int) Settings { return Settings{Kinds: []Kind{KindSystemd}, ReadyFD: fd} }

func TestANewlineOnItsDescriptorIsReady(t *testing.T) {
	for _, text := range []string{`\n`, `starting...\nmore`} {
		w := crewed(t, newline(7), two(t), nil, "sh", "-c", fmt.Sprintf(`printf '%s' >&7; exec 7>&-; exec sleep 60`, text))
		w.ready("a newline on descriptor 7")
		if w.log.String() != "" {
			t.Error(w.log)
		}
	}
}

func TestANewlineInPiecesIsReady(t *testing.T) {
	w := crewed(t, newline(5), two(t), nil, "sh", "-c", `printf a >&5; printf b >&5; printf '\n' >&5`)
	w.ready("a newline on descriptor 5")
}

func TestADescriptorClosedWithoutANewlineIsNotReady(t *testing.T) {
	w := crewed(t, newline(5), two(t), nil, "sh", "-c", `printf almost >&5; exec 5>&-; exec sleep 60`)
	w.logs("closed by the worker without a newline")
	if got, want := w.link.Hint(), "it closed descriptor 5 without writing a newline"; got != want {
		t.Errorf("hint %q, want %q", got, want)
	}
	w.silent()
}

func TestAWorkerThatSaysNothingHasNoHintYet(t *testing.T) {
	w := crewed(t, newline(5), two(t), nil, "sh", "-c", `printf half >&5; exec sleep 60`)
	eventually(t, "a hint", func() bool { return w.link.Hint() == "it wrote to descriptor 5, but no newline" })
	w.silent()
}

func TestALogOnTheReadyDescriptorIsCutOff(t *testing.T) {
	w := crewed(t, newline(5), two(t), nil, "sh", "-c", `trap '' PIPE; while printf '%1000s' x >&5; do :; done 2>/dev/null; echo cut off; exec sleep 60`)
	w.logs("no newline in what was written to it")
	w.says("cut off")
	w.silent()
	if n := w.log.count("\n"); n != 1 {
		t.Errorf("%d lines: %s", n, w.log)
	}
}

// FuzzReadyFD: whatever is written, in whatever pieces, ready is told once, and only
// by a newline that comes in time.
func FuzzReadyFD(f *testing.F) {
	f.Add([]byte("starting\n"), uint(3), uint(0))
	f.Add([]byte("\x00\xff"), uint(1), uint(9))
	f.Add([]byte("\n"), uint(1<<20), uint(maxUnended+1000))
	f.Fuzz(func(t *testing.T, text []byte, piece, before uint) {
		text = append(make([]byte, before%(2*maxUnended)), text...)
		box := make(inbox, 10)
		ch, err := openS6(nil, &Choice{Settings: Settings{ReadyFD: 5}}, &Worker{
			On: func(m Message) { box <- m }, Log: slog.New(slog.DiscardHandler),
		})
		if err != nil {
			t.Fatal(err)
		}
		defer ch.close()
		written := pour(t, ch.files()[0], text, int(piece%(1<<20)))
		ch.started()
		s := ch.(*s6)
		eventually(t, "it has an opinion", func() bool {
			return ended(s.pipe)
		})
		early := bytes.IndexByte(text, '\n')
		switch told := len(box); {
		case told > 1, told == 1 && early < 0:
			t.Errorf("told %d times of %q", told, text)
		case told == 0 && early >= 0 && early < maxUnended && early < written:
			t.Errorf("not told of %q", text)
		}
	})
}

// pour writes text to a worker's descriptor as the worker would, until nobody reads
// any more.
func pour(t *testing.T, fd int, text []byte, piece int) (written int) {
	t.Helper()
	own, err := duplicate(fd)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(own)
	for chunk := range slices.Chunk(text, max(piece, 1+len(text)/64)) {
		n, err := unix.Write(own, chunk)
		if err != nil {
			break // the launcher has closed its end
		}
		written += n
	}
	return written
}

// ended says whether the launcher's end is closed.
func ended(f *os.File) bool {
	raw, err := f.SyscallConn()
	return err != nil || raw.Control(func(uintptr) {}) != nil
}
