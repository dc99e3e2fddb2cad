"""Which layers this machine really offers: each is tried in a forked child, never read from a setting.

A sysctl may say yes where AppArmor says no (Ubuntu 24.04 lets unshare succeed and then denies the uid_map), so only
performing a step counts.  Call this from a single-threaded process.
"""

from __future__ import annotations

import errno
import json
import os
import signal
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from edgeswarm.jail import enter, kernel
from edgeswarm.jail.policy import Tier

_TRY_SECONDS_MAX: Final = 5
_PAGE_BYTES: Final = 65_536  # the largest page size of aarch64


@dataclass(frozen=True, slots=True)
class Tried:
    """What became of one layer."""

    ok: bool
    detail: str


def try_layers(run_as: tuple[int, int] | None) -> dict[str, Tried]:
    """Try each layer as the user that jails run as (None: as we are)."""
    return {name: in_child(layer, run_as) for name, layer in LAYERS.items()}


def tier_of(tried: Mapping[str, Tried]) -> Tier:
    """The best tier that these layers allow.  Without Landlock it is C, whether there are namespaces or not."""
    if not tried["seccomp"].ok:
        return "D"
    if not tried["landlock"].ok:
        return "C"
    return "A" if tried["namespaces"].ok else "B"


def to_json(tried: Mapping[str, Tried]) -> dict[str, Any]:
    return {name: [item.ok, item.detail] for name, item in tried.items()}


def in_child(layer: Callable[[], str], run_as: tuple[int, int] | None) -> Tried:
    """Call this in a forked child, which its death or its error does not leave."""
    report, told = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(report)
        signal.alarm(_TRY_SECONDS_MAX)
        try:
            if run_as is not None:
                kernel.become_user(*run_as)
            answer = [True, layer()]
        except BaseException as error:  # a layer that cannot be tried is a layer that is not there
            answer = [False, str(error) or type(error).__name__]
        os.write(told, json.dumps(answer).encode("utf-8")[:4000])
        os._exit(0)
    os.close(told)
    text = b""
    while piece := os.read(report, 4096):
        text += piece
    os.close(report)
    _, status = os.waitpid(child, 0)
    if not text:
        return Tried(False, f"the trial ended with {os.waitstatus_to_exitcode(status)}")
    ok, detail = json.loads(text)
    return Tried(bool(ok), str(detail))


def _expect_refusal(what: str, attempt: Callable[[], object]) -> None:
    try:
        attempt()
    except OSError:
        return
    raise OSError(errno.EINVAL, f"{what} is still possible")


def _namespaces() -> str:
    """All seven, with an empty root, in the order of a jail."""
    uid, gid = os.geteuid(), os.getegid()
    kernel.unshare(kernel.NAMESPACE_FLAGS)
    kernel.map_identity(outer_uid=uid, outer_gid=gid, inner_id=enter.INNER_ID)
    report, told = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            if os.getpid() != 1:
                raise OSError(errno.EINVAL, f"process id 1 expected, found {os.getpid()}")
            kernel.pivot_into_empty_root()
            kernel.set_hostname(b"jail")
            if os.listdir("/"):
                raise OSError(errno.EINVAL, "the new root is not empty")
            text = ""
        except OSError as error:
            text = str(error)
        os.write(told, text.encode("utf-8"))
        os._exit(0)
    os.close(told)
    text = os.read(report, 4096).decode("utf-8")
    os.waitpid(child, 0)
    if text:
        raise OSError(errno.EPERM, text)
    return " ".join(kernel.NAMESPACE_FLAGS)


def _landlock() -> str:
    kernel.set_no_new_privs()
    abi = kernel.landlock_deny_all()
    _expect_refusal("opening /", lambda: os.open("/", os.O_RDONLY))
    return f"version {abi}"


def _seccomp() -> str:
    """A filter that refuses getppid, on the thread that loads it."""
    kernel.set_no_new_privs()
    kernel.seccomp_action_available(kernel.SECCOMP_RET_KILL_PROCESS)
    load_number, equal, answer = 0x20, 0x15, 0x06  # BPF_LD|W|ABS, BPF_JMP|JEQ|K, BPF_RET|K
    program = b"".join(
        struct.pack("=HBBI", *instruction)
        for instruction in (
            (load_number, 0, 0, 0),
            (equal, 0, 1, kernel.arch().getppid),
            (answer, 0, 0, 0x0005_0000 | errno.EPERM),
            (answer, 0, 0, 0x7FFF_0000),
        )
    )
    kernel.seccomp_load(program)
    _expect_refusal("getppid", kernel.get_parent_id)
    return "filters on every thread, process kill"


def _refuse_exec_gain() -> str:
    address = kernel.map_anonymous(_PAGE_BYTES, writable=True, executable=False)
    kernel.refuse_exec_gain()
    _expect_refusal("making memory executable", lambda: kernel.protect(address, 4096, writable=False, executable=True))
    return "PR_SET_MDWE"


def _seal_text() -> str:
    address = kernel.map_anonymous(_PAGE_BYTES, writable=False, executable=True)
    kernel.mseal(address, _PAGE_BYTES)
    _expect_refusal("writing to code", lambda: kernel.protect(address, _PAGE_BYTES, writable=True, executable=False))
    return "mseal"


LAYERS: Final[dict[str, Callable[[], str]]] = {
    "namespaces": _namespaces,
    "landlock": _landlock,
    "seccomp": _seccomp,
    "refuse_exec_gain": _refuse_exec_gain,
    "seal_text": _seal_text,
}
"""The first three decide the tier; the last two are there or not."""
