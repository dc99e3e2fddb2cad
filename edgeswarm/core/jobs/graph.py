"""Tasks in an order in which none stands before what it waits for.

Authors name what a task waits for; the cell wants indexes of earlier tasks, where a cycle cannot be written down.
Everything that may be wrong with a graph is said here, with the names that its author knows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from heapq import heapify, heappop, heappush

from edgeswarm.errors import LocalError
from edgeswarm.limits import JOB_EDGES_MAX, JOB_TASKS_MAX, TASK_AFTER_MAX


class GraphError(LocalError):
    """A job's tasks do not make a graph without cycles."""


def ordered(job: str, after: Mapping[str, Sequence[str]]) -> tuple[tuple[str, tuple[int, ...]], ...]:
    """(name, sorted indexes of what it waits for) of each task; as near to the given order as dependencies allow.

    after: task -> names of the tasks that it waits for, 1 to JOB_TASKS_MAX of them.  Raises GraphError, with the path
    where there is a cycle.  O((tasks + edges) log tasks).
    """
    _check(job, after)
    names = list(after)
    place = {name: index for index, name in enumerate(names)}
    waiters: dict[str, list[str]] = {name: [] for name in names}
    missing = {name: len(set(before)) for name, before in after.items()}
    for name, before in after.items():
        for one in set(before):
            waiters[one].append(name)
    free = [place[name] for name in names if not missing[name]]
    heapify(free)
    found: dict[str, int] = {}
    while free:
        name = names[heappop(free)]
        found[name] = len(found)
        for waiter in waiters[name]:
            missing[waiter] -= 1
            if not missing[waiter]:
                heappush(free, place[waiter])
    if len(found) < len(names):
        cycle = _cycle(after, next(name for name in names if name not in found), set(found))
        raise GraphError(f"job {job}: tasks wait for each other: {' -> '.join(cycle)}")
    return tuple((name, tuple(sorted({found[one] for one in after[name]}))) for name in found)


def _check(job: str, after: Mapping[str, Sequence[str]]) -> None:
    if not 1 <= len(after) <= JOB_TASKS_MAX:
        raise GraphError(f"job {job}: expected 1 to {JOB_TASKS_MAX} tasks, found {len(after)}")
    for name, before in after.items():
        if len(before) > TASK_AFTER_MAX:
            raise GraphError(f"job {job}: task {name} waits for {len(before)} tasks, at most {TASK_AFTER_MAX}")
        for one in before:
            if one not in after:
                raise GraphError(f"job {job}: task {name} needs {one}, which is not in the job")
    edges = sum(len(before) for before in after.values())
    if edges > JOB_EDGES_MAX:
        raise GraphError(f"job {job}: expected at most {JOB_EDGES_MAX} dependencies, found {edges}")


def _cycle(after: Mapping[str, Sequence[str]], start: str, settled: set[str]) -> list[str]:
    """Each task that is not settled waits for another such: walk until one comes up again."""
    seen: dict[str, int] = {}
    path: list[str] = []
    at = start
    while at not in seen:
        seen[at] = len(path)
        path.append(at)
        at = next(one for one in after[at] if one not in settled)
    return [*path[seen[at] :], at]
