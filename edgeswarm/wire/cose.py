"""COSE_Sign1 with Ed25519: bytes and a key in, a signed message out, and back.  RFC 9052 4.2 and 4.4, RFC 9053 2.2.

Protected header: {1: -8 (EdDSA), 4: key id}; the unprotected one is empty when we sign, and may hold the key id (where
most libraries put it) when we verify.  The payload is in the message, or detached: then both sides must know it.
`external_aad` binds a signature to its purpose, so that one made for an agent file is worth nothing on a message.
Decides whether a signature holds for a key; who is trusted is the caller's `lookup`.
Source for the algorithm: RFC 8032 5.1 as libsodium does it, which refuses points of small order and scalars that are
not canonical.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable
from typing import Final, NamedTuple

from edgeswarm.errors import CodecError, CoseError, LimitError, LocalError, UnknownSignerError
from edgeswarm.limits import CBOR_BYTES_MAX
from edgeswarm.wire import codec

SEED_BYTES = 32
PUBLIC_BYTES = 32
SIGNATURE_BYTES = 64
KID_BYTES_MAX = 64  # a SHA-512; ours are 16 characters

_TAG = b"\xd2"  # tag 18, COSE_Sign1, RFC 9052 2
_SIGNATURE1: Final = b"\x84" + codec.dumps("Signature1")
_ALGORITHM, _KID = 1, 4  # header labels, RFC 9052 3.1
_EDDSA = -8

Sign = Callable[[bytes], bytes]
"""Bytes to a 64-byte Ed25519 signature: what holds a key is passed on as one of these, never as the key."""
Verify = Callable[[bytes, bytes, bytes], bool]
"""(public key, signed bytes, signature) -> whether the signature holds: `check`, or a test's stand-in."""


class Parts(NamedTuple):
    """A COSE_Sign1, taken apart and not verified.  payload: None when it is detached."""

    protected: bytes
    kid: bytes
    payload: bytes | None
    signature: bytes


class Verified(NamedTuple):
    """What `verify1` vouches for: these bytes were signed by the key of this id."""

    kid: bytes
    payload: bytes


def signer(key_seed: bytes) -> Sign:
    """A function that signs with this key.  key_seed: 32 bytes, RFC 8032 5.1.5; its key pair is derived once, here."""
    if len(key_seed) != SEED_BYTES:
        raise LocalError(f"signing key: expected {SEED_BYTES} bytes, found {len(key_seed)}")
    from nacl import bindings  # 4 MB that only who signs or verifies needs

    _, secret = bindings.crypto_sign_seed_keypair(key_seed)
    crypto_sign = bindings.crypto_sign

    def sign(data: bytes) -> bytes:
        signature: bytes = crypto_sign(data, secret)[:SIGNATURE_BYTES]
        return signature

    return sign


def check(public: bytes, signed: bytes, signature: bytes) -> bool:
    """Whether `signature` (64 bytes) over `signed` holds for the 32-byte key `public`."""
    if len(public) != PUBLIC_BYTES or len(signature) != SIGNATURE_BYTES:
        return False
    crypto_sign_open, bad_signature = _opener()
    try:
        crypto_sign_open(signature + signed, public)
    except bad_signature:
        return False
    return True


def key_id(public: bytes) -> bytes:
    """What names a key in a header: the first 16 hex digits of the SHA-256 of its 32 bytes, as ASCII."""
    return hashlib.sha256(public).hexdigest()[:16].encode()


def sign1(payload: bytes, *, key_seed: bytes, kid: bytes, external_aad: bytes = b"", detached: bool = False) -> bytes:
    """A tagged COSE_Sign1 over `payload`.

    key_seed: 32 bytes, RFC 8032 5.1.5.  kid: at most KID_BYTES_MAX bytes.  detached: leave the payload out.
    """
    return sign1_by(payload, sign=signer(key_seed), kid=kid, external_aad=external_aad, detached=detached)


def sign1_by(payload: bytes, *, sign: Sign, kid: bytes, external_aad: bytes = b"", detached: bool = False) -> bytes:
    """The same with a function that signs, for who has many to sign or keeps the key elsewhere."""
    if not 0 < len(kid) <= KID_BYTES_MAX:
        raise LocalError(f"key id: expected 1 to {KID_BYTES_MAX} bytes, found {len(kid)}")
    protected = codec.dumps({_ALGORITHM: _EDDSA, _KID: kid})
    signature = sign(to_be_signed(protected, external_aad, payload))
    if len(signature) != SIGNATURE_BYTES:
        raise LocalError(f"signature: expected {SIGNATURE_BYTES} bytes, found {len(signature)}")
    return _TAG + codec.dumps([protected, {}, None if detached else payload, signature])


def public_key(key_seed: bytes) -> bytes:
    """The 32-byte Ed25519 public key of a seed."""
    if len(key_seed) != SEED_BYTES:
        raise LocalError(f"signing key: expected {SEED_BYTES} bytes, found {len(key_seed)}")
    from nacl import bindings

    public: bytes = bindings.crypto_sign_seed_keypair(key_seed)[0]
    return public


def parse1(message: bytes, *, who: str = "", bytes_max: int = CBOR_BYTES_MAX) -> Parts:
    """The parts of a tagged COSE_Sign1.  Checks its shape, not its signature.  Raises CoseError, LimitError."""
    if len(message) > bytes_max:
        raise LimitError(f"{who or 'COSE'}: at most {bytes_max} bytes, found {len(message)}")
    if message[:1] != _TAG:
        raise CoseError("expected a COSE_Sign1 (CBOR tag 18)", who=who)
    try:
        match codec.loads(message[1:], who=who, bytes_max=bytes_max):
            case [bytes(protected), dict(unprotected), (None | bytes()) as payload, bytes(signature)]:
                header = codec.loads(protected, who=who)
            case _:
                raise CoseError("expected [protected, unprotected, payload, signature]", who=who)
    except CoseError:
        raise
    except CodecError as error:
        raise CoseError(f"COSE_Sign1: {error}") from None
    if len(signature) != SIGNATURE_BYTES or not isinstance(header, dict):
        raise CoseError(f"expected a map of headers and a signature of {SIGNATURE_BYTES} bytes", who=who)
    if header.get(_ALGORITHM) != _EDDSA:
        raise CoseError(f"algorithm: expected EdDSA (-8), found {header.get(_ALGORITHM)!r:.60}", who=who)
    unknown = [label for label in [*header, *unprotected] if label not in (_ALGORITHM, _KID)]
    if unknown or _ALGORITHM in unprotected or (_KID in header) == (_KID in unprotected):
        raise CoseError("headers: expected algorithm (protected) and one key id, and nothing else", who=who)
    kid = header.get(_KID, unprotected.get(_KID))
    if not isinstance(kid, bytes) or not 0 < len(kid) <= KID_BYTES_MAX:
        raise CoseError(f"key id: expected 1 to {KID_BYTES_MAX} bytes", who=who)
    return Parts(protected, kid, payload, signature)


def verify1(
    message: bytes,
    *,
    lookup: Callable[[bytes], bytes | None],
    payload: bytes | None = None,
    external_aad: bytes = b"",
    who: str = "",
    bytes_max: int = CBOR_BYTES_MAX,
    verify: Verify | None = None,
) -> Verified:
    """Key id and payload of `message`, once its signature holds.

    lookup: key id -> 32-byte public key, or None.  payload: where it is detached, and only there.  verify: `check`.
    Raises UnknownSignerError when lookup knows no key, CoseError when anything else is wrong, LimitError.
    """
    parts = parse1(message, who=who, bytes_max=bytes_max)
    if (parts.payload is None) == (payload is None):
        raise CoseError("expected the payload either in the message or beside it, found both or neither", who=who)
    signed = parts.payload if parts.payload is not None else payload
    assert signed is not None
    public = lookup(parts.kid)
    if public is None:
        raise UnknownSignerError(f"key id {parts.kid.hex()}: no key of this id is known", who=who)
    if len(public) != PUBLIC_BYTES:
        raise LocalError(f"public key: expected {PUBLIC_BYTES} bytes, found {len(public)}")
    if not (verify or check)(public, to_be_signed(parts.protected, external_aad, signed), parts.signature):
        raise CoseError("the signature does not match", who=who)
    return Verified(parts.kid, signed)


def to_be_signed(protected: bytes, external_aad: bytes, payload: bytes) -> bytes:
    """Sig_structure, RFC 9052 4.4: the array ["Signature1", protected, external_aad, payload]."""
    return b"".join(
        (
            _SIGNATURE1,
            codec.bytes_head(len(protected)),
            protected,
            codec.bytes_head(len(external_aad)),
            external_aad,
            codec.bytes_head(len(payload)),
            payload,
        )
    )


@functools.cache
def _opener() -> tuple[Callable[[bytes, bytes], bytes], type[Exception]]:
    """libsodium's verification and its error, looked up once: an import statement costs 1 us at each call."""
    from nacl import bindings
    from nacl.exceptions import BadSignatureError

    return bindings.crypto_sign_open, BadSignatureError
