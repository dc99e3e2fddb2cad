"""Which agent feeds which."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeswarm.errors import ConfigError
from edgeswarm.stream.graph import check


def test_order_puts_upstream_agents_first() -> None:
    assert check({"fuse": ["score", "predict"], "score": ["predict"], "predict": []}) == ("predict", "score", "fuse")


def test_ties_are_broken_by_name() -> None:
    assert check({"c": [], "a": [], "b": []}) == ("a", "b", "c")


def test_cycle_is_refused_with_its_path_in_the_direction_of_the_data() -> None:
    """b reads a, c reads b, a reads c; d only listens to the circle, and is not part of the path."""
    with pytest.raises(ConfigError, match="circle: a -> b -> c -> a$"):
        check({"a": ["c"], "b": ["a"], "c": ["b"], "d": ["a"], "e": []})


def test_agent_that_reads_itself_is_a_circle() -> None:
    with pytest.raises(ConfigError, match="circle: a -> a$"):
        check({"a": ["a"]})


def test_unknown_upstream_agent_is_named() -> None:
    with pytest.raises(ConfigError, match="agent b: its source agent 'ghost' does not exist"):
        check({"b": ["ghost"]})
    assert check({"b": ["ghost"]}, known=["ghost"]) == ("b",)


@given(st.dictionaries(st.sampled_from("abcdefgh"), st.sets(st.sampled_from("abcdefgh"), max_size=3)))
def test_order_or_a_real_cycle(graph: dict[str, set[str]]) -> None:
    upstreams = {agent: {one for one in sources if one in graph} for agent, sources in graph.items()}
    try:
        order = check(upstreams)
    except ConfigError as error:
        path = str(error).partition("circle: ")[2].split(" -> ")
        assert path[0] == path[-1]
        assert len(set(path)) == len(path) - 1
        for upstream, downstream in itertools.pairwise(path):
            assert upstream in upstreams[downstream]
    else:
        assert sorted(order) == sorted(upstreams)
        for agent, sources in upstreams.items():
            assert all(order.index(one) < order.index(agent) for one in sources)
