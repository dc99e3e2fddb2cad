"""The disk that is kept for each agent: its account, its volumes, and what is found of them at a start.

Everything that is written on an agent's behalf is claimed here first: lines of its file sinks, checkpoints, weights
that were swapped in, frames that nobody could answer, compiled code.  Its agent file is the operator's and does not
count.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Final

from edgeswarm.agentfile.wiring import JsonlSink
from edgeswarm.agentfile.wiring import Sink as SinkSpec
from edgeswarm.app.config import Settings
from edgeswarm.drivers import volumes
from edgeswarm.drivers.quota import (
    AGENT_DATA,
    COORDINATOR_VOLUMES,
    MODEL_CACHE,
    TEMP_WORKSPACE,
    Account,
    Quota,
)
from edgeswarm.drivers.volumes import Volume
from edgeswarm.ids import AgentName

CHECKPOINT: Final = "checkpoint"
WEIGHTS: Final = "weights"
FRAMES: Final = "frames set aside"
CODE: Final = "code"
_COUNT_S: Final = 10.0


class Space:
    """Quotas by agent.  All calls are on the loop."""

    def __init__(self, settings: Settings) -> None:
        self._state = settings.state_dir
        self._quotas: dict[AgentName, Quota] = {}
        self._counted: tuple[float, dict[str, dict[str, int]] | None] = (-_COUNT_S, None)

    def of(self, name: AgentName, limit_bytes: int) -> Quota:
        """The account of an agent; what lies on the disk is counted when it is asked for first."""
        quota = self._quotas.get(name)
        if quota is None:
            quota = self._quotas[name] = Quota(f"agent {name}", limit_bytes)
            for key in (CHECKPOINT, WEIGHTS):
                self.recount(name, key)
            for volume in volumes.FOLDERS:
                if (self.folder(name) / volume).exists():
                    Volume(self.folder(name) / volume, volume, quota).open()
        quota.limit_bytes = limit_bytes
        return quota

    def recount(self, name: AgentName, key: str) -> None:
        """CHECKPOINT or WEIGHTS, as it is on disk: what was claimed for it may not have been written."""
        if name in self._quotas:
            self._quotas[name].found(AGENT_DATA, key, _size(self._state / "agents" / f"{name}.{key}"))

    def folder(self, name: AgentName) -> Path:
        return self._state / "volumes" / name

    def begin(self, name: AgentName, limit_bytes: int) -> None:
        """The agent starts: its temp_workspace is emptied.  Raises VolumeError, OSError."""
        quota = self.of(name, limit_bytes)
        if (self.folder(name) / TEMP_WORKSPACE).exists():
            for found in Volume(self.folder(name) / TEMP_WORKSPACE, TEMP_WORKSPACE, quota).names():
                quota.found(TEMP_WORKSPACE, found, 0)
            Volume(self.folder(name) / TEMP_WORKSPACE, TEMP_WORKSPACE, quota).open(emptied=True)

    def place(self, name: AgentName, spec: SinkSpec, quota: Quota) -> tuple[Path, Account | None]:
        """Where a sink's relative path starts, and the account of its files; the volume it names is made.

        Raises VolumeError, OSError.
        """
        if not isinstance(spec, JsonlSink):
            return self._state, None
        found = volumes.split(spec.path)
        if found is None:
            folder = (self._state / spec.path).parent
            return self._state, Account(quota, AGENT_DATA, f"{folder}/")
        volume, _ = found
        Volume(self.folder(name) / volume, volume, quota).open()
        return self.folder(name), Account(quota, volume)

    def coordinator(self, quota_bytes: int, now_s: float) -> dict[str, dict[str, int]] | None:
        """What this device keeps as a member of a cell, by volume, counted every _COUNT_S at most; None: it is in none.

        Shown here, bounded where it is written: artefacts by their store's quota, the rest by the bounds of Raft's
        store and the offline queue.
        """
        if now_s - self._counted[0] >= _COUNT_S:
            swarm = self._state / "swarm"
            sizes = (_tree_bytes(swarm / "artefacts"), _tree_bytes(swarm, but="artefacts"))
            rows = {
                volume: {"used_bytes": used, "quota_bytes": quota_bytes}
                for volume, used in zip(COORDINATOR_VOLUMES, sizes, strict=True)
            }
            self._counted = (now_s, rows if swarm.is_dir() else None)
        return self._counted[1]

    def forget(self, name: AgentName) -> None:
        """The agent is removed: its volumes go with it."""
        self._quotas.pop(name, None)
        shutil.rmtree(self.folder(name), ignore_errors=True)  # a link in its place is left, and what it leads to

    def code(self, name: AgentName, limit_bytes: int, size_bytes: int) -> None:
        """Its compiled code is kept.  Raises QuotaError."""
        self.of(name, limit_bytes).claim(MODEL_CACHE, CODE, size_bytes)


def _tree_bytes(folder: Path, *, but: str = "") -> int:
    """Regular files below a folder, but not those of the folder `but` in it; links are not followed."""
    total = 0
    for path, folders, files in os.walk(folder):
        if path == str(folder) and but in folders:
            folders.remove(but)
        total += sum(_size(Path(path, name)) for name in files if not os.path.islink(os.path.join(path, name)))
    return total


def _size(path: Path) -> int:
    try:
        return path.lstat().st_size
    except OSError:
        return 0
