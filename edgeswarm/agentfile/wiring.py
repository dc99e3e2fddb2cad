"""The key `wiring` of an agent file: where samples come from, what becomes of them, where answers go.

Decides what a wiring may say; `stream/` decides what it means.  Path of one sample: sources -> join -> normalise ->
window -> kernel -> score -> decision -> sinks.  A row is the values of all sources, in the order of the sources; a
frame is `window.rows` rows, row-major, oldest first.
Invariants of a decoded Wiring: ids of sources, files and sockets of sinks are unique; a normalisation has the vectors
that its method needs and no others, all of the row's width where that is known.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Annotated, Literal

from edgeswarm.agentfile.wiring_network import AgentSource, MqttSink, MqttSource, PublishSpec, WebhookSink
from edgeswarm.agentfile.wiring_parts import (
    Command,
    FieldNames,
    Fields,
    FilePath,
    Id,
    Name,
    Queue,
    QueueKey,
    Rate,
    TextFormat,
    Vector,
    When,
)
from edgeswarm.limits import (
    KERNEL_WIDTH_MAX,
    SINKS_PER_AGENT_MAX,
    SOURCES_PER_AGENT_MAX,
    WINDOW_ROWS_MAX,
)
from edgeswarm.schema import Doc, Length, Range

__all__ = [
    "AgentSource", "ApiSource", "CsvSource", "DecisionSpec", "ExecSink", "ExecSource", "IioSource", "JsonlSink",
    "JsonlSource", "MqttSink", "MqttSource", "Name", "NormalizeSpec", "PublishSpec", "Queue", "ScoreSpec", "Sink",
    "SocketSink", "Source", "StdoutSink", "TailSource", "VitalsSource", "WebhookSink", "WindowSpec", "Wiring",
    "source_width",
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class VitalsSource:
    """The machine's own cpu, memory, load, disk, network, temperature."""

    type: Literal["vitals"]
    fields: Fields
    id: Id = ""
    rate_hz: Annotated[Rate, Doc("samples a second")] = 10.0
    queue: QueueKey = field(default_factory=Queue)


@dataclass(frozen=True, slots=True)
class CsvSource:
    """Replay of a CSV file with a header line.  Needs the capability file_source."""

    type: Literal["csv"]
    path: Annotated[FilePath, Doc("the file")]
    columns: Annotated[FieldNames, Doc("columns taken, by their header, in this order")]
    id: Id = ""
    rate_hz: Annotated[Rate, Doc("rows a second at speed 1")] = 10.0
    speed: Annotated[float, Range(0.0, 1e6), Doc("factor on rate_hz; 0: as fast as the agent takes rows")] = 1.0
    loop: Annotated[bool, Doc("begin again at the end")] = False
    timestamp: Annotated[
        str, Length(0, 128), Doc("column that sets the pace instead of rate_hz: seconds, or ISO 8601; absent: none")
    ] = ""
    queue: QueueKey = field(default_factory=Queue)


@dataclass(frozen=True, slots=True)
class JsonlSource:
    """JSON objects, one a line, on the runtime's standard input."""

    type: Literal["jsonl"]
    fields: Fields
    id: Id = ""
    queue: QueueKey = field(default_factory=Queue)


@dataclass(frozen=True, slots=True)
class TailSource:
    """Lines appended to a file, as `tail -F` sees them.  Needs the capability file_source."""

    type: Literal["tail"]
    path: Annotated[FilePath, Doc("the file; it may come, go and be rotated")]
    fields: Fields
    format: TextFormat = "jsonl"
    id: Id = ""
    queue: QueueKey = field(default_factory=Queue)


@dataclass(frozen=True, slots=True)
class IioSource:
    """Channels of a Linux industrial I/O device, from sysfs."""

    type: Literal["iio"]
    device: Annotated[str, Length(1, 128), Doc('folder ("iio:device0") or content of its file `name`')]
    channels: Annotated[FieldNames, Doc("channels, as in_<channel>_raw or in_<channel>_input, in this order")]
    id: Id = ""
    rate_hz: Annotated[Rate, Doc("samples a second")] = 10.0
    queue: QueueKey = field(default_factory=Queue)


@dataclass(frozen=True, slots=True)
class ExecSource:
    """Lines of a command's standard output.  Needs the capability exec_source."""

    type: Literal["exec"]
    command: Command
    fields: Fields
    format: TextFormat = "jsonl"
    id: Id = ""
    queue: QueueKey = field(default_factory=Queue)


@dataclass(frozen=True, slots=True)
class ApiSource:
    """Rows handed over by a program (Python API, control socket)."""

    type: Literal["api"]
    width: Annotated[int, Range(1, KERNEL_WIDTH_MAX, "values"), Doc("values of one row")]
    id: Id = ""
    queue: QueueKey = field(default_factory=Queue)


Source = (
    VitalsSource | CsvSource | JsonlSource | TailSource | IioSource | ExecSource | MqttSource | AgentSource | ApiSource
)


def source_width(source: Source) -> int | None:
    """Values of one row of `source`; None for the stream of another agent of the device, whose file says it."""
    match source:
        case AgentSource():
            return source.width or None
        case ApiSource():
            return source.width
        case CsvSource():
            return len(source.columns)
        case IioSource():
            return len(source.channels)
        case _:
            return len(source.fields)


@dataclass(frozen=True, slots=True)
class WindowSpec:
    """How rows become frames."""

    rows: Annotated[int, Range(1, WINDOW_ROWS_MAX, "rows"), Doc("rows of one frame")] = 1
    hop: Annotated[int, Range(1, WINDOW_ROWS_MAX, "rows"), Doc("rows from one frame to the next")] = 1


@dataclass(frozen=True, slots=True)
class NormalizeSpec:
    """The scale of the model: given here, or learnt on the device's own first rows and then frozen."""

    method: Annotated[
        Literal["none", "fixed", "zscore", "minmax"],
        Doc("fixed, zscore: (value - mean) / std; minmax: (value - low) / (high - low); fixed never learns"),
    ] = "none"
    warmup_rows: Annotated[
        int, Range(0, 1_000_000, "rows"), Doc("zscore, minmax: learn from so many rows; no frame comes before")
    ] = 0
    mean: Annotated[Vector, Doc("fixed, zscore without warm-up: one number per value of a row")] = ()
    std: Annotated[Vector, Doc("the same; each above 0")] = ()
    low: Annotated[Vector, Doc("minmax without warm-up: one number per value of a row")] = ()
    high: Annotated[Vector, Doc("the same; each above its `low`")] = ()
    clip: Annotated[float, Range(0.0, 1e6), Doc("results are clipped to -clip..clip; 0: not clipped")] = 8.0
    mean_min: Annotated[Vector, Doc("zscore with warm-up: the learnt mean is at least this, per value of a row")] = ()
    mean_max: Annotated[Vector, Doc("the same: at most")] = ()
    std_min: Annotated[Vector, Doc("the same: the learnt std is at least this; above 0")] = ()
    std_max: Annotated[Vector, Doc("the same: at most; the first seconds may be too wild to tell what is usual")] = ()

    def faults(self) -> Iterator[tuple[str, str]]:
        learns = self.method in ("zscore", "minmax") and self.warmup_rows > 0
        needed = () if learns else {"none": (), "minmax": ("low", "high")}.get(self.method, ("mean", "std"))
        if self.warmup_rows and not learns:
            yield "warmup_rows", f"expected 0, found {self.warmup_rows}: the method {self.method} learns nothing"
        for key in ("mean", "std", "low", "high"):
            values = getattr(self, key)
            if key in needed and not values:
                hint = "" if self.method == "fixed" else " (or warmup_rows above 0)"
                yield key, f"missing; the method {self.method} needs it{hint}"
            elif values and key not in needed:
                yield key, f"not used by the method {self.method}{' with warm-up' if learns else ''}"
        yield from self._faults_bounds()
        if len(needed) == 2:
            first, second = getattr(self, needed[0]), getattr(self, needed[1])
            if first and second and len(first) != len(second):
                yield needed[1], f"expected {len(first)} numbers as in {needed[0]}, found {len(second)}"
                return
            for index, (left, right) in enumerate(zip(first, second, strict=False)):
                if right <= (left if self.method == "minmax" else 0.0):
                    what = f"more than low ({left!r})" if self.method == "minmax" else "more than 0"
                    yield f"{needed[1]}[{index}]", f"expected {what}, found {right!r}"
                    return

    def _faults_bounds(self) -> Iterator[tuple[str, str]]:
        given = {key: getattr(self, key) for key in ("mean_min", "mean_max", "std_min", "std_max")}
        for key, values in given.items():
            if values and not (self.method == "zscore" and self.warmup_rows):
                yield key, "used by the method zscore with warm-up only"
            if values and len(values) != self.width:
                yield key, f"expected {self.width} numbers as in the other vectors, found {len(values)}"
            if key.startswith("std") and min(values, default=1.0) <= 0.0:
                yield key, f"expected numbers above 0, found {min(values)!r}"
        for low, high in (("mean_min", "mean_max"), ("std_min", "std_max")):
            for index, (least, most) in enumerate(zip(given[low], given[high], strict=False)):
                if least > most:
                    yield high, f"expected at least [{least!r}] ({low}), found [{most!r}] at index {index}"
                    break

    @property
    def width(self) -> int | None:
        """Values of a row that the vectors are made for; None when there are none."""
        vectors = (self.mean, self.low, self.mean_min, self.mean_max, self.std_min, self.std_max)
        return next((len(vector) for vector in vectors if vector), None)


@dataclass(frozen=True, slots=True)
class ScoreSpec:
    """One number per answer."""

    type: Annotated[
        Literal["value", "max", "reconstruction_error", "prediction_error"],
        Doc("output[index]; largest output; mean squared (frame - output); mean squared (last output - newest row)"),
    ] = "value"
    index: Annotated[int, Range(0, KERNEL_WIDTH_MAX - 1), Doc("which output, for the type value")] = 0


@dataclass(frozen=True, slots=True)
class DecisionSpec:
    """What is made of an answer."""

    type: Annotated[
        Literal["none", "argmax", "threshold", "hysteresis", "change"],
        Doc("nothing; label of the largest output; score past a bound; the same with memory; score has moved"),
    ] = "none"
    labels: Annotated[
        tuple[Annotated[str, Length(1, 256)], ...],
        Length(0, KERNEL_WIDTH_MAX),
        Doc("argmax: one per output, in order; the others: calm, flagged.  Absent: the index; normal, anomaly"),
    ] = ()
    above: Annotated[float | None, Doc("threshold: flagged when the score is above")] = None
    below: Annotated[float | None, Doc("threshold: flagged when the score is below")] = None
    high: Annotated[float | None, Doc("hysteresis: flagged from here")] = None
    low: Annotated[float | None, Doc("hysteresis: until here; below `high`")] = None
    delta: Annotated[float | None, Doc("change: the score has moved by this since the last change; above 0")] = None
    hold: Annotated[int, Range(1, 1_000_000), Doc("so many equal verdicts in a row before the decision follows")] = 1

    def faults(self) -> Iterator[tuple[str, str]]:
        used = {"threshold": ("above", "below"), "hysteresis": ("high", "low"), "change": ("delta",)}.get(self.type, ())
        for key in ("above", "below", "high", "low", "delta"):
            if getattr(self, key) is not None and key not in used:
                yield key, f"not used by the type {self.type}"
        if self.type == "threshold" and self.above is None and self.below is None:
            yield "above", "missing; the type threshold needs `above`, `below` or both"
        if self.type in ("hysteresis", "change"):
            yield from ((key, f"missing; the type {self.type} needs it") for key in used if getattr(self, key) is None)
        if self.high is not None and self.low is not None and self.low >= self.high:
            yield "low", f"expected less than high ({self.high!r}), found {self.low!r}"
        if self.delta is not None and self.delta <= 0.0:
            yield "delta", f"expected more than 0, found {self.delta!r}"
        if self.labels and self.type == "none":
            yield "labels", "not used by the type none"
        if self.type in ("threshold", "hysteresis", "change") and len(self.labels) not in (0, 2):
            yield "labels", f"expected 2 (calm, flagged), found {len(self.labels)}"


@dataclass(frozen=True, slots=True)
class StdoutSink:
    """The runtime's standard output, a JSON object a line."""

    type: Literal["stdout"]
    when: When = "always"


@dataclass(frozen=True, slots=True)
class JsonlSink:
    """A file of JSON lines that is rotated.  Needs the capability file_sink."""

    type: Literal["jsonl"]
    path: Annotated[FilePath, Doc("the file")]
    rotate_mb: Annotated[float, Range(0.001, 10_240.0, "MB"), Doc("begin a new file at this size")] = 10.0
    keep: Annotated[int, Range(0, 1_000, "files"), Doc("older files kept")] = 3
    when: When = "always"


@dataclass(frozen=True, slots=True)
class SocketSink:
    """A local Unix socket that several readers can follow."""

    type: Literal["socket"]
    name: Annotated[Name, Doc("the socket's name below the runtime directory")]
    when: When = "always"


@dataclass(frozen=True, slots=True)
class ExecSink:
    """JSON lines into a command's standard input.  Needs the capability exec_sink."""

    type: Literal["exec"]
    command: Command
    when: When = "always"


Sink = StdoutSink | JsonlSink | SocketSink | ExecSink | MqttSink | WebhookSink


@dataclass(frozen=True, slots=True)
class Wiring:
    """All of it.  Without sources an agent only answers what programs ask it."""

    sources: Annotated[tuple[Source, ...], Length(0, SOURCES_PER_AGENT_MAX), Doc("where rows come from")] = ()
    join: Annotated[
        Literal["latest", "zip"],
        Doc("of several sources: the first drives, the others' latest; or a row of each"),
    ] = "latest"
    window: Annotated[WindowSpec, Doc("rows to frames")] = field(default_factory=WindowSpec)
    normalize: Annotated[NormalizeSpec, Doc("rows to the model's scale")] = field(default_factory=NormalizeSpec)
    emit: Annotated[
        Literal["output", "score", "residual"], Doc("what the agent's own stream carries, for agents that read it")
    ] = "output"
    score: Annotated[ScoreSpec, Doc("one number per answer")] = field(default_factory=ScoreSpec)
    decision: Annotated[DecisionSpec, Doc("what is made of an answer")] = field(default_factory=DecisionSpec)
    sinks: Annotated[tuple[Sink, ...], Length(0, SINKS_PER_AGENT_MAX), Doc("where answers go")] = ()
    publish: Annotated[PublishSpec | None, Doc("the agent's own stream, for other devices that read it")] = None

    @property
    def row_width(self) -> int | None:
        """Values of one joined row; None while another agent's file says it, or without sources."""
        widths = [source_width(source) for source in self.sources]
        known = [width for width in widths if width is not None]
        return sum(known) if known and len(known) == len(widths) else None

    @property
    def frame_width(self) -> int | None:
        """Values of one frame, without the agent's memory; None where `row_width` is."""
        return None if self.row_width is None else self.row_width * self.window.rows

    def source_ids(self) -> tuple[str, ...]:
        """The id of each source: its own, or its type."""
        return tuple(source.id or source.type for source in self.sources)

    def faults(self) -> Iterator[tuple[str, str]]:
        yield from _twice("sources", self.source_ids(), "id")
        yield from _twice("sinks", [sink.path if isinstance(sink, JsonlSink) else "" for sink in self.sinks], "path")
        yield from _twice("sinks", [sink.name if isinstance(sink, SocketSink) else "" for sink in self.sinks], "name")
        yield from _twice("sinks", [sink.type if sink.type == "stdout" else "" for sink in self.sinks], "type")
        width, row_width = self.normalize.width, self.row_width
        if width is not None and row_width is not None and width != row_width:
            key = "low" if self.normalize.method == "minmax" else "mean"
            yield f"normalize.{key}", f"expected {row_width} numbers (the values of a row), found {width}"


def _twice(path: str, values: list[str] | tuple[str, ...], key: str) -> Iterator[tuple[str, str]]:
    for index, value in enumerate(values):
        if value and value in values[:index]:
            yield (
                f"{path}[{index}].{key}",
                f"expected one of its own, found {value!r} as in {path}[{values.index(value)}]",
            )
