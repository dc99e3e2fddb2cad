"""The kernel library: `wasm_kernels/manifest.toml` and its templates, read once and checked whole.

Invariants of a Tile: every number is at least 1.  `digest` covers every byte that can change generated code.
"""

from __future__ import annotations

import hashlib
import tomllib
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Any

from edgeswarm.assets import asset
from edgeswarm.compile.template import Template
from edgeswarm.errors import LocalError
from edgeswarm.model.activations import ACTIVATIONS

PLACEMENTS = ("fused", "pass", "row", "part")


@dataclass(frozen=True, slots=True)
class Tile:
    """How large the pieces are that a kernel works on, for one architecture; manifest.toml explains each number."""

    gemv_sums: int
    gemm_sums: int
    unroll: int
    unroll_many: int
    layers_many: int
    block_rows: int


@dataclass(frozen=True, slots=True)
class Library:
    """All templates by name, tiles by architecture, placement by activation; digest: SHA-256 (hex) of their sources."""

    templates: dict[str, Template]
    tiles: dict[str, Tile]
    placements: dict[str, str]
    panel_vectors_max: int
    digest: str

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
        dense, activations = manifest["dense_f32"], manifest["activations"]
        files = dict(dense["templates"])
        placements = {}
        for name, entry in activations.items():
            if entry["placement"] not in PLACEMENTS:
                raise LocalError(f"manifest: activations.{name}.placement: expected one of {', '.join(PLACEMENTS)}")
            files[name], placements[name] = entry["template"], entry["placement"]
        tiles = {arch: _tile(arch, entry) for arch, entry in dense["tiles"].items()}
        panel_vectors_max = int(dense["panel_vectors_max"])
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise LocalError(f"wasm_kernels/manifest.toml: {type(error).__name__}: {error}") from None
    if missing := set(ACTIVATIONS) - set(placements):
        raise LocalError(f"wasm_kernels/manifest.toml: no activation {', '.join(sorted(missing))}")
    digest, templates = hashlib.sha256(), {}
    for name, file in sorted(files.items()):
        source = asset("wasm_kernels", file).read_text()
        digest.update(f"{name}\0{source}\0".encode())
        templates[name] = Template.parse(file, source)
    return Library(templates, tiles, placements, panel_vectors_max, digest.hexdigest())


def _tile(arch: str, entry: Any) -> Tile:
    names = [field.name for field in fields(Tile)]
    if set(entry) != set(names) or not all(type(entry[name]) is int and entry[name] >= 1 for name in names):
        raise LocalError(f"manifest: dense_f32.tiles.{arch}: expected {', '.join(names)}, each a whole number from 1")
    return Tile(**entry)
