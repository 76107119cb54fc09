package launcher

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"syscall"
	"time"

	"baton/internal/event"
	"baton/internal/process"
)

// strayTime is how long what nobody knows may take to end while workers wait for their
// launcher.
const strayTime = 2 * time.Second

// strays ends processes of the unit that a launcher before this one has left and nobody
// knows: workers that it had no time to list, hooks, what a worker put into the
// background. The group is this process's alone, and before the engine begins nothing
// in it is its own. What belongs to a generation that is taken over is left alone.
func (r *parts) strays(spared []process.Mark) {
	look := func() ([]process.Mark, error) {
		all, err := r.unit.Processes()
		return unknown(all, spared, generationOf), err
	}
	h := r.first.Handoff
	by := Ending{Signal: syscall.SIGTERM, Grace: h.DrainTimeout, Hurry: r.caught.ending}
	if len(spared) > 0 {
		by.Grace = strayTime
	}
	by.Found = func(left []process.Mark) {
		r.manager.clearing(by.Grace + 2*killTime)
		r.tell(fmt.Sprintf("processes of %s that no launcher knows are ended: %s", r.unit.Name(), named(left)))
	}
	if err := by.end(look); err != nil {
		r.log.Warn(err.Error())
	}
}

// unknown are those of a unit's processes, which come with the generation whose group they
// are in, that belong to none of the spared, nor to one of their generations.
func unknown(all map[int]int, spared []process.Mark, generation func(pid, group int) int) []process.Mark {
	taken := make(map[int]bool)
	for _, m := range spared {
		taken[generation(m.PID, all[m.PID])] = true
	}
	delete(taken, 0)
	var pids []int
	for _, pid := range slices.Sorted(maps.Keys(all)) {
		if !taken[generation(pid, all[pid])] {
			pids = append(pids, pid)
		}
	}
	return process.Strangers(pids, spared)
}

// generationOf is a process's: by its group, else by what its worker was told; 0: neither
// says.
func generationOf(pid, group int) int {
	if group == 0 {
		group, _ = strconv.Atoi(process.Variable(pid, "BATON_GENERATION")) // "": 0
	}
	return group
}

// named lists processes with their names.
func named(marks []process.Mark) string {
	words := make([]string, len(marks))
	for i, m := range marks {
		words[i] = strconv.Itoa(m.PID)
		if args, _, err := process.CommandLine(m.PID); err == nil && len(args) > 0 { // else it has ended
			words[i] += " (" + args[0] + ")"
		}
	}
	return join(words)
}

// tell tells of what was found before there is an engine.
func (r *parts) tell(what string) {
	e := event.Event{Time: time.Now(), Kind: event.Finding, Message: what}
	record(r.log, e)
	if r.o.Observe != nil {
		r.o.Observe(e)
	}
}
