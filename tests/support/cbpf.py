"""Classic BPF as seccomp runs it: the kernel's check of a program, its meaning, and the kernel itself asked.

`check` refuses what the kernel would (seccomp(2), net/core/filter.c: bpf_check_classic; kernel/seccomp.c:
seccomp_check_filter); `run` interprets, and says which words of the call were looked at; `ask_kernel` loads a program
into a child, so that every verdict becomes an errno of a call that is never made.
"""

from __future__ import annotations

import json
import struct
import subprocess
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Final, NamedTuple

ROOT: Final = Path(__file__).resolve().parents[2]
KILL, ALLOW, ERRNO = 0x8000_0000, 0x7FFF_0000, 0x0005_0000
AUDIT: Final = {"x86_64": 0xC000_003E, "aarch64": 0xC000_00B7}
X32: Final = 0x4000_0000
LD_ABS, LD_LEN, LD_IMM, LD_MEM, LDX_IMM, LDX_LEN, LDX_MEM, ST, STX = (
    0x20,
    0x80,
    0x00,
    0x60,
    0x01,
    0x81,
    0x61,
    0x02,
    0x03,
)
JA, RET_K, RET_A, TAX, TXA, NEG = 0x05, 0x06, 0x16, 0x07, 0x87, 0x84
JUMPS: Final = {0x15: "==", 0x1D: "==x", 0x25: ">", 0x2D: ">x", 0x35: ">=", 0x3D: ">=x", 0x45: "&", 0x4D: "&x"}
ALU: Final = {0x04: "+", 0x14: "-", 0x24: "*", 0x34: "/", 0x44: "|", 0x54: "&", 0x64: "<<", 0x74: ">>", 0xA4: "^"}
WORD: Final = 0xFFFF_FFFF
DATA_BYTES: Final = 64  # struct seccomp_data: int nr, u32 arch, u64 instruction pointer, u64 args[6]
INSTRUCTIONS_MAX: Final = 4096
MEMORY_WORDS: Final = 16


class Op(NamedTuple):
    """struct sock_filter."""

    code: int
    yes: int
    no: int
    k: int


class Verdict(NamedTuple):
    """value: as the kernel takes it.  read: offsets in struct seccomp_data that it depends on."""

    value: int
    read: frozenset[int]


@cache
def ops(program: bytes) -> tuple[Op, ...]:
    return tuple(Op(*struct.unpack_from("<HBBI", program, at)) for at in range(0, len(program), 8))


def packed(code: Sequence[Op]) -> bytes:
    return b"".join(struct.pack("<HBBI", *op) for op in code)


def check(program: bytes) -> None:
    """AssertionError for a program that the kernel would not load: then every path ends in a RET, forwards only."""
    assert len(program) % 8 == 0
    code = ops(program)
    assert 0 < len(code) <= INSTRUCTIONS_MAX
    for at, op in enumerate(code):
        left = len(code) - at - 1
        if op.code in JUMPS:
            assert max(op.yes, op.no) < left, f"{at}: jump out of the program"
        elif op.code == JA:
            assert op.k < left, f"{at}: jump out of the program"
        elif op.code == LD_ABS:
            assert op.k % 4 == 0 and op.k < DATA_BYTES, f"{at}: load outside struct seccomp_data"
        elif op.code in (LD_MEM, LDX_MEM, ST, STX):
            assert op.k < MEMORY_WORDS, f"{at}: no such word of memory"
        elif op.code == 0x34:
            assert op.k, f"{at}: division by zero"
        else:
            known = {LD_LEN, LD_IMM, LDX_IMM, LDX_LEN, RET_K, RET_A, TAX, TXA, NEG, *ALU}
            assert op.code in known or op.code ^ 0x08 in ALU, f"{at}: no instruction {op.code:#x}"
    assert code[-1].code in (RET_K, RET_A), "the last instruction returns"


def data_of(arch: int, number: int, args: Sequence[int] = (0,) * 6, pointer: int = 0) -> bytes:
    """struct seccomp_data, little-endian.  number: any 32 bits."""
    return struct.pack("<IIQ6Q", number & WORD, arch, pointer, *(arg & (1 << 64) - 1 for arg in args))


def run(program: bytes, data: bytes) -> Verdict:
    """Interpret a checked program over one struct seccomp_data."""
    code, memory = ops(program), [0] * MEMORY_WORDS
    a = x = at = 0
    read: set[int] = set()
    while True:
        op = code[at]
        at += 1
        if op.code in JUMPS:
            kind = JUMPS[op.code]
            other = x if kind.endswith("x") else op.k
            kind = kind.removesuffix("x")
            taken = {"==": a == other, ">": a > other, ">=": a >= other, "&": bool(a & other)}[kind]
            at += op.yes if taken else op.no
        elif op.code in ALU or op.code ^ 0x08 in ALU:
            by_x = op.code & 0x08
            a = compute(ALU[op.code ^ by_x], a, x if by_x else op.k)
        elif op.code == LD_ABS:
            (a,) = struct.unpack_from("<I", data, op.k)
            read.add(op.k)
        elif op.code in (RET_K, RET_A):
            return Verdict(op.k if op.code == RET_K else a, frozenset(read))
        else:
            match op.code:
                case 0x05:
                    at += op.k
                case 0x00:
                    a = op.k
                case 0x01:
                    x = op.k
                case 0x80:
                    a = DATA_BYTES
                case 0x81:
                    x = DATA_BYTES
                case 0x60:
                    a = memory[op.k]
                case 0x61:
                    x = memory[op.k]
                case 0x02:
                    memory[op.k] = a
                case 0x03:
                    memory[op.k] = x
                case 0x07:
                    x = a
                case 0x87:
                    a = x
                case 0x84:
                    a = -a & WORD
                case _:
                    raise AssertionError(f"no instruction {op.code:#x}")


def compute(sign: str, a: int, b: int) -> int:
    match sign:
        case "+":
            return a + b & WORD
        case "-":
            return a - b & WORD
        case "*":
            return a * b & WORD
        case "/":
            return a // b if b else 0
        case "|":
            return a | b
        case "&":
            return a & b
        case "^":
            return a ^ b
        case "<<":
            return a << b & WORD if b < 32 else 0
        case _:
            return a >> b if b < 32 else 0


# --- the kernel ---------------------------------------------------------------------------------------------------

MAGIC: Final = 0x5EC0_FFEE
"""The sixth argument of a call that is asked about: every other call of the child is let pass."""
SAYS_ALLOW, SAYS_KILL = 2000, 2001  # errnos that no rule answers

ASKING = """
import ctypes, json, os, sys
from edgeswarm.jail import kernel
program = bytes.fromhex(sys.stdin.readline())
calls = json.loads(sys.stdin.readline())
libc = ctypes.CDLL(None, use_errno=True)
syscall = libc.syscall
syscall.restype = ctypes.c_long
word = ctypes.c_ulong
found = []
kernel.set_no_new_privs()
kernel.seccomp_load(program)
for number, args in calls:
    ctypes.set_errno(0)
    assert syscall(word(number), *(word(a) for a in args), word(%d)) == -1
    found.append(ctypes.get_errno())
print(json.dumps(found))
"""


def asked_of_kernel(program: bytes, arch: str) -> bytes:
    """The program with errnos for verdicts, asked about marked calls only.  arch: whose numbering it is made for.

    For a foreign architecture its one constant is exchanged for this machine's: all other bytes are as committed.
    """
    answers = {ALLOW: ERRNO | SAYS_ALLOW, KILL: ERRNO | SAYS_KILL}
    code = [Op(*op[:3], answers.get(op.k, op.k)) if op.code == RET_K else op for op in ops(program)]
    if arch != "x86_64":
        assert [op.k for op in code].count(AUDIT[arch]) == 1
        code = [Op(*op[:3], AUDIT["x86_64"]) if op.k == AUDIT[arch] else op for op in code]
    return packed([Op(LD_ABS, 0, 0, 56), Op(0x15, 1, 0, MAGIC), Op(RET_K, 0, 0, ALLOW), *code])


def ask_kernel(program: bytes, arch: str, calls: Sequence[tuple[int, Sequence[int]]]) -> list[int]:
    """What this kernel answers to each (number, five arguments): a verdict as `run` tells it."""
    code, found = ask_kernel_once(asked_of_kernel(program, arch), calls)
    assert code == 0
    return found


def ask_kernel_once(asked: bytes, calls: Sequence[tuple[int, Sequence[int]]]) -> tuple[int, list[int]]:
    """Exit code of the child that asks, and the verdicts; none where it did not live to tell."""
    done = subprocess.run(
        [sys.executable, "-c", ASKING % MAGIC],
        input=asked.hex() + "\n" + json.dumps(calls) + "\n",
        cwd=ROOT, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode <= 0, done.stderr
    back = {SAYS_ALLOW: ALLOW, SAYS_KILL: KILL}
    return done.returncode, [back.get(number, ERRNO | number) for number in json.loads(done.stdout or "[]")]
