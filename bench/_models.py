"""The models of MLPerf Tiny for `models.py` and `models_verify.py`: where they lie, their marks, and rows to ask."""

from __future__ import annotations

import contextlib
import io
import json
import multiprocessing
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from importlib.util import find_spec
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
from wasmtime import _ffi

from edgeswarm import agentfile
from edgeswarm.app.cli import root
from edgeswarm.app.litert_peer import Peer
from edgeswarm.compile import read_layout
from edgeswarm.jail.wasm import Engine, Instance, Library

ROOT = Path(__file__).resolve().parents[1]
SECTIONS = ["neural_weights", "wasm_kernel", "golden", "model", "tflite"]


@dataclass(frozen=True, slots=True)
class Case:
    """least, aim: what XNNPACK's time over ours must be, and should be."""

    name: str
    kind: str
    file: str
    least: float
    aim: float

    def __str__(self) -> str:
        return f"{self.name} {self.kind}"


CASES = (
    Case("ad01", "int8", "ad01_int8.tflite", 0.8, 1.0),
    Case("ad01", "f32", "ad01_fp32.tflite", 0.7, 0.8),
    Case("kws", "int8", "kws_ref_model.tflite", 0.5, 0.8),
    Case("kws", "f32", "kws_ref_model_float32.tflite", 0.45, 0.55),
    Case("resnet", "int8", "pretrainedResnet_quant.tflite", 0.4, 0.6),
    Case("resnet", "f32", "pretrainedResnet.tflite", 0.35, 0.5),
    Case("vww", "int8", "vww_96_int8.tflite", 0.5, 0.8),
    Case("vww", "f32", "vww_96_float.tflite", 0.35, 0.5),
)


def folder() -> Path:
    """Of the models: `$EDGESWARM_TEST_DATA/mlperf-tiny`, else `../shared/data/mlperf-tiny` beside the checkout."""
    data = os.environ.get("EDGESWARM_TEST_DATA") or ROOT.parent / "shared" / "data"
    return Path(data) / "mlperf-tiny"


def missing() -> str:
    """What is not here to compare with; "" when all is."""
    if find_spec("ai_edge_litert") is None:
        return "no LiteRT: pip install 'edgeswarm[delegates]'"
    if not folder().is_dir():
        return f"no models at {folder()} (EDGESWARM_TEST_DATA names another place)"
    return ""


def chosen(words: list[str]) -> list[Case]:
    """The cases whose name, kind or file holds one of the words; all without words."""
    return [case for case in CASES if not words or any(word in f"{case} {case.file}" for word in words)]


def import_model(model: Path, out: Path, state: Path) -> tuple[float, float, dict[str, Any]]:
    """`agent import` as somebody types it, start of the interpreter included: seconds, of the processor too; what it
    says."""
    command = [sys.executable, "-m", "edgeswarm", "agent", "import", str(model), "-o", str(out), "--unsigned", "--json"]
    used, began = os.times(), time.perf_counter()
    done = subprocess.run([*command, "--state", str(state)], capture_output=True, text=True, timeout=300, cwd=ROOT)
    seconds, after = time.perf_counter() - began, os.times()
    cpu = after.children_user + after.children_system - used.children_user - used.children_system
    if done.returncode:
        raise SystemExit(f"{model.name}: {done.stderr.strip()}")
    return seconds, cpu, json.loads(done.stdout)


def import_here(model: Path, state: Path) -> agentfile.AgentFile:
    """The same in this process: an agent file with all of its sections."""
    out = state.with_name("here.af")
    with contextlib.redirect_stdout(io.StringIO()) as said:
        code = root.run(["agent", "import", str(model), "-o", str(out), "--unsigned", "--state", str(state)])
    if code:
        raise SystemExit(f"{model.name}: {said.getvalue()}")
    return agentfile.read(out.read_bytes(), wanted=SECTIONS)


class Loaded:
    """An agent file's kernel as the jail has it, its settings and its machine code, called in this process."""

    def __init__(self, file: agentfile.AgentFile, cwasm: bytes = b"") -> None:
        """cwasm: what the jail compiled; else it is compiled here, by the same engine."""
        wasm = file.section("wasm_kernel")
        self.layout = read_layout(wasm)
        engine = Engine(Library(str(_ffi.filename)))
        module = engine.load(cwasm) if cwasm else engine.compile(wasm)
        self.instance = Instance(module, memory_bytes_max=self.layout.memory_bytes)
        at, weights = self.layout.weights.offset, file.section("neural_weights")
        self.instance.memory[at : at + len(weights)] = weights

    def answer(self, row: bytes) -> bytes:
        """Of one row, packed float32.  It is copied in each time: kernels compute in its place."""
        where, memory = self.layout, self.instance.memory
        memory[where.input.offset : where.input.offset + len(row)] = row
        if self.instance.run(1):
            raise SystemExit("the kernel trapped")
        return bytes(memory[where.output.offset : where.output.offset + 4 * where.output.width])


class Beside:
    """The same in a process of its own, as LiteRT is: a process that has waited runs on as long as any other would."""

    def __init__(self, data: bytes, cwasm: bytes) -> None:
        """data: an agent file's bytes."""
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, data, cwasm), daemon=True)
        self._process.start()

    def __enter__(self) -> Beside:
        return self

    def __exit__(self, *_: object) -> None:
        self._pipe.close()
        self._process.join()

    def time_ns(self, row: bytes, calls: int) -> int:
        """Of that many calls, the row copied in each time."""
        self._pipe.send((row, calls))
        found: int = self._pipe.recv()
        return found


def _serve(pipe: Connection, data: bytes, cwasm: bytes) -> None:
    kernel = Loaded(agentfile.read(data, wanted=SECTIONS), cwasm)
    memory, run, at = kernel.instance.memory, kernel.instance.run, kernel.layout.input.offset
    with contextlib.suppress(EOFError, KeyboardInterrupt):
        while True:
            row, calls = pipe.recv()
            kernel.answer(row)  # brings caches back
            end, began = at + len(row), time.perf_counter_ns()
            for _ in range(calls):
                memory[at:end] = row
                run(1)
            pipe.send(time.perf_counter_ns() - began)


def with_float_weights(model: bytes) -> bytes | None:
    """The same model with float32 in place of weights of 8 bits that layers read beside float32 values; None without
    such.

    LiteRT rounds the values to 8 bits in such a layer, each time by their range: what it answers then is not what the
    weights say, and a last bit before a layer may be a step of 1/255 behind it.
    """
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    tree = schema.ModelT.InitFromPackedBuf(bytearray(model), 0)
    (graph,), kinds, changed = tree.subgraphs, schema.TensorType, False
    for operator in graph.operators:
        inputs = [graph.tensors[index] for index in operator.inputs if index >= 0]
        if len(inputs) < 2 or inputs[0].type != kinds.FLOAT32 or inputs[1].type != kinds.INT8:
            continue
        weights, changed = inputs[1], True
        steps, buffer = weights.quantization, tree.buffers[weights.buffer]
        shape = np.ones(len(weights.shape), int)
        shape[steps.quantizedDimension] = -1
        scale = np.asarray(steps.scale, np.float32).reshape(shape if len(steps.scale) > 1 else ())
        whole = np.asarray(buffer.data, np.uint8).view(np.int8).reshape(weights.shape)
        buffer.data = np.frombuffer((whole * scale).astype("<f4").tobytes(), np.uint8)
        weights.type, weights.quantization = kinds.FLOAT32, None
    if not changed:
        return None
    builder = flatbuffers.Builder(1 << 20)
    builder.Finish(tree.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def input_range(case: Case) -> tuple[float, float]:
    """What the int8 model of the same name can hold: the range of values that the float model was trained on too."""
    other = next(one for one in CASES if (one.name, one.kind) == (case.name, "int8"))
    with Peer((folder() / other.file).read_bytes(), "builtin") as peer:
        steps = peer.input_steps
    if steps is None:
        return -1.0, 1.0
    scale, zero = steps
    return scale * (-128 - zero), scale * (127 - zero)


def rows_of(width: int, count: int, low: float, high: float, seed: int) -> np.ndarray:
    """float32[count, width]: the range's ends and middle; then noise over it, around its middle, and smooth waves."""
    rng = np.random.default_rng(seed)
    middle, half = (low + high) / 2, (high - low) / 2
    rows = np.empty((count, width))
    for index in range(count):
        kind = index % 3
        if kind == 0:
            rows[index] = rng.uniform(low, high, width)
        elif kind == 1:
            rows[index] = middle + half * rng.uniform(0.02, 0.5) * rng.standard_normal(width)
        else:
            period, phase = rng.uniform(5, width), rng.uniform(0, 6.3)
            rows[index] = middle + half * rng.uniform(0.1, 1) * np.sin(np.arange(width) * 6.3 / period + phase)
    for index, value in enumerate((low, middle, high)[:count]):
        rows[index] = value
    return np.clip(rows, low, high).astype(np.float32)
