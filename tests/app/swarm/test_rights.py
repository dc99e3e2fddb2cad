"""Who may propose what: each role and each grant against each command, judged with a real roster."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any, get_args

import pytest
from cell_commands import Cell

from edgeswarm.app.swarm import rights
from edgeswarm.core.cell import commands as cmd
from edgeswarm.core.cell.types import AgentSpec, Assignment, Capabilities, MapSpec, TaskSpec, Want
from edgeswarm.errors import RemoteError
from edgeswarm.wire.capability import ALL
from edgeswarm.wire.certificate import ROLES, Certificate, Role, sign_certificate
from edgeswarm.wire.dev_fleet import make_dev_fleet
from edgeswarm.wire.roster import Roster
from edgeswarm.wire.roster_change import first_roster
from edgeswarm.wire.roster_form import Entry, sign_entry
from edgeswarm.wire.topics import Topics

NAMES = ("lead", "boss", "work", "read")
"""A device of each role: coordinator, administrator, worker, reader."""
ROLE_OF: dict[str, Role] = {"lead": "coordinator", "boss": "administrator", "work": "worker", "read": "reader"}
MADE = make_dev_fleet(4, entropy=b"rights", now_s=int(time.time()), names=NAMES)


def roster(grants: dict[str, tuple[str, ...]] | tuple[str, ...] = ()) -> Roster:
    """The four devices.  grants: of each, or of all."""
    rows = []
    for number, name in enumerate(NAMES, 1):
        held = grants if isinstance(grants, tuple) else grants.get(name, ())
        entry = Entry(name, number, ROLE_OF[name], tuple(sorted(held)), 1)
        public = MADE.device(name).public
        certificate = Certificate("dev", name, public, 1, MADE.roster.created_s, 1 << 33, ROLES)
        signed = sign_entry(entry, fleet="dev", cell="cell", by=MADE.operator)
        rows.append((signed, sign_certificate(certificate, MADE.issuer)))
    authorities = MADE.roster.authorities
    found = first_roster(
        fleet="dev",
        cell="cell",
        created_s=MADE.roster.created_s,
        authorities=authorities,
        entries=rows,
        voters=[1],
        by=MADE.operator,
    )
    found.verify(MADE.root_public)
    return found


DIGEST, TOKEN, ROLLOUT = bytes(32), "a" * 13, "0" * 16
ASK = TaskSpec("t", agent="mlp")


def samples(who: str) -> dict[type, cmd.Command]:
    """One command of each kind, as `who` would propose it."""
    offer = Capabilities()
    found: list[cmd.Command] = [
        cmd.Noop(),
        cmd.SetVersion(2),
        cmd.SetRoster(2, DIGEST, b"x"),
        cmd.Stop(who, "why"),
        cmd.Resume(who, "why"),
        cmd.Note(who, "what"),
        cmd.RegisterDevice(who, 1, offer),
        cmd.DeviceLost("work", 1),
        cmd.DeviceBack("work", 1),
        cmd.ForgetDevice("gone", who),
        cmd.Drain("work", True, who),
        cmd.Deploy(AgentSpec("mlp", DIGEST), 0, who),
        cmd.Place(()),
        cmd.Desire((Want("mlp", DIGEST),), who),
        cmd.Remove("mlp", who),
        cmd.Checkpoint("mlp", 1, DIGEST),
        cmd.SubmitJob("job", who, (ASK,)),
        cmd.AssignTasks(()),
        cmd.FinishTask("job", 0, 1, who, b""),
        cmd.FailTask("job", 0, 1, "why"),
        cmd.CancelJob("job", who, "why"),
        cmd.OpenSession(who),
        cmd.CloseSession(1),
        cmd.AddToken(TOKEN, DIGEST, "worker", 1, 1, False, (), (), who),
        cmd.UseToken(TOKEN, "new", DIGEST, 1),
        cmd.RevokeToken(TOKEN, who),
        cmd.SetLabels("work", (), who),
        cmd.StartRollout(ROLLOUT, "mlp", DIGEST, b"", who),
        cmd.AdvanceRollout(ROLLOUT, 1, (), who),
        cmd.SteerRollout(ROLLOUT, "paused", b"", "", who),
        cmd.RotateRoot(b"root", who),
    ]
    return {type(one): one for one in found}


def empty() -> Any:
    return Cell(version=3).state


def may(who: str, command: cmd.Command, held: Roster, state: Any = None) -> bool:
    try:
        rights.check_command(held, state or empty(), who, command)
    except RemoteError:
        return False
    return True


ANYBODY = {cmd.RegisterDevice, cmd.OpenSession}
MEMBER = ANYBODY | {cmd.Noop, cmd.Note, cmd.SetRoster, cmd.CloseSession, cmd.CancelJob, cmd.FailTask}
OPERATING = MEMBER | {cmd.Stop, cmd.Resume}
GRANTED = {
    "deploy": {cmd.Deploy, cmd.Remove},
    "neural.compute": {cmd.SubmitJob, cmd.FinishTask},
    "memory.access": {cmd.Checkpoint},
}
GRANTED_OPERATING = {
    "deploy": {cmd.Drain, cmd.Desire, cmd.SetLabels, cmd.StartRollout, cmd.AdvanceRollout, cmd.SteerRollout},
    "revoke": {cmd.ForgetDevice, cmd.RotateRoot},
    "token": {cmd.AddToken, cmd.UseToken, cmd.RevokeToken},
}
LEADERS = {cmd.DeviceLost, cmd.DeviceBack, cmd.Place, cmd.AssignTasks, cmd.SetVersion}


def test_each_command_has_a_rule_or_is_the_leader_s() -> None:
    kinds = {one for part in get_args(cmd.Command) for one in (get_args(part) or (part,))} - {
        cmd.Batch,
        cmd.WithSession,
    }
    assert set(samples("lead")) == kinds
    assert set(rights.RULES) | set(rights.LEADERS) == kinds
    assert not set(rights.RULES) & set(rights.LEADERS)


@pytest.mark.parametrize("who", NAMES)
@pytest.mark.parametrize("grant", ["", *ALL])
def test_a_role_may_what_its_grants_say_and_nothing_else(who: str, grant: str) -> None:
    """Without a grant, and with each one by itself: exactly these commands."""
    held = roster((grant,) if grant else ())
    expected = {"read": ANYBODY, "work": MEMBER}.get(who, OPERATING)
    if who != "read":
        expected = expected | GRANTED.get(grant, set())
    if who in ("lead", "boss"):
        expected = expected | GRANTED_OPERATING.get(grant, set())
    commands = samples(who)
    commands[cmd.RegisterDevice] = cmd.RegisterDevice(who, 1, Capabilities(grants=(grant,) if grant else ()))
    assert {kind for kind, command in commands.items() if may(who, command, held)} == expected


@pytest.mark.parametrize("who", [*NAMES, "stranger"])
def test_the_leader_s_own_commands_are_nobody_else_s(who: str) -> None:
    held = roster(ALL)
    for kind in LEADERS:
        with pytest.raises(RemoteError, match="the leader's to propose"):
            rights.check_command(held, empty(), who, samples(who)[kind])
    if who == "stranger":
        assert not any(may(who, command, held) for command in samples(who).values())


def test_a_device_registers_with_what_the_roster_grants_it() -> None:
    held = roster({"work": ("neural.compute",), "read": ()})
    assert may("work", cmd.RegisterDevice("work", 1, Capabilities(grants=("neural.compute",))), held)
    for device, grants in (("work", ("deploy", "neural.compute")), ("work", ()), ("read", ("neural.compute",))):
        with pytest.raises(RemoteError, match="it claims the grants"):
            rights.check_command(held, empty(), device, cmd.RegisterDevice(device, 1, Capabilities(grants=grants)))
    with pytest.raises(RemoteError, match="register itself only"):
        rights.check_command(held, empty(), "work", cmd.RegisterDevice("read", 1, Capabilities()))


def test_only_the_controller_speaks_in_the_name_of_others() -> None:
    held = roster({"lead": ("deploy", "token"), "boss": ("deploy", "token"), "work": ("deploy",)})
    for who, expected in (("lead", True), ("boss", False), ("work", False)):
        assert may(who, cmd.Deploy(AgentSpec("mlp", DIGEST), 0, "console-ann"), held) is expected
    assert not may("lead", cmd.Note("boss", "it was the boss"), roster({"lead": ("deploy",)}))


def test_a_grant_to_one_agent_is_good_for_no_other() -> None:
    held = roster(("deploy@mlp", "memory.access@mlp", "neural.compute@mlp"))
    state = empty()
    for name, expected in (("mlp", True), ("other", False)):
        assert may("work", cmd.Deploy(AgentSpec(name, DIGEST), 0, "work"), held) is expected
        assert may("work", cmd.Remove(name, "work"), held) is expected
        assert may("work", cmd.Checkpoint(name, 1, DIGEST), held) is expected
        assert may("work", cmd.SubmitJob("j", "work", (TaskSpec("t", agent=name),)), held) is expected
        assert may("boss", cmd.StartRollout(ROLLOUT, name, DIGEST, b"", "boss"), held) is expected
    both = MapSpec(("mlp", "other"), "mean")
    for task in (TaskSpec("t", artefact=DIGEST), TaskSpec("t", map=both)):
        assert not may("work", cmd.SubmitJob("j", "work", (ASK, task)), held)
    assert may("work", cmd.SubmitJob("j", "work", (TaskSpec("t", map=MapSpec(("mlp",), "mean")),)), held)
    assert not may(
        "work", cmd.SubmitJob("j", "work", (TaskSpec("t", map=MapSpec(("mlp",), "kernel", 1, "other")),)), held
    )
    cell = Cell(version=3)
    cell(cmd.StartRollout(ROLLOUT, "mlp", DIGEST, b"", "boss"))
    cell(cmd.StartRollout("f" * 16, "other", DIGEST, b"", "boss"))
    for name, expected in ((ROLLOUT, True), ("f" * 16, False), ("1" * 16, False)):
        assert may("boss", cmd.AdvanceRollout(name, 1, (), "boss"), held, cell.state) is expected
        assert may("boss", cmd.SteerRollout(name, "paused", b"", "", "boss"), held, cell.state) is expected
    assert state.rollouts == {}


def test_what_is_another_s_is_left_alone() -> None:
    held = roster({"work": ("memory.access", "neural.compute"), "lead": ("neural.compute",)})
    cell = Cell(version=3)
    for device in ("lead", "work"):
        cell.device(device)
    cell.agent("mlp", on="lead", stateful=True)
    cell(cmd.SubmitJob("job", "lead", (ASK,)))
    cell(cmd.AssignTasks((Assignment("job", 0, 1, "lead"),)))
    for command in (
        cmd.Checkpoint("mlp", 1, DIGEST),
        cmd.FailTask("job", 0, 1, "why"),
        cmd.CancelJob("job", "work", "why"),
        cmd.FinishTask("job", 0, 1, "lead", b""),
    ):
        assert not may("work", command, held, cell.state), command
    assert may("lead", cmd.FailTask("job", 0, 1, "why"), held, cell.state)
    assert may("boss", cmd.CancelJob("job", "boss", "why"), held, cell.state)


def test_a_device_of_the_roster_is_not_forgotten() -> None:
    held = roster({"boss": ("revoke",)})
    assert may("boss", cmd.ForgetDevice("gone", "boss"), held)
    assert not may("boss", cmd.ForgetDevice("work", "boss"), held)


# --- topics, placement, tools -----------------------------------------------------------------------------------------

TOPICS = Topics("dev", "cell")


@pytest.mark.parametrize(
    ("who", "topic", "expected"),
    [
        ("read", TOPICS.event("low", "health"), True),
        ("read", TOPICS.event("critical", "alert"), False),
        ("read", TOPICS.event("high", "task.completion"), False),
        ("read", TOPICS.event("low", "task.progress"), False),
        ("read", TOPICS.event("high", "health"), False),
        ("read", TOPICS.artifact("0" * 64, 1), False),
        ("read", TOPICS.status("read"), True),
        ("read", TOPICS.stream("read", "mlp"), False),
        ("read", TOPICS.desired("work"), False),
        ("work", TOPICS.event("critical", "alert"), True),
        ("work", TOPICS.stream("work", "mlp"), True),
        ("work", TOPICS.stream("work", "other"), False),
        ("work", TOPICS.desired("work"), False),
        ("boss", TOPICS.desired("work"), True),
        ("boss", TOPICS.stream("boss", "mlp"), False),
    ],
)
def test_what_a_role_may_not_say_is_not_heard(who: str, topic: str, expected: bool) -> None:
    held = roster({"work": ("stream.publish:mlp",), "read": ()})
    parsed = TOPICS.parse(topic)
    if expected:
        rights.check_topic(held, who, parsed)
    else:
        with pytest.raises(RemoteError):
            rights.check_topic(held, who, parsed)


def test_plans_see_the_roster_s_grants_and_not_what_a_device_claimed() -> None:
    held = roster({"work": ("neural.compute", "tool:exec"), "lead": ("neural.compute@mlp",), "boss": ("deploy",)})
    cell = Cell(version=3)
    for device in (*NAMES, "gone"):
        cell.device(device, grants=ALL)
    seen = {name: rights.placeable(held, device) for name, device in cell.state.devices.items()}
    assert {name for name, device in seen.items() if not device.drained} == {"work", "lead"}
    assert seen["work"].capabilities.grants == ("neural.compute", "tool:exec")
    assert seen["gone"].capabilities.grants == ()


@pytest.mark.parametrize("kind", ["exec", "webhook"])
def test_an_agent_that_others_bring_starts_no_tool_that_is_not_granted(kind: str) -> None:
    wiring = SimpleNamespace(sources=(), sinks=(SimpleNamespace(type="stdout"), SimpleNamespace(type=kind)))
    header: Any = SimpleNamespace(name="mlp", wiring=wiring)
    for grants, expected in (((), False), (("tool:*",), True), ((f"tool:{kind}@mlp",), True), (("tool:x",), False)):
        held = roster({"work": grants})
        if expected:
            rights.check_tools(held, "work", header)
        else:
            with pytest.raises(rights.NotGrantedError, match=f"does not grant tool:{kind} to work"):
                rights.check_tools(held, "work", header)
    wiring.sinks = (SimpleNamespace(type="stdout"),)
    rights.check_tools(roster(), "work", header)
