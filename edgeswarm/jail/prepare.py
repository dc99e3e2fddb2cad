"""Lets a driver make itself ready where it can still see files: in a thread that has no right beside reading them.

A GPU's driver reads its configuration, loads libraries, opens its nodes and starts threads; none of that is possible
later, and the threads must not be able to more than the jail.  So a thread gives up every capability, takes
no_new_privs and a Landlock domain first, and the driver's threads, which inherit that, are started from it.  The main
thread goes on through the steps of the plan; the filters reach all threads (TSYNC), the root is emptied for all.
Landlock here: nothing can be written, made or removed but device nodes, no TCP, no signal out of the domain.
"""

from __future__ import annotations

import _thread
import contextlib
import os
import struct
from collections.abc import Callable
from typing import Final

from edgeswarm.jail import kernel

_NR_LANDLOCK_ADD_RULE: Final = 445
_RULE_PATH_BENEATH: Final = 1
_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR, _IOCTL_DEV = 1 << 0, 1 << 1, 1 << 2, 1 << 3, 1 << 15
_IOCTL_DEV_SINCE: Final = 5
_KEPT: Final = ("/dev/", "anon_inode:", "/memfd:", "socket:", "pipe:")
"""What a driver's descriptors may be of: nodes, events and fences, shared memory."""


def run(work: Callable[[], None]) -> tuple[int, ...]:
    """Do it in such a thread; returns the descriptors that it leaves open.  Raises what it raises."""
    before = _open_descriptors()
    failed: list[BaseException] = []

    def body() -> None:
        try:
            kernel.drop_bounding_set()
            kernel.drop_capabilities()
            kernel.set_no_new_privs()
            read_only()
            work()
        except BaseException as error:  # whatever it was, the step fails with it
            failed.append(error)

        finally:
            done.release()

    done = _thread.allocate_lock()
    done.acquire()
    _thread.start_new_thread(body, ())  # without the threading module, which works after each fork
    done.acquire()
    if failed:
        raise failed[0]
    left = _open_descriptors() - before
    return tuple(sorted(fd for fd in left if _target(fd).startswith(_KEPT)))


def read_only() -> None:
    """Landlock on this thread and those that it starts: files can be read, device nodes opened, and no more."""
    abi = kernel.landlock_abi()
    rights = (1 << 13) - 1
    for since, right in ((2, 1 << 13), (3, 1 << 14), (_IOCTL_DEV_SINCE, _IOCTL_DEV)):
        rights |= right if abi >= since else 0
    handled = rights & ~(_EXECUTE | _READ_FILE | _READ_DIR)
    attributes = struct.pack("=QQQ", handled, 3 if abi >= 4 else 0, 3 if abi >= 6 else 0)
    size_bytes = 8 if abi < 4 else 16 if abi < 6 else 24
    rules = kernel._call(
        kernel._NR_LANDLOCK_CREATE_RULESET, "landlock_create_ruleset", attributes[:size_bytes], size_bytes, 0
    )
    try:
        nodes = os.open("/dev", os.O_PATH | os.O_CLOEXEC)
        try:
            allowed = _WRITE_FILE | (_IOCTL_DEV if abi >= _IOCTL_DEV_SINCE else 0)
            rule = struct.pack("=Qi", allowed, nodes)
            kernel._call(_NR_LANDLOCK_ADD_RULE, "landlock_add_rule", rules, _RULE_PATH_BENEATH, rule, 0)
        finally:
            os.close(nodes)
        kernel._call(kernel._NR_LANDLOCK_RESTRICT_SELF, "landlock_restrict_self", rules, 0)
    finally:
        os.close(rules)


def _open_descriptors() -> set[int]:
    return {int(name) for name in os.listdir("/proc/self/fd")}


def _target(fd: int) -> str:
    with contextlib.suppress(OSError):
        return os.readlink(f"/proc/self/fd/{fd}")
    return ""
