"""Compiled kernels on disk, each under a MAC of the device's own key.

A `.cwasm` is machine code: a flipped bit may crash the process that loads it, or run with wrong results.  So what is
read back is taken only if this device wrote it, for exactly this wasm, wasmtime, processor, engine settings and build
policy; anything else counts as absent, is deleted, and is compiled again.  Nothing is loaded here.
File: 8 magic bytes, header length (u32), header (JSON), MAC (32 bytes), code.  MAC = BLAKE2b over header and code.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import importlib.metadata
import json
import os
import platform
import struct
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from edgeswarm.errors import LocalError
from edgeswarm.jail.engine import settings_digest
from edgeswarm.limits import CWASM_BYTES_MAX, CWASM_CACHE_BYTES_MAX

_MAGIC: Final = b"ESCWASM1"
_LENGTH: Final = struct.Struct("<I")
_HEADER_BYTES_MAX: Final = 4096
_MAC_BYTES: Final = 32
_PURPOSE: Final = b"es-cwasm"
_DRAFT_NS_MAX: Final = 3_600_000_000_000
"""No draft is written for so long: who began an older one has died."""


@dataclass(frozen=True, slots=True)
class Binding:
    """What compiled code is good for, besides its wasm."""

    wasmtime: str
    arch: str
    processor: str
    """SHA-256 of the processor's feature flags."""
    settings: str
    policy: str

    def header(self, wasm: bytes) -> bytes:
        fields = {
            "arch": self.arch,
            "policy": self.policy,
            "processor": self.processor,
            "settings": self.settings,
            "wasm": hashlib.sha256(wasm).hexdigest(),
            "wasmtime": self.wasmtime,
        }
        return json.dumps(fields, sort_keys=True, separators=(",", ":")).encode("ascii")


def binding_here(*, policy_digest: str) -> Binding:
    """The binding of this machine, now."""
    return Binding(
        wasmtime=importlib.metadata.version("wasmtime"),
        arch=platform.machine(),
        processor=hashlib.sha256(_processor_flags()).hexdigest(),
        settings=settings_digest(),
        policy=policy_digest,
    )


def _processor_flags() -> bytes:
    """The `flags` (x86) or `Features` (arm) lines of /proc/cpuinfo, each once."""
    try:
        lines = Path("/proc/cpuinfo").read_bytes().splitlines()
    except OSError:
        return b""
    return b"\n".join(sorted({line for line in lines if line.lower().startswith((b"flags", b"features", b"cpu part"))}))


class CwasmCache:
    """One folder of compiled kernels.  `rejected` counts files that were there and could not be trusted.

    binding: what code from here is good for; another one may be set, between two calls.
    """

    def __init__(self, folder: Path, mac_key: bytes, binding: Binding) -> None:
        if not 16 <= len(mac_key) <= 64:
            raise LocalError(f"key of the code cache: 16 to 64 bytes expected, found {len(mac_key)}")
        self._folder = folder
        self._key = mac_key
        self.binding = binding
        self.rejected = 0

    def get(self, wasm: bytes) -> bytes | None:
        """The code for this module if we compiled it, for this machine; None otherwise."""
        header = self.binding.header(wasm)
        path = self._path(header)
        content = _read(path)
        if content is None:
            return None
        code = self._open(content, header)
        with contextlib.suppress(OSError):  # a disk that takes no writes; another process that was faster
            if code is None:
                self.rejected += 1
                path.unlink()
            else:
                os.utime(path)
        return code

    def put(self, wasm: bytes, code: bytes) -> bool:
        """Keep the code; False when the disk does not take it, which costs a compilation at the next start."""
        header = self.binding.header(wasm)
        path = self._path(header)
        content = b"".join((_MAGIC, _LENGTH.pack(len(header)), header, self._mac(header, code), code))
        draft = path.with_suffix(f".{os.getpid()}.tmp")
        try:
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
            os.replace(draft, path)
        except OSError:
            with contextlib.suppress(OSError):
                draft.unlink(missing_ok=True)
            return False
        with contextlib.suppress(OSError):
            self._prune(keep=path)
        return True

    def drop(self, wasm: bytes) -> None:
        """Keep the code for this module no longer."""
        with contextlib.suppress(OSError):
            self._path(self.binding.header(wasm)).unlink(missing_ok=True)

    def _path(self, header: bytes) -> Path:
        return self._folder / f"{hashlib.sha256(header).hexdigest()[:40]}.cwasm"

    def _mac(self, header: bytes, code: bytes) -> bytes:
        keyed = hashlib.blake2b(key=self._key, person=_PURPOSE, digest_size=_MAC_BYTES)
        keyed.update(_LENGTH.pack(len(header)))
        keyed.update(header)
        keyed.update(code)
        return keyed.digest()

    def _open(self, content: bytes, header: bytes) -> bytes | None:
        """The code of a file whose header is the expected one and whose MAC is right."""
        start = b"".join((_MAGIC, _LENGTH.pack(len(header)), header))
        if not content.startswith(start) or len(content) < len(start) + _MAC_BYTES:
            return None
        mac = content[len(start) : len(start) + _MAC_BYTES]
        code = content[len(start) + _MAC_BYTES :]
        return code if hmac.compare_digest(mac, self._mac(header, code)) else None

    def _prune(self, *, keep: Path) -> None:
        """Delete the longest unused files while the folder holds more than its bound, and drafts of the dead."""
        files = []
        for path in self._folder.iterdir():
            with contextlib.suppress(OSError):  # another process is pruning, too
                files.append((path.stat(follow_symlinks=False), path))
        files.sort(key=lambda entry: entry[0].st_mtime_ns)
        total = sum(stat.st_size for stat, _ in files)
        now_ns = time.time_ns()
        for stat, path in files:
            if path.suffix == ".tmp":
                is_over = now_ns - stat.st_mtime_ns > _DRAFT_NS_MAX
            else:
                is_over = path.suffix == ".cwasm" and path != keep and total > CWASM_CACHE_BYTES_MAX
            if is_over:
                with contextlib.suppress(OSError):
                    path.unlink()
                    total -= stat.st_size


def _read(path: Path) -> bytes | None:
    """A file's content, as far as one of ours can go; None where there is none, or something else."""
    try:
        # what is no file (a FIFO) must not be waited for
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
        with os.fdopen(descriptor, "rb") as file:
            return file.read(CWASM_BYTES_MAX + _HEADER_BYTES_MAX)
    except OSError:
        return None
