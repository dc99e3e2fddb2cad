"""Changes of members: etcd's own data, the laws they keep, and their encoding."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from raft_datadriven import Command, data_files, first_difference, no_data, parse_file
from raft_members import changes_from_text

from edgeswarm.core.raft.confchange import (
    Changer,
    ConfChange,
    ConfChangeError,
    ConfChangeSingle,
    ConfChangeType,
    ConfChangeV2,
    Transition,
    check_invariants,
    conf_states_equal,
    decode_entry,
    restore,
)
from edgeswarm.core.raft.tracker import ProgressTracker, TrackerConfig
from edgeswarm.errors import CodecError, LimitError
from edgeswarm.limits import RAFT_CHANGE_CONTEXT_BYTES_MAX, RAFT_CHANGES_MAX, RAFT_NUMBER_MAX
from edgeswarm.wire.codec import dumps
from edgeswarm.wire.raft import ConfState, EntryType

FILES = data_files("confchange")

V, R, U, L = (
    ConfChangeType.ADD_NODE,
    ConfChangeType.REMOVE_NODE,
    ConfChangeType.UPDATE_NODE,
    ConfChangeType.ADD_LEARNER_NODE,
)
singles = st.builds(ConfChangeSingle, st.sampled_from(ConfChangeType), st.integers(min_value=0, max_value=6))


# --- etcd's data ----------------------------------------------------------------------------------------------------


def _run(command: Command, tracker: ProgressTracker, last_index: int) -> str:
    changer = Changer(tracker, last_index)
    changes = changes_from_text(" ".join(command.input))
    try:
        match command.name:
            case "simple":
                members = changer.simple(changes)
            case "enter-joint":
                members = changer.enter_joint(command.args.get("autoleave") == ("true",), changes)
            case "leave-joint":
                members = changer.leave_joint()
            case name:
                raise AssertionError(f"{command.where}: unknown command {name}")
    except ConfChangeError as error:
        return f"{error}\n"
    tracker.install(*members)
    return f"{tracker.config}\n{tracker}"


@pytest.mark.skipif(not FILES, reason=no_data("confchange"))
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_etcd_confchange_data_comes_out_exactly(path: Path) -> None:
    """The end of the log moves on by one with every command, as `next` of a newcomer shows."""
    tracker = ProgressTracker(max_inflight=10)
    commands = parse_file(path)
    assert commands
    for last_index, command in enumerate(commands):
        found = _run(command, tracker, last_index).removesuffix("\n").split("\n")
        difference = "\n".join(first_difference(command.expected, found))
        assert tuple(found) == command.expected, f"{command.where}\n{difference}"


# --- laws -----------------------------------------------------------------------------------------------------------


def _tracker() -> ProgressTracker:
    return ProgressTracker(max_inflight=16)


changes_v2 = st.builds(
    ConfChangeV2, st.lists(singles, max_size=6).map(tuple), st.sampled_from(Transition), st.binary(max_size=8)
)


@given(st.lists(changes_v2, max_size=12))
def test_random_changes_keep_the_invariants(history: list[ConfChangeV2]) -> None:
    """Whatever is refused changes nothing; whatever is taken moves one voter at most, or goes through both halves."""
    tracker = _tracker()
    tracker.install(*Changer(tracker, 5).simple([ConfChangeSingle(V, 1)]))
    for change in history:
        before, text = tracker.config, str(tracker)
        try:
            config, progress = Changer(tracker, 5).apply(change)
        except ConfChangeError:
            assert (tracker.config, str(tracker)) == (before, text)
            continue
        check_invariants(config, progress)
        assert config.voters_incoming
        if not before.joint and not config.joint:
            assert len(set(before.voters_incoming) ^ set(config.voters_incoming)) <= 1
        if config.joint:
            assert not before.joint
            assert config.voters_outgoing == before.voters_incoming
        tracker.install(config, progress)


numbers = st.integers(min_value=1, max_value=12)


@st.composite
def conf_states(draw: st.DrawFn) -> ConfState:
    """Any configuration that changes can lead to, its numbers in any order."""
    members = draw(st.lists(numbers, unique=True, min_size=1))
    voters = draw(st.integers(min_value=1, max_value=len(members)))
    incoming, learners = members[:voters], members[voters:]
    outgoing = draw(st.lists(numbers.filter(lambda n: n not in learners), unique=True, max_size=5))
    waiting = (
        draw(st.lists(st.sampled_from([n for n in outgoing if n not in incoming]), unique=True))
        if set(outgoing) - set(incoming)
        else []
    )
    return ConfState(
        tuple(incoming), tuple(outgoing), tuple(learners), tuple(waiting), bool(outgoing) and draw(st.booleans())
    )


@given(conf_states())
def test_restore_gives_back_the_configuration(state: ConfState) -> None:
    tracker = _tracker()
    config, progress = restore(Changer(tracker, 20), state)
    assert conf_states_equal(tracker.conf_state(), state)
    assert (tracker.config, tracker.progress) == (config, progress)
    check_invariants(config, progress)


@given(conf_states())
def test_restored_configuration_goes_on_like_the_first(state: ConfState) -> None:
    """What a restored member computes from the next change is what everybody else computes."""
    first, second = _tracker(), _tracker()
    restore(Changer(first, 20), state)
    restore(Changer(second, 20), first.conf_state())
    for one in (first, second):
        if one.config.joint:
            one.install(*Changer(one, 20).leave_joint())
    assert first.config == second.config
    assert str(first) == str(second)


@pytest.mark.parametrize(
    "state",
    [
        ConfState(voters=(1,), learners=(1,)),
        ConfState(voters=(1,), learners_next=(2,)),
        ConfState(voters=(), learners=(2,)),
        ConfState(voters=(1,), auto_leave=True),
        ConfState(voters=(1, 1)),
        ConfState(voters=(1, 0)),
        ConfState(voters=(2,), voters_outgoing=(1,), learners=(1,)),
        ConfState(voters=(), voters_outgoing=(1,)),
    ],
    ids=str,
)
def test_restore_refuses_what_no_change_leads_to(state: ConfState) -> None:
    with pytest.raises(ConfChangeError):
        restore(Changer(_tracker(), 20), state)


def test_restore_wants_an_empty_tracker() -> None:
    tracker = _tracker()
    restore(Changer(tracker, 1), ConfState(voters=(1,)))
    with pytest.raises(ConfChangeError, match="without members"):
        restore(Changer(tracker, 1), ConfState(voters=(1,)))


def test_an_inconsistent_configuration_is_refused_with_every_fault() -> None:
    tracker = _tracker()
    one = tracker.new_progress(next_index=1, is_learner=False)
    with pytest.raises(ConfChangeError) as caught:
        check_invariants(
            TrackerConfig(voters_incoming=(1, 2), learners=(1,), learners_next=(3,), auto_leave=True), {1: one, 9: one}
        )
    text = str(caught.value)
    for fault in (
        "2 is a member without progress",
        "3 is a member without progress",
        "9 has progress but is no member",
        "1 is a learner and a voter of the incoming half",
        "3 waits to become a learner but is no voter",
        "1 is a learner whose progress says voter",
        "learners_next must be empty",
        "auto_leave must be off",
    ):
        assert fault in text


# --- which way a change goes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "transition", "enter", "leave"),
    [
        ("", Transition.AUTO, (False, False), True),
        ("v1", Transition.AUTO, (False, False), False),
        ("v1 r2", Transition.AUTO, (True, True), False),
        ("v1", Transition.JOINT_IMPLICIT, (True, True), False),
        ("v1", Transition.JOINT_EXPLICIT, (False, True), False),
        ("", Transition.JOINT_EXPLICIT, (False, True), False),
        ("v1 r2", Transition.JOINT_EXPLICIT, (False, True), False),
    ],
)
def test_a_change_goes_through_a_joint_configuration_only_if_it_must(
    text: str, transition: Transition, enter: tuple[bool, bool], leave: bool
) -> None:
    change = ConfChangeV2(tuple(changes_from_text(text)), transition, b"ctx")
    assert (change.enter_joint(), change.leave_joint()) == (enter, leave)


# --- encoding -------------------------------------------------------------------------------------------------------


@given(changes_v2)
def test_second_form_round_trips(change: ConfChangeV2) -> None:
    assert ConfChangeV2.decode(change.encode()) == change
    assert decode_entry(*change.entry()) == change


@given(st.sampled_from(ConfChangeType), st.integers(min_value=0, max_value=RAFT_NUMBER_MAX), st.binary(max_size=8))
def test_first_form_round_trips_and_is_one_change_of_the_second(
    type_: ConfChangeType, number: int, context: bytes
) -> None:
    change = ConfChange(type_, number, context)
    assert ConfChange.decode(change.encode()) == decode_entry(*change.entry()) == change
    assert change.as_v2() == ConfChangeV2((ConfChangeSingle(type_, number),), context=context)
    assert str(change) == str(change.as_v2())


def test_the_change_that_leaves_a_joint_configuration_is_no_bytes() -> None:
    assert ConfChangeV2().entry() == (EntryType.CONF_CHANGE_V2, b"")
    assert ConfChangeV2.decode(b"") == ConfChangeV2()


@given(st.binary(max_size=40))
def test_any_bytes_are_a_change_or_a_codec_error(data: bytes) -> None:
    for type_ in (EntryType.CONF_CHANGE, EntryType.CONF_CHANGE_V2):
        try:
            change = decode_entry(type_, data)
        except CodecError:
            continue
        assert change.encode() == data


@pytest.mark.parametrize(
    "value",
    [
        [],
        [0, [], b"", 1],
        [3, [], b""],
        [True, [], b""],
        [0, [], b""],
        [0, [[4, 1]], b""],
        [0, [[0, -1]], b""],
        [0, [[0, RAFT_NUMBER_MAX + 1]], b""],
        [0, [[0, True]], b""],
        [0, [[0]], b""],
        [0, [[0, 1]], "text"],
        [0, [[0, 1]] * (RAFT_CHANGES_MAX + 1), b""],
        [0, [[0, 1]], bytes(RAFT_CHANGE_CONTEXT_BYTES_MAX + 1)],
        {"a": 1},
    ],
    ids=lambda value: str(value)[:30],
)
def test_malformed_changes_are_refused(value: object) -> None:
    with pytest.raises(CodecError, match="change of members"):
        ConfChangeV2.decode(dumps(value), who="peer")


def test_a_normal_entry_is_no_change() -> None:
    with pytest.raises(CodecError, match="entry type"):
        decode_entry(EntryType.NORMAL, b"")


def test_a_change_past_the_bounds_is_not_encoded() -> None:
    with pytest.raises((ConfChangeError, LimitError)):
        ConfChangeV2((ConfChangeSingle(V, 1),) * (RAFT_CHANGES_MAX + 1)).encode()
    with pytest.raises((ConfChangeError, LimitError)):
        ConfChange(V, 1, bytes(RAFT_CHANGE_CONTEXT_BYTES_MAX + 1)).encode()


def test_changes_read_as_they_are_written() -> None:
    text = "v1 l2 r3 u4"
    assert [one.type for one in changes_from_text(text)] == [V, L, R, U]
    assert str(ConfChangeV2(tuple(changes_from_text(text)))) == text
