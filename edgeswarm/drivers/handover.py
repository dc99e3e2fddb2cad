"""What one supervisor hands to the next across exec: descriptors by number, and children by their process id.

An exec keeps the process, its children and every descriptor without FD_CLOEXEC.  The one who leaves packs: it names
the descriptors, which stay its own until the exec.  The one who comes unpacks *copies* of them, so that whatever it
closes, or forgets when it fails, the originals are still there for the one who takes over from it in turn; only when
it stands are they closed.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Collection
from io import FileIO
from typing import Any, Final

from edgeswarm.errors import LocalError

_LOOK_S: Final = 0.005


class Packer:
    """fds, children: what must outlive the exec, as far as it was named."""

    def __init__(self) -> None:
        self.fds: list[int] = []
        self.children: list[int] = []

    def fd(self, number: int) -> int:
        """This descriptor goes along; returns its number, for the state."""
        if number not in self.fds:
            self.fds.append(number)
        return number

    def child(self, pid: int) -> int:
        """This child of ours goes along."""
        self.children.append(pid)
        return pid


class Unpacker:
    """fds: the numbers that came along, and nothing else may be taken."""

    def __init__(self, fds: Collection[int]) -> None:
        self._fds = frozenset(fds)

    def fd(self, number: Any) -> int:
        """A copy of a descriptor that came along, closed on exec; its owner closes it.  Raises LocalError, OSError."""
        if type(number) is not int or number not in self._fds:
            raise LocalError(f"hand-over: expected one of the descriptors that came along, found {number!r}")
        return os.dup(number)


class HandedProcess:
    """A child that an earlier program of this process has started: as much of subprocess.Popen as we use."""

    def __init__(self, pid: int, *, stdin: int = -1, stdout: int = -1, stderr: int = -1) -> None:
        """The descriptors are this object's from now on."""
        self.pid = pid
        self.returncode: int | None = None
        self.stdin = FileIO(stdin, "w") if stdin >= 0 else None
        self.stdout = FileIO(stdout, "r") if stdout >= 0 else None
        self.stderr = FileIO(stderr, "r") if stderr >= 0 else None

    def poll(self) -> int | None:
        if self.returncode is None:
            try:
                pid, status = os.waitpid(self.pid, os.WNOHANG)
            except ChildProcessError:  # somebody else has waited for it, so nobody knows
                self.returncode = 255
                return self.returncode
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Raises subprocess.TimeoutExpired."""
        until = None if timeout is None else time.monotonic() + timeout
        while self.poll() is None:
            if until is not None and time.monotonic() > until:
                raise subprocess.TimeoutExpired(str(self.pid), timeout or 0.0)
            time.sleep(_LOOK_S)
        assert self.returncode is not None
        return self.returncode

    def kill(self) -> None:
        if self.poll() is None:
            os.kill(self.pid, 9)
