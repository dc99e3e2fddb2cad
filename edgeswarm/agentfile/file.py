"""What an agent file is once it has been read, and the few bytes between its parts.

    %EdgeSwarm-AF 1\\n  YAML header  { \\n---BINARY_SECTION:<name>---\\n  stored bytes }  [ the same with `signature` ]

Invariant of an AgentFile that `read` returned: header and sections agree, every section had the length and SHA-256
that the header says, float sections hold finite numbers.  What it does *not* say: that anybody trusted signed it
(`verify`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from edgeswarm.agentfile.header import Dtype, Header
from edgeswarm.errors import AgentFileError
from edgeswarm.ids import KeyId

MAGIC: Final = b"%EdgeSwarm-AF 1\n"
MARKER_START: Final = b"\n---BINARY_SECTION:"
MARKER_END: Final = b"---\n"
SIGNATURE: Final = "signature"
EXTERNAL_AAD: Final = b"edgeswarm-af-1"
"""Binds a signature to this format: it is worth nothing on a message."""


def marker(name: str) -> bytes:
    """What stands before the bytes of the section `name`."""
    return MARKER_START + name.encode("ascii") + MARKER_END


@dataclass(frozen=True, slots=True)
class Section:
    """Content of one section before it is stored.  dtype and shape as in the section table."""

    raw: bytes = field(repr=False)
    dtype: Dtype | None = None
    shape: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Signature:
    """A COSE_Sign1 with detached payload, parsed and not verified.  publisher: who it says signed."""

    publisher: KeyId
    message: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class AgentFile:
    """An agent file in memory.

    sections: name -> decoded bytes, those that were wanted.  header_bytes: the YAML as it stands in the file, which is
    what the signature covers.  unlisted: textual sections of a file without a table; nothing uses them.
    body_bytes: size of the file without its signature.  sha256: identity, hex, of the whole file.
    """

    header: Header
    sections: Mapping[str, bytes] = field(repr=False)
    signature: Signature | None = None
    warnings: tuple[str, ...] = ()
    header_bytes: bytes = field(default=b"", repr=False)
    unlisted: Mapping[str, bytes] = field(default_factory=dict, repr=False)
    body_bytes: int = 0
    size_bytes: int = 0
    sha256: str = ""
    who: str = ""

    def section(self, name: str) -> bytes:
        """Decoded bytes of the section `name`.  Raises AgentFileError when the file (or what was read) has none."""
        found = self.sections.get(name)
        if found is None:
            there = ", ".join(self.sections) or "no section"
            raise AgentFileError(
                f"section {name}: expected one, found {there}; `edgeswarm agent build` makes them", who=self.who
            )
        return found
