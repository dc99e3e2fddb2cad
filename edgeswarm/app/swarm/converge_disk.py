"""What rollouts keep on a device's disk: one journal an agent in DIR/swarm/rollouts, each replaced as a whole.

The agent files themselves lie in the artefact store, pinned while a journal names them.  `look` is called before the
supervisor starts: a version that takes the device down with it is given up here, before it runs again.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from edgeswarm.app.config import Settings
from edgeswarm.app.log import Log
from edgeswarm.app.swarm import config as cell_config
from edgeswarm.core.rollout.journal import Journal, JournalError
from edgeswarm.drivers.artefact_files import Folder, read_all
from edgeswarm.drivers.files import write_whole
from edgeswarm.drivers.store import Deployed, Store
from edgeswarm.errors import EdgeSwarmError
from edgeswarm.limits import AF_FILE_BYTES_MAX, ROLLOUT_AGENTS_MAX, ROLLOUT_JOURNAL_BYTES_MAX

SUFFIX = ".journal"
CUT = "EDGESWARM_CUT"
"""Tests set it to the name of a step: there the process ends as in a power cut."""


def cut(step: str) -> None:
    if os.environ.get(CUT) == step:
        os.kill(os.getpid(), signal.SIGKILL)


def folder(state_dir: Path) -> Path:
    return cell_config.folder(state_dir) / "rollouts"


def save(where: Path, journal: Journal) -> None:
    """On disk before this returns.  Raises OSError."""
    write_whole(where / (journal.agent + SUFFIX), journal.to_bytes())


def load(where: Path, log: Log) -> Iterator[Journal]:
    """One that cannot be read is set aside: what it was about is then as if no rollout had brought it."""
    for path in sorted(where.glob("*" + SUFFIX))[:ROLLOUT_AGENTS_MAX]:
        try:
            journal = Journal.from_bytes(path.read_bytes()[: ROLLOUT_JOURNAL_BYTES_MAX + 1], who=str(path))
            if journal.agent + SUFFIX != path.name:
                raise JournalError(f"expected the journal of {path.stem}, found that of {journal.agent}", who=str(path))
            yield journal
        except (EdgeSwarmError, OSError) as error:
            log.error("journal_refused", path=str(path), error=str(error))
            path.replace(path.with_suffix(".bad"))


async def look(settings: Settings, log: Log) -> None:
    """Count this start against what is on trial; what has had its lives is replaced on disk by what ran before.

    Never keeps a device from starting: what goes wrong is logged, and the supervisor starts with what it has.
    """
    where = folder(settings.state_dir)
    for journal in load(where, log):
        try:
            begun = journal.begun()
            if begun != journal:
                save(where, begun)
            if begun.back and begun.base is not None:
                await _go_back(settings, begun)
                log.warning("rollout_gave_up", agent=begun.agent, why=begun.back, lives=begun.lives)
        except (EdgeSwarmError, OSError) as error:
            log.error("rollout_not_undone", agent=journal.agent, error=str(error))


async def _go_back(settings: Settings, journal: Journal) -> None:
    """What the supervisor will resume is what ran before.  Raises StoreError, OSError."""
    assert journal.base is not None
    artefact = journal.base.artefact
    if artefact:
        path = settings.state_dir / "agents" / f"{journal.agent}.{artefact[:16]}.af"
        if not path.exists():
            kept = Folder(cell_config.folder(settings.state_dir) / "artefacts", bytes.fromhex(artefact))
            write_whole(path, read_all(kept.data, AF_FILE_BYTES_MAX))
    store = await Store.open(settings.state_dir / "edgeswarm.db")
    try:
        if artefact:
            await store.put_agent(Deployed(journal.agent, artefact, "running"))
        else:
            await store.remove_agent(journal.agent)
    finally:
        await store.close()


def ended(where: Path, journal: Journal, watched_s: float) -> None:
    """The device ends with a word: this life counts against nothing.  Raises OSError."""
    if journal.base is not None:
        save(where, replace(journal, clean=True, watched_s=watched_s))
