"""docs/operating.md, run as a person would: every command of it, in order, in an empty folder."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from brokers import free_port, needs_mosquitto
from processes import ROOT, environment

pytestmark = pytest.mark.e2e

PRELUDE = r"""
set -eu -o pipefail
trap 'kill $(jobs -p) 2>/dev/null; wait' EXIT
trap 'echo "line $LINENO: $BASH_COMMAND" >&2' ERR
"""


def script_of(page: Path) -> str:
    """The commands of a page: what stands in its sh blocks."""
    return "\n".join(re.findall(r"^```sh\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL))


def test_every_command_of_the_operating_page_works_in_its_order(tmp_path: Path) -> None:
    needs_mosquitto()
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "edgeswarm").write_text(f'#!/bin/sh\nexec {sys.executable} -m edgeswarm "$@"\n')
    (tmp_path / "bin" / "edgeswarm").chmod(0o755)
    script = script_of(ROOT / "docs" / "operating.md")
    for port in ("8883", "8884"):
        script = script.replace(port, str(free_port()))
    env = environment(home=tmp_path)
    env["PATH"] = f"{tmp_path / 'bin'}:{os.environ['PATH']}:/usr/sbin"
    log = tmp_path / "log"
    with open(log, "wb") as out:
        done = subprocess.run(
            ["bash", "-c", PRELUDE + script], cwd=tmp_path, env=env, stdin=subprocess.DEVNULL, stdout=out, stderr=out,
            timeout=300, check=False,
        )  # fmt: skip
    assert done.returncode == 0, log.read_text(errors="replace")[-6_000:]
