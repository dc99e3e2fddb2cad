"""How long until a dead device's agents run elsewhere, and until a safety stop is obeyed while the broker is flooded.

    python bench/swarm_failover.py [--kills 10] [--stops 20] [--json]

Five devices as `edgeswarm run` on one mosquitto, profile `lan`.  A kill is SIGKILL of the supervisor that runs the
agent; the time ends when another device's own log says that its jail answers.  A stop is an operator's order; the time
ends when the last of the five has held its agents back, by their logs, while two clients publish LOW messages as fast
as the broker takes them.  There is no peer to compare with: Greengrass and KubeEdge want a cloud or a cluster.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from _swarm_ours import Broker

from edgeswarm.app import builder
from edgeswarm.app.swarm.dev import init_dev
from edgeswarm.drivers import keys
from edgeswarm.drivers.control import ControlClient
from edgeswarm.errors import EdgeSwarmError
from edgeswarm.wire import cose
from edgeswarm.wire import messages as msg

DEVICES = 5
AGENT = "watch"
WAIT_S = 20.0
FLOOD = (
    "import sys, time, paho.mqtt.client as m\n"
    "c = m.Client(m.CallbackAPIVersion.VERSION2); c.max_queued_messages_set(2000)\n"
    "c.connect('127.0.0.1', int(sys.argv[1])); c.loop_start(); sent = 0\n"
    "while True:\n"
    "    if len(c._out_packet) > 500: time.sleep(0.001); continue\n"
    "    c.publish('es/1/dev/cell/event/low/flood', b'x' * 256, 0); sent += 1\n"
    "    if sent % 10000 == 0: print(sent, flush=True)\n"
)


class Cell:
    """Five daemons in a folder of their own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.broker = Broker(folder)
        url = f"mqtt://127.0.0.1:{self.broker.port}"
        _, self.states = init_dev(folder / "fleet", DEVICES, brokers=(url,))
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        for device in self.states:
            self.start(device)
        until(lambda: all(self.ask(device, "status")["leader"] for device in self.states), "a leader")

    def start(self, device: str) -> None:
        with open(self.folder / f"{device}.log", "ab") as log:
            command = [sys.executable, "-m", "edgeswarm", "run", "--state", str(self.states[device])]
            self.processes[device] = subprocess.Popen(command, stdout=log, stderr=log)

    def ask(self, device: str, what: str, **args: Any) -> Any:
        with ControlClient(self.states[device] / "run" / f"{device}.sock", timeout_s=15) as client:
            return client.call("swarm", what=what, **args)

    def events(self, device: str, event: str, after: float) -> list[float]:
        """Wall times of log lines of that event, later than `after`."""
        found = []
        for line in (self.folder / f"{device}.log").read_text().splitlines():
            if f'"event":"{event}"' in line:
                at = datetime.fromisoformat(json.loads(line)["at"]).timestamp()
                if at >= after - 0.001:  # a log line says milliseconds
                    found.append(at)
        return found

    def close(self) -> None:
        for process in self.processes.values():
            process.send_signal(signal.SIGTERM)
        for process in self.processes.values():
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(10)
        self.broker.kill()


def until(true: Callable[[], Any], what: str) -> Any:
    end = time.monotonic() + WAIT_S
    while time.monotonic() < end:
        with contextlib.suppress(EdgeSwarmError, OSError):
            if found := true():
                return found
        time.sleep(0.01)
    raise SystemExit(f"bench: {what} did not come within {WAIT_S:g} s")


def agent_file(key: keys.SigningKey) -> bytes:
    tree = {
        "version": "1.0",
        "name": AGENT,
        "neural_config": {
            "network_type": "feedforward",
            "input_size": 4,
            "output_size": 2,
            "hidden_layers": [8],
            "activation_function": "tanh",
        },
        "wiring": {"sources": [{"type": "api", "width": 4}]},
    }
    from edgeswarm.model import random_mlp

    return builder.build(tree, random_mlp((4, 8, 2), activation="tanh", seed=1), key=key)


def kills(cell: Cell, count: int) -> list[float]:
    """Milliseconds from SIGKILL to the agent running on another device."""
    took = []
    for _ in range(count):
        home = until(lambda: _home(cell, cell.states), "the agent")
        others = [device for device in cell.states if device != home]
        until(lambda: all(cell.ask(device, "status")["leader"] for device in cell.states), "a whole cell")
        time.sleep(0.5)
        at = time.time()
        cell.processes[home].kill()
        cell.processes[home].wait()
        runs = until(lambda: [e for d in others for e in cell.events(d, "cell_agent_runs", at)], "the agent elsewhere")  # noqa: B023
        took.append((min(runs) - at) * 1000)
        cell.start(home)
    return took


def _home(cell: Cell, devices: Any) -> str | None:
    for device in devices:
        if AGENT in cell.ask(device, "status")["agents"]:
            return str(device)
    return None


@contextlib.contextmanager
def flood(port: int) -> Iterator[list[float]]:
    """Two clients that publish as fast as the broker takes it; afterwards the list holds messages a second, of each."""
    command = [sys.executable, "-c", FLOOD, str(port)]
    floods = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    began, rates = time.monotonic(), list[float]()
    time.sleep(1.5)
    try:
        yield rates
    finally:
        for process in floods:
            process.kill()
            said = process.communicate()[0].split()
            rates.append(int(said[-1]) / (time.monotonic() - began) if said else 0.0)


def stops(cell: Cell, count: int) -> list[float]:
    """Milliseconds from giving the order to one device until the last device obeys."""
    operator, _ = keys.load_or_make(cell.folder / "fleet" / "fleet" / "operator.key")
    took = []
    device = next(iter(cell.states))
    for number in range(2 * count):
        make = msg.SafetyResume if number % 2 else msg.SafetyStop
        now = cell.ask(device, "order")
        data = msg.seal_order(
            make(number=now["number"] + 1, reason="bench"),
            fleet=now["fleet"],
            cell=now["cell"],
            public=operator.public,
            sign=cose.signer(operator.seed),
        )
        at = time.time()
        cell.ask(device, "order", data=data)
        event = "safety_resume" if number % 2 else "safety_stop"
        seen = until(lambda: _all_events(cell, event, at), f"{event} on every device")  # noqa: B023
        if not number % 2:
            took.append((max(seen) - at) * 1000)
        time.sleep(0.2)
    return took


def _all_events(cell: Cell, event: str, after: float) -> list[float] | None:
    found = [cell.events(device, event, after) for device in cell.states]
    return [times[0] for times in found] if all(found) else None


def rss_mb(cell: Cell) -> list[float]:
    import psutil

    return [psutil.Process(process.pid).memory_info().rss / 1e6 for process in cell.processes.values()]


def row(name: str, values: list[float], mark: str) -> str:
    ordered = sorted(values)
    p99 = ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))]
    return f"{name:<58}{statistics.median(values):8.0f}{p99:8.0f}{ordered[-1]:8.0f}{len(values):6d}   {mark}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--stops", type=int, default=20)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="es-bench-") as name:
        cell = Cell(Path(name))
        try:
            key, _ = keys.load_or_make(cell.folder / "fleet" / "fleet" / "publisher.key")
            time.sleep(3)
            idle = rss_mb(cell)
            cell.ask("d1", "place", data=agent_file(key), who="watch.af")
            moved = kills(cell, options.kills)
            until(lambda: all(cell.ask(device, "status")["leader"] for device in cell.states), "a whole cell")
            with flood(cell.broker.port) as rates:
                stopped = stops(cell, options.stops)
        finally:
            cell.close()
    if options.json:
        print(json.dumps({"moved_ms": moved, "stopped_ms": stopped, "flood_per_s": rates, "rss_mb": idle}))
        return
    print(f"{'ms':<58}{'p50':>8}{'p99':>8}{'max':>8}{'n':>6}   mark")
    print(row("kill -9 of a device until its agent runs elsewhere", moved, "p50 <= 2000"))
    print(row("safety stop until all 5 obey, broker flooded with LOW", stopped, "p99 <= 1000"))
    print(f"  the flood: {rates[0]:.0f} and {rates[1]:.0f} messages/s of 256 bytes")
    print(row("supervisor with swarm on, idle, RSS in MB", idle, "<= 70"))


if __name__ == "__main__":
    main()
