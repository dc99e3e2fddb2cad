"""Begins a program as systemd would under our unit, as far as jails can notice: like_unit.py UID SYSCALLS -- command

A mount namespace with /proc as ProtectProc=invisible has it, a user namespace as PrivateUsers=yes makes it, no
capability, no new privileges, and the system calls of the file SYSCALLS (a name a line) denied with EPERM.  For root.
"""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path

NEWNS, NEWUSER = 0x20000, 0x10000000
REC_PRIVATE, NOSUID_NODEV_NOEXEC = 0x44000, 0xE
CAPBSET_DROP, NO_NEW_PRIVS = 24, 38

libc = ctypes.CDLL(None, use_errno=True)


def call(name: str, *arguments: object) -> None:
    if getattr(libc, name)(*arguments) != 0:
        raise OSError(ctypes.get_errno(), f"{name}: {os.strerror(ctypes.get_errno())}")


def private_users(uid: int) -> None:
    """0 and the user's own id exist, nobody else; the map is written from outside, as systemd does it."""
    me, (ready, go) = os.getpid(), os.pipe()
    child = os.fork()
    if child == 0:
        os.read(ready, 1)
        for name in ("uid_map", "gid_map"):
            with open(f"/proc/{me}/{name}", "w") as file:
                file.write(f"0 0 1\n{uid} {uid} 1\n")
        os._exit(0)
    call("unshare", NEWUSER)
    os.write(go, b"x")
    assert os.waitpid(child, 0)[1] == 0


def main() -> None:
    cut = sys.argv.index("--")
    uid, syscalls = int(sys.argv[1]), Path(sys.argv[2]).read_text().split()
    import pyseccomp

    call("unshare", NEWNS)
    call("mount", b"none", b"/", None, REC_PRIVATE, None)
    call("mount", b"proc", b"/proc", b"proc", NOSUID_NODEV_NOEXEC, b"hidepid=invisible")
    private_users(uid)
    for capability in range(64):
        libc.prctl(CAPBSET_DROP, capability, 0, 0, 0)
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    call("prctl", NO_NEW_PRIVS, 1, 0, 0, 0)
    denied = pyseccomp.SyscallFilter(pyseccomp.ALLOW)
    for name in syscalls:
        try:
            denied.add_rule(pyseccomp.ERRNO(1), name)
        except (ValueError, OSError):
            continue  # of another architecture
    denied.load()
    os.execvp(sys.argv[cut + 1], sys.argv[cut + 1 :])


if __name__ == "__main__":
    main()
