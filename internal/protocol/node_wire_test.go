package protocol

import (
	"bytes"
	"encoding/json"
	"slices"
	"strings"
	"testing"
)

func TestNodeMessages(t *testing.T) {
	for line, want := range map[string]struct {
		cmd   string
		ready bool
		fails bool
	}{
		`"ready"`:                        {ready: true},
		` "ready"`:                       {},
		`"READY"`:                        {},
		`{"ready":true}`:                 {},
		`["ready"]`:                      {},
		`{"cmd":"NODE_CLUSTER","seq":1}`: {cmd: "NODE_CLUSTER"},
		`{"cmd":"NODE_"}`:                {},
		`{"cmd":"node_cluster"}`:         {},
		`{"cmd":7,"act":{}}`:             {},
		`{"cmd":"stop","act":{}}`:        {},
		`{"cmd":"NODE_X","act":{}}`:      {fails: true},
		`ready`:                          {fails: true},
		``:                               {fails: true},
		`{} {}`:                          {fails: true},
	} {
		m, err := readNode([]byte(line))
		if m.Cmd != want.cmd || m.ready != want.ready || (err != nil) != want.fails {
			t.Errorf("%s: %+v, %v", line, m, err)
		}
	}
}

func TestLinesAreCutWhereverTheyArrive(t *testing.T) {
	long := strings.Repeat("x", maxNodeLine)
	stream := "one\n\ntwo\n" + long + "\n" + long + "x\n" + long + long + "\nthree\nfour"
	want := []string{"one", "", "two", long, "three"}
	for _, step := range []int{7, 4096, 1 << 20, len(stream)} {
		var lines nodeLines
		var got []string
		tooLong := 0
		for chunk := range slices.Chunk([]byte(stream), step) {
			tooLong += lines.feed(chunk, func(line []byte) { got = append(got, string(line)) })
		}
		if !slices.Equal(got, want) || tooLong != 2 || string(lines.rest) != "four" {
			t.Errorf("in steps of %d: %d lines, %d too long, rest %q", step, len(got), tooLong, lines.rest)
		}
	}
}

// FuzzNodeChannel: nothing that a worker writes makes the reader fall or read the
// same stream differently when it is cut differently; and what node means by it is
// known or refused.
func FuzzNodeChannel(f *testing.F) {
	f.Add([]byte("\"ready\"\n{\"cmd\":\"NODE_CLUSTER\",\"act\":\"online\",\"seq\":0}\n"), 3)
	f.Add([]byte(query0+"\n{\"cmd\":\"NODE_HANDLE_ACK\"}\n"), 50)
	f.Add([]byte(`{"cmd":"NODE_CLUSTER","act":"queryServer","address":"/x","port":-1,"addressType":-1,"fd":-1,"flags":1,"data":{"ticketKeys":"00"}}`+"\n"), 1)
	f.Fuzz(func(t *testing.T, stream []byte, step int) {
		var whole, cut [][]byte
		var a, b nodeLines
		a.feed(stream, func(line []byte) { whole = append(whole, bytes.Clone(line)) })
		for chunk := range slices.Chunk(stream, 1+max(0, step)%4096) {
			b.feed(chunk, func(line []byte) { cut = append(cut, bytes.Clone(line)) })
		}
		if !slices.EqualFunc(whole, cut, bytes.Equal) || !bytes.Equal(a.rest, b.rest) {
			t.Fatalf("%q in steps of %d: %q, not %q", stream, step, cut, whole)
		}
		sockets := []nodeSocket{bound("tcp", "[::]:80"), bound("udp4", "127.0.0.1:53"), bound("unix", "/run/app.sock")}
		for _, line := range whole {
			m, err := readNode(line)
			if err != nil || m.Cmd == "" {
				continue
			}
			question, err := m.ask()
			if err != nil {
				continue
			}
			if i, _ := pick(sockets, question, 3); i >= len(sockets) || i < -1 {
				t.Fatalf("%s: socket %d", line, i)
			}
			pickAny(sockets, question)
			if words := question.String(); len(words) > 2*maxStatus || strings.ContainsAny(words, "\x1b\n") {
				t.Fatalf("%s: in words %q", line, words)
			}
			reply := nodeReply{Ack: &m.Seq, Data: m.Data}
			if out := reply.withHandle(false); !json.Valid(out) || bytes.Count(out, []byte{'\n'}) != 1 {
				t.Fatalf("%s: answered with %q", line, out)
			}
		}
	})
}

const query0 = `{"cmd":"NODE_CLUSTER","act":"queryServer","index":0,"data":null,"address":null,"port":18080,"addressType":4,"backlog":0,"seq":1}`
