"""A 1 MB agent file to 100 devices in 4 waves, gates of 5 s: how long, how many bytes, how far a bad one comes.

    python bench/fleet_rollout.py [--devices 100] [--processes 2] [--json]

Real: mosquitto with the fleet's hardened configuration and mutual TLS, one connection pair, key, certificate and state
directory a device, the whole SwarmNode of each, the controller with its Waves, plans signed by the operator, agent
files verified by each device, journals on disk.  Not real: jails; a supervisor that "runs" whatever it is given, and
says that a version called x.y.99 has failed as soon as it runs.
Bytes: what mosquitto has written to its sockets (TLS records and all), from /proc/<pid>/io; beside it the same less
what it writes in the same time when nothing is rolled out.  Ideal: each device gets the file once.
Issue 4 asks for <= 90 s and <= 1.2 x the ideal, and that a bad version reaches only the canary.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
sys.path.insert(0, str(HERE.parent / "tests" / "support"))

FILE_BYTES = 1_000_000
WAVES = ("1", "10%", "50%", "100%")
PATIENCE_S = 300.0


def fake_supervisor(state: Path) -> Any:
    """A supervisor without jails."""
    from edgeswarm.app import config
    from edgeswarm.app.log import Log
    from edgeswarm.app.supervisor import Supervisor
    from edgeswarm.core.table import Agent, Status

    class Fake(Supervisor):
        async def deploy(self, files: Any) -> Any:
            for who, data in files:
                artefact = self.shelf.admit(data, who=who)
                self.shelf.put(artefact)
                bad = artefact.header.agent_version.endswith(".99")
                agent = Agent(artefact.plan, status=Status.FAILED if bad else Status.RUNNING)
                self.node.table.agents[artefact.plan.name] = agent
            return []

        async def swap(self, name: str, who: str, data: bytes) -> dict[str, Any]:
            await self.deploy([(who, data)])
            return {"status": "swapped"}

        async def remove(self, name: Any) -> str:
            self.node.table.agents.pop(name, None)
            return "removed"

    made = Fake(config.load(state=state, flags={}, environ={}), log=Log(stream=None, level="info"))
    made.host = SimpleNamespace(tier="A")  # type: ignore[assignment]

    async def prepare(artefact: Any, host: Any) -> None:
        await asyncio.sleep(0)

    made.shelf.prepare = prepare  # type: ignore[method-assign]
    return made


async def node_of(state: Path) -> Any:
    from edgeswarm.app.swarm.node import SwarmNode

    node = SwarmNode(fake_supervisor(state))
    await node.start()
    return node


async def devices(states: list[str]) -> None:
    """Some devices in this process, until its input ends."""
    nodes = []
    for state in states:
        nodes.append(await node_of(Path(state)))
        await asyncio.sleep(0.02)
    print(json.dumps({"ready": len(nodes)}), flush=True)
    await asyncio.to_thread(sys.stdin.read)
    print(json.dumps({"lines": [line for node in nodes[:1] for line in node.log.ring.lines][-400:]}), flush=True)


async def until(look: Any, what: str, within_s: float = PATIENCE_S) -> Any:
    end = time.monotonic() + within_s
    while not (found := look()):
        if time.monotonic() > end:
            raise SystemExit(f"did not happen within {within_s:g} s: {what}")
        await asyncio.sleep(0.1)
    return found


def agent(publisher: Any, version: str, size: int) -> bytes:
    """An agent file of about `size` bytes: weights that do not compress."""
    from supervised import header_tree

    from edgeswarm.app import builder

    hidden = max(8, size // (4 * 67))
    tree = header_tree("pump", 64, 2, hidden=(hidden,), agent_version=version)
    model = builder.model_of(None, sizes=(64, hidden, 2), activation="relu", output_activation="linear")
    return builder.build(tree, model, key=publisher)


class Bytes:
    """What a process has written."""

    def __init__(self, pid: int) -> None:
        self._path = Path(f"/proc/{pid}/io")

    def now(self) -> tuple[int, int]:
        """(written, read)."""
        rows = dict(line.split(": ") for line in self._path.read_text().splitlines())
        return int(rows["wchar"]), int(rows["rchar"])


async def bench(count: int, processes: int) -> dict[str, Any]:
    import hardened
    from rollouts import plan_of

    from edgeswarm.app.fleet import waves
    from edgeswarm.app.fleet.controller import Controller
    from edgeswarm.drivers import keys
    from edgeswarm.wire.certificate import Signatory
    from edgeswarm.wire.rollout import Gate, seal_plan

    home = Path(tempfile.mkdtemp(prefix="es-rollout-", dir="/tmp"))
    names = [f"w{number:03}" for number in range(count)]
    made = hardened.make(home, {"c1": "coordinator", **dict.fromkeys(names, "worker")}, start_devices=True)
    publisher, _ = keys.load_or_make(home / "publisher.key")
    for state in made.states.values():
        keys.trust(state / "trust.d", publisher.public, "bench")
    operator = Signatory.from_seed(hardened._OPERATOR)
    workers: list[subprocess.Popen[str]] = []
    found: dict[str, Any] = {"devices": count}
    try:
        async with made.broker():
            pid = int(made.files.pid.read_text())
            node = await node_of(made.states["c1"])
            await until(lambda: node.leads and node.replica.state.version >= 3, "the controller leads at version 3")
            controller = Controller(made.folder, node, node.log)
            part = waves.register(controller)
            part.start()
            began = time.monotonic()
            for at in range(processes):
                states = [str(made.states[name]) for name in names[at::processes]]
                workers.append(
                    subprocess.Popen(  # noqa: ASYNC220 - a spawn takes about 1 ms
                        [sys.executable, __file__, "--states", json.dumps(states)],
                        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                    )
                )  # fmt: skip
            await until(lambda: len(part.match("state=online")) == count, "all devices are there")
            found["all there s"] = round(time.monotonic() - began, 1)
            await asyncio.sleep(5)
            io = Bytes(pid)
            before, began = io.now(), time.monotonic()
            await asyncio.sleep(10)
            idle = [(b - a) / (time.monotonic() - began) for a, b in zip(before, io.now(), strict=True)]
            found["idle bytes/s"] = round(idle[0])

            async def roll(version: str) -> dict[str, Any]:
                data = agent(publisher, version, FILE_BYTES)
                await node.artefacts.put(data)
                gate = Gate(healthy_s=1, failed_max="0", pause_s=5)
                plan = plan_of(data, int(version.rpartition(".")[2]), selector="role=worker", waves=WAVES, gate=gate)
                signed = seal_plan(plan, fleet=made.roster.fleet, cell=made.roster.cell, by=operator)
                before, began = io.now(), time.monotonic()
                await part.asked.started({"plan": signed}, "bench")  # type: ignore[union-attr]
                marks: list[tuple[float, int]] = []

                def over() -> Any:
                    row = part.asked.show(plan.rollout, rows=False)  # type: ignore[union-attr]
                    if not marks or marks[-1][1] != row["reached"]:
                        marks.append((round(time.monotonic() - began, 1), row["reached"]))
                    return row if row["state"] != "running" else None

                row = await until(over, "the rollout is over")
                took = time.monotonic() - began
                after = io.now()
                ideal = len(data) * row["reached"]
                written = after[0] - before[0]
                return {
                    "state": row["state"],
                    "why": row["why"],
                    "reached": row["reached"],
                    "healthy": row["healthy"],
                    "file bytes": len(data),
                    "s": round(took, 1),
                    "waves": marks,
                    "broker wrote": written,
                    "x ideal, all": round(written / ideal, 3),
                    "x ideal": round((written - idle[0] * took) / ideal, 3),
                    "broker read": after[1] - before[1],
                    "served": node.artefacts.exchange._serve.sent,
                    "spared": node.artefacts.exchange._serve.spared,
                }

            found["good"] = await roll("1.0.1")
            found["bad"] = await roll("1.0.99")
            await until(lambda: _settled(part, count), "the canary is back", 60)
            await part.close()
            for worker in workers:
                assert worker.stdin is not None and worker.stdout is not None
                worker.stdin.close()
                if os.environ.get("BENCH_LOG"):
                    Path(os.environ["BENCH_LOG"]).write_text(worker.stdout.read())
            await node.close()
    finally:
        for worker in workers:
            with contextlib.suppress(subprocess.TimeoutExpired):
                worker.wait(5)
            worker.kill()
            worker.wait()
        shutil.rmtree(home, ignore_errors=True)
    return found


def _settled(part: Any, count: int) -> bool:
    states = [report.state for device in part._devices.values() for report in device.rollouts.values()]
    return states.count("healthy") >= count - 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--devices", type=int, default=100)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--states", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    logging.disable(logging.CRITICAL)
    if arguments.states:
        asyncio.run(devices(json.loads(arguments.states)))
        return
    found = asyncio.run(bench(arguments.devices, arguments.processes))
    print(json.dumps(found, indent=2))
    good, bad = found["good"], found["bad"]
    print(
        f"\n{found['devices']} devices, {good['file bytes']} bytes, 4 waves: {good['s']} s (mark 90), "
        f"{good['x ideal']} x the ideal (mark 1.2; {good['x ideal, all']} with everything else);"
        f" the bad one reached {bad['reached']}, {bad['state']}"
    )


if __name__ == "__main__":
    main()
