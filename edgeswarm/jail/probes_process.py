"""Probes of processes: more of them, others' memory, signals, privileges, namespaces, priorities, limits."""

from __future__ import annotations

import _thread
import ctypes
import os
import resource
import struct
import time
from errno import EAGAIN, EBADF, EFAULT, EINVAL, ENOEXEC
from typing import Final

from edgeswarm.jail.probes import (
    AT_FDCWD,
    SPARE,
    Group,
    Place,
    call,
    check,
    control,
    libc,
    probe,
    sibling,
    supervisor,
    zygote,
)

_more: Final = Group("processes", "seccomp")
_others: Final = Group("others", "namespaces")
_rights: Final = Group("privileges", "capabilities")
_spaces: Final = Group("namespaces", "seccomp")
_ARGUMENTS: Final = (ctypes.c_char_p * 2)(b"true", None)
_CHILD_EXITS: Final = 17  # SIGCHLD, and no flag


def _end_child(pid: int) -> None:
    """In a child that a probe has made: end it.  In the jail: wait for it."""
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)


# --- more processes, other programs ----------------------------------------------------------------------------------

_more("fork", 57, -1, undo=_end_child)
_more("clone", 56, 220, _CHILD_EXITS, 0, 0, 0, 0, undo=_end_child)
_more("clone3", 435, 435, struct.pack("8Q", 0, 0, 0, 0, 17, 0, 0, 0), 64, undo=_end_child)
_more("clone_into_user_namespace", 56, 220, 0x1000_0000 | _CHILD_EXITS, 0, 0, 0, 0, undo=_end_child)
_more("execute", 59, 221, b"/bin/true", ctypes.c_void_p(8), None, reached=(EFAULT,))
_more("execute_at", 322, 281, AT_FDCWD, b"/bin/true", ctypes.c_void_p(8), None, 0, reached=(EFAULT,))
_more("old_library", 134, -1, b"/lib/ld.so")
_more("watch_children", 247, 95, 0, 0, SPARE, 5, None, layer="seccomp")
_more("new_session", 112, 157)
_more("own_process_group", 109, 154, 0, 0)


@probe("processes", "seccomp", ENOEXEC)
def execute_from_memory(_place: Place) -> object:
    """A memory file without content: no program, but the kernel would have looked for one in it."""
    fd = call(319, 279, b"edgeswarm-probe", 1)
    return call(322, 281, fd, b"", _ARGUMENTS, None, 0x1000)


@probe("processes", "seccomp", EAGAIN)
def start_a_thread(_place: Place) -> object:
    try:
        return _thread.start_new_thread(time.time, ())
    except RuntimeError:
        raise PermissionError(1, "no thread") from None


# --- other processes: a sibling is another jail of the same host -----------------------------------------------------

for _name, _who in (("sibling", sibling), ("supervisor", supervisor), ("zygote", zygote)):
    _others(f"signal_{_name}", 62, 129, _who, 0)
    _others(f"trace_{_name}", 101, 117, 0x4206, _who, 0, 0, undo=lambda _: None)  # PTRACE_SEIZE
    _others(f"handle_of_{_name}", 434, 434, _who, 0, undo=os.close)

_others("signal_everybody", 62, 129, -1, 0, layer="seccomp")
_others("signal_own_group", 62, 129, 0, 0, layer="seccomp")
_others("signal_a_thread", 200, 130, sibling, 0)
_others("queue_signal_to_sibling", 129, 138, sibling, 0, struct.pack("3i", 0, 0, -1) + bytes(116))
_others("be_traced", 101, 117, 0, 0, 0, 0, layer="seccomp")
_others("descriptor_of_another", 438, 438, 99, 0, 0, layer="seccomp", reached=(EBADF,))
_others("scheduling_of_sibling", 145, 120, sibling)
_others("limits_of_sibling", 302, 261, sibling, 7, None, SPARE)
_others("futexes_of_sibling", 274, 100, sibling, SPARE, SPARE)
_others("pages_of_sibling", 279, 239, sibling, 0, None, None, None, 0)
_others("group_of_sibling", 121, 155, sibling)
_others("processor_of_sibling", 204, 123, sibling, 128, ctypes.create_string_buffer(128))
_others("compare_with_sibling", 312, 272, sibling, sibling, 0, 0, 0)
_others("let_anybody_trace", 157, 167, 0x5961_6D61, 0xFFFF_FFFF_FFFF_FFFF, 0, 0, 0, layer="seccomp")


@probe("others", "namespaces")
def signal_process_1(_place: Place) -> object:
    """The machine's, not the jail itself, which is process 1 of its own namespace."""
    if os.getpid() == 1:
        raise ProcessLookupError(3, "process 1 is this jail")
    return call(62, 129, 1, 0) + 1


def _processor_time(pid: int) -> int:
    """clock_gettime of another process's CPU clock, which asks nobody whether it may (time/posix-cpu-timers.c)."""
    return call(228, 113, ~pid << 3 | 2, SPARE)


@probe("others", "namespaces")
def processor_time_of_sibling(place: Place) -> object:
    return _processor_time(place.sibling)


@probe("others", "namespaces")
def processor_time_of_supervisor(place: Place) -> object:
    return _processor_time(place.supervisor)


def _of_sibling(place: Place, number_x86: int, number_arm: int) -> object:
    """One byte at an address where nothing is: EFAULT tells that it would have been allowed."""
    local, remote = struct.pack("QQ", ctypes.addressof(SPARE), 1), struct.pack("QQ", 8, 1)
    return call(number_x86, number_arm, place.sibling, local, 1, remote, 1, 0)


@probe("others", "namespaces", EFAULT)
def read_memory_of_sibling(place: Place) -> object:
    return _of_sibling(place, 310, 270)


@probe("others", "namespaces", EFAULT)
def write_memory_of_sibling(place: Place) -> object:
    return _of_sibling(place, 311, 271)


# --- privileges ------------------------------------------------------------------------------------------------------

_ALL: Final = struct.pack("6I", *(0xFFFF_FFFF, 0xFFFF_FFFF, 0) * 2)
_rights("become_root", 105, 146, 0)
_rights("become_group_root", 106, 144, 0)
_rights("take_groups", 116, 159, 1, struct.pack("I", 0))
_rights("take_all_capabilities", 126, 91, struct.pack("Ii", 0x2008_0522, 0), _ALL)
_rights("keep_capabilities", 157, 167, 8, 1, 0, 0, 0)
_rights("change_secure_bits", 157, 167, 28, 0, 0, 0, 0)
_rights("set_host_name", 170, 161, b"jail", 4)
_rights("set_domain_name", 171, 162, b"jail", 4)
_rights("raise_priority", 141, 140, 0, 0, -20)
_rights("become_real_time", 144, 119, 0, 1, struct.pack("i", 50))
_rights("become_real_time_by_attributes", 314, 274, 0, struct.pack("IIQiIQQQ", 48, 1, 0, 0, 50, 0, 0, 0), 0)
_rights("real_time_disk", 251, 30, 1, 0, (1 << 13) | 4)
_rights("bind_to_a_processor", 203, 122, 0, 8, struct.pack("Q", 1), layer="seccomp")
_rights("personality_exec", 135, 92, 0x040_0000, layer="seccomp")
_rights("be_dumpable", 157, 167, 4, 1, 0, 0, 0, layer="seccomp")
_rights("rename_itself", 157, 167, 15, b"sshd", 0, 0, 0, layer="seccomp")
_rights("ask_own_capabilities", 125, 90, struct.pack("Ii", 0x2008_0522, 0), SPARE, layer="seccomp")

for _name, _flag in (
    ("user", 0x1000_0000),
    ("pid", 0x2000_0000),
    ("mount", 0x0002_0000),
    ("net", 0x4000_0000),
    ("ipc", 0x0800_0000),
    ("uts", 0x0400_0000),
    ("cgroup", 0x0200_0000),
    ("time", 0x0000_0080),
    ("descriptors", 0x0000_0400),
):
    _spaces(f"new_namespace_{_name}", 272, 97, _flag)
_spaces("enter_namespace", 308, 268, control, 0, reached=(EINVAL,))

# --- limits ----------------------------------------------------------------------------------------------------------

_limits: Final = Group("resources", "limits")
_WIDE: Final = struct.pack("QQ", 0xFFFF_FFFF_FFFF_FFFF, 0xFFFF_FFFF_FFFF_FFFF)
for _name, _kind in (("descriptors", 7), ("data", 2), ("processes", 6), ("core", 4), ("file_size", 1)):
    _limits(f"raise_limit_of_{_name}", 302, 261, 0, _kind, _WIDE, None)
_limits("lock_memory", 149, 228, ctypes.addressof(SPARE) & ~4095, 4096)
_limits("lock_all_memory", 151, 230, 2)
_limits("duplicate_descriptor", 32, 23, 0, undo=os.close)
_limits("duplicate_by_fcntl", 72, 25, 0, 0, 0, undo=os.close)
_limits("duplicate_to_a_number", 292, 24, 0, 63, 0, undo=os.close)


def _map_a_gib(flags: int) -> int:
    """Mapped, not touched: nothing that the machine would miss."""
    step = 32 << 20
    total, most = 0, min(1 << 30, resource.getpagesize() << 18)
    while total < most:
        check(libc.mmap(None, ctypes.c_size_t(step), 3, flags | 0x4020, -1, ctypes.c_long(0)))  # MAP_NORESERVE, no file
        total += step
    return total


@probe("resources", "limits")
def more_memory_than_allowed(_place: Place) -> object:
    """What RLIMIT_DATA counts."""
    return _map_a_gib(0x02)


@probe("resources", "seccomp")
def shared_memory_of_its_own(_place: Place) -> object:
    """What RLIMIT_DATA does not count: MAP_SHARED."""
    return _map_a_gib(0x01)


@probe("resources", "seccomp")
def stack_of_its_own(_place: Place) -> object:
    """Nor this: MAP_GROWSDOWN."""
    return _map_a_gib(0x102)


@probe("resources", "limits")
def grow_the_heap(_place: Place) -> object:
    """brk(2) answers with the end that is, whether or not it moved."""
    now = call(12, 214, 0)
    if call(12, 214, now + (1 << 30)) <= now:
        raise MemoryError
    return call(12, 214, now) and 1
