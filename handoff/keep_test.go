package handoff

import (
	"encoding/json"
	"net"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"baton/handoff/machine"
	"baton/health"
	"baton/internal/keep"
	"baton/internal/process"
	"baton/internal/protocol"
	"baton/internal/socket"
)

// needNot are the fields that no State has, each with the reason: what a successor makes
// anew, or finds out again.
var needNot = map[string]map[string]string{
	"Supervisor": {
		"opts": "given to Resume", "log": "likewise", "calls": "made anew", "done": "made anew", "wg": "made anew", "ctx": "made anew",
		"lost":  "how a container ends, which is killed as a whole",
		"inbox": "empty between two steps", "stepping": "false between two steps",
		"ended":     "empty between two steps",
		"occupants": "by the workers", "table": "in the rules", "open": "counted from the rules",
		"verdicts": "who asked has lost the launcher that he asked",
		"news":     "a beat follows", "changed": "all is kept", "calm": "who waits for it is of this process", "resumed": "taken up by Run",
		"sampling": "looked at again", "halted": "there is nothing to resume then", "failure": "likewise",
	},
	"generation": {"grouped": "the group is found again", "kills": "asked of the group", "lacks": "complained of again"},
	"release":    {},
	"listener":   {"said": "complained of again", "given": "only told when it is opened"},
	"worker": {
		"ctx": "made anew", "cancel": "made anew", "up": "closed when it runs", "proved": "sought again", "lastTry": "tried again",
		"early": "it runs: nothing is early", "torn": "found out by Resume",
	},
	"alive":  {"end": "begun again", "waits": "looked at again", "checked": "looked at again", "connections": "counted again"},
	"timer":  {"t": "made anew"},
	"watch":  {"cancel": "made anew", "on": "found again"},
	"extras": {"log": "given", "mu": "made anew", "open": "by who needs it", "spare": "of Resume alone", "lastName": "from the names", "others": "told again by the next generation"},
	"extra":  {"users": "counted from the links"},
	"scaled": {},
}

// held are the fields whose like a State has, by the name that it has there.
var held = map[string]map[string]string{
	"Supervisor": {
		"hub": "Hub", "extra": "Extras", "rules": "Rules", "gens": "Generations", "releases": "Releases", "workers": "Workers",
		"listeners": "Listeners", "slots": "Slots", "timers": "Timers", "watches": "Watches", "preparing": "Preparing",
		"preparingFrom": "From", "lastReq": "LastRequest", "resumes": "Resumed", "lastNamed": "Named", "scaled": "ScaledTo",
		"began": "Began", "restarts": "Restarts", "verdict": "Verdict", "stopping": "Stopping",
	},
	"generation": {
		"environment": "Environment", "number": "Number", "release": "Release", "listeners": "Listeners", "phase": "Phase",
		"served": "Served", "scaled": "ScaledTo", "saysReady": "SaysReady", "tail": "Tail", "hint": "Hint",
	},
	"release":  {"number": "Number", "plan": "Plan", "program": "Program", "choice": "Choice", "origin": "Origin"},
	"listener": {"Listener": "Socket", "key": "Key", "name": "Name", "asked": "Asked", "users": "Users", "steered": "Steered", "stale": "Stale", "shut": "Shut"},
	"worker": {
		"id": "ID", "gen": "Gen", "index": "Index", "slot": "Slot", "role": "Role", "out": "Output", "link": "Link", "proc": "Process",
		"started": "Started", "readiness": "Readiness", "ready": "Ready", "given": "Given", "held": "Held", "status": "Status",
		"running": "Running", "drain": "Drain", "signalled": "Signalled", "killed": "Killed", "alive": "Pinged",
	},
	"alive":  {"pinged": "Pinged", "interval": "Interval", "stuck": "Stuck", "due": "Due"},
	"timer":  {"due": "Due"},
	"watch":  {"orphan": "Orphan"},
	"extras": {"all": ""}, // is the State's list
	"extra":  {"Listener": "Socket", "key": "Key", "name": "Name"},
	"scaled": {"to": "ScaledTo", "configured": "ScaledFrom"},
}

// Whoever adds a field decides whether a successor needs it.
func TestEveryFieldOutlivesTheLauncherOrNeedNot(t *testing.T) {
	for _, c := range []struct{ thing, state any }{
		{Supervisor{}, State{}}, {generation{}, GenerationState{}}, {release{}, ReleaseState{}}, {listener{}, ListenerState{}},
		{worker{}, WorkerState{}}, {alive{}, WorkerState{}}, {timer{}, TimerState{}}, {watch{}, WatchState{}},
		{extras{}, ExtraState{}}, {extra{}, ExtraState{}}, {scaled{}, State{}}, {scaled{}, GenerationState{}},
	} {
		thing, state := reflect.TypeOf(c.thing), reflect.TypeOf(c.state)
		name := thing.Name()
		var all []string
		for i := range thing.NumField() {
			all = append(all, thing.Field(i).Name)
		}
		for _, field := range all {
			there, kept := held[name][field]
			_, passes := needNot[name][field]
			_, has := state.FieldByName(there)
			switch {
			case kept == passes:
				t.Errorf("%s.%s: is it in %s, or need it not be? Say so in exactly one of the two tables", name, field, state.Name())
			case kept && there != "" && !has:
				t.Errorf("%s.%s: %s has no field %s", name, field, state.Name(), there)
			}
		}
		for _, table := range []map[string]string{held[name], needNot[name]} {
			for field := range table {
				if !slices.Contains(all, field) {
					t.Errorf("%s has no field %s", name, field)
				}
			}
		}
	}
}

// fill gives every field, at any depth, a value that is not its zero, but those that are
// left out of JSON.
func fill(t *testing.T, v reflect.Value, n *int) {
	t.Helper()
	*n++
	switch v.Kind() {
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		v.SetInt(int64(*n % 100))
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		v.SetUint(uint64(*n % 100))
	case reflect.Float64:
		v.SetFloat(float64(*n) + 0.5)
	case reflect.String:
		v.SetString("text " + strings.Repeat("x", *n%7) + "\n\"<é>")
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(t, v.Elem(), n)
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 2, 2))
		for i := range v.Len() {
			fill(t, v.Index(i), n)
		}
	case reflect.Map:
		key, value := reflect.New(v.Type().Key()).Elem(), reflect.New(v.Type().Elem()).Elem()
		fill(t, key, n)
		fill(t, value, n)
		v.Set(reflect.MakeMap(v.Type()))
		v.SetMapIndex(key, value)
	case reflect.Struct:
		for i := range v.NumField() {
			if f := v.Type().Field(i); f.Tag.Get("json") != "-" {
				if !f.IsExported() {
					t.Errorf("%s.%s is not exported, and lost in JSON", v.Type(), f.Name)
					continue
				}
				fill(t, v.Field(i), n)
			}
		}
	default:
		t.Errorf("a %s, of which nothing is known", v.Type())
	}
}

func TestAPlanGoesThroughJSONWhole(t *testing.T) {
	var p, again Plan
	n := 0
	v := reflect.ValueOf(&p).Elem()
	for i := range v.NumField() {
		if v.Type().Field(i).Name == "Listeners" {
			continue // below
		}
		if v.Type().Field(i).Tag.Get("json") != "-" {
			fill(t, v.Field(i), &n)
		}
	}
	p.Listeners = []ListenerPlan{{
		Address: socket.Address{Network: "tcp", Host: "::1", Port: 8080},
		Options: socket.Options{Name: "web", UID: 3, GID: 4, Shared: true, NonBlocking: true},
	}}
	text, err := json.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, &again); err != nil {
		t.Fatal(err)
	}
	p.Origin = nil // it goes by ReleaseState.Origin
	if !reflect.DeepEqual(p, again) {
		t.Errorf("became %+v, was %+v", again, p)
	}
}

// fitting is a State of a generation that serves with a worker, and one that starts.
func fitting(t *testing.T) State {
	t.Helper()
	var m machine.Machine
	m.Step(machine.Reload{Request: 1})
	m.Step(machine.Prepared{Gen: 1, Policy: machine.Policy{Workers: 1}})
	m.Step(machine.BecameReady{Worker: 1})
	m.Step(machine.Steered{})
	m.Step(machine.Reload{Request: 2})
	m.Step(machine.Prepared{Gen: 2, Policy: machine.Policy{Workers: 1}})
	return State{
		Rules:    m.Keep(),
		Releases: []ReleaseState{{Number: 1}, {Number: 2}},
		Generations: []GenerationState{
			{Number: 1, Release: 1, Listeners: []string{"tcp://:80"}, Phase: machine.Serving},
			{Number: 2, Release: 2, Listeners: []string{"tcp://:80"}, Phase: machine.Starting},
		},
		Listeners: []ListenerState{{Key: "tcp://:80", Name: "l1"}},
		Workers:   []WorkerState{{ID: 1, Gen: 1, Slot: 0}, {ID: 2, Gen: 2, Slot: 1}},
	}
}

func TestAStateThatDoesNotFitTogetherIsRefused(t *testing.T) {
	for name, c := range map[string]struct {
		damage func(*State)
		words  string // of the error; "": there is none
	}{
		"nothing":      {func(*State) {}, ""},
		"the rules":    {func(s *State) { s.Rules.Slots[0].Holder = 9 }, "rules: slot 0: held by worker 9"},
		"a release":    {func(s *State) { s.Releases = s.Releases[:1] }, "generation 2: its release, 2, is not there"},
		"a listener":   {func(s *State) { s.Listeners = nil }, "generation 1: its listener tcp://:80 is not there"},
		"a generation": {func(s *State) { s.Generations = s.Generations[:1] }, "worker 2: its generation, 2, is not there"},
		"a generation that the rules know": {func(s *State) {
			s.Generations, s.Workers = s.Generations[:1], s.Workers[:1]
		}, "generation 2, which the rules know, is not there"},
		"a worker that the rules know": {func(s *State) { s.Workers = s.Workers[:1] }, "worker 2, which the rules know, is not there"},
		"one that drains may have lost its listener": {func(s *State) {
			s.Generations[0].Phase, s.Generations[1].Phase = machine.Draining, machine.Draining
			s.Listeners = nil
		}, ""},
		"a worker's generation": {func(s *State) { s.Workers[0].Gen = 7 }, "worker 1: its generation, 7, is not there"},
	} {
		t.Run(name, func(t *testing.T) {
			s := fitting(t)
			c.damage(&s)
			err := s.fits()
			if c.words == "" && err != nil || c.words != "" && (err == nil || !strings.Contains(err.Error(), c.words)) {
				t.Errorf("got %v, want %q", err, c.words)
			}
			if _, resumed := Resume(Options{}, s, &keep.Files{}); err != nil && (resumed == nil || resumed.Error() != err.Error()) {
				t.Errorf("Resume: %v, want %v", resumed, err)
			}
		})
	}
	var none State
	if err := none.Check(&keep.Files{}); err != nil {
		t.Errorf("of one that had done nothing yet: %v", err)
	}
}

func TestAStateIsHeldToItsSockets(t *testing.T) {
	l, err := socket.Listen(t.Context(), socket.Address{Network: "tcp", Host: "127.0.0.1"}, socket.Options{Name: "web", UID: -1, GID: -1})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close() // nobody has connected
	if err := l.Reserve(0); err != nil {
		t.Fatal(err)
	}
	var f, none keep.Files
	s := fitting(t)
	s.Listeners[0].Socket = l.Keep("l1", &f)
	if err := s.Check(&f); err != nil {
		t.Error(err)
	}
	if err := s.Check(&none); err == nil {
		t.Error("without one of its sockets it is in order")
	}
	s.Workers[0].Gen = 7
	if err := s.Check(&f); err == nil || !strings.Contains(err.Error(), "its generation, 7, is not there") {
		t.Errorf("of a worker of nobody: %v", err)
	}
}

// handedOver is what a successor gets: the same by way of JSON, and descriptors of its own.
func handedOver(t *testing.T, states []ExtraState, f *keep.Files) (again []ExtraState, own *keep.Files) {
	t.Helper()
	text, err := json.Marshal(states)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, &again); err != nil {
		t.Fatal(err)
	}
	if own, err = f.Dup(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(own.Close)
	return again, own
}

func inode(t *testing.T, fd int) uint64 {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		t.Fatal(err)
	}
	return st.Ino
}

// Addresses that workers asked for stay open for whom asks for them again, and only for those.
func TestAddressesThatWorkersAskedForStayOpen(t *testing.T) {
	before := newExtras(nil)
	fds := make(map[string]int)
	releases := make(map[string]func())
	free := func() string { // is the others' to listen on
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		return l.Addr().String()
	}
	wanted, unwanted := free(), free()
	for _, address := range []string{wanted, unwanted} {
		fd, release, err := before.listen("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		fds[address], releases[address] = fd, release
	}
	var f keep.Files
	states, files := handedOver(t, before.keep(&f), &f)
	was := inode(t, fds[wanted])
	for _, release := range releases { // its descriptors are gone; the sockets are not
		release()
	}

	after := newExtras(nil)
	after.resume(states, files)
	if files.Len() != 0 || len(after.all) != 2 {
		t.Fatalf("%d descriptors left, %d addresses", files.Len(), len(after.all))
	}
	fd, release, err := after.listen("tcp", wanted)
	if err != nil {
		t.Fatal(err)
	}
	if now := inode(t, fd); now != was {
		t.Errorf("socket %d, was %d", now, was)
	}
	after.settle()
	if c, err := net.DialTimeout("tcp", unwanted, time.Second); err == nil {
		c.Close()
		t.Error("what nobody needs any more is open")
	}
	c, err := net.DialTimeout("tcp", wanted, time.Second)
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
	third, release3, err := after.listen("tcp", unwanted)
	if err != nil {
		t.Fatal(err)
	}
	if n := len(after.keep(&f)); n != 2 || inode(t, third) == was {
		t.Errorf("%d addresses", n)
	}
	names := make(map[string]bool)
	for e := range after.all {
		names[e.name] = true
	}
	if len(names) != 2 {
		t.Errorf("two have one name: %v", names)
	}
	release()
	release3()
	if len(after.all) != 0 {
		t.Errorf("%d are left", len(after.all))
	}
}

// The fields of a WorkerState that others make are whole after JSON by their own tests;
// that all of it has words is shown here.
func TestAStateGoesThroughJSONWhole(t *testing.T) {
	s := fitting(t)
	now := time.Now().Round(0)
	s.Timers = []TimerState{{machine.Timer{Kind: machine.TimerReady, Gen: 2, Worker: 2, Seq: 3}, now}}
	s.Watches = []WatchState{{3, true}}
	s.Slots = []machine.Generation{1, 2, 0, 1}
	s.Preparing, s.From, s.LastRequest, s.ScaledTo, s.ScaledFrom, s.Began = 3, 1, 4, 5, 6, now
	s.Restarts, s.Verdict, s.Stopping, s.Resumed, s.Named = 7, "swapped", true, 8, 9
	s.Hub = protocol.HubState{NodeID: 4}
	s.Releases[0].Origin, s.Releases[1].Origin = json.RawMessage(`{"a":1}`), json.RawMessage(`null`)
	w := &s.Workers[0]
	w.Running, w.Process, w.Output = true, process.ProcessState{PID: 77, Start: 5}, json.RawMessage(`{"x":[1]}`)
	w.Started, w.Readiness, w.Ready, w.Status = now, health.Readiness{Mode: health.Auto, Expected: true}, true, "a\nb"
	w.Given, w.Held = map[string]uint64{"tcp://:80": 1 << 63}, map[string]bool{"tcp://:80": true}
	w.Drain, w.Signalled, w.Killed, w.Stuck = true, true, true, true
	w.Pinged, w.Interval, w.Due = now, time.Second, now
	s.Workers[1].Output = json.RawMessage(`null`)
	text, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	var again State
	if err := json.Unmarshal(text, &again); err != nil {
		t.Fatal(err)
	}
	second, err := json.Marshal(again)
	if err != nil || string(second) != string(text) {
		t.Errorf("%v: became\n%s\nwas\n%s", err, second, text)
	}
	var empty []string
	v := reflect.ValueOf(s)
	for i := range v.NumField() {
		if v.Field(i).IsZero() && v.Type().Field(i).Name != "Extras" {
			empty = append(empty, v.Type().Field(i).Name)
		}
	}
	if len(empty) > 0 {
		t.Errorf("this test has no value of %v", empty)
	}
}
