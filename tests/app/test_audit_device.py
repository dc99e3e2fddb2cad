"""What a running device writes into its audit log: who asked for what through the control socket, and how it ended."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest
from supervised import Bench

from edgeswarm.app import audit
from edgeswarm.app.control_ops import ControlOps
from edgeswarm.drivers.control import ControlClient, ControlError, ControlServer


async def test_changes_through_the_socket_are_noted_with_uid_and_pid(bench: Bench, tmp_path: Path) -> None:
    ops = ControlOps(bench.supervisor, lambda: None)
    server = ControlServer(bench.state / "run" / "t.sock", ops.answer)
    await server.start()

    def ask() -> None:
        with ControlClient(bench.state / "run" / "t.sock") as client:
            client.call("status")
            client.call("deploy", files=[{"who": "a.af", "data": bench.mlp("a")}])
            client.call("stop", name="a")
            with pytest.raises(ControlError):
                client.call("start", name="b")
            client.call("remove", name="a")

    await asyncio.to_thread(ask)
    await server.close()
    bench.supervisor.audit.flush()
    folder = bench.state / "audit"
    found = [entry for entry in audit.entries(folder) if entry["action"].startswith("op.")]
    me = f"uid {os.getuid()} pid {os.getpid()}"
    assert {entry["name"] for entry in found} == {me}
    assert [(entry["action"], entry["outcome"]) for entry in found] == [
        ("op.deploy", "ok"), ("op.stop", "ok"), ("op.start", "failed"), ("op.remove", "ok"),
    ]  # fmt: skip
    assert found[0]["target"].startswith("a@") and "b" in found[2]["reason"]
    fault, _, _ = audit.verify(folder, [bench.supervisor.shelf.device_key.public])
    assert fault is None
