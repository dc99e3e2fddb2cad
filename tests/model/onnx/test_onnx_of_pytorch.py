"""Models and answers that PyTorch wrote, as the `onnx` package carries them for those who read ONNX."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("onnx", reason="the extra onnx is not here: NO ONNX FILE IS TESTED")

import onnx
from onnx import numpy_helper

from edgeswarm.errors import LimitError, ModelError
from edgeswarm.model.graph import forward
from edgeswarm.model.onnx import imported

FOLDERS = sorted(Path(onnx.__file__).parent.glob("backend/test/data/pytorch-*/*"))
REASONS = (
    "expected one or two axes besides", "expected channels and one or two axes", "KERNEL_WIDTH_MAX", "GRAPH_AXES_MAX",
    "mode: expected constant", "rows do not mix", "for one row", "is not supported", "expected float32",
    "with the batch first", "expected 1 for a pool", "expected 1 to 4 axes", "that are equal but for axes of 1",
)  # fmt: skip
"""Why a file may be refused: three axes, several rows at once, reflecting pads, operators that are none of ours."""


def arrays(folder: Path, name: str) -> list[np.ndarray]:
    """The tensors `name`_0.pb, ... of a folder."""
    paths = sorted((folder / "test_data_set_0").glob(f"{name}_*.pb"))
    return [numpy_helper.to_array(onnx.TensorProto.FromString(path.read_bytes())) for path in paths]


def for_one_row(folder: Path) -> tuple[bytes, np.ndarray, np.ndarray]:
    """The file with a batch of 1 and an opset that is read, its rows, and PyTorch's answers.

    Opset 6 is 7 with another way to say how operands are repeated, which these files do not use.
    """
    proto, inputs = onnx.ModelProto.FromString((folder / "model.onnx").read_bytes()), arrays(folder, "input")
    if any(held.name == "broadcast" and held.i for node in proto.graph.node for held in node.attribute):
        pytest.skip("repeats its operands by an attribute that opset 7 has not")
    proto.opset_import[0].version = max(7, proto.opset_import[0].version)
    for value, array in zip(proto.graph.input[1:], inputs[1:], strict=False):
        proto.graph.initializer.append(numpy_helper.from_array(array, value.name))
    shape = proto.graph.input[0].type.tensor_type.shape
    if shape.dim:
        shape.dim[0].dim_value = 1
    return proto.SerializeToString(), inputs[0], arrays(folder, "output")[0]


@pytest.mark.skipif(not FOLDERS, reason="this version of onnx has no models of PyTorch")
def test_models_of_pytorch_answer_as_pytorch_or_are_refused_for_a_reason() -> None:
    counts: Counter[str] = Counter()
    for folder in FOLDERS:
        try:
            data, rows, wanted = for_one_row(folder)
        except pytest.skip.Exception:
            continue
        try:
            made = imported(data)
        except (ModelError, LimitError) as error:
            assert any(reason in str(error) for reason in REASONS), (folder.name, str(error))
            counts["refused"] += 1
            continue
        found = forward(made.graph, rows.reshape(len(rows), -1))
        np.testing.assert_allclose(found.reshape(-1), wanted.reshape(-1), atol=1e-5, rtol=1e-4, err_msg=folder.name)
        counts["read"] += 1
    assert counts["read"] >= 50
