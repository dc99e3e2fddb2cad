"""Joining as people do it: commands, processes, kill -9."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from fleet_rig import PATIENCE_S, Rig, fleet_rig
from processes import wait_for

from edgeswarm.app.fleet.link import socket_path

pytestmark = pytest.mark.e2e


def serve_until(rig: Rig, step: str) -> None:
    """A controller that ends as in a power cut when it comes to `step`."""
    rig.start("controller", "fleet", "serve", env={"EDGESWARM_CUT": step})
    wait_for(socket_path(rig.folder).exists, "the controller listens", within_s=PATIENCE_S)
    rig.cli("fleet", "status", "--wait", str(PATIENCE_S))


def test_controller_killed_between_consuming_a_token_and_answering_repairs_it(tmp_path: Path) -> None:
    """kill -9 before the roster has the device, and again when it has; the device asks on and joins, once."""
    with fleet_rig(tmp_path / "site") as rig:
        rig.start("broker", "fleet", "broker", "run")
        serve_until(rig, "join.used")
        token = rig.token("--uses", "2")
        state = str(rig.state("gate-1"))
        joining = rig.start("gate-1", "join", "--state", state, "--name", "gate-1", "--token-file", str(token))
        assert rig.processes["controller"].wait(30) == -9
        serve_until(rig, "join.enrolled")
        assert rig.processes["controller"].wait(30) == -9
        assert joining.poll() is None
        serve_until(rig, "never")
        assert joining.wait(60) == 0, rig.tail("gate-1")
        rows = rig.json("fleet", "token", "list")
        assert [row["used"] for row in rows] == [["gate-1"]]
        assert "joined plant/main as gate-1" in rig.tail("gate-1")


def test_story_of_a_token_on_the_command_line(tmp_path: Path) -> None:
    """Made, shown as a QR code, looked at, used, approved, refused, left and reset; each with its exit code."""
    with fleet_rig(tmp_path / "site") as rig:
        rig.serve()
        shown = rig.cli("fleet", "token", "create", "--ttl", "15m", "--label", "line=3", "--qr")
        text = shown.strip().splitlines()[-1]
        assert text.startswith("es1.") and len(shown.strip().splitlines()) == 1, "the QR code is on standard error"
        state = str(rig.state("gate-1"))
        planned = rig.cli("join", "-", "--state", state, "--dry-run", stdin=text)
        assert "its certificate is right" in planned and "nothing was sent" in planned
        assert not (rig.state("gate-1") / "swarm").exists()
        done = json.loads(
            rig.cli("join", "--state", state, "--name", "gate-1", "--json", env={"EDGESWARM_TOKEN": text})
        )
        assert done["joined"] and done["device"] == "gate-1"
        used = rig.cli("join", "-", "--state", str(rig.state("gate-2")), stdin=text, expect=3)
        assert "was good once, and is used" in used and text.rpartition(".")[2] not in used
        rig.cli("fleet", "token", "create", "--ttl", "soon", expect=2)
        rig.cli("fleet", "token", "create", "--grant", "fly", expect=2)
        rig.cli("join", "--state", state, "es1.rot", expect=2)

        token = rig.token("--role", "coordinator")
        path = str(token)
        joining = rig.start("press-1", "join", "--state", str(rig.state("press-1")), "--name", "press-1",
                            "--token-file", path)  # fmt: skip
        end = time.monotonic() + PATIENCE_S
        while not (rows := rig.json("fleet", "pending")):
            assert time.monotonic() < end and joining.poll() is None, rig.tail("press-1")
            time.sleep(0.2)
        assert rows[0]["device"] == "press-1" and rows[0]["role"] == "coordinator"
        approved = rig.json("fleet", "approve", rows[0]["id"])  # signs with the operator's key
        assert approved[0]["role"] == "coordinator" and joining.wait(30) == 0

        assert "left plant" in rig.cli("leave", "--yes", "--state", state)
        rig.cli("leave", "--yes", "--state", state, expect=2)
        assert "keys" in rig.cli("leave", "--factory-reset", "--yes", "--state", state)
        assert not (rig.state("gate-1") / "keys").exists()
