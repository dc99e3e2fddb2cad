"""Under what the unit locks, jails are made as without it: every layer, and an agent that computes.

No systemd runs here, so tests/support/like_unit.py does what PrivateUsers, ProtectProc, NoNewPrivileges,
CapabilityBoundingSet and SystemCallFilter do; the filter is read from the unit that ships.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from processes import NOBODY, command_line, environment, interpreter, publisher, write_agent
from supervised import header_tree

from edgeswarm.assets import asset

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root, as systemd does"),
    pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze says what is in a group"),
]
LIKE_UNIT = Path(__file__).resolve().parents[1] / "support" / "like_unit.py"


def denied(text: str) -> set[str]:
    """The system calls that a unit's SystemCallFilter=~ lines name, groups expanded."""
    todo = [word for line in re.findall(r"(?m)^SystemCallFilter=~(.*)$", text) for word in line.split()]
    found: set[str] = set()
    while todo:
        word = todo.pop()
        if not word.startswith("@"):
            found.add(word)
            continue
        done = subprocess.run(["systemd-analyze", "syscall-filter", word], capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        todo += [line.split()[0] for line in done.stdout.splitlines()[1:] if line.strip() and "#" not in line]
    return found


def under_unit(tmp_path: Path, *arguments: str, more: frozenset[str] = frozenset()) -> subprocess.CompletedProcess[str]:
    pytest.importorskip("pyseccomp")
    calls = tmp_path / "calls"
    unit = asset("firmware_configs", "linux/systemd/edgeswarm.service").read_text()
    calls.write_text("\n".join(sorted(denied(unit) | more)))
    command = [sys.executable, str(LIKE_UNIT), str(NOBODY), str(calls), "--", interpreter(NOBODY), "-m", "edgeswarm"]
    return subprocess.run(
        [*command, *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        cwd="/tmp",
        env=environment(home=Path("/nonexistent")),
    )


def test_every_layer_is_there_as_without_the_unit(tmp_path: Path) -> None:
    without = json.loads(command_line("doctor", "--json", user=NOBODY).stdout)
    done = under_unit(tmp_path, "doctor", "--json")
    assert done.returncode == 0, done.stderr
    inside = json.loads(done.stdout)
    assert inside["tier"] == without["tier"]
    assert {name: check["state"] for name, check in inside["layers"].items()} == {
        name: check["state"] for name, check in without["layers"].items()
    }


def test_an_agent_computes_in_a_jail(state: Path, tmp_path: Path) -> None:
    import numpy as np

    from edgeswarm.model import from_arrays

    state.mkdir()
    state.chmod(0o777)
    model = from_arrays([np.ones((2, 2), np.float32)], [np.zeros(2, np.float32)])
    write_agent(state / "a.af", header_tree("a", 2, 2), model, publisher(tmp_path))
    (state / "a.af").chmod(0o644)
    (state / "in.csv").write_text("x,y\n1,2\n3,4\n")
    done = under_unit(
        tmp_path, "agent", "run", str(state / "a.af"), "--input", str(state / "in.csv"), "--output",
        str(state / "out.csv"), "--state", str(state / "s"),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (state / "out.csv").read_text() == "3,3\n7,7\n"


def test_what_the_unit_leaves_open_is_needed(tmp_path: Path) -> None:
    """One of @mount more, and the layers that stand on it are gone: the emulation does deny."""
    done = under_unit(tmp_path, "doctor", "--json", more=frozenset({"pivot_root", "mount"}))
    assert json.loads(done.stdout)["tier"] != "A"
