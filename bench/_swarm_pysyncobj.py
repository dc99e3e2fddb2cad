"""pysyncobj from PyPI, in a venv of its own; its client is a member's own process, as it is meant to be used."""

from __future__ import annotations

import json
import select
import subprocess
import time
from pathlib import Path
from typing import Any

from _swarm_cluster import PEERS, Cluster, MissingError, free_ports, wait_for

MEMBER = Path(__file__).with_name("_swarm_pysyncobj_member.py")
PYTHON = PEERS / "venv" / "bin" / "python"


def version() -> str:
    try:
        return subprocess.run(
            [PYTHON, "-c", "from importlib.metadata import version as v; print(v('pysyncobj'))"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        raise MissingError(f"pysyncobj is not in {PEERS}/venv; `make bench` installs it") from None


class PySyncObj(Cluster):
    """timing: default, or tuned (see the member)."""

    def __init__(self, timing: str = "default") -> None:
        found = version()
        super().__init__()
        self.name = f"pysyncobj {found}, {timing}"
        self.note = "its journal is not synced for each commit"
        self._timing = timing

    def start(self, members: int) -> None:
        self._addresses = [f"127.0.0.1:{port}" for port in free_ports(members)]
        for member in range(members):
            self.spawn(member)
        wait_for(self.name, lambda: self.leader() is not None)
        wait_for(self.name, self.is_whole)

    def spawn(self, member: int) -> None:
        others = [address for number, address in enumerate(self._addresses) if number != member]
        own = self._addresses[member]
        self.popen(
            member, [str(PYTHON), str(MEMBER), own, str(self.folder / "data"), self._timing, *others], pipes=True
        )

    def _tell(self, member: int, command: dict[str, Any]) -> None:
        stdin = self.processes[member].stdin
        assert stdin is not None
        stdin.write(json.dumps(command).encode() + b"\n")
        stdin.flush()

    def _ask(self, member: int, command: dict[str, Any], timeout_s: float = 60.0) -> Any:
        self._tell(member, command)
        stdout = self.processes[member].stdout
        assert stdout is not None
        ready, _, _ = select.select([stdout], [], [], timeout_s)
        if not ready:
            raise TimeoutError(f"{self.name}: member {member} does not answer")
        return json.loads(stdout.readline())

    def leader(self) -> int | None:
        for member in self.processes:
            status = self._ask(member, {"op": "status"})
            if status["leader"] == status["self"]:
                return member
        return None

    def is_whole(self) -> bool:
        found = [self._ask(member, {"op": "status"}) for member in self.processes]
        commits = [status["commit"] for status in found]
        led = {status["leader"] for status in found}
        return (
            len(led) == 1 and led != {"None"} and all(s["ready"] for s in found) and max(commits) - min(commits) < 100
        )

    def load(self, *, in_flight: int, seconds: float, rate: float = 0.0) -> list[float]:
        leader = self.leader()
        assert leader is not None
        command = {"op": "load", "in_flight": in_flight, "seconds": seconds, "rate": rate}
        found: list[float] = self._ask(leader, command, seconds + 30)
        return found

    def first_write(self, killed: int, since: float, seconds: float = 20.0) -> float:
        rest = [member for member in self.processes if member != killed]
        outs = {self.processes[member].stdout: member for member in rest}
        for member in rest:
            self._tell(member, {"op": "first"})
        found: list[float] = []
        until = time.perf_counter() + seconds
        while outs and time.perf_counter() < until:
            ready, _, _ = select.select(list(outs), [], [], 0.05)
            for out in ready:
                assert out is not None
                at = json.loads(out.readline())["at"]
                del outs[out]
                if at is not None and at > since:
                    found.append(at)
                for member in rest:
                    self._tell(member, {"op": "stop"})
        if not found:
            raise TimeoutError(f"{self.name}: no write within {seconds:g} s")
        return (min(found) - since) * 1000
