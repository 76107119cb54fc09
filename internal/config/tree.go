package config

import (
	"fmt"
	"strconv"
	"strings"
)

// node is one value of a configuration with its place. Trees are merged (a
// profile over the file, flags over both) before anything is decoded, so every
// value keeps the place it was written at.
type node struct {
	key    string // as written: profile.prod.handoff.bake
	file   string // or the flag, with line 0
	line   int
	column int
	dir    string // what relative paths are relative to
	table  map[string]*node
	list   []*node
	isList bool
	scalar any // string, int64, float64, bool or a time; nil in tables and lists
}

// source is where a tree comes from.
type source struct{ file, dir string }

// tree joins a value from the TOML library with its places. p may be nil.
func (s source) tree(value any, p *place, key string) *node {
	n := &node{key: key, file: s.file, dir: s.dir}
	if p != nil {
		n.line, n.column = p.line, p.column
	}
	below := func(child *place) *place {
		if child == nil { // the spot of the parent is near enough
			return p.bare()
		}
		return child
	}
	switch v := value.(type) {
	case map[string]any:
		n.table = make(map[string]*node, len(v))
		for name, child := range v {
			var at *place
			if p != nil {
				at = p.keys[name]
			}
			n.table[name] = s.tree(child, below(at), join(key, name))
		}
	case []any:
		n.isList = true
		for i, child := range v {
			n.list = append(n.list, s.tree(child, below(p.item(i)), fmt.Sprintf("%s[%d]", key, i)))
		}
	case []map[string]any:
		plain := make([]any, len(v))
		for i := range v {
			plain[i] = v[i]
		}
		return s.tree(plain, p, key)
	default:
		n.scalar = value
	}
	return n
}

// bare is the place without what is below it.
func (p *place) bare() *place {
	if p == nil {
		return nil
	}
	return &place{line: p.line, column: p.column, offset: p.offset}
}

func (p *place) item(i int) *place {
	if p == nil || i >= len(p.items) {
		return nil
	}
	return p.items[i]
}

// join adds a piece to a dotted key, quoted where TOML wants it quoted.
func join(key, piece string) string {
	bare := piece != "" && strings.Trim(piece,
		"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-") == ""
	if !bare {
		piece = strconv.Quote(piece)
	}
	if key == "" {
		return piece
	}
	return key + "." + piece
}

// find returns the node at the path, or nil.
func (n *node) find(path ...string) *node {
	for _, name := range path {
		if n == nil {
			return nil
		}
		n = n.table[name]
	}
	return n
}

// near returns the node at the path or the closest one above it.
func (n *node) near(path ...string) *node {
	for _, name := range path {
		below := n.table[name]
		if below == nil {
			return n
		}
		n = below
	}
	return n
}

// over returns n with top laid over it: tables are merged key by key and stay
// where n has them, anything else is replaced. Neither tree is changed.
func (n *node) over(top *node) *node {
	if n == nil || n.table == nil || top.table == nil {
		return top
	}
	merged := *n
	merged.table = make(map[string]*node, len(n.table)+len(top.table))
	for name, child := range n.table {
		merged.table[name] = child
	}
	for name, child := range top.table {
		merged.table[name] = n.table[name].over(child)
	}
	return &merged
}

// profiled returns the file's tree with one of its profiles over it: as over
// does, but listeners are merged by their names.
func (n *node) profiled(profile *node) *node {
	merged := n.over(profile)
	base, top := n.find("listen"), profile.find("listen")
	if merged.table != nil && base != nil && top != nil && base.isList && top.isList {
		merged.table["listen"] = base.listenersOver(top)
	}
	return merged
}

func (n *node) listenersOver(top *node) *node {
	merged := *n
	merged.list = append([]*node(nil), n.list...)
	names := listenerNames(n)
	for i, name := range listenerNames(top) {
		found := false
		for j := range names {
			if names[j] == name {
				merged.list[j] = n.list[j].over(top.list[i])
				found = true
				break
			}
		}
		if !found {
			merged.list = append(merged.list, top.list[i])
		}
	}
	return &merged
}

// listenerNames gives each listener its name: its own, or listen-1, listen-2 ...
// in the order of those without one.
func listenerNames(list *node) []string {
	names := make([]string, len(list.list))
	nameless := 0
	for i, l := range list.list {
		if n := l.find("name"); n != nil {
			names[i], _ = n.scalar.(string)
		}
		if names[i] == "" {
			nameless++
			names[i] = "listen-" + strconv.Itoa(nameless)
		}
	}
	return names
}
