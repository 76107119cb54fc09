package diag

import (
	"encoding/binary"
	"fmt"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Every number of sock_diag is in the machine's byte order, but for ports and
// addresses, which are as on the wire.
var native = binary.NativeEndian

// A query is one netlink socket, for the time of one call. It is not kept:
// opening it costs 25 µs, and a kept one would go on answering for the
// network namespace it was opened in, whichever the caller is in by now.
type query struct{ conn *netlink.Conn }

func open() (query, error) {
	conn, err := netlink.Dial(unix.NETLINK_SOCK_DIAG, nil)
	if err != nil {
		return query{}, fmt.Errorf("sock_diag: %w", err)
	}
	return query{conn}, nil
}

// close gives the socket back. Its error is of no use: all that was asked has
// been answered.
func (q query) close() { _ = q.conn.Close() }

// dump sends a request for all sockets that match.
func (q query) dump(request []byte) ([]netlink.Message, error) {
	return q.ask(request, netlink.Dump)
}

// ask sends a request of SOCK_DIAG_BY_FAMILY and returns the answers.
func (q query) ask(request []byte, flags netlink.HeaderFlags) ([]netlink.Message, error) {
	return q.conn.Execute(netlink.Message{
		Header: netlink.Header{Type: unix.SOCK_DIAG_BY_FAMILY, Flags: netlink.Request | flags},
		Data:   request,
	})
}

// attributes calls do for each netlink attribute in b (struct nlattr: length,
// type, payload, padded to 4 bytes). The kernel wrote them; a torn one ends
// the walk.
func attributes(b []byte, do func(kind uint16, value []byte)) {
	for len(b) >= unix.SizeofNlAttr {
		size := int(native.Uint16(b))
		if size < unix.SizeofNlAttr || size > len(b) {
			return
		}
		do(native.Uint16(b[2:]), b[unix.SizeofNlAttr:size])
		size = (size + 3) &^ 3
		if size > len(b) {
			return
		}
		b = b[size:]
	}
}
