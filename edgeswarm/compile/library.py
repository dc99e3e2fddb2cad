"""The kernel library: `wasm_kernels/manifest.toml` and its templates, read once and checked whole.

Invariants of a Tile: every number is at least 1.  Every activation of the model has a placement, and a
template unless there is nothing to do.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Any

from edgeswarm.assets import asset
from edgeswarm.compile.abi import ABI
from edgeswarm.compile.template import Template
from edgeswarm.errors import LocalError
from edgeswarm.model.activations import ACTIVATIONS

PLACEMENTS = ("none", "pass", "row", "part")


@dataclass(frozen=True, slots=True)
class Tile:
    """How large the pieces are that a kernel works on, for one architecture; manifest.toml explains each number."""

    gemv_columns: int
    gemm_sums: int
    gemm_rows_max: int
    unroll: int
    unroll_many: int
    shapes_many: int
    tail: int
    pass_unroll: int
    block_rows: int


@dataclass(frozen=True, slots=True)
class Library:
    """All templates by name, tiles by architecture, placements by activation."""

    templates: dict[str, Template]
    tiles: dict[str, Tile]
    placements: dict[str, str]

    def find(self, name: str) -> Template:
        if name not in self.templates:
            raise LocalError(f"wasm_kernels: no template {name!r}")
        return self.templates[name]

    def tile(self, arch: str) -> Tile:
        if arch not in self.tiles:
            raise LocalError(f"arch: expected one of {', '.join(sorted(self.tiles))}, found {arch!r}")
        return self.tiles[arch]


@lru_cache(maxsize=1)
def library() -> Library:
    """The shipped library.  Raises LocalError naming the entry of the manifest that does not check out."""
    text = asset("wasm_kernels", "manifest.toml").read_text()
    try:
        manifest = tomllib.loads(text)
        if manifest["abi"] != ABI:
            raise LocalError(f"wasm_kernels/manifest.toml: expected abi {ABI}, found {manifest['abi']}")
        dense, activations = manifest["dense_f32"], manifest["activations"]
        files: dict[str, str] = {}
        for family in manifest.keys() - {"abi", "activations", "packed", "population"}:
            for name, file in manifest[family]["templates"].items():
                if files.setdefault(name, file) != file:
                    raise LocalError(f"manifest: {family}.templates: expected names of its own, found {name!r} again")
        placements = {}
        for name, entry in activations.items():
            if entry["placement"] not in PLACEMENTS:
                raise LocalError(f"manifest: activations.{name}.placement: expected one of {', '.join(PLACEMENTS)}")
            placements[name] = entry["placement"]
            if entry["placement"] != "none":
                files[name] = entry["template"]
        tiles = {arch: _tile(arch, entry) for arch, entry in dense["tiles"].items()}
        sources = {name: asset("wasm_kernels", file).read_text() for name, file in sorted(files.items())}
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise LocalError(f"wasm_kernels/manifest.toml: {type(error).__name__}: {error}") from None
    if missing := set(ACTIVATIONS) - set(placements):
        raise LocalError(f"wasm_kernels/manifest.toml: no activation {', '.join(sorted(missing))}")
    templates = {name: Template.parse(files[name], source) for name, source in sources.items()}
    return Library(templates, tiles, placements)


def _tile(arch: str, entry: Any) -> Tile:
    names = [field.name for field in fields(Tile)]
    if set(entry) != set(names) or not all(type(entry[name]) is int and entry[name] >= 1 for name in names):
        raise LocalError(f"manifest: dense_f32.tiles.{arch}: expected {', '.join(names)}, each a whole number from 1")
    return Tile(**entry)
