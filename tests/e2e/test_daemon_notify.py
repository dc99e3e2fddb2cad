"""A supervisor and its service manager: ready when it answers, beats while it lives, says that it stops."""

from __future__ import annotations

import select
import signal
from pathlib import Path

import pytest
from notify_manager import Manager
from processes import Start, wait_for

pytestmark = pytest.mark.e2e


def test_a_supervisor_says_ready_when_its_socket_answers_beats_and_says_that_it_stops(
    daemons: Start,
    state: Path,
    tmp_path: Path,
) -> None:
    manager = Manager(str(tmp_path / "n"))
    try:
        daemon = daemons(state, env={"NOTIFY_SOCKET": manager.name, "WATCHDOG_USEC": "400000"})
        heard: list[str] = []

        def said(line: str) -> bool:
            heard.extend(manager.heard())
            return line in heard

        wait_for(lambda: said("READY=1"), "READY=1", within_s=20)
        assert daemon.call("status")["device"], "whoever waited for READY finds the control socket"
        wait_for(lambda: said("WATCHDOG=1"), "a beat")
        daemon.process.send_signal(signal.SIGSTOP)  # as good as hung
        heard.extend(manager.heard())
        assert not select.select([manager.socket], [], [], 0.8)[0]
        daemon.process.send_signal(signal.SIGCONT)
        assert "STOPPING=1" not in heard
        assert daemon.end() == 0
        assert said("STOPPING=1")
    finally:
        manager.socket.close()
