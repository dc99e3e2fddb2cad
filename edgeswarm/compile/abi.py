"""Kernel ABI 1: where a kernel's input, output and weights lie in its memory, written into the kernel itself.

The layout is JSON in the custom section `edgeswarm.kernel`; docs/kernel-abi.md specifies it.  A host needs nothing but
the wasm file.  Reading it needs neither wasmtime nor numpy.
Invariants of a Layout: every offset is a multiple of 64; the regions lie inside memory_bytes and do not overlap;
input.stride >= 4 * input.width, the same for output; 1 <= batch_max <= KERNEL_BATCH_MAX.
That the code keeps to the regions is not checked: its memory is its own, and a jail holds it.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any, NoReturn

from edgeswarm.compile import wasm as binary
from edgeswarm.errors import KernelError, LimitError
from edgeswarm.limits import (
    KERNEL_BATCH_MAX,
    KERNEL_LAYOUT_BYTES_MAX,
    KERNEL_MEMORY_BYTES_MAX,
    KERNEL_WIDTH_MAX,
)

ABI = 1
SECTION = "edgeswarm.kernel"
ALIGN_BYTES = 64
_TOPOLOGY = re.compile(r"[0-9a-f]{64}")
_SHAPE_AXES_MAX = 8


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows of float32: row r starts at offset + r * stride (bytes) and holds `width` values."""

    offset: int
    stride: int
    width: int


@dataclass(frozen=True, slots=True)
class Weights:
    """The weights region: `size` bytes at `offset`, a float32 array of `shape` (packed as the kernel wants it)."""

    offset: int
    size: int
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Layout:
    """What a host must know of a kernel.  Raises KernelError or LimitError if it breaks the invariants above.

    topology: SHA-256 (hex) of all facts that shape the code; kernels of equal topology take each other's weights.
    """

    batch_max: int
    deterministic: bool
    input: Rows
    output: Rows
    weights: Weights
    memory_bytes: int
    topology: str
    abi: int = ABI

    def __post_init__(self) -> None:
        if self.abi != ABI:
            raise KernelError(f"layout: expected abi {ABI}, found {self.abi}")
        if not 1 <= self.batch_max <= KERNEL_BATCH_MAX:
            raise LimitError(f"batch_max: expected 1 to {KERNEL_BATCH_MAX} (KERNEL_BATCH_MAX), found {self.batch_max}")
        if not 0 < self.memory_bytes <= KERNEL_MEMORY_BYTES_MAX:
            raise LimitError(
                f"memory_bytes: expected 1 to {KERNEL_MEMORY_BYTES_MAX} (KERNEL_MEMORY_BYTES_MAX), "
                f"found {self.memory_bytes}"
            )
        if not _TOPOLOGY.fullmatch(self.topology):
            raise KernelError(f"topology: expected 64 hex digits, found {self.topology[:80]!r}")
        for name, rows in (("input", self.input), ("output", self.output)):
            if not 1 <= rows.width <= KERNEL_WIDTH_MAX:
                raise LimitError(
                    f"{name}.width: expected 1 to {KERNEL_WIDTH_MAX} (KERNEL_WIDTH_MAX), found {rows.width}"
                )
            if rows.stride % 4 or rows.stride < 4 * rows.width:
                raise KernelError(
                    f"{name}.stride: expected a multiple of 4, at least {4 * rows.width} bytes, found {rows.stride}"
                )
        shape = self.weights.shape
        if not 1 <= len(shape) <= _SHAPE_AXES_MAX or min(shape) < 0 or 4 * math.prod(shape) != self.weights.size:
            raise KernelError(
                f"weights: expected a shape of 1 to {_SHAPE_AXES_MAX} axes and 4 bytes a value, "
                f"found {self.weights.size} bytes for the shape {list(shape)}"
            )
        self._check_regions()

    def _check_regions(self) -> None:
        regions = sorted((start, end, name) for name, (start, end) in self.regions().items())
        for start, end, name in regions:
            if start % ALIGN_BYTES or start < 0:
                raise KernelError(f"{name}.offset: expected a multiple of {ALIGN_BYTES}, found {start}")
            if end > self.memory_bytes:
                raise KernelError(f"{name}: expected to end within {self.memory_bytes} bytes of memory, found {end}")
        filled = [region for region in regions if region[0] < region[1]]
        for (_, end, first), (start, _, second) in pairwise(filled):
            if start < end:
                raise KernelError(f"{first} and {second}: expected apart, found {second} at {start} before {end}")

    def regions(self) -> dict[str, tuple[int, int]]:
        """Where input, output and weights lie: name -> (first byte, byte past the last)."""
        return {
            "input": (self.input.offset, self.input.offset + self.batch_max * self.input.stride),
            "output": (self.output.offset, self.output.offset + self.batch_max * self.output.stride),
            "weights": (self.weights.offset, self.weights.offset + self.weights.size),
        }

    def to_json(self) -> bytes:
        """The content of the custom section: sorted keys, no spaces."""
        return json.dumps(asdict(self), sort_keys=True, separators=(",", ":")).encode()

    @classmethod
    def from_json(cls, content: bytes) -> Layout:
        """The inverse of `to_json`.  Raises KernelError for what is not that text to the byte, LimitError past bounds.

        One layout has one text, so that equal kernels have equal hashes.
        """
        if len(content) > KERNEL_LAYOUT_BYTES_MAX:
            raise LimitError(
                f"layout: at most {KERNEL_LAYOUT_BYTES_MAX} bytes (KERNEL_LAYOUT_BYTES_MAX), found {len(content)}"
            )
        try:
            tree = json.loads(content.decode(), parse_constant=_refuse, parse_float=_refuse)
        except (ValueError, RecursionError) as error:  # bad UTF-8, bad JSON, numbers past Python's digit limit
            raise KernelError(f"layout: expected JSON of whole numbers in UTF-8, found {error}") from None
        layout = cls(
            abi=_whole(tree, "abi", "layout"),
            batch_max=_whole(tree, "batch_max", "layout"),
            deterministic=_typed(tree, "deterministic", "layout", bool),
            input=_rows(tree, "input"),
            output=_rows(tree, "output"),
            weights=_weights(tree),
            memory_bytes=_whole(tree, "memory_bytes", "layout"),
            topology=_typed(tree, "topology", "layout", str),
        )
        if layout.to_json() != content:
            raise KernelError("layout: expected sorted keys, no spaces, no further keys: " + layout.to_json().decode())
        return layout


def attach_layout(wasm: bytes, layout: Layout) -> bytes:
    """The module with `layout` in its custom section; one that it may have had is replaced."""
    return binary.without_custom(wasm, SECTION) + binary.custom_section(SECTION, layout.to_json())


def read_layout(wasm: bytes, *, who: str = "") -> Layout:
    """The layout that a kernel carries.

    Raises KernelError if there is not exactly one, if it is malformed, or if the module imports anything; LimitError
    past a bound.  `compile.check.check_module` also looks at exports and memory.
    """
    found: list[bytes] = []
    for section in binary.sections(wasm, who=who):
        if section.id == binary.IMPORT and section.body.count("imports"):
            raise KernelError("imports: expected none, found some: a kernel gets nothing from its host", who=who)
        if section.id == binary.CUSTOM and section.name == SECTION:
            size = section.body.end - section.body.at
            if size > KERNEL_LAYOUT_BYTES_MAX:
                raise LimitError(
                    f"layout: at most {KERNEL_LAYOUT_BYTES_MAX} bytes (KERNEL_LAYOUT_BYTES_MAX), found {size}"
                )
            found.append(section.body.take(size))
    if len(found) != 1:
        raise KernelError(f"custom section {SECTION!r}: expected one, found {len(found)}", who=who)
    try:
        return Layout.from_json(found[0])
    except KernelError as error:
        raise KernelError(str(error), who=who) from None


def _refuse(text: str) -> NoReturn:
    raise ValueError(f"{text[:40]}, which is no whole number")


def _typed(tree: Any, key: str, where: str, kind: type) -> Any:
    """tree[key], which must be exactly of `kind` (a bool is no int here)."""
    if not isinstance(tree, dict) or key not in tree:
        raise KernelError(f"{where}: expected the key {key!r}")
    if type(tree[key]) is not kind:
        raise KernelError(f"{where}.{key}: expected {kind.__name__}, found {type(tree[key]).__name__}")
    return tree[key]


def _whole(tree: Any, key: str, where: str) -> int:
    value: int = _typed(tree, key, where, int)
    if not 0 <= value < 1 << 53:
        raise KernelError(f"{where}.{key}: expected a whole number from 0, found one outside")
    return value


def _rows(tree: Any, key: str) -> Rows:
    part = _typed(tree, key, "layout", dict)
    return Rows(_whole(part, "offset", key), _whole(part, "stride", key), _whole(part, "width", key))


def _weights(tree: Any) -> Weights:
    part = _typed(tree, "weights", "layout", dict)
    axes: list[Any] = _typed(part, "shape", "weights", list)
    shape = tuple(_whole({"axis": axis}, "axis", "weights.shape") for axis in axes[: _SHAPE_AXES_MAX + 1])
    return Weights(_whole(part, "offset", "weights"), _whole(part, "size", "weights"), shape)
