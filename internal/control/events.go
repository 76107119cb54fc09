package control

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"baton/internal/event"
)

// events streams the events as they come, a line of JSON each, after as many of those
// before as were asked for. It ends with the engine, or when the reader has gone.
func (s *Server) events(w http.ResponseWriter, r *http.Request, q url.Values) {
	follow, err := yes(q, "follow", true)
	replay := 0
	if given, ok := q["replay"]; ok && err == nil {
		if replay, err = strconv.Atoi(given[0]); err != nil || replay < 0 || replay > keptEvents {
			err = fmt.Errorf("replay is a number from 0 to %d, not %q", keptEvents, given[0])
		}
	}
	if err != nil {
		fail(w, http.StatusBadRequest, "%v", err)
		return
	}
	select {
	case s.readers <- struct{}{}:
		defer func() { <-s.readers }()
	default:
		fail(w, http.StatusServiceUnavailable, "%d streams of events are read already", maxReaders)
		return
	}
	leave, ok := s.wait(w)
	if !ok {
		return
	}
	defer leave()
	done := make(chan struct{})
	defer close(done)
	rc := http.NewResponseController(w)
	go func() { // ends with the response
		select {
		case <-s.engine.Ended():
			// A write may be waiting for a reader who does not read; the launcher does not.
			_ = rc.SetWriteDeadline(time.Now().Add(lastTime)) // a connection has it always
		case <-done:
		}
	}()
	s.stream(w, r, replay, follow)
}

// stream writes as fast as it is read. A reader who stops for a while finds afterwards
// what is kept, and how much is not.
func (s *Server) stream(w http.ResponseWriter, r *http.Request, replay int, follow bool) {
	w.Header().Set("Content-Type", "application/jsonl")
	w.WriteHeader(http.StatusOK)
	rc := http.NewResponseController(w)
	ended := s.engine.Ended()
	place := s.feed.back(replay)
	for {
		last := isClosed(ended) // before what there is to read is looked at
		batch, missed, next, more := s.feed.from(place)
		place = next
		var b bytes.Buffer
		enc := json.NewEncoder(&b)
		enc.SetEscapeHTML(false)
		if missed > 0 {
			_ = enc.Encode(event.Event{ // always valid
				Time: time.Now(), Kind: event.Missed, Count: int(missed),
				Message: fmt.Sprintf("%d events were not read in time", missed),
			})
		}
		for _, e := range batch {
			_ = enc.Encode(e) // likewise
		}
		if _, err := w.Write(b.Bytes()); err != nil || rc.Flush() != nil {
			return // gone
		}
		if len(batch) == 0 && last || !follow {
			return
		}
		if len(batch) > 0 {
			continue
		}
		select {
		case <-more:
		case <-ended:
		case <-r.Context().Done():
			return
		}
	}
}
