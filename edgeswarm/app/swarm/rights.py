"""Who may do what in a cell, as receivers judge it: by the role and the grants that the roster has for the sender.

RULES: for each command of the log, the roles that may propose it and the capability that it takes; the leader looks
before anything goes into the log.  `check_topic`: what of a role is heard at all.  `check_tools`: what the agents that
others bring to this device may start on it.  Default deny: what stands in no rule is the leader's own.
docs/capabilities.md has the table for people, and what the broker's access list does beside.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

from edgeswarm.agentfile.header import Header
from edgeswarm.app.swarm.rosters import RosterBook
from edgeswarm.core.cell import commands as cmd
from edgeswarm.core.cell.state import CellState
from edgeswarm.core.cell.types import DeviceState, TaskSpec
from edgeswarm.errors import RemoteError
from edgeswarm.wire import capability as cap
from edgeswarm.wire import cose, root_change
from edgeswarm.wire.certificate import OPERATOR_ROLES, CertificateError
from edgeswarm.wire.roster import Roster
from edgeswarm.wire.topics import Kind, Topic

EVERYBODY: Final = frozenset({"coordinator", "worker", "reader", "administrator"})
MEMBERS: Final = EVERYBODY - {"reader"}


class NotGrantedError(RemoteError):
    """The roster does not grant a device what this would take."""


@dataclass(frozen=True, slots=True)
class Rule:
    roles: frozenset[str]
    capability: str = ""
    """Empty: the role is enough."""


RULES: Final[Mapping[type, Rule]] = {
    cmd.RegisterDevice: Rule(EVERYBODY),
    cmd.OpenSession: Rule(EVERYBODY),
    cmd.CloseSession: Rule(MEMBERS),
    cmd.Noop: Rule(MEMBERS),
    cmd.Note: Rule(MEMBERS),
    cmd.SetRoster: Rule(MEMBERS),  # it proves itself
    cmd.Stop: Rule(OPERATOR_ROLES),
    cmd.Resume: Rule(OPERATOR_ROLES),
    cmd.Drain: Rule(OPERATOR_ROLES, cap.DEPLOY),
    cmd.ForgetDevice: Rule(OPERATOR_ROLES, cap.REVOKE),
    cmd.Deploy: Rule(MEMBERS, cap.DEPLOY),
    cmd.Remove: Rule(MEMBERS, cap.DEPLOY),
    cmd.Desire: Rule(OPERATOR_ROLES, cap.DEPLOY),
    cmd.Checkpoint: Rule(MEMBERS, cap.MEMORY),
    cmd.SubmitJob: Rule(MEMBERS, cap.COMPUTE),
    cmd.FinishTask: Rule(MEMBERS, cap.COMPUTE),
    cmd.FailTask: Rule(MEMBERS),  # who may not do its task hands it back
    cmd.CancelJob: Rule(MEMBERS),
    cmd.AddToken: Rule(OPERATOR_ROLES, cap.TOKEN),
    cmd.UseToken: Rule(OPERATOR_ROLES, cap.TOKEN),
    cmd.RevokeToken: Rule(OPERATOR_ROLES, cap.TOKEN),
    cmd.SetLabels: Rule(OPERATOR_ROLES, cap.DEPLOY),
    cmd.StartRollout: Rule(OPERATOR_ROLES, cap.DEPLOY),
    cmd.AdvanceRollout: Rule(OPERATOR_ROLES, cap.DEPLOY),
    cmd.SteerRollout: Rule(OPERATOR_ROLES, cap.DEPLOY),
    cmd.RotateRoot: Rule(OPERATOR_ROLES, cap.REVOKE),
}
LEADERS: Final = (cmd.DeviceLost, cmd.DeviceBack, cmd.Place, cmd.AssignTasks, cmd.SetVersion)
"""The leader's own to propose."""


def is_controller(roster: Roster, device: str) -> bool:
    """A coordinator that may make tokens: it speaks for the operators that ask it, under their names."""
    return roster.role(device) == "coordinator" and roster.may(device, cap.TOKEN)


def check_command(roster: Roster, state: CellState, sender: str, command: cmd.Command) -> None:
    """Raises RemoteError, saying what is missing, where `command` is not the sender's to propose."""
    what, role = type(command).__name__, roster.role(sender)
    rule = RULES.get(type(command))
    if rule is None:
        raise RemoteError(f"{what} is the leader's to propose", who=sender)
    if role not in rule.roles:
        raise RemoteError(f"a {role or 'stranger'} may not propose {what}", who=sender)
    if rule.capability and (agent := _denied(roster, state, sender, command, rule.capability)) is not None:
        where = f" for agent {agent}" if agent else ""
        raise RemoteError(f"{what} takes the capability {rule.capability}{where}, which the roster does not grant it",
                          who=sender)  # fmt: skip
    who = getattr(command, "who", sender)
    if who != sender and not is_controller(roster, sender):
        raise RemoteError(f"it is {sender}, and not {who}, that the audit names", who=sender)
    match command:
        case cmd.RegisterDevice():
            _check_register(roster, sender, command)
        case cmd.FinishTask() if command.device != sender:
            raise RemoteError(f"it may finish its own tasks only, found {command.device}'s", who=sender)
        case cmd.FailTask() if _runner(state, command) not in (None, sender):
            raise RemoteError(f"it may fail its own tasks only, {command.job} {command.task} is another's", who=sender)
        case cmd.Checkpoint():
            agent_state = state.agents.get(command.agent)
            if agent_state is not None and agent_state.device not in (None, sender):
                raise RemoteError(f"agent {command.agent} does not run there", who=sender)
        case cmd.ForgetDevice() if roster.role(command.device) is not None:
            raise RemoteError(
                f"device {command.device} is in roster {roster.version}, and is not forgotten", who=sender
            )
        case cmd.CancelJob():
            job = state.jobs.get(command.job)
            mine = job is None or job.who == sender or role in OPERATOR_ROLES or roster.may(sender, cap.DEPLOY)
            if not mine:
                raise RemoteError(f"job {command.job} is of another; expected one of its own", who=sender)
        case _:
            pass


def _check_register(roster: Roster, sender: str, command: cmd.RegisterDevice) -> None:
    """What a device is granted is the roster's to say, and not its own."""
    if command.device != sender:
        raise RemoteError(f"it may register itself only, found {command.device}", who=sender)
    member = roster.member(sender)
    grants = () if member is None else tuple(sorted(member.entry.capabilities))
    if command.capabilities.grants != grants:
        raise RemoteError(
            f"it claims the grants {', '.join(command.capabilities.grants) or 'none'}; roster {roster.version} has "
            f"{', '.join(grants) or 'none'}",
            who=sender,
        )


def _denied(roster: Roster, state: CellState, sender: str, command: cmd.Command, capability: str) -> str | None:
    """None: it is granted; else the agent for which it is not, or nothing where no agent is named."""
    if roster.may(sender, capability):
        return None
    agents = _agents(state, command)
    return next((agent for agent in agents if not agent or not roster.may(sender, capability, agent)), None)


def _agents(state: CellState, command: cmd.Command) -> list[str]:
    """The agents that a command is about; an empty name: it is about more than agents."""
    match command:
        case cmd.Deploy():
            return [command.spec.id]
        case cmd.Remove() | cmd.Checkpoint():
            return [command.agent]
        case cmd.StartRollout():
            return [command.agent]
        case cmd.AdvanceRollout() | cmd.SteerRollout():
            rollout = state.rollouts.get(command.rollout)
            return [rollout.agent if rollout is not None else ""]
        case cmd.Desire():
            return [want.agent for want in command.wants]
        case cmd.SubmitJob():
            return [agent for task in command.tasks for agent in agents_of(task)]
        case cmd.FinishTask():
            job = state.jobs.get(command.job)
            return agents_of(job.tasks[command.task]) if job is not None and command.task < len(job.tasks) else [""]
        case _:
            return [""]


def agents_of(task: TaskSpec) -> list[str]:
    """Whom a task asks; an empty name for a file that any device may run."""
    if task.map is not None:
        return [*task.map.agents, *([task.map.kernel] if task.map.kernel else [])]
    return [task.agent]


def _runner(state: CellState, command: cmd.FailTask) -> str | None:
    """The device that the task is given to; None: nobody, or there is no such task."""
    job = state.jobs.get(command.job)
    if job is None or command.task >= len(job.runs):
        return None
    return job.runs[command.task].device or None


def placeable(roster: Roster, device: DeviceState) -> DeviceState:
    """A device as the leader's plans shall see it: with the grants of the roster, whatever it registered with, and as
    drained where it may not run what the cell brings."""
    member = roster.member(device.id)
    grants = () if member is None else tuple(sorted(member.entry.capabilities))
    able = member is not None and member.entry.role != "reader" and cap.scoped(grants, cap.COMPUTE)
    offer = device.capabilities
    if able and offer.grants == grants:
        return device
    return replace(device, drained=device.drained or not able, capabilities=replace(offer, grants=grants))


def check_hosts(roster: Roster, device: str, agent: str) -> None:
    """For an agent that the cell has placed on `device`.  Raises NotGrantedError."""
    if not roster.may(device, cap.COMPUTE, agent):
        raise NotGrantedError(f"agent {agent}: the roster does not grant {cap.COMPUTE} to {device}")


# --- the fleet's root -------------------------------------------------------------------------------------------------


def check_root(book: RosterBook, state: CellState, sender: str, data: bytes) -> None:
    """A change of the root goes into the log if both roots signed it and it follows the root of now.

    Raises CertificateError, RemoteError.
    """
    roster = book.current
    change = root_change.open_change(data, fleet=roster.fleet)
    if data in state.roots:
        return
    known = root_change.linked(state.roots, book.root_public, fleet=roster.fleet)
    if known != roster.roots:
        raise RemoteError("a change of the fleet's root is under way; no roster of the new root is there yet",
                          who=sender)  # fmt: skip
    if change.old != book.root_public:
        raise RemoteError(
            f"root change: it follows root {cose.key_id(change.old).decode()}, the fleet's is "
            f"{cose.key_id(book.root_public).decode()}",
            who=sender,
        )
    try:
        root_change.open_row([*roster.roots, data], fleet=roster.fleet)
    except CertificateError as error:
        raise RemoteError(str(error), who=sender) from None


def check_roots(roster: Roster, state: CellState, sender: str) -> None:
    """A roster of a new root is taken once that stands in the log, where the first of two counts."""
    row = root_change.open_row(roster.roots, fleet=roster.fleet)
    if root_change.linked(state.roots, row[-1].new, fleet=roster.fleet) != roster.roots:
        raise RemoteError(f"roster {roster.version}: its change of the fleet's root is not the log's", who=sender)


# --- topics and tools -----------------------------------------------------------------------------------------------


def check_topic(roster: Roster, sender: str, topic: Topic) -> None:
    """Raises RemoteError where nothing that `sender` says on this topic is to be heard, whatever it says."""
    role = roster.role(sender)
    match topic.kind:
        case Kind.EVENT if role == "reader" and (topic.priority, topic.name) != ("low", "health"):
            raise RemoteError(f"a reader may not tell {topic.name}", who=sender)
        case Kind.ARTIFACT if role == "reader":
            raise RemoteError("a reader may not serve artefacts", who=sender)
        case Kind.DESIRED if role not in OPERATOR_ROLES:
            raise RemoteError(f"a {role} may not say what {topic.device} shall run", who=sender)
        case Kind.STREAM if not roster.may(sender, cap.PUBLISH + topic.agent, topic.agent):
            raise RemoteError(f"stream {topic.device}/{topic.agent}: {cap.PUBLISH}{topic.agent} is not granted to it",
                              who=sender)  # fmt: skip


def check_tools(roster: Roster, device: str, header: Header) -> None:
    """For an agent that somebody else brings to `device`.  Raises NotGrantedError."""
    agent = header.name
    for kind in sorted({one.type for one in (*header.wiring.sources, *header.wiring.sinks)} & {"exec", "webhook"}):
        if not roster.may(device, cap.TOOL + kind, agent):
            raise NotGrantedError(
                f"agent {agent}: it uses {kind}, and the roster does not grant {cap.TOOL}{kind} to {device}; an "
                f"operator grants it, to this agent only as {cap.TOOL}{kind}@{agent}"
            )
