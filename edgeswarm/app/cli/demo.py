"""`edgeswarm demo`: the vitals network on this machine, load caused on purpose, a jail killed, an agent swapped.

Starts a supervisor of its own in a temporary state directory and drives it as an operator would, over its control
socket.  Its exit code is 0 only if every item of the check list at the end was seen to happen.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import click

from edgeswarm.app.cli import output
from edgeswarm.app.isolation import any_tier
from edgeswarm.drivers import keys
from edgeswarm.drivers.control import ControlClient, NotRunningError
from edgeswarm.errors import EdgeSwarmError, JailError, LocalError

SECONDS = 22.0
CPU_AT, MEMORY_AT, KILL_AT, SWAP_AT = 6.0, 12.5, 10.5, 17.5
BURST_S = 3.0
CALM_S_MAX = 8.0  # how long a burst is put off while its label stands for another reason
LATE_S = 3.0  # windows and `hold`: a label may stand this long after its cause has ended
START_S_MAX = 30.0
FUSE = "vitals-fuse"
KILLED, SWAPPED = "vitals-autoencoder", "vitals-scorer"


@dataclass(slots=True)
class Seen:
    """What happened, with times in seconds since the first sample."""

    labels: list[tuple[float, str]] = field(default_factory=list)
    causes: dict[str, tuple[float, float]] = field(default_factory=dict)
    killed_pid: int = 0
    back_after_ms: float = 0.0
    swapped_to: str = ""

    def flagged_after(self, label: str) -> float | None:
        """Seconds from its cause to `label`; None when it did not come while the cause was there, or shortly after.

        A burst begins only while its label does not stand (`play`), so a label that is seen came with it.
        """
        start, end = self.causes.get(label, (0.0, -1.0))
        return next((at - start for at, text in self.labels if text == label and start <= at <= end + LATE_S), None)

    def stands(self, label: str) -> bool:
        return bool(self.labels) and self.labels[-1][1] == label


def examples() -> Any:
    """The module docs/examples/vitals/network.py.  Raises LocalError outside a checkout."""
    folder = Path(__file__).resolve().parents[3] / "docs" / "examples" / "vitals"
    if not (folder / "network.py").is_file():
        raise LocalError(f"demo: needs the examples of a checkout ({folder}); git clone, then make demo")
    sys.path.insert(0, str(folder))
    import network  # type: ignore[import-not-found]

    return network


@contextlib.contextmanager
def supervisor(state: Path) -> Iterator[ControlClient]:
    """A supervisor process; ends with the block."""
    command = [sys.executable, "-m", "edgeswarm", "run", "--state", str(state)]
    with open(state / "supervisor.log", "wb") as log:
        process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=log, stdin=subprocess.DEVNULL, env=any_tier(os.environ)
        )
        try:
            with connect(state, process) as client:
                yield client
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def connect(state: Path, process: subprocess.Popen[bytes]) -> ControlClient:
    """Raises JailError with the supervisor's last words when it ends instead of answering."""
    from edgeswarm.app import config

    path = config.load(state=state).socket_path
    deadline = time.monotonic() + START_S_MAX
    while True:
        with contextlib.suppress(NotRunningError):
            return ControlClient(path)
        if process.poll() is not None or time.monotonic() > deadline:
            words = (state / "supervisor.log").read_text(errors="replace").strip().splitlines()[-3:]
            raise JailError("the supervisor did not start:\n  " + "\n  ".join(words))
        time.sleep(0.02)


class Screen:
    """A table that is drawn over itself on a terminal, and every other second as lines elsewhere."""

    def __init__(self, quiet: bool) -> None:
        self._quiet = quiet
        self._live = output.is_terminal()
        self._drawn = 0
        self._last = -2.0

    def note(self, text: str) -> None:
        """A line that stays."""
        if not self._quiet:
            self._clear()
            click.echo(text)

    def _clear(self) -> None:
        if self._drawn:
            click.echo(f"\x1b[{self._drawn}A\x1b[J", nl=False)
            self._drawn = 0

    def draw(self, at: float, status: dict[str, Any]) -> None:
        if self._quiet or (not self._live and at - self._last < 2.0):
            return
        self._last = at
        text = live_table(at, status)
        if self._live:
            self._clear()
            self._drawn = text.count("\n") + 1
        click.echo(text)


def live_table(at: float, status: dict[str, Any]) -> str:
    rows = []
    for agent in status["agents"]:
        last, counters = agent["last"], agent["counters"]
        stream = " ".join(f"{value:6.2f}" for value in last["values"][:4]) if last else "warming up"
        score = f"{last['score']:.3f}" if last and last["score"] is not None else "-"
        latency = (agent["latency"] or {}).get("p50_us", 0.0)
        rows.append(
            (
                agent["name"], agent["version"], agent["status"], counters.get("rows_in", 0), stream, score,
                last["label"] if last else "-", f"{latency:.0f}", agent["jail"] or "-",
            )
        )  # fmt: skip
    header = (f"t={at:4.1f}s agent", "version", "status", "samples", "stream", "score", "decision", "p50 µs", "jail")
    return output.table(header, rows, right=(3, 5, 7, 8))


def introduce(say: Callable[[str], None]) -> dict[str, Any]:
    """Print what the machine can do; what doctor found."""
    from edgeswarm.drivers import doctor

    report = doctor.examine()
    missing = [name for name, check in report.layers.items() if not check.ok]
    works = [name for name, check in report.delegates.items() if check.ok]
    say(
        f"isolation      tier {report.tier}: {report.tier_text}"
        + (f"; missing: {', '.join(missing)}" if missing else "")
    )
    say("accelerators   " + (", ".join(works) if works else "none here; kernels run as wasm SIMD on the CPU"))
    return asdict(report)


def play(client: ControlClient, state: Path, network: Any, built: dict[str, bytes], screen: Screen) -> Seen:
    """The 20 seconds."""
    seen = Seen()
    busy_told = False
    told: set[str] = set()
    bursts: list[subprocess.Popen[bytes]] = []
    began = time.monotonic()
    follow_labels(state, seen, began)
    todo: list[tuple[float, str, Callable[[float], None]]] = [
        (CPU_AT, "cpu-burst", lambda at: burst(seen, "cpu-burst", at, bursts, network.bursts.start_cpu, screen)),
        (KILL_AT, "", lambda at: kill(client, seen, screen)),
        (
            MEMORY_AT,
            "memory-burst",
            lambda at: burst(seen, "memory-burst", at, bursts, network.bursts.start_memory, screen),
        ),
        (SWAP_AT, "", lambda at: swap(client, seen, network, built, screen)),
    ]
    late = 0.0  # by how much waiting for a calm machine has moved what is to come
    try:
        while (at := time.monotonic() - began) < SECONDS + late:
            if todo and at >= todo[0][0] + late:
                due, label, act = todo[0]
                if seen.stands(label) and at < due + late + CALM_S_MAX:
                    if not busy_told:
                        screen.note(
                            f"  t={at:4.1f}s  something else keeps this machine busy: waiting for it to calm down"
                        )
                    busy_told = True
                else:
                    todo.pop(0)
                    late = max(late, at - due)
                    act(at)
            tell_flags(seen, told, screen)
            screen.draw(at, client.call("status"))
            time.sleep(0.2)
    finally:
        for process in bursts:
            process.kill()
            process.wait()
    return seen


def burst(
    seen: Seen, label: str, at: float, running: list[subprocess.Popen[bytes]],
    start: Callable[[float], list[subprocess.Popen[bytes]]], screen: Screen,
) -> None:  # fmt: skip
    """Cause real load, in processes of its own."""
    screen.note(f"  t={at:4.1f}s  causing a {label} for {BURST_S:g} s")
    running.extend(start(BURST_S))
    seen.causes[label] = (at, at + BURST_S)


def tell_flags(seen: Seen, told: set[str], screen: Screen) -> None:
    """Say once that a burst was flagged, when it was."""
    for label in seen.causes.keys() - told:
        delay = seen.flagged_after(label)
        if delay is not None:
            told.add(label)
            screen.note(f"            flagged as {label} after {delay:.1f} s")


def kill(client: ControlClient, seen: Seen, screen: Screen) -> None:
    """SIGKILL the jail of one agent, and wait until its successor answers."""
    before = agent_row(client, KILLED)
    seen.killed_pid = before["pid"]
    began = time.monotonic()
    os.kill(seen.killed_pid, signal.SIGKILL)
    while time.monotonic() - began < 5.0:
        now = agent_row(client, KILLED)
        if now["pid"] not in (None, seen.killed_pid) and now["restarts"] > before["restarts"]:
            seen.back_after_ms = (time.monotonic() - began) * 1000
            screen.note(f"            killed jail process {seen.killed_pid}: back as {now['pid']} "
                        f"after {seen.back_after_ms:.0f} ms")  # fmt: skip
            return
        time.sleep(0.005)


def swap(client: ControlClient, seen: Seen, network: Any, built: dict[str, bytes], screen: Screen) -> None:
    """Another version of the scorer, while samples flow."""
    name = f"vitals-{network.NEXT_SCORER}.af"
    client.call("swap", name=SWAPPED, who=name, data=built[name])
    seen.swapped_to = agent_row(client, SWAPPED)["version"]
    screen.note(f"            swapped {SWAPPED} to version {seen.swapped_to}")


def agent_row(client: ControlClient, name: str) -> dict[str, Any]:
    rows = client.call("status")["agents"]
    return next(row for row in rows if row["name"] == name)


def follow_labels(state: Path, seen: Seen, began: float) -> None:
    """Collect the fuse's labels, every one of them, in a thread with a connection of its own."""
    from edgeswarm.app import config

    path = config.load(state=state).socket_path

    def follow() -> None:
        with contextlib.suppress(EdgeSwarmError, OSError), ControlClient(path) as client:
            for record in client.follow("stream", name=FUSE):
                seen.labels.append((time.monotonic() - began, record["label"]))

    threading.Thread(target=follow, name="labels", daemon=True).start()


def judge(seen: Seen, status: dict[str, Any]) -> list[tuple[bool, str]]:
    """The check list: what was promised, and whether it happened."""
    totals = status["totals"]
    return [
        (totals["rows_in"] > 0 and totals["decisions"] > 0, "samples came in and decisions came out"),
        (seen.flagged_after("cpu-burst") is not None, "the CPU burst was flagged"),
        (seen.flagged_after("memory-burst") is not None, "the memory burst was flagged"),
        (seen.back_after_ms > 0, "the killed jail came back"),
        (seen.swapped_to not in ("", "1.0.0"), "the swapped agent runs its new version"),
        (totals["lost"] == 0, "nothing was lost"),
        (all(row["status"] == "running" for row in status["agents"]), "every agent runs"),
    ]


def summary(seen: Seen, status: dict[str, Any], checks: list[tuple[bool, str]]) -> str:
    totals, fuse = status["totals"], next(row for row in status["agents"] if row["name"] == FUSE)
    jails = [jail["memory_bytes"] for jail in status["jails"]]
    delays = {label: seen.flagged_after(label) for label in seen.causes}
    found = "   ".join(f"{label} flagged after {delay:.1f} s" for label, delay in delays.items() if delay is not None)
    count = (
        f"samples in {totals['rows_in']}   decisions out {totals['decisions']}   "
        f"dropped by their stream's policy {totals['dropped']}   set aside {totals['rows_set_aside']}   "
        f"lost {totals['lost']}"
    )
    latency = fuse["latency"]
    speed = f"sample to decision, all three agents   p50 {latency['p50_us']:.0f} µs   p99 {latency['p99_us']:.0f} µs"
    each = output.size(sum(jails) / max(1, len(jails)))
    memory = f"memory: supervisor {output.size(status['rss_bytes'])}   jails {len(jails)}, each {each} of its own"
    story = f"{found}   jail back after {seen.back_after_ms:.0f} ms"
    marks = [("  ok    " if ok else "  FAILED ") + text for ok, text in checks]
    lines = ["", count, speed, memory, story, *marks]
    return "\n".join(lines)


@click.command()
@output.json_option
@click.option("--keep", type=click.Path(path_type=Path), help="Keep state and logs in this directory.")
def demo(as_json: bool, keep: Path | None) -> int:
    """Run the vitals network on this machine, break things, and count what was lost.

    \b
    Takes about half a minute.  Exit code 0 only if all of it happened.
    Examples:
      edgeswarm demo
      edgeswarm demo --json
    """
    screen = Screen(quiet=as_json)
    machine = introduce(screen.note)
    network = examples()
    with tempfile.TemporaryDirectory(prefix="edgeswarm-demo-") as temporary:
        state = keep or Path(temporary)
        state.mkdir(parents=True, exist_ok=True)
        key, _ = keys.load_or_make(state / "keys" / "publisher.key")
        keys.trust(state / "trust.d", key.public, "demo")
        built = network.build_network(key=key, reach=network.bursts.reachable())
        with supervisor(state) as client:
            files = [{"who": name, "data": built[name]} for name in (f"vitals-{agent}.af" for agent in network.AGENTS)]
            client.call("deploy", files=files)
            screen.note(f"supervisor     pid {client.call('ping')['pid']}, {len(files)} agents in jails; "
                        "the first 3 s teach them what is usual here\n")  # fmt: skip
            seen = play(client, state, network, built, screen)
            status = client.call("status")
    checks = judge(seen, status)
    if as_json:
        tree = {"tier": machine["tier"], "checks": {text: ok for ok, text in checks}, "status": status}
        click.echo(json.dumps({**tree, "back_after_ms": seen.back_after_ms, "causes": seen.causes}, indent=2))
    else:
        click.echo(summary(seen, status, checks))
    return 0 if all(ok for ok, _ in checks) else 1
