"""Decides what a majority, or two majorities at once, have agreed on: a log index, or a vote.

A configuration is a collection of distinct raft numbers.  A joint configuration is two of them, and agrees on what both
halves agree on; the second half is empty outside a change of members.  An empty half agrees to everything: it never
holds the other half back.
Source: Ongaro, "Consensus: Bridging Theory and Practice", 2014, chapters 3 and 4.3.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from enum import IntEnum
from typing import Final

INDEX_ALL: Final = (1 << 64) - 1  # what an empty configuration has committed: every index there can be


class VoteResult(IntEnum):
    """How an election stands; the values are those of etcd's raft, so that logs of both read alike."""

    PENDING = 1  # neither won nor lost: votes are missing that can decide it
    LOST = 2  # a majority can no longer be had
    WON = 3  # a majority said yes

    def __str__(self) -> str:
        return f"Vote{self.name.capitalize()}"


def majority_of_sorted(indexes: Sequence[int]) -> int:
    """The highest index that a majority has reached.  indexes: one a voter, ascending, 1 or more."""
    return indexes[(len(indexes) - 1) >> 1]


def majority_committed(ids: Collection[int], acked: Mapping[int, int]) -> int:
    """The highest index that a majority of `ids` has acknowledged.

    acked: raft number -> index; a voter that is absent has acknowledged 0.  Returns INDEX_ALL for empty `ids`.
    """
    count = len(ids)
    if count == 0:
        return INDEX_ALL
    get = acked.get
    if count == 1:
        (only,) = ids
        return get(only, 0)
    if count == 3:
        first, second, third = ids
        return median(get(first, 0), get(second, 0), get(third, 0))
    return majority_of_sorted(sorted([get(voter, 0) for voter in ids]))


def median(a: int, b: int, c: int) -> int:
    """The middle one of three: what two of three voters have reached."""
    if a < b:
        return b if b < c else (c if a < c else a)
    return a if a < c else (c if b < c else b)


def joint_committed(incoming: Collection[int], outgoing: Collection[int], acked: Mapping[int, int]) -> int:
    """The highest index that both majorities have acknowledged."""
    first = majority_committed(incoming, acked)
    if not outgoing:
        return first
    second = majority_committed(outgoing, acked)
    return first if first < second else second


def majority_vote(ids: Collection[int], votes: Mapping[int, bool]) -> VoteResult:
    """How the vote stands among `ids`.  votes: raft number -> yes or no; votes of others do not count.

    Empty `ids` have won, so that a joint configuration with an empty half is decided by its other half.
    """
    count = len(ids)
    if count == 0:
        return VoteResult.WON
    granted = missing = 0
    for voter in ids:
        vote = votes.get(voter)
        if vote is None:
            missing += 1
        elif vote:
            granted += 1
    needed = (count >> 1) + 1
    if granted >= needed:
        return VoteResult.WON
    if granted + missing >= needed:
        return VoteResult.PENDING
    return VoteResult.LOST


def joint_vote(incoming: Collection[int], outgoing: Collection[int], votes: Mapping[int, bool]) -> VoteResult:
    """Won if both halves have won, lost as soon as one has lost, pending otherwise."""
    first = majority_vote(incoming, votes)
    if not outgoing:
        return first
    second = majority_vote(outgoing, votes)
    if first == second:
        return first
    return VoteResult.LOST if VoteResult.LOST in (first, second) else VoteResult.PENDING
