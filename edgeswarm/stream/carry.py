"""What outlives a pipeline: into a checkpoint and back, and into the agent's next version.

A checkpoint holds the normaliser, the window with the rows it holds, the decider, the agent's memory, the unanswered
frames and seq.  It does not hold the queued rows: sources that can go back do so (`queued` in the tally says how far).
A checkpoint may be damaged or of another agent: everything is checked, and LocalError says what does not fit.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import TYPE_CHECKING

from edgeswarm.errors import LocalError
from edgeswarm.limits import FLOAT32_MAX, FRAMES_IN_FLIGHT_BYTES_MAX, SEQ_LIFE, WINDOW_ROWS_MAX
from edgeswarm.stream.count import Counters
from edgeswarm.stream.flight import Frame
from edgeswarm.stream.queue import Sample

if TYPE_CHECKING:
    from edgeswarm.stream.pipeline import Pipeline

STATE_VERSION = 1


def state(pipeline: Pipeline) -> dict[str, object]:
    """What `restore` takes: CBOR-able.  A window above FRAMES_IN_FLIGHT_BYTES_MAX is left out, and fills anew."""
    held = [*pipeline.held_samples, *pipeline.ahead]
    pack = struct.Struct(f"<{pipeline.parts.intake.width}d").pack
    small = pipeline.frame_bytes <= FRAMES_IN_FLIGHT_BYTES_MAX
    return {
        "version": STATE_VERSION,
        "seq": pipeline.seq,
        "memory": pipeline.memory,
        "normalizer": pipeline.normalizer.state(),
        "window": pipeline.window.state() if small else None,
        "held": b"".join(pack(*sample.values) for sample in held) if small else b"",
        "decider": pipeline.parts.decider.state(),
        "frames": [[frame.seq, frame.payload] for frame in pipeline.flight.frames()],
    }


def restore(pipeline: Pipeline, state: Mapping[str, object], *, now_ns: int) -> None:
    """Go on where `state` stopped, in a pipeline that has taken no row yet; unanswered frames go out again first.

    now_ns: the new age of what was unanswered.  The next frame's seq is the first of the agent's next life.
    Raises LocalError when the state is malformed or of another agent: the pipeline is of no use then.
    """
    if pipeline.seq or pipeline.counters.frames or any(one.rows_in for one in pipeline.parts.intake.counts()):
        raise LocalError("pipeline state: restore before the first row")
    if state.get("version") != STATE_VERSION:
        raise LocalError(f"pipeline state: expected version {STATE_VERSION}, found {state.get('version')!r}")
    seq, memory, memory_bytes = state.get("seq"), state.get("memory"), len(pipeline.memory)
    if type(seq) is not int or not 0 <= seq < 2**63 - SEQ_LIFE:
        raise LocalError(f"pipeline state: seq: expected 0 or more, found {seq!r}")
    if not isinstance(memory, bytes) or len(memory) != memory_bytes:
        raise LocalError(f"pipeline state: memory: expected {memory_bytes} bytes")
    if not _all_finite(memory):
        raise LocalError("pipeline state: memory: expected finite numbers")
    frames = _frames(pipeline, state.get("frames"), seq, now_ns)
    pipeline.normalizer.restore(_table(state, "normalizer"))
    if state.get("window") is not None:
        pipeline.window.restore(_table(state, "window"))
        _restore_held(pipeline, state.get("held"), now_ns)
    pipeline.parts.decider.restore(_table(state, "decider"))
    pipeline.memory = memory
    pipeline.seq = (seq // SEQ_LIFE + 1) * SEQ_LIFE if seq else 0
    pipeline.flight.load(frames)
    pipeline.counters.carried = pipeline.held + pipeline.flight.rows()


def adopt(pipeline: Pipeline, last: Pipeline) -> None:
    """Take over from the agent's last version at a frame boundary: its queued and held rows, its counters, and what
    still fits of normaliser, window, decider and memory.  Rows held in a window that does not fit are windowed anew.
    `last` is of no use afterwards.

    Raises LocalError, with nothing changed, while frames of `last` are unanswered, or when the sources differ:
    then stop the sources and let `last` drain first.
    """
    if not last.idle:
        raise LocalError(f"agent {last.name}: {len(last.flight.frames())} frames of its last version are unanswered")
    if pipeline.seq or any(one.rows_in for one in pipeline.parts.intake.counts()):
        raise LocalError(f"agent {pipeline.name}: take over before the first row")
    pipeline.parts.intake.adopt(last.parts.intake)
    pipeline.counters, last.counters = last.counters, Counters()
    pipeline.seq = last.seq
    pipeline.refused, last.refused = last.refused, set()
    mine, theirs = pipeline.parts.wiring, last.parts.wiring
    same_scale = mine.normalize == theirs.normalize
    if same_scale:
        pipeline.normalizer.restore(last.normalizer.state())
    if same_scale and mine.window == theirs.window:
        pipeline.window.restore(last.window.state())
        pipeline.held_samples = last.held_samples
        pipeline.ahead = last.ahead
    else:
        pipeline.ahead.extend([*last.held_samples, *last.ahead])
    if mine.decision == theirs.decision and pipeline.parts.decider.outputs == last.parts.decider.outputs:
        pipeline.parts.decider.restore(last.parts.decider.state())
    if len(pipeline.memory) == len(last.memory):
        pipeline.memory = last.memory
    last.window.clear()
    last.held_samples, last.ahead = [], type(last.ahead)()


def _frames(pipeline: Pipeline, frames: object, seq: int, now_ns: int) -> list[Frame]:
    """The unanswered frames of a checkpoint; what they account for came with them."""
    flight_max, width = pipeline.flight.in_flight_max, pipeline.parts.intake.width
    if not isinstance(frames, (list, tuple)) or len(frames) > flight_max:
        raise LocalError(f"pipeline state: frames: expected at most {flight_max}")
    restored: dict[int, Frame] = {}
    for item in frames:
        number, payload = item if isinstance(item, (list, tuple)) and len(item) == 2 else (None, None)
        if type(number) is not int or not 1 <= number <= seq or number in restored:
            raise LocalError(f"pipeline state: frames: expected different numbers up to {seq}, found {number!r}")
        if not isinstance(payload, bytes) or len(payload) != pipeline.frame_bytes or not _all_finite(payload):
            raise LocalError(f"pipeline state: frame {number}: expected {pipeline.frame_bytes} bytes of finite float32")
        row = pipeline.unpack_frame(payload)[-width:]
        restored[number] = Frame(number, now_ns, payload, row, row, pipeline.window.hop)
    return list(restored.values())


def _restore_held(pipeline: Pipeline, held: object, now_ns: int) -> None:
    """The rows that the window holds, as they came; those of a swap that was under way go ahead of all others."""
    row = struct.Struct(f"<{pipeline.parts.intake.width}d")
    least = pipeline.window.held if pipeline.keeps_held else 0
    if not isinstance(held, bytes) or len(held) % row.size or len(held) < least * row.size:
        raise LocalError(f"pipeline state: held: expected {least} rows of {row.size} bytes or more")
    samples = [Sample(now_ns, values) for values in row.iter_unpack(held)]
    if len(samples) > 2 * WINDOW_ROWS_MAX:
        raise LocalError(f"pipeline state: held: {len(samples)} rows are more than any window")
    if not all(abs(value) <= FLOAT32_MAX for sample in samples for value in sample.values):
        raise LocalError("pipeline state: held: expected finite numbers")
    pipeline.held_samples = samples[:least]
    pipeline.ahead.extend(samples[least:])


def _all_finite(packed: bytes) -> bool:
    total: float = sum(value for (value,) in struct.Struct("<f").iter_unpack(packed))
    return total - total == 0.0


def _table(state: Mapping[str, object], key: str) -> Mapping[str, object]:
    table = state.get(key)
    if not isinstance(table, Mapping):
        raise LocalError(f"pipeline state: {key}: expected a table")
    return table
