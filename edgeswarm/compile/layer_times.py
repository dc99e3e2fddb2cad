"""How long each layer of an opened kernel takes: steps in their order, in turns with whole runs, medians and noise.

A step is timed where it stands among the others, so that it finds the caches as it does in a run; from each time the
call of an empty function is taken off.  Noise is half the distance of the quartiles.
"""

from __future__ import annotations

import statistics
import time
from array import array
from collections.abc import Sequence
from dataclasses import dataclass

from numpy.typing import ArrayLike

from edgeswarm.compile.opened import Opened

ROUNDS_MIN, ROUNDS_MAX = 5, 20_000
SAMPLES_MAX = 4_000_000  # of all steps: 32 MiB of them


@dataclass(frozen=True, slots=True)
class Time:
    """Nanoseconds: the median of the rounds, and half the distance of the quartiles."""

    median_ns: float
    noise_ns: float


@dataclass(frozen=True, slots=True)
class StepTime:
    """One step of a layer, in words."""

    step: str
    time: Time


@dataclass(frozen=True, slots=True)
class LayerTimes:
    """whole: one run of row 0.  layers: one a node, steps: those of each node.

    The layers' sum is a little more than the whole where steps find the machine colder for the calls between them.
    """

    whole: Time
    layers: tuple[Time, ...]
    steps: tuple[tuple[StepTime, ...], ...]
    rounds: int

    @property
    def sum_ns(self) -> float:
        """Of the layers' medians."""
        return sum(layer.median_ns for layer in self.layers)


def measure(opened: Opened, row: ArrayLike, *, seconds: float, deadline_s: float) -> LayerTimes:
    """Take the time of every step for about `seconds`, or for fewer where there are samples enough.

    Raises LimitError where it lasts longer than `deadline_s`.
    """
    names = [f"step_{index}" for index in range(len(opened.schedule.steps))]
    nothing = opened.function("nothing")
    turns = [[*map(opened.function, names), nothing], [opened.function("run")]]
    taken = [array("q") for calls in turns for _ in calls]
    most = max(ROUNDS_MIN, min(ROUNDS_MAX, SAMPLES_MAX // len(taken)))
    clock = time.perf_counter_ns
    with opened.bounded(deadline_s):
        opened.set_input(row)
        opened.function("run")()
        until, rounds = clock() + int(seconds * 1e9), 0
        while (rounds < ROUNDS_MIN or clock() < until) and rounds < most:
            lists = iter(taken)
            for calls in turns:
                opened.set_input(row)  # a kernel may compute in its place
                nothing()  # the way there is warm
                for call in calls:
                    began = clock()
                    call()
                    next(lists).append(clock() - began)
            rounds += 1
    empty = statistics.median(taken[-2])
    owners = opened.schedule.owners
    layers = []
    for index in range(len(opened.graph.nodes)):
        own = [times for times, owner in zip(taken, owners, strict=False) if owner == index]
        layers.append(_time([sum(of) for of in zip(*own, strict=True)], empty * len(own)))
    steps: list[list[StepTime]] = [[] for _ in layers]
    for step, owner, times in zip(opened.schedule.steps, owners, taken, strict=False):
        steps[owner].append(StepTime(" ".join(str(step).split()), _time(times, empty)))
    return LayerTimes(_time(taken[-1], empty), tuple(layers), tuple(map(tuple, steps)), rounds)


def _time(times: Sequence[int], empty: float) -> Time:
    """of no step at all: 0."""
    if not times:
        return Time(0.0, 0.0)
    low, middle, high = statistics.quantiles(times, n=4)
    return Time(max(0.0, middle - empty), (high - low) / 2)
