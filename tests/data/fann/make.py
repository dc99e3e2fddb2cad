"""Makes this folder's nets and answers.npz anew with libfann (apt: libfann-dev, gcc).  Run: python make.py [SETS]

SETS: the folder with mushroom, robot and thyroid; without it their answers stay as they are.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
SETS = {"mushroom": 21, "robot": 3, "thyroid": 18}  # every so many rows of NAME.test: about 200
KINDS = ("init", "rprop_final", "cascade2_final")


def main() -> None:
    answers: dict[str, np.ndarray] = {}
    if (HERE / "answers.npz").exists():
        with np.load(HERE / "answers.npz") as before:
            answers = dict(before)
    with tempfile.TemporaryDirectory() as folder:
        program = f"{folder}/make_nets"
        subprocess.run(["gcc", "-O1", "-o", program, HERE / "make_nets.c", "-lfann", "-lm"], check=True)
        subprocess.run([program, "small", folder], check=True)
        for net in sorted(Path(folder).glob("*.net")):
            (HERE / net.name).write_bytes(net.read_bytes())
        for rows in sorted(Path(folder).glob("*.rows")):
            answers[rows.stem] = np.loadtxt(rows, dtype=np.float32, ndmin=2)
        if len(sys.argv) > 1:
            for name, every in SETS.items():
                for kind in KINDS:
                    sets = Path(sys.argv[1])
                    made = subprocess.run(
                        [program, "answers", sets / f"{name}_{kind}.net", sets / f"{name}.test", str(every)],
                        check=True, capture_output=True, text=True,
                    )  # fmt: skip
                    answers[f"{name}_{kind}"] = np.loadtxt(made.stdout.splitlines(), dtype=np.float32, ndmin=2)
    np.savez_compressed(HERE / "answers.npz", **answers)  # type: ignore[arg-type]


if __name__ == "__main__":
    main()
