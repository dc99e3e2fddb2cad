"""Rollouts as a person does them: `fleet deploy`, real controller, real devices, mutual TLS."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fleet_rig import Rig, fleet_rig
from processes import wait_for
from swarm_cells import agent_file

from edgeswarm.drivers import keys

pytestmark = pytest.mark.e2e
DEVICES = ("press-1", "press-2")
GATE = ("--gate", "healthy=1s,pause=1s")


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    home = tmp_path_factory.mktemp("rollout")
    with fleet_rig(home / "site") as found:
        found.serve()
        token = found.token("--uses", "2", "--label", "site=hall-3")
        publisher, _ = keys.load_or_make(found.home / "publisher.key")
        keys.trust(found.folder.controller / "trust.d", publisher.public, "test")  # devices: by the operator's plan
        for device in DEVICES:
            found.join(device, token)
            found.run(device)
        found.cli("fleet", "status", "--wait", "30")
        wait_for(lambda: seen(found) == set(DEVICES), "both devices are seen", within_s=60)
        yield found


def seen(rig: Rig) -> set[str]:
    rows = rig.json("fleet", "devices", "state=online,site=hall-3")["devices"]
    return {row["device"] for row in rows}


def version(rig: Rig, number: int, **changes: Any) -> Path:
    publisher, _ = keys.load_or_make(rig.home / "publisher.key")
    path = rig.home / f"pump-{number}.af"
    path.write_bytes(agent_file(publisher, "pump", agent_version=f"1.0.{number}", **changes))
    return path


def running(rig: Rig, device: str) -> str:
    found = json.loads(rig.cli("status", "--state", str(rig.state(device)), "--json"))
    return "".join(agent["version"] for agent in found["agents"] if agent["name"] == "pump")


def test_person_deploys_watches_and_rolls_back(rig: Rig) -> None:
    """Version 1 to both in two waves; version 2; then the operator takes 2 back."""
    would = rig.json("fleet", "deploy", str(version(rig, 1)), "--to", "site=hall-3", "--waves", "1,100%", "--dry-run")
    assert (would["matched"], would["sizes"]) == (2, [1, 2])
    rows = rig.cli(
        "fleet", "deploy", str(version(rig, 1)), "--to", "site=hall-3", "--waves", "1,100%", *GATE, "--watch", "--json"
    )
    last = json.loads(rows.splitlines()[-1])
    assert (last["state"], last["healthy"], last["failed"]) == ("done", 2, 0)
    assert [running(rig, device) for device in DEVICES] == ["1.0.1", "1.0.1"]
    rig.cli("fleet", "deploy", str(version(rig, 2)), "--to", "site=hall-3", "--waves", "100%", *GATE, "--watch")
    assert [running(rig, device) for device in DEVICES] == ["1.0.2", "1.0.2"]
    newest = rig.json("fleet", "rollouts")[0]["rollout"]
    rig.cli("fleet", "rollback", newest[:8], "--why", "too loud at night")
    wait_for(lambda: {running(rig, d) for d in DEVICES} == {"1.0.1"}, "both are back", within_s=30)
    shown = rig.cli("fleet", "rollouts", newest)
    assert "too loud at night" in shown and "press-1" in shown


def test_downgrade_reaches_the_canary_only_and_changes_nothing(rig: Rig) -> None:
    if running(rig, DEVICES[0]) == "":
        rig.cli("fleet", "deploy", str(version(rig, 1)), "--to", "site=hall-3", "--waves", "100%", *GATE, "--watch")
    text = rig.cli(
        "fleet", "deploy", str(version(rig, 0)), "--to", "site=hall-3", "--waves", "1,100%", *GATE, "--watch", expect=3
    )
    assert "rolled_back" in text and "--allow-downgrade" in text
    assert {running(rig, device) for device in DEVICES} == {"1.0.1"}
    newest = rig.json("fleet", "rollouts")[0]
    assert newest["reached"] == 1


@pytest.mark.soak
def test_rollout_is_paused_and_goes_on(rig: Rig) -> None:
    found = rig.json(
        "fleet",
        "deploy",
        str(version(rig, 5)),
        "--to",
        "site=hall-3",
        "--waves",
        "1,100%",
        "--gate",
        "healthy=1s,pause=2s",
    )
    rig.cli("fleet", "pause", found["rollout"])
    assert rig.json("fleet", "rollouts", found["rollout"])["state"] == "paused"
    rig.cli("fleet", "resume", found["rollout"])
    rig.cli("fleet", "rollouts", found["rollout"], "--watch")
    assert {running(rig, device) for device in DEVICES} == {"1.0.5"}


def test_what_is_wrong_is_said_before_anything_begins(rig: Rig, tmp_path: Path) -> None:
    bad = tmp_path / "bad.af"
    bad.write_bytes(b"%EdgeSwarm-AF 1\nname: x\n")
    assert "bad.af" in rig.cli("fleet", "deploy", str(bad), expect=3)
    good = str(version(rig, 9))
    assert "waves" in rig.cli("fleet", "deploy", good, "--waves", "50%,10%", expect=None)
    assert "gate" in rig.cli("fleet", "deploy", good, "--gate", "healthy=soon", expect=2)
    assert rig.cli("fleet", "deploy", good, "--to", "((", expect=2)
    assert "the beginning of one rollout's id" in rig.cli("fleet", "pause", "ffff", expect=2)


def test_controller_that_ends_between_two_waves_goes_on_where_it_was(rig: Rig) -> None:
    """The devices do not mind; the wave waits; what is known is in the log and in what devices retain."""
    gate = ("--gate", "healthy=1s,pause=6s")
    file = str(version(rig, 7))
    found = rig.json("fleet", "deploy", file, "--to", "site=hall-3", "--waves", "1,100%", "--allow-downgrade", *gate)
    wait_for(lambda: "1.0.7" in {running(rig, device) for device in DEVICES}, "the canary runs it", within_s=30)
    rig.end("controller")  # and the broker with it
    assert max(running(rig, device) for device in DEVICES) == "1.0.7"
    rig.serve()
    rig.cli("fleet", "rollouts", found["rollout"], "--watch")
    assert {running(rig, device) for device in DEVICES} == {"1.0.7"}
