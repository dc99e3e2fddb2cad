"""The models of MLPerf Tiny for `models.py` and `models_verify.py`: where they lie, their marks, and rows to ask."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import wasmtime
from kernels import Prepared

from edgeswarm import agentfile
from edgeswarm.app.litert_peer import Peer
from edgeswarm.compile import Kernel, read_layout

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


def chosen(words: list[str]) -> list[Case]:
    """The cases whose name, kind or file holds one of the words; all without words."""
    return [case for case in CASES if not words or any(word in f"{case} {case.file}" for word in words)]


def import_model(model: Path, out: Path, state: Path) -> tuple[float, dict[str, Any]]:
    """Seconds of `agent import` as somebody types it, start of the interpreter included; and what it says."""
    command = [sys.executable, "-m", "edgeswarm", "agent", "import", str(model), "-o", str(out), "--unsigned", "--json"]
    began = time.perf_counter()
    done = subprocess.run([*command, "--state", str(state)], capture_output=True, text=True, timeout=300, cwd=ROOT)
    seconds = time.perf_counter() - began
    if done.returncode:
        raise SystemExit(f"{model.name}: {done.stderr.strip()}")
    return seconds, json.loads(done.stdout)


def prepared(file: agentfile.AgentFile) -> Prepared:
    """The kernel of an agent file in this process."""
    wasm = file.section("wasm_kernel")
    config = wasmtime.Config()
    config.epoch_interruption = True  # as in a jail
    kernel = Kernel(wasm, read_layout(wasm), file.section("neural_weights"))
    return Prepared(wasmtime.Engine(config), kernel)


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
