package config

import (
	"fmt"
	"math"
	"reflect"
	"slices"
	"strconv"
)

// What keeps an application going between swaps: how many workers, when one of them
// is replaced, and who is told.

func (d *decoder) workers(n *node, into *int) {
	const hint = `write a number, or "max" for one per CPU`
	v, ok := n.scalar.(int64)
	switch s, isString := n.scalar.(string); {
	case s == "max":
		*into = 0
	case isString:
		if _, err := strconv.Atoi(s); err == nil {
			d.wrong(n, "a whole number", "write "+s+" without quotes")
		} else {
			d.fail(n, fmt.Sprintf("%q is not a number of workers", s), hint)
		}
	case !ok:
		d.wrong(n, "a whole number", hint)
	case v < 1:
		d.fail(n, "must be at least 1", hint)
	case v > MaxWorkers:
		d.fail(n, fmt.Sprintf("%d workers are more than baton starts", v), fmt.Sprintf("write %d at most", MaxWorkers))
	default:
		*into = int(v)
	}
}

// leastMemory is what no limit can be below: a number without its unit is.
const leastMemory = 1 << 20

// size reads bytes, with the suffixes of command.limits; "" is 0, for none.
func (d *decoder) size(n *node, into *int64, form string) {
	const hint = `write it in quotes and with its unit, as in "500M" or "2G"`
	s, ok := n.scalar.(string)
	if !ok {
		d.wrong(n, "a size", hint)
		return
	}
	if s == "" && form != "file" {
		*into = 0
		return
	}
	v, ok := limitValue(s)
	switch {
	case ok && v == math.MaxUint64 && form == "file":
		d.fail(n, fmt.Sprintf("%q is no size", s), hint)
	case ok && v == math.MaxUint64:
		d.fail(n, fmt.Sprintf("%q is no size", s), `write "" for none`)
	case !ok || v > math.MaxInt64:
		d.fail(n, fmt.Sprintf("%q is not a size", s), hint)
	case v < leastMemory && form == "file":
		d.fail(n, fmt.Sprintf("%q is too little for a file", s), `write "1M" at least`)
	case v < leastMemory:
		d.fail(n, fmt.Sprintf("%q is less than any program needs", s), hint)
	default:
		*into = int64(v)
	}
}

// sizeText writes bytes in the largest unit that leaves no rest.
func sizeText(v int64) string {
	if v == 0 {
		return ""
	}
	unit := ""
	for _, next := range []string{"K", "M", "G", "T"} {
		if v%1024 != 0 {
			break
		}
		v, unit = v/1024, next
	}
	return strconv.FormatInt(v, 10) + unit
}

func (r *rules) checkWatch() {
	for i, path := range r.c.Watch {
		if n := r.root.find("watch"); path == "" && i < len(n.list) {
			r.fail(n.list[i], "names no path", "remove it")
		}
	}
}

func (r *rules) checkStopExitCodes(n *node) {
	codes := r.c.Restart.StopExitCodes
	for i, code := range codes {
		switch item := n.list[i]; {
		case r.faulty(item):
		case code > math.MaxUint8:
			r.fail(item, fmt.Sprintf("%d is not an exit code", code), "they go from 0 to 255")
		case slices.Contains(codes[:i], code):
			r.fail(item, fmt.Sprintf("%d is named twice", code), "remove it")
		}
	}
}

func (r *rules) checkHooks() {
	h, n := reflect.ValueOf(r.c.Hooks), r.root.find("hooks")
	asked := false
	for _, f := range keysOf(h.Type()) {
		if command, ok := h.FieldByIndex(f.Index).Interface().([]string); ok {
			r.program(n.find(f.Tag.Get("toml")), command)
			asked = asked || len(command) > 0
		}
	}
	switch timeout := n.find("timeout"); {
	case r.c.Hooks.Timeout <= 0:
		r.fail(timeout, "must be above 0", "a hook that hangs has to be given up at some time")
	case !asked && r.c.Hooks.Timeout != Default().Hooks.Timeout:
		r.fail(timeout, "has no effect: there is no hook", `give one, as in crash = ["./alert"], or remove it`)
	}
}

// program refuses a command whose program is the empty string.
func (r *rules) program(n *node, command []string) {
	if n != nil && len(command) > 0 && command[0] == "" {
		r.fail(n, "the program is an empty string", `give it, as in ["./program", "argument"]`)
	}
}
