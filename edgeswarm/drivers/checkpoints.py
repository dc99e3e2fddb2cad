"""Checkpoints: one file per agent, CBOR with a MAC under a device key, replaced atomically.

File = magic 8 bytes, MAC 32 bytes (BLAKE2b, keyed), CBOR map.  What is read back is exactly what this device wrote,
or an error: a flipped bit, another device's file and a truncated one are refused alike.
"""

from __future__ import annotations

import hashlib
import hmac
from pathlib import Path
from typing import Any

import cbor2

from edgeswarm.drivers.files import write_whole
from edgeswarm.errors import LimitError, RemoteError
from edgeswarm.limits import CHECKPOINT_BYTES_MAX

MAGIC = b"ESCKPT1\n"
HEAD_BYTES = len(MAGIC) + 32


class CheckpointError(RemoteError):
    """A checkpoint is damaged, or was not written by this device."""


def seal(state: dict[str, Any], mac_key: bytes) -> bytes:
    """State -> file bytes.  Raises LimitError past CHECKPOINT_BYTES_MAX."""
    body = cbor2.dumps(state)
    if len(body) > CHECKPOINT_BYTES_MAX:
        raise LimitError(f"checkpoint: at most {CHECKPOINT_BYTES_MAX} bytes, found {len(body)}")
    return MAGIC + _mac(body, mac_key) + body


def unseal(data: bytes, mac_key: bytes, *, who: str) -> dict[str, Any]:
    """File bytes -> state.  Raises CheckpointError."""
    if data[: len(MAGIC)] != MAGIC or len(data) < HEAD_BYTES:
        raise CheckpointError("no checkpoint of version 1", who=who)
    body = data[HEAD_BYTES:]
    if not hmac.compare_digest(_mac(body, mac_key), data[len(MAGIC) : HEAD_BYTES]):
        raise CheckpointError("MAC does not match: damaged, or written by another device", who=who)
    state = cbor2.loads(body)
    if not isinstance(state, dict):
        raise CheckpointError("expected a map", who=who)
    return state


def write(path: Path, data: bytes) -> None:
    """Replace `path` by `data` so that a power cut leaves the old or the new file, never half of one."""
    write_whole(path, data)


def read(path: Path, mac_key: bytes) -> dict[str, Any] | None:
    """The state in `path`, None when there is none.  Raises CheckpointError or LimitError."""
    try:
        with open(path, "rb") as file:
            data = file.read(HEAD_BYTES + CHECKPOINT_BYTES_MAX + 1)
    except FileNotFoundError:
        return None
    if len(data) > HEAD_BYTES + CHECKPOINT_BYTES_MAX:
        raise LimitError(f"checkpoint {path}: at most {CHECKPOINT_BYTES_MAX} bytes")
    return unseal(data, mac_key, who=str(path))


def _mac(body: bytes, mac_key: bytes) -> bytes:
    return hashlib.blake2b(body, key=mac_key, digest_size=32).digest()
