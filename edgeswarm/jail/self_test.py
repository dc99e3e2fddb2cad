"""What a jail tries before it says ready: each attempt must be refused, with an error that a layer gives.

In stage 1 the four ways out; in stage 2 what nothing but the second filter, MDWE and mseal refuse.
"""

from __future__ import annotations

import errno
import functools
import os
import socket
from collections.abc import Callable

from edgeswarm.errors import JailError
from edgeswarm.jail import enter, kernel


def run(entered: enter.Entered) -> None:
    """Try what must fail now.  Raises JailError when something that the plan forbids is possible."""
    for name, attempt, allowed in _attempts(entered):
        try:
            attempt()
        except OSError as error:
            if error.errno not in allowed:
                raise JailError(f"self-test: {name} failed with {errno.errorcode.get(error.errno or 0)}") from None
        else:
            raise JailError(f"self-test: {name} is possible")


def _attempts(entered: enter.Entered) -> list[tuple[str, Callable[[], object], tuple[int, ...]]]:
    denied = (errno.EPERM, errno.EACCES)
    if "LoadFilter(2)" not in entered.performed:
        return [
            ("opening /", lambda: os.open("/", os.O_RDONLY), denied),
            ("making a socket", lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM), denied),
            ("entering a namespace", lambda: kernel.unshare(("user",)), denied),
            ("running a program", lambda: os.execv("/bin/true", ["true"]), denied),
        ]
    attempts: list[tuple[str, Callable[[], object], tuple[int, ...]]] = [
        ("asking for the parent (the filter's canary)", kernel.get_parent_id, denied)
    ]
    if "RefuseExecGain" in entered.performed + entered.absent:  # the policy says so; the filter does it on any kernel
        new_code = functools.partial(kernel.map_anonymous, 4096, writable=False, executable=True)
        attempts.append(("executable memory", new_code, denied))
    for start, length_bytes in entered.sealed[:1]:
        write = functools.partial(kernel.protect, start, length_bytes, writable=True, executable=False)
        attempts.append(("writing to code", write, denied))
    return attempts
