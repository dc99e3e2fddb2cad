"""Whose an agent file is: a COSE_Sign1 (RFC 9052) over the YAML header, which holds the hash of every section.

Decides whether a signature holds and whether its publisher is among the trusted; reads no key files.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from edgeswarm.agentfile.file import EXTERNAL_AAD, AgentFile, Signature
from edgeswarm.errors import CodecError, NotSignedError, SignatureError, UnknownPublisherError, UnknownSignerError
from edgeswarm.ids import KeyId
from edgeswarm.limits import AF_SIGNATURE_BYTES_MAX
from edgeswarm.wire import cose


def key_id(public: bytes) -> KeyId:
    """First 16 hex digits of the SHA-256 of a 32-byte Ed25519 public key."""
    return KeyId(hashlib.sha256(public).hexdigest()[:16])


def sign_header(header_bytes: bytes, publisher_key: bytes) -> bytes:
    """The content of the section `signature`.  publisher_key: the 32-byte Ed25519 seed."""
    kid = key_id(cose.public_key(publisher_key)).encode("ascii")
    return cose.sign1(header_bytes, key_seed=publisher_key, kid=kid, external_aad=EXTERNAL_AAD, detached=True)


def parse_signature(message: bytes, *, who: str, offset: int) -> Signature:
    """A signature, taken apart and not verified.  offset: of `message` in its file.  Raises SignatureError."""
    try:
        parts = cose.parse1(message, bytes_max=AF_SIGNATURE_BYTES_MAX)
    except CodecError as error:
        raise SignatureError(f"section signature: {error}; sign the file again", who=who, offset=offset) from None
    if parts.payload is not None:
        raise SignatureError("section signature: expected a detached payload, found one", who=who, offset=offset)
    kid = parts.kid.decode("ascii", errors="replace")
    if len(kid) != 16 or set(kid) - set("0123456789abcdef"):
        raise SignatureError(
            f"section signature: expected a key id of 16 hex digits, found {kid!r:.40}", who=who, offset=offset
        )
    return Signature(KeyId(kid), message)


def verify(af: AgentFile, trusted: Mapping[KeyId, bytes]) -> KeyId:
    """The publisher of `af`, once its signature holds under that publisher's key in `trusted`.

    trusted: key id -> 32-byte Ed25519 public key.  Raises NotSignedError, UnknownPublisherError, SignatureError.
    """
    if af.signature is None:
        raise NotSignedError("not signed; its publisher signs it with `edgeswarm agent sign`", who=af.who)
    publisher = af.signature.publisher
    try:
        cose.verify1(
            af.signature.message,
            lookup=lambda _: trusted.get(publisher),
            payload=af.header_bytes,
            external_aad=EXTERNAL_AAD,
            bytes_max=AF_SIGNATURE_BYTES_MAX,
        )
    except UnknownSignerError:
        raise UnknownPublisherError(
            f"publisher {publisher} is not trusted here ({len(trusted)} are); "
            f"if you trust it, put its public key into trust.d/{publisher}.pub",
            who=af.who,
        ) from None
    except CodecError:
        raise SignatureError(
            f"the signature of publisher {publisher} does not match the header: the file was changed after it was "
            "signed, or the key in trust.d is another one; get the file again or have it signed again",
            who=af.who,
        ) from None
    return publisher
