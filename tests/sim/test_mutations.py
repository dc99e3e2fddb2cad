"""Is the simulator worth anything?  The core is broken on purpose, one known way at a time, and each way is caught.

What catches it is named too: a checker that never fires would be found out here.
"""

from __future__ import annotations

import pytest
from sim_checkers import CHECKERS, Violation
from sim_mutations import MUTATIONS, Mutation
from sim_run import run_seed

pytestmark = pytest.mark.sim
SLOW = {name for name, mutation in MUTATIONS.items() if mutation.slow}


def caught(mutation: Mutation) -> tuple[int, Violation] | None:
    """(seed, violation) of the first seed that notices."""
    with mutation.apply():
        for seed in range(1, mutation.seeds_max + 1):
            try:
                run_seed(seed, mutation.plan)
            except Violation as violation:
                return seed, violation
    return None


def check(name: str) -> None:
    mutation = MUTATIONS[name]
    found = caught(mutation)
    assert found is not None, f"{name}: not noticed by {mutation.seeds_max} seeds"
    seed, violation = found
    assert violation.checker in mutation.checkers, f"{name}, seed {seed}: {violation}"


@pytest.mark.parametrize("name", [name for name in MUTATIONS if name not in SLOW])
def test_mutation_is_caught(name: str) -> None:
    check(name)


@pytest.mark.soak
@pytest.mark.parametrize("name", sorted(SLOW))
def test_rare_mutation_is_caught(name: str) -> None:
    check(name)


def test_mutations_name_checkers_that_exist() -> None:
    assert {checker for mutation in MUTATIONS.values() for checker in mutation.checkers} <= set(CHECKERS)
    assert len(MUTATIONS) >= 10


def test_unbroken_core_passes_the_plans_of_the_mutations() -> None:
    for mutation in MUTATIONS.values():
        run_seed(1, mutation.plan)
