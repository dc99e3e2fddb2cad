"""What keeps the pages of a forked child shared with its parent; every page that either writes to is the child's own.

A child that does little still writes all over the place, because each new object goes into the last gap between old
ones.  So the parent fills its gaps before it forks: what comes later lies together, on pages that nobody shares.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import sys
from typing import Final

_libc = ctypes.CDLL(None, use_errno=True)
_signal, _malloc, _free = _libc.signal, _libc.malloc, _libc.free
_signal.restype = _malloc.restype = ctypes.c_void_p
_signal.argtypes = (ctypes.c_int, ctypes.c_void_p)
_malloc.argtypes = (ctypes.c_size_t,)
_free.argtypes = (ctypes.c_void_p,)

_POOL_BYTES: Final = 16_384
_POOL_HEAD_BYTES: Final = 48
_SMALL_BYTES_MAX: Final = 512
_BLOCKS_MAX: Final = 4096
"""Of one size; an interpreter of another kind may have no pools to fill."""
_CHUNK_BYTES_MAX: Final = 65_536
"""Larger ones are mappings of their own."""
_FILL_BYTES_MAX: Final = 4 << 20


_EARLY: Final = (
    "argparse base64 collections.abc contextlib ctypes dataclasses encodings.ascii encodings.idna encodings.latin_1 "
    "enum errno fcntl functools hashlib json linecache mmap platform re resource select signal socket struct time "
    "traceback typing zlib"
).split()


def import_early() -> None:
    """What others have written, before the first module of ours: so what a jail executes lies together, too.

    Codecs and tracebacks among it are for the jail, which has no files any more when it may need them.
    """
    for name in _EARLY:
        importlib.import_module(name)


_filling: Final[list[object]] = []


def settle() -> None:
    """The last thing before the first fork: collect what is garbage, fill the gaps, and let the collector forget all
    that is there, because it would write to every object's header."""
    gc.collect()
    _fill_pools()
    _fill_chunks()
    if sys.version_info < (3, 12):  # a new entry of the type cache lets go of the old one's name, on a page elsewhere
        sys._clear_type_cache()
    gc.freeze()


def _fill_pools() -> None:
    """Small objects come from pools of one size each: take blocks of every size until a new pool begins."""
    empty = b"".__sizeof__()
    for size_bytes in range(empty // 16 * 16 + 16, _SMALL_BYTES_MAX + 1, 16):
        for _ in range(_BLOCKS_MAX):
            block = bytes(size_bytes - empty)
            _filling.append(block)
            if id(block) % _POOL_BYTES == _POOL_HEAD_BYTES:
                break


def _fill_chunks() -> None:
    """The C library's heap, down from the largest gaps; what comes from behind the last chunk fills none."""
    left_bytes = _FILL_BYTES_MAX
    behind = _malloc(_CHUNK_BYTES_MAX)
    size_bytes = _CHUNK_BYTES_MAX
    while size_bytes >= 24 and left_bytes > 0:
        chunk = _malloc(size_bytes)
        left_bytes -= size_bytes
        if (chunk or behind) >= behind:
            _free(chunk)
            size_bytes = size_bytes // 2 if size_bytes > 1024 else size_bytes - 16
    _free(behind)


def default_signal(number: int) -> None:
    """What `signal.signal(number, SIG_DFL)` does to the kernel; that one makes members of enumerations of everything,
    by way of an exception.  The interpreter goes on to believe in its own handler, which is never called."""
    _signal(number, None)
