"""What bench/instructions.py reads from its tracer, and that the tracer counts the same twice."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]
COUNTED = """
import itertools, signal, sys
def work(count):
    signal.raise_signal(signal.SIGUSR2)
    for _ in itertools.repeat(None, count): pass
    signal.raise_signal(signal.SIGUSR2)
print("ready fake", flush=True)
for line in sys.stdin:
    words = line.split()
    if words[0] == "count": work(100 * int(words[2]))
    print("ns 1 1", flush=True)
"""


@pytest.fixture(scope="module")
def instructions() -> Iterator[ModuleType]:
    sys.path.insert(0, str(ROOT / "bench"))
    import instructions

    yield instructions
    sys.path.remove(str(ROOT / "bench"))


def test_the_last_count_is_read(instructions: ModuleType) -> None:
    assert instructions.last_count("x", "12\n345\n", 2) == 345


@pytest.mark.parametrize("text", ["", "12\n", "12\n345", "12\n345\n6\n", "12\n-5\n", "12\n1.5\n", "12\n٣\n", "12\n\n"])
def test_anything_else_is_refused(instructions: ModuleType, text: str) -> None:
    with pytest.raises(instructions.PeerError, match="x: expected 2 lines"):
        instructions.last_count("x", text, 2)


def test_more_work_takes_more_instructions_and_the_same_work_the_same(instructions: ModuleType, tmp_path: Path) -> None:
    if not shutil.which("gcc"):
        pytest.skip("no gcc here")
    stepper = instructions.compile_stepper(tmp_path)
    if isinstance(stepper, str):
        pytest.skip(stepper)
    one = instructions.Contestant("fake", [stepper, tmp_path / "counts", sys.executable, "-c", COUNTED])
    one.start()
    try:
        for count in (1, 1, 1, 2, 3):
            one.count(0, count)
    finally:
        one.close()
    _, _, first, second, third = (int(line) for line in (tmp_path / "counts").read_text().split())
    assert second - first > 500
    assert third - second == pytest.approx(second - first, rel=0.1)


def test_a_count_that_does_not_grow_is_refused(instructions: ModuleType, tmp_path: Path) -> None:
    counts = tmp_path / "counts"

    class Still:
        name = "still"

        def run(self, warm: int, count: int) -> None:
            pass

        def count(self, warm: int, count: int) -> None:
            with counts.open("a") as file:
                file.write("100\n")

    with pytest.raises(instructions.PeerError, match="still: expected more instructions"):
        instructions.count(Still(), counts, more=1)
