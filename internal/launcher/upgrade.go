package launcher

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"baton/handoff"
	"baton/internal/control"
	"baton/internal/keep"
	"baton/internal/process"
	"baton/internal/socket"
	"baton/internal/upgrade"
)

// upgrader replaces the launcher by the program that lies where it came from.
type upgrader struct {
	engine *handoff.Supervisor
	keeper *keeper
	claim  *claim
	out    *outputs
	caught *signals
	log    *slog.Logger
	busy   atomic.Bool
}

// ownPath is where this program came from, by the name that was used: what a symbolic
// link of it leads to by the time of an upgrade is what is wanted then. It is looked up
// at the start, since the file may be another one later.
func ownPath() string {
	own, err := os.Executable()
	if err != nil {
		own = ""
	}
	path := os.Args[0]
	if !strings.ContainsRune(path, filepath.Separator) {
		if path, err = exec.LookPath(path); err != nil {
			return own
		}
	}
	if path, err = filepath.Abs(path); err != nil || own == "" {
		return own
	}
	here, err1 := os.Stat(path)
	self, err2 := os.Stat("/proc/self/exe")
	if err := errors.Join(err1, err2); err != nil || !os.SameFile(here, self) {
		return own // the name is that of another program: a shell's, for one
	}
	return path
}

// cameFrom is looked at once, before anybody can have put another file there.
var cameFrom = ownPath()

// begin proves the program in a goroutine, which ends with the verdict, or with this
// program.
func (u *upgrader) begin(failed func(error)) {
	if u.busy.Swap(true) {
		failed(control.ErrUpgrading)
		return
	}
	go func() {
		err := u.run()
		u.busy.Store(false)
		u.log.Error("not upgraded: "+err.Error(), "path", cameFrom)
		failed(err)
	}()
}

// bySignal is begin for who gets no answer but in the log.
func (u *upgrader) bySignal() { u.begin(func(error) {}) }

// run returns why it was not done.
func (u *upgrader) run() error {
	u.log.Info("upgrade: trying "+cameFrom, "path", cameFrom)
	var text []byte
	var files *keep.Files
	err := u.engine.Freeze(func(take func() (handoff.State, *keep.Files)) (err error) {
		// Without what the name is claimed by: if this process were killed now, the next
		// launcher would find it taken for as long as the prover is there.
		text, files, err = u.all(take, func(*keep.Files) error { return nil })
		return err
	})
	if err != nil {
		return err
	}
	proof, err := upgrade.Prove(context.Background(), upgrade.Options{
		Path: cameFrom, State: text, Files: files,
		Warn: func(err error) { u.log.Warn("upgrade: " + err.Error()) },
	})
	files.Close()
	if err != nil {
		return err
	}
	defer proof.Close()
	u.log.Info("upgrade: baton "+proof.Version+" can go on with what there is", "path", cameFrom)
	return u.engine.Freeze(func(take func() (handoff.State, *keep.Files)) error { return u.become(proof, take) })
}

// become execs. Everything that was read and belongs to others is written down before.
func (u *upgrader) become(proof *upgrade.Proof, take func() (handoff.State, *keep.Files)) error {
	goOn := process.PauseCaught()
	defer goOn()
	unpause := u.out.pause(u.log)
	defer unpause()
	text, files, err := u.all(take, u.claim.keep)
	if err != nil {
		return err
	}
	defer files.Close()
	return proof.Exec(os.Args, os.Environ(), text, files)
}

// all is everything that the next program needs. The descriptors are copies: a worker
// that ends closes its own, whatever the engine does. One that has just closed some is
// asked for again.
func (u *upgrader) all(take func() (handoff.State, *keep.Files), claim func(*keep.Files) error) (text []byte, copies *keep.Files, err error) {
	for range 10 {
		st, files := take()
		if err := claim(files); err != nil {
			return nil, nil, fmt.Errorf("the control socket: %w", err)
		}
		if text, err = u.keeper.whole(st, files, u.caught.waits()); err != nil {
			return nil, nil, err
		}
		if copies, err = files.Dup(); !errors.Is(err, syscall.EBADF) {
			break
		}
	}
	return text, copies, err
}

// Prover is how this program shows that it can take another launcher's place.
func Prover(version string) upgrade.Prover {
	return upgrade.Prover{
		Version: version,
		Check: func(text []byte, files *keep.Files) (what string, err error) {
			s, err := decode(text)
			if err != nil {
				return "", err
			}
			if err := s.check(files); err != nil {
				return "", fmt.Errorf("state: %w", err)
			}
			if err := steers(s); err != nil {
				return "", err
			}
			b, err := json.Marshal(successor{Name: s.Name, PID: s.Writer.PID, Resumed: s.Engine.Resumed + 1, Control: s.Control})
			return string(b), err
		},
		Answers: func(ctx context.Context, what string) error {
			var s successor
			if err := json.Unmarshal([]byte(what), &s); err != nil {
				return err
			}
			return s.answers(ctx)
		},
	}
}

// successor is who is to answer after an upgrade.
type successor struct {
	Name    string
	PID     int
	Resumed int
	Control bool
}

// check says why nothing can be made of a State.
func (s *State) check(files *keep.Files) error {
	if _, err := originOf(s.Config); err != nil {
		return err
	}
	for _, r := range s.Engine.Releases {
		if _, err := originOf(r.Origin); err != nil {
			return fmt.Errorf("release of generation %d: %w", r.Number, err)
		}
	}
	for _, w := range s.Engine.Workers {
		if err := outputIs(w.Output); err != nil {
			return fmt.Errorf("worker %d: output: %w", w.ID, err)
		}
	}
	if err := checkGiven(s.Given, files); err != nil {
		return err
	}
	return s.Engine.Check(files)
}

// steers says why this program, here, cannot steer as the one before did.
func steers(s *State) error {
	steered := false
	for _, l := range s.Engine.Listeners {
		steered = steered || l.Socket.Mode == socket.Steered
	}
	if !steered {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	l, err := socket.Listen(ctx, socket.Address{Network: "tcp", Host: "127.0.0.1"}, socket.Options{UID: -1, GID: -1})
	if err != nil {
		return fmt.Errorf("self-test of steering: %w", err)
	}
	defer func() { _ = l.Close() }() // nobody has connected but the test
	if l.Mode() != socket.Steered {
		return fmt.Errorf("self-test of steering: %s", l.Reason())
	}
	return nil
}

// answers asks who is there.
func (s *successor) answers(ctx context.Context) error {
	if !s.Control {
		return nil // there is nobody to ask
	}
	dir, err := control.Home()
	if err != nil {
		return err
	}
	r, err := control.In(dir, s.Name).Glance(ctx)
	switch {
	case err != nil:
		return err
	case r.PID != s.PID:
		return fmt.Errorf("pid %d answers, not pid %d", r.PID, s.PID)
	case r.Resumed < s.Resumed:
		return errors.New("the launcher before answers")
	}
	return nil
}
