#!/usr/bin/env bash
# Draws the screens in docs/monit.md anew: docs/screens.sh [PAGE]. It builds baton and an
# example, runs three applications on free ports of 127.0.0.1, opens baton monit in a tmux
# of its own, and puts what stands there between the marks of the page. It takes Go, tmux
# and curl, and half a minute; it leaves nothing behind.
set -euo pipefail
cd "$(dirname "$0")/.."
page=${1:-docs/monit.md}
for need in go tmux curl; do
  command -v "$need" >/dev/null || { echo "docs/screens.sh needs $need" >&2; exit 1; }
done

work=$(mktemp -d)
export BATON_HOME=$work/home
tmux="tmux -u -S $work/tmux"
started=() load=
cleanup() {
  $tmux kill-server 2>/dev/null || true
  [ -z "$load" ] || kill "$load" || true
  for pid in "${started[@]}"; do kill -QUIT "$pid" || true; done
  wait || true
  rm -rf "$work"
}
trap cleanup EXIT

go build -o "$work/baton" .
go build -o "$work/server" ./examples/go-worker

# until COMMAND...: waits until it succeeds, for 30 s.
until_() {
  local end=$((SECONDS + 30))
  until "$@"; do
    [ $SECONDS -lt $end ] || { echo "not within 30 s: $*" >&2; $tmux capture-pane -p >&2; exit 1; }
    sleep 0.1
  done
}
launch() { # NAME TOML
  printf '%s\n' "$2" >"$work/$1.toml"
  "$work/baton" run --config "$work/$1.toml" --name "$1" >"$work/$1.log" 2>&1 &
  started+=($!)
}
launch api "
[command]
exec = [\"$work/server\"]
[[listen]]
name = \"http\"
address = \"127.0.0.1:0\""
launch mail "
[command]
exec = [\"sh\", \"-c\", \"sleep 2; exit 1\"]
[handoff]
ready = \"delay\"
ready_delay = \"1s\"
[[listen]]
name = \"smtp\"
address = \"127.0.0.1:0\""
launch web "
[command]
exec = [\"$work/server\"]
[[listen]]
name = \"http\"
address = \"127.0.0.1:0\"
[handoff]
workers = 3
canary = [{weight = 25, pause = true}, {weight = 50, for = \"1m\"}]"
serves() { "$work/baton" status "$1" 2>/dev/null | grep -q serving; }
until_ serves web
until_ serves api

# Something to do until the end: the addresses are the launchers' own choice.
address() { "$work/baton" status "$1" --json | sed -n 's|.*"address": "tcp://\(.*\)".*|\1|p'; }
web=$(address web) api=$(address api)
(while :; do curl -s -o /dev/null "http://$web/[1-500]" && curl -s -o /dev/null "http://$api/[1-20]"; done) &
load=$!

on_screen() { $tmux capture-pane -p | grep -qF -- "$1"; }
$tmux -f /dev/null set -g status off \; new-session -d -x 80 -y 24 \
  env LC_ALL=C.UTF-8 BATON_HOME="$BATON_HOME" "$work/baton" monit web
until_ on_screen "web  serving"
sleep 12 # for the graphs
$tmux send-keys r
until_ on_screen "reload web? y/n"
$tmux send-keys y
until_ on_screen "step 1 of 2"
sleep 3

# What is drawn, but for the folder that this script made: its rule is as long again.
rule=$(printf '─%.0s' $(seq $((${#work} - 8))))
shot() { $tmux capture-pane -p | sed "s| $work|$rule /srv/web|; s/ *$//"; }
shot >"$work/80x24"
$tmux resize-window -x 160 -y 50
until_ on_screen "LISTENS ON"
shot >"$work/160x50"
$tmux send-keys q

for size in 80x24 160x50; do
  awk -v size="$size" -v file="$work/$size" '
    $0 == "<!-- screen " size " -->" { print; print "```text"; while ((getline line < file) > 0) print line; print "```"; skip = 1; next }
    $0 == "<!-- end -->" { skip = 0 }
    !skip' "$page" >"$work/page"
  cat "$work/page" >"$page"
done
echo "$page: the screens are new"
