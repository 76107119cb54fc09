package tui

// sample is one second of an application. Less than nothing was not known.
type sample struct {
	cpu         float64 // percent of one CPU
	memory      float64 // bytes
	restarts    int     // since the launcher started
	connections float64 // that are left where it drains
}

// history is the last ten minutes.
type history struct {
	samples []sample
	dropped int // samples that there were before
}

const remembered = 600

func (h *history) add(s sample) {
	if len(h.samples) == remembered {
		copy(h.samples, h.samples[1:])
		h.samples = h.samples[:remembered-1]
		h.dropped++
	}
	h.samples = append(h.samples, s)
}

// columns sums the history up for a graph of that width: the greatest value of as
// many seconds each as it takes. They are counted from the first sample there ever
// was, so that what has been drawn moves, and does not change.
func (h *history) columns(width int, of func(before, s sample) float64) []float64 {
	if width < 2 || len(h.samples) == 0 {
		return nil
	}
	each := (len(h.samples) + width - 2) / (width - 1) // one column may hold a part
	var out []float64
	for i, s := range h.samples {
		v := of(h.samples[max(0, i-1)], s)
		if i == 0 || (h.dropped+i)%each == 0 {
			out = append(out, v)
			continue
		}
		out[len(out)-1] = max(out[len(out)-1], v)
	}
	return out[max(0, len(out)-width):]
}

// What is drawn of a sample.
func ofCPU(_, s sample) float64           { return s.cpu }
func ofMemory(_, s sample) float64        { return s.memory }
func ofRestarts(before, s sample) float64 { return float64(max(0, s.restarts-before.restarts)) }
func ofConnections(_, s sample) float64   { return s.connections }
