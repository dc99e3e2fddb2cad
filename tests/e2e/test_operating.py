"""docs/operating.md, run as a person would: every command of it, in order, in an empty folder."""

from __future__ import annotations

from pathlib import Path

import pytest
from brokers import free_port, needs_mosquitto
from pages import commands, paste
from processes import ROOT

pytestmark = pytest.mark.e2e


def test_every_command_of_the_operating_page_works_in_its_order(tmp_path: Path) -> None:
    needs_mosquitto()
    script = commands((ROOT / "docs" / "operating.md").read_text())
    for port in ("8883", "8884"):
        script = script.replace(port, str(free_port()))
    paste(script, tmp_path)
