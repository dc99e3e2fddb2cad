"""One input for many agents: what their answers come to, who is asked again, and what it costs."""

from __future__ import annotations

import random
import sys
from collections import Counter
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeswarm.core.jobs import aggregate
from edgeswarm.core.jobs.aggregate import Fold, Kernel, Mean, TopK, Vote, make, row_of
from edgeswarm.core.jobs.fanout import Ask, MapRun, Progress
from edgeswarm.errors import LocalError
from edgeswarm.limits import MAP_FOLD_ROWS

ROWS = st.lists(st.tuples(st.floats(-1e6, 1e6), st.floats(-1e6, 1e6)), min_size=1, max_size=50)


# --- aggregates -------------------------------------------------------------------------------------------------------


@given(ROWS, st.randoms(use_true_random=False))
def test_the_mean_is_the_mean_in_whatever_order_answers_come(
    rows: list[tuple[float, float]], rng: random.Random
) -> None:
    weights = [rng.randrange(1, 9) for _ in rows]
    both = list(zip(rows, weights, strict=True))
    rng.shuffle(both)
    mean = Mean()
    for row, weight in both:
        mean.add("a", row, weight)
    for column in (0, 1):
        right = sum(row[column] * weight for row, weight in both) / sum(weights)
        assert mean.mean[column] == pytest.approx(right, rel=1e-9, abs=1e-6)
    assert mean.taken == len(rows)


def test_values_that_do_not_fit_are_counted_and_left_out() -> None:
    mean = Mean()
    wrong: list[object] = ["x", None, True, [], [1.0], [1, True], [float("nan"), 1], [1, float("inf")], [10**400, 1]]
    mean.add("a", [1, 2])
    for value in wrong:
        mean.add("b", value)
    mean.add("c", [3, 4], weight=0)
    mean.add("c", [3, 4], weight=float("nan"))
    assert mean.result() == {"mean": [1.0, 2.0], "weight": 1.0, "count": 1}
    assert mean.refused == len(wrong) + 2
    assert row_of(sys.float_info.max) == (sys.float_info.max,)


def test_a_vote_takes_texts_numbers_and_rows_and_breaks_ties_by_name() -> None:
    vote = Vote()
    for value in ("cat", "dog", "cat", "dog", 3, [0.1, 0.9], ["?"], 1.5, "x" * 300):
        vote.add("a", value)
    assert vote.result() == {"choice": "cat", "votes": 2.0, "count": 6, "others": 0}
    assert vote.refused == 3
    vote.add("a", "dog", weight=0.5)
    assert vote.result()["choice"] == "dog"  # type: ignore[index]


def test_a_vote_with_too_many_choices_counts_the_rest_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aggregate, "VOTE_CHOICES_MAX", 2)
    vote = Vote()
    for value in (1, 2, 3, 4, 1):
        vote.add("a", value)
    assert vote.result() == {"choice": 1, "votes": 2.0, "count": 5, "others": 2}


@given(st.lists(st.integers(0, 9), max_size=60), st.integers(1, 8), st.randoms(use_true_random=False))
def test_top_k_agrees_with_sorting_everything(scores: list[int], k: int, rng: random.Random) -> None:
    named = [(f"agent-{index:02}", score) for index, score in enumerate(scores)]
    right = [[name, float(score)] for name, score in sorted(named, key=lambda item: (-item[1], item[0]))][:k]
    rng.shuffle(named)
    top = TopK(k)
    for name, score in named:
        top.add(name, score)
    assert top.result() == (right or None)
    assert len(top._heap) <= k


def drain(kernel: Kernel, folds: list[Fold], rng: random.Random) -> None:
    """Answer folds in any order with the maximum of each column."""
    while folds:
        fold = folds.pop(rng.randrange(len(folds)))
        assert len(fold.rows) <= MAP_FOLD_ROWS + 1
        more = kernel.folded(fold.number, [max(column) for column in zip(*fold.rows, strict=True)])
        folds += [more] if more else []


@given(st.integers(1, 300), st.randoms(use_true_random=False))
def test_a_kernel_draws_batches_together_in_bounded_memory(count: int, rng: random.Random) -> None:
    kernel, folds = Kernel(), []
    rows = [(rng.randrange(1000), rng.randrange(1000)) for _ in range(count)]
    for row in rows:
        fold = kernel.add("a", row)
        assert len(kernel._rows) < MAP_FOLD_ROWS
        folds += [fold] if fold else []
        if rng.random() < 0.3:
            drain(kernel, folds, rng)
    assert kernel.result() is None
    last = kernel.end()
    folds += [last] if last else []
    drain(kernel, folds, rng)
    assert kernel.result() == {"row": [float(max(column)) for column in zip(*rows, strict=True)], "count": count}


def test_an_answer_of_the_kernel_counts_once() -> None:
    kernel = Kernel()
    folds = [fold for _ in range(2 * MAP_FOLD_ROWS) if (fold := kernel.add("a", 1))]
    assert [fold.number for fold in folds] == [1, 2]
    for number in (1, 1, 1, 2, 7):
        assert kernel.folded(number, MAP_FOLD_ROWS) is None
    last = kernel.end()
    assert last is not None
    assert last.rows == ((float(MAP_FOLD_ROWS),),) * 2


def test_a_kernel_that_answers_nonsense_ends_the_map() -> None:
    run = MapRun(["a"], Kernel())
    run.ask(0, lambda _: "d")
    (fold,) = run.answered("a", [1, 2])
    assert run.folded(99, [1, 2]) == []
    assert run.folded(fold.number, [1]) == []
    assert run.done
    assert "expected one row of 2 values" in run.why


@pytest.mark.parametrize(("kind", "k"), [("median", 1), ("top-k", 0)])
def test_unknown_aggregates_are_refused(kind: str, k: int) -> None:
    with pytest.raises(LocalError):
        make(kind, k=k)


# --- fan-out ----------------------------------------------------------------------------------------------------------


def asked(effects: list[Ask | Fold]) -> dict[str, tuple[str, ...]]:
    return {effect.device: effect.agents for effect in effects if isinstance(effect, Ask)}


def on(places: dict[str, str]) -> Callable[[str], str | None]:
    return places.get


def test_one_message_a_device_and_a_result_when_all_have_answered() -> None:
    run = MapRun(["a", "b", "c"], Mean())
    assert asked(run.ask(0, on({"a": "d1", "b": "d2", "c": "d1"}))) == {"d1": ("a", "c"), "d2": ("b",)}
    run.answered("a", [1])
    run.answered("a", [100])
    run.answered("b", [2])
    assert not run.done
    assert run.progress == Progress(2, 0, 3)
    run.answered("c", [3])
    assert run.done
    assert run.result() == {"mean": [2.0], "weight": 3.0, "count": 3}


def test_an_agent_without_a_device_is_asked_when_it_has_one() -> None:
    run = MapRun(["a", "b"], Mean())
    assert asked(run.ask(0, on({"a": "d1"}))) == {"d1": ("a",)}
    assert asked(run.ask(10, on({"a": "d1", "b": "d2"}))) == {"d2": ("b",)}


def test_silence_is_asked_again_and_then_counts_as_failed() -> None:
    run = MapRun(["a"], Mean(), answer_ms=100, tries_max=2)
    where = on({"a": "d"})
    assert asked(run.ask(0, where)) == {"d": ("a",)}
    assert run.next_at() == 100
    assert run.ask(99, where) == []
    assert asked(run.ask(100, where)) == {"d": ("a",)}
    assert run.ask(200, where) == []
    assert run.done
    assert run.why == "all were asked: 0 of 1 answered, 1 are needed"
    assert run.answered("a", [1]) == [], "too late"


def test_the_end_of_an_old_wait_does_not_end_a_new_one() -> None:
    run = MapRun(["a"], Mean(), answer_ms=100, tries_max=2)
    where = on({"a": "d"})
    run.ask(0, where)
    run.failed("a")
    assert asked(run.ask(50, where)) == {"d": ("a",)}
    assert run.ask(100, where) == []
    assert not run.done, "the second try has until 150"


def test_a_lost_device_moves_its_questions_at_once() -> None:
    run = MapRun(["a", "b"], Mean(), answer_ms=1e6)
    run.ask(0, on({"a": "d1", "b": "d1"}))
    run.lost(["a", "b", "z"])
    assert asked(run.ask(1, on({"a": "d2", "b": "d3"}))) == {"d2": ("a",), "d3": ("b",)}


def test_a_share_is_enough_at_the_deadline_and_hopeless_maps_end_early() -> None:
    run = MapRun([f"a{i}" for i in range(10)], Vote(), share_min_permille=700)
    run.ask(0, lambda _: "d")
    for index in range(7):
        run.answered(f"a{index}", "yes")
    assert not run.done, "the others may still answer"
    run.end("it took longer than 100 ms")
    assert run.result() == {"choice": "yes", "votes": 7.0, "count": 7, "others": 0}
    hopeless = MapRun([f"a{i}" for i in range(10)], Vote(), share_min_permille=700, tries_max=1)
    hopeless.ask(0, lambda _: "d")
    for index in range(4):
        hopeless.failed(f"a{index}")
    assert hopeless.done
    assert hopeless.why == "4 failed: 0 of 10 answered, 7 are needed"
    assert hopeless.ask(1, lambda _: "d") == []


def test_answers_that_do_not_fit_fail_their_agent() -> None:
    run = MapRun(["a", "b"], Mean(), share_min_permille=1)
    run.ask(0, lambda _: "d")
    run.answered("a", "nonsense")
    run.answered("b", [1])
    assert run.done
    assert run.progress == Progress(1, 1, 2)


@pytest.mark.parametrize("agents", [[], ["a", "a"]])
def test_a_map_wants_different_agents(agents: list[str]) -> None:
    with pytest.raises(LocalError, match="different agents"):
        MapRun(agents, Mean())


@pytest.mark.parametrize("count", [1_000, 10_000])
def test_thousands_of_agents_answer_over_a_bad_link_in_bounded_memory(count: int) -> None:
    """Answers get lost, come twice and late, devices die; every agent ends counted once, the result is right."""
    rng = random.Random(count)
    names = [f"agent-{index}" for index in range(count)]
    places = {name: f"d{index % 100}" for index, name in enumerate(names)}
    value = {name: float(rng.randrange(100)) for name in names}
    run = MapRun(names, Mean(), answer_ms=50, tries_max=20, in_flight_max=256)
    now, late = 0.0, []
    while not run.done:
        now += 10
        assert now < 1e6
        for effect in run.ask(now, places.get):
            assert isinstance(effect, Ask)
            for name in effect.agents:
                late += [name] * rng.choices([0, 1, 2], [1, 8, 1])[0]
        assert len(run._asked) <= 256
        rng.shuffle(late)
        for name in late[: rng.randrange(300)]:
            run.answered(name, [value[name]])
        late = late[300:]
        if rng.random() < 0.01:
            dead = f"d{rng.randrange(100)}"
            run.lost([name for name in names if places[name] == dead])
    assert run.progress == Progress(count, 0, count)
    assert run.result()["mean"][0] == pytest.approx(sum(value.values()) / count)  # type: ignore[index]


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.sampled_from("aflx"), st.integers(0, 30)), max_size=60))
def test_whatever_happens_every_agent_is_counted_at_most_once(steps: list[tuple[str, str, int]]) -> None:
    run = MapRun("abcd", Mean(), answer_ms=20, tries_max=2, share_min_permille=500)
    now, asks = 0.0, Counter[str]()
    for agent, what, wait in steps:
        for effect in run.ask(now, {"a": "d1", "b": "d1", "c": "d2"}.get):
            if isinstance(effect, Ask):
                asks.update(effect.agents)
        {"a": lambda who: run.answered(who, [1]), "f": run.failed, "l": lambda who: run.lost([who])}.get(
            what, lambda who: run.answered(who, "nonsense")
        )(agent)
        now += wait
        progress = run.progress
        assert progress.answered + progress.failed <= 4
    assert all(times <= 2 for times in asks.values())
    run.end("over")
    assert run.done
    assert (run.result() is None) == bool(run.why)
