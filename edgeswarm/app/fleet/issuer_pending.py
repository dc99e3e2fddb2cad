"""Requests that wait for a person: FLEET/controller/pending/<id>.cbor, one a device and token, bounded.

A file is whole or not there; one that does not read is told and passed over.  Decides nothing about who may join.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final

from edgeswarm.app.log import Log
from edgeswarm.drivers.files import write_whole
from edgeswarm.errors import CodecError, EdgeSwarmError, LimitError
from edgeswarm.limits import JOIN_PENDING_MAX, JOIN_PENDING_S_MAX, JOIN_PENDING_SPARE, JOIN_REQUEST_BYTES_MAX
from edgeswarm.wire import codec
from edgeswarm.wire.join import Inventory, Request
from edgeswarm.wire.join_form import inventory_of, inventory_tree

ID: Final = re.compile(r"[0-9a-f]{12}")


def pending_id(token: str, public: bytes) -> str:
    return hashlib.sha256(token.encode() + public).hexdigest()[:12]


@dataclass(frozen=True, slots=True)
class Waiting:
    """A device that asked.  denied: why a person said no, "" while nobody has."""

    id: str
    token: str
    device: str
    public: bytes
    role: str
    at_s: int
    inventory: Inventory
    denied: str = ""

    def row(self) -> dict[str, Any]:
        """For an operator."""
        found = {one.name: getattr(self.inventory, one.name) for one in fields(Inventory)}
        found |= {"delegates": list(self.inventory.delegates), "labels": list(self.inventory.labels)}
        return {
            "id": self.id,
            "token": self.token,
            "device": self.device,
            "key": self.public.hex(),
            "role": self.role,
            "at_s": self.at_s,
            "inventory": found,
        }


class PendingBook:
    """Read at the start, then in memory and on disk alike."""

    def __init__(self, directory: Path, log: Log) -> None:
        self._directory, self._log = directory, log
        self._rows: dict[str, Waiting] = {}
        for path in sorted(directory.glob("*.cbor"))[: 2 * JOIN_PENDING_MAX] if directory.is_dir() else []:
            try:
                row = _decode(path.read_bytes()[: JOIN_REQUEST_BYTES_MAX + 1], path.stem)
                self._rows[row.id] = row
            except (EdgeSwarmError, OSError) as error:
                log.error("pending_join_damaged", file=str(path), error=str(error))

    def __len__(self) -> int:
        return sum(1 for row in self._rows.values() if not row.denied)

    def get(self, id_: str) -> Waiting | None:
        return self._rows.get(id_)

    def rows(self) -> list[Waiting]:
        """Who waits, the longest first."""
        return sorted((row for row in self._rows.values() if not row.denied), key=lambda row: (row.at_s, row.id))

    def add(self, request: Request, device: str, role: str, now_s: int, *, uses: int = JOIN_PENDING_MAX) -> Waiting:
        """uses: that its token has left.  Raises LimitError where too many wait already, OSError."""
        self._expire(now_s)
        if len(self) >= JOIN_PENDING_MAX:
            raise LimitError(f"JOIN_PENDING_MAX: {JOIN_PENDING_MAX} requests wait for approval already")
        same = sum(row.token == request.token and not row.denied for row in self._rows.values())
        if same >= uses + JOIN_PENDING_SPARE:
            raise LimitError(f"JOIN_PENDING_SPARE: {same} requests wait by that token already, which is good {uses}x")
        id_ = pending_id(request.token, request.public)
        row = Waiting(id_, request.token, device, request.public, role, now_s, request.inventory)
        self._keep(row)
        return row

    def deny(self, row: Waiting, why: str) -> None:
        self._keep(
            Waiting(row.id, row.token, row.device, row.public, row.role, row.at_s, row.inventory, why or "denied")
        )

    def remove(self, id_: str) -> None:
        if self._rows.pop(id_, None) is not None:
            (self._directory / f"{id_}.cbor").unlink(missing_ok=True)

    def _expire(self, now_s: int) -> None:
        """Old ones go; of the denied, also the oldest where there are more than may wait."""
        denied = sorted((row for row in self._rows.values() if row.denied), key=lambda row: row.at_s)
        old = [row for row in self._rows.values() if now_s - row.at_s > JOIN_PENDING_S_MAX]
        for row in [*old, *denied[: max(0, len(denied) - JOIN_PENDING_MAX)]]:
            self.remove(row.id)

    def _keep(self, row: Waiting) -> None:
        tree = [
            "pending", 1, row.token, row.device, row.public, row.role, row.at_s, inventory_tree(row.inventory),
            row.denied,
        ]  # fmt: skip
        write_whole(self._directory / f"{row.id}.cbor", codec.dumps(tree))
        self._rows[row.id] = row


def _decode(data: bytes, id_: str) -> Waiting:
    """Raises CodecError, LimitError."""
    match codec.loads(data, who=f"pending {id_}", bytes_max=JOIN_REQUEST_BYTES_MAX):
        case ["pending", 1, str(token), str(device), bytes(public), str(role), int(at_s), found, str(denied)]:
            row = Waiting(id_, token, device, public, role, at_s, inventory_of(found, "pending"), denied)
        case _:
            raise CodecError("expected [pending, 1, token, device, key, role, at, inventory, denied]", who=id_)
    if pending_id(token, public) != id_:
        raise CodecError("its name is not of its content", who=id_)
    return row
