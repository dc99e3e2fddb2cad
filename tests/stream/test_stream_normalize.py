"""Normalisation: what is learnt, what comes out, what is refused."""

from __future__ import annotations

import math
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeswarm.errors import ConfigError, LocalError
from edgeswarm.stream.normalize import Normalizer

readings = st.floats(-1e6, 1e6, allow_nan=False)


def test_none_lets_rows_through() -> None:
    assert Normalizer("none", 2, clip=1.0).push((5.0, -7.0)) == (5.0, -7.0)


def test_fixed_and_given_zscore_shift_and_scale() -> None:
    for method in ("fixed", "zscore"):
        normalizer = Normalizer(method, 2, mean=(1.0, 10.0), std=(2.0, 5.0))  # type: ignore[arg-type]
        assert normalizer.push((3.0, 0.0)) == (1.0, -2.0)


def test_given_minmax_maps_low_to_0_and_high_to_1() -> None:
    normalizer = Normalizer("minmax", 1, low=(10.0,), high=(20.0,))
    assert [normalizer.push((value,)) for value in (10.0, 15.0, 20.0)] == [(0.0,), (0.5,), (1.0,)]


def test_wild_values_are_clipped_on_both_sides() -> None:
    normalizer = Normalizer("fixed", 3, mean=(0.0,) * 3, std=(1.0,) * 3, clip=8.0)
    assert normalizer.push((1e30, -9.0, 3.0)) == (8.0, -8.0, 3.0)


def test_nothing_comes_out_before_the_warm_up_ends() -> None:
    normalizer = Normalizer("zscore", 1, warmup_rows=3)
    assert [normalizer.push((float(i),)) for i in range(3)] == [None] * 3
    assert not normalizer.warming
    assert normalizer.push((1.0,)) == (0.0,)


def test_what_was_learnt_is_frozen() -> None:
    normalizer = Normalizer("minmax", 1, warmup_rows=2)
    normalizer.push((0.0,))
    normalizer.push((10.0,))
    assert [normalizer.push((value,)) for value in (1000.0, 10.0)] == [(100.0,), (1.0,)]


def test_field_that_never_changed_is_only_shifted() -> None:
    for method in ("zscore", "minmax"):
        normalizer = Normalizer(method, 1, warmup_rows=5)  # type: ignore[arg-type]
        for _ in range(5):
            normalizer.push((0.1,))
        assert normalizer.push((0.6,)) == (0.5,)


def test_learnt_scale_is_kept_within_its_bounds() -> None:
    normalizer = Normalizer("zscore", 2, warmup_rows=2, std_min=(4.0, 1.0), std_max=(9.0, 2.0))
    normalizer.push((0.0, 0.0))
    normalizer.push((0.0, 100.0))
    assert normalizer.push((8.0, 54.0)) == (2.0, 2.0)


@given(st.lists(st.tuples(readings, readings), min_size=2, max_size=50), st.tuples(readings, readings))
def test_welford_agrees_with_the_standard_library(rows: list[tuple[float, float]], probe: tuple[float, float]) -> None:
    normalizer = Normalizer("zscore", 2, warmup_rows=len(rows))
    for row in rows:
        normalizer.push(row)
    result = normalizer.push(probe)
    assert result is not None
    for index, column in enumerate(zip(*rows, strict=True)):
        deviation = statistics.pstdev(column)
        if deviation < 1e-3:
            continue  # a column of nearly equal numbers: both are noise
        assert result[index] == pytest.approx((probe[index] - statistics.fmean(column)) / deviation, rel=1e-4, abs=1e-4)


@given(
    method=st.sampled_from(["zscore", "minmax"]),
    rows=st.lists(st.tuples(readings), min_size=1, max_size=20),
    warmup=st.integers(1, 20),
    cut=st.integers(0, 20),
)
def test_restored_normalizer_goes_on_as_if_nothing_happened(
    method: str, rows: list[tuple[float]], warmup: int, cut: int
) -> None:
    whole, parted = (Normalizer(method, 1, warmup_rows=warmup, clip=8.0) for _ in range(2))  # type: ignore[arg-type]
    for index, row in enumerate(rows):
        if index == cut:
            state, parted = parted.state(), Normalizer(method, 1, warmup_rows=warmup, clip=8.0)  # type: ignore[arg-type]
            parted.restore(state)
        assert whole.push(row) == parted.push(row)
    assert whole.state() == parted.state()


@given(st.lists(readings, min_size=3, max_size=3), readings)
def test_everything_that_comes_out_is_finite_and_clipped(rows: list[float], probe: float) -> None:
    normalizer = Normalizer("zscore", 1, warmup_rows=3, clip=8.0)
    for value in rows:
        normalizer.push((value,))
    result = normalizer.push((probe,))
    assert result is not None
    assert math.isfinite(result[0])
    assert abs(result[0]) <= 8.0


@pytest.mark.parametrize(
    ("method", "given_numbers", "key"),
    [
        ("fixed", {"mean": (1.0,), "std": ()}, "std"),
        ("fixed", {"mean": (), "std": (1.0,)}, "mean"),
        ("fixed", {"mean": (1.0, 2.0), "std": (1.0,)}, "mean"),
        ("fixed", {"mean": (1.0,), "std": (0.0,)}, "std"),
        ("zscore", {"mean": (1.0,), "std": (-1.0,)}, "std"),
        ("zscore", {"mean": (math.nan,), "std": (1.0,)}, "std"),
        ("minmax", {"low": (1.0,), "high": (1.0,)}, "high"),
        ("minmax", {"low": (0.0,), "high": (math.inf,)}, "high"),
    ],
)
def test_numbers_without_a_scale_are_refused(
    method: str, given_numbers: dict[str, tuple[float, ...]], key: str
) -> None:
    with pytest.raises(ConfigError, match=rf"normalize\.{key}"):
        Normalizer(method, 1, **given_numbers)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "change",
    [
        {"method": "minmax"},
        {"width": 3},
        {"warmup_rows": 5},
        {"seen": -1},
        {"seen": 99},
        {"seen": True},
        {"seen": None},
        {"first": [1.0]},
        {"first": [1.0, math.nan]},
        {"first": [1.0, "2"]},
        {"second": [1.0, -1.0]},
        {"second": None},
    ],
)
def test_malformed_state_is_refused_and_changes_nothing(change: dict[str, object]) -> None:
    learnt = Normalizer("zscore", 2, warmup_rows=4)
    learnt.push((1.0, 2.0))
    fresh = Normalizer("zscore", 2, warmup_rows=4)
    before = fresh.state()
    with pytest.raises(LocalError, match="normalizer state"):
        fresh.restore({**learnt.state(), **change})
    assert fresh.state() == before
