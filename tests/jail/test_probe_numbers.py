"""The probes' system calls by number: the same call on both architectures, and what aarch64's filter says to each.

aarch64 was not at hand: its numbers are compared with libseccomp's names, and its committed filter is interpreted.
"""

from __future__ import annotations

import ctypes
import ctypes.util

import jail_kernels as k
import pytest
from bpf_run import ALLOW, AUDIT, run_filter

from edgeswarm.jail import probes

SINGLE = {name: (*probe.numbers, probe.words) for name, probe in probes.load_all().items() if probe.numbers}
NO_CALL = {"x32_getpid", "x32_execve", "number_beyond_the_table", "number_minus_one"}
NEWER_THAN_LIBSECCOMP = {"list_mounts", "security_attributes"}
MEMORY = {
    # allowed, but for PROT_EXEC: what stops these is sealing, MDWE and limits
    *("make_code_writable", "unmap_code", "map_over_code", "discard_code", "map_at_address_0"),
    *("make_kernel_code_writable", "unmap_kernel_code"),
}


def names() -> ctypes._NamedFuncPointer:
    path = ctypes.util.find_library("seccomp")
    if path is None:
        pytest.skip("libseccomp is missing")
    resolve = ctypes.CDLL(path).seccomp_syscall_resolve_num_arch
    resolve.restype, resolve.argtypes = ctypes.c_char_p, (ctypes.c_uint32, ctypes.c_int)
    return resolve


def test_both_numbers_of_a_probe_are_the_same_call() -> None:
    resolve = names()
    assert len(SINGLE) > 200
    for name, (x86, arm, _) in SINGLE.items():
        if name in NO_CALL:
            continue
        known = resolve(AUDIT["x86_64"], x86)
        assert known or name in NEWER_THAN_LIBSECCOMP, name
        assert arm == -1 or resolve(AUDIT["aarch64"], arm) == known, name


def answer(program: bytes, number: int, words: tuple[int, ...]) -> int:
    arguments = tuple(word & (1 << 64) - 1 for word in (*words, *[0] * 6)[:6])
    return run_filter(program, arch=AUDIT["aarch64"], number=number, arguments=arguments)


@pytest.mark.parametrize("stage", [1, 2])
def test_the_filter_of_aarch64_refuses_every_probe_of_one_call(stage: int) -> None:
    """Stage 1 allows more: what loading takes."""
    program = (k.SANDBOX / "bpf" / f"strict-{stage}-aarch64.bpf").read_bytes()
    let = {name for name, (_, arm, words) in SINGLE.items() if arm >= 0 and answer(program, arm, words) == ALLOW}
    if stage == 2:
        assert let == MEMORY & SINGLE.keys() | ({"wait_for_more_descriptors"} & let)
    else:
        assert MEMORY & SINGLE.keys() <= let
        assert not {"open_passwd", "socket_inet_stream", "execute", "trace_sibling", "new_namespace_user"} & let
