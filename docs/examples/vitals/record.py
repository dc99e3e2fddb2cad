"""Record this machine's vitals with labelled bursts that this script causes itself: what build.py trains on.

    python record.py --minutes 10 --out recorded.csv

Columns: t (s), cpu_percent, memory_percent, load1, label (0 normal, 1 cpu-burst, 2 memory-burst; index of LABELS).
A label says what this script did, from the start of its processes to their end.  Whatever else ran meanwhile is in the
numbers too, unlabelled.
"""

from __future__ import annotations

import argparse
import random
import subprocess
import time
from pathlib import Path

import bursts
import psutil

RATE_HZ = 10.0
GAP_S = (5.0, 14.0)  # quiet between two bursts, uniform
LENGTH_S = (1.8, 4.0)  # of a burst
MEMORY_PERCENT = (4.0, 9.0)


def sample() -> tuple[float, float, float]:
    """cpu_percent since the last call, memory_percent, load1: as the runtime's `vitals` source takes them."""
    memory = psutil.virtual_memory()
    return psutil.cpu_percent(None), 100.0 * (memory.total - memory.available) / memory.total, psutil.getloadavg()[0]


def record(seconds: float, out: Path, seed: int) -> int:
    """Write `seconds` of samples; the number of rows."""
    rng = random.Random(seed)
    running: list[subprocess.Popen[bytes]] = []
    label, kinds, next_burst_s = 0, [1, 2], rng.uniform(*GAP_S)
    psutil.cpu_percent(None)
    start = time.monotonic()
    rows = 0
    with out.open("w") as file:
        file.write("t,cpu_percent,memory_percent,load1,label\n")
        while (now := time.monotonic() - start) < seconds:
            if running and all(process.poll() is not None for process in running):
                running, label = [], 0
                next_burst_s = now + rng.uniform(*GAP_S)
            if not running and now >= next_burst_s and now < seconds - LENGTH_S[1] - 2:
                rng.shuffle(kinds)
                label, length_s = kinds[0], rng.uniform(*LENGTH_S)
                percent = rng.uniform(*MEMORY_PERCENT)
                running = bursts.start_cpu(length_s) if label == 1 else bursts.start_memory(length_s, percent)
            rows += 1
            time.sleep(max(0.0, start + rows / RATE_HZ - time.monotonic()))
            cpu, memory, load1 = sample()
            file.write(f"{time.monotonic() - start:.1f},{cpu:.1f},{memory:.3f},{load1:.2f},{label}\n")
            file.flush()
    bursts.wait(running)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("recorded.csv"))
    parser.add_argument("--seed", type=int, default=2026)
    args = parser.parse_args()
    print(f"recording {args.minutes} minutes into {args.out}; this causes bursts of load")
    print(f"{record(args.minutes * 60, args.out, args.seed)} rows")


if __name__ == "__main__":
    main()
