"""The leader's care for who votes: 1, 3 or 5 voters, as many as there are coordinators that live, grown by itself.

Two steps, each through the log, so that a new leader goes on wherever this one stopped: a roster that names the new
voters, signed by the leader with the certificate that it leads under the roster before (wire.roster_change); then the
change of Raft's members to those of the roster, joint where more than one changes.
A voter that is lost stays one: whether it comes back is for a person to know (`edgeswarm swarm recover`).
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from edgeswarm.core.cell import commands as cmd
from edgeswarm.core.raft.change import ConfChangeSingle, ConfChangeType, ConfChangeV2
from edgeswarm.core.raft.config import ProposalDroppedError
from edgeswarm.errors import EdgeSwarmError
from edgeswarm.limits import VOTERS_MAX
from edgeswarm.wire.certificate import Signatory
from edgeswarm.wire.leadership import LeaderCertificate
from edgeswarm.wire.roster import Roster
from edgeswarm.wire.roster_change import next_roster

if TYPE_CHECKING:
    from edgeswarm.app.swarm.node import SwarmNode


def wanted_voters(node: SwarmNode) -> tuple[int, ...]:
    """Raft numbers: the voters of now, and the coordinators that live and come first, to 1, 3 or 5 of them.

    A voter that does not answer costs the quorum, and after `swarm recover` the state still has the burned as alive.
    One that was a voter before must have put its old log aside, which it does once it follows this leader.
    """
    roster, state = node.rosters.current, node.replica.state
    now = list(roster.voters())
    live = [
        member.entry.number
        for member in sorted(roster.members, key=lambda one: one.entry.number)
        if member.entry.role == "coordinator"
        and (device := state.devices.get(member.entry.device)) is not None
        and device.alive
        and node.duties.follows(member.entry.device)
        and member.entry.number not in now
    ]
    count = max(size for size in (1, 3, VOTERS_MAX) if size <= max(1, len(now) + len(live)))
    return tuple(sorted(now + live[: max(0, count - len(now))]))


async def tend(node: SwarmNode) -> bool:
    """Take the next step towards the voters and the version that are wanted; True when something was done.

    Raises EdgeSwarmError.
    """
    voter, leader = node.voter, node.peer.leader
    if voter is None or not voter.leads or leader is None or leader.device != node.config.device:
        return False
    conf = voter.member.conf
    if conf.voters_outgoing or conf.learners_next:
        return False  # a change is under way
    roster = node.rosters.current
    if set(conf.voters) != set(roster.voters()):
        return _change_members(node, set(conf.voters), set(roster.voters()), roster.version)
    if voter.member.roster_version < roster.voters_since or leader.roster_version < roster.voters_since:
        return _renew(node)
    wanted = wanted_voters(node)
    if wanted == roster.voters():
        return await _raise_version(node)
    by = Signatory(node.supervisor.shelf.device_key.public, node.post.sign)
    certificate = LeaderCertificate.decode(leader.certificate)
    now_s = max(int(time.time()), roster.created_s)  # a clock that is behind must not keep the cell from growing
    fresh = next_roster(roster, created_s=now_s, by=by, voters=wanted, leader=certificate)
    Roster.open(fresh.data, root_public=node.rosters.root_public, previous=roster)  # as everybody will
    node.log.info("voters_grow", voters=[node.rosters.device_of(number) for number in wanted], roster=fresh.version)
    await node.commit(cmd.encode(cmd.SetRoster(fresh.version, fresh.previous, fresh.data)))
    return True


async def _raise_version(node: SwarmNode) -> bool:
    """Turn on the next feature version of the replicated state, once every voter says that it can apply it."""
    state, roster = node.replica.state, node.rosters.current
    wanted = state.version + 1
    voters = [node.rosters.device_of(number) for number in roster.voters()]
    node.duties.hear_statuses([device for device in voters if device is not None])
    speaks = [node.reports.speaks.get(device or "", 0) for device in voters]
    if wanted > state.supported or min(speaks) < wanted:
        return False
    node.log.info("version_raised", version=wanted)
    await node.commit(cmd.encode(cmd.SetVersion(wanted)))
    return True


def _renew(node: SwarmNode) -> bool:
    """The leader's certificate cites the voters before these: hand over to one that these elect."""
    voter = node.voter
    assert voter is not None
    progress = voter.member.node.status().progress
    others = [
        (one.match, number) for number, one in progress.items() if number != voter.member.number and one.recent_active
    ]
    if not others:
        return False
    number = max(others)[1]
    node.log.info("leadership_renewed", to=node.rosters.device_of(number))
    voter.loop.step(lambda: voter.member.node.transfer_leader(number))
    return True


def _change_members(node: SwarmNode, now: set[int], wanted: set[int], roster_version: int) -> bool:
    voter = node.voter
    assert voter is not None
    changes = tuple(
        [ConfChangeSingle(ConfChangeType.ADD_NODE, number) for number in sorted(wanted - now)]
        + [ConfChangeSingle(ConfChangeType.REMOVE_NODE, number) for number in sorted(now - wanted)]
    )
    try:
        voter.loop.step(lambda: voter.member.propose_members(ConfChangeV2(changes), roster_version=roster_version))
    except (ProposalDroppedError, EdgeSwarmError) as error:
        node.log.info("members_not_changed", error=str(error))
        return False
    return True
