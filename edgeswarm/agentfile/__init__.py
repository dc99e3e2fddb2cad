"""Agent files (`.af`, format 1): read, write, sign, verify.  Pure over bytes and open files; docs/agent-file.md.

`read` says that a file is whole and agrees with itself, `verify` whose it is.  Key files, folders and trust stores are
the drivers'.  Importing this costs neither YAML, zstd nor crypto: they load when a file is read.
"""

from __future__ import annotations

from edgeswarm.agentfile.file import AgentFile, Section, Signature
from edgeswarm.agentfile.header import Header, SectionEntry
from edgeswarm.agentfile.reader import parse_header, read
from edgeswarm.agentfile.signature import key_id, verify
from edgeswarm.agentfile.wiring import Wiring
from edgeswarm.agentfile.writer import build, emit_header, moment, sign, write

__all__ = [
    "AgentFile",
    "Header",
    "Section",
    "SectionEntry",
    "Signature",
    "Wiring",
    "build",
    "emit_header",
    "key_id",
    "moment",
    "parse_header",
    "read",
    "sign",
    "verify",
    "write",
]
