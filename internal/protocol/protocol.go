// Package protocol is how a worker learns its sockets and says that it is ready.
//
// What it keeps: a worker sees the variables that are meant for it and none that
// were meant for the launcher; and a message counts only when a process of that
// worker sent it.
//
// It never starts or signals anything, and decides nothing about a message: it
// tells that it came.
package protocol

import (
	"slices"
	"strconv"
	"strings"
)

// ours are variables by which launchers of all kinds talk to the one process they
// start. The launcher's own copy is not for its children: a wrong LISTEN_PIDFDID
// makes sd_listen_fds(3) find nothing, and a foreign one makes a program believe
// that it was started by somebody else and look for descriptors it has not got.
var ours = []string{
	// systemd: sd_notify(3), sd_listen_fds(3), sd_watchdog_enabled(3).
	"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "FDSTORE", "MAINPID",
	"LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", "LISTEN_PIDFDID", "LISTEN_FDS_FIRST_FD",
	// Upgrades in place, by library.
	variable(tableflipVariable),
	"ECDYSIS_RUST_UPGRADE", "ECDYSIS_RUST_PIPE_FDS", "ECDYSIS_RUST_PIPE_READY",
	"OXY_NOTIFY_SOCKET", "OXY_HANDOVER_PIPE", "OXY_RESTART_SOCKET",
	variable(endlessVariable), "ENDLESS_SOCKET_ORDER",
	"OVERSEER_IS_SLAVE", "OVERSEER_SLAVE_ID", "OVERSEER_NUM_FDS", "OVERSEER_BIN_ID", "OVERSEER_BIN_PATH",
	"GOAGAIN_FD", "GOAGAIN_PID", "GOAGAIN_PPID", "GOAGAIN_SIGNAL", "GOAGAIN_NAME",
	// Upgrades in place, by server.
	"NGINX", "UNICORN_FD", "GUNICORN_FD", "GUNICORN_PID", "FPM_SOCKETS",
	// Launchers.
	"SOCKETMASTER_FD", "NOTIFY_FD", "CRANK_NAME",
	// node's child_process and cluster, PM2 among those who use them.
	"NODE_CHANNEL_FD", "NODE_CHANNEL_SERIALIZATION_MODE", "NODE_UNIQUE_ID",
}

// oursByPrefix are the ones that come in families. Not LISTEN_ or GUNICORN_: users
// configure programs with LISTEN_ADDR and GUNICORN_CMD_ARGS.
var oursByPrefix = []string{"SERVER_STARTER_", "EINHORN_", "PUMA_INHERIT_"}

// Scrub returns env without what was meant for the launcher itself. Use it on the
// launcher's own environment, before a user's variables are laid over it: who
// configures NGINX=3; for a worker means it. env is not changed.
func Scrub(env []string) []string {
	return slices.DeleteFunc(slices.Clone(env), func(kv string) bool {
		key, _, _ := strings.Cut(kv, "=")
		return slices.Contains(ours, key) ||
			slices.ContainsFunc(oursByPrefix, func(p string) bool { return strings.HasPrefix(key, p) })
	})
}

// Systemd returns the variables of sd_listen_fds(3) for descriptors 3, 4, ... in
// this order; none when there is no socket. LISTEN_PID is "self": only the worker's
// own process knows its pid, so internal/process puts it in.
func Systemd(s []Socket) []string {
	if len(s) == 0 {
		return nil
	}
	names := make([]string, len(s))
	for i := range s {
		names[i] = fdName(s[i].Name)
	}
	return []string{
		"LISTEN_FDS=" + strconv.Itoa(len(s)),
		"LISTEN_FDNAMES=" + strings.Join(names, ":"),
		"LISTEN_PID=self",
	}
}

// fdName makes a name that systemd's own check (fdname_is_valid: printable ASCII
// without ':', at most 255 bytes) lets through, one for one, so that the count of
// names stays that of descriptors. The configuration refuses what would be changed.
func fdName(name string) string {
	if name == "" {
		return "unknown" // as systemd calls a descriptor without a name
	}
	b := []byte(name)
	for i, c := range b {
		if c < ' ' || c >= 127 || c == ':' {
			b[i] = '_'
		}
	}
	return string(b[:min(len(b), 255)])
}
