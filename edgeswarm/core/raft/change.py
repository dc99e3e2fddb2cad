"""A change of members as it is proposed: what it says, and its one encoding in the log.

Source: the two forms and their transitions follow etcd's raft; the encoding is ours.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from edgeswarm.errors import CodecError, LimitError, LocalError
from edgeswarm.limits import RAFT_CHANGE_CONTEXT_BYTES_MAX, RAFT_CHANGES_MAX, RAFT_NUMBER_MAX
from edgeswarm.wire.codec import Value, dumps, loads
from edgeswarm.wire.raft import EntryType

_FIELDS: Final = 3  # v1: type, number, context; v2: transition, changes, context
_BYTES_MAX: Final = RAFT_CHANGE_CONTEXT_BYTES_MAX + 16 * RAFT_CHANGES_MAX + 64


class ConfChangeError(LocalError):
    """A change of members that the configuration does not allow."""


class ConfChangeType(IntEnum):
    """What one change does to one member."""

    ADD_NODE = 0  # becomes a voter
    REMOVE_NODE = 1  # is neither voter nor learner
    UPDATE_NODE = 2  # nothing here: a way to pass a context through the log
    ADD_LEARNER_NODE = 3  # becomes a learner


class Transition(IntEnum):
    """How a change comes into force."""

    AUTO = 0  # at once if it is one change, else through a joint configuration that is left by itself
    JOINT_IMPLICIT = 1  # through a joint configuration that is left by itself
    JOINT_EXPLICIT = 2  # through a joint configuration that is left by an empty change


@dataclass(frozen=True, slots=True)
class ConfChangeSingle:
    """One change of one member; `number` 0 changes nothing."""

    type: ConfChangeType
    number: int

    def __str__(self) -> str:
        return f"{_LETTERS[self.type]}{self.number}"


_LETTERS: Final = {
    ConfChangeType.ADD_NODE: "v",
    ConfChangeType.REMOVE_NODE: "r",
    ConfChangeType.UPDATE_NODE: "u",
    ConfChangeType.ADD_LEARNER_NODE: "l",
}


@dataclass(frozen=True, slots=True)
class ConfChange:
    """The first form: one change.  In the log as CONF_CHANGE: CBOR [type, number, context]."""

    type: ConfChangeType
    number: int
    context: bytes = b""

    def as_v2(self) -> ConfChangeV2:
        """The same as the second form."""
        return ConfChangeV2((ConfChangeSingle(self.type, self.number),), context=self.context)

    def entry(self) -> tuple[EntryType, bytes]:
        """(entry type, entry data) that put this change into the log."""
        _check_bounds(1, self.context)
        return EntryType.CONF_CHANGE, dumps([int(self.type), self.number, self.context])

    def encode(self) -> bytes:
        """The entry data that put this change into the log."""
        return self.entry()[1]

    @staticmethod
    def decode(data: bytes, *, who: str = "") -> ConfChange:
        """Reads what `encode` wrote; CodecError for anything else."""
        type_, number, context = _array(_loads(data, who), _FIELDS, who)
        single = _single([type_, number], who)
        return ConfChange(single.type, single.number, _context(context, who))

    def __str__(self) -> str:
        return f"{_LETTERS[self.type]}{self.number}"


@dataclass(frozen=True, slots=True)
class ConfChangeV2:
    """The second form: any number of changes; none of them leaves a joint configuration.

    In the log as CONF_CHANGE_V2: CBOR [transition, [[type, number], ...], context], and no bytes at all for the
    change that says nothing, so that leaving a joint configuration is never refused for want of room.
    """

    changes: tuple[ConfChangeSingle, ...] = ()
    transition: Transition = Transition.AUTO
    context: bytes = b""

    def as_v2(self) -> ConfChangeV2:
        """Itself."""
        return self

    def enter_joint(self) -> tuple[bool, bool]:
        """(auto_leave, ok): ok if this goes through a joint configuration, auto_leave if that one is left by itself."""
        if self.transition == Transition.AUTO and len(self.changes) <= 1:
            return False, False
        return self.transition != Transition.JOINT_EXPLICIT, True

    def leave_joint(self) -> bool:
        """Whether this change leaves a joint configuration: it says nothing, but for its context."""
        return not self.changes and self.transition == Transition.AUTO

    def entry(self) -> tuple[EntryType, bytes]:
        """(entry type, entry data) that put this change into the log."""
        if not self.changes and self.transition == Transition.AUTO and not self.context:
            return EntryType.CONF_CHANGE_V2, b""
        _check_bounds(len(self.changes), self.context)
        changes = [[int(one.type), one.number] for one in self.changes]
        return EntryType.CONF_CHANGE_V2, dumps([int(self.transition), changes, self.context])

    def encode(self) -> bytes:
        """The entry data that put this change into the log."""
        return self.entry()[1]

    @staticmethod
    def decode(data: bytes, *, who: str = "") -> ConfChangeV2:
        """Reads what `encode` wrote; CodecError for anything else."""
        if not data:
            return ConfChangeV2()
        transition, changes, context = _array(_loads(data, who), _FIELDS, who)
        if not isinstance(transition, int) or isinstance(transition, bool) or transition not in (0, 1, 2):
            raise CodecError(f"change of members: expected a transition 0, 1 or 2, found {transition!r:.40}", who=who)
        if not isinstance(changes, list) or len(changes) > RAFT_CHANGES_MAX:
            raise CodecError(f"change of members: expected an array of at most {RAFT_CHANGES_MAX} changes", who=who)
        change = ConfChangeV2(
            tuple([_single(one, who) for one in changes]), Transition(transition), _context(context, who)
        )
        if not change.changes and change.leave_joint() and not change.context:
            raise CodecError("change of members: the change that says nothing is no bytes at all", who=who)
        return change

    def __str__(self) -> str:
        return " ".join(map(str, self.changes))


AnyConfChange = ConfChange | ConfChangeV2


def decode_entry(type_: int, data: bytes, *, who: str = "") -> AnyConfChange:
    """The change in an entry of type CONF_CHANGE or CONF_CHANGE_V2.  Raises CodecError for bytes that are none."""
    if type_ == EntryType.CONF_CHANGE:
        return ConfChange.decode(data, who=who)
    if type_ == EntryType.CONF_CHANGE_V2:
        return ConfChangeV2.decode(data, who=who)
    raise CodecError(f"change of members: expected entry type 1 or 2, found {type_}", who=who)


# --- codec ----------------------------------------------------------------------------------------------------------


def _check_bounds(count: int, context: bytes) -> None:
    if count > RAFT_CHANGES_MAX:
        raise ConfChangeError(f"at most {RAFT_CHANGES_MAX} changes at once, found {count}")
    if len(context) > RAFT_CHANGE_CONTEXT_BYTES_MAX:
        raise ConfChangeError(f"context of at most {RAFT_CHANGE_CONTEXT_BYTES_MAX} bytes, found {len(context)}")


def _loads(data: bytes, who: str) -> Value:
    if len(data) > _BYTES_MAX:
        raise CodecError(f"change of members: at most {_BYTES_MAX} bytes, found {len(data)}", who=who)
    try:
        return loads(data, who=who)
    except LimitError as error:  # nested too deep
        raise CodecError(f"change of members: {error}", who=who) from None


def _array(value: Value, count: int, who: str) -> list[Value]:
    if not isinstance(value, list) or len(value) != count:
        raise CodecError(f"change of members: expected an array of {count}, found {value!r:.60}", who=who)
    return value


def _context(value: Value, who: str) -> bytes:
    if not isinstance(value, bytes) or len(value) > RAFT_CHANGE_CONTEXT_BYTES_MAX:
        raise CodecError(
            f"change of members: expected a context of at most {RAFT_CHANGE_CONTEXT_BYTES_MAX} bytes", who=who
        )
    return value


def _single(value: Value, who: str) -> ConfChangeSingle:
    type_, number = _array(value, 2, who)
    if not isinstance(type_, int) or isinstance(type_, bool) or not 0 <= type_ <= max(ConfChangeType):
        raise CodecError(f"change of members: expected a type from 0 to 3, found {type_!r:.40}", who=who)
    if not isinstance(number, int) or isinstance(number, bool) or not 0 <= number <= RAFT_NUMBER_MAX:
        raise CodecError(
            f"change of members: expected a raft number up to {RAFT_NUMBER_MAX}, found {number!r:.40}", who=who
        )
    return ConfChangeSingle(ConfChangeType(type_), number)
