"""The feed's follower: entries of the verified leader only, in order; what the cell has lost is unlearned."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from supervised import until

from edgeswarm.app.log import Log
from edgeswarm.app.swarm.feed import FeedFollower, LeaseKeeper
from edgeswarm.app.swarm.peer import CallError, Leader
from edgeswarm.app.swarm.post import Letter
from edgeswarm.app.swarm.replica import TAG_BYTES, Replica
from edgeswarm.app.swarm.voter import pack_snapshot
from edgeswarm.core.cell import commands as cmd
from edgeswarm.core.cell.state import CellState
from edgeswarm.errors import RemoteError
from edgeswarm.wire import codec
from edgeswarm.wire import messages as msg
from edgeswarm.wire.topics import Topics

TOPICS = Topics("dev", "cell")


def data(text: str) -> bytes:
    return bytes(TAG_BYTES) + cmd.encode(cmd.Note("test", text))


class Follower:
    """d9, which does not vote; d1 leads in term 5, and its log is `log`: (term, data) from index 2 on."""

    def __init__(self) -> None:
        self.log: list[tuple[int, bytes]] = []
        self.base = 1  # of its snapshot
        self.calls: list[str] = []
        self.words: list[tuple[int, int]] = []
        self.handler: Callable[[Letter], None] = lambda letter: None
        self.replica = Replica(CellState(), index=1, term=1)
        post = SimpleNamespace(
            topics=TOPICS, device="d9", transport=SimpleNamespace(unsubscribe=lambda *_: None), on=self._on
        )
        self.peer: Any = SimpleNamespace(leader=Leader("d1", 5, 1, b""), post=post, call=self._call, on_leader=[])
        self.follower = FeedFollower(
            self.peer,
            self.replica,
            LeaseKeeper(self.replica, 1000.0, lambda: None),
            log=Log(stream=None),
            votes=lambda: False,
            on_word=lambda term, commit: self.words.append((term, commit)),
        )

    def _on(self, topic: str, handler: Callable[[Letter], None]) -> None:
        self.handler = handler

    def state_at(self, index: int) -> CellState:
        state = CellState()
        for at, (term, entry) in enumerate(self.log[: index - 1], 2):
            state.apply(at, term, entry[TAG_BYTES:])
        return state

    def term(self, index: int) -> int:
        return 1 if index == 1 else self.log[index - 2][0]

    async def _call(self, device: str, method: str, body: bytes, **_: Any) -> bytes:
        assert device == "d1"
        self.calls.append(method)
        last = len(self.log) + 1
        if method == "snapshot.fetch":
            snapshot = pack_snapshot(1, self.state_at(self.base).to_snapshot())
            _, offset = codec.loads(body)  # type: ignore[misc]
            return codec.dumps(
                [self.base, self.term(self.base), len(snapshot), offset, snapshot[offset : offset + 100]]
            )
        ask = msg.decode(body)
        assert isinstance(ask, msg.FeedFetch)
        if ask.first_index > last:
            return msg.encode(msg.Feed(5, last, self.term(last), (), last, 0))
        if ask.first_index <= self.base:
            raise CallError("compacted", who="d1", code="compacted")
        entries = [msg.FeedEntry(term, 0, entry) for term, entry in self.log[ask.first_index - 2 :]]
        return msg.encode(msg.Feed(5, ask.first_index - 1, self.term(ask.first_index - 1), tuple(entries), last, 0))

    def hears(
        self, previous: int, previous_term: int, entries: list[tuple[int, bytes]], *, by: str = "d1", term: int = 5
    ) -> None:
        rows = tuple(msg.FeedEntry(one, 0, entry) for one, entry in entries)
        feed = msg.Feed(term, previous, previous_term, rows, previous + len(rows), 0)
        self.handler(Letter(TOPICS.parse(TOPICS.feed), by, 1, 1, msg.encode(feed), False))


async def test_entries_of_the_leader_are_applied_once_and_a_gap_is_asked_for() -> None:
    one = Follower()
    one.log = [(5, data(f"note {number}")) for number in range(6)]
    one.hears(1, 1, one.log[:2])
    one.hears(1, 1, one.log[:2])
    assert one.replica.index == 3 and one.words == [(5, 3), (5, 3)]
    one.hears(6, 5, one.log[5:])
    await until(lambda: one.replica.index == 7)
    assert one.replica.state.to_snapshot() == one.state_at(7).to_snapshot()
    await one.follower.close()


async def test_feed_of_who_does_not_lead_and_of_another_term_is_not_taken() -> None:
    one = Follower()
    for by, term in (("d2", 5), ("d1", 4)):
        with pytest.raises(RemoteError, match="does not lead"):
            one.hears(1, 1, [(5, data("lie"))], by=by, term=term)
    one.hears(1, 1, [(6, data("early"))], term=6)
    assert one.replica.index == 1 and not one.words and one.follower.refused == 3


async def test_compacted_entries_come_as_a_snapshot_in_pieces() -> None:
    one = Follower()
    one.log, one.base = [(5, data(f"note {number}")) for number in range(8)], 6
    one.follower.catch_up()
    await until(lambda: one.replica.index == 9)
    assert one.calls.count("snapshot.fetch") > 1
    assert one.replica.state.to_snapshot() == one.state_at(9).to_snapshot()
    await one.follower.close()


@pytest.mark.parametrize("ahead", [1, 4])
async def test_entries_that_the_cell_has_lost_are_unlearned_after_a_recovery(ahead: int) -> None:
    """The recovered leader never had them; its own stand at their place, in a later term."""
    one = Follower()
    one.log = [(1, data("kept"))]
    lost = [(1, data(f"lost {number}")) for number in range(ahead)]
    one.peer.leader = Leader("d1", 1, 1, b"")
    one.hears(1, 1, [*one.log, *lost], term=1)
    assert one.replica.index == 2 + ahead
    one.peer.leader = Leader("d1", 5, 1, b"")
    one.log = [*one.log, (5, data("recovered")), (5, data("after"))]
    one.words.clear()
    one.hears(4, 5, [])
    await until(lambda: one.replica.state.to_snapshot() == one.state_at(4).to_snapshot())
    assert one.replica.index == 4
    one.hears(4, 5, [])
    assert one.words[-1] == (5, 4)
    await one.follower.close()
