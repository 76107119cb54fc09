package protocol

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var sockets = []Socket{
	{Name: "http", Network: "tcp", Address: ":8080", FD: -1},
	{Name: "admin", Network: "tcp6", Address: "[::1]:81", FD: -1},
	{Name: "app", Network: "unix", Address: "/run/app.sock", FD: -1},
}

func TestTemplates(t *testing.T) {
	plain := choose(t, Settings{Kinds: []Kind{KindSystemd}, ReadyFD: 7}, Program{})
	flip := choose(t, Settings{Kinds: []Kind{KindTableflip}}, Program{})
	for text, want := range map[string]string{
		"":                                    "",
		"--listen=:80":                        "--listen=:80",
		`{{fd "http"}};{{fd "admin"}};`:       "3;4;",
		`{{ fd   "app" }}`:                    "5",
		`x{{port "http"}}y{{port "admin"}}`:   "x8080y81",
		`[{{host "http"}}][{{host "admin"}}]`: "[][::1]",
		`{{address "http"}} {{address "admin"}} {{address "app"}}`: ":8080 [::1]:81 /run/app.sock",
		`--notify {{ready}}/{{ ready }}`:                           "--notify 7/7",
		// Not ours.
		"{{.Names}}":              "{{.Names}}",
		"{{}}":                    "{{}}",
		"{{fd http}}":             "{{fd http}}",
		`{{fd"http"}}`:            `{{fd"http"}}`,
		`{{FD "http"}}`:           `{{FD "http"}}`,
		`{{fd "http" }`:           `{{fd "http" }`,
		`{{ readyness }}`:         `{{ readyness }}`,
		`{{json .}} {{fd "app"}}`: `{{json .}} 5`,
		`{{{fd "app"}}}`:          `{5}`,
		`{{fd "{{ready}}`:         `{{fd "7`,
	} {
		got, err := plain.Expand(text, sockets)
		if err != nil || got != want {
			t.Errorf("%s: %q %v, want %q", text, got, err, want)
		}
	}
	if got, err := flip.Expand(`{{fd "http"}} {{fd "app"}}`, sockets); err != nil || got != "5 7" {
		t.Errorf("tableflip's begin at 5: %q %v", got, err)
	}
}

func TestATemplateThatMeansNothingIsRefused(t *testing.T) {
	c := choose(t, Settings{Kinds: []Kind{KindSystemd}}, Program{})
	for text, want := range map[string]string{
		`{{fd "htpt"}}`:      `{{fd "htpt"}}: no listener is called "htpt"; did you mean "http"?`,
		`{{ fd "database"}}`: `{{ fd "database"}}: no listener is called "database"; there are: http, admin, app`,
		`{{port "app"}}`:     `{{port "app"}}: a unix socket has no port; {{address "app"}} is its path`,
		`a {{ready}}`:        `{{ready}}: ready_fd is not set`,
	} {
		got, err := c.Expand(text, sockets)
		if err == nil || err.Error() != want {
			t.Errorf("%s: %q %v, want %q", text, got, err, want)
		}
	}
	if _, err := c.Expand(`{{host "x"}}`, nil); err == nil || !strings.Contains(err.Error(), `called "x", and no other`) {
		t.Error(err)
	}
}

func TestReadyFDThatIsTakenSaysWhatIsFree(t *testing.T) {
	plain, flip := []Kind{KindSystemd}, []Kind{KindTableflip}
	for _, test := range []struct {
		kinds []Kind
		fd    int
		want  string
	}{
		{plain, 3, `ready_fd 3: that is the socket of listener "http"; 6 and above are free`},
		{plain, 5, `ready_fd 5: that is the socket of listener "app"; 6 and above are free`},
		{flip, 5, `ready_fd 5: that is the socket of listener "http"; 17 and above are free`},
		{flip, 16, `ready_fd 16: that is a socket under another of its names, for tableflip; 17 and above are free`},
	} {
		c := choose(t, Settings{Kinds: test.kinds, ReadyFD: test.fd}, Program{})
		if _, err := c.Numbers(sockets); err == nil || err.Error() != test.want {
			t.Errorf("%v, want %q", err, test.want)
		}
		if _, err := c.Expand(`{{ready}}`, sockets); err == nil {
			t.Error("expanded all the same")
		}
		if l, err := NewHub(HubOptions{}).Open(c, &Worker{Sockets: sockets}); err == nil {
			t.Errorf("opened all the same: %v", l.Close())
		}
	}
	got, err := choose(t, Settings{Kinds: plain, ReadyFD: 6}, Program{}).Numbers(sockets)
	if diff := cmp.Diff(map[string]int{"http": 3, "admin": 4, "app": 5}, got); err != nil || diff != "" {
		t.Error(err, diff)
	}
}

// FuzzExpand: no text makes it fall, and one without a form of ours stays as it is.
func FuzzExpand(f *testing.F) {
	f.Add(`{{fd "http"}}`)
	f.Add(`{{{{ready}}{{host "`)
	f.Fuzz(func(t *testing.T, text string) {
		c := &Choice{Settings: Settings{ReadyFD: 9}, Kinds: []Kind{KindSystemd, KindS6}}
		got, err := c.Expand(text, sockets)
		if err == nil && got != text && !strings.Contains(text, "}}") {
			t.Errorf("%q became %q", text, got)
		}
		if !form().MatchString(text) && (err != nil || got != text) {
			t.Errorf("%q became %q, %v", text, got, err)
		}
	})
}
