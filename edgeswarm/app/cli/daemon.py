"""`edgeswarm run`, and what asks a running supervisor: status, logs, metrics."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import click

from edgeswarm.app.cli import common, limits_view, output, view

LEVELS = ("debug", "info", "warning", "error")
_COLOURS = {"warning": "yellow", "error": "red", "debug": "bright_black"}


@click.command()
@click.argument("files", nargs=-1, type=click.Path(path_type=Path), metavar="[X.af]...")
@output.state_option
@output.config_option
@click.option("--profile", help="Class of device: one of profiles/ (default: default).")
@click.option(
    "--log-level", type=click.Choice(LEVELS), help="The least level that is written (default: the profile's)."
)
@click.option(
    "--delegate",
    "delegates",
    multiple=True,
    metavar="[AGENT=]NAME",
    help="Who computes that agent, or all of them: wasm, litert, tflite, gpu, npu or external.",
)
@click.option("--json", "as_json", is_flag=True, help="Errors as JSON; the log is JSON anyway.")
@click.option("--check-handover", "checks", is_flag=True, hidden=True)
def run(
    files: tuple[Path, ...],
    state: Path | None,
    config_file: Path | None,
    profile: str | None,
    log_level: str | None,
    delegates: tuple[str, ...],
    as_json: bool,
    checks: bool,
) -> int:
    """Run the supervisor in the foreground until SIGTERM or ctrl-c, with what ran before and the agent files named.

    Its log goes to standard error, one JSON object a line.  (`af-runtime X.af --input F --output F` computes a file of
    rows instead: `edgeswarm agent run`.)

    \b
    Examples:
      edgeswarm run
      edgeswarm run --state /tmp/es predictor.af scorer.af
      edgeswarm run -c site.toml --profile rpi-zero-2w --log-level warning
      edgeswarm run --delegate kws=litert --delegate vww=wasm
    """
    from edgeswarm.app import handover_guard
    from edgeswarm.app.daemon import serve
    from edgeswarm.app.join.folder import settle_at_start
    from edgeswarm.app.log import Log

    said = [one if "=" in one else f"*={one}" for one in delegates]
    flags = {"delegates.agents": said} if said else {}
    settings = common.settings_of(state, config_file, profile=profile, flags=flags)
    if checks:  # `daemon upgrade` asks this of a program before it becomes the supervisor
        from edgeswarm.app.upgrade import self_check

        click.echo(json.dumps(self_check()))
        return 0
    if settle_at_start(settings.state_dir):  # a power cut while it joined: it may have another name now
        settings = common.settings_of(state, config_file, profile=profile, flags=flags)
    handed = handover_guard.current is not None  # then what ran runs on, and the files are as good as gone
    agents = [] if handed else [(str(path), common.read_agent_file(path)) for path in files]
    log = Log(level=log_level or settings.profile.log.level)
    given = (("--state", state), ("--config", config_file), ("--profile", profile), ("--log-level", log_level))
    again = [word for flag, value in given if value is not None for word in (flag, str(value))]
    again += [word for one in delegates for word in ("--delegate", one)]
    return asyncio.run(serve(settings, log, deploy=agents, arguments=["run", *again, *map(str, files)]))


@click.command()
@common.wait_option
@output.state_option
@output.config_option
@output.json_option
def status(wait_s: float, state: Path | None, config_file: Path | None, as_json: bool) -> None:
    """Show the supervisor, its agents and its jails.

    \b
    Examples:
      edgeswarm status
      edgeswarm status --wait 10          (after `edgeswarm run &`: until it has started)
      edgeswarm status --json | jq '.agents[].counters'
    """
    from edgeswarm.drivers.control import NotRunningError

    def ask() -> dict[str, Any]:
        with common.connect(state, config_file) as client:
            found: dict[str, Any] = client.call("status")
        if wait_s and found["tier"] is None:
            raise NotRunningError(f"the supervisor is still starting, {wait_s:g} s on")
        return found

    found = common.patiently(ask, wait_s)
    output.emit(found, as_json=as_json, text=lambda: "\n".join([*view.lines_of(found), *limits_view.lines(found)]))


@click.command()
@output.state_option
@output.config_option
@click.option(
    "-n", "--lines", type=click.IntRange(0, 2_000), default=100, show_default=True, help="How many past lines."
)
@click.option("-f", "--follow", is_flag=True, help="Go on with each new line until ctrl-c.")
@click.option("--level", type=click.Choice(LEVELS), default="debug", help="Leave out what is below this level.")
@click.option("--grep", "needle", metavar="TEXT", help="Only lines with TEXT: an event, an agent, a cause id.")
@click.option("--json", "as_json", is_flag=True, help="The lines as they are: one JSON object each.")
def logs(
    state: Path | None,
    config_file: Path | None,
    lines: int,
    follow: bool,
    level: str,
    needle: str | None,
    as_json: bool,
) -> None:
    """Show what the supervisor logged: the last lines it holds in memory.

    Everything that follows from one event carries the same `cause`, so one --grep tells its story.

    \b
    Examples:
      edgeswarm logs -n 20
      edgeswarm logs -f --level warning
      edgeswarm logs --grep deploy-predictor-3
    """
    with common.connect(state, config_file, timeout_s=common.FOLLOW_S_MAX) as client:
        try:
            for line in client.follow("logs", lines=lines, follow=follow):
                entry = entry_of(line)
                if (needle is None or needle in line) and _rank(entry) >= LEVELS.index(level):
                    click.echo(line if as_json else pretty(entry))
                    sys.stdout.flush()
        except KeyboardInterrupt:
            pass  # how one leaves --follow


def entry_of(line: str) -> dict[str, Any]:
    try:
        entry = json.loads(line)
    except ValueError:
        entry = None
    return entry if isinstance(entry, dict) else {"event": line}


def _rank(entry: dict[str, Any]) -> int:
    level = entry.get("level")
    return LEVELS.index(level) if level in LEVELS else len(LEVELS)


def pretty(entry: dict[str, Any]) -> str:
    """One log entry for people: time, level, event, then key=value."""
    rest = {key: value for key, value in entry.items() if key not in ("at", "level", "event")}
    fields = " ".join(f"{key}={value if isinstance(value, str) else json.dumps(value)}" for key, value in rest.items())
    at, level = str(entry.get("at", "")), str(entry.get("level", ""))
    text = output.plain(f"{at[11:23]:12}  {level:7}  {entry.get('event', '')}  {fields}".rstrip())
    return click.style(text, fg=_COLOURS[level]) if level in _COLOURS else text


@click.command()
@output.state_option
@output.config_option
@output.json_option
def metrics(state: Path | None, config_file: Path | None, as_json: bool) -> None:
    """Print the supervisor's metrics as Prometheus text.

    With a profile that names a port they are served on 127.0.0.1 as well.

    \b
    Example:
      edgeswarm metrics | grep sample_to_decision
    """
    with common.connect(state, config_file) as client:
        found: dict[str, Any] = client.call("metrics")
    output.emit(found, as_json=as_json, text=lambda: str(found["text"]).rstrip("\n"))
