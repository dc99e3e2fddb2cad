"""The socket and the three pipes between the supervisor and one jail.

Ours: `control` (what the jail says of itself; its end of file is the jail's end), `wake` and `epoch` to write,
`answers` to read; none of them blocks.  The jail's ends wait in `inside` until they are on their way.
"""

from __future__ import annotations

import fcntl
import os
import socket
from collections.abc import Sequence
from typing import Final

_PIPE_BYTES: Final = 4096
"""512 heads are more than fit into most rings, and a user's pipes count against a limit by their size."""


class Ends:
    """Everything is opened, or nothing is."""

    def __init__(self) -> None:
        self._ours: list[int] = []
        self._inside: list[int] = []
        self.control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.control.setblocking(False)
        self._inside.append(theirs.detach())
        try:
            wake, self.wake = self._pipe(inside=0)
            self.answers, answer = self._pipe(inside=1)
            epoch, self.epoch = self._pipe(inside=0)
        except OSError:
            self.close()
            raise
        self.inside: Sequence[int] = (self._inside[0], wake, answer, epoch)

    @classmethod
    def of(cls, control: int, wake: int, answers: int, epoch: int) -> Ends:
        """Those of a jail that runs already: our ends, which are this object's from now on."""
        ends = cls.__new__(cls)
        ends.control = socket.socket(fileno=control)
        ends.wake, ends.answers, ends.epoch = wake, answers, epoch
        ends._ours, ends._inside, ends.inside = [wake, answers, epoch], [], ()
        return ends

    def _pipe(self, *, inside: int) -> tuple[int, int]:
        """A pipe, of which the jail gets end number `inside` (0: to read, 1: to write)."""
        ends = os.pipe()
        self._inside.append(ends[inside])
        self._ours.append(ends[1 - inside])
        os.set_blocking(ends[1 - inside], False)
        try:
            fcntl.fcntl(ends[1], fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        except OSError:
            return ends  # it keeps the size it has
        return ends

    def hand_over(self) -> None:
        """The jail's ends are on their way: close ours of them, so that its death is an end of file."""
        while self._inside:
            os.close(self._inside.pop())

    def close(self) -> None:
        """Let go of everything; a living jail sees the end of its control socket and ends."""
        self.hand_over()
        self.control.close()
        while self._ours:
            os.close(self._ours.pop())

    @property
    def closed(self) -> bool:
        return not self._ours
