"""A whole pipeline from one supervisor to the next: nothing is left out, nothing is sent again.

Unlike a checkpoint (`carry`) it holds the queued rows, every counter, and the frames in flight as in flight: their jail
lives on and answers them.  So the law of the pipeline holds across it, and the seq goes on by one.
A state is of our own making and comes by a descriptor that nobody else had; still it may be of another version, so what
does not fit raises LocalError, KeyError, TypeError or ValueError, and the pipeline is of no use then.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Iterable, Mapping
from typing import Any

from edgeswarm.errors import LocalError
from edgeswarm.stream.count import Counters
from edgeswarm.stream.flight import Flight, Frame
from edgeswarm.stream.join import Intake, LatestIntake, SingleIntake, ZipIntake
from edgeswarm.stream.pipeline import Pipeline
from edgeswarm.stream.queue import Row, RowQueue, Sample

State = dict[str, Any]
_PLAIN = tuple(name for name in Counters.__slots__ if name != "last_set_aside")


def pack(pipeline: Pipeline) -> State:
    """What `unpack` takes: CBOR-able."""
    return {
        "seq": pipeline.seq,
        "memory": pipeline.memory,
        "normalizer": pipeline.normalizer.state(),
        "window": pipeline.window.state(),
        "decider": pipeline.parts.decider.state(),
        "held": _pack_samples(pipeline.held_samples),
        "ahead": _pack_samples(pipeline.ahead),
        "intake": _pack_intake(pipeline.parts.intake),
        "flight": _pack_flight(pipeline.flight),
        "counters": {name: getattr(pipeline.counters, name) for name in _PLAIN},
        "refused": sorted(pipeline.refused),
        "last": [pipeline._last_seq, None if pipeline._last_output is None else _pack_row(pipeline._last_output)],
    }


def unpack(pipeline: Pipeline, state: Mapping[str, Any]) -> None:
    """Go on where `pack` was called, in a pipeline that has taken no row yet."""
    if pipeline.seq or any(one.rows_in for one in pipeline.parts.intake.counts()):
        raise LocalError("pipeline: unpack before the first row")
    if len(state["memory"]) != len(pipeline.memory):
        raise LocalError(f"pipeline: memory: expected {len(pipeline.memory)} bytes, found {len(state['memory'])}")
    pipeline.normalizer.restore(state["normalizer"])
    pipeline.window.restore(state["window"])
    pipeline.parts.decider.restore(state["decider"])
    pipeline.held_samples = _unpack_samples(state["held"])
    pipeline.ahead = deque(_unpack_samples(state["ahead"]))
    _unpack_intake(pipeline.parts.intake, state["intake"])
    _unpack_flight(pipeline, state["flight"])
    for name, value in state["counters"].items():
        if name in _PLAIN:  # one that this version has no more is of no use
            setattr(pipeline.counters, name, value)
    pipeline.seq, pipeline.memory = state["seq"], state["memory"]
    pipeline.refused = set(state["refused"])
    seq, output = state["last"]
    pipeline._last_seq, pipeline._last_output = seq, None if output is None else _unpack_row(output)
    if pipeline.lost:
        raise LocalError(f"pipeline {pipeline.name}: {pipeline.lost} rows of the state are nowhere")


# --- rows and frames -------------------------------------------------------------------------------------------------


def _pack_row(row: Row) -> bytes:
    """In double: exact."""
    return struct.pack(f"<{len(row)}d", *row)


def _unpack_row(data: bytes) -> Row:
    return struct.unpack(f"<{len(data) // 8}d", data)


def _pack_samples(samples: Iterable[Sample]) -> list[Any]:
    return [[sample.at_ns, _pack_row(sample.values)] for sample in samples]


def _unpack_samples(items: Iterable[Any]) -> list[Sample]:
    return [Sample(at_ns, _unpack_row(values)) for at_ns, values in items]


def _pack_frames(frames: Iterable[Frame]) -> list[Any]:
    return [[f.seq, f.at_ns, f.payload, _pack_row(f.row), _pack_row(f.values), f.fresh] for f in frames]


def _unpack_frames(pipeline: Pipeline, items: Iterable[Any]) -> list[Frame]:
    frames = [
        Frame(seq, at_ns, payload, _unpack_row(row), _unpack_row(values), fresh)
        for seq, at_ns, payload, row, values, fresh in items
    ]
    for frame in frames:
        if len(frame.payload) != pipeline.frame_bytes:
            raise LocalError(f"frame {frame.seq}: expected {pipeline.frame_bytes} bytes, found {len(frame.payload)}")
    return frames


def _pack_flight(flight: Flight) -> State:
    return {
        "in_flight": _pack_frames(flight.in_flight.values()),
        "again": _pack_frames(flight.again),
        "deaths": dict(flight._deaths),
        "suspect": flight._suspect,
        "single_until": flight._single_until,
    }


def _unpack_flight(pipeline: Pipeline, state: Mapping[str, Any]) -> None:
    flight = pipeline.flight
    flight.in_flight = {frame.seq: frame for frame in _unpack_frames(pipeline, state["in_flight"])}
    flight.again = deque(_unpack_frames(pipeline, state["again"]))
    flight._deaths, flight._suspect = dict(state["deaths"]), state["suspect"]
    flight._single_until = state["single_until"]


# --- the queues of the sources ---------------------------------------------------------------------------------------


def _pack_queue(queue: RowQueue) -> State:
    return {"rows": _pack_samples(queue.items), "pushed": queue.pushed, "dropped": queue.dropped}


def _unpack_queue(queue: RowQueue, state: Mapping[str, Any]) -> None:
    queue.items = deque(_unpack_samples(state["rows"]))
    queue.pushed, queue.dropped = state["pushed"], state["dropped"]


def _pack_intake(intake: Intake) -> State:
    head = {"kind": type(intake).__name__, "widths": list(intake.widths)}
    match intake:
        case SingleIntake():
            return {**head, "queues": [_pack_queue(intake._queue)], "joined": intake._joined}
        case ZipIntake():
            return {**head, "queues": [_pack_queue(queue) for queue in intake._queues], "joined": intake._joined}
        case LatestIntake():
            return {
                **head,
                "queues": [_pack_queue(intake._queue)],
                "sides": {side: _pack_samples([sample]) for side, sample in intake._sides.items()},
                "side": None if intake._side is None else _pack_row(intake._side),
                "unused": sorted(intake._unused),
                "counts": [intake._pushed, intake._joined, intake._dropped],
            }
    raise LocalError(f"intake: a {type(intake).__name__} cannot be handed over")


def _unpack_intake(intake: Intake, state: Mapping[str, Any]) -> None:
    expected, found = (type(intake).__name__, list(intake.widths)), (state["kind"], list(state["widths"]))
    if expected != found:
        raise LocalError(f"intake: expected sources {expected}, found {found}")
    match intake:
        case SingleIntake():
            _unpack_queue(intake._queue, state["queues"][0])
            intake._joined = state["joined"]
        case ZipIntake():
            for queue, packed in zip(intake._queues, state["queues"], strict=True):
                _unpack_queue(queue, packed)
            intake._joined = state["joined"]
        case LatestIntake():
            _unpack_queue(intake._queue, state["queues"][0])
            intake._sides = {side: _unpack_samples(one)[0] for side, one in state["sides"].items()}
            intake._side = None if state["side"] is None else _unpack_row(state["side"])
            intake._unused = set(state["unused"])
            intake._pushed, intake._joined, intake._dropped = (list(one) for one in state["counts"])
