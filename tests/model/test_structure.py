"""The text of a structure: one structure has one text, and nothing else reads as one."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeswarm.errors import LimitError, ModelError
from edgeswarm.limits import GRAPH_STRUCTURE_BYTES_MAX
from edgeswarm.model import random_mlp
from edgeswarm.model.graph import Tensor, graph_of
from edgeswarm.model.structure import outline_of, structure_of

TEXT = (
    b'{"format":1,"input":0,"nodes":[["dense",[0],1,{"activation":"relu","units":8}]],"output":1,'
    b'"tensors":[["f32",[4]],["f32",[8]]]}'
)


def test_the_text_of_one_layer_is_as_documented():
    assert structure_of(graph_of(random_mlp([4, 8], "relu", "relu"))) == TEXT
    assert structure_of(outline_of(TEXT)) == TEXT


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(1, 50), min_size=2, max_size=6))
def test_reading_is_the_inverse_of_writing(sizes):
    graph = graph_of(random_mlp(sizes, "tanh", "softmax"))
    outline = outline_of(structure_of(graph))
    assert outline.tensors == graph.tensors and structure_of(outline) == structure_of(graph.outline)


@pytest.mark.parametrize(
    ("old", "new", "text"),
    [
        (b'"format":1', b'"format":2', "expected the format 1, found 2"),
        (b'"format":1,', b"", "KeyError: 'format'"),
        (b'"format":1,', b'"format":1,"more":1,', "no further keys"),
        (b'"output":1', b'"output": 1', "no spaces"),
        (b'"output":1', b'"output":1.0', "expected a whole number, found float"),
        (b'"output":1', b'"output":true', "expected a whole number, found bool"),
        (b'"output":1', b'"output":NaN', "NaN, which is no number"),
        (b"[4]", b"[-4]", "axes"),
        (b"[4]", b'["4"]', "expected a whole number, found str"),
        (b'"f32",[4]', b'"f32",[4],1', "as a number with a point"),
        (b'"dense"', b"[]", "operator as text"),
        (b'"relu"', b'["relu"]', "activation"),
        (b'"units":8', b'"units":7', r"expected to write f32 \[7\]"),
        (TEXT, b"[]", "TypeError"),
        (TEXT, b"\xff", "UnicodeDecodeError"),
        (TEXT, b"[" * 100_000, "RecursionError"),
    ],
)
def test_other_texts_are_refused(old, new, text):
    with pytest.raises(ModelError, match=text):
        outline_of(TEXT.replace(old, new, 1))


@pytest.mark.parametrize(
    ("dtype", "scale", "zero_point", "text"),
    [
        ("i8", 5e-324, 0, "scale"),
        ("i8", 1e-39, 0, "scale"),
        ("i8", 1e300, 0, "scale"),
        ("i8", 1.0, 128, "zero point from -128 to 127"),
        ("u7", 1.0, -1, "zero point from 0 to 127"),
        ("u7", 1.0, 10**40, "zero point"),
        ("i32", 1.0, 1 << 31, "zero point"),
    ],
)
def test_a_quantised_tensor_that_no_kernel_can_compute_is_refused(dtype, scale, zero_point, text):
    with pytest.raises(ModelError, match=text):
        Tensor((4,), dtype, scale, zero_point)


def test_texts_are_bounded():
    with pytest.raises(LimitError, match="GRAPH_STRUCTURE_BYTES_MAX"):
        outline_of(b" " * (GRAPH_STRUCTURE_BYTES_MAX + 1))
