package watch

import (
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// survey is where the given paths lead: the directories in which something would
// have to happen for one of them to change. Directories are watched and never
// files, since a watch on a file stays with what was there when it is replaced.
type survey struct {
	places map[string]*place // by path without links
}

// place is one directory.
type place struct {
	info  fs.FileInfo
	names map[string]set // entries that lead to a given path
	whole set            // given paths to which everything in it belongs
	ends  bool           // an entry is more than a directory on the way
}

// set is one of given paths.
type set map[string]bool

// maxLinks is the kernel's, of one path (path_resolution(7)).
const maxLinks = 40

func newSurvey(paths []string) *survey {
	s := &survey{places: map[string]*place{}}
	for _, given := range paths {
		if real, info := s.follow(given, given); info != nil && info.IsDir() {
			s.tree(given, real)
		}
	}
	return s
}

// needed tells whether a given path cannot be watched without this place. A
// directory on the way is watched for the case that it is moved.
func (p *place) needed() bool { return p.ends || len(p.whole) > 0 }

// at is the place of a directory; nil when it is none.
func (s *survey) at(dir string) *place {
	if p := s.places[dir]; p != nil {
		return p
	}
	info, err := os.Lstat(dir)
	if err != nil || !info.IsDir() {
		return nil
	}
	p := &place{info: info, names: map[string]set{}, whole: set{}}
	s.places[dir] = p
	return p
}

// follow goes from the root along a path that belongs to a given one, through its
// links, and notes every entry on the way. It returns where the path ends; nil: it
// leads nowhere, and the entry that is missing is noted.
func (s *survey) follow(given, path string) (real string, info fs.FileInfo) {
	const root = string(filepath.Separator)
	at, links := root, 0
	rest := strings.Split(path, root)
	for len(rest) > 0 {
		name := rest[0]
		rest = rest[1:]
		switch name {
		case "", ".":
			continue
		case "..":
			at = filepath.Dir(at)
			continue
		}
		p := s.at(at)
		if p == nil {
			return "", nil
		}
		if p.names[name] == nil {
			p.names[name] = set{}
		}
		p.names[name][given] = true
		next := filepath.Join(at, name)
		entry, err := os.Lstat(next)
		if err != nil || !entry.IsDir() {
			p.ends = true
		}
		switch {
		case err != nil:
			return "", nil
		case entry.Mode()&fs.ModeSymlink == 0:
			at = next
			continue
		}
		to, err := os.Readlink(next)
		if links++; err != nil || links > maxLinks {
			return "", nil
		}
		if filepath.IsAbs(to) {
			at = root
		}
		rest = append(strings.Split(to, root), rest...)
	}
	info, err := os.Lstat(at)
	if err != nil {
		return "", nil
	}
	return at, info
}

// tree notes a directory and all below it as belonging to a given path. Links are
// followed, but not upwards, to where they would lead into themselves.
func (s *survey) tree(given, dir string) {
	p := s.at(dir)
	if p == nil || p.whole[given] {
		return
	}
	p.whole[given] = true
	entries, err := os.ReadDir(dir)
	if err != nil {
		return // gone, or not to be read: then it cannot be watched either, and that is told
	}
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		switch {
		case dropping(e.Name()):
		case e.IsDir() && !private(e.Name()):
			s.tree(given, path)
		case e.Type()&fs.ModeSymlink != 0:
			real, info := s.follow(given, path)
			if info != nil && info.IsDir() && !private(e.Name()) && !below(dir, real) {
				s.tree(given, real)
			}
		}
	}
}

// below tells whether path is dir or lies below it.
func below(path, dir string) bool {
	rel, err := filepath.Rel(dir, path)
	return err == nil && rel != ".." && !strings.HasPrefix(rel, "../")
}

// concerns are the given paths to which a change at path matters, in order.
func (s *survey) concerns(path string) []string {
	all := set{}
	if p := s.places[path]; p != nil { // a directory itself: it is gone, or there again
		maps.Copy(all, p.whole)
		for _, given := range p.names {
			maps.Copy(all, given)
		}
	}
	if p := s.places[filepath.Dir(path)]; p != nil {
		maps.Copy(all, p.names[filepath.Base(path)])
		if len(p.whole) > 0 && !ignored(path) {
			maps.Copy(all, p.whole)
		}
	}
	return slices.Sorted(maps.Keys(all))
}

// since are the paths written after a time, one for each given path that they matter to.
func (s *survey) since(t time.Time) (changes []change) {
	found := set{}
	see := func(path string) {
		info, err := os.Lstat(path)
		if err != nil || !info.ModTime().After(t) {
			return
		}
		for _, given := range s.concerns(path) {
			if !found[given] {
				found[given] = true
				changes = append(changes, change{given, path})
			}
		}
	}
	for _, dir := range slices.Sorted(maps.Keys(s.places)) {
		p := s.places[dir]
		for name := range p.names {
			if path := filepath.Join(dir, name); s.places[path] == nil { // else it is a directory on the way
				see(path)
			}
		}
		if len(p.whole) == 0 {
			continue
		}
		see(dir) // something came or went
		entries, err := os.ReadDir(dir)
		if err != nil {
			continue // gone: an event tells
		}
		for _, e := range entries {
			if !e.IsDir() {
				see(filepath.Join(dir, e.Name()))
			}
		}
	}
	return changes
}

// forget leaves places out.
func (s *survey) forget(which func(path string) bool) {
	maps.DeleteFunc(s.places, func(path string, _ *place) bool { return which(path) })
}

// ignored tells whether a path in a directory that was given is of no interest.
func ignored(path string) bool {
	name := filepath.Base(path)
	if dropping(name) {
		return true
	}
	if !private(name) {
		return false
	}
	info, err := os.Lstat(path)
	return err == nil && info.IsDir()
}

// private tells whether a directory of this name is its owner's business: .git and its
// kind, and what package managers fill by the ten thousand. A file may be hidden and
// matter, as .env does.
func private(name string) bool { return strings.HasPrefix(name, ".") || name == "node_modules" }

// dropping tells whether a file of this name is an editor's own: copies and locks of
// vim, emacs, gedit and those of JetBrains. 4913 is how vim tries a directory out.
func dropping(name string) bool {
	return name == "4913" ||
		strings.HasSuffix(name, "~") ||
		strings.HasPrefix(name, ".#") ||
		strings.HasPrefix(name, "#") && strings.HasSuffix(name, "#") ||
		strings.HasPrefix(name, ".goutputstream-") ||
		strings.HasSuffix(name, "___jb_tmp___") || strings.HasSuffix(name, "___jb_old___") ||
		swap(filepath.Ext(name))
}

// swap tells whether an extension is one of vim's swap files: .swp, .swo and so on
// down, and .swx, .swpx, with which it tries names out.
func swap(ext string) bool {
	return len(ext) == 4 && strings.HasPrefix(ext, ".sw") && ext[3] >= 'k' && ext[3] <= 'x' || ext == ".swpx"
}
