package config

import (
	"fmt"
	"slices"
	"strings"
)

// capabilities are the names of capabilities(7), in the kernel's order.
var capabilities = strings.Fields(`CAP_CHOWN CAP_DAC_OVERRIDE CAP_DAC_READ_SEARCH CAP_FOWNER CAP_FSETID CAP_KILL
	CAP_SETGID CAP_SETUID CAP_SETPCAP CAP_LINUX_IMMUTABLE CAP_NET_BIND_SERVICE CAP_NET_BROADCAST CAP_NET_ADMIN
	CAP_NET_RAW CAP_IPC_LOCK CAP_IPC_OWNER CAP_SYS_MODULE CAP_SYS_RAWIO CAP_SYS_CHROOT CAP_SYS_PTRACE CAP_SYS_PACCT
	CAP_SYS_ADMIN CAP_SYS_BOOT CAP_SYS_NICE CAP_SYS_RESOURCE CAP_SYS_TIME CAP_SYS_TTY_CONFIG CAP_MKNOD CAP_LEASE
	CAP_AUDIT_WRITE CAP_AUDIT_CONTROL CAP_SETFCAP CAP_MAC_OVERRIDE CAP_MAC_ADMIN CAP_SYSLOG CAP_WAKE_ALARM
	CAP_BLOCK_SUSPEND CAP_AUDIT_READ CAP_PERFMON CAP_BPF CAP_CHECKPOINT_RESTORE`)

// Capabilities are the names that Command.Ambient may have.
func Capabilities() []string { return slices.Clone(capabilities) }

// checkRights holds what the program may do to what there is. What baton itself may
// hand on is for later.
func (r *rules) checkRights(n *node) {
	c := &r.c.Command
	r.oneOf(n.find("new_privileges"), string(c.NewPrivileges),
		string(NewPrivilegesAuto), string(NewPrivilegesAllow), string(NewPrivilegesRefuse))
	seen := map[string]bool{}
	for i, given := range c.Ambient {
		at := n.find("ambient")
		if at.isList && i < len(at.list) {
			at = at.list[i]
		}
		name := "CAP_" + strings.TrimPrefix(strings.ToUpper(given), "CAP_")
		switch {
		case !slices.Contains(capabilities, name):
			hint := "capabilities(7) has the names, as in \"CAP_NET_BIND_SERVICE\""
			if near := Nearest(name, capabilities); near != "" {
				hint = fmt.Sprintf("did you mean %q?", near)
			}
			r.fail(at, fmt.Sprintf("%q is not a capability", given), hint)
		case seen[name]:
			r.fail(at, fmt.Sprintf("%q is named twice", given), "leave one of them out")
		}
		seen[name], c.Ambient[i] = true, name
	}
}
