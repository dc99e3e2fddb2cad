"""Lies that a taken-over jail would tell its supervisor: in the ring, through the pipe, on the control socket.

A lie is told in answer to the first frame; the two frames after it are answered rightly, if the supervisor still asks.
What counts as blocked is the supervisor's side: it ends the jail and says which lie it was.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, NoReturn

from edgeswarm.jail import frames
from edgeswarm.jail.frames import HEAD, HEADER, HEADER_BYTES, Kind

if TYPE_CHECKING:
    from edgeswarm.jail.worker import Jail

REPLY, FAULT, ACK = int(Kind.REPLY), int(Kind.FAULT), int(Kind.ACK)
_MUCH: Final = 1 << 40
PAYLOAD: Final = bytes(8)


def frame(
    slot: int = 0, kind: int = REPLY, seq: int = 1, rows: int = 1, aux: int = 0, *, payload: bytes = PAYLOAD,
    length: int | None = None,
) -> bytes:  # fmt: skip
    """A frame as it lies in the ring; length: what it claims."""
    size = frames.frame_bytes(len(payload)) if length is None else length
    return HEADER.pack(size, slot, kind, seq, rows, aux) + payload


RIGHT: Final = frame()
LIES: Final[dict[str, tuple[bytes, bytes]]] = {
    # name: what is written into the ring, what goes through the pipe
    "ring_head_far_ahead": (RIGHT, HEAD.pack(_MUCH)),
    "ring_head_beyond_capacity": (RIGHT, HEAD.pack(1 << 20)),
    "ring_head_unaligned": (RIGHT, HEAD.pack(13)),
    "ring_head_of_3_bytes": (RIGHT, b"abc"),
    "ring_head_goes_back": (RIGHT, HEAD.pack(len(RIGHT)) + HEAD.pack(0) + HEAD.pack(0xFFFF_FFFF_FFFF_FFF8)),
    "ring_frame_of_no_length": (frame(length=0), HEAD.pack(len(RIGHT))),
    "ring_frame_shorter_than_its_header": (frame(length=8), HEAD.pack(len(RIGHT))),
    "ring_frame_longer_than_the_ring": (frame(length=0x7FFF_FFF8), HEAD.pack(len(RIGHT))),
    "ring_frame_of_odd_length": (frame(length=HEADER_BYTES + 5), HEAD.pack(len(RIGHT))),
    "ring_frame_passes_the_head": (frame(length=len(RIGHT) + 64), HEAD.pack(len(RIGHT))),
    "ring_skip_passes_the_head": (b"\xff" * 4 + RIGHT[4:], HEAD.pack(len(RIGHT))),
    "ring_answer_of_another_slot": (frame(slot=1), HEAD.pack(len(RIGHT))),
    "ring_answer_that_nobody_asked_for": (frame(seq=99), HEAD.pack(len(RIGHT))),
    "ring_answer_with_more_rows": (frame(rows=2), HEAD.pack(len(RIGHT))),
    "ring_answer_of_huge_rows": (frame(rows=0xFFFF_FFFF), HEAD.pack(len(RIGHT))),
    "ring_answer_too_short": (frame(payload=b""), HEAD.pack(HEADER_BYTES)),
    "ring_answer_too_long": (frame(payload=bytes(64)), HEAD.pack(HEADER_BYTES + 64)),
    "ring_answer_twice": (RIGHT + RIGHT, HEAD.pack(2 * len(RIGHT))),
    "ring_answer_of_unknown_kind": (frame(kind=0x44), HEAD.pack(len(RIGHT))),
    "ring_answer_is_a_request": (frame(kind=int(Kind.RUN)), HEAD.pack(len(RIGHT))),
    "ring_acknowledged_not_answered": (frame(kind=ACK, aux=int(Kind.RUN)), HEAD.pack(len(RIGHT))),
    "ring_fault_of_unknown_code": (frame(kind=FAULT, rows=0, aux=77), HEAD.pack(len(RIGHT))),
    "ring_tail_far_ahead": (b"", b""),
    "ring_tail_unaligned": (b"", b""),
    "jail_never_answers": (b"", b""),
    "control_is_not_json": (b"", b""),
    "control_of_other_types": (b"", b""),
    "control_nested_deep": (b"", b""),
    "control_ready_without_steps": (b"", b""),
}
_TAILS: Final = {"ring_tail_far_ahead": _MUCH, "ring_tail_unaligned": 3}
_CONTROL: Final[dict[str, Callable[[dict[str, Any]], bytes]]] = {
    "control_is_not_json": lambda _: b"\xff\xfe ready",
    "control_of_other_types": lambda _: b'{"ready": 7, "faults": [1, 2]}',
    "control_nested_deep": lambda _: b"[" * 100_000,
    "control_ready_without_steps": lambda _: b'{"ready": {}, "faults": {"0": {"a": 1}}}',
}
_SLEEP_S: Final = 60


def lie(name: str, jail: Jail, ready: dict[str, Any]) -> NoReturn:
    """Say ready, or tell a lie in its place; then lie to the first frame, and answer as a jail should from then on."""
    from edgeswarm.jail.worker import tell

    if name in _CONTROL:
        os.write(jail.control, _CONTROL[name](ready))
        time.sleep(_SLEEP_S)
        os._exit(0)
    tell(jail.control, {"ready": ready, "faults": {}})
    os.read(jail.wake, 8)
    content, head = LIES[name]
    if name == "jail_never_answers":
        while True:
            pass
    if name in _TAILS:
        jail.shared.tail_to_jail[0] = _TAILS[name]
        content, head = RIGHT, HEAD.pack(len(RIGHT))
    jail.shared.from_jail[: len(content)] = content
    os.write(jail.answer, head)
    while os.read(jail.wake, 8):
        pass
    os._exit(0)
