package protocol

import (
	"encoding/json"
	"log/slog"
	"sync"
)

// maxNodeMemory bounds what is remembered of workers' questions, in questions.
const maxNodeMemory = 256

// nodeHub is what node's channels share across workers and generations.
type nodeHub struct {
	mu     sync.Mutex
	lastID int
	// data is what the first worker said about each address. Node's primary tells it
	// to all others, which is how https servers come to share their ticket keys.
	data    map[string]json.RawMessage
	told    map[string]bool // what was logged once
	preload preload
}

// nextID is a worker's number for node's cluster.worker.id, from 1.
func (h *nodeHub) nextID() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.lastID++
	return h.lastID
}

// shared is what a worker is to be told about an address for which it says data
// itself: what the first one said. Only ticket keys are kept: they are all that node
// shares, null would crash a worker that has turned from http to https, and what one
// generation made up must not reach the next.
func (h *nodeHub) shared(address string, data json.RawMessage) json.RawMessage {
	if !isTicketKeys(data) {
		return data
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if first, ok := h.data[address]; ok {
		return first
	}
	if len(h.data) >= maxNodeMemory {
		return data
	}
	if h.data == nil {
		h.data = make(map[string]json.RawMessage)
	}
	h.data[address] = data
	return data
}

// first says whether what is new: each line of a kind is logged once, not with each
// generation.
func (h *nodeHub) first(what string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.told[what] || len(h.told) >= maxNodeMemory {
		return false
	}
	if h.told == nil {
		h.told = make(map[string]bool)
	}
	h.told[what] = true
	return true
}

// nodeOptions is the NODE_OPTIONS for a worker with this environment, which has the
// preload first; nothing where the file cannot be written, which is said once.
func (h *nodeHub) nodeOptions(base []string, log *slog.Logger) []string {
	h.mu.Lock()
	path, err := h.preload.file()
	h.mu.Unlock()
	if err != nil {
		if !h.first("no preload") {
			return nil
		}
		log.Warn("node runs without its preload: a connection kept alive may lose a request at a swap", "error", err)
		return nil
	}
	return []string{"NODE_OPTIONS=" + withPreload(path, lookup(base, "NODE_OPTIONS"))}
}

// close removes the preload.
func (h *nodeHub) close() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.preload.dirs.close()
}

// isTicketKeys says whether data is what https servers share, and node would take
// it: 48 bytes in hex.
func isTicketKeys(data json.RawMessage) bool {
	var t struct {
		TicketKeys string `json:"ticketKeys"`
	}
	if json.Unmarshal(data, &t) != nil || len(t.TicketKeys) != 96 {
		return false
	}
	for _, c := range t.TicketKeys {
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}
