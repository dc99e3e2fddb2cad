"""A jail's worker for tests: the real one, but that a frame whose first value is FORBIDDEN makes it open a socket.

The zygote loads it by `--worker`, which only tests pass.  Nothing a kernel computes can do this: it stands for a hole
in the engine.
"""

from __future__ import annotations

import ctypes
import struct
from typing import Any, NoReturn

from edgeswarm.jail import worker

FDS = worker.FDS
FORBIDDEN = 666.0
SOCKET, AF_INET, SOCK_STREAM = {"x86_64": 41, "aarch64": 198}, 2, 1
libc = ctypes.CDLL(None)


def escaping(start: worker.Start) -> worker.Start:
    """A worker's `start`, but that its frames may try to escape."""

    def start_escaping(*order: Any, **more: Any) -> NoReturn:
        import platform

        number, run = SOCKET[platform.machine()], worker._Desk._run
        first = struct.Struct("<f")

        def run_or_escape(desk: Any, agent: Any, seq: int, rows: int, payload: memoryview) -> None:
            if first.unpack_from(payload)[0] == FORBIDDEN:
                libc.syscall(number, AF_INET, SOCK_STREAM, 0)
            run(desk, agent, seq, rows, payload)

        worker._Desk._run = run_or_escape  # type: ignore[method-assign]
        start(*order, **more)

    return start_escaping


start = escaping(worker.start)
