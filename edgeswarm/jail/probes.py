"""What a taken-over jail would try: each probe is one attempt, harmless where it succeeds.

A probe answers `open` when its attempt worked, or went as far as the kernel's own work (an error of `reached`: the
guards were passed, and only the arguments were at fault); any other refusal, and the end of the jail, is `blocked`.
Invariants: names are unique; an attempt leaves nothing behind that outlives the jail; what might disturb the machine
if it worked is `careful` and is tried only in jails that have their seccomp filter.
The attempts are in probes_files, probes_network, probes_process, probes_kernel and probes_code; `probe_worker` is the
jail that makes them.  The product's own jails load none of this.

Source: syscalls(2) and the manual page of each call; the numbers of Linux arch/x86/entry/syscalls/syscall_64.tbl and
include/uapi/asm-generic/unistd.h.
"""

from __future__ import annotations

import ctypes
import errno
import importlib
import mmap
import os
import platform
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

LAYERS: Final[dict[str, tuple[str, ...]]] = {
    "seccomp": ("LoadFilter",),
    "namespaces": ("Unshare", "ForkInit", "EmptyRoot", "Hostname"),
    "landlock": ("DenyFiles",),
    "limits": ("Limit",),
    "exec_gain": ("RefuseExecGain",),
    "seal": ("SealText",),
    "capabilities": ("DropCapabilities",),
    "descriptors": ("CloseDescriptors",),
    "user": ("BecomeUser",),
    "cgroup": ("JoinGroups",),
}
"""Layer -> the steps of a plan that it is made of, as `plan.name_of` calls them up to the parenthesis.

NoNewPrivileges is none of them: without it the kernel takes no filter from a process without privileges."""

X86: Final = platform.machine() == "x86_64"
AT_FDCWD: Final = -100

libc: Final = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
libc.mmap.restype = ctypes.c_void_p
SPARE: Final = ctypes.create_string_buffer(4096)


@dataclass(slots=True)
class Place:
    """What a probe knows of where it is: what an attacker finds out soon enough."""

    keep: tuple[int, ...] = ()
    """The descriptors of the jail's protocol."""
    sibling: int = 1
    """Another jail's process id, as the host counts."""
    supervisor: int = 1
    zygote: int = 1
    code: tuple[int, int] = (0, 0)
    """Address and bytes of the machine code of an agent that was loaded."""


Attempt = Callable[[Place], object]


@dataclass(frozen=True, slots=True)
class Probe:
    """One attempt.  layer: the one that is there to stop it, though another may come first."""

    name: str
    layer: str
    group: str
    attempt: Attempt
    reached: frozenset[int] = frozenset()
    careful: bool = False
    undo: Callable[[int], object] | None = field(default=None)
    """Called with what the attempt returned: nothing is left behind."""
    numbers: tuple[int, int] | None = None
    """Of one that is a single system call: on x86_64, on aarch64; -1 where it has none."""
    words: tuple[int, ...] = ()
    """Its arguments, as far as they are numbers; 0 for the others."""

    def outcome(self, place: Place) -> tuple[bool, str]:
        """Make the attempt: whether it worked, and in words how it went."""
        try:
            found = self.attempt(place)
        except OSError as error:
            number = error.errno or 0
            name = errno.errorcode.get(number, str(number))
            return number in self.reached, f"{name} {error.strerror or ''}".rstrip()
        except MemoryError:
            return False, "ENOMEM no memory"
        if self.undo is not None and isinstance(found, int):
            self.undo(found)
        return True, f"worked: {found}"[:80]


PROBES: Final[dict[str, Probe]] = {}


def add(probe: Probe) -> None:
    assert probe.name not in PROBES, probe.name
    PROBES[probe.name] = probe


def probe(group: str, layer: str, *reached: int, careful: bool = False) -> Callable[[Attempt], Attempt]:
    """Makes a probe of a function of its name."""

    def register(attempt: Attempt) -> Attempt:
        add(Probe(attempt.__name__, layer, group, attempt, frozenset(reached), careful))
        return attempt

    return register


def check(result: int | None) -> int:
    """A call's result.  Raises OSError for -1 and for no address."""
    if result is None or result == -1 or result == ctypes.c_void_p(-1).value:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def call(x86: int, arm: int, *arguments: Any) -> int:
    """A raw system call by its two numbers."""
    words = [ctypes.c_ulong(a & 0xFFFF_FFFF_FFFF_FFFF) if isinstance(a, int) else a for a in arguments]
    return check(libc.syscall(ctypes.c_long(x86 if X86 else arm), *words))


class Group:
    """Probes of one kind that are one system call each."""

    def __init__(self, name: str, layer: str) -> None:
        self.name, self.layer = name, layer

    def __call__(
        self,
        name: str,
        x86: int,
        arm: int,
        *arguments: Any,
        layer: str = "",
        reached: tuple[int, ...] = (),
        careful: bool = False,
        undo: Callable[[int], object] | None = None,
    ) -> None:
        """x86, arm: the call's numbers; -1: there is none there, and no probe.

        An argument may be a function of the place.
        """
        if (x86 if X86 else arm) < 0:
            return

        def attempt(place: Place) -> int:
            return call(x86, arm, *(a(place) if callable(a) else a for a in arguments))

        words = tuple(a if isinstance(a, int) else 0 for a in arguments)
        add(Probe(name, layer or self.layer, self.name, attempt, frozenset(reached), careful, undo, (x86, arm), words))


def sibling(place: Place) -> int:
    return place.sibling


def supervisor(place: Place) -> int:
    return place.supervisor


def zygote(place: Place) -> int:
    return place.zygote


def control(place: Place) -> int:
    return place.keep[0]


def map_private(rights: int, size_bytes: int = mmap.PAGESIZE) -> int:
    """A private anonymous mapping; returns its address."""
    return check(libc.mmap(None, ctypes.c_size_t(size_bytes), rights, 0x22, -1, ctypes.c_long(0)))


def _nothing(_place: Place) -> object:
    return True


add(Probe("does_nothing", "none", "none", _nothing))


def load_all() -> dict[str, Probe]:
    """Every probe that this architecture has, by name, in the order of the groups."""
    for group in ("code", "files", "kernel", "network", "process"):
        importlib.import_module(f"edgeswarm.jail.probes_{group}")  # each registers its own
    return PROBES
