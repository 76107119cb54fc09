package pm2

import (
	"encoding/json"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"time"
	"unicode"

	"baton/internal/config"
)

// elsewhere are keys that takeCommand and findPort have seen to.
var elsewhere = words("name script cwd args script_args node_args interpreter_args interpreterArgs interpreter exec_interpreter port")

// without are keys that need no word in baton's file, since what they ask for is so in
// any case.
var without = map[string]string{
	"combine_logs":          "the output of all workers goes together in any case",
	"merge_logs":            "the output of all workers goes together in any case",
	"time":                  "each line of a log has its time in any case",
	"log_date_format":       "each line of a log has its time in any case, in one form",
	"log_type":              "baton logs --json prints the log as JSON",
	"treekill":              "what a worker left behind is ended in any case",
	"force":                 "one application runs once; give another copy another name",
	"shutdown_with_message": "a Node program that listens for messages gets 'shutdown' in any case",
	"pid_file":              "baton status shows the pids",
	"pid":                   "baton status shows the pids",
	"vizion":                "baton looks at no repository",
	"automation":            "there is no agent to switch off",
	"pmx":                   "there is no agent to switch off",
	"io":                    "there is no agent to set up",
	"trace":                 "there is no agent to set up",
	"disable_trace":         "there is no agent to switch off",
	"kill_retry_time":       "the kernel is told once, and tells when it is done",
	"namespace":             "there are no namespaces: applications are called by their names",
	"append_env_to_name":    "one file has one name: run the profiles under names of their own, baton run --env PROFILE --name NAME",
	"ignore_watch":          "baton watches what is named and nothing else: name in watch what the program is made of",
	"watch_options":         "baton watches what is named, and waits until it is quiet",
	"watch_delay":           "baton waits until what changes is quiet",
	"filter_env":            "unset variables before baton starts: the environment of baton is the program's",
	"post_update":           "run these commands before baton reload",
	"disable_logs":          "send the output to /dev/null where baton is started",
	"instance_var":          "", // see take
	"increment_var":         "all workers share one listener: they need no ports of their own. NODE_APP_INSTANCE counts them",
}

func words(line string) map[string]bool {
	set := map[string]bool{}
	for _, w := range strings.Fields(line) {
		set[w] = true
	}
	return set
}

// take carries one key over.
func (t *taken) take(key string, v any) {
	switch key {
	case "instances":
		t.takeInstances(v)
	case "exec_mode":
		if mode, _ := v.(string); strings.HasPrefix(mode, "cluster") && !t.node {
			t.note(key, "this is no Node program: baton gives it its socket by other means, see docs/programs.md")
		}
	case "watch":
		t.takeWatch(v)
	case "max_memory_restart":
		t.takeMemory(v)
	case "env":
		t.takeEnv(key, v, t.env)
	case "out_file", "output", "out", "out_log", "error_file", "error", "err", "err_file", "err_log", "log_file", "log":
		t.note(key, "the output is not written to a file of its own: baton logs shows what baton keeps of it, [logs] says how much")
	case "kill_timeout":
		t.takeTime(key, v, &t.handoff, "drain_timeout")
	case "listen_timeout":
		t.takeTime(key, v, &t.handoff, "ready_timeout")
	case "min_uptime":
		t.takeTime(key, v, &t.restart, "reset_after")
	case "wait_ready":
		if yes(v) {
			t.handoff = append(t.handoff, setting{"ready", `"notify"`, "process.send('ready')"})
		}
	case "autorestart":
		t.takeAutorestart(v)
	case "max_restarts":
		t.note(key, "baton never gives up: the pauses between restarts grow to restart.backoff_max, and after restart.revert_after the last good release comes back")
	case "restart_delay", "exp_backoff_restart_delay":
		t.takeDelay(key, v)
	case "cron_restart", "cron":
		if yes(v) {
			t.note(key, "baton has no timetable. For crontab(5): %v baton reload %s", v, t.name)
		}
	case "stop_exit_codes":
		t.takeStopCodes(v)
	case "source_map_support":
		t.takeSourceMaps(v)
	case "uid", "user":
		t.user = t.account(key, v)
	case "gid":
		t.group = t.account(key, v)
	default:
		t.takeRest(key, v)
	}
}

func (t *taken) takeRest(key string, v any) {
	why, known := without[key]
	profile, isEnv := strings.CutPrefix(key, "env_")
	switch {
	case elsewhere[key]:
	case isEnv && !profileName().MatchString(profile):
		t.note(key, "%q is no name of a profile: letters, digits, '.', '_' and '-'", profile)
	case isEnv:
		t.profiles[profile] = map[string]string{}
		t.takeEnv(key, v, t.profiles[profile])
	case key == "instance_var":
		if v != "NODE_APP_INSTANCE" {
			t.note(key, "the worker's number is in NODE_APP_INSTANCE, and not in %v", v)
		}
	case key == "treekill" && yes(v), known && v == false:
	case known:
		t.note(key, "%s", why)
	default:
		t.note(key, "not known here")
	}
}

var profileName = expression(`^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$`)

// yes is what JavaScript takes for true.
func yes(v any) bool {
	switch x := v.(type) {
	case nil:
		return false
	case bool:
		return x
	case string:
		return x != ""
	case json.Number:
		return x.String() != "0"
	}
	return true
}

// scalar is a value as a word.
func scalar(v any) (string, bool) {
	switch x := v.(type) {
	case string:
		return x, true
	case json.Number:
		return x.String(), true
	case bool:
		return strconv.FormatBool(x), true
	}
	return "", false
}

func (t *taken) account(key string, v any) string {
	name, _ := scalar(v)
	if name == "" || strings.ContainsFunc(name, func(c rune) bool { return unicode.IsSpace(c) || unicode.IsControl(c) || c == ':' }) {
		t.note(key, "%v is no account", v)
		return ""
	}
	return name
}

func (t *taken) takeInstances(v any) {
	text, _ := scalar(v)
	if text == "max" || text == "0" {
		t.handoff = append(t.handoff, setting{"workers", `"max"`, ""})
		return
	}
	n, err := strconv.Atoi(text)
	switch {
	case err != nil || n > 1024:
		t.note("instances", "%v is no number of workers", v)
		return
	case n < 0:
		left := max(1, runtime.NumCPU()+n)
		t.note("instances", "%d is all CPUs but %d, which baton can't say: it is %d, by those of this machine", n, -n, left)
		n = left
	}
	if n > 1 {
		t.handoff = append(t.handoff, setting{"workers", strconv.Itoa(n), ""})
	}
}

func (t *taken) takeWatch(v any) {
	switch w := v.(type) {
	case bool:
		if w {
			t.watch = []string{t.within(t.cwd)}
			t.note("watch", "the whole folder is watched, node_modules with it: name what the program is made of instead")
		}
	case string:
		t.watch = []string{t.within(t.resolved(w))}
	case []any:
		for _, item := range w {
			path, ok := item.(string)
			if !ok || strings.ContainsAny(path, "*?[{") {
				t.note("watch", "%v is no path: baton takes files and folders", item)
				continue
			}
			t.watch = append(t.watch, t.within(t.resolved(path)))
		}
	default:
		t.note("watch", "%s is no path", kind(v))
	}
}

func (t *taken) takeMemory(v any) {
	text, _ := scalar(v)
	m := regexp.MustCompile(`^(\d+)\s*([KMG]?)B?$`).FindStringSubmatch(strings.ToUpper(strings.TrimSpace(text)))
	if m == nil {
		t.note("max_memory_restart", "%v is no size", v)
		return
	}
	n, err := strconv.ParseInt(m[1], 10, 40)
	if size := n << map[string]int{"": 0, "K": 10, "M": 20, "G": 30}[m[2]]; err != nil || size < 1<<20 {
		t.note("max_memory_restart", "%v is less than any program needs", v)
		return
	}
	t.limits = append(t.limits, setting{"memory", config.Quote(m[1] + m[2]), ""})
}

// takeTime carries over milliseconds, or a text with a unit.
func (t *taken) takeTime(key string, v any, section *[]setting, as string) {
	d, ok := duration(v)
	switch {
	case !ok:
		t.note(key, "%v is no time", v)
	case d > 0:
		*section = append(*section, setting{as, config.Quote(short(d)), ""})
	}
}

func duration(v any) (time.Duration, bool) {
	text, _ := scalar(v)
	if ms, err := strconv.ParseFloat(text, 64); err == nil && ms >= 0 && ms < 1e12 {
		return time.Duration(ms) * time.Millisecond, true
	}
	d, err := time.ParseDuration(strings.TrimSpace(text))
	return d, err == nil && d >= 0
}

// short is a duration without a part that is 0.
func short(d time.Duration) string {
	text := d.String()
	for _, none := range []string{"m0s", "h0m"} {
		if strings.HasSuffix(text, none) {
			text = text[:len(text)-2]
		}
	}
	return text
}

func (t *taken) takeAutorestart(v any) {
	if yes(v) {
		return
	}
	if t.table["stop_exit_codes"] == nil {
		t.restart = append(t.restart, setting{"stop_exit_codes", "[0]", ""})
	}
	t.note("autorestart", "one that exits with 0 is left stopped; one that crashes is started again. For more exit codes see restart.stop_exit_codes")
}

func (t *taken) takeDelay(key string, v any) {
	d, ok := duration(v)
	switch {
	case !ok:
		t.note(key, "%v is no time", v)
	case d == 0:
	case key == "restart_delay" && t.table["exp_backoff_restart_delay"] == nil:
		t.restart = append(t.restart, setting{"backoff_min", config.Quote(short(d)), "the first restart is at once"},
			setting{"backoff_max", config.Quote(short(d)), ""})
	case key == "exp_backoff_restart_delay":
		t.restart = append(t.restart, setting{"backoff_min", config.Quote(short(d)), "the first restart is at once"},
			setting{"backoff_max", config.Quote(short(max(d, 15*time.Second))), ""})
	}
}

func (t *taken) takeStopCodes(v any) {
	list, ok := v.([]any)
	if !ok {
		list = []any{v}
	}
	var codes []string
	seen := map[string]bool{}
	for _, item := range list {
		text, _ := scalar(item)
		if n, err := strconv.Atoi(text); err != nil || n < 0 || n > 255 {
			t.note("stop_exit_codes", "%v is no exit code", item)
		} else if code := strconv.Itoa(n); !seen[code] {
			seen[code] = true
			codes = append(codes, code)
		}
	}
	if len(codes) > 0 {
		t.restart = append(t.restart, setting{"stop_exit_codes", "[" + strings.Join(codes, ", ") + "]", ""})
	}
}

func (t *taken) takeSourceMaps(v any) {
	switch {
	case !yes(v):
	case t.exec[0] == "node":
		t.exec = append([]string{"node", "--enable-source-maps"}, t.exec[1:]...)
	default:
		t.note("source_map_support", "node does it with --enable-source-maps")
	}
}

// reserved are variables that baton sets for each worker.
var reserved = words("LISTEN_FDS LISTEN_PID LISTEN_FDNAMES NOTIFY_SOCKET")

func (t *taken) takeEnv(key string, v any, into map[string]string) {
	table, ok := v.(map[string]any)
	if !ok {
		t.note(key, "it is no object, but %s", kind(v))
		return
	}
	for name, value := range table {
		text, ok := scalar(value)
		if !ok {
			if value == nil {
				continue
			}
			j, _ := json.Marshal(value) // it was JSON
			text = string(j)            // as PM2 has it
		}
		switch {
		case name == "" || strings.ContainsAny(name, "=\x00") || strings.ContainsRune(text, 0):
			t.note(key, "%q is no variable", name)
		case reserved[name]:
			t.note(key+"."+name, "is set by baton for each worker")
		default:
			into[name] = text
		}
	}
}
