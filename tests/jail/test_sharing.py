"""What keeps jails small: their zygote's pages stay shared."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BEGIN = "import sys; sys.path.insert(0, sys.argv[1]); from edgeswarm.jail import sharing; sharing.import_early(); "


def printed(program: str) -> str:
    command = [sys.executable, "-I", "-S", "-c", BEGIN + program, str(ROOT)]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout.strip()


def test_a_zygote_imports_nothing_that_works_after_each_fork() -> None:
    program = (
        "from edgeswarm.jail import worker, zygote; print({'threading', 'random', 'logging'} & sys.modules.keys())"
    )
    assert printed(program) == "set()"


def test_objects_made_after_settling_lie_together() -> None:
    program = """
from edgeswarm.jail import zygote
sharing.settle()
made = [bytes(200) for _ in range(40)]
print(len({id(item) // 4096 for item in made}))
"""
    assert int(printed(program)) <= 4


def test_settling_takes_little_memory() -> None:
    assert int(printed("sharing.settle(); print(sum(sys.getsizeof(item) for item in sharing._filling))")) < 2 << 20


def test_a_signal_has_its_default_again_in_the_kernels_eyes() -> None:
    program = """
import signal
signal.signal(signal.SIGCHLD, lambda *_: None)
def caught():
    with open("/proc/self/status") as file:
        return [int(line.split()[1], 16) >> signal.SIGCHLD - 1 & 1 for line in file if line.startswith("SigCgt")]
before = caught()
sharing.default_signal(signal.SIGCHLD)
print(before, caught())
"""
    assert printed(program) == "[1] [0]"
