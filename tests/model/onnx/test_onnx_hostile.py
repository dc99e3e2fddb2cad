"""ONNX files that are broken, too large, or made to hurt: an error of ours, no crash, no large allocation, in time."""

from __future__ import annotations

import random
import time
import tracemalloc
from collections.abc import Iterator

import numpy as np
import pytest

pytest.importorskip("onnx", reason="the extra onnx is not here: NO ONNX FILE IS TESTED")

import onnx
from onnx import TensorProto, helper
from onnx_files import F32, Net

from edgeswarm.errors import LimitError, ModelError
from edgeswarm.limits import ONNX_DEPTH_MAX, ONNX_FIELDS_MAX, ONNX_PACKED_BYTES_MAX
from edgeswarm.model.onnx import imported
from edgeswarm.model.onnx.convert import READERS
from edgeswarm.model.onnx.folding import FOLDED

SEED = 7


def images() -> bytes:
    net = Net(["N", 2, 6, 6])
    net.add("Conv", net.random(4, 2, 3, 3), net.random(4), pads=[1, 1, 1, 1])
    net.add("BatchNormalization", net.random(4), net.random(4), net.random(4), net.number(np.ones(4)))
    net.add("Clip", net.number(0.0), net.number(6.0))
    net.add("MaxPool", kernel_shape=[2, 2], strides=[2, 2])
    x = net.add("Shape")
    net.add("Gather", net.number(0, np.int64), axis=0, reads=x)
    first = net.add("Unsqueeze", net.whole(0))
    shape = net.add("Concat", net.whole(-1), axis=0, reads=first)
    net.add("Reshape", shape, reads="v3")
    net.add("Gemm", net.random(36, 3), net.random(3))
    net.add("Softmax")
    return net.bytes()


def whole_numbers() -> bytes:
    net = Net(["N", 3, 8])
    steps = net.number(0.1), net.number(3, np.int8)
    net.add("QuantizeLinear", *steps)
    x = net.add("DequantizeLinear", *steps)
    weights = net.add("DequantizeLinear", net.number(np.ones((4, 3, 3)), np.int8), net.number(0.01), reads="")
    net.add("Conv", weights, reads=x, dilations=[2], pads=[4, 0])
    net.add("QuantizeLinear", *steps)
    net.add("DequantizeLinear", *steps)
    net.add("Slice", net.whole(-1), net.whole(2**40), net.whole(2))
    net.add("Pad", net.whole(0, 0, 1, 0, 0, 1))
    net.add("ReduceMean", axes=[2], keepdims=0)
    return net.bytes()


def broken(data: bytes, count: int, seed: int) -> Iterator[bytes]:
    """The file cut short, with bytes changed, with numbers made large, with a part twice or gone, with wrong nodes."""
    rng = random.Random(seed)
    for _ in range(count):
        made, at = bytearray(data), rng.randrange(len(data))
        how = rng.randrange(9)
        if how == 0:
            del made[at:]
        elif how == 1:
            for _ in range(rng.randint(1, 8)):
                made[rng.randrange(len(made))] = rng.randrange(256)
        elif how == 2:
            made[at : at + rng.randint(1, 4)] = rng.choice(
                [b"\xff" * 9 + b"\x01", b"\xff\xff\xff\xff\x07", b"\x00", b"\x80"]
            )
        elif how == 3:
            made[at:at] = made[at : at + rng.randint(1, 60)]
        elif how == 4:
            del made[at : at + rng.randint(1, 60)]
        else:
            made = bytearray(wrong_nodes(data, rng))
        yield bytes(made)


ODD = (0, 1, -1, 2, 3, 7, 255, 4097, 1 << 20, 1 << 31, (1 << 63) - 1, -(1 << 63))


def wrong_nodes(data: bytes, rng: random.Random) -> bytes:
    """A file that parses, with a few nodes, attributes or numbers that are others'."""
    proto = onnx.ModelProto.FromString(data)
    graph = proto.graph
    for _ in range(rng.randint(1, 3)):
        node, how = rng.choice(graph.node), rng.randrange(7)
        if how == 0 and node.input:
            node.input[rng.randrange(len(node.input))] = rng.choice(["", "input", *(t.name for t in graph.initializer)])
        elif how == 1:
            node.op_type = rng.choice([*READERS, *FOLDED])
        elif how == 2 and node.attribute:
            held = rng.choice(node.attribute)
            held.i = rng.choice(ODD)
            if held.ints:
                held.ints[rng.randrange(len(held.ints))] = rng.choice(ODD)
        elif how == 3:
            name = rng.choice(["axis", "axes", "pads", "group", "kernel_shape", "strides", "to", "perm", "keepdims"])
            value = rng.choice([rng.choice(ODD), [rng.choice(ODD) for _ in range(rng.randint(1, 4))], 0.5, "x"])
            node.attribute.append(helper.make_attribute(name, value))
        elif how == 4:
            held = rng.choice(graph.initializer)
            held.dims[:] = [rng.choice(ODD) for _ in range(rng.randint(0, 3))]
        elif how == 5:
            held = rng.choice([t for t in graph.initializer if t.data_type == 7] or graph.initializer)
            held.raw_data = b"".join(
                rng.choice(ODD).to_bytes(8, "little", signed=True) for _ in range(len(held.raw_data) // 8)
            )
        else:
            graph.node.insert(rng.randrange(len(graph.node)), rng.choice(graph.node))
    return bytes(proto.SerializeToString())


def survives(data: bytes, count: int, seed: int) -> None:
    """Each is read or refused by an error of ours; together they take a second a hundred and 64 MiB at most."""
    imported(data)
    tracemalloc.start()
    try:
        for number, made in enumerate(broken(data, count, seed)):
            begun = time.monotonic()
            try:
                imported(made)
            except (ModelError, LimitError):
                pass
            except BaseException:
                print(f"seed {seed}, number {number}: {made.hex()}")  # noqa: T201
                raise
            assert time.monotonic() - begun < 5
        assert tracemalloc.get_traced_memory()[1] < 64 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("make", [images, whole_numbers])
def test_mutated_files_are_read_or_refused(make) -> None:
    survives(make(), 250, SEED)


@pytest.mark.soak
@pytest.mark.parametrize("make", [images, whole_numbers])
def test_many_mutated_files_are_read_or_refused(make) -> None:
    survives(make(), 5_000, SEED + 1)


def test_every_beginning_of_a_file_is_refused() -> None:
    data = whole_numbers()
    for size in range(0, len(data) - 1, 7):
        with pytest.raises((ModelError, LimitError)):
            imported(data[:size])


def field(number: int, body: bytes) -> bytes:
    """A length-delimited field of protobuf."""
    size, head = len(body), bytearray([number << 3 | 2])
    while True:
        head.append(size & 127 | (128 if size > 127 else 0))
        size >>= 7
        if not size:
            return bytes(head) + body


def test_a_flood_of_empty_messages_is_refused_before_the_parser_sees_it() -> None:
    """Two bytes each in the file, some hundred each in memory."""
    flood = field(1, b"") * (ONNX_FIELDS_MAX + 1)
    for graph in (flood, field(11, field(2, field(1, field(2, field(1, b"") * (ONNX_FIELDS_MAX + 1)))))):
        with pytest.raises(LimitError, match="ONNX_FIELDS_MAX"):
            imported(b"\x08\x08" + field(7, graph))


def test_shapes_of_millions_of_axes_are_refused_before_the_parser_sees_them() -> None:
    tensor = field(1, bytes(ONNX_PACKED_BYTES_MAX + 1)) + b"\x10\x01"
    with pytest.raises(LimitError, match="ONNX_PACKED_BYTES_MAX"):
        imported(b"\x08\x08" + field(7, field(5, tensor)))
    tensor = field(1, bytes(1000)) + b"\x10\x01"
    with pytest.raises(ModelError, match="expected at most 8 axes of 0 and more, found .0, 0, 0"):
        imported(b"\x08\x08" + field(7, field(1, field(4, b"Relu")) + field(5, tensor)))


def test_messages_inside_each_other_end_somewhere() -> None:
    body = b""
    for _ in range(ONNX_DEPTH_MAX):
        body = field(1, field(5, field(6, body)))
    with pytest.raises(LimitError, match="ONNX_DEPTH_MAX"):
        imported(b"\x08\x08" + field(7, body))


def model(
    *nodes: object, numbers: tuple[object, ...] = (), shape: tuple[object, ...] = (1, 4), kind: int = F32
) -> bytes:
    graph = helper.make_graph(
        list(nodes),
        "net",
        [helper.make_tensor_value_info("x", kind, shape)],
        [helper.make_tensor_value_info("y", F32, None)],
        list(numbers),
    )
    return bytes(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]).SerializeToString())


def node(op: str, *inputs: str, **attrs: object) -> object:
    return helper.make_node(op, inputs or ("x",), ["y"], name="n", **attrs)


def numbers(name: str, dims: list[int], raw: bytes = b"", kind: int = F32, **more: object) -> object:
    made = TensorProto(name=name, data_type=kind, dims=dims, raw_data=raw)
    for key, value in more.items():
        setattr(made, key, value)
    return made


def elsewhere() -> object:
    made = numbers("w", [4], data_location=1)
    made.external_data.add(key="location", value="/etc/passwd")
    return made


WRONG = {
    "an open axis": (
        lambda: model(node("Relu"), shape=(1, "T")),
        "input 'x': expected sizes for all axes but the first",
    ),
    "a batch": (lambda: model(node("Relu"), shape=(8, 4)), "expected a batch of 1, or one left open, found 8"),
    "no batch": (lambda: model(node("Relu"), shape=(4,)), "expected a shape with the batch first"),
    "a wide input": (lambda: model(node("Relu"), shape=(1, 1 << 40)), "KERNEL_WIDTH_MAX"),
    "whole numbers in": (lambda: model(node("Relu"), kind=TensorProto.INT64), "expected float32, found int64"),
    "nothing to do": (lambda: model(node("Identity")), "found the input itself"),
    "no such operator": (
        lambda: model(node("Einsum", equation="ij->ij")),
        "node 0 .Einsum 'n'.: operator Einsum is not",
    ),
    "rows mixed": (
        lambda: model(node("Softmax", axis=0)),
        "node 0 .Softmax 'n'.: axis: expected one besides the first",
    ),
    "a value from nowhere": (lambda: model(node("Add", "x", "z")), "expected a node that makes 'z', found none"),
    "a loop": (lambda: model(node("Add", "x", "y")), "expected inputs that are made before it, found 'y'"),
    "huge numbers": (
        lambda: model(node("Add", "x", "w"), numbers=(numbers("w", [1 << 40]),)),
        "expected 1099511627776 numbers, found 0",
    ),
    "few bytes": (lambda: model(node("Add", "x", "w"), numbers=(numbers("w", [4], b"123"),)), "16 bytes, found 3"),
    "negative axes": (lambda: model(node("Add", "x", "w"), numbers=(numbers("w", [-4]),)), "axes of 0 and more"),
    "numbers in another file": (
        lambda: model(node("Add", "x", "w"), numbers=(elsewhere(),)),
        "expected its numbers in the file, found them in another",
    ),
    "a NaN": (
        lambda: model(node("MatMul", "x", "w"), numbers=(numbers("w", [4, 1], b"\xff" * 16),)),
        "weights: expected finite numbers",
    ),
    "a dividend of 0": (
        lambda: model(node("Div", "x", "w"), numbers=(numbers("w", [1], bytes(4)),)),
        "expected a divisor without 0",
    ),
    "numbers that become many": (
        lambda: model(
            helper.make_node("ConstantOfShape", ["s"], ["c"]),
            node("Add", "x", "c"),
            numbers=(numbers("s", [2], (1 << 33).to_bytes(8, "little") * 2, TensorProto.INT64),),
        ),
        "node 0 .ConstantOfShape ''.: steps without rows: at most",
    ),
    "numbers that become many pairs": (
        lambda: model(
            helper.make_node("Add", ["a", "b"], ["c"]),
            node("Add", "x", "c"),
            numbers=(numbers("a", [1 << 14, 1], bytes(4 << 14)), numbers("b", [1, 1 << 14], bytes(4 << 14))),
        ),
        "steps without rows: at most",
    ),
    "an image that grows": (
        lambda: model(
            helper.make_node("Pad", ["x", "p"], ["y"]),
            numbers=(numbers("p", [4], np.array([0, 0, 0, 1 << 22], "<i8").tobytes(), TensorProto.INT64),),
        ),
        "GRAPH_TENSOR_VALUES_MAX",
    ),
    "half of an attribute": (lambda: model(node("Flatten", axis="1")), "axis: expected a whole number, found '1'"),
    "an output that no such operator has": (
        lambda: model(helper.make_node("Relu", ["x"], ["a", "b"]), node("Add", "x", "b")),
        "node 1 .Add 'n'.: expected a node that makes 'b'",
    ),
    "a sum with rows in a third place": (
        lambda: model(node("Add", "w", "w", "x"), numbers=(numbers("w", [1], bytes(4)),)),
        "expected two inputs, found 3",
    ),
    "factors in a row that do not fit": (
        lambda: model(
            helper.make_node("Mul", ["x", "v"], ["a"]),
            node("Mul", "a", "w"),
            numbers=(numbers("v", [4], b"\0\0\0?" * 4), numbers("w", [2], b"\0\0\0?" * 2)),
        ),
        "node 1 .Mul 'n'.: expected shapes that are equal but for axes of 1, found .4. and .2.",
    ),
    "no weights": (lambda: model(node("MatMul", "x")), "expected an input 1, found none"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_named(name: str) -> None:
    make, says = WRONG[name]
    with pytest.raises((ModelError, LimitError), match=says):
        imported(make())


def test_several_inputs_or_outputs_are_named() -> None:
    net = Net([1, 4])
    first = net.add("Relu")
    second = net.add("Tanh")
    with pytest.raises(ModelError, match="outputs: expected one, or one of float32, found 2: 'v0' .float32., 'v1'"):
        imported(net.bytes(first, second))
    proto = onnx.ModelProto.FromString(net.bytes())
    proto.graph.input.append(helper.make_tensor_value_info("other", F32, [1, 4]))
    with pytest.raises(ModelError, match="inputs: expected one, found 2: 'input', 'other'"):
        imported(proto.SerializeToString())


def test_opsets_of_other_times_are_refused() -> None:
    for opset in (6, 99):
        net = Net([1, 4], opset)
        net.add("Relu")
        with pytest.raises(ModelError, match=f"opset: expected 7 to [0-9]+, found {opset}"):
            imported(net.bytes())


def test_weights_that_many_layers_share_are_counted_each_time() -> None:
    """A file of 4 MiB would become 16 GiB of layers."""
    net = Net([1, 1024])
    weights = net.number(np.zeros((1024, 1024)))
    for _ in range(300):
        net.add("MatMul", weights)
        net.add("Tanh")
    with pytest.raises(LimitError, match="AF_SECTION_BYTES_MAX"):
        imported(net.bytes())
