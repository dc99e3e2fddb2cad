"""cose: signatures that hold are accepted, everything else is refused; pycose and cwt agree in both directions."""

from __future__ import annotations

import hashlib
import random
from typing import Any

import cbor2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeswarm.errors import CoseError, LimitError, LocalError, UnknownSignerError
from edgeswarm.wire import codec, cose

SEED = hashlib.sha256(b"test publisher").digest()
PUBLIC = cose.public_key(SEED)
KID = b"0123456789abcdef"
AAD = b"edgeswarm-test-1"


def lookup(kid: bytes) -> bytes | None:
    return PUBLIC if kid == KID else None


def signed(payload: bytes = b"payload", **options: Any) -> bytes:
    return cose.sign1(payload, key_seed=SEED, kid=KID, **{"external_aad": AAD, **options})


def test_the_public_key_is_that_of_rfc_8032_test_1() -> None:
    seed = bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")
    assert cose.public_key(seed).hex() == "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"


def test_an_attached_payload_comes_back() -> None:
    found = cose.verify1(signed(), lookup=lookup, external_aad=AAD)
    assert found == cose.Verified(KID, b"payload")


def test_a_detached_payload_is_not_in_the_message() -> None:
    message = signed(b"x" * 1000, detached=True)
    assert len(message) < 200
    assert cose.verify1(message, lookup=lookup, payload=b"x" * 1000, external_aad=AAD).payload == b"x" * 1000


def test_signing_is_deterministic() -> None:
    assert signed() == signed()


def test_the_message_is_the_bytes_it_always_was() -> None:
    """A golden message: tag 18, {1: -8, 4: kid}, {}, payload, signature."""
    assert signed().hex() == (
        "d28455a20127045030313233343536373839616263646566a0477061796c6f61645840"
        "099b9b7b6cdcf72b08ae9949d900eb9069cf38eeeedc2c8a95dc41f4c2a187cc"
        "8025de37924851585aeff1350695b972e551d695d06766760c2e5b4df1f91a0f"
    )


@pytest.mark.parametrize(
    "change",
    [
        {"external_aad": b"another purpose"},
        {"payload": b"another payload"},
        {"lookup": lambda _: cose.public_key(b"\1" * 32)},
        {"lookup": lambda _: b"\0" * 32},
    ],
)
def test_another_purpose_payload_or_key_is_refused(change: dict[str, Any]) -> None:
    options: dict[str, Any] = {"lookup": lookup, "payload": b"payload", "external_aad": AAD, **change}
    with pytest.raises(CoseError, match="does not match"):
        cose.verify1(signed(detached=True), **options)


def test_an_unknown_key_id_has_its_own_error() -> None:
    with pytest.raises(UnknownSignerError, match="no key of this id"):
        cose.verify1(signed(), lookup=lambda _: None, external_aad=AAD, who="device d2")


def test_the_payload_is_in_the_message_or_beside_it() -> None:
    for message, payload in ((signed(), b"payload"), (signed(detached=True), None)):
        with pytest.raises(CoseError, match="both or neither"):
            cose.verify1(message, lookup=lookup, payload=payload, external_aad=AAD)


@given(st.data())
@settings(max_examples=200)
def test_no_changed_message_verifies(data: st.DataObject) -> None:
    message = bytearray(signed())
    kind = data.draw(st.sampled_from(["flip", "cut", "insert"]))
    at = data.draw(st.integers(0, len(message) - 1))
    if kind == "flip":
        message[at] ^= 1 << data.draw(st.integers(0, 7))
    elif kind == "cut":
        del message[at:]
    else:
        message[at:at] = data.draw(st.binary(min_size=1, max_size=4))
    if bytes(message) == signed():
        return
    with pytest.raises((CoseError, LimitError)):
        cose.verify1(bytes(message), lookup=lambda _: PUBLIC, external_aad=AAD)


@pytest.mark.parametrize("count", [500, pytest.param(10_000, marks=pytest.mark.soak)])
def test_no_mutant_of_a_message_verifies(count: int) -> None:
    """Bits flipped, bytes removed, repeated, swapped: refused, and never by another error."""
    rng = random.Random(4)
    message = signed(b"a payload of some length, with room to be changed in many places" * 3)
    for number in range(count):
        mutant = bytearray(message)
        at, size, to = rng.randrange(len(mutant)), rng.randrange(1, 30), rng.randrange(len(mutant))
        match number % 5:
            case 0:
                mutant[at] ^= 1 << rng.randrange(8)
            case 1:
                del mutant[at : at + size]
            case 2:
                mutant[to:to] = mutant[at : at + size]
            case 3:
                mutant[at : at + size], mutant[to : to + size] = mutant[to : to + size], mutant[at : at + size]
            case _:
                mutant[at:at] = rng.randbytes(size)
        if mutant == message:
            continue
        with pytest.raises((CoseError, LimitError)):
            cose.verify1(bytes(mutant), lookup=lambda _: PUBLIC, external_aad=AAD)


PROTECTED = codec.dumps({1: -8, 4: KID})


@pytest.mark.parametrize(
    ("message", "text"),
    [
        (b"", "tag 18"),
        (b"\xd1" + codec.dumps([PROTECTED, {}, b"", b"s" * 64]), "tag 18"),
        (codec.dumps([PROTECTED, {}, b"", b"s" * 64]), "tag 18"),
        (b"\xd2" + codec.dumps({}), "expected \\[protected"),
        (b"\xd2" + codec.dumps([PROTECTED, {}, b""]), "expected \\[protected"),
        (b"\xd2" + codec.dumps([PROTECTED, {}, "text", b"s" * 64]), "expected \\[protected"),
        (b"\xd2" + codec.dumps([PROTECTED, {}, b"", b"s" * 63]), "signature of 64"),
        (b"\xd2" + codec.dumps([b"", {}, b"", b"s" * 64]), "COSE_Sign1: CBOR"),
        (b"\xd2" + codec.dumps([codec.dumps([1]), {}, b"", b"s" * 64]), "a map of headers"),
        (b"\xd2" + codec.dumps([codec.dumps({1: -7, 4: KID}), {}, b"", b"s" * 64]), "algorithm: expected EdDSA"),
        (b"\xd2" + codec.dumps([codec.dumps({4: KID}), {}, b"", b"s" * 64]), "algorithm: expected EdDSA"),
        (b"\xd2" + codec.dumps([codec.dumps({1: -8}), {}, b"", b"s" * 64]), "one key id"),
        (b"\xd2" + codec.dumps([PROTECTED, {4: KID}, b"", b"s" * 64]), "one key id"),
        (b"\xd2" + codec.dumps([PROTECTED, {1: -8}, b"", b"s" * 64]), "headers:"),
        (b"\xd2" + codec.dumps([codec.dumps({1: -8, 2: [9], 4: KID}), {}, b"", b"s" * 64]), "headers:"),
        (b"\xd2" + codec.dumps([codec.dumps({1: -8, 4: "x"}), {}, b"", b"s" * 64]), "key id: expected 1 to 64 bytes"),
        (b"\xd2" + codec.dumps([codec.dumps({1: -8, 4: b""}), {}, b"", b"s" * 64]), "key id: expected 1 to 64 bytes"),
        (b"\xd2" + cbor2.dumps([PROTECTED, {}, b"", b"s" * 64]) + b"\0", "expected the end"),
    ],
)
def test_what_is_no_cose_sign1_of_ours_is_refused(message: bytes, text: str) -> None:
    with pytest.raises(CoseError, match=text):
        cose.verify1(message, lookup=lookup)


def test_a_message_past_its_bound_is_refused() -> None:
    with pytest.raises(LimitError, match="at most 50 bytes"):
        cose.verify1(signed(), lookup=lookup, bytes_max=50)


@pytest.mark.parametrize("change", [{"key_seed": b"short"}, {"kid": b""}, {"kid": b"x" * 65}])
def test_our_own_misuse_is_named(change: dict[str, Any]) -> None:
    with pytest.raises(LocalError, match="expected"):
        cose.sign1(b"", **{"key_seed": SEED, "kid": KID, **change})


def test_pycose_verifies_ours_and_we_verify_pycose() -> None:
    pytest.importorskip("pycose", reason="pycose is not installed")
    from pycose.headers import KID as KidHeader
    from pycose.headers import Algorithm
    from pycose.keys import OKPKey
    from pycose.messages import CoseMessage, Sign1Message

    key: Any = OKPKey(crv="ED25519", x=PUBLIC, d=SEED)
    ours: Any = CoseMessage.decode(signed())
    ours.key, ours.external_aad = key, AAD
    assert ours.verify_signature()
    assert ours.payload == b"payload"
    for phdr, uhdr in (({"ALG": "EDDSA", "KID": KID}, {}), ({"ALG": "EDDSA"}, {"KID": KID})):
        theirs: Any = Sign1Message(
            phdr={Algorithm: phdr["ALG"], **({KidHeader: KID} if "KID" in phdr else {})},
            uhdr={KidHeader: KID} if uhdr else {},
            payload=b"from pycose",
            external_aad=AAD,
        )
        theirs.key = key
        assert cose.verify1(theirs.encode(), lookup=lookup, external_aad=AAD).payload == b"from pycose"


def test_cwt_verifies_ours_and_we_verify_cwt() -> None:
    pytest.importorskip("cwt", reason="cwt is not installed")
    from cwt import COSE, COSEHeaders, COSEKey

    public = COSEKey.new({1: 1, -1: 6, -2: PUBLIC, 2: KID, 3: -8})  # OKP, Ed25519, x, kid, EdDSA
    private = COSEKey.new({1: 1, -1: 6, -2: PUBLIC, -4: SEED, 2: KID, 3: -8})
    assert COSE.new().decode(signed(), public, external_aad=AAD) == b"payload"
    assert COSE.new().decode(signed(detached=True), public, external_aad=AAD, detached_payload=b"payload") == b"payload"
    theirs = COSE.new().encode(
        b"from cwt",
        private,
        protected={COSEHeaders.ALG: -8},
        unprotected={COSEHeaders.KID: KID},
        external_aad=AAD,
    )
    assert cose.verify1(theirs, lookup=lookup, external_aad=AAD).payload == b"from cwt"
