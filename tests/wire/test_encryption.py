"""Content encryption: only who holds the key reads, nothing moves to another envelope, pycose agrees."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeswarm.errors import CoseError, LimitError, LocalError
from edgeswarm.wire import cose, encryption, envelope
from edgeswarm.wire.encryption import CellCipher, derive_key

pytest.importorskip("cryptography", reason="the extra `encryption` is not installed")

SEED = bytes(range(32))
KEYS = {1: b"1" * 32, 2: b"2" * 32}
TOPIC = "es/1/f/c/feed"


def cipher(*epochs: int, random_bytes: Callable[[int], bytes] = os.urandom) -> CellCipher:
    return CellCipher({epoch: KEYS[epoch] for epoch in epochs or (1, 2)}, random_bytes=random_bytes)


def sealed(payload: bytes, by: CellCipher | None, **options: Any) -> bytes:
    fixed: dict[str, Any] = {"topic": TOPIC, "sender": "d1", "boot": 3, "seq": 9, "sign": cose.signer(SEED)}
    return envelope.seal(payload, cipher=by, **{**fixed, **options})


def opened(data: bytes, by: CellCipher | None) -> envelope.Opened:
    return envelope.open_(data, topic=TOPIC, lookup=lambda device: cose.public_key(SEED), cipher=by)


@given(st.binary(max_size=3000))
@settings(max_examples=50, deadline=None)
def test_what_one_encrypts_the_cell_reads(payload: bytes) -> None:
    data = sealed(payload, cipher())
    assert opened(data, cipher()) == envelope.Opened("d1", 3, 9, payload, True)
    assert len(payload) < 8 or payload not in data


def test_long_content_is_compressed_and_then_encrypted() -> None:
    data = sealed(b"a" * 100_000, cipher())
    assert len(data) < 500 and envelope.parse(data).flags == envelope.ZSTD | envelope.ENCRYPTED
    assert opened(data, cipher()).payload == b"a" * 100_000


def test_the_newest_epoch_encrypts_and_older_ones_are_read() -> None:
    assert cipher().epoch == 2
    old = sealed(b"late", cipher(1))
    assert opened(old, cipher(1, 2)).payload == b"late"
    with pytest.raises(CoseError, match="d1: content key epoch 1 is not held here, only 2"):
        opened(old, cipher(2))


def test_clear_and_encrypted_do_not_mix() -> None:
    with pytest.raises(CoseError, match="is not encrypted; this cell encrypts"):
        opened(sealed(b"clear", None), cipher())
    with pytest.raises(CoseError, match="is encrypted; this cell has no content key"):
        opened(sealed(b"dark", cipher()), None)


def test_content_is_bound_to_its_envelope_and_sender() -> None:
    made = cipher().encrypt(b"plain", b"aad", sender="d1", boot=3)
    assert cipher().decrypt(made, b"aad", sender="d1", boot=3) == b"plain"
    for aad, sender, boot in [(b"aae", "d1", 3), (b"aad", "d2", 3), (b"aad", "d1", 4)]:
        with pytest.raises(CoseError, match="does not decrypt"):
            cipher().decrypt(made, aad, sender=sender, boot=boot)


def test_every_changed_bit_and_truncation_is_refused() -> None:
    made = cipher().encrypt(b"plain", b"aad", sender="d1", boot=3)
    for bit in range(8 * len(made)):
        mutant = bytearray(made)
        mutant[bit // 8] ^= 1 << bit % 8
        with pytest.raises(CoseError):
            cipher().decrypt(bytes(mutant), b"aad", sender="d1", boot=3)
    for size in range(len(made)):
        with pytest.raises(CoseError):
            cipher().decrypt(made[:size], b"aad", sender="d1", boot=3)


def test_nonces_are_as_random_as_their_source() -> None:
    asked: list[int] = []

    def source(size: int) -> bytes:
        asked.append(size)
        return os.urandom(size)

    one = cipher(random_bytes=source)
    made = {one.encrypt(b"same", b"", sender="d1", boot=1) for _ in range(100)}
    assert len(made) == 100 and asked == [encryption.NONCE_BYTES] * 100


def test_an_epoch_ends_before_nonces_may_meet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encryption, "MESSAGES_PER_BOOT_MAX", 2)
    one = cipher()
    for _ in range(2):
        one.encrypt(b"", b"", sender="d1", boot=1)
    with pytest.raises(LimitError, match="content key epoch 2: at most 2 messages"):
        one.encrypt(b"", b"", sender="d1", boot=1)


@pytest.mark.parametrize("keys", [{}, {1: b"short"}, {-1: b"k" * 32}, {1 << 24: b"k" * 32}, dict.fromkeys(range(9))])
def test_keys_of_another_shape_are_our_mistake(keys: Any) -> None:
    with pytest.raises(LocalError, match="content keys"):
        CellCipher(keys, random_bytes=os.urandom)


def test_without_the_extra_the_error_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cryptography.hazmat.primitives.ciphers.aead", None)
    with pytest.raises(LocalError, match=r"pip install 'edgeswarm\[encryption\]'"):
        cipher()


def test_keys_are_derived_as_rfc_5869_says() -> None:
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF

    theirs = HKDF(hashes.SHA256(), 32, None, b"edgeswarm-content-1/d1/7").derive(KEYS[1])
    assert derive_key(KEYS[1], sender="d1", boot=7) == theirs


def test_pycose_decrypts_ours_and_we_decrypt_pycose() -> None:
    pytest.importorskip("pycose", reason="pycose is not installed")
    from pycose.algorithms import A256GCM
    from pycose.headers import IV, KID, Algorithm
    from pycose.keys import SymmetricKey
    from pycose.messages import CoseMessage, Enc0Message

    key: Any = SymmetricKey(derive_key(KEYS[2], sender="d1", boot=3))
    ours: Any = CoseMessage.decode(cipher().encrypt(b"plain", b"aad", sender="d1", boot=3))
    assert isinstance(ours, Enc0Message) and ours.phdr[KID] == b"\0\0\2"
    ours.key, ours.external_aad = key, b"aad"
    assert ours.decrypt() == b"plain"
    theirs: Any = Enc0Message(
        phdr={Algorithm: A256GCM, KID: b"\0\0\2"}, uhdr={IV: b"n" * 12}, payload=b"from pycose", external_aad=b"aad"
    )
    theirs.key = key
    assert cipher().decrypt(theirs.encode(), b"aad", sender="d1", boot=3) == b"from pycose"
