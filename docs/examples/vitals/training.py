"""Training of the vitals network: recorded and made-up rows through the same steps as in the runtime, then three fits.

The steps (normalise, window, residual, fixed scale) are those of edgeswarm.stream, done for many stretches at once;
that both give the same numbers is tested.  What windows and scales are is read from the agents' headers, nowhere else.

autoencoder  denoising (Vincent et al. 2008): gets windows with half a burst put on them, wants them without
scorer       wants 1 while a burst of its kind has lasted for DECIDED_ROWS, else 0
fuse         wants the label itself
Rows that nobody can call yet (the first of a burst, the first after one) or that are neither normal nor a labelled
burst (other people's load while recording) weigh nothing.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import days
import network
import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from edgeswarm.model import Mlp
from edgeswarm.model.reference import forward

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import train

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]

RECORDED_TRAINING_SHARE = 0.65  # of the recording, from its start; the rest is held out and never trained on
STRETCH_ROWS = 150
MADE_UP, RECORDED = 1_200, 400  # stretches
DECIDED_ROWS = 5  # a burst younger than this could still be a spike
OVER_ROWS = 6  # rows after a burst whose windows still hold it
CPU_UNCLEAR = 4.2  # normalised mean over a second: unlabelled and above this is somebody else's load
MEMORY_UNCLEAR = 2.8
MEMORY_SEEN = 3.5  # normalised: a memory burst's ramp below this is not yet a burst


@dataclass(frozen=True, slots=True)
class Stretches:
    """rows: [n, rows, 2] in percent.  labels: [n, rows].  unit: [n], the memory's least scale in percent."""

    rows: F64
    labels: I64
    unit: F64


def load(path: Path) -> F64:
    """[rows, 5]: t, cpu_percent, memory_percent, load1, label."""
    recorded: F64 = np.loadtxt(path, delimiter=",", skiprows=1)
    return recorded


def held_out(recorded: F64) -> F64:
    """The part of the recording that is not trained on."""
    return recorded[int(len(recorded) * RECORDED_TRAINING_SHARE) :]


def stretches(recorded: F64, seed: int) -> Stretches:
    """Made-up stretches, and pieces of the recording's training part whose first seconds hold no burst."""
    quiet_rows = _warmup_rows() + 4
    made = days.make(MADE_UP, STRETCH_ROWS, quiet_rows=quiet_rows, seed=seed)
    part = recorded[: int(len(recorded) * RECORDED_TRAINING_SHARE)]
    rng = np.random.default_rng(seed + 1)
    starts = np.arange(len(part) - STRETCH_ROWS)
    starts = starts[[not part[start : start + quiet_rows, 4].any() for start in starts]]
    pieces = np.stack([part[start : start + STRETCH_ROWS] for start in rng.choice(starts, RECORDED)])
    return Stretches(
        np.concatenate([made.rows, pieces[:, :, 1:3]]),
        np.concatenate([made.labels, pieces[:, :, 4].astype(np.int64)]),
        np.concatenate([made.unit, rng.uniform(0.22, 0.5, RECORDED)]),
    )


# --- the runtime's steps, for many stretches at once -------------------------------------------------------------


def normalised(rows: F64, unit: F64) -> F64:
    """[n, rows - warm-up, 2]: zscore by each stretch's own first rows, within the autoencoder's bounds."""
    norm = network.header(network.AUTOENCODER)["wiring"]["normalize"]
    first = rows[:, : norm["warmup_rows"]]
    mean = np.clip(first.mean(axis=1), norm["mean_min"], norm["mean_max"])
    least = np.stack([np.full_like(unit, norm["std_min"][0]), unit], axis=1)
    std = np.clip(first.std(axis=1), least, least * [1.0, network.SCALE_RANGE])
    scaled: F64 = np.clip((rows[:, norm["warmup_rows"] :] - mean[:, None]) / std[:, None], -norm["clip"], norm["clip"])
    return scaled


def windows(rows: F64, size: int) -> F64:
    """[n, rows - size + 1, size * width]: frames, oldest row first."""
    view = sliding_window_view(rows, size, axis=1).transpose(0, 1, 3, 2)
    return view.reshape(*view.shape[:2], -1)


def answers(model: Mlp, frames: F64) -> F64:
    count, length, width = frames.shape
    return forward(model, frames.reshape(-1, width)).reshape(count, length, -1)


def residuals(frames: F64, answered: F64) -> F64:
    """Largest |row - answer| of each window, per field."""
    differences = np.abs(frames - answered)
    return differences.reshape(*frames.shape[:2], -1, 2).max(axis=2)


def scorer_frames(residual: F64) -> F64:
    return _fixed_windows(network.SCORER, residual)


def fuse_frames(scores: F64, residual: F64) -> F64:
    """Each row of scores with the residual that it was made from last."""
    return _fixed_windows(network.FUSE, np.concatenate([scores, residual[:, -scores.shape[1] :]], axis=2))


def _fixed_windows(name: str, rows: F64) -> F64:
    wiring = network.header(name)["wiring"]
    scaled = (rows - wiring["normalize"]["mean"]) / wiring["normalize"]["std"]
    return windows(np.clip(scaled, -8.0, 8.0), wiring["window"]["rows"])


def _warmup_rows() -> int:
    return int(network.header(network.AUTOENCODER)["wiring"]["normalize"]["warmup_rows"])


# --- what is wanted ----------------------------------------------------------------------------------------------


def importance(labels: I64, rows: F64) -> F64:
    """[n, rows]: 1 where a row can be called, 0 where it cannot.  rows: normalised."""
    age = np.zeros_like(labels)
    for at in range(1, labels.shape[1]):
        age[:, at] = np.where(labels[:, at] == labels[:, at - 1], age[:, at - 1] + 1, 0)
    settled = np.cumsum(labels != labels[:, :1], axis=1) == 0  # before the first change nothing is too young
    called = settled | np.where(labels > 0, age >= DECIDED_ROWS, age >= OVER_ROWS)
    cpu = np.concatenate([np.repeat(rows[:, :1, 0], 9, axis=1), rows[:, :, 0]], axis=1)
    busy = sliding_window_view(cpu, 10, axis=1).mean(axis=2) > CPU_UNCLEAR
    full = rows[:, :, 1] > MEMORY_UNCLEAR
    called &= ~((labels == days.NORMAL) & (busy | full))
    called &= ~((labels == days.CPU) & full)
    called &= ~((labels == days.MEMORY) & (rows[:, :, 1] < MEMORY_SEEN))
    return called.astype(np.float64)


def denoising_pairs(frames: F64, labels: I64, seed: int, count: int = 40_000) -> tuple[F64, F64]:
    """(windows with the start of a burst on some of their columns, the same windows without)."""
    rng = np.random.default_rng(seed)
    size = frames.shape[2] // 2
    free = sliding_window_view(labels, size, axis=1).max(axis=2) == days.NORMAL
    means = frames.reshape(*frames.shape[:2], size, 2).mean(axis=2)
    normal = frames[free & (means[:, :, 0] < CPU_UNCLEAR) & (means[:, :, 1] < MEMORY_UNCLEAR)]
    clean = normal[rng.choice(len(normal), count)]
    noisy = clean.reshape(count, size, 2).copy()
    for column in (0, 1):
        begins = rng.integers(-6, size, count)  # most are there in the whole window, some begin within
        hit = (rng.random(count) < 0.35)[:, None] & (np.arange(size)[None] >= begins[:, None])
        level = rng.uniform(5.0, 8.0, count)[:, None]
        noisy[:, :, column] = np.where(hit, np.maximum(noisy[:, :, column], level), noisy[:, :, column])
    return noisy.reshape(count, -1), clean


# --- the three fits ----------------------------------------------------------------------------------------------


def _plan(tree: dict[str, Any], **keys: Any) -> train.Plan:
    net = tree["neural_config"]
    return train.Plan(
        sizes=(net["input_size"], *net["hidden_layers"], net["output_size"]),
        activation=net["activation_function"],
        output_activation=net["output_activation"],
        rate=net["learning_rate"],
        **keys,
    )


def train_all(recorded: F64) -> dict[str, Mlp]:
    """The networks of network.AGENTS and of network.NEXT_SCORER."""
    data = stretches(recorded, seed=1)
    rows = normalised(data.rows, data.unit)
    labels = data.labels[:, -rows.shape[1] :]
    weight = importance(labels, rows)

    plan = _plan(network.header(network.AUTOENCODER), steps=2_500, seed=5)
    frames = windows(rows, plan.sizes[0] // 2)
    autoencoder = train.fit(plan, *denoising_pairs(frames, labels, seed=6))
    residual = residuals(frames, answers(autoencoder, frames))

    frames = scorer_frames(residual)
    late = labels[:, -frames.shape[1] :]
    wanted = np.stack([late == days.CPU, late == days.MEMORY], axis=2).astype(np.float64)
    flat = (_flat(frames), _flat(wanted), weight[:, -frames.shape[1] :].reshape(-1))
    scorer = train.fit(_plan(network.header(network.SCORER), seed=7), *flat)
    following = train.fit(_plan(network.header(network.NEXT_SCORER), seed=17), *flat)

    both = []  # the fuse learns from either scorer's answers, so that a swap of the scorer does not surprise it
    for model in (scorer, following):
        inputs = fuse_frames(answers(model, frames), residual)
        late = labels[:, -inputs.shape[1] :]
        both.append((_flat(inputs), np.eye(3)[late.reshape(-1)], weight[:, -inputs.shape[1] :].reshape(-1)))
    joined = [np.concatenate(parts) for parts in zip(*both, strict=True)]
    fuse = train.fit(_plan(network.header(network.FUSE), seed=8), *joined)
    return {
        network.AUTOENCODER: autoencoder,
        network.SCORER: scorer,
        network.FUSE: fuse,
        network.NEXT_SCORER: following,
    }


def _flat(rows: F64) -> F64:
    return rows.reshape(-1, rows.shape[-1])
