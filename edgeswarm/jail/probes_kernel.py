"""Probes of the kernel's attack surface: what computing needs none of, by number, and by the other ways in."""

from __future__ import annotations

import ctypes
import mmap
import os
import struct
from errno import EBADF, EBUSY, EFAULT, EINVAL, ENOENT, ENOTTY
from typing import Final

from edgeswarm.jail.probes import SPARE, X86, Group, Place, call, check, control, libc, map_private, probe

_kernel: Final = Group("kernel", "seccomp")
_admin: Final = Group("kernel", "capabilities")
_channels: Final = Group("descriptors", "seccomp")

# --- large subsystems ------------------------------------------------------------------------------------------------

_kernel("bpf_map", 321, 280, 0, struct.pack("IIIII", 2, 4, 4, 1, 0) + bytes(100), 120, undo=os.close)
_kernel("bpf_program", 321, 280, 5, bytes(120), 120, reached=(EINVAL, EFAULT))
_kernel("io_uring_setup", 425, 425, 8, ctypes.create_string_buffer(120), undo=os.close)
_kernel("io_uring_enter", 426, 426, control, 0, 0, 0, None, 0, reached=(EINVAL, EBADF, 95))
_kernel("io_uring_register", 427, 427, control, 0, None, 0, reached=(EINVAL, EBADF, 95, EFAULT))
_kernel("userfaultfd", 323, 282, 1, undo=os.close)
_kernel("perf_event", 298, 241, struct.pack("IIQQQQQ", 1, 112, 0, 0, 0, 0, 0x60) + bytes(72), 0, -1, -1, 0,
        undo=os.close)  # fmt: skip
_kernel("session_keyring", 250, 219, 0, -3, 1, 0, 0)
_kernel("add_key", 248, 217, b"user", b"edgeswarm_probe", b"x", 1, -2)
_kernel("request_key", 249, 218, b"user", b"edgeswarm_probe", None, -2, reached=(126, ENOENT))
_kernel("landlock_rules", 444, 444, struct.pack("Q", 1), 8, 0, undo=os.close)
_kernel("landlock_exception", 445, 445, control, 1, bytes(16), 0, reached=(EINVAL, 77))
_kernel("landlock_again", 446, 446, control, 0, reached=(EINVAL, 77))
_kernel("another_filter", 317, 277, 2, 0, struct.pack("I", 0x7FFF_0000))
_kernel("async_io", 206, 0, 1, ctypes.create_string_buffer(8))
_kernel("secret_memory", 447, 447, 0, undo=os.close)
_kernel("memory_file", 319, 279, b"edgeswarm-probe", 1, undo=os.close)
_kernel("protection_key", 330, 289, 0, 0)
_kernel("policy_of_memory", 239, 236, SPARE, None, 0, 0, 0)
_kernel("merge_pages_with_others", 28, 233, lambda _: map_private(3), 4096, 12, reached=(EINVAL,))  # MADV_MERGEABLE
_kernel("lend_priority", 202, 98, ctypes.create_string_buffer(4), 6, 0, None)  # FUTEX_LOCK_PI
_kernel("requeue_to_priority", 202, 98, SPARE, 12, 1, None, SPARE, 0, reached=(EINVAL,))  # FUTEX_CMP_REQUEUE_PI
_kernel("membarrier", 324, 283, 0, 0, 0)
_kernel("remap_file_pages", 216, 234, 0, 0, 0, 0, 0, reached=(EINVAL,))
_kernel("process_memory_advice", 440, 440, control, None, 0, 4, 0, reached=(EBADF, EINVAL))
_kernel("security_attributes", 459, 459, 100, SPARE, struct.pack("I", 4096), 0)
_kernel("cache_statistics", 451, 451, control, bytes(16), SPARE, 0, reached=(EBADF, 95, EINVAL))

# --- objects that outlive a process, or wake others ------------------------------------------------------------------


_kernel("shared_memory_sysv", 29, 194, 0, 4096, 0o1600, undo=lambda n: call(31, 195, n, 0, None))
_kernel("message_queue_sysv", 68, 186, 0, 0o1600, undo=lambda n: call(71, 187, n, 0, None))
_kernel("semaphores_sysv", 64, 190, 0, 1, 0o1600, undo=lambda n: call(66, 191, n, 0, 0, None))
_kernel("message_queue_posix", 240, 180, b"edgeswarm_probe", 0o102, 0o600, None,
        undo=lambda _: call(241, 181, b"edgeswarm_probe"))  # fmt: skip
_kernel("timer", 222, 107, 0, None, SPARE, undo=lambda _: None)
_kernel("interval_timer", 38, 103, 0, bytes(32), None)
_kernel("timer_descriptor", 283, 85, 1, 0, undo=os.close)
_kernel("signal_descriptor", 289, 74, -1, bytes(8), 8, 0, undo=os.close)
_kernel("event_descriptor", 290, 19, 0, 0, undo=os.close)
_kernel("epoll", 291, 20, 0, undo=os.close)
_kernel("other_signal_handler", 13, 134, 10, None, SPARE, 8)
_kernel("block_signals", 14, 135, 0, bytes(8), None, 8)
_kernel("signal_stack", 131, 132, None, SPARE)

# --- the machine itself: without a seccomp filter in force these are not tried ---------------------------------------

_admin("kernel_log", 103, 116, 3, SPARE, 4096, layer="seccomp")
_admin("load_module", 175, 105, SPARE, 16, b"", careful=True)
_admin("load_module_file", 313, 273, control, b"", 0, careful=True)
_admin("remove_module", 176, 106, b"edgeswarm_no_such_module", 0, careful=True, reached=(ENOENT,))
_admin("another_kernel", 246, 104, 0, 0, None, 0, careful=True)
_admin("another_kernel_by_file", 320, 294, -1, -1, 0, b"", 8, careful=True, reached=(EBADF,))
_admin("reboot", 169, 142, 0, 0, 0, None, careful=True, reached=(EINVAL,))
_admin("set_clock", 227, 112, 0, struct.pack("qq", 0, 0), careful=True)
_admin("set_time_of_day", 164, 170, struct.pack("qq", -1, -1), None, careful=True, reached=(EINVAL,))
_admin("ask_clock_drift", 159, 171, ctypes.create_string_buffer(208), layer="seccomp")
_admin("port_access", 172, -1, 3)
_admin("one_port", 173, -1, 0x80, 1, 1)
_admin("disk_quota", 179, 60, 0x800001, None, 0, None, careful=True, reached=(EFAULT,))

# --- other ways into the kernel --------------------------------------------------------------------------------------

_kernel("x32_getpid", 0x4000_0000 | 39, -1)
_kernel("x32_execve", 0x4000_0000 | 520, -1, None, None, None, reached=(EFAULT,))
_kernel("number_beyond_the_table", 2000, 2000)
_kernel("number_minus_one", -1 & 0xFFFF_FFFF, -1 & 0xFFFF_FFFF)
_kernel("local_descriptor_table", 154, -1, 0, SPARE, 16)
_kernel("thread_base", 158, -1, 0x1003, SPARE)
_kernel("kernel_side_of_segments", 158, -1, 0x1001, None, reached=(EFAULT,), careful=True)

_INT80: Final = bytes.fromhex("5389f889f34189d089ca4489c1cd8048985bc3")
"""long int80(number, a, b, c): push rbx; eax = edi; ebx = esi; r8d = edx; edx = ecx; ecx = r8d; int 0x80; cdqe;
pop rbx; ret."""


def _make_stub() -> int:
    """Machine code of our own, for the calls that the C library cannot make; two pages, the second for probes of code.

    Made when the module is imported, in the zygote, before its code is sealed and while memory may become executable.
    """
    address = check(libc.mmap(None, ctypes.c_size_t(2 * mmap.PAGESIZE), 3, 0x22, -1, ctypes.c_long(0)))
    ctypes.memmove(address, _INT80 if X86 else bytes.fromhex("c0035fd6"), len(_INT80) if X86 else 4)
    ctypes.memmove(address + mmap.PAGESIZE, b"\xc3" if X86 else bytes.fromhex("c0035fd6"), 1 if X86 else 4)
    check(libc.mprotect(ctypes.c_void_p(address), ctypes.c_size_t(2 * mmap.PAGESIZE), 5))
    return address


STUB: Final = _make_stub()
SPARE_CODE: Final = STUB + mmap.PAGESIZE
"""A page of machine code that nothing needs: probes may try to change it."""
_int80: Final = ctypes.CFUNCTYPE(ctypes.c_long, ctypes.c_int, ctypes.c_uint, ctypes.c_uint, ctypes.c_uint)(STUB)
_vsyscall: Final = ctypes.CFUNCTYPE(ctypes.c_long, ctypes.c_void_p)(0xFFFF_FFFF_FF60_0400)


def _by_int80(number: int, a: int = 0, b: int = 0, c: int = 0) -> int:
    found = int(_int80(number, a, b, c))
    if found < 0:
        raise OSError(-found, os.strerror(-found))
    return found


if X86:

    @probe("kernel", "seccomp")
    def int80_getpid(_place: Place) -> object:
        return _by_int80(20)

    @probe("kernel", "seccomp")
    def int80_socketcall(_place: Place) -> object:
        return _by_int80(359, 1, 1, 0)

    @probe("kernel", "seccomp", EFAULT)
    def int80_open(_place: Place) -> object:
        return _by_int80(5, 8)

    @probe("kernel", "seccomp")
    def vsyscall_time(_place: Place) -> object:
        """time(2) through the page that old programs called."""
        return int(_vsyscall(None))


# --- the descriptors that a jail holds -------------------------------------------------------------------------------

_channels("control_of_terminal", 16, 29, 0, 0x5412, b"x", reached=(ENOTTY,))
_channels("control_of_pipe", 16, 29, lambda place: place.keep[1], 0x541B, SPARE)
_channels("seal_shared_memory", 72, 25, control, 1033, 0, reached=(EINVAL, 1))
_channels("own_signals_of_descriptor", 72, 25, control, 8, 1)
_channels("size_of_pipe", 72, 25, lambda place: place.keep[1], 1031, 1 << 20)
_channels("splice", 275, 76, lambda place: place.keep[1], None, 1, None, 0, 0)
_channels("gift_pages", 278, 75, lambda place: place.keep[2], None, 0, 0)
_channels("copy_between_descriptors", 326, 285, control, None, 0, None, 0, 0, reached=(EINVAL, EBADF))
_channels("wait_for_more_descriptors", 7 if X86 else -1, -1, struct.pack("IhhIhhIhh", 0, 1, 0, 1, 1, 0, 2, 1, 0), 3, 0,
          layer="limits", reached=(EBUSY,))  # fmt: skip
_channels("close_a_range", 436, 436, 60, 63, 0)


@probe("descriptors", "descriptors")
def leaked_descriptors(place: Place) -> object:
    """Descriptors beyond the protocol's that answer to read(fd, 0 bytes)."""
    known = {0, 1, 2, *place.keep}
    extra = [
        fd for fd in range(1024) if fd not in known and (libc.read(fd, None, 0) != -1 or ctypes.get_errno() != EBADF)
    ]
    if not extra:
        raise OSError(EBADF, f"only {sorted(known)}")
    return extra
