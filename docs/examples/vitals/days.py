"""Made-up stretches of vitals: machines of every size, quiet or busy, with and without bursts.

A recording is of one machine.  These give the networks the others: 1 to 64 cores, an idle base or half of the cores
busy, spikes of some tenths of a second, memory that programs come and go with - all of it normal - and bursts on top.
Everything is drawn from a seeded generator.  Rows are 10 a second: (cpu_percent, memory in units of its scale).
What lies between normal and a burst (three of four cores busy, a quarter of a memory burst) is left out: there the
answer is a matter of taste, and training should not be asked to have one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]

NORMAL, CPU, MEMORY = 0, 1, 2
CORES = (1, 2, 2, 4, 4, 8, 16, 64)
CPU_BUSY_MAX = 55.0  # percent of the machine: more than that for longer than SPIKE_ROWS_MAX is no normal row
SPIKE_ROWS_MAX = 5
MEMORY_STEP_MAX = 2.2  # units of the memory's scale (a full burst is 16): what a program's start may take


@dataclass(frozen=True, slots=True)
class Days:
    """Stretches of rows.  rows: [n, rows, 2], cpu in percent and memory in percent.  labels: [n, rows].

    unit: [n], percent of memory that one unit of the memory's scale is on that machine.
    """

    rows: F64
    labels: I64
    unit: F64


def make(count: int, rows: int, *, quiet_rows: int, seed: int) -> Days:
    """count stretches; no burst begins within the first `quiet_rows`, in which the device learns what is usual."""
    rng = np.random.default_rng(seed)
    made = [_one(rng, rows, quiet_rows) for _ in range(count)]
    unit = np.array([unit for _, _, unit in made])
    return Days(np.stack([row for row, _, _ in made]), np.stack([label for _, label, _ in made]), unit)


def _one(rng: np.random.Generator, rows: int, quiet_rows: int) -> tuple[F64, I64, float]:
    cores = int(rng.choice(CORES))
    cpu, memory = _usual_cpu(rng, rows, cores), _usual_memory(rng, rows)
    labels = np.zeros(rows, dtype=np.int64)
    at = quiet_rows + int(rng.exponential(20))
    while at < rows - 5:
        length = int(rng.integers(12, 60))
        end = min(rows, at + length)
        if rng.random() < 0.5:
            labels[at:end] = CPU
            cpu[at:end] = np.maximum(cpu[at:end], rng.choice([100.0, 100.0, 97.0, 92.0]) + rng.normal(0, 2, end - at))
            cpu[at] *= rng.random()  # it began somewhere within the row
        else:
            labels[at:end] = MEMORY
            ramp = int(rng.integers(2, 26))
            size = rng.uniform(8, 20)
            rise = np.minimum(1.0, (np.arange(end - at) + rng.random()) / ramp)
            memory[at:end] += size * rise
            touching = 100.0 * rng.uniform(0.3, 1.0) * rng.choice([1, 1, 2, cores]) / cores
            cpu[at : at + ramp] = np.maximum(cpu[at : at + ramp], min(100.0, touching))
            if end < rows:  # giving it back takes a moment too
                memory[end] += size * rng.random()
                cpu[end] = max(cpu[end], min(100.0, touching))
        at = end + int(rng.integers(15, 60))
    unit = float(rng.choice([0.1, 0.2, 0.5, 0.5, 1.0, 2.0]))
    level = rng.uniform(1, 60)
    ticks = 10 * cores  # the kernel counts CPU time in hundredths of a second, a row is a tenth
    jitter = rng.integers(-1, 2, rows) * (rng.random(rows) < 0.3)
    cpu = np.clip(np.round(np.clip(cpu, 0, 100) / 100 * ticks) * 100 / np.maximum(1, ticks + jitter), 0, 100)
    return np.stack([cpu, level + unit * memory], axis=1), labels, unit


def _usual_cpu(rng: np.random.Generator, rows: int, cores: int) -> F64:
    """A level with noise, spikes, and programs that keep one core or two busy for a while."""
    level = rng.choice([rng.uniform(0, 4), rng.uniform(0, 15), rng.uniform(5, 40)])
    noise = rng.normal(0, 1, rows) * rng.uniform(0.3, 1.0) * min(level, 12.0)
    cpu = level + noise
    busy_rate = rng.choice([0.0, 0.005, 0.02])
    busy_percent = 100.0 * int(rng.integers(1, max(2, cores // 2 + 1))) / cores
    if cores > 1 and rng.random() < 0.15:
        cpu[:] = np.maximum(cpu, min(CPU_BUSY_MAX, busy_percent) + rng.normal(0, 2, rows))
    for start in np.flatnonzero(rng.random(rows) < busy_rate):
        length = int(rng.integers(5, 80))
        cpu[start : start + length] += min(busy_percent, CPU_BUSY_MAX) * rng.uniform(0.8, 1.0)
    cpu = np.minimum(cpu, CPU_BUSY_MAX + rng.normal(0, 2, rows))
    for start in np.flatnonzero(rng.random(rows) < rng.choice([0.0, 0.01, 0.04])):
        length = int(rng.integers(1, SPIKE_ROWS_MAX + 1))
        cpu[start : start + length] += rng.uniform(10, 100)
    if rng.random() < 0.25:  # the start of the runtime itself, while the device learns what is usual
        cpu[: int(rng.integers(3, 15))] += rng.uniform(30, 100)
    return cpu


def _usual_memory(rng: np.random.Generator, rows: int) -> F64:
    """Units of the memory's scale: a slow walk, and programs that start and end."""
    memory = np.cumsum(rng.normal(0, 1, rows)) * rng.choice([0.0, 0.005, 0.03])
    memory += rng.normal(0, 1, rows) * rng.choice([0.0, 0.02, 0.1])
    for start in np.flatnonzero(rng.random(rows) < rng.choice([0.0, 0.01, 0.03])):
        length = int(rng.integers(2, 120))
        memory[start : start + length] += rng.uniform(-0.8, 0.8) * MEMORY_STEP_MAX
    if rng.random() < 0.2:  # a large program ends that was there in the first seconds
        memory[int(rng.integers(0, rows)) :] -= rng.uniform(0, 16)
    if rng.random() < 0.3:  # the runtime's own start
        memory -= rng.uniform(0, 1.5) * np.clip(1 - np.arange(rows) / rng.integers(3, 40), 0, 1)
    return np.minimum(memory, MEMORY_STEP_MAX * 1.2)
