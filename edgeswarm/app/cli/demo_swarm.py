"""`edgeswarm demo`: a cell of five devices on this machine, broken on purpose, with a timeline in numbers.

Five supervisors in a temporary directory, mosquitto (or the embedded broker) between them.  Its exit code is 0 only if
every item of the check list at the end was seen to happen.  `--device` is the demo of one device (demo.py).
"""

from __future__ import annotations

import contextlib
import json
import signal
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgeswarm.app.cli import output

if TYPE_CHECKING:
    from edgeswarm.app.cli.demo_timeline import Facts, Timeline

DEVICES = 5


@contextlib.contextmanager
def ended_by_signals() -> Iterator[None]:
    """SIGTERM and SIGHUP end the demo as ctrl-c does: with everything that it started."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def judge(facts: Facts, causes: dict[str, float | None]) -> list[tuple[bool, str]]:
    """The check list: what was promised, and whether it was seen.  causes: label -> seconds until it was flagged."""
    leader, later, found = facts.leader, facts.next_leader, facts.audit
    return [
        (
            leader is not None and 2 * leader.votes > leader.voters,
            "a leader, verified offline: most voters signed for it",
        ),
        (bool(facts.forgery), "a forged certificate was refused"),
        (len(set(facts.placed.values())) == 3, "the vitals network ran across three devices"),
        *((after is not None, f"the {label} was flagged") for label, after in causes.items()),
        (
            facts.killed_led and leader is not None and later is not None and later.term > leader.term,
            "the leader was killed, another one leads, verified",
        ),
        (facts.first_write_ms is not None, "the cell committed again after that"),
        (
            bool(facts.killed_agents) and facts.moved_ms is not None and facts.labels_again_ms is not None,
            "the dead device's agents ran elsewhere, labels arrived again",
        ),
        (
            facts.back_ms is not None and facts.back_runs_copy is False,
            "the dead device came back, and ran no second copy",
        ),
        (
            bool(facts.cut_agents) and facts.cut_stopped_ms is not None and facts.cut_moved_ms is not None,
            "the device that was cut off stopped its agent, another one ran it",
        ),
        (
            facts.mended_ms is not None and facts.mended_runs_copy is False,
            "mended, it came back, and ran no second copy",
        ),
        (
            facts.overlap_ms is not None and facts.overlap_ms <= 0,
            "no agent ran on two devices at one time, by the logs of all",
        ),
        (
            facts.broker_write_ms is not None and facts.broker_labels_ms is not None,
            "the broker was killed and started: the cell went on",
        ),
        (
            found is not None and not found.faults and not found.differ and facts.caught_up,
            "the logs of all voters are sound, and the same",
        ),
        (bool(facts.written.acked) and found is not None and not found.lost, "nothing that was committed is lost"),
    ]


def summary(facts: Facts, line: Timeline, checks: list[tuple[bool, str]]) -> str:
    """Numbers, then the check list."""
    found = facts.audit
    rows = [
        ("after kill -9 of the leader", [("verified leader", facts.next_leader_ms), ("write", facts.first_write_ms),
                                         ("agents", facts.moved_ms), ("labels", facts.labels_again_ms)]),
        ("after a device was cut off", [("its copy stopped", facts.cut_stopped_ms),
                                        ("runs elsewhere", facts.cut_moved_ms)]),
        ("after kill -9 of the broker", [("listens", facts.broker_listens_ms), ("write", facts.broker_write_ms),
                                         ("all back, labels", facts.broker_labels_ms)]),
    ]  # fmt: skip
    lines = [""]
    for title, times in rows:
        lines.append(f"{title:<28} " + "   ".join(f"{name} {_ms(ms)}" for name, ms in times))
    lines.append(f"{'written':<28} {notes(facts, line.began)}")
    if found is not None:
        lost = f"{len(found.lost)} lost" + (f": {', '.join(map(str, found.lost[:10]))}" if found.lost else "")
        same = f"{'DIFFERENT' if found.differ else 'equal'} up to entry {found.equal_to}"
        lines.append(f"{'audit of ' + str(found.logs) + ' logs on disk':<28} {lost}   {same}")
        lines += [f"  {fault}" for fault in found.faults]
    lines.append(f"{'took':<28} {line.now:.0f} s")
    return "\n".join([*lines, "", *(("  ok      " if ok else "  FAILED  ") + text for ok, text in checks)])


def notes(facts: Facts, began: float) -> str:
    """How the writer fared.  began: of the timeline."""
    written, found = facts.written, facts.audit
    pause_s, at = written.longest_pause
    text = f"{len(written.acked)} acknowledged   longest pause {pause_s * 1000:.0f} ms, at {at - began:.1f} s"
    if written.unknown:
        inside = f", {found.found_unknown} of them are in the log" if found is not None else ""
        text += f"   {len(written.unknown)} without an answer{inside}"
    return text


def _ms(value: float | None) -> str:
    return "NOT SEEN" if value is None else f"{value:.0f} ms"


def as_tree(facts: Facts, line: Timeline, checks: list[tuple[bool, str]], causes: dict[str, Any]) -> dict[str, Any]:
    """For --json."""
    tree = asdict(facts)
    pause_s, at = facts.written.longest_pause
    tree["written"] = {
        "acknowledged": len(facts.written.acked),
        "unknown": [{"at_s": round(one.began - line.began, 3), "why": one.why} for one in facts.written.unknown],
        "longest_pause_ms": round(pause_s * 1000, 1),
        "longest_pause_at_s": round(at - line.began, 3),
    }
    return {
        "checks": {text: ok for ok, text in checks},
        "facts": tree,
        "flagged_after_s": causes,
        "timeline": line.events,
    }


@click.command()
@click.option("--device", "one_device", is_flag=True, help="One device instead: jails, bursts, a swap.")
@click.option("--embedded", is_flag=True, help="The embedded broker, also where mosquitto is installed.")
@click.option("--quick", is_flag=True, help="Without the bursts of load.")
@output.json_option
@click.option("--keep", type=click.Path(path_type=Path), help="Keep state and logs in this directory.")
@click.pass_context
def demo(
    context: click.Context, one_device: bool, embedded: bool, quick: bool, as_json: bool, keep: Path | None
) -> int:
    """Run the vitals network across five devices on this machine, break things, and count what was lost.

    Kills the leader, cuts a device off, restarts the broker; then looks for everything that was committed in the log of
    every voter.  Takes about a minute.  Exit code 0 only if all of it was seen.

    \b
    Examples:
      edgeswarm demo
      edgeswarm demo --quick --json
      edgeswarm demo --device
    """
    from edgeswarm.app.cli import demo as device_demo

    if one_device:
        code: int = context.invoke(device_demo.demo, as_json=as_json, keep=keep)
        return code
    from edgeswarm.app.cli.demo_cell import DemoCell
    from edgeswarm.app.cli.demo_story import Story
    from edgeswarm.app.cli.demo_timeline import Timeline

    network = device_demo.examples()
    device_demo.introduce(Timeline(quiet=as_json).note)
    line = Timeline(quiet=as_json)
    with tempfile.TemporaryDirectory(prefix="edgeswarm-demo-") as temporary, ended_by_signals():
        folder = keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        cell = DemoCell(folder, DEVICES, embedded=embedded)
        try:
            story = Story(cell, line, network)
            facts = story.play(bursts=not quick)
        finally:
            cell.close()
    labels = () if quick else network.LABELS[1:]
    causes = {label: story.labels.seen.flagged_after(label) for label in labels}
    checks = judge(facts, causes)
    if as_json:
        click.echo(json.dumps(as_tree(facts, line, checks, causes), indent=2))
    else:
        click.echo(summary(facts, line, checks))
    return 0 if all(ok for ok, _ in checks) else 1
