"""Rollouts for tests: agent files in versions, signed plans, and what a cell is told of them."""

from __future__ import annotations

import hashlib
from typing import Any

from edgeswarm import agentfile
from edgeswarm.core.cell import commands as cmd
from edgeswarm.core.rollout.pieces import pieces
from edgeswarm.wire.certificate import Signatory
from edgeswarm.wire.dev_fleet import DevFleet
from edgeswarm.wire.rollout import Gate, Order, Plan, seal_order, seal_plan

NOW_S = 1_795_000_000


def rollout_id(number: int) -> str:
    return f"{number:016x}"


def plan_of(data: bytes, number: int, **changes: Any) -> Plan:
    """A plan for this agent file; changes: other fields of it."""
    header = agentfile.read(data, wanted=()).header
    fields: dict[str, Any] = {
        "rollout": rollout_id(number),
        "agent": header.name,
        "version": header.agent_version,
        "artefact": hashlib.sha256(data).hexdigest(),
        "size_bytes": len(data),
        "selector": "all",
        "waves": ("100%",),
        "gate": Gate(healthy_s=1, pause_s=0),
        "allow_downgrade": False,
        "created_s": NOW_S,
        "sections": pieces(data),
    }
    return Plan(**{**fields, **changes})


def start_command(made: DevFleet, plan: Plan, *, by: Signatory | None = None, who: str = "d1") -> bytes:
    sealed = seal_plan(plan, fleet=made.fleet, cell=made.cell, by=by or made.operator)
    return cmd.encode(cmd.StartRollout(plan.rollout, plan.agent, plan.digest, sealed, who))


def advance_command(plan: Plan, *devices: str, wave: int = 1, who: str = "d1") -> bytes:
    return cmd.encode(cmd.AdvanceRollout(plan.rollout, wave, devices, who))


def steer_command(
    made: DevFleet,
    plan: Plan,
    state: Any,
    why: str,
    *,
    by: Signatory | None = None,
    signed: bool = True,
    who: str = "d1",
) -> bytes:
    order = b""
    if signed:
        order = seal_order(
            Order(plan.rollout, state, why, NOW_S), fleet=made.fleet, cell=made.cell, by=by or made.operator
        )
    return cmd.encode(cmd.SteerRollout(plan.rollout, state, order, why, "d1"))
