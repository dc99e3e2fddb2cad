"""A causal net that is given frames, and its memory, answers as it does for whole windows."""

from __future__ import annotations

import random

import numpy as np
import pytest
from frame_streams import played
from numpy.typing import NDArray

from edgeswarm.errors import ModelError
from edgeswarm.model.graph import Builder, Graph, forward
from edgeswarm.model.nodes import Tensor
from edgeswarm.model.streaming import Streamed, macs_of, streamed

F64 = NDArray[np.float64]
ONCE = {"stride": (1, 1), "dilation": (1, 1), "activation": "linear"}


class Net:
    """Adds layers along the first axis of [frames, 1, channels]."""

    def __init__(self, length: int, channels: int, seed: int = 0) -> None:
        self.builder, self.rng = Builder(Tensor((length, 1, channels))), np.random.default_rng(seed)
        self.at = 0

    @property
    def shape(self) -> tuple[int, ...]:
        return self.builder.tensors[self.at].shape

    def numbers(self, *shape: int) -> NDArray[np.float32]:
        return self.rng.normal(0, 0.4, shape).astype(np.float32)

    def add(self, op: str, *more: int, params: dict[str, NDArray[np.float32]] | None = None, **attrs: object) -> int:
        self.at = self.builder.add(op, [self.at, *more], params, **attrs)  # type: ignore[arg-type]
        return self.at

    def conv(self, filters: int, kernel: int, pad: tuple[int, int] = (0, 0), dilation: int = 1, stride: int = 1) -> int:
        params = {"weights": self.numbers(kernel, 1, self.shape[2], filters), "bias": self.numbers(filters)}
        window = {"kernel": (kernel, 1), "stride": (stride, 1), "dilation": (dilation, 1), "pad": (*pad, 0, 0)}
        return self.add("conv2d", params=params, filters=filters, activation="relu", **window)

    def cut(self, start: int, at: int | None = None) -> int:
        """Without the first places."""
        self.at = self.at if at is None else at
        return self.add("strided_slice", start=(start, 0, 0), stop=self.shape, step=(1, 1, 1))

    def pool(self, op: str, kernel: int, stride: int) -> int:
        return self.add(op, kernel=(kernel, 1), stride=(stride, 1), pad=(0, 0, 0, 0), activation="linear")

    def answers(self, units: int = 3) -> Graph:
        """A dense layer over all that is left."""
        size = int(np.prod(self.shape))
        self.add("reshape", shape=(size,))
        params = {"weights": self.numbers(size, units), "bias": self.numbers(units)}
        return self.builder.graph(self.add("dense", params=params, units=units, activation="linear"))

    def graph(self) -> Graph:
        return self.builder.graph(self.at)


def agrees(graph: Graph, frames: int, more: int = 3) -> Streamed:
    """The window's own answer with its last frame; where it says so, that of each later window."""
    made = streamed(graph, frames)
    shape = graph.tensors[graph.input].shape
    rows = np.random.default_rng(1).normal(
        size=(*shape[: made.axis], made.length + more * frames, *shape[made.axis + 1 :])
    )
    answers = played(made, rows.astype(np.float32))
    for call in range(made.length // frames - 1, len(answers) if made.windows else made.length // frames):
        last = (call + 1) * frames
        window = np.take(rows, range(last - made.length, last), made.axis).astype(np.float32)
        wanted = forward(graph, window.reshape(1, -1))[0]
        np.testing.assert_allclose(answers[call], wanted[-len(answers[call]) :], atol=1e-5, rtol=1e-5)
    return made


@pytest.mark.parametrize("frames", [1, 2, 8])
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("end", ["frame", "all", "mean", "sequence"])
def test_stacks_of_dilated_convolutions_with_skips(frames: int, padded: bool, end: str) -> None:
    """A temporal convolutional net (Bai, Kolter and Koltun 2018): each layer looks back further, and adds its input."""
    net = Net(32, 4)
    for dilation in (1, 2, 4):
        before = net.at
        net.conv(4, 3, (2 * dilation, 0) if padded else (0, 0), dilation)
        behind = net.at
        if not padded:
            before = net.cut(2 * dilation, before)
        net.at = behind
        net.add("add", before, activation="linear")
    left = net.shape[0]
    if end == "frame":
        net.cut(left - 1)
    if end == "mean":
        net.add("mean", axes=(0,), keep=0)
    made = agrees(net.graph() if end == "sequence" else net.answers(), frames)
    assert made.windows == (not padded or end in ("frame", "sequence"))
    assert made.macs < {1: 0.45, 2: 0.5, 8: 0.75}[frames] * macs_of(net.builder.graph(net.at))


@pytest.mark.parametrize("frames", [4, 8])
def test_strides_and_pools_end_on_the_last_frame(frames: int) -> None:
    """17 places of a kernel of 3 and a stride of 2, then pools: what is left over lies at the start."""
    net = Net(24, 2)
    net.cut(1)
    net.conv(3, 3, stride=2)
    net.pool("max_pool", 2, 1)
    net.cut(1)
    net.pool("average_pool", 3, 1)
    assert agrees(net.answers(), frames).windows


def test_time_may_be_any_axis_and_be_moved() -> None:
    net = Net(16, 3)
    net.builder = Builder(Tensor((3, 16)))
    net.add("transpose", perm=(1, 0))
    net.add("reshape", shape=(16, 1, 3))
    net.conv(5, 4)
    net.add("transpose", perm=(1, 2, 0))
    net.add("elementwise", activation="tanh")
    net.add("reshape", shape=(5, 13))
    net.add("transpose", perm=(1, 0))
    net.add("softmax", beta=1.0)
    made = agrees(net.answers(), 2)
    assert (made.axis, made.length, made.memory) == (1, 16, 3 * 3 + 5 * 11)


def test_a_softmax_over_time_meets_the_whole_window() -> None:
    net = Net(12, 3)
    net.conv(2, 3)
    net.add("reshape", shape=(10, 2))
    net.add("transpose", perm=(1, 0))
    net.add("softmax", beta=1.0)
    assert agrees(net.answers(), 2).windows


@pytest.mark.parametrize(("frames", "windows"), [(1, True), (4, False)])
def test_answers_that_zeros_had_a_part_in_are_not_those_of_later_windows(frames: int, windows: bool) -> None:
    """Of 8 places the first 6 have seen zeros; a call of 4 answers with two of them."""
    net = Net(8, 2)
    net.conv(2, 4, (3, 0))
    net.conv(2, 4, (3, 0))
    assert agrees(net.graph(), frames).windows == windows


def test_tensors_of_8_bits_are_remembered_to_the_step() -> None:
    """The memory holds what they stand for; on the grid the way there and back is exact."""
    net, like = Net(12, 2), {"scale": 0.02, "zero_point": 3}
    tensor = Tensor((1,), "i8", **like)  # type: ignore[arg-type]
    net.at = net.builder.add("affine_quantize", [net.at], like=tensor)
    for dilation in (1, 2):
        channels = net.shape[2]
        params = {
            "weights": net.rng.integers(-127, 128, (2, 1, channels, 4)).astype(np.int8),
            "bias": net.rng.integers(-500, 500, 4).astype(np.int32),
            "multiplier": np.full(4, 1 << 30, np.int32),
            "shift": np.full(4, -5, np.int32),
        }
        window = {"kernel": (2, 1), "stride": (1, 1), "dilation": (dilation, 1), "pad": (dilation, 0, 0, 0)}
        net.at = net.builder.add("conv2d_i8", [net.at], params, like=tensor, filters=4, low=-128, high=127, **window)  # type: ignore[arg-type]
    net.cut(11)
    net.add("dequantize")
    made = streamed(net.graph(), 1)
    rows = np.random.default_rng(2).uniform(-2, 2, (15, 1, 2)).astype(np.float32)
    for last, answer in enumerate(played(made, rows), start=1):
        if last >= 12:
            assert answer.tolist() == forward(net.graph(), rows[last - 12 : last].reshape(1, -1))[0].tolist()


REASONS = ("nothing is saved", "no layer looks back", "padding behind a layer without it")


def random_net(seed: int) -> tuple[Graph, int]:
    rng = random.Random(seed)
    net = Net(24, 2, seed)
    padded = rng.random() < 0.5
    for _ in range(rng.randint(1, 5)):
        how = rng.randrange(6)
        kernel, dilation = rng.randint(1, 3), rng.randint(1, 2)
        reach = (kernel - 1) * dilation
        if how < 3 and net.shape[0] > reach + 4:
            before = net.at
            after = net.conv(rng.choice([2, 3]), kernel, (reach, 0) if padded else (0, 0), dilation)
            if net.builder.tensors[before].shape[2] == net.shape[2]:
                before = before if padded else net.cut(reach, before)
                net.at = after
                net.add(rng.choice(["add", "mul"]), before, activation="linear")
        elif how == 3 and net.shape[0] > 6:
            net.cut(rng.randint(1, 3))
        elif how == 4 and net.shape[0] > 6:
            net.pool(rng.choice(["max_pool", "average_pool"]), rng.randint(2, 3), 1)
        else:
            net.add("elementwise", activation=rng.choice(["tanh", "sigmoid"]))
    if rng.random() < 0.3:
        net.add("mean", axes=(0,), keep=1)
    if rng.random() < 0.3:
        net.cut(net.shape[0] - 1)
    return net.answers() if rng.random() < 0.7 else net.graph(), rng.choice([1, 1, 2, 3, 4, 6])


@pytest.mark.parametrize("block", range(4))
def test_random_causal_nets(block: int) -> None:
    streams = 0
    for seed in range(block * 25, block * 25 + 25):
        graph, frames = random_net(seed)
        try:
            agrees(graph, frames, 2)
            streams += 1
        except ModelError as error:
            assert any(reason in str(error) for reason in REASONS), (seed, str(error))
        except AssertionError:
            raise AssertionError(f"seed {seed}") from None
    assert streams >= 9


def test_nets_that_look_ahead_are_refused_with_the_node() -> None:
    net = Net(16, 2)
    net.conv(3, 3, (1, 1))
    with pytest.raises(ModelError, match=r"axis 0 of 16: node 0 \(conv2d\): .*look ahead, found one that sees 1 past"):
        streamed(net.answers(), 1)


@pytest.mark.parametrize(
    "make,frames,says",
    [
        (
            lambda net: net.conv(2, 3, stride=2),
            2,
            "node 0 .conv2d.: stride 2: expected one that ends on the last frame",
        ),
        (
            lambda net: net.conv(2, 2, stride=2),
            1,
            "stride 2: expected calls of a multiple of it at this layer, found 1",
        ),
        (lambda net: net.conv(2, 3), 5, "expected frames that divide 16, and fewer, found 5"),
        (lambda net: net.conv(2, 3), 16, "expected frames that divide 16, and fewer, found 16"),
        (lambda net: net.add("elementwise", activation="tanh"), 1, "nothing is saved|no layer looks back"),
        (
            lambda net: net.add("max_pool", kernel=(3, 1), stride=(1, 1), pad=(2, 0, 0, 0), activation="linear"),
            1,
            "expected a pool that is not padded along time",
        ),
        (lambda net: net.add("pad", pads=(0, 1, 0, 0, 0, 0), value=0.0), 1, "no padding behind the last frame"),
    ],
)
def test_what_cannot_be_a_stream_says_why(make, frames: int, says: str) -> None:
    net = Net(16, 2)
    make(net)
    with pytest.raises(ModelError, match=says):
        streamed(net.graph(), frames)


def test_a_memory_past_the_bound_is_refused() -> None:
    net = Net(64, 128)
    net.conv(64, 64)
    with pytest.raises(ModelError, match="at most 4096 values .MEMORY_WIDTH_MAX., found 8064"):
        streamed(net.answers(), 1)


def test_a_gate_over_the_window_meets_the_whole_window() -> None:
    """Squeeze and excitation: what is remembered met another gate than this window's, so it is not used."""
    net = Net(12, 3)
    before = net.conv(3, 3)
    net.add("mean", axes=(0,), keep=1)
    net.add("elementwise", activation="sigmoid")
    net.add("mul", before, activation="linear")
    net.conv(2, 3)
    assert agrees(net.answers(), 1).windows
