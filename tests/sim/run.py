# ruff: noqa: T201
"""Run seeds of the simulator: python tests/sim/run.py [--seeds N] [--first K] [--plan P] [--trace] [--report]

The last line says how many seeds passed and failed; the exit status is 1 if any failed.  What failed is printed with
its seed, the commit and the command that replays it: one seed is one history, as long as the code is the same.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "support"))

from sim_checkers import Violation  # noqa: E402
from sim_run import PLANS, Report, failure, run_seed  # noqa: E402

TRACE_LINES = 120  # of a failed seed, from its end


def totals(reports: list[Report]) -> str:
    """One paragraph of counts over all seeds that passed."""
    faults: Counter[str] = Counter()
    refusals: Counter[str] = Counter()
    for report in reports:
        faults.update(report.faults)
        refusals.update(report.refusals)
    voters = dict(sorted(Counter(report.voters for report in reports).items()))
    calls = sum(report.answered for report in reports), sum(report.lost for report in reports)
    lines = {
        "voters at the start": voters,
        "virtual seconds": round(sum(report.virtual_s for report in reports)),
        "steps": sum(report.steps for report in reports),
        "messages": sum(report.messages for report in reports),
        "terms": sum(report.terms for report in reports),
        "entries": sum(report.entries for report in reports),
        "changes of members": sum(report.changes for report in reports),
        "calls answered, lost": calls,
        "faults": dict(faults.most_common()),
        "refused and counted": dict(refusals.most_common()),
    }
    return "\n".join(f"{name}: {value}" for name, value in lines.items())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=200)
    parser.add_argument("--first", type=int, default=1)
    parser.add_argument("--plan", choices=PLANS, default="any", help="what the seeds are drawn from")
    parser.add_argument("--trace", action="store_true", help="print what happened in every seed, or before its failure")
    parser.add_argument("--report", action="store_true", help="print counts over all seeds")
    arguments = parser.parse_args()
    began, reports, failed = time.monotonic(), [], 0
    for seed in range(arguments.first, arguments.first + arguments.seeds):
        trace: list[str] | None = [] if arguments.trace else None
        try:
            reports.append(run_seed(seed, PLANS[arguments.plan], trace=trace))
        except Violation as violation:
            failed += 1
            if trace:
                print("\n".join(trace[-TRACE_LINES:]))
            print(failure(seed, arguments.plan, violation), flush=True)
        else:
            if trace:
                print("\n".join(trace))
    if arguments.report and reports:
        print(totals(reports))
    seconds = time.monotonic() - began
    last = arguments.first + arguments.seeds - 1
    print(f"sim: {len(reports)} seeds passed, {failed} failed (seeds {arguments.first} to {last}, {seconds:.0f} s)")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
