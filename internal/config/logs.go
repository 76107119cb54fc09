package config

import (
	"fmt"
	"time"
)

// checkLogs refuses what has no effect only where the file says itself that nothing is
// captured: the same file serves baton start, which captures unless it is told not to.
func (r *rules) checkLogs() {
	c, usual, n := r.c.Logs, Default().Logs, r.root.find("logs")
	if n == nil || n.table == nil {
		return
	}
	output := n.find("output")
	r.oneOf(output, c.Output, OutputPass, OutputInherit, OutputCapture)
	if c.MaxAge > 0 && c.MaxAge < time.Minute {
		r.fail(n.find("max_age"), "must be a minute at least", `write "0s" for any age`)
	}
	if at := n.find("keep"); c.Keep < 1 && !r.faulty(at) {
		r.fail(at, "must be at least 1", "the file that is written to is one of them")
	}
	if output == nil || c.Output == OutputCapture || r.faulty(output) {
		return
	}
	for _, k := range []struct {
		key  string
		said bool
	}{
		{"max_size", c.MaxSize != usual.MaxSize},
		{"max_age", c.MaxAge != usual.MaxAge},
		{"keep", c.Keep != usual.Keep},
		{"compress", c.Compress != usual.Compress},
	} {
		if at := n.find(k.key); k.said && at != nil && !r.faulty(at) {
			r.fail(at, fmt.Sprintf("has no effect with output = %q", c.Output), `set output = "capture" or remove it`)
		}
	}
}
