"""What the kernel would answer to a system call under a seccomp filter: classic BPF, as far as our filters use it."""

from __future__ import annotations

import struct

KILL, ALLOW, ERRNO = 0x8000_0000, 0x7FFF_0000, 0x0005_0000
AUDIT = {"x86_64": 0xC000_003E, "aarch64": 0xC000_00B7}


def run_filter(program: bytes, *, arch: int, number: int, arguments: tuple[int, ...] = (0,) * 6) -> int:
    """What the kernel would answer: classic BPF, as far as filters use it, interpreted over struct seccomp_data."""
    data = struct.pack("<iIQ6Q", number if number < 1 << 31 else number - (1 << 32), arch, 0, *arguments)
    code = [struct.unpack_from("<HBBI", program, at) for at in range(0, len(program), 8)]
    at = accumulator = 0
    while True:
        operation, yes, no, value = code[at]
        at += 1
        match operation:
            case 0x20:
                (accumulator,) = struct.unpack_from("<I", data, value)
            case 0x15:
                at += yes if accumulator == value else no
            case 0x35:
                at += yes if accumulator >= value else no
            case 0x45:
                at += yes if accumulator & value else no
            case 0x06:
                return int(value)
            case _:
                raise AssertionError(f"unexpected instruction {operation:#x}")
