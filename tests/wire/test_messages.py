"""Typed messages: what is sent is what is read; what is not a message of a kind is refused with the field's name."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from swarm_messages import classes, message_of, messages

from edgeswarm import limits
from edgeswarm.errors import CodecError, LimitError, LocalError
from edgeswarm.wire import codec, cose
from edgeswarm.wire import messages as msg
from edgeswarm.wire.messages import MessageError, UnknownMessageError
from edgeswarm.wire.messages.base import MESSAGES, _row
from edgeswarm.wire.topics import RULES, Kind, Signing, Topics

TOPICS = Topics("f", "c")
HEALTH = msg.Health(
    load=msg.Load(cpu_milli=400, memory_free_bytes=10**9), agents=3, roster_version=5, term=8, applied=99
)
GONE = msg.Gone(boot=7)


def changed(message: msg.Message, at: int, value: object) -> bytes:
    """The encoding of `message` with item `at` of its array replaced."""
    tree: Any = codec.loads(msg.encode(message))
    tree[at] = value
    return codec.dumps(tree)


@pytest.mark.parametrize("cls", classes, ids=lambda cls: cls.SPEC.kind)
@given(data=st.data())
@settings(max_examples=20, deadline=None)
def test_decode_undoes_encode(cls: type[Any], data: st.DataObject) -> None:
    message = data.draw(message_of(cls))
    encoded = msg.encode(message)
    assert msg.decode(encoded, kinds=(cls,)) == message
    assert msg.encode(msg.decode(encoded)) == encoded


@given(messages(), st.data())
@settings(max_examples=300, deadline=None)
def test_a_mutant_is_refused_or_another_message(message: msg.Message, data: st.DataObject) -> None:
    encoded = bytearray(msg.encode(message))
    encoded[data.draw(st.integers(0, len(encoded) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    try:
        found = msg.decode(bytes(encoded))
    except (CodecError, LimitError):
        return
    assert found != message or found.SPEC.version != codec.loads(bytes(encoded))[1]  # type: ignore[index]


@given(messages(), st.data())
@settings(max_examples=100, deadline=None)
def test_a_truncated_message_is_refused(message: msg.Message, data: st.DataObject) -> None:
    encoded = msg.encode(message)
    with pytest.raises((CodecError, LimitError)):
        msg.decode(encoded[: data.draw(st.integers(0, len(encoded) - 1))])


@given(st.binary(max_size=80))
@settings(max_examples=300, deadline=None)
def test_nothing_from_outside_raises_anything_else(data: bytes) -> None:
    try:
        msg.decode(data)
    except (CodecError, LimitError):
        pass


@given(messages(), st.lists(st.integers(0, 5) | st.text(max_size=5), min_size=1, max_size=3))
@settings(max_examples=100, deadline=None)
def test_a_newer_version_is_read_as_far_as_it_is_known(message: msg.Message, more: list[Any]) -> None:
    tree: Any = codec.loads(msg.encode(message))
    tree[1] += 1
    assert msg.decode(codec.dumps([*tree, *more])) == message


def test_a_part_of_a_newer_version_may_have_more_fields_too() -> None:
    tree: Any = codec.loads(msg.encode(HEALTH))
    tree[1] = 2
    tree[2].append("of the future")
    assert msg.decode(codec.dumps(tree)) == HEALTH


def test_our_own_version_has_exactly_our_fields() -> None:
    tree: Any = codec.loads(msg.encode(HEALTH))
    with pytest.raises(MessageError, match="expected 6 fields, found 7"):
        msg.decode(codec.dumps([*tree, 1]))
    with pytest.raises(MessageError, match="expected 6 fields, found 5"):
        msg.decode(codec.dumps(tree[:-1]))


def test_an_older_version_lacks_fields_that_have_defaults() -> None:
    """As it will be once a kind has a second version: `stop_number` came later, say."""
    tree: Any = codec.loads(msg.encode(HEALTH))
    assert _row(msg.Health).typed(tree[:-1], 2, -1) == HEALTH
    with pytest.raises(Exception, match="expected 6 fields, found 4"):
        _row(msg.Health).typed(tree[:-2], 2, -1)


@pytest.mark.parametrize("version", [0, -1])
def test_versions_start_at_one(version: int) -> None:
    with pytest.raises(MessageError, match="version: expected 1 or more"):
        msg.decode(changed(GONE, 1, version))


def test_an_unknown_kind_says_so() -> None:
    with pytest.raises(UnknownMessageError, match="d7: message: kind 'teleport' is not known here"):
        msg.decode(codec.dumps(["teleport", 1, 5]), who="d7")


@pytest.mark.parametrize("tree", [None, 5, "health", {}, [], ["health"], [5, 1], ["health", "1"], ["health", True]])
def test_what_is_no_message_is_refused(tree: Any) -> None:
    with pytest.raises(MessageError, match=r"expected \[kind, version"):
        msg.decode(codec.dumps(tree))


@pytest.mark.parametrize(
    ("message", "at", "value", "text"),
    [
        (HEALTH, 2, 5, "load: expected a list of fields, found 5"),
        (HEALTH, 2, [True, 0, 0, None], "load.cpu_milli: expected a whole number from 0 to 4294967295, found True"),
        (HEALTH, 2, [1, 0, 0, 5], "load.temperature_c: expected a float from -100 to 200, found 5"),
        (HEALTH, 2, [1, 0, 0, 500.0], "temperature_c: expected a float from -100 to 200, found 500.0"),
        (HEALTH, 2, [1, 0, 0], "load: expected 4 fields, found 3"),
        (HEALTH, 3, -1, "agents: expected a whole number"),
        (HEALTH, 4, 1.0, "roster_version: expected a whole number"),
        (HEALTH, 5, None, "term: expected a whole number"),
    ],
)
def test_a_wrong_field_is_named(message: msg.Message, at: int, value: object, text: str) -> None:
    with pytest.raises(MessageError, match=text):
        msg.decode(changed(message, at, value))


def test_texts_lists_and_choices_are_bounded() -> None:
    alert = msg.Alert(device="d1", severity="error", code="disk-full", text="")
    for at, value, text in [
        (2, "D1", "device: expected text that matches"),
        (2, "d" * 64, "device: expected text of 1 to 63 characters"),
        (3, "fatal", "severity: expected critical or error or info or warning, found 'fatal'"),
        (5, "x" * 4097, "text: expected text of 0 to 4096 characters"),
        (6, "1x", "agent: expected text that matches"),
    ]:
        with pytest.raises(MessageError, match=text):
            msg.decode(changed(alert, at, value))
    metrics = msg.Metrics(values=())
    with pytest.raises(MessageError, match="values: expected 0 to 512 items, found 513"):
        msg.decode(changed(metrics, 2, [["a", 1.5]] * 513))
    with pytest.raises(MessageError, match=r"values.\[2\].value: expected a float"):
        msg.decode(changed(metrics, 2, [["a", 1.5], ["b", 2.5], ["c", "d"]]))


def test_what_nobody_takes_is_not_sent() -> None:
    with pytest.raises(LocalError, match="message gone: boot: expected a whole number"):
        msg.encode(msg.Gone(boot=-1))
    with pytest.raises(LocalError, match="load: expected Load"):
        msg.encode(dataclasses.replace(HEALTH, load=5))  # type: ignore[arg-type]
    with pytest.raises(LocalError, match="values: expected a tuple"):
        msg.encode(msg.Metrics(values=[]))  # type: ignore[arg-type]
    with pytest.raises(LocalError, match="message batch: at most 4194304 bytes"):
        msg.encode(msg.Batch(items=(b"x" * limits.EVENT_BYTES_MAX,) * 17))


def test_every_kind_has_a_bound_on_its_bytes() -> None:
    with pytest.raises(MessageError, match="message gone: at most 64 bytes, found 109"):
        msg.decode(codec.dumps(["gone", 2, 1, b"x" * 99]))
    with pytest.raises(LimitError, match="at most 64 bytes"):
        msg.decode(codec.dumps(["gone", 2, 1, b"x" * 99]), kinds=(msg.Gone,))


def test_what_may_come_on_a_topic_fits_its_bound() -> None:
    for kind, allowed in msg.KINDS.items():
        for cls in allowed:
            assert cls.SPEC.bytes_max <= RULES[kind].bytes_max, cls
    for _, event in msg.EVENTS.values():
        assert event.SPEC.bytes_max <= RULES[Kind.EVENT].bytes_max
    assert set(MESSAGES.values()) - {msg.Capabilities, msg.FeedFetch} == {
        cls for allowed in msg.KINDS.values() for cls in allowed
    } | {event for _, event in msg.EVENTS.values()} | {msg.SafetyStop, msg.SafetyResume}


def test_a_topic_takes_its_own_messages_only() -> None:
    status = TOPICS.parse(TOPICS.status("d1"))
    with pytest.raises(MessageError, match="expected status, found gone"):
        msg.decode_at(status, msg.encode(GONE), who="d1")
    assert msg.decode_at(TOPICS.parse(TOPICS.gone("d1")), msg.encode(GONE)) == GONE
    with pytest.raises(MessageError, match="nothing typed comes on es/1/f/c/leader"):
        msg.decode_at(TOPICS.parse(TOPICS.leader), msg.encode(GONE))


def test_events_are_typed_by_their_name() -> None:
    health = TOPICS.parse(TOPICS.event(msg.event_priority("health"), "health"))
    assert msg.decode_at(health, msg.encode(HEALTH)) == HEALTH
    with pytest.raises(MessageError, match="expected alert, batch, found health"):
        msg.decode_at(TOPICS.parse(TOPICS.event("critical", "alert")), msg.encode(HEALTH))
    mine = msg.AppMessage(name="door-opened", body=b"\0")
    assert msg.decode_at(TOPICS.parse(TOPICS.event("high", "door.opened")), msg.encode(mine)) == mine
    assert msg.event_priority("door.opened") == "medium"
    assert msg.event_priority("alert") == "critical"


# --- orders ---------------------------------------------------------------------------------------------------------

SEED = bytes(range(32))
PUBLIC = cose.public_key(SEED)
STOP = msg.SafetyStop(number=3, reason="smoke in hall 3")


def operator(kid: bytes) -> bytes | None:
    return PUBLIC if kid == cose.key_id(PUBLIC) else None


def test_an_order_holds_in_its_cell_only() -> None:
    data = msg.seal_order(STOP, fleet="f", cell="c", public=PUBLIC, sign=cose.signer(SEED))
    assert len(data) <= RULES[Kind.STOP].bytes_max and RULES[Kind.STOP].signing is Signing.ITSELF
    assert msg.open_order(data, fleet="f", cell="c", lookup=operator) == STOP
    with pytest.raises(CodecError, match="signature does not match"):
        msg.open_order(data, fleet="f", cell="d", lookup=operator)
    with pytest.raises(CodecError, match="no key of this id is known"):
        msg.open_order(data, fleet="f", cell="c", lookup=lambda kid: None)


def test_an_order_is_to_stop_or_to_resume() -> None:
    data = cose.sign1_by(
        msg.encode(GONE), sign=cose.signer(SEED), kid=cose.key_id(PUBLIC), external_aad=b"edgeswarm-stop-1/f/c"
    )
    with pytest.raises(MessageError, match="expected stop or resume, found gone"):
        msg.open_order(data, fleet="f", cell="c", lookup=operator)
