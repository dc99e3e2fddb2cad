"""The replicated state of a cell."""

from __future__ import annotations

from edgeswarm.core.cell.changes import Change
from edgeswarm.core.cell.commands import VERSION_LATEST
from edgeswarm.core.cell.types import AgentState, AuditRecord, DeviceState, JobState, Roster, StopFlag


class CellState:
    """Everything that the devices of a cell agree on.  Read the fields; only `apply` changes them.

    supported: the highest feature version that this program applies (tests lower it).
    """

    def __init__(self, *, supported: int = VERSION_LATEST) -> None:
        self.supported = supported
        self.version = 1
        self.index = 0
        self.term = 0
        self.roster = Roster()
        self.devices: dict[str, DeviceState] = {}
        self.agents: dict[str, AgentState] = {}
        self.jobs: dict[str, JobState] = {}
        self.stop: StopFlag | None = None
        self.audit: list[AuditRecord] = []
        self.ready: dict[tuple[str, int], None] = {}
        self.assigned: dict[tuple[str, int], None] = {}

    def apply(self, index: int, term: int, data: bytes) -> list[Change]:
        """What the command in `data` comes to.  Total: bytes that are no command are a Rejected change."""
        raise RuntimeError("being written")

    def agents_on(self, device: str) -> tuple[str, ...]:
        """Ids of the agents placed on a device, sorted."""
        raise RuntimeError("being written")

    def to_snapshot(self) -> bytes:
        """CBOR [format, sha256, body]; equal states have equal snapshots."""
        raise RuntimeError("being written")

    @classmethod
    def from_snapshot(cls, data: bytes, *, supported: int = VERSION_LATEST, who: str = "snapshot") -> CellState:
        """Raises CodecError with `who` when hash, version, bounds or links do not hold."""
        raise RuntimeError("being written")
