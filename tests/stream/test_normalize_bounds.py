"""Bounds on what zscore learns: mean_min, mean_max, std_min, std_max."""

from __future__ import annotations

import math
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeswarm import schema
from edgeswarm.agentfile.wiring import NormalizeSpec
from edgeswarm.errors import ConfigError
from edgeswarm.stream.normalize import Normalizer

numbers = st.floats(-1e6, 1e6)


def spec_of(**keys: object) -> NormalizeSpec:
    return schema.decode({"method": "zscore", "warmup_rows": 4, **keys}, NormalizeSpec, where="test")


@given(rows=st.lists(numbers, min_size=2, max_size=20), bounds=st.lists(numbers, min_size=2, max_size=2))
@settings(max_examples=100)
def test_what_is_learnt_stays_within_its_bounds(rows: list[float], bounds: list[float]) -> None:
    low, high = sorted(bounds)
    free = Normalizer("zscore", 1, warmup_rows=len(rows))
    bound = Normalizer(
        "zscore", 1, warmup_rows=len(rows), mean_min=[low], mean_max=[high], std_min=[1.0], std_max=[100.0]
    )
    for row in rows:
        assert free.push((row,)) is bound.push((row,)) is None
    learnt, kept = free.learnt(), bound.learnt()
    assert learnt is not None and kept is not None
    assert kept["shift"] == (min(max(learnt["shift"][0], low), high),)
    assert 1.0 <= kept["scale"][0] <= 100.0000001
    if math.sqrt(1.5) < learnt["scale"][0] < 99.0:
        assert math.isclose(kept["scale"][0], learnt["scale"][0])


def test_a_restored_normalizer_keeps_within_the_bounds() -> None:
    first = Normalizer("zscore", 1, warmup_rows=2, std_min=[5.0])
    first.push((0.0,))
    second = Normalizer("zscore", 1, warmup_rows=2, std_min=[5.0])
    second.restore(first.state())
    second.push((0.0,))
    assert second.push((10.0,)) == (2.0,)


def test_bounds_that_do_not_fit_are_refused_by_the_header() -> None:
    cases: list[tuple[dict[str, object], str]] = [
        ({"std_min": [0.0]}, "std_min: expected numbers above 0"),
        ({"std_min": [2.0], "std_max": [1.0]}, "std_max: expected at least [2.0] (std_min)"),
        ({"mean_min": [2.0], "mean_max": [1.0, 2.0]}, "mean_max: expected 1 numbers"),
        ({"mean_min": [2.0], "warmup_rows": 0, "mean": [1.0], "std": [1.0]}, "zscore with warm-up only"),
    ]
    for keys, text in cases:
        with pytest.raises(schema.SchemaError, match=re.escape(text)):
            spec_of(**keys)
    assert spec_of(std_min=[1.0, 2.0]).width == 2


def test_bounds_that_do_not_fit_are_refused_by_the_normalizer() -> None:
    with pytest.raises(ConfigError, match="std_min: expected 2 numbers"):
        Normalizer("zscore", 2, warmup_rows=4, std_min=[1.0])
    with pytest.raises(ConfigError, match=r"std_max\[0\]: expected a finite number above 0"):
        Normalizer("zscore", 1, warmup_rows=4, std_max=[0.0])
