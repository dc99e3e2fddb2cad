"""Compiles sandbox/policies/*.toml into the raw seccomp filters of sandbox/bpf/; run by `make seccomp`.

A filter is a straight list of comparisons: wrong architecture, x32 number, then one test for each system call of the
stage, then the end of the process.  It is assembled here, so that the bytes depend on nothing but the policy; only the
numbers come from libseccomp (pyseccomp).  A name without a number on an architecture is an error, never a gap: such a
rule says `arch = [...]` or, for a call newer than libseccomp, `number = N`.
Beside each filter lies its readable form, and `manifest.json` holds every SHA-256.

Source: Linux Documentation/userspace-api/seccomp_filter.rst, include/uapi/linux/{seccomp,bpf_common,audit}.h.
"""

from __future__ import annotations

import argparse
import errno
import hashlib
import json
import struct
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from edgeswarm.drivers.jail_policy import (
    ARCHES,
    ArchName,
    PolicyFile,
    Stage,
    filter_name,
    read_policy_file,
    source_digest,
)

HERE = Path(__file__).resolve().parent

AUDIT_ARCH = {"x86_64": 0xC000_003E, "aarch64": 0xC000_00B7}
X32_BIT = 0x4000_0000

KILL_PROCESS = 0x8000_0000
ERRNO = 0x0005_0000
ALLOW = 0x7FFF_0000

LOAD, JUMP_EQUAL, JUMP_GREATER_EQUAL, JUMP_SET, RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
NUMBER_AT, ARCH_AT, ARGUMENT_2_AT = 0, 4, 32  # in struct seccomp_data; the low half of args[2] on little-endian
PROT_EXEC = 4

Resolve = Callable[[str, str], int]
"""(architecture, name) -> number, negative when there is none."""


class BuildError(Exception):
    """A policy cannot be compiled for an architecture."""


@dataclass(frozen=True, slots=True)
class Rule:
    """One system call: its number, what is answered, and whether PROT_EXEC in the third argument is refused."""

    name: str
    number: int
    answer: int
    without_exec: bool = False


def rules_of(policy: str, stage: Stage, arch: ArchName, resolve: Resolve) -> Iterator[Rule]:
    """The rules of one stage on one architecture, in the order of the file.  Raises BuildError for a name without
    a number, so that no rule vanishes."""

    def number_of(name: str, arches: tuple[ArchName, ...], given: int | None) -> int:
        known = resolve(arch, name)
        if known < 0 and given is None:
            raise BuildError(
                f"policy {policy}: {name} has no number on {arch}; say arch = [{', '.join(set(arches) - {arch})}]"
            )
        if known >= 0 and given not in (None, known):
            raise BuildError(f"policy {policy}: {name} is {known} on {arch}, not {given}")
        return known if known >= 0 or given is None else given

    for table, without_exec in ((stage.allow, False), (stage.allow_without_exec, True)):
        for name, allowed in table.items():
            if arch in allowed.arch:
                yield Rule(name, number_of(name, allowed.arch, allowed.number), ALLOW, without_exec)
    for name, refused in stage.refuse.items():
        if arch in refused.arch:
            code: int = getattr(errno, refused.errno)
            yield Rule(name, number_of(name, refused.arch, None), ERRNO | code)


def assemble(rules: list[Rule], arch: ArchName) -> bytes:
    """The BPF program: every test is followed by its answer, so no jump is longer than four instructions."""
    code: list[tuple[int, int, int, int]] = [
        (LOAD, 0, 0, ARCH_AT),
        (JUMP_EQUAL, 1, 0, AUDIT_ARCH[arch]),
        (RETURN, 0, 0, KILL_PROCESS),
        (LOAD, 0, 0, NUMBER_AT),
    ]
    if arch == "x86_64":
        code += [(JUMP_GREATER_EQUAL, 0, 1, X32_BIT), (RETURN, 0, 0, KILL_PROCESS)]
    for rule in rules:
        if rule.without_exec:
            code += [
                (JUMP_EQUAL, 0, 4, rule.number),
                (LOAD, 0, 0, ARGUMENT_2_AT),
                (JUMP_SET, 0, 1, PROT_EXEC),
                (RETURN, 0, 0, ERRNO | errno.EACCES),
                (RETURN, 0, 0, rule.answer),
            ]
        else:
            code += [(JUMP_EQUAL, 0, 1, rule.number), (RETURN, 0, 0, rule.answer)]
    code.append((RETURN, 0, 0, KILL_PROCESS))
    return b"".join(struct.pack("<HBBI", *instruction) for instruction in code)


def describe(policy: PolicyFile, stage_number: int, arch: ArchName, rules: list[Rule]) -> str:
    """The readable form that lies beside a filter."""
    lines = [
        f"# {policy.name}, stage {stage_number}, {arch}: made by sandbox/build_filters.py, do not edit",
        f"if arch != {AUDIT_ARCH[arch]:#010x}: KILL_PROCESS",
    ]
    if arch == "x86_64":
        lines.append(f"if number >= {X32_BIT:#010x}: KILL_PROCESS")
    for rule in rules:
        if rule.answer == ALLOW:
            answer = "ALLOW"
        else:
            answer = f"ERRNO({errno.errorcode[rule.answer & 0xFFFF]})"
        if rule.without_exec:
            answer = f"ERRNO(EACCES) if argument 2 has PROT_EXEC, else {answer}"
        lines.append(f"{rule.name} ({rule.number}): {answer}")
    lines.append("everything else: KILL_PROCESS")
    return "\n".join(lines) + "\n"


def build(folder: Path, resolve: Resolve) -> dict[str, bytes]:
    """Every file of bpf/ for the policies in `folder`/policies: name -> content.  Raises BuildError, ConfigError."""
    files: dict[str, bytes] = {}
    manifest = {}
    for path in sorted((folder / "policies").glob("*.toml")):
        policy = read_policy_file(path)
        hashes = {}
        for stage_number, stage in ((1, policy.stage_1), (2, policy.stage_2)):
            for arch in ARCHES:
                rules = list(rules_of(policy.name, stage, arch, resolve))
                program = assemble(rules, arch)
                name = filter_name(policy.name, stage_number, arch)
                files[name] = program
                files[name.removesuffix(".bpf") + ".txt"] = describe(policy, stage_number, arch, rules).encode("ascii")
                hashes[name] = hashlib.sha256(program).hexdigest()
        manifest[policy.name] = {"source": source_digest(path), "filters": hashes}
    files["manifest.json"] = (json.dumps(manifest, indent=2, sort_keys=True) + "\n").encode("ascii")
    return files


def resolve_by_libseccomp(arch: str, name: str) -> int:
    """Raises ImportError or RuntimeError where pyseccomp or libseccomp is missing."""
    import pyseccomp

    token = {"x86_64": pyseccomp.Arch.X86_64, "aarch64": pyseccomp.Arch.AARCH64}[arch]
    number: int = pyseccomp.resolve_syscall(token, name)
    return number


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--folder", type=Path, default=HERE, help="folder with policies/; bpf/ is written beside it")
    parser.add_argument("--check", action="store_true", help="write nothing; fail when something would change")
    chosen = parser.parse_args()
    bpf = chosen.folder / "bpf"
    files = build(chosen.folder, resolve_by_libseccomp)
    stale = {path.name for path in bpf.glob("*") if path.name not in files}
    changed = {n for n, content in files.items() if not (bpf / n).is_file() or (bpf / n).read_bytes() != content}
    if not chosen.check:
        bpf.mkdir(exist_ok=True)
        for name in sorted(changed):
            (bpf / name).write_bytes(files[name])
        for name in sorted(stale):
            (bpf / name).unlink()
    sys.stdout.write(f"{len(files)} files, {len(changed)} changed, {len(stale)} stale\n")
    return 1 if chosen.check and (changed or stale) else 0


if __name__ == "__main__":
    sys.exit(main())
