"""The envelope: what is sealed opens; every changed bit, other topic, other sender is refused; pycose and cwt agree."""

from __future__ import annotations

import hashlib
import os
import tracemalloc
from typing import Any

import cbor2
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeswarm.errors import CoseError, LimitError, LocalError, UnknownSignerError
from edgeswarm.wire import codec, cose, envelope
from edgeswarm.wire.envelope import Opened

SEED = hashlib.sha256(b"device d1").digest()
PUBLIC = cose.public_key(SEED)
SIGN = cose.signer(SEED)
TOPIC = "es/1/f/c/device/d2/inbox"
uints = st.integers(0, (1 << 64) - 1)


def lookup(device: str) -> bytes | None:
    return PUBLIC if device == "d1" else None


def sealed(payload: bytes = b"payload", **options: Any) -> bytes:
    return envelope.seal(payload, **{"topic": TOPIC, "sender": "d1", "boot": 3, "seq": 9, "sign": SIGN, **options})


def opened(data: bytes, **options: Any) -> Opened:
    return envelope.open_(data, **{"topic": TOPIC, "lookup": lookup, **options})


def by_hand(protected: dict[Any, Any] | bytes, payload: bytes = b"payload", unprotected: Any = None) -> bytes:
    """An envelope with any header, signed as it should be."""
    header = protected if isinstance(protected, bytes) else cbor2.dumps(protected)
    signature = SIGN(cose.to_be_signed(header, TOPIC.encode(), payload))
    return cbor2.dumps(cbor2.CBORTag(18, [header, unprotected or {}, payload, signature]))


HEADER = {1: -8, 4: b"d1", -70001: [3, 9]}


@given(st.binary(max_size=2000), uints, uints)
@settings(max_examples=100, deadline=None)
def test_open_undoes_seal(payload: bytes, boot: int, seq: int) -> None:
    assert opened(sealed(payload, boot=boot, seq=seq)) == Opened("d1", boot, seq, payload)


def test_it_is_the_cose_sign1_that_cbor2_would_write() -> None:
    assert sealed() == by_hand(HEADER)
    assert sealed(boot=1 << 40, seq=300) == by_hand({**HEADER, -70001: [1 << 40, 300]})


def test_the_bytes_are_those_they_always_were() -> None:
    assert sealed().hex() == (
        "d2844fa30127044264313a00011170820309a0477061796c6f61645840"
        "c19859b002acf51d6d68e5c3fc41802af63dd7f93a8f304774644f95efa110d6"
        "a9f614577a6da4da3e9c9a58aa7976eae352ad85bea1d4f8d0d777d72330a501"
    )


def test_every_changed_bit_is_refused() -> None:
    data = sealed()
    for bit in range(8 * len(data)):
        mutant = bytearray(data)
        mutant[bit // 8] ^= 1 << bit % 8
        with pytest.raises(CoseError):
            opened(bytes(mutant))


def test_every_truncation_and_every_tail_is_refused() -> None:
    data = sealed()
    for size in range(len(data)):
        with pytest.raises(CoseError):
            opened(data[:size])
    with pytest.raises(CoseError, match="and the end after it"):
        opened(data + b"\0")


@given(st.binary(max_size=200))
@settings(max_examples=300, deadline=None)
def test_bytes_from_outside_raise_nothing_else(data: bytes) -> None:
    for prefix in (b"", b"\xd2\x84", b"\xd2\x84\x4f\xa3\x01\x27\x04"):
        with pytest.raises(CoseError):
            opened(prefix + data)


def test_a_message_is_worth_nothing_on_another_topic() -> None:
    with pytest.raises(CoseError, match="d1: the signature does not hold for topic es/1/f/c/device/d3/inbox"):
        opened(sealed(), topic="es/1/f/c/device/d3/inbox")


def test_an_unknown_sender_is_refused_before_its_signature_is_looked_at() -> None:
    def never(public: bytes, data: bytes, signature: bytes) -> bool:
        raise AssertionError

    with pytest.raises(UnknownSignerError, match="d9: not in the roster"):
        opened(sealed(sender="d9"), verify=never)


def test_a_known_sender_with_another_key_is_refused() -> None:
    with pytest.raises(CoseError, match="the signature does not hold"):
        opened(sealed(sign=cose.signer(bytes(32))))


@pytest.mark.parametrize(
    ("header", "text"),
    [
        ({1: -7, 4: b"d1", -70001: [3, 9]}, "expected EdDSA"),
        ({1: -8, 4: b"d1"}, "expected EdDSA, a key id"),
        ({4: b"d1", 1: -8, -70001: [3, 9]}, "in this order"),
        ({1: -8, 4: b"", -70001: [3, 9]}, "key id: expected 1 to 63"),
        ({1: -8, 4: b"d" * 64, -70001: [3, 9]}, "key id: expected 1 to 63"),
        ({1: -8, 4: b"\xff", -70001: [3, 9]}, "ASCII"),
        ({1: -8, 4: "d1", -70001: [3, 9]}, "major type 2"),
        ({1: -8, 4: b"d1", -70001: [3]}, "expected -70001"),
        ({1: -8, 4: b"d1", -70001: [-3, 9]}, "major type 0"),
        ({1: -8, 4: b"d1", -70002: [3, 9]}, "expected -70001"),
        ({1: -8, 4: b"d1", -70001: [3, 9], -70002: 0}, "flags: expected 1 to 3, found 0"),
        ({1: -8, 4: b"d1", -70001: [3, 9], -70002: 4}, "flags: expected 1 to 3, found 4"),
        ({1: -8, 4: b"d1", -70001: [3, 9], -70003: 1}, "expected -70002"),
        (cbor2.dumps({1: -8, 4: b"d1", -70001: [3, 9]}) + b"\0", "expected its end"),
        (b"\xa3\x01\x27\x04\x42d1\x3a\x00\x01\x11\x70\x82\x18\x03\x09", "not in its shortest form"),
        (b"", "in this order"),
    ],
)
def test_a_header_of_another_shape_is_refused(header: Any, text: str) -> None:
    with pytest.raises(CoseError, match=text):
        opened(by_hand(header))


def test_unprotected_headers_are_refused() -> None:
    with pytest.raises(CoseError, match="empty unprotected header"):
        opened(by_hand(HEADER, unprotected={4: b"d1"}))


def test_what_is_too_large_is_refused_before_it_is_read() -> None:
    with pytest.raises(LimitError, match="envelope: at most 356 bytes"):
        opened(b"\xd2\x84" + bytes(400), bytes_max=100)
    with pytest.raises(LimitError, match="d1: payload: at most 100 bytes, found 150"):
        opened(sealed(b"x" * 150), bytes_max=100)


# --- compression ----------------------------------------------------------------------------------------------------


@given(st.integers(0, 5000), st.booleans())
@settings(max_examples=30, deadline=None)
def test_long_payloads_are_compressed_where_that_helps(size: int, random: bool) -> None:
    payload = os.urandom(size) if random else b"a" * size
    data = sealed(payload)
    assert opened(data).payload == payload
    assert bool(envelope.parse(data).flags & envelope.ZSTD) == (size >= 1024 and not random)
    assert not envelope.parse(sealed(payload, compress=False)).flags


def test_a_bomb_is_refused_before_anything_is_allocated() -> None:
    bomb = zstandard.ZstdCompressor(level=19).compress(bytes(1 << 26))
    data = by_hand({**HEADER, -70002: 1}, bomb)
    tracemalloc.start()
    with pytest.raises(LimitError, match="d1: decompressed payload: at most 4194304 bytes"):
        opened(data)
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()


def test_a_frame_that_does_not_say_its_size_is_refused() -> None:
    squeezer = zstandard.ZstdCompressor(write_content_size=False).compressobj()
    frame = squeezer.compress(b"a" * 5000) + squeezer.flush()
    with pytest.raises(LimitError, match="or its size is not said"):
        opened(by_hand({**HEADER, -70002: 1}, frame))


@pytest.mark.parametrize("damage", ["not zstd", "cut", "two frames", "lies about its size"])
def test_what_is_not_one_frame_is_refused(damage: str) -> None:
    frame = zstandard.ZstdCompressor().compress(os.urandom(2000))
    match damage:
        case "not zstd":
            frame = b"hello"
        case "cut":
            frame = frame[:-1]
        case "two frames":
            frame = frame + frame
        case _:
            at = frame.index((2000 - 256).to_bytes(2, "little"))
            frame = frame[:at] + (1000).to_bytes(2, "little") + frame[at + 2 :]
    with pytest.raises((CoseError, LimitError)):
        opened(by_hand({**HEADER, -70002: 1}, frame))


# --- ours and theirs ------------------------------------------------------------------------------------------------


def test_what_we_cannot_seal_is_our_mistake() -> None:
    for options in ({"boot": -1}, {"seq": 1 << 64}, {"sender": ""}, {"sender": "d" * 64}, {"sign": lambda data: b"x"}):
        with pytest.raises(LocalError):
            sealed(**options)


def test_pycose_verifies_ours_and_we_open_pycose() -> None:
    pytest.importorskip("pycose", reason="pycose is not installed")
    from pycose.algorithms import EdDSA
    from pycose.headers import KID, Algorithm
    from pycose.keys import OKPKey
    from pycose.keys.curves import Ed25519
    from pycose.messages import CoseMessage, Sign1Message

    key: Any = OKPKey(crv=Ed25519, x=PUBLIC, d=SEED)
    for payload in (b"payload", b"a" * 2000):
        ours: Any = CoseMessage.decode(sealed(payload))
        assert isinstance(ours, Sign1Message)
        ours.key = key
        ours.external_aad = TOPIC.encode()
        assert ours.verify_signature()
        assert ours.phdr[KID] == b"d1" and ours.phdr[-70001] == [3, 9]
        ours.external_aad = b"es/1/f/c/feed"
        assert not ours.verify_signature()
    theirs: Any = Sign1Message(
        phdr={Algorithm: EdDSA, KID: b"d1", -70001: [3, 9]}, payload=b"from pycose", external_aad=TOPIC.encode()
    )
    theirs.key = key
    assert opened(theirs.encode()) == Opened("d1", 3, 9, b"from pycose")


def test_cwt_verifies_ours_and_we_open_cwt() -> None:
    pytest.importorskip("cwt", reason="cwt is not installed")
    from cwt import COSE, COSEKey

    public = COSEKey.new({1: 1, -1: 6, -2: PUBLIC, 2: b"d1", 3: -8})
    private = COSEKey.new({1: 1, -1: 6, -2: PUBLIC, -4: SEED, 2: b"d1", 3: -8})
    assert COSE.new().decode(sealed(), public, external_aad=TOPIC.encode()) == b"payload"
    protected: dict[Any, Any] = {1: -8, 4: b"d1", -70001: [3, 9]}
    theirs = COSE.new().encode(b"from cwt", private, protected=protected, external_aad=TOPIC.encode())
    assert opened(theirs) == Opened("d1", 3, 9, b"from cwt")


@given(st.binary(max_size=300), st.binary(max_size=300), st.binary(max_size=300))
@settings(deadline=None)
def test_what_is_signed_is_the_sig_structure(protected: bytes, aad: bytes, payload: bytes) -> None:
    assert cose.to_be_signed(protected, aad, payload) == cbor2.dumps(["Signature1", protected, aad, payload])
    assert codec.bytes_head(len(payload)) + payload == cbor2.dumps(payload)


@given(uints, st.binary(max_size=3))
@settings(deadline=None)
def test_heads_by_hand_are_those_of_the_codec(value: int, before: bytes) -> None:
    assert codec.uint(value) == codec.dumps(value)
    assert codec.read_uint(before + codec.uint(value), len(before)) == (value, len(before) + len(codec.uint(value)))
