"""Readies, messages, entries and snapshots as text, in the form that etcd raft's transcripts have."""

from __future__ import annotations

from collections.abc import Iterable

from edgeswarm.core.raft.confchange import decode_entry
from edgeswarm.core.raft.rawnode import Ready
from edgeswarm.wire.raft import (
    LOCAL_APPEND,
    LOCAL_APPLY,
    ConfState,
    Entry,
    EntryType,
    HardState,
    Message,
    MessageType,
    Snapshot,
)

ENTRY_TYPES = {
    EntryType.NORMAL: "EntryNormal",
    EntryType.CONF_CHANGE: "EntryConfChange",
    EntryType.CONF_CHANGE_V2: "EntryConfChangeV2",
}
MESSAGE_TYPES = {type_: "Msg" + type_.name.title().replace("_", "") for type_ in MessageType}
_ESCAPES = {"\a": "\\a", "\b": "\\b", "\f": "\\f", "\n": "\\n", "\r": "\\r", "\t": "\\t", "\v": "\\v"}


def quote(data: bytes) -> str:
    """Bytes in double quotes, whatever is not printable escaped."""
    text = []
    for char in data.decode("utf-8", "surrogateescape"):
        if char in '"\\':
            text.append(f"\\{char}")
        elif char in _ESCAPES:
            text.append(_ESCAPES[char])
        elif 0xDC80 <= ord(char) <= 0xDCFF:  # a byte that is no UTF-8
            text.append(f"\\x{ord(char) - 0xDC00:02x}")
        elif char.isprintable():
            text.append(char)
        else:
            text.append(f"\\x{ord(char):02x}" if ord(char) < 0x80 else f"\\u{ord(char):04x}")
    return f'"{"".join(text)}"'


def describe_entry(entry: Entry) -> str:
    """term/index, type, data."""
    if entry.type == EntryType.NORMAL:
        data = quote(entry.data)
    else:
        data = str(decode_entry(entry.type, entry.data))
    return f"{entry.term}/{entry.index} {ENTRY_TYPES[EntryType(entry.type)]} {data}".rstrip()


def describe_entries(entries: Iterable[Entry]) -> list[str]:
    """A line an entry."""
    return [describe_entry(entry) for entry in entries]


def describe_conf_state(conf: ConfState) -> str:
    """Its five fields."""

    def numbers(ids: tuple[int, ...]) -> str:
        return f"[{' '.join(map(str, ids))}]"

    return (
        f"Voters:{numbers(conf.voters)} VotersOutgoing:{numbers(conf.voters_outgoing)} "
        f"Learners:{numbers(conf.learners)} LearnersNext:{numbers(conf.learners_next)} "
        f"AutoLeave:{str(conf.auto_leave).lower()}"
    )


def describe_snapshot(snapshot: Snapshot) -> str:
    """Where it stands, and the configuration in it; not its data."""
    return f"Index:{snapshot.index} Term:{snapshot.term} ConfState:{describe_conf_state(snapshot.conf)}"


def describe_hard_state(state: HardState) -> str:
    """The vote only where there is one."""
    return f"Term:{state.term}" + (f" Vote:{state.vote}" if state.vote else "") + f" Commit:{state.commit}"


def describe_target(number: int) -> str:
    """A raft number, or one of the two storage threads."""
    return {0: "None", LOCAL_APPEND: "AppendThread", LOCAL_APPLY: "ApplyThread"}.get(number, f"{number:x}")


def describe_message(message: Message, indent: str = "") -> list[str]:
    """One line, and further ones for several entries, a snapshot, responses."""
    line = (
        f"{indent}{describe_target(message.sender)}->{describe_target(message.to)} {MESSAGE_TYPES[message.type]} "
        f"Term:{message.term} Log:{message.log_term}/{message.index}"
    )
    if message.reject:
        line += f" Rejected (Hint: {message.reject_hint})"
    if message.commit:
        line += f" Commit:{message.commit}"
    if message.vote:
        line += f" Vote:{message.vote}"
    lines = [line]
    if len(message.entries) == 1:
        lines[-1] += f" Entries:[{describe_entry(message.entries[0])}]"
    elif message.entries:
        lines[-1] += " Entries:["
        lines += [f"{indent}  {describe_entry(entry)}" for entry in message.entries]
        lines.append(f"{indent}]")
    if message.snapshot is not None and message.snapshot.index:
        lines.append(f"{indent}  Snapshot: {describe_snapshot(message.snapshot)}")
    if message.responses:
        lines[-1] += " Responses:["
        for response in message.responses:
            lines += describe_message(response, indent + "  ")
        lines.append(f"{indent}]")
    return lines


def describe_ready(ready: Ready) -> list[str]:
    """All that is in it; whatever is empty is left out."""
    lines: list[str] = []
    if ready.soft_state is not None:
        lines.append(f"Lead:{ready.soft_state.lead} State:{ready.soft_state.state}")
    if ready.hard_state is not None and ready.hard_state != HardState():
        lines.append(f"HardState {describe_hard_state(ready.hard_state)}")
    if ready.read_states:
        states = " ".join(f"{{{one.index} [{' '.join(map(str, one.context))}]}}" for one in ready.read_states)
        lines.append(f"ReadStates [{states}]")
    if ready.entries:
        lines += ["Entries:", *describe_entries(ready.entries)]
    if ready.snapshot is not None and ready.snapshot.index:
        lines.append(f"Snapshot {describe_snapshot(ready.snapshot)}")
    if ready.committed_entries:
        lines += ["CommittedEntries:", *describe_entries(ready.committed_entries)]
    if ready.messages:
        lines.append("Messages:")
        for message in ready.messages:
            lines += describe_message(message)
    if not lines:
        return ["<empty Ready>"]
    return [f"Ready MustSync={str(ready.must_sync).lower()}:", *lines]
