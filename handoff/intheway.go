package handoff

import (
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"sync"

	"baton/internal/socket"
)

// inUse is how programs say that an address is taken: strerror(EADDRINUSE) in most
// languages, the constant's name in Node and Ruby.
//
// It is compiled when it is first needed, since this binary is also the shim.
var inUse = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`(?i)address (is )?(already )?in use|EADDRINUSE`)
})

// inTheWay says, of a worker that ended with these last lines, which port it can
// not have had: one of the launcher's own, which it should have taken over, or one
// that a worker of another generation has bound by itself and still holds. "" when
// nothing speaks for that.
func (s *Supervisor) inTheWay(g *generation, tail []string) string {
	said := strings.Join(tail, "\n")
	if !inUse().MatchString(said) {
		return ""
	}
	if own := s.ownPort(g, said); own != "" {
		return fmt.Sprintf("%s is baton's: the program must take its socket over instead of binding it (see protocols in the documentation)", own)
	}
	listening, err := socket.Listening()
	if err != nil {
		return "" // the hint is all that is lost
	}
	by, at := s.boundByOthers(g, listening, said)
	if at == "" {
		return ""
	}
	return fmt.Sprintf("generation %d has bound %s by itself and lives on, so no newcomer can bind it: make it a [[listen]], or let the program bind it with port 0", by, at)
}

// ownPort is the listener whose port the last words name, canonical; or "".
func (s *Supervisor) ownPort(g *generation, said string) string {
	for _, l := range g.listeners {
		a := l.Address()
		if a.Network == "unix" && strings.Contains(said, a.Path) || a.Network != "unix" && namesPort(said, a.Port) {
			return a.String()
		}
	}
	return ""
}

// boundByOthers returns the generation, and the addresses, that workers of other
// generations listen on without having got them from the launcher: those that the
// last words name, or else all.
func (s *Supervisor) boundByOthers(g *generation, listening map[uint64]netip.AddrPort, said string) (by int, at string) {
	lent := s.extra.inodes()
	for _, w := range s.workers {
		if w.gen == g.number || !w.running {
			continue
		}
		held, err := w.proc.Inodes()
		if err != nil {
			continue
		}
		var named, all []string
		for inode, addr := range listening {
			if !held[inode] || lent[inode] || s.givenTo(w, inode) {
				continue
			}
			all = append(all, addr.String())
			if namesPort(said, int(addr.Port())) {
				named = append(named, addr.String())
			}
		}
		if len(named) == 0 {
			named = all
		}
		if len(named) > 0 {
			slices.Sort(named)
			return int(w.gen), strings.Join(named, " and ")
		}
	}
	return 0, ""
}

// givenTo says whether the worker got this socket from the launcher.
func (s *Supervisor) givenTo(w *worker, inode uint64) bool {
	for _, given := range w.given {
		if given == inode {
			return true
		}
	}
	return false
}

// namesPort says whether a text names a port, not as a part of a longer number.
func namesPort(text string, port int) bool {
	return regexp.MustCompile(fmt.Sprintf(`(^|[^0-9])%d($|[^0-9])`, port)).MatchString(text)
}
