package config

import (
	"fmt"
	"reflect"
	"slices"
)

func (d *decoder) canary(n *node, into *[]CanaryStep) {
	if !n.isList {
		d.wrong(n, "a list of tables", canaryHint)
		return
	}
	known := tagged(reflect.TypeFor[CanaryStep]())
	result := make([]CanaryStep, len(n.list))
	for i, item := range n.list {
		if item.table == nil {
			d.wrong(item, "a table", canaryHint)
			continue
		}
		d.table(item, reflect.ValueOf(&result[i]).Elem(), known)
	}
	*into = result
}

const canaryHint = `write it as in [{ weight = 5, for = "30s" }, { weight = 25, pause = true }]`

func (r *rules) checkCanary() {
	h, n := r.c.Handoff, r.section("handoff")
	list, by := n.find("canary"), n.find("canary_by")
	r.oneOf(by, string(h.CanaryBy), string(CanaryByConnection), string(CanaryByClient))
	if list == nil || list.isList && len(list.list) == 0 {
		if h.CanaryBy == CanaryByClient {
			r.fail(by, "has no effect without canary", "give canary its steps, or remove it")
		}
		return
	}
	if !list.isList {
		return // reported as of the wrong kind
	}
	if h.Swap == SwapRolling {
		r.fail(list, `does not go with swap = "rolling"`, "remove one: a canary is a share of everything, rolling is a worker at a time")
	}
	if !slices.ContainsFunc(r.c.Listen, Listener.steered) && len(r.c.Listen) > 0 {
		r.fail(list, "no listener can be divided by weight", `that takes steering = "auto"; remove it`)
	}
	for i, step := range h.Canary {
		r.checkCanaryStep(list.list[i], step)
		if before := max(0, i-1); i > 0 && step.Weight > 0 && step.Weight <= h.Canary[before].Weight {
			r.fail(list.list[i].near("weight"), fmt.Sprintf("weight %d is not above the %d before it", step.Weight, h.Canary[before].Weight),
				"each step gives the newcomer more")
		}
	}
}

func (r *rules) checkCanaryStep(item *node, step CanaryStep) {
	if item.table == nil {
		return // reported as of the wrong kind
	}
	switch weight := item.find("weight"); {
	case weight == nil:
		r.missing(item, item.key+".weight", "give the percentage of new connections, as in weight = 5")
	case !r.faulty(weight) && (step.Weight < 1 || step.Weight > 99):
		r.fail(weight, fmt.Sprintf("%d is not between 1 and 99", step.Weight), "after the last step the newcomer gets everything")
	}
	if r.faulty(item.find("for")) || r.faulty(item.find("pause")) {
		return
	}
	switch {
	case step.For == 0 && !step.Pause:
		r.fail(item, "never ends", `add for = "30s", or pause = true to wait for baton promote`)
	case step.For > 0 && step.Pause:
		r.fail(item.find("pause"), "does not go with for", "remove one: the step ends by time, or by hand")
	}
}
