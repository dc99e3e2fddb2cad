"""An Mlp -> a kernel: wasm, its layout, and the packed weights that go beside it.

The wasm depends on the topology alone; weights are never inside it, so an update swaps them without a compile.
Equal inputs give equal bytes.  Runs where agents are built, not on devices: wasmtime and numpy are needed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edgeswarm.compile.abi import ALIGN_BYTES, Layout, attach_layout
from edgeswarm.compile.emit import emit
from edgeswarm.compile.library import library
from edgeswarm.compile.schedule import LANES, Packed, Schedule, packed_layers, plan, topology_of
from edgeswarm.compile.wasm import without_custom
from edgeswarm.errors import ModelError
from edgeswarm.model.mlp import Dense, Mlp, check_sizes

BATCH_MAX_DEFAULT = 256
ARCH_DEFAULT = "x86-64"  # its tiles run everywhere; those of aarch64 want 32 vector registers


@dataclass(frozen=True, slots=True)
class Kernel:
    """wasm: keeps kernel ABI 1.  layout: the same as in the wasm.  weights: the bytes of its weights region."""

    wasm: bytes
    layout: Layout
    weights: bytes


def schedule_mlp(
    model: Mlp, *, batch_max: int = BATCH_MAX_DEFAULT, mode: str = "fast", arch: str = ARCH_DEFAULT
) -> Schedule:
    """What `compile_mlp` would do; `str()` of it is a table."""
    return plan(model.sizes, model.activations, batch_max=batch_max, mode=mode, arch=arch, library=library())


def compile_mlp(
    model: Mlp, *, batch_max: int = BATCH_MAX_DEFAULT, mode: str = "fast", arch: str = ARCH_DEFAULT
) -> Kernel:
    """Compile a model.

    batch_max: most rows of one `run_batch`; memory grows with it.  mode: `fast` (relaxed SIMD) or `deterministic` (the
    same bits on every machine).  arch: whose tile sizes to use, `x86-64` or `aarch64`; the code runs on both.
    Raises LimitError if the memory would pass KERNEL_MEMORY_BYTES_MAX, LocalError for an unknown mode or arch.
    """
    import wasmtime  # on the operator's machine only, and not before it is needed

    schedule = schedule_mlp(model, batch_max=batch_max, mode=mode, arch=arch)
    wasm = without_custom(bytes(wasmtime.wat2wasm(emit(schedule, library()))), "name")
    return Kernel(attach_layout(wasm, schedule.layout), schedule.layout, pack_weights(model, schedule.layout))


def pack_weights(model: Mlp, layout: Layout) -> bytes:
    """The model's weights as the kernel of `layout` wants them.  Raises ModelError if it has not that kernel's shape.

    Layer by layer, each padded to 64 bytes; a layer is its panels, a panel one row of bias and one for each input.
    The steepness is folded in: weights and bias times steepness, each rounded once to float32.
    """
    mode = "deterministic" if layout.deterministic else "fast"
    if layout.topology not in {
        topology_of(model.sizes, model.activations, batch_max=layout.batch_max, mode=mode, arch=arch)
        for arch in library().tiles
    }:
        raise ModelError(
            f"model {'-'.join(map(str, model.sizes))} ({', '.join(model.activations)}): expected the widths and "
            f"activations that the kernel of topology {layout.topology[:16]}... was made for"
        )
    out = bytearray()
    for layer, packed in zip(model.layers, packed_layers(model.sizes), strict=True):
        full = np.zeros((packed.inputs + 1, packed.columns * LANES), dtype="<f4")
        full[1:, : packed.outputs], full[0, : packed.outputs] = layer.folded
        for columns in _panel_slices(packed):
            out += full[:, columns].tobytes()
        out += bytes(-len(out) % ALIGN_BYTES)
    assert len(out) == layout.weights.size
    return bytes(out)


def unpack_weights(weights: bytes, sizes: Sequence[int], activations: Sequence[str]) -> Mlp:
    """The inverse of `pack_weights`, for a model of these widths and activations (one a layer).

    Every steepness comes back as 1: it is in the weights.
    Raises ModelError if the length does not fit or a number is not finite, LimitError for sizes past the bounds.
    """
    check_sizes(sizes)
    if len(activations) != len(sizes) - 1:
        raise ModelError(f"activations: expected {len(sizes) - 1}, found {len(activations)}")
    shapes = packed_layers(sizes)
    expected = sum(_padded(packed.size) for packed in shapes)
    if len(weights) != expected:
        raise ModelError(f"weights: expected {expected} bytes for {'-'.join(map(str, sizes))}, found {len(weights)}")
    layers, at = [], 0
    for packed, activation in zip(shapes, activations, strict=True):
        values = np.frombuffer(weights, "<f4", packed.size // 4, at)
        full = np.empty((packed.inputs + 1, packed.columns * LANES), np.float32)
        start = 0
        for columns in _panel_slices(packed):
            panel = full[:, columns]
            panel[:] = values[start : start + panel.size].reshape(panel.shape)
            start += panel.size
        layers.append(Dense(full[1:, : packed.outputs], full[0, : packed.outputs], activation))
        at += _padded(packed.size)
    return Mlp(tuple(layers))


def _panel_slices(packed: Packed) -> list[slice]:
    """Which outputs, padding included, each panel holds."""
    width = packed.width * LANES
    return [slice(start, start + width) for start in range(0, packed.columns * LANES, width)]


def _padded(size: int) -> int:
    return -(-size // ALIGN_BYTES) * ALIGN_BYTES
