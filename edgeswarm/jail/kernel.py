"""The Linux system calls that a jail is made of, one thin function each, through ctypes.

Decides nothing: a function performs one call, and raises OSError with the call's name when the kernel refuses.
Works on x86_64 and aarch64, and knows riscv64's numbers; on another architecture `arch()` raises TierError: without a
seccomp filter for its own architecture there is no jail.  Nothing here needs more than the C library and the kernel,
so it may be called in a forked child before anything else is set up.

Source: the manual pages of section 2; Linux include/uapi for the constants.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import platform
import resource
import struct
from collections.abc import Iterable
from typing import Final, NamedTuple

from edgeswarm.errors import TierError

_libc = ctypes.CDLL(None, use_errno=True)
for _name in ("mmap", "mprotect", "mount", "munmap", "prctl", "sethostname", "syscall", "umount2", "unshare"):
    getattr(_libc, _name)  # found at its first use, and kept: here once, not in each jail
_syscall = _libc.syscall
_syscall.restype = ctypes.c_long


class Arch(NamedTuple):
    """System call numbers that the C library has no function for; the newer ones are the same everywhere."""

    name: str
    seccomp: int
    pivot_root: int
    capset: int
    getppid: int


_ARCHES: Final = {
    "x86_64": Arch("x86_64", seccomp=317, pivot_root=155, capset=126, getppid=110),
    "aarch64": Arch("aarch64", seccomp=277, pivot_root=41, capset=91, getppid=173),
    "riscv64": Arch("riscv64", seccomp=277, pivot_root=41, capset=91, getppid=173),
}
_NR_CLOSE_RANGE: Final = 436
_NR_LANDLOCK_CREATE_RULESET: Final = 444
_NR_LANDLOCK_RESTRICT_SELF: Final = 446
_NR_MSEAL: Final = 462


def arch() -> Arch:
    """This machine's architecture.  Raises TierError for one whose calls are not known here."""
    machine = platform.machine()
    found = _ARCHES.get(machine)
    if found is None:
        raise TierError(f"jails need {', '.join(_ARCHES)}; this machine is {machine}")
    return found


def _check(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


def _call(number: int, what: str, *arguments: object) -> int:
    """One raw system call; integers are passed as 64-bit words, bytes as pointers to them."""
    words = [ctypes.c_ulong(a & 0xFFFF_FFFF_FFFF_FFFF) if isinstance(a, int) else a for a in arguments]
    return _check(_syscall(ctypes.c_long(number), *words), what)


NAMESPACE_FLAGS: Final = {
    "user": 0x1000_0000,
    "pid": 0x2000_0000,
    "mount": 0x0002_0000,
    "net": 0x4000_0000,
    "ipc": 0x0800_0000,
    "uts": 0x0400_0000,
    "cgroup": 0x0200_0000,
}

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT, MS_BIND = 1, 2, 4, 8, 32, 4096
MS_REC: Final = 16384
MS_PRIVATE: Final = 1 << 18
MNT_DETACH: Final = 2


def unshare(namespaces: Iterable[str]) -> None:
    """Leave the named namespaces for fresh ones; `pid` takes effect for the children."""
    names = tuple(namespaces)
    flags = sum(NAMESPACE_FLAGS[name] for name in set(names))
    _check(_libc.unshare(ctypes.c_int(flags)), f"unshare({','.join(names)})")


def map_identity(*, outer_uid: int, outer_gid: int, inner_id: int) -> None:
    """Map one user and one group into the user namespace this process has just entered."""
    for name, text in (
        ("setgroups", "deny"),
        ("uid_map", f"{inner_id} {outer_uid} 1"),
        ("gid_map", f"{inner_id} {outer_gid} 1"),
    ):
        fd = os.open(f"/proc/self/{name}", os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, text.encode("ascii"))
        except OSError as error:
            raise OSError(error.errno, f"write /proc/self/{name}: {error.strerror}") from None
        finally:
            os.close(fd)


def mount(source: bytes, target: bytes, kind: bytes | None, flags: int, options: bytes | None = None) -> None:
    _check(_libc.mount(source, target, kind, ctypes.c_ulong(flags), options), f"mount {os.fsdecode(target)}")


def pivot_into_empty_root(*, base: bytes = b"/proc") -> None:
    """Make an empty, read-only tmpfs of one inode the root, and let go of the old one.

    `base` is any existing folder to mount over (the user namespace was set up through /proc, so that exists); nothing
    of it stays reachable.  Needs a mount namespace of our own.
    """
    harmless = MS_NOSUID | MS_NODEV | MS_NOEXEC
    mount(b"none", b"/", None, MS_REC | MS_PRIVATE)
    mount(b"tmpfs", base, b"tmpfs", harmless, b"size=4k,nr_inodes=1,mode=0555")
    os.chdir(base)
    _call(arch().pivot_root, "pivot_root", b".", b".")
    _check(_libc.umount2(b".", ctypes.c_int(MNT_DETACH)), "umount2")
    os.chdir("/")
    mount(b"none", b"/", None, MS_REMOUNT | MS_RDONLY | MS_BIND | harmless)


def set_hostname(name: bytes) -> None:
    _check(_libc.sethostname(name, ctypes.c_size_t(len(name))), "sethostname")


# --- file descriptors ------------------------------------------------------------------------------------------------


def null_stdio() -> None:
    """Point descriptors 0, 1 and 2 at /dev/null."""
    fd = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    for target in (0, 1, 2):
        os.dup2(fd, target, inheritable=False)
    if fd > 2:
        os.close(fd)


def close_range(first: int, last: int) -> None:
    """Close every descriptor of first..last, both included; one by one where the kernel is older than 5.9."""
    try:
        _call(_NR_CLOSE_RANGE, "close_range", first, last, 0)
    except OSError:
        os.closerange(first, min(last, resource.getrlimit(resource.RLIMIT_NOFILE)[1]) + 1)


def close_all_except(keep: Iterable[int]) -> None:
    """Close every descriptor that is not in `keep`."""
    first = 0
    for fd in sorted(set(keep)):
        if fd > first:
            close_range(first, fd - 1)
        first = fd + 1
    close_range(first, 0x7FFF_FFFF)


_F_ADD_SEALS: Final = 1033
_F_SEAL_SEAL, _F_SEAL_SHRINK, _F_SEAL_GROW, _F_SEAL_WRITE = 1, 2, 4, 8
_MFD_CLOEXEC, _MFD_ALLOW_SEALING, _MFD_NOEXEC_SEAL = 1, 2, 8


def memfd(name: str, *, size_bytes: int, content: bytes | bytearray | None = None) -> int:
    """Memory with a descriptor: never executable, of a fixed size, and read-only when it has a content.

    Both sides map it, so neither may be able to shrink it under the other (SIGBUS).
    """
    try:
        fd = os.memfd_create(name, _MFD_CLOEXEC | _MFD_ALLOW_SEALING | _MFD_NOEXEC_SEAL)
    except OSError:  # MFD_NOEXEC_SEAL is of Linux 6.3
        fd = os.memfd_create(name, _MFD_CLOEXEC | _MFD_ALLOW_SEALING)
    try:
        seals = _F_SEAL_SEAL | _F_SEAL_SHRINK | _F_SEAL_GROW
        os.ftruncate(fd, size_bytes)
        if content is not None:
            view, done = memoryview(content), 0
            while done < len(view):
                done += os.pwrite(fd, view[done:], done)
            seals |= _F_SEAL_WRITE
        fcntl.fcntl(fd, _F_ADD_SEALS, seals)
    except BaseException:
        os.close(fd)
        raise
    return fd


# --- privileges ------------------------------------------------------------------------------------------------------

_PR_SET_DUMPABLE: Final = 4
_PR_CAPBSET_DROP: Final = 24
_PR_SET_SECUREBITS: Final = 28
_PR_SET_CHILD_SUBREAPER: Final = 36
_PR_SET_NO_NEW_PRIVS: Final = 38
_PR_CAP_AMBIENT: Final = 47
_PR_CAP_AMBIENT_CLEAR_ALL: Final = 4
_PR_SET_MDWE: Final = 65
_PR_MDWE_REFUSE_EXEC_GAIN: Final = 1
# NOROOT, NO_SETUID_FIXUP and NO_CAP_AMBIENT_RAISE, each with its lock, and the lock of KEEP_CAPS
_SECUREBITS_LOCKED: Final = 0b1110_1111
_CAPABILITY_MAX: Final = 63


def prctl(option: int, argument: int = 0, argument3: int = 0, argument4: int = 0, argument5: int = 0) -> int:
    """prctl(2); every argument is passed as a full word, as the newer options demand."""
    words = (ctypes.c_ulong(a) for a in (argument, argument3, argument4, argument5))
    return _check(_libc.prctl(ctypes.c_int(option), *words), f"prctl({option})")


def set_no_new_privs() -> None:
    prctl(_PR_SET_NO_NEW_PRIVS, 1)


def set_dumpable(dumpable: bool) -> None:
    prctl(_PR_SET_DUMPABLE, int(dumpable))


def set_child_subreaper() -> None:
    """Orphans among our descendants become our children, so that we learn how they ended."""
    prctl(_PR_SET_CHILD_SUBREAPER, 1)


def refuse_exec_gain() -> None:
    """From now on no mapping of this process may become executable (Linux 6.3)."""
    prctl(_PR_SET_MDWE, _PR_MDWE_REFUSE_EXEC_GAIN)


def become_user(uid: int, gid: int) -> None:
    """Give up root for good; stays dumpable, so that the process may write its own uid_map afterwards."""
    os.setgroups([])
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)
    set_dumpable(True)


def drop_bounding_set() -> bool:
    """Empty the capability bounding set and lock the secure bits; False where that is not allowed (no CAP_SETPCAP)."""
    option, zero = ctypes.c_int(_PR_CAPBSET_DROP), ctypes.c_ulong(0)
    try:
        for capability in range(_CAPABILITY_MAX + 1):
            _check(_libc.prctl(option, ctypes.c_ulong(capability), zero, zero, zero), "prctl(PR_CAPBSET_DROP)")
    except PermissionError:
        return False
    except OSError as error:
        if error.errno != errno.EINVAL:  # past the last one that this kernel has
            raise
    prctl(_PR_SET_SECUREBITS, _SECUREBITS_LOCKED)
    return True


def drop_capabilities() -> None:
    """Empty the ambient, inheritable, permitted and effective capability sets of this thread."""
    prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL)
    header = struct.pack("=Ii", 0x2008_0522, 0)  # _LINUX_CAPABILITY_VERSION_3
    _call(arch().capset, "capset", header, bytes(24))


def set_limit(name: str, value: int) -> None:
    """Set RLIMIT_<name>, soft and hard; a lower hard limit that is there already stays."""
    kind: int = getattr(resource, "RLIMIT_" + name)
    hard = resource.getrlimit(kind)[1]
    if hard != resource.RLIM_INFINITY:
        value = min(value, hard)
    resource.setrlimit(kind, (value, value))


# --- landlock --------------------------------------------------------------------------------------------------------

_LANDLOCK_CREATE_RULESET_VERSION: Final = 1


def landlock_abi() -> int:
    """The kernel's Landlock version; raises OSError where it has none, or does not enable it."""
    return _call(_NR_LANDLOCK_CREATE_RULESET, "landlock_create_ruleset", None, 0, _LANDLOCK_CREATE_RULESET_VERSION)


def landlock_deny_all() -> int:
    """Deny every right that the kernel's Landlock version knows, with no exception; returns that version.

    Files from version 1, TCP from 4, device ioctl from 5, abstract Unix sockets and signals out of the domain from 6.
    Needs no_new_privs.  Descriptors that are open already keep their rights.
    """
    abi = landlock_abi()
    files = (1 << 13) - 1
    for since, right in ((2, 1 << 13), (3, 1 << 14), (5, 1 << 15)):
        files |= right if abi >= since else 0
    network = 3 if abi >= 4 else 0
    scoped = 3 if abi >= 6 else 0
    size_bytes = 8 if abi < 4 else 16 if abi < 6 else 24
    attributes = struct.pack("=QQQ", files, network, scoped)[:size_bytes]
    fd = _call(_NR_LANDLOCK_CREATE_RULESET, "landlock_create_ruleset", attributes, size_bytes, 0)
    try:
        _call(_NR_LANDLOCK_RESTRICT_SELF, "landlock_restrict_self", fd, 0)
    finally:
        os.close(fd)
    return abi


# --- seccomp ---------------------------------------------------------------------------------------------------------

_SECCOMP_SET_MODE_FILTER: Final = 1
_SECCOMP_GET_ACTION_AVAIL: Final = 2
_SECCOMP_FILTER_FLAG_TSYNC: Final = 1
_BPF_INSTRUCTION_BYTES: Final = 8
_BPF_INSTRUCTIONS_MAX: Final = 4096
SECCOMP_RET_KILL_PROCESS: Final = 0x8000_0000


class _FilterProgram(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_void_p))


def seccomp_load(program: bytes) -> None:
    """Put a raw BPF filter on every thread of this process (TSYNC).  Needs no_new_privs."""
    count, rest = divmod(len(program), _BPF_INSTRUCTION_BYTES)
    if rest or not 0 < count <= _BPF_INSTRUCTIONS_MAX:
        raise ValueError(f"a BPF program is 1 to 4096 instructions of 8 bytes, found {len(program)} bytes")
    text = ctypes.create_string_buffer(program, len(program))
    filter_program = _FilterProgram(count, ctypes.cast(text, ctypes.c_void_p))
    thread = _call(
        arch().seccomp,
        "seccomp",
        _SECCOMP_SET_MODE_FILTER,
        _SECCOMP_FILTER_FLAG_TSYNC,
        ctypes.byref(filter_program),
    )
    if thread > 0:  # seccomp(2): the id of a thread that could not be synchronised
        raise OSError(0, f"seccomp: thread {thread} keeps another filter")


def seccomp_action_available(action: int) -> None:
    """Raises OSError when this kernel does not know the seccomp action."""
    word = ctypes.c_uint32(action)
    _call(arch().seccomp, "seccomp(GET_ACTION_AVAIL)", _SECCOMP_GET_ACTION_AVAIL, 0, ctypes.byref(word))


# --- memory ----------------------------------------------------------------------------------------------------------

_PROT_READ, _PROT_WRITE, _PROT_EXEC = 1, 2, 4
_MAP_SHARED, _MAP_PRIVATE_ANONYMOUS = 0x01, 0x22
_VIEW_READ, _VIEW_WRITE = 0x100, 0x200  # PyBUF_READ and PyBUF_WRITE
_libc.mmap.restype = ctypes.c_void_p
_view_of = ctypes.pythonapi.PyMemoryView_FromMemory
_view_of.argtypes = (ctypes.c_void_p, ctypes.c_ssize_t, ctypes.c_int)
_view_of.restype = ctypes.py_object


def view(address: int, size_bytes: int, *, writable: bool) -> memoryview:
    """Memory at an address.  Whoever frees that memory has to release the view first."""
    found: memoryview = _view_of(address, size_bytes, _VIEW_WRITE if writable else _VIEW_READ)
    return found


def map_shared(fd: int, size_bytes: int, *, writable: bool) -> int:
    """Map a descriptor's memory; returns its address.  Unlike the mmap module this keeps no copy of the descriptor."""
    rights = _PROT_READ | (_PROT_WRITE if writable else 0)
    return _map(size_bytes, rights, _MAP_SHARED, fd)


def unmap(address: int, size_bytes: int) -> None:
    _check(_libc.munmap(ctypes.c_void_p(address), ctypes.c_size_t(size_bytes)), "munmap")


def _map(size_bytes: int, rights: int, flags: int, fd: int) -> int:
    words = (ctypes.c_int(rights), ctypes.c_int(flags), ctypes.c_int(fd), ctypes.c_long(0))
    address: int | None = _libc.mmap(None, ctypes.c_size_t(size_bytes), *words)
    if address is None or address == ctypes.c_void_p(-1).value:
        _check(-1, "mmap")
    return address or 0


def protect(start: int, length_bytes: int, *, writable: bool, executable: bool) -> None:
    """mprotect to readable and what is asked for."""
    rights = _PROT_READ | (_PROT_WRITE if writable else 0) | (_PROT_EXEC if executable else 0)
    _check(_libc.mprotect(ctypes.c_void_p(start), ctypes.c_size_t(length_bytes), ctypes.c_int(rights)), "mprotect")


def map_anonymous(length_bytes: int, *, writable: bool, executable: bool) -> int:
    """A private anonymous mapping; returns its address."""
    rights = _PROT_READ | (_PROT_WRITE if writable else 0) | (_PROT_EXEC if executable else 0)
    return _map(length_bytes, rights, _MAP_PRIVATE_ANONYMOUS, -1)


def get_parent_id() -> int:
    """getppid(2), which cannot fail unless a filter says so."""
    return _call(arch().getppid, "getppid")


def mseal(start: int, length_bytes: int) -> None:
    """Forbid any further change of these mappings' rights and place (Linux 6.10)."""
    _call(_NR_MSEAL, "mseal", start, length_bytes, 0)
