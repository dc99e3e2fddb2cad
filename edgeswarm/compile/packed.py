"""A population of equal, small nets in one memory: four agents a vector, each with weights of its own.

One call of `run` computes every agent's row.  Inputs and outputs are rows end to end, as numpy has them; weights lie by
groups of four agents (`wasm_kernels/packed/sums.wat`).  Nothing isolates one agent from another in here.
Invariants of a PackedLayout: regions are multiples of 64 and do not overlap; groups * 4 >= count; the agents that fill
up the last group compute on zeros.
Equal nets give equal code for one count; the weights are the host's to write, also while the population lives.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from edgeswarm.assets import asset
from edgeswarm.compile.library import library
from edgeswarm.compile.template import Template, Value
from edgeswarm.compile.wasm import PAGE_BYTES, without_custom
from edgeswarm.errors import InputError, LimitError, LocalError
from edgeswarm.limits import (
    POPULATION_PACKED_BYTES_MAX,
    POPULATION_PACKED_MAX,
    POPULATION_PARAMETERS_MAX,
)
from edgeswarm.model.mlp import Dense, Mlp

F32 = NDArray[np.float32]
Stacked = Sequence[tuple[F32, F32]]
"""For each layer weights float32[agents, inputs, outputs] and bias float32[agents, outputs]."""

LANES = 4
_VECTOR_BYTES = 16
_COLUMNS_MAX = 7  # outputs whose sums 16 registers hold, as in dense_f32/gemv.wat
_PASS_UNROLL = 8  # vectors a round in an activation (pass_unroll of the manifest)
_UNROLL = 16
_BLOCK_BYTES = 8192  # of values between two layers, so that a block's stay in the first cache with their weights
_BLOCK_GROUPS_MAX = 64
_RESERVED_BYTES = 1024
_PACK_AGENTS = 65_536  # agents whose weights are rearranged at a time: copies stay small
_FMA = {
    "fast": {"fma": "f32x4.relaxed_madd", "into": ""},
    "deterministic": {"fma": "f32x4.add (f32x4.mul", "into": ")"},
}


@dataclass(frozen=True, slots=True)
class PackedLayer:
    """One dense layer of four agents: panels of up to _COLUMNS_MAX outputs, each a row of bias and one for each input.

    offset: bytes from the group's weights.
    """

    inputs: int
    outputs: int
    activation: str
    offset: int

    @property
    def width(self) -> int:
        """Outputs of each panel but the last."""
        return -(-self.outputs // -(-self.outputs // _COLUMNS_MAX))

    @property
    def panels(self) -> int:
        return self.outputs // self.width

    @property
    def last(self) -> int:
        return self.outputs % self.width

    @property
    def vectors(self) -> int:
        return (self.inputs + 1) * self.outputs


@dataclass(frozen=True, slots=True)
class PackedLayout:
    """Where a packed population lies in its memory; offsets and sizes in bytes."""

    count: int
    layers: tuple[PackedLayer, ...]
    input_offset: int
    output_offset: int
    weights_offset: int
    group_bytes: int
    block_groups: int
    scratch: tuple[int, int]
    memory_bytes: int

    @property
    def inputs(self) -> int:
        return self.layers[0].inputs

    @property
    def outputs(self) -> int:
        return self.layers[-1].outputs

    @property
    def groups(self) -> int:
        return -(-self.count // LANES)

    @property
    def weights_bytes(self) -> int:
        return self.groups * self.group_bytes


@dataclass(frozen=True, slots=True)
class PackedKernel:
    """wasm: exports `memory`, `run` and `run_batch` (which is `run`), imports nothing."""

    wasm: bytes
    layout: PackedLayout


def compile_packed(model: Mlp, count: int, *, mode: str = "fast") -> PackedKernel:
    """A kernel for `count` agents of this model's widths and activations.

    mode: `fast` or `deterministic`, as of `compile_mlp`.  Raises LimitError past POPULATION_PACKED_MAX,
    POPULATION_PACKED_BYTES_MAX or POPULATION_PARAMETERS_MAX, LocalError for an unknown mode.
    """
    import wasmtime  # on the operator's machine only, and not before it is needed

    layout = lay_out(model, count)
    return PackedKernel(without_custom(bytes(wasmtime.wat2wasm(emit_packed(layout, mode))), "name"), layout)


def driver_wasm() -> bytes:
    """The module that ticks a table of isolated agents (wasm_kernels/population/driver.wat)."""
    import wasmtime

    return without_custom(bytes(wasmtime.wat2wasm(asset("wasm_kernels", _manifest()["driver"]).read_text())), "name")


def lay_out(model: Mlp, count: int) -> PackedLayout:
    """Where everything lies.  Raises LimitError when it is too much."""
    if not 1 <= count <= POPULATION_PACKED_MAX:
        raise LimitError(f"count: expected 1 to {POPULATION_PACKED_MAX} (POPULATION_PACKED_MAX), found {count}")
    if model.parameters > POPULATION_PARAMETERS_MAX:
        raise LimitError(
            f"packed model: at most {POPULATION_PARAMETERS_MAX} weights and biases (POPULATION_PARAMETERS_MAX), "
            f"found {model.parameters}; isolation=instance takes larger ones"
        )
    layers: list[PackedLayer] = []
    at = 0
    for layer in model.layers:
        layers.append(PackedLayer(layer.inputs, layer.outputs, layer.activation, at))
        at += layers[-1].vectors * _VECTOR_BYTES
    groups = -(-count // LANES)
    widest = max(model.sizes) * _VECTOR_BYTES
    block = max(1, min(_BLOCK_BYTES // widest, _BLOCK_GROUPS_MAX, groups))
    sizes = [groups * LANES * 4 * model.sizes[0], groups * LANES * 4 * model.sizes[-1]]
    sizes += [block * widest, block * widest, groups * at]
    places, end = [], _RESERVED_BYTES
    for size in sizes:
        places.append(end)
        end += -(-size // 64) * 64
    if end > POPULATION_PACKED_BYTES_MAX:
        raise LimitError(
            f"packed population: at most {POPULATION_PACKED_BYTES_MAX} bytes (POPULATION_PACKED_BYTES_MAX), "
            f"found {end} for {count} agents of {model.parameters} weights and biases"
        )
    return PackedLayout(
        count=count,
        layers=tuple(layers),
        input_offset=places[0],
        output_offset=places[1],
        scratch=(places[2], places[3]),
        weights_offset=places[4],
        group_bytes=at,
        block_groups=block,
        memory_bytes=-(-end // PAGE_BYTES) * PAGE_BYTES,
    )


def emit_packed(layout: PackedLayout, mode: str) -> str:
    """The module's text.  Raises LocalError for an unknown mode."""
    if mode not in _FMA:
        raise LocalError(f"mode: expected one of {', '.join(_FMA)}, found {mode!r}")
    functions = _Functions(layout, mode)
    steps = functions.steps()
    pages, block = layout.memory_bytes // PAGE_BYTES, layout.block_groups
    body, calls = "\n".join(functions.texts.values()), "\n".join(steps)
    return f"""(module
(memory (export "memory") {pages} {pages})
{body}
(func $run (export "run") (local $x i32) (local $y i32) (local $w i32) (local $left i32) (local $n i32)
  (local.set $x (i32.const {layout.input_offset}))
  (local.set $y (i32.const {layout.output_offset}))
  (local.set $w (i32.const {layout.weights_offset}))
  (local.set $left (i32.const {layout.groups}))
  (loop $block
    (local.set $n (select (local.get $left) (i32.const {block}) (i32.lt_u (local.get $left) (i32.const {block}))))
    {calls}
    (local.set $x (i32.add (local.get $x) (i32.const {block * LANES * 4 * layout.inputs})))
    (local.set $y (i32.add (local.get $y) (i32.const {block * LANES * 4 * layout.outputs})))
    (local.set $w (i32.add (local.get $w) (i32.const {block * layout.group_bytes})))
    (br_if $block (local.tee $left (i32.sub (local.get $left) (local.get $n))))))
(func (export "run_batch") (param i32) (call $run))
)
"""


class _Functions:
    """What the steps of a block call, each written once."""

    def __init__(self, layout: PackedLayout, mode: str) -> None:
        self.layout, self.mode = layout, mode
        self.texts: dict[tuple[Value, ...], str] = {}

    def steps(self) -> list[str]:
        """The calls that take $n groups through the net: gathered, layer by layer, scattered."""
        layout = self.layout
        source, target = layout.scratch
        gather = self._function(_templates()["gather"], {"width": layout.inputs})
        calls = [f"(call ${gather} (local.get $x) (i32.const {source}) (local.get $n))"]
        for layer in layout.layers:
            weights = f"(i32.add (local.get $w) (i32.const {layer.offset}))"
            k_bytes = layer.inputs * _VECTOR_BYTES
            calls.append(
                f"(call ${self._sums(layer)} (i32.const {source}) (i32.const {k_bytes}) {weights} "
                f"(i32.const {target}) (local.get $n))"
            )
            calls += self._activation(layer.activation, target, layer.outputs)
            source, target = target, source
        if self.mode == "deterministic":
            calls += self._pass("canonical_nan", source, layout.outputs)
        scatter = self._function(_templates()["scatter"], {"width": layout.outputs})
        calls.append(f"(call ${scatter} (i32.const {source}) (local.get $y) (local.get $n))")
        return calls

    def _sums(self, layer: PackedLayer) -> str:
        values: dict[str, Value] = {
            "inputs": layer.inputs,
            "outputs": layer.outputs,
            "width": layer.width,
            "panels": layer.panels,
            "last": layer.last,
            "unroll": min(layer.inputs, _UNROLL),
            "group_bytes": self.layout.group_bytes,
            "form": "whole" if layer.inputs <= _UNROLL else "loop",
        }
        return self._function(_templates()["sums"], values)

    def _activation(self, activation: str, place: int, width: int) -> list[str]:
        match library().placements[activation]:
            case "none":
                return []
            case "row":
                name = self._function(_templates()[activation], {"width": width})
                return [f"(call ${name} (i32.const {place}) (local.get $n))"]
            case _:
                return self._pass(activation, place, width)

    def _pass(self, activation: str, place: int, width: int) -> list[str]:
        values: dict[str, Value] = {"activation": activation, "unroll": _PASS_UNROLL}
        name = self._function(library().find("elementwise"), values)
        end = f"(i32.add (i32.const {place}) (i32.mul (local.get $n) (i32.const {width * _VECTOR_BYTES})))"
        return [f"(call ${name} (i32.const {place}) {end})"]

    def _function(self, template: Template, values: dict[str, Value]) -> str:
        key = (template.name, *values.values())
        name = f"f{list(self.texts).index(key) if key in self.texts else len(self.texts)}"
        if key not in self.texts:
            self.texts[key] = template.render(values | _FMA[self.mode] | {"name": name}, library().find)
        return name


@lru_cache(maxsize=1)
def _manifest() -> dict[str, str]:
    """Names of templates, and `driver`, -> files."""
    try:
        manifest = tomllib.loads(asset("wasm_kernels", "manifest.toml").read_text())
        return {**manifest["packed"]["templates"], "driver": manifest["population"]["driver"]}
    except (KeyError, TypeError, ValueError) as error:
        raise LocalError(f"wasm_kernels/manifest.toml: packed: {type(error).__name__}: {error}") from None


@lru_cache(maxsize=1)
def _templates() -> dict[str, Template]:
    files = {name: file for name, file in _manifest().items() if name != "driver"}
    return {name: Template.parse(file, asset("wasm_kernels", file).read_text()) for name, file in files.items()}


# --- weights ----------------------------------------------------------------------------------------------------------


def stacked(model: Mlp) -> list[tuple[F32, F32]]:
    """One agent's layers as `write_weights` takes them; the steepness is folded in."""
    return [(weights[None], bias[None]) for weights, bias in (layer.folded for layer in model.layers)]


def fill_weights(region: F32, layout: PackedLayout, layers: Stacked) -> None:
    """Give every agent the weights of one (`stacked(model)`); region and errors as of `write_weights`."""
    _check_layers(layout, layers, 0)
    flat = np.concatenate([_panels(layer, w[:1], b[:1]) for layer, (w, b) in _with(layout, layers)], axis=1)
    region[:] = np.repeat(flat, LANES, axis=2).reshape(1, -1)


def write_weights(region: F32, layout: PackedLayout, layers: Stacked, *, first: int = 0) -> None:
    """Write the weights of k agents, from `first` on.

    region: the weights of the memory, float32[groups, group_bytes / 4].  layers: stacked of k agents.
    Raises InputError when shapes do not fit or a number is not finite, before anything is written.
    """
    count = _check_layers(layout, layers, first)
    for low in range(first, first + count, _PACK_AGENTS):
        high = min(low + _PACK_AGENTS, first + count)
        part = slice(low - first, high - first)
        flat = np.concatenate([_panels(layer, w[part], b[part]) for layer, (w, b) in _with(layout, layers)], axis=1)
        agents = np.arange(low, high)
        by_lane = region.reshape(layout.groups, -1, LANES)
        by_lane[agents // LANES, :, agents % LANES] = flat[:, :, 0]


def read_weights(region: F32, layout: PackedLayout, agent: int) -> list[tuple[F32, F32]]:
    """One agent's layers: (weights float32[inputs, outputs], bias float32[outputs]) each, copied."""
    mine = region.reshape(layout.groups, -1, LANES)[agent // LANES, :, agent % LANES]
    found, at = [], 0
    for layer in layout.layers:
        full = np.empty((layer.inputs + 1, layer.outputs), np.float32)
        for columns in _columns(layer):
            panel = full[:, columns]
            panel[:] = mine[at : at + panel.size].reshape(panel.shape)
            at += panel.size
        found.append((full[1:], full[0].copy()))
    return found


def model_of(layers: Sequence[tuple[F32, F32]], activations: Sequence[str]) -> Mlp:
    return Mlp(tuple(Dense(w, b, name) for (w, b), name in zip(layers, activations, strict=True)))


def _with(layout: PackedLayout, layers: Stacked) -> Iterator[tuple[PackedLayer, tuple[F32, F32]]]:
    return zip(layout.layers, layers, strict=True)


def _panels(layer: PackedLayer, weights: F32, bias: F32) -> F32:
    """float32[agents, vectors, 1] in the order of the panels."""
    full = np.concatenate([bias[:, None, :], weights], axis=1)
    return np.concatenate([full[:, :, c].reshape(len(full), -1) for c in _columns(layer)], axis=1)[:, :, None]


def _columns(layer: PackedLayer) -> list[slice]:
    return [slice(at, min(at + layer.width, layer.outputs)) for at in range(0, layer.outputs, layer.width)]


def _check_layers(layout: PackedLayout, layers: Stacked, first: int) -> int:
    """How many agents these layers are of."""
    if len(layers) != len(layout.layers):
        raise InputError(f"weights: expected {len(layout.layers)} layers, found {len(layers)}")
    count = len(layers[0][0])
    if not 1 <= count <= layout.count - first or first < 0:
        raise InputError(f"weights: expected 1 to {layout.count - first} agents from {first} on, found {count}")
    for number, (layer, (weights, bias)) in enumerate(_with(layout, layers)):
        for what, array, shape in (
            ("weights", weights, (count, layer.inputs, layer.outputs)),
            ("bias", bias, (count, layer.outputs)),
        ):
            if array.shape != shape or array.dtype != np.float32:
                raise InputError(
                    f"layer {number}: {what}: expected float32{list(shape)}, found {array.dtype}{list(array.shape)}"
                )
            if not np.isfinite(array).all():
                raise InputError(f"layer {number}: {what}: expected finite numbers, found NaN or infinity")
    return count
