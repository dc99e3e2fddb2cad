"""A support bundle: what somebody needs who helps from afar, and nothing that they could misuse.

It takes a short list of files and answers, never a folder: versions, fleet.toml, the broker's configuration and access
list, the ends of its log and of the audit, what `doctor` found, and what the controller says while it runs.  Then every
text is searched for what must not leave: the content of each secret file of the FLEET directory in any of its usual
spellings, private keys, tokens, passwords.  What is found is replaced, and counted.
Invariant: no byte string of a secret file of the directory (16 bytes or longer) is in a bundle, raw, hex or base64.
"""

from __future__ import annotations

import base64
import gzip
import io
import json
import re
import tarfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from edgeswarm.app.fleet.folder import FleetFolder
from edgeswarm.errors import LimitError
from edgeswarm.limits import BUNDLE_BYTES_MAX, BUNDLE_FILE_BYTES_MAX, KIB

SECRET_FILES: Final = (
    "*.key",
    "*.pem",
    "*.seed",
    "*.kit",
    "content.keys",
    "dynamic-security.json",
    "*token*",
    "*pass*",
)
GONE: Final = "[removed]"
_SECRET_BYTES_MIN, _SECRET_BYTES_MAX = 16, 64 * KIB
_SEED_BYTES = 32
_PEM: Final = re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----([A-Za-z0-9+/=\s]*)-----END")
_PATTERNS: Final = (
    re.compile(r"-----BEGIN [A-Z0-9 ]*PRIVATE KEY-----.*?(-----END [A-Z0-9 ]*PRIVATE KEY-----|\Z)", re.DOTALL),
    re.compile(r"es1\.[A-Za-z0-9_-]{8,}\.?[a-z2-7]*"),
    re.compile(r"(?<=://)[^/\s:@\"]*:[^/\s@\"]*(?=@)"),
    re.compile(
        r"(?i)\b[a-z_.-]*(password|passphrase|passwd|secret|api[_-]?key)[a-z_-]*\"?(\s*[=:]\s*|\s+)\"?[^\s\",}]+"
    ),
)


class Redactor:
    """secrets: byte strings that must not be told."""

    def __init__(self, secrets: Iterable[bytes]) -> None:
        self.count = 0
        found = {form for secret in secrets for form in _spellings(secret)}
        longest_first = sorted(found, key=lambda form: (-len(form), form))
        self._known = re.compile("|".join(map(re.escape, longest_first))) if longest_first else None

    def clean(self, text: str) -> str:
        for pattern in (*([self._known] if self._known else []), *_PATTERNS):
            text, count = pattern.subn(GONE, text)
            self.count += count
        return text


def _spellings(secret: bytes) -> set[str]:
    """The texts by which `secret` could be told: as it is, hex, base64; of a text, and of a key in PEM, each part."""
    found = _forms(secret)
    try:
        text = secret.decode()
    except UnicodeDecodeError:
        return found
    for body in _PEM.findall(text):
        try:
            der = base64.b64decode("".join(body.split()), validate=True)
        except ValueError:
            continue
        found |= _forms(der) | _forms(der[-_SEED_BYTES:])  # RFC 8410 7: the seed stands last
    for word in (text.strip(), *re.split(r"[\s\"',:]+", text)):
        if len(word) >= _SECRET_BYTES_MIN and not word.startswith("-----"):
            found |= {word} | _forms(word.encode())
            if re.fullmatch(r"([0-9a-fA-F]{2}){16,}", word):  # a key in hex: as anything else, too
                found |= _forms(bytes.fromhex(word))
    return found


def _forms(data: bytes) -> set[str]:
    if len(data) < _SECRET_BYTES_MIN:
        return set()
    base = base64.b64encode(data).decode().rstrip("=")
    return {data.hex(), data.hex().upper(), base, base.replace("+", "-").replace("/", "_")}


def secrets_of(folder: FleetFolder) -> list[bytes]:
    """Contents of the secret files below the FLEET directory; sealed ones, too."""
    found: list[bytes] = []
    for pattern in SECRET_FILES:
        for path in sorted(folder.path.rglob(pattern)):
            try:
                data = _start_of(path) if path.is_file() else b""
            except OSError:
                continue  # of another user: then it is not in the bundle either
            if len(data) >= _SECRET_BYTES_MIN and (path.suffix != ".pem" or b"PRIVATE KEY" in data):
                found.append(data)
    return found


def collect(
    folder: FleetFolder, live: Mapping[str, Any] | None, doctor: str, versions: Mapping[str, Any]
) -> dict[str, str]:
    """Name in the bundle -> text.  live: the controller's answer to `support`, None while it does not run."""
    found = {"versions.json": _json(versions), "doctor.txt": doctor}
    for name, path in (
        ("fleet.toml", folder.path / "fleet.toml"),
        ("broker/mosquitto.conf", folder.broker / "mosquitto.conf"),
        ("broker/acl", folder.broker / "acl"),
        ("broker/acl-join", folder.broker / "acl-join"),
        *((f"broker/{path.name}", path) for path in sorted(folder.broker.glob("*.log"))[:4]),
    ):
        if (text := _end_of(path)) is not None:
            found[name] = text
    audit = folder.controller / "audit"
    newest = sorted((path for path in audit.glob("*.jsonl") if path.stem.isdigit()), key=lambda path: int(path.stem))[
        -1:
    ]
    for path in newest:
        found[f"audit/{path.name}"] = _end_of(path) or ""
    if live is None:
        found["controller.txt"] = "the controller did not answer\n"
        return found
    for name, value in live.items():
        lines = value if name == "log" and isinstance(value, list) else None
        found[f"controller/{name}.{'jsonl' if lines is not None else 'json'}"] = (
            _json(value) if lines is None else "\n".join(map(str, lines)) + "\n"
        )
    return found


def bundle(folder: FleetFolder, files: Mapping[str, str], *, made_s: int) -> tuple[bytes, int]:
    """A tar.gz of `files`, cleaned, and how many times something was removed.  Raises LimitError."""
    redactor = Redactor(secrets_of(folder))
    cleaned = {name: redactor.clean(text).encode("utf-8", "replace") for name, text in sorted(files.items())}
    if (size := sum(map(len, cleaned.values()))) > BUNDLE_BYTES_MAX:
        raise LimitError(f"support bundle: at most {BUNDLE_BYTES_MAX} bytes (BUNDLE_BYTES_MAX), found {size}")
    out = io.BytesIO()
    with gzip.GzipFile(fileobj=out, mode="wb", mtime=made_s) as zipped, tarfile.open(fileobj=zipped, mode="w") as tar:
        for name, data in cleaned.items():
            info = tarfile.TarInfo(f"edgeswarm-support/{name}")
            info.size, info.mtime, info.mode = len(data), made_s, 0o600
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue(), redactor.count


def _start_of(path: Path) -> bytes:
    with open(path, "rb") as file:
        return file.read(_SECRET_BYTES_MAX)


def _end_of(path: Path) -> str | None:
    """The last BUNDLE_FILE_BYTES_MAX of a file; None where there is none."""
    try:
        with open(path, "rb") as file:
            size = file.seek(0, io.SEEK_END)
            file.seek(max(0, size - BUNDLE_FILE_BYTES_MAX))
            return file.read().decode("utf-8", "replace")
    except OSError:
        return None


def _json(value: Any) -> str:
    return json.dumps(value, indent=1, default=str, sort_keys=True) + "\n"
