#!/bin/sh
### BEGIN INIT INFO
# Provides:          edgeswarm
# Required-Start:    $local_fs
# Should-Start:      $network $time $syslog
# Required-Stop:     $local_fs
# Default-Start:     2 3 4 5
# Default-Stop:      0 1 6
# Short-Description: EdgeSwarm supervisor
### END INIT INFO
# For machines without systemd, OpenRC and procd: edgeswarm daemon install --init plain.
#
# `start` puts a keeper into the background: it runs the supervisor as the user edgeswarm and starts it again 2 s after
# it ended by itself, later and later (up to a minute) while it does not stay.  The keeper's pid is in /run/edgeswarm.pid.
# Works with dash and busybox; needs one of setpriv, su-exec, runuser, su.

program="/opt/edgeswarm/bin/edgeswarm"
config="/etc/edgeswarm/edgeswarm.toml"
state="/var/lib/edgeswarm"
user="edgeswarm"
pidfile="/run/edgeswarm.pid"
runtime="/run/edgeswarm"
log="/var/log/edgeswarm/edgeswarm.log"
log_bytes_max=4194304
stop_s=60

say() { printf 'edgeswarm: %s\n' "$*"; }
fail() {
	say "$@" >&2
	exit 1
}

# The keeper's pid, when it runs: a number that was given to another process since is not taken for it.
keeper() {
	[ -r "$pidfile" ] || return 1
	read -r pid <"$pidfile" || return 1
	case $pid in '' | *[!0-9]*) return 1 ;; esac
	tr '\0' ' ' <"/proc/$pid/cmdline" 2>/dev/null | grep -q "${0##*/} keep" || return 1
	printf '%s\n' "$pid"
}

own_folder() {
	mkdir -p "$1" && chmod "$2" "$1" && chown "$user:" "$1"
}

as_user() {
	if [ "$(id -un)" = "$user" ]; then
		exec "$@"
	elif command -v setpriv >/dev/null && setpriv --help 2>&1 | grep -q reuid; then
		exec setpriv --reuid "$user" --regid "$user" --init-groups --no-new-privs "$@"
	elif command -v su-exec >/dev/null; then
		exec su-exec "$user" "$@"
	elif command -v runuser >/dev/null; then
		exec runuser -u "$user" -- "$@"
	else
		# shellcheck disable=SC2016
		exec su -s /bin/sh -c 'exec "$0" "$@"' "$user" "$@"
	fi
}

rotate() {
	[ "$(wc -c <"$log" 2>/dev/null || echo 0)" -gt "$log_bytes_max" ] || return 0
	mv -f "$log" "$log.1"
}

# In the background, until `stop`.
keep() {
	child=
	trap 'stopping=1; [ -z "$child" ] || kill -TERM "$child" 2>/dev/null' TERM INT
	trap '' HUP
	stopping=
	wait_s=2
	while [ -z "$stopping" ]; do
		rotate
		began=$(date +%s)
		(as_user "$program" run --config "$config") >>"$log" 2>&1 &
		child=$!
		# a signal ends `wait` early; the supervisor is waited for until it is gone
		while kill -0 "$child" 2>/dev/null; do wait "$child"; done
		child=
		[ -z "$stopping" ] || break
		if [ $(($(date +%s) - began)) -gt 60 ]; then wait_s=2; else wait_s=$((wait_s < 30 ? wait_s * 2 : 60)); fi
		sleep "$wait_s" &
		wait $! # which a signal ends
	done
	rm -f "$pidfile"
}

start() {
	if pid=$(keeper); then
		say "runs already, keeper $pid"
		return 0
	fi
	[ -x "$program" ] || fail "$program: not there, or not to be executed"
	id "$user" >/dev/null 2>&1 || fail "user $user: not there; run edgeswarm daemon install"
	if ! { own_folder "$state" 0700 && own_folder "$runtime" 0700 && own_folder "$(dirname "$log")" 0750; }; then
		fail "the folders of $user could not be made"
	fi
	umask 077
	ulimit -n 65536 2>/dev/null || true
	cd / || exit 1
	# a session of its own, so that it outlives the terminal it was started from
	if command -v setsid >/dev/null; then detach=setsid; else detach=; fi
	$detach "$0" keep </dev/null >>"$log" 2>&1 &
	printf '%s\n' $! >"$pidfile"
	say "started, keeper $!, log $log"
}

stop() {
	if ! pid=$(keeper); then
		say "does not run"
		rm -f "$pidfile"
		return 0
	fi
	kill -TERM "$pid"
	left=$stop_s
	while kill -0 "$pid" 2>/dev/null; do
		[ "$left" -gt 0 ] || fail "keeper $pid did not end within $stop_s s"
		left=$((left - 1))
		sleep 1
	done
	rm -f "$pidfile"
	say "stopped"
}

reload() {
	keeper >/dev/null || fail "does not run"
	# becomes the installed version, in the same process: no jail restarts
	"$program" daemon upgrade --config "$config"
}

status() {
	if pid=$(keeper); then
		say "runs, keeper $pid"
	else
		say "does not run"
		exit 3 # LSB: not running
	fi
}

case "${1:-}" in
start) start ;;
stop) stop ;;
restart | force-reload) stop && start ;;
reload) reload ;;
status) status ;;
keep) keep ;;
*) fail "expected start, stop, restart, reload or status, found '${1:-}'" ;;
esac
