"""A cell that lost a quorum of its voters for good goes on with one of those that are left: docs/recovery.md.

The operator signs a roster in which this device alone votes; it goes into the log together with a line of the audit,
as committed entries of a higher term.  Whoever holds the roster before can check all of it.
"""

from __future__ import annotations

import time
from pathlib import Path

from edgeswarm.app.swarm import config as cell_config
from edgeswarm.app.swarm.replica import TAG_BYTES
from edgeswarm.app.swarm.rosters import RosterBook
from edgeswarm.core.cell import commands as cmd
from edgeswarm.drivers.keys import SigningKey
from edgeswarm.drivers.raft_store_recover import Audit, recover
from edgeswarm.errors import LocalError
from edgeswarm.wire import codec
from edgeswarm.wire.certificate import Signatory
from edgeswarm.wire.raft import ConfState
from edgeswarm.wire.roster import Roster
from edgeswarm.wire.roster_change import next_roster


def recover_alone(
    state_dir: Path, operator_key: SigningKey, *, reason: str, operator: str, from_backup: bool = False
) -> Audit:
    """Make the device of `state_dir`, which must not run, the only voter of its cell.

    from_backup: it is that already, and its log is of some time ago.

    Raises LocalError, ConfigError, RosterError (the key is no operator's), StoreCorruptError.
    """
    cell = cell_config.load(state_dir)
    book = RosterBook.load(state_dir, fleet=cell.fleet, cell=cell.cell)
    number, roster = book.number_of(cell.device), book.current
    if number is None or roster.role(cell.device) != "coordinator":
        raise LocalError(f"device {cell.device}: expected a coordinator of the roster")
    by = Signatory.from_seed(operator_key.seed)
    fresh = next_roster(roster, created_s=int(time.time()), by=by, voters=[number])
    Roster.open(fresh.data, root_public=book.root_public, previous=roster)
    command = cmd.batch(
        [
            cmd.SetRoster(fresh.version, fresh.previous, fresh.data),
            cmd.Note(operator, f"recovered from {'a backup' if from_backup else 'a lost quorum'}: {reason}"),
        ]
    )
    return recover(
        cell_config.folder(state_dir) / "raft.db",
        ConfState((number,)),
        reason,
        operator,
        context=codec.dumps([fresh.version]),
        command=bytes(TAG_BYTES) + command,
        from_backup=from_backup,
    )
