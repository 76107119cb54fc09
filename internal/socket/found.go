package socket

// Sockets are the names of the descriptors that a Resume with that prefix would take,
// with the inodes that they had: whoever holds such a socket can give it back.
func (s State) Sockets(prefix string) map[string]uint64 {
	inodes := make(map[string]uint64, len(s.Order))
	for _, m := range s.Order {
		inodes[socketName(prefix, m.Number)] = m.Inode
	}
	return inodes
}
