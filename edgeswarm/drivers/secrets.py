"""Passwords, tokens and certificates that agent files name: files in `secrets/` of the state directory.

The device's owner puts them there; an agent file can only name one.  They are read when they are used, so that a new
one needs no restart, and never logged.
"""

from __future__ import annotations

import os
import ssl
import stat
from pathlib import Path
from typing import Final

from edgeswarm.errors import ConfigError, PermissionDeniedError
from edgeswarm.limits import SECRET_BYTES_MAX

SECRETS: Final = "secrets"


def path_of(folder: Path, name: str, *, private: bool) -> Path:
    """The file `name` in `folder`.  private: it must be for this user only.

    Raises ConfigError where it is no plain file or too large, PermissionDeniedError where others can read it."""
    path = folder / name
    if "/" in name or name in ("", ".", ".."):
        raise ConfigError(f"secret {name!r}: expected the name of a file in {folder}")
    try:
        found = os.lstat(path)
    except OSError as error:
        raise ConfigError(f"secret {path}: {error.strerror}") from None
    if not stat.S_ISREG(found.st_mode) or found.st_size > SECRET_BYTES_MAX:
        raise ConfigError(f"secret {path}: expected a plain file of at most {SECRET_BYTES_MAX} bytes")
    if private and stat.S_IMODE(found.st_mode) & 0o077:
        mode = stat.S_IMODE(found.st_mode)
        raise PermissionDeniedError(f"secret {path}: mode {mode:04o}, expected 0600; chmod 600 {path}")
    return path


def read(folder: Path, name: str) -> str:
    """A password or token: the first line of the file.  Raises as `path_of`, and ConfigError for an empty one."""
    path = path_of(folder, name, private=True)
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            data = file.read(SECRET_BYTES_MAX)
        text = data.decode().split("\n", 1)[0].rstrip("\r")
    except OSError as error:
        raise ConfigError(f"secret {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"secret {path}: expected UTF-8") from None
    if not text or any(char < " " or char == "\x7f" for char in text):
        raise ConfigError(f"secret {path}: expected a first line without control characters")
    return text


def tls_context(folder: Path, *, ca: str = "", cert: str = "", key: str = "") -> ssl.SSLContext:
    """A client's context: TLS 1.2 or later, the server's name and certificate are checked.

    Raises as `path_of`, and ConfigError for files that hold no certificate or key."""
    context = ssl.create_default_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        if ca:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.minimum_version = ssl.TLSVersion.TLSv1_2
            context.load_verify_locations(path_of(folder, ca, private=False))
        if cert:
            context.load_cert_chain(
                path_of(folder, cert, private=False), path_of(folder, key, private=True), password=""
            )
    except (ssl.SSLError, OSError) as error:
        raise ConfigError(f"secrets {ca or cert} in {folder}: {error}") from None
    return context
