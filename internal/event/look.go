package event

// Ready is how many of the workers that the generation is to have are ready: who only
// serves what is left on a dead worker's slot is none of them.
func (g *Generation) Ready() int {
	n := 0
	for _, w := range g.Workers {
		if w.State == "ready" && w.Role == "member" {
			n++
		}
	}
	return n
}

// Shown is the generation that stands for the application where there is room for one:
// the one that serves, else the newest; nil when there is none.
func (r *Report) Shown() *Generation {
	for i := range r.Generations {
		if r.Generations[i].Phase == "serving" {
			return &r.Generations[i]
		}
	}
	if len(r.Generations) > 0 {
		return &r.Generations[0]
	}
	return nil
}
