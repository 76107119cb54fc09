package launcher

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"strings"

	"baton/handoff"
	"baton/internal/config"
	"baton/internal/control"
	"baton/internal/keep"
	"baton/internal/process"
	"baton/internal/systemd"
	"baton/internal/upgrade"
)

// Inheritance is what a launcher before this one has left to it, and what systemd has
// given it.
type Inheritance struct {
	state *State // nil: nothing was left
	files *keep.Files
	// upgraded: this is the same process, and the workers are its children.
	upgraded bool
	// stored: the descriptors are in systemd's store as well.
	stored bool
	record *os.File        // that the State is written to; nil: another is needed
	given  []systemd.Given // sockets of .socket units
	// trouble is to be told once there is somebody to tell; nil: there is none.
	trouble error
}

// storePrefix is what descriptors in the store are called by besides their names, so that
// they are not taken for what a .socket unit gave.
const storePrefix = "baton."

// stored cuts storePrefix off. There may be a baton.socket, whose sockets are called so
// without a FileDescriptorName: what is ours is the State, or called by a letter, a number,
// and a dot.
func stored(called string) (name string, ours bool) {
	name, ours = strings.CutPrefix(called, storePrefix)
	kind, _, _ := strings.Cut(name, ".")
	return name, ours && (name == stateName || kind != "" && strings.Trim(kind[1:], "0123456789") == "")
}

// Inherit looks what there is. Call it once, first of all. An error says what was lost;
// the rest is there all the same.
func Inherit() (*Inheritance, error) {
	i := &Inheritance{files: &keep.Files{}}
	text, files, upgraded, err := upgrade.Resumed()
	if upgraded {
		if err == nil {
			i.files, i.upgraded = files, true
			_ = i.takeRecord() // there may be none
			i.state, err = decode(text)
		}
		if i.state != nil {
			i.given, err = takeGiven(i.state.Given, i.files)
		}
		return i, err
	}
	given, err := systemd.Descriptors()
	if err != nil {
		return i, err
	}
	return i, i.sort(given)
}

// sort tells what a launcher has stored from what else systemd gives.
func (i *Inheritance) sort(given []systemd.Given) error {
	for _, g := range given {
		if name, ours := stored(g.Name); ours && !i.files.Has(name) {
			i.files.Put(name, g.FD)
		} else {
			i.given = append(i.given, g)
		}
	}
	if i.stored = i.files.Len() > 0; !i.stored {
		return nil
	}
	err := i.takeRecord()
	if err == nil {
		i.state, err = stateIn(i.record, "")
	}
	if err == nil && i.state == nil {
		err = errors.New("it is empty, or older than the machine's start")
	}
	if err != nil {
		return fmt.Errorf("what a killed launcher left in systemd's store cannot be used: %w", err)
	}
	return nil
}

// takeRecord takes the file that the State is written to.
func (i *Inheritance) takeRecord() error {
	fd, err := i.files.Take(stateName)
	if err == nil {
		i.record = os.NewFile(uintptr(fd), stateName)
	}
	return err
}

// Config is the configuration that the launcher before this one began with; nil when
// there was none.
func (i *Inheritance) Config() *config.Config {
	if i.state == nil {
		return nil
	}
	k, err := originOf(i.state.Config)
	if err != nil {
		return nil // it is read from its file, like any other
	}
	return (*config.Config)(k.(*kept))
}

// First is the configuration to begin with: that of the launcher before this one when this
// is the same process, whatever lies on disk by now; else what load gives, or when that
// cannot be used and workers wait to be taken over, again that one.
func (i *Inheritance) First(load func() (*config.Config, error)) (*config.Config, error) {
	before := i.Config()
	if i.upgraded && before != nil {
		return before, nil
	}
	c, err := load()
	if err != nil && before != nil {
		i.trouble = fmt.Errorf("workers are taken over with the configuration that they were started with: %w", err)
		return before, nil
	}
	return c, err
}

// Upgraded says whether this process was another program before.
func (i *Inheritance) Upgraded() bool { return i.upgraded }

// find looks for what a killed launcher of the name left beside its control socket, when
// nothing came by systemd: its State, the sockets that its workers have, and nothing that
// was its own alone.
func (i *Inheritance) find(c *control.Claim, name string, log *slog.Logger) {
	if i.state != nil || c == nil {
		return
	}
	path := c.Beside(stateSuffix)
	file, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	if err == nil {
		defer file.Close() // only read
		i.state, err = stateIn(file, name)
	}
	if err != nil {
		log.Warn("what a killed launcher left cannot be used: "+err.Error(), "file", path)
	}
	if i.state == nil {
		return
	}
	live := i.state.Engine.Living()
	if len(live) == 0 {
		i.state = nil // nobody is left to take over
		return
	}
	sockets := i.state.Engine.Sockets()
	wanted := make(map[uint64]bool)
	for _, inode := range sockets {
		wanted[inode] = true
	}
	fds, err := process.Fetch(live, wanted)
	if err != nil {
		log.Warn("not all sockets of a killed launcher's workers could be fetched: " + err.Error())
	}
	for name, inode := range sockets {
		if fd, ok := fds[inode]; ok {
			i.files.Put(name, fd)
		}
	}
	if i.files.Len() == 0 {
		i.state = nil
	}
}

func stateIn(file *os.File, name string) (*State, error) {
	text, err := keep.Read(file)
	if errors.Is(err, keep.ErrNone) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	s, err := decode(text)
	switch {
	case err != nil:
		return nil, err
	case name != "" && s.Name != name:
		return nil, fmt.Errorf("it is of %s", s.Name)
	case s.Boot != process.Boot():
		return nil, nil // the machine was started since, and nothing is left
	}
	return s, nil
}

// names are those that are in systemd's store.
func (i *Inheritance) names() (names []string) {
	switch {
	case i.upgraded && i.state != nil:
		return i.state.Stored
	case i.stored:
		i.files.Each(func(name string, _ int) { names = append(names, name) })
		names = append(names, stateName)
	}
	return names
}

// living are the workers that are to be taken over.
func (i *Inheritance) living() []process.Mark {
	if i.state == nil {
		return nil
	}
	return i.state.Engine.Living()
}

// supervisor goes on with what was left, or when there is nothing, or it does not fit
// together, begins anew; then endLeft ends what else would be in the way.
func (i *Inheritance) supervisor(o handoff.Options, events *control.Feed, endLeft func()) *handoff.Supervisor {
	defer i.files.Close() // what nobody needed
	if i.state == nil {
		return handoff.New(o)
	}
	s, err := handoff.Resume(o, i.state.Engine, i.files)
	if err != nil {
		o.Log.Error("what the launcher before this one left cannot be taken over, and is ended: " + err.Error())
		i.state = nil
		endLeft()
		return handoff.New(o)
	}
	for _, e := range i.state.Events {
		events.Add(e)
	}
	return s
}

// settle says which of systemd's sockets the resumed listeners have.
func (i *Inheritance) settle(g *given, log *slog.Logger) {
	if i.state == nil {
		return
	}
	g.resumed(i.state.Engine, i.upgraded)
	var all []handoff.ListenerPlan
	for _, r := range i.state.Engine.Releases {
		all = append(all, r.Plan.Listeners...)
	}
	g.warn(log, all)
}

// resend has signals acted on that the program before this one had been told.
func (i *Inheritance) resend(caught *signals) {
	if i.state == nil || !i.upgraded {
		return
	}
	for _, c := range i.state.Caught {
		caught.take(c)
	}
}

// renamed has workers that are taken over under another name known by that one alone: else
// whoever ends what the old one has left would end them.
func (i *Inheritance) renamed(c *control.Claim, name string, log *slog.Logger) {
	if i.state == nil || c == nil || i.state.Name == name {
		return
	}
	log.Warn(fmt.Sprintf("%s was called %s by the launcher whose workers are taken over", name, i.state.Name))
	if err := ForgetLeft(c.Dir(), i.state.Name); err != nil {
		log.Warn(err.Error())
	}
}
