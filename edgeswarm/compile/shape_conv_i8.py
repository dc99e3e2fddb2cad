"""All numbers that shape the code of an 8-bit convolution or dense layer, and where its packed weights lie.

They follow from the outline alone; `pack_conv_i8.py` fills what they describe, `lower_conv_i8.py` makes code of them.
"""

from __future__ import annotations

from dataclasses import dataclass

from edgeswarm.compile.abi import ALIGN_BYTES
from edgeswarm.compile.held import REST_BYTES
from edgeswarm.model.graph import Outline
from edgeswarm.model.ops_spatial import Window, window_of

RECORD_BYTES = 128
MAGIC = 1.5 * 2.0**52
FLAG = 80
FORM = 84
PANEL_VECTORS = 4
FLAT_STEPS_MAX = 64  # steps that are written out; more become loops
UNROLL_MAX = 48  # steps in a loop's body
HELD_STEPS_MAX = 64  # vectors of inputs that a dense layer's sums of kept weights have in a loop's body
PART_TAPS_MAX = 49  # taps of a depthwise kernel that are written out
PAIRED_WIDTH_MAX = 7  # columns of a depthwise kernel whose weights lie in registers
PAIRED_TAPS_MAX = 28  # columns of all pairs of rows of such a kernel


@dataclass(frozen=True, slots=True)
class Shape:
    """All numbers that shape a convolution's code.  inputs: channels read; `zero`, `zero_out`: zero points.

    times: how often each channel counts as one of the widened input (a depthwise multiplier).  once: whether sums are
    rounded once, as in dense layers.
    """

    height: int
    width: int
    inputs: int
    outputs: int
    window: Window
    depthwise: bool
    times: int
    zero: int
    zero_out: int
    low: int
    high: int
    once: bool = False

    @property
    def dense(self) -> bool:
        return self.once and self.window.height == 1  # rows_tflite has more places

    @property
    def signed(self) -> bool:
        """Whether the sign of a sum matters to how it is rounded: not where all below the zero point is the same."""
        return self.low < self.zero_out and not self.once

    @property
    def pointwise(self) -> bool:
        """Whether each output place reads the input place of its own number."""
        plain = self.window.kernel == (1, 1) and self.window.stride == (1, 1) and not any(self.window.pad)
        return plain and not self.depthwise

    @property
    def picked(self) -> bool:
        """Whether a kernel of one place skips places, which are left out when rows are widened."""
        window = self.window
        plain = window.kernel == (1, 1) and window.stride != (1, 1) and not any(window.pad)
        return plain and not self.depthwise and self.inputs % 16 == 0

    @property
    def strides(self) -> tuple[int, int]:
        """Rows and places of the widened input from one output to the next."""
        return (1, 1) if self.picked else self.window.stride

    @property
    def paired(self) -> bool:
        """Whether a depthwise convolution reads its rows in pairs (rows.wat), the fast way; else taps.wat does any."""
        (down, _), window = self.window.stride, self.window
        fits = window.kernel[1] <= PAIRED_WIDTH_MAX and self.pairs * window.kernel[1] <= PAIRED_TAPS_MAX
        plain = self.times == 1 and window.dilation == (1, 1) and (down == 1 or down % 2 == 0)
        return self.depthwise and plain and fits

    @property
    def tables(self) -> int:
        """Tables of weights of `paired`: two where every other row of outputs begins amid a pair."""
        return 2 if self.window.stride[0] == 1 else 1

    @property
    def pairs(self) -> int:
        """Pairs of rows that hold what a row of outputs reads, or two of them."""
        return -(-(self.window.kernel[0] + self.tables - 1) // 2)

    @property
    def vectors(self) -> int:
        """Vectors of 4 sums that a place has."""
        return 2 * -(-self.outputs // 8) if self.depthwise and not self.paired else -(-self.outputs // 4)

    @property
    def read_zero(self) -> int:
        """What the zero point is in the numbers that are multiplied: dense layers move them to 0 and above."""
        return self.zero + 128 if self.dense else self.zero

    @property
    def factor_bytes(self) -> int:
        return 96 if self.signed else 64

    @property
    def channels(self) -> int:
        """Values of a place of the widened input."""
        return self.inputs * self.times

    @property
    def winograd(self) -> bool:
        """Whether a 3 x 3 convolution goes by transforms of tiles (winograd.wat): where channels are enough to pay.

        Its weights take 8 times their bytes (strided: 18 times), so not where they leave the second cache; sums stay
        below 2^25.  Groups of tiles do not write in the order of places, so outputs are whole vectors, which write
        nothing behind them.
        """
        window = self.window
        plain = window.kernel == (3, 3) and window.dilation == (1, 1) and not self.depthwise
        if not plain or self.outputs % 16 or min(window.height, window.width) < 4:
            return False
        if self.strided:  # 81 products for each tile, and not much more of them than places pay with 9 each
            down, groups, tiles = self.tiles
            pays = 12 * down * groups * tiles <= window.height * window.width
            return pays and self.inputs in (16, 24, 32) and self.inputs * self.outputs <= 2048
        return window.stride == (1, 1) and 3 <= self.inputs <= 128 and self.inputs * self.outputs <= 8192

    @property
    def strided(self) -> bool:
        """Whether it goes two places a step, which are tiles of another kind."""
        return self.window.stride == (2, 2)

    @property
    def tile_products(self) -> int:
        """Products for each channel of a tile, of each output."""
        return 81 if self.strided else 36

    @property
    def tile_inputs(self) -> tuple[int, int]:
        """Values of a place of a tile's transform that are multiplied, in pairs, and that lie there, in vectors."""
        return 2 * -(-self.inputs // 2), 8 * -(-self.inputs // 8)

    @property
    def tiles(self) -> tuple[int, int, int]:
        """Of a convolution by transforms: tiles down, groups of tiles across, tiles of a group."""
        across = -(-self.window.width // 4)
        groups = -(-across // 4)
        return -(-self.window.height // 4), groups, -(-across // groups)

    # --- how the sums of a convolution that is not depthwise are cut into steps of 2 values

    @property
    def segments(self) -> tuple[int, int, int]:
        """Groups of segments, segments in a group, values of a segment: all that lies side by side is one."""
        (kh, kw), gap = self.window.kernel, self.window.dilation[1]
        return (kh, kw, self.inputs) if gap > 1 and kw > 1 else (kh, 1, kw * self.inputs)

    @property
    def rounds(self) -> tuple[int, int]:
        """Bodies that a segment has, steps of a body."""
        groups, segments, values = self.segments
        steps = -(-values // 2)
        rounds = 1 if groups * segments * steps <= FLAT_STEPS_MAX else -(-steps // UNROLL_MAX)
        return rounds, -(-steps // rounds)

    @property
    def steps(self) -> int:
        groups, segments, _ = self.segments
        rounds, unroll = self.rounds
        return groups * segments * rounds * unroll

    @property
    def bodies(self) -> tuple[int, int]:
        """Bodies that a dense layer's sums have, and vectors of 16 inputs in a body: up to 8, which i16 holds."""
        vectors = -(-self.inputs // 16)
        bodies = -(-vectors // 8)
        return bodies, -(-vectors // bodies)

    @property
    def held_bodies(self) -> tuple[int, int]:
        """The same, of sums of kept weights: as many of `bodies` in one as are written out."""
        bodies, steps = self.bodies
        together = max(each for each in range(1, HELD_STEPS_MAX // steps + 1) if bodies % each == 0)
        return bodies // together, steps * together

    # --- how the taps of a depthwise one are

    @property
    def parts(self) -> tuple[int, int, int]:
        """Parts down and across that a depthwise kernel is cut into, and the columns of a part."""
        kh, kw = self.window.kernel
        if kh * kw <= PART_TAPS_MAX:
            return 1, 1, kw
        across = -(-kw // PART_TAPS_MAX)
        return kh, across, -(-kw // across)

    @property
    def part_rows(self) -> int:
        """Rows of a kernel in a part."""
        return self.window.kernel[0] // self.parts[0]

    @property
    def part_bytes(self) -> int:
        return (self.part_rows * self.parts[2] + 1) // 2 * 32 * (self.vectors // 2)

    @property
    def places(self) -> int:
        """Places of a row that rows.wat does at once: sums and weights in 16 registers."""
        most = 8 if self.window.kernel[1] <= 3 else 6 if self.window.kernel[1] <= 5 else 4
        return -(-self.window.width // -(-self.window.width // most))

    @property
    def biases(self) -> int:
        """Biases in a record: one for each place where these are a whole row, which then needs no margins."""
        return self.places if self.places == self.window.width and any(self.window.pad[2:]) else 1

    @property
    def numbers_at(self) -> int:
        """Bytes of a record before its weights."""
        return 16 * self.biases + self.factor_bytes

    @property
    def record_bytes(self) -> int:
        """Bias, factors and weights of 4 channels, in one table of `paired`."""
        return self.numbers_at + 16 * self.pairs * self.window.kernel[1]

    @property
    def table_bytes(self) -> int:
        """Records of all channels, one table of `paired`."""
        return self.vectors * self.record_bytes

    # --- places in the packed node

    @property
    def factors_at(self) -> int:
        return RECORD_BYTES

    @property
    def short_signed(self) -> bool:
        """Whether, in float32, numbers below the zero point count.  (`signed` asks whether they round otherwise.)"""
        return self.low < self.zero_out

    @property
    def bias_at(self) -> int:
        return aligned(self.factors_at + self.factor_bytes * self.vectors + 4 * self.vectors)

    @property
    def raw_at(self) -> int:
        return RECORD_BYTES if self.paired else aligned(self.bias_at + 16 * self.vectors)

    @property
    def signed_bias_at(self) -> int:
        """Of dense layers: the bias where kept weights meet numbers as they are held, not from 0 on."""
        return self.raw_at + 32 * self.vectors

    @property
    def weights_at(self) -> int:
        return aligned(self.raw_at + (48 if self.dense else 32) * self.vectors)

    @property
    def rest_at(self) -> int:
        """Of dense layers: what kept weights lack."""
        return self.weights_at + self.weights_bytes

    @property
    def rest_most(self) -> int:
        """Entries of it that have room: more would not pay (pack_dense_i8.py)."""
        return max(16, self.inputs * self.outputs // 64) if self.dense else 0

    @property
    def weights_bytes(self) -> int:
        if self.dense:
            return 64 * self.vectors * self.bodies[0] * self.bodies[1]
        if self.winograd:
            return self.tile_products * 2 * self.tile_inputs[0] * 4 * self.vectors
        if self.paired:
            return self.tables * self.table_bytes
        if self.depthwise:
            return self.parts[0] * self.parts[1] * self.part_bytes
        return 16 * self.steps * self.vectors

    @property
    def size(self) -> int:
        return aligned(self.rest_at + REST_BYTES * self.rest_most) if self.dense else self.rest_at


def shape_of(outline: Outline, index: int) -> Shape:
    """The shape of a node of conv2d_i8, depthwise_i8, or of a dense layer of one place or (rows_tflite) of many."""
    node = outline.nodes[index]
    x, y = outline.tensors[node.inputs[0]], outline.tensors[node.output]
    low, high = (int(node.attrs[name]) for name in ("low", "high"))  # type: ignore[arg-type]
    if node.op in ("dense_tflite", "rows_tflite"):
        places = 1 if node.op == "dense_tflite" else x.size // x.shape[-1]
        window = Window((1, 1), (1, 1), (1, 1), (0, 0, 0, 0), places, 1)
        sizes = places, 1, x.size // places, y.size // places
        return Shape(*sizes, window, False, 1, x.zero_point, y.zero_point, low, high, True)
    height, width, inputs = x.shape
    depthwise = node.op == "depthwise_i8" and inputs > 1  # with one channel it is an ordinary convolution
    times = y.shape[2] // inputs if depthwise else 1
    window = window_of(x, node.attrs)
    return Shape(height, width, inputs, y.shape[2], window, depthwise, times, x.zero_point, y.zero_point, low, high)


def aligned(size: int) -> int:
    return -(-size // ALIGN_BYTES) * ALIGN_BYTES
