"""A device converges: one agent's machine, step by step, and under power cuts, bad versions and changes of mind."""

from __future__ import annotations

from dataclasses import replace

import pytest
from converging import NEW, OLD, RUNS_1, RUNS_2, begin, digest, known, on_trial, rollout_id, state
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeswarm.core.rollout.converge import Converge
from edgeswarm.core.rollout.journal import Failed, Journal, JournalError, Version
from edgeswarm.core.rollout.steps import (
    Facts,
    GoBack,
    Known,
    Stage,
    Try,
    Wait,
    Wish,
    version_tuple,
    wish,
)
from edgeswarm.limits import ROLLOUT_BEFORE_MAX, ROLLOUT_FAILED_MAX, ROLLOUT_LIVES, ROLLOUT_TRIES


def test_new_version_is_staged_tried_watched_and_then_proven() -> None:
    machine = on_trial()
    assert machine.decide(Wish(NEW), RUNS_2, 2) == Wait(10) and state(machine) == "running"
    assert machine.decide(Wish(NEW), RUNS_2, 11.9) == Wait(pytest.approx(0.1)) and state(machine) == "running"
    machine.decide(Wish(NEW), RUNS_2, 12)
    assert state(machine) == "healthy"
    assert (machine.journal.current, machine.journal.before, machine.journal.base) == (NEW.version, (OLD,), None)
    assert machine.decide(Wish(NEW), RUNS_2, 13) == Wait()


@pytest.mark.parametrize(
    ("facts", "why"),
    [
        (replace(RUNS_2, status="failed"), "it is failed"),
        (replace(RUNS_2, status="quarantined"), "it is quarantined"),
        (replace(RUNS_2, status="paused"), "it is paused"),
        (replace(RUNS_2, status="backing_off", restarts=3), "it was restarted 3 times"),
        (replace(RUNS_2, faults=5), "5 of its calls failed"),
    ],
)
def test_version_that_is_not_well_is_taken_back_and_not_tried_again(facts: Facts, why: str) -> None:
    machine = on_trial()
    machine.decide(Wish(NEW), RUNS_2, 2)
    assert machine.decide(Wish(NEW), facts, 3) == GoBack(OLD, why)
    assert state(machine) == "failed"
    machine.went_back()
    assert machine.decide(Wish(NEW), RUNS_1, 4) == Wait()
    row = machine.row()
    assert row is not None and (row.state, row.why, row.rollout) == ("failed", why, NEW.rollout)
    assert machine.decide(Wish(known(3)), RUNS_1, 5) == Stage(known(3).version, known(3).plan)


def test_one_restart_starts_the_watch_again() -> None:
    machine = on_trial()
    machine.decide(Wish(NEW), RUNS_2, 2)
    machine.decide(Wish(NEW), replace(RUNS_2, status="backing_off", restarts=1), 11)
    assert machine.decide(Wish(NEW), replace(RUNS_2, restarts=1), 12) == Wait(10)
    machine.decide(Wish(NEW), replace(RUNS_2, restarts=1), 22)
    assert state(machine) == "healthy"


def test_what_failed_is_known_after_a_restart_too() -> None:
    machine = on_trial()
    machine.decide(Wish(NEW), replace(RUNS_2, status="failed"), 2)
    machine.went_back()
    again = begin(Journal.from_bytes(machine.journal.to_bytes()))
    assert again.decide(Wish(NEW), RUNS_1, 0) == Wait() and state(again) == "failed"


def test_device_that_breaks_down_with_a_version_gives_it_up() -> None:
    journal = on_trial().journal
    for _ in range(ROLLOUT_LIVES - 1):
        journal = Journal.from_bytes(journal.begun().to_bytes())
        assert not journal.back
        begin(journal).decide(Wish(NEW), RUNS_2, 0)
    journal = journal.begun()
    assert begin(journal).decide(Wish(NEW), RUNS_2, 0) == GoBack(OLD, "the device broke down 3 times with it")


def test_device_that_is_restarted_with_a_word_goes_on_watching() -> None:
    machine = on_trial()
    machine.decide(Wish(NEW), RUNS_2, 2)
    journal = machine.journal
    for life in range(10):
        journal = journal.ended(machine.watched_s(2 + 0.5)).begun()
        machine = begin(journal)
        machine.decide(Wish(NEW), RUNS_2, 2)
        assert journal.lives == 0 and machine.watched_s(2) == pytest.approx(0.5 * (life + 1))


def test_power_cut_before_the_swap_swaps_again() -> None:
    journal = on_trial().journal.begun()
    assert begin(journal).decide(Wish(NEW), RUNS_1, 0) == Try(NEW.version, OLD)


def test_power_cut_on_the_way_back_goes_on_going_back() -> None:
    machine = on_trial()
    machine.decide(Wish(NEW), replace(RUNS_2, status="failed"), 2)
    again = begin(Journal.from_bytes(machine.journal.to_bytes()).begun())
    assert again.decide(Wish(), RUNS_1, 0) == GoBack(OLD, "it is failed")  # also with no word of the cell


@pytest.mark.parametrize(
    ("version", "here", "goes"),
    [
        ("1.0.2", "1.0.1", True),
        ("1.0.10", "1.0.9", True),
        ("1.0.1", "1.0.1", False),
        ("1.0.1", "1.0.2", False),
        ("0.9.9", "1.0.0", False),
    ],
)
@pytest.mark.parametrize("allowed", [False, True])
def test_version_only_goes_up_unless_the_plan_allows(version: str, here: str, goes: bool, allowed: bool) -> None:
    machine = begin()
    wanted = known(2, version=version, downgrade=allowed)
    step = machine.decide(Wish(wanted), replace(RUNS_1, version=here), 0)
    if goes or allowed:
        assert step == Stage(wanted.version, wanted.plan)
    else:
        row = machine.row()
        assert step == Wait() and row is not None and row.state == "refused" and "--allow-downgrade" in row.why


def test_agent_of_the_cell_is_not_touched() -> None:
    machine = begin()
    assert machine.decide(Wish(NEW), replace(RUNS_1, hosted=True), 0) == Wait()
    row = machine.row()
    assert row is not None and row.state == "refused" and "the cell has placed an agent of this name" in row.why


def test_nothing_is_brought_while_the_safety_stop_holds() -> None:
    machine = begin()
    assert machine.decide(Wish(NEW), replace(RUNS_1, halted=True), 0) == Wait()
    machine = on_trial()
    machine.decide(Wish(NEW), RUNS_2, 2)
    stopped = replace(RUNS_2, status="stopped", halted=True)
    assert machine.decide(Wish(NEW), stopped, 500) == Wait() and state(machine) == "running"
    machine.decide(Wish(NEW), RUNS_2, 501)
    assert state(machine) == "running"  # the stop is no time in which it ran well


def test_newest_wish_wins_and_steps_between_are_skipped() -> None:
    machine = begin()
    machine.decide(Wish(NEW), RUNS_1, 0)
    assert machine.decide(Wish(known(9)), RUNS_1, 1) == Stage(known(9).version, known(9).plan)
    machine.staged(NEW.version)  # too late
    assert not machine.journal.staged


def test_newer_version_over_one_on_trial_goes_back_to_what_was_proven() -> None:
    machine = on_trial()
    machine.decide(Wish(NEW), RUNS_2, 2)
    third = known(3)
    assert machine.decide(Wish(third), RUNS_2, 3) == Stage(third.version, third.plan)
    machine.staged(third.version)
    assert machine.decide(Wish(third), RUNS_2, 4) == Try(third.version, OLD)
    machine.tried(third.version, Facts(digest(3), "1.0.3", "running"))
    assert machine.decide(Wish(third), Facts(digest(3), "1.0.3", "failed"), 5) == GoBack(OLD, "it is failed")


def test_version_on_trial_is_watched_while_the_next_is_fetched() -> None:
    machine = on_trial()
    machine.decide(Wish(NEW), RUNS_2, 2)
    machine.decide(Wish(known(3)), RUNS_2, 3)
    assert machine.decide(Wish(known(3)), replace(RUNS_2, status="failed"), 4) == GoBack(OLD, "it is failed")
    machine.went_back()
    assert machine.decide(Wish(known(3)), RUNS_1, 5) == Stage(known(3).version, known(3).plan)


def test_trouble_is_tried_again_ever_later_and_told() -> None:
    machine, now, waits = begin(), 0.0, []
    for _ in range(ROLLOUT_TRIES):
        assert machine.decide(Wish(NEW), RUNS_1, now) == Stage(NEW.version, NEW.plan)
        machine.stage_failed(NEW.version, "no space left on device", now, final=False)
        step = machine.decide(Wish(NEW), RUNS_1, now)
        assert isinstance(step, Wait) and step.s is not None
        waits.append(step.s)
        now += step.s
    assert waits == sorted(waits) and waits[0] < waits[-1]
    row = machine.row()
    assert row is not None and (row.state, row.why) == ("failed", "no space left on device")
    machine.decide(Wish(NEW), RUNS_1, now)
    machine.staged(NEW.version)  # somebody made room
    assert machine.decide(Wish(NEW), RUNS_1, now) == Try(NEW.version, OLD)


def test_file_that_is_wrong_in_itself_is_given_up_at_once() -> None:
    machine = begin()
    machine.decide(Wish(NEW), RUNS_1, 0)
    machine.stage_failed(NEW.version, "the signature does not match", 0, final=True)
    assert machine.decide(Wish(NEW), RUNS_1, 1) == Wait() and state(machine) == "failed"
    assert machine.journal.base is None


def proven(numbers: tuple[int, ...] = (2,)) -> Converge:
    machine, runs = begin(), RUNS_1
    for number in numbers:
        now = number * 1_000.0
        machine.decide(Wish(known(number)), runs, now)
        machine.staged(known(number).version)
        machine.decide(Wish(known(number)), runs, now)
        runs = Facts(digest(number), f"1.0.{number}", "running")
        machine.tried(known(number).version, runs)
        machine.decide(Wish(known(number)), runs, now)
        machine.decide(Wish(known(number)), runs, now + 20)
        assert state(machine) == "healthy"
    return machine


def test_operators_roll_back_goes_to_what_ran_before() -> None:
    machine = proven()
    taken = Wish(None, (replace(NEW, withdrawn=True, why="it is too loud"),))
    assert machine.decide(taken, RUNS_2, 9_000) == GoBack(OLD, "it is too loud")
    machine.went_back()
    assert machine.decide(taken, RUNS_1, 9_001) == Wait()
    row = machine.row()
    assert row is not None and (row.state, row.why) == ("rolled_back", "it is too loud")


def test_operators_roll_back_of_one_on_trial() -> None:
    machine = on_trial()
    machine.decide(Wish(NEW), RUNS_2, 2)
    taken = Wish(None, (replace(NEW, withdrawn=True, why="no"),))
    assert machine.decide(taken, RUNS_2, 3) == GoBack(OLD, "no") and state(machine) == "rolled_back"


def test_roll_back_to_the_rollout_before_is_local_and_no_downgrade() -> None:
    machine = proven((2, 3))
    second, third = known(2), replace(known(3), withdrawn=True, why="no")
    taken = Wish(second, (third,))
    step = machine.decide(taken, Facts(digest(3), "1.0.3", "running"), 9_000)
    assert step == GoBack(second.version, "no")
    machine.went_back()
    assert machine.decide(taken, RUNS_2, 9_001) == Wait()
    assert machine.journal.current == second.version and machine.journal.before == (OLD,)
    both = Wish(None, (third, replace(second, withdrawn=True, why="that one too")))
    assert machine.decide(both, RUNS_2, 9_002) == GoBack(OLD, "that one too")


def test_roll_back_never_goes_to_another_that_was_taken_back() -> None:
    machine = proven((2, 3))
    both = Wish(None, tuple(replace(known(number), withdrawn=True, why="no") for number in (3, 2)))
    assert machine.decide(both, Facts(digest(3), "1.0.3", "running"), 9_000) == GoBack(OLD, "no")


def test_agent_that_was_not_there_before_is_removed_again() -> None:
    machine = begin()
    machine.decide(Wish(NEW), Facts(), 0)
    machine.staged(NEW.version)
    assert machine.decide(Wish(NEW), Facts(), 0) == Try(NEW.version, Version())
    machine.tried(NEW.version, RUNS_2)
    assert machine.decide(Wish(NEW), replace(RUNS_2, status="failed"), 1) == GoBack(Version(), "it is failed")
    machine.went_back()
    assert machine.decide(Wish(NEW), Facts(), 2) == Wait() and machine.journal.current is None


def test_plan_that_does_not_verify_brings_nothing() -> None:
    forged = Known(rollout_id(2), digest(2), None, "the signature does not match")
    journal = Journal("a")
    found = wish([forged, known(1)], journal)
    assert found.wanted == known(1) and found.refused == forged
    machine = begin(journal)
    machine.decide(wish([forged], journal), RUNS_1, 0)
    assert state(machine) == "refused"


def test_plan_whose_signer_has_left_keeps_what_it_brought() -> None:
    machine = proven()
    stale = Known(NEW.rollout, NEW.artefact, None, "no key of this id is known")
    found = wish([stale], machine.journal)
    assert found.wanted == stale
    assert machine.decide(found, RUNS_2, 9_000) == Wait() and state(machine) == "healthy"


def test_agent_that_somebody_removed_by_hand_comes_back() -> None:
    machine = proven()
    assert machine.decide(Wish(NEW), Facts(), 9_000) == Stage(NEW.version, NEW.plan)


def test_versions_are_numbers_and_not_letters() -> None:
    assert version_tuple("1.10.0") > version_tuple("1.9.9") > version_tuple("")


# --- the journal ----------------------------------------------------------------------------------------------------

versions = st.builds(Version, st.sampled_from(["", rollout_id(1)]), st.sampled_from(["", digest(1), digest(2)]))
journals = st.builds(
    Journal,
    agent=st.sampled_from(["a", "pump-7"]),
    target=st.none() | versions,
    staged=st.booleans(),
    tried=st.none() | versions,
    base=st.none() | versions,
    lives=st.integers(0, 9),
    watched_s=st.floats(0, 1e6),
    clean=st.booleans(),
    back=st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20),
    before=st.lists(versions, max_size=ROLLOUT_BEFORE_MAX).map(tuple),
    failed=st.lists(
        st.builds(Failed, st.just(rollout_id(1)), st.just(digest(1)), st.just("why")), max_size=ROLLOUT_FAILED_MAX
    ).map(tuple),
)


@given(journals)
@settings(max_examples=100)
def test_journal_comes_back_as_it_was_written(journal: Journal) -> None:
    assert Journal.from_bytes(journal.to_bytes()) == journal


@given(st.binary(max_size=100))
@settings(max_examples=200)
def test_file_that_is_no_journal_is_refused(data: bytes) -> None:
    with pytest.raises(JournalError):
        Journal.from_bytes(data)


def test_journal_forgets_old_failures_and_stays_small() -> None:
    journal = Journal("a")
    for number in range(500):
        journal = journal.give_up(Version(rollout_id(number), digest(number)), "x" * 5_000)
    assert len(journal.failed) == ROLLOUT_FAILED_MAX and len(journal.to_bytes()) < 32_000
    assert Journal.from_bytes(journal.to_bytes()) == journal
