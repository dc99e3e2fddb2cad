"""TFLite files from anywhere: what is wrong is said, with operator or tensor; nothing crashes, nothing is huge."""

from __future__ import annotations

import random
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tflite_cases import FORMS, Case
from tflite_files import RELU, SAME, TANH, VALID, Net, litert

from edgeswarm.errors import LimitError, ModelError
from edgeswarm.model.graph import forward
from edgeswarm.model.tflite import file as module
from edgeswarm.model.tflite import is_tflite
from edgeswarm.model.tflite.convert import load
from edgeswarm.model.tflite.file import read

MODELS = Path(__file__).resolve().parents[4] / "shared" / "data" / "mlperf-tiny"
CONV = {"Padding": SAME, "StrideH": 1, "StrideW": 1, "FusedActivationFunction": RELU}


class Small:
    """A convolution of 8 bits, a reshape, a fully connected layer, a softmax; all of it can be changed."""

    def __init__(self) -> None:
        net = self.net = Net()
        dice = np.random.default_rng(1)
        self.x = net.tensor((1, 4, 4, 2), "i8", scale=0.5, zero_point=3, signature=(-1, 4, 4, 2))
        scales = [0.25, 0.5, 0.125]
        self.w = net.constant(dice.integers(-127, 128, (3, 3, 3, 2)), "i8", scale=scales)
        self.b = net.constant(dice.integers(-900, 900, 3), "i32", scale=[s * 0.5 for s in scales])
        self.c = net.tensor((1, 4, 4, 3), "i8", scale=2.0, zero_point=-128, signature=(-1, 4, 4, 3))
        self.conv = net.op("CONV_2D", [self.x, self.w, self.b], [self.c], version=3, **CONV)
        self.axes = net.constant([-1, 48])
        self.flat = net.tensor((1, 48), "i8", scale=2.0, zero_point=-128, signature=(-1, 48))
        self.reshape = net.op("RESHAPE", [self.c, self.axes], [self.flat])
        self.v = net.constant(dice.integers(-127, 128, (5, 48)), "i8", scale=0.25)
        self.d = net.tensor((1, 5), "i8", scale=9.0, zero_point=7)
        self.dense = net.op("FULLY_CONNECTED", [self.flat, self.v, -1], [self.d], version=4)
        self.y = net.tensor((1, 5), "i8", scale=1 / 256, zero_point=-128)
        self.softmax = net.op("SOFTMAX", [self.d], [self.y], version=2, Beta=1.0)

    @property
    def file(self) -> bytes:
        return self.net.file([self.x], [self.y])


# --- what is read -----------------------------------------------------------------------------------------------------


def test_a_whole_file_is_read_and_computes_what_litert_does() -> None:
    data = Small().file
    assert is_tflite(data)
    made = load(data)
    assert made.operators == {"CONV_2D": 1, "RESHAPE": 1, "FULLY_CONNECTED": 1, "SOFTMAX": 1}
    macs = sum(made.graph.macs_of(index) for index in range(len(made.graph.nodes)))
    assert (macs, made.exact) == (4 * 4 * 3 * 18 + 48 * 5, True)
    held = np.random.default_rng(0).integers(-128, 128, (5, 1, 4, 4, 2))
    ours = forward(made.graph, 0.5 * (held.reshape(5, -1) - 3))
    assert (ours * 256 - 128 == litert(data, held).reshape(5, 5)).all()


@pytest.mark.parametrize("path", sorted(MODELS.glob("*.tflite")), ids=lambda path: path.stem)
def test_models_of_mlperf_tiny_compute_what_the_reference_kernels_do(path: Path) -> None:
    """8 bits to the bit.  The float32 kws has weights of 8 bits, which LiteRT computes in 8 bits, we in float32."""
    data = path.read_bytes()
    made = load(data)
    graph, dice = made.graph, np.random.default_rng(3)
    shape = (2, *graph.tensors[graph.input].shape)
    if made.exact:
        q = graph.tensors[graph.nodes[0].output]
        held = dice.integers(-128, 128, shape)
        ours, last = forward(graph, q.scale * (held - q.zero_point)), graph.tensors[graph.nodes[-1].inputs[0]]
        assert (np.rint(ours / last.scale) + last.zero_point == litert(data, held).reshape(2, -1)).all()
    else:
        held = dice.normal(size=shape).astype(np.float32)
        ours, theirs = forward(graph, held), litert(data, held).reshape(2, -1)
        near = 0.1 if made.notes else 1e-5
        assert np.abs(ours - theirs).max() <= near * np.abs(theirs).max()


def test_names_that_cannot_be_shown_are_shown_harmlessly() -> None:
    net = Net()
    x, y = net.tensor((1, 3), name="a\x1b[2J\n" + "b" * 5000), net.tensor((1, 3), "i16")
    net.op("RELU", [x], [y])
    with pytest.raises(ModelError) as error:
        load(net.file([x], [y]))
    assert "\x1b" not in str(error.value) and len(str(error.value)) < 300
    assert read(net.file([x], [y])).tensors[x].name.startswith("a?[2J?bbb")


# --- what is refused --------------------------------------------------------------------------------------------------

Change = Callable[[Small], object]


def tensor(name: str, **fields: object) -> Change:
    def change(small: Small) -> None:
        for field, value in fields.items():
            setattr(small.net.tensors[getattr(small, name)], field, value)

    return change


def op(name: str, **fields: object) -> Change:
    def change(small: Small) -> None:
        for field, value in fields.items():
            setattr(getattr(small, name), field, value)

    return change


def options(name: str, **fields: object) -> Change:
    return lambda small: getattr(small, name).options.update(fields)


UNKNOWN = "operator 3 ({}): not an operator that can be imported; "

REFUSED: dict[str, tuple[Change, str]] = {
    "dynamic shape": (tensor("x", signature=(-1, -1, 4, 2)), "fixed shape but for the batch, found [?, ?, 4, 2]"),
    "batch": (tensor("x", shape=(7, 4, 4, 2)), "expected a batch of 1"),
    "no shape": (tensor("x", shape=(), signature=()), "expected a fixed shape"),
    "an axis of 0": (tensor("x", shape=(1, 0, 4, 2), signature=()), "axes"),
    "an axis below 0": (tensor("c", shape=(1, -4, 4, 3)), "tensor 3 (t3): expected a shape"),
    "9 axes": (tensor("c", shape=(1,) * 9, signature=()), "expected at most 8 axes, found 9"),
    "another shape": (tensor("c", shape=(1, 4, 5, 3)), "(CONV_2D): output 0, tensor 3 (t3): expected the shape"),
    "16 bits": (tensor("x", dtype="i16"), "expected f32 or i8, found i16; convert it to float32 or full int8"),
    "unsigned 8 bits": (tensor("x", dtype="u8"), "operator 0 (CONV_2D): input 0, tensor 0 (t0): expected f32 or i8"),
    "a variable": (tensor("c", variable=True), "expected a plain tensor, found one that is a variable"),
    "a sparse tensor": (
        tensor("w", sparse=True, data=np.zeros(9)),
        "input 1, tensor 1 (t1): expected a plain tensor, found one that is sparse; convert it without sparsity",
    ),
    "sparse weights": (
        op("softmax", code="DENSIFY", table=""),
        UNKNOWN.format("DENSIFY") + "its weights are sparse: convert it without sparsity, or the file can run",
    ),
    "no operators": (lambda small: small.net.ops.clear(), "expected one that is computed, found none"),
    "float weights": (tensor("w", dtype="f32"), "expected weights of i8, found f32"),
    "computed weights": (op("conv", inputs=[0, 0, 2]), "expected constant weights, found what another"),
    "an unknown operator": (op("softmax", code="LSTM", table=""), UNKNOWN.format("LSTM") + "convert it with the l"),
    "state": (op("softmax", code="VAR_HANDLE", table=""), UNKNOWN.format("VAR_HANDLE") + "convert it without state"),
    "a custom operator": (op("softmax", code="CUSTOM", custom="X\nY", table=""), UNKNOWN.format("custom 'X?Y'")),
    "a number": (op("softmax", code=9999, table=""), UNKNOWN.format("number 9999") + "replace it"),
    "options of another": (op("softmax", table="AddOptions", options={}), "(SOFTMAX): expected SoftmaxOptions"),
    "no options": (op("softmax", table="", options={}), "(SOFTMAX): expected its options (Beta), found none"),
    "a tensor that is not there": (op("dense", inputs=[99, 6]), "operator 2 (FULLY_CONNECTED), inputs: expected"),
    "a tensor of later": (op("conv", inputs=[7, 1, 2]), "expected a tensor that an earlier operator writes"),
    "written twice": (op("reshape", outputs=[3, 5]), "found one that is written already"),
    "no input": (op("dense", inputs=[]), "expected an input 0, found 0 inputs"),
    "no output": (op("dense", outputs=[]), "expected a tensor that an earlier operator writes, found none"),
    "no scale": (tensor("c", scale=(), zero_point=()), "expected one scale and zero point, found 0 and 0"),
    "two scales": (tensor("c", scale=(1.0, 2.0), zero_point=(0, 0)), "expected one scale and zero point, found 2"),
    "a scale of 0": (tensor("c", scale=(0.0,)), "expected a scale above 0"),
    "a scale below 0": (tensor("x", scale=(-1.0,)), "expected a scale above 0"),
    "an infinite scale": (tensor("c", scale=(float("inf"),)), "expected a scale above 0"),
    "a scale that is none": (tensor("c", scale=(float("nan"),)), "expected a scale above 0"),
    "a zero point beyond": (tensor("c", zero_point=(128,)), "expected a zero point from -128 to 127, found 128"),
    "a zero point far beyond": (tensor("c", zero_point=(1 << 62,)), "expected a zero point from -128 to 127"),
    "scales of two channels": (tensor("w", scale=(1.0, 2.0), zero_point=(0, 0)), "expected 1 or 3 scales along axis 0"),
    "scales along another axis": (tensor("w", axis=3), "found 3 along 3"),
    "weights with a zero point": (tensor("w", zero_point=(0, 1, 0)), "expected zero points of 0 for weights"),
    "a bias with a scale that is none": (tensor("b", scale=(float("nan"),) * 3), "expected scales of input times"),
    "weights with a scale that is none": (tensor("w", scale=(1.0, float("nan"), 1.0)), "expected scales above 0"),
    "a bias of another scale": (tensor("b", scale=(9.0, 9.0, 9.0)), "expected scales of input times weights"),
    "a bias of other channels": (tensor("b", data=np.zeros(4), shape=(4,)), "expected 3 values"),
    "a softmax of other steps": (tensor("y", scale=(0.5,)), "expected scale 1/256 and zero point -128"),
    "bytes that do not fit": (tensor("w", data=np.zeros(7)), "tensor 1 (t1): expected 54 bytes for [3, 3, 3, 2]"),
    "a buffer that is not there": (tensor("w", buffer=1000), "expected one of 10 buffers, found 1000"),
    "a stride of 0": (options("conv", StrideH=0), "expected at least 1"),
    "a stride below 0": (options("conv", StrideW=-1), "expected at least 1"),
    "a huge dilation": (options("conv", DilationHFactor=1 << 30), "dilation"),
    "a padding that is none": (options("conv", Padding=7), "expected SAME (0) or VALID (1), found 7"),
    "groups that are none": (tensor("w", shape=(3, 3, 3, 5), data=np.zeros((3, 3, 3, 5))), "equal groups of them"),
    "a fused tanh": (options("conv", FusedActivationFunction=TANH), "fused activation: expected NONE, RELU, RELU6"),
    "a kernel larger than the image": (
        lambda small: (
            tensor("w", shape=(3, 6, 1, 2), data=np.zeros((3, 6, 1, 2)))(small), options("conv", Padding=VALID)(small)
        ),
        "expected one that fits into the height 4",
    ),
    "shuffled weights": (options("dense", WeightsFormat=1), "expected them row by row (format 0), found format 1"),
    "a shape of other values": (tensor("axes", data=np.array([-1, 7])), "expected one for the 48 values"),
    "two open axes": (tensor("axes", data=np.array([-1, -1])), "expected one for the 48 values"),
    "a beta that is none": (options("softmax", Beta=float("nan")), "beta: expected a number, found nan"),
    "version 2": (lambda small: setattr(small.net, "version", 2), "version: expected 3, found 2"),
    "no subgraph": (lambda small: setattr(small.net, "subgraphs", 0), "subgraphs: expected one, found none"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_fit_is_refused_and_named(name: str) -> None:
    small = Small()
    change, said = REFUSED[name]
    change(small)
    with pytest.raises((ModelError, LimitError)) as error:
        load(small.file, who="x.tflite")
    assert said in str(error.value), str(error.value)
    assert str(error.value).startswith("x.tflite: ")


def test_every_file_that_is_not_one_is_refused() -> None:
    for data in (b"", b"TFL3", b"\0\0\0\0TFL3", b"\x1c\0\0\0TFL3" + bytes(20), b"\xff" * 4 + b"TFL3" + b"\xff" * 999):
        with pytest.raises(ModelError):
            load(data)


def test_a_file_beyond_the_bound_is_not_even_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    data = Small().file
    monkeypatch.setattr(module, "MODEL_FILE_BYTES_MAX", len(data) - 1)
    with pytest.raises(LimitError, match="MODEL_FILE_BYTES_MAX"):
        read(data)


# --- what would be large, or long -------------------------------------------------------------------------------------


def peak_and_seconds(data: bytes) -> tuple[int, float]:
    """Bytes at most and time while a file is refused."""
    tracemalloc.start()
    start = time.perf_counter()
    try:
        with pytest.raises((ModelError, LimitError)):
            load(data)
        return tracemalloc.get_traced_memory()[1], time.perf_counter() - start
    finally:
        tracemalloc.stop()


def test_layers_that_share_weights_do_not_make_them_many() -> None:
    """Some 260 KB of weights, read by 400 layers: 100 MB if nobody counted."""
    net = Net()
    weights = net.constant(np.zeros((512, 512)), "i8", scale=1.0)
    at = x = net.tensor((1, 512), "i8", scale=1.0, zero_point=0)
    for _ in range(400):
        after = net.tensor((1, 512), "i8", scale=1.0, zero_point=0)
        net.op("FULLY_CONNECTED", [at, weights, -1], [after], version=4)
        at = after
    data = net.file([x], [at])
    with pytest.raises(LimitError, match="TFLITE_PARAMS_RATIO_MAX"):
        load(data)
    peak, seconds = peak_and_seconds(data)
    assert peak < 32 * len(data), (peak, len(data))
    assert seconds < 30


def test_what_is_declared_is_not_allocated() -> None:
    """Tensors of 2^31 - 1 values on every axis."""
    for name in ("x", "c", "flat"):
        small = Small()
        shape = small.net.tensors[getattr(small, name)].shape
        tensor(name, shape=tuple((1 << 31) - 1 if n > 1 else 1 for n in shape), signature=None)(small)
        assert peak_and_seconds(small.file)[0] < 4_000_000


@pytest.mark.parametrize(
    "code", ["TILE", "FILL", "RESIZE_NEAREST_NEIGHBOR", "TRANSPOSE_CONV", "SPACE_TO_BATCH_ND", "PAD"]
)
def test_numbers_that_make_much_of_little_are_refused(code: str) -> None:
    """Repetitions, sides, gaps and padding of 2^31 - 1, wherever an operator takes numbers."""
    much, net = (1 << 31) - 1, Net()
    x = net.tensor((1, 2, 2, 1))
    numbers = {
        "TILE": [1, much, 1, 1], "FILL": [much, 1], "RESIZE_NEAREST_NEIGHBOR": [much, much],
        "TRANSPOSE_CONV": [1, much, much, 1], "SPACE_TO_BATCH_ND": [1, 1], "PAD": [[0, 0], [much, much], *[[0, 0]] * 2],
    }[code]  # fmt: skip
    given, y = net.constant(numbers), net.tensor((1, 2, 2, 1), signature=(-1, -1, -1, -1))
    read, more = [x, given], {}
    if code == "FILL":
        read, more = [given, net.constant(0.5, "f32")], {}
        y = net.tensor((1, 2), signature=(-1, -1))
    if code == "TRANSPOSE_CONV":
        read, more = (
            [given, net.constant(np.ones((1, 1, 1, 1)), "f32"), x],
            {"Padding": SAME, "StrideH": much, "StrideW": 1},
        )
    if code == "SPACE_TO_BATCH_ND":
        read = [x, given, net.constant([[much, much], [0, 0]])]
    net.op(code, read, [y], version=2, **more)
    last = net.tensor((1, 2, 2, 1), signature=(-1, -1, -1, -1))
    net.op("ADD", [x, y] if code != "FILL" else [y, x], [last])
    assert peak_and_seconds(net.file([x], [last]))[0] < 4_000_000


def test_more_work_than_a_call_can_do_is_refused() -> None:
    net = Net()
    x, y = net.tensor((1, 256, 256, 1)), net.tensor((1, 256, 256, 16))
    at = x
    weights, bias = net.constant(np.zeros((16, 1, 1, 1)), "f32"), net.constant(np.zeros(16), "f32")
    net.op("CONV_2D", [at, weights, bias], [y], **CONV)
    wide, bias16 = net.constant(np.zeros((16, 31, 31, 16)), "f32"), net.constant(np.zeros(16), "f32")
    after = net.tensor((1, 256, 256, 16))
    net.op("CONV_2D", [y, wide, bias16], [after], **CONV)
    again, answer = net.tensor((1, 256, 256, 16)), net.tensor((1, 16))
    net.op("CONV_2D", [after, wide, bias16], [again], **CONV)
    net.op("MEAN", [again, net.constant([1, 2])], [answer], KeepDims=False)
    with pytest.raises(LimitError, match="GRAPH_MACS_MAX"):
        load(net.file([x], [answer]))


def many_axes(code: str) -> bytes:
    """An operator that makes a known tensor of more axes than there can be, one after the other or at once."""
    net = Net()
    x = net.tensor((1,))
    one, held = net.constant([1.0], "f32"), net.tensor((), "f32")
    if code == "FILL":
        net.op(code, [net.constant([1] * 70), one], [held])
    elif code == "RESHAPE":
        net.op(code, [one, net.constant([1] * 33)], [held])
    else:
        at, more = one, {"Axis": 0} if code == "PACK" else {}
        for _ in range(70):
            held = net.tensor((), "f32")
            net.op(code, [at] if more else [at, net.constant([0])], [held], **more)
            at = held
    answer = net.tensor((1,))
    net.op("ADD", [x, held], [answer], FusedActivationFunction=0)
    return net.file([x], [answer])


@pytest.mark.parametrize("code", ["FILL", "RESHAPE", "EXPAND_DIMS", "PACK"])
def test_more_axes_than_there_can_be_are_refused(code: str) -> None:
    with pytest.raises(ModelError, match=f"{code}.*expected at most 8 axes"):
        load(many_axes(code))


@pytest.mark.parametrize("known", [False, True], ids=["computed", "known"])
@pytest.mark.parametrize("code", ["CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "SPACE_TO_BATCH_ND"])
def test_one_number_without_axes_is_refused_where_axes_are_wanted(code: str, known: bool) -> None:
    net = Net()
    x, y = net.tensor((1,)), net.tensor((), "f32")
    number = net.constant(np.ones(()), "f32") if known else net.tensor(())
    if not known:
        net.op("RESHAPE", [x, net.constant(np.zeros(0, int))], [number])
    if code == "FULLY_CONNECTED":
        weights = net.constant(np.ones((1, 1)), "f32")
        net.op(code, [number, weights], [y], FusedActivationFunction=0, WeightsFormat=0, KeepNumDims=True)
    elif code == "SPACE_TO_BATCH_ND":
        net.op(code, [number, net.constant([1]), net.constant([[0, 0]])], [y])
    else:
        more = {"DepthMultiplier": 1} if code == "DEPTHWISE_CONV_2D" else {}
        net.op(code, [number, net.constant(np.ones((1, 1, 1, 1)), "f32")], [y], **CONV, **more)
    with pytest.raises(ModelError, match=code):
        load(net.file([x], [y]))


def test_windows_that_look_at_too_much_are_refused() -> None:
    net = Net()
    x, y = net.tensor((1, 512, 512, 1)), net.tensor((1, 512, 512, 1))
    pool = {"Padding": SAME, "StrideH": 1, "StrideW": 1, "FilterHeight": 511, "FilterWidth": 511}
    net.op("AVERAGE_POOL_2D", [x], [y], **pool, FusedActivationFunction=0)
    answer = net.tensor((1, 1))
    net.op("MEAN", [y, net.constant([1, 2])], [answer], KeepDims=False)
    with pytest.raises(LimitError, match="GRAPH_MACS_MAX"):
        load(net.file([x], [answer]))


def test_all_vectors_together_are_no_longer_than_the_file() -> None:
    """Tables that share bytes are counted each time: 16,384 of them cannot make gigabytes of one vector."""
    data = Small().file
    file = read(data)
    spent = sum(4 * len(op.inputs + op.outputs) for op in file.ops)
    spent += sum(0 if t.data is None else t.data.nbytes for t in file.tensors)
    reader = module._Reader(data)
    assert spent < reader.left == len(data)
    reader.left = spent
    with pytest.raises(ModelError, match="within the file's"):
        reader.file()


# --- bytes by chance --------------------------------------------------------------------------------------------------


def fuzz(count: int, seed: int) -> int:
    """How many of `count` mutated files, of every form, were read as a model; the others raise what they may."""
    dice, good = random.Random(seed), 0
    bases = [Small().file]
    for form, i8 in FORMS:
        case = Case(seed)
        x, y = form(case, i8)
        bases.append(case.net.file([x], [y]))
    for _ in range(count):
        data = bytearray(dice.choice(bases))
        kind = dice.random()
        for _ in range(dice.choice((1, 1, 2, 4, 16))):
            at = dice.randrange(8, len(data) - 4)
            if kind < 0.5:
                data[at] = dice.choice((0, 1, 2, 127, 128, 255, dice.randrange(256)))
            else:
                value = dice.choice((0, 1, -1, 4, (1 << 31) - 1, -(1 << 31), len(data), dice.randrange(64)))
                data[at & ~3 : (at & ~3) + 4] = value.to_bytes(4, "little", signed=True)
        if kind > 0.9:
            del data[dice.randrange(8, len(data)) :]
        try:
            load(bytes(data))
            good += 1
        except (ModelError, LimitError):
            pass
    return good


def test_500_mutated_files_are_models_or_faults_that_are_told() -> None:
    assert 0 < fuzz(500, 1) < 400


def test_mutated_files_take_little_memory() -> None:
    tracemalloc.start()
    try:
        fuzz(40, 3)
        assert tracemalloc.get_traced_memory()[1] < 4_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.soak
def test_10_000_mutated_files_are_models_or_faults_that_are_told() -> None:
    assert 0 < fuzz(10_000, 2) < 8_000


def test_every_truncated_file_is_refused() -> None:
    """Or is the same model: behind the last table stands padding alone."""
    base = Small().file
    whole = load(base)
    for length in [*range(64), *range(64, len(base), 17), *range(len(base) - 40, len(base))]:
        try:
            assert load(base[:length]).operators == whole.operators
        except (ModelError, LimitError):
            pass
