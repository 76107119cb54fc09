package launcher

import (
	"runtime/debug"
	"time"

	"baton/internal/process"
)

// tidy gives what a start, a swap or a question needed back to the machine when it is
// over: memory, and pages of this program's own file.
func tidy() {
	debug.FreeOSMemory()
	_ = process.TrimCode() // they stay resident: nothing else depends on it
}

// afterwards is how long after the last question tidy follows: somebody who asks each
// second, as a live screen does, is not to have it all read anew each time.
const afterwards = 5 * time.Second
