"""Content encryption where the broker may carry messages but not read them: COSE_Encrypt0, A256GCM (RFC 9053 4.1).

Message: tag 16, [protected {1: 3 (A256GCM), 4: key epoch, 3 bytes big-endian}, unprotected {5: nonce, 12 bytes},
ciphertext with its tag of 16 bytes].  The external data is the envelope's header and topic, so a ciphertext is worth
nothing in another envelope.  It is the payload of the signed envelope: signed by one device, readable by the cell.

The key of a message is derived from the epoch's key for its sender and that sender's boot (HKDF-SHA-256, RFC 5869), so
what follows is counted per device and start, not per cell: a busy cell would have spent one common key in five days.
Nonces are 96 random bits.  A counter is unique only while a device's state is neither copied nor rolled back, and a
nonce used twice gives the authentication key away; 2^32 random ones collide with probability 2^-33 (NIST SP 800-38D
8.3), and MESSAGES_PER_BOOT_MAX stops there.

Decides nothing about who gets the keys: they come from the fleet's side, per cell and epoch.  `random_bytes` is an
argument.  `cryptography` is imported when a cipher is made: 8 MB that a cell in the clear does not pay.
"""

from __future__ import annotations

import functools
import hmac
from collections.abc import Callable, Mapping
from typing import Any, Final

from edgeswarm.errors import CodecError, CoseError, LimitError, LocalError
from edgeswarm.limits import DEVICES_MAX as SENDERS_MAX
from edgeswarm.wire import codec

KEY_BYTES: Final = 32
NONCE_BYTES: Final = 12
TAG_BYTES: Final = 16
EPOCHS_MAX: Final = 8
"""Keys held at one time: the current one, and those under which late and retained messages still come."""
MESSAGES_PER_BOOT_MAX: Final = 1 << 32
"""Messages of one sender's boot under one key epoch, NIST SP 800-38D 8.3; at 1,000 messages/s that is 50 days."""

_TAG: Final = b"\xd0"  # tag 16, COSE_Encrypt0, RFC 9052 5.2
_A256GCM: Final = 3
_EPOCH_BYTES: Final = 3


class CellCipher:
    """Encrypts with the newest epoch's key, decrypts with any that it holds."""

    __slots__ = ("_aead", "_count", "_newest", "_random_bytes")

    def __init__(self, keys: Mapping[int, bytes], *, random_bytes: Callable[[int], bytes]) -> None:
        """keys: key epoch (0 to 2^24-1) -> 32 bytes.  random_bytes: os.urandom.  Raises LocalError."""
        if not 0 < len(keys) <= EPOCHS_MAX:
            raise LocalError(f"content keys: expected 1 to {EPOCHS_MAX}, found {len(keys)}")
        if any(not 0 <= epoch < 1 << 8 * _EPOCH_BYTES or len(key) != KEY_BYTES for epoch, key in keys.items()):
            raise LocalError(f"content keys: expected epochs from 0 and {KEY_BYTES} bytes each")
        aesgcm, held = _aesgcm(), dict(keys)

        def aead(epoch: int, sender: str, boot: int) -> Any:
            return aesgcm(derive_key(held[epoch], sender=sender, boot=boot))

        self._aead = {epoch: functools.lru_cache(SENDERS_MAX)(functools.partial(aead, epoch)) for epoch in held}
        self._newest = max(held)
        self._random_bytes = random_bytes
        self._count = 0

    @property
    def epoch(self) -> int:
        """The one that new messages are encrypted under."""
        return self._newest

    def encrypt(self, plain: bytes, aad: bytes, *, sender: str, boot: int) -> bytes:
        """A tagged COSE_Encrypt0.  Raises LimitError when this epoch has carried all the messages that it may."""
        if self._count >= MESSAGES_PER_BOOT_MAX:
            raise LimitError(f"content key epoch {self._newest}: at most {MESSAGES_PER_BOOT_MAX} messages")
        self._count += 1
        nonce = self._random_bytes(NONCE_BYTES)
        protected = _protected(self._newest)
        aead = self._aead[self._newest](sender, boot)
        ciphertext: bytes = aead.encrypt(nonce, plain, _structure(protected, aad))
        return b"".join((_TAG, b"\x83", _bytes(protected), b"\xa1\x05\x4c", nonce, _bytes(ciphertext)))

    def decrypt(self, message: bytes, aad: bytes, *, sender: str, boot: int) -> bytes:
        """What `sender` encrypted.  Raises CoseError: malformed, of an epoch not held, or changed."""
        epoch, protected, nonce, ciphertext = _parse(message, sender)
        derived = self._aead.get(epoch)
        if derived is None:
            held = ", ".join(map(str, sorted(self._aead)))
            raise CoseError(f"content key epoch {epoch} is not held here, only {held}", who=sender)
        from cryptography.exceptions import InvalidTag

        try:
            plain: bytes = derived(sender, boot).decrypt(nonce, ciphertext, _structure(protected, aad))
        except InvalidTag:
            raise CoseError("the content does not decrypt", who=sender) from None
        return plain


def derive_key(key: bytes, *, sender: str, boot: int) -> bytes:
    """HKDF-SHA-256 (RFC 5869) without salt: 32 bytes for one sender's boot."""
    secret = hmac.digest(b"\0" * 32, key, "sha256")
    return hmac.digest(secret, f"edgeswarm-content-1/{sender}/{boot}".encode() + b"\x01", "sha256")


def _aesgcm() -> Callable[[bytes], Any]:
    try:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    except ImportError:
        raise LocalError(
            "this cell encrypts its contents, which needs the extra `encryption`: pip install 'edgeswarm[encryption]'"
        ) from None
    return AESGCM


def _parse(message: bytes, who: str) -> tuple[int, bytes, bytes, bytes]:
    """Epoch, protected header, nonce, ciphertext."""
    try:
        if message[:2] != _TAG + b"\x83":
            raise CoseError("expected a COSE_Encrypt0 of three parts (d0 83)", who=who)
        protected, at = codec.read_bytes(message, 2)
        if message[at : at + 3] != b"\xa1\x05\x4c":
            raise CoseError(f"expected a nonce of {NONCE_BYTES} bytes as the one unprotected header", who=who)
        nonce, at = codec.read_bytes(message, at + 2)
        ciphertext, at = codec.read_bytes(message, at)
    except CoseError:
        raise
    except CodecError as error:
        raise CoseError(f"COSE_Encrypt0: {error}", who=who) from None
    if at != len(message) or len(ciphertext) < TAG_BYTES:
        raise CoseError(f"COSE_Encrypt0: expected at least {TAG_BYTES} bytes of content, and the end after it", who=who)
    epoch = int.from_bytes(protected[-_EPOCH_BYTES:], "big")
    if protected != _protected(epoch):
        raise CoseError("COSE_Encrypt0: header: expected A256GCM and a key epoch", who=who)
    return epoch, protected, nonce, ciphertext


def _protected(epoch: int) -> bytes:
    """{1: 3, 4: epoch}."""
    return b"\xa2\x01" + bytes((_A256GCM,)) + b"\x04\x43" + epoch.to_bytes(_EPOCH_BYTES, "big")


def _structure(protected: bytes, aad: bytes) -> bytes:
    """Enc_structure, RFC 9052 5.3: ["Encrypt0", protected, external_aad]."""
    return b"\x83\x68Encrypt0" + _bytes(protected) + _bytes(aad)


def _bytes(data: bytes) -> bytes:
    return codec.bytes_head(len(data)) + data
