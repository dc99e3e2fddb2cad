"""What the roster may grant a device: names of capabilities, and whether a grant covers what is asked.

    grant      = capability ["@" agent]        to one agent of the device only
    capability = "neural.compute" | "memory.access" | "deploy" | "revoke" | "token"
               | "stream.publish:" (agent | [start] "*") | "tool:" (name | [start] "*")

A `*` stands at the end and means all that start so.  What is not granted is denied.  Capital spellings are read as
well: NEURAL_COMPUTE, MEMORY_ACCESS, STREAM_PUBLISH (all agents) and STREAM_PUBLISH:mlp, DEPLOY, REVOKE, TOKEN,
TOOL_X (tool:x, and `_` within the name of a tool becomes `-`).
docs/capabilities.md says what each allows and who checks it.  Pure; decides nothing about roles but what they get when
nobody says otherwise.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from typing import Final

from edgeswarm.errors import LocalError
from edgeswarm.ids import NAME_PATTERN
from edgeswarm.limits import CAPABILITIES_MAX

COMPUTE: Final = "neural.compute"
MEMORY: Final = "memory.access"
PUBLISH: Final = "stream.publish:"
DEPLOY: Final = "deploy"
REVOKE: Final = "revoke"
TOKEN: Final = "token"
TOOL: Final = "tool:"
PLAIN: Final = (COMPUTE, MEMORY, DEPLOY, REVOKE, TOKEN)
ALL: Final = (DEPLOY, MEMORY, COMPUTE, REVOKE, PUBLISH + "*", TOKEN, TOOL + "*")
"""Everything there is, sorted."""

_DEFAULTS: Final[Mapping[str, tuple[str, ...]]] = {
    "worker": (COMPUTE,),
    "coordinator": (COMPUTE,),
    "reader": (),
    "administrator": (DEPLOY, REVOKE, TOKEN),
}
_TOOL_NAME: Final = re.compile(r"[a-z0-9][a-z0-9.-]{0,31}")
_START: Final = re.compile(r"[a-z0-9.-]{0,63}")
_SHOWN: Final = 80  # characters of a wrong name in an error text


class CapabilityError(LocalError):
    """A text names no capability; it says what was expected."""


def canonical(text: str) -> str:
    """The one spelling of a grant.  Raises CapabilityError."""
    name, at, agent = text.partition("@")
    if at and not NAME_PATTERN.fullmatch(agent):
        raise _wrong(text, "behind @ the name of an agent")
    found = _plain_spelling(name)
    if found in PLAIN:
        return found + at + agent
    for family, pattern in ((PUBLISH, NAME_PATTERN), (TOOL, _TOOL_NAME)):
        rest = found.removeprefix(family)
        if rest != found:
            if not (pattern.fullmatch(rest) or (rest.endswith("*") and _START.fullmatch(rest[:-1]))):
                raise _wrong(text, f"behind {family} a name, or a start of names and *")
            return found + at + agent
    raise _wrong(text, f"one of {', '.join(PLAIN)}, {PUBLISH}<agent or *>, {TOOL}<name or *>")


def _plain_spelling(name: str) -> str:
    if not name[:1].isupper():
        return name
    head, colon, rest = name.partition(":")
    if head == "STREAM_PUBLISH":
        return PUBLISH + (rest if colon else "*")
    if head.startswith("TOOL_") and head.isupper() and not colon:
        return TOOL + head.removeprefix("TOOL_").lower().replace("_", "-")
    if head == "TOOL_*" and not colon:
        return TOOL + "*"
    return name.lower().replace("_", ".") if name.isupper() and not colon else name


def grants_of(texts: Iterable[str]) -> tuple[str, ...]:
    """Grants as a token or a roster entry has them: canonical, sorted, each once.  Raises CapabilityError."""
    found = tuple(sorted({canonical(text.strip()) for text in texts}))
    if len(found) > CAPABILITIES_MAX:
        raise CapabilityError(f"capabilities: expected at most {CAPABILITIES_MAX}, found {len(found)}")
    return found


def granted(grants: Collection[str], capability: str, agent: str = "") -> bool:
    """Whether a device with these grants may do this, for `agent` if one is named.

    A capability may be asked for as `x@agent`, too.  A grant to one agent does not count where none is named.
    """
    wanted, _, asked = capability.partition("@")
    return any(_holds(grant, wanted, agent or asked) for grant in grants)


def covers(grant: str, wanted: str) -> bool:
    """Whether who may grant `grant` may grant `wanted`: it is the same or less."""
    name, _, agent = wanted.partition("@")
    return _holds(grant, name, agent)


def scoped(grants: Collection[str], capability: str) -> bool:
    """Whether this is granted at all, be it to one agent only."""
    return any(_holds(grant.partition("@")[0], capability, "") for grant in grants)


def _holds(grant: str, wanted: str, agent: str) -> bool:
    name, at, only = grant.partition("@")
    if at and only != agent:
        return False
    return name == wanted or (name.endswith("*") and wanted.startswith(name[:-1]))


def defaults(role: str) -> tuple[str, ...]:
    """What a device of this role gets when nobody says otherwise.  Raises CapabilityError for what is no role."""
    found = _DEFAULTS.get(role)
    if found is None:
        raise CapabilityError(f"role {role[:_SHOWN]!r}: expected one of {', '.join(_DEFAULTS)}")
    return found


def _wrong(text: str, expected: str) -> CapabilityError:
    return CapabilityError(f"capability {text[:_SHOWN]!r}: expected {expected}")
