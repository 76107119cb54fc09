// Package examples holds programs as their users write them, each in a folder with
// the baton.toml that runs it, and the test that runs every one of them under the
// real baton. There is no code here but that test: an example is read, copied, and
// started by its own configuration, as it stands in its folder.
package examples
