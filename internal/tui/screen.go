package tui

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"baton/internal/control"
	"baton/internal/event"

	tea "charm.land/bubbletea/v2"
)

// The panes that the keys can be given to.
const (
	listPane = iota
	workerPane
	logPane
	panes
)

// screen is the whole state. Only Update changes it, and only View reads it besides:
// both are called by the library's loop alone.
type screen struct {
	o    Options
	look look
	ctx  context.Context // of every question

	width, height int
	now           time.Time
	listed        time.Time // when the directory was looked at
	listing       bool
	answered      bool // it has been, once

	apps     []*application // by name
	selected string
	focus    int
	appsTop  int // the first that is shown
	row      int // of the workers' table, that is selected
	rowTop   int

	log     journal
	help    bool
	ask     *question // nil: nothing is asked
	message cell      // what came of the last action
}

func newScreen(ctx context.Context, o Options, l look) *screen {
	return &screen{o: o, look: l, ctx: ctx, selected: o.Name, now: time.Now()}
}

// What the commands answer.
type (
	tickMsg time.Time
	listMsg struct {
		names []string
		rest  []*event.Report // of those that don't run
		err   error
	}
	reportMsg struct {
		name   string
		report *event.Report
		err    error
		at     time.Time
	}
)

func (s *screen) Init() tea.Cmd { return func() tea.Msg { return tickMsg(time.Now()) } }

// Update takes in one message.
func (s *screen) Update(msg tea.Msg) (tea.Model, tea.Cmd) {
	switch msg := msg.(type) {
	case tea.WindowSizeMsg:
		s.width, s.height = msg.Width, msg.Height
	case tea.KeyPressMsg:
		return s, s.key(msg)
	case tea.PasteMsg:
		s.log.paste(msg.Content)
	case tickMsg:
		s.now = time.Time(msg)
		tick := tea.Tick(closer, func(t time.Time) tea.Msg { return tickMsg(t) })
		return s, tea.Batch(tick, s.questions())
	case listMsg:
		return s, s.found(msg)
	case reportMsg:
		return s, s.reported(msg)
	case followedMsg:
		return s, s.followed(msg)
	case linesMsg:
		return s, s.read(msg)
	case doneMsg:
		return s, s.done(msg)
	}
	return s, nil
}

// questions asks whom it is time to ask, each beside the others.
func (s *screen) questions() tea.Cmd {
	var all []tea.Cmd
	if !s.listing && s.now.Sub(s.listed) >= calm {
		s.listing, s.listed = true, s.now
		all = append(all, func() tea.Msg {
			return s.o.looked()
		})
	}
	for _, a := range s.apps {
		if a.ended || a.asking || s.now.Before(a.due) {
			continue
		}
		a.asking = true
		all = append(all, s.status(a.name))
	}
	return tea.Batch(all...)
}

// looked is who runs, and who does not.
func (o Options) looked() listMsg {
	names, err := control.List(o.Directory)
	if err != nil || o.Rest == nil {
		return listMsg{names: names, err: err}
	}
	rest, err := o.Rest(names)
	return listMsg{names, rest, err}
}

// patience is how long a launcher may take over its state before it is called silent.
const patience = 3 * time.Second

func (s *screen) status(name string) tea.Cmd {
	client := control.In(s.o.Directory, name)
	return func() tea.Msg {
		ctx, cancel := context.WithTimeoutCause(s.ctx, patience, fmt.Errorf("none within %v", patience))
		defer cancel()
		report, err := client.Status(ctx)
		return reportMsg{name, report, err, time.Now()}
	}
}

// found takes in which launchers there are, and which applications without. One that
// was there stays on the screen when it has ended: that it did is what somebody may want
// to see.
func (s *screen) found(msg listMsg) tea.Cmd {
	s.listing, s.answered = false, true
	if msg.err != nil {
		s.say(bad, msg.err.Error())
		return nil
	}
	for _, name := range msg.names {
		a := s.app(name)
		if a == nil {
			a = &application{name: name}
			s.apps = append(s.apps, a)
		}
		if a.ended {
			a.ended, a.rest, a.due = false, nil, time.Time{}
		}
	}
	for _, a := range s.apps {
		if !slices.Contains(msg.names, a.name) {
			s.end(a)
			a.rest = nil
		}
	}
	s.resting(msg.rest)
	slices.SortFunc(s.apps, func(a, b *application) int { return strings.Compare(a.name, b.name) })
	cmd := s.questions()
	if s.app(s.selected) == nil && len(s.apps) > 0 {
		first := slices.IndexFunc(s.apps, func(a *application) bool { return !a.ended })
		return tea.Batch(cmd, s.choose(first))
	}
	return cmd
}

// resting takes in who does not run. Of those that never did since the screen is up, one
// that was forgotten meanwhile goes.
func (s *screen) resting(all []*event.Report) {
	for _, r := range all {
		a := s.app(r.Name)
		if a == nil {
			a = &application{name: r.Name, ended: true}
			s.apps = append(s.apps, a)
		}
		if a.ended {
			a.rest = r
		}
	}
	s.apps = slices.DeleteFunc(s.apps, func(a *application) bool { return a.ended && a.report == nil && a.rest == nil })
}

func (s *screen) end(a *application) {
	if !a.ended {
		a.ended, a.err, a.percent, a.spent = true, nil, nil, nil
		a.note(s.now, "baton has ended")
	}
}

func (s *screen) reported(msg reportMsg) tea.Cmd {
	a := s.app(msg.name)
	if a == nil {
		return nil
	}
	if errors.Is(msg.err, control.ErrNotRunning) {
		a.asking = false
		s.end(a)
		s.listed = time.Time{} // who does not run is told there
		return nil
	}
	had, fresh := len(a.notices), a.report == nil || msg.err == nil && msg.report.PID != a.report.PID
	a.learn(msg.report, msg.err, msg.at)
	if a.name != s.selected {
		return nil
	}
	if !s.log.open {
		s.log.hold(len(a.notices) - had)
	}
	s.row = max(0, min(s.row, len(s.workers())-1))
	if fresh { // it may have a log now
		return s.follow()
	}
	return nil
}

// app is the one of that name; nil: there is none.
func (s *screen) app(name string) *application {
	if i := slices.IndexFunc(s.apps, func(a *application) bool { return a.name == name }); i >= 0 {
		return s.apps[i]
	}
	return nil
}

// at is the place of the selected one in the list.
func (s *screen) at() int {
	return slices.IndexFunc(s.apps, func(a *application) bool { return a.name == s.selected })
}

// choose selects the application at a place in the list.
func (s *screen) choose(i int) tea.Cmd {
	if len(s.apps) == 0 {
		return nil
	}
	i = max(0, min(i, len(s.apps)-1))
	if s.apps[i].name == s.selected {
		return nil
	}
	s.selected, s.row, s.rowTop = s.apps[i].name, 0, 0
	return s.follow()
}

// say puts words into the line of messages.
func (s *screen) say(t tone, text string) { s.message = cell{clean(text), t} }
