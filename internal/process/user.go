package process

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/user"
	"slices"
	"strconv"
	"strings"
)

// identity is who the target runs as. It is looked up by the launcher, where files
// may be opened and errors told at leisure; the shim only sets numbers.
type identity struct {
	UID    int // -1: unchanged
	GID    int
	Groups []int

	name, home, shell string
}

// lookup resolves a user and a group, each by name or number, as the user
// database says now. nil: nothing is to change.
func lookup(userName, groupName string) (*identity, error) {
	if userName == "" && groupName == "" {
		return nil, nil
	}
	id := &identity{UID: -1, GID: -1}
	if groupName != "" {
		gid, err := lookupGroup(groupName)
		if err != nil {
			return nil, err
		}
		id.GID, id.Groups = gid, []int{gid}
	}
	if userName == "" {
		return id, nil
	}
	u, err := lookupUser(userName)
	if err != nil {
		n, numeric := parseID(userName)
		if !numeric || id.GID < 0 {
			return nil, err
		}
		// A number nobody is registered under, as containers have them: allowed
		// when a group is named; there is no home to speak of.
		id.UID, id.name, id.home, id.shell = n, userName, "/", "/bin/sh"
		return id, nil
	}
	return id, id.fill(u)
}

func (id *identity) fill(u *user.User) error {
	var ok bool
	if id.UID, ok = parseID(u.Uid); !ok {
		return fmt.Errorf("user %s: uid %q is not a number", u.Username, u.Uid)
	}
	if id.GID < 0 {
		if id.GID, ok = parseID(u.Gid); !ok {
			return fmt.Errorf("user %s: gid %q is not a number", u.Username, u.Gid)
		}
	}
	groups, err := u.GroupIds()
	if err != nil {
		return fmt.Errorf("user %s: groups: %w", u.Username, err)
	}
	// As initgroups(3): the groups that list the user, and the primary one.
	id.Groups = []int{id.GID}
	for _, g := range groups {
		if n, ok := parseID(g); ok && !slices.Contains(id.Groups, n) {
			// u.GroupIds begins with the user's own primary group, which initgroups
			// with another group leaves out.
			if g == u.Gid && n != id.GID {
				continue
			}
			id.Groups = append(id.Groups, n)
		}
	}
	id.name, id.home, id.shell = u.Username, u.HomeDir, loginShell(u.Username)
	return nil
}

func lookupUser(name string) (*user.User, error) {
	u, err := user.Lookup(name)
	if err == nil {
		return u, nil
	}
	if _, numeric := parseID(name); numeric {
		if u, err := user.LookupId(name); err == nil {
			return u, nil
		}
		return nil, fmt.Errorf("user %s: no such user, and no group is named", name)
	}
	var unknown user.UnknownUserError
	if errors.As(err, &unknown) {
		return nil, fmt.Errorf("user %s: no such user", name)
	}
	return nil, fmt.Errorf("user %s: %w", name, err)
}

func lookupGroup(name string) (int, error) {
	g, err := user.LookupGroup(name)
	if err == nil {
		name = g.Gid
	}
	if n, numeric := parseID(name); numeric {
		return n, nil
	}
	var unknown user.UnknownGroupError
	if errors.As(err, &unknown) {
		return 0, fmt.Errorf("group %s: no such group", name)
	}
	return 0, fmt.Errorf("group %s: %w", name, err)
}

// parseID reads a uid or gid. 2^32-1 is not one: setuid(2) takes it for "leave".
func parseID(s string) (int, bool) {
	n, err := strconv.ParseUint(s, 10, 32)
	if err != nil || n == 1<<32-1 {
		return 0, false
	}
	return int(n), true
}

// loginShell is the seventh field of passwd(5), which os/user does not tell.
func loginShell(name string) string {
	f, err := os.Open("/etc/passwd")
	if err != nil {
		return "/bin/sh" // users may come from elsewhere; the shell is a courtesy
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		p := strings.Split(lines.Text(), ":")
		if len(p) >= 7 && p[0] == name && p[6] != "" {
			return p[6]
		}
	}
	return "/bin/sh"
}
