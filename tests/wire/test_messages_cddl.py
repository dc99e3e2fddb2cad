"""docs/messages.cddl and the code say the same: pycddl takes whatever we encode, and refuses what we refuse.

pycddl 0.6.4 (cddl-rs 0.9.5) has faults that this file works around: regular expressions are not anchored (RFC 8610
3.8.3 says that they are), `.cbor` is looked for at the wrong place in an array (what it names has tests of its own),
arrays inside lists are hardly looked into, bytes pass for text and numbers with a bound, and some bytes make it panic.
What it cannot see, test_messages.py does.
"""

from __future__ import annotations

import functools
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from swarm_messages import classes, message_of

from edgeswarm.core.raft.member import PACKET_VERSION
from edgeswarm.errors import LimitError
from edgeswarm.stream import remote
from edgeswarm.wire import codec, cose, encryption, envelope, leadership, raft, topics
from edgeswarm.wire import messages as msg
from edgeswarm.wire.dev_fleet import DevFleet, make_dev_fleet
from edgeswarm.wire.root_change import RootChange, sign_change

pycddl = pytest.importorskip("pycddl", reason="pycddl is not installed")

TEXT = (Path(__file__).resolve().parents[2] / "docs" / "messages.cddl").read_text()
SHARED = ("event", "artifact", "gone", "controller")  # topics that many write to
RULES = re.findall(r"^([a-z0-9-]+) =", TEXT, re.MULTILINE)


@functools.cache
def schema(rule: str) -> Any:
    text = re.sub(r'\.regexp "([^"]*)"', r'.regexp "^(\1)$"', TEXT)
    text = re.sub(r"bstr \.cbor [a-z-]+", "bstr", text)
    return pycddl.Schema(f"start = {rule}\n{text}")


def takes(rule: str, data: bytes) -> bool:
    try:
        schema(rule).validate_cbor(data)
    except pycddl.ValidationError:
        return False
    return True


def rule_of(cls: type[Any]) -> str:
    return f"{cls.SPEC.kind.replace('.', '-')}-message"


@functools.cache
def fleet() -> DevFleet:
    return make_dev_fleet(6, entropy=b"cddl", now_s=1_700_000_000)


def test_every_message_has_a_rule_and_every_rule_a_message() -> None:
    ours = {rule_of(cls) for cls in classes}
    assert ours <= set(RULES)
    assert {rule for rule in RULES if rule.endswith("-message")} - ours == {"raft-message"}
    assert len(RULES) == len(set(RULES))


@pytest.mark.parametrize("cls", classes, ids=lambda cls: cls.SPEC.kind)
@given(data=st.data())
@settings(max_examples=15, deadline=None)
def test_the_schema_takes_every_message(cls: type[Any], data: st.DataObject) -> None:
    schema(rule_of(cls)).validate_cbor(msg.encode(data.draw(message_of(cls))))


WRONG = [None, True, -1, (1 << 64) - 1, 1.5, "", "A b", "x" * 99, b"", b"x" * 31, [], {}, {"a": 1}]


def pycddl_can_tell(old: object, new: object) -> bool:
    """See above."""
    if isinstance(new, bytes):
        return isinstance(old, bytes)
    return not (isinstance(new, str) and isinstance(old, bytes | list))


@pytest.mark.parametrize("cls", classes, ids=lambda cls: cls.SPEC.kind)
@given(data=st.data())
@settings(max_examples=15, deadline=None)
def test_the_schema_refuses_the_mutants_that_we_refuse(cls: type[Any], data: st.DataObject) -> None:
    """One field of the array replaced: what our decoder refuses, the schema refuses, and the other way round."""
    tree: Any = codec.loads(msg.encode(data.draw(message_of(cls))))
    at = data.draw(st.integers(0, len(tree) - 1))
    new = data.draw(st.sampled_from([wrong for wrong in WRONG if pycddl_can_tell(tree[at], wrong)]))
    tree[at] = new
    mutant = codec.dumps(tree)
    try:
        msg.decode(mutant, kinds=(cls,))
        ours = tree[1] == cls.SPEC.version
    except (msg.MessageError, LimitError):
        ours = False
    if not (new == [] and not ours):
        assert takes(rule_of(cls), mutant) == ours


@pytest.mark.parametrize("cls", classes, ids=lambda cls: cls.SPEC.kind)
@given(data=st.data())
@settings(max_examples=5, deadline=None)
def test_the_schema_refuses_a_field_more_and_a_field_less(cls: type[Any], data: st.DataObject) -> None:
    tree: Any = codec.loads(msg.encode(data.draw(message_of(cls))))
    assert not takes(rule_of(cls), codec.dumps([*tree, 5]))
    assert not takes(rule_of(cls), codec.dumps(tree[:-1]))
    assert not takes(rule_of(cls), codec.dumps(["other", *tree[1:]]))


@given(st.binary(max_size=3000), st.integers(0, (1 << 64) - 1), st.booleans())
@settings(max_examples=30, deadline=None)
def test_the_schema_takes_envelopes(payload: bytes, seq: int, encrypted: bool) -> None:
    cipher = encryption.CellCipher({5: b"k" * 32}, random_bytes=bytes) if encrypted else None
    sign = fleet().device("d1").sign
    data = envelope.seal(payload, topic="es/1/f/c/feed", sender="d1", boot=3, seq=seq, sign=sign, cipher=cipher)
    assert takes("envelope", data)
    assert not takes("envelope", data[1:])
    parts = envelope.parse(data)
    assert takes("envelope-header", parts.protected) and not takes("signed-header", parts.protected)
    if encrypted:
        assert takes("encrypted", parts.payload)


def test_the_schema_takes_rosters_and_what_is_in_them() -> None:
    roster = fleet().roster

    def inside(data: bytes) -> bytes:
        assert takes("signed", data)
        payload = cose.parse1(data).payload
        assert payload is not None
        return payload

    body = inside(roster.data)
    assert takes("roster-body", body)
    tree: Any = codec.loads(body)
    for at in range(len(tree)):
        assert not takes("roster-body", codec.dumps([*tree[:at], None, *tree[at + 1 :]])), at
    for member in roster.members:
        assert takes("roster-entry", inside(member.signed))
        assert takes("device-certificate", inside(member.keys[0].signed))
    for authority in roster.authorities:
        assert takes("authority-statement", inside(authority))
    old, new = fleet().root, fleet().device("d1")
    change = sign_change(RootChange("dev", 2, old.public, new.public, 5, b"root", b"issuer"), old=old, new=new)
    assert takes("root-change", inside(inside(change)))


def test_the_schema_takes_leaders_and_votes() -> None:
    vote = leadership.VoteStatement(
        fleet="f", cell="c", roster_version=1, term=2, candidate=1, last_index=5, last_term=1, voter=1
    )
    leader = leadership.LeaderCertificate.make(vote, {1: b"s" * 64, 2: b"t" * 64}).encode()
    assert takes("leader-certificate", leader)
    assert not takes("leader-certificate", codec.dumps(codec.loads(leader)[:-1]))  # type: ignore[index]
    assert takes("vote-statement", vote.payload())
    order = msg.encode(msg.SafetyResume(number=2, reason="well"))
    assert takes("resume-message", order)


def test_the_schema_takes_raft_packets_and_stream_batches() -> None:
    conf = raft.ConfState((1, 2, 3), (1,), (4,), (), True)
    message = raft.Message(raft.MessageType.APP, 2, 1, 5, 4, 9, (raft.Entry(5, 10, raft.EntryType.NORMAL, b"x"),), 9)
    snap = raft.Message(raft.MessageType.SNAP, 2, 1, 5, snapshot=raft.Snapshot(7, 4, conf, b"data"))
    for each in (message, snap):
        assert takes("raft-message", raft.encode(each))
    assert takes("raft-packet", codec.dumps([PACKET_VERSION, 3, [raft.encode(message), raft.encode(snap)]]))
    batch = remote.Batch(1, 2, 3, 1_700_000_000_000, 5_000, 2, (5, 0), ((1.0, 2.0), (3.0, 4.0)))
    assert takes("stream-batch", remote.encode(batch))


def test_the_tables_of_the_document_are_those_of_the_code() -> None:
    text = (Path(__file__).resolve().parents[2] / "docs" / "messages.md").read_text()
    topics_text, messages_text = text.split("\n## Topics\n")[1].split("\n## Messages\n")
    rows = re.findall(r"^\| `([a-z./]+)` \|.*\| ([0-9,]+) \|$", messages_text, re.MULTILINE)
    assert {kind: int(size.replace(",", "")) for kind, size in rows} == {
        cls.SPEC.kind: cls.SPEC.bytes_max for cls in classes
    }
    bounds = [int(size.replace(",", "")) for size in re.findall(r"\| ([0-9,]+) \|$", topics_text, re.MULTILINE)]
    assert bounds == [
        topics.RULES[topics.Kind(kind)].bytes_max
        for kind in [*"raft leader roster feed stop status desired reported inbox stream".split(), *SHARED]
    ]
