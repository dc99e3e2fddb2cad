"""Secrets under a passphrase: Argon2id (RFC 9106) makes the key, XSalsa20-Poly1305 (libsodium's secretbox) the box.

Three lines of text: `edgeswarm-sealed 1`, then `argon2id <passes> <memory in bytes> <salt, hex>`, then nonce and box in
base64.  The cost is kept in the file, so that it may rise, and bounded when it is read, so that a file cannot take a
machine's memory.  Whoever changes a byte of it changes the key or breaks the box: both read as a wrong passphrase.
"""

from __future__ import annotations

import base64
import binascii
import os
import re
import stat
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from edgeswarm.drivers import keys
from edgeswarm.drivers.files import write_whole
from edgeswarm.errors import ConfigError, LocalError, PermissionDeniedError
from edgeswarm.limits import (
    PASSPHRASE_CHARS_MAX,
    PASSPHRASE_CHARS_MIN,
    SEALED_MEMORY_BYTES_MAX,
    SEALED_PASSES_MAX,
    SEALED_TEXT_BYTES_MAX,
)

HEADER: Final = b"edgeswarm-sealed 1"
SALT_BYTES: Final = 16
MEMORY_BYTES_MIN: Final = 8_192  # libsodium takes no less
_COST: Final = re.compile(rb"argon2id ([1-9][0-9]{0,3}) ([1-9][0-9]{0,11}) ([0-9a-f]{32})")
_KEY_FILE_BYTES_MAX: Final = 4_096

Passphrase = Callable[[], str]
"""Asks for the passphrase, once, when it turns out to be needed."""


class WrongPassphraseError(PermissionDeniedError):
    """The passphrase is not the one that it was sealed with, or the file was changed since."""


@dataclass(frozen=True, slots=True)
class Cost:
    """Of Argon2id.  The default is libsodium's MODERATE: 0.7 s and 256 MiB on a desktop of 2020."""

    passes: int = 3
    memory_bytes: int = 268_435_456


MODERATE: Final = Cost()


def is_sealed(data: bytes) -> bool:
    return data.startswith(HEADER + b"\n")


def seal(secret: bytes, passphrase: str, *, cost: Cost = MODERATE) -> bytes:
    """The text of a sealed file.  Raises LocalError for a passphrase out of its bounds."""
    import nacl.secret

    if not PASSPHRASE_CHARS_MIN <= len(passphrase) <= PASSPHRASE_CHARS_MAX:
        raise LocalError(
            f"expected a passphrase of {PASSPHRASE_CHARS_MIN} to {PASSPHRASE_CHARS_MAX} characters,"
            f" found {len(passphrase)}"
        )
    salt = os.urandom(SALT_BYTES)
    box = nacl.secret.SecretBox(_key(passphrase, salt, cost)).encrypt(secret)
    line = b"argon2id %d %d %s" % (cost.passes, cost.memory_bytes, salt.hex().encode())
    return b"\n".join((HEADER, line, base64.b64encode(bytes(box)), b""))


def unseal(data: bytes, passphrase: str, *, who: str) -> bytes:
    """The secret.  who: the file's name, for errors.  Raises ConfigError, WrongPassphraseError."""
    import nacl.exceptions
    import nacl.secret

    cost, salt, box = _parse(data, who)
    try:
        return nacl.secret.SecretBox(_key(passphrase, salt, cost)).decrypt(box)
    except nacl.exceptions.CryptoError:
        raise WrongPassphraseError(f"{who}: the passphrase is wrong, or the file was changed") from None


def _parse(data: bytes, who: str) -> tuple[Cost, bytes, bytes]:
    if len(data) > SEALED_TEXT_BYTES_MAX:
        raise ConfigError(f"{who}: at most {SEALED_TEXT_BYTES_MAX} bytes, found more")
    lines = data.split(b"\n")
    if len(lines) != 4 or lines[3] or lines[0] != HEADER:
        raise ConfigError(f"{who}: expected three lines, the first '{HEADER.decode()}'")
    found = _COST.fullmatch(lines[1])
    if found is None:
        raise ConfigError(f"{who}: line 2: expected 'argon2id <passes> <memory in bytes> <salt, 32 hex digits>'")
    cost = Cost(int(found[1]), int(found[2]))
    if cost.passes > SEALED_PASSES_MAX or not MEMORY_BYTES_MIN <= cost.memory_bytes <= SEALED_MEMORY_BYTES_MAX:
        raise ConfigError(
            f"{who}: line 2: at most {SEALED_PASSES_MAX} passes and {MEMORY_BYTES_MIN} to {SEALED_MEMORY_BYTES_MAX}"
            f" bytes of memory, found {cost.passes} and {cost.memory_bytes}"
        )
    try:
        box = base64.b64decode(lines[2], validate=True)
    except binascii.Error as error:
        raise ConfigError(f"{who}: line 3: {error}") from None
    if len(box) < 40:  # nonce 24, authenticator 16
        raise ConfigError(f"{who}: line 3: expected at least 40 bytes, found {len(box)}")
    return cost, bytes.fromhex(found[3].decode()), box


def _key(passphrase: str, salt: bytes, cost: Cost) -> bytes:
    import nacl.exceptions
    import nacl.pwhash

    text = unicodedata.normalize("NFC", passphrase).encode()
    try:
        return nacl.pwhash.argon2id.kdf(32, text, salt, opslimit=cost.passes, memlimit=cost.memory_bytes)
    except (MemoryError, nacl.exceptions.RuntimeError):
        raise LocalError(
            f"Argon2id needs {cost.memory_bytes >> 20} MiB of memory, which this machine refuses"
        ) from None


# --- keys -------------------------------------------------------------------------------------------------------------


def save_key(path: Path, seed: bytes, passphrase: str, *, cost: Cost = MODERATE) -> None:
    """Write the 32-byte seed of an Ed25519 key, sealed, mode 0600, whole or not at all."""
    if len(seed) != 32:
        raise LocalError(f"expected a seed of 32 bytes, found {len(seed)}")
    write_whole(path, seal(seed, passphrase, cost=cost))


def load_key(path: Path, passphrase: Passphrase | None) -> keys.SigningKey:
    """The key in `path`, sealed or plain (64 hex digits).  passphrase: None where nobody can be asked.

    Raises ConfigError if the file holds no key or is not there, PermissionDeniedError if others may read it,
    WrongPassphraseError, and LocalError for a sealed key when nobody can be asked.
    """
    data = _read(path)
    if not is_sealed(data):
        if not re.fullmatch(rb"[0-9a-f]{64}\n?", data):
            raise ConfigError(f"key {path}: expected 64 hex digits or a sealed key, found {len(data)} bytes of others")
        return keys.from_seed(bytes.fromhex(data.decode().strip()))
    if passphrase is None:
        raise LocalError(f"key {path}: it is sealed, and there is nobody to ask for its passphrase")
    seed = unseal(data, passphrase(), who=f"key {path}")
    if len(seed) != 32:
        raise ConfigError(f"key {path}: expected a seed of 32 bytes in it, found {len(seed)}")
    return keys.from_seed(seed)


def _read(path: Path) -> bytes:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        raise ConfigError(f"key {path}: is not there") from None
    except OSError as error:
        raise PermissionDeniedError(f"key {path}: {error.strerror}") from error
    with os.fdopen(descriptor, "rb") as file:
        mode = stat.S_IMODE(os.fstat(descriptor).st_mode)
        data = file.read(_KEY_FILE_BYTES_MAX + 1)
    if mode & 0o077:
        raise PermissionDeniedError(f"key {path}: mode {mode:04o}, expected 0600; chmod 600 {path}")
    if len(data) > _KEY_FILE_BYTES_MAX:
        raise ConfigError(f"key {path}: at most {_KEY_FILE_BYTES_MAX} bytes, found more")
    return data
