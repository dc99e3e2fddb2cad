"""An ONNX file as a graph: step by step, each operator by its reader.

What is refused is named with its index, its operator and its name, and with what can be done.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from edgeswarm.errors import LimitError, ModelError
from edgeswarm.limits import KERNEL_WIDTH_MAX, ONNX_FOLDED_VALUES_MAX
from edgeswarm.model.graph import Graph
from edgeswarm.model.onnx import dense, linear_models, pointwise, quantised, shapes, spatial
from edgeswarm.model.onnx.draft import Draft, Held, plain
from edgeswarm.model.onnx.file import File, Step, Value, parse
from edgeswarm.model.onnx.folding import fold

OPSETS = 7, 28
"""Before 7, Add and Mul say by attributes how they are repeated; past the last, operators may mean something else."""

Reader = Callable[[Draft, Step], None]
READERS: Mapping[str, Reader] = {
    "Conv": spatial.conv,
    "MaxPool": spatial.max_pool,
    "AveragePool": spatial.average_pool,
    "GlobalAveragePool": spatial.global_average_pool,
    "Resize": spatial.resize,
    "Upsample": spatial.resize,
    "GlobalMaxPool": spatial.global_max_pool,
    "Gemm": dense.gemm,
    "MatMul": dense.matmul,
    "BatchNormalization": dense.batch_normalization,
    "Relu": pointwise.activation,
    "Sigmoid": pointwise.activation,
    "Tanh": pointwise.activation,
    "LeakyRelu": pointwise.leaky_relu,
    "PRelu": pointwise.prelu,
    "Gelu": pointwise.gelu,
    "Clip": pointwise.clip,
    "HardSigmoid": pointwise.hard_sigmoid,
    "HardSwish": pointwise.hard_swish,
    "Softmax": pointwise.softmax,
    "Add": pointwise.pair,
    "Sub": pointwise.pair,
    "Mul": pointwise.pair,
    "Div": pointwise.pair,
    "Sum": pointwise.several,
    "Max": pointwise.several,
    "Min": pointwise.several,
    "Neg": pointwise.negate,
    "Identity": shapes.identity,
    "Dropout": shapes.identity,
    "Cast": shapes.cast,
    "Reshape": shapes.reshape,
    "Flatten": shapes.flatten,
    "Squeeze": shapes.squeeze,
    "Unsqueeze": shapes.unsqueeze,
    "Transpose": shapes.transpose,
    "Concat": shapes.concat,
    "Pad": shapes.pad,
    "Slice": shapes.slice_,
    "Split": shapes.split,
    "Gather": shapes.gather,
    "ReduceMean": shapes.reduce_mean,
    "QuantizeLinear": quantised.quantize,
    "DequantizeLinear": quantised.dequantize,
    "Scaler": linear_models.scaler,
    "LinearRegressor": linear_models.linear_regressor,
    "LinearClassifier": linear_models.linear_classifier,
    "Normalizer": linear_models.normalizer,
}
"""Operator -> its reader; those of _ML are of ai.onnx.ml."""

_ML = {"Scaler", "LinearRegressor", "LinearClassifier", "Normalizer"}
_ADVICE: Mapping[str, str] = {
    **dict.fromkeys(("LSTM", "GRU", "RNN"), "a net that remembers: convolutions over a window do without"),
    **dict.fromkeys(("If", "Loop", "Scan"), "export with fixed shapes and without branches (torch.onnx.export traces)"),
    **dict.fromkeys(
        ("QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger", "DynamicQuantizeLinear", "QGemm"),
        "quantise with QuantFormat.QDQ and static quantisation",
    ),
    "ConvTranspose": "Upsampling is not supported yet",
    "TreeEnsembleClassifier": "trees are no networks: keep them where they are",
    "TreeEnsembleRegressor": "trees are no networks: keep them where they are",
    "LayerNormalization": "BatchNormalization is folded away and costs nothing",
}


@dataclass(frozen=True, slots=True)
class Imported:
    """graph; shapes of the file's input and output without the batch; what else there is to tell."""

    graph: Graph
    ir_version: int
    opset: int
    producer: str
    operators: Mapping[str, int]
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    notes: tuple[str, ...]


def imported(data: bytes, *, who: str = "") -> Imported:
    """The graph of an ONNX file.

    Raises ModelError naming the step and what can be done, LimitError, LocalError where the extra `onnx` is absent.
    """
    try:
        return _imported(parse(data))
    except ModelError as error:
        raise ModelError(str(error), who=who) from None
    except LimitError as error:
        raise LimitError(f"{who}: {error}" if who else str(error)) from None


def _imported(file: File) -> Imported:
    if not OPSETS[0] <= file.opset <= OPSETS[1]:
        raise ModelError(
            f"opset: expected {OPSETS[0]} to {OPSETS[1]}, found {file.opset}; onnx.version_converter.convert_version "
            "makes another of it"
        )
    value, shape = _input(file)
    output, notes = _output(file)
    needed = _needed(file, output.name)
    draft = Draft(file, shape, value.name)
    draft.uses = Counter(name for index in needed for name in file.steps[index].inputs)
    draft.uses[output.name] += 1
    draft.values[value.name] = Held(shape, 0, shape, plain(len(shape)), sole=draft.uses[value.name] == 1)
    room = ONNX_FOLDED_VALUES_MAX
    for index in needed:
        step = file.steps[index]
        try:
            room -= _convert(draft, step, room)
        except (ModelError, LimitError) as error:
            raise type(error)(f"node {index} ({step.op[:40]} {step.name[:60]!r}): {error}") from None
    answer = draft.values.get(output.name)
    if not isinstance(answer, Held):
        raise ModelError(f"output {output.name[:60]!r}: expected values that the input decides, found the same always")
    tensor = draft.in_order(answer, plain(answer.rank))
    if draft.builder.tensors[tensor].dtype != "f32":
        raise ModelError(
            f"output {output.name[:60]!r}: expected float, found 8 bits; keep the DequantizeLinear at the end"
        )
    if tensor == 0:
        raise ModelError("expected an output that is computed, found the input itself")
    operators = dict(sorted(Counter(file.steps[index].op for index in needed).items()))
    return Imported(
        draft.finished(tensor),
        file.ir_version,
        file.opset,
        file.producer,
        operators,
        shape,
        answer.shape,
        (*notes, *draft.notes),
    )


def _input(file: File) -> tuple[Value, tuple[int, ...]]:
    """The one input, and its shape without the batch."""
    if len(file.inputs) != 1:
        names = ", ".join(repr(value.name[:40]) for value in file.inputs[:8])
        raise ModelError(f"inputs: expected one, found {len(file.inputs)}: {names}; join them in one before the export")
    value = file.inputs[0]
    where = f"input {value.name[:60]!r}"
    if value.dtype != "float32":
        raise ModelError(f"{where}: expected float32, found {value.dtype}; export with a float input")
    if value.shape is None or len(value.shape) < 2:
        found = "none" if value.shape is None else _axes(value.shape)
        raise ModelError(f"{where}: expected a shape with the batch first, found {found}")
    if None in value.shape[1:]:
        raise ModelError(
            f"{where}: expected sizes for all axes but the first, found {_axes(value.shape)}; export with fixed sizes "
            "(onnxruntime.tools.make_dynamic_shape_fixed does it to a file)"
        )
    if value.shape[0] not in (None, 0, 1, -1):
        raise ModelError(f"{where}: expected a batch of 1, or one left open, found {value.shape[0]}; export with 1")
    shape = tuple(size for size in value.shape[1:] if size is not None)
    if min(shape) < 1 or np.prod(shape, dtype=np.float64) > KERNEL_WIDTH_MAX:
        raise LimitError(f"{where}: expected 1 to {KERNEL_WIDTH_MAX} values (KERNEL_WIDTH_MAX), found {list(shape)}")
    return value, shape


def _axes(shape: tuple[int | None, ...]) -> str:
    return "[" + ", ".join("?" if size is None else str(size) for size in shape) + "]"


def _output(file: File) -> tuple[Value, list[str]]:
    """The output of the agent: the only one, or the only one of floats; for a ZipMap's names, what it reads."""
    named = {step.outputs[0]: step.inputs[0] for step in file.steps if step.op == "ZipMap" and step.inputs}
    outputs = [Value(named[v.name], "float32", None) if v.name in named else v for v in file.outputs]
    if len(outputs) == 1:
        return outputs[0], []
    floats = [value for value in outputs if value.dtype == "float32"]
    if len(floats) != 1:
        names = ", ".join(f"{value.name[:40]!r} ({value.dtype})" for value in outputs[:8])
        raise ModelError(
            f"outputs: expected one, or one of float32, found {len(outputs)}: {names}; "
            "onnx.utils.extract_model keeps one"
        )
    left = ", ".join(repr(value.name[:40]) for value in outputs if value is not floats[0])
    return floats[0], [f"the agent answers {floats[0].name[:40]!r}; left out: {left}"]


def _needed(file: File, output: str) -> list[int]:
    """The steps that the output needs, in order.  Raises ModelError for values that nothing makes in time."""
    maker: dict[str, int] = {}
    known = set(file.numbers) | {value.name for value in file.inputs} | {""}
    for index, step in enumerate(file.steps):
        for name in step.outputs:
            if name and (name in known or name in maker):
                raise ModelError(f"node {index} ({step.op[:40]} {step.name[:60]!r}): writes {name[:60]!r} again")
            maker[name] = index
    wanted: set[int] = set()
    stack = [output]
    while stack:
        name = stack.pop()
        if name in known:
            continue
        if name not in maker:
            raise ModelError(f"expected a node that makes {name[:60]!r}, found none")
        if (index := maker[name]) not in wanted:
            wanted.add(index)
            stack.extend(file.steps[index].inputs)
    for index in wanted:
        late = [name for name in file.steps[index].inputs if name and name not in known and maker[name] >= index]
        if late:
            raise ModelError(f"node {index}: expected inputs that are made before it, found {late[0][:60]!r}")
    return sorted(wanted)


def _convert(draft: Draft, step: Step, room: int) -> int:
    """One step.  Returns how many numbers it made without a row."""
    if not step.outputs or not step.outputs[0]:
        raise ModelError("expected a first output, found none")
    if missing := [name for name in step.inputs if name and name not in draft.values]:
        raise ModelError(f"expected a node that makes {missing[0][:60]!r}, found one that has no such output")
    inputs = [draft.values[name] if name else None for name in step.inputs]
    held = [value for value in inputs if isinstance(value, Held)]
    if step.op == "Shape" and held and not step.domain:
        whole = np.array((1, *held[0].shape), np.int64)
        start, end = step.attrs.get("start", 0), step.attrs.get("end", len(whole))
        draft.put(step, whole[start:end] if isinstance(start, int) and isinstance(end, int) else whole)
        return 0
    if not held:
        numbers = [value for value in inputs if not isinstance(value, Held)]
        if step.op == "DequantizeLinear":
            made = quantised.dequantize_numbers(draft, step)
        else:
            folded = fold(step, numbers, room)
            if folded is None:
                raise _unknown(step, "of numbers alone ")
            made = folded
        draft.put(step, made)
        return int(made.size)
    reader = READERS.get(step.op)
    if reader is None or step.domain != ("ai.onnx.ml" if step.op in _ML else ""):
        raise _unknown(step, "")
    if not step.inputs[0] or not all(step.inputs[:1]):
        raise ModelError("expected a first input, found none")
    before = [draft.builder.tensors[value.tensor].dtype for value in held]
    if set(before) != {"f32"} and step.op not in ("DequantizeLinear", "Identity", *_MOVES):
        raise ModelError("expected floats, found a quantised value; DequantizeLinear comes between")
    reader(draft, step)
    return 0


_MOVES = ("Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Slice", "Split", "Concat", "Gather", "MaxPool")


def _unknown(step: Step, of: str) -> ModelError:
    known = ", ".join(sorted(READERS))
    domain = f" of {step.domain[:40]}" if step.domain else ""
    advice = _ADVICE.get(step.op, "another operator in the model, or one of these in its place")
    return ModelError(f"operator {step.op[:40]}{domain} {of}is not supported ({advice}); supported: {known}")
