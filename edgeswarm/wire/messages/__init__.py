"""The typed messages of the swarm, and which of them may come on which topic.

docs/messages.cddl holds the shape of each, docs/messages.md says what each is for.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from edgeswarm.wire.messages.base import (
    MESSAGES,
    Message,
    MessageError,
    Spec,
    UnknownMessageError,
    decode,
    encode,
)
from edgeswarm.wire.messages.device import (
    AgentLifecycle,
    Alert,
    Away,
    Capabilities,
    DesiredAgent,
    DesiredState,
    DeviceStatus,
    Gone,
    Health,
    Load,
    Metric,
    Metrics,
    ReportedState,
    RolloutRow,
    RunningAgent,
)
from edgeswarm.wire.messages.requests import (
    AppMessage,
    Batch,
    Feed,
    FeedEntry,
    FeedFetch,
    Propose,
    ProposeReply,
    Request,
    Response,
    SnapshotOffer,
)
from edgeswarm.wire.messages.safety import Order, SafetyResume, SafetyStop, open_order, seal_order
from edgeswarm.wire.messages.work import (
    ArtefactOffer,
    Chunk,
    ChunkRequest,
    CompletionNotice,
    ErrorReport,
    NeuralUpdate,
    ProgressUpdate,
    TaskAssignment,
    TaskRef,
)
from edgeswarm.wire.topics import Kind, Topic

__all__ = [
    "EVENTS",
    "INBOX",
    "KINDS",
    "MESSAGES",
    "AgentLifecycle",
    "Alert",
    "AppMessage",
    "ArtefactOffer",
    "Away",
    "Batch",
    "Capabilities",
    "Chunk",
    "ChunkRequest",
    "CompletionNotice",
    "DesiredAgent",
    "DesiredState",
    "DeviceStatus",
    "ErrorReport",
    "Feed",
    "FeedEntry",
    "FeedFetch",
    "Gone",
    "Health",
    "Load",
    "Message",
    "MessageError",
    "Metric",
    "Metrics",
    "NeuralUpdate",
    "Order",
    "ProgressUpdate",
    "Propose",
    "ProposeReply",
    "ReportedState",
    "Request",
    "Response",
    "RolloutRow",
    "RunningAgent",
    "SafetyResume",
    "SafetyStop",
    "SnapshotOffer",
    "Spec",
    "TaskAssignment",
    "TaskRef",
    "UnknownMessageError",
    "decode",
    "decode_at",
    "encode",
    "event_priority",
    "open_order",
    "seal_order",
]

INBOX: Final[tuple[type[Message], ...]] = (  # device/<id>/inbox
    Request,
    Response,
    AppMessage,
    Propose,
    ProposeReply,
    Feed,
    TaskAssignment,
    ProgressUpdate,
    CompletionNotice,
    ErrorReport,
    NeuralUpdate,
    ArtefactOffer,
    ChunkRequest,
    Batch,
)
KINDS: Final[Mapping[Kind, tuple[type[Message], ...]]] = {
    Kind.FEED: (Feed,),
    Kind.STATUS: (DeviceStatus,),
    Kind.DESIRED: (DesiredState,),
    Kind.REPORTED: (ReportedState,),
    Kind.INBOX: INBOX,
    Kind.CONTROLLER: (Request, Response, Batch),
    Kind.ARTIFACT: (Chunk,),
    Kind.GONE: (Gone,),
}
"""Kind of topic -> what may come there.  EVENT: below.  The others have readers of their own: RAFT core.raft.member,
STREAM stream.remote, LEADER wire.leadership, ROSTER wire.roster, STOP open_order."""

EVENTS: Final[Mapping[str, tuple[str, type[Message]]]] = {
    "agent.lifecycle": ("medium", AgentLifecycle),
    "away": ("high", Away),
    "neural.updates": ("high", NeuralUpdate),
    "task.completion": ("high", CompletionNotice),
    "task.error": ("high", ErrorReport),
    "task.progress": ("low", ProgressUpdate),
    "alert": ("critical", Alert),
    "health": ("low", Health),
    "metrics": ("low", Metrics),
    "artefact.offer": ("low", ArtefactOffer),
}
"""Name of an event -> its priority and its message.  Any other name carries AppMessage, at any priority."""


def event_priority(name: str, default: str = "medium") -> str:
    """The level event/<priority>/<name> of an event."""
    found = EVENTS.get(name)
    return default if found is None else found[0]


def decode_at(topic: Topic, payload: bytes, *, who: str = "") -> Message:
    """The message in `payload`, if it may come on `topic`.  Raises UnknownMessageError, MessageError, LimitError."""
    if topic.kind is Kind.EVENT:
        found = EVENTS.get(topic.name)
        kinds: tuple[type[Message], ...] = (AppMessage, Batch) if found is None else (found[1], Batch)
    else:
        kinds = KINDS.get(topic.kind, ())
        if not kinds:
            raise MessageError(f"message: nothing typed comes on {topic}", who=who)
    return decode(payload, who=who, kinds=kinds)
