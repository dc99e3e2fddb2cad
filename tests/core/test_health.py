"""Who lives, as a leader hears it: silence, wills, replays, flapping, and what a thousand devices cost."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeswarm.core import health
from edgeswarm.core.cell.fencing import lease_fits
from edgeswarm.core.health import DEFAULT, LAN, Back, Health, HealthTiming, Life, Lost, Suspected
from edgeswarm.errors import LimitError, LocalError


def watching(*devices: str, timing: HealthTiming = LAN) -> Health:
    found = Health(timing)
    for device in devices:
        found.watch(device, 0, alive=True)
    return found


@pytest.mark.parametrize("timing", [LAN, DEFAULT])
def test_shipped_timings_hold_together_and_outlast_the_lease(timing: HealthTiming) -> None:
    assert timing.faults() == []
    assert lease_fits(lease_ms=timing.lease_ms, silent_ms=timing.silent_ms, status_ms=timing.status_ms)


def test_a_timing_that_gives_up_before_the_lease_ends_is_refused() -> None:
    with pytest.raises(LocalError, match="will_ms >= lease_ms.*lease_ms <= silent_ms"):
        Health(HealthTiming(100, 200, 300, 50, 0, 0, 0, 100, 400))


def test_silence_makes_a_device_suspect_and_then_lost() -> None:
    listener = watching("a")
    assert listener.due(599) == []
    assert listener.due(600) == [Suspected("a", 600)]
    assert listener.life("a") is Life.SUSPECT
    assert listener.due(1499) == []
    assert listener.due(1500) == [Lost("a", 1500, will=False)]


def test_a_message_ends_suspicion() -> None:
    listener = watching("a")
    listener.due(600)
    assert listener.heard("a", 1, 1, 700)
    assert listener.life("a") is Life.ALIVE
    assert listener.due(1299) == []
    assert listener.due(1300) == [Suspected("a", 600)]


def test_a_will_shortens_the_wait() -> None:
    listener = watching("a")
    listener.heard("a", 1, 1, 1)
    listener.will("a", 50)
    assert listener.due(601) == [Suspected("a", 600)]
    assert listener.due(1049) == []
    assert listener.due(1050) == [Lost("a", 1049, will=True)]


def test_a_device_that_said_that_it_is_away_is_given_up_once_that_is_over() -> None:
    listener = watching("a")
    listener.heard("a", 1, 1, 1)
    listener.away("a", 5_000)
    listener.will("a", 2)
    assert listener.due(4_999) == [Suspected("a", 4_998)]
    assert listener.due(5_000) == [Lost("a", 4_999, will=True)]


def test_a_device_told_lost_that_says_that_it_is_away_is_told_lost_once_that_is_over() -> None:
    listener = watching("a")
    assert listener.due(1_500) == [Lost("a", 1_500, will=False)]
    listener.away("a", 5_000)
    assert listener.due(4_999) == [Suspected("a", 4_999)]  # and not for ever
    assert listener.due(5_000) == [Lost("a", 5_000, will=False)]


def test_a_device_that_is_back_from_away_is_given_up_as_any_other() -> None:
    listener = watching("a")
    listener.away("a", 9_000)
    listener.due(700)
    listener.heard("a", 2, 1, 800)
    assert listener.due(2_299) == [Suspected("a", 1_499)]
    assert listener.due(2_300) == [Lost("a", 1_500, will=False)]
    listener.away("z", 9_000)  # not watched: nothing is remembered of it
    assert listener.life("z") is None


def test_a_forged_will_does_no_harm_to_a_device_that_speaks() -> None:
    listener = watching("a")
    for turn in range(100):
        now = turn * 100.0
        listener.heard("a", 1, turn, now)
        listener.will("a", now + 1)
        assert listener.due(now + 99) == []
    assert listener.life("a") is Life.ALIVE


def test_a_replay_is_no_sign_of_life() -> None:
    listener = watching("a")
    assert listener.heard("a", 2, 7, 10)
    assert not listener.heard("a", 2, 7, 1000)
    assert not listener.heard("a", 1, 900, 1000)
    assert listener.stale == 2
    assert [type(event) for event in listener.due(1510)] == [Lost]


def test_a_new_boot_starts_its_counter_again() -> None:
    listener = watching("a")
    listener.heard("a", 1, 900, 10)
    assert listener.heard("a", 2, 0, 20)


def test_a_loss_is_told_again_until_the_cell_confirms_it() -> None:
    listener = watching("a")
    assert listener.due(1500) == [Lost("a", 1500, will=False)]
    assert listener.due(2499) == []
    assert listener.due(2500) == [Lost("a", 2500, will=False)]
    listener.watch("a", 2600, alive=False)
    assert listener.due(60_000) == []
    assert listener.next_at() is None or listener.due(1e9) == []


def test_a_device_heard_between_proposal_and_commit_comes_back() -> None:
    listener = watching("a")
    listener.due(1500)
    listener.heard("a", 1, 1, 1501)
    assert listener.life("a") is Life.ALIVE
    listener.watch("a", 1510, alive=False)  # the proposal was committed all the same
    listener.heard("a", 1, 2, 1600)
    assert listener.due(1799) == []
    assert listener.due(1800) == [Back("a")]
    listener.watch("a", 1805, alive=True)
    assert listener.life("a") is Life.ALIVE


def test_coming_back_takes_longer_each_time_for_a_device_that_flaps() -> None:
    listener = watching("a")
    counter, now, waits = 0, 0.0, []
    for _ in range(8):
        now += 2000
        listener.due(now)
        listener.watch("a", now, alive=False)
        started = now
        while True:
            counter, now = counter + 1, now + 50
            listener.heard("a", 1, counter, now)
            if Back("a") in listener.due(now):
                break
        waits.append(now - started)
        listener.watch("a", now, alive=True)
    assert waits[0] <= 300
    assert all(later >= earlier for earlier, later in pairwise(waits))
    assert waits[-1] >= 9_900, waits
    now += LAN.flap_ms + 1
    listener.heard("a", 1, counter + 1, now)
    listener.watch("a", now, alive=False)
    listener.heard("a", 1, counter + 2, now)
    assert listener.due(now + LAN.back_ms) == [Back("a")]


def test_a_returning_device_that_falls_silent_is_dead_again() -> None:
    listener = Health(LAN)
    listener.watch("a", 0, alive=False)
    assert listener.life("a") is Life.DEAD
    listener.heard("a", 1, 1, 10)
    listener.will("a", 20)
    assert listener.life("a") is Life.DEAD
    assert listener.due(10_000) == []


def test_a_leader_that_was_deaf_itself_gives_nobody_up() -> None:
    listener = watching("a", "b")
    listener.will("a", 10)
    listener.listen_again(5000)
    assert [type(event) for event in listener.due(5599)] == []
    assert {type(event) for event in listener.due(5600)} == {Suspected}


def test_unknown_devices_are_not_watched_and_their_number_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "HEALTH_DEVICES_MAX", 2)
    listener = watching("a", "b")
    assert not listener.heard("z", 1, 1, 0)
    listener.will("z", 0)
    with pytest.raises(LimitError, match="at most 2 devices"):
        listener.watch("c", 0, alive=True)
    listener.forget("a")
    listener.watch("c", 0, alive=True)
    assert listener.life("a") is None
    assert len(listener) == 2


def test_the_heap_does_not_grow_with_messages() -> None:
    listener = watching(*[f"d{index}" for index in range(50)])
    rng, now = random.Random(1), 0.0
    for counter in range(20_000):
        now += 1
        device = f"d{rng.randrange(50)}"
        listener.heard(device, 1, counter, now)
        if rng.random() < 0.5:
            listener.will(f"d{rng.randrange(50)}", now)
        listener.due(now)
    assert len(listener._heap) <= 2 * 50 + 64


@given(st.lists(st.tuples(st.integers(0, 4), st.sampled_from("hhhhwacbn"), st.integers(0, 900)), max_size=200))
def test_lazy_deadlines_tell_what_looking_at_everyone_each_ms_would(steps: list[tuple[int, str, int]]) -> None:
    """The heap against a second listener whose devices are all looked at, each step: same lives, same events."""
    lazy, eager = watching(*"abcde"), watching(*"abcde")
    now = 0.0
    for counter, (device_index, what, wait) in enumerate(steps):
        for step in range(0, wait, 25):
            moment = now + step
            for name in "abcde":  # everything is queued for this very moment: nothing depends on the heap's order
                watch = eager._watches[name]
                watch.queued_at = moment
                eager._heap.append((moment, name))
            eager._heap.sort()
            key = lambda event: (event.device, type(event).__name__)  # noqa: E731
            assert sorted(lazy.due(moment), key=key) == sorted(eager.due(moment), key=key)
        now += wait
        device = "abcde"[device_index]
        for listener in (lazy, eager):
            match what:
                case "h":
                    listener.heard(device, 1, counter, now)
                case "w":
                    listener.will(device, now)
                case "a":
                    listener.away(device, now + 7 * wait)
                case "c" | "b":
                    listener.watch(device, now, alive=what == "b")
                case _:
                    listener.listen_again(now)
    assert [lazy.life(name) for name in "abcde"] == [eager.life(name) for name in "abcde"]


def test_a_thousand_healthy_devices_cost_one_look_each_suspect_time() -> None:
    """Counts looks, not seconds: 1,000 devices that speak each 250 ms for a minute."""
    listener = watching(*[f"d{index}" for index in range(1000)])
    looks = 0
    inner = listener._due_at

    def counted(watch: health._Watch) -> float | None:
        nonlocal looks
        looks += 1
        return inner(watch)

    listener._due_at = counted  # type: ignore[method-assign]
    for turn in range(1, 241):
        now = turn * 250.0
        for index in range(1000):
            listener.heard(f"d{index}", 1, turn, now)
        assert listener.due(now) == []
    assert looks <= 1000 * (60_000 / LAN.suspect_ms) * 2 * 2
