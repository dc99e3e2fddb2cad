"""The envelope of every message: who sent it, when in that sender's life, to which topic.  COSE_Sign1, RFC 9052 4.2.

Protected header, in this order: {1: -8 (EdDSA), 4: kid = device id, -70001: [boot, seq], -70002: flags (absent if 0)};
unprotected header: empty.  external_aad is the topic, so nothing can be replayed elsewhere.  The labels below -65536
are private use (RFC 9052 3.1).  Flags: 1 the payload is zstd, 2 it is a COSE_Encrypt0 (of the zstd, when both).
The shape is fixed, so it is written and read by hand: strict (exactly this encoding or CoseError) and without a
general decoder before the signature is checked.

Decides whether these bytes are an envelope of a known sender for this topic.  Leaves to others: whether it was here
before (replay.py), what the sender may do (roster.py), what the payload means (messages/).
Invariants: open_(seal(p)) == p; a changed bit anywhere is refused; nothing is allocated past the bound of the topic's
kind, compressed or not.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Final, NamedTuple, Protocol

from edgeswarm.errors import CodecError, CoseError, LimitError, LocalError, UnknownSignerError
from edgeswarm.limits import (
    COMPRESS_BYTES_MIN,
    DEVICE_ID_CHARS_MAX,
    ENVELOPE_OVERHEAD_BYTES_MAX,
    INBOX_BYTES_MAX,
)
from edgeswarm.wire import codec, cose

SEQ_MAX: Final = (1 << 64) - 1
ZSTD, ENCRYPTED = 1, 2  # flags

_BOOT_SEQ: Final = b"\x3a\x00\x01\x11\x70"  # -70001
_FLAGS: Final = b"\x3a\x00\x01\x11\x71"  # -70002
_ALGORITHM_KID: Final = b"\x01\x27\x04"  # 1: -8, 4:


class Opened(NamedTuple):
    """An envelope whose signature holds."""

    sender: str
    boot: int
    seq: int
    payload: bytes
    encrypted: bool = False


class Cipher(Protocol):
    """Content encryption of a cell (encryption.py).  aad: the topic and the sender's header."""

    def encrypt(self, plain: bytes, aad: bytes, *, sender: str, boot: int) -> bytes: ...

    def decrypt(self, message: bytes, aad: bytes, *, sender: str, boot: int) -> bytes: ...


def seal(
    payload: bytes,
    *,
    topic: str,
    sender: str,
    boot: int,
    seq: int,
    sign: cose.Sign,
    cipher: Cipher | None = None,
    compress: bool = True,
) -> bytes:
    """A signed envelope around `payload`.

    sender: the device id.  boot, seq: 0 to 2^64-1, a pair never used before by this device.  sign: see cose.signer.
    cipher: encrypts the content.  compress: try zstd on payloads of COMPRESS_BYTES_MIN and more (kept when shorter).
    """
    flags = 0
    if compress and len(payload) >= COMPRESS_BYTES_MIN:
        squeezed: bytes = _compressor().compress(payload)
        if len(squeezed) < len(payload):
            payload, flags = squeezed, ZSTD
    if cipher is not None:
        flags |= ENCRYPTED
    protected = _protected(sender, boot, seq, flags)
    external_aad = topic.encode()
    if cipher is not None:
        payload = cipher.encrypt(payload, protected + external_aad, sender=sender, boot=boot)
    signature = sign(cose.to_be_signed(protected, external_aad, payload))
    if len(signature) != cose.SIGNATURE_BYTES:
        raise LocalError(f"signature: expected {cose.SIGNATURE_BYTES} bytes, found {len(signature)}")
    return b"".join(
        (
            b"\xd2\x84",
            codec.bytes_head(len(protected)),
            protected,
            b"\xa0",
            codec.bytes_head(len(payload)),
            payload,
            b"\x58\x40",
            signature,
        )
    )


def open_(
    data: bytes,
    *,
    topic: str,
    lookup: Callable[[str], bytes | None],
    verify: cose.Verify = cose.check,
    bytes_max: int = INBOX_BYTES_MAX,
    cipher: Cipher | None = None,
) -> Opened:
    """Sender, boot, seq and payload of `data`, once its signature holds for `topic`.

    lookup: device id -> its 32-byte public key now, or None when it is not in the roster.  bytes_max: of the payload,
    compressed and decompressed: topics.RULES[kind].bytes_max.  cipher: where the cell encrypts; then an envelope in the
    clear is refused.
    Raises UnknownSignerError, CoseError, LimitError.
    """
    if len(data) > bytes_max + ENVELOPE_OVERHEAD_BYTES_MAX:
        raise LimitError(f"envelope: at most {bytes_max + ENVELOPE_OVERHEAD_BYTES_MAX} bytes, found {len(data)}")
    parts = parse(data)
    sender = parts.sender
    public = lookup(sender)
    if public is None:
        raise UnknownSignerError("not in the roster", who=sender)
    external_aad = topic.encode()
    if not verify(public, cose.to_be_signed(parts.protected, external_aad, parts.payload), parts.signature):
        raise CoseError(f"the signature does not hold for topic {topic}", who=sender)
    payload = parts.payload
    if parts.flags & ENCRYPTED:
        if cipher is None:
            raise CoseError("the content is encrypted; this cell has no content key", who=sender)
        payload = cipher.decrypt(payload, parts.protected + external_aad, sender=sender, boot=parts.boot)
    elif cipher is not None:
        raise CoseError("the content is not encrypted; this cell encrypts", who=sender)
    if parts.flags & ZSTD:
        payload = _decompress(payload, bytes_max, sender)
    if len(payload) > bytes_max:
        raise LimitError(f"{sender}: payload: at most {bytes_max} bytes, found {len(payload)}")
    return Opened(sender, parts.boot, parts.seq, payload, bool(parts.flags & ENCRYPTED))


class Parts(NamedTuple):
    """An envelope, taken apart and not verified."""

    protected: bytes
    sender: str
    boot: int
    seq: int
    flags: int
    payload: bytes
    signature: bytes


def parse(data: bytes) -> Parts:
    """The parts of an envelope.  Checks its shape, not its signature.  Raises CoseError."""
    try:
        if data[:2] != b"\xd2\x84":
            raise CoseError("envelope: expected a COSE_Sign1 of four parts (d2 84)")
        protected, at = codec.read_bytes(data, 2)
        if data[at : at + 1] != b"\xa0":
            raise CoseError("envelope: expected an empty unprotected header")
        payload, at = codec.read_bytes(data, at + 1)
        if data[at : at + 2] != b"\x58\x40" or len(data) != at + 2 + cose.SIGNATURE_BYTES:
            raise CoseError(f"envelope: expected a signature of {cose.SIGNATURE_BYTES} bytes, and the end after it")
        sender, boot, seq, flags = _parse_protected(protected)
    except CoseError:
        raise
    except CodecError as error:
        raise CoseError(f"envelope: {error}") from None
    return Parts(protected, sender, boot, seq, flags, payload, data[at + 2 :])


def _parse_protected(protected: bytes) -> tuple[str, int, int, int]:
    """Sender, boot, seq, flags."""
    count = protected[:1]
    if count not in (b"\xa3", b"\xa4") or protected[1:4] != _ALGORITHM_KID:
        raise CoseError("envelope: header: expected EdDSA, a key id, [boot, seq] and at most flags, in this order")
    kid, at = codec.read_bytes(protected, 4)
    if not 0 < len(kid) <= DEVICE_ID_CHARS_MAX or not kid.isascii():
        raise CoseError(f"envelope: key id: expected 1 to {DEVICE_ID_CHARS_MAX} ASCII characters")
    if protected[at : at + 6] != _BOOT_SEQ + b"\x82":
        raise CoseError("envelope: header: expected -70001: [boot, seq]")
    boot, at = codec.read_uint(protected, at + 6)
    seq, at = codec.read_uint(protected, at)
    flags = 0
    if count == b"\xa4":
        if protected[at : at + 5] != _FLAGS:
            raise CoseError("envelope: header: expected -70002: flags")
        flags, at = codec.read_uint(protected, at + 5)
        if not 0 < flags <= ZSTD | ENCRYPTED:
            raise CoseError(f"envelope: flags: expected 1 to 3, found {flags}")
    if at != len(protected):
        raise CoseError("envelope: header: expected its end")
    return kid.decode(), boot, seq, flags


def _protected(sender: str, boot: int, seq: int, flags: int) -> bytes:
    if not 0 <= boot <= SEQ_MAX or not 0 <= seq <= SEQ_MAX:
        raise LocalError(f"envelope: boot and seq: expected 0 to 2^64-1, found {boot}, {seq}")
    start = (b"\xa4" if flags else b"\xa3") + _protected_kid(sender) + codec.uint(boot) + codec.uint(seq)
    return start + _FLAGS + codec.uint(flags) if flags else start


@functools.lru_cache(maxsize=16)  # one sender in a process; several in tests and simulations
def _protected_kid(sender: str) -> bytes:
    kid = sender.encode()
    if not 0 < len(kid) <= DEVICE_ID_CHARS_MAX:
        raise LocalError(f"envelope: sender: expected 1 to {DEVICE_ID_CHARS_MAX} bytes, found {len(kid)}")
    return _ALGORITHM_KID + codec.bytes_head(len(kid)) + kid + _BOOT_SEQ + b"\x82"


# --- compression ----------------------------------------------------------------------------------------------------


@functools.cache
def _compressor() -> Any:
    import zstandard

    return zstandard.ZstdCompressor(level=1, write_content_size=True, write_checksum=False, write_dict_id=False)


def _decompress(data: bytes, bytes_max: int, who: str) -> bytes:
    """One zstd frame that says its size.  The bound is checked before anything is allocated."""
    import zstandard

    try:
        frame = zstandard.get_frame_parameters(data)
        if frame.content_size > bytes_max:  # an unknown size is 2^64-1
            raise LimitError(f"{who}: decompressed payload: at most {bytes_max} bytes, or its size is not said")
        # in one go, straight into a buffer of that size: a window, whatever the frame says of it, is not allocated
        plain: bytes = zstandard.ZstdDecompressor().decompress(data, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise CoseError(f"payload: expected one zstd frame: {error}", who=who) from None
    return plain
