"""Carries out a plan: one straight loop over the steps, each of which the kernel performs or refuses.

Decides nothing but what a refusal means: a step that is part of the plan must succeed, except that MDWE and mseal are
newer than the oldest kernel we run on, so that a kernel without them is reported as `absent`, not as a failure.
Runs in a freshly forked, single-threaded process, which `perform` turns into the jail and never gives back.
"""

from __future__ import annotations

import errno
import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple, NoReturn, assert_never

from edgeswarm.errors import JailError
from edgeswarm.jail import kernel, plan, prepare

INNER_ID = 65534
"""The jail's own user and group as it sees them: nobody."""


class StepError(JailError):
    """A step of the plan was refused; the text names the step and the kernel's answer."""


@dataclass(slots=True)
class Surroundings:
    """What only the process knows that becomes a jail."""

    keep: tuple[int, ...]
    """Descriptors that survive CloseDescriptors."""
    forked: Callable[[int], NoReturn]
    """Called in the parent of ForkInit with the child's process id as this namespace sees it; must not return."""
    load: Callable[[], None]
    code: Callable[[], Sequence[tuple[int, int]]]
    """Address and bytes of every piece of machine code that was loaded."""
    self_test: Callable[[Entered], None]
    begin: Callable[[], None]
    prepare: Callable[[], None] = lambda: None
    """What Prepare does; runs in a thread that ends."""


@dataclass(slots=True)
class Entered:
    """What was achieved so far."""

    performed: list[str] = field(default_factory=list)
    absent: list[str] = field(default_factory=list)
    """Steps that this kernel is too old for."""
    stamps_us: list[tuple[str, int]] = field(default_factory=list)
    """When each step ended, counted from the first one's begin."""
    sealed: list[tuple[int, int]] = field(default_factory=list)
    """Address and bytes of what SealText sealed."""


def perform(steps: Sequence[plan.Step], around: Surroundings) -> Entered:
    """Turn this process into the jail that the plan describes.  Raises StepError at the first refusal."""
    entered = Entered()
    began = time.perf_counter_ns()
    for step in steps:
        name = plan.name_of(step)
        try:
            done = _perform(step, around, entered)
        except OSError as error:
            raise StepError(f"{name}: {error.strerror or error}") from None
        (entered.performed if done else entered.absent).append(name)
        entered.stamps_us.append((name, (time.perf_counter_ns() - began) // 1000))
    return entered


def _perform(step: plan.Step, around: Surroundings, entered: Entered) -> bool:
    """One step; False when this kernel is too old for it and the plan can do without."""
    match step:
        case plan.JoinGroups(doors=doors):
            for door in doors:
                _join_group(door)
        case plan.BecomeUser(uid=uid, gid=gid):
            kernel.become_user(uid, gid)
        case plan.Unshare(namespaces=namespaces):
            uid, gid = os.geteuid(), os.getegid()
            kernel.unshare(namespaces)
            if "user" in namespaces:
                kernel.map_identity(outer_uid=uid, outer_gid=gid, inner_id=INNER_ID)
        case plan.ForkInit():
            child = os.fork()
            if child:
                around.forked(child)
        case plan.NullStdio():
            kernel.null_stdio()
        case plan.Prepare():
            around.keep = (*around.keep, *prepare.run(around.prepare))
        case plan.EmptyRoot():
            kernel.pivot_into_empty_root()
        case plan.Hostname():
            kernel.set_hostname(b"jail")
        case plan.CloseDescriptors():
            kernel.close_all_except((0, 1, 2, *around.keep))
        case plan.Limit(name=name, value=value):
            kernel.set_limit(name, value)
        case plan.DropCapabilities():
            kernel.drop_bounding_set()
            kernel.drop_capabilities()
        case plan.NoNewPrivileges():
            kernel.set_no_new_privs()
        case plan.DenyFiles():
            kernel.landlock_deny_all()
        case plan.LoadFilter(filter=item):
            kernel.seccomp_load(item.program)
        case plan.Load():
            around.load()
        case plan.RefuseExecGain():
            return _where_known(kernel.refuse_exec_gain)
        case plan.SealText():
            return _where_known(lambda: _seal(around.code(), entered))
        case plan.SelfTest():
            around.self_test(entered)
        case plan.Begin():
            around.begin()
        case _:
            assert_never(step)
    return True


def _join_group(door: str) -> None:
    """Enter a cgroup: 0 stands for the process that writes it (cgroups(7))."""
    fd = os.open(door, os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        os.write(fd, b"0")
    finally:
        os.close(fd)


def _where_known(call: Callable[[], object]) -> bool:
    try:
        call()
    except OSError as error:
        if error.errno in (errno.EINVAL, errno.ENOSYS):
            return False
        raise
    return True


def _seal(code: Sequence[tuple[int, int]], entered: Entered) -> None:
    for start, length_bytes in code:
        kernel.mseal(start, length_bytes)
        entered.sealed.append((start, length_bytes))


_MAPPING: Final = re.compile(rb"([0-9a-f]+)-([0-9a-f]+) ([r-][w-][x-][ps]) [0-9a-f]+ \S+ \S+ *(.*)")


class Mapping(NamedTuple):
    """One line of /proc/self/maps."""

    start: int
    end: int
    rights: str
    name: str


def mappings(text: bytes) -> Iterator[Mapping]:
    """The lines of /proc/<pid>/maps."""
    for line in text.splitlines():
        found = _MAPPING.fullmatch(line)
        if found is not None:
            start, end, rights, name = found.groups()
            yield Mapping(int(start, 16), int(end, 16), rights.decode("ascii"), name.decode("utf-8", "replace"))


def seal_own_code() -> None:
    """Seal every executable mapping of this process, once for all that are forked from it.

    libffi keeps its closures in pages that are writable and executable: they lose the write right first, so no
    closure may be made afterwards.  On a kernel without mseal that is all.
    """
    with open("/proc/self/maps", "rb") as file:
        code = [item for item in mappings(file.read()) if "x" in item.rights and item.name != "[vsyscall]"]
    for item in code:
        if "w" in item.rights:
            kernel.protect(item.start, item.end - item.start, writable=False, executable=True)
    _where_known(lambda: _seal([(item.start, item.end - item.start) for item in code], Entered()))
