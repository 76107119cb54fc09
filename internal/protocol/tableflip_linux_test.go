package protocol

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cloudflare/tableflip"
	"github.com/google/go-cmp/cmp"
)

// askVariable are the sockets that tableflipChild asks for, "network address" each.
const askVariable = "PROTOCOL_TEST_ASK"

// tableflipChild is a program built on the real thing. It says which of the sockets
// it was given, and whether and when its parent is gone.
func tableflipChild() {
	upg, err := tableflip.New(tableflip.Options{})
	if err != nil {
		fmt.Println(err)
		return
	}
	for ask := range strings.SplitSeq(os.Getenv(askVariable), ";") {
		network, address, _ := strings.Cut(ask, " ")
		var at net.Addr
		if strings.HasPrefix(network, "udp") {
			if c, err := upg.PacketConn(network, address); err == nil && c != nil {
				at = c.LocalAddr()
			}
		} else if l, err := upg.Listener(network, address); err == nil && l != nil {
			at = l.Addr()
		}
		if at == nil {
			fmt.Println("not given", ask)
			continue
		}
		fmt.Println("given", ask, at)
	}
	fmt.Println("asked")
	if os.Getenv("PROTOCOL_TEST_NOT_READY") == "" {
		if err := upg.Ready(); err != nil {
			fmt.Println(err)
		}
		soonGone, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
		if err := upg.WaitForParent(soonGone); errors.Is(err, context.DeadlineExceeded) {
			fmt.Println("the parent lives")
		}
		cancel()
	}
	err = upg.WaitForParent(context.Background())
	fmt.Println("the parent is gone", err)
	<-upg.Exit() // never: until it is killed
}

var flip = Settings{Kinds: []Kind{KindTableflip}}

func flipped(t *testing.T, sockets []Socket, asks ...string) *crew {
	t.Helper()
	return crewed(t, flip, sockets, []string{childVariable + "=tableflip", askVariable + "=" + strings.Join(asks, ";")}, self(t))
}

const flipReady = "tableflip's ready byte"

func TestATableflipProgramFindsItsSocketsHoweverItAsks(t *testing.T) {
	wild := listening(t, "tcp", "[::]:0")
	port := wild.port(t)
	wild.Address = fmt.Sprintf(":%d", port)
	local := listening(t, "udp", "127.0.0.1:0")
	sockets := append(two(t), wild, local)
	for _, asks := range [][]string{
		{"tcp :%d", "tcp 127.0.0.1:%d", "unix %s"},
		{"tcp 0.0.0.0:%d", "tcp localhost:%d"},
		{"tcp [::]:%d", "tcp4 127.0.0.1:%d"},
		{"tcp4 :%d", "tcp4 localhost:%d"},
		{"tcp4 0.0.0.0:%d"},
		{"tcp6 :%d"},
		{"tcp6 [::]:%d"},
	} {
		// The first is asked of the wildcard, the others of the sockets on loopback.
		var list, want []string
		for i, a := range asks {
			var at, name string
			switch i {
			case 0:
				at, name = fmt.Sprintf("[::]:%d", port), fmt.Sprintf(a, port)
			case 1:
				at, name = sockets[0].Address, fmt.Sprintf(a, sockets[0].port(t))
			default:
				at, name = sockets[1].Address, fmt.Sprintf(a, sockets[1].Address)
			}
			list, want = append(list, name), append(want, "given "+name+" "+at)
		}
		udp := "udp " + local.Address
		list, want = append(list, udp), append(want, "given "+udp+" "+local.Address)
		w := flipped(t, sockets, list...)
		w.ready(flipReady)
		w.says("asked")
		got, _, _ := strings.Cut(w.out.String(), "asked\n")
		if diff := cmp.Diff(strings.Join(want, "\n")+"\n", got); diff != "" {
			t.Error(diff)
		}
		if _, err := os.Stat(sockets[1].Address); err != nil && len(asks) == 3 {
			t.Errorf("the path that it serves: %v", err)
		}
	}
}

func TestNamesAreOfferedOnceAndTheConfiguredOnesFirst(t *testing.T) {
	for name, test := range map[string]struct {
		sockets []Socket
		want    string
	}{
		"none":                {nil, ""},
		"a path":              {[]Socket{{Network: "unix", Address: "/s"}}, "0 unix /s"},
		"a path with a colon": {[]Socket{{Network: "unix", Address: "/s:80"}}, "0 unix /s:80"},
		"one address":         {[]Socket{{Network: "tcp", Address: "10.0.0.1:80"}}, "0 tcp 10.0.0.1:80, 0 tcp4 10.0.0.1:80"},
		"its family":          {[]Socket{{Network: "tcp6", Address: "[::1]:80"}}, "0 tcp6 [::1]:80, 0 tcp localhost:80, 0 tcp [::1]:80, 0 tcp6 localhost:80"},
		"v4 wildcard":         {[]Socket{{Network: "tcp4", Address: ":80"}}, "0 tcp4 :80, 0 tcp :80, 0 tcp 0.0.0.0:80, 0 tcp [::]:80, 0 tcp4 0.0.0.0:80"},
		"a name":              {[]Socket{{Network: "tcp", Address: "db:80"}}, "0 tcp db:80, 0 tcp4 db:80, 0 tcp6 db:80"},
		"two families": {[]Socket{{Network: "tcp", Address: "0.0.0.0:80"}, {Network: "tcp", Address: "[::]:80"}},
			"0 tcp 0.0.0.0:80, 1 tcp [::]:80, 0 tcp :80, 0 tcp4 :80, 0 tcp4 0.0.0.0:80, 1 tcp6 :80, 1 tcp6 [::]:80"},
	} {
		var got []string
		for _, n := range tableflipNames(test.sockets) {
			got = append(got, fmt.Sprintf("%d %s %s", n.socket, n.network, n.address))
		}
		if diff := cmp.Diff(test.want, strings.Join(got, ", ")); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}

func TestTheParentIsGoneOnceTheWorkerIsAlone(t *testing.T) {
	w := flipped(t, two(t))
	w.ready(flipReady)
	w.says("the parent lives")
	w.link.Alone()
	w.says("the parent is gone <nil>")
	w.link.Alone()
}

func TestTheFirstWorkerIsAloneFromTheBeginning(t *testing.T) {
	sockets := two(t)
	w := unstarted(t, flip, sockets)
	w.link.Alone()
	w.start([]string{childVariable + "=tableflip", askVariable + "=unix " + sockets[1].Address}, self(t))
	w.ready(flipReady)
	w.says("given unix " + sockets[1].Address + " " + sockets[1].Address)
	w.says("the parent is gone <nil>")
}

// A pipe holds 64 KiB at most; the names wait for their reader, or for the end.
func TestNamesThatDoNotFitThePipeArrive(t *testing.T) {
	sockets := two(t)
	dir := filepath.Dir(sockets[1].Address)
	for i := range 700 {
		path := fmt.Sprintf("%s/%s%d", dir, strings.Repeat("long", 18), i)
		sockets = append(sockets, Socket{Name: fmt.Sprint(i), Network: "unix", Address: path, FD: sockets[1].FD})
	}
	last := "unix " + sockets[len(sockets)-1].Address
	w := flipped(t, sockets, last, "unix "+sockets[1].Address)
	w.ready(flipReady)
	w.says("given " + last + " " + sockets[1].Address)

	unread := unstarted(t, flip, sockets)
	eventually(t, "the pipe is full", func() bool { return unread.link.Hint() != "" })
}

func TestAnyOtherByteIsNotReady(t *testing.T) {
	for text, want := range map[string]string{"a": "0x61", `\053*`: "0x2b", "READY=1": "0x52"} {
		w := crewed(t, flip, two(t), nil, "sh", "-c", fmt.Sprintf(`printf '%s' >&3; exec sleep 60`, text))
		w.logs("something else was written to it")
		if hint := "it wrote " + want + " to tableflip's ready pipe, not 0x2a"; w.link.Hint() != hint {
			t.Errorf("hint %q, want %q", w.link.Hint(), hint)
		}
		w.silent()
		if w.log.count("\n") != 1 {
			t.Error(w.log)
		}
	}
}

func TestAReadyPipeClosedWithoutAWordIsNotReady(t *testing.T) {
	w := crewed(t, flip, two(t), nil, "sh", "-c", `exec 3>&-; exec sleep 60`)
	eventually(t, "a hint", func() bool { return w.link.Hint() == "it closed tableflip's ready pipe without a word" })
	w.silent()
}

func TestAProgramThatIsNoTableflipProgramIsNamed(t *testing.T) {
	w := crewed(t, flip, two(t), nil, "sleep", "60")
	if hint := w.link.Hint(); !strings.Contains(hint, "has not called tableflip.New") || !strings.Contains(hint, `protocols = ["systemd"]`) {
		t.Errorf("hint %q", hint)
	}
	called := crewed(t, flip, two(t), []string{childVariable + "=tableflip", "PROTOCOL_TEST_NOT_READY=1"}, self(t))
	called.says("asked")
	if hint := called.link.Hint(); hint != "it has called tableflip.New, but not Ready" {
		t.Errorf("hint %q", hint)
	}
}

// FuzzTableflipReady: only the byte 42, as the first, is ready.
func FuzzTableflipReady(f *testing.F) {
	f.Add([]byte{42})
	f.Add([]byte("*READY=1"))
	f.Add([]byte("\x00*"))
	f.Fuzz(func(t *testing.T, text []byte) {
		box := make(inbox, 10)
		ch, err := openTableflip(nil, nil, &Worker{On: func(m Message) { box <- m }, Log: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		defer ch.close()
		flip := ch.(*flipper)
		pour(t, flip.below()[0], text, len(text))
		ch.started()
		eventually(t, "it has an opinion", func() bool { return ended(flip.ready) })
		if want := len(text) > 0 && text[0] == tableflipReady; want != (len(box) == 1) {
			t.Errorf("%q: told %d times", text, len(box))
		}
	})
}
