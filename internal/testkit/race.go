//go:build race

package testkit

// Raced tells whether the tests run under the race detector, for the few that
// measure time or memory.
const Raced = true
