"""10,000 devices in the controller's index: `edgeswarm fleet devices --json` with a selector, from start to exit.

The index (its real file, filled through what a controller fills it with) stands behind a real control socket in a
process of its own; the command is a process each time, so that Python's start and every import are in the figure.
Issue 4 asks for at most 300 ms.
"""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

DEVICES, RUNS = 10_000, 15
SELECTORS = (
    "id=press-00042",
    "site=hall-3,profile in (rpi-5,jetson),tier<=B,has:tflite,may:neural.compute,!role=reader",
    "state=silent|agent:camera",
    "percent=10",
    "label:site",
    "all",
)


def device(at: int) -> object:
    from edgeswarm.core.selector import Device

    return Device(
        f"press-{at:05}",
        "reader" if at % 10 == 0 else "worker",
        "online",
        "ABC"[at % 3],
        ("rpi-5", "jetson", "x86-gateway", "rpi-zero-2w")[at % 4],
        ("aarch64", "x86_64")[at % 2],
        "edgeswarm 0.1.0",
        (("line", str(at % 50)), ("site", f"hall-{at // 8 % 8}")),
        ("tflite", "wasm") if at % 2 else ("wasm",),
        ("vitals",),
        ("neural.compute", "stream.publish:*"),
        ("fuse", "score", *(("camera",) if at % 20 == 0 else ())),
    )


async def serve(folder: Path) -> None:
    """The index behind the control socket, until it is killed."""
    sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "support"))
    from fleet_index import NOW, FakeController, heard_row, member_row

    from edgeswarm.app.fleet import view
    from edgeswarm.app.fleet.controller import Controller
    from edgeswarm.app.fleet.folder import FleetFolder
    from edgeswarm.app.fleet.index_rows import Batch
    from edgeswarm.app.fleet.index_store import Store
    from edgeswarm.app.fleet.link import socket_path
    from edgeswarm.drivers.control import ControlServer

    fleet = FleetFolder(folder)
    found = [device(at) for at in range(DEVICES)]
    store = Store(fleet.database)
    began = time.perf_counter()
    batch = Batch(
        members={one.id: member_row(one.id, one.role, one.grants) for one in found},
        labels={one.id: tuple("=".join(pair) for pair in one.labels) for one in found},
        heard={one.id: heard_row(one, NOW, cpu_milli=4_000, cpu_used_milli=300) for one in found},
    )
    store.write(batch, now_s=NOW)
    store.close()
    print(f"filled with {DEVICES} devices in {time.perf_counter() - began:.2f} s", flush=True)

    desk = FakeController(fleet.controller, {one.id: (one.role, one.grants) for one in found})
    controller = Controller(fleet, desk.node, desk.log)
    desk.node.replica.state.labels = {one.id: tuple("=".join(pair) for pair in one.labels) for one in found}
    controller.index = desk.index
    await desk.index.start()
    view.register(controller)

    def answer(op: str, args: dict[str, object]) -> object:
        return controller.local(args) if op == "fleet" else controller.local_follow(args)

    await ControlServer(socket_path(fleet), answer).start()
    print("ready", flush=True)
    await asyncio.Event().wait()


def command(folder: Path, selector: str) -> tuple[float, int]:
    """Seconds from start to exit, devices found."""
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "edgeswarm", "fleet", "devices", selector, "--json"],
        capture_output=True,
        check=True,
        env={**os.environ, "EDGESWARM_FLEET": str(folder)},
    )
    return time.perf_counter() - began, len(json.loads(done.stdout)["devices"])


def main() -> None:
    if len(sys.argv) == 3 and sys.argv[1] == "serve":
        asyncio.run(serve(Path(sys.argv[2])))
        return
    with tempfile.TemporaryDirectory(prefix="esi", dir="/tmp") as name:
        folder = Path(name)
        (folder / "controller" / "run").mkdir(parents=True)
        (folder / "fleet.toml").write_text(
            'fleet = "plant"\ncell = "hall"\ncontroller = "controller"\nbrokers = ["mqtts://localhost"]\n'
            'join_brokers = ["mqtts://localhost:8884"]\n'
        )
        server = subprocess.Popen([sys.executable, __file__, "serve", name], stdout=subprocess.PIPE, text=True)
        try:
            assert server.stdout is not None
            for line in server.stdout:
                if line.strip() == "ready":
                    break
                print(line, end="")
            print(f"{'selector':<96} {'devices':>8} {'p50 ms':>8} {'max ms':>8}")
            for selector in SELECTORS:
                command(folder, selector)
                taken = [command(folder, selector) for _ in range(RUNS)]
                times = sorted(seconds * 1000 for seconds, _ in taken)
                print(f"{selector:<96} {taken[0][1]:>8} {statistics.median(times):>8.0f} {times[-1]:>8.0f}", flush=True)
        finally:
            server.terminate()
            server.wait(10)


if __name__ == "__main__":
    main()
