"""What tests of a device's convergence share: plans, versions, and a machine with one on trial."""

from __future__ import annotations

from typing import Any

from edgeswarm.core.rollout.converge import Converge
from edgeswarm.core.rollout.journal import Journal, Version
from edgeswarm.core.rollout.steps import (
    Facts,
    Known,
    Stage,
    Try,
    Wish,
)
from edgeswarm.wire.rollout import Gate, Plan


def digest(number: int) -> str:
    return f"{number:064x}"


def rollout_id(number: int) -> str:
    return f"{number:016x}"


def plan(number: int, artefact: str, *, version: str = "", downgrade: bool = False, healthy_s: int = 10) -> Plan:
    gate = Gate(healthy_s=healthy_s)
    return Plan(
        rollout_id(number), "a", version or f"1.0.{number}", artefact, 100, "all", ("100%",), gate, downgrade, 0
    )


def known(number: int, *, artefact: str = "", **changes: Any) -> Known:
    digest_ = artefact or digest(number)
    return Known(rollout_id(number), digest_, plan(number, digest_, **changes))


def begin(journal: Journal | None = None) -> Converge:
    return Converge(journal or Journal("a"))


RUNS_1 = Facts(digest(1), "1.0.1", "running")
OLD = Version("", digest(1))
NEW = known(2)


def on_trial() -> Converge:
    machine = begin()
    assert machine.decide(Wish(NEW), RUNS_1, 0) == Stage(NEW.version, NEW.plan)
    machine.staged(NEW.version)
    assert machine.decide(Wish(NEW), RUNS_1, 1) == Try(NEW.version, OLD)
    machine.tried(NEW.version, RUNS_2)
    return machine


RUNS_2 = Facts(digest(2), "1.0.2", "running")


def state(machine: Converge) -> str:
    row = machine.row()
    return "" if row is None else row.state
