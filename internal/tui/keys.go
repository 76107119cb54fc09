package tui

import (
	tea "charm.land/bubbletea/v2"
)

// key does what a key stands for.
func (s *screen) key(k tea.KeyPressMsg) tea.Cmd {
	name := k.String()
	switch {
	case name == "ctrl+c":
		return tea.Quit
	case name == "ctrl+z":
		return tea.Suspend
	case s.log.typing:
		s.typed(k)
		return nil
	case s.ask != nil:
		return s.reply(name)
	case s.help:
		s.help = false // any key
		return nil
	}
	if s.act(name) {
		return nil
	}
	switch name {
	case "q":
		return tea.Quit
	case "?":
		s.help = true
	case "tab":
		s.focus = (s.focus + 1) % panes
	case "shift+tab":
		s.focus = (s.focus + panes - 1) % panes
	case "/":
		s.log.typing, s.log.search, s.log.found = true, "", -1
	case "n":
		s.find(-1)
	case "N":
		s.find(1)
	case "esc":
		s.message, s.log.search, s.log.found, s.log.back = cell{}, "", -1, 0
	default:
		return s.move(name)
	}
	return nil
}

// far is more than there are of anything.
const far = 1 << 30

// move goes through the pane that has the keys.
func (s *screen) move(key string) tea.Cmd {
	page := max(1, s.layout().log-1)
	n, ok := map[string]int{
		"up": -1, "k": -1, "down": 1, "j": 1, "pgup": -page, "pgdown": page, "home": -far, "g": -far, "end": far, "G": far,
	}[key]
	if !ok {
		if s.focus == logPane {
			s.aside(key)
		}
		return nil
	}
	switch s.focus {
	case listPane:
		return s.choose(s.at() + n)
	case workerPane:
		s.row = max(0, min(s.row+n, len(s.workers())-1))
	case logPane:
		s.scroll(-n)
	}
	return nil
}

// aside shows what is right of a long line's end, or left.
func (s *screen) aside(key string) {
	const step = 20
	switch key {
	case "right", "l":
		s.log.right = min(s.log.right+step, keptBytes)
	case "left", "h":
		s.log.right = max(0, s.log.right-step)
	}
}
