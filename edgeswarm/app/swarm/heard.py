"""What was heard, kept over a restart of ours: the highest term, and each peer's boot and count of messages.

Otherwise what a peer signed in an earlier boot, or before our restart, could be brought to us once more as new: a
command, an old leader's certificate.  Written at a clean end, soon after a boot or a term that is new, and each
KEEP_S_MAX: what came in the last of those before a power cut may come again once (its boot must be the one that runs).
DIR/swarm/heard: JSON {fleet's first roster, term, {device: [boot, seq]}}.  A file that does not read is left out: it
narrows what is taken, and proves nothing.
"""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

from edgeswarm.drivers.files import write_whole
from edgeswarm.limits import DEVICES_MAX, HEARD_BYTES_MAX, RAFT_NUMBER_MAX

if TYPE_CHECKING:
    from edgeswarm.app.swarm.node import SwarmNode

LOOK_S = 10.0
KEEP_S_MAX = 600.0  # kind to SD cards: 40 KB of a cell of a thousand


class Heard:
    """load, before anything is heard; start and close with its node."""

    def __init__(self, node: SwarmNode) -> None:
        self._node = node
        self._path = node.folder / "heard"
        self._kept: tuple[int, dict[str, int]] = (0, {})
        self._kept_at = 0.0
        self._task: asyncio.Task[None] | None = None

    def load(self) -> None:
        node = self._node
        try:
            with open(self._path, "rb") as file:
                tree = json.loads(file.read(HEARD_BYTES_MAX))
            first, term, senders = tree["first"], tree["term"], tree["senders"]
            if first != node.rosters.first.hash.hex() or not _number(term) or len(senders) > DEVICES_MAX:
                return
            known = {name: (boot, seq) for name, (boot, seq) in senders.items() if _number(boot) and _number(seq)}
        except FileNotFoundError:
            return
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            node.log.warning("heard_not_read", file=str(self._path), error=repr(error)[:200])
            return
        known.pop(node.config.device, None)
        node.post.replay.restore({name: both for name, both in known.items() if node.rosters.lookup(name) is not None})
        node.peer.term_seen = max(node.peer.term_seen, term)

    def start(self) -> None:
        self._kept, self._kept_at = self._now(), asyncio.get_running_loop().time()
        self._task = asyncio.create_task(self._run())

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            await self._keep()

    def _now(self) -> tuple[int, dict[str, int]]:
        """What is written soon when it changes."""
        seen = self._node.post.replay.export()
        return self._node.peer.term_seen, {name: boot for name, (boot, _) in seen.items()}

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(LOOK_S)
            due = asyncio.get_running_loop().time() - self._kept_at > KEEP_S_MAX
            if due or self._now() != self._kept:
                await self._keep()

    async def _keep(self) -> None:
        node = self._node
        self._kept, self._kept_at = self._now(), asyncio.get_running_loop().time()
        senders = {name: both for name, both in sorted(node.post.replay.export().items()) if both[1] >= 0}
        tree = {"first": node.rosters.first.hash.hex(), "term": node.peer.term_seen, "senders": senders}
        try:
            await asyncio.to_thread(write_whole, self._path, json.dumps(tree, separators=(",", ":")).encode())
        except OSError as error:
            node.log.error("heard_not_kept", error=str(error))


def _number(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= RAFT_NUMBER_MAX
