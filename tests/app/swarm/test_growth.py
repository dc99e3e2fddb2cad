"""Who becomes a voter, and a job that is asked for while leadership changes: decisions, on a cell that is played."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from edgeswarm.app.swarm.growth import wanted_voters
from edgeswarm.app.swarm.jobs_control import JobsControl
from edgeswarm.app.swarm.replica import OutcomeUnknownError

ALL = ("d1", "d2", "d3", "d4", "d5", "w6")


def cell(voters: tuple[int, ...], *, alive: tuple[str, ...] = ALL, follows: tuple[str, ...] = ALL) -> Any:
    """d1 to d5 are coordinators, w6 is a worker; numbered as they are called."""
    members = [
        SimpleNamespace(
            entry=SimpleNamespace(device=name, number=int(name[1:]), role="worker" if name[0] == "w" else "coordinator")
        )
        for name in reversed(ALL)
    ]
    return SimpleNamespace(
        rosters=SimpleNamespace(current=SimpleNamespace(members=members, voters=lambda: voters)),
        replica=SimpleNamespace(
            state=SimpleNamespace(devices={name: SimpleNamespace(alive=name in alive) for name in ALL})
        ),
        duties=SimpleNamespace(follows=lambda name: name in follows),
    )


@pytest.mark.parametrize(
    ("made", "wanted"),
    [
        (cell((1,)), (1, 2, 3, 4, 5)),
        (cell((1,), alive=("d1", "d3", "d5", "w6")), (1, 3, 5)),
        (cell((1,), alive=("d1", "d2", "w6")), (1,)),
        (cell((1, 2, 3), alive=("d1",)), (1, 2, 3)),  # the lost stay voters
        (cell((1,), follows=("d1", "d4", "d5")), (1, 4, 5)),  # the state has the burned as alive still
        (cell((1,), follows=("d1",)), (1,)),
        (cell((4, 5, 3), follows=("d1", "d2")), (1, 2, 3, 4, 5)),
    ],
    ids=["all-live", "three-live", "two-are-one", "lost-stay", "burned-wait", "nobody-follows", "grown-to-five"],
)
def test_voters_are_coordinators_that_live_and_follow_in_odd_numbers(made: Any, wanted: tuple[int, ...]) -> None:
    assert wanted_voters(made) == wanted


class Cell:
    """Its leader steps down so many times before a command is answered."""

    def __init__(self, times: int) -> None:
        self.times, self.proposed = times, 0
        self.peer = SimpleNamespace(letters={})

    async def propose(self, _command: bytes) -> tuple[int, None]:
        self.proposed += 1
        if self.proposed <= self.times:
            raise OutcomeUnknownError("it leads no more")
        return 7, None


async def test_job_whose_leader_stepped_down_is_asked_for_once_more_and_no_oftener() -> None:
    once, always = Cell(1), Cell(99)
    assert await JobsControl(once)._surely(b"") == 7  # type: ignore[arg-type]
    assert once.proposed == 2
    with pytest.raises(OutcomeUnknownError):
        await JobsControl(always)._surely(b"")  # type: ignore[arg-type]
    assert always.proposed == 2
