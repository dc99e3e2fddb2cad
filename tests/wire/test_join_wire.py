"""What is asked and answered when a device joins: it reads as it was written, for who may read it, and for no other."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeswarm.errors import EdgeSwarmError, LocalError
from edgeswarm.limits import JOIN_ANSWER_BYTES_MAX, JOIN_REQUEST_BYTES_MAX
from edgeswarm.wire import codec, join
from edgeswarm.wire.certificate import Signatory
from edgeswarm.wire.join import Answer, Inventory, JoinError, Membership, Request, Topic
from edgeswarm.wire.topics import TopicError

ISSUER_SEED, DEVICE_SEED, TOKEN_SEED = bytes([1]) * 32, bytes([2]) * 32, bytes([3]) * 32
ISSUER, DEVICE, TOKEN = map(Signatory.from_seed, (ISSUER_SEED, DEVICE_SEED, TOKEN_SEED))
PRIVATE, REPLY = join.new_reply_key(lambda size: bytes([4]) * size)
ID = "abcdefgh23456"
TEXTS = st.text(st.characters(categories=("L", "N", "P")), max_size=40)
LABELS = st.lists(st.from_regex(r"[a-z][a-z0-9._-]{0,10}=[A-Za-z0-9._:/+-]{0,12}", fullmatch=True), max_size=8).map(
    lambda items: tuple(sorted({item.partition("=")[0]: item for item in items}.values(), key=lambda i: i.split("=")))
)
INVENTORIES = st.builds(
    Inventory, TEXTS, TEXTS, TEXTS, TEXTS, st.integers(0, 1 << 50), st.lists(TEXTS, max_size=3).map(tuple), LABELS
)


def a_request(**changes: object) -> Request:
    inventory = Inventory("rpi-5", "A", "aarch64", "0.1.0", 8 << 30, ("hailo",), ("line=3", "site=plant-7"))
    made = Request(ID, "plant-7", "gate-1", DEVICE.public, REPLY, bytes(16), 1_795_219_200, inventory)
    return replace(made, **changes)  # type: ignore[arg-type]


def topic_of(request: Request) -> Topic:
    return Topic(request.fleet, request.token, request.nonce)


def sealed(request: Request, *, device: Signatory = DEVICE, token: Signatory = TOKEN) -> bytes:
    return join.seal_request(request, device=device, token=token, issuer=ISSUER.public)


def opened(data: bytes, topic: Topic, *, seed: bytes = ISSUER_SEED, public: bytes = TOKEN.public) -> Request:
    return join.open_request(data, topic, issuer_seed=seed, token_public=public)


def a_membership(**changes: object) -> Membership:
    made = Membership(
        device="gate-1", number=7, role="worker", cell="line-a", controller="controller", first=b"first",
        roster=b"roster", root=bytes(32), chain=b"chain", ca=b"ca", brokers=("mqtts://b:8883",), timing="default",
        encrypt=True, content_keys=((1, bytes(32)),), publishers=(bytes(32),), version=3, now_s=1_795_219_200,
    )  # fmt: skip
    return replace(made, **changes)  # type: ignore[arg-type]


@given(INVENTORIES, st.binary(min_size=16, max_size=16), st.integers(0, 1 << 40))
def test_request_reads_as_it_was_written(inventory: Inventory, nonce: bytes, floor_s: int) -> None:
    request = a_request(inventory=inventory, nonce=nonce, floor_s=floor_s)
    assert opened(sealed(request), topic_of(request)) == request


def test_request_with_everything_at_its_bound_fits() -> None:
    text = "x" * 128
    labels = tuple(f"k{number:02d}=" + "v" * 63 for number in range(32))
    inventory = Inventory(text, text, text, text, 1 << 62, (text,) * 16, labels)
    request = a_request(name="d" * 63, fleet="f" * 32, inventory=inventory)
    assert opened(sealed(request), topic_of(request)) == request


def test_request_is_for_the_issuer_alone() -> None:
    data = sealed(a_request())
    for secret in (b"gate-1", b"plant-7", DEVICE.public, b"rpi-5"):
        assert secret not in data
    with pytest.raises(JoinError, match="sealed to another key"):
        opened(data, topic_of(a_request()), seed=bytes(32))


def test_request_holds_for_its_topic_alone() -> None:
    """Somebody who reads the broker says it again elsewhere, or for another token."""
    request = a_request()
    data = sealed(request)
    for topic in (
        topic_of(request)._replace(nonce=b"\1" * 16),
        topic_of(request)._replace(fleet="plant-8"),
        topic_of(request)._replace(token="b" * 13),
    ):
        with pytest.raises(JoinError, match="signature"):
            opened(data, topic)


def test_request_without_the_secret_or_without_the_device_s_key_is_refused() -> None:
    request = a_request()
    stranger = Signatory.from_seed(bytes([9]) * 32)
    with pytest.raises(JoinError, match="signature"):
        opened(sealed(request, token=stranger), topic_of(request))
    with pytest.raises(JoinError, match="signature"):  # a key that it saw somewhere, and does not hold
        opened(sealed(request, device=stranger), topic_of(request))


def test_bytes_that_were_changed_are_refused() -> None:
    request = a_request()
    data = sealed(request)
    for at in range(0, len(data), 7):
        with pytest.raises(JoinError):
            opened(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :], topic_of(request))
    for cut in (b"", data[:40], data[:-1], data + b"x", bytes(JOIN_REQUEST_BYTES_MAX + 1)):
        with pytest.raises(JoinError):
            opened(cut, topic_of(request))


def test_who_makes_a_request_out_of_its_bounds_is_told() -> None:
    inventory = a_request().inventory
    for bad in (
        a_request(name="Gate 1"),
        a_request(token="short"),
        a_request(public=b"x"),
        a_request(nonce=b"x"),
        a_request(floor_s=-1),
        a_request(inventory=replace(inventory, profile="x" * 129)),
        a_request(inventory=replace(inventory, software="\x1b[2J")),
        a_request(inventory=replace(inventory, delegates=("x",) * 17)),
        a_request(inventory=replace(inventory, labels=("b=1", "a=1"))),
        a_request(inventory=replace(inventory, labels=("a=1", "a=2"))),
        a_request(inventory=replace(inventory, labels=("no label",))),
        a_request(inventory=replace(inventory, memory_bytes=-1)),
    ):
        with pytest.raises(LocalError):
            sealed(bad)


def test_who_knows_the_token_may_send_rubbish_and_is_refused() -> None:
    """Signed and sealed as it should be, and not a request."""
    from edgeswarm.wire import cose

    request = a_request()
    topic = topic_of(request)
    tree = ["join", 1, ID, "plant-7", "gate-1", DEVICE.public, REPLY, bytes(16), 5, ["a", "b", "c", "d", 1, [], []]]
    rubbish: list[object] = [[], {}, 5, "join", tree[:-1], [*tree, 1]]
    for at in range(1, len(tree)):
        rubbish += [[*tree[:at], value, *tree[at + 1 :]] for value in (None, -1, "", b"", [])]
    for value in rubbish:
        inner = cose.sign1_by(
            codec.dumps(value), sign=DEVICE.sign, kid=DEVICE.kid, external_aad=topic.aad("edgeswarm-join-device-1")
        )
        outer = cose.sign1_by(inner, sign=TOKEN.sign, kid=TOKEN.kid, external_aad=topic.aad("edgeswarm-join-request-1"))
        from nacl.public import SealedBox
        from nacl.signing import SigningKey

        key = SigningKey(ISSUER_SEED).verify_key.to_curve25519_public_key()
        with pytest.raises(EdgeSwarmError):
            opened(bytes(SealedBox(key).encrypt(outer)), topic)


@given(st.sampled_from(["pending", "refused"]), st.sampled_from(["waiting", "used", "later-kind"]), TEXTS)
def test_answer_reads_as_it_was_written(status: str, code: str, reason: str) -> None:
    topic = topic_of(a_request())
    for answer in (Answer(status, code, reason), Answer("joined", membership=a_membership())):  # type: ignore[arg-type]
        data = join.seal_answer(answer, topic, reply=REPLY, issuer=ISSUER)
        assert join.open_answer(data, topic, reply_private=PRIVATE, issuer=ISSUER.public) == answer


def test_answer_is_believed_from_the_issuer_and_for_the_question_alone() -> None:
    topic = topic_of(a_request())
    answer = Answer("joined", membership=a_membership())
    data = join.seal_answer(answer, topic, reply=REPLY, issuer=ISSUER)
    forged = join.seal_answer(answer, topic, reply=REPLY, issuer=TOKEN)
    for bad, where in (
        (forged, topic),
        (data, topic._replace(nonce=b"\1" * 16)),
        (data, topic._replace(token="b" * 13)),
        (data[:-1], topic),
        (bytes(JOIN_ANSWER_BYTES_MAX + 1), topic),
    ):
        with pytest.raises(JoinError):
            join.open_answer(bad, where, reply_private=PRIVATE, issuer=ISSUER.public)
    with pytest.raises(JoinError):
        join.open_answer(data, topic, reply_private=os.urandom(32), issuer=ISSUER.public)


def test_memberships_out_of_their_bounds_are_refused() -> None:
    topic = topic_of(a_request())
    for changes in (
        {"device": "No"},
        {"cell": "join"},
        {"number": 0},
        {"role": "king"},
        {"root": b""},
        {"brokers": ()},
        {"timing": "fast"},
        {"publishers": (b"x",)},
        {"content_keys": ((1, b"x"),)},
        {"content_keys": ((1, bytes(32)),) * 9},
        {"version": 0},
        {"first": bytes(1 << 20)},
        {"chain": bytes((1 << 16) + 1)},
    ):
        with pytest.raises(EdgeSwarmError):
            join.seal_answer(Answer("joined", membership=a_membership(**changes)), topic, reply=REPLY, issuer=ISSUER)
    with pytest.raises(EdgeSwarmError):
        join.seal_answer(Answer("joined"), topic, reply=REPLY, issuer=ISSUER)


def test_no_secret_is_in_a_repr() -> None:
    shown = repr(a_membership(content_keys=((1, b"\xaa" * 32),)))
    assert "xaa" not in shown and "content_keys" not in shown


def test_topics_read_as_they_were_written_and_no_others() -> None:
    topic = topic_of(a_request())
    assert join.parse_topic(topic.request) == topic
    assert join.requests("plant-7") == "es/1/plant-7/join/+/+/request"
    for bad in (
        topic.answer,
        topic.request.upper(),
        topic.request + "/x",
        topic.request.replace(ID, "+"),
        topic.request.replace("plant-7", "Plant"),
        topic.request.replace("00", "0x"),
        "",
    ):
        with pytest.raises(TopicError):
            join.parse_topic(bad)
