"""The controller's command on alerts: data on its input, one process at a time, and never without an end."""

from __future__ import annotations

import asyncio
import json
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest
from fleet_index import NOW

from edgeswarm.app.fleet.alerts import Alerts
from edgeswarm.app.fleet.index_rows import AlertRow
from edgeswarm.app.log import Log
from edgeswarm.errors import ConfigError


def alert(at: int = 0, text: str = "x") -> AlertRow:
    return AlertRow(NOW, "press-1", "critical", f"c{at}", text)


async def until(look: Any) -> None:
    for _ in range(500):
        if look():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("did not happen")


def python(code: str) -> str:
    return shlex.join([sys.executable, "-c", code])


async def test_command_gets_the_alert_on_its_input_and_never_in_its_arguments(tmp_path: Path) -> None:
    out = tmp_path / "out"
    alerts = Alerts(Log(stream=None), python(f"import sys; open({str(out)!r}, 'a').write(sys.stdin.read())"), pause_s=0)
    alerts.start()
    alerts.heard(alert(text="$(touch /tmp/owned); `id`"))
    await until(lambda: alerts.counts["commands_run"] == 1)
    await alerts.close()
    assert json.loads(out.read_text())["text"] == "$(touch /tmp/owned); `id`"


async def test_command_that_hangs_is_killed_with_what_it_started_and_one_that_fails_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgeswarm.app.fleet.alerts.ALERT_COMMAND_S_MAX", 0.5)
    log, pid = Log(stream=None), tmp_path / "pid"
    start = (
        f"import subprocess; p = subprocess.Popen(['sleep', '60']); open({str(pid)!r}, 'w').write(str(p.pid)); p.wait()"
    )
    alerts = Alerts(log, python(start), pause_s=0)
    alerts.start()
    alerts.heard(alert())
    await until(lambda: alerts.counts["commands_failed"] == 1)
    await alerts.close()
    stat = Path(f"/proc/{pid.read_text()}/stat")
    await until(lambda: not stat.exists() or stat.read_text().split()[2] == "Z")  # nobody may be there to reap it
    assert any("not done in" in line for line in log.ring.lines)
    for command in ("/nowhere/at/all", python("raise SystemExit(3)")):
        alerts = Alerts(log, command, pause_s=0)
        alerts.start()
        alerts.heard(alert())
        await until(lambda alerts=alerts: alerts.counts["commands_failed"] == 1)
        await alerts.close()


async def test_storm_of_alerts_is_one_process_at_a_time_and_a_bounded_queue() -> None:
    log = Log(stream=None)
    alerts = Alerts(log, python("pass"))
    for at in range(1_000):
        alerts.heard(alert(at % 3))
    assert alerts.counts["commands_dropped"] == 1_000 - 64
    assert len([line for line in log.ring.lines if "fleet_alert" in line]) == 3
    with pytest.raises(ConfigError, match="--on-alert"):
        Alerts(log, "unbalanced 'quote")
