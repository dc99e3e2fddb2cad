"""Raft messages as bytes: what goes in comes out, and nothing else is let in."""

from __future__ import annotations

import cbor2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeswarm.errors import CodecError, LimitError, LocalError
from edgeswarm.limits import (
    RAFT_CONTEXT_BYTES_MAX,
    RAFT_ENTRIES_MAX,
    RAFT_ENTRY_BYTES_MAX,
    RAFT_MEMBERS_MAX,
    RAFT_MESSAGE_BYTES_MAX,
    RAFT_NUMBER_MAX,
    RAFT_SIGNATURE_BYTES_MAX,
)
from edgeswarm.wire import codec
from edgeswarm.wire.raft import (
    FIELDS,
    LOCAL_TYPES,
    ConfState,
    Entry,
    EntryType,
    Message,
    MessageType,
    Snapshot,
    conf_from_list,
    decode,
    encode,
)

numbers = st.integers(0, RAFT_NUMBER_MAX) | st.integers(0, 300)
ids = st.lists(st.integers(1, RAFT_NUMBER_MAX), max_size=5, unique=True).map(lambda found: tuple(sorted(found)))
confs = st.builds(ConfState, ids, ids, ids, ids, st.booleans())
kinds = st.sampled_from([kind for kind in MessageType if kind not in LOCAL_TYPES])
entry_lists = st.lists(
    st.builds(Entry, numbers, numbers, st.sampled_from(EntryType) | st.integers(3, 255), st.binary(max_size=40)),
    max_size=5,
).map(tuple)
messages = st.builds(
    Message,
    type=kinds,
    to=numbers,
    sender=numbers,
    term=numbers,
    log_term=numbers,
    index=numbers,
    entries=entry_lists,
    commit=numbers,
    snapshot=st.none() | st.builds(Snapshot, numbers, numbers, confs, st.binary(max_size=40)),
    reject=st.booleans(),
    reject_hint=numbers,
    context=st.binary(max_size=40),
    vote=numbers,
    signature=st.binary(max_size=80),
)
APPEND = Message(MessageType.APP, 2, 1, 3, 3, 7, (Entry(3, 8, EntryType.NORMAL, b"x"),), 6)


@given(messages)
def test_message_comes_back_from_its_bytes(message: Message) -> None:
    data = encode(message)
    assert decode(data) == message
    assert encode(decode(data)) == data


@given(messages)
def test_bytes_are_deterministic_cbor(message: Message) -> None:
    data = encode(message)
    assert codec.dumps(codec.loads(data)) == data


@given(st.binary(max_size=200) | messages.map(encode).flatmap(lambda data: st.integers(0, 99).map(lambda n: data[:n])))
@settings(max_examples=300)
def test_any_bytes_are_a_message_or_a_codec_error(data: bytes) -> None:
    try:
        message = decode(data, who="node 9")
    except CodecError as error:
        assert error.who == "node 9"
    else:
        assert encode(message) == data


@given(messages, st.data())
def test_a_changed_byte_is_another_message_or_a_codec_error(message: Message, data: st.DataObject) -> None:
    good = encode(message)
    at = data.draw(st.integers(0, len(good) - 1))
    bad = good[:at] + bytes([good[at] ^ data.draw(st.integers(1, 255))]) + good[at + 1 :]
    try:
        decoded = decode(bad)
    except CodecError:
        return
    assert decoded != message


def test_items_of_a_newer_version_are_ignored() -> None:
    items = cbor2.loads(encode(APPEND))
    assert len(items) == FIELDS
    assert decode(cbor2.dumps([*items, 17, b"new"])) == APPEND
    assert decode(cbor2.dumps([*items, {"more": [1.5, None]}])) == APPEND


def test_an_unknown_type_of_entry_comes_through_as_a_number() -> None:
    message = Message(MessageType.APP, 2, 1, 3, 3, 7, (Entry(3, 8, 77, b"x"),))
    assert decode(encode(message)).entries[0].type == 77


@pytest.mark.parametrize("kind", sorted(LOCAL_TYPES))
def test_messages_of_a_node_to_itself_do_not_travel(kind: MessageType) -> None:
    with pytest.raises(LocalError, match=kind.name):
        encode(Message(kind, 1))
    items = cbor2.loads(encode(APPEND))
    items[0] = int(kind)
    with pytest.raises(CodecError, match="not known here"):
        decode(cbor2.dumps(items))


def _changed(at: int, value: object) -> bytes:
    items = cbor2.loads(encode(APPEND))
    items[at] = value
    return cbor2.dumps(items)


@pytest.mark.parametrize(
    ("data", "fault"),
    [
        (b"", "not CBOR"),
        (b"\xff", "not CBOR|array"),
        (b"\x81" * 100_000, "not CBOR"),
        (b"\x9b\x0f" + b"\xff" * 7, "not CBOR"),
        (cbor2.dumps({"type": 1}), "expected an array"),
        (cbor2.dumps([1] * (FIELDS - 1)), "expected an array"),
        (cbor2.dumps([1] * 24), "expected an array"),
        (_changed(0, 99), "message type 99 is not known here"),
        (_changed(0, True), "not an integer"),
        (_changed(1, -1), "not an integer"),
        (_changed(3, RAFT_NUMBER_MAX + 1), "not an integer"),
        (_changed(5, 1.0), "not an integer"),
        (_changed(7, 1), "reject is not a boolean"),
        (_changed(9, "text"), "context"),
        (_changed(9, bytes(RAFT_CONTEXT_BYTES_MAX + 1)), "context"),
        (_changed(11, bytes(RAFT_SIGNATURE_BYTES_MAX + 1)), "signature"),
        (_changed(12, [1, 1, [[], [], [], []], b""]), "configuration"),
        (_changed(12, [1, 1, [[2, 1], [], [], [], False], b""]), "configuration"),
        (_changed(12, [1, 1, [[0], [], [], [], False], b""]), "configuration"),
        (_changed(12, [1, 1, [list(range(1, RAFT_MEMBERS_MAX + 2)), [], [], [], False], b""]), "configuration"),
        (_changed(12, [-1, 1, [[1], [], [], [], False], b""]), "out of its range"),
        (_changed(12, [1, 1]), "snapshot"),
        (_changed(13, None), "entries"),
        (_changed(13, 7), "entries"),
        (_changed(13, [[1, 2, 3]]), "an entry"),
        (_changed(13, [[1, 2, 0, "x"]]), "an entry"),
        (_changed(13, [[1, -2, 0, b"x"]]), "an entry"),
        (_changed(13, [[1, 2, 256, b"x"]]), "an entry"),
        (_changed(13, [[1, 2, 0, bytes(RAFT_ENTRY_BYTES_MAX + 1)]]), "an entry"),
        (_changed(13, [[1, 1, 0, b""]] * (RAFT_ENTRIES_MAX + 1)), "entries"),
        (bytes(RAFT_MESSAGE_BYTES_MAX + 1), "at most"),
        (encode(APPEND) + b"\x00", "deterministic"),
        (encode(APPEND).replace(b"\x41x", b"\x58\x01x"), "deterministic"),
        (bytes.fromhex("d81c81d81d00"), "expected an array"),  # an array that contains itself
    ],
)
def test_bytes_past_the_bounds_are_refused(data: bytes, fault: str) -> None:
    with pytest.raises(CodecError, match=fault):
        decode(data)


def test_a_message_too_long_to_travel_is_refused() -> None:
    data = bytes(RAFT_ENTRY_BYTES_MAX)
    many = tuple(Entry(1, i, EntryType.NORMAL, data) for i in range(1, 80))
    with pytest.raises(LimitError):
        encode(Message(MessageType.APP, 2, 1, 1, entries=many))


def test_a_configuration_is_read_only_in_its_own_form() -> None:
    assert conf_from_list([[1, 2], [3], [], [], True]) == ConfState((1, 2), (3,), (), (), True)
    for other in (
        None,
        [],
        [[1], [], [], [], 1],
        [[1], [], [], (), True],
        [[True], [], [], [], True],
        [1, 2, 3, 4, True],
    ):
        assert conf_from_list(other) is None
