"""A streamed net given its frames, as an agent's jail gives them to its kernel."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgeswarm.model.graph import forward
from edgeswarm.model.streaming import Streamed

F64 = NDArray[np.float64]


def played(made: Streamed, frames: F64) -> list[F64]:
    """Answers call by call, the memory as an agent has it: zeros first, float32 in between."""
    memory, answers = np.zeros(made.memory, np.float32), []
    for first in range(0, frames.shape[made.axis], made.frames):
        part = np.take(frames, range(first, first + made.frames), made.axis).reshape(-1)
        row = forward(made.graph, np.concatenate([part, memory])[None])[0]
        answers.append(row[: len(row) - made.memory])
        memory = row[len(row) - made.memory :].astype(np.float32)
    return answers
