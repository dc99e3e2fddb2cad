"""The audit log's hash chain: what a line is, what may follow it, and where it was tampered with.  Pure.

One JSON object a line, canonical (keys sorted, no blanks, ASCII, no floats): who did what to what, and how it ended,
with `seq`, the line's number, and `prev`, the SHA-256 of the bytes of the line before it (without the newline).
A *checkpoint* is a line signed by the device: it stands first in every segment (a file), every AUDIT_CHECKPOINT_LINES
lines, and last when the log is closed.  The *head*, a file beside the segments, says and signs which line is the last
and which the first that is kept; it is replaced after every write.

What that proves: each line is vouched for by the next, the last by the head, and the head by the device's key.  A
segment that was removed because it was old is covered by the signed checkpoint that starts the oldest kept one, and
the head says that it starts there.  A device key may change: one signature of a key that is known, at the end, vouches
for all lines before it.
What it does not prove: who has the device's key can write another history; who can put back all files of an earlier
day undoes what came since.  Both are seen only against a copy kept elsewhere (`edgeswarm audit export`).
Invariants of a sound log: seq counts up by one; prev holds; the first line of a segment is a checkpoint.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from edgeswarm.limits import AUDIT_LINE_BYTES_MAX, AUDIT_REASON_CHARS_MAX, AUDIT_TEXT_CHARS_MAX

Sign = Callable[[bytes], bytes]
Check = Callable[[bytes, bytes, bytes], bool]
"""(public key, signed bytes, signature) -> whether it holds."""
Outcome = Literal["ok", "refused", "failed"]
Kind = Literal["tampered", "missing", "reordered", "bad signature", "truncated tail"]

GENESIS: Final = hashlib.sha256(b"edgeswarm-audit-1").hexdigest()
"""`prev` of the first line of all."""
_CHECKPOINT: Final = b"edgeswarm-audit-checkpoint-1\0"
_HEAD: Final = b"edgeswarm-audit-head-1\0"
_RECORD_KEYS: Final = frozenset(
    "action capability cause kid name outcome prev reason role seq target time".split()  # the issue's, in one line
)
_CHECKPOINT_KEYS: Final = frozenset("checkpoint key prev seq sig time".split())
_HEAD_KEYS: Final = frozenset("first hash key seq sig".split())
_HASH: Final = re.compile(r"[0-9a-f]{64}")
_SIGNATURE: Final = re.compile(r"[0-9a-f]{128}")
_SECRET: Final = re.compile(
    r"(es1\.[A-Za-z0-9_-]{1,1000}\.)[A-Za-z2-7]+|-----BEGIN [A-Z ]*PRIVATE KEY-----.*", re.DOTALL
)


@dataclass(frozen=True, slots=True)
class Record:
    """What somebody did.  kid: id of the key that they signed with, where one is known."""

    action: str
    name: str
    kid: str = ""
    role: str = ""
    capability: str = ""
    target: str = ""
    outcome: Outcome = "ok"
    reason: str = ""
    cause: str = ""


@dataclass(frozen=True, slots=True)
class Segment:
    """One file of the log.  name: for texts.  data: its bytes."""

    name: str
    data: bytes


@dataclass(frozen=True, slots=True)
class Fault:
    """The first line that is wrong.  line: counted from 1 within the segment; 0: the head, or a whole segment."""

    segment: str
    line: int
    seq: int
    kind: Kind
    text: str

    def __str__(self) -> str:
        where = f"{self.segment}:{self.line}" if self.line else self.segment
        return f"{where}: {self.kind}: {self.text}"


@dataclass(frozen=True, slots=True)
class Head:
    """first: seq of the first line that is kept.  seq, hash: of the last line."""

    first: int
    seq: int
    hash: str
    key: bytes


@dataclass(frozen=True, slots=True)
class Line:
    """A line taken apart.  tree: its fields; signed: it is a checkpoint."""

    seq: int
    prev: str
    tree: dict[str, Any]

    @property
    def is_checkpoint(self) -> bool:
        return "checkpoint" in self.tree


# --- making ---------------------------------------------------------------------------------------------------------


def record_line(record: Record, *, seq: int, prev: str, time: str) -> bytes:
    """A line without its newline.  Texts are cut to their bounds, and the secret of a token is left out."""
    tree: dict[str, Any] = {"seq": seq, "prev": prev, "time": time, "outcome": record.outcome}
    for key in ("action", "name", "kid", "role", "capability", "cause"):
        tree[key] = _text(getattr(record, key), AUDIT_TEXT_CHARS_MAX)
    for key in ("target", "reason"):
        tree[key] = _text(getattr(record, key), AUDIT_REASON_CHARS_MAX)
    return _canonical(tree)


def checkpoint_line(why: str, *, seq: int, prev: str, time: str, public: bytes, sign: Sign) -> bytes:
    """A signed line.  why: start, segment, lines, close."""
    tree: dict[str, Any] = {"checkpoint": why, "key": public.hex(), "prev": prev, "seq": seq, "time": time}
    return _canonical({**tree, "sig": sign(_CHECKPOINT + _canonical(tree)).hex()})


def head_line(*, first: int, seq: int, hash_: str, public: bytes, sign: Sign) -> bytes:
    """What the head file holds, without a newline."""
    tree: dict[str, Any] = {"first": first, "hash": hash_, "key": public.hex(), "seq": seq}
    return _canonical({**tree, "sig": sign(_HEAD + _canonical(tree)).hex()})


def segment_name(seq: int) -> str:
    """The file that starts with this line."""
    return f"{seq:012d}.jsonl"


def line_hash(line: bytes) -> str:
    """What the next line names as `prev`."""
    return hashlib.sha256(line).hexdigest()


def scrub(text: str) -> str:
    """Without the secret of a token or a private key that found its way into an error's text."""
    return _SECRET.sub(lambda found: f"{found[1] or ''}[left out]", text)


def _text(value: str, chars_max: int) -> str:
    clean = scrub(str(value)).encode(errors="replace").decode()
    return clean if len(clean) <= chars_max else clean[: chars_max - 1] + "…"


def _canonical(tree: dict[str, Any]) -> bytes:
    return json.dumps(tree, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False).encode()


# --- reading --------------------------------------------------------------------------------------------------------


def read_line(line: bytes) -> Line | None:
    """A line's fields, its signature not checked; None where it is no line of an audit log."""
    tree = _tree(line)
    if tree is None or not (tree.keys() == _RECORD_KEYS or tree.keys() == _CHECKPOINT_KEYS):
        return None
    seq, prev = tree.pop("seq"), tree.pop("prev")
    if type(seq) is not int or seq < 1 or not isinstance(prev, str) or not _HASH.fullmatch(prev):
        return None
    if not all(isinstance(value, str) for value in tree.values()):
        return None
    return Line(seq, prev, tree)


def read_head(data: bytes, check: Check) -> Head | None:
    """None where it is none of ours, or its signature does not hold."""
    tree = _tree(data.rstrip(b"\n"))
    if tree is None or tree.keys() != _HEAD_KEYS:
        return None
    sig, key, hash_ = tree.pop("sig"), tree["key"], tree["hash"]
    if not _are_hex(key, hash_, sig=sig) or not all(type(tree[name]) is int for name in ("first", "seq")):
        return None
    if not check(bytes.fromhex(key), _HEAD + _canonical(tree), bytes.fromhex(sig)):
        return None
    return Head(tree["first"], tree["seq"], hash_, bytes.fromhex(key))


def signature_holds(line: Line, check: Check) -> bool:
    """Of a checkpoint, by the key that it names."""
    tree = {**line.tree, "seq": line.seq, "prev": line.prev}
    sig, key = tree.pop("sig"), tree["key"]
    return _are_hex(key, sig=sig) and check(bytes.fromhex(key), _CHECKPOINT + _canonical(tree), bytes.fromhex(sig))


def _are_hex(*hashes: object, sig: object) -> bool:
    return (
        all(isinstance(item, str) and _HASH.fullmatch(item) for item in hashes)
        and isinstance(sig, str)
        and _SIGNATURE.fullmatch(sig) is not None
    )


def _tree(line: bytes) -> dict[str, Any] | None:
    """A canonical JSON object: of two texts for one meaning only one is right."""
    if len(line) > AUDIT_LINE_BYTES_MAX:
        return None
    try:
        tree = json.loads(line)
        return tree if isinstance(tree, dict) and _canonical(tree) == line else None
    except (ValueError, RecursionError):
        return None


# --- verifying ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _At:
    segment: str
    number: int
    data: bytes
    line: Line | None


def verify(
    segments: Sequence[Segment],
    head: bytes | None,
    *,
    check: Check,
    keys: Collection[bytes] | None = None,
) -> Fault | None:
    """The first fault, or None.

    segments: oldest first, complete.  head: the head file's bytes.  keys: public keys that may have signed last; None:
    whoever signed is believed.  Lines behind the head's are chained, and signed by nobody yet.
    """
    rows: list[_At] = []
    for segment in segments:
        lines = segment.data.split(b"\n")
        tail = lines.pop()
        rows += [_At(segment.name, number, data, read_line(data)) for number, data in enumerate(lines, 1)]
        if tail:
            rows.append(_At(segment.name, len(lines) + 1, tail, None))
        if not lines and not tail:
            return Fault(segment.name, 0, 0, "missing", "the segment is empty")
    if not rows:
        return None if head is None else Fault("head", 0, 0, "missing", "there is a head, and not one line")
    torn = bool(segments[-1].data) and not segments[-1].data.endswith(b"\n")
    known = None if head is None else read_head(head, check)
    return _chain(rows, known, check, torn=torn) or _starts(rows) or _ends(rows, head, known, keys=keys)


def _chain(rows: Sequence[_At], head: Head | None, check: Check, *, torn: bool) -> Fault | None:
    """Each line follows the one before it."""
    places: dict[int, int] = {}
    for index, row in enumerate(rows):
        if row.line is not None:
            places.setdefault(row.line.seq, index)
    for index, row in enumerate(rows):
        line, before = row.line, rows[index - 1] if index else None
        if line is None:
            seq = 1 + (before.line.seq if before is not None and before.line is not None else 0)
            if torn and index == len(rows) - 1:
                return Fault(row.segment, row.number, seq, "truncated tail", "the last line is cut off")
            return Fault(row.segment, row.number, seq, "tampered", "it is no line of an audit log")
        if line.is_checkpoint and not signature_holds(line, check):
            return Fault(row.segment, row.number, line.seq, "bad signature", "the checkpoint's signature does not hold")
        if before is None:
            continue
        assert before.line is not None
        fault = _follows(rows, index, places, head)
        if fault is not None:
            return fault
    return None


def _follows(rows: Sequence[_At], index: int, places: dict[int, int], head: Head | None) -> Fault | None:
    row, before = rows[index], rows[index - 1]
    line, last = row.line, before.line
    assert line is not None and last is not None
    hash_ = line_hash(before.data)
    if line.seq == last.seq + 1 and line.prev == hash_:
        return None
    vouched = line.is_checkpoint or _vouched(rows, index, head)
    if line.seq == last.seq + 1:
        if vouched:
            return Fault(before.segment, before.number, last.seq, "tampered", "the next line names another hash of it")
        return Fault(row.segment, row.number, line.seq, "tampered", "it does not name the hash of the line before it")
    if line.seq <= last.seq:
        text = f"line {line.seq} stands after line {last.seq}"
        return Fault(row.segment, row.number, line.seq, "reordered", text)
    wanted = places.get(last.seq + 1)
    if wanted is not None and wanted > index:
        text = f"line {line.seq} stands where line {last.seq + 1} should"
        return Fault(row.segment, row.number, line.seq, "reordered", text)
    if not vouched:
        return Fault(row.segment, row.number, line.seq, "tampered", f"it says {line.seq}, expected {last.seq + 1}")
    text = f"lines {last.seq + 1} to {line.seq - 1} are not here"
    return Fault(row.segment, row.number, line.seq, "missing", text)


def _vouched(rows: Sequence[_At], index: int, head: Head | None) -> bool:
    """Whether what comes next says that this line is as it was written."""
    hash_ = line_hash(rows[index].data)
    if index + 1 < len(rows):
        after = rows[index + 1].line
        return after is not None and after.prev == hash_
    return head is None or head.hash == hash_


def _starts(rows: Sequence[_At]) -> Fault | None:
    """The first line of each segment is a checkpoint, whose number is the segment's name."""
    segment = ""
    for row in rows:
        if row.segment != segment and row.line is not None:
            if not row.line.is_checkpoint:
                return Fault(
                    row.segment, row.number, row.line.seq, "missing", "the checkpoint that starts this segment"
                )
            if row.segment != segment_name(row.line.seq):
                text = f"the segment starts with line {row.line.seq}, expected {segment_name(row.line.seq)}"
                return Fault(row.segment, row.number, row.line.seq, "reordered", text)
        segment = row.segment
    first = rows[0].line
    if first is not None and first.seq == 1 and first.prev != GENESIS:
        return Fault(rows[0].segment, 1, 1, "tampered", "the first line of all names a line before it")
    return None


def _ends(
    rows: Sequence[_At], data: bytes | None, head: Head | None, *, keys: Collection[bytes] | None
) -> Fault | None:
    """What the head says of the first line and the last is so."""
    if data is None:
        return Fault("head", 0, 0, "truncated tail", "the head is not here: nothing says which line is the last")
    if head is None:
        return Fault("head", 0, 0, "bad signature", "the head's signature does not hold")
    if keys is not None and head.key not in keys:
        text = f"signed by {head.key.hex()[:16]}..., which is no key of this device"
        return Fault("head", 0, head.seq, "bad signature", text)
    first, last = rows[0].line, rows[-1].line
    assert first is not None and last is not None
    if head.first < first.seq:
        text = f"lines {head.first} to {first.seq - 1} are not here"
        return Fault(rows[0].segment, 0, first.seq, "missing", text)
    if last.seq < head.seq:
        text = f"lines {last.seq + 1} to {head.seq} are not here"
        return Fault(rows[-1].segment, rows[-1].number, last.seq, "truncated tail", text)
    for row in reversed(rows):
        assert row.line is not None
        if row.line.seq == head.seq:
            if line_hash(row.data) != head.hash:
                return Fault(row.segment, row.number, head.seq, "tampered", "the head names another hash of it")
            return None
    return Fault(rows[0].segment, 0, first.seq, "missing", f"line {head.seq}, which the head names")
