"""libfann's nets and answers under tests/data/fann, and the larger ones of ../shared where they are."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

FOLDER = Path(__file__).resolve().parents[1] / "data" / "fann"
SHARED = Path(os.environ.get("EDGESWARM_TEST_DATA", FOLDER.parents[3] / "shared" / "data")) / "fann"
NAMES = tuple(sorted(path.stem for path in FOLDER.glob("*.net")))
SETS = tuple(
    f"{name}_{kind}" for name in ("mushroom", "robot", "thyroid") for kind in ("init", "rprop_final", "cascade2_final")
)
SMALL = tuple(name for name in NAMES if name not in SETS)
ANSWERED = tuple(sorted({*NAMES, *SETS} - {"fixed", "fixed_shortcut"}))


def net_bytes(name: str) -> bytes:
    """The file; skips the test where it is one of the large ones and ../shared is not there."""
    for folder in (FOLDER, SHARED):
        if (folder / f"{name}.net").exists():
            return (folder / f"{name}.net").read_bytes()
    pytest.skip(f"{SHARED / name}.net: the project's data folder is not here")


def answers(name: str, inputs: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows of inputs and libfann's answers to them, float32."""
    with np.load(FOLDER / "answers.npz") as file:
        rows = file[name]
    return rows[:, :inputs], rows[:, inputs:]
