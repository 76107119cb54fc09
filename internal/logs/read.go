package logs

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"time"
)

// Source is the store of one application, to be read.
type Source struct {
	App       string
	Directory string
}

// Sources are the stores below a directory of logs, by name.
func Sources(dir string) ([]Source, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var all []Source
	for _, e := range entries {
		if s := (Source{e.Name(), Directory(dir, e.Name())}); e.IsDir() && s.Exists() {
			all = append(all, s)
		}
	}
	return all, nil
}

// Exists reports whether something was ever kept there.
func (s Source) Exists() bool {
	if _, err := os.Stat(filepath.Join(s.Directory, current)); !errors.Is(err, fs.ErrNotExist) {
		return true // also one that cannot be looked at: reading it tells why
	}
	files, err := list(s.Directory)
	return err != nil || len(files) > 0
}

// Query says which records of stores are wanted.
type Query struct {
	Sources    func() ([]Source, error) // asked again now and then while it is followed
	Since      time.Time                // zero: from the beginning
	Lines      int                      // only so many, the last ones; below 0: all
	Grep       *regexp.Regexp           // on the text; nil: any
	Err        bool                     // only standard error, and warnings of the launcher
	Worker     int                      // its index; below 0: any
	Generation int                      // 0: any
	Follow     bool                     // and then those to come, until the context ends

	since []byte // as records have it
}

// match reports whether a record is wanted. That lines are missing always is.
func (q *Query) match(r *Record) bool {
	switch {
	case r.Always:
		return true
	case q.since != nil && bytes.Compare(r.Stamp, q.since) < 0:
		return false
	case r.Dropped > 0:
		return true
	case q.Err && !(r.Stream == Stderr || r.Stream == Baton && r.Level != ""):
		return false
	case q.Worker >= 0 && r.Worker != q.Worker, q.Generation > 0 && r.Generation != q.Generation:
		return false
	}
	return q.Grep == nil || q.Grep.Match(r.Text)
}

// Read shows what a query asks for, of several stores in the order of time. A record is
// valid until show returns; an error of show ends it. flush is called whenever all that is
// there has been shown.
func Read(ctx context.Context, q Query, show func(*Record) error, flush func() error) error {
	if !q.Since.IsZero() {
		q.since = stamp(q.Since)
	}
	sources, err := q.Sources()
	if err != nil {
		return err
	}
	r := &reader{q: &q, ctx: ctx, show: show, flush: flush}
	defer r.close()
	for _, s := range sources {
		if err := r.begin(s); err != nil {
			return err
		}
	}
	if err := r.past(); err != nil {
		return err
	}
	if err := flush(); err != nil || !q.Follow {
		return err
	}
	return r.follow()
}

type reader struct {
	q         *Query
	ctx       context.Context
	show      func(*Record) error
	flush     func() error
	histories []*history
	followers []*follower
}

func (r *reader) close() {
	for _, h := range r.histories {
		h.close()
	}
	for _, f := range r.followers {
		f.close()
	}
}

// begin divides a store into what is past, and what is to be followed: at the end of a
// line of the current file.
func (r *reader) begin(s Source) error {
	v, err := look(s.Directory)
	if err != nil {
		return err
	}
	f := &follower{src: s, query: r.q, parts: []*part{newPart(v.cur)}}
	r.followers = append(r.followers, f)
	h := &history{follower: follower{src: s, query: r.q}, files: v.files}
	r.histories = append(r.histories, h)
	if n := len(v.files); n > 0 {
		f.after = v.files[n-1].name
	}
	if v.cur == nil {
		return nil
	}
	info, err := v.cur.Stat()
	if err != nil {
		return err
	}
	end, next, err := wholeLines(v.cur, info.Size())
	if err != nil {
		return err
	}
	f.parts[0].seek(end)
	f.count.next = next
	if end > 0 {
		f.ident = ident(v.cur)
	}
	h.cur, h.end = v.cur, end
	return nil
}

// past shows what there is.
func (r *reader) past() error {
	if r.q.Lines == 0 {
		return nil
	}
	var heads []*history
	for _, h := range r.histories {
		if r.q.Lines > 0 {
			if err := h.last(r.q.Lines); err != nil {
				return err
			}
		}
		if err := h.step(); err != nil {
			return err
		}
		if h.has {
			heads = append(heads, h)
		}
	}
	skip := 0
	if r.q.Lines > 0 {
		for _, h := range heads {
			skip += 1 + len(h.kept)
		}
		skip -= r.q.Lines
	}
	for len(heads) > 0 {
		if err := r.ctx.Err(); err != nil {
			return nil //nolint:nilerr // it is to end
		}
		h := slices.MinFunc(heads, func(a, b *history) int { return bytes.Compare(a.head.Stamp, b.head.Stamp) })
		if skip--; skip < 0 {
			if err := r.show(h.head); err != nil {
				return err
			}
		}
		if err := h.step(); err != nil {
			return err
		}
		if !h.has {
			heads = slices.DeleteFunc(heads, func(o *history) bool { return o == h })
		}
	}
	return nil
}

// follow ends with the context.
func (r *reader) follow() error {
	tick := time.NewTicker(pollTime)
	defer tick.Stop()
	for n := 0; ; n++ {
		if n%20 == 19 {
			if err := r.join(); err != nil {
				return err
			}
		}
		more, err := r.round()
		if err != nil {
			return err
		}
		if more {
			if r.ctx.Err() != nil {
				return nil
			}
			continue
		}
		if err := r.flush(); err != nil {
			return err
		}
		select {
		case <-tick.C:
		case <-r.ctx.Done():
			return nil
		}
	}
}

// join adds stores that are new.
func (r *reader) join() error {
	sources, err := r.q.Sources()
	if err != nil {
		return err
	}
	for _, s := range sources {
		if !slices.ContainsFunc(r.followers, func(f *follower) bool { return f.src == s }) {
			r.followers = append(r.followers, &follower{src: s, query: r.q, parts: []*part{newPart(nil)}})
		}
	}
	return nil
}

const (
	roundSize = 4096 // records that one store may give before the next has its turn
	// With several stores a record is held back for as long as an older one of another
	// may still be on its way to the disk.
	settleOrder = 250 * time.Millisecond
)

// round reads once from each store.
func (r *reader) round() (more bool, err error) {
	if len(r.followers) == 1 && len(r.followers[0].queue) == 0 {
		f := r.followers[0]
		err := f.poll(roundSize, r.show)
		return !f.all, err
	}
	now := time.Now()
	horizon := stamp(now.Add(-settleOrder))
	for _, f := range r.followers {
		if len(f.queue) < roundSize {
			if err := f.poll(roundSize, f.keep); err != nil {
				return false, err
			}
		}
		if n := len(f.queue); !f.all && n > 0 {
			more = true
			if last := f.queue[n-1].Stamp; bytes.Compare(last, horizon) < 0 {
				horizon = last
			}
		}
	}
	for shown := 0; ; shown++ {
		var first *follower
		for _, f := range r.followers {
			if len(f.queue) > 0 && (first == nil || bytes.Compare(f.queue[0].Stamp, first.queue[0].Stamp) < 0) {
				first = f
			}
		}
		if first == nil {
			return more, nil
		}
		// A clock that was set back is no reason to wait.
		due := bytes.Compare(first.queue[0].Stamp, horizon) <= 0 || now.Sub(first.queue[0].seen) > 4*settleOrder
		if !due && (!more || shown > 0) {
			return more, nil
		}
		if err := r.show(&first.queue[0]); err != nil {
			return false, err
		}
		first.queue = first.queue[1:]
	}
}

// keep is for show, where the record must last.
func (f *follower) keep(r *Record) error {
	c := r.clone()
	c.seen = time.Now()
	f.queue = append(f.queue, c)
	return nil
}

func (r *Record) clone() Record {
	c := Record{App: r.App}
	c.parse(slices.Clone(r.JSON))
	c.Always = r.Always
	return c
}

// history is what was in a store at the beginning, in order.
type history struct {
	follower           // its counting and taking apart; it has no parts
	files    []rotated // not read yet
	cur      *os.File  // the follower's
	end      int64     // of what is past in it
	p        *part     // being read
	kept     []Record  // read already
	done     bool      // nothing but kept is left
	head     *Record   // the next one, until the next step
	has      bool
	own      Record
}

func (h *history) close() {
	if h.p != nil && h.p.f != h.cur {
		h.p.close()
	}
}

// step goes on to the next record that is wanted.
func (h *history) step() error {
	h.has = false
	for {
		if len(h.kept) > 0 {
			h.own, h.kept = h.kept[0], h.kept[1:]
			h.head, h.has = &h.own, true
			return nil
		}
		if h.done {
			return nil
		}
		if h.p == nil {
			if err := h.open(); err != nil {
				return err
			}
			continue
		}
		line, ok := h.p.next()
		if ok {
			if err := h.take(line, h.keepOne); err != nil {
				return err
			}
			if h.has && len(h.kept) == 0 {
				return nil
			}
			continue
		}
		if h.p.failed != nil {
			h.kept = append(h.kept, *h.unreadable(h.p))
		}
		h.close()
		h.done = h.p.f == h.cur && len(h.files) == 0
		h.p = nil
	}
}

// keepOne is step's: the usual one record of a line is not copied.
func (h *history) keepOne(r *Record) error {
	if r == &h.rec && len(h.kept) == 0 {
		h.head, h.has = r, true
		return nil
	}
	h.kept = append(h.kept, r.clone())
	h.has = false
	return nil
}

// open opens the next file.
func (h *history) open() error {
	if len(h.files) == 0 {
		h.p = newPart(h.cur)
		if h.cur != nil {
			h.p.read = io.NewSectionReader(h.cur, 0, h.end).ReadAt
		}
		return nil
	}
	r := h.files[0]
	h.files = h.files[1:]
	if h.query.since != nil && r.time.Before(h.query.Since) {
		return nil // its last line came before that
	}
	p, err := openPart(h.src.Directory, r)
	if p != nil {
		h.p = p
	}
	return err
}
