"""Compiles the stages of a sandbox policy into raw seccomp filters (classic BPF).

A filter is a straight list of comparisons: wrong architecture, x32 number, then one test for each system call of the
stage (and of the values that an argument may have), then the end of the process.  It is assembled here, so that the
bytes depend on nothing but the policy; only the numbers come from libseccomp (pyseccomp).  A name without a number on
an architecture is an error, never a gap: such a rule says `arch = [...]` or, for a call newer than libseccomp,
`number = N`.
Who runs it: `make seccomp` for the architectures whose filters are committed (sandbox/build_filters.py), and a device
of another architecture, or with a policy of its operator's, for itself.

Source: Linux Documentation/userspace-api/seccomp_filter.rst, include/uapi/linux/{seccomp,bpf_common,audit}.h.
"""

from __future__ import annotations

import errno
import hashlib
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from edgeswarm.drivers.jail_policy_file import ARCHES, PolicyFile, Stage
from edgeswarm.errors import ConfigError, TierError
from edgeswarm.jail import policy

AUDIT_ARCH: Final = {
    "x86_64": 0xC000_003E,
    "aarch64": 0xC000_00B7,
    "riscv64": 0xC000_00F3,
    "ppc64le": 0xC000_0015,
    "armv7l": 0x4000_0028,
    "i686": 0x4000_0003,
}
"""Architectures whose filters can be assembled: little-endian ones, where an argument's low half comes first."""
_TOKENS: Final = {
    "x86_64": "X86_64",
    "aarch64": "AARCH64",
    "riscv64": "RISCV64",
    "ppc64le": "PPC64LE",
    "armv7l": "ARM",
    "i686": "X86",
}
X32_BIT: Final = 0x4000_0000

KILL_PROCESS: Final = 0x8000_0000
ERRNO: Final = 0x0005_0000
ALLOW: Final = 0x7FFF_0000

LOAD, JUMP_EQUAL, JUMP_GREATER_EQUAL, JUMP_SET, RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
NUMBER_AT, ARCH_AT, ARGUMENTS_AT = 0, 4, 16  # in struct seccomp_data; 8 bytes each, the low half first
PROT_EXEC: Final = 4
MAP_SHARED, MAP_ANONYMOUS, MAP_GROWSDOWN = 0x01, 0x20, 0x100
"""Of mmap, the same on all architectures above: memory that is shared or a stack is none that RLIMIT_DATA counts."""

Resolve = Callable[[str, str], int]
"""(architecture, name) -> number, negative when there is none."""


class BuildError(ConfigError):
    """A policy cannot be compiled for an architecture."""


@dataclass(frozen=True, slots=True)
class Rule:
    """One system call: its number, what is answered, and what of its arguments is refused.

    without_exec: PROT_EXEC in the third.  argument: the one that must have one of the values, if there are any.
    mmap never makes new memory that RLIMIT_DATA does not count: with MAP_GROWSDOWN, or with MAP_SHARED and no file.
    """

    name: str
    number: int
    answer: int
    without_exec: bool = False
    argument: int = 0
    values: tuple[int, ...] = ()

    @property
    def counted(self) -> bool:
        """Makes memory, and may make such only as RLIMIT_DATA counts."""
        return self.name == "mmap" and self.answer == ALLOW

    def body(self) -> list[tuple[int, int, int, int]]:
        """What follows the test of the number: tests of the arguments, each with its refusal, then the answer."""
        refused = (RETURN, 0, 0, ERRNO | errno.EACCES)
        code: list[tuple[int, int, int, int]] = []
        if self.without_exec:
            code += [(LOAD, 0, 0, ARGUMENTS_AT + 8 * 2), (JUMP_SET, 0, 1, PROT_EXEC), refused]
        if self.counted:
            code += [
                (LOAD, 0, 0, ARGUMENTS_AT + 8 * 3),
                (JUMP_SET, 2, 0, MAP_GROWSDOWN),
                (JUMP_SET, 0, 2, MAP_ANONYMOUS),
                (JUMP_SET, 0, 1, MAP_SHARED),
                refused,
            ]
        if self.values:
            code.append((LOAD, 0, 0, ARGUMENTS_AT + 8 * self.argument))
            code += [(JUMP_EQUAL, len(self.values) - at, 0, value) for at, value in enumerate(self.values)]
            code.append((RETURN, 0, 0, ERRNO | errno.EPERM))
        return [*code, (RETURN, 0, 0, self.answer)]


def rules_of(policy_name: str, stage: Stage, arch: str, resolve: Resolve) -> Iterator[Rule]:
    """The rules of one stage on one architecture, in the order of the file.

    A rule for some architectures only holds on one that has no committed filter too, where the call exists there.
    Raises BuildError for a name without a number, so that no rule vanishes.
    """

    def holds(name: str, arches: tuple[str, ...]) -> bool:
        return arch in arches or (arch not in ARCHES and (set(arches) == set(ARCHES) or resolve(arch, name) >= 0))

    def number_of(name: str, arches: tuple[str, ...], given: int | None) -> int:
        known = resolve(arch, name)
        if known < 0 and given is None:
            others = ", ".join(sorted(set(arches) - {arch}))
            advice = f"say arch = [{others}]" if arch in ARCHES else "no filter can be made for it"
            raise BuildError(f"policy {policy_name}: {name} has no number on {arch}; {advice}")
        if known >= 0 and given not in (None, known):
            raise BuildError(f"policy {policy_name}: {name} is {known} on {arch}, not {given}")
        return known if known >= 0 or given is None else given

    for table, without_exec in ((stage.allow, False), (stage.allow_without_exec, True)):
        for name, allowed in table.items():
            if holds(name, allowed.arch):
                number, only = number_of(name, allowed.arch, allowed.number), stage.only.get(name)
                narrowed = (only.argument, only.values) if only else (0, ())
                yield Rule(name, number, ALLOW, without_exec, *narrowed)
    for name, refused in stage.refuse.items():
        if holds(name, refused.arch):
            code: int = getattr(errno, refused.errno)
            yield Rule(name, number_of(name, refused.arch, None), ERRNO | code)


def assemble(rules: list[Rule], arch: str) -> bytes:
    """The BPF program: every number is followed by the tests of its arguments and by its answers."""
    code: list[tuple[int, int, int, int]] = [
        (LOAD, 0, 0, ARCH_AT),
        (JUMP_EQUAL, 1, 0, AUDIT_ARCH[arch]),
        (RETURN, 0, 0, KILL_PROCESS),
        (LOAD, 0, 0, NUMBER_AT),
    ]
    if arch == "x86_64":
        code += [(JUMP_GREATER_EQUAL, 0, 1, X32_BIT), (RETURN, 0, 0, KILL_PROCESS)]
    for rule in rules:
        body = rule.body()
        code += [(JUMP_EQUAL, 0, len(body), rule.number), *body]
    code.append((RETURN, 0, 0, KILL_PROCESS))
    return b"".join(struct.pack("<HBBI", *instruction) for instruction in code)


def describe(policy_name: str, stage_number: int, arch: str, rules: list[Rule]) -> str:
    """The readable form that lies beside a filter."""
    lines = [
        f"# {policy_name}, stage {stage_number}, {arch}: made by sandbox/build_filters.py, do not edit",
        f"if arch != {AUDIT_ARCH[arch]:#010x}: KILL_PROCESS",
    ]
    if arch == "x86_64":
        lines.append(f"if number >= {X32_BIT:#010x}: KILL_PROCESS")
    for rule in rules:
        if rule.answer == ALLOW:
            answer = "ALLOW"
        else:
            answer = f"ERRNO({errno.errorcode[rule.answer & 0xFFFF]})"
        if rule.values:
            values = ", ".join(f"{value:#x}" for value in rule.values)
            answer = f"{answer} if argument {rule.argument} is one of {values}, else ERRNO(EPERM)"
        if rule.without_exec:
            answer = f"ERRNO(EACCES) if argument 2 has PROT_EXEC, else {answer}"
        if rule.counted:
            flags = "MAP_GROWSDOWN, or MAP_SHARED and MAP_ANONYMOUS"
            answer = f"ERRNO(EACCES) if argument 3 has {flags}; {answer}"
        lines.append(f"{rule.name} ({rule.number}): {answer}")
    lines.append("everything else: KILL_PROCESS")
    return "\n".join(lines) + "\n"


def resolve_by_libseccomp(arch: str, name: str) -> int:
    """Raises ImportError or RuntimeError where pyseccomp or libseccomp is missing."""
    import pyseccomp

    number: int = pyseccomp.resolve_syscall(getattr(pyseccomp.Arch, _TOKENS[arch]), name)
    return number


def filters_here(file: PolicyFile, arch: str, resolve: Resolve = resolve_by_libseccomp) -> list[policy.Filter]:
    """Both filters of a policy, compiled on this device.

    Raises TierError when this architecture, or this device without libseccomp, has no way to a filter; BuildError when
    the policy names what the architecture does not have.
    """
    if arch not in AUDIT_ARCH:
        raise TierError(
            f"policy {file.name}: no seccomp filter for {arch}, and none can be made; "
            f"filters can be made for {', '.join(AUDIT_ARCH)}"
        )
    found = []
    for stage in (file.stage_1, file.stage_2):
        try:
            program = assemble(list(rules_of(file.name, stage, arch, resolve)), arch)
        except (ImportError, RuntimeError, AttributeError) as error:
            raise TierError(
                f"policy {file.name}: no committed seccomp filter for {arch}; one is made with pyseccomp and "
                f"libseccomp, which are missing ({error}): pip install 'edgeswarm[seccomp]', and libseccomp2"
            ) from None
        found.append(policy.Filter(program, hashlib.sha256(program).hexdigest()))
    return found
