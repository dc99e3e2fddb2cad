"""The token that a device joins with: what it must know before it trusts anybody, in one line of text.

`es1.<base64url CBOR [brokers, fleet, CA public key, id]>.<secret, base32>`.  The CA key is the issuer's (Ed25519): the
broker's certificate is checked with it before a byte of MQTT is spoken, and what the device asks is sealed to it.
The secret is never sent: an Ed25519 key is derived from it (HKDF-SHA256, RFC 5869), and the cell's log holds that key's
public half only, so that nothing in the log or the controller can join.
Invariants: parse(text(t)) == t; one token has one text (letters of the secret may be in either case); no error and no
repr shows the secret.  Pure.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
from dataclasses import dataclass, field
from typing import Final

from edgeswarm.errors import EdgeSwarmError, LocalError
from edgeswarm.limits import TOKEN_BROKERS_MAX, TOKEN_CHARS_MAX, TOKEN_URL_CHARS_MAX
from edgeswarm.wire import codec, cose, topics
from edgeswarm.wire.certificate import Signatory

PREFIX: Final = "es1"
SECRET_BYTES: Final = 16
ID_BYTES: Final = 8
_SALT: Final = b"edgeswarm-token-1"
_ID: Final = re.compile(r"[a-z2-7]{13}")
_URL: Final = re.compile(r"mqtts://[A-Za-z0-9._:\[\]-]+")


class TokenError(LocalError):
    """A text is not a token, or not all of one."""


@dataclass(frozen=True, slots=True)
class Token:
    """brokers: mqtts:// URLs of the bootstrap listener, in order.  ca: the issuer's public key, 32 bytes.

    id: [a-z2-7]{13}, the user name for the broker.  secret: 16 bytes, never shown.
    """

    brokers: tuple[str, ...]
    fleet: str
    ca: bytes
    id: str
    secret: bytes = field(repr=False)

    def signatory(self) -> Signatory:
        """The key that signs a request to join."""
        return Signatory.from_seed(signing_seed(self.secret, self.id))

    @property
    def public(self) -> bytes:
        """What the cell's log holds of the secret: 32 bytes."""
        return self.signatory().public


def is_token_id(text: str) -> bool:
    return _ID.fullmatch(text) is not None


def make(brokers: tuple[str, ...], fleet: str, ca: bytes, *, entropy: bytes) -> Token:
    """A new token.  entropy: 24 random bytes, 8 for the id and 16 for the secret.  Raises TokenError."""
    if len(entropy) != ID_BYTES + SECRET_BYTES:
        raise LocalError(f"token: expected {ID_BYTES + SECRET_BYTES} random bytes, found {len(entropy)}")
    id_ = _base32(entropy[:ID_BYTES])
    return _checked(Token(tuple(brokers), fleet, ca, id_, entropy[ID_BYTES:]))


def text_of(token: Token) -> str:
    """The whole token, secret and all: for the one who is to join, and for nothing that is kept.  Raises TokenError."""
    _checked(token)
    head = codec.dumps([list(token.brokers), token.fleet, token.ca, token.id])
    text = f"{PREFIX}.{base64.urlsafe_b64encode(head).rstrip(b'=').decode()}.{_base32(token.secret)}"
    if len(text) > TOKEN_CHARS_MAX:
        raise TokenError(f"token: at most {TOKEN_CHARS_MAX} characters, found {len(text)}: fewer or shorter brokers")
    return text


def parse(text: str) -> Token:
    """The token in `text`, blanks around it aside.  Raises TokenError, which shows nothing of the secret."""
    text = text.strip()
    if len(text) > TOKEN_CHARS_MAX:
        raise TokenError(f"token: at most {TOKEN_CHARS_MAX} characters, found {len(text)}")
    parts = text.split(".")
    if parts[0] != PREFIX:
        raise TokenError(f"token: expected a text that starts with {PREFIX!r} and a dot")
    if len(parts) != 3:
        raise TokenError(f"token: expected three parts with dots between, found {len(parts)}: is it all of it?")
    head = _unbase64(parts[1])
    try:
        match codec.loads(head, who="token"):
            case [list(brokers), str(fleet), bytes(ca), str(id_)] if all(isinstance(url, str) for url in brokers):
                token = Token(tuple(map(str, brokers)), fleet, ca, id_, _unbase32(parts[2]))
            case _:
                raise TokenError("token: expected [brokers, fleet, CA key, id] in its middle part")
    except TokenError:
        raise
    except EdgeSwarmError as error:
        raise TokenError(f"token: its middle part does not read: {error}") from None
    return _checked(token)


def signing_seed(secret: bytes, id_: str) -> bytes:
    """Seed (32 bytes) of the Ed25519 key of a token: HKDF-SHA256 of the secret, with the id as info."""
    if len(secret) != SECRET_BYTES:
        raise LocalError(f"token: expected a secret of {SECRET_BYTES} bytes, found {len(secret)}")
    return hkdf_sha256(secret, salt=_SALT, info=b"ed25519/" + id_.encode(), length=32)


def hkdf_sha256(key: bytes, *, salt: bytes, info: bytes, length: int) -> bytes:
    """RFC 5869 2.2 and 2.3.  length: 1 .. 8,160 bytes."""
    if not 0 < length <= 255 * 32:
        raise LocalError(f"HKDF: expected a length of 1 to 8160 bytes, found {length}")
    extracted = hmac.digest(salt or bytes(32), key, hashlib.sha256)
    block = out = b""
    count = 0
    while len(out) < length:
        count += 1
        block = hmac.digest(extracted, block + info + bytes((count,)), hashlib.sha256)
        out += block
    return out[:length]


# --- parts ------------------------------------------------------------------------------------------------------------


def _checked(token: Token) -> Token:
    """Raises TokenError."""
    if not 0 < len(token.brokers) <= TOKEN_BROKERS_MAX:
        raise TokenError(f"token: expected 1 to {TOKEN_BROKERS_MAX} brokers, found {len(token.brokers)}")
    for url in token.brokers:
        if len(url) > TOKEN_URL_CHARS_MAX or not _URL.fullmatch(url):
            raise TokenError(
                f"token: broker: expected mqtts://host:port of at most {TOKEN_URL_CHARS_MAX} characters,"
                f" found {url!r:.140}"
            )
    if not topics.is_fleet(token.fleet):
        raise TokenError(f"token: expected the name of a fleet, found {token.fleet!r:.80}")
    if len(token.ca) != cose.PUBLIC_BYTES:
        raise TokenError(f"token: expected a CA key of {cose.PUBLIC_BYTES} bytes, found {len(token.ca)}")
    if not is_token_id(token.id):
        raise TokenError(f"token: expected an id of 13 letters and digits of base32, found {token.id!r:.80}")
    if len(token.secret) != SECRET_BYTES:
        raise TokenError(f"token: expected a secret of {SECRET_BYTES} bytes, found {len(token.secret)}")
    return token


def _base32(data: bytes) -> str:
    return base64.b32encode(data).decode().rstrip("=").lower()


def _unbase32(text: str) -> bytes:
    text = text.lower()
    chars = len(_base32(bytes(SECRET_BYTES)))
    if not re.fullmatch(r"[a-z2-7]+", text) or len(text) != chars:
        raise TokenError(f"token: expected a last part of {chars} letters and digits of base32, found {len(text)}")
    data = base64.b32decode(text.upper() + "=" * (-len(text) % 8))
    if _base32(data) != text:
        raise TokenError("token: its last part is no encoding of 16 bytes: a character is wrong")
    return data


def _unbase64(text: str) -> bytes:
    try:
        data = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raise TokenError("token: its middle part is not base64url: a character is wrong or missing") from None
    if base64.urlsafe_b64encode(data).rstrip(b"=").decode() != text:
        raise TokenError("token: its middle part is not base64url: a character is wrong or missing")
    return data
