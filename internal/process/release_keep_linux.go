package process

import (
	"errors"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"

	"baton/internal/keep"
)

// Keep says what ResumeRelease needs. The descriptors stay the Release's.
func (r *Release) Keep(prefix string, f *keep.Files) ReleaseState {
	r.mu.RLock()
	defer r.mu.RUnlock()
	s := ReleaseState{
		Paths: join([]string{r.path, r.real, r.dir}), Args: join(r.args), Env: join(r.env),
		Closed: r.exeFD < 0, HasRun: r.hasRun, Confine: r.confine,
		Executable: r.was.keep(r.dev, r.ino),
		Rights:     &RightsState{r.rights.Bare, r.rights.NoNew, slices.Clone(r.rights.Ambient)},
	}
	if r.umask >= 0 {
		umask := r.umask
		s.Umask = &umask
	}
	for _, l := range r.limits {
		s.Limits = append(s.Limits, LimitState{l.Name, l.Soft, l.Max})
	}
	if w := r.who; w != nil {
		uid, gid := w.UID, w.GID
		s.Who = &IdentityState{&uid, &gid, slices.Clone(w.Groups), w.name, w.home, w.shell}
	}
	if r.exeFD >= 0 {
		f.Put(prefix+".exe", r.exeFD)
	}
	if r.wdFD >= 0 {
		f.Put(prefix+".dir", r.wdFD)
		var st unix.Stat_t
		s.Directory = &FileState{}
		if unix.Fstat(r.wdFD, &st) == nil { // of an open directory: it does not fail
			s.Directory.Dev, s.Directory.Inode = uint64(st.Dev), st.Ino
		}
	}
	return s
}

func (c content) keep(dev, ino uint64) FileState {
	return FileState{Dev: dev, Inode: ino, Size: c.size, Seconds: c.modified.Sec, Nanoseconds: c.modified.Nsec}
}

// ResumeRelease makes a Release again. Where a descriptor was not kept, what lies at its
// path is taken if it is the same file still, and the executable only if nobody has
// written into it.
func ResumeRelease(s ReleaseState, prefix string, f *keep.Files) (*Release, error) {
	paths := split(s.Paths)
	args := split(s.Args)
	if len(paths) != 3 || len(args) == 0 || args[0] == "" {
		return nil, errors.New("release: its paths and arguments were not kept")
	}
	r := &Release{
		path: paths[0], real: paths[1], dir: paths[2], args: args, env: split(s.Env),
		dev: s.Executable.Dev, ino: s.Executable.Inode, umask: -1, confine: s.Confine, exeFD: -1, wdFD: -1,
		was:    content{s.Executable.Size, unix.Timespec{Sec: s.Executable.Seconds, Nsec: s.Executable.Nanoseconds}},
		hasRun: s.HasRun,
	}
	err := r.resume(s, prefix, f)
	if err != nil {
		_ = r.Close() // only read from
		return nil, fmt.Errorf("release %s: %w", r.path, err)
	}
	return r, nil
}

func (r *Release) resume(s ReleaseState, prefix string, f *keep.Files) (err error) {
	if s.Umask != nil {
		if r.umask = *s.Umask; r.umask < 0 || r.umask > 0o777 {
			return fmt.Errorf("umask %#o: not between 0 and 0777", r.umask)
		}
	}
	for _, l := range s.Limits {
		resource, ok := resources[l.Name]
		if !ok {
			return fmt.Errorf("limit %s: no such limit", l.Name)
		}
		r.limits = append(r.limits, limit{Name: l.Name, Resource: resource, Soft: l.Soft, Max: l.Hard})
	}
	if w := s.Who; w != nil {
		if w.UID == nil || w.GID == nil {
			return errors.New("whom it runs as was not kept")
		}
		r.who = &identity{*w.UID, *w.GID, slices.Clone(w.Groups), w.Name, w.Home, w.Shell}
	}
	if s.Rights == nil {
		return errors.New("what rights it has was not kept")
	}
	r.rights = rights{s.Rights.Bare, s.Rights.NoNew, slices.Clone(s.Rights.Ambient)}
	for _, c := range r.rights.Ambient {
		if c < 0 || c >= len(capabilityNames) {
			return fmt.Errorf("capability %d: there is none", c)
		}
	}
	if s.Closed {
		return nil
	}
	if r.exeFD, err = r.take(prefix+".exe", f, &s.Executable, 0, r.real, r.path); err != nil {
		return fmt.Errorf("executable: %w", err)
	}
	if s.Directory != nil {
		if r.wdFD, err = r.take(prefix+".dir", f, s.Directory, unix.O_DIRECTORY, r.dir); err != nil {
			return fmt.Errorf("directory %s: %w", r.dir, err)
		}
	} else if r.dir != "" {
		return fmt.Errorf("directory %s: it was not kept", r.dir)
	}
	return nil
}

// take takes a descriptor, or opens the same file at one of the places where it may lie.
func (r *Release) take(name string, f *keep.Files, is *FileState, flags int, paths ...string) (int, error) {
	if f.Has(name) {
		fd, err := f.Take(name)
		if err != nil {
			return -1, err
		}
		if _, err := sameFile(fd, is); err != nil {
			unix.Close(fd) // O_PATH: nothing is written back
			return -1, fmt.Errorf("descriptor %q: %w", name, err)
		}
		return fd, nil
	}
	_, missing := f.Take(name)
	for _, path := range paths {
		fd, err := unix.Open(path, unix.O_PATH|unix.O_CLOEXEC|flags, 0)
		if err != nil {
			missing = errors.Join(missing, fmt.Errorf("%s: %w", path, err))
			continue
		}
		st, err := sameFile(fd, is)
		if err == nil && flags == 0 && contentOf(st) != r.was {
			err = errors.New(r.changed(contentOf(st)))
		}
		if err == nil {
			return fd, nil
		}
		unix.Close(fd) // likewise
		missing = errors.Join(missing, fmt.Errorf("%s: %w", path, err))
	}
	return -1, missing
}

func sameFile(fd int, is *FileState) (*unix.Stat_t, error) {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, err
	}
	if uint64(st.Dev) != is.Dev || st.Ino != is.Inode {
		return nil, errors.New("it is another file now")
	}
	return &st, nil
}
