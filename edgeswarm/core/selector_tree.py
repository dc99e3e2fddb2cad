"""What a selector is once it is read: a tree of terms, whether a device matches it, and its text again.

The grammar is core/selector.py's, which is where to import these names from.  Pure.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Final, Literal, assert_never

from edgeswarm.wire import capability

TIERS: Final = ("A", "B", "C")
ROLES: Final = ("coordinator", "worker", "reader", "administrator")
STATES: Final = ("online", "draining", "offline", "silent", "never")
"""What a device said last; silent: nothing for too long; never: in the roster, and not heard yet."""
FIELDS: Final = ("id", "profile", "role", "state", "tier", "architecture", "software")
_WHOLE: Final = 1 << 64
PERCENT_PARTS: Final = 100  # hundredths of a percent: the finest share that can be asked for

Order = Literal["<", "<=", ">", ">="]


@dataclass(frozen=True, slots=True)
class Device:
    """What a selector looks at.  labels: key -> value, as the log has them.  grants: as in the roster."""

    id: str
    role: str = ""
    state: str = "never"
    tier: str = ""
    profile: str = ""
    architecture: str = ""
    software: str = ""
    labels: tuple[tuple[str, str], ...] = ()
    delegates: tuple[str, ...] = ()
    sensors: tuple[str, ...] = ()
    grants: tuple[str, ...] = ()
    agents: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Glob:
    """literal: `*` and `?` stand for themselves."""

    text: str
    literal: bool = False

    @property
    def is_plain(self) -> bool:
        """True when equality is all there is to it."""
        return self.literal or not ("*" in self.text or "?" in self.text)

    def __str__(self) -> str:
        return f'"{self.text}"' if self.literal else self.text


@dataclass(frozen=True, slots=True)
class Is:
    """A field is one of these."""

    key: str
    globs: tuple[Glob, ...]


@dataclass(frozen=True, slots=True)
class LabelIs:
    """A label is one of these; without globs: it is there."""

    key: str
    globs: tuple[Glob, ...] = ()


@dataclass(frozen=True, slots=True)
class TierIs:
    order: Order
    tier: str

    def tiers(self) -> tuple[str, ...]:
        """All that satisfy it."""
        match self.order:
            case "<":
                return tuple(one for one in TIERS if one < self.tier)
            case "<=":
                return tuple(one for one in TIERS if one <= self.tier)
            case ">":
                return tuple(one for one in TIERS if one > self.tier)
            case ">=":
                return tuple(one for one in TIERS if one >= self.tier)
            case _:
                assert_never(self.order)


@dataclass(frozen=True, slots=True)
class Has:
    """A delegate or a sensor."""

    glob: Glob


@dataclass(frozen=True, slots=True)
class May:
    """agent: empty asks what is granted to the device as a whole."""

    capability: str
    agent: str = ""


@dataclass(frozen=True, slots=True)
class Runs:
    glob: Glob


@dataclass(frozen=True, slots=True)
class Share:
    """parts: hundredths of a percent, 0 .. 10,000."""

    parts: int


What = Is | LabelIs | TierIs | Has | May | Runs | Share


@dataclass(frozen=True, slots=True)
class Term:
    what: What
    negated: bool = False

    def __str__(self) -> str:
        return ("!" if self.negated else "") + _text(self.what)


@dataclass(frozen=True, slots=True)
class Selector:
    """Any of these, each of whose terms holds.  One alternative without terms is everybody."""

    alternatives: tuple[tuple[Term, ...], ...] = ((),)
    source: str = field(default="", compare=False)

    def __str__(self) -> str:
        if self.alternatives == ((),):
            return "all"
        return "|".join(",".join(map(str, terms)) for terms in self.alternatives)

    def matches(self, device: Device, *, seed: str = "") -> bool:
        """seed: of the percentages; the same one takes the same devices."""
        return any(all(holds(term.what, device, seed) != term.negated for term in one) for one in self.alternatives)


EVERYBODY: Final = Selector()


# --- matching -------------------------------------------------------------------------------------------------------


def holds(what: What, device: Device, seed: str) -> bool:
    match what:
        case Is(key, globs):
            value = str(getattr(device, key))
            return any(fits(glob, value) for glob in globs)
        case LabelIs(key, globs):
            values = [value for name, value in device.labels if name == key]
            return any(not globs or any(fits(glob, value) for glob in globs) for value in values)
        case TierIs():
            return device.tier in what.tiers()
        case Has(glob):
            return any(fits(glob, name) for name in (*device.delegates, *device.sensors))
        case May(wanted, agent):
            return capability.granted(device.grants, wanted, agent)
        case Runs(glob):
            return any(fits(glob, name) for name in device.agents)
        case Share(parts):
            return rank(seed, device.id) * 100 * PERCENT_PARTS < parts * _WHOLE
        case _:
            assert_never(what)


def rank(seed: str, device: str) -> int:
    """Where `device` stands under `seed`: 64 bits, evenly spread.  The share p takes ranks below p * 2**64."""
    return int.from_bytes(hashlib.sha256(f"{seed}\0{device}".encode()).digest()[:8], "big")


def fits(glob: Glob, value: str) -> bool:
    """In time len(glob) * len(value), whatever either is: go back to the last star only."""
    if glob.is_plain:
        return glob.text == value
    pattern, at, seen = glob.text, 0, 0
    star = after = -1
    while seen < len(value):
        if at < len(pattern) and pattern[at] == "*":
            star, after = at, seen
            at += 1
        elif at < len(pattern) and pattern[at] in ("?", value[seen]):
            at, seen = at + 1, seen + 1
        elif star >= 0:
            after += 1
            at, seen = star + 1, after
        else:
            return False
    return pattern[at:].strip("*") == ""


# --- writing --------------------------------------------------------------------------------------------------------


def _text(what: What) -> str:
    match what:
        case Is(key, globs):
            return _text_of(key, globs)
        case LabelIs(key, globs):
            return _text_of(f"label:{key}", globs) if globs else f"label:{key}"
        case TierIs(order, tier):
            return f"tier{order}{tier}"
        case Has(glob):
            return f"has:{glob}"
        case May(wanted, agent):
            return f"may:{wanted}@{agent}" if agent else f"may:{wanted}"
        case Runs(glob):
            return f"agent:{glob}"
        case Share(parts):
            return f"percent={parts // PERCENT_PARTS}.{parts % PERCENT_PARTS:02}"
        case _:
            assert_never(what)


def _text_of(key: str, globs: tuple[Glob, ...]) -> str:
    return f"{key}={globs[0]}" if len(globs) == 1 else f"{key} in ({','.join(map(str, globs))})"
