"""Waves: who comes when, what holds the next one back, and what takes all of it back."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from edgeswarm.core.rollout.waves import (
    Advance,
    Finish,
    Hold,
    Report,
    Seen,
    TakeBack,
    count,
    decide,
    order,
    sizes,
)
from edgeswarm.limits import ROLLOUT_SILENT_S
from edgeswarm.wire.rollout import Gate, Plan

DEVICES = tuple(f"d{number}" for number in range(100))
GATE = Gate(healthy_s=5, failed_max="0", silent_max="100%", pause_s=5)
PLAN = Plan("00112233aabbccdd", "a", "1.0.0", "ab" * 32, 100, "all", ("1", "10%", "50%", "100%"), GATE, False, 0)
FIRST = Seen(DEVICES, 0, (), {}, DEVICES, 0.0)


def reached(wave: int, size: int, *states: str, well_at: float | None = None, there: int = 100) -> Seen:
    """states: of the devices in their order; the others said nothing."""
    devices = order(PLAN.rollout, DEVICES)[:size]
    reports = {device: Report(state, "its reason") for device, state in zip(devices, states, strict=False)}  # type: ignore[arg-type]
    return Seen(DEVICES, wave, tuple(sorted(devices)), reports, set(DEVICES[:there]), 0.0, well_at)


def test_four_waves_reach_everybody_once() -> None:
    seen, sizes_seen, now = FIRST, [], 0.0
    while True:
        step = decide(PLAN, seen, now)
        if isinstance(step, Finish):
            break
        if isinstance(step, Advance):
            assert step.wave == seen.wave + 1 and not set(step.devices) & set(seen.devices)
            seen = replace(seen, wave=step.wave, devices=(*seen.devices, *step.devices), well_at=None)
            seen = replace(seen, reports=dict.fromkeys(seen.devices, Report("healthy")))
            sizes_seen.append(len(seen.devices))
        else:
            assert isinstance(step, Hold) and step.well and step.s is not None
            seen, now = replace(seen, well_at=now if seen.well_at is None else seen.well_at), now + step.s
    assert sizes_seen == [1, 10, 50, 100] and now == 3 * GATE.pause_s


def test_wave_waits_until_all_who_are_there_are_healthy() -> None:
    step = decide(PLAN, reached(2, 10, *["healthy"] * 9, "running"), 1.0)
    assert isinstance(step, Hold) and step.why == "1 of 10 devices are at it"


def test_canary_that_fails_takes_all_of_it_back() -> None:
    step = decide(PLAN, reached(1, 1, "failed"), 1.0)
    assert isinstance(step, TakeBack)
    assert step.why == f"1 of 1 devices failed, the gate allows 0: {order(PLAN.rollout, DEVICES)[0]}: its reason"


def test_refusals_count_as_failures() -> None:
    assert isinstance(decide(PLAN, reached(1, 1, "refused"), 1.0), TakeBack)


def test_gate_may_allow_some_to_fail() -> None:
    plan = replace(PLAN, gate=replace(GATE, failed_max="10%"))
    assert isinstance(decide(plan, reached(2, 10, "failed", *["healthy"] * 9), 1.0), Hold)
    assert isinstance(decide(plan, reached(2, 10, "failed", "failed", *["healthy"] * 8), 1.0), TakeBack)


def test_devices_that_are_not_there_hold_nothing_back() -> None:
    seen = replace(reached(2, 10, "healthy"), there=set(), well_at=0.0)
    assert count(seen, 1.0).silent == 9
    assert isinstance(decide(PLAN, seen, 6.0), Advance)


def test_nobody_seen_healthy_is_no_success() -> None:
    """All of a wave are away: however long it takes, nobody else is given what nobody has run."""
    step = decide(PLAN, replace(reached(2, 10), there=set(), well_at=0.0), 1e6)
    assert isinstance(step, Hold) and step.why == "nobody of 10 devices was seen healthy"


def test_too_many_silent_devices_hold_the_next_wave() -> None:
    plan = replace(PLAN, gate=replace(GATE, silent_max="20%"))
    step = decide(plan, replace(reached(2, 10, *["healthy"] * 7), there=set(), well_at=0.0), 1e6)
    assert isinstance(step, Hold) and step.why == "3 of 10 devices are silent, the gate allows 20%"
    plan = replace(PLAN, gate=replace(GATE, silent_max="25%"))
    step = decide(plan, replace(reached(2, 10, *["healthy"] * 7), there=set(), well_at=0.0), 1e6)
    assert isinstance(step, Hold) and step.why.endswith("allows 25%"), "2.5 devices are 2"


def test_device_that_is_there_and_never_says_a_word_of_it_is_silent_in_the_end() -> None:
    seen = reached(2, 10, *["healthy"] * 9)
    assert count(seen, 1.0).waiting == 1
    assert count(seen, ROLLOUT_SILENT_S).silent == 1


def test_devices_that_match_later_join_the_last_wave() -> None:
    seen = reached(4, 100, *["healthy"] * 100, well_at=0.0)
    step = decide(PLAN, replace(seen, matched=(*DEVICES, "new")), 100.0)
    assert step == Advance(4, ("new",))


def test_selector_that_matches_nobody_waits_and_says_so() -> None:
    step = decide(PLAN, replace(FIRST, matched=()), 1.0)
    assert isinstance(step, Hold) and step.why == "the selector matches no device"


def test_few_devices_skip_the_waves_that_bring_nobody_new() -> None:
    two = ("d1", "d2")
    seen = Seen(two, 1, order(PLAN.rollout, two)[:1], {d: Report("healthy") for d in two}, two, 0.0, 0.0)
    step = decide(PLAN, seen, 100.0)
    assert isinstance(step, Advance) and step.wave == 2 and len(step.devices) == 1
    after = replace(seen, wave=2, devices=two)
    assert isinstance(decide(PLAN, after, 200.0), Finish)


@given(st.lists(st.integers(1, 100), min_size=1, max_size=6, unique=True).map(sorted), st.integers(0, 300))
def test_waves_never_shrink_and_never_pass_the_whole(percents: list[int], whole: int) -> None:
    found = sizes([f"{percent}%" for percent in percents], whole)
    assert found == sorted(found) and all(0 <= size <= whole for size in found)
    assert percents[-1] != 100 or found[-1] == whole


@given(st.sets(st.sampled_from(DEVICES), max_size=30), st.sampled_from(DEVICES))
def test_order_is_the_rollouts_own_and_stays_when_others_come(some: set[str], other: str) -> None:
    before = order(PLAN.rollout, some)
    assert [device for device in order(PLAN.rollout, some | {other}) if device in some] == before
    assert sorted(before) == sorted(some)


STATES = st.sampled_from(["fetching", "staged", "running", "healthy", "failed", "rolled_back", "refused"])


@given(
    st.lists(st.sampled_from(DEVICES[:12]), max_size=12, unique=True),
    st.dictionaries(st.sampled_from(DEVICES[:12]), st.builds(Report, STATES)),
    st.sets(st.sampled_from(DEVICES[:12])),
    st.integers(0, 5),
    st.floats(0, 1e4),
    st.none() | st.floats(0, 1e4),
)
@settings(max_examples=300)
def test_whatever_is_reported_a_wave_is_followed_only_when_it_was_seen_well(
    devices: list[str], reports: dict[str, Report], there: set[str], wave: int, now: float, well_at: float | None
) -> None:
    seen = Seen(DEVICES[:12], wave, devices if wave else (), reports, there, 0.0, well_at)
    counts, step = count(seen, now), decide(PLAN, seen, now)
    assert counts.reached == counts.healthy + counts.failed + counts.silent + counts.waiting
    match step:
        case Advance(next_wave, new):
            assert new and not set(new) & set(seen.devices) and set(new) <= set(seen.matched)
            assert next_wave in (wave, wave + 1)
            if 0 < wave < next_wave:
                assert counts.healthy and not counts.failed and not counts.waiting
        case Finish():
            assert counts.healthy and not counts.failed and not counts.waiting
        case TakeBack(why):
            assert counts.failed and why
        case Hold(why, s):
            assert why and (s is None or s > 0)
