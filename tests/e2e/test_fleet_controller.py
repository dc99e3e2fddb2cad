"""The controller as operators have it: by its socket, by the broker, from a kit elsewhere, and back from a backup."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path

import pytest
from fleet_rig import PASSPHRASE, Rig, fleet_rig
from processes import wait_for

pytestmark = pytest.mark.e2e


def test_operator_appointed_by_the_root_works_from_another_machine(tmp_path: Path) -> None:
    """A kit holds neither root nor issuer key; what it asks goes through the broker, and is answered."""
    with fleet_rig(tmp_path / "site") as rig:
        rig.serve()
        rig.cli("fleet", "operator", "add", "alice", "-o", "alice.kit", "--kit-passphrase-file", "pass")
        assert [one["name"] for one in rig.json("fleet", "operator", "list")] == ["alice", "operator"]
        again = rig.cli("fleet", "operator", "add", "alice", "-o", "b.kit", "--kit-passphrase-file", "pass", expect=2)
        assert "there is one of that name" in again
        elsewhere = {"EDGESWARM_FLEET": str(tmp_path / "alice")}
        rig.cli("fleet", "operator", "install", str(rig.home / "alice.kit"), env=elsewhere)
        kept = {path.name for path in (tmp_path / "alice").rglob("*") if path.is_file()}
        assert not kept & {"root.key", "issuer.key"} and "alice.key" in kept
        status = json.loads(rig.cli("fleet", "status", "--json", env=elsewhere))
        assert status["controller"] == "controller" and status["broker_connected"]


def test_controller_that_is_lost_comes_back_from_its_backup(tmp_path: Path) -> None:
    """Keys, log and roster return; the log goes on in a higher term; a wrong passphrase opens nothing."""
    with fleet_rig(tmp_path / "site") as rig:
        rig.serve()
        before = rig.json("fleet", "status")
        rig.cli("fleet", "backup", "-o", "site.backup")
        text = (rig.home / "site.backup").read_bytes()
        assert b"device.key" not in text and PASSPHRASE.encode() not in text
        rig.end("controller")
        shutil.rmtree(rig.folder.path)
        (rig.home / "wrong").write_text("not the passphrase\n")
        (rig.home / "wrong").chmod(0o600)
        refused = rig.cli(
            "fleet", "restore", "site.backup", "--yes", "--passphrase-file", str(rig.home / "wrong"), expect=None
        )
        assert "passphrase is wrong" in refused and not rig.folder.path.exists()
        restored = rig.json("fleet", "restore", "site.backup", "--yes")
        assert restored["vote"] == "alone"
        rig.serve()
        after = rig.json("fleet", "status")
        assert after["term"] > before["term"] + 900 and after["leader"] == "controller"


def test_controller_killed_with_its_broker_starts_again_and_takes_no_other_ones_broker(tmp_path: Path) -> None:
    """kill -9 leaves mosquitto behind: the next controller ends it; a second controller ends nobody's."""
    with fleet_rig(tmp_path / "site") as rig:
        rig.serve()
        second = rig.cli("fleet", "broker", "run", expect=None)
        assert "is taken" in second
        assert rig.json("fleet", "status")["broker_connected"]
        rig.kill("controller")
        rig.serve()
        assert "broker_orphan_ended" in rig.tail("controller", 100)
        assert rig.json("fleet", "status")["leader"] == "controller"


def test_revoked_device_is_out_for_good_over_restarts_of_broker_and_controller(tmp_path: Path) -> None:
    """Its own running supervisor tries to come back all the time, with the certificate that it was given at join."""
    with fleet_rig(tmp_path / "site") as rig:
        rig.serve()
        token = rig.token("--uses", "2")
        for device in ("press-1", "press-2"):
            rig.join(device, token)
            rig.run(device)
        wait_for(lambda: online(rig) >= {"press-1", "press-2"}, "both are online", within_s=30)
        rig.cli("fleet", "revoke", "press-2", "--reason", "stolen", "--yes")
        state = str(rig.state("press-2"))

        def is_out() -> bool:
            return not rig.json("swarm", "status", "--state", state)["transport"]["connected"]

        wait_for(is_out, "its session has ended", within_s=15)
        assert "device_revoked" in rig.tail("press-2", 100)
        rig.end("controller")
        rig.serve()
        wait_for(lambda: "press-1" in online(rig), "the other one comes back", within_s=30)
        time.sleep(3)  # several tries of press-2
        assert is_out() and "press-2" not in online(rig)


def test_no_device_minds_that_the_controller_is_down(tmp_path: Path) -> None:
    """Broker alone: a rolled-out agent runs on, also over a restart of its device; a device that is new has to wait."""
    with fleet_rig(tmp_path / "site") as rig:
        rig.start("broker", "fleet", "broker", "run")
        rig.serve_alone()
        rig.join("press-1", rig.token())
        rig.run("press-1")
        rig.cli("agent", "new", "watch")
        rig.cli("agent", "build", "watch/agent.yaml", "--weights", "watch/weights.json", "-o", "watch.af")
        wait_for(lambda: "press-1" in online(rig), "it is online", within_s=30)
        rig.cli("fleet", "deploy", "watch.af", "--waves", "100%", "--gate", "healthy=1s,pause=0s", "--watch")
        late = rig.token()
        rig.kill("controller")
        state = str(rig.state("press-1"))

        def rows() -> int:
            found = rig.json("status", "--state", state)["agents"]
            return int(found[0]["counters"].get("rows_in", 0)) if found else 0

        before = rows()
        wait_for(lambda: rows() > before, "its agent reads on", within_s=20)
        rig.end("press-1")
        rig.run("press-1")
        wait_for(lambda: (rig.state("press-1") / "run" / "press-1.sock").exists(), "it listens again", within_s=30)
        wait_for(lambda: rows() > 0, "its agent is back, with nobody to lead", within_s=20)
        waiting = rig.cli(
            "join", "--state", str(rig.state("press-2")), "--token-file", str(late), "--wait", "3", expect=None
        )
        assert "no answer" in waiting and "does the controller run" in waiting


def online(rig: Rig) -> set[str]:
    return {row["device"] for row in rig.json("fleet", "devices")["devices"] if row["state"] == "online"}
