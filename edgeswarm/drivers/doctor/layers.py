"""The single layers of a jail, tried one by one: what `jail.tiers` tries together, and what it takes for granted.

Each function performs its step, checks the effect, and returns what it saw; a refusal is an OSError.  They run in
forked children of the probe (`child.py`), as the user that a jail would run as.  Everything they need is imported
here: that user may not be able to read Python's files.
"""

from __future__ import annotations

import errno
import fcntl
import os
import resource
import signal
import socket
import struct
import threading
from collections.abc import Callable, Sequence

from edgeswarm.jail import enter, kernel
from edgeswarm.jail.policy import Filter

_PROBE_LIMIT_BYTES = 64 << 20
_SIOCGIFFLAGS = 0x8913
_IFF_UP = 1


def refuse(text: str, number: int = errno.EINVAL) -> OSError:
    return OSError(number, text)


def namespace(name: str) -> Callable[[], str]:
    """Enter the user namespace and this one, and see that it is another one than before."""

    def attempt() -> str:
        uid, gid = os.geteuid(), os.getegid()
        link = f"/proc/self/ns/{_LINKS[name]}"
        before = os.readlink(link)
        kernel.unshare({"user", name})
        kernel.map_identity(outer_uid=uid, outer_gid=gid, inner_id=enter.INNER_ID)
        seen = _EFFECTS[name]()
        if os.readlink(link) == before:
            raise refuse(f"still in {before}")
        return seen

    return attempt


_LINKS = {
    "user": "user",
    "pid": "pid_for_children",
    "mount": "mnt",
    "net": "net",
    "ipc": "ipc",
    "uts": "uts",
    "cgroup": "cgroup",
}


def _effect_user() -> str:
    if os.geteuid() != enter.INNER_ID:
        raise refuse(f"user id {enter.INNER_ID} expected inside, found {os.geteuid()}")
    return f"the user is {enter.INNER_ID} inside"


def _effect_pid() -> str:
    child = os.fork()
    if child == 0:
        os._exit(0 if os.getpid() == 1 else 1)
    if os.waitpid(child, 0)[1] != 0:
        raise refuse("process id 1 expected in the new namespace")
    return "a child is process 1"


def _effect_mount() -> str:
    kernel.mount(b"none", b"/", None, kernel.MS_REC | kernel.MS_PRIVATE)
    kernel.mount(b"tmpfs", b"/tmp", b"tmpfs", kernel.MS_NOSUID | kernel.MS_NODEV, b"size=4k")
    if os.listdir("/tmp"):
        raise refuse("the new mount is not empty")
    return "own mounts"


def _effect_net() -> str:
    up = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        for _, name in socket.if_nameindex():
            answer = fcntl.ioctl(asking, _SIOCGIFFLAGS, struct.pack("16sh22x", name.encode("ascii"), 0))
            if struct.unpack("16sh22x", answer)[1] & _IFF_UP:
                up.append(name)
    if up:
        raise refuse(f"interfaces are up: {' '.join(up)}")
    return "no interface is up"


def _effect_uts() -> str:
    kernel.set_hostname(b"jail")
    if os.uname().nodename != "jail":
        raise refuse("the host name did not change")
    return "own host name"


_EFFECTS: dict[str, Callable[[], str]] = {
    "user": _effect_user,
    "pid": _effect_pid,
    "mount": _effect_mount,
    "net": _effect_net,
    "ipc": lambda: "own System V objects and queues",
    "uts": _effect_uts,
    "cgroup": lambda: "own cgroup root",
}


def filters(stages: Sequence[Filter]) -> Callable[[], str]:
    """Load each committed filter; it must let a thread write, and end the process when *another* one calls chroot."""

    def attempt() -> str:
        for number, item in enumerate(stages, start=1):
            report, told = os.pipe()
            child = os.fork()
            if child == 0:
                _filtered(item.checked(), told)
            os.close(told)
            seen = os.read(report, 64)
            more = os.read(report, 64)
            os.close(report)
            code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            if seen != b"loaded" or more or code != -signal.SIGSYS:
                raise refuse(f"stage {number}: expected an end by SIGSYS, found {seen + more!r} and {code}")
        return f"{len(stages)} stages of policy strict end a process by SIGSYS, on every thread"

    return attempt


def _filtered(program: bytes, told: int) -> None:
    """In a child: a second thread tries the forbidden, after the first has loaded the filter."""
    go = threading.Lock()
    go.acquire()

    def forbidden() -> None:
        with go:
            os.chroot("/")  # in no policy; without a filter it fails, or succeeds, and the process goes on
        os.write(told, b"alive")

    second = threading.Thread(target=forbidden)
    try:
        second.start()
        kernel.set_no_new_privs()
        kernel.seccomp_load(program)
        os.write(told, b"loaded")
        go.release()
        second.join()
    finally:
        os._exit(1)


def capabilities() -> str:
    """Gain every capability in a user namespace where that is possible, then drop all of them and the bounding set."""
    uid, gid = os.geteuid(), os.getegid()
    try:
        kernel.unshare({"user"})
        kernel.map_identity(outer_uid=uid, outer_gid=gid, inner_id=enter.INNER_ID)
    except OSError:
        inside = False  # no user namespace: then those that we have are dropped
    else:
        inside = True
    before = _capability_sets()
    bounding = kernel.drop_bounding_set()
    kernel.drop_capabilities()
    after = _capability_sets()
    held = {name: bits for name, bits in after.items() if bits and not (name == "CapBnd" and not bounding)}
    if held:
        raise refuse(f"still held: {held}")
    had = before["CapEff"].bit_count()
    return f"{had} dropped{' in a user namespace' if inside else ''}, bounding set {'empty' if bounding else 'kept'}"


def _capability_sets() -> dict[str, int]:
    with open("/proc/self/status", encoding="ascii") as file:
        lines = [line.split() for line in file if line.startswith("Cap")]
    return {name.rstrip(":"): int(bits, 16) for name, bits in lines}


def data_limit() -> str:
    """RLIMIT_DATA stops an allocation: the memory bound of a jail where cgroups are not ours."""
    kernel.set_limit("DATA", _PROBE_LIMIT_BYTES)
    try:
        kernel.map_anonymous(4 * _PROBE_LIMIT_BYTES, writable=True, executable=False)
    except OSError:
        return f"RLIMIT_DATA of {resource.getrlimit(resource.RLIMIT_DATA)[0] >> 20} MiB holds"
    raise refuse("RLIMIT_DATA did not stop an allocation of four times its size")


def memfd() -> str:
    """Shared memory that can neither be executed nor resized."""
    fd = os.memfd_create("doctor", _MFD_NOEXEC_SEAL | os.MFD_CLOEXEC)
    os.ftruncate(fd, 4096)
    os.close(fd)
    fd = kernel.memfd("doctor", size_bytes=4096, content=b"read only")
    for attempt in (lambda: os.ftruncate(fd, 8192), lambda: os.pwrite(fd, b"x", 0)):
        try:
            attempt()
        except OSError:
            continue
        raise refuse("a sealed memfd was changed")
    return "sealed against execution, growth and writing"


_MFD_NOEXEC_SEAL = 8


def pidfd() -> str:
    """Signal a child by descriptor: no process number can be reused under us."""
    child = os.fork()
    if child == 0:
        signal.pause()
        os._exit(1)
    fd = os.pidfd_open(child)
    signal.pidfd_send_signal(fd, signal.SIGKILL)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    os.close(fd)
    if code != -signal.SIGKILL:
        raise refuse(f"expected an end by SIGKILL, found {code}")
    return "a child was ended by its descriptor"


def peer_credentials() -> str:
    """SO_PEERCRED: who is at the other end of the control socket."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        pid, uid, _ = struct.unpack("3i", ours.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    if uid != os.geteuid():
        raise refuse(f"expected user {os.geteuid()}, found {uid} (process {pid})")
    return "SEQPACKET sockets tell their peer's user"
