"""What `edgeswarm demo` does to a cell of five devices, act by act.

Every act waits until what it promises is seen, or until its time is up; then it goes on, and the check list says so.
A time is taken from the act to the first look that showed its effect (looks come every few ms), never from a log.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable
from typing import Any

from edgeswarm.app.cli.demo import BURST_S, FUSE, LATE_S
from edgeswarm.app.cli.demo_cell import DemoCell, Device
from edgeswarm.app.cli.demo_timeline import LABELS_S, LOOK_S, Facts, Labels, Proof, Timeline, overlap_ms, until
from edgeswarm.app.cli.demo_writer import Writer, audit
from edgeswarm.drivers import keys
from edgeswarm.errors import EdgeSwarmError

AUTOENCODER, SCORER = "vitals-autoencoder", "vitals-scorer"
NETWORK = (AUTOENCODER, SCORER, FUSE)
CALM_S, CALM_AGAIN_S = 8.0, 15.0
WATCH_S = 1.5  # how long a device that came back is watched


class Story:
    """folder of the cell is the demo's own; network: docs/examples/vitals/network.py."""

    def __init__(self, cell: DemoCell, line: Timeline, network: Any) -> None:
        self.cell, self.line, self.network = cell, line, network
        self.facts = Facts(broker=cell.broker.kind)
        self.labels = Labels(cell, line)
        self.writer: Writer | None = None
        self.bursts: list[Any] = []
        self._killed_at = 0.0  # time.time(): the logs' clock

    def play(self, *, bursts: bool = True) -> Facts:
        """bursts: of real load, some ten seconds of the whole."""
        try:
            self.elect()
            self.place()
            load = self.network.bursts
            todo = [("cpu-burst", load.start_cpu), ("memory-burst", load.start_memory)] if bursts else []
            todo = [one for one in todo if not self.burst(*one, CALM_S)]
            self.kill_leader()
            self.bring_back()
            self.cut_off()
            self.restart_broker()
            for one in todo:  # something else kept the machine busy then: once more
                self.burst(*one, CALM_AGAIN_S)
            self.audit()
        finally:
            self.labels.stop()
            for process in self.bursts:
                process.kill()
                process.wait()
            if self.writer is not None:
                self.writer.stop()
        return self.facts

    # --- looking ------------------------------------------------------------------------------------------------------

    def leader(self) -> Device | None:
        return next((one for one in self.cell.others() if one.look().get("leads")), None)

    def running(self, *but: str) -> dict[str, str]:
        """Agent -> device that says it runs it."""
        return {agent: one.name for one in self.cell.others(*but) for agent in one.look().get("agents", ())}

    def prove(self, device: Device) -> Proof:
        """Who leads, by the certificate that `device` holds.  Raises EdgeSwarmError where it proves nothing."""
        certificate = device.call("leader").get("certificate") or b""
        return self.check(certificate)

    def check(self, certificate: bytes) -> Proof:
        from edgeswarm.wire import leadership
        from edgeswarm.wire.leadership import LeaderCertificate
        from edgeswarm.wire.roster import Roster

        root = keys.read_pub(self.cell.fleet / "root.pub")
        roster = Roster.open((self.cell.fleet / "roster.cbor").read_bytes(), root_public=root)
        found = LeaderCertificate.decode(certificate)
        leadership.verify(found, roster)
        member = roster.by_number(found.candidate)
        assert member is not None, "verify has looked for it"
        return Proof(member.entry.device, found.term, len(found.votes), len(roster.voters()))

    # --- the acts -----------------------------------------------------------------------------------------------------

    def elect(self) -> None:
        line, cell = self.line, self.cell
        began = time.monotonic()
        line.say(f"{len(cell.devices)} supervisors on one machine, {cell.broker.kind} between them")
        cell.start()
        found = until(lambda: self.prove(next(iter(cell.others()))))
        self.facts.leader = found
        if found is None:
            line.since("a verified leader", None)
            return
        line.since(f"{found.device} leads in term {found.term}", (time.monotonic() - began) * 1000)
        certificate = until(lambda: cell.devices[found.device].call("leader")["certificate"]) or b""
        (cell.folder / "leader.cert").write_bytes(certificate)
        line.say(f"  checked offline, with the root's public key: {found.votes} of {found.voters} voters signed it")
        forged = certificate[:-1] + bytes([certificate[-1] ^ 1]) if certificate else b""
        try:
            self.check(forged)
        except EdgeSwarmError as error:
            self.facts.forgery = str(error)
            line.say("  the same certificate with one bit changed: refused")

    def place(self) -> None:
        """Each agent on another device; the writer on one that neither runs an agent nor leads."""
        line, cell = self.line, self.cell
        reach = self.network.bursts.reachable()
        key, _ = keys.load_or_make(cell.fleet / "publisher.key")
        built = self.network.build_network(key=key, reach=reach, across_devices=True)
        asked = next(iter(cell.devices.values()))
        began = time.monotonic()
        for agent in NETWORK:
            apart = [other for other in NETWORK if other != agent]
            until(lambda: asked.call("place", data=built[f"{agent}.af"], who=agent, apart=apart))  # noqa: B023
        found = until(lambda: self._spread())
        self.facts.placed = found or {}
        text = ", ".join(f"{agent.removeprefix('vitals-')} on {device}" for agent, device in (found or {}).items())
        line.since(f"the vitals network runs: {text}", (time.monotonic() - began) * 1000 if found else None)
        leader = self.leader()
        busy = {*self.facts.placed.values(), leader.name if leader else ""}
        self.writer = Writer(next(one for one in [*cell.others(*busy), *cell.others()]))
        line.say(f"  a writer on {self.writer.device.name} proposes a numbered note each 50 ms, from now to the end")
        at = line.now
        seen = until(lambda: self.labels.after(at), LABELS_S)
        line.since("labels arrive, over streams between the devices", (line.now - at) * 1000 if seen else None)

    def _spread(self) -> dict[str, str]:
        found = self.running()
        whole = all(agent in found for agent in NETWORK) and len({found[agent] for agent in NETWORK}) == len(NETWORK)
        return {agent: found[agent] for agent in NETWORK} if whole else {}

    def burst(self, label: str, start: Callable[[float], list[Any]], calm_s: float) -> bool:
        """Real load, caused while its label does not stand; True if it was flagged.  calm_s: how long that may take."""
        line, seen = self.line, self.labels.seen

        def calm() -> bool:
            return bool(seen.labels) and not seen.stands(label)

        until(lambda: seen.stands("normal"), BURST_S + LATE_S)  # the burst before this one is over, on a calm machine
        if not until(calm, 0.5):
            load = f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"
            line.say(f"something else causes a {label} here already ({load}): waiting until it ends")
            if not until(calm, calm_s):
                line.say(f"  not within {calm_s:g} s: one more would prove nothing now, so later")
                return False
        began = line.now
        self.bursts += start(BURST_S)
        seen.causes[label] = (began, began + BURST_S)
        line.say(f"causing a {label} for {BURST_S:g} s")
        until(lambda: seen.flagged_after(label) is not None, BURST_S + LATE_S)
        after = seen.flagged_after(label)
        line.since(f"flagged as {label}", None if after is None else after * 1000)
        return after is not None

    def kill_leader(self) -> None:
        """The leader is made the device that runs the scorer first, so that both are lost at once."""
        line, facts = self.line, self.facts
        asked = self._writer_device()
        scorer = self.running().get(SCORER, "")
        leader = self.leader()
        if scorer and (leader is None or leader.name != scorer):
            began = time.monotonic()
            with contextlib.suppress(EdgeSwarmError, OSError):
                asked.call("transfer", to=scorer)
                line.say(f"leadership handed over to {scorer}, which runs the scorer", _ms(began))
        leader = until(self.leader)
        if leader is None:
            line.since("a leader to kill", None)
            return
        term = leader.look().get("term", 0)
        facts.killed, facts.killed_agents = leader.name, tuple(leader.look().get("agents", ()))
        facts.killed_led = bool(leader.look().get("leads"))
        what = f"kill -9 of {leader.name} (process {leader.pid}), which leads and runs {_names(facts.killed_agents)}"
        self._killed_at, began = time.time(), time.monotonic()
        leader.kill()
        line.say(what)
        found = until(lambda: self._newer(asked, leader.name, term))
        if found is not None:
            facts.next_leader, facts.next_leader_ms = found, _ms(began)
            text = f"{found.device} leads in term {found.term}, {found.votes} of {found.voters} voters signed"
            line.since(text, facts.next_leader_ms)
        else:
            line.since("a new verified leader", None)
        facts.first_write_ms = line.since("first write", self._write_after(began))
        facts.moved_ms = self._moved(facts.killed_agents, leader.name, began)
        line_at = line.now
        if until(lambda: self.labels.after(line_at), LABELS_S):
            facts.labels_again_ms = _ms(began)
        line.since("labels arrive again", facts.labels_again_ms)

    def _newer(self, asked: Device, old: str, term: int) -> Proof | None:
        found = self.prove(asked)
        return found if found.term > term and found.device != old else None

    def _write_after(self, began: float) -> float | None:
        assert self.writer is not None
        written = self.writer.written
        first = until(lambda: written.first_after(began))
        return None if first is None else (first.ended - began) * 1000

    def _moved(self, agents: tuple[str, ...], old: str, began: float) -> float | None:
        """Milliseconds until each of `agents` runs on another device."""
        found = until(lambda: _only(self.running(old), agents))
        ms = None if found is None else _ms(began)
        text = ", ".join(f"{agent} on {device}" for agent, device in (found or {}).items())
        return self.line.since(f"runs elsewhere: {text or _names(agents)}", ms)

    def bring_back(self) -> None:
        """The killed device starts again: it takes part, and runs no second copy of what has moved."""
        facts = self.facts
        if not facts.killed:
            return
        device = self.cell.devices[facts.killed]
        began = time.monotonic()
        device.start()
        self.line.say(f"{device.name} is started again")
        if until(lambda: device.look().get("lease")):
            facts.back_ms = _ms(began)
        self.line.since(f"{device.name} takes part again", facts.back_ms)
        facts.back_runs_copy = self._watch_copy(device, facts.killed_agents)

    def _watch_copy(self, device: Device, agents: tuple[str, ...]) -> bool | None:
        """True if it was seen to run one of `agents`, which run elsewhere; None if it did not answer."""
        end, looks = time.monotonic() + WATCH_S, 0
        while time.monotonic() < end:
            found = device.look()
            looks += bool(found)
            if set(agents) & set(found.get("agents", ())):
                self.line.say(f"  {device.name} RUNS A SECOND COPY of {_names(agents)}")
                return True
            time.sleep(LOOK_S)
        if looks:
            self.line.say(f"  {device.name} runs no second copy of {_names(agents)}: {looks} looks in {WATCH_S:g} s")
        return False if looks else None

    def cut_off(self) -> None:
        """A device that runs an agent loses its wire: it must stop the agent before another starts it."""
        line, cell, facts = self.line, self.cell, self.facts
        asked = self._writer_device()
        where = self.running()
        choice = next((where[a] for a in (AUTOENCODER, SCORER) if where.get(a, asked.name) != asked.name), "")
        if not choice:
            line.since("a device to cut off", None)
            return
        if cell.devices[choice].look().get("leads"):
            with contextlib.suppress(EdgeSwarmError, OSError):
                asked.call("transfer", to=asked.name)
        facts.cut, facts.cut_agents = choice, tuple(cell.devices[choice].look().get("agents", ()))
        began = time.monotonic()
        cell.cut(choice)
        line.say(f"{choice}, which runs {_names(facts.cut_agents)}, is cut off: nothing goes in or out")
        if until(lambda: _without(cell.devices[choice].look(), facts.cut_agents)):
            facts.cut_stopped_ms = _ms(began)
        line.since(f"{choice} has stopped its copy by itself", facts.cut_stopped_ms)
        facts.cut_moved_ms = self._moved(facts.cut_agents, choice, began)
        began = time.monotonic()
        cell.mend(choice)
        line.say(f"the wire of {choice} is mended")
        if until(lambda: cell.devices[choice].look().get("lease")):
            facts.mended_ms = _ms(began)
        line.since(f"{choice} takes part again", facts.mended_ms)
        facts.mended_runs_copy = self._watch_copy(cell.devices[choice], facts.cut_agents)

    def restart_broker(self) -> None:
        line, cell, facts = self.line, self.cell, self.facts
        at = line.now
        until(lambda: self.labels.after(at), LABELS_S)
        began = time.monotonic()
        what = f"kill -9 of the broker (process {cell.broker.pid}), and a new one without its memory"
        cell.broker.kill()
        line.say(what)
        cell.broker.start_again()
        facts.broker_listens_ms = line.since("the broker listens", _ms(began))
        facts.broker_write_ms = line.since("the cell commits again", self._write_after(began))
        until(lambda: all(one.look()["transport"]["connected"] and one.look()["lease"] for one in cell.others()))
        at = line.now
        if until(lambda: self.labels.after(at), LABELS_S):
            facts.broker_labels_ms = _ms(began)
        line.since("every device is back, labels arrive", facts.broker_labels_ms)

    # --- the end ------------------------------------------------------------------------------------------------------

    def audit(self) -> None:
        """Stop writing, let all catch up, end them, and read what is on their disks."""
        line, cell, facts = self.line, self.cell, self.facts
        assert self.writer is not None
        facts.written = self.writer.stop()
        last = max((one.index for one in facts.written.acked), default=0)
        facts.caught_up = bool(until(lambda: all(one.look()["applied"] >= last for one in cell.devices.values())))
        self.labels.stop()
        ended = time.time()
        cell.stop_devices()
        facts.audit = audit(cell.devices.values(), facts.written, len(cell.devices))
        facts.overlap_ms = overlap_ms(cell, {facts.killed: self._killed_at}, ended)
        found = facts.audit
        line.say(f"the logs of {found.logs} voters read from disk: {len(facts.written.acked)} notes acknowledged, "
                 f"{len(found.lost)} lost")  # fmt: skip

    def _writer_device(self) -> Device:
        assert self.writer is not None
        return self.writer.device


def _ms(began: float) -> float:
    return (time.monotonic() - began) * 1000


def _names(agents: tuple[str, ...]) -> str:
    return ", ".join(agents) or "no agent"


def _only(found: dict[str, str], agents: tuple[str, ...]) -> dict[str, str] | None:
    return {agent: found[agent] for agent in agents} if all(agent in found for agent in agents) else None


def _without(status: dict[str, Any], agents: tuple[str, ...]) -> bool:
    return bool(status) and not set(agents) & set(status["agents"])
