"""Changes of members: which configuration follows from a change.

A simple change moves at most one voter and takes effect at once; anything larger goes through a joint configuration in
which both the old and the new voters must agree.  `Changer` computes the configuration that follows and changes nothing
itself: the caller installs what it returns.
Invariants, checked on everything that comes in and goes out: every voter and learner has a Progress; nobody is voter
and learner at once (a voter of the outgoing half that becomes a learner waits in learners_next); outside a joint
configuration voters_outgoing and learners_next are empty and auto_leave is off.
Source: Ongaro 2014, 4.1-4.3; the joint form with learners follows etcd's raft.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from edgeswarm.core.raft.change import (
    AnyConfChange,
    ConfChange,
    ConfChangeError,
    ConfChangeSingle,
    ConfChangeType,
    ConfChangeV2,
    Transition,
    decode_entry,
)
from edgeswarm.core.raft.tracker import Progress, ProgressTracker, TrackerConfig
from edgeswarm.wire.raft import ConfState

__all__ = [
    "AnyConfChange",
    "Changer",
    "ConfChange",
    "ConfChangeError",
    "ConfChangeSingle",
    "ConfChangeType",
    "ConfChangeV2",
    "Members",
    "Transition",
    "check_invariants",
    "conf_states_equal",
    "decode_entry",
    "restore",
]

Members = tuple[TrackerConfig, dict[int, Progress]]


# --- what follows from a change -------------------------------------------------------------------------------------


class _Draft:
    """A configuration while it is being changed: sets that can be changed, and copies of every Progress."""

    __slots__ = ("auto_leave", "incoming", "last_index", "learners", "learners_next", "outgoing", "progress", "tracker")

    def __init__(self, tracker: ProgressTracker, last_index: int) -> None:
        config = tracker.config
        self.tracker = tracker
        self.last_index = last_index
        self.incoming = set(config.voters_incoming)
        self.outgoing = set(config.voters_outgoing)
        self.learners = set(config.learners)
        self.learners_next = set(config.learners_next)
        self.auto_leave = config.auto_leave
        self.progress = {id_: one.copy() for id_, one in tracker.progress.items()}

    def apply(self, changes: Iterable[ConfChangeSingle]) -> None:
        """Applies every change to the incoming half."""
        for change in changes:
            if change.number == 0:
                continue
            match change.type:
                case ConfChangeType.ADD_NODE:
                    self.make_voter(change.number)
                case ConfChangeType.ADD_LEARNER_NODE:
                    self.make_learner(change.number)
                case ConfChangeType.REMOVE_NODE:
                    self.remove(change.number)
                case ConfChangeType.UPDATE_NODE:
                    pass
        if not self.incoming:
            raise ConfChangeError("removed all voters")

    def make_voter(self, number: int) -> None:
        """Adds a voter, or promotes a learner."""
        known = self.progress.get(number)
        if known is None:
            self.add_progress(number, is_learner=False)
        else:
            known.is_learner = False
        self.learners.discard(number)
        self.learners_next.discard(number)
        self.incoming.add(number)

    def make_learner(self, number: int) -> None:
        """Adds a learner, or demotes a voter; a voter of the outgoing half becomes one when that half goes."""
        known = self.progress.get(number)
        if known is None:
            self.add_progress(number, is_learner=True)
            self.learners.add(number)
            return
        if known.is_learner:
            return
        self.incoming.discard(number)
        if number in self.outgoing:
            self.learners_next.add(number)
        else:
            known.is_learner = True
            self.learners.add(number)

    def remove(self, number: int) -> None:
        """Removes a member; its Progress stays as long as the outgoing half needs it."""
        self.incoming.discard(number)
        self.learners.discard(number)
        self.learners_next.discard(number)
        if number not in self.outgoing:
            self.progress.pop(number, None)

    def add_progress(self, number: int, *, is_learner: bool) -> None:
        """Starts to follow a member: from the end of the log (it is refused from there on down, or sent a snapshot).

        recent_active, so that a leader does not step down for a newcomer it has had no time to hear of.
        """
        self.progress[number] = self.tracker.new_progress(
            next_index=max(self.last_index, 1), is_learner=is_learner, recent_active=True
        )

    def done(self) -> Members:
        """The configuration, checked."""
        config = TrackerConfig(
            voters_incoming=tuple(sorted(self.incoming)),
            voters_outgoing=tuple(sorted(self.outgoing)),
            learners=tuple(sorted(self.learners)),
            learners_next=tuple(sorted(self.learners_next)),
            auto_leave=self.auto_leave,
        )
        check_invariants(config, self.progress)
        return config, self.progress


class Changer:
    """Computes what follows from a change.

    tracker: the configuration that is to be changed; stays as it is.  last_index: of the log; where a newcomer's
    Progress starts.
    """

    __slots__ = ("last_index", "tracker")

    def __init__(self, tracker: ProgressTracker, last_index: int) -> None:
        self.tracker = tracker
        self.last_index = last_index

    def _draft(self) -> _Draft:
        check_invariants(self.tracker.config, self.tracker.progress)
        return _Draft(self.tracker, self.last_index)

    def simple(self, changes: Sequence[ConfChangeSingle]) -> Members:
        """Changes that move at most one voter, and any number of learners.  Raises ConfChangeError."""
        draft = self._draft()
        if draft.outgoing:
            raise ConfChangeError("can't apply simple config change in joint config")
        before = set(draft.incoming)
        draft.apply(changes)
        if len(before ^ draft.incoming) > 1:
            raise ConfChangeError("more than one voter changed without entering joint config")
        return draft.done()

    def enter_joint(self, auto_leave: bool, changes: Sequence[ConfChangeSingle]) -> Members:
        """Today's voters become the outgoing half, `changes` make the incoming one.  Raises ConfChangeError."""
        draft = self._draft()
        if draft.outgoing:
            raise ConfChangeError("config is already joint")
        if not draft.incoming:  # nobody could agree to leave it again
            raise ConfChangeError("can't make a zero-voter config joint")
        draft.outgoing = set(draft.incoming)
        draft.apply(changes)
        draft.auto_leave = auto_leave
        return draft.done()

    def leave_joint(self) -> Members:
        """The outgoing half goes, and the learners that waited for that become learners.  Raises ConfChangeError."""
        draft = self._draft()
        if not draft.outgoing:
            raise ConfChangeError("can't leave a non-joint config")
        for number in draft.learners_next:
            draft.learners.add(number)
            draft.progress[number].is_learner = True
        draft.learners_next = set()
        for number in draft.outgoing - draft.incoming - draft.learners:
            draft.progress.pop(number, None)
        draft.outgoing = set()
        draft.auto_leave = False
        return draft.done()

    def apply(self, change: ConfChangeV2) -> Members:
        """What follows from a change as it stands in the log: leaves, enters, or changes at once."""
        if change.leave_joint():
            return self.leave_joint()
        auto_leave, joint = change.enter_joint()
        return self.enter_joint(auto_leave, change.changes) if joint else self.simple(change.changes)


def check_invariants(config: TrackerConfig, progress: dict[int, Progress]) -> None:
    """Raises ConfChangeError where a configuration and its members break the rules at the head of this module."""
    incoming, outgoing = set(config.voters_incoming), set(config.voters_outgoing)
    learners, learners_next = set(config.learners), set(config.learners_next)
    members = incoming | outgoing | learners | learners_next
    faults: list[str] = []

    def check(numbers: Iterable[int], text: str) -> None:
        faults.extend(f"{number} {text}" for number in sorted(numbers))

    check(members - progress.keys(), "is a member without progress")
    check(progress.keys() - members, "has progress but is no member")
    check(learners & outgoing, "is a learner and a voter of the outgoing half")
    check(learners & incoming, "is a learner and a voter of the incoming half")
    check(learners_next - outgoing, "waits to become a learner but is no voter of the outgoing half")
    check(learners_next & incoming, "waits to become a learner but is a voter of the incoming half")
    known = members & progress.keys()
    check([n for n in learners & known if not progress[n].is_learner], "is a learner whose progress says voter")
    check([n for n in known - learners if progress[n].is_learner], "is a voter whose progress says learner")
    if not outgoing:
        if learners_next:
            faults.append("learners_next must be empty outside a joint config")
        if config.auto_leave:
            faults.append("auto_leave must be off outside a joint config")
    if faults:
        raise ConfChangeError("; ".join(faults))


# --- from a ConfState back to a configuration -----------------------------------------------------------------------


def restore(changer: Changer, state: ConfState) -> Members:
    """The configuration that `state` describes, as `ProgressTracker.conf_state` wrote it.

    changer: of a tracker without members; the configuration ends up installed there.  Works by replaying changes, so
    that nothing is restored that changes could not have made.  Raises ConfChangeError.
    """
    tracker = changer.tracker
    if tracker.progress:
        raise ConfChangeError("a configuration is restored into a tracker without members only")
    incoming = [
        *_singles(ConfChangeType.REMOVE_NODE, state.voters_outgoing),
        *_singles(ConfChangeType.ADD_NODE, state.voters),
        *_singles(ConfChangeType.ADD_LEARNER_NODE, state.learners),
        *_singles(ConfChangeType.ADD_LEARNER_NODE, state.learners_next),
    ]
    joint = bool(state.voters_outgoing)
    for one in _singles(ConfChangeType.ADD_NODE, state.voters_outgoing) if joint else incoming:
        tracker.install(*changer.simple([one]))
    if joint:
        tracker.install(*changer.enter_joint(state.auto_leave, incoming))
    if not conf_states_equal(tracker.conf_state(), state):
        raise ConfChangeError(f"no change of members leads to {state}, found {tracker.config}")
    return tracker.config, tracker.progress


def conf_states_equal(one: ConfState, other: ConfState) -> bool:
    """Whether both describe the same configuration; the order within a field does not count."""
    return _sorted(one) == _sorted(other)


def _sorted(state: ConfState) -> tuple[list[int], list[int], list[int], list[int], bool]:
    return (
        sorted(state.voters),
        sorted(state.voters_outgoing),
        sorted(state.learners),
        sorted(state.learners_next),
        state.auto_leave,
    )


def _singles(type_: ConfChangeType, numbers: Iterable[int]) -> list[ConfChangeSingle]:
    return [ConfChangeSingle(type_, number) for number in numbers]
