"""A jail's worker for tests: the real one, but that a frame whose first value is FORBIDDEN makes it open a socket.

The zygote loads it by `--worker`, which only tests pass.  Nothing a kernel computes can do this: it stands for a hole
in the engine.
"""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from edgeswarm.jail import plan, wasm, worker

FDS = worker.FDS
FORBIDDEN = 666.0
SOCKET, AF_INET, SOCK_STREAM = {"x86_64": 41, "aarch64": 198}, 2, 1
libc = ctypes.CDLL(None)


def start(
    job: dict[str, Any],
    fds: Sequence[int],
    engine: wasm.Engine,
    steps: Sequence[plan.Step],
    forked: Callable[[int], NoReturn],
) -> NoReturn:
    import platform

    number, run = SOCKET[platform.machine()], worker._Desk._run
    first = struct.Struct("<f")

    def run_or_escape(desk: Any, agent: Any, seq: int, rows: int, payload: memoryview) -> None:
        if first.unpack_from(payload)[0] == FORBIDDEN:
            libc.syscall(number, AF_INET, SOCK_STREAM, 0)
        run(desk, agent, seq, rows, payload)

    worker._Desk._run = run_or_escape  # type: ignore[method-assign]
    worker.start(job, fds, engine, steps, forked)
