"""Probes of code: making new code, changing code that is there, and undoing what protects it."""

from __future__ import annotations

import ctypes
import mmap
from typing import Final

from edgeswarm.jail.probes import SPARE, Group, Place, call, check, libc, map_private, probe
from edgeswarm.jail.probes_kernel import SPARE_CODE

_code: Final = Group("code", "exec_gain")
_change: Final = Group("code", "seal")
_READ, _WRITE, _EXECUTE = 1, 2, 4


@probe("code", "exec_gain")
def map_executable(_place: Place) -> object:
    return map_private(_READ | _EXECUTE)


@probe("code", "exec_gain")
def map_writable_and_executable(_place: Place) -> object:
    return map_private(_READ | _WRITE | _EXECUTE)


@probe("code", "exec_gain")
def make_data_executable(_place: Place) -> object:
    return check(libc.mprotect(ctypes.c_void_p(map_private(3)), ctypes.c_size_t(4096), 5)) or 1


@probe("code", "exec_gain")
def make_data_writable_and_executable(_place: Place) -> object:
    return check(libc.mprotect(ctypes.c_void_p(map_private(3)), ctypes.c_size_t(4096), 7)) or 1


@probe("code", "exec_gain")
def make_heap_executable(_place: Place) -> object:
    return check(libc.mprotect(ctypes.c_void_p(ctypes.addressof(SPARE) & -mmap.PAGESIZE), ctypes.c_size_t(4096), 7))


@probe("code", "exec_gain")
def make_shared_memory_executable(_place: Place) -> object:
    address = check(libc.mmap(None, ctypes.c_size_t(4096), 3, 0x21, -1, ctypes.c_long(0)))
    return check(libc.mprotect(ctypes.c_void_p(address), ctypes.c_size_t(4096), 5)) or 1


@probe("code", "exec_gain")
def map_executable_below_code(_place: Place) -> object:
    """At an address of our choice, over nothing that is needed."""
    where = map_private(0, 2 * mmap.PAGESIZE)
    return check(libc.mmap(ctypes.c_void_p(where), ctypes.c_size_t(4096), 5, 0x32, -1, ctypes.c_long(0)))


@probe("code", "exec_gain")
def protect_by_key(_place: Place) -> object:
    return call(329, 288, map_private(3), 4096, 5, -1)


@probe("code", "seccomp")
def undo_refusal_of_new_code(_place: Place) -> object:
    return call(157, 167, 65, 0, 0, 0, 0)


_code("map_at_address_0", 9, 222, 0, 4096, 3, 0x32, -1, 0, layer="capabilities")
_change("make_code_writable", 10, 226, SPARE_CODE, 4096, 3)
_change("make_code_writable_and_executable", 10, 226, SPARE_CODE, 4096, 7, layer="exec_gain")
_change("unmap_code", 11, 215, SPARE_CODE, 4096)
_change("map_over_code", 9, 222, SPARE_CODE, 4096, 3, 0x32, -1, 0)
_change("move_code", 25, 216, SPARE_CODE, 4096, 4096, 3, lambda _: map_private(0))
_change("discard_code", 28, 233, SPARE_CODE, 4096, 4)
_change("make_kernel_code_writable", 10, 226, lambda place: place.code[0], 4096, 3)
_change("unmap_kernel_code", 11, 215, lambda place: place.code[0], 4096)
