"""`edgeswarm swarm submit|jobs`: graphs of tasks for the cell, and how far they are."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgeswarm.app.cli import common, output
from edgeswarm.app.cli.swarm_look import ask, plain_json

if TYPE_CHECKING:
    from edgeswarm.drivers.control import ControlClient

ENDINGS = {"finished": 0, "failed": 1, "cancelled": 3}
"""Status of a job that has ended -> exit code of `submit --follow` and `jobs JOB --follow`."""


@click.command()
@click.argument("path", metavar="JOB.yaml", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--follow", is_flag=True, help="Wait until it has ended, and show how far it is.")
@output.state_option
@output.config_option
@click.option("--json", "as_json", is_flag=True, help="JSON; with --follow one object a line.")
def submit(path: Path, follow: bool, state: Path | None, config_file: Path | None, as_json: bool) -> None:
    """Submit a job, a graph of tasks (YAML or JSON; docs/jobs.md says what is in it).

    With --follow the exit code is 0 when the job finished, 1 when it failed, 3 when it was cancelled.  Ctrl-c ends the
    following, not the job.

    \b
    Examples:
      edgeswarm swarm submit night.yaml --follow
      edgeswarm swarm submit night.yaml --json | jq -r .job
    """
    from edgeswarm.app.swarm import jobs as forms
    from edgeswarm.errors import LocalError
    from edgeswarm.limits import JOB_FILE_BYTES_MAX
    from edgeswarm.schema import encode

    data = common.read_file(path, bytes_max=JOB_FILE_BYTES_MAX, bound="JOB_FILE_BYTES_MAX", error=LocalError)
    try:
        form = forms.parse(data.decode(), who=str(path))
    except UnicodeDecodeError as error:
        raise LocalError(f"{path}: not UTF-8 at byte {error.start}") from None
    with common.connect(state, config_file, timeout_s=common.FOLLOW_S_MAX if follow else common.CALL_S_MAX) as client:
        files: dict[str, bytes] = {}
        for name in {task.file for task in form.tasks if task.file}:
            agent_file = common.read_agent_file(path.parent / name)
            files[name] = client.call("swarm", what="put_agent", data=agent_file, who=name)["digest"]
        done = client.call("swarm", what="submit", form=encode(form), files=files)
        if not follow:
            output.emit(plain_json(done), as_json=as_json, text=lambda: f"{done['job']}: {done['tasks']} tasks")
            return
        last = _follow(client, done["job"], as_json=as_json)
    sys.exit(ENDINGS.get(last.get("status", ""), 1))


def _follow(client: ControlClient, job: str, *, as_json: bool) -> dict[str, Any]:
    """A bar (or a JSON line a change) until the job has ended; its last row."""
    row: dict[str, Any] = {}
    with output.progress(1000, job, quiet=as_json) as step:
        said = 0
        for row in client.follow("swarm_watch", what="job", job=job):
            if as_json:
                click.echo(json.dumps(plain_json(row)))
                sys.stdout.flush()
            else:
                step(max(0, row["permille"] - said))
                said = max(said, row["permille"])
    if not as_json:
        click.echo(_whole(row))
    return row


def _whole(row: dict[str, Any]) -> str:
    cells = [
        (run["task"], run["status"], run["device"], run["attempt"], run["why"] or _short(run["result"]))
        for run in row.get("runs", ())
    ]
    why = f": {output.plain(row['why'])}" if row["why"] else ""
    head = f"{row['job']} {row['status']}, {row['finished']} of {row['tasks']} tasks{why}"
    return f"{head}\n{output.table(('task', 'status', 'device', 'attempt', 'result'), cells, right=(3,))}"


def _short(result: Any) -> str:
    """A result in one line: answers' labels or values, what a map came to."""
    if not isinstance(result, dict):
        return "" if result is None else f"{len(result)} bytes"
    if "answers" in result:
        shown = [one and (one["label"] or [round(value, 4) for value in one["values"]]) for one in result["answers"]]
        text = ", ".join(str(one) for one in shown)
    else:
        text = f"{result.get('answered')} answered, {result.get('failed')} failed: {result.get('result')}"
    return text if len(text) <= 60 else text[:57] + "..."


@click.command()
@click.argument("job", required=False)
@click.option("--cancel", is_flag=True, help="Cancel JOB: its tasks stop wherever they run.")
@click.option("--follow", is_flag=True, help="Wait until JOB has ended; the exit code is that of `submit --follow`.")
@output.state_option
@output.config_option
@output.json_option
def jobs(
    job: str | None, cancel: bool, follow: bool, state: Path | None, config_file: Path | None, as_json: bool
) -> None:
    """List the jobs of the cell, or show JOB: its tasks, where they are, and what they came to.

    \b
    Examples:
      edgeswarm swarm jobs
      edgeswarm swarm jobs night
      edgeswarm swarm jobs night --cancel
    """
    if job is None:
        if cancel or follow:
            raise click.UsageError("--cancel and --follow need a JOB")
        found = ask(state, config_file, "jobs")
        output.emit(plain_json(found), as_json=as_json, text=lambda: _table(found))
    elif cancel:
        done = ask(state, config_file, "cancel", job=job)
        output.emit(done, as_json=as_json, text=lambda: f"{job}: cancelled")
    elif follow:
        with common.connect(state, config_file, timeout_s=common.FOLLOW_S_MAX) as client:
            last = _follow(client, job, as_json=as_json)
        sys.exit(ENDINGS.get(last.get("status", ""), 1))
    else:
        row = ask(state, config_file, "job", job=job)
        output.emit(plain_json(row), as_json=as_json, text=lambda: _whole(row))


def _table(found: dict[str, Any]) -> str:
    if not found["jobs"]:
        return "the cell has no jobs"
    cells = [
        (row["job"], row["status"], f"{row['finished']}/{row['tasks']}", f"{row['permille'] / 10:.0f} %", row["who"],
         row["why"] or "; ".join(row.get("waits", ())))
        for row in found["jobs"]
    ]  # fmt: skip
    return output.table(("job", "status", "tasks", "done", "from", "why"), cells, right=(2, 3))
