"""Tasks and what becomes of them, neural updates, artefacts in pieces."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from edgeswarm import limits
from edgeswarm.wire.messages.base import (
    AgentId,
    Count,
    DeviceId,
    Digest,
    Items,
    Line,
    Message,
    Ms,
    Num,
    Real,
    Size,
    Text,
    Uint,
    Word,
    message,
)

TaskBytes = Annotated[bytes, Size(limits.TASK_BYTES_MAX)]


@dataclass(frozen=True, slots=True)
class TaskRef:
    """One attempt at one task.  An older epoch or attempt is a copy whose answers count no more."""

    job: Word
    task: Word
    attempt: Count
    epoch: Uint  # of the device that it was given to


@message("task.assignment", bytes_max=limits.TASK_BYTES_MAX + 4 * limits.KIB)
class TaskAssignment(Message):
    """Do this.  From the leader to device/<id>/inbox; fenced by term and epoch."""

    ref: TaskRef
    term: Uint
    operation: Word  # "ask", "map", "aggregate"
    agent: AgentId | None = None  # who does it, where it is an agent
    artefact: Digest | None = None  # its file
    input: TaskBytes = b""
    input_artefact: Digest | None = None  # where the input is larger
    deadline_ms: Ms | None = None  # from when it was sent
    checkpoint: Digest | None = None  # where an earlier attempt got to


@message("progress", bytes_max=8 * limits.KIB)
class ProgressUpdate(Message):
    """How far a task is.  Topic event/low/task.progress, or the leader's inbox."""

    ref: TaskRef
    device: DeviceId
    permille: Annotated[int, Num(0, 1_000)]
    text: Line = ""
    checkpoint: Digest | None = None


@message("task.completion", bytes_max=limits.TASK_BYTES_MAX + 4 * limits.KIB)
class CompletionNotice(Message):
    """A task is done.  The first notice of a task counts.  Topic event/high/task.completion, or the leader's inbox."""

    ref: TaskRef
    device: DeviceId
    result: TaskBytes = b""
    result_artefact: Digest | None = None
    duration_ms: Uint = 0


@message("task.error", bytes_max=8 * limits.KIB)
class ErrorReport(Message):
    """A task failed, or will.  Topic event/high/task.error, or the leader's inbox."""

    ref: TaskRef
    device: DeviceId
    code: Word  # stable: "deadline", "trap", "no-memory"
    text: Text
    retry: bool  # another try may help


@message("neural.updates", bytes_max=limits.UPDATE_BYTES_MAX + 4 * limits.KIB)
class NeuralUpdate(Message):
    """A change of weights, for who aggregates.  Topic event/high/neural.updates."""

    device: DeviceId
    agent: AgentId
    base: Digest  # artefact that the update is against
    round: Uint
    format: Literal["f32", "f16", "i8", "sparse-f32"]
    samples: Uint  # how many it was learnt from: its weight in a mean
    update: Annotated[bytes, Size(limits.UPDATE_BYTES_MAX)] = b""
    artefact: Digest | None = None  # where the update is larger
    loss: Real | None = None
    deadline_ms: Ms | None = None  # after that the round is over


# --- artefacts ------------------------------------------------------------------------------------------------------

ChunkNumber = Annotated[int, Num(0, limits.ARTEFACT_CHUNKS_MAX - 1)]


@message("artefact.offer", bytes_max=limits.EVENT_BYTES_MAX)
class ArtefactOffer(Message):
    """A device has an artefact, or pieces of it.  Topic event/low/artefact.offer, or an answer."""

    digest: Digest  # SHA-256 of the whole
    size_bytes: Uint
    chunk_bytes: Annotated[int, Num(1, limits.ARTEFACT_CHUNK_BYTES_MAX)]
    chunks: Annotated[tuple[Digest, ...], Items(limits.MESSAGE_ITEMS_MAX)] = ()  # of each piece, or none: ask
    have: Annotated[bytes, Size(limits.ARTEFACT_CHUNKS_MAX // 8)] = b""  # bit per piece, lowest first; empty: all


@message("chunk.request", bytes_max=1 * limits.KIB)
class ChunkRequest(Message):
    """Send me pieces; they come on artifact/<sha256>/<n>, which who asks has subscribed to."""

    digest: Digest
    first: ChunkNumber
    count: Annotated[int, Num(1, 256)]
    bytes_per_s: Uint = 0  # not faster than; 0: the sender's own limit


@message("chunk", bytes_max=limits.ARTEFACT_CHUNK_BYTES_MAX + limits.KIB)
class Chunk(Message):
    """One piece.  Whether it is the right one is decided by its hash, not by who sent it."""

    digest: Digest
    index: ChunkNumber
    data: Annotated[bytes, Size(limits.ARTEFACT_CHUNK_BYTES_MAX)]
