"""Agents whose files bring a model, and runtimes to compute it with: the fake one, LiteRT, tflite-runtime."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import shutil
import subprocess
import sysconfig
from array import array
from pathlib import Path
from typing import Any

import psutil
import pytest
from supervised import Bench, header_tree, until

from edgeswarm import agentfile
from edgeswarm.agentfile.file import Section
from edgeswarm.app import report
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
    """Of this process's children: zygotes that have a runtime's worker on their command line, and their jails."""
    found = []
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if "edgeswarm.jail.delegate_" in " ".join(child.cmdline()) and child.status() != psutil.STATUS_ZOMBIE:
                found.append(child.pid)
    return found


# --- a supervisor that runs the agent `a` ---------------------------------------------------------------------------


def row_of(bench: Bench) -> dict[str, Any]:
    found: dict[str, Any] = report.agent(bench.supervisor, "a")["delegate"]
    return found


async def runs_on(bench: Bench, name: str) -> None:
    await until(lambda: row_of(bench)["runs_on"] == name, within_s=20)


async def ask(bench: Bench, last: float, timeout_s: float = 10) -> list[float]:
    found = await bench.supervisor.ask("a", [1, 2, 3, last], timeout_s)
    assert found is not None
    return list(found.output)


async def right(bench: Bench, count: int = 20) -> None:
    for last in range(count):
        assert await ask(bench, last) == answer([1, 2, 3, last])


LIBRARY = """
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
typedef struct Delegate {
  void *data; int (*prepare)(void *, struct Delegate *); void *from; void *to; void *gone; int64_t flags; void *builder;
} Delegate;
static int prepare(void *context, Delegate *self) { (void)context; (void)self; return 0; }
#ifdef CRASH_AT_LOAD
__attribute__((constructor)) static void begin(void) { abort(); }
#endif
Delegate *tflite_plugin_create_delegate(char **keys, char **values, size_t count, void (*say)(const char *)) {
  (void)say;
#ifdef CRASH
  *(volatile int *)8 = 1;
#endif
  for (size_t i = 0; i < count; i++)
    if (!strcmp(keys[i], "make") && !strcmp(values[i], "nothing")) return NULL;
  Delegate *made = calloc(1, sizeof *made);
  made->prepare = prepare;
  return made;
}
void tflite_plugin_destroy_delegate(Delegate *self) { free(self); }
"""
"""A delegate that takes no operator, so that the runtime computes all: TFLite's plugin interface, and no more."""


def library(folder: Path, *flags: str, text: str = LIBRARY) -> str:
    """Path of a compiled delegate library; skips where there is no compiler."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler (cc): no delegate library can be made")
    source, made = folder / "delegate.c", folder / "libdelegate.so"
    source.write_text(text)
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-w", *flags, "-o", made, source], check=True, timeout=60)
    return str(made)
