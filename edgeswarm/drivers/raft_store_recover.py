"""Going on after a quorum of voters is lost for good: a deliberate act with a name and a reason, never automatic.

What it does to the survivor's database, in a new file beside the old one, which is kept: every entry there is counts as
committed; changes of members that lead to the new configuration follow, committed too; the term rises by
RAFT_RECOVERY_TERMS; an audit record says who did it and why.  What it cannot do: bring back what only the lost voters
had, or undo what they do if they come back; docs/recovery.md says when to use it and what to do with them.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from edgeswarm.core.raft.change import ConfChange, ConfChangeError, ConfChangeSingle, ConfChangeType, ConfChangeV2
from edgeswarm.core.raft.confchange import Changer, conf_states_equal, restore
from edgeswarm.core.raft.tracker import ProgressTracker
from edgeswarm.drivers.files import sync_directory
from edgeswarm.drivers.raft_store_check import Loaded, load
from edgeswarm.drivers.raft_store_schema import connect, explain, lock, remove, unlock
from edgeswarm.drivers.raft_store_write import Write, Writer
from edgeswarm.errors import LocalError
from edgeswarm.limits import RAFT_RECOVERY_TERMS
from edgeswarm.wire.raft import ConfState, Entry, EntryType, HardState


@dataclass(frozen=True, slots=True)
class Audit:
    """What was done.  kept: the old database; first_index..last_index: the entries that were added."""

    at_wall: str
    operator: str
    reason: str
    kept: Path
    term_before: int
    term: int
    commit_before: int
    first_index: int
    last_index: int
    conf_before: ConfState
    conf: ConfState

    def __str__(self) -> str:
        return (
            f"voters {_numbers(self.conf_before.voters)} -> {_numbers(self.conf.voters)}, "
            f"term {self.term_before} -> {self.term}, commit {self.commit_before} -> {self.last_index}, "
            f"old database kept as {self.kept.name}"
        )


def recover(
    path: Path,
    conf: ConfState,
    reason: str,
    operator: str,
    *,
    context: bytes = b"",
    command: bytes = b"",
    at_wall: str = "",
    from_backup: bool = False,
) -> Audit:
    """Rewrite the configuration of the survivor's database; the member must not run.

    conf: not joint, at least one voter.  context: goes with each change of members (the new signed roster).  command:
    one more entry for the replicated state, which applies it (its own audit record).  at_wall: ISO 8601, now if empty.
    from_backup: the only voter's own log of some time ago; its configuration stays, its term rises all the same.
    Raises StoreCorruptError if the database is not sound, LocalError, OSError.
    """
    if not conf.voters or conf.voters_outgoing or conf.learners_next:
        raise LocalError("recovery: expected a configuration with at least one voter, and not a joint one")
    if not reason.strip() or not operator.strip():
        raise LocalError("recovery: expected a reason and an operator's name, since both are kept")
    if not path.exists():
        raise LocalError(f"raft database {path}: there is none")
    held = lock(path)
    try:
        at_wall = at_wall or datetime.now(UTC).isoformat()
        return _recover(path, conf, reason, operator, context, command, at_wall, from_backup)
    except sqlite3.Error as error:
        raise explain(error, path) from error
    finally:
        unlock(held)


def _recover(
    path: Path,
    conf: ConfState,
    reason: str,
    operator: str,
    context: bytes,
    command: bytes,
    at_wall: str,
    from_backup: bool,
) -> Audit:
    found = _read(path)  # closing it leaves all in one file
    fresh = path.with_name(path.name + ".recovering")
    remove(fresh)
    shutil.copyfile(path, fresh)
    os.chmod(fresh, 0o600)
    storage, hard = found.storage, found.hard_state
    term, first = hard.term + RAFT_RECOVERY_TERMS, storage.last_index() + 1
    before, changes = _changes(found, conf)
    if not changes and not from_backup:
        raise LocalError(f"recovery: the configuration is already voters {_numbers(conf.voters)}")
    entries = [
        Entry(term, index, EntryType.CONF_CHANGE_V2, ConfChangeV2((one,), context=context).encode() if one else b"")
        for index, one in enumerate(changes, first)
    ]
    if command:
        entries.append(Entry(term, first + len(entries), EntryType.NORMAL, command))
    last = first + len(entries) - 1
    audit = Audit(at_wall, operator, reason, _kept(path), hard.term, term, hard.commit, first, last, before, conf)
    _rewrite(fresh, found, HardState(term, 0, last), entries, audit)
    os.link(path, audit.kept)  # from here on either name holds a whole database
    os.replace(fresh, path)
    sync_directory(path.parent)
    return audit


def _read(path: Path) -> Loaded:
    database = connect(path)
    try:
        return load(database, path)
    finally:
        database.close()


def _rewrite(fresh: Path, found: Loaded, hard: HardState, entries: list[Entry], audit: Audit) -> None:
    """Write the additions into the copy, and read it back with every check."""
    database = connect(fresh)
    try:
        last = (found.storage.last_index(), found.last_crc)
        writer = Writer(database, fresh, hard_state=found.hard_state, last=last, base=found.storage.start)
        writer.write([Write(hard_state=hard, entries=entries)])
        row = (audit.at_wall, audit.operator, audit.reason, str(audit))
        database.execute("INSERT INTO audit (at_wall, operator, reason, what) VALUES (?, ?, ?, ?)", row)
    finally:
        database.close()
    _read(fresh)
    with open(fresh, "rb") as file:
        os.fsync(file.fileno())


def _changes(found: Loaded, conf: ConfState) -> tuple[ConfState, list[ConfChangeSingle | None]]:
    """The configuration after the last entry, and the changes from there to `conf`; None leaves a joint one.

    One voter a change, so that no joint configuration is entered whose outgoing half would have to agree.
    """
    tracker = ProgressTracker(1)
    changer = Changer(tracker, found.storage.last_index())
    try:
        tracker.install(*restore(changer, found.storage.conf))
        for entry in found.storage.log:
            if entry.index > found.storage.snapshot().index and entry.type != EntryType.NORMAL:
                tracker.install(*changer.apply(_change_of(entry)))
        before = tracker.conf_state()
        changes: list[ConfChangeSingle | None] = []
        if before.voters_outgoing:
            tracker.install(*changer.leave_joint())
            changes.append(None)
        for one in _singles(tracker.conf_state(), conf):
            tracker.install(*changer.simple([one]))
            changes.append(one)
    except ConfChangeError as error:
        raise LocalError(f"recovery: the log's changes of members do not follow each other: {error}") from None
    if not conf_states_equal(tracker.conf_state(), conf):
        raise LocalError(f"recovery: no changes of members lead to {conf}, found {tracker.conf_state()}")
    return before, changes


def _change_of(entry: Entry) -> ConfChangeV2:
    if entry.type == EntryType.CONF_CHANGE:
        return ConfChange.decode(entry.data).as_v2()
    return ConfChangeV2.decode(entry.data)


def _singles(now: ConfState, wanted: ConfState) -> Iterable[ConfChangeSingle]:
    """Newcomers first, so that there is a voter at each step."""
    gone = (set(now.voters) | set(now.learners)) - set(wanted.voters) - set(wanted.learners)
    for numbers, kind in (
        (set(wanted.voters) - set(now.voters), ConfChangeType.ADD_NODE),
        (set(wanted.learners) - set(now.learners), ConfChangeType.ADD_LEARNER_NODE),
        (gone, ConfChangeType.REMOVE_NODE),
    ):
        for number in sorted(numbers):
            yield ConfChangeSingle(kind, number)


def _kept(path: Path) -> Path:
    number = 1
    while (kept := path.with_name(f"{path.name}.before-recovery-{number}")).exists():
        number += 1
    return kept


def _numbers(numbers: tuple[int, ...]) -> str:
    return ",".join(map(str, numbers)) or "none"
