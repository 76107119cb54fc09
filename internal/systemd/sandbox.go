package systemd

import "strings"

// What a unit keeps from an application. The measure is that an ordinary server does not
// notice, and that systemd-analyze security calls the unit OK; each line says what it is
// for, so that who has to take one away knows what that costs.

// sandbox of a unit that the system's manager runs; dir is where the application works.
func sandbox(dir string, root bool) string {
	text := everywhere + ofSystem
	if root {
		text += ofRoot
	}
	if beneath(dir, "/usr", "/boot", "/efi", "/etc") {
		text += "# The application works below what ProtectSystem= makes read-only.\nReadWritePaths=" + quote(dir) + "\n"
	}
	return text
}

// beneath: a path lies below one of these. To be one of them is of no use: of two lines about
// the same path systemd takes the one that allows less.
func beneath(path string, dirs ...string) bool {
	for _, dir := range dirs {
		if strings.HasPrefix(path, dir+"/") {
			return true
		}
	}
	return false
}

// everywhere is what a user's own manager can do as well.
const everywhere = `
# What follows is kept from launcher and workers alike. A line is taken back by a drop-in
# (systemctl edit), which startup leaves alone; docs/boot.md says what to write for which.
#
# No program gets more rights than it is started with: sudo, for one, does not work.
NoNewPrivileges=yes
# Files that run as somebody else are not made, real-time scheduling is not asked for,
# and an executable is what it says. Servers have no use for any of it.
RestrictSUIDSGID=yes
RestrictRealtime=yes
LockPersonality=yes
# The sockets of servers. Without AF_NETLINK baton does not see its connections.
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK
# Calls that no server makes: to set the clock, load modules, reboot, swap, reach devices
# past the kernel, and those that are there for very old programs alone. Who makes one gets
# an error. A list of what is allowed would break more; programs of another architecture,
# 32 bits for one, would get around either.
SystemCallFilter=~@clock @cpu-emulation @module @obsolete @raw-io @reboot @swap
SystemCallErrorNumber=EPERM
SystemCallArchitectures=native
`

// ofSystem takes a mount namespace or privileges.
const ofSystem = `# The system's own files are read-only: /usr, /boot, /etc. Homes, /srv, /var, /run and /tmp
# are as ever, since applications live there and meet others there.
ProtectSystem=full
# No disks, no memory, no graphics: /dev has what every program needs.
PrivateDevices=yes
# The kernel's settings, modules and log, the clock and the machine's name are not an
# application's. The tree of control groups is, below its own: Delegate=.
ProtectKernelTunables=yes
ProtectKernelModules=yes
ProtectKernelLogs=yes
ProtectClock=yes
ProtectHostname=yes
PrivateMounts=yes
# What is left to root: files and users of any kind, low ports, and to look at workers that
# run as somebody else. Not left: to run the machine.
CapabilityBoundingSet=~CAP_SYS_ADMIN CAP_SYS_MODULE CAP_SYS_RAWIO CAP_SYS_BOOT CAP_SYS_TIME CAP_SYS_PACCT
CapabilityBoundingSet=~CAP_SYS_TTY_CONFIG CAP_SYSLOG CAP_MAC_ADMIN CAP_MAC_OVERRIDE CAP_MKNOD CAP_LINUX_IMMUTABLE
CapabilityBoundingSet=~CAP_AUDIT_CONTROL CAP_AUDIT_READ CAP_AUDIT_WRITE CAP_LEASE CAP_WAKE_ALARM CAP_BLOCK_SUSPEND
CapabilityBoundingSet=~CAP_NET_ADMIN CAP_BPF CAP_PERFMON
# Not here, since ordinary servers would break: MemoryDenyWriteExecute= (whatever compiles
# while it runs: Node, Java), PrivateTmp= (sockets in /tmp), ProtectHome=, UMask=,
# RestrictNamespaces= (a headless browser).
`

// ofRoot: a launcher without privileges would itself not see those of its workers that
// have changed their user, or may not be looked at.
const ofRoot = `# The launcher sees all processes, workers that run as somebody else those of their user.
ProtectProc=invisible
`
