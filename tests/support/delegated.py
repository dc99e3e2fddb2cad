"""Agents whose files bring a model, and runtimes to compute it with: the fake one, LiteRT, tflite-runtime."""

from __future__ import annotations

import importlib.util
import json
import sysconfig
from array import array
from pathlib import Path
from typing import Any

from supervised import header_tree

from edgeswarm import agentfile
from edgeswarm.agentfile.file import Section
from edgeswarm.compile import Layout, Rows, Weights, attach_layout
from edgeswarm.drivers.keys import SigningKey
from edgeswarm.jail import delegate_model
from edgeswarm.schema import decode

ROOT = Path(__file__).resolve().parents[2]
FAKE = Path(__file__).resolve().parent / "fake_litert"
WEIGHTS: list[list[float]] = [[1.0, 1.0, 1.0, 1.0], [1.0, -1.0, 1.0, -1.0]]
BIAS = [0.5, -0.5]
LAYOUT = Layout(
    batch_max=1,
    deterministic=True,
    input=Rows(0, 64, 4),
    output=Rows(64, 64, 2),
    weights=Weights(128, 0, (0,)),
    memory_bytes=65536,
    topology="0" * 64,
)
_LOAD = "(f32.load offset={at} (i32.const 0))"
KERNEL = """(module (memory (export "memory") 1 1)
  (func $run (local $i i32)
    (local.set $i (i32.const {loops}))
    (loop $l (local.set $i (i32.sub (local.get $i) (i32.const 1))) (br_if $l (i32.gt_s (local.get $i) (i32.const 0))))
    (f32.store (i32.const 64) (f32.add (f32.add (f32.add {a} {b}) (f32.add {c} {d})) (f32.const 0.5)))
    (f32.store (i32.const 68) (f32.sub (f32.add (f32.sub {a} {b}) (f32.sub {c} {d})) (f32.const 0.5))))
  (func (export "run") (call $run))
  (func (export "run_batch") (param i32) (call $run)))"""
"""What `jail.delegate_model` computes, after `loops` turns of a loop: as slow as a test wants it."""

SLOW = 2_000_000
"""Loops, some 0.5 ms: slower than the fake runtime on any machine."""


def fake_model(**says: Any) -> bytes:
    """A model of the fake runtime: that of `jail.delegate_model`, and how it misbehaves."""
    return b"FAKE" + json.dumps({"weights": WEIGHTS, "bias": BIAS} | says).encode()


def answer(row: list[float]) -> list[float]:
    """What kernel and model compute."""
    return [sum(w * x for w, x in zip(weights, row, strict=True)) + b for weights, b in zip(WEIGHTS, BIAS, strict=True)]


def agent_file(
    key: SigningKey, model: bytes | None, *, name: str = "a", loops: int = 0, golden: int = 4, **changes: Any
) -> bytes:
    """An agent of the test model with an `api` source; golden: rows.  model: its section `tflite`."""
    import wasmtime

    loads = {letter: _LOAD.format(at=4 * index) for index, letter in enumerate("abcd")}
    wasm = bytes(wasmtime.wat2wasm(KERNEL.format(loops=loops, **loads)))
    sections = {"wasm_kernel": Section(attach_layout(wasm, LAYOUT))}
    if golden:
        rows = [[float(i + 1), 2.0 - i, 0.25 * i, -1.0] for i in range(golden)]
        values = array("f", [value for row in rows for value in (*row, *answer(row))])
        sections["golden"] = Section(values.tobytes(), "f32", (golden, 6))
    if model is not None:
        sections["tflite"] = Section(model)
    header = decode(header_tree(name, 4, 2, **changes), agentfile.Header)
    return agentfile.build(header, sections, publisher_key=key.seed)


def real_packages(module: str) -> str:
    """Folder where a real runtime lies: in this Python, else in the peers' environments; empty where it does not."""
    spec = importlib.util.find_spec(module)
    folders = [str(Path(spec.origin).parents[1])] if spec is not None and spec.origin else []
    version = sysconfig.get_python_version()
    folders += [
        str(ROOT / "build" / "peers" / venv / "lib" / f"python{version}" / "site-packages")
        for venv in ("venv", "tflite")
    ]
    return next((one for one in folders if (Path(one) / module / "__init__.py").is_file()), "")


TINY = delegate_model.model()


def jails_left() -> list[int]:
    """Processes that have a runtime's worker on their command line: zygotes, and the jails they have forked."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            line = (entry / "cmdline").read_bytes()
            stat = (entry / "stat").read_bytes()
        except OSError:
            continue
        if b"edgeswarm.jail.delegate_" in line and b") Z " not in stat:
            found.append(int(entry.name))
    return found
