package process

// What is said between a program that is about to exec and the process that holds its
// signals: orders are lines, replies a byte, of which a refusal is followed by the rest
// of a line.
const (
	orderHold    = "hold"    // pid, thread, signal mask
	orderRelease = "release" // the exec failed
	OrderCaught  = "caught"  // the new program catches signals
	replyHeld    = 'h'
	replyRefused = 'n'
	replyFree    = 'f'
	replyGone    = 'g' // never said
)
