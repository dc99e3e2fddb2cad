"""docs/kernel-abi.md is right: its kernel builds, checks out and computes; its numbers are those of the code."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import numpy as np
import wasmtime

from edgeswarm import limits
from edgeswarm.compile import check_module, compile_mlp
from edgeswarm.compile.schedule import PACKING, PACKING_I8
from edgeswarm.model import ACTIVATIONS, random_mlp

DOC = (Path(__file__).resolve().parents[2] / "docs" / "kernel-abi.md").read_text()
WAT = re.search(r"```wat\n(.*?)```", DOC, re.DOTALL)


def test_kernel_written_by_hand_keeps_the_abi_and_computes(load):
    assert WAT is not None
    wasm = bytes(wasmtime.wat2wasm(WAT[1]))
    layout = check_module(wasm)
    assert (layout.input.width, layout.output.width, layout.batch_max) == (3, 1, 64)
    runner = load(wasm, layout, np.array([1, 10, 100, 0.5], "<f4").tobytes())
    assert runner.one(np.array([1, 2, 3], np.float32)) == [321.5]
    rows = np.arange(64 * 3, dtype=np.float32).reshape(64, 3)
    assert (runner.many(rows)[:, 0] == rows @ np.array([1, 10, 100], np.float32) + 0.5).all()


def test_numbers_of_the_document_are_those_of_the_code():
    assert limits.KERNEL_WASM_BYTES_MAX == 16 * limits.MIB
    assert limits.KERNEL_MEMORY_BYTES_MAX == 512 * limits.MIB
    assert limits.KERNEL_LAYOUT_BYTES_MAX == 64 * limits.KIB
    assert (limits.KERNEL_BATCH_MAX, limits.KERNEL_WIDTH_MAX, PACKING, PACKING_I8) == (4096, 262144, 2, 3)


def test_table_of_activations_names_them_all_in_their_order():
    assert tuple(re.findall(r"^\| `(\w+)` \| [^|]+ \| [^|]+ \| [^|]+ \| [^|]+ \|$", DOC, re.MULTILINE)) == ACTIVATIONS


def test_topology_is_the_hash_the_document_gives():
    layout = compile_mlp(random_mlp([4, 8, 3], "relu", "softmax"), batch_max=7, mode="deterministic").layout
    facts = {
        "abi": 1,
        "activations": ["relu", "softmax"],
        "arch": "x86-64",
        "batch_max": 7,
        "kind": "mlp-f32",
        "mode": "deterministic",
        "packing": 2,
        "sizes": [4, 8, 3],
    }
    assert layout.topology == hashlib.sha256(json.dumps(facts, separators=(",", ":")).encode()).hexdigest()
