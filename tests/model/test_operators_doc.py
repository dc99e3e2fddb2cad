"""docs/operators.md is right: its table names every operator with its attrs and params, and its example runs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from edgeswarm.limits import (
    AF_SECTION_BYTES_MAX,
    GRAPH_MACS_MAX,
    GRAPH_NODES_MAX,
    GRAPH_READS_MAX,
    GRAPH_TENSOR_VALUES_MAX,
    WINDOW_SIDE_MAX,
)
from edgeswarm.model.graph import Tensor
from edgeswarm.model.ops import OPS
from edgeswarm.model.ops_spatial import PADDED_VALUES_MAX
from tests.model.test_ops_attrs import BASES

DOC = (Path(__file__).resolve().parents[2] / "docs" / "operators.md").read_text()
ROWS = {
    row[0].strip("` "): row
    for line in DOC.splitlines()
    if line.startswith("| `") and len(row := line[2:].split("|")) == 6
}
FLAT = {
    "dense": ([Tensor((3,))], {"units": 2, "activation": "relu"}),
    "dense_i8": ([Tensor((3,), "i8")], {"units": 2, "activation": "relu"}),
    "dense_fann": ([Tensor((3,))], {"units": 2, "activation": "sigmoid", "bias": 3}),
    "sparse_fann": ([Tensor((3,))], {"units": 2, "activation": "sigmoid", "connections": 4}),
}


def test_the_table_has_every_operator_and_no_other():
    assert set(ROWS) == set(OPS)


@pytest.mark.parametrize("op", OPS)
def test_attrs_and_params_are_those_of_the_code(op):
    _, _, attrs, params, *_ = ROWS[op]
    assert set(re.findall(r"`(\w+)`", attrs)) == set(OPS[op].attrs)
    inputs, given = (BASES | FLAT).get(op, ([Tensor((3,))], {}))
    assert set(re.findall(r"`(\w+)`", params)) == set(OPS[op].params(inputs, given))


def test_the_example_prints_what_it_says(capsys):
    example = re.search(r"```python\n(.*?)```", DOC, re.DOTALL)
    assert example is not None
    exec(example[1], {})
    said = re.search(r"# (\[\[.*\]\])", example[1])
    assert said is not None and capsys.readouterr().out.strip() == said[1]


def test_bounds_are_those_of_the_code():
    assert (GRAPH_TENSOR_VALUES_MAX, PADDED_VALUES_MAX, GRAPH_MACS_MAX) == (1 << 22, 1 << 24, 1 << 34)
    assert (AF_SECTION_BYTES_MAX, GRAPH_NODES_MAX, GRAPH_READS_MAX, WINDOW_SIDE_MAX) == (256 << 20, 4096, 16384, 4096)
