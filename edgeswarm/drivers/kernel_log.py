"""What the kernel's log says of processes that seccomp has ended: which system call it was.

The kernel logs a process that a filter killed as an audit record of type 1326, to /dev/kmsg where no audit daemon takes
it; reading that needs CAP_SYSLOG where kernel.dmesg_restrict is set.  Where it cannot be read, or the record was
suppressed (the kernel limits their rate), nothing is said.
Source: Linux kernel/auditsc.c (audit_seccomp), Documentation/ABI/testing/dev-kmsg.
"""

from __future__ import annotations

import os
import re
from typing import Final

from edgeswarm.drivers import syscall_names
from edgeswarm.limits import KERNEL_LOG_RECORDS_MAX

_RECORD_BYTES_MAX: Final = 8192
_SECCOMP: Final = re.compile(rb"type=1326 .*\bpid=(\d+) .*\bsig=31 arch=([0-9a-f]+) syscall=(\d+)")


def forbidden_call(pid: int, *, path: str = "/dev/kmsg") -> str:
    """The name of the call for which seccomp ended process `pid`, by the latest record; "" where nobody says.

    A jail may not write here, so the word is the kernel's.
    """
    found = ""
    for record in _records(path):
        match = _SECCOMP.search(record)
        if match and int(match[1]) == pid:
            found = syscall_names.name_of(int(match[2], 16), int(match[3]))
    return found


def _records(path: str) -> list[bytes]:
    """Every record that the log still holds; none where it cannot be read."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return []
    records: list[bytes] = []
    try:
        for _ in range(KERNEL_LOG_RECORDS_MAX):
            try:
                record = os.read(fd, _RECORD_BYTES_MAX)  # one a time, by the device's rule
            except BrokenPipeError:  # overwritten while we read: the next read goes on behind it
                continue
            except OSError:
                break
            if not record:
                break
            records.append(record)
    finally:
        os.close(fd)
    return records
