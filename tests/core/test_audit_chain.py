"""The audit log's chain: whatever one does to a line, `verify` finds it, and says where."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeswarm.core import audit
from edgeswarm.core.audit import Fault, Record, Segment
from edgeswarm.limits import AUDIT_LINE_BYTES_MAX
from edgeswarm.wire import cose

SEED, OTHER = b"\1" * 32, b"\2" * 32
PUBLIC = cose.public_key(SEED)
SIGN = cose.signer(SEED)
TIME = "2026-11-21T04:00:00.000Z"


def a_log(*sizes: int, seed: bytes = SEED) -> tuple[list[Segment], bytes]:
    """Segments of so many lines each, closed with a checkpoint, and their head."""
    public, sign = cose.public_key(seed), cose.signer(seed)
    seq, prev, segments = 0, audit.GENESIS, []
    for size in sizes:
        lines = []
        for place in range(size):
            at = {"seq": seq + 1, "prev": prev, "time": TIME}
            if place in (0, size - 1):
                lines.append(audit.checkpoint_line("segment", **at, public=public, sign=sign))  # type: ignore[arg-type]
            else:
                record = Record("agent.deploy", "d1", target=f"a{seq}", reason="näh")
                lines.append(audit.record_line(record, **at))  # type: ignore[arg-type]
            seq, prev = seq + 1, audit.line_hash(lines[-1])
        segments.append(Segment(f"{seq - size + 1:012d}.jsonl", b"".join(line + b"\n" for line in lines)))
    return segments, audit.head_line(first=1, seq=seq, hash_=prev, public=public, sign=sign)


def find(segments: list[Segment], head: bytes | None, **more: object) -> Fault | None:
    return audit.verify(segments, head, check=cose.check, **more)  # type: ignore[arg-type]


def with_lines(segment: Segment, lines: list[bytes]) -> Segment:
    return Segment(segment.name, b"".join(line + b"\n" for line in lines))


def lines_of(segment: Segment) -> list[bytes]:
    return segment.data.split(b"\n")[:-1]


def test_sound_log_verifies() -> None:
    segments, head = a_log(6, 5, 4)
    assert find(segments, head, keys=[PUBLIC]) is None
    assert find([], None) is None


LOG = a_log(6, 5, 4)


@settings(max_examples=400, deadline=None)
@given(st.data())
def test_any_flipped_bit_of_any_line_is_found_where_it_is(data: st.DataObject) -> None:
    segments, head = LOG
    which = data.draw(st.integers(0, len(segments) - 1))
    raw = bytearray(segments[which].data)
    at = data.draw(st.integers(0, len(raw) - 1))
    raw[at] ^= 1 << data.draw(st.integers(0, 7))
    number = bytes(segments[which].data[:at]).count(b"\n") + 1
    changed = [*segments[:which], Segment(segments[which].name, bytes(raw)), *segments[which + 1 :]]
    fault = find(changed, head)
    assert fault is not None
    assert (fault.segment, fault.line) == (segments[which].name, number), fault


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_any_removed_swapped_or_doubled_line_is_found(data: st.DataObject) -> None:
    segments, head = LOG
    flat = [(segment.name, line) for segment in segments for line in lines_of(segment)]
    what = data.draw(st.sampled_from(["remove", "swap", "double", "move"]))
    at = data.draw(st.integers(0, len(flat) - 1))
    other = data.draw(st.integers(0, len(flat) - 1))
    if what == "remove":
        flat.pop(at)
    elif what == "double":
        flat.insert(at, flat[at])
    elif at == other:
        return
    elif what == "swap":
        flat[at], flat[other] = (flat[at][0], flat[other][1]), (flat[other][0], flat[at][1])
    else:
        flat.insert(other, (flat[other][0], flat.pop(at)[1]))
    changed = [with_lines(one, [line for name, line in flat if name == one.name]) for one in segments]
    fault = find(changed, head)
    if changed == segments:
        return
    assert fault is not None
    expected = {"remove": {"missing", "truncated tail"}, "swap": {"reordered"}, "move": {"reordered"}}
    kinds = expected.get(what, {"reordered"})
    assert fault.kind in kinds, (what, at, other, fault)


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 10_000))
def test_any_cut_of_the_end_is_found(cut: int) -> None:
    segments, head = LOG
    raw = b"".join(one.data for one in segments)
    cut = cut % len(raw) + 1
    left, changed = len(raw) - cut, []
    for one in segments:
        if left > 0:
            changed.append(Segment(one.name, one.data[:left]))
        left -= len(one.data)
    fault = find(changed, head)
    assert fault is not None
    assert fault.kind in ("truncated tail", "missing")


def test_line_that_was_written_anew_is_found_even_with_the_hashes_behind_it() -> None:
    """Who has no key can mend the chain up to the next checkpoint, and no further."""
    segments, head = a_log(8)
    lines = lines_of(segments[0])
    tree = json.loads(lines[2])
    tree["outcome"] = "refused"
    lines[2] = json.dumps(tree, sort_keys=True, separators=(",", ":")).encode()
    for at in range(3, len(lines)):
        tree = json.loads(lines[at])
        tree["prev"] = audit.line_hash(lines[at - 1])
        lines[at] = json.dumps(tree, sort_keys=True, separators=(",", ":")).encode()
    fault = find([with_lines(segments[0], lines)], head)
    assert fault is not None
    assert (fault.line, fault.kind) == (8, "bad signature")


def test_removed_old_segments_are_no_fault_when_the_head_says_so() -> None:
    segments, _ = a_log(6, 5, 4)
    hash_ = audit.line_hash(lines_of(segments[-1])[-1])
    head = audit.head_line(first=7, seq=15, hash_=hash_, public=PUBLIC, sign=SIGN)
    assert find(segments[1:], head, keys=[PUBLIC]) is None


def test_removed_old_segment_that_the_head_still_names_is_missing() -> None:
    segments, head = a_log(6, 5, 4)
    fault = find(segments[1:], head)
    assert fault is not None and fault.kind == "missing" and "1 to 6" in fault.text
    fault = find([segments[0], segments[2]], head)
    assert fault is not None and fault.kind == "missing" and "7 to 11" in fault.text


def test_first_line_of_all_names_none_before_it() -> None:
    line = audit.checkpoint_line("start", seq=1, prev="ab" * 32, time=TIME, public=PUBLIC, sign=SIGN)
    head = audit.head_line(first=1, seq=1, hash_=audit.line_hash(line), public=PUBLIC, sign=SIGN)
    fault = find([with_lines(Segment("000000000001.jsonl", b""), [line])], head)
    assert fault is not None and (fault.line, fault.kind) == (1, "tampered")


def test_last_line_with_a_number_of_its_own_is_tampered_unless_the_head_names_it() -> None:
    """Lines that are gone before it are missing only where something signed says that it is as it was written."""
    segments, head = a_log(4)
    line = audit.record_line(Record("agent.deploy", "d1"), seq=9, prev="ab" * 32, time=TIME)
    grown = [with_lines(segments[0], [*lines_of(segments[0]), line])]
    fault = find(grown, head)
    assert fault is not None and (fault.line, fault.kind, fault.text) == (5, "tampered", "it says 9, expected 5")
    head = audit.head_line(first=1, seq=9, hash_=audit.line_hash(line), public=PUBLIC, sign=SIGN)
    fault = find(grown, head)
    assert fault is not None and (fault.line, fault.kind, fault.text) == (5, "missing", "lines 5 to 8 are not here")


def test_log_of_another_key_is_refused() -> None:
    segments, head = a_log(4, 4, seed=OTHER)
    assert find(segments, head) is None
    fault = find(segments, head, keys=[PUBLIC])
    assert fault is not None and fault.kind == "bad signature" and "no key of this device" in fault.text


def test_head_that_is_gone_or_forged_is_found() -> None:
    segments, head = a_log(4)
    fault = find(segments, None)
    assert fault is not None and fault.kind == "truncated tail"
    fault = find(segments, head.replace(b'"seq":4', b'"seq":3'))
    assert fault is not None and fault.kind == "bad signature"
    fault = find([], head)
    assert fault is not None and fault.kind == "missing"


@pytest.mark.parametrize(
    "line", [b"", b"{}", b"[1]", b'{"seq":1}', b"\xff", b'{"a":' * 5000, b"x" * (AUDIT_LINE_BYTES_MAX + 1), b"NaN"]
)
def test_bytes_that_are_no_line_are_tampered(line: bytes) -> None:
    segments, head = a_log(4)
    lines = lines_of(segments[0])
    fault = find([with_lines(segments[0], [*lines[:2], line, *lines[2:]])], head)
    assert fault is not None and (fault.line, fault.kind) == (3, "tampered")


def test_texts_are_bounded_and_canonical() -> None:
    record = Record("a" * 500, "\udcff\0\n" * 100, reason="x" * 5_000, target="€" * 5_000)
    line = audit.record_line(record, seq=1 << 60, prev=audit.GENESIS, time=TIME)
    assert len(line) <= AUDIT_LINE_BYTES_MAX and b"\n" not in line and line.isascii()
    assert audit.read_line(line) is not None


def test_secrets_do_not_reach_a_line() -> None:
    token = "es1.o2ZwdWJsaWM." + "ABCDEFGHIJKLMNOP234567ABCD"
    pem = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIAAA\n-----END PRIVATE KEY-----"
    line = audit.record_line(
        Record("join", "x", reason=f"bad {token}", target=pem), seq=1, prev=audit.GENESIS, time=TIME
    )
    assert b"ABCDEFGH" not in line and b"MC4C" not in line and b"left out" in line
