"""What tests of benchmarks share."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

BENCH = str(Path(__file__).resolve().parents[2] / "bench")


@pytest.fixture(scope="module")
def bench_folder() -> Iterator[None]:
    """The benchmarks import their helpers as neighbours; here they are imported from beside the tests."""
    sys.path.insert(0, BENCH)
    yield
    sys.path.remove(BENCH)
