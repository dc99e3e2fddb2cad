"""What a person gets told about a graph that is none, and the order of one that is."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeswarm.core.jobs.backoff import backoff_ms
from edgeswarm.core.jobs.graph import GraphError, ordered
from edgeswarm.limits import JOB_TASKS_MAX, TASK_AFTER_MAX, TASK_BACKOFF_MS_MAX


def test_tasks_keep_their_order_where_they_may() -> None:
    assert ordered("j", {"c": [], "a": ["b"], "b": []}) == (("c", ()), ("b", ()), ("a", (1,)))
    assert ordered("j", {"a": [], "b": ["a", "a"], "c": ["b", "a"]}) == (("a", ()), ("b", (0,)), ("c", (0, 1)))


@pytest.mark.parametrize(
    ("after", "text"),
    [
        ({"a": ["c"], "b": []}, "job j: task a needs c, which is not in the job"),
        ({"a": ["a"]}, "tasks wait for each other: a -> a"),
        ({"x": [], "a": ["x", "b"], "b": ["c"], "c": ["a"]}, "a -> b -> c -> a"),
        ({"tail": ["a"], "a": ["b"], "b": ["a"]}, "a -> b -> a"),
        ({}, "expected 1 to 4096 tasks, found 0"),
        ({str(i): [] for i in range(JOB_TASKS_MAX + 1)}, "found 4097"),
        ({"a": [], "b": ["a"] * (TASK_AFTER_MAX + 1)}, "task b waits for 257 tasks"),
        (
            {str(i): [str(j) for j in range(max(0, i - TASK_AFTER_MAX), i)] for i in range(600)},
            "expected at most 65536 dependencies",
        ),
    ],
)
def test_a_graph_that_is_none_says_why(after: dict[str, list[str]], text: str) -> None:
    with pytest.raises(GraphError, match=text.replace("[", "\\[")):
        ordered("j", after)


def test_a_chain_of_the_greatest_length_needs_no_deep_stack() -> None:
    chain = {f"t{i}": [f"t{i - 1}"] if i else [] for i in range(JOB_TASKS_MAX)}
    backwards = dict(reversed(chain.items()))
    assert [name for name, _ in ordered("j", backwards)] == list(chain)
    chain["t0"] = [f"t{JOB_TASKS_MAX - 1}"]
    with pytest.raises(GraphError, match="t0 -> t4095"):
        ordered("j", chain)


@given(st.dictionaries(st.sampled_from("abcdefgh"), st.lists(st.sampled_from("abcdefgh"), max_size=3), min_size=1))
def test_every_order_that_comes_out_is_one(after: dict[str, list[str]]) -> None:
    try:
        found = ordered("j", after)
    except GraphError as error:
        if "which is not" not in str(error):
            cycle = str(error).split(": ")[-1].split(" -> ")
            assert cycle[0] == cycle[-1]
            assert all(later in after[earlier] for earlier, later in pairwise(cycle))
        return
    assert {name for name, _ in found} == set(after)
    for index, (name, before) in enumerate(found):
        assert all(one < index for one in before)
        assert {found[one][0] for one in before} == set(after[name])


def test_waits_double_spread_and_end() -> None:
    rng = random.Random(1)
    for failures in range(1, 100):
        full = min(100 * 2 ** (failures - 1), TASK_BACKOFF_MS_MAX)
        waits = [backoff_ms(failures, 100, rng) for _ in range(20)]
        assert all(full / 2 <= wait <= full for wait in waits)
        assert len(set(waits)) > 1
