"""The committed filters against the text of their policies, on both architectures; and against a real kernel.

The reference is written from the TOML alone: tomllib, a table of names, and three sentences of sandbox/README.md.  It
shares no code with what makes the filters.  aarch64's filters have never been loaded on an aarch64 (none was at hand):
here they are interpreted, and run by this kernel with the one constant exchanged that names the architecture.
"""

from __future__ import annotations

import errno
import platform
import signal
import tomllib
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import cbpf
import jail_kernels as k
import pytest
from cbpf import ALLOW, AUDIT, ERRNO, KILL, X32, check, data_of
from hypothesis import Phase, example, given, settings
from hypothesis import strategies as st

from edgeswarm.drivers import syscall_names

ARCHES = ("x86_64", "aarch64")
FILES = sorted((k.SANDBOX / "bpf").glob("*.bpf"))
IDS = [path.stem for path in FILES]
PROT_EXEC = 4
NUMBER, ARCH, ARGUMENT_2, ARGUMENT_3 = 0, 4, 32, 40
SHARED, ANONYMOUS, GROWSDOWN = 0x01, 0x20, 0x100
OTHER_ARCHES = {
    "i386, as of int80": 0x4000_0003, "ARM, 32 bits": 0x4000_0028, "ARM, big-endian": 0x28,
    "aarch64, big-endian": 0x8000_00B7, "aarch64 without its 64 bits": 0x4000_00B7,
    "riscv64": 0xC000_00F3, "ppc64le": 0xC000_0015, "s390x": 0x8000_0016, "mips64el": 0xC000_0008,
    "loongarch64": 0xC000_0102,    "none": 0, "all ones": 0xFFFF_FFFF, "x86_64 without its 64 bits": 0x3E,
}  # fmt: skip
RIGHTS = [0, 1, 2, 3, 4, 5, 6, 7, 8, 0x10, 0x14, 0x20, 0x24, 0x0100_0000, 0x0200_0003, 0x0200_0007, 0xFFFF_FFFB,
          0xFFFF_FFFF, 1 << 32, 5 << 32, (1 << 32) | 4, 0xFFFF_FFFF_FFFF_FFFB, 0xFFFF_FFFF_FFFF_FFFF]  # fmt: skip
FAR = [1024, 4096, 0xF_0001, 0xF_0005, X32 - 1, X32, X32 | 1, X32 | 59, X32 | 520, X32 | 547, 0x7FFF_FFFF, 0x8000_0000,
       0xFFFF_FFFE, 0xFFFF_FFFF]  # fmt: skip
ARGUMENTS = {
    "clone": [
        (flags, 0, 0, 0, 0)
        for flags in (0x11, 0x3D_0F00, 0x7D_0F00, 0x3D_0F11, 0x1000_0000, 0x2000_0000, 0x7E02_0000, 0x4000_0011)
    ],
    "socket": [(family, kind, 0, 0, 0) for family in range(46) for kind in (1, 2, 3, 5)],
    "ioctl": [(0, request, 0, 0, 0) for request in (0x5401, 0x5412, 0x541C, 0x8913, 0x4B49, 0xC018_4600, 0xFFFF_FFFF)],
    "prctl": [(option, 1, 0, 0, 0) for option in (*range(80), 0x5961_6D61)],
    "futex": [(0, operation, 0, 0, 0) for operation in (*range(16), 128, 256)],
    "unshare": [(1 << bit, 0, 0, 0, 0) for bit in range(32)],
    "madvise": [(0, 0, advice, 0, 0) for advice in (*range(26), 100, 101)],
    "mmap": [
        (0, 1 << 20, rights, flags, -1 % 2**64)
        for rights in (0, 1, 3, 7)
        for flags in (0x01, 0x02, 0x03, 0x21, 0x22, 0x23, 0x102, 0x121, 0x122, 0x20022, 0x4022, 0x4_0021, 1 << 32)
    ],
    "clock_gettime": [(clock, 0, 0, 0, 0) for clock in (*range(16), 0xFFFF_FFF6, 0xFFFF_FFFF_FFFF_FFF6, 1 << 32)],
    "prlimit64": [(pid, 7, 0, 0, 0) for pid in (0, 1, 1000, 0xFFFF_FFFF)],
    "seccomp": [(operation, flags, 0, 0, 0) for operation in range(4) for flags in range(32)],
}
"""Argument classes of calls that people filter by argument."""


def parts(path: Path) -> tuple[str, int, str]:
    name, stage, arch = path.stem.rsplit("-", 2)
    return name, int(stage), arch


@cache
def tables(name: str, stage: int, arch: str) -> tuple[dict[int, int], frozenset[int], dict[int, tuple[int, list[int]]]]:
    """Number -> answer; the numbers that are allowed without PROT_EXEC; number -> argument and the values that it may
    have: as the policy's text has them."""
    text: dict[str, Any] = tomllib.loads((k.SANDBOX / "policies" / f"{name}.toml").read_text())[f"stage_{stage}"]
    known = numbers(arch)

    def here(table: str) -> dict[str, dict[str, Any]]:
        return {call: rule for call, rule in text.get(table, {}).items() if arch in rule.get("arch", ARCHES)}

    answers = {known[call]: ALLOW for call in here("allow")}
    answers |= {known[call]: ERRNO | getattr(errno, rule["errno"]) for call, rule in here("refuse").items()}
    without_exec = here("allow_without_exec")
    answers |= {known[call]: ALLOW for call in without_exec}
    only = {known[call]: (rule["argument"], rule["values"]) for call, rule in here("only").items()}
    return answers, frozenset(known[call] for call in without_exec), only


@cache
def numbers(arch: str) -> dict[str, int]:
    return {name: number for number, name in syscall_names.names(AUDIT[arch]).items()}


def reference(path: Path, arch: int, number: int, args: tuple[int, ...]) -> int:
    """What the policy says: its own architecture and numbering; what is named; PROT_EXEC never where it says so; no new
    memory that RLIMIT_DATA does not count; of an argument only the values that it lists."""
    name, stage, own = parts(path)
    if arch != AUDIT[own] or (own == "x86_64" and number >= X32):
        return KILL
    answers, without_exec, only = tables(name, stage, own)
    if number == numbers(own)["mmap"] and (args[3] & GROWSDOWN or (args[3] & SHARED and args[3] & ANONYMOUS)):
        return ERRNO | errno.EACCES
    if number in without_exec and args[2] & PROT_EXEC:
        return ERRNO | errno.EACCES
    if number in only and args[only[number][0]] & 0xFFFF_FFFF not in only[number][1]:
        return ERRNO | errno.EPERM
    return answers.get(number, KILL)


@pytest.mark.parametrize("path", FILES, ids=IDS)
def test_a_kernel_would_load_it(path: Path) -> None:
    check(path.read_bytes())


@pytest.mark.parametrize("path", FILES, ids=IDS)
def test_every_number_and_every_class_of_arguments_is_answered_as_the_policy_says(path: Path) -> None:
    """Numbers that the policy does not name: of few classes, for the next test shows that no argument is looked at."""
    program, (name, stage, own) = path.read_bytes(), parts(path)
    named = {*tables(name, stage, own)[0], numbers(own)["mmap"], numbers(own)["mprotect"]}
    for number in (*range(1024), *FAR):
        for rights in RIGHTS if number in named else RIGHTS[:1] + RIGHTS[-1:]:
            args = (0xFFFF_FFFF_FFFF_FFFF, 0, rights, 0x22, 0, 0)
            found = cbpf.run(program, data_of(AUDIT[own], number, args)).value
            assert found == reference(path, AUDIT[own], number, args), (number, hex(rights))
    for call, classes in ARGUMENTS.items():
        for few in classes:
            args = (*few, 0)
            number = numbers(own)[call]
            assert cbpf.run(program, data_of(AUDIT[own], number, args)).value == reference(
                path, AUDIT[own], number, args
            ), (call, few)


@pytest.mark.parametrize("path", FILES, ids=IDS)
def test_an_answer_depends_on_number_and_architecture_and_on_the_arguments_that_are_narrowed(path: Path) -> None:
    """So the numbers above stand for all arguments: no other word of a call is ever looked at."""
    program, (name, stage, own) = path.read_bytes(), parts(path)
    _, without_exec, only = tables(name, stage, own)
    for number in (*range(1024), *FAR):
        looked_at = {NUMBER, ARCH, ARGUMENT_2} if number in without_exec else {NUMBER, ARCH}
        looked_at |= {16 + 8 * only[number][0]} if number in only else set()
        looked_at |= {ARGUMENT_3} if number == numbers(own)["mmap"] else set()
        assert cbpf.run(program, data_of(AUDIT[own], number)).read <= looked_at


@pytest.mark.parametrize("path", FILES, ids=IDS)
def test_no_number_of_all_32_bits_is_allowed_but_those_that_are_named(path: Path) -> None:
    """A number is only ever compared for equality (and with the x32 bit): one from each gap stands for the gap."""
    program, (name, stage, own) = path.read_bytes(), parts(path)
    code = cbpf.ops(program)
    allowed = {op.code for op in code} - {cbpf.LD_ABS, cbpf.RET_K}
    assert allowed <= {0x15, 0x35, 0x45}
    assert [op.k for op in code if op.code == 0x35] == ([X32] if own == "x86_64" else [])
    assert {op.k for op in code if op.code == 0x45} <= {PROT_EXEC, SHARED, ANONYMOUS, GROWSDOWN}
    compared = numbers_compared(code)
    answers, _, _ = tables(name, stage, own)
    assert compared == answers.keys()
    edges = sorted({0, 0xFFFF_FFFF, X32 - 1, X32, *compared})
    gaps = {number for edge in edges for number in (edge - 1, edge + 1)} - compared
    for number in (*gaps, *((a + b) // 2 for a, b in pairwise(edges) if b - a > 1)):
        if 0 <= number <= 0xFFFF_FFFF:
            assert cbpf.run(program, data_of(AUDIT[own], number)).value == KILL, number


def numbers_compared(code: tuple[cbpf.Op, ...]) -> set[int]:
    """What the number is tested for; a test that fails skips what is asked about the arguments."""
    at = next(i for i, op in enumerate(code) if (op.code, op.k) == (cbpf.LD_ABS, NUMBER)) + 1
    found = set()
    while at < len(code):
        op = code[at]
        if op.code == 0x15:
            found.add(op.k)
        at += 1 + op.no
    return found


@pytest.mark.parametrize("path", FILES, ids=IDS)
def test_nothing_of_another_architecture_is_allowed(path: Path) -> None:
    """int80 and x32 on x86_64, 32-bit ARM on aarch64, the other one of ours, and values that are none."""
    program, own = path.read_bytes(), parts(path)[2]
    others = {**OTHER_ARCHES, "the other one": AUDIT["aarch64" if own == "x86_64" else "x86_64"]}
    for arch in others.values():
        for number in (*range(600), *FAR):
            verdict = cbpf.run(program, data_of(arch, number))
            assert verdict.value == KILL
            assert verdict.read == {ARCH}


word = st.integers(0, 2**32 - 1)
some_number = st.one_of(st.integers(0, 511), st.sampled_from(FAR), word)
some_args = st.tuples(*(st.one_of(st.sampled_from(RIGHTS), st.integers(0, 2**64 - 1)) for _ in range(6)))


@settings(max_examples=400, deadline=None)
@given(st.sampled_from(FILES), st.one_of(st.sampled_from(sorted(AUDIT.values())), word), some_number, some_args)
@example(FILES[0], AUDIT["x86_64"], X32 | 9, (0,) * 6)
def test_any_call_is_answered_as_the_policy_says(path: Path, arch: int, number: int, args: tuple[int, ...]) -> None:
    assert cbpf.run(path.read_bytes(), data_of(arch, number, args)).value == reference(path, arch, number, args)


on_x86_64 = pytest.mark.skipif(platform.machine() != "x86_64", reason="the kernel that is asked is an x86_64's")


UNFILTERED = {335: "uretprobe", 336: "uprobe"}
"""On x86_64 newer kernels do not ask filters about these (kernel/seccomp.c, seccomp_uprobe_exception): the kernel's own
trampolines make them, and the process that calls one from anywhere else is ended, or told ENXIO."""


@on_x86_64
@pytest.mark.parametrize("number", UNFILTERED, ids=UNFILTERED.values())
def test_what_newer_kernels_let_past_a_filter_leads_nowhere(number: int) -> None:
    """Refused by the filter, or without it the end of the process, or an error: never an answer."""
    program = (k.SANDBOX / "bpf" / "strict-2-x86_64.bpf").read_bytes()
    code, answers = cbpf.ask_kernel_once(cbpf.asked_of_kernel(program, "x86_64"), [(number, (0, 0, 0, 0, 0))])
    refusals = ([KILL], [ERRNO | errno.ENXIO], [ERRNO | errno.ENOSYS])
    assert code in (-signal.SIGILL, -signal.SIGSEGV) or answers in refusals


@on_x86_64
@pytest.mark.parametrize("path", FILES, ids=IDS)
def test_this_kernel_answers_as_the_interpreter_does(path: Path) -> None:
    """Every number, with rights that differ; verdicts become errnos, so that no call is ever made.

    aarch64's program is loaded as well, its architecture exchanged for this one: the kernel checks and runs it.
    """
    program, own = path.read_bytes(), parts(path)[2]
    asked = [number for number in (*range(1024), *FAR) if number not in UNFILTERED]
    calls = [(number, (0, 0, rights, 0, 0)) for number in asked for rights in (0, 3, 4, 7 | 1 << 40)]
    found = cbpf.ask_kernel(program, own, calls)
    for (number, args), answer in zip(calls, found, strict=True):
        assert answer == cbpf.run(program, data_of(AUDIT[own], number, (*args, cbpf.MAGIC))).value, (number, args)


NO_JUMP = (st.just(0), st.just(0))
instruction = st.one_of(
    st.builds(cbpf.Op, st.just(cbpf.LD_ABS), st.just(0), st.just(0), st.sampled_from([0, 4, *range(16, 56, 4)])),
    st.builds(cbpf.Op, st.sampled_from([*cbpf.ALU, cbpf.LD_IMM, cbpf.LDX_IMM]), *NO_JUMP, st.integers(1, 31)),
    st.builds(cbpf.Op, st.sampled_from([*(c | 8 for c in cbpf.ALU if c not in (0x34, 0x64, 0x74)), cbpf.TAX, cbpf.TXA,
                                        cbpf.NEG, cbpf.LD_LEN, cbpf.LDX_LEN]), *NO_JUMP, st.just(0)),
    st.builds(cbpf.Op, st.sampled_from(list(cbpf.JUMPS)), st.integers(0, 3), st.integers(0, 3), st.integers(0, 9)),
    st.builds(cbpf.Op, st.sampled_from([cbpf.ST, cbpf.STX, cbpf.LD_MEM, cbpf.LDX_MEM]), *NO_JUMP, st.just(2)),
)  # fmt: skip
ANSWERS = [cbpf.Op(cbpf.RET_K, 0, 0, ERRNO | 100 + at) for at in range(4)]


@on_x86_64
@settings(max_examples=12, deadline=None, phases=[Phase.generate])  # an example is a process: no shrinking
@given(st.lists(instruction, max_size=30), st.lists(st.tuples(st.integers(0, 334), some_args), min_size=1, max_size=20))
def test_the_interpreter_means_what_the_kernel_means(
    body: list[cbpf.Op], calls: list[tuple[int, tuple[int, ...]]]
) -> None:
    """Any program of any instructions that seccomp takes: not only of those that our filters happen to use."""
    start = [cbpf.Op(cbpf.LD_IMM, 0, 0, 0), cbpf.Op(cbpf.ST, 0, 0, 2), *body]  # memory is written before it is read
    program = cbpf.packed([*start, *ANSWERS])
    check(program)
    found = cbpf.ask_kernel(program, "x86_64", [(number, args[:5]) for number, args in calls])
    for (number, args), answer in zip(calls, found, strict=True):
        data = data_of(AUDIT["x86_64"], number, (*args[:5], cbpf.MAGIC))
        assert answer == cbpf.run(program, data).value
