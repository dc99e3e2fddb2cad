"""Every topic of the swarm, built and parsed here and nowhere else: `es/1/<fleet>/<cell>/...`.

Decides whether a text is a topic of ours, of which kind, and what it names; how many bytes a message there may have and
how it is signed.  Invariants: parse(build(x)) == x; build(parse(t)) == t; a topic that parses has no wildcard, no NUL,
no empty level; names are bounded (limits/).  A cell is never called "controller" or "join": those levels are the
fleet's.  Why they are so: docs/decisions/2026-11-21-mqtt-topics.md.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from edgeswarm import limits
from edgeswarm.errors import LocalError, RemoteError

ROOT: Final = "es/1"
RESERVED_CELLS: Final = frozenset({"controller", "join"})
PRIORITIES: Final = ("critical", "high", "medium", "low")

_FLEET: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,31}")
_DEVICE: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
_AGENT: Final = re.compile(r"[a-z][a-z0-9-]{0,63}")
_EVENT: Final = re.compile(r"[a-z][a-z0-9._-]{0,63}")
_DIGEST: Final = re.compile(r"[0-9a-f]{64}")
_NUMBER: Final = re.compile(r"0|[1-9][0-9]{0,6}")


class TopicError(RemoteError):
    """A text is not a topic of ours, or one of another fleet or cell."""


class Kind(StrEnum):
    """What a topic is for; the value is its level after the cell (DEVICE topics: the level after the device)."""

    RAFT = "raft"  # raft/<device>: inbox of a voter
    LEADER = "leader"  # retained: the leader certificate
    ROSTER = "roster"  # retained: the roster
    FEED = "feed"  # committed entries for the learners
    STATUS = "status"  # device/<id>/status, retained
    DESIRED = "desired"  # device/<id>/desired, retained
    REPORTED = "reported"  # device/<id>/reported, retained
    INBOX = "inbox"  # device/<id>/inbox: requests and their answers
    STREAM = "stream"  # stream/<id>/<agent>
    EVENT = "event"  # event/<priority>/<name>
    ARTIFACT = "artifact"  # artifact/<sha256>/<n>
    GONE = "gone"  # gone/<device>: last will
    STOP = "stop"  # retained: the safety stop
    CONTROLLER = "controller"  # es/1/<fleet>/controller/inbox: no cell


class Signing(StrEnum):
    """How a receiver knows who wrote a message of a kind."""

    ENVELOPE = "envelope"  # COSE_Sign1 by a device, with the topic as external data
    ITSELF = "itself"  # the content holds its own proof, whoever publishes it: roster, leader certificate, stop
    NONE = "none"  # a last will: a hint on timing, never a reason to believe


@dataclass(frozen=True, slots=True)
class Rule:
    """bytes_max: of the payload (decompressed, without the envelope).  register: one writer, retained, newest wins."""

    bytes_max: int
    signing: Signing = Signing.ENVELOPE
    register: bool = False


RULES: Final[Mapping[Kind, Rule]] = {
    Kind.RAFT: Rule(limits.RAFT_BYTES_MAX),
    Kind.LEADER: Rule(limits.LEADER_BYTES_MAX, Signing.ITSELF, register=True),
    Kind.ROSTER: Rule(limits.ROSTER_BYTES_MAX, Signing.ITSELF, register=True),
    Kind.FEED: Rule(limits.FEED_BYTES_MAX),
    Kind.STATUS: Rule(limits.DEVICE_STATE_BYTES_MAX, register=True),
    Kind.DESIRED: Rule(limits.DEVICE_STATE_BYTES_MAX, register=True),
    Kind.REPORTED: Rule(limits.DEVICE_STATE_BYTES_MAX, register=True),
    Kind.INBOX: Rule(limits.INBOX_BYTES_MAX),
    Kind.STREAM: Rule(limits.STREAM_BYTES_MAX),
    Kind.EVENT: Rule(limits.EVENT_BYTES_MAX),
    Kind.ARTIFACT: Rule(limits.ARTEFACT_CHUNK_BYTES_MAX + limits.KIB),
    Kind.GONE: Rule(limits.GONE_BYTES_MAX, Signing.NONE),
    Kind.STOP: Rule(limits.STOP_BYTES_MAX, Signing.ITSELF, register=True),
    Kind.CONTROLLER: Rule(limits.INBOX_BYTES_MAX),
}

_DEVICE_KINDS: Final = {kind.value: kind for kind in (Kind.STATUS, Kind.DESIRED, Kind.REPORTED, Kind.INBOX)}
_CELL_KINDS: Final = {kind.value: kind for kind in (Kind.LEADER, Kind.ROSTER, Kind.FEED, Kind.STOP)}
_NAMED_KINDS: Final = {kind.value: kind for kind in (Kind.RAFT, Kind.GONE)}


@dataclass(frozen=True, slots=True)
class Topic:
    """A topic, taken apart.  What its kind does not use stays empty (`index` 0)."""

    kind: Kind
    fleet: str
    cell: str = ""  # empty for CONTROLLER only
    device: str = ""  # RAFT, STATUS, DESIRED, REPORTED, INBOX, STREAM, GONE
    agent: str = ""  # STREAM
    priority: str = ""  # EVENT: one of PRIORITIES
    name: str = ""  # EVENT: "agent.lifecycle"
    digest: str = ""  # ARTIFACT: SHA-256, 64 hex digits
    index: int = 0  # ARTIFACT: number of the chunk, 0-based

    def __str__(self) -> str:
        """The text of the topic."""
        start = f"{ROOT}/{self.fleet}/{self.cell}"
        match self.kind:
            case Kind.CONTROLLER:
                return f"{ROOT}/{self.fleet}/controller/inbox"
            case Kind.LEADER | Kind.ROSTER | Kind.FEED | Kind.STOP:
                return f"{start}/{self.kind.value}"
            case Kind.RAFT | Kind.GONE:
                return f"{start}/{self.kind.value}/{self.device}"
            case Kind.STREAM:
                return f"{start}/stream/{self.device}/{self.agent}"
            case Kind.EVENT:
                return f"{start}/event/{self.priority}/{self.name}"
            case Kind.ARTIFACT:
                return f"{start}/artifact/{self.digest}/{self.index}"
            case _:
                return f"{start}/device/{self.device}/{self.kind.value}"

    @property
    def rule(self) -> Rule:
        return RULES[self.kind]


def parse(topic: str, *, fleet: str = "", cell: str = "") -> Topic:
    """The parts of `topic`.  fleet, cell: where given, it must be of them.  Raises TopicError."""
    if len(topic) > limits.TOPIC_CHARS_MAX:
        raise TopicError(f"topic: at most {limits.TOPIC_CHARS_MAX} characters, found {len(topic)}")
    levels = topic.split("/")
    if len(levels) < 5 or levels[0] != "es" or levels[1] != "1":
        raise TopicError(f"topic: expected {ROOT}/<fleet>/<cell>/..., found {topic!r}")
    found = _parse_below(levels[2], levels[3], levels[4:])
    if found is None or not _FLEET.fullmatch(levels[2]):
        raise TopicError(f"topic: not one of ours: {topic!r}")
    if fleet and found.fleet != fleet:
        raise TopicError(f"topic: expected fleet {fleet}, found {found.fleet} in {topic!r}")
    if cell and found.cell and found.cell != cell:
        raise TopicError(f"topic: expected cell {cell}, found {found.cell} in {topic!r}")
    return found


def _parse_below(fleet: str, cell: str, rest: list[str]) -> Topic | None:
    """rest: what follows the cell, at least one level."""
    if cell == "controller":
        return Topic(Kind.CONTROLLER, fleet) if rest == ["inbox"] else None
    if not is_fleet(cell) or cell in RESERVED_CELLS:
        return None
    match rest:
        case [word] if word in _CELL_KINDS:
            return Topic(_CELL_KINDS[word], fleet, cell)
        case [word, device] if word in _NAMED_KINDS and is_device(device):
            return Topic(_NAMED_KINDS[word], fleet, cell, device)
        case ["device", device, word] if word in _DEVICE_KINDS and is_device(device):
            return Topic(_DEVICE_KINDS[word], fleet, cell, device)
        case ["stream", device, agent] if is_device(device) and _AGENT.fullmatch(agent):
            return Topic(Kind.STREAM, fleet, cell, device, agent)
        case ["event", priority, name] if priority in PRIORITIES and _EVENT.fullmatch(name):
            return Topic(Kind.EVENT, fleet, cell, priority=priority, name=name)
        case ["artifact", digest, number] if _DIGEST.fullmatch(digest) and _NUMBER.fullmatch(number):
            if int(number) < limits.ARTEFACT_CHUNKS_MAX:
                return Topic(Kind.ARTIFACT, fleet, cell, digest=digest, index=int(number))
    return None


def is_fleet(text: str) -> bool:
    """True when `text` may name a fleet or (unless it is reserved) a cell."""
    return _FLEET.fullmatch(text) is not None


def is_cell(text: str) -> bool:
    return is_fleet(text) and text not in RESERVED_CELLS


def is_device(text: str) -> bool:
    """True when `text` may be a device id: 1 to 63 of [a-z0-9-], not starting with "-"."""
    return _DEVICE.fullmatch(text) is not None


class Topics:
    """The topics of one cell.  Names that are not ours raise LocalError: what we build always parses."""

    __slots__ = ("cell", "controller", "feed", "fleet", "leader", "roster", "start", "stop")

    def __init__(self, fleet: str, cell: str) -> None:
        if not is_fleet(fleet) or not is_cell(cell):
            raise LocalError(f"expected names of [a-z0-9-], at most 32 long, found fleet {fleet!r} and cell {cell!r}")
        self.fleet = fleet
        self.cell = cell
        self.start = f"{ROOT}/{fleet}/{cell}"
        self.leader = f"{self.start}/leader"
        self.roster = f"{self.start}/roster"
        self.feed = f"{self.start}/feed"
        self.stop = f"{self.start}/stop"
        self.controller = f"{ROOT}/{fleet}/controller/inbox"

    def parse(self, topic: str) -> Topic:
        """The parts of a topic of this cell.  Raises TopicError."""
        return parse(topic, fleet=self.fleet, cell=self.cell)

    def raft(self, device: str) -> str:
        return f"{self.start}/raft/{_device(device)}"

    def gone(self, device: str) -> str:
        """Where the broker publishes the last will of `device`."""
        return f"{self.start}/gone/{_device(device)}"

    def status(self, device: str) -> str:
        return f"{self.start}/device/{_device(device)}/status"

    def desired(self, device: str) -> str:
        return f"{self.start}/device/{_device(device)}/desired"

    def reported(self, device: str) -> str:
        return f"{self.start}/device/{_device(device)}/reported"

    def inbox(self, device: str) -> str:
        return f"{self.start}/device/{_device(device)}/inbox"

    def stream(self, device: str, agent: str) -> str:
        if not _AGENT.fullmatch(agent):
            raise LocalError(f"expected an agent's name, found {agent!r:.80}")
        return f"{self.start}/stream/{_device(device)}/{agent}"

    def event(self, priority: str, name: str) -> str:
        """priority: one of PRIORITIES.  name: [a-z][a-z0-9._-]*, as "agent.lifecycle"."""
        if priority not in PRIORITIES or not _EVENT.fullmatch(name):
            raise LocalError(f"expected a priority ({', '.join(PRIORITIES)}) and a name, found {priority!r}, {name!r}")
        return f"{self.start}/event/{priority}/{name}"

    def artifact(self, digest: str, index: int) -> str:
        """digest: SHA-256 as 64 hex digits.  index: of the chunk, 0-based."""
        if not _DIGEST.fullmatch(digest) or not 0 <= index < limits.ARTEFACT_CHUNKS_MAX:
            raise LocalError(f"expected a SHA-256 and a chunk's number, found {digest!r:.80}, {index}")
        return f"{self.start}/artifact/{digest}/{index}"

    # filters for subscriptions; every topic that matches one still goes through parse

    def statuses(self) -> str:
        return f"{self.start}/device/+/status"

    def goners(self) -> str:
        """The last wills of all devices."""
        return f"{self.start}/gone/+"

    def events(self, priority: str = "+", name: str = "+") -> str:
        return f"{self.start}/event/{priority}/{name}"

    def streams(self, device: str = "+", agent: str = "+") -> str:
        return f"{self.start}/stream/{device}/{agent}"

    def chunks(self, digest: str) -> str:
        return f"{self.start}/artifact/{digest}/+"

    def everything(self) -> str:
        return f"{self.start}/#"


def _device(device: str) -> str:
    if not is_device(device):
        raise LocalError(f"expected a device id, found {device!r:.80}")
    return device
