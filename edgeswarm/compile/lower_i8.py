"""A QuantizedMlp -> a kernel: rows are rounded, layers summed in i32, and the last answers given back in float32.

What a step computes is in `wasm_kernels/dense_i8/`; where it lies is decided here.  Rows go through all layers in
blocks, as in the float kernels.  The wasm depends on widths, activations, path, batch and mode, never on weights or
scales, which lie in the weights region: an update swaps them without a compile.
"""

from __future__ import annotations

import hashlib
import json
import tomllib
from dataclasses import dataclass
from functools import lru_cache

from edgeswarm.assets import asset
from edgeswarm.compile.abi import ABI, ALIGN_BYTES, Layout, Rows, Weights, attach_layout
from edgeswarm.compile.library import library
from edgeswarm.compile.mlp import BATCH_MAX_DEFAULT, Kernel
from edgeswarm.compile.pack_i8 import ONES, PACKING, RECORD_BYTES, PackedI8, pack, packed_layers, steps_of
from edgeswarm.compile.template import Value
from edgeswarm.compile.wasm import PAGE_BYTES, without_custom
from edgeswarm.errors import LimitError, LocalError, ModelError
from edgeswarm.limits import KERNEL_BATCH_MAX, KERNEL_MEMORY_BYTES_MAX
from edgeswarm.model.mlp import Mlp
from edgeswarm.model.quantize import GROUPS, IN_STEPS, PATHS, QuantizedMlp, quantize

_PASS_UNROLL = 8  # vectors a round in an activation (pass_unroll of the manifest)
_RESERVED_BYTES = 1024
OPERATIONS: dict[str, dict[str, Value]] = {
    "i7x4": {"load": "v128.load", "half": 0},
    "i7": {"load": "v128.load", "half": 0},
    "exact": {"load": "v128.load8x8_s", "half": 1},
}
_MULTIPLY_ADD: dict[str, dict[str, Value]] = {
    "fast": {"fma": "f32x4.relaxed_madd", "into": ""},
    "deterministic": {"fma": "f32x4.add (f32x4.mul", "into": ")"},
}


@dataclass(frozen=True, slots=True)
class TileI8:
    """How large the pieces are that a kernel works on, for one architecture; manifest.toml explains each number."""

    unroll: int
    fence: int
    round_unroll: int
    block_rows: int


@dataclass(frozen=True, slots=True)
class PlanI8:
    """Where everything lies: offsets in memory of each layer's weights, of rounded rows (two in turn), of sums."""

    activations: tuple[str, ...]
    mode: str
    layers: tuple[PackedI8, ...]
    weights: tuple[int, ...]
    rounded: tuple[int, int]
    sums: int
    block_rows: int
    tile: TileI8
    layout: Layout

    def __str__(self) -> str:
        sizes = "-".join(str(layer.inputs) for layer in self.layers)
        head = f"mlp {sizes}-{self.layers[-1].outputs}, int8 {self.layers[0].path}, blocks of {self.block_rows}"
        lines = [
            f"{index:3} {layer.inputs} -> {layer.outputs}: {layer.panels} x {layer.width} + {layer.last} columns, "
            f"{layer.steps} steps, at {at}, {name}"
            for index, (layer, at, name) in enumerate(zip(self.layers, self.weights, self.activations, strict=True))
        ]
        return "\n".join([head, *lines])


def compile_i8(
    model: QuantizedMlp, *, batch_max: int = BATCH_MAX_DEFAULT, mode: str = "fast", arch: str = "x86-64"
) -> Kernel:
    """Compile a model of whole numbers; arguments and errors as `compile_mlp`.

    The mode deterministic uses no relaxed operation and takes the path `exact` only: LocalError for another.
    """
    import wasmtime  # on the operator's machine only, and not before it is needed

    plan = plan_i8(model.sizes, model.activations, model.path, batch_max=batch_max, mode=mode, arch=arch)
    wasm = without_custom(bytes(wasmtime.wat2wasm(emit_i8(plan))), "name")
    return Kernel(attach_layout(wasm, plan.layout), plan.layout, pack(model))


def plan_i8(
    sizes: tuple[int, ...], activations: tuple[str, ...], path: str, *, batch_max: int, mode: str, arch: str
) -> PlanI8:
    """Where things lie.  Raises LimitError past KERNEL_BATCH_MAX or KERNEL_MEMORY_BYTES_MAX, LocalError."""
    if mode not in _MULTIPLY_ADD or path not in PATHS:
        raise LocalError(f"mode, path: expected {list(_MULTIPLY_ADD)} and {list(PATHS)}, found {mode!r}, {path!r}")
    if mode == "deterministic" and path != "exact":
        raise LocalError(f"mode deterministic: expected the path exact, found {path}: it needs a relaxed operation")
    if not 1 <= batch_max <= KERNEL_BATCH_MAX:
        raise LimitError(f"batch_max: expected 1 to {KERNEL_BATCH_MAX} (KERNEL_BATCH_MAX), found {batch_max}")
    tile, layers = tile_i8(arch), packed_layers(sizes, path)
    block = min(tile.block_rows, batch_max)
    at = _RESERVED_BYTES

    def take(size: int) -> int:
        nonlocal at
        offset, at = at, -(-(at + size) // ALIGN_BYTES) * ALIGN_BYTES
        return offset

    x = Rows(take(4 * batch_max * sizes[0]), 4 * sizes[0], sizes[0])
    y = Rows(take(16 * batch_max * layers[-1].columns), 16 * layers[-1].columns, sizes[-1])
    widest = max(layer.x_stride for layer in layers)
    rounded = (take(block * widest), take(block * widest))
    sums = take(4 * block * max(layer.padded for layer in layers))
    places = [take(layer.size) for layer in layers]
    size = at - places[0]
    memory_bytes = -(-at // PAGE_BYTES) * PAGE_BYTES
    if memory_bytes > KERNEL_MEMORY_BYTES_MAX:
        raise LimitError(
            f"kernel memory: at most {KERNEL_MEMORY_BYTES_MAX} bytes (KERNEL_MEMORY_BYTES_MAX), found {memory_bytes}"
        )
    topology = topology_i8(sizes, activations, path, batch_max=batch_max, mode=mode)
    layout = Layout(
        batch_max, mode == "deterministic", x, y, Weights(places[0], size, (size // 4,)), memory_bytes, topology
    )
    return PlanI8(activations, mode, tuple(layers), tuple(places), rounded, sums, block, tile, layout)


def topology_i8(sizes: tuple[int, ...], activations: tuple[str, ...], path: str, *, batch_max: int, mode: str) -> str:
    """SHA-256 (hex) of what a kernel is generated for; scales are no part of it, they lie beside the weights."""
    facts = {
        "abi": ABI,
        "activations": list(activations),
        "batch_max": batch_max,
        "kind": f"mlp-{path}",
        "mode": mode,
        "packing": PACKING,
        "sizes": list(sizes),
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def repack_i8(model: Mlp, layout: Layout, running: bytes, path: str) -> bytes:
    """Float weights as the int8 kernel of `layout` wants them: rounded anew, activations as `running` rounds them.

    Raises ModelError if that kernel was made for other widths, activations, or another path.
    """
    mode = "deterministic" if layout.deterministic else "fast"
    if layout.topology != topology_i8(model.sizes, model.activations, path, batch_max=layout.batch_max, mode=mode):
        raise ModelError(
            f"model {'-'.join(map(str, model.sizes))} ({', '.join(model.activations)}): expected the widths and "
            f"activations that the int8 kernel of topology {layout.topology[:16]}... was made for"
        )
    return pack(quantize(model, steps_of(running, model.sizes, path), path))


def emit_i8(plan: PlanI8) -> str:
    """The module's text.  Raises LocalError if a template does not expand."""
    functions = _Functions(plan)
    one, layout, block = functions.layers(None), plan.layout, plan.block_rows
    many = "(call $run)"
    if layout.batch_max > 1:
        many = f"""
  (local.set $x (i32.const {layout.input.offset}))
  (local.set $y (i32.const {layout.output.offset}))
  (loop $block
    (local.set $rows (select (local.get $n) (i32.const {block}) (i32.lt_u (local.get $n) (i32.const {block}))))
    {functions.layers("(local.get $rows)")}
    (local.set $x (i32.add (local.get $x) (i32.const {block * layout.input.stride})))
    (local.set $y (i32.add (local.get $y) (i32.const {block * layout.output.stride})))
    (br_if $block (local.tee $n (i32.sub (local.get $n) (local.get $rows)))))"""
    pages = layout.memory_bytes // PAGE_BYTES
    body = "\n".join(functions.texts.values())
    return f"""(module
(memory (export "memory") {pages} {pages})
{body}
(func $run (export "run")
{one})
(func (export "run_batch") (param $n i32) (local $x i32) (local $y i32) (local $rows i32)
  (if (i32.ge_u (i32.sub (local.get $n) (i32.const 1)) (i32.const {layout.batch_max})) (then (unreachable)))
  {many})
)
"""


class _Functions:
    """The functions that calls have asked for, each written once."""

    def __init__(self, plan: PlanI8) -> None:
        self.plan = plan
        self.half = plan.layers[0].path == "exact"
        self.texts: dict[tuple[Value, ...], str] = {}

    def layers(self, rows: str | None) -> str:
        """The calls that take row 0 (None), or the rows of a block, through all layers."""
        plan, layout = self.plan, self.plan.layout
        count = rows or "(i32.const 1)"
        x = "(local.get $x)" if rows else f"(i32.const {layout.input.offset})"
        last = "(local.get $y)" if rows else f"(i32.const {layout.output.offset})"
        calls = [self._round(plan.layers[0], 0, x, layout.input.stride, count)]
        for index, layer in enumerate(plan.layers):
            name, factors = plan.activations[index], plan.weights[index] + layer.factors
            end = index == len(plan.layers) - 1
            y = last if end else f"(i32.const {plan.sums})"
            whole = not end and library().placements[name] != "row"
            stride = 4 * layer.padded if whole else 16 * layer.columns
            calls.append(self._sums(layer, index, y, stride, count))
            if not whole:
                call = self._function("i8_dequantize", {"vectors": layer.columns, "gap": 0})
                calls.append(f"(call ${call} {y} {count} (i32.const {factors}))")
                if name != "linear":
                    calls.append(self._activation(name, layer, y, count))
            if not end:
                act = "" if name in IN_STEPS or not whole else name
                calls.append(self._round(plan.layers[index + 1], index + 1, y, stride, count, factors * whole, act))
            elif plan.mode == "deterministic":
                calls.append(self._activation("canonical_nan", layer, y, count))
        return "\n".join(calls)

    def _round(
        self, layer: PackedI8, index: int, x: str, stride: int, count: str, factors: int = 0, act: str = ""
    ) -> str:
        """The call that writes the rounded input of `layer`, from float32 or, with their factors' place, from sums.

        act: the activation between sums and rounding.
        """
        values: dict[str, Value] = {
            "sums": int(factors > 0),
            "half": int(self.half),
            "groups": layer.x_stride // 16,
            "x_stride": stride,
            "y_stride": layer.x_stride,
            "between": int(act != ""),
            "activation": act,
            "unroll": self.plan.tile.round_unroll if act == "" else 1,
        }
        name = self._function("i8_quantize", values | _MULTIPLY_ADD[self.plan.mode])
        record, y = self.plan.weights[index], self.plan.rounded[index % 2]
        return f"(call ${name} {x} {count} (i32.const {factors}) (i32.const {record}) (i32.const {y}))"

    def _sums(self, layer: PackedI8, index: int, y: str, stride: int, count: str) -> str:
        at = self.plan.weights[index]
        values: dict[str, Value] = {
            "steps": layer.steps,
            "bytes": layer.bytes,
            "panels": layer.panels,
            "width": layer.width,
            "last": layer.last,
            "x_stride": layer.x_stride,
            "y_stride": stride,
            "sums": self._panel(layer.width),
            "sums_last": self._panel(layer.last),
        }
        x, w, ones = self.plan.rounded[index % 2], at + RECORD_BYTES, at + ONES
        name = self._function("i8_layer", values)
        return f"(call ${name} (i32.const {x}) {count} (i32.const {w}) (i32.const {ones}) {y})"

    def _panel(self, width: int) -> str:
        """The function that computes panels of this width, whatever the layer; "" for none."""
        if not width:
            return ""
        path, tile, layers = self.plan.layers[0].path, self.plan.tile, self.plan.layers
        group = GROUPS[path]
        most = -(-max(layer.steps for layer in layers) // 4) * 4  # whole vectors of x
        values: dict[str, Value] = {
            "width": width,
            "unroll": min(tile.unroll, most),
            "fence": tile.fence,
            "group": group,
            "bytes": layers[0].bytes,
        }
        return self._function("i8_sums", values | OPERATIONS[path])

    def _activation(self, name: str, layer: PackedI8, y: str, count: str) -> str:
        lib = library()
        if lib.placements[name] == "row":
            values: dict[str, Value] = {"width": layer.outputs, "vectors": layer.columns}
            function = self._function(name, values | _MULTIPLY_ADD[self.plan.mode])
        else:
            values = {"activation": name, "unroll": _PASS_UNROLL}
            function = self._function("elementwise", values | _MULTIPLY_ADD[self.plan.mode])
        return f"(call ${function} {y} (i32.add {y} (i32.mul {count} (i32.const {16 * layer.columns}))))"

    def _function(self, template: str, values: dict[str, Value]) -> str:
        """The name of the function that `template` gives for `values`; written on first use."""
        key = (template, *values.values())
        name = f"f{list(self.texts).index(key) if key in self.texts else len(self.texts)}"
        if key not in self.texts:
            find = library().find
            self.texts[key] = find(template).render(values | {"name": name}, find)
        return name


@lru_cache(maxsize=1)
def _manifest() -> dict[str, object]:
    entry: dict[str, object] = tomllib.loads(asset("wasm_kernels", "manifest.toml").read_text())["dense_i8"]
    return entry


def tile_i8(arch: str) -> TileI8:
    """The tile of an architecture.  Raises LocalError for an unknown one."""
    tiles = _manifest()["tiles"]
    assert isinstance(tiles, dict)
    if arch not in tiles:
        raise LocalError(f"arch: expected one of {', '.join(sorted(tiles))}, found {arch!r}")
    return TileI8(**tiles[arch])
