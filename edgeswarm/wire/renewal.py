"""A device's certificate is renewed with a new key: when, what it asks, and what the issuer answers.  Pure.

Request: signed by the new key (the device has it), that again by the key of its certificate in the roster.  It comes as
a question of the device to the controller, or, when its certificate has expired and no broker lets it in, through the
listener for newcomers: there it is sealed to the issuer, and the answer to a fresh key of the request.  Answer: signed
by the issuer.  What the topic or the question names (fleet, device, nonce) stands in the external data of every
signature: what was made for one is worth nothing for another.
Invariants: open_request(sign_request(r)) == r, and the same for answers; every field is bounded.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Literal, NamedTuple, cast

from edgeswarm.errors import CodecError, LimitError, RemoteError
from edgeswarm.limits import (
    CELL_ROOTS_MAX,
    JOIN_REASON_CHARS_MAX,
    MQTT_BROKERS_MAX,
    PEM_BYTES_MAX,
    RENEWAL_ANSWER_BYTES_MAX,
    RENEWAL_REQUEST_BYTES_MAX,
    ROOT_ROTATION_BYTES_MAX,
    ROSTER_BYTES_MAX,
    TOKEN_URL_CHARS_MAX,
)
from edgeswarm.wire import codec, cose, topics
from edgeswarm.wire.certificate import SECONDS_MAX, Signatory

NONCE_BYTES: Final = 16
KEY_BYTES: Final = cose.PUBLIC_BYTES
METHOD: Final = "certificate.renew"
"""What the controller answers: the body is a signed request, the answer's a signed answer."""
Code = Literal["", "unknown", "forged", "too-early", "not-issued"]
USER: Final = "renew-"
_REQUEST_AAD: Final = "edgeswarm-renew-request-1"
_KEY_AAD: Final = "edgeswarm-renew-key-1"
_ANSWER_AAD: Final = "edgeswarm-renew-answer-1"
_LEVEL: Final = re.compile(r"[0-9a-f]{32}")


class RenewalError(RemoteError):
    """A request or an answer is malformed, not signed by whom it must be, or made for another question."""


@dataclass(frozen=True, slots=True)
class Request:
    """public: the new key.  old: the key that signs, of a certificate of the device in the roster.

    nonce: 16 bytes, of this question.  reply: X25519 key that the answer is sealed to; empty: it is not sealed.
    """

    fleet: str
    device: str
    public: bytes
    old: bytes
    nonce: bytes
    reply: bytes = b""


@dataclass(frozen=True, slots=True)
class Answer:
    """code, reason: why not, for programs and for people; the rest is there if code is empty.

    chain, ca: PEM, the device's certificate with the issuer's, and the roots.  roster: the one that names the new key.
    roots: statements of the fleet's changes of its root, in order.  join_brokers: of the listener for newcomers.
    """

    code: Code = ""
    reason: str = ""
    chain: bytes = field(default=b"", repr=False)
    ca: bytes = field(default=b"", repr=False)
    roster: bytes = field(default=b"", repr=False)
    roots: tuple[bytes, ...] = field(default=(), repr=False)
    join_brokers: tuple[str, ...] = ()
    now_s: int = 0


# --- when -----------------------------------------------------------------------------------------------------------


def due_at(not_before_s: int, not_after_s: int, device: str) -> int:
    """When to renew: day 20 of 30, give or take a day and a half, so that a thousand devices do not ask at once.

    Which moment it is follows from the id: the same at every start.
    """
    life_s = not_after_s - not_before_s
    spread = int.from_bytes(hashlib.sha256(device.encode()).digest()[:4], "big") / 0xFFFFFFFF
    return not_before_s + int(life_s * (2 / 3 + (spread - 0.5) / 10))


def may_renew(not_before_s: int, not_after_s: int, now_s: int, *, same_issuer: bool) -> bool:
    """Whether the issuer takes the request: not in the first sixth of a certificate's life, unless it changes issuers.

    Who asks all the time would make the roster anew all the time.
    """
    return not same_issuer or now_s >= not_before_s + (not_after_s - not_before_s) // 6


# --- topics of the listener for newcomers -----------------------------------------------------------------------------


class Topic(NamedTuple):
    """es/1/<fleet>/join/renew-<device>/<nonce, hex>/request or answer; `renew-<device>` is the MQTT user too."""

    fleet: str
    device: str
    nonce: bytes

    @property
    def user(self) -> str:
        return f"{USER}{self.device}"

    @property
    def request(self) -> str:
        return f"{topics.ROOT}/{self.fleet}/join/{self.user}/{self.nonce.hex()}/request"

    @property
    def answer(self) -> str:
        return f"{topics.ROOT}/{self.fleet}/join/{self.user}/{self.nonce.hex()}/answer"

    def aad(self, start: str) -> bytes:
        return f"{start}/{self.fleet}/{self.device}/{self.nonce.hex()}".encode()


def requests(fleet: str) -> str:
    """The filter of all that come through the listener for newcomers: joins are among them."""
    return f"{topics.ROOT}/{fleet}/join/+/+/request"


def parse_topic(topic: str) -> Topic | None:
    """Of a request; None where it is no renewal's."""
    match topic.split("/"):
        case ["es", "1", fleet, "join", user, nonce, "request"] if (
            topics.is_fleet(fleet) and user.startswith(USER) and _LEVEL.fullmatch(nonce)
        ):
            device = user.removeprefix(USER)
            return Topic(fleet, device, bytes.fromhex(nonce)) if topics.is_device(device) else None
    return None


# --- request --------------------------------------------------------------------------------------------------------


def sign_request(request: Request, *, new: Signatory, old: Signatory) -> bytes:
    """Signed by both keys, not sealed."""
    tree = ["renew", 1, request.fleet, request.device, request.public, request.old, request.nonce, request.reply]
    topic = Topic(request.fleet, request.device, request.nonce)
    inner = cose.sign1_by(codec.dumps(tree), sign=new.sign, kid=new.kid, external_aad=topic.aad(_KEY_AAD))
    return cose.sign1_by(inner, sign=old.sign, kid=old.kid, external_aad=topic.aad(_REQUEST_AAD))


def open_request(data: bytes, *, fleet: str, device: str) -> Request:
    """The request, once both keys that it names have signed it.  Raises RenewalError.

    Whether `old` is the device's is for the caller to judge.
    """
    who = f"renewal of {device}"
    if len(data) > RENEWAL_REQUEST_BYTES_MAX:
        raise RenewalError(f"at most {RENEWAL_REQUEST_BYTES_MAX} bytes, found {len(data)}", who=who)
    try:
        inner = cose.parse1(data, who=who).payload or b""
        request = _request(codec.loads(cose.parse1(inner, who=who).payload or b"", who=who), who)
        topic = Topic(request.fleet, request.device, request.nonce)
        cose.verify1(data, lookup=lambda _: request.old, external_aad=topic.aad(_REQUEST_AAD), who=who)
        cose.verify1(inner, lookup=lambda _: request.public, external_aad=topic.aad(_KEY_AAD), who=who)
    except (CodecError, LimitError) as error:
        raise RenewalError(str(error)) from None
    if (request.fleet, request.device) != (fleet, device):
        raise RenewalError(f"it is of {request.fleet}/{request.device}, expected {fleet}/{device}", who=who)
    return request


def _request(tree: object, who: str) -> Request:
    match tree:
        case ["renew", 1, str(fleet), str(device), bytes(public), bytes(old), bytes(nonce), bytes(reply)]:
            pass
        case _:
            raise RenewalError("expected [renew, 1, fleet, device, new key, old key, nonce, reply key]", who=who)
    if not topics.is_fleet(fleet) or not topics.is_device(device):
        raise RenewalError("expected a fleet's name and a device id", who=who)
    if (len(public), len(old), len(nonce)) != (KEY_BYTES, KEY_BYTES, NONCE_BYTES) or len(reply) not in (0, KEY_BYTES):
        raise RenewalError(f"expected keys of {KEY_BYTES} bytes and a nonce of {NONCE_BYTES}", who=who)
    return Request(fleet, device, public, old, nonce, reply)


# --- answer ---------------------------------------------------------------------------------------------------------


def sign_answer(answer: Answer, request: Request, issuer: Signatory) -> bytes:
    """Signed, not sealed."""
    tree = [
        "renewed",
        1,
        answer.code,
        answer.reason[:JOIN_REASON_CHARS_MAX],
        answer.chain,
        answer.ca,
        answer.roster,
        list(answer.roots),
        list(answer.join_brokers),
        answer.now_s,
    ]
    aad = Topic(request.fleet, request.device, request.nonce).aad(_ANSWER_AAD)
    return cose.sign1_by(codec.dumps(tree), sign=issuer.sign, kid=issuer.kid, external_aad=aad)


def read_answer(data: bytes) -> Answer:
    """What it says, its signature *not* checked: its roster may name who signed it.  Raises RenewalError."""
    who = "renewal: the issuer's answer"
    if len(data) > RENEWAL_ANSWER_BYTES_MAX:
        raise RenewalError(f"at most {RENEWAL_ANSWER_BYTES_MAX} bytes, found {len(data)}", who=who)
    try:
        return _answer(codec.loads(cose.parse1(data, who=who).payload or b"", who=who), who)
    except (CodecError, LimitError) as error:
        raise RenewalError(str(error)) from None


def check_answer(data: bytes, request: Request, issuer_of: Callable[[bytes], bytes | None]) -> None:
    """issuer_of: key id -> the issuer's public key, or None.  Raises RenewalError unless one of them signed it."""
    aad = Topic(request.fleet, request.device, request.nonce).aad(_ANSWER_AAD)
    try:
        cose.verify1(data, lookup=issuer_of, external_aad=aad, who="renewal: the issuer's answer")
    except (CodecError, LimitError) as error:
        raise RenewalError(str(error)) from None


def _answer(tree: object, who: str) -> Answer:
    match tree:
        case ["renewed", 1, str(code), str(reason), bytes(chain), bytes(ca), bytes(roster), list(roots), *rest]:
            pass
        case _:
            raise RenewalError("expected [renewed, 1, code, reason, chain, roots' certificates, roster, ...]", who=who)
    match rest:
        case [list(brokers), int(now_s)] if 0 <= now_s <= SECONDS_MAX and len(brokers) <= MQTT_BROKERS_MAX:
            pass
        case _:
            raise RenewalError("expected [..., brokers for newcomers, now]", who=who)
    urls = tuple(url for url in brokers if isinstance(url, str) and len(url) <= TOKEN_URL_CHARS_MAX)
    kept = tuple(item for item in roots if isinstance(item, bytes) and len(item) <= ROOT_ROTATION_BYTES_MAX)
    if len(urls) != len(brokers) or len(kept) != len(roots) or len(kept) > CELL_ROOTS_MAX:
        raise RenewalError("expected URLs of brokers, and changes of the root", who=who)
    if len(code) > 32 or len(reason) > JOIN_REASON_CHARS_MAX or max(len(chain), len(ca)) > PEM_BYTES_MAX:
        raise RenewalError("its reason or its certificates are past their bounds", who=who)
    if len(roster) > ROSTER_BYTES_MAX or (not code and not (chain and ca and roster)):
        raise RenewalError("expected certificates and a roster, or a reason", who=who)
    return Answer(cast(Code, code), reason, chain, ca, roster, kept, urls, now_s)


# --- boxes ----------------------------------------------------------------------------------------------------------


def seal_to_issuer(data: bytes, issuer: bytes) -> bytes:
    """issuer: Ed25519 public key."""
    from nacl import bindings

    return seal(data, bindings.crypto_sign_ed25519_pk_to_curve25519(issuer))


def open_as_issuer(data: bytes, issuer_seed: bytes) -> bytes:
    """Raises RenewalError."""
    from nacl import bindings

    _, secret = bindings.crypto_sign_seed_keypair(issuer_seed)
    return unseal(data, bindings.crypto_sign_ed25519_sk_to_curve25519(secret))


def seal(data: bytes, public: bytes) -> bytes:
    """public: X25519.  Raises RenewalError."""
    from nacl.exceptions import CryptoError
    from nacl.public import PublicKey, SealedBox

    try:
        return bytes(SealedBox(PublicKey(public)).encrypt(data))
    except CryptoError:
        raise RenewalError("renewal: the reply key is none") from None


def unseal(data: bytes, private: bytes) -> bytes:
    """private: X25519.  Raises RenewalError."""
    from nacl.exceptions import CryptoError
    from nacl.public import PrivateKey, SealedBox

    try:
        return bytes(SealedBox(PrivateKey(private)).decrypt(data))
    except CryptoError:
        raise RenewalError("renewal: it is sealed to another key, or was changed on its way") from None
