"""Ed25519 keys on disk: the device's, the publisher's, and the publishers this device trusts.

A private key is a file of 64 hex digits (the 32-byte seed, RFC 8032 5.1.5), mode 0600, refused when others can read it.
A public key is one line `ed25519 <64 hex digits> <comment>`; every `trust.d/*.pub` is a publisher whose agents may run.
Keys that protect local files are derived from the device's seed, one per purpose, and never leave this module's
callers.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
from dataclasses import dataclass, field
from pathlib import Path

from edgeswarm.drivers.files import write_whole
from edgeswarm.errors import ConfigError, PermissionDeniedError
from edgeswarm.ids import KeyId

PUB_LINE = re.compile(r"ed25519 ([0-9a-f]{64})(?: (.{0,200}))?\n?")
PUB_FILES_MAX = 1_000  # a device trusts a handful of publishers; a thousand files is somebody's mistake


def key_id(public: bytes) -> KeyId:
    """First 16 hex digits of the SHA-256 of the 32-byte public key."""
    return KeyId(hashlib.sha256(public).hexdigest()[:16])


@dataclass(frozen=True, slots=True)
class SigningKey:
    """An Ed25519 key pair.  seed: 32 bytes, never logged or printed."""

    seed: bytes = field(repr=False)
    public: bytes

    @property
    def id(self) -> KeyId:
        return key_id(self.public)

    def derive(self, purpose: str) -> bytes:
        """A 32-byte symmetric key for one purpose (at most 16 characters): BLAKE2b keyed by the seed."""
        return hashlib.blake2b(key=self.seed, person=purpose.encode(), digest_size=32).digest()


def from_seed(seed: bytes) -> SigningKey:
    """seed: 32 bytes."""
    import nacl.signing

    return SigningKey(seed, bytes(nacl.signing.SigningKey(seed).verify_key))


def load_or_make(path: Path) -> tuple[SigningKey, bool]:
    """The key in `path`, made now if there is none; True when it was made.

    Raises ConfigError if the file holds no key, PermissionDeniedError if others may read it.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return _make(path), True
    except OSError as error:
        raise PermissionDeniedError(f"key {path}: {error.strerror}") from error
    with os.fdopen(descriptor, "rb") as file:
        mode = os.fstat(descriptor).st_mode
        text = file.read(80)
    if stat.S_IMODE(mode) & 0o077:
        raise PermissionDeniedError(f"key {path}: mode {stat.S_IMODE(mode):04o}, expected 0600; chmod 600 {path}")
    if not re.fullmatch(rb"[0-9a-f]{64}\n?", text):
        raise ConfigError(f"key {path}: expected 64 hex digits, found {len(text)} bytes of something else")
    return from_seed(bytes.fromhex(text.decode().strip())), False


def _make(path: Path) -> SigningKey:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    key = from_seed(os.urandom(32))
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        return load_or_make(path)[0]  # somebody else made it in between
    with os.fdopen(descriptor, "w") as file:
        file.write(key.seed.hex() + "\n")
        file.flush()
        os.fsync(descriptor)
    return key


def local_key(directory: Path, key: SigningKey, purpose: str) -> bytes:
    """The 32-byte key that local files are sealed under: of `key`, or as it was kept when the device's key changed.

    Raises ConfigError, PermissionDeniedError.
    """
    path = directory / f"{purpose}.key"
    return load_or_make(path)[0].seed if path.exists() else key.derive(purpose)


def keep_local_key(directory: Path, key: SigningKey, purpose: str) -> None:
    """`key` goes: what was sealed under a key derived from it must still open."""
    path = directory / f"{purpose}.key"
    if not path.exists():
        write_whole(path, key.derive(purpose).hex().encode() + b"\n")


def pub_line(public: bytes, comment: str = "") -> str:
    return f"ed25519 {public.hex()} {comment}".rstrip() + "\n"


def read_pub(path: Path) -> bytes:
    """The 32-byte public key of a .pub file.  Raises ConfigError."""
    try:
        text = path.read_bytes()[:400].decode()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"public key {path}: {error}") from error
    found = PUB_LINE.fullmatch(text)
    if found is None:
        raise ConfigError(f"public key {path}: expected one line 'ed25519 <64 hex digits> <comment>'")
    return bytes.fromhex(found[1])


def trusted(directory: Path) -> dict[KeyId, bytes]:
    """Publishers of `directory`/*.pub, none if the folder is absent.  Raises ConfigError for a file without a key."""
    files = sorted(directory.glob("*.pub")) if directory.is_dir() else []
    if len(files) > PUB_FILES_MAX:
        raise ConfigError(f"{directory}: at most {PUB_FILES_MAX} public keys, found {len(files)}")
    keys = (read_pub(file) for file in files)
    return {key_id(public): public for public in keys}


def trust(directory: Path, public: bytes, comment: str) -> Path:
    """Write `public` among the trusted publishers; the file's path."""
    path = directory / f"{key_id(public)}.pub"
    write_whole(path, pub_line(public, comment).encode(), mode=0o644)
    return path
