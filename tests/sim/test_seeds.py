"""Seeds of the simulator: whatever is broken, the promises hold, and once it is mended the cell works again.

make sim SEEDS=1 FIRST_SEED=K replays one.  What the seeds found is written down in docs/simulation.md.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from sim_faults import KINDS
from sim_run import PLANS, Plan, judge, run_seed

pytestmark = pytest.mark.sim
ROOT = Path(__file__).resolve().parents[2]
BATCH = 20


@pytest.mark.parametrize("first", range(1, 141, BATCH))
def test_promises_hold_and_the_cell_recovers(first: int) -> None:
    for seed in range(first, first + BATCH):
        judge(seed)


@pytest.mark.soak
@pytest.mark.parametrize("first", range(10_000, 12_400, 100))
def test_promises_hold_over_thousands_of_seeds(first: int) -> None:
    for seed in range(first, first + 100):
        judge(seed)


@pytest.mark.parametrize("plan", [plan for plan in PLANS if plan != "any"])
def test_what_was_found_once_does_not_come_back(plan: str) -> None:
    for seed in range(2 if "many" in plan else 10):
        judge(seed, plan)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_fault_alone(kind: str) -> None:
    for seed in range(2):
        report = run_seed(seed, Plan(kinds=[kind]))
        assert report.faults[kind] > 0


def test_attacker_gets_nothing_in_and_is_counted() -> None:
    refusals: dict[str, int] = {}
    for seed in range(8):
        for name, count in run_seed(seed, Plan(attacker=True, kinds=[])).refusals.items():
            refusals[name] = refusals.get(name, 0) + count
    assert refusals["CoseError"] > 0
    assert refusals["LeadershipError"] > 0
    assert refusals["ReplayError"] > 0


def test_real_keys_make_no_difference() -> None:
    run_seed(5, Plan(real_keys=True, attacker=True))


def test_one_seed_is_one_history() -> None:
    first: list[str] = []
    second: list[str] = []
    assert run_seed(7, trace=first) == run_seed(7, trace=second)
    assert first == second and len(first) > 50


def test_runner_says_at_the_end_how_many_passed_and_failed() -> None:
    done = subprocess.run(
        [sys.executable, "tests/sim/run.py", "--seeds", "2", "--first", "3"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines()[-1].startswith("sim: 2 seeds passed, 0 failed (seeds 3 to 4, ")
