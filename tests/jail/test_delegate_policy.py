"""LiteRT with XNNPACK under the policy `delegate`, for real, where the package is installed."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import jail_kernels as k
import pytest

pytestmark = pytest.mark.e2e

PROGRAM = Path(__file__).resolve().parents[1] / "support" / "delegate_jail.py"


@pytest.mark.parametrize("threads", [1, 4])
@pytest.mark.parametrize("looks", ["first", "late"])
def test_litert_answers_rightly_in_a_jail_of_its_policy(threads: int, looks: str) -> None:
    if importlib.util.find_spec("ai_edge_litert") is None:
        pytest.skip("ai-edge-litert is not installed: pip install 'edgeswarm[delegates]'")
    done = subprocess.run(
        [sys.executable, str(PROGRAM), str(threads), looks],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
        env={"PYTHONPATH": ":".join([str(k.ROOT), *filter(None, sys.path)]), "PATH": "/usr/bin:/bin"},
    )
    found = json.loads(done.stdout)
    assert found.get("answer") == 64 * 512 / 2, found
    assert found["performed"][-3:] == ["LoadFilter(2)", "SelfTest", "Begin"]
