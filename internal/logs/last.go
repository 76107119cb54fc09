package logs

import (
	"bytes"
	"io"
	"slices"
)

// last keeps the last n records that are wanted, and lets step give these alone. It
// begins at the end, so that a large store does not have to be read for its last lines.
func (h *history) last(n int) error {
	h.done = true
	if h.cur != nil {
		if err := h.lastOf(h.cur, h.end, n); err != nil {
			return err
		}
	}
	for _, r := range slices.Backward(h.files) {
		if len(h.kept) >= n || h.query.since != nil && r.time.Before(h.query.Since) {
			break
		}
		p, err := openPart(h.src.Directory, r)
		if err != nil {
			return err
		}
		if p == nil {
			continue // removed meanwhile, as the oldest are
		}
		if err := h.lastIn(p, n); err != nil {
			return err
		}
		p.close()
	}
	slices.Reverse(h.kept)
	return nil
}

// want adds a record to kept, in which the newest stand first until last has ended. It
// reports whether none before it can be wanted.
func (h *history) want(line []byte, n int) (enough bool) {
	r := Record{App: h.src.App}
	if !r.parse(line) {
		return false
	}
	if h.query.since != nil && bytes.Compare(r.Stamp, h.query.since) < 0 {
		return true
	}
	if h.query.match(&r) {
		h.kept = append(h.kept, r.clone())
	}
	return len(h.kept) >= n
}

// lastIn goes through a file that may be compressed.
func (h *history) lastIn(p *part, n int) error {
	if p.plain {
		info, err := p.f.Stat()
		if err != nil {
			return err
		}
		return h.lastOf(p.f, info.Size(), n)
	}
	n -= len(h.kept)
	var ring []Record // the newest last
	for line, ok := p.next(); ok; line, ok = p.next() {
		r := Record{App: h.src.App}
		if r.parse(line) && h.query.match(&r) {
			if len(ring) >= 2*n+64 {
				ring = append(ring[:0], ring[len(ring)-n:]...)
			}
			ring = append(ring, r.clone())
		}
	}
	if p.failed != nil {
		ring = append(ring, *h.unreadable(p))
	}
	for _, r := range slices.Backward(ring[max(0, len(ring)-n):]) {
		h.kept = append(h.kept, r)
	}
	return nil
}

// lastOf goes backward through the first end bytes of a file.
func (h *history) lastOf(f io.ReaderAt, end int64, n int) error {
	var rest []byte // the beginning of what was read, whose line begins earlier
	for end > 0 {
		size := min(end, 256<<10)
		end -= size
		block := make([]byte, size, int(size)+len(rest))
		if _, err := f.ReadAt(block, end); err != nil && err != io.EOF {
			return err
		}
		block = bytes.TrimSuffix(append(block, rest...), []byte{'\n'})
		for {
			i := bytes.LastIndexByte(block, '\n')
			if i < 0 {
				break
			}
			if h.want(block[i+1:], n) {
				return nil
			}
			block = block[:i]
		}
		rest = block
	}
	if len(rest) > 0 {
		h.want(rest, n)
	}
	return nil
}
