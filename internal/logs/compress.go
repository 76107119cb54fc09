package logs

import (
	"compress/gzip"
	"errors"
	"io"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// A rotated file is compressed once no other has followed it for compressAfter. Where
// files follow each other faster than that, compressing them would cost more than
// writing them, for files that are removed minutes later; and the bound on what a store
// takes holds without it.
const compressAfter = 30 * time.Second

// packer compresses the files of a store, one after the other.
type packer struct {
	dir  string
	lock *sync.Mutex // held while the names of files change
	quit <-chan struct{}
	fail func(error)
}

// run ends when nothing is left to be compressed, or with quit.
func (p *packer) run() {
	all, err := list(p.dir)
	if err != nil {
		p.fail(err)
		return
	}
	for _, r := range all {
		if r.gz {
			continue
		}
		if err := p.pack(r.name); err != nil {
			if !errors.Is(err, errQuit) {
				p.fail(err)
			}
			return // as it is; the next rotation tries again
		}
	}
}

var errQuit = errors.New("the store is closed")

func (p *packer) pack(name string) (err error) {
	from, err := os.Open(filepath.Join(p.dir, name))
	if errors.Is(err, os.ErrNotExist) {
		return nil // removed meanwhile
	}
	if err != nil {
		return err
	}
	defer from.Close() // only read from
	done := filepath.Join(p.dir, name+gzEnd)
	to, err := os.OpenFile(done+unfinished, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(done + unfinished) // one that stays is written over
		}
	}()
	err = p.copy(to, from)
	if err = errors.Join(err, to.Close()); err != nil {
		return err
	}
	p.lock.Lock()
	defer p.lock.Unlock()
	if _, err := os.Lstat(from.Name()); err != nil { // removed meanwhile
		return os.Remove(done + unfinished)
	}
	if err := os.Rename(done+unfinished, done); err != nil {
		return err
	}
	return os.Remove(from.Name())
}

func (p *packer) copy(to io.Writer, from io.Reader) error {
	z, err := gzip.NewWriterLevel(to, gzip.BestSpeed) // a third more than the default leaves, for a third of its time
	if err != nil {
		return err
	}
	buf := make([]byte, 64<<10)
	for {
		select {
		case <-p.quit:
			return errQuit
		default:
		}
		n, err := from.Read(buf)
		if _, werr := z.Write(buf[:n]); werr != nil {
			return werr
		}
		if err == io.EOF {
			return z.Close()
		}
		if err != nil {
			return err
		}
	}
}
