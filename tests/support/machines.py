"""Machines unlike this one: a program run where some system calls are refused for real, or in a poorer namespace.

A filter is loaded into a child, which then execs the program: filters and no_new_privs are inherited, so the program,
its zygote and its jails all live on that machine.  Nothing is mocked and nothing of this machine is changed.

run(without(DOCKER), ["edgeswarm", "doctor"])
"""

from __future__ import annotations

import errno
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ARCH = platform.machine()
NUMBERS = {
    "x86_64": {
        "clone": 56, "ptrace": 101, "pivot_root": 155, "mount": 165, "umount2": 166, "sethostname": 170,
        "add_key": 248, "request_key": 249, "keyctl": 250, "unshare": 272, "perf_event_open": 298, "setns": 308,
        "bpf": 321, "userfaultfd": 323, "seccomp": 317,
    },
    "aarch64": {
        "clone": 220, "ptrace": 117, "pivot_root": 41, "mount": 40, "umount2": 39, "sethostname": 161,
        "add_key": 217, "request_key": 218, "keyctl": 219, "unshare": 97, "perf_event_open": 241, "setns": 268,
        "bpf": 280, "userfaultfd": 282, "seccomp": 277,
    },
}[ARCH if ARCH in ("x86_64", "aarch64") else "x86_64"] | {
    "io_uring_setup": 425, "io_uring_enter": 426, "io_uring_register": 427, "clone3": 435, "close_range": 436,
    "open_tree": 428, "move_mount": 429, "fsopen": 430, "fsconfig": 431, "fsmount": 432, "fspick": 433,
    "mount_setattr": 442, "landlock_create_ruleset": 444, "landlock_add_rule": 445, "landlock_restrict_self": 446,
    "mseal": 462,
}  # fmt: skip
NEW_NAMESPACES = 0x7E02_0000  # every CLONE_NEW*: what Docker masks clone(2) with
CLONE_NEWUSER = 0x1000_0000

Rules = Mapping[str, int]
"""Call -> the errno it answers."""

NO_NAMESPACES: Rules = {"unshare": errno.EPERM}
NO_LANDLOCK: Rules = dict.fromkeys(
    ("landlock_create_ruleset", "landlock_add_rule", "landlock_restrict_self"), errno.ENOSYS
)
NO_SECCOMP: Rules = {"seccomp": errno.ENOSYS}
OLD_KERNEL: Rules = {**NO_LANDLOCK, "mseal": errno.ENOSYS, "close_range": errno.ENOSYS, "clone3": errno.ENOSYS}
DOCKER: Rules = {
    **dict.fromkeys(
        (
            "unshare", "mount", "umount2", "pivot_root", "setns", "sethostname", "bpf", "perf_event_open", "keyctl",
            "add_key", "request_key", "userfaultfd", "io_uring_setup", "io_uring_enter", "io_uring_register", "fsopen",
            "fsconfig", "fsmount", "fspick", "open_tree", "move_mount", "mount_setattr",
        ),
        errno.EPERM,
    ),
    "clone3": errno.ENOSYS,  # and clone with a new namespace: `load` adds it
}  # fmt: skip
"""What Docker's default profile refuses to a container without CAP_SYS_ADMIN, of what a jail could ask for
(https://docs.docker.com/engine/security/seccomp/)."""
OLD_DOCKER: Rules = {**DOCKER, **NO_LANDLOCK, "mseal": errno.ENOSYS}
"""A runtime whose profile is older than Landlock and mseal."""

LOADER = """
import json, os, struct, sys
from edgeswarm.jail import kernel
rules, clone, flags = json.loads(sys.argv[1])
def op(code, value, yes=0, no=0): return struct.pack("=HBBI", code, yes, no, value)
program = op(0x20, 0)
for number, answer, mask, wanted in rules:
    if mask:
        program += op(0x15, number, 0, 4) + op(0x20, 16) + op(0x54, mask) + op(0x15, wanted, 1, 0)
        program += op(0x06, 0x50000 | answer) + op(0x20, 0)
    else:
        program += op(0x15, number, 0, 1) + op(0x06, 0x50000 | answer)
if clone:
    program += op(0x15, clone, 0, 3) + op(0x20, 16) + op(0x45, flags, 0, 1) + op(0x06, 0x50001) + op(0x20, 0)
program += op(0x06, 0x7FFF0000)
kernel.set_no_new_privs()
kernel.seccomp_load(program)
os.execvp(sys.argv[2], sys.argv[2:])
"""


def without(rules: Rules, *, masked: Mapping[str, int] | None = None) -> list[str]:
    """The command that puts a program on such a machine.  masked: call -> bits of its first argument that pass it."""
    allowed = masked or {}
    packed = [[NUMBERS[name], answer, allowed.get(name, 0), allowed.get(name, 0)] for name, answer in rules.items()]
    clone = NUMBERS["clone"] if rules.get("setns") else 0
    return [sys.executable, "-c", LOADER, json.dumps([packed, clone, NEW_NAMESPACES])]


def run(machine: Sequence[str], program: Sequence[str], **environ: str) -> subprocess.CompletedProcess[str]:
    """The program on that machine, with its exit code and what it said."""
    surroundings = {name: text for name, text in os.environ.items() if not name.startswith("EDGESWARM_")}
    return subprocess.run(
        [*machine, *program],
        cwd=ROOT,
        env={**surroundings, "PYTHONPATH": str(ROOT), **environ},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def edgeswarm(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "edgeswarm", *map(str, arguments)]


def in_namespace(*flags: str, script: str) -> list[str]:
    """The command that runs `script` (sh; it ends with exec "$@") in namespaces of its own, as user 1000 there."""
    if shutil.which("unshare") is None:
        pytest.skip("no unshare(1) here")
    mapping = ["--user", "--map-user=1000", "--map-group=1000", "--keep-caps", *flags]
    return ["unshare", *mapping, "sh", "-c", f'{script} && exec "$@"', "sh"]
