"""What a device asks to join a fleet, and what the issuer answers.  COSE_Sign1 over CBOR, sealed both ways.

Request: signed by the device's key (it holds it), that again by the token's key (it knows the secret), all sealed to
the issuer (X25519 form of its Ed25519 key).  Answer: signed by the issuer, sealed to a fresh key of the request.  The
broker sees the id of a token, a nonce and lengths.  Fleet, token and nonce, which the topic names, stand in the
external data of every signature: what was made for one question is worth nothing for another.
Invariants: open_request(seal_request(r)) == r, and the same for answers; every field is bounded (limits/).
Decides nothing about who may join.  Pure: sealing takes the randomness of libsodium, which nothing depends on.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final, NamedTuple

from edgeswarm.errors import CodecError, LimitError, LocalError
from edgeswarm.limits import JOIN_ANSWER_BYTES_MAX, JOIN_REQUEST_BYTES_MAX
from edgeswarm.wire import codec, cose, topics
from edgeswarm.wire.certificate import Signatory
from edgeswarm.wire.join_form import (
    KEY_BYTES,
    NONCE_BYTES,
    Answer,
    Code,
    Inventory,
    JoinError,
    Membership,
    Request,
    Status,
    answer_of,
    answer_tree,
    is_label,
    labels_of,
    request_of,
    request_tree,
)
from edgeswarm.wire.token import is_token_id

__all__ = [
    "NONCE_BYTES",
    "Answer",
    "Code",
    "ForgedError",
    "Inventory",
    "JoinError",
    "Membership",
    "Request",
    "Status",
    "Topic",
    "is_label",
    "labels_of",
    "new_reply_key",
    "open_answer",
    "open_request",
    "parse_topic",
    "requests",
    "seal_answer",
    "seal_request",
]

_REQUEST_AAD: Final = "edgeswarm-join-request-1"
_DEVICE_AAD: Final = "edgeswarm-join-device-1"
_ANSWER_AAD: Final = "edgeswarm-join-answer-1"
_LEVEL: Final = re.compile(r"[0-9a-f]{32}")


class Topic(NamedTuple):
    """es/1/<fleet>/join/<token>/<nonce, hex>/request or answer."""

    fleet: str
    token: str
    nonce: bytes

    @property
    def request(self) -> str:
        return f"{topics.ROOT}/{self.fleet}/join/{self.token}/{self.nonce.hex()}/request"

    @property
    def answer(self) -> str:
        return f"{topics.ROOT}/{self.fleet}/join/{self.token}/{self.nonce.hex()}/answer"

    def aad(self, start: str) -> bytes:
        return f"{start}/{self.fleet}/{self.token}/{self.nonce.hex()}".encode()


def requests(fleet: str) -> str:
    """The filter of all that ask to join `fleet`."""
    return f"{topics.ROOT}/{fleet}/join/+/+/request"


def parse_topic(topic: str) -> Topic:
    """Of a request.  Raises TopicError."""
    match topic.split("/"):
        case ["es", "1", fleet, "join", token, nonce, "request"] if (
            topics.is_fleet(fleet) and is_token_id(token) and _LEVEL.fullmatch(nonce)
        ):
            return Topic(fleet, token, bytes.fromhex(nonce))
    raise topics.TopicError(f"topic: expected {topics.ROOT}/<fleet>/join/<token>/<nonce>/request, found {topic!r:.200}")


# --- request ----------------------------------------------------------------------------------------------------------


def seal_request(request: Request, *, device: Signatory, token: Signatory, issuer: bytes) -> bytes:
    """What the device publishes.  issuer: Ed25519 public key out of the token.  Raises LocalError, LimitError."""
    tree = request_tree(request)
    request_of(tree, "")
    topic = Topic(request.fleet, request.token, request.nonce)
    inner = cose.sign1_by(codec.dumps(tree), sign=device.sign, kid=device.kid, external_aad=topic.aad(_DEVICE_AAD))
    outer = cose.sign1_by(inner, sign=token.sign, kid=token.kid, external_aad=topic.aad(_REQUEST_AAD))
    data = _seal(outer, _curve(issuer))
    if len(data) > JOIN_REQUEST_BYTES_MAX:
        raise LimitError(f"join: a request of at most {JOIN_REQUEST_BYTES_MAX} bytes, found {len(data)}")
    return data


def open_request(data: bytes, topic: Topic, *, issuer_seed: bytes, token_public: bytes | None) -> Request:
    """The request, once both signatures hold.  token_public: of the token that the topic names, None: there is none.

    Raises ForgedError, which holds the request, where only the token's signature does not; else JoinError.
    """
    if len(data) > JOIN_REQUEST_BYTES_MAX:
        raise JoinError(f"join: a request of at most {JOIN_REQUEST_BYTES_MAX} bytes, found {len(data)}")
    who = f"join {topic.token}"
    outer = _unseal(data, _private_curve(issuer_seed), who)
    try:
        inner = cose.parse1(outer, who=who).payload or b""
        request = request_of(codec.loads(cose.parse1(inner, who=who).payload or b"", who=who), who)
        cose.verify1(inner, lookup=lambda _: request.public, external_aad=topic.aad(_DEVICE_AAD), who=who)
    except CodecError as error:
        raise JoinError(str(error)) from None
    if (request.fleet, request.token, request.nonce) != topic:
        raise JoinError("its content is of another question than its topic", who=who)
    try:
        cose.verify1(outer, lookup=lambda _: token_public, external_aad=topic.aad(_REQUEST_AAD), who=who)
    except CodecError as error:
        raise ForgedError(f"by somebody without the token's secret: {error}", who=who, request=request) from None
    return request


class ForgedError(JoinError):
    """A request that no token signed.  request: what its device, whose own signature holds, says."""

    def __init__(self, message: str, *, who: str, request: Request) -> None:
        super().__init__(message, who=who)
        self.request = request


# --- answer -----------------------------------------------------------------------------------------------------------


def seal_answer(answer: Answer, topic: Topic, *, reply: bytes, issuer: Signatory) -> bytes:
    """What the issuer publishes.  reply: the X25519 key of the request.  Raises LocalError, LimitError."""
    tree = answer_tree(answer)
    answer_of(tree, "")
    signed = cose.sign1_by(codec.dumps(tree), sign=issuer.sign, kid=issuer.kid, external_aad=topic.aad(_ANSWER_AAD))
    data = _seal(signed, reply)
    if len(data) > JOIN_ANSWER_BYTES_MAX:
        raise LimitError(f"join: an answer of at most {JOIN_ANSWER_BYTES_MAX} bytes, found {len(data)}")
    return data


def open_answer(data: bytes, topic: Topic, *, reply_private: bytes, issuer: bytes) -> Answer:
    """The answer, once the issuer's signature holds.  reply_private: X25519.  Raises JoinError."""
    who = "join: the issuer's answer"
    if len(data) > JOIN_ANSWER_BYTES_MAX:
        raise JoinError(f"at most {JOIN_ANSWER_BYTES_MAX} bytes, found {len(data)}", who=who)
    try:
        signed = _unseal(data, reply_private, who)
        found = cose.verify1(signed, lookup=lambda _: issuer, external_aad=topic.aad(_ANSWER_AAD), who=who)
        return answer_of(codec.loads(found.payload, who=who), who)
    except CodecError as error:
        raise JoinError(str(error)) from None


# --- boxes ------------------------------------------------------------------------------------------------------------


def new_reply_key(random_bytes: Callable[[int], bytes]) -> tuple[bytes, bytes]:
    """(private, public) X25519 key of one question."""
    from nacl import bindings

    private = random_bytes(KEY_BYTES)
    return private, bindings.crypto_scalarmult_base(private)


def _curve(public: bytes) -> bytes:
    """The X25519 form of an Ed25519 public key."""
    from nacl import bindings
    from nacl.exceptions import CryptoError

    try:
        return bindings.crypto_sign_ed25519_pk_to_curve25519(public)
    except CryptoError:
        raise LocalError("join: the token's CA key is no Ed25519 key: is the token whole?") from None


def _private_curve(seed: bytes) -> bytes:
    from nacl import bindings

    _, secret = bindings.crypto_sign_seed_keypair(seed)
    return bindings.crypto_sign_ed25519_sk_to_curve25519(secret)


def _seal(data: bytes, public: bytes) -> bytes:
    from nacl.exceptions import CryptoError
    from nacl.public import PublicKey, SealedBox

    try:
        return bytes(SealedBox(PublicKey(public)).encrypt(data))
    except CryptoError:
        raise JoinError("join: the reply key is none") from None


def _unseal(data: bytes, private: bytes, who: str) -> bytes:
    from nacl.exceptions import CryptoError
    from nacl.public import PrivateKey, SealedBox

    try:
        return bytes(SealedBox(PrivateKey(private)).decrypt(data))
    except CryptoError:
        raise JoinError("it is sealed to another key, or was changed on its way", who=who) from None
