"""A TFLite interpreter behind float32 rows: int8 on the grid of its tensors, and models that are none for an agent."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeswarm.errors import JailError
from edgeswarm.jail.agent import AgentSpec, RowsAt
from edgeswarm.jail.delegate_interpreter import Interpreted

WIDTH = 4


def spec(width_in: int = WIDTH, width_out: int = WIDTH) -> AgentSpec:
    return AgentSpec(0, "a", RowsAt(0, 64, width_in), RowsAt(64, 64, width_out), 128, 0, 1, 1 << 20, 1000, 0)


class Copies:
    """An interpreter that gives its input back: tensors of int8 or float32, by `details`."""

    def __init__(self, into: dict[str, Any], out: dict[str, Any] | None = None, inputs: int = 1) -> None:
        self._details = [{"index": 0, **into}] * inputs, [{"index": 1, **(out or into)}]
        self._tensors = [np.zeros(one[0]["shape"], one[0]["dtype"]) for one in self._details]

    def allocate_tensors(self) -> None:
        """They are there."""

    def get_input_details(self) -> Any:
        return self._details[0]

    def get_output_details(self) -> Any:
        return self._details[1]

    def tensor(self, index: int) -> Any:
        return lambda: self._tensors[index]

    def get_tensor(self, index: int) -> Any:
        return self._tensors[index].copy()

    def invoke(self) -> None:
        self._tensors[1][...] = self._tensors[0]


def tensor(
    kind: Any = np.int8, shape: tuple[int, ...] = (1, WIDTH), scale: float = 0.5, zero: int = 3
) -> dict[str, Any]:
    return {"dtype": kind, "shape": np.array(shape), "quantization": (scale, zero)}


def quantised(value: float, scale: float, zero: int) -> int:
    """The definition: round(x / scale) half away from zero, the zero point, clamped; NaN as the lowest."""
    if math.isnan(value):
        return -128
    scaled = float(np.float32(value) / np.float32(scale))
    if math.isinf(scaled):
        return -128 if scaled < 0 else 127
    return max(-128, min(127, int(math.copysign(math.floor(abs(scaled) + 0.5), scaled)) + zero))


@given(
    st.lists(st.floats(width=32), min_size=WIDTH, max_size=WIDTH),
    st.sampled_from([0.5, 0.25, 2.0, 0.0078125]),
    st.integers(-128, 127),
)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of numpy, where NaN and infinity are cast
def test_int8_is_quantised_as_defined_and_comes_back_on_its_grid(row: list[float], scale: float, zero: int) -> None:
    """Powers of two, so that float32 has no rounding of its own in it."""
    runner = Interpreted(Copies(tensor(scale=scale, zero=zero)), np, spec())
    answer = np.frombuffer(runner.run(memoryview(np.array(row, np.float32).tobytes())), np.float32)
    assert answer.tolist() == [(quantised(value, scale, zero) - zero) * scale for value in row]


def test_float32_goes_through_as_it_is_whatever_its_shape() -> None:
    runner = Interpreted(Copies(tensor(np.float32, (1, 2, 2, 1))), np, spec())
    row = np.array([1.5, -2.25, 1e30, 0.0], np.float32)
    assert runner.run(memoryview(row.tobytes())) == row.tobytes()


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (Copies(tensor(), inputs=2), "one input and one output expected, found 2 and 1"),
        (Copies(tensor(shape=(1, 3))), "4 values of float32 or int8 expected, found (1, 3) of int8"),
        (Copies(tensor(shape=(2, 4))), "found (2, 4)"),
        (Copies(tensor(np.int32)), "of int32"),
        (Copies(tensor(), tensor(np.uint8)), "model output: 4 values"),
        (Copies(tensor(scale=0.0)), "int8 without a scale"),
    ],
    ids=["two-inputs", "narrow", "batch", "int32", "uint8-out", "no-scale"],
)
def test_a_model_that_is_none_for_the_agent_is_refused(made: Any, said: str) -> None:
    with pytest.raises(JailError) as caught:
        Interpreted(made, np, spec())
    assert said in str(caught.value)
