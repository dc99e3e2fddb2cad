"""pysyncobj from PyPI, in a venv of its own; its client is a member's own process, as it is meant to be used."""

from __future__ import annotations

import subprocess
from pathlib import Path

from _swarm_cluster import PEERS, MissingError, PipeCluster, free_ports, wait_for

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


class PySyncObj(PipeCluster):
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

    def leader(self) -> int | None:
        found = self.statuses()
        return next((member for member, status in found.items() if status["leader"] == status["self"]), None)

    def is_whole(self) -> bool:
        found = list(self.statuses().values())
        commits = [status["commit"] for status in found]
        led = {status["leader"] for status in found}
        return (
            len(led) == 1 and led != {"None"} and all(s["ready"] for s in found) and max(commits) - min(commits) < 100
        )
