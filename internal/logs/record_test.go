package logs

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"pgregory.net/rapid"
)

// object is a record as any reader of JSON has it.
type object struct {
	N    int64  `json:"n"`
	T    string `json:"t"`
	S    string `json:"s"`
	G    int    `json:"g"`
	W    *int   `json:"w"`
	PID  int    `json:"pid"`
	V    string `json:"v"`
	L    string `json:"l"`
	P    bool   `json:"p"`
	B64  bool   `json:"b64"`
	Drop int64  `json:"drop"`
}

func putOne(line []byte, more bool) []byte {
	s := &Store{}
	s.tick()
	s.put([]byte(`","s":"out","g":3,"w":0,"pid":12,"l":"`), line, more)
	return s.buf
}

func TestEveryLineComesBackFromItsRecord(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		line := rapid.OneOf(
			rapid.SliceOf(rapid.Byte()),
			rapid.Map(rapid.String(), func(s string) []byte { return []byte(s) }),
			rapid.Map(rapid.StringMatching(`[ -~]{0,40}["\\\t\r\x1b]?[ -~]{0,40}`), func(s string) []byte { return []byte(s) }),
		).Draw(t, "line")
		more := rapid.Bool().Draw(t, "more")
		b := putOne(line, more)
		text, ok := bytes.CutSuffix(b, []byte{'\n'})
		if !ok || bytes.Contains(text, []byte{'\n'}) {
			t.Fatalf("%q is not one line", b)
		}
		var o object
		if err := json.Unmarshal(text, &o); err != nil {
			t.Fatalf("%v in %s", err, text)
		}
		plain := []byte(o.L)
		if o.B64 {
			var err error
			if plain, err = base64.StdEncoding.DecodeString(o.L); err != nil {
				t.Fatal(err)
			}
		}
		if !bytes.Equal(plain, line) || o.P != more || o.B64 != (!utf8.Valid(line) || bytes.IndexByte(line, 0) >= 0) {
			t.Fatalf("%q became %s", line, text)
		}
		if o.S != Stdout || o.G != 3 || *o.W != 0 || o.PID != 12 || len(o.T) != len(stampForm) {
			t.Fatalf("%s", text)
		}
		var r Record
		if !r.parse(text) || !bytes.Equal(r.Text, line) || r.More != more || r.Binary != o.B64 || r.Worker != 0 ||
			r.Generation != 3 || r.PID != 12 || string(r.Stamp) != o.T || r.Time().IsZero() {
			t.Fatalf("%s was read as %+v", text, r)
		}
	})
}

func TestPlainEndsAtWhatIsNot(t *testing.T) {
	for _, c := range []byte{0, 1, '\t', '\r', 0x1f, '"', '\\', 0x80, 0xc3, 0xff} {
		for at := range 20 {
			line := []byte("abcdefghijklmnopqrst")
			line[at] = c
			if got := plain(line); got != at {
				t.Errorf("%q: %d, want %d", line, got, at)
			}
		}
	}
	if line := []byte("all of this !#[]^~\x7f is plain"); plain(line) != len(line) {
		t.Errorf("%d of %d", plain(line), len(line))
	}
}

func TestRecordsOfOthersAreRead(t *testing.T) {
	var r Record
	line := `{"l":"a\u00e9\/\b\f","x":[1,2],"t":"2026-11-29T14:00:00Z","s":"err","new":"x","w":7}`
	if r.parse([]byte(line)) {
		t.Error("a list is read as a word")
	}
	line = strings.Replace(line, `"x":[1,2],`, `"x":true,`, 1)
	if !r.parse([]byte(line)) || string(r.Text) != "aé/\b\f" || r.Stream != Stderr || r.Worker != 7 {
		t.Errorf("%+v", r)
	}
}

func TestWhatIsNoRecordIsNotRead(t *testing.T) {
	good := string(bytes.TrimSuffix(putOne([]byte(`a "b" \ c`), true), []byte{'\n'}))
	var r Record
	if !r.parse([]byte(good)) {
		t.Fatal(good)
	}
	for i := range len(good) {
		if r.parse([]byte(good[:i])) {
			t.Errorf("half of it: %s", good[:i])
		}
	}
	for _, bad := range []string{"", "{}", "x", good + "x", `{"t":"x","s":"out","l":"\x"}`, `{"t":"x","s":"out","l":"\u00"}`,
		`{"t":"x","s":"out","w":-1,"l":""}`, `{"t":"x","s":"out","l":"%","b64":true}`} {
		if r.parse([]byte(bad)) {
			t.Errorf("%s", bad)
		}
	}
}

func FuzzRecord(f *testing.F) {
	f.Add([]byte(`{"n":1,"t":"2026-11-29T14:00:00.123456789Z","s":"out","g":3,"w":0,"pid":123,"l":"te\"xt","p":true}`))
	f.Fuzz(func(t *testing.T, line []byte) {
		var r Record
		if r.parse(line) && (len(r.Stamp) == 0 || r.Stream == "") {
			t.Errorf("%q was read as %+v", line, r)
		}
	})
}

func TestLostRecordsCountWhatTheyCounted(t *testing.T) {
	b := putOne([]byte(`a text with ,"drop":5, in it`), false)
	b = appendOwn(b, stamp(time.Now()), 0, 1, "warn", "x", 7)
	b = append(b, putOne([]byte("b"), true)...)
	if n := linesOf(b); n != 9 {
		t.Errorf("%d lines, want 9", n)
	}
}

func TestALongLineIsCutBetweenCharacters(t *testing.T) {
	for text, want := range map[string]int{
		"abcdef": 4, "abcé": 3, "ab€d": 2, "a🙂bc": 1, "ab\xff\xff\xff\xff": 4, "abcd\xff": 4, "\x80\x80\x80\x80\x80\x80": 4,
	} {
		if got := cutText([]byte(text), 4); got != want {
			t.Errorf("%q is cut at %d, want %d", text, got, want)
		}
	}
}
