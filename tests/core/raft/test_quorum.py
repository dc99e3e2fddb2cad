"""Majorities: etcd's own data, and agreement with a slow way to compute the same."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from raft_datadriven import Command, data_files, first_difference, no_data, parse_file
from raft_quorum import committed_slowly, describe, index_text

from edgeswarm.core.raft.quorum import (
    INDEX_ALL,
    VoteResult,
    joint_committed,
    joint_vote,
    majority_committed,
    majority_vote,
)

FILES = data_files("quorum")

numbers = st.integers(min_value=1, max_value=9)
halves = st.lists(numbers, unique=True, max_size=7).map(tuple)
acks = st.dictionaries(numbers, st.integers(min_value=0, max_value=20))
ballots = st.dictionaries(numbers, st.booleans())


# --- etcd's data ----------------------------------------------------------------------------------------------------


def _half(command: Command, key: str) -> tuple[int, ...]:
    values = command.args.get(key, ())
    return () if values == ("zero",) else tuple(int(value) for value in values)


def _inputs(command: Command, key: str) -> dict[int, str]:
    """Values given for the voters of both halves, each voter once, in the order they are named; `_` is left out."""
    ids = dict.fromkeys((*_half(command, "cfg"), *_half(command, "cfgj")))
    values = command.args.get(key, ())
    assert len(values) == len(ids), f"{command.where}: {len(ids)} voters, {len(values)} values"
    return {id_: value for id_, value in zip(ids, values, strict=True) if value != "_"}


def _committed(command: Command) -> str:
    incoming, outgoing = _half(command, "cfg"), _half(command, "cfgj")
    acked = {id_: int(value) for id_, value in _inputs(command, "idx").items()}
    if "cfgj" in command.args:
        index = joint_committed(incoming, outgoing, acked)
        assert index == joint_committed(outgoing, incoming, acked)
        assert index == min(committed_slowly(incoming, acked), committed_slowly(outgoing, acked))
    else:
        index = majority_committed(incoming, acked)
        assert index == committed_slowly(incoming, acked)
        assert index == joint_committed(incoming, (), acked) == joint_committed(incoming, incoming, acked)
    return describe({*incoming, *outgoing}, acked) + index_text(index)


def _vote(command: Command) -> str:
    incoming, outgoing = _half(command, "cfg"), _half(command, "cfgj")
    votes = {id_: value == "y" for id_, value in _inputs(command, "votes").items()}
    if "cfgj" in command.args:
        result = joint_vote(incoming, outgoing, votes)
        assert result == joint_vote(outgoing, incoming, votes)
    else:
        result = majority_vote(incoming, votes)
        assert result == joint_vote(incoming, (), votes) == joint_vote(incoming, incoming, votes)
    return str(result)


@pytest.mark.skipif(not FILES, reason=no_data("quorum"))
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_etcd_quorum_data_comes_out_exactly(path: Path) -> None:
    commands = parse_file(path)
    assert commands
    for command in commands:
        found = {"committed": _committed, "vote": _vote}[command.name](command).split("\n")
        difference = "\n".join(first_difference(command.expected, found))
        assert tuple(found) == command.expected, f"{command.where}\n{difference}"


# --- laws -----------------------------------------------------------------------------------------------------------


@given(halves, acks)
def test_quick_and_slow_ways_agree(ids: tuple[int, ...], acked: dict[int, int]) -> None:
    assert majority_committed(ids, acked) == committed_slowly(ids, {**dict.fromkeys(ids, 0), **acked})


@given(halves, halves, acks)
def test_joint_commits_what_both_halves_commit(
    incoming: tuple[int, ...], outgoing: tuple[int, ...], acked: dict[int, int]
) -> None:
    both = joint_committed(incoming, outgoing, acked)
    assert both == min(majority_committed(incoming, acked), majority_committed(outgoing, acked))
    assert both == joint_committed(outgoing, incoming, acked)


@given(halves, acks, numbers)
def test_more_acknowledgements_never_commit_less(ids: tuple[int, ...], acked: dict[int, int], voter: int) -> None:
    more = {**acked, voter: acked.get(voter, 0) + 1}
    assert majority_committed(ids, more) >= majority_committed(ids, acked)


@given(halves, ballots)
def test_vote_is_final_once_it_is_won_or_lost(ids: tuple[int, ...], votes: dict[int, bool]) -> None:
    result = majority_vote(ids, votes)
    missing = [id_ for id_ in ids if id_ not in votes]
    all_yes = majority_vote(ids, {**votes, **dict.fromkeys(missing, True)})
    all_no = majority_vote(ids, {**votes, **dict.fromkeys(missing, False)})
    if result == VoteResult.PENDING:
        assert (all_yes, all_no) == (VoteResult.WON, VoteResult.LOST)
    else:
        assert all_yes == all_no == result


@given(halves, halves, ballots)
def test_joint_vote_needs_both_halves(
    incoming: tuple[int, ...], outgoing: tuple[int, ...], votes: dict[int, bool]
) -> None:
    halves_ = {majority_vote(incoming, votes), majority_vote(outgoing, votes)}
    result = joint_vote(incoming, outgoing, votes)
    assert (result == VoteResult.WON) == (halves_ == {VoteResult.WON})
    assert (result == VoteResult.LOST) == (VoteResult.LOST in halves_)


def test_nobody_commits_everything_and_wins_every_vote() -> None:
    assert majority_committed((), {1: 5}) == joint_committed((), (), {}) == INDEX_ALL
    assert majority_vote((), {}) == joint_vote((), (), {}) == VoteResult.WON


def test_votes_of_strangers_do_not_count() -> None:
    assert majority_vote((1, 2, 3), {1: True, 8: True, 9: True}) == VoteResult.PENDING
