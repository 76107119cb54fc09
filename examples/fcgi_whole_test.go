package examples

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"baton/internal/load"
)

// answering is a FastCGI server that reads a whole request, answers with bytes given
// by the test, and closes.
func answering(t *testing.T, answer []byte) load.Target {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { // ends when the listener is closed
		defer close(ended)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			if err := request(c); err != nil {
				t.Errorf("the request: %v", err)
			}
			_, _ = c.Write(answer) // the client tells
			c.Close()
		}
	}()
	t.Cleanup(func() {
		l.Close()
		<-ended
	})
	return load.Target{Network: "tcp", Address: l.Addr().String()}
}

// request reads records to the empty one of standard input, its end.
func request(c net.Conn) error {
	r := bufio.NewReader(c)
	var params []byte
	for {
		var h fcgiHeader
		if err := binary.Read(r, binary.BigEndian, &h); err != nil {
			return err
		}
		content := make([]byte, h.Length)
		if _, err := io.ReadFull(r, content); err != nil {
			return err
		}
		switch h.Type {
		case fcgiParams:
			params = append(params, content...)
		case fcgiStdin:
			if !bytes.Contains(params, []byte("\x0f\x0aSCRIPT_FILENAME/index.php")) {
				return errors.New("not for /index.php")
			}
			return nil
		}
	}
}

func records(parts ...any) []byte {
	var out bytes.Buffer
	for i := 0; i < len(parts); i += 2 {
		record(&out, uint8(parts[i].(int)), []byte(parts[i+1].(string)))
	}
	return out.Bytes()
}

func TestAFastCGIAnswerCountsOnlyWhole(t *testing.T) {
	const head, good = "X-Generation: 3\r\n\r\n", "\x00\x00\x00\x00\x00\x00\x00\x00"
	right := records(fcgiStdout, head+"hello", fcgiStdout, "", fcgiEndRequest, good)
	for _, c := range []struct {
		name   string
		answer []byte
		want   load.Reason // "": answered
	}{
		{"right", right, ""},
		{"its head in two records", records(fcgiStdout, head[:7], fcgiStdout, head[7:]+"hello", fcgiEndRequest, good), ""},
		{"none", nil, load.EOF},
		{"half a record", right[:12], load.EOF},
		{"without its end", records(fcgiStdout, head+"hello", fcgiStdout, ""), load.Truncated},
		{"with half its end", right[:len(right)-3], load.Truncated},
		{"the script failed", records(fcgiStdout, head+"hello", fcgiEndRequest, "\x00\x00\x00\x01"+good[4:]), load.Malformed},
		{"the server was overloaded", records(fcgiStdout, head+"hello", fcgiEndRequest, good[:4]+"\x02"+good[5:]), load.Malformed},
		{"of another protocol", []byte(strings.Repeat("HTTP", 5)), load.EOF},
		{"another status", records(fcgiStdout, "Status: 503 Busy\r\n"+head, fcgiEndRequest, good), load.Status},
	} {
		t.Run(c.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			r, err := load.Start(ctx, load.Options{
				Targets: []load.Target{answering(t, c.answer)}, Dial: fastCGI("/index.php"),
			})
			if err != nil {
				t.Fatal(err)
			}
			for r.Result().Requests == 0 && ctx.Err() == nil {
				<-time.After(time.Millisecond) // between two looks
			}
			got := r.Stop()
			if c.want == "" && (got.Lost > 0 || got.ByGeneration["3"] != got.Requests) ||
				c.want != "" && (got.Answered() > 0 || got.Reasons[c.want] != got.Lost) || got.Requests == 0 {
				t.Errorf("want %q: %v", c.want, got)
			}
		})
	}
}
