"""`edgeswarm fleet rotate root` as a person runs it: real processes, a device that is off, a token of before."""

from __future__ import annotations

from pathlib import Path

import pytest
from fleet_rig import Rig, fleet_rig
from processes import wait_for

from edgeswarm.drivers import keys
from edgeswarm.drivers.pki import x509

FAST = 90.0


def alive(rig: Rig, device: str) -> bool:
    rows = rig.json("fleet", "devices")["devices"]
    return any((row["device"], row["state"]) == (device, "online") for row in rows)


@pytest.mark.soak  # 20 s; tests/app/fleet/test_rotate_root.py has the same in one process
def test_root_is_replaced_by_the_command_and_who_was_off_comes_back(tmp_path: Path) -> None:
    with fleet_rig(tmp_path) as rig:
        rig.serve()
        token = rig.token("--uses", "3")
        for device in ("on", "off"):
            rig.join(device, token)
        asked = (rig.state("on") / "swarm" / "join-brokers").read_text()
        assert asked == "".join(f"{url}\n" for url in rig.folder.config.join_brokers)
        rig.run("on")
        wait_for(lambda: alive(rig, "on"), "it is in the cell", within_s=FAST)
        old = keys.read_pub(rig.folder.root_pub)
        found = rig.json("fleet", "rotate", "root")
        new = keys.read_pub(rig.folder.root_pub)
        assert found["root"] == keys.key_id(new) and found["old"] == keys.key_id(old) and old != new

        def root_of(device: str) -> bytes:
            return keys.read_pub(rig.state(device) / "swarm" / "root.pub")

        wait_for(lambda: root_of("on") == new, "it follows", within_s=FAST)
        assert "not finished" in rig.cli("fleet", "rotate", "root", expect=None)
        rig.json("fleet", "rotate", "root", "--finish")
        rig.end("controller")
        rig.serve()
        rig.cli("fleet", "broker", "check")
        rig.run("off")  # has the old root only
        wait_for(lambda: root_of("off") == new and alive(rig, "off"), "who was off follows", within_s=FAST)
        rig.join("new", token)  # it pins the issuer, which is the same
        assert root_of("new") == new
        rig.run("new")
        wait_for(lambda: alive(rig, "new"), "it is in the cell", within_s=FAST)
        for device in ("on", "off", "new"):
            ca = x509.split((rig.state(device) / "swarm" / "ca.crt").read_bytes())
            assert old not in {x509.public_of(pem) for pem in ca}
        proof = str(tmp_path / "leader.cert")
        rig.cli("swarm", "leader", "--state", str(rig.state("on")), "-o", proof)
        rig.cli("swarm", "verify-leader", proof, "--dir", str(rig.state("off")))
        rig.join("on", token)  # again, with the daemon running: it is the same cell
        assert '"join_unreadable"' not in rig.tail("controller", 10_000)
        rig.cli("audit", "verify", "--state", str(rig.folder.controller))
        assert "fleet.root.change" in rig.cli("audit", "show", "--state", str(rig.folder.controller), "--json")
