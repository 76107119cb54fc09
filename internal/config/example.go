package config

import _ "embed" // for Example

// Example is config.toml.example: every key with its default and one sentence.
// It is valid as it stands.
//
//go:embed example.toml
var Example string
