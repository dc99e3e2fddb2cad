"""Names for things that must not be swapped: an agent's name is not a jail's number, a host path not a jail path."""

from __future__ import annotations

import re
from typing import NewType

AgentName = NewType("AgentName", str)
"""1 to 64 characters of [a-z0-9-], starting with a letter: unique on a device."""
NetworkName = NewType("NetworkName", str)
StreamName = NewType("StreamName", str)
JailId = NewType("JailId", int)
Slot = NewType("Slot", int)
"""Index of an agent inside its jail, 0-based."""
Seq = NewType("Seq", int)
"""Number of a frame in its agent's life, counted from 1, never used twice."""
Cause = NewType("Cause", str)
"""What set an event going; carried by everything that follows from it, so that one grep tells the story."""
KeyId = NewType("KeyId", str)
"""First 16 hex digits of the SHA-256 of an Ed25519 public key."""
HostPath = NewType("HostPath", str)
JailPath = NewType("JailPath", str)

NAME_PATTERN = re.compile(r"[a-z][a-z0-9-]{0,63}")


def is_name(text: str) -> bool:
    """True when `text` may name an agent, a network or a stream."""
    return NAME_PATTERN.fullmatch(text) is not None
