package cli

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"baton/internal/event"
)

var began = time.Date(2026, 11, 29, 12, 0, 0, 0, time.UTC)

// tells is a stream of events at these seconds; a 0 stands for the end of its silence.
func tells(name string, silence <-chan struct{}, seconds ...int) stream {
	return stream{name, func(yield func(event.Event, error) bool) {
		for _, s := range seconds {
			if s == 0 {
				<-silence
				continue
			}
			if !yield(event.Event{Time: began.Add(time.Duration(s) * time.Second), Message: fmt.Sprint(s)}, nil) {
				return
			}
		}
	}}
}

func refuse(error) bool { return false }

// Whichever launcher answers first.
func TestEventsOfSeveralAreShownInTheOrderOfTime(t *testing.T) {
	first := make(chan struct{})
	late := tells("late", first, 0, 1, 3, 3, 9)
	other := tells("early", nil, 2, 3, 4, 1, 8) // its clock was set back
	early := stream{"early", func(yield func(event.Event, error) bool) {
		other.events(yield)
		close(first)
	}}
	var got []string
	show := func(h happened) error {
		got = append(got, h.Name+h.Message)
		return nil
	}
	if err := merge([]stream{late, early}, time.Hour, show, t.FailNow, refuse); err != nil {
		t.Fatal(err)
	}
	want := "late1 early2 early3 late3 late3 early4 early1 early8 late9"
	if s := strings.Join(got, " "); s != want {
		t.Errorf("%s\nwant %s", s, want)
	}
}

// An event is not kept back for longer than it may be, whoever else is silent.
func TestAnEventIsShownWhileOthersAreSilent(t *testing.T) {
	end := make(chan struct{})
	var got []string
	show := func(h happened) error {
		if got = append(got, h.Message); len(got) == 2 {
			close(end) // before which neither stream ends
		}
		return nil
	}
	if err := merge([]stream{tells("a", end, 1, 0), tells("b", end, 2, 0)}, time.Millisecond, show, t.FailNow, refuse); err != nil {
		t.Fatal(err)
	}
	if slices.Sort(got); !slices.Equal(got, []string{"1", "2"}) {
		t.Errorf("shown: %v", got)
	}
}

// What came before an error is shown; the error ends the others.
func TestAnErrorEndsTheStreams(t *testing.T) {
	end, broken := make(chan struct{}), errors.New("broken")
	bad := stream{"bad", func(yield func(event.Event, error) bool) {
		if yield(event.Event{Time: began, Message: "before"}, nil) {
			yield(event.Event{}, broken)
		}
	}}
	var got []string
	show := func(h happened) error {
		got = append(got, h.Message)
		return nil
	}
	ended := false
	cancel := func() {
		if !ended {
			ended = true
			close(end)
		}
	}
	if err := merge([]stream{tells("good", end, 0, 5), bad}, time.Hour, show, cancel, refuse); !errors.Is(err, broken) {
		t.Errorf("%v", err)
	}
	if !slices.Equal(got, []string{"before"}) {
		t.Errorf("shown: %v", got)
	}
	full := errors.New("no space left")
	if err := merge([]stream{tells("a", nil, 1, 2)}, 0, func(happened) error { return full }, func() {}, refuse); !errors.Is(err, full) {
		t.Errorf("of what shows: %v", err)
	}
}
