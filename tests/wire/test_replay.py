"""The replay window: each message of a lane once, nothing from before a restart, nothing grows without bound."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeswarm.limits import REPLAY_WINDOW_SEQS
from edgeswarm.wire.replay import LANES_MAX, REGISTERS_MAX, ReplayError, ReplayWindow


def admitted(window: ReplayWindow, sender: str, boot: int, seq: int, lane: int = 0) -> bool:
    try:
        window.admit(sender, boot, seq, lane=lane)
    except ReplayError:
        return False
    return True


class Dumb:
    """Remembers every message; what the clever one must agree with."""

    def __init__(self) -> None:
        self.boot: dict[str, int] = {}
        self.seen: dict[tuple[str, int], list[int]] = {}

    def admit(self, sender: str, boot: int, seq: int, lane: int) -> bool:
        if boot < self.boot.get(sender, 0):
            return False
        if boot > self.boot.get(sender, 0):
            self.boot[sender] = boot
            self.seen = {key: seqs for key, seqs in self.seen.items() if key[0] != sender}
        seqs = self.seen.setdefault((sender, lane), [])
        if seq in seqs or (seqs and seq <= max(seqs) - REPLAY_WINDOW_SEQS):
            return False
        seqs.append(seq)
        return True


messages = st.tuples(
    st.sampled_from(["a", "b"]), st.integers(0, 2), st.integers(0, 40) | st.integers(1000, 1100), st.integers(0, 1)
)


@given(st.lists(messages, max_size=60))
@settings(max_examples=300, deadline=None)
def test_it_agrees_with_one_that_remembers_everything(stream: list[tuple[str, int, int, int]]) -> None:
    window, dumb = ReplayWindow(), Dumb()
    for message in stream:
        assert admitted(window, *message) == dumb.admit(*message), message


def test_every_order_within_the_window_is_taken_once() -> None:
    window, seqs = ReplayWindow(), list(range(REPLAY_WINDOW_SEQS))
    random.Random(1).shuffle(seqs)
    assert all(admitted(window, "a", 1, seq) for seq in seqs)
    assert not any(admitted(window, "a", 1, seq) for seq in seqs)


def test_each_refusal_says_why() -> None:
    window = ReplayWindow(senders_max=1)
    window.admit("a", 5, 2000)
    for boot, seq, why in [(5, 2000, "replayed"), (5, 976, "too old"), (4, 9999, "old boot")]:
        with pytest.raises(ReplayError) as caught:
            window.admit("a", boot, seq)
        assert (caught.value.why, caught.value.who) == (why, "a")
    window.admit("a", 5, 977)
    with pytest.raises(ReplayError, match="at most 1 senders") as caught:
        window.admit("b", 1, 1)
    assert caught.value.why == "full"


def test_a_slow_lane_is_not_too_old_for_a_fast_one() -> None:
    """Bulk with seq 1 leaves after 5,000 Raft messages; its lane has a window of its own."""
    window = ReplayWindow()
    for seq in range(2, 5000):
        window.admit("a", 1, seq, lane=0)
    window.admit("a", 1, 1, lane=1)
    with pytest.raises(ReplayError, match="was here before"):
        window.admit("a", 1, 1, lane=1)


def test_a_new_boot_starts_anew_and_ends_the_old() -> None:
    window = ReplayWindow()
    window.admit("a", 1, 500)
    window.admit("a", 2, 1)
    assert not admitted(window, "a", 1, 501)
    assert window.boot_of("a") == 2 and window.boot_of("b") is None


def test_a_register_may_come_again_but_not_an_older_one() -> None:
    window = ReplayWindow()
    for seq in (7, 7, 9, 9):
        window.admit_register("a", 1, seq, lane="device/a/status")
    with pytest.raises(ReplayError, match="seq 8 is older than the newest, 9"):
        window.admit_register("a", 1, 8, lane="device/a/status")
    window.admit_register("a", 1, 3, lane="device/a/reported")
    window.admit_register("a", 2, 1, lane="device/a/status")
    with pytest.raises(ReplayError, match="boot 1 is over"):
        window.admit_register("a", 1, 10, lane="device/a/status")


def test_a_restart_of_ours_forgets_nothing_that_was_exported() -> None:
    window = ReplayWindow()
    for sender, boot, seq in [("a", 3, 50), ("a", 3, 49), ("b", 1, 7)]:
        window.admit(sender, boot, seq)
    again = ReplayWindow()
    again.restore(window.export())
    assert again.export() == {"a": (3, 50), "b": (1, 7)}
    for sender, boot, seq in [("a", 3, 50), ("a", 3, 49), ("a", 3, 10), ("a", 2, 999), ("b", 1, 7), ("b", 1, 0)]:
        assert not admitted(again, sender, boot, seq)
        assert not admitted(again, sender, boot, seq, lane=1)
    assert admitted(again, "a", 3, 51) and admitted(again, "b", 2, 0)
    again.admit_register("b", 2, 0, lane=9)  # a retained one of before may come again
    assert not admitted(again, "a", 3, 50)


def test_restore_does_not_go_back() -> None:
    window = ReplayWindow(senders_max=2)
    window.admit("a", 5, 5)
    window.restore({"a": (4, 99), "b": (1, 1), "c": (1, 1)})
    assert window.export() == {"a": (5, 5), "b": (1, 1)}


def test_who_left_the_roster_is_forgotten() -> None:
    window = ReplayWindow()
    for sender in "abc":
        window.admit(sender, 1, 1)
    window.keep({"a", "c"})
    assert set(window.export()) == {"a", "c"} and len(window) == 2


def test_lanes_and_registers_of_one_sender_are_bounded() -> None:
    window = ReplayWindow()
    for lane in range(LANES_MAX):
        window.admit("a", 1, 1, lane=lane)
    with pytest.raises(ReplayError, match="lanes of one sender"):
        window.admit("a", 1, 1, lane=LANES_MAX)
    for lane in range(REGISTERS_MAX):
        window.admit_register("a", 1, 1, lane=lane)
    with pytest.raises(ReplayError, match="retained topics of one sender"):
        window.admit_register("a", 1, 1, lane=REGISTERS_MAX)
