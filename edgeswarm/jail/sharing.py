"""What keeps the pages of a forked child shared with its parent; every page that either writes to is the child's own.

A child that does little still writes all over the place: each new object goes into a gap between old ones.
"""

from __future__ import annotations

import ctypes

_libc = ctypes.CDLL(None, use_errno=True)
_signal = _libc.signal
_signal.restype = ctypes.c_void_p
_signal.argtypes = (ctypes.c_int, ctypes.c_void_p)


def default_signal(number: int) -> None:
    """What `signal.signal(number, SIG_DFL)` does to the kernel; that one makes members of enumerations of everything,
    by way of an exception.  The interpreter goes on to believe in its own handler, which is never called."""
    _signal(number, None)
