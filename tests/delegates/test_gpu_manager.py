"""The manager of an accelerator: budgets that never add up to more than there is, turns by weight, one warning."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeswarm.drivers.delegates.manager import Allocation, GpuManager
from edgeswarm.errors import LocalError
from edgeswarm.limits import GPU_BUDGET_BYTES_MIN, GPU_RETRY_S

MB = 1 << 20


def manager(memory_bytes: int = 64 * MB) -> tuple[GpuManager, list[str]]:
    warned: list[str] = []
    return GpuManager(memory_bytes, warned.append), warned


def test_a_swarm_gets_equal_budgets_or_is_told_once_to_compute_on_the_cpu() -> None:
    gpu, warned = manager()
    assert gpu.allocate(4) == Allocation(16 * MB)
    assert gpu.allocate(64) == Allocation(GPU_BUDGET_BYTES_MIN)
    out = gpu.allocate(65, now_s=100.0)
    assert out.cpu_only and "65 agents would get" in out.reason and out.retry_s == 100.0 + GPU_RETRY_S
    gpu.allocate(65, now_s=140.0)
    assert warned == [out.reason]


def test_without_memory_for_agents_everybody_computes_on_the_cpu() -> None:
    gpu, warned = manager(0)
    assert gpu.allocate(1).cpu_only and gpu.join("a", weight=1, wants_bytes=1).cpu_only
    assert len(warned) == 1 and "delegates.gpu_memory_mb" in warned[0]


def test_who_is_refused_gets_something_once_others_have_left() -> None:
    gpu, warned = manager()
    assert gpu.join("a", weight=1, wants_bytes=40 * MB).budget_bytes == 40 * MB
    assert gpu.join("b", weight=1, wants_bytes=40 * MB, now_s=5).retry_s == 5 + GPU_RETRY_S
    gpu.leave("a")
    assert gpu.join("b", weight=1, wants_bytes=40 * MB).budget_bytes == 40 * MB
    assert len(warned) == 1


def test_a_coordinators_share_is_larger() -> None:
    gpu, _ = manager(90 * MB)
    assert not gpu.join("agent", weight=1, wants_bytes=10 * MB).cpu_only
    assert not gpu.join("coordinator", weight=2, wants_bytes=60 * MB).cpu_only
    other, _ = manager(90 * MB)
    assert not other.join("agent", weight=1, wants_bytes=10 * MB).cpu_only
    assert other.join("another", weight=1, wants_bytes=60 * MB).cpu_only


@pytest.mark.parametrize("size", [0, -1])
def test_a_swarm_of_nobody_is_a_mistake(size: int) -> None:
    with pytest.raises(LocalError, match="at least 1"):
        manager()[0].allocate(size)


def test_joining_twice_or_with_no_weight_is_a_mistake() -> None:
    gpu, _ = manager()
    gpu.join("a", weight=1, wants_bytes=MB)
    with pytest.raises(LocalError, match="already"):
        gpu.join("a", weight=1, wants_bytes=MB)
    with pytest.raises(LocalError, match="above 0"):
        gpu.join("b", weight=0, wants_bytes=MB)


@given(
    st.lists(st.tuples(st.sampled_from("abcdef"), st.sampled_from([1.0, 2.0]), st.integers(0, 80)), max_size=40),
)
def test_budgets_never_add_up_to_more_than_there_is(steps: list[tuple[str, float, int]]) -> None:
    """A second mention of an agent is its leaving."""
    gpu, _ = manager()
    held: dict[str, int] = {}
    for name, weight, wants in steps:
        if name in held:
            gpu.leave(name)
            del held[name]
            continue
        found = gpu.join(name, weight=weight, wants_bytes=wants * MB)
        if not found.cpu_only:
            assert found.budget_bytes >= wants * MB
            held[name] = found.budget_bytes
        assert sum(held.values()) <= 64 * MB


def test_turns_are_shared_by_weight_whoever_takes_longer() -> None:
    """Three that always want to compute, a call of one ten times as long: time is shared 2:1:1."""
    gpu, _ = manager()
    costs: dict[str, float] = {"coordinator": 100.0, "slow": 1000.0, "quick": 100.0}
    for name, weight in (("coordinator", 2.0), ("slow", 1.0), ("quick", 1.0)):
        gpu.join(name, weight=weight, wants_bytes=MB)
    used = dict.fromkeys(costs, 0.0)
    for name in costs:
        gpu.begin(name)
    now = next(name for name in costs if gpu._turn == name)
    for _ in range(4000):
        used[now] += costs[now]
        following = gpu.end(now, costs[now])
        gpu.begin(now)  # it has more to do, and waits for its turn like the others
        now = gpu._turn or following
        assert gpu.begin(now)
    assert used["coordinator"] == pytest.approx(2 * used["quick"], rel=0.05)
    assert used["slow"] == pytest.approx(used["quick"], rel=0.05)


def test_one_turn_at_a_time_and_the_next_is_named() -> None:
    gpu, _ = manager()
    for name in ("a", "b"):
        gpu.join(name, weight=1, wants_bytes=MB)
    assert gpu.begin("a") and not gpu.begin("b")
    assert gpu.end("a", 50) == "b"
    assert not gpu.begin("a"), "b waits, and has used less"
    assert gpu.begin("b")
    assert gpu.end("b", 50) in ("a", "")


def test_who_leaves_in_the_middle_of_its_turn_holds_nobody_up() -> None:
    gpu, _ = manager()
    for name in ("a", "b"):
        gpu.join(name, weight=1, wants_bytes=MB)
    assert gpu.begin("a") and not gpu.begin("b")
    gpu.leave("a")
    assert gpu.begin("b")
