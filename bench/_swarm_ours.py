"""Our cell: daemons as processes of their own on one mosquitto, timing profile `lan`.

Writes are `note` commands of 256 bytes, proposed in the leader's own process as the cell's own duties are; `remote` has
a follower's process propose them, which is what any other device's program sees.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from _swarm_cluster import ROOT, MissingError, PipeCluster, free_ports, wait_for

MEMBER = Path(__file__).with_name("_swarm_ours_member.py")


def mosquitto() -> str:
    found = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin")
    if found is None:
        raise MissingError("mosquitto is not here; apt-get install mosquitto")
    return found


class Broker:
    """One mosquitto with the configuration that `edgeswarm broker` writes; its port survives restarts."""

    def __init__(self, folder: Path) -> None:
        self._program = mosquitto()
        self.port = free_ports(1)[0]
        self._config = folder / "mosquitto.conf"
        sys.path.insert(0, str(ROOT))
        from edgeswarm.drivers.broker_config import BrokerOptions, mosquitto_config

        user = "root" if os.geteuid() == 0 else None
        self._config.write_text(mosquitto_config(BrokerOptions(port=self.port), folder, user=user))
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen(
            [self._program, "-c", str(self._config)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )

    def kill(self) -> float:
        at = time.perf_counter()
        self.process.kill()
        self.process.wait()
        return at


class Ours(PipeCluster):
    """remote: the load comes from a follower."""

    has_broker = True

    def __init__(self, *, remote: bool = False, timing: str = "lan") -> None:
        mosquitto()
        super().__init__()
        self.name = f"ours, {timing}" + (", written by a follower" if remote else "")
        self._remote = remote
        self._timing = timing

    def make(self, members: int, url: str) -> list[Path]:
        """The state directories of a cell whose members all vote."""
        from edgeswarm.app.swarm.dev import init_dev

        _, states = init_dev(self.folder / "cell", members, brokers=(url,), timing=self._timing, voters=members)
        return list(states.values())

    def start(self, members: int) -> None:
        self.broker = Broker(self.folder)
        self._states = self.make(members, f"mqtt://127.0.0.1:{self.broker.port}")
        for member in range(members):
            self.spawn(member)
        wait_for(self.name, lambda: self.leader() is not None)
        wait_for(self.name, self.is_whole)

    def spawn(self, member: int) -> None:
        self.popen(member, [sys.executable, str(MEMBER), str(self._states[member])], pipes=True)

    def leader(self) -> int | None:
        found = self.statuses()
        return next((member for member, status in found.items() if status["leads"]), None)

    def is_whole(self) -> bool:
        found = self.statuses().values()
        indexes = [status["index"] for status in found]
        led = {status["leader"] for status in found}
        known = all(status["devices"] == len(self.processes) for status in found)
        return len(led) == 1 and led != {None} and max(indexes) - min(indexes) < 100 and known

    def writer(self) -> int:
        leader = self.leader()
        assert leader is not None
        return next(member for member in self.processes if member != leader) if self._remote else leader

    def restart_broker(self) -> float:
        at = self.broker.kill()
        self.broker.start()
        return at

    def cpu_s(self) -> float:
        import psutil

        times = psutil.Process(self.broker.process.pid).cpu_times()
        return super().cpu_s() + times.user + times.system

    def close(self) -> None:
        if hasattr(self, "broker"):
            self.broker.kill()
        super().close()
