// Package e2e holds the tests that show what baton promises, on the real
// binary with real servers, real load and real signals. There is no code here
// but tests; what they share with other packages' tests is in internal/testkit.
package e2e
