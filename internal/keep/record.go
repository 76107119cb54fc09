package keep

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc64"
	"io"
)

// Record is a text in a file that can be read whole whenever its writer is killed: it is
// written beside the one before, and counts once its head is there.
//
// The file has two places of room bytes, each with a head of headSize: a number, the
// length and a checksum of what follows, each 8 bytes, little-endian. The place with the
// higher number counts, if its checksum is right; else the other one.
type Record struct {
	file interface {
		io.ReaderAt
		io.WriterAt
	}
	seq uint64
}

const (
	headSize = 24
	room     = 16 << 20
)

var table = crc64.MakeTable(crc64.ECMA)

// ErrNone is returned by Read for a file that holds no text.
var ErrNone = errors.New("nothing was kept in it")

// NewRecord writes to a file from now on, and goes on where the last writer ended.
func NewRecord(file interface {
	io.ReaderAt
	io.WriterAt
}) *Record {
	r := &Record{file: file}
	for i := range 2 {
		if seq, _, ok := head(file, i); ok {
			r.seq = max(r.seq, seq)
		}
	}
	return r
}

// Write takes the place of what was written before.
func (r *Record) Write(text []byte) error {
	if len(text) > room-headSize {
		return fmt.Errorf("%d bytes of state: more than %d", len(text), room-headSize)
	}
	seq := r.seq + 1 // the next try is not to be written over what counts
	at := int64(seq%2) * room
	if _, err := r.file.WriteAt(text, at+headSize); err != nil {
		return err
	}
	var h [headSize]byte
	binary.LittleEndian.PutUint64(h[:], seq)
	binary.LittleEndian.PutUint64(h[8:], uint64(len(text)))
	binary.LittleEndian.PutUint64(h[16:], sum(seq, text))
	if _, err := r.file.WriteAt(h[:], at); err != nil {
		return err
	}
	r.seq = seq
	return nil
}

// sum covers the number too: a head that was half written counts for nothing.
func sum(seq uint64, text []byte) uint64 {
	var b [16]byte
	binary.LittleEndian.PutUint64(b[:], seq)
	binary.LittleEndian.PutUint64(b[8:], uint64(len(text)))
	return crc64.Update(crc64.Update(0, table, b[:]), table, text)
}

// head reads a place's text, if it is whole.
func head(file io.ReaderAt, place int) (seq uint64, text []byte, ok bool) {
	var h [headSize]byte
	at := int64(place) * room
	if n, _ := file.ReadAt(h[:], at); n < headSize { // an error: there is nothing
		return 0, nil, false
	}
	seq = binary.LittleEndian.Uint64(h[:])
	size := binary.LittleEndian.Uint64(h[8:])
	if seq == 0 || size > room-headSize || int(seq%2) != place {
		return 0, nil, false
	}
	text = make([]byte, size)
	if n, _ := file.ReadAt(text, at+headSize); uint64(n) < size {
		return 0, nil, false
	}
	return seq, text, sum(seq, text) == binary.LittleEndian.Uint64(h[16:])
}

// Read returns the last text that was written whole; ErrNone when there is none.
func Read(file io.ReaderAt) ([]byte, error) {
	var newest uint64
	var text []byte
	for i := range 2 {
		if seq, t, ok := head(file, i); ok && seq > newest {
			newest, text = seq, t
		}
	}
	if newest == 0 {
		return nil, ErrNone
	}
	return text, nil
}
