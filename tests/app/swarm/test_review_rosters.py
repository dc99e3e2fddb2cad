"""The book of rosters over a restart, also where versions are missing in it."""

from __future__ import annotations

from pathlib import Path

from edgeswarm.app.swarm.dev import init_dev
from edgeswarm.app.swarm.rosters import RosterBook
from edgeswarm.limits import ROSTERS_KEPT_MAX
from edgeswarm.wire.certificate import Signatory
from edgeswarm.wire.dev_fleet import DevFleet
from edgeswarm.wire.roster import Roster
from edgeswarm.wire.roster_change import next_roster


def versions(made: DevFleet, count: int) -> list[Roster]:
    found = [made.roster]
    by = Signatory.from_seed(made.operator_seed)
    for _ in range(count):
        found.append(next_roster(found[-1], created_s=found[-1].created_s, by=by))
    return found


def test_book_with_a_gap_is_opened_again(tmp_path: Path) -> None:
    made, states = init_dev(tmp_path / "f", 1, brokers=("mqtt://127.0.0.1:1",))
    book = RosterBook.load(states["d1"], fleet=made.fleet, cell=made.cell)
    rosters = versions(made, ROSTERS_KEPT_MAX + 4)
    assert book.offer(rosters[3].data), "the device was away for versions 2 and 3"
    for roster in rosters[4:]:
        assert book.offer(roster.data)
    again = RosterBook.load(states["d1"], fleet=made.fleet, cell=made.cell)
    assert (again.first.version, again.current.version) == (1, ROSTERS_KEPT_MAX + 5)
    assert again.of(rosters[-2].version) == rosters[-2]
