"""Carries out a plan: one straight loop over the steps, each of which the kernel performs or refuses.

Decides nothing but what a refusal means: a step that is part of the plan must succeed, except that MDWE and mseal are
newer than the oldest kernel we run on, so that a kernel without them is reported as `absent`, not as a failure.
Runs in a freshly forked, single-threaded process, which `perform` turns into the jail and never gives back.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NoReturn, assert_never

from edgeswarm.errors import JailError
from edgeswarm.jail import kernel, plan

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
    self_test: Callable[[Entered], None]


@dataclass(slots=True)
class Entered:
    """What was achieved so far."""

    performed: list[str] = field(default_factory=list)
    absent: list[str] = field(default_factory=list)
    """Steps that this kernel is too old for."""
    stamps_us: list[tuple[str, int]] = field(default_factory=list)
    """When each step ended, counted from the first one's begin."""
    text_map_fd: int = -1
    sealed: list[kernel.Mapping] = field(default_factory=list)


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
        case plan.OpenTextMap():
            entered.text_map_fd = os.open("/proc/self/maps", os.O_RDONLY | os.O_CLOEXEC)
        case plan.NullStdio():
            kernel.null_stdio()
        case plan.EmptyRoot():
            kernel.pivot_into_empty_root()
        case plan.Hostname():
            kernel.set_hostname(b"jail")
        case plan.CloseDescriptors():
            keep = (0, 1, 2, *around.keep)
            kernel.close_all_except(keep if entered.text_map_fd < 0 else (*keep, entered.text_map_fd))
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
            kernel.seccomp_load(item.checked())
        case plan.Load():
            around.load()
        case plan.RefuseExecGain():
            return _where_known(kernel.refuse_exec_gain)
        case plan.SealText():
            return _where_known(lambda: _seal_text(entered))
        case plan.SelfTest():
            around.self_test(entered)
        case _:
            assert_never(step)
    return True


def _where_known(call: Callable[[], None]) -> bool:
    try:
        call()
    except OSError as error:
        if error.errno in (errno.EINVAL, errno.ENOSYS):
            return False
        raise
    return True


def _seal_text(entered: Entered) -> None:
    """Take the write right from every executable mapping, and seal it; the compiled kernels' are among them.

    libffi keeps its closures in a page that is writable and executable; no closure is made in a jail any more.
    """
    text = bytearray()
    os.lseek(entered.text_map_fd, 0, os.SEEK_SET)
    while piece := os.read(entered.text_map_fd, 65536):
        text += piece
    os.close(entered.text_map_fd)
    entered.text_map_fd = -1
    code = [m for m in kernel.mappings(bytes(text)) if "x" in m.rights and m.name != "[vsyscall]"]
    for mapping in code:
        if "w" in mapping.rights:
            kernel.protect(mapping.start, mapping.end - mapping.start, writable=False, executable=True)
    for mapping in code:
        kernel.mseal(mapping.start, mapping.end - mapping.start)
        entered.sealed.append(mapping)
