"""A worker that says which system call was refused, for `edgeswarm sandbox diagnose`; no supervisor uses it.

Its jails are made by the same steps, with filters that raise a signal (SECCOMP_RET_TRAP) where the policy's end the
process: the call is not made either way.  The handler leaves number and architecture in the shared memory and ends.
A jail that was taken over may leave what it likes there: this finds the fault of an honest agent or engine.
The handler is made in the zygote, before its code is sealed: a jail can make none.
Source: seccomp(2), sigaction(2); siginfo_t of Linux include/uapi/asm-generic/siginfo.h.
"""

from __future__ import annotations

import ctypes
import os
import signal
from collections.abc import Sequence
from typing import Any, Final

from edgeswarm.jail import wasm, worker

FDS: Final = worker.FDS
CALL_AT: Final = 40
"""Index of two 64-bit words of the shared memory that nothing else uses: the call's number and 1, AUDIT_ARCH_*."""
EXIT_FORBIDDEN: Final = 72

_SA_SIGINFO: Final = 4
_SYSCALL_OFFSET, _ARCH_OFFSET = 24, 28  # in siginfo_t of a 64-bit machine: si_syscall, si_arch
_words: list[memoryview] = []


class _Action(ctypes.Structure):
    """struct sigaction of glibc and musl on 64-bit machines."""

    _fields_ = (
        ("handler", ctypes.c_void_p),
        ("mask", ctypes.c_ulong * 16),
        ("flags", ctypes.c_int),
        ("restorer", ctypes.c_void_p),
    )


def _refused(_number: int, info: int, _context: int) -> None:
    """SIGSYS.  Ends the jail: the call that was not made has no right result."""
    if _words:
        _words[0][CALL_AT + 1] = ctypes.c_uint32.from_address(info + _ARCH_OFFSET).value
        _words[0][CALL_AT] = ctypes.c_uint32.from_address(info + _SYSCALL_OFFSET).value + 1
    os._exit(EXIT_FORBIDDEN)


_handler: Final = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)(_refused)


def _listen() -> None:
    action = _Action(handler=ctypes.cast(_handler, ctypes.c_void_p).value, flags=_SA_SIGINFO)
    if ctypes.CDLL(None, use_errno=True).sigaction(signal.SIGSYS, ctypes.byref(action), None):
        raise OSError(ctypes.get_errno(), "sigaction(SIGSYS)")


_listen()


class DiagnoseJail(worker.Jail):
    """A real jail that says what it was stopped for."""

    def __init__(self, order: dict[str, Any], fds: Sequence[int], engine: wasm.Engine) -> None:
        super().__init__(order, fds, engine)
        _words.append(self.shared.view[: 8 * (CALL_AT + 2)].cast("Q"))


start: Final = worker.start_with(DiagnoseJail)
