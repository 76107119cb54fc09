package protocol

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// layout is what a worker of these protocols sees, without what differs each time.
// A socket without a name is "@".
func layout(t *testing.T, s Settings, sockets []Socket) []string {
	t.Helper()
	w := crewed(t, s, sockets, []string{childVariable + "=layout"}, self(t))
	w.says("end")
	lines := slices.DeleteFunc(strings.Split(strings.TrimSpace(w.out.String()), "\n"), func(l string) bool {
		return strings.HasPrefix(l, "LISTEN_PID=") || strings.HasPrefix(l, "NOTIFY_SOCKET=") || strings.HasPrefix(l, "EINHORN_SOCK_PATH=") ||
			strings.HasPrefix(l, "NODE_") || l == "end"
	})
	text := strings.Join(lines, "\n")
	for name, s := range map[string]string{"WEB": sockets[0].Address, "APP": sockets[1].Address, "LAUNCHER": fmt.Sprint(os.Getpid())} {
		text = strings.ReplaceAll(text, s, name)
	}
	return strings.Split(text, "\n")
}

func TestTheLayoutIsWhatTheVariablesSay(t *testing.T) {
	sockets := two(t)
	for name, test := range map[string]struct {
		s    Settings
		want []string
	}{
		"systemd": {Settings{Kinds: []Kind{KindSystemd}}, []string{
			"3 WEB", "4 APP", "LISTEN_FDNAMES=web:app", "LISTEN_FDS=2"}},
		"all that share it": {Settings{Kinds: []Kind{KindServerStarter, KindEinhorn, KindSocketmaster, KindEndless}}, []string{
			"3 WEB", "4 APP",
			"EINHORN_CHILD_INDEX=2", "EINHORN_FDS=3 4", "EINHORN_FD_0=3", "EINHORN_FD_1=4", "EINHORN_FD_COUNT=2", "EINHORN_MASTER_PID=LAUNCHER",
			"ENDLESS_CONTINUE=1", "ENDLESS_SOCKET_ORDER=WEB,APP", "LISTEN_FDNAMES=web:app", "LISTEN_FDS=2",
			"SERVER_STARTER_GENERATION=7", "SERVER_STARTER_PORT=WEB=3;APP=4"}},
		"s6 above a gap": {Settings{Kinds: []Kind{KindSystemd}, ReadyFD: 9}, []string{
			"3 WEB", "4 APP", "9 pipe", "LISTEN_FDNAMES=web:app", "LISTEN_FDS=2"}},
		"node makes way for s6": {Settings{Kinds: []Kind{KindNode}, ReadyFD: 5}, []string{
			"3 WEB", "4 APP", "5 pipe", "6 @", "LISTEN_FDNAMES=web:app", "LISTEN_FDS=2"}},
		"node below s6": {Settings{Kinds: []Kind{KindNode}, ReadyFD: 6}, []string{
			"3 WEB", "4 APP", "5 @", "6 pipe", "LISTEN_FDNAMES=web:app", "LISTEN_FDS=2"}},
		"tableflip": {Settings{Kinds: []Kind{KindTableflip}, ReadyFD: 12}, []string{
			"12 pipe", "3 pipe", "4 pipe", "5 WEB", "6 APP", "7 WEB", "8 WEB", "9 WEB",
			"TABLEFLIP_HAS_PARENT_7DIU3=yes"}},
	} {
		t.Run(name, func(t *testing.T) {
			want := append(slices.Clone(test.want), "parent LAUNCHER")
			if diff := cmp.Diff(want, layout(t, test.s, sockets)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestNodesChannelIsWhereItsVariableSays(t *testing.T) {
	w := crewed(t, Settings{Kinds: []Kind{KindNode}, ReadyFD: 5}, two(t), []string{childVariable + "=layout"}, self(t))
	w.says("NODE_CHANNEL_FD=6")
}

// Einhorn and socketmaster share one; which of two getenv(3) finds is nobody's guess.
func TestNoVariableIsThereTwice(t *testing.T) {
	w := unstarted(t, Settings{Kinds: []Kind{KindServerStarter, KindEinhorn, KindSocketmaster, KindEndless, KindNode}, ReadyFD: 9}, two(t))
	seen := make(map[string]string)
	for _, kv := range w.link.Env() {
		key, value, _ := strings.Cut(kv, "=")
		if other, ok := seen[key]; ok {
			t.Errorf("%s is %q and %q", key, other, value)
		}
		seen[key] = value
	}
}

// Two channels of a worker speak at the same time; whoever listens hears one after
// the other.
func TestMessagesOfAllChannelsComeOneAtATime(t *testing.T) {
	var mu sync.Mutex
	w := (&Worker{On: func(Message) {
		if !mu.TryLock() {
			t.Error("two at a time")
			return
		}
		defer mu.Unlock()
	}}).inTurn()
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for range 2000 {
				w.On(Message{})
			}
		})
	}
	all.Wait()
}

func TestALinkThatCannotBeMadeLeavesNothing(t *testing.T) {
	before := openFDs(t)
	hub := NewHub(HubOptions{})
	c := &Choice{Kinds: []Kind{KindSystemd, KindTableflip, "pigeons"}}
	if l, err := hub.Open(c, &Worker{}); err == nil || !strings.Contains(err.Error(), `"pigeons"`) {
		t.Errorf("%v %v", l, err)
	}
	eventually(t, "its descriptors are closed", func() bool { return openFDs(t) == before })
}
