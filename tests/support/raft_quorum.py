"""Quorums drawn as the tables of etcd's quorum data, and a slow way to compute what they commit."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from edgeswarm.core.raft.quorum import INDEX_ALL


def committed_slowly(ids: Collection[int], acked: Mapping[int, int]) -> int:
    """The highest acknowledged index that more than half of `ids` have: tried one after the other."""
    if not ids:
        return INDEX_ALL
    reached = [index for index in acked.values() if 2 * sum(acked.get(voter, 0) >= index for voter in ids) > len(ids)]
    return max(reached, default=0)


def describe(ids: Collection[int], acked: Mapping[int, int]) -> str:
    """A table: a line a voter, with a bar as long as the number of voters that have less."""
    if not ids:
        return "<empty majority quorum>"
    count = len(ids)
    rows = [f"{'':{count}}    idx\n"]
    for voter in sorted(ids):
        if voter in acked:
            behind = sum(acked.get(other, 0) < acked[voter] for other in ids)
            bar = f"{'x' * behind}>{'':{count - behind}}"
        else:
            bar = f"?{'':{count}}"
        rows.append(f"{bar} {acked.get(voter, 0):5}    (id={voter})\n")
    return "".join(rows)


def index_text(index: int) -> str:
    """As the data writes it."""
    return "∞" if index == INDEX_ALL else str(index)
