"""What a delegate is held against: golden rows, rows that are made up, the kernel's answers while it serves."""

from __future__ import annotations

from array import array
from types import SimpleNamespace
from typing import Any

import pytest

from edgeswarm.app.delegation_rows import Checks, golden_of
from edgeswarm.drivers.delegates.contest import Golden


def packed(*values: float) -> bytes:
    return array("f", values).tobytes()


def artefact(width_in: int, golden: bytes = b"") -> Any:
    header = SimpleNamespace(
        neural_config=SimpleNamespace(input_size=width_in, output_size=1),
        golden=SimpleNamespace(relative=1e-5, absolute=1e-6),
    )
    return SimpleNamespace(header=header, file=SimpleNamespace(sections={"golden": golden}))


def test_golden_rows_are_the_files_and_their_range_that_of_all_answers() -> None:
    found = golden_of(artefact(2, packed(1, 2, -3, 4, 5, 7)), 0.01)
    assert found.inputs == (packed(1, 2), packed(4, 5)) and found.answers == (packed(-3), packed(7))
    assert found.range == 10.0
    assert not found.fault(0, packed(-2.91)) and found.fault(0, packed(-2.89)).startswith("column 0")


@pytest.mark.parametrize(("width", "rows"), [(1, 8), (8_192, 8), (60_000, 1), (262_144, 1)])
def test_rows_are_made_up_where_there_are_none_and_no_more_than_an_instant_holds(width: int, rows: int) -> None:
    found = golden_of(artefact(width), 0.01)
    assert [len(row) for row in found.inputs] == [4 * width] * rows and not found.answers


def test_a_serving_delegate_may_be_as_far_off_as_in_its_contest() -> None:
    checks = Checks(Golden((packed(0),), (packed(0, 10),), 0.0, 0.0, 0.01))
    assert not checks.differ(packed(0.5, 0.5), packed(0.59, 0.41))
    assert checks.differ(packed(0.5, 0.5), packed(0.5, 0.61)).startswith("column 1")


def test_without_golden_answers_the_kernels_own_say_how_far_that_is() -> None:
    checks = Checks(Golden((packed(0),), (), 0.0, 0.0, 0.01))
    assert not checks.differ(packed(10.0), packed(10.09))  # the first of all, and one value alone
    assert not checks.differ(packed(0.5), packed(0.59)), "10 was among the answers"
    assert checks.differ(packed(0.5), packed(0.61)).startswith("column 0")


@pytest.mark.parametrize("answer", [b"", b"\0", packed(1.0), packed(1.0, float("nan")), packed(1.0, 2.0, 3.0)])
def test_short_long_and_undefined_answers_are_wrong_whatever_is_tolerated(answer: bytes) -> None:
    checks = Checks(Golden((packed(0),), (packed(-3e38, 3e38),), 1.0, 1.0, 1.0))
    assert checks.differ(packed(1.0, 2.0), answer)
