package launcher

import (
	"errors"
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"
	"time"

	"baton/handoff"
	"baton/handoff/machine"
	"baton/health"
	"baton/internal/config"
	"baton/internal/process"
	"baton/internal/protocol"
	"baton/internal/socket"
)

// plan turns a configuration into what the engine carries out.
func plan(c *config.Config) (*handoff.Plan, error) {
	mode, err := health.ParseMode(string(c.Handoff.Ready))
	if err != nil {
		return nil, err
	}
	p := &handoff.Plan{
		Ready:         mode,
		ReadyDelay:    c.Handoff.ReadyDelay,
		HandshakeWait: c.Handoff.HandshakeWait,
		DrainSignals:  drainSignals(c),
		Quiesce:       c.Handoff.Quiesce(),
		StayCodes:     c.Restart.StopExitCodes,
		Protocols:     protocols(c),
		Command:       command(c),
		Stdin:         c.Command.Stdin,
		Together:      c.Handoff.Slots == config.SlotsGeneration,
		Policy:        policy(c),
	}
	if err := unwrap(p, c); err != nil {
		return nil, err
	}
	if p.Probe, err = probe("health.ready", c.Health.Ready); err != nil {
		return nil, err
	}
	if p.Live, err = live(c); err != nil {
		return nil, err
	}
	if _, err := controlGroup(c); err != nil {
		return nil, err
	}
	// A mode that is a probe has asked it by then.
	p.Policy.Probe = p.Probe != nil && !mode.ByProbe()
	for _, l := range c.Listen {
		lp, err := listener(l)
		if err != nil {
			return nil, fmt.Errorf("listener %s: %w", l.Name, err)
		}
		if slices.ContainsFunc(p.Listeners, func(x handoff.ListenerPlan) bool { return x.Address == lp.Address }) {
			return nil, fmt.Errorf("listener %s: %s is listened on twice", l.Name, lp.Address)
		}
		p.Listeners = append(p.Listeners, lp)
	}
	return p, nil
}

func policy(c *config.Config) machine.Policy {
	return machine.Policy{
		Workers:      workers(c),
		Rolling:      c.Handoff.Swap == config.SwapRolling,
		Canary:       canary(c),
		Sticky:       c.Handoff.CanaryBy == config.CanaryByClient,
		ReadyTimeout: c.Handoff.ReadyTimeout,
		Bake:         c.Handoff.Bake,
		DrainDelay:   c.Handoff.DrainDelay,
		DrainIdle:    c.Handoff.DrainIdle,
		DrainTimeout: c.Handoff.DrainTimeout,
		Ladder:       ladder(c),
		Quiesce:      c.Handoff.Quiesce() != 0,
		MaxDraining:  c.Handoff.MaxDraining,
		BackoffMin:   c.Restart.BackoffMin,
		BackoffMax:   c.Restart.BackoffMax,
		ResetAfter:   c.Restart.ResetAfter,
		RevertAfter:  c.Restart.RevertAfter,
	}
}

// workers is how many a generation has: at "max", one for each CPU that this process
// may use now.
func workers(c *config.Config) int {
	if c.Handoff.Workers == 0 {
		return process.CPUs()
	}
	return c.Handoff.Workers
}

func canary(c *config.Config) (steps []machine.Step) {
	for _, s := range c.Handoff.Canary {
		steps = append(steps, machine.Step{Weight: s.Weight, For: s.For})
	}
	return steps
}

func drainSignals(c *config.Config) (all []syscall.Signal) {
	for _, rung := range c.Handoff.DrainLadder() {
		all = append(all, rung.Signal)
	}
	return all
}

// ladder is when the signals behind the first one are sent.
func ladder(c *config.Config) (after []time.Duration) {
	for _, rung := range c.Handoff.DrainLadder()[1:] {
		after = append(after, rung.After)
	}
	return after
}

func live(c *config.Config) (handoff.Live, error) {
	h := c.Health.Live
	probe, err := probe("health.live", h.Probe)
	return handoff.Live{
		Probe: probe, Watchdog: h.Watchdog, Stuck: h.StuckAfter, Replace: h.Stuck == config.StuckReplace,
		Memory: uint64(c.Limits.Memory), MaxAge: c.Limits.MaxAge, GroupMemory: uint64(c.Limits.MemoryMax),
	}, err
}

// probe is that of a section; nil when there is none.
func probe(section string, r config.Probe) (*handoff.Probe, error) {
	if r.Probe == "" {
		return nil, nil
	}
	status, err := health.ParseStatus(r.Status)
	if err != nil {
		return nil, fmt.Errorf("%s.status: %w", section, err)
	}
	p := &handoff.Probe{Listener: r.Listener, Probe: health.Probe{
		Kind: health.Kind(r.Probe), Method: r.Method, Path: r.Path, Host: r.Host, Header: r.Header,
		Status: status, Body: r.Body, Exec: r.Exec,
		Interval: r.Interval, Timeout: r.Timeout, Successes: r.Successes, Failures: r.Failures,
	}}
	if err := p.Validate(); err != nil {
		return nil, fmt.Errorf("%s: %w", section, err)
	}
	return p, nil
}

// protocols are what the configuration says of them; "auto" is to name none.
func protocols(c *config.Config) protocol.Settings {
	s := protocol.Settings{ReadyFD: c.Handoff.ReadyFD, NodePreload: c.Node.Preload, NodeAnyPort: c.Node.AnyPort}
	for _, name := range c.Handoff.Protocols {
		if name != config.ProtocolsAuto {
			s.Kinds = append(s.Kinds, protocol.Kind(name))
		}
	}
	return s
}

// unwrap has the plan run what the configured command runs in the end, where that is
// a wrapper such as npm start, which would keep what is meant for the program it
// starts.
func unwrap(p *handoff.Plan, c *config.Config) error {
	if kinds := p.Protocols.Kinds; len(kinds) > 0 && !slices.Contains(kinds, protocol.KindNode) {
		return nil
	}
	path := os.Getenv("PATH")
	if set, ok := c.Command.Env["PATH"]; ok {
		path = set
	}
	u, err := protocol.Unwrap(p.Command.Exec, p.Command.Dir, path)
	if err != nil {
		return err
	}
	if u.Node {
		p.Protocols.NodeInside = filepath.Base(p.Command.Exec[0])
	}
	p.Command.Exec, p.Command.Env, p.Note = u.Exec, append(p.Command.Env, u.Env...), u.Note
	return nil
}

// command begins with the launcher's environment, without what is meant for
// the launcher alone.
func command(c *config.Config) process.Command {
	cmd := process.Command{
		Exec: c.Command.Exec, Dir: c.Command.Directory,
		User: c.Command.User, Group: c.Command.Group,
		Base: protocol.Scrub(os.Environ()), EnvFile: c.Command.EnvFile,
		Umask: c.Command.Umask, Limits: c.Command.Limits, Confine: c.Command.ConfineSignals,
		Ambient: c.Command.Ambient,
	}
	if c.Command.NewPrivileges != config.NewPrivilegesAuto {
		cmd.NewPrivileges = process.NewPrivileges(c.Command.NewPrivileges)
	}
	for k, v := range c.Command.Env {
		cmd.Env = append(cmd.Env, k+"="+v)
	}
	slices.Sort(cmd.Env)
	return cmd
}

func listener(l config.Listener) (handoff.ListenerPlan, error) {
	_, a, err := socket.ParseAddress(l.Address)
	if err != nil {
		return handoff.ListenerPlan{}, err
	}
	o := socket.Options{
		Name: l.Name, Backlog: l.Backlog, Mode: l.Mode, UID: -1, GID: -1,
		Shared: l.Steering == config.SteeringOff, NonBlocking: l.NonBlocking,
	}
	u, g := l.UserGroup()
	if u != "" {
		if o.UID, err = uid(u); err != nil {
			return handoff.ListenerPlan{}, fmt.Errorf("owner: %w", err)
		}
	}
	if g != "" {
		if o.GID, err = gid(g); err != nil {
			return handoff.ListenerPlan{}, fmt.Errorf("owner: %w", err)
		}
	}
	return handoff.ListenerPlan{Address: a, Options: o}, nil
}

func uid(name string) (int, error) {
	u, err := user.Lookup(name)
	if err == nil {
		return strconv.Atoi(u.Uid)
	}
	if n, nerr := strconv.Atoi(name); nerr == nil && n >= 0 {
		return n, nil
	}
	return 0, err
}

func gid(name string) (int, error) {
	g, err := user.LookupGroup(name)
	if err == nil {
		return strconv.Atoi(g.Gid)
	}
	if n, nerr := strconv.Atoi(name); nerr == nil && n >= 0 {
		return n, nil
	}
	return 0, err
}

// controlGroup is the group whose members may use the control socket; -1: none.
func controlGroup(c *config.Config) (int, error) {
	if c.Control.Group == "" {
		return -1, nil
	}
	n, err := gid(c.Control.Group)
	if err != nil {
		return -1, fmt.Errorf("control.group: %w", err)
	}
	return n, nil
}

// Check tells what is wrong with a configuration on this machine, beyond its
// text: addresses that cannot be read, a command that cannot be executed, users
// that do not exist, listeners that the command asks for and that are not there. It
// starts nothing and binds nothing. What is right it describes: the executable that
// would run, the listeners' canonical addresses, and what the program is spoken to in.
func Check(c *config.Config) (Checked, error) {
	var done Checked
	p, err := plan(c)
	cmd := command(c)
	if err == nil {
		cmd, done.Note = p.Command, p.Note
	}
	r, rerr := process.Resolve(cmd)
	if rerr == nil {
		defer func() { _ = r.Close() }() // only read from
	}
	if err := errors.Join(err, rerr); err != nil {
		return done, err
	}
	for _, l := range p.Listeners {
		done.Listeners = append(done.Listeners, l.Address.String())
	}
	done.Executable, done.Args = r.Path(), r.Args()[1:]
	choice, err := handoff.Speak(p, r)
	if err != nil {
		return done, err
	}
	if err := checkCommands(p, c); err != nil {
		return done, err
	}
	for _, k := range choice.Kinds {
		done.Protocols = append(done.Protocols, Protocol{Name: string(k), Why: choice.Why[k]})
	}
	return done, nil
}

// checkCommands tells which of the commands beside the program cannot be executed.
func checkCommands(p *handoff.Plan, c *config.Config) error {
	type command struct {
		key  string
		exec []string
	}
	all := []command{
		{"hooks.ready", c.Hooks.Ready}, {"hooks.swap", c.Hooks.Swap}, {"hooks.rollback", c.Hooks.Rollback},
		{"hooks.crash", c.Hooks.Crash}, {"hooks.stuck", c.Hooks.Stuck},
	}
	if p.Probe != nil {
		all = append(all, command{"health.ready.exec", p.Probe.Exec})
	}
	if p.Live.Probe != nil {
		all = append(all, command{"health.live.exec", p.Live.Probe.Exec})
	}
	for _, x := range all {
		if len(x.exec) == 0 {
			continue
		}
		as := p.Command
		as.Exec = x.exec
		r, err := process.Resolve(as)
		if err != nil {
			return fmt.Errorf("%s: %w", x.key, err)
		}
		_ = r.Close() // only read from
	}
	return nil
}

// Checked is what Check found to be right.
type Checked struct {
	Executable string     `json:"executable"`
	Args       []string   `json:"args"` // behind the program's name
	Listeners  []string   `json:"listeners"`
	Protocols  []Protocol `json:"protocols"`
	Note       string     `json:"note,omitempty"` // what will not work as it is
}

// Protocol is one way in which the program is spoken to.
type Protocol struct {
	Name string `json:"name"`
	Why  string `json:"why"`
}
