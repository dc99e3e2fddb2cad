"""`edgeswarm daemon status|logs|restart`: what is installed, and what the service manager says."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import click

from edgeswarm.app.cli import output
from edgeswarm.errors import LocalError

user_option = click.option("--user", "of_user", is_flag=True, help="The service of yours alone (systemd --user).")


@click.command()
@user_option
@output.json_option
def status(of_user: bool, as_json: bool) -> int:
    """Show what is installed, what was changed since, and what the service manager says.

    Ends with 0 while the service runs, with 8 otherwise.  What the supervisor itself does: `edgeswarm status`.

    \b
    Examples:
      edgeswarm daemon status
      edgeswarm daemon status --json | jq .running
    """
    found = look(of_user=of_user)

    def text() -> str:
        runs = {True: "runs", False: "does not run", None: "nobody can tell"}[found["running"]]
        lines = [f"{found['init']}: {runs}" + (f", pid {found['pid']}" if found["pid"] else "")]
        lines += [f"  {name:24} {value}" for name, value in found["details"].items() if value]
        if found["installed"]:
            lines.append(f"installed: {found['program']}, state in {found['state']}")
        else:
            lines.append("installed: no; edgeswarm daemon install")
        lines += [f"  changed since: {path}" for path in found["changed"]]
        if (bundle := found["bundle"]) is not None:
            lines.append(f"versions: {', '.join(bundle['versions'])}; current {bundle['current']}")
            if bundle["previous"] not in (None, bundle["current"]):
                lines.append(f"  to go back to: {bundle['previous']}")
            if (lost := bundle["lost"]) is not None:
                lines.append(f"  {lost['new']} was tried, {lost['attempts']} starts, and did not stay")
            if (trial := bundle["trial"]) is not None:
                lines.append(f"  on trial: {trial['new']}, {trial['attempts']} starts; else back to {trial['old']}")
        return output.plain("\n".join(lines), keep="\n")

    output.emit(found, as_json=as_json, text=text)
    return 0 if found["running"] else 8


def look(*, of_user: bool) -> dict[str, Any]:
    """Everything that `daemon status` shows."""
    from dataclasses import asdict

    from edgeswarm.app.cli.daemon_install import home_of
    from edgeswarm.drivers.service import manager, note
    from edgeswarm.drivers.service.image import Image
    from edgeswarm.drivers.service.plan import Wish, detect, make
    from edgeswarm.drivers.service.prefix import Prefix

    image = Image()
    plan = make(Wish(init=detect(), home=home_of(image) if of_user else None))
    written = note.read(image, plan.note)
    running = manager.ask(plan.init if written is None else written.init, of_user=of_user)
    prefix = Prefix.of_this_program()
    trial = prefix.trial() if prefix is not None else None
    return {
        "init": plan.init if written is None else written.init,
        "running": running.is_running,
        "pid": running.pid,
        "details": running.details,
        "installed": written is not None,
        "program": None if written is None else written.program,
        "state": None if written is None else written.state,
        "changed": [] if written is None else note.changed(image, written),
        "bundle": None
        if prefix is None
        else {
            "versions": prefix.versions(),
            "current": prefix.current(),
            "previous": prefix.previous(),
            "trial": None if trial is None else asdict(trial),
            "lost": None if (lost := prefix.lost()) is None else asdict(lost),
        },
    }


@click.command()
@user_option
@click.option("-n", "--lines", type=click.IntRange(0, 100_000), default=100, show_default=True, help="How many.")
@click.option("-f", "--follow", is_flag=True, help="Go on with each new line until ctrl-c.")
@click.option("--json", "as_json", is_flag=True, help="The lines as they are: one JSON object each.")
def logs(of_user: bool, lines: int, follow: bool, as_json: bool) -> int:
    """Show what the service manager kept of the supervisor's log: also of runs that ended.

    `edgeswarm logs` asks the running supervisor for what it holds in memory.

    \b
    Examples:
      edgeswarm daemon logs -n 20
      edgeswarm daemon logs -f
    """
    from edgeswarm.app.cli import daemon as live
    from edgeswarm.drivers.service import manager

    init = look(of_user=of_user)["init"]
    words = manager.log_words(init, lines=lines, follow=follow, of_user=of_user)
    if words[-1] == manager.LOG_FILE and not follow and not os.path.exists(manager.LOG_FILE):
        raise LocalError(f"{manager.LOG_FILE}: not there: no service wrote it; a supervisor that runs: edgeswarm logs")
    with subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, errors="replace") as told:
        assert told.stdout is not None
        try:
            for line in told.stdout:
                click.echo(line.rstrip("\n") if as_json else live.pretty(live.entry_of(line.rstrip("\n"))))
                sys.stdout.flush()
        except KeyboardInterrupt:  # how one leaves --follow
            told.terminate()
            return 0
    return told.returncode


@click.command()
@user_option
@output.json_option
def restart(of_user: bool, as_json: bool) -> None:
    """End the supervisor with its jails, and start it again.

    Agents drain and save what they remember.  `edgeswarm daemon upgrade` changes the version without ending a jail.

    \b
    Example:
      edgeswarm daemon restart
    """
    from edgeswarm.drivers.service import manager
    from edgeswarm.drivers.service.perform import InstallError

    if not of_user and os.geteuid() != 0:
        from edgeswarm.errors import PermissionDeniedError

        raise PermissionDeniedError("only root may restart the machine's service: run it with sudo, or name --user")
    found = look(of_user=of_user)
    if not found["installed"]:
        raise LocalError("nothing is installed here: edgeswarm daemon install")
    code, said = manager.restart(found["init"], of_user=of_user)
    if code != 0:
        words = " ".join(manager.restart_words(found["init"], of_user=of_user))
        raise InstallError(f"{words} (exit {code}): {said}")
    output.emit({"restarted": True, "detail": said}, as_json=as_json, text=lambda: said or "restarted")
