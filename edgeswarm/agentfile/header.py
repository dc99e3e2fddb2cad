"""The YAML header of an agent file as frozen types: what each key may be, and which keys must agree.

Follows docs/agent-file.md, whose table of keys is made from these classes.  Decides nothing about bytes
(`sections.py`) or trust (`signature.py`).  Invariant: a decoded Header agrees with itself: widths, labels,
capabilities, minimums and limits.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Annotated, Final, Literal

from edgeswarm.agentfile.wiring import Name, Wiring
from edgeswarm.limits import (
    AF_SECTION_BYTES_MAX,
    AF_SECTIONS_MAX,
    CALL_DEADLINE_MS_DEFAULT,
    CALL_DEADLINE_MS_MAX,
    KERNEL_BATCH_MAX,
    KERNEL_MEMORY_BYTES_MAX,
    KERNEL_WIDTH_MAX,
    LAYER_WIDTH_MAX,
    LAYERS_MAX,
    MEMORY_WIDTH_MAX,
    MIB,
)
from edgeswarm.model.activations import STEEPNESS_MAX, Activation
from edgeswarm.schema import Doc, Length, Pattern, Range

SectionName = Literal["neural_weights", "wasm_kernel", "training_data", "golden", "model", "fann", "tflite"]
Capability = Literal["exec_source", "exec_sink", "file_source", "file_sink", "mqtt_source", "mqtt_sink", "webhook_sink"]
ITEM_BYTES: Final[Mapping[str, int]] = {"f32": 4, "i8": 1, "u8": 1}

_DATE, _TIME = r"[0-9]{4}-[0-9]{2}-[0-9]{2}", r"[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,6})?"
Moment = Annotated[
    str, Pattern(rf"({_DATE}T{_TIME}(Z|[+-][0-9]{{2}}:[0-9]{{2}}))?", "an RFC 3339 date and time, or nothing")
]
Sha256 = Annotated[str, Pattern(r"[0-9a-f]{64}", "64 lower-case hex digits")]
Cores = Annotated[float, Range(0.0, 1024.0, "cores")]
Seconds = Annotated[float, Range(0.1, 86_400.0, "s")]
Backoff = Annotated[float, Range(1.0, 3_600_000.0, "ms")]
Tolerance = Annotated[float, Range(0.0, 1.0)]
ShortText = Annotated[str, Length(0, 256)]


@dataclass(frozen=True, slots=True)
class RuntimeInfo:
    """Of the specification; says what other runtimes need and changes nothing here."""

    rust_version: Annotated[ShortText, Doc("informational")] = ""
    dependencies: Annotated[Mapping[str, ShortText], Length(0, 1024), Doc("informational: package to version")] = field(
        default_factory=dict
    )
    features: Annotated[tuple[ShortText, ...], Length(0, 1024), Doc("informational")] = ()


@dataclass(frozen=True, slots=True)
class NeuralConfig:
    """What the kernel computes, as seen from outside."""

    input_size: Annotated[int, Range(1, KERNEL_WIDTH_MAX, "values"), Doc("values of a frame, and the agent's memory")]
    output_size: Annotated[int, Range(1, KERNEL_WIDTH_MAX, "values"), Doc("values of an answer, and the memory")]
    network_type: Annotated[
        Literal["feedforward", "graph", "custom"],
        Doc("feedforward: dense layers; graph: as the section model says; custom: whatever the kernel computes"),
    ] = "feedforward"
    hidden_layers: Annotated[
        tuple[Annotated[int, Range(1, LAYER_WIDTH_MAX)], ...],
        Length(0, LAYERS_MAX - 1),
        Doc("widths of the hidden layers, first to last"),
    ] = ()
    activation_function: Annotated[Activation, Doc("activation of the hidden layers")] = "relu"
    output_activation: Annotated[Activation, Doc("activation of the last layer")] = "linear"
    steepness: Annotated[
        tuple[Annotated[float, Range(-STEEPNESS_MAX, STEEPNESS_MAX)], ...],
        Length(0, LAYERS_MAX),
        Doc("what each layer's sums are multiplied by, first to last; none: 1 everywhere; in the weights already"),
    ] = ()
    learning_rate: Annotated[float, Range(0.0, 1000.0), Doc("what training used; informational")] = 0.001

    def faults(self) -> Iterator[tuple[str, str]]:
        layers = len(self.hidden_layers) + 1
        if self.steepness and len(self.steepness) != layers:
            yield (
                "steepness",
                f"expected {layers} numbers (hidden_layers and the last layer), found {len(self.steepness)}",
            )


@dataclass(frozen=True, slots=True)
class ResourceLimits:
    """What the agent may use at most."""

    memory_mb: Annotated[
        int, Range(1, KERNEL_MEMORY_BYTES_MAX // MIB, "MiB"), Doc("linear memory of the kernel at most")
    ] = 64
    cpu_cores: Annotated[Cores, Doc("CPU time a second at most; its calls wait for it")] = 1.0
    disk_mb: Annotated[int, Range(0, 1 << 20, "MiB"), Doc("what is kept on disk for it, at most")] = 100
    network_bandwidth_mbps: Annotated[
        float,
        Range(0.0, 1e6, "Mbit/s"),
        Doc("what its network sinks and its stream send, at most; 0: what its class may"),
    ] = 0.0


@dataclass(frozen=True, slots=True)
class ResourceRequirements:
    """What the agent needs at least; a device without it refuses."""

    minimum_memory_mb: Annotated[int, Range(0, KERNEL_MEMORY_BYTES_MAX // MIB, "MiB"), Doc("memory at least")] = 0
    minimum_cpu_cores: Annotated[Cores, Doc("CPU time a second at least")] = 0.0


@dataclass(frozen=True, slots=True)
class Resources:
    """What the agent may use and what it needs."""

    limits: Annotated[ResourceLimits, Doc("at most")] = field(default_factory=ResourceLimits)
    requirements: Annotated[ResourceRequirements, Doc("at least")] = field(default_factory=ResourceRequirements)

    def faults(self) -> Iterator[tuple[str, str]]:
        pairs = (
            ("minimum_memory_mb", self.requirements.minimum_memory_mb, "memory_mb", self.limits.memory_mb),
            ("minimum_cpu_cores", self.requirements.minimum_cpu_cores, "cpu_cores", self.limits.cpu_cores),
        )
        for key, least, limit, most in pairs:
            if least > most:
                yield f"requirements.{key}", f"expected at most limits.{limit} ({most}), found {least}"


InitializationStep = Literal["load_neural_network", "initialize_memory", "connect_to_swarm", "register_capabilities"]
ExecutionStep = Literal["receive_input", "process_neural_network", "update_memory", "send_output"]
ShutdownStep = Literal["save_state", "disconnect_from_swarm", "cleanup_resources"]


@dataclass(frozen=True, slots=True)
class Workflows:
    """Steps, in the order in which they run; each at most once."""

    initialization: Annotated[tuple[InitializationStep, ...], Length(0, 16), Doc("when the agent starts")] = (
        "load_neural_network",
        "initialize_memory",
        "connect_to_swarm",
        "register_capabilities",
    )
    execution: Annotated[tuple[ExecutionStep, ...], Length(0, 16), Doc("for each frame")] = (
        "receive_input",
        "process_neural_network",
        "update_memory",
        "send_output",
    )
    shutdown: Annotated[tuple[ShutdownStep, ...], Length(0, 16), Doc("when the agent stops")] = (
        "save_state",
        "disconnect_from_swarm",
        "cleanup_resources",
    )

    def faults(self) -> Iterator[tuple[str, str]]:
        for key in ("initialization", "execution", "shutdown"):
            steps = getattr(self, key)
            for index, step in enumerate(steps):
                if step in steps[:index]:
                    yield f"{key}[{index}]", f"expected each step once, found {step} again"


@dataclass(frozen=True, slots=True)
class MemorySpec:
    """State kept between calls: the last `width` outputs become the last `width` inputs of the next call."""

    width: Annotated[int, Range(0, MEMORY_WIDTH_MAX, "values"), Doc("values fed back; 0: the agent has no memory")] = 0
    checkpoint_s: Annotated[Seconds, Doc("memory and stream positions are saved this often, and at shutdown")] = 10.0


@dataclass(frozen=True, slots=True)
class SupervisionSpec:
    """What happens when the agent or a neighbour in its network dies."""

    network: Annotated[
        str, Pattern(r"([a-z][a-z0-9-]{0,63})?", "a name, or nothing"), Doc("its supervision group; absent: its own")
    ] = ""
    strategy: Annotated[
        Literal["one_for_one", "one_for_all", "rest_for_one"],
        Doc("restart it; its group; it and those after it"),
    ] = "one_for_one"
    restarts_max: Annotated[int, Range(0, 1000), Doc("more restarts within `within_s` open the breaker")] = 5
    within_s: Annotated[Seconds, Doc("over this time")] = 60.0
    backoff_ms: Annotated[Backoff, Doc("wait before the first restart; doubles")] = 50.0
    backoff_ms_max: Annotated[Backoff, Doc("up to this")] = 5_000.0

    def faults(self) -> Iterator[tuple[str, str]]:
        if self.backoff_ms > self.backoff_ms_max:
            yield "backoff_ms", f"expected at most backoff_ms_max ({self.backoff_ms_max}), found {self.backoff_ms}"


Share = Annotated[float, Range(0.0, 1.0)]


@dataclass(frozen=True, slots=True)
class Quantization:
    """How an int8 kernel was made from float32, and what that cost on the calibration rows."""

    path: Annotated[
        Literal["i7x4", "i7", "exact"], Doc("activations of 7 bits (x4: small weights, fastest), or 8 bits, exact")
    ]
    calibration: Annotated[Literal["minmax", "percentile"], Doc("how the ranges of activations were found")] = "minmax"
    percentile: Annotated[float, Range(50.0, 100.0), Doc("of the method percentile")] = 100.0
    rows: Annotated[int, Range(0, AF_SECTION_BYTES_MAX), Doc("calibration rows")] = 0
    loss: Annotated[Share, Doc("what the path was judged by: accuracy lost, else answers that differ, else error")] = (
        0.0
    )
    loss_max: Annotated[Share, Doc("the bound on it when the file was built")] = 1.0
    error_mean: Annotated[float, Range(0.0, 3.5e38), Doc("mean of |int8 - float32| over all answers")] = 0.0
    error_max: Annotated[float, Range(0.0, 3.5e38), Doc("greatest of them")] = 0.0


@dataclass(frozen=True, slots=True)
class KernelOptions:
    """How the kernel was built and how it is called (docs/kernel-abi.md)."""

    abi: Annotated[Literal[1], Doc("version of the kernel ABI")] = 1
    mode: Annotated[Literal["fast", "deterministic"], Doc("deterministic: the same bits on every architecture")] = (
        "fast"
    )
    batch_max: Annotated[int, Range(1, KERNEL_BATCH_MAX, "rows"), Doc("rows of one call at most")] = 256
    deadline_ms: Annotated[
        int, Range(1, CALL_DEADLINE_MS_MAX, "ms"), Doc("a call that takes longer is interrupted")
    ] = CALL_DEADLINE_MS_DEFAULT
    topology: Annotated[
        str,
        Pattern(r"([0-9a-f]{64})?", "64 lower-case hex digits or nothing"),
        Doc("digest of what shaped its code; informational"),
    ] = ""
    quantization: Annotated[Quantization | None, Doc("of an int8 kernel; absent: float32")] = None


@dataclass(frozen=True, slots=True)
class GoldenSpec:
    """How far answers to the section `golden` may be off: |found - expected| <= max(relative * larger, absolute)."""

    relative: Annotated[Tolerance, Doc("relative tolerance")] = 1e-5
    absolute: Annotated[Tolerance, Doc("absolute tolerance")] = 1e-6


Dtype = Literal["f32", "i8", "u8"]


@dataclass(frozen=True, slots=True)
class SectionEntry:
    """One row of the section table."""

    name: Annotated[SectionName, Doc("which section; each at most once")]
    length: Annotated[int, Range(0, AF_SECTION_BYTES_MAX, "bytes"), Doc("stored bytes")]
    sha256: Annotated[Sha256, Doc("of the stored bytes")]
    raw_length: Annotated[int, Range(0, AF_SECTION_BYTES_MAX, "bytes"), Doc("bytes after decoding")]
    encoding: Annotated[Literal["none", "zstd"], Doc("zstd: one frame of RFC 8878 that states its content size")] = (
        "none"
    )
    dtype: Annotated[Dtype | None, Doc("items, little-endian; absent: opaque bytes")] = None
    shape: Annotated[
        tuple[Annotated[int, Range(0, AF_SECTION_BYTES_MAX)], ...], Length(0, 8), Doc("items a dimension, row-major")
    ] = ()

    def faults(self) -> Iterator[tuple[str, str]]:
        if self.encoding == "none" and self.raw_length != self.length:
            yield "raw_length", f"expected {self.length} as in length (encoding none), found {self.raw_length}"
        if self.encoding == "zstd" and not self.raw_length:
            yield "encoding", "expected none for an empty section, found zstd"
        if self.dtype is None:
            if self.shape:
                yield "shape", "needs a dtype"
            if self.name in ("neural_weights", "golden"):
                yield "dtype", f"missing; the section {self.name} needs one"
            return
        if self.name == "golden" and self.dtype != "f32":
            yield "dtype", f"expected f32 for the section golden, found {self.dtype}"
        if not self.shape:
            yield "shape", "missing; a dtype needs one"
            return
        expected = math.prod(self.shape) * ITEM_BYTES[self.dtype]
        if expected != self.raw_length:
            yield "shape", f"expected {self.raw_length} bytes (raw_length), found {expected} of {self.dtype}"


@dataclass(frozen=True, slots=True)
class Header:
    """The whole header."""

    version: Annotated[Literal["1.0"], Doc("version of the format")]
    name: Annotated[Name, Doc("the agent's name, unless deployed under another")]
    neural_config: Annotated[NeuralConfig, Doc("what the kernel computes")]
    description: Annotated[str, Length(0, 4096), Doc("for people")] = ""
    author: Annotated[ShortText, Doc("for people")] = ""
    created: Annotated[Moment, Doc("when the agent was made; an argument of the build, never the clock")] = ""
    modified: Annotated[Moment, Doc("when it was last changed")] = ""
    agent_version: Annotated[
        str, Pattern(r"[0-9]{1,9}(\.[0-9]{1,9}){2}", "a version like 1.2.3"), Doc("the agent's own version")
    ] = "1.0.0"
    runtime: Annotated[RuntimeInfo | None, Doc("what other runtimes need; informational, a warning")] = None
    resources: Annotated[Resources, Doc("what the agent may use and what it needs")] = field(default_factory=Resources)
    workflows: Annotated[Workflows, Doc("steps, in the order in which they run")] = field(default_factory=Workflows)
    wiring: Annotated[Wiring, Doc("sources to sinks")] = field(default_factory=Wiring)
    capabilities: Annotated[tuple[Capability, ...], Length(0, 64), Doc("what it may do outside its jail")] = ()
    memory: Annotated[MemorySpec, Doc("state kept between calls")] = field(default_factory=MemorySpec)
    sandbox: Annotated[Name, Doc("policy of its jail")] = "strict"
    isolation: Annotated[
        Literal["shared", "own-jail"], Doc("with the agents of its publisher and policy, or alone")
    ] = "shared"
    supervision: Annotated[SupervisionSpec, Doc("what happens when it dies")] = field(default_factory=SupervisionSpec)
    kernel: Annotated[KernelOptions, Doc("how the kernel is called")] = field(default_factory=KernelOptions)
    golden: Annotated[GoldenSpec, Doc("tolerance of the section golden")] = field(default_factory=GoldenSpec)
    sections: Annotated[
        tuple[SectionEntry, ...], Length(0, AF_SECTIONS_MAX), Doc("table of the binary sections, in their order")
    ] = ()

    @property
    def payload_width(self) -> int:
        """Values of an answer without the agent's memory."""
        return self.neural_config.output_size - self.memory.width

    def faults(self) -> Iterator[tuple[str, str]]:
        yield from self._faults_moments()
        yield from self._faults_capabilities()
        yield from self._faults_sections()
        if self.memory.width >= min(self.neural_config.input_size, self.neural_config.output_size):
            sizes = f"input_size {self.neural_config.input_size}, output_size {self.neural_config.output_size}"
            yield "memory.width", f"expected less than the kernel's widths ({sizes}), found {self.memory.width}"
            return
        yield from self._faults_widths()

    def _faults_moments(self) -> Iterator[tuple[str, str]]:
        for key in ("created", "modified"):
            text = getattr(self, key)
            if text:
                try:
                    datetime.fromisoformat(text)
                except ValueError as error:
                    yield key, f"expected a date and time, found {text!r}: {error}"

    def _faults_capabilities(self) -> Iterator[tuple[str, str]]:
        for index, capability in enumerate(self.capabilities):
            if capability in self.capabilities[:index]:
                yield f"capabilities[{index}]", f"expected each once, found {capability} again"
        needs = {"sources": {"csv": "file_source", "tail": "file_source", "exec": "exec_source"}}
        needs["sources"]["mqtt"] = "mqtt_source"
        needs["sinks"] = {"jsonl": "file_sink", "exec": "exec_sink", "mqtt": "mqtt_sink", "webhook": "webhook_sink"}
        for key, by_type in needs.items():
            for index, item in enumerate(getattr(self.wiring, key)):
                need = by_type.get(item.type)
                if need is not None and need not in self.capabilities:
                    yield (
                        f"wiring.{key}[{index}].type",
                        f"{item.type} needs the capability {need}; add it to `capabilities`",
                    )

    def _faults_sections(self) -> Iterator[tuple[str, str]]:
        names = [entry.name for entry in self.sections]
        for index, entry in enumerate(self.sections):
            if entry.name in names[:index]:
                yield f"sections[{index}].name", f"expected each section once, found {entry.name} again"
            row = self.neural_config.input_size + self.neural_config.output_size
            if entry.name == "golden" and (len(entry.shape) != 2 or entry.shape[1] != row):
                yield (
                    f"sections[{index}].shape",
                    f"expected [rows, {row}] (input_size + output_size), found {list(entry.shape)}",
                )

    def _faults_widths(self) -> Iterator[tuple[str, str]]:
        wiring, payload = self.wiring, self.payload_width
        frame = self.neural_config.input_size - self.memory.width
        if wiring.frame_width is not None and wiring.frame_width != frame:
            found = f"{wiring.window.rows} rows of {wiring.row_width} values"
            yield "wiring", f"expected frames of {frame} values (input_size less memory.width), found {found}"
            return
        if frame % wiring.window.rows:
            yield "wiring.window.rows", f"expected a divisor of the frame's {frame} values, found {wiring.window.rows}"
            return
        row = frame // wiring.window.rows
        if wiring.normalize.width not in (None, row):
            yield (
                "wiring.normalize",
                f"expected vectors of {row} numbers (the values of a row), found {wiring.normalize.width}",
            )
        labels = wiring.decision.labels
        if wiring.decision.type == "argmax" and labels and len(labels) != payload:
            yield "wiring.decision.labels", f"expected {payload} (output_size less memory.width), found {len(labels)}"
        if wiring.score.type == "value" and wiring.score.index >= payload:
            yield "wiring.score.index", f"expected 0 to {payload - 1}, found {wiring.score.index}"
        by_score = {"reconstruction_error": [frame], "prediction_error": [row]}
        wanted = by_score.get(wiring.score.type, [row, frame] if wiring.emit == "residual" else [])
        if wanted and payload not in wanted:
            what = f"score {wiring.score.type}" if wiring.score.type.endswith("error") else "emit residual"
            sizes = " or ".join(str(size) for size in dict.fromkeys(wanted))
            yield "neural_config.output_size", f"{what} needs answers of {sizes} values, found {payload}"
