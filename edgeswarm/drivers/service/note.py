"""What an installation wrote: every file with its hash, so that it can be taken away, and nothing else with it.

The note belongs to root, like what it names; it is read as carefully as if it did not, because a wrong one deletes.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, dataclass
from typing import Annotated, Literal

from edgeswarm import schema
from edgeswarm.drivers import files
from edgeswarm.drivers.service.image import Image
from edgeswarm.drivers.service.plan import Init
from edgeswarm.errors import ConfigError
from edgeswarm.limits import INSTALL_FILES_MAX, INSTALL_NOTE_BYTES_MAX
from edgeswarm.schema import Length, Pattern

_PATH = Pattern(r"(/(?!\.\.?(/|$))[A-Za-z0-9._+-]+)+", "an absolute path without ..")


@dataclass(frozen=True, slots=True)
class Entry:
    """holds: of a file its SHA-256, of a link its target, of a folder nothing."""

    path: Annotated[str, _PATH, Length(1, 4096)]
    kind: Literal["file", "link", "folder"]
    holds: Annotated[str, Length(0, 4096)] = ""


@dataclass(frozen=True, slots=True)
class Note:
    """account: that the installation made, or none.  of_user: a service of one user."""

    format: Literal[1]
    init: Init
    state: Annotated[str, _PATH, Length(1, 4096)]
    program: Annotated[str, _PATH, Length(1, 4096)]
    entries: Annotated[tuple[Entry, ...], Length(0, INSTALL_FILES_MAX)]
    account: str | None = None

    def of(self, path: str) -> Entry | None:
        return next((entry for entry in self.entries if entry.path == path), None)


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def read(image: Image, path: str) -> Note | None:
    """None when nothing was installed.  Raises ConfigError for a note that makes no sense."""
    data = image.read(path, INSTALL_NOTE_BYTES_MAX)
    if data is None:
        return None
    try:
        return schema.decode(json.loads(data), Note, where=path)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: expected JSON, found {error}") from None
    except schema.SchemaError as error:
        raise ConfigError(str(error)) from None


def write(image: Image, path: str, note: Note) -> None:
    """Raises OSError."""
    place = image.at(path)
    files.write_whole(place, (json.dumps(asdict(note), indent=1) + "\n").encode(), mode=0o644)
    os.chmod(place, 0o644)


def changed(image: Image, note: Note) -> list[str]:
    """Files and links that are not as the installation left them: gone, or changed since."""
    found: list[str] = []
    for entry in note.entries:
        place = image.at(entry.path)
        if entry.kind == "folder":
            continue
        try:
            holds = os.readlink(place) if place.is_symlink() else digest(place.read_bytes())
        except OSError:
            holds = ""
        found += [] if holds == entry.holds else [entry.path]
    return found
